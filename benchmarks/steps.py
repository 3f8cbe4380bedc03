"""Times the steps against the reference's algorithm, on the same machine and data: `make bench`.

Every measurement is a process of its own, so that its peak memory is its own, and the two sides
take turns, so that the machine's noise hits both. The figures are medians over the turns. Images
are random pixels: how long a step takes does not depend on what they show.
Writes bench.json and figures/growth.png to --output.
"""

import argparse
import io
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks import reference, report
from gen_augconv import morph_all
from models.aug_conv import AugConv, full_float32
from models.vgg import VGG
from parameter import Parameters
from utils.artifacts import write_alone
from utils.datasets import Images, normalise
from utils.morphing import (
    compose_aug_conv,
    core_size,
    draw_core,
    invert_core,
    secret_generator,
    usable_core,
)
from utils.records import circumstances, to_json
from utils.runs import Run
from utils.training import Data, compute_dtype, processes, through_aug_conv, to_device, train


@dataclass(frozen=True)
class Size:
    """How much is measured; the last of `sides` and of `kappas` is the case in the table."""

    sides: tuple = (8, 16, 32)
    kappas: tuple = (48, 12, 3, 1)
    matrix_kappa: int = 12
    images: int = 10_000                # morphed by the program, and
    one_by_one: int = 2_000             # by the reference, which takes as long for each
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

    def network(self) -> VGG:
        torch.manual_seed(0)
        return VGG(self.model, 10, side=self.sides[-1])

    def random_images(self, count: int) -> Images:
        g = torch.Generator().manual_seed(0)
        return Images(torch.randint(0, 256, (count, *self.shape), dtype=torch.uint8, generator=g),
                      torch.randint(0, 10, (count,), generator=g), [str(i) for i in range(10)])


FULL = Size()
CUDA = replace(FULL, train_images=9600, warm_up=20, steps=100)
QUICK = Size(sides=(4, 6, 8), images=200, one_by_one=50, model="vgg11", batch_size=8,
             train_images=32, warm_up=1, steps=2, epochs=2)


def drawn(shape: tuple[int, int, int], kappa: int = 1) -> Tensor:
    """A core (q, q) as the provider draws it."""
    return draw_core(core_size(shape, kappa), "uniform", secret_generator(0, purpose=0))


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


def aug_conv(size: Size, core: Tensor, device: torch.device) -> AugConv:
    """Aug-Conv for the network, on the device; channels in their own order."""
    layer = size.network().first_layer.requires_grad_(False)
    weight, out_shape = compose_aug_conv(layer, invert_core(core), size.shape, torch.arange(64))
    return AugConv(weight, out_shape).to(device)


# What is measured. Each takes (size, parameters, device) and gives seconds or images per second.

def composing(compose):
    """Seconds to compose Aug-Conv at each of the sides; the small ones warm the libraries up."""
    def measure(size: Size, p: Parameters, device: torch.device) -> dict:
        layer = size.network().first_layer.requires_grad_(False).to(device)
        order = torch.randperm(layer.out_channels).to(device)
        seconds = {}
        for m in size.sides:
            shape = (3, m, m)
            inverse = invert_core(drawn(shape)).to(device)
            with full_float32():
                seconds[f"seconds_at_m_{m}"] = timed(
                    lambda inverse=inverse, shape=shape: compose(layer, inverse, shape, order),
                    device)
        return seconds
    return measure


def matrix_reference(size: Size, p: Parameters, device: torch.device) -> dict:
    kappa = size.matrix_kappa
    reference.morphing_matrix(4, kappa)
    q = core_size(size.shape, kappa)
    return {"seconds": timed(lambda: reference.morphing_matrix(q, kappa), device)}


def matrix_here(size: Size, p: Parameters, device: torch.device) -> dict:
    """As gen_morphing_matrix.py does it: with its check, and another core where that fails."""
    q, generator = core_size(size.shape, size.matrix_kappa), secret_generator(None, purpose=0)
    return {"seconds": timed(lambda: usable_core(q, "uniform", generator), device)}


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
    """As gen_augconv.py does it, for each kappa; the large ones warm the libraries up."""
    data, rates = size.random_images(size.images), {}
    for kappa in size.kappas:
        core = drawn(size.shape, kappa).double().to(device)
        seconds = timed(lambda core=core: morph_all(data, core, 0, "random"), device)
        rates[f"images_per_second_at_kappa_{kappa}"] = len(data.images) / seconds
    return rates | {"images_per_second": len(data.images) / seconds}


def training_reference(size: Size, p: Parameters, device: torch.device, core=None) -> dict:
    images, labels, _ = size.random_images(size.train_images)
    matrix, decay = None, p.weight_decay
    network = size.network()
    if core is not None:
        matrix, decay = reference.block_diagonal(core, 1), p.morphed_weight_decay
        layer = aug_conv(size, core, device)
        network.first_layer = reference.DenseLayer(layer.weight, layer.out_shape)
    network.to(device)
    data = reference.ImageByImage(images, labels, matrix)
    optimizer = torch.optim.SGD(network.parameters(), p.lr, p.momentum, weight_decay=decay)
    return with_better_workers(lambda workers: reference.train(
        network, reference.loader(data, size.batch_size, workers, shuffle=True), optimizer,
        device, size.warm_up, size.steps))


def with_ac_reference(size: Size, p: Parameters, device: torch.device) -> dict:
    return training_reference(size, p, device, drawn(size.shape))


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
    data = to_device(Data(images, labels, images[:few], labels[:few], normalise), device)
    return trained(size.network(), data, p, "pretrained", p.weight_decay, device)


def with_ac_here(size: Size, p: Parameters, device: torch.device, keep: str = "on") -> dict:
    """`keep`: whether Aug-Conv's output is kept for all images, or made batch by batch."""
    images, few, core = size.random_images(size.train_images), p.batch_size, drawn(size.shape)
    layer = aug_conv(size, core, device)
    morphed = morph_all(images, core.double().to(device), 0, "random")
    data = Data(morphed, images.labels, morphed[:few], images.labels[:few], lambda x: x)
    started = time.perf_counter()
    data = through_aug_conv(layer, data, keep, compute_dtype(p, device), device)
    reference.synchronise(device)
    before = {"seconds_before_the_first_epoch": time.perf_counter() - started}
    return before | trained(size.network().behind, data, p, "with_ac", p.morphed_weight_decay,
                            device)


MEASURES = {
    "composing": {"reference": composing(reference.compose), "here": composing(compose_aug_conv)},
    "matrix": {"reference": matrix_reference, "here": matrix_here},
    "morphing": {"reference": morph_reference, "here": morph_here},
    "plain": {"reference": training_reference, "here": plain_here},
    "with_ac": {"reference": with_ac_reference, "here": with_ac_here,
                "not_kept": partial(with_ac_here, keep="off")},
}


def measure(name: str, side: str, size: Size, device: str) -> dict:
    """One measurement, and the peak memory of the process that it has to itself."""
    p = size.parameters(device)
    with processes(p) as where, redirect_stdout(io.StringIO()):
        result = MEASURES[name][side](size, p, where)
        unit = 1 if sys.platform == "darwin" else 1024
        result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        if where.type == "cuda":
            result["device_peak_mb"] = torch.cuda.max_memory_allocated(where) / 1e6
    return {key: float(f"{value:.5g}") for key, value in result.items()}


def in_own_process(*task) -> dict:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *task).result()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small images and few of them: tries "
                        "the benchmark itself, its figures mean nothing")
    parser.add_argument("--only", choices=MEASURES, help="measure and print this, write nothing")
    parser.add_argument("--runs", type=int, default=3, help="turns of each side (default: 3)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--output", type=Path, default=Path("results"),
                        help="folder to write to (default: results)")
    arguments = parser.parse_args()
    p = FULL.parameters(arguments.device)
    with processes(p) as device:
        cuda = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    size = QUICK if arguments.quick else CUDA if cuda else FULL
    runs = {name: {side: [] for side in sides} for name, sides in MEASURES.items()
            if arguments.only in (None, name)}
    started = time.perf_counter()
    for turn in range(1, arguments.runs + 1):
        for name, sides in runs.items():
            for side, results in sides.items():
                results.append(in_own_process(name, side, size, arguments.device))
                print(f"{turn}/{arguments.runs} {name}, {side}: " + ", ".join(
                    f"{key} {value:g}" for key, value in results[-1].items()), flush=True)
    if arguments.only:
        return
    found = {name: {side: {key: median(result[key] for result in results) for key in results[0]}
                    for side, results in sides.items()} for name, sides in runs.items()}
    rows = report.table(found, size, targets=not (arguments.quick or cuda))
    lines = report.growth(found, size)
    record = circumstances(p) | {
        "size": asdict(size),
        "seconds": round(time.perf_counter() - started), "table": rows, "growth": lines,
        "medians": found, "runs": runs}
    suffix = "-" + re.sub(r"\W+", "-", cuda).lower() if cuda else ""
    target = arguments.output / f"bench{suffix}.json"
    picture = arguments.output / "figures" / f"growth{suffix}.png"
    write_alone(target, to_json(record))
    write_alone(picture, report.growth_png(lines, size.sides[-1]))
    print(report.as_text(rows), f"{target} and {picture} are written", sep="\n")


if __name__ == "__main__":
    main()
