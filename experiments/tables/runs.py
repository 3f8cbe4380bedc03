"""Tables of training runs, grouped by the provenance in their records and by nothing else."""

import re
from itertools import product
from statistics import mean, stdev
from typing import NamedTuple

from experiments.tables.formulas import equivalence
from experiments.tables.tables import Table, formatted, table
from utils.provenance import result_name

NETWORKS = {                        # a run's name: title and command
    "pretrained": ("plain network", "pretrain.py"),
    "pretrained_frozen": ("plain, same frozen first layer", "pretrain.py --frozen_first_layer"),
    "with_ac": ("with Aug-Conv", "train_with_ac.py"),
    "no_ac": ("without Aug-Conv", "train_no_ac.py"),
    "no_ac_standardised": ("without, standardised", "train_no_ac.py --standardise")}
PAPER = {"kappa": 1, "tile": 0, "morph_distribution": "uniform", "image_padding": 0,
         "delivery_dtype": "float32", "shuffle_channels": True}
PLAIN = "—"
DATASETS = {"cifar10-jpeg": "CIFAR-10 (JPEG)", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100",
            "clothing": "Clothing (CC0)"}


class Row(NamedTuple):
    """Runs that may be compared; plain ones stand in each row of their setting."""

    setting: str                    # in words: a provenance but for `run`, morphing, weight decay
    morphing: str                   # in words, see morphed
    runs: dict[str, list[dict]]     # of each network


def morphed(how: dict) -> str:
    """How images were morphed, in words: κ or the tile's side s, the core, what is unusual."""
    if "morph_distribution" not in how:
        return PLAIN
    return ", ".join([f"s = {how['tile']}" if how["tile"] else f"κ = {how['kappa']}",
                      how["morph_distribution"], *(f"{key} {how[key]}" for key in list(PAPER)[3:]
                                                   if how[key] != PAPER[key])])


def in_rows(runs: list[dict]) -> list[Row]:
    """Training runs in rows, the most training first, sweeps of κ last: by a title and all settings
    in which several of it differ, but the weight decay (plain and morphed runs have their own)."""
    def shared(of: dict) -> set:
        return {(key, str(value)) for key, value in of.items()
                if key not in ("run", "weight_decay", *PAPER)}

    def title(of: dict) -> str:
        return formatted("{dataset}, {model}, {train_images:,} images, {epochs} epochs", of | {
            "dataset": DATASETS.get(of["dataset"], of["dataset"]),
            "model": of["model"].replace("vgg", "VGG-")})

    common, found = {}, {}
    for of in (run["provenance"] for run in runs):
        common.setdefault(title(of), shared(of)).intersection_update(shared(of))
    for run in sorted(runs, key=lambda run: -run["provenance"]["train_images"] *
                      run["provenance"]["epochs"]):
        of = run["provenance"]
        own = sorted(", {} {}".format(*pair) for pair in shared(of) - common[title(of)])
        runs_of = found.setdefault(title(of) + "".join(own), {}).setdefault(morphed(of), {})
        runs_of.setdefault(of["run"], []).append(run)
    rows = [Row(words, way, {name: (ways[way] | ways.get(PLAIN, {})).get(name, [])
                             for name in NETWORKS})
            for words, ways in found.items() for way in sorted(ways, key=lambda way: (
                way != morphed(PAPER), len(way), way)) if way != PLAIN or len(ways) == 1]
    return sorted(rows, key=lambda row: re.match("κ = (?!1,)", row.morphing) is not None)


def by_seed(runs: list[dict]) -> dict[float, dict[int, float]]:
    """Accuracy in percent by weight decay and seed; the mean, where one seed ran several times."""
    found: dict = {}
    for run in runs:
        seeds = found.setdefault(run["provenance"]["weight_decay"], {})
        seeds.setdefault(run["seed"], []).append(100 * run["accuracy"])
    return {decay: {seed: mean(values) for seed, values in seeds.items()}
            for decay, seeds in sorted(found.items())}


def format_accuracy(runs: list[dict]) -> str:
    """The mean and standard deviation over seeds; unlike weight decays are told apart."""
    found = by_seed(runs)
    return "; ".join(
        f"{mean(seeds.values()):.2f}"
        + (f" ± {stdev(seeds.values()):.2f}%, {len(seeds)} seeds" if len(seeds) > 1 else "%")
        + (f", weight decay {decay:g}" if len(found) > 1 else "") for decay, seeds in found.items())


def accuracy(records: dict) -> Table:
    """Test accuracy of each network, sweeps of κ and tiles too; a missing run names its command."""
    cells = [[row.setting, row.morphing, *(
        format_accuracy(row.runs[name]) or f"not run: `python {command} …`"
        for name, (_, command) in NETWORKS.items())] for row in in_rows(records["accuracy"])]
    whole = Table("Test accuracy after the last epoch.",
                  ["setting", "morphing", *(title for title, _ in NETWORKS.values())], cells,
                  "± is the deviation over seeds; … stands for the options of the row's others.")
    return whole._replace(short=whole._replace(rows=cells[:6]))


def compared(records: dict) -> list[dict]:
    """Each row with Aug-Conv against its fair partner, the plain network behind the same frozen
    layer: points of difference, paired by seed, and the test of equality for several seeds."""
    found = []
    for row in in_rows(records["accuracy"]):
        for (decay, mine), (other, partner) in product(*(
                by_seed(row.runs[name]).items() for name in ("with_ac", "pretrained_frozen"))):
            points = [mine[seed] - partner[seed] for seed in sorted(mine) if seed in partner]
            if points:
                found.append((equivalence(points, margin=1) if len(points) > 1 else {}) | {
                    "setting": row.setting, "morphing": row.morphing, "mean": mean(points),
                    "seeds": len(points),
                    "each_seed": ", ".join(f"{value:+.2f}" for value in points),
                    "weight_decays": f"{decay:g}, {other:g}"})
    return found


def equality(records: dict) -> Table:
    """The test of equality, for each row that has both networks."""
    return table(
        "With Aug-Conv less plain with the same frozen first layer, points, paired by seed.",
        compared(records),
        "setting morphing weight_decays each_seed mean low high p_of_tost replicated",
        "Low to high: the mean's 90% confidence interval. Replicated: within ±1 point, by TOST.")


def each_run(records: dict) -> Table:
    """Each training run with its command."""
    return table("Every training run.", [
        run | {"morphing": morphed(run["provenance"]), "machine": formatted("{on}", run)}
        for run in sorted(records["accuracy"], key=result_name)],
        "run morphing seed accuracy seconds peak_mb trained_parameters machine versions.torch code "
        "command")
