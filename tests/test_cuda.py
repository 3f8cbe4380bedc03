"""What only a CUDA device can show; skipped, and said so, where there is none."""

import json
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from images import shapes
from models.build import build
from mole.aug_conv import AugConv
from mole.morphing import relative_error
from parameter import Parameters
from tests.steps import STEPS, TINY, run
from tests.test_processes import in_two
from utils.devices import compute_dtype, full_float32
from utils.records import Run
from utils.training import (
    Data,
    batches,
    in_processes,
    logits_of,
    optimizer_and_schedule,
    seed_everything,
    train,
    train_epoch,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA, CPU = torch.device("cuda"), torch.device("cpu")
SETTINGS = [*TINY[:TINY.index("--device")], "--device", "cuda"]


@pytest.fixture
def imprecise():
    """Every switch of precision as a user may have set it."""
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    yield
    full_float32()


@pytest.mark.parametrize("weight, out_shape, step", [
    ((256, 256), (4, 8, 8), (0, 0)), ((256, 4, 8, 8), (4, 32, 32), (4, 4))])
def test_aug_conv_computes_in_full_float32(imprecise, weight, out_shape, step):
    full_float32()
    weight = torch.randn(weight, device=CUDA)
    images = torch.randn(64, 256, *(4, 4) * (weight.ndim == 4), device=CUDA)
    with torch.autocast("cuda", torch.bfloat16):
        result = AugConv(weight, out_shape, step=step)(images)
    exact = AugConv(weight.double(), out_shape, step=step)(images)
    assert result.dtype == torch.float32 and relative_error(result, exact) < 1e-6


def test_a_convolution_and_its_gradient_are_float32(imprecise):
    full_float32()
    layer, x = nn.Conv2d(64, 64, 3, padding=1).to(CUDA), torch.randn(8, 64, 16, 16, device=CUDA)
    layer(x).square().sum().backward()
    exact = nn.Conv2d(64, 64, 3, padding=1).double().to(CUDA)
    exact.load_state_dict(layer.state_dict())
    exact(x.double()).square().sum().backward()
    assert relative_error(layer.weight.grad, exact.weight.grad) < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(tmp_path, precision):
    """The embedded shapes, ten classes: chance is 10%."""
    p = Parameters(model="vgg11", epochs=4, batch_size=32, lr=0.003, dropout=0.1,
                   schedule="onecycle", precision=precision)
    images, labels = shapes.draw(2000, 32, seed=0)
    data = Data(images[:1600], labels[:1600], images[1600:], labels[1600:],
                lambda x: x.float() / 255 - 0.5)
    seed_everything(0)
    network = build("vgg11", 10, (3, 32, 32), 0.1)
    curve = train(network, data, p, Run(tmp_path, "pretrained", {}), 0.0, CUDA)
    assert curve[-1]["test_accuracy"] > 0.3 and curve[-1]["train_loss"] < curve[0]["train_loss"]


def exact_training(path, device, **settings):
    """Two epochs of a small network with batch norm in float64; its weights go to a file."""
    p = Parameters(epochs=2, batch_size=8, lr=0.01, precision="fp32", **settings)
    images, labels = shapes.draw(86, 8, seed=0)
    images = images.double() / 255 - 0.5
    seed_everything(p.seed)
    network = build("tests.own_networks:strided", 10, (3, 8, 8)).double().to(device)
    data = Data(images, labels, images, labels, lambda x: x)
    optimizer, scheduler = optimizer_and_schedule(network, p, p.weight_decay,
                                                  len(batches(labels, p.batch_size)))
    module = in_processes(network, p, device).train()
    forward = logits_of(module, data.prepare, torch.float32, device)
    losses = [train_epoch(forward, data, p, epoch, optimizer, scheduler, device)
              for epoch in (1, 2)]
    torch.save({"network": network.state_dict(), "losses": losses}, path)


def same(tmp_path, one, other, tolerance):
    one, other = (torch.load(tmp_path / f"{n}.pt", map_location="cpu") for n in (one, other))
    assert one["losses"] == pytest.approx(other["losses"], rel=tolerance)
    for name in one["network"]:
        torch.testing.assert_close(one["network"][name], other["network"][name], rtol=tolerance,
                                   atol=tolerance)


def test_it_trains_as_the_cpu_does(tmp_path):
    exact_training(tmp_path / "cpu.pt", CPU)
    exact_training(tmp_path / "cuda.pt", CUDA)
    same(tmp_path, "cpu", "cuda", 1e-4)         # the logits pass through float32


def test_graphs_train_as_eager_does(tmp_path):
    exact_training(tmp_path / "eager.pt", CUDA)
    exact_training(tmp_path / "graphs.pt", CUDA, compile=True)
    same(tmp_path, "eager", "graphs", 1e-4)


def test_graphs_draw_new_dropout():
    network = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5)).to(CUDA).train()
    compiled = in_processes(network, Parameters(compile=True), CUDA)
    x = torch.ones(16, 64, device=CUDA)
    drawn = [compiled(x).eq(0).clone() for _ in range(6)]
    assert not any(torch.equal(a, b) for a, b in pairwise(drawn))


def test_two_processes_on_one_device_train_as_one_does(tmp_path):
    """Gloo carries what NCCL refuses to between two processes on one device."""
    exact_training(tmp_path / "one.pt", CUDA)
    in_two(exact_training, tmp_path, tmp_path / "two.pt", CUDA)
    same(tmp_path, "one", "two", 1e-4)


@pytest.mark.parametrize("core", [(), ("--tile", "4", "--morph_distribution", "orthogonal")])
def test_the_five_steps(tmp_path, core):
    for script in STEPS:
        result = run(script, *(core if script == STEPS[1] else ()), "--data_dir", tmp_path,
                     settings=SETTINGS)
        assert result.status == 0, result.err
    result = json.loads((tmp_path / "developer" / "with_ac.json").read_text())
    assert len(result["curve"]) == 2


def test_a_stopped_run_ends_close_to_an_unbroken_one(tmp_path):
    """Close, and not the same: CUDA kernels may not be deterministic."""
    def weights(folder, *stops):
        p = Parameters(epochs=3, batch_size=16, lr=0.01, precision="fp32")
        images, labels = shapes.draw(128, 8, seed=0)
        data = Data(images, labels, images, labels, lambda x: x.float() / 255 - 0.5)
        run = Run(folder, "pretrained", {})
        folder.mkdir()
        for epochs in (*stops, 3):
            seed_everything(0)
            network = build("tests.own_networks:strided", 10, (3, 8, 8))
            train(network, data, Parameters(**{**vars(p), "epochs": epochs}), run, 0.0, CUDA)
        return torch.cat([w.flatten().cpu() for w in network.parameters()])

    whole, stopped = weights(tmp_path / "a"), weights(tmp_path / "b", 1)
    assert F.cosine_similarity(whole, stopped, 0) > 0.999


def test_bfloat16_is_chosen_where_the_device_has_it():
    fast = torch.cuda.get_device_capability(CUDA) >= (8, 0)
    assert (compute_dtype(Parameters(), CUDA) == torch.bfloat16) == fast
