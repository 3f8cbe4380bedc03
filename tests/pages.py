"""The commands in the pages, typed as they stand there."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.steps import ROOT, run


class Block(NamedTuple):
    """A fenced block of commands after a mark <!-- mark -->, and the block's text."""

    mark: str
    text: str


def blocks(page: str) -> list[Block]:
    """The marked blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"<!-- ([a-z ]+) -->\n```\w+\n(.*?)```", text, re.DOTALL)
    return [Block(mark, block) for mark, block in found]


def commands(block: str, cwd: Path) -> list[list[str]]:
    """The arguments of each `python …` in a block, after loops and variables are expanded."""
    function = "python() { printf 'PYTHON '; printf '%q ' \"$@\"; printf '\\n'; }\n"
    done = subprocess.run(["bash", "-eu", "-c", function + block], cwd=cwd, capture_output=True,
                          text=True, check=True)
    lines = [line.removeprefix("PYTHON ") for line in done.stdout.splitlines()]
    return [shlex.split(line) for line in lines]


def type_in(block: str, cwd: Path, settings: tuple = ()) -> str:
    """Runs a block's commands in a folder; `settings` stand for an edited parameter.py. Gives all
    that was printed, and fails where a command does."""
    printed = []
    for script, *arguments in commands(block, cwd):
        result = run(script, *arguments, settings=settings, cwd=cwd)
        assert result.status == 0, (script, arguments, result.err)
        printed.append(result.out + result.err)
    return "\n".join(printed)
