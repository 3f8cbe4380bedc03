"""The rotation that the core makes of blocks, from third moments: the only way for κ = 1.

A block is compared with itself: by variances, which a random core nearly keeps in their order, and
third moments E[c_i c_j c_k]. The strongest axes are matched by the order of their variances, with
signs by greedy ascent; further axes by third moments with those. Where this starts decides what it
finds, so there are several starts. All work on one tensor of third moments for each side, which
makes a start take a fraction of a second.

Photographs are nearly as often mirrored as not. So the search uses what images and mirror images
have in common, the *even* part of the public moments, which lets more axes be found. The *odd*
part, which changes its sign where images are mirrored, then says which of the two were found.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.whitening import Whitened, polar
from utils.examples import evenly_spaced

AXES = 128                              # that are looked for at most
BASE = 64                               # axes whose products further axes are matched by
STAGES = (8, 12, 16, 24, 32, 48, 64, 96, 128)           # axes matched at a time
WINDOWS = (0.03, 0.1, 0.2, 0.3, 0.5, 1.0)               # narrow to wide
START_AXES = (12, 16, 24, 32)
SIGN_STARTS, SIGN_SWEEPS = 500, 20
SWEEPS, TOLERANCE = 5, 0.03
MOST_BLOCKS = 100_000                   # whose moments are computed
# Images are told from mirror images by the odd parts of means and third moments. These are the
# variances of what different data sets share of them: measured between CIFAR-10 and CIFAR-100.
ODD_MEAN, ODD_MOMENT = 8e-5, 5e-7
MEAN_AXES = 24                          # errors of the rotation mix the means of the weak axes
MOMENT_NOISE = 3                        # times as large as if axes were independent and normal


@dataclass(frozen=True)
class Side:
    """One side of the match: axes with their logarithmic scales (r) and third moments (r, r, r)."""

    spectrum: Tensor
    moments: Tensor


class Matcher:
    """Public and morphed blocks, (N, κ, q) each, and the rotations that may bring them together.

    `flip` (r, r): what mirroring does to the public axes, if blocks can be mirrored in place; then
    the rotations may give the images or their mirror images.
    """

    def __init__(self, public: Whitened, morphed: Whitened, orthogonal: bool,
                 flip: Tensor | None = None):
        self.public, self.morphed, self.flip = public, morphed, flip
        self.odd_moments = None
        self.public_side = describe_side(public, orthogonal)
        self.morphed_side = describe_side(morphed, orthogonal)
        if flip is not None:
            moments = self.public_side.moments
            self.odd_moments = (moments - rotate_moments(moments, flip)) / 2
            self.public_side = replace(self.public_side, moments=moments - self.odd_moments)

    def rotations(self) -> Iterator[list[Tensor]]:
        """The rotations (r, r) that several starts lead to, those of one window at a time.

        The window says how far apart the logarithms of two axes' scales may be if they are to be
        matched; the public images may have other variances than the private ones.
        """
        public_side, morphed_side = self.public_side, self.morphed_side
        count = len(public_side.spectrum)
        starts = []
        for axes in sorted({min(axes, count) for axes in START_AXES}):
            for signs in likely_signs(public_side.moments, morphed_side.moments, axes):
                starts.append(torch.diag(signs))
        for width in WINDOWS:
            window = self.window(width)
            yield [grow(start, public_side, morphed_side, window) for start in starts]

    def polish(self, rotation: Tensor, width: float) -> Tensor:
        """The rotation near one (r, r) that is about right, by third moments of all axes."""
        count = len(rotation)
        return ascend(rotation, self.public_side, self.morphed_side, self.window(width), count,
                      base=count)

    def window(self, width: float) -> Tensor:
        """Weights (r, r) of the pairs of axes that may match."""
        apart = self.public_side.spectrum[:, None] - self.morphed_side.spectrum
        return torch.exp(-apart.square() / (2 * width ** 2))

    def evidence_of_orientation(self, rotation: Tensor, public_images: int) -> float:
        """Whether a rotation (r, r) gives images (positive) or their mirror images (negative): a
        log likelihood ratio, roughly. Of a Matcher that was given `flip`.

        It adds up what the odd parts of two statistics say, seen on both sides: of the mean image,
        since morphing keeps zero in its place, and of third moments. The search used neither.
        `public_images`: how many there are, without copies; none mirrored.
        """
        private_images = len(self.morphed.white)
        public_mean = self.public.white.mean((0, 1)) - self.public.zero
        private_mean = -rotation @ self.morphed.zero
        means = odd_part(public_mean, self.flip) * odd_part(private_mean, self.flip)
        weight = weight_of_evidence(ODD_MEAN, 1 / public_images, 1 / private_images)
        evidence = weight * float(means[:MEAN_AXES].sum())

        moments = self.odd_moments * rotate_moments(self.morphed_side.moments, rotation)
        weight = weight_of_evidence(ODD_MOMENT, MOMENT_NOISE / public_images,
                                    MOMENT_NOISE / private_images)
        orders = 6                      # of three axes: so often each moment is in the sum
        return evidence + weight * float(moments.sum()) / orders


def weight_of_evidence(signal: float, public_noise: float, private_noise: float) -> float:
    """How much the product of two noisy values of one quantity says about their common sign: the
    factor to a log likelihood ratio, from the variances of the quantity and of the noise."""
    total = (signal + public_noise) * (signal + private_noise)
    return 2 * signal / (total - signal ** 2)


def describe_side(whitened: Whitened, orthogonal: bool) -> Side:
    """Variances and third moments of blocks about their own mean. Cores that are not orthogonal
    change all variances by one factor, which is taken out."""
    spectrum = whitened.scale.log()
    if not orthogonal:
        spectrum = spectrum - spectrum[:4].mean()
    blocks = some_blocks(whitened.white)
    return Side(spectrum, third_moments(blocks - blocks.mean(0)))


def some_blocks(blocks: Tensor) -> Tensor:
    """Blocks (N, κ, r) of all positions alike, (n, r): not too many, for time."""
    images = max(1, MOST_BLOCKS // blocks.shape[1])
    return blocks[evenly_spaced(len(blocks), images)].flatten(0, 1)


def third_moments(x: Tensor) -> Tensor:
    """E[x_i x_j x_k] (r, r, r) of samples (N, r)."""
    count, axes = x.shape
    j, k = torch.triu_indices(axes, axes)
    upper = torch.zeros(axes, len(j))
    for part in x.split(512):
        upper.addmm_(part.T, part[:, j] * part[:, k], alpha=1 / count)
    moments = torch.zeros(axes, axes, axes)
    moments[:, j, k] = upper
    moments[:, k, j] = upper
    return moments


def grow(start: Tensor, public: Side, morphed: Side, window: Tensor) -> Tensor:
    """The rotation of all axes (r, r) from one of the strongest (s, s)."""
    count = len(window)
    rotation = torch.nn.functional.pad(start, (0, count - len(start)))
    stages = [rows for rows in STAGES if len(start) <= rows < count]
    for rows in [*stages, count]:
        rotation = ascend(rotation, public, morphed, window, rows)
    return rotation


def ascend(rotation: Tensor, public: Side, morphed: Side, window: Tensor, rows: int,
           base: int = BASE) -> Tensor:
    """`rows` orthonormal rows whose third moments agree best, from fewer or as many: each time the
    rotation nearest to the gradient of the agreement."""
    for _ in range(SWEEPS):
        before = rotation
        rotation = polar(agreement(rotation, public, morphed, rows, base) * window[:rows])
        if len(before) == rows and (rotation - before).norm() < TOLERANCE * rows ** 0.5:
            break
    return rotation


def agreement(rotation: Tensor, public: Side, morphed: Side, rows: int, base: int) -> Tensor:
    """How well each public axis (rows) agrees with each morphed one (r), in third moments with the
    strongest `base` axes of those matched already, (rows, r)."""
    matched = rotation[:base]
    count = matched.shape[1]
    turned = morphed.moments.reshape(-1, count) @ matched.T            # one axis of three turned
    turned = torch.matmul(matched, turned.view(count, count, -1))   # two of three
    expected = public.moments[:rows, :len(matched), :len(matched)]
    return expected.reshape(rows, -1) @ turned.reshape(count, -1).T


def likely_signs(expected: Tensor, observed: Tensor, axes: int) -> list[Tensor]:
    """The two best signs (axes) under which third moments of the strongest axes agree: ascent from
    random starts."""
    products = (expected * observed)[:axes, :axes, :axes]
    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(SIGN_STARTS, axes, generator=generator).sign()
    for _ in range(SIGN_SWEEPS):
        for i in range(axes):
            rest = signs.clone()
            rest[:, i] = 0
            pull = 3 * torch.einsum("rj,jk,rk->r", rest, products[i], rest) + products[i, i, i]
            signs[:, i] = torch.where(pull < 0, -1.0, 1.0)
    value = torch.einsum("ri,rj,rk,ijk->r", signs, signs, signs, products)
    best = signs[value.argmax()]
    others = (signs != best).any(1)
    if not others.any():
        return [best]
    return [best, signs[value.masked_fill(~others, -torch.inf).argmax()]]


def rotate_moments(moments: Tensor, rotation: Tensor) -> Tensor:
    """Third moments (r, r, r) of samples times rotation.T (r, r)."""
    for _ in range(3):
        # One axis is rotated and becomes the last, so that each has its turn.
        moments = torch.tensordot(moments, rotation, ([0], [1]))
    return moments


def odd_part(x: Tensor, flip: Tensor) -> Tensor:
    """The part of a vector (r) that changes its sign where images are mirrored."""
    return (x - flip @ x) / 2
