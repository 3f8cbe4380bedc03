"""Images as arrays of numbers: read as they are, or refused with what to do."""

import io
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from images.arrays import read_array_images
from images.datasets import (
    dataset_name,
    image_shape,
    load_images,
    normalisation,
    normalise,
    warn_of_another_scale,
)
from parameter import Parameters
from utils.errors import UserError
from utils.examples import take_rows

RNG = np.random.default_rng(0)
COUNT = {"train": 12, "test": 6}
DTYPES = {"uint8": (0, 255), "uint16": (0, 65535), "int16": (-32768, 32767), "float16": (-9, 9),
          "float32": (-1e30, 1e30), "float64": (-1e30, 1e30)}


def numbers(count: int, dtype: str = "uint16", channels: int = 5, side: int = 6) -> np.ndarray:
    low, high = DTYPES[dtype]
    return RNG.uniform(low, high, (count, channels, side, side)).astype(dtype)


@pytest.fixture
def folder(tmp_path):
    """Arrays of five channels of 6 × 6, in three classes."""
    place = tmp_path / "spectra"
    place.mkdir()
    for split, count in COUNT.items():
        np.save(place / f"{split}.npy", numbers(count))
        np.save(place / f"{split}_labels.npy", np.arange(count) % 3)
    return place


def settings(folder, **more) -> Parameters:
    return Parameters(dataset="arrays", dataset_dir=str(folder), **more)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_stay_as_they_are(folder, dtype):
    for split, count in COUNT.items():
        array = numbers(count, dtype)
        np.save(folder / f"{split}.npy", array)
        found = load_images(settings(folder), split)
        assert found.images.dtype == getattr(torch, dtype)
        assert found.images.shape == (count, 5, 6, 6)
        np.testing.assert_array_equal(found.images.numpy(), array)
        assert found.labels.tolist() == [i % 3 for i in range(count)]
        assert found.labels.dtype == torch.int64
        assert found.classes == ["0", "1", "2"]


def test_channels_may_be_first_last_or_left_out(folder):
    p = settings(folder)
    first = load_images(p, "train")
    before = first.images.clone()                        # the file is about to be another
    for split in COUNT:
        array = np.load(folder / f"{split}.npy")
        np.save(folder / f"{split}.npy", array.transpose(0, 2, 3, 1))
    last = load_images(p, "train")
    assert image_shape(p) == (5, 6, 6)
    assert torch.equal(before, last.images) and first.digest == last.digest
    for split, count in COUNT.items():
        np.save(folder / f"{split}.npy", numbers(count, channels=1)[:, 0])
    assert image_shape(p) == (1, 6, 6)
    assert load_images(p, "train").images.shape == (12, 1, 6, 6)


def test_images_stay_on_the_disk(folder):
    """What is read is in no memory of its own, and what is written to it is in no file."""
    found = load_images(settings(folder), "train")
    array = np.lib.format.open_memmap(folder / "train.npy", "r+")
    array[5] = 7
    array.flush()
    assert (found.images[5] == 7).all()

    before = (folder / "train.npy").read_bytes()
    found.images[0] = 0
    assert (folder / "train.npy").read_bytes() == before


def test_normalisation_is_that_of_the_training_images(folder):
    p = settings(folder)
    train = load_images(p, "train")
    mean, std = normalisation(p, train)
    result = normalise(train.images, mean, std)
    assert len(mean) == len(std) == 5 and result.dtype == torch.float32
    values = torch.from_numpy(np.load(folder / "train.npy").astype(np.float64))
    centred = values - values.mean((0, 2, 3), keepdim=True)
    expected = centred / values.std((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(result, expected.float(), rtol=1e-4, atol=1e-5)


def test_limits_take_some_of_each_class(folder):
    found = load_images(settings(folder, train_limit=6), "train")
    assert found.images.shape == (6, 5, 6, 6)
    assert found.labels.bincount().tolist() == [2, 2, 2]
    rows = {image.tobytes(): label for image, label in zip(
        np.load(folder / "train.npy"), np.arange(12) % 3, strict=True)}
    for image, label in zip(found.images.numpy(), found.labels.tolist(), strict=True):
        assert rows[image.tobytes()] == label


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"], ids=["plain", "as Windows saves it"])
def test_names_of_classes_are_the_lines_of_a_file(folder, encoding):
    (folder / "classes.txt").write_text("quartz\nfeldspar\nmica\nolivine\n", encoding)
    found = load_images(settings(folder), "train")
    assert found.classes == ["quartz", "feldspar", "mica", "olivine"]
    assert dataset_name(settings(folder)) == "spectra"


def test_shape_needs_the_header_alone(folder):
    """gen_morphing_matrix.py asks for it, and has no images to read."""
    path = folder / "train.npy"
    (folder / "train_labels.npy").unlink()
    for file in folder.glob("test*"):
        file.unlink()
    assert image_shape(settings(folder)) == (5, 6, 6)
    path.unlink()
    with pytest.raises(UserError, match=r"train\.npy is missing"):
        image_shape(settings(folder))


def test_settings_for_image_files_do_not_apply(folder):
    p = settings(folder)
    same = replace(p, image_size=6, channels=0)
    assert image_shape(same) == image_shape(p)
    for change, words in (({"image_size": 8}, "image_size is 8, but .* have side 6"),
                          ({"channels": 3}, "channels is 3, but .* have 5"),
                          ({"pixel_range": (0.0, 4095.0)}, "pixel_range is for image files")):
        with pytest.raises(UserError, match=words):
            image_shape(replace(p, **change))
        with pytest.raises(UserError, match=words):
            load_images(replace(p, **change), "train")


def save(name, array):
    return lambda folder: np.save(folder / name, array)


def write(name, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def remove(name):
    return lambda folder: (folder / name).unlink()


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def with_value(value, dtype) -> np.ndarray:
    array = np.zeros((300, 5, 6, 6), dtype)
    array[280, 3, 0, 5] = value
    return array


class Hostile:
    def __reduce__(self):
        return print, ("code has run",)


NOT_FINITE = "which is not finite in float32, in image 280, channel 3, row 0, column 5"
# name: (what is done to the folder, words of the refusal)
REFUSED = {
    "no images": (remove("train.npy"), "train.npy is missing"),
    "no labels": (remove("train_labels.npy"), "train_labels.npy is missing"),
    "a pickle": (write("train.npy", pickle.dumps(Hostile())), "not a whole .npy array"),
    "an array of objects": (write("train.npy", npy(np.array([Hostile()]))),
                            "not a whole .npy array"),
    "labels that are objects": (write("train_labels.npy", npy(np.array([Hostile()]))),
                                "not a whole .npy array"),
    "an array cut short": (write("train.npy", npy(numbers(12))[:-1]), "not a whole .npy array"),
    "text": (write("train.npy", b"1,2,3"), "not a whole .npy array"),
    "nothing": (write("train.npy", b""), "not a whole .npy array"),
    "complex numbers": (save("train.npy", np.zeros((12, 5, 6, 6), complex)),
                        'complex128, but must hold one of uint8'),
    "32-bit integers": (save("train.npy", np.zeros((12, 5, 6, 6), np.int32)),
                        'array.astype("float32")'),
    "another machine's bytes": (save("train.npy", numbers(12).astype(">u2")),
                                'order of bytes: save array.astype("uint16")'),
    "NaN": (save("train.npy", with_value(np.nan, np.float32)), f"nan, {NOT_FINITE}"),
    "infinity": (save("train.npy", with_value(-np.inf, np.float16)), f"-inf, {NOT_FINITE}"),
    "too large for float32": (save("train.npy", with_value(1e39, np.float64)),
                              f"1e+39, {NOT_FINITE}"),
    "not square": (save("train.npy", np.zeros((12, 5, 6, 7), np.uint8)),
                   "12×5×6×7, whose images are not square"),
    "not square, one channel": (save("train.npy", np.zeros((12, 6, 7), np.uint8)),
                                "12×6×7, whose images are not square"),
    "channels like rows": (save("train.npy", np.zeros((12, 6, 6, 6), np.uint8)),
                           "12×6×6×6, whose channels cannot be told from rows"),
    "one image": (save("train.npy", np.zeros((6, 6), np.uint8)), "array of 6×6, but images must"),
    "volumes": (save("train.npy", np.zeros((3, 1, 6, 6, 6), np.uint8)), "but images must be N×C"),
    "a number": (save("train.npy", np.float32(3)), "array of no dimensions, but"),
    "an empty array": (save("train.npy", np.zeros((0, 5, 6, 6), np.uint8)), "and at least one"),
    "test images of another type": (save("test.npy", numbers(6, "float32")),
                                    "test.npy holds float32, but train.npy uint16"),
    "test images of another size": (save("test.npy", numbers(6, side=8)),
                                    "test.npy has images of 5×8×8, but 5×6×6 are needed"),
    "fewer labels than images": (save("train_labels.npy", np.arange(11) % 3),
                                 "has 11 labels, but there are 12 images"),
    "labels that are fractions": (save("train_labels.npy", np.zeros(12)), "one whole number"),
    "labels in columns": (save("train_labels.npy", np.zeros((12, 3), int)), "one whole number"),
    "negative labels": (save("train_labels.npy", np.arange(12) % 3 - 1), "from 0"),
    "labels for none": (save("test_labels.npy", np.full(6, 2**64 - 1, np.uint64)),
                        "has label 18446744073709551615, which is no number of a class"),
    "labels from 1": (save("train_labels.npy", np.arange(12) % 3 + 1), "from 0 on without gaps"),
    "one class": (save("train_labels.npy", np.zeros(12, int)), "fewer than 2 classes"),
    "a class that is not trained": (save("test_labels.npy", np.arange(6)),
                                    "test_labels.npy has label 5, but there are 3 classes"),
    "too few names": (write("classes.txt", b"quartz\nmica\n"), "has label 2, but there are 2"),
    "a name twice": (write("classes.txt", b"mica\nquartz\nmica\n"), "each once"),
    "an empty name": (write("classes.txt", b"mica\n\nquartz\n"), "no empty lines"),
    "names in another encoding": (write("classes.txt", b"mica\ncaf\xe9\n"), "not a text in UTF-8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(folder, case, capsys):
    change, words = REFUSED[case]
    change(folder)
    with pytest.raises(UserError, match=re.escape(words)) as refusal:
        for split in COUNT:
            load_images(settings(folder), split)
    assert str(refusal.value).isprintable() and str(folder) in str(refusal.value)
    assert "code has run" not in capsys.readouterr().out


def test_an_array_as_images_to_predict(tmp_path):
    """One file, and no labels: as morph_images.py takes it."""
    array = numbers(4)
    for name, content in (("first", array), ("last", array.transpose(0, 2, 3, 1))):
        np.save(tmp_path / f"{name}.npy", content)
        found = read_array_images(tmp_path / f"{name}.npy", (5, 6, 6))
        np.testing.assert_array_equal(found.numpy(), array)
    with pytest.raises(UserError, match="5×6×6, but 3×6×6 are needed"):
        read_array_images(tmp_path / "first.npy", (3, 6, 6))
    np.save(tmp_path / "grey.npy", array[:, 0])
    assert read_array_images(tmp_path / "grey.npy", (1, 6, 6)).shape == (4, 1, 6, 6)


@pytest.mark.parametrize("factor, shift, is_far", [
    (1, 0, False), (3, 1, False), (1000, 0, True), (1, 20_000, True), (0.001, 0, True)],
    ids=["as it was", "a little other", "another scale", "another zero", "a much smaller scale"])
def test_images_on_another_scale_than_the_first_layers_are_told(capsys, factor, shift, is_far):
    """Such as uint16 arrays of a provider, and float32 ones of the developer."""
    normal = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (9, 5, 6, 6)))
    images = (factor * normal + shift).float()
    warn_of_another_scale(images, (0.0,) * 5, (1 / 255,) * 5)
    told = capsys.readouterr().err
    assert ("seem to be on another scale than those that the first layer" in told) == is_far


def test_batches_are_taken_as_training_takes_them(folder):
    """By slices and by indices in any order, of 16 bits too."""
    images = load_images(settings(folder), "train").images
    array = np.load(folder / "train.npy").astype(np.float32)
    order = torch.tensor([7, 0, 3])
    np.testing.assert_array_equal(take_rows(images, order).float().numpy(), array[order])
    np.testing.assert_array_equal(images[2:5].float().numpy(), array[2:5])
