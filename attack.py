"""Step 7, an adversary: the developer of the paper, who wants the private images back.

Reads data/delivery/ and what a developer has anyway: the first layer, and public images of the
same kind (the plain training images; attacked are the test images). Only with --score it opens
data/provider/ and the plain test images, to measure. Writes attacks.json and figures/attack.png to
--results_dir (default: results/).
"""

import math
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from models import first_layer
from utils import attacks
from utils.artifacts import Saving, load
from utils.datasets import MEAN, STD, load_images, normalise, unrolled
from utils.delivery import read_delivery
from utils.program import UserError, explained, require_memory, run_step
from utils.records import circumstances, rows_png, stretched, to_json

PUBLISHED = 7.9e-90         # the paper's probability of success: one guess at the order, 1/64!
IMAGES, PROBES, SHOWN = 256, 32, 8
SEED_BITS, SEED_Q = 16, 48  # of the reduced key space that is searched
REPAIRS = [("scales", 0.5), ("mixing", 1.0), ("local_mixing", 1.0), ("channels", 24.0),
           ("channels", 16.0), ("channels", 8.0), ("noise", 1e-3), ("noise", 1e-2), ("noise", 0.1),
           ("noise", 1.0)]


def main(p, flags):
    data_dir, began = Path(p.data_dir), time.perf_counter()
    delivery = read_delivery(data_dir / "delivery")
    require_memory(4 * math.prod(delivery.shape) * (
        math.prod(delivery.out_shape) * (3 if "repairs" in flags else 1) + 3 * delivery.test_images
        + 3 * delivery.train_images), "attacking this delivery", "deliver fewer images")
    weight, out_shape, _ = delivery.aug_conv()
    data = delivery.data()
    with explained():
        layer = first_layer.from_file(load(data_dir / "developer" / "first_layer.pt"))
    if set(layer.stride) != {1} or layer.groups != 1 or len(set(layer.kernel_size)) != 1:
        raise UserError("the attacks are written for a first layer of stride 1, one group and a "
                        "square kernel")
    morphed, public = data.test[:IMAGES], load_images(p, "train").images[:10000]
    truth = Truth(p, delivery, len(morphed)) if "score" in flags else None
    result = {"data": delivery.about(), "images": len(morphed), "published": PUBLISHED}
    print(f"an adversary with data/delivery/ attacks {len(morphed)} images; chance of success as "
          f"published: {PUBLISHED}")

    with explained():
        found = convolution_attacks(morphed, weight, out_shape, layer, truth)
        result |= found.pop("result")
        result["data only"] = data_only(data.test, public, delivery, truth)
    if truth is not None:
        result["known pairs"] = known_pairs(data, p, delivery, truth)
        if "repairs" in flags:
            result["repairs"] = repairs(morphed, weight, out_shape, layer, truth)
    result["seed search"] = seed_search(p.seed, math.prod(delivery.shape) // delivery.kappa)

    maps = found["features"][:SHOWN]
    clearest = maps[:, maps.var((0, 2, 3)).argmax()]
    rows = [("morphed: what is handed over", stretched(morphed[:SHOWN], delivery.shape)),
            ("one feature map of Aug-Conv", stretched(clearest.flatten(1), (1, *out_shape[1:]))),
            ("recovered, first layer known", pixels(found["known"][:SHOWN])),
            ("recovered blind", pixels(found["blind"][:SHOWN])),
            ("from the morphed images alone, without Aug-Conv", pixels(found_blur(result)))]
    if truth is not None:
        rows.insert(0, ("original, private", truth.pixels[:SHOWN]))
    folder = Path(p.results_dir or "results")
    with Saving(folder / "figures") as new:
        new.write("attack.png", rows_png(rows, zoom=3))
    with Saving(folder) as new:
        new.write("attacks.json", to_json(circumstances(p) | result | {
            "seconds": round(time.perf_counter() - began, 1)}))
