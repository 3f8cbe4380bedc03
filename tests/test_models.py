"""The networks, and Aug-Conv as a layer of one."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models import first_layer
from models.aug_conv import AugConv, full_float32
from models.vgg import GROUPS, VGG

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("model, layers", [("vgg11", 8), ("vgg13", 10), ("vgg16", 13),
                                           ("vgg19", 16)])
def test_vgg_is_the_references(model, layers):
    """Conv, ReLU, BatchNorm; dropout before each convolution that is not first after a pool."""
    network = VGG(model, 7)
    parts = list(network.behind)
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
    network = VGG("vgg11", 10, side=18, first_padding=0).eval()
    plain = VGG("vgg11", 10, side=16).eval()
    plain.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(network(nn.functional.pad(images, [1] * 4)), plain(images))


def test_aug_conv_is_saved_and_moved_with_its_network_and_never_trained():
    network = VGG("vgg11", 10, side=8)
    network.first_layer = AugConv(torch.randn(192, 4096), (64, 8, 8), torch.randn(64))
    assert not list(network.first_layer.parameters())
    assert "first_layer.weight" in network.state_dict()
    assert network(torch.randn(2, 192)).shape == (2, 10)
    network.to("meta")
    assert network.first_layer.weight.is_meta and network.first_layer.bias.is_meta


@pytest.mark.parametrize("weight, out_shape, bias", [
    ((192, 4095), (64, 8, 8), None), ((192, 4096), (64, 8, 9), None), ((4096,), (64, 8, 8), None),
    ((192, 4096), (64, 8, 8), (63,))])
def test_aug_conv_refuses_shapes_that_do_not_fit(weight, out_shape, bias):
    with pytest.raises(ValueError):
        AugConv(torch.zeros(weight), out_shape, None if bias is None else torch.zeros(bias))


def product_error(device, enable):
    """Of Aug-Conv in float32 under a global setting that makes products less precise."""
    generator = torch.Generator().manual_seed(0)
    weight, images = (torch.randn(n, 256, generator=generator).to(device) for n in (256, 64))
    layer = AugConv(weight, (4, 8, 8))
    with enable():
        result = layer(images)
    assert result.dtype == torch.float32
    exact = images.double() @ weight.double()
    return float((result.flatten(1).double() - exact).norm() / exact.norm())


def autocast(device):
    return lambda: torch.autocast(device, torch.bfloat16)


class Imprecise:
    """torch.set_float32_matmul_precision("medium"), for a while."""

    def __enter__(self):
        torch.set_float32_matmul_precision("medium")

    def __exit__(self, *_):
        torch.set_float32_matmul_precision("highest")


def test_aug_conv_computes_in_full_float32_under_autocast_and_low_precision():
    assert product_error("cpu", autocast("cpu")) < 1e-6
    assert product_error("cpu", Imprecise) < 1e-6


@CUDA
def test_aug_conv_computes_in_full_float32_on_cuda():
    assert product_error("cuda", autocast("cuda")) < 1e-6
    assert product_error("cuda", Imprecise) < 1e-6


def test_full_float32_restores_the_settings():
    with Imprecise():
        with full_float32():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            assert not torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize("layer", [
    nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Conv2d(4, 6, (2, 3), 2, (1, 0), groups=2)])
def test_first_layer_survives_the_way_through_a_file(layer):
    again = first_layer.from_file(first_layer.to_file(layer))
    images = torch.randn(2, layer.in_channels, 9, 9)
    assert torch.equal(layer(images), again(images))


def test_a_damaged_first_layer_is_refused():
    content = first_layer.to_file(nn.Conv2d(4, 6, 3, groups=2)) | {"groups": 4}
    with pytest.raises(ValueError, match="do not fit together"):
        first_layer.from_file(content)
