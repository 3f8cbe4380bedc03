"""The secret morphing core M', its inverse, and morphing T = D·M.

M is block diagonal: κ copies of the core M' (q×q) on its diagonal, q = αm²/κ. So a product with M
is a reshape and a product with M', and the inverse of M is κ copies of the inverse of M'.

Beyond the paper, the blocks may be square tiles of s×s pixels, q = αs². Then the size of Aug-Conv
does not depend on the size of the image.
"""

import secrets

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

DISTRIBUTIONS = ("uniform", "normal", "orthogonal")


def size_in_words(shape: tuple[int, ...]) -> str:
    """Such as "3x32x32"."""
    return "x".join(map(str, shape))


def require_tensor(value: Tensor, what: str):
    """Raises ValueError for an array of NumPy, or whatever else is no tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{what} are of type {type(value).__name__}: give a torch.Tensor "
                         "(torch.from_numpy makes one of an array)")


def require_shape(shape: tuple[int, ...]):
    """Raises ValueError where this is not the shape of one image."""
    if len(shape) != 3:
        raise ValueError(f"the shape of an image must be (channels, rows, columns), not "
                         f"{tuple(shape)}")


def core_size(shape: tuple[int, int, int], kappa: int = 1, tile: int = 0) -> int:
    """q, the side of the core, for images of `shape` (α, m, m).

    That is αm²/κ, or αs² with tiles of side s. Raises ValueError where κ does not divide αm², where
    κ and tiles are both given, and where `shape` has not three numbers.
    """
    require_shape(shape)
    channels, rows, columns = shape
    if tile < 0 or (tile and kappa != 1):
        raise ValueError(f"kappa is {kappa} and tile is {tile}: give kappa, or a tile of at least "
                         "1, which are two ways to divide an image")
    if tile:
        return channels * tile * tile
    entries = channels * rows * columns
    if kappa < 1 or entries % kappa:
        raise ValueError(f"kappa is {kappa}, which does not divide the {entries} entries of an "
                         f"image of shape {channels}x{rows}x{columns}")
    return entries // kappa


def check_core(core: Tensor, shape: tuple[int, int, int], tile: int = 0):
    """Raises ValueError where a core or its inverse does not fit images of `shape` (α, m, m)."""
    require_tensor(core, "the entries of a core")
    size = size_in_words(shape)
    if core.ndim != 2 or core.shape[0] != core.shape[1]:
        raise ValueError(f"a core must be a square matrix, not {tuple(core.shape)}")
    q = len(core)
    entries = core_size(shape, tile=tile)
    if tile and q != entries:
        raise ValueError(f"the core is {q}x{q}, but tiles of {tile} of images {size} have "
                         f"{entries} entries: give the tile that the core was drawn for")
    if not tile and entries % q:
        raise ValueError(f"the core is {q}x{q}, but {q} does not divide the {entries} entries of "
                         f"images {size}")


def secret_generator(seed: int | None = None, purpose: int = 0) -> np.random.Generator:
    """A random generator for the provider's secrets, seeded with 256 bits of the operating system.

    `torch.rand` would not do: PyTorch's CPU generator uses 32 bits of its seed, so at most 2^32
    different cores could ever be drawn. `seed`, of any size, is for tests. `purpose` separates
    the streams of different secrets that are drawn under one seed. A statistical generator is
    enough: what is drawn is not published, and whoever has a core has the secret anyway.
    """
    entropy = secrets.randbits(256) if seed is None else seed
    # A pool of 8 words of 32 bits keeps all 256; the default of 4 would keep 128.
    sequence = np.random.SeedSequence(entropy, spawn_key=(purpose,), pool_size=8)
    return np.random.Generator(np.random.PCG64DXSM(sequence))


def draw_core(q: int, distribution: str = "uniform",
              generator: np.random.Generator | None = None) -> Tensor:
    """The morphing core M' (q, q) float32, of a generator of secrets if none is given.

    `uniform`: entries on [0, 1), as the authors' scripts draw it. `normal`: N(0, 1/q), which
    keeps the size of an image. `orthogonal`: Haar distributed, the best conditioned (QR of a normal
    matrix with the signs of R's diagonal; Mezzadri, Notices of the AMS 54, 2007).

    Raises ValueError for any other distribution, and for a generator that is not as NumPy's.
    """
    if distribution not in DISTRIBUTIONS:
        raise ValueError(f"there is no distribution {distribution!r}: choose one of "
                         f"{', '.join(DISTRIBUTIONS)}")
    if generator is None:
        generator = secret_generator()
    if not hasattr(generator, "standard_normal"):
        raise ValueError(f"the generator is of type {type(generator).__name__}: give "
                         "secret_generator(seed), or none")
    if distribution == "uniform":
        return torch.from_numpy(generator.random((q, q))).float()
    core = torch.from_numpy(generator.standard_normal((q, q))) / q ** 0.5
    if distribution == "orthogonal":
        core, r = torch.linalg.qr(core)
        core *= r.diagonal().sign()
    return core.float()


def invert_core(core: Tensor) -> Tensor:
    """The inverse (q, q) float32 of a core, computed in float64.

    The core is float32 already, so this is the inverse of the matrix that morphs the images, and
    not of the one before it was rounded. Raises ValueError for a singular core, or no tensor.
    """
    require_tensor(core, "the entries of a core")
    try:
        return torch.linalg.inv(core.double()).float()
    except torch.linalg.LinAlgError:
        raise ValueError("the core is singular") from None


def condition_number(core: Tensor, inverse: Tensor) -> float:
    """The ratio of a core's largest singular value to its smallest, accurate to about 1%.

    The smallest is the reciprocal of the inverse's largest, so Lanczos' method finds both from
    products with vectors. A full decomposition takes ten times as long as the inverse itself.
    """
    core, inverse = core.cpu(), inverse.cpu()            # where Lanczos' method is
    if len(core) < 64:                                   # too small for Lanczos' method
        return float(torch.linalg.cond(core.double()))
    return _largest_singular_value(core) * _largest_singular_value(inverse)


def _largest_singular_value(matrix: Tensor) -> float:
    from scipy.sparse.linalg import svds  # here, since it takes a third of a second
    values = svds(matrix.double().numpy(), k=1, tol=1e-3, return_singular_vectors=False,
                  random_state=0)
    return float(values[0])


def draw_usable_core(q: int, distribution: str, generator: np.random.Generator,
                     attempts: int = 12) -> tuple[Tensor, Tensor, float]:
    """A well conditioned core and its inverse, both (q, q) float32, and its condition number.

    The condition number of random matrices has a heavy tail: for normal entries it exceeds x·q
    about 2/x of the time (Edelman, SIAM J. Matrix Anal. Appl. 9, 1988), and the features' error
    grows with it. A core beyond 5q is drawn again, about two in five. A uniform core's largest
    singular value is q/2 and not 2·√(q/12), so there the bound is √(3q/4) times as high.

    Raises ValueError where no attempt gives such a core.
    """
    bound = 5.0 * q
    if distribution == "uniform":
        bound *= max(1.0, (0.75 * q) ** 0.5)
    for _ in range(attempts):
        core = draw_core(q, distribution, generator)
        try:
            inverse = invert_core(core)
        except ValueError:
            continue
        condition = condition_number(core, inverse)
        if condition <= bound:
            return core, inverse, condition
    raise ValueError(f"{attempts} cores {q}x{q} in a row had condition numbers above {bound:.0f}: "
                     "choose another seed, or the orthogonal distribution")


def residual(core: Tensor, inverse: Tensor) -> float:
    """The largest entry of |M'·M'⁻¹ - 1|, in float64."""
    product = core.double() @ inverse.double()
    product.diagonal().sub_(1)
    return float(product.abs().max())


def padded_shape(shape: tuple[int, int, int], padding: int) -> tuple[int, int, int]:
    """(α, m + 2·padding, m + 2·padding); a negative padding takes one off again."""
    channels, rows, columns = shape
    return channels, rows + 2 * padding, columns + 2 * padding


def morphed_shape(shape: tuple[int, int, int], tile: int = 0) -> tuple[int, ...]:
    """The shape of one morphed image: (αm²,), or (q, t, t) with tiles, t = m/s rounded up."""
    if not tile:
        return (core_size(shape),)
    _, rows, columns = shape
    return core_size(shape, tile=tile), -(-rows // tile), -(-columns // tile)


def unroll(images: Tensor, tile: int = 0) -> Tensor:
    """D: images (B, α, m, m) as row vectors (B, αm²), or with tiles (B, q, t, t).

    A tile is unrolled by channel, row and column, like an image. An image whose side `tile` does
    not divide is first padded with zeros to the right and below.
    """
    if not tile:
        return images.flatten(1)
    below, right = (-side % tile for side in images.shape[2:])
    return F.pixel_unshuffle(F.pad(images, (0, right, 0, below)), tile)


def roll(vectors: Tensor, shape: tuple[int, int, int], tile: int = 0) -> Tensor:
    """The inverse of `unroll`: images (B, α, m, m), or with tiles (B, α, t·s, t·s)."""
    if not tile:
        return vectors.reshape(-1, *shape)
    return F.pixel_shuffle(vectors, tile)


def morph(images: Tensor, core: Tensor, tile: int = 0) -> Tensor:
    """T = D·M, multiplied in float64: images (B, α, m, m) to (B, αm²), or with tiles (B, q, t, t).

    The images are normalised, of a floating dtype, which T has too. Raises ValueError where they
    are integers or no tensor, and where the core does not fit them.
    """
    require_tensor(images, "images")
    if images.ndim != 4:
        raise ValueError(f"images must be (B, channels, rows, columns), not {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}: convert them to floating point, and "
                         "normalise them, before they are morphed")
    check_core(core, images.shape[1:], tile)
    core = core.double()
    vectors = unroll(images, tile).double()
    if not tile:
        blocks = vectors.reshape(-1, len(core))
        return (blocks @ core).view(vectors.shape).to(images.dtype)
    blocks = vectors.permute(0, 2, 3, 1)                 # (B, t, t, q)
    return (blocks @ core).to(images.dtype).permute(0, 3, 1, 2).contiguous()


def relative_error(value: Tensor, exact: Tensor) -> float:
    """||value - exact|| / ||exact||, in float64."""
    exact = exact.double()
    return float((value.double() - exact).norm() / exact.norm())
