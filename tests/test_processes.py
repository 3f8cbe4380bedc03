"""Several processes under torchrun work as one."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from images import shapes
from models.build import build
from parameter import Parameters
from tests.steps import ENVIRONMENT, ROOT, STEPS, TINY, run
from utils.devices import CPUSyncBatchNorm2d
from utils.settings import options_of
from utils.training import (
    Data,
    batches,
    in_processes,
    optimizer_and_schedule,
    seed_everything,
    train_epoch,
)


def torchrun(script, *arguments, settings=TINY):
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         script, *options_of(script, settings), *map(str, arguments)],
        cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def in_two(function, tmp_path, *arguments):
    """Calls function(*arguments) in two processes that know each other."""
    torch.multiprocessing.spawn(_joined, (f"file://{tmp_path}/store", function, arguments), 2)


def _joined(rank, store, function, arguments):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    function(*arguments)
    torch.distributed.destroy_process_group()


def exact_training(path):
    """Two epochs in float64, a last batch of 6 among batches of 8, with batch norm."""
    p = Parameters(epochs=2, batch_size=8, lr=0.01)
    images, labels = shapes.draw(86, 8, seed=0)
    images = images.double() / 255 - 0.5
    seed_everything(p.seed)
    network = build("tests.own_networks:strided", 10, (3, 8, 8)).double()
    data = Data(images, labels, images, labels, None)
    optimizer, scheduler = optimizer_and_schedule(network, p, p.weight_decay,
                                                  len(batches(labels, p.batch_size)))
    module = in_processes(network, p, torch.device("cpu")).train()
    for epoch in (1, 2):
        train_epoch(module, data, p, epoch, optimizer, scheduler, torch.device("cpu"))
    torch.save(network.state_dict(), path)


def test_two_processes_train_as_one_does_to_rounding_in_float64(tmp_path):
    """So where they part in float32, as a deep network with batches this small does, it is rounding
    that batch norm multiplies, tenfold in every step.
    """
    exact_training(tmp_path / "one.pt")
    in_two(exact_training, tmp_path, tmp_path / "two.pt")
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-9, atol=1e-9)


def test_two_processes_end_where_one_does(tmp_path):
    """The step itself, in float32.

    A small learning rate, since rounding grows tenfold a step where it is large.
    """
    settings = (*TINY, "--dropout", "0", "--train_limit", "48")
    folders = {name: tmp_path / name for name in ("one", "two", "doubled")}
    for script in STEPS[:3]:
        assert run(script, "--data_dir", folders["one"], settings=settings).status == 0
    for name in ("two", "doubled"):
        (folders[name] / "developer").mkdir(parents=True)
        (folders[name] / "delivery").symlink_to(folders["one"] / "delivery")
    for name, lr in (("one", 3e-4), ("doubled", 6e-4)):
        assert run("train_with_ac.py", "--data_dir", folders[name], "--lr", lr,
                   settings=settings).status == 0
    out = torchrun("train_with_ac.py", "--data_dir", folders["two"], "--lr", "3e-4",
                   settings=settings)
    assert "2 processes" in out and out.count("epoch   2") == 1        # one of them speaks
    one, two, doubled = (
        torch.cat([weight.flatten() for name, weight in torch.load(
            folder / "developer" / "with_ac.pt", weights_only=True)["network"].items()
            if name.endswith(("weight", "bias"))]) for folder in folders.values())
    assert (one - two).norm() <= 1e-4 * one.norm()
    # What gradients that are summed and not averaged would give is far outside that bound.
    assert (one - doubled).norm() > 1e-3 * one.norm()


def test_two_processes_make_the_same_delivery(tmp_path):
    """Bit for bit: each morphs a block, and int8 has one step for both."""
    settings = (*TINY, "--epochs", "1", "--morph_distribution", "orthogonal", "--tile", "4",
                "--delivery_dtype", "int8")
    for script in STEPS[:2]:
        assert run(script, "--data_dir", tmp_path, settings=settings).status == 0
    limits = ("--train_limit", "1500", "--data_dir", tmp_path)
    assert run("gen_augconv.py", *limits, settings=settings).status == 0
    one = json.loads((tmp_path / "delivery" / "manifest.json").read_text())
    out = torchrun("gen_augconv.py", *limits, settings=settings)
    assert out.count("relative error against the plain first layer") == 1
    assert json.loads((tmp_path / "delivery" / "manifest.json").read_text()) == one


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_norm_over_processes_is_torchs_on_one(tmp_path, dtype):
    """One process: mean, variance and gradients of nn.BatchNorm2d."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0,
                                         world_size=1)
    try:
        own, torchs = CPUSyncBatchNorm2d(5, dtype=dtype), nn.BatchNorm2d(5, dtype=dtype)
        x = torch.randn(6, 5, 3, 3, dtype=dtype)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        for layer, y in zip((own, torchs), inputs, strict=True):
            layer(y).square().mul(torch.arange(5.0).view(-1, 1, 1)).sum().backward()
        close = dict(rtol=1e-4, atol=1e-5) if dtype == torch.float32 else dict(rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, **close)
        torch.testing.assert_close(own.running_var, torchs.running_var, **close)
        torch.testing.assert_close(own.running_mean, torchs.running_mean, **close)
    finally:
        torch.distributed.destroy_process_group()
