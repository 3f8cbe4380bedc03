"""Networks of a user's own, as `--model tests.own_networks:NAME` calls them."""

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer


def strided(num_classes: int) -> nn.Module:
    """A first layer 5x5, of stride 2, with bias; images of any side from 4 on."""
    return nn.Sequential(nn.Conv2d(3, 12, 5, stride=2, padding=2), nn.BatchNorm2d(12), nn.ReLU(),
                         nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
                         nn.Flatten(), nn.Linear(64, num_classes))


def grey(num_classes: int) -> nn.Module:
    """For images of one channel."""
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding="same"), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
                         nn.Flatten(), nn.Linear(32, num_classes))


def small_vit(num_classes: int, image_size: int = 16) -> nn.Module:
    """Patches of 4x4."""
    return VisionTransformer(image_size=image_size, patch_size=4, num_layers=2, num_heads=2,
                             hidden_dim=32, mlp_dim=64, num_classes=num_classes)


# Networks that Aug-Conv cannot stand in.

def linear(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.Flatten(), nn.Linear(3 * 8 * 8, num_classes))


def reflecting(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Flatten(),
                         nn.Linear(256, num_classes))


def lopsided(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 4, padding="same"), nn.Flatten(),
                         nn.Linear(256, num_classes))


class Padding(nn.Module):
    """Changes the image before its first layer, by a module that is none of its own."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.rest = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(256, num_classes))

    def forward(self, x):
        return self.rest(nn.ZeroPad2d(1)(x))


class Scaling(nn.Module):
    """Changes the image before its first layer."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.rest = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(),
                                  nn.Linear(256, num_classes))

    def forward(self, x):
        return self.rest(2 * x)


class Functional(nn.Module):
    """Its convolution is no module: the first that is reached is a pool."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3, 3, 3))
        self.rest = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, num_classes))

    def forward(self, x):
        return self.rest(F.conv2d(x, self.weight, padding=1))


def three_logits(num_classes: int) -> nn.Module:
    """Whatever is asked for."""
    return strided(3)


def not_a_network(num_classes: int) -> int:
    return num_classes
