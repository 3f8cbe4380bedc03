"""Which of many images are looked at, and large computations in parts."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

AT_ONCE = 500               # images, for memory
COPIES = 9                  # of each image, by shifted_copies


def in_parts(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """function(images), computed a few hundred images at a time."""
    return torch.cat([function(part) for part in images.split(AT_ONCE)])


def shifted_copies(images: Tensor) -> Tensor:
    """Images (N, α, m, m) and copies shifted by a sixteenth of their side in eight directions,
    (9N, α, m, m).

    A photograph that is shifted a little is as likely a photograph. Border pixels are repeated.
    """
    side = images.shape[-1]
    most = max(1, side // 16)
    wide = F.pad(images, [most] * 4, mode="replicate")
    copies = []
    for down in (0, most, 2 * most):
        for right in (0, most, 2 * most):
            copies.append(wide[..., down:down + side, right:right + side])
    return torch.cat(copies)
