"""The first layer as a file: all that the developer gives to the provider."""

import torch
from torch import nn


def to_file(layer: nn.Conv2d) -> dict:
    """Weight, bias (if any) and geometry of a convolution, as tensors and plain values."""
    content = {"weight": layer.weight.detach().cpu().contiguous(), "stride": layer.stride,
               "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
    if layer.bias is not None:
        content["bias"] = layer.bias.detach().cpu()
    return content


def from_file(content: dict) -> nn.Conv2d:
    """The convolution that to_file wrote; ValueError where the values do not fit together."""
    weight, bias, groups = content["weight"], content.get("bias"), content["groups"]
    try:
        for name, least in (("stride", 1), ("padding", 0), ("dilation", 1)):
            if [type(x) is int and x >= least for x in content[name]] != [True, True]:
                raise ValueError
        layer = nn.Conv2d(weight.shape[1] * groups, len(weight), tuple(weight.shape[2:]),
                          content["stride"], content["padding"], content["dilation"], groups,
                          bias=bias is not None)
        layer.load_state_dict({"weight": weight} if bias is None
                              else {"weight": weight, "bias": bias})
    except (RuntimeError, TypeError, ValueError, AttributeError):
        raise ValueError("the first layer's weight and geometry do not fit together") from None
    return layer.requires_grad_(False).to(torch.float32)
