"""The five steps as a person runs them, at tiny size."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from models.build import build
from mole import first_layer
from mole.aug_conv import AugConv
from mole.first_layer import BehindFirstLayer
from tests.steps import ROOT, STEPS, TINY
from tests.steps import run as run_step
from utils.artifacts import Saving, manifest_of
from utils.settings import options_of


def run(script, data, *arguments, **also):
    return run_step(script, "--data_dir", data, *arguments, settings=TINY, **also)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A data folder in which all steps have run, with what they printed."""
    folder = tmp_path_factory.mktemp("finished")
    results = {}
    for script in STEPS:
        more = ("--results_dir", folder / "results") if "gen" not in script else ()
        result = results[script] = run(script, folder / "data", *more, cwd=folder)
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
        morphed, labels = (np.load(data / "delivery" / f"{kind}_{split}.npy")
                           for kind in ("morphed", "labels"))
        assert (morphed.shape, morphed.dtype) == ((count, 192), np.float32)
        assert (labels.shape, labels.dtype) == ((count,), np.int64)


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
    assert [re.sub("-[0-9a-f]{8}-seed0.json", "", name) for name in files] == [
        "shapes-vgg11-n64-e2-no_ac-k1-uniform", "shapes-vgg11-n64-e2-pretrained",
        "shapes-vgg11-n64-e2-with_ac-k1-uniform"]
    for name in files:
        result = json.loads((folder / "results" / name).read_text())
        assert result["command"].startswith("python ") and result["seed"] == 0
        assert result["parameters"]["epochs"] == len(result["curve"]) == 2
        assert not {"kappa", "tile", "morph_seed", "data_dir"} & set(result["parameters"])
        assert result["accuracy"] == result["curve"][-1]["test_accuracy"]
        assert {"torch", "numpy", "python"} <= set(result["versions"]) and result["machine"]
    developer = folder / "data" / "developer"
    for run_name in ("pretrained", "with_ac", "no_ac"):
        assert (developer / f"{run_name}.png").read_bytes().startswith(b"\x89PNG")
        assert (developer / f"{run_name}.csv").read_text().startswith("epoch,train_loss,")
    assert (folder / "data/provider/morphed.png").read_bytes().startswith(b"\x89PNG")


def test_the_saved_network_works_behind_aug_conv(finished):
    """with_ac.pt names its delivery; both together reach the accuracy that was reported."""
    data = finished[0] / "data"
    saved, weight = (tensors(data / file) for file in ("developer/with_ac.pt",
                                                       "delivery/aug_conv.pt"))
    assert saved["behind"]["deliveries"] == [manifest_of(data / "delivery")["id"]]
    network = BehindFirstLayer(build(**saved["model"]), (3, 8, 8))
    network.network.load_state_dict(saved["network"])
    aug_conv = AugConv(weight["weight"], weight["out_shape"])
    morphed, labels = (torch.from_numpy(np.load(data / "delivery" / f"{kind}_test.npy"))
                       for kind in ("morphed", "labels"))
    right = (network.eval()(aug_conv(morphed)).argmax(1) == labels).float().mean()
    accuracy = json.loads((data / "developer" / "with_ac.json").read_text())["accuracy"]
    assert float(right) == pytest.approx(accuracy, abs=1e-6)


def test_the_developer_needs_nothing_of_the_provider(data):
    """The wall: data/provider/ deleted, and no attempt to open it, or a data set."""
    shutil.rmtree(data / "provider")
    for script in ("train_with_ac.py", "train_no_ac.py"):
        watched = subprocess.run(
            [sys.executable, "-c", WATCH, script, *options_of(script, TINY), "--restart",
             "--data_dir", str(data)],
            cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert watched.returncode == 0, watched.stderr
        opened = watched.stdout.splitlines()[-1].split()
        assert str(data / "delivery" / "manifest.json") in opened
        own = [name for name in opened if name.startswith(str(data))]
        assert not [name for name in own if "provider" in name or "datasets" in name]
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
    result = run("train_with_ac.py", data, "--restart", *setting)
    assert result.status == 0, result.err
    assert ("batch by batch" if "off" in setting else "runs once") in result.out
    first, second = (tensors(folder / "developer" / "with_ac.pt")["network"]
                     for folder in (finished[0] / "data", data))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4)


def test_padding_and_kappa_go_through_all_steps(data):
    """The reference's geometry, m = 34 for 32, at small size: 10 for 8."""
    padded = ("--image_padding", "1")
    for script, *more in (["gen_morphing_matrix.py", *padded, "--kappa", "4",
                           "--morph_distribution", "orthogonal"], ["gen_augconv.py", *padded],
                          ["train_with_ac.py"], ["train_no_ac.py"],
                          ["train_no_ac.py", "--standardise"]):
        result = run(script, data, *more)
        assert result.status == 0, result.err
    assert tensors(data / "provider" / "morphing_matrix.pt")["core"].shape == (75, 75)
    assert tensors(data / "delivery" / "aug_conv.pt")["weight"].shape == (300, 64 * 8 * 8)
    assert result.out.splitlines()[-1].startswith("without, standardised")


@pytest.mark.parametrize("script, command", [
    ("gen_augconv.py", "pretrain.py"), ("train_with_ac.py", "gen_augconv.py"),
    ("train_no_ac.py", "gen_augconv.py")])
def test_a_step_started_too_early_names_the_command(tmp_path, script, command):
    result = run(script, tmp_path / "data")
    assert result.status == 1 and f"run `python {command}` first" in result.message
    assert len(result.message.splitlines()) == 1


def test_aug_conv_needs_the_matrices_too(data):
    shutil.rmtree(data / "provider")
    result = run("gen_augconv.py", data)
    assert result.status == 1 and "run `python gen_morphing_matrix.py` first" in result.message


def test_a_sweep_starts_anew_by_itself(data):
    """A finished run is no obstacle to one with other parameters."""
    result = run("pretrain.py", data, "--epochs", "1")
    assert result.status == 0 and "epoch   1" in result.out
    assert re.search("pretrained of .*% is replaced: it had other epochs", result.out)
    result = run("train_no_ac.py", data)
    assert "finished already" in result.out and "the two differ in epochs" in result.out
    assert "delivery's" not in result.out


def test_what_is_compared_says_where_seed_and_delivery_differ(data):
    for command in ("gen_morphing_matrix.py --morph_seed 5", "gen_augconv.py",
                    "train_no_ac.py --seed 3"):
        result = run(*command.split()[:1], data, *command.split()[1:])
        assert result.status == 0, result.err
    lines = {line.partition(":")[0]: line for line in result.out.splitlines()}
    assert lines["with Aug-Conv"].endswith("plain (another delivery's)")
    assert lines["without Aug-Conv"].endswith("plain (the two differ in seed)")


def test_the_first_layer_comes_with_its_manifest(data):
    (data / "developer" / "manifest.json").unlink()
    result = run("gen_augconv.py", data)
    assert result.status == 1 and "first_layer.pt came without its manifest.json" in result.message


def test_first_layer_of_other_networks_is_refused_before_training(data):
    """An Aug-Conv with another number of channels than the network's first layer has."""
    layer = torch.nn.Conv2d(3, 16, 5, stride=2, padding=2)
    with Saving(data / "developer") as new:
        new.save("first_layer.pt", first_layer.to_file(layer, (0.5,) * 3, (0.2,) * 3))
    result = run("gen_augconv.py", data)
    assert result.status == 0, result.err
    assert tensors(data / "delivery" / "aug_conv.pt")["weight"].shape == (192, 16 * 4 * 4)
    result = run("train_with_ac.py", data)
    assert result.status == 1 and "16x4x4 features" in result.message


@pytest.mark.parametrize("script, setting, users", [
    ("gen_morphing_matrix.py", ("--epochs", "3"), "pretrain.py"),
    ("train_with_ac.py", ("--kappa", "3"), "gen_morphing_matrix.py"),
    ("train_with_ac.py", ("--standardise",), "train_no_ac.py"),
    ("pretrain.py", ("--morph_seed", "3"), "gen_morphing_matrix.py"),
    ("predict.py", ("--images", "a"), "morph_images.py")])
def test_a_setting_of_other_steps_is_refused(tmp_path, script, setting, users):
    """It would be taken for one that had an effect."""
    result = run(script, tmp_path / "data", *setting)
    assert result.status == 2 and len(result.message.splitlines()) == 1
    assert f"{setting[0]} is not used here, but by" in result.message and users in result.message
    assert not (tmp_path / "data").exists()
