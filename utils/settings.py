"""The settings of a step: parameter.py's, a preset's, and those of the command line.

An option wins over a preset. A preset is the paper's values with its own in their place, whatever
the defaults in parameter.py are. Without a preset, these defaults hold.
"""

import argparse
import os
import sys
import typing
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache
from types import NoneType

from utils.declaration import About, WrongSetting, accepted, alternatives, fits
from utils.errors import UserError, tolerated, user_errors, warn
from utils.parameter_file import ParameterFile, parameter_file, similar

__all__ = ["Settings", "UserError", "check", "fits", "options_of", "parse", "settings_type",
           "steps_of", "tolerated", "user_errors", "warn"]


@lru_cache(1)
def settings_type(parameters: type) -> type:
    """The type of the settings that a step gets: a frozen dataclass, a subclass of parameter.py's
    Parameters, with one more field.

    given: frozenset[str] = names of the settings that were typed as an option, or whose value, from
        an edit or a preset, is not the paper's
    """

    @dataclass(frozen=True)
    class Settings(parameters):
        given: frozenset[str] = frozenset()

        def __getattr__(self, name: str):
            """Is called for a setting that parameter.py lacks: deleted there, preset included."""
            if name.startswith("_"):
                raise AttributeError(name)
            raise UserError(f"parameter.py has no setting {name}: put its line back (`git diff "
                            "parameter.py` shows it)")

    Settings.__qualname__ = "Settings"
    return Settings


Settings = settings_type(parameter_file().parameters)


def check(p):
    """The same Parameters; raises ValueError, one line that names the setting, where a value is of
    another type or outside its limits."""
    for field in fields(type(p)):
        if "about" in field.metadata:
            accepted(field.name, field.metadata["about"], getattr(p, field.name))
    return p


def steps_of(name: str) -> list[str]:
    """The steps that use a setting, ["every", "step"] for all; none for a name that is none."""
    about = parameter_file().abouts.get(name)
    return about.group.steps.split() if about else []


def is_used_by(step: str, about: About) -> bool:
    """Whether a step uses a setting. A program that parameter.py does not name uses them all."""
    groups = [other.group for other in parameter_file().abouts.values()]
    is_named = any(step in group.steps.split() for group in groups)
    return not is_named or about.group.has(step)


# The command line

class OneLineParser(argparse.ArgumentParser):
    """A mistake ends with one line on stderr and status 2."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}; --help lists the settings\n")


def parse(description: str, arguments: list[str] | None = None, step: str = "") -> Settings:
    """The settings of a step from its command line (default: sys.argv).

    A mistake there or in parameter.py ends the program with one line and status 2. So does a
    setting that the step does not use; a step that parameter.py does not name takes them all.
    --help prints the step's settings, --help all the others too, and ends with status 0.
    """
    words = sys.argv[1:] if arguments is None else arguments
    words = [underscored(word) for word in words]
    try:
        file = parameter_file()
    except UserError as mistake:
        OneLineParser(prog=step or None).exit(2, f"{step or 'settings'}: {mistake}\n")
    first = _first_parser(step, file)
    asked, _ = first.parse_known_args(words)
    base = base_values(file, asked.preset)
    parser = _parser(description, step, file, base, with_others=asked.help == "all")
    if asked.help:
        parser.print_help()
        parser.exit(0)
    _refuse_unused(words, step, file, parser)
    typed, unknown = parser.parse_known_args(words)
    if unknown:
        name = unknown[0].removeprefix("--").partition("=")[0]
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{similar(name, file.abouts)}")
    typed = vars(typed)
    del typed["preset"], typed["help"]
    try:
        typed = {name: accepted(name, file.abouts[name], value) for name, value in typed.items()}
    except WrongSetting as mistake:
        parser.error(str(mistake))
    values = base | typed
    if asked.preset:
        _tell_ignored(file, asked.preset, values, typed)
    differing = {name for name, value in file.paper.items() if values[name] != value}
    return settings_type(file.parameters)(**values, given=frozenset(differing | typed.keys()))


def underscored(word: str) -> str:
    """An option with its underscores: --data-dir=a-b becomes --data_dir=a-b."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def base_values(file: ParameterFile, preset: str | None) -> dict[str, object]:
    """The settings' values before any option."""
    if preset is None:
        return file.defaults
    return file.defaults | file.paper | file.presets[preset]


def _tell_ignored(file: ParameterFile, preset: str, values: dict, typed: dict):
    """Prints which edits a preset ignores, once under torchrun."""
    ignored = [name for name in file.edited
               if name not in typed and file.defaults[name] != values[name]]
    if ignored and os.environ.get("RANK", "0") == "0":
        print(f"--preset {preset} ignores what was edited in parameter.py: {', '.join(ignored)}",
              flush=True)


def _refuse_unused(words: list[str], step: str, file: ParameterFile, parser: OneLineParser):
    """Ends with one line where a setting is given that the step does not use."""
    for word in words:
        name = word.removeprefix("--").partition("=")[0]
        about = file.abouts.get(name) if word.startswith("--") else None
        if about and not is_used_by(step, about):
            parser.error(f"--{name} is not used here, but by {about.group.listed()}")


def _first_parser(step: str, file: ParameterFile) -> OneLineParser:
    """Takes what decides about all other options: the preset, and whether help is asked for."""
    parser = OneLineParser(prog=step or None, add_help=False, allow_abbrev=False)
    _add_first(parser, file)
    return parser


def _add_first(parser: argparse.ArgumentParser, file: ParameterFile):
    parser.add_argument("-h", "--help", nargs="?", const="step", choices=("step", "all"),
                        metavar="all", help="show this step's settings; --help all: the others too")
    parser.add_argument("--preset", choices=file.presets, metavar="NAME",
                        help=f"start from the values of a preset: {', '.join(file.presets)} "
                        "(default: those in parameter.py)")


def _parser(description: str, step: str, file: ParameterFile, base: dict,
            with_others: bool) -> OneLineParser:
    """The parser of a step's settings, in groups; `with_others`: those of other steps follow."""
    parser = OneLineParser(prog=step or None, description=description, allow_abbrev=False,
                           add_help=False, usage="%(prog)s [--preset NAME] [--setting VALUE ...]",
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_first(parser, file)
    own = {name: about for name, about in file.abouts.items() if is_used_by(step, about)}
    _add_settings(parser, own, file, base, "{title}")
    if with_others:
        others = {name: about for name, about in file.abouts.items() if name not in own}
        _add_settings(parser, others, file, base, "{title} (not used here, but by {steps})")
    return parser


def _add_settings(parser: OneLineParser, abouts: dict[str, About], file: ParameterFile, base: dict,
                  title: str):
    boxes = {}
    for name, about in abouts.items():
        group = about.group
        if group not in boxes:
            boxes[group] = parser.add_argument_group(
                title.format(title=group.title, steps=group.listed()))
        default = in_short(base[name])
        if name in file.paper and base[name] != file.paper[name]:
            default += f"; the paper's: {in_short(file.paper[name])}"
        help = f"{about.help} (default: {default})".strip().replace("%", "%%")
        boxes[group].add_argument(f"--{name}", default=argparse.SUPPRESS, help=help,
                                  **_form(about.kind))


def in_short(value) -> str:
    """A value as it is typed: yes, no, none, or as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value in (None, "", ()):
        return "none"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)


def _form(kind) -> dict:
    """How argparse reads an option of an annotated type."""
    kinds = [one for one in alternatives(kind) if one is not NoneType]
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        return {"type": type(choices[0]), "choices": choices}
    if kind is bool:
        return {"type": yes_or_no, "nargs": "?", "const": True, "metavar": "yes|no"}
    if typing.get_origin(kinds[0]) is tuple and typing.get_args(kinds[0])[-1] is not ...:
        return {"type": float, "nargs": 2, "metavar": ("LOW", "HIGH")}
    if typing.get_origin(kinds[0]) is tuple:
        return {"nargs": "+", "action": "extend", "metavar": "TEXT"}
    metavar = {int: "N", float: "X"}.get(kinds[0], "TEXT")
    if len(alternatives(kind)) > 1:
        return {"type": whole_number_or_none, "metavar": metavar}
    return {"type": kind, "metavar": metavar}


def yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from 'yes', 'no')")
    return text == "yes"


def whole_number_or_none(text: str) -> int | None:
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, and not none") from None


def options_of(step: str, words: Iterable) -> list[str]:
    """Of a command line for several steps, what one of them takes: the settings that it uses, with
    their values, and the preset."""
    abouts = parameter_file().abouts
    taken, is_own = [], False
    for word in map(str, words):
        if word.startswith("--"):
            name = underscored(word)[2:].partition("=")[0]
            is_own = name == "preset" or abouts[name].group.has(step)
        if is_own:
            taken.append(word)
    return taken


def __getattr__(name: str):
    """run_step and locked are in utils.step, which imports this module; they are found here too."""
    if name not in ("run_step", "locked"):
        raise AttributeError(name)
    from utils import step
    return getattr(step, name)
