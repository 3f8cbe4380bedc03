"""Images that are arrays of numbers instead of files: any number of channels, up to 32 bits.

A folder holds `train.npy` and `test.npy`, images N × C × H × W, N × H × W × C, or N × H × W (one
channel), and `train_labels.npy` and `test_labels.npy`, whole numbers (N) from 0 on. `classes.txt`,
if it is there, names the classes, one a line. Nothing is loaded that runs code (no pickles), and
nothing is converted: images stay on the disk, and go to float32 batch by batch.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from images.folders import shown
from utils.errors import UserError

DTYPES = ("uint8", "uint16", "int16", "float16", "float32", "float64")
ROWS_AT_ONCE = 256
LARGEST_LABEL = 2**31               # larger ones, such as -1 as uint64, would wrap around in int64


class LabelledArrays(NamedTuple):
    """images (N, C, side, side) of one of DTYPES, mapped from the disk; labels (N) int64."""

    images: Tensor
    labels: Tensor
    classes: list[str]


def read_arrays(folder: Path, split: str) -> LabelledArrays:
    """The images of a split, `train` or `test`.

    Raises UserError if files are missing or damaged, or do not fit each other; if numbers are not
    finite in float32; and if labels are not those of the classes.
    """
    train_file, file = folder / "train.npy", folder / f"{split}.npy"
    dtype, train_dtype = open_array(file).dtype, open_array(train_file).dtype
    if dtype != train_dtype:
        raise UserError(f"{shown(file)} holds {dtype}, but {train_file.name} {train_dtype}: save "
                        "both with the same dtype and scale")
    images = read_array_images(file, array_shape(folder))
    train_labels = read_labels(folder / "train_labels.npy", len(open_array(train_file)))
    classes = read_classes(folder, train_labels)
    labels = read_labels(folder / f"{split}_labels.npy", len(images))
    if labels.max() >= len(classes):
        raise UserError(f"{shown(folder / f'{split}_labels.npy')} has label {labels.max()}, but "
                        f"there are {len(classes)} classes, which are numbered from 0")
    return LabelledArrays(images, torch.from_numpy(labels), classes)


def array_shape(folder: Path) -> tuple[int, int, int]:
    """(C, side, side) of the training images of a folder; reads the header of train.npy alone."""
    path = folder / "train.npy"
    return image_shape_of(path, open_array(path).shape)


def read_array_images(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """A .npy file of images as a tensor (N, *shape) of its own dtype, mapped from the disk.

    shape: (C, side, side) that the images must have. Raises UserError if they have another one,
    if the file is not such an array, or if its numbers are not finite in float32.
    """
    array = open_array(path)
    channels, side, _ = shape
    if channels > 1 and array.shape in ((channels, side, side), (side, side, channels)):
        raise UserError(f"{shown(path)} is one image, but an array of images is needed: save "
                        "array[None]")
    found = image_shape_of(path, array.shape)
    if found != tuple(shape):
        raise UserError(f"{shown(path)} has images of {words(found)}, but {words(shape)} are "
                        "needed (channels, rows, columns)")
    images = torch.from_numpy(array)
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[1:] != found:
        images = images.permute(0, 3, 1, 2)
    require_finite(path, images)
    return images


def image_shape_of(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, side, side) of the images in an array of this shape, its channels first, last or left
    out. Raises UserError if images are not square, or channels cannot be told from rows."""
    if len(shape) not in (3, 4) or 0 in shape:
        raise UserError(f"{shown(path)} is an array of {words(shape)}, but images must be N×C×H×W, "
                        "N×H×W×C, or N×H×W (one channel), and at least one")
    if len(shape) == 3:
        channels, *sides = 1, *shape[1:]
    elif shape[1] == shape[2] == shape[3]:
        raise UserError(f"{shown(path)} is an array of {words(shape)}, whose channels cannot be "
                        "told from rows: pad or crop the images to another side")
    elif shape[1] == shape[2]:
        *sides, channels = shape[1:]
    else:
        channels, *sides = shape[1:]
    if sides[0] != sides[1]:
        raise UserError(f"{shown(path)} is an array of {words(shape)}, whose images are not "
                        "square: crop or pad them")
    return channels, sides[0], sides[1]


def open_array(path: Path) -> np.ndarray:
    """A .npy file of one of DTYPES, mapped into memory: what is read of it later is read then.

    Raises UserError if it is missing, damaged, or holds anything else.
    """
    array = _map(path)
    native = array.dtype.newbyteorder("=")
    if native.name not in DTYPES:
        raise UserError(f"{shown(path)} holds {array.dtype}, but must hold one of "
                        f"{', '.join(DTYPES)}: save array.astype(\"float32\")")
    if array.dtype != native:
        raise UserError(f"{shown(path)} holds numbers in another machine's order of bytes: save "
                        f"array.astype(\"{native.name}\")")
    return array


def read_labels(path: Path, count: int) -> np.ndarray:
    """Labels (count) int64. Raises UserError if they are not whole numbers from 0 on, or more
    or fewer than the images."""
    labels = _map(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"{shown(path)} is an array of {words(labels.shape)} of {labels.dtype}, "
                        "but must hold one whole number for each image")
    if len(labels) != count:
        raise UserError(f"{shown(path)} has {len(labels)} labels, but there are {count} images")
    if labels.min() < 0:
        raise UserError(f"{shown(path)} has label {labels.min()}, but classes are numbered from 0")
    if labels.max() > LARGEST_LABEL:
        raise UserError(f"{shown(path)} has label {labels.max()}, which is no number of a class: "
                        "number the classes from 0 on, and leave out images without one")
    return labels.astype(np.int64)


def read_classes(folder: Path, train_labels: np.ndarray) -> list[str]:
    """The names of the classes: the lines of classes.txt, or "0", "1", ... up to the largest
    training label. Raises UserError if training images lack a class in between."""
    names_file, labels_file = folder / "classes.txt", folder / "train_labels.npy"
    if names_file.exists():
        return read_class_names(names_file)
    labels = np.unique(train_labels)
    if len(labels) < 2:
        raise UserError(f"{shown(labels_file)} has fewer than 2 classes")
    expected = np.arange(len(labels))
    if not np.array_equal(labels, expected):
        raise UserError(f"{shown(labels_file)} has {len(labels)} different labels up to "
                        f"{labels[-1]}: number the classes from 0 on without gaps, or name all of "
                        f"them in {shown(names_file)}")
    return [str(label) for label in expected]


def read_class_names(file: Path) -> list[str]:
    """The lines of a text file, each the name of a class; raises UserError if they are not."""
    try:
        names = file.read_text(encoding="utf-8-sig").splitlines()   # with Windows' mark or without
    except UnicodeDecodeError:
        raise UserError(f"{shown(file)} is not a text in UTF-8: save it as one") from None
    names = [name.strip() for name in names]
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        raise UserError(f"{shown(file)} must name at least 2 classes, one a line, each once, with "
                        "no empty lines between")
    return names


def require_finite(path: Path, images: Tensor):
    """Raises UserError for NaN, infinities, and numbers too large for float32, with the place."""
    if not images.dtype.is_floating_point:
        return
    for first in range(0, len(images), ROWS_AT_ONCE):
        finite = images[first:first + ROWS_AT_ONCE].float().isfinite()
        if finite.all():
            continue
        image, channel, row, column = (~finite).nonzero()[0].tolist()
        value = images[first + image, channel, row, column].item()
        raise UserError(f"{shown(path)} holds {value}, which is not finite in float32, in image "
                        f"{first + image}, channel {channel}, row {row}, column {column} (all "
                        "counted from 0): replace it")


def words(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "no dimensions"


def _map(path: Path) -> np.ndarray:
    """A .npy file mapped into memory, copied on write; nothing in it is run."""
    try:
        return np.lib.format.open_memmap(path, mode="c")
    except FileNotFoundError:
        raise UserError(f"{shown(path)} is missing: save it with numpy.save") from None
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read: {error.strerror or error}") from None
    except Exception:                                    # whatever a hostile header leads to
        raise UserError(f"{shown(path)} is not a whole .npy array of numbers: save it again with "
                        "numpy.save") from None
