"""A network behind Aug-Conv is the network, or it is refused before training: no third thing."""

import copy
import re
import warnings

import pytest
import torch
from torch import Tensor, nn

from models.build import build, check_network, mode_of_softmax
from mole.aug_conv import AugConv
from mole.first_layer import BehindFirstLayer, describe, find_first_layer
from mole.morphing import core_size, morph
from parameter import Parameters
from tests import misfit_networks, own_networks
from tests.inference import record
from tests.layers import draw_pair
from tests.own_networks import Own, chain
from tests.steps import TINY, call
from utils.devices import Context
from utils.examples import Features, FrozenLayer, Source
from utils.networks import Model, new_network

OWN = "tests.own_networks:"
MISFIT = "tests.misfit_networks:"
CLASSES = 4


def callables_of(module) -> list[str]:
    """The networks that a module of tests defines: all that is called with num_classes alone."""
    helpers = {"chain", "tail", "twenty_layers", "Own", "Residual", "Logged", "StandardisedConv",
               "SameConv", "NoisyConv"}
    return [name for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
            and name not in helpers]


# Torchvision's and ours, at 64 pixels.
BY_NAME = ["vgg_small", "resnet18", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5",
           "shufflenet_v2_x0_5", "squeezenet1_1", "efficientnet_b0", "regnet_x_400mf",
           "regnet_y_400mf", "googlenet", "densenet121"]
OWN_NAMES = callables_of(own_networks)
MISFIT_NAMES = callables_of(misfit_networks)


def test_there_are_at_least_sixty_architectures():
    assert len(BY_NAME) + len(OWN_NAMES) + len(MISFIT_NAMES) >= 100


# Right.

def logits_both_ways(network: nn.Module, shape: tuple[int, int, int], tile: int, training: bool,
                     dtype: torch.dtype, memory_format: torch.memory_format
                     ) -> tuple[Tensor, Tensor]:
    """Of plain images through the network; of morphed ones through Aug-Conv and the rest.

    Dropout is drawn in the order of the features in memory.
    """
    network = copy.deepcopy(network).to(dtype)
    images = torch.randn(3, *shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    core, inverse = draw_pair(core_size(shape, tile=tile), "orthogonal", dtype)
    layer = network.get_submodule(find_first_layer(network, shape))
    aug_conv = AugConv.compose(layer, inverse, shape, tile=tile)
    behind = BehindFirstLayer(copy.deepcopy(network), shape)
    with torch.no_grad():
        torch.manual_seed(0)                             # the same dropout for both
        expected = network.train(training)(images.clone())
        features = aug_conv(morph(images, core, tile)).contiguous(memory_format=memory_format)
        torch.manual_seed(0)
        return behind.train(training)(features), expected


def check_equal(network: nn.Module, shape: tuple[int, int, int], tile: int,
                dtype: torch.dtype = torch.float64,
                memory_format: torch.memory_format = torch.contiguous_format):
    """The same logits, to rounding beside what tells images apart."""
    for weight in network.parameters():
        if weight.abs().max() < 0.01:                    # or zeros would be compared
            nn.init.normal_(weight, std=0.1)
    bound, rounding = (1e-6, 1e-13) if dtype == torch.float64 else (1e-2, 1e-6)
    for training in (True, False):
        found, expected = logits_both_ways(network, shape, tile, training, dtype,
                                           memory_format)
        between_images = (expected[0] - expected[1]).abs().max()
        allowed = max(bound * between_images, rounding * expected.abs().max())
        assert (found - expected).abs().max() < allowed, f"training: {training}"


@pytest.mark.parametrize("name", BY_NAME)
def test_networks_by_name_are_themselves_behind_aug_conv(name):
    shape = 3, 64, 64
    check_equal(build(name, CLASSES, shape), shape, tile=16)


@pytest.mark.parametrize("name", OWN_NAMES)
def test_networks_of_ones_own_are_themselves_behind_aug_conv(name):
    shape = (1 if name == "grey" else 3), 16, 16
    torch.manual_seed(0)
    network = build(OWN + name, CLASSES, shape)
    dtype = torch.float32 if name == "Float32Inside" else torch.float64
    memory_format = torch.contiguous_format
    if name == "ChannelsLastAndDropout":
        memory_format = torch.channels_last
    check_equal(network, shape, 8, dtype, memory_format)


# Refused, in one line that says why.

NO_CONVOLUTION = "first operation is "
CHANGED = "changes the image before its first layer "
COMPUTES_MORE = "does not compute the convolution of its weights"
AGAIN = "logits differ .* uses the image a second time"
WORDS = {
    "linear": NO_CONVOLUTION + "0 .Linear., but must be a convolution, an nn.Conv2d",
    "convolution_alone": NO_CONVOLUTION + "the network itself .Conv2d.",
    "transposed_convolution": NO_CONVOLUTION + "0 .ConvTranspose2d.",
    "dropout_first": NO_CONVOLUTION + "0 .Dropout.",
    "normalised_first": NO_CONVOLUTION + "0 .BatchNorm2d.",
    "nothing": NO_CONVOLUTION + "the network itself .Module.",
    "Functional": NO_CONVOLUTION + "rest.0 .AdaptiveAvgPool2d.",
    "reflecting": "pads with 'reflect', not with zeros",
    "weight_norm": "weights .* are computed ._WeightNorm.: call .*remove_parametrizations",
    "Scales": CHANGED + "first", "ScalesInPlace": CHANGED, "Pads": CHANGED, "Transposes": CHANGED,
    "Crops": CHANGED, "Reorders": CHANGED, "normalised_by_a_hook": CHANGED + "0",
    "weight_standardisation": "a StandardisedConv, " + COMPUTES_MORE,
    "weight_standardisation_far_from_the_logits": "a StandardisedConv, " + COMPUTES_MORE,
    "same_as_in_tensorflow": "a SameConv, " + COMPUTES_MORE,
    "noise_in_training": COMPUTES_MORE, "hook": COMPUTES_MORE, "hook_before": CHANGED + "0",
    "forward_of_its_own": COMPUTES_MORE,
    "UsedTwice": "uses its first layer more than once",
    "UsedTwiceByName": "first layer under several names: first, same",
    "TwoStems": AGAIN, "ImageAgain": AGAIN, "GatedImage": AGAIN, "NearlyGatedImage": AGAIN,
    "SigmoidGatedImage": AGAIN, "ImageAgainInTraining": AGAIN,
    "OtherLayerInEvaluation": "does not use its first layer first in evaluation mode",
    "HardlySeesAndTakesTheImageAgain": AGAIN,
    "ImageChangedLater": "single memory location",
    "LooksAtTheWeights": "reads an attribute of its first layer first.*weight",
    "TiedToTheFirst": "reads an attribute of its first layer first.*weight",
    "ChecksPointsFromTheStart": "uses its first layer more than once",
    "LosesItsGradients": "modified by an inplace operation",
    "not_a_network": "returns a int, not a torch.nn.Module",
    "three_logits": r"for two images it returns a tensor \(2, 3\), not \(2, 4\) logits",
    "TupleInTraining": "in training mode it returns a tuple, not one tensor of logits",
    "googlenet": "in training mode it returns a GoogLeNetOutputs, not one tensor of logits",
    "DictOfOutputs": "returns a dict, not one tensor",
    "OneVector": r"returns a tensor \(8,\), not \(2, 4\) logits",
    "NotFinite": "logits for random images are not finite",
    "Blind": "logits are the same for two different images",
    "float64": "0.weight is float64: build it in float32",
    "bfloat16": "0.weight is bfloat16: build it in float32",
    "HalfABuffer": "mean is float16", "Complex": "phases is complex64",
    "Sparse": "graph is a sparse tensor", "InfiniteMask": "mask has values that are not finite",
    "ExtraState": "_extra_state, which is no tensor",
    "lazy": "2.weight has no shape yet: run the network once",
    "SqueezesTheBatch": r"for one image it returns a tensor \(4,\), .*flatten\(1\) does not",
    "TakesNoSingleImage": r"two images, but not one alone \(batches of two\)",
    "CannotBeCopied": "cannot pickle", "Raises": "no.*such key", "OfOneImageAlone": "shape",
    "EndsTheProgram": "ends the program", "EndsTheProgramLater": "ends the program",
}


def refusal(name: str) -> str:
    """The line that refuses a network for images 3x16x16."""
    with pytest.raises(ValueError) as refused:
        build(name, CLASSES, (3, 16, 16))
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(f"{name} cannot be used for images 3x16x16: ")
    return message


@pytest.mark.parametrize("name", MISFIT_NAMES)
def test_misfits_are_refused_and_the_cause_is_named(name):
    message = refusal(MISFIT + name)
    assert re.search(WORDS[name], message), message


def test_large_images_can_be_refused_where_small_ones_are_taken():
    with pytest.raises(ValueError, match="indivisible by patch size"):
        build("vit_b_16", CLASSES, (3, 20, 20))
    with pytest.raises(ValueError, match="Kernel size can't be greater"):
        build("inception_v3", CLASSES, (3, 64, 64))


# Equal or refused: what becomes of these depends on PyTorch's version.

def scripted(num_classes: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                  # it is deprecated
        return torch.jit.script(chain(num_classes, nn.ReLU()))


def compiled(num_classes: int) -> nn.Module:
    return torch.compile(chain(num_classes, nn.ReLU()), backend="eager")


def spectral_norm(num_classes: int) -> nn.Module:
    network = chain(num_classes, nn.ReLU())
    nn.utils.parametrizations.spectral_norm(network[0])
    return network


def old_weight_norm(num_classes: int) -> nn.Module:
    network = chain(num_classes, nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                  # it is deprecated
        nn.utils.weight_norm(network[0])
    return network


def weight_norm_of_states(num_classes: int) -> nn.Module:
    network = chain(num_classes, nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                  # it is deprecated
        network.append(nn.utils.weight_norm(nn.GRU(num_classes, num_classes), "weight_hh_l0"))
        network[2], network[3] = network[3], network[2]
    return network


def lazy_norm(num_classes: int) -> nn.Module:
    return chain(num_classes, nn.LazyBatchNorm2d(affine=False))


def orthogonal(num_classes: int) -> nn.Module:
    network = chain(num_classes, nn.Conv2d(8, 8, 3), nn.ReLU())
    nn.utils.parametrizations.orthogonal(network[1])
    return network


WRAPPED = [scripted, compiled, spectral_norm, old_weight_norm, orthogonal]


@pytest.mark.parametrize("make", WRAPPED, ids=[make.__name__ for make in WRAPPED])
def test_wrapped_networks_are_themselves_or_refused(make):
    name, shape = f"{__name__}:{make.__name__}", (3, 16, 16)
    try:
        network = build(name, CLASSES, shape)
    except ValueError as refused:
        assert str(refused).startswith(f"{name} cannot be used") and "\n" not in str(refused)
    else:
        check_equal(network, shape, 8, torch.float32)


@pytest.mark.parametrize("make, words", [
    (old_weight_norm, "weight of 0 is computed from others .weight_norm"),
    (weight_norm_of_states, "weight_hh_l0 of 2 is computed from others .weight_norm"),
    (lazy_norm, "its 1.running_mean has no shape yet: run the network once"),
    (scripted, "it is compiled by torch.jit")],
    ids=["weight_norm", "weight_norm by name", "lazy statistics", "script"])
def test_wrapped_networks_are_refused_in_words_that_help(make, words):
    with pytest.raises(ValueError, match=words):
        build(f"{__name__}:{make.__name__}", CLASSES, (3, 16, 16))


# Random networks.

ACTIVATIONS = [nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.ELU, nn.Hardswish, nn.Mish, nn.CELU, nn.SELU]


def draw_network(seed: int) -> nn.Sequential:
    """A first layer, activations in place, and a few convolutions, norms and dropouts."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 1 + draw(4), 1 + draw(2), draw(3))]
    for _ in range(1 + draw(4)):
        layers.append(ACTIVATIONS[draw(len(ACTIVATIONS))](inplace=True))
        layers.append([nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GroupNorm(2, 8),
                       nn.Dropout2d(0.3, inplace=True), nn.Identity()][draw(5)])
    return nn.Sequential(*layers, own_networks.tail(CLASSES))


def test_random_networks_are_themselves_or_lose_their_gradients():
    """Two operations in place, one after the other, may destroy what the backward pass needs."""
    equal = 0
    for seed in range(40):
        network, shape = draw_network(seed), (3, 12, 12)
        try:
            check_network(network, CLASSES, shape)
        except RuntimeError as refused:
            assert "modified by an inplace operation" in str(refused), seed
        else:
            check_equal(network, shape, tile=4)
            equal += 1
    assert 20 < equal < 40


@pytest.mark.parametrize("seed", range(20), ids="seed {}".format)
def test_kept_features_are_not_changed_by_activations_in_place(seed):
    """The same logits in every epoch, with kept features and without, by block and by index."""
    network, shape = draw_network(seed), (3, 12, 12)
    images = torch.randn(7, *shape)
    layer = FrozenLayer(network[0].requires_grad_(False), describe(network[0]).mirrored(shape))
    source = Source(images, lambda rows: rows)
    context = Context(torch.device("cpu"))
    features = Features([(layer, source)], [torch.zeros(7, dtype=torch.int64)], context)
    kept = features.kept(mirrored=True)
    behind = BehindFirstLayer(network, shape).eval()
    index, flipped = torch.tensor([5, 0, 3]), torch.tensor([True, False, True])
    with torch.inference_mode():
        for _ in range(3):
            for taken in ((slice(0, 4),), (slice(4, 8),), (index,), (index, flipped)):
                expected = behind(features.take(*taken))
                torch.testing.assert_close(behind(kept.take(*taken)), expected)


def test_epochs_are_the_same_with_kept_features_and_without(tmp_path):
    """Also where the first activation works in place, and with every accuracy in between."""
    settings = (*TINY, "--model", OWN + "in_place_leaky", "--morph_distribution", "orthogonal")
    for script in ("pretrain.py", "gen_morphing_matrix.py", "gen_augconv.py"):
        assert call(script, "--data_dir", tmp_path, settings=settings).status == 0
    curves = []
    for cache in ("on", "off"):
        trained = call("train_with_ac.py", "--data_dir", tmp_path, "--feature_cache", cache,
                       "--epochs", "4", "--lr", "0.1", "--restart", settings=settings)
        assert trained.status == 0, trained
        curve = record(tmp_path, "with_ac")["curve"]
        curves.append([(epoch["train_loss"], epoch["test_accuracy"]) for epoch in curve])
    assert curves[0] == curves[1] and len(set(curves[0])) == 4


# What the check leaves as it was.

def test_the_check_changes_neither_the_network_nor_random_numbers():
    torch.manual_seed(0)
    network = own_networks.many_dropouts(CLASSES).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    generator = torch.get_rng_state()
    check_network(network, CLASSES, (3, 16, 16))
    mode_of_softmax(network, (3, 16, 16))
    assert torch.equal(torch.get_rng_state(), generator)
    assert not network.training and all(weight.grad is None for weight in network.parameters())
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_network_is_the_same_whether_it_was_checked_or_not():
    torch.manual_seed(0)
    built = build(OWN + "zero_gates", CLASSES, (3, 16, 16))
    after = torch.rand(3)
    torch.manual_seed(0)
    expected = own_networks.zero_gates(CLASSES)
    assert torch.equal(torch.rand(3), after)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, built.state_dict()[name]), name


class EndsInSoftmax(Own):
    def forward(self, x):
        return super().forward(x).softmax(1)


def test_a_softmax_at_the_end_is_warned_of(monkeypatch, capsys):
    monkeypatch.setattr(own_networks, "EndsInSoftmax", EndsInSoftmax, raising=False)
    for name, warnings_ in (("EndsInSoftmax", 1), ("SoftmaxInEvaluation", 1), ("strided", 0)):
        p = Parameters(model=OWN + name)
        new_network(p, Model(p.model, CLASSES, (3, 16, 16), p.dropout))
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == warnings_
        assert all(line.startswith(f"warning: {OWN}{name} ends in a softmax") for line in lines)
        assert all(("predict.py would apply" in line) == (name == "SoftmaxInEvaluation")
                   for line in lines)


@pytest.mark.parametrize("make, expected", [
    (EndsInSoftmax, "training"), (own_networks.log_softmax, ""), (own_networks.strided, ""),
    (own_networks.SoftmaxInEvaluation, "evaluation")],
    ids=["softmax", "log of a softmax", "logits", "softmax in evaluation alone"])
def test_a_softmax_at_the_end_is_seen(make, expected):
    assert mode_of_softmax(make(CLASSES), (3, 16, 16)) == expected
