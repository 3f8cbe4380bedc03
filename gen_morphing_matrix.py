"""Step 3, the provider: draws the secret morphing core M' and inverts it.

Reads nothing but the geometry of the images. Writes data/provider/, which is never handed over.
"""

import math
from pathlib import Path

from utils.artifacts import Saving
from utils.datasets import image_shape
from utils.morphing import core_size, residual, secret_generator, usable_core
from utils.program import explained, require_memory, run_step


def main(p):
    shape = image_shape(p)
    with explained():
        q, entries = core_size(shape, p.kappa), core_size(shape, 1)

    def fitting(free: int) -> str:
        least = math.ceil(entries / math.isqrt(free // 48))
        return f"--kappa {next(k for k in range(least, entries + 1) if entries % k == 0)} would fit"

    require_memory(48 * q * q, f"a core of {q}x{q}", fitting)      # six matrices in float64
    with explained():
        core, inverse, condition = usable_core(q, p.morph_distribution,
                                               secret_generator(p.morph_seed, purpose=0))

    folder = Path(p.data_dir) / "provider"
    with Saving(folder, secret=True, anew=True) as new:
        for name, matrix in [("morphing_matrix", core), ("inverse_matrix", inverse)]:
            new.save(f"{name}.pt", {"core": matrix, "kappa": p.kappa})
        new.about(morph_distribution=p.morph_distribution)
    print(f"core {q}x{q}, {p.morph_distribution}, kappa {p.kappa}: M is {q * p.kappa}x"
          f"{q * p.kappa}")
    print(f"condition number {condition:.3g}, largest entry of |M·M⁻¹ - 1| "
          f"{residual(core, inverse):.1e}")
    print(f"{folder}/morphing_matrix.pt and inverse_matrix.pt are SECRET: only their owner can "
          "read them")


if __name__ == "__main__":
    run_step(main, __doc__)
