"""Puts training runs that may be compared into rows, and says in words what rows differ in."""

import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from statistics import mean, stdev

from experiments.tables.reading import TrainingRun
from experiments.tables.table import write_number
from mole.morphing import core_size
from utils.geometry import Morphing
from utils.records import RUNS

# What runs of one row may differ in. Each seed has a frozen layer and a key of its own; the weight
# decay of plain and of morphed runs differs in the paper, so cells name it where it does.
FREE_SETTINGS = {"seed", "weight_decay", "standardise"}
FREE_DATA = {"morphing", "keys", "deliveries"}
PAPER_MORPHING = Morphing(kappa=1, tile=0, morph_distribution="uniform", image_padding=0,
                          delivery_dtype="float32", shuffle_channels=True)._asdict()
DATASET_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "clothing": "Clothing (CC0)"}
AUGMENTATIONS = {"none": "not augmented", "crop": "crops", "crop_flip": "crops and flips"}
PLAIN = "plain images only"
CONTROLS = ("no_ac", "no_ac_standardised")          # keys of RUNS: the networks without Aug-Conv


@dataclass(frozen=True)
class Row:
    """Runs that agree in all but seed, key, frozen layer and weight decay."""

    title: str                      # data set, network, number of images, epochs, rate
    differs_in: str                 # what tells it from other rows of this title, or empty
    morphing: dict | None           # None where only plain runs are there
    runs: dict[str, list[TrainingRun]]      # by the keys of RUNS; a list may be empty

    @property
    def setting(self) -> str:
        return f"{self.title}, {self.differs_in}" if self.differs_in else self.title

    @property
    def rate(self) -> str:
        """The learning rate in words."""
        return describe_fact("lr", self.any_run.settings["lr"])

    @property
    def morphed(self) -> str:
        return describe_morphing(self.morphing)

    @property
    def any_run(self) -> TrainingRun:
        """One of the runs, for what all of them agree in."""
        return next(run for runs in self.runs.values() for run in runs)

    @property
    def augment(self) -> str:
        """How images were augmented: none, crop or crop_flip."""
        return self.any_run.settings["augment"]

    @property
    def is_trained_as_in_the_paper(self) -> bool:
        """Whether images are not augmented, and networks start from random weights."""
        return self.augment == "none" and self.any_run.settings["init"] is None

    @property
    def is_papers(self) -> bool:
        """Whether images are morphed as in the paper, and training is as there in kind."""
        return self.morphing == PAPER_MORPHING and self.is_trained_as_in_the_paper

    @property
    def has_papers_blocks(self) -> bool:
        """Whether nothing but κ is not as in the paper."""
        if self.morphing is None or not self.is_trained_as_in_the_paper:
            return False
        return self.morphing | {"kappa": PAPER_MORPHING["kappa"]} == PAPER_MORPHING


@dataclass(frozen=True)
class Summary:
    """The accuracy of runs that differ in their seeds alone, in percent."""

    weight_decay: float
    mean: float
    deviation: float | None         # standard deviation over seeds; None for one seed
    seeds: int
    runs: int                       # more than seeds where one seed ran with several keys
    minutes: float                  # of a run: all epochs with their evaluation


def setting_of(run: TrainingRun) -> dict:
    """What runs of one row agree in, whatever their morphing."""
    found = choose_setting(run.settings, run.data)
    if run.network_code:
        found["network_code"] = run.network_code
    return found


def choose_setting(settings: dict, data: dict) -> dict:
    """Of the settings and data of a record, what runs of one row agree in."""
    found = {}
    for name, value in settings.items():
        if name not in FREE_SETTINGS:
            found[name] = value
    for name, value in data.items():
        if name not in FREE_DATA:
            found[name] = value
    return found


def as_key(facts: dict | None) -> str:
    return json.dumps(facts, sort_keys=True)


def group_in_rows(runs: list[TrainingRun]) -> list[Row]:
    """A row for each setting and each way of morphing; plain runs stand in every row of theirs.

    The most training comes first, and within a setting the paper's core, tiles, then other κ.
    """
    by_setting = defaultdict(list)
    for run in runs:
        by_setting[as_key(setting_of(run))].append(run)
    settings = {key: setting_of(group[0]) for key, group in by_setting.items()}
    rows = []
    for key, group in by_setting.items():
        title = title_of(settings[key])
        alike = [other for other in settings.values() if title_of(other) == title]
        words = describe_differences(settings[key], alike)
        for morphing in morphings_of(group):
            rows.append(Row(title, words, morphing, runs_of_row(group, morphing)))
    return sorted(rows, key=order_of_row)


def morphings_of(group: list[TrainingRun]) -> list[dict | None]:
    """The ways in which runs were morphed; [None] where there are plain runs alone."""
    found = {as_key(run.morphing): run.morphing for run in group if run.morphing is not None}
    return list(found.values()) or [None]


def runs_of_row(group: list[TrainingRun], morphing: dict | None) -> dict[str, list[TrainingRun]]:
    """Runs of a setting with one way of morphing, and the plain runs that they compare with."""
    found = {name: [] for name in RUNS}
    for run in group:
        if run.morphing is None or run.morphing == morphing:
            found[run.run].append(run)
    if found["with_ac"]:
        pairs = {pair_of(run) for run in found["with_ac"]}
        partners = [run for run in found["pretrained_frozen"] if pair_of(run) in pairs]
        found["pretrained_frozen"] = partners
    return found


def pair_of(run: TrainingRun) -> tuple[str | None, int]:
    """What an Aug-Conv run and its fair partner agree in: the frozen first layer and the seed."""
    return run.frozen_layer, run.seed


def partners_left_out(rows: list[Row], runs: list[TrainingRun]) -> int:
    """How many partners have no Aug-Conv run of their first layer and seed, and so no row."""
    shown = [partner for row in rows for partner in row.runs["pretrained_frozen"]]
    partners = [run for run in runs if run.run == "pretrained_frozen"]
    return sum(partner not in shown for partner in partners)


def order_of_row(row: Row) -> tuple:
    training = row.any_run.data["train_images"] * row.any_run.settings["epochs"]
    return -training, row.setting, order_of_morphing(row.morphing)


def order_of_morphing(morphing: dict | None) -> tuple:
    """The paper's core first, then tiles from small to large, then other κ."""
    if morphing is None:
        return (0,)
    kappa = morphing["kappa"] or 0
    unusual = kappa > 1
    return (unusual, morphing != PAPER_MORPHING, morphing["tile"], kappa, as_key(morphing))


def list_controls(rows: list[Row]) -> list[Row]:
    """The rows with a network trained without Aug-Conv, of the setting that has most of them."""
    by_setting: dict[str, list[Row]] = {}
    for row in rows:
        if row.runs["no_ac"]:
            by_setting.setdefault(row.setting, []).append(row)
    most = max(by_setting.values(), key=len, default=[])
    return most if len(most) > 1 else []


def title_of_dataset(name: str) -> str:
    """As it stands in titles; a person's own data set by its name."""
    return DATASET_TITLES.get(name, name)


def title_of(setting: dict) -> str:
    dataset = title_of_dataset(setting["dataset"])
    model = re.sub(r"^vgg(\d+)$", r"VGG-\1", setting["model"])
    epochs = "1 epoch" if setting["epochs"] == 1 else f"{setting['epochs']} epochs"
    images = write_number("{:,} images", setting["train_images"])
    title = f"{dataset}, {model}, {images}, {epochs}"
    if setting["augment"] != "none":                     # which the paper has not
        title += ", " + describe_fact("augment", setting["augment"])
    if setting["init"] is not None:
        title += ", " + describe_fact("init", setting["init"])
    return f"{title}, {describe_fact('lr', setting['lr'])}"


def common_beginning(settings: list[str]) -> str:
    """The facts that all settings begin with, but for the last one of a setting."""
    facts = [setting.split(", ") for setting in settings]
    common = []
    for alike in zip(*(each[:-1] for each in facts), strict=False):
        if len(set(alike)) > 1:
            break
        common.append(alike[0])
    return ", ".join(common)


def describe_differences(setting: dict, alike: list[dict]) -> str:
    """In words, the facts of a setting in which others of the same title differ from it."""
    words = []
    for name, value in setting.items():
        if any(other.get(name) != value for other in alike):
            words.append(describe_fact(name, value))
    return ", ".join(words)


def describe_fact(name: str, value) -> str:
    """A setting or fact of the data in a few words."""
    readable = name.replace("_", " ")
    if name == "init":
        return "from random weights" if value is None else f"from weights {value[:8]}"
    if name.endswith("_digest"):
        return f"{readable.removesuffix(' digest')} images {value[:8]}"
    if name == "class_names":
        more = "…" if len(value) > 3 else ""
        return f"classes {', '.join(value[:3])}{more}"
    if name == "network_code":
        return f"network's code {value[:8]}"
    if name == "lr":
        return f"learning rate {value:g}"
    if name == "augment":
        return AUGMENTATIONS[value]
    if name == "normalisation":
        return f"normalised with {value}"
    if name == "other_morphing":
        return "other providers: " + "; ".join(map(describe_morphing, value))
    if value is None:
        return f"no {readable}"
    return f"{readable} {value}"


def describe_morphing(morphing: dict | None) -> str:
    """κ or the tile's side s, the core, and what is not as in the paper."""
    if morphing is None:
        return PLAIN
    if morphing["tile"]:
        words = [f"s = {morphing['tile']}", morphing["morph_distribution"]]
    else:
        words = [f"κ = {morphing['kappa']}", morphing["morph_distribution"]]
    if morphing["image_padding"]:
        words.append(f"padded by {morphing['image_padding']}")
    if morphing["delivery_dtype"] != "float32":
        words.append(morphing["delivery_dtype"])
    if not morphing["shuffle_channels"]:
        words.append("channels in order")
    return ", ".join(words)


def core_side(morphing: dict, data: dict) -> int:
    """q, the side of the core (q, q)."""
    side = data["image_size"] + 2 * morphing["image_padding"]
    return core_size((data["channels"], side, side), morphing["kappa"] or 1, morphing["tile"])


def summarise(runs: list[TrainingRun]) -> list[Summary]:
    """Accuracy over seeds, for each weight decay; the mean where one seed ran several times."""
    found = []
    for decay, alike in by_weight_decay(runs).items():
        values = list(percent_by_seed(alike).values())
        deviation = stdev(values) if len(values) > 1 else None
        minutes = mean(run.seconds for run in alike) / 60
        found.append(Summary(decay, mean(values), deviation, len(values), len(alike), minutes))
    return found


def by_weight_decay(runs: list[TrainingRun]) -> dict[float, list[TrainingRun]]:
    """The runs of each weight decay, from the lowest on."""
    found = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.settings["weight_decay"]):
        found[run.settings["weight_decay"]].append(run)
    return dict(found)


def percent_by_seed(runs: list[TrainingRun]) -> dict[int, float]:
    """The accuracy of each seed in percent; the mean where one seed ran several times."""
    found = defaultdict(list)
    for run in runs:
        found[run.seed].append(100 * run.accuracy)
    return {seed: mean(same_seed) for seed, same_seed in found.items()}


def points_above(runs: list[TrainingRun], plain: list[TrainingRun]) -> float | None:
    """Points of accuracy of runs above plain ones of the same seeds, on average. Where there are
    several weight decays, the least. None where no seed has both."""
    found = []
    for ours in by_weight_decay(runs).values():
        own = percent_by_seed(ours)
        for theirs in by_weight_decay(plain).values():
            others = percent_by_seed(theirs)
            points = [own[seed] - others[seed] for seed in own.keys() & others]
            if points:
                found.append(mean(points))
    return min(found, default=None)


def describe_accuracy(runs: list[TrainingRun], name_decay: bool = False) -> str:
    """Such as "84.15%" or "66.74 ± 0.43%, 5 seeds", with the weight decay if it is asked for, or if
    there are several."""
    parts = []
    summaries = summarise(runs)
    name_decay = name_decay or len(summaries) > 1
    for summary in summaries:
        text = f"{summary.mean:.2f}%"
        if summary.deviation is not None:
            text = f"{summary.mean:.2f} ± {summary.deviation:.2f}%, {summary.seeds} seeds"
        if summary.runs > summary.seeds:
            text += f", mean of {summary.runs} runs"
        if name_decay:
            text += f", weight decay {summary.weight_decay:g}"
        parts.append(text)
    return "; ".join(parts)


def has_usual_decays(row: Row) -> bool:
    """Whether all networks of a row have the same weight decay, or the plain network its own and
    the others a tenth of it, as the authors' scripts do."""
    plain = {run.settings["weight_decay"] for run in row.runs["pretrained"]}
    others = set()
    for name, runs in row.runs.items():
        if name != "pretrained":
            others |= {run.settings["weight_decay"] for run in runs}
    if len(plain | others) <= 1:
        return True
    if len(plain) != 1 or len(others) != 1:
        return False
    return math.isclose(plain.pop(), 10 * others.pop())
