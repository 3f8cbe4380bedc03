"""Step 5, the developer: trains a network behind Aug-Conv on morphed images.

Reads data/delivery/ and nothing else of the provider's. With several --delivery, one network is
trained on the images of several providers, each behind its own Aug-Conv. Writes
data/developer/with_ac.*
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import utils.step  # isort: skip                         # first: see there
from torch import Tensor, nn

from models.build import digest_of_code
from mole.first_layer import BehindFirstLayer, Convolution, describe, find_first_layer
from mole.morphing import size_in_words
from utils.delivery import Delivery, as_morphed, map_labels, read_deliveries
from utils.devices import Context, joined_processes, say, warn_once
from utils.errors import UserError
from utils.examples import Data, Features, FrozenLayer, Source, keep_features
from utils.first_layers import read_first_layer
from utils.networks import (
    Model,
    Trained,
    count_trained,
    new_network,
    sample_logits,
    warn_of_other_features,
)
from utils.records import (
    Run,
    delivered_data,
    differences_from_plain,
    read_record,
    say_comparison,
    training_settings,
    value_of,
)
from utils.runs import is_finished, save_result
from utils.training import augment_features, say_accuracies, train


def main(p):
    folder = Path(p.data_dir) / "developer"
    folders = [Path(name) for name in p.delivery] or [Path(p.data_dir) / "delivery"]
    deliveries = read_deliveries(folders, folder / "first_layer.pt")
    first = deliveries[0]
    with joined_processes(p) as context:
        say(*(d.describe() for d in deliveries), sep="\n")
        model = Model(p.model, len(first.classes), first.geometry.plain_shape, p.dropout)
        network = new_network(p, model, first.classes)
        layer = describe(network.get_submodule(find_first_layer(network, model.shape)))
        check_layer(layer, model, deliveries, p)
        warn_of_other_features(p, [d.id for d in deliveries], first.layer_fingerprint,
                               shuffled=any(d.shuffle_channels for d in deliveries))
        run = Run(folder, "with_ac", training_settings(p, context, p.morphed_weight_decay),
                  delivered_data(deliveries), sample_logits(network, model),
                  first.layer_fingerprint, digest_of_code(p.model))
        say_what_differs(run)
        if not is_finished(run, p):
            train_behind(network, layer.stride, model, deliveries, p, run, context)
        ids = [d.id for d in deliveries]
        say_comparison(folder, ["pretrained", "pretrained_frozen", "with_ac"], ids)


def check_layer(layer: Convolution, model: Model, deliveries: list[Delivery], p):
    """Raises UserError where the network's first layer does not give what Aug-Conv does."""
    expected = layer.features_shape(model.shape)
    for d in deliveries:
        if d.out_shape != expected:
            raise UserError(f"Aug-Conv gives {size_in_words(d.out_shape)} features, but the "
                            f"first layer of {p.model} gives {size_in_words(expected)}: it "
                            f"was composed with the first layer of {d.model}, see --model")
        if p.augment == "crop_flip" and not d.mirrored:
            raise UserError(f"{d.folder} has no mirrored Aug-Conv, which flips need: ask the "
                            "provider to run gen_augconv.py again, with --mirrored, or choose "
                            "--augment crop")


def say_what_differs(run: Run):
    """Names what differs from the plain network's run, before time is spent on training."""
    try:
        plain = read_record(run.folder, "pretrained")
        plain_layer = run.folder / "first_layer.pt"
        delivered = run.layer_fingerprint
        if plain_layer.exists() and read_first_layer(plain_layer).fingerprint != delivered:
            warn_once(f"the delivery was made with another first layer than {plain_layer}: has "
                      "pretrain.py run again since?")
    except UserError:
        return                                           # compare() says so at the end
    if plain is None:
        return
    for name in differences_from_plain(run.identity, plain):
        mine, its = value_of(run.identity, name), value_of(plain, name)
        if name == "init":
            mine, its = describe_start(mine), describe_start(its)
        if isinstance(mine, (int, float, str)) and not name.endswith("digest"):
            say(f"{name} is {mine!r}; the plain network had {its!r}")


def describe_start(init: str | None) -> str:
    """Where a training started; `init`: the digest of given weights."""
    return "random weights" if init is None else f"given weights ({init[:8]})"


def train_behind(network: nn.Module, stride: tuple[int, int], model: Model,
                 deliveries: list[Delivery], p, run: Run, context: Context):
    """Trains what stands behind Aug-Conv, and saves it."""
    behind = BehindFirstLayer(network, model.shape)
    data, bias = features_of(deliveries, p, context)
    curve = train(behind, data, p, run, context, augment_features(p, stride, bias))
    if len(deliveries) > 1:
        providers = [(str(d.folder), d.test_images) for d in deliveries]
        say_accuracies(behind, data.test, providers, context)
    shuffled = any(d.shuffle_channels for d in deliveries)
    trained = Trained(behind.network.state_dict(), model, tuple(d.id for d in deliveries),
                      None if shuffled else run.layer_fingerprint)
    save_result(run, p, curve, trained, count_trained(behind))


def features_of(deliveries: list[Delivery], p, context: Context) -> tuple[Data, Tensor | None]:
    """Aug-Conv's features of all deliveries, and its bias.

    Where features are kept, Aug-Conv is gone when this returns: its memory (0.8 GB at the paper's
    setting) is free while the network trains.
    """
    flips = p.augment == "crop_flip"
    parts = {"train": [], "test": []}
    labels = {"train": [], "test": []}
    for d in deliveries:
        frozen = FrozenLayer(d.aug_conv(), d.aug_conv(mirrored=True) if flips else None)
        for split in parts:
            values, own_labels = d.split(split)
            source = Source(values, partial(as_morphed, scale=d.scale))
            parts[split].append((frozen, source))
            labels[split].append(map_labels(own_labels, d.classes, deliveries[0].classes))
    # Several deliveries have one first layer and unshuffled channels (read_deliveries): one bias.
    bias = parts["train"][0][0].layer.bias
    train_part = Features(parts["train"], labels["train"], context)
    test_part = Features(parts["test"], labels["test"], context)
    return keep_features(train_part, test_part, p.feature_cache, flips, context), bias


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
