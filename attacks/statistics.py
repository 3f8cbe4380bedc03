"""Attack 2 where noise was added to Aug-Conv: what public images are like takes it away again."""

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.algebra import deconvolve


def denoised_inverse(weight: Tensor, out_shape: tuple[int, int, int], filters: Tensor, padding: int,
                     morphed: Tensor, public: Tensor) -> Tensor:
    """Attack 2 where noise was added to Aug-Conv: M⁻¹ (αm², αm²) float64, by Wiener's shrinkage.

    Rows of Aug-Conv are features of rows of M⁻¹ and are deconvolved like any, which leaves noise.
    But T·M⁻¹ must have the second moments of images, for which public ones (n, αm²) stand, and T
    those of `morphed` (N, αm²): on the axes of both, that tells the size to be expected of each
    entry of M⁻¹, and what the deconvolution leaves unexplained tells the size of the noise.
    """
    side = out_shape[-1] + filters.shape[-1] - 1 - 2 * padding
    rows, morphed, public = weight.view(-1, *out_shape), morphed.double(), public.double()
    inverse = torch.cat([deconvolve(r, filters, side, 1, padding) for r in rows.split(512)])
    left = rows[:64] - F.conv2d(inverse[:64], filters.double(), padding=padding)
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(16, *out_shape, generator=generator)
    gain = deconvolve(random, filters, side, 1, padding).var()
    noise = gain * left.var() / (1 - len(weight) / weight.shape[1])
    strong, v = torch.linalg.eigh(morphed.T @ morphed / len(morphed))
    likely, q = torch.linalg.eigh(public.T @ public / len(public))
    expected = likely.clamp(min=0) / (len(weight) * strong.clamp(min=1e-12)[:, None])
    return v @ (v.T @ inverse.flatten(1) @ q * expected / (expected + noise)) @ q.T
