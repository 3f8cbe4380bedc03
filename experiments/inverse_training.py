"""The attack that the authors' first code ships: a linear map and a convolution, trained."""

import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def inverse_training(morphed: Tensor, features: Tensor, shape: tuple[int, int, int], kernel: int,
                     padding: int, epochs: int, seed: int = 0) -> tuple[Tensor, list[dict]]:
    """A trained matrix (αm², αm²) that should unmorph, and after each epoch seconds and mean loss.

    Linear(αm² → αm²) and Conv2d(α → β) are trained together (Adam at 0.001, mean squared error,
    batches of 50) so that morphed images (N, αm²) give their features (N, β, n, n). Nothing ties
    what passes between the two to be an image: any invertible map that the convolution can undo
    may move from the one into the other.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = nn.Linear(morphed.shape[1], morphed.shape[1], bias=False)
        conv = nn.Conv2d(shape[0], features.shape[1], kernel, padding=padding, bias=False)
    optimizer = torch.optim.Adam([*linear.parameters(), *conv.parameters()])
    began, curve = time.perf_counter(), []
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(morphed), generator=generator).split(50):
            loss = F.mse_loss(conv(linear(morphed[batch]).view(-1, *shape)), features[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        curve.append({"seconds": time.perf_counter() - began, "loss": total / len(morphed)})
    return linear.weight.detach().T, curve
