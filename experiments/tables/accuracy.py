"""Tables of training runs: accuracy, the test of equality, each run."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import mean

from experiments.tables.formulas import Equality, assess_equality
from experiments.tables.reading import Results, TrainingRun, machine_in_words
from experiments.tables.rows import (
    Row,
    decays_differ,
    describe_accuracy,
    describe_morphing,
    group_in_rows,
    pair_of,
    partners_left_out,
    title_of,
)
from experiments.tables.table import Table, write_number
from utils.records import RUNS

MARGIN = 1.0                        # points of accuracy within which two networks are called equal


@dataclass(frozen=True)
class Comparison:
    """An Aug-Conv network against its fair partner, in points of accuracy."""

    row: Row
    weight_decays: tuple[float, float]      # of the Aug-Conv run and of the partner
    differences: dict[int, float]           # by seed
    test: Equality | None                   # None for one seed

    @property
    def mean(self) -> float:
        return mean(self.differences.values())

    @property
    def verdict(self) -> str:
        """The rule, fixed before the runs: equal if a test says so to ±1 point at 5%."""
        if self.weight_decays[0] != self.weight_decays[1]:
            return "no fair partner: weight decays differ"
        if self.test is None:
            return "one seed: no test"
        return "equal within ±1 point" if self.test.equal else "not shown equal within ±1 point"


def make_accuracy(results: Results) -> Table:
    """Test accuracy of each network; a missing run names its command."""
    rows = group_in_rows(results.runs)
    cells = []
    for row in rows:
        name_decay = decays_differ(row)
        networks = []
        for name, kind in RUNS.items():
            accuracy = describe_accuracy(row.runs[name], name_decay)
            networks.append(accuracy or f"not measured yet: `{kind.command}`")
        cells.append([row.setting, row.morphed, *networks])
    header = ["setting", "morphing", *(kind.title for kind in RUNS.values())]
    return Table("Test accuracy after the last epoch.", header, cells, accuracy_note(results, rows))


def accuracy_note(results: Results, rows: list[Row]) -> str:
    notes = ["Runs in a row agree in all settings and data but seed, key and frozen layer; the "
             "weight decay is named where it differs.",
             "*Morphing*: κ, copies of the core in *M*, or *s*, the side of tiles; how the core "
             "was drawn; what is not as in the paper.",
             "± is the standard deviation over seeds; without it, there was one seed."]
    left_out = partners_left_out(rows, results.runs)
    if left_out:
        notes.append(f"Runs with a frozen first layer that no Aug-Conv run of the same seed has, "
                     f"and which are left out here: {left_out}.")
    codes = sorted({run.code for run in results.runs})
    if len(codes) > 1:
        notes.append(f"Versions of the code: {', '.join(codes)}.")
    return " ".join(notes)


def compare_with_partners(results: Results) -> list[Comparison]:
    """Each row's Aug-Conv runs with the plain runs of the same frozen layer and seed."""
    found = []
    for row in group_in_rows(results.runs):
        for decays, differences in paired_differences(row).items():
            by_seed = {seed: mean(points) for seed, points in sorted(differences.items())}
            values = list(by_seed.values())
            test = assess_equality(values, MARGIN) if len(values) > 1 else None
            found.append(Comparison(row, decays, by_seed, test))
    return found


def paired_differences(row: Row) -> dict[tuple[float, float], dict[int, list[float]]]:
    """Points of difference by both weight decays and seed."""
    partners = defaultdict(list)
    for run in row.runs["pretrained_frozen"]:
        partners[pair_of(run)].append(run)
    found = defaultdict(lambda: defaultdict(list))
    for run in row.runs["with_ac"]:
        for partner in partners[pair_of(run)]:
            decays = run.settings["weight_decay"], partner.settings["weight_decay"]
            found[decays][run.seed].append(100 * (run.accuracy - partner.accuracy))
    return found


def make_equality(results: Results) -> Table:
    """The test of equality, for each row that has both networks."""
    rows = []
    for one in compare_with_partners(results):
        each = ", ".join(f"{value:+.2f}" for value in one.differences.values())
        tested = ["one seed"] * 3
        if one.test is not None:
            tested = [f"{one.test.low:+.2f} to {one.test.high:+.2f}", f"{one.test.p:.2g}",
                      f"{one.test.detectable:.2f}"]
        rows.append([one.row.setting, one.row.morphed, each, f"{one.mean:+.2f}", *tested,
                     one.verdict])
    note = ("Points of accuracy, with Aug-Conv less plain with the same frozen first layer, paired "
            "by seed. *90% interval*: of the mean, by Student's t. *p*: of two one-sided tests "
            "(TOST) against ±1 point; below 0.05 the two are *equal within ±1 point*, a rule fixed "
            "before the runs. *Detectable*: a true difference in points that a paired t-test (5%) "
            "of so many seeds would see four times in five. *One seed*: there is no test.")
    header = ["setting", "morphing", "each seed", "mean", "90% interval", "p", "detectable",
              "verdict"]
    return Table("With Aug-Conv against its fair partner.", header, rows, note if rows else "")


def make_each_run(results: Results) -> Table:
    """Each training run with its command."""
    rows = []
    for run in sorted(results.runs, key=order_of_run):
        rows.append([RUNS[run.run].title, title_of(run.settings | run.data),
                     describe_morphing(run.morphing), str(run.seed), f"{run.accuracy:.2%}",
                     f"{run.settings['weight_decay']:g}", write_number("{:,.0f}", run.seconds),
                     write_number("{:,.0f}", run.peak_mb),
                     write_number("{:,}", run.trained_parameters), machine_of_run(run),
                     run.versions["torch"], run.code, f"`{run.command}`"])
    header = ["network", "setting", "morphing", "seed", "accuracy", "weight decay", "seconds",
              "peak MB", "trained parameters", "machine", "torch", "code", "command"]
    note = ("*Seconds*: all epochs with their evaluation. *Peak MB*: the most memory of the "
            "process. *Code*: the commit when the run began.")
    return Table("Every training run.", header, rows, note)


def order_of_run(run: TrainingRun) -> tuple:
    return (title_of(run.settings | run.data), list(RUNS).index(run.run),
            describe_morphing(run.morphing), run.seed, run.command)


def machine_of_run(run: TrainingRun) -> str:
    return machine_in_words({"machine": run.machine})


def make_validation(results: Results) -> Table:
    """Learning rates, tried on training images that were left out."""
    rows = []
    for run in sorted(results.validation, key=lambda run: run.settings["lr"]):
        rows.append([title_of(run.settings | run.data), f"{run.settings['lr']:g}",
                     f"{run.accuracy:.2%}", f"`{run.command}`"])
    return Table("Learning rates, on training images that were left out.",
                 ["setting", "learning rate", "accuracy", "command"], rows,
                 "No test image was seen; the best rate is that of the runs.")


def make_demo(results: Results) -> Table:
    """Accuracy of the three networks of `make demo`."""
    rows = []
    for name, kind in RUNS.items():
        rows += [[kind.title, f"{run.accuracy:.2%}"] for run in results.demo if run.run == name]
    return Table("The demo.", ["network", "test accuracy"], rows, "`make demo`.")
