"""Leaves out training images of CIFAR-10 to choose a learning rate on: `python -m
experiments.validation FOLDER`.

FOLDER gets arrays as `--dataset arrays --dataset_dir FOLDER` reads them: the training images
without 5 000, and those 5 000 in place of the test images, which stay unseen. Writes
validation.json, what was left out, to --output.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from experiments.program import make_parser, run_command
from images.datasets import load_images
from parameter import Parameters
from utils.artifacts import write_alone
from utils.provenance import provenance
from utils.records import to_json

LEFT_OUT = 5000


def main():
    arguments = parse_arguments()
    p = Parameters(dataset_dir=arguments.dataset_dir)
    about = provenance(p)
    images = load_images(p, "train")
    order = np.random.default_rng(0).permutation(len(images.labels))
    parts = {"train": order[LEFT_OUT:], "test": order[:LEFT_OUT]}
    for split, chosen in parts.items():
        pixels, labels = images.images.numpy()[chosen], images.labels.numpy()[chosen]
        save_array(arguments.folder / f"{split}.npy", pixels)
        save_array(arguments.folder / f"{split}_labels.npy", labels)
    write_alone(arguments.folder / "classes.txt", "\n".join(images.classes) + "\n")
    counts = {f"{split}_images": len(chosen) for split, chosen in parts.items()}
    write_alone(arguments.output / "validation.json", to_json(about | counts))
    print(f"{arguments.folder} has {counts['train_images']} training images and {LEFT_OUT} to "
          "choose by")


def save_array(path: Path, array: np.ndarray):
    write_alone(path, partial(np.save, arr=array))


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__, "results/validation")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--dataset_dir", default="data/datasets", help="where CIFAR-10 is "
                        "(default: data/datasets)")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
