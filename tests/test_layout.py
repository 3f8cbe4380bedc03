"""The rooms of the repository, and which may import which: arrows run one way."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.steps import ROOT

STEPS = ("pretrain.py", "gen_morphing_matrix.py", "gen_augconv.py", "train_with_ac.py",
         "train_no_ac.py", "morph_images.py", "predict.py")
ADVERSARY = ("attack.py", "reproduce_tables.py")

# A file's first folder, or its own name; the rooms of the repository that it may import.
BELOW_IMAGES = {"parameter", "utils", "models", "mole"}
MAY_IMPORT = {
    "mole": {"mole"},
    "models": {"models", "mole"},
    "parameter.py": {"utils"},
    "utils": BELOW_IMAGES,
    "images": BELOW_IMAGES | {"images"},
    "attacks": BELOW_IMAGES | {"images", "attacks"},
    "experiments": BELOW_IMAGES | {"images", "attacks", "experiments"},
}
for step in STEPS:
    MAY_IMPORT[step] = BELOW_IMAGES | {"images"}
for script in ADVERSARY:
    MAY_IMPORT[script] = BELOW_IMAGES | {"images", "attacks", "experiments"}

# The same for packages that must be installed.
MATHEMATICS = {"torch", "numpy", "scipy"}
STEPS_NEED = MATHEMATICS | {"torchvision", "tqdm", "PIL", "matplotlib", "filelock"}
MAY_NEED = {"mole": MATHEMATICS, "models": MATHEMATICS | {"torchvision"},
            "attacks": STEPS_NEED | {"skimage"}, "experiments": STEPS_NEED | {"tenseal"}}

# Virtual environments may have any name.
NOT_OURS = {folder.name for folder in ROOT.iterdir()
            if folder.name.startswith(".") or (folder / "pyvenv.cfg").exists()} | {"data", "build"}
FILES = sorted(file.relative_to(ROOT) for file in ROOT.rglob("*.py")
               if file.relative_to(ROOT).parts[0] not in NOT_OURS)
OUTSIDE_TESTS = [file for file in FILES if file.parts[0] != "tests"]
ROOMS = {file.parts[0].removesuffix(".py") for file in FILES}
each_file = pytest.mark.parametrize("file", OUTSIDE_TESTS, ids=str)


def nodes_of(file: Path, *types: type) -> list:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, types)]


def imports_of(file: Path) -> set[str]:
    """The first names of what a file imports, inside functions too."""
    names = set()
    for node in nodes_of(file, ast.Import):
        names |= {alias.name for alias in node.names}
    for node in nodes_of(file, ast.ImportFrom):
        assert not node.level, f"{file} imports relatively"
        names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_the_rooms_are_those_that_the_readme_names():
    assert {file.parts[0] for file in OUTSIDE_TESTS} == set(MAY_IMPORT)


@each_file
def test_imports_run_one_way(file):
    assert imports_of(file) & ROOMS <= MAY_IMPORT[file.parts[0]]


@each_file
def test_packages_are_those_that_are_required(file):
    others = imports_of(file) - ROOMS - set(sys.stdlib_module_names)
    assert others <= MAY_NEED.get(file.parts[0], STEPS_NEED)


@each_file
def test_a_program_starts_also_where_there_is_no_unix(file):
    """As on Windows, where a page says what does not work: such modules are tried, or come late."""
    unix_only = {"fcntl", "grp", "pwd", "resource", "termios"}
    at_once = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    for node in at_once:
        if isinstance(node, ast.Import):
            assert not unix_only & {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.module not in unix_only


def test_the_lowest_versions_are_those_that_the_requirements_allow():
    """`make test-lowest` writes them with sed."""
    [command] = re.findall(r"\tsed (.*) requirements.txt >", (ROOT / "Makefile").read_text())
    written = subprocess.run(f"sed {command} requirements.txt", shell=True, cwd=ROOT, text=True,
                             capture_output=True, check=True).stdout
    expected = re.findall(r"^([\w-]+)>=([\d.]+)", (ROOT / "requirements.txt").read_text(), re.M)
    assert len(expected) >= 9
    assert written.splitlines() == [f"{name}=={version}" for name, version in expected]


def test_no_step_imports_a_step():
    scripts = {name.removesuffix(".py") for name in (*STEPS, *ADVERSARY)}
    for file in OUTSIDE_TESTS:
        assert not imports_of(file) & scripts, file


@pytest.mark.parametrize("file", [file for file in FILES if file.parts[0] == "mole"], ids=str)
def test_the_scheme_opens_no_file(file):
    of_files = {"open", "read", "write", "save", "load", "savez", "fromfile", "tofile", "memmap",
                "read_text", "read_bytes", "write_text", "write_bytes", "print", "input"}
    for call in nodes_of(file, ast.Call):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(
            call.func, "id", "")
        assert name not in of_files, f"{file}, line {call.lineno}: {name}"
    assert not imports_of(file) & {"os", "io", "pathlib", "sys", "shutil", "pickle", "json"}
