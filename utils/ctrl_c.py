"""Ctrl-C while a step starts ends it at once, without a word.

A step imports this module before all others, through utils.step. The others take seconds, PyTorch
above all, and Python would print where in them it was stopped: the system's own way to handle
SIGINT ends the program in silence. From its work on (run_step), Ctrl-C is KeyboardInterrupt again.
"""

import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def is_interactive() -> bool:
    """Whether people type into this interpreter, as in a notebook: it must outlive a step."""
    return hasattr(sys, "ps1") or "IPython" in sys.modules


def end_at_once() -> bool:
    """Leaves SIGINT to the system if Python was started with one of this folder's programs; gives
    whether it did so. Where it is handled or ignored by somebody else, it stays so."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None or Path(file).resolve().parent != ROOT or is_interactive():
        return False
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return True


def raise_again():
    """Ctrl-C raises KeyboardInterrupt again, where end_at_once has changed that."""
    if IS_LEFT_TO_THE_SYSTEM and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


IS_LEFT_TO_THE_SYSTEM = end_at_once()
