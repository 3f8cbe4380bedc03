"""Morphed Learning in tensors (paper, section 3): the core M', morphing T = D·M, and Aug-Conv.

M is block diagonal: κ copies of M' (q×q), q = αm²/κ. So a product with M is a reshape and a product
with M', and its inverse is κ copies of the inverse of M'. No function here opens a file.
"""

import secrets

import numpy as np
import torch
from scipy.sparse.linalg import svds
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 16                          # rows handled at once: what a block needs stays in the cache


def core_size(shape: tuple[int, int, int], kappa: int) -> int:
    """q = αm²/κ for images of shape (α, m, m); raises ValueError where κ does not divide αm²."""
    entries = shape[0] * shape[1] * shape[2]
    if kappa < 1 or entries % kappa:
        raise ValueError(f"kappa is {kappa}, which does not divide the {entries} entries of an "
                         f"image of shape {shape[0]}x{shape[1]}x{shape[2]}")
    return entries // kappa


def secret_generator(seed: int | None, purpose: int) -> np.random.Generator:
    """Random numbers for the provider's secrets, from 256 bits of the operating system.

    `torch.rand` would not do: PyTorch's CPU generator uses 32 bits of its seed, so at most 2^32
    cores could ever be drawn. A `seed` of any size is for tests. `purpose` separates the streams
    of different secrets under one seed.
    """
    entropy = secrets.randbits(256) if seed is None else seed
    sequence = np.random.SeedSequence(entropy, spawn_key=(purpose,), pool_size=8)
    return np.random.Generator(np.random.PCG64DXSM(sequence))


def draw_core(q: int, distribution: str, generator: np.random.Generator) -> Tensor:
    """The morphing core M' (q, q) float32.

    `uniform`: entries on [0, 1), as the paper and its scripts draw it. `normal`: N(0, 1/q), which
    keeps the size of an image. `orthogonal`: Haar (QR of a normal matrix with the signs of R's
    diagonal; Mezzadri, Notices of the AMS 54, 2007), the best conditioned.
    """
    if distribution == "uniform":
        core = torch.from_numpy(generator.random((q, q)))
    else:
        core = torch.from_numpy(generator.standard_normal((q, q))) / q ** 0.5
    if distribution == "orthogonal":
        core, r = torch.linalg.qr(core)
        core *= r.diagonal().sign()
    return core.float()


def invert_core(core: Tensor) -> Tensor:
    """The inverse (q, q) float32 of a core, computed in float64.

    The core is float32 already, so this is the inverse of what morphs the images and not of what
    it was rounded from. Raises ValueError for a singular core.
    """
    try:
        return torch.linalg.inv(core.double()).float()
    except torch.linalg.LinAlgError:
        raise ValueError("the core is singular") from None


def condition_number(core: Tensor, inverse: Tensor) -> float:
    """Ratio of a core's largest singular value to its smallest, in float64 (about 1% exact).

    The smallest is the reciprocal of the inverse's largest, so Lanczos finds both in products with
    vectors: a full decomposition takes ten times as long as the inverse itself.
    """
    if len(core) < 64:                                   # too small for Lanczos
        return float(torch.linalg.cond(core.double()))
    largest = [svds(matrix.double().numpy(), k=1, tol=1e-3, return_singular_vectors=False,
                    random_state=0)[0] for matrix in (core, inverse)]
    return float(largest[0] * largest[1])


def usable_core(q: int, distribution: str, generator: np.random.Generator,
                attempts: int = 12) -> tuple[Tensor, Tensor, float]:
    """A core, its inverse (both (q, q) float32) and its condition number, drawn until it is good.

    The condition number of random matrices has a heavy tail: for normal entries it exceeds x·q
    about 2/x of the time (Edelman, SIAM J. Matrix Anal. Appl. 9, 1988), and the features' error
    grows with it. Cores beyond 5q are drawn again, about one in three; a uniform core's largest
    singular value is q/2 and not 2·√(q/12), so there the bound is √(3q/4) times that.

    Raises ValueError where no attempt gives such a core.
    """
    bound = 5 * q * max(1, (0.75 * q) ** 0.5 if distribution == "uniform" else 1)
    for _ in range(attempts):
        core = draw_core(q, distribution, generator)
        try:
            inverse = invert_core(core)
        except ValueError:
            continue
        condition = condition_number(core, inverse)
        if condition <= bound:
            return core, inverse, condition
    raise ValueError(f"{attempts} cores {q}x{q} in a row were numerically singular")


def residual(core: Tensor, inverse: Tensor) -> float:
    """Largest entry of |M·M⁻¹ - 1|, in float64."""
    product = core.double() @ inverse.double()
    product.diagonal().sub_(1)
    return float(product.abs().max())


def morph(images: Tensor, core: Tensor) -> Tensor:
    """T = D·M: unrolled images (B, αm²) to morphed ones, float32, multiplied in float64."""
    pieces = images.double().view(-1, len(core))                  # (B·κ, q)
    return (pieces @ core.double()).view_as(images).float()


def fitted_padding(padding: tuple[int, int], image_padding: int) -> tuple[int, int]:
    """Padding that the first layer has left on images that bring `image_padding` zeros along.

    Raises ValueError where the layer pads less than that: its features would differ.
    """
    if min(padding) < image_padding:
        raise ValueError(f"image_padding is {image_padding}, but the first layer pads its images "
                         f"by {min(padding)} only")
    return padding[0] - image_padding, padding[1] - image_padding


def compose_aug_conv(layer: nn.Conv2d, inverse: Tensor, shape: tuple[int, int, int],
                     order: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """C_ac = M⁻¹·C, its channel blocks in `order`: the matrix (αm², βn²) float32, and (β, n, n).

    A row of M⁻¹ is an image of shape (α, m, m), and the layer applied to it is that row of M⁻¹·C:
    neither C nor the full M⁻¹ is ever made. The layer's bias is left out (it goes to Aug-Conv's).
    Channel j of the result is channel order[j] of the layer.

    Raises ValueError where the layer does not fit the images.
    """
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError("the first layer must pad with zeros, by a number of pixels")
    if layer.in_channels != shape[0]:
        raise ValueError(f"the first layer takes {layer.in_channels} channels, but the images have "
                         f"{shape[0]}")

    q, entries = len(inverse), shape[0] * shape[1] * shape[2]
    try:
        out_shape = tuple(F.conv2d(inverse.new_zeros(1, *shape), layer.weight, None, layer.stride,
                                   layer.padding, layer.dilation, layer.groups).shape[1:])
    except RuntimeError:
        raise ValueError(f"the first layer's kernel is larger than the images, {shape[1]}x"
                         f"{shape[2]}") from None
    # Filters over all channels: those of a group are zero on the other groups' channels.
    groups = layer.weight.detach().flatten(1).chunk(layer.groups)
    filters = torch.block_diag(*groups)[order]
    weight = torch.empty(entries, out_shape[0] * out_shape[1] * out_shape[2], device=inverse.device)
    with torch.inference_mode():
        for start in range(0, entries, q):                        # a copy of M' on the diagonal
            for first in range(0, q, BLOCK):
                piece = inverse[first:first + BLOCK]
                rows = inverse.new_zeros(len(piece), entries)
                rows[:, start:start + q] = piece
                patches = F.unfold(rows.view(-1, *shape), layer.kernel_size, layer.dilation,
                                   layer.padding, layer.stride)
                # Straight into the matrix: a convolution's own result would have to be copied.
                target = weight[start + first:start + first + len(piece)]
                torch.matmul(filters, patches, out=target.view(len(piece), len(filters), -1))
    return weight, out_shape


def relative_error(value: Tensor, exact: Tensor) -> float:
    """||value - exact|| / ||exact||, in float64."""
    exact = exact.double()
    return float((value.double() - exact).norm() / exact.norm())
