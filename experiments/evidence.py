"""Runs what is missing of experiments/commands.txt, which makes all results: `make evidence`.

Says what is left and how long it will take, then runs one command after the other. Stop it at any
time; the same command goes on with what is missing. A command that leaves a record (--results_dir
or --output) is done when a record in results/ names it. Others make files that later commands read;
they run again where those files are gone and still needed. What a command read and left is noted in
results/evidence.json, by digest: where a file that it read has changed since, it runs again, and
the record that it left before is removed. Refuses to start with changes that are not committed,
outside results/: a record names the commit that made it.
"""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from experiments.program import make_parser, run_command
from experiments.tables.reading import is_record, read_json
from utils import artifacts
from utils.artifacts import write_alone
from utils.errors import UserError
from utils.names import duration
from utils.provenance import ROOT
from utils.settings import underscored

COMMANDS = ROOT / "experiments" / "commands.txt"
RESULTS = ROOT / "results"
NOTES = RESULTS / "evidence.json"   # {command: {"reads": {path: digest}, "leaves": {…}}}
PRETRAIN, KEY, DELIVERY = "pretrain.py", "gen_morphing_matrix.py", "gen_augconv.py"
TRAIN = ("train_with_ac.py", "train_no_ac.py")
INSTALL = "install"
# What experiments read of the folder --first_layers. Later commands add other layers to it.
ATTACKED_LAYERS = ("vgg11.pt", "vgg16.pt")


@dataclass(frozen=True)
class Command:
    """A line of commands.txt: a command, and its minutes on two cores."""

    line: str
    minutes: float
    chapter: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line)

    @property
    def script(self) -> str:
        """Such as pretrain.py, experiments.kappa or install."""
        words = self.words
        if words[0] != "python":
            return words[0]
        return words[2] if words[1] == "-m" else words[1]

    @property
    def leaves_record(self) -> bool:
        return self.option("--results_dir") is not None or self.option("--output") is not None

    def option(self, name: str) -> str | None:
        """The value of an option, given as `--name value` or `--name=value`."""
        words = self.words
        for place, word in enumerate(words):
            key, equals, value = underscored(word).partition("=")
            if key == name:
                return value if equals else words[place + 1]
        return None

    @property
    def reads(self) -> list[str]:
        """The files, and folders, that earlier commands leave for it; relative to ROOT."""
        data = self.option("--data_dir")
        own_layer = f"{data}/developer/first_layer.pt"
        layer = self.option("--first_layer") or own_layer
        delivery = f"{data}/delivery/manifest.json"
        if self.script == INSTALL:
            return [self.words[-2]]
        if self.script == PRETRAIN:
            folder = self.option("--dataset_dir") if self.option("--dataset") == "arrays" else None
            given = [self.option("--frozen_first_layer"), folder]
            return [path for path in given if path is not None]
        if self.script == KEY:
            return [layer]
        if self.script == DELIVERY:
            return [layer, f"{data}/provider/current.json"]
        if self.script in TRAIN:
            return [delivery]
        if self.script == "attack.py":
            return [layer, delivery]
        if self.script == "experiments.agreement":
            return [own_layer, f"{data}/developer/pretrained.pt"]
        if self.script == "experiments.kappa":
            return [layer]
        if self.script == "experiments.augmentation":
            return [path for path in [self.option("--first_layer")] if path is not None]
        folder = self.option("--first_layers")
        return [] if folder is None else [f"{folder}/{name}" for name in ATTACKED_LAYERS]

    @property
    def leaves(self) -> list[str]:
        """The files, and folders, that later commands read; relative to ROOT."""
        data = self.option("--data_dir")
        if self.script == INSTALL:
            return [self.words[-1]]
        if self.script == PRETRAIN and self.option("--frozen_first_layer") is None:
            return [f"{data}/developer/first_layer.pt", f"{data}/developer/pretrained.pt"]
        if self.script == KEY:
            return [f"{data}/provider/current.json"]
        if self.script == DELIVERY:
            return [f"{data}/delivery/manifest.json"]
        if self.script == "experiments.validation":
            return [self.words[3]]
        return []


def main() -> int:
    parse_arguments()
    refuse_changes()
    return run_missing()


def parse_arguments():
    parser = make_parser(__doc__, None)
    parser.parse_args()


def run_missing() -> int:
    """Runs one command after the other, until none is left or one fails; gives the status."""
    commands = read_commands(COMMANDS.read_text(encoding="utf-8"))
    while True:
        records = read_records(RESULTS)
        left = list_left(commands, set(records), read_notes())
        print(describe_left(commands, left, records), flush=True)
        if not left:
            return 0
        command = left[0]
        status = run(command)
        if status != 0:
            print(f"{command.line}: status {status}; correct what it says, then run `make "
                  "evidence` again to continue", file=sys.stderr)
            return 1
        if command.leaves_record and not drop_earlier_records(command, records):
            print(f"{command.line}: it left no record in {RESULTS}", file=sys.stderr)
            return 1
        if command in list_left(commands, set(read_records(RESULTS)), read_notes()):
            reason = "what it reads has changed while it ran"
            if command.leaves:
                reason = f"it did not leave {' and '.join(command.leaves)}"
            print(f"{command.line}: {reason}", file=sys.stderr)
            return 1


def refuse_changes():
    """Raises UserError where files outside results/ are changed or not committed."""
    words = ["git", "-C", str(ROOT), "status", "--porcelain", "--", ".", ":(exclude)results"]
    changed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\n")
    names = [line[3:] for line in changed if line]
    if names:
        raise UserError(f"there are changes that are not committed ({', '.join(names[:5])}): "
                        "commit them, since each record names its commit")


# -- The list

def read_commands(text: str) -> list[Command]:
    """The commands of a list. A line is `COMMAND  # 12 min`; one with # alone is a heading."""
    commands, heading = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line:
            command, mark, minutes = line.rpartition("# ")
            if not mark or not minutes.endswith(" min"):
                raise UserError(f"{COMMANDS.name}, line {number} does not end with its minutes, "
                                "such as # 12 min")
            minutes = float(minutes.removesuffix(" min"))
            commands.append(Command(command.strip(), minutes, heading))
    return commands


def list_chapters_left(made: set[str]) -> list[str]:
    """The chapters with commands that leave a record, but are not among those that were `made`, and
    how many these are."""
    made_words = {tuple(shlex.split(command)) for command in made}
    commands = read_commands(COMMANDS.read_text(encoding="utf-8"))
    leaving = [command for command in commands if command.leaves_record]
    left = [command for command in leaving if tuple(command.words) not in made_words]
    of_all = Counter(command.chapter for command in leaving)
    of_left = Counter(command.chapter for command in left)
    return [f"{chapter}: {count} of {of_all[chapter]} commands without a record"
            for chapter, count in of_left.items()]


# -- What is done

@dataclass(frozen=True)
class Recorded:
    """The records in results/ that name one command; several where one of them is outdated."""

    seconds: float                  # that the command took; 0 where the record does not say
    files: dict[Path, int]          # when each was written, in nanoseconds


def read_records(results: Path) -> dict[tuple[str, ...], Recorded]:
    """Complete records by their command's words."""
    found: dict[tuple[str, ...], Recorded] = {}
    for path in sorted(results.rglob("*.json")):
        record = read_json(path)
        if not is_record(record):
            continue
        if record.get("complete", True):
            words = tuple(shlex.split(record["command"]))
            others = found[words].files if words in found else {}
            files = others | {path: path.stat().st_mtime_ns}
            found[words] = Recorded(record.get("seconds", 0.0), files)
    return found


def drop_earlier_records(command: Command, before: dict[tuple[str, ...], Recorded]) -> bool:
    """Whether a command that has just run left a new record; earlier ones of it are removed."""
    words = tuple(command.words)
    after = read_records(RESULTS)
    earlier = before[words].files if words in before else {}
    now = after[words].files if words in after else {}
    new = [path for path, written in now.items() if earlier.get(path) != written]
    if not new:
        return False
    for path, written in earlier.items():
        if now.get(path) == written:
            path.unlink()
            print(f"{path.relative_to(ROOT)} is removed: the same command has a newer record")
    return True


def read_notes() -> dict[str, dict]:
    return read_json(NOTES) if NOTES.exists() else {}


def list_left(commands: list[Command], recorded: set[tuple[str, ...]],
              notes: dict[str, dict]) -> list[Command]:
    """The commands that are to run, in their order.

    `recorded`: words of the commands that have a record; `notes`: what commands read and left.
    """
    outdated = find_outdated(commands, recorded, notes)
    left, needed = [], []
    for command in reversed(commands):
        is_wanted_itself = command.leaves_record or command.script == INSTALL
        is_left = is_wanted_itself and command in outdated
        if not is_left and any(is_part_of(path, needed) for path in command.leaves):
            is_left = command in outdated or not is_made(command, notes)
        if is_left:
            left.append(command)
            needed += command.reads
    return left[::-1]


def find_outdated(commands: list[Command], recorded: set[tuple[str, ...]],
                  notes: dict[str, dict]) -> set[Command]:
    """The commands that never ran, or whose inputs are not what they read then any more."""
    outdated, renewed = set(), []
    for command in commands:
        is_new = not has_run(command, recorded, notes)
        if is_new or has_changed_inputs(command, renewed, notes):
            outdated.add(command)
            renewed += command.leaves
    return outdated


def has_run(command: Command, recorded: set[tuple[str, ...]], notes: dict[str, dict]) -> bool:
    if command.leaves_record:
        return tuple(command.words) in recorded
    if command.script == INSTALL:
        source, target = map(digest, (*command.reads, *command.leaves))
        return target is not None and source in (None, target)
    return command.line in notes


def has_changed_inputs(command: Command, renewed: list[str], notes: dict[str, dict]) -> bool:
    """Whether a path that a command read is among those that will be `renewed`, or has changed.

    A record without a note came from elsewhere: what its command read is not known, and it stays.
    """
    if command.script != INSTALL and command.line not in notes:
        return False
    read = notes[command.line]["reads"] if command.line in notes else {}
    for path in command.reads:
        if any(is_part_of(new, [path]) for new in renewed):
            return True
        now = digest(path)
        if path in read and now is not None and now != read[path]:
            return True
    return False


def is_made(command: Command, notes: dict[str, dict]) -> bool:
    """Whether the files that a command left are there, as it left them."""
    if command.line not in notes:
        return False
    left = notes[command.line]["leaves"]
    return all(path in left and digest(path) == left[path] for path in command.leaves)


def is_part_of(path: str, others: list[str]) -> bool:
    """Whether a path is one of others, or in a folder among them."""
    return any(PurePosixPath(path).is_relative_to(other) for other in others)


def digest(name: str) -> str | None:
    """SHA-256 of a file, or of the files in a folder; None where it is missing."""
    path = ROOT / name
    if path.is_dir():
        sha256 = hashlib.sha256()
        for file in sorted(file for file in path.iterdir() if file.is_file()):
            sha256.update(f"{file.name} {digest(str(file))}\n".encode())
        return sha256.hexdigest()
    if not path.exists():
        return None
    state = path.stat()
    return digest_of_file(path, state.st_mtime_ns, state.st_size)


@lru_cache
def digest_of_file(path: Path, written: int, size: int) -> str:
    """SHA-256 of a file that was last written then; large ones are read once."""
    return artifacts.file_entry(path)["sha256"]


# -- Running

def run(command: Command) -> int:
    """The status of a command; `python` is the one that runs this."""
    print(f"\n{command.line}", flush=True)
    words = [sys.executable if word == "python" else word for word in command.words]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    read = {path: digest(path) for path in command.reads}
    status = subprocess.run(words, cwd=ROOT, env=environment).returncode
    if status == 0 and (command.reads or command.leaves):
        note_run(command, read)
    return status


def note_run(command: Command, read: dict[str, str | None]):
    """Notes what a command has read and left.

    A key, and with it a delivery, is drawn, and not the same again. One that is made again from the
    same inputs stands for the one that is gone: what read that one need not run again.
    """
    notes = read_notes()
    before = notes.get(command.line)
    left = {path: digest(path) for path in command.leaves}
    notes[command.line] = {"reads": read, "leaves": left}
    if command.script in (KEY, DELIVERY) and before is not None and before["reads"] == read:
        for other in notes.values():
            for path, gone in before["leaves"].items():
                if other["reads"].get(path) == gone:
                    other["reads"][path] = left[path]
    write_alone(NOTES, json.dumps(notes, indent=1) + "\n")


def describe_left(commands: list[Command], left: list[Command], records: dict) -> str:
    if not left:
        return f"all {len(commands)} commands are done"
    minutes = measure_pace(commands, records) * sum(command.minutes for command in left)
    return (f"{len(left)} of {len(commands)} commands are left, about {duration(60 * minutes)}; "
            f"next: {left[0].chapter}")


def measure_pace(commands: list[Command], records: dict[tuple[str, ...], Recorded]) -> float:
    """How much longer than the list says commands took so far: of those that say their seconds."""
    stated = seconds = 0.0
    for command in commands:
        record = records.get(tuple(command.words))
        if record is not None and record.seconds:
            stated += 60 * command.minutes
            seconds += record.seconds
    return seconds / stated if stated else 1.0


if __name__ == "__main__":
    run_command(main)
