"""The morphing: cores as they are named, T = D·M, and what does not fit."""

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag
from torch import nn

from mole.aug_conv import AugConv
from mole.morphing import (
    condition_number,
    core_size,
    draw_core,
    draw_usable_core,
    invert_core,
    morph,
    morphed_shape,
    padded_shape,
    relative_error,
    residual,
    roll,
    secret_generator,
    unroll,
)

DISTRIBUTIONS = ["uniform", "normal", "orthogonal"]


# Cores.

def test_uniform_cores_are_uniform_between_zero_and_one():
    core = draw_core(300, "uniform", secret_generator(5)).double()
    assert core.min() >= 0 and core.max() <= 1
    assert abs(core.mean() - 1 / 2) < 0.01 and abs(core.var() - 1 / 12) < 0.002


def test_normal_cores_keep_the_size_of_an_image():
    core = draw_core(300, "normal", secret_generator(5)).double()
    assert abs(core.mean()) < 1e-3 and abs(core.var() * 300 - 1) < 0.02


def test_orthogonal_cores_are_orthogonal():
    core = draw_core(300, "orthogonal", secret_generator(5)).double()
    assert (core @ core.T - torch.eye(300)).abs().max() < 1e-6


def test_orthogonal_cores_have_no_preferred_sign():
    """QR alone gives a matrix whose distribution depends on the sign convention of R."""
    corners = [float(draw_core(2, "orthogonal", secret_generator(seed))[0, 0])
               for seed in range(400)]
    assert abs(np.mean(corners)) < 0.15


def test_an_unknown_distribution_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="no distribution 'ortogonal': choose one of uniform, "
                                         "normal, orthogonal"):
        draw_core(4, "ortogonal")


def test_secrets_use_the_whole_seed():
    def core(seed, purpose=0):
        return draw_core(4, "uniform", secret_generator(seed, purpose))

    assert torch.equal(core(7), core(7))
    assert not torch.equal(core(7), core(7 + 2**32))      # torch.rand would give the same
    assert not torch.equal(core(7), core(7 + 2**200))
    assert not torch.equal(core(7), core(7, purpose=1))
    assert not torch.equal(core(None), core(None))
    assert not torch.equal(draw_core(4), draw_core(4))


def test_torch_rand_would_not_do():
    first, second = (torch.rand(8, generator=torch.Generator().manual_seed(seed))
                     for seed in (5, 5 + 2**32))
    assert torch.equal(first, second)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_condition_number_and_residual_agree_with_a_full_decomposition(distribution):
    core = draw_core(80, distribution, secret_generator(11))
    inverse = invert_core(core)
    exact = float(torch.linalg.cond(core.double()))
    assert condition_number(core, inverse) == pytest.approx(exact, rel=0.02)
    product = core.double() @ inverse.double()
    assert residual(core, inverse) == pytest.approx(
        float((product - torch.eye(80)).abs().max()), rel=1e-6)


# Condition numbers of usable cores 200x200: at most 5q, and 5q·√(3q/4) for uniform ones.
LARGEST_CONDITIONS = {"uniform": 5 * 200 * 150 ** 0.5, "normal": 5 * 200, "orthogonal": 1.001}


@pytest.mark.parametrize("distribution", LARGEST_CONDITIONS)
def test_usable_cores_are_well_conditioned(distribution):
    bound = LARGEST_CONDITIONS[distribution]
    for seed in range(5):
        core, inverse, condition = draw_usable_core(200, distribution, secret_generator(seed))
        assert condition <= bound
        assert float(torch.linalg.cond(core.double())) <= 1.03 * bound
        assert residual(core, inverse) < 1e-6 * bound


class Drawn:
    """Draws two cores that are no good, then a good one; afterwards only singular ones."""

    def __init__(self):
        self.cores = [[[1, 1], [1, 1.0001]], [[1, 1], [1, 1]], [[1, 0], [0, 2]]]

    def standard_normal(self, shape):
        core = self.cores.pop(0) if self.cores else np.ones(shape)
        return np.array(core, dtype=float)


def test_ill_conditioned_cores_are_drawn_again():
    core, inverse, condition = draw_usable_core(2, "normal", Drawn())
    assert condition == pytest.approx(2, rel=0.01)
    torch.testing.assert_close(core @ inverse, torch.eye(2))


def test_drawing_ends_where_no_core_is_usable():
    with pytest.raises(ValueError, match="2 cores 2x2 in a row had condition numbers above 10"):
        draw_usable_core(2, "normal", Drawn(), attempts=2)


def test_a_singular_core_is_refused():
    with pytest.raises(ValueError, match="singular"):
        invert_core(torch.ones(4, 4))


# Morphing.

def test_morphing_is_the_product_with_a_block_diagonal_matrix():
    core = draw_core(12, "uniform", secret_generator(1))
    images = torch.randn(7, 3, 4, 4, dtype=torch.float64)
    matrix = block_diag(*[core.double().numpy()] * 4)
    expected = images.flatten(1).numpy() @ matrix
    np.testing.assert_allclose(morph(images, core).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_morphing_by_tiles_is_the_product_of_each_tile_with_the_core():
    core = draw_core(2 * 9, "uniform", secret_generator(1)).double()
    images = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    morphed = morph(images, core, tile=3)
    assert morphed.shape == (5, 18, 2, 2)
    for row in range(2):
        for column in range(2):
            tile = images[:, :, 3 * row:3 * row + 3, 3 * column:3 * column + 3]
            torch.testing.assert_close(morphed[:, :, row, column], tile.flatten(1) @ core)


@pytest.mark.parametrize("tile", [0, 2, 3, 5, 8], ids="tile {}".format)
def test_morphed_images_have_the_shape_and_dtype_that_is_promised(tile):
    core = draw_core(core_size((2, 7, 7), tile=tile), "normal", secret_generator(1))
    for dtype in (torch.float32, torch.float64):
        morphed = morph(torch.randn(3, 2, 7, 7, dtype=dtype), core, tile)
        assert morphed.shape[1:] == morphed_shape((2, 7, 7), tile) and morphed.dtype == dtype


def test_morphing_is_computed_in_float64():
    core = draw_core(192, "uniform", secret_generator(1))
    images = 100 + torch.randn(20, 3, 8, 8)               # a large common part: float32 is worse
    exact = images.flatten(1).double() @ core.double()
    assert relative_error(morph(images, core), exact) < 4e-8
    assert relative_error(images.flatten(1) @ core, exact) > 4e-8


@pytest.mark.parametrize("tile", [0, 2, 4, 8], ids="tile {}".format)
def test_rolling_undoes_unrolling(tile):
    images = torch.randn(3, 2, 8, 8)
    assert torch.equal(roll(unroll(images, tile), (2, 8, 8), tile), images)


def test_tiles_at_the_edge_are_padded_with_zeros():
    images = torch.randn(3, 2, 7, 7)
    whole = roll(unroll(images, 4), (2, 7, 7), 4)
    assert whole.shape == (3, 2, 8, 8) and torch.equal(whole[:, :, :7, :7], images)
    assert not whole[:, :, 7].any() and not whole[:, :, :, 7].any()


def test_padding_a_shape_and_taking_it_off():
    assert padded_shape((3, 8, 8), 2) == (3, 12, 12)
    assert padded_shape((3, 12, 12), -2) == (3, 8, 8)


@pytest.mark.parametrize("shape, kappa", [((3, 4, 4), 5), ((3, 32, 32), 7), ((1, 2, 2), 8),
                                          ((1, 2, 2), 0), ((1, 2, 2), -1)], ids=str)
def test_kappa_must_divide_the_image(shape, kappa):
    with pytest.raises(ValueError, match=f"kappa is {kappa}, which does not divide"):
        core_size(shape, kappa)


@pytest.mark.parametrize("shape, kappa, tile, words", [
    ((28, 28), 1, 0, "must be .channels, rows, columns., not .28, 28."),
    ((1, 28, 28), 1, -1, "kappa is 1 and tile is -1"),
    ((1, 28, 28), 4, 8, "kappa is 4 and tile is 8: give kappa, or a tile")], ids=str)
def test_shapes_and_blocks_that_mean_nothing_are_refused(shape, kappa, tile, words):
    with pytest.raises(ValueError, match=words):
        core_size(shape, kappa, tile)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_slices_and_repeated_images_are_morphed_like_others(dtype):
    images = torch.randn(6, 3, 4, 4, dtype=dtype)
    core = draw_core(16, "normal", secret_generator(0))
    for some in (images[::2], images[:1].expand(6, -1, -1, -1), images.mT):
        torch.testing.assert_close(morph(some, core), morph(some.clone().contiguous(), core),
                                   rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64, torch.bool], ids=str)
def test_integers_are_no_images_to_morph(dtype):
    """Their products would be rounded and wrapped."""
    with pytest.raises(ValueError, match=f"images are {dtype}: convert them to floating point"):
        morph(torch.ones(2, 3, 4, 4, dtype=dtype), torch.eye(48))


@pytest.mark.parametrize("call", [
    lambda: morph(np.ones((2, 3, 4, 4), np.float32), torch.eye(48)),
    lambda: morph(torch.ones(2, 3, 4, 4), np.eye(48)),
    lambda: invert_core(np.eye(48)),
    lambda: AugConv.compose(nn.Conv2d(3, 4, 3, padding=1), np.eye(48), (3, 4, 4)),
    lambda: AugConv.compose(nn.Conv2d(3, 4, 3, padding=1), torch.eye(48), (3, 4, 4))(
        np.ones((2, 48), np.float32)),
], ids=["images", "core", "core to invert", "inverse", "morphed images"])
def test_arrays_of_numpy_are_refused_in_words(call):
    with pytest.raises(ValueError, match=r"are of type ndarray: give a torch\.Tensor"):
        call()


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 48), (1, 2, 3, 4, 4)], ids=str)
def test_images_without_a_dimension_are_refused(shape):
    with pytest.raises(ValueError, match=r"images must be \(B, channels, rows, columns\), not"):
        morph(torch.randn(shape), torch.eye(48))


@pytest.mark.parametrize("generator", [7, torch.Generator()], ids=["seed", "PyTorch's"])
def test_a_core_is_drawn_by_numpys_generators_alone(generator):
    with pytest.raises(ValueError, match=r"the generator is of type \w+: give secret_generator"):
        draw_core(16, "normal", generator)


# A core, a tile, and the words that refuse them for 4 images 3x4x4.
CORES_OF_OTHERS = {
    # 4 images of 48 entries have as many as 3 rows of 64, which would mix them up.
    "of other images": (torch.eye(64), 0, "64x64, but 64 does not divide the 48 entries"),
    "of other tiles": (torch.eye(12), 4, "tiles of 4 of images 3x4x4 have 48 entries"),
    "not square": (torch.ones(48, 12), 0, r"square matrix, not \(48, 12\)"),
}


@pytest.mark.parametrize("name", CORES_OF_OTHERS)
def test_a_core_that_does_not_fit_is_refused(name):
    core, tile, words = CORES_OF_OTHERS[name]
    with pytest.raises(ValueError, match=words):
        morph(torch.randn(4, 3, 4, 4), core, tile)
