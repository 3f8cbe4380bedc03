"""Reads folders of results: which of their JSON files are records, and of what."""

import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path

from utils.errors import UserError, user_errors
from utils.geometry import Morphing
from utils.records import RUNS, TrainingSettings

# The experiments' records by the names of their files, and the command that makes each.
EXPERIMENTS = {
    "agreement": "python -m experiments.agreement",
    "attack_matrix": "make attack-matrix",
    "attacks": "python attack.py --score --results_dir DIR",
    "augmentation": "python -m experiments.augmentation",
    "defects": "python -m experiments.defects",
    "he": "make tables-he",
    "inputs": "python -m tests.inputs",
    "kappa": "python -m experiments.kappa",
    "repairs": "python -m experiments.repairs",
    "stress": "make stress",
    "validation": "python -m experiments.validation FOLDER",
}
BENCH = "make bench"                # one record for each processor, in the folder bench/
DEMO = "python -m experiments.demo"
IDLE = 0.5                          # programs that run on a machine where nothing else does
TRAINING = "the training scripts with `--results_dir DIR`"
PLACES = ("", "accuracy", "bench", "demo", "validation")    # where records are in a folder
# Of reproduce_tables.py, of `make evidence`, and in the folders of the steps.
OWN_OUTPUT = {"analysis.json", "evidence.json", "manifest.json"}
MORPHING, SETTINGS = set(Morphing._fields), set(TrainingSettings._fields)
DATA = {"dataset", "class_names", "channels", "image_size", "image_fit", "train_images",
        "test_images", "train_digest", "test_digest", "normalisation", "morphing", "keys",
        "deliveries"}

OF_SEVERAL = {"other_morphing"}     # in the data of several providers whose morphing differs


@dataclass(frozen=True)
class TrainingRun:
    """One training run, as its record has it."""

    run: str                        # a key of RUNS
    accuracy: float                 # of the test images after the last epoch, from 0 to 1
    settings: dict
    data: dict
    frozen_layer: str | None        # fingerprint of a first layer that was not trained
    seconds: float
    peak_mb: float
    trained_parameters: int
    curve: list[dict]               # of each epoch: epoch, train_loss, test_accuracy, …
    command: str
    code: str
    machine: dict
    load: float | None              # of the machine when the run began; None where unknown
    versions: dict
    network_code: str = ""          # digest of the file of a network of the user's own
    file: str = field(default="", compare=False)        # its record's name

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    @property
    def morphing(self) -> dict | None:
        """How the images were morphed; None for plain images."""
        return self.data["morphing"]

    @property
    def classes(self) -> int:
        return len(self.data["class_names"])


RECORDED = {f.name for f in fields(TrainingRun)} - {"network_code", "file"}


@dataclass
class Results:
    """All records that were found in some folders.

    output: the folder of the report; paths: where each of `records` lies.
    """

    output: Path = Path("results")
    runs: list[TrainingRun] = field(default_factory=list)
    validation: list[TrainingRun] = field(default_factory=list)     # of choosing a learning rate
    demo: list[dict] = field(default_factory=list)              # one record for each processor
    records: dict[str, dict] = field(default_factory=dict)      # "kappa", "bench/amd-epyc", …
    paths: dict[str, Path] = field(default_factory=dict)
    benches: dict[str, dict] = field(default_factory=dict)      # of them the speed benchmark's
    earlier: list[Path] = field(default_factory=list)   # training records of earlier versions
    unscored: list[Path] = field(default_factory=list)  # of attack.py without --score
    other: list[Path] = field(default_factory=list)     # JSON files that are no records

    def link(self, name: str) -> str:
        """A link in Markdown from the report to a record."""
        path = Path(os.path.relpath(self.paths[name], self.output)).as_posix()
        return f"[{name}.json]({path})"

    def ignored(self) -> list[str]:
        """A line for each kind of file that was not used."""
        lines = []
        if self.earlier:
            lines.append(f"{count_files(self.earlier)} of an earlier version: not used")
        for path in self.unscored:
            lines.append(f"{path} has no scores: not used; run attack.py with --score")
        if self.other:
            names = ", ".join(sorted(path.name for path in self.other)[:5])
            more = f" and {len(self.other) - 5} more" if len(self.other) > 5 else ""
            lines.append(f"JSON that is not a record of this program: not used ({names}{more})")
        return lines


def count_files(paths: list[Path]) -> str:
    return "1 file is a record" if len(paths) == 1 else f"{len(paths)} files are records"


def read_results(folders: list[Path], output: Path | None = None) -> Results:
    """The records in folders, and in the folders of PLACES in them.

    `output`: the folder of the report, from which its links start; by default the first folder.
    Raises UserError where a folder is missing or has no record, where a file is not JSON, and where
    two folders have different records of one experiment.
    """
    results, seen = Results(output or folders[0]), set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: name one with records, as the steps write "
                            "them with --results_dir")
        has_record = False
        for place in PLACES:
            for path in sorted((folder / place).glob("*.json")):
                if path.name in OWN_OUTPUT:
                    continue
                if path.resolve() not in seen:
                    seen.add(path.resolve())
                    add_file(path, place, results)
                if path not in results.other:
                    has_record = True
        if not has_record:
            raise UserError(f"{folder} has no record: the steps write theirs with "
                            f"--results_dir {folder}")
    return results


def add_file(path: Path, place: str, results: Results):
    """Puts one JSON file, of one of the PLACES in a folder, where it belongs."""
    record = read_json(path)
    if is_training(record):
        runs = results.validation if place == "validation" else results.runs
        run = as_run(record, path.name)
        if run not in runs:                              # a step may have written it twice
            runs.append(run)
    elif is_earlier_training(record):
        results.earlier.append(path)
    elif is_record(record) and "demo" in record:
        add_experiment(path, record, f"demo/{path.stem}", results)
        results.demo.append(record)
    elif is_bench(record):
        add_experiment(path, record, f"bench/{path.stem}", results)
        results.benches[path.stem] = record
    elif path.stem == "attacks" and is_record(record) and not is_scored(record):
        results.unscored.append(path)
    elif path.stem in EXPERIMENTS and is_record(record):
        add_experiment(path, record, path.stem, results)
    else:
        results.other.append(path)


def add_experiment(path: Path, record: dict, name: str, results: Results):
    if results.records.get(name, record) != record:
        raise UserError(f"{path} is a second record of `{record['command']}`: give one of the "
                        "folders only")
    results.records[name] = record
    results.paths[name] = path


def read_json(path: Path):
    with user_errors(f"{path} is not JSON, remove it or run its command again"):
        return json.loads(path.read_text(encoding="utf-8"))


def is_record(record) -> bool:
    """Whether a file's content says at least which command made it."""
    return isinstance(record, dict) and isinstance(record.get("command"), str)


def is_scored(record: dict) -> bool:
    """Whether a record of attack.py was made with --score: only then are pairs known."""
    return "known_pairs" in record


def is_bench(record) -> bool:
    return is_record(record) and "medians" in record and "size" in record


def is_training(record) -> bool:
    """Whether a file's content is a training run's record of this version."""
    if not (is_record(record) and record.get("run") in RUNS):
        return False
    settings, data = record.get("settings"), record.get("data")
    if not (isinstance(settings, dict) and isinstance(data, dict)):
        return False
    morphing = data.get("morphing")
    return (settings.keys() == SETTINGS and data.keys() - OF_SEVERAL == DATA
            and (morphing is None or morphing.keys() == MORPHING)
            and record.keys() >= RECORDED)


def is_earlier_training(record) -> bool:
    """Whether a file's content is a training run's record of another version."""
    return isinstance(record, dict) and {"run", "accuracy", "curve"} <= record.keys()


def as_run(record: dict, file: str = "") -> TrainingRun:
    return TrainingRun(**{name: record[name] for name in RECORDED}, file=file,
                       network_code=record.get("network_code", ""))


def machine_in_words(record: dict) -> str:
    """Where a record was measured."""
    return describe_machine(record["machine"])


def describe_machine(machine: dict) -> str:
    """Such as "2 cores of AMD EPYC", or the CUDA devices' names."""
    if machine["cuda"]:
        return ", ".join(machine["cuda"])
    words = f"{machine['cores']} cores of {machine['processor']}"
    threads = machine.get("threads", machine["cores"])
    if threads < machine["cores"]:
        words += f", {threads} in use"
    return words


def source_of(record: dict) -> str:
    """The command that made a record, the machine, and how long it took, as far as the record says
    them."""
    words = f"`{record['command']}`"
    if "machine" in record:
        words += f" on {machine_in_words(record)}"
    if record.get("seconds"):
        words += f", {describe_seconds(record['seconds'])}"
    return words


def describe_seconds(seconds: float) -> str:
    """In minutes, where they are many."""
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def describe_load(record: dict) -> str:
    """Whether the machine had nothing else to do in the minute before."""
    load = record.get("load")
    if load is None:
        return "its load is not known"
    words = "nothing else ran" if load <= IDLE else "something else ran, or had just ended"
    return f"load at the start {load:g}: {words}"


def seconds_on_aug_conv(record: dict, attack: str) -> float:
    """Of an attack on Aug-Conv in a record of attack.py, with the time for Aug-Conv's features,
    which all attacks on it share."""
    features = record["look"]["seconds"] if "look" in record else 0.0
    return features + record[attack]["seconds"]
