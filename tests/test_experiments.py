"""The experiments measure what their tables say, at a tiny size."""

import json
import shutil

import pytest
import torch
from torch import nn

import gen_augconv
import gen_morphing_matrix
import pretrain
import reproduce_tables
import train_no_ac
import train_with_ac
from attacks import adversary
from experiments import agreement, augmentation, defects, kappa, paper_setting
from experiments.tables import accuracy, claims, equality, measured
from experiments.tables import augmentation as augmentation_tables
from experiments.tables.reading import Results, read_results
from images.datasets import CIFAR, Prepared
from mole.first_layer import describe
from parameter import Parameters
from tests.damage import vouch
from tests.layers import REAL, real_case
from tests.photographs import draw_photographs
from tests.test_augmentation import rim_of, shifts_of
from utils.errors import UserError
from utils.first_layers import FirstLayer
from utils.settings import parse

TINY = ["--dataset", "shapes", "--image_size", "8", "--train_limit", "64", "--test_limit", "40",
        "--model", "vgg_small", "--epochs", "1", "--batch_size", "16", "--device", "cpu",
        "--precision", "fp32"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A data folder with a trained plain network."""
    folder = tmp_path_factory.mktemp("data")
    pretrain.main(parse("", [*TINY, "--data_dir", str(folder)]))
    return folder


def settings_for(folder, out, *more):
    return parse("", [*TINY, "--data_dir", str(folder), "--results_dir", str(out), *more])


def test_the_kappa_sweep(pretrained, tmp_path):
    kappa.main(settings_for(pretrained, tmp_path))
    record = json.loads((tmp_path / "kappa.json").read_text())
    sweep = record["sweep"]
    assert [point["q"] for point in sweep] == [192, 64, 16, 4, 2]
    assert all(point["error_of_the_features"] < 1e-2 for point in sweep)
    assert sweep[0]["ssim"] < 0.5 < sweep[-1]["ssim"]
    assert (tmp_path / "figures" / "kappa.png").read_bytes().startswith(b"\x89PNG")
    assert len(measured.make_kappa(Results(records={"kappa": record})).rows) == len(sweep)


def test_equal_predictions_behind_aug_conv(pretrained, tmp_path):
    agreement.main(settings_for(pretrained, tmp_path))
    record = json.loads((tmp_path / "agreement.json").read_text())
    assert len(record["table"]) == len(agreement.KINDS)
    in_float32 = [row for row in record["table"] if row["delivery_dtype"] == "float32"]
    assert all(row["equal"] == row["images"] == 40 for row in in_float32)
    assert len(measured.make_agreement(Results(records={"agreement": record})).rows) == 8


@pytest.fixture
def quick_augmentation(monkeypatch):
    """Small cores and tiles, one turn, and attacks that do not look for colours."""
    def find_no_colours(*_):
        raise ValueError("not looked for")

    monkeypatch.setattr(adversary, "find_colours", find_no_colours)
    monkeypatch.setattr(augmentation, "TURNS", 1)
    cases = [augmentation.CoreKind("uniform", 0, True),
             augmentation.CoreKind("orthogonal", 4, True)]
    monkeypatch.setattr(augmentation, "CASES", cases)
    monkeypatch.setattr(augmentation, "STRIDED", ("mobilenet_v2",))
    monkeypatch.setattr(augmentation, "STRIDED_CASE", cases[1])


def test_augmented_features_their_costs_and_what_they_give_away(quick_augmentation, pretrained,
                                                                tmp_path):
    layer = pretrained / "developer" / "first_layer.pt"
    augmentation.main(settings_for(pretrained, tmp_path, "--first_layer", str(layer)))
    record = json.loads((tmp_path / "augmentation.json").read_text())
    assert record["weights"] == "trained" and record["model"] == "vgg_small"
    by_dtype = {(row["morph_distribution"], row["delivery_dtype"]): row
                for row in record["features"]}
    exact = by_dtype["orthogonal", "float32"]
    assert exact["error_of_flips"] < 1e-6 > exact["error_of_crops"] and exact["rim"] > 0
    assert by_dtype["orthogonal", "int8"]["ratio_of_flips"] < 1.5
    assert by_dtype["orthogonal", "int8"]["ratio_of_crops"] < 1.5
    assert by_dtype["uniform", "int8"]["refused"] and not exact["refused"]
    dense, tiles = record["composing"]
    assert dense["bytes"] == dense["bytes_of_mirrored"] == 4 * 192 * 64 * 64
    assert tiles["bytes"] == tiles["bytes_of_mirrored"] == 4 * 48 * 64 * 6 * 6
    assert [row["kept"] for row in record["epochs"]] == [False, True] * 2
    assert all(row["seconds_augmented"] > 0 and row["images"] == 64 for row in record["epochs"])
    strided = record["attacks"][-1]
    assert strided["model"] == "mobilenet_v2" and strided["layer"] == "3→32, 3×3/2"
    assert [row["delivery_dtype"] for row in record["attacks"]] == ["float32", "float32", "int8",
                                                                    "float32"]
    by_tiles = record["attacks"][1]
    assert by_tiles["known_first_layer"]["channels_right"] == 64
    assert by_tiles["blind_with_mirrored"]["up_to_colour"]["psnr"] > 60

    results = Results(records={"augmentation": record},
                      paths={"augmentation": tmp_path / "augmentation.json"})
    assert len(augmentation_tables.make_features(results).rows) == len(record["features"])
    assert len(augmentation_tables.make_composing(results).rows) == len(record["composing"])
    assert len(augmentation_tables.make_epochs(results).rows) == len(record["epochs"])
    assert len(augmentation_tables.make_attacks(results).rows) == len(record["attacks"])
    assert "times Aug-Conv's own" in claims.claim_augmentation(results).found


def test_augmentation_behind_a_first_layer_that_was_not_trained(quick_augmentation, monkeypatch,
                                                                tmp_path):
    case = augmentation.CoreKind("orthogonal", 4, is_timed=False)
    monkeypatch.setattr(augmentation, "CASES", [case])
    monkeypatch.setattr(augmentation, "DTYPES", ("float32",))
    monkeypatch.setattr(augmentation, "STRIDED", ())
    augmentation.main(settings_for(tmp_path, tmp_path))
    record = json.loads((tmp_path / "augmentation.json").read_text())
    assert record["weights"] == "untrained" and len(record["composing"]) == 1


@pytest.mark.parametrize("measurement", [agreement, augmentation, kappa])
def test_a_first_layer_for_other_images_is_refused(measurement, pretrained, tmp_path):
    layer = str(pretrained / "developer" / "first_layer.pt")
    settings = settings_for(pretrained, tmp_path, "--first_layer", layer, "--image_size", "12")
    with pytest.raises(UserError, match="is for images 3x8x8, but shapes has 3x12x12"):
        measurement.main(settings)
    assert not list(tmp_path.glob("*.json"))


def test_a_network_of_other_classes_or_another_first_layer_agrees_with_nothing(pretrained,
                                                                              tmp_path):
    developer = shutil.copytree(pretrained, tmp_path / "data") / "developer"
    settings = settings_for(tmp_path / "data", tmp_path)
    network, layer = (torch.load(developer / name) for name in ("pretrained.pt", "first_layer.pt"))
    torch.save(network | {"classes": network["classes"][::-1]}, developer / "pretrained.pt")
    vouch(developer / "pretrained.pt")
    with pytest.raises(UserError, match="has other classes than shapes"):
        agreement.main(settings)
    torch.save(network, developer / "pretrained.pt")
    torch.save(layer | {"weight": 2 * layer["weight"]}, developer / "first_layer.pt")
    for name in ("pretrained.pt", "first_layer.pt"):
        vouch(developer / name)
    with pytest.raises(UserError, match="is not the first layer of"):
        agreement.main(settings)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("name", REAL)
def test_the_rim_is_where_windows_see_other_pixels(name):
    case = real_case(name, by_tiles=False)
    shifts = shifts_of(case)
    found = augmentation.find_rim(describe(case.layer), case.shape, torch.tensor(shifts))
    for rim, (rows, columns) in zip(found[:, 0], shifts, strict=True):
        assert torch.equal(rim, rim_of(case, rows, columns))


@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 4)], ids=str)
def test_features_are_those_of_cropped_and_flipped_images_off_the_rim(stride):
    layer = nn.Conv2d(3, 8, 3, stride, 1).requires_grad_(False)
    first = FirstLayer(layer, *CIFAR, 16, "crop", "mine", "photographs", 1)
    p = Parameters(augment="crop_flip", morph_seed=1)
    case = augmentation.CoreKind("orthogonal", 8, False)
    pair, _ = augmentation.compose_pair(layer, first.shape, case, p)
    images = Prepared(draw_photographs(40, 16, seed=1), *CIFAR, 0)[:]
    row = augmentation.compare_features(pair, first, images, "float32", p)
    assert max(row["error_of_aug_conv"], row["error_of_flips"], row["error_of_crops"]) < 1e-5
    assert 0 < row["rim"] < 0.6


def test_an_estimate_trains_on_blank_images():
    assert paper_setting.measure_seconds_per_image(parse("", TINY), classes=10) > 0


def measure_defects(monkeypatch, out, *more) -> dict:
    words = ["--dataset", "shapes", "--train_limit", "64", "--test_limit", "40", "--epochs", "2",
             "--output", str(out), *more]
    monkeypatch.setattr("sys.argv", ["defects", *words])
    defects.main()
    return json.loads((out / "defects.json").read_text())


def test_what_the_defects_cost(tmp_path, monkeypatch):
    """A row for each defect; without one it is the training of the steps, as the table says."""
    record = measure_defects(monkeypatch, tmp_path, "--model", "vgg_small")
    rows = {row["change"]: row for row in record["table"]}
    assert list(rows) == [change.name for change in defects.CHANGES] and record["complete"]
    assert all(row["best"] == max(row["test_accuracies"]) for row in rows.values())
    data_dir = tmp_path / "data"
    pretrain.main(parse("", [
        "--dataset", "shapes", "--train_limit", "64", "--test_limit", "40", "--epochs", "2",
        "--model", "vgg_small", "--schedule", "onecycle", "--lr", "0.01", "--dropout", "0.1",
        "--precision", "fp32", "--device", "cpu", "--data_dir", str(data_dir),
        "--results_dir", str(tmp_path / "accuracy")]))
    plain = json.loads((data_dir / "developer" / "pretrained.json").read_text())
    as_here = [epoch["test_accuracy"] for epoch in plain["curve"]]
    assert rows["as here"]["test_accuracies"] == as_here
    table = measured.make_defects(read_results([tmp_path]))
    assert len(table.rows) == len(rows)
    assert f"trained by the steps as in the first row: {as_here[-1]:.2%}" in table.note


def test_rows_of_other_settings_or_code_are_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(defects, "CHANGES", defects.CHANGES[:1])
    one = measure_defects(monkeypatch, tmp_path, "--model", "vgg_small")
    monkeypatch.setattr(defects, "train_with", lambda change, *_: {"change": change.name})
    assert measure_defects(monkeypatch, tmp_path, "--model", "vgg_small")["table"] == one["table"]
    anew = [{"change": "as here", "seconds": 0.0}]
    other = measure_defects(monkeypatch, tmp_path, "--model", "vgg_small", "--lr", "0.1")
    assert other["table"] == anew
    (tmp_path / "defects.json").write_text(json.dumps(one | {"code": "an earlier commit"}))
    assert measure_defects(monkeypatch, tmp_path, "--model", "vgg_small")["table"] == anew


def test_the_records_of_the_steps_make_one_row(tmp_path, monkeypatch):
    """As a user does it: --results_dir DIR/accuracy in each training step, then the tables."""
    shared = ["--data_dir", str(tmp_path / "data")]
    saved = [*shared, "--results_dir", str(tmp_path / "mine" / "accuracy")]
    training = ["--epochs", "1", "--batch_size", "16", "--model", "vgg_small", "--device", "cpu",
                "--precision", "fp32"]
    images = ["--dataset", "shapes", "--image_size", "8", "--train_limit", "64",
              "--test_limit", "40"]
    layer = str(tmp_path / "data" / "developer" / "first_layer.pt")
    partner = ["--frozen_first_layer", layer, "--weight_decay", "5e-7"]
    for step, words in [(pretrain, [*images, *training, *saved]),
                        (pretrain, [*images, *training, *partner, *saved]),
                        (gen_morphing_matrix, shared),
                        (gen_augconv, [*images[:2], *images[4:], *shared]),
                        (train_with_ac, [*training, *saved]),
                        (train_no_ac, [*training, *saved]),
                        (train_no_ac, [*training, "--standardise", *saved])]:
        step.main(parse("", words, step=f"{step.__name__}.py"))
    monkeypatch.setattr("sys.argv", ["reproduce_tables.py", str(tmp_path / "mine")])
    reproduce_tables.main()
    [row] = accuracy.make_accuracy(read_results([tmp_path / "mine"])).rows
    assert row[1] == "κ = 1, uniform" and not any("not measured" in cell for cell in row)
    [tested] = equality.make_equality(read_results([tmp_path / "mine"])).rows
    assert tested[-1] == "one seed: no test"
