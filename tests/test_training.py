"""The training loop: what it computes."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from images import shapes
from models.build import build
from mole.aug_conv import AugConv
from mole.first_layer import BehindFirstLayer, describe, find_first_layer
from mole.morphing import draw_core, morph, secret_generator
from parameter import Parameters
from utils import training
from utils.delivery import as_morphed, quantise, standardiser
from utils.devices import Context, choose_dtype, use_full_float32
from utils.errors import UserError
from utils.examples import (
    Data,
    Features,
    FrozenLayer,
    KeptFeatures,
    PreparedImages,
    Source,
    keep_features,
)
from utils.networks import Model, sample_logits, seed_everything
from utils.records import Run, training_settings
from utils.training import (
    Augmentation,
    augment_features,
    augment_images,
    make_forward,
    make_optimizer,
    split_into_batches,
    train,
    train_epoch,
)

CPU = torch.device("cpu")
CONTEXT = Context(CPU)


def unchanged(images):
    return images


def examples(rows, labels, context=CONTEXT):
    """Rows of numbers as a network takes them."""
    return PreparedImages(Source(rows, unchanged), labels, context)


def task(count=256, test=400):
    """Images whose class is their brighter half: learnt in seconds by a small network."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count + test, 8, generator=generator)
    labels = (images[:, :4].sum(1) > images[:, 4:].sum(1)).long()
    return Data(examples(images[:count], labels[:count]), examples(images[count:], labels[count:]))


def small_network():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))


def trained(folder, data=None, network=None, context=CONTEXT, augmentation=None, **settings):
    p = Parameters(**(dict(epochs=3, batch_size=16, lr=0.05) | settings))
    seed_everything(p.seed)
    network = network or small_network()
    run = Run(folder, "pretrained", training_settings(p, context, weight_decay=0.0), {}, [])
    curve = train(network, data or task(), p, run, context, augmentation)
    return network, curve


# What it computes

def test_it_learns_and_tells_the_curve(tmp_path):
    _, curve = trained(tmp_path, epochs=12, lr=0.15)
    assert [epoch["epoch"] for epoch in curve] == list(range(1, 13))
    assert curve[-1]["train_loss"] < 0.3 < curve[0]["train_loss"]
    assert curve[-1]["test_accuracy"] > 0.8


def test_same_seed_same_weights_other_seed_others(tmp_path):
    first, second, other = (trained(tmp_path, seed=seed, restart=True)[0][0].weight
                            for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_the_images_are_shuffled_in_each_epoch(tmp_path):
    """The reference's loader never shuffles: the order of the batches must differ."""
    data, seen = task(), []

    class Watching(nn.Linear):
        def forward(self, x):
            if self.training:
                seen.append(x.clone())
            return super().forward(x)

    def by_first_entry(rows):
        return rows[rows[:, 0].argsort()]

    trained(tmp_path, data, nn.Sequential(Watching(8, 2)), epochs=2)
    first, second = torch.cat(seen[:16]), torch.cat(seen[16:])
    assert not torch.equal(first, second)
    assert not torch.equal(first, data.train.source.rows)
    assert torch.equal(by_first_entry(first), by_first_entry(second))    # each image once an epoch


def test_learning_rate_is_halved_every_decay_epochs(tmp_path):
    trained(tmp_path, epochs=5, decay_epochs=2, lr=0.4)
    state = torch.load(tmp_path / "pretrained.checkpoint.pt", weights_only=True)
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.1
    assert state["optimizer"]["param_groups"][0]["momentum"] == 0.9


def test_one_cycle_rises_to_its_peak_and_falls():
    p = Parameters(epochs=4, lr=0.2, schedule="onecycle")
    optimizer, scheduler = make_optimizer(nn.Linear(2, 2), p, 0, 10)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(0.2, rel=0.01) and rates[0] < 0.02 and rates[-1] < 0.01
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_a_batch_of_one_left_over_is_dropped():
    """33 images in batches of 16: the last one is left out, and counts for nothing."""
    network, data = nn.Linear(8, 2), task(33)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.zero_()
    p = Parameters(batch_size=16, lr=0)
    assert [len(batch) for batch in split_into_batches(torch.arange(33), 16, 1)] == [16, 16]
    optimizer, scheduler = make_optimizer(network, p, 0, 2)
    loss = train_epoch(make_forward(network, CONTEXT), data.train, p, 1, optimizer, scheduler,
                       CONTEXT)
    assert loss == pytest.approx(math.log(2))            # both classes are as likely


@pytest.mark.parametrize("scale, dtype", [(1.0, torch.float32), (0.25, torch.int8)],
                         ids=["float32", "int8"])
def test_standardised_with_the_training_images_alone(scale, dtype):
    train_set, test_set = (5 + 3 * torch.randn(1500, 6)) / scale, torch.full((2, 6), 5.0) / scale
    standardise = standardiser(train_set.to(dtype), scale)
    result = standardise(as_morphed(train_set.to(dtype), scale))
    torch.testing.assert_close(result.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std(0), torch.ones(6))
    assert standardise(as_morphed(test_set.to(dtype), scale)).abs().max() < 0.3
    assert result.dtype == torch.float32


def test_what_is_stored_of_a_morphed_image_is_read_as_it_was():
    """float32 exactly; int8 within half a step, the largest entry included."""
    morphed = torch.randn(5, 12)
    assert as_morphed(quantise(morphed, "float32", 1.0), 1.0).equal(morphed)
    scale = float(morphed.abs().max()) / 127
    restored = as_morphed(quantise(morphed, "int8", scale), scale)
    assert (restored - morphed).abs().max() <= scale / 2 * (1 + 1e-5)


# Features of a frozen first layer

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_features_are_the_same_kept_or_computed(dtype):
    """Of two deliveries, too, whose rows are read in any order, mirrored or not."""
    context = Context(CPU, dtype)
    parts, labels = [], []
    for count in (9, 4):
        layers = [AugConv(torch.randn(12, 4 * 3 * 3), (4, 3, 3)) for _ in range(2)]
        parts.append((FrozenLayer(*layers), Source(torch.randn(count, 12), unchanged)))
        labels.append(torch.full((count,), count))

    def data(cache):
        train_part, test_part = (Features(parts, labels, context) for _ in range(2))
        return keep_features(train_part, test_part, cache, True, context).train

    kept, each = data("on"), data("off")
    assert isinstance(kept, KeptFeatures) and isinstance(each, Features)
    assert torch.equal(each.labels, torch.tensor([9] * 9 + [4] * 4))
    some = torch.tensor([12, 3, 9, 0, 8])
    flipped = torch.tensor([True, False, True, False, True])
    for index, flips in ((slice(0, 13), None), (slice(7, 11), None), (some, None),
                         (some, flipped)):
        first, second = kept.take(index, flips), each.take(index, flips)
        assert first.dtype == second.dtype == dtype and first.shape == second.shape
        torch.testing.assert_close(first, second)
    layer, source = parts[1]
    torch.testing.assert_close(kept.take(slice(9, 10)), layer.layer(source.rows[:1]).to(dtype))
    torch.testing.assert_close(kept.take(some, flipped)[:1],
                               layer.mirrored(source.rows[3:4]).flip(3).to(dtype))
    assert kept.features.is_contiguous(memory_format=torch.channels_last)


def test_what_is_kept_is_not_changed_by_an_activation_in_place():
    kept = KeptFeatures(torch.randn(6, 2, 3, 3), None, torch.zeros(6))
    before = kept.features.clone()
    for index in (slice(0, 6), torch.arange(6)):
        torch.relu_(kept.take(index))
    assert kept.features.equal(before)


class TwoEpochs:
    """Two epochs from the same weights, in float64, of a network behind its frozen first layer."""

    def __init__(self, layer, rows, labels, network, augmentation):
        context = Context(CPU, torch.float64)
        p = Parameters(epochs=2, batch_size=16, lr=0.01)
        data = Features([(layer, Source(rows, unchanged))], [labels], context)
        rest = BehindFirstLayer(copy.deepcopy(network), (3, 16, 16))
        optimizer, scheduler = make_optimizer(rest, p, 1e-3, 3)
        self.losses = []
        for epoch in (1, 2):
            self.losses.append(train_epoch(rest, data, p, epoch, optimizer, scheduler, context,
                                           augmentation))
        self.weights = rest.state_dict()
        self.predictions = rest.eval()(data.take(slice(0, len(labels)))).detach()


@pytest.mark.parametrize("augment", ["none", "crop", "crop_flip"])
def test_training_behind_aug_conv_is_training_behind_the_plain_frozen_layer(augment):
    """Losses, weights and predictions of two epochs agree, augmented in the same way or not."""
    images, labels = shapes.draw(48, 16, seed=0)
    images = images.double() / 255 - 0.5
    seed_everything(0)
    network = build("tests.own_networks:small_vit", 10, (3, 16, 16)).double()
    layer = network.get_submodule(find_first_layer(network, (3, 16, 16))).requires_grad_(False)
    plain = describe(layer)
    core = draw_core(3 * 8 * 8, "orthogonal", secret_generator(0, 0)).double()
    inverse, shape = torch.linalg.inv(core), (3, 16, 16)
    aug_conv = AugConv.compose(plain, inverse, shape, tile=8)
    mirrored = AugConv.compose(plain.mirrored(shape), inverse, shape, tile=8)
    augmentation = None
    if augment != "none":
        augmentation = Augmentation((1, 1), (1, 1), augment == "crop_flip", layer.bias.detach())

    one = TwoEpochs(FrozenLayer(plain, plain.mirrored(shape)), images, labels, network,
                    augmentation)
    other = TwoEpochs(FrozenLayer(aug_conv, mirrored), morph(images, core, 8), labels, network,
                      augmentation)
    assert one.losses == pytest.approx(other.losses, rel=1e-6) and one.losses[1] < one.losses[0]
    torch.testing.assert_close(one.weights, other.weights, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.predictions, other.predictions, rtol=1e-9, atol=1e-9)
    head = network.heads.head.weight
    assert not torch.equal(one.weights["network.heads.head.weight"], head)


# Augmentation

def test_shifts_and_flips_are_drawn_from_seed_and_epoch_alone():
    drawn = Augmentation((4, 4), flip=True)
    shifts, flips = drawn.draw(1000, seed=1, epoch=2)
    torch.rand(7)
    again, again_flips = drawn.draw(1000, seed=1, epoch=2)
    assert shifts.equal(again) and flips.equal(again_flips)
    assert not shifts.equal(drawn.draw(1000, seed=1, epoch=3)[0])
    assert not shifts.equal(drawn.draw(1000, seed=2, epoch=2)[0])
    assert sorted(set(shifts.flatten().tolist())) == list(range(-4, 5))
    assert 400 < int(flips.sum()) < 600
    strided, none = Augmentation((1, 1), step=(4, 4)).draw(1000, seed=1, epoch=2)
    assert set(strided.flatten().tolist()) == {-4, 0, 4} and none is None


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_rows_and_columns_are_shifted_by_their_own_strides(stride, seed):
    """Images by whole strides of up to four pixels, or one stride; features by as many entries."""
    p = Parameters(augment="crop")
    pixels, _ = augment_images(p, stride).draw(300, seed, epoch=1)
    entries, _ = augment_features(p, stride, None).draw(300, seed, epoch=1)
    for axis in (0, 1):
        most = max(1, 4 // stride[axis])
        assert set(entries[:, axis].tolist()) == set(range(-most, most + 1))
        assert torch.equal(pixels[:, axis], stride[axis] * entries[:, axis])


def test_shifts_of_equal_strides_are_drawn_together():
    """As in all runs so far: a run that goes on must draw what it would have drawn."""
    state = np.random.SeedSequence((1, 2, 2**32)).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0]) >> 1)
    shifts = torch.randint(-2, 3, (50, 2), generator=generator)
    flips = torch.rand(50, generator=generator) < 0.5
    drawn, drawn_flips = Augmentation((2, 2), (2, 2), flip=True).draw(50, seed=1, epoch=2)
    assert torch.equal(drawn, 2 * shifts) and torch.equal(drawn_flips, flips)


# Precision

def test_precision_can_be_chosen():
    assert choose_dtype("fp32", CPU) == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16


def test_full_float32_is_chosen_without_a_word():
    """PyTorch 2.9 would warn of another interface, before every message of a step."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use_full_float32()


def test_a_network_may_still_ask_for_the_earlier_switch_of_tf32():
    """PyTorch refuses to read it where its switches contradict each other."""
    use_full_float32()
    assert torch.backends.cudnn.allow_tf32 is False
    with torch.backends.cudnn.flags(enabled=True):
        pass


def test_bfloat16_trains_as_well(tmp_path):
    _, curve = trained(tmp_path, epochs=12, lr=0.15, context=Context(CPU, torch.bfloat16))
    assert curve[-1]["test_accuracy"] > 0.8


# Checkpoints

@pytest.mark.parametrize("seconds, written", [(0, [1, 2, 3]), (1e9, [3])],
                         ids=["after every epoch", "after the last"])
def test_checkpoints_are_written_so_many_seconds_apart(tmp_path, monkeypatch, seconds, written):
    """On the CPU after every epoch."""
    epochs = []
    assert training.SECONDS_BETWEEN_CHECKPOINTS["cpu"] == 0
    monkeypatch.setitem(training.SECONDS_BETWEEN_CHECKPOINTS, "cpu", seconds)
    monkeypatch.setattr(training, "save_checkpoint", lambda *given: epochs.append(len(given[-1])))
    trained(tmp_path, epochs=3)
    assert epochs == written


class Stopped(Exception):
    pass


def half_frozen():
    """A network whose first layer is not trained."""
    network = small_network()
    network[0].requires_grad_(False)
    return network


class WithUnusedPart(nn.Sequential):
    """A network with a layer that its output does not depend on: it has no momentum."""

    def __init__(self):
        super().__init__(*small_network())
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        for layer in list(self)[:-1]:
            x = layer(x)
        return x


@pytest.mark.parametrize("make_network", [small_network, half_frozen, WithUnusedPart],
                         ids=["trained whole", "with a frozen part", "with an unused part"])
@pytest.mark.parametrize("schedule", ["halve", "onecycle"])
def test_a_run_that_goes_on_ends_as_if_it_had_never_stopped(tmp_path, monkeypatch, schedule,
                                                            make_network):
    """Bit for bit, momentum, dropout and schedule included; a frozen part stays as it was."""
    whole, _ = trained(tmp_path / "whole", network=made_from_seed(make_network), epochs=4,
                       schedule=schedule)
    true_save = training.save_checkpoint

    def stop_after_two(*given):
        true_save(*given)
        if len(given[-1]) == 2:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(training, "save_checkpoint", stop_after_two)
        trained(tmp_path / "stopped", network=made_from_seed(make_network), epochs=4,
                schedule=schedule)
    resumed, curve = trained(tmp_path / "stopped", network=made_from_seed(make_network), epochs=4,
                             schedule=schedule)
    assert [epoch["epoch"] for epoch in curve] == [1, 2, 3, 4]
    torch.testing.assert_close(whole.state_dict(), resumed.state_dict(), rtol=0, atol=0)
    is_frozen = make_network is half_frozen
    assert whole[0].weight.equal(made_from_seed(make_network)[0].weight) == is_frozen


def made_from_seed(make_network):
    seed_everything(5)
    return make_network()


# Networks

def test_a_sample_of_logits_tells_networks_apart_and_changes_nothing():
    def network(activation=nn.ReLU, dropout=0.5):
        seed_everything(3)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), activation(),
                             nn.Dropout(dropout), nn.Flatten(), nn.Linear(144, 20))

    own, by_name = (Model(name, 20, (3, 8, 8), 0.5) for name in ("mine:net", "vgg_small"))
    one = network()
    before = copy.deepcopy(one.state_dict())
    state = torch.get_rng_state()
    sample = sample_logits(one, own)
    assert sample == sample_logits(one, own) == sample_logits(network(), own)
    assert sample != sample_logits(network(nn.Tanh), own)
    assert sample != sample_logits(network(dropout=0.1), own)    # which shows in training alone
    assert sample[:10] == sample_logits(one, by_name)    # whose dropout is a setting
    assert one.training and torch.get_rng_state().equal(state)
    torch.testing.assert_close(one.state_dict(), before, rtol=0, atol=0)


def test_a_network_without_a_weight_to_train_is_refused():
    with pytest.raises(UserError, match="no weight behind its first layer that is trained"):
        make_optimizer(nn.Linear(2, 2).requires_grad_(False), Parameters(), 0, 1)
