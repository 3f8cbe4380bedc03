"""After the steps: tables, figures and a report, made of the records that runs have left.

    python reproduce_tables.py                      the project's own: results/ and the pages
    python reproduce_tables.py DIR [DIR ...]        yours, as --results_dir DIR has them

A folder may have the records itself, or in accuracy/, bench/, demo/ and validation/. The output
goes to DIR/tables/, or to --output: tables.md, tables.tex, REPRODUCTION.md, analysis.json and
figures/. Nothing else is written. Of yours, REPRODUCTION.md has what your records say and no more.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
from experiments.program import run_command
from experiments.tables import (
    accuracy,
    augmentation,
    equality,
    figures,
    marks,
    measured,
    published,
)
from experiments.tables.claims import make_verdict, write_report, write_short_report
from experiments.tables.formulas import compute_overheads
from experiments.tables.reading import BENCH, DEMO, EXPERIMENTS, TRAINING, Results, read_results
from experiments.tables.rows import Row, group_in_rows, setting_of, summarise
from experiments.tables.table import LATEX_PREAMBLE, Table
from utils.artifacts import write_alone
from utils.errors import UserError, user_errors
from utils.records import to_json

ROOT = Path(__file__).resolve().parent
PAGES = ("*.md", "attacks/*.md", "experiments/*.md", "docs/*.md")


class TableKind(NamedTuple):
    """A table: its name in marks, its title while it lacks its records, and what makes it.

    It needs `runs`, the name of a list in Results, or a `record`, the name of one; a table of
    formulas needs neither. `command` measures what it needs.
    """

    name: str
    title: str
    make: Callable[[Results], Table]
    runs: str = ""
    command: str = ""
    record: str = ""

    @property
    def is_formula(self) -> bool:
        return not self.runs and not self.record


def of_record(name: str, title: str, make: Callable[[Results], Table], record: str) -> TableKind:
    return TableKind(name, title, make, command=f"`{EXPERIMENTS[record]}`", record=record)


PARTNERS = f"{TRAINING}, and `pretrain.py` with `--frozen_first_layer`"
TABLES = [                          # in the order of tables.md
    TableKind("accuracy", "Test accuracy", accuracy.make_accuracy, "runs", TRAINING),
    TableKind("equality", "Equality", equality.make_equality, "runs", PARTNERS),
    TableKind("augmented", "Accuracy with augmentation", augmentation.make_augmented, "runs",
              f"{TRAINING} and `--augment crop_flip`"),
    TableKind("validation", "Learning rates", accuracy.make_validation, "validation",
              "`make evidence`"),
    TableKind("published", "Published figures", published.make_published),
    of_record("defects", "What the defects of the reference scripts cost", measured.make_defects,
              "defects"),
    of_record("kappa", "What κ changes", measured.make_kappa, "kappa"),
    of_record("agreement", "Equal predictions", measured.make_agreement, "agreement"),
    of_record("protection", "What an adversary gets", measured.make_protection, "attack_matrix"),
    of_record("public_images", "Morphed images alone, by the public images",
              measured.make_public_images, "attack_matrix"),
    of_record("across", "Morphed images alone, with public images of another data set",
              measured.make_across, "attack_matrix"),
    of_record("attack", "Attacks on the project's own delivery", measured.make_attacks,
              "attacks"),
    of_record("matrix", "The attacks over first layers", measured.make_attack_matrix,
              "attack_matrix"),
    of_record("repairs", "Repairs of Aug-Conv", measured.make_repairs, "repairs"),
    of_record("augmentation", "Features of augmented images", augmentation.make_features,
              "augmentation"),
    of_record("augmentation_composing", "The second Aug-Conv", augmentation.make_composing,
              "augmentation"),
    of_record("augmentation_epochs", "An epoch with augmentation", augmentation.make_epochs,
              "augmentation"),
    of_record("augmentation_attacks", "What both Aug-Convs give away", augmentation.make_attacks,
              "augmentation"),
    of_record("he", "Homomorphic encryption", measured.make_he, "he"),
    TableKind("demo", "The demo", accuracy.make_demo, "demo", f"`{DEMO}`"),
    TableKind("bench", "Speed", measured.make_bench, "benches", f"`{BENCH}`"),
    of_record("inputs", "Image files and folders", measured.make_inputs, "inputs"),
    of_record("stress", "Interruption, damage and hostile files", measured.make_stress, "stress"),
    TableKind("runs", "Every training run", accuracy.make_each_run, "runs", TRAINING),
]
TITLE = ("# All tables\n\nMade by `python reproduce_tables.py` from JSON records. Under a table "
         "that one record made\nstand its command and machine. Training runs have theirs in the "
         "table of every run.\n")
# In pages alone.
PAGES_ALONE = [
    TableKind("verdict", "Verdict", make_verdict),
    TableKind("accuracy_short", "Test accuracy", accuracy.make_accuracy_short, "runs", TRAINING),
]


def main():
    arguments = parse_arguments()
    own = ROOT / "results"
    folders = arguments.folders or [own]
    is_own = [folder.resolve() for folder in folders] == [own] and arguments.output is None
    output = arguments.output or folders[0] / "tables"
    if is_own:
        output = own
    results = read_results(folders, output)
    for line in results.ignored():
        print(line, file=sys.stderr)
    with user_errors():
        tables = make_tables(results)
        report = write_report(results) if is_own else write_short_report(results)
        write_output(output, results, tables, report, is_own)
        if is_own:
            fill_pages(results, tables)
    print(f"{output}/tables.md, tables.tex, REPRODUCTION.md, analysis.json and figures/ are "
          "written")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=folder_named, metavar="DIR",
                        help="folders with records (default: the project's own results/)")
    parser.add_argument("--results_dir", "--results-dir", nargs="+", type=folder_named, default=[],
                        action="extend", metavar="DIR", help="the same")
    parser.add_argument("--output", type=folder_named, metavar="DIR",
                        help="where to write (default: tables/ in the first folder)")
    arguments = parser.parse_args()
    arguments.folders += arguments.results_dir
    if arguments.output in arguments.folders:
        raise UserError(f"--output {arguments.output} has the records: name another folder")
    return arguments


def folder_named(text: str) -> Path:
    return Path(os.path.expanduser(text))


def make_tables(results: Results) -> dict[str, Table]:
    """Each table by its name; one that lacks its records is the command that measures them."""
    return {kind.name: make_table(kind, results) for kind in [*TABLES, *PAGES_ALONE]}


def make_table(kind: TableKind, results: Results) -> Table:
    if has_records(kind, results):
        table = kind.make(results)
        if table.rows:
            return table
    return Table(kind.title, [], [], f"Not measured yet: {kind.command}.")


def has_records(kind: TableKind, results: Results) -> bool:
    """Whether what a table needs is there."""
    if kind.runs:
        return bool(getattr(results, kind.runs))
    return kind.is_formula or kind.record in results.records


def write_output(folder: Path, results: Results, tables: dict[str, Table], report: str,
                 is_own: bool):
    """Writes tables, report and figures.

    Where the records are a person's own, formulas of the paper's setting are left out, and so are
    tables of the project's own experiments that have no record. These are named at the end.
    """
    shown, left_out = [], []
    for kind in TABLES:
        has_own_records = not kind.is_formula and has_records(kind, results)
        if is_own or kind.runs == "runs" or has_own_records:
            shown.append(tables[kind.name])
        elif not kind.is_formula:
            left_out.append(kind)
    sections = [f"## {table.title}\n\n{table.markdown()}\n" for table in shown]
    if left_out:
        titles = "\n".join(f"- {kind.title}: {kind.command}" for kind in left_out)
        sections.append("## Not in these folders\n\nThe project's own experiments, and what makes "
                        f"their records:\n\n{titles}\n")
    latex = [LATEX_PREAMBLE, *(table.latex() for table in shown)]
    write_alone(folder / "tables.md", "\n".join([TITLE, list_contents(shown), *sections]))
    write_alone(folder / "tables.tex", "\n\n".join(latex) + "\n")
    write_alone(folder / "REPRODUCTION.md", report)
    write_alone(folder / "analysis.json", to_json(asdict(compute_overheads())))
    for name, picture in figures.draw_figures(results, is_own).items():
        write_alone(folder / "figures" / f"{name}.png", picture)


def list_contents(tables: list[Table]) -> str:
    """Links to the tables of tables.md, a line each."""
    lines = [f"- [{table.title.removesuffix('.')}](#{anchor_of(table.title)})" for table in tables]
    return "\n".join(lines) + "\n"


def anchor_of(title: str) -> str:
    """Where a link to a heading leads, as GitHub makes it of the heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def fill_pages(results: Results, tables: dict[str, Table]):
    """Puts numbers, tables and figures between the marks of the project's pages."""
    records = records_for_marks(results)
    drawn = {path.stem for path in (ROOT / marks.FIGURES).glob("*.png")}
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            page = path.read_text(encoding="utf-8")
            with user_errors(path.relative_to(ROOT)):
                folder = path.parent.relative_to(ROOT).as_posix()
                filled = marks.fill_page(page, tables, records, folder, drawn)
            if filled != page:
                write_alone(path, filled)


def records_for_marks(results: Results) -> dict[str, dict]:
    """The records by name; `analysis` has the formulas' numbers, `accuracy` the rows of runs,
    `augmented` a sentence on those with augmentation."""
    records = results.records | {"analysis": asdict(compute_overheads())}
    if results.runs:
        rows = [row_as_record(row) for row in group_in_rows(results.runs)]
        records["accuracy"] = {"rows": rows}
    in_words = augmentation.describe_augmented(results)
    if in_words is not None:
        records["augmented"] = {"in_words": in_words}
    return records


def row_as_record(row: Row) -> dict:
    """A row of the accuracy table as a record: settings, morphing, and each network's summary."""
    found = setting_of(row.any_run) | (row.morphing or {})
    for name, same in row.runs.items():
        if same:
            found[name] = [asdict(summary) for summary in summarise(same)]
    return found


if __name__ == "__main__":
    run_command(main)
