"""The Augmented Convolution: M⁻¹ and a network's first layer in one frozen layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AugConv(nn.Module):
    """Morphed images to the first layer's features (B, β, n, n), channels in Aug-Conv's order.

    `weight` (αm², βn²) is C_ac of the paper (section 3), for images (B, αm²). `weight` (q, β, k, l)
    is for images (B, q, t, t) that were morphed by tiles: a transposed convolution of stride `step`
    whose output begins `offset` before the features (mole.morphing.compose_by_tiles). `bias` (β)
    or None; weight and bias are buffers: moved with the layer, and never trained.

    Computes in the weight's dtype, float32, out of autocast: it undoes a morphing whose entries are
    large against the features. Raises ValueError where the shapes do not fit each other.
    """

    def __init__(self, weight: Tensor, out_shape: tuple[int, int, int], bias: Tensor | None = None,
                 step: tuple[int, int] = (0, 0), offset: tuple[int, int] = (0, 0)):
        super().__init__()
        beta, rows, columns = out_shape
        if not ((weight.ndim == 2 and weight.shape[1] == beta * rows * columns)
                or (weight.ndim == 4 and weight.shape[1] == beta and min(step) > 0
                    and len(step) == len(offset) == 2)):
            raise ValueError(f"a weight of shape {tuple(weight.shape)} does not give features of "
                             f"shape {tuple(out_shape)}")
        if bias is not None and bias.shape != (beta,):
            raise ValueError(f"a bias of shape {tuple(bias.shape)} does not fit {beta} channels")
        self.out_shape, self.step, self.offset = tuple(out_shape), tuple(step), tuple(offset)
        self.register_buffer("weight", weight if weight.ndim == 2 else
                             weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)

    def to_file(self) -> dict:
        """What the provider hands over of it: tensors and plain values."""
        content = {"weight": self.weight.cpu(), "out_shape": self.out_shape, "step": self.step,
                   "offset": self.offset}
        return content if self.bias is None else content | {"bias": self.bias.cpu()}

    def forward(self, morphed: Tensor) -> Tensor:
        with torch.autocast(morphed.device.type, enabled=False):
            morphed = morphed.to(self.weight.dtype)
            if self.weight.ndim == 2:
                features = (morphed.flatten(1) @ self.weight).view(-1, *self.out_shape)
            else:
                # Channels-last, where it is three times as fast on the CPU.
                whole = F.conv_transpose2d(morphed.contiguous(memory_format=torch.channels_last),
                                           self.weight, stride=self.step)
                rims = [(-o, o + s - w) for o, s, w in zip(self.offset, self.out_shape[1:],
                                                           whole.shape[2:], strict=True)]
                features = F.pad(whole, (*rims[1], *rims[0]))
            return features if self.bias is None else features + self.bias.view(-1, 1, 1)
