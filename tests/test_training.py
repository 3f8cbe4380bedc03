"""The training loop: what it computes, alone and in several processes."""

import subprocess
import sys

import pytest
import torch
from models.batch_norm import CPUSyncBatchNorm2d
from torch import nn

from models.aug_conv import AugConv
from parameter import Parameters
from tests.steps import ROOT, STEPS, TINY, run
from utils.delivery import standardised
from utils.runs import Run
from utils.training import Data, batches, compute_dtype, seed_everything, through_aug_conv, train

CPU = torch.device("cpu")


def task(count=256, test=400):
    """Images whose class is their brighter half: learnt in seconds by a small network."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count + test, 8, generator=generator)
    labels = (images[:, :4].sum(1) > images[:, 4:].sum(1)).long()
    return Data(images[:count], labels[:count], images[count:], labels[count:], lambda x: x)


def trained(folder, data=None, network=None, **settings):
    p = Parameters(**(dict(epochs=3, batch_size=16, lr=0.05, precision="fp32") | settings))
    seed_everything(p.seed)
    network = network or nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1),
                                       nn.Linear(16, 2))
    curve = train(network, data or task(), p, Run(folder, "pretrained", p.experiment()), 0.0, CPU)
    return network, curve


def test_it_learns_and_tells_the_curve(tmp_path):
    _, curve = trained(tmp_path, epochs=30)
    assert [e["epoch"] for e in curve] == list(range(1, 31))
    assert curve[-1]["train_loss"] < 0.3 < curve[0]["train_loss"]
    assert curve[-1]["test_accuracy"] > 0.8


def test_same_seed_same_weights_other_seed_others(tmp_path):
    first, second, other = (trained(tmp_path, seed=s, restart=True)[0][0].weight
                            for s in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_the_images_are_shuffled_anew_each_epoch(tmp_path):
    """The reference's loader never shuffles: the order of the batches must differ."""
    data, seen = task(), []

    class Watching(nn.Linear):
        def forward(self, x):
            if self.training:
                seen.append(x.clone())
            return super().forward(x)

    trained(tmp_path, data, nn.Sequential(Watching(8, 2)), epochs=2)
    first, second = torch.cat(seen[:16]), torch.cat(seen[16:])
    assert not torch.equal(first, second) and not torch.equal(first, data.train)
    order = lambda x: x[x[:, 0].argsort()]                                    # noqa: E731
    assert torch.equal(order(first), order(second))                # each image once an epoch


def test_learning_rate_is_halved_every_decay_epochs(tmp_path):
    trained(tmp_path, epochs=5, decay_epochs=2, lr=0.4)
    state = torch.load(tmp_path / "pretrained.checkpoint.pt", weights_only=True)
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.1)
    assert state["optimizer"]["state"][0]["momentum_buffer"].abs().max() > 0


def test_last_batch_is_left_out_only_where_it_is_too_small():
    assert [len(b) for b in batches(torch.arange(33), 16)] == [16, 16]
    assert [len(b) for b in batches(torch.arange(34), 16)] == [16, 16, 2]
    assert [len(b) for b in batches(torch.arange(5), 16)] == [5]


def test_standardised_with_the_training_images_alone():
    data = Data(5 + 3 * torch.randn(500, 6), torch.zeros(500), torch.full((2, 6), 5.0),
                torch.zeros(2), lambda x: x)
    fair = standardised(data)
    torch.testing.assert_close(fair.train.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(fair.train.std(0), torch.ones(6))
    assert fair.test.abs().max() < 0.3 and fair.train.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_the_same_kept_or_computed(dtype):
    layer = AugConv(torch.randn(12, 4 * 3 * 3), (4, 3, 3))
    data = Data(torch.randn(9, 12), torch.zeros(9), torch.randn(5, 12), torch.zeros(5), None)
    kept = through_aug_conv(layer, data, "on", dtype, CPU)
    each = through_aug_conv(layer, data, "off", dtype, CPU)
    for split in ("train", "test"):
        first, second = (d.prepare(getattr(d, split)) for d in (kept, each))
        assert first.dtype == second.dtype == dtype and first.shape == second.shape
        torch.testing.assert_close(first, second)
        assert first.is_contiguous(memory_format=torch.channels_last)


def test_precision_can_be_chosen():
    assert compute_dtype(Parameters(precision="fp32"), CPU) == torch.float32
    assert compute_dtype(Parameters(precision="bf16"), CPU) == torch.bfloat16


def test_bfloat16_trains_as_well(tmp_path):
    _, curve = trained(tmp_path, epochs=30, precision="bf16")
    assert curve[-1]["test_accuracy"] > 0.8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_trains_as_the_cpu_does(tmp_path):
    def weights(device):
        p = Parameters(epochs=2, batch_size=16, lr=0.1, precision="fp32")
        seed_everything(0)
        network = nn.Sequential(nn.Linear(8, 2))
        train(network, task(), p, Run(tmp_path / device, "pretrained", {}), 0.0,
              torch.device(device))
        return network[0].weight.detach().cpu()

    torch.testing.assert_close(weights("cuda"), weights("cpu"), rtol=1e-4, atol=1e-5)


def test_two_processes_end_where_one_does(tmp_path):
    """torchrun on the CPU, batch statistics included: float32, no dropout.

    A small learning rate, since rounding grows a hundredfold a step where it is large.
    """
    settings = [*TINY, "--dropout", "0", "--train_limit", "48", "--data_dir"]
    folders = {name: tmp_path / name for name in ("one", "two", "doubled")}
    for script in STEPS[:3]:
        assert run(script, *settings, folders["one"]).status == 0
    for name in ("two", "doubled"):
        (folders[name] / "developer").mkdir(parents=True)
        (folders[name] / "delivery").symlink_to(folders["one"] / "delivery")
    for name, lr in (("one", 3e-4), ("doubled", 6e-4)):
        assert run("train_with_ac.py", *settings, folders[name], "--lr", lr).status == 0
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         "train_with_ac.py", *settings, str(folders["two"]), "--lr", "3e-4"],
        cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "2 processes" in result.stdout
    assert result.stdout.count("epoch   2") == 1                   # one of them speaks
    one, two, doubled = (
        torch.cat([weight.flatten() for name, weight in torch.load(
            folder / "developer" / "with_ac.pt", weights_only=True)["network"].items()
            if name.endswith(("weight", "bias")) and name.startswith("behind")])
        for folder in folders.values())
    assert (one - two).norm() <= 1e-4 * one.norm()
    # What gradients that are summed and not averaged would give is far outside that bound.
    assert (one - doubled).norm() > 1e-3 * one.norm()


def test_batch_norm_over_processes_is_torchs_on_one(tmp_path):
    """One process: mean, variance and gradients of nn.BatchNorm2d."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0,
                                         world_size=1)
    try:
        own, torchs = CPUSyncBatchNorm2d(5), nn.BatchNorm2d(5)
        x = torch.randn(6, 5, 3, 3)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        for layer, y in zip((own, torchs), inputs, strict=True):
            layer(y).square().mul(torch.arange(5.0).view(-1, 1, 1)).sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own.running_var, torchs.running_var)
        torch.testing.assert_close(own.running_mean, torchs.running_mean)
    finally:
        torch.distributed.destroy_process_group()
