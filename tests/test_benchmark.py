"""The benchmark compares equals: the reference's algorithm and ours compute the same."""

import json
import math
from dataclasses import asdict

import pytest
import torch
from torch import nn

from experiments import reference_algorithm as reference
from experiments import speed as steps
from experiments import speed_measures as measures
from experiments import speed_report as report
from images.datasets import CIFAR, Prepared
from mole.aug_conv import AugConv
from mole.morphing import (
    draw_core,
    invert_core,
    morph,
    relative_error,
    secret_generator,
)
from utils import examples
from utils.devices import Context
from utils.errors import UserError
from utils.examples import Features, FrozenLayer, Source, keep_features
from utils.launch import Launch

SHAPE = (3, 8, 8)


def provided(kappa):
    """A well-conditioned core (q, q) and its inverse."""
    core = draw_core(192 // kappa, "orthogonal", secret_generator(1, 0))
    return core, invert_core(core)


def pixels(count=10):
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=g)


def one_by_one(images, core, kappa):
    """Images morphed as the reference does it, in one tensor (N, α, m, m)."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    data = reference.ImageByImage(images, labels, reference.block_diagonal(core, kappa))
    return torch.cat([morphed for morphed, _ in reference.loader(data, 4, workers=0)])


@pytest.mark.parametrize("kernel, padding", [(3, 1), (3, 0), (5, 2), (1, 0)])
def test_the_matrix_of_a_convolution(kernel, padding):
    layer = nn.Conv2d(3, 4, kernel, padding=padding, bias=False).requires_grad_(False)
    images = torch.randn(2, *SHAPE)
    torch.testing.assert_close(images.flatten(1) @ reference.convolution_matrix(layer, SHAPE),
                               layer(images).flatten(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kappa", [1, 12])
def test_both_sides_compute_the_same(kappa):
    core, inverse = provided(kappa)
    layer = nn.Conv2d(3, 16, 3, padding=1, bias=False).requires_grad_(False)
    order, images = torch.randperm(16), pixels()

    full_inverse = torch.linalg.inv(reference.block_diagonal(core, kappa).double()).float()
    aug_conv = AugConv.compose(layer, inverse, SHAPE, order)
    dense = reference.compose(layer, full_inverse, SHAPE, order)
    assert relative_error(dense, aug_conv.weight) < 1e-6

    prepared = Prepared(images, *CIFAR, 0)[:]
    morphed, alone = morph(prepared, core), one_by_one(images, core, kappa)
    assert relative_error(alone.flatten(1), morphed) < 1e-6

    plain = layer(prepared)[:, order]
    context, labels = Context(torch.device("cpu")), torch.zeros(len(images), dtype=torch.int64)
    features = Features([(FrozenLayer(aug_conv), Source(morphed, lambda x: x))], [labels], context)
    kept = keep_features(features, features, "on", False, context)
    assert relative_error(kept.train.take(slice(None)), plain) < 1e-5
    assert relative_error(reference.DenseLayer(dense, aug_conv.out_shape)(alone), plain) < 1e-5


@pytest.mark.parametrize("world, is_kept", [(1, True), (2, False)])
def test_features_are_kept_where_those_of_all_processes_fit(world, is_kept, monkeypatch):
    context = Context(torch.device("cpu"), world=world)
    layer = FrozenLayer(nn.Conv2d(3, 4, 3, padding=1))
    features = Features([(layer, Source(torch.ones(10, 3, 8, 8), lambda x: x))],
                        [torch.zeros(10, dtype=torch.int64)], context)
    needed = 2 * 10 * 4 * 8 * 8 * 4                      # of training and test images
    monkeypatch.setattr(examples, "free_memory", lambda device: 3 * needed)
    monkeypatch.setattr(examples, "read_launch", lambda: Launch(world, on_this_machine=world))
    kept = keep_features(features, features, "auto", False, context)
    assert (kept.train is not features) == is_kept


def test_the_reference_inverts_the_full_matrix():
    matrix, inverse = reference.morphing_matrix(16, 3)
    assert matrix.shape == (48, 48)
    assert matrix[:16, 16:].count_nonzero() == 0
    assert torch.equal(matrix[:16, :16], matrix[32:, 32:])
    torch.testing.assert_close(matrix.double() @ inverse.double(), torch.eye(48).double(),
                               rtol=0, atol=1e-2)


def test_the_reference_learns():
    """So that its images per second are of training that trains."""
    images = pixels(32)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    labels = torch.arange(32) % 2
    data = reference.ImageByImage(images, labels)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    for _ in range(20):
        rate = reference.train(network, reference.loader(data, 8, 0, shuffle=True), optimizer,
                               torch.device("cpu"), warm_up=1, steps=3)
    assert rate > 0
    inputs = torch.stack([data[i][0] for i in range(32)])
    assert (network(inputs).argmax(1) == labels).float().mean() > 0.9


def test_every_measurement_and_its_report(monkeypatch):
    monkeypatch.setattr(measures.os, "cpu_count", lambda: 0)       # no worker processes here
    monkeypatch.setattr(measures, "time_action", lambda action, device: (action(), 1.0)[1])
    size = steps.QUICK
    found = {name: {side: steps.measure(name, side, size, "cpu") for side in sides}
             for name, sides in steps.MEASURES.items()}
    assert all(math.isfinite(value) and value >= 0 for sides in found.values()
               for results in sides.values() for value in results.values())

    rows, lines = report.make_table(found, size), report.measure_growth(found, size)
    assert json.loads(json.dumps([rows, lines])) == [rows, lines]
    assert len(report.as_text(rows).splitlines()) == len(rows) + 1
    assert report.draw_growth(lines, 8).startswith(b"\x89PNG")


def test_targets():
    keys = ["seconds", "images_per_second", "peak_mb", "seconds_at_m_8", "seconds_for_one", "bytes",
            "images_per_second_tiles", "pixel_bytes"]
    found = {name: {side: dict.fromkeys(keys, 1.0) for side in sides}
             for name, sides in steps.MEASURES.items()}
    found["with_ac"]["here"]["images_per_second"] = 3.0
    rows = report.make_table(found, steps.QUICK)
    assert {row["name"] for row in rows} >= {"morphing", "epoch", "epoch_not_kept"}
    reached = {row["name"]: row["reached"] for row in rows if "target" in row}
    assert [name for name in reached if reached[name]] == [
        "composing_memory", "with_ac", "epoch", "epoch_tiles", "delivered"]
    ratios = {row["name"]: row["ratio"] for row in rows}
    assert ratios["with_ac"] == 3 and ratios["epoch"] == pytest.approx(1 / 3)
    assert "MISSED" in report.as_text(rows)
    assert not any("target" in row for row in report.make_table(found, steps.QUICK, targets=False))


MACHINE = {"processor": "AMD EPYC 7B13", "capability": "AVX2", "cores": 2, "cuda": []}


def test_a_record_has_the_name_of_its_processor():
    assert steps.record_name(MACHINE) == "amd-epyc-7b13-avx2-2-cores"
    assert steps.record_name(MACHINE | {"cuda": ["NVIDIA H100"]}) == "nvidia-h100"


def test_only_adds_to_the_record_of_the_same_machine_and_size(tmp_path):
    path = tmp_path / "bench.json"
    with pytest.raises(UserError, match="measure everything first"):
        steps.read_before(path, MACHINE, steps.FULL)
    path.write_text(json.dumps({"machine": MACHINE | {"cores": 4}}))
    with pytest.raises(UserError, match="another machine"):
        steps.read_before(path, MACHINE, steps.FULL)
    path.write_text(json.dumps({"machine": MACHINE, "size": asdict(steps.QUICK)}))
    with pytest.raises(UserError, match="another size"):
        steps.read_before(path, MACHINE, steps.FULL)
    assert steps.read_before(path, MACHINE, steps.QUICK)["machine"] == MACHINE


def run_speed(monkeypatch, *words):
    """The benchmark as a program, with numbers that stand for measured ones."""
    def measure(names, turns, size, device):
        keys = ["seconds", "images_per_second", "images_per_second_tiles", "peak_mb",
                "seconds_for_one", "bytes", "pixel_bytes"]
        keys += [f"seconds_at_m_{m}" for m in size.sides]
        keys += [f"images_per_second_kappa_{kappa}" for kappa in size.kappas]
        for what in ("composing_seconds", "morphing_seconds", "aug_conv_seconds", "aug_conv_mb"):
            keys += [f"{what}_at_m_{m}" for m in size.tiled_sides]
        return {name: {side: [dict.fromkeys(keys, 1.0)] for side in steps.MEASURES[name]}
                for name in names}

    monkeypatch.setattr(steps, "measure_in_turns", measure)
    monkeypatch.setattr("sys.argv", ["speed", "--device", "cpu", *map(str, words)])
    steps.main()


def test_a_quick_try_leaves_the_record_alone(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    run_speed(monkeypatch, "--quick")
    assert "nothing is written" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_record_keeps_its_command_when_a_part_is_measured_again(monkeypatch, tmp_path):
    commands = iter(["whole", "part"])
    monkeypatch.setattr(steps, "provenance", lambda p: {
        "command": next(commands), "code": "x", "machine": MACHINE})
    run_speed(monkeypatch, "--output", tmp_path)
    run_speed(monkeypatch, "--output", tmp_path, "--only", "matrix")
    [path] = (tmp_path / "bench").iterdir()
    record = json.loads(path.read_text())
    assert record["command"] == "whole"
    assert record["measured_again"] == [
        {"command": "part", "code": "x", "measurements": ["matrix"]}]
