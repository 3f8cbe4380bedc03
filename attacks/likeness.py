"""How much pictures look like photographs: a statistic that no search maximises.

Matching moments finds many rotations whose moments agree equally well. Only the right one gives
pictures whose edges are as rare and as sharp as those of photographs, at every place. A wrong one
mixes pixels, and by the central limit theorem mixtures look like noise.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LEVELS = torch.linspace(0.02, 0.98, 25)     # of the quantiles that are compared
PLACES = 192                                # at most, where differences are compared


class Edges(NamedTuple):
    """What edges are like: quantiles at several places, and how they go together."""

    differences: Tensor     # quantiles of the differences of neighbouring pixels, each colour
    gradients: Tensor       # quantiles of the length of the gradient, over its mean
    companions: Tensor      # correlations of the sizes of neighbouring edges


def describe_edges(images: Tensor) -> Edges:
    """Statistics of images (N, α, m, m), two pixels square at least."""
    images = images.float()
    across = (images[..., :-1, 1:] - images[..., :-1, :-1])
    down = (images[..., 1:, :-1] - images[..., :-1, :-1])
    differences = torch.cat([across.flatten(1), down.flatten(1)], 1)
    across, down = across.mean(1), down.mean(1)
    gradients = (across.square() + down.square()).sqrt()
    sizes = standardise(across.abs())
    companions = torch.cat([(sizes[..., 1:] * sizes[..., :-1]).mean(0).flatten(),
                            (sizes[:, 1:] * sizes[:, :-1]).mean(0).flatten()])
    gradients = gradients.flatten(1)
    gradients = gradients / gradients.mean(0).clamp(min=1e-6)
    return Edges(quantiles(differences), quantiles(gradients), companions)


def standardise(x: Tensor) -> Tensor:
    """Values (N, ...) to mean 0 and standard deviation 1 over the first dimension."""
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-6)


def quantiles(values: Tensor) -> Tensor:
    """Quantiles (25, places) of values (N, d) at places spread evenly over d."""
    step = -(-values.shape[1] // PLACES)
    return torch.quantile(values[:, ::step], LEVELS, dim=0)


def unlikeness(edges: Edges, photographs: Edges) -> float:
    """How far edges are from those of photographs, 0 for the same: the geometric mean of the mean
    absolute deviations of the three statistics."""
    product = 1.0
    for own, theirs in zip(edges, photographs, strict=True):
        if own.numel():
            product *= float((own - theirs).abs().mean()) + 1e-9
    return product ** (1 / 3)
