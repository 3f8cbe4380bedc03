"""Step 3, the provider: draws the secret morphing core M' and inverts it.

Reads the size of the images from the developer's first_layer.pt, or from the settings where there
is none yet. Writes data/provider/, which is never handed over; earlier keys stay there.
"""

import math
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import utils.step  # isort: skip                         # first: see there
from images.datasets import image_shape
from mole.aug_conv import check_tile
from mole.first_layer import describe
from mole.morphing import core_size, morphed_shape, padded_shape, residual, size_in_words
from utils.artifacts import is_private
from utils.errors import UserError, user_errors
from utils.first_layers import first_layer_path, read_first_layer
from utils.keys import draw_key, key_ids, save_key
from utils.launch import require_one_process
from utils.memory import core_bytes, require_memory
from utils.owners import adopt


def main(p):
    require_one_process()
    path = first_layer_path(p)
    if p.first_layer or path.exists():
        first = read_first_layer(path)
        p = adopt(p, str(path), channels=first.shape[0], image_size=first.image_size)
        shape = padded_shape(first.shape, p.image_padding)
        with user_errors():
            layer = describe(first.layer)
            check_tile(layer, p.tile)
            layer.with_less_padding(p.image_padding)     # raises if it has less
    else:
        print(f"{path} is not there: size and channels are those of the settings; --first_layer "
              "FILE takes them from the developer's first layer")
        shape = padded_shape(image_shape(p), p.image_padding)
    check_blocks(p, shape)
    with user_errors():
        key = draw_key(shape, p.kappa, p.tile, p.morph_distribution, p.morph_seed, p.image_padding)

    provider = Path(p.data_dir) / "provider"
    earlier = key_ids(provider)
    folder = save_key(provider, key)
    q = len(key.core)
    if p.tile:
        side = morphed_shape(shape, p.tile)[-1] * p.tile
        if side != shape[1]:
            print(f"{p.tile} does not divide {shape[1]}: images are padded to side {side}, morphed "
                  "and sent so")
    print(f"key {key.id}: core {q}x{q}, {key.morph_distribution}, {key.blocks}, for images "
          f"{size_in_words(shape)}" + (" with padding" if p.image_padding else ""))
    print(f"condition number {key.condition:.3g}, largest entry of |M·M⁻¹ - 1| "
          f"{residual(key.core, key.inverse):.1e}")
    privacy = ", and only their owner can read them" if is_private(folder) else ""
    print(f"{folder}/morphing_matrix.pt and inverse_matrix.pt are SECRET{privacy}")
    others = [name for name in earlier if name != key.id]
    if others:
        print(f"earlier keys are kept: {', '.join(others)} (`python morph_images.py --key list` "
              "has their dates)")


def check_blocks(p, shape: tuple[int, int, int]):
    """Raises UserError where kappa or tile cannot divide the images, or the core is too large."""
    if p.tile and p.kappa > 1:
        raise UserError(f"kappa {p.kappa} and tile {p.tile} are two ways to divide an image: add "
                        "--kappa 1, or --tile 0")
    if p.tile and "kappa" in p.given:
        print(f"kappa {p.kappa} does not count: tile {p.tile} divides the images; --tile 0 leaves "
              "them whole")
    if p.tile > shape[1]:
        raise UserError(f"tiles of side {p.tile} are larger than images of side {shape[1]}")
    with user_errors():
        q = core_size(shape, p.kappa, p.tile)
    advise = partial(advise_smaller_core, core_size(shape), p.tile)
    require_memory(core_bytes(q), f"a core of {q}x{q}", advise)


def advise_smaller_core(entries: int, tile: int, free: int) -> str:
    """What to do where a core for images of so many entries does not fit in the free bytes."""
    if tile:
        return "choose a smaller --tile"
    largest_q = math.isqrt(free // core_bytes(1))
    kappa = math.ceil(entries / largest_q)
    while entries % kappa:
        kappa += 1
    return f"--kappa {kappa} or a --tile would fit"


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
