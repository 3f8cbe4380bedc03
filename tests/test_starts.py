"""Each way to start a Python program: it ends well, and its record has the command to type again;
and Ctrl-C while it starts."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.inference import record
from tests.steps import ENVIRONMENT, INFERENCE, ROOT, STEPS, TINY
from utils import ctrl_c, step
from utils.settings import options_of

PLAIN, MODULE = "python pretrain.py", "python -m pretrain"


def start(*words, **environment) -> subprocess.CompletedProcess:
    """Runs Python in the program's folder, with nothing to read.

    Ctrl-C counts there also if the tests themselves run in the background, where it is ignored.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT,
                              env=os.environ | ENVIRONMENT | environment,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=300)
    finally:
        signal.signal(signal.SIGINT, before)


# How Python is started before the program's own options, and the command that a record must have.
DEBUGGER = "-m pdb -c continue"
STARTS = {
    "a script": ("pretrain.py", PLAIN),
    "its whole path": (f"{ROOT}/pretrain.py", PLAIN),
    "a module": ("-m pretrain", MODULE),
    "optimised": ("-O pretrain.py", PLAIN),
    "warnings as errors": ("-W error pretrain.py", PLAIN),
    "debugger": (f"{DEBUGGER} pretrain.py", PLAIN),
    "debugger, a module": (f"{DEBUGGER} -m pretrain", MODULE),
    "profiler": ("-m cProfile pretrain.py", PLAIN),
    "profiler, a module": ("-m cProfile -m pretrain", MODULE),
    "trace": ("-m trace --listfuncs pretrain.py", PLAIN),
    "trace, a module": ("-m trace --listfuncs --module pretrain", PLAIN)}

# In the place of PyTorch, which takes seconds to import.
TELLS_THE_COMMAND = """
import sys
from utils.launch import command_line
from utils.step import step_name
print()
print("started", step_name(), "by", command_line(), flush=True)
sys.exit()
"""


@pytest.mark.parametrize("way", STARTS)
def test_the_command_to_type_again_is_known(way, tmp_path):
    (tmp_path / "torch.py").write_text(TELLS_THE_COMMAND)
    words, command = STARTS[way]
    done = start(*words.split(), "--lr", "0.5", "--init", "a b", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0 and done.stderr == "", done
    line = f"started pretrain.py by {command} --lr 0.5 --init 'a b'"
    assert line in done.stdout.splitlines()


@pytest.mark.parametrize("words", ["-W error -m pretrain", f"{DEBUGGER} pretrain.py"])
def test_it_ends_well_and_records_the_command(words, tmp_path):
    options = options_of("pretrain.py", (*TINY, "--epochs", "1", "--train_limit", "16"))
    done = start(*words.split(), "--data_dir", tmp_path, *options)
    assert done.returncode == 0 and "plain network:" in done.stdout, done
    # Some versions of Matplotlib draw nothing where warnings are errors.
    assert all("could not be drawn" in line for line in done.stderr.splitlines()), done
    command = MODULE if "-m pretrain" in words else PLAIN
    assert record(tmp_path, "pretrained")["command"].startswith(f"{command} --data_dir")


# Ctrl-C

IS_INTERRUPTED = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"


@pytest.mark.parametrize("script", [*STEPS, *INFERENCE, "attack.py", "reproduce_tables.py"])
def test_ctrl_c_while_modules_are_imported_ends_a_step_in_silence(script, tmp_path):
    """By its signal, so that a loop in a shell ends too."""
    (tmp_path / "torch.py").write_text(IS_INTERRUPTED)
    done = start(script, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.fixture
def started(monkeypatch):
    """As if Python had been started with a step; Ctrl-C is handled as before at the end."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=f"{ROOT}/pretrain.py"))
    monkeypatch.delattr(sys, "ps1", raising=False)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    yield monkeypatch
    signal.signal(signal.SIGINT, before)


def test_from_its_work_on_ctrl_c_is_an_exception_again(started, tmp_path):
    started.setattr(ctrl_c, "IS_LEFT_TO_THE_SYSTEM", ctrl_c.end_at_once())
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    handlers = []
    started.setattr(sys, "argv", ["pretrain.py", "--data_dir", str(tmp_path)])
    step.run_step(lambda p: handlers.append(signal.getsignal(signal.SIGINT)), "")
    assert handlers == [signal.default_int_handler]


@pytest.mark.parametrize("case", ["another program", "an interpreter", "a notebook"])
def test_where_a_step_is_not_all_of_the_program_ctrl_c_is_left_alone(started, case):
    if case == "another program":
        started.setitem(sys.modules, "__main__", SimpleNamespace(__file__="/home/me/mine.py"))
    elif case == "an interpreter":
        started.setattr(sys, "ps1", ">>> ", raising=False)
    else:
        started.setitem(sys.modules, "IPython", SimpleNamespace())
    assert not ctrl_c.end_at_once()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_that_ignores_ctrl_c_goes_on_ignoring_it(started):
    """As after `nohup` or in the background of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert not ctrl_c.end_at_once()
    ctrl_c.raise_again()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
