"""What experiments.speed found, for people: a table against the targets, and the growth plot.

`found` is {measurement: {side: {key: median}}} of experiments.speed, `size` its Size.
"""

import math
from dataclasses import dataclass

from experiments.tables.formulas import PUBLISHED_COMPUTATION, PUBLISHED_DATA
from utils.plots import as_png, pyplot

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Target:
    """A bound on a row's ratio or on its value here."""

    of: str                         # ratio or here
    relation: str                   # ≥ or ≤
    bound: float

    def __str__(self) -> str:
        return f"{self.of} {self.relation} {self.bound:g}"

    def is_reached(self, row: "SpeedRow") -> bool:
        value = row.ratio if self.of == "ratio" else row.here
        return value >= self.bound if self.relation == "≥" else value <= self.bound


@dataclass(frozen=True)
class SpeedRow:
    """One figure: of the reference (or the plain network), of this program, and their ratio.

    The ratio says how many times faster or smaller this program is; of two epochs, or two ways to
    predict, how many times longer the second takes.
    """

    name: str
    figure: str
    unit: str
    reference: float
    here: float
    ratio: float
    target: Target | None = None

    def as_record(self, with_target: bool) -> dict:
        record = {"name": self.name, "figure": self.figure, "unit": self.unit,
                  "reference": self.reference, "here": self.here, "ratio": self.ratio}
        if self.target is not None and with_target:
            record |= {"target": str(self.target), "reached": self.target.is_reached(self)}
        return record


def make_table(found: dict, size, targets: bool = True) -> list[dict]:
    """The rows of a record; `targets`: whether they are held against the targets of a CPU."""
    rows = [*composing_rows(found, size), *morphing_rows(found, size), *training_rows(found, size),
            *epoch_rows(found, size), delivered_row(found, size), *predicting_rows(found, size),
            decoding_row(found, size)]
    return [row.as_record(targets) for row in rows]


def composing_rows(found: dict, size) -> list[SpeedRow]:
    m, composing, matrix = size.sides[-1], found["composing"], found["matrix"]
    key = f"seconds_at_m_{m}"
    memory = "device_peak_mb" if "device_peak_mb" in composing["here"] else "peak_mb"
    return [
        row_of_cost("composing", f"composing Aug-Conv {3 * m * m}x{64 * m * m}", "s",
                    composing["reference"][key], composing["here"][key],
                    Target("ratio", "≥", 20)),
        row_of_cost("composing_memory", "composing Aug-Conv, peak memory", "MB",
                    composing["reference"][memory], composing["here"][memory],
                    Target("here", "≤", 2200)),
        row_of_cost("matrix", f"morphing matrix and inverse, kappa {size.matrix_kappa}", "s",
                    matrix["reference"]["seconds"], matrix["here"]["seconds"],
                    Target("ratio", "≥", 20))]


def morphing_rows(found: dict, size) -> list[SpeedRow]:
    before, here = found["morphing"]["reference"], found["morphing"]["here"]
    reference = before["images_per_second"]
    return [
        row_of_rate("morphing", "morphing, kappa 1", reference, here["images_per_second"]),
        row_of_rate("morphing_tiles", f"morphing, {size.tile}x{size.tile} tiles", reference,
                    here["images_per_second_tiles"], Target("ratio", "≥", 25))]


def training_rows(found: dict, size) -> list[SpeedRow]:
    training, key = f"training {size.model}", "images_per_second"
    plain, with_ac = found["plain"], found["with_ac"]
    return [
        row_of_rate("plain", f"{training}, plain", plain["reference"][key], plain["here"][key],
                    Target("ratio", "≥", 1.9)),
        row_of_rate("with_ac", f"{training} with Aug-Conv", with_ac["reference"][key],
                    with_ac["here"][key], Target("ratio", "≥", 3)),
        row_of_rate("with_ac_not_kept", f"{training} with Aug-Conv, features not kept",
                    with_ac["reference"][key], with_ac["not_kept"][key])]


def epoch_rows(found: dict, size) -> list[SpeedRow]:
    """An epoch behind Aug-Conv beside a plain one of this program."""
    def seconds(result: dict) -> float:
        return size.train_images / result["images_per_second"]

    plain = seconds(found["plain"]["here"])
    kept = seconds(found["with_ac"]["here"])
    not_kept = seconds(found["with_ac"]["not_kept"])
    by_tiles = seconds(found["tiles"]["with_ac"])
    limit = Target("ratio", "≤", 1 + PUBLISHED_COMPUTATION)
    tiles = f"{size.tile}x{size.tile} tiles, int8, features not kept"
    return [
        row_beside_plain("epoch", "epoch with Aug-Conv", plain, kept, limit),
        row_beside_plain("epoch_not_kept", "epoch with Aug-Conv, features not kept", plain,
                         not_kept),
        row_beside_plain("epoch_tiles", f"epoch with Aug-Conv, {tiles}", plain, by_tiles, limit)]


def delivered_row(found: dict, size) -> SpeedRow:
    sent = found["tiles"]["delivered"]
    return SpeedRow("delivered", f"all that is delivered, {size.tile}x{size.tile} tiles, int8 "
                    "(reference: the pixels)", "MB", sent["pixel_bytes"] / 1e6,
                    sent["bytes"] / 1e6, sent["bytes"] / sent["pixel_bytes"],
                    Target("ratio", "≤", 1 + PUBLISHED_DATA))


def predicting_rows(found: dict, size) -> list[SpeedRow]:
    ways, rows = found["predicting"], []
    tiles = f"{size.tile}x{size.tile} tiles"
    for name, way, words in (("latency", "kappa_1", "kappa 1"), ("latency_tiles", "tiles", tiles)):
        rows.append(row_beside_plain(name, f"predicting one image, {words}",
                                     ways["plain"]["seconds_for_one"],
                                     ways[way]["seconds_for_one"]))
    for name, way, words in (("throughput", "kappa_1", "kappa 1"),
                             ("throughput_tiles", "tiles", tiles)):
        plain, here = ways["plain"]["images_per_second"], ways[way]["images_per_second"]
        rows.append(SpeedRow(name, f"predicting 64 at once, {words} (reference: plain, here)",
                             "images/s", plain, here, plain / here))
    return rows


def decoding_row(found: dict, size) -> SpeedRow:
    megapixels = math.prod(size.photograph) / 1e6
    ways, key = found["decoding"], "images_per_second"
    return row_of_rate("decoding", f"reading JPEG files of {megapixels:.0f} megapixels as "
                       f"{size.read_as} pixels (reference: in full, one by one)",
                       ways["reference"][key], ways["here"][key], Target("here", "≥", 85))


def row_of_cost(name: str, figure: str, unit: str, before: float, here: float,
                target: Target | None = None) -> SpeedRow:
    """A row of seconds or memory: the reference's over ours."""
    return SpeedRow(name, figure, unit, before, here, before / here, target)


def row_of_rate(name: str, figure: str, before: float, here: float,
                target: Target | None = None) -> SpeedRow:
    """A row of images per second: ours over the reference's."""
    return SpeedRow(name, figure, "images/s", before, here, here / before, target)


def row_beside_plain(name: str, figure: str, plain: float, here: float,
                     target: Target | None = None) -> SpeedRow:
    """A row of seconds beside those of the plain network of this program."""
    return SpeedRow(name, f"{figure} (reference: plain, here)", "s", plain, here, here / plain,
                    target)


def as_text(rows: list[dict]) -> str:
    """The table for a terminal."""
    width = max(len(row["figure"]) for row in rows)
    lines = [f"{'':{width}}  {'reference':>10} {'here':>10} {'unit':8} {'ratio':>7}  target"]
    for row in rows:
        line = (f"{row['figure']:{width}}  {row['reference']:10.4g} {row['here']:10.4g} "
                f"{row['unit']:8} {row['ratio']:7.3g}")
        if "target" in row:
            line += f"  {row['target']}: {'reached' if row['reached'] else 'MISSED'}"
        lines.append(line)
    return "\n".join(lines)


# -- Growth

def measure_growth(found: dict, size) -> dict:
    """Lines of the growth plot: milliseconds to compose Aug-Conv over m, to morph an image over κ.

    Each with the power that is expected, and the one measured.
    """
    composing, tiles = found["composing"], found["tiles"]["here"]
    rates = found["morphing"]["here"]
    sides = list(size.tiled_sides)
    by_tiles = {}
    for what, power in (("composing", 0), ("morphing", 2), ("aug_conv", 2)):
        by_tiles[what] = make_line(
            sides, [1000 * tiles[f"{what}_seconds_at_m_{m}"] for m in sides], power)
    dense = {}
    for side, power in (("reference", 6), ("here", 4)):
        seconds = [composing[side][f"seconds_at_m_{m}"] for m in size.sides]
        dense[side] = make_line(size.sides, [1000 * value for value in seconds], power)
    morphing = [1000 / rates[f"images_per_second_kappa_{kappa}"] for kappa in size.kappas]
    return {
        "tiles": by_tiles,
        "aug_conv_mb": {"x": sides, "tiles": [tiles[f"aug_conv_mb_at_m_{m}"] for m in sides],
                        "dense_computed": [4 * 3 * 64 * m ** 4 / 1e6 for m in sides]},
        "composing": dense,
        "morphing": make_line(size.kappas, morphing, -1),
        "morphing_reference_milliseconds":
            1000 / found["morphing"]["reference"]["images_per_second"]}


def make_line(x: tuple | list, milliseconds: list[float], power: int) -> dict:
    """The measured power is the slope between the last two points, the largest problems, on
    logarithmic axes."""
    slope = math.log(milliseconds[-1] / milliseconds[-2]) / math.log(x[-1] / x[-2])
    return {"x": list(x), "milliseconds": milliseconds, "expected_power": power,
            "measured_power": round(slope, 2)}


def draw_growth(lines: dict, side: int) -> bytes:
    """The lines of measure_growth(), measured beside the expected power laws, as a picture."""
    figure, ((composing, morphing), (times, memory)) = pyplot().subplots(
        2, 2, figsize=(10, 8), layout="constrained")
    plot_line(composing, lines["composing"]["reference"], "m", "reference", "s-", "tab:orange")
    plot_line(composing, lines["composing"]["here"], "m", "here", "o-", "tab:blue")
    composing.set(title="Composing Aug-Conv (κ = 1)", xlabel="side m of the image, pixels",
                  ylabel="milliseconds")
    plot_line(morphing, lines["morphing"], "κ", "here", "o-", "tab:blue")
    morphing.axhline(lines["morphing_reference_milliseconds"], color="tab:orange",
                     label="reference at κ = 1 (the full M\nis as large for every κ)")
    morphing.set(title=f"Morphing an image of side {side}", ylabel="milliseconds per image",
                 xlabel="κ, copies of the core in M")
    names = {"composing": "composing", "morphing": "morphing an image",
             "aug_conv": "Aug-Conv of an image"}
    colours = ("tab:blue", "tab:green", "tab:red")
    for (what, line), colour in zip(lines["tiles"].items(), colours, strict=True):
        plot_line(times, line, "m", names[what], "o-", colour)
    times.set(title="By tiles", xlabel="side m of the image, pixels", ylabel="milliseconds")
    plot_memory(memory, lines["aug_conv_mb"])
    for axis in (composing, morphing, times, memory):
        axis.legend(fontsize=8)
    return as_png(figure)


def plot_line(axis, line: dict, letter: str, name: str, style: str, colour: str):
    x, y, power = line["x"], line["milliseconds"], line["expected_power"]
    expected = [y[-1] * (value / x[-1]) ** power for value in x]
    axis.plot(x, y, style, color=colour, label=f"{name}, measured")
    axis.plot(x, expected, "--", color=colour, lw=1,
              label=f"expected growth, {letter}{str(power).translate(SUPERSCRIPT)}")
    scale_axis(axis, x)


def plot_memory(axis, sizes: dict):
    axis.plot(sizes["x"], sizes["tiles"], "o-", label="tiles")
    axis.plot(sizes["x"], sizes["dense_computed"], "s--", label="dense, computed")
    axis.set(title="Memory of Aug-Conv, 3 to 64 channels", xlabel="side m of the image, pixels",
             ylabel="MB")
    scale_axis(axis, sizes["x"])


def scale_axis(axis, x: list):
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(x, [str(value) for value in x])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
