"""Step 5, the control: trains the same network on morphed images without Aug-Conv.

Reads data/delivery/ and nothing else of the provider's. Writes data/developer/no_ac.*, or
no_ac_standardised.* with --standardise.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import utils.step
from mole import first_layer
from mole.morphing import fitted_padding, padded_shape
from utils.delivery import Delivery, read, standardiser
from utils.devices import processes, say
from utils.records import Run, comparison, finish, identity, is_finished
from utils.training import new_network, to_device, train


def main(p):
    folder, delivery = Path(p.data_dir) / "developer", read(Delivery, Path(p.data_dir) / "delivery")
    run = Run(folder, "no_ac_standardised" if p.standardise else "no_ac",
              identity(p, "train_no_ac.py", delivery=[delivery.id]))
    with processes(p) as device:
        say(delivery.described())
        if not is_finished(run, p):
            given, padding = delivery.data(), delivery.geometry.image_padding
            change = standardiser(given.train, delivery.scale) if p.standardise else (lambda x: x)
            data = given._replace(prepare=lambda x: delivery.geometry.placed(
                change(given.prepare(x))))
            shape = padded_shape(data.prepare(data.train[:1]).shape[1:], -padding)
            network, model = new_network(p, len(delivery.classes), shape)
            layer = network.get_submodule(first_layer.find(network, shape))
            layer.padding = fitted_padding(layer.padding, padding)
            curve = train(network, to_device(data, device), p, run, p.morphed_weight_decay, device)
            finish(run, network, model, curve, p, device, delivery.about())
        say(*comparison(run), sep="\n")


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
