"""Repairs of Aug-Conv, and the attacks on them that `attack.py --score --repairs` plays."""

import time

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks import adversary, algebra, blind
from attacks.algebra import deconvolve
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


def attack_repair(kind: str, strength: float, view: adversary.View, truth: adversary.Truth) -> dict:
    """Attacks 2 and 3 on a repaired variant of Aug-Conv, and what noise does to its features."""
    report, began = {"repair": kind, "strength": strength}, time.perf_counter()
    filters = algebra.filter_bank(view.layer)
    exact, view = view.aug_conv, view._replace(aug_conv=repaired(view.aug_conv, kind, strength))
    if kind == "local_mixing":
        channels, kernel = filters.shape[1:3]
        images = blind.blind_pixels(*adversary.maps_and_probes(view), channels, kernel)
        inner = truth._replace(pixels=F.pad(truth.pixels, [view.layer.padding[0] + 1 - kernel] * 4))
        return report | {"known_first_layer": {}, "blind": {
            "up_to_colour": adversary.measured(images, inner, up_to_colour=True),
            "seconds": adversary.since(began)}}
    found = adversary.recover(view, truth)
    report |= found.report
    if kind == "noise":
        exact = algebra.feature_maps(view.morphed, exact)
        report["error_of_the_features"] = float((found.features - exact).norm() / exact.norm())
    if kind == "noise" and found.order is not None:
        began = time.perf_counter()
        inverse = denoised_inverse(
            view.aug_conv.weight, view.aug_conv.out_shape, filters[found.order],
            view.layer.padding[0] - view.geometry.image_padding, view.all_morphed, view.public)
        images = adversary.unpadded(view.morphed.double() @ inverse, view.geometry)
        report["known_first_layer_denoised"] = adversary.measured(images, truth) | {
            "seconds": adversary.since(began)}
    return report


def denoised_inverse(weight: Tensor, out_shape: tuple[int, int, int], filters: Tensor, padding: int,
                     morphed: Tensor, public: Tensor) -> Tensor:
    """Attack 2 where noise was added to Aug-Conv: M⁻¹ (αm², αm²) float64, by Wiener's shrinkage.

    Rows of Aug-Conv are features of rows of M⁻¹ and are deconvolved like any, which leaves noise.
    But T·M⁻¹ must have the second moments of images, for which public ones (n, αm²) stand, and T
    those of `morphed` (N, αm²): on the axes of both, that tells the size to be expected of each
    entry of M⁻¹, and what the deconvolution leaves unexplained tells the size of the noise.
    """
    side = out_shape[-1] + filters.shape[-1] - 1 - 2 * padding
    rows, morphed, public = weight.view(-1, *out_shape), morphed.double(), public.double()
    inverse = torch.cat([deconvolve(r, filters, side, 1, padding) for r in rows.split(512)])
    left = rows[:64] - F.conv2d(inverse[:64], filters.double(), padding=padding)
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(16, *out_shape, generator=generator)
    gain = deconvolve(random, filters, side, 1, padding).var()
    noise = gain * left.var() / (1 - len(weight) / weight.shape[1])
    strong, v = torch.linalg.eigh(morphed.T @ morphed / len(morphed))
    likely, q = torch.linalg.eigh(public.T @ public / len(public))
    expected = likely.clamp(min=0) / (len(weight) * strong.clamp(min=1e-12)[:, None])
    return v @ (v.T @ inverse.flatten(1) @ q * expected / (expected + noise)) @ q.T
