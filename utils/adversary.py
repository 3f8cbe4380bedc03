"""The attacks as one adversary plays them: on a delivery, timed, and measured where truth is given.

Nothing here opens a file. `truth` is for measuring alone: no attack sees it.
"""

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from utils import attacks
from utils.colours import best_colour_fit, colour_lattice
from utils.datasets import MEAN, STD
from utils.delivery import Delivery

IMAGES, PROBES, PUBLIC = 256, 96, 10_000
SEED_BITS, SEED_Q = 16, 48  # of the reduced key space that is searched
# The repairs of Aug-Conv that are tried, with their strengths; see attacks.repair.
REPAIRS = (("signs", 0.0), ("scales", 0.5), ("mixing", 1.0), ("local_mixing", 1.0),
           ("channels", 24.0), ("channels", 16.0), ("channels", 8.0), ("noise", 1e-3),
           ("noise", 1e-2), ("noise", 0.1), ("noise", 1.0))


class Truth(NamedTuple):
    """What no adversary has: channel order (β), plain images (N, 3, m, m) in [0, 1]."""

    order: Tensor
    pixels: Tensor


class Recovery(NamedTuple):
    """Attacks 1 to 3: maps (N, β, n, n), order (β), normalised images (N, 3, m, m) or None."""

    features: Tensor
    order: Tensor | None
    known: Tensor | None
    blind: Tensor | None
    report: dict[str, dict]


def recover(morphed: Tensor, weight: Tensor, out_shape: tuple[int, int, int], filters: Tensor,
            padding: int, seed: int, truth: Truth | None) -> Recovery:
    """Attacks 1 to 3 on one Aug-Conv."""
    began = time.perf_counter()
    probes = torch.randn(PROBES, morphed.shape[1], generator=torch.Generator().manual_seed(seed))
    maps = attacks.feature_maps(torch.cat([morphed, probes * morphed.std()]), weight, out_shape)
    features, probes = maps[:len(morphed)], maps[len(morphed):]
    look = {"seconds": since(began)}
    blind, stolen, about_blind = attack_blind(features, probes, filters.shape, padding, truth)
    order, known, about_known = attack_known(features, probes, filters, padding, truth, blind,
                                             stolen)
    return Recovery(features, order, known, blind,
                    {"look": look, "known first layer": about_known, "blind": about_blind})


def attack_known(features: Tensor, probes: Tensor, filters: Tensor, padding: int,
                 truth: Truth | None, blind: Tensor | None,
                 stolen: Tensor | None) -> tuple[Tensor | None, Tensor | None, dict]:
    """Attack 2: of the orders found in two ways, the one that explains the features better.

    Where neither does, as the channels are scaled or mixed, what the blind attack gave will do.
    """
    began, best, images, report = time.perf_counter(), None, None, {"channels": features.shape[1]}
    report["condition of the filters"] = float(torch.linalg.cond(filters.double().flatten(1)))
    ways = {"projector": lambda: attacks.channel_order(probes, filters),
            "stolen filters": lambda: attacks.match_filters(stolen, filters)}
    for way, find in ways.items():
        if way == "stolen filters" and (stolen is None or report.get("unexplained", 1) < 0.1):
            continue
        try:
            order = find()
            found = attacks.deconvolve(features, filters[order], padding)
        except ValueError as reason:
            report["failed"] = str(reason)
            continue
        left = F.conv2d(found, filters[order].double(), padding=padding) - features
        unexplained = float(left.norm() / features.norm())
        if unexplained < report.get("unexplained", math.inf):
            best, images = order, found
            report.pop("failed", None)
            report |= {"order from": way, "unexplained": unexplained}
            if truth is not None:
                report["channels right"] = int((order == truth.order[:len(order)]).sum())
    if blind is not None and report.get("unexplained", 1) > 0.1:
        images, report["images from"] = blind, "blind attack"
    return best, images, report | measured(images, truth) | {"seconds": since(began)}


def attack_blind(features: Tensor, probes: Tensor, layer: torch.Size, padding: int,
                 truth: Truth | None) -> tuple[Tensor | None, Tensor | None, dict]:
    """Attack 3: images up to colour, then their colours; also the filters, up to colour."""
    began, images, stolen, report = time.perf_counter(), None, None, {}
    try:
        stolen, correlations = attacks.blind_filters(probes, layer[1], layer[2])
        report["canonical correlations"] = correlations.tolist()
        mixed = attacks.deconvolve(features, stolen, padding)
        report["up to colour"] = measured_up_to_colour(mixed, truth)
        images = torch.einsum("nchw,cd->ndhw", mixed, colour_lattice(mixed, MEAN, STD))
    except ValueError as reason:
        report["failed"] = str(reason)
    return images, stolen, report | measured(images, truth) | {"seconds": since(began)}


def data_only(morphed: Tensor, plain: Tensor, delivery: Delivery,
              truth: Truth | None) -> tuple[Tensor, dict]:
    """Attack 6 on all of T (N, αm²), beside what a guess of the mean public image scores."""
    began = time.perf_counter()
    guess = attacks.likeness_from_statistics(morphed, plain, delivery.kappa)
    images = unpadded(guess[spread(len(morphed), IMAGES)], delivery)
    seconds = since(began)
    mean = unpadded(plain.double().mean(0, keepdim=True), delivery).expand_as(images)
    return images, measured(images, truth) | {
        "mean image": measured(mean, truth), "seconds": seconds}


def known_pairs(plain: Tensor, paired: Tensor, morphed: Tensor, delivery: Delivery,
                truth: Truth) -> list[dict]:
    """Attack 4: error on the images T `morphed` against the number of pairs plain, `paired`."""
    q, curve = plain.shape[1] // delivery.kappa, []
    least = math.ceil(q / delivery.kappa)
    wanted = {max(1, round(least * part)) for part in (1 / 16, 1 / 4, 1 / 2, 0.9, 1, 1.1)}
    for n in sorted({min(n, len(plain)) for n in wanted}):
        chosen = spread(len(plain), n)
        began = time.perf_counter()
        decoder = attacks.decoder_from_pairs(plain[chosen], paired[chosen], delivery.kappa)
        images = unpadded(attacks.unmorph(morphed, decoder), delivery)
        curve.append({"pairs": n, "least": least} | measured(images, truth)
                     | {"seconds": since(began)})
    return curve


def seed_search(q: int, seed: int) -> dict:
    """Attack 5 on a core drawn as the reference does, from 2^16 seeds in place of 2^32."""
    def draw(number: int, size: int = SEED_Q) -> Tensor:
        return torch.rand(size, size, generator=torch.Generator().manual_seed(number))

    generator = torch.Generator().manual_seed(seed)
    secret = int(torch.randint(2 ** SEED_BITS, (1,), generator=generator))
    plain = torch.randn(SEED_Q, generator=generator)
    began = time.perf_counter()
    found = attacks.seed_search(plain, plain @ draw(secret), draw, range(2 ** SEED_BITS))
    rate = (secret + 1) / (time.perf_counter() - began)
    began = time.perf_counter()
    for number in range(3):
        draw(number, q)
    full = 3 / (time.perf_counter() - began)
    years = 2 ** 32 / full / (365.25 * 86400)
    return {"found": found == secret, "bits": SEED_BITS, "q": SEED_Q, "seeds per second": rate,
            "full q": q, "full seeds per second": full, "years for 2^32": years,
            "bits of entropy here": 256}


def repaired(kind: str, strength: float, weight: Tensor, delivery: Delivery, morphed: Tensor,
             all_morphed: Tensor, plain: Tensor, filters: Tensor, padding: int,
             truth: Truth) -> dict:
    """Attacks 2 and 3 on a repaired variant of Aug-Conv, and what noise does to its features."""
    exact = attacks.feature_maps(morphed, weight, delivery.out_shape)
    generator = torch.Generator().manual_seed(1)
    weight = attacks.repair(weight, delivery.out_shape, kind, strength, generator)
    out_shape = (weight.shape[1] // math.prod(delivery.out_shape[1:]), *delivery.out_shape[1:])
    report = {"repair": kind, "strength": strength}
    if kind == "local_mixing":
        began = time.perf_counter()
        probes = torch.randn(PROBES, morphed.shape[1], generator=generator) * morphed.std()
        maps = attacks.feature_maps(torch.cat([morphed, probes]), weight, out_shape)
        images = attacks.blind_pixels(maps[:len(morphed)], maps[len(morphed):])
        inner = Truth(truth.order, truth.pixels[:, :, 1:-1, 1:-1])
        return report | {"known first layer": {}, "blind": {
            "up to colour": measured_up_to_colour(images, inner), "seconds": since(began)}}
    found = recover(morphed, weight, out_shape, filters, padding, 1, truth)
    report |= found.report
    if kind == "noise":
        report["error of the features"] = float((found.features - exact).norm() / exact.norm())
        began, order = time.perf_counter(), found.order
        inverse = attacks.denoised_inverse(weight, out_shape, filters[order], padding
                                           - delivery.image_padding, all_morphed, plain)
        images = unpadded(morphed.double() @ inverse, delivery)
        report["known first layer, denoised"] = measured(images, truth) | {
            "seconds": since(began)}
    return report


def spread(count: int, most: int) -> Tensor:
    """At most so many of `count` indices, evenly spaced: images may lie in the order of classes."""
    return torch.linspace(0, count - 1, min(count, most)).long()


def unpadded(vectors: Tensor, delivery: Delivery) -> Tensor:
    """Unrolled images (N, αm²) as images, without the zeros that were put around them."""
    rim, side = delivery.image_padding, delivery.shape[-1]
    return vectors.view(-1, *delivery.shape)[:, :, rim:side - rim, rim:side - rim]


def normal(pixels: Tensor) -> Tensor:
    """Pixels (N, 3, m, m) in [0, 1] to what the networks see, float64."""
    mean, std = (torch.tensor(x, dtype=torch.float64).view(3, 1, 1) for x in (MEAN, STD))
    return (pixels - mean) / std


def pixels(images: Tensor) -> Tensor:
    """The inverse of `normal`."""
    mean, std = (torch.tensor(x, dtype=torch.float64).view(3, 1, 1) for x in (MEAN, STD))
    return images * std + mean


def measured(images: Tensor | None, truth: Truth | None) -> dict[str, float]:
    """PSNR, SSIM and share of exact values of normalised images; nothing without a truth."""
    if images is None or truth is None:
        return {}
    return attacks.score(pixels(images), truth.pixels)


def measured_up_to_colour(images: Tensor, truth: Truth | None) -> dict[str, float]:
    """The same under the best fit of one mixture of colours, which a blind attack leaves open."""
    if truth is None:
        return {}
    return measured(best_colour_fit(images, normal(truth.pixels)), truth)


def since(began: float) -> float:
    return round(time.perf_counter() - began, 2)
