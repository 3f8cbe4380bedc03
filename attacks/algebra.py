"""Linear algebra against a linear scheme, in float64: Aug-Conv's output, and what follows from it.

An attack takes only what its adversary holds: the delivery (morphed images T and Aug-Conv) and
public knowledge of networks and images.
"""

import torch
from scipy.linalg import LinAlgError, cho_solve_banded, cholesky_banded
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from mole.aug_conv import AugConv

WINDOW = 1024               # features of a window, at most, that channels are told apart by
CHANNELS_AT_ONCE = 8        # of Aug-Conv in float64, for memory
PAIRS_AT_ONCE = 2 ** 22     # of pixels that share a patch, for memory


def feature_maps(morphed: Tensor, aug_conv: AugConv) -> Tensor:
    """Aug-Conv's output (N, β, n, n) float64 without its bias, for T (N, αm²), or (N, q, t, t) by
    tiles.

    T need not be images. Random vectors show the structure of Aug-Conv best: the pixels that they
    stand for are independent, unlike those of photographs. Raises ValueError where T does not fit.
    """
    weight = aug_conv.weight
    channels, *size = aug_conv.out_shape
    if morphed.ndim != weight.ndim or morphed.shape[1] != len(weight):
        raise ValueError(f"morphed images {tuple(morphed.shape)} and Aug-Conv "
                         f"{tuple(weight.shape)} do not fit each other")
    columns = weight.shape[1] // channels               # of one channel
    maps = []
    for part in weight.split(CHANNELS_AT_ONCE * columns, 1):
        out_shape = (part.shape[1] // columns, *size)
        layer = AugConv(part.double(), out_shape, None, aug_conv.step, aug_conv.offset,
                        aug_conv.tiles)
        maps.append(layer(morphed))
    return torch.cat(maps, 1)


def require_square(layer: nn.Conv2d):
    """Raises ValueError for a first layer that these attacks are not written for."""
    if isinstance(layer.padding, str):
        raise ValueError(f"the attacks are not written for padding={layer.padding!r}: give the "
                         "first layer its padding in numbers")
    for setting in (layer.kernel_size, layer.stride, layer.dilation, layer.padding):
        if len(set(setting)) > 1:
            raise ValueError("the attacks are written for square first layers")


def filter_bank(layer: nn.Conv2d, positions: int = 1) -> Tensor:
    """What a×a neighbouring features see, a = `positions`: (βa², α, w, w) float64, w pixels square.

    For a = 1 these are the layer's filters. They are read off the layer's response to each pixel,
    so groups and dilation need no special case. Raises ValueError where the layer is not square.
    """
    require_square(layer)
    channels = layer.in_channels
    width = layer.dilation[0] * (layer.kernel_size[0] - 1) + 1 + layer.stride[0] * (positions - 1)
    pixels = torch.eye(channels * width ** 2, dtype=torch.float64)
    responses = F.conv2d(pixels.view(-1, channels, width, width), layer.weight.detach().double(),
                         None, layer.stride, 0, layer.dilation, layer.groups)
    return responses.flatten(1).T.reshape(-1, channels, width, width)


def channel_order(features: Tensor, layer: nn.Conv2d) -> Tensor:
    """The secret order of Aug-Conv's channels, from features and the known first layer.

    Returns `order` (β) int64: feature channel j comes from filter order[j]. The βa² features of a×a
    positions span only as many dimensions as the filter bank W of such a window has: fewer than
    βa² if a is large enough; a = 1 where β > αp², as in VGG. So the projector onto the span of
    the features (N, β, n, n) is W·W⁺ with its channels permuted, whatever the images are. A channel
    is recognised by its own a²×a² block of the projector and by the sorted sizes of the others.
    The signs of channels have no effect.

    Raises ValueError where the features span all dimensions: then every projector is the identity.
    """
    beta = layer.out_channels
    if features.ndim != 4 or features.shape[1] != beta:
        raise ValueError(f"features {tuple(features.shape)} are not of {beta} channels")
    positions, bank, rank = _telling_window(layer, features.shape[-1])
    windows = windows_of(features.double(), positions).flatten(0, 2)
    if rank == len(bank) or len(windows) < rank:
        raise ValueError(f"{beta} filters span {rank} dimensions in windows of "
                         f"{positions}x{positions}: their order does not show in second-order "
                         "statistics")
    seen = torch.linalg.eigh(windows.T @ windows).eigenvectors[:, -rank:]
    known = torch.linalg.svd(bank).U[:, :rank]
    return assign(_signatures(seen, beta), _signatures(known, beta))


def _telling_window(layer: nn.Conv2d, side: int) -> tuple[int, Tensor, int]:
    """The side a of the smallest window that tells channels apart, or of the largest that can be
    tried; its filter bank (βa², ...) and that bank's rank."""
    for positions in range(1, max(side, 2)):            # one position where that is all there is
        bank = filter_bank(layer, positions).flatten(1)
        rank = int(torch.linalg.matrix_rank(bank, rtol=1e-6))         # the weights are float32
        next_size = layer.out_channels * (positions + 1) ** 2
        if rank < len(bank) or next_size > WINDOW:
            break
    return positions, bank, rank


def windows_of(features: Tensor, positions: int) -> Tensor:
    """All windows of a×a positions of features (N, k, n, n): (N, n-a+1, n-a+1, k·a²)."""
    windows = features.unfold(2, positions, 1).unfold(3, positions, 1)
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(3)


def _signatures(basis: Tensor, channels: int) -> Tensor:
    """What the projector onto a basis (β·a², r) says of each channel: (β, a⁴ + β)."""
    per_channel = len(basis) // channels
    projector = (basis @ basis.T).view(channels, per_channel, channels, per_channel)
    own_blocks = projector.diagonal(dim1=0, dim2=2).permute(2, 0, 1).flatten(1)
    sizes = projector.norm(dim=(1, 3)).sort(1).values
    return torch.cat([own_blocks.abs(), sizes], 1)


def order_from_likeness(features: Tensor, expected: Tensor, sweeps: int = 30) -> Tensor:
    """The order of channels where the projector does not show it: `order` (β) from public images.

    `expected` (n, β, ...) are the first layer's features of public images of the same kind.
    Channels are recognised by mean, standard deviation and sorted correlations; then repeatedly by
    their correlations with the channels that are assigned so far.
    """
    if features.shape[1] != expected.shape[1]:
        raise ValueError(f"features {tuple(features.shape)} are not of the expected "
                         f"{expected.shape[1]} channels")
    own, seen = _channel_moments(features)
    likely, known = _channel_moments(expected)
    order = assign(torch.cat([own, seen.sort(1).values], 1),
                   torch.cat([likely, known.sort(1).values], 1))
    for _ in range(sweeps):
        order = assign(torch.cat([own, seen], 1), torch.cat([likely, known[:, order]], 1))
    return order


def _channel_moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over deviation and log deviation of each channel (β, 2), and correlations (β, β)."""
    values = features.double().transpose(0, 1).flatten(1)
    deviation, mean = torch.std_mean(values, dim=1)
    return torch.stack([mean / deviation, deviation.log()], 1), torch.corrcoef(values)


def deconvolve(features: Tensor, filters: Tensor, side: int, stride: int = 1,
               padding: int = 1) -> Tensor:
    """The images (N, α, side, side) float64 whose convolution with `filters` fits best.

    Least squares over all features (N, k, n, n) with filters (k, α, p, p). There are k·n² equations
    for αm² unknowns, so k may be well below αp². Where the features leave something undetermined,
    such as a rim that the stride does not reach, the solution is the smallest one.

    Raises ValueError where the filters are zero or do not fit.
    """
    count, alpha, kernel, _ = filters.shape
    out_side = (side + 2 * padding - kernel) // stride + 1
    if tuple(features.shape[1:]) != (count, out_side, out_side):
        raise ValueError(f"filters {tuple(filters.shape)} do not give {tuple(features.shape)} of "
                         f"images of side {side}")
    bank = filters.double().flatten(1)
    target = F.fold(bank.T @ features.double().flatten(2), (side, side), kernel,
                    padding=padding, stride=stride)
    band = _normal_band(bank, alpha, side, kernel, stride, padding)
    band[0] += 1e-12 * band[0].max()
    try:
        factor = cholesky_banded(band.numpy(), overwrite_ab=True, lower=True)
    except LinAlgError:
        raise ValueError(f"{count} filters leave the images undetermined") from None
    unrolled = target.permute(2, 3, 1, 0).flatten(0, 2)         # pixels in the band's order
    images = torch.from_numpy(cho_solve_banded((factor, True), unrolled.numpy()))
    return images.view(side, side, alpha, -1).permute(3, 2, 0, 1).contiguous()


def _normal_band(bank: Tensor, alpha: int, side: int, kernel: int, stride: int,
                 padding: int) -> Tensor:
    """The normal matrix of a convolution with `bank` (k, αp²) as a band, lower diagonals first.

    It couples only pixels that share a patch. Pixels are numbered by row, column, channel, so that
    near pixels have near numbers and the band is narrow.
    """
    pixels = alpha * side * side
    numbers = torch.arange(1., pixels + 1, dtype=torch.float64)         # 0 stands for the padding
    numbers = numbers.view(1, side, side, alpha).permute(0, 3, 1, 2)
    patches = F.unfold(numbers, kernel, padding=padding, stride=stride)[0].T.long()   # (n², αp²)
    products = bank.T @ bank
    band = torch.zeros(band_width(alpha, side, kernel), pixels + 1, dtype=torch.float64)
    for part in patches.split(max(1, PAIRS_AT_ONCE // patches.shape[1] ** 2)):
        row, column = part[:, :, None], part[:, None, :].expand(-1, part.shape[1], -1)
        below = row - column
        kept = (below >= 0) & (column > 0)
        values = products.expand(len(part), -1, -1)[kept]
        band.index_put_((below[kept], column[kept]), values, accumulate=True)
    return band[:, 1:].contiguous()


def band_width(alpha: int, side: int, kernel: int) -> int:
    """Diagonals of the normal matrix of a convolution, for images (α, side, side)."""
    reach = min(kernel, side)
    return alpha * (side * (reach - 1) + reach)


def variance_of_rounding(morphed: Tensor, dtype: str, scale: float) -> float:
    """The mean squared error of T that was rounded to a delivery's dtype: a twelfth of the squared
    step, which is `scale` for int8. 0 for float32, whose errors are far below those of inverting.
    """
    if dtype == "int8":
        return scale ** 2 / 12
    if dtype == "float16":                               # a step is 2⁻¹⁰ of a power of two
        steps = torch.exp2(torch.frexp(morphed.double()).exponent - 11.0)
        return float(steps.square().mean()) / 12
    return 0.0


def inverse_from_pairs(plain: Tensor, morphed: Tensor, q: int, rounding: float = 0.0) -> Tensor:
    """An estimate (q, q) float64 of M'⁻¹ from known pairs: blocks (n, q) of T times it are D.

    Blocks of images, q entries each in a row, and their morphed versions give linear equations in
    the columns of M'⁻¹, solved by least squares: exact up to rounding from q blocks on (in general
    position), the solution of least norm before. Raises ValueError where these are not pairs.

    `rounding`: the variance of the rounding errors of T. About q blocks fit even the errors, with a
    solution that is far too large, so large ones are made dear (ridge regression).
    Errors of q entries reach an entry of D as a noise of variance rounding·|x|², where x is a
    column of M'⁻¹, whose entries have a variance of |x|²/q. The ratio of the two is the best ridge.
    """
    if plain.shape != morphed.shape or plain[:1].numel() % q:
        raise ValueError(f"images {tuple(plain.shape)} and morphed ones {tuple(morphed.shape)} "
                         f"are not pairs in blocks of {q}")
    blocks, targets = morphed.double().reshape(-1, q), plain.double().reshape(-1, q)
    if not rounding:
        return torch.linalg.lstsq(blocks, targets, driver="gelsy").solution
    products = blocks.T @ blocks
    products.diagonal().add_(q * rounding)
    return torch.cholesky_solve(blocks.T @ targets, torch.linalg.cholesky(products))


def assign(rows: Tensor, columns: Tensor) -> Tensor:
    """Assigns to each of `rows` (k, d) another one of `columns` (b, d), b ≥ k, at the least sum of
    distances: indices (k) int64."""
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(rows, columns, compute_mode=exact)
    return torch.from_numpy(linear_sum_assignment(distances.numpy())[1])


def gram_matrix(features: Tensor) -> Tensor:
    """Gram matrix (k, k) float64 of the channels of features (N, k, n, n)."""
    values = features.double().flatten(2)
    return torch.einsum("nky,nly->kl", values, values)
