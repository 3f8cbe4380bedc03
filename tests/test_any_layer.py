"""Attacks on first layers that are not the paper's, the authors' own attack, and the matrix."""

import json

import pytest
import torch
from torch import nn

from attacks import adversary, algebra
from attacks.adversary import Truth, View
from experiments import attack_matrix, repairs
from experiments.inverse_training import inverse_training
from images.datasets import CIFAR, Images, Prepared
from mole.aug_conv import AugConv
from mole.morphing import (
    compose_aug_conv,
    draw_core,
    invert_core,
    morph,
    secret_generator,
    unrolled,
)
from tests.test_attacks import normal, photographs, pixels
from utils.delivery import Geometry, restored, rounded


def attacked(*layer, side: int = 16, tile: int = 0, core: str = "orthogonal", count: int = 64,
             dtype: str = "float32", **options) -> dict:
    """What attacks with Aug-Conv give on a delivery for a first layer, by name."""
    torch.manual_seed(1)
    first = nn.Conv2d(*layer, **options).requires_grad_(False)
    secret, public = photographs(count, side, seed=5), photographs(2000, side, seed=6)
    plain, known = (Prepared(x, *CIFAR, 0)[:] for x in (secret, public))
    matrix = draw_core(3 * (tile or side) ** 2, core, secret_generator(3, purpose=0))
    order = torch.randperm(first.out_channels, generator=torch.Generator().manual_seed(3))
    made = compose_aug_conv(first, invert_core(matrix), (3, side, side), order, tile)
    morphed = morph(plain, matrix, tile)
    scale = float(morphed.abs().max()) / 127
    view = View(Geometry("", (3, side, side), 0, "crop", 1, tile, core, dtype, *CIFAR),
                AugConv(**made, bias=None if first.bias is None else first.bias[order]),
                restored(rounded(morphed, dtype, scale), scale), first,
                unrolled(known, tile))
    truth = Truth(order, secret[adversary.evenly_spaced(count, 256)].double() / 255, secret, *CIFAR)
    return adversary.recover(view, truth).report


# α, β, p, stride, padding of layers, and where the order of their channels shows
LAYERS = {"resnet": ((3, 64, 7, 2, 3), "projector"), "mobilenet": ((3, 32, 3, 2, 1), "projector"),
          "few filters": ((3, 16, 3, 1, 1), "projector"), "5x5": ((3, 64, 5, 1, 2), "projector"),
          "convnext": ((3, 64, 4, 4), "projector"), "alexnet": ((3, 64, 11, 4, 2), "likeness"),
          "patches of as many pixels": ((3, 48, 4, 4), "likeness")}


@pytest.mark.parametrize("name", LAYERS)
def test_images_come_back_behind_any_known_first_layer(name):
    layer, way = LAYERS[name]
    side = 12 if name == "few filters" else 32 if name == "resnet" else 16
    found = attacked(*layer, side=side, bias=False, tile=side // 2 if name == "resnet" else 0,
                     count=500 if way == "likeness" else 64)["known_first_layer"]
    assert found["order_from"] == way and found["channels_right"] > 0.9 * layer[1]
    if name == "alexnet":                                # of 16 pixels it sees but 2x2 positions
        assert found["psnr"] < 40 and "values" in found["left_open"]
    else:
        assert found["channels_right"] < layer[1] or found["psnr"] > 60


def test_a_bias_gives_the_order_away():
    found = attacked(3, 32, 3, 1, 1, side=12, bias=True)["known_first_layer"]
    assert found["order_from"] == "bias" and found["channels_right"] == 32 and found["psnr"] > 60


def test_dilation_and_groups_hide_nothing():
    found = attacked(3, 36, 3, padding=2, dilation=2, groups=3, side=12, bias=False)
    assert found["known_first_layer"]["psnr"] > 60
    with pytest.raises(ValueError, match="square"):
        algebra.filter_bank(nn.Conv2d(3, 8, (3, 5)))


def test_bytes_cost_the_attacker_quality_and_no_more():
    found = attacked(3, 64, 7, 2, 3, tile=16, side=32, dtype="int8", bias=False)
    assert 20 < found["known_first_layer"]["psnr"] < 60


def test_what_a_stride_does_not_reach_is_told():
    found = attacked(3, 64, 3, 2, 0, bias=False)["known_first_layer"]
    assert found["left_open"] == "1 rows that the stride does not reach" and found["psnr"] < 40


@pytest.mark.parametrize("layer", [(3, 64, 7, 2, 3), (3, 32, 3, 2, 1)])
def test_blind_with_a_stride_gives_every_second_pixel(layer):
    found = attacked(*layer, side=32, bias=False)["blind"]
    assert found["psnr"] > 60 and found["left_open"] == "all but one pixel of 2x2"


def test_blind_on_patches_gives_images_from_statistics_and_on_few_of_them_none():
    assert attacked(3, 64, 4, 4, count=1000, bias=False)["blind"]["psnr"] > 20
    assert "too few" in attacked(3, 64, 4, 4, count=4, bias=False)["blind"]["failed"]
    assert "never one" in attacked(3, 64, 11, 4, 2, bias=False)["blind"]["failed"]


def test_the_authors_own_attack_fits_features_and_does_not_find_the_images():
    torch.manual_seed(1)
    first = nn.Conv2d(3, 16, 3, padding=1, bias=False).requires_grad_(False)
    truth = photographs(200, 8, seed=5).double() / 255
    plain = normal(truth).float()
    morphed = plain.flatten(1) @ draw_core(192, "orthogonal", secret_generator(0, purpose=0))
    matrix, curve = inverse_training(morphed, first(plain), (3, 8, 8), 3, 1, epochs=60)
    assert curve[-1]["loss"] < 0.1 * curve[0]["loss"]
    images = (morphed @ matrix).view(-1, 3, 8, 8).double()
    assert algebra.score(pixels(images), truth)["psnr"] < 20


def photos(data, dataset, side) -> tuple[Images, Images]:
    return tuple(Images(photographs(count, side, count), torch.arange(count) % 10, ["a"])
                 for count in (600, 300))


def test_repairs_are_attacked_and_trained_behind(monkeypatch, tmp_path):
    """Of each repair what comes back, and what it costs."""
    case = repairs.Case("aug pairs", "clothing", 16, "vgg11", "orthogonal", 1, 0)
    for module in (attack_matrix, repairs):
        monkeypatch.setattr(module, "load_both_splits", photos)
        monkeypatch.setattr(module, "PAIRS", 64)
    monkeypatch.setattr(repairs, "CASE", case)
    monkeypatch.setattr(repairs, "TESTED", 32)
    monkeypatch.setattr(repairs, "TRAINING", dict(model="vgg11", epochs=1))
    monkeypatch.setattr(repairs, "REPAIRS", [
        repairs.Repair("none"), repairs.Repair("channels", 32.0), repairs.Repair("noise", 0.1)])
    monkeypatch.setattr("sys.argv", ["repairs", "--output", str(tmp_path)])
    repairs.main()
    none, few, noise = json.loads((tmp_path / "repairs.json").read_text())["table"]
    assert all(0 <= row["accuracy"] <= 1 for row in (none, few, noise))
    assert none["known_first_layer"]["psnr"] > 80 < few["blind"]["up_to_colour"]["psnr"]
    assert noise["known_first_layer"]["psnr"] < noise["known_first_layer_denoised"]["psnr"] < 80


def test_the_matrix_keeps_the_rows_that_it_has(monkeypatch, tmp_path):
    def measured(*arguments) -> list[dict]:
        monkeypatch.setattr("sys.argv", ["attack_matrix", "--output", str(tmp_path), *arguments])
        attack_matrix.main()
        return json.loads((tmp_path / "attack_matrix.json").read_text())["table"]

    cases = [attack_matrix.Case("aug data pairs", "clothing", 16, "resnet18_cifar", "orthogonal",
                                *block)
             for block in ((1, 8), (12, 0))]
    monkeypatch.setattr(attack_matrix, "load_both_splits", photos)
    monkeypatch.setattr(attack_matrix, "list_cases", lambda: cases)
    rows = measured()
    assert [row["tile"] for row in rows] == [8, 0]
    assert all(row["known_first_layer"]["psnr"] > 60 < row["blind"]["psnr"] for row in rows)
    assert rows[0]["data_only"]["psnr"] > 20 and rows[0]["known_pairs"][-1]["psnr"] > 50
    again = measured("--only", "12-0")              # the other stays as it was
    assert again[0] == rows[0] and again[1]["name"] == rows[1]["name"]
    names = [case.name for case in attack_matrix.list_cases()]
    assert len(set(names)) == len(names)
