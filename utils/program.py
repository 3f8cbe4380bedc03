"""How a step starts and ends: its parameters, its lock, and mistakes told in one line."""

import fcntl
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch

import parameter


class UserError(Exception):
    """A mistake that its reader can mend; the message is one line that says how."""


def run_step(step: Callable, description: str, **kwargs):
    """Runs `step(parameters)` as a program. Status 2: wrong command line; 1: any other mistake."""
    p = parameter.parse(description, **kwargs)
    name = Path(sys.argv[0]).name
    try:
        with locked(Path((p[0] if isinstance(p, tuple) else p).data_dir)):
            step(*p) if isinstance(p, tuple) else step(p)
    except UserError as mistake:
        sys.exit(f"{name}: {mistake}")
    except KeyboardInterrupt:
        sys.exit(f"\n{name}: stopped; files that were complete are kept, and the same command "
                 "goes on from the last finished epoch")
    except OSError as mistake:
        where = f" {mistake.filename}" if mistake.filename else ""
        sys.exit(f"{name}: {mistake.strerror or mistake}{where}; what was there before is whole")
    except torch.OutOfMemoryError:
        sys.exit(f"{name}: the device ran out of memory; try --feature_cache off, a smaller "
                 "--batch_size, or --device cpu")


@contextmanager
def explained():
    """Makes the ValueError of a pure function the user's: its message is one line already."""
    try:
        yield
    except UserError:
        raise
    except ValueError as mistake:
        raise UserError(str(mistake)) from None


@contextmanager
def locked(folder: Path):
    """One step at a time on a data folder. The system drops the lock of a killed process."""
    if int(os.environ.get("RANK", 0)) > 0:               # under torchrun the first process locks
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another step is running on {folder}: wait for it, or choose "
                            "another --data_dir") from None
        yield


def require_memory(needed: int, purpose: str, advice: str):
    """Raises UserError where `needed` bytes are more than the memory now free."""
    free = free_memory(torch.device("cpu"))
    if needed > free:
        raise UserError(f"{purpose} takes {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB of memory "
                        f"are free: {advice}")


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            values = dict(line.split(":") for line in file)
        return int(values["MemAvailable"].split()[0]) * 1024
    except OSError:                                      # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
