"""The provider's keys: data/provider/keys/<id>/, side by side. SECRET, all of it.

A key is a core, its inverse, and how it divides an image. Its folder also has the secret channel
order of the last delivery that was made with it, and what that delivery was, so that later images
can be morphed in the same way.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from mole.morphing import core_size, draw_usable_core, secret_generator
from utils.artifacts import (
    MANIFEST,
    Saving,
    first_step,
    is_private,
    keep_out_of_git,
    keep_private,
    load,
    read_manifest,
    remedy,
    write_alone,
)
from utils.errors import UserError
from utils.geometry import Fit, Geometry, blocks_in_words, from_manifest

CORE_STREAM, ORDER_STREAM = 0, 1    # separate random numbers under one --morph_seed
CHANNEL_ORDER = "channel_order.pt"  # of the last delivery, in the key's folder
LIST = "list"                       # in the place of a key's id: which keys there are


@dataclass(frozen=True)
class Key:
    """The core M' and its inverse (q, q) float32, how they divide an image, and a public id.

    shape (α, m, m) is that of the images that are morphed, image_padding zeros on each side
    included. condition is the core's condition number.
    """

    core: Tensor
    inverse: Tensor
    kappa: int
    tile: int
    morph_distribution: str
    shape: tuple[int, int, int]
    image_padding: int
    condition: float

    @property
    def id(self) -> str:
        """16 hex digits that tell keys apart and say nothing of the core."""
        sha256 = hashlib.sha256(f"key {self.kappa} {self.tile} {self.shape}".encode())
        sha256.update(self.core.contiguous().numpy())
        return sha256.hexdigest()[:16]

    @property
    def blocks(self) -> str:
        """How it divides an image, in words."""
        return blocks_in_words(self.kappa, self.tile)

    def geometry(self, image_fit: Fit, delivery_dtype: str, mean: tuple[float, ...],
                 std: tuple[float, ...]) -> Geometry:
        """What images are that were normalised with mean and std and morphed with this key."""
        return Geometry(self.id, self.shape, self.image_padding, image_fit, self.kappa, self.tile,
                        self.morph_distribution, delivery_dtype, mean, std)


def draw_key(shape: tuple[int, int, int], kappa: int = 1, tile: int = 0,
             distribution: str = "uniform", seed: int | None = None,
             image_padding: int = 0) -> Key:
    """A new key for images that are `shape` (α, m, m), padding included.

    `seed` is for tests; none draws 256 bits from the operating system. Raises ValueError where
    kappa or tile does not divide the image.
    """
    q = core_size(shape, kappa, tile)
    generator = secret_generator(seed, CORE_STREAM)
    core, inverse, condition = draw_usable_core(q, distribution, generator)
    return Key(core, inverse, kappa, tile, distribution, tuple(shape), image_padding, condition)


def draw_order(channels: int, seed: int | None = None) -> Tensor:
    """A secret order of the first layer's channels, int64 (channels)."""
    return torch.from_numpy(secret_generator(seed, ORDER_STREAM).permutation(channels))


def key_folder(provider: Path, id: str) -> Path:
    """Where a provider keeps the key with this id."""
    return provider / "keys" / id


def order_content(order: Tensor, delivery_id: str) -> dict:
    """What channel_order.pt holds: the order of a delivery's channels (β) int64."""
    return {"order": order.cpu(), "delivery": delivery_id}


def order_from(content: dict) -> tuple[Tensor, str]:
    """The order that order_content wrote, and the id of the delivery that it is of. Raises
    ValueError where it is no order."""
    order = content["order"]
    if not isinstance(order, Tensor) or order.dtype != torch.int64:
        raise ValueError("order must be a tensor of int64")
    return order, content["delivery"]


def save_key(provider: Path, key: Key) -> Path:
    """Adds a key to the provider's folder and makes it the current one; gives its folder."""
    folder = key_folder(provider, key.id)
    provider.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(provider):
        keep_private(provider)
    keep_out_of_git(provider)
    with Saving(folder, secret=True, anew=_is_damaged(folder)) as new:
        new.save("morphing_matrix.pt", {"core": key.core})
        new.save("inverse_matrix.pt", {"core": key.inverse})
        new.note(key=key.id, kappa=key.kappa, tile=key.tile,
                 morph_distribution=key.morph_distribution, shape=key.shape,
                 image_padding=key.image_padding, condition=key.condition)
    write_alone(provider / "current.json", json.dumps({"key": key.id}), 0o600)
    return folder


def _is_damaged(folder: Path) -> bool:
    """Whether a key's folder has a manifest that cannot be continued."""
    try:
        read_manifest(folder, missing_ok=True)
    except UserError:
        return True
    return False


def key_ids(provider: Path) -> list[str]:
    """The ids of all keys of a provider, the one that was used last at the end."""
    folders = [path for path in (provider / "keys").glob("*") if (path / MANIFEST).exists()]
    return [path.name for path in sorted(folders, key=lambda path: path.stat().st_mtime)]


def current_id(provider: Path) -> str:
    """The id of the key that was drawn last. Raises UserError if there is none."""
    path = provider / "current.json"
    if not path.exists():
        raise UserError(f"{path} is missing: {first_step(path)}")
    try:
        id = json.loads(path.read_text(encoding="utf-8"))["key"]
    except (ValueError, KeyError, TypeError, RecursionError):
        id = None
    if type(id) is not str or not id.isalnum():          # it becomes the name of a folder
        raise UserError(f"{path} is damaged: {remedy(path)}")
    return id


def list_keys(provider: Path) -> list[str]:
    """A line for each key of a provider, the one that was used last at the end: when it was drawn,
    what it is, what its last delivery was, and whether it is current.

    Raises UserError if there is none.
    """
    ids = key_ids(provider)
    if not ids:
        raise UserError(f"{provider} has no key: run `python gen_morphing_matrix.py` first")
    current = None
    if (provider / "current.json").exists():
        current = current_id(provider)
    lines = []
    for id in ids:
        words = f"{id}: {_describe_key(key_folder(provider, id))}"
        lines.append(f"{words}, the current key" if id == current else words)
    return lines


def _describe_key(folder: Path) -> str:
    """When a key was drawn, what it is, and what its last delivery was."""
    try:
        about = read_manifest(folder)
        drawn = f"drawn {_date_of(folder / 'morphing_matrix.pt')}"
        blocks = blocks_in_words(about["kappa"], about["tile"])
        words = [drawn, blocks, f"{about['morph_distribution']} core"]
        if "delivery" in about:
            date = _date_of(folder / CHANNEL_ORDER)
            words.append(f"delivery {about['delivery'][:12]} on {date}")
        else:
            words.append("nothing delivered")
    except (UserError, OSError, KeyError, TypeError):
        return "damaged"
    return ", ".join(words)


def _date_of(file: Path) -> str:
    """When a file was written, to the minute, in local time."""
    return datetime.fromtimestamp(file.stat().st_mtime).isoformat(" ", "minutes")


def read_key(provider: Path, id: str = "") -> Key:
    """A key by its id; none: the current one. Raises UserError if it is missing or damaged."""
    folder = key_folder(provider, id or current_id(provider))
    if id and not (folder / MANIFEST).exists():
        known = ", ".join(key_ids(provider)) or "none"
        raise UserError(f"{provider} has no key {id}: its keys are {known}; `python "
                        f"morph_images.py --key {LIST}` says more of them")
    if not folder.exists():
        current = provider / "current.json"
        raise UserError(f"{current} names key {folder.name}, which is not there: "
                        f"{remedy(current)}")
    core = load(folder / "morphing_matrix.pt", _core_from)
    inverse = load(folder / "inverse_matrix.pt", _core_from)
    about = read_manifest(folder)
    try:
        key = Key(core, inverse, about["kappa"], about["tile"], about["morph_distribution"],
                  tuple(about["shape"]), about["image_padding"], float(about["condition"]))
        q = core_size(key.shape, key.kappa, key.tile)
        is_valid = core.shape == inverse.shape == (q, q) and about["key"] == key.id
    except (KeyError, TypeError, ValueError):
        is_valid = False
    if not is_valid:
        path = folder / MANIFEST
        raise UserError(f"{path} is not a valid key's: {remedy(path)}")
    return key


def _core_from(content: dict) -> Tensor:
    """The core, or its inverse, in a file of a key. Raises ValueError if it is not a matrix."""
    core = content["core"]
    if not isinstance(core, Tensor) or core.ndim != 2 or core.dtype != torch.float32:
        raise ValueError("core is not a float32 matrix")
    return core.contiguous()


# What the last delivery with a key was: enough to morph other images in the same way.

@dataclass(frozen=True)
class LastDelivery:
    """The id, geometry and classes of a delivery; the pixel_range of the provider's files, and the
    dtype of its images: uint8 of files, and that of arrays."""

    id: str
    geometry: Geometry
    classes: tuple[str, ...]
    pixel_range: tuple[float, float] | None
    image_dtype: str


def describe_last_delivery(delivery_id: str, geometry: Geometry, classes: list[str],
                           pixel_range: tuple[float, float] | None, images: Tensor) -> dict:
    """Values for the manifest of the key's folder, which read_last_delivery reads."""
    return {"delivery": delivery_id, "geometry": asdict(geometry), "classes": list(classes),
            "pixel_range": pixel_range, "image_dtype": dtype_name(images)}


def dtype_name(images: Tensor) -> str:
    """Such as "uint8"."""
    return str(images.dtype).removeprefix("torch.")


def find_last_delivery(provider: Path, key: Key) -> LastDelivery | None:
    """As read_last_delivery, but None where nothing has been delivered with this key yet."""
    if "delivery" not in read_manifest(key_folder(provider, key.id)):
        return None
    return read_last_delivery(provider, key)


def read_last_delivery(provider: Path, key: Key) -> LastDelivery:
    """Raises UserError if nothing has been delivered with this key."""
    folder = key_folder(provider, key.id)
    manifest = read_manifest(folder)
    if "delivery" not in manifest:
        advice = "run `python gen_augconv.py` first, or name an earlier key with --key"
        if key.id != current_id(provider):               # gen_augconv.py takes the current one
            advice = "`python morph_images.py --key list` says which keys have a delivery"
        raise UserError(f"nothing has been delivered with key {key.id}: {advice}")
    try:
        geometry = from_manifest(manifest["geometry"], Geometry)
        pixel_range = manifest["pixel_range"]
        if pixel_range is not None:
            pixel_range = tuple(pixel_range)
        last = LastDelivery(manifest["delivery"], geometry, tuple(manifest["classes"]),
                            pixel_range, manifest["image_dtype"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{folder / 'manifest.json'} is not a valid key's: run `python "
                        "gen_augconv.py` again") from None
    return last
