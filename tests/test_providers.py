"""Training on the images of several providers, each with a key of its own."""

import json
import shutil

import pytest

from tests.inference import ends, steps, tree


@pytest.fixture(scope="module")
def second(made, tmp_path_factory):
    """Another provider's data folder: other images and another key, the same first layer."""
    folder = tmp_path_factory.mktemp("second")
    shutil.copytree(made / "data" / "developer", folder / "data" / "developer")
    steps(folder / "data", "gen_morphing_matrix.py --morph_seed 9", "gen_augconv.py",
          dataset_dir=tree(folder / "images", seed=7))
    return folder


def test_one_network_learns_from_two_providers(data, second):
    """Each has many images of the classes of which the other has few."""
    both = f"--delivery {data}/delivery {second}/data/delivery"
    out = steps(data, f"train_with_ac.py {both} --epochs 10")
    result = json.loads((data / "developer" / "with_ac.json").read_text())
    assert result["data"]["providers"] == 2 and result["data"]["train_images"] == 80
    assert out.count("delivery of 40 + 40 images") == 2
    curve = [epoch["train_loss"] for epoch in result["curve"]]
    assert curve[-1] < 0.8 * curve[0]
    ends(data, "predict.py", "--name", "test", *both.split(), words=["give one --delivery"])
    for folder in (data / "delivery", second / "data" / "delivery"):
        out = steps(data, f"predict.py --name test --delivery {folder}")
        right = int(out.split("%, ")[1].split(" of 40 right")[0])
        assert right >= 20                               # chance is 10


def test_providers_whose_features_differ_are_refused(data, second, made, tmp_path):
    third = tmp_path / "third"
    shutil.copytree(second / "data", third)
    both = ("--delivery", data / "delivery", third / "delivery")
    steps(third, "gen_augconv.py", dataset_dir=second / "images", shuffle_channels="yes")
    ends(data, "train_with_ac.py", *both, words=["channels in the same order",
                                                 "--shuffle_channels no"])
    steps(third, "pretrain.py --seed 5", "gen_augconv.py", dataset_dir=second / "images")
    ends(data, "train_with_ac.py", *both, words=["another first layer"])
