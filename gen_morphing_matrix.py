"""Step 3, the provider: draws the secret morphing core M' and inverts it.

Reads nothing but the geometry of the images. Writes data/provider/, which is never handed over.
"""

from pathlib import Path

from utils.artifacts import Saving
from utils.datasets import image_shape
from utils.morphing import (
    condition_number,
    core_size,
    draw_core,
    invert_core,
    residual,
    secret_generator,
)
from utils.program import UserError, explained, require_memory, run_step

ATTEMPTS = 5
SINGULAR = 1e-2     # of |M·M⁻¹ - 1|: beyond it the features would be noise


def main(p):
    with explained():
        q = core_size(image_shape(p), p.kappa)
    require_memory(6 * 8 * q * q, f"a core of {q}x{q}", "choose a larger --kappa")
    generator = secret_generator(p.morph_seed, purpose=0)
    for _ in range(ATTEMPTS):
        core = draw_core(q, p.morph_distribution, generator)
        try:
            inverse = invert_core(core)
            error = residual(core, inverse)
            if error < SINGULAR:
                break
            print(f"M·M⁻¹ differs from 1 by {error:.1g}: drawing another core")
        except ValueError as mistake:
            print(f"{mistake}: drawing another")
    else:
        raise UserError(f"{ATTEMPTS} cores in a row were numerically singular: choose another "
                        "--morph_distribution (orthogonal is the best conditioned) or --kappa")

    folder = Path(p.data_dir) / "provider"
    with Saving(folder, secret=True) as new:
        for name, matrix in [("morphing_matrix", core), ("inverse_matrix", inverse)]:
            new.save(f"{name}.pt", {"core": matrix, "kappa": p.kappa})
        new.about(morph_distribution=p.morph_distribution)
    print(f"core {q}x{q}, {p.morph_distribution}, kappa {p.kappa}: M is {q * p.kappa}x"
          f"{q * p.kappa}")
    print(f"condition number {condition_number(core, inverse):.3g}, largest entry of |M·M⁻¹ - 1| "
          f"{error:.1e}")
    print(f"{folder}/morphing_matrix.pt and inverse_matrix.pt are SECRET: only their owner can "
          "read them")


if __name__ == "__main__":
    run_step(main, __doc__)
