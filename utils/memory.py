"""How much memory is free, so that a step can say what would fit before it starts."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from utils.errors import UserError
from utils.launch import read_launch

IMAGES_AT_ONCE = 250                # morphed, evaluated or read together: they stay in cache
GROUPS = Path("/sys/fs/cgroup")


def core_bytes(q: int) -> int:
    """What drawing and inverting a core (q, q) takes: six matrices in float64."""
    return 48 * q * q


def aug_conv_bytes(entries: int) -> int:
    """What composing an Aug-Conv of this many float32 entries takes, with the libraries."""
    return 4 * entries + 500_000_000


def shapes_bytes(side: int) -> int:
    """What drawing 500 shapes of this side takes: they are drawn at twice their side."""
    return 150_000 * side * side


def require_memory(needed: int, purpose: str, advice: str | Callable[[int], str],
                   for_each_process: bool = False):
    """Raises UserError if `needed` bytes are more than the memory that is free now.

    `advice`: what to do, or a function that says it for the number of free bytes.
    `for_each_process`: each process of torchrun on this machine takes as much at the same time.
    """
    processes = read_launch().on_this_machine if for_each_process else 1
    free = free_memory(torch.device("cpu"))
    if processes * needed > free:
        words = advice if isinstance(advice, str) else advice(free)
        times = f"{processes} times " if processes > 1 else ""
        raise UserError(f"{purpose} takes {times}{needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB of "
                        f"memory are free: {words}")


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now, within the limits of a container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = _read("/proc/meminfo").splitlines()
    except OSError:                                      # not Linux
        return _half_of_all_memory()
    values = dict(line.split(":") for line in lines)
    free = int(values["MemAvailable"].split()[0]) * 1024
    with suppress(OSError):
        for line in _read("/proc/self/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                free = min(free, _free_in_group(path, version=2))
            elif "memory" in controllers.split(","):
                free = min(free, _free_in_group(path, version=1))
    return free


def _half_of_all_memory() -> int:
    if not hasattr(os, "sysconf"):                       # Windows
        return 4 * 10**9
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _free_in_group(path: str, version: int) -> int:
    """The least that a control group and those around it leave free, in bytes."""
    if version == 1:
        root = GROUPS / "memory"
        names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    else:
        root = GROUPS
        names = "memory.max", "memory.current", "inactive_file"
    limit, usage, cache = names
    group, free = root / path.strip("/"), 2**63
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            break
        with suppress(OSError, ValueError, KeyError):    # no such file, or "max": no limit here
            statistics = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
            used = int(_read(folder / usage)) - int(statistics[cache])
            free = min(free, int(_read(folder / limit)) - used)
    return free


def _read(path: str | Path) -> str:
    return Path(path).read_text(encoding="utf-8")
