"""Data sets: one tensor of images and one of labels each; no loader processes."""

import hashlib
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from images import shapes
from images.arrays import array_shape, read_arrays
from images.cache import FromFiles, read_image_files, warn_of_loss
from images.digests import data_digest, find_shared
from images.folders import class_names, find_images, shown
from images.torchvision_sets import read_torchvision
from mole.morphing import size_in_words
from parameter import Parameters
from utils.devices import first_process_first, rank, say, warn_once
from utils.errors import UserError, user_errors
from utils.examples import take_rows
from utils.first_layers import FirstLayer, check_normalisation
from utils.memory import require_memory, shapes_bytes
from utils.names import first_names, told_apart

CIFAR = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)      # as in the reference scripts
ROWS_AT_ONCE = 1000
LOOKED_AT = 256                     # images whose scale is compared with the first layer's
FAR, FLAT = 5, 1 / 50               # of mean or standard deviation: far from 0 and 1
FLOAT32_STEP = 2.0 ** -23                                # between neighbouring numbers, relative
CLASSES_SHOWN = 20                                       # in a line that counts their images
UNEQUAL = 2                         # times as many images in the largest class as in the smallest


class DataSet(NamedTuple):
    """What is known of a data set before it is loaded.

    torchvision: the class of torchvision.datasets that reads it, None where images/ does; options:
    that class's other arguments. mean and std: of each channel, of values / 255; None where they
    are measured.
    """

    torchvision: str | None
    channels: int
    side: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    options: dict = {}


# To add a data set of torchvision, add a line; images/torchvision_sets.py says which classes fit.
DATASETS = {
    "cifar10": DataSet("CIFAR10", 3, 32, *CIFAR),
    "cifar100": DataSet("CIFAR100", 3, 32, *CIFAR),
    "mnist": DataSet("MNIST", 1, 28, (0.1307,), (0.3081,)),
    "fashion_mnist": DataSet("FashionMNIST", 1, 28, (0.2860,), (0.3530,)),
    "kmnist": DataSet("KMNIST", 1, 28, (0.1918,), (0.3483,)),
    "svhn": DataSet("SVHN", 3, 32, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "stl10": DataSet("STL10", 3, 96, (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
    "shapes": DataSet(None, 3, 32, *CIFAR),
    "folder": DataSet(None, 3, 32),
    "arrays": DataSet(None, 0, 0),                       # whatever train.npy holds
}


def find_dataset(name: str) -> DataSet:
    """Raises UserError where there is no data set of this name."""
    if name not in DATASETS:
        raise UserError(f"dataset is {name!r}, but must be one of {', '.join(DATASETS)}")
    return DATASETS[name]


def settings_of_images(p: Parameters, first: FirstLayer) -> dict:
    """Settings of images that a first layer decides. The size is not among them where the data set
    has one of its own: then the two are compared."""
    decided = {"channels": first.shape[0], "image_fit": first.image_fit}
    if not find_dataset(p.dataset).torchvision:
        decided["image_size"] = first.image_size
    return decided


class ImageSet(NamedTuple):
    """A split: images (N, α, m, m), uint8 but for arrays, perhaps read from the disk as they are
    used; labels (N) int64; names of classes.

    digest: SHA-256 of the images. from_files: what is known of image files.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]
    digest: str = ""
    from_files: FromFiles | None = None


def dataset_name(p: Parameters) -> str:
    """What the images are called in records: the data set's name, or that of their own folder."""
    if p.dataset not in ("folder", "arrays"):
        return p.dataset
    name = os.path.basename(os.path.abspath(p.dataset_dir))
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:60] or p.dataset


def image_shape(p: Parameters) -> tuple[int, int, int]:
    """(α, m, m) of the images of a data set, without padding.

    Raises UserError if there is no such data set, or its images are of another size.
    """
    known = find_dataset(p.dataset)
    if p.dataset == "arrays":
        return _shape_of_arrays(p)
    if known.torchvision and p.image_size not in (0, known.side):
        raise UserError(f"image_size is {p.image_size}, but the images of {p.dataset} have side "
                        f"{known.side}: choose another --dataset (folder, for image files of your "
                        "own), or leave --image_size out")
    if p.channels not in (0, 1, 3):
        raise UserError(f"channels is {p.channels}, but the images of {p.dataset} are converted to "
                        "grey (1) or colour (3) alone: choose one of them, or --dataset arrays, "
                        "which may have any number")
    side = p.image_size or known.side
    return p.channels or known.channels, side, side


def require_fit(first: FirstLayer, where: Path | str, p: Parameters):
    """Raises UserError where a first layer, which lies at `where`, is for other images than those
    of --dataset."""
    if first.shape != image_shape(p):
        raise UserError(f"{where} is for images {size_in_words(first.shape)}, but "
                        f"{p.dataset} has {size_in_words(image_shape(p))}: choose --dataset "
                        "or another first layer")


def _shape_of_arrays(p: Parameters) -> tuple[int, int, int]:
    channels, side, _ = array_shape(Path(p.dataset_dir))
    if p.image_size not in (0, side):
        raise UserError(f"image_size is {p.image_size}, but the arrays of {p.dataset_dir} have "
                        f"side {side}: leave it out, or resize the arrays")
    if p.channels not in (0, channels):
        raise UserError(f"channels is {p.channels}, but the arrays of {p.dataset_dir} have "
                        f"{channels}: leave it out, or convert the arrays")
    if p.pixel_range is not None:
        raise UserError("pixel_range is for image files, and arrays are used as they are: leave it "
                        "out, or scale the arrays")
    return channels, side, side


def load_sets(p: Parameters) -> dict[str, ImageSet]:
    """The images of both splits, `train` and `test`; warns once of what image files lose, and of
    a person's own test images that are training images too.

    Raises UserError if they are not available, with what to do.
    """
    if p.pixel_range is not None and p.dataset not in ("folder", "arrays"):
        raise UserError(f"pixel_range is for image files (--dataset folder), and {p.dataset} is "
                        "used as it is: leave it out")
    sets = {split: load_images(p, split) for split in ("train", "test")}
    train, test = sets["train"], sets["test"]
    if train.from_files is not None:
        warn_of_loss([train.from_files, test.from_files], p.pixel_range)
    if p.dataset in ("folder", "arrays") and rank() == 0:
        warn_of_shared_images(train, test)
    return sets


def warn_of_shared_images(train: ImageSet, test: ImageSet):
    """Warns of test images that are, entry by entry, training images too."""
    shared = find_shared(test.images, train.images)
    if not shared:
        return
    example = f"number {shared[0]}"
    if test.from_files is not None:
        example = shown(test.from_files.files[shared[0]])
    warn_once(f"{len(shared)} of {len(test.images)} test images are also training images, such as "
              f"{example}: accuracy on them says little")


def load_images(p: Parameters, split: str) -> ImageSet:
    """The images of a split, `train` or `test`: all, or a random subset that is always the same,
    of all classes in their proportions.

    Raises UserError if they are not available, with what to do.
    """
    shape = image_shape(p)
    with first_process_first():
        if p.dataset == "folder":
            return _load_folder(p, split, shape)
        if p.dataset == "arrays":
            images, labels, classes = read_arrays(Path(p.dataset_dir), split)
        elif p.dataset == "shapes":
            require_memory(shapes_bytes(shape[1]), purpose="drawing shapes of this size",
                           advice="choose a smaller --image_size")
            images, labels = shapes.draw(shapes.SIZES[split], shape[1], shapes.SEEDS[split])
            classes = shapes.CLASSES
        else:
            known = find_dataset(p.dataset)
            _refuse_folders_of_images(p)
            images, labels, classes = read_torchvision(
                known.torchvision, p.dataset_dir, split, (known.channels, known.side, known.side),
                known.options)
    chosen = subset(labels, limit_of(p, split), split, classes)
    images = recoloured(take_rows(images, chosen), shape[0])
    return ImageSet(images, labels[chosen], classes, data_digest(images))


def _refuse_folders_of_images(p: Parameters):
    """Raises UserError where a data set by name is to be read from a folder of image files."""
    root = Path(p.dataset_dir)
    if (root / "train").is_dir() and (root / "test").is_dir():
        raise UserError(f"{root} has folders train and test, but --dataset is {p.dataset}: add "
                        "--dataset folder to read them")


def _load_folder(p: Parameters, split: str, shape: tuple[int, int, int]) -> ImageSet:
    """The images of <dataset_dir>/<split>/<class>/**, decoded once and kept in data_dir."""
    root = Path(p.dataset_dir) / split
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: --dataset_dir must hold train/<class>/* and "
                        "test/<class>/*")
    tree = find_images(root)
    other = root.with_name("test" if split == "train" else "train")
    if other.is_dir():
        in_one_only = set(tree.classes) ^ set(class_names(other))
        if in_one_only:
            name = told_apart(map(shown, sorted(in_one_only)))[0]
            raise UserError(f"class {name} is in only one of {root} and {other}")
    if tree.skipped:
        say(f"{tree.skipped} files or folders under {root} are skipped: hidden, or no images by "
            "their names")
    if tree.loose:
        say(f"{tree.loose} files that lie in {root} itself are skipped: they are in no class")
    labels = torch.tensor(tree.labels)
    chosen = subset(labels, limit_of(p, split), split, tree.classes)
    files = [tree.files[i] for i in torch.arange(len(labels))[chosen].tolist()]
    found = read_image_files(files, shape, p.image_fit, p.pixel_range, _decoded_folder(p), split)
    return ImageSet(found.images, labels[chosen], tree.classes, found.digest, found)


def _decoded_folder(p: Parameters) -> Path:
    """Where decoded images are kept: under the name of their folder; with a digest of it where that
    name had to be changed, or folders of two names would share one."""
    name, own = dataset_name(p), os.path.basename(os.path.abspath(p.dataset_dir))
    if name != own:
        name += "-" + hashlib.sha256(os.fsencode(own)).hexdigest()[:8]
    return Path(p.data_dir) / "decoded" / name


# Which images, and in which colours.

def limit_of(p: Parameters, split: str) -> int:
    """How many images of a split are used; 0: all."""
    return p.train_limit if split == "train" else p.test_limit


def subset(labels: Tensor, limit: int, split: str, classes: list[str]) -> Tensor | slice:
    """Indices of `limit` images (0: all), each class in its proportion, none left out that fits.

    The images of each class, in a random order of its own, are spread evenly over [0, 1), but for
    its first, which stands before all others'; the lowest are taken. Says how many images each
    class has if their numbers differ much. Raises UserError if there are fewer images.
    """
    if limit > len(labels):
        raise UserError(f"{split}_limit is {limit}, but there are {len(labels)} {split} images")
    if limit == 0:
        _say_unequal_counts(labels, split, classes)
        return slice(None)
    place = torch.empty(len(labels))
    generator = torch.Generator().manual_seed(0)
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=generator)]
        place[own] = (torch.arange(len(own)) + 0.5) / len(own)
        place[own[0]] = -1
    chosen = place.argsort(stable=True)[:limit].sort().values
    _say_unequal_counts(labels[chosen], split, classes)
    return chosen


def _say_unequal_counts(labels: Tensor, split: str, classes: list[str]):
    """Says how many images each class has if the largest has many times those of the smallest."""
    counts = labels.bincount(minlength=len(classes))
    if counts.max() <= UNEQUAL * counts.min():
        return
    order = counts.argsort(stable=True).tolist()
    shown_classes = told_apart(shown(name) for name in classes)
    names = [f"{shown_classes[i]} {counts[i]}" for i in order]
    say(f"{split} images of each class: {first_names(names, CLASSES_SHOWN)}")


def recoloured(images: Tensor, channels: int) -> Tensor:
    """uint8 images (N, 1 or 3, m, m) as grey (ITU-R 601) or as colour ones."""
    if images.shape[1] == channels:
        return images
    if channels == 1:
        return _in_grey(images)
    return images.expand(-1, 3, -1, -1)


def _in_grey(images: Tensor) -> Tensor:
    """uint8 images (N, 3, m, m) as (N, 1, m, m)."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    grey = []
    for part in images.split(ROWS_AT_ONCE):
        grey.append((part * weights).sum(1, keepdim=True).round().to(torch.uint8))
    return torch.cat(grey)


# Normalisation: (x/255 - mean)/std for each channel, whatever the numbers x are.

@lru_cache(maxsize=16)
def _constants(mean: tuple, std: tuple, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation on the device, put there once and not in every batch."""
    return (torch.tensor(mean, device=device).view(-1, 1, 1),
            torch.tensor(std, device=device).view(-1, 1, 1))


def normalise(images: Tensor, mean: tuple, std: tuple) -> Tensor:
    """Images (B, α, m, m) of any dtype to float32: (x/255 - mean)/std for each channel.

    255 is white in images of 8 bits. For arrays it is a unit like any other: `mean` and `std` are
    of x/255, so that it drops out.
    """
    mean, std = _constants(mean, std, images.device)
    return (images.float() / 255 - mean) / std


def normalisation(p: Parameters, train: ImageSet) -> tuple[tuple, tuple]:
    """Mean and standard deviation of each channel, of values / 255: the data set's where DATASETS
    has them, otherwise measured on the training images. Raises UserError where these are too large.
    """
    known = find_dataset(p.dataset)
    if known.mean is not None and len(known.mean) == train.images.shape[1]:
        return known.mean, known.std
    mean, std = measure_normalisation(train.images)
    with user_errors():
        check_normalisation(mean, std)
    return mean, std


def measure_normalisation(images: Tensor) -> tuple[tuple, tuple]:
    """Mean and standard deviation of each channel of images (N, α, m, m), of values / 255.

    Of uint8 images to 4 decimals, the standard deviation at least a grey level. Of others, a
    channel that has one value throughout (in float32) has a standard deviation of 1.
    """
    channels = images.shape[1]
    # Sums of differences from an image's mean lose no digits where the mean is large.
    shift = (images[:1].double() / 255).mean((0, 2, 3))
    total = torch.zeros(channels, dtype=torch.float64)
    squares = torch.zeros(channels, dtype=torch.float64)
    for part in images.split(ROWS_AT_ONCE):
        differences = part.double() / 255 - shift.view(-1, 1, 1)
        total += differences.sum((0, 2, 3))
        squares += (differences ** 2).sum((0, 2, 3))
    count = images[:, 0].numel()
    mean = shift + total / count
    std = (squares / count - (total / count) ** 2).clamp_min(0).sqrt()
    if images.dtype == torch.uint8:
        mean, std = mean.round(decimals=4), std.clamp_min(1 / 255).round(decimals=4)
    else:
        std[std <= FLOAT32_STEP * mean.abs()] = 1
    return tuple(mean.tolist()), tuple(std.tolist())


def warn_of_another_scale(images: Tensor, mean: tuple, std: tuple, what: str = "these images"):
    """Warns where images (N, α, m, m) are far from mean 0 and standard deviation 1 once they are
    normalised by the first layer's `mean` and `std`; once under torchrun. `what`: the images in
    words."""
    step = max(1, len(images) // LOOKED_AT)
    some = normalise(take_rows(images, slice(None, None, step)), mean, std).double()
    found_mean, found_std = float(some.mean()), float(some.std())
    is_far = abs(found_mean) > FAR or not FLAT < found_std < FAR
    if is_far:
        warn_once(f"normalised by the first layer's mean and standard deviation, {what} have mean "
                  f"{found_mean:.3g} and standard deviation {found_std:.3g}, far from 0 and 1: "
                  "they seem to be on another scale than those that the first layer was trained on")


@dataclass(frozen=True)
class Prepared:
    """Images as they are morphed: normalised, then padded with zeros.

    `prepared[index]`, index a slice or a tensor, gives (B, α, m + 2·padding, m + 2·padding)
    float32.
    """

    images: Tensor
    mean: tuple
    std: tuple
    padding: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        images = normalise(take_rows(self.images, index), self.mean, self.std)
        return F.pad(images, [self.padding] * 4)
