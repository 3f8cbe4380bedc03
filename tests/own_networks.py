"""Networks of a user's own, as `--model tests.own_networks:NAME` calls them: Aug-Conv can stand
for the first layer of each. Images of 3 channels, any side from 8 on, where nothing else is said.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.models import VisionTransformer
from torchvision.ops import StochasticDepth


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


def tail(num_classes: int, channels: int = 8) -> nn.Sequential:
    """Features to logits."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(4 * channels, num_classes))


def chain(num_classes: int, *middle: nn.Module, channels: int = 8) -> nn.Sequential:
    """A first layer 3x3 to 8 channels, what is given, and the logits of so many channels."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *middle, tail(num_classes, channels))


# First layers of other geometries.

def even_kernel(num_classes: int) -> nn.Module:
    """`same` pads one more to the right and below."""
    return nn.Sequential(nn.Conv2d(3, 8, 4, padding="same"), nn.ReLU(), tail(num_classes))


def dilated(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, dilation=2), nn.ReLU(), tail(num_classes))


def depthwise(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.ReLU(),
                         tail(num_classes, 6))


def one_by_one(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), tail(num_classes))


def rectangular(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, (5, 2), (2, 1), (0, 1)), nn.ReLU(), tail(num_classes))


def nested(num_classes: int) -> nn.Module:
    stem = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3)), nn.ReLU())
    return nn.Sequential(stem, tail(num_classes))


class Logged(nn.Conv2d):
    """A subclass that computes what a convolution computes."""

    def forward(self, x):
        self.last_shape = x.shape
        return super().forward(x)


def subclass(num_classes: int) -> nn.Module:
    return nn.Sequential(Logged(3, 8, 3), nn.ReLU(), tail(num_classes))


def watched(num_classes: int) -> nn.Module:
    """A hook that changes nothing."""
    network = chain(num_classes, nn.ReLU())
    network[0].register_forward_hook(lambda layer, inputs, features: None)
    return network


# What comes after the first layer.

def in_place_leaky(num_classes: int) -> nn.Module:
    return chain(num_classes, nn.LeakyReLU(0.1, inplace=True))


def in_place_silu(num_classes: int) -> nn.Module:
    return chain(num_classes, nn.SiLU(inplace=True), nn.Conv2d(8, 8, 3), nn.ELU(inplace=True))


def in_place_dropout(num_classes: int) -> nn.Module:
    return chain(num_classes, nn.Dropout2d(0.3, inplace=True), nn.Hardswish(inplace=True))


def group_norm(num_classes: int) -> nn.Module:
    return chain(num_classes, nn.GroupNorm(2, 8), nn.GELU())


def instance_norm(num_classes: int) -> nn.Module:
    return chain(num_classes, nn.InstanceNorm2d(8, affine=True), nn.ReLU())


def many_dropouts(num_classes: int) -> nn.Module:
    return chain(num_classes, nn.Dropout2d(0.5), nn.ReLU(), nn.AlphaDropout(0.2), nn.Dropout(0.5))


def dense_maxpool(num_classes: int) -> nn.Module:
    return chain(num_classes, nn.MaxPool2d(2), nn.PReLU(8), nn.Conv2d(8, 16, 1), nn.Softplus(),
                 channels=16)


def twenty_layers() -> list[nn.Module]:
    """PyTorch's first weights shrink what they pass on: logits are biases, nearly."""
    layers = []
    for _ in range(20):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.Tanh()]
    return layers


def hardly_sees(num_classes: int) -> nn.Module:
    return chain(num_classes, *twenty_layers())


def log_softmax(num_classes: int) -> nn.Module:
    return chain(num_classes, nn.ReLU()).append(nn.LogSoftmax(1))


def data_parallel(num_classes: int) -> nn.Module:
    return nn.DataParallel(chain(num_classes, nn.ReLU()))


class Residual(nn.Module):
    """A branch that is switched off at first, dropped at random, beside the input."""

    def __init__(self, channels: int, gate: float):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1),
                                    nn.BatchNorm2d(channels), nn.ReLU())
        self.gate = nn.Parameter(torch.full((1, channels, 1, 1), gate))
        self.drop = StochasticDepth(0.5, "row")

    def forward(self, x):
        return x + self.drop(self.gate * self.branch(x))


def zero_gates(num_classes: int) -> nn.Module:
    return chain(num_classes, Residual(8, 0.0), Residual(8, 0.0))


def layer_scale(num_classes: int) -> nn.Module:
    return chain(num_classes, Residual(8, 1e-6), nn.ReLU(), Residual(8, 1e-6))


def frozen_part(num_classes: int) -> nn.Module:
    network = chain(num_classes, nn.Conv2d(8, 8, 3), nn.ReLU())
    network[1].requires_grad_(False)
    return network


class Own(nn.Module):
    """A first layer and a tail; what a subclass does between them."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.rest = tail(num_classes)
        self.prepare()

    def prepare(self):
        pass

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.between(self.first(x)))

    def between(self, features: Tensor) -> Tensor:
        return F.relu(features)


class ComputesItsWeight(Own):
    """With a property, which is no weight of PyTorch's."""

    def prepare(self):
        self.log = nn.Parameter(torch.zeros(()))

    @property
    def weight(self) -> Tensor:
        return self.log.exp()

    def between(self, features):
        return F.relu(self.weight * features)


class ChannelsLast(Own):
    def forward(self, x):
        return super().forward(x.contiguous(memory_format=torch.channels_last))


class Copied(Own):
    """Its first layer gets the image from elsewhere in memory, but the same image."""

    def forward(self, x):
        return super().forward(x.clone())


class OverwritesItsImage(Own):
    """Once it is used: nothing depends on that."""

    def forward(self, x):
        logits = super().forward(x)
        x.zero_()
        return logits


class ChannelsLastAndDropout(ChannelsLast):
    """Dropout is drawn in the order of the memory."""

    def prepare(self):
        self.drop = nn.Dropout(0.5)

    def between(self, features):
        return self.drop(features)


class IdentityFirst(Own):
    def prepare(self):
        self.before = nn.Identity()

    def forward(self, x):
        return super().forward(self.before(x))


class LooksAtTheShape(Own):
    """Of its image, as vision transformers and detectors do."""

    def forward(self, x):
        features = self.first(x)
        return self.rest(F.interpolate(features, size=x.shape[2:]) * x.shape[-1])


class SkipsToTheEnd(Own):
    """The features are used again, not the image."""

    def prepare(self):
        self.middle = nn.Conv2d(8, 8, 3, padding=1)

    def between(self, features):
        return features + torch.relu(self.middle(features))


class SqueezesAndExcites(Own):
    def prepare(self):
        self.gate = nn.Linear(8, 8)

    def between(self, features):
        return features * torch.sigmoid(self.gate(features.mean((2, 3))))[:, :, None, None]


class Concatenates(Own):
    def prepare(self):
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.narrow = nn.Conv2d(16, 8, 1)

    def between(self, features):
        return self.narrow(torch.cat([features, self.middle(features)], 1))


class Attends(Own):
    def prepare(self):
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1), persistent=False)

    def between(self, features):
        tokens = F.adaptive_avg_pool2d(features, 2).flatten(2).mT
        seen = self.attention(tokens, tokens, tokens, attn_mask=self.mask)[0]
        return seen.mT.reshape(-1, 8, 2, 2)


class Recurs(Own):
    def prepare(self):
        self.gru = nn.GRU(8, 8, batch_first=True)

    def between(self, features):
        return self.gru(features.mean(3).mT)[0].mT[:, :, :, None].expand(-1, -1, -1, 2)


class Transforms(Own):
    """By Fourier."""

    def between(self, features):
        return torch.fft.rfft2(features).abs().log1p()


class Counts(Own):
    """Has buffers of whole numbers and of truth values, and counts its calls."""

    def prepare(self):
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("chosen", torch.tensor([True, False] * 4))

    def between(self, features):
        self.calls += 1
        return F.relu(features) * self.chosen[:, None, None]


class Checkpoints(Own):
    """Saves memory behind its first layer."""

    def prepare(self):
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())

    def between(self, features):
        return checkpoint(self.middle, features, use_reentrant=False)


class UnusedPart(Own):
    def prepare(self):
        self.unused = nn.Linear(3, 3)


class TiedWeights(Own):
    """One convolution twice, but not the first."""

    def prepare(self):
        self.middle = nn.Conv2d(8, 8, 3, padding=1)

    def between(self, features):
        return self.middle(torch.relu(self.middle(features)))


class SoftmaxInEvaluation(Own):
    """Trained on logits, as it should be."""

    def forward(self, x):
        logits = super().forward(x)
        return logits if self.training else logits.softmax(1)


class AddsNoiseInTraining(Own):
    def between(self, features):
        if not self.training:
            return features
        return features + 0.1 * torch.randn_like(features)


class Float32Inside(Own):
    """Part of it computes in float32 whatever comes in."""

    def between(self, features):
        return F.conv2d(features.float(), torch.ones(8, 8, 1, 1))
