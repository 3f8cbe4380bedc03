"""The commands of the README, and the walk-throughs and recipes of docs/, typed literally at tiny
size."""

import csv
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from images import datasets, torchvision_sets
from models import build as networks
from mole import morphing
from parameter import Parameters
from tests import inference
from tests.pages import all_blocks, block_of, blocks, commands_in_sentences, type_in
from tests.steps import ROOT
from utils.errors import UserError
from utils.settings import parse

TINY = ("--dataset", "shapes", "--image_size", "8", "--train_limit", "64", "--test_limit", "32",
        "--model", "vgg_small", "--epochs", "1", "--batch_size", "16", "--device", "cpu",
        "--precision", "fp32")
SCANS = ("--epochs", "1", "--batch_size", "8", "--device", "cpu", "--precision", "fp32")
CLASSES = ("Fracture", "healthy", "pneumonia")

# Each block that is typed by a test of this file, by its page and mark. test_library.py types
# those of the library's page.
TYPED = {
    "docs/augmentation.md": ["augmentation"],
    "docs/extending.md": ["network", "data set", "files", "distribution"],
    "docs/inference.md": ["inference", "join"],
    "docs/networks.md": ["own network", "tiles"],
    "docs/own-images.md": ["split"],
    "docs/speed.md": ["notebook pretrain", "notebook deliver", "notebook train"],
    "docs/sweeps.md": ["short sweep", "sweep"],
    "docs/two-machines.md": ["developer", "provider", "second provider"],
}
# How the blocks begin that no test can type: drawings, installations, a notebook's own cells.
NOT_TYPED = {
    "README.md": ["make demo\n", "plain network: ", "   DEVELOPER ", "parameter.py "],
    "docs/library.md": ["import torch", "# int8", "# The provider composes", "# Saving, and"],
    "docs/speed.md": ["from google.colab ", "!git clone "],
    "experiments/README.md": ["make test demo "],
}
PAGES = ["README.md", *(str(path.relative_to(ROOT)) for folder in ("docs", "attacks", "experiments")
                        for path in sorted((ROOT / folder).glob("*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_the_pages_is_typed(page):
    for block in all_blocks(page):
        if block.mark:
            assert block.mark in TYPED.get(page, []), block.text
        else:
            assert block.text.startswith(tuple(NOT_TYPED.get(page, ["nothing"]))), block.text


def test_folders_of_images_and_deliveries_are_not_committed_by_mistake():
    """Those that the pages put beside the code: `git add .` must leave them out."""
    option = r"--(?:dataset_dir|images|delivery|public) ([a-z]\w*)"
    folders = {name for page in PAGES
               for name in re.findall(option, (ROOT / page).read_text(encoding="utf-8"))}
    assert {"my_images", "scans", "from_hospital"} <= folders
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    ignored = [line.removeprefix("/") for line in lines]
    for folder in sorted(folders):
        assert any(fnmatch(f"{folder}/", pattern) for pattern in ignored), folder


def test_the_commands_in_the_readmes_sentences(tmp_path):
    """Those of the steps in the order in which they stand there; of the others, that they exist."""
    steps, targets = [], []
    for command in commands_in_sentences("README.md"):
        (steps if command.startswith("python ") else targets).append(command)
    scripts = [shlex.split(command)[1] for command in steps]
    assert scripts == ["pretrain.py", "gen_morphing_matrix.py", "gen_augconv.py",
                       "train_with_ac.py", "train_no_ac.py", "reproduce_tables.py", "attack.py"]
    printed = type_in("\n".join(steps), tmp_path, TINY)
    for words in ("plain network: ", "are SECRET", "goes to the developer", "with Aug-Conv: ",
                  "without Aug-Conv: "):
        assert words in printed
    targets += [line.partition("#")[0] for line in all_blocks("README.md")[0].text.splitlines()]
    for target in targets:
        done = subprocess.run(["make", "--dry-run", *target.split()[1:]], cwd=ROOT,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_first_layer_that_the_readme_begins_with(tmp_path):
    """Steps 3 and 4 on it; the images are not CIFAR's, but of its size."""
    option = "--first_layer results/first_layers/vgg11.pt"
    assert f"`{option}`" in (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "results").symlink_to(ROOT / "results")
    settings = (*TINY, "--image_size", "32", "--tile", "8", "--model", "vgg11")
    out = type_in(f"python gen_morphing_matrix.py {option}\npython gen_augconv.py {option}\n"
                  "python train_with_ac.py", tmp_path, settings)
    assert "with Aug-Conv:" in out


def test_the_sweep_ends_in_a_table_with_a_row_for_each_core(tmp_path):
    type_in(block_of("docs/sweeps.md", "sweep"), tmp_path, TINY)
    records = [json.loads(file.read_text()) for file in tmp_path.glob("results_of_seeds/*.json")]
    runs = [record["run"] for record in records]
    assert [runs.count(name) for name in ("pretrained", "pretrained_frozen", "with_ac", "no_ac")
            ] == [2, 2, 8, 8]
    table = (tmp_path / "results_of_seeds" / "tables" / "tables.md").read_text()
    for words in ("κ = 1", "κ = 3", "κ = 12", "s = 8", "2 seeds"):
        assert words in table
    assert len(list(tmp_path.glob("data/*/*/provider/keys/*"))) == 8


def test_a_stopped_sweep_continues_and_draws_no_key_again(tmp_path):
    sweep = block_of("docs/sweeps.md", "short sweep")
    type_in(sweep, tmp_path, TINY, until="train_with_ac.py")
    keys = list(tmp_path.glob("data/sweep/kappa-1/provider/keys/*"))
    assert len(keys) == 1
    printed = type_in(sweep, tmp_path, TINY)
    assert "no plain network to compare with" not in printed
    table = (tmp_path / "results_of_mine" / "tables" / "tables.md").read_text()
    assert "κ = 12" in table
    assert list(tmp_path.glob("data/sweep/kappa-1/provider/keys/*")) == keys
    assert len(list(tmp_path.glob("results_of_mine/*.json"))) == 4
    type_in(sweep, tmp_path, TINY)                       # nothing is left to do
    assert len(list(tmp_path.glob("data/sweep/*/provider/keys/*"))) == 3
    assert len(list(tmp_path.glob("results_of_mine/*.json"))) == 4


def test_augmentation_behind_aug_conv(tmp_path):
    out = type_in(block_of("docs/augmentation.md", "augmentation"), tmp_path, TINY)
    assert "mirrored_aug_conv.pt" in out and "with Aug-Conv:" in out


def test_a_network_under_a_name_of_its_own(monkeypatch):
    edited = dict(vars(networks))
    exec(block_of("docs/extending.md", "network"), edited)
    monkeypatch.setattr(networks, "OWN", edited["OWN"])
    network = networks.build("two_layers", 5, (3, 16, 16))
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    assert networks.OWN["resnet18_cifar"] is networks.resnet18_cifar


def test_a_network_of_ones_own(tmp_path):
    page = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    option = "--model my_networks:two_layers"
    assert "`my_networks.py`" in page and f"`{option}`" in page
    (tmp_path / "my_networks.py").write_text(block_of("docs/networks.md", "own network"))
    type_in(f"python pretrain.py {option}", tmp_path, TINY)
    assert (tmp_path / "data" / "developer" / "first_layer.pt").exists()


def test_larger_images_by_tiles(tmp_path):
    random = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in ("hat", "shoe"):
            place = tmp_path / "my_images" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(random.integers(0, 256, (60, 50, 3), np.uint8)).save(
                    place / f"{i}.png")
    out = type_in(block_of("docs/networks.md", "tiles"), tmp_path, SCANS)
    assert "3x224x224, orthogonal core, 16x16 tiles, int8" in out and "with Aug-Conv: " in out


# Data sets of torchvision

class Usps:
    """What torchvision's USPS would read, without a download."""

    classes = [str(i) for i in range(10)]

    def __init__(self, root, train, download):
        self.data = np.zeros((20, 16, 16), np.uint8)
        self.targets = [i % 10 for i in range(20)]


class Emnist:
    """The same of EMNIST, which has several parts."""

    def __init__(self, root, split, **options):
        if split != "balanced":
            raise ValueError(f"Unknown value '{split}' for argument split.")
        self.classes = [str(i) for i in range(47)]
        self.data = torch.zeros(94, 28, 28, dtype=torch.uint8)
        self.targets = torch.arange(94) % 47


class Gtsrb:
    """The same of GTSRB, whose images have several sizes; and of Flowers102, which is like it."""

    def __init__(self, root, split="train", transform=None, target_transform=None, download=False):
        self.items = [(Image.new("RGB", (20 + i, 30), (10 * i, 90, 0)), i % 2) for i in range(6)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_a_data_set_of_torchvision_in_a_line(monkeypatch, tmp_path):
    more = eval("{" + block_of("docs/extending.md", "data set") + "}", vars(datasets))
    monkeypatch.setattr(datasets, "DATASETS", datasets.DATASETS | more)
    monkeypatch.setattr(torchvision.datasets, "USPS", Usps)
    monkeypatch.setattr(torchvision.datasets, "EMNIST", Emnist)
    shapes = {}
    for name in more:
        p = Parameters(dataset=name, data_dir=str(tmp_path))
        shapes[name] = datasets.load_images(p, "train").images.shape
        assert shapes[name][1:] == datasets.image_shape(p)
    assert shapes == {"usps": (20, 1, 16, 16), "emnist": (94, 1, 28, 28)}


@pytest.mark.parametrize("name, words", [
    ("EMNIST", r"takes other arguments \(Unknown value 'train' .*options in DATASETS"),
    ("Flowers102", "does not keep its images as one uint8 array"),
    ("GTSRB", "does not keep its images as one uint8 array"),
    ("FakeData", "does not download its images: save its images as files")])
def test_a_line_for_a_data_set_that_does_not_fit_is_refused_in_words(
        monkeypatch, tmp_path, name, words):
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert name in page
    for kind, fake in (("EMNIST", Emnist), ("Flowers102", Gtsrb), ("GTSRB", Gtsrb)):
        monkeypatch.setattr(torchvision.datasets, kind, fake)
    monkeypatch.setitem(datasets.DATASETS, "other", datasets.DataSet(name, 3, 32))
    with pytest.raises(UserError, match=words) as refused:
        datasets.load_images(Parameters(dataset="other", dataset_dir=str(tmp_path)), "train")
    assert "--dataset folder" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("line, words", [
    (datasets.DataSet("Emnist", 1, 28), "torchvision has no data set Emnist: correct its line"),
    (datasets.DataSet("usps", 1, 16), "torchvision has no data set usps: correct its line"),
    (datasets.DataSet("USPS", 1, 32), r"of shape \(16, 16\), not \(1, 32, 32\): correct its"),
    (datasets.DataSet("USPS", 3, 16), r"of shape \(16, 16\), not \(3, 16, 16\): correct its")])
def test_a_wrong_line_for_a_data_set_is_refused_in_words(monkeypatch, tmp_path, line, words):
    monkeypatch.setattr(torchvision.datasets, "USPS", Usps)
    monkeypatch.setitem(datasets.DATASETS, "other", line)
    with pytest.raises(UserError, match=words):
        datasets.load_images(Parameters(dataset="other", dataset_dir=str(tmp_path)), "train")


def test_a_data_set_that_cannot_be_downloaded_says_where_its_files_belong():
    """Whatever a class of torchvision keeps of its files: QMNIST has a dictionary of them."""
    for name in ("CIFAR10", "MNIST", "QMNIST", "EMNIST", "USPS", "SVHN", "STL10"):
        kind = getattr(torchvision.datasets, name)
        assert re.match(r"put .+ into data", torchvision_sets.missing_files(kind, "data", "train"))


def test_a_data_set_of_torchvision_saved_as_files(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.datasets, "GTSRB", Gtsrb)
    exec(block_of("docs/extending.md", "files"), {})
    options = "--dataset folder --dataset_dir data/gtsrb --image_size 32"
    page = " ".join((ROOT / "docs" / "extending.md").read_text(encoding="utf-8").split())
    assert f"`{options}`" in page
    images = datasets.load_images(parse("", options.split(), "pretrain.py"), "test")
    assert images.images.shape == (6, 3, 32, 32) and images.classes == ["000", "001"]


def test_the_recipe_for_a_distribution():
    """Its lines stand in draw_core, before those of a normal core."""
    source = inspect.getsource(morphing)
    place = "    core = torch.from_numpy(generator.standard_normal"
    source = source.replace('DISTRIBUTIONS = (', 'DISTRIBUTIONS = ("signs", ')
    module = {"__name__": "edited"}
    exec(source.replace(place, block_of("docs/extending.md", "distribution") + place), module)
    core = module["draw_core"](8, "signs")
    assert core.dtype == torch.float32
    torch.testing.assert_close(core.abs(), torch.full((8, 8), 8 ** -0.5))


def scans(folder, seed):
    """Grey images of 16 bits, train and test, in three classes."""
    random = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        for split, count in (("train", 6), ("test", 3)):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                image = random.integers(0, 16384, (64, 64)) + label * 16384
                Image.fromarray(image.astype(np.uint16)).save(place / f"{i}.png")


@pytest.fixture
def machines(tmp_path):
    """A folder for each party, with its images."""
    developer, provider, second = (tmp_path / name for name in
                                   ("developer", "provider", "second provider"))
    scans(developer / "public_scans", 1)
    scans(provider / "scans", 2)
    scans(second / "scans", 3)
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
        if "--key list" in block.text:
            shutil.copytree(delivery, developer / "from_hospital_2")
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
           "--morph_distribution", "orthogonal", "--shuffle_channels", "no", "--epochs", "16",
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


# Your own images, inference, a notebook

def test_photographs_are_split_into_two_sets_once(tmp_path):
    names = set()
    for kind, count in (("a cat", 11), ("dog", 5)):
        for i in range(count):
            file = tmp_path / "photos" / kind / f"{i} of all.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (6, 6), (i, 0, 0)).save(file)
            names.add(f"{kind}/{file.name}")
    lines = block_of("docs/own-images.md", "split")
    type_in(lines, tmp_path)
    with pytest.raises(AssertionError):                  # nothing is deleted a second time
        type_in(lines, tmp_path)
    found = {}
    for split in ("train", "test"):
        folder = tmp_path / "my_images" / split
        found[split] = {str(file.relative_to(folder)) for file in folder.rglob("*.png")}
    assert found["train"] | found["test"] == names and len(found["test"]) == 3
    assert not found["train"] & found["test"]
    p = Parameters(dataset="folder", dataset_dir=str(tmp_path / "my_images"), image_size=4,
                   data_dir=str(tmp_path / "data"))
    assert datasets.load_images(p, "test").labels.bincount().tolist() == [2, 1]
    assert len(list((tmp_path / "photos").rglob("*.png"))) == 16


def test_predictions_on_new_images_under_the_names_of_their_files(data, made):
    """The last command is run by the shell, as it stands."""
    place = data.parent
    new = place / "new_photos"
    new.mkdir()
    for file in (made / "images" / "test").rglob("*.png"):
        shutil.copy(file, new / f"{file.parent.name}, {file.name}")
    type_in(block_of("docs/inference.md", "inference"), place, inference.SETTINGS)
    predicted = data / "developer" / "predictions" / "with_ac" / "clinic-7" / "predictions.csv"
    shutil.copy(predicted, place)
    python = f'python() {{ "{sys.executable}" "$@"; }}\n'

    def join() -> subprocess.CompletedProcess:
        return subprocess.run(["bash", "-eu", "-c", python + block_of("docs/inference.md", "join")],
                              cwd=place, capture_output=True, text=True)

    head, *lines = join().stdout.splitlines()
    assert head.startswith("name,class") and len(lines) == 40
    assert lines[0].startswith("blue, 000.png,")
    of_another = predicted.read_text(encoding="utf-8").replace("clinic-7-", "clinic-8-")
    (place / "predictions.csv").write_text(of_another, encoding="utf-8")
    refused = join()
    assert refused.returncode == 1 and "KeyError: 'clinic-8-" in refused.stderr


def test_the_cells_of_a_notebook_are_commands_that_the_steps_take():
    lines = [line for block in blocks("docs/speed.md") for line in block.text.splitlines()]
    scripts = []
    for line in lines:
        python, script, *arguments = shlex.split(line)
        assert python == "!python"
        assert parse("", arguments, script).data_dir == "/content/drive/MyDrive/mole"
        scripts.append(script)
    assert scripts == ["pretrain.py", "gen_morphing_matrix.py", "gen_augconv.py",
                       "train_with_ac.py", "train_no_ac.py"]
