"""The Augmented Convolution: M⁻¹ and a network's first layer in one matrix."""

from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def full_float32():
    """No autocast, and no TF32 or bfloat16 in float32 products, whatever the global settings.

    Aug-Conv undoes a morphing whose entries are large against the features, so the 10 bits of
    TF32 would leave noise: the layer's relative error is already 2e-3 in float32 (uniform core).
    """
    backends = [torch.backends.cuda.matmul, torch.backends.cudnn.conv,
                torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


class AugConv(nn.Module):
    """Morphed images (B, αm²) to the first layer's features (B, β, n, n), channels shuffled.

    `weight` (αm², βn²) float32 is C_ac of the paper (section 3), `bias` (β) float32 or None. Both
    are buffers: they are saved and moved with the network, and never trained.

    Raises ValueError where the shapes do not fit each other.
    """

    def __init__(self, weight: Tensor, out_shape: tuple[int, int, int], bias: Tensor | None = None):
        super().__init__()
        beta, rows, columns = out_shape
        if weight.ndim != 2 or weight.shape[1] != beta * rows * columns:
            raise ValueError(f"a matrix of shape {tuple(weight.shape)} does not give features of "
                             f"shape {tuple(out_shape)}")
        if bias is not None and bias.shape != (beta,):
            raise ValueError(f"a bias of shape {tuple(bias.shape)} does not fit {beta} channels")
        self.out_shape = tuple(out_shape)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, morphed: Tensor) -> Tensor:
        with full_float32():
            features = morphed.float().flatten(1) @ self.weight
            features = features.view(-1, *self.out_shape)
            return features if self.bias is None else features + self.bias.view(-1, 1, 1)
