"""Reads parameter.py, and says in one line what is wrong with it.

A file that was edited since it was read is read again, so that a notebook which runs a step twice
gets its edits.
"""

import difflib
import importlib.util
import sys
import traceback
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from utils.declaration import EVERY_STEP, About, Group, WrongSetting, accepted, shown
from utils.errors import UserError
from utils.known_settings import completed

PAPER = "paper"             # the preset that has the paper's values
HINT = ("`git diff parameter.py` shows what was edited, `git checkout parameter.py` discards all "
        "edits")


class ParameterFile(NamedTuple):
    """parameter.py as it was read: its class of settings, and its presets."""

    parameters: type
    presets: dict[str, dict[str, object]]

    @property
    def abouts(self) -> dict[str, About]:
        """What is known of each setting, by name, in the file's order."""
        return _abouts_of(self.parameters)

    @property
    def defaults(self) -> dict[str, object]:
        """The settings' defaults; raises WrongSetting for one that is outside known limits."""
        abouts = self.abouts
        return {field.name: accepted(field.name, abouts[field.name], field.default)
                for field in fields(self.parameters)}

    @property
    def paper(self) -> dict[str, object]:
        return self.presets[PAPER]

    @property
    def edited(self) -> list[str]:
        """The settings whose default is not the paper's value."""
        return [name for name, value in self.paper.items() if self.defaults[name] != value]


@lru_cache(2)
def _abouts_of(parameters: type) -> dict[str, About]:
    abouts, group = {}, Group("Settings", EVERY_STEP)
    for field in fields(parameters):
        about = completed(field.name, field.metadata["about"])
        group = about.group or group
        abouts[field.name] = replace(about, group=group)
    return abouts


class _Read:
    """What was read last: the file's bytes, and what they mean."""

    content: bytes | None = None
    file: ParameterFile | None = None


def parameter_file() -> ParameterFile:
    """parameter.py as it is now; also what `import parameter` gives from now on.

    Raises UserError, one line that names the place, if the file cannot be used.
    """
    spec = importlib.util.find_spec("parameter")
    if spec is None or spec.origin is None:
        raise UserError("parameter.py is missing: `git checkout parameter.py` brings it back, "
                        "without edits")
    try:
        content = Path(spec.origin).read_bytes()
    except OSError as mistake:
        raise UserError(f"parameter.py: {mistake.strerror}") from None
    if content == _Read.content:
        return _Read.file
    before = sys.modules.get("parameter")
    module = importlib.util.module_from_spec(spec)
    sys.modules["parameter"] = module   # where dataclasses look up annotations that are texts
    try:
        _execute(module, content)
        _Read.file = _validated(module)
    except UserError:
        del sys.modules["parameter"]
        if before is not None:
            sys.modules["parameter"] = before
        raise
    _Read.content = content
    return _Read.file


def _execute(module: ModuleType, content: bytes):
    """Runs a module's source. It is compiled here, since Python's cache of compiled files tells
    edits apart by whole seconds."""
    file = module.__spec__.origin
    try:
        exec(compile(content, file, "exec"), vars(module))
    except WrongSetting as mistake:
        raise UserError(f"parameter.py: {mistake}") from None
    except Exception as mistake:
        raise UserError(_located(mistake, file)) from None


def _located(mistake: Exception, file: str) -> str:
    """One line on an exception that a file raised, with the line of the file."""
    if isinstance(mistake, SyntaxError):
        line, message = mistake.lineno, mistake.msg
    else:
        frames = traceback.extract_tb(mistake.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == file), None)
        message = str(mistake)
    place = "parameter.py" if line is None else f"parameter.py, line {line}"
    kind = type(mistake).__name__
    return f"{place}: {kind}: {' '.join(message.split())}; correct it there ({HINT})"


def _validated(module: ModuleType) -> ParameterFile:
    """What a module says; raises UserError if a setting is missing or a preset is none."""
    parameters = getattr(module, "Parameters", None)
    presets = getattr(module, "PRESETS", None)
    if not is_dataclass(parameters) or not isinstance(presets, dict):
        raise UserError("parameter.py must have a class Parameters with @settings above it, and a "
                        f"dictionary PRESETS ({HINT})")
    try:
        return _checked(ParameterFile(parameters, presets))
    except WrongSetting as mistake:
        raise UserError(f"parameter.py: {mistake} ({HINT})") from None


def _checked(file: ParameterFile) -> ParameterFile:
    """The file with its presets' values as their settings have them; raises WrongSetting."""
    if not isinstance(file.presets.get(PAPER), dict):
        raise WrongSetting(f'the preset "{PAPER}" is missing: it has the paper\'s values')
    for field in fields(file.parameters):
        if getattr(file.parameters, field.name) is not field.default:
            raise WrongSetting(f"{field.name} was set again below the class: write its value in "
                               "the class")
    missing = [name for name in file.paper if name not in file.abouts]
    if missing:
        raise WrongSetting(_missing(missing[0], file))
    presets = {name: _preset(name, values, file) for name, values in file.presets.items()}
    defaults = file.defaults
    for name, value in file.paper.items():
        _check_type(name, defaults[name], value)
    return file._replace(presets=presets)


def _missing(name: str, file: ParameterFile) -> str:
    own = [other for other in file.abouts if other not in file.paper]
    renamed = f", and {own[0]} is one that no step knows" if own else ""
    return (f"the setting {name} is missing{renamed}: put its line back; the preset \"{PAPER}\" "
            f"has its value, {shown(file.paper[name])}")


def _preset(preset: str, values, file: ParameterFile) -> dict[str, object]:
    if not isinstance(preset, str) or not isinstance(values, dict):
        raise WrongSetting(f"the preset {shown(preset)} is {shown(values)}, but must be settings "
                           'with their values, such as "mine": {"tile": 8}')
    found = {}
    for name, value in values.items():
        if name not in file.abouts:
            raise WrongSetting(f"the preset {shown(preset)} has {shown(name)}, which is not a "
                               f"setting{similar(name, file.abouts)}")
        try:
            found[name] = accepted(name, file.abouts[name], value)
        except WrongSetting as mistake:
            raise WrongSetting(f"in the preset {shown(preset)}, {mistake}") from None
    return found


def _check_type(name: str, default, paper):
    """Raises WrongSetting for a default of another type than the paper's, as after an edit of the
    annotation."""
    if paper is not None and type(default) is not type(paper):
        raise WrongSetting(f"{name} is {shown(default)}, but must be of the type of the paper's "
                           f"value, {shown(paper)}")


def similar(name, known) -> str:
    """A question whether another name was meant, or nothing."""
    found = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {found[0]}?" if found else ""
