"""Networks by name, their first layer, and what stands behind it."""

import copy
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from models import build as networks
from models.build import build
from mole.first_layer import (
    BehindFirstLayer,
    SplitNetwork,
    describe,
    find_first_layer,
    fingerprint,
)
from utils.first_layers import FirstLayer, read_first_layer

OWN = "tests.own_networks:"
# A network, the shape of its images, the name of its first layer, and the shape of its features.
NETWORKS = [
    ("vgg11", (3, 32, 32), "first_layer", (64, 32, 32)),
    ("vgg_small", (1, 28, 28), "first_layer", (64, 28, 28)),
    ("resnet18_cifar", (3, 16, 16), "conv1", (64, 16, 16)),
    ("resnet18", (1, 64, 64), "conv1", (64, 32, 32)),
    ("densenet121", (3, 64, 64), "features.conv0", (64, 32, 32)),
    ("mobilenet_v3_small", (1, 32, 32), "features.0.0", (16, 16, 16)),
    ("shufflenet_v2_x0_5", (3, 32, 32), "conv1.0", (24, 16, 16)),
    ("regnet_y_400mf", (3, 32, 32), "stem.0", (32, 16, 16)),
    ("squeezenet1_1", (3, 64, 64), "features.0", (64, 31, 31)),
    ("googlenet", (3, 64, 64), "conv1.conv", (64, 32, 32)),
    ("convnext_tiny", (3, 32, 32), "features.0.0", (96, 8, 8)),
    ("swin_t", (3, 32, 32), "features.0.0", (96, 8, 8)),
    (OWN + "strided", (3, 20, 20), "0", (12, 10, 10)),
    (OWN + "small_vit", (3, 16, 16), "conv_proj", (32, 4, 4)),
    (OWN + "grey", (1, 12, 12), "0", (8, 12, 12)),
    (OWN + "nested", (3, 12, 12), "0.0.0", (8, 10, 10))]


@pytest.mark.parametrize("model, shape, name, features", NETWORKS,
                         ids=[f"{case[0]} of {case[1][0]}x{case[1][1]}" for case in NETWORKS])
def test_the_first_layer_is_found_and_takes_the_images_channels(model, shape, name, features):
    network = build(model, 4, shape)
    assert network.training and find_first_layer(network, shape) == name
    layer = network.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    assert describe(layer).features_shape(shape) == features
    assert layer(torch.zeros(1, *shape)).shape[1:] == features


def test_a_second_time_behind_the_first_layer_is_refused_in_words():
    network = build(OWN + "strided", 4, (3, 8, 8))
    BehindFirstLayer(network, (3, 8, 8))
    for again in (BehindFirstLayer, SplitNetwork, find_first_layer):
        with pytest.raises(ValueError, match="BehindFirstLayer has replaced the network's first"):
            again(network, (3, 8, 8))


def test_images_that_a_network_does_not_take_are_refused_in_words():
    """Whatever the network raises, such as the AssertionError of torchvision's transformers."""
    network = VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)
    for function in (BehindFirstLayer, find_first_layer):
        with pytest.raises(ValueError, match="does not take images 3x48x48: Wrong image "
                           "height! Expected 32 but got 48"):
            function(network, (3, 48, 48))
    assert find_first_layer(network, (3, 32, 32)) == "conv_proj"


def test_a_first_layer_that_is_given_a_list_is_refused_in_words():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return self.first([x])

    with pytest.raises(ValueError, match="changes the image before its first layer first"):
        find_first_layer(Listed(), (3, 8, 8))


@pytest.mark.parametrize("shape, words", [
    ((8, 3, 16, 16), r"must be \(channels, rows, columns\), not \(8, 3, 16, 16\)"),
    ((1, 16, 16), "takes 3 channels, but the images have 1"),
    ((16, 16, 3), "takes 3 channels, but the images have 16"),
    ((3, 4, 4), "kernel is larger than the images 4x4")])
def test_images_that_the_first_layer_does_not_take_are_refused_in_words(shape, words):
    """Though the network itself is stopped before it could see that."""
    network = nn.Sequential(nn.Conv2d(3, 8, 7), nn.Flatten(), nn.LazyLinear(2))
    for function in (BehindFirstLayer, find_first_layer):
        with pytest.raises(ValueError, match=words):
            function(network, shape)


# What is asked for, for which images, and the words that refuse it.
REFUSED = [
    ("images of other channels", OWN + "grey", (3, 8, 8),
     "the first layer takes 1 channels, but the images have 3"),
    ("other size", OWN + "small_vit", (3, 20, 20), "image height! Expected 16 but got 20"),
    ("patches that do not fit", "vit_b_16", (3, 20, 20), "indivisible by patch size"),
    ("images that are too small", "alexnet", (3, 16, 16), "Output size is too small"),
    ("windows that do not fit", "maxvit_t", (3, 32, 32), "not divisible by partition size"),
    ("no such name in a module", OWN + "nowhere", (3, 8, 8),
     "it cannot be imported .*no attribute 'nowhere'"),
    ("no such module", "no_such_package:network", (3, 8, 8),
     "it cannot be imported .*No module named 'no_such_package'"),
    ("the name of a file", "tests.own_networks.py:strided", (3, 8, 8),
     "write tests.own_networks:strided, without .py"),
    ("misspelt", "resnet17", (3, 32, 32),
     "there is no network resnet17: choose vgg_small, vgg11, .*resnet18"),
    ("not for classification", "fcn_resnet50", (3, 32, 32), "there is no network fcn_resnet50")]


@pytest.mark.parametrize("model, shape, words", [case[1:] for case in REFUSED],
                         ids=[case[0] for case in REFUSED])
def test_networks_that_there_are_not_are_refused_by_name(model, shape, words):
    with pytest.raises(ValueError, match=words) as refused:
        build(model, 4, shape)
    assert "\n" not in str(refused.value) and model in str(refused.value)


ENDS_THE_PROGRAM = {
    "exits": "import sys\nsys.exit('usage: mine.py FILE')\n",
    "reads_a_command_line": "import argparse\nargparse.ArgumentParser().parse_args()\n"}


def test_a_module_that_ends_the_program_is_refused(tmp_path, monkeypatch, capsys):
    """As one that reads a command line of its own; what argparse says of ours is not shown."""
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("sys.argv", ["pretrain.py", "--data_dir", "data"])
    monkeypatch.chdir(tmp_path)
    for name, code in ENDS_THE_PROGRAM.items():
        (tmp_path / f"{name}.py").write_text(code)
        with pytest.raises(ValueError, match="its module ends the program when it is imported"):
            build(f"{name}:network", 4, (3, 8, 8))
        assert capsys.readouterr() == ("", "")


def test_what_a_module_says_is_shown_once_it_is_imported(tmp_path, monkeypatch, capsys):
    (tmp_path / "talks.py").write_text("import sys\nprint('slow today', file=sys.stderr)\n")
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="has no attribute 'network'"):
        build("talks:network", 4, (3, 8, 8))
    assert capsys.readouterr().err == "slow today\n"


@pytest.mark.parametrize("package", ["models", "utils"])
def test_a_package_with_a_name_of_ours_is_named_as_the_cause(tmp_path, monkeypatch, package):
    (tmp_path / package).mkdir()
    (tmp_path / package / "mine.py").write_text("")
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"this program has a package {package} too, so rename"):
        build(f"{package}.mine:network", 4, (3, 8, 8))


def test_a_network_of_ones_own_by_name(monkeypatch):
    """A function and its line in OWN."""
    def small(classes):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, classes))

    monkeypatch.setitem(networks.OWN, "small", small)
    assert build("small", 5, (3, 8, 8))(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    with pytest.raises(ValueError, match="vgg19, resnet18_cifar, small, a classification"):
        build("smal", 5, (3, 8, 8))


# Behind the first layer.

REAL = [("vgg11", (3, 8, 8)), ("resnet18_cifar", (3, 8, 8)), (OWN + "small_vit", (3, 16, 16)),
        (OWN + "strided", (3, 16, 16)), (OWN + "grey", (1, 16, 16))]


@pytest.mark.parametrize("model, shape", REAL, ids=[model for model, _ in REAL])
def test_the_rest_of_a_network_gives_its_logits_from_the_features(model, shape):
    """Exactly; in training, with the statistics of the batch, too."""
    torch.manual_seed(0)
    network, images = build(model, 4, shape, dropout=0).double(), torch.randn(4, *shape).double()
    layer = network.get_submodule(find_first_layer(network, shape))
    behind = BehindFirstLayer(copy.deepcopy(network), shape)
    for mode in (False, True):
        features = layer(images)
        assert torch.equal(behind.train(mode)(features), network.train(mode)(images))
    of_the_layer = set(network.state_dict()) - set(behind.network.state_dict())
    assert of_the_layer == {f"{behind.name}.{name}" for name in layer.state_dict()}


def test_features_are_given_once_and_not_kept():
    behind = BehindFirstLayer(build(OWN + "strided", 4, (3, 8, 8)), (3, 8, 8))
    behind(torch.randn(2, 12, 4, 4))
    assert behind.network[0].features is None
    with pytest.raises(ValueError, match="uses its first layer more than once"):
        behind.network(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_rest_of_a_network_is_in_the_networks_mode(training):
    network = build(OWN + "strided", 4, (3, 8, 8)).train(training)
    network[-1].train(not training)                      # as batch norms that are kept as they are
    behind = BehindFirstLayer(network, (3, 8, 8))
    assert behind.training == network.training == training
    assert network[-1].training != training


@pytest.mark.parametrize("model, shape", REAL, ids=[model for model, _ in REAL])
def test_a_split_network_is_the_network(model, shape):
    torch.manual_seed(0)
    network, images = build(model, 4, shape, dropout=0).eval(), torch.randn(4, *shape)
    expected, state = network(images), copy.deepcopy(network.state_dict())
    split = SplitNetwork(network, shape)
    assert torch.equal(split(images), expected)
    assert split.whole_state().keys() == state.keys()
    assert all(torch.equal(weight, state[name]) for name, weight in split.whole_state().items())


def test_the_first_layer_of_a_split_network_is_float32_under_autocast():
    split = SplitNetwork(build("vgg_small", 4, (3, 8, 8)), (3, 8, 8))
    seen = []
    split.first_layer.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    split.rest.network.rest[2].register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        split(torch.randn(2, 3, 8, 8))
    assert seen == [torch.float32, torch.bfloat16]


def test_the_rest_of_a_split_network_gets_what_it_gets_behind_aug_conv():
    """Features in the precision of the run, also for a layer that keeps it, as batch norm does."""
    split = SplitNetwork(build(OWN + "strided", 4, (3, 8, 8)), (3, 8, 8))
    seen = []
    split.rest.network[1].register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        split(torch.randn(2, 3, 8, 8))
    split(torch.randn(2, 3, 8, 8))
    assert seen == [torch.bfloat16, torch.float32]


# Whether two first layers are the same.

def test_a_layer_given_numpys_numbers_is_the_same_layer(tmp_path):
    """They are no plain values that first_layer.pt may hold."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, np.int64(3), stride=np.int64(1), padding=np.int64(1))
    first = FirstLayer(layer, (0.5,) * 3, (0.5,) * 3, 8, "crop", "mine", "photographs", 9)
    torch.save(first.to_dict(), tmp_path / "first_layer.pt")
    assert read_first_layer(tmp_path / "first_layer.pt").fingerprint == first.fingerprint


def layer_with(**changed) -> nn.Conv2d:
    """A layer of fixed weights, but for what is changed."""
    weight, bias = changed.pop("weight", 1.0), changed.pop("constant", 0.5)
    options = {"kernel_size": 3, "padding": 1} | changed
    layer = nn.Conv2d(4, 6, **options)
    nn.init.constant_(layer.weight, weight)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
    return layer


CHANGES = {"stride": dict(stride=2), "padding": dict(padding=0), "dilation": dict(dilation=(1, 2)),
           "groups": dict(groups=2), "no bias": dict(bias=False), "bias": dict(constant=0.6),
           "weight": dict(weight=1.1), "kernel": dict(kernel_size=(3, 2))}


@pytest.mark.parametrize("name", CHANGES)
def test_the_fingerprint_is_of_weight_bias_and_geometry(name):
    assert fingerprint(layer_with()) == fingerprint(layer_with())
    assert fingerprint(layer_with()) != fingerprint(layer_with(**CHANGES[name]))


def test_a_fingerprint_does_not_depend_on_where_weights_lie_in_memory():
    layer = layer_with()
    nn.init.normal_(layer.weight)
    before = fingerprint(layer)
    assert fingerprint(layer.to(memory_format=torch.channels_last)) == before


@pytest.mark.parametrize("shape", [(2, 192), (2, 8, 8, 7), (2, 8, 6, 6), (8, 8, 8)])
def test_features_of_another_size_are_refused_in_words(shape):
    """Such as morphed images themselves; a network with a pool would answer."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                            nn.Linear(8, 2))
    behind = BehindFirstLayer(network, (3, 8, 8))
    assert behind(torch.zeros(2, 8, 8, 8)).shape == (2, 2)
    with pytest.raises(ValueError, match=r"features are \(batch, 8, 8, 8\), not"):
        behind(torch.zeros(shape))


@pytest.mark.parametrize("last", ["detach", "no_grad"])
def test_a_network_without_gradients_is_refused(last):
    class Untrainable(nn.Sequential):
        def forward(self, images):
            if last == "detach":
                return super().forward(images).detach()
            with torch.no_grad():
                return super().forward(images)

    network = Untrainable(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 2))
    with pytest.raises(ValueError, match="its logits have no gradients in training mode"):
        networks.check_network(network, 2, (3, 8, 8))
