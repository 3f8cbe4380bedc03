"""Decoded image files, kept on the disk so that each is decoded once."""

import hashlib
import json
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from images.decode import FACTS, VERSION, decode_all, hints
from images.digests import data_digest
from mole.morphing import size_in_words
from utils.artifacts import keep_out_of_git, keep_private, temporary, write_alone, write_temporary
from utils.devices import warn_once
from utils.errors import UserError


class Kept(NamedTuple):
    """What an earlier call left: images (N, channels, side, side) uint8 and their digest; for each
    image the key of its file, and facts (N, FACTS), as decode_all gives them."""

    keys: list[str]
    facts: Tensor
    images: Tensor
    digest: str


class FromFiles(NamedTuple):
    """images (N, channels, side, side) uint8, the digest of all pixels, facts (N, FACTS), and the
    files."""

    images: Tensor
    digest: str
    facts: Tensor
    files: list[Path]


def read_image_files(files: list[Path], shape: tuple[int, int, int], fit: str,
                     pixel_range: tuple[float, float] | None, folder: Path, name: str) -> FromFiles:
    """Image files as uint8 (N, *shape) in the order of `files`.

    The images lie on the disk, in folder/<name>-<shape>.npy, and are mapped into memory, copied on
    write. Rows that earlier calls left there are taken over where neither the file nor the decoder
    nor its settings have changed. Raises UserError if files cannot be read; the others are kept. So
    it does for a shape that files cannot have.
    """
    if shape[0] not in (1, 3):
        raise UserError(f"images of {shape[0]} channels are needed, but image files have 1 or 3: "
                        "give an array (.npy)")
    keys = [key_of(file, fit, pixel_range) for file in files]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keep_private(folder)
    keep_out_of_git(folder)
    path = folder / f"{name}-{size_in_words(shape)}.npy"
    kept = read_kept(path)
    if kept is not None and kept.keys == keys and not kept.facts.isnan().any():
        return FromFiles(kept.images, kept.digest, kept.facts, files)

    try:
        # Zeros, so that the disk has room for all rows before the first is decoded.
        zeros = np.zeros((len(files), *shape), np.uint8)
        write_temporary(path, partial(np.save, arr=zeros), 0o600)
        del zeros
        images = torch.from_numpy(np.lib.format.open_memmap(temporary(path), "r+"))
        facts = torch.full((len(files), FACTS), torch.nan)      # unknown of what is not decoded
        if kept is not None:
            take_over(kept, keys, images, facts)
        try:
            report = folder / f"{name}-unreadable.txt"
            decode_all(files, images, facts, report, fit, pixel_range)
        finally:                                         # what was decoded is kept in any case
            digest = data_digest(images)
            index = {"digest": digest, "keys": keys, "facts": facts.tolist()}
            write_alone(path.with_suffix(".json"), json.dumps(index), 0o600)
            os.replace(temporary(path), path)
    finally:
        temporary(path).unlink(missing_ok=True)          # if the disk is full
    return FromFiles(map_images(path), digest, facts, files)


def warn_of_loss(found: list[FromFiles], pixel_range: tuple[float, float] | None,
                 is_of_key: bool = False):
    """Warns, a line each, of what images lose; once under torchrun. `is_of_key`: the range is that
    of a delivery and cannot be chosen."""
    facts = torch.cat([images.facts for images in found])
    files = []
    for images in found:
        files += images.files
    for line in hints(facts, files, pixel_range, is_of_key):
        warn_once(line)


def key_of(file: Path, fit: str, pixel_range: tuple[float, float] | None) -> str:
    """What a row is known by: its file's path without links, inode, size and times; the decoder's
    version and settings."""
    try:
        state = file.stat()
        identity = state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
    except OSError:                                      # such as a broken link: decoding will say
        identity = None
    path = os.fsencode(file.resolve())
    return hashlib.sha256(repr((path, identity, VERSION, fit, pixel_range)).encode()).hexdigest()


def read_kept(path: Path) -> Kept | None:
    """What an earlier call left; None where there is nothing, or it is damaged."""
    try:
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        images = map_images(path)
        kept = Kept(index["keys"], torch.tensor(index["facts"]), images, index["digest"])
        right = (len(kept.keys) == len(images) and kept.facts.shape == (len(images), FACTS)
                 and kept.digest == data_digest(images))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return kept if right else None


def map_images(path: Path) -> Tensor:
    """A .npy file mapped into memory: what is written to the tensor does not reach the file."""
    return torch.from_numpy(np.lib.format.open_memmap(path, "c"))


def take_over(kept: Kept, keys: list[str], images: Tensor, facts: Tensor):
    """Copies the rows of files that are known already."""
    places = {key: i for i, key in enumerate(kept.keys)}
    for i, key in enumerate(keys):
        if key in places:
            images[i] = kept.images[places[key]]
            facts[i] = kept.facts[places[key]]
