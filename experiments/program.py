"""What the measurements share: how they end, and which first layers they refuse."""

import sys
from collections.abc import Callable
from pathlib import Path

import utils.ctrl_c
from images.datasets import image_shape
from mole.morphing import size_in_words
from parameter import Parameters
from utils.errors import UserError
from utils.first_layers import FirstLayer


def run_command(main: Callable[[], int | None]):
    """Runs `main` and exits with its status; 1 and one line for a mistake of its user."""
    name = Path(sys.argv[0]).name
    try:
        utils.ctrl_c.raise_again()
        sys.exit(main())
    except UserError as mistake:
        sys.exit(f"{name}: {mistake}")
    except KeyboardInterrupt:
        sys.exit(f"\n{name}: stopped")
    except OSError as mistake:
        where = f"{mistake.filename}: " if mistake.filename else ""
        sys.exit(f"{name}: {where}{mistake.strerror or mistake}")


def require_fit(first: FirstLayer, where: Path | str, p: Parameters):
    """Raises UserError where a first layer, which lies at `where`, is for other images than those
    of --dataset."""
    if first.shape != image_shape(p):
        raise UserError(f"{where} is for images {size_in_words(first.shape)}, but "
                        f"{p.dataset} has {size_in_words(image_shape(p))}: choose --dataset "
                        "or another first layer")
