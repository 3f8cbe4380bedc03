"""A training run in the developer's folder: its data and settings, its checkpoint, its result."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from parameter import Parameters
from utils.artifacts import Saving, digest, load, manifest_of, read_tensors, verified, write_alone
from utils.devices import compute_dtype, rank, say
from utils.plots import curve_png, draw
from utils.provenance import curve_csv, peak_memory, provenance, result_name, to_json
from utils.settings import UserError, steps_of

TITLES = {"pretrained": "plain network", "pretrained_frozen": "plain, frozen layer",
          "with_ac": "with Aug-Conv", "no_ac": "without Aug-Conv",
          "no_ac_standardised": "without, standardised"}
# Settings that do not change what a run computes, and what an identity has of its data.
RUNNING = ("restart", "data_dir", "results_dir", "device", "compile", "feature_cache", "delivery",
           "dataset_dir", "train_limit", "test_limit", "max_pixels", "init", "frozen_first_layer")
DATA = ("pixels", "labels", "class_names", "normalisation", "init", "frozen_first_layer")
EPOCH = {"epoch", "train_loss", "test_accuracy", "seconds", "train_seconds"}


class Run(NamedTuple):
    """A run's folder, its name (a key of TITLES), and what it must agree in to be the same run."""

    folder: Path
    name: str
    identity: dict

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.checkpoint.pt"


def identity(p: Parameters, step: str, **data) -> dict:
    """The settings that decide what a training step computes, and digests of its data."""
    if p.init:
        data["init"] = digest(Path(p.init))["sha256"]
    used = [name for name in asdict(p) if step in steps_of(name) and name not in RUNNING]
    return {name: getattr(p, name) for name in used} | data


def read_result(folder: Path, name: str) -> dict | None:
    """The result that a finished run left, or None; raises UserError where it is damaged."""
    path = folder / f"{name}.json"
    if path.name not in manifest_of(folder, missing_ok=True)["files"]:
        return None
    return json.loads(verified(path).read_text(encoding="utf-8"))


def is_finished(run: Run, p: Parameters) -> bool:
    """Whether this very run has left its result already, which is then said.

    Raises UserError where its result is damaged, or of the same settings on other data.
    """
    if p.restart or run.checkpoint.exists():             # the latter of one killed at its end
        return False
    result = read_result(run.folder, run.name)
    if result is None:
        return False
    other = differing(result["identity"], json.loads(json.dumps(run.identity)))
    if other and all(key in DATA for key in other):
        raise UserError(f"{run.folder / run.name}.json is of a run with other {listed(other)}: "
                        "pass --restart to train on what is there now")
    if other:
        say(f"{run.name} of {result['accuracy']:.2%} is replaced: it had other {listed(other)}")
        return False
    for name in (run.name, "first_layer") if run.name == "pretrained" else (run.name,):
        load(run.folder / f"{name}.pt")
    say("this run is finished already; --restart trains anew")
    return True


def differing(one: dict, other: dict) -> list[str]:
    """The keys whose values are not the same, in type neither."""
    return [key for key in one | other if type(one.get(key)) is not type(other.get(key))
            or one.get(key) != other.get(key)]


def listed(keys: list[str]) -> str:
    return " and ".join(key.replace("_", " ") for key in keys)


def resume(run: Run, network: nn.Module, optimizer, scheduler, restart: bool) -> list[dict]:
    """Goes on from a run's checkpoint if there is one; gives the curve so far.

    Raises UserError where the checkpoint is damaged, or of other settings or data.
    """
    if restart or not run.checkpoint.exists():
        return []
    state = read_tensors(run.checkpoint, "pass --restart to begin anew")
    try:
        old, new = state["identity"], run.identity
        for key in differing(new, old)[:1]:
            what = (f"other {key}" if key in DATA else
                    f"{key} = {old.get(key)!r}, not {new.get(key)!r}")
            raise UserError(f"{run.checkpoint} is of an unfinished run with {what}: set it back to "
                            "go on, or pass --restart to begin anew")
        if state["scheduler"].keys() != scheduler.state_dict().keys():  # it would take any
            raise ValueError
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        buffers = [optimizer.state[w]["momentum_buffer"].shape == w.shape for w in
                   network.parameters()] if optimizer.defaults["momentum"] else []
        if not all(buffers) or any(epoch.keys() != EPOCH for epoch in state["curve"]):
            raise ValueError
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
        raise UserError(f"{run.checkpoint} is of another network: pass --restart") from None
    say(f"going on after epoch {len(state['curve'])}")
    return state["curve"]


def save_checkpoint(run: Run, network: nn.Module, optimizer, scheduler, curve: list[dict]):
    """One file, so that a kill leaves either the old or the new one; it checks itself when read."""
    if rank() == 0:
        write_alone(run.checkpoint, {
            "network": network.state_dict(), "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(), "curve": curve, "identity": run.identity})


def finish(run: Run, network: nn.Module, model: dict, curve: list[dict], p: Parameters,
           device: torch.device, about: dict, behind: dict | None = None, **also: dict):
    """Saves a trained network with the arguments that build it, its result, and its curve.

    `about`: what the run's data were; `behind`: the first layer, and the deliveries, whose features
    the rest of the network takes; `also`: more files by name. The picture comes after all that
    counts, and the checkpoint goes once all is there: a kill in between then loses nothing.
    """
    if rank() > 0:
        return
    result = {
        "run": run.name, "accuracy": curve[-1]["test_accuracy"], **provenance(p),
        "provenance": used_settings(run, p, device, about), "data": about,
        "seconds": round(sum(e["seconds"] for e in curve), 1),
        "peak_mb": round(peak_memory() / 1e6),
        "trained_parameters": sum(w.numel() for w in network.parameters() if w.requires_grad),
        "curve": curve, "identity": run.identity}
    if p.results_dir:
        write_alone(Path(p.results_dir) / result_name(result), to_json(result))
    with Saving(run.folder) as new:
        new.save(f"{run.name}.pt", {"network": network.state_dict(), "model": model,
                                    "about": about, "behind": behind})
        for name, content in also.items():
            new.save(f"{name}.pt", content)
        new.save(f"{run.name}.csv", curve_csv(curve))
        new.save(f"{run.name}.json", to_json(result))
    draw(run.folder / f"{run.name}.png", curve_png, curve,
         f"{TITLES[run.name]}, {about['dataset']}")
    run.checkpoint.unlink(missing_ok=True)


def used_settings(run: Run, p: Parameters, device: torch.device, about: dict) -> dict:
    """All that changes a run's outcome but the seed, as used: what results are grouped by."""
    decay = p.weight_decay if run.name.startswith("pretrained") else p.morphed_weight_decay
    return {"run": run.name, **{k: v for k, v in about.items() if k != "pixels"},
            "model": p.model, "init": Path(p.init).name, "epochs": p.epochs,
            "batch_size": p.batch_size, "lr": p.lr, "schedule": p.schedule,
            "decay_epochs": p.decay_epochs if p.schedule == "halve" else None,
            "momentum": p.momentum, "weight_decay": decay, "dropout": p.dropout,
            "precision": str(compute_dtype(p, device)).removeprefix("torch.")}


def comparison(run: Run, *names: str) -> list[str]:
    """A line for each finished run beside `run`, compared with the plain network's accuracy."""
    plain, lines = None, []
    for name in dict.fromkeys(names) or TITLES:
        try:
            if (result := read_result(run.folder, name)) is None:
                continue
        except (UserError, OSError) as mistake:
            lines.append(f"{TITLES[name]}: {mistake}")
            continue
        line = f"{TITLES[name] + ':':23}{result['accuracy']:7.2%}"
        if name == "pretrained":
            plain = result
        elif plain is None:
            line += " (no plain network to compare with: run `python pretrain.py`)"
        else:
            points = 100 * (result["accuracy"] - plain["accuracy"])
            line += f", {abs(points):.2f} points {'above' if points >= 0 else 'below'} plain"
            own, its = (r["provenance"] | r["data"] | {"seed": r["seed"]} for r in (result, plain))
            other = [key for key in differing(its, own)
                     if key in its and key not in ("run", "weight_decay")]
            line += f" (the two differ in {listed(other)})" if other else ""
        behind = [of.get("delivery", []) for of in (result["identity"], run.identity)]
        if all(behind) and {*behind[0]}.isdisjoint(behind[1]):
            line += " (another delivery's)"
        lines.append(line)
    return lines
