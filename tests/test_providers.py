"""Training on the images of several providers, each with a key of its own."""

import shutil

import pytest

from experiments.tables.reading import is_training
from tests.damage import change
from tests.inference import SETTINGS, ends, manifest, record, steps, tree
from tests.steps import call


@pytest.fixture(scope="module")
def second(made, tmp_path_factory):
    """Another provider's data folder: other images and another key, the same first layer."""
    folder = tmp_path_factory.mktemp("second")
    (folder / "data" / "developer").mkdir(parents=True)
    shutil.copy(made / "data" / "developer" / "first_layer.pt", folder / "data" / "developer")
    steps(folder / "data", "gen_morphing_matrix.py --morph_seed 9", "gen_augconv.py",
          dataset_dir=tree(folder / "images", seed=7))
    return folder


def test_one_network_learns_from_two_providers(data, second):
    """Each has many images of the classes of which the other has few."""
    both = f"--delivery {data}/delivery {second}/data/delivery"
    out = steps(data, f"train_with_ac.py {both} --epochs 10")
    result = record(data, "with_ac")
    assert len(result["data"]["deliveries"]) == 2 and result["data"]["train_images"] == 80
    assert out.count("40 training and 40 test images of images") == 2
    curve = [epoch["train_loss"] for epoch in result["curve"]]
    assert curve[-1] < 0.8 * curve[0]
    accuracies = []
    for line in out.splitlines():
        if line.startswith("test accuracy on "):
            accuracies.append(float(line.split(": ")[1].split("%")[0]) / 100)
    assert sum(accuracies) / 2 == pytest.approx(result["accuracy"])
    ends(data, "predict.py", "--name", "test", *both.split(), words=["give one --delivery"])
    for folder in (data / "delivery", second / "data" / "delivery"):
        out = steps(data, f"predict.py --name test --delivery {folder}")
        right = int(out.split("%, ")[1].split(" of 40 right")[0])
        assert right >= 20                               # chance is 10


def test_classes_of_several_providers_are_mapped_by_name(data, made, tmp_path):
    """A delivery whose classes are listed the other way round trains the same network."""
    other = shutil.copytree(data, tmp_path / "other")
    steps(other, "gen_morphing_matrix.py --morph_seed 9", "gen_augconv.py",
          dataset_dir=made / "images")
    command = f"train_with_ac.py --restart --delivery {data}/delivery {other}/delivery"
    steps(data, command)
    expected = [epoch["train_loss"] for epoch in record(data, "with_ac")["curve"]]
    delivery = other / "delivery"
    for split in ("train", "test"):
        change(delivery / f"labels_{split}.npy", array=lambda labels: 3 - labels)
    change(delivery / "manifest.json", classes=manifest(delivery)["classes"][::-1])
    steps(data, command)
    assert [epoch["train_loss"] for epoch in record(data, "with_ac")["curve"]] == expected


def test_the_record_has_how_each_provider_morphed(data, second, tmp_path):
    third = shutil.copytree(second / "data", tmp_path / "third")
    steps(third, "gen_morphing_matrix.py --morph_seed 9 --tile 2", "gen_augconv.py",
          dataset_dir=second / "images")
    steps(data, f"train_with_ac.py --delivery {data}/delivery {third}/delivery")
    result = record(data, "with_ac")
    assert result["data"]["morphing"]["tile"] == 4
    assert [other["tile"] for other in result["data"]["other_morphing"]] == [2]
    assert is_training(result)                           # the tables read it

    steps(data, f"train_with_ac.py --delivery {data}/delivery {second}/data/delivery")
    assert "other_morphing" not in record(data, "with_ac")["data"]


def test_providers_who_normalised_in_other_ways_are_refused(data, second, tmp_path):
    third = shutil.copytree(second / "data" / "delivery", tmp_path / "third")
    change(third / "manifest.json", mean=[0.5, 0.5, 0.25])
    ends(data, "train_with_ac.py", "--delivery", data / "delivery", third,
         words=["another mean and standard deviation", "the same first_layer.pt"])


def test_the_same_delivery_twice_is_refused(data):
    copy = shutil.copytree(data / "delivery", data / "copy")
    for other in (data / "delivery", copy):
        ends(data, "train_with_ac.py", "--delivery", data / "delivery", other,
             words=["is the same delivery as", "name it once"])


def test_providers_whose_features_differ_are_refused(data, second, tmp_path):
    third = shutil.copytree(second / "data", tmp_path / "third")
    both = ("--delivery", data / "delivery", third / "delivery")
    steps(third, "gen_augconv.py", dataset_dir=second / "images", shuffle_channels="yes")
    ends(data, "train_with_ac.py", *both, words=["channels in the same order",
                                                 "--shuffle_channels no"])
    steps(third, "pretrain.py --seed 5", "gen_augconv.py", dataset_dir=second / "images")
    ends(data, "train_with_ac.py", *both, words=["another first layer"])


def test_who_has_another_first_layer_is_named(data, second, tmp_path):
    third = shutil.copytree(second / "data" / "delivery", tmp_path / "third")
    change(third / "manifest.json", layer_fingerprint="0" * 64)
    ends(data, "train_with_ac.py", "--delivery", data / "delivery", third,
         words=[f"that of {data}/developer/first_layer.pt is in {data}/delivery: send it"])


def test_images_that_come_twice_are_told(data, made, tmp_path):
    """As after a new key: the developer has both deliveries."""
    other = shutil.copytree(data, tmp_path / "other")
    steps(other, "gen_morphing_matrix.py --morph_seed 9", "gen_augconv.py",
          dataset_dir=made / "images")
    result = call("train_with_ac.py", "--delivery", data / "delivery", other / "delivery",
                  "--data_dir", data, settings=SETTINGS)
    assert result.status == 0
    for split in ("train", "test"):
        assert (f"{other}/delivery has the same {split} images as {data}/delivery, and they count "
                "twice") in result.err


def test_providers_of_other_classes_are_refused_by_name(data, second, tmp_path):
    third = shutil.copytree(second / "data", tmp_path / "third")
    steps(third, "gen_augconv.py",
          dataset_dir=tree(tmp_path / "images", seed=7, names={"red": "rose"}))
    ends(data, "train_with_ac.py", "--delivery", data / "delivery", third / "delivery",
         words=["other classes", "'red'", "'rose'"])
