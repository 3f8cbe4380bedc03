"""What κ changes, on real images and a real first layer: `python -m experiments.kappa`.

Takes the data set options of pretrain.py, and the first layer in --data_dir. Writes kappa.json and
figures/kappa.png to --results_dir, or results/.
"""

from pathlib import Path

import torch

from attacks import scores
from attacks.samples import evenly_spaced
from experiments.tables.paper import KAPPAS
from images.datasets import Prepared, dataset_name, image_shape, load_images
from mole import first_layer, morphing
from mole.aug_conv import AugConv
from parameter import Parameters
from utils.artifacts import load, write_alone
from utils.devices import full_float32
from utils.plots import rows_png, stretched
from utils.provenance import provenance, to_json
from utils.settings import run_step, user_errors

IMAGES, SHOWN = 256, slice(0, 250, 25)


def main(p: Parameters):
    record, picture = sweep(p)
    folder = Path(p.results_dir or "results")
    write_alone(folder / "kappa.json", to_json(record))
    write_alone(folder / "figures" / "kappa.png", picture)


def sweep(p: Parameters) -> tuple[dict, bytes]:
    """For each κ a core of its own: its condition, the features' error, how images look."""
    shape = image_shape(p)
    layer, mean, std = load(Path(p.data_dir) / "developer" / "first_layer.pt",
                            first_layer.from_file)
    test = load_images(p, "test").images            # in the order of their classes, perhaps
    test = test[evenly_spaced(len(test), IMAGES)]
    pixels, plain = test.float() / 255, Prepared(test, mean, std, 0)[:]
    points, rows = [], [("plain images", pixels[SHOWN])]
    full_float32()
    with user_errors():
        expected, order = layer(plain), torch.arange(layer.out_channels)
        brightest = expected.var((0, 2, 3)).argmax()
        for kappa in KAPPAS:
            q = morphing.core_size(shape, kappa)
            core, inverse, condition = morphing.usable_core(
                q, p.morph_distribution, morphing.secret_generator(p.morph_seed, purpose=0))
            aug_conv = AugConv(**morphing.compose_aug_conv(layer, inverse, shape, order),
                               bias=layer.bias)
            morphed = morphing.morph(plain, core)
            features = aug_conv(morphed)
            images = stretched(morphed.view(-1, *shape))
            points.append({
                "kappa": kappa, "q": q, "condition_number": condition,
                "ssim": scores.ssim(images.double(), pixels.double()),
                "psnr": scores.psnr(images.double(), pixels.double()),
                "error_of_the_features": morphing.relative_error(features, expected)})
            print(points[-1], flush=True)
            rows.append((f"morphed, κ = {kappa}: core {q}×{q}", images[SHOWN]))
            if kappa in (KAPPAS[0], KAPPAS[-1]):
                maps = stretched(features[SHOWN, brightest][:, None])
                rows.append((f"first-layer features of them through Aug-Conv, κ = {kappa}", maps))
    about = {"images": len(plain), "images_of": dataset_name(p), "sweep": points}
    return provenance(p) | about, rows_png(rows, zoom=3)


if __name__ == "__main__":
    run_step(main, __doc__)
