"""Networks by name, their first layer, and what stands behind it."""

import copy

import pytest
import torch
from torch import nn

from models import build as networks
from models.build import build, start_from
from mole import first_layer
from mole.first_layer import BehindFirstLayer, Float32Conv2d, find
from parameter import Parameters
from utils.errors import UserError
from utils.training import new_network

OWN = "tests.own_networks:"
# A network, the shape of its images, the name of its first layer, and what that gives.
NETWORKS = [
    ("vgg11", (3, 32, 32), "first_layer", (64, 32, 32)),
    ("vgg13", (1, 28, 28), "first_layer", (64, 28, 28)),
    ("resnet18_cifar", (3, 32, 32), "conv1", (64, 32, 32)),
    ("resnet18", (1, 64, 64), "conv1", (64, 32, 32)),
    ("densenet121", (3, 64, 64), "features.conv0", (64, 32, 32)),
    ("mobilenet_v2", (3, 32, 32), "features.0.0", (32, 16, 16)),
    ("mobilenet_v3_small", (1, 32, 32), "features.0.0", (16, 16, 16)),
    ("efficientnet_b0", (3, 32, 32), "features.0.0", (32, 16, 16)),
    ("shufflenet_v2_x0_5", (3, 32, 32), "conv1.0", (24, 16, 16)),
    ("regnet_y_400mf", (3, 32, 32), "stem.0", (32, 16, 16)),
    ("squeezenet1_1", (3, 64, 64), "features.0", (64, 31, 31)),
    ("alexnet", (3, 64, 64), "features.0", (64, 15, 15)),
    ("googlenet", (3, 64, 64), "conv1.conv", (64, 32, 32)),
    ("inception_v3", (3, 96, 96), "Conv2d_1a_3x3.conv", (32, 47, 47)),
    ("convnext_tiny", (3, 32, 32), "features.0.0", (96, 8, 8)),
    ("vit_b_16", (3, 32, 32), "conv_proj", (768, 2, 2)),
    ("swin_t", (3, 32, 32), "features.0.0", (96, 8, 8)),
    (OWN + "strided", (3, 20, 20), "0", (12, 10, 10)),
    (OWN + "small_vit", (3, 16, 16), "conv_proj", (32, 4, 4)),
    (OWN + "grey", (1, 12, 12), "0", (8, 12, 12))]


@pytest.mark.parametrize("model, shape, name, features", NETWORKS)
def test_first_layer_is_found_in_float32_with_the_images_channels(model, shape, name, features):
    network = build(model, 4, shape)
    layer = network.get_submodule(name)
    assert find(network, shape) == name and isinstance(layer, Float32Conv2d)
    assert all(isinstance(x, int) for x in layer.padding)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(torch.zeros(1, *shape))
    assert result.shape[1:] == features and result.dtype == torch.float32


@pytest.mark.parametrize("model, shape, words", [
    (OWN + "linear", (3, 8, 8), "first operation is 0 .Linear., which is no convolution"),
    (OWN + "Padding", (3, 8, 8), "changes the image before its first layer rest.0"),
    (OWN + "Scaling", (3, 8, 8), "changes the image before its first layer rest.0"),
    (OWN + "reflecting", (3, 8, 8), "0 pads with reflect, not with zeros"),
    (OWN + "Functional", (3, 8, 8), "first operation is rest.0 .MaxPool2d."),
    (OWN + "lopsided", (3, 8, 8), "pads one side more than the other"),
    (OWN + "grey", (3, 8, 8), "expected .* to have 1 channels, but got 3"),
    (OWN + "small_vit", (3, 20, 20), "image height! Expected 16 but got 20"),
    ("vit_b_16", (3, 20, 20), "indivisible by patch size"),
    ("alexnet", (3, 16, 16), "Output size is too small"),
    ("maxvit_t", (3, 32, 32), "not divisible by partition size"),
    (OWN + "three_logits", (3, 8, 8), "does not give 4 logits"),
    (OWN + "not_a_network", (3, 8, 8), "gives no torch.nn.Module"),
    (OWN + "nowhere", (3, 8, 8), "it cannot be imported .*no attribute 'nowhere'"),
    ("no_such_package:network", (3, 8, 8),
     "it cannot be imported .*No module named 'no_such_package'"),
    ("resnet17", (3, 32, 32), "there is no network resnet17: choose vgg11, .*resnet18"),
    ("fcn_resnet50", (3, 32, 32), "there is no network fcn_resnet50")])
def test_networks_that_aug_conv_cannot_stand_in_are_refused_by_name(model, shape, words):
    with pytest.raises(ValueError, match=words) as refused:
        build(model, 4, shape)
    assert "\n" not in str(refused.value) and model in str(refused.value)


@pytest.mark.parametrize("model, shape", [
    ("resnet18_cifar", (3, 8, 8)), ("vgg11", (3, 8, 8)), (OWN + "small_vit", (3, 16, 16)),
    (OWN + "strided", (3, 16, 16)), (OWN + "grey", (1, 16, 16))])
def test_the_rest_of_a_network_gives_its_logits_from_the_features(model, shape):
    """Exactly; in training, with the statistics of the batch, too."""
    torch.manual_seed(0)
    network, images = build(model, 4, shape, dropout=0).double(), torch.randn(4, *shape).double()
    layer = network.get_submodule(find(network, shape))
    behind = BehindFirstLayer(copy.deepcopy(network), shape)
    for mode in (False, True):
        features = layer(images)
        assert torch.equal(behind.train(mode)(features), network.train(mode)(images))
    assert {f"{behind.name}.weight"} <= set(network.state_dict()) - set(
        behind.network.state_dict()) <= {f"{behind.name}.weight", f"{behind.name}.bias"}


@pytest.mark.parametrize("layer", [
    nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Conv2d(4, 6, (2, 3), 2, (1, 0), groups=2),
    nn.Conv2d(1, 5, 3, dilation=(2, 1))])
def test_first_layer_survives_the_way_through_a_file(layer):
    mean, std = (0.25,) * layer.in_channels, (0.5,) * layer.in_channels
    again, *normalisation = first_layer.from_file(first_layer.to_file(layer, mean, std))
    images = torch.randn(2, layer.in_channels, 9, 9)
    assert torch.equal(layer(images), again(images)) and normalisation == [mean, std]
    assert not any(w.requires_grad for w in again.parameters())
    assert first_layer.fingerprint(layer) == first_layer.fingerprint(again)


def test_a_network_of_ones_own_by_name(monkeypatch):
    """A function and its line in OWN, as the README says."""
    def small(classes):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, classes))

    monkeypatch.setitem(networks.OWN, "small", small)
    assert networks.build("small", 5, (3, 8, 8))(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    with pytest.raises(ValueError, match="vgg19, resnet18_cifar, small, a classification"):
        networks.build("smal", 5, (3, 8, 8))


@pytest.mark.parametrize("changed", [
    dict(stride=(2, 2)), dict(padding=(0, 0)), dict(dilation=(1, 2)), dict(bias=torch.ones(6)),
    dict(weight=torch.ones(6, 3, 2, 2))])
def test_the_fingerprint_is_of_weight_bias_and_geometry(changed):
    content = first_layer.to_file(nn.Conv2d(3, 6, 2, padding=1), (0,) * 3, (1,) * 3)
    one, other = (first_layer.fingerprint(first_layer.from_file(c)[0])
                  for c in (content, content | changed))
    assert one != other


@pytest.mark.parametrize("changed", [
    dict(groups=4), dict(mean=(0.5,)), dict(std=(0.5, 0.5, 0.5, 0)), dict(stride=(1, 0)),
    dict(padding="same"), dict(weight=torch.zeros(6, 2, 3, 3).double())])
def test_a_damaged_first_layer_is_refused(changed):
    content = first_layer.to_file(nn.Conv2d(4, 6, 3, groups=2), (0,) * 4, (1,) * 4)
    with pytest.raises(ValueError, match="do not fit together"):
        first_layer.from_file(content | changed)


def weights_of(model, classes, shape, without=""):
    torch.manual_seed(1)
    state = build(model, classes, shape).state_dict()
    return {name: w for name, w in state.items() if not (without and name.startswith(without))}


@pytest.mark.parametrize("model, given, not_for", [
    ("resnet18", dict(classes=4), []),
    ("resnet18", dict(classes=7), ["fc.weight", "fc.bias"]),
    ("resnet18", dict(classes=4, without="conv1"), ["conv1.weight"]),
    ("vgg11", dict(classes=7), None),
    (OWN + "small_vit", dict(classes=7), ["heads.head.weight", "heads.head.bias"])])
def test_weights_of_other_classes_or_without_first_layer_start_a_network(model, given, not_for):
    shape = (3, 16, 16)
    network, weights = build(model, 4, shape), weights_of(model, shape=shape, **given)
    own = {name: w.clone() for name, w in network.state_dict().items()}
    other = start_from(network, weights)
    assert not_for in (None, other) and len(other) == (2 if not_for is None else len(not_for))
    for name, w in network.state_dict().items():
        assert torch.equal(w, own[name] if name in other else weights[name]), name


@pytest.mark.parametrize("weights", [("vgg11", 4, (3, 16, 16)), ("resnet34", 4, (3, 16, 16)),
                                     None])
def test_weights_of_another_network_are_refused(weights):
    """Also where they would all fit, but are of a larger one."""
    network = build("resnet18", 4, (3, 16, 16))
    before = {name: w.clone() for name, w in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"of another network: .* is not in both"):
        start_from(network, weights_of(*weights) if weights else {})
    assert all(torch.equal(w, before[name]) for name, w in network.state_dict().items())


@pytest.mark.parametrize("form", [
    lambda state, path: torch.save(state, path),
    lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    lambda state, path: torch.save({"network": state, "model": {}}, path)])
def test_files_that_a_network_starts_from(form, tmp_path, capsys):
    """A plain state_dict, one as PyTorch wrote them before 1.6, and what a step has saved."""
    state = weights_of("vgg11", 4, (3, 8, 8))
    form(state, tmp_path / "weights.pt")
    p = Parameters(model="vgg11", init=str(tmp_path / "weights.pt"))
    network, _ = new_network(p, 4, (3, 8, 8))
    assert all(torch.equal(w, state[name]) for name, w in network.state_dict().items())
    (tmp_path / "weights.pt").write_text("not weights")
    with pytest.raises(UserError, match=r"weights\.pt is damaged.*name a file of weights"):
        new_network(p, 4, (3, 8, 8))
