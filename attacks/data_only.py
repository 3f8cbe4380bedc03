"""Images from morphed ones alone, by what public images are like on average.

All blocks of all images share one core. Whitened by their common covariance, morphed blocks are
plain ones under one rotation, whatever the core. So every average that turns along with its block
is seen on both sides, on the morphed one up to that rotation. The search for the rotation depends
on where it starts. So it starts several times, and what a statistic that no search uses rates best
is kept (`likeness.py`): pictures must look like photographs. Random rotations, as of wrong keys,
say what this statistic is where nothing was found.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from attacks import pair_moments, third_moments
from attacks.likeness import Edges, describe_edges, unlikeness
from attacks.whitening import Whitened, polar, whiten
from utils.examples import evenly_spaced

RATED = 2000                # images that are looked at to rate a start
WRONG_KEYS = 5              # random rotations
LEAST_FOR_THIRD = 64        # images of a kind, for their third moments
# Of the unlikeness of wrong keys: set on public images of noise and on permuted pixels.
SURE_BELOW = 0.7            # images are found,
FOUND_BELOW = 0.85          # or are found if so large a part of the starts agree, at least two
AGREEING = 0.05
PATIENCE = 2                # rounds of starts without a better one, after which the search ends
BETTER = 0.98               # of the unlikeness so far: what is at most this counts as better
SAME = 0.8                  # weighted correlation from which two rotations give the same images


@dataclass(frozen=True)
class Search:
    """How the search went: figures for a record.

    `unlikeness`: how far from photographs the recovered images are, before left and right are
    decided; `runner_up`: the same of the best start that gives other images; `wrong_keys`: the
    least of random rotations. Starts by pair moments are rated on fewer axes than what the best of
    them leads to.
    """

    moments: str                # "third" or "pair": which moments the core was found by
    starts: int
    agreeing: int               # starts that led to the same images, or their mirror images
    unlikeness: float
    runner_up: float | None
    wrong_keys: float
    orientation: float | None   # log likelihood ratio against mirror images, where they fit as well

    @property
    def share_of_wrong_keys(self) -> float:
        """The unlikeness over that of wrong keys."""
        return self.unlikeness / self.wrong_keys

    @property
    def failed(self) -> bool:
        """Whether the images look too much like those of a wrong key. Near the threshold the
        starts decide: wrong ones lead to other images each."""
        if self.share_of_wrong_keys <= SURE_BELOW:
            return False
        some_agree = self.agreeing >= max(2, AGREEING * self.starts)
        return self.share_of_wrong_keys > FOUND_BELOW or not some_agree

    def report(self) -> dict:
        """The figures by name, and in words that the search failed if it did."""
        report = {name: value for name, value in asdict(self).items() if value is not None}
        if self.failed:
            report["failed"] = ("the images look like those of a wrong key ("
                                f"{self.share_of_wrong_keys:.2f} of its unlikeness to photographs; "
                                f"{self.agreeing} of {self.starts} starts agree)")
        return report


@dataclass(frozen=True)
class Guess:
    """Plain blocks (N, κ, q) float32, and how they were found."""

    blocks: Tensor
    search: Search


@dataclass(frozen=True, eq=False)
class Rated:
    """A rotation (r, r) from morphed to public axes, and how unlike photographs its images are."""

    rotation: Tensor
    unlikeness: float


def images_from_statistics(morphed: Tensor, public: Tensor, orthogonal: bool,
                           as_images: Callable[[Tensor], Tensor],
                           mirror: Tensor | None = None,
                           kind: Tensor | None = None) -> Guess:
    """Plain blocks from morphed ones (N, κ, q) and public ones (n, κ, q') of the kind, q' ≤ q.

    `orthogonal`: the core keeps variances, so axes are sought among those of like variance.
    `as_images` puts blocks (n, κ, q') together to images (n, α, m, m), for the rating. Photographs
    are nearly as often mirrored as not, so the images or their mirror images are found: with
    `mirror`, the permutation (q') that mirrors each block, the orientation is decided. Tiles need
    none, as mirrored tiles stand in another place. `kind` (n', κ, q'): more blocks like the public
    ones, with these, for the moments; shifted copies, say.

    Raises ValueError where shapes do not fit or the samples are too few.
    """
    check_samples(morphed, public)
    if kind is None:
        kind = public
    task = Task(morphed, public, kind, orthogonal, as_images, mirror)
    guesses = []
    has_one_block = public.shape[1] == 1
    # Blocks of whole rows can be mirrored. Tiles cannot, and have moments between blocks alone.
    are_whole_rows = mirror is not None
    enough = min(len(morphed), len(public)) >= LEAST_FOR_THIRD
    if has_one_block or (are_whole_rows and enough):
        guess = guess_by_third_moments(task)
        guesses.append(guess)
        if mirror is not None and guess.search.failed:
            # Not every kind of image is nearly as often mirrored as not: with all moments, then.
            guesses.append(guess_by_third_moments(replace(task, mirror=None)))
    if not has_one_block:
        guesses.append(guess_by_pair_moments(task))
    return min(guesses, key=lambda guess: guess.search.share_of_wrong_keys)


@dataclass(frozen=True, eq=False)
class Task:
    """What `images_from_statistics` is given."""

    morphed: Tensor
    public: Tensor
    kind: Tensor
    orthogonal: bool
    as_images: Callable[[Tensor], Tensor]
    mirror: Tensor | None


def guess_by_third_moments(task: Task) -> Guess:
    """From moments of the entries of each block, whatever its position."""
    # A uniform core adds one amount to all entries alike.
    morphed = task.morphed - task.morphed.mean(2, keepdim=True)
    most = min(task.public.shape[2], third_moments.AXES, len(morphed) // 4, len(task.public) // 4)
    public_side, morphed_side = whiten(task.kind, most, task.mirror), whiten(morphed, most)
    flip = None if task.mirror is None else mirror_rotation(public_side, task.mirror)
    rater = Rater(public_side, morphed_side, task.public, task.as_images)
    matcher = third_moments.Matcher(public_side, morphed_side, task.orthogonal, flip)
    rated = rate_rounds(matcher.rotations(), rater)
    start = choose_best(rated)
    polished = [rater.rate(matcher.polish(start.rotation, width))
                for width in third_moments.WINDOWS]
    best = choose_best([start, *polished])
    rotation, orientation = best.rotation, None
    if flip is not None:
        orientation = matcher.evidence_of_orientation(rotation, len(task.public))
        if orientation < 0:
            rotation = flip @ rotation
    search = summarise(rated, start, best, rater, flip, orientation, "third")
    return Guess(unmorph(rotation, public_side, morphed_side, task.orthogonal), search)


def guess_by_pair_moments(task: Task) -> Guess:
    """From moments between the blocks of an image."""
    most = min(task.public.shape[2], pair_moments.AXES)
    public_side, morphed_side = whiten(task.kind, most), whiten(task.morphed, most)
    flip = None if task.mirror is None else mirror_rotation(public_side, task.mirror)
    rater = Rater(public_side, morphed_side, task.public, task.as_images)
    matcher = pair_moments.Matcher(public_side, morphed_side, task.orthogonal, flip)
    rated = rate_rounds(matcher.rotations(), rater)
    start = choose_best(rated)
    best = choose_best([start, rater.rate(matcher.complete(start.rotation))])
    search = summarise(rated, start, best, rater, flip, None, "pair")
    return Guess(unmorph(best.rotation, public_side, morphed_side, keep_variances=False), search)


def unmorph(rotation: Tensor, public_side: Whitened, morphed_side: Whitened,
            keep_variances: bool) -> Tensor:
    """Plain blocks (N, κ, q) from the morphed ones, once the rotation (r, r) is known.

    `keep_variances`: the private images' own, which an orthogonal core leaves as they are; else
    those of the public images.
    """
    if not keep_variances:
        return public_side.restore(morphed_side.white @ rotation.T)
    turn = polar(public_side.scale[:, None] * rotation * morphed_side.scale)
    return public_side.mean + morphed_side.white * morphed_side.scale @ turn.T @ public_side.axes.T


def choose_best(rated: list[Rated]) -> Rated:
    """The rotation whose images look most like photographs."""
    return min(rated, key=lambda one: one.unlikeness)


def summarise(rated: list[Rated], start: Rated, best: Rated, rater: "Rater", flip: Tensor | None,
              orientation: float | None, moments: str) -> Search:
    """What the record says of a search: of all starts, of the one that was chosen, and of the best
    rotation that it led to."""
    agreeing, others = 0, []
    for other in rated:
        if gives_same_images(other.rotation, start.rotation, rater.public_side.scale, flip):
            agreeing += 1
        else:
            others.append(other.unlikeness)
    return Search(moments, len(rated), agreeing, best.unlikeness, min(others, default=None),
                  rater.wrong_keys, orientation)


def mirror_rotation(public_side: Whitened, mirror: Tensor) -> Tensor:
    """What mirroring each block (by a permutation (q) of its entries) does to the axes, (r, r)."""
    axes, scale = public_side.axes, public_side.scale
    return polar((axes * scale)[mirror].T @ (axes / scale))


def check_samples(morphed: Tensor, public: Tensor):
    """Raises ValueError where shapes do not fit or the images are too few."""
    if (morphed.ndim != 3 or morphed.shape[1] != public.shape[1]
            or morphed.shape[2] < public.shape[2]):
        raise ValueError(f"morphed blocks {tuple(morphed.shape)} and public ones "
                         f"{tuple(public.shape)} do not fit each other")
    blocks, q = public.shape[1:]
    least = 2 * (q // blocks + 1) if blocks > 1 else LEAST_FOR_THIRD
    if min(len(morphed), len(public)) < least:
        raise ValueError(f"{len(morphed)} morphed and {len(public)} public images are too few: "
                         f"{least} of each are needed for blocks of {q}")


class Rater:
    """Says how far from photographs the images are that a rotation gives."""

    def __init__(self, public_side: Whitened, morphed_side: Whitened, public: Tensor,
                 as_images: Callable[[Tensor], Tensor]):
        self.public_side = public_side
        self.as_images = as_images
        self.some = morphed_side.white[evenly_spaced(len(morphed_side.white), RATED)]
        some_public = public[evenly_spaced(len(public), RATED)]
        self.photographs = self.edges(public_side.project(some_public))
        self.wrong_keys = self.rate_wrong_keys()

    def edges(self, white: Tensor) -> Edges:
        return describe_edges(self.as_images(self.public_side.restore(white)))

    def rate(self, rotation: Tensor) -> Rated:
        return Rated(rotation, unlikeness(self.edges(self.some @ rotation.T), self.photographs))

    def rate_wrong_keys(self) -> float:
        """The least unlikeness of random rotations."""
        generator = torch.Generator().manual_seed(0)
        count = self.some.shape[-1]
        ratings = []
        for _ in range(WRONG_KEYS):
            rotation = polar(torch.randn(count, count, generator=generator))
            ratings.append(self.rate(rotation).unlikeness)
        return min(ratings)


def rate_rounds(rounds: Iterator[list[Tensor]], rater: Rater) -> list[Rated]:
    """All starts with their ratings, round after round, until images are found and further rounds
    are no better."""
    rated: list[Rated] = []
    best, fruitless = float("inf"), 0
    for rotations in tqdm(rounds, desc="starts", unit="round", leave=False, disable=None):
        ratings = [rater.rate(rotation) for rotation in rotations]
        rated += ratings
        best_here = min(rating.unlikeness for rating in ratings)
        fruitless = 0 if best_here <= BETTER * best else fruitless + 1
        best = min(best, best_here)
        found = best <= FOUND_BELOW * rater.wrong_keys
        if found and fruitless >= PATIENCE:
            break
    return rated


def gives_same_images(one: Tensor, other: Tensor, scale: Tensor, flip: Tensor | None) -> bool:
    """Whether two rotations (r, r), which may have a lower rank, give about the same images, or
    mirror images of each other."""
    weights = scale.square()
    size = float((one.square().sum(1) @ weights) * (other.square().sum(1) @ weights)) ** 0.5
    candidates = [other] if flip is None else [other, flip @ other]
    return any(float((one * candidate).sum(1) @ weights) > SAME * size for candidate in candidates)
