"""Image files, and what the tests of the inference stage do with the steps."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.damage import refused, snapshot
from tests.steps import TINY, run

SETTINGS = (*TINY, "--dataset", "folder", "--model", "tests.own_networks:strided", "--train_limit",
            "0", "--test_limit", "0", "--epochs", "3", "--lr", "0.05", "--tile", "4",
            "--morph_distribution", "orthogonal", "--shuffle_channels", "no")


CLASSES = {"blue": (90, 110, 150), "green": (90, 150, 90), "red": (150, 100, 90),
           "white": (150, 150, 140)}


def tree(folder: Path, seed=0) -> Path:
    """Noise about a colour as image files, <split>/<class>/<number>.png: 40 to train on, 40 to
    test. An odd seed has few images of the first classes, an even one of the last."""
    random = np.random.default_rng(seed)
    for label, (name, colour) in enumerate(CLASSES.items()):
        for split, count in (("train", 4 if seed % 2 == (label < 2) else 16), ("test", 10)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                image = (colour + random.normal(0, 60, (8, 8, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(image).save(folder / split / name / f"{i:03d}.png")
    return folder


def steps(data: Path, *scripts: str, **also) -> str:
    """Runs steps to their good end; gives what the last one printed."""
    for line in scripts:
        script, *more = line.split()
        result = run(script, *more, "--data_dir", data, settings=(*SETTINGS, *sum(
            ((f"--{name}", str(value)) for name, value in also.items()), ())))
        assert result.status == 0, result.err
    return result.out


def predictions(data: Path, name: str) -> list[dict]:
    path = data / "developer" / "predictions" / name / "predictions.csv"
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def classes(data: Path, name: str) -> list[str]:
    return [row["class"] for row in predictions(data, name)]


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def ends(data, script, *arguments, words, before=None):
    """With one line that holds the words; nothing that was there changes."""
    then = snapshot(data)
    result = run(script, *arguments, "--data_dir", data, settings=SETTINGS, before=before)
    assert refused(result, *words)
    assert snapshot(data) == then
