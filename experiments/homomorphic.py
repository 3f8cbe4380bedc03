"""Times a first layer on homomorphically encrypted images against MoLe: `make tables-he`.

The layer is the paper's, 3→64 channels, 3×3, on 32×32 images. CKKS (Cheon et al., Asiacrypt 2017)
through TenSEAL. The client encrypts 27 vectors, the image's 3 channels at 9 shifts, each filled
with the pixels of as many images as its slots hold; the server adds them up with the filters'
weights, 64 results; the client decrypts. That needs neither rotations nor relinearisation. All on
one core, medians over runs; the shifts are made before the clock starts. Writes he.json.
"""

import argparse
import math
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import tenseal
import torch
from torch import nn
from torch.nn import functional as F

from mole.aug_conv import AugConv
from mole.morphing import compose_aug_conv, morph, secret_generator, usable_core
from parameter import Parameters
from utils.artifacts import write_alone
from utils.provenance import provenance
from utils.records import to_json

SHAPE, CHANNELS, IMAGES = (3, 32, 32), 64, 256
PIXELS, ENTRIES = SHAPE[1] * SHAPE[2], math.prod(SHAPE)
# Ring dimension, bits of the primes (the last is not used for the data), log2 of the scale, and
# whether products are rescaled, which drops a prime: a smaller answer for more work.
SCHEMES = ((8192, (60, 60), 25, False), (8192, (40, 30, 40), 30, True), (4096, (54, 54), 22, False))
NOTE = ("CKKS has 128-bit security by the tables of the Homomorphic Encryption Standard (2018): "
        "with ternary secrets the modulus may have 109 bits at N = 4096 and 218 at N = 8192. "
        "Each ciphertext holds as many images as its slots take (N/2048), and all is counted per "
        "image, encryption and decryption with it. MoLe's bytes are a float32 morphed image and "
        "1/60 000 of Aug-Conv.")


def encrypted(images: torch.Tensor, filters: np.ndarray, scheme: tuple) -> dict:
    """Seconds and bytes an image, and the largest error, for one batch that fills the slots."""
    n, bits, scale, rescaled = scheme
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, n, coeff_mod_bit_sizes=list(bits),
                              n_threads=1)
    context.global_scale = 2.0 ** scale
    context.auto_rescale, context.auto_relin, context.auto_mod_switch = rescaled, False, False
    count = n // 2 // PIXELS
    patches = F.unfold(images[:count].double(), 3, padding=1)         # (count, 27, pixels)
    shifted = patches.permute(1, 0, 2).flatten(1)

    began = time.perf_counter()
    inputs = [tenseal.ckks_vector(context, row.tolist()) for row in shifted]
    encrypted_at = time.perf_counter()
    outputs = []
    for row in filters.tolist():
        total = inputs[0] * row[0]
        for vector, weight in zip(inputs[1:], row[1:], strict=True):
            total += vector * weight
        outputs.append(total)
    computed_at = time.perf_counter()
    maps = np.array([output.decrypt() for output in outputs])
    ended = time.perf_counter()
    return {"encrypting": (encrypted_at - began) / count,
            "computing": (computed_at - encrypted_at) / count,
            "decrypting": (ended - computed_at) / count, "seconds": (ended - began) / count,
            "bytes": sum(len(v.serialize()) for v in inputs + outputs) // count,
            "largest_error": float(np.abs(maps - filters @ shifted.numpy()).max())}


def timed(action, images: int) -> tuple[float, torch.Tensor]:
    began = time.perf_counter()
    result = action()
    return (time.perf_counter() - began) / images, result


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="turns of each way (default: 3)")
    parser.add_argument("--output", type=Path, default=Path("results"),
                        help="folder to write to (default: results)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randn(IMAGES, *SHAPE)
    layer = nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False).requires_grad_(False)
    filters = layer.weight.double().flatten(1).numpy()
    core, inverse, _ = usable_core(ENTRIES, "uniform", secret_generator(None, purpose=0))
    parts = compose_aug_conv(layer, inverse, SHAPE, torch.arange(CHANNELS))
    aug_conv, core, weight = AugConv(**parts), core.double(), parts["weight"]
    exact = F.conv2d(images.double(), layer.weight.double(), padding=1)

    turns: dict[str, list[dict]] = {}
    for _ in range(arguments.runs):
        with torch.inference_mode():
            seconds, _ = timed(lambda: layer(images), IMAGES)
            turns.setdefault("the plain layer", []).append(
                {"seconds": seconds, "bytes": ENTRIES, "largest_error": 0.0})
            morphing, morphed = timed(lambda: morph(images, core), IMAGES)
            computing, features = timed(lambda m=morphed: aug_conv(m), IMAGES)
            turns.setdefault("MoLe, κ = 1, uniform", []).append({
                "morphing": morphing, "computing": computing, "seconds": morphing + computing,
                "bytes": 4 * ENTRIES + weight.nbytes // 60_000,
                "largest_error": float((features - exact).abs().max())})
        for scheme in SCHEMES:
            n, bits, _, rescaled = scheme
            name = (f"CKKS, N = {n}, moduli {'-'.join(map(str, bits))}"
                    f"{', rescaled' if rescaled else ''}")
            turns.setdefault(name, []).append(encrypted(images, filters, scheme))
            print(name, turns[name][-1], flush=True)
    table = [{"way": way} | {key: median(run[key] for run in runs) for key in runs[0]}
             for way, runs in turns.items()]
    plain, mole = table[:2]
    for row in table:
        row["seconds_ratio"] = row["seconds"] / plain["seconds"]
        row["expansion"] = row["bytes"] / ENTRIES
    best = min(table[2:], key=lambda row: row["seconds"])
    record = provenance(Parameters())
    record = {key: record[key] for key in ("command", "machine")} | {
              "versions": record["versions"] | {"tenseal": version("tenseal")},
              "runs": arguments.runs, "security_bits": 128,
              "largest_feature": float(exact.abs().max()), "table": table, "note": NOTE,
              "best": best["way"], "seconds_ratio": best["seconds_ratio"],
              "bytes_ratio": best["expansion"],
              "seconds_over_mole": best["seconds"] / mole["seconds"],
              "bytes_over_mole": best["bytes"] / mole["bytes"]}
    write_alone(arguments.output / "he.json", to_json(record))
    print(to_json({key: record[key] for key in ("best", "seconds_ratio", "bytes_ratio",
                                                "seconds_over_mole", "bytes_over_mole")}))


if __name__ == "__main__":
    main()
