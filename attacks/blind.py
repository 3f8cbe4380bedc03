"""Attack 3, blind: that Aug-Conv hides some convolution is enough to undo it, up to its colours."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.algebra import WINDOW, gram_matrix


class Shared(NamedTuple):
    """What windows of a×a features that share one pixel have in common."""

    pixel: Tensor           # (α, k, a, a): convolved with features it gives that pixel
    first: int              # row, and column, of the first window's last pixel, padding included
    correlations: Tensor    # the first α + 1 canonical ones: α ones, then a gap

    def pixels(self, features: Tensor) -> Tensor:
        """Pixels first, first + stride, ... of each axis, (N, α, n-a+1, n-a+1) float64, up to one
        mixture of colours, from features (N, k, n, n)."""
        return F.conv2d(features.double(), self.pixel)


def shared_pixel(features: Tensor, channels: int = 3, kernel: int = 3, stride: int = 1) -> Shared:
    """Attack 3, blind: pixels of any image, up to one mixture of its α colours, from its features.

    Take features (N, k, n, n), best of random vectors, in windows of a×a positions, which see
    w = s(a-1)+p pixels square. Windows so far apart along both axes that they share just one pixel,
    the corner of both: what is exactly a function of the one window and of the other (canonical
    correlation 1) is that pixel. Windows are as small as allows for ka² ≥ αw²: one position where
    k ≥ αp². It is the subspace method of blind channel identification (Moulines et al., IEEE Trans.
    Signal Processing 43, 1995), with pixels for symbols. With a stride s > 1, every s-th pixel of
    each axis is such a corner.

    Raises ValueError where no windows share just one pixel, the channels are too few, or the
    samples do not fill their dimensions.
    """
    if kernel % stride != 1 % stride:
        raise ValueError(f"with kernel {kernel} and stride {stride} positions share "
                         f"{kernel % stride or stride} pixels square and never one")
    features = features.double()
    values, vectors = torch.linalg.eigh(gram_matrix(features))
    rank = min(channels * kernel ** 2, int((values > 1e-11 * values[-1]).sum()))
    reduced = torch.einsum("nkyx,kr->nryx", features, vectors[:, -rank:])
    a, n, apart = 1, features.shape[-1], (kernel - 1) // stride
    while rank * a * a < channels * (stride * (a - 1) + kernel) ** 2:
        a += 1
        if 2 * a - 1 + apart > n or rank * a * a > WINDOW:
            raise ValueError(f"{rank} independent channels of {n}x{n} are too few to tell "
                             f"{channels} colours apart")
    shift, dimensions = a - 1 + apart, channels * (stride * (a - 1) + kernel) ** 2
    windows = reduced.unfold(2, a, 1).unfold(3, a, 1).permute(0, 2, 3, 1, 4, 5).flatten(3)
    first = windows[:, :-shift, :-shift].flatten(0, 2)
    second = windows[:, shift:, shift:].flatten(0, 2)
    if len(first) < 2 * dimensions:
        raise ValueError(f"{len(first)} pairs of windows are too few for {dimensions} dimensions")

    def whitener(x: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(x.T @ x)
        values, vectors = values[-dimensions:], vectors[:, -dimensions:]
        if values[0] < 1e-14 * values[-1]:
            raise ValueError("the features do not fill the dimensions that they should have")
        return vectors / values.sqrt()

    white = whitener(first)
    left, correlations, _ = torch.linalg.svd((first @ white).T @ second @ whitener(second))
    pixel = (white @ left[:, :channels]).T.view(channels, rank, a, a)
    return Shared(torch.einsum("crab,kr->ckab", pixel, vectors[:, -rank:]),
                  stride * (a - 1) + kernel - 1, correlations[:channels + 1])


def blind_filters(features: Tensor, shared: Shared, kernel: int = 3) -> Tensor:
    """The first layer's filters (k, α, p, p) float64, up to one mixture of colours, of stride 1: by
    regression of features (N, k, n, n) on their pixels."""
    pixels, shift = shared.pixels(features), shared.first
    patches = F.unfold(pixels, kernel).transpose(1, 2).flatten(0, 1)
    inner = pixels.shape[-1] - kernel + 1           # the features whose patch is all known
    known = features[:, :, shift:shift + inner, shift:shift + inner].flatten(2).transpose(1, 2)
    bank = torch.linalg.lstsq(patches, known.double().flatten(0, 1)).solution.T
    return bank.reshape(features.shape[1], -1, kernel, kernel)
