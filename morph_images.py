"""The inference stage, the provider: morphs new images with the key of the delivery.

Reads data/provider/, the manifest of data/delivery/ and the --images. Writes data/queries/<name>/,
which goes to the developer. Images in folders named like the delivery's classes are labelled.
"""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import mode

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import numpy as np
import torch

import utils.step
from images.datasets import Prepared, decoded
from images.files import list_images, shown
from utils.artifacts import Saving
from utils.delivery import Delivery, common_scale, deliver, read
from utils.devices import processes
from utils.provider import read_key
from utils.settings import UserError


def main(p):
    data_dir = Path(p.data_dir)
    delivery, folder = read(Delivery, data_dir / "delivery"), data_dir / "queries" / p.name
    geometry = delivery.geometry
    key = read_key(data_dir / "provider", geometry.shape)
    if key.id != geometry.key:
        raise UserError(f"{delivery.folder} is of key {geometry.key}, but the provider's is "
                        f"{key.id}: run `python gen_augconv.py` again")
    if p.name == "test":
        raise UserError("the name test means the delivered test images: choose another --name")
    files, names, labels = find(p, delivery)
    images = decoded(files, delivery.plain_shape, geometry.image_fit, p, "queries")
    source = Prepared(images, geometry.mean, geometry.std, geometry.image_padding)
    with processes(p) as device, Saving(folder, anew=True) as new:
        core = key.core.double().to(device)
        scale = common_scale([source], core, geometry)
        deliver(new, "morphed.npy", source, core, geometry, scale)
        if labels is not None:
            new.save("labels.npy", partial(np.save, arr=labels.numpy()))
        new.about(**asdict(geometry), images=len(files), scale=scale, names=names)
    print(f"{len(files)} images{'' if labels is None else ', labelled,'} are morphed with key "
          f"{key.id}: {folder}/ is what goes to the developer")


def find(p, delivery: Delivery) -> tuple[list[Path], list[str], torch.Tensor | None]:
    """The files of --images, the names to hand over, and labels if all lie in folders of the
    classes' names."""
    if not p.images:
        raise UserError("--images is missing: name folders or files to morph")
    files, names, skipped = [], [], 0
    for path in map(Path, p.images):
        found, left_out = list_images(path) if path.is_dir() else ([path], 0)
        names += [shown(file.relative_to(path) if path.is_dir() else file.name) for file in found]
        files, skipped = files + found, skipped + left_out
    if skipped:
        print(f"{skipped} files are skipped: hidden, side files, or in side folders")
    if not files:
        raise UserError(f"{', '.join(map(shown, p.images))} holds no images")
    names = names if p.show_names else [str(i) for i in range(len(files))]
    if len({*names}) < len(names):
        raise UserError(f"several images are named {mode(names)}: name the folder "
                        "above theirs, or leave out --show_names")
    kinds = [file.parent.name for file in files]
    if not all(kind in delivery.classes for kind in kinds):
        return files, names, None
    return files, names, torch.tensor([delivery.classes.index(kind) for kind in kinds])


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
