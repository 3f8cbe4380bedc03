"""The adversary: the developer of the paper, who wants the private images back.

Reads data/delivery/, or the delivery of --delivery, and what a developer has anyway: the first
layer, and plain training images as public images, or those of --public. The test images are under
attack. Only --score opens data/provider/ and the plain test images, to measure. Writes attacks.json
and figures/attack.png to --results_dir; if none, to attack/ in --data_dir.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import utils.step  # isort: skip                         # first: see there
from torch import Tensor

from attacks import adversary, algebra
from attacks.adversary import UNEXPLAINED_LIMIT, Finding, Recovery
from attacks.view import (
    PUBLIC,
    Truth,
    View,
    make_truth,
    scale_of_pixels,
    to_pixels,
    value_range,
)
from experiments.tables.formulas import PUBLISHED_CHANCE
from images.arrays import open_array, read_array_images
from images.cache import read_image_files, warn_of_loss
from images.datasets import (
    DATASETS,
    ImageSet,
    Prepared,
    image_shape,
    load_images,
    warn_of_another_scale,
)
from images.folders import list_images
from mole.morphing import size_in_words, unroll
from utils.artifacts import load, write_alone
from utils.attack_reports import share_found, write_share
from utils.delivery import Delivery, as_morphed, read_one_delivery
from utils.errors import UserError, user_errors, warn
from utils.examples import evenly_spaced
from utils.first_layers import first_layer_path, read_first_layer
from utils.keys import CHANNEL_ORDER, key_folder, order_from
from utils.launch import require_one_process
from utils.memory import require_memory
from utils.owners import adopt
from utils.parameter_file import parameter_file
from utils.plots import channels_shown, draw, rows_png, stretch
from utils.provenance import provenance
from utils.records import delivered_data, split_digest, to_json

SHOWN = 10                  # images in attack.png
RECOGNISED = 0.1            # of all images: from such a share on they count as re-identified


def main(p):
    require_one_process()
    began = time.perf_counter()
    delivery = read_one_delivery(p, "each is attacked on its own")
    print(f"attacking {delivery.folder}/, {delivery.describe()}")
    p = adopt_shape(p, delivery)
    view = read_view(p, delivery)
    truth = read_truth(p, delivery) if p.score else None
    looked_at = "scored and shown" if p.score else "looked at (--score measures the success)"
    print(f"{len(view.all_morphed)} images under attack, {len(view.morphed)} of them {looked_at}; "
          f"published chance of success: {PUBLISHED_CHANCE}")
    print(f"these are the delivered test images; a developer also holds {delivery.train_images} "
          "training images, which are not attacked here")
    with user_errors():
        recovery = adversary.recover(view, truth)
        tell("Aug-Conv's feature maps of them", recovery.report["look"])
        tell("with Aug-Conv, first layer known", recovery.known_layer.report)
        both = " and the mirrored one" if view.mirrored is not None else ""
        tell(f"with Aug-Conv{both}, blind", recovery.blind.report)
        alone = adversary.attack_data(view, truth)
        if "starts" in alone.report:
            warn_of_few_morphed(view)
        tell("without Aug-Conv, from the morphed images alone", alone.report)
        report = recovery.report | {"data_only": alone.report}
        if truth is not None:
            report["known_pairs"] = attack_known_pairs(p, view, delivery, truth)
    folder = Path(p.results_dir or f"{p.data_dir}/attack")
    record = provenance(p) | {"data": delivered_data([delivery]), "images": len(view.morphed)}
    record |= report | {"seconds": round(time.perf_counter() - began, 1)}
    path = folder / "attacks.json"
    if path.exists():
        print(f"replacing the earlier {path}")
    write_alone(path, to_json(record))
    print(f"{path} has the figures")
    drawn = draw(folder / "figures" / "attack.png", lambda: picture(view, truth, recovery, alone))
    if drawn:
        print(f"{folder}/figures/attack.png has the pictures")


def adopt_shape(p, delivery: Delivery):
    """The settings with the size, channels and fit of the delivered images.

    Raises UserError if an option says otherwise, or the data set has images of another size.
    """
    delivered = delivery.geometry.plain_shape
    channels, side, _ = delivered
    owner = str(delivery.folder)
    if p.dataset in ("folder", "shapes"):                # others have a size of their own
        p = adopt(p, owner, image_size=side)
    if p.dataset == "folder" or p.public:
        p = adopt(p, owner, image_fit=delivery.geometry.image_fit)
    needs_own_images = p.score or not p.public
    if p.dataset != "arrays" and channels not in (1, 3) and needs_own_images:
        raise UserError(f"{owner} has arrays of {channels} channels: add --dataset arrays and "
                        "--dataset_dir, which name the plain arrays, as for gen_augconv.py; "
                        "without --score, --public FILE.npy will do")
    if p.dataset != "arrays":
        p = adopt(p, owner, channels=channels)
    if not p.public and image_shape(p) != delivered:
        raise UserError(f"{owner} has images {size_in_words(delivered)}, but those of "
                        f"--dataset {p.dataset} are {size_in_words(image_shape(p))}: name "
                        "the --dataset that the delivery or the first layer is of, or, with "
                        "--public, a folder of images, which are resized")
    return p


def read_view(p, delivery: Delivery) -> View:
    """What the developer holds; raises UserError for what these attacks are not written for."""
    layer = read_layer(p, delivery)
    delivered = delivery.geometry.plain_shape
    geometry, aug_conv = delivery.geometry, delivery.aug_conv()
    mirrored = delivery.aug_conv(mirrored=True) if delivery.mirrored else None
    images = load_public_images(p, delivered)
    require_memory(adversary.attack_bytes(delivery, layer.kernel_size[0], len(images)),
                   "attacking this delivery", "deliver fewer or smaller images")
    warn_of_another_scale(images, geometry.mean, geometry.std, "the public images")
    prepared = Prepared(images, geometry.mean, geometry.std, geometry.image_padding)
    public = prepared[evenly_spaced(len(images), PUBLIC)]
    morphed = as_morphed(delivery.split("test")[0], delivery.scale)
    low, high = value_range(images)
    return View(geometry, aug_conv, morphed, layer, unroll(public, geometry.tile), low, high,
                mirrored)


def warn_of_few_morphed(view: View):
    """Warns where fewer images are morphed than a block has entries: their statistics are weak, and
    the attack on morphed images alone may be wrong without noticing."""
    if len(view.all_morphed) < view.block_size:
        warn(f"{len(view.all_morphed)} morphed images are fewer than the {view.block_size} entries "
             "of a block: what the attack on them alone finds may be wrong; with more test images "
             "it is less so (--test_limit of gen_augconv.py)")


def load_public_images(p, shape: tuple[int, int, int]) -> Tensor:
    """The images of --public, (N, *shape): a folder of image files, an array (or a folder with
    train.npy), or a data set by name. Without it, the training images.

    Raises UserError where there are no such images.
    """
    if not p.public:
        train = load_images(p, "train")
        if train.from_files is not None:
            warn_of_loss([train.from_files], p.pixel_range)
        return train.images
    folder = Path(p.public).expanduser()
    if folder.suffix == ".npy":
        return read_array_images(folder, shape)
    if (folder / "train.npy").exists():
        return read_array_images(folder / "train.npy", shape)
    require_same_scale(p)
    if folder.is_dir():
        files, _ = list_images(folder)
        if not files:
            raise UserError(f"{folder} holds no images: choose another --public folder")
        found = read_image_files(files, shape, p.image_fit, p.pixel_range,
                                 Path(p.data_dir) / "decoded" / "public", "public")
        warn_of_loss([found], p.pixel_range)
        return found.images
    if p.public not in DATASETS or p.public in ("folder", "arrays"):
        raise UserError(f"--public {p.public} is neither a folder, an array (.npy) nor a data set "
                        "by name")
    own_side = 0 if DATASETS[p.public].torchvision else shape[1]
    public = replace(p, dataset=p.public, train_limit=0, image_size=own_side, channels=shape[0],
                     dataset_dir=where_data_sets_are(p))
    if image_shape(public) != shape:
        raise UserError(f"the images of --public {p.public} are "
                        f"{size_in_words(image_shape(public))}, but "
                        f"{size_in_words(shape)} were delivered: choose others, or a folder "
                        "of image files, which are resized")
    return load_images(public, "train").images


def require_same_scale(p):
    """Raises UserError where the images of --public, of 8 bits, are on another scale than arrays
    that were delivered."""
    if p.dataset != "arrays":
        return
    dtype = open_array(Path(p.dataset_dir) / "train.npy").dtype
    if dtype != "uint8":
        raise UserError(f"the images of --public have 8 bits, but the arrays of {p.dataset_dir} "
                        f"hold {dtype}: leave --public out, or give it an array (.npy)")


def where_data_sets_are(p) -> str:
    """The folder of data sets; --dataset_dir may be one of the user's own images instead."""
    if p.dataset in ("folder", "arrays"):
        return parameter_file().paper["dataset_dir"]
    return p.dataset_dir


def read_layer(p, delivery: Delivery):
    """The developer's first layer; raises UserError where the delivery is for another one."""
    path = first_layer_path(p)
    first = read_first_layer(path)
    if first.fingerprint != delivery.layer_fingerprint:
        raise UserError(f"{path} is not the layer that {delivery.folder} was composed with: give "
                        "that layer by --first_layer, or ask the provider for a delivery with this "
                        "one")
    with user_errors():
        algebra.require_square(first.layer)
    return first.layer


def read_truth(p, delivery: Delivery) -> Truth:
    """The images and the channel order behind the delivery.

    Raises UserError where the settings are not those of gen_augconv.py, or the secret order belongs
    to another delivery.
    """
    path = key_folder(Path(p.data_dir) / "provider", delivery.geometry.key) / CHANNEL_ORDER
    order, owner = load(path, order_from)
    if owner != delivery.id or order.shape != delivery.out_shape[:1]:
        raise UserError(f"{path} is not of this delivery: run `python gen_augconv.py` again")
    load_delivered(p, "train", delivery.train_digest)    # its known pairs are of these
    test = load_delivered(p, "test", delivery.test_digest)
    return make_truth(order, test.images, delivery.geometry.mean, delivery.geometry.std)


def load_delivered(p, split: str, delivered: str) -> ImageSet:
    """The plain images behind a delivery; raises UserError where these are others. `delivered`: the
    digest in the delivery."""
    images = load_images(p, split)
    if split_digest(images) != delivered:
        raise UserError(f"the plain {split} images of these settings are not those that were "
                        "delivered: use the --dataset, --train_limit, --test_limit and so on of "
                        "gen_augconv.py")
    return images


def attack_known_pairs(p, view: View, delivery: Delivery, truth: Truth) -> list[dict]:
    """Tells, for several numbers of known pairs, what they give away.

    The pairs are training images, which read_truth has compared with those that were delivered.
    """
    geometry = delivery.geometry
    train = delivery.split("train")[0]
    chosen = evenly_spaced(len(train), PUBLIC)
    images = Prepared(load_images(p, "train").images, geometry.mean, geometry.std,
                      geometry.image_padding)[chosen]
    paired = as_morphed(train[chosen], delivery.scale)
    rounding = algebra.variance_of_rounding(paired, geometry.delivery_dtype, delivery.scale)
    curve = adversary.attack_known_pairs(view, unroll(images, geometry.tile), paired, truth,
                                         rounding)
    for point in curve:
        tell(f"{point['pairs']} known pairs ({point['least']} determine the core)", point)
    return curve


def tell(what: str, report: dict):
    """Prints one attack's report in a line."""
    words = [f"{report['seconds']:.1f} s"]
    if "unexplained" in report and "images_from" not in report:
        words.append(describe_unexplained(report["unexplained"], report.get("left_open")))
    words += [*words_on_scores(report), *words_on_search(report)]
    if "failed" in report and "up_to_colour" in report:
        words.append(describe_mixture(report["up_to_colour"]))
    if "failed" in report:
        words.append(f"failed: {report['failed']}")
    print(f"{what}: {', '.join(words)}", flush=True)


def words_on_scores(report: dict) -> list[str]:
    """How right it is, by the truth: what is in the report of channels and images."""
    words = []
    if "channels_right" in report:
        words.append(f"{report['channels_right']} of {report['channels']} channels right")
    if "psnr" in report:
        words.append(f"PSNR {report['psnr']:.1f} dB, SSIM {report['ssim']:.3f}, "
                     f"{write_share(report['exact'])} of the values exact to 8 bits")
    if "reidentified" in report:
        words.append(f"{write_share(report['reidentified'])} of all test images re-identified")
        if share_found(report).is_mirrored:
            words.append(f"{write_share(report['reidentified_mirrored'])} of their mirror images")
    if "mean_image" in report:
        mean = report["mean_image"]["psnr"]
        words.append(f"the mean public image alone {mean:.1f} dB")
        if "psnr" in report and report["psnr"] <= mean:
            words.append(describe_no_better(report))
    return words


def words_on_search(report: dict) -> list[str]:
    """How the search for the core went, which knows no truth; nothing where there was none."""
    if "starts" not in report:
        return []
    words = []
    if "failed" not in report:
        words.append(f"found by its own account: unlikeness {report['unlikeness']:.3f}, wrong keys "
                     f"{report['wrong_keys']:.3f}")
    words.append(f"{report['agreeing']} of {report['starts']} starts agree, which is no proof")
    return words


def describe_no_better(report: dict) -> str:
    """Of images that are no closer to the private ones than the mean image, by PSNR: whether they
    are recognised all the same."""
    if share_found(report).share > RECOGNISED:
        return "so images are no closer than that, but they are recognised"
    return "so nothing was found that is better than it"


def describe_unexplained(share: float, left_open: str | None) -> str:
    """What an attack that knows no truth can say of its images: whether they explain Aug-Conv's
    features.

    share: of these features, what the images do not explain. left_open: what features cannot tell.
    """
    if share > UNEXPLAINED_LIMIT:
        return f"images that do not explain Aug-Conv's features: they leave {share:.1%}"
    words = "images come back"
    if left_open:
        words = f"images come back in part (left open: {left_open})"
    return f"{words}, their features are Aug-Conv's to {share:.1e}"


def describe_mixture(scores: dict) -> str:
    """What a blind attack found that did not find the mixture of channels; `scores`, where the
    truth is known, are under the best one."""
    words = "pixels are found up to an unknown mixture of their channels"
    return f"{words}, {scores['psnr']:.1f} dB under the best one" if scores else words


def picture(view: View, truth: Truth | None, recovery: Recovery, alone: Finding) -> bytes:
    """PNG: what is handed over, a feature map, and what was recovered, below the originals if
    known."""
    shown = evenly_spaced(len(view.morphed), SHOWN)
    morphed = view.geometry.as_images(view.morphed[shown])
    brightest = recovery.features.var((0, 2, 3)).argmax()
    note = channels_shown(morphed)
    which = f" ({note})" if note else ""
    rows: list[tuple[str, Tensor]] = []
    mean, std = scale_of_pixels(view.geometry.mean, view.geometry.std, view.low, view.high)
    if truth is not None:
        mean, std = truth.mean, truth.std
        rows.append((f"original, private{which}", truth.pixels[shown]))
    geometry = view.geometry
    handed_over = f"handed over: {geometry.blocks}, {geometry.morph_distribution} core"
    rows.append((handed_over + which, stretch(morphed)))
    rows.append(("one of Aug-Conv's feature maps",
                 stretch(recovery.features[shown, brightest][:, None])))
    for title, finding in (
            ("first layer known", recovery.known_layer),
            ("first layer unknown (blind)", recovery.blind),
            (f"without Aug-Conv, {len(view.public)} public images", alone)):
        if finding.images is not None:
            words = caption(title, finding.report) + which
            rows.append((words, to_pixels(finding.images[shown], mean, std)))
    return rows_png(rows, zoom=3)


def caption(title: str, report: dict) -> str:
    """A row of the picture in words, with its scores where the truth is known."""
    words = f"{'failed' if 'failed' in report else 'recovered'}, {title}"
    if "psnr" in report:
        words += f": {report['psnr']:.0f} dB"
    if "reidentified" in report:
        found = share_found(report)
        mirrored = " as mirror images" if found.is_mirrored else ""
        words += f", {write_share(found.share)} re-identified{mirrored}"
    return words


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
