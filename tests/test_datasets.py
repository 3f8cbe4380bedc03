"""Data sets as tensors: embedded, and those of torchvision with a stand-in for the network."""

import hashlib
import inspect
import io
import pickle
import tarfile
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from images import shapes
from images.datasets import (
    CIFAR,
    DATASETS,
    DataSet,
    ImageSet,
    Prepared,
    data_digest,
    image_shape,
    load_images,
    measure_normalisation,
    normalisation,
    normalise,
    recoloured,
    settings_of_images,
    subset,
)
from images.torchvision_sets import arguments_for
from parameter import Parameters
from utils.errors import UserError


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


SUBSETS = {
    "a tenth": ([60, 30, 10], 10, [6, 3, 1]),
    "half": ([60, 30, 10], 50, [30, 15, 5]),
    "one of each of three": ([500, 2, 2], 3, [1, 1, 1]),
    "small classes keep one": ([500, 2, 2], 50, [48, 1, 1]),
    "fewer than classes": ([5, 5], 1, [1, 0]),
    "exactly all": ([3, 4], 7, [3, 4]),
    "no limit": ([3, 4], 0, [3, 4])}


@pytest.mark.parametrize("case", SUBSETS)
def test_a_subset_has_every_class_in_its_proportion(case, capsys):
    """None is left out that fits, and each image is taken once."""
    counts, limit, expected = SUBSETS[case]
    labels = torch.cat([torch.full((n,), i) for i, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    names = [f"class{i}" for i in range(len(counts))]
    rows = torch.arange(len(labels))[subset(labels, limit, "train", names)]
    assert rows.tolist() == sorted(set(rows.tolist()))

    found = labels[rows].bincount(minlength=len(counts)).tolist()
    assert sum(found) == sum(expected)
    assert all(abs(a - b) <= 1 for a, b in zip(found, expected, strict=True))
    if limit >= len(counts):
        assert min(found) > 0
    again = torch.arange(len(labels))[subset(labels, limit, "train", names)]
    assert torch.equal(rows, again)

    unequal = max(found) > 2 * min(found)
    assert ("train images of each class: " in capsys.readouterr().out) == unequal


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


def test_normalised_with_cifars_mean_and_standard_deviation():
    images, (mean, std) = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8), CIFAR
    expected = torchvision.transforms.functional.normalize(images.float() / 255, mean, std)
    torch.testing.assert_close(normalise(images, mean, std), expected)
    assert normalisation(Parameters(), ImageSet(images, None, [])) == CIFAR


@pytest.mark.parametrize("p, channels", [
    pytest.param(Parameters(dataset="folder"), 3, id="folder, colour"),
    pytest.param(Parameters(dataset="folder", channels=1), 1, id="folder, grey"),
    pytest.param(Parameters(dataset="cifar10", channels=1), 1, id="CIFAR-10 as grey")])
def test_normalisation_is_measured_where_the_table_has_none(p, channels):
    images = torch.randint(0, 200, (1500, channels, 4, 4), dtype=torch.uint8)
    mean, std = normalisation(p, ImageSet(images, torch.zeros(1500), []))
    result = normalise(images, mean, std)
    assert result.mean((0, 2, 3)).abs().max() < 1e-3
    assert (result.std((0, 2, 3)) - 1).abs().max() < 1e-3
    black = ImageSet(torch.zeros(4, channels, 4, 4, dtype=torch.uint8), None, [])
    assert min(normalisation(p, black)[1]) > 0


@pytest.mark.parametrize("dtype, centre, spread", [
    pytest.param(torch.uint16, 40_000, 3_000, id="16 bits"),
    pytest.param(torch.int16, -500, 90, id="signed 16 bits"),
    pytest.param(torch.float32, 0, 1e-6, id="tiny"),
    pytest.param(torch.float64, 1e6, 30, id="far from zero"),
    pytest.param(torch.float64, 0, 1e9, id="huge")])
def test_normalisation_of_numbers_of_any_scale(dtype, centre, spread):
    generator = torch.Generator().manual_seed(0)
    numbers = centre + spread * torch.randn(1200, 2, 4, 4, generator=generator, dtype=torch.float64)
    numbers[:, 1] += 2 * spread
    images = numbers.to(dtype)
    result = normalise(images, *measure_normalisation(images))
    assert result.dtype == torch.float32
    assert result.mean((0, 2, 3)).abs().max() < 5e-3
    assert (result.std((0, 2, 3)) - 1).abs().max() < 5e-3


def test_a_channel_of_one_value_becomes_zero():
    for value in (0.0, 0.1, -1e9):
        images = torch.full((3, 1, 4, 4), value)
        assert normalise(images, *measure_normalisation(images)).abs().max() < 1e-6


def test_images_are_padded_after_they_are_normalised():
    images, (mean, std) = torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8), CIFAR
    prepared = Prepared(images, mean, std, padding=1)
    assert len(prepared) == 9 and prepared[2:4].shape == (2, 3, 6, 6)
    torch.testing.assert_close(prepared[2:4][:, :, 1:-1, 1:-1], normalise(images[2:4], mean, std))
    assert prepared[:][:, :, 0].abs().max() == 0 == prepared[:][:, :, :, -1].abs().max()


@pytest.mark.parametrize("p, shape", [
    pytest.param(Parameters(), (3, 32, 32), id="CIFAR-10"),
    pytest.param(Parameters(dataset="mnist"), (1, 28, 28), id="MNIST"),
    pytest.param(Parameters(dataset="stl10", channels=1), (1, 96, 96), id="STL-10 as grey"),
    pytest.param(Parameters(dataset="folder"), (3, 32, 32), id="a folder"),
    pytest.param(Parameters(dataset="folder", image_size=224, channels=1), (1, 224, 224),
                 id="a folder, grey, 224 pixels")])
def test_shape_of_the_images(p, shape):
    assert image_shape(p) == shape


@pytest.mark.parametrize("p, words", [
    pytest.param(Parameters(dataset="imagenet"),
                 "dataset is 'imagenet', but must be one of cifar10", id="unknown"),
    pytest.param(Parameters(dataset="mnist", image_size=32),
                 "image_size is 32, but the images of mnist", id="another size"),
    pytest.param(Parameters(channels=2), "channels is 2, .* grey .* or colour", id="two channels"),
    pytest.param(Parameters(dataset="folder", channels=5), "channels is 5, .*--dataset arrays",
                 id="five channels of image files")])
def test_images_that_a_data_set_has_not(p, words):
    with pytest.raises(UserError, match=words):
        image_shape(p)


# torchvision's data sets, with classes of its interface in place of the network.

class FakeSet:
    """A class of torchvision.datasets: `data` and `labels` are what its instances hold."""

    classes = [f"class {i}" for i in range(100)]
    targets_name = "targets"

    def __init__(self, root, train=True, download=False):
        self._fill("train" if train else "test")

    def _fill(self, split: str):
        count = {"train": 7, "test": 5}[split]
        self.data = self.images(count)
        self.data[1] += 1
        setattr(self, self.targets_name, self.labels_of(list(range(count))))

    @staticmethod
    def labels_of(labels: list[int]):
        return labels


class LikeCifar(FakeSet):
    @staticmethod
    def images(count):
        return np.zeros((count, 32, 32, 3), np.uint8)


class LikeMnist(FakeSet):
    labels_of = staticmethod(torch.tensor)

    @staticmethod
    def images(count):
        return torch.zeros(count, 28, 28, dtype=torch.uint8)


class LikeEmnist(LikeMnist):
    def __init__(self, root, split, **options):
        assert split == "balanced"
        super().__init__(root, **options)


class LikeSvhn(FakeSet):
    targets_name = "labels"
    labels_of = staticmethod(np.array)
    side = 32

    def __init__(self, root, split="train", download=False):
        self._fill(split)

    @classmethod
    def images(cls, count):
        return np.zeros((count, 3, cls.side, cls.side), np.uint8)


class LikeStl10(LikeSvhn):
    side = 96


FAKES = {"CIFAR10": LikeCifar, "CIFAR100": LikeCifar, "MNIST": LikeMnist,
         "FashionMNIST": LikeMnist, "KMNIST": LikeMnist, "EMNIST": LikeEmnist, "SVHN": LikeSvhn,
         "STL10": LikeStl10}
EMNIST = DataSet("EMNIST", 1, 28, (0.1751,), (0.3332,), {"split": "balanced"})


@pytest.mark.parametrize("name", [*(n for n in DATASETS if DATASETS[n].torchvision), "emnist"])
def test_torchvisions_data_sets(name, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "emnist", EMNIST)      # the recipe: one line
    known = DATASETS[name]
    monkeypatch.setattr(torchvision.datasets, known.torchvision, FAKES[known.torchvision])
    for split, count in (("train", 7), ("test", 5)):
        images = load_images(Parameters(dataset=name, dataset_dir=str(tmp_path)), split)
        assert images.images.shape == (count, known.channels, known.side, known.side)
        assert images.images.dtype == torch.uint8
        assert images.images[1].min() == 1 and images.images[0].max() == 0
        assert images.labels.dtype == torch.int64
        assert images.labels.tolist() == list(range(count))
        assert images.classes == FakeSet.classes


@pytest.mark.parametrize("name, options", [
    *((known.torchvision, {}) for known in DATASETS.values() if known.torchvision),
    ("EMNIST", {"split": "balanced"}), ("USPS", {})])
def test_torchvisions_classes_take_the_arguments_that_they_get(name, options):
    """Of the installed torchvision, which a fake cannot tell."""
    kind = getattr(torchvision.datasets, name)
    for split in ("train", "test"):
        arguments = arguments_for(kind, split, options)
        inspect.signature(kind).bind("folder", download=True, **arguments)
        assert options.items() <= arguments.items()
        assert arguments.get("train", arguments.get("split")) in (split, split == "train")


def test_classes_without_names_are_numbered(tmp_path, monkeypatch):
    monkeypatch.delattr(FakeSet, "classes")              # torchvision's SVHN has none
    monkeypatch.setattr(torchvision.datasets, "SVHN", LikeSvhn)
    images = load_images(Parameters(dataset="svhn", dataset_dir=str(tmp_path)), "train")
    assert images.classes == list("0123456")


class OfPaths(FakeSet):
    @staticmethod
    def images(count):
        return [0] * count


class OfOtherSizes(FakeSet):
    @staticmethod
    def images(count):
        return np.zeros((count, 30, 32, 3), np.uint8)


class OfSeveralLabels(LikeCifar):
    @staticmethod
    def labels_of(labels):
        return [[label, 0] for label in labels]


class WithoutSplits(LikeCifar):
    def __init__(self, root, download=False):
        self._fill("train")


def test_images_of_other_sizes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", OfOtherSizes)
    with pytest.raises(UserError, match=r"images of shape \(30, 32, 3\), not \(3, 32, 32\)"):
        load_images(Parameters(dataset_dir=str(tmp_path)), "train")


@pytest.mark.parametrize("kind", [OfPaths, OfSeveralLabels, WithoutSplits])
def test_classes_of_torchvision_that_do_not_fit_are_refused(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", kind)
    with pytest.raises(UserError, match=r"torchvision's CIFAR10 .*choose --dataset folder"):
        load_images(Parameters(dataset_dir=str(tmp_path)), "train")


@pytest.mark.parametrize("name, split, words", [
    ("cifar10", "train", "put cifar-10-python.tar.gz into FOLDER"),
    ("stl10", "test", "put stl10_binary.tar.gz into FOLDER"),
    ("svhn", "test", "put test_32x32.mat into FOLDER"),
    ("mnist", "test", "t10k-labels-idx1-ubyte.gz into FOLDER/MNIST/raw"),
    ("kmnist", "train", "put train-images-idx3-ubyte.gz, .* into FOLDER/KMNIST/raw")])
def test_without_a_network_the_files_and_their_place_are_named(
        tmp_path, monkeypatch, name, split, words):
    def unreachable(*arguments, **options):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    p = Parameters(dataset=name, dataset_dir=str(tmp_path))
    with pytest.raises(UserError, match=words.replace("FOLDER", str(tmp_path))):
        load_images(p, split)


def test_the_digest_tells_images_apart():
    """The same for the same images; another for other ones, in another order or of another type."""
    p = Parameters(dataset="shapes", image_size=8, test_limit=50)
    images = load_images(p, "test")
    assert images.digest == load_images(p, "test").digest == data_digest(images.images)
    assert len({images.digest, data_digest(images.images.flip(0)), data_digest(images.images[1:]),
                data_digest(images.images.view(torch.int8)),
                data_digest(images.images.reshape(50, 3, 4, 16))}) == 5


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


def test_a_data_set_by_name_is_not_sought_among_folders_of_images(tmp_path):
    """Where --dataset folder was forgotten, CIFAR-10 must not be delivered in place of them."""
    for split in ("train", "test"):
        (tmp_path / split / "cats").mkdir(parents=True)
    with pytest.raises(UserError, match="has folders train and test, but --dataset is cifar10: "
                                        "add --dataset folder"):
        load_images(Parameters(dataset_dir=str(tmp_path)), "train")


def test_values_that_no_first_layer_is_normalised_by_are_refused_before_training():
    images = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    p, labels = Parameters(dataset="arrays"), torch.zeros(20, dtype=torch.int64)
    normalisation(p, ImageSet(images * 1e8, labels, ["one"]))
    with pytest.raises(UserError, match="train on images of smaller values"):
        normalisation(p, ImageSet(images * 1e9, labels, ["one"]))


@pytest.mark.parametrize("name, size", [
    ("cifar10", {}), ("mnist", {}), ("folder", {"image_size": 8}), ("arrays", {"image_size": 8}),
    ("shapes", {"image_size": 8})])
def test_a_first_layer_decides_the_size_of_images_that_have_none_of_their_own(name, size):
    """Others are compared with it: nobody is blamed for an image_size that he did not give."""
    first = SimpleNamespace(shape=(3, 8, 8), image_size=8, image_fit="pad")
    decided = settings_of_images(Parameters(dataset=name), first)
    assert decided == {"channels": 3, "image_fit": "pad"} | size
