"""A training run and its record: settings, data, result, and where they came from.

One record describes a run. Its `settings` and `data` are what the run must agree in to be the same
run, what a checkpoint is compared with, what rows of tables are grouped by, and what is printed
where two runs differ.
"""

import hashlib
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch

from models.build import is_users_own
from parameter import Parameters
from utils.artifacts import file_entry, read_manifest, verify
from utils.delivery import Delivery
from utils.devices import Context, rank, say
from utils.errors import UserError
from utils.first_layers import read_first_layer
from utils.provenance import peak_memory, provenance
from utils.settings import in_short


class RunKind(NamedTuple):
    """A kind of run: its title in tables, the step that makes it, and that step's option."""

    title: str
    step: str
    option: str = ""

    @property
    def command(self) -> str:
        return f"python {self.step} {self.option}".strip()


RUNS = {
    "pretrained": RunKind("plain network", "pretrain.py"),
    "pretrained_frozen": RunKind("plain, same first layer", "pretrain.py",
                                 "--frozen_first_layer FILE --weight_decay 5e-7"),
    "with_ac": RunKind("with Aug-Conv", "train_with_ac.py"),
    "no_ac": RunKind("without Aug-Conv", "train_no_ac.py"),
    "no_ac_standardised": RunKind("without, standardised", "train_no_ac.py", "--standardise"),
}
CURVE = ("epoch", "train_loss", "test_accuracy", "seconds", "train_seconds")
SAMPLE_TOLERANCE = 1e-2             # the largest difference, as a share of the largest logit
# What a user chooses of the data. The rest of it is what lies on the disk.
CHOSEN_DATA = ("dataset", "channels", "image_size", "image_fit", "deliveries")
# Settings that a record otherwise has by their effect alone: a count of images, a digest, a
# precision. Whether a user chose otherwise since then shows in their values.
CHOICES = ("precision", "train_limit", "test_limit", "init", "frozen_first_layer", "dataset_dir",
           "pixel_range")
# What a later run needs of a record.
NEEDED = {"run", "accuracy", "settings", "data", "network_sample", "frozen_layer", "choices"}
WORDS = {                           # for names of settings and data in sentences
    "train_digest": "training images or labels", "test_digest": "test images or labels",
    "network_sample": "code of the network", "class_names": "classes",
    "train_images": "number of training images", "test_images": "number of test images",
    "init": "starting weights", "frozen_layer": "frozen first layer", "deliveries": "delivery",
    "lr": "learning rate"}


@dataclass(frozen=True)
class Run:
    """A run in the developer's folder, and what it must agree in to be the same run.

    `name` is one of RUNS. `network_sample` is what the network gives for fixed images before
    training: whether two networks of one name are the same code and weights. `layer_fingerprint` is
    that of a first layer that is not trained; None if there is none. `network_code` is the digest
    of the file of a network of the user's own, as it was when the network was built.
    """

    folder: Path
    name: str
    settings: dict
    data: dict
    network_sample: list[float]
    layer_fingerprint: str | None = None
    network_code: str = ""

    @property
    def kind(self) -> RunKind:
        return RUNS[self.name]

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.checkpoint.pt"

    @property
    def identity(self) -> dict:
        """The part of the record that is known before the run, as JSON has it."""
        identity = {"run": self.name, "settings": self.settings, "data": self.data,
                    "network_sample": self.network_sample, "frozen_layer": self.layer_fingerprint}
        return json.loads(json.dumps(identity))


class TrainingSettings(NamedTuple):
    """The settings of a training run as they are used, as its record has them."""

    model: str
    init: str | None                    # SHA-256 of the weights that it starts from
    epochs: int
    batch_size: int
    lr: float
    schedule: str
    decay_epochs: int | None            # None where the schedule has none
    momentum: float
    weight_decay: float
    dropout: float
    augment: str
    precision: str                      # such as float32
    standardise: bool
    seed: int
    processes: int


def training_settings(p: Parameters, context: Context, weight_decay: float,
                      standardise: bool = False) -> dict:
    """TrainingSettings, as JSON has them."""
    return TrainingSettings(
        model=p.model, init=file_entry(Path(p.init))["sha256"] if p.init else None,
        epochs=p.epochs, batch_size=p.batch_size, lr=p.lr, schedule=p.schedule,
        decay_epochs=p.decay_epochs if p.schedule == "halve" else None, momentum=p.momentum,
        weight_decay=weight_decay, dropout=p.dropout, augment=p.augment,
        precision=context.precision, standardise=standardise, seed=p.seed,
        processes=context.world)._asdict()


def option_of(run: Run, name: str, value) -> str:
    """A setting of a run's record as it is typed: --precision bf16."""
    if name == "processes":
        return "one process" if value == 1 else f"torchrun --nproc_per_node {value}"
    if name == "precision":
        value = {"float32": "fp32", "bfloat16": "bf16"}.get(value, value)
    if name == "weight_decay" and run.data["morphing"] is not None:
        name = "morphed_weight_decay"
    return f"--{name} {in_short(value)}"


def split_digest(images) -> str:
    """SHA-256 of a split's pixels and labels, of what images.load_images gives."""
    sha256 = hashlib.sha256(images.digest.encode())
    sha256.update(images.labels.contiguous().numpy())
    return sha256.hexdigest()


def plain_data(p: Parameters, dataset: str, train, test, mean: tuple, std: tuple) -> dict:
    """What the data of a run on plain images were; train and test: what load_images gives.

    image_fit is that of image files, and None where there are none.
    """
    _, channels, side, _ = train.images.shape
    return {
        "dataset": dataset, "class_names": list(train.classes), "channels": channels,
        "image_size": side, "image_fit": p.image_fit if p.dataset == "folder" else None,
        "train_images": len(train.labels), "test_images": len(test.labels),
        "train_digest": split_digest(train), "test_digest": split_digest(test),
        "normalisation": [list(mean), list(std)],
        "morphing": None, "keys": [], "deliveries": []}


def delivered_data(deliveries: list[Delivery]) -> dict:
    """What the data of a run on morphed images were; several deliveries are summed up.

    Where they were morphed in other ways than the first, `other_morphing` lists theirs.
    """
    first = deliveries[0]
    g = first.geometry
    channels, side, _ = g.plain_shape
    data = {
        "dataset": " + ".join(dict.fromkeys(d.dataset for d in deliveries)),
        "class_names": list(first.classes), "channels": channels, "image_size": side,
        "image_fit": g.image_fit if first.image_files else None,
        "train_images": sum(d.train_images for d in deliveries),
        "test_images": sum(d.test_images for d in deliveries),
        "train_digest": joined_digest([d.train_digest for d in deliveries]),
        "test_digest": joined_digest([d.test_digest for d in deliveries]),
        "normalisation": [list(g.mean), list(g.std)], "morphing": first.morphing,
        "keys": [d.geometry.key for d in deliveries], "deliveries": [d.id for d in deliveries]}
    others = [d.morphing for d in deliveries[1:]]
    if any(other != first.morphing for other in others):
        data["other_morphing"] = others
    return data


def joined_digest(digests: list[str]) -> str:
    """One digest for the data of several providers; that of one is its own."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def choices_of(p: Parameters) -> dict:
    """The values of CHOICES, as JSON has them; of those that parameter.py still has."""
    there = {field.name for field in fields(p)}
    return json.loads(json.dumps({name: getattr(p, name) for name in CHOICES if name in there}))


def make_record(run: Run, p: Parameters, curve: list[dict], trained_parameters: int) -> dict:
    """The record of a finished run."""
    return {
        "run": run.name, "accuracy": curve[-1]["test_accuracy"], **run.identity, **provenance(p),
        "choices": choices_of(p),
        "network_code": run.network_code,
        "seconds": round(sum(epoch["seconds"] for epoch in curve), 1),
        "peak_mb": round(peak_memory() / 1e6), "trained_parameters": trained_parameters,
        "curve": curve}


def record_name(record: dict) -> str:
    """A file name in words that a person looks for; all that tells runs apart is in its hash.

    So is the code of a user's own network, by its logits for a fixed image: an edited one does not
    write over the earlier record. They are rounded, since they differ between processors.
    """
    settings, data = record["settings"], record["data"]
    words = [data["dataset"], settings["model"], f"n{data['train_images']}",
             f"e{settings['epochs']}", record["run"]]
    morphing = data["morphing"]
    if morphing:
        words.append(f"s{morphing['tile']}" if morphing["tile"] else f"k{morphing['kappa']}")
        words.append(morphing["morph_distribution"])
        if morphing["delivery_dtype"] != "float32":
            words.append(morphing["delivery_dtype"])
    if settings["augment"] != "none":
        words.append(settings["augment"])
    readable = re.sub(r"[^a-z0-9_]+", "-", "-".join(words).lower())[:120]
    but_seed = {key: value for key, value in settings.items() if key != "seed"}
    told_apart = [record["run"], but_seed, data, record["frozen_layer"]]
    if is_users_own(settings["model"]):
        told_apart.append([f"{logit:.3g}" for logit in record["network_sample"]])
    canonical = json.dumps(told_apart, sort_keys=True).encode()
    short = hashlib.sha256(canonical).hexdigest()[:8]
    return f"{readable}-{short}-seed{settings['seed']}.json"


def to_json(record: dict) -> str:
    return json.dumps(record, indent=1) + "\n"


def curve_csv(curve: list[dict]) -> str:
    """A line per epoch of a run, under the names of its values."""
    lines = [",".join(CURVE)]
    for epoch in curve:
        lines.append(",".join(f"{epoch[name]:.6g}" for name in CURVE))
    return "\n".join(lines) + "\n"


def read_record(folder: Path, name: str) -> dict | None:
    """The record that a finished run left, or None. Raises UserError if it is damaged."""
    path = folder / f"{name}.json"
    if path.name not in read_manifest(folder, missing_ok=True)["files"]:
        return None
    record = json.loads(verify(path).read_text(encoding="utf-8"))
    if not is_of_this_version(record):
        raise UserError(f"{path} is of another version of this program: pass --restart to train "
                        f"again, or move {folder} away")
    return record


def is_of_this_version(record: dict) -> bool:
    """Whether a run's record has what this version compares runs by."""
    return (record.keys() >= NEEDED
            and record["settings"].keys() == set(TrainingSettings._fields))


# What gives a network its logits besides its code: where one of these differs, that says it all.
MAKE_THE_SAMPLE = {"model", "init", "seed", "class_names", "channels", "image_size"}


def differences(one: dict, other: dict) -> list[str]:
    """What two runs differ in: names of settings and data, of `identity` or of records.

    `network_sample` is among them if the network's code differs.
    """
    found = []
    for part in ("settings", "data"):
        mine, others = one[part], other[part]
        found += [key for key in mine | others if mine.get(key) != others.get(key)]
    if one["frozen_layer"] != other["frozen_layer"]:
        found.append("frozen_layer")
    explains_the_sample = MAKE_THE_SAMPLE & set(found)
    if not explains_the_sample and not _is_same_sample(one["network_sample"],
                                                       other["network_sample"]):
        found.append("network_sample")
    return found


def value_of(record: dict, name: str):
    """A value of a record under a name of `differences`; None where the record lacks it."""
    for part in (record["settings"], record["data"], record):
        if name in part:
            return part[name]
    return None


def _is_same_sample(one: list[float] | None, other: list[float] | None) -> bool:
    """Whether two samples differ by rounding alone, measured by the largest logit."""
    if one == other:
        return True
    if one is None or other is None or len(one) != len(other):
        return False
    mine, others = torch.tensor(one), torch.tensor(other)
    largest = torch.maximum(mine.abs(), others.abs()).max()
    return bool((mine - others).abs().max() <= SAMPLE_TOLERANCE * largest)


def in_words(keys: list[str]) -> str:
    """Names of settings and data, for a sentence."""
    return " and ".join(WORDS.get(key, key.replace("_", " ")) for key in keys)


# Lines that compare finished runs.

# A plain run and a morphed one differ in these by their nature.
EXPECTED = ("weight_decay", "morphing", "other_morphing", "keys", "deliveries", "frozen_layer",
            "standardise", "network_sample")


def differences_from_plain(run: dict, plain: dict) -> list[str]:
    """What a run and the plain network's differ in, but for what they differ in by nature."""
    return [key for key in differences(run, plain) if key not in EXPECTED]


def say_comparison(folder: Path, names: list[str], deliveries: list[str]):
    """Prints the lines of `compare` once for all processes, by the one that wrote the records."""
    if rank() == 0:
        say(*compare(folder, names, deliveries), sep="\n")


def compare(folder: Path, names: list[str], deliveries: list[str]) -> list[str]:
    """A line for each finished run of these names, compared with the plain network's accuracy.

    Points are compared only where test images and classes are the same. `deliveries`: the ids of
    the run that asks; runs on others are marked.
    """
    plain, without_plain = None, "no plain network to compare with: run `python pretrain.py`"
    plain_layer = plain_first_layer(folder)
    try:
        plain = read_record(folder, "pretrained")
    except (UserError, OSError):
        without_plain = "the plain network's record cannot be read"
    lines = []
    for name in names:
        title = RUNS[name].title
        try:
            record = read_record(folder, name)
        except (UserError, OSError) as mistake:
            lines.append(f"{title}: {mistake}")
            continue
        if record is None:
            continue
        line = f"{title + ':':32}{record['accuracy']:7.2%}"
        if plain is None:
            line += f" ({without_plain})"
        elif name != "pretrained":
            line += _against_plain(record, plain, plain_layer)
        lines.append(line + _of_another(record, deliveries))
    return lines


def plain_first_layer(folder: Path) -> str | None:
    """The fingerprint of the plain network's first layer; None where that cannot be read."""
    try:
        return read_first_layer(verify(folder / "first_layer.pt")).fingerprint
    except (UserError, OSError):
        return None


def _against_plain(record: dict, plain: dict, plain_layer: str | None) -> str:
    other = differences_from_plain(record, plain)
    if plain_layer is not None and record["frozen_layer"] not in (None, plain_layer):
        other.append("first_layer")
    incomparable = [key for key in ("test_digest", "class_names") if key in other]
    if incomparable:
        return f" (not comparable with plain: other {in_words(incomparable)})"
    points = 100 * (record["accuracy"] - plain["accuracy"])
    direction = "above" if points >= 0 else "below"
    line = f", {abs(points):.2f} points {direction} plain"
    if other:
        line += f" (the two differ in {in_words(other)})"
    return line


def _of_another(record: dict, deliveries: list[str]) -> str:
    own = record["data"]["deliveries"]
    if own and deliveries and set(own) != set(deliveries):
        return " (another delivery)"
    return ""
