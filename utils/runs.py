"""A training run in the developer's folder: what identifies it, its result, and comparing them."""

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

from torch import nn

from parameter import Parameters
from utils.artifacts import Saving, load, read_manifest, settle, verified, write_alone
from utils.pictures import curve_png
from utils.program import UserError
from utils.records import circumstances, curve_csv, to_json

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
    """The result that a finished run left, or None; raises UserError where it is damaged."""
    path = folder / f"{name}.json"
    if path.name not in read_manifest(folder, missing_ok=True)["files"]:
        return None
    return json.loads(verified(path).read_text())


def is_finished(run: Run) -> bool:
    """Whether this very run has left its result already; raises UserError where it is damaged."""
    settle(run.folder)
    result = read_result(run.folder, run.name)
    if result is None or result["identity"] != run.identity:
        return False
    if run.checkpoint.exists():
        if run.checkpoint.name in read_manifest(run.folder)["files"]:
            return False
        run.checkpoint.unlink(missing_ok=True)           # of a run killed at its very end
    for name in (run.name, "first_layer") if run.name == "pretrained" else (run.name,):
        load(run.folder / f"{name}.pt")
    return True


def finish(run: Run, network: nn.Module, curve: list[dict], p: Parameters, about: dict, **also):
    """Saves the network, its result and curve; `also` are more files by name, as dictionaries.

    `about`: what the run's data were, for the result. The checkpoint goes once all else is there.
    """
    result = {
        "run": run.name, "accuracy": curve[-1]["test_accuracy"], **circumstances(p), "data": about,
        "seconds": round(sum(e["seconds"] for e in curve), 1), "curve": curve,
        "identity": run.identity,
    }
    if p.results_dir:
        write_alone(Path(p.results_dir) / result_name(result), to_json(result))
    with Saving(run.folder) as new:
        new.save(f"{run.name}.pt", {"network": network.state_dict(), "model": p.model,
                                    "classes": about["classes"], "about": about})
        for name, content in also.items():
            new.save(f"{name}.pt", content)
        new.write(f"{run.name}.csv", curve_csv(curve))
        new.write(f"{run.name}.png", curve_png(curve, f"{TITLES[run.name]}, {about['dataset']}"))
        new.write(f"{run.name}.json", to_json(result))
        new.drop(run.checkpoint.name)


def result_name(result: dict) -> str:
    """A file name that tells a result's settings, the lesser ones in a hash, for a folder of many.
    """
    about, p = result["data"], result["parameters"]
    words = [about["dataset"], p["model"], f"n{about['train_images']}", f"e{p['epochs']}",
             result["run"]]
    if "kappa" in about:
        words += [f"k{about['kappa']}", about["morph_distribution"]]
    rest = {key: p[key] for key in ("batch_size", "lr", "schedule", "decay_epochs", "momentum",
                                    "weight_decay", "morphed_weight_decay", "dropout", "precision")}
    rest |= {"image_padding": about.get("image_padding"), "test_images": about["test_images"]}
    words.append(hashlib.sha256(repr(rest).encode()).hexdigest()[:6])
    return re.sub(r"[^a-z0-9_]+", "-", "-".join(words).lower()) + f"-seed{p['seed']}.json"


def comparison(folder: Path) -> list[str]:
    """A line for each finished run of a folder, compared with the plain network's accuracy."""
    plain, lines = None, []
    for name, title in TITLES.items():
        try:
            result = read_result(folder, name)
        except (UserError, OSError) as mistake:
            lines.append(f"{title}: {mistake}")
            continue
        if result is None:
            continue
        plain = result if name == "pretrained" else plain
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
