"""Whether training survives the repairs of Aug-Conv that `attack.py --repairs` attacks.

Trains a network behind each repaired variant of the Aug-Conv in --data_dir, all from the same seed,
on the images delivered there. Writes repairs_accuracy.json to --results_dir (results/ if none).
"""

import math
import tempfile
from pathlib import Path

import torch
from torch import nn

from models.aug_conv import AugConv
from models.vgg import VGG
from parameter import Parameters
from utils import adversary, attacks
from utils.artifacts import write_alone
from utils.delivery import Delivery, read_delivery
from utils.program import run_step
from utils.records import circumstances, to_json
from utils.runs import Run
from utils.training import compute_dtype, processes, seed_everything, through_aug_conv, train


def main(p: Parameters):
    delivery, table = read_delivery(Path(p.data_dir) / "delivery"), []
    for kind, strength in (("none", 0.0), *adversary.REPAIRS):
        curve = trained(kind, strength, delivery, p)
        table.append({"repair": kind, "strength": strength,
                      "accuracy": curve[-1]["test_accuracy"], "curve": curve})
        print(f"{kind} {strength:g}: {curve[-1]['test_accuracy']:.2%}", flush=True)
    write_alone(Path(p.results_dir or "results") / "repairs_accuracy.json", to_json(
        circumstances(p) | {"data": delivery.about(), "table": table}))


def trained(kind: str, strength: float, delivery: Delivery, p: Parameters) -> list[dict]:
    """The curve of a network behind a repaired Aug-Conv."""
    weight, out_shape, _ = delivery.aug_conv()
    if kind != "none":
        weight = attacks.repair(weight, out_shape, kind, strength,
                                torch.Generator().manual_seed(1))
    channels = weight.shape[1] // math.prod(out_shape[1:])
    seed_everything(p.seed)
    behind = VGG(p.model, len(delivery.classes), side=out_shape[1], dropout=p.dropout).behind
    first = next(i for i, module in enumerate(behind) if isinstance(module, nn.Conv2d))
    if channels != behind[first].in_channels:
        behind[first] = nn.Conv2d(channels, behind[first].out_channels, 3, padding=1)
    with processes(p) as device, tempfile.TemporaryDirectory() as folder:
        layer = AugConv(weight, (channels, *out_shape[1:])).to(device)
        data = through_aug_conv(layer, delivery.data(), p.feature_cache, compute_dtype(p, device),
                                device)
        return train(behind, data, p, Run(Path(folder), "with_ac", {}), p.morphed_weight_decay,
                     device)


if __name__ == "__main__":
    run_step(main, __doc__)
