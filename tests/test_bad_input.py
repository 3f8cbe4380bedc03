"""Settings and data sets that cannot be: each ends in one line that says what is wrong.

Values that no step would take are in tests/test_parameter.py.
"""

import os
import shutil
import struct
import zlib

import pytest
from PIL import Image

from tests.damage import refused, snapshot
from tests.steps import TINY, call, killed_before
from tests.steps import run as run_step

# What is added to a step's settings, and words that the line must hold.
SETTINGS = {
    "pretrain.py --lr 1e30 --restart": "not finite in epoch 1",
    "pretrain.py --model vgg12": "there is no network vgg12",
    "pretrain.py --model raft_large": "--model raft_large",
    "pretrain.py --model nowhere:net": "No module named 'nowhere'",
    "pretrain.py --model json:loads": "--model json:loads",
    "pretrain.py --init nowhere.pt": "nowhere.pt: No such file",
    "pretrain.py --init README.md": "README.md is damaged",
    "pretrain.py --frozen_first_layer nowhere.pt": "nowhere.pt is missing",
    "pretrain.py --frozen_first_layer README.md": "README.md is damaged",
    "pretrain.py --dataset mnits": "must be one of cifar10,",
    "pretrain.py --dataset mnist": "image_size is 8",
    "pretrain.py --dataset cifar10": "image_size is 8",
    "pretrain.py --image_size 9999": "--image_size",
    "pretrain.py --train_limit 1 --restart": "too few",
    "pretrain.py --train_limit 10001": "train_limit is 10001",
    "pretrain.py --test_limit 2001": "test_limit is 2001",
    "pretrain.py --pixel_range 0 4095": "shapes is used as it is: leave it out",
    "gen_augconv.py --pixel_range 0 4095": "shapes is used as it is: leave it out",
    "pretrain.py --device cuda:77": "cuda:77",
    "pretrain.py --device gpu": "device gpu",
    "pretrain.py --device meta": "device meta",
    "gen_morphing_matrix.py --kappa 5": "kappa is 5, which does not divide the 192",
    "gen_morphing_matrix.py --kappa 193": "does not divide",
    "gen_morphing_matrix.py --tile 9": "tiles of side 9 are larger than images of side 8",
    "gen_morphing_matrix.py --tile 8 --kappa 3": "kappa 3 and tile 8 are two ways",
    "gen_augconv.py --dataset mnist": "image_size is 8",
    "gen_augconv.py --dataset mnits": "must be one of cifar10,",
    "gen_augconv.py --train_limit 10001": "train_limit is 10001",
    "train_with_ac.py --model vgg12": "there is no network vgg12",
    "train_with_ac.py --model resnet18": "the first layer of vgg_small, see --model",
    "train_with_ac.py --delivery nowhere": "manifest.json is missing",
    "train_no_ac.py --lr 1e30 --restart": "not finite in epoch 1",
    "predict.py --name nowhere": "run `python morph_images.py` first",
    "predict.py --name test": "run `python train_with_ac.py` first",
    "predict.py --name test --network pretrained": "--shuffle_channels no"}


def run(script, data, *arguments):
    return call(script, "--data_dir", data, *arguments, settings=TINY)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder after step 4."""
    folder = tmp_path_factory.mktemp("bad") / "data"
    for script in ("pretrain.py", "gen_morphing_matrix.py", "gen_augconv.py"):
        settings = (*TINY, "--epochs", "1")
        assert call(script, "--data_dir", folder, settings=settings).status == 0
    return folder


@pytest.mark.parametrize("command", SETTINGS)
def test_settings(data, command):
    """Nothing that was there changes."""
    before = snapshot(data)
    script, *arguments = command.split()
    result = run(script, data, *arguments)
    assert result.status == 1, result
    last = result.message.splitlines()[-1]
    warnings = result.message.splitlines()[:-1]
    assert last.startswith(script) and SETTINGS[command] in last
    assert all(line.startswith("warning: ") for line in warnings)
    assert snapshot(data) == before


def test_a_tile_that_the_first_layers_stride_does_not_divide_draws_no_key(tmp_path):
    model = "tests.own_networks:strided"
    assert run("pretrain.py", tmp_path, "--model", model, "--epochs", "1").status == 0
    result = run("gen_morphing_matrix.py", tmp_path, "--tile", "3")
    assert refused(result, "tile is 3, but must be a multiple of the first layer's stride 2: the "
                           "next is 4")
    assert not (tmp_path / "provider").exists()


@pytest.mark.parametrize("folder, words", [
    ("file", "file"), ("file/below", "file"), ("/proc/nowhere", "/proc/nowhere")],
    ids=["a file", "below a file", "in a place of the system's"])
def test_data_folder_that_cannot_be_written(tmp_path, folder, words):
    (tmp_path / "file").write_text("in the way")
    assert refused(run("pretrain.py", tmp_path / folder), words)


# Folders of images

def picture(path, size=(9, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 90).save(path)


def png(path, header):
    """A PNG with that header and no pixels."""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))))


def huge(path):
    """60000x60000 pixels in a hundred bytes."""
    png(path, struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))


def postscript(path):
    """A kind that Pillow hands to another program."""
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")


# What is done to a good tree (train and test, classes a and b, two PNGs each), and the words.
TREES = {
    "no folder": (lambda root: shutil.rmtree(root), ["train is not a folder"]),
    "a file in its place": (lambda root: (shutil.rmtree(root), root.write_text("")),
                            ["train is not a folder"]),
    "no test split": (lambda root: shutil.rmtree(root / "test"), ["test is not a folder"]),
    "one class only": (lambda root: [shutil.rmtree(root / s / "b") for s in ("train", "test")],
                       ["1 classes"]),
    "no class": (lambda root: [shutil.rmtree(root / "train" / c) for c in "ab"], ["0 classes"]),
    "an empty class": (lambda root: [f.unlink() for f in (root / "train/b").iterdir()],
                       ["train/b holds no images"]),
    "other classes to test": (lambda root: (root / "test/b").rename(root / "test/c"),
                              ["class b is in only one"]),
    "a class more": (lambda root: picture(root / "train/c/1.png"), ["class c is in only one"]),
    "an unknown file": (lambda root: (root / "train/a/x.doc").write_text("a text"), ["x.doc"]),
    "a text named png": (lambda root: (root / "train/a/1.png").write_text("a text"), ["a/1.png"]),
    "an empty file": (lambda root: (root / "test/a/1.png").write_bytes(b""), ["test/a/1.png"]),
    "a truncated image": (lambda root: os.truncate(root / "train/b/2.png", 60), ["b/2.png"]),
    "a decompression bomb": (lambda root: huge(root / "train/b/2.png"),
                             ["b/2.png", "decompression bombs", "shrink it"]),
    "a short header": (lambda root: png(root / "train/b/2.png", b"short"), ["b/2.png"]),
    "a program": (lambda root: postscript(root / "train/a/1.png"),
                  ["a/1.png", "not an image of a kind that is read"]),
    "a device": (lambda root: ((root / "train/a/1.png").unlink(),
                               (root / "train/a/1.png").symlink_to("/dev/zero")),
                 ["a/1.png", "it is a device"]),
}


@pytest.fixture
def tree(tmp_path):
    for split in ("train", "test"):
        for kind in "ab":
            for number in "12":
                picture(tmp_path / "images" / split / kind / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("kind", TREES)
def test_image_folders(tree, tmp_path, kind):
    spoil, words = TREES[kind]
    spoil(tree)
    result = run("pretrain.py", tmp_path / "data", "--dataset", "folder", "--dataset_dir", tree,
                 "--train_limit", "0", "--test_limit", "0")
    assert refused(result, *words)
    assert not list((tmp_path / "data").rglob("*.partial"))


def test_a_good_tree_and_its_damaged_cache(tree, tmp_path):
    """What the table is compared with; kills in the cache, and a flipped bit of it, are noticed."""
    command = ("pretrain.py", "--data_dir", tmp_path / "data", "--dataset", "folder",
               "--dataset_dir", tree, "--train_limit", "0", "--test_limit", "0", "--epochs", "1",
               "--batch_size", "4")
    for file in ("train-3x8x8.json", "train-3x8x8.npy", "test-3x8x8.json"):
        killed = run_step(*command, settings=TINY, before=killed_before("rename", file))
        assert killed.status < 0, file
    assert call(*command, settings=TINY).status == 0
    cache = next((tmp_path / "data" / "decoded").rglob("train-*.npy"))
    before = cache.read_bytes()
    for place in (40, len(before) // 2):                 # in the header, and in the pixels
        cache.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1:])
        assert call(*command, "--restart", settings=TINY).status == 0
        assert cache.read_bytes() == before
