"""What experiments.speed times: each step of this program, and the reference's algorithm.

A measurement takes (size, parameters, context) and gives numbers by name: seconds, images per
second, bytes. Images are random, since how long a step takes does not depend on what they show.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.Image import Resampling
from torch import Tensor, nn
from torch.nn import functional

from experiments import reference_algorithm as reference
from experiments.in_passing import train_in_passing
from images.datasets import CIFAR, Prepared, normalise
from images.decode import FACTS, decode_all
from models.build import build
from mole import morphing
from mole.aug_conv import AugConv
from mole.first_layer import BehindFirstLayer, SplitNetwork, find_first_layer
from mole.morphing import invert_core, morph
from parameter import Parameters
from utils.artifacts import Saving
from utils.delivery import Morpher, as_morphed, as_stored, morpher_for, quantise, write_morphed
from utils.devices import Context
from utils.examples import (
    Data,
    Features,
    FrozenLayer,
    PreparedImages,
    Source,
    keep_features,
)
from utils.keys import Key
from utils.training import make_forward


@dataclass(frozen=True)
class Size:
    """How much is measured; the last of `sides` and of `kappas` is the case in the table."""

    sides: tuple = (8, 16, 32)
    kappas: tuple = (48, 12, 3, 1)
    tile: int = 8
    tiled_sides: tuple = (32, 64, 128, 224)     # of images whose Aug-Conv is composed by tiles
    matrix_kappa: int = 12
    images: int = 10_000                # that the program morphs
    one_by_one: int = 2_000             # that the reference morphs, as long for each
    delivered: int = 60_000             # images of a delivery whose bytes are counted
    model: str = "vgg16"
    batch_size: int = 64
    train_images: int = 960             # of an epoch of the program
    epochs: int = 3                     # of the program, timed after the first
    warm_up: int = 2                    # batches of the reference's loop that are not timed
    steps: int = 10                     # batches of it that are timed
    photographs: int = 64               # JPEG files
    photograph: tuple = (2048, 1536)    # pixels of each
    read_as: int = 224                  # side in pixels of the images that are made of them

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.sides[-1], self.sides[-1]

    def parameters(self, device: str) -> Parameters:
        return Parameters(model=self.model, batch_size=self.batch_size, epochs=self.epochs,
                          device=device)

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return build(self.model, 10, self.shape)

    def first_layer(self) -> nn.Conv2d:
        network = self.network()
        layer = network.get_submodule(find_first_layer(network, self.shape))
        return layer.requires_grad_(False)

    def random_images(self, count: int) -> Tensor:
        """(count, α, m, m) uint8."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (count, *self.shape), dtype=torch.uint8, generator=generator)

    def random_labels(self, count: int) -> Tensor:
        return torch.randint(0, 10, (count,), generator=torch.Generator().manual_seed(1))


FULL = Size()
CUDA = replace(FULL, train_images=9600, warm_up=20, steps=100)
QUICK = Size(sides=(4, 6, 8), tile=4, tiled_sides=(8, 16), images=200, one_by_one=50,
             delivered=100, model="vgg_small", batch_size=8, train_images=32, warm_up=1, steps=2,
             epochs=2, photographs=3, photograph=(64, 48), read_as=16)


def draw_core(shape: tuple[int, int, int], kappa: int = 1, tile: int = 0) -> Tensor:
    """A core (q, q) as the provider draws it: the paper's uniform one, or orthogonal for tiles."""
    q = morphing.core_size(shape, kappa, tile)
    distribution = "orthogonal" if tile else "uniform"
    return morphing.draw_core(q, distribution, morphing.secret_generator(0, purpose=0))


def time_action(action: Callable[[], object], device: torch.device) -> float:
    """Seconds that an action takes: of one run, or the median of as many as fill half a second."""
    seconds = []
    while sum(seconds) < 0.5:
        reference.synchronise(device)
        started = time.perf_counter()
        result = action()
        reference.synchronise(device)
        seconds.append(time.perf_counter() - started)
        del result
    return median(seconds)


def compose_aug_conv(size: Size, core: Tensor, device: torch.device, tile: int = 0) -> AugConv:
    """Aug-Conv for the network, on the device; channels in their own order."""
    layer = size.first_layer()
    return AugConv.compose(layer, invert_core(core), size.shape, tile=tile).to(device)


# -- Composing Aug-Conv

def composing(compose: Callable, size: Size, p: Parameters, context: Context) -> dict:
    """Seconds to compose Aug-Conv at each of the sides; the small ones warm the libraries up."""
    device = context.device
    layer = size.first_layer().to(device)
    order = torch.randperm(layer.out_channels).to(device)
    seconds = {}
    for m in size.sides:
        shape = (3, m, m)
        inverse = invert_core(draw_core(shape)).to(device)
        action = partial(compose, layer, inverse, shape, order)
        seconds[f"seconds_at_m_{m}"] = time_action(action, device)
    return seconds


def by_tiles(size: Size, p: Parameters, context: Context) -> dict:
    """Composing, morphing and Aug-Conv itself over the image's side, with one size of tile."""
    device = context.device
    layer = size.first_layer().to(device)
    core = draw_core((3, 1, 1), tile=size.tile)
    inverse = invert_core(core).to(device)
    core = core.double().to(device)
    found = {}
    for m in size.tiled_sides:
        images = torch.randn(8, 3, m, m, device=device)
        compose = partial(AugConv.compose, layer, inverse, (3, m, m), tile=size.tile)
        aug_conv = compose().to(device)
        morphed = morph(images, core, size.tile)
        morphing_seconds = time_action(partial(morph, images, core, size.tile), device)
        aug_conv_seconds = time_action(partial(aug_conv, morphed), device)
        found[f"composing_seconds_at_m_{m}"] = time_action(compose, device)
        found[f"morphing_seconds_at_m_{m}"] = morphing_seconds / len(images)
        found[f"aug_conv_seconds_at_m_{m}"] = aug_conv_seconds / len(images)
        found[f"aug_conv_mb_at_m_{m}"] = aug_conv.weight.nbytes / 1e6
    return found


# -- Drawing and inverting M

def matrix_reference(size: Size, p: Parameters, context: Context) -> dict:
    kappa = size.matrix_kappa
    reference.morphing_matrix(4, kappa)
    q = morphing.core_size(size.shape, kappa)
    action = partial(reference.morphing_matrix, q, kappa)
    return {"seconds": time_action(action, context.device)}


def matrix_here(size: Size, p: Parameters, context: Context) -> dict:
    """As gen_morphing_matrix.py does it: with its check, and another core where that fails."""
    q = morphing.core_size(size.shape, size.matrix_kappa)
    action = partial(morphing.draw_usable_core, q, "uniform", morphing.secret_generator())
    return {"seconds": time_action(action, context.device)}


# -- Morphing

def with_better_workers(rate: Callable[[int], float]) -> dict:
    """The reference's images per second: without worker processes, or with one on each core."""
    rates = {workers: rate(workers) for workers in (0, os.cpu_count())}
    workers = max(rates, key=rates.get)
    return {"images_per_second": rates[workers], "workers": workers}


def morphing_reference(size: Size, p: Parameters, context: Context) -> dict:
    images, labels = size.random_images(size.one_by_one), size.random_labels(size.one_by_one)
    matrix = reference.block_diagonal(draw_core(size.shape), 1)
    data = reference.ImageByImage(images, labels, matrix)

    def rate(workers: int) -> float:
        batches = reference.loader(data, size.batch_size, workers)
        return len(images) / time_action(partial(list, batches), context.device)

    return with_better_workers(rate)


def morphing_here(size: Size, p: Parameters, context: Context) -> dict:
    """As gen_augconv.py does it, into a file, by tiles and for each kappa.

    The first ones warm the libraries up.
    """
    images = Prepared(size.random_images(size.images), *CIFAR, 0)
    rates = {}
    with tempfile.TemporaryDirectory() as folder, Saving(Path(folder)) as new:
        tiles = draw_core(size.shape, tile=size.tile)
        rates["images_per_second_tiles"] = rate_of_morphing(new, images, tiles, size.tile, context)
        for kappa in size.kappas:
            core = draw_core(size.shape, kappa)
            rates[f"images_per_second_kappa_{kappa}"] = rate_of_morphing(new, images, core, 0,
                                                                         context)
    in_the_table = rates[f"images_per_second_kappa_{size.kappas[-1]}"]
    return rates | {"images_per_second": in_the_table}


def rate_of_morphing(new: Saving, images: Prepared, core: Tensor, tile: int,
                     context: Context) -> float:
    morpher = Morpher(core.double().to(context.device), tile, "float32")
    action = partial(write_morphed, new, "morphed.npy", images, morpher)
    return len(images) / time_action(action, context.device)


def delivered(size: Size, p: Parameters, context: Context) -> dict:
    """Bytes on the disk of all that is delivered, by tiles with int8, over those of the pixels."""
    images, labels = size.random_images(size.delivered), size.random_labels(size.delivered)
    core = draw_core(size.shape, tile=size.tile)
    key = Key(core=core, inverse=invert_core(core), kappa=1, tile=size.tile,
              morph_distribution="orthogonal", shape=size.shape, image_padding=0, condition=1.0)
    source = Prepared(images, *CIFAR, 0)
    with tempfile.TemporaryDirectory() as folder:
        with Saving(Path(folder)) as new:
            layer = compose_aug_conv(size, core, context.device, size.tile)
            new.save("aug_conv.pt", layer.to_dict())
            new.save("labels.npy", partial(np.save, arr=labels.numpy()))
            morpher = morpher_for(key, "int8", [source], context.device)
            write_morphed(new, "morphed.npy", source, morpher)
        sizes = {file.name: file.stat().st_size for file in Path(folder).iterdir()}
    return {"bytes": sum(sizes.values()), "pixel_bytes": images.nbytes,
            "aug_conv_bytes": sizes["aug_conv.pt"]}


# -- Training

def plain_reference(size: Size, p: Parameters, context: Context) -> dict:
    return training_reference(size, size.network(), None, p.weight_decay, p, context)


def with_ac_reference(size: Size, p: Parameters, context: Context) -> dict:
    core, network = draw_core(size.shape), size.network()
    layer = compose_aug_conv(size, core, context.device)
    dense = reference.DenseLayer(layer.weight, layer.out_shape)
    network.set_submodule(find_first_layer(network, size.shape), dense)
    matrix = reference.block_diagonal(core, 1)
    return training_reference(size, network, matrix, p.morphed_weight_decay, p, context)


def training_reference(size: Size, network: nn.Module, matrix: Tensor | None, decay: float,
                       p: Parameters, context: Context) -> dict:
    """Images per second of the reference's loop; `matrix`: M, which its loader multiplies with."""
    images, labels = size.random_images(size.train_images), size.random_labels(size.train_images)
    network.to(context.device)
    data = reference.ImageByImage(images, labels, matrix)
    optimizer = torch.optim.SGD(network.parameters(), p.lr, p.momentum, weight_decay=decay)

    def rate(workers: int) -> float:
        batches = reference.loader(data, size.batch_size, workers, shuffle=True)
        return reference.train(network, batches, optimizer, context.device, size.warm_up,
                               size.steps)

    return with_better_workers(rate)


def plain_here(size: Size, p: Parameters, context: Context) -> dict:
    images, labels = size.random_images(size.train_images), size.random_labels(size.train_images)
    prepare = partial(normalise, mean=CIFAR[0], std=CIFAR[1])
    few = p.batch_size
    data = Data(PreparedImages(Source(images, prepare), labels, context),
                PreparedImages(Source(images[:few], prepare), labels[:few], context))
    network = SplitNetwork(size.network(), size.shape)
    return time_training(network, data, p, "pretrained", p.weight_decay, context)


def with_ac_here(keep: str, tile: int, size: Size, p: Parameters, context: Context) -> dict:
    """`keep`: whether Aug-Conv's output is kept for all images (on), or made batch by batch."""
    images, labels = size.random_images(size.train_images), size.random_labels(size.train_images)
    core = draw_core(size.shape, tile=tile)
    morphed = morph(Prepared(images, *CIFAR, 0)[:], core, tile)
    scale, dtype = 1.0, "float32"
    if tile:
        scale, dtype = float(morphed.abs().max()) / 127, "int8"
    values = quantise(as_stored(morphed), dtype, scale)
    prepare = partial(as_morphed, scale=scale)
    frozen = FrozenLayer(compose_aug_conv(size, core, context.device, tile))
    few = p.batch_size

    started = time.perf_counter()
    train_part = Features([(frozen, Source(values, prepare))], [labels], context)
    test_part = Features([(frozen, Source(values[:few], prepare))], [labels[:few]], context)
    data = keep_features(train_part, test_part, keep, False, context)
    reference.synchronise(context.device)
    before = {"seconds_before_the_first_epoch": time.perf_counter() - started}
    network = BehindFirstLayer(size.network(), size.shape)
    return before | time_training(network, data, p, "with_ac", p.morphed_weight_decay, context)


def with_tiles_here(size: Size, p: Parameters, context: Context) -> dict:
    return with_ac_here("off", size.tile, size, p, context)


def time_training(network: nn.Module, data: Data, p: Parameters, name: str, decay: float,
                  context: Context) -> dict:
    """Images per second of utils.training.train, in the median epoch after the first."""
    curve = train_in_passing(network, data, p, name, decay, context)
    seconds = median(epoch["train_seconds"] for epoch in curve[1:])
    return {"images_per_second": len(data.train) / seconds}


# -- Predicting

def predicting_plain(size: Size, p: Parameters, context: Context) -> dict:
    images = torch.randn(64, *size.shape)
    return time_predicting(SplitNetwork(size.network(), size.shape), None, images, context)


def predicting_behind(is_tiled: bool, size: Size, p: Parameters, context: Context) -> dict:
    tile = size.tile if is_tiled else 0
    core = draw_core(size.shape, tile=tile)
    morphed = morph(torch.randn(64, *size.shape), core, tile)
    aug_conv = compose_aug_conv(size, core, context.device, tile)
    behind = BehindFirstLayer(size.network(), size.shape)
    return time_predicting(behind, FrozenLayer(aug_conv), morphed, context)


@torch.inference_mode()
def time_predicting(network: nn.Module, frozen: FrozenLayer | None, images: Tensor,
                    context: Context) -> dict:
    """Seconds for one image and images a second in batches of 64, as predict.py computes."""
    network = network.to(context.device, memory_format=torch.channels_last).eval()
    forward = make_forward(network, context)
    images = images.to(context.device)
    if frozen is not None:
        frozen = frozen.to(context.device)

    def predict(images: Tensor) -> Tensor:
        if frozen is not None:
            images = frozen.features(images, None).to(context.dtype)
            images = images.contiguous(memory_format=torch.channels_last)
        return forward(images)

    predict(images)
    seconds_for_all = time_action(partial(predict, images), context.device)
    return {"seconds_for_one": time_action(partial(predict, images[:1]), context.device),
            "images_per_second": len(images) / seconds_for_all}


# -- Photographs

def decoding(decode_files: Callable, size: Size, p: Parameters, context: Context) -> dict:
    """Photographs per second, and how far their pixels are from those of a full decode."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_photographs(Path(folder), size)
        decode_files(files[:2], size.read_as)            # warms the libraries up
        started = time.perf_counter()
        found = decode_files(files, size.read_as)
        seconds = time.perf_counter() - started
        difference = found.double() - decode_in_full(files, size.read_as).double()
    return {"images_per_second": len(files) / seconds,
            "rms_difference": float(difference.square().mean().sqrt())}


def write_photographs(folder: Path, size: Size) -> list[Path]:
    """JPEG files of random clouds with fine noise: about as many bytes as a camera's."""
    generator = torch.Generator().manual_seed(0)
    width, height = size.photograph
    files = []
    for i in range(size.photographs):
        clouds = torch.rand(1, 3, height // 16, width // 16, generator=generator)
        picture = functional.interpolate(clouds, (height, width), mode="bicubic")[0]
        picture += 0.02 * torch.randn(3, height, width, generator=generator)
        pixels = (picture.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        files.append(folder / f"{i}.jpg")
        Image.fromarray(pixels).save(files[-1], quality=90)
    return files


def decode_in_full(files: list[Path], side: int) -> Tensor:
    """Images (N, 3, side, side) uint8: every pixel is decoded, one file after another."""
    images = []
    for file in files:
        with Image.open(file) as picture:
            square = ImageOps.fit(picture.convert("RGB"), (side, side), Resampling.BICUBIC)
        images.append(torch.from_numpy(np.array(square)).permute(2, 0, 1))
    return torch.stack(images)


def decode_here(files: list[Path], side: int) -> Tensor:
    """The same, as the steps read image files."""
    images = torch.empty(len(files), 3, side, side, dtype=torch.uint8)
    facts = torch.full((len(files), FACTS), torch.nan)
    decode_all(files, images, facts, files[0].with_name("unreadable.txt"))
    return images


# By name and side; `reference` is the reference's algorithm, or what is compared with.
MEASURES: dict[str, dict[str, Callable]] = {
    "composing": {"reference": partial(composing, reference.compose),
                  "here": partial(composing, AugConv.compose)},
    "matrix": {"reference": matrix_reference, "here": matrix_here},
    "morphing": {"reference": morphing_reference, "here": morphing_here},
    "plain": {"reference": plain_reference, "here": plain_here},
    "with_ac": {"reference": with_ac_reference, "here": partial(with_ac_here, "on", 0),
                "not_kept": partial(with_ac_here, "off", 0)},
    "tiles": {"here": by_tiles, "delivered": delivered, "with_ac": with_tiles_here},
    "predicting": {"plain": predicting_plain, "kappa_1": partial(predicting_behind, False),
                   "tiles": partial(predicting_behind, True)},
    "decoding": {"reference": partial(decoding, decode_in_full),
                 "here": partial(decoding, decode_here)},
}
