"""Attacks that put what public images are like in place of what is not known of the scheme."""

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.algebra import deconvolve


def likeness_from_statistics(morphed: Tensor, public: Tensor, kappa: int,
                             components: int = 16) -> Tensor:
    """Attack 6, data only: blurred images (N, αm²) float64 from T and a public sample of the kind.

    An orthogonal M turns the principal axes of the images and keeps their variances, so axes are
    matched by the order of those; random cores of other kinds nearly do so for the few strongest
    axes, once the component that a uniform core adds to all entries of a block alike is taken off.
    Signs come from third moments E[c_i c_j c_k], which must agree with those of the public sample
    (n, αm²). No second-order statistics tell a morphing apart from one that follows a rotation of
    whitened images, so this ends where axes are close in variance.

    Raises ValueError where the samples are too few.
    """
    if min(len(morphed), len(public)) < 2 * components:
        raise ValueError(f"{len(morphed)} morphed and {len(public)} public images are too few for "
                         f"{components} components")
    blocks = morphed.double().view(len(morphed), kappa, -1)
    morphed = (blocks - blocks.mean(2, keepdim=True)).flatten(1)

    def axes(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        centred = x - x.mean(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)            # of the randomised decomposition, which is no secret
            _, s, v = torch.svd_lowrank(centred.float(), q=2 * components, niter=6)
        v, s = v[:, :components].double(), s[:components].double() / len(x) ** 0.5
        c = centred @ v / s
        return c, torch.stack([(c * c[:, i:i + 1]).T @ c for i in range(components)]) / len(x), s, v

    coordinates, seen, _, _ = axes(morphed)
    _, expected, scale, basis = axes(public.double())
    agreement = seen * expected
    signs = torch.randn(500, components, dtype=torch.float64,
                        generator=torch.Generator().manual_seed(0)).sign()
    signs[:, 0] = 1
    for _ in range(20):                     # ascent along one sign after the other, from 500 starts
        for i in range(components):
            rest = signs.clone()
            rest[:, i] = 0
            odd = torch.einsum("rj,jk,rk->r", rest, agreement[i], rest)
            signs[:, i] = torch.where(3 * odd + agreement[i, i, i] < 0, -1.0, 1.0)
    value = torch.einsum("ri,rj,rk,ijk->r", signs, signs, signs, agreement)
    return public.double().mean(0) + coordinates * signs[value.argmax()] * scale @ basis.T


def denoised_inverse(weight: Tensor, out_shape: tuple[int, int, int], filters: Tensor, padding: int,
                     morphed: Tensor, public: Tensor) -> Tensor:
    """Attack 2 where noise was added to Aug-Conv: M⁻¹ (αm², αm²) float64, by Wiener's shrinkage.

    Rows of Aug-Conv are features of rows of M⁻¹ and are deconvolved like any, which leaves noise.
    But T·M⁻¹ must have the second moments of images, for which public ones (n, αm²) stand, and T
    those of `morphed` (N, αm²): on the axes of both, that tells the size to be expected of each
    entry of M⁻¹, and what the deconvolution leaves unexplained tells the size of the noise.
    """
    rows, morphed, public = weight.view(-1, *out_shape), morphed.double(), public.double()
    inverse = torch.cat([deconvolve(r, filters, padding) for r in rows.split(512)])
    left = rows[:64] - F.conv2d(inverse[:64], filters.double(), padding=padding)
    generator = torch.Generator().manual_seed(0)
    gain = deconvolve(torch.randn(16, *out_shape, generator=generator), filters, padding).var()
    noise = gain * left.var() / (1 - len(weight) / weight.shape[1])
    strong, v = torch.linalg.eigh(morphed.T @ morphed / len(morphed))
    likely, q = torch.linalg.eigh(public.T @ public / len(public))
    expected = likely.clamp(min=0) / (len(weight) * strong.clamp(min=1e-12)[:, None])
    return v @ (v.T @ inverse.flatten(1) @ q * expected / (expected + noise)) @ q.T
