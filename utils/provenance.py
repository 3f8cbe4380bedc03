"""Where a number came from: command, settings, versions, code and machine."""

import hashlib
import json
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch

from parameter import Parameters
from utils.settings import steps_of

ROOT = Path(__file__).resolve().parent.parent


def provenance(p: Parameters) -> dict:
    """Command, settings, versions, code and machine: what a number needs beside it. No secret."""
    script, module = Path(sys.argv[0]).resolve(), sys.modules["__main__"].__spec__
    words = [str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else script.name,
             *sys.argv[1:]]
    if module is not None:                               # python -m experiments.speed
        words[:1] = ["-m", module.name]
    for i, word in enumerate(words):
        if word.startswith(("--morph_seed", "--morph-seed")):
            words[i:i + (1 if "=" in word else 2)] = ["--morph_seed=SECRET"]
    hidden = ("morph_seed", "dataset_dir", "data_dir", "results_dir", "restart", "delivery",
              "images", "init", "frozen_first_layer", "given")
    return {"command": "python " + shlex.join(words),
            "parameters": {k: v for k, v in asdict(p).items() if k not in hidden and (
                module is not None or {script.name, "every"} & {*steps_of(k)})}, "seed": p.seed,
            "versions": {"python": platform.python_version()} | {
                name: version(name) for name in ("torch", "torchvision", "numpy", "scipy")},
            "code": code_version(), "machine": machine()}


@lru_cache(1)
def code_version() -> str:
    """Of the program: git's description, with what is not committed; unknown without git.

    As it was when it was first asked for: run_step asks when a step begins.
    """
    try:
        return subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--tags"],
                              capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def machine() -> dict:
    """Processor, its cores, and the CUDA devices if any."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"processor": name, "cores": os.cpu_count(), "cuda": devices, "system": sys.platform}


def result_name(result: dict) -> str:
    """A file name in words a person looks for; all else of the provenance is in its hash."""
    of = result["provenance"]
    words = [of["dataset"], of["model"], f"n{of['train_images']}", f"e{of['epochs']}", of["run"]]
    if "morph_distribution" in of:
        words += [f"s{of['tile']}" if of["tile"] else f"k{of['kappa']}", of["morph_distribution"]]
        words += [of["delivery_dtype"]] if of["delivery_dtype"] != "float32" else []
    readable = re.sub(r"[^a-z0-9_]+", "-", "-".join(words).lower())
    canonical = json.dumps(of, sort_keys=True, separators=(",", ":")).encode()
    return f"{readable}-{hashlib.sha256(canonical).hexdigest()[:8]}-seed{result['seed']}.json"


def curve_csv(curve: list[dict]) -> str:
    """A line per epoch of a run, under the names of its values."""
    rows = [",".join(curve[0])] + [",".join(f"{v:.6g}" for v in epoch.values()) for epoch in curve]
    return "\n".join(rows) + "\n"


def peak_memory() -> int:
    """The most bytes that this process has had in memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def to_json(record: dict) -> str:
    return json.dumps(record, indent=1) + "\n"
