"""The algorithm of the paper's reference scripts: what experiments.speed compares with.

Written from their description: M is made and inverted whole, the first layer is written out as a
matrix C and multiplied densely, the loader morphs images one at a time, and Aug-Conv is a dense
product in every batch; all in float32 and the default memory layout. Their mistakes
(docs/differences.md) are not repeated, so both sides compute the same.
"""

import time
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from images.datasets import CIFAR


def block_diagonal(core: Tensor, kappa: int) -> Tensor:
    """M (αm², αm²): κ copies of the core (q, q) on the diagonal, zeros elsewhere."""
    return torch.block_diag(*[core] * kappa)


def morphing_matrix(q: int, kappa: int) -> tuple[Tensor, Tensor]:
    """M and M⁻¹, both (κq, κq) float32, drawn uniformly and inverted in float64."""
    matrix = block_diagonal(torch.rand(q, q, dtype=torch.float64), kappa)
    return matrix.float(), torch.linalg.inv(matrix).float()


def convolution_matrix(layer: nn.Conv2d, shape: tuple[int, int, int]) -> Tensor:
    """C (αm², βn²): a convolution of stride 1 on images of shape (α, m, m), as a matrix.

    One loop over the pixels (i, j) of the output: their columns hold the kernel, laid over the
    pixels of the image that they see.
    """
    (alpha, m, _), (beta, _, p, _), padding = shape, layer.weight.shape, layer.padding[0]
    n = m + 2 * padding - p + 1
    kernel = layer.weight.detach().permute(1, 2, 3, 0)                 # (α, p, p, β)
    matrix = torch.zeros(alpha * m * m, beta * n * n, device=kernel.device)
    entry = matrix.view(alpha, m, m, beta, n, n)
    for i in range(n):
        top, bottom = max(0, i - padding), min(m, i - padding + p)
        for j in range(n):
            left, right = max(0, j - padding), min(m, j - padding + p)
            entry[:, top:bottom, left:right, :, i, j] = kernel[
                :, top - i + padding:bottom - i + padding, left - j + padding:right - j + padding]
    return matrix


def compose(layer: nn.Conv2d, inverse: Tensor, shape: tuple[int, int, int],
            order: Tensor) -> Tensor:
    """C_ac (αm², βn²): fills C, multiplies M⁻¹·C, and puts the channel blocks in `order`."""
    composed = inverse @ convolution_matrix(layer, shape)
    return composed.view(len(composed), len(order), -1)[:, order].flatten(1)


class Morphing:
    """The transform that multiplies one image (α, m, m) by the full M (αm², αm²)."""

    def __init__(self, matrix: Tensor):
        self.matrix = matrix

    def __call__(self, image: Tensor) -> Tensor:
        return (image.view(1, -1) @ self.matrix).view_as(image)


class ImageByImage(Dataset):
    """uint8 images (N, α, m, m) and their labels, each image through the transforms on its own."""

    def __init__(self, images: Tensor, labels: Tensor, matrix: Tensor | None = None):
        self.pixels = images.permute(0, 2, 3, 1).contiguous().numpy()  # as CIFAR's files have them
        self.labels = labels.tolist()
        steps = [transforms.ToTensor(), transforms.Normalize(*CIFAR)]
        if matrix is not None:
            steps.append(Morphing(matrix))
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(self.pixels[index]), self.labels[index]


def loader(data: ImageByImage, batch_size: int, workers: int, shuffle: bool = False) -> DataLoader:
    return DataLoader(data, batch_size, shuffle=shuffle, num_workers=workers)


class DenseLayer(nn.Module):
    """Aug-Conv as a product with C_ac (αm², βn²) in every batch: features (B, β, n, n)."""

    def __init__(self, weight: Tensor, out_shape: tuple[int, int, int]):
        super().__init__()
        self.out_shape = out_shape
        self.register_buffer("weight", weight)

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) @ self.weight).view(-1, *self.out_shape)


def train(network: nn.Module, batches: DataLoader, optimizer: torch.optim.Optimizer,
          device: torch.device, warm_up: int, steps: int) -> float:
    """Images per second of training, over `steps` batches that come after a warm-up."""
    network.train()
    count = 0
    for step, (images, labels) in enumerate(islice(batches, warm_up + steps)):
        if step == warm_up:
            synchronise(device)
            started = time.perf_counter()
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        count += len(labels) if step >= warm_up else 0
    synchronise(device)
    return count / (time.perf_counter() - started)


def synchronise(device: torch.device):
    """Waits until a CUDA device has done what it was given, so that a clock may be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
