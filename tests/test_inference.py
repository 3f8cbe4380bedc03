"""The inference stage."""

import csv
import io
import os
import shutil
import unicodedata
import warnings
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from images.datasets import load_images, normalise
from models.build import build
from morph_images import find_files, find_labels
from parameter import Parameters
from tests.damage import change, digest, key_folder, refused, snapshot
from tests.inference import (
    SETTINGS,
    classes,
    ends,
    manifest,
    predictions,
    record,
    steps,
    tree,
)
from tests.steps import call, full_disk, run
from utils import plots
from utils.artifacts import to_csv
from utils.names import readable_names, told_apart
from utils.plots import confusion_png, predictions_png, rows_png


def test_queries_are_morphed_as_the_delivery_was(made):
    """Bit for bit: the test images given as a folder are the delivered ones, with their labels."""
    query, delivery = made / "data" / "queries" / "whole", made / "data" / "delivery"
    for name in ("morphed", "labels"):
        assert (query / f"{name}.npy").read_bytes() == (delivery / f"{name}_test.npy").read_bytes()
    files = sorted((made / "images" / "test").rglob("*.png"))
    assert manifest(query)["names"] == [
        str(file.relative_to(made / "images" / "test")) for file in files]


def test_the_developer_predicts_alone_what_training_reported(data):
    """Without data/provider/ and plain images; the accuracy is the very one of train_with_ac.py."""
    shutil.rmtree(data / "provider")
    shutil.rmtree(data / "decoded")
    accuracy = record(data, "with_ac")["accuracy"]
    for name in ("test", "whole"):
        out = steps(data, f"predict.py --name {name}")
        assert f"accuracy {accuracy:.2%}, {round(40 * accuracy)} of 40 right" in out
        for picture in ("predictions", "confusion"):
            folder = data / "developer" / "predictions" / "with_ac" / name
            assert (folder / f"{picture}.png").exists()
    assert classes(data, "test") == classes(data, "whole")
    best = predictions(data, "whole")[0]
    assert best["file"] == "blue/000.png"
    assert float(best["probability"]) >= float(best["second_probability"]) >= 0


def test_how_many_are_predicted_at_once_changes_no_class(data):
    found = []
    for size in (1, 7, 250):
        steps(data, f"predict.py --name test --predict_batch {size}")
        found.append(classes(data, "test"))
    assert found[0] == found[1] == found[2] and len(set(found[0])) > 1


def plain_predictions(data: Path, images: Path) -> list[str]:
    """What pretrained.pt predicts for the plain test images."""
    saved = torch.load(data / "developer" / "pretrained.pt", weights_only=True)
    layer = torch.load(data / "developer" / "first_layer.pt", weights_only=True)
    network = build(**saved["model"]).eval()
    network.load_state_dict(saved["network"])
    plain = load_images(Parameters(dataset="folder", dataset_dir=str(images), image_size=8,
                                   data_dir=str(data)), "test")
    with torch.no_grad():
        best = network(normalise(plain.images, layer["mean"], layer["std"])).argmax(1)
    return [plain.classes[i] for i in best]


def test_a_trained_plain_network_predicts_the_same_behind_aug_conv(data, made):
    """For every image, with no retraining: what the paper's inference stage promises."""
    steps(data, "predict.py --name test --network pretrained")
    assert classes(data, "test", "pretrained") == plain_predictions(data, made / "images")


# Classes, by name

def test_classes_in_another_order_are_mapped_by_name(data, made, tmp_path):
    """A provider whose classes sort otherwise, and a network trained on the developer's own."""
    expected = plain_predictions(data, made / "images")
    other = tmp_path / "other"
    shutil.copytree(data / "developer", other / "developer")
    steps(other, "gen_morphing_matrix.py")
    steps(other, "gen_augconv.py", dataset_dir=made / "images")
    delivery = other / "delivery"
    names = manifest(delivery)["classes"][::-1]
    for split in ("train", "test"):
        change(delivery / f"labels_{split}.npy", array=lambda labels: 3 - labels)
    change(delivery / "manifest.json", classes=names)
    out = steps(other, "predict.py --name test --network pretrained")
    assert classes(other, "test", "pretrained") == expected
    right = sum(name == truth for name, truth in zip(
        expected, np.repeat(sorted(names), 10), strict=True))
    assert f"{right} of 40 right" in out


def test_other_classes_are_refused_with_the_names_that_differ(data, tmp_path):
    images = tree(tmp_path / "images", names={"white": "yellow"})
    steps(data, "gen_augconv.py", dataset_dir=images)
    ends(data, "predict.py", "--name", "test", "--network", "pretrained",
         words=["pretrained.pt has other classes than", "'white'", "'yellow'"])


def test_labels_of_a_query_count_the_classes_of_its_own_delivery(data, made):
    """They are mapped to those of the delivery that predicts, or refused."""
    expected = steps(data, "predict.py --name whole").splitlines()[1]
    earlier = shutil.copytree(data / "delivery", data / "earlier")
    query = data / "queries" / "whole"
    change(query / "manifest.json", classes=manifest(query)["classes"][::-1])
    change(query / "labels.npy", array=lambda labels: 3 - labels)
    assert expected.startswith("accuracy")
    assert expected in steps(data, f"predict.py --name whole --delivery {earlier}")
    change(query / "manifest.json", classes=["blue", "green", "red", "yellow"])
    ends(data, "predict.py", "--name", "whole", words=["other classes", "'white'", "'yellow'"])


# Names and labels that go along, or not

def test_names_stay_with_the_provider_unless_shown(data, made, tmp_path):
    files = sorted((made / "images" / "test").rglob("*.png"))[:6]
    (tmp_path / "new" / "deep").mkdir(parents=True)
    for i, file in enumerate(files):
        shutil.copy(file, tmp_path / "new" / ("deep" if i > 2 else ".") / f"secret{i}.png")
    (tmp_path / "new" / "notes.txt").write_text("no image")
    out = steps(data, f"morph_images.py --name hidden --images {tmp_path}/new")
    query, names = data / "queries" / "hidden", data / "provider" / "names-hidden.csv"
    numbers = [f"hidden-{key_folder(data).name[:8]}-{i}" for i in range(6)]
    assert manifest(query)["names"] == numbers
    assert b"secret" not in b"".join(file.read_bytes() for file in query.iterdir())
    assert str(names) in out and names.stat().st_mode & 0o077 == 0
    true_names = ["deep/secret3.png", "deep/secret4.png", "deep/secret5.png", "secret0.png",
                  "secret1.png", "secret2.png"]
    rows = list(csv.DictReader(names.read_text().splitlines()))
    assert rows == [{"file": number, "name": name}
                    for number, name in zip(numbers, true_names, strict=True)]

    steps(data, f"morph_images.py --name hidden --show_names --images {tmp_path}/new")
    assert manifest(query)["names"] == true_names
    rows = list(csv.DictReader(names.read_text().splitlines()))
    assert [row["file"] for row in rows] == [row["name"] for row in rows] == true_names
    shutil.copy(files[0], tmp_path / "new" / "another.png")
    ends(data, "morph_images.py", "--name", "hidden", "--images", tmp_path / "new",
         words=["the --name is taken"])                  # whose predictions may be on their way


def test_files_given_one_by_one_are_predicted_as_in_their_folder(data, made, tmp_path):
    steps(data, "predict.py --name whole")
    rows = {row["file"]: row["class"] for row in predictions(data, "whole")}
    names = ["white/003.png", "blue/001.png"]
    for i, name in enumerate(names):
        shutil.copy(made / "images" / "test" / name, tmp_path / f"{i}.png")
    steps(data, f"morph_images.py --name two --images {tmp_path}/0.png {tmp_path}/1.png")
    assert not (data / "queries" / "two" / "labels.npy").exists()
    assert "accuracy" not in steps(data, "predict.py --name two")
    assert classes(data, "two") == [rows[name] for name in names]


def test_the_class_of_a_file_is_its_outermost_folder_as_in_a_data_set(tmp_path):
    """Folders in a class's folder may have any name, also another class's."""
    places = ("tumor/left/a.png", "tumor/b.png", "left/deep/c.png", "left/d.png")
    for place in places:
        path = tmp_path / "new" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(path)

    def labels(*images):
        found = find_files([tmp_path / "new" / image for image in images])
        labels = find_labels(found.files, found.folders, ("left", "tumor"))
        return None if labels is None else dict(zip(found.names, labels.tolist(), strict=True))

    assert labels("") == {"tumor/left/a.png": 1, "tumor/b.png": 1, "left/deep/c.png": 0,
                          "left/d.png": 0}
    assert labels("left") == {"deep/c.png": 0, "d.png": 0}       # the folder itself is a class
    assert labels("tumor/b.png") == {"b.png": 1}
    assert labels("left/deep") is None


def test_a_query_written_again_without_labels_leaves_none(data, made, tmp_path):
    shutil.copy(made / "images" / "test" / "red" / "000.png", tmp_path / "one.png")
    assert (data / "queries" / "whole" / "labels.npy").exists()
    (data / "provider" / "names-whole.csv").unlink()     # the name may be used again then
    steps(data, f"morph_images.py --name whole --images {tmp_path}/one.png")
    assert not (data / "queries" / "whole" / "labels.npy").exists()
    assert "accuracy" not in steps(data, "predict.py --name whole")


def test_folders_of_which_some_are_named_like_classes_are_refused(data, made, tmp_path):
    images = shutil.copytree(made / "images" / "test", tmp_path / "new")
    shutil.move(images / "red", images / "unsorted")
    ends(data, "morph_images.py", "--name", "mixed", "--images", images,
         words=["30 of 40 images", "unsorted", "a --name of its own"])
    assert not (data / "queries" / "mixed").exists()


def test_images_of_one_name_are_refused(data, made, tmp_path):
    for folder in "ab":
        (tmp_path / "new" / folder).mkdir(parents=True)
        shutil.copy(made / "images" / "test" / "red" / "000.png",
                    tmp_path / "new" / folder / "x.png")
    ends(data, "morph_images.py", "--images", f"{tmp_path}/new/a", f"{tmp_path}/new/b",
         words=["2 images are named x.png"])
    steps(data, f"morph_images.py --name above --show_names --images {tmp_path}/new")
    assert manifest(data / "queries" / "above")["names"] == ["a/x.png", "b/x.png"]


def test_predictions_are_replaced_with_a_word_and_leave_nothing_stale(data, made, tmp_path):
    """Neither another network's nor, for images without labels, an earlier confusion matrix."""
    steps(data, "predict.py --name whole --network pretrained")
    assert "earlier predictions" not in steps(data, "predict.py --name whole")
    folder = data / "developer" / "predictions"
    assert (folder / "pretrained" / "whole" / "confusion.png").exists()
    shutil.copy(made / "images" / "test" / "red" / "000.png", tmp_path / "one.png")
    (data / "provider" / "names-whole.csv").unlink()     # the name may be used again then
    out = steps(data, f"morph_images.py --name whole --images {tmp_path}/one.png",
                "predict.py --name whole")
    assert f"earlier predictions in {folder}/with_ac/whole/ are replaced" in out
    assert not (folder / "with_ac" / "whole" / "confusion.png").exists()


def test_int8_queries_bring_their_own_scale(data, made):
    images = made / "images"
    steps(data, "gen_augconv.py", dataset_dir=images, delivery_dtype="int8")
    steps(data, f"morph_images.py --name whole --images {images}/test",
          "predict.py --name whole --network pretrained",
          "predict.py --name test --network pretrained")
    assert np.load(data / "queries" / "whole" / "morphed.npy").dtype == np.int8
    one, other = classes(data, "whole", "pretrained"), classes(data, "test", "pretrained")
    assert sum(a == b for a, b in zip(one, other, strict=True)) >= 38


# Keys

def test_a_new_key_lies_beside_the_old_one_which_still_answers(data, made):
    """A query for an earlier delivery names its key; each delivery predicts its own queries."""
    old = key_folder(data)
    earlier = shutil.copytree(data / "delivery", data / "earlier")
    out = steps(data, "gen_morphing_matrix.py --morph_seed 8")
    new = key_folder(data)
    assert new != old and old.exists() and f"earlier keys are kept: {old.name}" in out
    images = made / "images" / "test"
    ends(data, "morph_images.py", "--images", images,
         words=[f"nothing has been delivered with key {new.name}", "gen_augconv.py", "--key"])
    steps(data, "gen_augconv.py --morph_seed 8", dataset_dir=made / "images")
    ends(data, "predict.py", "--name", "whole",
         words=[old.name, new.name, f"--key {new.name}", "--delivery"])

    steps(data, f"morph_images.py --name now --images {images}", "predict.py --name now")
    steps(data, f"morph_images.py --name then --images {images} --key {old.name}",
          f"predict.py --name then --delivery {earlier}")
    assert classes(data, "now") == classes(data, "then")
    then = (data / "queries" / "then" / "morphed.npy").read_bytes()
    assert then == (data / "queries" / "whole" / "morphed.npy").read_bytes()
    assert then != (data / "queries" / "now" / "morphed.npy").read_bytes()
    ends(data, "morph_images.py", "--images", images, "--key", "0000",
         words=["no key 0000", old.name, new.name, "--key list"])


def test_the_keys_are_listed_with_their_dates_and_which_is_current(data):
    old, delivered = key_folder(data), manifest(data / "delivery")["id"]
    os.utime(old / "morphing_matrix.pt", (0, 1_700_000_000))
    steps(data, "gen_morphing_matrix.py --morph_seed 8 --tile 2")
    new = key_folder(data)
    before = snapshot(data)
    first, last = steps(data, "morph_images.py --key list").splitlines()
    assert snapshot(data) == before
    date = datetime.fromtimestamp(1_700_000_000).strftime("%Y-%m-%d %H:%M")
    assert first.startswith(f"{old.name}: drawn {date}, 4x4 tiles, orthogonal core, "
                            f"delivery {delivered[:12]} on ")
    assert "current" not in first
    assert last.startswith(f"{new.name}: drawn ") and last.endswith(
        "2x2 tiles, orthogonal core, nothing delivered, the current key")
    (new / "manifest.json").write_text("{}")
    assert f"{new.name}: damaged" in steps(data, "morph_images.py --key list")


def test_a_provider_without_a_key_has_none_to_list(tmp_path):
    ends(tmp_path, "morph_images.py", "--key", "list",
         words=["provider has no key", "gen_morphing_matrix.py"])


def test_what_a_new_delivery_has_other_than_the_one_it_replaces_is_named(data, made):
    """Defaults too, which nobody typed."""
    steps(data, "gen_augconv.py --delivery_dtype int8", dataset_dir=made / "images")
    command = ("gen_augconv.py", "--data_dir", data, "--dataset_dir", made / "images")
    settings = [*SETTINGS]
    place = settings.index("--shuffle_channels")
    del settings[place:place + 2]
    done = call(*command, settings=tuple(settings))
    assert done.status == 0
    [line] = [line for line in done.out.splitlines() if line.startswith("replacing")]
    assert line.endswith("; the new one has delivery_dtype float32 instead of int8, "
                         "shuffle_channels yes instead of no")
    again = call(*command, settings=tuple(settings))
    assert "replacing the earlier delivery" in again.out and "the new one" not in again.out
    steps(data, "gen_morphing_matrix.py --morph_seed 8")
    out = steps(data, "gen_augconv.py --train_limit 30", dataset_dir=made / "images")
    assert ("; the new one has train_images 30 instead of 40, shuffle_channels no instead of yes, "
            "another key, other training images or labels\n") in out


def test_networks_go_on_with_a_new_key_where_channels_keep_their_order(data, made):
    steps(data, "predict.py --name test")
    before = classes(data, "test")
    steps(data, "gen_morphing_matrix.py --morph_seed 8", "gen_augconv.py",
          dataset_dir=made / "images")
    steps(data, "predict.py --name test")
    assert classes(data, "test") == before


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_arrays_of_another_type_than_the_delivered_images_are_refused(dtype, data, made, tmp_path):
    """0 to 1, say, would be read on the scale of 0 to 255, and all be black."""
    files = sorted((made / "images" / "test").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    np.save(tmp_path / "other.npy", pixels.astype(dtype))
    ends(data, "morph_images.py", "--images", tmp_path / "other.npy",
         words=[f"these images are {dtype}, but those of the delivery are uint8"])
    np.save(tmp_path / "same.npy", pixels)
    steps(data, f"morph_images.py --name same --images {tmp_path}/same.npy")


def test_of_a_key_that_never_delivered_the_keys_that_did_are_named(data, made):
    """And not the step that delivers with the current key alone."""
    steps(data, "gen_morphing_matrix.py --morph_seed 8")
    unused = key_folder(data)
    steps(data, "gen_morphing_matrix.py --morph_seed 9")
    ends(data, "morph_images.py", "--images", made / "images" / "test", "--key", unused.name,
         words=[f"nothing has been delivered with key {unused.name}", "morph_images.py --key list"])


def test_a_name_that_other_files_have_is_refused(data, made, tmp_path):
    """Or predictions on one query would be read under the names of another one's files."""
    files = sorted((made / "images" / "test").rglob("*.png"))
    first, other = tmp_path / "first", tmp_path / "other"
    for folder, some in ((first, files[:3]), (other, files[3:5])):
        folder.mkdir()
        for file in some:
            shutil.copy(file, folder / f"{len(list(folder.iterdir()))}-{folder.name}.png")
    steps(data, f"morph_images.py --name monday --images {first}")
    names = (data / "provider" / "names-monday.csv").read_bytes()
    query = digest(data / "queries" / "monday" / "morphed.npy")
    for more in ((), ("--show_names",)):
        ends(data, "morph_images.py", "--name", "monday", "--images", other, *more,
             words=["the --name is taken", "names-monday.csv", "choose another --name"])
    assert (data / "provider" / "names-monday.csv").read_bytes() == names
    assert digest(data / "queries" / "monday" / "morphed.npy") == query
    again = steps(data, f"morph_images.py --name monday --images {first}")
    assert "replacing the earlier query monday" in again
    for table in (names + b"\n", names.replace(b",", b";"), names + b"\xe4,\xe4\n"):
        (data / "provider" / "names-monday.csv").write_bytes(table)      # as spreadsheets save it
        ends(data, "morph_images.py", "--name", "monday", "--images", first,
             words=["names-monday.csv is not as this step wrote it", "choose another --name"])
    assert "replacing" not in steps(data, f"morph_images.py --name tuesday --images {other}")


def test_numbers_of_two_keys_differ_in_queries_of_one_name(data, made):
    """Of two providers, or of one that has renewed its key: tables are not joined by mistake."""
    command = f"morph_images.py --name monday --images {made}/images/test/red"
    steps(data, command)
    first = manifest(data / "queries" / "monday")["names"]
    steps(data, "gen_morphing_matrix.py --morph_seed 9", "gen_augconv.py", command,
          dataset_dir=made / "images")
    second = manifest(data / "queries" / "monday")["names"]
    assert len(first) == len(second) == 10 and not set(first) & set(second)
    table = (data / "provider" / "names-monday.csv").read_text().splitlines()
    assert [row["file"] for row in csv.DictReader(table)] == second


def test_arrays_are_given_by_themselves(data, tmp_path):
    (tmp_path / "new").mkdir()
    np.save(tmp_path / "new" / "a.npy", np.zeros((2, 8, 8, 3), np.uint8))
    ends(data, "morph_images.py", "--images", tmp_path / "new",
         words=["holds no image files", f"--images {tmp_path}/new/a.npy"])
    np.save(tmp_path / "one.npy", np.zeros((8, 8, 3), np.uint8))
    ends(data, "morph_images.py", "--images", tmp_path / "one.npy",
         words=["is one image", "array[None]"])


OWN_NETWORK = """
from torch import nn

def small(num_classes):
    return nn.Sequential(nn.Conv2d(3, 12, 5, stride=2, padding=2), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, num_classes))
"""


def test_predictions_need_the_code_that_the_network_was_trained_with(data, tmp_path):
    """Weights alone are saved: other code gives other predictions, or none."""
    def predict():
        return run("predict.py", "--name", "test", "--data_dir", data, settings=SETTINGS,
                   cwd=tmp_path)

    file = tmp_path / "my_networks.py"
    file.write_text(OWN_NETWORK)
    trained = run("train_with_ac.py", "--model", "my_networks:small", "--data_dir", data,
                  settings=SETTINGS, cwd=tmp_path)
    assert trained.status == 0, trained.err
    same = predict()
    assert same.status == 0 and "has changed" not in same.err

    file.write_text(OWN_NETWORK.replace("nn.ReLU()", "nn.GELU()"))
    assert "the file of my_networks:small has changed since" in predict().err
    file.write_text(OWN_NETWORK.replace("nn.Flatten()", "nn.Flatten(), nn.Linear(48, 48)"))
    assert refused(predict(), "with_ac.pt has other weights than my_networks:small has now")
    file.unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    assert refused(predict(), "with_ac.pt needs your network my_networks:small", "Run this where")


def test_of_two_files_of_one_name_none_is_taken(tmp_path, monkeypatch):
    """One in the current folder, and one that Python finds first: another would be trained."""
    for folder in ("first", "current"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "two_of_it.py").write_text(OWN_NETWORK)
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.syspath_prepend(tmp_path / "first")
    with pytest.raises(ValueError, match=r"first/two_of_it\.py was found first, but .* rename one"):
        build("two_of_it:small", 4, (3, 8, 8))


def test_a_providers_secret_files_are_named_where_they_arrive(data, tmp_path):
    """Or the developer would ask for the same again, and the key would stay in use."""
    sent = shutil.copytree(data / "provider", tmp_path / "sent")
    for folder in (sent, sent / "keys" / key_folder(data).name):
        for script in ("train_with_ac.py", "train_no_ac.py", "predict.py"):
            ends(data, script, "--delivery", folder,
                 words=[str(folder), "a provider's SECRET: delete the folder", "a new key"])


def test_the_pixel_range_stays_with_the_key(data, tmp_path):
    """Of files with 12 bits: what one delivery was made with, the next and all queries are."""
    images = tree(tmp_path / "images")
    for file in images.rglob("*.png"):
        grey = np.asarray(Image.open(file).convert("L")).astype(np.uint16)
        Image.fromarray(grey * 16).save(file)
    steps(data, "gen_augconv.py --pixel_range 0 4095", dataset_dir=images)
    first = (data / "delivery" / "morphed_test.npy").read_bytes()
    out = steps(data, "gen_augconv.py", dataset_dir=images)
    assert "pixel_range is that of the key's last delivery: 0.0 4095.0" in out
    assert (data / "delivery" / "morphed_test.npy").read_bytes() == first
    steps(data, f"morph_images.py --name deep --images {images}/test")
    assert (data / "queries" / "deep" / "morphed.npy").read_bytes() == first
    ends(data, "morph_images.py", "--images", images / "test", "--pixel_range", "0", "255",
         words=["pixel_range is (0.0, 255.0)", "has (0.0, 4095.0)"])
    ends(data, "morph_images.py", "--images", images / "test", "--pixel_range", "none",
         words=["pixel_range is None", "has (0.0, 4095.0)"])
    steps(data, "gen_augconv.py --pixel_range 0 8190", dataset_dir=images)
    assert (data / "delivery" / "morphed_test.npy").read_bytes() != first


def test_a_pixel_range_that_other_images_do_not_keep_to_is_warned_of_once(data, made, tmp_path):
    """Of colours with 8 bits, for which it was not meant."""
    steps(data, "gen_augconv.py --pixel_range 0 40", dataset_dir=tree(tmp_path / "dark", seed=2))
    for command in (f"gen_augconv.py --dataset_dir {made}/images",
                    f"morph_images.py --name bright --images {made}/images/test"):
        script, *more = command.split()
        done = call(script, *more, "--data_dir", data, settings=SETTINGS)
        assert done.status == 0
        [line] = [line for line in done.err.splitlines() if line.startswith("warning")]
        share, words = line.removeprefix("warning: ").split("% of the pixels ")
        assert int(share) > 80 and words.startswith("are outside pixel_range 0 to 40 and become")
        can_choose = script == "gen_augconv.py"          # a query has the range of the delivery
        assert ("give the --pixel_range" in words) == can_choose
        assert ("convert these images to it" in words) != can_choose


# What is refused

def test_a_plain_network_behind_shuffled_channels_is_refused(data, made):
    steps(data, "gen_augconv.py", dataset_dir=made / "images", shuffle_channels="yes")
    for network in ("pretrained", "with_ac"):
        ends(data, "predict.py", "--name", "test", "--network", network,
             words=[f"{network}.pt was not trained behind the Aug-Conv", "channels are shuffled",
                    "--shuffle_channels no"])


@pytest.mark.parametrize("arguments, words", [
    ("", ["--images is missing"]), ("--images {0}/nothing", ["holds no image files"]),
    ("--images {0}/bad.png", ["1 of 1 images", "bad.png cannot be read"]),
    ("--images {0}/absent.png", ["there is no file or folder", "absent.png"]),
    ("--images {0} {0}/absent", ["there is no file or folder", "absent: correct --images"]),
    ("--images {0}/absent.npy", ["there is no file or folder", "absent.npy"]),
    ("--images {0}/bad.png --name test", ["name test means the delivered test images"])],
    ids=["none", "an empty folder", "a damaged file", "no file", "no folder", "no array",
         "the name test"])
def test_images_that_cannot_be_morphed(data, made, tmp_path, arguments, words):
    whole = next((made / "images").rglob("*.png")).read_bytes()
    (tmp_path / "bad.png").write_bytes(whole[:90])
    (tmp_path / "nothing").mkdir()
    result = call("morph_images.py", *arguments.format(tmp_path).split(), "--data_dir", data,
                  settings=SETTINGS)
    assert refused(result, *words)
    assert {file.name for file in (data / "queries").iterdir()} == {"whole"}
    assert not list(data.rglob("*.partial"))


def test_a_name_that_leads_elsewhere_is_refused(data, made, tmp_path):
    result = call("morph_images.py", "--images", made / "images", "--name", "../../elsewhere",
                  "--data_dir", data, settings=SETTINGS)
    assert result.status == 2 and "name is '../../elsewhere'" in result.message
    assert not list(data.parent.rglob("elsewhere")) and not list(tmp_path.rglob("elsewhere"))


def test_a_query_without_its_files_is_refused(data):
    query = data / "queries" / "whole"
    (query / "labels.npy").unlink()
    ends(data, "predict.py", "--name", "whole", words=["labels.npy is missing", "morph_images.py"])
    shutil.rmtree(query)
    ends(data, "predict.py", "--name", "whole",
         words=["manifest.json is missing", "run `python morph_images.py` first"])


def test_a_query_is_no_delivery(data):
    ends(data, "predict.py", "--name", "test", "--delivery", data / "queries" / "whole",
         words=["whole/manifest.json is not a valid delivery", "gen_augconv.py"])


def test_a_query_of_another_delivery_is_refused(data, made):
    """Of the same key, but in another dtype."""
    steps(data, "gen_augconv.py --delivery_dtype float16", dataset_dir=made / "images")
    ends(data, "predict.py", "--name", "whole",
         words=["for another delivery than", "run `python morph_images.py` again"])


@pytest.mark.parametrize("name", ["morphed.npy", "labels.npy", "manifest.json"])
def test_a_full_disk_leaves_the_query_as_it_was(data, made, name):
    ends(data, "morph_images.py", "--name", "whole", "--images", made / "images" / "test",
         words=[name, "File too large"], before=full_disk(f"whole/{name}", 50))


# Tables and pictures

def test_names_in_a_table_are_no_formulas(data, made, tmp_path):
    """Names that a spreadsheet would run are shown as they are, in the provider's table too."""
    names = ["+1.png", "-1.png", "=1+1.png", "@SUM(A1).png", "plain.png"]
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in names:
        shutil.copy(made / "images" / "test" / "red" / "000.png", folder / name)
    steps(data, f"morph_images.py --name odd --images {folder}")
    table = (data / "provider" / "names-odd.csv").read_text()
    escaped = [f"'{name}" for name in names[:-1]] + names[-1:]
    assert [row["name"] for row in csv.DictReader(table.splitlines())] == escaped
    steps(data, f"morph_images.py --name odd --show_names --images {folder}",
          "predict.py --name odd")
    assert [row["file"] for row in predictions(data, "odd")] == escaped


@pytest.mark.parametrize("name, cell", [
    ("=A1", "'=A1"), ("+1", "'+1"), ("-1", "'-1"), ("@x", "'@x"), ("\t=A1", r"\t=A1"),
    ("x\r=A1", r"x\r=A1"), ("x\n=A1", r"x\n=A1"), ("x\u2028=A1", r"x\u2028=A1"),
    ('a "b", c', 'a "b", c'), ("写真", "写真")], ids=repr)
def test_a_cell_of_a_table_is_no_formula_and_begins_no_row(name, cell):
    """As the other party may have named a class or an image."""
    table = to_csv([[name, "plain"]])
    assert len(table.splitlines()) == 1
    assert list(csv.reader(io.StringIO(table))) == [[cell, "plain"]]


@pytest.mark.parametrize("classes", [400, 1000])
def test_a_confusion_matrix_of_many_classes_is_no_larger_than_of_few(classes):
    labels = torch.arange(classes)
    picture = confusion_png(labels, labels.roll(1), [f"class {i}" for i in range(classes)])
    assert max(Image.open(io.BytesIO(picture)).size) <= 14 * 120


def test_the_accuracy_is_said_before_pictures_are_drawn(data, monkeypatch):
    """They may take long, or more memory than there is."""
    def too_large(*arguments):
        print("drawing")
        raise MemoryError

    monkeypatch.setattr(plots, "predictions_png", too_large)
    monkeypatch.setattr(plots, "confusion_png", too_large)
    out = steps(data, "predict.py --name test").splitlines()
    assert [line.split()[0] for line in out] == ["40", "accuracy", "drawing", "drawing"]


E_IN_ONE_LETTER, E_IN_TWO = "caf\u00e9", "cafe\u0301"
SPELLINGS = {
    "the same text in other bytes": [E_IN_ONE_LETTER, E_IN_TWO],
    "alike at both ends": [f"a long name of a class, number {i}, of many of them" for i in (1, 2)],
    "Chinese, Japanese, Korean": ["写真の猫", "고양이 사진"],
    "other scripts": ["κάτι", "шарик", "صورة", "🐈"],
    "signs of formulas": ["$x^2$", "a_{b}", "100 %", "\\frac"],
    "hardly a name": [" ", "-", "x" * 300],
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_in_all_their_spellings_are_drawn_and_told_apart(spelling):
    """No library warns; two names that look alike differ in tables and pictures."""
    names = SPELLINGS[spelling]
    count = len(names)
    probabilities, labels = torch.eye(count), torch.arange(count)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictions_png(torch.rand(count, 3, 8, 8), probabilities, names, names, labels.roll(1))
        confusion_png(labels, labels.roll(1), names)
    for most in (14, 18, 24):
        in_pictures = readable_names(names, most)
        assert len({unicodedata.normalize("NFC", name) for name in in_pictures}) == count
        assert all(len(name) <= most + 4 for name in in_pictures)
    in_tables = told_apart(names)
    assert len({unicodedata.normalize("NFC", name) for name in in_tables}) == count
    assert all("'" not in name for name in in_tables)


@pytest.mark.parametrize("count", [1, 2, 10])
@pytest.mark.parametrize("side", [4, 8, 96])
def test_pictures_of_few_and_small_images_are_drawn_without_a_warning(count, side):
    images, names = torch.rand(count, 3, side, side), [f"{i}.png" for i in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows_png([("the same images morphed, as the developer gets them", images)] * 2)
        predictions_png(images, torch.eye(count, 2), ["cat", "dog"], names, None)
        confusion_png(torch.arange(2), torch.arange(2), ["cat", "dog"])


def test_classes_that_look_alike_are_named_by_their_letters(data, tmp_path):
    """Where two parties have them in other bytes, as macOS and Linux write names."""
    images = tree(tmp_path / "images", names={"white": E_IN_ONE_LETTER})
    steps(data, "gen_augconv.py", dataset_dir=images)
    change(data / "delivery" / "manifest.json", classes=["blue", "green", "red", E_IN_TWO])
    second = shutil.copytree(data, tmp_path / "second")
    change(second / "delivery" / "manifest.json",
           classes=["blue", "green", "red", E_IN_ONE_LETTER])
    ends(data, "train_with_ac.py", "--delivery", data / "delivery", second / "delivery",
         words=[r"'caf\xe9'", r"'cafe\u0301'"])
