"""Colours of images that an attack recovered up to one unknown mixture of their channels."""

import itertools
import math
from collections.abc import Iterable

import torch
from scipy.spatial import KDTree
from torch import Tensor

from utils.examples import evenly_spaced

NEIGHBOURS = 64             # nearest colours that each colour is compared with
POOL, ASKED = 65_536, 4000  # colours at most that are neighbours, and that ask for them
WHOLE = 3                   # whole multiples of each step of the lattice that are tried
MOST_CHANNELS = 6           # of which there are 7⁶ combinations


def find_colours(images: Tensor, mean: Iterable[float], std: Iterable[float]) -> Tensor:
    """The α×α matrix X that takes blind colours to true ones: `einsum("nchw,cd->ndhw", z, X)`.

    No statistics of images are needed. Pixels were whole numbers from 0 to 255, so the colours of
    blind images z (N, α, m, m), any mixture of normalised ones, lie on a lattice. Its basis is read
    off the smallest differences between colours that occur, in the metric in which equal colours
    scatter evenly. With z a blind colour as a row,

        z @ steps = whole numbers + phases
        x = (z @ steps) @ c + 255·mean,  c whole, for each channel x of its true colour

    The published normalisation (x/255 - mean)/std tells which c: 255·mean + phases @ c must be
    whole too, and x must lie between 0 and 255.

    Raises ValueError where the images are too noisy (below about 70 dB), have no such lattice, or
    more than MOST_CHANNELS channels.
    """
    if images.shape[1] > MOST_CHANNELS:
        raise ValueError(f"the colours of {images.shape[1]} channels have too many combinations")
    mean = torch.tensor(list(mean), dtype=torch.float64)
    std = torch.tensor(list(std), dtype=torch.float64)
    colours = list_colours(images.double())
    if len(colours) < 1000 or torch.linalg.matrix_rank(colours) < images.shape[1]:
        raise ValueError("the images have fewer colours than channels, or are too few")
    steps, phases = _lattice(colours)
    candidates = itertools.product(range(-WHOLE, WHOLE + 1), repeat=len(steps))
    combinations = torch.tensor([c for c in candidates if any(c)], dtype=torch.float64)
    fractions = combinations @ phases
    levels = colours @ steps
    chosen = []
    for centre in 255 * mean:
        chosen.append(_combination(levels, combinations, fractions, centre))
    return steps @ torch.stack(chosen, 1) / (255 * std)


def _lattice(colours: Tensor) -> tuple[Tensor, Tensor]:
    """Steps (α, α): colours (n, α) times them are whole numbers but for one offset each; and those
    offsets (α), as fractions of a step."""
    for equal in (500, 50):             # differences that are zero: many in photographs
        steps = _lattice_steps(colours, equal)
        if steps is None:
            continue
        turns = torch.exp(2j * math.pi * (colours @ steps)).mean(0)
        if turns.abs().min() > 0.5:
            return steps, turns.angle() / (2 * math.pi)
    raise ValueError("no mixture gives values of 8 bits: they are too noisy, not of 8 bits, or of "
                     "too few images")


def _combination(levels: Tensor, combinations: Tensor, fractions: Tensor, centre: Tensor) -> Tensor:
    """The combination (α) of the lattice's steps that is one colour: of those with the fraction
    that the normalisation leaves and a range within 0..255, the one of widest range."""
    offset = fractions + centre
    likely = combinations[(offset - offset.round()).abs() < 0.01]
    if not len(likely):
        raise ValueError("no combination of the lattice's steps fits the published normalisation")
    low, high = (levels @ likely.T + centre).aminmax(dim=0)
    spread = torch.where((low > -0.5) & (high < 255.5), high - low, -1)
    if spread.max() < 0:
        raise ValueError("no combination of the lattice's steps stays within 0 to 255")
    return likely[spread.argmax()]


def _lattice_steps(colours: Tensor, equal: int) -> Tensor | None:
    """The matrix (α, α) that makes differences of colours (n, α) whole, or None if not found.

    It is found from nearest neighbours, of which at least `equal` have the same colour.
    """
    pool = colours[evenly_spaced(len(colours), POOL)]
    differences, white = _neighbour_differences(pool, colours.T @ colours / len(colours), equal)
    basis = _shortest_steps(differences @ white)
    if not torch.linalg.det(basis).abs() > 1e-6:         # also where it is NaN
        return None
    steps = white @ torch.linalg.inv(basis)
    longer = torch.cat([differences, pool.roll(1, 0) - pool])
    return _refine_steps(steps, longer, (longer @ white).norm(dim=1), basis.norm(dim=1).max())


def _neighbour_differences(pool: Tensor, covariance: Tensor, equal: int) -> tuple[Tensor, Tensor]:
    """Differences (d, α) of near colours, and the matrix that makes the scatter of equal ones even.

    The metric decides which colours are near, and the near ones give a better metric: twice.
    """
    asked = pool[evenly_spaced(len(pool), ASKED)]
    floor = 1e-14 * covariance
    metric = covariance
    for _ in range(2):
        white = _whitener(metric + floor)
        tree = KDTree((pool @ white).numpy())
        near = tree.query((asked @ white).numpy(), NEIGHBOURS + 1)[1][:, 1:]
        differences = (pool[torch.from_numpy(near)] - asked[:, None]).flatten(0, 1)
        for _ in range(10):
            sizes = (differences @ white).norm(dim=1)
            same = differences[sizes.topk(equal, largest=False).indices]
            metric = same.T @ same / equal
            white = _whitener(metric + floor)
    return differences, white


def _shortest_steps(differences: Tensor) -> Tensor:
    """A basis (α, α) of the lattice of whitened differences (d, α): each time the shortest one that
    is no whole combination of those found so far, averaged over its cluster."""
    sizes, order = differences.norm(dim=1).sort()
    differences = differences[order]
    clipped = sizes.clamp(min=1)
    widest_gap = (clipped[1:] / clipped[:-1]).argmax()
    radius = clipped[widest_gap + 1] / 2                    # half the shortest step
    basis = differences[:0]
    for _ in range(differences.shape[1]):
        rest = differences
        if len(basis):
            rest = differences - (differences @ torch.linalg.pinv(basis)).round() @ basis
        centre = differences[(rest.norm(dim=1) > 2 * radius).int().argmax()]
        for _ in range(4):
            centre = differences[(differences - centre).norm(dim=1) < radius].mean(0)
        basis = torch.cat([basis, centre[None]])
    return basis


def _refine_steps(steps: Tensor, differences: Tensor, sizes: Tensor, longest: Tensor) -> Tensor:
    """Steps (α, α), of which the longest has this size, made more exact by ever longer differences
    (d, α), of these sizes (d)."""
    first, last = math.log(1.1 * longest), math.log(sizes.max())
    for reach in torch.linspace(first, last, 20).exp():
        near = differences[sizes <= reach]
        whole = near @ steps
        sure = ((whole - whole.round()).abs() < 0.3).all(1)
        steps = torch.linalg.lstsq(near[sure], whole[sure].round()).solution
    return steps


def best_colour_fit(recovered: Tensor, truth: Tensor) -> Tensor:
    """For scoring only: images (N, α, m, m) under the one α×α mixture that brings them nearest to
    the truth."""
    mixture = torch.linalg.lstsq(list_colours(recovered), list_colours(truth.double())).solution
    return torch.einsum("nchw,cd->ndhw", recovered, mixture)


def _whitener(covariance: Tensor) -> Tensor:
    """The matrix that takes samples (n, α) of this covariance to unit covariance."""
    return torch.linalg.inv(torch.linalg.cholesky(covariance)).T


def list_colours(images: Tensor) -> Tensor:
    """Images (N, α, h, w) as a list of colours (N·h·w, α)."""
    return images.movedim(1, -1).flatten(0, 2)
