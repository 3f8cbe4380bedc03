"""Step 4, the provider: composes Aug-Conv from M⁻¹ and the developer's first layer, and morphs.

Reads data/provider/, data/developer/first_layer.pt and the private images. Writes data/delivery/,
all that goes to the developer, and the secret order of the channels to data/provider/.
"""

from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from models import first_layer
from models.aug_conv import AugConv, full_float32
from utils.artifacts import Saving, load, read_manifest
from utils.datasets import Images, image_shape, images_of, load_images, unrolled
from utils.delivery import identifier
from utils.morphing import (
    compose_aug_conv,
    core_size,
    fitted_padding,
    morph,
    relative_error,
    secret_generator,
)
from utils.pictures import rows_png
from utils.program import UserError, explained, require_memory, run_step
from utils.records import stretched
from utils.training import processes

WRONG = 0.05        # relative error of the features; a uniform core's is 2e-3 at the worst


def main(p):
    data_dir, shape = Path(p.data_dir), image_shape(p)
    layer_file = data_dir / "developer" / "first_layer.pt"
    core_file = data_dir / "provider" / "morphing_matrix.pt"
    layer_content = load(layer_file)
    core, kappa = read_core(core_file, shape)
    inverse, _ = read_core(core_file.with_name("inverse_matrix.pt"), shape)
    about = read_manifest(core_file.parent)
    with explained(layer_file):
        layer = first_layer.from_file(layer_content)
        layer.padding = fitted_padding(layer.padding, p.image_padding)

    train, test = load_images(p, "train"), load_images(p, "test")
    entries, count = core_size(shape, 1), len(train.labels) + len(test.labels)
    features = layer.out_channels * shape[1] * shape[2]
    fixed = 4 * entries * features // (layer.stride[0] * layer.stride[1]) + 5 * 10**8
    require_memory(fixed + 4 * entries * count, f"Aug-Conv with {count} morphed images",
                   lambda free: f"{max(0, free - fixed) // (4 * entries)} images would fit "
                                "(--train_limit, --test_limit)")
    order = torch.from_numpy(
        secret_generator(p.morph_seed, purpose=1).permutation(layer.out_channels))
    with processes(p) as device, explained(layer_file), full_float32():
        weight, out_shape = compose_aug_conv(layer.to(device), inverse.to(device), shape,
                                             order.to(device))
        bias = None if layer.bias is None else layer.bias[order.to(device)]
        exact = core.double().to(device)
        morphed = {split: morph_all(images, exact, p.image_padding, split)
                   for split, images in (("train", train), ("test", test))}
        plain = unrolled(test.images[:64], p.image_padding)
        expected = layer(plain.view(-1, *shape).to(device))[:, order.to(device)]
        error = relative_error(
            AugConv(weight, out_shape, bias)(morphed["test"][:64].to(device)), expected)
    if not error < WRONG:
        raise UserError(f"Aug-Conv's features differ from the plain ones by {error:.1e}: "
                        f"{core_file} is too ill-conditioned, or inverse_matrix.pt is another's: "
                        "run `python gen_morphing_matrix.py` again")

    delivery = data_dir / "delivery"
    picture = rows_png([("plain images, as the provider has them",
                         stretched(plain[:10], shape)),
                        ("the same images morphed, as the developer gets them",
                         stretched(morphed["test"][:10], shape))])
    with (Saving(data_dir / "developer") as pictures,
          Saving(data_dir / "provider", secret=True) as secret,
          Saving(delivery, anew=True) as new):
        content = {"weight": weight.cpu(), "out_shape": out_shape}
        new.save("aug_conv.pt", content if bias is None else content | {"bias": bias.cpu()})
        for split, images in (("train", train), ("test", test)):
            new.save(f"morphed_{split}.pt", {"images": morphed[split], "labels": images.labels})
        new.about(delivery=identifier(new.new), dataset=images_of(p), classes=train.classes,
                  shape=list(shape), image_padding=p.image_padding, out_shape=list(out_shape),
                  kappa=kappa, train_images=len(train.labels), test_images=len(test.labels),
                  morph_distribution=about.get("morph_distribution", "unknown"))
        secret.save("channel_order.pt", {"order": order})
        pictures.write("morphed.png", picture)
        secret.prepare()                # so that a full disk stops all three
        pictures.prepare()
    print(f"Aug-Conv {weight.shape[0]}x{weight.shape[1]}, features {out_shape[0]}x{out_shape[1]}x"
          f"{out_shape[2]}: relative error against the plain first layer {error:.1e}")
    print(f"{delivery}/ is what goes to the developer: " + ", ".join(
        f"{name} {file['bytes'] / 1e6:.0f} MB" for name, file in new.new.items()))
    print(f"{data_dir}/developer/morphed.png shows images beside their morphed versions")


def read_core(file: Path, shape: tuple[int, int, int]) -> tuple[Tensor, int]:
    """A core (q, q), or its inverse, and kappa; raises UserError where it is for other images."""
    content = load(file)
    core, kappa = content["core"], content["kappa"]
    with explained(file):
        q = core_size(shape, kappa)
    if core.shape != (q, q):
        raise UserError(f"{file} is a core {len(core)}x{core.shape[1]} with kappa {kappa}, not one "
                        f"for images {shape[0]}x{shape[1]}x{shape[2]}: run `python "
                        "gen_morphing_matrix.py` with this --image_size and --image_padding")
    return core, kappa


def morph_all(data: Images, core: Tensor, padding: int, split: str) -> Tensor:
    """The morphed images (N, αm²) float32 of a split, on the CPU."""
    side = data.images.shape[-1] + 2 * padding
    out = torch.empty(len(data.images), data.images.shape[1] * side * side)
    blocks = list(zip(data.images.split(1000), out.split(1000), strict=True))
    for source, target in tqdm(blocks, desc=f"morphing {split} images", leave=False, disable=None):
        target.copy_(morph(unrolled(source.to(core.device), padding), core))
    return out


if __name__ == "__main__":
    run_step(main, __doc__)
