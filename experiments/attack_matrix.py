"""The attacks over first layers, cores, κ or tiles, dtypes and public images: `make attack-matrix`.

Every delivery is made in memory. First layers are trained where --first_layers has one
(MODEL.pt, as pretrain.py writes first_layer.pt), and else as a new network has them. Reads
CIFAR-10 and CIFAR-100 in --data/datasets, and a tree of train/ and test/ by classes in
--data/clothing. Rows that attack_matrix.json in --output has stay, but for those of --only and
those of another trained first layer. Each row is saved once it is measured. Pictures of what
comes back from morphed images alone go to figures/ in --output.
"""

import argparse
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attacks import adversary
from attacks.adversary import Finding
from attacks.view import Truth, View, make_truth, to_pixels
from experiments.inverse_training import inverse_training
from experiments.program import make_parser, run_command
from experiments.tables.formulas import KAPPAS
from experiments.tables.measured import describe_alone, describe_blocks
from experiments.tables.reading import read_json
from experiments.tables.rows import title_of_dataset
from experiments.tables.table import write_number
from images.datasets import ImageSet, Prepared, load_images, normalisation
from models import build as networks
from mole.first_layer import find_first_layer
from mole.morphing import unroll
from parameter import Parameters
from utils.artifacts import write_alone
from utils.attack_reports import share_found, write_share
from utils.delivery import as_morphed, deliver_in_memory, morph_in_memory
from utils.devices import use_full_float32
from utils.errors import UserError
from utils.examples import evenly_spaced
from utils.first_layers import FirstLayer, read_first_layer
from utils.geometry import Geometry
from utils.keys import draw_key, draw_order
from utils.plots import draw, rows_png
from utils.provenance import provenance
from utils.records import to_json

CLOTHING, CLOTHING_SIDE = "clothing", 64
ATTACKED = 10_000                   # private images of most cases
PAIRS = 4000                        # public images whose morphed ones are known, at most
EPOCHS = 8                          # of the authors' own attack
FEW = 1000                          # public images that are few
COUNTS = (300, 3000, 10_000)        # further numbers of public images
OTHER_KEYS = (1, 2)                 # seeds of the keys that are attacked beside that of seed 0
CORES = ("orthogonal", "normal", "uniform")
AUG_AND_DATA = ("aug", "data")
OTHER_PUBLIC = {"cifar10": "cifar100", "cifar100": "cifar10"}   # public images of another data set
# About how long an attack takes, of one on morphed images alone with many public images. With few
# their copies are tried too.
EFFORTS = {"aug": 0.3, "data": 1, "data_few": 3, "data_other": 1, "pairs": 0.3, "training": 2}
PICTURES = {(1, 0): "across", (1, 8): "across_tiles"}       # of uniform cores, by κ and tile
SHOWN = 10                          # images in a picture
NETWORKS = ("vgg16", "resnet18", "mobilenet_v2", "shufflenet_v2_x1_0", "mobilenet_v3_small",
            "squeezenet1_1", "convnext_tiny", "alexnet", "vit_b_16", "vit_b_32")


class Blocks(NamedTuple):
    """κ, and the side of tiles; 0: none."""

    kappa: int = 1
    tile: int = 0


BLOCKS = [*(Blocks(kappa) for kappa in KAPPAS), Blocks(tile=16), Blocks(tile=8), Blocks(tile=4)]


class Case(NamedTuple):
    """A delivery, and which attacks are played on it.

    `attacks`: some of aug (on Aug-Conv), data (morphed images alone), data_few (with FEW public
    images), data_other (with public images of another data set), pairs (known pairs), training
    (the authors' own). `private`: how many images are attacked; 0 all test images; more than there
    are means the training images, with the test images public. `seed`: of the secrets. `public`:
    how many public images there are; 0 all.
    """

    attacks: tuple[str, ...]
    dataset: str = "cifar10"
    image_size: int = 32
    model: str = "vgg11"
    morph_distribution: str = "orthogonal"
    kappa: int = 1
    tile: int = 0
    delivery_dtype: str = "float32"
    private: int = 0
    seed: int = 0
    public: int = 0

    @property
    def name(self) -> str:
        facts = [self.dataset, self.image_size, self.model, self.morph_distribution, self.kappa,
                 self.tile, self.delivery_dtype, self.private]
        if self.seed:
            facts.append(f"seed{self.seed}")
        if self.public:
            facts.append(f"public{self.public}")
        return "-".join(map(str, [*facts, *self.attacks]))

    @property
    def effort(self) -> float:
        """About how long it takes, compared with other cases."""
        return sum(EFFORTS[attack] for attack in self.attacks)

    @property
    def picture(self) -> str | None:
        """The name of the picture that shows what came back, if there is one."""
        has_all_rows = {"data", "data_few", "data_other"} <= set(self.attacks)
        if self.morph_distribution != "uniform" or not has_all_rows:
            return None
        return PICTURES.get((self.kappa, self.tile))


class AttackedDelivery(NamedTuple):
    """A delivery as the adversary has it, the truth, and T of some public images."""

    view: View
    truth: Truth
    paired: Tensor
    weights: str                    # trained or untrained


# -- The cases

def list_cases() -> list[Case]:
    return [*cases_of_cores(), *cases_of_int8(), *cases_of_counts(), *cases_of_layers(),
            *cases_of_patches(), *cases_of_cifar100(), case_of_the_authors(),
            *cases_of_other_keys(), *cases_of_public_counts()]


def cases_of_cores() -> list[Case]:
    """Every core with every κ and tile."""
    found = []
    for blocks in BLOCKS:
        for core in CORES:
            attacks = (*AUG_AND_DATA, "data_few", "data_other")
            if core == "orthogonal":
                attacks = (*attacks, "pairs")
            found.append(Case(attacks, morph_distribution=core, private=ATTACKED,
                              **blocks._asdict()))
    return found


def cases_of_int8() -> list[Case]:
    return [Case(AUG_AND_DATA, tile=tile, delivery_dtype="int8", private=ATTACKED)
            for tile in (0, 16, 8)]


def cases_of_counts() -> list[Case]:
    """Fewer and more private images."""
    found = []
    for tile in (0, 8):
        for count in (100, 300, 1000, 3000, 50_000):
            found.append(Case(("data",), tile=tile, private=count))
    return found


def cases_of_layers() -> list[Case]:
    """First layers of many networks, on larger images."""
    images = {"dataset": CLOTHING, "image_size": CLOTHING_SIDE}
    found = []
    for model in NETWORKS:
        attacks = AUG_AND_DATA if model == "resnet18" else ("aug",)
        tile = 32 if model == "vit_b_32" else 16         # its stride must divide the tile
        found.append(Case(attacks, model=model, tile=tile, **images))
    alike = images | {"model": "resnet18", "tile": 16}
    return [*found, Case(("aug",), delivery_dtype="int8", **alike),
            Case(("aug",), morph_distribution="uniform", **alike)]


def cases_of_patches() -> list[Case]:
    """Patch embeddings, with enough images for their statistics."""
    return [Case(("aug",), model=model, tile=16, private=ATTACKED)
            for model in ("convnext_tiny", "vit_b_16")]


def cases_of_cifar100() -> list[Case]:
    """Other images, with public ones of the same data set and of another one."""
    return [Case(("data", "data_other"), "cifar100", morph_distribution=core, private=ATTACKED)
            for core in CORES]


def case_of_the_authors() -> Case:
    """κ = 96, as in the authors' first code."""
    return Case(("aug", "training"), morph_distribution="uniform", kappa=96, private=ATTACKED)


def cases_of_other_keys() -> list[Case]:
    """Further keys, attacked with public images of another data set."""
    found = []
    for dataset in ("cifar10", "cifar100"):
        for core in ("orthogonal", "uniform"):
            for seed in OTHER_KEYS:
                found.append(Case(("data_other",), dataset, morph_distribution=core,
                                  private=ATTACKED, seed=seed))
    return found


def cases_of_public_counts() -> list[Case]:
    """Fewer public images. Other cases have all of them, and FEW."""
    found = []
    for core in ("orthogonal", "uniform"):
        for count in COUNTS:
            found.append(Case(("data",), morph_distribution=core, private=ATTACKED, public=count))
    return found


# -- A delivery

@lru_cache(2)
def load_both_splits(data: Path, dataset: str, side: int) -> tuple[ImageSet, ImageSet]:
    """Training and test images."""
    p = settings_of(data, dataset, side)
    return load_images(p, "train"), load_images(p, "test")


def settings_of(data: Path, dataset: str, side: int) -> Parameters:
    if dataset == CLOTHING:
        return Parameters(dataset="folder", dataset_dir=str(data / dataset), image_size=side)
    return Parameters(dataset=dataset, dataset_dir=str(data / "datasets"))


def find_trained(model: str, folder: Path | None) -> FirstLayer | None:
    """A network's trained first layer, if there is one in the folder."""
    path = folder / f"{model}.pt" if folder else None
    return read_first_layer(path) if path is not None and path.exists() else None


def trained_fingerprint(model: str, folder: Path | None) -> str | None:
    """Of a network's trained first layer; None where it is attacked untrained."""
    trained = find_trained(model, folder)
    return trained.fingerprint if trained is not None else None


@lru_cache(1)
def load_first_layer(model: str, side: int, folder: Path | None) -> tuple[nn.Conv2d, str]:
    """A network's first layer, and whether it is trained or untrained."""
    trained = find_trained(model, folder)
    if trained is not None:
        return trained.layer, "trained"
    torch.manual_seed(0)
    network = networks.build(model, 10, (3, side, side))
    layer = network.get_submodule(find_first_layer(network, (3, side, side)))
    return layer.requires_grad_(False), "untrained"


def deliver(case: Case, data: Path, first_layers: Path | None = None) -> AttackedDelivery:
    """Makes the delivery of a case."""
    public, private = load_both_splits(data, case.dataset, case.image_size)
    mean, std = normalisation(settings_of(data, case.dataset, case.image_size), public)
    if case.private > len(private.images):
        public, private = private, public
    secret = choose(private.images, case.private)
    known = choose(public.images, case.public)
    shape = tuple(secret.shape[1:])

    layer, weights = load_first_layer(case.model, case.image_size, first_layers)
    key = draw_key(shape, case.kappa, case.tile, case.morph_distribution, case.seed)
    order = draw_order(layer.out_channels, case.seed)
    images = Prepared(secret, mean, std, 0)[:]
    delivered = deliver_in_memory(images, layer, key, case.delivery_dtype, order)

    pairs = evenly_spaced(len(known), PAIRS if "pairs" in case.attacks else 1)
    values, scale = morph_in_memory(Prepared(known, mean, std, 0)[pairs], key)
    geometry = key.geometry("crop", case.delivery_dtype, mean, std)
    view = View(geometry, delivered.aug_conv, delivered.restored(), layer,
                as_public(known, geometry))
    truth = make_truth(order, secret, mean, std)
    return AttackedDelivery(view, truth, as_morphed(values, scale), weights)


def choose(images: Tensor, count: int) -> Tensor:
    """So many of the images (N, ...), from end to end; all of them where `count` is 0."""
    if not count:
        return images
    return images[evenly_spaced(len(images), count)]


def as_public(images: Tensor, geometry: Geometry) -> Tensor:
    """Plain images (n, α, m, m) uint8 as the adversary compares them with T: normalised as the
    private ones are, in the shape of T."""
    prepared = Prepared(images, geometry.mean, geometry.std, geometry.image_padding)
    return unroll(prepared[:], geometry.tile)


# -- The attacks

class Attacked(NamedTuple):
    """A row of the matrix, and the rows of the case's picture (none where it has no picture)."""

    row: dict
    picture: list[tuple[str, Tensor]]


def attack_case(case: Case, data: Path, first_layers: Path | None = None) -> Attacked:
    """Plays the attacks of a case."""
    began = time.perf_counter()
    view, truth, paired, weights = deliver(case, data, first_layers)
    row = case._asdict() | {
        "weights": weights, "trained_layer": trained_fingerprint(case.model, first_layers),
        "private": len(view.all_morphed), "public": len(view.public),
        "kappa": None if case.tile else case.kappa, "first_layer": describe_layer(view.layer)}
    if "aug" in case.attacks:
        row |= adversary.recover(view, truth).report
    if "training" in case.attacks:
        row["inverse_training"] = play_authors_attack(view, truth)
    alone = attack_morphed_images_alone(case, view, truth, data)
    row |= {name: finding.report for name, finding in alone.items()}
    if "pairs" in case.attacks:
        some = evenly_spaced(len(view.public), PAIRS)
        row["known_pairs"] = adversary.attack_known_pairs(view, view.public[some], paired, truth)
    picture = show_recovered(case, row, alone, truth) if case.picture else []
    return Attacked(row | {"seconds": round(time.perf_counter() - began, 1)}, picture)


def attack_morphed_images_alone(case: Case, view: View, truth: Truth,
                                data: Path) -> dict[str, Finding]:
    """What each kind of public images gives, by its name in the row."""
    found = {}
    if "data" in case.attacks:
        found["data_only"] = adversary.attack_data(view, truth)
    if "data_few" in case.attacks:
        found["data_few"] = adversary.attack_data(view, truth, choose(view.public, FEW))
    if "data_other" in case.attacks:
        other = OTHER_PUBLIC[case.dataset]
        public, _ = load_both_splits(data, other, case.image_size)
        found["data_other"] = adversary.attack_data(
            view, truth, as_public(public.images, view.geometry))
        found["data_other"].report["public_dataset"] = other
    return found


def show_recovered(case: Case, row: dict, alone: dict[str, Finding],
                   truth: Truth) -> list[tuple[str, Tensor]]:
    """Rows of a picture: some private images, and the same as each kind of public images gives
    them."""
    shown = evenly_spaced(len(truth.pixels), SHOWN)
    titles = f"private images of {title_of_dataset(case.dataset)}, before morphing"
    rows = [(f"{titles} ({describe_blocks(row)}, {case.morph_distribution} core)",
             truth.pixels[shown])]
    for name in ("data_only", "data_few", "data_other"):
        finding = alone[name]
        if finding.images is not None:
            images = to_pixels(finding.images[shown], truth.mean, truth.std)
            rows.append((describe_recovered(case, finding.report), images))
    return rows


def describe_recovered(case: Case, report: dict) -> str:
    """Such as "from morphed images alone, with 1 000 public images of CIFAR-10: 99.5% …"."""
    public = write_number("{:,}", report["public_images"])
    dataset = title_of_dataset(report.get("public_dataset", case.dataset))
    share, is_mirrored = share_found(report)
    words = f"from morphed images alone, with {public} public images of {dataset}: "
    words += write_share(share)
    return f"{words} re-identified, as mirror images" if is_mirrored else f"{words} re-identified"


def describe_layer(layer: nn.Conv2d) -> str:
    """Such as "3→64, 7×7/2"."""
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    words = f"{layer.in_channels}→{layer.out_channels}, {kernel}×{kernel}"
    return f"{words}/{stride}" if stride > 1 else words


def play_authors_attack(view: View, truth: Truth) -> dict:
    """What the authors' own attack gives after EPOCHS epochs.

    As it is, and under the best mixture of its colours, which it leaves open.
    """
    with torch.inference_mode():
        features = view.features_of_morphed(view.all_morphed)
    spread = view.all_morphed.std()                      # or Adam would not get under way
    # Autograd takes no tensor of inference mode, so the features are copied.
    matrix, curve = inverse_training(
        morphed=view.all_morphed / spread, features=features.clone(), shape=view.geometry.shape,
        kernel=view.layer.kernel_size[0], padding=view.layer.padding[0], epochs=EPOCHS)
    images = (view.morphed / spread @ matrix).view(-1, *view.geometry.shape).double()
    unexplained = (curve[-1]["loss"] / float(features.square().mean())) ** 0.5
    return truth.score(images, up_to_colour=True)._asdict() | {
        "as_it_is": truth.score(images)._asdict(), "epochs": EPOCHS, "curve": curve,
        "unexplained": unexplained}


# -- The program

def main():
    arguments = parse_arguments()
    require_folder(arguments.first_layers)
    path = arguments.output / "attack_matrix.json"
    before = read_record(path)
    rows = {row["name"]: row for row in before.get("table", [])}
    use_full_float32()
    about = provenance(Parameters())
    of_the_row = {name: about[name] for name in ("code", "machine")}
    cases = list_cases()
    wanted = [case for case in cases
              if is_wanted(case, rows, arguments.only, arguments.first_layers)]
    if arguments.only and not wanted:
        raise UserError(f"no row has {' or '.join(arguments.only)} in its name")
    if arguments.only and before:
        # The record stays that of its whole run; each row says what measured it.
        again = [*before.get("measured_again", []), about["command"]]
        about = {key: before[key] for key in about if key in before} | {"measured_again": again}
    began = time.monotonic()
    for done, case in enumerate(wanted, start=1):
        row, picture = attack_case(case, arguments.data, arguments.first_layers)
        rows[case.name] = {"name": case.name, **row, **of_the_row}
        write_record(path, about, cases, rows)
        if picture:
            draw(arguments.output / "figures" / f"{case.picture}.png", rows_png, picture, 3)
        print(describe_result(rows[case.name]))
        print(describe_progress(wanted, done, time.monotonic() - began), flush=True)
    write_record(path, about, cases, rows)
    print(f"{path} has {sum(case.name in rows for case in cases)} of {len(cases)} rows")


def write_record(path: Path, about: dict, cases: list[Case], rows: dict[str, dict]):
    table = [rows[case.name] for case in cases if case.name in rows]
    record = about | {"complete": len(table) == len(cases), "table": table}
    write_alone(path, to_json(record))


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="default: data")
    parser.add_argument("--first_layers", type=Path, help="a folder with MODEL.pt of trained first "
                        "layers (default: none)")
    parser.add_argument("--only", nargs="+", help="measure the rows whose names contain one of "
                        "these again, and no others")
    return parser.parse_args()


def require_folder(first_layers: Path | None):
    """Raises UserError for a folder of first layers that is none."""
    if first_layers is not None and not first_layers.is_dir():
        raise UserError(f"--first_layers {first_layers} is no folder")


def read_record(path: Path) -> dict:
    """The record of an earlier run; empty where there is none."""
    return read_json(path) if path.exists() else {}


def is_wanted(case: Case, rows: dict[str, dict], only: list[str] | None,
              first_layers: Path | None) -> bool:
    """Whether a case is to be measured: it is asked for, has no row, or one of another layer than
    the trained one that there is now."""
    if only:
        return any(part in case.name for part in only)
    if case.name not in rows:
        return True
    trained = trained_fingerprint(case.model, first_layers)
    return trained is not None and trained != rows[case.name].get("trained_layer")


def describe_progress(wanted: list[Case], done: int, seconds: float) -> str:
    """How many of the rows are measured after so many seconds, and how long the others take."""
    pace = seconds / sum(case.effort for case in wanted[:done])
    minutes = pace * sum(case.effort for case in wanted[done:]) / 60
    return f"{done} of {len(wanted)} rows are measured; about {minutes:.0f} more minutes"


def describe_result(row: dict) -> str:
    parts = []
    for attack, found in row.items():
        if isinstance(found, dict) and "reidentified" in found:
            parts.append(f"{attack} {describe_alone(found)}")
        elif isinstance(found, dict) and ("psnr" in found or "failed" in found):
            result = f"{found['psnr']:.1f} dB" if "psnr" in found else found["failed"]
            parts.append(f"{attack} {result}")
    return f"{row['name']}: {', '.join(parts)}, {row['seconds']} s"


if __name__ == "__main__":
    run_command(main)
