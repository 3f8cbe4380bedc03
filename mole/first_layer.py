"""The first layer of any network: found, taken out, put in a file, and what stands behind it."""

import hashlib

import torch
from torch import Tensor, nn


class Float32Conv2d(nn.Conv2d):
    """A convolution that stays in float32 under autocast.

    As precise as Aug-Conv in every network, so that they differ in nothing else: bfloat16 would
    round away most of an image that a uniform core has morphed.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class _Reached(Exception):
    pass


def find(network: nn.Module, shape: tuple[int, int, int]) -> str:
    """The name of a network's first layer, for images of `shape` (α, m, m).

    That is the first module without children that a forward pass reaches. Raises ValueError, naming
    it, where it is no convolution of the image itself, padded with zeros.
    """
    image = torch.zeros(1, *shape)

    def reach(module, inputs):
        raise _Reached(module, inputs)

    hooks = [module.register_forward_pre_hook(reach) for module in network.modules()
             if not list(module.children())]
    try:
        network(image)
        raise ValueError("the network reaches none of its modules")
    except _Reached as reached:
        layer, inputs = reached.args
    finally:
        for hook in hooks:
            hook.remove()
    name = next(name for name, module in network.named_modules() if module is layer)
    if not isinstance(layer, nn.Conv2d) or not name:
        raise ValueError(f"the network's first operation is {name or 'its whole'} "
                         f"({type(layer).__name__}), which is no convolution in it")
    if inputs[0].data_ptr() != image.data_ptr() or inputs[0].shape != image.shape:
        raise ValueError(f"the network changes the image before its first layer {name}")
    if layer.padding_mode != "zeros":
        raise ValueError(f"the first layer {name} pads with {layer.padding_mode}, not with zeros")
    return name


def prepare(network: nn.Module, shape: tuple[int, int, int]) -> nn.Conv2d:
    """A network's first layer, made to compute in float32 in its place, its padding in numbers;
    raises ValueError as `find` does, and where `same` padding has two different sides."""
    layer = network.get_submodule(find(network, shape))
    layer.__class__ = Float32Conv2d
    if isinstance(layer.padding, str):
        total = [d * (k - 1) * (layer.padding == "same") for d, k in
                 zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(t % 2 for t in total):
            raise ValueError("the first layer pads one side more than the other")
        layer.padding = (total[0] // 2, total[1] // 2)
    return layer


class _Features(nn.Module):
    """Stands where the first layer was, and gives what was computed of it."""

    def forward(self, _) -> Tensor:
        return self.features


class BehindFirstLayer(nn.Module):
    """The rest of a network, from the first layer's features (B, β, n, n) to logits (B, classes).

    The network itself still runs from its start, since some look at their image's shape: it gets an
    image of zeros without memory of its own, and the features where its first layer was. It is
    changed in place. `shape` (α, m, m): of its images.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, int, int]):
        super().__init__()
        self.name, self.shape = find(network, shape), tuple(shape)
        network.set_submodule(self.name, _Features())
        self.network = network

    def forward(self, features: Tensor) -> Tensor:
        self.network.get_submodule(self.name).features = features
        image = torch.zeros((), device=features.device).expand(len(features), *self.shape)
        return self.network(image)


def to_file(layer: nn.Conv2d, mean: tuple, std: tuple) -> dict:
    """All that the developer gives to the provider: weight, bias (if any) and geometry of a
    convolution, and the mean and deviation of each colour that its images are normalised with."""
    content = {"weight": layer.weight.detach().cpu().contiguous(), "stride": layer.stride,
               "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups,
               "mean": tuple(mean), "std": tuple(std)}
    return content if layer.bias is None else content | {"bias": layer.bias.detach().cpu()}


def from_file(content: dict) -> tuple[nn.Conv2d, tuple, tuple]:
    """The frozen convolution that to_file wrote, mean and deviation; ValueError where the values do
    not fit together."""
    weight, bias, groups = content["weight"], content.get("bias"), content["groups"]
    mean, std = content["mean"], content["std"]
    try:
        for name, least in (("stride", 1), ("padding", 0), ("dilation", 1)):
            if [type(x) is int and least <= x < 10**4 for x in content[name]] != [True, True]:
                raise ValueError
        if weight.dtype != torch.float32 or not (all(0 < s < 10**6 for s in std)
                                                 and all(abs(m) < 10**6 for m in mean)):
            raise ValueError
        layer = Float32Conv2d(weight.shape[1] * groups, len(weight), tuple(weight.shape[2:]),
                              content["stride"], content["padding"], content["dilation"], groups,
                              bias=bias is not None)
        layer.load_state_dict({"weight": weight} if bias is None
                              else {"weight": weight, "bias": bias})
        if not len(mean) == len(std) == layer.in_channels:
            raise ValueError
        return layer.requires_grad_(False), tuple(map(float, mean)), tuple(map(float, std))
    except (RuntimeError, TypeError, ValueError, AttributeError):
        raise ValueError("the first layer's weight, geometry and normalisation do not fit "
                         "together") from None


def fingerprint(layer: nn.Conv2d) -> str:
    """SHA-256 of a convolution's weight, bias and geometry: whether two are the same."""
    sha256 = hashlib.sha256(repr((layer.stride, layer.padding, layer.dilation, layer.groups,
                                  layer.weight.shape)).encode())
    for x in (layer.weight, layer.bias):
        sha256.update(b"" if x is None else x.detach().cpu().contiguous().numpy())
    return sha256.hexdigest()
