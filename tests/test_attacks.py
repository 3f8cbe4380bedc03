"""Each attack on a small delivery made by the project's own functions, and where attacks fail."""

import functools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from attacks import algebra
from attacks.adversary import SHARES_OF_PAIRS
from attacks.blind import blind_filters, find_shared_pixel
from attacks.colours import best_colour_fit, find_colours
from attacks.scores import psnr, score_images, share_reidentified, ssim
from attacks.view import (
    as_pixels,
    make_truth,
    scale_of_pixels,
    to_normalised,
    to_pixels,
    value_range,
)
from experiments.repairs import blind_pixels, denoised_inverse, repair_weight
from images.datasets import CIFAR, Prepared, measure_normalisation, normalise
from mole.aug_conv import AugConv
from mole.morphing import (
    core_size,
    draw_core,
    invert_core,
    morph,
    secret_generator,
    unroll,
)
from tests.photographs import draw_photographs
from utils.attack_reports import UNDER_ATTACK
from utils.delivery import as_morphed, morph_in_memory, quantise
from utils.errors import UserError
from utils.examples import evenly_spaced, take_rows
from utils.keys import draw_key

SIDE, IMAGES = 12, 64


@dataclass
class Delivered:
    """What an adversary holds, with random probes through Aug-Conv; then what only tests know."""

    morphed: Tensor
    weight: Tensor
    out_shape: tuple[int, int, int]
    features: Tensor
    probes: Tensor
    layer: nn.Conv2d
    order: Tensor
    pixels: Tensor              # private, in [0, 1]

    @property
    def filters(self) -> Tensor:
        return algebra.filter_bank(self.layer)


@functools.cache
def deliver(distribution="orthogonal", kappa=1, padding=0, repair=None, strength=0.0,
            side=SIDE, rank=27) -> Delivered:
    layer = first_layer_of_rank(rank, padding=1 - padding)
    images = draw_photographs(IMAGES, side, seed=5)
    plain = Prepared(images, *CIFAR, padding)[:]
    generator = secret_generator(3, purpose=0)
    core = draw_core(plain[0].numel() // kappa, distribution, generator)
    order = torch.from_numpy(generator.permutation(64))
    padded_side = side + 2 * padding
    made = AugConv.compose(layer, invert_core(core), (3, padded_side, padded_side), order)
    weight, out_shape = made.weight, made.out_shape
    if repair is not None:
        weight = repair_weight(weight, out_shape, repair, strength,
                               torch.Generator().manual_seed(0))
        out_shape = (weight.shape[1] // side ** 2, side, side)
    morphed = morph(plain, core)
    probes = torch.randn(96, len(weight), generator=torch.Generator().manual_seed(2))
    maps = algebra.feature_maps(torch.cat([morphed, probes * morphed.std()]),
                                AugConv(weight, out_shape))
    return Delivered(morphed, weight, out_shape, maps[:IMAGES], maps[IMAGES:], layer, order,
                     images.double() / 255)


def first_layer_of_rank(rank: int, padding: int) -> nn.Conv2d:
    """VGG's first layer with random filters, of which only so many are independent."""
    torch.manual_seed(1)
    layer = nn.Conv2d(3, 64, 3, padding=padding, bias=False).requires_grad_(False)
    u, s, v = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
    layer.weight.copy_((u[:, :rank] * s[:rank] @ v[:rank]).view(64, 3, 3, 3))
    return layer


def psnr_of(images: Tensor, pixels: Tensor) -> float:
    return score_images(to_pixels(images, *CIFAR), pixels).psnr


def psnr_up_to_colour(images: Tensor, pixels: Tensor) -> float:
    return psnr_of(best_colour_fit(images, to_normalised(pixels, *CIFAR)), pixels)


def recover_blind(delivered: Delivered) -> Tensor:
    stolen = blind_filters(delivered.probes, find_shared_pixel(delivered.probes))
    return algebra.deconvolve(delivered.features, stolen, SIDE)


CASES = [("uniform", 1, 0), ("normal", 1, 0), ("orthogonal", 1, 0), ("uniform", 3, 0),
         ("normal", 12, 0), ("orthogonal", 3, 1)]
IDS = [f"{core} core, kappa {kappa}, padding {padding}" for core, kappa, padding in CASES]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_aug_convs_output_is_the_first_layers_features(case):
    delivered = deliver(*case)
    images = to_normalised(delivered.pixels, *CIFAR)
    features = nn.functional.conv2d(images, delivered.filters, padding=1)[:, delivered.order]
    assert (delivered.features - features).norm() < 0.02 * features.norm()


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_known_first_layer_gives_order_and_images(case):
    delivered = deliver(*case)
    from_probes = algebra.channel_order(delivered.probes, delivered.layer)
    from_images_alone = algebra.channel_order(delivered.features, delivered.layer)
    assert from_probes.equal(delivered.order) and from_images_alone.equal(delivered.order)
    images = algebra.deconvolve(delivered.features, delivered.filters[from_probes], SIDE)
    assert psnr_of(images, delivered.pixels) > 60


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_blind_attack_gives_images_up_to_colour_and_then_the_colours(case):
    delivered = deliver(*case)
    correlations = find_shared_pixel(delivered.probes).correlations
    assert correlations[:3].min() > 1 - 1e-6 and correlations[3] < 0.9
    images = recover_blind(delivered)
    assert psnr_up_to_colour(images, delivered.pixels) > 50
    coloured = torch.einsum("nchw,cd->ndhw", images, find_colours(images, *CIFAR))
    score = score_images(to_pixels(coloured, *CIFAR), delivered.pixels)
    assert score.psnr > 50 and score.exact == 1


def test_filters_of_deficient_rank_hide_nothing():
    delivered = deliver(rank=20)                # the blind attack then looks at windows of 2x2
    assert algebra.channel_order(delivered.probes, delivered.layer).equal(delivered.order)
    filters = delivered.filters[delivered.order]
    assert psnr_of(algebra.deconvolve(delivered.features, filters, SIDE), delivered.pixels) > 60
    assert psnr_up_to_colour(recover_blind(delivered), delivered.pixels) > 60


def test_colours_are_not_found_in_noisy_images():
    images = recover_blind(deliver())
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="no mixture gives values of 8 bits"):
        find_colours(images + 0.05 * images.std() * noise, *CIFAR)


def test_colours_are_not_found_in_blank_images():
    with pytest.raises(ValueError, match="fewer colours"):
        find_colours(torch.zeros(2, 3, 8, 8), *CIFAR)


@pytest.mark.parametrize(("kappa", "pairs", "enough"), [(1, 48, False), (3, 6, False),
                                                        (3, 14, True)])
def test_known_pairs_give_the_core_once_they_are_enough(kappa, pairs, enough):
    """q = 108/kappa equations are needed, and each pair gives kappa."""
    delivered = deliver("normal", kappa, side=6)
    q = 108 // kappa
    plain = to_normalised(delivered.pixels, *CIFAR).flatten(1)
    decoder = algebra.inverse_from_pairs(plain[:pairs], delivered.morphed[:pairs], q)
    unmorphed = delivered.morphed[-16:].double().view(-1, q) @ decoder
    quality = psnr_of(unmorphed.view(-1, 3, 6, 6), delivered.pixels[-16:])
    assert quality > 50 if enough else quality < 30


def quality_by_pairs(tile: int, dtype: str, rounding_is_known: bool) -> dict[float, float]:
    """PSNR of rounded images that known pairs decode, by the share of the pairs that determine the
    core."""
    shape, kappa = (3, 16, 16), 1 if tile else 3
    q = core_size(shape, kappa, tile)
    key = draw_key(shape, kappa, tile, "orthogonal", seed=3)
    images = Prepared(draw_photographs(400, 16, seed=5), *CIFAR, 0)[:]
    values, scale = morph_in_memory(images, key, dtype)
    morphed = as_morphed(values, scale).movedim(1, -1).reshape(400, -1, q)
    plain = unroll(images, tile).movedim(1, -1).reshape(400, -1, q)
    rounding = algebra.variance_of_rounding(morphed, dtype, scale) if rounding_is_known else 0.0
    least, found = q / plain.shape[1], {}
    for share in SHARES_OF_PAIRS:
        pairs = round(least * share)
        inverse = algebra.inverse_from_pairs(plain[:pairs], morphed[:pairs], q, rounding)
        error = (morphed[-100:].double() @ inverse - plain[-100:]).square().mean()
        found[share] = -10 * math.log10(float(error))
    return found


@pytest.mark.parametrize("dtype", ["int8", "float16"])
@pytest.mark.parametrize("tile", [0, 8], ids=["kappa 3", "8x8 tiles"])
def test_rounded_images_are_decoded_no_worse_by_as_many_pairs_as_determine_the_core(tile, dtype):
    """Least squares that fit the rounding errors as well decode at their worst there."""
    plain, ridge = (quality_by_pairs(tile, dtype, is_known) for is_known in (False, True))
    assert ridge[1] > plain[1] + 6
    for share in SHARES_OF_PAIRS:
        assert ridge[share] > plain[share] - 0.2, share
    in_order = [ridge[share] for share in sorted(SHARES_OF_PAIRS)]
    assert in_order == sorted(in_order)


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_the_variance_of_rounding_is_that_of_the_errors(dtype):
    key = draw_key((3, 16, 16), 1, 8, "orthogonal", seed=3)
    images = Prepared(draw_photographs(400, 16, seed=5), *CIFAR, 0)[:]
    exact = as_morphed(*morph_in_memory(images, key))
    values, scale = morph_in_memory(images, key, dtype)
    rounded = as_morphed(values, scale)
    expected = float((rounded - exact).double().square().mean())
    found = algebra.variance_of_rounding(rounded, dtype, scale)
    assert found == pytest.approx(expected, rel=0.1) if dtype != "float32" else found == 0


def test_a_rounding_of_zero_is_plain_least_squares():
    delivered = deliver("normal", 3, side=6)
    plain = to_normalised(delivered.pixels, *CIFAR).flatten(1)[:14]
    morphed = delivered.morphed[:14]
    exact = torch.linalg.lstsq(morphed.double().view(-1, 36), plain.view(-1, 36), driver="gelsy")
    torch.testing.assert_close(algebra.inverse_from_pairs(plain, morphed, 36), exact.solution,
                               rtol=1e-6, atol=1e-6)


def test_unequal_numbers_of_images_are_no_pairs():
    delivered = deliver("normal", 3, side=6)
    with pytest.raises(ValueError, match="not pairs"):
        algebra.inverse_from_pairs(delivered.pixels.flatten(1), delivered.morphed[:5], 36)


@pytest.mark.parametrize(("repair", "strength"), [("signs", 0.0), ("scales", 0.5),
                                                  ("channels", 24), ("channels", 8)])
def test_repairs_that_keep_channels_apart_do_not_hide_the_images(repair, strength):
    delivered = deliver(repair=repair, strength=strength)
    assert psnr_up_to_colour(recover_blind(delivered), delivered.pixels) > 80


def test_scaled_channels_defeat_the_projector():
    delivered = deliver(repair="scales", strength=0.5)
    order = algebra.channel_order(delivered.probes, delivered.layer)
    assert (order == delivered.order).sum() < 16


def test_mixed_channels_hide_the_order_but_not_the_images():
    delivered = deliver(repair="mixing")
    order = algebra.channel_order(delivered.probes, delivered.layer)
    assert (order == delivered.order).sum() < 16
    assert psnr_up_to_colour(recover_blind(delivered), delivered.pixels) > 80


def test_channels_mixed_at_each_position_resist_one_attack_and_not_the_other():
    delivered = deliver(repair="local_mixing")
    assert find_shared_pixel(delivered.probes).correlations[0] < 0.9
    inner = delivered.pixels[:, :, 1:-1, 1:-1]
    assert psnr_up_to_colour(blind_pixels(delivered.features, delivered.probes), inner) > 15
    with pytest.raises(ValueError, match="too few"):
        blind_pixels(delivered.features, delivered.probes[:20])


def test_three_channels_are_too_few_for_the_blind_attack():
    delivered = deliver(repair="channels", strength=3)
    with pytest.raises(ValueError, match="too few"):
        find_shared_pixel(delivered.probes)


def test_noise_in_aug_conv_costs_the_attacker_quality():
    little = deliver(repair="noise", strength=0.001)
    much = deliver(repair="noise", strength=10.0)
    assert psnr_up_to_colour(recover_blind(little), little.pixels) > 50
    assert psnr_up_to_colour(recover_blind(much), much.pixels) < 20


def test_statistics_of_public_images_take_noise_away():
    public = Prepared(draw_photographs(2000, SIDE, seed=6), *CIFAR, 0)[:].flatten(1)

    def attack(delivered: Delivered) -> float:
        inverse = denoised_inverse(delivered.weight, delivered.out_shape,
                                   delivered.filters[delivered.order], 1, delivered.morphed, public)
        images = (delivered.morphed.double() @ inverse).view(-1, 3, SIDE, SIDE)
        return psnr_of(images, delivered.pixels)

    noisy = deliver(repair="noise", strength=0.3)
    noisy_images = algebra.deconvolve(noisy.features, noisy.filters[noisy.order], SIDE)
    assert attack(noisy) > 2 + psnr_of(noisy_images, noisy.pixels)
    assert attack(deliver()) > 60


def test_input_that_does_not_fit_is_refused_in_words():
    delivered = deliver()
    with pytest.raises(ValueError, match="do not fit"):
        algebra.feature_maps(delivered.morphed[:, 1:],
                             AugConv(delivered.weight, delivered.out_shape))
    with pytest.raises(ValueError, match="not of 64 channels"):
        algebra.channel_order(delivered.features[:, 1:], delivered.layer)
    with pytest.raises(ValueError, match="undetermined"):
        algebra.deconvolve(delivered.features, torch.zeros_like(delivered.filters), SIDE)
    with pytest.raises(ValueError, match="do not give"):
        algebra.deconvolve(delivered.features[:, 1:], delivered.filters, SIDE)
    with pytest.raises(ValueError, match="too few"):
        find_shared_pixel(torch.zeros(8, 64, 12, 12))
    with pytest.raises(ValueError, match="too few for 27 dimensions"):
        find_shared_pixel(delivered.features[:1, :, :6, :6])
    with pytest.raises(ValueError, match="kernel 3 and stride 4 positions share no pixel"):
        find_shared_pixel(delivered.features, kernel=3, stride=4)
    with pytest.raises(ValueError, match="no repair"):
        repair_weight(delivered.weight, delivered.out_shape, "prayer", 1.0, torch.Generator())


def test_scores_of_the_private_images_themselves():
    pixels = deliver().pixels
    assert score_images(pixels, pixels) == (math.inf, 1.0, 1.0)


@pytest.mark.parametrize("dtype, largest", [("float16", 7e4), ("float32", 4e38)])
def test_values_that_are_too_large_for_the_delivery_are_refused(dtype, largest):
    """They would arrive as infinity."""
    morphed = torch.tensor([[1.0, largest]], dtype=torch.float64)
    with pytest.raises(UserError, match=f"too large for {dtype}"):
        quantise(morphed, dtype, 1.0)
    assert quantise(morphed / 2, dtype, 1.0).isfinite().all()


def test_psnr_of_a_constant_error():
    assert psnr(torch.full((2, 3, 8, 8), 0.6), torch.full((2, 3, 8, 8), 0.5)) == pytest.approx(20)


def test_ssim_of_blank_images_compares_their_light_alone():
    dark, light = torch.full((1, 1, 8, 8), 0.2), torch.full((1, 1, 8, 8), 0.4)
    expected = (2 * 0.2 * 0.4 + 1e-4) / (0.2 ** 2 + 0.4 ** 2 + 1e-4)
    assert ssim(dark.double(), light.double()) == pytest.approx(expected)


def test_small_images_are_scored_in_smaller_windows():
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    assert score_images(images, images).ssim == 1 > score_images(images.flip(3), images).ssim
    with pytest.raises(ValueError, match="too small"):
        ssim(images[..., :2, :2], images[..., :2, :2])


def test_images_that_are_wider_than_high_are_scored():
    """A stride's rows, and the columns of two Aug-Convs."""
    images = torch.rand(2, 3, 4, 12, generator=torch.Generator().manual_seed(0)).double()
    assert ssim(images, images) == ssim(images.mT, images.mT) == 1


def test_ssim_of_an_inverted_pattern_is_negative():
    pattern = (torch.arange(64) % 2).double().view(1, 1, 8, 8)
    assert ssim(pattern, 1 - pattern) < -0.9


@pytest.mark.parametrize("dtype, factor", [
    (torch.uint8, 1), (torch.uint16, 257), (torch.int16, 100), (torch.float32, 0.01)], ids=str)
def test_pixels_of_arrays_are_between_their_least_and_largest_value(dtype, factor):
    """Of any type and scale; for bytes between 0 and 255."""
    bytes_ = draw_photographs(5, 8, seed=5)
    images = (bytes_.double() * factor).to(dtype)
    low, high = value_range(images)
    pixels = as_pixels(images.double(), low, high)
    if dtype == torch.uint8:
        assert (low, high) == (0, 255) and scale_of_pixels(*CIFAR, low, high) == CIFAR
    else:
        assert (float(pixels.min()), float(pixels.max())) == (0, 1)
    mean, std = measure_normalisation(images)
    normalised = normalise(images, mean, std).double()
    back = to_pixels(normalised, *scale_of_pixels(mean, std, low, high))
    torch.testing.assert_close(back, pixels, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype, factor", [(torch.uint8, 1), (torch.float32, 1 / 255)],
                         ids=["bytes", "numbers from 0 to 1"])
def test_the_truth_is_scored_on_the_scale_of_its_images(dtype, factor):
    """Images that are right but for half their contrast score the same, whatever their dtype."""
    images = draw_photographs(300, 16, seed=1)
    images[0, :, 0, 0], images[0, :, 0, 1] = 0, 255      # so that all values have one range
    stored = (images * factor).to(dtype)
    mean, std = measure_normalisation(stored)
    truth = make_truth(torch.arange(1), stored, mean, std)
    assert len(truth.pixels) == UNDER_ATTACK and truth.pixels.min() == 0 and truth.pixels.max() == 1
    shown = take_rows(stored, evenly_spaced(len(stored), UNDER_ATTACK))
    right = normalise(shown, mean, std)
    assert truth.score(right).psnr > 100
    assert 20 < truth.score(right + 0.1).psnr < 40


def test_arrays_of_one_value_are_black():
    images = torch.full((2, 1, 4, 4), 7, dtype=torch.int16)
    assert not as_pixels(images.double(), *value_range(images)).any()


def test_images_in_another_order_are_not_reidentified():
    images = torch.rand(10, 12, generator=torch.Generator().manual_seed(0))
    assert share_reidentified(images, images) == 1
    assert share_reidentified(images.roll(1, 0), images) == 0
