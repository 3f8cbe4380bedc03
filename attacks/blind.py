"""Attack 3, blind: that Aug-Conv hides some convolution is enough to undo it, up to its colours."""

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.algebra import gram_matrix


def blind_filters(features: Tensor, channels: int = 3, kernel: int = 3) -> tuple[Tensor, Tensor]:
    """Attack 3, blind: the first layer's filters (k, α, p, p), up to one α×α mixture of colours.

    Take features (N, k, n, n) in windows of a×a positions, which see a+p-1 pixels square. Windows
    a+p-2 apart along both axes share just one pixel, the corner of both. What is exactly a function
    of the one window and of the other (canonical correlation 1) is that pixel. With the pixels
    known so, regression gives the filters. Windows are as small as allows for ka² ≥ α(a+p-1)²: one
    position where k ≥ αp². It is the subspace method of blind channel identification (Moulines et
    al., IEEE Trans. Signal Processing 43, 1995), with pixels for symbols.

    Also returns the first α+1 canonical correlations: α ones, then a gap. Stride 1 is assumed.
    Raises ValueError where the channels are too few or the samples do not fill their dimensions.
    """
    features = features.double()
    values, vectors = torch.linalg.eigh(gram_matrix(features))
    rank = min(channels * kernel ** 2, int((values > 1e-11 * values[-1]).sum()))
    reduced = torch.einsum("nkyx,kr->nryx", features, vectors[:, -rank:])
    a, n = 1, features.shape[-1]
    while rank * a * a < channels * (a + kernel - 1) ** 2:
        a += 1
        if 2 * a + kernel - 2 > n:
            raise ValueError(f"{rank} independent channels of {n}x{n} are too few to tell "
                             f"{channels} colours apart")
    shift, dimensions = a + kernel - 2, channels * (a + kernel - 1) ** 2
    windows = reduced.unfold(2, a, 1).unfold(3, a, 1).permute(0, 2, 3, 1, 4, 5).flatten(3)
    first = windows[:, :-shift, :-shift].flatten(0, 2)
    second = windows[:, shift:, shift:].flatten(0, 2)
    if len(first) < 2 * dimensions:
        raise ValueError(f"{len(first)} pairs of windows are too few for {dimensions} dimensions")

    def whitener(x: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(x.T @ x)
        values, vectors = values[-dimensions:], vectors[:, -dimensions:]
        if values[0] < 1e-14 * values[-1]:
            raise ValueError("the features do not fill the dimensions that they should have")
        return vectors / values.sqrt()

    white = whitener(first)
    left, correlations, _ = torch.linalg.svd((first @ white).T @ second @ whitener(second))
    pixels = (windows @ (white @ left[:, :channels])).permute(0, 3, 1, 2)
    patches = F.unfold(pixels, kernel).transpose(1, 2).flatten(0, 1)
    inner = pixels.shape[-1] - kernel + 1           # the features whose patch is all known
    known = features[:, :, shift:shift + inner, shift:shift + inner].flatten(2).transpose(1, 2)
    bank = torch.linalg.lstsq(patches, known.flatten(0, 1)).solution.T
    return bank.reshape(-1, channels, kernel, kernel), correlations[:channels + 1]


def blind_pixels(features: Tensor, probes: Tensor, channels: int = 3, kernel: int = 3,
                 sweeps: int = 40) -> Tensor:
    """Attack 3 where each position mixes its channels in its own way: (N, α, n-p+1, n-p+1) float64.

    The pixel that positions p-1 apart along both axes share is found as in `blind_filters`, but for
    each pair by itself, from features `probes` (S, k, n, n) of random vectors, S > 2αp², k ≥ αp².
    It comes up to a colour mixture of its own. Whitened over the images that is a rotation, and
    each pixel is turned (orthogonal Procrustes) to be as close as may be to its neighbours, which
    in photographs look alike. So all come up to one mixture, about, with a rim missing.

    Raises ValueError where probes, images or channels are too few.
    """
    rank, reach = channels * kernel ** 2, kernel - 1
    if min(probes.shape[0] - rank, probes.shape[1]) < rank or len(features) < channels:
        raise ValueError(f"{len(probes)} probes of {probes.shape[1]} channels are too few for "
                         f"{rank} dimensions at each position")
    u, s, v = torch.linalg.svd(probes.double().permute(2, 3, 0, 1), full_matrices=False)
    filled = (s > 1e-5 * s.amax())[..., None, :rank]                # fewer at the rim
    u, v = u[..., :rank] * filled, v.mT[..., :rank] / s[..., None, :rank] * filled
    left = torch.linalg.svd(u[:-reach, :-reach].mT @ u[reach:, reach:])[0][..., :channels]
    pixels = torch.einsum("nkyx,yxkc->yxnc", features[:, :, :-reach, :-reach].double(),
                          v[:-reach, :-reach] @ left)
    pixels = pixels @ torch.linalg.inv(torch.linalg.cholesky(pixels.mT @ pixels)).mT

    def turned(pixels: Tensor, target: Tensor) -> Tensor:
        a, _, b = torch.linalg.svd(pixels.mT @ target)
        return pixels @ a @ b

    rows, columns = pixels.shape[:2]
    for y, x in itertools.product(range(rows), range(columns)):     # first from corner to corner
        if y or x:
            near = pixels[y, max(x - 1, 0):x].sum(0) + pixels[max(y - 1, 0):y, x].sum(0)
            pixels[y, x] = turned(pixels[y, x], near)
    black = (torch.arange(rows)[:, None] + torch.arange(columns)) % 2 == 0
    for squares in [black, ~black] * sweeps:                        # then all towards all around
        around = F.pad(pixels, (0, 0, 0, 0, 1, 1, 1, 1))
        around = (around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:])
        pixels[squares] = turned(pixels[squares], around[squares])
    return pixels.permute(2, 3, 0, 1)
