"""Blocks of images on their principal axes, and the tools to rotate them."""

from dataclasses import dataclass

import torch
from torch import Tensor

PRECISE = 1024              # entries of a block up to which covariances are summed in float64


@dataclass(frozen=True)
class Whitened:
    """Blocks (N, κ, q) as mean (q) + white (N, κ, r) * scale (r) @ axes.T (r, q), float32."""

    mean: Tensor
    axes: Tensor
    scale: Tensor
    white: Tensor

    @property
    def zero(self) -> Tensor:
        """Where a block of zeros lies on the axes (r): morphing does not move it."""
        return -(self.mean @ self.axes) / self.scale

    def project(self, blocks: Tensor) -> Tensor:
        """Other blocks (n, κ, q) on these axes, (n, κ, r)."""
        return (blocks - self.mean) @ (self.axes / self.scale)

    def restore(self, white: Tensor) -> Tensor:
        """Blocks (n, κ, q) from their places on the axes (n, κ, r)."""
        return self.mean + white * self.scale @ self.axes.T


def whiten(blocks: Tensor, most: int, mirror: Tensor | None = None) -> Whitened:
    """Blocks (N, κ, q) on the `most` strongest principal axes of all together, strongest first.

    `mirror`, a permutation (q): mean and axes are those of the blocks and their mirror images.
    """
    samples = blocks.flatten(0, 1)
    mean = samples.mean(0, dtype=torch.float64).float()
    if mirror is not None:
        mean = (mean + mean[mirror]) / 2
    dtype = torch.float64 if samples.shape[1] <= PRECISE else torch.float32
    covariance = torch.zeros(len(mean), len(mean), dtype=dtype)
    for part in samples.split(16384):
        part = (part.float() - mean).to(dtype)
        covariance.addmm_(part.T, part, alpha=1 / len(samples))
    if mirror is not None:
        covariance = (covariance + covariance[mirror][:, mirror]) / 2
    variance, axes = torch.linalg.eigh(covariance)
    variance = variance.flip(0)[:most]
    axes = axes.flip(1)[:, :most]
    scale = variance.clamp(min=1e-10 * variance[0]).sqrt()
    white = [(part.float() - mean) @ (axes / scale).float() for part in blocks.split(2048)]
    return Whitened(mean, axes.float(), scale.float(), torch.cat(white))


def polar(x: Tensor) -> Tensor:
    """The matrix with orthonormal rows nearest to x (r, s), r ≤ s: (xxᵀ)^(-1/2) x, or zero."""
    x = x.double()
    x = x / x.abs().max().clamp(min=1e-300)             # or squares of small entries are lost
    values, vectors = torch.linalg.eigh(x @ x.T)
    least = (1e-14 * values[-1]).clamp(min=1e-300)
    root = vectors / values.clamp(min=least).sqrt() @ vectors.T
    return (root @ x).float()
