"""Augmentation behind Aug-Conv: accuracy of training runs, and tables of the experiment."""

from dataclasses import dataclass

from experiments.tables.equality import compare_row
from experiments.tables.measured import describe_blocks, outcome
from experiments.tables.published import not_measured
from experiments.tables.reading import Results, TrainingRun, describe_load, source_of
from experiments.tables.rows import (
    Row,
    describe_accuracy,
    group_in_rows,
    points_above,
    setting_of,
)
from experiments.tables.table import Column, Table, table_of_records, write_number
from utils.records import RUNS

LARGEST_ERROR_RATIO = 1.5           # of the features' error, of Aug-Conv's own
LARGEST_EPOCH_RATIO = 1.3           # of an epoch's seconds by tiles, of those without augmentation


# -- Accuracy

@dataclass(frozen=True)
class Augmented:
    """A row of runs with augmentation, and the plain runs that differ in nothing but that."""

    row: Row
    not_augmented: list[TrainingRun]

    @property
    def with_aug_conv(self) -> list[TrainingRun]:
        return self.row.runs["with_ac"]

    @property
    def seeds(self) -> int:
        """Of the runs with Aug-Conv."""
        return len({run.seed for run in self.with_aug_conv})

    @property
    def above_plain(self) -> float | None:
        """Above the plain network with the same augmentation."""
        return points_above(self.with_aug_conv, self.row.runs["pretrained"])

    @property
    def above_partner(self) -> float | None:
        """Above its fair partners, with the same augmentation."""
        fair = [one.mean for one in compare_row(self.row) if one.is_fair]
        return min(fair, default=None)

    @property
    def above_not_augmented(self) -> float | None:
        return points_above(self.with_aug_conv, self.not_augmented)


def list_augmented(results: Results) -> list[Augmented]:
    """The rows of runs with augmentation, the most training first."""
    found = []
    for row in group_in_rows(results.runs):
        if row.augment == "none":
            continue
        without = setting_of(row.any_run) | {"augment": "none"}
        not_augmented = [run for run in results.runs
                         if run.run == "pretrained" and setting_of(run) == without]
        found.append(Augmented(row, not_augmented))
    return found


def make_augmented(results: Results) -> Table:
    """Accuracy with augmentation, beside plain with it and without."""
    rows = []
    for one in list_augmented(results):
        option = f" --augment {one.row.augment}"
        cells = [describe_runs(one.not_augmented, RUNS["pretrained"].command)]
        for name in ("pretrained", "pretrained_frozen", "with_ac"):
            cells.append(describe_runs(one.row.runs[name], RUNS[name].command + option))
        rows.append([one.row.setting, one.row.morphed, *cells, describe_points(one.above_plain),
                     describe_points(one.above_not_augmented)])
    header = ["setting", "morphing", "plain, not augmented", "plain, augmented",
              "plain, augmented, same first layer", "with Aug-Conv, augmented",
              "above plain, augmented", "above plain, not augmented"]
    return Table("Accuracy with augmentation.", header, rows,
                 "Test accuracy after the last epoch. *Above*: points of accuracy with Aug-Conv, "
                 "less those of the plain network of the same seed; below it where negative. Where "
                 "there are several weight decays, the least.")


def describe_runs(runs: list[TrainingRun], command: str) -> str:
    return describe_accuracy(runs) or not_measured(command)


def describe_points(points: float | None) -> str:
    return "not measured" if points is None else f"{points:+.2f}"


def describe_augmented(results: Results) -> str | None:
    """The accuracies of the most training in two sentences for README; None where there are none.
    """
    found = [one for one in list_augmented(results) if one.with_aug_conv]
    if not found:
        return None
    first = found[0]
    same = [one for one in found if one.row.setting == first.row.setting]
    morphed = ", ".join(f"{describe_accuracy(one.with_aug_conv)} ({one.row.morphed})"
                        for one in same)
    others = (first.not_augmented, first.row.runs["pretrained"],
              first.row.runs["pretrained_frozen"])
    plain = [describe_accuracy(runs) or "not measured" for runs in others]
    return (f"{first.row.title}: plain network {plain[0]} without it, {plain[1]} with it. Fair "
            f"partner with it {plain[2]}, with Aug-Conv {morphed}")


# -- The experiment's record

FEATURES_COLUMNS = [
    Column("core", "morph_distribution"),
    Column("blocks", "blocks", meaning="κ, copies of the core in *M*, or *s*, the side of tiles"),
    Column("delivered as", "delivery_dtype"),
    Column("Aug-Conv's own", "error_of_aug_conv", "{:.1e}", "relative error of its features "
           "against the plain first layer in float64"),
    Column("flips", "error_of_flips", "{:.1e}", "the same of mirrored images, of all entries"),
    Column("crops", "error_of_crops", "{:.1e}", "the same of shifted images, off the rim"),
    Column("flips / own", "ratio_of_flips", "{:.2f}"),
    Column("crops / own", "ratio_of_crops", "{:.2f}"),
    Column("rim", "rim", "{:.1%}", "entries where windows cross an edge"),
    Column("delivered", "delivered", meaning="no where gen_augconv.py refuses, since Aug-Conv's "
           "own error is too large"),
]
COMPOSING_COLUMNS = [
    Column("core", "morph_distribution"),
    Column("blocks", "blocks"),
    Column("Aug-Conv", "megabytes", "{:.1f} MB"),
    Column("mirrored Aug-Conv", "megabytes_of_mirrored", "{:.1f} MB"),
    Column("composing one", "seconds", "{:.3g} s"),
    Column("composing both", "seconds_of_both", "{:.3g} s"),
]
EPOCH_COLUMNS = [
    Column("blocks", "blocks"),
    Column("features", "features", meaning="kept, or computed batch by batch"),
    Column("not augmented", "seconds", "{:.1f} s", "an epoch"),
    Column("crops and flips", "seconds_augmented", "{:.1f} s", "an epoch"),
    Column("ratio", "ratio", "{:.2f}"),
]
ATTACK_COLUMNS = [
    Column("first layer", "words"),
    Column("delivery", "delivery", meaning="core, blocks, dtype"),
    Column("first layer known", "known", meaning="PSNR from one Aug-Conv, and channels right"),
    Column("blind, one Aug-Conv", "one", meaning="PSNR and SSIM; *up to colour*: under the best "
           "mixture of colours, which was not found"),
    Column("not found", "left_open", meaning="what the attack to the left leaves out of its "
           "scores"),
    Column("blind, both Aug-Convs", "both"),
    Column("not found by both", "left_open_by_both"),
]


def make_features(results: Results) -> Table:
    record = results.records["augmentation"]
    rows = [row | {"blocks": describe_blocks(row), "delivered": not row["refused"]}
            for row in record["features"]]
    return table_of_records(
        "Features of augmented images, as the developer makes them.", FEATURES_COLUMNS, rows,
        f"{record['features'][0]['images']} images, {describe_source(record)}.")


def make_composing(results: Results) -> Table:
    record = results.records["augmentation"]
    rows = []
    for row in record["composing"]:
        rows.append(row | {"blocks": describe_blocks(row), "megabytes": row["bytes"] / 1e6,
                           "megabytes_of_mirrored": row["bytes_of_mirrored"] / 1e6})
    return table_of_records("The second Aug-Conv, for flips.", COMPOSING_COLUMNS, rows,
                            f"Medians. {describe_source(record)}; {describe_load(record)}.")


def make_epochs(results: Results) -> Table:
    record = results.records["augmentation"]
    rows = []
    for row in record["epochs"]:
        features = "kept" if row["kept"] else "batch by batch"
        rows.append(row | {"blocks": describe_blocks(row), "features": features})
    images = write_number("{:,}", record["epochs"][0]["images"])
    return table_of_records(
        "An epoch with augmentation.", EPOCH_COLUMNS, rows,
        f"{images} images, float32. Medians of epochs in turns. {describe_source(record)}; "
        f"{describe_load(record)}.")


def make_attacks(results: Results) -> Table:
    """What both Aug-Convs give away, beside one; a table without rows where no layer's flips can be
    delivered."""
    record = results.records["augmentation"]
    title = "What both Aug-Convs give away, the first layer unknown."
    if not record["attacks"]:
        return Table(title, [], [])
    rows = []
    for row in record["attacks"]:
        one, both, known = row["blind"], row["blind_with_mirrored"], row["known_first_layer"]
        right = f"{known.get('channels_right', 0)} of {known['channels']} channels"
        rows.append({
            "words": f"{row['model']}: {row['layer']}",
            "delivery": f"{row['morph_distribution']}, {describe_blocks(row)}, "
                        f"{row['delivery_dtype']}",
            "known": f"{outcome(known)}, {right}",
            "one": describe_blind(one), "left_open": one.get("left_open", "nothing"),
            "both": describe_blind(both), "left_open_by_both": both.get("left_open", "nothing")})
    return table_of_records(title, ATTACK_COLUMNS, rows,
                            f"{record['attacks'][0]['images']} images. "
                            f"First layers of networks other than {record['model']} are untrained; "
                            f"{describe_source(record)}.")


def describe_blind(report: dict) -> str:
    """PSNR and SSIM; up to colour where the colours were not found; or why it fails."""
    if "psnr" in report:
        return f"{report['psnr']:.1f} dB, {report['ssim']:.3f}"
    if "up_to_colour" in report:
        found = report["up_to_colour"]
        return f"{found['psnr']:.1f} dB, {found['ssim']:.3f} up to colour"
    return outcome(report)


def describe_source(record: dict) -> str:
    return f"{record['model']}, {record['weights']} first layer. {source_of(record)}"
