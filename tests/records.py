"""Training runs' records for tests of the tables, in the form that utils.records writes."""

import copy
import json
from pathlib import Path

from experiments.tables.reading import Results, TrainingRun, as_run, is_training

KAPPA_1 = {"kappa": 1, "tile": 0, "morph_distribution": "uniform", "image_padding": 0,
           "delivery_dtype": "float32", "shuffle_channels": True}
TILES_8 = {"kappa": None, "tile": 8, "morph_distribution": "orthogonal", "image_padding": 0,
           "delivery_dtype": "int8", "shuffle_channels": True}
SETTINGS = {"model": "vgg11", "init": None, "epochs": 2, "batch_size": 64, "lr": 0.005,
            "schedule": "onecycle", "decay_epochs": None, "momentum": 0.9, "weight_decay": 5e-7,
            "dropout": 0.1, "augment": "none", "precision": "float32", "standardise": False,
            "seed": 0, "processes": 1}
DATA = {"dataset": "cifar10", "class_names": list("abcdefghij"), "channels": 3, "image_size": 32,
        "image_fit": "crop", "train_images": 10_000, "test_images": 10_000,
        "train_digest": "1" * 64, "test_digest": "2" * 64,
        "normalisation": [[0.5, 0.5, 0.5], [0.25, 0.25, 0.25]], "morphing": None, "keys": [],
        "deliveries": []}
STEPS = {"pretrained": "pretrain.py", "pretrained_frozen": "pretrain.py",
         "with_ac": "train_with_ac.py", "no_ac": "train_no_ac.py",
         "no_ac_standardised": "train_no_ac.py"}


def training_record(run: str, accuracy: float, seed: int = 0, **changes) -> dict:
    """A run's record; `changes` go to the settings or the data, whichever has the name."""
    settings, data = copy.deepcopy(SETTINGS), copy.deepcopy(DATA)
    settings |= {"seed": seed, "standardise": run == "no_ac_standardised"}
    if run == "pretrained":
        settings["weight_decay"] = 5e-6
    if not run.startswith("pretrained"):
        data |= {"morphing": KAPPA_1, "keys": [f"key {seed}"], "deliveries": [f"delivery {seed}"]}
    is_frozen = run in ("pretrained_frozen", "with_ac")
    record = {"run": run, "accuracy": accuracy, "settings": settings, "data": data,
              "frozen_layer": f"layer {seed}" if is_frozen else None,
              "network_sample": [1.0, -2.0, 50.0], "network_code": "",
              "choices": {"precision": "auto", "train_limit": 0, "test_limit": 0, "init": "",
                          "frozen_first_layer": "", "dataset_dir": "data/datasets",
                          "pixel_range": None},
              "seconds": 100.0, "peak_mb": 1000, "trained_parameters": 9_000_000, "curve": [
                  {"epoch": epoch, "train_loss": 1.0, "test_accuracy": accuracy * epoch / 2,
                   "seconds": 50.0, "train_seconds": 40.0} for epoch in (1, 2)],
              "command": f"python {STEPS[run]} --seed {seed}", "code": "abc1234",
              "versions": {"torch": "2.14.1"}, "seed": seed, "load": 0.5,
              "machine": {"processor": "AMD EPYC", "cores": 2, "cuda": [], "system": "linux"}}
    for name, value in changes.items():
        place = next((place for place in (settings, data, record) if name in place), None)
        assert place is not None, f"a record has no {name}"
        place[name] = value
    assert is_training(record)
    return record


def training_run(run: str, accuracy: float, seed: int = 0, **changes) -> TrainingRun:
    return as_run(training_record(run, accuracy, seed, **changes))


def results_of(*runs: TrainingRun) -> Results:
    return Results(runs=list(runs))


def sweep_records() -> list[dict]:
    """Two seeds of all networks at κ = 1, and one of 8×8 tiles."""
    records = []
    for seed in (0, 1):
        records += [training_record("pretrained", 0.64 + seed / 100, seed),
                    training_record("pretrained_frozen", 0.66, seed),
                    training_record("with_ac", 0.661 + seed / 1000, seed),
                    training_record("no_ac", 0.15, seed)]
    records += [training_record("with_ac", 0.665, morphing=TILES_8),
                training_record("no_ac", 0.47, morphing=TILES_8)]
    return records


def write_records(folder: Path, records: list[dict]) -> Path:
    """Each record in a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, record in enumerate(records):
        name = f"{number:02}-{record['run']}.json"
        (folder / name).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return folder
