"""Parameters and data sets that cannot be: each ends in one line that says what is wrong."""

import os
import shutil
import struct
import zlib

import pytest
import torch
from PIL import Image

from mole import first_layer
from tests.damage import snapshot
from tests.steps import TINY, killed_before
from tests.steps import run as run_step
from utils.artifacts import Saving

# The step, what is added to TINY, the exit status, and words that the line must hold.
PARAMETERS = [
    ("pretrain.py", "--epochs 0", 2, "epochs"),
    ("pretrain.py", "--epochs -3", 2, "epochs"),
    ("pretrain.py", "--epochs 1.5", 2, "epochs"),
    ("pretrain.py", "--epochs ten", 2, "epochs"),
    ("pretrain.py", "--epoch 3", 2, "--epoch"),
    ("pretrain.py", "--epochs", 2, "expected one argument"),
    ("pretrain.py", "--batch_size 1", 2, "batch_size"),
    ("pretrain.py", "--batch_size 100000000000000000000", 2, "batch_size"),
    ("pretrain.py", "--lr -0.1", 2, "lr"),
    ("pretrain.py", "--lr nan", 2, "lr"),
    ("pretrain.py", "--lr inf", 2, "lr"),
    ("pretrain.py", "--lr 1e999", 2, "lr"),
    ("pretrain.py", "--lr 1e30 --restart", 1, "not finite in epoch 1"),
    ("pretrain.py", "--momentum 1", 2, "momentum"),
    ("pretrain.py", "--weight_decay -1e-3", 2, "weight_decay"),
    ("pretrain.py", "--dropout 1", 2, "dropout"),
    ("pretrain.py", "--dropout NaN", 2, "dropout"),
    ("pretrain.py", "--seed -1", 2, "seed"),
    ("pretrain.py", "--seed 9223372036854775808", 2, "seed"),
    ("pretrain.py", "--model vgg12", 1, "there is no network vgg12"),
    ("pretrain.py", "--model raft_large", 1, "--model raft_large"),
    ("pretrain.py", "--model nowhere:net", 1, "No module named 'nowhere'"),
    ("pretrain.py", "--model json:loads", 1, "--model json:loads"),
    ("pretrain.py", "--init nowhere.pt", 1, "nowhere.pt: No such file"),
    ("pretrain.py", "--init README.md", 1, "README.md is damaged"),
    ("pretrain.py", "--frozen_first_layer nowhere.pt", 1, "nowhere.pt: No such file"),
    ("pretrain.py", "--frozen_first_layer README.md", 1, "README.md is damaged"),
    ("pretrain.py", "--dataset mnits", 1, "must be one of cifar10,"),
    ("pretrain.py", "--dataset mnist", 1, "image_size is 8"),
    ("pretrain.py", "--channels 1001", 2, "channels"),
    ("pretrain.py", "--pixel_range 9 1", 2, "two numbers, the lower first"),
    ("pretrain.py", "--pixel_range 0 nan", 2, "two numbers, the lower first"),
    ("pretrain.py", "--compile maybe", 2, "'maybe' (choose from 'yes', 'no')"),
    ("pretrain.py", "--kappa 3", 2, "--kappa is not used here"),
    ("pretrain.py", "--schedule cosine", 2, "cosine"),
    ("pretrain.py", "--preset fastest", 2, "fastest"),
    ("pretrain.py", "--image_size 3", 2, "image_size"),
    ("pretrain.py", "--image_size 1000000", 2, "image_size"),
    ("pretrain.py", "--image_size 9999", 1, "--image_size"),
    ("pretrain.py", "--dataset cifar10", 1, "image_size is 8"),
    ("pretrain.py", "--train_limit -1", 2, "train_limit"),
    ("pretrain.py", "--train_limit 1 --restart", 1, "too few"),
    ("pretrain.py", "--train_limit 10001", 1, "train_limit is 10001"),
    ("pretrain.py", "--test_limit 2001", 1, "test_limit is 2001"),
    ("pretrain.py", "--device cuda:77", 1, "cuda:77"),
    ("pretrain.py", "--device gpu", 1, "device gpu"),
    ("pretrain.py", "--device meta", 1, "device meta"),
    ("pretrain.py", "--colour red", 2, "--colour"),
    ("pretrain.py", "stray", 2, "stray"),
    ("gen_morphing_matrix.py", "--kappa 0", 2, "kappa"),
    ("gen_morphing_matrix.py", "--kappa 5", 1, "kappa is 5, which does not divide the 192"),
    ("gen_morphing_matrix.py", "--kappa 193", 1, "does not divide"),
    ("gen_morphing_matrix.py", "--kappa 1000000000000", 2, "kappa"),
    ("gen_morphing_matrix.py", "--morph_distribution cauchy", 2, "cauchy"),
    ("gen_morphing_matrix.py", "--morph_seed -1", 2, "morph_seed"),
    ("gen_morphing_matrix.py", "--morph_seed secret", 2, "morph_seed"),
    ("gen_morphing_matrix.py", "--image_size 9999", 1, "would fit"),
    ("gen_morphing_matrix.py", "--image_padding -1", 2, "image_padding"),
    ("gen_morphing_matrix.py", "--tile -8", 2, "tile"),
    ("gen_morphing_matrix.py", "--tile 9", 1, "tiles of side 9 are larger than images of side 8"),
    ("gen_morphing_matrix.py", "--tile 8 --kappa 3", 1, "kappa 3 and tile 8 are two ways"),
    ("gen_augconv.py", "--image_padding 1", 1, "with this --image_size and --image_padding"),
    ("gen_augconv.py", "--image_size 16", 1, "with this --image_size and --image_padding"),
    ("gen_augconv.py", "--train_limit 10001", 1, "train_limit is 10001"),
    ("train_with_ac.py", "--feature_cache maybe", 2, "maybe"),
    ("train_with_ac.py", "--precision fp8", 2, "fp8"),
    ("train_with_ac.py", "--model vgg12", 1, "there is no network vgg12"),
    ("train_with_ac.py", "--model resnet18", 1, "composed with the first layer of another"),
    ("train_with_ac.py", "--delivery nowhere", 1, "manifest.json is missing"),
    ("train_no_ac.py", "--lr 1e30 --restart", 1, "not finite in epoch 1"),
    ("morph_images.py", "", 1, "--images is missing"),
    ("morph_images.py", "--images nowhere.png", 1, "nowhere.png"),
    ("morph_images.py", "--images README.md", 1, "README.md"),
    ("morph_images.py", "--images a --name test", 1, "choose another --name"),
    ("morph_images.py", "--images a --name ../up", 2, "must be of letters, digits"),
    ("predict.py", "--name nowhere", 1, "run `python morph_images.py` first"),
    ("predict.py", "--name test --network no_ac", 2, "invalid choice: 'no_ac'"),
    ("predict.py", "--name test", 1, "run `python train_with_ac.py` first"),
    ("predict.py", "--name test --network pretrained", 1, "--shuffle_channels no"),
    ("predict.py", "--predict_batch 0", 2, "predict_batch"),
]


def run(script, data, *arguments, **also):
    return run_step(script, "--data_dir", data, *arguments, settings=TINY, **also)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder after step 4."""
    folder = tmp_path_factory.mktemp("bad") / "data"
    for script in ("pretrain.py", "gen_morphing_matrix.py", "gen_augconv.py"):
        settings = (*TINY, "--epochs", "1")
        assert run_step(script, "--data_dir", folder, settings=settings).status == 0
    return folder


@pytest.fixture
def ends(data):
    """ends(script, *arguments, words=...): with one line that holds the words; nothing changes."""
    before = snapshot(data)

    def check(script, *arguments, words, status=1):
        result = run(script, data, *arguments)
        assert result.status == status, result
        assert len(result.message.splitlines()) == 1, result.err
        assert all(word in result.message for word in words), result.message
        assert snapshot(data) == before

    return check


@pytest.mark.parametrize("script, arguments, status, words", PARAMETERS)
def test_parameters(ends, script, arguments, status, words):
    ends(script, *arguments.split(), words=[words], status=status)


@pytest.mark.parametrize("folder, words", [("file", "file"), ("file/below", "file"),
                                           ("/proc/nowhere", "/proc/nowhere")])
def test_data_folder_that_cannot_be_written(tmp_path, folder, words):
    (tmp_path / "file").write_text("in the way")
    result = run("pretrain.py", tmp_path / folder)
    assert result.status == 1 and len(result.message.splitlines()) == 1 and words in result.message


# First layers, as a developer may hand them over.

@pytest.mark.parametrize("layer, words", [
    (torch.nn.Conv2d(3, 64, 11, padding=1), "kernel is larger than the images"),
    (torch.nn.Conv2d(1, 64, 3, padding=1), "takes 1 channels, but the images have 3"),
    (torch.nn.Conv2d(3, 64, 3, padding=1, dilation=9), "kernel is larger than the images")])
def test_first_layer_of_another_geometry(ends, data, tmp_path, layer, words):
    developer = shutil.copytree(data / "developer", tmp_path / "developer")
    try:
        with Saving(data / "developer") as new:
            colours = (0.5,) * layer.in_channels
            new.save("first_layer.pt", first_layer.to_file(layer, colours, colours))
        result = run("gen_augconv.py", data)
        assert result.status == 1 and len(result.message.splitlines()) == 1
        assert "first_layer.pt" in result.message and words in result.message
    finally:
        shutil.rmtree(data / "developer")
        shutil.move(developer, data / "developer")


def test_more_padding_than_the_first_layer_has(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    assert run("gen_morphing_matrix.py", copy, "--image_padding", "2").status == 0
    result = run("gen_augconv.py", copy, "--image_padding", "2")
    assert result.status == 1 and "image_padding is 2" in result.message
    assert len(result.message.splitlines()) == 1


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
                  ["a/1.png", "no image of a kind that is read"]),
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
    assert result.status == 1 and len(result.message.splitlines()) == 1, result
    assert all(word in result.message for word in words), result.message
    assert not list((tmp_path / "data").rglob("*.partial"))


def test_a_good_tree_and_its_damaged_cache(tree, tmp_path):
    """What the table is compared with; kills in the cache, and a flipped bit of it, are noticed."""
    command = ("pretrain.py", tmp_path / "data", "--dataset", "folder", "--dataset_dir", tree,
               "--train_limit", "0", "--test_limit", "0", "--epochs", "1", "--batch_size", "4")
    for nth in (1, 2, 3):                                # index and rows of train, index of test
        assert run(*command, before=killed_before("replace", nth)).status < 0
    assert run(*command).status == 0
    cache = next((tmp_path / "data" / "decoded").rglob("train-*.npy"))
    before = cache.read_bytes()
    for place in (40, len(before) // 2):                 # in the header, and in the pixels
        cache.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1:])
        assert run(*command, "--restart").status == 0
        assert cache.read_bytes() == before


@pytest.mark.parametrize("kind", ["a file", "a damaged archive"])
def test_cifar_that_is_not_there(tmp_path, kind):
    place = tmp_path / "cifar"
    if kind == "a file":
        place.write_text("in the way")
    else:
        (place / "cifar-10-batches-py").mkdir(parents=True)
        (place / "cifar-10-batches-py" / "data_batch_1").write_text("damaged")
    result = run("pretrain.py", tmp_path / "data", "--dataset", "cifar10", "--image_size", "0",
                 "--dataset_dir", place, before=no_network)
    assert result.status == 1 and len(result.message.splitlines()) == 1, result
    assert "cifar-10-python.tar.gz" in result.message and str(place) in result.message


def no_network():
    import urllib.error
    import urllib.request

    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    urllib.request.urlopen = refuse
