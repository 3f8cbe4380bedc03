"""Step 5, the developer: trains a network behind Aug-Conv on morphed images.

Reads data/delivery/ and nothing else of the provider's. With several --delivery, one network is
trained on the images of several providers, each behind its own Aug-Conv. Writes
data/developer/with_ac.*
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import utils.step
from mole import first_layer
from mole.first_layer import BehindFirstLayer
from mole.morphing import features_shape
from utils.delivery import Delivery, read_deliveries
from utils.devices import compute_dtype, processes, say
from utils.records import Run, comparison, finish, identity, is_finished
from utils.settings import UserError, warn
from utils.training import new_network, through_frozen_layers, train


def main(p):
    folder, deliveries = Path(p.data_dir) / "developer", read_deliveries(p)
    about = deliveries[0].about()
    if len(deliveries) > 1:
        about |= {key: sum(d.about()[key] for d in deliveries)
                  for key in ("train_images", "test_images")} | {"providers": len(deliveries)}
    run = Run(folder, "with_ac", identity(p, "train_with_ac.py",
                                          delivery=[d.id for d in deliveries]))
    with processes(p) as device:
        say(*(d.described() for d in deliveries), sep="\n")
        if not is_finished(run, p):
            network, model = new_network(p, len(deliveries[0].classes), deliveries[0].plain_shape)
            check_layer(network, deliveries, p)
            data = through_frozen_layers([(d.aug_conv(), d.data()) for d in deliveries],
                                         p.feature_cache, compute_dtype(p, device), device)
            behind = BehindFirstLayer(network, deliveries[0].plain_shape)
            curve = train(behind, data, p, run, p.morphed_weight_decay, device)
            shuffled = any(d.shuffle_channels for d in deliveries)
            finish(run, network, model, curve, p, device, about,
                   {"deliveries": [d.id for d in deliveries],
                    "layer": None if shuffled else deliveries[0].layer})
        say(*comparison(run, "pretrained", "pretrained_frozen", "with_ac"), sep="\n")


def check_layer(network, deliveries: list[Delivery], p):
    """Raises UserError where the network's first layer does not give what Aug-Conv does."""
    shape = deliveries[0].plain_shape
    own = features_shape(network.get_submodule(first_layer.find(network, shape)), shape)
    for d in deliveries:
        if d.out_shape != own:
            raise UserError(f"Aug-Conv gives {'x'.join(map(str, d.out_shape))} features, but the "
                            f"first layer of {p.model} {'x'.join(map(str, own))}: it was composed "
                            "with the first layer of another network, see --model")
    if p.init and any(d.shuffle_channels for d in deliveries):
        warn("--init gives layers trained on channels in their own order, but Aug-Conv's are "
             "shuffled: gen_augconv.py --shuffle_channels no keeps them")


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
