"""What the settings of this program may be, by name, where that is more than their type says.

parameter.py says the same beside each default, and is what counts. An edit such as
`batch_size: int = 1` leaves it out there; then it is taken from here.
"""

import math
import typing
from dataclasses import replace
from typing import Literal

from utils.declaration import About, Pattern, alternatives

FOLDER_NAME = Pattern(r"[\w-][\w.-]*", "of letters, digits, ., _ and -")
FOLDER_NAME_OR_NONE = Pattern(r"([\w-][\w.-]*)?", FOLDER_NAME.words)

# kind: None where a plain type says all.
KNOWN = {
    "image_size": About(least=4, below=10_000, also=0),
    "channels": About(least=0, below=1001),
    "image_fit": About(Literal["crop", "pad", "stretch"]),
    "pixel_range": About(tuple[float, float] | None),
    "epochs": About(least=1),
    "batch_size": About(least=2),
    "schedule": About(Literal["halve", "onecycle"]),
    "decay_epochs": About(least=1),
    "momentum": About(below=1),
    "dropout": About(below=1),
    "augment": About(Literal["none", "crop", "crop_flip"]),
    "seed": About(below=2**63),
    "image_padding": About(below=1000),
    "kappa": About(least=1),
    "tile": About(below=10_000),
    "morph_distribution": About(Literal["uniform", "normal", "orthogonal"]),
    "delivery_dtype": About(Literal["float32", "float16", "int8"]),
    "morph_seed": About(int | None, below=math.inf),
    "name": About(pattern=FOLDER_NAME),
    "images": About(tuple[str, ...]),
    "key": About(pattern=FOLDER_NAME_OR_NONE),
    "network": About(Literal["with_ac", "pretrained"]),
    "predict_batch": About(least=1),
    "delivery": About(tuple[str, ...]),
    "feature_cache": About(Literal["auto", "on", "off"]),
    "precision": About(Literal["auto", "fp32", "bf16"]),
}


def with_known_limits(name: str, about: About) -> About:
    """What is known of a setting, completed where its entry in parameter.py says less than here.

    Limits of its own stand, and so do choices of its own (Literal).
    """
    known = KNOWN.get(name)
    if known is None:
        return about
    if known.kind is not None and not _has_choices(about.kind):
        about = replace(about, kind=known.kind)
    own_limits = about.least, about.below, about.also, about.pattern
    if own_limits == (None, None, None, None):
        about = replace(about, least=known.least, below=known.below, also=known.also,
                        pattern=known.pattern)
    return about


def _has_choices(kind) -> bool:
    return any(typing.get_origin(one) is Literal for one in alternatives(kind))
