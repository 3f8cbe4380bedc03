"""The paper's tables: the published figures, what the committed results make, and missing runs."""

import copy
import json
import re

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import reproduce_tables
from experiments import kappa
from experiments.tables import formulas, measured, paper, runs
from experiments.tables.tables import Table, formatted, table
from models.vgg import GROUPS, VGG
from mole.morphing import compose_aug_conv, morph
from tests.steps import ROOT, TINY, run
from utils.provenance import result_name
from utils.settings import parse

RECORDS = reproduce_tables.read_results(ROOT / "results")
RUNS = RECORDS["accuracy"]


def cells(made: Table) -> str:
    return "\n".join(" | ".join(row) for row in made.rows)


def a_run(name: str, accuracy: float, seed: int = 0, **provenance) -> dict:
    """A run like the paper's among the committed ones, with some of its provenance changed."""
    found = copy.deepcopy(next(
        run for run in RUNS if run["run"] == name and run["provenance"]["model"] == "vgg11"
        and run["provenance"].get("kappa", 1) == 1))
    found["provenance"] |= {"run": name} | provenance
    return found | {"run": name, "accuracy": accuracy, "seed": seed}


def test_published_figures():
    text = cells(paper.paper(RECORDS))
    for figure in ("7.9e-90", "3072/60000 = 5.12%", "421 888×", "= 9.04%", "63.7%", "109%",
                   "737% more", "2.9e-39"):
        assert figure in text


def test_every_published_figure_has_a_row():
    rows = paper.paper(RECORDS).rows
    published = [row[1] for row in rows]
    for figure in ("“close to pretrain”", "“very low”", "9%", "5.12%", "7.9·10⁻⁹⁰", "10 000×",
                   "421 000×", "2.9·10⁻³⁰"):
        assert published.count(figure) == 1
    assert all("could not be derived" in row[2] for row in rows
               if row[1] in ("10 000×", "2.9·10⁻³⁰"))


def counted(action) -> int:
    """Multiply-adds, as torch counts what an action does."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("model", GROUPS)
@pytest.mark.parametrize("classes, side", [(10, 32), (100, 20)])
def test_closed_form_of_multiply_adds(model, classes, side):
    network = VGG(model, classes, side=side).eval()
    assert counted(lambda: network(torch.zeros(1, 3, side, side))) == formulas.vgg_macs(
        model, classes, side=side)


def test_morphing_is_counted_as_torch_counts_it():
    assert counted(lambda: morph(torch.zeros(1, 48), torch.zeros(12, 12))) == (
        formulas.morphing_macs(48, 4))


@pytest.mark.parametrize("tile, shape", [(8, (3, 32, 32)), (4, (1, 12, 12)), (12, (3, 12, 12))])
def test_entries_are_those_of_aug_conv(tile, shape):
    layer, alpha = nn.Conv2d(shape[0], 5, 3, padding=1), shape[0]
    core, dense = torch.eye(alpha * tile * tile), tile == shape[1]
    made = compose_aug_conv(layer, core, shape, torch.arange(5), 0 if dense else tile)["weight"]
    assert made.numel() == formulas.aug_conv_entries(alpha, shape[1], 5, tile)


@pytest.mark.parametrize("tile, macs, of_network, megabytes, of_data", [
    (32, "201.3", "64.3%", "805.3", "436.9%"), (16, "63.7", "20.3%", "63.7", "34.6%"),
    (8, "19.7", "6.3%", "4.9", "2.7%"), (4, "7.1", "2.3%", "0.4", "0.2%")])
def test_costs_of_tiles(tile, macs, of_network, megabytes, of_data):
    costs = paper.tile_costs(tile)
    assert f"{costs['macs'] / 1e6:.1f}" == macs
    assert f"{costs['bytes'] / 1e6:.1f}" == megabytes
    assert f"{costs['share_of_network']:.1%}" == of_network
    assert f"{costs['share_of_data']:.1%}" == of_data


def test_memory_of_tiles_does_not_grow_with_the_image():
    assert paper.tile_costs(8, 224)["bytes"] == paper.tile_costs(8, 32)["bytes"]
    assert paper.tile_costs(64, 64)["bytes"] == 16 * paper.tile_costs(32, 32)["bytes"]


@pytest.mark.parametrize("q, kappa, pairs", [(3072, 1, 3072), (1024, 3, 342), (192, 16, 12)])
def test_pairs_that_determine_the_core(q, kappa, pairs):
    assert formulas.pairs_needed(q, kappa) == pairs


def test_equivalence_of_paired_differences():
    """TOST at 5% and the 90% interval agree; the interval is mean ± t(0.95)·s/√n."""
    close, far = [0.2, -0.1, 0.4, 0.1, 0.0], [0.9, 1.4, -0.4, 2.0, 0.1]
    found = formulas.equivalence(close, margin=1)
    assert found["replicated"] and found["p_of_tost"] < 0.05
    half = 2.1318 * 0.19235 / 5 ** 0.5
    assert found["low"] == pytest.approx(0.12 - half, abs=1e-3)
    assert found["high"] == pytest.approx(0.12 + half, abs=1e-3)
    found = formulas.equivalence(far, margin=1)
    assert not found["replicated"] and found["high"] > 1


def test_equality_is_tested_on_pairs_of_one_seed():
    pairs = [a_run("with_ac", 0.70 + 0.001 * seed, seed) for seed in range(5)]
    pairs += [a_run("pretrained_frozen", 0.70, seed, weight_decay=5e-7) for seed in range(1, 5)]
    pairs.append(a_run("with_ac", 0.1, 1, lr=0.5))       # another setting: no partner
    [row] = runs.equality({"accuracy": pairs}).rows
    assert row[3] == "+0.10, +0.20, +0.30, +0.40" and row[4] == "+0.25" and row[-1] == "yes"
    assert not runs.equality({"accuracy": pairs[:5]}).rows         # no partner at all
    one = runs.equality({"accuracy": [pairs[1], pairs[5]]}).rows[0]
    assert one[4] == "+0.10" and one[5:] == ["—"] * 4


def test_names_of_results():
    tiles = a_run("with_ac", 0.5, 3, kappa=None, tile=8, morph_distribution="orthogonal",
                  delivery_dtype="int8", dataset="My data (new)")
    assert re.fullmatch(r"my-data-new-vgg\d+-n\d+-e\d-with_ac-s8-orthogonal-int8-[0-9a-f]{8}"
                        r"-seed3\.json", result_name(tiles))
    other = tiles["provenance"] | {"momentum": 0.8}
    assert result_name(tiles | {"provenance": other}) != result_name(tiles)
    assert result_name(tiles | {"provenance": dict(reversed(other.items()))}) == result_name(
        tiles | {"provenance": other})


def test_keys_of_results_are_snake_case():
    def keys(of):
        for key, value in of.items() if isinstance(of, dict) else enumerate(of):
            yield from [key] if isinstance(key, str) else []
            yield from keys(value) if isinstance(value, dict | list) else []

    assert [key for key in keys(RECORDS) if not re.fullmatch("[a-z0-9]+(_[a-z0-9]+)*", key)] == []


def test_nothing_measured_yet(tmp_path):
    result = run("reproduce_tables.py", "--results_dir", tmp_path / "new", "--data_dir",
                 tmp_path / "data")
    assert result.status == 0, result.err
    text = (tmp_path / "new" / "tables.md").read_text()
    for command in ("`make bench`", "`make stress`", "`make tables-he`",
                    "`python attack.py --score --results_dir results`",
                    "`python -m experiments.kappa`", "`python -m tests.inputs`",
                    "`python -m experiments.agreement`",
                    "the training scripts with `--results_dir results/accuracy`"):
        assert f"\nNot measured yet: {command}.\n" in text
    assert "7.9e-90" in text and "19 660 800 = 6.3%" in text
    report = (tmp_path / "new" / "REPRODUCTION.md").read_text()
    claims = [line.split("|") for line in re.findall(r"^\| (?!claim|---).*", report, re.M)]
    assert [claim[1].strip() for claim in claims if claim[4].strip() != "not measured"] == [
        "Computation grows by 9%", "GAZELLE is broken with 2.9·10⁻³⁰"]      # from formulas alone


def test_damaged_result(tmp_path):
    (tmp_path / "bench.json").write_text("{")
    result = run("reproduce_tables.py", "--results_dir", tmp_path, "--data_dir", tmp_path / "data")
    assert result.status == 1 and "bench.json is not JSON" in result.message
    assert result.message.count("\n") == 0


def test_missing_run_tells_its_command_and_seeds_their_deviation():
    [row] = runs.accuracy({"accuracy": [a_run("pretrained", 0.5), a_run("pretrained", 0.52, 9),
                                        a_run("pretrained", 0.54, 9)]}).rows
    assert row[2] == "51.50 ± 2.12%, 2 seeds"            # the runs of one seed count as one
    assert row[3:] == [f"not run: `python {script} …`" for script in (
        "pretrain.py --frozen_first_layer", "train_with_ac.py", "train_no_ac.py",
        "train_no_ac.py --standardise")]


@pytest.mark.parametrize("key, value", [
    ("image_size", 64), ("decay_epochs", 60), ("precision", "float32"), ("batch_size", 7),
    ("kappa", 3), ("morph_distribution", "normal"), ("image_padding", 1), ("tile", 8),
    ("delivery_dtype", "int8"), ("shuffle_channels", False)])
def test_unlike_runs_do_not_share_a_mean(key, value):
    one, other = a_run("with_ac", 0.5), a_run("with_ac", 0.6, 1, **{key: value})
    rows = runs.accuracy({"accuracy": [one, other]}).rows
    assert len(rows) == 2 and len({tuple(row[:2]) for row in rows}) == 2
    assert {row[4] for row in rows} == {"50.00%", "60.00%"}


def test_unlike_weight_decays_are_told_apart():
    both = [a_run("with_ac", 0.5), a_run("with_ac", 0.6, 1, weight_decay=0.01)]
    [row] = runs.accuracy({"accuracy": both}).rows
    assert row[4] == "50.00%, weight decay 5e-07; 60.00%, weight decay 0.01"


def test_plain_runs_stand_beside_each_way_of_morphing():
    found = runs.accuracy({"accuracy": [a_run("pretrained", 0.7), a_run("with_ac", 0.5),
                                        a_run("with_ac", 0.6, kappa=None, tile=8)]}).rows
    assert [(row[1], row[2], row[4]) for row in found] == [
        ("κ = 1, uniform", "70.00%", "50.00%"), ("s = 8, uniform", "70.00%", "60.00%")]


def test_readme_has_six_rows_of_accuracies_at_most():
    many = [a_run("with_ac", 0.5, lr=lr) for lr in range(1, 9)]
    whole = runs.accuracy({"accuracy": many})
    assert len(whole.rows) == 8 and len(whole.short.rows) == 6


def test_agreement_and_inputs():
    made = measured.agreement({"agreement": {
        "command": "python x.py", "machine": {"cores": 2, "processor": "A", "cuda": []},
        "table": [{"morph_distribution": "orthogonal", "kappa": None, "tile": 8,
                   "delivery_dtype": "int8", "equal": 9990, "images": 10000}]}})
    assert made.rows == [["orthogonal", "—", "8", "int8", "9 990", "10 000"]]
    assert made.note == "`python x.py` on 2 cores of A."
    assert measured.inputs({"inputs": {"cases": 90, "right_pixels": 60, "refused_in_one_line": 30}}
                           ).rows == [["90", "60", "30"]]


def test_table_of_records():
    made = table("t", [{"psnr": 3.14, "deep": {"ssim": 0.5}, "met": True}, {"psnr": 12345.0}],
                 "psnr deep.ssim met")
    assert made.header == ["PSNR", "deep SSIM", "met"]
    assert made.rows == [["3.1 dB", "0.500", "yes"], ["12345.0 dB", "—", "—"]]
    assert formatted("{n:,} of {m[k]}", {"n": 10000, "m": {"k": 1}}) == "10 000 of 1"
    assert formatted("{n:,} of {m[k]}", {"n": 10000, "m": {}}) == "—"


def test_latex_is_escaped():
    made = Table("50% & more", ["a_b", "κ"], [["`make x_y`", "10⁻³ × 2"]], "a note #1")
    assert made.latex().splitlines() == [
        r"\begin{table}\caption{50\% \& more}\small", r"\begin{tabularx}{\textwidth}{lX}",
        r"\toprule", r"a\_b & κ \\", r"\midrule", r"\texttt{make x\_y} & 10⁻³ × 2 \\",
        r"\bottomrule", r"\end{tabularx}", r"\par a note \#1", r"\end{table}"]


def test_every_row_is_as_wide_as_its_header_and_nothing_measured_is_missing():
    made = reproduce_tables.made_tables(RECORDS)
    for name, one in made.items():
        for row in one.rows:
            assert len(row) == len(one.header), name
            assert not any("|" in cell for cell in row), name
    for name in ("he", "stress"):
        assert "—" not in cells(made[name]) + made[name].note, name


def test_measuring_the_kappa_sweep(at, tmp_path):
    kappa.main(parse("", [*TINY, "--data_dir", str(at("end")), "--results_dir",
                          str(tmp_path / "out")]))
    sweep = json.loads((tmp_path / "out" / "kappa.json").read_text())["sweep"]
    assert [point["q"] for point in sweep] == [192, 64, 16, 4, 1]
    assert all(point["error_of_the_features"] < 1e-2 for point in sweep)
    assert sweep[0]["ssim"] < 0.5 < sweep[-1]["ssim"]
    assert (tmp_path / "out" / "figures" / "kappa.png").stat().st_size > 1000
