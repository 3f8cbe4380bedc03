"""The inference stage, the developer: predicts the classes of morphed images.

Reads data/queries/<name>/, Aug-Conv in data/delivery/, and a network of data/developer/: with_ac,
or pretrained, which needs no retraining behind an Aug-Conv whose channels are not shuffled. Writes
data/developer/predictions/<name>/.
"""

import csv
import io
import math
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from images.files import shown
from models.first_layer import BehindFirstLayer, find, fingerprint
from models.networks import build
from parameter import Parameters
from program.artifacts import load, read_manifest, write_alone
from program.cli import UserError, run_step
from program.pictures import as_png, draw, pyplot, stretched
from utils.delivery import (
    Delivery,
    labels_array,
    morphed_array,
    query_folder,
    read_deliveries,
    read_geometry,
    restored,
)
from utils.distributed import compute_dtype, processes
from utils.training import features_of, logits_of

SHOWN = 20


@dataclass(frozen=True)
class Query:
    """Morphed images to predict on, where they lie, their names, and labels if they came along."""

    images: Tensor
    scale: float
    names: list[str]
    labels: Tensor | None


def main(p):
    [delivery, *more] = read_deliveries(p)
    if more:
        raise UserError("give one --delivery: the one of the queries' key")
    query = read_query(p, delivery)
    with processes(p) as device:
        dtype = compute_dtype(p, device)
        features = features_of(delivery.aug_conv(), partial(restored, scale=query.scale), dtype,
                               device)
        network = behind(p, delivery).to(device, memory_format=torch.channels_last).eval()
        forward, began = logits_of(network, features, dtype, device), time.perf_counter()
        with torch.inference_mode():
            logits = torch.cat([forward(x).cpu() for x in tqdm(
                query.images.split(p.predict_batch), desc="predicting", leave=False,
                disable=None)])
        seconds = time.perf_counter() - began
    probabilities = logits.softmax(1)
    folder = Path(p.data_dir) / "developer" / "predictions" / p.name
    write_alone(folder / "predictions.csv", as_csv(probabilities, query, delivery.classes))
    print(f"{len(logits)} images, {len(logits) / seconds:.0f} images/s: {folder}/predictions.csv")
    draw_pictures(folder, probabilities, query, delivery)
    if query.labels is not None:
        right = (logits.argmax(1) == query.labels).sum().item()
        print(f"accuracy {right / len(logits):.2%}, {right} of {len(logits)} right")


def read_query(p: Parameters, delivery: Delivery) -> Query:
    """The query of --name, or the delivered test images where it is `test`.

    Raises UserError where there is none, or it was morphed otherwise than the delivery.
    """
    if p.name == "test":
        images, labels = delivery.split("test")
        return Query(images, delivery.scale, [str(i) for i in range(len(images))], labels)
    folder = query_folder(p)
    manifest = read_manifest(folder)
    try:
        geometry, names, scale = read_geometry(manifest), manifest["names"], manifest["scale"]
        labelled = "labels.npy" in manifest["files"]
        if not (0 < scale < math.inf and names and all(isinstance(x, str) for x in names)):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{folder / 'manifest.json'} tells of impossible images: run `python "
                        "morph_images.py` again") from None
    if geometry.key != delivery.geometry.key:
        raise UserError(f"{folder} was morphed with key {geometry.key}, but {delivery.folder} is "
                        f"of key {delivery.geometry.key}: run `python morph_images.py` again, or "
                        "name the --delivery of that key")
    if geometry != delivery.geometry:
        raise UserError(f"{folder} holds other images than {delivery.folder}: run `python "
                        "morph_images.py` again")
    labels = labels_array(folder / "labels.npy", len(names), len(delivery.classes)) if (
        labelled) else None
    return Query(morphed_array(folder / "morphed.npy", geometry, len(names)), scale, names, labels)


def behind(p, delivery: Delivery) -> nn.Module:
    """The network of --network behind Aug-Conv; raises UserError where they do not fit."""
    path = Path(p.data_dir) / "developer" / f"{p.network}.pt"
    if p.network not in ("with_ac", "pretrained"):
        raise UserError(f"network is {p.network!r}, but must be with_ac or pretrained")

    def assemble(content: dict) -> nn.Module:
        model = dict(content["model"])
        trained = model.pop("aug_conv", None)
        network = build(**model)
        if (tuple(model["shape"]), model["classes"]) != (delivery.plain_shape,
                                                         len(delivery.classes)):
            raise UserError(f"{path} is for other images or classes than {delivery.folder}")
        if trained is None:
            network.load_state_dict(content["network"])
            layer = fingerprint(network.get_submodule(find(network, model["shape"])))
            ids = []
        else:
            ids, layer = trained["deliveries"], trained["layer"]
        if delivery.id not in ids and (delivery.shuffle_channels or layer != delivery.layer):
            raise UserError(f"{path} was not trained behind the Aug-Conv of {delivery.folder}: " + (
                "its channels are shuffled, so train behind it (train_with_ac.py), or compose it "
                "with gen_augconv.py --shuffle_channels no" if delivery.shuffle_channels else
                "it was composed with another first layer"))
        rest = BehindFirstLayer(network, model["shape"])
        if trained is not None:
            rest.network.load_state_dict(content["network"])
        return rest

    return load(path, assemble)


def as_csv(probabilities: Tensor, query: Query, classes: list[str]) -> str:
    """A line for each image: its name, and the three likeliest classes with their probabilities."""
    text, best = io.StringIO(), probabilities.topk(min(3, len(classes)), dim=1)
    table, places = csv.writer(text, lineterminator="\n"), ("", "second_", "third_")
    table.writerow(["file", *(f"{place}{what}" for place in places[:best.values.shape[1]]
                              for what in ("class", "probability"))])
    for name, values, indices in zip(query.names, best.values.tolist(), best.indices.tolist(),
                                     strict=True):
        table.writerow([name, *(cell for v, i in zip(values, indices, strict=True)
                                for cell in (shown(classes[i]), f"{v:.4f}"))])
    return text.getvalue()


def draw_pictures(folder: Path, probabilities: Tensor, query: Query, delivery: Delivery):
    """The first morphed images with what the network says of them, and the confusion matrix."""
    images = delivery.geometry.placed(restored(query.images[:SHOWN], query.scale))
    best = probabilities[:SHOWN].max(1)
    says = [f"{shown(delivery.classes[i])}\n{v:.0%}" for v, i in zip(*map(Tensor.tolist, best),
                                                                    strict=True)]
    if draw(folder / "predictions.png", predictions_png, stretched(images, images.shape[1:]), says):
        print(f"{folder}/predictions.png shows morphed images and what the network says")
    if query.labels is not None:
        count = len(delivery.classes)
        cells = (query.labels * count + probabilities.argmax(1)).bincount(minlength=count ** 2)
        draw(folder / "confusion.png", confusion_png, cells.view(count, count),
             list(map(shown, delivery.classes)))


def predictions_png(images: Tensor, says: list[str]) -> bytes:
    figure, axes = pyplot().subplots(-(-len(says) // 10), min(10, len(says)), squeeze=False,
                                     figsize=(1.1 * min(10, len(says)), 1.6 * -(-len(says) // 10)),
                                     layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, text in zip(axes.flat, images, says, strict=False):
        axis.imshow(image.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray",
                    interpolation="nearest")
        axis.set_title(text, fontsize=8, parse_math=False)
    return as_png(figure)


def confusion_png(cells: Tensor, classes: list[str]) -> bytes:
    """How many images of each class (row) were taken for which (column)."""
    side = max(4, 0.45 * len(classes) + 1.5)
    figure, axis = pyplot().subplots(figsize=(side, side), layout="constrained")
    axis.imshow(cells / cells.sum(1, keepdim=True).clamp_min(1), cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 20:
        for (row, column), n in np.ndenumerate(cells.numpy()):
            axis.text(column, row, str(n), ha="center", va="center", fontsize=8,
                      color="white" if 2 * n > cells[row].sum() else "black")
        for set_ticks in (axis.set_xticks, axis.set_yticks):
            set_ticks(range(len(classes)), classes, parse_math=False)
        axis.tick_params("x", rotation=90)
    axis.set(xlabel="predicted", ylabel="class")
    return as_png(figure)


if __name__ == "__main__":
    run_step(main, __doc__)
