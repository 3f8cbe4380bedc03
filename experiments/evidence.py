"""Runs what is missing of experiments/commands.txt, which makes all results: `make evidence`.

Says what is left and how long it will take, then runs one command after the other. Stop it at any
time; the same command goes on with what is missing. A command that leaves a record (--results_dir
or --output) is done when a record in results/ names it. Others make files that later commands with
the same --data_dir need; they run again where those files are gone. Refuses to start with changes
that are not committed, outside results/: a record names the commit that made it.
"""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from experiments.commands import run_command
from utils.artifacts import write_alone
from utils.errors import UserError
from utils.provenance import ROOT
from utils.training import duration

COMMANDS = ROOT / "experiments" / "commands.txt"
RESULTS = ROOT / "results"
MADE = ROOT / "data" / "evidence.json"      # whose files are there: {data_dir: [command, ...]}
KEY, DELIVERY = "gen_morphing_matrix.py", "gen_augconv.py"


@dataclass(frozen=True)
class Command:
    """A line of commands.txt: a command, and its minutes on two cores with AVX2."""

    line: str
    minutes: float
    chapter: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line)

    @property
    def script(self) -> str:
        return self.words[1] if self.words[0] == "python" else self.words[0]

    @property
    def data_dir(self) -> str | None:
        return self.option("--data_dir")

    @property
    def leaves_record(self) -> bool:
        return self.option("--results_dir") is not None or self.option("--output") is not None

    @property
    def makes_files(self) -> bool:
        """Whether later commands read what it leaves in its --data_dir."""
        is_plain = self.script == "pretrain.py" and self.option("--frozen_first_layer") is None
        return is_plain or self.script in (KEY, DELIVERY)

    def option(self, name: str) -> str | None:
        words = self.words
        return words[words.index(name) + 1] if name in words else None


def main(allow_changes: bool = False) -> int:
    """`allow_changes`: for tests."""
    if not allow_changes:
        refuse_changes()
    paragraphs = read_commands(COMMANDS.read_text(encoding="utf-8"))
    while True:
        recorded = read_recorded(RESULTS)
        left = list_left(paragraphs, recorded, read_made())
        print(describe_left(paragraphs, left, recorded), flush=True)
        if not left:
            return 0
        command = left[0]
        status = run(command)
        if status != 0:
            print(f"{command.line}: status {status}; correct what it says, then run `make "
                  "evidence` again to continue", file=sys.stderr)
            return 1
        if command in list_left(paragraphs, read_recorded(RESULTS), read_made()):
            print(f"{command.line}: it left no record in {RESULTS}", file=sys.stderr)
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

def read_commands(text: str) -> list[list[Command]]:
    """Paragraphs of commands. A line is `COMMAND  # 12 min`; one with # alone is a heading."""
    paragraphs, heading = [[]], ""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif not line:
            paragraphs.append([])
        else:
            command, mark, minutes = line.rpartition("# ")
            if not mark or not minutes.endswith(" min"):
                raise UserError(f"{COMMANDS.name}, line {number} does not end with its minutes, "
                                "such as # 12 min")
            minutes = float(minutes.removesuffix(" min"))
            paragraphs[-1].append(Command(command.strip(), minutes, heading))
    return [paragraph for paragraph in paragraphs if paragraph]


# -- What is done

def read_recorded(results: Path) -> dict[tuple, float]:
    """Commands (their words) that complete records in results/ name, with their seconds."""
    found = {}
    for path in sorted(results.rglob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not isinstance(record.get("command"), str):
            continue
        if record.get("complete", True):
            found[tuple(shlex.split(record["command"]))] = record.get("seconds", 0.0)
    return found


def read_made() -> dict[str, list[str]]:
    return json.loads(MADE.read_text(encoding="utf-8")) if MADE.exists() else {}


def note_made(command: Command):
    """Remembers that a command's files are in its --data_dir; a new key or delivery replaces the
    earlier ones there."""
    replaced = {KEY: (KEY, DELIVERY), DELIVERY: (DELIVERY,)}.get(command.script, ())
    made = read_made()
    lines = [line for line in made.get(command.data_dir, [])
             if line != command.line and shlex.split(line)[1] not in replaced]
    made[command.data_dir] = [*lines, command.line]
    write_alone(MADE, json.dumps(made, indent=1))


def is_recorded(command: Command, recorded: dict) -> bool:
    return tuple(command.words) in recorded


def is_made(command: Command, made: dict) -> bool:
    """Whether the files of a command that makes_files are there."""
    return (ROOT / command.data_dir).exists() and command.line in made.get(command.data_dir, [])


def is_installed(command: Command) -> bool:
    return (ROOT / command.words[-1]).exists()


def list_left(paragraphs: list[list[Command]], recorded: dict, made: dict) -> list[Command]:
    """The commands that are to run, in their order."""
    left = []
    for paragraph in paragraphs:
        for place, command in enumerate(paragraph):
            if is_left(command, paragraph[place + 1:], recorded, made):
                left.append(command)
    return left


def is_left(command: Command, later: list[Command], recorded: dict, made: dict) -> bool:
    """Whether a command has no record yet, or makes files that a later one without record needs."""
    if command.leaves_record and not is_recorded(command, recorded):
        return True
    if command.script == "install":
        return not is_installed(command)
    if not command.makes_files or is_made(command, made):
        return False
    for other in later:
        is_missing = other.leaves_record and not is_recorded(other, recorded)
        is_missing = is_missing or (other.script == "install" and not is_installed(other))
        if is_missing and command.data_dir in other.line:
            return True
    return False


# -- Running

def run(command: Command) -> int:
    """The status of a command; `python` is the one that runs this."""
    print(f"\n{command.line}", flush=True)
    words = [sys.executable if word == "python" else word for word in command.words]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    status = subprocess.run(words, cwd=ROOT, env=environment).returncode
    if status == 0 and command.makes_files:
        note_made(command)
    return status


def describe_left(paragraphs: list[list[Command]], left: list[Command], recorded: dict) -> str:
    total = sum(len(paragraph) for paragraph in paragraphs)
    if not left:
        return f"all {total} commands are done"
    pace = measure_pace(paragraphs, recorded)
    minutes = pace * sum(command.minutes for command in left)
    return (f"{len(left)} of {total} commands are left, about {duration(60 * minutes)}; next: "
            f"{left[0].chapter}")


def measure_pace(paragraphs: list[list[Command]], recorded: dict) -> float:
    """How much longer than the list says commands took so far: of those that say their seconds."""
    stated = seconds = 0.0
    for paragraph in paragraphs:
        for command in paragraph:
            if recorded.get(tuple(command.words)):
                stated += 60 * command.minutes
                seconds += recorded[tuple(command.words)]
    return seconds / stated if stated else 1.0


if __name__ == "__main__":
    run_command(main)
