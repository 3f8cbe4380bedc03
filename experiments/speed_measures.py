"""What experiments.speed times: each step of this program, and the reference's algorithm."""

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
from torch import Tensor, nn

from experiments import reference_algorithm as reference
from images.datasets import CIFAR, Images, Prepared, normalise
from models.build import build
from mole import morphing
from mole.aug_conv import AugConv
from mole.first_layer import BehindFirstLayer, Float32Conv2d, find
from mole.morphing import compose_aug_conv, compose_by_tiles, invert_core, morph
from parameter import Parameters
from utils.artifacts import Saving
from utils.delivery import Geometry, common_scale, deliver, restored, rounded
from utils.devices import compute_dtype
from utils.records import Run
from utils.training import (
    Data,
    features_of,
    logits_of,
    through_frozen_layers,
    to_device,
    train,
)


@dataclass(frozen=True)
class Size:
    """How much is measured; the last of `sides` and of `kappas` is the case in the table."""

    sides: tuple = (8, 16, 32)
    kappas: tuple = (48, 12, 3, 1)
    tile: int = 8
    tiled_sides: tuple = (32, 64, 128, 224)     # of images whose Aug-Conv is composed by tiles
    matrix_kappa: int = 12
    images: int = 10_000                # morphed by the program, and
    one_by_one: int = 2_000             # by the reference, which takes as long for each
    delivered: int = 60_000             # images of a delivery whose bytes are counted
    model: str = "vgg16"
    batch_size: int = 64
    train_images: int = 960             # of which the reference's loop takes only
    warm_up: int = 2                    # batches first, then
    steps: int = 10                     # batches that are timed
    epochs: int = 3                     # of the program, timed after the first

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.sides[-1], self.sides[-1]

    def parameters(self, device: str) -> Parameters:
        return Parameters(model=self.model, batch_size=self.batch_size, epochs=self.epochs,
                          device=device)

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return build(self.model, 10, self.shape)

    def first_layer(self) -> Float32Conv2d:
        network = self.network()
        return network.get_submodule(find(network, self.shape)).requires_grad_(False)

    def random_images(self, count: int) -> Images:
        g = torch.Generator().manual_seed(0)
        return Images(torch.randint(0, 256, (count, *self.shape), dtype=torch.uint8, generator=g),
                      torch.randint(0, 10, (count,), generator=g), list("0123456789"))


FULL = Size()
CUDA = replace(FULL, train_images=9600, warm_up=20, steps=100)
QUICK = Size(sides=(4, 6, 8), tile=4, tiled_sides=(8, 16), images=200, one_by_one=50,
             delivered=100, model="vgg11", batch_size=8, train_images=32, warm_up=1, steps=2,
             epochs=2)


def drawn(shape: tuple[int, int, int], kappa: int = 1, tile: int = 0) -> Tensor:
    """A core (q, q) as the provider draws it: the paper's uniform one, or orthogonal for tiles."""
    q, distribution = morphing.core_size(shape, kappa, tile), "orthogonal" if tile else "uniform"
    return morphing.draw_core(q, distribution, morphing.secret_generator(0, purpose=0))


def timed(action, device: torch.device) -> float:
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


def aug_conv(size: Size, core: Tensor, device: torch.device, tile: int = 0) -> AugConv:
    """Aug-Conv for the network, on the device; channels in their own order."""
    layer, inverse, order = size.first_layer(), invert_core(core), torch.arange(64)
    return AugConv(**compose_aug_conv(layer, inverse, size.shape, order, tile)).to(device)


# What is measured. Each takes (size, parameters, device) and gives seconds or images per second.

def composing(compose):
    """Seconds to compose Aug-Conv at each of the sides; the small ones warm the libraries up."""
    def measure(size: Size, p: Parameters, device: torch.device) -> dict:
        layer = size.first_layer().to(device)
        order = torch.randperm(layer.out_channels).to(device)
        seconds = {}
        for m in size.sides:
            shape = (3, m, m)
            inverse = invert_core(drawn(shape)).to(device)
            seconds[f"seconds_at_m_{m}"] = timed(
                lambda inverse=inverse, shape=shape: compose(layer, inverse, shape, order), device)
        return seconds
    return measure


def by_tiles(size: Size, p: Parameters, device: torch.device) -> dict:
    """Composing, morphing and Aug-Conv itself over the image's side, with one size of tile."""
    layer, found = size.first_layer().to(device), {}
    core = drawn((3, 1, 1), tile=size.tile)
    inverse, order = invert_core(core).to(device), torch.arange(layer.out_channels)
    core = core.double().to(device)
    for m in size.tiled_sides:
        parts = compose_by_tiles(layer, inverse, size.tile, (3, m, m), order)
        layer_here, images = AugConv(**parts).to(device), torch.randn(8, 3, m, m, device=device)
        morphed = morph(images, core, size.tile)
        found |= {
            f"composing_seconds_at_m_{m}": timed(lambda m=m: compose_by_tiles(
                layer, inverse, size.tile, (3, m, m), order), device),
            f"morphing_seconds_at_m_{m}": timed(
                lambda images=images: morph(images, core, size.tile), device) / len(images),
            f"aug_conv_seconds_at_m_{m}": timed(lambda f=layer_here, x=morphed: f(x), device)
            / len(images),
            f"aug_conv_mb_at_m_{m}": parts["weight"].nbytes / 1e6}
    return found


def matrix_reference(size: Size, p: Parameters, device: torch.device) -> dict:
    kappa = size.matrix_kappa
    reference.morphing_matrix(4, kappa)
    q = morphing.core_size(size.shape, kappa)
    return {"seconds": timed(lambda: reference.morphing_matrix(q, kappa), device)}


def matrix_here(size: Size, p: Parameters, device: torch.device) -> dict:
    """As gen_morphing_matrix.py does it: with its check, and another core where that fails."""
    q = morphing.core_size(size.shape, size.matrix_kappa)
    generator = morphing.secret_generator(None, purpose=0)
    return {"seconds": timed(lambda: morphing.usable_core(q, "uniform", generator), device)}


def with_better_workers(rate) -> dict:
    """The reference's images per second: without worker processes, or with one on each core."""
    rates = {workers: rate(workers) for workers in (0, os.cpu_count())}
    workers = max(rates, key=rates.get)
    return {"images_per_second": rates[workers], "workers": workers}


def morph_reference(size: Size, p: Parameters, device: torch.device) -> dict:
    images, labels, _ = size.random_images(size.one_by_one)
    data = reference.ImageByImage(images, labels, reference.block_diagonal(drawn(size.shape), 1))

    def rate(workers: int) -> float:
        batches = reference.loader(data, size.batch_size, workers)
        return len(images) / timed(lambda: [morphed for morphed, _ in batches], device)
    return with_better_workers(rate)


def morph_here(size: Size, p: Parameters, device: torch.device) -> dict:
    """As gen_augconv.py does it, into a file, for each kappa and by tiles; the first ones warm the
    libraries up."""
    images, rates = Prepared(size.random_images(size.images).images, *CIFAR, 0), {}
    cases = [("tiles", drawn(size.shape, tile=size.tile), 1, size.tile),
             *((f"kappa_{kappa}", drawn(size.shape, kappa), kappa, 0) for kappa in size.kappas)]
    with tempfile.TemporaryDirectory() as folder, Saving(Path(folder)) as new:
        for name, core, kappa, tile in cases:
            core, g = core.double().to(device), geometry(size, kappa, tile, "float32")
            seconds = timed(lambda core=core, g=g: deliver(
                new, "morphed.npy", images, core, g, scale=1.0), device)
            rates[f"images_per_second_{name}"] = len(images) / seconds
    return rates | {"images_per_second": len(images) / seconds}


def geometry(size: Size, kappa: int, tile: int, dtype: str) -> Geometry:
    return Geometry("benchmark", size.shape, 0, "crop", kappa, tile, "", dtype, *CIFAR)


def delivered(size: Size, p: Parameters, device: torch.device) -> dict:
    """Bytes on the disk of all that is delivered, by tiles with int8, over those of the pixels."""
    images = size.random_images(size.delivered)
    core = drawn(size.shape, tile=size.tile).double().to(device)
    g = geometry(size, 1, size.tile, "int8")
    with tempfile.TemporaryDirectory() as folder:
        with Saving(Path(folder)) as new:
            layer = aug_conv(size, core.float(), device, size.tile)
            new.save("aug_conv.pt", layer.to_file())
            new.save("labels.npy", partial(np.save, arr=images.labels.numpy()))
            source = Prepared(images.images, *CIFAR, 0)
            deliver(new, "morphed.npy", source, core, g, common_scale([source], core, g))
        sizes = {file.name: file.stat().st_size for file in Path(folder).iterdir()}
    return {"bytes": sum(sizes.values()), "pixel_bytes": images.images.nbytes,
            "aug_conv_bytes": sizes["aug_conv.pt"]}


def training_reference(size: Size, p: Parameters, device: torch.device, core=None) -> dict:
    images, labels, _ = size.random_images(size.train_images)
    matrix, decay = None, p.weight_decay
    network = size.network()
    if core is not None:
        matrix, decay = reference.block_diagonal(core, 1), p.morphed_weight_decay
        layer = aug_conv(size, core, device)
        network.set_submodule(find(network, size.shape),
                              reference.DenseLayer(layer.weight, layer.out_shape))
    network.to(device)
    data = reference.ImageByImage(images, labels, matrix)
    optimizer = torch.optim.SGD(network.parameters(), p.lr, p.momentum, weight_decay=decay)
    return with_better_workers(lambda workers: reference.train(
        network, reference.loader(data, size.batch_size, workers, shuffle=True), optimizer,
        device, size.warm_up, size.steps))


def trained(network, data: Data, p: Parameters, name: str, decay: float,
            device: torch.device) -> dict:
    """Images per second of utils.training.train, in the median epoch after the first."""
    with tempfile.TemporaryDirectory() as folder:
        curve = train(network, data, p, Run(Path(folder), name, {}), decay, device)
    return {"images_per_second":
            len(data.train) / median(epoch["train_seconds"] for epoch in curve[1:])}


def plain_here(size: Size, p: Parameters, device: torch.device) -> dict:
    images, labels, _ = size.random_images(size.train_images)
    few = p.batch_size
    data = to_device(Data(images, labels, images[:few], labels[:few],
                          partial(normalise, mean=CIFAR[0], std=CIFAR[1])), device)
    return trained(size.network(), data, p, "pretrained", p.weight_decay, device)


def with_ac_here(size: Size, p: Parameters, device: torch.device, keep: str = "on",
                 tile: int = 0) -> dict:
    """`keep`: whether Aug-Conv's output is kept for all images, or made batch by batch."""
    images, few = size.random_images(size.train_images), p.batch_size
    core = drawn(size.shape, tile=tile)
    morphed, scale = morph(Prepared(images.images, *CIFAR, 0)[:], core, tile), 1.0
    if tile:
        scale = float(morphed.abs().max()) / 127
        morphed = rounded(morphed, "int8", scale)
    data = Data(morphed, images.labels, morphed[:few], images.labels[:few],
                partial(restored, scale=scale))
    started = time.perf_counter()
    data = through_frozen_layers([(aug_conv(size, core, device, tile), data)], keep,
                                 compute_dtype(p, device), device)
    reference.synchronise(device)
    before = {"seconds_before_the_first_epoch": time.perf_counter() - started}
    network = BehindFirstLayer(size.network(), size.shape)
    return before | trained(network, data, p, "with_ac", p.morphed_weight_decay, device)


@torch.inference_mode()
def predicting(size: Size, p: Parameters, device: torch.device, way: str) -> dict:
    """Seconds for one image and images a second in batches of 64, as predict.py computes."""
    network, dtype = size.network().to(device, memory_format=torch.channels_last).eval(), (
        compute_dtype(p, device))
    images, prepare = torch.randn(64, *size.shape, device=device), lambda x: x
    if way != "plain":
        tile = size.tile if way == "tiles" else 0
        core = drawn(size.shape, tile=tile)
        prepare = features_of(aug_conv(size, core, device, tile), prepare, dtype, device)
        images = morph(images.cpu(), core, tile).to(device)
        network = BehindFirstLayer(network, size.shape).eval()
    predict = logits_of(network, prepare, dtype, device)
    predict(images)
    return {"seconds_for_one": timed(lambda: predict(images[:1]), device),
            "images_per_second": len(images) / timed(lambda: predict(images), device)}


MEASURES: dict[str, dict[str, Callable]] = {
    "composing": {"reference": composing(reference.compose), "here": composing(compose_aug_conv)},
    "matrix": {"reference": matrix_reference, "here": matrix_here},
    "morphing": {"reference": morph_reference, "here": morph_here},
    "plain": {"reference": training_reference, "here": plain_here},
    "with_ac": {"reference": lambda size, p, device: training_reference(
        size, p, device, drawn(size.shape)), "here": with_ac_here,
                "not_kept": partial(with_ac_here, keep="off")},
    "tiles": {"here": by_tiles, "delivered": delivered,
              "with_ac": lambda size, p, device: with_ac_here(size, p, device, "off", size.tile)},
    "predicting": {way: partial(predicting, way=way) for way in ("plain", "kappa_1", "tiles")},
}
