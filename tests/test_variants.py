"""The five steps with other networks, other images, and other ways to morph and to deliver."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from images.datasets import load_images, normalise
from models.build import build
from mole.morphing import relative_error
from parameter import Parameters
from tests.damage import refused
from tests.steps import STEPS, TINY, run
from utils.delivery import Delivery, read, restored

OWN = "tests.own_networks:"
# Settings beyond TINY, the shape of a morphed image, and the features' largest relative error.
VARIANTS = {
    "resnet18": ("--model resnet18 --image_size 16 --tile 8 --morph_distribution orthogonal",
                 (192, 2, 2), 2e-6),
    "vision transformer": (f"--model {OWN}small_vit --image_size 16 --tile 8 "
                           "--morph_distribution orthogonal", (192, 2, 2), 2e-6),
    "own, 5x5, stride 2, bias": (f"--model {OWN}strided --image_size 18 --tile 4 "
                                 "--morph_distribution normal", (48, 5, 5), 1e-4),
    "own, kappa, padding": (f"--model {OWN}strided --kappa 3 --image_padding 2", (432,), 5e-3),
    "grey": (f"--model {OWN}grey --channels 1 --kappa 2", (64,), 5e-3),
    "grey by tiles": ("--model vgg11 --channels 1 --tile 4 --image_padding 1", (16, 3, 3), 5e-3),
    "int8": (f"--model {OWN}strided --tile 4 --delivery_dtype int8 --morph_distribution orthogonal",
             (48, 2, 2), 2e-2),
    "float16": (f"--model {OWN}strided --delivery_dtype float16 --morph_distribution orthogonal",
                (192,), 5e-4)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_five_steps(tmp_path, variant):
    """Each ends well; features are the plain ones, and morphed images what the manifest says."""
    words, morphed, bound = VARIANTS[variant]
    settings = (*TINY, "--epochs", "1", *words.split())
    results = {script: run(script, "--data_dir", tmp_path, settings=settings) for script in STEPS}
    assert all(result.status == 0 for result in results.values()), results
    error = re.search(r"against the plain first layer (\S+)", results["gen_augconv.py"].out)
    assert float(error[1]) < bound
    delivery = read(Delivery, tmp_path / "delivery")
    rows = np.load(tmp_path / "delivery" / "morphed_train.npy", mmap_mode="r")
    assert rows.shape == (64, *morphed) and rows.dtype == delivery.geometry.delivery_dtype
    assert np.load(tmp_path / "delivery" / "labels_test.npy").shape == (32,)
    for name in ("pretrained", "with_ac", "no_ac"):
        result = json.loads((tmp_path / "developer" / f"{name}.json").read_text())
        assert np.isfinite(result["curve"][0]["train_loss"])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    result = run("pretrain.py", "--data_dir", folder, settings=(*TINY, "--model", OWN + "strided"))
    assert result.status == 0, result.err
    return folder


@pytest.fixture
def developed(pretrained, tmp_path):
    """A data folder after step 2, of the network with a stride of 2."""
    return shutil.copytree(pretrained, tmp_path / "data")


@pytest.mark.parametrize("words, message", [
    ("--tile 4 --delivery_dtype int8", ["int8 is too coarse for this uniform core", "float32 works",
                                        "float16 with gen_morphing_matrix.py --morph_distribution "
                                        "orthogonal"]),
    ("--tile 5 --morph_distribution orthogonal", ["tile is 5", "stride 2", "the next is 6"]),
    ("--image_padding 3", ["image_padding is 3, but the first layer pads its images by 2 only"])])
def test_a_delivery_that_would_not_work_is_refused_with_one_that_would(developed, words, message):
    settings = (*TINY, *words.split(), "--data_dir", str(developed))
    assert run("gen_morphing_matrix.py", settings=settings).status == 0
    assert refused(run("gen_augconv.py", settings=settings), *message)
    assert not (developed / "delivery" / "aug_conv.pt").exists()


def test_the_next_tile_works(developed):
    settings = (*TINY, "--tile", "6", "--data_dir", str(developed))
    for script in STEPS[1:3]:
        result = run(script, settings=settings)
        assert result.status == 0, result.err


def test_kappa_and_tile_exclude_each_other(tmp_path):
    result = run("gen_morphing_matrix.py", "--kappa", "2", "--tile", "4", "--data_dir", tmp_path,
                 settings=TINY)
    assert refused(result, "kappa 2 and tile 4 are two ways", "set kappa to 1")


def test_the_frozen_partner_sees_the_features_of_aug_conv(developed):
    """pretrain.py --frozen_first_layer trains behind the very layer, which stays as it is."""
    settings = (*TINY, "--model", OWN + "strided", "--tile", "4", "--morph_distribution",
                "orthogonal", "--shuffle_channels", "no", "--data_dir", str(developed))
    layer = developed / "developer" / "first_layer.pt"
    before = layer.read_bytes()
    for script, *more in (STEPS[1:2], STEPS[2:3], ("pretrain.py", "--frozen_first_layer", layer),
                          STEPS[3:4]):
        result = run(script, *more, settings=settings)
        assert result.status == 0, result.err
    assert [line.split(":")[0] for line in result.out.splitlines()[-3:]] == [
        "plain network", "plain, frozen layer", "with Aug-Conv"]
    assert layer.read_bytes() == before

    saved = torch.load(developed / "developer" / "pretrained_frozen.pt", weights_only=True)
    network = build(**saved["model"])
    network.load_state_dict(saved["network"])
    content = torch.load(layer, weights_only=True)
    assert torch.equal(network[0].weight, content["weight"])
    plain = load_images(Parameters(dataset="shapes", image_size=8, test_limit=32), "test").images
    delivery = read(Delivery, developed / "delivery")
    morphed, _ = delivery.split("test")
    with torch.no_grad():
        expected = network[0](normalise(plain, content["mean"], content["std"]))
    features = delivery.aug_conv()(restored(morphed, delivery.scale))
    assert relative_error(features, expected) < 2e-6
