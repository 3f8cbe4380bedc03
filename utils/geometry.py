"""What morphed images are: sizes, blocks, and how pixels became entries of D."""

import math
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

from torch import Tensor

from mole.morphing import core_size, morphed_shape, padded_shape, roll
from utils.declaration import fits

Fit = Literal["crop", "pad", "stretch"]
Distribution = Literal["uniform", "normal", "orthogonal"]       # of a core's entries
LONGEST_NAME = 500


def is_name(value) -> bool:
    """Whether a value of another party's file is a text that can be printed in one line."""
    return type(value) is str and len(value) < LONGEST_NAME and value.isprintable()


def blocks_in_words(kappa: int, tile: int) -> str:
    """How a core divides an image."""
    return f"{tile}x{tile} tiles" if tile else f"kappa {kappa}"


class Morphing(NamedTuple):
    """How the images of a training run were morphed, as its record has it."""

    kappa: int | None                   # None with tiles
    tile: int
    morph_distribution: Distribution
    image_padding: int
    delivery_dtype: Literal["float32", "float16", "int8"]
    shuffle_channels: bool


@dataclass(frozen=True)
class Geometry:
    """What morphed images are, as their manifest says: enough to morph others in the same way.

    Raises ValueError for one that is impossible.
    """

    key: str                            # public id of the key
    shape: tuple[int, int, int]         # (α, m, m) that is morphed, padding included
    image_padding: int
    image_fit: Fit
    kappa: int
    tile: int
    morph_distribution: Distribution
    delivery_dtype: Literal["float32", "float16", "int8"]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        alpha, rows, columns = self.shape
        counts = (*self.shape, self.kappa, self.tile + 1, self.image_padding + 1)
        if not all(0 < count < 2**20 for count in counts):
            raise ValueError("a size is impossible")
        if not rows == columns > 2 * self.image_padding:
            raise ValueError("images are not square, or all padding")
        if not (len(self.mean) == len(self.std) == alpha and min(self.std) > 0
                and all(map(math.isfinite, self.mean + self.std))):
            raise ValueError("mean and std are impossible")
        core_size(self.shape, self.kappa, self.tile)     # raises if kappa or tile does not divide

    @property
    def core_side(self) -> int:
        """q, of the core (q, q)."""
        return core_size(self.shape, self.kappa, self.tile)

    @property
    def morphed_shape(self) -> tuple[int, ...]:
        """Of one morphed image as Aug-Conv takes it."""
        return morphed_shape(self.shape, self.tile)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of one morphed image in a file."""
        if not self.tile:
            return self.morphed_shape
        q, rows, columns = self.morphed_shape
        return rows, columns, q

    @property
    def plain_shape(self) -> tuple[int, int, int]:
        """(α, m, m) of the images before they are padded: what a network is built for."""
        return padded_shape(self.shape, -self.image_padding)

    @property
    def blocks(self) -> str:
        """How the core divides an image, in words."""
        return blocks_in_words(self.kappa, self.tile)

    def as_images(self, morphed: Tensor) -> Tensor:
        """Morphed images as images (B, α, m, m), each tile put back in its place."""
        return roll(morphed, self.shape, self.tile)


def from_manifest(manifest: dict, kind: type, **known):
    """A dataclass of the values that a manifest has, each of the annotated type."""
    values = {}
    for field in fields(kind):
        if field.name in known:
            continue
        value = manifest[field.name]
        if isinstance(value, list):
            value = tuple(value)
        if not fits(value, field.type):
            raise ValueError(f"{field.name} is {value!r}")
        values[field.name] = value
    return kind(**values, **known)
