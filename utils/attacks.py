"""What an adversary gets out of Morphed Learning, as functions on tensors.

An attack takes only what its adversary holds: the delivery (morphed images T and Aug-Conv's weight)
and public knowledge of networks and images. The truth enters in `score`, `best_colour_fit` and
nowhere else. All is computed in float64. The scheme is linear from end to end, so nearly every
attack is linear algebra; compare Carlini et al., "Is Private Learning Possible with Instance
Encoding?" (arXiv:2011.05315), on a scheme that fell likewise.
"""

import itertools
import math
from collections.abc import Callable, Iterable

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
    rank = int(torch.linalg.matrix_rank(bank))
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


def colour_lattice(images: Tensor, mean: Iterable[float], std: Iterable[float]) -> Tensor:
    """The α×α matrix X that takes blind colours to true ones: `einsum("nchw,cd->ndhw", z, X)`.

    No statistics of images are needed. Pixels were whole numbers of 0..255, so those of blind
    images z (N, α, m, m), any mixture of normalised ones, lie on a lattice. Its basis is read off
    the smallest differences of neighbours, in the metric in which equal neighbours scatter evenly.
    A colour is then a whole combination of the basis; published normalisation (x/255 - mean)/std
    tells which, as it leaves a fraction of its own in each colour and a range of 0..255.

    Raises ValueError where the images are too noisy (below some 70 dB) or no such lattice.
    """
    mean, std = (torch.tensor(list(x), dtype=torch.float64) for x in (mean, std))
    images, channels = images.double(), images.shape[1]
    some = images[:64]                      # enough for steps of every kind
    d = torch.cat([_pixels(some.diff(dim=2)), _pixels(some.diff(dim=3))])
    metric = d.T @ d / len(d)
    if not torch.linalg.det(metric) > 0:
        raise ValueError("the images have fewer colours than channels")
    floor = 1e-14 * metric
    for _ in range(10):                     # towards the scatter of the neighbours that are equal
        white = torch.linalg.inv(torch.linalg.cholesky(metric + floor)).T
        size = (d @ white).norm(dim=1)
        equal = d[size <= size.kthvalue(len(size) // 200 + 1).values]
        metric = equal.T @ equal / len(equal)
    size, order = (d @ white).norm(dim=1).sort()
    d = d[order]
    w = d @ white
    small = size[:len(size) // 4].clamp(min=1)
    radius = small[(small[1:] / small[:-1]).argmax() + 1] / 2
    basis = w[:0]
    for _ in range(channels):               # the shortest step that is off those found so far
        whole = (w @ torch.linalg.pinv(basis)).round() if len(basis) else w[:, :0]
        centre = w[((w - whole @ basis).norm(dim=1) > 2 * radius).int().argmax()]
        for _ in range(4):
            centre = w[(w - centre).norm(dim=1) < radius].mean(0)
        basis = torch.cat([basis, centre[None]])
    if not torch.linalg.det(basis).abs() > 1e-6:
        raise ValueError("the colours are on no lattice: too noisy, or not of 8 bits")
    steps = white @ torch.linalg.inv(basis)                             # d @ steps is whole
    for reach in torch.linspace(math.log(1.1 * basis.norm(dim=1).max()), math.log(size[-1]), 30):
        near = d[:int((size <= reach.exp()).sum())]
        whole = near @ steps
        near, whole = (x[((whole - whole.round()).abs() < 0.3).all(1)] for x in (near, whole))
        steps = torch.linalg.lstsq(near, whole.round()).solution

    coordinates = _pixels(images) @ steps
    turns = torch.exp(2j * math.pi * coordinates).mean(0)
    if not turns.abs().min() > 0.5:
        raise ValueError("the colours are on no lattice: too noisy, or not of 8 bits")
    combinations = torch.tensor([c for c in itertools.product(range(-3, 4), repeat=channels)
                                 if any(c)], dtype=torch.float64)
    chosen = []
    for centre in 255 * mean:
        offset = combinations @ turns.angle() / (2 * math.pi) + centre
        likely = combinations[(offset - offset.round()).abs() < 0.05]
        low, high = (coordinates @ likely.T + centre).aminmax(dim=0)
        spread = torch.where((low > -0.5) & (high < 255.5), high - low, -1)
        if not len(likely) or spread.max() < 0:
            raise ValueError("no combination of the lattice's steps is a colour of 0..255")
        chosen.append(likely[spread.argmax()])
    return steps @ torch.stack(chosen, 1) / (255 * std)


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


def best_colour_fit(recovered: Tensor, truth: Tensor) -> Tensor:
    """Scoring: images (N, α, m, m) under the one α×α mixture that brings them nearest the truth."""
    mixture = torch.linalg.lstsq(_pixels(recovered), _pixels(truth.double())).solution
    return torch.einsum("nchw,cd->ndhw", recovered, mixture)


def score(recovered: Tensor, truth: Tensor) -> dict[str, float]:
    """Scoring of images (N, α, m, m) with pixels in [0, 1]: PSNR in dB over all, mean SSIM, exact.

    `exact` is the share of 8-bit values that come back as they were.
    """
    pairs = [(a.clamp(0, 1).permute(1, 2, 0).double().numpy(), b.permute(1, 2, 0).double().numpy())
             for a, b in zip(recovered, truth, strict=True)]
    all_images, all_truths = (torch.stack([torch.from_numpy(x) for x in xs]).numpy()
                              for xs in zip(*pairs, strict=True))
    ssim = sum(structural_similarity(b, a, data_range=1, channel_axis=2) for a, b in pairs)
    return {"psnr": float(peak_signal_noise_ratio(all_truths, all_images, data_range=1)),
            "ssim": float(ssim / len(pairs)),
            "exact": float(((255 * all_images).round() == (255 * all_truths).round()).mean())}


def _gram(features: Tensor) -> Tensor:
    """Gram matrix (k, k) float64 of the channels of features (N, k, n, n)."""
    return torch.einsum("nky,nly->kl", *[features.double().flatten(2)] * 2)


def _pixels(images: Tensor) -> Tensor:
    """Images (N, α, h, w) as a list of colours (N·h·w, α)."""
    return images.movedim(1, -1).flatten(0, 2)
