"""Data sets as tensors: embedded, folders of images, and CIFAR with a stand-in for the network."""

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
from utils.datasets import MEAN, STD, decode, image_shape, load_images, normalise, unrolled
from utils.program import UserError

from parameter import Parameters
from utils import shapes


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
    assert len(part.labels.unique()) == 10 and len(whole.labels) == 2000
    with pytest.raises(UserError, match="test_limit is 2001"):
        load_images(Parameters(dataset="shapes", image_size=8, test_limit=2001), "test")


def test_normalised_with_cifars_mean_and_deviation():
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = torchvision.transforms.functional.normalize(images.float() / 255, MEAN, STD)
    torch.testing.assert_close(normalise(images), expected)


def test_unrolled_images_are_padded_after_they_are_normalised():
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    rows = unrolled(images, padding=1).view(2, 3, 6, 6)
    torch.testing.assert_close(rows[:, :, 1:-1, 1:-1], normalise(images))
    assert rows[:, :, 0].abs().max() == 0 == rows[:, :, :, -1].abs().max()
    assert image_shape(Parameters(image_padding=1)) == (3, 34, 34)


@pytest.fixture
def tree(tmp_path):
    """A folder data set with two classes, and a function that draws an image file into it."""
    def put(name, size=(6, 6), colour=(200, 100, 50), **options):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path, **options)
        return path

    for split in ("train", "test"):
        for kind in ("cat", "dog"):
            put(f"{split}/{kind}/1.png")
    return put


def folder(tmp_path, **more):
    return Parameters(dataset="folder", dataset_dir=str(tmp_path / "images"), image_size=4,
                      data_dir=str(tmp_path / "data"), **more)


def test_folder_is_decoded_resized_and_kept(tree, tmp_path):
    tree("train/dog/2.jpg", size=(9, 5), colour=(0, 0, 255), quality=95)
    first = load_images(folder(tmp_path), "train")
    assert first.classes == ["cat", "dog"] and first.labels.tolist() == [0, 1, 1]
    assert first.images.shape == (3, 3, 4, 4)
    assert first.images[0, :, 0, 0].tolist() == [200, 100, 50]
    assert first.images[2, 2].float().mean() > 240 > 20 > first.images[2, 0].float().mean()
    kept = list((tmp_path / "data" / "datasets").iterdir())
    assert len(kept) == 1
    assert torch.equal(load_images(folder(tmp_path), "train").images, first.images)
    kept[0].write_bytes(b"damaged")
    assert torch.equal(load_images(folder(tmp_path), "train").images, first.images)
    tree("train/cat/1.png", colour=(1, 2, 3))
    assert load_images(folder(tmp_path), "train").images[0, :, 0, 0].tolist() == [1, 2, 3]


def test_a_wide_image_keeps_its_proportions(tree):
    path = tree("wide.png", size=(12, 6))
    with Image.open(path) as image:
        image.paste((0, 0, 0), (0, 0, 3, 6))              # what a square crop leaves out
        image.save(path)
    assert decode(path, 6)[0].min() == 200


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
