"""Tables of training runs: accuracy, each run, learning rates, the demo."""

from dataclasses import replace

from experiments.tables.published import not_measured
from experiments.tables.reading import (
    IDLE,
    Results,
    TrainingRun,
    describe_machine,
    machine_in_words,
)
from experiments.tables.rows import (
    CONTROLS,
    Row,
    common_beginning,
    describe_accuracy,
    describe_morphing,
    group_in_rows,
    has_usual_decays,
    partners_left_out,
    title_of,
)
from experiments.tables.table import Table, write_number
from utils.records import RUNS

DEMO_RUNS = ("pretrained", "with_ac", "no_ac")
NOTES = [                           # under every table of accuracies
    "Runs in a row agree in all settings and data but seed, key and frozen layer.",
    "The plain network has ten times the weight decay of the others, as in the authors' scripts, "
    "or the same; other weight decays stand in the cells.",
    "*Morphing*: κ, copies of the core in *M*, or *s*, the side of tiles, and how the core was "
    "drawn. Padding, the order of channels and the type of numbers stand there if they are not the "
    "paper's.",
    "± is the standard deviation over seeds; without it, there was one seed."]


def make_accuracy(results: Results) -> Table:
    """Test accuracy of each network; a missing run names its command."""
    rows = group_in_rows(results.runs)
    return accuracy_table(rows, not_measured("{}"), accuracy_note(results, rows))


def make_accuracy_short(results: Results) -> Table:
    """The same for the README: rows with Aug-Conv come first, those with augmentation after them;
    a missing run names no command, and the note is short."""
    rows = sorted(group_in_rows(results.runs), key=order_in_short)
    table = accuracy_table(rows, "not measured", " ".join(NOTES))
    common = common_beginning([row.setting for row in rows])
    if not common:
        return table
    cells = [[setting.removeprefix(f"{common}, "), *others] for setting, *others in table.rows]
    return replace(table, rows=cells, note=f"All rows: {common}. {table.note}")


def order_in_short(row: Row) -> tuple[bool, bool]:
    return not row.runs["with_ac"], row.augment != "none"


def accuracy_table(rows: list[Row], missing: str, note: str) -> Table:
    """`missing`: what stands in the place of a run that is not there; {} is its command."""
    cells = []
    for row in rows:
        networks = []
        for name in RUNS:
            accuracy = describe_accuracy(row.runs[name], not has_usual_decays(row))
            networks.append(accuracy or why_missing(row, name, missing))
        cells.append([row.setting, row.morphed, *networks])
    header = ["setting", "morphing", *(kind.title for kind in RUNS.values())]
    return Table("Test accuracy after the last epoch.", header, cells, note)


def why_missing(row: Row, name: str, missing: str) -> str:
    """What stands in the place of an accuracy of a network (a key of RUNS)."""
    if name in CONTROLS and row.augment != "none":
        return "not possible with augmentation"
    return missing.format(RUNS[name].command)


def accuracy_note(results: Results, rows: list[Row]) -> str:
    notes = list(NOTES)
    if any(not row.runs[name] for row in rows for name in row.runs):
        notes.append("Where something is not measured yet, the step that measures it is named: it "
                     "needs the settings of the row, and `--results_dir`. FILE is the first layer "
                     "that Aug-Conv was composed with.")
    left_out = partners_left_out(rows, results.runs)
    if left_out:
        notes.append(f"Runs with a frozen first layer that no Aug-Conv run of the same seed has, "
                     f"and which are left out here: {left_out}.")
    codes = sorted({run.code for run in results.runs})
    if len(codes) > 1:
        notes.append(f"Versions of the code: {', '.join(codes)}.")
    return " ".join(notes)


def make_each_run(results: Results) -> Table:
    """Each training run with its command."""
    rows = []
    for run in sorted(results.runs, key=order_of_run):
        rows.append([RUNS[run.run].title, title_of(run.settings | run.data),
                     describe_morphing(run.morphing), str(run.seed), f"{run.accuracy:.2%}",
                     f"{run.settings['weight_decay']:g}", write_number("{:,.0f}", run.seconds),
                     "unknown" if run.load is None else f"{run.load:.1f}",
                     write_number("{:,.0f}", run.peak_mb),
                     write_number("{:,}", run.trained_parameters), describe_machine(run.machine),
                     run.versions["torch"], run.code, f"`{run.file}`", f"`{run.command}`"])
    header = ["network", "setting", "morphing", "seed", "accuracy", "weight decay", "seconds",
              "load", "peak MB", "trained parameters", "machine", "torch", "code", "record",
              "command"]
    busy = sum(run.load is None or run.load > IDLE for run in results.runs)
    note = ("*Seconds*: all epochs with their evaluation. *Load*: of the machine in the minute "
            f"before. For {busy} of {len(results.runs)} runs other programs ran, or the load is "
            "not known: these seconds are no measure of the work. *Peak MB*: the most memory of "
            "the process. *Code*: the commit when the run began. *Record*: the "
            "name of its file.")
    return Table("Every training run.", header, rows, note)


def order_of_run(run: TrainingRun) -> tuple:
    return (title_of(run.settings | run.data), list(RUNS).index(run.run),
            describe_morphing(run.morphing), run.seed, run.command)


def make_validation(results: Results) -> Table:
    """Learning rates, tried on training images that were left out."""
    rows = []
    for run in sorted(results.validation, key=lambda run: run.settings["lr"]):
        rows.append([title_of(run.settings | run.data), f"{run.accuracy:.2%}",
                     write_number("{:,.0f}", run.seconds), f"`{run.file}`", f"`{run.command}`"])
    return Table("Learning rates, on training images that were left out.",
                 ["setting", "accuracy", "seconds", "record", "command"], rows,
                 "No test image was seen.")


def make_demo(results: Results) -> Table:
    """Seconds of `make demo` and the accuracies of its networks, for each processor and seed."""
    rows = []
    for record in results.demo:
        demo = record["demo"]
        machine = machine_in_words(record) + (", as if it had AVX2 only" if demo["instructions"]
                                              else "")
        for run in demo["runs"]:
            accuracies = [f"{run[name]:.1%}" for name in DEMO_RUNS]
            rows.append([machine, run["precision"], str(run["seed"]), f"{run['seconds']:.0f}",
                         *accuracies])
    titles = [RUNS[name].title for name in DEMO_RUNS]
    return Table("The demo.", ["machine", "precision", "seed", "seconds", *titles], rows,
                 "Seconds of `make demo` without its installation.")
