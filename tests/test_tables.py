"""Tables, figures and the report: what they make of records, and of folders that people have."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import reproduce_tables
from experiments.tables import (
    accuracy,
    augmentation,
    claims,
    equality,
    figures,
    formulas,
    marks,
    measured,
    published,
)
from experiments.tables.reading import Results, read_results
from experiments.tables.rows import common_beginning, group_in_rows
from experiments.tables.table import Column, Table, table_of_records, write_power
from models.vgg import GROUPS, VGG
from mole import AugConv, morph
from tests.records import (
    KAPPA_1,
    TILES_8,
    results_of,
    sweep_records,
    training_record,
    training_run,
    write_records,
)
from tests.steps import ROOT
from utils.attack_reports import share_found
from utils.errors import UserError

FIXTURES = ROOT / "tests" / "fixtures"
PNG = b"\x89PNG"


def reproduce(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce_tables.py", *map(str, words)])
    reproduce_tables.main()


def files_of(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def records(tmp_path):
    """A folder as --results_dir DIR/accuracy leaves it."""
    write_records(tmp_path / "mine" / "accuracy", sweep_records())
    return tmp_path / "mine"


# -- What people give it

@pytest.mark.parametrize("given", ["DIR", "DIR/accuracy", "a flat folder", "several folders"])
def test_folders_that_people_have(records, tmp_path, monkeypatch, given):
    """The same runs come out, the inputs stay as they are, and all can be done again."""
    shutil.copytree(records / "accuracy", tmp_path / "flat")
    words = {"DIR": [records], "DIR/accuracy": [records / "accuracy"],
             "a flat folder": ["--results_dir", tmp_path / "flat"],
             "several folders": [records, records / "accuracy"]}[given]
    inputs = files_of(tmp_path)
    output = words[-1 if given == "a flat folder" else 0] / "tables"
    reproduce(monkeypatch, *words)
    tables = (output / "tables.md").read_text()
    assert "64.50 ± 0.71%, 2 seeds" in tables and "κ = 1, uniform" in tables
    made = {path: content for path, content in files_of(tmp_path).items() if path not in inputs}
    assert all(path.is_relative_to(output) for path in made)
    assert all(path.read_bytes() == content for path, content in inputs.items())
    reproduce(monkeypatch, records)                 # what was written is not read as a record
    assert (records / "tables" / "tables.md").read_text() == tables


def test_a_folder_may_have_any_name(records):
    """validation/ has a meaning of its own only inside a folder that was given."""
    folder = shutil.copytree(records / "accuracy", records.parent / "validation")
    assert len(read_results([folder]).runs) == 10
    shutil.copytree(records / "accuracy", records / "validation")
    assert len(read_results([records]).validation) == 10


ATTACKS = {"command": "python attack.py", "images": 4,
           "machine": {"processor": "A", "cores": 2, "cuda": []},
           "data": {"morphing": KAPPA_1, "dataset": "cifar10", "channels": 3, "image_size": 32},
           "known_first_layer": {"channels": 64, "failed": "no order", "seconds": 1.0},
           "blind": {"failed": "no lattice", "seconds": 1.0}, "data_only": {"failed": "too few"}}


def test_an_attack_without_scores_is_told_and_left_out(records, monkeypatch, capsys):
    (records / "attacks.json").write_text(json.dumps(ATTACKS))
    reproduce(monkeypatch, records)
    assert "attacks.json has no scores: not used; run attack.py with --score" in (
        capsys.readouterr().err)
    assert "own delivery: `python attack.py" in (records / "tables/tables.md").read_text()


def test_attacks_that_fail_say_why_in_every_table(records, monkeypatch):
    pairs = [{"pairs": 20, "least": 20, "psnr": 50.0, "ssim": 1.0, "exact": 1.0, "seconds": 1.0}]
    (records / "attacks.json").write_text(json.dumps(ATTACKS | {"known_pairs": pairs}))
    row = {"name": "x", "dataset": "cifar10", "image_size": 32, "model": "vgg11", "kappa": 1,
           "tile": 0, "morph_distribution": "normal", "delivery_dtype": "float32",
           "private": 10_000, "public": 50_000, "weights": "trained", "first_layer": "3→64, 3×3",
           "seconds": 1.0}
    row |= {name: ATTACKS[name] for name in ("known_first_layer", "blind", "data_only")}
    matrix = {"command": "make attack-matrix", "machine": ATTACKS["machine"], "table": [row]}
    (records / "attack_matrix.json").write_text(json.dumps(matrix))
    reproduce(monkeypatch, records)
    text = (records / "tables" / "tables.md").read_text()
    for title in ("Attacks on the project's own", "The attacks over first", "What an adversary"):
        section = text.partition(f"## {title}")[2].partition("## ")[0]
        for reason in ("no order", "no lattice", "too few"):
            assert f"fails: {reason}" in section, title
    assert "not found" in text.partition("## The attacks over first")[2]
    report = (records / "tables" / "REPRODUCTION.md").read_text()
    assert "this attack fails: no order" in report


def attacked(share: float, **more) -> dict:
    """A report of an attack on morphed images alone."""
    return {"psnr": 20.0, "ssim": 0.5, "reidentified": share, "public_images": 50_000,
            "starts": 40, "agreeing": 9, "seconds": 60.0, "mean_image": {"psnr": 12.0}} | more


def matrix_row(**more) -> dict:
    """A row of the matrix of attacks, with κ = 1."""
    return {"dataset": "cifar10", "image_size": 32, "model": "vgg11", "kappa": 1, "tile": 0,
            "morph_distribution": "uniform", "delivery_dtype": "float32", "private": 10_000,
            "seed": 0, "public": 50_000, "weights": "trained", "first_layer": "3→64, 3×3",
            "seconds": 1.0} | more


def results_of_matrix(*rows: dict) -> Results:
    record = {"command": "make attack-matrix", "machine": ATTACKS["machine"], "table": list(rows)}
    return Results(records={"attack_matrix": record})


FEW = attacked(0.98, public_images=1000)
MIRRORED = attacked(0.003, reidentified_mirrored=0.96, public_dataset="cifar100")
NOISE = attacked(0.143, reidentified_mirrored=0.19)      # a few more by chance: nothing came back


@pytest.mark.parametrize("report, words", [
    (None, "not played"), (attacked(0.999), "20.0 dB, 99.9%"), (attacked(1.0), "20.0 dB, 100.0%"),
    (attacked(0.9997), "20.0 dB, 99.9%"), (attacked(0.9768000245), "20.0 dB, 97.6%"),
    (NOISE, "20.0 dB, 14.3%"),
    (attacked(0.9, reidentified_mirrored=0.1), "20.0 dB, 90.0%"),
    (MIRRORED, "96.0% as mirror images"), ({"failed": "too few"}, "fails: too few"),
    (attacked(0.02, failed="…"), "20.0 dB, 2.0% (failed by its own account)")])
def test_cells_say_what_came_back_from_morphed_images_alone(report, words):
    assert measured.describe_alone(report) == words


@pytest.mark.parametrize("report, words", [
    (None, "not played"), (attacked(0.999), "20.0 dB"), ({"failed": "too few"}, "fails: too few"),
    (MIRRORED, "mirror images"), (NOISE, "20.0 dB"),
    (attacked(0.02, failed="…"), "20.0 dB (failed by its own account)")])
def test_a_failed_answer_and_mirror_images_do_not_stand_as_a_figure(report, words):
    """In the columns that have PSNR apart."""
    assert measured.outcome(report) == words
    row = measured.describe_case(matrix_row(data_only=report) if report else matrix_row())
    assert row["alone"] == words
    assert (row["ssim"] == "mirror images") == (report is MIRRORED)


HALF = attacked(0.51, reidentified_mirrored=1.0)         # of images that are nearly symmetric


@pytest.mark.parametrize("report, share, is_mirrored", [
    (MIRRORED, 0.96, True), (NOISE, 0.143, False), (HALF, 1.0, True),
    (attacked(0.98, reidentified_mirrored=0.985), 0.98, False),
    (attacked(0.1056, reidentified_mirrored=0.4407), 0.4407, True),
    (attacked(0.25, reidentified_mirrored=0.27), 0.25, False)],
    ids=["mirrored", "noise", "nearly symmetric", "about alike", "half of them", "chance"])
def test_mirror_images_are_told_from_chance(report, share, is_mirrored):
    assert share_found(report) == (share, is_mirrored)


@pytest.mark.parametrize("blind, words", [
    (dict(psnr=80.0, left_open="all but one pixel of 2x2"), "all but one pixel of 2x2"),
    (dict(psnr=80.0), "nothing"), (None, "nothing"),
    (dict(failed="…", up_to_colour={"psnr": 50.0}), "blind: the mixture of channels"),
    (dict(failed="…", up_to_colour={"psnr": 50.0}, left_open="all but one pixel of 2x2"),
     "all but one pixel of 2x2; blind: the mixture of channels"),
    (dict(failed="…"), "blind: everything")])
def test_what_attacks_on_aug_conv_leave_open_is_not_nothing_where_one_fails(blind, words):
    assert measured.describe_left_open({"psnr": 90.0}, blind) == words
    assert measured.describe_left_open(None, blind) == "not played"


def test_the_kinds_of_public_images_stand_in_every_table():
    results = results_of_matrix(
        matrix_row(data_only=attacked(0.999), data_few=FEW, data_other=MIRRORED),
        matrix_row(data_only=attacked(0.998), data_few=attacked(0.9), data_other=attacked(0.85),
                   morph_distribution="normal"))
    [protection] = measured.make_protection(results).rows
    assert protection[-3:-1] == ["90.0% to 98.0%", "85.0% to 96.0% (mirrored for 1 core)"]
    matrix = measured.make_attack_matrix(results)
    place = matrix.header.index("alone, other public")
    assert matrix.rows[0][place - 1:place + 1] == ["20.0 dB, 98.0%", "96.0% as mirror images"]
    public = measured.make_public_images(results).rows
    assert public[0] == ["κ = 1", "uniform", "20.0 dB, 99.9%", "60", "20.0 dB, 98.0%", "60",
                         "96.0% as mirror images", "60"]


def test_cores_are_compared_on_one_data_set():
    """Others stand in the table of all rows."""
    results = results_of_matrix(matrix_row(data_only=attacked(0.999)), matrix_row(
        data_only=attacked(0.5), dataset="cifar100"), matrix_row(
        data_only=attacked(0.4), dataset="cifar10-jpeg"))
    [row] = measured.make_protection(results).rows
    assert "20 dB, 99.9%" in row and len(measured.make_attack_matrix(results).rows) == 3


def test_the_cells_of_attacks_that_were_not_played_say_so():
    results = results_of_matrix(matrix_row(data_only=attacked(0.999)))
    assert measured.make_protection(results).rows[0][-3:-1] == ["not played"] * 2
    assert measured.make_public_images(results).rows[0][4:] == ["not played"] * 4
    assert reproduce_tables.make_tables(results)["across"].note == (
        "Not measured yet: `make attack-matrix`.")
    assert "public_images" not in figures.draw_figures(results)


def test_rows_of_other_images_or_fewer_public_ones_replace_none():
    """They have the core and the blocks of a row that the README shows."""
    results = results_of_matrix(
        matrix_row(data_only=attacked(0.999)),
        matrix_row(data_only=attacked(0.5), dataset="cifar100"),
        matrix_row(data_only=attacked(0.1, public_images=300), public=300),
        matrix_row(data_other=attacked(0.2, public_dataset="cifar100"), seed=1))
    [row] = measured.make_protection(results).rows
    assert "20 dB, 99.9%" in row
    assert len(measured.make_public_images(results).rows) == 1


def test_keys_are_told_apart_where_public_images_are_of_another_data_set():
    sure = MIRRORED | {"orientation": -3.5}              # its sign says which was found first
    other = [matrix_row(seed=2, data_other=MIRRORED), matrix_row(seed=1, data_other=sure)]
    tiles = matrix_row(tile=8, kappa=None, data_other=MIRRORED)
    results = results_of_matrix(matrix_row(data_only=attacked(0.9)), tiles, *other)
    table = measured.make_across(results)
    assert [row[:4] for row in table.rows] == [
        ["CIFAR-10", "CIFAR-100", "uniform", key] for key in ("1", "2")]
    assert table.rows[0][4:] == ["mirror images", "0.3%", "96.0%", "3.5", "9 of 40", "60", "found"]
    assert table.rows[1][7] == "not decided"


def test_the_report_has_what_morphed_images_alone_give_away():
    assert "Not measured yet: `make attack-matrix`." in claims.write_report(Results())
    rows = [matrix_row(data_only=attacked(0.999), data_few=FEW, morph_distribution=core)
            for core in measured.CORES]
    tiles = matrix_row(data_only=attacked(0.75), tile=8, kappa=None)
    report = claims.write_report(results_of_matrix(*rows, tiles))
    assert "20.0 dB, 98.0%" in report and "75.0%" not in report and "1 more row is in" in report
    assert "as mirror images" not in report
    across = matrix_row(data_other=MIRRORED, seed=1)
    assert "as mirror images" in claims.write_report(results_of_matrix(*rows, across))


def test_output_goes_where_it_is_told(records, tmp_path, monkeypatch, capsys):
    reproduce(monkeypatch, "--results_dir", records, "--output", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "tables.md", "tables.tex", "REPRODUCTION.md", "analysis.json", "figures"}
    assert not (records / "tables").exists() and "out/tables.md" in capsys.readouterr().out
    with pytest.raises(UserError, match="name another folder"):
        reproduce(monkeypatch, records, "--output", records)


def test_files_that_are_no_records_are_counted_and_left_alone(records, monkeypatch, capsys):
    (records / "package.json").write_text('{"name": "x"}')
    (records / "list.json").write_text("[1, 2]")
    shutil.copy(FIXTURES / "earlier-version.json", records / "accuracy")
    reproduce(monkeypatch, records)
    said = capsys.readouterr().err
    assert "1 file is a record of an earlier version: not used" in said
    assert "not a record of this program: not used (list.json, package.json)" in said


def test_records_of_the_fixtures_are_read_and_the_earlier_one_is_not():
    results = read_results([FIXTURES / "accuracy"])
    assert [run.run for run in results.runs] == ["pretrained", "pretrained_frozen", "with_ac",
                                                 "no_ac"]
    assert len(read_results([FIXTURES]).earlier) == 1


@pytest.mark.parametrize("name, why", [("missing", "is not a folder"), ("empty", "has no record"),
                                       ("no records", "has no record")])
def test_folders_without_a_record_are_refused(tmp_path, monkeypatch, name, why):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no records").mkdir()
    (tmp_path / "no records" / "x.json").write_text("{}")
    before = files_of(tmp_path)
    with pytest.raises(UserError, match=why):
        reproduce(monkeypatch, tmp_path / name)
    assert files_of(tmp_path) == before


def test_damaged_json_is_named(tmp_path, monkeypatch):
    (tmp_path / "kappa.json").write_text("{")
    with pytest.raises(UserError, match=r"kappa\.json is not JSON"):
        reproduce(monkeypatch, tmp_path)


def test_two_records_of_one_experiment_are_refused(tmp_path, monkeypatch):
    for name, command in (("a", "python x.py"), ("b", "python y.py")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kappa.json").write_text(json.dumps({"command": command}))
    with pytest.raises(UserError, match="second record"):
        reproduce(monkeypatch, tmp_path / "a", tmp_path / "b")


def test_a_run_whose_record_lies_in_two_folders_counts_once(tmp_path, monkeypatch):
    """--results_dir leaves it beside the one in the developer's folder."""
    for name in ("developer/with_ac.json", "results/accuracy/cifar10-with_ac.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(json.dumps(training_record("with_ac", 0.7)))
    both = read_results([tmp_path / "developer", tmp_path / "results"])
    assert len(both.runs) == 1


def test_what_is_missing_names_its_command(records, monkeypatch):
    reproduce(monkeypatch, records)
    text = (records / "tables" / "tables.md").read_text()
    for command in ("make bench", "make stress", "make tables-he", "make attack-matrix",
                    "python attack.py --score --results_dir DIR",
                    "python -m experiments.kappa", "python -m experiments.agreement"):
        assert f": `{command}`\n" in text.partition("## Not in these folders")[2]
    assert "not measured yet: `python train_no_ac.py --standardise`" in text
    unmeasured = {line[0] for line in claims_of(claims.write_report(read_results([records])))
                  if line[3] == "not measured"}
    assert unmeasured == {"No accuracy is lost: the features are the same",
                          "No accuracy is lost: training with augmentation (our extension)",
                          "Augmented features are exact, and cost little (our extension)",
                          "An attack succeeds with a chance of 7.9·10⁻⁹⁰"}


def claims_of(report: str) -> list[list[str]]:
    """The cells of a report's rows."""
    rows = [line.strip("| ").split(" | ") for line in report.splitlines() if line.startswith("| ")]
    return rows[2:]


def test_a_report_on_ones_own_records_has_what_they_say_and_names_the_rest(records, monkeypatch):
    reproduce(monkeypatch, records)
    report = (records / "tables" / "REPRODUCTION.md").read_text()
    assert [row[0] for row in claims_of(report)] == [
        "No accuracy is lost: training", "No accuracy is lost: training (our extension)",
        "Without Aug-Conv accuracy is very low", "Without Aug-Conv, other cores (our extension)"]
    assert "not measured" not in report and "Training runs: 10." in report
    line = report.partition("## Not tested by these records")[2]
    for claim in ("the features are the same", "Computation grows by 9%", "An attack succeeds",
                  "GAZELLE costs 421 000 times the data"):
        assert claim in line
    alone = claims.write_short_report(results_of(training_run("with_ac", 0.7)))
    assert "is lost: training: needs `train_with_ac.py` and its fair partner, `pretrain.py" in alone
    assert "accuracy is very low: needs `pretrain.py` and `train_no_ac.py`" in alone
    (records / "attacks.json").write_text(json.dumps(ATTACKS | {"known_pairs": []}))
    assert "An attack succeeds" in [row[0] for row in claims_of(claims.write_short_report(
        read_results([records])))][-1]


@pytest.mark.parametrize("options", [[], ["--output", "elsewhere/deep"]])
def test_links_of_a_report_lead_to_its_records(options, records, monkeypatch):
    monkeypatch.chdir(records.parent)
    pairs = [{"pairs": 20, "least": 20, "psnr": 50.0, "ssim": 1.0, "exact": 1.0, "seconds": 1.0}]
    (records / "attacks.json").write_text(json.dumps(ATTACKS | {"known_pairs": pairs}))
    reproduce(monkeypatch, records, *options)
    output = Path("elsewhere/deep") if options else records / "tables"
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", (output / "REPRODUCTION.md").read_text())
    assert {Path(target).name for target in targets} == {"tables.md", "attacks.json"}
    for target in targets:
        assert (output / target).is_file()


def test_a_report_on_records_that_no_claim_rests_on_has_no_empty_section():
    report = claims.write_short_report(results_of(training_run("pretrained", 0.7)))
    assert "claim by claim" not in report and "Training runs: 1." in report
    assert "No accuracy is lost: training" in report.partition("## Not tested by these")[2]


def test_the_readmes_verdict_is_that_of_the_claims(records):
    results = read_results([records])
    verdict = claims.make_verdict(results)
    assert len(verdict.rows) == 6 and all(all(row) for row in verdict.rows)
    found = {row[0]: row[2:] for row in verdict.rows}
    assert found["Computation grows by 9%"] == [
        "multiply-adds grow by 63.7%", "not reproduced"]
    assert found["Without Aug-Conv accuracy is very low"][0].startswith("15.00")
    assert found["No accuracy is lost: training"][0] == (
        "CIFAR-10, VGG-11, 10 000 images, 2 epochs: against the fair partner +0.15 points (-0.17 "
        "to +0.47, 2 seeds) at learning rate 0.005. Against the plain network, whose first layer "
        "starts from scratch, +1.65")
    full = {row[0]: row[3] for row in claims_of(claims.write_report(results))}
    assert all(full[claim] == words[1] for claim, words in found.items())


def test_the_readme_has_our_tiles_in_rows_of_their_own():
    """Each with its own verdict, once several seeds were trained."""
    runs = []
    for seed, points in enumerate((0.001, -0.002)):
        alike = dict(morphing=TILES_8, frozen_layer=f"layer {seed}")
        runs += [training_run("with_ac", 0.66 + points, seed, **alike),
                 training_run("pretrained_frozen", 0.66, seed)]
    results = results_of(*runs)
    row = {"tile": 8, "kappa": None, "morph_distribution": "orthogonal", "delivery_dtype": "int8",
           "equal": 9_938, "images": 10_000}
    results.records["agreement"] = {"command": "x", "table": [row]}
    rows = [row for row in claims.make_verdict(results).rows if "8×8 tiles" in row[0]]
    assert [row[0].rpartition(": ")[2] for row in rows] == ["training", "the features are the same"]
    assert "10 000 images, 2 epochs: against the fair partner -0.05 points" in rows[0][2]
    assert rows[0][3] == "equal within ±1 point"
    assert rows[1][2:] == ["9 938 of 10 000 predictions are equal", "not all equal"]


def test_what_all_rows_of_the_short_table_begin_with_is_said_once():
    results = results_of(training_run("with_ac", 0.7, epochs=3), training_run("with_ac", 0.8))
    short = accuracy.make_accuracy_short(results)
    assert [row[0] for row in short.rows] == [
        "3 epochs, learning rate 0.005", "2 epochs, learning rate 0.005"]
    assert short.note.startswith("All rows: CIFAR-10, VGG-11, 10 000 images. ")
    assert common_beginning(["CIFAR-10, a", "MNIST, a"]) == ""


def test_small_numbers_are_written_as_powers_of_ten():
    assert [write_power(value) for value in (7.89e-90, 0.5, 3e4)] == [
        "7.9·10⁻⁹⁰", "5.0·10⁻¹", "3.0·10⁴"]


# -- Rows

@pytest.mark.parametrize("name, value, words", [
    ("image_size", 64, "image size 64"), ("precision", "bfloat16", "precision bfloat16"),
    ("batch_size", 7, "batch size 7"), ("decay_epochs", 60, "decay epochs 60"),
    ("lr", 0.1, "learning rate 0.1"), ("init", "9" * 64, "from weights 99999999"),
    ("train_digest", "8" * 64, "train images 88888888"),
    ("augment", "crop_flip", "crops and flips"),
    ("class_names", ["cat", "dog"], "classes cat, dog")])
def test_unlike_runs_stand_in_rows_that_say_what_differs(name, value, words):
    rows = group_in_rows([training_run("with_ac", 0.5),
                          training_run("with_ac", 0.6, 1, **{name: value})])
    settings = {row.setting: len(row.runs["with_ac"]) for row in rows}
    assert len(settings) == 2 and set(settings.values()) == {1}
    assert any(words in setting for setting in settings)


@pytest.mark.parametrize("name, value, words", [
    ("kappa", 3, "κ = 3, uniform"), ("morph_distribution", "normal", "κ = 1, normal"),
    ("image_padding", 1, "κ = 1, uniform, padded by 1"), ("tile", 8, "s = 8, uniform"),
    ("delivery_dtype", "int8", "κ = 1, uniform, int8"),
    ("shuffle_channels", False, "κ = 1, uniform, channels in order")])
def test_each_way_of_morphing_is_a_row(name, value, words):
    one = training_run("with_ac", 0.5)
    other = training_run("with_ac", 0.6, 1, morphing=one.morphing | {name: value})
    rows = group_in_rows([one, other])
    assert rows[0].morphed == "κ = 1, uniform"
    assert {row.morphed for row in rows} == {"κ = 1, uniform", words}


def augmented_runs() -> list:
    """Plain without and with augmentation, the fair partner, and two ways of morphing."""
    alike = dict(augment="crop_flip")
    return [training_run("pretrained", 0.70), training_run("pretrained", 0.75, **alike),
            training_run("pretrained_frozen", 0.752, **alike),
            training_run("with_ac", 0.755, **alike),
            training_run("with_ac", 0.74, morphing=TILES_8, **alike)]


def test_networks_of_ones_own_with_other_code_stand_in_rows_of_their_own():
    """Or accuracies of two networks would be averaged as if their seeds were the difference."""
    made = ((0.5, 0, "a" * 64), (0.7, 0, "b" * 64), (0.8, 1, "b" * 64))
    runs = [training_run("pretrained", right, seed, model="mine:net", network_code=code)
            for right, seed, code in made]
    first, second = accuracy.make_accuracy(results_of(*runs)).rows
    assert "network's code aaaaaaaa" in first[0] and first[2] == "50.00%"
    assert "network's code bbbbbbbb" in second[0] and second[2] == "75.00 ± 7.07%, 2 seeds"


def test_plain_with_and_without_augmentation_stand_side_by_side():
    results = results_of(*augmented_runs(), training_run("pretrained", 0.5, lr=0.1))
    at_kappa_1, tiles = augmentation.make_augmented(results).rows
    assert at_kappa_1[1:] == ["κ = 1, uniform", "70.00%", "75.00%", "75.20%", "75.50%", "+0.50",
                              "+5.50"]
    assert tiles[1:] == ["s = 8, orthogonal, int8", "70.00%", "75.00%", "75.20%", "74.00%",
                         "-1.00", "+4.00"]
    assert all("crops and flips" in row[0] for row in (at_kappa_1, tiles))
    said = augmentation.describe_augmented(results)
    assert said == ("CIFAR-10, VGG-11, 10 000 images, 2 epochs, crops and flips, learning rate "
                    "0.005: plain network 70.00% without it, 75.00% with it. Fair partner with it "
                    "75.20%, with Aug-Conv 75.50% (κ = 1, uniform), 74.00% (s = 8, orthogonal, "
                    "int8)")


def test_augmented_networks_are_compared_seed_by_seed_with_all_weight_decays():
    """Seed 2 has no network with Aug-Conv; another weight decay makes a weaker plain network."""
    alike = dict(augment="crop_flip")
    runs = [training_run("pretrained", accuracy, seed, **alike)
            for seed, accuracy in enumerate((0.70, 0.80, 0.99))]
    runs += [training_run("with_ac", accuracy, seed, **alike)
             for seed, accuracy in enumerate((0.71, 0.80))]
    runs.append(training_run("pretrained", 0.5, weight_decay=5e-7, **alike))
    [one] = augmentation.list_augmented(results_of(*runs))
    assert one.above_plain == pytest.approx(0.5)
    assert one.above_partner is None and one.above_not_augmented is None


def test_networks_without_aug_conv_are_not_awaited_beside_augmented_ones():
    [row] = accuracy.make_accuracy(results_of(training_run("with_ac", 0.7, augment="crop"))).rows
    assert row[-2:] == ["not possible with augmentation"] * 2
    assert row[2] == "not measured yet: `python pretrain.py`"


def test_what_is_missing_beside_augmented_runs_says_so():
    alone = results_of(training_run("with_ac", 0.75, augment="crop_flip"))
    [row] = augmentation.make_augmented(alone).rows
    assert "crops and flips" in row[0] and row[-2:] == ["not measured"] * 2
    assert row[2] == "not measured yet: `python pretrain.py`"
    assert row[3] == "not measured yet: `python pretrain.py --augment crop_flip`"
    assert row[4] == ("not measured yet: `python pretrain.py --frozen_first_layer FILE "
                      "--weight_decay 5e-7 --augment crop_flip`")
    plain = results_of(training_run("pretrained", 0.75, augment="crop_flip"))
    assert augmentation.make_augmented(plain).rows[0][1] == "plain images only"
    assert augmentation.describe_augmented(plain) is None
    assert claims.claim_augmented_training(alone).verdict == "not measured"
    assert augmentation.make_augmented(results_of(training_run("with_ac", 0.5))).rows == []


def test_networks_have_their_names():
    for model, title in (("vgg16", "VGG-16"), ("vgg_small", "vgg_small"), ("resnet18", "resnet18")):
        [row] = group_in_rows([training_run("with_ac", 0.5, model=model)])
        assert row.title.startswith(f"CIFAR-10, {title}, ")


def test_seeds_keys_and_frozen_layers_share_a_row():
    [row] = group_in_rows([training_run("with_ac", 0.5, seed) for seed in range(3)])
    assert len(row.runs["with_ac"]) == 3


def test_plain_runs_stand_beside_each_way_of_morphing():
    results = results_of(training_run("pretrained", 0.7), training_run("with_ac", 0.5),
                         training_run("with_ac", 0.6, morphing=TILES_8))
    rows = accuracy.make_accuracy(results).rows
    assert [row[1] for row in rows] == ["κ = 1, uniform", "s = 8, orthogonal, int8"]
    assert [row[2].partition(",")[0] for row in rows] == ["70.00%", "70.00%"]
    assert [row[4].partition(",")[0] for row in rows] == ["50.00%", "60.00%"]


def test_plain_runs_alone_have_a_row_and_name_missing_commands():
    results = results_of(training_run("pretrained", 0.5), training_run("pretrained", 0.52, 9),
                         training_run("pretrained", 0.54, 9))
    [row] = accuracy.make_accuracy(results).rows
    assert row[1] == "plain images only"
    assert row[2] == "51.50 ± 2.12%, 2 seeds, mean of 3 runs"         # of one seed two
    assert row[3:] == [f"not measured yet: `python {command}`" for command in (
        "pretrain.py --frozen_first_layer FILE --weight_decay 5e-7", "train_with_ac.py",
        "train_no_ac.py", "train_no_ac.py --standardise")]


def test_weight_decay_is_named_where_it_is_not_as_in_the_authors_scripts():
    same = [training_run("pretrained_frozen", 0.7), training_run("with_ac", 0.6)]
    assert "weight decay" not in accuracy.make_accuracy(results_of(*same)).rows[0][4]
    plain = training_run("pretrained", 0.5, weight_decay=5e-6)     # ten times that of the others
    [row] = accuracy.make_accuracy(results_of(plain, *same)).rows
    assert row[2:5] == ["50.00%", "70.00%", "60.00%"]
    plain = training_run("pretrained", 0.5, weight_decay=1e-6)
    [row] = accuracy.make_accuracy(results_of(plain, *same)).rows
    assert row[2] == "50.00%, weight decay 1e-06"
    other = training_run("pretrained_frozen", 0.7, weight_decay=5e-6)
    [row] = accuracy.make_accuracy(results_of(other, same[1])).rows
    assert row[3:5] == ["70.00%, weight decay 5e-06", "60.00%, weight decay 5e-07"]


def test_several_versions_of_the_code_are_told():
    runs = [training_run("with_ac", 0.5), training_run("with_ac", 0.5, 1, code="def5678")]
    assert "abc1234, def5678" in accuracy.make_accuracy(results_of(*runs)).note


def test_the_first_rows_say_how_many_more_there_are():
    runs = [training_run("with_ac", 0.5, lr=lr / 1000) for lr in range(1, 9)]
    whole = accuracy.make_accuracy(results_of(*runs))
    assert len(whole.rows) == 8 and "more row" not in whole.note
    assert whole.first(6, "there").note.startswith("2 more rows are in there.")
    assert whole.first(7, "there").note.startswith("1 more row is in there.")


def test_learning_rates_are_told_apart_from_the_results(records):
    tried = [training_record("pretrained", 0.6 + lr, lr=lr) for lr in (0.02, 0.01)]
    write_records(records / "validation", tried)
    results = read_results([records])
    assert len(results.runs) == 10
    rows = accuracy.make_validation(results).rows
    for [setting, found, *_], rate, expected in zip(rows, ("0.01", "0.02"), ("61.00%", "62.00%"),
                                                    strict=True):
        assert setting.endswith(f"learning rate {rate}") and found == expected


# -- Pairs and the test of equality

def test_a_partner_has_the_same_frozen_layer_and_seed():
    runs = [training_run("with_ac", 0.7 + seed / 1000, seed) for seed in range(5)]
    runs += [training_run("pretrained_frozen", 0.7, seed) for seed in range(1, 5)]
    runs += [training_run("pretrained_frozen", 0.1, 2, frozen_layer="another layer")]
    runs += [training_run("with_ac", 0.1, 1, lr=0.5)]    # another setting: no partner
    results = results_of(*runs)
    [row] = equality.make_equality(results).rows
    assert row[2:5] == ["5e-07", "+0.10, +0.20, +0.30, +0.40", "+0.25"]
    assert row[-1] == "equal within ±1 point"
    assert "left out here: 1." in accuracy.make_accuracy(results).note


def test_one_seed_is_said_to_be_one():
    runs = [training_run("with_ac", 0.701), training_run("pretrained_frozen", 0.7)]
    [row] = equality.make_equality(results_of(*runs)).rows
    assert row[4] == "+0.10" and row[5:] == ["one seed"] * 3 + ["one seed: no test"]


@pytest.mark.parametrize("partners", [(0.175, 0.175), (0.175, 0.209)],
                         ids=["the same numbers", "others, with another rounding"])
def test_seeds_that_all_differ_by_the_same_are_no_test(partners, recwarn):
    """A standard deviation of zero, as few test images give it by chance, proves nothing."""
    runs = []
    for seed, right in enumerate(partners):
        runs += [training_run("pretrained_frozen", right, seed),
                 training_run("with_ac", right - 0.005, seed)]
    [row] = equality.make_equality(results_of(*runs)).rows
    assert row[4] == "-0.50" and row[-1] == "no spread over the seeds: no test"
    assert claims.claims_equal_training(results_of(*runs))[0].verdict == row[-1]
    assert not recwarn


def test_another_weight_decay_makes_no_fair_partner():
    runs = [training_run("with_ac", 0.7, seed) for seed in range(3)]
    runs += [training_run("pretrained_frozen", 0.7 + seed / 1000, seed, weight_decay=5e-6)
             for seed in range(3)]
    [row] = equality.make_equality(results_of(*runs)).rows
    assert row[2] == "5e-07, partner 5e-06"
    assert row[-1] == "no fair partner: weight decays differ"


def test_points_above_plain_are_of_one_weight_decay_and_against_the_best():
    """Several plain networks: the least. Runs of another decay count in their own comparison."""
    runs = [training_run("pretrained", 0.68), training_run("pretrained", 0.65, weight_decay=5e-4),
            training_run("with_ac", 0.70), training_run("pretrained_frozen", 0.70),
            training_run("with_ac", 0.75, weight_decay=5e-5),
            training_run("pretrained_frozen", 0.75, weight_decay=5e-5)]
    fair = [one for one in equality.compare_with_partners(results_of(*runs)) if one.is_fair]
    assert [round(one.above_plain, 2) for one in fair] == [2.0, 7.0]


def test_runs_from_given_weights_are_no_test_of_the_papers_claim():
    """And their title says so."""
    runs = []
    for seed, points in enumerate((0.001, -0.002)):
        runs += [training_run("with_ac", 0.66 + points, seed, init="9" * 64),
                 training_run("pretrained_frozen", 0.66, seed, init="9" * 64)]
    papers, ours = claims.claims_equal_training(results_of(*runs))
    assert papers.verdict == "not measured" and "our extension" in ours.claim
    assert "10 000 images, 2 epochs, from weights 99999999: against" in ours.found


def test_equality_of_paired_differences():
    """TOST at 5% and the 90% interval agree; the interval is mean ± t(0.95)·s/√n."""
    close, far = [0.2, -0.1, 0.4, 0.1, 0.0], [0.9, 1.4, -0.4, 2.0, 0.1]
    found = equality.assess_equality(close, margin=1)
    half = 2.1318 * 0.19235 / 5 ** 0.5
    assert found.equal and found.p < 0.05
    assert (found.low, found.high) == (pytest.approx(0.12 - half, abs=1e-3),
                                       pytest.approx(0.12 + half, abs=1e-3))
    assert found.detectable == pytest.approx((2.776 + 0.941) * 0.19235 / 5 ** 0.5, abs=1e-3)
    found = equality.assess_equality(far, margin=1)
    assert not found.equal and found.high > 1


# -- Verdicts

@pytest.mark.parametrize("without, plain, verdict", [
    (15.8, 83.9, True), (20.0, 60.0, True), (20.1, 84.0, False), (16.0, 17.7, False)],
    ids=["at κ = 1", "at both limits", "above twice chance",
         "beside a plain network that has not learnt"])
def test_very_low_is_a_rule(without, plain, verdict):
    assert claims.is_very_low(without, plain, classes=10) == verdict


def test_verdicts_follow_the_records():
    learnt = results_of(training_run("pretrained", 0.8), training_run("no_ac", 0.15))
    assert claims.claims_low_accuracy(learnt)[0].verdict == "reproduced: very low"
    not_learnt = results_of(training_run("pretrained", 0.1767), training_run("no_ac", 0.16))
    assert claims.claims_low_accuracy(not_learnt)[0].verdict == "not reproduced: not very low"
    others = results_of(*learnt.runs, training_run("no_ac", 0.47, morphing=TILES_8),
                        training_run("no_ac", 0.1, morphing=KAPPA_1 | {"kappa": 3}))
    papers, kappas, tiles = claims.claims_low_accuracy(others)
    assert kappas.verdict == "very low" and "authors' scripts" in kappas.claim
    assert tiles.verdict == "not very low" and "our extension" in tiles.claim
    assert papers.short.endswith("Other cores, not published: 10% to 47%")


@pytest.mark.parametrize("controls, verdict", [
    ((0.15, 0.12), "reproduced: very low in 2 of 2 rows"),
    ((0.15, 0.40), "reproduced in part: very low in 1 of 2 rows"),
    ((0.40, 0.41), "not reproduced: very low in 0 of 2 rows")])
def test_a_verdict_of_several_rows_says_what_of_the_claim_is_reproduced(controls, verdict):
    runs = []
    for epochs, control in zip((2, 3), controls, strict=True):
        runs += [training_run("pretrained", 0.8, epochs=epochs),
                 training_run("no_ac", control, epochs=epochs)]
    [claim] = claims.claims_low_accuracy(results_of(*runs))
    assert claim.verdict == verdict


def test_another_kappa_is_a_setting_of_the_authors_and_no_extension():
    morphings = (KAPPA_1, KAPPA_1 | {"kappa": 3}, TILES_8)
    runs = []
    for morphing in morphings:
        runs += [training_run("with_ac", 0.7, morphing=morphing),
                 training_run("no_ac", 0.1, morphing=morphing)]
    runs += [training_run("pretrained", 0.7), training_run("pretrained_frozen", 0.7)]
    results = results_of(*runs)
    for made in (claims.claims_equal_training(results), claims.claims_low_accuracy(results)):
        papers, kappas, ours = (claim.claim for claim in made)
        assert "authors" not in papers and "extension" not in papers
        assert kappas.endswith("other κ (a setting of the authors' scripts)")
        assert ours.endswith("(our extension)")


def test_other_verdicts_are_rules_too():
    assert claims.judge_overhead(0.09, 0.095) == "reproduced"
    assert claims.judge_overhead(0.09, 0.643) == "not reproduced"
    assert claims.judge_quotient(421_000, 421_888) == "the quotient is reproduced"
    assert claims.judge_quotient(421_000, 972) == "the quotient is not reproduced"
    assert claims.judge_equal_predictions(100, 100) == "reproduced"
    assert claims.judge_equal_predictions(98, 100) == "not reproduced for 2 images"
    assert claims.judge_guess(7.9e-90, 7.88e-90) == "reproduced"
    assert claims.judge_guess(2.9e-30, 2.94e-39) == "not reproduced"
    assert claims.judge_attack(7.9e-90, 7.88e-90, 94.0) == (
        "the number is reproduced; the claim is refuted: images come back")
    assert "refuted" not in claims.judge_attack(7.9e-90, 7.88e-90, 12.0)
    assert "not reproduced" in claims.judge_attack(7.9e-90, 1e-80, 94.0)
    assert claims.judge_attack(7.9e-90, 7.88e-90, None).endswith("this attack fails")


def test_augmentation_is_judged_beside_plain_with_it():
    results = results_of(*augmented_runs())
    claim = claims.claim_augmented_training(results)
    assert claim.verdict == "reached, by one seed"
    assert "-1.00 points against plain with the same augmentation" in claim.found
    assert "+5.50 against plain without it" in claim.found
    worse = training_run("with_ac", 0.739, morphing=TILES_8, augment="crop_flip")
    results = results_of(*augmented_runs()[:-1], worse)
    assert claims.claim_augmented_training(results).verdict == (
        "reached in 1 of 2 rows, by one seed")
    assert claims.judge_augmentation(1.5, 1.3) == "reached"
    assert claims.judge_augmentation(1.51, 1.31) == "missed: exactness and an epoch's time"


def test_the_better_one_of_the_two_controls_counts():
    runs = [training_run("pretrained", 0.8), training_run("no_ac", 0.15),
            training_run("no_ac_standardised", 0.4)]
    [claim] = claims.claims_low_accuracy(results_of(*runs))
    assert "not very low" in claim.verdict and "40.00% standardised" in claim.found


def test_equality_is_claimed_of_fair_partners_and_counts_rows():
    """A row whose weight decays differ says so in the table, and is no part of the claim."""
    def pairs(difference, **changes):
        runs = []
        for seed in range(5):
            runs.append(training_run("with_ac", 0.7 + seed / 10_000, seed, **changes))
            runs.append(training_run("pretrained_frozen", 0.7 + difference, seed, **changes))
        return runs

    close, far = pairs(0.001), pairs(0.05, lr=0.1)
    unfair = [training_run("pretrained_frozen", 0.9, seed, weight_decay=5e-6) for seed in range(5)]
    [claim] = claims.claims_equal_training(results_of(*close, *unfair))
    assert claim.verdict == equality.EQUAL
    [both] = claims.claims_equal_training(results_of(*close, *far))
    assert both.verdict == "equal at learning rate 0.005, lower at learning rate 0.1"


def test_a_refused_delivery_is_not_reproduced():
    row = {"morph_distribution": "uniform", "delivery_dtype": "float32", "images": 100}
    agreement = {"command": "python x.py", "table": [row]}
    claim = claims.claim_equal_predictions(Results(
        records={"agreement": agreement}, paths={"agreement": Path("results/agreement.json")}))
    assert claim.verdict == "not reproduced" and "refused" in claim.found


def test_the_report_says_what_the_records_say(records):
    report = claims.write_report(read_results([records]))
    assert "Their data sets: CIFAR-10." in report and "2 cores of AMD EPYC" in report
    assert "Versions of the code: abc1234." in report and "Training runs: 10." in report
    gaps = report.partition("## What was not tried")[2]
    assert "CIFAR-100" in gaps and "CIFAR-10\n" not in gaps and "300 epochs" in gaps
    assert "Its full text was not at hand" in report


# -- Published figures and formulas

def test_every_published_figure_has_a_row():
    rows = published.make_published(Results()).rows
    figures_published = [row[1] for row in rows]
    for figure in ("“without performance penalty” (abstract), “close to `pretrain.py`” (authors' "
                   "README)", "“a very low accuracy” (authors' README)", "9%", "5.12%",
                   "7.9·10⁻⁹⁰", "10 000×", "421 000×", "2.9·10⁻³⁰"):
        assert figures_published.count(figure) == 1
    text = "\n".join(" | ".join(row) for row in rows)
    for figure in ("7.9·10⁻⁹⁰", "3072/60000 = 5.12%", "421 888×", "= 9.04%", "63.7%", "109%",
                   "737% more", "2.9·10⁻³⁹", "19 660 800, growth 5.7%"):
        assert figure in text


def count_macs(action) -> int:
    """Multiply-adds, as torch counts what an action does."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("model", GROUPS)
@pytest.mark.parametrize("classes, side", [(10, 32), (100, 20)])
def test_closed_form_of_multiply_adds(model, classes, side):
    network = VGG(model, classes, side=side).eval()
    counted = count_macs(lambda: network(torch.zeros(1, 3, side, side)))
    assert counted == formulas.vgg_macs(model, classes, side=side)


def test_morphing_is_counted_as_torch_counts_it():
    counted = count_macs(lambda: morph(torch.zeros(1, 3, 4, 4), torch.zeros(12, 12)))
    assert counted == formulas.morphing_macs(48, 4)


@pytest.mark.parametrize("tile, shape", [(8, (3, 32, 32)), (4, (1, 12, 12)), (12, (3, 12, 12))])
def test_entries_are_those_of_aug_conv(tile, shape):
    layer, alpha = nn.Conv2d(shape[0], 5, 3, padding=1), shape[0]
    core, dense = torch.eye(alpha * tile * tile), tile == shape[1]
    made = AugConv.compose(layer, core, shape, tile=0 if dense else tile)
    assert made.weight.numel() == formulas.aug_conv_entries(alpha, shape[1], 5, tile)


@pytest.mark.parametrize("tile, macs, growth, megabytes, of_data", [
    (32, "201.3", "63.7%", "805.3", "436.9%"), (16, "63.7", "19.8%", "63.7", "34.6%"),
    (8, "19.7", "5.7%", "4.9", "2.7%"), (4, "7.1", "1.7%", "0.4", "0.2%")])
def test_costs_of_tiles(tile, macs, growth, megabytes, of_data):
    cost = formulas.cost_of_tile(tile)
    assert f"{cost.macs / 1e6:.1f}" == macs
    assert f"{cost.bytes / 1e6:.1f}" == megabytes
    assert f"{cost.growth:.1%}" == growth
    assert f"{cost.share_of_data:.1%}" == of_data


def test_memory_of_tiles_does_not_grow_with_the_image():
    assert formulas.cost_of_tile(8, 224).bytes == formulas.cost_of_tile(8, 32).bytes
    assert formulas.cost_of_tile(64, 64).bytes == 16 * formulas.cost_of_tile(32, 32).bytes


@pytest.mark.parametrize("q, kappa, pairs", [(3072, 1, 3072), (1024, 3, 342), (192, 16, 12)])
def test_pairs_that_determine_the_core(q, kappa, pairs):
    assert formulas.pairs_needed(q, kappa) == pairs


# -- Tables as text

def test_a_missing_value_is_an_error_unless_its_column_has_words_for_it():
    columns = [Column("PSNR", "psnr", "{:.1f} dB", "of images"),
               Column("SSIM", "deep.ssim", "{:.3f}", absent="not played"), Column("met", "met")]
    made = table_of_records("t", columns, [
        {"psnr": 3.14, "deep": {"ssim": 0.5}, "met": True}, {"psnr": 12345.0, "met": False}])
    assert made.rows == [["3.1 dB", "0.500", "yes"], ["12345.0 dB", "not played", "no"]]
    assert made.note == "*PSNR*: of images."
    with pytest.raises(ValueError, match="no value psnr"):
        table_of_records("t", columns, [{"met": True}])


def test_a_command_with_a_pipe_does_not_break_the_table():
    assert Table("t", ["a"], [["`x | y`"]]).markdown().splitlines()[2] == r"| `x \| y` |"


def test_latex_is_escaped():
    made = Table("50% & more", ["a_b", "κ"], [["`make x_y`", "10⁻³ × 2"]], "a *note* #1")
    assert made.latex().splitlines() == [
        r"\begin{table}\caption{50\% \& more}\small", r"\begin{tabularx}{\textwidth}{lX}",
        r"\toprule", r"a\_b & κ \\", r"\midrule", r"\texttt{make x\_y} & 10⁻³ × 2 \\",
        r"\bottomrule", r"\end{tabularx}", r"\par a \emph{note} \#1", r"\end{table}"]


def test_latex_has_commands_for_what_cannot_be_escaped():
    made = Table("t", ["a"], [["~/x\\y^2"]])
    assert r"\textasciitilde{}/x\textbackslash{}y\textasciicircum{}2" in made.latex()


def test_latex_file_says_what_it_needs(records, monkeypatch):
    reproduce(monkeypatch, records)
    head = (records / "tables" / "tables.tex").read_text().partition(r"\begin{table}")[0]
    for word in ("LuaLaTeX", "booktabs", "tabularx", "fontspec"):
        assert word in head


def test_every_row_of_the_committed_tables_is_as_wide_as_its_header():
    results = read_results([ROOT / "results"])
    for name, table in reproduce_tables.make_tables(results).items():
        for row in table.rows:
            assert len(row) == len(table.header), name
            assert not any("|" in cell or cell.strip() in ("", "—") for cell in row), (name, row)


def test_keys_of_records_are_snake_case():
    def keys(found):
        for key, value in found.items() if isinstance(found, dict) else enumerate(found):
            yield from [key] if isinstance(key, str) else []
            yield from keys(value) if isinstance(value, dict | list) else []

    committed = read_results([ROOT / "results"]).records.values()
    assert [key for key in keys(list(committed))
            if not re.fullmatch("[a-z0-9]+(_[a-z0-9]+)*", key)] == []


def test_speed_has_a_column_for_each_processor():
    row = {"name": "x", "figure": "composing", "unit": "s", "reference": 7.0, "here": 0.5,
           "ratio": 14.0, "target": "ratio ≥ 20", "reached": False}
    machine = {"processor": "A", "cores": 2, "cuda": []}
    one = {"command": "python b.py", "machine": machine, "load": 0.2, "table": [row],
           "size": {"train_images": 960}}
    other = one | {"machine": machine | {"processor": "B"}, "table": [row | {"figure": "other"}]}
    made = measured.make_bench(Results(benches={"a": one, "b": other}))
    assert made.header == ["figure", "unit", "2 cores of A", "2 cores of B", "target"]
    cuda = one | {"machine": machine | {"cuda": ["H"]}, "table": [
        {key: value for key, value in row.items() if key not in ("target", "reached")}]}
    assert measured.make_bench(Results(benches={"a": cuda, "b": one})).rows[0][-1] == "ratio ≥ 20"
    missing = "not measured on this machine"
    assert made.rows == [
        ["composing", "s", "7 → 0.5 (14×), missed", missing, "ratio ≥ 20"],
        ["other", "s", missing, "7 → 0.5 (14×), missed", "ratio ≥ 20"]]


# -- Figures

def test_accuracy_figure_has_a_panel_for_each_row_and_says_how_many_more(monkeypatch):
    said = []
    monkeypatch.setattr(figures, "as_png", lambda figure: said.append(figure) or PNG)
    runs = [training_run("with_ac", 0.5, lr=lr / 1000) for lr in range(1, figures.PANELS + 4)]
    runs.append(training_run("with_ac", 0.55, 1, lr=0.001))
    figures.draw_accuracy(group_in_rows(runs))
    [figure] = said
    panels = [axis for axis in figure.axes if axis.lines]
    assert len(panels) == figures.PANELS
    assert figure.get_supxlabel() == (
        "bands: from the lowest seed to the highest; and 3 more rows: see tables.md")
    assert panels[0].get_legend().get_texts()[0].get_text() == "with Aug-Conv (2 seeds)"
    assert len(panels[0].lines) == len(panels[0].collections) == 1      # a line, and its band


def test_the_curve_over_public_images_marks_the_other_data_set(monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "as_png", lambda figure: drawn.append(figure) or PNG)
    rows = [matrix_row(data_only=attacked(0.3, public_images=300), public=300),
            matrix_row(data_only=attacked(0.999), data_few=FEW, data_other=MIRRORED),
            matrix_row(data_other=attacked(0.9, public_dataset="cifar100"), seed=1)]
    assert "public_images" in figures.draw_figures(results_of_matrix(*rows))
    [axis] = drawn[-1].axes
    curve, other = axis.lines
    assert list(curve.get_xdata()) == [300, 1000, 50_000]
    assert list(curve.get_ydata()) == pytest.approx([30, 98, 99.9])
    assert list(other.get_ydata()) == pytest.approx([96, 90])
    assert [text.get_text() for text in axis.texts] == ["left and right exchanged"]
    assert axis.get_xscale() == "log"
    assert "public images" in axis.get_xlabel() and "%" in axis.get_ylabel()
def test_one_epoch_is_a_number_and_not_a_curve(monkeypatch):
    said = []
    monkeypatch.setattr(figures, "as_png", lambda figure: said.append(figure) or PNG)
    curve = training_record("with_ac", 0.5)["curve"][:1]
    figures.draw_accuracy(group_in_rows([training_run("pretrained", 0.5, curve=curve),
                                         training_run("with_ac", 0.25, curve=curve)]))
    [axis] = said[0].axes
    assert not axis.lines and not axis.axison
    text = axis.texts[0].get_text()
    assert "plain network: 50.00%" in text and "with Aug-Conv: 25.00%" in text


def test_what_is_given_away_stands_beside_what_it_costs(monkeypatch):
    said = []
    monkeypatch.setattr(figures, "as_png", lambda figure: said.append(figure) or PNG)
    figures.draw_overhead({"table": [matrix_row(tile=8, data_only=attacked(0.5))]})
    figures.draw_overhead(None)
    with_attacks, without = said
    [recovered, nothing] = with_attacks.axes[2].lines
    assert (list(recovered.get_xdata()), list(recovered.get_ydata())) == ([192], [20])
    assert set(nothing.get_ydata()) == {12} and not without.axes[2].axison
    by_kappa = [text.get_text() for text in with_attacks.axes[0].get_legend().get_texts()]
    assert any("9%" in text for text in by_kappa) and any("5.12%" in text for text in by_kappa)


def test_pictures_of_all_records(records):
    """The finding that the paper does not have is drawn once two ways of morphing are there."""
    results = read_results([records])
    results.records["attack_matrix"] = {"table": [
        matrix_row(morph_distribution=core, tile=tile, data_only=attacked(0.5))
        for core in measured.CORES for tile in (0, 8)]}
    results.records["attacks"] = {
        "known_pairs": [{"pairs": pairs, "least": 20, "psnr": pairs * 2.0} for pairs in (10, 20)],
        "data": {"dataset": "cifar10", "morphing": KAPPA_1, "channels": 3, "image_size": 32}}
    drawn = figures.draw_figures(results)
    assert set(drawn) == {"overhead", "accuracy", "known_pairs", "without_aug_conv"}
    assert all(picture.startswith(PNG) for picture in drawn.values())


# -- Marks in pages

VALUES = {"he": {"ratio": 9.7, "table": [{"way": "a", "bytes": 1000, "deep": {"x": 0.5}},
                                         {"way": "b", "bytes": 2500, "deep": {"x": 0.5}}]}}


@pytest.mark.parametrize("words, written", [
    ("he ratio .0f", "10"), ("he table way=b bytes ,", "2 500"), ("he table deep x .0%", "50%"),
    ("he table bytes least ,", "1 000"), ("he table bytes total ,", "3 500"),
    ("he table way=a way text", "a"), ("kappa x .0f", "(not measured yet: python -m "
                                       "experiments.kappa)")])
def test_values_between_marks(words, written):
    page = f"It is <!-- value {words} -->old<!-- /value --> now."
    filled = marks.fill_page(page, {}, VALUES)
    assert filled == f"It is <!-- value {words} -->{written}<!-- /value --> now."
    assert marks.fill_page(filled, {}, VALUES) == filled


def test_lines_between_marks():
    record = {"runs": [{"seed": 0, "ends_with": ["plain: 98%", "with: 97%"]},
                       {"seed": 1, "ends_with": ["other"]}]}
    page = "It ends\n<!-- lines demo/x runs seed=0 ends_with -->\nold\n<!-- /lines -->\nso."
    filled = marks.fill_page(page, {}, {"demo/x": record})
    assert filled == page.replace("old", "```\nplain: 98%\nwith: 97%\n```")
    assert marks.fill_page(filled, {}, {"demo/x": record}) == filled
    assert "not measured yet: python -m experiments.demo" in marks.fill_page(filled, {}, {})
    with pytest.raises(ValueError, match="no record has the value"):
        marks.fill_page(page.replace("seed=0", "seed=7"), {}, {"demo/x": record})


@pytest.mark.parametrize("words, why", [
    ("he table bytes ,", "several values"), ("he table way=c bytes ,", "no record has the value"),
    ("nothing x ,", "there is no record nothing")])
def test_marks_that_mean_nothing_are_refused(words, why):
    with pytest.raises(ValueError, match=why):
        marks.fill_page(f"It is <!-- value {words} -->old<!-- /value -->", {}, VALUES)


def test_tables_between_marks():
    table = Table("t", ["a"], [["1"], ["2"]], "A note.")
    page = "x\n<!-- table t -->\nold\n<!-- /table -->\n<!-- table t 1 -->\n\n<!-- /table -->"
    filled = marks.fill_page(page, {"t": table}, {})
    assert filled.count("| 1 |") == 2 and filled.count("| 2 |") == 1
    assert "1 more row is in [results/tables.md](results/tables.md). A note." in filled
    below = marks.fill_page(page, {"t": table}, {}, "docs")
    assert "1 more row is in [results/tables.md](../results/tables.md)." in below
    with pytest.raises(ValueError, match="there is no table u"):
        marks.fill_page("<!-- table u -->\n\n<!-- /table -->", {"t": table}, {})


@pytest.mark.parametrize("start, end", [
    ("<!-- table kappa -->", "<!-- /table -->"),
    ("<!-- figure kappa kappa What it shows -->", "<!-- /figure -->"),
    ("<!-- lines demo/x demo lines -->", "<!-- /lines -->")])
def test_marks_with_nothing_between_them_leave_the_rest_of_the_page(start, end):
    page = f"{start}\n{end}\nwords\n{start}\nold\n{end}\n"
    table = Table("", ["a"], [["1"]])
    filled = marks.fill_page(page, {"kappa": table}, {"demo/x": {"demo": {"lines": ["one"]}}})
    assert f"{end}\nwords\n{start}\n" in filled and "old" not in filled
    assert filled.count(start) == filled.count(end) == 2
    assert not filled.startswith(f"{start}\n{end}")


def test_figures_between_marks():
    page = "x\n<!-- figure across attack_matrix What it shows -->\nold\n<!-- /figure -->\ny"
    undrawn = marks.fill_page(page, {}, {})
    assert "-->\nNot drawn yet: `make attack-matrix`.\n<!-- /figure -->\ny" in undrawn
    drawn = marks.fill_page(undrawn, {}, {}, "docs", {"across"})
    assert "-->\n![What it shows](../results/figures/across.png)\n<!-- /figure -->" in drawn
    assert marks.fill_page(drawn, {}, {}, "docs", {"across"}) == drawn
    with pytest.raises(ValueError, match="there is no record nothing"):
        marks.fill_page(page.replace("attack_matrix", "nothing"), {}, {})


def test_a_mark_does_not_end_a_paragraph():
    with pytest.raises(ValueError, match="begin it with a word"):
        marks.fill_page("It is\n<!-- value he ratio .0f -->10<!-- /value -->", {}, VALUES)
