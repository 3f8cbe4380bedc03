"""The Augmented Convolution: M⁻¹ and a network's first layer in one frozen layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mole.first_layer import Convolution, check_features, describe, draw_image
from mole.morphing import check_core, core_size, morphed_shape, require_tensor

ROWS_AT_ONCE = 16                   # rows of M'⁻¹ whose products stay in the processor's cache


class AugConv(nn.Module):
    """Morphed images to the first layer's features (B, β, n, n), channels in Aug-Conv's order.

    Without tiles, `weight` (αm², βn²) is C_ac, for morphed images (B, αm²). With tiles, `weight`
    (q, β, k, l) is that of a transposed convolution of stride `step`, for morphed images
    (B, q, t, t); its output begins `offset` entries before the features. `tiles` (t, t): how many
    an image must have; None where that is not known. `bias` (β) or None. Weight and bias are
    buffers: they move with the layer, are saved with it, and are never trained.

    It computes in the dtype of its weight, float32, also under autocast: it undoes a morphing whose
    entries are large against the features. On CUDA, switch TF32 off for the same reason, forward
    and backward (torch.backends.cudnn.conv.fp32_precision = "ieee", and likewise cuda.matmul).

    Raises ValueError where shapes do not fit each other.
    """

    def __init__(self, weight: Tensor, out_shape: tuple[int, int, int], bias: Tensor | None = None,
                 step: tuple[int, int] = (0, 0), offset: tuple[int, int] = (0, 0),
                 tiles: tuple[int, int] | None = None):
        super().__init__()
        if not _fits(weight, out_shape, step, offset):
            raise ValueError(f"a weight of shape {tuple(weight.shape)} does not give features of "
                             f"shape {tuple(out_shape)}")
        if bias is not None and bias.shape != (out_shape[0],):
            raise ValueError(f"a bias of shape {tuple(bias.shape)} does not fit {out_shape[0]} "
                             "channels")
        if weight.ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        self.out_shape = tuple(out_shape)
        self.step = tuple(step)
        self.offset = tuple(offset)
        self.tiles = None if tiles is None else tuple(tiles)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    @classmethod
    def compose(cls, layer: nn.Conv2d | Convolution, inverse: Tensor, shape: tuple[int, int, int],
                order: Tensor | None = None, tile: int = 0) -> "AugConv":
        """Aug-Conv of a first layer and the inverse (q, q) of the core, for images (α, m, m).

        Channel j of Aug-Conv is channel order[j] of the layer; no order leaves the channels as they
        are. `tile` is that of the morphing. The layer's bias comes along.

        Raises ValueError where Aug-Conv cannot represent the layer, or where layer, inverse, order
        and images do not fit each other. `order`: a permutation (β) of the channels.
        """
        convolution = describe(layer)
        convolution.features_shape(shape)                # raises where they do not fit
        if not convolution.weight.isfinite().all():
            raise ValueError("the first layer's weights are not finite: it was trained badly")
        if isinstance(layer, nn.Conv2d):
            image = draw_image(shape).to(convolution.weight)
            with torch.no_grad():
                check_features(layer, layer(image), convolution(image))
        check_core(inverse, shape, tile)
        channels = torch.arange(convolution.channels[1])
        order = channels if order is None else torch.as_tensor(order)
        if order.is_floating_point() or not torch.equal(order.cpu().sort().values, channels):
            raise ValueError(f"order must have each of the layer's {len(channels)} channels once "
                             "(a tile is given as tile=...)")
        order = order.to(convolution.weight.device)
        bias = None if convolution.bias is None else convolution.bias[order].to(inverse)
        if tile:
            return cls(bias=bias, **compose_by_tiles(convolution, inverse, shape, order, tile))
        weight = compose_matrix(convolution, inverse, shape, order)
        return cls(weight, convolution.features_shape(shape), bias)

    def to_dict(self) -> dict:
        """What the provider hands over: tensors and plain values, the arguments of AugConv but for
        `tiles`, which follow from the size of the images."""
        content = {"weight": self.weight.cpu(), "out_shape": self.out_shape, "step": self.step,
                   "offset": self.offset}
        if self.bias is not None:
            content["bias"] = self.bias.cpu()
        return content

    @property
    def tiled(self) -> bool:
        return self.weight.ndim == 4

    def forward(self, morphed: Tensor) -> Tensor:
        """Features (B, β, n, n) of morphed images; raises ValueError where they do not fit."""
        self._check(morphed)
        with torch.autocast(morphed.device.type, enabled=False):
            morphed = morphed.to(self.weight.dtype)
            if self.tiled:
                features = self._convolve(morphed)
            else:
                features = (morphed @ self.weight).view(-1, *self.out_shape)
            if self.bias is None:
                return features
            return features + self.bias.view(-1, 1, 1)

    def _convolve(self, morphed: Tensor) -> Tensor:
        """The transposed convolution, and of its output the n×n entries that are features."""
        # Channels-last, where it is three times as fast on the CPU.
        morphed = morphed.contiguous(memory_format=torch.channels_last)
        whole = F.conv_transpose2d(morphed, self.weight, stride=self.step)
        (top, left), (_, rows, columns) = self.offset, self.out_shape
        bottom = top + rows - whole.shape[2]             # negative where rows are cut off
        right = left + columns - whole.shape[3]
        return F.pad(whole, (-left, right, -top, bottom))

    def _check(self, morphed: Tensor):
        """Says in words what PyTorch would say of the shapes of matrices.

        Refuses integers: int8 values have a scale, without which they are not the morphed images.
        """
        require_tensor(morphed, "morphed images")
        if not morphed.is_floating_point():
            raise ValueError(f"morphed images are {morphed.dtype}: convert them to floating point, "
                             "and multiply them by their scale, before Aug-Conv")
        if self.tiled and morphed.ndim != 4:
            raise ValueError(f"this Aug-Conv is for images morphed by tiles, (B, {len(self.weight)}"
                             f", t, t), not for {tuple(morphed.shape)}: morph with the same tile")
        if not self.tiled and morphed.ndim != 2:
            raise ValueError(f"this Aug-Conv is for images morphed without tiles, (B, "
                             f"{len(self.weight)}), not for {tuple(morphed.shape)}: morph without "
                             "tiles, or compose Aug-Conv with the same tile")
        if morphed.shape[1] != len(self.weight):
            raise ValueError(f"this Aug-Conv is for morphed images of {len(self.weight)} entries"
                             f"{' a tile' if self.tiled else ''}, not for {tuple(morphed.shape)}: "
                             "morph with the core and tile that it was composed for")
        if self.tiles is not None and tuple(morphed.shape[2:]) != self.tiles:
            raise ValueError(f"this Aug-Conv is for images of {self.tiles[0]}x{self.tiles[1]} tiles"
                             f", not for {tuple(morphed.shape)}: it was composed for images of "
                             "another size")


def _fits(weight: Tensor, out_shape: tuple, step: tuple, offset: tuple) -> bool:
    beta, rows, columns = out_shape
    if weight.ndim == 2:
        return weight.shape[1] == beta * rows * columns
    return (weight.ndim == 4 and weight.shape[1] == beta and min(step) > 0
            and len(step) == len(offset) == 2)


def compose_matrix(layer: Convolution, inverse: Tensor, shape: tuple[int, int, int],
                   order: Tensor) -> Tensor:
    """C_ac = M⁻¹·C (αm², βn²) in the dtype of M'⁻¹, its β blocks of columns in `order`.

    A row of M⁻¹ is an image of `shape` (α, m, m), and the layer applied to it is that row of
    M⁻¹·C. So neither C nor the whole M⁻¹ is ever made.
    """
    q = len(inverse)
    entries = core_size(shape)
    beta, rows, columns = layer.features_shape(shape)
    # Filters over all channels: those of a group are zero on the other groups' channels.
    filters = torch.block_diag(*layer.weight.flatten(1).chunk(layer.groups))[order].to(inverse)
    top, bottom, left, right = layer.padding
    weight = inverse.new_empty(entries, beta * rows * columns)
    with torch.no_grad():
        for start in range(0, entries, q):               # a copy of M'⁻¹ on the diagonal
            for first in range(0, q, ROWS_AT_ONCE):
                some = inverse[first:first + ROWS_AT_ONCE]
                rows_of_inverse = inverse.new_zeros(len(some), entries)
                rows_of_inverse[:, start:start + q] = some
                images = F.pad(rows_of_inverse.view(-1, *shape), (left, right, top, bottom))
                patches = F.unfold(images, layer.weight.shape[2:], layer.dilation,
                                   stride=layer.stride)
                # Straight into the matrix: a convolution's own result would have to be copied.
                target = weight[start + first:start + first + len(some)]
                torch.matmul(filters, patches, out=target.view(len(some), beta, -1))
    return weight


def check_tile(layer: Convolution, tile: int):
    """Raises ValueError where the side of tiles is no multiple of a first layer's stride."""
    for stride in layer.stride:
        if tile % stride:
            following = -(-tile // stride) * stride
            raise ValueError(f"tile is {tile}, but must be a multiple of the first layer's stride "
                             f"{stride}: the next is {following}")


def compose_by_tiles(layer: Convolution, inverse: Tensor, shape: tuple[int, int, int],
                     order: Tensor, tile: int) -> dict:
    """Aug-Conv for images (α, m, m) that were morphed by tiles, as arguments of AugConv.

    A row of M'⁻¹ is a tile. The layer applied to it, with padding for all windows that touch the
    tile, is what an entry of T adds to the features: a transposed convolution of stride
    tile/stride. `weight` (q, β, k, l), in the dtype of M'⁻¹, does not depend on m.

    Windows start at -own, -own + stride, … of the image, where own is the layer's padding; seen
    from a tile, whose place is a multiple of the stride, they start at the same numbers modulo the
    stride. The first that touches the tile starts at -before, where before is the largest number up
    to reach = dilation·(kernel - 1) that is own modulo the stride. The last one starts in the tile
    and ends up to reach behind it. The features begin (before - own)/stride windows after the
    first.

    Raises ValueError where the tile is no multiple of the stride.
    """
    check_tile(layer, tile)
    out_shape = layer.features_shape(shape)
    top, _, left, _ = layer.padding
    before, offset = [], []
    for reach, own, stride in zip(layer.reach, (top, left), layer.stride, strict=True):
        first = reach - (reach - own) % stride
        before.append(first)
        offset.append((first - own) // stride)
    with torch.no_grad():
        tiles = inverse.view(-1, shape[0], tile, tile)
        padded = F.pad(tiles, (before[1], layer.reach[1], before[0], layer.reach[0]))
        weight = F.conv2d(padded, layer.weight.to(inverse), None, layer.stride, 0,
                          layer.dilation, layer.groups)[:, order.to(inverse.device)]
    step = tile // layer.stride[0], tile // layer.stride[1]
    return {"weight": weight.contiguous(), "out_shape": out_shape, "step": step,
            "offset": tuple(offset), "tiles": morphed_shape(shape, tile)[1:]}
