"""Repairs of Aug-Conv, which `attack.py --score --repairs` attacks; and training behind them.

`python -m attacks.repairs` trains a VGG behind each repaired variant of the Aug-Conv in --data_dir,
all from the same seed, on its delivery. Writes repairs_accuracy.json to --results_dir, or results/.
"""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from models.aug_conv import AugConv
from models.first_layer import BehindFirstLayer
from models.vgg import GROUPS
from parameter import Parameters
from program.artifacts import write_alone
from program.cli import UserError, run_step
from program.provenance import provenance, to_json
from utils.delivery import Delivery, read_delivery
from utils.distributed import compute_dtype, processes
from utils.runs import Run
from utils.training import new_network, through_frozen_layers, train

# The repairs that are tried, with their strengths.
REPAIRS = (("signs", 0.0), ("scales", 0.5), ("mixing", 1.0), ("local_mixing", 1.0),
           *(("channels", kept) for kept in (24.0, 16.0, 8.0)),
           *(("noise", size) for size in (1e-3, 1e-2, 0.1, 1.0)))


def repair(weight: Tensor, out_shape: tuple[int, int, int], kind: str, strength: float,
           generator: torch.Generator) -> Tensor:
    """Aug-Conv's weight (αm², βn²) float32 under a repair that was proposed or comes to mind.

    `none`: itself. `signs`: random signs of channels. `scales`: also factors, log-normal with
    deviation `strength`. `mixing`: one random β×β matrix, orthogonal at strength 0 and plain normal
    at 1, mixes the channels at all positions; `local_mixing`: another at each. `channels`: only the
    first `strength` are kept, (αm², strength·n²). `noise`: normal, `strength` times the weight's
    rms. Raises ValueError for any other kind.
    """
    beta, positions = out_shape[0], out_shape[1] * out_shape[2]
    cube = weight.view(len(weight), beta, positions)
    if kind == "none":
        return weight
    if kind in ("signs", "scales"):             # the former have strength 0
        sign, size = torch.randn(2, beta, generator=generator)
        return (cube * (sign.sign() * (strength * size).exp())[:, None]).flatten(1)
    if kind in ("mixing", "local_mixing"):
        count = positions if kind == "local_mixing" else 1
        normal = torch.randn(count, beta, beta, generator=generator)
        mixing = (1 - strength) * torch.linalg.qr(normal)[0] + strength * normal / beta ** 0.5
        mixed = [torch.einsum("lbi,ibc->lci", rows, mixing.expand(positions, -1, -1))
                 if count > 1 else mixing[0].T @ rows for rows in cube.split(256)]
        return torch.cat(mixed).flatten(1)
    if kind == "channels":
        return cube[:, :int(strength)].flatten(1)
    if kind == "noise":
        rms = weight.norm() / weight.numel() ** 0.5
        return weight + strength * rms * torch.randn(weight.shape, generator=generator)
    raise ValueError(f"no repair is named {kind}")


def repaired(aug_conv: AugConv, kind: str, strength: float) -> AugConv:
    """A dense Aug-Conv, without bias, under a repair that is always the same."""
    weight, (_, *size) = aug_conv.weight, aug_conv.out_shape
    weight = repair(weight, aug_conv.out_shape, kind, strength, torch.Generator().manual_seed(1))
    return AugConv(weight, (weight.shape[1] // (size[0] * size[1]), *size))


def main(p: Parameters):
    delivery, table = read_delivery(Path(p.data_dir) / "delivery"), []
    if delivery.geometry.tile or p.model not in GROUPS:
        raise UserError("repairs are tried on the paper's dense Aug-Conv, without --tile, and with "
                        f"--model {', '.join(GROUPS)}")
    with processes(p) as device:
        for kind, strength in (("none", 0.0), *REPAIRS):
            curve = trained(kind, strength, delivery, p, device)
            table.append({"repair": kind, "strength": strength,
                          "accuracy": curve[-1]["test_accuracy"], "curve": curve})
            print(f"{kind} {strength:g}: {curve[-1]['test_accuracy']:.2%}", flush=True)
    write_alone(Path(p.results_dir or "results") / "repairs_accuracy.json", to_json(
        provenance(p) | {"data": delivery.about(), "table": table}))


def trained(kind: str, strength: float, delivery: Delivery, p: Parameters, device) -> list[dict]:
    """The curve of a network behind a repaired Aug-Conv."""
    layer = repaired(delivery.aug_conv(), kind, strength)
    network, _ = new_network(p, len(delivery.classes), delivery.plain_shape)
    behind = BehindFirstLayer(network, delivery.plain_shape)
    name, second = next((name, module) for name, module in behind.named_modules()
                        if isinstance(module, nn.Conv2d))
    if layer.out_shape[0] != second.in_channels:
        behind.set_submodule(name, nn.Conv2d(layer.out_shape[0], second.out_channels, 3, padding=1))
    data = through_frozen_layers([(layer, delivery.data())], p.feature_cache,
                                 compute_dtype(p, device), device)
    with tempfile.TemporaryDirectory() as folder:
        return train(behind, data, p, Run(Path(folder), "with_ac", {}), p.morphed_weight_decay,
                     device)


if __name__ == "__main__":
    run_step(main, __doc__)
