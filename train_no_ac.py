"""Step 5, the control: trains the same network on morphed images without Aug-Conv.

Reads data/delivery/, or that of --delivery, and nothing else of the provider's. Writes
data/developer/no_ac.*, or no_ac_standardised.* with --standardise.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import utils.step  # isort: skip                         # first: see there
from torch import Tensor, nn

from models.build import digest_of_code
from mole.first_layer import SplitNetwork, describe
from mole.morphing import padded_shape
from utils.delivery import Delivery, as_morphed, read_one_delivery, standardiser
from utils.devices import joined_processes, say
from utils.errors import UserError, user_errors
from utils.examples import Data, PreparedImages, Source
from utils.networks import Model, Trained, count_trained, new_network, sample_logits
from utils.records import RUNS, Run, delivered_data, say_comparison, training_settings
from utils.runs import is_finished, save_result
from utils.training import train


def main(p):
    if p.augment != "none":
        raise UserError("--augment needs Aug-Conv: a shift or flip of a morphed image is no shift "
                        "or flip of the image; choose --augment none here")
    folder = Path(p.data_dir) / "developer"
    delivery = read_one_delivery(p, "the control is trained on each on its own")
    with joined_processes(p) as context:
        say(delivery.describe())
        model = Model(p.model, len(delivery.classes), image_shape(delivery), p.dropout)
        network = new_network(p, model, delivery.classes)
        settings = training_settings(p, context, p.morphed_weight_decay, p.standardise)
        run = Run(folder, "no_ac_standardised" if p.standardise else "no_ac", settings,
                  delivered_data([delivery]), sample_logits(network, model),
                  network_code=digest_of_code(p.model))
        if not is_finished(run, p):
            train_on_morphed(network, model, delivery, p, run, context)
        say_comparison(folder, list(RUNS), [delivery.id])


def image_shape(delivery: Delivery) -> tuple[int, int, int]:
    """(α, m, m) of the images that the network is built for.

    T has image_padding zeros on each side morphed in. The network is built for the smaller image,
    and its first layer pads by that much less (pad_less), so that feature maps are as large as with
    Aug-Conv. Tiles may reach beyond the image.
    """
    g = delivery.geometry
    side = g.shape[-1]
    if g.tile:
        side = g.morphed_shape[-1] * g.tile
    return padded_shape((g.shape[0], side, side), -g.image_padding)


def train_on_morphed(network, model: Model, delivery: Delivery, p, run: Run, context):
    """Trains the whole network on T, reshaped to images, and saves it."""
    train_values, train_labels = delivery.split("train")
    test_values, test_labels = delivery.split("test")
    standardise = standardiser(train_values, delivery.scale) if p.standardise else None

    def prepare(values: Tensor) -> Tensor:
        morphed = as_morphed(values, delivery.scale)
        if standardise is not None:
            morphed = standardise(morphed)
        return delivery.geometry.as_images(morphed)

    data = Data(PreparedImages(Source(train_values, prepare), train_labels, context),
                PreparedImages(Source(test_values, prepare), test_labels, context))
    split = SplitNetwork(network, model.shape)
    with user_errors():
        pad_less(split.first_layer, delivery.geometry.image_padding)
    curve = train(split, data, p, run, context)
    save_result(run, p, curve, Trained(split.whole_state(), model), count_trained(split))


def pad_less(layer: nn.Conv2d, image_padding: int):
    """Reduces a layer's padding by the zeros that the images bring along.

    Raises ValueError where it pads less than that, or one side more than the other.
    """
    if image_padding:
        top, bottom, left, right = describe(layer).with_less_padding(image_padding).padding
        if (top, left) != (bottom, right):
            raise ValueError("the first layer pads one side more than the other, which does not "
                             "work with the delivery's image_padding: ask the provider for one "
                             "without padding")
        layer.padding = top, left


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
