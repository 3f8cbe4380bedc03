"""The paper's setting as one command: what it passes on, and where it stops."""

import subprocess
import sys
import time

import pytest

from experiments import paper_setting as paper
from experiments.paper_setting import select_options, wait_until
from tests.steps import STEPS


def test_each_step_gets_the_options_that_it_uses():
    options = ("--model", "vgg11", "--kappa", "3", "--data_dir", "elsewhere", "--lr=0.1",
               "--preset", "demo")
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
    ([0, 0, 0, 0, 0], 0, "all steps are done"), ([0, None], 0, "run the same command again"),
    ([0, 3], 1, "run the same command again")])
def test_it_goes_through_the_steps_and_adds_nothing_to_their_results(
        monkeypatch, tmp_path, capsys, ends, status, said):
    """results/accuracy holds results alone: the tables take every file there for one."""
    started, ends = [], iter(ends)
    monkeypatch.setattr(paper, "estimate_training", lambda p: 357_000.0)
    monkeypatch.setattr(paper.subprocess, "Popen", lambda words, cwd: started.append(words[1]))
    monkeypatch.setattr(paper, "wait_until", lambda process, end: next(ends))
    out = tmp_path / "accuracy"
    assert paper.main("1", str(out), "--data_dir", str(tmp_path / "data")) == status
    printed = capsys.readouterr().out
    assert said in printed and not out.exists()
    assert "pretrain 4 d 3 h, train_with_ac 4 d 3 h, train_no_ac 4 d 3 h; 12 d 10 h" in printed
    assert started == list(STEPS)[:len(started)] and next(ends, "none left") == "none left"
