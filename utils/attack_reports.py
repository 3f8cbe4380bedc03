"""What an attack's report says, read by the steps and the tables: no image is needed for it."""

UNDER_ATTACK = 256          # images that are deconvolved, scored and shown


def share_found(report: dict) -> tuple[float, bool]:
    """The share of images that an attack's report says are re-identified, and whether these are
    those whose mirror images came back."""
    share, mirrored = report["reidentified"], report.get("reidentified_mirrored", 0)
    return max(share, mirrored), mirrored > share
