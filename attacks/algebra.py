"""Linear algebra against a linear scheme, in float64: Aug-Conv's output, and what follows from it.

An attack takes only what its adversary holds: the delivery (morphed images T and Aug-Conv) and
public knowledge of networks and images. The truth enters in `score` and nowhere else.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from scipy.linalg import LinAlgError, cho_solve_banded, cholesky_banded
from scipy.optimize import linear_sum_assignment
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn
from torch.nn import functional as F

from mole.aug_conv import AugConv

WINDOW = 1024                       # features of a window up to which channels are told apart


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


def filter_bank(layer: nn.Conv2d, a: int = 1) -> Tensor:
    """What a×a neighbouring features see: (βa², α, w, w) float64, w pixels square, block Toeplitz.

    The layer's response to each of these pixels, so groups and dilation need no more thought; for
    a = 1 its filters. Raises ValueError where the layer is not square.
    """
    if any(len({*x}) > 1 for x in (layer.kernel_size, layer.stride, layer.dilation, layer.padding)):
        raise ValueError("the attacks are written for square first layers")
    alpha, width = layer.in_channels, layer.dilation[0] * (layer.kernel_size[0] - 1) + 1
    width += layer.stride[0] * (a - 1)
    pixels = torch.eye(alpha * width ** 2, dtype=torch.float64).view(-1, alpha, width, width)
    seen = F.conv2d(pixels, layer.weight.detach().double(), None, layer.stride, 0, layer.dilation,
                    layer.groups)
    return seen.flatten(1).T.reshape(-1, alpha, width, width)


def channel_order(features: Tensor, layer: nn.Conv2d) -> Tensor:
    """Attack 2, known first layer: `order` (β) int64 with feature channel j = filter order[j].

    The βa² features of a×a positions span only the dimensions of the filter bank W of such a
    window, fewer than they are for an a that is large enough; in the paper a = 1, as β > αp². So
    the projector onto the span of the features (N, β, n, n), from their Gram matrix, is W·W⁺ with
    its channels permuted, whatever the images are. A channel is known by its own a²×a² block and by
    the sizes of its others in order. Blind to the signs of channels.

    Raises ValueError where windows have no fewer dimensions than features: all projectors are 1.
    """
    beta, n = layer.out_channels, features.shape[-1]
    if features.ndim != 4 or features.shape[1] != beta:
        raise ValueError(f"features {tuple(features.shape)} are not of {beta} channels")
    for a in range(1, n):
        bank = filter_bank(layer, a).flatten(1)
        rank = int(torch.linalg.matrix_rank(bank, rtol=1e-6))         # the weights are float32
        if rank < len(bank) or beta * (a + 1) ** 2 > WINDOW:
            break
    windows = features.unfold(2, a, 1).unfold(3, a, 1).permute(0, 2, 3, 1, 4, 5).flatten(3)
    windows = windows.flatten(0, 2).double()
    if rank == len(bank) or len(windows) < rank:
        raise ValueError(f"{beta} filters span {rank} dimensions in windows of {a}x{a}: their "
                         "order does not show in second-order statistics")

    def signature(basis: Tensor) -> Tensor:
        blocks = (basis @ basis.T).view(beta, a * a, beta, a * a)
        own = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).flatten(1)
        return torch.cat([own.abs(), blocks.norm(dim=(1, 3)).sort(1).values], 1)

    seen, known = torch.linalg.eigh(windows.T @ windows)[1][:, -rank:], torch.linalg.svd(bank)[0]
    return assigned(signature(seen), signature(known[:, :rank]))


def order_from_likeness(features: Tensor, expected: Tensor, sweeps: int = 30) -> Tensor:
    """Attack 2 where a window has no fewer pixels than features: `order` (β) from public images.

    `expected` (n, β, ...) are the first layer's features of public images of the kind. Channels are
    told by mean, deviation and correlations in order of size; then by their correlations with the
    channels that are assigned so far.
    """
    if features.shape[1] != expected.shape[1]:
        raise ValueError(f"features {tuple(features.shape)} are not of the expected "
                         f"{expected.shape[1]} channels")

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.double().transpose(0, 1).flatten(1)
        deviation, mean = torch.std_mean(x, dim=1)
        return torch.stack([mean / deviation, deviation.log()], 1), torch.corrcoef(x)

    (own, seen), (likely, known) = moments(features), moments(expected)
    order = assigned(torch.cat([own, seen.sort(1).values], 1),
                     torch.cat([likely, known.sort(1).values], 1))
    for _ in range(sweeps):
        order = assigned(torch.cat([own, seen], 1), torch.cat([likely, known[:, order]], 1))
    return order


def deconvolve(features: Tensor, filters: Tensor, side: int, stride: int = 1,
               padding: int = 1) -> Tensor:
    """The images (N, α, side, side) float64 whose convolution with `filters` fits best.

    Least squares over all of features (N, k, n, n) and filters (k, α, p, p). As k·n² equations meet
    αm² unknowns, k may well be below αp². The normal matrix couples pixels that share a patch, so
    it is a band; of what no feature tells, such as a rim that the stride leaves out, the solution
    of least size is taken. Raises ValueError where the filters are zero or do not fit.
    """
    k, alpha, p, _ = filters.shape
    n = (side + 2 * padding - p) // stride + 1
    if tuple(features.shape[1:]) != (k, n, n):
        raise ValueError(f"filters {tuple(filters.shape)} do not give {tuple(features.shape)} of "
                         f"images of side {side}")
    bank, unfold = filters.double().flatten(1), {
        "kernel_size": p, "padding": padding, "stride": stride}
    numbers = torch.arange(1., alpha * side * side + 1, dtype=torch.float64)
    numbers = numbers.view(1, side, side, alpha).permute(0, 3, 1, 2)    # near pixels, near numbers
    pixels = F.unfold(numbers, **unfold)[0].T.long()                    # (n², αp²), 0: padding
    wide = alpha * (side * (min(p, side) - 1) + min(p, side))
    band = torch.zeros(wide, alpha * side * side + 1, dtype=torch.float64)
    for some in pixels.split(max(1, 2 ** 22 // pixels.shape[1] ** 2)):
        apart = some[:, :, None] - some[:, None, :]
        kept = (apart >= 0) & (some[:, None, :] > 0)
        values = (bank.T @ bank).expand(len(some), -1, -1)[kept]
        band.index_put_((apart[kept], some[:, None, :].expand_as(apart)[kept]), values, True)
    target = F.fold(bank.T @ features.double().flatten(2), (side, side), **unfold)
    band[0] += 1e-12 * band[0].max()
    try:
        factor = cholesky_banded(band[:, 1:].numpy(), overwrite_ab=True, lower=True)
    except LinAlgError:
        raise ValueError(f"{k} filters leave the images undetermined") from None
    images = cho_solve_banded((factor, True), target.permute(2, 3, 1, 0).flatten(0, 2).numpy())
    return torch.from_numpy(images).view(side, side, alpha, -1).permute(3, 2, 0, 1).contiguous()


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


def assigned(rows: Tensor, columns: Tensor) -> Tensor:
    """For each of `rows` (k, d) the one of `columns` (b, d), b ≥ k, that it is given: one each, all
    as near as may be; (k) int64."""
    cost = torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist")     # exact
    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])


def gram_matrix(features: Tensor) -> Tensor:
    """Gram matrix (k, k) float64 of the channels of features (N, k, n, n)."""
    return torch.einsum("nky,nly->kl", *[features.double().flatten(2)] * 2)


def reidentified(images: Tensor, truth: Tensor) -> float:
    """The share of images (N, ...) whose nearest of `truth` (N, ...) is their own."""
    images, truth = images.flatten(1).float(), truth.flatten(1).float()
    lengths, own = truth.square().sum(1), torch.arange(len(images))
    nearest = [(lengths - 2 * part @ truth.T).argmin(1) for part in images.split(2000)]
    return float((torch.cat(nearest) == own).float().mean())
