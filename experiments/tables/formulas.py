"""What MoLe costs and sends, as formulas in multiply-adds, entries and bytes.

Images have α channels and side m, the first convolution β channels of side n with p×p kernels, the
core side q = αm²/κ; or there are tiles of side s.
"""

import math
from dataclasses import dataclass

from models.vgg import GROUPS

# The paper's case: VGG-16 on CIFAR.
ALPHA, M, BETA, KERNEL, IMAGES = 3, 32, 64, 3, 60_000
ENTRIES = ALPHA * M * M                                  # of an image: αm²
FEATURES = BETA * M * M                                  # of the first layer's output: βn²
FIRST_LAYER_MACS = ALPHA * KERNEL ** 2 * FEATURES        # αβp²n²
KAPPAS, TILES = (1, 3, 12, 48, 96), (32, 16, 8, 4)
# What the abstracts and the authors' README publish: shares of 1, factors, and in words.
PUBLISHED_COMPUTATION, PUBLISHED_DATA = 0.09, 0.0512
PUBLISHED_ACCURACY = "“without performance penalty” (abstract)"
PUBLISHED_LOW_ACCURACY = "“a very low accuracy” (authors' README)"
PUBLISHED_CHANCE = 7.9e-90          # of an attack: one guess at the order of the channels, 1/64!
PUBLISHED_GAZELLE_DATA, PUBLISHED_GAZELLE_CHANCE = 421_000, 2.9e-30
GAZELLE_TRAFFIC = 1236 * 2 ** 20    # bytes for one CIFAR-10 image (GAZELLE, USENIX Security 2018)


def vgg_macs(model: str, classes: int, channels: int = 3, side: int = 32) -> int:
    """Multiply-adds of models.vgg.VGG for one image, αβp²n² a convolution: 313.2 M for VGG-16."""
    total, inputs, n = 0, channels, side
    for group in GROUPS[model]:
        for outputs in group:
            total += KERNEL ** 2 * inputs * outputs * n * n
            inputs = outputs
        n = math.ceil(n / 2)
    return total + inputs * n * n * classes


def morphing_macs(entries: int, kappa: int = 1) -> int:
    """αm²·q: multiply-adds to morph one image of αm² entries, κ products with the core (q, q)."""
    return entries * entries // kappa


def aug_conv_entries(alpha: int, m: int, beta: int, tile: int) -> int:
    """Entries of Aug-Conv for a 3×3 layer padded by 1.

    With tiles they are also its multiply-adds for one tile: q·βk², q = αs², k = s + 2, whatever m
    is. One tile, s = m, is the paper's scheme: the dense αm²·βm².
    """
    if tile >= m:
        return alpha * m ** 2 * beta * m ** 2
    return alpha * tile ** 2 * beta * (tile + 2) ** 2


def pairs_needed(q: int, kappa: int) -> int:
    """Plain and morphed images that determine the core: each gives κ of the q equations needed."""
    return math.ceil(q / kappa)


@dataclass(frozen=True)
class TileCost:
    """Aug-Conv by tiles of one side, for one size of images, VGG-16 and CIFAR's 60 000 images."""

    tile: int
    tiles: int                      # in an image
    macs: int                       # multiply-adds for one image
    bytes: int                      # of Aug-Conv in float32
    growth: float                   # of VGG-16's multiply-adds, Aug-Conv for its first layer
    share_of_data: float            # of the bytes of the plain images
    share_of_entries: float         # of the entries of the plain images


def cost_of_tile(tile: int, m: int = M) -> TileCost:
    tiles = math.ceil(m / tile) ** 2
    entries = aug_conv_entries(ALPHA, m, BETA, tile)
    macs = tiles * entries
    first_layer = ALPHA * BETA * KERNEL ** 2 * m * m
    growth = (macs - first_layer) / vgg_macs("vgg16", 10, side=m)
    share = entries / (IMAGES * ALPHA * m * m)
    return TileCost(tile, tiles, macs, 4 * entries, growth, 4 * share, share)


@dataclass(frozen=True)
class Overheads:
    """What the formulas give for the paper's case; shares are of 1. Written to analysis.json."""

    network_macs: int               # multiply-adds of VGG-16
    likely_published_macs: int      # αp²m²n²: our guess at what the published 9% counts
    likely_published_overhead: float
    growth: float                   # (αm²·βn² − αβp²n²) over them: the dense Aug-Conv
    morphing_overhead: float        # αm²·q at κ = 1
    published_transmission: float   # a matrix as large as M over the data set: 5.12%
    transmission_by_entries: float  # Aug-Conv's entries over the data set's
    transmission_by_bytes: float    # float32 images and Aug-Conv beyond uint8 images
    plain_bytes: int
    morphed_bytes: int
    aug_conv_bytes: int
    order_guess: float              # 1/64!
    gazelle_guess: float            # 2⁻¹²⁸
    gazelle_ratio: float
    tiles: list[TileCost]


def compute_overheads() -> Overheads:
    network = vgg_macs("vgg16", 10)
    counted = ALPHA * KERNEL ** 2 * M ** 4               # αp²m²n²
    return Overheads(
        network_macs=network, likely_published_macs=counted,
        likely_published_overhead=counted / network,
        growth=(ENTRIES * FEATURES - FIRST_LAYER_MACS) / network,
        morphing_overhead=morphing_macs(ENTRIES) / network,
        published_transmission=ENTRIES / IMAGES,
        transmission_by_entries=FEATURES / IMAGES,
        transmission_by_bytes=3 + 4 * FEATURES / IMAGES,
        plain_bytes=IMAGES * ENTRIES, morphed_bytes=4 * IMAGES * ENTRIES,
        aug_conv_bytes=4 * ENTRIES * FEATURES,
        order_guess=1 / math.factorial(BETA), gazelle_guess=2 ** -128,
        gazelle_ratio=GAZELLE_TRAFFIC / ENTRIES,
        tiles=[cost_of_tile(tile) for tile in TILES])
