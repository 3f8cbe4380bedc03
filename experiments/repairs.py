"""Repairs of Aug-Conv, attacked and trained behind: `python -m experiments.repairs`.

The delivery is made in memory (experiments.attack_matrix), of the paper's dense Aug-Conv with an
orthogonal core. Reads cifar10-jpeg/ in --data. Writes repairs.json to --output.
"""

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import adversary, algebra
from attacks.algebra import deconvolve
from attacks.samples import evenly_spaced
from attacks.view import Truth, View, remove_padding
from experiments.attack_matrix import CIFAR, PAIRS, Case, delivered, loaded
from mole.aug_conv import AugConv
from mole.first_layer import BehindFirstLayer
from parameter import Parameters
from utils.artifacts import write_alone
from utils.devices import compute_dtype, processes
from utils.provenance import provenance, to_json
from utils.records import Run
from utils.settings import UserError
from utils.training import Data, new_network, through_frozen_layers, train

CASE = Case("aug pairs", *CIFAR, "vgg11", "orthogonal", 1, 0, private=10_000)
TRAINING = dict(model="vgg11", epochs=4, schedule="onecycle", lr=0.005, dropout=0.1)
TESTED = 2000
# The repairs that are tried, with their strengths.
REPAIRS = (("none", 0.0), ("signs", 0.0), ("scales", 0.5), ("mixing", 1.0), ("local_mixing", 1.0),
           *(("channels", kept) for kept in (24.0, 16.0, 8.0)),
           *(("noise", size) for size in (1e-3, 1e-2, 0.1, 1.0)))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="default: data")
    parser.add_argument("--output", type=Path, default=Path("results"), help="default: results")
    arguments, p, table = parser.parse_args(), Parameters(**TRAINING), []
    with processes(p) as device:
        view, truth, paired = delivered(CASE, arguments.data)
        train_set, test_set = loaded(arguments.data, *CIFAR)
        tested = evenly_spaced(len(view.all_morphed), TESTED)
        data = Data(paired, train_set.labels[evenly_spaced(len(train_set.labels), PAIRS)],
                    view.all_morphed[tested], test_set.labels[tested], lambda x: x)
        for kind, strength in REPAIRS:
            layer = repaired(view.aug_conv, kind, strength)
            curve = trained(layer, data, p, view.geometry.shape, device)
            row = {"repair": kind, "strength": strength} | attack_repair(
                kind, layer, view, truth) | {"accuracy": curve[-1]["test_accuracy"]}
            table.append(row)
            print(f"{kind} {strength:g}: {row['accuracy']:.2%}", {
                name: value["psnr"] for name, value in row.items()
                if isinstance(value, dict) and "psnr" in value}, flush=True)
            write_alone(arguments.output / "repairs.json", to_json(provenance(p) | {
                "case": CASE._asdict(), "train_images": PAIRS, "test_images": TESTED,
                "table": table}))


def trained(layer: AugConv, data: Data, p: Parameters, shape: tuple, device) -> list[dict]:
    """The curve of a network behind a repaired Aug-Conv."""
    network, _ = new_network(p, 10, shape)
    behind = BehindFirstLayer(network, shape)
    name, second = next((name, module) for name, module in behind.named_modules()
                        if isinstance(module, nn.Conv2d))
    if layer.out_shape[0] != second.in_channels:
        behind.set_submodule(name, nn.Conv2d(layer.out_shape[0], second.out_channels, 3, padding=1))
    data = through_frozen_layers([(layer, data)], p.feature_cache, compute_dtype(p, device), device)
    with tempfile.TemporaryDirectory() as folder:
        return train(behind, data, p, Run(Path(folder), "with_ac", {}), p.morphed_weight_decay,
                     device)


def repair(weight: Tensor, out_shape: tuple[int, int, int], kind: str, strength: float,
           generator: torch.Generator) -> Tensor:
    """Aug-Conv's weight (αm², βn²) float32 under a repair that was proposed or comes to mind.

    `none`: itself. `signs`: random signs of channels. `scales`: also factors, log-normal with
    deviation `strength`. `mixing`: one random β×β matrix, orthogonal at strength 0 and plain normal
    at 1, mixes the channels at all positions; `local_mixing`: another at each. `channels`: only the
    first `strength` are kept, (αm², strength·n²). `noise`: normal, `strength` times the weight's
    rms. Raises ValueError for any other kind.
    """
    beta, positions = out_shape[0], out_shape[1] * out_shape[2]
    cube = weight.view(len(weight), beta, positions)
    if kind == "none":
        return weight
    if kind in ("signs", "scales"):             # the former have strength 0
        sign, size = torch.randn(2, beta, generator=generator)
        return (cube * (sign.sign() * (strength * size).exp())[:, None]).flatten(1)
    if kind in ("mixing", "local_mixing"):
        count = positions if kind == "local_mixing" else 1
        normal = torch.randn(count, beta, beta, generator=generator)
        mixing = (1 - strength) * torch.linalg.qr(normal)[0] + strength * normal / beta ** 0.5
        mixed = [torch.einsum("lbi,ibc->lci", rows, mixing.expand(positions, -1, -1))
                 if count > 1 else mixing[0].T @ rows for rows in cube.split(256)]
        return torch.cat(mixed).flatten(1)
    if kind == "channels":
        return cube[:, :int(strength)].flatten(1)
    if kind == "noise":
        rms = weight.norm() / weight.numel() ** 0.5
        return weight + strength * rms * torch.randn(weight.shape, generator=generator)
    raise ValueError(f"no repair is named {kind}")


def repaired(aug_conv: AugConv, kind: str, strength: float) -> AugConv:
    """A dense Aug-Conv, without bias, under a repair that is always the same."""
    weight, (_, *size) = aug_conv.weight, aug_conv.out_shape
    weight = repair(weight, aug_conv.out_shape, kind, strength, torch.Generator().manual_seed(1))
    return AugConv(weight, (weight.shape[1] // (size[0] * size[1]), *size))


def attack_repair(kind: str, layer: AugConv, view: View, truth: Truth) -> dict:
    """Attacks 2 and 3 on Aug-Conv repaired to `layer`, and what noise does to its features."""
    began, filters = time.perf_counter(), algebra.filter_bank(view.layer)
    exact, view = view.aug_conv, view._replace(aug_conv=layer)
    if kind == "local_mixing":
        channels, kernel = filters.shape[1:3]
        images = blind_pixels(*adversary.maps_and_probes(view), channels, kernel)
        inner = truth._replace(pixels=F.pad(truth.pixels, [view.layer.padding[0] + 1 - kernel] * 4))
        return {"known_first_layer": {}, "blind": {
            "up_to_colour": inner.score(images, up_to_colour=True)._asdict(),
            "seconds": adversary.seconds_since(began)}}
    found = adversary.recover(view, truth)
    report = found.report
    if kind == "noise":
        exact = algebra.feature_maps(view.morphed, exact)
        report["error_of_the_features"] = float((found.features - exact).norm() / exact.norm())
    if kind == "noise" and found.known_layer.order is not None:
        began = time.perf_counter()
        inverse = denoised_inverse(
            view.aug_conv.weight, view.aug_conv.out_shape, filters[found.known_layer.order],
            view.layer.padding[0] - view.geometry.image_padding, view.all_morphed, view.public)
        images = remove_padding(view.morphed.double() @ inverse, view.geometry)
        report["known_first_layer_denoised"] = truth.score(images)._asdict() | {
            "seconds": adversary.seconds_since(began)}
    return report


def denoised_inverse(weight: Tensor, out_shape: tuple[int, int, int], filters: Tensor, padding: int,
                     morphed: Tensor, public: Tensor) -> Tensor:
    """Attack 2 where noise was added to Aug-Conv: M⁻¹ (αm², αm²) float64, by Wiener's shrinkage.

    Rows of Aug-Conv are features of rows of M⁻¹ and are deconvolved like any, which leaves noise.
    But T·M⁻¹ must have the second moments of images, for which public ones (n, αm²) stand, and T
    those of `morphed` (N, αm²): on the axes of both, that tells the size to be expected of each
    entry of M⁻¹, and what the deconvolution leaves unexplained tells the size of the noise.
    """
    side = out_shape[-1] + filters.shape[-1] - 1 - 2 * padding
    rows, morphed, public = weight.view(-1, *out_shape), morphed.double(), public.double()
    inverse = torch.cat([deconvolve(r, filters, side, 1, padding) for r in rows.split(512)])
    left = rows[:64] - F.conv2d(inverse[:64], filters.double(), padding=padding)
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(16, *out_shape, generator=generator)
    gain = deconvolve(random, filters, side, 1, padding).var()
    noise = gain * left.var() / (1 - len(weight) / weight.shape[1])
    strong, v = torch.linalg.eigh(morphed.T @ morphed / len(morphed))
    likely, q = torch.linalg.eigh(public.T @ public / len(public))
    expected = likely.clamp(min=0) / (len(weight) * strong.clamp(min=1e-12)[:, None])
    return v @ (v.T @ inverse.flatten(1) @ q * expected / (expected + noise)) @ q.T


def blind_pixels(features: Tensor, probes: Tensor, channels: int = 3, kernel: int = 3,
                 sweeps: int = 40) -> Tensor:
    """Attack 3 where each position mixes its channels in its own way: (N, α, n-p+1, n-p+1) float64.

    The pixel that positions p-1 apart along both axes share is found as in `shared_pixel`, but for
    each pair by itself, from features `probes` (S, k, n, n) of random vectors, S > 2αp², k ≥ αp².
    It comes up to a colour mixture of its own. Whitened over the images that is a rotation, and
    each pixel is turned (orthogonal Procrustes) to be as close as may be to its neighbours, which
    in photographs look alike. So all come up to one mixture, about, with a rim missing.

    Raises ValueError where probes, images or channels are too few.
    """
    rank, reach = channels * kernel ** 2, kernel - 1
    if min(probes.shape[0] - rank, probes.shape[1]) < rank or len(features) < channels:
        raise ValueError(f"{len(probes)} probes of {probes.shape[1]} channels are too few for "
                         f"{rank} dimensions at each position")
    u, s, v = torch.linalg.svd(probes.double().permute(2, 3, 0, 1), full_matrices=False)
    filled = (s > 1e-5 * s.amax())[..., None, :rank]                # fewer at the rim
    u, v = u[..., :rank] * filled, v.mT[..., :rank] / s[..., None, :rank] * filled
    left = torch.linalg.svd(u[:-reach, :-reach].mT @ u[reach:, reach:])[0][..., :channels]
    pixels = torch.einsum("nkyx,yxkc->yxnc", features[:, :, :-reach, :-reach].double(),
                          v[:-reach, :-reach] @ left)
    pixels = pixels @ torch.linalg.inv(torch.linalg.cholesky(pixels.mT @ pixels)).mT

    def turned(pixels: Tensor, target: Tensor) -> Tensor:
        a, _, b = torch.linalg.svd(pixels.mT @ target)
        return pixels @ a @ b

    rows, columns = pixels.shape[:2]
    for y, x in itertools.product(range(rows), range(columns)):     # first from corner to corner
        if y or x:
            near = pixels[y, max(x - 1, 0):x].sum(0) + pixels[max(y - 1, 0):y, x].sum(0)
            pixels[y, x] = turned(pixels[y, x], near)
    black = (torch.arange(rows)[:, None] + torch.arange(columns)) % 2 == 0
    for squares in [black, ~black] * sweeps:                        # then all towards all around
        around = F.pad(pixels, (0, 0, 0, 0, 1, 1, 1, 1))
        around = (around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:])
        pixels[squares] = turned(pixels[squares], around[squares])
    return pixels.permute(2, 3, 0, 1)


if __name__ == "__main__":
    try:
        main()
    except UserError as mistake:
        sys.exit(str(mistake))
