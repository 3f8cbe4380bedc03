"""The paper's central claim in its strongest form: `python -m experiments.agreement`.

The trained plain network of data_dir/developer/pretrained.pt predicts the test images; the same
layers, behind Aug-Conv with its channels in order, predict the morphed ones. For how many images
do they name the same class? In memory, for every core, tile and dtype, float32 and without
training. Takes the data set options of pretrain.py; writes agreement.json to --results_dir.
"""

from pathlib import Path

import torch

from images.datasets import Prepared, load_images
from models.build import build
from mole.aug_conv import AugConv
from mole.first_layer import BehindFirstLayer, from_file
from mole.morphing import (
    compose_aug_conv,
    core_size,
    morph,
    relative_error,
    secret_generator,
    usable_core,
)
from utils.artifacts import load, write_alone
from utils.delivery import restored, rounded
from utils.devices import full_float32
from utils.provenance import provenance, to_json
from utils.settings import UserError, run_step

CORES, DTYPES, BATCH = ("orthogonal", "normal", "uniform"), ("float32", "float16", "int8"), 250
REFUSED = 0.05                      # error of the features that gen_augconv.py does not deliver
TILES = (0, 8)                      # 0: the paper's κ = 1; by tiles with the first core alone,
                                    # and other dtypes with it too


@torch.inference_mode()
def main(p):
    full_float32()
    developer = Path(p.data_dir) / "developer"
    layer, mean, std = load(developer / "first_layer.pt", from_file)
    content = load(developer / "pretrained.pt")
    network = build(**content["model"]).eval()
    network.load_state_dict(content["network"])
    test = load_images(p, "test")
    if tuple(content["model"]["shape"]) != tuple(test.images.shape[1:]):
        raise UserError("pretrained.pt is for other images: give the data set that it was made of")
    source, shape = Prepared(test.images, mean, std, 0), test.images.shape[1:]
    blocks = [slice(i, i + BATCH) for i in range(0, len(test.labels), BATCH)]
    plain = torch.cat([network(source[block]) for block in blocks])
    features = layer(source[blocks[0]])
    behind = BehindFirstLayer(network, shape).eval()
    rows = []
    for tile in (t for t in TILES if not t or t % layer.stride[0] == 0):
        for distribution in CORES[:1] if tile else CORES:
            core, inverse, _ = usable_core(core_size(shape, 1, tile), distribution,
                                           secret_generator(p.morph_seed, purpose=0))
            order = torch.arange(layer.out_channels)
            aug_conv = AugConv(**compose_aug_conv(layer, inverse, shape, order, tile),
                               bias=layer.bias)
            morphed = torch.cat([morph(source[block], core, tile) for block in blocks])
            for dtype in DTYPES if distribution == "orthogonal" else DTYPES[:1]:
                scale = float(morphed.abs().max()) / 127
                given = [restored(rounded(morphed[block], dtype, scale), scale) for block in blocks]
                error = relative_error(aug_conv(given[0]), features)
                rows.append({
                    "tile": tile, "kappa": None if tile else 1, "morph_distribution": distribution,
                    "delivery_dtype": dtype, "images": len(plain), "error_of_the_features": error})
                if error < REFUSED:
                    logits = torch.cat([behind(aug_conv(t)) for t in given])
                    rows[-1] |= {"equal": int((logits.argmax(1) == plain.argmax(1)).sum()),
                                 "right": int((logits.argmax(1) == test.labels).sum()),
                                 "largest_logit_difference": float((logits - plain).abs().max())}
                print(rows[-1], flush=True)
    record = provenance(p) | {
        "model": content["model"]["name"], "data": content["about"],
        "images": len(plain), "right": int((plain.argmax(1) == test.labels).sum()), "table": rows}
    folder = Path(p.results_dir or "results")
    write_alone(folder / "agreement.json", to_json(record))
    print(f"{folder}/agreement.json is written")


if __name__ == "__main__":
    run_step(main, __doc__)
