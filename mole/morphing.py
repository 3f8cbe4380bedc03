"""Morphed Learning in tensors (paper, section 3): the core M', morphing T = D·M, and Aug-Conv.

M is block diagonal: κ copies of M' (q×q), q = αm²/κ. So a product with M is a reshape and a product
with M', and its inverse is κ copies of the inverse of M'. Beyond the paper, the blocks may be
square tiles of s×s pixels, q = αs²; then Aug-Conv does not grow with the image. No function here
opens a file.
"""

import secrets

import numpy as np
import torch
from scipy.sparse.linalg import svds
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 16                          # rows handled at once: what a block needs stays in the cache


def core_size(shape: tuple[int, int, int], kappa: int = 1, tile: int = 0) -> int:
    """q for images of shape (α, m, m): αm²/κ, or αs² with tiles of side s.

    Raises ValueError where κ does not divide αm².
    """
    if tile:
        return shape[0] * tile * tile
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


def padded_shape(shape: tuple[int, int, int], padding: int) -> tuple[int, int, int]:
    """(α, m + 2·padding, m + 2·padding); a negative padding takes one off again."""
    return shape[0], *(side + 2 * padding for side in shape[1:])


def morphed_shape(shape: tuple[int, int, int], tile: int) -> tuple[int, ...]:
    """Of a morphed image: (αm²,), or (q, t, t) with tiles, t = m/s rounded up."""
    if not tile:
        return (core_size(shape),)
    return core_size(shape, tile=tile), -(-shape[1] // tile), -(-shape[2] // tile)


def unrolled(images: Tensor, tile: int = 0) -> Tensor:
    """D: images (B, α, m, m) as vectors (B, αm²), or with tiles (B, q, t, t).

    A tile is unrolled by channel, row and column, like an image; an image whose side `tile` does
    not divide is first padded with zeros to the right and below. The inverse of this layout, tiles
    back in their places, is F.pixel_shuffle.
    """
    if not tile:
        return images.flatten(1)
    rim = [-side % tile for side in images.shape[2:]]
    return F.pixel_unshuffle(F.pad(images, (0, rim[1], 0, rim[0])), tile)


def morph(images: Tensor, core: Tensor, tile: int = 0) -> Tensor:
    """T = D·M, multiplied in float64: images (B, α, m, m) to (B, αm²), or (B, q, t, t), of their
    dtype."""
    core, plain = core.double(), unrolled(images, tile).double()
    if not tile:
        return (plain.view(-1, len(core)) @ core).view(len(images), -1).to(images.dtype)
    return (plain.permute(0, 2, 3, 1) @ core).permute(0, 3, 1, 2).to(images.dtype).contiguous()


def fitted_padding(padding: tuple[int, int], image_padding: int) -> tuple[int, int]:
    """Padding that the first layer has left on images that bring `image_padding` zeros along.

    Raises ValueError where the layer pads less than that: its features would differ.
    """
    if min(padding) < image_padding:
        raise ValueError(f"image_padding is {image_padding}, but the first layer pads its images "
                         f"by {min(padding)} only")
    return padding[0] - image_padding, padding[1] - image_padding


def compose_aug_conv(layer: nn.Conv2d, inverse: Tensor, shape: tuple[int, int, int],
                     order: Tensor, tile: int = 0) -> dict:
    """C_ac = M⁻¹·C, its channel blocks in `order`: `weight` (αm², βn²) float32, `out_shape`; with
    tiles, as compose_by_tiles.

    A row of M⁻¹ is an image of shape (α, m, m), and the layer applied to it is that row of M⁻¹·C:
    neither C nor the full M⁻¹ is ever made. The layer's bias is left out (it goes to Aug-Conv's).
    Channel j of the result is channel order[j] of the layer.

    Raises ValueError where the layer does not fit the images.
    """
    if tile:
        return compose_by_tiles(layer, inverse, tile, shape, order)
    q, entries, out_shape = len(inverse), core_size(shape), features_shape(layer, shape)
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
    return {"weight": weight, "out_shape": out_shape}


def compose_by_tiles(layer: nn.Conv2d, inverse: Tensor, tile: int, shape: tuple[int, int, int],
                     order: Tensor) -> dict:
    """Aug-Conv for images (α, m, m) that were morphed by tiles, as the arguments of AugConv.

    A row of M'⁻¹ is a tile, and the layer applied to it, with padding for all windows that touch
    the tile, is what an entry of T adds to the features: a transposed convolution of stride
    tile/stride. The least such padding that the stride allows is e = dilation·(kernel - 1) rounded
    up to the layer's own modulo its stride; the features begin `offset` windows after the first.
    `weight` (q, β, k, l) float32 does not depend on m. Raises ValueError where the layer does not
    fit the images or the tiles.
    """
    out_shape = features_shape(layer, shape)
    for stride in layer.stride:
        if tile % stride:
            raise ValueError(f"tile is {tile}, but must be a multiple of the first layer's stride "
                             f"{stride}: the next is {-(-tile // stride) * stride}")
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    padding = [e + (p - e) % s for e, p, s in zip(reach, layer.padding, layer.stride, strict=True)]
    with torch.inference_mode():
        weight = F.conv2d(inverse.view(-1, shape[0], tile, tile), layer.weight, None, layer.stride,
                          padding, layer.dilation, layer.groups)[:, order]
    return {"weight": weight.contiguous(), "out_shape": out_shape,
            "step": tuple(tile // s for s in layer.stride),
            "offset": tuple((pp - p) // s for pp, p, s in zip(padding, layer.padding, layer.stride,
                                                              strict=True))}


def features_shape(layer: nn.Conv2d, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(β, n, n) of a first layer's features; raises ValueError where it does not fit the images."""
    if layer.in_channels != shape[0]:
        raise ValueError(f"the first layer takes {layer.in_channels} channels, but the images have "
                         f"{shape[0]}")
    size = [(m + 2 * p - d * (k - 1) - 1) // s + 1 for m, p, d, k, s in zip(
        shape[1:], layer.padding, layer.dilation, layer.kernel_size, layer.stride, strict=True)]
    if min(size) < 1:
        raise ValueError(f"the layer's kernel is larger than the images {shape[1]}x{shape[2]}")
    return layer.out_channels, *size


def relative_error(value: Tensor, exact: Tensor) -> float:
    """||value - exact|| / ||exact||, in float64."""
    exact = exact.double()
    return float((value.double() - exact).norm() / exact.norm())
