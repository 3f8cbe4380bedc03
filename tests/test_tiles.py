"""Morphing by tiles: Aug-Conv as a transposed convolution, for any first layer and any image."""

from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from models.build import build
from mole import first_layer
from mole.aug_conv import AugConv
from mole.morphing import (
    compose_aug_conv,
    compose_by_tiles,
    core_size,
    draw_core,
    fitted_padding,
    invert_core,
    morph,
    morphed_shape,
    relative_error,
    secret_generator,
)

BOUNDS = {"orthogonal": 2e-6, "normal": 1e-4}            # relative error of float32 features


@lru_cache(8)
def core_and_inverse(q, distribution, dtype):
    core = draw_core(q, distribution, secret_generator(q, 0)).to(dtype)
    return core, torch.linalg.inv(core) if dtype == torch.float64 else invert_core(core)


def through_tiles(layer, plain, tile, distribution, image_padding=0):
    """Features behind Aug-Conv and of the plain layer, channels shuffled, in the layer's dtype."""
    expected = layer(plain)
    images = F.pad(plain, [image_padding] * 4)
    shape = images.shape[1:]
    core, inverse = core_and_inverse(core_size(shape, tile=tile), distribution, plain.dtype)
    order = torch.randperm(layer.out_channels, generator=torch.Generator().manual_seed(0))
    own, layer.padding = layer.padding, fitted_padding(layer.padding, image_padding)
    parts = compose_by_tiles(layer, inverse, tile, shape, order)
    layer.padding = own
    aug_conv = AugConv(**parts, bias=None if layer.bias is None else layer.bias[order])
    morphed = morph(images, core, tile)
    assert morphed.shape[1:] == morphed_shape(shape, tile) and morphed.dtype == plain.dtype
    return aug_conv(morphed), expected[:, order]


def two(least, most):
    """A pair of numbers, such as a rectangular kernel's."""
    return st.tuples(st.integers(least, most), st.integers(least, most))


@st.composite
def geometries(draw):
    """A first layer, the side of its images, their padding, and a side of tiles that it allows."""
    channels = draw(st.integers(1, 4))
    groups = draw(st.sampled_from([g for g in (1, 2) if channels % g == 0]))
    stride, padding, dilation = draw(two(1, 3)), draw(two(0, 4)), draw(two(1, 2))
    layer = dict(in_channels=channels, out_channels=groups * draw(st.integers(1, 4)),
                 kernel_size=draw(two(1, 6)), stride=stride, padding=padding, dilation=dilation,
                 groups=groups, bias=draw(st.booleans()))
    reach = max(d * (k - 1) + 1 - 2 * p for d, k, p in zip(
        dilation, layer["kernel_size"], padding, strict=True))
    side = draw(st.integers(max(3, reach), max(14, reach)))
    step = next(s for s in range(1, 7) if not s % stride[0] and not s % stride[1])
    return layer, side, draw(st.integers(0, min(2, *padding))), step * draw(
        st.integers(1, max(1, 8 // step)))


@given(geometries(), st.sampled_from(["orthogonal", "normal"]))
@settings(max_examples=100, deadline=None)
def test_any_first_layer_behind_any_tiles(geometry, distribution):
    arguments, side, image_padding, tile = geometry
    torch.manual_seed(0)
    layer = nn.Conv2d(**arguments, dtype=torch.float64).requires_grad_(False)
    plain = torch.randn(3, arguments["in_channels"], side, side, dtype=torch.float64)
    features, expected = through_tiles(layer, plain, tile, distribution, image_padding)
    assert features.shape == expected.shape
    torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-9)


def test_one_tile_is_the_papers_kappa_of_one():
    """The same morphed images, and the same matrix where Aug-Conv is unrolled."""
    layer = nn.Conv2d(2, 5, 3, padding=1, bias=False).requires_grad_(False)
    core = draw_core(128, "orthogonal", secret_generator(0, 0))
    images, order = torch.randn(4, 2, 8, 8), torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(morph(images, core, 8).flatten(1), morph(images, core))
    tiled = AugConv(**compose_by_tiles(layer, core.T, 8, (2, 8, 8), order))
    dense = compose_aug_conv(layer, core.T, (2, 8, 8), order)["weight"]
    unrolled = tiled(torch.eye(128).view(128, 128, 1, 1)).flatten(1)
    torch.testing.assert_close(unrolled, dense, rtol=1e-4, atol=1e-5)


@given(two(1, 4), two(1, 6), two(1, 4), two(-3, 3), two(1, 12))
@settings(max_examples=100, deadline=None)
def test_by_tiles_it_is_torchs_transposed_convolution(tiles, kernel, step, offset, size):
    """A window that overlaps it, zeros where it does not."""
    offset = tuple(max(o, 1 - n) for o, n in zip(offset, size, strict=True))
    offset = tuple(min(o, s * (t - 1)) for o, t, s in zip(offset, tiles, step, strict=True))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *tiles, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 4, *kernel, generator=generator, dtype=torch.float64)
    whole = F.pad(F.conv_transpose2d(x, weight, stride=step), [20] * 4)
    expected = whole[:, :, 20 + offset[0]:, 20 + offset[1]:][:, :, :size[0], :size[1]]
    aug_conv = AugConv(weight, (4, *size), None, step, offset)
    torch.testing.assert_close(aug_conv(x), expected)


def test_tiles_that_the_stride_does_not_divide_are_refused_with_the_next_that_it_does():
    for tile, fitting in ((6, 8), (9, 12), (2, 4)):
        with pytest.raises(ValueError, match=f"tile is {tile}, .*stride 4: the next is {fitting}"):
            compose_by_tiles(nn.Conv2d(3, 8, 4, stride=4), torch.eye(3 * tile * tile), tile,
                             (3, 36, 36), torch.arange(8))


@pytest.mark.parametrize("layer, shape, message", [
    (nn.Conv2d(1, 2, 3), (3, 8, 8), "takes 1 channels"),
    (nn.Conv2d(3, 2, 9), (3, 4, 4), "larger than the images")])
def test_a_first_layer_that_does_not_fit_is_refused(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        compose_by_tiles(layer, torch.eye(48), 4, shape, torch.arange(2))


# Real first layers, at real size: a network, the sides of its images, and of tiles.
LAYERS = [("vgg16", (28, 32), 8), ("vgg16", (32,), 16), ("resnet18", (28, 32), 8),
          ("resnet18", (28, 32, 64, 224), 16), ("densenet121", (64, 224), 16),
          ("mobilenet_v3_small", (28, 32, 64, 224), 16), ("efficientnet_b0", (28, 32, 224), 8),
          ("convnext_tiny", (32, 64, 224), 16), ("alexnet", (64, 224), 16),
          ("vit_b_16", (32, 224), 16), ("squeezenet1_1", (28, 32, 224), 8),
          ("tests.own_networks:strided", (28, 32, 224), 8)]


@pytest.mark.parametrize("model, sides, tile", LAYERS)
def test_first_layers_of_real_networks(model, sides, tile):
    network = build(model, 2, (3, sides[0], sides[0]))
    layer = network.get_submodule(first_layer.find(network, (3, sides[0], sides[0])))
    layer.requires_grad_(False)
    for side in sides:
        plain = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(side))
        for distribution, bound in BOUNDS.items():
            features, expected = through_tiles(layer.float(), plain, tile, distribution)
            assert features.shape == expected.shape and features.dtype == torch.float32
            assert relative_error(features, expected) < bound
        assert relative_error(*through_tiles(layer.double(), plain.double(), tile, "normal")) < 1e-9
