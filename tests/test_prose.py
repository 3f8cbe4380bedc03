"""The committed pages say what the committed records say: `make tables` changes nothing."""

import shutil
import sys

import reproduce_tables
from tests.steps import ROOT

TEXTS = ("REPRODUCTION.md", "tables.md", "tables.tex", "analysis.json")


def test_make_tables_changes_nothing(tmp_path, monkeypatch):
    """All of it is made again in a copy of the pages and of results/."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "results", copy / "results")
    pages = [path.relative_to(ROOT) for pattern in reproduce_tables.PAGES
             for path in ROOT.glob(pattern)]
    for page in pages:
        (copy / page).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / page, copy / page)
    for name in TEXTS:
        (copy / "results" / name).unlink()
    monkeypatch.setattr(reproduce_tables, "ROOT", copy)
    monkeypatch.setattr(sys, "argv", ["reproduce_tables.py"])
    reproduce_tables.main()
    for page in [*pages, *(f"results/{name}" for name in TEXTS)]:
        assert (copy / page).read_text() == (ROOT / page).read_text(), page
    readme = (copy / "README.md").read_text()
    assert "<!-- value" in readme and "<!-- lines demo/" in readme
