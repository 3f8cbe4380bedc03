"""The blind attack. That Aug-Conv hides some convolution is enough to undo it, up to colours."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.algebra import WINDOW, gram_matrix, windows_of


@dataclass(frozen=True)
class SharedPixel:
    """The pixel that two windows of a×a features share, as a linear function of either window."""

    reader: Tensor          # (α, k, a, a) float64: convolved with features it gives that pixel
    first: int              # row and column of the first pixel it gives, padding included
    correlations: Tensor    # the first α + 1 canonical ones: α ones, then a gap

    def read(self, features: Tensor) -> Tensor:
        """Pixels (N, α, n-a+1, n-a+1) float64, up to one mixture of colours, from features
        (N, k, n, n): pixels first, first + stride, ... of each axis."""
        return F.conv2d(features.double(), self.reader)


def find_shared_pixel(features: Tensor, channels: int = 3, kernel: int = 3,
                      stride: int = 1) -> SharedPixel:
    """How to read pixels of any image, up to one mixture of its α colours, from its features.

    Take features (N, k, n, n), best of random vectors, in windows of a×a positions, which see
    w = s(a-1)+p pixels square. Choose windows so far apart along both axes that they share only one
    pixel, a corner of both. What is exactly a linear function of one window and also of the other
    (canonical correlation 1) is that pixel. The windows are as small as ka² ≥ αw² allows: one
    position where k ≥ αp². This is the subspace method of blind channel identification (Moulines et
    al., IEEE Trans. Signal Processing 43, 1995), with pixels for symbols. With a stride s > 1,
    every s-th pixel of each axis is such a corner.

    Raises ValueError where no windows share exactly one pixel, the channels are too few, or the
    samples do not fill their dimensions.
    """
    if stride > 1 and stride >= kernel:
        raise ValueError(f"with kernel {kernel} and stride {stride} positions share no pixel")
    if stride > 1 and kernel % stride != 1:
        raise ValueError(f"with kernel {kernel} and stride {stride} positions share "
                         f"{kernel % stride or stride} pixels square and never one")
    values, vectors = torch.linalg.eigh(gram_matrix(features))
    rank = min(channels * kernel ** 2, int((values > 1e-11 * values[-1]).sum()))
    strongest = vectors[:, -rank:]
    reduced = torch.einsum("nkyx,kr->nryx", features.double(), strongest)
    gap = (kernel - 1) // stride            # positions between two that share one pixel
    positions = _window_side(rank, channels, kernel, stride, features.shape[-1], gap)
    seen_side = stride * (positions - 1) + kernel
    dimensions = channels * seen_side ** 2

    shift = positions - 1 + gap
    windows = windows_of(reduced, positions)
    last = windows.shape[1] - shift
    upper_left = windows[:, :last, :last].flatten(0, 2)
    lower_right = windows[:, shift:, shift:].flatten(0, 2)
    if len(upper_left) < 2 * dimensions:
        raise ValueError(f"{len(upper_left)} pairs of windows are too few for {dimensions} "
                         "dimensions")
    whiten_left = _whitener(upper_left, dimensions)
    whiten_right = _whitener(lower_right, dimensions)
    left, correlations, _ = torch.linalg.svd(
        (upper_left @ whiten_left).T @ lower_right @ whiten_right)
    reader = (whiten_left @ left[:, :channels]).T.view(channels, rank, positions, positions)
    reader = torch.einsum("crab,kr->ckab", reader, strongest)
    return SharedPixel(reader, seen_side - 1, correlations[:channels + 1])


def _window_side(rank: int, channels: int, kernel: int, stride: int, side: int, gap: int) -> int:
    """The least a for which windows of a×a features tell all the pixels that they see."""
    positions = 1
    while rank * positions ** 2 < channels * (stride * (positions - 1) + kernel) ** 2:
        positions += 1
        if 2 * positions - 1 + gap > side or rank * positions ** 2 > WINDOW:
            raise ValueError(f"{rank} independent channels of {side}x{side} are too few to tell "
                             f"{channels} colours apart")
    return positions


def _whitener(samples: Tensor, dimensions: int) -> Tensor:
    """The matrix (d, dimensions) that takes samples (N, d) to unit covariance."""
    values, vectors = torch.linalg.eigh(samples.T @ samples)
    values, vectors = values[-dimensions:], vectors[:, -dimensions:]
    if values[0] < 1e-14 * values[-1]:
        raise ValueError("the features do not fill the dimensions that they should have")
    return vectors / values.sqrt()


def blind_filters(features: Tensor, shared: SharedPixel, kernel: int = 3) -> Tensor:
    """The filters (k, α, p, p) float64 of a first layer with stride 1, up to one mixture of
    colours: by regression of features (N, k, n, n) on the pixels read from them."""
    pixels = shared.read(features)
    patches = F.unfold(pixels, kernel).transpose(1, 2).flatten(0, 1)
    inner = pixels.shape[-1] - kernel + 1               # features whose whole patch is known
    inside = slice(shared.first, shared.first + inner)
    known = features[:, :, inside, inside].flatten(2).transpose(1, 2).flatten(0, 1)
    bank = torch.linalg.lstsq(patches, known.double()).solution.T
    return bank.reshape(features.shape[1], -1, kernel, kernel)
