"""Step 3, the provider: draws the secret morphing core M' and inverts it.

Reads nothing but the geometry of the images. Writes data/provider/, which is never handed over.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import utils.step
from images.datasets import image_shape
from mole.morphing import core_size, padded_shape, residual, secret_generator, usable_core
from utils.artifacts import Saving, is_private
from utils.memory import NEEDS, require_memory
from utils.settings import UserError, user_errors


def main(p):
    shape = padded_shape(image_shape(p), p.image_padding)
    if p.tile and p.kappa > 1:
        raise UserError(f"kappa {p.kappa} and tile {p.tile} are two ways to divide an image: set "
                        "kappa to 1, or tile to 0")
    if p.tile > shape[1]:
        raise UserError(f"tiles of side {p.tile} are larger than images of side {shape[1]}")
    with user_errors():
        q, entries = core_size(shape, p.kappa, p.tile), core_size(shape)

    def fitting(free: int) -> str:
        least = math.ceil(entries / math.isqrt(free // NEEDS["core"](1)))
        return (f"--kappa {next(k for k in range(least, entries + 1) if entries % k == 0)} or a "
                "--tile would fit" if not p.tile else "choose a smaller --tile")

    require_memory("core", q, purpose=f"a core of {q}x{q}", advice=fitting)
    with user_errors():
        core, inverse, condition = usable_core(q, p.morph_distribution,
                                               secret_generator(p.morph_seed, purpose=0))

    folder = Path(p.data_dir) / "provider"
    with Saving(folder, secret=True, anew=True) as new:
        for name, matrix in [("morphing_matrix", core), ("inverse_matrix", inverse)]:
            new.save(f"{name}.pt", {"core": matrix, "kappa": p.kappa, "tile": p.tile})
        new.about(morph_distribution=p.morph_distribution)
    blocks = f"tiles of side {p.tile}" if p.tile else (
        f"kappa {p.kappa}: M is {q * p.kappa}x{q * p.kappa}")
    print(f"core {q}x{q}, {p.morph_distribution}, {blocks}")
    print(f"condition number {condition:.3g}, largest entry of |M·M⁻¹ - 1| "
          f"{residual(core, inverse):.1e}")
    print(f"{folder}/morphing_matrix.pt and inverse_matrix.pt are SECRET"
          + (": only their owner can read them" if is_private(folder) else ""))


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
