"""attack.py as a program, on small deliveries: what it reads, writes, finds and refuses."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import attack
import gen_augconv
from attacks import adversary
from tests.photographs import draw_photographs
from tests.steps import ROOT, TINY, call, run
from tests.test_steps import WATCH
from utils.geometry import Geometry
from utils.settings import options_of


def deliver(data: Path, *core, image: int = 8, dtype: str = "float32") -> tuple:
    """Steps 2 to 4 on a folder; gives the settings for attack.py."""
    settings = (*TINY, "--image_size", image, "--epochs", 1, "--delivery_dtype", dtype,
                "--morph_distribution", "orthogonal", *core, "--data_dir", data)
    for script in ("pretrain.py", "gen_morphing_matrix.py", "gen_augconv.py"):
        made = run(script, settings=settings)
        assert made.status == 0, made.err
    return settings


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> tuple[Path, tuple]:
    data = tmp_path_factory.mktemp("attacked") / "data"
    return data, deliver(data)


def test_with_score_it_says_how_close_the_recovered_images_are(dense, tmp_path):
    scored = run("attack.py", "--score", "--results_dir", tmp_path, settings=dense[1])
    assert scored.status == 0, scored.err
    assert "64 of 64 channels right" in scored.out and "7.9e-90" in scored.out
    result = json.loads((tmp_path / "attacks.json").read_text())
    assert result["known_first_layer"]["psnr"] > 60
    assert result["blind"]["up_to_colour"]["psnr"] > 60
    assert result["known_pairs"][-1]["pairs"] == 64
    assert result["data"]["dataset"] == "shapes" and (tmp_path / "figures/attack.png").exists()


def test_without_score_it_opens_nothing_of_the_providers(dense):
    data, settings = dense
    watched = subprocess.run(
        [sys.executable, "-c", WATCH, "attack.py", *options_of("attack.py", settings)],
        cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert watched.returncode == 0, watched.stderr
    opened = watched.stdout.splitlines()[-1].split()
    assert str(data / "delivery" / "manifest.json") in opened
    assert not [name for name in opened if name.startswith(str(data / "provider"))]
    assert "channels right" not in watched.stdout
    unscored = data / "attack"                           # and not beside the scored ones
    assert (unscored / "attacks.json").exists() and (unscored / "figures/attack.png").exists()


GEOMETRY = Geometry("k", (3, 32, 32), 0, "crop", 1, 0, "uniform", "float32", (0.0,) * 3, (1.0,) * 3)


def test_the_provider_is_told_what_deliveries_like_this_one_gave_away(monkeypatch, tmp_path):
    """And not what others did: of other images, fewer public ones, another dtype."""
    def row(share: float, mirrored: float = 0.1, **more) -> dict:
        return {"dataset": "cifar10", "private": 10_000, "public": 50_000, "kappa": 1, "tile": 0,
                "morph_distribution": "uniform", "delivery_dtype": "float32", "data_only": {
                    "reidentified": share, "reidentified_mirrored": mirrored}} | more

    path = tmp_path / "attack_matrix.json"
    monkeypatch.setattr(gen_augconv, "ATTACK_MATRIX", path)
    others = [row(0.11, dataset="cifar100"), row(0.12, public=300), row(0.13, kappa=3),
              row(0.14, delivery_dtype="int8"), row(0.15, private=300),
              row(0.16, morph_distribution="normal")]
    path.write_text(json.dumps({"table": [*others, row(0.875)]}))
    assert "re-identified 87.5% of 10 000 images" in gen_augconv.what_is_given_away(GEOMETRY)
    path.write_text(json.dumps({"table": [row(0.01, mirrored=0.96)]}))
    assert "re-identified 96.0%" in gen_augconv.what_is_given_away(GEOMETRY)
    for content in (json.dumps({"table": others}), "not JSON"):
        path.write_text(content)
        assert "still give much away" in gen_augconv.what_is_given_away(GEOMETRY)


def test_large_images_by_tiles_need_little_memory_for_an_attack():
    """A core of 192 entries, and a band of the deconvolution, however large the image is."""
    shape = (3, 128, 128)
    delivery = SimpleNamespace(geometry=replace(GEOMETRY, shape=shape, tile=8), test_images=100,
                               out_shape=(64, 128, 128))
    needed = adversary.attack_bytes(delivery, kernel=3, public_images=100)
    assert needed < 10e9
    assert adversary.attack_bytes(delivery, 3, 3000) > needed


def test_public_images_may_be_a_folder_of_ones_own(dense, tmp_path):
    """Known pairs are the training images all the same."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(draw_photographs(70, 20, seed=1)):
        Image.fromarray(picture.movedim(0, -1).numpy()).save(folder / f"{number}.png")
    found = run("attack.py", "--score", "--public", folder, "--results_dir", tmp_path,
                settings=dense[1])
    assert found.status == 0, found.err
    result = json.loads((tmp_path / "attacks.json").read_text())
    assert result["data_only"]["public_images"] == 70
    assert result["known_pairs"][-1]["psnr"] > result["known_pairs"][0]["psnr"] + 3


def test_another_delivery_is_attacked_by_name_and_says_how_large_its_images_are(dense, tmp_path):
    """As a developer of several providers has them: none in data/delivery, no size typed."""
    data, settings = dense
    mine = tmp_path / "data"
    shutil.copytree(data / "developer", mine / "developer")
    other = shutil.copytree(data / "delivery", tmp_path / "from_hospital")
    words = list(settings)
    while "--image_size" in words:
        place = words.index("--image_size")
        del words[place:place + 2]
    command = ("attack.py", "--data_dir", mine)
    found = run(*command, "--delivery", other, settings=tuple(words[:-2]))
    assert found.status == 0, found.err
    assert found.out.startswith(f"attacking {other}/, delivery ")
    assert "64 training and 32 test images of shapes, 3x8x8" in found.out
    refused = call(*command, "--delivery", other, other, settings=tuple(words[:-2]))
    assert refused.status == 1 and "give one --delivery" in refused.message
    refused = call(*command, "--delivery", other, "--dataset", "mnist", settings=tuple(words[:-2]))
    assert refused.status == 1 and "\n" not in refused.message
    for part in ("has images 3x8x8", "--dataset mnist are 3x28x28", "--public"):
        assert part in refused.message


@pytest.mark.parametrize(("more", "words"), [
    (["--image_size", "12"], "--image_size"),
    (["--score", "--test_limit", "31"], "--test_limit"),
    (["--score", "--train_limit", "60"], "the plain train images"),
    (["--public", "nowhere"], "--public"), (["--public", "mnist"], "--public")],
    ids=["images of another size", "other test images", "other training images",
         "no public images", "public images of another size"])
def test_settings_other_than_the_deliverys_are_refused_in_one_line(dense, more, words):
    refused = run("attack.py", *more, settings=dense[1])
    assert refused.status == 1 and words in refused.message, refused.err
    assert "\n" not in refused.message


def test_the_first_layer_of_another_run_is_refused(dense, tmp_path):
    """With it the attack would fail, as if the delivery were safe."""
    data = shutil.copytree(dense[0], tmp_path / "data")
    settings = (*dense[1][:-1], data)
    assert run("pretrain.py", "--seed", 8, settings=settings).status == 0
    refused = run("attack.py", settings=settings)
    assert refused.status == 1 and "first_layer.pt is not the layer that" in refused.message


def test_the_secret_order_of_another_delivery_is_refused(dense, tmp_path):
    data = shutil.copytree(dense[0], tmp_path / "data")
    settings = (*dense[1][:-1], data)
    (data / "delivery").rename(tmp_path / "earlier")
    assert run("gen_augconv.py", "--delivery_dtype", "float16", settings=settings).status == 0
    shutil.rmtree(data / "delivery")
    (tmp_path / "earlier").rename(data / "delivery")
    refused = run("attack.py", "--score", settings=settings)
    assert refused.status == 1 and "not of this delivery" in refused.message
    shutil.rmtree(data / "provider")
    refused = run("attack.py", "--score", settings=settings)
    assert refused.status == 1 and "provider" in refused.message and "\n" not in refused.message


def test_images_come_back_from_tiles_of_bytes(tmp_path):
    settings = deliver(tmp_path, "--tile", 4, image=12, dtype="int8")
    result = run("attack.py", "--score", "--results_dir", tmp_path, settings=settings)
    assert result.status == 0, result.err
    assert "64 of 64 channels right" in result.out
    scores = json.loads((tmp_path / "attacks.json").read_text())
    assert scores["known_first_layer"]["psnr"] > 30
    assert scores["known_pairs"][-1]["psnr"] > 30 > scores["known_pairs"][0]["psnr"]
    just_enough = [point["psnr"] for point in scores["known_pairs"]
                   if point["pairs"] == point["least"]]
    assert just_enough and min(just_enough) > 30


@pytest.fixture(scope="module")
def deep(tmp_path_factory) -> tuple[Path, tuple]:
    """A delivery of arrays of 16 bits."""
    folder = tmp_path_factory.mktemp("deep")
    for split, count in (("train", 64), ("test", 32)):
        pixels = draw_photographs(count, 8, seed=count).numpy().astype(np.uint16)
        np.save(folder / f"{split}.npy", 100 * pixels + 7)
        np.save(folder / f"{split}_labels.npy", np.arange(count) % 4)
    data = folder / "data"
    return data, deliver(data, "--dataset", "arrays", "--dataset_dir", folder)


def test_arrays_of_16_bits_are_scored_on_their_own_scale(deep, tmp_path):
    """Divided by 255 they would all be white, and so would all that is recovered."""
    scored = run("attack.py", "--score", "--results_dir", tmp_path, settings=deep[1])
    assert scored.status == 0, scored.err
    assert "64 of 64 channels right" in scored.out
    result = json.loads((tmp_path / "attacks.json").read_text())
    assert result["known_first_layer"]["psnr"] > 60 and result["known_first_layer"]["exact"] > 0.99
    few = result["known_pairs"][0]                       # which leave the images blurred
    assert 12 < few["psnr"] < 20 and few["ssim"] > 0.5 and few["exact"] < 0.2
    picture = np.asarray(Image.open(tmp_path / "figures/attack.png").convert("L"))
    assert 0.05 < (picture < 128).mean() < 0.95


def test_public_images_may_be_arrays_of_ones_own(deep, tmp_path):
    """A file, or a folder with train.npy."""
    pixels = draw_photographs(70, 8, seed=1).numpy().astype(np.uint16)
    np.save(tmp_path / "train.npy", 100 * pixels + 7)
    for public in (tmp_path, tmp_path / "train.npy"):
        found = run("attack.py", "--score", "--public", public, "--results_dir", tmp_path / "out",
                    settings=deep[1])
        assert found.status == 0, found.err
        result = json.loads((tmp_path / "out" / "attacks.json").read_text())
        assert result["data_only"]["public_images"] == 70
        assert "another scale" not in found.err
    assert f"replacing the earlier {tmp_path}/out/attacks.json" in found.out


def test_public_images_on_another_scale_are_warned_of(deep, tmp_path):
    np.save(tmp_path / "train.npy", np.random.default_rng(0).random((70, 3, 8, 8), np.float32))
    found = run("attack.py", "--public", tmp_path / "train.npy", settings=deep[1])
    assert "they seem to be on another scale" in found.err


def test_what_a_blind_attack_leaves_open_is_said(deep):
    """It has no 8 bits to find the colours by; images come back all the same."""
    found = call("attack.py", "--score", settings=deep[1])
    [line] = [line for line in found.out.splitlines() if "blind" in line]
    assert "pixels are found up to an unknown mixture of their channels, " in line
    assert "no mixture gives values of 8 bits" in line
    assert "of the values exact to 8 bits" in found.out
    assert "these are the delivered test images; a developer also holds 64 training" in found.out


def test_without_the_truth_it_says_whether_images_come_back(dense):
    """And has no warning on an attack for which the images are too few."""
    found = call("attack.py", settings=dense[1])
    assert found.status == 0 and not found.err
    assert "images come back, their features are Aug-Conv's to" in found.out
    [line] = [line for line in found.out.splitlines() if "images alone: " in line]
    assert "s, failed: 32 morphed" in line and "too few" in line


def test_few_morphed_images_are_said_to_be_too_few_to_trust(capsys):
    for count, is_said in ((100, True), (192, False)):
        view = SimpleNamespace(block_size=192, all_morphed=np.zeros(count))
        attack.warn_of_few_morphed(view)
        words = f"{count} morphed images are fewer than the 192 entries of a block"
        assert (words in capsys.readouterr().err) == is_said


def test_what_a_layer_leaves_open_is_said_in_the_line(capsys):
    """A small residual proves nothing where there are fewer features than values."""
    report = {"seconds": 1.0, "unexplained": 3e-13, "left_open": "256 features for 1280 values"}
    attack.tell("first layer known", report)
    assert "come back in part (left open: 256 features for 1280 values)" in capsys.readouterr().out


def test_arrays_of_many_channels_are_attacked_by_name(tmp_path):
    """With public arrays of one's own; the plain ones are needed for the score."""
    random = np.random.default_rng(0)
    for split, count in (("train", 64), ("test", 32)):
        np.save(tmp_path / f"{split}.npy", random.normal(0, 1, (count, 5, 8, 8)).astype("float32"))
        np.save(tmp_path / f"{split}_labels.npy", np.arange(count) % 4)
    data = tmp_path / "data"
    deliver(data, "--dataset", "arrays", "--dataset_dir", tmp_path)
    command = ("attack.py", "--data_dir", data, "--public", tmp_path / "train.npy")
    assert call(*command).status == 0
    refused = call(*command, "--score")
    assert refused.status == 1 and "has arrays of 5 channels: add --dataset arrays" in refused.err


def test_an_attack_that_is_no_better_than_the_mean_image_says_so(capsys):
    report = {"seconds": 1.0, "psnr": 18.5, "ssim": 0.2, "exact": 0.01}
    for mean, share, words in ((20.8, 0.0, "nothing was found that is better"),
                               (20.8, 1.0, "but they are recognised"), (12.0, 0.0, "")):
        attack.tell("morphed images alone",
                    report | {"mean_image": {"psnr": mean}, "reidentified": share})
        said = capsys.readouterr().out
        assert words in said and ("so " in said) == bool(words)


def test_public_images_of_8_bits_are_no_match_for_arrays_of_16(deep, tmp_path):
    refused = run("attack.py", "--public", tmp_path, settings=deep[1])
    assert refused.status == 1 and "hold uint16: leave --public out" in refused.message
