"""The pictures of the tables' numbers, one function each; all give PNG bytes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from textwrap import fill

from experiments.tables.formulas import (
    ENTRIES,
    IMAGES,
    KAPPAS,
    PUBLISHED_COMPUTATION,
    PUBLISHED_DATA,
    TILES,
    compute_overheads,
    cost_of_tile,
    morphing_macs,
    vgg_macs,
)
from experiments.tables.measured import (
    ATTACKED_IMAGES,
    CORES,
    MAIN_IMAGES,
    PUBLIC_IMAGES,
    rows_of_cores,
)
from experiments.tables.reading import Results, TrainingRun
from experiments.tables.rows import (
    CONTROLS,
    Row,
    by_weight_decay,
    core_side,
    describe_accuracy,
    describe_morphing,
    group_in_rows,
    list_controls,
    summarise,
    title_of_dataset,
)
from experiments.tables.table import write_number
from mole.morphing import core_size
from utils.attack_reports import share_found
from utils.plots import as_png, pyplot
from utils.records import RUNS

PANELS = 12                         # rows that the accuracy figure shows; it says how many more
SIDES = (32, 64, 128)               # of images, in pixels
LINES = {"pretrained": ("C0", "s", "-"), "pretrained_frozen": ("C4", "D", "--"),
         "with_ac": ("C1", "o", "-"), "no_ac": ("C2", "^", "-"),
         "no_ac_standardised": ("C3", "v", "--")}
CORE_LINES = {"orthogonal": ("C0", "o"), "normal": ("C1", "s"), "uniform": ("C3", "^")}


def draw_figures(results: Results, with_formulas: bool = True) -> dict[str, bytes]:
    """Every figure by the name of its file; those whose records are missing are left out.
    `with_formulas`: also what formulas give of the paper's setting, without any record."""
    figures = {}
    if with_formulas or "attack_matrix" in results.records:
        figures["overhead"] = draw_overhead(results.records.get("attack_matrix"))
    rows = group_in_rows(results.runs)
    if rows:
        figures["accuracy"] = draw_accuracy(rows)
    if "attacks" in results.records:
        figures["known_pairs"] = draw_known_pairs(results.records["attacks"])
    if list_controls(rows) and "attack_matrix" in results.records:
        figures["without_aug_conv"] = draw_without_aug_conv(
            rows, results.records["attack_matrix"])
    if "attack_matrix" in results.records:
        curves = list_public_curves(results.records["attack_matrix"])
        if curves:
            figures["public_images"] = draw_public_images(curves)
    return figures


# -- What MoLe costs, and what it gives away

def draw_overhead(matrix: dict | None) -> bytes:
    """Cost by κ, by tiles and by the image's side; with the matrix of attacks, what morphed images
    alone give away."""
    figure, axes = pyplot().subplots(2, 2, figsize=(11, 8.4), layout="constrained")
    by_kappa, by_tile, given_away, by_side = axes.flat
    plot_overhead_by_kappa(by_kappa)
    plot_overhead_by_tile(by_tile)
    plot_memory_by_side(by_side)
    plot_given_away(given_away, matrix)
    for axis in axes.flat:
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.title.set_fontsize(10)
        if axis.lines:
            axis.legend(fontsize=8)
    return as_png(figure)


def plot_given_away(axis, matrix: dict | None):
    """How good the images are that come back without Aug-Conv; an empty panel without records."""
    sides = plot_morphed_alone(axis, matrix, psnr_of_images) if matrix is not None else set()
    if not sides:
        axis.axis("off")
        return
    nothing = next(row["data_only"]["mean_image"]["psnr"] for row in rows_of_cores(matrix)
                   if "mean_image" in row["data_only"])
    axis.axhline(nothing, color="k", ls=":", label="the mean image: nothing comes back")
    axis.set(title=write_number("Given away by morphed images alone, {:,} public images",
                                PUBLIC_IMAGES), xscale="log",
             xlabel="q, side of the core", ylabel="PSNR of the recovered images, dB",
             ylim=(0, 85))                               # with room for the legend
    axis.set_xticks(sorted(sides), map(str, sorted(sides)), rotation=45)


def plot_overhead_by_kappa(axis):
    network, made = vgg_macs("vgg16", 10), compute_overheads()
    morphing = [100 * morphing_macs(ENTRIES, kappa) / network for kappa in KAPPAS]
    core = [100 * ENTRIES / kappa / IMAGES for kappa in KAPPAS]
    aug_conv = [100 * made.growth] * len(KAPPAS)
    sent = [100 * made.transmission_by_entries] * len(KAPPAS)
    axis.plot(KAPPAS, aug_conv, "C1s-", label="dense Aug-Conv, growth of multiply-adds")
    axis.plot(KAPPAS, morphing, "C0o-", label="morphing, of multiply-adds")
    draw_published_computation(axis)
    axis.plot(KAPPAS, sent, "C3v-", label="dense Aug-Conv, entries (bytes: 4 times that)")
    axis.plot(KAPPAS, core, "C2^-", label="entries of M in its blocks (never sent)")
    draw_published_data(axis)
    axis.set(title="VGG-16 on CIFAR, by κ", xscale="log", yscale="log", xlabel="κ",
             ylabel="% of VGG-16's multiply-adds,\nor of the data set's entries",
             ylim=(0.01, 5e4))
    axis.set_xticks(KAPPAS, map(str, KAPPAS))


def draw_published_computation(axis):
    """In the colour of Aug-Conv's multiply-adds, and after what it is compared with."""
    axis.axhline(100 * PUBLISHED_COMPUTATION, color="C1", ls=":", lw=1.8,
                 label="published: 9% of computation")


def draw_published_data(axis):
    """In the colour of Aug-Conv's size, and after what it is compared with."""
    axis.axhline(100 * PUBLISHED_DATA, color="C3", ls="--", lw=1.8,
                 label="published: 5.12% of data")


def plot_overhead_by_tile(axis):
    tiles = compute_overheads().tiles
    macs = [100 * tile.growth for tile in tiles]
    sent = [100 * tile.share_of_entries for tile in tiles]
    axis.plot(TILES, macs, "C1s-", label="Aug-Conv, growth of multiply-adds")
    draw_published_computation(axis)
    axis.plot(TILES, sent, "C3v-", label="Aug-Conv, entries (bytes: 4 times that)")
    draw_published_data(axis)
    axis.set(title="The same by tiles (32: the paper's one tile)", xscale="log", yscale="log",
             xlabel="side of a tile, pixels", ylim=(0.01, 5e4),
             ylabel="% of VGG-16's multiply-adds,\nor of the data set's entries")
    axis.set_xticks(TILES, map(str, TILES))


def plot_memory_by_side(axis):
    dense = [cost_of_tile(side, side).bytes / 1e6 for side in SIDES]
    axis.plot(SIDES, dense, "C3v-", label="dense: grows with m⁴")
    for tile, style in ((16, "C0o-"), (8, "C1s-"), (4, "C2^-")):
        sizes = [cost_of_tile(tile, side).bytes / 1e6 for side in SIDES]
        axis.plot(SIDES, sizes, style, label=f"tiles of side {tile}")
    axis.set(title="Size of Aug-Conv, 3 to 64 channels, float32", xscale="log", yscale="log",
             xlabel="side of the image, pixels", ylabel="MB", ylim=(0.1, 1e7))
    axis.set_xticks(SIDES, map(str, SIDES))


# -- Accuracy over the epochs

def draw_accuracy(rows: list[Row]) -> bytes:
    """A panel for each row, at most PANELS; a line says what bands are, and how many more rows
    there are."""
    shown, more = rows[:PANELS], len(rows) - PANELS
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure, axes = pyplot().subplots(lines, columns, squeeze=False, layout="constrained",
                                     figsize=(max(6, 4.4 * columns), 4 * lines))
    for axis in axes.flat[len(shown):]:
        axis.axis("off")
    for axis, row in zip(axes.flat, shown, strict=False):
        plot_row(axis, row)
    words = []
    if any(axis.collections for axis in axes.flat):
        words.append("bands: from the lowest seed to the highest")
    if more > 0:
        words.append(f"and {more} more {'row' if more == 1 else 'rows'}: see tables.md")
    figure.supxlabel("; ".join(words), fontsize=10)
    return as_png(figure)


def plot_row(axis, row: Row):
    title = "\n".join(break_between_facts(words) for words in (row.setting, row.morphed))
    axis.set_title(title, fontsize=9, parse_math=False)
    runs = {name: runs for name, runs in row.runs.items() if runs}
    if len(row.any_run.curve) == 1:
        write_accuracies(axis, runs)
        return
    for name, same in runs.items():
        by_decay = by_weight_decay(same)
        for place, (decay, alike) in enumerate(by_decay.items()):
            words = f", weight decay {decay:g}" if len(by_decay) > 1 else ""
            plot_seeds(axis, name, alike, words, opacity=1 / (1 + place))
    axis.set(xlabel="epoch", ylabel="test accuracy, %", ylim=(0, 100))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def break_between_facts(words: str) -> str:
    """Lines of a title that do not break within what stands between two commas."""
    unbroken = "\u00a0"                                  # a space that `fill` keeps
    return fill(words.replace(" ", unbroken).replace("," + unbroken, ", "), 60)


def write_accuracies(axis, runs: dict[str, list[TrainingRun]]):
    """One epoch is a number for each network, and not a curve."""
    lines = [f"{RUNS[name].title}: {describe_accuracy(same)}" for name, same in runs.items()]
    axis.text(0.5, 0.5, "after one epoch\n\n" + "\n".join(lines), ha="center", va="center",
              fontsize=9, transform=axis.transAxes)
    axis.axis("off")


def plot_seeds(axis, name: str, runs: list[TrainingRun], words: str, opacity: float):
    """The mean over seeds as a line, and a band from the lowest seed to the highest. `words`: what
    the legend says besides the network."""
    epochs = [epoch["epoch"] for epoch in runs[0].curve]
    curves = [[100 * epoch["test_accuracy"] for epoch in run.curve] for run in runs]
    by_epoch = list(zip(*curves, strict=True))
    colour, marker, line = LINES[name]
    seeds = len({run.seed for run in runs})
    label = RUNS[name].title + words + (f" ({seeds} seeds)" if seeds > 1 else "")
    axis.plot(epochs, list(map(mean, by_epoch)), color=colour, marker=marker, ls=line, ms=3,
              lw=1.2, alpha=opacity, label=label)
    if len(curves) > 1:
        axis.fill_between(epochs, list(map(min, by_epoch)), list(map(max, by_epoch)),
                          color=colour, alpha=0.2, lw=0)


# -- Known pairs

def draw_known_pairs(record: dict) -> bytes:
    """What comes back from more and more known pairs; a line marks how many determine the core."""
    points = record["known_pairs"]
    pairs = [point["pairs"] for point in points]
    quality = [point["psnr"] for point in points]
    least, data = points[-1]["least"], record["data"]
    figure, axis = pyplot().subplots(figsize=(6.4, 4.4), layout="constrained")
    axis.plot(pairs, quality, "C0o-", ms=4, label="recovered images")
    axis.axvline(least, color="k", ls=":", label=f"{least} pairs determine the core")
    for point in points:
        if point["pairs"] >= least:
            axis.annotate(f"{point['psnr']:.0f} dB", (point["pairs"], point["psnr"]),
                          (-6, 4), textcoords="offset points", ha="right", fontsize=8)
    dataset = title_of_dataset(data["dataset"])
    axis.set(xlabel="known pairs of plain and morphed images", ylabel="PSNR, dB",
             xlim=(0, None), ylim=(0, 1.15 * max(quality)))
    axis.set_title(f"Without Aug-Conv: {dataset}, {describe_core(data)}", fontsize=10,
                   parse_math=False)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return as_png(figure)


def describe_core(data: dict) -> str:
    morphing = data["morphing"]
    return f"{describe_morphing(morphing)}; q = {core_side(morphing, data)}"


# -- What morphed images alone give to a network, and to an adversary

def draw_without_aug_conv(rows: list[Row], matrix: dict) -> bytes:
    """Accuracy of networks without Aug-Conv, and images re-identified from morphed images alone,
    both over the side of the core."""
    figure, (learning, attack) = pyplot().subplots(2, 1, figsize=(7, 7), sharex=True,
                                                   layout="constrained")
    controls = list_controls(rows)
    sides = plot_controls(learning, controls) | plot_morphed_alone(attack, matrix, percent_found)
    learning.set_title(f"Trained on morphed images alone\n{controls[0].setting}", fontsize=9,
                       parse_math=False)
    attack.set_title(write_number("Re-identified of {0[0]:,} morphed images alone, with {0[1]:,} "
                                  "public images", (ATTACKED_IMAGES, PUBLIC_IMAGES)), fontsize=9)
    attack.set_xlabel("q, side of the core")
    ticks = sorted(sides)
    learning.set(ylabel="test accuracy, %", ylim=(0, 100))
    lowest = max(0, math.floor(min(attack.get_ylim()[0], 99)))
    attack.set(ylabel=f"re-identified images, %, from {lowest} on", ylim=(lowest, 100.05))
    for axis in (learning, attack):
        axis.set_xscale("log")
        axis.minorticks_off()
        axis.set_xticks(ticks, map(str, ticks), fontsize=7, rotation=45)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    return as_png(figure)


def plot_controls(axis, rows: Sequence[Row]) -> set[int]:
    """Draws accuracy over the side of the core; gives the sides that are there."""
    sides = set()
    plain = [one.mean for row in rows for one in summarise(row.runs["pretrained"])]
    if plain:
        axis.axhline(mean(plain), color=LINES["pretrained"][0], ls="-", lw=1.2,
                     label=RUNS["pretrained"].title)
    for name in CONTROLS:
        for by_tiles, blocks, marker in ((False, "κ", "o"), (True, "tiles", "s")):
            shown = [row for row in rows
                     if row.runs[name] and bool(row.morphing["tile"]) == by_tiles]
            if shown:
                points = sorted(point_of_control(row, name) for row in shown)
                colour, _, line = LINES[name]
                axis.plot(*zip(*points, strict=True), color=colour, ls=line, ms=5, marker=marker,
                          label=f"{RUNS[name].title}, {blocks}, {describe_cores(shown)}")
                sides |= {q for q, _ in points}
    return sides


def point_of_control(row: Row, name: str) -> tuple[int, float]:
    """The side of the core, and the accuracy of a network without Aug-Conv in percent."""
    runs = row.runs[name]
    return core_side(row.morphing, runs[0].data), mean(one.mean for one in summarise(runs))


def describe_cores(rows: Sequence[Row]) -> str:
    """How the cores of some rows were drawn, and as what the images were delivered."""
    kinds = {f"{row.morphing['morph_distribution']} {row.morphing['delivery_dtype']}"
             for row in rows}
    return " and ".join(sorted(kinds))


def psnr_of_images(report: dict) -> float | None:
    """Of recovered images, in decibels; None where mirror images came back, whose PSNR says
    nothing."""
    return None if share_found(report).is_mirrored else report["psnr"]


def percent_found(report: dict) -> float:
    """Private images that were re-identified, of all."""
    return 100 * share_found(report).share


def plot_morphed_alone(axis, matrix: dict, value: Callable[[dict], float | None]) -> set[int]:
    """Draws a value of what comes back from morphed images alone, over the side of the core; gives
    the sides that are there."""
    sides = set()
    for core in CORES:
        for is_tiled in (False, True):
            points = []
            for row in rows_of_cores(matrix):
                is_shown = (row["morph_distribution"] == core
                            and "reidentified" in row["data_only"]
                            and bool(row["tile"]) == is_tiled)
                found = value(row["data_only"]) if is_shown else None
                if found is not None:
                    points.append((side_of_case(row), found))
            if points:
                colour, marker = CORE_LINES[core]
                words = f"{core} core, {'tiles' if is_tiled else 'κ'}"
                axis.plot(*zip(*sorted(points), strict=True), color=colour, marker=marker, ms=7,
                          mfc="none", ls="--" if is_tiled else "-", label=words)
                sides |= {q for q, _ in points}
    return sides


def side_of_case(row: dict) -> int:
    """q, of the colour images that the matrix attacks."""
    side = row["image_size"]
    return core_size((3, side, side), row["kappa"] or 1, row["tile"])


# -- Morphed images alone: how many public images, and which

@dataclass(frozen=True)
class PublicCurve:
    """What is re-identified with a core at κ = 1: reports of attack_data, by public images."""

    core: str
    same: list[dict]                # public images of the same data set, from few to many
    other: list[dict]               # of another data set, one for each key


def list_public_curves(matrix: dict) -> list[PublicCurve]:
    """A curve for each core that was attacked with several numbers of public images."""
    curves = []
    for core in CORES:
        same, other = {}, []
        for row in matrix["table"]:
            is_shown = (row["morph_distribution"] == core and row["kappa"] == 1
                        and not row["tile"] and row["private"] == ATTACKED_IMAGES
                        and row["delivery_dtype"] == "float32" and row["dataset"] == MAIN_IMAGES)
            if not is_shown:
                continue
            for attack in ("data_only", "data_few"):
                if "reidentified" in row.get(attack, {}):
                    same[row[attack]["public_images"]] = row[attack]
            if "reidentified" in row.get("data_other", {}):
                other.append(row["data_other"])
        if len(same) > 2:
            curves.append(PublicCurve(core, [same[count] for count in sorted(same)], other))
    return curves


def draw_public_images(curves: list[PublicCurve]) -> bytes:
    """Re-identified images over the number of public images, and with another data set's."""
    figure, axis = pyplot().subplots(figsize=(7, 4.6), layout="constrained")
    for curve in curves:
        plot_public_curve(axis, curve)
    counts = sorted({report["public_images"] for curve in curves for report in curve.same})
    axis.set(xscale="log", xlabel="public images", ylabel="re-identified images, %")
    axis.minorticks_off()
    axis.set_xticks(counts, [write_number("{:,}", count) for count in counts])
    morphed = write_number("{:,}", ATTACKED_IMAGES)
    axis.set_title(f"{title_of_dataset(MAIN_IMAGES)} from {morphed} morphed images alone, κ = 1",
                   fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    return as_png(figure)


def plot_public_curve(axis, curve: PublicCurve):
    """A line for the same data set, and a star for each key with another one."""
    colour, marker = CORE_LINES[curve.core]
    counts = [report["public_images"] for report in curve.same]
    shares = [100 * share_found(report).share for report in curve.same]
    axis.plot(counts, shares, color=colour, marker=marker, ms=5, clip_on=False,
              label=f"{curve.core} core, public images of the same data set")
    if curve.other:
        counts = [report["public_images"] for report in curve.other]
        shares = [100 * share_found(report).share for report in curve.other]
        dataset = title_of_dataset(curve.other[0]["public_dataset"])
        axis.plot(counts, shares, color=colour, marker="*", ms=11, ls="", mfc="none",
                  clip_on=False, label=f"{curve.core} core, of {dataset}, a star for each key")
    plot_mirrored(axis, [*curve.same, *curve.other])


def plot_mirrored(axis, reports: list[dict]):
    """Marks the points where mirror images came back."""
    for report in reports:
        share, is_mirrored = share_found(report)
        if is_mirrored:
            axis.annotate("left and right exchanged", (report["public_images"], 100 * share),
                          (4, -12), textcoords="offset points", ha="left", fontsize=7)
