"""Step 6: the paper's tables and figures, from what the runs left in results/.

Writes results/tables.md, tables.tex, analysis.json and figures/*.png, and the tables of the README.
A table whose results are missing names the command that makes them. With --measure, sweeps κ first,
on the test images of --dataset and the first layer in --data_dir (results/kappa.json and
figures/kappa.png), and weighs the delivery there (results/delivery.json).
"""

import json
from pathlib import Path

import torch
from utils.program import UserError, explained, require_memory, run_step
from utils.records import circumstances, stretched, to_json

from images.datasets import image_shape, images_of, load_images, unrolled
from models import first_layer
from models.aug_conv import AugConv, full_float32
from parameter import Parameters
from utils import analysis, attacks, result_tables
from utils.adversary import spread
from utils.artifacts import load, read_manifest, write_alone
from utils.figures import accuracy_png, overhead_png, pairs_png, rows_png
from utils.morphing import (
    compose_aug_conv,
    core_size,
    morph,
    relative_error,
    secret_generator,
    usable_core,
)
from utils.result_tables import CIFAR, ENTRIES, FEATURES, NETWORKS
from utils.tables import Table, filled

ROOT = Path(__file__).resolve().parent
KAPPAS = (1, 3, 12, 48, 192)
IMAGES, SHOWN = 256, 10
EXTRA = (("measure", "sweep kappa on real images first, a minute"),)
RECORDS = ("bench", "attacks", "repairs", "repairs_accuracy", "attack_matrix", "stress", "kappa",
           "he", "delivery")


def main(p: Parameters, flags: set[str]):
    folder = Path(p.results_dir or ROOT / "results")
    if "measure" in flags:
        sweep, picture = measure_kappas(p)
        write_alone(folder / "kappa.json", to_json(sweep))
        write_alone(folder / "figures" / "kappa.png", picture)
        delivery = weigh_delivery(p)
        if delivery is not None:
            write_alone(folder / "delivery.json", to_json(delivery))
    runs, records = read_results(folder)
    tables = made_tables(runs, records)
    write_alone(folder / "tables.md", as_markdown(tables))
    write_alone(folder / "tables.tex", "\n\n".join(
        table.latex() for table in tables.values()) + "\n")
    write_alone(folder / "analysis.json", to_json(computed()))
    write_alone(folder / "figures" / "overhead.png", overhead_png(
        list(KAPPAS), ENTRIES, FEATURES, analysis.vgg_macs("vgg16", 10),
        analysis.convolution_macs(3, 64, 3, 32), CIFAR))
    if "attacks" in records:
        write_alone(folder / "figures" / "known_pairs.png",
                    pairs_png(records["attacks"]["known pairs"]))
    if panels := curves(runs):
        write_alone(folder / "figures" / "accuracy.png", accuracy_png(panels))
    if not p.results_dir:                                # the README's tables are of results/
        readme = ROOT / "README.md"
        write_alone(readme, filled(readme.read_text(), {
            name: table.markdown() for name, table in tables.items()}))
    print(as_markdown(tables))
    print(f"{folder}/tables.md, tables.tex, analysis.json and figures/ are written")


def read_results(folder: Path) -> tuple[list[dict], dict]:
    """The training runs, and the other records by name; raises UserError where one is no JSON."""
    def read(path: Path):
        try:
            return json.loads(path.read_text())
        except ValueError:
            raise UserError(f"{path} is not JSON: remove it, or run its command again") from None

    runs = [read(path) for path in sorted((folder / "accuracy").glob("*seed*.json"))]
    return runs, {name: read(folder / f"{name}.json") for name in RECORDS
                  if (folder / f"{name}.json").exists()}


def made_tables(runs: list[dict], records: dict) -> dict[str, Table]:
    """Each table by its name; one that lacks its results is the command that measures them."""
    makers = {
        "accuracy": (runs, lambda: result_tables.accuracy_table(runs),
                     "the training scripts with `--results_dir results/accuracy`"),
        "paper": (True, lambda: result_tables.paper_table(runs, records), ""),
        "kappa": ("kappa" in records, lambda: result_tables.kappa_table(records["kappa"], runs),
                  "`python reproduce_tables.py --measure`"),
        "he": ("he" in records, lambda: result_tables.he_table(records["he"]), "`make tables-he`"),
        "bench": ("bench" in records, lambda: result_tables.bench_table(records["bench"]),
                  "`make bench`"),
        "attack": ("attacks" in records, lambda: result_tables.attack_table(records["attacks"]),
                   "`python attack.py --score`"),
        "matrix": ("attack_matrix" in records,
                   lambda: result_tables.matrix_table(records["attack_matrix"]),
                   "`python attack.py --score` on several deliveries"),
        "repairs": ("repairs" in records, lambda: result_tables.repairs_table(
            records["repairs"], records.get("repairs_accuracy")),
            "`python attack.py --score --repairs`"),
        "stress": ("stress" in records, lambda: result_tables.stress_table(records["stress"]),
                   "`make stress`"),
        "runs": (runs, lambda: result_tables.runs_table(runs),
                 "the training scripts with `--results_dir results/accuracy`"),
    }
    missing = "Not measured yet: "
    return {name: make() if there else Table("", [], [], missing + command + ".")
            for name, (there, make, command) in makers.items()}


def as_markdown(tables: dict[str, Table]) -> str:
    return "\n\n".join(f"## {table.title or name}\n\n{table.markdown()}"
                       for name, table in tables.items()) + "\n"


def computed() -> dict:
    """What the formulas of utils/analysis.py give for the paper's case, VGG-16 on CIFAR."""
    network = analysis.vgg_macs("vgg16", 10)
    return {
        "network multiply-adds": network,
        "first layer multiply-adds": analysis.convolution_macs(3, 64, 3, 32),
        "Aug-Conv multiply-adds": analysis.aug_conv_macs(ENTRIES, FEATURES),
        "morphing multiply-adds": {k: analysis.morphing_macs(ENTRIES, k) for k in KAPPAS},
        "published overhead, likely": analysis.likely_published_macs(3, 32, 3, 32) / network,
        "transmission by the paper's formula": analysis.transmission_by_paper(ENTRIES, ENTRIES,
                                                                              CIFAR),
        "transmission by entries": analysis.transmission_by_entries(ENTRIES, FEATURES, CIFAR),
        "transmission in bytes": analysis.transmission_by_bytes(ENTRIES, FEATURES, CIFAR),
        "log10 of guessing 64 channels' order": analysis.log10_order_guess(64),
        "log10 of guessing the core": {e: analysis.log10_core_guess(ENTRIES, e)
                                       for e in (0.5, 0.1, 0.01, 0.001)},
        "pairs that determine the core": {k: analysis.pairs_needed(ENTRIES // k, k)
                                          for k in KAPPAS},
        "GAZELLE's bytes over an image's": result_tables.HE_BYTES / ENTRIES,
    }


def curves(runs: list[dict]) -> dict[str, dict[str, list[list[dict]]]]:
    """The curves of the runs at κ = 1, by setting and network, for accuracy_png."""
    runs, panels = [run for run in runs if result_tables.is_usual(run)], {}
    for key in sorted({result_tables.setting(run) for run in runs}, reverse=True):
        here = [run for run in runs if result_tables.setting(run) == key]
        panels[result_tables.setting_title(key).replace(", VGG", "\nVGG", 1)] = {
            title: [run["curve"] for run in here if run["run"] == name]
            for name, title in NETWORKS.items() if any(run["run"] == name for run in here)}
    return panels


def measure_kappas(p: Parameters) -> tuple[dict, bytes]:
    """For each κ a core of its own: its condition, the features' error, how images look."""
    if p.image_padding:
        raise UserError("kappa is swept on images without padding: leave out --image_padding")
    content, shape = load(Path(p.data_dir) / "developer" / "first_layer.pt"), image_shape(p)
    test = load_images(p, "test").images
    test = test[spread(len(test), IMAGES)]
    pixels, plain, shown = test.float() / 255, unrolled(test, 0), spread(len(test), SHOWN)
    sweep, rows = [], [("plain images", pixels[shown])]
    with explained(), full_float32():
        layer = first_layer.from_file(content)
        require_memory(9 * layer.out_channels * shape[1] * shape[2] * plain.shape[1],
                       "sweeping kappa", "choose a smaller --image_size")   # two float32 matrices
        order = torch.arange(layer.out_channels)
        expected = layer(plain.view(-1, *shape))
        brightest = int(expected.var((0, 2, 3)).argmax())
        for kappa in KAPPAS:
            q = core_size(shape, kappa)
            core, inverse, condition = usable_core(q, p.morph_distribution,
                                                   secret_generator(p.morph_seed, purpose=0))
            weight, out_shape = compose_aug_conv(layer, inverse, shape, order)
            morphed = morph(plain, core)
            features = AugConv(weight, out_shape, layer.bias)(morphed)
            looks = attacks.score(stretched(morphed, shape), pixels)
            sweep.append({"kappa": kappa, "q": q, "condition number": condition,
                          "error of the features": relative_error(features, expected),
                          "ssim": looks["ssim"], "psnr": looks["psnr"]})
            print(sweep[-1], flush=True)
            rows.append((f"morphed, κ = {kappa}: core {q}×{q}", stretched(morphed[shown], shape)))
            if kappa in (KAPPAS[0], KAPPAS[-1]):
                rows.append((f"a first-layer feature map of them, through Aug-Conv, κ = {kappa}",
                             stretched(features[shown, brightest].flatten(1),
                                       (1, *out_shape[1:]))))
    return circumstances(p) | {"images": len(plain), "images of": images_of(p),
                               "sweep": sweep}, rows_png(rows, zoom=3)


def weigh_delivery(p: Parameters) -> dict | None:
    """Bytes on disk of what crosses from provider to developer, if there is a delivery."""
    folder = Path(p.data_dir) / "delivery"
    if not folder.is_dir():
        return None
    manifest = read_manifest(folder)
    size = {name: file["bytes"] for name, file in manifest["files"].items()}
    return circumstances(p) | {
        "images": manifest["train_images"] + manifest["test_images"],
        "morphed": size["morphed_train.pt"] + size["morphed_test.pt"],
        "Aug-Conv": size["aug_conv.pt"], "kappa": manifest["kappa"]}


if __name__ == "__main__":
    run_step(main, __doc__, extra=EXTRA)
