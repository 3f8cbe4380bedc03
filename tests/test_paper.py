"""The paper's setting as one command: what it passes on, and where it stops."""

import subprocess
import sys
import time

import pytest

import pretrain
from experiments import paper_setting as paper
from experiments.paper_setting import select_options, wait_until
from tests.steps import STEPS
from utils.artifacts import write_alone
from utils.errors import UserError
from utils.settings import parse


def test_each_step_gets_the_options_that_it_uses():
    options = ["--model", "vgg11", "--kappa", "3", "--data_dir", "elsewhere", "--lr=0.1",
               "--preset", "demo"]
    also = {"results_dir": "out", "data_dir": "data/control"}
    assert select_options("train_no_ac.py", options, also) == [
        "--model", "vgg11", "--lr=0.1", "--preset", "demo", "--results_dir", "out",
        "--data_dir", "data/control"]
    assert select_options("gen_morphing_matrix.py", options, also) == [
        "--kappa", "3", "--preset", "demo", "--data_dir", "data/control"]


def test_a_step_ends_at_the_deadline():
    asleep = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"],
                              stderr=subprocess.DEVNULL)
    assert wait_until(asleep, time.monotonic()) is None and asleep.returncode != 0
    failing = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    assert wait_until(failing, time.monotonic() + 100) == 3


@pytest.mark.parametrize("ends, status, said", [
    ([0, 0, 0, 0, 0], 0, "all steps are done"), ([0, None], 0, "the time is over"),
    ([0, 3], 1, "gen_morphing_matrix.py failed: correct what it says")],
    ids=["all done", "stopped in time", "a step fails"])
def test_it_goes_through_the_steps_and_adds_nothing_to_their_results(
        monkeypatch, tmp_path, capsys, ends, status, said):
    """results/accuracy holds results alone: the tables take every file there for one."""
    started, ends = [], iter(ends)
    monkeypatch.setattr(paper, "estimate_training",
                        lambda p, folder, control: dict.fromkeys(paper.TRAINED, 357_000.0))
    monkeypatch.setattr(paper.subprocess, "Popen", lambda words, cwd: started.append(words[1]))
    monkeypatch.setattr(paper, "wait_until", lambda process, end: next(ends))
    out = tmp_path / "accuracy"
    assert paper.run_steps(1, str(out), ["--data_dir", str(tmp_path / "data")]) == status
    printed = capsys.readouterr().out
    assert said in printed and not out.exists()
    assert "pretrain 4 d 3 h, train_with_ac 4 d 3 h, train_no_ac 4 d 3 h; 12 d 9 h" in printed
    assert started == list(STEPS)[:len(started)] and next(ends, "none left") == "none left"


def test_a_time_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="'soon' is not a number of seconds"):
        paper.read_seconds("soon")


def test_the_estimate_is_of_the_epochs_that_are_left(monkeypatch, tmp_path):
    """Of the images of these settings: one run is done, one has a checkpoint, one has nothing."""
    options = ["--dataset", "shapes", "--image_size", "8", "--train_limit", "64", "--test_limit",
               "32", "--model", "vgg_small", "--epochs", "2", "--batch_size", "16", "--device",
               "cpu", "--precision", "fp32"]
    developer = tmp_path / "developer"
    pretrain.main(parse("", [*options, "--data_dir", str(tmp_path)]))
    (developer / "with_ac.checkpoint.pt").parent.mkdir(exist_ok=True)
    write_alone(developer / "with_ac.checkpoint.pt", {"curve": [{"epoch": 1}]})
    seen = []
    monkeypatch.setattr(paper, "measure_seconds_per_image",
                        lambda p, classes: seen.append(classes) or 10.0)
    p = parse("", [*options, "--epochs", "2"])
    found = paper.estimate_training(p, tmp_path, tmp_path / "control")
    assert found == {"pretrain.py": 0.0, "train_with_ac.py": 640.0, "train_no_ac.py": 1280.0}
    assert seen == [10]
