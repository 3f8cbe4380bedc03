"""Repairs of Aug-Conv, attacked and trained behind: `python -m experiments.repairs`.

The delivery is made in memory (experiments.attack_matrix), of the paper's dense Aug-Conv with an
orthogonal core. Reads CIFAR-10 in --data/datasets; the first layer is trained where --first_layers
has vgg11.pt. Writes repairs.json to --output.
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import adversary, algebra
from attacks.algebra import deconvolve
from attacks.view import Truth, View, to_plain_images
from experiments.attack_matrix import (
    ATTACKED,
    PAIRS,
    Case,
    deliver,
    load_both_splits,
    require_folder,
)
from experiments.in_passing import train_in_passing
from experiments.program import make_parser, run_command
from experiments.tables.reading import read_json
from mole.aug_conv import AugConv
from mole.first_layer import BehindFirstLayer
from parameter import Parameters
from utils.artifacts import write_alone
from utils.devices import Context, joined_processes
from utils.examples import Features, FrozenLayer, Source, evenly_spaced, keep_features
from utils.networks import Model, new_network
from utils.provenance import provenance, seconds_so_far
from utils.records import to_json

CASE = Case(("aug", "pairs"), private=ATTACKED)      # an orthogonal core, κ = 1
# On the CPU, where the attacks are: they share Aug-Conv with the training.
TRAINING = dict(model="vgg11", epochs=4, schedule="onecycle", lr=0.005, dropout=0.1, device="cpu",
                precision="fp32")
TESTED = 2000                       # morphed test images on which accuracy is measured


class Repair(NamedTuple):
    """A change of Aug-Conv (see `repair_weight`), and how strong it is."""

    kind: str
    strength: float = 0.0


REPAIRS = [Repair("none"), Repair("signs"), Repair("scales", 0.5), Repair("mixing"),
           Repair("local_mixing"), Repair("channels", 24.0), Repair("channels", 16.0),
           Repair("channels", 8.0), Repair("noise", 1e-3), Repair("noise", 1e-2),
           Repair("noise", 0.1), Repair("noise", 1.0)]


def main():
    arguments = parse_arguments()
    require_folder(arguments.first_layers)
    p = Parameters(**TRAINING)
    about = provenance(p)
    path = arguments.output / "repairs.json"
    before = read_unfinished(path, about["code"])
    table = before["table"]
    with joined_processes(p) as context:
        view, truth, paired, weights = deliver(CASE, arguments.data, arguments.first_layers)
        images = choose_images(arguments.data, view, paired)
        for repair in REPAIRS[len(table):]:
            layer = repair_aug_conv(view.aug_conv, repair)
            accuracy = train_behind(layer, images, p, view.geometry.shape, context)
            row = {"repair": repair.kind, "strength": repair.strength,
                   **attack_repair(repair, layer, view, truth), "accuracy": accuracy}
            table.append(row)
            print(describe_result(row), flush=True)
            record = {"case": CASE._asdict(), "weights": weights, "model": p.model,
                      "train_images": PAIRS, "test_images": TESTED,
                      "seconds": before["seconds"] + seconds_so_far(),
                      "complete": len(table) == len(REPAIRS), "table": table}
            write_alone(path, to_json(about | record))


def read_unfinished(path: Path, code: str) -> dict:
    """The record of a run that was stopped, of the same version of the code; one without rows where
    there is none."""
    record = read_json(path) if path.exists() else {}
    is_known = code != "unknown" and not code.endswith("-dirty")
    if record.get("complete", True) or record["code"] != code or not is_known:
        return {"table": [], "seconds": 0.0}
    print(f"{path} has {len(record['table'])} of {len(REPAIRS)} rows: going on")
    return record


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="default: data")
    parser.add_argument("--first_layers", type=Path, help="a folder with MODEL.pt of trained first "
                        "layers (default: none)")
    return parser.parse_args()


class MorphedSets(NamedTuple):
    """Morphed images (N, αm²) and their labels."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def choose_images(folder: Path, view: View, paired: Tensor) -> MorphedSets:
    """Training images are those of the known pairs; TESTED of the images under attack are tested.
    """
    train_set, test_set = load_both_splits(folder, CASE.dataset, CASE.image_size)
    trained = evenly_spaced(len(train_set.labels), PAIRS)
    tested = evenly_spaced(len(view.all_morphed), TESTED)
    return MorphedSets(paired, train_set.labels[trained], view.all_morphed[tested],
                       test_set.labels[tested])


def train_behind(layer: AugConv, images: MorphedSets, p: Parameters, shape: tuple,
                 context: Context) -> float:
    """The test accuracy of a network that is trained behind a repaired Aug-Conv."""
    network = new_network(p, Model(p.model, 10, shape, p.dropout))
    behind = BehindFirstLayer(network, shape)
    fit_channels(behind, layer.out_shape[0])
    frozen = FrozenLayer(layer)
    train_source, test_source = (Source(part, unchanged) for part in (images.train, images.test))
    train_part = Features([(frozen, train_source)], [images.train_labels], context)
    test_part = Features([(frozen, test_source)], [images.test_labels], context)
    data = keep_features(train_part, test_part, p.feature_cache, False, context)
    curve = train_in_passing(behind, data, p, "with_ac", p.morphed_weight_decay, context)
    return curve[-1]["test_accuracy"]


def unchanged(morphed: Tensor) -> Tensor:
    """Morphed images that are in memory already, as they are."""
    return morphed


def fit_channels(behind: nn.Module, channels: int):
    """Puts a convolution for so many channels in place of the network's second one, if need be."""
    for name, module in behind.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels != channels:
                fitting = nn.Conv2d(channels, module.out_channels, 3, padding=1)
                behind.set_submodule(name, fitting)
            return


def describe_result(row: dict) -> str:
    parts = [f"{attack} {found['psnr']:.1f} dB" for attack, found in row.items()
             if isinstance(found, dict) and "psnr" in found]
    return f"{row['repair']} {row['strength']:g}: {row['accuracy']:.2%}, {', '.join(parts)}"


# -- The repairs

def repair_aug_conv(aug_conv: AugConv, repair: Repair) -> AugConv:
    """A dense Aug-Conv, without bias, under a repair that is always the same."""
    _, rows, columns = aug_conv.out_shape
    generator = torch.Generator().manual_seed(1)
    weight = repair_weight(aug_conv.weight, aug_conv.out_shape, *repair, generator)
    channels = weight.shape[1] // (rows * columns)
    return AugConv(weight, (channels, rows, columns))


def repair_weight(weight: Tensor, out_shape: tuple[int, int, int], kind: str, strength: float,
                  generator: torch.Generator) -> Tensor:
    """Aug-Conv's weight (αm², βn²) float32 under a repair that was proposed or comes to mind.

    `none`: itself. `signs`: random signs of channels. `scales`: also factors, log-normal with
    standard deviation `strength`. `mixing`: one random normal β×β matrix mixes the channels at all
    positions; `local_mixing`: another one at each. `channels`: only the first `strength` are kept,
    (αm², strength·n²). `noise`: normal, `strength` times the weight's root mean square. Raises
    ValueError for any other kind.
    """
    beta, positions = out_shape[0], out_shape[1] * out_shape[2]
    cube = weight.view(len(weight), beta, positions)
    if kind == "none":
        return weight
    if kind in ("signs", "scales"):                      # signs have strength 0
        sign, size = torch.randn(2, beta, generator=generator)
        factors = sign.sign() * (strength * size).exp()
        return (cube * factors[:, None]).flatten(1)
    if kind == "mixing":
        [mixing] = draw_mixing(1, beta, generator)
        return (mixing.T @ cube).flatten(1)
    if kind == "local_mixing":
        mixing = draw_mixing(positions, beta, generator)
        mixed = [torch.einsum("lbi,ibc->lci", rows, mixing) for rows in cube.split(256)]
        return torch.cat(mixed).flatten(1)
    if kind == "channels":
        return cube[:, :int(strength)].flatten(1)
    if kind == "noise":
        rms = weight.norm() / weight.numel() ** 0.5
        return weight + strength * rms * torch.randn(weight.shape, generator=generator)
    raise ValueError(f"no repair is named {kind}")


def draw_mixing(count: int, beta: int, generator: torch.Generator) -> Tensor:
    """Normal matrices (count, β, β) whose columns have length 1, about."""
    return torch.randn(count, beta, beta, generator=generator) / beta ** 0.5


# -- The attacks on them

def attack_repair(repair: Repair, layer: AugConv, view: View, truth: Truth) -> dict:
    """The attacks on an Aug-Conv repaired to `layer`, first layer known and blind; and what noise
    does to its features."""
    exact = view.aug_conv
    view = view._replace(aug_conv=layer)
    if repair.kind == "local_mixing":
        return {"known_first_layer": {}, "blind": attack_local_mixing(view, truth)}
    found = adversary.recover(view, truth)
    report = dict(found.report)
    if repair.kind == "noise":
        features = algebra.feature_maps(view.morphed, exact)
        error = (found.features - features).norm() / features.norm()
        report["error_of_the_features"] = float(error)
        order = found.known_layer.order
        if order is not None:
            report["known_first_layer_denoised"] = attack_noise(view, truth, order)
    return report


def attack_local_mixing(view: View, truth: Truth) -> dict:
    """The blind attack where each position mixes its channels in its own way."""
    began = time.perf_counter()
    channels, kernel = algebra.filter_bank(view.layer).shape[1:3]
    features = adversary.features_of_images_and_probes(view)
    images = blind_pixels(features.of_images, features.of_probes, channels, kernel)
    missing_rim = kernel - 1 - view.layer.padding[0]
    inner = truth._replace(pixels=F.pad(truth.pixels, [-missing_rim] * 4))
    score = inner.score(images, up_to_colour=True)._asdict()
    return {"up_to_colour": score, "seconds": adversary.seconds_since(began)}


def attack_noise(view: View, truth: Truth, order: Tensor) -> dict:
    """With the first layer and the order of the channels known, by an adversary who expects noise.
    """
    began = time.perf_counter()
    filters = algebra.filter_bank(view.layer)[order]
    padding = view.layer.padding[0] - view.geometry.image_padding
    inverse = denoised_inverse(
        weight=view.aug_conv.weight, out_shape=view.aug_conv.out_shape, filters=filters,
        padding=padding, morphed=view.all_morphed, public=view.public)
    images = to_plain_images(view.morphed.double() @ inverse, view.geometry)
    return truth.score(images)._asdict() | {"seconds": adversary.seconds_since(began)}


def denoised_inverse(weight: Tensor, out_shape: tuple[int, int, int], filters: Tensor, padding: int,
                     morphed: Tensor, public: Tensor) -> Tensor:
    """M⁻¹ (αm², αm²) float64 from an Aug-Conv with noise added, by Wiener's shrinkage.

    Rows of Aug-Conv are features of rows of M⁻¹ and are deconvolved like any, which leaves noise.
    But T·M⁻¹ must have the second moments of images, for which public ones (n, αm²) stand, and T
    those of `morphed` (N, αm²). On the axes of both (eigenvectors) the squared entry of M⁻¹ to be
    expected, and the shrinkage, are

        expected = moment of public images / (αm² · moment of T)
        noise    = what the deconvolution makes of the noise in Aug-Conv, its variance
        entry    = deconvolved entry · expected / (expected + noise)

    `weight` (αm², βn²), `filters` (β, α, p, p) in the order of Aug-Conv's channels.
    """
    side = out_shape[-1] + filters.shape[-1] - 1 - 2 * padding
    rows = weight.view(-1, *out_shape)                   # each the features of a row of M⁻¹
    parts = [deconvolve(part, filters, side, stride=1, padding=padding) for part in rows.split(512)]
    noisy_inverse = torch.cat(parts)

    # The variance of the noise: in Aug-Conv, of what the images' features cannot explain; then of
    # white noise after a deconvolution.
    some = noisy_inverse[:64]
    unexplained = rows[:64] - F.conv2d(some, filters.double(), padding=padding)
    unknowns_per_equation = len(weight) / weight.shape[1]
    noise_in_aug_conv = unexplained.var() / (1 - unknowns_per_equation)
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(16, *out_shape, generator=generator)
    gain = deconvolve(white, filters, side, stride=1, padding=padding).var()
    noise = gain * noise_in_aug_conv

    morphed_moments, morphed_axes = second_moments(morphed)
    public_moments, public_axes = second_moments(public)
    strength = morphed_moments.clamp(min=1e-12)[:, None]
    expected = public_moments.clamp(min=0) / (len(weight) * strength)
    on_axes = morphed_axes.T @ noisy_inverse.flatten(1) @ public_axes
    shrunk = on_axes * expected / (expected + noise)
    return morphed_axes @ shrunk @ public_axes.T


def second_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (αm²) and eigenvectors (αm², αm²) of the second moments of images (n, αm²)."""
    images = images.double()
    values, vectors = torch.linalg.eigh(images.T @ images / len(images))
    return values, vectors


def blind_pixels(features: Tensor, probes: Tensor, channels: int = 3,
                 kernel: int = 3) -> Tensor:
    """Images, blind, where each position mixes its channels in its own way: (N, α, n-p+1, n-p+1)
    float64.

    The pixel that positions p-1 apart along both axes share is found as in `find_shared_pixel`, but
    for each pair by itself, from features `probes` (S, k, n, n) of random vectors, S > 2αp²,
    k ≥ αp². It is found up to a colour mixture of its own. Whitened over the images that is a
    rotation, and each pixel is turned (orthogonal Procrustes) to be as close as may be to its
    neighbours, which in photographs look alike. So all come up to one mixture, about, with a rim
    missing.

    Raises ValueError where probes, images or channels are too few.
    """
    rank, reach = channels * kernel ** 2, kernel - 1
    if min(probes.shape[0] - rank, probes.shape[1]) < rank or len(features) < channels:
        raise ValueError(f"{len(probes)} probes of {probes.shape[1]} channels are too few for "
                         f"{rank} dimensions at each position")
    u, s, vt = torch.linalg.svd(probes.double().permute(2, 3, 0, 1), full_matrices=False)
    filled = (s > 1e-5 * s.amax())[..., None, :rank]                # fewer at the rim
    u, v = u[..., :rank] * filled, vt.mT[..., :rank] / s[..., None, :rank] * filled
    left = torch.linalg.svd(u[:-reach, :-reach].mT @ u[reach:, reach:])[0][..., :channels]
    pixels = torch.einsum("nkyx,yxkc->yxnc", features[:, :, :-reach, :-reach].double(),
                          v[:-reach, :-reach] @ left)
    pixels = pixels @ torch.linalg.inv(torch.linalg.cholesky(pixels.mT @ pixels)).mT
    return smooth(pixels).permute(2, 3, 0, 1)


def smooth(pixels: Tensor, sweeps: int = 40) -> Tensor:
    """Turns each pixel's values (rows, columns, N, α) towards those of its neighbours."""
    rows, columns = pixels.shape[:2]
    for y, x in itertools.product(range(rows), range(columns)):     # first from corner to corner
        if y or x:
            left, above = pixels[y, max(x - 1, 0):x], pixels[max(y - 1, 0):y, x]
            pixels[y, x] = rotate_towards(pixels[y, x], left.sum(0) + above.sum(0))
    black = (torch.arange(rows)[:, None] + torch.arange(columns)) % 2 == 0
    for squares in [black, ~black] * sweeps:                        # then all towards all around
        padded = F.pad(pixels, (0, 0, 0, 0, 1, 1, 1, 1))
        around = (padded[:-2, 1:-1] + padded[2:, 1:-1]
                  + padded[1:-1, :-2] + padded[1:-1, 2:])
        pixels[squares] = rotate_towards(pixels[squares], around[squares])
    return pixels


def rotate_towards(pixels: Tensor, target: Tensor) -> Tensor:
    """Values (…, N, α) under the rotation that brings them closest (orthogonal Procrustes)."""
    a, _, b = torch.linalg.svd(pixels.mT @ target)
    return pixels @ a @ b


if __name__ == "__main__":
    run_command(main)
