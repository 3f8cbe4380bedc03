"""Colours of images that an attack gave back up to one unknown mixture of their channels."""

import itertools
import math
from collections.abc import Iterable

import torch
from scipy.spatial import KDTree
from torch import Tensor


def colour_lattice(images: Tensor, mean: Iterable[float], std: Iterable[float]) -> Tensor:
    """The α×α matrix X that takes blind colours to true ones: `einsum("nchw,cd->ndhw", z, X)`.

    No statistics of images are needed. Pixels were whole numbers of 0..255, so those of blind
    images z (N, α, m, m), any mixture of normalised ones, lie on a lattice. Its basis is read off
    the smallest differences between colours that occur, in the metric in which equal colours
    scatter evenly. A colour is then a whole combination of the basis; published normalisation
    (x/255 - mean)/std tells which, as it leaves a fraction of its own and a range of 0..255.

    Raises ValueError where the images are too noisy (below some 70 dB) or no such lattice.
    """
    mean, std = (torch.tensor(list(x), dtype=torch.float64) for x in (mean, std))
    colours = _pixels(images.double())
    if len(colours) < 1000 or torch.linalg.matrix_rank(colours) < images.shape[1]:
        raise ValueError("the images have fewer colours than channels, or are too few")
    for few in (500, 50):                   # in many photographs, or few, or noisy drawings
        steps = _lattice_steps(colours, few)
        turns = torch.exp(2j * math.pi * (colours @ steps)).mean(0) if steps is not None else None
        if turns is not None and turns.abs().min() > 0.5:
            break
    else:
        raise ValueError("the colours are on no lattice: too noisy, or not of 8 bits")
    combinations = torch.tensor([c for c in itertools.product(range(-3, 4), repeat=len(steps))
                                 if any(c)], dtype=torch.float64)
    chosen = []
    for centre in 255 * mean:
        offset = combinations @ turns.angle() / (2 * math.pi) + centre
        likely = combinations[(offset - offset.round()).abs() < 0.01]
        low, high = (colours @ steps @ likely.T + centre).aminmax(dim=0)
        spread = torch.where((low > -0.5) & (high < 255.5), high - low, -1)
        if not len(likely) or spread.max() < 0:
            raise ValueError("no combination of the lattice's steps is a colour of 0..255")
        chosen.append(likely[spread.argmax()])
    return steps @ torch.stack(chosen, 1) / (255 * std)


def _lattice_steps(colours: Tensor, few: int) -> Tensor | None:
    """The matrix (α, α) that makes differences of colours (n, α) whole, of determinant ±1 in
    steps of the lattice, from nearest neighbours of which at least `few` are equal; None if lost.
    """
    metric = colours.T @ colours / len(colours)
    floor = 1e-14 * metric
    pool = colours[torch.linspace(0, len(colours) - 1, min(len(colours), 65536)).long()]
    some = pool[torch.linspace(0, len(pool) - 1, min(len(pool), 4000)).long()]
    for _ in range(2):                      # the second time in the metric that the first finds
        white = _whitener(metric + floor)
        near = KDTree((pool @ white).numpy()).query((some @ white).numpy(), 65)[1][:, 1:]
        d = (pool[torch.from_numpy(near)] - some[:, None]).flatten(0, 1)
        for _ in range(10):                 # towards the scatter of colours that are equal
            size = (d @ white).norm(dim=1)
            equal = d[size.topk(few, largest=False).indices]
            metric = equal.T @ equal / few
            white = _whitener(metric + floor)
    size, order = (d @ white).norm(dim=1).sort()
    w = (d @ white)[order]
    apart = size.clamp(min=1)
    radius = apart[(apart[1:] / apart[:-1]).argmax() + 1] / 2           # half the shortest step
    basis = w[:0]
    for _ in range(len(metric)):            # the shortest step that is off those found so far
        whole = (w @ torch.linalg.pinv(basis)).round() if len(basis) else w[:, :0]
        centre = w[((w - whole @ basis).norm(dim=1) > 2 * radius).int().argmax()]
        for _ in range(4):
            centre = w[(w - centre).norm(dim=1) < radius].mean(0)
        basis = torch.cat([basis, centre[None]])
    if not torch.linalg.det(basis).abs() > 1e-6:
        return None
    steps = white @ torch.linalg.inv(basis)
    d = torch.cat([d, pool.roll(1, 0) - pool])
    size = (d @ white).norm(dim=1)
    for reach in torch.linspace(math.log(1.1 * basis.norm(dim=1).max()), math.log(size.max()), 20):
        near = d[size <= reach.exp()]       # ever longer differences make the steps more exact
        whole = near @ steps
        near, whole = (x[((whole - whole.round()).abs() < 0.3).all(1)] for x in (near, whole))
        steps = torch.linalg.lstsq(near, whole.round()).solution
    return steps


def best_colour_fit(recovered: Tensor, truth: Tensor) -> Tensor:
    """Scoring: images (N, α, m, m) under the one α×α mixture that brings them nearest the truth."""
    mixture = torch.linalg.lstsq(_pixels(recovered), _pixels(truth.double())).solution
    return torch.einsum("nchw,cd->ndhw", recovered, mixture)


def _whitener(covariance: Tensor) -> Tensor:
    """The matrix that takes samples (n, α) of this covariance to unit covariance."""
    return torch.linalg.inv(torch.linalg.cholesky(covariance)).T


def _pixels(images: Tensor) -> Tensor:
    """Images (N, α, h, w) as a list of colours (N·h·w, α)."""
    return images.movedim(1, -1).flatten(0, 2)
