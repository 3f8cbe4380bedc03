"""Runs the steps as programs, many times and cheaply.

A process that has imported all that the steps import is forked for each run: a step starts in
milliseconds, in a process of its own that can be killed.

    result = run("pretrain.py", "--data_dir", folder, settings=TINY)
    assert result.status == 0, result.err
"""

import io
import multiprocessing
import os
import re
import resource
import runpy
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import NamedTuple

from utils.settings import options_of

ROOT = Path(__file__).resolve().parent.parent
STEPS = ("pretrain.py", "gen_morphing_matrix.py", "gen_augconv.py", "train_with_ac.py",
         "train_no_ac.py")
INFERENCE = ("morph_images.py", "predict.py")
TINY = ("--dataset", "shapes", "--image_size", "8", "--train_limit", "64", "--test_limit", "32",
        "--model", "vgg_small", "--epochs", "2", "--batch_size", "16", "--dropout", "0.1",
        "--lr", "0.003", "--schedule", "halve", "--morph_seed", "7", "--device", "cpu",
        "--precision", "fp32")
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
               "MKL_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload([
    "torch", "torchvision", "torch._dynamo", "scipy.sparse.linalg", "matplotlib.pyplot",
    "matplotlib.backends.backend_agg", "torchvision.utils", "images.datasets", "utils.delivery",
    "utils.training", "utils.first_layers", "utils.step", "tests.drawn", "tests.steps"])


class Result(NamedTuple):
    """Exit status (negative: the signal that ended it) and all that a step printed."""

    status: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """What stderr shows in the end: progress bars overwritten, as on a terminal."""
        lines = [re.split("\r+", line.rstrip("\r "))[-1].rstrip() for line in self.err.splitlines()]
        return "\n".join(line for line in lines if line)


class Step:
    """A step that is running; `wait` gives its result."""

    def __init__(self, script: str, arguments: tuple[str, ...], cwd: Path,
                 before: Callable[[], object] | None):
        self._folder = tempfile.TemporaryDirectory(prefix="step-")
        self._files = [Path(self._folder.name) / name for name in ("out", "err")]
        for file in self._files:
            file.touch()
        with _environment():
            self._process = FORKED.Process(
                target=_child, args=(script, arguments, str(cwd), before, *map(str, self._files)),
                daemon=True)
            self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return self._files[0].read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._files[1].read_text(errors="replace")

    def send(self, signal_number: int):
        os.kill(self.pid, signal_number)

    def join(self, seconds: float):
        """Lets it run for so long, or to its end."""
        self._process.join(seconds)

    def kill(self) -> Result:
        """SIGKILL, whatever it is doing."""
        self._process.kill()
        return self.wait()

    def wait(self, timeout: float = 300) -> Result:
        """Raises TimeoutError where it has not ended by then (it is killed)."""
        self._process.join(timeout)
        late = self.running
        if late:
            self._process.kill()
            self._process.join()
        result = Result(self._process.exitcode, self.out, self.err)
        self._folder.cleanup()
        if late:
            raise TimeoutError(f"not finished after {timeout} s: {result}")
        return result


def start(script: str, *arguments, settings: tuple = (), cwd: Path = ROOT,
          before: Callable[[], object] | None = None) -> Step:
    """Starts a step with the arguments and, of the settings, those that it uses.

    `before` is called in its process first (see full_disk, killed_before, and others).
    """
    return Step(script, (*options_of(script, settings), *map(str, arguments)), cwd, before)


def run(*command, timeout: float = 300, **also) -> Result:
    """Runs a step, as `start` takes it, to its end."""
    return start(*command, **also).wait(timeout)


def call(script: str, *arguments, settings: tuple = ()) -> Result:
    """Runs a step in this process, which is faster: for one that needs nothing done to it.

    As in an interactive interpreter, which Ctrl-C in a step does not end.
    """
    from tests import drawn
    drawn.remember()
    argv, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = [script, *options_of(script, settings), *map(str, arguments)]
    status = 0
    sys.ps1 = ">>> "
    try:
        with redirect_stdout(out), redirect_stderr(err):
            runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):                      # Python prints it, and ends with 1
            err.write(f"{status}\n")
            status = 1
    finally:
        sys.argv = argv
        del sys.ps1
    return Result(status or 0, out.getvalue(), err.getvalue())


def wait_until(condition: Callable[[], object], timeout: float = 120):
    """Polls until the condition holds; raises TimeoutError where it never does."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition never came true")
        time.sleep(0.002)


# What can be done to a step before it starts.

def full_disk(file: str, size: int = 100, nth: int = 1) -> Callable[[], None]:
    """The disk is full once `size` bytes of a file are written for the nth time.

    `file` is the end of its path, "" of any. It is RLIMIT_FSIZE, so that the system itself refuses;
    lifted when the step has ended, for its message.
    """
    return partial(_full_disk, file, size, nth)


def _full_disk(file: str, size: int, nth: int):
    seen = []

    def limit(path: str):
        if is_end_of(path, file):
            seen.append(path)
            if len(seen) == nth:                         # a picture's warning must find room
                limit_files(3000 if path.endswith(".png") else size)

    _watch("write", limit)


def limit_files(size: int):
    """No file may grow beyond `size` bytes: `ulimit -f`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


# What a step does to a file, and the function of `os` that does it.
CALLS = {"write": "open", "flush": "fsync", "rename": "replace", "remove": "unlink"}


def killed_before(call: str, file: str, nth: int = 1, by: int = signal.SIGKILL
                  ) -> Callable[[], None]:
    """A signal just before a step does one of CALLS to a file, for the nth time.

    `file` is the end of its path, such as "delivery/manifest.json". A file is written and flushed
    under its temporary name; that counts as the file.
    """
    return partial(_killed_before, call, file, nth, by)


def _killed_before(call: str, file: str, nth: int, by: int):
    seen = []

    def kill(path: str):
        if is_end_of(path, file):
            seen.append(path)
            if len(seen) == nth:
                os.kill(os.getpid(), by)

    _watch(call, kill)


def noting(call: str, notes: Path) -> Callable[[], None]:
    """The path of each file that a step does one of CALLS to is added to `notes`, a line each."""
    return partial(_noting, call, notes)


def _noting(call: str, notes: Path):
    notes.touch()
    descriptor = os.open(notes, os.O_WRONLY | os.O_APPEND)
    _watch(call, lambda path: os.write(descriptor, f"{path}\n".encode()))


def is_end_of(path: str, file: str) -> bool:
    return not file or f"/{path}".endswith(f"/{file}")


def _watch(call: str, act: Callable[[str], object]):
    """Calls act(path) before each such call."""
    true = getattr(os, CALLS[call])

    def watched(first, *arguments, **also):
        if call == "flush":
            path = os.readlink(f"/proc/self/fd/{first}")
        else:
            path = os.fsdecode(arguments[0] if call == "rename" else first)
        if call != "write" or arguments[0] & os.O_WRONLY:
            act(path.removesuffix(".partial"))
        return true(first, *arguments, **also)

    setattr(os, CALLS[call], watched)


def free_memory(size: int) -> Callable[[], None]:
    """So many bytes of memory are free, as the step sees it."""
    return partial(_free_memory, size)


def _free_memory(size: int):
    from utils import examples, memory
    memory.free_memory = examples.free_memory = lambda device: size


def one_of_several(rank: int, world: int, port: int) -> Callable[[], None]:
    """The step is one of several processes, as torchrun starts them."""
    return partial(_one_of_several, rank, world, port)


def _one_of_several(rank: int, world: int, port: int):
    os.environ.update(WORLD_SIZE=str(world), RANK=str(rank), LOCAL_RANK=str(rank),
                      MASTER_ADDR="localhost", MASTER_PORT=str(port))


def refusing(function: str, number: int, folders: bool = False) -> Callable[[], None]:
    """A function such as os.chmod fails with that errno, as on file systems without it; `folders`:
    for folders only."""
    return partial(_refusing, function, number, folders)


def _refusing(function: str, number: int, folders: bool):
    module, name = function.split(".")
    true = getattr(sys.modules[module], name)

    def refuse(file, *arguments, **also):
        if folders and not stat.S_ISDIR(os.stat(file).st_mode):
            return true(file, *arguments, **also)
        raise OSError(number, os.strerror(number))

    setattr(sys.modules[module], name, refuse)


def not_a_number_after(steps: int) -> Callable[[], None]:
    """The optimizer puts NaN into the weights in its step after so many."""
    return partial(_not_a_number_after, steps)


def _not_a_number_after(steps: int):
    import torch
    true, calls = torch.optim.SGD.step, []

    def poisonous(optimizer, *arguments, **also):
        result = true(optimizer, *arguments, **also)
        calls.append(optimizer)
        if len(calls) > steps:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0].fill_(torch.nan)
        return result

    torch.optim.SGD.step = poisonous


def singular_cores(count: int) -> Callable[[], None]:
    """The first cores that are drawn are so many of rank one, but for rounding."""
    return partial(_singular_cores, count)


def _singular_cores(count: int):
    import torch

    from mole import morphing
    true, calls = morphing.draw_core, []

    def draw(q, *arguments):
        calls.append(q)
        core = true(q, *arguments)
        if len(calls) > count:
            return core
        return torch.ones(q, q) + 1e-6 * core

    morphing.draw_core = draw


def _child(script: str, arguments: tuple[str, ...], cwd: str, before, out: str, err: str):
    for number, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=False)         # as into a file, wherever pytest prints
    import gc

    import torch

    from tests import drawn
    drawn.remember()
    gc.freeze()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    sys.path.insert(0, str(ROOT))
    sys.argv = [script, *arguments]
    os.fsync = lambda descriptor: None       # no test cuts the power, and GBs would wait for disks
    try:
        if before is not None:
            before()
        runpy.run_path(str(ROOT / script), run_name="__main__")
        signal.signal(signal.SIGINT, signal.SIG_IGN)     # while this process ends, not the step
    finally:
        limit_files(resource.RLIM_INFINITY)


@contextmanager
def _environment():
    """What the process that is forked needs in its environment."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
