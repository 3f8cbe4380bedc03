"""The inference stage, the developer: predicts the classes of morphed images.

Reads data/queries/<name>/, Aug-Conv in data/delivery/, and a network of data/developer/: with_ac,
or pretrained, which needs no retraining behind an Aug-Conv whose channels are not shuffled. Writes
data/developer/predictions/<name>/, or <name>-pretrained/.
"""

import csv
import io
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import torch
from torch import Tensor, nn
from tqdm import tqdm

import utils.step
from images.files import shown
from models.build import build
from mole.first_layer import BehindFirstLayer
from parameter import Parameters
from utils.artifacts import load, write_alone
from utils.delivery import Delivery, Query, labels_of, morphed_of, read, read_deliveries, restored
from utils.devices import compute_dtype, processes
from utils.plots import confusion_png, draw, predictions_png
from utils.settings import UserError
from utils.training import features_of, logits_of

SHOWN = 20


def main(p):
    [delivery, *more] = read_deliveries(p)
    if more:
        raise UserError("give one --delivery: the one of the queries' key")
    images, labels, names, scale = queries(p, delivery)
    with processes(p) as device:
        dtype = compute_dtype(p, device)
        features = features_of(delivery.aug_conv(), partial(restored, scale=scale), dtype, device)
        network = behind(p, delivery).to(device, memory_format=torch.channels_last).eval()
        forward, began = logits_of(network, features, dtype, device), time.perf_counter()
        with torch.inference_mode():
            logits = torch.cat([forward(x).cpu() for x in tqdm(
                images.split(p.predict_batch), desc="predicting", leave=False, disable=None)])
        seconds = time.perf_counter() - began
    probabilities, classes = logits.softmax(1), list(map(shown, delivery.classes))
    name = p.name if p.network == "with_ac" else f"{p.name}-{p.network}"
    folder = Path(p.data_dir) / "developer" / "predictions" / name
    if folder.exists():
        print(f"earlier predictions in {folder}/ are replaced")
    write_alone(folder / "predictions.csv", as_csv(probabilities, names, classes))
    (folder / "confusion.png").unlink(missing_ok=True)   # drawn anew where there are labels
    print(f"{len(logits)} images, {len(logits) / seconds:.0f} images/s: {folder}/predictions.csv")
    placed = delivery.geometry.placed(restored(images[:SHOWN], scale))
    if draw(folder / "predictions.png", predictions_png, placed, probabilities, classes):
        print(f"{folder}/predictions.png shows morphed images and what the network says")
    if labels is not None:
        said = logits.argmax(1)
        draw(folder / "confusion.png", confusion_png, labels, said, classes)
        right = (said == labels).sum().item()
        print(f"accuracy {right / len(logits):.2%}, {right} of {len(logits)} right")


def queries(p: Parameters, delivery: Delivery) -> tuple[Tensor, Tensor | None, list[str], float]:
    """Morphed images where they lie, labels if they came along, names, and the step of int8 images:
    of --name, or the delivered test images where it is `test`.

    Raises UserError where there are none, or they were morphed otherwise than the delivery.
    """
    if p.name == "test":
        images, labels = delivery.split("test")
        return images, labels, list(map(str, range(len(images)))), delivery.scale
    query = read(Query, Path(p.data_dir) / "queries" / p.name)
    if query.geometry.key != delivery.geometry.key:
        raise UserError(f"{query.folder} was morphed with key {query.geometry.key}, but "
                        f"{delivery.folder} is of key {delivery.geometry.key}: run `python "
                        "morph_images.py` again, or name the --delivery of that key")
    if query.geometry != delivery.geometry:
        raise UserError(f"{query.folder} holds other images than {delivery.folder}: run `python "
                        "morph_images.py` again")
    count, labels = len(query.names), query.folder / "labels.npy"
    return (morphed_of(query.folder / "morphed.npy", query.geometry, count),
            labels_of(labels, count, len(delivery.classes)) if labels.name in query.files
            else None, query.names, query.scale)


def behind(p: Parameters, delivery: Delivery) -> nn.Module:
    """The network of --network behind Aug-Conv; raises UserError where they do not fit."""
    path = Path(p.data_dir) / "developer" / f"{p.network}.pt"

    def assemble(content: dict) -> nn.Module:
        model, trained = content["model"], content["behind"]
        network = build(**model)
        if (tuple(model["shape"]), model["classes"]) != (delivery.plain_shape,
                                                         len(delivery.classes)):
            raise UserError(f"{path} is for other images or classes than {delivery.folder}")
        if delivery.id not in trained["deliveries"] and (
                delivery.shuffle_channels or trained["layer"] != delivery.layer):
            raise UserError(f"{path} was not trained behind the Aug-Conv of {delivery.folder}: " + (
                "its channels are shuffled, so train behind it (train_with_ac.py), or compose it "
                "with gen_augconv.py --shuffle_channels no" if delivery.shuffle_channels else
                "it has the channels in another order, or another first layer"))
        rest = BehindFirstLayer(network, model["shape"])
        rest.network.load_state_dict({name: weight for name, weight in content["network"].items()
                                      if name.rpartition(".")[0] != rest.name})
        return rest

    return load(path, assemble)


def as_csv(probabilities: Tensor, names: list[str], classes: list[str]) -> str:
    """A line for each image: its name, and the three likeliest classes with their probabilities."""
    text, places = io.StringIO(), ("", "second_", "third_")[:len(classes)]
    table, best = csv.writer(text, lineterminator="\n"), probabilities.topk(len(places))
    table.writerow(["file", *(f"{place}{what}" for place in places
                              for what in ("class", "probability"))])
    for name, values, indices in zip(names, *map(Tensor.tolist, best), strict=True):
        table.writerow([name, *(cell for v, i in zip(values, indices, strict=True)
                                for cell in (classes[i], f"{v:.4f}"))])
    return text.getvalue()


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
