"""The inference stage."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from images.datasets import load_images, normalise
from models.build import build
from parameter import Parameters
from tests.damage import refused
from tests.inference import SETTINGS, classes, ends, manifest, predictions, steps
from tests.steps import full_disk, run


def test_queries_are_morphed_as_the_delivery_was(made):
    """Bit for bit: the test images given as a folder are the delivered ones, with their labels."""
    query, delivery = made / "data" / "queries" / "whole", made / "data" / "delivery"
    for name in ("morphed", "labels"):
        assert (query / f"{name}.npy").read_bytes() == (delivery / f"{name}_test.npy").read_bytes()
    assert manifest(query)["names"] == [str(f.relative_to(made / "images" / "test")) for f in
                                        sorted((made / "images" / "test").rglob("*.png"))]


def test_the_developer_predicts_alone_what_training_reported(data):
    """Without data/provider/ and plain images; the accuracy is the very one of train_with_ac.py."""
    shutil.rmtree(data / "provider")
    shutil.rmtree(data / "datasets")
    accuracy = json.loads((data / "developer" / "with_ac.json").read_text())["accuracy"]
    for name in ("test", "whole"):
        out = steps(data, f"predict.py --name {name}")
        assert f"accuracy {accuracy:.2%}, {round(40 * accuracy)} of 40 right" in out
        assert all((data / "developer" / "predictions" / name / f"{picture}.png").exists()
                   for picture in ("predictions", "confusion"))
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


def test_a_trained_plain_network_predicts_the_same_behind_aug_conv(data, made):
    """For every image, with no retraining: what the paper's inference stage promises."""
    steps(data, "predict.py --name test --network pretrained")
    saved = torch.load(data / "developer" / "pretrained.pt", weights_only=True)
    layer = torch.load(data / "developer" / "first_layer.pt", weights_only=True)
    network = build(**saved["model"]).eval()
    network.load_state_dict(saved["network"])
    plain = load_images(Parameters(dataset="folder", dataset_dir=str(made / "images"), image_size=8,
                                   data_dir=str(data)), "test")
    with torch.no_grad():
        best = network(normalise(plain.images, layer["mean"], layer["std"])).argmax(1)
    assert classes(data, "test-pretrained") == [plain.classes[i] for i in best]


def test_files_without_labels_and_names_that_stay_with_the_provider(data, made, tmp_path):
    files = sorted((made / "images" / "test").rglob("*.png"))[:6]
    (tmp_path / "new" / "deep").mkdir(parents=True)
    for i, file in enumerate(files):
        shutil.copy(file, tmp_path / "new" / ("deep" if i > 2 else ".") / f"secret{i}.png")
    (tmp_path / "new" / "notes.txt").write_text("no image")
    out = steps(data, f"morph_images.py --name all --show_names --images {tmp_path}/new",
                f"morph_images.py --name hidden --images {tmp_path}/new",
                f"morph_images.py --name two --images {tmp_path}/new/secret0.png {files[1]}")
    assert "2 images are morphed" in out
    folder = data / "queries"
    assert manifest(folder / "all")["names"] == [
        "deep/secret3.png", "deep/secret4.png", "deep/secret5.png", "secret0.png", "secret1.png",
        "secret2.png"]
    assert manifest(folder / "hidden")["names"] == list("012345")
    assert b"secret" not in b"".join(f.read_bytes() for f in (folder / "hidden").iterdir())
    assert not any((folder / name / "labels.npy").exists() for name in ("all", "hidden", "two"))
    assert "accuracy" not in steps(data, "predict.py --name two")
    assert classes(data, "two") == [
        dict(zip(manifest(folder / "whole")["names"], classes_of(data), strict=True))[
            str(file.relative_to(made / "images" / "test"))] for file in files[:2]]


def test_predictions_are_replaced_with_a_word_and_leave_nothing_stale(data, made):
    """Neither another network's nor, for images without labels, an earlier confusion matrix."""
    steps(data, "predict.py --name whole --network pretrained")
    out = steps(data, "predict.py --name whole")
    folder = data / "developer" / "predictions"
    assert "earlier predictions" not in out
    assert (folder / "whole-pretrained" / "confusion.png").exists()
    file = next((made / "images" / "test").rglob("*.png"))
    (data / "one.png").write_bytes(file.read_bytes())
    out = steps(data, f"morph_images.py --name whole --images {data}/one.png",
                "predict.py --name whole")
    assert f"earlier predictions in {folder}/whole/ are replaced" in out
    assert not (folder / "whole" / "confusion.png").exists()


def classes_of(data: Path) -> list[str]:
    steps(data, "predict.py --name whole")
    return classes(data, "whole")


def test_int8_queries_bring_their_own_scale(data, made):
    images = made / "images"
    steps(data, "gen_augconv.py", dataset_dir=images, delivery_dtype="int8")
    steps(data, f"morph_images.py --name whole --images {images}/test",
          "predict.py --name whole --network pretrained",
          "predict.py --name test --network pretrained")
    assert np.load(data / "queries" / "whole" / "morphed.npy").dtype == np.int8
    same = [a == b for a, b in zip(classes(data, "whole-pretrained"),
                                   classes(data, "test-pretrained"), strict=True)]
    assert sum(same) >= 38


# What is refused

def test_queries_of_another_key_are_refused_with_both_keys(data, made):
    """Networks go on with a new key where channels are not shuffled."""
    old, before = manifest(data / "delivery")["key"], classes_of(data)
    steps(data, "gen_morphing_matrix.py --morph_seed 8")
    ends(data, "morph_images.py", "--images", made / "images" / "test",
         words=[f"of key {old}", "run `python gen_augconv.py` again"])
    steps(data, "gen_augconv.py", dataset_dir=made / "images")
    ends(data, "predict.py", "--name", "whole", "--network", "pretrained",
         words=[old, manifest(data / "delivery")["key"], "run `python morph_images.py` again"])
    steps(data, "predict.py --name test")
    assert classes(data, "test") == before


def test_a_plain_network_behind_shuffled_channels_is_refused(data, made):
    steps(data, "gen_augconv.py", dataset_dir=made / "images", shuffle_channels="yes")
    for network in ("pretrained", "with_ac"):
        ends(data, "predict.py", "--name", "test", "--network", network,
             words=[f"{network}.pt was not trained behind the Aug-Conv", "channels are shuffled",
                    "--shuffle_channels no"])


def test_images_of_one_name_are_refused_or_numbered(data, made, tmp_path):
    files = sorted((made / "images" / "test").rglob("*.png"))[:2]
    for file, folder in zip(files, "ab", strict=True):
        (tmp_path / "new" / folder).mkdir(parents=True)
        shutil.copy(file, tmp_path / "new" / folder / "x.png")
    both = f"{tmp_path}/new/a {tmp_path}/new/b"
    ends(data, "morph_images.py", "--name", "two", "--show_names", "--images", *both.split(),
         words=["several images are named x.png"])
    steps(data, f"morph_images.py --name two --images {both}",
          f"morph_images.py --name above --show_names --images {tmp_path}/new")
    assert manifest(data / "queries" / "two")["names"] == ["0", "1"]
    assert manifest(data / "queries" / "above")["names"] == ["a/x.png", "b/x.png"]


@pytest.mark.parametrize("arguments, words", [
    ("", ["--images is missing"]), ("--images {0}/nothing", ["holds no images"]),
    ("--images {0}/bad.png", ["1 of 1 images", "bad.png cannot be read", "repair or replace it"]),
    ("--images {0}/absent.png", ["absent.png"]),
    ("--images {0}/bad.png --name test", ["name test means the delivered test images"])])
def test_images_that_cannot_be_morphed(data, made, tmp_path, arguments, words):
    whole = next((made / "images").rglob("*.png")).read_bytes()
    (tmp_path / "bad.png").write_bytes(whole[:90])
    (tmp_path / "nothing").mkdir()
    result = run("morph_images.py", *arguments.format(tmp_path).split(), "--data_dir", data,
                 settings=SETTINGS)
    assert refused(result, *words)
    assert {f.name for f in (data / "queries").iterdir()} == {"whole"}
    assert not list(data.rglob("*.partial"))


def test_a_name_that_leads_elsewhere_is_refused(data, made, tmp_path):
    result = run("morph_images.py", "--images", made / "images", "--name", "../../elsewhere",
                 "--data_dir", data, settings=SETTINGS)
    assert result.status == 2 and "name is '../../elsewhere'" in result.message
    assert not list(data.parent.rglob("elsewhere")) and not list(tmp_path.rglob("elsewhere"))


@pytest.mark.parametrize("spoil, words", [
    (lambda q: os.truncate(q / "morphed.npy", 500), ["morphed.npy is damaged", "morph_images.py"]),
    (lambda q: (q / "labels.npy").unlink(), ["labels.npy is missing", "morph_images.py"]),
    (lambda q: (q / "manifest.json").unlink(), ["manifest.json is missing", "morph_images.py"]),
    (lambda q: (q / "manifest.json").write_text("{"), ["manifest.json is damaged", "morph_images"]),
    (shutil.rmtree, ["manifest.json is missing", "morph_images.py"])])
def test_queries_that_are_damaged(data, spoil, words):
    spoil(data / "queries" / "whole")
    ends(data, "predict.py", "--name", "whole", words=words)


def test_queries_are_no_delivery(data):
    ends(data, "predict.py", "--name", "test", "--delivery", data / "queries" / "whole",
         words=["whole/manifest.json is of no delivery"])


def test_queries_of_another_size_are_refused(data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(data / "provider", other / "provider")
    shutil.copytree(data / "developer", other / "developer")
    steps(other, "gen_augconv.py --dataset shapes --image_size 12 --train_limit 20 --test_limit 20")
    ends(data, "predict.py", "--name", "whole", "--delivery", other / "delivery",
         words=["holds other images than"])


@pytest.mark.parametrize("name", ["morphed.npy", "labels.npy", "manifest.json"])
def test_a_full_disk_leaves_the_queries_as_they_were(data, made, name):
    ends(data, "morph_images.py", "--name", "whole", "--images", made / "images" / "test",
         words=[name, "File too large"], before=full_disk(name, 50))
