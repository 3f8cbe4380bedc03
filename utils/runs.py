"""A training run in the developer's folder: what identifies it, its result, and comparing them."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from torch import nn

from parameter import Parameters
from utils.artifacts import Saving
from utils.records import circumstances, curve_csv, curve_png, to_json

TITLES = {"pretrained": "plain network", "with_ac": "with Aug-Conv", "no_ac": "without Aug-Conv",
          "no_ac_standardised": "without, standardised"}


class Run(NamedTuple):
    """A run's folder, its name (a key of TITLES), and what it must agree in to be the same run."""

    folder: Path
    name: str
    identity: dict

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.checkpoint.pt"


def read_result(folder: Path, name: str) -> dict | None:
    """The result that a finished run left, or None."""
    try:
        result = json.loads((folder / f"{name}.json").read_text())
        return result if isinstance(result["accuracy"], float) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_finished(run: Run) -> bool:
    """Whether this very run has left its result already."""
    result = read_result(run.folder, run.name)
    return (result is not None and result.get("identity") == run.identity
            and not run.checkpoint.exists() and (run.folder / f"{run.name}.pt").exists())


def finish(run: Run, network: nn.Module, curve: list[dict], p: Parameters, about: dict, **also):
    """Saves the network, its result and curve; `also` are more files by name, as dictionaries.

    `about`: what the run's data were, for the result. The checkpoint goes once all else is there.
    """
    result = {
        "run": run.name, "accuracy": curve[-1]["test_accuracy"], **circumstances(p), "data": about,
        "seconds": round(sum(e["seconds"] for e in curve), 1), "curve": curve,
        "identity": run.identity,
    }
    with Saving(run.folder) as new:
        new.save(f"{run.name}.pt", {"network": network.state_dict(), "model": p.model,
                                    "classes": about["classes"], "about": about})
        for name, content in also.items():
            new.save(f"{name}.pt", content)
        new.write(f"{run.name}.csv", curve_csv(curve))
        new.write(f"{run.name}.png", curve_png(curve, f"{TITLES[run.name]}, {about['dataset']}"))
        new.write(f"{run.name}.json", to_json(result))
    run.checkpoint.unlink(missing_ok=True)
    if p.results_dir:
        with Saving(Path(p.results_dir)) as new:
            new.write(result_name(result), to_json(result))


def result_name(result: dict) -> str:
    """A file name that tells a result's settings, for a folder that collects many."""
    about, p = result["data"], result["parameters"]
    words = [about["dataset"], p["model"], f"n{about['train_images']}", f"e{p['epochs']}",
             result["run"]]
    if "kappa" in about:
        words += [f"k{about['kappa']}", about["morph_distribution"]]
    return re.sub(r"[^a-z0-9_]+", "-", "-".join(words).lower()) + f"-seed{p['seed']}.json"


def comparison(folder: Path) -> list[str]:
    """A line for each finished run of a folder, compared with the plain network's accuracy."""
    plain = read_result(folder, "pretrained")
    lines = []
    for name, title in TITLES.items():
        result = read_result(folder, name)
        if result is None:
            continue
        line = f"{title + ':':23}{result['accuracy']:7.2%}"
        if plain is not None and name != "pretrained":
            points = 100 * (result["accuracy"] - plain["accuracy"])
            line += f", {abs(points):.2f} points {'above' if points >= 0 else 'below'} plain"
            other = [key for key in ("model", "epochs", "batch_size", "lr", "schedule", "dropout")
                     if result["identity"].get(key) != plain["identity"].get(key)]
            if result["data"]["train_images"] != plain["data"]["train_images"]:
                other.append("train_limit")
            line += f" (which had another {', '.join(other)})" if other else ""
        elif name != "pretrained":
            line += " (no plain network to compare with: run `python pretrain.py`)"
        lines.append(line)
    return lines
