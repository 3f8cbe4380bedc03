"""The mathematics: morphed images through Aug-Conv are plain images through the first layer."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag
from torch import nn

from mole.aug_conv import AugConv
from mole.morphing import (
    compose_aug_conv,
    condition_number,
    core_size,
    draw_core,
    fitted_padding,
    invert_core,
    morph,
    relative_error,
    residual,
    secret_generator,
    usable_core,
)

DISTRIBUTIONS = ["uniform", "normal", "orthogonal"]


def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def geometries(draw):
    channels, side, padding = draw(st.integers(1, 4)), draw(st.integers(3, 9)), draw(
        st.integers(0, 2))
    image_padding = draw(st.integers(0, padding))
    kernel = draw(st.integers(1, side + 2 * padding))
    groups = draw(st.sampled_from([g for g in divisors(channels) if g <= 2]))
    layer = dict(in_channels=channels, out_channels=groups * draw(st.integers(1, 5)),
                 kernel_size=kernel, stride=draw(st.integers(1, 3)), padding=padding,
                 groups=groups, bias=draw(st.booleans()))
    shape = (channels, side + 2 * image_padding, side + 2 * image_padding)
    kappa = draw(st.sampled_from(divisors(math.prod(shape))))
    return layer, side, image_padding, shape, kappa


@given(geometries(), st.sampled_from(DISTRIBUTIONS), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_aug_conv_on_morphed_images_is_the_first_layer_on_plain_ones(geometry, distribution, seed):
    arguments, side, image_padding, shape, kappa = geometry
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Conv2d(**arguments).requires_grad_(False)
    plain = torch.randn(5, arguments["in_channels"], side, side, generator=generator)
    expected = layer(plain)

    core = draw_core(core_size(shape, kappa), distribution, secret_generator(seed, 0))
    inverse = invert_core(core)
    order = torch.randperm(layer.out_channels, generator=generator)
    images = nn.functional.pad(plain, [image_padding] * 4)
    layer.padding = fitted_padding(layer.padding, image_padding)
    bias = None if layer.bias is None else layer.bias[order]
    features = AugConv(**compose_aug_conv(layer, inverse, shape, order), bias=bias)(
        morph(images, core))

    assert features.shape == expected.shape
    conditioning = float(torch.linalg.cond(core.double()))
    assert relative_error(features, expected[:, order]) < 1e-5 + 1e-6 * conditioning


@pytest.mark.parametrize("distribution, bound", [("uniform", 5e-3), ("orthogonal", 2e-6)])
def test_relative_error_at_full_size(distribution, bound):
    """3x32x32, 64 channels, kappa 1."""
    layer = nn.Conv2d(3, 64, 3, padding=1, bias=False).requires_grad_(False)
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    core, inverse, _ = usable_core(3072, distribution, secret_generator(3, 0))
    order = torch.randperm(64)
    features = AugConv(**compose_aug_conv(layer, inverse, (3, 32, 32), order))(morph(images, core))
    assert relative_error(features, layer(images)[:, order]) < bound


def test_morphing_is_the_product_with_a_block_diagonal_matrix():
    core = draw_core(12, "uniform", secret_generator(1, 0))
    images = torch.randn(7, 48)
    full = block_diag(*[core.double().numpy()] * 4)
    np.testing.assert_allclose(morph(images, core).numpy(), images.double().numpy() @ full,
                               rtol=1e-5, atol=1e-5)


def test_composing_is_the_product_of_the_inverse_with_the_unrolled_convolution():
    layer = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False).requires_grad_(False)
    inverse = invert_core(draw_core(25, "normal", secret_generator(2, 0)))
    order = torch.tensor([2, 0, 1])
    parts = compose_aug_conv(layer, inverse, (2, 5, 5), order)
    unrolled = layer(torch.eye(50).view(50, 2, 5, 5))[:, order].flatten(1)   # row i: entry i alone
    full = torch.block_diag(inverse, inverse)
    assert parts["out_shape"] == (3, 3, 3)
    torch.testing.assert_close(parts["weight"], full @ unrolled, rtol=1e-4, atol=1e-4)


def test_cores_are_distributed_as_named():
    uniform, normal, orthogonal = (draw_core(300, d, secret_generator(5, 0)).double()
                                   for d in DISTRIBUTIONS)
    assert uniform.min() >= 0 and uniform.max() <= 1 and abs(uniform.mean() - 0.5) < 0.01
    assert abs(normal.var() * 300 - 1) < 0.02 and abs(normal.mean()) < 1e-3
    assert (orthogonal @ orthogonal.T - torch.eye(300)).abs().max() < 1e-6


def test_orthogonal_cores_have_no_preferred_sign():
    """QR alone gives a matrix whose distribution depends on the sign convention of R."""
    traces = [float(draw_core(2, "orthogonal", secret_generator(s, 0))[0, 0]) for s in range(400)]
    assert abs(np.mean(traces)) < 0.15


def test_secrets_use_the_whole_seed():
    def core(seed, purpose=0):
        return draw_core(4, "uniform", secret_generator(seed, purpose))

    assert torch.equal(core(7), core(7))
    assert not torch.equal(core(7), core(7 + 2**32))      # torch.rand would give the same
    assert not torch.equal(core(7), core(7 + 2**200))
    assert not torch.equal(core(7), core(7, purpose=1))
    assert not torch.equal(core(None), core(None))


def test_torch_rand_would_not_do():
    first, second = (torch.rand(8, generator=torch.Generator().manual_seed(s))
                     for s in (5, 5 + 2**32))
    assert torch.equal(first, second)


def test_condition_number_and_residual_agree_with_a_full_decomposition():
    core = draw_core(60, "uniform", secret_generator(11, 0))
    inverse = invert_core(core)
    exact = float(torch.linalg.cond(core.double()))
    assert condition_number(core, inverse) == pytest.approx(exact, rel=0.02)
    product = core.double() @ inverse.double()
    assert residual(core, inverse) == pytest.approx(
        float((product - torch.eye(60)).abs().max()), rel=1e-6)


@pytest.mark.parametrize("shape, kappa", [((3, 4, 4), 5), ((3, 32, 32), 7), ((1, 2, 2), 8)])
def test_kappa_must_divide_the_image(shape, kappa):
    with pytest.raises(ValueError, match=f"kappa is {kappa}"):
        core_size(shape, kappa)


def test_ill_conditioned_cores_are_drawn_again():
    class Drawn:
        """Draws two nearly singular cores, then a good one; afterwards only singular ones."""
        draws = [[[1, 1], [1, 1.0001]], [[1, 1], [1, 1]], [[1, 0], [0, 2]]]

        def standard_normal(self, shape):
            return np.array(self.draws.pop(0) if self.draws else np.ones(shape), dtype=float)

    core, inverse, condition = usable_core(2, "normal", Drawn())
    assert condition == pytest.approx(2, rel=0.01)
    torch.testing.assert_close(core @ inverse, torch.eye(2))
    with pytest.raises(ValueError, match="numerically singular"):
        usable_core(2, "normal", Drawn(), attempts=2)


def test_singular_core_is_refused():
    with pytest.raises(ValueError, match="singular"):
        invert_core(torch.ones(4, 4))


@pytest.mark.parametrize("layer, message", [
    (nn.Conv2d(1, 2, 3), "takes 1 channels"),
    (nn.Conv2d(3, 2, 9), "larger than the images"),
])
def test_a_first_layer_that_does_not_fit_is_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        compose_aug_conv(layer, torch.eye(48), (3, 4, 4), torch.arange(2))


def test_image_padding_is_taken_from_the_layers_padding():
    assert fitted_padding((1, 2), 1) == (0, 1)
    with pytest.raises(ValueError, match="pads its images by 0"):
        fitted_padding((0, 0), 1)
