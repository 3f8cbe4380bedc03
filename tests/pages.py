"""The commands and recipes in the pages, typed as they stand there."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.steps import ROOT, run

FENCED = re.compile(r"(?:<!-- (?P<mark>[a-z ]+) -->\n)?^```\w*\n(?P<text>.*?)^```$",
                    re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block after a mark <!-- mark -->, "" if it has none, and the block's text."""

    mark: str
    text: str


def all_blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = FENCED.finditer((ROOT / page).read_text(encoding="utf-8"))
    return [Block(match["mark"] or "", match["text"]) for match in found]


def blocks(page: str) -> list[Block]:
    """The marked blocks of a page, in order."""
    return [block for block in all_blocks(page) if block.mark]


def block_of(page: str, mark: str) -> str:
    """The text of the one block of a page that has a mark."""
    [text] = [block.text for block in blocks(page) if block.mark == mark]
    return text


def commands_in_sentences(page: str) -> list[str]:
    """The commands between backquotes in the sentences of a page, each once, in order. What stands
    in tables that are made of records is left out: it is what was typed for these."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"<!-- table .*?<!-- /table -->", "", FENCED.sub("", text), flags=re.DOTALL)
    return list(dict.fromkeys(re.findall(r"`((?:python|make) [^`]+)`", text)))


# In place of the program: asks for the step with a line, and takes its status from another one.
ASK = """python() {
    printf 'PYTHON '; printf '%q ' "$@"; printf '\\n'
    read -r status
    return "$status"
}
"""


def type_in(block: str, cwd: Path, settings: tuple = (), until: str = "") -> str:
    """Runs a block in a shell, in a folder; `settings` stand for an edited parameter.py. Gives all
    that was printed, and fails where a command does. Stops before the first call of a script
    `until`, as Ctrl-C would."""
    printed = []
    shell = subprocess.Popen(["bash", "-eu", "-c", ASK + block], cwd=cwd, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with shell:
        for line in shell.stdout:
            if not line.startswith("PYTHON "):
                continue
            script, *arguments = shlex.split(line.removeprefix("PYTHON "))
            if script == until:
                shell.terminate()
                break
            result = run(script, *arguments, settings=settings, cwd=cwd)
            assert result.status == 0, (script, arguments, result.err)
            printed.append(result.out + result.err)
            print(0, file=shell.stdin, flush=True)
    assert until or shell.returncode == 0
    return "\n".join(printed)
