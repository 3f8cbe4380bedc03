"""Step 6: the paper's tables and figures, from what the runs left in results/.

Writes results/REPRODUCTION.md, tables.md, tables.tex, analysis.json and figures/*.png, and the
tables of the README.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import utils.step
from experiments.tables import figures, measured, paper, runs
from experiments.tables.tables import Table, filled
from parameter import Parameters
from utils.artifacts import write_alone
from utils.provenance import to_json
from utils.settings import user_errors

ROOT = Path(__file__).resolve().parent
TRAIN = "the training scripts with `--results_dir results/accuracy`"
TABLES = (                          # name, record, what makes the table, what makes the record
    ("accuracy", "accuracy", runs.accuracy, TRAIN),
    ("equality", "accuracy", runs.equality, f"{TRAIN}, `pretrain.py` with `--frozen_first_layer`"),
    ("paper", "accuracy", paper.paper, TRAIN),
    ("kappa", "kappa", measured.kappa, "`python -m experiments.kappa`"),
    ("agreement", "agreement", measured.agreement, "`python -m experiments.agreement`"),
    ("inputs", "inputs", measured.inputs, "`python -m tests.inputs`"),
    ("he", "he", measured.he, "`make tables-he`"),
    ("bench", "bench", measured.bench, "`make bench`"),
    ("attack", "attacks", measured.attack, "`python attack.py --score --results_dir results`"),
    ("matrix", "attack_matrix", measured.attack_matrix, "`make attack-matrix`"),
    ("repairs", "repairs", measured.repairs, "`python -m experiments.repairs`"),
    ("stress", "stress", measured.stress, "`make stress`"),
    ("runs", "accuracy", runs.each_run, TRAIN))


def main(p: Parameters):
    folder = Path(p.results_dir or ROOT / "results")
    records = read_results(folder)
    tables = made_tables(records)
    markdown = "\n".join(f"## {table.title or name}\n\n{table.markdown()}\n"
                         for name, table in tables.items())
    write_alone(folder / "tables.md", markdown)
    write_alone(folder / "tables.tex", "\n\n".join(t.latex() for t in tables.values()) + "\n")
    write_alone(folder / "REPRODUCTION.md", paper.reproduction(records))
    write_alone(folder / "analysis.json", to_json(paper.computed()))
    for name, picture in figures.drawn(records).items():
        write_alone(folder / "figures" / f"{name}.png", picture)
    if not p.results_dir:                                # the README's tables are of results/
        readme = ROOT / "README.md"
        write_alone(readme, filled(readme.read_text(encoding="utf-8"), tables))
    print(f"{markdown}\n{folder}/tables.md, tables.tex, analysis.json and figures/ are written")


def read_results(folder: Path) -> dict:
    """Records by their file's name, those of training runs together as `accuracy`."""
    def read(path: Path):
        with user_errors(f"{path} is not JSON, remove it or run its command again"):
            return json.loads(path.read_text(encoding="utf-8"))

    return {path.stem: read(path) for path in folder.glob("*.json")} | {
        "accuracy": [read(path) for path in sorted(folder.glob("accuracy/*.json"))]}


def made_tables(records: dict) -> dict[str, Table]:
    """Each table by its name; one that lacks its results is the command that measures them."""
    made = {name: make(records) for name, record, make, _ in TABLES if record in records}
    return {name: made[name] if name in made and made[name].rows else
            Table("", [], [], f"Not measured yet: {command}.") for name, _, _, command in TABLES}


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
