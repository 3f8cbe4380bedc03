"""Starting from weights in the forms that people save them in (--init)."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel
from torch.optim.swa_utils import AveragedModel

from models.build import build
from models.weights import find_weights, start_from
from parameter import Parameters
from tests.own_networks import strided
from utils.artifacts import read_tensors
from utils.networks import warn_of_other_features

SHAPE = (3, 16, 16)
OWN = "tests.own_networks:"


def state_of(model: str, classes: int = 4, shape: tuple[int, int, int] = SHAPE,
             seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return build(model, classes, shape).state_dict()


def with_prefix(prefix: str, state: dict) -> dict:
    return {prefix + name: weight for name, weight in state.items()}


def lightning(state: dict) -> dict:
    """With a loss that has weights of its own, and what it writes besides."""
    weights = with_prefix("model.", state) | {"criterion.weight": torch.ones(4)}
    return {"epoch": 3, "global_step": 7, "pytorch-lightning_version": "2.5", "callbacks": {},
            "state_dict": weights, "hyper_parameters": {"lr": 0.1}}


def averaged(state: dict) -> dict:
    network = strided(4)
    network.load_state_dict(state)
    return AveragedModel(network).state_dict()


def data_parallel(state: dict) -> dict:
    network = strided(4)
    network.load_state_dict(state)
    return DataParallel(network).state_dict()


def compiled(state: dict) -> dict:
    network = strided(4)
    network.load_state_dict(state)
    return torch.compile(network).state_dict()


# How weights are saved, and how that is said.
FORMS = {
    "state_dict": (dict, ""),
    "our own": (lambda state: {"network": state, "model": {"name": "x"}}, ", key 'network'"),
    "timm": (lambda state: {"epoch": 1, "arch": "x", "state_dict": state}, ", key 'state_dict'"),
    "a tutorial's": (lambda state: {"epoch": 1, "loss": torch.ones(()),
                                    "model_state_dict": state, "optimizer_state_dict": {}},
                     ", key 'model_state_dict'"),
    "average of weights, by key": (lambda state: {"model_ema": state}, ", key 'model_ema'"),
    "first key is empty": (lambda state: {"model": None, "state_dict": state},
                           ", key 'state_dict'"),
    "DataParallel": (data_parallel, ", without the prefix 'module.'"),
    "torch.compile": (compiled, ", without the prefix '_orig_mod.'"),
    "DataParallel and torch.compile": (lambda state: with_prefix("module._orig_mod.", state),
                                       ", without the prefix 'module._orig_mod.'"),
    "Lightning": (lightning, ", key 'state_dict', without the prefix 'model.'"),
    "average of weights": (averaged, ", without the prefix 'module.'"),
    "a part of another network": (
        lambda state: with_prefix("encoder.net.", state) | {"head.weight": torch.ones(1)},
        ", without the prefix 'encoder.net.'"),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_in_all_forms_and_it_is_said_where(form, tmp_path):
    state = state_of(OWN + "strided")
    save, where = FORMS[form]
    torch.save(save(copy.deepcopy(state)), tmp_path / "weights.pt")
    network = build(OWN + "strided", 4, SHAPE)
    found = find_weights(read_tensors(tmp_path / "weights.pt", ""), network)
    assert found.where == where
    assert start_from(network, found.weights, SHAPE) == []
    assert all(torch.equal(weight, state[name]) for name, weight in network.state_dict().items())


NO_WEIGHTS = {
    "None": None, "list": [torch.ones(2)], "empty": {}, "numbers as names": {0: torch.ones(2)},
    "lists as weights": {"0.weight": [1.0, 2.0]}, "key without weights": {"state_dict": None},
    "key with a list": {"state_dict": [torch.ones(2)]},
    "key with numbers as names": {"model": {1: torch.ones(2)}},
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []}}


@pytest.mark.parametrize("form", NO_WEIGHTS)
def test_what_holds_no_weights_is_refused(form):
    with pytest.raises(ValueError, match="it holds no state_dict"):
        find_weights(NO_WEIGHTS[form], strided(4))


def test_a_network_starts_from_weights_of_half_precision():
    state = state_of(OWN + "strided")
    network = build(OWN + "strided", 4, SHAPE)
    start_from(network, {name: weight.half() if weight.is_floating_point() else weight
                         for name, weight in state.items()}, SHAPE)
    assert all(value.dtype == state[name].dtype for name, value in network.state_dict().items())
    torch.testing.assert_close(network[0].weight.data, state["0.weight"], rtol=1e-3, atol=1e-3)


# Which parts are taken.

def check_taken(network: nn.Module, weights: dict, shape: tuple, kept: set[str],
                lines: list[str]):
    """All weights are taken but those that are kept as they were, and so many lines say so."""
    own = copy.deepcopy(network.state_dict())
    said = start_from(network, weights, shape)
    assert len(said) == len(lines)
    assert all(words in line for words, line in zip(lines, said, strict=True))
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, own[name] if name in kept else weights[name]), name


def test_a_classifier_for_other_classes_starts_from_the_seed():
    check_taken(build("resnet18", 4, SHAPE), state_of("resnet18", classes=7), SHAPE,
                {"fc.weight", "fc.bias"}, ["fc is not taken from there"])


def test_classes_in_another_order_put_the_outputs_in_ours():
    """By their names: or a network would start by naming every class wrongly."""
    weights = state_of("resnet18")
    network = build("resnet18", 4, SHAPE)
    there, here = ["cat", "dog", "eel", "fox"], ["fox", "cat", "dog", "eel"]
    [line] = start_from(network, weights, SHAPE, there, here)
    assert line.startswith("the classes are in another order there: the outputs of fc are")
    images = torch.randn(2, *SHAPE)
    original = build("resnet18", 4, SHAPE)
    original.load_state_dict(weights)
    expected, found = original.eval()(images), network.eval()(images)
    for name in there:
        torch.testing.assert_close(found[:, here.index(name)], expected[:, there.index(name)])


def test_a_classifier_of_other_classes_starts_from_the_seed():
    network = build("resnet18", 4, SHAPE)
    own = network.fc.weight.clone()
    [line] = start_from(network, state_of("resnet18"), SHAPE, ["a", "b", "c", "d"],
                        ["a", "b", "c", "e"])
    assert line.startswith("fc is not taken from there: it is for other classes; it keeps its")
    assert torch.equal(network.fc.weight, own)


def norm_at_the_end(num_classes: int) -> nn.Module:
    """Its last layer by name is not the classifier."""
    network = strided(num_classes)
    network.register_module("last", nn.BatchNorm2d(12))
    network[2] = nn.Sequential(network.last, nn.ReLU())
    return network


def test_outputs_whose_layer_is_not_the_last_cannot_be_reordered():
    """Of other classes they are taken as they are, and a line says so."""
    network, weights = norm_at_the_end(4), norm_at_the_end(4).state_dict()
    with pytest.raises(ValueError, match="another order there, and last has not one output"):
        start_from(network, weights, SHAPE, ["a", "b", "c", "d"], ["b", "a", "c", "d"])
    [line] = start_from(network, weights, SHAPE, ["a", "b", "c", "d"], ["a", "b", "c", "e"])
    assert line.endswith("the outputs are taken as they are")
    assert all(torch.equal(weight, weights[name]) for name, weight in network.state_dict().items())


def test_weights_whose_classes_are_not_compared_are_taken_whole():
    network = build("resnet18", 4, SHAPE)
    assert start_from(network, state_of("resnet18"), SHAPE, ["a", "b", "c", "d"]) == []


# What --init was trained on, what this run is on, and the words of the warning.
FEATURES = {
    "the same delivery": (dict(deliveries=["a"], layer=None), (["a"], "L", True), ""),
    "a shuffled delivery": (dict(deliveries=[], layer="L"), (["a"], "L", True), "are shuffled"),
    "weights of anybody's on a shuffled delivery": ({}, (["a"], "L", True), "are shuffled"),
    "another shuffled delivery": (dict(deliveries=["b"], layer=None), (["a"], "L", False),
                                  "shuffled for another delivery"),
    "shuffled, then plain images": (dict(deliveries=["b"], layer=None), ([], None, False),
                                    "shuffled for another delivery"),
    "another first layer": (dict(deliveries=[], layer="K"), (["a"], "L", False),
                            "behind another first layer"),
    "the same first layer": (dict(deliveries=[], layer="L"), (["a"], "L", False), ""),
    "plain images": (dict(deliveries=[], layer="L"), ([], None, False), ""),
    "anybody's weights with a layer of that name": (dict(layer=torch.ones(2)),
                                                    (["a"], "L", False), ""),
    "weights of anybody's": ({}, (["a"], "L", False), "")}


@pytest.mark.parametrize("case", FEATURES)
def test_layers_trained_on_other_features_are_warned_of(case, tmp_path, capsys):
    content, run, words = FEATURES[case]
    torch.save({"network": state_of(OWN + "strided")} | content, tmp_path / "a.pt")
    warn_of_other_features(Parameters(init=str(tmp_path / "a.pt")), *run)
    said = capsys.readouterr().err
    assert words in said and bool(said) == bool(words)


def test_a_classifier_deep_inside_starts_from_the_seed():
    check_taken(build(OWN + "small_vit", 4, SHAPE), state_of(OWN + "small_vit", classes=7), SHAPE,
                {"heads.head.weight", "heads.head.bias"}, ["heads.head is not taken"])


def test_a_network_trained_behind_aug_conv_has_no_first_layer():
    weights = state_of("resnet18")
    del weights["conv1.weight"]
    check_taken(build("resnet18", 4, SHAPE), weights, SHAPE, {"conv1.weight"},
                ["conv1 is not taken from there"])


def test_a_first_layer_for_colours_becomes_one_for_grey():
    """On a grey image, it computes what it computed on that image in all three colours."""
    network, weights = build("resnet18", 4, (1, 16, 16)), state_of("resnet18")
    layer = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    layer.weight.data = weights["conv1.weight"].clone()
    grey = torch.randn(2, 1, 16, 16)
    assert "summed over the colours" in start_from(network, weights, (1, 16, 16))[0]
    torch.testing.assert_close(network.conv1(grey), layer(grey.expand(-1, 3, -1, -1)))
    assert weights["conv1.weight"].shape[1] == 3          # the caller's are left alone


def test_a_first_layer_for_grey_does_not_become_one_for_colours():
    network, weights = build("resnet18", 4, SHAPE), state_of("resnet18", shape=(1, 16, 16))
    check_taken(network, weights, SHAPE, {"conv1.weight"}, ["conv1 is not taken from there"])


def test_auxiliary_classifiers_are_left_out():
    """As googlenet's, which is built without them."""
    network, weights = build(OWN + "strided", 4, SHAPE), state_of(OWN + "strided")
    more = {"aux1.fc1.weight": torch.ones(3), "aux2.conv.bn.bias": torch.ones(3)}
    check_taken(network, weights | more, SHAPE, set(), [])


OTHERS = {"another architecture": ("vgg_small", {}), "a larger network": ("resnet34", {}),
          "one weight more": ("resnet18", {"head.weight": torch.ones(2)})}


@pytest.mark.parametrize("name", OTHERS)
def test_weights_of_another_network_are_refused_and_nothing_is_changed(name):
    """Also where all that there is would fit."""
    model, more = OTHERS[name]
    network = build("resnet18", 4, SHAPE)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=r"of another network: .* is not in both"):
        start_from(network, state_of(model) | more, SHAPE)
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64], ids=str)
def test_weights_that_are_no_floating_point_are_refused(dtype):
    """Quantised ones would be taken as they are, without their scale."""
    weights = {name: weight.to(dtype) for name, weight in state_of("resnet18").items()}
    with pytest.raises(ValueError, match=f"is {dtype}, not torch.float32: save weights"):
        start_from(build("resnet18", 4, SHAPE), weights, SHAPE)


def test_a_weight_of_another_shape_is_refused():
    weights = state_of("resnet18")
    weights["layer1.0.conv1.weight"] = torch.ones(64, 64, 5, 5)
    with pytest.raises(ValueError, match=r"layer1\.0\.conv1\.weight is not in both, or of another"):
        start_from(build("resnet18", 4, SHAPE), weights, SHAPE)
