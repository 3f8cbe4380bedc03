"""The settings of a step: parameter.py's, a preset's, and those of the command line.

An option wins over a preset. A preset is the paper's values with its own in their place, whatever
the defaults in parameter.py are. Without a preset, these defaults hold.
"""

import argparse
import sys
import typing
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache
from types import NoneType

from utils.declaration import About, WrongSetting, accepted, alternatives
from utils.errors import UserError
from utils.launch import read_launch
from utils.parameter_file import ParameterFile, parameter_file, similar

EMPTY = (None, "", ())              # values that are typed and shown as `none`


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
    """The same Parameters; raises ValueError, one line that names the setting, if a value is of
    another type or outside its limits."""
    for field in fields(type(p)):
        if "about" in field.metadata:
            accepted(field.name, field.metadata["about"], getattr(p, field.name))
    return p


def uses(step: str, name: str) -> bool:
    """Whether parameter.py says that a step uses a setting; no for a setting that it lacks."""
    about = parameter_file().abouts.get(name)
    return about is not None and about.group.has(step)


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
    words, empty = take_none(words, file)
    typed, unknown = parser.parse_known_args(words)
    if unknown:
        name = unknown[0].removeprefix("--").partition("=")[0]
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{similar(name, file.abouts)}")
    typed = vars(typed) | empty
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


def split_options(words: list[str]) -> list[list[str]]:
    """The options of a command line, each with the words up to the next one. Words before the first
    option come first."""
    options = [[]]
    for word in words:
        if word.startswith("--"):
            options.append([])
        options[-1].append(word)
    return options


def take_none(words: list[str], file: ParameterFile) -> tuple[list[str], dict[str, object]]:
    """A command line without the options that are `none`, and the values that these mean.

    Where an option is given several times, the last one decides whether it is `none`.
    """
    meanings = meanings_of_none(file)
    kept, taken = [], {}
    for option in split_options(words):
        name, equals, value = "".join(option[:1]).removeprefix("--").partition("=")
        values = [value] if equals else option[1:]
        if name in meanings and [text.lower() for text in values] == ["none"]:
            taken[name] = meanings[name]
        else:
            taken.pop(name, None)
            kept += option
    return kept, taken


def meanings_of_none(file: ParameterFile) -> dict[str, object]:
    """What `none` means for each setting that may be empty: None, "" or ()."""
    meanings = {}
    for name, about in file.abouts.items():
        for value in (file.defaults[name], file.paper.get(name, 0)):
            if value in EMPTY:
                meanings[name] = value
        if NoneType in alternatives(about.kind):
            meanings[name] = None
    return meanings


def base_values(file: ParameterFile, preset: str | None) -> dict[str, object]:
    """The settings' values before any option."""
    if preset is None:
        return file.defaults
    return file.defaults | file.paper | file.presets[preset]


def _tell_ignored(file: ParameterFile, preset: str, values: dict, typed: dict):
    """Prints which edits a preset ignores, once under torchrun."""
    ignored = [name for name in file.edited
               if name not in typed and file.defaults[name] != values[name]]
    if ignored and read_launch().rank == 0:
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
    if value in EMPTY:
        return "none"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)


def _form(kind) -> dict:
    """How argparse reads an option of an annotated type; `none` is taken from it before."""
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
    return {"type": kinds[0], "metavar": metavar}


def yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from 'yes', 'no')")
    return text == "yes"


def options_of(step: str, words: Iterable) -> list[str]:
    """Of a command line for several steps, what one of them takes: the settings that it uses, with
    their values, and the preset. Raises UserError if an option is not a setting."""
    abouts = parameter_file().abouts
    before_the_first, *options = split_options(list(map(str, words)))
    if before_the_first:
        raise UserError(f"{before_the_first[0]} is not an option: put its name before it")
    taken = []
    for option in options:
        name = underscored(option[0])[2:].partition("=")[0]
        if name != "preset" and name not in abouts:
            raise UserError(f"--{name} is not a setting{similar(name, abouts)}")
        if name == "preset" or abouts[name].group.has(step):
            taken += option
    return taken
