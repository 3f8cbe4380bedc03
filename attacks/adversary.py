"""The attacks as one adversary plays them: on a delivery, timed, and measured where truth is given.

Nothing here opens a file. `truth` is for measuring alone: no attack sees it.
"""

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import algebra, blind, data_only
from attacks.colours import best_colour_fit, colour_lattice
from mole.aug_conv import AugConv
from mole.morphing import core_size
from utils.delivery import Geometry

IMAGES, PROBES, PUBLIC, LIKENESS = 256, 96, 50_000, 2000


def evenly_spaced(count: int, most: int) -> Tensor:
    """At most so many of `count` indices (int64), from end to end: images may lie by classes."""
    return torch.linspace(0, count - 1, min(count, most)).long()


class View(NamedTuple):
    """All that the adversary holds: the delivery's geometry, Aug-Conv, T of all test images
    (N, *geometry.morphed) float32 (`morphed`: those under attack), the first layer with the
    padding of plain images, and public images, unrolled like T but not morphed."""

    geometry: Geometry
    aug_conv: AugConv
    all_morphed: Tensor
    layer: nn.Conv2d
    public: Tensor

    @property
    def morphed(self) -> Tensor:
        return self.all_morphed[evenly_spaced(len(self.all_morphed), IMAGES)]

    @property
    def side(self) -> int:
        """Of plain images."""
        return self.geometry.shape[-1] - 2 * self.geometry.image_padding

    def images_of(self, features: Tensor, filters: Tensor) -> Tensor:
        return algebra.deconvolve(features, filters, self.side, self.layer.stride[0],
                                  self.layer.padding[0])

    def features_of(self, images: Tensor, filters: Tensor) -> Tensor:
        return F.conv2d(images, filters, None, self.layer.stride, self.layer.padding)


class Truth(NamedTuple):
    """What no adversary has: channel order (β), pixels (N, α, m, m) in [0, 1] of the images under
    attack, and of all test images, uint8; how to normalise."""

    order: Tensor
    pixels: Tensor
    all_pixels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Recovery(NamedTuple):
    """Attacks 1 to 3: maps (N, β, n, n), order (β), normalised images (N, α, m, m) or None."""

    features: Tensor
    order: Tensor | None
    known: Tensor | None
    blind: Tensor | None
    report: dict[str, dict]


def recover(view: View, truth: Truth | None) -> Recovery:
    """Attacks 1 to 3 on one Aug-Conv."""
    began = time.perf_counter()
    maps = maps_and_probes(view)
    look = {"seconds": since(began)}
    images, stolen, about_blind = attack_blind(*maps, view, truth)
    order, known, about_known = attack_known(*maps, view, truth,
                                            images if stolen is not None else None)
    return Recovery(maps[0], order, known, images,
                    {"look": look, "known_first_layer": about_known, "blind": about_blind})


def maps_and_probes(view: View) -> tuple[Tensor, Tensor]:
    """Feature maps of T, and of random vectors of the same size in its place."""
    morphed, generator = view.morphed, torch.Generator().manual_seed(0)
    probes = torch.randn(PROBES, *morphed.shape[1:], generator=generator) * morphed.std()
    return algebra.feature_maps(torch.cat([morphed, probes]), view.aug_conv).split(
        [len(morphed), PROBES])


def attack_known(features: Tensor, probes: Tensor, view: View, truth: Truth | None,
                 blind_images: Tensor | None) -> tuple:
    """Attack 2: of the orders found in several ways, the one that explains the features best.

    Where none does, as the channels are scaled or mixed, whole images of the blind attack will do.
    """
    began, best, images = time.perf_counter(), None, None
    layer, filters, bias = view.layer, algebra.filter_bank(view.layer), view.aug_conv.bias

    def by_likeness() -> Tensor:
        some, g = evenly_spaced(len(view.public), LIKENESS), view.geometry
        seen = view.all_morphed[evenly_spaced(len(view.all_morphed), LIKENESS)]
        return algebra.order_from_likeness(in_parts(view.aug_conv, seen), in_parts(
            lambda x: view.features_of(unpadded(x, g), filters.float()), view.public[some]))

    ways = {"bias": lambda: algebra.assigned(bias[:, None], layer.bias[:, None]),
            "projector": lambda: algebra.channel_order(probes, layer), "likeness": by_likeness}
    if bias is None or len(bias.unique()) < len(bias):
        del ways["bias"]
    report = {"channels": features.shape[1],
              "condition_of_the_filters": float(torch.linalg.cond(filters.flatten(1)))}
    for way, find in ways.items():
        try:
            order = find()
            found = view.images_of(features, filters[order])
        except ValueError as reason:
            report["failed"] = str(reason)
            continue
        left = view.features_of(found, filters[order]) - features
        unexplained = float(left.norm() / features.norm())
        if unexplained < report.get("unexplained", math.inf):
            best, images = order, found
            report.pop("failed", None)
            report |= {"order_from": way, "unexplained": unexplained}
            if truth is not None:
                report["channels_right"] = int((order == truth.order[:len(order)]).sum())
        if unexplained < 0.1:
            break
    if blind_images is not None and report.get("unexplained", 1) > 0.1:
        images, report["images_from"] = blind_images, "blind attack"
    pixels_of_one = filters.shape[1] * view.side ** 2
    rim = (view.side + 2 * layer.padding[0] - filters.shape[-1]) % layer.stride[0]
    if features[0].numel() < pixels_of_one:
        report["left_open"] = f"{features[0].numel()} features for {pixels_of_one} values"
    elif rim > layer.padding[0]:
        report["left_open"] = f"{rim - layer.padding[0]} rows that the stride does not reach"
    return best, images, report | measured(images, truth) | {"seconds": since(began)}


def attack_blind(features: Tensor, probes: Tensor, view: View, truth: Truth | None) -> tuple:
    """Attack 3: images up to colour, then their colours; also the filters, up to colour.

    With a stride, every so many pixels of each axis, and no filters. A patch embedding mixes no
    positions: it morphs tiles, whose images come from statistics as in attack 6.
    """
    began, images, stolen, report = time.perf_counter(), None, None, {}
    stride, padding = view.layer.stride[0], view.layer.padding[0]
    channels, kernel = algebra.filter_bank(view.layer).shape[1:3]
    try:
        if stride == kernel > 1 and not padding:
            report["by"] = "statistics of patches"
            images = patches_from_statistics(view, kernel)
            truth = truth and truth._replace(pixels=truth.pixels[
                ..., :images.shape[-1], :images.shape[-1]])
        else:
            shared = blind.shared_pixel(probes, channels, kernel, stride)
            report["canonical_correlations"] = shared.correlations.tolist()
            if stride == 1:
                stolen = blind.blind_filters(probes, shared, kernel)
                mixed = view.images_of(features, stolen)
            else:
                report["left_open"] = f"all but one pixel of {stride}x{stride}"
                rows = slice(shared.first - padding, view.side, stride)
                count = len(range(view.side)[rows])
                mixed = shared.pixels(features)[..., :count, :count]
                count = mixed.shape[-1]
                truth = truth and truth._replace(
                    pixels=truth.pixels[..., rows, rows][..., :count, :count])
            report["up_to_colour"] = measured(mixed, truth, up_to_colour=True)
            colours = colour_lattice(mixed, view.geometry.mean, view.geometry.std)
            images = torch.einsum("nchw,cd->ndhw", mixed, colours)
    except ValueError as reason:
        report["failed"] = str(reason)
    return images, stolen, report | measured(images, truth) | {"seconds": since(began)}


def patches_from_statistics(view: View, size: int) -> Tensor:
    """Images (N, α, n·size, n·size) under attack, from features of patches of this size."""
    maps = in_parts(view.aug_conv, view.all_morphed)
    plain = unpadded(view.public, view.geometry)[..., :size * maps.shape[2], :size * maps.shape[3]]
    guess = data_only.images_from_statistics(
        blocks(maps), blocks(F.pixel_unshuffle(plain, size)), orthogonal=False)
    guess = guess[evenly_spaced(len(guess), IMAGES)].transpose(1, 2)
    return F.pixel_shuffle(guess.unflatten(2, maps.shape[2:]), size)


def blocks(tiles: Tensor) -> Tensor:
    """Tiles (N, q, t, t) as blocks (N, t², q)."""
    return tiles.flatten(2).transpose(1, 2)


def in_parts(function, images: Tensor) -> Tensor:
    return torch.cat([function(part) for part in images.split(500)])


def attack_data(view: View, truth: Truth | None) -> tuple[Tensor | None, dict]:
    """Attack 6 on all of T, beside what a guess of the mean public image scores.

    `reidentified`: the share of all test images whose own plain image is the nearest of all.
    """
    began, g = time.perf_counter(), view.geometry
    q = core_size(g.shape, g.kappa, g.tile)

    def unrolled(x: Tensor) -> Tensor:
        """T, or what was morphed, as (N, κ, q): contiguous blocks, or tiles."""
        return blocks(x) if g.tile else x.view(len(x), -1, q)

    whole_rows = not g.tile and q % g.shape[2] == 0
    mirror = torch.arange(q).view(-1, g.shape[2]).flip(1).flatten() if whole_rows else None
    try:
        guess = data_only.images_from_statistics(
            unrolled(view.all_morphed), unrolled(view.public), g.morph_distribution == "orthogonal",
            mirror)
    except ValueError as reason:
        return None, {"failed": str(reason)}
    guess = unpadded(guess.transpose(1, 2).reshape(view.all_morphed.shape) if g.tile
                     else guess.reshape(view.all_morphed.shape), g)
    report = {"seconds": since(began), "public_images": len(view.public)}
    images = guess[evenly_spaced(len(guess), IMAGES)]
    if truth is not None:
        plain = normal(truth.all_pixels / 255, truth.mean, truth.std).float()
        report["reidentified"] = algebra.reidentified(guess, plain)
        mean = unpadded(view.public.double().mean(0, keepdim=True), g).expand_as(images)
        report["mean_image"] = measured(mean, truth)
    return images, measured(images, truth) | report


def known_pairs(view: View, paired: Tensor, truth: Truth) -> list[dict]:
    """Attack 4: scores against the number of known pairs; `paired` is T of the public images."""
    g, curve = view.geometry, []
    q = core_size(g.shape, g.kappa, g.tile)
    morphed, plain, paired = (x.movedim(1, -1) for x in (view.morphed, view.public, paired))
    least = math.ceil(q / (morphed[0].numel() // q))
    wanted = (max(1, round(least * part)) for part in (1 / 16, 1 / 4, 1 / 2, 0.9, 1, 1.1))
    for n in sorted({min(n, len(plain)) for n in wanted}):
        chosen = evenly_spaced(len(plain), n)
        began = time.perf_counter()
        decoder = algebra.decoder_from_pairs(plain[chosen], paired[chosen], q)
        images = (morphed.double().reshape(-1, q) @ decoder).view(morphed.shape).movedim(-1, 1)
        curve.append({"pairs": n, "least": least} | measured(unpadded(images, g), truth)
                     | {"seconds": since(began)})
    return curve


def unpadded(unmorphed: Tensor, geometry: Geometry) -> Tensor:
    """Images (N, α, m, m) without the zeros put around them, from (N, *geometry.morphed)."""
    side = geometry.shape[-1]                   # tiles may reach beyond the image
    return F.pad(geometry.placed(unmorphed)[..., :side, :side], [-geometry.image_padding] * 4)


def pixels(images: Tensor, mean: tuple, std: tuple) -> Tensor:
    """Normalised images (N, α, m, m) to pixels in [0, 1], float64."""
    mean, std = torch.tensor([mean, std], dtype=torch.float64)[:, :, None, None]
    return images * std + mean


def normal(pixels: Tensor, mean: tuple, std: tuple) -> Tensor:
    """The inverse of `pixels`."""
    mean, std = torch.tensor([mean, std], dtype=torch.float64)[:, :, None, None]
    return (pixels - mean) / std


def measured(images: Tensor | None, truth: Truth | None, up_to_colour: bool = False) -> dict:
    """PSNR, SSIM and share of exact values of normalised images; nothing without a truth.
    `up_to_colour`: under the best fit of one mixture of colours, which a blind attack leaves open.
    """
    if images is None or truth is None:
        return {}
    if up_to_colour:
        images = best_colour_fit(images, normal(truth.pixels, truth.mean, truth.std))
    return algebra.score(pixels(images, truth.mean, truth.std), truth.pixels)


def since(began: float) -> float:
    return round(time.perf_counter() - began, 2)
