"""Your own images: what is read of a folder, what is kept of it, and when a run notices others."""

import os
import shutil

import pytest
import torch
from PIL import Image

from images import decode as decoder
from images.datasets import load_images, load_sets
from images.decode import decode
from images.digests import data_digest
from parameter import Parameters
from tests.damage import refused
from tests.steps import TINY, full_disk, run
from utils.errors import UserError


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
            put(f"{split}/{kind}/1.png", colour=(200, 100, 50 if split == "train" else 51))
    return put


def folder(tmp_path, **more):
    return Parameters(dataset="folder", dataset_dir=str(tmp_path / "images"), image_size=4,
                      data_dir=str(tmp_path / "data"), **more)


def colours(tmp_path, **more):
    """The first pixel of each training image."""
    return load_images(folder(tmp_path, **more), "train").images[:, :, 0, 0].tolist()


def test_folder_is_decoded_resized_and_kept(tree, tmp_path):
    tree("train/dog/2.jpg", size=(9, 5), colour=(0, 0, 255), quality=95)
    first = load_images(folder(tmp_path), "train")
    assert first.classes == ["cat", "dog"] and first.labels.tolist() == [0, 1, 1]
    assert first.images.shape == (3, 3, 4, 4)
    assert first.images[0, :, 0, 0].tolist() == [200, 100, 50]
    assert first.images[2, 2].float().mean() > 240 > 20 > first.images[2, 0].float().mean()
    grey = load_images(folder(tmp_path, channels=1), "train").images
    assert grey.shape == (3, 1, 4, 4) and abs(int(grey[0, 0, 0, 0]) - 124) <= 1


def test_decoded_images_are_kept_for_their_owner_alone(tree, tmp_path, monkeypatch):
    first = load_images(folder(tmp_path), "train").images.clone()
    kept = tmp_path / "data" / "decoded" / "images"
    assert kept.stat().st_mode & 0o777 == 0o700
    assert {f.stat().st_mode & 0o777 for f in kept.iterdir()} == {0o600}

    with monkeypatch.context() as patch:                 # what is kept needs no decoding
        patch.setattr(decoder, "decode", None)
        assert torch.equal(load_images(folder(tmp_path), "train").images, first)
    for file in kept.glob("train*"):
        content = file.read_bytes()
        file.write_bytes(b"damaged")
        assert torch.equal(load_images(folder(tmp_path), "train").images, first)
        assert file.read_bytes() == content


def replaced(path, colour):
    """Other pixels in a file of the same size and time, under the same name."""
    state, old = path.stat(), path.read_bytes()
    Image.new("RGB", (6, 6), colour).save(path)
    assert len(path.read_bytes()) == len(old) and path.read_bytes() != old
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_replaced_pixels_are_seen_though_size_and_time_are_the_same(tree, tmp_path):
    path = tree("train/cat/1.png")
    assert colours(tmp_path)[0] == [200, 100, 50]
    replaced(path, (201, 101, 51))
    assert colours(tmp_path)[0] == [201, 101, 51]


def test_another_tree_or_other_settings_in_the_same_data_folder(tree, tmp_path):
    """Each time the right pixels, and files that were decoded before are not mixed up."""
    tree("train/cat/1.png", size=(12, 6), colour=(10, 20, 30))
    first = colours(tmp_path)
    shutil.copytree(tmp_path / "images", tmp_path / "others")
    Image.new("RGB", (6, 6), (1, 2, 3)).save(tmp_path / "others" / "train" / "cat" / "1.png")
    other = load_images(Parameters(
        dataset="folder", dataset_dir=str(tmp_path / "others"), image_size=4,
        data_dir=str(tmp_path / "data")), "train")
    assert other.images[0, :, 0, 0].tolist() == [1, 2, 3] and first[0] == [10, 20, 30]
    assert colours(tmp_path, image_fit="pad")[0] == [0, 0, 0]
    assert colours(tmp_path, pixel_range=(0, 510))[0] == [5, 10, 15]
    assert colours(tmp_path) == first


def test_files_that_are_reached_by_two_paths(tree, tmp_path):
    """A folder that links to a class: after the second reading every row is still its file's."""
    tree("train/cat/2.png", colour=(1, 2, 3))
    tree("train/dog/1.png", colour=(4, 5, 6))
    for split in ("train", "test"):
        (tmp_path / "images" / split / "copy").symlink_to("cat")
    first = colours(tmp_path)
    assert first == [[200, 100, 50], [1, 2, 3], [200, 100, 50], [1, 2, 3], [4, 5, 6]]
    assert colours(tmp_path) == first
    tree("train/dog/2.png", colour=(7, 8, 9))            # so that rows are taken over
    assert colours(tmp_path) == [*first, [7, 8, 9]]


def test_the_digest_is_that_of_the_pixels_decoded_or_kept(tree, tmp_path):
    found = [load_images(folder(tmp_path), "train") for _ in range(2)]
    assert found[0].digest == found[1].digest == data_digest(found[0].images)
    tree("train/cat/1.png", colour=(1, 2, 3))
    assert load_images(folder(tmp_path), "train").digest != found[0].digest


def test_what_is_written_to_the_images_does_not_reach_what_is_kept(tree, tmp_path):
    for _ in range(2):                                   # decoded, then kept
        images = load_images(folder(tmp_path), "train").images
        assert images[0, :, 0, 0].tolist() == [200, 100, 50]
        images.zero_()


def test_folders_of_other_names_keep_their_decoded_images_apart(tree, tmp_path, monkeypatch):
    shutil.copytree(tmp_path / "images", tmp_path / "others")
    others = Parameters(dataset="folder", dataset_dir=str(tmp_path / "others"), image_size=4,
                        data_dir=str(tmp_path / "data"))
    for p in (folder(tmp_path), others):
        load_images(p, "train")
    monkeypatch.setattr(decoder, "decode", None)
    for p in (folder(tmp_path), others):
        load_images(p, "train")


def test_folders_whose_names_are_all_foreign_letters_share_nothing(tree, tmp_path):
    """Nor do those that differ only in letters that a name of a data set has not."""
    kept = set()
    for name in ("写真", "絵画", "a b", "a-b"):
        shutil.copytree(tmp_path / "images", tmp_path / name)
        p = Parameters(dataset="folder", dataset_dir=str(tmp_path / name), image_size=4,
                       data_dir=str(tmp_path / "data"))
        load_images(p, "train")
        kept = set((tmp_path / "data" / "decoded").iterdir()) | kept
    assert len(kept) == 4 and tmp_path / "data" / "decoded" / "a-b" in kept


def test_hints_are_said_whenever_the_images_are_used(tree, tmp_path, capsys):
    tree("train/cat/1.png", size=(18, 6))
    for _ in range(2):                                   # decoded, then kept
        load_sets(folder(tmp_path))
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("warning: 1 of 4 images lose over a third of their area")


def test_what_both_sets_lose_is_said_once(tree, tmp_path, capsys):
    """Dark images, and then images that a range of numbers makes white."""
    for name in ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png"):
        tree(name, colour=(9, 8, len(name) % 2 + 6))
    load_sets(folder(tmp_path))
    [line] = capsys.readouterr().err.splitlines()
    assert "the brightest pixel of all images is below an eighth" in line
    load_sets(folder(tmp_path, pixel_range=(0.0, 5.0)))
    line, all_white = capsys.readouterr().err.splitlines()
    assert "2 of 2 test images are also training images" in all_white
    assert line.startswith("warning: 100% of the pixels are outside pixel_range 0 to 5 ")


def test_test_images_that_are_training_images_too_are_told(tree, tmp_path, capsys):
    """Or accuracy on them would be reported as if they were new."""
    load_sets(folder(tmp_path))
    assert capsys.readouterr().err == ""
    shutil.copy(tmp_path / "images/test/dog/1.png", tmp_path / "images/train/cat/copy.png")
    load_sets(folder(tmp_path))
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: 2 of 2 test images are also training images, such as ")
    assert "test/cat/1.png: accuracy on them says little" in line


def test_what_is_skipped_is_counted_by_its_reason(tree, tmp_path, capsys):
    tree("train/loose.png")
    for name in ("train/cat/.hidden.png", "train/cat/notes.txt", "train/@eaDir/1.png"):
        file = tmp_path / "images" / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    assert len(load_images(folder(tmp_path), "train").labels) == 2
    out = capsys.readouterr().out
    assert "3 files or folders under" in out and "1 files that lie in" in out


def test_classes_must_be_in_both_splits(tree, tmp_path):
    tree("test/cow/1.png")
    for split in ("train", "test"):
        with pytest.raises(UserError, match="class cow is in only one of"):
            load_images(folder(tmp_path), split)
    with pytest.raises(UserError, match=r"train is not a folder: --dataset_dir must hold"):
        load_images(Parameters(dataset="folder", dataset_dir=str(tmp_path)), "train")


@pytest.mark.parametrize("limit", [1, 4])
def test_limits_read_no_more_images_than_they_take(tree, tmp_path, monkeypatch, limit):
    for i in range(2, 9):
        tree(f"train/cat/{i}.png")
    read = []

    def counting(file, *settings):
        read.append(file)
        return decode(file, *settings)

    monkeypatch.setattr(decoder, "decode", counting)
    found = load_images(folder(tmp_path, train_limit=limit), "train")
    assert len(found.labels) == len(found.images) == len(read) == limit


def test_a_wide_image_keeps_its_proportions(tree):
    path = tree("wide.png", size=(12, 6))
    with Image.open(path) as image:
        image.paste((0, 0, 0), (0, 0, 3, 6))              # what a square crop leaves out
        image.save(path)
    decoded = decode(path, 6)
    assert decoded.pixels[0].min() == 200
    assert (decoded.cropped, decoded.brightest, decoded.clipped) == (0.5, 200, 0)


# What a run was trained on.

FOLDER = (*TINY, "--dataset", "folder", "--model", "tests.own_networks:strided", "--train_limit",
          "0", "--test_limit", "0", "--batch_size", "4")


@pytest.fixture
def trained(tree, tmp_path):
    """trained(*arguments): pretrain.py on the tree, which begins with 4 training images."""
    for i in (2, 3):
        tree(f"train/cat/{i}.png", colour=(i, 50, 60))
    return lambda *arguments, **also: run(
        "pretrain.py", "--dataset_dir", tmp_path / "images", "--data_dir", tmp_path / "data",
        *arguments, settings=FOLDER, **also)


def rename_a_class(images, tree):
    for split in ("train", "test"):
        (images / split / "cat").rename(images / split / "cats")


def replace_all_images(images, tree):
    for file in images.rglob("*.png"):
        is_train = "train" in file.parts
        tree(str(file.relative_to(images)), colour=(70, 80, 90 if is_train else 91))


def add_an_image(images, tree):
    tree("train/dog/9.png", colour=(9, 8, 7))


@pytest.mark.parametrize("change, named", [
    (rename_a_class, "classes"), (replace_all_images, "training images"),
    (add_an_image, "number of training images")])
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "unfinished"])
def test_a_run_is_not_taken_up_on_other_data(trained, tree, tmp_path, change, named, finished):
    """Finished or not: refused at the start by name; --restart trains on what is there."""
    disk = None if finished else full_disk("pretrained.checkpoint.pt", 10, nth=2)
    assert trained(before=disk).status == (0 if finished else 1)
    change(tmp_path / "images", tree)
    result = trained()
    assert refused(result, named, "--restart")
    assert "training on" not in result.out
    result = trained("--restart")
    assert result.status == 0 and "training on" in result.out
