"""Training behind repaired Aug-Convs: `python -m benchmarks.repairs`.

Trains a VGG behind each repaired variant (attacks.repairs) of the Aug-Conv in --data_dir, all from
the same seed, on its delivery. Writes repairs_accuracy.json to --results_dir, or results/.
"""

import tempfile
from pathlib import Path

from torch import nn

from attacks.repairs import REPAIRS, repaired
from models.first_layer import BehindFirstLayer
from models.vgg import GROUPS
from parameter import Parameters
from program.artifacts import write_alone
from program.cli import UserError, run_step
from program.processes import compute_dtype, processes
from program.provenance import provenance, to_json
from utils.delivery import Delivery, read
from utils.runs import Run
from utils.training import new_network, through_frozen_layers, train


def main(p: Parameters):
    delivery, table = read(Delivery, Path(p.data_dir) / "delivery"), []
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
