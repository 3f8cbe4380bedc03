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

REACH = 4                           # pixels by which an image is shifted at the most


def largest_shift(stride: int) -> int:
    """By how many features of a layer of this stride images are shifted at the most.

    That is REACH pixels, or one stride where it is more.
    """
    return max(1, REACH // stride)


def shift(maps: Tensor, shifts: Tensor, fill: Tensor | None = None) -> Tensor:
    """Images or features (B, C, n, n), each shifted by its own (rows, columns): `shifts` (B, 2).

    Entry (i, j) of the result is entry (i + rows, j + columns). `fill` (C) is what comes in from
    outside, zeros if none. The result has the dtype and the memory layout of the maps.
    """
    most = int(shifts.abs().max()) if len(shifts) else 0
    count, channels, rows, columns = maps.shape
    padded = torch.zeros(count, channels, rows + 2 * most, columns + 2 * most, dtype=maps.dtype,
                         device=maps.device)
    if fill is not None:
        padded += fill.to(maps).view(1, -1, 1, 1)
    padded[:, :, most:most + rows, most:most + columns] = maps
    shifted = torch.empty_like(maps)
    for i, (down, right) in enumerate((shifts + most).tolist()):
        shifted[i] = padded[i, :, down:down + rows, right:right + columns]
    return shifted


def flip_some(maps: Tensor, flipped: Tensor) -> Tensor:
    """Images or features (B, C, n, n), mirrored left to right where `flipped` (B) is true."""
    return torch.where(flipped.view(-1, 1, 1, 1), maps.flip(3), maps)
