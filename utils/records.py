"""What a run leaves for people to read: results with their circumstances, and curves."""

import json
import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from parameter import Parameters

ROOT = Path(__file__).resolve().parent.parent


def circumstances(p: Parameters) -> dict:
    """Command, settings, versions and machine: what a number needs beside it. No secret."""
    script, module = Path(sys.argv[0]).resolve(), sys.modules["__main__"].__spec__
    words = [str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else script.name,
             *sys.argv[1:]]
    if module is not None:                               # python -m benchmarks.steps
        words[:1] = ["-m", module.name]
    for i, word in enumerate(words):
        if word.startswith("--morph_seed"):
            words[i:i + (1 if "=" in word else 2)] = ["--morph_seed=SECRET"]
    return {
        "command": "python " + shlex.join(words),
        "parameters": p.public(),
        "seed": p.seed,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "torchvision", "numpy", "scipy")},
        "machine": machine(),
    }


def machine() -> dict:
    """Processor, its cores, and the CUDA devices if any."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"processor": name, "cores": os.cpu_count(), "cuda": devices, "system": sys.platform}


def to_json(record: dict) -> str:
    return json.dumps(record, indent=1) + "\n"


def curve_csv(curve: list[dict]) -> str:
    """A line per epoch, under the names of its values."""
    rows = [",".join(curve[0])] + [",".join(f"{v:.6g}" for v in epoch.values()) for epoch in curve]
    return "\n".join(rows) + "\n"


def stretched(vectors: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Vectors (N, αm²) as images (N, α, m, m), each stretched to [0, 1] to be looked at."""
    low, high = vectors.amin(1, keepdim=True), vectors.amax(1, keepdim=True)
    return ((vectors - low) / (high - low).clamp_min(1e-12)).view(-1, *shape)
