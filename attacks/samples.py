"""Which of many images are looked at, and large computations in parts."""

from collections.abc import Callable

import torch
from torch import Tensor

AT_ONCE = 500               # images, for memory


def evenly_spaced(count: int, most: int) -> Tensor:
    """Up to `most` of `count` indices (int64), from end to end: images may be sorted by class."""
    return torch.linspace(0, count - 1, min(count, most)).long()


def in_parts(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """function(images), computed a few hundred images at a time."""
    return torch.cat([function(part) for part in images.split(AT_ONCE)])
