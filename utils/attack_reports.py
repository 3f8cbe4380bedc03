"""What an attack's report says, read by the steps and the tables: no image is needed for it."""

import math
from typing import NamedTuple

UNDER_ATTACK = 256          # images that are deconvolved, scored and shown


class ShareFound(NamedTuple):
    """The share of images that are re-identified, from 0 to 1; and whether these are those whose
    mirror images came back.

    Mirror images came back if more than twice as many are found, and a tenth of all more, or if
    less than half as many are missed. Some images are nearest to a mirror image by chance, so a few
    more of these say nothing.
    """

    share: float
    is_mirrored: bool


def write_share(share: float) -> str:
    """In percent, rounded down: what is not all does not become 100.0%."""
    tenths = math.floor(1000 * share + 1e-3)             # shares were computed in float32
    return f"{tenths / 10:.1f}%"


def share_found(report: dict) -> ShareFound:
    """What an attack's report says of images that are re-identified."""
    share, mirrored = report["reidentified"], report.get("reidentified_mirrored", 0)
    is_clearly_more = mirrored > 2 * share and mirrored > share + 0.1
    misses_far_less = 1 - mirrored < (1 - share) / 2
    is_mirrored = is_clearly_more or misses_far_less
    return ShareFound(mirrored if is_mirrored else share, is_mirrored)
