"""How a step starts and ends: its settings, its lock, and mistakes told in one line."""

import argparse
import errno
import fcntl
import inspect
import math
import os
import re
import signal
import sys
import typing
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

import torch

from parameter import PRESETS, Parameters

# The least value of a number, and what it must be below.
RANGES = {name: (least, below) for names, least, below in (
    ("train_limit test_limit", 0, 2**31),
    ("image_padding", 0, 1000), ("image_size tile", 0, 10_000), ("max_pixels", 1, 10**12),
    ("epochs decay_epochs kappa predict_batch", 1, 2**31), ("batch_size", 2, 2**31),
    ("lr weight_decay morphed_weight_decay morph_seed", 0, math.inf), ("momentum dropout", 0, 1),
    ("seed", 0, 2**63)) for name in names.split()}
TOO_SMALL = [("image_size", side) for side in (1, 2, 3)]
PATHS = ("dataset_dir", "init", "results_dir", "frozen_first_layer", "images", "delivery",
         "data_dir")


class UserError(Exception):
    """A mistake that its reader can mend; the message is one line that says how."""


def warn(message: str):
    """Tells on stderr of something that is weaker than promised; nothing ends."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def fits(value, kind) -> bool:
    """Whether a value is of an annotated type, to its depth; an int may stand for a float, a bool
    for neither."""
    of = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return value in of and type(value) is type(of[0])
    if typing.get_origin(kind) is tuple:
        if type(value) is tuple and of[1:] == (...,):
            of = of[:1] * len(value)
        return type(value) is tuple and len(value) == len(of) and all(map(fits, value, of))
    return type(value) is kind or (kind, type(value)) == (float, int) or any(
        fits(value, one) for one in of)


def check(p: Parameters) -> Parameters:
    """The same parameters; raises ValueError with one line that names the field."""
    for f in fields(p):
        value, kinds = getattr(p, f.name), typing.get_args(f.type) or (f.type,)
        least, below = RANGES.get(f.name, (-math.inf, 2**31 if f.type is int else math.inf))
        right = fits(value, f.type)
        if typing.get_origin(f.type) is typing.Literal:
            wanted = f"one of {', '.join(map(str, kinds))}"
        elif typing.get_origin(f.type) is tuple:
            wanted = "a tuple of texts"
        elif f.name == "pixel_range":
            right = right and (value is None or -math.inf < value[0] < value[1] < math.inf)
            wanted = "two numbers, the lower first"
        elif f.name == "name":
            right = right and re.fullmatch(r"[\w-][\w.-]*", value)
            wanted = "of letters, digits, ., _ and -"
        elif right and type(value) in (int, float):
            right = least <= value < below and (f.name, value) not in TOO_SMALL
            wanted = f"finite, at least {least} and below {below}"
        else:
            wanted = " or ".join(k.__name__.replace("NoneType", "none") for k in kinds)
        if not right:
            raise ValueError(f"{f.name} is {value!r}, but must be {wanted}")
    return p


@lru_cache(1)
def documented() -> list[tuple[str, list[str], dict[str, str]]]:
    """The groups of settings in parameter.py: title, the steps that use it, help by name."""
    groups, name = [], ""
    for line in inspect.getsource(Parameters).splitlines():
        if header := re.match(r" +# -- (.+?): (.+)", line):
            steps = header[2].replace("train_*.py", "train_with_ac.py train_no_ac.py").split()
            groups.append((header[1], steps, {}))
        elif setting := re.match(r" +(\w+): .+?  # (.+)", line):
            name = setting[1]
            groups[-1][2][name] = setting[2]
        elif more := re.match(r" +# (.+)", line):
            groups[-1][2][name] += " " + more[1]
    return groups


class OneLineParser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; --help lists every setting\n")


def _form(f) -> dict:
    """How argparse reads a field of Parameters."""
    if typing.get_origin(f.type) is typing.Literal:
        return {"type": type(f.default), "choices": typing.get_args(f.type)}
    if f.type is bool:
        return {"choices": ("yes", "no"), "nargs": "?", "const": "yes"}
    if typing.get_origin(f.type) is tuple:
        return {"nargs": "+", "action": "extend"}
    if f.name == "pixel_range":
        return {"type": float, "nargs": 2, "metavar": ("LOW", "HIGH")}
    if type(None) in typing.get_args(f.type):
        return {"type": lambda text: None if text.lower() == "none" else int(text)}
    return {"type": f.type}


def parse(description: str, arguments: list[str] | None = None, step: str = "") -> Parameters:
    """The command line of a step as Parameters; a mistake ends with one line and status 2.

    A setting that the step does not use is such a mistake; a step that parameter.py does not name
    takes them all.
    """
    parser = OneLineParser(prog=step or None, description=description, allow_abbrev=False,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="paper",
                        help="defaults to start from (default: paper)")
    groups, kinds = documented(), {f.name: f for f in fields(Parameters)}
    is_named = any(step in steps for _, steps, _ in groups)
    used, owners = set(), {}
    for title, steps, settings in sorted(groups, key=lambda g: not {step, "every"} & set(g[1])):
        own = not is_named or {step, "every"} & set(steps)
        box = parser.add_argument_group(title if own else f"not used here, but by {title} in "
                                        f"{', '.join(steps)}")
        for name, help in settings.items():
            default = kinds[name].default
            box.add_argument(f"--{name}", default=argparse.SUPPRESS, **_form(kinds[name]),
                             help=f"{help} (default: {default})".replace("%", "%%"))
            owners[name] = ", ".join(steps)
            used |= {name} if own else set()
    given = vars(parser.parse_args(arguments))
    preset = PRESETS[given.pop("preset")]
    for name in given:
        if name not in used:
            parser.error(f"--{name} is not used here, but by {owners[name]}")
    values = {name: new for name, (paper, new) in preset.items() if kinds[name].default == paper}
    values |= {name: value == "yes" if kinds[name].type is bool else
               tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    for name in PATHS:
        value = values.get(name, kinds[name].default)
        values[name] = (tuple(map(os.path.expanduser, value)) if isinstance(value, tuple)
                        else os.path.expanduser(value))
    try:
        return check(Parameters(**values))
    except ValueError as mistake:
        parser.error(str(mistake))


def run_step(step: Callable, description: str):
    """Runs `step(parameters)` as a program. Status 2: wrong command line; 1: any other mistake."""
    _open_streams()
    name = Path(sys.argv[0]).name
    try:
        p = parse(description, step=name)
        with locked(Path(p.data_dir)):
            step(p)
        signal.signal(signal.SIGINT, signal.SIG_IGN)     # nothing is left that Ctrl-C could stop
    except UserError as mistake:
        sys.exit(f"{name}: {mistake}")
    except KeyboardInterrupt:
        sys.exit(f"\n{name}: stopped; files that were complete are kept, and the same command "
                 "goes on from the last finished epoch")
    except OSError as mistake:
        if mistake.filename is None:     # of stdout, and Python would complain again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        where = f"{mistake.filename}: " if mistake.filename else ""
        sys.exit(f"{name}: {where}{mistake.strerror or mistake}; what was there before is whole, "
                 "and the same command goes on")
    except (RuntimeError, MemoryError) as mistake:
        if (not isinstance(mistake, (torch.OutOfMemoryError, MemoryError))
                and "can't allocate memory" not in str(mistake)):        # PyTorch, on the CPU
            raise
        sys.exit(f"{name}: out of memory; try fewer images, --feature_cache off, a smaller "
                 "--batch_size, or --device cpu")


def _open_streams():
    """Output in any encoding, and none where a stream is closed."""
    for number, stream in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:                                  # or the next file opened would take it
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, stream) is None:
            setattr(sys, stream, Path(os.devnull).open("r+", encoding="utf-8"))  # noqa: SIM115
        elif number and hasattr(getattr(sys, stream), "reconfigure"):
            getattr(sys, stream).reconfigure(errors="backslashreplace", line_buffering=True)


@contextmanager
def tolerated(what: str, *numbers: int):
    """A warning in place of an OSError that a file system without some service gives."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, *numbers):
            raise
        warn(f"{what} ({error.strerror})")


@contextmanager
def user_errors(source: Path | str = ""):
    """Makes the ValueError of a pure function the user's: its message is one line already.

    `source`: the file that it is about, if any.
    """
    try:
        yield
    except ValueError as mistake:
        raise UserError(f"{source}: {mistake}" if source else str(mistake)) from None


@contextmanager
def locked(folder: Path):
    """One step at a time on a data folder. The system drops the lock of a killed process."""
    if int(os.environ.get("RANK", 0)) > 0:               # under torchrun the first process locks
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        try:
            with tolerated(f"{folder} cannot be locked: run one step at a time", errno.ENOLCK):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another step is running on {folder}: wait for it, or choose "
                            "another --data_dir") from None
        yield


def steps_of(name: str) -> list[str]:
    """The steps that use a setting, as parameter.py has it."""
    return next(steps for _, steps, settings in documented() if name in settings)


def options_of(step: str, words: Iterable) -> list[str]:
    """Of a command line for several steps, what one of them takes: the settings that it uses, with
    their values, and the preset."""
    taken, own = [], False
    for word in map(str, words):
        name = word[2:].partition("=")[0]
        if word.startswith("--"):
            own = name == "preset" or bool({step, "every"} & set(steps_of(name)))
        taken += [word] if own else []
    return taken
