"""What a run leaves for people to read: results with their circumstances, curves and pictures."""

import io
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import make_grid

from parameter import Parameters


def circumstances(p: Parameters) -> dict:
    """Command, settings, versions and machine: what a number needs beside it. No secret."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    for i, word in enumerate(words):
        if word.startswith("--morph_seed"):
            words[i:i + (1 if "=" in word else 2)] = ["--morph_seed=SECRET"]
    return {
        "command": "python " + " ".join(words),
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


def curve_png(curve: list[dict], title: str) -> bytes:
    """Training loss and test accuracy over epochs."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    epochs = [e["epoch"] for e in curve]
    axis.plot(epochs, [100 * e["test_accuracy"] for e in curve], "o-", ms=3, color="tab:blue")
    axis.set(xlabel="epoch", ylabel="test accuracy, %", ylim=(0, 100), title=title)
    axis.yaxis.label.set_color("tab:blue")
    axis.xaxis.get_major_locator().set_params(integer=True)
    other = axis.twinx()
    other.plot(epochs, [e["train_loss"] for e in curve], "s--", ms=3, color="tab:orange")
    other.set_ylabel("train loss", color="tab:orange")
    other.set_ylim(bottom=0)
    data = io.BytesIO()
    figure.savefig(data, dpi=120)
    pyplot.close(figure)
    return data.getvalue()


def rows_png(rows: list[tuple[str, Tensor]], zoom: int = 2) -> bytes:
    """Rows of images under their titles: each (N, 3, m, m) or (N, 1, m, m), values in [0, 1]."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    count, side = len(rows[0][1]), max(images.shape[-1] for _, images in rows)
    figure, axes = pyplot.subplots(len(rows), 1, squeeze=False, layout="constrained",
                                   figsize=(count * side * zoom / 100,
                                            len(rows) * (side * zoom + 26) / 100))
    for axis, (title, images) in zip(axes[:, 0], rows, strict=True):
        grid = make_grid(images.detach().cpu().float().clamp(0, 1), nrow=count, padding=1)
        axis.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=9, loc="left")
        axis.axis("off")
    data = io.BytesIO()
    figure.savefig(data, dpi=100)
    pyplot.close(figure)
    return data.getvalue()


def stretched(vectors: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Vectors (N, αm²) as images (N, α, m, m), each stretched to [0, 1] to be looked at."""
    low, high = vectors.amin(1, keepdim=True), vectors.amax(1, keepdim=True)
    return ((vectors - low) / (high - low).clamp_min(1e-12)).view(-1, *shape)
