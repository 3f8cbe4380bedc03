"""What only a CUDA device can show; skipped, and said so, where there is none."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from images import shapes
from images.datasets import CIFAR, normalise
from models.build import build
from mole.aug_conv import AugConv
from mole.morphing import relative_error
from parameter import Parameters
from tests.inference import record
from tests.steps import STEPS, TINY, run
from tests.test_processes import in_two
from utils import training
from utils.devices import Context, choose_dtype, share_network, use_full_float32
from utils.examples import Data, Features, FrozenLayer, PreparedImages, Source
from utils.networks import seed_everything
from utils.records import Run, training_settings
from utils.training import make_optimizer, split_into_batches, train, train_epoch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
SETTINGS = (*TINY[:TINY.index("--device")], "--device", "cuda")
STRIDED = "tests.own_networks:strided"


@pytest.fixture
def imprecise():
    """Every switch of precision as a user may have set it."""
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    yield
    use_full_float32()


@pytest.mark.parametrize("weight, out_shape, step", [
    ((256, 256), (4, 8, 8), (0, 0)), ((256, 4, 8, 8), (4, 32, 32), (4, 4))],
    ids=["matrix", "tiles"])
def test_aug_conv_computes_in_full_float32(imprecise, weight, out_shape, step):
    use_full_float32()
    weight = torch.randn(weight, device=CUDA)
    images = torch.randn(64, 256, *(4, 4) * (weight.ndim == 4), device=CUDA)
    with torch.autocast("cuda", torch.bfloat16):
        result = AugConv(weight, out_shape, step=step)(images)
    exact = AugConv(weight.double(), out_shape, step=step)(images)
    assert result.dtype == torch.float32 and relative_error(result, exact) < 1e-6


def test_a_convolution_and_its_gradient_are_float32(imprecise):
    use_full_float32()
    layer, x = nn.Conv2d(64, 64, 3, padding=1).to(CUDA), torch.randn(8, 64, 16, 16, device=CUDA)
    layer(x).square().sum().backward()
    exact = nn.Conv2d(64, 64, 3, padding=1).double().to(CUDA)
    exact.load_state_dict(layer.state_dict())
    exact(x.double()).square().sum().backward()
    assert relative_error(layer.weight.grad, exact.weight.grad) < 1e-5


def shapes_for(context, count, side, test=0) -> Data:
    """The first shapes to train on, and so many more to test on; none: the same ones."""
    images, labels = shapes.draw(count + test, side, seed=0)
    prepare = partial(normalise, mean=CIFAR[0], std=CIFAR[1])
    tested = slice(count, None) if test else slice(None)
    return Data(PreparedImages(Source(images[:count], prepare), labels[:count], context),
                PreparedImages(Source(images[tested], prepare), labels[tested], context))


def run_of(folder, p, context) -> Run:
    return Run(folder, "pretrained", training_settings(p, context, 0.0), {}, [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_it_learns(tmp_path, dtype):
    """The embedded shapes, ten classes: chance is 10%."""
    p = Parameters(model="vgg11", epochs=4, batch_size=32, lr=0.003, dropout=0.1,
                   schedule="onecycle")
    context = Context(CUDA, dtype)
    seed_everything(0)
    network = build("vgg11", 10, (3, 32, 32), 0.1)
    curve = train(network, shapes_for(context, 1600, 32, test=400), p,
                  run_of(tmp_path, p, context), context)
    assert curve[-1]["test_accuracy"] > 0.3 and curve[-1]["train_loss"] < curve[0]["train_loss"]


def train_exactly(rank, path, device, world=1, compiled=False):
    """Two epochs of a small network with batch norm in float64; its weights go to a file."""
    context = Context(device, torch.float64, rank, world)
    p = Parameters(epochs=2, batch_size=8, lr=0.01)
    images, labels = shapes.draw(86, 8, seed=0)
    seed_everything(p.seed)
    network = build(STRIDED, 10, (3, 8, 8)).double().to(device)
    data = PreparedImages(Source(images.double() / 255 - 0.5, nn.Identity()), labels, context)
    batches = split_into_batches(torch.arange(86), p.batch_size, world)
    optimizer, scheduler = make_optimizer(network, p, p.weight_decay, len(batches))
    module = share_network(network, context, compiled).train()
    losses = []
    for epoch in (1, 2):
        losses.append(train_epoch(module, data, p, epoch, optimizer, scheduler, context))
    if rank == 0:
        torch.save({"network": network.state_dict(), "losses": losses}, path)


def check_same(tmp_path, one, other, tolerance):
    one, other = (torch.load(tmp_path / f"{name}.pt", map_location="cpu")
                  for name in (one, other))
    assert one["losses"] == pytest.approx(other["losses"], rel=tolerance)
    torch.testing.assert_close(one["network"], other["network"], rtol=tolerance, atol=tolerance)


def test_it_trains_as_the_cpu_does(tmp_path):
    train_exactly(0, tmp_path / "cpu.pt", CPU)
    train_exactly(0, tmp_path / "cuda.pt", CUDA)
    check_same(tmp_path, "cpu", "cuda", 1e-4)


def test_graphs_train_as_eager_does(tmp_path):
    train_exactly(0, tmp_path / "eager.pt", CUDA)
    train_exactly(0, tmp_path / "graphs.pt", CUDA, compiled=True)
    check_same(tmp_path, "eager", "graphs", 1e-4)


def test_graphs_draw_new_dropout():
    network = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5)).to(CUDA).train()
    compiled = share_network(network, Context(CUDA), compiled=True)
    x = torch.ones(16, 64, device=CUDA)
    drawn = [compiled(x).eq(0).clone() for _ in range(6)]
    assert not any(torch.equal(a, b) for a, b in pairwise(drawn))


def test_two_processes_on_one_device_train_as_one_does(tmp_path):
    """With batch norm: on CUDA it sees the images of all. Gloo carries what NCCL refuses to between
    two processes on one device."""
    train_exactly(0, tmp_path / "one.pt", CUDA)
    in_two(train_exactly, tmp_path, tmp_path / "two.pt", CUDA, 2)
    check_same(tmp_path, "one", "two", 1e-4)


def test_mirrored_features_of_several_providers():
    """Images, labels and flips are on different devices."""
    context = Context(CUDA)
    parts, labels = [], []
    for count in (9, 4):
        layers = [AugConv(torch.randn(12, 4 * 3 * 3), (4, 3, 3)) for _ in range(2)]
        parts.append((FrozenLayer(*layers), Source(torch.randn(count, 12), nn.Identity())))
        labels.append(torch.zeros(count, dtype=torch.int64))
    each = Features(parts, labels, context)
    kept = each.kept(mirrored=True)
    index = torch.tensor([12, 3, 9, 0, 8], device=CUDA)
    flipped = torch.tensor([True, False, True, False, True])
    torch.testing.assert_close(each.take(index, flipped), kept.take(index, flipped))


@pytest.mark.parametrize("core", [(), ("--tile", "4", "--morph_distribution", "orthogonal")],
                         ids=["kappa 1", "tiles"])
def test_the_five_steps(tmp_path, core):
    for script in STEPS:
        options = core if script == "gen_morphing_matrix.py" else ()
        result = run(script, *options, "--data_dir", tmp_path, settings=SETTINGS)
        assert result.status == 0, result.err
    assert len(record(tmp_path, "with_ac")["curve"]) == 2


def test_augmented_training_behind_aug_conv(tmp_path):
    options = {"gen_morphing_matrix.py": ("--tile", "4", "--morph_distribution", "orthogonal"),
               "gen_augconv.py": ("--mirrored",),
               "train_with_ac.py": ("--augment", "crop_flip", "--feature_cache", "off")}
    for script in STEPS[:4]:
        result = run(script, *options.get(script, ()), "--data_dir", tmp_path, settings=SETTINGS)
        assert result.status == 0, result.err


class Stopped(Exception):
    pass


def test_a_stopped_run_ends_close_to_an_unbroken_one(tmp_path, monkeypatch):
    """Close, and not the same: CUDA kernels may not be deterministic."""
    context = Context(CUDA)
    p = Parameters(epochs=3, batch_size=16, lr=0.01)
    monkeypatch.setitem(training.SECONDS_BETWEEN_CHECKPOINTS, "cuda", 0)

    def weights(folder):
        seed_everything(0)
        network = build(STRIDED, 10, (3, 8, 8))
        train(network, shapes_for(context, 128, 8), p, run_of(folder, p, context), context)
        return torch.cat([weight.flatten().cpu() for weight in network.parameters()])

    true_save = training.save_checkpoint

    def stop(*given):
        true_save(*given)
        raise Stopped

    whole = weights(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(training, "save_checkpoint", stop)
        weights(tmp_path / "stopped")
    assert F.cosine_similarity(whole, weights(tmp_path / "stopped"), 0) > 0.999


def test_bfloat16_is_chosen_where_the_device_has_it():
    fast = torch.cuda.get_device_capability(CUDA) >= (8, 0)
    assert (choose_dtype("auto", CUDA) == torch.bfloat16) == fast
