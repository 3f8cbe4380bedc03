"""Each attack on a small delivery made by the program's own functions, and where attacks fail."""

import functools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from attacks import adversary, algebra
from attacks.algebra import reidentified
from attacks.blind import blind_filters, shared_pixel
from attacks.colours import best_colour_fit, colour_lattice
from attacks.data_only import images_from_statistics
from experiments.repairs import blind_pixels, denoised_inverse
from experiments.repairs import repair as repair_weight
from images.datasets import CIFAR, Prepared
from mole.aug_conv import AugConv
from mole.morphing import (
    compose_aug_conv,
    core_size,
    draw_core,
    invert_core,
    morph,
    secret_generator,
)

SIDE, IMAGES = 12, 64


class Delivered(NamedTuple):
    """What an adversary holds, with random probes through Aug-Conv; then what only tests know."""

    morphed: Tensor
    weight: Tensor
    out_shape: tuple[int, int, int]
    features: Tensor
    probes: Tensor
    layer: nn.Conv2d
    order: Tensor
    truth: Tensor

    @property
    def filters(self) -> Tensor:
        return algebra.filter_bank(self.layer)


def photographs(count: int, side: int, seed: int) -> Tensor:
    """Like photographs (count, 3, side, side) uint8: smooth, mostly grey, black and white in parts.

    Not all alike at left and right or top and bottom, as in the world.
    """
    g = torch.Generator().manual_seed(seed)
    light, tint = (nn.functional.interpolate(torch.rand(count, channels, 4, 4, generator=g),
                                             (side, side), mode="bicubic") for channels in (1, 3))
    slope = torch.linspace(0.2, -0.2, side)
    images = 1.6 * light ** 1.5 - 0.1 + 0.2 * (tint - 0.5) + slope[:, None] + 0.5 * slope
    return (255 * images.nan_to_num().clamp(0, 1)).round().to(torch.uint8)


@functools.cache
def delivered(distribution="orthogonal", kappa=1, padding=0, repair=None, strength=0.0,
              side=SIDE, rank=27) -> Delivered:
    torch.manual_seed(1)
    layer = nn.Conv2d(3, 64, 3, padding=1 - padding, bias=False).requires_grad_(False)
    u, s, v = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
    layer.weight.copy_((u[:, :rank] * s[:rank] @ v[:rank]).view(64, 3, 3, 3))
    images = photographs(IMAGES, side, seed=5)
    plain, generator = Prepared(images, *CIFAR, padding)[:], secret_generator(3, purpose=0)
    core = draw_core(plain[0].numel() // kappa, distribution, generator)
    order = torch.from_numpy(generator.permutation(64))
    m = side + 2 * padding
    weight, out_shape = compose_aug_conv(layer, invert_core(core), (3, m, m), order).values()
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


def normal(pixels: Tensor) -> Tensor:
    return adversary.normal(pixels, *CIFAR)


def pixels(images: Tensor) -> Tensor:
    return adversary.pixels(images, *CIFAR)


def psnr(images: Tensor, truth: Tensor) -> float:
    return algebra.score(pixels(images), truth)["psnr"]


def blind(d: Delivered) -> Tensor:
    stolen = blind_filters(d.probes, shared_pixel(d.probes))
    return algebra.deconvolve(d.features, stolen, SIDE)


CASES = [("uniform", 1, 0), ("normal", 1, 0), ("orthogonal", 1, 0), ("uniform", 3, 0),
         ("normal", 12, 0), ("orthogonal", 3, 1)]


@pytest.mark.parametrize("case", CASES)
def test_looking_at_aug_convs_output_shows_the_first_layers_features(case):
    d = delivered(*case)
    plain = nn.functional.conv2d(normal(d.truth), d.filters.double(), padding=1)[:, d.order]
    assert (d.features - plain).norm() < 0.02 * plain.norm()


@pytest.mark.parametrize("case", CASES)
def test_known_first_layer_gives_order_and_images(case):
    d = delivered(*case)
    for seen in (d.probes, d.features):          # with chosen inputs, and with the images alone
        order = algebra.channel_order(seen, d.layer)
        assert order.equal(d.order)
    assert psnr(algebra.deconvolve(d.features, d.filters[order], SIDE), d.truth) > 60


@pytest.mark.parametrize("case", CASES)
def test_blind_attack_gives_images_up_to_colour_and_then_the_colours(case):
    d = delivered(*case)
    correlations = shared_pixel(d.probes).correlations
    assert correlations[:3].min() > 1 - 1e-6 and correlations[3] < 0.9
    images = blind(d)
    assert psnr(best_colour_fit(images, normal(d.truth)), d.truth) > 50
    coloured = torch.einsum("nchw,cd->ndhw", images, colour_lattice(images, *CIFAR))
    score = algebra.score(pixels(coloured), d.truth)
    assert score["psnr"] > 50 and score["exact"] == 1


def test_filters_of_deficient_rank_hide_nothing():
    d = delivered(rank=20)                       # the blind attack then looks at windows of 2x2
    assert algebra.channel_order(d.probes, d.layer).equal(d.order)
    assert psnr(algebra.deconvolve(d.features, d.filters[d.order], SIDE), d.truth) > 60
    assert psnr(best_colour_fit(blind(d), normal(d.truth)), d.truth) > 60


def test_colours_need_pixels_on_a_lattice():
    d = delivered()
    noisy = blind(d)
    noisy += 0.05 * noisy.std() * torch.randn(noisy.shape, generator=torch.Generator())
    with pytest.raises(ValueError, match="lattice"):
        colour_lattice(noisy, *CIFAR)
    with pytest.raises(ValueError, match="fewer colours"):
        colour_lattice(torch.zeros(2, 3, 8, 8), *CIFAR)


@pytest.mark.parametrize("kappa", [1, 3])
def test_known_pairs_give_the_core_once_they_are_enough_and_not_before(kappa):
    d = delivered("normal", kappa, side=6)
    plain, q = normal(d.truth).flatten(1), 108 // kappa

    def held_out(pairs: int) -> float:
        decoder = algebra.decoder_from_pairs(plain[:pairs], d.morphed[:pairs], q)
        assert decoder.shape == (q, q)
        images = (d.morphed[-16:].double().view(-1, q) @ decoder).view(-1, 3, 6, 6)
        return float(-10 * (pixels(images) - d.truth[-16:]).square().mean().log10())

    least = -(-q // kappa)
    if kappa == 1:                               # 64 images are fewer than q = 108
        assert held_out(48) < 30
    else:
        assert held_out(least // 2) < 30 and held_out(least + 2) > 50
    with pytest.raises(ValueError, match="no pairs"):
        algebra.decoder_from_pairs(plain, d.morphed[:5], q)


def test_seed_search_finds_the_seed_of_a_small_key_space():
    def draw(seed: int) -> Tensor:
        return torch.rand(16, 16, generator=torch.Generator().manual_seed(seed))

    plain = torch.randn(16, generator=torch.Generator().manual_seed(0))
    morphed = plain @ draw(777)
    assert algebra.seed_search(plain, morphed, draw, range(2000)) == 777
    assert algebra.seed_search(plain, morphed, draw, range(700)) is None
    with pytest.raises(ValueError, match="do not fit"):
        algebra.seed_search(plain[:8], morphed, draw, range(9))


@pytest.mark.parametrize("tile, distribution, least", [
    (4, "orthogonal", 30), (4, "normal", 25), (4, "uniform", 25), (0, "orthogonal", 0)])
def test_morphed_images_alone_give_images_away_by_many_blocks(tile, distribution, least):
    """From statistics of other images of the kind; one block of 432 entries is too much for it."""
    plain, public = (Prepared(photographs(count, SIDE, seed), *CIFAR, 0)[:]
                     for count, seed in ((1000, 8), (3000, 9)))
    q = core_size(plain.shape[1:], 1, tile)
    core = draw_core(q, distribution, secret_generator(0, purpose=0))

    def blocks(images: Tensor) -> Tensor:
        return (nn.functional.pixel_unshuffle(images, tile).flatten(2).transpose(1, 2) if tile
                else images.view(len(images), 1, q))

    guess = images_from_statistics(blocks(plain) @ core, blocks(public),
                                   distribution == "orthogonal")
    error = (guess - blocks(plain)).square().mean() / plain.var()
    if least:
        assert -10 * error.log10() > least - 15
        assert reidentified(guess, blocks(plain)) > 0.99
    else:
        assert -10 * error.log10() < 15
    with pytest.raises(ValueError, match="too few"):
        images_from_statistics(blocks(plain)[:8], blocks(public), True)
    with pytest.raises(ValueError, match="do not fit"):
        images_from_statistics(blocks(plain)[:, :, 1:], blocks(public), True)


@pytest.mark.parametrize(("repair", "strength"), [("signs", 0.0), ("scales", 0.5),
                                                  ("channels", 24), ("channels", 8)])
def test_repairs_that_keep_channels_apart_do_not_hide_the_images(repair, strength):
    d = delivered(repair=repair, strength=strength)
    assert psnr(best_colour_fit(blind(d), normal(d.truth)), d.truth) > 80


def test_scales_defeat_the_projector():
    d = delivered(repair="scales", strength=0.5)
    assert (algebra.channel_order(d.probes, d.layer) == d.order).sum() < 16


def test_mixing_hides_the_order_but_not_the_images():
    d = delivered(repair="mixing", strength=1.0)
    assert (algebra.channel_order(d.probes, d.layer) == d.order).sum() < 16
    assert psnr(best_colour_fit(blind(d), normal(d.truth)), d.truth) > 80


def test_mixing_at_each_position_resists_one_attack_and_not_the_other():
    d = delivered(repair="local_mixing", strength=0.0)
    assert shared_pixel(d.probes).correlations[0] < 0.9              # no shared functional is left
    inner = d.truth[:, :, 1:-1, 1:-1]
    images = blind_pixels(d.features, d.probes)
    assert psnr(best_colour_fit(images, normal(inner)), inner) > 15
    with pytest.raises(ValueError, match="too few"):
        blind_pixels(d.features, d.probes[:20])


def test_three_channels_are_too_few_for_the_blind_attack():
    d = delivered(repair="channels", strength=3)
    with pytest.raises(ValueError, match="too few"):
        shared_pixel(d.probes)


def test_noise_in_aug_conv_costs_the_attacker_quality():
    some, much = (psnr(best_colour_fit(blind(d), normal(d.truth)), d.truth) for d in (
        delivered(repair="noise", strength=s) for s in (0.001, 10.0)))
    assert some > 50 and much < 20


def test_what_public_images_are_like_takes_noise_away():
    public = Prepared(photographs(2000, SIDE, seed=6), *CIFAR, 0)[:].flatten(1)

    def attacked(d: Delivered) -> float:
        inverse = denoised_inverse(d.weight, d.out_shape, d.filters[d.order], 1, d.morphed, public)
        return psnr((d.morphed.double() @ inverse).view(-1, 3, SIDE, SIDE), d.truth)

    d = delivered(repair="noise", strength=0.3)
    assert attacked(d) > 2 + psnr(algebra.deconvolve(d.features, d.filters[d.order], SIDE), d.truth)
    assert attacked(delivered()) > 60


def test_degenerate_input_is_told():
    d = delivered()
    with pytest.raises(ValueError, match="do not fit"):
        algebra.feature_maps(d.morphed[:, 1:], AugConv(d.weight, d.out_shape))
    with pytest.raises(ValueError, match="not of 64 channels"):
        algebra.channel_order(d.features[:, 1:], d.layer)
    with pytest.raises(ValueError, match="undetermined"):
        algebra.deconvolve(d.features, torch.zeros_like(d.filters), SIDE)
    with pytest.raises(ValueError, match="do not give"):
        algebra.deconvolve(d.features[:, 1:], d.filters, SIDE)
    with pytest.raises(ValueError, match="too few"):
        shared_pixel(torch.zeros(8, 64, 12, 12))
    with pytest.raises(ValueError, match="too few for 27 dimensions"):
        shared_pixel(d.features[:1, :, :6, :6])
    with pytest.raises(ValueError, match="no repair"):
        repair_weight(d.weight, d.out_shape, "prayer", 1.0, torch.Generator())


def test_score_of_the_truth_itself_and_of_an_error():
    truth = delivered().truth
    assert algebra.score(truth, truth)["exact"] == 1
    wrong = algebra.score((truth + 0.1).clamp(0, 1), truth)
    assert 19 < wrong["psnr"] < 23 and wrong["ssim"] < 1 and wrong["exact"] < 0.2
