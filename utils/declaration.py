"""What parameter.py is written with: `Group`, `setting` and the class decorator `settings`.

    @settings
    class Parameters:
        tile: int = setting(0, "side of square tiles", used_by=CORE, least=0, below=10_000)
        epochs: int = 300                   # a bare value works too

A setting's help, the steps that use it and its limits are kept in the metadata of its dataclass
field, as `field.metadata["about"]`. Imports nothing of this project.
"""

import dataclasses
import math
import os
import re
import typing
from dataclasses import dataclass
from types import ModuleType, UnionType
from typing import Any, NamedTuple

EVERY_STEP = "every step"


class WrongSetting(ValueError):
    """A setting or preset that cannot be used; the message is one line that names it."""


class Group(NamedTuple):
    """A group of settings: its title in --help, and the steps that use them, as words."""

    title: str
    steps: str

    def has(self, step: str) -> bool:
        return self.steps == EVERY_STEP or step in self.steps.split()

    def listed(self) -> str:
        return self.steps if self.steps == EVERY_STEP else ", ".join(self.steps.split())


class Pattern(NamedTuple):
    """What a text must match from end to end, and the same in words."""

    regex: str
    words: str


@dataclass(frozen=True)
class About:
    """What is known of a setting besides its name, type and default."""

    kind: object = None                 # its annotated type
    help: str = ""
    group: Group | None = None          # None: as known_settings.py says, or as the one above
    least: float | None = None          # of a number; None: 0
    below: float | None = None          # None: 2**31 for whole numbers, else no limit
    also: float | None = None           # a number outside these limits that is allowed too
    pattern: Pattern | None = None      # of a text


class Declared:
    """What `setting` gives until the class is complete: a default, and what is known of it.

    Python that takes it for the setting's value ends here, since it would mean something else.
    """

    def __init__(self, default: object, about: About):
        self.default = default
        self.about = about

    def _refuse(self, *_):
        raise TypeError("the value of another setting is not known here: give both the value of a "
                        "variable, above the class")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __len__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __neg__ = __pow__ = _refuse
    __rpow__ = __abs__ = __round__ = __divmod__ = __rdivmod__ = _refuse
    __int__ = __float__ = __index__ = __iter__ = __getitem__ = _refuse
    __str__ = __repr__ = __format__ = _refuse
    __hash__ = None


def setting(default, help: str = "", used_by: Group | str | None = None, *,
            least: float | None = None, below: float | None = None, also: float | None = None,
            pattern: Pattern | None = None) -> Any:
    """A setting's default, with what `--help` says, who uses it, and its limits.

    `used_by`: its group, or the names of steps; without it, what known_settings.py says of this
    name, or the group of the setting above. A number must be at least `least` and below `below`,
    or be `also`; a text must match `pattern`. Choices are the type's, as in Literal["a", "b"].
    Raises TypeError for help or used_by of another type.
    """
    if isinstance(default, Declared):
        default._refuse()
    if not isinstance(help, str):
        raise TypeError(f"the second value of setting(...) is the help, a text, not {shown(help)}")
    if isinstance(used_by, str):
        used_by = Group("Settings", used_by)
    if not isinstance(used_by, Group | None):
        raise TypeError(f"used_by is {shown(used_by)}, but must be a group, such as TRAINING")
    about = About(help=help, group=used_by, least=least, below=below, also=also, pattern=pattern)
    return Declared(default, about)


def settings(cls: type) -> type:
    """Makes a class of settings a frozen dataclass; raises WrongSetting that names the setting."""
    declared_as = {}                                     # names by the identity of what they have
    kinds = typing.get_type_hints(cls)
    for name, value in vars(cls).items():
        is_no_value = callable(value) or isinstance(value, property | ModuleType)
        if not (name.startswith("_") or name in kinds or is_no_value):
            raise WrongSetting(f"{name} has no type: write for example `{name}: int = 8`")
    for name, kind in kinds.items():
        if name not in vars(cls):
            raise WrongSetting(f"{name} has no value: write one after `{name}: ... =`")
        declared = vars(cls)[name]
        if isinstance(declared, tuple) and any(isinstance(one, Declared) for one in declared):
            raise WrongSetting(f"{name} ends in a comma after setting(...): take the comma away")
        if not isinstance(declared, Declared):
            declared = Declared(declared, About())
        elif declared_as.setdefault(id(declared), name) != name:
            raise WrongSetting(f"{name} is the setting {declared_as[id(declared)]}: give each its "
                               "own setting(...), and both the value of a variable above the class")
        about = dataclasses.replace(declared.about, kind=kind)
        default = accepted(name, about, declared.default)
        setattr(cls, name, dataclasses.field(default=default, metadata={"about": about}))
    return dataclass(frozen=True)(cls)


def accepted(name: str, about: About, value):
    """The value of a setting as its type has it: an int becomes a float where a float is meant, a
    list a tuple, NumPy's scalars Python's, "~" the home folder.

    Raises WrongSetting if it has another type or is outside the limits.
    """
    converted = as_kind(value, about.kind)
    if fits(converted, about.kind) and is_within(converted, about):
        return converted
    raise WrongSetting(f"{name} is {shown(value)}, but must be {in_words(about)}")


def shown(value) -> str:
    """A value as Python writes it, in one line that is not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def as_kind(value, kind):
    """A value in the Python type that a setting keeps it in, where it has one of the same meaning;
    any other value unchanged."""
    is_scalar_array = hasattr(value, "dtype") and getattr(value, "shape", None) == ()
    if is_scalar_array:
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return os.path.expanduser(value)
    if isinstance(value, list | tuple):
        return tuple(as_kind(entry, item_kind(kind)) for entry in value)
    if type(value) is int and kind is float:
        return as_float(value)
    return value


def as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def item_kind(kind):
    """The type of a tuple's items: float of tuple[float, float] | None; None where it has none."""
    for one in alternatives(kind):
        if typing.get_origin(one) is tuple:
            return typing.get_args(one)[0]
    return None


def alternatives(kind) -> tuple:
    """The types that a union has, or the one type itself."""
    if typing.get_origin(kind) in (typing.Union, UnionType):
        return typing.get_args(kind)
    return (kind,)


def fits(value, kind) -> bool:
    """Whether a value is of an annotated type, to its depth. An int may stand for a float; a bool
    stands for neither."""
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is typing.Literal:
        return type(value) is type(arguments[0]) and value in arguments
    if origin is tuple:
        return fits_tuple(value, arguments)
    if kind is float:
        return type(value) in (float, int)
    return type(value) is kind


def fits_tuple(value, kinds: tuple) -> bool:
    """Whether a value is a tuple of these types; (str, ...) stands for any number of texts."""
    if type(value) is not tuple:
        return False
    if len(kinds) == 2 and kinds[1] is ...:
        return all(fits(entry, kinds[0]) for entry in value)
    return len(value) == len(kinds) and all(map(fits, value, kinds))


def is_within(value, about: About) -> bool:
    """Whether a value of the right type is within a setting's limits."""
    if isinstance(value, tuple) and value and isinstance(value[0], float):     # a range
        return all(map(math.isfinite, value)) and value[0] < value[-1]
    if isinstance(value, str) and about.pattern:
        return re.fullmatch(about.pattern.regex, value) is not None
    if type(value) in (int, float):
        return value == about.also or (about.least or 0) <= value < upper_limit(value, about)
    return True


def upper_limit(value: int | float, about: About) -> float:
    if about.below is not None:
        return about.below
    return 2**31 if type(value) is int else math.inf


def in_words(about: About) -> str:
    """What a setting must be: "a whole number from 1 to 9999"."""
    return " or ".join(kind_in_words(kind, about) for kind in alternatives(about.kind))


def kind_in_words(kind, about: About) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        is_range = typing.get_args(kind)[0] is float
        return "two numbers, the lower first" if is_range else (
            'a tuple of texts, such as ("one",) or ("one", "two")')
    if kind is type(None):
        return "None"
    if kind is bool:
        return "True or False"
    if kind is str:
        return about.pattern.words if about.pattern else "a text in quotes"
    if kind in (int, float):
        return number_in_words(kind, about)
    return f"of a type that settings have, which {kind} is not"


def number_in_words(kind: type, about: About) -> str:
    also = "" if about.also is None else f"{about.also}, or "
    least = about.least or 0
    if kind is int and about.below is not None and about.below < 2**31:
        return f"{also}a whole number from {least} to {about.below - 1}"
    noun = "a whole number" if kind is int else "a number"
    limits = f"of at least {least}"
    if about.below not in (None, math.inf):
        limits += f" and below {about.below}"
    elif kind is int and about.below is None:
        limits += f" and below {2**31}"
    return f"{also}{noun} {limits}"
