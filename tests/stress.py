"""The long stress of the steps and of inference: `make stress`, a quarter of an hour on two cores.

Kills, Ctrl-C, full disks, damaged and hostile files; the counts go to results/stress.json. Exit
status 1 where anything is not as it must be.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from parameter import Parameters
from tests.damage import (
    ALL,
    DAMAGE,
    SETTINGS,
    TRAINING,
    contents,
    make_stages,
    place,
    snapshot,
    vouch,
    with_settings,
)
from tests.misfits import CHECKPOINT, MISFITS, READERS, Reader
from tests.steps import (
    CALLS,
    ROOT,
    Result,
    full_disk,
    killed_before,
    noting,
    run,
    start,
    wait_until,
)
from utils.artifacts import write_alone
from utils.provenance import provenance
from utils.records import to_json

KILLS, INTERRUPTS, FLIPS, MUTATIONS = 60, 30, 20, 25
FILES = [*READERS, Reader(CHECKPOINT, "pretrain.py", "--restart"),
         Reader("developer/no_ac.pt", "train_no_ac.py", ""),
         Reader("developer/with_ac.json", "train_with_ac.py", ""),
         Reader("developer/manifest.json", "train_no_ac.py", "")]
FROM_OTHERS = ("delivery/", "queries/", "developer/first_layer.pt")
# Files that are changed without a check of their bytes by a manifest: a step may take them.
CHECK_THEMSELVES = (CHECKPOINT, "developer/first_layer.pt", "provider/current.json")

# Bytes that a step adds to a disk.
NEEDS = dict.fromkeys(TRAINING, 1.5e7) | {"gen_morphing_matrix.py": 3e5, "gen_augconv.py": 4e6,
                                          "morph_images.py": 4e4, "predict.py": 4e4}


def step(script: str, data: Path, *arguments, settings: tuple = (), before=None) -> Result:
    """As tests.damage.step, always in a process of its own: random bytes may end it."""
    return run(script, "--data_dir", data, *arguments, settings=with_settings(data, settings),
               before=before)


class Tally:
    """Counts of cases by what was seen in them, and the failures."""

    def __init__(self):
        self.counts, self.failures = {}, []

    def add(self, test: str, case: str, **seen: bool):
        counts = self.counts.setdefault(test, {"cases": 0})
        counts["cases"] += 1
        for what, right in seen.items():
            counts[what] = counts.get(what, 0) + bool(right)
            if not right:
                self.failures.append(f"{test}, {case}: not {what.replace('_', ' ')}")
                print(self.failures[-1], flush=True)


def was_stopped(result: Result) -> bool:
    """By Ctrl-C, with one line."""
    one_line_only = len(result.message.splitlines()) == 1 and "stopped" in result.message
    return result.status == -signal.SIGINT and one_line_only


def one_line(result: Result) -> bool:
    return result.status == 1 and len(result.message.splitlines()) == 1


def beside_pictures(found: dict) -> dict:
    return {name: what for name, what in found.items() if not name.endswith(".png")}


def read(data: Path) -> dict | None:
    """The contents of a data folder, or None where a file is not the one of its manifest."""
    try:
        return contents(data)
    except (AssertionError, KeyError, OSError) as mistake:
        print(mistake, flush=True)
        return None


class Stress:
    def __init__(self, folder: Path):
        self.folder, self.tally, self.random = folder, Tally(), random.Random(6)
        self.stages = make_stages(folder / "stages")
        self.after = dict(zip(ALL, [*ALL[1:], "end"], strict=True))

    @contextmanager
    def at(self, stage: str, into: Path | None = None):
        """A copy of a data folder, by links (the steps never write into a file that is there)."""
        data = (into or self.folder) / "data"
        shutil.copytree(self.stages[stage], data, copy_function=shutil.copy2 if into else os.link)
        (data / ".lock").unlink(missing_ok=True)
        yield data
        shutil.rmtree(data)

    def identical(self, data: Path, script: str) -> bool:
        return read(data) == contents(self.stages[self.after[script]])

    def signals(self, test: str, number: int, count: int):
        """A signal at random moments of the steps in turn, and the same command again."""
        lengths = {}
        for script in ALL:
            with self.at(script) as data:
                began = time.monotonic()
                assert step(script, data).status == 0
                lengths[script] = time.monotonic() - began
        done = 0
        while done < count:
            script = ALL[done % len(ALL)]
            with self.at(script) as data:
                running = start(script, "--data_dir", data, settings=with_settings(data))
                if number == signal.SIGINT:              # while Python starts, it ends as it likes
                    wait_until(lambda lock=data / ".lock": lock.exists())
                running.join(self.random.uniform(0, lengths[script]))
                if running.running:
                    running.send(number)
                result = running.wait()
                if result.status == 0:                   # it was done already
                    continue
                done += 1
                ended = (result.status == -number if number == signal.SIGKILL
                         else was_stopped(result))
                self.tally.add(test, f"{script} {result}", ended=ended,
                               completed=step(script, data).status == 0,
                               identical=self.identical(data, script))

    def files_of(self, script: str, call: str, stage: str, settings: tuple = ()) -> Counter:
        """To which files of a data folder a step does one of CALLS, and how often."""
        notes = self.folder / "notes"
        with self.at(stage) as data:
            assert step(script, data, settings=settings, before=noting(call, notes)).status == 0
            paths = [Path(line) for line in notes.read_text().splitlines()]
            files = Counter(str(path.relative_to(data)) for path in paths
                            if path.is_relative_to(data) and path.name != ".lock")
        notes.unlink()
        return files

    def kills_at_each_call(self):
        """Before each write, flush to disk, rename and removal of each step."""
        for script in ALL:
            for call in CALLS:
                for file, times in self.files_of(script, call, script).items():
                    for nth in range(1, times + 1):
                        self.killed(script, call, file, nth)

    def killed(self, script: str, call: str, file: str, nth: int):
        with self.at(script) as data:
            result = step(script, data, before=killed_before(call, file, nth))
            self.tally.add(
                "kills before each write, flush, rename and removal of a file",
                f"{script} {call} {file} {nth}", killed=result.status == -signal.SIGKILL,
                completed=step(script, data).status == 0,
                identical=self.identical(data, script))

    def full_disks(self):
        """A limit on the size of each file that a step writes, over a finished data folder."""
        more = ("--seed", "1", "--train_limit", "60", "--test_limit", "30")
        for script in ALL:
            own = more if script in TRAINING or script.startswith("gen_") else ()
            with self.at("end") as data:
                assert step(script, data, settings=own).status == 0
                expected = contents(data)
            for file, times in self.files_of(script, "write", "end", own).items():
                for nth in range(1, times + 1):
                    self.full_disk(script, file, nth, own, expected)

    def full_disk(self, script: str, file: str, nth: int, settings: tuple, expected: dict):
        with self.at("end") as data:
            before = contents(data)
            result = step(script, data, settings=settings, before=full_disk(file, 5, nth))
            case = f"{script} {file} {nth} {result}"
            if file.endswith(".png"):
                warned = (result.status == 0 and result.message.startswith("warning: ")
                          and "could not be drawn" in result.message)
                self.tally.add("full disk, for a picture", case, warning=warned,
                               all_else=beside_pictures(expected) == beside_pictures(read(data)))
                return
            after = read(data)
            self.tally.add(
                "full disk, by a limit of the file size", case,
                previous_whole=after is not None and before.items() <= after.items(),
                clear_line=one_line(result) and "File too large" in result.message,
                completed=step(script, data, settings=settings).status == 0,
                identical=read(data) == expected)

    def small_disks(self):
        """A tmpfs with too little space for the step, by more and more; then enough."""
        test, disk = "full disk, in a small tmpfs", self.folder / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", str(disk)],
                                 capture_output=True, text=True)
        if mounted.returncode:
            self.tally.counts[test] = {"skipped": mounted.stderr.strip()}
            return
        try:
            for script in ALL:
                for part in range(1, 8):
                    with self.at(script, into=disk) as data:
                        used = shutil.disk_usage(disk).used
                        resize(disk, used + int(NEEDS[script] * part / 7))
                        result = step(script, data)
                        resize(disk, 600 << 20)
                        if result.status == 0:
                            break
                        self.tally.add(
                            test, f"{script} {part} {result}", previous_whole=bool(read(data)),
                            clear_line=one_line(result) and "No space left" in result.message,
                            completed=step(script, data).status == 0,
                            identical=self.identical(data, script))
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def damages(self):
        """Every file in every way, at random places too, and with a manifest that agrees."""
        for file, script, _ in FILES:
            for kind, (spoil, agreeing) in DAMAGE.items():
                begins_again = kind == "removed" and file in (CHECKPOINT, "developer/manifest.json")
                if not ((agreeing and file.endswith(".json")) or begins_again):
                    self.damaged("damaged files", file, script, kind, spoil, agreeing)
            if file not in CHECK_THEMSELVES:
                for _ in range(FLIPS):
                    self.damaged("one bit flipped, anywhere", file, script, "flip", self.flip,
                                 False)
        for name, (file, spoil, script) in MISFITS.items():
            self.damaged("another geometry, manifest agreeing", file, script, name,
                         lambda path, _, spoil=spoil: spoil(path), False)
        for file, script, _ in FILES:
            if file.startswith(FROM_OTHERS):
                for _ in range(MUTATIONS):
                    self.damaged("random bytes, manifest agreeing: refused, or a run as usual",
                                 file, script, "mutation", self.mutate,
                                 not file.endswith(".json"), may_pass=True)

    def damaged(self, test: str, file: str, script: str, kind: str, spoil, agreeing: bool,
                may_pass: bool = False):
        marker = self.folder / "code has run"
        restart = ["--restart"] if script in TRAINING and "delivery" in file else []
        epochs = ("--epochs", "1") if may_pass else ()
        with self.at("unfinished" if file == CHECKPOINT else "end") as data:
            path = place(data, file)
            for linked in {path, path.parent / "manifest.json"}.intersection(path.parent.iterdir()):
                content = linked.read_bytes()
                linked.unlink()
                linked.write_bytes(content)
            spoil(path, marker)
            if agreeing:
                vouch(path)
            before = snapshot(data)
            script, *more = script.split()
            result = step(script, data, *more, *restart, settings=epochs)
            named = path.parent.name if file.startswith("KEY/") else path.name
            right = dict(refused_in_one_line=one_line(result),
                         file_named=named in result.message,
                         nothing_else_changed=snapshot(data) == before)
        if may_pass:
            right = dict(as_it_must=result.status == 0 or (
                right["refused_in_one_line"] and right["nothing_else_changed"]))
        self.tally.add(test, f"{file} {script} {kind} {result}", **right,
                       no_code_has_run=not marker.exists())

    def flip(self, path: Path, _):
        content = bytearray(path.read_bytes())
        content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
        path.write_bytes(content)

    def mutate(self, path: Path, _):
        """Some random bytes among the first and last thousand: where the structure is."""
        content = bytearray(path.read_bytes())
        for _ in range(self.random.choice((1, 3, 10))):
            place = self.random.randrange(-min(1000, len(content)), min(1000, len(content)))
            content[place] = self.random.randrange(256)
        path.write_bytes(content)


def resize(disk: Path, size: int):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def bad_inputs() -> dict:
    """tests/test_bad_input.py, counted."""
    done = subprocess.run([sys.executable, "-m", "pytest", "tests/test_bad_input.py"], cwd=ROOT,
                          capture_output=True, text=True)
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed)", done.stdout)}
    return {"cases": sum(counts.values()), "refused_in_one_line": counts.get("passed", 0)}


def main():
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stress-") as folder:
        stress = Stress(Path(folder))
        for title, test in [
                ("kills", lambda: stress.signals("kills at random moments", signal.SIGKILL, KILLS)),
                ("Ctrl-C", lambda: stress.signals("Ctrl-C at random moments", signal.SIGINT,
                                                  INTERRUPTS)),
                ("kills at each call", stress.kills_at_each_call),
                ("full disks", stress.full_disks), ("small disks", stress.small_disks),
                ("damaged files", stress.damages)]:
            print(f"{time.monotonic() - began:6.0f} s: {title}", flush=True)
            test()
    tally = stress.tally
    print(f"{time.monotonic() - began:6.0f} s: bad input", flush=True)
    tally.counts["bad parameters and data sets"] = counts = bad_inputs()
    if len(set(counts.values())) > 1:
        tally.failures.append("bad input")
    record = {"settings": " ".join(SETTINGS), **provenance(Parameters()), "command": "make stress",
              "seconds": round(time.monotonic() - began), "failures": tally.failures, "table": [
                  {"test": test, "cases": counts.pop("cases", 0), "outcomes": counts}
                  for test, counts in tally.counts.items()]}
    write_alone(ROOT / "results" / "stress.json", to_json(record))
    print(json.dumps(record["table"], indent=1))
    sys.exit(1 if tally.failures else 0)


if __name__ == "__main__":
    main()
