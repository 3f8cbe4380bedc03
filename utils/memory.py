"""What the large things take, and what is free: a step says what would fit before it starts."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from utils.settings import UserError

# Bytes at the most: six float64 matrices for a core (q, q); the dense Aug-Conv with what its
# composition and a step's libraries need beside it; shapes drawn at twice their side.
NEEDS = {
    "core": lambda q: 48 * q * q,
    "aug_conv": lambda numbers: 4 * numbers + 5 * 10**8,
    "shapes": lambda side: 150_000 * side * side,
    "features": lambda numbers, bytes_each: numbers * bytes_each,
    "tensor": lambda numbers: 4 * numbers,
}


def require_memory(kind: str, *sizes: int, purpose: str, advice: str | Callable[[int], str]):
    """Raises UserError where something of NEEDS takes more than the memory now free.

    `advice`: what to do, or a function that tells it for so many free bytes.
    """
    needed, free = NEEDS[kind](*sizes), free_memory(torch.device("cpu"))
    if needed > free:
        raise UserError(f"{purpose} takes {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB of memory "
                        f"are free: {advice if isinstance(advice, str) else advice(free)}")


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a device now, within the limits of a container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        values = dict(line.split(":") for line in _read("/proc/meminfo").splitlines())
        free = int(values["MemAvailable"].split()[0]) * 1024
    except OSError:                                      # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    with suppress(OSError):
        for line in _read("/proc/self/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" or "memory" in controllers.split(","):
                free = min(free, _group_free(path, version=1 if controllers else 2))
    return free


def _group_free(path: str, version: int) -> int:
    """The least that a control group and those around it leave free."""
    root = Path("/sys/fs/cgroup/memory" if version == 1 else "/sys/fs/cgroup")
    limit, usage, cache = (("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                           if version == 1 else ("memory.max", "memory.current", "inactive_file"))
    group, free = root / path.strip("/"), 2**63
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            break
        with suppress(OSError, ValueError, KeyError):    # no such file, or "max": no limit here
            stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
            used = int(_read(folder / usage)) - int(stat[cache])
            free = min(free, int(_read(folder / limit)) - used)
    return free


def _read(path: str | Path) -> str:
    return Path(path).read_text(encoding="utf-8")
