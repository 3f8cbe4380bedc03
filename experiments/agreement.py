"""Equal predictions, the most direct test of the paper's claim: `python -m experiments.agreement`.

The trained plain network of data_dir/developer/pretrained.pt predicts the test images; its own
later layers, behind Aug-Conv with its channels in order, predict the morphed ones. For how many
images do they predict the same class? In memory, for several cores, tiles and dtypes, in float32
and without training. Takes the data set options of pretrain.py; writes agreement.json to
--results_dir.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import utils.step
from images.datasets import ImageSet, Prepared, dataset_name, load_images, require_fit
from models.build import build
from mole.first_layer import SplitNetwork, fingerprint
from mole.morphing import relative_error
from parameter import Parameters
from utils.artifacts import load, write_alone
from utils.delivery import deliver_in_memory, is_exact_enough
from utils.devices import use_full_float32
from utils.errors import UserError
from utils.first_layers import FirstLayer, read_first_layer
from utils.keys import draw_key
from utils.networks import saved_network_from
from utils.provenance import provenance, seconds_so_far
from utils.records import to_json

BATCH = 250                         # images that are predicted at once


class DeliveryKind(NamedTuple):
    """A core, the side of its tiles (0: κ = 1), and how its morphed images are delivered."""

    morph_distribution: str
    tile: int
    delivery_dtype: str


KINDS = [
    DeliveryKind("orthogonal", 0, "float32"), DeliveryKind("orthogonal", 0, "float16"),
    DeliveryKind("orthogonal", 0, "int8"), DeliveryKind("normal", 0, "float32"),
    DeliveryKind("uniform", 0, "float32"), DeliveryKind("orthogonal", 8, "float32"),
    DeliveryKind("orthogonal", 8, "float16"), DeliveryKind("orthogonal", 8, "int8")]


class PlainNetwork(NamedTuple):
    """A trained plain network, and its first layer with how its images were normalised."""

    network: SplitNetwork
    first: FirstLayer


@torch.inference_mode()
def main(p: Parameters):
    use_full_float32()
    test = load_images(p, "test")
    trained = load_trained(Path(p.data_dir) / "developer", p, test.classes)
    images = Prepared(test.images, trained.first.mean, trained.first.std, 0)[:]
    plain = predict(trained.network, images)
    table = []
    for kind in KINDS:
        if all(kind.tile % stride == 0 for stride in trained.first.layer.stride):
            row = compare(kind, trained, images, plain, test, p.morph_seed)
            print(row, flush=True)
            table.append(row)
    record = provenance(p) | {
        "model": trained.first.model, "dataset": dataset_name(p), "images": len(plain),
        "right": count_right(plain, test.labels), "seconds": seconds_so_far(), "table": table}
    path = Path(p.results_dir or "results") / "agreement.json"
    write_alone(path, to_json(record))
    print(f"{path} is written")


def load_trained(developer: Path, p: Parameters, classes: list[str]) -> PlainNetwork:
    """The plain network in a folder and its first layer. Raises UserError where the images of
    --dataset have another shape or other classes, or first_layer.pt is not the network's."""
    layer_path, network_path = developer / "first_layer.pt", developer / "pretrained.pt"
    first = read_first_layer(layer_path)
    require_fit(first, layer_path, p)
    saved = load(network_path, saved_network_from)
    if list(saved.classes) != list(classes):
        raise UserError(f"{network_path} has other classes than {p.dataset}: choose the --dataset "
                        "that it was trained on")
    network = build(**saved.model.to_dict())
    network.load_state_dict(saved.weights)
    split = SplitNetwork(network, first.shape).eval()
    if fingerprint(split.first_layer) != first.fingerprint:
        raise UserError(f"{layer_path} is not the first layer of {network_path}: run `python "
                        "pretrain.py` again")
    return PlainNetwork(split, first)


def compare(kind: DeliveryKind, trained: PlainNetwork, images: Tensor, plain: Tensor,
            test: ImageSet, seed: int | None) -> dict:
    """A row of the table: images (N, α, m, m), their plain logits (N, classes)."""
    shape = tuple(images.shape[1:])
    key = draw_key(shape, 1, kind.tile, kind.morph_distribution, seed)
    delivered = deliver_in_memory(images, trained.first.layer, key, kind.delivery_dtype)
    morphed = delivered.restored()
    features = trained.first.layer(images[:BATCH])
    error = relative_error(delivered.aug_conv(morphed[:BATCH]), features)
    kappa = None if kind.tile else 1
    row = kind._asdict() | {"kappa": kappa, "images": len(images), "error_of_the_features": error}
    if not is_exact_enough(error):
        return row | {"refused": True}
    logits = predict(nn.Sequential(delivered.aug_conv, trained.network.rest), morphed)
    same = logits.argmax(1) == plain.argmax(1)
    return row | {"equal": int(same.sum()), "right": count_right(logits, test.labels),
                  "largest_logit_difference": float((logits - plain).abs().max())}


def predict(network: nn.Module, inputs: Tensor) -> Tensor:
    """Logits (N, classes) float32."""
    return torch.cat([network(batch) for batch in inputs.split(BATCH)])


def count_right(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(1) == labels).sum())


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
