"""Step 4, the provider: composes Aug-Conv from M⁻¹ and the developer's first layer, and morphs.

Reads data/provider/, the developer's first_layer.pt and the private images. Writes data/delivery/,
all that goes to the developer. The secret order of the channels, and a picture of private images
beside their morphed versions, go to the key's folder in data/provider/.
"""

import json
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import utils.step  # isort: skip                         # first: see there
import numpy as np
import torch
from torch import Tensor, nn

from images.datasets import (
    ImageSet,
    Prepared,
    dataset_name,
    image_shape,
    load_sets,
    settings_of_images,
    warn_of_another_scale,
)
from mole.aug_conv import AugConv
from mole.first_layer import describe
from mole.morphing import padded_shape, relative_error, size_in_words
from utils.artifacts import MANIFEST, Saving
from utils.attack_reports import share_found, write_share
from utils.delivery import (
    AUG_CONV,
    MIRRORED,
    Morpher,
    as_morphed,
    compose,
    is_exact_enough,
    morpher_for,
    read_delivery,
    write_morphed,
)
from utils.devices import joined_processes, rank, say, warn_once
from utils.errors import UserError, user_errors
from utils.examples import evenly_spaced
from utils.first_layers import FirstLayer, first_layer_path, read_first_layer
from utils.geometry import Geometry
from utils.keys import (
    CHANNEL_ORDER,
    Key,
    describe_last_delivery,
    draw_order,
    find_last_delivery,
    key_folder,
    order_content,
    read_key,
)
from utils.owners import adopt
from utils.plots import channels_shown, draw, rows_png, stretch
from utils.records import split_digest
from utils.settings import in_short

SHOWN = 10                          # images in the picture
SAMPLE = 64                         # images whose features are compared with the plain ones
TITLES = {AUG_CONV: "Aug-Conv", MIRRORED: "mirrored Aug-Conv"}
ATTACK_MATRIX = Path(__file__).parent / "results" / "attack_matrix.json"


class PrivateSplit(NamedTuple):
    """The provider's images of a split, and the same as they are morphed."""

    plain: ImageSet
    source: Prepared


class NewDelivery(NamedTuple):
    """What is saved. `facts`: what the manifest says besides the geometry; `order`: of Aug-Conv's
    channels, which is secret."""

    geometry: Geometry
    facts: dict
    layers: dict[str, AugConv]          # by the names of their files
    order: Tensor
    splits: dict[str, PrivateSplit]     # train and test
    morpher: Morpher

    @property
    def manifest(self) -> dict:
        return asdict(self.geometry) | self.facts


def main(p):
    data_dir = Path(p.data_dir)
    layer_path = first_layer_path(p)
    first = read_first_layer(layer_path)
    key = read_key(data_dir / "provider")
    p = adopt(p, str(layer_path), **settings_of_images(p, first))
    p = adopt(p, f"key {key.id}", image_padding=key.image_padding)
    check_shapes(p, first, key, layer_path)
    say_which_core(p, key)
    with joined_processes(p) as context:
        p = keep_pixel_range(p, data_dir / "provider", key)
        layer = first.layer.to(context.device)
        order = torch.arange(layer.out_channels)
        if p.shuffle_channels:
            order = draw_order(layer.out_channels, p.morph_seed)
        with user_errors(layer_path):
            layers = compose_layers(layer, key, order, p.mirrored)
        splits = load_splits(p, first, key)
        morpher = morpher_for(key, p.delivery_dtype, [split.source for split in splits.values()],
                              context.device)
        tested = splits["test"].source
        plain = tested[evenly_spaced(len(tested), SAMPLE)].to(context.device)
        morphed = as_morphed(morpher(plain), morpher.scale)      # through the delivery's dtype
        check_layers(layers, layer, order, plain, morphed, key, p)
        warn_of_few_images(first, len(splits["train"].source), layer_path)
        geometry = key.geometry(p.image_fit, p.delivery_dtype, first.mean, first.std)
        facts = facts_of_delivery(p, first, splits, layers, morpher.scale)
        new = NewDelivery(geometry, facts, layers, order, splits, morpher)
        delivery = save(data_dir, new, p.pixel_range)
        if rank() == 0:
            report(data_dir, delivery, geometry, plain, morphed)


def check_layers(layers: dict[str, AugConv], layer: nn.Conv2d, order: Tensor, plain: Tensor,
                 morphed: Tensor, key: Key, p):
    """Compares the features of some images (B, α, m, m) with those that each Aug-Conv gives for
    their T. Raises UserError where they differ too much."""
    convolution = describe(layer).with_less_padding(key.image_padding)
    for file, aug_conv in layers.items():
        computed = convolution.mirrored(key.shape) if file == MIRRORED else convolution
        expected = computed(plain)[:, order.to(plain.device)]
        check_precision(TITLES[file], aug_conv, aug_conv(morphed), expected, p, key)


def compose_layers(layer: nn.Conv2d, key: Key, order: Tensor, mirrored: bool
                   ) -> dict[str, AugConv]:
    """Aug-Conv, and that of the mirrored first layer if it is asked for, by their files.

    Raises ValueError where layer and key do not fit each other.
    """
    layers = {AUG_CONV: compose(layer, key, order)}
    if mirrored:
        layers[MIRRORED] = compose(layer, key, order, mirrored=True)
    return layers


def load_splits(p, first: FirstLayer, key: Key) -> dict[str, PrivateSplit]:
    """The private images of both splits. Warns where they are on another scale than the first
    layer's."""
    sets = load_sets(p)
    warn_of_another_scale(sets["train"].images, first.mean, first.std)
    return {name: PrivateSplit(plain, Prepared(plain.images, first.mean, first.std,
                                               key.image_padding))
            for name, plain in sets.items()}


def facts_of_delivery(p, first: FirstLayer, splits: dict[str, PrivateSplit],
                      layers: dict[str, AugConv], scale: float) -> dict:
    """What the manifest says besides the geometry; `scale`: the step of int8."""
    train, test = splits["train"].plain, splits["test"].plain
    return dict(
        scale=scale, dataset=dataset_name(p), image_files=p.dataset == "folder",
        classes=train.classes, out_shape=layers[AUG_CONV].out_shape,
        layer_fingerprint=first.fingerprint, model=first.model,
        shuffle_channels=p.shuffle_channels, mirrored=p.mirrored,
        train_images=len(train.labels), test_images=len(test.labels),
        train_digest=split_digest(train), test_digest=split_digest(test))


def keep_pixel_range(p, provider: Path, key):
    """The settings with the pixel_range of the key's last delivery, unless another is given."""
    if p.dataset != "folder" or "pixel_range" in p.given:
        return p
    last = find_last_delivery(provider, key)
    if last is None or last.pixel_range is None:
        return p
    say("pixel_range is that of the key's last delivery:", *last.pixel_range,
        "(another one, or none, is an option)")
    return replace(p, pixel_range=last.pixel_range)


def say_which_core(p, key: Key):
    """Says where parameter.py was edited since the key was drawn: the key counts."""
    asked = {"kappa": p.kappa, "tile": p.tile, "morph_distribution": p.morph_distribution}
    drawn = {"kappa": key.kappa or 1, "tile": key.tile,
             "morph_distribution": key.morph_distribution}
    for name, value in asked.items():
        if name in p.given and value != drawn[name]:
            warn_once(f"{name} is {value!r} in the settings, but key {key.id} has {drawn[name]!r}, "
                      "which counts: gen_morphing_matrix.py draws another key")


def check_shapes(p, first, key, layer_path: Path):
    """Raises UserError where images, first layer and key are of different sizes."""
    images = image_shape(p)
    if images != first.shape:
        raise UserError(f"{p.dataset} has images {size_in_words(images)}, but {layer_path}, "
                        f"trained on {first.dataset}, is for {size_in_words(first.shape)}: "
                        "choose --dataset and --channels as the developer did")
    if padded_shape(first.shape, key.image_padding) != key.shape:
        raise UserError(f"key {key.id} is for images {size_in_words(key.shape)}, padding "
                        f"included, but {layer_path} is for {size_in_words(first.shape)}: run "
                        f"`python gen_morphing_matrix.py --first_layer {layer_path}` again")


def check_precision(what: str, aug_conv: AugConv, features: Tensor, expected: Tensor, p, key: Key):
    """Says how close Aug-Conv's features are to the expected ones, those of the plain first layer;
    raises UserError if too far."""
    error = relative_error(features, expected)
    if not is_exact_enough(error):
        raise UserError(f"{what}'s features differ from the plain ones by {error:.1%}: "
                        f"{advise_on_precision(p, key)}")
    say(f"{what} {size_in_words(aug_conv.weight.shape)}, features "
        f"{size_in_words(features.shape[1:])}: relative error against the plain first layer "
        f"{error:.1e}")


def advise_on_precision(p, key: Key) -> str:
    """What to do where a core or a dtype leaves the features too inexact."""
    if p.delivery_dtype == "float32":
        return "the core is too ill-conditioned: run `python gen_morphing_matrix.py` again"
    advice = (f"{p.delivery_dtype} is too coarse for this {key.morph_distribution} core: choose "
              "--delivery_dtype float32")
    if key.morph_distribution != "orthogonal":
        advice += (f", or {p.delivery_dtype} with gen_morphing_matrix.py --morph_distribution "
                   "orthogonal")
    return advice


def warn_of_few_images(first, delivered: int, layer_path: Path):
    """Says where the first layer has seen far fewer images than are delivered."""
    if 10 * first.train_images < delivered:
        warn_once(f"{layer_path} was trained on {first.train_images} images, but {delivered} are "
                  "delivered: a first layer trained on more images may give a better accuracy")


def save(data_dir: Path, new: NewDelivery, pixel_range: tuple | None) -> Saving:
    """Saves the delivery, and the secret order of the channels with it."""
    delivery = Saving(data_dir / "delivery", anew=True)
    secret = Saving(key_folder(data_dir / "provider", new.geometry.key), secret=True)
    if rank() > 0:                                       # it morphs its share of the images
        write_splits(delivery, new)
        return delivery
    say_replaced(data_dir / "delivery", new.manifest)
    with secret, delivery:
        for file, aug_conv in new.layers.items():
            delivery.save(file, aug_conv.to_dict())
        for name, split in new.splits.items():
            labels = split.plain.labels.numpy()
            delivery.save(f"labels_{name}.npy", partial(np.save, arr=labels))
        write_splits(delivery, new)
        delivery.note(**new.manifest)
        delivery_id = delivery.prepare()["id"]
        secret.save(CHANNEL_ORDER, order_content(new.order, delivery_id))
        secret.note(**describe_last_delivery(delivery_id, new.geometry, new.facts["classes"],
                                             pixel_range, new.splits["train"].plain.images))
        secret.prepare()                                 # so that a full disk stops both
    return delivery


def write_splits(delivery: Saving, new: NewDelivery):
    for name, split in new.splits.items():
        write_morphed(delivery, f"morphed_{name}.npy", split.source, new.morpher)


# What a new delivery is compared with the earlier one in: what a person chooses, and what follows.
CHOSEN = ("dataset", "train_images", "test_images", "image_fit", "image_padding", "kappa", "tile",
          "morph_distribution", "delivery_dtype", "shuffle_channels", "mirrored")
FOLLOWING = {"key": "key", "layer_fingerprint": "first layer", "classes": "classes",
             "train_digest": "training images or labels", "test_digest": "test images or labels"}


def say_replaced(folder: Path, new: dict):
    """Says which delivery will be replaced, after all checks have passed, and what is other now.

    new: values of the new delivery's manifest.
    """
    if not (folder / MANIFEST).exists():
        return
    try:
        earlier = read_delivery(folder)
    except UserError:
        say(f"replacing what is in {folder}")
        return
    other = what_differs(vars(earlier) | vars(earlier.geometry), new)
    differing = f"; the new one has {', '.join(other)}" if other else ""
    say(f"replacing the earlier {earlier.describe()}{differing}")


def what_differs(earlier: dict, new: dict) -> list[str]:
    """In words, what a new delivery has other than an earlier one; both by a manifest's names."""
    words = []
    for name in CHOSEN:
        if new[name] != earlier[name]:
            words.append(f"{name} {in_short(new[name])} instead of {in_short(earlier[name])}")
    for name, what in FOLLOWING.items():
        value = tuple(new[name]) if name == "classes" else new[name]
        if value != earlier[name]:
            words.append(f"other {what}" if what.endswith("s") else f"another {what}")
    return words


def report(data_dir: Path, delivery: Saving, geometry: Geometry, plain, morphed):
    """Says what goes to the developer, and draws a picture for the provider."""
    files = delivery.manifest["files"]
    sizes = [f"{name} {files[name]['bytes'] / 1e6:.1f} MB" for name in delivery.names
             if not name.startswith("labels")]
    print(f"{delivery.folder}/ goes to the developer: {', '.join(sizes)}")
    print(what_is_given_away(geometry))
    picture = key_folder(data_dir / "provider", geometry.key) / "morphed.png"
    note = channels_shown(plain)
    shown = f" ({note})" if note else ""
    rows = [(f"plain images, as the provider has them{shown}", stretch(plain[:SHOWN])),
            (f"the same images morphed, as the developer gets them{shown}",
             stretch(geometry.as_images(morphed[:SHOWN])))]
    if draw(picture, rows_png, rows, mode=0o600):
        print(f"{picture} shows private images beside their morphed versions")


def what_is_given_away(geometry: Geometry) -> str:
    """What our attacks recover from such a delivery, if results/attack_matrix.json has it.

    Its images have 32 pixels a side.
    """
    words = ("whoever holds Aug-Conv and the morphed images can compute the plain images; without "
             "Aug-Conv, ")
    try:
        table = json.loads(ATTACK_MATRIX.read_text(encoding="utf-8"))["table"]
        attacked = {"dataset": "cifar10", "private": 10_000, "public": 50_000,
                    "delivery_dtype": "float32", "tile": geometry.tile,
                    "kappa": None if geometry.tile else geometry.kappa,
                    "morph_distribution": geometry.morph_distribution}
        for row in table:
            found = row.get("data_only", {})
            is_like_it = all(row[name] == value for name, value in attacked.items())
            if is_like_it and geometry.shape == (3, 32, 32) and "reidentified" in found:
                share, _ = share_found(found)
                return (f"{words}our attack re-identified {write_share(share)} of 10 000 images "
                        f"of 32 pixels that were morphed like this ({geometry.blocks}, "
                        f"{geometry.morph_distribution} core)")
    except (OSError, ValueError, KeyError, TypeError):
        pass                                             # not a clone, or not measured
    return (f"{words}morphed images alone still give much away (README, What MoLe does and does "
            "not protect)")


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
