"""VGG as the authors' scripts build it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from models import vgg
from models.vgg import GROUPS, VGG, Conv3x3
from mole.first_layer import describe
from mole.morphing import relative_error


@pytest.mark.parametrize("model, layers", [("vgg11", 8), ("vgg13", 10), ("vgg16", 13),
                                           ("vgg19", 16)])
def test_vgg_is_the_references(model, layers):
    """Conv, ReLU, BatchNorm; dropout before each convolution that is not first after a pool."""
    network = VGG(model, 7)
    parts = list(network.rest)
    convolutions = [i for i, part in enumerate(parts) if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == layers - 1
    for i in convolutions:
        assert isinstance(parts[i + 1], nn.ReLU) and isinstance(parts[i + 2], nn.BatchNorm2d)
        assert isinstance(parts[i - 1], nn.Dropout2d | nn.MaxPool2d)
    assert sum(isinstance(part, nn.MaxPool2d) for part in parts) == 5
    alone = len(GROUPS[model][0]) == 1                    # then a pool follows the first layer
    assert isinstance(parts[0], nn.Dropout2d)
    assert sum(isinstance(part, nn.Dropout2d) for part in parts) == layers - 5 + alone
    assert network.first_layer.weight.shape == (64, 3, 3, 3) and network.first_layer.bias is None
    assert parts[-1].in_features == 512
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_dropout_is_as_strong_as_asked():
    dropouts = [part for part in VGG("vgg11", 10, dropout=0.3).rest
                if isinstance(part, nn.Dropout2d)]
    assert dropouts and all(part.p == 0.3 for part in dropouts)


def test_vgg16_has_the_multiply_adds_that_the_overheads_are_counted_against():
    network = VGG("vgg16", 10).eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() / 2 == pytest.approx(313.2e6, rel=1e-3)


@pytest.mark.parametrize("side", [1, 8, 20, 33, 64], ids="{} pixels".format)
def test_vgg_takes_images_of_any_side_and_channels(side):
    network = VGG("vgg11", 10, channels=2, side=side)
    assert network(torch.zeros(2, 2, side, side)).shape == (2, 10)


def test_padded_images_give_the_same_features():
    """With so much less padding in the first layer."""
    layer, images = VGG("vgg11", 10, side=16).first_layer, torch.randn(2, 3, 16, 16)
    without_padding = describe(layer).with_less_padding(1)
    assert without_padding.padding == (0, 0, 0, 0)
    torch.testing.assert_close(without_padding(F.pad(images, [1] * 4)), layer(images).detach())
    with pytest.raises(ValueError, match=r"image_padding is 2, .* pads its images by 1 only"):
        describe(layer).with_less_padding(2)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 4), (3, 5), (8, 8)], ids=str)
@pytest.mark.parametrize("bfloat16", [True, False], ids=["bfloat16", "float32"])
def test_a_convolution_of_small_maps_is_torchs(size, bfloat16, monkeypatch):
    """Values and gradients, up to the rounding of the precision, as on any processor."""
    monkeypatch.setattr(vgg, "_product_is_faster", lambda: True)
    own, torchs = Conv3x3(8, 16), nn.Conv2d(8, 16, 3, padding=1)
    torchs.load_state_dict(own.state_dict())
    x = torch.randn(4, 8, *size)
    found = []
    for layer in (own, torchs):
        image = x.clone().requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            y = layer(image)
        y.float().square().sum().backward()
        found.append((y.detach().float(), image.grad, layer.weight.grad, layer.bias.grad))
    for mine, its in zip(*found, strict=True):
        assert relative_error(mine, its) < (0.02 if bfloat16 else 1e-5)
