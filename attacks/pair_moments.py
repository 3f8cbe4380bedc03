"""The rotation that the core makes of blocks, from moments between blocks (κ > 1, and tiles).

All blocks of an image turn alike. So mean blocks of a position and second moments between two
positions are seen on both sides, up to the rotation. Second moments at lags identify sources as in
second-order blind identification (Belouchrani et al., IEEE Trans. Signal Processing 45, 1997); here
their values are known from public images. The ascent is orthogonal Procrustes with the rotation on
both sides, from few axes to all, or AXES. Several starts go as far as SEARCH_AXES, which takes
seconds; what looks best goes on to the end, which takes a minute where there are many.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.whitening import Whitened, polar

AXES = 512                              # that are looked for at most
SEARCH_AXES = 128                       # that each start looks for
STAGES = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)     # axes matched at a time
COMBINATIONS = 16                       # of the moments of pairs of positions, the strongest
STARTS = ((4, 0.3), (8, 0.3), (16, 0.3), (4, 1.0), (8, 1.0), (8, 0.1))      # axes, window
WINDOWED_AXES = 64                      # further axes have no window, but for orthogonal cores
COMPLETING_WINDOW = 0.3                 # from SEARCH_AXES on
LAST_WINDOW = 0.08                      # of orthogonal cores, once all are looked for
SWEEPS, LAST_SWEEPS, TOLERANCE = 40, 100, 1e-3


@dataclass(frozen=True)
class Moments:
    """What turns as the blocks do: vectors (v, r) and, of pairs of positions, matrices (κ², r, r).
    """

    vectors: Tensor
    pairs: Tensor


@dataclass(frozen=True)
class Problem:
    """Both sides on axes whose order says which may match."""

    anchors: Tensor             # agreement of vectors (r, r)
    public: Tensor              # combinations of moments of public blocks, (m, r, r)
    morphed: Tensor             # of morphed ones
    apart: Tensor               # squared differences of the axes' keys (r, r)
    orthogonal: bool

    def agreement(self, rotation: Tensor, rows: int) -> Tensor:
        """How well each public axis (rows) agrees with each morphed one (r) under a rotation."""
        left = self.public[:, :rows, :len(rotation)] @ rotation
        right = self.morphed.permute(1, 0, 2).flatten(1)
        return self.anchors[:rows] + left.permute(1, 0, 2).flatten(1) @ right.T

    def window(self, rows: int, width: float) -> Tensor | None:
        """Weights (rows, r) of the pairs of axes that may match; None for all alike."""
        last = rows == len(self.apart)
        if self.orthogonal and last:
            width = min(width, LAST_WINDOW)
        elif not self.orthogonal and rows > WINDOWED_AXES:
            return None
        return torch.exp(-self.apart[:rows] / (2 * width ** 2))


class Matcher:
    """Public and morphed blocks, (N, κ, q) each, and the rotations that may bring them together.

    `flip` (r, r): what mirroring does to the public axes, if blocks can be mirrored in place.
    """

    def __init__(self, public: Whitened, morphed: Whitened, orthogonal: bool, flip: Tensor | None):
        self.scale = public.scale
        self.flip = flip
        self.public_moments = describe_moments(public.white)
        self.morphed_moments = describe_moments(morphed.white)
        self.basis, self.morphed_basis, self.problem = pose(
            public, morphed, self.public_moments, self.morphed_moments, orthogonal)
        self.searched = min(SEARCH_AXES, len(self.problem.apart))

    def rotations(self) -> Iterator[list[Tensor]]:
        """The rotations (r, r) that several starts lead to, one start at a time: of rank
        SEARCH_AXES, or whole where there are not more axes. With `flip` they may give mirror
        images."""
        starts = [(axes, width) for axes, width in STARTS if axes <= self.searched]
        if not starts:                                   # blocks of very few entries
            starts = [(self.searched, width) for width in (0.3, 1.0)]
        for axes, width in starts:
            yield [self.on_axes(search(self.problem, axes, width, self.searched))]

    def complete(self, rotation: Tensor) -> Tensor:
        """The rotation (r, r) of all axes from one of `rotations`; with `flip`, the better of it
        and the mirrored one."""
        start = (self.basis.T @ rotation @ self.morphed_basis)[:self.searched]
        flip = None
        if self.flip is not None:
            flip = self.basis.T @ self.flip @ self.basis
        found = [self.on_axes(rotation) for rotation in grow_to_all(self.problem, start, flip)]
        return max(found, key=self.agreement_in_pixels)

    def on_axes(self, rotation: Tensor) -> Tensor:
        """A rotation of the problem's bases, or its first rows, as one of the principal axes."""
        return self.basis[:, :len(rotation)] @ rotation @ self.morphed_basis.T

    def agreement_in_pixels(self, rotation: Tensor) -> float:
        """How well all moments agree under a rotation, where strong axes count as in pixels."""
        weights = self.scale / self.scale[0]
        turned = rotation @ self.morphed_moments.pairs @ rotation.T
        pairs = (self.public_moments.pairs - turned) * weights * weights[:, None]
        turned = self.morphed_moments.vectors @ rotation.T
        vectors = (self.public_moments.vectors - turned) * weights
        return -float(pairs.square().sum() + vectors.square().sum())


def describe_moments(white: Tensor) -> Moments:
    """Moments of white blocks (N, κ, r).

    Vectors are means of each position, plain and weighted by the length of each block of the image,
    which no core changes. Matrices are second moments between positions, less what all positions
    have in common.
    """
    count, blocks, axes = white.shape
    flat = white.flatten(1)
    pairs = torch.zeros(flat.shape[1], flat.shape[1])
    for part in flat.split(4096):
        pairs.addmm_(part.T, part, alpha=1 / count)
    pairs = pairs.view(blocks, axes, blocks, axes).transpose(1, 2)
    pairs.diagonal(dim1=0, dim2=1).sub_(torch.eye(axes)[..., None])
    length = white.square().mean(2).clamp(min=1e-6).log()
    # A block that is the same in all images, such as a black border, has no spread.
    length = (length - length.mean(0)) / length.std(0).clamp(min=1e-6)
    weighted = (length.T @ flat / count).view(-1, axes)
    return Moments(torch.cat([white.mean(0), weighted]), pairs.reshape(-1, axes, axes))


def pose(public: Whitened, morphed: Whitened, public_moments: Moments, morphed_moments: Moments,
         orthogonal: bool) -> tuple[Tensor, Tensor, Problem]:
    """Bases (r, r) of the axes on both sides, and the problem on them.

    The moments of all κ² pairs are combined to the few sums in which public images differ most.
    Orthogonal cores keep the variances of axes. For others, axes are sorted by how well other
    blocks predict them: sums of products of lagged moments turn as the blocks do.
    """
    combined, morphed_combined = combine(public_moments.pairs, morphed_moments.pairs)
    basis = morphed_basis = torch.eye(len(public.scale))
    keys, morphed_keys = public.scale.square(), morphed.scale.square()
    if not orthogonal:
        keys, basis = by_predictability(combined)
        morphed_keys, morphed_basis = by_predictability(morphed_combined)
        combined = basis.T @ combined @ basis
        morphed_combined = morphed_basis.T @ morphed_combined @ morphed_basis
    anchors = (public_moments.vectors @ basis).T @ (morphed_moments.vectors @ morphed_basis)
    apart = (keys[:, None].log() - morphed_keys.log()).square()
    problem = Problem(anchors, torch.cat([combined, combined.mT]),
                      torch.cat([morphed_combined, morphed_combined.mT]), apart, orthogonal)
    return basis, morphed_basis, problem


def combine(pairs: Tensor, morphed_pairs: Tensor) -> tuple[Tensor, Tensor]:
    """The few combinations of moments (κ², r, r) that differ most in public images, (m, r, r)."""
    with torch.random.fork_rng(devices=[]):
        # Of the randomised decomposition, which is no secret. CUDA's generators are left alone.
        torch.default_generator.manual_seed(0)
        count = min(COMBINATIONS, len(pairs))
        weights = torch.svd_lowrank(pairs.flatten(1), count, niter=6)[0].T
    return (torch.einsum("mp,pij->mij", weights, pairs),
            torch.einsum("mp,pij->mij", weights, morphed_pairs))


def by_predictability(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, greatest first, and eigenvectors of the sum of AᵀA + AAᵀ over (m, r, r)."""
    squares = moments.mT @ moments + moments @ moments.mT
    values, vectors = torch.linalg.eigh(squares.sum(0))
    return values.flip(0).clamp(min=1e-12), vectors.flip(1)


def search(problem: Problem, axes: int, width: float, count: int) -> Tensor:
    """The rotation of the first axes (count, r) from a start."""
    window = torch.exp(-problem.apart[:axes] / (2 * width ** 2))
    rotation = polar(problem.anchors[:axes] * window)
    stages = [stage for stage in STAGES if axes <= stage < count]
    for rows in [*stages, count]:
        rotation = ascend(problem, rotation, rows, problem.window(rows, width), SWEEPS)
    return rotation


def grow_to_all(problem: Problem, rotation: Tensor, flip: Tensor | None) -> list[Tensor]:
    """The rotation of all axes (r, r) from one of the first (s, r); with `flip` also the mirrored
    one, both as refined as each other."""
    count = len(problem.apart)
    for rows in [stage for stage in STAGES if len(rotation) < stage < count]:
        rotation = ascend(problem, rotation, rows, problem.window(rows, COMPLETING_WINDOW), SWEEPS)
    window = problem.window(count, COMPLETING_WINDOW)
    rotation = ascend(problem, rotation, count, window, LAST_SWEEPS)
    if flip is None:
        return [rotation]
    mirrored = ascend(problem, flip @ rotation, count, window, LAST_SWEEPS)
    return [mirrored, ascend(problem, flip @ mirrored, count, window, LAST_SWEEPS)]


def ascend(problem: Problem, rotation: Tensor, rows: int, window: Tensor | None,
           sweeps: int) -> Tensor:
    """`rows` orthonormal rows that agree best, from fewer or as many: each time the rotation
    nearest to the gradient of the agreement."""
    for _ in range(sweeps):
        target = problem.agreement(rotation, rows)
        before = rotation
        rotation = polar(target if window is None else target * window)
        if len(before) == rows and (rotation - before).norm() < TOLERANCE * rows ** 0.5:
            break
    return rotation

