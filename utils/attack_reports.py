"""What an attack's report says, read by the steps and the tables: no image is needed for it."""

from typing import NamedTuple

UNDER_ATTACK = 256          # images that are deconvolved, scored and shown
CLEARLY = 2                 # times as many mirror images as images: then mirror images came back


class ShareFound(NamedTuple):
    """The share of images that are re-identified, from 0 to 1; and whether these are those whose
    mirror images came back.

    Some images are nearest to their own mirror image by chance, so a few more of these say nothing.
    """

    share: float
    is_mirrored: bool


def share_found(report: dict) -> ShareFound:
    """What an attack's report says of images that are re-identified."""
    share, mirrored = report["reidentified"], report.get("reidentified_mirrored", 0)
    is_mirrored = mirrored > CLEARLY * share
    return ShareFound(mirrored if is_mirrored else share, is_mirrored)
