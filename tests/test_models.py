"""The networks, and Aug-Conv as a layer of one."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.vgg import GROUPS, VGG, Conv3x3
from mole.aug_conv import AugConv
from mole.morphing import fitted_padding, relative_error
from utils.devices import full_float32


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


def test_vgg16_has_the_multiply_adds_of_the_paper():
    network = VGG("vgg16", 10).eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() / 2 == pytest.approx(313.2e6, rel=1e-3)


@pytest.mark.parametrize("side", [8, 20, 32, 64])
def test_vgg_takes_images_of_any_side(side):
    assert VGG("vgg11", 10, side=side)(torch.zeros(2, 3, side, side)).shape == (2, 10)


def test_padded_images_give_the_same_features():
    network, images = VGG("vgg11", 10, side=16).eval(), torch.randn(2, 3, 16, 16)
    plain = network(images)
    network.first_layer.padding = fitted_padding(network.first_layer.padding, 1)
    torch.testing.assert_close(network(nn.functional.pad(images, [1] * 4)), plain)


def test_aug_conv_is_saved_and_moved_with_its_network_and_never_trained():
    network = VGG("vgg11", 10, side=8)
    network.first_layer = AugConv(torch.randn(192, 4096), (64, 8, 8), torch.randn(64))
    assert not list(network.first_layer.parameters())
    assert "first_layer.weight" in network.state_dict()
    assert network(torch.randn(2, 192)).shape == (2, 10)
    network.to("meta")
    assert network.first_layer.weight.is_meta and network.first_layer.bias.is_meta


@pytest.mark.parametrize("weight, out_shape, more", [
    ((192, 4095), (64, 8, 8), {}), ((192, 4096), (64, 8, 9), {}), ((4096,), (64, 8, 8), {}),
    ((192, 4096), (64, 8, 8), {"bias": torch.zeros(63)}),
    ((192, 63, 4, 4), (64, 8, 8), {"step": (2, 2)}), ((192, 64, 4, 4), (64, 8, 8), {})])
def test_aug_conv_refuses_shapes_that_do_not_fit(weight, out_shape, more):
    with pytest.raises(ValueError, match=r"does not (give|fit)"):
        AugConv(torch.zeros(weight), out_shape, **more)


@pytest.fixture
def imprecise():
    """Products of float32 in bfloat16 where the processor can, as a user may have set it."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


DENSE = (256, 256), (4, 8, 8), {}
TILED = (256, 4, 8, 8), (4, 32, 32), {"step": (4, 4)}


@pytest.mark.parametrize("weight, out_shape, more", [DENSE, TILED])
def test_aug_conv_computes_in_full_float32(imprecise, weight, out_shape, more):
    """In autocast, and once a step has begun, whatever the precision was before."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(weight, generator=generator)
    images = torch.randn(64, 256, *(4, 4) * (weight.ndim == 4), generator=generator)
    full_float32()
    with torch.autocast("cpu", torch.bfloat16):
        result = AugConv(weight, out_shape, **more)(images)
    exact = AugConv(weight.double(), out_shape, **more)(images)
    assert result.dtype == torch.float32 and exact.dtype == torch.float64
    assert relative_error(result, exact) < 1e-6


def test_bias_is_added_to_each_channel():
    bias = torch.arange(4.0)
    features = AugConv(torch.zeros(12, 4 * 9), (4, 3, 3), bias)(torch.randn(2, 12))
    assert torch.equal(features, bias.view(-1, 1, 1).expand(2, 4, 3, 3))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 4), (3, 5), (8, 8)])
def test_a_convolution_of_small_maps_is_torchs(size):
    """In bfloat16: values and gradients, up to its rounding; in float32 to the bit."""
    own, torchs = Conv3x3(8, 16, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
    torchs.load_state_dict(own.state_dict())
    x = torch.randn(4, 8, *size)
    assert torch.equal(own(x), torchs(x))
    found = []
    for layer in (own, torchs):
        image = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(image)
        y.float().square().sum().backward()
        found.append((y.detach().float(), image.grad, layer.weight.grad, layer.bias.grad))
    for mine, its in zip(*found, strict=True):
        assert relative_error(mine, its) < 0.02
