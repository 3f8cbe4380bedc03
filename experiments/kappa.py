"""What κ changes, on real images and a real first layer: `python -m experiments.kappa`.

Takes the data set options of pretrain.py, and the first layer in --data_dir. Writes kappa.json and
figures/kappa.png to --results_dir, or results/.
"""

from pathlib import Path

from torch import Tensor, nn

import utils.step
from attacks import scores
from attacks.view import as_pixels, value_range
from experiments.tables.formulas import KAPPAS
from images.datasets import Prepared, dataset_name, load_images, require_fit
from mole.morphing import relative_error
from parameter import Parameters
from utils.artifacts import write_alone
from utils.delivery import deliver_in_memory
from utils.devices import use_full_float32
from utils.errors import user_errors
from utils.examples import evenly_spaced, take_rows
from utils.first_layers import first_layer_path, read_first_layer
from utils.keys import draw_key
from utils.plots import rows_png, stretch
from utils.provenance import provenance, seconds_so_far
from utils.records import to_json

IMAGES = 256
SHOWN = slice(0, 250, 25)           # of them in the picture
FEATURES_SHOWN = (KAPPAS[0], KAPPAS[-1])


def main(p: Parameters):
    use_full_float32()
    path = first_layer_path(p)
    first = read_first_layer(path)
    require_fit(first, path, p)
    test = load_images(p, "test").images
    low, high = value_range(test)
    test = take_rows(test, evenly_spaced(len(test), IMAGES))     # they may lie by class
    plain = Prepared(test, first.mean, first.std, 0)[:]
    with user_errors():
        points, picture = sweep(p, first.layer, as_pixels(test.float(), low, high), plain)
    folder = Path(p.results_dir or "results")
    record = {"images": len(plain), "images_of": dataset_name(p),
              "morph_distribution": p.morph_distribution, "seconds": seconds_so_far(),
              "sweep": points}
    write_alone(folder / "kappa.json", to_json(provenance(p) | record))
    write_alone(folder / "figures" / "kappa.png", picture)


def sweep(p: Parameters, layer: nn.Conv2d, pixels: Tensor, plain: Tensor
          ) -> tuple[list[dict], bytes]:
    """A core of its own for each κ: what the record says of it, and rows of a picture.

    `pixels` (N, α, m, m) in [0, 1]; `plain`: the same, normalised.
    """
    features = layer(plain)
    brightest = features.var((0, 2, 3)).argmax()
    points, rows = [], [("plain images", pixels[SHOWN])]
    for kappa in KAPPAS:
        key = draw_key(tuple(plain.shape[1:]), kappa, 0, p.morph_distribution, p.morph_seed)
        delivered = deliver_in_memory(plain, layer, key)
        morphed = delivered.restored()
        found = delivered.aug_conv(morphed)
        looks = stretch(morphed.view(plain.shape))
        points.append({
            "kappa": kappa, "q": len(key.core),
            "condition_number": key.condition,
            "ssim": scores.ssim(looks.double(), pixels.double()),
            "psnr": scores.psnr(looks.double(), pixels.double()),
            "error_of_the_features": relative_error(found, features)})
        print(points[-1], flush=True)
        q = len(key.core)
        rows.append((f"morphed, κ = {kappa}: core {q}×{q}", looks[SHOWN]))
        if kappa in FEATURES_SHOWN:
            maps = stretch(found[SHOWN, brightest][:, None])
            rows.append((f"first-layer features of them through Aug-Conv, κ = {kappa}", maps))
    return points, rows_png(rows, zoom=3)


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
