"""The test of equality: networks with Aug-Conv against their fair partners."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import mean

from scipy.stats import t as student
from scipy.stats import ttest_1samp

from experiments.tables.reading import Results
from experiments.tables.rows import Row, by_weight_decay, group_in_rows, pair_of, points_above
from experiments.tables.table import Table

MARGIN = 1.0                        # points of accuracy within which two networks are called equal
EQUAL = f"equal within ±{MARGIN:g} point"


@dataclass(frozen=True)
class Equality:
    """A test whether the mean of paired differences lies within ±margin."""

    low: float                      # 90% confidence interval of the mean
    high: float
    p: float                        # of two one-sided t-tests
    equal: bool                     # p < 5%: just where the interval lies within the margin
    detectable: float               # a true difference that a t-test would see 4 times in 5

    @property
    def interval(self) -> str:
        """The confidence interval in words."""
        return f"{self.low:+.2f} to {self.high:+.2f}"

    @property
    def side(self) -> str:
        """On which side of 0 the whole interval lies, if it does."""
        if self.high < 0:
            return "lower"
        return "higher" if self.low > 0 else "undecided"


def assess_equality(differences: list[float], margin: float) -> Equality:
    """Two one-sided t-tests (TOST) of two or more paired differences, not all the same, against
    ±margin.

    Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987. `detectable` is of a two-sided paired t-test
    at 5%.
    """
    test = ttest_1samp(differences, 0)
    low, high = test.confidence_interval(0.90)
    above = ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = ttest_1samp(differences, margin, alternative="less").pvalue
    p = max(above, below)
    freedom = len(differences) - 1
    standard_error = (high - low) / 2 / student.ppf(0.95, freedom)
    detectable = (student.ppf(0.975, freedom) + student.ppf(0.8, freedom)) * standard_error
    return Equality(float(low), float(high), float(p), bool(p < 0.05), float(detectable))


@dataclass(frozen=True)
class Comparison:
    """An Aug-Conv network against its fair partner, in points of accuracy."""

    row: Row
    weight_decays: tuple[float, float]      # of the Aug-Conv run and of the partner
    differences: dict[int, float]           # by seed
    test: Equality | None                   # None for one seed, or the same difference for all

    @property
    def mean(self) -> float:
        return mean(self.differences.values())

    @property
    def above_plain(self) -> float | None:
        """Against the plain network, as the authors' scripts compare. Its first layer starts from
        scratch."""
        ours = by_weight_decay(self.row.runs["with_ac"])[self.weight_decays[0]]
        return points_above(ours, self.row.runs["pretrained"])

    @property
    def is_fair(self) -> bool:
        """Whether both were trained with the same weight decay."""
        return self.weight_decays[0] == self.weight_decays[1]

    @property
    def why_untested(self) -> str:
        return "one seed" if len(self.differences) == 1 else "no spread over the seeds"

    @property
    def verdict(self) -> str:
        """The rule, fixed before the runs: equal if a test at 5% says so within ±MARGIN."""
        if not self.is_fair:
            return "no fair partner: weight decays differ"
        if self.test is None:
            return f"{self.why_untested}: no test"
        return EQUAL if self.test.equal else f"not shown {EQUAL}: {self.test.side}"

    @property
    def short_verdict(self) -> str:
        """Of a test: equal; or, where that is not shown, the side of 0."""
        return "equal" if self.test.equal else self.test.side


def compare_with_partners(results: Results) -> list[Comparison]:
    """Each row's Aug-Conv runs with the plain runs of the same frozen layer and seed."""
    found = []
    for row in group_in_rows(results.runs):
        found += compare_row(row)
    return found


def compare_row(row: Row) -> list[Comparison]:
    """The comparisons of one row, one for each pair of weight decays."""
    found = []
    for decays, differences in paired_differences(row).items():
        by_seed = {seed: mean(points) for seed, points in sorted(differences.items())}
        values = list(by_seed.values())
        # Without a spread a t-test says nothing; rounding is none.
        has_spread = len({round(value, 6) for value in values}) > 1
        test = assess_equality(values, MARGIN) if has_spread else None
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
        tested = [one.why_untested] * 3
        if one.test is not None:
            tested = [one.test.interval, f"{one.test.p:.2g}", f"{one.test.detectable:.2f}"]
        ours, theirs = (f"{decay:g}" for decay in one.weight_decays)
        decays = ours if one.is_fair else f"{ours}, partner {theirs}"
        rows.append([one.row.setting, one.row.morphed, decays, each, f"{one.mean:+.2f}", *tested,
                     one.verdict])
    note = ("Points of accuracy, with Aug-Conv less plain with the same frozen first layer, paired "
            "by seed. *90% interval*: of the mean, by Student's t. *p*: of two one-sided tests "
            f"(TOST) against ±{MARGIN:g} point; below 0.05 the two are *{EQUAL}*, a rule fixed "
            "before the runs. Where that is not shown, *lower* says that all of the interval is "
            "below 0, *higher* that it is above, *undecided* that it contains 0. *Detectable*: "
            "about the true difference in points that a paired t-test (5%) of so many seeds would "
            "see four times in five. "
            "There is no test of one seed, nor of seeds that all differ by the same.")
    header = ["setting", "morphing", "weight decay", "each seed", "mean", "90% interval", "p",
              "detectable", "verdict"]
    return Table("With Aug-Conv against its fair partner.", header, rows, note if rows else "")
