"""The five steps as a person runs them, at tiny size."""

import gc
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import gen_augconv
import train_with_ac
from models.build import build
from mole.aug_conv import AugConv
from mole.first_layer import BehindFirstLayer
from tests.damage import change, key_folder, refused
from tests.steps import ROOT, STEPS, TINY, call
from utils.artifacts import read_manifest
from utils.delivery import read_deliveries
from utils.devices import Context
from utils.errors import UserError
from utils.keys import draw_key
from utils.owners import adopt
from utils.settings import Settings, options_of


def run(script, data, *arguments):
    return call(script, "--data_dir", data, *arguments, settings=TINY)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A data folder in which all steps have run, with what they printed."""
    folder = tmp_path_factory.mktemp("finished")
    results = {}
    for script in STEPS:
        more = ()
        if not script.startswith("gen_"):
            more = ("--results_dir", folder / "results")
        results[script] = run(script, folder / "data", *more)
        assert results[script].status == 0, results[script].err
    return folder, results


@pytest.fixture
def data(finished, tmp_path):
    """A copy of that data folder, to be changed."""
    return shutil.copytree(finished[0] / "data", tmp_path / "data")


def tensors(path):
    return torch.load(path, weights_only=True)


def array(data, name):
    return np.load(data / "delivery" / f"{name}.npy")


# What the steps make

def test_documented_artifacts(finished):
    data = finished[0] / "data"
    for name in ("morphing_matrix", "inverse_matrix"):
        core = tensors(key_folder(data) / f"{name}.pt")["core"]
        assert core.shape == (192, 192) and core.dtype == torch.float32
    manifest = read_manifest(key_folder(data))
    assert manifest["kappa"] == 1 and manifest["shape"] == [3, 8, 8]
    aug_conv = tensors(data / "delivery" / "aug_conv.pt")
    assert aug_conv["weight"].shape == (192, 64 * 8 * 8) and "bias" not in aug_conv
    assert tuple(aug_conv["out_shape"]) == (64, 8, 8)
    for split, count in (("train", 64), ("test", 32)):
        morphed, labels = array(data, f"morphed_{split}"), array(data, f"labels_{split}")
        assert (morphed.shape, morphed.dtype) == ((count, 192), np.float32)
        assert (labels.shape, labels.dtype) == ((count,), np.int64)


def test_channel_order_says_where_each_channel_comes_from(finished):
    """Channel j of Aug-Conv is channel order[j] of the first layer, seen in the artifacts alone."""
    data = finished[0] / "data"
    order = tensors(key_folder(data) / "channel_order.pt")["order"]
    assert sorted(order.tolist()) == list(range(64)) and order.tolist() != list(range(64))
    layer = tensors(data / "developer" / "first_layer.pt")
    images = torch.randn(4, 192)
    morphed = images @ tensors(key_folder(data) / "morphing_matrix.pt")["core"]
    features = (morphed @ tensors(data / "delivery" / "aug_conv.pt")["weight"]).view(4, 64, 8, 8)
    plain = torch.conv2d(images.view(4, 3, 8, 8), layer["weight"], padding=layer["padding"])
    torch.testing.assert_close(features, plain[:, order], rtol=1e-3, atol=1e-3)


def test_what_the_steps_tell(finished):
    _, results = finished
    assert results["pretrain.py"].out.splitlines()[-1].startswith("plain network: ")
    assert results["pretrain.py"].out.count("plain network: ") == 1
    matrix = results["gen_morphing_matrix.py"].out
    assert "192x192" in matrix and "condition number" in matrix and "kappa 1" in matrix
    assert "relative error against the plain first layer" in results["gen_augconv.py"].out
    last = results["train_no_ac.py"].out.splitlines()[-3:]
    assert [line.split(":")[0] for line in last] == [
        "plain network", "with Aug-Conv", "without Aug-Conv"]
    assert all(" plain" in line for line in last[1:])
    assert results["train_with_ac.py"].out.splitlines()[-1].startswith("with Aug-Conv")


def test_results_say_how_they_came_about(finished):
    folder, _ = finished
    files = sorted(f.name for f in (folder / "results").glob("*seed0.json"))
    assert [re.sub("-[0-9a-f]{8}-seed0.json", "", name) for name in files] == [
        "shapes-vgg_small-n64-e2-no_ac-k1-uniform", "shapes-vgg_small-n64-e2-pretrained",
        "shapes-vgg_small-n64-e2-with_ac-k1-uniform"]
    for name in files:
        record = json.loads((folder / "results" / name).read_text())
        assert record["command"].startswith("python ") and record["seed"] == 0
        assert record["settings"]["epochs"] == len(record["curve"]) == 2
        assert not {"kappa", "tile", "morph_seed", "data_dir"} & set(record["settings"])
        assert record["accuracy"] == record["curve"][-1]["test_accuracy"]
        assert {"torch", "numpy", "python"} <= set(record["versions"]) and record["machine"]
        assert len(record["data"]["keys"]) == (record["run"] != "pretrained")
    developer = folder / "data" / "developer"
    for run_name in ("pretrained", "with_ac", "no_ac"):
        assert (developer / f"{run_name}.png").read_bytes().startswith(b"\x89PNG")
        assert (developer / f"{run_name}.csv").read_text().startswith("epoch,train_loss,")
    picture = key_folder(folder / "data") / "morphed.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_saved_network_works_behind_aug_conv(finished):
    """with_ac.pt names its delivery; both together reach the accuracy that was reported."""
    data = finished[0] / "data"
    saved = tensors(data / "developer" / "with_ac.pt")
    weight = tensors(data / "delivery" / "aug_conv.pt")
    assert saved["deliveries"] == [read_manifest(data / "delivery")["id"]]
    network = BehindFirstLayer(build(**saved["model"]), (3, 8, 8))
    network.network.load_state_dict(saved["network"])
    aug_conv = AugConv(weight["weight"], weight["out_shape"])
    morphed, labels = (torch.from_numpy(array(data, f"{kind}_test"))
                       for kind in ("morphed", "labels"))
    right = (network.eval()(aug_conv(morphed)).argmax(1) == labels).float().mean()
    accuracy = json.loads((data / "developer" / "with_ac.json").read_text())["accuracy"]
    assert float(right) == pytest.approx(accuracy, abs=1e-6)


def test_padding_and_kappa_go_through_all_steps(data):
    """The reference's geometry, m = 34 for 32, at small size: 10 for 8. Step 4 needs no option."""
    for script, *more in (["gen_morphing_matrix.py", "--image_padding", "1", "--kappa", "4",
                           "--morph_distribution", "orthogonal"], ["gen_augconv.py"],
                          ["train_with_ac.py"], ["train_no_ac.py"],
                          ["train_no_ac.py", "--standardise"]):
        result = run(script, data, *more)
        assert result.status == 0, result.err
    assert tensors(key_folder(data) / "morphing_matrix.pt")["core"].shape == (75, 75)
    assert tensors(data / "delivery" / "aug_conv.pt")["weight"].shape == (300, 64 * 8 * 8)
    assert result.out.splitlines()[-1].startswith("without, standardised")


# The wall

def test_the_developer_needs_nothing_of_the_provider(data):
    """data/provider/ deleted, and no attempt to open it, or a data set."""
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
        assert not [name for name in own if "provider" in name or "decoded" in name]
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


def test_first_layer_pt_is_all_that_the_provider_needs(data, tmp_path):
    """One file, without its manifest, from any place; sizes come from it."""
    handed_over = tmp_path / "from the developer.pt"
    shutil.move(data / "developer" / "first_layer.pt", handed_over)
    shutil.rmtree(data / "developer")
    options = TINY[:TINY.index("--image_size")] + TINY[TINY.index("--image_size") + 2:]
    for script in ("gen_morphing_matrix.py", "gen_augconv.py"):
        result = call(script, "--data_dir", data, "--first_layer", handed_over, settings=options)
        assert result.status == 0, result.err
    assert read_manifest(data / "delivery")["shape"] == [3, 8, 8]


# Facts with an owner

@pytest.mark.parametrize("script, setting, words", [
    ("gen_morphing_matrix.py", ("--image_size", "16"), ["image_size is 16", "has 8"]),
    ("gen_morphing_matrix.py", ("--channels", "1"), ["channels is 1", "has 3"]),
    ("gen_augconv.py", ("--image_size", "16"), ["image_size is 16", "has 8"]),
    ("gen_augconv.py", ("--image_fit", "pad"), ["image_fit is 'pad'", "has 'crop'"]),
    ("gen_augconv.py", ("--image_padding", "1"), ["image_padding is 1", "has 0", "key "])],
    ids=["side, step 3", "channels, step 3", "side, step 4", "fit, step 4", "padding, step 4"])
def test_an_option_that_contradicts_its_owners_file_is_refused(data, script, setting, words):
    """With both values."""
    assert refused(run(script, data, *setting), *words, setting[0])


def test_an_edit_that_contradicts_the_owner_is_refused_like_an_option():
    edited = Settings(image_fit="pad", image_size=8, given=frozenset({"image_fit"}))
    with pytest.raises(UserError, match=r"image_fit is 'pad', but .* has 'crop'"):
        adopt(edited, "first_layer.pt", image_fit="crop")
    adopted = adopt(edited, "first_layer.pt", image_size=16, channels=1)
    assert (adopted.image_size, adopted.channels, adopted.image_fit) == (16, 1, "pad")


def test_a_default_gives_way_to_the_owners_file(data):
    layer = data / "developer" / "first_layer.pt"
    change(layer, image_fit="stretch")
    assert run("gen_augconv.py", data).status == 0
    assert read_manifest(data / "delivery")["image_fit"] == "stretch"


# Missing and misfitting inputs

@pytest.mark.parametrize("script, command", [
    ("gen_augconv.py", "pretrain.py"), ("train_with_ac.py", "gen_augconv.py"),
    ("train_no_ac.py", "gen_augconv.py"), ("morph_images.py", "gen_morphing_matrix.py"),
    ("predict.py", "gen_augconv.py")])
def test_a_step_started_too_early_names_the_command(tmp_path, script, command):
    assert refused(run(script, tmp_path / "data"), f"`python {command}`")


def test_aug_conv_needs_the_matrices_too(data):
    shutil.rmtree(data / "provider")
    assert refused(run("gen_augconv.py", data), "run `python gen_morphing_matrix.py` first")


@pytest.mark.parametrize("script", ["gen_morphing_matrix.py", "gen_augconv.py"])
def test_a_first_layer_that_is_not_there_is_not_passed_over(data, script):
    assert refused(run(script, data, "--first_layer", "nowhere.pt"), "nowhere.pt is missing")


@pytest.fixture
def strided_layer(tmp_path):
    """The first layer of another network: 12 channels, 5x5, stride 2."""
    folder = tmp_path / "strided"
    settings = (*TINY, "--model", "tests.own_networks:strided", "--epochs", "1")
    assert call("pretrain.py", "--data_dir", folder, settings=settings).status == 0
    return folder / "developer" / "first_layer.pt"


def test_a_first_layer_of_another_network_is_refused_before_training(data, strided_layer):
    """By both networks that would stand behind it."""
    words = ["12x4x4 features", "first layer of vgg_small gives 64x8x8",
             "of tests.own_networks:strided"]
    assert refused(run("pretrain.py", data, "--frozen_first_layer", strided_layer), *words)
    assert run("gen_augconv.py", data, "--first_layer", strided_layer).status == 0
    result = run("train_with_ac.py", data)
    lines = result.message.splitlines()
    assert result.status == 1 and all(word in lines[-1] for word in words), result.message


LIKE_THE_OWN = {
    "kernel": dict(weight=lambda weight: weight[..., 1:2, 1:2].clone(), padding=(0, 0)),
    "dilation": dict(padding=(2, 2), dilation=(2, 2)),
    "bias": dict(bias=torch.zeros(64))}


@pytest.mark.parametrize("what", LIKE_THE_OWN)
def test_a_frozen_layer_of_as_many_features_but_another_kind_is_refused(data, what):
    """The network would be saved with it, and built again without."""
    layer = data / "developer" / "first_layer.pt"
    change(layer, **LIKE_THE_OWN[what])
    assert refused(run("pretrain.py", data, "--frozen_first_layer", layer),
                   "another kernel, stride, padding", "a bias", "the first layer of vgg_small")


# Runs that were there before

def test_a_sweep_trains_again_by_itself(data):
    """A finished run is no obstacle to one with other settings."""
    result = run("pretrain.py", data, "--epochs", "1")
    assert result.status == 0 and "epoch   1" in result.out
    assert re.search("the earlier plain network, .*%, will be replaced: it had other epochs",
                     result.out)
    result = run("train_no_ac.py", data)
    assert "finished already" in result.out and "the two differ in epochs" in result.out
    assert "another delivery" not in result.out


def test_another_seed_is_told_as_that_alone(data):
    result = run("pretrain.py", data, "--seed", "3")
    assert "it had other seed\n" in result.out


def test_what_is_compared_says_where_seed_and_delivery_differ(data):
    for script, *more in (["gen_morphing_matrix.py", "--morph_seed", "5"], ["gen_augconv.py"],
                          ["train_no_ac.py", "--seed", "3"]):
        result = run(script, data, *more)
        assert result.status == 0, result.err
    lines = {line.partition(":")[0]: line for line in result.out.splitlines()}
    assert lines["with Aug-Conv"].endswith("plain (another delivery)")
    assert lines["without Aug-Conv"].endswith("plain (the two differ in seed)")


def test_points_are_not_compared_where_test_images_differ(data):
    assert run("gen_augconv.py", data, "--test_limit", "16").status == 0
    out = run("train_no_ac.py", data).out
    line = out.splitlines()[-1]
    assert line.startswith("without Aug-Conv") and "points" not in line
    assert "not comparable with plain: other test images or labels" in line


def test_training_images_that_differ_are_told_beside_the_points(data):
    assert run("gen_augconv.py", data, "--train_limit", "48").status == 0
    line = run("train_with_ac.py", data).out.splitlines()[-1]
    assert "points" in line and "training images" in line


@pytest.mark.parametrize("script, setting, users", [
    ("gen_morphing_matrix.py", ("--epochs", "3"), "pretrain.py"),
    ("train_with_ac.py", ("--standardise",), "train_no_ac.py")])
def test_a_setting_of_other_steps_is_refused(tmp_path, script, setting, users):
    """It would be taken for one that had an effect."""
    result = run(script, tmp_path / "data", *setting)
    assert result.status == 2 and len(result.message.splitlines()) == 1
    assert f"{setting[0]} is not used here, but by" in result.message and users in result.message
    assert not (tmp_path / "data").exists()


def test_kept_features_free_aug_conv(data):
    """At the paper's setting it takes 0.8 GB, for as long as the network trains."""
    def living() -> int:
        gc.collect()
        return sum(type(one) is AugConv for one in gc.get_objects())

    deliveries = read_deliveries([data / "delivery"], data / "developer" / "first_layer.pt")
    before = living()
    p = Settings(feature_cache="on")
    features, _ = train_with_ac.features_of(deliveries, p, Context(torch.device("cpu")))
    assert len(features.train) == deliveries[0].train_images and living() == before


def test_the_core_counts_where_parameter_py_was_edited_since_it_was_drawn(capsys):
    key = draw_key((3, 8, 8))
    gen_augconv.say_which_core(Settings(tile=4, kappa=1, given=frozenset({"tile"})), key)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: tile is 4 in the settings, but key {key.id} has 0, which")
    gen_augconv.say_which_core(Settings(tile=4), key)    # a preset of another step, say: no choice
    assert not capsys.readouterr().err
