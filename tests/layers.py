"""First layers to test with: real ones by name, and random ones, and images through Aug-Conv."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from mole.aug_conv import AugConv
from mole.first_layer import Convolution, describe
from mole.morphing import core_size, draw_core, morph, padded_shape, secret_generator


@dataclass(frozen=True)
class Case:
    """A first layer, the shape (α, m, m) of its images, and how they are morphed.

    The images bring `image_padding` zeros on each side along when they are morphed.
    """

    layer: nn.Conv2d
    shape: tuple[int, int, int]
    tile: int = 0
    kappa: int = 1
    image_padding: int = 0

    @property
    def morphed_from(self) -> tuple[int, int, int]:
        """The shape of the images with their padding."""
        return padded_shape(self.shape, self.image_padding)

    @property
    def q(self) -> int:
        return core_size(self.morphed_from, self.kappa, self.tile)

    def images(self, count: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(count, *self.shape, generator=generator, dtype=dtype)


def make_layer(*arguments, **options) -> nn.Conv2d:
    """A frozen float64 convolution with weights of a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Conv2d(*arguments, **options, dtype=torch.float64).requires_grad_(False)


# Name: α, β, kernel, stride, padding, more options; the side of the images; the side of the tiles.
REAL = {
    "VGG": (make_layer(3, 8, 3, 1, 1, bias=False), 32, 8),
    "ResNet at 32 pixels": (make_layer(3, 8, 7, 2, 3, bias=False), 32, 8),
    "ResNet at 30 pixels": (make_layer(3, 8, 7, 2, 3, bias=False), 30, 8),
    "MobileNet": (make_layer(3, 8, 3, 2, 1, bias=False), 32, 8),
    "rows by 2, columns by 1": (make_layer(3, 8, 3, (2, 1), 1), 32, 8),
    "ConvNeXt": (make_layer(3, 8, 4, 4), 32, 8),
    "ConvNeXt at 30 pixels": (make_layer(3, 8, 4, 4), 30, 8),
    "AlexNet": (make_layer(3, 8, 11, 4, 2), 32, 8),
    "ViT": (make_layer(3, 8, 16, 16), 32, 16),
    "no padding": (make_layer(3, 8, 3), 20, 5),
    "more padding than the kernel needs": (make_layer(3, 8, 3, 1, 4), 20, 5),
    "dilation 2": (make_layer(3, 8, 3, 1, 2, dilation=2), 20, 5),
    "one channel": (make_layer(1, 8, 3, 1, 1), 28, 7),
    "groups": (make_layer(4, 8, 3, 1, 1, groups=2), 20, 5),
    "one tile": (make_layer(3, 8, 3, 1, 1), 16, 16),
    "5x3, stride 3, at 31 pixels": (make_layer(3, 8, (5, 3), (3, 3), (1, 1)), 31, 6),
    "5x5, stride 3, at 31 pixels": (make_layer(3, 8, 5, 3, 1), 31, 6),
    "same": (make_layer(3, 8, 3, padding="same"), 20, 5),
    "same, of an even kernel": (make_layer(3, 8, (4, 2), padding="same"), 20, 5),
    "valid": (make_layer(3, 8, 5, 2, "valid"), 21, 4),
}


def real_case(name: str, by_tiles: bool = True) -> Case:
    """One of REAL by tiles; or without tiles, on images of at most 16 pixels a side."""
    layer, side, tile = REAL[name]
    if by_tiles:
        return Case(layer, (layer.in_channels, side, side), tile)
    side = min(side, 16)
    return Case(layer, (layer.in_channels, side, side))


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _two(least: int, most: int):
    """A pair of numbers, such as a rectangular kernel's."""
    return st.tuples(st.integers(least, most), st.integers(least, most))


@st.composite
def random_cases(draw, by_tiles: bool, image_padding: bool = True) -> Case:
    """First layers of any geometry that PyTorch takes, images that they take, tiles or kappa."""
    groups = draw(st.sampled_from([1, 1, 2]))
    channels = groups * draw(st.integers(1, 4 // groups))
    stride, dilation, kernel = draw(_two(1, 3)), draw(_two(1, 2)), draw(_two(1, 6))
    padding = draw(st.one_of(_two(0, 4), st.sampled_from(["same", "valid"])))
    if padding == "same":
        stride = 1, 1                                    # PyTorch's condition
    with torch.random.fork_rng():
        torch.manual_seed(draw(st.integers(0, 2**32)))
        layer = nn.Conv2d(channels, groups * draw(st.integers(1, 4)), kernel, stride, padding,
                          dilation, groups, bias=draw(st.booleans()), dtype=torch.float64)
    layer.requires_grad_(False)
    described = describe(layer)
    top, _, left, _ = described.padding
    least = max(3, described.reach[0] + 1 - 2 * top, described.reach[1] + 1 - 2 * left)
    side = draw(st.integers(least, max(least, 14)))
    most = min(2, *described.padding) if image_padding else 0
    case = Case(layer, (channels, side, side), image_padding=draw(st.integers(0, most)))
    if by_tiles:
        step = math.lcm(*stride)
        tile = step * draw(st.integers(1, max(1, 8 // step)))
        return Case(layer, case.shape, tile, 1, case.image_padding)
    entries = math.prod(case.morphed_from)
    kappa = draw(st.sampled_from([k for k in _divisors(entries) if entries // k <= 400]))
    return Case(layer, case.shape, 0, kappa, case.image_padding)


@lru_cache(32)
def draw_pair(q: int, distribution: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A core and its inverse, the latter as exact as the dtype."""
    core = draw_core(q, distribution, secret_generator(q, 0)).double()
    return core.to(dtype), torch.linalg.inv(core).to(dtype)


def through_aug_conv(case: Case, images: Tensor, layer: Convolution | None = None,
                     distribution: str = "orthogonal", order: Tensor | None = None) -> Tensor:
    """Features behind Aug-Conv of the case's layer (or of `layer`), in the dtype of the images."""
    core, inverse = draw_pair(case.q, distribution, images.dtype)
    convolution = describe(layer or case.layer).with_less_padding(case.image_padding)
    aug_conv = AugConv.compose(convolution, inverse, case.morphed_from, order, case.tile)
    padded = F.pad(images, [case.image_padding] * 4)
    features = aug_conv(morph(padded, core, case.tile))
    assert features.dtype == images.dtype
    return features


def shuffle(layer: nn.Conv2d) -> Tensor:
    """An order of a layer's channels."""
    return torch.randperm(layer.out_channels, generator=torch.Generator().manual_seed(3))
