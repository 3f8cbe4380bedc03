"""What the adversary holds, what only the scoring knows, and images between the two forms."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import algebra
from attacks.colours import best_colour_fit
from attacks.samples import in_parts
from attacks.scores import Score, score_images
from mole.aug_conv import AugConv
from utils.attack_reports import UNDER_ATTACK
from utils.examples import evenly_spaced, take_rows
from utils.geometry import Geometry

PUBLIC = 50_000             # public images that are used at most


class View(NamedTuple):
    """All that the adversary holds."""

    geometry: Geometry      # of the delivery
    aug_conv: AugConv | None
    all_morphed: Tensor     # T of all test images, (N, *geometry.morphed_shape) float32
    layer: nn.Conv2d        # the first layer, with the padding of plain images
    public: Tensor          # public images in the shape of T, not morphed
    low: float = 0          # the stored values of public images that are pixels of 0 and of 1
    high: float = 255
    mirrored: AugConv | None = None     # of the mirrored first layer, where it was delivered

    @property
    def morphed(self) -> Tensor:
        """T of the images under attack."""
        return self.all_morphed[evenly_spaced(len(self.all_morphed), UNDER_ATTACK)]

    @property
    def side(self) -> int:
        """The side of plain images."""
        return self.geometry.plain_shape[-1]

    @property
    def block_size(self) -> int:
        """q, the entries of a block that the core morphs."""
        return self.geometry.core_side

    def features_of_morphed(self, morphed: Tensor) -> Tensor:
        """Aug-Conv's output (N, β, n, n) float32 for T, without its bias, as `features_of` has
        none: the two can be compared."""
        features = in_parts(self.aug_conv, morphed)
        if self.aug_conv.bias is None:
            return features
        return features - self.aug_conv.bias[:, None, None]

    def images_of(self, features: Tensor, filters: Tensor) -> Tensor:
        """The images (N, α, m, m) that give these features (N, k, n, n) with these filters."""
        return algebra.deconvolve(features, filters, self.side, self.layer.stride[0],
                                  self.layer.padding[0])

    def features_of(self, images: Tensor, filters: Tensor) -> Tensor:
        """The features (N, k, n, n) of plain images with these filters, without a bias."""
        return F.conv2d(images, filters, None, self.layer.stride, self.layer.padding)


class Truth(NamedTuple):
    """What no adversary has. It is for scoring alone: no attack sees it."""

    order: Tensor           # of Aug-Conv's channels (β)
    pixels: Tensor          # of the images under attack, (N, α, m, m) in [0, 1]
    all_pixels: Tensor      # of all test images, as they are stored
    mean: tuple[float, ...]     # of pixels in [0, 1]: what images are normalised with
    std: tuple[float, ...]
    low: float = 0          # the stored values that are pixels of 0 and of 1
    high: float = 255

    def all_images(self) -> Tensor:
        """All test images, normalised, (N, α, m, m) float64."""
        pixels = as_pixels(self.all_pixels.float(), self.low, self.high)
        return to_normalised(pixels, self.mean, self.std)

    def score(self, images: Tensor, up_to_colour: bool = False) -> Score:
        """Scores normalised images (N, α, m, m) under attack.

        `up_to_colour`: under the best mixture of their colours, which a blind attack leaves open.
        """
        if up_to_colour:
            images = best_colour_fit(images, to_normalised(self.pixels, self.mean, self.std))
        return score_images(to_pixels(images, self.mean, self.std), self.pixels)


def make_truth(order: Tensor, images: Tensor, mean: tuple, std: tuple) -> Truth:
    """Of Aug-Conv's channels and test images (N, α, m, m) as they are stored; `mean`, `std`: of
    their values / 255, as `normalise` takes them."""
    low, high = value_range(images)
    shown = take_rows(images, evenly_spaced(len(images), UNDER_ATTACK)).double()
    mean, std = scale_of_pixels(mean, std, low, high)
    return Truth(order, as_pixels(shown, low, high), images, mean, std, low, high)


def value_range(images: Tensor) -> tuple[float, float]:
    """The stored values that are pixels of 0 and of 1: 0 and 255 for uint8, the least and the
    largest that occur for other types (of arrays)."""
    if images.dtype == torch.uint8:
        return 0, 255
    values = images.numpy()                              # PyTorch has no extremes of uint16
    low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + 1


def as_pixels(values: Tensor, low: float, high: float) -> Tensor:
    """Stored values as pixels: `low` becomes 0 and `high` becomes 1."""
    return (values - low) / (high - low)


def scale_of_pixels(mean: tuple, std: tuple, low: float, high: float) -> tuple[tuple, tuple]:
    """Mean and standard deviation of stored values / 255, as `normalise` takes them, as those of
    pixels."""
    factor = 255 / (high - low)
    return (tuple((m - low / 255) * factor for m in mean), tuple(s * factor for s in std))


def to_plain_images(unmorphed: Tensor, geometry: Geometry) -> Tensor:
    """Plain images (N, α, m, m) from blocks or tiles in the shape of T, not morphed any more.

    Takes away what tiles reach beyond the image, and the zeros that were put around it.
    """
    side = geometry.shape[-1]                           # tiles may reach beyond the image
    images = geometry.as_images(unmorphed)[..., :side, :side]
    return F.pad(images, [-geometry.image_padding] * 4)


def to_blocks(unmorphed: Tensor, view: View) -> Tensor:
    """T, or what was morphed, (N, *T's shape) as blocks (N, κ, q): contiguous ones, or tiles."""
    if view.geometry.tile:
        return tiles_to_blocks(unmorphed)
    return unmorphed.reshape(len(unmorphed), -1, view.block_size)


def from_blocks(blocks: Tensor, view: View) -> Tensor:
    """The inverse of `to_blocks`."""
    if view.geometry.tile:
        blocks = blocks.transpose(1, 2)
    return blocks.reshape(len(blocks), *view.all_morphed.shape[1:])


def tiles_to_blocks(tiles: Tensor) -> Tensor:
    """Tiles (N, q, t, t) as blocks (N, t², q)."""
    return tiles.flatten(2).transpose(1, 2)


def to_pixels(images: Tensor, mean: tuple, std: tuple) -> Tensor:
    """Normalised images (N, α, m, m) to pixels in [0, 1], float64."""
    mean, std = torch.tensor([mean, std], dtype=torch.float64)[:, :, None, None]
    return images * std + mean


def to_normalised(pixels: Tensor, mean: tuple, std: tuple) -> Tensor:
    """The inverse of `to_pixels`."""
    mean, std = torch.tensor([mean, std], dtype=torch.float64)[:, :, None, None]
    return (pixels - mean) / std
