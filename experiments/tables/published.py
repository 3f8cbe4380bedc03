"""Every figure that the abstract and the authors' README publish, beside what is so."""

from dataclasses import dataclass
from typing import NamedTuple

from experiments.tables.formulas import (
    PUBLISHED_ACCURACY,
    PUBLISHED_LOW_ACCURACY,
    Overheads,
    compute_overheads,
)
from experiments.tables.reading import (
    BENCH,
    EXPERIMENTS,
    TRAINING,
    Results,
    machine_in_words,
    seconds_on_aug_conv,
)
from experiments.tables.rows import Row, describe_accuracy, group_in_rows
from experiments.tables.table import Table, write_number, write_power

FORMULA_ONLY = "a formula: nothing to measure"


@dataclass(frozen=True)
class Figure:
    """A row of the table; all in words."""

    figure: str
    published: str
    formula: str
    computed: str
    measured: str = FORMULA_ONLY


def make_published(results: Results) -> Table:
    figures = [*accuracy_figures(results), *computation_figures(results), *data_figures(),
               attack_figure(results), *gazelle_figures(results), *tile_figures()]
    rows = [[one.figure, one.published, one.formula, one.computed, one.measured]
            for one in figures]
    return Table("Every figure that is published, and those that are left out.",
                 ["figure", "published", "formula", "computed", "measured here"], rows,
                 "*Published*: in the paper's abstract or its authors' README; the full text was "
                 "not at hand. VGG-16 on CIFAR: α = 3, *m* = *n* = 32, β = 64, *p* = 3, κ = 1.")


NOT_YET = "not measured yet: "     # and then what measures it


def not_measured(command: str) -> str:
    """`command` in code, unless it is a sentence that has code in it already."""
    code = command if "`" in command else f"`{command}`"
    return NOT_YET + code


def find_paper_row(results: Results, name: str) -> Row | None:
    """The row of the most training with the paper's core that has a network (a key of RUNS) and the
    plain one."""
    for row in group_in_rows(results.runs):
        if row.is_papers and row.runs["pretrained"] and row.runs[name]:
            return row
    return None


def accuracy_figures(results: Results) -> list[Figure]:
    return [
        Figure("accuracy with Aug-Conv",
               f"{PUBLISHED_ACCURACY}, “close to `pretrain.py`” (authors' README)",
               "T·C_ac = D·M·M⁻¹·C = D·C",
               "equal features", beside_plain(results, "with_ac")),
        Figure("accuracy without Aug-Conv", PUBLISHED_LOW_ACCURACY, "none", "none",
               beside_plain(results, "no_ac"))]


def beside_plain(results: Results, name: str) -> str:
    """The accuracy of a network (a key of RUNS) with the paper's core, the plain one's, and with
    Aug-Conv that of the fair partner."""
    if not any(run.run == name for run in results.runs):
        return not_measured(TRAINING)
    row = find_paper_row(results, name)
    if row is None:
        return "not measured with the paper's core (κ = 1, uniform) and a plain network beside it"
    words = describe_accuracy(row.runs[name])
    if name == "with_ac" and row.runs["pretrained_frozen"]:
        words += f"; its fair partner {describe_accuracy(row.runs['pretrained_frozen'])}"
    return f"{words}; plain {describe_accuracy(row.runs['pretrained'])} ({row.setting})"


def on_each_processor(results: Results, form: str, *names: str) -> str:
    """`form` filled with rows of the speed benchmark, for each processor."""
    parts = []
    for record in results.benches.values():
        rows = {row["name"]: row for row in record["table"]}
        if all(name in rows for name in names):
            words = write_number(form, rows)
            parts.append(f"{words} ({machine_in_words(record)})")
    return "; ".join(parts) or not_measured(BENCH)


class Epochs(NamedTuple):
    """The seconds of epochs with Aug-Conv, of those of a plain one, in a record of the speed."""

    bench: str
    dense: float                # the paper's Aug-Conv, batch by batch
    kept: float                 # the same, its output kept for all images
    tiles: float                # 8×8 tiles, batch by batch


def find_epochs(results: Results) -> Epochs | None:
    """Of the first processor that has them."""
    for bench, record in results.benches.items():
        ratios = {row["name"]: row["ratio"] for row in record["table"]}
        if {"epoch_not_kept", "epoch", "epoch_tiles"} <= ratios.keys():
            return Epochs(bench, ratios["epoch_not_kept"], ratios["epoch"], ratios["epoch_tiles"])
    return None


class Delivered(NamedTuple):
    """A delivery by 8×8 tiles in int8, in a record of the speed."""

    bench: str
    times: float                # the bytes that are sent, over those of the images


def find_delivered(results: Results) -> Delivered | None:
    """Of the first processor that has it: it is the same on every machine."""
    for bench, record in results.benches.items():
        for row in record["table"]:
            if row["name"] == "delivered":
                return Delivered(bench, row["ratio"])
    return None


def computation_figures(results: Results) -> list[Figure]:
    made = compute_overheads()
    products = write_number("{:,}", made.likely_published_macs)
    network = write_number("{:,}", made.network_macs)
    return [
        Figure("computation", "9%", "αp²m²n² over the network's multiply-adds, our guess at what "
               "was counted", f"{products} / {network} = {made.likely_published_overhead:.2%}"),
        Figure("computation of the developer", "not published", "(αm²·βn² − αβp²n²) over the "
               "network's: growth with the dense Aug-Conv in place of the first layer",
               f"{made.growth:.1%}",
               on_each_processor(results, "an epoch takes {0[epoch_not_kept][ratio]:.2f} times a "
                                 "plain one; {0[epoch][ratio]:.2f} times with Aug-Conv's output "
                                 "kept",
                                 "epoch_not_kept", "epoch")),
        Figure("computation of the provider", "not published", "αm²·q over the network's, once "
               "for each image", f"{made.morphing_overhead:.2%}",
               on_each_processor(results, "{0[morphing][here]:,.0f} images/s", "morphing"))]


def data_figures() -> list[Figure]:
    made = compute_overheads()
    return [
        Figure("data transmission", "5.12%", "q·αm² over the data set's entries, 60 000·αm²: a "
               "matrix as large as M, which is not sent",
               f"3072/60000 = {made.published_transmission:.2%}"),
        Figure("data transmission, what is sent", "not published", "entries of Aug-Conv, αm²·βn², "
               "over the data set's", f"{made.transmission_by_entries:.0%}"),
        Figure("data transmission, bytes", "not published", "float32 morphed images and Aug-Conv "
               "over uint8 images", describe_bytes(made))]


def describe_bytes(made: Overheads) -> str:
    morphed = write_number("{:,}", made.morphed_bytes)
    aug_conv = write_number("{:,}", made.aug_conv_bytes)
    plain = write_number("{:,}", made.plain_bytes)
    return f"{made.transmission_by_bytes:.0%} more: {morphed} and {aug_conv} for {plain}"


def attack_figure(results: Results) -> Figure:
    measured = not_measured(EXPERIMENTS["attacks"])
    if "attacks" in results.records:
        measured = describe_known_layer(results.records["attacks"])
    return Figure("chance of an attack's success", "7.9·10⁻⁹⁰", "1/64!, guessing the order of 64 "
                  "channels", write_power(compute_overheads().order_guess), measured)


def seconds_of_known_layer(record: dict) -> str:
    """Of the attack with the first layer known, with what it has to compute of features first."""
    return f"{seconds_on_aug_conv(record, 'known_first_layer'):.1f}"


def describe_known_layer(record: dict) -> str:
    """What the attack with the first layer known found, by a record of attack.py."""
    found = record["known_first_layer"]
    if "psnr" not in found:
        return f"this attack fails: {found.get('failed', 'no reason is recorded')}"
    order = "the order is not found"
    if "channels_right" in found:
        order = f"{found['channels_right']} of {found['channels']} channels right"
    return (f"no guess is needed: {order}, images at {found['psnr']:.0f} dB in "
            f"{seconds_of_known_layer(record)} s")


def describe_encryption(record: dict) -> tuple[str, str]:
    """What CKKS takes for the first layer, by a record of experiments.homomorphic, and MoLe beside
    it: time and bytes in words."""
    mole = next(row for row in record["table"] if row["way"].startswith("MoLe"))
    seconds = (f"CKKS takes {record['seconds_ratio']:.0f} times as long as the plain first layer, "
               f"MoLe {mole['seconds_ratio']:.0f} times")
    sent = (f"CKKS sends {record['bytes_ratio']:.0f} times the bytes of the pixels for the first "
            f"layer, MoLe {mole['expansion']:.1f} times")
    return seconds, sent


def gazelle_figures(results: Results) -> list[Figure]:
    made = compute_overheads()
    seconds = sent = not_measured(EXPERIMENTS["he"])
    if "he" in results.records:
        record = results.records["he"]
        seconds, sent = describe_encryption(record)
    return [
        Figure("GAZELLE, computation", "10 000×", "could not be derived: published only",
               "no formula", seconds),
        Figure("GAZELLE, data", "421 000×", "1236 MiB (GAZELLE, USENIX Security 2018) over 3072 "
               "bytes", write_number("{:,.0f}×", made.gazelle_ratio), sent),
        Figure("GAZELLE, chance of success", "2.9·10⁻³⁰", "could not be derived; 2⁻¹²⁸ has the "
               "digits, so the exponent looks like a slip of the pen",
               write_power(made.gazelle_guess))]


def tile_figures() -> list[Figure]:
    found = []
    for tile in compute_overheads().tiles:
        macs = write_number("{:,}", tile.macs)
        sent = write_number("{:,}", tile.bytes)
        found.append(Figure(
            f"tiles of side {tile.tile}", "not published", "Aug-Conv's multiply-adds, and the "
            "network's growth by them; its bytes, of the images'",
            f"{macs}, growth {tile.growth:.1%}; {sent} = {tile.share_of_data:.1%}"))
    return found
