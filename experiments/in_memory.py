"""A delivery made in memory, without files, as the experiments need it.

The same names are to be in utils.delivery and utils.provider; then this file goes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mole.aug_conv import AugConv
from mole.morphing import compose_aug_conv, core_size, morph, secret_generator, usable_core
from utils.delivery import restored, rounded

BLOCK = 500                         # images that are morphed at once


class Key(NamedTuple):
    """The core and its inverse (q, q) float32, and how it divides an image."""

    core: Tensor
    inverse: Tensor
    kappa: int
    tile: int
    morph_distribution: str


class Delivered(NamedTuple):
    """What the developer gets."""

    aug_conv: AugConv
    values: Tensor                  # T as it is delivered: float32, float16 or int8
    scale: float                    # a step of int8 values; 1 for others

    def restored(self) -> Tensor:
        """T as Aug-Conv takes it, float32."""
        return restored(self.values, self.scale)


def draw_key(shape: tuple[int, int, int], kappa: int, tile: int, distribution: str,
             seed: int | None) -> Key:
    """A usable core for images (α, m, m), as gen_morphing_matrix.py draws it."""
    q = core_size(shape, kappa, tile)
    core, inverse, _ = usable_core(q, distribution, secret_generator(seed, purpose=0))
    return Key(core, inverse, kappa, tile, distribution)


def morph_in_blocks(images: Tensor, key: Key) -> Tensor:
    """T of normalised images (N, α, m, m) float32."""
    return torch.cat([morph(block, key.core, key.tile) for block in images.split(BLOCK)])


def deliver_in_memory(images: Tensor, layer: nn.Conv2d, key: Key, dtype: str = "float32",
                      order: Tensor | None = None) -> Delivered:
    """Aug-Conv for a first layer, and normalised images (N, α, m, m) morphed with the same key.

    `order` (β): of Aug-Conv's channels; None leaves them in the layer's order.
    """
    if order is None:
        order = torch.arange(layer.out_channels)
    bias = None if layer.bias is None else layer.bias[order]
    shape = tuple(images.shape[1:])
    aug_conv = AugConv(**compose_aug_conv(layer, key.inverse, shape, order, key.tile), bias=bias)
    morphed = morph_in_blocks(images, key)
    scale = float(morphed.abs().max()) / 127 if dtype == "int8" else 1.0
    return Delivered(aug_conv, rounded(morphed, dtype, scale), scale)
