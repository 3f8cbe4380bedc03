"""Data only: images from morphed ones alone, by what images of the kind are like on average.

All blocks of all images share one core. Whitened by their pooled covariance, morphed blocks are
plain ones under one rotation, whatever the core. So every average that turns along with its block
is seen on both sides, on the morphed one up to that rotation: mean vectors of a position, second
moments between two positions, third moments. The rotation is found by ascent on the agreement
of all such averages, from few axes to all. Second moments at lags as in second-order blind
identification (Belouchrani et al., IEEE Trans. Signal Processing 45, 1997), with the values that
they must have known from public images; the ascent is orthogonal Procrustes with the rotation on
both sides.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

STAGES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)      # axes matched at a time
COMBINATIONS = 16                   # of the moments of pairs of positions, the strongest
AXES = 512                          # that are looked for at most; where there is one block,
THIRD_AXES = 128                    # so many, by
THIRD_BASE = 64                     # third moments with so many


class Whitened(NamedTuple):
    """Blocks (N, κ, q) as mean (q) + white (N, κ, r) * scale (r) @ axes.T (r, q), float32."""

    mean: Tensor
    axes: Tensor
    scale: Tensor
    white: Tensor


class Match(NamedTuple):
    """Rotation (r, r') from public to morphed axes, and the agreement reached."""

    rotation: Tensor
    agreement: float


def images_from_statistics(morphed: Tensor, public: Tensor, orthogonal: bool,
                           mirror: Tensor | None = None) -> Tensor:
    """Plain blocks (N, κ, q) float32 from morphed ones and a public sample (n, κ, q) of the kind.

    `orthogonal`: the core keeps variances, so axes are sought among those of like variance. A
    sample of a kind that is as often mirrored as not gives the images or their mirror images: with
    `mirror`, the permutation (q) that mirrors each block, the better agreement decides. Tiles need
    none, as mirrored tiles stand in another place.

    Raises ValueError where shapes do not fit or the samples are too few.
    """
    if (morphed.ndim != 3 or morphed.shape[1] != public.shape[1]
            or morphed.shape[2] < public.shape[2]):
        raise ValueError(f"morphed blocks {tuple(morphed.shape)} and public ones "
                         f"{tuple(public.shape)} do not fit each other")
    blocks, q = public.shape[1:]
    least = 2 * (q // blocks + 1) if blocks > 1 else 64
    if min(len(morphed), len(public)) < least:
        raise ValueError(f"{len(morphed)} morphed and {len(public)} public images are too few: "
                         f"{least} are needed for blocks of {q}")
    if blocks == 1:                     # a uniform core adds one amount to all entries alike
        morphed = morphed - morphed.mean(2, keepdim=True)
    most = min(q, AXES if blocks > 1 else min(THIRD_AXES, len(morphed) // 4, len(public) // 4))
    known, seen = whitened(public, most), whitened(morphed, most)
    match = match_pairs if blocks > 1 else match_third_moments
    reflection = None
    if mirror is not None:
        reflection = polar((known.axes * known.scale)[mirror].T @ (known.axes / known.scale))
    found = match(known, seen, orthogonal, reflection)
    return known.mean + seen.white @ found.rotation.T * known.scale @ known.axes.T


def whitened(blocks: Tensor, most: int) -> Whitened:
    """The `most` strongest principal axes of all blocks (N, κ, q) together, strongest first."""
    samples = blocks.flatten(0, 1)
    mean = samples.mean(0, dtype=torch.float64).float()
    precise = torch.float64 if samples.shape[1] <= 1024 else torch.float32
    covariance = torch.zeros(len(mean), len(mean), dtype=precise)
    for part in samples.split(16384):
        part = (part.float() - mean).to(precise)
        covariance.addmm_(part.T, part, alpha=1 / len(samples))
    variance, axes = torch.linalg.eigh(covariance)
    variance, axes = variance.flip(0)[:most], axes.flip(1)[:, :most]
    scale = variance.clamp(min=1e-10 * variance[0]).sqrt()
    white = torch.cat([(part.float() - mean) @ (axes / scale).float()
                       for part in blocks.split(2048)])
    return Whitened(mean, axes.float(), scale.float(), white)


def match_pairs(known: Whitened, seen: Whitened, orthogonal: bool,
                reflection: Tensor | None = None) -> Match:
    """The rotation from means of positions and second moments between positions.

    Those of all κ² pairs are combined to the few sums in which public images differ most. For cores
    that keep no variances, axes are sorted by how well other blocks predict them, which is as
    good: sums of products of lagged moments turn as the blocks do.
    """
    (vectors, pairs), (seen_vectors, seen_pairs) = _moments(known.white), _moments(seen.white)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)                # of the randomised decomposition, which is no secret
        weights = torch.svd_lowrank(pairs.flatten(1), min(COMBINATIONS, len(pairs)), niter=6)[0].T
    a, b = (torch.einsum("mp,pij->mij", weights, x) for x in (pairs, seen_pairs))
    keys, seen_keys = known.scale.square(), seen.scale.square()
    basis = seen_basis = torch.eye(len(keys))
    if not orthogonal:
        (keys, basis), (seen_keys, seen_basis) = _by_predictability(a), _by_predictability(b)
        a, b = basis.T @ a @ basis, seen_basis.T @ b @ seen_basis
    anchors = (vectors @ basis).T @ (seen_vectors @ seen_basis)
    both = torch.cat([a, a.mT]), torch.cat([b, b.mT])
    right = both[1].permute(1, 0, 2).flatten(1)                   # (q, 2·m·q)

    def agreement(rotation: Tensor, rows: int) -> Tensor:
        left = both[0][:, :rows, :len(rotation)] @ rotation
        return anchors[:rows] + left.permute(1, 0, 2).flatten(1) @ right.T

    apart = (keys[:, None].log() - seen_keys.log()).square()
    rotation = polar(anchors[:STAGES[0]] * torch.exp(-apart[:STAGES[0]] / (2 * 0.3 ** 2)))
    for rows in [s for s in STAGES if s < len(keys)] + [len(keys)]:
        last = rows == len(keys)
        width = 0.08 if orthogonal and last else 0.3
        window = torch.exp(-apart[:rows] / (2 * width ** 2)) if orthogonal or rows <= 64 else None
        rotation = ascend(agreement, rotation, rows, window, 100 if last else 40)

    def matched(rotation: Tensor) -> Match:             # judged in pixels: strong axes count
        rotation, scale = basis @ rotation @ seen_basis.T, known.scale / known.scale[0]
        left = (pairs - rotation @ seen_pairs @ rotation.T) * scale * scale[:, None]
        off = (vectors - seen_vectors @ rotation.T) * scale
        return Match(rotation, -float(left.square().sum() + off.square().sum()))

    if reflection is None:
        return matched(rotation)
    tried, reflection = [], basis.T @ reflection @ basis
    for _ in range(2):                                # there and back, so both are as refined
        rotation = ascend(agreement, reflection @ rotation, len(rotation), window, 100)
        tried.append(matched(rotation))
    return max(tried, key=lambda match: match.agreement)


def match_third_moments(known: Whitened, seen: Whitened, orthogonal: bool,
                        reflection: Tensor | None = None) -> Match:
    """The rotation of one block (κ = 1) from variances and third moments E[c_i c_j c_k].

    The strongest axes are matched by the order of their variances, which a random core of any kind
    nearly keeps, with signs by greedy ascent; further ones by third moments with those.
    """
    c, d, count = known.white[:, 0], seen.white[:, 0], known.white.shape[-1]
    few, width = min(24, count), 0.03 if orthogonal else 0.1
    spectra = [x.scale.log() - (0 if orthogonal else x.scale[:4].log().mean())
               for x in (known, seen)]
    window = torch.exp(-(spectra[0][:, None] - spectra[1]).square() / (2 * width ** 2))
    expected, observed = (_third(x[:, :few], x[:, :few]) for x in (c, d))
    first = torch.diag(_signs(expected, observed, few))
    starts = [first] if reflection is None else [first, polar(reflection[:few, :few] @ first)]

    def refined(rotation: Tensor, stages: list[int]) -> Match:
        for rows in stages:
            base = min(len(rotation), THIRD_BASE)
            expected = _third(c[:, :rows], c[:, :base])

            def agreement(r: Tensor, rows: int, base=base, expected=expected) -> Tensor:
                return expected @ _third(d, d[:, :r.shape[1]] @ r[:base].T).T

            rotation = ascend(agreement, rotation, rows, window[:rows], 5, tolerance=0.03)
        return Match(rotation, float((agreement(rotation, rows) * rotation).sum()))

    stages = [s for s in STAGES if few <= s < count] + [count]
    tried = [refined(torch.nn.functional.pad(r, (0, count - few)), stages[:3]) for r in starts]
    best = max(tried, key=lambda match: match.agreement)
    return refined(best.rotation, stages[3:]) if stages[3:] else best


def ascend(agreement: Callable[[Tensor, int], Tensor], rotation: Tensor, rows: int,
           window: Tensor | None, sweeps: int, tolerance: float = 1e-3) -> Tensor:
    """`rows` orthonormal rows that agree best, from fewer: R ← the polar factor of agreement(R)."""
    for _ in range(sweeps):
        target = agreement(rotation, rows)
        before, rotation = rotation, polar(target if window is None else target * window)
        if len(before) == rows and (rotation - before).norm() < tolerance * rows ** 0.5:
            break
    return rotation


def polar(x: Tensor) -> Tensor:
    """The matrix with orthonormal rows nearest to x (r, s), r ≤ s: (xxᵀ)^(-1/2) x."""
    x = x.double()
    values, vectors = torch.linalg.eigh(x @ x.T)
    root = vectors / values.clamp(min=1e-14 * values[-1]).sqrt() @ vectors.T
    return (root @ x).float()


def _moments(white: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (κ + κ², q) and matrices (κ², q, q) that turn as the blocks do.

    Means of each position, plain and weighted by the length of each block of the image, which no
    core changes; second moments between positions, less what all positions have in common.
    """
    count, blocks, q = white.shape
    flat = white.flatten(1)
    pairs = torch.zeros(flat.shape[1], flat.shape[1])
    for part in flat.split(4096):
        pairs.addmm_(part.T, part, alpha=1 / count)
    pairs = pairs.view(blocks, q, blocks, q).transpose(1, 2)
    pairs.diagonal(dim1=0, dim2=1).sub_(torch.eye(q)[..., None])
    length = white.square().mean(2).clamp(min=1e-6).log()
    length = (length - length.mean(0)) / length.std(0)
    weighted = (length.T @ flat / count).view(-1, q)
    return torch.cat([white.mean(0), weighted]), pairs.reshape(-1, q, q)


def _by_predictability(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, greatest first, and eigenvectors of the sum of AᵀA + AAᵀ over (m, q, q)."""
    values, vectors = torch.linalg.eigh((moments.mT @ moments + moments @ moments.mT).sum(0))
    return values.flip(0).clamp(min=1e-12), vectors.flip(1)


def _third(x: Tensor, base: Tensor) -> Tensor:
    """Third moments E[x_i b_j b_k], j ≤ k, of samples (N, r) and (N, s): (r, s(s+1)/2), mixed ones
    times √2 so that products of rows are those of the full moments."""
    j, k = torch.triu_indices(base.shape[1], base.shape[1])
    factor, total = torch.where(j == k, 1.0, 2 ** 0.5), torch.zeros(x.shape[1], len(j))
    for part, b in zip(x.split(1024), base.split(1024), strict=True):
        total.addmm_(part.T, b[:, j] * b[:, k] * factor, alpha=1 / len(x))
    return total


def _signs(expected: Tensor, observed: Tensor, count: int) -> Tensor:
    """Signs (count) of axes under which third moments agree best: ascent from 500 random starts."""
    j, k = torch.triu_indices(count, count)
    agreement, product = torch.zeros(count, count, count), expected * observed
    agreement[:, j, k] = product * torch.where(j == k, 1.0, 0.5)
    agreement[:, k, j] = agreement[:, j, k]
    signs = torch.randn(500, count, generator=torch.Generator().manual_seed(0)).sign()
    for _ in range(20):
        for i in range(count):
            rest = signs.clone()
            rest[:, i] = 0
            odd = torch.einsum("rj,jk,rk->r", rest, agreement[i], rest)
            signs[:, i] = torch.where(3 * odd + agreement[i, i, i] < 0, -1.0, 1.0)
    value = torch.einsum("ri,rj,rk,ijk->r", signs, signs, signs, agreement)
    return signs[value.argmax()]
