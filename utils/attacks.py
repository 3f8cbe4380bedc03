"""What an adversary gets out of Morphed Learning, as functions on tensors.

An attack takes only what its adversary holds: the delivery (morphed images T and Aug-Conv's weight)
and public knowledge of networks and images. The truth enters in `score` and nowhere
else. All is computed in float64. The scheme is linear from end to end, so nearly every
attack is linear algebra; compare Carlini et al., "Is Private Learning Possible with Instance
Encoding?" (arXiv:2011.05315), on a scheme that fell likewise.
"""

import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.nn import functional as F


def feature_maps(morphed: Tensor, weight: Tensor, out_shape: tuple[int, int, int]) -> Tensor:
    """Attack 1, look: T·C_ac as maps (N, β, n, n) float64, from T (N, αm²), C_ac (αm², βn²).

    T need not be images: random vectors show the structure of Aug-Conv best, since the pixels of
    what they stand for are independent, unlike those of photographs.
    """
    if morphed.ndim != 2 or weight.shape != (morphed.shape[1], math.prod(out_shape)):
        raise ValueError(f"morphed images {tuple(morphed.shape)}, Aug-Conv {tuple(weight.shape)} "
                         f"and features {tuple(out_shape)} do not fit each other")
    morphed = morphed.double()
    return torch.cat([morphed @ w.double() for w in weight.split(8192, 1)], 1).view(-1, *out_shape)


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

    gram = _gram(features)
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


def blind_filters(features: Tensor, channels: int = 3, kernel: int = 3) -> tuple[Tensor, Tensor]:
    """Attack 3, blind: the first layer's filters (k, α, p, p), up to one α×α mixture of colours.

    Take features (N, k, n, n) in windows of a×a positions, which see a+p-1 pixels square. Windows
    a+p-2 apart along both axes share just one pixel, the corner of both. What is exactly a function
    of the one window and of the other (canonical correlation 1) is that pixel. With the pixels
    known so, regression gives the filters. Windows are as small as allows for ka² ≥ α(a+p-1)²: one
    position where k ≥ αp². It is the subspace method of blind channel identification (Moulines et
    al., IEEE Trans. Signal Processing 43, 1995), with pixels for symbols.

    Also returns the first α+1 canonical correlations: α ones, then a gap. Stride 1 is assumed.
    Raises ValueError where the channels are too few or the samples do not fill their dimensions.
    """
    features = features.double()
    values, vectors = torch.linalg.eigh(_gram(features))
    rank = min(channels * kernel ** 2, int((values > 1e-11 * values[-1]).sum()))
    reduced = torch.einsum("nkyx,kr->nryx", features, vectors[:, -rank:])
    a, n = 1, features.shape[-1]
    while rank * a * a < channels * (a + kernel - 1) ** 2:
        a += 1
        if 2 * a + kernel - 2 > n:
            raise ValueError(f"{rank} independent channels of {n}x{n} are too few to tell "
                             f"{channels} colours apart")
    shift, dimensions = a + kernel - 2, channels * (a + kernel - 1) ** 2
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
    pixels = (windows @ (white @ left[:, :channels])).permute(0, 3, 1, 2)
    patches = F.unfold(pixels, kernel).transpose(1, 2).flatten(0, 1)
    inner = pixels.shape[-1] - kernel + 1           # the features whose patch is all known
    known = features[:, :, shift:shift + inner, shift:shift + inner].flatten(2).transpose(1, 2)
    bank = torch.linalg.lstsq(patches, known.flatten(0, 1)).solution.T
    return bank.reshape(-1, channels, kernel, kernel), correlations[:channels + 1]


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


def blind_pixels(features: Tensor, probes: Tensor, channels: int = 3, kernel: int = 3,
                 sweeps: int = 40) -> Tensor:
    """Attack 3 where each position mixes its channels in its own way: (N, α, n-p+1, n-p+1) float64.

    The pixel that positions p-1 apart along both axes share is found as in `blind_filters`, but for
    each pair by itself, from features `probes` (S, k, n, n) of random vectors, S > 2αp², k ≥ αp².
    It comes up to a colour mixture of its own. Whitened over the images that is a rotation, and
    each pixel is turned (orthogonal Procrustes) to be as close as may be to its neighbours, which
    in photographs look alike. So all come up to one mixture, about, with a rim missing.

    Raises ValueError where probes, images or channels are too few.
    """
    rank, reach = channels * kernel ** 2, kernel - 1
    if min(probes.shape[0] - rank, probes.shape[1]) < rank or len(features) < channels:
        raise ValueError(f"{len(probes)} probes of {probes.shape[1]} channels are too few for "
                         f"{rank} dimensions at each position")
    u, s, v = torch.linalg.svd(probes.double().permute(2, 3, 0, 1), full_matrices=False)
    filled = (s > 1e-5 * s.amax())[..., None, :rank]                # fewer at the rim
    u, v = u[..., :rank] * filled, v.mT[..., :rank] / s[..., None, :rank] * filled
    left = torch.linalg.svd(u[:-reach, :-reach].mT @ u[reach:, reach:])[0][..., :channels]
    pixels = torch.einsum("nkyx,yxkc->yxnc", features[:, :, :-reach, :-reach].double(),
                          v[:-reach, :-reach] @ left)
    pixels = pixels @ torch.linalg.inv(torch.linalg.cholesky(pixels.mT @ pixels)).mT

    def turned(pixels: Tensor, target: Tensor) -> Tensor:
        a, _, b = torch.linalg.svd(pixels.mT @ target)
        return pixels @ a @ b

    rows, columns = pixels.shape[:2]
    for y, x in itertools.product(range(rows), range(columns)):     # first from corner to corner
        if y or x:
            near = pixels[y, max(x - 1, 0):x].sum(0) + pixels[max(y - 1, 0):y, x].sum(0)
            pixels[y, x] = turned(pixels[y, x], near)
    black = (torch.arange(rows)[:, None] + torch.arange(columns)) % 2 == 0
    for squares in [black, ~black] * sweeps:                        # then all towards all around
        around = F.pad(pixels, (0, 0, 0, 0, 1, 1, 1, 1))
        around = (around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:])
        pixels[squares] = turned(pixels[squares], around[squares])
    return pixels.permute(2, 3, 0, 1)


def decoder_from_pairs(plain: Tensor, morphed: Tensor, kappa: int) -> Tensor:
    """Attack 4, known pairs: an estimate (q, q) float64 of M'⁻¹, to be given to `unmorph`.

    n unrolled images (n, αm²) and their morphed versions are nκ linear equations in each column of
    M'⁻¹, solved by least squares: exact up to rounding for nκ ≥ q (and images in general position),
    the solution of least norm before. Raises ValueError where the shapes do not fit.
    """
    if plain.shape != morphed.shape or plain.ndim != 2 or plain.shape[1] % kappa:
        raise ValueError(f"images {tuple(plain.shape)} and morphed ones {tuple(morphed.shape)} "
                         f"are no pairs for kappa {kappa}")
    q = plain.shape[1] // kappa
    return torch.linalg.lstsq(morphed.double().reshape(-1, q), plain.double().reshape(-1, q),
                              driver="gelsy").solution


def unmorph(morphed: Tensor, decoder: Tensor) -> Tensor:
    """Unrolled images (N, αm²) float64 from morphed ones and a decoder (q, q)."""
    return (morphed.double().reshape(-1, len(decoder)) @ decoder).view(morphed.shape)


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


def likeness_from_statistics(morphed: Tensor, public: Tensor, kappa: int,
                             components: int = 16) -> Tensor:
    """Attack 6, data only: blurred images (N, αm²) float64 from T and a public sample of the kind.

    An orthogonal M turns the principal axes of the images and keeps their variances, so axes are
    matched by the order of those; random cores of other kinds nearly do so for the few strongest
    axes, once the component that a uniform core adds to all entries of a block alike is taken off.
    Signs come from third moments E[c_i c_j c_k], which must agree with those of the public sample
    (n, αm²). No second-order statistics tell a morphing apart from one that follows a rotation of
    whitened images, so this ends where axes are close in variance.

    Raises ValueError where the samples are too few.
    """
    if min(len(morphed), len(public)) < 2 * components:
        raise ValueError(f"{len(morphed)} morphed and {len(public)} public images are too few for "
                         f"{components} components")
    blocks = morphed.double().view(len(morphed), kappa, -1)
    morphed = (blocks - blocks.mean(2, keepdim=True)).flatten(1)

    def axes(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        centred = x - x.mean(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)            # of the randomised decomposition, which is no secret
            _, s, v = torch.svd_lowrank(centred.float(), q=2 * components, niter=6)
        v, s = v[:, :components].double(), s[:components].double() / len(x) ** 0.5
        c = centred @ v / s
        return c, torch.stack([(c * c[:, i:i + 1]).T @ c for i in range(components)]) / len(x), s, v

    coordinates, seen, _, _ = axes(morphed)
    _, expected, scale, basis = axes(public.double())
    agreement = seen * expected
    signs = torch.randn(500, components, dtype=torch.float64,
                        generator=torch.Generator().manual_seed(0)).sign()
    signs[:, 0] = 1
    for _ in range(20):                     # ascent along one sign after the other, from 500 starts
        for i in range(components):
            rest = signs.clone()
            rest[:, i] = 0
            odd = torch.einsum("rj,jk,rk->r", rest, agreement[i], rest)
            signs[:, i] = torch.where(3 * odd + agreement[i, i, i] < 0, -1.0, 1.0)
    value = torch.einsum("ri,rj,rk,ijk->r", signs, signs, signs, agreement)
    return public.double().mean(0) + coordinates * signs[value.argmax()] * scale @ basis.T


def denoised_inverse(weight: Tensor, out_shape: tuple[int, int, int], filters: Tensor, padding: int,
                     morphed: Tensor, public: Tensor) -> Tensor:
    """Attack 2 where noise was added to Aug-Conv: M⁻¹ (αm², αm²) float64, by Wiener's shrinkage.

    Rows of Aug-Conv are features of rows of M⁻¹ and are deconvolved like any, which leaves noise.
    But T·M⁻¹ must have the second moments of images, for which public ones (n, αm²) stand, and T
    those of `morphed` (N, αm²): on the axes of both, that tells the size to be expected of each
    entry of M⁻¹, and what the deconvolution leaves unexplained tells the size of the noise.
    """
    rows, morphed, public = weight.view(-1, *out_shape), morphed.double(), public.double()
    inverse = torch.cat([deconvolve(r, filters, padding) for r in rows.split(512)])
    left = rows[:64] - F.conv2d(inverse[:64], filters.double(), padding=padding)
    generator = torch.Generator().manual_seed(0)
    gain = deconvolve(torch.randn(16, *out_shape, generator=generator), filters, padding).var()
    noise = gain * left.var() / (1 - len(weight) / weight.shape[1])
    strong, v = torch.linalg.eigh(morphed.T @ morphed / len(morphed))
    likely, q = torch.linalg.eigh(public.T @ public / len(public))
    expected = likely.clamp(min=0) / (len(weight) * strong.clamp(min=1e-12)[:, None])
    return v @ (v.T @ inverse.flatten(1) @ q * expected / (expected + noise)) @ q.T


def repair(weight: Tensor, out_shape: tuple[int, int, int], kind: str, strength: float,
           generator: torch.Generator) -> Tensor:
    """Aug-Conv's weight (αm², βn²) float32 under a repair that was proposed or comes to mind.

    `signs`: random signs of channels. `scales`: also factors, log-normal with deviation `strength`.
    `mixing`: one random β×β matrix, orthogonal at strength 0 and plain normal at 1, mixes the
    channels at all positions; `local_mixing`: another at each position. `channels`: only the first
    `strength` are kept, (αm², strength·n²). `noise`: normal, `strength` times the weight's rms.

    Raises ValueError for any other kind.
    """
    beta, positions = out_shape[0], out_shape[1] * out_shape[2]
    cube = weight.view(len(weight), beta, positions)
    if kind in ("signs", "scales"):
        factor = torch.randn(beta, generator=generator).sign()
        if kind == "scales":
            factor *= (strength * torch.randn(beta, generator=generator)).exp()
        return (cube * factor[:, None]).flatten(1)
    if kind in ("mixing", "local_mixing"):
        count = positions if kind == "local_mixing" else 1
        normal = torch.randn(count, beta, beta, generator=generator)
        mixing = (1 - strength) * torch.linalg.qr(normal)[0] + strength * normal / beta ** 0.5
        mixed = [torch.einsum("lbi,ibc->lci", rows, mixing.expand(positions, -1, -1))
                 if count > 1 else mixing[0].T @ rows for rows in cube.split(256)]
        return torch.cat(mixed).flatten(1)
    if kind == "channels":
        return cube[:, :int(strength)].flatten(1)
    if kind == "noise":
        rms = weight.norm() / weight.numel() ** 0.5
        return weight + strength * rms * torch.randn(weight.shape, generator=generator)
    raise ValueError(f"no repair is named {kind}")


def score(recovered: Tensor, truth: Tensor) -> dict[str, float]:
    """Scoring of images (N, α, m, m) with pixels in [0, 1]: PSNR in dB over all, mean SSIM, exact.

    `exact` is the share of 8-bit values that come back as they were.
    """
    pairs = [(a.clamp(0, 1).permute(1, 2, 0).double().numpy(), b.permute(1, 2, 0).double().numpy())
             for a, b in zip(recovered, truth, strict=True)]
    all_images, all_truths = (np.stack(images) for images in zip(*pairs, strict=True))
    ssim = sum(structural_similarity(b, a, data_range=1, channel_axis=2) for a, b in pairs)
    with np.errstate(divide="ignore"):          # no error at all: infinite
        psnr = peak_signal_noise_ratio(all_truths, all_images, data_range=1)
    return {"psnr": float(psnr),
            "ssim": float(ssim / len(pairs)),
            "exact": float(((255 * all_images).round() == (255 * all_truths).round()).mean())}


def _gram(features: Tensor) -> Tensor:
    """Gram matrix (k, k) float64 of the channels of features (N, k, n, n)."""
    return torch.einsum("nky,nly->kl", *[features.double().flatten(2)] * 2)
