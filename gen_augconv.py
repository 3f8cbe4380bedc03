"""Step 4, the provider: composes Aug-Conv from M⁻¹ and the developer's first layer, and morphs.

Reads data/provider/, data/developer/first_layer.pt and the private images. Writes data/delivery/,
all that goes to the developer; the secret order of the channels, and a picture of private images
beside their morphed versions, go to data/provider/.
"""

import math
import sys
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import numpy as np
import torch
from torch import Tensor

import utils.step
from images.datasets import Prepared, data_digest, dataset_name, image_shape, load_images
from mole import first_layer, morphing
from mole.aug_conv import AugConv
from utils.artifacts import Saving, load
from utils.delivery import Geometry, common_scale, deliver, restored, rounded
from utils.devices import processes, rank, say
from utils.memory import require_memory
from utils.plots import draw, rows_png, stretched
from utils.provider import Key, read_key
from utils.settings import UserError, user_errors

WRONG = 0.05        # relative error of the features; a uniform core's is 2e-3 at the worst


def main(p):
    data_dir = Path(p.data_dir)
    shape = morphing.padded_shape(image_shape(p), p.image_padding)
    layer_file = data_dir / "developer" / "first_layer.pt"
    layer, mean, std = load(layer_file, first_layer.from_file)
    fingerprint = first_layer.fingerprint(layer)
    key = read_key(data_dir / "provider", shape)
    with processes(p) as device:
        layer = layer.to(device)
        order, aug_conv = compose(p, layer_file, layer, key, shape)
        geometry = Geometry(key.id, shape, p.image_padding, p.image_fit, key.kappa, key.tile,
                            key.morph_distribution, p.delivery_dtype, mean, std)
        sets = {split: load_images(p, split) for split in ("train", "test")}
        sources = {split: Prepared(images.images, mean, std, p.image_padding)
                   for split, images in sets.items()}
        core = key.core.double().to(device)
        scale = common_scale([*sources.values()], core, geometry)
        plain = sources["test"][:64].to(device)
        morphed = rounded(morphing.morph(plain, core, key.tile), p.delivery_dtype, scale)
        check(aug_conv, restored(morphed, scale), layer, plain, order, p, key)
        delivery = write(data_dir, aug_conv, order, sets, sources, core, geometry, dict(
            scale=scale, dataset=dataset_name(p), classes=sets["train"].classes,
            out_shape=aug_conv.out_shape, layer=fingerprint, shuffle_channels=p.shuffle_channels,
            train_images=len(sources["train"]), test_images=len(sources["test"]),
            pixels=data_digest(sets["train"].images, sets["test"].images)))
        if rank() == 0:
            tell(data_dir, delivery, plain, restored(morphed, scale), geometry)


def write(data_dir: Path, aug_conv: AugConv, order: Tensor, sets: dict, sources: dict, core: Tensor,
          geometry: Geometry, about: dict) -> Saving:
    """Saves the delivery, and the secret order of the channels, together."""
    delivery = Saving(data_dir / "delivery", anew=True)
    secret = Saving(data_dir / "provider", secret=True)
    with ExitStack() as saved:
        if rank() == 0:
            saved.enter_context(secret)
            saved.enter_context(delivery)
            delivery.save("aug_conv.pt", aug_conv.to_file())
            for split, images in sets.items():
                delivery.save(f"labels_{split}.npy", partial(np.save, arr=images.labels.numpy()))
        for split, images in sources.items():
            deliver(delivery, f"morphed_{split}.npy", images, core, geometry, about["scale"])
        if rank() == 0:
            delivery.about(**asdict(geometry), **about)
            secret.save("channel_order.pt", {"order": order.cpu(),
                                             "delivery": delivery.prepare()["id"]})
            secret.prepare()             # so that a full disk stops both
    return delivery


def compose(p, layer_file: Path, layer, key: Key, shape: tuple) -> tuple[Tensor, AugConv]:
    """The order of Aug-Conv's channels, and Aug-Conv, on the layer's device."""
    device = layer.weight.device
    with user_errors(layer_file):
        layer.padding = morphing.fitted_padding(layer.padding, p.image_padding)
        if not key.tile:
            numbers = math.prod(shape) * math.prod(morphing.features_shape(layer, shape))
            require_memory("aug_conv", numbers, purpose="Aug-Conv", advice="draw the core with "
                           "--tile, or choose a smaller --image_size")
        order = torch.arange(layer.out_channels)
        if p.shuffle_channels:
            generator = morphing.secret_generator(p.morph_seed, purpose=1)
            order = torch.from_numpy(generator.permutation(layer.out_channels))
        order = order.to(device)
        parts = morphing.compose_aug_conv(layer, key.inverse.to(device), shape, order, key.tile)
    return order, AugConv(**parts, bias=None if layer.bias is None else layer.bias[order])


def check(aug_conv: AugConv, morphed: Tensor, layer, plain: Tensor, order: Tensor, p, key: Key):
    """Raises UserError where Aug-Conv's features are not the plain ones; tells how close."""
    features = aug_conv(morphed)
    error = morphing.relative_error(features, layer(plain)[:, order])
    if not error < WRONG:
        raise UserError(f"Aug-Conv's features differ from the plain ones by {error:.1%}: " + (
            "the core is too ill-conditioned, or inverse_matrix.pt is another's: run `python "
            "gen_morphing_matrix.py` again" if p.delivery_dtype == "float32" else
            f"{p.delivery_dtype} is too coarse for this {key.morph_distribution} core; float32 "
            "works, and so does int8 or float16 with gen_morphing_matrix.py --morph_distribution "
            "orthogonal"))
    say(f"Aug-Conv {'x'.join(map(str, aug_conv.weight.shape))}, features "
        f"{'x'.join(map(str, features.shape[1:]))}: relative error against the plain first layer "
        f"{error:.1e}")


def tell(data_dir: Path, delivery: Saving, plain: Tensor, morphed: Tensor, geometry: Geometry):
    files, picture = delivery.manifest["files"], data_dir / "provider" / "morphed.png"
    print(f"{delivery.folder}/ is what goes to the developer: " + ", ".join(
        f"{name} {files[name]['bytes'] / 1e6:.1f} MB" for name in delivery.names
        if not name.startswith("labels")))
    if draw(picture, rows_png, [
            ("plain images, as the provider has them", stretched(plain[:10])),
            ("the same images morphed, as the developer gets them",
             stretched(geometry.placed(morphed[:10])))], mode=0o600):
        print(f"{picture} shows private images beside their morphed versions")


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
