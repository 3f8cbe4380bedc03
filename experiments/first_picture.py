"""The README's first picture: images, and what the developer gets of them.

    python -m experiments.first_picture [--dataset ...] [--results_dir DIR]

Takes the data set options of pretrain.py. Writes figures/morphed.png to --results_dir, or results/.
"""

from pathlib import Path

import utils.step
from images.datasets import Prepared, load_images, normalisation
from mole.morphing import roll
from utils.artifacts import write_alone
from utils.delivery import as_morphed, morph_in_memory
from utils.errors import user_errors
from utils.examples import evenly_spaced
from utils.keys import draw_key
from utils.plots import rows_png, stretch

SHOWN = 10
# Blocks and core of each row: the paper's, a larger κ, and our extension, tiles.
ROWS = [
    ("morphed, κ = 1, uniform core (the paper's): one block", 1, 0, "uniform"),
    ("morphed, κ = 12, uniform core: twelve blocks, a quarter of a channel each", 12, 0, "uniform"),
    ("morphed by 8×8 tiles (our extension), orthogonal core: sixteen blocks", 1, 8, "orthogonal"),
]


def main(p):
    train, test = load_images(p, "train"), load_images(p, "test")
    mean, std = normalisation(p, train)
    chosen = test.images[evenly_spaced(len(test.images), SHOWN)]
    plain = Prepared(chosen, mean, std, 0)[:]
    rows = [("plain images, which the provider keeps", stretch(chosen))]
    for title, kappa, tile, distribution in ROWS:
        with user_errors():
            key = draw_key(tuple(plain.shape[1:]), kappa, tile, distribution, p.morph_seed)
        values, scale = morph_in_memory(plain, key)
        morphed = as_morphed(values, scale)
        rows.append((title, stretch(roll(morphed, plain.shape[1:], tile))))
    path = Path(p.results_dir or "results") / "figures" / "morphed.png"
    write_alone(path, rows_png(rows, zoom=3))
    print(f"{path} is written")


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
