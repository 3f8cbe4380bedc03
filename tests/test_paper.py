"""The paper's setting as one command: what it passes on, and where it stops."""

import subprocess
import sys
import time

from benchmarks.paper import finished, own


def test_each_step_gets_the_options_that_it_uses():
    options = ("--model", "vgg11", "--kappa", "3", "--data_dir", "elsewhere", "--lr=0.1",
               "--preset", "demo")
    also = {"results_dir": "out", "data_dir": "data/control"}
    assert own("train_no_ac.py", options, also) == [
        "--model", "vgg11", "--lr=0.1", "--preset", "demo", "--results_dir", "out",
        "--data_dir", "data/control"]
    assert own("gen_morphing_matrix.py", options, also) == [
        "--kappa", "3", "--preset", "demo", "--data_dir", "data/control"]


def test_a_step_ends_at_the_deadline():
    asleep = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"],
                              stderr=subprocess.DEVNULL)
    assert finished(asleep, time.monotonic()) is None and asleep.returncode != 0
    failing = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    assert finished(failing, time.monotonic() + 100) == 3
