"""The inference stage, the developer: predicts the classes of morphed images.

Reads data/queries/<name>/, Aug-Conv in data/delivery/, and a network of data/developer/: with_ac,
or pretrained, which needs no retraining behind an Aug-Conv whose channels are not shuffled. Writes
data/developer/predictions/with_ac/<name>/, or predictions/pretrained/<name>/.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import utils.step  # isort: skip                         # first: see there
import torch
from torch import Tensor

from images.folders import shown
from models.build import build, digest_of_code, is_users_own
from mole.first_layer import BehindFirstLayer
from mole.morphing import size_in_words
from utils.artifacts import load, to_csv, write_alone
from utils.delivery import Delivery, as_morphed, check_classes, read_one_delivery, read_query
from utils.devices import Context, joined_processes, progress
from utils.errors import UserError, warn
from utils.examples import FrozenLayer
from utils.launch import require_one_process
from utils.names import told_apart
from utils.networks import Model, saved_network_from
from utils.plots import confusion_png, draw, predictions_png
from utils.training import make_forward

SHOWN = 20                          # images in the picture


def main(p):
    require_one_process()
    delivery = read_one_delivery(p, "the one of the queries' key")
    queries = read_queries(p, delivery)
    with joined_processes(p) as context:
        network = read_network(p, delivery)
        aug_conv = FrozenLayer(delivery.aug_conv()).to(context.device)
        behind = network.behind.to(context.device, memory_format=torch.channels_last).eval()
        began = time.perf_counter()
        logits = predict(behind, aug_conv, queries, p.predict_batch, context)
        seconds = time.perf_counter() - began
    logits = logits[:, network.places]                   # in the delivery's order of classes
    save_predictions(p, delivery, queries, logits, seconds)


@dataclass(frozen=True)
class Queries:
    """Stored values of morphed images, the step of int8, their names, and labels if any."""

    values: Tensor
    scale: float
    names: list[str]
    labels: Tensor | None


def read_queries(p, delivery: Delivery) -> Queries:
    """The images of --name, or the delivered test images where it is `test`.

    Raises UserError where there are none, or they were morphed in another way than the delivery.
    """
    if p.name == "test":
        values, labels = delivery.split("test")
        return Queries(values, delivery.scale, list(map(str, range(len(values)))), labels)
    query = read_query(Path(p.data_dir) / "queries" / p.name)
    if query.geometry.key != delivery.geometry.key:
        raise UserError(f"{query.folder} was morphed with key {query.geometry.key}, but "
                        f"{delivery.folder} is of key {delivery.geometry.key}: name the --delivery "
                        f"of {query.geometry.key} (its manifest.json has the key). If both keys "
                        "are one provider's, it can also morph the query with --key "
                        f"{delivery.geometry.key}")
    if query.geometry != delivery.geometry:
        raise UserError(f"{query.folder} was morphed for another delivery than {delivery.folder}: "
                        "ask the provider to run `python morph_images.py` again")
    return Queries(query.values(), query.scale, list(query.names),
                   query.labels(delivery.classes, str(delivery.folder)))


@dataclass(frozen=True)
class Network:
    """The rest of a trained network, and the place of each of the delivery's classes in its logits.
    """

    behind: BehindFirstLayer
    places: Tensor


def read_network(p, delivery: Delivery) -> Network:
    """The network of --network behind Aug-Conv. Raises UserError where they do not fit."""
    path = Path(p.data_dir) / "developer" / f"{p.network}.pt"

    def assemble(content: dict) -> Network:
        saved = saved_network_from(content)
        shape, classes = saved.model.shape, saved.classes
        network = build_again(path, saved.model)
        if shape != delivery.geometry.plain_shape:
            raise UserError(f"{path} is for images {size_in_words(shape)}, but "
                            f"{delivery.folder} has "
                            f"{size_in_words(delivery.geometry.plain_shape)}")
        check_classes(classes, delivery.classes, str(path), str(delivery.folder))
        check_first_layer(path, saved.deliveries, saved.layer_fingerprint, delivery)
        behind = BehindFirstLayer(network, shape)
        weights = {name: weight for name, weight in saved.weights.items()
                   if not name.startswith(f"{behind.name}.")}
        load_weights(path, behind.network, weights, saved.model.name)
        warn_of_other_code(path, saved.code, saved.model.name)
        places = torch.tensor([classes.index(name) for name in delivery.classes])
        return Network(behind, places)

    return load(path, assemble)


def build_again(path: Path, model: Model):
    """The network of a file, untrained. Raises UserError where one of the user's own is not found,
    or not as it was: that is no damage of the file."""
    try:
        return build(**model.to_dict())
    except ValueError as reason:
        if not is_users_own(model.name):
            raise
        raise UserError(f"{path} needs your network {reason}. Run this where its file is, as it "
                        "was when the network was trained") from None


def load_weights(path: Path, network, weights: dict, name: str):
    """Raises UserError where a network of the user's own has other weights than its file."""
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        if not is_users_own(name):
            raise
        raise UserError(f"{path} has other weights than {name} has now: set its code back to what "
                        "it was when the network was trained, or train again") from None


def warn_of_other_code(path: Path, digest: str, name: str):
    """Warns where the file of the user's own network is not that of the training; `digest`: its
    SHA-256 then."""
    if digest != digest_of_code(name):
        warn(f"the file of {name} has changed since {path} was trained: if the network computes "
             "something else now, predictions are wrong")


def check_first_layer(path: Path, trained_on: tuple[str, ...], layer: str | None,
                      delivery: Delivery):
    """Raises UserError where Aug-Conv does not give the features that a network was trained on."""
    if delivery.id in trained_on:
        return
    if not delivery.shuffle_channels and layer == delivery.layer_fingerprint:
        return
    reason = "the delivery has the channels in another order, or another first layer"
    if delivery.shuffle_channels:
        reason = ("its channels are shuffled, so train behind it (train_with_ac.py), or ask the "
                  "provider to run gen_augconv.py again, with --shuffle_channels no")
    raise UserError(f"{path} was not trained behind the Aug-Conv of {delivery.folder}: {reason}")


@torch.inference_mode()
def predict(behind: BehindFirstLayer, aug_conv: FrozenLayer, queries: Queries, batch_size: int,
            context: Context) -> Tensor:
    """Logits (N, classes) float32 of the queries."""
    forward = make_forward(behind, context)
    logits = []
    batches = queries.values.split(batch_size)
    for values in progress(batches, "predicting"):
        morphed = as_morphed(values.to(context.device), queries.scale)
        features = aug_conv.features(morphed, None).to(context.dtype)
        logits.append(forward(features.contiguous(memory_format=torch.channels_last)).cpu())
    return torch.cat(logits)


def save_predictions(p, delivery: Delivery, queries: Queries, logits: Tensor, seconds: float):
    """Writes the table and the pictures, and says the accuracy where labels are known."""
    folder = Path(p.data_dir) / "developer" / "predictions" / p.network / p.name
    if folder.exists():
        print(f"earlier predictions in {folder}/ are replaced")
    classes = told_apart(shown(name) for name in delivery.classes)
    probabilities = logits.softmax(1)
    write_alone(folder / "predictions.csv", predictions_csv(probabilities, queries.names, classes))
    for picture in ("predictions.png", "confusion.png"):
        (folder / picture).unlink(missing_ok=True)       # of earlier predictions
    print(f"{len(logits)} images, {len(logits) / seconds:.0f} images/s: {folder}/predictions.csv")
    predicted = logits.argmax(1)
    if queries.labels is not None:
        right = int((predicted == queries.labels).sum())
        print(f"accuracy {right / len(logits):.2%}, {right} of {len(logits)} right", flush=True)
    morphed = as_morphed(queries.values[:SHOWN], queries.scale)
    pictures = delivery.geometry.as_images(morphed)
    if draw(folder / "predictions.png", predictions_png, pictures, probabilities, classes,
            queries.names, queries.labels):
        print(f"{folder}/predictions.png shows morphed images and what the network predicts")
    if queries.labels is not None:
        draw(folder / "confusion.png", confusion_png, queries.labels, predicted, classes)


def predictions_csv(probabilities: Tensor, names: list[str], classes: list[str]) -> str:
    """A line for each image: its name, and the three likeliest classes with their probabilities."""
    places = ("", "second_", "third_")[:len(classes)]
    header = ["file"]
    for place in places:
        header += [f"{place}class", f"{place}probability"]
    rows = [header]
    best = probabilities.topk(len(places))
    for i, name in enumerate(names):
        row = [name]
        for value, index in zip(best.values[i].tolist(), best.indices[i].tolist(), strict=True):
            row += [classes[index], f"{value:.4f}"]
        rows.append(row)
    return to_csv(rows)


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
