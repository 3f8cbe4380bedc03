"""How the program was started: torchrun's variables, and the command that runs it again."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
ADVICE = "start several processes with torchrun, or unset WORLD_SIZE for one"


@dataclass(frozen=True)
class Launch:
    """The place of a process among those that torchrun has started; one process by itself."""

    world: int = 1
    rank: int = 0
    local_rank: int = 0
    on_this_machine: int = 1            # processes, this one included


def read_launch() -> Launch:
    """The place of this process among those of torchrun; one process where it was not used.

    Without WORLD_SIZE, or with a size of 1, the other variables count for nothing: another program
    may have left them. Raises UserError if a part of torchrun's variables is missing, or words are
    in them.
    """
    if os.environ.get("WORLD_SIZE", "").strip() in ("", "1"):
        return Launch()
    numbers = []
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"):
        text = os.environ.get(name, "")
        if not text:
            raise UserError(f"WORLD_SIZE is set, but {name} is not: {ADVICE}")
        if not text.isdecimal():
            raise UserError(f"{name} is {text!r}, which is not a number: {ADVICE}")
        numbers.append(int(text))
    if not os.environ.get("MASTER_ADDR"):
        raise UserError(f"WORLD_SIZE is set, but MASTER_ADDR is not: {ADVICE}")
    world, rank, local_rank, _ = numbers
    if not rank < world:
        raise UserError(f"RANK is {rank}, but WORLD_SIZE is {world}: {ADVICE}")
    local_world = os.environ.get("LOCAL_WORLD_SIZE", "")     # torchrun's; others may lack it
    on_this_machine = int(local_world) if local_world.isdecimal() else world
    return Launch(world, rank, local_rank, on_this_machine)


def require_one_process():
    """Raises UserError under torchrun with several processes: for a step that does not share its
    work."""
    if read_launch().world > 1:
        raise UserError("this step runs in one process: start it without torchrun")


def command_line() -> str:
    """What is to be typed to run this again, without a secret seed: the plain command also where a
    debugger or a profiler runs the program."""
    words = [*started_with(), *program_words()]
    arguments = iter(sys.argv[1:])
    for word in arguments:
        if word.replace("-", "_").startswith("__morph_seed"):
            if "=" not in word:
                next(arguments, None)
            word = "--morph_seed=SECRET"
        words.append(word)
    return shlex.join(words)


def started_with() -> list[str]:
    """What starts the program: python, or torchrun where it has started several processes."""
    world = read_launch().world
    return ["python"] if world == 1 else ["torchrun", "--nproc_per_node", str(world)]


def program_words() -> list[str]:
    """The program as Python is told to run it: a file, or -m and a module."""
    script = Path(sys.argv[0])
    module = getattr(sys.modules["__main__"], "__spec__", None)
    file = getattr(module, "origin", None)
    # A debugger or a profiler is a module too, but the script that it runs is another file.
    if file is not None and Path(file).resolve() == script.resolve():
        return ["-m", module.name.removesuffix(".__main__")]
    name = script.name.replace(".", "/")
    if script.suffix != ".py" and (ROOT / f"{name}.py").is_file():
        return ["-m", script.name]                       # python -m cProfile -m pretrain
    if script.resolve().is_relative_to(ROOT):
        return [str(script.resolve().relative_to(ROOT))]
    return [script.name]
