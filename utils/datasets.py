"""Data sets: one uint8 tensor of images and one tensor of labels each; no loader processes."""

import hashlib
import math
import os
import re
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
from utils.artifacts import read_checkpoint, write_alone
from utils.program import UserError, require_memory

# Of CIFAR-10's training images, as in the reference scripts; used for every data set.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
# Of image files: Pillow knows others too, and one of them runs a program (PostScript).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


class Images(NamedTuple):
    """images (N, α, m, m) uint8, labels (N) int64, and the names of the classes."""

    images: Tensor
    labels: Tensor
    classes: list[str]


def images_of(p: Parameters) -> str:
    """What the images are, for records: the data set's name, or that of the folder of images."""
    if p.dataset != "folder":
        return p.dataset
    return re.sub(r"[^A-Za-z0-9_.-]", "-", Path(p.dataset_dir).resolve().name)[:60] or "folder"


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
        require_memory(150_000 * p.image_size ** 2, "drawing shapes of this size",
                       "choose a smaller --image_size")
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
            f"{p.dataset} could not be downloaded ({' '.join(str(error).split())[:80]}): put "
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
    def kinds(folder: Path) -> list[str]:
        return sorted(entry.name for entry in folder.iterdir()
                      if entry.is_dir() and not entry.name.startswith("."))

    classes = kinds(root)
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
        missing = set(classes) ^ set(kinds(other))
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
            content = read_checkpoint(cache)
            images = content["images"]
            if images.shape == shape and content["sha256"] == _sha256(images):
                return Images(images, torch.tensor(labels), classes)
        except (UserError, KeyError, AttributeError, TypeError, ValueError):
            pass                                         # a damaged cache is made again
    require_memory(2 * math.prod(shape), f"holding {len(files)} {split} images of this size",
                   "choose a smaller --image_size, or fewer images")
    images = torch.empty(shape, dtype=torch.uint8)
    with tqdm(files, desc=f"decoding {split} images", mininterval=1, disable=None) as bar:
        for i, file in enumerate(bar):
            images[i] = decode(file, p.image_size)
    if int(os.environ.get("RANK", 0)) == 0:              # under torchrun one process keeps it
        content = {"images": images, "sha256": _sha256(images)}
        write_alone(cache, lambda file: torch.save(content, file))
    return Images(images, torch.tensor(labels), classes)


def _sha256(images: Tensor) -> str:
    return hashlib.sha256(images.numpy()).hexdigest()


def decode(file: Path, side: int) -> Tensor:
    """An image file as (3, side, side) uint8, resized and cropped about its centre.

    Raises UserError where it is no image, is cut short, or is huge (a decompression bomb).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                fitted = ImageOps.fit(image.convert("RGB"), (side, side))
    except Exception as error:                           # whatever a hostile file leads to
        raise UserError(f"{file} cannot be read as an image ({str(error)[:100]}): remove or "
                        "replace it") from None
    return torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8).view(
        side, side, 3).permute(2, 0, 1)
