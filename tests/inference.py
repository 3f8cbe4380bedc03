"""Image files, and what the tests of the inference stage do with the steps."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.damage import refused, snapshot
from tests.steps import TINY, call, run

SETTINGS = (*TINY, "--dataset", "folder", "--model", "tests.own_networks:strided", "--train_limit",
            "0", "--test_limit", "0", "--epochs", "3", "--lr", "0.05", "--tile", "4",
            "--morph_distribution", "orthogonal", "--shuffle_channels", "no")


CLASSES = {"blue": (90, 110, 150), "green": (90, 150, 90), "red": (150, 100, 90),
           "white": (150, 150, 140)}


def tree(folder: Path, seed: int = 0, names: dict[str, str] | None = None) -> Path:
    """Noise about a colour as image files, <split>/<class>/<number>.png: 40 to train on, 40 to
    test. An odd seed has few images of the first classes, an even one of the last. `names`: other
    names for classes."""
    random = np.random.default_rng(seed)
    for label, (name, colour) in enumerate(CLASSES.items()):
        is_rare = seed % 2 == (label < 2)
        place = (names or {}).get(name, name)
        for split, count in (("train", 4 if is_rare else 16), ("test", 10)):
            (folder / split / place).mkdir(parents=True)
            for i in range(count):
                image = (colour + random.normal(0, 60, (8, 8, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(image).save(folder / split / place / f"{i:03d}.png")
    return folder


def steps(data: Path, *commands: str, **settings) -> str:
    """Runs steps to their good end; gives what the last one printed."""
    words = []
    for name, value in settings.items():
        words += [f"--{name}", str(value)]
    for command in commands:
        script, *more = command.split()
        result = call(script, *more, "--data_dir", data, settings=(*SETTINGS, *words))
        assert result.status == 0, result.err
    return result.out


def predictions(data: Path, name: str, network: str = "with_ac") -> list[dict]:
    path = data / "developer" / "predictions" / network / name / "predictions.csv"
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def classes(data: Path, name: str, network: str = "with_ac") -> list[str]:
    return [row["class"] for row in predictions(data, name, network)]


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def record(data: Path, name: str) -> dict:
    """The record of a finished run."""
    return json.loads((data / "developer" / f"{name}.json").read_text(encoding="utf-8"))


def ends(data: Path, script: str, *arguments, words: list[str],
         before: Callable[[], object] | None = None):
    """With one line that holds the words; nothing that was there changes."""
    then = snapshot(data)
    command = (script, *arguments, "--data_dir", data)
    if before is None:
        result = call(*command, settings=SETTINGS)
    else:
        result = run(*command, settings=SETTINGS, before=before)
    assert refused(result, *words)
    assert snapshot(data) == then
