"""The embedded data set: ten kinds of shapes on cluttered backgrounds, drawn from a seed."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

CLASSES = ["disc", "ring", "square", "frame", "triangle", "plus", "star", "crescent", "bars", "tee"]
SIZES = {"train": 10_000, "test": 2_000}


def inside(kind: int, u: Tensor, v: Tensor) -> Tensor:
    """Whether the points (u, v) lie in the shape of that kind, which fills the unit disc."""
    radius, box = torch.hypot(u, v), torch.maximum(u.abs(), v.abs())
    match CLASSES[kind]:
        case "disc":
            return radius < 0.85
        case "ring":
            return (radius > 0.5) & (radius < 0.95)
        case "square":
            return box < 0.75
        case "frame":
            return (box > 0.42) & (box < 0.8)
        case "triangle":
            return torch.maximum(-v, 0.5 * v + math.sqrt(0.75) * u.abs()) < 0.5
        case "plus":
            return (torch.minimum(u.abs(), v.abs()) < 0.27) & (box < 0.95)
        case "star":
            return radius < 0.66 + 0.34 * torch.cos(5 * torch.atan2(u, v))
        case "crescent":
            return (radius < 0.95) & (torch.hypot(u - 0.5, v) > 0.75)
        case "bars":
            return (u.abs() > 0.3) & (box < 0.8)
        case "tee":
            return (box < 0.9) & ((v > 0.4) | (u.abs() < 0.25))


def draw(count: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (count, 3, side, side) uint8 and labels (count) int64, the same for the same seed.

    Place, size, angle and colours are random. Blobs and lines of other colours, shading and noise
    make the background, so that neither a pixel nor a colour tells the class.
    """
    g = torch.Generator().manual_seed(seed)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=g)

    labels = torch.arange(count)[torch.randperm(count, generator=g)] % len(CLASSES)
    fine = 2 * side                                      # drawn at twice the side, then averaged
    axis = (torch.arange(fine) + 0.5) / fine
    images = torch.empty(count, 3, side, side, dtype=torch.uint8)
    for first in range(0, count, 500):
        kinds = labels[first:first + 500]
        n = len(kinds)

        def frame(low, high, n=n):
            """Coordinates (n, fine, fine) of shapes at random place, size and angle."""
            size, angle = uniform(low, high, n, 1, 1), uniform(0, 2 * math.pi, n, 1, 1)
            x = axis.view(1, 1, -1) - size - (1 - 2 * size) * uniform(0, 1, n, 1, 1)
            y = axis.view(1, -1, 1) - size - (1 - 2 * size) * uniform(0, 1, n, 1, 1)
            return ((x * angle.cos() + y * angle.sin()) / size,
                    (y * angle.cos() - x * angle.sin()) / size)

        def paint(picture, mask, colour):
            return torch.where(mask[:, None], colour, picture)

        picture = F.interpolate(uniform(0.25, 0.75, n, 3, 3, 3), (fine, fine), mode="bilinear")
        for _ in range(2):
            u, v = frame(0.03, 0.08)
            picture = paint(picture, torch.hypot(u, v) < 1, uniform(0, 1, n, 3, 1, 1))
            u, v = frame(0.15, 0.35)
            picture = paint(picture, (u.abs() < 1) & (v.abs() < 0.07), uniform(0, 1, n, 3, 1, 1))
        u, v = frame(0.25, 0.38)
        mask = torch.stack([inside(k, u[i], v[i]) for i, k in enumerate(kinds.tolist())])
        behind = picture.mean((2, 3), keepdim=True)      # a colour that stands out from its ground
        colour = (behind + 0.35 + 0.3 * uniform(0, 1, n, 3, 1, 1)) % 1
        picture = F.avg_pool2d(paint(picture, mask, colour), 2)
        picture = picture + 0.04 * torch.randn(picture.shape, generator=g)
        images[first:first + n] = (255 * picture.clamp(0, 1)).round().to(torch.uint8)
    return images, labels


if __name__ == "__main__":                               # python -m images.shapes FOLDER COUNT
    import sys
    from pathlib import Path

    from PIL import Image
    for i, (image, label) in enumerate(zip(*draw(int(sys.argv[2]), 32, seed=2), strict=True)):
        place = Path(sys.argv[1]) / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i:03d}.png")
