"""What the experiments' command lines share: how one ends, and how long one takes, in words."""

import sys
from collections.abc import Callable
from pathlib import Path

from utils.settings import UserError


def run_command(main: Callable[[], int | None]):
    """Runs `main` and exits with its status; 1 and one line for a mistake of its user."""
    name = Path(sys.argv[0]).name
    try:
        sys.exit(main())
    except UserError as mistake:
        sys.exit(f"{name}: {mistake}")
    except KeyboardInterrupt:
        sys.exit(f"\n{name}: stopped")
    except OSError as mistake:
        where = f"{mistake.filename}: " if mistake.filename else ""
        sys.exit(f"{name}: {where}{mistake.strerror or mistake}")


def describe_duration(seconds: float) -> str:
    """In the two largest units: "4 d 3 h", "3 h 20 min", "12 min"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    days, rest = divmod(minutes, 24 * 60)
    hours, minutes = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min"
