"""The runner behind all results: what it runs, in which order, and what it runs again."""

import json
import shutil
import subprocess

import pytest

from experiments import evidence
from utils import provenance
from utils.errors import UserError
from utils.settings import parse

PRETRAIN = "python pretrain.py --data_dir data/a --results_dir results/accuracy"
INSTALL = "install -D -m 644 data/a/developer/first_layer.pt results/first_layers/vgg11.pt"
LAYER = "--first_layer results/first_layers/vgg11.pt"
DRAW = f"python gen_morphing_matrix.py --data_dir data/b {LAYER}"
DELIVER = f"python gen_augconv.py --data_dir data/b {LAYER}"
TRAIN = "python train_with_ac.py --data_dir data/b --results_dir results/accuracy"
CONTROL = "python train_no_ac.py --data_dir data/b --results_dir results/accuracy"
MATRIX = ("python -m experiments.attack_matrix --first_layers results/first_layers "
          "--output results")
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
    monkeypatch.setattr(evidence, "NOTES", tmp_path / "results" / "evidence.json")
    ran = Runner(tmp_path)
    monkeypatch.setattr(evidence.subprocess, "run", ran)
    return ran


class Runner:
    """Stands for subprocess.run: remembers the commands, and leaves their files."""

    def __init__(self, root):
        self.root, self.lines, self.failing, self.records = root, [], None, 0
        self.layer = "a layer"                           # what pretrain.py leaves
        self.files = 0

    def __call__(self, words, **_):
        line = " ".join(["python" if "python" in word else word for word in words])
        self.lines.append(line)
        if line == self.failing:
            return subprocess.CompletedProcess(words, 1)
        command = evidence.Command(line, 1.0, "")
        content = self.layer if command.script == "pretrain.py" else self.new()
        if command.script == "install":
            content = (self.root / command.reads[0]).read_text()
        for name in command.leaves:
            self.write(name, content)
        if command.leaves_record:
            self.record(line)
        return subprocess.CompletedProcess(words, 0)

    def new(self) -> str:
        """Content that no file has had: keys are drawn."""
        self.files += 1
        return f"file {self.files}"

    def write(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def record(self, line):
        self.records += 1
        record = {"command": line, "seconds": 60.0}
        self.write(f"results/accuracy/{self.records}.json", json.dumps(record))

    def edit(self, old, new):
        """Changes a line of the list."""
        path = self.root / "commands.txt"
        path.write_text(path.read_text().replace(old, new))

    def again(self) -> list[str]:
        """What another call runs."""
        self.lines = []
        evidence.run_missing()
        return self.lines


ALL = [PRETRAIN, INSTALL, DRAW, DELIVER, TRAIN, CONTROL, MATRIX]


def test_all_commands_run_in_their_order_and_none_again(runner, capsys):
    assert runner.again() == ALL
    said = capsys.readouterr().out
    assert "7 of 7 commands are left, about 3 h 0 min; next: First" in said
    assert "all 7 commands are done" in said
    assert runner.again() == []


def test_the_time_that_is_left_follows_the_pace_of_this_machine(runner, capsys):
    runner.record(PRETRAIN)                              # 1 minute in place of 40
    runner.failing = INSTALL
    runner.again()
    assert "about 4 min" in capsys.readouterr().out      # 180 minutes by that pace


def test_it_goes_on_where_it_stopped(runner, capsys):
    runner.failing = TRAIN
    assert runner.again() == ALL[:5]
    assert "correct what it says, then run `make evidence` again" in capsys.readouterr().err
    runner.failing = None
    assert runner.again() == [TRAIN, CONTROL, MATRIX]    # the key and the delivery are there


def test_files_that_are_gone_are_made_again_only_where_they_are_needed(runner):
    runner.failing = CONTROL
    runner.again()
    runner.failing = None
    shutil.rmtree(runner.root / "data")                  # a copy without data/, with the records
    assert runner.again() == [DRAW, DELIVER, CONTROL, MATRIX]


def test_one_missing_file_is_enough_to_make_it_again(runner):
    runner.failing = CONTROL
    runner.again()
    runner.failing = None
    (runner.root / "data/b/delivery/manifest.json").unlink()
    assert runner.again() == [DELIVER, CONTROL, MATRIX]


def test_another_delivery_in_the_folder_is_not_trained_on(runner):
    runner.failing = CONTROL
    runner.again()
    runner.failing = None
    runner.write("data/b/delivery/manifest.json", "another delivery")
    assert runner.again() == [DELIVER, CONTROL, MATRIX]


def test_a_new_first_layer_makes_all_that_read_it_run_again(runner, capsys):
    """And the records that were made with the earlier one are removed."""
    runner.again()
    runner.edit(PRETRAIN, f"{PRETRAIN} --lr 0.02")
    runner.layer = "another layer"
    assert runner.again() == [f"{PRETRAIN} --lr 0.02", *ALL[1:]]
    assert (runner.root / "results/first_layers/vgg11.pt").read_text() == "another layer"
    assert "is removed: the same command has a newer record" in capsys.readouterr().out
    commands = [json.loads(path.read_text())["command"]
                for path in (runner.root / "results/accuracy").glob("*.json")]
    assert commands.count(TRAIN) == commands.count(CONTROL) == commands.count(MATRIX) == 1


def test_the_same_first_layer_again_changes_nothing(runner):
    runner.again()
    for path in (runner.root / "results/accuracy").glob("*.json"):
        if json.loads(path.read_text())["command"] == PRETRAIN:
            path.unlink()
    assert runner.again()[0] == PRETRAIN
    assert runner.again() == []


def test_a_first_layer_that_comes_later_changes_nothing_of_what_ran_before(runner):
    """It is installed beside those that the attacks read."""
    later = "python pretrain.py --data_dir data/c --results_dir results/accuracy"
    install = "install -D -m 644 data/c/developer/first_layer.pt results/first_layers/c.pt"
    measure = ("python -m experiments.augmentation --first_layer results/first_layers/c.pt "
               "--results_dir results")
    runner.write("commands.txt", f"{TEXT}\n{later}  # 1 min\n{install}  # 0 min\n"
                                 f"{measure}  # 1 min\n")
    assert runner.again() == [*ALL, later, install, measure]
    assert runner.again() == []
    runner.layer = "another layer"
    runner.edit(later, f"{later} --lr 0.02")
    assert runner.again() == [f"{later} --lr 0.02", install, measure]


def test_another_line_for_the_key_makes_what_it_was_for_run_again(runner):
    runner.again()
    runner.edit(DRAW, f"{DRAW} --kappa 3")
    assert runner.again() == [f"{DRAW} --kappa 3", DELIVER, TRAIN, CONTROL]


def test_records_that_came_from_elsewhere_stay(runner):
    """There is no note of what their commands read."""
    for line in (PRETRAIN, TRAIN, CONTROL, MATRIX):
        runner.record(line)
    runner.write("results/first_layers/vgg11.pt", "a layer")
    assert runner.again() == []


def test_a_record_that_is_not_complete_is_continued(runner):
    runner.again()
    [matrix] = [path for path in (runner.root / "results/accuracy").glob("*.json")
                if json.loads(path.read_text())["command"] == MATRIX]
    matrix.write_text(json.dumps({"command": MATRIX, "complete": False}))
    assert runner.again() == [MATRIX]


def test_a_command_that_leaves_no_record_stops_it(runner, capsys, monkeypatch):
    monkeypatch.setattr(Runner, "record", lambda self, line: None)
    assert runner.again() == [PRETRAIN]
    assert "it left no record" in capsys.readouterr().err


def test_chapters_are_left_as_far_as_their_commands_have_no_record(runner, monkeypatch):
    def left(*made):
        return evidence.list_chapters_left(set(made))

    assert left() == ["First: 1 of 1 commands without a record",
                      "Second: 2 of 2 commands without a record",
                      "Third: 1 of 1 commands without a record"]
    assert left(PRETRAIN, CONTROL) == ["Second: 1 of 2 commands without a record",
                                       "Third: 1 of 1 commands without a record"]
    assert left(PRETRAIN, TRAIN, CONTROL, MATRIX) == []


def test_options_are_read_in_each_form():
    spaced = evidence.Command("python gen_augconv.py --data-dir data/ab --tile 8", 1.0, "")
    joined = evidence.Command("python gen_augconv.py --data_dir=data/ab", 1.0, "")
    assert spaced.leaves == joined.leaves == ["data/ab/delivery/manifest.json"]
    assert evidence.is_part_of("data/a/x", ["data/a"])
    assert not evidence.is_part_of("data/ab/x", ["data/a"])


def test_help_runs_nothing(runner, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["evidence", "--help"])
    with pytest.raises(SystemExit) as ended:
        evidence.main()
    assert ended.value.code == 0 and "make evidence" in capsys.readouterr().out
    assert runner.lines == []


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


def test_results_do_not_make_the_code_dirty(tmp_path, monkeypatch):
    """Commands that run one after the other leave records beside the code that made them."""
    def git(*words):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x", "-C", str(tmp_path),
                        *words], check=True, capture_output=True)

    def version() -> str:
        provenance.code_version.cache_clear()
        return provenance.code_version()

    (tmp_path / "results").mkdir()
    for name in ("results/a.json", "step.py"):
        (tmp_path / name).write_text("")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "x")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    clean = version()
    (tmp_path / "results" / "a.json").write_text("{}")
    assert version() == clean and "dirty" not in clean
    (tmp_path / "step.py").write_text("x = 1")
    assert version() == f"{clean}-dirty"
    provenance.code_version.cache_clear()


def test_the_committed_commands_are_commands_of_this_program():
    """Each option is one that its step takes; no command stands twice."""
    text = evidence.COMMANDS.read_text(encoding="utf-8")
    commands = evidence.read_commands(text)
    lines = [command.line for command in commands]
    assert len(set(lines)) == len(lines)
    for command in commands:
        if command.script.endswith(".py"):
            parse("", command.words[2:], step=command.script)
        else:
            assert command.words[0] == "install" or command.words[1] == "-m"
    hours = sum(command.minutes for command in commands) / 60
    assert hours <= 35


def test_the_makefile_measures_as_the_list_of_commands_does():
    """Or `make evidence` would measure again what a target of the Makefile has left."""
    text = evidence.COMMANDS.read_text(encoding="utf-8")
    listed = {command.line for command in evidence.read_commands(text)}
    programs = {line.split()[2] for line in listed if line.startswith("python -m ")}
    lines = (provenance.ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    measuring = [line.replace("\t$(STEP)", "python") for line in lines
                 if line.startswith("\t$(STEP) -m ") and line.split()[2] in programs]
    assert len(measuring) == 3                           # attack-matrix, tables-he, bench
    assert set(measuring) <= listed
