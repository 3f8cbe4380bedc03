"""The walk-throughs of docs/, typed literally at tiny size."""

import csv
import inspect
import json
import shutil

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from images import datasets
from mole import morphing
from parameter import Parameters
from tests.pages import blocks, type_in

TINY = ("--dataset", "shapes", "--image_size", "8", "--train_limit", "64", "--test_limit", "32",
        "--model", "vgg_small", "--epochs", "1", "--batch_size", "16", "--device", "cpu",
        "--precision", "fp32")
SCANS = ("--epochs", "1", "--batch_size", "8", "--device", "cpu", "--precision", "fp32")
CLASSES = ("Fracture", "healthy", "pneumonia")


def test_the_sweep_ends_in_a_table_with_a_row_for_each_core(tmp_path):
    [sweep] = [block for block in blocks("docs/sweeps.md") if block.mark == "sweep"]
    type_in(sweep.text, tmp_path, TINY)
    records = [json.loads(file.read_text()) for file in tmp_path.glob("results_of_mine/*.json")]
    runs = [record["run"] for record in records]
    assert [runs.count(name) for name in ("pretrained", "pretrained_frozen", "with_ac", "no_ac")
            ] == [2, 2, 8, 8]
    table = (tmp_path / "results_of_mine" / "tables" / "tables.md").read_text()
    for words in ("κ = 1", "κ = 3", "κ = 12", "s = 8", "2 seeds"):
        assert words in table
    assert len(list((tmp_path / "data" / "provider" / "keys").iterdir())) == 8


def test_the_sweep_of_the_readme(tmp_path):
    [sweep] = blocks("README.md")
    type_in(sweep.text, tmp_path, TINY)
    table = (tmp_path / "results_of_mine" / "tables" / "tables.md").read_text()
    assert "κ = 12" in table


def test_augmentation_behind_aug_conv(tmp_path):
    [block] = blocks("docs/augmentation.md")
    out = type_in(block.text, tmp_path, TINY)
    assert "mirrored_aug_conv.pt" in out and "with Aug-Conv:" in out


def recipe(mark):
    """The lines of a recipe of docs/extending.md."""
    return next(block.text for block in blocks("docs/extending.md") if block.mark == mark)


class FakeData:
    """What torchvision's USPS would read, without a download."""

    classes = [str(i) for i in range(10)]

    def __init__(self, root, train, download):
        self.data = np.zeros((20, 16, 16), np.uint8)
        self.targets = [i % 10 for i in range(20)]


def test_the_recipe_for_a_data_set(monkeypatch, tmp_path):
    more = eval("{" + recipe("data set") + "}", vars(datasets))
    monkeypatch.setattr(datasets, "DATASETS", datasets.DATASETS | more)
    monkeypatch.setattr(torchvision.datasets, "USPS", FakeData)
    [name] = more
    p = Parameters(dataset=name, data_dir=str(tmp_path))
    images = datasets.load_images(p, "train")
    assert images.images.shape == (20, 1, 16, 16)
    assert datasets.image_shape(p) == (1, 16, 16)


def test_the_recipe_for_a_distribution():
    """Its lines stand in draw_core, before those of a normal core."""
    source = inspect.getsource(morphing)
    place = "    core = torch.from_numpy(generator.standard_normal"
    source = source.replace('DISTRIBUTIONS = (', 'DISTRIBUTIONS = ("signs", ')
    module = {"__name__": "edited"}
    exec(source.replace(place, recipe("distribution") + place), module)
    core = module["draw_core"](8, "signs")
    assert core.dtype == torch.float32
    torch.testing.assert_close(core.abs(), torch.full((8, 8), 8 ** -0.5))


def scans(folder, seed, top):
    """Grey images of 16 bits whose values reach `top`, train and test, in three classes."""
    random = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        for split, count in (("train", 6), ("test", 3)):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                image = random.integers(0, top // 4, (64, 64)) + label * top // 4
                Image.fromarray(image.astype(np.uint16)).save(place / f"{i}.png")


@pytest.fixture
def machines(tmp_path):
    """A folder for each party, with its images."""
    developer, provider, second = (tmp_path / name for name in
                                   ("developer", "provider", "second provider"))
    scans(developer / "public_scans", 1, 65535)
    scans(provider / "scans", 2, 4095)
    scans(second / "scans", 3, 65535)
    new = provider / "new_scans"
    new.mkdir()
    for i, file in enumerate(sorted((provider / "scans" / "test").glob("*/*.png"))):
        shutil.copy(file, new / f"patient_{i:04d}.png")
    return {"developer": developer, "provider": provider, "second provider": second}


def test_two_machines(machines):
    """Only what the page's table names crosses between the folders."""
    developer, provider, second = machines.values()
    delivery, queries = provider / "data" / "delivery", provider / "data" / "queries"
    printed = []
    for number, block in enumerate(blocks("docs/two-machines.md")):
        printed.append(type_in(block.text, machines[block.mark], SCANS))
        if number == 0:
            for party in (provider, second):
                (party / "inbox").mkdir()
                shutil.copy(developer / "data" / "developer" / "first_layer.pt", party / "inbox")
        if number == 1:
            shutil.copytree(delivery, developer / "from_hospital")
        if block.mark == "second provider":
            shutil.copytree(second / "data" / "delivery", developer / "from_clinic")
        if block.mark == "provider" and queries.exists():
            shutil.copytree(queries, developer / "data" / "queries", dirs_exist_ok=True)
    after_both = next(text for text in printed if "from_clinic" in text)
    assert "test accuracy on from_hospital" in after_both
    assert len(list((provider / "data" / "provider" / "keys").iterdir())) == 2
    names = dict(csv.reader((provider / "data" / "provider" / "names-monday.csv").open()))
    predictions = developer / "data" / "developer" / "predictions" / "with_ac" / "monday"
    table = list(csv.DictReader((predictions / "predictions.csv").open()))
    assert [names[row["file"]] for row in table] == [f"patient_{i:04d}.png" for i in range(9)]
    assert not any("patient" in file.read_bytes().decode("latin-1")
                   for file in (developer / "data").rglob("*.json"))


def spectra(folder, seed):
    """Arrays of five channels and 14 bits in three classes that differ in one channel each."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    for split, count in (("train", 30), ("test", 12)):
        labels = np.arange(count) % 3
        images = random.integers(0, 8000, (count, 5, 16, 16))
        images[np.arange(count), labels] += 8000
        np.save(folder / f"{split}.npy", images.astype(np.uint16))
        np.save(folder / f"{split}_labels.npy", labels)
    (folder / "classes.txt").write_text("iron\ncopper\nzinc\n")


def test_five_channels_of_14_bits_go_through_all_steps(tmp_path):
    """As docs/own-images.md says, on two machines; then a query from an array."""
    developer, provider = tmp_path / "developer", tmp_path / "provider"
    for party, seed in ((developer, 1), (provider, 2)):
        party.mkdir()
        spectra(party / "spectra", seed)
    own = ("--dataset", "arrays", "--dataset_dir", "spectra", "--model", "vgg_small", "--tile", "8",
           "--morph_distribution", "orthogonal", "--shuffle_channels", "no", "--epochs", "8",
           "--batch_size", "6", "--lr", "0.02", "--dropout", "0", "--device", "cpu",
           "--precision", "fp32")
    type_in("python pretrain.py", developer, own)
    (provider / "inbox").mkdir()
    shutil.copy(developer / "data" / "developer" / "first_layer.pt", provider / "inbox")
    type_in("python gen_morphing_matrix.py --first_layer inbox/first_layer.pt\n"
            "python gen_augconv.py --first_layer inbox/first_layer.pt\n"
            "python morph_images.py --images spectra/test.npy --name new", provider, own)
    for folder in ("delivery", "queries"):
        shutil.copytree(provider / "data" / folder, developer / "data" / folder)
    out = type_in("python train_with_ac.py\npython predict.py --name new\n"
                  "python predict.py --name new --network pretrained", developer, own)
    assert "5x16x16" in out
    tables = developer / "data" / "developer" / "predictions"
    for network in ("with_ac", "pretrained"):
        rows = list(csv.DictReader((tables / network / "new" / "predictions.csv").open()))
        right = [row["class"] == ["iron", "copper", "zinc"][i % 3] for i, row in enumerate(rows)]
        assert sum(right) >= 10, network
