"""A network's first layer: found, described, and replaced by its features."""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mole.morphing import require_shape, size_in_words


class Convolution(NamedTuple):
    """What a first layer computes: a convolution of an image that is padded with zeros.

    weight (β, α/groups, k, l) and bias (β) or None. stride and dilation are for rows and columns.
    padding is (top, bottom, left, right); a negative number cuts rows or columns off.
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    padding: tuple[int, int, int, int]

    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, β, n, n) of images (B, α, m, m)."""
        top, bottom, left, right = self.padding
        padded = F.pad(images, (left, right, top, bottom))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the images and of the features: α and β."""
        return self.weight.shape[1] * self.groups, len(self.weight)

    @property
    def reach(self) -> tuple[int, int]:
        """The distance, in rows and columns, between the first and the last pixel of a window."""
        rows, columns = self.weight.shape[2:]
        return self.dilation[0] * (rows - 1), self.dilation[1] * (columns - 1)

    @property
    def geometry(self) -> tuple:
        """All but the values of weight and bias: two layers of one geometry may stand for each
        other."""
        return (self.weight.shape, self.bias is None, self.stride, self.dilation, self.groups,
                self.padding)

    def features_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(β, n, n) for images of `shape` (α, m, m); raises ValueError where it takes no such."""
        require_shape(shape)
        alpha, beta = self.channels
        if alpha != shape[0]:
            raise ValueError(f"the first layer takes {alpha} channels, but the images have "
                             f"{shape[0]}")
        top, bottom, left, right = self.padding
        rows = (shape[1] + top + bottom - self.reach[0] - 1) // self.stride[0] + 1
        columns = (shape[2] + left + right - self.reach[1] - 1) // self.stride[1] + 1
        if min(rows, columns) < 1:
            raise ValueError(f"the layer's kernel is larger than the images "
                             f"{shape[1]}x{shape[2]}")
        return beta, rows, columns

    def mirrored(self, shape: tuple[int, int, int]) -> "Convolution":
        """F' with F(flip(x)) = flip(F'(x)), where flip swaps left and right.

        The filters are mirrored. The last window of F becomes the first of F', so the left padding
        is what makes F' begin where F ends (own derivation).
        """
        top, bottom, left, _ = self.padding
        columns = self.features_shape(shape)[2]
        end_of_last = self.stride[1] * (columns - 1) + self.reach[1] + 1 - left
        return self._replace(weight=self.weight.flip(3),
                             padding=(top, bottom, end_of_last - shape[2], left))

    def with_less_padding(self, image_padding: int) -> "Convolution":
        """The same convolution for images that bring `image_padding` zeros on each side along.

        Raises ValueError where it pads less than that: the zeros would be morphed for nothing.
        """
        if image_padding > max(0, min(self.padding)):
            raise ValueError(f"image_padding is {image_padding}, but the first layer pads its "
                             f"images by {min(self.padding)} only: the provider's key needs a "
                             "smaller image_padding")
        return self._replace(padding=tuple(side - image_padding for side in self.padding))


def describe(layer: nn.Conv2d | Convolution) -> Convolution:
    """What a layer computes. Raises ValueError where that is no convolution of a zero-padded image.
    """
    if isinstance(layer, Convolution):
        return layer
    if not isinstance(layer, nn.Conv2d):
        raise ValueError(f"the first layer is a {type(layer).__name__}, not a Conv2d")
    if layer.padding_mode != "zeros":
        raise ValueError(f"the first layer pads with {layer.padding_mode!r}, not with zeros: "
                         "Aug-Conv cannot represent it")
    weight = layer.weight.detach()
    bias = None if layer.bias is None else layer.bias.detach()
    return Convolution(weight, bias, layer.stride, layer.dilation, layer.groups, _padding_of(layer))


def check_features(layer: nn.Conv2d, found: Tensor, expected: Tensor):
    """Raises ValueError where a layer's features are not those of the convolution it describes.

    A subclass with a forward of its own may give others, or a hook. Rounding is allowed for.
    """
    precision = max(0.005, 10 * torch.finfo(expected.dtype).eps)     # 0.005 for TF32
    allowed = precision * float(expected.std(correction=0))
    same = (isinstance(found, Tensor) and found.shape == expected.shape
            and torch.allclose(found, expected, rtol=0, atol=allowed))
    if not same:
        raise ValueError(f"the first layer, a {type(layer).__name__}, does not compute the "
                         "convolution of its weights (a forward of its own, or a hook): Aug-Conv "
                         "cannot represent it")


def _padding_of(layer: nn.Conv2d) -> tuple[int, int, int, int]:
    """(top, bottom, left, right); `same` pads one more to the right and below where it must."""
    if layer.padding == "valid":
        return 0, 0, 0, 0
    if layer.padding == "same":
        rows, columns = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size,
                                                     strict=True))
        return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2
    rows, columns = layer.padding
    return rows, rows, columns, columns


def draw_image(shape: tuple[int, int, int]) -> Tensor:
    """A random image (1, α, m, m) float32, always the same; PyTorch's generator is left alone."""
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


class _Reached(Exception):
    """Carries a network's first module, and its input, out of a forward pass."""

    def __init__(self, module: nn.Module, inputs: tuple):
        super().__init__()
        self.module = module
        self.inputs = inputs


def find_first_layer(network: nn.Module, shape: tuple[int, int, int]) -> str:
    """The name of a network's first layer, for images of `shape` (α, m, m).

    That is the first module without children that a forward pass reaches (an nn.Identity does not
    count). Raises ValueError, naming it, where it is no convolution of the image itself, where a
    BehindFirstLayer has replaced it already, and where it does not take such images.
    """
    require_shape(shape)
    image = draw_image(shape).to(next(network.parameters(), torch.empty(0)))
    layer, inputs = _first_reached(network, image.clone())
    if isinstance(layer, GivenFeatures):
        raise ValueError("a BehindFirstLayer has replaced the network's first layer already: use "
                         "that one, or build the network again")

    names = [name for name, module in network.named_modules(remove_duplicate=False)
             if module is layer]
    if not isinstance(layer, nn.Conv2d) or not names[0]:
        if ".parametrizations." in names[0]:
            raise ValueError(f"the weights of the network's first layer are computed "
                             f"({type(layer).__name__}): call "
                             "torch.nn.utils.parametrize.remove_parametrizations on it first")
        raise ValueError(f"the network's first operation is {names[0] or 'the network itself'} "
                         f"({type(layer).__name__}), but must be a convolution, an nn.Conv2d")
    if len(names) > 1:
        raise ValueError(f"the network has its first layer under several names: "
                         f"{', '.join(names)}")
    if not inputs:
        raise ValueError(f"the network calls its first layer {names[0]} by keyword: pass the image "
                         "as the first argument")
    if not isinstance(inputs[0], Tensor) or not torch.equal(inputs[0], image):
        raise ValueError(f"the network changes the image before its first layer {names[0]}")
    describe(layer).features_shape(shape)                # raises where they do not fit
    return names[0]


def _first_reached(network: nn.Module, image: Tensor) -> tuple[nn.Module, tuple]:
    """The first module without children that a network calls, and what it calls it with.

    Raises ValueError where the network stops before it, or reaches none.
    """
    def stop(module, inputs):
        raise _Reached(module, inputs)

    hooks = []
    for module in network.modules():
        if not list(module.children()) and not isinstance(module, nn.Identity):
            hooks.append(module.register_forward_pre_hook(stop))
    try:
        with torch.no_grad():
            network(image)
    except _Reached as reached:
        return reached.module, reached.inputs
    except Exception as wrong:                           # whatever a network says of its images
        size = size_in_words(image.shape[1:])
        reason = " ".join(str(wrong).split()) or type(wrong).__name__
        raise ValueError(f"the network does not take images {size}: {reason}") from wrong
    finally:
        for hook in hooks:
            hook.remove()
    raise ValueError("the network reaches none of its modules")


class GivenFeatures(nn.Module):
    """Stands where the first layer was, and returns features that were computed elsewhere.

    It gives them once, and keeps no hold of them. Raises ValueError where it has none.
    """

    def __init__(self):
        super().__init__()
        self.features: Tensor | None = None

    def forward(self, _: Tensor) -> Tensor:
        features, self.features = self.features, None
        if features is None:
            raise ValueError("the network uses its first layer more than once for an image (or it "
                             "was called itself, and not through its BehindFirstLayer)")
        return features


class BehindFirstLayer(nn.Module):
    """The rest of a network: the first layer's features (B, β, n, n) to the network's output.

    The network still runs from its start, since some networks look at the shape of their image: it
    gets an image of zeros that takes no memory, and the features where its first layer was. The
    network is changed in place. `shape` (α, m, m) is that of its images.

    Raises ValueError where the network's first layer is not found (find_first_layer), and in use
    where features have another height or width than the first layer's, or the network asks for them
    more than once.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, int, int]):
        super().__init__()
        self.name = find_first_layer(network, shape)
        self.shape = tuple(shape)
        self.features_shape = describe(network.get_submodule(self.name)).features_shape(shape)
        network.set_submodule(self.name, GivenFeatures())
        self.network = network
        # Its own mode alone: parts of the network may be in another one.
        self.training = network.training

    def forward(self, features: Tensor) -> Tensor:
        # Not the channels: a changed Aug-Conv may have others, with a network that takes them.
        if features.ndim != 4 or features.shape[2:] != self.features_shape[1:]:
            raise ValueError(f"the first layer's features are (batch, "
                             f"{', '.join(map(str, self.features_shape))}), not "
                             f"{tuple(features.shape)}: Aug-Conv computes them of morphed images")
        self.network.get_submodule(self.name).features = features
        # float32 images, but in float64 the whole network computes in float64.
        dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        image = torch.zeros((), dtype=dtype, device=features.device)
        image = image.expand(len(features), *self.shape)
        return self.network(image)


class SplitNetwork(nn.Module):
    """A whole network, of which the first layer computes in float32 also under autocast.

    So the plain first layer is as precise as Aug-Conv, and the two networks differ in nothing else
    (on CUDA with TF32 off, see AugConv). bfloat16 would round away most of an image that a uniform
    core has morphed. The network is changed in place; `whole_state` has its weights under its own
    names.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, int, int]):
        super().__init__()
        self.first_layer = network.get_submodule(find_first_layer(network, shape))
        self.rest = BehindFirstLayer(network, shape)

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            features = self.first_layer(images.to(self.first_layer.weight.dtype))
        if torch.is_autocast_enabled(images.device.type):
            # Behind Aug-Conv they come in this precision too, whatever the next layer is.
            features = features.to(torch.get_autocast_dtype(images.device.type))
        return self.rest(features)

    def whole_state(self) -> dict[str, Tensor]:
        """The weights of the network that was split, by the names that they had in it."""
        state = {f"{self.rest.name}.{name}": weight
                 for name, weight in self.first_layer.state_dict().items()}
        return state | self.rest.network.state_dict()


def plain_geometry(layer: nn.Conv2d) -> dict:
    """Stride, padding, dilation and groups of a convolution as Python's own numbers and text: it
    may have been given NumPy's."""
    padding = layer.padding
    if not isinstance(padding, str):
        padding = tuple(map(int, padding))
    return {"stride": tuple(map(int, layer.stride)), "padding": padding,
            "dilation": tuple(map(int, layer.dilation)), "groups": int(layer.groups)}


def fingerprint(layer: nn.Conv2d) -> str:
    """SHA-256 of a convolution's weight, bias and geometry, which tells layers apart."""
    geometry = (*plain_geometry(layer).values(), layer.weight.shape)
    sha256 = hashlib.sha256(repr(geometry).encode())
    for values in (layer.weight, layer.bias):
        if values is not None:
            sha256.update(values.detach().cpu().contiguous().numpy())
    return sha256.hexdigest()
