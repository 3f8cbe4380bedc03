"""The runner behind all results: what it runs, in which order, and what it runs again."""

import json
import subprocess

import pytest

from experiments import evidence
from utils.errors import UserError
from utils.settings import parse

PRETRAIN = "python pretrain.py --data_dir data/a --results_dir results/accuracy"
INSTALL = "install -D -m 644 data/a/developer/first_layer.pt results/first_layers/a.pt"
DRAW = "python gen_morphing_matrix.py --data_dir data/b"
DELIVER = "python gen_augconv.py --data_dir data/b"
TRAIN = "python train_with_ac.py --data_dir data/b --results_dir results/accuracy"
CONTROL = "python train_no_ac.py --data_dir data/b --results_dir results/accuracy"
MATRIX = "python -m experiments.attack_matrix --output results"
TEXT = f"""
# First
{PRETRAIN}  # 40 min
{INSTALL}  # 0 min

# Second
{DRAW}  # 1 min
{DELIVER}  # 1 min
{TRAIN}  # 40 min
{CONTROL}  # 38 min

# Third
{MATRIX}  # 60 min
"""


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """A repository of its own, in which commands leave what they would leave."""
    (tmp_path / "commands.txt").write_text(TEXT)
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    monkeypatch.setattr(evidence, "COMMANDS", tmp_path / "commands.txt")
    monkeypatch.setattr(evidence, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(evidence, "MADE", tmp_path / "data" / "evidence.json")
    ran = Runner(tmp_path)
    monkeypatch.setattr(evidence.subprocess, "run", ran)
    return ran


class Runner:
    """Stands for subprocess.run: remembers the commands, and leaves their files."""

    def __init__(self, root):
        self.root, self.lines, self.failing, self.complete = root, [], None, True

    def __call__(self, words, **_):
        line = " ".join(["python" if "python" in word else word for word in words])
        self.lines.append(line)
        if line == self.failing:
            return subprocess.CompletedProcess(words, 1)
        if words[0] == "install":
            target = self.root / words[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("layer")
        if "--data_dir" in words:
            (self.root / words[words.index("--data_dir") + 1]).mkdir(parents=True, exist_ok=True)
        if "--results_dir" in words or "--output" in words:
            self.record(line)
        return subprocess.CompletedProcess(words, 0)

    def record(self, line):
        folder = self.root / "results" / "accuracy"
        folder.mkdir(parents=True, exist_ok=True)
        record = {"command": line, "seconds": 60.0, "complete": self.complete}
        (folder / f"{len(list(folder.iterdir()))}.json").write_text(json.dumps(record))

    def again(self) -> list[str]:
        """What another call runs."""
        self.lines = []
        evidence.main(allow_changes=True)
        return self.lines


def test_all_commands_run_in_their_order_and_none_again(runner, capsys):
    assert runner.again() == [PRETRAIN, INSTALL, DRAW, DELIVER, TRAIN, CONTROL, MATRIX]
    said = capsys.readouterr().out
    assert "7 of 7 commands are left, about 3 h 0 min; next: First" in said
    assert "all 7 commands are done" in said
    assert runner.again() == []


def test_the_time_that_is_left_follows_the_pace_of_this_machine(runner, capsys):
    runner.record(PRETRAIN)                              # 1 minute in place of 40
    runner.failing = INSTALL
    runner.again()
    assert "about 4 min" in capsys.readouterr().out      # 140 minutes by that pace


def test_it_goes_on_where_it_stopped(runner, capsys):
    runner.failing = TRAIN
    assert runner.again() == [PRETRAIN, INSTALL, DRAW, DELIVER, TRAIN]
    assert "correct what it says, then run `make evidence` again" in capsys.readouterr().err
    runner.failing = None
    assert runner.again() == [TRAIN, CONTROL, MATRIX]    # the key and the delivery are there


def test_files_that_are_gone_are_made_again_only_where_they_are_needed(runner):
    runner.failing = CONTROL
    runner.again()
    runner.failing = None
    evidence.MADE.unlink()                               # a copy without data/, with the records
    assert runner.again() == [DRAW, DELIVER, CONTROL, MATRIX]


def test_a_new_key_makes_the_delivery_useless(runner):
    runner.failing = CONTROL
    runner.again()
    runner.failing = None
    made = json.loads(evidence.MADE.read_text())
    made["data/b"].remove(DRAW)
    evidence.MADE.write_text(json.dumps(made))
    assert runner.again() == [DRAW, DELIVER, CONTROL, MATRIX]


def test_a_record_that_is_not_complete_is_continued(runner):
    for line in (PRETRAIN, TRAIN, CONTROL):
        runner.record(line)
    runner.complete = False
    runner.record(MATRIX)
    runner.complete = True
    assert runner.again()[-1] == MATRIX


def test_a_command_that_leaves_no_record_stops_it(runner, capsys, monkeypatch):
    monkeypatch.setattr(Runner, "record", lambda self, line: None)
    assert runner.again() == [PRETRAIN]
    assert "it left no record" in capsys.readouterr().err


def test_a_line_without_its_minutes_is_refused():
    with pytest.raises(UserError, match="line 2 does not end with its minutes"):
        evidence.read_commands("# A\npython pretrain.py --data_dir data/a\n")


def test_changes_that_are_not_committed_are_refused_outside_results(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "new.json").write_text("{}")
    evidence.refuse_changes()
    (tmp_path / "own.py").write_text("")
    with pytest.raises(UserError, match=r"not committed \(own\.py\)"):
        evidence.refuse_changes()


def test_the_committed_commands_are_commands_of_this_program():
    """Each option is one that its step takes; no command stands twice."""
    text = evidence.COMMANDS.read_text(encoding="utf-8")
    commands = [command for paragraph in evidence.read_commands(text) for command in paragraph]
    lines = [command.line for command in commands]
    assert len(set(lines)) == len(lines)
    for command in commands:
        if command.script.endswith(".py"):
            parse("", command.words[2:], step=command.script)
        else:
            assert command.words[0] == "install" or command.words[1] == "-m"
    hours = sum(command.minutes for command in commands) / 60
    assert hours <= 30
