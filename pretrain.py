"""Step 2, the developer: trains a network on plain public images.

Its first layer goes to the provider; its accuracy is what morphed training is compared with. With
--frozen_first_layer the network is trained behind that layer, which does not change: the fair
baseline for Aug-Conv, where too the first layer is fixed and trained already. Writes
data/developer/.
"""

import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import utils.step  # isort: skip                         # first: see there
from torch import Tensor, nn

from images import datasets
from models.build import digest_of_code
from mole.first_layer import BehindFirstLayer, SplitNetwork, describe, find_first_layer
from mole.morphing import size_in_words
from utils.devices import Context, joined_processes, say
from utils.errors import UserError
from utils.examples import Data, Features, FrozenLayer, PreparedImages, Source, keep_features
from utils.first_layers import FirstLayer, read_first_layer
from utils.networks import (
    Model,
    Trained,
    count_trained,
    new_network,
    sample_logits,
    warn_of_other_features,
)
from utils.owners import adopt
from utils.records import Run, plain_data, say_comparison, training_settings
from utils.runs import is_finished, save_result
from utils.training import augment_features, augment_images, train


class LabelledSource(NamedTuple):
    """Training or test images, and their labels (N) int64."""

    source: Source
    labels: Tensor


def main(p):
    frozen = None
    if p.frozen_first_layer:
        frozen = read_first_layer(p.frozen_first_layer)
        p = adopt(p, p.frozen_first_layer, **datasets.settings_of_images(p, frozen))
    with joined_processes(p) as context:
        train_set, test_set = datasets.load_sets(p).values()
        if frozen:
            mean, std = frozen.mean, frozen.std
            datasets.warn_of_another_scale(train_set.images, mean, std)
        else:
            mean, std = datasets.normalisation(p, train_set)
        model = Model(p.model, len(train_set.classes), tuple(train_set.images.shape[1:]), p.dropout)
        network = new_network(p, model, train_set.classes)
        warn_of_other_features(p, [], frozen.fingerprint if frozen else None)
        if frozen:
            check_frozen_layer(frozen, network, model, p)
        run = Run(
            folder=Path(p.data_dir) / "developer",
            name="pretrained_frozen" if frozen else "pretrained",
            settings=training_settings(p, context, p.weight_decay),
            data=plain_data(p, datasets.dataset_name(p), train_set, test_set, mean, std),
            network_sample=sample_logits(network, model),
            layer_fingerprint=frozen.fingerprint if frozen else None,
            network_code=digest_of_code(p.model))
        if not is_finished(run, p):
            prepare = partial(datasets.normalise, mean=mean, std=std)
            splits = [LabelledSource(Source(images.images, prepare), images.labels)
                      for images in (train_set, test_set)]
            if frozen:
                train_behind(frozen, network, model, splits, p, run, context)
            else:
                train_whole(network, model, splits, p, run, context)
        if not frozen:
            say(f"{run.folder}/pretrained.pt is the network; first_layer.pt goes to the provider")
        names = ["pretrained", "pretrained_frozen"] if frozen else ["pretrained"]
        say_comparison(run.folder, names, [])


def check_frozen_layer(frozen: FirstLayer, network: nn.Module, model: Model, p):
    """Raises UserError where the frozen layer cannot stand in the place of the network's own.

    The network is saved with it, and built again without it: so all but the values of weights and
    bias must be the same.
    """
    datasets.require_fit(frozen, p.frozen_first_layer, p)
    own = describe(network.get_submodule(find_first_layer(network, model.shape)))
    expected = own.features_shape(model.shape)
    given = describe(frozen.layer)
    features = given.features_shape(frozen.shape)
    if features != expected:
        raise UserError(f"{p.frozen_first_layer} gives {size_in_words(features)} features, "
                        f"but the first layer of {p.model} gives {size_in_words(expected)}: "
                        f"it is the first layer of {frozen.model}, see --model")
    if given.geometry != own.geometry:
        raise UserError(f"{p.frozen_first_layer} has another kernel, stride, padding, dilation or "
                        f"groups than the first layer of {p.model}, or only one of the two has a "
                        f"bias: it is the first layer of {frozen.model}, see --model")


def train_whole(network: nn.Module, model: Model, splits: list[LabelledSource], p, run: Run,
                context: Context):
    """Trains all of the network, and saves its first layer for the provider too."""
    data = Data(*(PreparedImages(split.source, split.labels, context) for split in splits))
    whole = SplitNetwork(network, model.shape)
    augmentation = augment_images(p, whole.first_layer.stride)
    curve = train(whole, data, p, run, context, augmentation)
    mean, std = run.data["normalisation"]
    first = FirstLayer(
        layer=whole.first_layer, mean=mean, std=std, image_size=model.shape[-1],
        image_fit=p.image_fit, model=p.model, dataset=run.data["dataset"],
        train_images=run.data["train_images"])
    trained = Trained(whole.whole_state(), model, layer_fingerprint=first.fingerprint)
    save_result(run, p, curve, trained, count_trained(whole),
                {"first_layer.pt": first.to_dict()})


def train_behind(frozen: FirstLayer, network: nn.Module, model: Model,
                 splits: list[LabelledSource], p, run: Run, context: Context):
    """Trains what stands behind a first layer that does not change."""
    behind = BehindFirstLayer(network, model.shape)
    layer = frozen.layer.to(context.device)
    flips = p.augment == "crop_flip"
    mirrored = describe(layer).mirrored(model.shape) if flips else None
    train_part, test_part = (
        Features([(FrozenLayer(layer, mirrored), split.source)], [split.labels], context)
        for split in splits)
    data = keep_features(train_part, test_part, p.feature_cache, flips, context)
    augmentation = augment_features(p, layer.stride, layer.bias)
    curve = train(behind, data, p, run, context, augmentation)
    state = {f"{behind.name}.{name}": weight for name, weight in layer.state_dict().items()}
    trained = Trained(state | behind.network.state_dict(), model,
                      layer_fingerprint=frozen.fingerprint)
    save_result(run, p, curve, trained, count_trained(behind))


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
