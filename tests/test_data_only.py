"""Images from morphed images alone: what is found, how it is chosen, and when it says "failed"."""

import functools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from attacks import adversary, pair_moments, third_moments
from attacks.data_only import (
    Guess,
    Search,
    gives_same_images,
    images_from_statistics,
    mirror_rotation,
)
from attacks.likeness import describe_edges, unlikeness
from attacks.samples import shifted_copies
from attacks.scores import share_reidentified
from attacks.third_moments import weight_of_evidence
from attacks.view import Truth, View, tiles_to_blocks
from attacks.whitening import polar, whiten
from images.datasets import CIFAR, Prepared
from mole.morphing import core_size, draw_core, morph, secret_generator, unroll
from tests.photographs import draw_photographs
from utils.examples import evenly_spaced
from utils.geometry import Geometry

SIDE = 12


@pytest.fixture(autouse=True)
def few_axes(monkeypatch):
    """The search of one block takes seconds with 48 axes."""
    monkeypatch.setattr(third_moments, "AXES", 48)


def cut(images: Tensor, tile: int) -> Tensor:
    """Images as blocks (N, κ, q): one, or tiles."""
    if tile:
        return tiles_to_blocks(F.pixel_unshuffle(images, tile))
    return images.reshape(len(images), 1, -1)


def put_together(blocks: Tensor, tile: int) -> Tensor:
    """The inverse of `cut`."""
    if tile:
        tiles = blocks.transpose(1, 2).unflatten(2, (SIDE // tile, SIDE // tile))
        return F.pixel_shuffle(tiles, tile)
    return blocks.view(-1, 3, SIDE, SIDE)


def photographs(count: int, seed: int) -> Tensor:
    return Prepared(draw_photographs(count, SIDE, seed), *CIFAR, 0)[:]


@dataclass
class Attacked:
    plain: Tensor               # blocks (N, κ, q)
    guess: Guess


@functools.cache
def attack(tile: int, distribution: str, wrong: str = "nothing") -> Attacked:
    """The attack on 1000 pictures with 3000 public ones, something wrong with either."""
    plain = cut(photographs(1000, seed=8), tile)
    known = photographs(3000, seed=9)
    generator = torch.Generator().manual_seed(0)
    if wrong == "public images of noise":
        known = torch.randn(known.shape, generator=generator)
    core = draw_core(core_size((3, SIDE, SIDE), 1, tile), distribution, secret_generator(0))
    morphed = plain @ core
    if wrong == "permuted entries":
        order = torch.rand(morphed.flatten(1).shape, generator=generator).argsort(1)
        morphed = morphed.flatten(1).gather(1, order).view(morphed.shape)
    guess = images_from_statistics(morphed, cut(known, tile), distribution == "orthogonal",
                                   functools.partial(put_together, tile=tile))
    return Attacked(plain, guess)


@pytest.mark.parametrize(("tile", "distribution", "least_db"), [
    (4, "orthogonal", 15), (4, "normal", 12), (4, "uniform", 12), (0, "orthogonal", 8),
    (0, "uniform", 8)],
    ids=["tiles, orthogonal", "tiles, normal", "tiles, uniform", "one block, orthogonal",
         "one block, uniform"])
def test_nearly_all_images_are_reidentified(tile, distribution, least_db):
    """The mean public image is 0.3 dB below the variance of the pictures."""
    attacked = attack(tile, distribution)
    error = (attacked.guess.blocks - attacked.plain).square().mean() / attacked.plain.var()
    assert -10 * math.log10(error) > least_db
    assert share_reidentified(attacked.guess.blocks, attacked.plain) > 0.99
    assert not attacked.guess.search.failed


@pytest.mark.parametrize("tile", [1, 2], ids=["3 entries", "12 entries"])
def test_blocks_of_very_few_entries_are_attacked_too(tile):
    """The smallest ones give the most away."""
    attacked = attack(tile, "orthogonal")
    assert share_reidentified(attacked.guess.blocks, attacked.plain) > 0.99
    assert not attacked.guess.search.failed


@pytest.mark.parametrize("distribution", ["orthogonal", "uniform"])
def test_tiles_that_are_the_same_in_all_images_hide_nothing(distribution):
    """A black border, as image_fit pad and many data sets have it."""
    def framed(count, seed):
        images = photographs(count, seed)
        images[:, :, :4] = images[:, :, :, :4] = -1
        return images

    plain, known = (cut(framed(count, seed), 4) for count, seed in ((1000, 8), (3000, 9)))
    core = draw_core(48, distribution, secret_generator(0))
    guess = images_from_statistics(plain @ core, known, distribution == "orthogonal",
                                   functools.partial(put_together, tile=4))
    assert share_reidentified(guess.blocks, plain) > 0.9


def test_an_attack_on_images_that_are_all_the_same_says_that_it_fails():
    view = view_of(torch.ones(400, 3, SIDE, SIDE))
    assert "failed" in adversary.attack_data(view, None).report


@pytest.mark.parametrize("wrong", ["public images of noise", "permuted entries"])
@pytest.mark.parametrize("tile", [0, 4], ids=["one block", "tiles"])
def test_what_cannot_be_matched_ends_in_failed(tile, wrong):
    attacked = attack(tile, "orthogonal", wrong)
    assert attacked.guess.search.failed
    assert attacked.guess.search.report()["failed"].startswith("the images look like those of a")
    assert share_reidentified(attacked.guess.blocks, attacked.plain) < 0.05


@pytest.mark.parametrize("distribution", ["orthogonal", "uniform"])
def test_the_best_of_starts_on_few_axes_goes_on_to_all(distribution, monkeypatch):
    monkeypatch.setattr(pair_moments, "SEARCH_AXES", 16)
    attack.cache_clear()
    attacked = attack(4, distribution)
    attack.cache_clear()
    assert share_reidentified(attacked.guess.blocks, attacked.plain) > 0.99
    assert not attacked.guess.search.failed


def test_starts_that_lead_elsewhere_rate_worse():
    search = attack(0, "orthogonal").guess.search
    assert search.agreeing > 1
    assert search.unlikeness < search.runner_up < 1.1 * search.wrong_keys


def test_too_few_images_or_other_shapes_are_refused_in_words():
    public = cut(photographs(100, seed=9), 4)
    with pytest.raises(ValueError, match="too few"):
        images_from_statistics(public[:8], public, True, put_together)
    with pytest.raises(ValueError, match="do not fit"):
        images_from_statistics(public[:, :, 1:], public, True, put_together)


@pytest.mark.parametrize("count", [2, 3, 20])
def test_a_few_images_in_many_blocks_have_no_third_moments(count):
    """Of κ = 96, say, three images are enough for moments between blocks."""
    blocks = photographs(count, seed=9).view(count, 3 * SIDE, SIDE)
    mirror = torch.arange(SIDE).flip(0)
    guess = images_from_statistics(blocks, blocks, True,
                                   lambda plain: plain.reshape(-1, 3, SIDE, SIDE), mirror)
    assert guess.search.moments == "pair" and guess.blocks.isfinite().all()


def test_edges_of_a_few_photographs_are_those_of_others():
    first, second = describe_edges(photographs(500, 1)), describe_edges(photographs(500, 2))
    noisy = photographs(500, 1) + 0.2 * torch.randn(500, 3, SIDE, SIDE)
    assert unlikeness(first, first) < 1e-6
    assert unlikeness(first, second) < 0.5 * unlikeness(describe_edges(noisy), second)


def test_mixed_pixels_are_unlike_photographs():
    """Even where they keep all variances and covariances, as with a wrong rotation."""
    images = photographs(1000, 1)
    whitened = whiten(cut(images, 0), 48)
    rotation = polar(torch.randn(48, 48, generator=torch.Generator().manual_seed(0)))
    right = put_together(whitened.restore(whitened.white), 0)
    wrong = put_together(whitened.restore(whitened.white @ rotation.T), 0)
    expected = describe_edges(right[500:])
    assert unlikeness(describe_edges(right[:500]), expected) < 0.8 * unlikeness(
        describe_edges(wrong[:500]), expected)


def test_mirror_images_count_as_the_same_and_random_ones_do_not():
    flip = torch.diag(torch.tensor([1.0, -1, 1, -1]))
    scale = torch.tensor([4.0, 3, 2, 1])
    other = polar(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))
    assert gives_same_images(flip, torch.eye(4), scale, flip)
    assert not gives_same_images(flip, torch.eye(4), scale, None)
    assert not gives_same_images(other, torch.eye(4), scale, flip)
    first_axes = torch.diag(torch.tensor([1.0, 1, 0, 0]))
    assert gives_same_images(first_axes, first_axes, scale, None)
    assert not gives_same_images(first_axes, other @ first_axes, scale, None)


def test_axes_of_images_and_mirror_images_are_symmetric_or_antisymmetric():
    blocks = cut(photographs(500, 1), 0)
    mirror = torch.arange(blocks.shape[2]).view(-1, SIDE).flip(1).flatten()
    both = torch.cat([blocks, blocks[..., mirror]])
    whitened, expected = whiten(blocks, 48, mirror), whiten(both, 48)
    assert whitened.mean.allclose(expected.mean, atol=1e-5)
    assert whitened.scale.allclose(expected.scale, rtol=1e-3)
    flip = mirror_rotation(whitened, mirror)
    assert flip.abs().allclose(torch.eye(48), atol=1e-2)


@pytest.mark.parametrize("mirrored", [False, True], ids=["images", "mirror images"])
def test_images_are_told_from_mirror_images(mirrored):
    """By pictures that are darker on the left, as public ones are; both orders of the answer."""
    public, private = photographs(3000, seed=9), photographs(1000, seed=8)
    darker = torch.linspace(0.7, 1.3, SIDE)
    known, plain = cut(public * darker, 0), cut(private * darker, 0)
    mirror = torch.arange(plain.shape[2]).view(-1, SIDE).flip(1).flatten()
    sides = whiten(known, 48, mirror), whiten(plain, 48)
    flip = mirror_rotation(sides[0], mirror)
    rotation = polar(sides[0].project(plain).flatten(0, 1).T @ sides[1].white.flatten(0, 1))
    if mirrored:
        rotation = flip @ rotation
    matcher = third_moments.Matcher(*sides, orthogonal=True, flip=flip)
    evidence = matcher.evidence_of_orientation(rotation, len(public))
    assert evidence < -10 if mirrored else evidence > 10


def test_moments_rotate_as_samples_do():
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(500, 5, generator=generator)
    rotation = polar(torch.randn(5, 5, generator=generator))
    turned = third_moments.third_moments(samples @ rotation.T)
    assert third_moments.rotate_moments(third_moments.third_moments(samples), rotation).allclose(
        turned, atol=1e-5)


def test_noise_makes_evidence_of_orientation_weigh_less():
    exact, noisy = (weight_of_evidence(1e-4, 1 / count, 1 / count) for count in (50_000, 1000))
    assert exact > 10 * noisy > 0


def test_a_search_fails_above_the_threshold_and_near_it_where_no_starts_agree():
    alone = Search(moments="third", starts=40, agreeing=1, unlikeness=0.5, runner_up=0.6,
                   wrong_keys=1.0, orientation=None)
    assert not alone.failed and "failed" not in alone.report()
    assert replace(alone, unlikeness=0.95, agreeing=40).failed
    near = replace(alone, unlikeness=0.8)
    assert near.failed and not replace(near, agreeing=10).failed


def test_shifted_copies_keep_the_size_and_repeat_the_border():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    copies = shifted_copies(image)
    assert copies.shape == (9, 1, 4, 4)
    assert copies[4].equal(image[0])
    shifted_up_left = copies[-1, 0]
    assert shifted_up_left[:3, :3].equal(image[0, 0, 1:, 1:])
    assert shifted_up_left[3, 3] == image[0, 0, 3, 3]


def view_of(plain: Tensor) -> View:
    """What an adversary without Aug-Conv holds of these images: morphed ones, 2000 public ones."""
    core = draw_core(3 * SIDE * SIDE, "orthogonal", secret_generator(0))
    geometry = Geometry("", (3, SIDE, SIDE), 0, "crop", 1, 0, "orthogonal", "float32", *CIFAR)
    return View(geometry, None, morph(plain, core), None, unroll(photographs(2000, seed=10)))


def test_few_public_images_get_copies_and_many_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(adversary, "FEW_PUBLIC", 1000)
    view = view_of(photographs(2, seed=8))
    few = dict(adversary.samples_of_the_kind(view, view.public[:999]))
    many = dict(adversary.samples_of_the_kind(view, view.public[:1000]))
    assert {name: len(sample) for name, sample in few.items()} == {
        "none": 999, "shifted": 9 * 999}
    assert list(many) == ["none"] and many["none"].equal(view.public[:1000])


def test_the_adversary_reports_how_it_chose_with_other_public_images(monkeypatch):
    monkeypatch.setattr(adversary, "FEW_PUBLIC", 1000)
    private = draw_photographs(600, SIDE, seed=8)
    view = view_of(Prepared(private, *CIFAR, 0)[:])
    shown = private[evenly_spaced(600, 256)].double() / 255
    truth = Truth(torch.arange(1), shown, private, *CIFAR)
    other = unroll(photographs(3000, seed=9))
    found = adversary.attack_data(view, truth, public=other)
    assert found.images.shape == (256, 3, SIDE, SIDE)
    assert found.report["public_images"] == 3000
    assert found.report["starts"] >= found.report["agreeing"] >= 1
    assert found.report["reidentified"] > 0.9 > found.report["reidentified_mirrored"]
    assert found.report["psnr"] > found.report["mean_image"]["psnr"] + 3
