"""Networks by name: VGG as the reference builds it, torchvision's, and the user's own."""

import os
import pkgutil
import sys

import torch
import torchvision
from torch import nn

from models.vgg import GROUPS, VGG
from mole import first_layer


def resnet18_cifar(classes: int) -> nn.Module:
    """ResNet-18 for small images: no stride and no pool at its start."""
    network = torchvision.models.resnet18(num_classes=classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


OWN = {"resnet18_cifar": resnet18_cifar}        # by the names that --model takes, of 3 channels


def build(name: str, classes: int, shape: tuple[int, int, int], dropout: float = 0.5) -> nn.Module:
    """A network for images of `shape` (α, m, m), its first layer in float32 (first_layer.prepare).

    `name`: vgg11 to vgg19, resnet18_cifar, a classification network of torchvision, or
    `package.module:callable` of the user's own, found from the current folder too, and called with
    `num_classes`. `dropout` is VGG's. It is tried on one blank image. Raises ValueError where there
    is no such network, it takes no such images, or Aug-Conv cannot stand for its first layer.
    """
    if not (name in GROUPS or ":" in name or name in OWN
            or name in torchvision.models.list_models(module=torchvision.models)):
        raise ValueError(f"there is no network {name}: choose {', '.join([*GROUPS, *OWN])}, a "
                         "classification network of torchvision (such as resnet18), or "
                         "package.module:callable")
    try:
        network = _built(name, classes, *shape[:2], dropout)
        first_layer.prepare(network, shape)
        with torch.no_grad():
            logits = network.eval()(torch.zeros(1, *shape))
        if not isinstance(logits, torch.Tensor) or logits.shape != (1, classes):
            raise ValueError(f"it does not give {classes} logits for an image")
    except Exception as wrong:                           # whatever a user's own code leads to
        raise ValueError(f"{name} cannot be used for images {'x'.join(map(str, shape))}: "
                         f"{' '.join(str(wrong).split())[:150]}") from None
    return network.train()


def _built(name: str, classes: int, channels: int, side: int, dropout: float) -> nn.Module:
    if name in GROUPS:
        return VGG(name, classes, channels, side, dropout)
    if ":" in name:
        sys.path.append(os.getcwd())
        try:
            own = pkgutil.resolve_name(name)
        except Exception as wrong:
            raise ValueError(f"it cannot be imported ({wrong})") from None
        network = own(num_classes=classes)
        if not isinstance(network, nn.Module):
            raise ValueError("it gives no torch.nn.Module")
        return network
    if name in OWN:
        network = OWN[name](classes)
    else:
        more = {"image_size": side} if name.startswith("vit_") else {}
        more |= {"input_size": (side, side)} if name.startswith("maxvit") else {}
        more |= {"aux_logits": False, "init_weights": True} if name in (
            "googlenet", "inception_v3") else {}
        network = torchvision.models.get_model(name, weights=None, num_classes=classes, **more)
    if channels != 3:
        place = first_layer.find(network, (3, side, side))
        old = network.get_submodule(place)
        network.set_submodule(place, nn.Conv2d(
            channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation,
            bias=old.bias is not None))
    return network


def start_from(network: nn.Module, weights: dict[str, torch.Tensor]) -> list[str]:
    """Puts weights into a network of `build`, in place; gives the names of its tensors that they
    are not for: a classifier of other classes, and the first layer where there is none.

    Raises ValueError where more than that differs, but for auxiliary classifiers.
    """
    state = network.state_dict()
    fitting = {name: w for name, w in weights.items()
               if name in state and state[name].shape == w.shape}
    missing = [name for name in state if name not in fitting]
    first = next(name for name, module in network.named_modules()
                 if isinstance(module, first_layer.Float32Conv2d))
    other = [name for name in missing if name.rpartition(".")[0] not in (
        first, list(state)[-1].rpartition(".")[0])]
    other += [name for name in weights if name not in state and not name.lower().startswith("aux")]
    if other:
        raise ValueError(f"the weights are of another network: {other[0]} is not in both, or of "
                         "another shape")
    network.load_state_dict(fitting, strict=False)
    return missing
