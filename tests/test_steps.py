"""The five steps as a person runs them, at tiny size."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch

from tests.steps import ROOT, STEPS, TINY, run

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A data folder in which all steps have run, with what they printed."""
    folder = tmp_path_factory.mktemp("finished")
    results = {}
    for script in STEPS:
        result = results[script] = run(script, *TINY, "--data_dir", folder / "data",
                                       "--results_dir", folder / "results", cwd=folder)
        assert result.status == 0, result.err
    return folder, results


@pytest.fixture
def data(finished, tmp_path):
    """A copy of that data folder, to be spoilt."""
    return shutil.copytree(finished[0] / "data", tmp_path / "data")


def tensors(path):
    return torch.load(path, weights_only=True)


def test_documented_artifacts(finished):
    data = finished[0] / "data"
    core, inverse = (tensors(data / "provider" / f"{name}.pt")
                     for name in ("morphing_matrix", "inverse_matrix"))
    assert core["core"].shape == inverse["core"].shape == (192, 192)
    assert core["core"].dtype == torch.float32 and core["kappa"] == inverse["kappa"] == 1
    aug_conv = tensors(data / "delivery" / "aug_conv.pt")
    assert aug_conv["weight"].shape == (192, 64 * 8 * 8) and "bias" not in aug_conv
    assert tuple(aug_conv["out_shape"]) == (64, 8, 8)
    for split, count in (("train", 64), ("test", 32)):
        morphed = tensors(data / "delivery" / f"morphed_{split}.pt")
        assert morphed["images"].shape == (count, 192) and morphed["labels"].shape == (count,)
        assert morphed["images"].dtype == torch.float32 and morphed["labels"].dtype == torch.int64


def test_channel_order_says_where_each_channel_comes_from(finished):
    """Channel j of Aug-Conv is channel order[j] of the first layer, seen in the artifacts alone."""
    data = finished[0] / "data"
    order = tensors(data / "provider" / "channel_order.pt")["order"]
    assert sorted(order.tolist()) == list(range(64)) and order.tolist() != list(range(64))
    layer = tensors(data / "developer" / "first_layer.pt")
    images = torch.randn(4, 192)
    morphed = images @ tensors(data / "provider" / "morphing_matrix.pt")["core"]
    features = (morphed @ tensors(data / "delivery" / "aug_conv.pt")["weight"]).view(4, 64, 8, 8)
    plain = torch.conv2d(images.view(4, 3, 8, 8), layer["weight"], padding=layer["padding"])
    torch.testing.assert_close(features, plain[:, order], rtol=1e-3, atol=1e-3)


def test_what_the_steps_tell(finished):
    _, results = finished
    assert results["pretrain.py"].out.splitlines()[-1].startswith("plain network: ")
    matrix = results["gen_morphing_matrix.py"].out
    assert "192x192" in matrix and "condition number" in matrix and "kappa 1" in matrix
    assert "relative error against the plain first layer" in results["gen_augconv.py"].out
    last = results["train_no_ac.py"].out.splitlines()[-3:]
    assert [line.split(":")[0] for line in last] == [
        "plain network", "with Aug-Conv", "without Aug-Conv"]
    assert all("plain" in line for line in last)
    assert results["train_with_ac.py"].out.splitlines()[-1].startswith("with Aug-Conv")


def test_results_say_how_they_came_about(finished):
    folder, _ = finished
    files = sorted(f.name for f in (folder / "results").glob("*seed0.json"))
    assert [re.sub("-[0-9a-f]{6}-seed0.json", "", name) for name in files] == [
        "shapes-vgg11-n64-e2-no_ac-k1-uniform", "shapes-vgg11-n64-e2-pretrained",
        "shapes-vgg11-n64-e2-with_ac-k1-uniform"]
    for name in files:
        result = json.loads((folder / "results" / name).read_text())
        assert result["command"].startswith("python ") and result["seed"] == 0
        assert result["parameters"]["epochs"] == len(result["curve"]) == 2
        assert result["accuracy"] == result["curve"][-1]["test_accuracy"]
        assert {"torch", "numpy", "python"} <= set(result["versions"]) and result["machine"]
    developer = folder / "data" / "developer"
    for run_name in ("pretrained", "with_ac", "no_ac"):
        assert (developer / f"{run_name}.png").read_bytes().startswith(b"\x89PNG")
        assert (developer / f"{run_name}.csv").read_text().startswith("epoch,train_loss,")
    assert (developer / "morphed.png").read_bytes().startswith(b"\x89PNG")


def test_the_saved_network_works_on_morphed_images_by_itself(finished):
    """Aug-Conv is part of what train_with_ac.py saves."""
    from models.aug_conv import AugConv
    from models.vgg import VGG
    data = finished[0] / "data"
    saved = tensors(data / "developer" / "with_ac.pt")
    network = VGG(saved["model"], saved["classes"], side=8)
    network.first_layer = AugConv(saved["network"]["first_layer.weight"], (64, 8, 8))
    network.load_state_dict(saved["network"])
    morphed = tensors(data / "delivery" / "morphed_test.pt")
    right = (network.eval()(morphed["images"]).argmax(1) == morphed["labels"]).float().mean()
    accuracy = json.loads((data / "developer" / "with_ac.json").read_text())["accuracy"]
    assert float(right) == pytest.approx(accuracy, abs=1e-6)


def test_the_developer_needs_nothing_of_the_provider(data, tmp_path):
    """The wall: data/provider/ deleted, plain images absent, and no attempt to open either."""
    shutil.rmtree(data / "provider")
    for script in ("train_with_ac.py", "train_no_ac.py"):
        watched = subprocess.run(
            [sys.executable, "-c", WATCH, script, *TINY, "--data_dir", str(data), "--restart",
             "--dataset", "folder", "--dataset_dir", str(tmp_path / "nowhere")],
            cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert watched.returncode == 0, watched.stderr
        opened = watched.stdout.splitlines()[-1]
        assert "delivery/manifest.json" in opened
        assert "provider" not in opened and "nowhere" not in opened
    assert not (data / "provider").exists()


WATCH = """
import runpy, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event in (
    "open", "os.listdir", "os.scandir") else None)
sys.argv = sys.argv[1:]
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")
print(*opened)
"""


@pytest.mark.parametrize("setting", [("--feature_cache", "off"), ("--feature_cache", "on")])
def test_the_same_weights_whether_features_are_kept_or_not(data, finished, setting):
    result = run("train_with_ac.py", *TINY, "--data_dir", data, "--restart", *setting)
    assert result.status == 0, result.err
    assert ("batch by batch" if "off" in setting else "runs once") in result.out
    first, second = (tensors(folder / "developer" / "with_ac.pt")["network"]
                     for folder in (finished[0] / "data", data))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4)


def test_padding_and_kappa_go_through_all_steps(data):
    """The reference's geometry, m = 34 for 32, at small size: 10 for 8."""
    for script, *more in (["gen_morphing_matrix.py", "--kappa", "4", "--morph_distribution",
                           "orthogonal"], ["gen_augconv.py"], ["train_with_ac.py"],
                          ["train_no_ac.py"], ["train_no_ac.py", "--standardise"]):
        result = run(script, *TINY, "--data_dir", data, "--image_padding", "1", *more)
        assert result.status == 0, result.err
    assert tensors(data / "provider" / "morphing_matrix.pt")["core"].shape == (75, 75)
    assert tensors(data / "delivery" / "aug_conv.pt")["weight"].shape == (300, 64 * 8 * 8)
    assert result.out.splitlines()[-1].startswith("without, standardised")


@pytest.mark.parametrize("script, command", [
    ("gen_augconv.py", "pretrain.py"), ("train_with_ac.py", "gen_augconv.py"),
    ("train_no_ac.py", "gen_augconv.py")])
def test_a_step_started_too_early_names_the_command(tmp_path, script, command):
    result = run(script, *TINY, "--data_dir", tmp_path / "data")
    assert result.status == 1 and f"run `python {command}` first" in result.message
    assert len(result.message.splitlines()) == 1


def test_aug_conv_needs_the_matrices_too(data):
    shutil.rmtree(data / "provider")
    result = run("gen_augconv.py", *TINY, "--data_dir", data)
    assert result.status == 1 and "run `python gen_morphing_matrix.py` first" in result.message


def test_a_sweep_starts_anew_by_itself(data):
    """A finished run is no obstacle to one with other parameters."""
    result = run("pretrain.py", *TINY, "--data_dir", data, "--epochs", "1")
    assert result.status == 0 and "epoch   1" in result.out
    result = run("train_no_ac.py", *TINY, "--data_dir", data)
    assert "finished already" in result.out and "which had another epochs" in result.out


def test_first_layer_of_other_networks_is_refused_before_training(data):
    """An Aug-Conv with another number of channels than the network's first layer has."""
    from utils.artifacts import Saving
    layer = torch.nn.Conv2d(3, 16, 5, stride=2, padding=2)
    from models import first_layer
    with Saving(data / "developer") as new:
        new.save("first_layer.pt", first_layer.to_file(layer))
    result = run("gen_augconv.py", *TINY, "--data_dir", data)
    assert result.status == 0, result.err
    assert tensors(data / "delivery" / "aug_conv.pt")["weight"].shape == (192, 16 * 4 * 4)
    result = run("train_with_ac.py", *TINY, "--data_dir", data)
    assert result.status == 1 and "16 channels" in result.message
