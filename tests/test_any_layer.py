"""Attacks on first layers that are not the paper's, the authors' own attack, and the matrix."""

import json

import pytest
import torch
from torch import nn

from attacks import adversary, algebra
from attacks.scores import score_images
from attacks.view import Truth, View, to_normalised, to_pixels
from experiments import attack_matrix, repairs
from experiments.inverse_training import inverse_training
from images.datasets import CIFAR, ImageSet, Prepared
from mole.morphing import draw_core, secret_generator, unroll
from tests.photographs import draw_photographs
from utils.attack_reports import UNDER_ATTACK
from utils.delivery import compose, deliver_in_memory
from utils.errors import UserError
from utils.examples import evenly_spaced
from utils.geometry import Geometry
from utils.keys import draw_key


def attack(*layer, **options) -> adversary.Recovery:
    """What the attacks with Aug-Conv give on a delivery for a first layer."""
    return adversary.recover(*deliver(*layer, **options))


def deliver(*layer, side: int = 16, tile: int = 0, core: str = "orthogonal", count: int = 64,
            dtype: str = "float32", mirrored: bool = False, **options) -> tuple[View, Truth]:
    """A delivery for a first layer, and the truth; `mirrored`: with the mirrored Aug-Conv too."""
    torch.manual_seed(1)
    first = nn.Conv2d(*layer, **options).requires_grad_(False)
    private = draw_photographs(count, side, seed=5)
    public = Prepared(draw_photographs(2000, side, seed=6), *CIFAR, 0)[:]
    order = torch.randperm(first.out_channels, generator=torch.Generator().manual_seed(3))
    key = draw_key((3, side, side), 1, tile, core, seed=3)
    delivered = deliver_in_memory(Prepared(private, *CIFAR, 0)[:], first, key, dtype, order)
    geometry = Geometry("", (3, side, side), 0, "crop", 1, tile, core, dtype, *CIFAR)
    second = compose(first, key, order, mirrored=True) if mirrored else None
    view = View(geometry, delivered.aug_conv, delivered.restored(), first, unroll(public, tile),
                mirrored=second)
    shown = private[evenly_spaced(count, UNDER_ATTACK)].double() / 255
    return view, Truth(order, shown, private, *CIFAR)


# First layers (α, β, kernel, stride, padding), and where the order of their channels shows.
LAYERS = {"resnet, by tiles": ((3, 64, 7, 2, 3), "projector", dict(side=32, tile=16)),
          "mobilenet": ((3, 32, 3, 2, 1), "projector", {}),
          "few filters": ((3, 16, 3, 1, 1), "projector", dict(side=12)),
          "5x5": ((3, 64, 5, 1, 2), "projector", {}),
          "convnext": ((3, 64, 4, 4), "projector", {}),
          "patches of as many pixels": ((3, 48, 4, 4), "likeness", dict(count=500))}


@pytest.mark.parametrize("name", LAYERS)
def test_images_come_back_behind_any_known_first_layer(name):
    layer, way, options = LAYERS[name]
    report = attack(*layer, bias=False, **options).known_layer.report
    assert report["order_from"] == way
    assert report["channels_right"] == report["channels"] == layer[1]
    assert report["psnr"] > 60


def test_a_layer_that_sees_few_positions_gives_its_order_but_not_the_images():
    """AlexNet's sees 3x3 positions of 16x16 pixels: fewer features than pixels."""
    report = attack(3, 64, 11, 4, 2, count=500, bias=False).known_layer.report
    assert report["order_from"] == "likeness" and report["channels_right"] > 0.9 * 64
    assert report["psnr"] < 40 and report["left_open"] == "576 features for 768 values"


def test_a_bias_gives_the_order_away():
    report = attack(3, 32, 3, 1, 1, side=12, bias=True).known_layer.report
    assert report["order_from"] == "bias" and report["channels_right"] == 32
    assert report["psnr"] > 60


def test_features_are_compared_without_the_bias():
    """The first layer's of public images, and Aug-Conv's, which brings the bias along."""
    layer = nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False)
    images = Prepared(draw_photographs(5, 8, seed=5), *CIFAR, 0)[:]
    key = draw_key((3, 8, 8), 1, 0, "orthogonal", seed=3)
    delivered = deliver_in_memory(images, layer, key)
    geometry = Geometry("", (3, 8, 8), 0, "crop", 1, 0, "orthogonal", "float32", *CIFAR)
    view = View(geometry, delivered.aug_conv, delivered.restored(), layer, images.flatten(1))
    expected = view.features_of(images, layer.weight)
    torch.testing.assert_close(view.features_of_morphed(view.all_morphed), expected,
                               rtol=0, atol=1e-4)


def test_a_layer_with_one_position_has_windows_of_one():
    report = attack(3, 64, 8, 8, side=8, count=100, bias=False).known_layer.report
    assert "order_from" in report or "failed" in report


def test_dilation_and_groups_hide_nothing():
    found = attack(3, 36, 3, padding=2, dilation=2, groups=3, side=12, bias=False)
    assert found.known_layer.report["psnr"] > 60


def test_layers_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="square"):
        algebra.filter_bank(nn.Conv2d(3, 8, (3, 5)))


def test_bytes_cost_the_attacker_quality_and_no_more():
    found = attack(3, 64, 7, 2, 3, tile=16, side=32, dtype="int8", bias=False)
    assert 20 < found.known_layer.report["psnr"] < 60


def test_rows_that_a_stride_does_not_reach_are_reported():
    report = attack(3, 64, 3, 2, 0, bias=False).known_layer.report
    assert report["left_open"] == "1 rows that the stride does not reach" and report["psnr"] < 40


def test_rows_that_a_stride_skips_are_reported():
    found = attack(3, 64, 1, 2, bias=False)
    assert found.known_layer.report["left_open"] == (
        "all but 1 of 2 rows and columns, between which the stride skips")
    assert "share no pixel" in found.blind.report["failed"]


def test_blind_behind_single_pixels_gives_them_up_to_colour():
    """A 1x1 layer mixes colours and nothing else."""
    found = attack(3, 64, 1, bias=False).blind
    assert found.report["psnr"] > 60 and found.whole


@pytest.mark.parametrize("layer", [(3, 64, 7, 2, 3), (3, 32, 3, 2, 1)],
                         ids=["resnet", "mobilenet"])
def test_blind_with_a_stride_gives_every_second_pixel(layer):
    found = attack(*layer, side=32, bias=False).blind
    assert found.report["psnr"] > 60 and found.report["left_open"] == "all but one pixel of 2x2"
    assert not found.whole


@pytest.mark.parametrize("layer", [(3, 64, 7, 2, 3), (3, 32, 3, 2, 1)],
                         ids=["resnet", "mobilenet"])
def test_blind_with_a_stride_and_both_aug_convs_gives_twice_as_many_pixels(layer):
    found = attack(*layer, mirrored=True, bias=False).blind
    assert found.report["psnr"] > 60 and found.report["left_open"] == "all but 2 pixels of 2x2"
    rows, columns = found.images.shape[2:]
    assert columns == 2 * rows


def test_both_aug_convs_give_the_same_columns_where_the_stride_divides_their_distance():
    """Of 15 columns, every second from the left is every second from the right."""
    found = attack(3, 32, 3, 2, 1, side=15, mirrored=True, bias=False).blind
    assert found.report["psnr"] > 60 and found.report["left_open"] == "all but one pixel of 2x2"


def test_blind_with_both_aug_convs_gives_no_more_where_one_gives_all():
    found = attack(3, 64, 3, 1, 1, side=12, tile=4, mirrored=True, bias=False).blind
    assert found.report["psnr"] > 60 and found.report["exact"] == 1 and found.whole


@pytest.mark.parametrize("layer", [(3, 64, 3, 1, 1), (3, 16, 7, 2, 3)], ids=["vgg", "resnet"])
def test_the_mirrored_aug_conv_gives_the_features_of_mirror_images(layer):
    """Of the same first layer and with the same channels, from the same T."""
    view, truth = deliver(*layer, side=12, mirrored=True, bias=False)
    found = adversary.features_of_images_and_probes(view, mirrored=True).of_images
    images = to_normalised(truth.pixels, *CIFAR)
    expected = view.features_of(images.flip(3), view.layer.weight.double())[:, truth.order]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_blind_on_patches_gives_images_from_statistics():
    assert attack(3, 64, 4, 4, count=1000, bias=False).blind.report["psnr"] > 20


def test_blind_on_patches_of_few_images_says_that_they_are_too_few():
    found = attack(3, 64, 4, 4, count=4, bias=False).blind
    assert "too few" in found.report["failed"] and found.images is None


def test_blind_fails_where_no_positions_share_one_pixel():
    assert "never one" in attack(3, 64, 11, 4, 2, bias=False).blind.report["failed"]


def test_the_authors_own_attack_fits_features_and_does_not_find_the_images():
    torch.manual_seed(1)
    first = nn.Conv2d(3, 16, 3, padding=1, bias=False).requires_grad_(False)
    pixels = draw_photographs(200, 8, seed=5).double() / 255
    plain = to_normalised(pixels, *CIFAR).float()
    morphed = plain.flatten(1) @ draw_core(192, "orthogonal", secret_generator(0, purpose=0))
    matrix, curve = inverse_training(morphed, first(plain), (3, 8, 8), 3, 1, epochs=60)
    assert curve[-1]["loss"] < 0.1 * curve[0]["loss"]
    images = (morphed @ matrix).view(-1, 3, 8, 8).double()
    assert score_images(to_pixels(images, *CIFAR), pixels).psnr < 20


def photos(data, dataset, side) -> tuple[ImageSet, ImageSet]:
    other = 1000 if dataset == "cifar100" else 0         # other pictures
    return tuple(ImageSet(draw_photographs(count, side, other + count), torch.arange(count) % 10,
                          ["a"]) for count in (600, 300))


class Stopped(Exception):
    pass


def stop_at(repair: str):
    """Stands for describe_result: stops the run after this repair, before it is written."""
    def describe(row: dict) -> str:
        if row["repair"] == repair:
            raise Stopped
        return ""

    return describe


def test_repairs_are_attacked_and_trained_behind(monkeypatch, tmp_path, capsys):
    """What each repair gives away, and what it costs."""
    case = repairs.Case(("aug", "pairs"), "clothing", 16, "vgg11", "orthogonal", 1, 0)
    for module in (attack_matrix, repairs):
        monkeypatch.setattr(module, "load_both_splits", photos)
        monkeypatch.setattr(module, "PAIRS", 64)
    monkeypatch.setattr(repairs, "CASE", case)
    monkeypatch.setattr(repairs, "TESTED", 32)
    monkeypatch.setattr(repairs, "TRAINING", dict(model="vgg_small", epochs=1))
    monkeypatch.setattr(repairs, "REPAIRS", [
        repairs.Repair("none"), repairs.Repair("channels", 32.0), repairs.Repair("noise", 0.1)])
    monkeypatch.setattr("sys.argv", ["repairs", "--output", str(tmp_path)])
    monkeypatch.setattr(repairs, "describe_result", stop_at("channels"))
    with pytest.raises(Stopped):
        repairs.main()
    monkeypatch.setattr(repairs, "describe_result", str)
    repairs.main()
    assert "has 1 of 3 rows: going on" in capsys.readouterr().out
    record = json.loads((tmp_path / "repairs.json").read_text())
    assert record["complete"]
    none, few, noise = record["table"]
    assert all(0 <= row["accuracy"] <= 1 for row in (none, few, noise))
    assert none["known_first_layer"]["psnr"] > 80 < few["blind"]["up_to_colour"]["psnr"]
    assert noise["known_first_layer"]["psnr"] < noise["known_first_layer_denoised"]["psnr"] < 80


def test_the_matrix_keeps_the_rows_that_it_has(monkeypatch, tmp_path):
    def measure(command, *arguments) -> dict:
        monkeypatch.setattr(attack_matrix, "provenance",
                            lambda p: {"command": command, "code": f"code of {command}",
                                       "machine": {"processor": f"processor of {command}"}})
        monkeypatch.setattr("sys.argv", ["attack_matrix", "--output", str(tmp_path), *arguments])
        attack_matrix.main()
        return json.loads((tmp_path / "attack_matrix.json").read_text())

    what = ("cifar10", 16, "resnet18_cifar", "orthogonal")
    alone = ("data", "data_few", "data_other")
    cases = [attack_matrix.Case(("aug", *alone, "pairs"), *what, 1, 4),
             attack_matrix.Case(("aug",), *what, 12, 0)]
    monkeypatch.setattr(attack_matrix, "load_both_splits", photos)
    monkeypatch.setattr(attack_matrix, "FEW", 300)
    monkeypatch.setattr(attack_matrix, "list_cases", lambda: cases)
    rows = measure("whole")["table"]
    assert [row["tile"] for row in rows] == [4, 0]
    assert all(row["known_first_layer"]["psnr"] > 60 < row["blind"]["psnr"] for row in rows)
    assert rows[0]["data_only"]["psnr"] > 20 and rows[0]["known_pairs"][-1]["psnr"] > 50
    for name, public in (("data_only", 600), ("data_few", 300), ("data_other", 600)):
        assert rows[0][name]["public_images"] == public
        assert rows[0][name]["reidentified"] > 0.9
    again = measure("part", "--only", "12-0")       # the other stays as it was
    assert again["command"] == "whole" and again["measured_again"] == ["part"]
    assert again["table"][0] == rows[0] and again["table"][1]["name"] == rows[1]["name"]
    assert [row["code"] for row in again["table"]] == ["code of whole", "code of part"]
    assert [row["machine"]["processor"] for row in again["table"]] == [
        "processor of whole", "processor of part"]
    renamed = measure("typed otherwise")            # nothing is missing, and the record says so
    assert renamed["command"] == "typed otherwise" and renamed["complete"]
    assert renamed["table"] == again["table"]


def test_a_row_of_another_first_layer_is_measured_again(monkeypatch, tmp_path):
    case = attack_matrix.list_cases()[0]
    rows = {case.name: {"trained_layer": None}}
    assert not attack_matrix.is_wanted(case, rows, None, None)
    monkeypatch.setattr(attack_matrix, "trained_fingerprint", lambda model, folder: "vgg11's")
    assert attack_matrix.is_wanted(case, rows, None, tmp_path)
    trained = {case.name: {"trained_layer": "vgg11's"}}
    assert not attack_matrix.is_wanted(case, trained, None, tmp_path)
    monkeypatch.setattr(attack_matrix, "trained_fingerprint", lambda model, folder: None)
    assert not attack_matrix.is_wanted(case, trained, None, None), "by an untrained layer"


@pytest.mark.parametrize("module", [attack_matrix, repairs])
def test_a_folder_of_first_layers_that_is_none_is_refused(module, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["module", "--output", str(tmp_path), "--first_layers", "typo"])
    with pytest.raises(UserError, match="--first_layers typo is no folder"):
        module.main()
    assert not list(tmp_path.iterdir())


def test_a_part_of_the_matrix_that_is_no_row_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["attack_matrix", "--output", str(tmp_path), "--only", "typo"])
    with pytest.raises(UserError, match="no row has typo in its name"):
        attack_matrix.main()
    assert not list(tmp_path.iterdir())


def test_rows_of_the_matrix_have_names_of_their_own():
    names = [case.name for case in attack_matrix.list_cases()]
    assert len(set(names)) == len(names)


def test_public_images_of_each_kind_are_prepared_as_the_private_ones(monkeypatch, tmp_path):
    """The adversary knows the delivery's normalisation and tiles, and not the private images."""
    given = []

    def attack_data(view, truth, public=None):
        given.append(view.public if public is None else public)
        report = {"public_images": len(given[-1]), "reidentified": 0.1 * len(given),
                  "reidentified_mirrored": 0.8, "psnr": 10.0}
        return adversary.Finding(to_normalised(truth.pixels, truth.mean, truth.std), report)

    monkeypatch.setattr(attack_matrix, "load_both_splits", photos)
    monkeypatch.setattr(attack_matrix, "FEW", 50)
    monkeypatch.setattr(adversary, "attack_data", attack_data)
    case = attack_matrix.Case(("data", "data_few", "data_other"), "cifar10", 16, "resnet18_cifar",
                              "uniform", 1, 8, seed=2, public=500)
    row, picture = attack_matrix.attack_case(case, tmp_path)
    assert (row["seed"], row["public"], row["private"]) == (2, 500, 300)
    same, other = (photos(tmp_path, name, 16)[0].images for name in ("cifar10", "cifar100"))
    all_same, few, all_other = given
    some = same[evenly_spaced(600, 500)]
    assert torch.equal(all_same, unroll(Prepared(some, *CIFAR, 0)[:], 8))
    assert torch.equal(few, all_same[evenly_spaced(500, 50)])
    assert torch.equal(all_other, unroll(Prepared(other, *CIFAR, 0)[:], 8))
    assert row["data_other"]["public_dataset"] == "cifar100"
    titles = [title for title, _ in picture]
    assert "s = 8, uniform core" in titles[0] and len(picture[0][1]) == attack_matrix.SHOWN
    assert titles[1].endswith("500 public images of CIFAR-10: 80.0% re-identified, as mirror "
                              "images")
    assert titles[3].endswith("600 public images of CIFAR-100: 80.0% re-identified, as mirror "
                              "images")


def test_each_key_has_a_delivery_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(attack_matrix, "load_both_splits", photos)
    delivered = [attack_matrix.deliver(attack_matrix.Case(
        ("data",), "cifar10", 16, "resnet18_cifar", "orthogonal", 1, 8, seed=seed), tmp_path)
        for seed in (0, 0, 1)]
    first, again, other = (one.view.all_morphed for one in delivered)
    assert torch.equal(first, again) and not torch.allclose(first, other)
    assert not torch.equal(delivered[0].truth.order, delivered[2].truth.order)


def test_the_matrix_has_every_kind_of_public_images():
    """Few ones and another data set's for each core and blocks; three keys; a curve."""
    cases = attack_matrix.list_cases()
    for block in attack_matrix.BLOCKS:
        for core in attack_matrix.CORES:
            [main] = [case for case in cases if (case.kappa, case.tile) == block
                      and case.morph_distribution == core and "data_few" in case.attacks]
            assert {"data", "data_other"} < set(main.attacks) and main.dataset == "cifar10"
    for core in ("orthogonal", "uniform"):
        at_kappa_1 = [case for case in cases if (case.kappa, case.tile) == (1, 0)
                      and case.morph_distribution == core and case.delivery_dtype == "float32"
                      and case.private == 10_000]
        for dataset in ("cifar10", "cifar100"):
            assert sorted(case.seed for case in at_kappa_1 if case.dataset == dataset
                          and "data_other" in case.attacks) == [0, 1, 2]
        counts = {case.public for case in at_kappa_1
                  if case.dataset == "cifar10" and "data" in case.attacks}
        assert {0, 300, 3000, 10_000} == counts
    assert {case.picture for case in cases} == {None, "across", "across_tiles"}


def test_the_matrix_says_how_long_it_will_take():
    what = ("cifar10", 16, "vgg11", "uniform", 1, 0)
    cases = [attack_matrix.Case((attack,), *what) for attack in ("data", "data_few", "data_other")]
    assert attack_matrix.describe_progress(cases, 1, 60.0) == (
        "1 of 3 rows are measured; about 4 more minutes")
    assert attack_matrix.describe_progress(cases, 3, 60.0).endswith("about 0 more minutes")
