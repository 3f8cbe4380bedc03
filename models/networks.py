"""Networks by name: VGG as the reference builds it, torchvision's, and the user's own."""

import importlib
import os
import sys

import torch
import torchvision
from torch import nn

from models import first_layer
from models.vgg import GROUPS, VGG


def build(name: str, classes: int, shape: tuple[int, int, int], dropout: float = 0.5) -> nn.Module:
    """A network for images of `shape` (α, m, m), its first layer in float32 (first_layer.prepare).

    `name`: vgg11 to vgg19, resnet18_cifar, a classification network of torchvision, or
    `package.module:callable` of the user's own, which is called with `num_classes`. `dropout` is
    VGG's. Raises ValueError where there is no such network, or its first layer is not one that
    Aug-Conv can stand for.
    """
    channels, side = shape[:2]
    if name in GROUPS:
        network = VGG(name, classes, channels, side, dropout)
    elif ":" in name:
        network = _own(name)(num_classes=classes)
    elif name == "resnet18_cifar":                       # for small images: no stride, no pool
        network = torchvision.models.resnet18(num_classes=classes)
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif name in torchvision.models.list_models(module=torchvision.models):
        more = {"image_size": side} if name.startswith("vit_") else {}
        more |= {"input_size": (side, side)} if name.startswith("maxvit") else {}
        more |= {"aux_logits": False, "init_weights": True} if name in (
            "googlenet", "inception_v3") else {}
        network = torchvision.models.get_model(name, weights=None, num_classes=classes, **more)
    else:
        raise ValueError(f"there is no network {name}: choose {', '.join(GROUPS)}, resnet18_cifar, "
                         "a classification network of torchvision (such as resnet18), or "
                         "package.module:callable")
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name} gives no torch.nn.Module")
    if ":" not in name and channels != 3 and name not in GROUPS:
        place = first_layer.find(network, (3, side, side))
        old = network.get_submodule(place)
        network.set_submodule(place, nn.Conv2d(
            channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation,
            bias=old.bias is not None))
    try:
        first_layer.prepare(network, shape)
    except ValueError as wrong:
        raise ValueError(f"{name} cannot be used: {wrong}") from None
    return network


def _own(name: str):
    """The callable that `package.module:callable` names, looked for in the current folder too."""
    module, _, attribute = name.partition(":")
    sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as wrong:
        raise ValueError(f"{name} cannot be imported ({wrong})") from None


def start_from(network: nn.Module, weights: dict[str, torch.Tensor]) -> list[str]:
    """Puts weights into a network, in place; gives the names of its tensors that they are not for:
    a classifier of other classes, and the first layer where there is none.

    Raises ValueError where more than that differs.
    """
    state = network.state_dict()
    fitting = {name: w for name, w in weights.items()
               if name in state and state[name].shape == w.shape}
    missing = [name for name in state if name not in fitting]
    classifier = list(state)[-1].rpartition(".")[0]
    if any(not name.startswith(classifier) for name in missing) or not fitting:
        raise ValueError(f"the weights are of another network: they have no fitting "
                         f"{next(iter(missing))}")
    network.load_state_dict(fitting, strict=False)
    return missing
