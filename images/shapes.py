"""The embedded data set: ten kinds of shapes on cluttered backgrounds, drawn from a seed.

`python -m images.shapes FOLDER COUNT SIDE` writes such images as files,
FOLDER/<class>/<number>.png, of SIDE pixels.
"""

import math
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

CLASSES = ["disc", "ring", "square", "frame", "triangle", "plus", "star", "crescent", "bars", "tee"]
SIZES = {"train": 10_000, "test": 2_000}
SEEDS = {"train": 5, "test": 4, "files": 2}              # changing them changes the images
DRAWN_AT_ONCE = 500                                      # so does this


def inside(kind: int, u: Tensor, v: Tensor) -> Tensor:
    """Whether the points (u, v) lie in the shape of that kind, which fills the unit disc."""
    radius = torch.hypot(u, v)
    box = torch.maximum(u.abs(), v.abs())
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
    make the background, so that neither a pixel nor a colour predicts the class.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count)[torch.randperm(count, generator=generator)] % len(CLASSES)
    images = torch.empty(count, 3, side, side, dtype=torch.uint8)
    for first in range(0, count, DRAWN_AT_ONCE):
        kinds = labels[first:first + DRAWN_AT_ONCE].tolist()
        pictures = _Painter(generator, len(kinds), side).paint_shapes(kinds)
        levels = (255 * pictures.clamp(0, 1)).round()
        images[first:first + DRAWN_AT_ONCE] = levels.to(torch.uint8)
    return images, labels


class _Painter:
    """Paints `count` pictures at once, at twice their side; the average of 2 × 2 points is a pixel.

    Each call takes numbers from the generator, so that their order is part of the data set.
    """

    def __init__(self, generator: torch.Generator, count: int, side: int):
        self.generator, self.count, self.fine = generator, count, 2 * side
        self.axis = (torch.arange(self.fine) + 0.5) / self.fine

    def paint_shapes(self, kinds: list[int]) -> Tensor:
        """(count, 3, side, side) float32, about within [0, 1]: a shape of each kind."""
        pictures = self._shading()
        for _ in range(2):
            u, v = self._placed(0.03, 0.08)
            blobs = torch.hypot(u, v) < 1
            pictures = _painted(pictures, blobs, self._uniform(0, 1, 3, 1, 1))
            u, v = self._placed(0.15, 0.35)
            lines = (u.abs() < 1) & (v.abs() < 0.07)
            pictures = _painted(pictures, lines, self._uniform(0, 1, 3, 1, 1))
        u, v = self._placed(0.25, 0.38)
        shapes = torch.stack([inside(kind, u[i], v[i]) for i, kind in enumerate(kinds)])
        background = pictures.mean((2, 3), keepdim=True)
        contrasting = (background + 0.35 + 0.3 * self._uniform(0, 1, 3, 1, 1)) % 1
        pictures = F.avg_pool2d(_painted(pictures, shapes, contrasting), 2)
        return pictures + 0.04 * torch.randn(pictures.shape, generator=self.generator)

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(count, *shape), uniform between low and high."""
        return low + (high - low) * torch.rand(self.count, *shape, generator=self.generator)

    def _shading(self) -> Tensor:
        """(count, 3, fine, fine): nine random colours, and what lies smoothly between them."""
        corners = self._uniform(0.25, 0.75, 3, 3, 3)
        return F.interpolate(corners, (self.fine, self.fine), mode="bilinear")

    def _placed(self, least: float, largest: float) -> tuple[Tensor, Tensor]:
        """Coordinates (count, fine, fine) of the points in the frames of shapes that have random
        places, angles, and sizes between the two, as parts of the picture's side."""
        size = self._uniform(least, largest, 1, 1)
        angle = self._uniform(0, 2 * math.pi, 1, 1)
        x = self.axis.view(1, 1, -1) - size - (1 - 2 * size) * self._uniform(0, 1, 1, 1)
        y = self.axis.view(1, -1, 1) - size - (1 - 2 * size) * self._uniform(0, 1, 1, 1)
        u = (x * angle.cos() + y * angle.sin()) / size
        v = (y * angle.cos() - x * angle.sin()) / size
        return u, v


def _painted(pictures: Tensor, mask: Tensor, colours: Tensor) -> Tensor:
    """The pictures, with the colours (count, 3, 1, 1) where the mask (count, fine, fine) holds."""
    return torch.where(mask[:, None], colours, pictures)


def write_files(folder: Path, count: int, side: int):
    """Writes folder/<class>/<number>.png, other images than those of training and testing."""
    images, labels = draw(count, side, SEEDS["files"])
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        place = folder / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i:03d}.png")


if __name__ == "__main__":
    write_files(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
