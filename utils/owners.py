"""Facts that were decided once: a later step reads them from their owner's file."""

from dataclasses import replace

from utils.errors import UserError
from utils.settings import Settings

# Values that leave a setting to its owner, also where they are typed.
MEANS_ANY = {"image_size": 0, "channels": 0}


def adopt(p: Settings, owner: str, **facts) -> Settings:
    """The settings with facts that another file decides in their place.

    A default gives way. Raises UserError if an option, or an edited value, says otherwise.
    """
    for name, value in facts.items():
        own = getattr(p, name)
        if name in MEANS_ANY and own == MEANS_ANY[name]:
            continue
        if name in p.given and own != value:
            raise UserError(f"{name} is {own!r}, but {owner} has {value!r}: leave --{name} (or the "
                            f"edit in parameter.py, or the preset) out, or make {owner} again "
                            "with it")
    return replace(p, **facts)
