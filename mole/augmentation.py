"""Crops and flips, of images and behind Aug-Conv.

A shift of a morphed image is no shift of the image, but a first layer's features can be augmented:

Crops. Features of an image that is shifted by a multiple of the layer's stride are the shifted
features, and what comes in from outside is the layer's bias, as for an image of zeros. A rim
differs: windows that reach over the shifted image's edge to where pixels were cut off, and windows
outside the plain features that see pixels. For a 3×3 kernel at 32 pixels that is at most 12% of the
entries, for a 7×7 kernel of stride 2 at most 44%.

Flips. F(flip(x)) = flip(F'(x)), where F' has the filters mirrored (Convolution.mirrored). The
provider composes a second Aug-Conv, of F', with the same core and channel order.
"""

import torch
from torch import Tensor

MAX_SHIFT = 4                       # pixels by which an image is shifted at most


def largest_shift(stride: int) -> int:
    """By how many strides of a first layer images are shifted at most, along rows or columns.

    That is MAX_SHIFT pixels, or one stride if that is more.
    """
    return max(1, MAX_SHIFT // stride)


def shift(maps: Tensor, offsets: Tensor, fill: Tensor | None = None) -> Tensor:
    """A window of the same size from each image or feature map (B, C, n, n), by its own offset.

    Entry (i, j) of the result is entry (i + dy, j + dx) of the map; `offsets` (B, 2), integers, has
    (dy, dx). Of features, an offset of 1 is a shift of the image by one stride of the first layer.
    `fill` (C) is what lies outside the map, zeros if none; for features behind Aug-Conv, its bias.
    The result has the dtype and the memory layout of the maps.

    Raises ValueError where there is not a pair of integers for each map.
    """
    if offsets.shape != (len(maps), 2) or offsets.is_floating_point():
        raise ValueError(f"offsets must be {len(maps)} pairs of integers, not "
                         f"{tuple(offsets.shape)} of {offsets.dtype}")
    most = int(offsets.abs().max()) if len(offsets) else 0
    count, channels, height, width = maps.shape
    padded = torch.zeros(count, channels, height + 2 * most, width + 2 * most, dtype=maps.dtype,
                         device=maps.device)
    if fill is not None:
        padded += fill.to(maps).view(1, -1, 1, 1)
    padded[:, :, most:most + height, most:most + width] = maps
    shifted = torch.empty_like(maps)
    for i, (top, left) in enumerate((offsets + most).tolist()):
        shifted[i] = padded[i, :, top:top + height, left:left + width]
    return shifted


def flip_some(maps: Tensor, flipped: Tensor) -> Tensor:
    """Images or features (B, C, n, n), mirrored left to right where `flipped` (B) is true."""
    return torch.where(flipped.view(-1, 1, 1, 1), maps.flip(3), maps)
