"""Times the steps against the reference's algorithm, on the same machine and data: `make bench`.

Every measurement is a process of its own, so that its peak memory is its own, and the two sides
take turns, so that the machine's noise hits both. The figures are medians over the turns. Images
are random pixels: how long a step takes does not depend on what they show.
Writes bench.json and figures/growth.png to --output.
"""

import argparse
import io
import math
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import reference
from gen_augconv import morph_all
from models.aug_conv import AugConv, full_float32
from models.vgg import VGG
from parameter import Parameters
from utils.datasets import Images, normalise
from utils.morphing import (
    compose_aug_conv,
    core_size,
    draw_core,
    invert_core,
    residual,
    secret_generator,
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
                seconds[f"seconds at m={m}"] = timed(
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
    """As gen_morphing_matrix.py makes and checks it."""
    def make():
        core = drawn(size.shape, size.matrix_kappa)
        inverse = invert_core(core)
        return core, inverse, residual(core, inverse)
    return {"seconds": timed(make, device)}


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
        rates[f"images_per_second at kappa={kappa}"] = len(data.images) / seconds
    return rates | {"images_per_second": rates["images_per_second at kappa=1"]}


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


def with_ac_here(size: Size, p: Parameters, device: torch.device) -> dict:
    images, few, core = size.random_images(size.train_images), p.batch_size, drawn(size.shape)
    layer = aug_conv(size, core, device)
    morphed = morph_all(images, core.double().to(device), 0, "random")
    data = Data(morphed, images.labels, morphed[:few], images.labels[:few], lambda x: x)
    started = time.perf_counter()
    data = through_aug_conv(layer, data, "on", compute_dtype(p, device), device)
    reference.synchronise(device)
    once = (len(morphed) + few) / (time.perf_counter() - started)
    return {"aug_conv_once_images_per_second": once} | trained(
        size.network().behind, data, p, "with_ac", p.morphed_weight_decay, device)


MEASURES = {
    "composing": {"reference": composing(reference.compose), "here": composing(compose_aug_conv)},
    "matrix": {"reference": matrix_reference, "here": matrix_here},
    "morphing": {"reference": morph_reference, "here": morph_here},
    "plain": {"reference": training_reference, "here": plain_here},
    "with_ac": {"reference": with_ac_reference, "here": with_ac_here},
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
    return result


def in_own_process(*task) -> dict:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *task).result()


def table(found: dict, size: Size, targets: bool) -> list[dict]:
    """The rows that people read, from {measurement: {side: {key: median}}}."""
    m = size.sides[-1]
    entries, cuda = 3 * m * m, "device_peak_mb" in found["composing"]["here"]

    def row(figure, unit, before, here, ratio, target):
        """`target`: whether it binds the ratio or the value here, the relation, and the bound."""
        of, relation, bound = target
        value = {"ratio": ratio, "here": here}[of]
        return {"figure": figure, "unit": unit, "reference": before, "here": here, "ratio": ratio,
                "target": f"{of} {relation} {bound:g}" if targets else None,
                "reached": (value >= bound if relation == "≥" else value <= bound)
                if targets else None}

    def compared(figure, unit, name, key, target, faster):
        before, here = (found[name][side][key] for side in ("reference", "here"))
        return row(figure, unit, before, here, here / before if faster else before / here, target)

    epochs = [size.train_images / found[name]["here"]["images_per_second"]
              for name in ("plain", "with_ac")]
    return [
        compared(f"composing Aug-Conv {entries}x{64 * m * m}", "s", "composing",
                 f"seconds at m={m}", ("ratio", "≥", 10), False),
        compared("composing Aug-Conv, peak memory", "MB", "composing",
                 "device_peak_mb" if cuda else "peak_mb", ("here", "≤", 2200), False),
        compared(f"morphing matrix and inverse, kappa {size.matrix_kappa}", "s", "matrix",
                 "seconds", ("ratio", "≥", 20), False),
        compared("morphing, kappa 1", "images/s", "morphing", "images_per_second",
                 ("ratio", "≥", 25), True),
        compared(f"training {size.model}, plain", "images/s", "plain", "images_per_second",
                 ("ratio", "≥", 1.8), True),
        compared(f"training {size.model} with Aug-Conv", "images/s", "with_ac",
                 "images_per_second", ("ratio", "≥", 3), True),
        row(f"epoch of {size.train_images} images with Aug-Conv against plain, both here", "s",
            epochs[0], epochs[1], epochs[1] / epochs[0], ("ratio", "≤", 1.09)),
    ]


def as_text(rows: list[dict]) -> str:
    width = max(len(row["figure"]) for row in rows)
    lines = [f"{'':{width}}  {'reference':>10} {'here':>10} {'unit':8} {'ratio':>7}  target"]
    for row in rows:
        line = (f"{row['figure']:{width}}  {row['reference']:10.4g} {row['here']:10.4g} "
                f"{row['unit']:8} {row['ratio']:7.3g}")
        if row["target"]:
            line += f"  {row['target']}: {'reached' if row['reached'] else 'MISSED'}"
        lines.append(line)
    return "\n".join(lines)


def growth(found: dict, size: Size) -> dict:
    """Points of the growth plot, each line with the power that is expected and the one measured.

    The measured power is the slope between the two largest problems, on logarithmic axes.
    """
    def line(x, y, power):
        (x0, x1), (y0, y1) = x[-2:], y[-2:]
        return {"x": x, "milliseconds": y, "expected_power": power,
                "measured_power": math.log(y1 / y0) / math.log(x1 / x0)}

    composing = {side: line(list(size.sides), [1000 * found["composing"][side][
        f"seconds at m={m}"] for m in size.sides], power)
        for side, power in (("reference", 6), ("here", 4))}
    morphing = found["morphing"]
    return {
        "composing": composing,
        "morphing": {"here": line(list(size.kappas), [1000 / morphing["here"][
            f"images_per_second at kappa={kappa}"] for kappa in size.kappas], -1)},
        "morphing_reference_milliseconds": 1000 / morphing["reference"]["images_per_second"],
    }


def growth_png(lines: dict, size: Size) -> bytes:
    """Composing over m and morphing over κ: measured, beside the expected power laws."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    def draw(axis, line, letter, name, style, colour):
        x, y, power = line["x"], line["milliseconds"], line["expected_power"]
        axis.plot(x, y, style, color=colour, label=f"{name}, measured")
        axis.plot(x, [y[-1] * (value / x[-1]) ** power for value in x], "--", color=colour, lw=1,
                  label=f"expected, ∝ {letter}{str(power).translate(SUPERSCRIPT)}")

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    draw(left, lines["composing"]["reference"], "m", "reference", "s-", "tab:orange")
    draw(left, lines["composing"]["here"], "m", "here", "o-", "tab:blue")
    left.set(title="Composing Aug-Conv, κ = 1", xlabel="side m of the image", ylabel="milliseconds",
             xticks=size.sides)
    draw(right, lines["morphing"]["here"], "κ", "here", "o-", "tab:blue")
    right.axhline(lines["morphing_reference_milliseconds"], color="tab:orange",
                  label="reference (κ = 1; its product with\nthe full M is the same for every κ)")
    right.set(title=f"Morphing images of side {size.sides[-1]}", ylabel="milliseconds an image",
              xlabel="κ, copies of the core on the diagonal", xticks=size.kappas)
    for axis in (left, right):
        axis.set(xscale="log", yscale="log")
        axis.set_xticks(axis.get_xticks(), [f"{tick:g}" for tick in axis.get_xticks()])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    data = io.BytesIO()
    figure.savefig(data, dpi=120)
    pyplot.close(figure)
    return data.getvalue()


SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


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
    size = QUICK if arguments.quick else FULL
    runs = {name: {"reference": [], "here": []} for name in MEASURES
            if arguments.only in (None, name)}
    started = time.perf_counter()
    for turn in range(1, arguments.runs + 1):
        for name, sides in runs.items():
            for side, results in sides.items():
                results.append(in_own_process(name, side, size, arguments.device))
                print(f"{turn}/{arguments.runs} {name}, {side}: " + ", ".join(
                    f"{key} {value:.4g}" for key, value in results[-1].items()), flush=True)
    if arguments.only:
        return
    found = {name: {side: {key: median(r[key] for r in results) for key in results[0]}
                    for side, results in sides.items()} for name, sides in runs.items()}
    with processes(size.parameters(arguments.device)) as device:
        cuda = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    rows, lines = table(found, size, targets=not (arguments.quick or cuda)), growth(found, size)
    p = size.parameters(arguments.device)
    record = circumstances(p) | {
        "command": " ".join(["python benchmarks/steps.py", *sys.argv[1:]]), "table": rows,
        "growth": lines, "medians": found, "runs": runs,
        "seconds": round(time.perf_counter() - started)}
    suffix = "-" + re.sub(r"\W+", "-", cuda).lower() if cuda else ""
    (arguments.output / "figures").mkdir(parents=True, exist_ok=True)
    target = arguments.output / f"bench{suffix}.json"
    target.write_text(to_json(record))
    picture = arguments.output / "figures" / f"growth{suffix}.png"
    picture.write_bytes(growth_png(lines, size))
    print(as_text(rows), f"{target} and {picture} are written", sep="\n")


if __name__ == "__main__":
    main()
