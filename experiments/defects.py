"""What the defects of the reference scripts cost: `python -m experiments.defects`.

The plain network is trained as here, then with one change at a time as the reference scripts do it
(docs/differences.md), then with all of them: never shuffled; the optimizer made again in each
epoch, so that momentum is lost; 512 "logits" for 10 classes, the classifier left out. Beside each
accuracy after the last epoch stands that of the best epoch on the test set, which choosing by it
would report. Same seed, same first weights, same data. Rows that defects.json in --output has of
the same code, settings and machine stay. Writes defects.json to --output.
"""

import argparse
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.program import make_parser, run_command
from experiments.tables.rows import title_of
from images.datasets import dataset_name, load_images, normalisation, normalise
from mole.first_layer import SplitNetwork
from parameter import Parameters
from utils.artifacts import write_alone
from utils.devices import Context, joined_processes, say
from utils.examples import Data, PreparedImages, Source
from utils.networks import Model, new_network, seed_everything
from utils.provenance import provenance
from utils.records import plain_data, to_json, training_settings
from utils.training import DROPOUT, evaluate, make_forward, make_optimizer, split_into_batches


@dataclass(frozen=True)
class Change:
    """How a network is trained; each defect can be switched on."""

    name: str
    never_shuffled: bool = False
    momentum_lost: bool = False
    classifier_left_out: bool = False


CHANGES = [
    Change("as here"),
    Change("never shuffled", never_shuffled=True),
    Change("the optimizer made again in each epoch", momentum_lost=True),
    Change("512 logits for 10 classes", classifier_left_out=True),
    Change("all three", True, True, True),
]


def main():
    arguments = parse_arguments()
    p = Parameters(
        dataset=arguments.dataset, dataset_dir=arguments.dataset_dir, model=arguments.model,
        train_limit=arguments.train_limit, test_limit=arguments.test_limit,
        epochs=arguments.epochs, schedule="onecycle", lr=arguments.lr, dropout=0.1,
        precision="fp32", seed=arguments.seed)
    about = provenance(p)
    path = arguments.output / "defects.json"
    with joined_processes(p) as context:
        data, facts = load_data(p, context)
        settings = training_settings(p, context, p.weight_decay)
        about |= {"setting": title_of(settings | facts), "settings": settings, "data": facts}
        rows = read_rows(path, about)
        for change in CHANGES:
            if change.name not in rows:
                began = time.perf_counter()
                row = train_with(change, data, facts, p, context)
                rows[change.name] = row | {"seconds": round(time.perf_counter() - began, 1)}
                write_record(path, about, rows)
        write_record(path, about, rows)
    print(f"{path} has {len(rows)} rows")


def write_record(path: Path, about: dict, rows: dict[str, dict]):
    table = [rows[change.name] for change in CHANGES if change.name in rows]
    record = about | {"complete": len(table) == len(CHANGES), "table": table}
    write_alone(path, to_json(record))


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--dataset", default="cifar10", help="default: cifar10")
    parser.add_argument("--dataset_dir", default="data/datasets", help="default: data/datasets")
    parser.add_argument("--model", default="vgg11", help="a VGG (default: vgg11)")
    parser.add_argument("--train_limit", type=int, default=10_000, help="default: 10000")
    parser.add_argument("--test_limit", type=int, default=0, help="default: 0, all")
    parser.add_argument("--epochs", type=int, default=4, help="default: 4")
    parser.add_argument("--lr", type=float, default=0.01, help="default: 0.01")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    return parser.parse_args()


def load_data(p: Parameters, context: Context) -> tuple[Data, dict]:
    """Plain images, and what they are, as records have it."""
    train_set, test_set = load_images(p, "train"), load_images(p, "test")
    mean, std = normalisation(p, train_set)
    prepare = partial(normalise, mean=mean, std=std)
    data = Data(PreparedImages(Source(train_set.images, prepare), train_set.labels, context),
                PreparedImages(Source(test_set.images, prepare), test_set.labels, context))
    return data, plain_data(p, dataset_name(p), train_set, test_set, mean, std)


# What rows of one record agree in.
COMMON = ("settings", "data", "code", "machine", "versions")


def read_rows(path: Path, about: dict) -> dict[str, dict]:
    """Rows of an earlier run of the same code with the same settings and data, on the same machine,
    by name. `about`: what is known of this run."""
    if not path.exists():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(to_json(about))                     # as JSON has it
    if any(record.get(name) != now[name] for name in COMMON):
        return {}
    return {row["change"]: row for row in record["table"]}


def train_with(change: Change, data: Data, facts: dict, p: Parameters, context: Context) -> dict:
    """A row of the table."""
    shape = facts["channels"], facts["image_size"], facts["image_size"]
    network = new_network(p, Model(p.model, len(facts["class_names"]), shape, p.dropout))
    if change.classifier_left_out:
        leave_out_classifier(network)
    split = SplitNetwork(network, shape)
    split.to(context.device, memory_format=torch.channels_last)
    batches = split_into_batches(torch.arange(len(data.train)), p.batch_size, context.world)
    optimizer, scheduler = make_optimizer(split, p, p.weight_decay, len(batches))
    forward = make_forward(split, context)
    accuracies = []
    for epoch in range(1, p.epochs + 1):
        if change.momentum_lost:
            optimizer.state.clear()                      # a new optimizer has no momentum yet
        split.train()
        train_one_epoch(forward, data, p, epoch, optimizer, scheduler, change.never_shuffled)
        split.eval()
        accuracies.append(evaluate(forward, data.test, context))
        say(f"{change.name}, epoch {epoch}: test accuracy {accuracies[-1]:.2%}")
    return {"change": change.name, "accuracy": accuracies[-1], "best": max(accuracies),
            "best_epoch": 1 + accuracies.index(max(accuracies)), "test_accuracies": accuracies}


def leave_out_classifier(network: nn.Module):
    """Takes the last layer of a VGG away: its 512 features are trained as if they were logits."""
    network.rest[-1] = nn.Identity()


def train_one_epoch(forward, data: Data, p: Parameters, epoch: int, optimizer, scheduler,
                    never_shuffled: bool):
    """As utils.training.train_epoch with one process, but for the order of the images."""
    for batch in split_into_batches(draw_order(data, p, epoch, never_shuffled), p.batch_size, 1):
        loss = F.cross_entropy(forward(data.train.take(batch)), data.train.labels[batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()


def draw_order(data: Data, p: Parameters, epoch: int, never_shuffled: bool) -> Tensor:
    """The order of an epoch's images; dropout is drawn from the same numbers either way."""
    seed_everything(p.seed, epoch)
    order = torch.randperm(len(data.train))
    seed_everything(p.seed, epoch, DROPOUT)
    return torch.arange(len(data.train)) if never_shuffled else order


if __name__ == "__main__":
    run_command(main)
