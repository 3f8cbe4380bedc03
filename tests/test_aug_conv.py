"""Aug-Conv: morphed images through it are plain images through the first layer, or it refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from models.vgg import VGG
from mole.aug_conv import AugConv, compose_matrix
from mole.first_layer import describe
from mole.morphing import (
    draw_core,
    draw_usable_core,
    invert_core,
    morph,
    relative_error,
    secret_generator,
)
from tests.layers import REAL, Case, random_cases, real_case, shuffle, through_aug_conv
from utils.devices import use_full_float32

# Of float32 features; what draw_usable_core allows is a condition number of 5q and, for uniform
# cores, 5q·√(3q/4).
BOUNDS = {"orthogonal": 2e-6, "normal": 5e-4, "uniform": 1e-2}


# Right, for any layer and any images.

@given(st.booleans().flatmap(lambda by_tiles: random_cases(by_tiles)))
@settings(max_examples=150, deadline=None)
def test_aug_conv_on_morphed_images_is_any_first_layer_on_plain_ones(case):
    images, order = case.images(), shuffle(case.layer)
    features = through_aug_conv(case, images, order=order)
    expected = case.layer(images)[:, order]
    assert features.shape == expected.shape
    torch.testing.assert_close(features, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("by_tiles", [True, False], ids=["by tiles", "without tiles"])
@pytest.mark.parametrize("name", REAL)
def test_aug_conv_is_the_first_layers_of_real_networks(name, by_tiles):
    case = real_case(name, by_tiles)
    images = case.images()
    torch.testing.assert_close(through_aug_conv(case, images), case.layer(images),
                               rtol=1e-12, atol=1e-12)


@given(random_cases(by_tiles=True), st.tuples(*[st.integers(-2, 5)] * 4))
@settings(max_examples=80, deadline=None)
def test_aug_conv_is_any_convolution_that_pads_each_side_by_itself(case, padding):
    """Also where a negative number cuts rows or columns off."""
    top, bottom, left, right = padding
    lopsided = describe(case.layer)._replace(padding=padding)
    side = max(case.shape[1], *(reach + 5 for reach in lopsided.reach))
    case = Case(case.layer, (case.shape[0], side, side), case.tile)
    images = case.images()
    layer = case.layer
    expected = F.conv2d(F.pad(images, (left, right, top, bottom)), layer.weight, layer.bias,
                        layer.stride, 0, layer.dilation, layer.groups)
    for tile in (case.tile, 0):
        if tile or math.prod(case.shape) <= 500:
            found = through_aug_conv(Case(layer, case.shape, tile), images, lopsided)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@given(random_cases(by_tiles=False), st.sampled_from(list(BOUNDS)), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_float32_features_are_right_to_what_the_core_allows(case, distribution, seed):
    layer = case.layer.float()
    core, inverse, _ = draw_usable_core(case.q, distribution, secret_generator(seed), attempts=50)
    images = case.images(5, torch.float32)
    convolution = describe(layer).with_less_padding(case.image_padding)
    aug_conv = AugConv.compose(convolution, inverse, case.morphed_from, shuffle(layer))
    features = aug_conv(morph(F.pad(images, [case.image_padding] * 4), core))
    expected = layer.double()(images.double())[:, shuffle(layer)]
    assert features.dtype == torch.float32
    assert relative_error(features, expected) < BOUNDS[distribution]


def test_features_at_the_papers_size():
    """3x32x32, kappa 1, a uniform core; 4 channels, since their number changes nothing."""
    layer = nn.Conv2d(3, 4, 3, padding=1, bias=False).requires_grad_(False)
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    core, inverse, _ = draw_usable_core(3072, "uniform", secret_generator(3))
    aug_conv = AugConv.compose(layer, inverse, (3, 32, 32))
    assert relative_error(aug_conv(morph(images, core)), layer(images)) < BOUNDS["uniform"]


def test_composing_is_the_product_of_the_inverse_with_the_unrolled_convolution():
    layer = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False).double().requires_grad_(False)
    inverse = invert_core(draw_core(25, "normal", secret_generator(2))).double()
    order = torch.tensor([2, 0, 1])
    each_entry = torch.eye(50, dtype=torch.float64).view(50, 2, 5, 5)
    unrolled = layer(each_entry)[:, order].flatten(1)     # row i: what entry i alone gives
    weight = compose_matrix(describe(layer), inverse, (2, 5, 5), order)
    torch.testing.assert_close(weight, torch.block_diag(inverse, inverse) @ unrolled)


def test_no_order_leaves_the_channels_as_they_are():
    case = real_case("ConvNeXt")
    images = case.images()
    identity = torch.arange(case.layer.out_channels)
    assert torch.equal(through_aug_conv(case, images),
                       through_aug_conv(case, images, order=identity))


def test_the_bias_comes_along_in_aug_convs_order():
    layer = nn.Conv2d(3, 4, 3)
    order = torch.tensor([2, 0, 3, 1])
    for tile in (0, 4):
        inverse = torch.eye(3 * (tile or 8) ** 2)
        assert torch.equal(AugConv.compose(layer, inverse, (3, 8, 8), order, tile).bias,
                           layer.bias[order])
    assert AugConv.compose(nn.Conv2d(3, 4, 3, bias=False), torch.eye(192), (3, 8, 8)).bias is None


# Refused in words.

class Standardised(nn.Conv2d):
    """Weight standardisation, as in ResNet with group normalisation."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias, self.stride,
                        self.padding)


class SameAsTensorFlow(nn.Conv2d):
    """With a stride, TensorFlow's `same` pads more to the right and below."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


class Logged(nn.Conv2d):
    """A subclass that computes what a convolution computes."""

    def forward(self, x):
        self.last_shape = x.shape
        return super().forward(x)


def with_hook(layer: nn.Conv2d, hook) -> nn.Conv2d:
    layer.register_forward_hook(hook)
    return layer


SHAPE = (3, 8, 8)
DOES_MORE = "does not compute the convolution of its weights"
# What is composed, with which side of the core and tile; and the words that refuse it.
REFUSED = {
    "padding by reflection": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), 192, 0,
                              "pads with 'reflect', not with zeros"),
    "circular padding": (nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular"), 192, 0,
                         "pads with 'circular', not with zeros"),
    "no convolution": (nn.Linear(192, 4), 192, 0, "is a Linear, not a Conv2d"),
    "transposed convolution": (nn.ConvTranspose2d(3, 4, 3), 192, 0, "is a ConvTranspose2d"),
    "weight standardisation": (Standardised(3, 4, 3), 192, 0, "a Standardised, " + DOES_MORE),
    "same as in TensorFlow": (SameAsTensorFlow(3, 4, 3, 2), 48, 4, DOES_MORE),
    "hook that changes features": (with_hook(nn.Conv2d(3, 4, 3), lambda *x: 2 * x[-1]), 192, 0,
                                   DOES_MORE),
    "hook that gives a tuple": (with_hook(nn.Conv2d(3, 4, 3), lambda *x: (x[-1],)), 192, 0,
                                DOES_MORE),
    "other channels": (nn.Conv2d(1, 4, 3), 192, 0, "takes 1 channels, but the images have 3"),
    "kernel larger than the images": (nn.Conv2d(3, 4, 9), 192, 0,
                                      "kernel is larger than the images 8x8"),
    "core of another tile": (nn.Conv2d(3, 4, 3), 48, 8, "48x48, but tiles of 8 .* 192 entries"),
    "larger core than a tile's": (nn.Conv2d(3, 4, 3), 192, 4, "192x192, but tiles of 4"),
    "core of other images": (nn.Conv2d(3, 4, 3), 75, 0, "75 does not divide the 192 entries"),
    "tile that the stride does not divide": (nn.Conv2d(3, 4, 4, 4), 108, 6,
                                             "tile is 6, .*stride 4: the next is 8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_aug_conv_cannot_represent_is_refused(name):
    layer, q, tile, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as refused:
        AugConv.compose(layer, torch.eye(q), SHAPE, tile=tile)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("layer", [
    Logged(3, 4, 3), with_hook(nn.Conv2d(3, 4, 3), lambda *x: None)], ids=["subclass", "hook"])
def test_what_computes_a_convolution_is_taken(layer):
    images = torch.randn(2, *SHAPE)
    aug_conv = AugConv.compose(layer, torch.eye(192), SHAPE)
    torch.testing.assert_close(aug_conv(images.flatten(1)), layer(images).detach())


@pytest.mark.parametrize("tile", [2, 3, 6, 9], ids="tile {}".format)
def test_tiles_must_be_a_multiple_of_the_stride_and_the_next_one_is_named(tile):
    following = 4 * math.ceil(tile / 4)
    with pytest.raises(ValueError, match=f"tile is {tile}, .*stride 4: the next is {following}"):
        AugConv.compose(nn.Conv2d(3, 8, 4, stride=4), torch.eye(3 * tile * tile), (3, 36, 36),
                        tile=tile)


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 1, 2, 2], [1, 2, 3, 4]], ids=str)
def test_an_order_must_have_each_channel_once(order):
    with pytest.raises(ValueError, match="each of the layer's 4 channels once"):
        AugConv.compose(nn.Conv2d(3, 4, 3), torch.eye(192), SHAPE, torch.tensor(order))


def test_an_order_may_be_a_list():
    layer = nn.Conv2d(3, 4, 3)
    by_list, by_tensor = (AugConv.compose(layer, torch.eye(192), SHAPE, order)
                          for order in ([2, 0, 3, 1], torch.tensor([2, 0, 3, 1])))
    assert torch.equal(by_list.weight, by_tensor.weight)


def aug_conv_of(tile: int) -> AugConv:
    inverse = torch.eye(3 * (tile or 8) ** 2)
    return AugConv.compose(nn.Conv2d(3, 4, 3), inverse, SHAPE, tile=tile)


# The tile of Aug-Conv, the shape of what it is given, and the words that refuse it.
MORPHED_OTHERWISE = {
    "without tiles, into one by tiles": (4, (2, 192), "morphed by tiles, .* morph with the same"),
    "by tiles, into one without": (0, (2, 48, 2, 2), "without tiles, .* morph without tiles"),
    "images that are not morphed": (0, (2, 3, 8, 8), "morphed without tiles"),
    "by other tiles": (4, (2, 12, 4, 4), "48 entries a tile, not for .2, 12, 4, 4."),
    "of other images": (0, (2, 300), "192 entries, not for .2, 300."),
    "of larger images, by tiles": (4, (2, 48, 3, 3), "2x2 tiles, not for .2, 48, 3, 3.: .* size"),
    "of smaller images, by tiles": (4, (2, 48, 1, 1), "2x2 tiles, not for .2, 48, 1, 1."),
    "of images that are not square": (4, (2, 48, 2, 3), "2x2 tiles, not for .2, 48, 2, 3."),
}


@pytest.mark.parametrize("name", MORPHED_OTHERWISE)
def test_images_that_were_morphed_otherwise_are_refused(name):
    tile, shape, words = MORPHED_OTHERWISE[name]
    with pytest.raises(ValueError, match=words) as refused:
        aug_conv_of(tile)(torch.zeros(shape))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8], ids=str)
@pytest.mark.parametrize("tile", [0, 4], ids="tile {}".format)
def test_integers_without_their_scale_are_refused(tile, dtype):
    morphed = torch.zeros(2, 48, 2, 2) if tile else torch.zeros(2, 192)
    with pytest.raises(ValueError, match="floating point, and multiply them by their scale"):
        aug_conv_of(tile)(morphed.to(dtype))


# The shape of a weight, that of features, more arguments: none fits the others.
MISFITS = {
    "fewer columns": ((192, 4095), (64, 8, 8), {}),
    "other features": ((192, 4096), (64, 8, 9), {}),
    "vector": ((4096,), (64, 8, 8), {}),
    "bias of other channels": ((192, 4096), (64, 8, 8), {"bias": torch.zeros(63)}),
    "tiles of other channels": ((192, 63, 4, 4), (64, 8, 8), {"step": (2, 2)}),
    "tiles without a step": ((192, 64, 4, 4), (64, 8, 8), {}),
}


@pytest.mark.parametrize("name", MISFITS)
def test_shapes_that_do_not_fit_each_other_are_refused(name):
    weight, out_shape, more = MISFITS[name]
    with pytest.raises(ValueError, match=r"does not (give|fit)"):
        AugConv(torch.zeros(weight), out_shape, **more)


# A layer of a network.

def test_it_is_saved_and_moved_with_its_network_and_never_trained():
    network = VGG("vgg11", 10, side=8)
    network.first_layer = AugConv(torch.randn(192, 4096), (64, 8, 8), torch.randn(64))
    assert not list(network.first_layer.parameters())
    assert {"first_layer.weight", "first_layer.bias"} <= set(network.state_dict())
    assert network(torch.randn(2, 192)).shape == (2, 10)
    network.to("meta")
    assert network.first_layer.weight.is_meta and network.first_layer.bias.is_meta


@pytest.mark.parametrize("tile", [0, 4], ids=["without tiles", "by tiles"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_what_is_handed_over_makes_the_same_layer(tile, bias):
    inverse = torch.eye(3 * (tile or 8) ** 2)
    aug_conv = AugConv.compose(nn.Conv2d(3, 4, 3, bias=bias), inverse, SHAPE, tile=tile)
    again = AugConv(**aug_conv.to_dict())
    morphed = morph(torch.randn(2, *SHAPE), inverse, tile)
    assert torch.equal(again(morphed), aug_conv(morphed))


@pytest.mark.parametrize("layer, tile", [
    (nn.Conv2d(3, 4, 3), 0), (nn.Conv2d(3, 4, 3), 4), (nn.Conv2d(3, 4, 4, 4), 4),
    (nn.Conv2d(3, 4, 1), 1)], ids=["without tiles", "by tiles", "patches", "pixels"])
def test_its_weights_are_those_of_any_layer(layer, tile):
    """Even if it was composed in inference: a state can be loaded, gradients pass through."""
    with torch.no_grad():
        aug_conv = AugConv.compose(layer, torch.eye(3 * (tile or 8) ** 2), SHAPE, tile=tile)
    aug_conv.load_state_dict(aug_conv.state_dict())
    morphed = morph(torch.randn(2, *SHAPE), torch.eye(3 * (tile or 8) ** 2), tile)
    aug_conv(morphed.requires_grad_()).sum().backward()
    assert morphed.grad.isfinite().all() and morphed.grad.any()


@pytest.mark.parametrize("order", [torch.randperm(4).float(), torch.ones(4), torch.arange(3)],
                         ids=["floating point", "one channel four times", "too few"])
def test_an_order_that_is_no_permutation_is_refused(order):
    with pytest.raises(ValueError, match="order must have each of the layer's 4 channels once"):
        AugConv.compose(nn.Conv2d(3, 4, 3), torch.eye(192), SHAPE, order)


@pytest.fixture
def imprecise():
    """Products of float32 in bfloat16 where the processor can, as a user may have set it."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("tile", [0, 8], ids=["without tiles", "by tiles"])
def test_it_computes_in_full_float32(imprecise, tile):
    """In autocast, and once a step has begun, whatever the precision was before."""
    core, inverse, _ = draw_usable_core(192, "normal", secret_generator(0))
    layer = nn.Conv2d(3, 4, 3, padding=1)
    side = 8 if not tile else 16
    aug_conv = AugConv.compose(layer, inverse, (3, side, side), tile=tile)
    morphed = morph(torch.randn(64, 3, side, side), core, tile)
    use_full_float32()
    with torch.autocast("cpu", torch.bfloat16):
        found = aug_conv(morphed)
    exact = aug_conv.double()(morphed.double())
    assert found.dtype == torch.float32 and exact.dtype == torch.float64
    assert relative_error(found, exact) < 3e-5


def test_weights_that_are_not_finite_are_refused_in_words():
    layer = nn.Conv2d(3, 4, 3).requires_grad_(False)
    layer.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="weights are not finite"):
        AugConv.compose(layer, torch.eye(192), (3, 8, 8))
