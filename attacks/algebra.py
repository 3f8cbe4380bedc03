"""Linear algebra against a linear scheme, in float64: Aug-Conv's output, and what follows from it.

An attack takes only what its adversary holds: the delivery (morphed images T and Aug-Conv) and
public knowledge of networks and images. The truth enters in `score` and nowhere else.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.nn import functional as F

from models.aug_conv import AugConv


def feature_maps(morphed: Tensor, aug_conv: AugConv) -> Tensor:
    """Attack 1, look: Aug-Conv's output (N, β, n, n) float64, its bias left out, for T (N, αm²), or
    (N, q, t, t) by tiles.

    T need not be images: random vectors show the structure of Aug-Conv best, since the pixels of
    what they stand for are independent, unlike those of photographs.
    """
    weight, (beta, *size) = aug_conv.weight, aug_conv.out_shape
    if morphed.ndim != weight.ndim or morphed.shape[1] != len(weight):
        raise ValueError(f"morphed images {tuple(morphed.shape)} and Aug-Conv "
                         f"{tuple(weight.shape)} do not fit each other")
    columns = weight.shape[1] // beta                   # of a channel; 8 at a time, for memory
    return torch.cat([AugConv(part.double(), (part.shape[1] // columns, *size), None,
                              aug_conv.step, aug_conv.offset)(morphed)
                      for part in weight.split(8 * columns, 1)], 1)


def channel_order(features: Tensor, filters: Tensor) -> Tensor:
    """Attack 2, known first layer: `order` (β) int64 with feature channel j = filter order[j].

    The β channels of features (N, β, n, n) span only αp² dimensions, those of the filter bank W
    (β, α, p, p) as a matrix (β, αp²). So the projector onto the span of the features, from their
    Gram matrix, is W·W⁺ with rows and columns permuted, whatever the images are. A row is known by
    its diagonal entry and the sizes of its others in order. Blind to the signs of channels.

    Raises ValueError where the bank has no fewer dimensions than channels: all projectors are 1.
    """
    bank = filters.double().flatten(1)
    rank = int(torch.linalg.matrix_rank(bank, rtol=1e-6))             # the weights are float32
    if features.ndim != 4 or features.shape[1] != len(bank):
        raise ValueError(f"features {tuple(features.shape)} are not of {len(bank)} channels")
    if rank == len(bank):
        raise ValueError(f"{len(bank)} filters span {rank} dimensions: their order does not show "
                         "in second-order statistics")

    def signature(basis: Tensor) -> Tensor:
        projector = (basis @ basis.T).abs()
        return torch.cat([projector.diagonal()[:, None], projector.sort(1).values], 1)

    gram = gram_matrix(features)
    seen, known = torch.linalg.eigh(gram)[1][:, -rank:], torch.linalg.svd(bank)[0][:, :rank]
    cost = torch.cdist(signature(seen), signature(known))
    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])


def deconvolve(features: Tensor, filters: Tensor, padding: int = 1) -> Tensor:
    """The images (N, α, m, m) float64 whose convolution with `filters`, stride 1, fits best.

    Least squares over all of features (N, k, n, n) and filters (k, α, p, p), by the normal
    equations: each patch adds WᵀW at its pixels. As k·n² equations meet αm² unknowns, k may well
    be below αp². Raises ValueError where the filters leave the images undetermined.
    """
    k, channels, p, _ = filters.shape
    n = features.shape[-1]
    m = n + p - 1 - 2 * padding
    if features.shape[1] != k or m < 1:
        raise ValueError(f"filters {tuple(filters.shape)} do not give {tuple(features.shape)}")
    bank = filters.double().flatten(1)
    numbers = torch.arange(1., channels * m * m + 1, dtype=torch.float64).view(1, channels, m, m)
    pixels = F.unfold(numbers, p, padding=padding)[0].T.long()          # (n², αp²), 0: padding
    normal = torch.zeros(channels * m * m + 1, channels * m * m + 1, dtype=torch.float64)
    normal.index_put_((pixels[:, :, None], pixels[:, None, :]),
                      (bank.T @ bank).expand(n * n, -1, -1), accumulate=True)
    target = F.fold(bank.T @ features.double().flatten(2), (m, m), p, padding=padding).flatten(1)
    factor, failed = torch.linalg.cholesky_ex(normal[1:, 1:])
    diagonal = factor.diagonal()
    if failed or diagonal.min() < 1e-7 * diagonal.max():
        raise ValueError(f"{k} filters leave the images undetermined")
    return torch.cholesky_solve(target.T, factor).T.view(-1, channels, m, m)


def match_filters(stolen: Tensor, filters: Tensor) -> Tensor:
    """Which known filter each stolen one is: `order` (k) int64, as in `channel_order`.

    A filter as a matrix (α, p²) keeps its row space under any mixture of colours, and under any
    scale or sign of the channel. So this finds the order where `channel_order` cannot: after a
    repair by scales, or with channels missing. stolen (k, α, p, p), filters (β, α, p, p), k ≤ β.
    """
    def spaces(bank: Tensor) -> Tensor:
        basis = torch.linalg.svd(bank.double().flatten(2), full_matrices=False)[2]
        return (basis.mT @ basis).flatten(1)

    if stolen.shape[1:] != filters.shape[1:] or len(stolen) > len(filters):
        raise ValueError(f"filters {tuple(stolen.shape)} are none of {tuple(filters.shape)}")
    cost = torch.cdist(spaces(stolen), spaces(filters))
    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])


def decoder_from_pairs(plain: Tensor, morphed: Tensor, q: int) -> Tensor:
    """Attack 4, known pairs: an estimate (q, q) float64 of M'⁻¹: blocks (n, q) of T times it are D.

    Blocks of images, q entries each in a row, and their morphed versions are linear equations in
    the columns of M'⁻¹, solved by least squares: exact up to rounding for q blocks or more (in
    general position), the solution of least norm before. Raises ValueError for no such pairs.
    """
    if plain.shape != morphed.shape or plain[:1].numel() % q:
        raise ValueError(f"images {tuple(plain.shape)} and morphed ones {tuple(morphed.shape)} "
                         f"are no pairs in blocks of {q}")
    return torch.linalg.lstsq(morphed.double().reshape(-1, q), plain.double().reshape(-1, q),
                              driver="gelsy").solution


def seed_search(plain: Tensor, morphed: Tensor, draw: Callable[[int], Tensor],
                seeds: Iterable[int]) -> int | None:
    """Attack 5: the first of `seeds` whose core `draw(seed)` (q, q) makes T of D, or None.

    One known pair, of which one block of q entries each, `plain` and `morphed` (q), is enough.
    """
    plain, morphed = plain.double(), morphed.double()
    tolerance = 1e-4 * morphed.norm() / len(morphed) ** 0.5
    for seed in seeds:
        core = draw(seed)
        if core.shape != (len(plain), len(morphed)):
            raise ValueError(f"cores {tuple(core.shape)} do not fit a block of {len(plain)}")
        if ((plain @ core[:, 0].double() - morphed[0]).abs() < tolerance
                and (plain @ core.double() - morphed).abs().max() < tolerance):
            return seed
    return None


def score(recovered: Tensor, truth: Tensor) -> dict[str, float]:
    """Scoring of images (N, α, m, m) with pixels in [0, 1]: PSNR in dB over all, mean SSIM, and
    `exact`, the share of 8-bit values that come back as they were."""
    recovered, truth = (x.clamp(0, 1).double().movedim(1, -1).numpy() for x in (recovered, truth))
    window = min(7, (min(truth.shape[1:3]) - 1) // 2 * 2 + 1)           # skimage's 7, if it fits
    ssim = [structural_similarity(b, a, win_size=window, data_range=1, channel_axis=-1)
            for a, b in zip(recovered, truth, strict=True)]
    with np.errstate(divide="ignore"):          # no error at all: infinite
        psnr = peak_signal_noise_ratio(truth, recovered, data_range=1)
    return {"psnr": float(psnr), "ssim": float(np.mean(ssim)),
            "exact": float(((255 * recovered).round() == (255 * truth).round()).mean())}


def gram_matrix(features: Tensor) -> Tensor:
    """Gram matrix (k, k) float64 of the channels of features (N, k, n, n)."""
    return torch.einsum("nky,nly->kl", *[features.double().flatten(2)] * 2)


def reidentified(images: Tensor, truth: Tensor) -> float:
    """The share of images (N, ...) whose nearest of `truth` (N, ...) is their own."""
    images, truth = images.flatten(1).float(), truth.flatten(1).float()
    lengths, own = truth.square().sum(1), torch.arange(len(images))
    nearest = [(lengths - 2 * part @ truth.T).argmin(1) for part in images.split(2000)]
    return float((torch.cat(nearest) == own).float().mean())
