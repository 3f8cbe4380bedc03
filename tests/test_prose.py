"""The committed pages say what the committed results say."""

import json
import re
import shutil

import reproduce_tables
from experiments.tables import paper
from experiments.tables.tables import filled, formatted
from tests.steps import ROOT, run
from tests.test_tables import RECORDS, RUNS
from utils.provenance import result_name


def test_committed_tables_are_those_of_the_committed_results(tmp_path):
    """results/ and the README hold what the command makes of the JSON files, and nothing typed."""
    shutil.copytree(ROOT / "results", tmp_path / "results")
    for name in ("REPRODUCTION.md", "tables.md", "tables.tex", "analysis.json"):
        (tmp_path / "results" / name).unlink()
    result = run("reproduce_tables.py", "--results_dir", tmp_path / "results",
                 "--data_dir", tmp_path / "data")
    assert result.status == 0, result.err
    for name in ("REPRODUCTION.md", "tables.md", "tables.tex", "analysis.json"):
        assert (tmp_path / "results" / name).read_text() == (ROOT / "results" / name).read_text()
    readme = (ROOT / "README.md").read_text()
    assert filled(readme, reproduce_tables.made_tables(RECORDS)) == readme
    assert set(re.findall(r"<!-- (\w+) -->", readme)) == {"accuracy", "matrix"}


SENTENCES = {                       # figures in prose, by page
    "README.md": """
plain network:          {demo[pretrained][accuracy]:.2%}
with Aug-Conv:          {demo[with_ac][accuracy]:.2%}
without Aug-Conv:       {demo[no_ac][accuracy]:.2%}
for {same[0]:,} of {same[0]:,} test images in float32
for {same[1]:,} in float16 and, at κ = 1, for {same[2]:,} in int8
{inputs[cases]} kinds of files and folders
published {likely_published_overhead:.0%} of computation
that of Aug-Conv, {tile[32][share_of_network]:.1%} of VGG-16's
{published_transmission:.2%} of data
not the one handed over, {tile[32][share_of_data]:.0%} of the data set's bytes
it is {tile[8][share_of_network]:.1%} and {tile[8][share_of_data]:.1%}
takes {he[seconds_over_mole]:.0f} times MoLe's time and {he[bytes_over_mole]:.0f} times its bytes
on {bench_on}: composing Aug-Conv {bench[composing][ratio]:.0f} times as fast
morphing {bench[morphing][ratio]:.1f} times at κ = 1 and {bench[morphing_tiles][ratio]:.0f} times
training VGG-16 {bench[plain][ratio]:.1f} times plain
behind Aug-Conv {bench[with_ac][ratio]:.1f} times with its output kept
{bench[with_ac_not_kept][ratio]:.1f} times without
epoch takes {bench[epoch_not_kept][ratio]:.1f} times a plain one at κ = 1""",
    "ARTIFACTS.md": """
{stress_cases:,} kills, interrupts, full disks""",
    "attacks/README.md": """
images give {convnext_tiny[blind][psnr]:.0f} dB at patches of 4 and {vit_b_16[blind][psnr]:.0f} dB
{int8[known_first_layer][psnr]:.0f} dB from int8
of 1000, {of[0_1000][data_only][reidentified]:.0%} are re-identified
of 3000 only {of[0_3000][data_only][reidentified]:.0%}
of 100, {of[0_100][data_only][reidentified]:.0%})
(all of 100, at {of[8_100][data_only][psnr]:.0f} dB)"""}


def test_figures_in_prose_are_those_of_the_records():
    values, attacked = paper.values_of(RECORDS), RECORDS["attack_matrix"]["table"]
    equal = {kind: {row["equal"] for row in RECORDS["agreement"]["table"]
                    if (row["delivery_dtype"], row["tile"]) in kind}
             for kind in ((("float32", 0), ("float32", 8)), (("float16", 0),), (("int8", 0),))}
    values |= {
        "demo": {path.stem: json.loads(path.read_text())
                 for path in (ROOT / "results" / "demo").glob("*.json")},
        "tile": {tile["tile"]: tile for tile in values["tiles"]},
        "same": [one for [one] in equal.values()],                  # whatever core and tile
        "bench_on": formatted("{on}", RECORDS["bench"]),
        "stress_cases": sum(row["cases"] for row in RECORDS["stress"]["table"]),
        "int8": next(row for row in attacked if row["dataset"] == "clothing"
                     and row["delivery_dtype"] == "int8"),
        "of": {"{tile}_{private}".format_map(row): row for row in attacked if "data_only" in row
               and row["morph_distribution"] == "orthogonal" and row["kappa"] in (1, None)}}
    values |= {row["model"]: row for row in attacked if row["private"] == 10_000}
    for page, sentences in SENTENCES.items():
        text = " ".join((ROOT / page).read_text().split())
        for sentence in sentences.strip().splitlines():
            figures = formatted(sentence, values)
            assert figures != "—", f"a record lacks a figure of: {sentence}"
            assert " ".join(figures.split()) in text


def test_committed_runs_bear_the_name_of_their_provenance():
    names = {path.name for path in (ROOT / "results" / "accuracy").iterdir()}
    assert names == {result_name(run) for run in RUNS}
