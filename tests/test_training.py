"""The training loop: what it computes."""

import copy

import pytest
import torch
from torch import nn

from images import shapes
from models.build import build
from mole.aug_conv import AugConv
from mole.first_layer import BehindFirstLayer, find
from mole.morphing import compose_by_tiles, draw_core, morph, secret_generator
from parameter import Parameters
from utils import training
from utils.delivery import restored, standardiser
from utils.devices import compute_dtype
from utils.records import Run, identity
from utils.training import (
    Data,
    Features,
    batches,
    optimizer_and_schedule,
    seed_everything,
    through_frozen_layers,
    train,
    train_epoch,
)

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
    run = Run(folder, "pretrained", identity(p, "pretrain.py"))
    curve = train(network, data or task(), p, run, 0.0, CPU)
    return network, curve


def test_it_learns_and_tells_the_curve(tmp_path):
    _, curve = trained(tmp_path, epochs=12, lr=0.15)
    assert [e["epoch"] for e in curve] == list(range(1, 13))
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


def test_the_mean_loss_is_of_the_images_that_were_trained_on():
    """33 images in batches of 16: the last one is left out, and counts for nothing."""
    network, data = nn.Linear(8, 2), task(33)
    with torch.no_grad():
        network.weight.zero_(), network.bias.zero_()
    p = Parameters(batch_size=16, lr=0)
    optimizer, scheduler = optimizer_and_schedule(network, p, 0, 2)
    loss = train_epoch(network, data, p, 1, optimizer, scheduler, CPU)
    assert loss == pytest.approx(0.6931472)              # log 2: both classes are as likely


@pytest.mark.parametrize("scale, dtype", [(1.0, torch.float32), (0.25, torch.int8)])
def test_standardised_with_the_training_images_alone(scale, dtype):
    train_set, test_set = (5 + 3 * torch.randn(1500, 6)) / scale, torch.full((2, 6), 5.0) / scale
    fair = standardiser(train_set.to(dtype), scale)
    result = fair(restored(train_set.to(dtype), scale))
    torch.testing.assert_close(result.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std(0), torch.ones(6))
    assert fair(restored(test_set.to(dtype), scale)).abs().max() < 0.3
    assert result.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_the_same_kept_or_computed(dtype):
    """Of two deliveries, too, whose rows are read in any order."""
    layers = [(AugConv(torch.randn(12, 4 * 3 * 3), (4, 3, 3)),
               Data(torch.randn(n, 12), torch.full((n,), n), torch.randn(5, 12), torch.zeros(5),
                    lambda x: x)) for n in (9, 4)]
    kept, each = (through_frozen_layers(layers, cache, dtype, CPU) for cache in ("on", "off"))
    assert torch.equal(kept.train_labels, torch.tensor([9] * 9 + [4] * 4))
    assert isinstance(kept.train, torch.Tensor) and isinstance(each.train, Features)
    for index in (slice(0, 13), slice(7, 11), torch.tensor([12, 3, 9, 0, 8])):
        first, second = kept.train[index], each.train[index]
        assert first.dtype == second.dtype == dtype and first.shape == second.shape
        torch.testing.assert_close(first, second)
    expected = layers[1][0](layers[1][1].train[:1]).to(dtype)
    torch.testing.assert_close(kept.train[9:10], expected)
    assert kept.train.is_contiguous(memory_format=torch.channels_last)


def test_training_behind_aug_conv_is_training_behind_the_plain_frozen_layer():
    """Two epochs from the same weights, in float64: losses, weights and predictions agree."""
    images, labels = shapes.draw(48, 16, seed=0)
    images = images.double() / 255 - 0.5
    seed_everything(0)
    network = build("tests.own_networks:small_vit", 10, (3, 16, 16)).double()
    layer = network.get_submodule(find(network, (3, 16, 16))).requires_grad_(False)
    core = draw_core(3 * 8 * 8, "orthogonal", secret_generator(0, 0)).double()
    parts = compose_by_tiles(layer, torch.linalg.inv(core), 8, (3, 16, 16), torch.arange(32))
    morphed = morph(images, core, 8)

    def trained_behind(first, inputs):
        p = Parameters(epochs=2, batch_size=16, lr=0.01)
        data = Data(inputs, labels, inputs, labels, lambda x: x)
        rest = BehindFirstLayer(copy.deepcopy(network), (3, 16, 16))
        optimizer, scheduler = optimizer_and_schedule(rest, p, 1e-3, 3)
        def forward(x):
            return rest(first(x))
        losses = [train_epoch(forward, data, p, epoch, optimizer, scheduler, CPU)
                  for epoch in (1, 2)]
        return losses, rest.state_dict(), forward(inputs).detach()

    plain, behind = trained_behind(layer, images), trained_behind(
        AugConv(**parts, bias=layer.bias), morphed)
    assert plain[0] == pytest.approx(behind[0], rel=1e-6) and plain[0][1] < plain[0][0]
    torch.testing.assert_close(plain[1:], behind[1:], rtol=1e-9, atol=1e-9)
    assert not torch.equal(plain[1]["network.heads.head.weight"], network.heads.head.weight)


def test_precision_can_be_chosen():
    assert compute_dtype(Parameters(precision="fp32"), CPU) == torch.float32
    assert compute_dtype(Parameters(precision="bf16"), CPU) == torch.bfloat16


def test_bfloat16_trains_as_well(tmp_path):
    _, curve = trained(tmp_path, epochs=12, lr=0.15, precision="bf16")
    assert curve[-1]["test_accuracy"] > 0.8


@pytest.mark.parametrize("seconds, written", [(0, [1, 2, 3]), (1e9, [3])])
def test_checkpoints_are_written_so_many_seconds_apart(tmp_path, monkeypatch, seconds, written):
    """And after the last epoch; on the CPU after every one."""
    epochs = []
    assert training.BETWEEN["cpu"] == 0
    monkeypatch.setitem(training.BETWEEN, "cpu", seconds)
    monkeypatch.setattr(training, "save_checkpoint", lambda *given: epochs.append(len(given[-1])))
    trained(tmp_path, epochs=3)
    assert epochs == written
