"""Data sets: one uint8 tensor of images and one tensor of labels each; no loader processes."""

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets.utils import calculate_md5

from images import files as image_files
from images import shapes
from parameter import Parameters
from utils.artifacts import digest, keep_private, temporary, write_alone, write_temporary
from utils.devices import first_process_first, say
from utils.memory import require_memory, shapes_bytes
from utils.settings import UserError

CIFAR = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)      # as in the reference scripts
# Channels, side, mean and deviation of each colour: torchvision's data sets, and our own.
DATASETS = {
    "cifar10": ("CIFAR10", 3, 32, *CIFAR), "cifar100": ("CIFAR100", 3, 32, *CIFAR),
    "mnist": ("MNIST", 1, 28, (0.1307,), (0.3081,)),
    "fashion_mnist": ("FashionMNIST", 1, 28, (0.2860,), (0.3530,)),
    "kmnist": ("KMNIST", 1, 28, (0.1918,), (0.3483,)),
    "svhn": ("SVHN", 3, 32, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "stl10": ("STL10", 3, 96, (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
    "shapes": (None, 3, 32, *CIFAR), "folder": (None, 3, 32, None, None)}


class Images(NamedTuple):
    """images (N, α, m, m) uint8, perhaps read from the disk, labels (N) int64, names of classes."""

    images: Tensor
    labels: Tensor
    classes: list[str]

    @property
    def digest(self) -> str:
        return data_digest(self.images)


def dataset_name(p: Parameters) -> str:
    """What the images are, for records: the data set's name, or that of the folder of images."""
    if p.dataset != "folder":
        return p.dataset
    name = os.path.basename(os.path.abspath(p.dataset_dir))
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:60] or "folder"


def image_shape(p: Parameters) -> tuple[int, int, int]:
    """(α, m, m) of the images of a data set, without padding; raises UserError where it has other
    images."""
    if p.dataset not in DATASETS:
        raise UserError(f"dataset is {p.dataset!r}, but must be one of {', '.join(DATASETS)}")
    kind, channels, side = DATASETS[p.dataset][:3]
    if kind and p.image_size not in (0, side):
        raise UserError(f"image_size is {p.image_size}, but the images of {p.dataset} have side "
                        f"{side}")
    side = p.image_size or side
    return p.channels or channels, side, side


def load_images(p: Parameters, split: str) -> Images:
    """The images of a split, `train` or `test`: all, or a random subset that is always the same,
    of all classes in their proportions.

    Raises UserError where they cannot be had, with what to do.
    """
    limit = p.train_limit if split == "train" else p.test_limit
    shape = image_shape(p)
    with first_process_first():
        if p.dataset == "folder":
            return _folder(p, split, shape, limit)
        if p.dataset == "shapes":
            require_memory(shapes_bytes(shape[1]), purpose="drawing shapes of this size",
                           advice="choose a smaller --image_size")
            images, labels = shapes.draw(shapes.SIZES[split], shape[1], seed=len(split))
            classes = shapes.CLASSES
        else:
            images, labels, classes = _torchvision(p, split)
    chosen = subset(labels, limit, split, classes)
    return Images(recoloured(images[chosen], shape[0]), labels[chosen], classes)


def subset(labels: Tensor, limit: int, split: str, classes: list[str]) -> Tensor | slice:
    """Indices of `limit` images (0: all), each class in its proportion, none left out that fits.

    Each class in a random order of its own counts evenly from 0 to 1, its first image before all
    others'; the lowest are taken. Raises UserError where there are fewer images.
    """
    if limit > len(labels):
        raise UserError(f"{split}_limit is {limit}, but there are {len(labels)} {split} images")
    counts = labels.bincount(minlength=len(classes))
    if limit:
        place, generator = torch.empty(len(labels)), torch.Generator().manual_seed(0)
        for label in labels.unique():
            mine = (labels == label).nonzero()[:, 0]
            mine = mine[torch.randperm(len(mine), generator=generator)]
            place[mine] = (torch.arange(len(mine)) + 0.5) / len(mine)
            place[mine[0]] = -1
        chosen = place.argsort(stable=True)[:limit].sort().values
        counts = labels[chosen].bincount(minlength=len(classes))
    if counts.max() > counts.min() and (limit or counts.max() > 10 * counts.min()):
        order = counts.argsort(stable=True).tolist()
        names = [f"{image_files.shown(classes[i])} {counts[i]}" for i in order]
        say(f"{split} images of each class: {', '.join(names[:20])}"
            + (f" and {len(names) - 20} more" if len(names) > 20 else ""))
    return chosen if limit else slice(None)


def recoloured(images: Tensor, channels: int) -> Tensor:
    """uint8 images (N, 1 or 3, m, m) as grey (ITU-R 601) or as colour ones."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return torch.cat([(part * weights).sum(1, keepdim=True).round().to(torch.uint8)
                      for part in images.split(1000)])


@lru_cache(maxsize=16)
def _constants(mean: tuple, std: tuple, device: torch.device) -> tuple[Tensor, Tensor]:
    """On the device once, and not in every batch."""
    return tuple(torch.tensor(x, device=device).view(-1, 1, 1) for x in (mean, std))


def normalise(images: Tensor, mean: tuple, std: tuple) -> Tensor:
    """uint8 images (B, α, m, m) to float32: (x/255 - mean)/std for each colour."""
    mean, std = _constants(mean, std, images.device)
    return (images.float() / 255 - mean) / std


def normalisation(p: Parameters, train: Images) -> tuple[tuple, tuple]:
    """Mean and deviation of each colour, of values in [0, 1]: of the data set's table, or measured
    on the training images of a folder."""
    mean, std = DATASETS[p.dataset][3:]
    channels = train.images.shape[1]
    if mean is None or len(mean) != channels:
        total, squares, count = *torch.zeros(2, channels, dtype=torch.float64), 0
        for part in train.images.split(1000):
            values = part.double() / 255
            total, squares = total + values.sum((0, 2, 3)), squares + (values ** 2).sum((0, 2, 3))
            count += values[:, 0].numel()
        deviation = (squares / count - (total / count) ** 2).clamp_min(0).sqrt().clamp_min(1 / 255)
        mean, std = (tuple(round(x, 4) for x in y.tolist()) for y in (total / count, deviation))
    return mean, std


class Prepared(NamedTuple):
    """uint8 images as the row vectors D of the paper before they are unrolled: normalised, then
    padded with zeros; `prepared[slice]` gives (B, α, m, m) float32."""

    images: Tensor
    mean: tuple
    std: tuple
    padding: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice) -> Tensor:
        return F.pad(normalise(self.images[index], self.mean, self.std), [self.padding] * 4)


def about(p: Parameters, train: Images, test: Images) -> dict:
    """What a result says of its data."""
    return {"dataset": dataset_name(p), "classes": len(train.classes),
            "channels": train.images.shape[1], "image_size": train.images.shape[2],
            "image_fit": p.image_fit, "train_images": len(train.labels),
            "test_images": len(test.labels), "pixels": data_digest(train.images, test.images)}


def data_digest(*parts) -> str:
    """SHA-256 of tensors and plain values: what a run's data were."""
    sha256 = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            sha256.update(str(tuple(part.shape)).encode())
            for rows in part.split(4096):
                sha256.update(np.ascontiguousarray(rows.numpy()))
        else:
            sha256.update(json.dumps(part).encode())
    return sha256.hexdigest()


def _torchvision(p: Parameters, split: str) -> tuple[Tensor, Tensor, list[str]]:
    kind = getattr(torchvision.datasets, DATASETS[p.dataset][0])
    by_name = p.dataset in ("svhn", "stl10")
    try:
        data = kind(p.dataset_dir, download=True,
                    **({"split": split} if by_name else {"train": split == "train"}))
    except (OSError, RuntimeError) as error:             # URLError is an OSError
        raise UserError(f"{p.dataset} could not be downloaded ({' '.join(str(error).split())[:80]})"
                        f": {_archive(kind, p)}, or choose --dataset shapes, or --dataset folder "
                        "--dataset_dir with a tree of images") from None
    images = torch.as_tensor(data.data)
    images = images[:, None] if images.ndim == 3 else (
        images if by_name else images.permute(0, 3, 1, 2).contiguous())
    labels = torch.as_tensor(data.labels if by_name else data.targets).long()
    return images, labels, list(map(str, getattr(data, "classes", range(10))))


def _archive(kind, p: Parameters) -> str:
    """What to put where for a data set that cannot be downloaded, or what is wrong with it."""
    if not hasattr(kind, "tgz_md5"):
        return f"put its files into {p.dataset_dir}"
    path = Path(p.dataset_dir) / Path(kind.url).name
    if path.is_file():
        return f"{path} is damaged (md5 {calculate_md5(path)}, not {kind.tgz_md5}): replace it"
    return f"put {path.name} into {p.dataset_dir}"


def _folder(p: Parameters, split: str, shape: tuple[int, int, int], limit: int) -> Images:
    """<dataset_dir>/<split>/<class>/*, decoded once and kept in data_dir/datasets by content."""
    root = Path(p.dataset_dir) / split
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: --dataset_dir must hold train/<class>/* and "
                        "test/<class>/*")
    tree = image_files.find_images(root)
    other = root.with_name("test" if split == "train" else "train")
    if other.is_dir():
        missing = set(tree.classes) ^ set(image_files.class_names(other))
        if missing:
            raise UserError(f"class {image_files.shown(min(missing))} is in only one of {root} and "
                            f"{other}")
    if tree.skipped:
        say(f"{tree.skipped} files under {root} are skipped: hidden, side files or in side "
            "folders")
    labels = torch.tensor(tree.labels)
    chosen = subset(labels, limit, split, tree.classes)
    files = [tree.files[i] for i in torch.arange(len(labels))[chosen].tolist()]
    images = decoded(files, shape, p.image_fit, p, split)
    return Images(images, labels[chosen], tree.classes)


def decoded(files: list[Path], shape: tuple[int, int, int], fit: str, p: Parameters,
            what: str) -> Tensor:
    """Image files as uint8 (N, *shape), on the disk: rows that earlier calls left are kept.

    A row is known by its file's resolved path, inode, size and both times, under the decoder's
    version and settings. Raises UserError where files cannot be read; the others are kept.
    """
    how = {"fit": fit, "pixel_range": p.pixel_range}
    keys = []
    for file in files:
        try:
            state = file.stat()
        except OSError:                                  # a broken link: decoding will tell
            state = os.stat_result((0,) * 10)
        keys.append(hashlib.sha256(repr((
            os.fsencode(file.resolve()), state.st_ino, state.st_size, state.st_mtime_ns,
            state.st_ctime_ns, image_files.VERSION, sorted(how.items()))).encode()).hexdigest())
    folder = Path(p.data_dir) / "datasets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keep_private(folder)
    path = folder / f"{what}-{'x'.join(map(str, shape))}.npy"
    old, rows = _kept(path)
    facts = torch.tensor([old[key][1] if key in old else (torch.nan, torch.nan) for key in keys])
    if list(old) == keys and not facts.isnan().any():
        return rows
    try:
        write_temporary(path, lambda file: np.save(file, np.zeros((len(files), *shape), np.uint8)),
                        0o600)                           # all of it, so that the disk has room
        images = torch.from_numpy(np.lib.format.open_memmap(temporary(path), "r+"))
        for i, key in enumerate(keys):
            if key in old:
                images[i] = rows[old[key][0]]
        try:
            say(*image_files.decode_all(files, images, facts, folder / f"{what}-unreadable.txt",
                                        **how), sep="\n")
        finally:
            index = dict(zip(keys, facts.tolist(), strict=True))
            write_alone(path.with_suffix(".json"), json.dumps(
                {"sha256": digest(temporary(path))["sha256"], "rows": index}), 0o600)
            os.replace(temporary(path), path)
        return images
    finally:
        temporary(path).unlink(missing_ok=True)          # of a full disk


def _kept(path: Path) -> tuple[dict[str, tuple[int, list]], Tensor | None]:
    """Of an earlier call: row and facts by key, and the rows; nothing where they do not match."""
    try:
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if index["sha256"] == digest(path)["sha256"]:
            rows = torch.from_numpy(np.lib.format.open_memmap(path, "c"))
            return {key: (i, facts) for i, (key, facts) in enumerate(index["rows"].items())}, rows
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass                                             # a damaged one is made again
    return {}, None
