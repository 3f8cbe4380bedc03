"""The Augmented Convolution: M⁻¹ and a network's first layer in one frozen layer."""

import math

import torch
from torch import Tensor, nn


class AugConv(nn.Module):
    """Morphed images to the first layer's features (B, β, n, n), channels in Aug-Conv's order.

    `weight` (αm², βn²) is C_ac of the paper (section 3), for images (B, αm²). `weight` (q, β, k, l)
    is for images (B, q, t, t) that were morphed by tiles: a transposed convolution of stride `step`
    whose output begins `offset` before the features (utils.morphing.compose_by_tiles). `bias` (β)
    or None; weight and bias are buffers: moved with the layer, and never trained.

    Computes in the weight's dtype, float32, out of autocast: it undoes a morphing whose entries are
    large against the features. Raises ValueError where the shapes do not fit each other.
    """

    def __init__(self, weight: Tensor, out_shape: tuple[int, int, int], bias: Tensor | None = None,
                 step: tuple[int, int] = (0, 0), offset: tuple[int, int] = (0, 0)):
        super().__init__()
        beta, rows, columns = out_shape
        if not ((weight.ndim == 2 and weight.shape[1] == beta * rows * columns)
                or (weight.ndim == 4 and weight.shape[1] == beta and min(step) > 0)):
            raise ValueError(f"a weight of shape {tuple(weight.shape)} does not give features of "
                             f"shape {tuple(out_shape)}")
        if bias is not None and bias.shape != (beta,):
            raise ValueError(f"a bias of shape {tuple(bias.shape)} does not fit {beta} channels")
        self.out_shape, self.step, self.offset = tuple(out_shape), tuple(step), tuple(offset)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, morphed: Tensor) -> Tensor:
        with torch.autocast(morphed.device.type, enabled=False):
            morphed = morphed.to(self.weight.dtype)
            if self.weight.ndim == 2:
                features = (morphed.flatten(1) @ self.weight).view(-1, *self.out_shape)
            else:
                features = transposed_convolution(morphed, self.weight, self.out_shape[1:],
                                                  self.step, self.offset)
            return features if self.bias is None else features + self.bias.view(-1, 1, 1)


def transposed_convolution(x: Tensor, weight: Tensor, size: tuple[int, int],
                           step: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """F.conv_transpose2d(x, weight, stride=step), `size` of it from `offset` on, zeros around it.

    x (B, q, t, u), weight (q, β, k, l), result (B, β, *size) channels-last. One matrix product,
    then the blocks of `step` that the kernels overlap in are added up in place: several times as
    fast as PyTorch's own on the CPU, where kernels are little larger than their stride.
    """
    (batch, q, *tiles), (_, beta, *kernel) = x.shape, weight.shape
    product = x.permute(0, 2, 3, 1).reshape(-1, q) @ weight.permute(0, 2, 3, 1).reshape(q, -1)
    product = product.view(batch, *tiles, *kernel, beta)
    pieces = [math.ceil(k / s) for k, s in zip(kernel, step, strict=True)]
    blocks = [t + p - 1 for t, p in zip(tiles, pieces, strict=True)]
    buffer = product.new_zeros(batch, blocks[0], step[0], blocks[1], step[1], beta)
    for i in range(pieces[0]):
        for j in range(pieces[1]):
            piece = product[:, :, :, i * step[0]:(i + 1) * step[0], j * step[1]:(j + 1) * step[1]]
            buffer[:, i:i + tiles[0], :piece.shape[3], j:j + tiles[1], :piece.shape[4]] += (
                piece.transpose(2, 3))
    whole = buffer.view(batch, blocks[0] * step[0], blocks[1] * step[1], beta).permute(0, 3, 1, 2)
    rims = [(-o, o + s - w) for o, s, w in zip(offset, size, whole.shape[2:], strict=True)]
    return nn.functional.pad(whole, (*rims[1], *rims[0]))
