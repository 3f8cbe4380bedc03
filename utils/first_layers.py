"""first_layer.pt: all that a provider gets from the developer, in one file of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from mole.first_layer import describe, fingerprint, plain_geometry
from utils.artifacts import build_from, read_tensors
from utils.declaration import fits
from utils.errors import UserError
from utils.geometry import Fit, is_name
from utils.settings import Settings

LARGEST_SIDE = 2**20                # of an image, in pixels
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class FirstLayer:
    """A developer's first layer, frozen, and how images must be prepared for it.

    mean and std (α numbers each) are what images are normalised with, on their values in [0, 1].
    model, dataset and train_images say where the layer comes from.
    """

    layer: nn.Conv2d
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    image_fit: str
    model: str
    dataset: str
    train_images: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(α, m, m) of the images, without padding."""
        return self.layer.in_channels, self.image_size, self.image_size

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.layer)

    def to_dict(self) -> dict:
        """What first_layer.pt holds: tensors and plain values."""
        layer = self.layer
        content = {
            "weight": layer.weight.detach().cpu().contiguous(), **plain_geometry(layer),
            "mean": tuple(self.mean), "std": tuple(self.std), "image_size": self.image_size,
            "image_fit": self.image_fit, "model": self.model, "dataset": self.dataset,
            "train_images": self.train_images}
        if layer.bias is not None:
            content["bias"] = layer.bias.detach().cpu()
        return content


def first_layer_from(content: dict) -> FirstLayer:
    """What to_dict wrote. Raises ValueError if the values do not fit together."""
    layer = _convolution_from(content)
    if not fits(content["mean"], Numbers) or not fits(content["std"], Numbers):
        raise ValueError("mean and std must be numbers, one for each channel")
    first = FirstLayer(layer, tuple(content["mean"]), tuple(content["std"]), content["image_size"],
                       content["image_fit"], content["model"], content["dataset"],
                       content["train_images"])
    if first.image_fit not in get_args(Fit):
        raise ValueError(f"image_fit must be one of {', '.join(get_args(Fit))}")
    if not is_name(first.model) or not is_name(first.dataset):
        raise ValueError("model and dataset must be names")
    if type(first.image_size) is not int or not 0 < first.image_size < LARGEST_SIDE:
        raise ValueError("image_size must be a number of pixels")
    if type(first.train_images) is not int or not 0 < first.train_images < 2**40:
        raise ValueError("train_images must be a positive number")
    if not len(first.mean) == len(first.std) == layer.in_channels:
        raise ValueError("mean and std must have a number for each channel")
    check_normalisation(first.mean, first.std)
    describe(layer).features_shape(first.shape)          # raises if the layer does not fit them
    return first


def check_normalisation(mean: tuple[float, ...], std: tuple[float, ...]):
    """Raises ValueError where images are normalised by numbers that no first layer is saved with.
    """
    largest = 10**6                                      # of values / 255
    if not all(0 < s < largest for s in std) or not all(abs(m) < largest for m in mean):
        raise ValueError("mean and std of the images must be finite and less than "
                         f"{255 * largest:,}, and std positive: train on images of smaller values")


def _convolution_from(content: dict) -> nn.Conv2d:
    weight, bias, groups = content["weight"], content.get("bias"), content["groups"]
    padding = content["padding"]
    try:
        if weight.dtype != torch.float32 or weight.ndim != 4:
            raise ValueError
        _check_pair(content["stride"], least=1)
        _check_pair(content["dilation"], least=1)
        if padding not in ("same", "valid"):
            _check_pair(padding, least=0)
        layer = nn.Conv2d(weight.shape[1] * groups, len(weight), tuple(weight.shape[2:]),
                          tuple(content["stride"]), padding, tuple(content["dilation"]), groups,
                          bias=bias is not None, device="meta")
        layer.to_empty(device="cpu")
        state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        layer.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError, AttributeError):
        raise ValueError("the first layer's weight, bias and geometry do not fit "
                         "together") from None
    return layer.requires_grad_(False)


def _check_pair(pair: tuple, least: int):
    if len(pair) != 2 or not all(type(x) is int and least <= x < 10**4 for x in pair):
        raise ValueError


def first_layer_path(p: Settings) -> Path:
    """The file of --first_layer, or the one that pretrain.py writes to data_dir."""
    if p.first_layer:
        return Path(p.first_layer)
    return Path(p.data_dir) / "developer" / "first_layer.pt"


def read_first_layer(path: Path) -> FirstLayer:
    """Raises UserError if the file is missing or damaged, or makes no sense."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} is missing: the developer makes it with `python pretrain.py`; "
                        "--first_layer names another place")
    advice = "get it from the developer again, who makes it with pretrain.py"
    return build_from(read_tensors(path, advice), path, first_layer_from, advice)
