"""A user's mistakes, in one line each, and what is weaker than promised, as a warning."""

import errno
import sys
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A mistake that its reader can correct; the message is one line that says how."""


class UnusableSetting(UserError):
    """A setting that cannot be used on this machine: its step ends with status 2, as for a wrong
    one."""


def warn(message: str):
    """Prints a warning on stderr: something is weaker than promised, and the step continues."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def is_out_of_memory(mistake: BaseException) -> bool:
    """Whether memory ran out, on the CPU or a device: then no file is damaged."""
    if isinstance(mistake, MemoryError):
        return True
    torch = sys.modules.get("torch")                     # which is not imported for this alone
    if torch is not None and isinstance(mistake, torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(mistake)       # PyTorch's, on the CPU


def one_line(mistake: BaseException, most: int = 150) -> str:
    """The beginning of another library's message, without line ends."""
    return " ".join(str(mistake).split())[:most]


@contextmanager
def user_errors(source: Path | str = ""):
    """Turns the ValueError of a pure function into a UserError with the same message.

    `source`: the file that the message is about, if any.
    """
    try:
        yield
    except ValueError as mistake:
        message = f"{source}: {mistake}" if source else str(mistake)
        raise UserError(message) from None


@contextmanager
def tolerated(what: str, *numbers: int):
    """Turns the OSError of a file system that lacks some service into a warning.

    `what` says what is weaker now; `numbers` are errno values that mean "not supported", besides
    ENOSYS and EOPNOTSUPP. Any other OSError is raised.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, *numbers):
            raise
        warn(f"{what} ({error.strerror})")
