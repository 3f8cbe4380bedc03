"""The report on the paper's claims, one by one: REPRODUCTION.md, made of records.

Each verdict is a rule in a function of its own. The limits in them were fixed before the runs;
reproduction.md says what was added after.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

from experiments.evidence import list_chapters_left
from experiments.tables.augmentation import (
    LARGEST_EPOCH_RATIO,
    LARGEST_ERROR_RATIO,
    Augmented,
    list_augmented,
)
from experiments.tables.equality import (
    EQUAL,
    MARGIN,
    Comparison,
    compare_with_partners,
)
from experiments.tables.formulas import (
    PUBLISHED_ACCURACY,
    PUBLISHED_CHANCE,
    PUBLISHED_COMPUTATION,
    PUBLISHED_DATA,
    PUBLISHED_GAZELLE_CHANCE,
    PUBLISHED_GAZELLE_DATA,
    PUBLISHED_LOW_ACCURACY,
    compute_overheads,
    cost_of_tile,
)
from experiments.tables.measured import CORES, make_across, make_public_images
from experiments.tables.published import (
    NOT_YET,
    describe_encryption,
    describe_known_layer,
    find_delivered,
    find_epochs,
    not_measured,
    seconds_of_known_layer,
)
from experiments.tables.reading import (
    BENCH,
    EXPERIMENTS,
    TRAINING,
    Results,
    describe_machine,
    machine_in_words,
)
from experiments.tables.rows import (
    PAPER_MORPHING,
    Row,
    common_beginning,
    describe_accuracy,
    group_in_rows,
    list_controls,
    summarise,
    title_of_dataset,
)
from experiments.tables.table import Table, write_number, write_power, write_range

NOT_MEASURED = "not measured"
NOT_PUBLISHED = "not published"            # of what goes beyond the paper
ANALYSIS = "[analysis.json](analysis.json)"
ACCURACY = "every run in [tables.md](tables.md)"
EQUALITY = "[every row](tables.md#with-aug-conv-against-its-fair-partner)"
PAIRS = ("`train_with_ac.py` and its fair partner, `pretrain.py --frozen_first_layer FILE "
         "--weight_decay 5e-7`, with several seeds, on a delivery as in the paper (`--kappa 1`, "
         "uniform core, float32, channels shuffled)")
CONTROL = ("`pretrain.py` and `train_no_ac.py`, with the same settings, on a delivery as in the "
           "paper (`--kappa 1`, uniform core, float32)")
OUR_TILES = PAPER_MORPHING | {"kappa": None, "tile": 8, "morph_distribution": "orthogonal",
                              "delivery_dtype": "int8"}
TILES_CLAIM = "8×8 tiles, orthogonal, int8 (our extension)"
OTHER_KAPPA = "other κ (a setting of the authors' scripts)"
AUTHORS_OPTIMISATION = "0.001, halved every 60 epochs, dropout 0.5"
RECOGNISABLE = 30.0                 # dB of PSNR from which an attack counts as successful


@dataclass(frozen=True)
class Claim:
    """A row of the report; all in words.

    is_measured: whether records say it; otherwise it is a formula's, or has not been measured.
    short: what was found in a few words, for the README; empty for what has no row there.
    """

    claim: str
    published: str
    found: str
    verdict: str
    source: str
    is_measured: bool = True
    short: str = ""


# -- The rules

def is_very_low(without: float, plain: float, classes: int) -> bool:
    """Very low: at most twice chance and at most a third of the plain network's (in percent)."""
    chance = 100 / classes
    return without <= 2 * chance and without <= plain / 3


def judge_equal_training(comparisons: list[Comparison]) -> str:
    """Equal: every comparison of several seeds is, by two one-sided tests within ±MARGIN.

    `comparisons`: those with fair partners.
    """
    tested = [one for one in comparisons if one.test is not None]
    if not tested:
        reasons = {one.why_untested for one in comparisons} or {"one seed"}
        return f"{' or '.join(sorted(reasons))}: no test"
    verdicts = {one.verdict for one in tested}
    if len(verdicts) == 1:
        return verdicts.pop()
    rates = {one.row.rate for one in tested}
    if len(rates) == len(tested):
        return ", ".join(f"{one.short_verdict} at {one.row.rate}" for one in tested)
    equal = sum(one.test.equal for one in tested)
    return f"{EQUAL} in {equal} of {len(tested)} tested rows"


def judge_equal_predictions(equal: int, images: int) -> str:
    """Reproduced: the same class for every test image."""
    if equal == images:
        return "reproduced"
    return f"not reproduced for {images - equal} images"


def judge_overhead(published: float, found: float) -> str:
    """Reproduced: what is really computed or sent is within a tenth of the published figure."""
    within = abs(found - published) <= published / 10
    return "reproduced" if within else "not reproduced"


def judge_attack(published: float, guess: float, psnr: float | None) -> str:
    """The number: by judge_guess. The claim is refuted where images come back at RECOGNISABLE dB
    or more; `psnr` is None where the attack failed."""
    number = f"the number is {judge_guess(published, guess)}"
    if psnr is None:
        return f"{number}; this attack fails"
    if psnr >= RECOGNISABLE:
        return f"{number}; the claim is refuted: images come back"
    return f"{number}; this attack stays below {RECOGNISABLE:.0f} dB"


def judge_quotient(published: float, found: float) -> str:
    """Reproduced: within one percent of the published factor."""
    within = abs(found - published) <= published / 100
    return "the quotient is reproduced" if within else "the quotient is not reproduced"


def judge_augmented(above_plain: list[float]) -> str:
    """Reached: with Aug-Conv at most MARGIN points below plain with the same augmentation."""
    reached = sum(round(points, 2) >= -MARGIN for points in above_plain)
    if reached == len(above_plain):
        return "reached"
    return f"reached in {reached} of {len(above_plain)} rows"


def judge_augmentation(error_ratio: float, epoch_ratio: float | None) -> str:
    """Reached: the features' error and an epoch by tiles are within these factors.

    `epoch_ratio`: None where no tile fits the first layer.
    """
    missed = []
    if error_ratio > LARGEST_ERROR_RATIO:
        missed.append("exactness")
    if epoch_ratio is not None and epoch_ratio > LARGEST_EPOCH_RATIO:
        missed.append("an epoch's time")
    if missed:
        return f"missed: {' and '.join(missed)}"
    return "reached" if epoch_ratio is not None else "exactness reached; no epoch by tiles measured"


def judge_guess(published: float, found: float) -> str:
    """Reproduced: to two digits."""
    return "reproduced" if f"{published:.1e}" == f"{found:.1e}" else "not reproduced"


# -- The claims

def list_claims(results: Results) -> list[Claim]:
    return [claim_equal_predictions(results), *claims_equal_training(results),
            claim_augmented_training(results), claim_augmentation(results),
            *claims_low_accuracy(results), claim_computation(results), claim_data(results),
            claim_attack(results), *claims_gazelle(results)]


def unmeasured(claim: str, published: str, command: str) -> Claim:
    return Claim(claim, published, not_measured(command), NOT_MEASURED, "no record",
                 is_measured=False, short="not measured yet")


def claim_equal_predictions(results: Results) -> Claim:
    claim, published = "No accuracy is lost: the features are the same", PUBLISHED_ACCURACY
    record = results.records.get("agreement", {"table": []})
    rows = [row for row in record["table"]
            if row["morph_distribution"] == "uniform" and row["delivery_dtype"] == "float32"]
    if not rows:
        return unmeasured(claim, published, EXPERIMENTS["agreement"])
    source = f"{results.link('agreement')}, `{record['command']}`"
    if any("equal" not in row for row in rows):
        return Claim(claim, published, "the delivery is refused: its features are too inexact "
                     "(κ = 1, uniform core, float32)", "not reproduced", source,
                     short="the delivery is refused: its features are too inexact")
    equal = min(row["equal"] for row in rows)
    images = rows[0]["images"]
    found = write_number("the plain network's own later layers behind Aug-Conv predict the same "
                         "class for {0[0]:,} of {0[1]:,} test images (κ = 1, uniform core, "
                         "float32)", (equal, images))
    short = write_number("{0[0]:,} of {0[1]:,} predictions are equal", (equal, images))
    return Claim(claim, published, found, judge_equal_predictions(equal, images), source,
                 short=short)


def group_by_origin(rows: list[Row]) -> tuple[list[Row], list[Row], list[Row]]:
    """Rows of the paper's setting, of another κ, and of what goes beyond the authors' scripts."""
    papers = [row for row in rows if row.is_papers]
    kappas = [row for row in rows if row.has_papers_blocks and not row.is_papers]
    return papers, kappas, [row for row in rows if not row.has_papers_blocks]


def claims_equal_training(results: Results) -> list[Claim]:
    """One claim for the paper's setting, one for another κ, and one for what goes beyond."""
    claim, published = "No accuracy is lost: training", PUBLISHED_ACCURACY
    comparisons = [one for one in compare_with_partners(results) if one.is_fair]
    groups = []
    for rows in group_by_origin([one.row for one in comparisons]):
        groups.append([one for one in comparisons if one.row in rows])
    papers, kappas, ours = groups
    claims = [unmeasured(claim, published, PAIRS)]
    if papers:
        words = describe_in_short(papers)
        claims = [replace(claim_equal_training(claim, published, papers), short=words)]
    if kappas:
        claims.append(claim_equal_training(f"{claim}, {OTHER_KAPPA}", NOT_PUBLISHED, kappas))
    if ours:
        claims.append(claim_equal_training(f"{claim} (our extension)", NOT_PUBLISHED, ours))
    return claims


def claim_equal_training(claim: str, published: str, comparisons: list[Comparison]) -> Claim:
    found = describe_in_short(comparisons)
    untested = sum(one.test is None for one in comparisons)
    if 0 < untested < len(comparisons):
        found += f". Without a test: {untested} more"
    return Claim(claim, published, found, judge_equal_training(comparisons), EQUALITY)


def describe_in_short(comparisons: list[Comparison]) -> str:
    """Against the fair partners: those of several seeds, if there are any, with what tells their
    settings apart. And how far above the plain networks these are."""
    tested = [one for one in comparisons if one.test is not None]
    shown = tested or comparisons
    common = common_beginning([one.row.setting for one in shown])
    is_one_morphing = len({one.row.morphed for one in shown}) == 1
    words, above_plain = [], []
    for one in shown:
        setting = one.row.setting.removeprefix(f"{common}, ")
        if not is_one_morphing:
            setting = f"{one.row.morphed}, {setting}"
        facts = one.why_untested
        if one.test is not None:
            facts = f"{one.test.interval}, {len(one.differences)} seeds"
        words.append(f"{one.mean:+.2f} points ({facts}) at {setting}")
        if one.above_plain is not None:
            above_plain.append(f"{one.above_plain:+.2f}")
    text = f"against the fair partner {'; '.join(words)}"
    if common:
        text = f"{common}: {text}"
    if above_plain:
        text += (". Against the plain network, whose first layer starts from scratch, "
                 f"{' and '.join(above_plain)}")
    return text


def join_by_setting(cells: list[tuple[str, str]]) -> str:
    """Settings, and what was found there, each setting once."""
    by_setting: dict[str, list[str]] = {}
    for setting, words in cells:
        by_setting.setdefault(setting, []).append(words)
    return ". ".join(f"{setting}: {'; '.join(words)}" for setting, words in by_setting.items())


def claims_low_accuracy(results: Results) -> list[Claim]:
    """One claim for the paper's core, one for other κ, which the authors' scripts have, and one for
    what goes beyond both."""
    rows = [row for row in group_in_rows(results.runs)
            if row.runs["no_ac"] and row.runs["pretrained"]]
    papers, kappas, ours = group_by_origin(rows)
    claim, published = "Without Aug-Conv accuracy is very low", PUBLISHED_LOW_ACCURACY
    claims = [unmeasured(claim, published, CONTROL)]
    if papers:
        measured = claim_low_accuracy(claim, published, papers)
        claims = [replace(measured, verdict=judge_published_low(papers),
                          short=describe_low_accuracy(papers[0], [*kappas, *ours]))]
    if kappas:
        claims.append(claim_low_accuracy(f"Without Aug-Conv, {OTHER_KAPPA}", NOT_PUBLISHED,
                                         kappas))
    if ours:
        claims.append(claim_low_accuracy("Without Aug-Conv, other cores (our extension)",
                                         NOT_PUBLISHED, ours))
    return claims


def claim_low_accuracy(claim: str, published: str, rows: list[Row]) -> Claim:
    cells = []
    for row in rows:
        setting = f"{row.setting} (plain {describe_accuracy(row.runs['pretrained'])})"
        cells.append((setting, f"{row.morphed}: {describe_controls(row)}"))
    return Claim(claim, published, join_by_setting(cells), judge_rows(rows), ACCURACY)


def describe_controls(row: Row) -> str:
    """Such as "15.57% (15.95% standardised)"."""
    words = describe_accuracy(row.runs["no_ac"])
    if row.runs["no_ac_standardised"]:
        words += f" ({describe_accuracy(row.runs['no_ac_standardised'])} standardised)"
    return words


def describe_low_accuracy(row: Row, others: list[Row]) -> str:
    """The row of most training in a few words, and what other cores reach, in any setting."""
    data, settings = row.any_run.data, row.any_run.settings
    plain = describe_accuracy(row.runs["pretrained"])
    words = write_number("{0[0]}; plain network {0[1]} ({0[2]:,} images, {0[3]} epochs)",
                         (describe_controls(row), plain, data["train_images"], settings["epochs"]))
    if others:
        best = [best_control(other) for other in others]
        words += f". Other cores, not published: {write_range(best, '{:.0f}%'.format)}"
    return words


def judge_published_low(rows: list[Row]) -> str:
    """The verdict on the claim of the paper."""
    low = count_low(rows)
    verdict = "reproduced in part"
    if low in (0, len(rows)):
        verdict = "reproduced" if low else "not reproduced"
    return f"{verdict}: {judge_rows(rows)}"


def judge_rows(rows: list[Row]) -> str:
    if len(rows) == 1:
        return "very low" if is_row_very_low(rows[0]) else "not very low"
    return f"very low in {count_low(rows)} of {len(rows)} rows"


def count_low(rows: list[Row]) -> int:
    return sum(is_row_very_low(row) for row in rows)


def is_row_very_low(row: Row) -> bool:
    """By the best accuracy without Aug-Conv and the lowest plain one."""
    plain = min(one.mean for one in summarise(row.runs["pretrained"]))
    return is_very_low(best_control(row), plain, row.any_run.classes)


def best_control(row: Row) -> float:
    """The highest accuracy without Aug-Conv in percent, standardised or not."""
    controls = [*summarise(row.runs["no_ac"]), *summarise(row.runs["no_ac_standardised"])]
    return max(one.mean for one in controls)


def claim_augmented_training(results: Results) -> Claim:
    claim = "No accuracy is lost: training with augmentation (our extension)"
    published = NOT_PUBLISHED
    found = [one for one in list_augmented(results) if one.above_plain is not None]
    if not found:
        return unmeasured(claim, published, f"{TRAINING} and `--augment crop_flip`")
    words = join_by_setting([(one.row.setting, describe_augmented_row(one)) for one in found])
    verdict = judge_augmented([one.above_plain for one in found])
    if all(one.seeds == 1 for one in found):
        verdict += ", by one seed"
    return Claim(claim, published, words, verdict, ACCURACY)


def describe_augmented_row(one: Augmented) -> str:
    words = (f"{one.row.morphed}: {describe_accuracy(one.with_aug_conv)}, "
             f"{one.above_plain:+.2f} points against plain with the same augmentation")
    if one.above_partner is not None:
        words += f", {one.above_partner:+.2f} against the fair partner with it"
    if one.above_not_augmented is None:
        return f"{words}; plain without it is not measured"
    return f"{words}, {one.above_not_augmented:+.2f} against plain without it"


def claim_augmentation(results: Results) -> Claim:
    claim = "Augmented features are exact, and cost little (our extension)"
    if "augmentation" not in results.records:
        return unmeasured(claim, NOT_PUBLISHED, EXPERIMENTS["augmentation"])
    record = results.records["augmentation"]
    delivered = [row for row in record["features"] if not row["refused"]]
    flips = max(row["ratio_of_flips"] for row in delivered)
    crops = max(row["ratio_of_crops"] for row in delivered)
    by_tiles = max((row["ratio"] for row in record["epochs"] if row["tile"]), default=None)
    at_kappa_1 = max(row["ratio"] for row in record["epochs"] if not row["tile"])
    found = (f"relative error at most {flips:.2f} times Aug-Conv's own of flips, {crops:.2f} times "
             f"of crops off the rim; an epoch takes at most {at_kappa_1:.2f} times as long at "
             "κ = 1")
    if by_tiles is not None:
        found += f", {by_tiles:.2f} times by tiles"
    return Claim(claim, NOT_PUBLISHED, found, judge_augmentation(max(flips, crops), by_tiles),
                 f"{results.link('augmentation')}, `{record['command']}`")


def claim_computation(results: Results) -> Claim:
    """The count is a formula's; seconds stand beside it where the speed benchmark has them."""
    made = compute_overheads()
    growth = made.growth
    dense = f"multiply-adds grow by {growth:.1%}"
    sources, epochs = [f"{ANALYSIS}, `make tables`"], find_epochs(results)
    if epochs is not None:
        dense += (f", an epoch takes {epochs.dense:.2f} times as long ({epochs.kept:.2f} times "
                  "once Aug-Conv's output is computed and kept)")
        sources.append(results.link(f"bench/{epochs.bench}"))
    found = (f"one way of counting gives {made.likely_published_overhead:.2%}, our guess at the "
             f"published figure; with the dense Aug-Conv {dense}; with 8×8 tiles (our extension) "
             f"{describe_tiles_computation(results)}")
    return Claim("Computation grows by 9%", "9%", found,
                 judge_overhead(PUBLISHED_COMPUTATION, growth), ", ".join(sources),
                 is_measured=epochs is not None, short=dense)


def describe_tiles_computation(results: Results) -> str:
    """What the computation grows by with 8×8 tiles."""
    words = f"multiply-adds grow by {cost_of_tile(8).growth:.1%}"
    epochs = find_epochs(results)
    return words if epochs is None else f"{words}, an epoch takes {epochs.tiles:.2f} times as long"


def claim_data(results: Results) -> Claim:
    made = compute_overheads()
    times = f"{1 + made.transmission_by_bytes:.1f} times"
    parts = (f"{made.morphed_bytes / made.plain_bytes:.1f} of float32 images and "
             f"{made.aug_conv_bytes / made.plain_bytes:.1f} of Aug-Conv")
    found = (f"a matrix as large as *M*, which is not sent, gives "
             f"{made.published_transmission:.2%}; all that is sent has {times} the bytes of the "
             f"images: {parts}")
    short = f"what is sent has {times} the bytes of the images ({parts})"
    sources = [ANALYSIS]
    delivered = find_delivered(results)
    if delivered is None:
        found += f"; with 8×8 tiles in int8 {not_measured(BENCH)}"
    else:
        found += f"; with 8×8 tiles in int8 (our extension) {delivered.times:.2f} times"
        sources.append(results.link(f"bench/{delivered.bench}"))
    return Claim("Data grow by 5.12%", "5.12%", found,
                 judge_overhead(PUBLISHED_DATA, made.transmission_by_bytes), ", ".join(sources),
                 is_measured=delivered is not None, short=short)


def claim_attack(results: Results) -> Claim:
    claim, published = "An attack succeeds with a chance of 7.9·10⁻⁹⁰", "7.9·10⁻⁹⁰"
    record = results.records.get("attacks")
    if record is None:
        return unmeasured(claim, published, EXPERIMENTS["attacks"])
    known = record["known_first_layer"]
    guess = compute_overheads().order_guess
    found = (f"1/64! = {write_power(guess)} is the chance to guess the order of the channels; "
             f"{describe_known_layer(record)}")
    short = "this attack fails"
    if "psnr" in known:
        short = (f"{record['images']} images come back at {known['psnr']:.0f} dB in "
                 f"{seconds_of_known_layer(record)} s")
    return Claim(claim, published, found, judge_attack(PUBLISHED_CHANCE, guess, known.get("psnr")),
                 f"{results.link('attacks')}, `{record['command']}`", short=short)


def claims_gazelle(results: Results) -> list[Claim]:
    made = compute_overheads()
    sent = seconds = not_measured(EXPERIMENTS["he"])
    source = "no record"
    is_measured = "he" in results.records
    if is_measured:
        record = results.records["he"]
        seconds, sent = describe_encryption(record)
        source = f"{results.link('he')}, `{record['command']}`"
    quotient = write_number("{:,.0f}", made.gazelle_ratio)
    return [
        Claim("GAZELLE costs 421 000 times the data", "421 000×",
              f"1236 MiB over 3072 bytes = {quotient}; {sent}",
              judge_quotient(PUBLISHED_GAZELLE_DATA, made.gazelle_ratio), source, is_measured),
        Claim("GAZELLE costs 10 000 times the computation", "10 000×",
              seconds, "could not be tested: GAZELLE was not run", source, is_measured),
        Claim("An attack on GAZELLE succeeds with a chance of 2.9·10⁻³⁰", "2.9·10⁻³⁰",
              f"2⁻¹²⁸ = {write_power(made.gazelle_guess)}: the exponent looks like a slip of the "
              "pen",
              judge_guess(PUBLISHED_GAZELLE_CHANCE, made.gazelle_guess), ANALYSIS,
              is_measured=False)]


# -- The report

def write_report(results: Results) -> str:
    """REPRODUCTION.md: reproduction.md beside this file with what the records say."""
    template = Template((Path(__file__).parent / "reproduction.md").read_text(encoding="utf-8"))
    return template.substitute(claims=write_claims(list_claims(results)),
                               pictures=show_accuracy(results),
                               measured=describe_measurements(results),
                               not_tried=describe_gaps(results),
                               missing=describe_missing(results),
                               alone=describe_morphed_alone(results), margin=f"{MARGIN:g}",
                               error_ratio=f"{LARGEST_ERROR_RATIO:g}",
                               epoch_ratio=f"{LARGEST_EPOCH_RATIO:g}",
                               recognisable=f"{RECOGNISABLE:.0f}")


WITHOUT_AUG_CONV = (
    "What a network learns from morphed images alone, and what an adversary gets from them:\n\n"
    "![Accuracy without Aug-Conv, and images re-identified, by the side of the core]"
    "(figures/without_aug_conv.png)")


def describe_morphed_alone(results: Results) -> str:
    """What morphed images alone give away at κ = 1, in tables; or the command that measures it."""
    if "attack_matrix" not in results.records:
        return f"Not measured yet: `{EXPERIMENTS['attack_matrix']}`."
    at_kappa_1 = make_public_images(results).first(len(CORES), "[tables.md](tables.md)")
    tables = [at_kappa_1, make_across(results)]
    parts = [table.markdown() for table in tables if table.rows]
    if list_controls(group_in_rows(results.runs)):
        parts.append(WITHOUT_AUG_CONV)
    return "\n\n".join(parts)


def show_accuracy(results: Results) -> str:
    """The picture of all training runs, as Markdown; nothing where there are none."""
    if not results.runs:
        return ""
    return "\n![Test accuracy over the epochs of all training runs](figures/accuracy.png)\n"


def write_short_report(results: Results) -> str:
    """A report on a person's own records: what they say, and in a line what they do not say."""
    claims = list_claims(results)
    measured = [one for one in claims if one.is_measured]
    others = [one for one in claims if not one.is_measured]
    sections = ["# Reproduction of Morphed Learning: your records\n",
                "Made by `python reproduce_tables.py`; every row is in [tables.md](tables.md). The "
                "verdicts' rules\nare in results/REPRODUCTION.md of the project, and "
                "docs/sweeps.md has a sweep that ends in verdicts.\n",
                f"## What was measured\n\n{describe_measurements(results)}\n"]
    if measured:
        sections.append(f"## Results, claim by claim\n\n{write_claims(measured)}\n")
    if others:
        lines = "\n".join(describe_untested(one) for one in others)
        sections.append(f"## Not tested by these records\n\n{lines}\n")
    return "\n".join(sections)


def describe_untested(one: Claim) -> str:
    """A claim that records do not test, and what would, where it is not a formula's."""
    if not one.found.startswith(NOT_YET):
        return f"- {one.claim}"
    return f"- {one.claim}: needs {one.found.removeprefix(NOT_YET)}"


def write_claims(claims: list[Claim]) -> str:
    """The claims as a table in Markdown."""
    rows = [[one.claim, one.published, one.found, one.verdict, one.source] for one in claims]
    header = ["claim", "published", "found here", "verdict", "from"]
    return Table("Claims", header, rows).markdown()


def make_verdict(results: Results) -> Table:
    """The claims in short, for the README."""
    rows = [[one.claim, one.published, one.short, one.verdict]
            for one in list_claims(results) if one.short and one.published != NOT_PUBLISHED]
    rows += list_tiles_verdict(results)
    return Table("Verdict", ["claim", "published", "found here", "verdict"], rows)


def list_tiles_verdict(results: Results) -> list[list[str]]:
    """Rows on our 8×8 tiles, orthogonal and in int8; none where no training with these has several
    seeds."""
    tested = [one for one in compare_with_partners(results)
              if one.is_fair and one.test is not None and one.row.morphing == OUR_TILES]
    if not tested:
        return []
    rows = [[f"{TILES_CLAIM}: training", NOT_PUBLISHED, describe_in_short(tested),
             judge_equal_training(tested)]]
    record = results.records.get("agreement", {"table": []})
    for row in record["table"]:
        is_ours = all(row[name] == OUR_TILES[name]
                      for name in ("tile", "morph_distribution", "delivery_dtype"))
        if is_ours and "equal" in row:
            found = write_number("{0[0]:,} of {0[1]:,} predictions are equal",
                                 (row["equal"], row["images"]))
            verdict = "all equal" if row["equal"] == row["images"] else "not all equal"
            rows.append([f"{TILES_CLAIM}: the features are the same", NOT_PUBLISHED, found,
                         verdict])
    delivered = find_delivered(results)
    if delivered is not None:
        growth = cost_of_tile(8).growth
        found = (f"{describe_tiles_computation(results)}; what is sent has {delivered.times:.2f} "
                 "times the bytes of the images")
        verdict = (f"computation {side_of(growth, PUBLISHED_COMPUTATION)} the published 9%, data "
                   f"{side_of(delivered.times - 1, PUBLISHED_DATA)} the published 5.12%")
        rows.append([f"{TILES_CLAIM}: computation and data", NOT_PUBLISHED, found, verdict])
    return rows


def side_of(found: float, published: float) -> str:
    return "below" if found < published else "above"


def describe_measurements(results: Results) -> str:
    """Data sets, epochs, machines and versions of the code, as the records have them."""
    lines = []
    if results.runs:
        datasets = sorted({title_of_dataset(run.data["dataset"]) for run in results.runs})
        epochs = sorted({run.settings["epochs"] for run in results.runs})
        ways = sorted({describe_optimisation(run.settings) for run in results.runs})
        lines += [f"- Training runs: {len(results.runs)}.",
                  f"- Their data sets: {', '.join(datasets)}.",
                  f"- Their epochs: {', '.join(map(str, epochs))}; the paper's setting has 300.",
                  f"- How they were optimised: {'; '.join(ways)}; the authors' scripts have "
                  f"{AUTHORS_OPTIMISATION}."]
    else:
        lines.append(f"- Training runs: {not_measured(TRAINING)}.")
    if results.validation:
        best = max(results.validation, key=lambda run: run.accuracy)
        tried = sorted({run.settings["lr"] for run in results.validation})
        chosen = f"{best.settings['lr']:g}"
        if best.settings["lr"] == tried[0]:
            chosen += ", the smallest of them"
        lines.append(f"- The best of the learning rates {', '.join(f'{lr:g}' for lr in tried)} on "
                     f"training images that were left out: {chosen}.")
    lines += [f"- Machines: {'; '.join(list_machines(results)) or 'none yet'}.",
              f"- Versions of the code: {', '.join(list_codes(results)) or 'none yet'}."]
    return "\n".join(lines)


def describe_optimisation(settings: dict) -> str:
    """Such as "learning rate 0.01, onecycle, dropout 0.1, float32"."""
    return (f"learning rate {settings['lr']:g}, {settings['schedule']}, dropout "
            f"{settings['dropout']:g}, {settings['precision']}")


def list_machines(results: Results) -> list[str]:
    records = [record for record in results.records.values() if "machine" in record]
    found = {machine_in_words(record) for record in records}
    found |= {describe_machine(run.machine) for run in results.runs}
    return sorted(found)


def list_codes(results: Results) -> list[str]:
    found = {record["code"] for record in results.records.values() if "code" in record}
    return sorted(found | {run.code for run in results.runs})


def describe_missing(results: Results) -> str:
    """The chapters of commands.txt with commands that no record has."""
    records = [*results.records.values(), *results.demo]
    made = {record["command"] for record in records if record.get("complete", True)}
    made |= {run.command for run in [*results.runs, *results.validation]}
    chapters = list_chapters_left(made)
    if not chapters:
        return "All of them have a record."
    lines = "\n".join(f"- {chapter}" for chapter in chapters)
    return ("These chapters of the list have commands without a record here: they were not run "
            f"yet, or with other options.\n\n{lines}")


def describe_gaps(results: Results) -> str:
    """What of the paper's setting no record has."""
    gaps = []
    runs = results.runs
    if not any(run.settings["epochs"] >= 300 for run in runs):
        gaps.append("- the paper's 300 epochs")
    vgg16_seeds = {run.seed for run in runs if run.settings["model"] == "vgg16"}
    if len(vgg16_seeds) < 2:
        gaps.append("- VGG-16 with several seeds" if vgg16_seeds else "- training VGG-16")
    for name in ("cifar10", "cifar100"):
        if not any(run.data["dataset"] == name for run in runs):
            gaps.append(f"- training on {title_of_dataset(name)}")
    if not any(run.machine["cuda"] for run in runs):
        gaps.append("- training on a GPU")
    return "\n".join([*gaps, "- asking the authors"])
