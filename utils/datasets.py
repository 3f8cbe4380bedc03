"""Data sets: one uint8 tensor of images and one tensor of labels each; no loader processes."""

import hashlib
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from parameter import Parameters
from utils import shapes
from utils.artifacts import read_checkpoint
from utils.program import UserError

# Of CIFAR-10's training images, as in the reference scripts; used for every data set.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Images(NamedTuple):
    """images (N, α, m, m) uint8, labels (N) int64, and the names of the classes."""

    images: Tensor
    labels: Tensor
    classes: list[str]


def image_shape(p: Parameters) -> tuple[int, int, int]:
    """(α, m, m) of the images that are morphed: with their padding, if any."""
    side = p.image_size + 2 * p.image_padding
    return 3, side, side


def load_images(p: Parameters, split: str) -> Images:
    """The images of a split, `train` or `test`: all, or a random subset that is always the same.

    Raises UserError where they cannot be had, with what to do.
    """
    limit = p.train_limit if split == "train" else p.test_limit
    if p.dataset == "shapes":
        images, labels = shapes.draw(shapes.SIZES[split], p.image_size, seed=len(split))
        whole = Images(images, labels, shapes.CLASSES)
    elif p.dataset == "folder":
        whole = _folder(p, split)
    else:
        whole = _cifar(p, split)
    if limit > len(whole.labels):
        raise UserError(f"{split}_limit is {limit}, but {p.dataset} has {len(whole.labels)} "
                        f"{split} images")
    if limit == 0:
        return whole
    chosen = torch.randperm(len(whole.labels), generator=torch.Generator().manual_seed(0))[:limit]
    return Images(whole.images[chosen], whole.labels[chosen], whole.classes)


def normalise(images: Tensor) -> Tensor:
    """uint8 images (B, 3, m, m) to float32, each colour with mean 0 and deviation 1 on CIFAR-10."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(3, 1, 1)
    return (images.float() / 255 - mean) / std


def unrolled(images: Tensor, padding: int) -> Tensor:
    """The row vectors D of the paper: uint8 images to (B, αm²) float32, normalised and padded."""
    return F.pad(normalise(images), [padding] * 4).flatten(1)


def _cifar(p: Parameters, split: str) -> Images:
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}
    try:
        data = kind[p.dataset](p.dataset_dir, train=split == "train", download=True)
    except (OSError, RuntimeError) as error:             # URLError is an OSError
        archive = Path(kind[p.dataset].url).name
        raise UserError(
            f"{p.dataset} could not be downloaded ({str(error).splitlines()[0][:80]}): put "
            f"{archive} into {p.dataset_dir}, or choose --dataset shapes, or --dataset folder "
            "--dataset_dir with a tree of images") from None
    return Images(torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(),
                  torch.tensor(data.targets), list(data.classes))


def _folder(p: Parameters, split: str) -> Images:
    """<dataset_dir>/<split>/<class>/*, decoded once and kept under data_dir/datasets."""
    root = Path(p.dataset_dir) / split
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: --dataset_dir must hold train/<class>/* and "
                        "test/<class>/*")
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if len(classes) < 2:
        raise UserError(f"{root} holds {len(classes)} classes (folders of images), but 2 are "
                        "the least")
    files, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(f for f in (root / name).rglob("*")
                       if f.is_file() and not f.name.startswith("."))
        if not found:
            raise UserError(f"{root / name} holds no images: remove the folder, or fill it")
        files += found
        labels += [label] * len(found)
    other = Path(p.dataset_dir) / ("test" if split == "train" else "train")
    if other.is_dir():
        missing = set(classes) ^ {entry.name for entry in other.iterdir() if entry.is_dir()}
        if missing:
            raise UserError(f"class {min(missing)} is in only one of {root} and {other}")

    digest = hashlib.sha256(repr(p.image_size).encode())
    for file in files:
        state = file.stat()
        digest.update(f"{file.relative_to(root)} {state.st_size} {state.st_mtime_ns}\n".encode())
    cache = Path(p.data_dir) / "datasets" / f"{split}-{digest.hexdigest()[:16]}.pt"
    shape = (len(files), 3, p.image_size, p.image_size)
    if cache.is_file():
        try:
            images = read_checkpoint(cache)["images"]
            if images.shape == shape and images.dtype == torch.uint8:
                return Images(images, torch.tensor(labels), classes)
        except (UserError, KeyError, AttributeError):
            pass                                         # a damaged cache is made again
    images = torch.empty(shape, dtype=torch.uint8)
    for i, file in enumerate(tqdm(files, desc=f"decoding {split} images", mininterval=1)):
        images[i] = decode(file, p.image_size)
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(".partial")
    torch.save({"images": images}, partial)
    os.replace(partial, cache)
    return Images(images, torch.tensor(labels), classes)


def decode(file: Path, side: int) -> Tensor:
    """An image file as (3, side, side) uint8, resized and cropped about its centre.

    Raises UserError where it is no image, is cut short, or is huge (a decompression bomb).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                fitted = ImageOps.fit(image.convert("RGB"), (side, side))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError,
            Image.DecompressionBombWarning) as error:
        raise UserError(f"{file} cannot be read as an image ({str(error)[:100]}): remove or "
                        "replace it") from None
    return torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8).view(
        side, side, 3).permute(2, 0, 1)
