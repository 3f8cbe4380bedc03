"""The five steps with other networks, other images, and other ways to morph and to deliver."""

import importlib
import re
import shutil
import sys

import numpy as np
import pytest
import torch

from images.datasets import load_images, normalise
from models.build import build
from mole.morphing import relative_error
from parameter import Parameters
from tests.damage import refused
from tests.inference import record
from tests.steps import STEPS, TINY, call
from utils import training
from utils.artifacts import load
from utils.delivery import as_morphed, read_delivery
from utils.runs import save_checkpoint

OWN = "tests.own_networks:"
# Settings beyond TINY, the shape of a stored morphed image, and the features' largest error.
VARIANTS = {
    "shufflenet": ("--model shufflenet_v2_x0_5 --image_size 16 --tile 8 "
                   "--morph_distribution orthogonal", (2, 2, 192), 2e-6),
    "vision transformer": (f"--model {OWN}small_vit --image_size 16 --tile 8 "
                           "--morph_distribution orthogonal", (2, 2, 192), 2e-6),
    "own, 5x5, stride 2, bias": (f"--model {OWN}strided --image_size 18 --tile 4 "
                                 "--morph_distribution normal", (5, 5, 48), 1e-4),
    "own, kappa, padding": (f"--model {OWN}strided --kappa 3 --image_padding 2", (432,), 5e-3),
    "grey": (f"--model {OWN}grey --channels 1 --kappa 2", (64,), 5e-3),
    "grey by tiles": ("--channels 1 --tile 4 --image_padding 1", (3, 3, 16), 5e-3),
    "int8": (f"--model {OWN}strided --tile 4 --delivery_dtype int8 --morph_distribution orthogonal",
             (2, 2, 48), 2e-2),
    "float16": (f"--model {OWN}strided --delivery_dtype float16 --morph_distribution orthogonal",
                (192,), 5e-4)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_five_steps(tmp_path, variant):
    """Each ends well; features are the plain ones, and morphed images what the manifest says."""
    words, stored, bound = VARIANTS[variant]
    settings = (*TINY, "--epochs", "1", *words.split())
    results = {}
    for script in STEPS:
        results[script] = call(script, "--data_dir", tmp_path, settings=settings)
        assert results[script].status == 0, results[script]
    error = re.search(r"against the plain first layer (\S+)", results["gen_augconv.py"].out)
    assert float(error[1]) < bound
    delivery = read_delivery(tmp_path / "delivery")
    rows = np.load(tmp_path / "delivery" / "morphed_train.npy", mmap_mode="r")
    assert rows.shape == (64, *stored) and rows.dtype == delivery.geometry.delivery_dtype
    assert np.load(tmp_path / "delivery" / "labels_test.npy").shape == (32,)
    for name in ("pretrained", "with_ac", "no_ac"):
        assert np.isfinite(record(tmp_path, name)["curve"][0]["train_loss"])


STRIDED = (*TINY, "--model", OWN + "strided")


def steps(data, *commands, settings=STRIDED):
    """Runs steps to their good end; gives what the last one printed."""
    for command in commands:
        script, *more = command.split()
        result = call(script, *more, "--data_dir", data, settings=settings)
        assert result.status == 0, result.err
    return result.out


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    steps(folder, "pretrain.py")
    return folder


@pytest.fixture
def developed(pretrained, tmp_path):
    """A data folder after step 2, of the network with a stride of 2."""
    return shutil.copytree(pretrained, tmp_path / "data")


def test_a_dtype_that_is_too_coarse_is_refused_with_one_that_would_do(developed):
    settings = (*TINY, "--delivery_dtype", "int8", "--data_dir", str(developed))
    assert call("gen_morphing_matrix.py", settings=settings).status == 0
    assert refused(call("gen_augconv.py", settings=settings),
                   "int8 is too coarse for this uniform core: choose --delivery_dtype float32, or "
                   "int8 with gen_morphing_matrix.py --morph_distribution orthogonal")
    assert not (developed / "delivery" / "aug_conv.pt").exists()


def test_more_padding_than_the_first_layers_is_refused(developed):
    """Before a key is drawn, or by step 4 where the first layer came after the key."""
    settings = (*TINY, "--image_padding", "3", "--data_dir", str(developed))
    words = "image_padding is 3, but the first layer pads its images by 2 only"
    layer = developed / "developer" / "first_layer.pt"
    assert refused(call("gen_morphing_matrix.py", settings=settings), words)
    layer.rename(developed / "first_layer.pt")
    assert call("gen_morphing_matrix.py", settings=settings).status == 0
    (developed / "first_layer.pt").rename(layer)
    assert refused(call("gen_augconv.py", settings=settings), words)
    assert not (developed / "delivery" / "aug_conv.pt").exists()


def test_the_next_tile_works(developed):
    steps(developed, "gen_morphing_matrix.py --tile 6", "gen_augconv.py")


def test_the_frozen_partner_sees_the_features_of_aug_conv(developed):
    """pretrain.py --frozen_first_layer trains behind the very layer, which stays as it is."""
    layer = developed / "developer" / "first_layer.pt"
    before = layer.read_bytes()
    out = steps(developed, "gen_morphing_matrix.py --tile 4 --morph_distribution orthogonal",
                "gen_augconv.py --shuffle_channels no",
                f"pretrain.py --frozen_first_layer {layer}", "train_with_ac.py")
    assert [line.split(":")[0] for line in out.splitlines()[-3:]] == [
        "plain network", "plain, same first layer", "with Aug-Conv"]
    assert layer.read_bytes() == before

    saved = torch.load(developed / "developer" / "pretrained_frozen.pt", weights_only=True)
    network = build(**saved["model"])
    network.load_state_dict(saved["network"])
    content = torch.load(layer, weights_only=True)
    assert torch.equal(network[0].weight, content["weight"])
    plain = load_images(Parameters(dataset="shapes", image_size=8, test_limit=32), "test").images
    delivery = read_delivery(developed / "delivery")
    morphed, _ = delivery.split("test")
    with torch.no_grad():
        expected = network[0](normalise(plain, content["mean"], content["std"]))
    features = delivery.aug_conv()(as_morphed(morphed, delivery.scale))
    assert relative_error(features, expected) < 2e-6


def test_aug_conv_of_a_delivery_takes_images_of_its_size_alone(mirrored):
    aug_conv = read_delivery(mirrored / "delivery").aug_conv()
    with pytest.raises(ValueError, match="for images of 2x2 tiles"):
        aug_conv(torch.zeros(1, 48, 3, 3))


# Augmentation behind Aug-Conv

@pytest.fixture(scope="module")
def mirrored(pretrained, tmp_path_factory):
    """A data folder with a delivery for flips, its channels in their own order."""
    data = shutil.copytree(pretrained, tmp_path_factory.mktemp("mirrored") / "data")
    steps(data, "gen_morphing_matrix.py --tile 4 --morph_distribution orthogonal",
          "gen_augconv.py --mirrored --shuffle_channels no")
    return data


@pytest.mark.parametrize("augment", ["none", "crop", "crop_flip"])
def test_augmented_training_behind_aug_conv_is_that_of_its_fair_partner(mirrored, tmp_path,
                                                                        augment):
    """To rounding in float32, whether features are kept or computed in every batch.

    Dropout is off in this network, and the first epoch is of four steps.
    """
    data = shutil.copytree(mirrored, tmp_path / "data")
    options = f"--augment {augment} --epochs 1 --lr 0.01 --restart"
    layer = data / "developer" / "first_layer.pt"
    steps(data, f"pretrain.py --frozen_first_layer {layer} {options} --weight_decay 5e-7")
    plain = record(data, "pretrained_frozen")
    for cache in ("on", "off"):
        steps(data, f"train_with_ac.py {options} --feature_cache {cache}")
        behind = record(data, "with_ac")
        loss = behind["curve"][0]["train_loss"]
        assert loss == pytest.approx(plain["curve"][0]["train_loss"], rel=1e-5)
        assert behind["frozen_layer"] == plain["frozen_layer"]


def test_augmentation_changes_what_is_learnt(mirrored, tmp_path):
    """In each of its three forms otherwise."""
    data = shutil.copytree(mirrored, tmp_path / "data")
    losses = set()
    for augment in ("none", "crop", "crop_flip"):
        steps(data, f"train_with_ac.py --augment {augment} --epochs 1")
        losses.add(record(data, "with_ac")["curve"][0]["train_loss"])
    assert len(losses) == 3


def test_an_augmented_run_does_not_depend_on_where_features_are(mirrored, tmp_path):
    """Kept or computed, bit for bit."""
    data = shutil.copytree(mirrored, tmp_path / "data")
    networks = []
    for cache, words in (("on", "runs once"), ("off", "batch by batch")):
        out = steps(data, f"train_with_ac.py --augment crop_flip --restart --feature_cache {cache}")
        assert words in out
        networks.append(load(data / "developer" / "with_ac.pt")["network"])
    torch.testing.assert_close(networks[0], networks[1], rtol=0, atol=0)


def stop(*given):
    """In the place of save_checkpoint: Ctrl-C right after it."""
    save_checkpoint(*given)
    raise KeyboardInterrupt


@pytest.mark.parametrize("command", ["pretrain.py", "train_with_ac.py --feature_cache off"])
def test_an_augmented_run_goes_on_as_if_it_had_never_stopped(mirrored, tmp_path, monkeypatch,
                                                             command):
    data = shutil.copytree(mirrored, tmp_path / "data")
    script, *options = f"{command} --augment crop_flip --restart".split()
    name = "pretrained" if script == "pretrain.py" else "with_ac"
    steps(data, " ".join([script, *options]))
    whole = load(data / "developer" / f"{name}.pt")["network"]
    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", stop)
        stopped = call(script, *options, "--data_dir", data, settings=STRIDED)
    assert refused(stopped, "stopped", "with --restart no")
    out = steps(data, " ".join([script, *options[:-1]]))
    assert "going on after epoch 1" in out
    torch.testing.assert_close(load(data / "developer" / f"{name}.pt")["network"], whole,
                               rtol=0, atol=0)


def test_flips_need_a_mirrored_aug_conv(mirrored, tmp_path):
    data = shutil.copytree(mirrored, tmp_path / "data")
    command = ("train_with_ac.py", "--augment", "crop_flip", "--data_dir", data)
    steps(data, "gen_augconv.py --shuffle_channels no")
    assert refused(call(*command, settings=STRIDED), "has no mirrored Aug-Conv",
                   "gen_augconv.py again, with --mirrored", "--augment crop")
    assert not (data / "delivery" / "mirrored_aug_conv.pt").exists()
    steps(data, "train_with_ac.py --augment crop")


def test_without_aug_conv_nothing_can_be_augmented(mirrored):
    result = call("train_no_ac.py", "--augment", "crop", "--data_dir", mirrored, settings=STRIDED)
    assert refused(result, "--augment needs Aug-Conv", "--augment none")


# A network whose code has changed

NETWORK = """
from torch import nn

def network(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(),
                         nn.Linear(256, num_classes))
"""


EDITS = {"another activation": ("ReLU", "Tanh"),
         "a layer more": ("nn.ReLU(),", "nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(),")}


@pytest.mark.parametrize("edit", EDITS)
def test_a_network_whose_code_has_changed_is_another_run(tmp_path, monkeypatch, edit):
    """Refused where it is finished already, and where it would go on."""
    monkeypatch.syspath_prepend(tmp_path)
    file, data = tmp_path / "my_own_network.py", tmp_path / "data"

    def pretrain(code, *options):
        file.write_text(code)
        monkeypatch.delitem(sys.modules, "my_own_network", raising=False)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        settings = (*TINY, "--model", "my_own_network:network")
        return call("pretrain.py", "--data_dir", data, *options, settings=settings)

    changed = NETWORK.replace(*EDITS[edit])
    assert pretrain(NETWORK).status == 0
    assert "finished already" in pretrain(NETWORK).out
    assert refused(pretrain(changed), "pretrained.json", "other code of the network", "--restart")

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", stop)
        assert "stopped" in pretrain(NETWORK, "--restart").message
    assert refused(pretrain(changed), "unfinished run with other code of the network")
    result = pretrain(NETWORK)
    assert result.status == 0 and "going on after epoch 1" in result.out
