"""Where a number came from: command, settings, versions, code and machine."""

import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from parameter import Parameters

ROOT = Path(__file__).resolve().parent.parent


def provenance(p: Parameters) -> dict:
    """Command, settings, versions, code and machine: what a number needs beside it. No secret."""
    script, module = Path(sys.argv[0]).resolve(), sys.modules["__main__"].__spec__
    words = [str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else script.name,
             *sys.argv[1:]]
    if module is not None:                               # python -m benchmarks.steps
        words[:1] = ["-m", module.name]
    for i, word in enumerate(words):
        if word.startswith("--morph_seed"):
            words[i:i + (1 if "=" in word else 2)] = ["--morph_seed=SECRET"]
    hidden = ("morph_seed", "dataset_dir", "data_dir", "results_dir", "restart", "delivery",
              "images", "init", "frozen_first_layer")
    return {"command": "python " + shlex.join(words),
            "parameters": {k: v for k, v in asdict(p).items() if k not in hidden}, "seed": p.seed,
            "versions": {"python": platform.python_version()} | {
                name: version(name) for name in ("torch", "torchvision", "numpy", "scipy")},
            "code": code_version(), "machine": machine()}


def code_version() -> str:
    """Of the program: git's description, with what is not committed; unknown without git."""
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


def to_json(record: dict) -> str:
    return json.dumps(record, indent=1) + "\n"
