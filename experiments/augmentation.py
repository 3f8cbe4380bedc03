"""Augmentation behind Aug-Conv, measured: `python -m experiments.augmentation`.

For several cores: how exact the features of flipped and of cropped images are that the developer
makes; what the second Aug-Conv costs, in bytes, in seconds to compose it, and in seconds of an
epoch; and what both give away where the first layer is unknown, beside what one does. Takes the
data set options of pretrain.py, and --first_layer, a trained one; without it, the layer is that of
a new --model. Writes augmentation.json to --results_dir, or results/. Nothing else should run
meanwhile.
"""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

import utils.step
from attacks import adversary
from attacks.view import View, make_truth, value_range
from experiments.attack_matrix import as_public, describe_layer, load_first_layer
from images.datasets import (
    ImageSet,
    Prepared,
    dataset_name,
    image_shape,
    load_images,
    normalisation,
    require_fit,
)
from mole.aug_conv import AugConv
from mole.augmentation import shift
from mole.first_layer import BehindFirstLayer, Convolution, describe, find_first_layer
from mole.morphing import relative_error
from parameter import Parameters
from utils.artifacts import write_alone
from utils.attack_reports import UNDER_ATTACK
from utils.delivery import as_morphed, compose, is_exact_enough, morph_in_memory
from utils.devices import Context, joined_processes
from utils.errors import user_errors
from utils.examples import Examples, Features, FrozenLayer, Source, evenly_spaced
from utils.first_layers import FirstLayer, read_first_layer
from utils.keys import Key, draw_key, draw_order
from utils.networks import Model, new_network
from utils.provenance import provenance, seconds_so_far
from utils.records import to_json
from utils.training import (
    Augmentation,
    augment_features,
    make_forward,
    make_optimizer,
    split_into_batches,
    train_epoch,
)

COMPARED = 256                      # images whose features are compared
TIMED = 2000                        # images of an epoch that is timed
TURNS = 3
DTYPES = ("float32", "int8")


class CoreKind(NamedTuple):
    """A core, the side of its tiles (0: κ = 1), and whether epochs are timed behind it."""

    morph_distribution: str
    tile: int
    is_timed: bool

    @property
    def facts(self) -> dict:
        """What a row says of it."""
        return {"morph_distribution": self.morph_distribution,
                "kappa": None if self.tile else 1, "tile": self.tile}


CASES = [CoreKind("uniform", 0, True), CoreKind("orthogonal", 0, False),
         CoreKind("orthogonal", 8, True)]
# Untrained first layers with a stride, which leaves the blind attack something to find.
STRIDED, STRIDED_CASE = ("resnet18", "mobilenet_v2"), CASES[2]


class Pair(NamedTuple):
    """Aug-Conv of a first layer and of the mirrored one: same core, same order of channels."""

    key: Key
    order: Tensor
    aug_conv: AugConv
    mirrored: AugConv

    @property
    def frozen(self) -> FrozenLayer:
        return FrozenLayer(self.aug_conv, self.mirrored)


def main(p: Parameters):
    p = replace(p, precision="fp32", augment="crop_flip", schedule="halve")
    train, test = load_images(p, "train"), load_images(p, "test")
    first = read_first_layer(p.first_layer) if p.first_layer else new_first_layer(p, train)
    require_fit(first, p.first_layer, p)
    p = replace(p, model=first.model)                    # the network that the layer is of
    record = provenance(p) | {
        "model": first.model, "weights": "trained" if p.first_layer else "untrained",
        "first_layer": first.fingerprint, "images_of": dataset_name(p)}
    with user_errors(), joined_processes(p) as context:
        record |= measure(p, first, train, test, context)
    record["seconds"] = seconds_so_far()
    path = Path(p.results_dir or "results") / "augmentation.json"
    write_alone(path, to_json(record))
    print(f"{path} is written")


def new_first_layer(p: Parameters, train: ImageSet) -> FirstLayer:
    """The first layer of a network that was not trained."""
    shape = image_shape(p)
    network = new_network(p, Model(p.model, len(train.classes), shape, p.dropout))
    layer = network.get_submodule(find_first_layer(network, shape)).requires_grad_(False)
    mean, std = normalisation(p, train)
    return FirstLayer(layer, mean, std, shape[-1], p.image_fit, p.model, dataset_name(p),
                      train_images=0)


def measure(p: Parameters, first: FirstLayer, train: ImageSet, test: ImageSet,
            context: Context) -> dict:
    """All tables of the record, by name."""
    chosen = evenly_spaced(len(test.labels), COMPARED)
    images = Prepared(test.images, first.mean, first.std, 0)[chosen]
    tables = {"features": [], "composing": [], "epochs": [], "attacks": []}
    for case in CASES:
        if any(case.tile % stride for stride in first.layer.stride):
            continue                                     # no such Aug-Conv
        pair, costs = compose_pair(first.layer, first.shape, case, p)
        add_row(tables["composing"], case, costs)
        for dtype in DTYPES:
            compared = compare_features(pair, first, images, dtype, p)
            add_row(tables["features"], case, compared)
            if not compared["refused"]:
                row = attack_pair(pair, first, first.layer, train, test, dtype)
                add_row(tables["attacks"], case, {"model": first.model} | row)
        if case.is_timed:
            for row in time_epochs(pair, first, train, p, context):
                add_row(tables["epochs"], case, row)
        del pair                                         # 1.6 GB at κ = 1
    models = STRIDED if first.shape[0] == 3 else ()      # they take images in colour
    for model in models:
        layer, _ = load_first_layer(model, first.image_size, None)
        pair, _ = compose_pair(layer, first.shape, STRIDED_CASE, p)
        row = attack_pair(pair, first, layer, train, test, "float32")
        add_row(tables["attacks"], STRIDED_CASE, {"model": model} | row)
    return tables


def add_row(table: list[dict], case: CoreKind, row: dict):
    table.append(case.facts | row)
    print(table[-1], flush=True)


# -- Composing

def compose_pair(layer: nn.Conv2d, shape: tuple[int, int, int], case: CoreKind,
                 p: Parameters) -> tuple[Pair, dict]:
    """Both Aug-Convs, their bytes, and the median seconds to compose one and both."""
    key = draw_key(shape, 1, case.tile, case.morph_distribution, p.morph_seed)
    order = draw_order(layer.out_channels, p.morph_seed)
    one, both = [], []
    for _ in range(TURNS):
        aug_conv = mirrored = None                       # makes room
        began = time.perf_counter()
        aug_conv = compose(layer, key, order)
        one.append(time.perf_counter() - began)
        mirrored = compose(layer, key, order, mirrored=True)
        both.append(time.perf_counter() - began)
    costs = {"bytes": aug_conv.weight.nbytes, "bytes_of_mirrored": mirrored.weight.nbytes,
             "seconds": round(median(one), 3), "seconds_of_both": round(median(both), 3)}
    return Pair(key, order, aug_conv, mirrored), costs


# -- Features

def compare_features(pair: Pair, first: FirstLayer, images: Tensor, dtype: str,
                     p: Parameters) -> dict:
    """Relative errors of the developer's features, against the plain first layer in float64.

    `images` (N, α, m, m) are normalised. Of plain images: Aug-Conv's own error. Of flipped ones:
    everywhere. Of cropped ones, shifted as in training: off the rim, where shifted features differ
    by their nature; `rim` is its share of the entries.
    """
    plain = in_float64(first)
    augmentation = augment_features(p, first.layer.stride, pair.aug_conv.bias)
    shifts, _ = augmentation.draw(len(images), p.seed, epoch=1)
    values, scale = morph_in_memory(images, pair.key, dtype)
    morphed = as_morphed(values, scale)

    features = pair.frozen.features(morphed, None)
    own = relative_error(features, plain(images.double())[:, pair.order])

    mirrored = pair.frozen.features(morphed, torch.ones(len(images), dtype=torch.bool))
    flipped = images.double().flip(3)
    of_flips = relative_error(mirrored, plain(flipped)[:, pair.order])

    shifted = shift(features, shifts, augmentation.fill)
    cropped = shift(images.double(), torch.tensor(first.layer.stride) * shifts)
    rim = find_rim(plain, first.shape, shifts)
    expected = plain(cropped)[:, pair.order]
    of_crops = relative_error(shifted.masked_fill(rim, 0), expected.masked_fill(rim, 0))
    return {"delivery_dtype": dtype, "images": len(images), "error_of_aug_conv": own,
            "error_of_flips": of_flips, "ratio_of_flips": of_flips / own,
            "error_of_crops": of_crops, "ratio_of_crops": of_crops / own,
            "rim": float(rim.double().mean()), "refused": not is_exact_enough(own)}


def in_float64(first: FirstLayer) -> Convolution:
    plain = describe(first.layer)
    bias = None if plain.bias is None else plain.bias.double()
    return plain._replace(weight=plain.weight.double(), bias=bias)


def find_rim(layer: Convolution, shape: tuple[int, int, int], shifts: Tensor) -> Tensor:
    """Where features that are shifted by `shifts` (B, 2) are not those of shifted images.

    (B, 1, n, n) bool. Window by window, a shifted image shows no other pixels than the plain one,
    but may lack some that were cut off; and shifted features that came in from outside stand for
    windows without pixels. So the two agree where the windows see as many pixels.
    """
    counting = layer._replace(weight=torch.ones_like(layer.weight[:1, :1]), bias=None, groups=1)
    image = torch.ones(len(shifts), 1, *shape[1:], dtype=layer.weight.dtype)
    seen_in_shifted_images = counting(shift(image, torch.tensor(layer.stride) * shifts))
    return seen_in_shifted_images != shift(counting(image), shifts)


# -- Epochs

def time_epochs(pair: Pair, first: FirstLayer, train: ImageSet, p: Parameters,
                context: Context) -> list[dict]:
    """A row for features that are kept and one for those that are not: the median seconds of an
    epoch without augmentation and with crops and flips, which take turns."""
    chosen = evenly_spaced(len(train.labels), TIMED)
    images = Prepared(train.images, first.mean, first.std, 0)[chosen]
    values, scale = morph_in_memory(images, pair.key)
    source = Source(values, partial(as_morphed, scale=scale))
    batch_by_batch = Features([(pair.frozen, source)], [train.labels[chosen]], context)
    began = time.perf_counter()
    kept = batch_by_batch.kept(mirrored=True)
    seconds_to_keep = time.perf_counter() - began

    network = new_network(p, Model(p.model, len(train.classes), first.shape, p.dropout))
    epoch = Epoch(BehindFirstLayer(network, first.shape), len(chosen), p, context)
    augmentation = augment_features(p, first.layer.stride, pair.aug_conv.bias)
    epoch.time(batch_by_batch, None)                     # warms up
    seconds = {(is_kept, augment): [] for is_kept in (False, True)
               for augment in ("none", p.augment)}
    for _ in range(TURNS):
        for (is_kept, augment), found in seconds.items():
            examples = kept if is_kept else batch_by_batch
            found.append(epoch.time(examples, None if augment == "none" else augmentation))

    rows = []
    for is_kept in (False, True):
        without, augmented = seconds[is_kept, "none"], seconds[is_kept, p.augment]
        row = {"kept": is_kept, "images": len(chosen), "seconds": median(without),
               "seconds_augmented": median(augmented),
               "ratio": median(augmented) / median(without),
               "each": {"none": without, p.augment: augmented}}
        if is_kept:
            row["seconds_to_keep_both"] = seconds_to_keep
        rows.append(row)
    return rows


class Epoch:
    """Trains a network behind a first layer for one epoch at a time, and says how long it took."""

    def __init__(self, network: BehindFirstLayer, count: int, p: Parameters, context: Context):
        network.to(context.device, memory_format=torch.channels_last).train()
        steps = len(split_into_batches(torch.arange(count), p.batch_size, context.world))
        self.optimizer, self.scheduler = make_optimizer(network, p, p.morphed_weight_decay, steps)
        self.forward = make_forward(network, context)
        self.p = p
        self.context = context
        self.epochs = 0

    def time(self, examples: Examples, augmentation: Augmentation | None) -> float:
        """Seconds of one epoch."""
        self.epochs += 1
        began = time.perf_counter()
        train_epoch(self.forward, examples, self.p, self.epochs, self.optimizer, self.scheduler,
                    self.context, augmentation)
        return round(time.perf_counter() - began, 3)


# -- Attacks

def attack_pair(pair: Pair, first: FirstLayer, layer: nn.Conv2d, train: ImageSet, test: ImageSet,
                dtype: str) -> dict:
    """What the blind attack gets from Aug-Conv alone, and from both; and, to compare with, the
    attack with the first layer known from Aug-Conv alone."""
    key = pair.key
    secret = test.images[evenly_spaced(len(test.labels), UNDER_ATTACK)]
    public = train.images[evenly_spaced(len(train.labels), UNDER_ATTACK)]
    values, scale = morph_in_memory(Prepared(secret, first.mean, first.std, 0)[:], key, dtype)
    geometry = key.geometry(first.image_fit, dtype, first.mean, first.std)
    one = View(geometry, pair.aug_conv, as_morphed(values, scale), layer,
               as_public(public, geometry), *value_range(public))
    truth = make_truth(pair.order, secret, first.mean, first.std)
    with_one = adversary.recover(one, truth).report
    with_both = adversary.recover(one._replace(mirrored=pair.mirrored), truth).report
    return {"layer": describe_layer(layer), "delivery_dtype": dtype, "images": len(secret),
            "known_first_layer": with_one["known_first_layer"], "blind": with_one["blind"],
            "blind_with_mirrored": with_both["blind"]}


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
