"""How a step starts and ends: its settings, its lock, and mistakes in one line.

A step imports this module before any other: Ctrl-C while the others are imported, and a mistake in
parameter.py, which nearly all of them import, then end it well too.
"""

import utils.ctrl_c  # isort: skip
import atexit
import errno
import os
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from utils.errors import UnusableSetting, UserError, is_out_of_memory, tolerated
from utils.launch import read_launch


def step_name() -> str:
    """The file name of the program that runs. Under `python -m cProfile -m pretrain` Python has no
    more than the module's name."""
    name = Path(sys.argv[0]).name
    is_a_modules = (utils.ctrl_c.ROOT / f"{name}.py").is_file()
    return f"{name}.py" if is_a_modules else name


try:
    from utils.settings import Settings, parse, uses
except UserError as mistake:
    print(f"{step_name()}: {mistake}", file=sys.stderr)
    sys.exit(2)

# What an OSError's reader can do. These pass: the same command then continues.
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
PASSING = {errno.EIO, errno.EPIPE, errno.EINTR, errno.ETIMEDOUT, errno.ESTALE, errno.EAGAIN,
           errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNRESET, errno.EHOSTUNREACH}
ADVICE = {
    errno.EACCES: "change the permissions, or choose another folder",
    errno.EPERM: "change the permissions, or choose another folder",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOENT: "correct the path",
    errno.ENOTDIR: "a file is where a folder should be: correct the path",
    errno.EEXIST: "a file is where a folder should be: correct the path",
    errno.EISDIR: "a folder is where a file should be: correct the path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
SMALLER = {                         # what takes less memory, by the setting that it needs
    "train_limit": "fewer images (--train_limit)", "feature_cache": "--feature_cache off",
    "batch_size": "a smaller --batch_size", "predict_batch": "a smaller --predict_batch",
    "tile": "a --tile", "device": "--device cpu"}


def run_step(step: Callable[[Settings], object], description: str):
    """Runs `step(settings)` as a program. Status 2: wrong settings; 1: any other mistake.

    Ctrl-C ends it by SIGINT, so that a loop in a shell ends too. It can be called again in the same
    interpreter.
    """
    name, p = step_name(), None
    try:
        utils.ctrl_c.raise_again()
        _prepare_streams()
        p = parse(description, step=name)
        _note_the_start()
        with locked(Path(p.data_dir)):
            step(p)
        sys.stdout.flush()
    except UnusableSetting as mistake:
        print(f"{name}: {mistake}", file=sys.stderr)
        sys.exit(2)
    except UserError as mistake:
        sys.exit(f"{name}: {mistake}")
    except KeyboardInterrupt:
        _end_by_ctrl_c(f"\n{name}: stopped; {_how_to_continue(name, p)}")
    except OSError as mistake:
        _give_up_broken_stdout()
        sys.exit(f"{name}: {_of_system(mistake, name, p)}")
    except (RuntimeError, MemoryError) as mistake:
        if not is_out_of_memory(mistake):
            raise
        smaller = [words for setting, words in SMALLER.items() if uses(name, setting)]
        sys.exit(f"{name}: out of memory; try {' or '.join(smaller) or 'fewer images'}")
    # Nothing is left that Ctrl-C could stop: it is ignored while Python ends.
    atexit.unregister(_ignore_ctrl_c)
    atexit.register(_ignore_ctrl_c)


def _end_by_ctrl_c(message: str):
    """Ends the program by the signal itself: a shell goes on with its loop otherwise.

    In a notebook or an interactive interpreter, which would end as well, as any mistake does.
    """
    if utils.ctrl_c.is_interactive() or os.name == "nt":
        sys.exit(message)
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def _note_the_start():
    """Notes commit and load for the records of this run: both may be others at its end."""
    from utils.provenance import code_version, load_at_start
    for note in (code_version, load_at_start):
        note.cache_clear()
        note()


def _ignore_ctrl_c():
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# Messages

def _how_to_continue(name: str, p: Settings | None) -> str:
    """The command that continues. With --restart the same one would start from scratch."""
    if name == "gen_morphing_matrix.py":
        return "run it again: it draws another key"
    where = " from the last checkpoint" if uses(name, "restart") else ""
    if p is not None and p.restart:
        return (f"run the command with --restart no to continue{where}, or the same command again "
                "if no epoch was finished")
    return f"run the same command again to continue{where}"


def _of_system(mistake: OSError, name: str, p: Settings | None) -> str:
    """One line on an error of the system: which file, what, and what its reader can do."""
    where = f"{mistake.filename}: " if mistake.filename else ""
    what = f"{where}{mistake.strerror or mistake}"
    whole = "no file is half written"                   # but some may be new
    if mistake.errno in NO_SPACE:
        return f"{what}; {whole}: make room, then {_how_to_continue(name, p)}"
    if mistake.errno in PASSING:
        return f"{what}; {whole}: {_how_to_continue(name, p)}"
    return f"{what}; {ADVICE.get(mistake.errno, whole)}"


# Streams

def _prepare_streams():
    """Output in any encoding, and none where a stream is closed."""
    for number, stream in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:                                 # or the next file opened would take it
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, stream) is None:
            setattr(sys, stream, Path(os.devnull).open("r+", encoding="utf-8"))  # noqa: SIM115
        elif number and hasattr(getattr(sys, stream), "reconfigure"):
            getattr(sys, stream).reconfigure(errors="backslashreplace", line_buffering=True)


def _give_up_broken_stdout():
    """Sends what is left for a broken stdout nowhere: Python would complain again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


# One step at a time

@contextmanager
def locked(folder: Path):
    """Lets one step at a time work in a data folder; makes the folder.

    The system drops the lock of a killed process. Raises UserError if another step has it, or
    the folder cannot be one. Under torchrun the first process locks for all.
    """
    if read_launch().rank > 0:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder} is not a folder: choose another --data_dir") from None
    lock = FileLock(folder / ".lock", timeout=0, fallback_to_soft=False)
    try:
        with tolerated(f"{folder} cannot be locked: run one step at a time", errno.ENOLCK):
            lock.acquire()
    except Timeout:
        raise UserError(f"another step is running on {folder}: wait for it, or choose another "
                        "--data_dir") from None
    try:
        yield
    finally:
        lock.release()
