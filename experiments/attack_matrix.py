"""The attacks over first layers, cores, κ or tiles, and dtypes: `make attack-matrix`.

Every delivery is made in memory, so nothing need be trained: a first layer's weights are those that
its network starts with. Reads cifar10-jpeg/ and clothing/ in --data, trees of train/ and test/ by
classes. Rows that attack_matrix.json in --output has stay as they are, but for those of --only.
"""

import argparse
import json
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attacks import adversary
from attacks.samples import evenly_spaced
from attacks.view import UNDER_ATTACK, Truth, View
from experiments.inverse_training import inverse_training
from images.datasets import Images, Prepared, load_images, normalisation
from models import build as networks
from mole import first_layer
from mole.aug_conv import AugConv
from mole.morphing import (
    compose_aug_conv,
    core_size,
    morph,
    secret_generator,
    unrolled,
    usable_core,
)
from parameter import Parameters
from utils.artifacts import write_alone
from utils.delivery import Geometry, restored, rounded
from utils.devices import full_float32
from utils.provenance import provenance, to_json
from utils.settings import UserError

CIFAR, CLOTHING = ("cifar10-jpeg", 32), ("clothing", 64)
PAIRS, EPOCHS = 4000, 8             # public images morphed at most; of the authors' own attack


class Case(NamedTuple):
    """A delivery, and which attacks are played: on its Aug-Conv, data only, pairs, training."""

    attacks: str
    dataset: str
    image_size: int
    model: str
    morph_distribution: str
    kappa: int
    tile: int
    delivery_dtype: str = "float32"
    private: int = 0                # test images; 50 000: the training images, beside public tests

    def __str__(self) -> str:
        return "-".join(str(x) for x in self[1:])


def cases() -> list[Case]:
    """The matrix's rows: cores and blocks on CIFAR-10, numbers of images, first layers."""
    blocks = [(1, 0), (3, 0), (12, 0), (48, 0), (96, 0), (1, 16), (1, 8), (1, 4)]
    cores = [Case("aug data" + " pairs" * (core == "orthogonal"), *CIFAR, "vgg16", core, *block,
                  private=10_000)
             for block in blocks for core in ("orthogonal", "normal", "uniform")]
    bytes_ = [Case("aug data", *CIFAR, "vgg16", "orthogonal", *block, "int8", 10_000)
              for block in ((1, 0), (1, 16), (1, 8))]
    counts = [Case("data", *CIFAR, "vgg16", "orthogonal", *block, private=count)
              for block in ((1, 0), (1, 8)) for count in (100, 300, 1000, 3000, 50_000)]
    layers = [Case("aug" + " data" * (model == "resnet18"), *CLOTHING, model, "orthogonal", 1,
                   32 if model == "vit_b_32" else 16)
              for model in ("vgg16", "resnet18", "mobilenet_v2", "shufflenet_v2_x1_0",
                            "mobilenet_v3_small", "squeezenet1_1", "convnext_tiny", "alexnet",
                            "vit_b_16", "vit_b_32")]
    layers += [Case("aug", *CLOTHING, "resnet18", "orthogonal", 1, 16, "int8"),
               Case("aug", *CLOTHING, "resnet18", "uniform", 1, 16)]
    patches = [Case("aug", *CIFAR, model, "orthogonal", 1, 16, private=10_000)
               for model in ("convnext_tiny", "vit_b_16")]
    authors = [Case("aug training", *CIFAR, "vgg16", "uniform", 96, 0, private=9999)]
    return cores + bytes_ + counts + layers + patches + authors


@lru_cache(2)
def loaded(data: Path, dataset: str, side: int) -> tuple[Images, Images]:
    p = Parameters(dataset="folder", dataset_dir=str(data / dataset), image_size=side)
    return load_images(p, "train"), load_images(p, "test")


@lru_cache(1)
def untrained(model: str, side: int) -> nn.Conv2d:
    torch.manual_seed(0)
    network = networks.build(model, 10, (3, side, side))
    layer = network.get_submodule(first_layer.find(network, (3, side, side)))
    return layer.requires_grad_(False)


def delivered(case: Case, data: Path) -> tuple[View, Truth, Tensor]:
    """What the adversary holds, the truth, and T of the public images of known pairs."""
    public, private = loaded(data, case.dataset, case.image_size)
    mean, std = normalisation(Parameters(dataset="folder"), public)
    if case.private > len(private.images):
        public, private = private, public
    secret = private.images[evenly_spaced(len(private.images), case.private or 2 ** 31)]
    shape, layer = tuple(secret.shape[1:]), untrained(case.model, case.image_size)
    core, inverse, _ = usable_core(core_size(shape, case.kappa, case.tile),
                                   case.morph_distribution, secret_generator(0, purpose=0))
    order = torch.from_numpy(secret_generator(0, purpose=1).permutation(layer.out_channels))
    aug_conv = None
    if "aug" in case.attacks:
        aug_conv = AugConv(**compose_aug_conv(layer, inverse, shape, order, case.tile),
                           bias=None if layer.bias is None else layer.bias[order])
    geometry = Geometry("", shape, 0, "crop", case.kappa, case.tile, case.morph_distribution,
                        case.delivery_dtype, mean, std)

    def morphed(images: Tensor) -> Tensor:
        parts = (morph(part, core, case.tile) for part in Prepared(images, mean, std, 0)[:].split(
            500))
        return torch.cat(list(parts))

    t = morphed(secret)
    scale = float(t.abs().max()) / 127
    t = restored(rounded(t, case.delivery_dtype, scale), scale)
    plain = unrolled(Prepared(public.images, mean, std, 0)[:], case.tile)
    some = evenly_spaced(len(public.images), PAIRS if "pairs" in case.attacks else 1)
    shown = secret[evenly_spaced(len(secret), UNDER_ATTACK)].double() / 255
    truth = Truth(order, shown, secret, mean, std)
    return View(geometry, aug_conv, t, layer, plain), truth, morphed(public.images[some])


def attacked(case: Case, data: Path) -> dict:
    """A row of the matrix."""
    began = time.perf_counter()
    view, truth, paired = delivered(case, data)
    layer, row = view.layer, case._asdict() | {
        "weights": "untrained", "private": len(view.all_morphed), "public": len(view.public),
        "kappa": None if case.tile else case.kappa}
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    row["first_layer"] = (f"{layer.in_channels}→{layer.out_channels}, {kernel}×{kernel}"
                          + f"/{stride}" * (stride > 1))
    if view.aug_conv is not None:
        found = adversary.recover(view, truth)
        row |= found.report
    if "training" in case.attacks:
        row["inverse_training"] = trained(view, truth)
    if "data" in case.attacks:
        row["data_only"] = adversary.attack_data(view, truth).report
    if "pairs" in case.attacks:
        some = view._replace(public=view.public[evenly_spaced(len(view.public), PAIRS)])
        row["known_pairs"] = adversary.attack_known_pairs(some, paired, truth)
    return row | {"seconds": round(time.perf_counter() - began, 1)}


def trained(view: View, truth: Truth) -> dict:
    """What the authors' own attack gives after EPOCHS epochs, as it is and under the best mixture
    of its colours, which it leaves open."""
    with torch.inference_mode():
        features = torch.cat([view.aug_conv(part) for part in view.all_morphed.split(500)])
    spread = view.all_morphed.std()                     # or Adam would not get under way
    matrix, curve = inverse_training(
        view.all_morphed / spread, features.clone(), view.geometry.shape,
        view.layer.kernel_size[0], view.layer.padding[0], EPOCHS)
    images = (view.morphed / spread @ matrix).view(-1, *view.geometry.shape).double()
    return {"as_it_is": truth.score(images)._asdict(), "epochs": EPOCHS, "curve": curve,
            "unexplained": curve[-1]["loss"] / float(features.square().mean())
            } | truth.score(images, up_to_colour=True)._asdict()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="default: data")
    parser.add_argument("--only", nargs="+", help="measure the rows whose names contain one of "
                        "these anew, and no others")
    parser.add_argument("--output", type=Path, default=Path("results"), help="default: results")
    arguments = parser.parse_args()
    path = arguments.output / "attack_matrix.json"
    had = json.loads(path.read_text(encoding="utf-8"))["table"] if path.exists() else []
    rows = {row["name"]: row for row in had}
    full_float32()
    for case in cases():
        name = str(case)
        if not any(part in name for part in arguments.only) if arguments.only else name in rows:
            continue
        row = {"name": name} | attacked(case, arguments.data)
        about = provenance(Parameters())
        rows[name] = row | {"code": about["code"]}
        print(name, {key: value.get("psnr", value.get("failed")) for key, value in row.items()
                     if isinstance(value, dict)}, f"{row['seconds']} s", flush=True)
        names = [str(case) for case in cases()]
        write_alone(path, to_json(about | {"table": [
            rows[name] for name in names if name in rows]}))
    print(f"{path} has {len(rows)} rows")


if __name__ == "__main__":
    try:
        main()
    except UserError as mistake:
        sys.exit(str(mistake))
