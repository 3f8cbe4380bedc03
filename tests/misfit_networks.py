"""Networks that Aug-Conv cannot stand in, or that cannot be trained: each must be refused.

As `--model tests.misfit_networks:NAME` calls them; for images 3x16x16 and 4 classes.
"""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision import models

from tests.own_networks import Own, chain, tail, twenty_layers

# The first operation is no convolution of the image.


def linear(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(16, 16), nn.Flatten(), nn.Linear(3 * 256, num_classes))


def convolution_alone(num_classes: int) -> nn.Module:
    return nn.Conv2d(3, num_classes, 16)


def transposed_convolution(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(3, 8, 3), tail(num_classes))


def dropout_first(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Dropout(0.1), nn.Conv2d(3, 8, 3), tail(num_classes))


def normalised_first(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), tail(num_classes))


def nothing(num_classes: int) -> nn.Module:
    return nn.Module()


class Functional(nn.Module):
    """Its convolution is no module: the first that is reached is a pool."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 3, 3, 3))
        self.rest = tail(num_classes)

    def forward(self, x):
        return self.rest(F.conv2d(x, self.weight, padding=1))


def reflecting(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), tail(num_classes))


def weight_norm(num_classes: int) -> nn.Module:
    network = chain(num_classes)
    nn.utils.parametrizations.weight_norm(network[0])
    return network


# The image is changed before the first layer.

class Scales(Own):
    def forward(self, x):
        return super().forward(2 * x)


class ScalesInPlace(Own):
    def forward(self, x):
        return super().forward(x.mul_(2))


class Pads(Own):
    """By a module that is none of its own."""

    def forward(self, x):
        return super().forward(nn.ZeroPad2d(1)(x))


class Transposes(Own):
    def forward(self, x):
        return super().forward(x.mT)


class Crops(Own):
    def forward(self, x):
        return super().forward(x[:, :, 1:, 1:])


class Reorders(Own):
    """Blue, green, red."""

    def forward(self, x):
        return super().forward(x.flip(1))


def normalised_by_a_hook(num_classes: int) -> nn.Module:
    network = chain(num_classes, nn.ReLU())
    network.register_forward_pre_hook(lambda module, inputs: (inputs[0] - 0.5,))
    return network


# The first layer computes more than a convolution.

class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class SameConv(nn.Conv2d):
    """TensorFlow's `same`, with a stride."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


class NoisyConv(nn.Conv2d):
    """In training alone."""

    def forward(self, x):
        features = super().forward(x)
        return features + torch.randn_like(features) if self.training else features


def weight_standardisation(num_classes: int) -> nn.Module:
    return nn.Sequential(StandardisedConv(3, 8, 3), nn.ReLU(), tail(num_classes))


def weight_standardisation_far_from_the_logits(num_classes: int) -> nn.Module:
    """Twenty layers hide what the first one does from anybody who looks at logits alone."""
    return nn.Sequential(StandardisedConv(3, 8, 3), *twenty_layers(), tail(num_classes))


def same_as_in_tensorflow(num_classes: int) -> nn.Module:
    return nn.Sequential(SameConv(3, 8, 3, 2), nn.ReLU(), tail(num_classes))


def noise_in_training(num_classes: int) -> nn.Module:
    return nn.Sequential(NoisyConv(3, 8, 3), nn.ReLU(), tail(num_classes))


def hook(num_classes: int) -> nn.Module:
    network = chain(num_classes, nn.ReLU())
    network[0].register_forward_hook(lambda layer, inputs, features: features + 1)
    return network


def hook_before(num_classes: int) -> nn.Module:
    network = chain(num_classes, nn.ReLU())
    network[0].register_forward_pre_hook(lambda layer, inputs: (inputs[0] * 2,))
    return network


def forward_of_its_own(num_classes: int) -> nn.Module:
    network = chain(num_classes, nn.ReLU())
    network[0].forward = lambda x: F.conv2d(x, network[0].weight.abs(), padding=1)
    return network


# The first layer, or the image, is used again.

class UsedTwice(Own):
    """An image and its mirror image."""

    def forward(self, x):
        return self.rest(self.first(x) + self.first(x.flip(3)))


class UsedTwiceByName(Own):
    def prepare(self):
        self.same = self.first


class TwoStems(Own):
    def prepare(self):
        self.second = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        return self.rest(torch.relu(self.first(x)) * self.second(x))


class ImageAgain(Own):
    def forward(self, x):
        return super().forward(x) + x.mean()


class GatedImage(Own):
    """The image is used again by a branch that is switched off at first."""

    def prepare(self):
        self.second = nn.Conv2d(3, 8, 3, padding=1)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.rest(self.first(x) + self.gate * self.second(x))


class NearlyGatedImage(GatedImage):
    def prepare(self):
        super().prepare()
        self.gate = nn.Parameter(torch.tensor(1e-6))


class SigmoidGatedImage(TwoStems):
    """Its gate is nearly closed at first."""

    def prepare(self):
        super().prepare()
        self.gate = nn.Parameter(torch.tensor(-10.0))

    def forward(self, x):
        return self.rest(self.first(x) + torch.sigmoid(self.gate) * self.second(x))


class OtherLayerInEvaluation(TwoStems):
    def forward(self, x):
        return self.rest(self.first(x) if self.training else self.second(x))


class ImageAgainInTraining(Own):
    """A loss of its own, as it were."""

    def forward(self, x):
        logits = super().forward(x)
        return logits + x.mean() if self.training else logits


class ImageChangedLater(Own):
    def forward(self, x):
        logits = super().forward(x)
        x.add_(1)
        return logits


class HardlySeesAndTakesTheImageAgain(TwoStems):
    """The second look is as faint as the first: far below the logits' own size."""

    def prepare(self):
        super().prepare()
        self.rest = nn.Sequential(*twenty_layers(), *self.rest)


class LooksAtTheWeights(Own):
    def forward(self, x):
        return super().forward(x) + self.first.weight.mean()


class TiedToTheFirst(Own):
    """Goes back by the first layer's own weights."""

    def between(self, features):
        back = F.conv_transpose2d(features, self.first.weight, padding=1)
        return torch.cat([back, back, back[:, :2]], 1)


class ChecksPointsFromTheStart(Own):
    """In the backward pass, the first layer is run again."""

    def forward(self, x):
        return self.rest(checkpoint(lambda image: self.first(image) ** 2, x, use_reentrant=False))


class LosesItsGradients(Own):
    """It changes what its backward pass needs."""

    def between(self, features):
        positive = features.sigmoid()
        squared = positive * positive
        positive.add_(1)
        return squared


# Outputs that are no logits.

def not_a_network(num_classes: int) -> int:
    return num_classes


def three_logits(num_classes: int) -> nn.Module:
    """Whatever is asked for."""
    return chain(3)


class TupleInTraining(Own):
    """Auxiliary outputs, as inception's."""

    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


def googlenet(num_classes: int) -> nn.Module:
    """torchvision's as it is by itself, with auxiliary classifiers."""
    return models.googlenet(num_classes=num_classes, init_weights=False)


class DictOfOutputs(Own):
    def forward(self, x):
        return {"logits": super().forward(x)}


class OneVector(Own):
    def forward(self, x):
        return super().forward(x).flatten()


class NotFinite(Own):
    def forward(self, x):
        return super().forward(x) / 0


class Blind(Own):
    """Its logits say nothing of the image."""

    def between(self, features):
        return torch.ones_like(features)


# Weights and state.

def float64(num_classes: int) -> nn.Module:
    return chain(num_classes).double()


def bfloat16(num_classes: int) -> nn.Module:
    return chain(num_classes).bfloat16()


class HalfABuffer(Own):
    def prepare(self):
        self.register_buffer("mean", torch.zeros(1, dtype=torch.float16))


class Complex(Own):
    def prepare(self):
        self.phases = nn.Parameter(torch.ones(1, dtype=torch.complex64))


class Sparse(Own):
    def prepare(self):
        self.register_buffer("graph", torch.eye(3).to_sparse())


class InfiniteMask(Own):
    def prepare(self):
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))


class ExtraState(Own):
    def get_extra_state(self):
        return {"made": "today"}

    def set_extra_state(self, state):
        pass


class SqueezesTheBatch(Own):
    """A batch of one image loses its first dimension."""

    def forward(self, x):
        return super().forward(x)[..., None].squeeze()


class TakesNoSingleImage(Own):
    def between(self, features):
        assert len(features) > 1, "batches of two"
        return super().between(features)


def lazy(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(num_classes))


class CannotBeCopied(Own):
    def prepare(self):
        self.lines = (line for line in "abc")


# Code that fails.

class Raises(Own):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("no\nsuch key")


class OfOneImageAlone(Own):
    def forward(self, x):
        return super().forward(x.view(3, *x.shape[2:])[None])


class EndsTheProgram(Own):
    def prepare(self):
        sys.exit("usage: train.py FILE")


class EndsTheProgramLater(Own):
    def between(self, features):
        sys.exit(2)
