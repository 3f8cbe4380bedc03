"""What the measurements share: their options, and how they end."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import utils.ctrl_c
from utils.errors import UserError


def make_parser(description: str, output: str | None = "results") -> argparse.ArgumentParser:
    """A measurement's options; `output`: the default of --output, None where it has none."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    if output is not None:
        parser.add_argument("--output", type=Path, default=Path(output), metavar="DIR",
                            help=f"where to write (default: {output})")
    return parser


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
