"""The paper's tables: the published figures, what the committed results make, and missing runs."""

import copy
import json
import math
import re
import shutil

import pytest
import torch

import reproduce_tables
from models.vgg import GROUPS, VGG
from tests.steps import ROOT, TINY, run
from utils import analysis, result_tables
from utils.tables import Table, filled

RUNS, RECORDS = reproduce_tables.read_results(ROOT / "results")


def cells(table: Table) -> str:
    return "\n".join(" | ".join(row) for row in table.rows)


def test_published_figures():
    assert analysis.power_of_ten(analysis.log10_order_guess(64)) == "7.9e-90"
    assert f"{analysis.transmission_by_paper(3072, 3072, 60_000):.2%}" == "5.12%"
    assert f"{analysis.likely_published_macs(3, 32, 3, 32) / 313_201_664:.2%}" == "9.04%"
    text = cells(result_tables.paper_table(RUNS, RECORDS))
    for figure in ("7.9e-90", "3072/60000 = 5.12%", "421 888×", "9.04%", "63.7%", "109%",
                   "737% more", "2.9e-39"):
        assert figure in text


def test_every_published_figure_has_a_row():
    published = [row[1] for row in result_tables.paper_table(RUNS, RECORDS).rows]
    for figure in ("“close to pretrain”", "“very low”", "9%", "5.12%", "7.9·10⁻⁹⁰", "10 000×",
                   "421 000×", "2.9·10⁻³⁰"):
        assert published.count(figure) == 1
    underived = [row for row in result_tables.paper_table(RUNS, RECORDS).rows
                 if row[1] in ("10 000×", "2.9·10⁻³⁰")]
    assert all("could not be derived" in row[2] for row in underived)


@pytest.mark.parametrize("model", GROUPS)
@pytest.mark.parametrize("classes, side", [(10, 32), (100, 20)])
def test_closed_form_of_multiply_adds(model, classes, side):
    network = VGG(model, classes, side=side)
    counted = analysis.network_macs(network, (3, side, side))
    assert counted == analysis.vgg_macs(model, classes, side=side)


def test_aug_conv_and_morphing_are_counted_as_torch_counts_them():
    from torch.utils.flop_counter import FlopCounterMode

    from models.aug_conv import AugConv
    from utils.morphing import morph
    with FlopCounterMode(display=False) as counter:
        AugConv(torch.zeros(48, 5 * 16), (5, 4, 4))(torch.zeros(1, 48))
    assert counter.get_total_flops() == 2 * analysis.aug_conv_macs(48, 80)
    with FlopCounterMode(display=False) as counter:
        morph(torch.zeros(1, 48), torch.zeros(12, 12))
    assert counter.get_total_flops() == 2 * analysis.morphing_macs(48, 4)


@pytest.mark.parametrize("tolerance", [0.03, 0.5, 1])
def test_chance_to_guess_an_entry(tolerance):
    grid = (torch.arange(2000) + 0.5) / 2000
    hit = ((grid[:, None] - grid).abs() <= tolerance * grid).double().mean()
    assert 10 ** analysis.log10_core_guess(1, tolerance) == pytest.approx(float(hit), rel=5e-3)
    assert analysis.log10_core_guess(7, tolerance) == pytest.approx(
        49 * analysis.log10_core_guess(1, tolerance))


@pytest.mark.parametrize("tolerance", [0, -1, 1.5, math.nan])
def test_impossible_tolerance(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        analysis.log10_core_guess(4, tolerance)


@pytest.mark.parametrize("q, kappa, pairs", [(3072, 1, 3072), (1024, 3, 342), (16, 192, 1)])
def test_pairs_that_determine_the_core(q, kappa, pairs):
    assert analysis.pairs_needed(q, kappa) == pairs


@pytest.mark.parametrize("log10, text", [(0, "1.0e+00"), (-2, "1.0e-02"), (-0.0001, "1.0e+00"),
                                         (5.477, "3.0e+05"), (-89.1034, "7.9e-90")])
def test_power_of_ten(log10, text):
    assert analysis.power_of_ten(log10) == text


def test_committed_tables_are_those_of_the_committed_results(tmp_path):
    """results/ and the README hold what the command makes of the JSON files, and nothing typed."""
    shutil.copytree(ROOT / "results", tmp_path / "results")
    for name in ("tables.md", "tables.tex", "analysis.json"):
        (tmp_path / "results" / name).unlink()
    result = run("reproduce_tables.py", "--results_dir", tmp_path / "results",
                 "--data_dir", tmp_path / "data")
    assert result.status == 0, result.err
    for name in ("tables.md", "tables.tex", "analysis.json"):
        assert (tmp_path / "results" / name).read_text() == (ROOT / "results" / name).read_text()
    readme = (ROOT / "README.md").read_text()
    tables = reproduce_tables.made_tables(RUNS, RECORDS)
    assert filled(readme, {name: table.markdown() for name, table in tables.items()}) == readme
    assert tables.keys() == set(re.findall(r"<!-- (\w+) -->", readme))


def test_nothing_measured_yet(tmp_path):
    result = run("reproduce_tables.py", "--results_dir", tmp_path / "new", "--data_dir",
                 tmp_path / "data")
    assert result.status == 0, result.err
    text = (tmp_path / "new" / "tables.md").read_text()
    for command in ("`make bench`", "`python attack.py --score`", "`make stress`",
                    "`make tables-he`", "`python reproduce_tables.py --measure`",
                    "the training scripts with `--results_dir results/accuracy`"):
        assert f"\nNot measured yet: {command}.\n" in text
    assert "7.9e-90" in text


def test_damaged_result(tmp_path):
    (tmp_path / "bench.json").write_text("{")
    result = run("reproduce_tables.py", "--results_dir", tmp_path, "--data_dir", tmp_path / "data")
    assert result.status == 1 and "bench.json is not JSON" in result.message
    assert result.message.count("\n") == 0


def test_missing_run_tells_its_command_and_seeds_their_spread():
    plain = next(r for r in RUNS if r["run"] == "pretrained")
    other = copy.deepcopy(plain) | {"accuracy": plain["accuracy"] + 0.02, "seed": 9}
    [row] = result_tables.accuracy_table([plain, other]).rows
    assert f"{100 * plain['accuracy'] + 1:.2f} ± 1.41%, 2 seeds" in row[1]
    assert row[2:] == [f"not run: `python {script} …`" for script in (
        "train_with_ac.py", "train_no_ac.py", "train_no_ac.py --standardise")]


def test_other_settings_stay_out_of_the_accuracy_tables_rows():
    run_at_3 = copy.deepcopy(next(r for r in RUNS if r["run"] == "with_ac"))
    before = result_tables.accuracy_table(RUNS)
    run_at_3["accuracy"] = 0.123
    for key, value in (("kappa", 3), ("morph_distribution", "normal"), ("image_padding", 1)):
        other = copy.deepcopy(run_at_3)
        other["data"][key] = value
        assert result_tables.accuracy_table([*RUNS, other]) == before
    other = copy.deepcopy(run_at_3)
    other["parameters"]["lr"] = 0.5                      # a row of its own
    assert len(result_tables.accuracy_table([*RUNS, other]).rows) == len(before.rows) + 1


def test_latex_is_escaped():
    table = Table("50% & more", ["a_b", "κ"], [["`make x_y`", "10⁻³ × **2**"]], "a note #1")
    assert table.latex().splitlines() == [
        r"\begin{table}", r"\caption{50\% \& more}", r"\small",
        r"\begin{tabularx}{\textwidth}{lX}", r"\toprule", r"a\_b & $\kappa$ \\", r"\midrule",
        r"\texttt{make x\_y} & 10$^{-3}$ $\times$ \textbf{2} \\", r"\bottomrule",
        r"\end{tabularx}", r"\par\smallskip a note \#1", r"\end{table}"]


def test_every_row_is_as_wide_as_its_header():
    for name, table in reproduce_tables.made_tables(RUNS, RECORDS).items():
        for row in table.rows:
            assert len(row) == len(table.header), name
            assert not any("|" in cell for cell in row), name


def test_measuring_the_kappa_sweep(at, tmp_path):
    data = at("end")
    result = run("reproduce_tables.py", "--measure", *TINY, "--data_dir", data, "--results_dir",
                 tmp_path / "out")
    assert result.status == 0, result.err
    sweep = json.loads((tmp_path / "out" / "kappa.json").read_text())["sweep"]
    assert [point["q"] for point in sweep] == [192, 64, 16, 4, 1]
    assert all(point["error of the features"] < 1e-2 for point in sweep)
    assert sweep[0]["ssim"] < 0.5 < sweep[-1]["ssim"]
    weighed = json.loads((tmp_path / "out" / "delivery.json").read_text())
    sizes = [(data / "delivery" / f"morphed_{split}.pt").stat().st_size
             for split in ("train", "test")]
    assert weighed["morphed"] == sum(sizes) and weighed["images"] == 96
    assert (tmp_path / "out" / "figures" / "kappa.png").stat().st_size > 1000
