"""What crosses from provider to developer, written and read: data/delivery/ and data/queries/."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from mole.aug_conv import AugConv
from mole.morphing import core_size, morph, morphed_shape, padded_shape
from parameter import Parameters
from utils.artifacts import Saving, load, load_array, maker, manifest_of, remedy, write_rows
from utils.devices import rank, wait_for_all, world
from utils.memory import require_memory
from utils.settings import UserError, fits
from utils.training import Data

BLOCK = 250             # images that are morphed or read at once: they stay in the cache


@dataclass(frozen=True)
class Geometry:
    """What morphed images are, as their manifest says: enough to morph others in the same way.

    Raises ValueError for one that cannot be.
    """

    key: str                            # public id of the core
    shape: tuple[int, int, int]         # (α, m, m) that is morphed, padding included
    image_padding: int
    image_fit: str
    kappa: int
    tile: int
    morph_distribution: str
    delivery_dtype: Literal["float32", "float16", "int8"]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        alpha, rows, columns = self.shape
        numbers = (*self.shape, self.kappa, self.tile + 1, self.image_padding + 1)
        if not (all(0 < x < 2**20 for x in numbers) and rows == columns > 2 * self.image_padding
                and len(self.mean) == len(self.std) == alpha and min(self.std) > 0
                and all(map(math.isfinite, self.mean + self.std))):
            raise ValueError("there are no such images")
        core_size(self.shape, self.kappa, self.tile)

    @property
    def morphed(self) -> tuple[int, ...]:
        return morphed_shape(self.shape, self.tile)

    def placed(self, morphed: Tensor) -> Tensor:
        """Morphed images as images (B, α, m, m), each tile put back in its place."""
        if self.tile:
            return F.pixel_shuffle(morphed, self.tile)
        return morphed.view(-1, *self.shape)


@dataclass(frozen=True)
class Delivery:
    """A delivery's manifest; its files are read, and checked, when they are asked for."""

    folder: Path
    id: str
    geometry: Geometry
    dataset: str
    classes: tuple[str, ...]
    out_shape: tuple[int, int, int]
    layer: str                          # digest of the first layer that Aug-Conv was composed with
    shuffle_channels: bool
    train_images: int
    test_images: int
    scale: float                        # of int8 images: a step of T
    pixels: str                         # digest of the plain images, as pretrain.py has of its own

    def __post_init__(self):
        counts = (self.train_images, self.test_images, *self.out_shape)
        if not (all(0 < x < 2**31 for x in counts) and len(self.classes) > 1
                and 0 < float(self.scale) < math.inf):
            raise ValueError("there is no such delivery")

    def about(self) -> dict:
        """What a result says of the data."""
        g, (channels, side, _) = self.geometry, self.plain_shape
        return {"dataset": self.dataset, "classes": len(self.classes), "channels": channels,
                "image_size": side, "image_fit": g.image_fit, "train_images": self.train_images,
                "test_images": self.test_images, "kappa": None if g.tile else g.kappa,
                "tile": g.tile, "morph_distribution": g.morph_distribution,
                "image_padding": g.image_padding, "delivery_dtype": g.delivery_dtype,
                "shuffle_channels": self.shuffle_channels, "pixels": self.pixels}

    @property
    def plain_shape(self) -> tuple[int, int, int]:
        """(α, m, m) of the images before they were padded: what a network is built for."""
        return padded_shape(self.geometry.shape, -self.geometry.image_padding)

    def described(self) -> str:
        g = self.geometry
        return (f"delivery of {self.train_images} + {self.test_images} images of {self.dataset}, "
                f"{'x'.join(map(str, self.plain_shape))}: {g.morph_distribution} core, "
                + (f"tiles of side {g.tile}" if g.tile else f"kappa {g.kappa}")
                + f", {g.delivery_dtype}, id {self.id[:12]}")

    def aug_conv(self) -> AugConv:
        def build(content: dict) -> AugConv:
            layer = AugConv(content["weight"], content["out_shape"], content.get("bias"),
                            content["step"], content["offset"])
            blank = layer(torch.zeros(1, *self.geometry.morphed))
            if blank.shape[1:] != self.out_shape or layer.weight.dtype != torch.float32:
                raise ValueError("it is for other images or another first layer than "
                                 "manifest.json says")
            return layer

        numbers = math.prod(self.geometry.morphed) * math.prod(self.out_shape)
        require_memory("tensor", 0 if self.geometry.tile else numbers,
                       purpose="Aug-Conv", advice="compose it with --tile, or for smaller images")
        return load(self.folder / "aug_conv.pt", build)

    def split(self, split: str) -> tuple[Tensor, Tensor]:
        """Morphed images of `train` or `test`, where they lie, and labels (N) int64 in memory."""
        count = self.train_images if split == "train" else self.test_images
        return (morphed_of(self.folder / f"morphed_{split}.npy", self.geometry, count),
                labels_of(self.folder / f"labels_{split}.npy", count, len(self.classes)))

    def data(self) -> Data:
        """Both splits, prepared as Aug-Conv takes them."""
        return Data(*self.split("train"), *self.split("test"), partial(restored, scale=self.scale))


@dataclass(frozen=True)
class Query:
    """The manifest of morphed images to predict on."""

    folder: Path
    geometry: Geometry
    scale: float
    names: tuple[str, ...]
    files: dict

    def __post_init__(self):
        if not (self.names and 0 < float(self.scale) < math.inf):
            raise ValueError("there is no such query")


def morphed_of(path: Path, geometry: Geometry, count: int) -> Tensor:
    """Raises UserError where the file is damaged, of another geometry, or not finite."""
    array = load_array(path, (count, *geometry.morphed), geometry.delivery_dtype)
    if array.is_floating_point() and not all(part.isfinite().all() for part in array.split(BLOCK)):
        raise UserError(f"{path} has values that are not finite: {remedy(path)}")
    return array


def labels_of(path: Path, count: int, classes: int) -> Tensor:
    labels = load_array(path, (count,), "int64")
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(f"{path} has labels beyond its {classes} classes: {remedy(path)}")
    return labels.clone()


def read(kind: type, folder: Path) -> Delivery | Query:
    """What a folder's manifest says; raises UserError where it is missing or makes no sense."""
    manifest = manifest_of(folder)
    try:
        return _of(manifest, kind, folder=folder, geometry=_of(manifest, Geometry))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{folder / 'manifest.json'} is of no {kind.__name__.lower()}, or of an "
                        f"impossible one: run `python {maker(folder)}` again") from None


def _of(manifest: dict, kind: type, **known):
    kinds = {f.name: f.type for f in fields(kind) if f.name not in known}
    values = {name: tuple(x) if isinstance(x := manifest[name], list) else x for name in kinds}
    if not all(map(fits, values.values(), kinds.values())):
        raise ValueError
    return kind(**values, **known)


def read_deliveries(p: Parameters) -> list[Delivery]:
    """The deliveries of --delivery, or the one in data_dir.

    Raises UserError where one network cannot be trained on them all.
    """
    folders = [Path(folder) for folder in p.delivery] or [Path(p.data_dir) / "delivery"]
    deliveries = [read(Delivery, folder) for folder in folders]
    first = deliveries[0]
    for d in deliveries[1:]:
        for what, own, its in (("another first layer", d.layer, first.layer),
                               ("other classes", d.classes, first.classes),
                               ("other images", d.plain_shape, first.plain_shape)):
            if own != its:
                raise UserError(f"{d.folder} is for {what} than {first.folder}: one network needs "
                                "the same")
    if len(deliveries) > 1 and any(d.shuffle_channels for d in deliveries):
        raise UserError("several deliveries need their channels in the same order: run `python "
                        "gen_augconv.py --shuffle_channels no` for each")
    return deliveries


def rounded(morphed: Tensor, dtype: str, scale: float) -> Tensor:
    """T as it is delivered: float32 and float16 as they are, int8 in steps of `scale`."""
    if dtype == "int8":
        return (morphed / scale).round().clamp(-127, 127).to(torch.int8)
    return morphed.to(getattr(torch, dtype))


def restored(delivered: Tensor, scale: float) -> Tensor:
    """T as Aug-Conv takes it, float32."""
    return delivered.float() * scale if delivered.dtype == torch.int8 else delivered.float()


def standardiser(train: Tensor, scale: float) -> Callable[[Tensor], Tensor]:
    """Brings each entry of T to mean 0 and deviation 1 over the training images.

    A uniform core adds a large common component to every entry. Any developer can take it away.
    """
    total = squares = torch.zeros(train.shape[1:], dtype=torch.float64)
    for part in train.split(BLOCK):
        total = total + restored(part, scale).double().sum(0)
    mean = total / len(train)
    for part in train.split(BLOCK):
        squares = squares + (restored(part, scale).double() - mean).square().sum(0)
    factor = 1 / (squares / (len(train) - 1)).sqrt().clamp_min(1e-12)
    return lambda x: ((x - mean.to(x.device)) * factor.to(x.device)).float()


def common_scale(sources: list[Callable], core: Tensor, geometry: Geometry) -> float:
    """The step of int8 images: 1/127 of the largest |T| of all blocks of the sources; others have
    none, 1."""
    if geometry.delivery_dtype != "int8":
        return 1.0
    largest = torch.zeros((), device=core.device)
    for images in sources:
        for _, t in _morphed(images, core, geometry, "scaling"):
            largest = torch.maximum(largest, t.abs().max())
    if world() > 1:
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    return max(largest.item(), 1e-30) / 127


def deliver(new: Saving, name: str, images: Callable, core: Tensor, geometry: Geometry,
            scale: float):
    """Morphs images, a block at a time, into rows of a .npy file that `new` saves.

    len(images) of them; `images[slice]` gives normalised, padded ones (B, α, m, m). The processes
    of torchrun share the blocks.
    """
    shape, dtype = (len(images), *geometry.morphed), np.dtype(geometry.delivery_dtype)
    if rank() == 0:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False,
                  "shape": shape}
        new.save(name, lambda file: np.lib.format.write_array_header_1_0(file, header))
    wait_for_all()
    for first, t in _morphed(images, core, geometry, f"morphing, {name}"):
        write_rows(new.folder / name, first, rounded(t, geometry.delivery_dtype, scale))
    wait_for_all()


def _morphed(images, core: Tensor, geometry: Geometry, what: str):
    """This process's blocks of T, float32, each with its first row."""
    for first in tqdm(range(0, len(images), BLOCK)[rank()::world()], desc=what, leave=False,
                      disable=rank() > 0 or None):
        yield first, morph(images[first:first + BLOCK].to(core.device), core, geometry.tile)
