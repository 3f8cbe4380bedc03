"""The inference stage, the provider: morphs new images with the key of the delivery.

Reads data/provider/ and the --images. Writes data/queries/<name>/, which goes to the developer.
Images in folders that are named like the delivery's classes take their labels along.
data/provider/names-<name>.csv has the names of the files; the developer sees numbers, or with
--show_names the names. `--key list` morphs nothing: it lists the keys.
"""

import csv
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import utils.step  # isort: skip                         # first: see there
import numpy as np
import torch
from torch import Tensor

from images.arrays import read_array_images
from images.cache import read_image_files, warn_of_loss
from images.datasets import Prepared, warn_of_another_scale
from images.folders import list_images, shown
from utils.artifacts import MANIFEST, Saving, to_csv, write_alone
from utils.delivery import morpher_for, write_morphed
from utils.devices import first_process_first, joined_processes, rank, say
from utils.errors import UserError
from utils.keys import LIST, LastDelivery, dtype_name, list_keys, read_key, read_last_delivery
from utils.owners import adopt


def main(p):
    provider = Path(p.data_dir) / "provider"
    if p.key == LIST:
        print(*list_keys(provider), sep="\n")
        return
    if p.name == "test":
        raise UserError("the name test means the delivered test images: choose another --name")
    key = read_key(provider, p.key)
    last = read_last_delivery(provider, key)
    p = adopt(p, f"the delivery of key {key.id}", pixel_range=last.pixel_range)
    geometry = last.geometry
    with joined_processes(p) as context:
        with first_process_first():                      # the others find the decoded images
            found = find_images(p, last)
        require_same_dtype(found.images, last)
        warn_of_another_scale(found.images, geometry.mean, geometry.std)
        names_file = provider / f"names-{p.name}.csv"
        refuse_taken_name(names_file, found.names)
        source = Prepared(found.images, geometry.mean, geometry.std, geometry.image_padding)
        new = Saving(Path(p.data_dir) / "queries" / p.name, anew=True)
        if (new.folder / MANIFEST).exists():
            say(f"replacing the earlier query {p.name}")
        morpher = morpher_for(key, geometry.delivery_dtype, [source], context.device)
        if rank() > 0:                                   # it morphs its share of the images
            write_morphed(new, "morphed.npy", source, morpher)
            return
        with new:
            write_morphed(new, "morphed.npy", source, morpher)
            if found.labels is not None:
                new.save("labels.npy", partial(np.save, arr=found.labels.numpy()))
            numbers = number_images(p.name, key.id, len(found.names))
            names = found.names if p.show_names else numbers
            new.note(**asdict(geometry), scale=morpher.scale, names=names,
                     classes=last.classes)
            # Between the last write of the query and its first rename: no query without its
            # names, and a full disk changes neither.
            new.prepare()
            keep_names(names_file, names, found.names)
    print(f"{len(names)} images are morphed with key {key.id}: {new.folder}/ goes to the developer")
    if found.labels is not None:
        print("the developer also gets their labels, because their folders are named like classes; "
              "to withhold labels, move the images elsewhere and run this again")


def require_same_dtype(images: Tensor, last: LastDelivery):
    """Raises UserError where images are of another dtype than the delivered ones: what is black and
    white in them differs."""
    if dtype_name(images) != last.image_dtype:
        raise UserError(f"these images are {dtype_name(images)}, but those of the delivery are "
                        f"{last.image_dtype}: give an array (.npy) of that dtype and on the same "
                        "scale")


def refuse_taken_name(path: Path, names: list[str]):
    """Raises UserError where an earlier query of this name has other files: its predictions would
    be read under the names of these. `path`: the table of that query's names."""
    if not path.exists():
        return
    try:
        taken = names_in(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path} is not as this step wrote it: put it back, or choose another "
                        "--name") from None
    if taken != names_in(names_csv(names, names)):
        raise UserError(f"the --name is taken: {path} has the names of other files, and their "
                        "predictions would be read as those of these; choose another --name, or "
                        "delete that table if it is needed no more")


def number_images(query: str, key_id: str, count: int) -> list[str]:
    """What the developer sees in place of the names: the query's name, the start of the key's id,
    and a number from 0. So predictions are never read under the names of another query's images,
    nor of another provider's."""
    return [f"{query}-{key_id[:8]}-{i}" for i in range(count)]


def keep_names(path: Path, shown_names: list[str], names: list[str]):
    """Writes which file the developer sees under which name or number, for the provider alone, and
    says where names are."""
    write_alone(path, names_csv(shown_names, names), 0o600)
    if shown_names == names:
        print("the developer also gets the names of the files")
    else:
        print(f"the developer sees numbers; {path} has the names of the files, and stays here")


@dataclass(frozen=True)
class ImagesToMorph:
    """Images (N, α, m, m), the names that tell them apart, and labels (N) if all have one."""

    images: Tensor
    names: list[str]
    labels: Tensor | None


def find_images(p, last: LastDelivery) -> ImagesToMorph:
    """The images of --images: files, folders, or one array.

    Raises UserError where there are none, or two have one name.
    """
    if not p.images:
        raise UserError("--images is missing: name folders or files to morph")
    paths = [Path(name) for name in p.images]
    missing = [shown(path) for path in paths if not path.exists()]
    if missing:
        raise UserError(f"there is no file or folder {', '.join(missing)}: correct --images")
    arrays = [path for path in paths if path.suffix.lower() == ".npy"]
    if arrays and len(paths) > 1:
        raise UserError("--images takes one array alone: morph each under a --name of its own")
    if arrays:
        images = read_array_images(arrays[0], last.geometry.plain_shape)
        names = [f"{shown(arrays[0].name)}[{i}]" for i in range(len(images))]
        return ImagesToMorph(images, names, None)
    files, names, folders = find_files(paths)
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise UserError(f"{times} images are named {name}: pass their common parent folder to "
                        "--images")
    labels = find_labels(files, folders, last.classes)
    decoded = read_image_files(files, last.geometry.plain_shape, last.geometry.image_fit,
                               p.pixel_range, Path(p.data_dir) / "decoded" / "queries", "queries")
    warn_of_loss([decoded], p.pixel_range, is_of_key=True)
    return ImagesToMorph(decoded.images, names, labels)


class FilesToMorph(NamedTuple):
    """Image files, their names below the folders of --images, and the folders that may name the
    class of each: the outermost one below --images comes first, --images itself last."""

    files: list[Path]
    names: list[str]
    folders: list[tuple[str, ...]]


def find_files(paths: list[Path]) -> FilesToMorph:
    """The image files of --images. Raises UserError where there are none."""
    files, names, folders, skipped = [], [], [], 0
    for path in paths:
        if path.is_dir():
            inside, left_out = list_images(path)
            skipped += left_out
            for file in inside:
                below = file.relative_to(path)
                files.append(file)
                names.append(shown(below))
                folders.append((*below.parent.parts, own_name(path)))
        else:
            files.append(path)
            names.append(shown(path.name))
            folders.append((own_name(path.parent),))
    if skipped:
        say(f"{skipped} files are skipped: hidden, side files, or in side folders")
    if not files:
        arrays = []
        for path in paths:
            arrays += [file for file in sorted(path.rglob("*.npy"))
                       if not file.stem.endswith("_labels")]
        advice = f": an array is given by itself, --images {shown(arrays[0])}" if arrays else ""
        raise UserError(f"{', '.join(map(shown, paths))} holds no image files{advice}")
    return FilesToMorph(files, names, folders)


def own_name(folder: Path) -> str:
    """The name of a folder as it was given, also where it is a link to another one."""
    return Path(os.path.abspath(folder)).name


def find_labels(files: list[Path], folders: list[tuple[str, ...]],
                classes: tuple[str, ...]) -> Tensor | None:
    """Labels where all files lie in folders named like classes; None where none do.

    The outermost such folder is the class, as in a data set. Raises UserError where only some files
    have one: their labels would be lost without a word.
    """
    found = [next((name for name in names if name in classes), None) for names in folders]
    labelled = len(found) - found.count(None)
    if not labelled:
        return None
    if labelled < len(files):
        other = files[found.index(None)]
        raise UserError(f"{labelled} of {len(files)} images lie in folders named like "
                        f"classes, but {shown(other)} does not: morph them in two runs, each with "
                        "a --name of its own")
    return torch.tensor([classes.index(name) for name in found])


def names_csv(numbers: list[str], names: list[str]) -> str:
    """A line for each image: what the developer sees, a number or the name, and its name."""
    return to_csv([["file", "name"], *zip(numbers, names, strict=True)])


def names_in(table: str) -> list[str]:
    """The names in a table of names_csv, as they stand there. Raises ValueError where it has not
    two columns."""
    return [name for _, name in csv.reader(table.splitlines())]


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
