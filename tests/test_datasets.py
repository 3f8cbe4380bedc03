"""Data sets as tensors: embedded, and those of torchvision with a stand-in for the network."""

import hashlib
import io
import pickle
import tarfile
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from images import datasets, shapes
from images.datasets import (
    DATASETS,
    Images,
    Prepared,
    image_shape,
    load_images,
    normalisation,
    normalise,
    recoloured,
    subset,
)
from parameter import Parameters
from utils.settings import UserError


def test_shapes_are_the_same_for_the_same_seed_and_balanced():
    images, labels = shapes.draw(200, 16, seed=3)
    again, _ = shapes.draw(200, 16, seed=3)
    other, _ = shapes.draw(200, 16, seed=4)
    assert images.shape == (200, 3, 16, 16) and images.dtype == torch.uint8
    assert torch.equal(images, again) and not torch.equal(images, other)
    assert labels.bincount().tolist() == [20] * 10
    assert len({tuple(image.flatten().tolist()) for image in images}) == 200


def test_every_kind_of_shape_is_another():
    axis = torch.linspace(-1, 1, 41)
    masks = [shapes.inside(k, axis[None, :].expand(41, 41), axis[:, None].expand(41, 41))
             for k in range(10)]
    for i, mask in enumerate(masks):
        assert 0.05 < mask.float().mean() < 0.7
        assert all((mask ^ other).float().mean() > 0.03 for other in masks[:i])


def test_limits_take_a_random_subset_that_is_always_the_same():
    p = Parameters(dataset="shapes", image_size=8, test_limit=500)
    whole = load_images(Parameters(dataset="shapes", image_size=8), "test")
    part, again = load_images(p, "test"), load_images(p, "test")
    assert torch.equal(part.images, again.images) and len(part.labels) == 500
    assert part.labels.bincount().tolist() == [50] * 10 and len(whole.labels) == 2000
    with pytest.raises(UserError, match="test_limit is 2001, but there are 2000 test images"):
        load_images(Parameters(dataset="shapes", image_size=8, test_limit=2001), "test")


@pytest.mark.parametrize("counts, limit, chosen", [
    ([60, 30, 10], 10, [6, 3, 1]), ([60, 30, 10], 50, [30, 15, 5]), ([500, 2, 2], 3, [1, 1, 1]),
    ([500, 2, 2], 50, [48, 1, 1]), ([5, 5], 1, [1, 0]), ([3, 4], 7, [3, 4]), ([3, 4], 0, [3, 4])])
def test_a_subset_has_every_class_in_its_proportion(counts, limit, chosen, capsys):
    """None is left out that fits, and each image is taken once."""
    labels = torch.cat([torch.full((n,), i) for i, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    names = [f"class{i}" for i in range(len(counts))]
    rows = torch.arange(len(labels))[subset(labels, limit, "train", names)]
    assert rows.tolist() == sorted(set(rows.tolist()))
    found = labels[rows].bincount(minlength=len(counts)).tolist()
    assert all(abs(a - b) <= 1 for a, b in zip(found, chosen, strict=True)) and sum(found) == sum(
        chosen) and (min(found) > 0 or limit < len(counts))
    again = torch.arange(len(labels))[subset(labels, limit, "train", names)]
    assert torch.equal(rows, again)
    out = capsys.readouterr().out
    assert ("train images of each class: " in out) == (limit > 0 and max(found) > min(found))


def test_a_smaller_subset_is_no_other_choice_of_images():
    """A sweep over --train_limit adds images and takes none away."""
    labels = torch.arange(400) % 4
    small, large = (set(subset(labels, n, "train", list("abcd")).tolist()) for n in (40, 120))
    assert small < large


def test_colours():
    """Grey is ITU-R 601, as Pillow has it."""
    images = torch.randint(0, 256, (5, 3, 6, 6), dtype=torch.uint8)
    grey = recoloured(images, 1)
    for image, result in zip(images, grey, strict=True):
        expected = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
        assert np.abs(result[0].numpy().astype(int) - expected).max() <= 1
    assert torch.equal(recoloured(grey, 3), grey.expand(5, 3, 6, 6))
    assert recoloured(images, 3) is images


def test_normalised_with_cifars_mean_and_deviation():
    images, (mean, std) = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8), datasets.CIFAR
    expected = torchvision.transforms.functional.normalize(images.float() / 255, mean, std)
    torch.testing.assert_close(normalise(images, mean, std), expected)
    assert normalisation(Parameters(), Images(images, None, [])) == datasets.CIFAR


@pytest.mark.parametrize("p, channels", [(Parameters(dataset="folder"), 3),
                                         (Parameters(dataset="folder", channels=1), 1),
                                         (Parameters(dataset="cifar10", channels=1), 1)])
def test_normalisation_is_measured_where_the_table_has_none(p, channels):
    images = torch.randint(0, 200, (1500, channels, 4, 4), dtype=torch.uint8)
    mean, std = normalisation(p, Images(images, torch.zeros(1500), []))
    result = normalise(images, mean, std)
    assert result.mean((0, 2, 3)).abs().max() < 1e-3
    assert (result.std((0, 2, 3)) - 1).abs().max() < 1e-3
    black = Images(torch.zeros(4, channels, 4, 4, dtype=torch.uint8), None, [])
    assert min(normalisation(p, black)[1]) > 0


def test_images_are_padded_after_they_are_normalised():
    images, (mean, std) = torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8), datasets.CIFAR
    prepared = Prepared(images, mean, std, padding=1)
    assert len(prepared) == 9 and prepared[2:4].shape == (2, 3, 6, 6)
    torch.testing.assert_close(prepared[2:4][:, :, 1:-1, 1:-1], normalise(images[2:4], mean, std))
    assert prepared[:][:, :, 0].abs().max() == 0 == prepared[:][:, :, :, -1].abs().max()


@pytest.mark.parametrize("p, shape", [
    (Parameters(), (3, 32, 32)), (Parameters(dataset="mnist"), (1, 28, 28)),
    (Parameters(dataset="stl10", channels=1), (1, 96, 96)),
    (Parameters(dataset="folder"), (3, 32, 32)),
    (Parameters(dataset="folder", image_size=224, channels=1), (1, 224, 224))])
def test_shape_of_the_images(p, shape):
    assert image_shape(p) == shape


@pytest.mark.parametrize("p, words", [
    (Parameters(dataset="imagenet"), "dataset is 'imagenet', but must be one of cifar10"),
    (Parameters(dataset="mnist", image_size=32), "image_size is 32, but the images of mnist")])
def test_images_that_a_data_set_has_not(p, words):
    with pytest.raises(UserError, match=words):
        image_shape(p)


@pytest.mark.parametrize("name", [n for n in DATASETS if DATASETS[n][0]])
def test_torchvisions_data_sets(name, tmp_path, monkeypatch):
    """A class of torchvision's interface in place of the network."""
    kind, channels, side = DATASETS[name][:3]
    rows = {"train": 7, "test": 5}

    class Fake:
        classes = [f"class {i}" for i in range(100 if name == "cifar100" else 10)]

        def __init__(self, root, train=None, split=None, download=False):
            assert root == str(tmp_path) and download and (train is None) != (split is None)
            count = rows[split or ("train" if train else "test")]
            labels = list(range(count))
            if kind in ("SVHN", "STL10"):
                self.data = np.zeros((count, 3, side, side), np.uint8)
                self.labels = np.array(labels)
            else:
                self.data = (torch.zeros(count, 28, 28, dtype=torch.uint8) if channels == 1 else
                             np.zeros((count, side, side, 3), np.uint8))
                self.targets = torch.tensor(labels) if channels == 1 else labels
            self.data[1] += 1

    if kind == "SVHN":
        del Fake.classes                                 # torchvision's has none
    monkeypatch.setattr(torchvision.datasets, kind, Fake)
    for split, count in rows.items():
        images = load_images(Parameters(dataset=name, dataset_dir=str(tmp_path)), split)
        assert images.images.shape == (count, channels, side, side)
        assert images.images.dtype == torch.uint8 and images.images[1].min() == 1
        assert images.labels.dtype == torch.int64 and images.labels.tolist() == list(range(count))
        assert len(images.classes) >= 10 and all(isinstance(c, str) for c in images.classes)


def test_cifar_without_a_network_says_what_to_put_where(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    p = Parameters(dataset_dir=str(tmp_path))
    with pytest.raises(UserError) as error:
        load_images(p, "train")
    message = str(error.value)
    assert "cifar-10-python.tar.gz" in message and str(tmp_path) in message
    assert "--dataset shapes" in message and "\n" not in message


def test_a_half_downloaded_archive_is_named_with_its_checksum(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    half = tmp_path / "cifar-10-python.tar.gz"
    half.write_bytes(b"half of it")
    with pytest.raises(UserError) as error:
        load_images(Parameters(dataset_dir=str(tmp_path)), "train")
    assert f"{half} is damaged (md5 {hashlib.md5(b'half of it').hexdigest()}, not " in str(
        error.value) and "replace it" in str(error.value)
    assert "\n" not in str(error.value) and half.exists()


def test_cifar_is_downloaded_once(tmp_path, monkeypatch):
    """A small archive of CIFAR-10's form, served in place of the network."""
    rows = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    files = {name: {"data": rows, "labels": [0, 1, 2, 9]}
             for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]}
    files["batches.meta"] = {"label_names": list("abcdefghij")}
    packed, sums = io.BytesIO(), {}
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            data = pickle.dumps(content)
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
            sums[name] = hashlib.md5(data).hexdigest()
    served = []

    class Answer(io.BytesIO):
        length, headers, url = len(packed.getvalue()), {}, None

    def serve(request, *_, **__):
        served.append(request)
        return Answer(packed.getvalue())

    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(urllib.request, "urlopen", serve)
    monkeypatch.setattr(cifar, "tgz_md5", hashlib.md5(packed.getvalue()).hexdigest())
    monkeypatch.setattr(cifar, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]]
                                              for i in range(1, 6)])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", {"filename": "batches.meta", "key": "label_names",
                                        "md5": sums["batches.meta"]})
    p = Parameters(dataset_dir=str(tmp_path))
    train = load_images(p, "train")
    asked = len(served)
    test = load_images(p, "test")
    assert len(served) == asked > 0
    assert train.images.shape == (20, 3, 32, 32) and train.images.dtype == torch.uint8
    np.testing.assert_array_equal(test.images.flatten(1).numpy(), rows)
    assert test.labels.tolist() == [0, 1, 2, 9] and test.classes == list("abcdefghij")
