"""Times a first layer on homomorphically encrypted images against MoLe: `make tables-he`.

The layer is the paper's, 3→64 channels, 3×3, on 32×32 images. CKKS (Cheon et al., Asiacrypt 2017)
through TenSEAL. The client encrypts 27 vectors, the image's 3 channels at 9 shifts, each filled
with the pixels of as many images as its slots hold. The server adds them up with the filters'
weights, 64 results, and the client decrypts. That needs neither rotations nor relinearisation. All
on one core, medians over runs; the shifts are made before the clock starts. Writes he.json.
"""

import argparse
import math
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median
from typing import NamedTuple

import numpy as np
import tenseal
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.program import make_parser, run_command
from mole.aug_conv import AugConv
from parameter import Parameters
from utils.artifacts import write_alone
from utils.delivery import Morpher, compose
from utils.keys import draw_key
from utils.provenance import provenance, seconds_so_far
from utils.records import to_json

SHAPE, CHANNELS, IMAGES = (3, 32, 32), 64, 256
PIXELS, ENTRIES = SHAPE[1] * SHAPE[2], math.prod(SHAPE)
DATA_SET = 60_000                   # images that share the bytes of Aug-Conv
NOTE = ("CKKS has 128-bit security by the tables of the Homomorphic Encryption Standard (2018): "
        "with ternary secrets the modulus may have 109 bits at N = 4096 and 218 at N = 8192. "
        "Each ciphertext holds as many images as its slots take (N/2048); everything is counted "
        "per image, encryption and decryption included. MoLe's bytes are a float32 morphed image "
        "and 1/60 000 of Aug-Conv.")


class Scheme(NamedTuple):
    """Parameters of CKKS."""

    n: int                          # ring dimension
    bits: tuple[int, ...]           # of the primes; the last is not used for the data
    scale: int                      # log2 of the scale
    rescaled: bool                  # whether products are, which drops a prime: smaller answers

    @property
    def name(self) -> str:
        moduli = "-".join(map(str, self.bits))
        words = f"CKKS, N = {self.n}, moduli {moduli}"
        return f"{words}, rescaled" if self.rescaled else words


SCHEMES = (Scheme(8192, (60, 60), 25, False), Scheme(8192, (40, 30, 40), 30, True),
           Scheme(4096, (54, 54), 22, False))


class Workload(NamedTuple):
    """What all ways compute: the layer on images, and the exact features, float64."""

    images: Tensor                  # (IMAGES, 3, 32, 32) float32
    layer: nn.Conv2d
    morpher: Morpher
    aug_conv: AugConv
    exact: Tensor


def make_workload() -> Workload:
    torch.manual_seed(0)
    images = torch.randn(IMAGES, *SHAPE)
    layer = nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False).requires_grad_(False)
    key = draw_key(SHAPE)
    exact = F.conv2d(images.double(), layer.weight.double(), padding=1)
    morpher = Morpher(key.core.double(), key.tile, "float32")
    return Workload(images, layer, morpher, compose(layer, key), exact)


# -- One turn of each way: seconds and bytes an image, and the largest error

def measure_plain(workload: Workload) -> dict:
    seconds, _ = time_per_image(workload.layer, workload.images)
    return {"seconds": seconds, "bytes": ENTRIES, "largest_error": 0.0}


def measure_mole(workload: Workload) -> dict:
    morphing, morphed = time_per_image(workload.morpher.morph, workload.images)
    computing, features = time_per_image(workload.aug_conv, morphed)
    sent = 4 * ENTRIES + workload.aug_conv.weight.nbytes // DATA_SET
    return {"morphing": morphing, "computing": computing, "seconds": morphing + computing,
            "bytes": sent, "largest_error": float((features - workload.exact).abs().max())}


def time_per_image(action: Callable[[Tensor], Tensor], images: Tensor) -> tuple[float, Tensor]:
    """Seconds for one image, and the result for all."""
    began = time.perf_counter()
    result = action(images)
    return (time.perf_counter() - began) / len(images), result


def measure_encrypted(workload: Workload, scheme: Scheme) -> dict:
    """One batch that fills the slots."""
    context = make_context(scheme)
    count = scheme.n // 2 // PIXELS
    patches = F.unfold(workload.images[:count].double(), 3, padding=1)      # (count, 27, pixels)
    shifted = patches.permute(1, 0, 2).flatten(1)
    filters = workload.layer.weight.double().flatten(1).numpy()

    began = time.perf_counter()
    inputs = [tenseal.ckks_vector(context, row.tolist()) for row in shifted]
    encrypted_at = time.perf_counter()
    outputs = [weigh(inputs, weights) for weights in filters.tolist()]
    computed_at = time.perf_counter()
    maps = np.array([output.decrypt() for output in outputs])
    ended = time.perf_counter()

    sent = sum(len(vector.serialize()) for vector in inputs + outputs)
    error = np.abs(maps - filters @ shifted.numpy()).max()
    return {"encrypting": (encrypted_at - began) / count,
            "computing": (computed_at - encrypted_at) / count,
            "decrypting": (ended - computed_at) / count, "seconds": (ended - began) / count,
            "bytes": sent // count, "largest_error": float(error)}


def make_context(scheme: Scheme):
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, scheme.n, n_threads=1,
                              coeff_mod_bit_sizes=list(scheme.bits))
    context.global_scale = 2.0 ** scheme.scale
    context.auto_rescale = scheme.rescaled
    context.auto_relin = context.auto_mod_switch = False
    return context


def weigh(vectors: list, weights: list[float]):
    """The encrypted sum of vectors, each times its weight."""
    total = vectors[0] * weights[0]
    for vector, weight in zip(vectors[1:], weights[1:], strict=True):
        total += vector * weight
    return total


# -- The record

def main():
    arguments = parse_arguments()
    torch.set_num_threads(1)                             # before the record says how many there are
    about = provenance(Parameters())
    workload, turns = make_workload(), {}
    for _ in range(arguments.runs):
        with torch.inference_mode():
            turns.setdefault("the plain layer", []).append(measure_plain(workload))
            turns.setdefault("MoLe, κ = 1, uniform", []).append(measure_mole(workload))
        for scheme in SCHEMES:
            turns.setdefault(scheme.name, []).append(measure_encrypted(workload, scheme))
            print(scheme.name, turns[scheme.name][-1], flush=True)
    settings = {"runs": arguments.runs, "shape": SHAPE, "channels": CHANNELS, "images": IMAGES,
                "schemes": [scheme._asdict() for scheme in SCHEMES]}
    record = about | {"settings": settings, "security_bits": 128, "note": NOTE,
                      "largest_feature": float(workload.exact.abs().max())} | summarise(turns)
    record["versions"]["tenseal"] = version("tenseal")
    record["seconds"] = seconds_so_far()
    write_alone(arguments.output / "he.json", to_json(record))
    for key in ("best", "seconds_ratio", "bytes_ratio", "seconds_over_mole", "bytes_over_mole"):
        print(f"{key}: {record[key]}")


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=int, default=3, help="turns of each way (default: 3)")
    return parser.parse_args()


def summarise(turns: dict[str, list[dict]]) -> dict:
    """Medians of each way, beside the plain layer; and the fastest CKKS beside MoLe."""
    table = []
    for way, runs in turns.items():
        row = {"way": way}
        for key in runs[0]:
            row[key] = median(run[key] for run in runs)
        table.append(row)
    plain, mole, *encrypted = table
    for row in table:
        row["seconds_ratio"] = row["seconds"] / plain["seconds"]
        row["expansion"] = row["bytes"] / ENTRIES
    best = min(encrypted, key=lambda row: row["seconds"])
    return {"table": table, "best": best["way"], "seconds_ratio": best["seconds_ratio"],
            "bytes_ratio": best["expansion"],
            "seconds_over_mole": best["seconds"] / mole["seconds"],
            "bytes_over_mole": best["bytes"] / mole["bytes"]}


if __name__ == "__main__":
    run_command(main)
