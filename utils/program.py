"""How a step starts and ends: its parameters, its lock, and mistakes told in one line."""

import fcntl
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

import parameter


class UserError(Exception):
    """A mistake that its reader can mend; the message is one line that says how."""


def run_step(step: Callable, description: str, **kwargs):
    """Runs `step(parameters)` as a program. Status 2: wrong command line; 1: any other mistake."""
    name = Path(sys.argv[0]).name
    try:
        p = parameter.parse(description, **kwargs)
        with locked(Path((p[0] if isinstance(p, tuple) else p).data_dir)):
            step(*p) if isinstance(p, tuple) else step(p)
    except UserError as mistake:
        sys.exit(f"{name}: {mistake}")
    except KeyboardInterrupt:
        sys.exit(f"\n{name}: stopped; files that were complete are kept, and the same command "
                 "goes on from the last finished epoch")
    except OSError as mistake:
        where = f"{mistake.filename}: " if mistake.filename else ""
        sys.exit(f"{name}: {where}{mistake.strerror or mistake}; what was there before is whole, "
                 "and the same command goes on")
    except (RuntimeError, MemoryError) as mistake:
        if (not isinstance(mistake, (torch.OutOfMemoryError, MemoryError))
                and "can't allocate memory" not in str(mistake)):        # PyTorch, on the CPU
            raise
        sys.exit(f"{name}: out of memory; try fewer images, --feature_cache off, a smaller "
                 "--batch_size, or --device cpu")


@contextmanager
def explained(source: Path | str = ""):
    """Makes the ValueError of a pure function the user's: its message is one line already.

    `source`: the file that it is about, if any.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as mistake:
        raise UserError(f"{source}: {mistake}" if source else str(mistake)) from None


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


def require_memory(needed: int, purpose: str, advice: str | Callable[[int], str]):
    """Raises UserError where `needed` bytes are more than the memory now free.

    `advice`: what to do, or a function that tells it for so many free bytes.
    """
    free = free_memory(torch.device("cpu"))
    if needed > free:
        raise UserError(f"{purpose} takes {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB of memory "
                        f"are free: {advice if isinstance(advice, str) else advice(free)}")


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            values = dict(line.split(":") for line in file)
        free = int(values["MemAvailable"].split()[0]) * 1024
    except OSError:                                      # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    group = Path("/sys/fs/cgroup")                       # a container's limit
    with suppress(OSError, ValueError, KeyError):
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(stat["inactive_file"])
        free = min(free, int((group / "memory.max").read_text()) - used)
    return free
