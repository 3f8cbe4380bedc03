"""Pictures that have the statistics of photographs, drawn from a seed."""

import torch
from torch import Tensor
from torch.nn import functional as F


def draw_photographs(count: int, side: int, seed: int) -> Tensor:
    """Smooth pictures (count, 3, side, side) uint8, mostly grey, partly black and white.

    On average they are lighter at the top and at the right, so that mirrored ones can be told.
    """
    generator = torch.Generator().manual_seed(seed)

    def smooth(channels: int) -> Tensor:
        coarse = torch.rand(count, channels, 4, 4, generator=generator)
        return F.interpolate(coarse, (side, side), mode="bicubic")

    light = smooth(1)
    tint = smooth(3)
    slope = torch.linspace(0.2, -0.2, side)
    images = 1.6 * light ** 1.5 - 0.1 + 0.2 * (tint - 0.5) + slope[:, None] + 0.5 * slope
    return (255 * images.nan_to_num().clamp(0, 1)).round().to(torch.uint8)
