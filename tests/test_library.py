"""mole as a library: installed alone, outside the repository, it does what its page says."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.steps import ROOT

PAGE = ROOT / "docs" / "library.md"
NOT_COPIED = shutil.ignore_patterns(".*", "data", "results", "build", "*.egg-info", "__pycache__")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which `pip install` has put the package, as from a fresh clone."""
    folder = tmp_path_factory.mktemp("library")
    shutil.copytree(ROOT, folder / "clone", ignore=NOT_COPIED)   # pip builds in the folder
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--no-build-isolation", "--no-index", "--target",
               str(folder / "installed"), str(folder / "clone")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "installed"


def run_python(code: str, installed, cwd) -> str:
    """What a program prints that sees the installed package, and nothing of the repository."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd,
                          env={"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_the_package_mole_is_installed(installed):
    packages = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert packages == {"mole"}
    files = {path.name for path in (ROOT / "mole").glob("*.py")}
    assert {path.name for path in (installed / "mole").glob("*.py")} == files


def test_the_lines_of_the_page_run_as_they_stand(installed, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    where = "print(mole.__file__)\n"
    # What the page says of its own results.
    checks = """
plain = layer(images)
assert (features - plain).norm() < 0.05 * plain.norm()
torch.testing.assert_close(flipped, layer(images.flip(3)), rtol=1e-3, atol=1e-3)
down, right = offsets[0].tolist()
inner = slice(8, -8)
torch.testing.assert_close(shifted[0, :, inner, inner],
                           features[0].roll((-down, -right), (1, 2))[:, inner, inner])
assert all(torch.equal(*pair) for pair in zip(again.network.state_dict().values(),
                                              behind.network.state_dict().values()))
"""
    lines = "\n".join(blocks) + checks
    printed = run_python(lines + where, installed, tmp_path)
    assert printed.strip() == str(installed / "mole" / "__init__.py")


def test_nothing_is_imported_but_what_the_package_requires(installed, tmp_path):
    code = """
import sys, torch, numpy, scipy.sparse.linalg
before = set(sys.modules)
import mole, mole.augmentation
print(*(set(sys.modules) - before))
"""
    new = set(run_python(code, installed, tmp_path).split())
    assert {name for name in new if name.partition(".")[0] != "mole"} <= set(
        sys.stdlib_module_names)


def test_it_requires_what_the_repository_requires():
    """The same versions of torch, NumPy and SciPy."""
    listed = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    required = re.findall(r'"([^"]+)"', re.search(r"^dependencies = \[(.*)\]$", text, re.M)[1])
    assert {re.match(r"\w+", line)[0] for line in required} == {"torch", "numpy", "scipy"}
    assert set(required) <= {line.partition("#")[0].strip() for line in listed}


def test_the_names_of_the_package_are_there():
    import mole
    assert all(hasattr(mole, name) for name in mole.__all__)
