"""The experiments measure what their tables say, at a tiny size."""

import json

import pytest

import pretrain
from experiments import agreement, kappa, paper_setting
from experiments.tables import measured
from experiments.tables.reading import Results
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
    assert [point["q"] for point in sweep] == [192, 64, 16, 4, 1]
    assert all(point["error_of_the_features"] < 1e-2 for point in sweep)
    assert sweep[0]["ssim"] < 0.5 < sweep[-1]["ssim"]
    assert (tmp_path / "figures" / "kappa.png").read_bytes().startswith(b"\x89PNG")
    assert len(measured.make_kappa(Results(records={"kappa": record})).rows) == len(sweep)


def test_equal_predictions_behind_aug_conv(pretrained, tmp_path):
    agreement.main(settings_for(pretrained, tmp_path))
    record = json.loads((tmp_path / "agreement.json").read_text())
    assert len(record["table"]) == len(agreement.CASES)
    in_float32 = [row for row in record["table"] if row["delivery_dtype"] == "float32"]
    assert all(row["equal"] == row["images"] == 40 for row in in_float32)
    assert len(measured.make_agreement(Results(records={"agreement": record})).rows) == 8


def test_the_estimate_grows_with_epochs_and_images():
    one = parse("", [*TINY, "--epochs", "1000", "--train_limit", "100000"])
    seconds = paper_setting.estimate_training(one)
    assert seconds > 60
