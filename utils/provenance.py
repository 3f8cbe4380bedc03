"""Where a number came from: command, versions, code and machine."""

import os
import platform
import subprocess
import sys
import time
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch

from parameter import Parameters
from utils.launch import ROOT, command_line

PACKAGES = ("torch", "torchvision", "numpy", "scipy")
BEGAN = time.perf_counter()         # of this program, but for the imports before this one


def provenance(p: Parameters) -> dict:
    """Command, seed, versions, code and machine: what a number needs beside it. No secret."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        versions[name] = version(name)
    return {"command": command_line(), "seed": p.seed, "versions": versions,
            "code": code_version(), "machine": machine(), "load": load_at_start()}


def seconds_so_far() -> float:
    """Since this program began: what a record says that its measurement took."""
    return round(time.perf_counter() - BEGAN, 1)


@lru_cache(1)
def code_version() -> str:
    """The program's commit, as it was when this was first asked for; unknown without git.

    Work that goes on beside a long run must not change what the run says of itself, so steps ask
    when they begin. "-dirty": with changes that are not committed, outside results/, where runs
    write what they measured.
    """
    try:
        commit = ask_git("describe", "--always", "--tags").strip()
        changes = ask_git("status", "--porcelain", "--untracked-files=no", "--", ".",
                          ":(exclude)results")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}-dirty" if changes else commit


def ask_git(*words: str) -> str:
    """What git prints about this program's folder."""
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout


@lru_cache(1)
def load_at_start() -> float | None:
    """How many programs were running over the last minute, when this was first asked for; None if
    the system does not tell. Steps ask when they begin."""
    if not hasattr(os, "getloadavg"):                    # Windows
        return None
    return round(os.getloadavg()[0], 2)


def machine() -> dict:
    """Processor, its cores, and the CUDA devices if any."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.split(":")[1].strip()
                break
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"processor": processor, "capability": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(), "threads": torch.get_num_threads(), "cuda": devices,
            "system": sys.platform}


def peak_memory() -> int:
    """The most bytes that this process has had in memory; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:                                  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
