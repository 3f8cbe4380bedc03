"""Repairs of Aug-Conv, which `attack.py --score --repairs` attacks."""

import torch
from torch import Tensor

from models.aug_conv import AugConv

# The repairs that are tried, with their strengths.
REPAIRS = (("signs", 0.0), ("scales", 0.5), ("mixing", 1.0), ("local_mixing", 1.0),
           *(("channels", kept) for kept in (24.0, 16.0, 8.0)),
           *(("noise", size) for size in (1e-3, 1e-2, 0.1, 1.0)))


def repair(weight: Tensor, out_shape: tuple[int, int, int], kind: str, strength: float,
           generator: torch.Generator) -> Tensor:
    """Aug-Conv's weight (αm², βn²) float32 under a repair that was proposed or comes to mind.

    `none`: itself. `signs`: random signs of channels. `scales`: also factors, log-normal with
    deviation `strength`. `mixing`: one random β×β matrix, orthogonal at strength 0 and plain normal
    at 1, mixes the channels at all positions; `local_mixing`: another at each. `channels`: only the
    first `strength` are kept, (αm², strength·n²). `noise`: normal, `strength` times the weight's
    rms. Raises ValueError for any other kind.
    """
    beta, positions = out_shape[0], out_shape[1] * out_shape[2]
    cube = weight.view(len(weight), beta, positions)
    if kind == "none":
        return weight
    if kind in ("signs", "scales"):             # the former have strength 0
        sign, size = torch.randn(2, beta, generator=generator)
        return (cube * (sign.sign() * (strength * size).exp())[:, None]).flatten(1)
    if kind in ("mixing", "local_mixing"):
        count = positions if kind == "local_mixing" else 1
        normal = torch.randn(count, beta, beta, generator=generator)
        mixing = (1 - strength) * torch.linalg.qr(normal)[0] + strength * normal / beta ** 0.5
        mixed = [torch.einsum("lbi,ibc->lci", rows, mixing.expand(positions, -1, -1))
                 if count > 1 else mixing[0].T @ rows for rows in cube.split(256)]
        return torch.cat(mixed).flatten(1)
    if kind == "channels":
        return cube[:, :int(strength)].flatten(1)
    if kind == "noise":
        rms = weight.norm() / weight.numel() ** 0.5
        return weight + strength * rms * torch.randn(weight.shape, generator=generator)
    raise ValueError(f"no repair is named {kind}")


def repaired(aug_conv: AugConv, kind: str, strength: float) -> AugConv:
    """A dense Aug-Conv, without bias, under a repair that is always the same."""
    weight, (_, *size) = aug_conv.weight, aug_conv.out_shape
    weight = repair(weight, aug_conv.out_shape, kind, strength, torch.Generator().manual_seed(1))
    return AugConv(weight, (weight.shape[1] // (size[0] * size[1]), *size))
