"""Step 6: tables, figures and a report, made of the records that runs have left.

    python reproduce_tables.py                      the project's own: results/ and the pages
    python reproduce_tables.py DIR [DIR ...]        yours, as --results_dir DIR has them

A folder may have the records itself, or in accuracy/, bench/, demo/ and validation/. The output
goes to DIR/tables/, or to --output: tables.md, tables.tex, REPRODUCTION.md, analysis.json and
figures/. Nothing else is written.
"""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
from experiments.program import run_command
from experiments.tables import accuracy, figures, marks, measured, published
from experiments.tables.claims import write_report
from experiments.tables.formulas import compute_overheads
from experiments.tables.reading import BENCH, EXPERIMENTS, TRAINING, Results, read_results
from experiments.tables.rows import group_in_rows, summarise
from experiments.tables.table import LATEX_PREAMBLE, Table
from utils.artifacts import write_alone
from utils.errors import UserError, user_errors
from utils.records import to_json

ROOT = Path(__file__).resolve().parent
PAGES = ("*.md", "attacks/*.md", "experiments/*.md", "docs/*.md")
# The tables by name: what makes one, and the record that it needs with the command for that.
OF_RUNS = {"accuracy": accuracy.make_accuracy, "equality": accuracy.make_equality,
           "runs": accuracy.make_each_run}
OF_RECORDS = {
    "kappa": (measured.make_kappa, "kappa"),
    "agreement": (measured.make_agreement, "agreement"),
    "defects": (measured.make_defects, "defects"),
    "he": (measured.make_he, "he"),
    "attack": (measured.make_attacks, "attacks"),
    "protection": (measured.make_protection, "attack_matrix"),
    "matrix": (measured.make_attack_matrix, "attack_matrix"),
    "repairs": (measured.make_repairs, "repairs"),
    "inputs": (measured.make_inputs, "inputs"),
    "stress": (measured.make_stress, "stress"),
}
ORDER = ("accuracy", "equality", "validation", "published", "defects", "kappa", "agreement",
         "protection", "attack", "matrix", "repairs", "he", "bench", "inputs", "stress", "runs")


def main():
    arguments = parse_arguments()
    own = ROOT / "results"
    folders = arguments.folders or [own]
    results = read_results(folders)
    for line in results.ignored():
        print(line, file=sys.stderr)
    is_own = [folder.resolve() for folder in folders] == [own] and arguments.output is None
    output = own if is_own else arguments.output or folders[0] / "tables"
    with user_errors():
        tables = make_tables(results)
        write_output(output, results, tables)
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
    made = {"published": published.make_published(results)}
    for name, make in OF_RUNS.items():
        made[name] = make(results) if results.runs else unmeasured(name, TRAINING)
    for name, (make, record) in OF_RECORDS.items():
        if record in results.records:
            made[name] = make(results)
        else:
            made[name] = unmeasured(name, f"`{EXPERIMENTS[record]}`")
    made["bench"] = (measured.make_bench(results) if results.benches
                     else unmeasured("bench", f"`{BENCH}`"))
    made["demo"] = (accuracy.make_demo(results) if results.demo
                    else unmeasured("demo", "`make demo`"))
    made["validation"] = (accuracy.make_validation(results) if results.validation
                          else unmeasured("validation", "`make evidence`"))
    if not made["equality"].rows:
        made["equality"] = unmeasured("equality", f"{TRAINING}, and `pretrain.py` with "
                                      "`--frozen_first_layer`")
    return made


def unmeasured(name: str, command: str) -> Table:
    return Table(TITLES[name], [], [], f"Not measured yet: {command}.")


TITLES = {                          # of tables that lack their records
    "accuracy": "Test accuracy", "equality": "Equality", "runs": "Every training run",
    "validation": "Learning rates", "kappa": "What κ changes",
    "agreement": "Equal predictions", "demo": "The demo",
    "defects": "What the defects of the reference scripts cost", "bench": "Speed",
    "he": "Homomorphic encryption", "attack": "Attacks on the project's own delivery",
    "protection": "What an adversary gets", "matrix": "The attacks over first layers",
    "repairs": "Repairs of Aug-Conv", "inputs": "Image files and folders",
    "stress": "Interruption, damage and hostile files"}


def write_output(folder: Path, results: Results, tables: dict[str, Table]):
    sections = [f"## {tables[name].title}\n\n{tables[name].markdown()}\n" for name in ORDER]
    latex = [LATEX_PREAMBLE, *(tables[name].latex() for name in ORDER)]
    write_alone(folder / "tables.md", "\n".join(sections))
    write_alone(folder / "tables.tex", "\n\n".join(latex) + "\n")
    write_alone(folder / "REPRODUCTION.md", write_report(results))
    write_alone(folder / "analysis.json", to_json(asdict(compute_overheads())))
    for name, picture in figures.draw_figures(results).items():
        write_alone(folder / "figures" / f"{name}.png", picture)


def fill_pages(results: Results, tables: dict[str, Table]):
    """Puts numbers and tables between the marks of the project's pages."""
    records = records_for_marks(results)
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            page = path.read_text(encoding="utf-8")
            with user_errors(path.relative_to(ROOT)):
                filled = marks.fill_page(page, tables, records)
            if filled != page:
                write_alone(path, filled)


def records_for_marks(results: Results) -> dict[str, dict]:
    """The records by name; `analysis` has the formulas' numbers, `accuracy` the rows of runs."""
    records = results.records | {"analysis": asdict(compute_overheads())}
    if results.runs:
        records["accuracy"] = {"rows": [describe_row(row) for row in group_in_rows(results.runs)]}
    return records


def describe_row(row) -> dict:
    """A row of the accuracy table as a record: settings, morphing, and each network's summary."""
    runs = [run for runs in row.runs.values() for run in runs]
    found = runs[0].settings | runs[0].data | (row.morphing or {})
    for name, same in row.runs.items():
        if same:
            found[name] = [asdict(summary) for summary in summarise(same)]
    return found


if __name__ == "__main__":
    run_command(main)
