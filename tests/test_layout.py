"""Which module may import which: arrows run one way, from the steps down to the models."""

import ast
from pathlib import Path

import pytest

from tests.steps import ROOT

STEPS = ("pretrain.py", "gen_morphing_matrix.py", "gen_augconv.py", "train_with_ac.py",
         "train_no_ac.py", "morph_images.py", "predict.py")
CORE = {"parameter", "utils", "models", "mole"}
ADVERSARY = ("attack.py", "reproduce_tables.py")
# By a file's first folder, or its own name: the rooms of the repository that it may import.
MAY_IMPORT = {
    **dict.fromkeys(STEPS, CORE | {"images"}), "parameter.py": {"utils"}, "mole": {"mole"},
    "models": {"models", "mole"}, "utils": CORE, "images": CORE | {"images"},
    "attacks": CORE | {"images", "attacks"},
    "experiments": CORE | {"images", "attacks", "experiments"},
    **dict.fromkeys(ADVERSARY, CORE | {"images", "attacks", "experiments"})}
FREE = ("tests",)
FILES = sorted(file.relative_to(ROOT) for file in ROOT.rglob("*.py")
               if not {".venv", "data"} & set(file.relative_to(ROOT).parts))
ROOMS = {file.parts[0].removesuffix(".py") for file in FILES}


def imported(file: Path) -> set[str]:
    """The rooms of this repository that a file imports from, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} imports relatively"
            names.add(node.module)
    return {name.partition(".")[0] for name in names} & ROOMS


@pytest.mark.parametrize("file", [file for file in FILES if file.parts[0] not in FREE], ids=str)
def test_imports_run_one_way(file):
    assert file.parts[0] in MAY_IMPORT, "a new room: say what it may import"
    assert imported(file) <= MAY_IMPORT[file.parts[0]]

