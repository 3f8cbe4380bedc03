"""The attacks as one adversary plays them on a delivery: timed, and scored where truth is given.

Each attack returns what it found and a report: plain values for a JSON record. Nothing here opens
a file.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks import algebra, blind, data_only
from attacks.colours import find_colours
from attacks.samples import COPIES, in_parts, shifted_copies
from attacks.scores import share_reidentified
from attacks.view import (
    PUBLIC,
    Truth,
    View,
    from_blocks,
    tiles_to_blocks,
    to_blocks,
    to_plain_images,
)
from mole.morphing import unroll
from utils.attack_reports import UNDER_ATTACK
from utils.delivery import Delivery
from utils.examples import evenly_spaced

PROBES = 96                 # random vectors that are put through Aug-Conv
LIKENESS = 2000             # images that the order of channels is compared on
UNEXPLAINED_LIMIT = 0.1     # an order that leaves less of the features unexplained is right
FEW_PUBLIC = 3000           # images below which copies make their statistics more exact
SHARES_OF_PAIRS = (1 / 16, 1 / 4, 1 / 2, 0.9, 1, 1.1)       # of those that determine the core


class Grid(NamedTuple):
    """The rows and columns (int64) of the private images that recovered images show."""

    rows: Tensor
    columns: Tensor


class AugConvFeatures(NamedTuple):
    """What Aug-Conv gives, without its bias, (…, β, n, n) float64.

    of_images: of the images under attack; of_probes: of random vectors of the same size in T's
    place. Of the mirrored Aug-Conv, both are turned left to right: then they are the first layer's
    features of the mirror images.
    """

    of_images: Tensor
    of_probes: Tensor


class Explanation(NamedTuple):
    """An order of Aug-Conv's channels, and the images that it leads to."""

    way: str                    # what gave the order away
    order: Tensor               # (β)
    images: Tensor              # (N, α, m, m)
    unexplained: float          # of the features, what these images do not explain


@dataclass
class Finding:
    """What one attack found: normalised images (N, α, m, m) under attack, or None, and a report."""

    images: Tensor | None = None
    report: dict = field(default_factory=dict)


@dataclass
class KnownLayerFinding(Finding):
    """Also the order of Aug-Conv's channels (β), or None."""

    order: Tensor | None = None


@dataclass
class BlindFinding(Finding):
    """`whole`: the images have all their pixels, not only those that a stride leaves."""

    whole: bool = False


@dataclass
class Recovery:
    """What one Aug-Conv gives away."""

    features: Tensor                    # of the images under attack, (N, β, n, n) float64
    known_layer: KnownLayerFinding
    blind: BlindFinding
    look_seconds: float

    @property
    def report(self) -> dict[str, dict]:
        return {"look": {"seconds": self.look_seconds},
                "known_first_layer": self.known_layer.report, "blind": self.blind.report}


def recover(view: View, truth: Truth | None) -> Recovery:
    """The attacks on one Aug-Conv, with the first layer known and blind.

    The blind attack also uses the mirrored Aug-Conv, where the view has one.
    """
    began = time.perf_counter()
    features, mirrored = features_of_images_and_probes(view), None
    if view.mirrored is not None:
        mirrored = features_of_images_and_probes(view, mirrored=True)
    look_seconds = seconds_since(began)
    found_blind = attack_blind(features, mirrored, view, truth)
    substitute = found_blind.images if found_blind.whole else None
    found_known = attack_known_layer(features, view, truth, substitute)
    return Recovery(features.of_images, found_known, found_blind, look_seconds)


def features_of_images_and_probes(view: View, mirrored: bool = False) -> AugConvFeatures:
    """Aug-Conv's features of T and of PROBES random vectors; `mirrored`: those of their mirror
    images, by the mirrored Aug-Conv."""
    morphed = view.morphed
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(PROBES, *morphed.shape[1:], generator=generator) * morphed.std()
    aug_conv = view.mirrored if mirrored else view.aug_conv
    features = algebra.feature_maps(torch.cat([morphed, probes]), aug_conv)
    if mirrored:
        features = features.flip(3)
    return AugConvFeatures(features[:len(morphed)], features[len(morphed):])


def attack_known_layer(features: AugConvFeatures, view: View, truth: Truth | None,
                       substitute: Tensor | None) -> KnownLayerFinding:
    """With the first layer known: the order of the channels, then the images by least squares.

    Where no order explains the features, because the channels are scaled or mixed, the blind
    attack's images are taken as a `substitute`, if there are any.
    """
    began = time.perf_counter()
    found = KnownLayerFinding(report={"channels": features.of_images.shape[1]})
    best, failures = explain_features(features, view)
    if best is None:
        found.report["failed"] = "; ".join(failures)
    else:
        found.images, found.order = best.images, best.order
        found.report |= {"order_from": best.way, "unexplained": best.unexplained}
        if truth is not None:
            right = best.order == truth.order[:len(best.order)]
            found.report["channels_right"] = int(right.sum())
    is_explained = best is not None and best.unexplained <= UNEXPLAINED_LIMIT
    if substitute is not None and not is_explained:
        found.images = substitute
        found.report["images_from"] = "blind attack"
    left_open = undetermined(features.of_images, view)
    if left_open:
        found.report["left_open"] = left_open
    found.report |= scored(found.images, truth) | {"seconds": seconds_since(began)}
    return found


def explain_features(features: AugConvFeatures, view: View
                     ) -> tuple[Explanation | None, list[str]]:
    """The order of channels that explains the features best, looked for in several ways until one
    leaves little; None where there is none. Also why ways failed."""
    filters = algebra.filter_bank(view.layer)
    best, failures = None, []
    for way, find_order in ways_to_the_order(features.of_probes, view, filters):
        try:
            order = find_order()
            images = view.images_of(features.of_images, filters[order])
        except ValueError as reason:
            failures.append(f"{way}: {reason}")
            continue
        rest = view.features_of(images, filters[order]) - features.of_images
        share = float(rest.norm() / features.of_images.norm())
        if share < (math.inf if best is None else best.unexplained):     # which NaN is not
            best = Explanation(way, order, images, share)
        if share < UNEXPLAINED_LIMIT:
            break
    return best, failures


def ways_to_the_order(probe_features: Tensor, view: View,
                      filters: Tensor) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Names of the ways in which the order of channels may show, with the functions that find it,
    cheapest first."""
    bias = view.aug_conv.bias

    def order_from_bias() -> Tensor:
        return algebra.assign(bias[:, None], view.layer.bias[:, None])

    def order_from_projector() -> Tensor:
        return algebra.channel_order(probe_features, view.layer)

    def order_from_likeness() -> Tensor:
        morphed = view.all_morphed[evenly_spaced(len(view.all_morphed), LIKENESS)]
        public = view.public[evenly_spaced(len(view.public), LIKENESS)]
        images = to_plain_images(public, view.geometry)
        expected = in_parts(lambda part: view.features_of(part, filters.float()), images)
        return algebra.order_from_likeness(view.features_of_morphed(morphed), expected)

    bias_differs = bias is not None and len(bias.unique()) == len(bias)
    if bias_differs:
        yield "bias", order_from_bias
    yield "projector", order_from_projector
    yield "likeness", order_from_likeness


def undetermined(features: Tensor, view: View) -> str:
    """What features cannot tell of the images even with the layer known, in words, or nothing."""
    values = view.layer.in_channels * view.side ** 2
    padding, stride = view.layer.padding[0], view.layer.stride[0]
    kernel = algebra.filter_bank(view.layer).shape[-1]
    # Rows below the last window, less those that the padding adds there.
    unreached = (view.side + 2 * padding - kernel) % stride - padding
    if features[0].numel() < values:
        return f"{features[0].numel()} features for {values} values"
    if stride > kernel:
        return f"all but {kernel} of {stride} rows and columns, between which the stride skips"
    if unreached > 0:
        return f"{unreached} rows that the stride does not reach"
    return ""


def attack_blind(features: AugConvFeatures, mirrored: AugConvFeatures | None, view: View,
                 truth: Truth | None) -> BlindFinding:
    """With the first layer unknown but for its shape: images up to colour, then their colours.

    A stride of s leaves one pixel of each s×s, or two of them with the `mirrored` Aug-Conv. A patch
    embedding mixes no positions, so its patches are morphed tiles: their images come from
    statistics, as without Aug-Conv.
    """
    began = time.perf_counter()
    found = BlindFinding()
    kernel = algebra.filter_bank(view.layer).shape[-1]
    stride, padding = view.layer.stride[0], view.layer.padding[0]
    try:
        if stride == kernel > 1 and not padding:
            found.report["by"] = "statistics of patches"
            found.images = patches_from_statistics(view, kernel)
            covered = square_grid(range(found.images.shape[-1]))
        else:
            mixed, covered, report = blind_by_shared_pixel(features, mirrored, view)
            found.whole = mixed.shape[-2:] == (view.side, view.side)
            found.report |= report
            found.report["up_to_colour"] = scored(mixed, truth, covered, up_to_colour=True)
            colours = find_colours(mixed, view.geometry.mean, view.geometry.std)
            found.images = torch.einsum("nchw,cd->ndhw", mixed, colours)
        found.report |= scored(found.images, truth, covered)
    except ValueError as reason:
        found.report["failed"] = str(reason)
    found.report["seconds"] = seconds_since(began)
    return found


def blind_by_shared_pixel(features: AugConvFeatures, mirrored: AugConvFeatures | None,
                          view: View) -> tuple[Tensor, Grid, dict]:
    """What the pixel shared by neighbouring windows gives: (images, covered, report).

    The images (N, α, h, w) are right up to one mixture of their colours; `covered` says which rows
    and columns of the private images they show. Raises ValueError where it gives nothing.

    Two Aug-Convs of one core tie M to a symmetry that is known. With Φ the mirroring of images, and
    A and A' the two Aug-Convs without the order of their channels: A = M⁻¹C, and A' = M⁻¹ΦC with
    its features mirrored back. So A' gives T the features, of the same first layer and with the
    same channels, that A gives to T·M⁻¹ΦM, the morphed mirror image (own derivation). What reads
    pixels from A's features reads the mirror image's from those of A', in the same mixture of
    colours. Where A gives the whole image, that is nothing new. Where a stride leaves every s-th
    column, counted from the left, A' gives every s-th counted from the right: others, unless s
    divides their distance.
    """
    channels, kernel = algebra.filter_bank(view.layer).shape[1:3]
    stride, padding = view.layer.stride[0], view.layer.padding[0]
    probes = features.of_probes
    if mirrored is not None:
        probes = torch.cat([probes, mirrored.of_probes])
    shared = blind.find_shared_pixel(probes, channels, kernel, stride)
    report = {"canonical_correlations": shared.correlations.tolist()}
    if stride == 1:
        filters = blind.blind_filters(probes, shared, kernel)
        images = view.images_of(features.of_images, filters)
        if mirrored is not None:
            images = (images + view.images_of(mirrored.of_images, filters).flip(3)) / 2
        return images, square_grid(range(view.side)), report
    pixels = shared.read(features.of_images)
    shown = range(shared.first - padding, view.side, stride)[:pixels.shape[-1]]
    pixels, covered = pixels[..., :len(shown), :len(shown)], square_grid(shown)
    if mirrored is not None:
        of_mirror_images = shared.read(mirrored.of_images)[..., :len(shown), :len(shown)]
        pixels, covered = join_columns(pixels, of_mirror_images, covered, view.side)
    phases = len((covered.columns % stride).unique())
    found = "one pixel" if phases == 1 else f"{phases} pixels"
    report["left_open"] = f"all but {found} of {stride}x{stride}"
    return pixels, covered, report


def square_grid(places: range) -> Grid:
    """The same rows and columns."""
    return Grid(torch.tensor(places), torch.tensor(places))


def join_columns(pixels: Tensor, of_mirror_images: Tensor, covered: Grid,
                 side: int) -> tuple[Tensor, Grid]:
    """Pixels (N, α, h, w) of images and of their mirror images, which show the same `covered` rows
    and columns, as one image each: with the columns of both, in their order."""
    others = side - 1 - covered.columns
    is_new = ~torch.isin(others, covered.columns)
    columns, order = torch.cat([covered.columns, others[is_new]]).sort()
    joined = torch.cat([pixels, of_mirror_images[..., is_new]], 3)[..., order]
    return joined, Grid(covered.rows, columns)


def patches_from_statistics(view: View, size: int) -> Tensor:
    """Images (N, α, n·size, n·size) under attack, from features of patches of this size."""
    maps = view.features_of_morphed(view.all_morphed)
    rows, columns = size * maps.shape[2], size * maps.shape[3]
    public = to_plain_images(view.public, view.geometry)[..., :rows, :columns]

    def as_images(patches: Tensor) -> Tensor:
        return F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, maps.shape[2:]), size)

    guess = data_only.images_from_statistics(
        tiles_to_blocks(maps), tiles_to_blocks(F.pixel_unshuffle(public, size)), orthogonal=False,
        as_images=as_images)
    return as_images(guess.blocks[evenly_spaced(len(guess.blocks), UNDER_ATTACK)])


def attack_data(view: View, truth: Truth | None, public: Tensor | None = None) -> Finding:
    """From T of all test images alone, without Aug-Conv or the first layer.

    `public`: other public images (n, *T's shape) in place of the view's. The report says how the
    search for the core went (`starts` and so on, see `data_only.Search`), and beside the scores
    what the mean public image scores. `reidentified`: the share of all test images whose own plain
    image is the nearest of all; `reidentified_mirrored`: the same of the mirror images, where
    blocks are whole rows, so that statistics may leave open which are the images.
    """
    began = time.perf_counter()
    if public is None:
        public = view.public
    report = {"public_images": len(public)}
    try:
        copies, guess = best_guess(view, public)
    except torch.linalg.LinAlgError:
        report["failed"] = "the blocks vary too little for statistics"
        return Finding(report=report | {"seconds": seconds_since(began)})
    except ValueError as reason:
        report["failed"] = str(reason)
        return Finding(report=report | {"seconds": seconds_since(began)})
    report["copies"] = copies
    all_images = to_plain_images(from_blocks(guess.blocks, view), view.geometry)
    report |= guess.search.report() | {"seconds": seconds_since(began)}
    images = all_images[evenly_spaced(len(all_images), UNDER_ATTACK)]
    report |= scored(images, truth)
    if truth is not None:
        plain = truth.all_images()
        report["reidentified"] = share_reidentified(all_images, plain)
        if mirror_of_blocks(view) is not None:
            report["reidentified_mirrored"] = share_reidentified(all_images.flip(3), plain)
        mean = to_plain_images(public.double().mean(0, keepdim=True), view.geometry)
        report["mean_image"] = scored(mean.expand_as(images), truth)
    return Finding(images, report)


def best_guess(view: View, public: Tensor) -> tuple[str, data_only.Guess]:
    """Blocks from statistics, and which copies of the public images these come from: those whose
    images look most like photographs, compared with wrong keys. Raises ValueError where the images
    are too few."""

    def as_images(blocks: Tensor) -> Tensor:
        return to_plain_images(from_blocks(blocks, view), view.geometry)

    orthogonal = view.geometry.morph_distribution == "orthogonal"
    best = None
    for copies, sample in samples_of_the_kind(view, public):
        guess = data_only.images_from_statistics(
            to_blocks(view.all_morphed, view), to_blocks(public, view), orthogonal, as_images,
            mirror_of_blocks(view), to_blocks(sample, view))
        if best is None or guess.search.share_of_wrong_keys < best[1].search.share_of_wrong_keys:
            best = copies, guess
    return best


def samples_of_the_kind(view: View, public: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The public images (n, *T's shape); where they are few also with shifted copies, which are
    about as likely."""
    yield "none", public
    if len(public) >= FEW_PUBLIC:
        return
    padding, tile = view.geometry.image_padding, view.geometry.tile
    shifted = shifted_copies(to_plain_images(public, view.geometry))
    yield "shifted", unroll(F.pad(shifted, [padding] * 4), tile)


def mirror_of_blocks(view: View) -> Tensor | None:
    """The permutation (q) that mirrors a block left to right; None where blocks are no whole rows
    of the image."""
    side, q = view.geometry.shape[2], view.block_size
    if view.geometry.tile or q % side:
        return None
    return torch.arange(q).view(-1, side).flip(1).flatten()


def attack_known_pairs(view: View, plain: Tensor, paired: Tensor, truth: Truth,
                       rounding: float = 0.0) -> list[dict]:
    """Scores against the number of known pairs: `paired` (n, *T's shape) is T of `plain`, whose
    entries were rounded with errors of this variance."""
    q = view.block_size
    morphed = view.morphed.movedim(1, -1)
    plain, paired = plain.movedim(1, -1), paired.movedim(1, -1)
    least = math.ceil(q / (morphed[0].numel() // q))        # pairs that determine the core
    counts = {min(len(plain), max(1, round(least * share))) for share in SHARES_OF_PAIRS}
    curve = []
    for count in sorted(counts):
        began = time.perf_counter()
        chosen = evenly_spaced(len(plain), count)
        inverse = algebra.inverse_from_pairs(plain[chosen], paired[chosen], q, rounding)
        images = morphed.double().reshape(-1, q) @ inverse
        images = to_plain_images(images.view(morphed.shape).movedim(-1, 1), view.geometry)
        curve.append({"pairs": count, "least": least} | scored(images, truth)
                     | {"seconds": seconds_since(began)})
    return curve


def scored(images: Tensor | None, truth: Truth | None, covered: Grid | None = None,
           up_to_colour: bool = False) -> dict[str, float]:
    """The scores of normalised images, by name; nothing without images or truth.

    `covered`: the rows and columns of the private images that these images show; None for all.
    """
    if images is None or truth is None:
        return {}
    shown = truth
    if covered is not None:
        pixels = truth.pixels[..., covered.rows, :][..., covered.columns]
        shown = truth._replace(pixels=pixels)
    return shown.score(images, up_to_colour)._asdict()


def seconds_since(began: float) -> float:
    return round(time.perf_counter() - began, 2)


def attack_bytes(delivery: Delivery, kernel: int, public_images: int) -> int:
    """About what the attacks take at once. `kernel`: the side of the first layer's filters."""
    shape = delivery.geometry.shape
    channels, side, _ = shape
    entries, features = math.prod(shape), math.prod(delivery.out_shape)
    q = delivery.geometry.core_side
    looked_at = min(LIKENESS, delivery.test_images)
    public = min(PUBLIC, public_images)
    if public < FEW_PUBLIC:
        public *= COPIES
    # In float64, 8 bytes: the normal equations of known pairs, those of the deconvolution (a band
    # around the diagonal), and the features that are looked at.
    doubles = 3 * q * q + 3 * entries * algebra.band_width(channels, side, kernel)
    doubles += 2 * features * (UNDER_ATTACK + PROBES)
    # In float32: images, whitened and not, and the features that tell the order of channels.
    floats = entries * (4 * public + 6 * delivery.test_images) + 2 * features * looked_at
    return 8 * doubles + 4 * floats
