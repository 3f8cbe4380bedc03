"""Step 7, an adversary: the developer of the paper, who wants the private images back.

Reads data/delivery/ and what a developer has anyway: the first layer, and plain training images as
a public sample. Attacked are the test images. Only --score opens data/provider/ and the plain test
images, to measure. Writes attacks.json and figures/attack.png to --results_dir; if none, to attack/
in --data_dir.
"""

import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import torch
from torch import Tensor

import utils.step
from attacks import adversary, algebra
from attacks.adversary import IMAGES, PUBLIC, Recovery, Truth, View, evenly_spaced, pixels
from images.datasets import Prepared, data_digest, image_shape, load_images
from mole import first_layer
from mole.morphing import core_size, unrolled
from utils.artifacts import load, write_alone
from utils.delivery import Delivery, read, restored
from utils.memory import require_memory
from utils.plots import draw, rows_png, stretched
from utils.provenance import provenance, to_json
from utils.settings import UserError, user_errors

PUBLISHED = 7.9e-90         # the paper's chance of success: one guess at the order, 1/64!
SHOWN = 10
SEED_BITS, SEED_Q = 16, 48  # of the reduced key space that is searched


def main(p):
    data_dir, began = Path(p.data_dir), time.perf_counter()
    delivery = read(Delivery, data_dir / "delivery")
    view, truth, result = read_view(p, delivery), None, {}
    if p.score:
        truth = read_truth(p, delivery)
    print(f"{len(view.morphed)} images under attack; published chance of success: {PUBLISHED}")
    with user_errors():
        found = adversary.recover(view, truth)
        tell("Aug-Conv's feature maps of them", found.report["look"])
        tell("with Aug-Conv, first layer known", found.report["known_first_layer"])
        tell("with Aug-Conv, blind", found.report["blind"])
        blurred, result["data_only"] = adversary.attack_data(view, truth)
        tell("without Aug-Conv, from the morphed images alone", result["data_only"])
        if p.score:
            train = delivery.split("train")[0]
            paired = restored(train[evenly_spaced(len(train), PUBLIC)], delivery.scale)
            result["known_pairs"] = adversary.known_pairs(view, paired, truth)
            for point in result["known_pairs"]:
                tell(f"{point['pairs']} known pairs ({point['least']} determine the core)", point)
        g = delivery.geometry
        result["seed_search"] = search_seeds(core_size(g.shape, g.kappa, g.tile))
    folder = Path(p.results_dir or data_dir / "attack")
    write_alone(folder / "attacks.json", to_json(provenance(p) | {
        "data": delivery.about(), "images": len(view.morphed), "published_chance": PUBLISHED,
        **found.report, **result, "seconds": round(time.perf_counter() - began, 1)}))
    print(f"{folder}/attacks.json has the figures")
    if draw(folder / "figures" / "attack.png", lambda: picture(view, truth, found, blurred)):
        print(f"{folder}/figures/attack.png has the pictures")


def read_view(p, delivery: Delivery) -> View:
    """What the developer holds; raises UserError where it is nothing that is attacked here."""
    geometry, shape = delivery.geometry, delivery.plain_shape
    file = Path(p.data_dir) / "developer" / "first_layer.pt"
    layer = load(file, first_layer.from_file)[0]
    if first_layer.fingerprint(layer) != delivery.layer:
        raise UserError(f"{file} is not the layer that {delivery.folder} was composed with: run "
                        "`python gen_augconv.py` again")
    with user_errors():
        algebra.filter_bank(layer)
    if image_shape(p) != shape:
        raise UserError(f"images {'x'.join(map(str, shape))} were delivered, but the public ones "
                        f"are {'x'.join(map(str, image_shape(p)))}: use the --image_size and "
                        "--channels of gen_augconv.py")
    aug_conv, entries = delivery.aug_conv(), math.prod(geometry.shape)
    # The normal equations of the deconvolution, and samples of images.
    count = min(PUBLIC, delivery.train_images)
    require_memory("tensor", entries * (6 * entries + 4 * count + 6 * delivery.test_images),
                   purpose="attacking this delivery", advice="deliver fewer or smaller images")
    public = load_images(p, "train").images
    public = Prepared(public, geometry.mean, geometry.std, geometry.image_padding)[
        evenly_spaced(len(public), PUBLIC)]
    return View(geometry, aug_conv, restored(delivery.split("test")[0], delivery.scale), layer,
                unrolled(public, geometry.tile))


def read_truth(p, delivery: Delivery) -> Truth:
    """What was delivered; raises UserError where the settings are not those of gen_augconv.py, or
    the secret order is that of another delivery."""
    path = Path(p.data_dir) / "provider" / "channel_order.pt"
    order, of = load(path, lambda content: (content["order"] + 0, content["delivery"]))
    if of != delivery.id or order.shape != delivery.out_shape[:1]:
        raise UserError(f"{path} is not of this delivery: run `python gen_augconv.py` again")
    plain = [load_images(p, split).images for split in ("train", "test")]
    if data_digest(*plain) != delivery.pixels:
        raise UserError("the plain images of these settings are not those that were delivered: use "
                        "the --dataset, --train_limit, --test_limit and so on of gen_augconv.py")
    return Truth(order, plain[1][evenly_spaced(len(plain[1]), IMAGES)].double() / 255, plain[1],
                 delivery.geometry.mean, delivery.geometry.std)


def search_seeds(q: int) -> dict:
    """Attack 5 on a core drawn as the reference does, from 2^16 seeds in place of 2^32."""
    def draw(number: int, size: int = SEED_Q) -> Tensor:
        return torch.rand(size, size, generator=torch.Generator().manual_seed(number))

    generator = torch.Generator().manual_seed(0)
    secret = int(torch.randint(2 ** SEED_BITS, (1,), generator=generator))
    plain = torch.randn(SEED_Q, generator=generator)
    began = time.perf_counter()
    found = algebra.seed_search(plain, plain @ draw(secret), draw, range(2 ** SEED_BITS))
    rate = (secret + 1) / (time.perf_counter() - began)
    began = time.perf_counter()
    for number in range(3):
        draw(number, q)
    full = 3 / (time.perf_counter() - began)
    search = {"found": found == secret, "bits": SEED_BITS, "q": SEED_Q, "seeds_per_second": rate,
              "full_q": q, "full_seeds_per_second": full,
              "years_for_2_32": 2 ** 32 / full / (365.25 * 86400), "bits_of_entropy_here": 256}
    print("{} the {q}x{q} core of a {bits}-bit seed at {seeds_per_second:.0f} seeds a second; the "
          "2^32 of torch.rand at {full_q}x{full_q} take one process {years_for_2_32:.2g} years; "
          "cores here are drawn from {bits_of_entropy_here} bits".format(
              "found" if search["found"] else "did not find", **search))
    return search


def tell(what: str, report: dict):
    words = [f"{report['seconds']:.1f} s"] if "seconds" in report else ["nothing"]
    if "channels_right" in report:
        words.append(f"{report['channels_right']} of {report['channels']} channels right")
    if "psnr" in report:
        words.append(f"PSNR {report['psnr']:.1f} dB, SSIM {report['ssim']:.3f}, "
                     f"{report['exact']:.2%} of the values exact")
    if "reidentified" in report:
        words.append(f"{report['reidentified']:.1%} of all test images re-identified")
    if "failed" in report:
        words.append(report["failed"])
    print(f"{what}: {', '.join(words)}", flush=True)


def picture(view: View, truth: Truth | None, found: Recovery, blurred: Tensor | None) -> bytes:
    """PNG: what is handed over, a feature map, and what came back, beside the originals if any."""
    shown = evenly_spaced(len(view.morphed), SHOWN)
    morphed = view.geometry.placed(view.morphed[shown])
    maps = found.features[shown, found.features.var((0, 2, 3)).argmax()]
    rows = [("morphed: what is handed over", stretched(morphed)),
            ("one of Aug-Conv's feature maps", stretched(maps[:, None]))]
    rows += [(title, pixels(images[shown], view.geometry.mean, view.geometry.std))
             for title, images in (
                 ("recovered with the first layer known", found.known),
                 ("recovered blind", found.blind),
                 ("from the morphed images alone, without Aug-Conv", blurred))
             if images is not None]
    return rows_png(([("original, private", truth.pixels[shown])] if truth else []) + rows, zoom=3)


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
