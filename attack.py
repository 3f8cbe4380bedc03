"""Step 7, an adversary: the developer of the paper, who wants the private images back.

Reads data/delivery/ and what a developer has anyway: the first layer, and plain training images as
a public sample. Attacked are the test images. Only --score opens data/provider/ and the plain test
images, to measure. Writes attacks.json (with --repairs, repairs.json) and figures/attack.png to
--results_dir; if none, to results/, or without --score to attack/ in --data_dir.
"""

import math
import time
from pathlib import Path

from tqdm import tqdm

from models import first_layer
from parameter import Parameters
from utils import adversary
from utils.adversary import IMAGES, PUBLIC, Truth, pixels, spread
from utils.artifacts import load, write_alone
from utils.datasets import load_images, unrolled
from utils.delivery import Delivery, read_delivery
from utils.pictures import rows_png
from utils.program import UserError, explained, require_memory, run_step
from utils.records import circumstances, stretched, to_json

PUBLISHED = 7.9e-90         # the paper's chance of success: one guess at the order, 1/64!
SHOWN = 10
EXTRA = (("score", "open data/provider/ and the plain test images, to measure what came back"),
         ("repairs", "with --score: also attack repaired variants of Aug-Conv"))


def main(p: Parameters, flags: set[str]):
    data_dir, began = Path(p.data_dir), time.perf_counter()
    if "repairs" in flags and "score" not in flags:
        raise UserError("--repairs measures what comes back: give --score too")
    delivery = read_delivery(data_dir / "delivery")
    entries, positions = math.prod(delivery.shape), math.prod(delivery.out_shape)
    require_memory(4 * entries * (positions * (4 if "repairs" in flags else 1) + 2 * PUBLIC
                   + delivery.train_images + delivery.test_images), "attacking this delivery",
                   "deliver fewer images")
    weight, out_shape, _ = delivery.aug_conv()
    data = delivery.data()
    with explained():
        layer = first_layer.from_file(load(data_dir / "developer" / "first_layer.pt"))
    if layer.stride != (1, 1) or layer.groups > 1 or layer.dilation != (1, 1):
        raise UserError("the attacks are written for a first layer of stride 1 and one group")
    morphed, filters = data.test[spread(len(data.test), IMAGES)], layer.weight.detach()
    public = load_images(p, "train").images
    chosen = spread(len(public), PUBLIC)
    plain = unrolled(public[chosen], delivery.image_padding)
    if public.shape[-1] + 2 * delivery.image_padding != delivery.shape[-1]:
        raise UserError(f"images of side {delivery.shape[-1]} were delivered, but the public ones "
                        f"have {public.shape[-1]}: use the --image_size of gen_augconv.py")
    truth = None
    if "score" in flags:
        truth = read_truth(p, data_dir, delivery, len(public))

    print(f"{len(morphed)} images under attack; published chance of success: {PUBLISHED}")
    with explained():
        found = adversary.recover(morphed, weight, out_shape, filters, layer.padding[0], p.seed,
                                  truth)
        tell("Aug-Conv's feature maps of them", found.report["look"])
        tell("with Aug-Conv, first layer known", found.report["known first layer"])
        tell("with Aug-Conv, blind", found.report["blind"])
        blurred, alone = adversary.data_only(data.test, plain, delivery, truth)
        tell("without Aug-Conv, from the morphed images alone", alone)
    result = {"data": delivery.about(), "images": len(morphed), "published chance": PUBLISHED,
              **found.report, "data only": alone}
    if truth is not None:
        result["known pairs"] = adversary.known_pairs(plain, data.train[chosen], morphed,
                                                      delivery, truth)
        for point in result["known pairs"]:
            tell(f"{point['pairs']} known pairs ({point['least']} are enough)", point)
    search = result["seed search"] = adversary.seed_search(entries // delivery.kappa, p.seed)
    print("{} the {q}x{q} core of a {bits}-bit seed at {seeds per second:.0f} seeds a second; the "
          "2^32 of torch.rand at {full q}x{full q} take one process {years for 2^32:.2g} years; "
          "cores here are drawn from {bits of entropy here} bits".format(
              "found" if search["found"] else "did not find", **search))
    if "repairs" in flags:
        result["repairs"] = []
        for kind, strength in tqdm(adversary.REPAIRS, desc="attacking repairs", leave=False):
            result["repairs"].append(adversary.repaired(
                kind, strength, weight, delivery, morphed, data.test, plain, filters,
                layer.padding[0], truth))
        for report in result["repairs"]:
            name = f"repair {report['repair']} {report['strength']:g}"
            tell(f"{name}, first layer known", report["known first layer"])
            tell(f"{name}, blind, up to colour", report["blind"].get("up to colour", {})
                 | report["blind"])
            if "known first layer, denoised" in report:
                tell(f"{name}, first layer known, denoised", report["known first layer, denoised"])

    shown = spread(len(morphed), SHOWN)
    maps = found.features[shown, found.features.var((0, 2, 3)).argmax()]
    rows = [("morphed: what is handed over", stretched(morphed[shown], delivery.shape)),
            ("one of Aug-Conv's feature maps", stretched(maps.flatten(1), (1, *out_shape[1:])))]
    rows += [(title, pixels(images[shown])) for title, images in (
        ("recovered with the first layer known", found.known), ("recovered blind", found.blind),
        ("from the morphed images alone, without Aug-Conv", blurred)) if images is not None]
    if truth is not None:
        rows.insert(0, ("original, private", truth.pixels[shown]))
    folder = Path(p.results_dir or ("results" if truth is not None else data_dir / "attack"))
    name = "repairs" if "repairs" in flags else "attacks"
    write_alone(folder / "figures" / "attack.png", rows_png(rows, zoom=3))
    write_alone(folder / f"{name}.json", to_json(circumstances(p) | result | {
        "seconds": round(time.perf_counter() - began, 1)}))
    print(f"{folder}/{name}.json has the figures, {folder}/figures/attack.png the pictures")


def read_truth(p: Parameters, data_dir: Path, delivery: Delivery, train_images: int) -> Truth:
    """What was delivered; raises UserError where the settings are not those of gen_augconv.py."""
    test = load_images(p, "test").images
    if (train_images, len(test)) != (delivery.train_images, delivery.test_images):
        raise UserError(f"{delivery.train_images} and {delivery.test_images} images were delivered,"
                        f" but these settings give {train_images} and {len(test)}: use the "
                        "--dataset, --train_limit and --test_limit of gen_augconv.py")
    return Truth(load(data_dir / "provider" / "channel_order.pt")["order"],
                 test[spread(len(test), IMAGES)].double() / 255)


def tell(what: str, report: dict):
    words = [f"{report['seconds']:.1f} s"] if "seconds" in report else ["nothing"]
    if "channels right" in report:
        words.append(f"{report['channels right']} of {report['channels']} channels right")
    if "psnr" in report:
        words.append(f"PSNR {report['psnr']:.1f} dB, SSIM {report['ssim']:.3f}, "
                     f"{report['exact']:.2%} of the values exact")
    if "failed" in report:
        words.append(report["failed"])
    print(f"{what}: {', '.join(words)}", flush=True)


if __name__ == "__main__":
    run_step(main, __doc__, extra=EXTRA)
