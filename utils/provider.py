"""What only the provider has: the key, read from data/provider/."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mole.morphing import core_size
from utils.artifacts import load, manifest_of
from utils.settings import UserError, user_errors


class Key(NamedTuple):
    """The core M' and its inverse (q, q) float32, how it divides an image, and its public id."""

    core: Tensor
    inverse: Tensor
    kappa: int
    tile: int
    morph_distribution: str
    id: str


def read_key(folder: Path, shape: tuple[int, int, int]) -> Key:
    """The key in a provider's folder; raises UserError where there is none, or it is for images of
    another shape (α, m, m)."""
    matrices = {}
    for name in ("morphing_matrix", "inverse_matrix"):
        path = folder / f"{name}.pt"
        core, kappa, tile = load(path, lambda content: (
            content["core"], content["kappa"] + 0, content["tile"] + 0))
        with user_errors(path):
            q = core_size(shape, kappa, tile)
        if core.shape != (q, q) or core.dtype != torch.float32 or tile < 0:
            raise UserError(f"{path} is a core {'x'.join(map(str, core.shape))} with kappa {kappa},"
                            f" not one for images {shape[0]}x{shape[1]}x{shape[2]}: run `python "
                            "gen_morphing_matrix.py` with this --image_size and --image_padding")
        matrices[name] = core, kappa, tile
    manifest = manifest_of(folder)
    file = manifest["files"]["morphing_matrix.pt"]["sha256"]
    return Key(matrices["morphing_matrix"][0], *matrices["inverse_matrix"],
               str(manifest.get("morph_distribution")),
               hashlib.sha256(f"key {file}".encode()).hexdigest()[:16])
