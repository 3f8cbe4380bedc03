"""Data sets of torchvision, downloaded where they are not there yet."""

import inspect
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError, one_line


def read_torchvision(name: str, folder: str, split: str, shape: tuple[int, int, int],
                     options: dict) -> tuple[Tensor, Tensor, list[str]]:
    """Images (N, *shape) uint8, labels (N) int64 and names of classes of a torchvision class.

    split: train or test. options: other arguments of the class, such as EMNIST's `split`. It fits
    where the class keeps all images in one uint8 array `data`, N×H×W, N×H×W×C or N×C×H×W, and
    their classes in `targets` or `labels`: CIFAR10 and CIFAR100, MNIST, FashionMNIST, KMNIST,
    EMNIST, USPS, SVHN and STL10 do. Raises UserError for other classes, and where the data can
    neither be found nor downloaded, with what to do.
    """
    import torchvision  # here, since it takes a second
    kind = getattr(torchvision.datasets, name, None)
    if not isinstance(kind, type):                       # it has modules too, such as usps
        raise UserError(f"torchvision has no data set {name}: correct its line in DATASETS")
    as_files = "save its images as files, and choose --dataset folder"
    if not takes_download(kind):
        raise UserError(f"torchvision's {name} does not download its images: {as_files}")
    try:
        data = kind(folder, download=True, **arguments_for(kind, split, options))
    except (TypeError, ValueError) as wrong:             # it takes other arguments
        reason = one_line(wrong)
        raise UserError(f"torchvision's {name} takes other arguments ({reason}): give them as its "
                        f"options in DATASETS, or {as_files}") from None
    except (OSError, RuntimeError) as error:             # URLError is an OSError
        reason = one_line(error, 80)
        advice = missing_files(kind, folder, split)
        raise UserError(f"{name} could not be downloaded ({reason}): {advice}, or choose --dataset "
                        "shapes, or --dataset folder --dataset_dir with a tree of images") from None
    values = getattr(data, "data", None)
    labels = getattr(data, "targets", getattr(data, "labels", None))
    if not is_uint8_array(values) or np.shape(labels) != (len(values),):
        raise UserError(f"torchvision's {name} does not keep its images as one uint8 array with a "
                        f"label each: {as_files}")
    images = channels_first(values, shape)
    if images is None:
        raise UserError(f"torchvision's {name} has images of shape {tuple(values.shape[1:])}, not "
                        f"{shape}: correct its channels and side in DATASETS")
    labels = torch.as_tensor(labels).long()
    classes = getattr(data, "classes", range(int(labels.max()) + 1))
    return images, labels, [str(kind) for kind in classes]


def takes_download(kind: type) -> bool:
    """Whether a class of torchvision has an argument `download`, or hands others on."""
    parameters = inspect.signature(kind).parameters
    hands_on = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return "download" in parameters or hands_on


def arguments_for(kind: type, split: str, options: dict) -> dict:
    """How a class of torchvision is told which split, train or test, to read: by `train`, or, where
    `split` has this meaning, by `split`."""
    if "split" in inspect.signature(kind).parameters and "split" not in options:
        return {"split": split, **options}
    return {"train": split == "train", **options}


def is_uint8_array(data) -> bool:
    """Whether this is an array of NumPy or a tensor of 8-bit pixels."""
    return isinstance(data, (np.ndarray, Tensor)) and torch.as_tensor(data).dtype == torch.uint8


def channels_first(data, shape: tuple[int, int, int]) -> Tensor | None:
    """Images as uint8 (N, *shape), wherever their channels stand; None if they have another shape.
    """
    images = torch.as_tensor(data)
    channels, height, width = shape
    if images.shape[1:] == (height, width) and channels == 1:
        return images[:, None]
    if images.shape[1:] == (height, width, channels):
        return images.permute(0, 3, 1, 2).contiguous()
    return images if images.shape[1:] == shape else None


def missing_files(kind: type, folder: str, split: str) -> str:
    """Which files to put where for a data set that cannot be downloaded, or what is wrong with one.
    """
    if hasattr(kind, "tgz_md5"):                         # CIFAR and STL10 come as one archive
        path = Path(folder) / Path(kind.url).name
        if path.is_file():
            from torchvision.datasets.utils import calculate_md5
            return f"{path} is damaged (md5 {calculate_md5(path)}, not {kind.tgz_md5}): replace it"
        return f"put {path.name} into {folder}"
    if hasattr(kind, "split_list"):                      # SVHN and USPS: url, file name, md5
        return f"put {kind.split_list[split][1]} into {folder}"
    resources = getattr(kind, "resources", None)
    if isinstance(resources, list) and not hasattr(kind, "url"):     # MNIST and its like
        names = ", ".join(name for name, _ in resources)
        return f"put {names} into {Path(folder) / kind.__name__ / 'raw'}"
    return f"put its files into {folder}"
