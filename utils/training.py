"""The one training loop: on plain images, on a frozen first layer's features, on morphed images."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from models.build import build, start_from
from parameter import Parameters
from utils import memory
from utils.artifacts import read_tensors
from utils.devices import compute_dtype, in_processes, rank, say, summed, world
from utils.records import Run, resume, save_checkpoint
from utils.settings import UserError, user_errors

EVALUATED = 250         # images that are evaluated at once
BETWEEN = {"cpu": 0, "cuda": 10}    # seconds between checkpoints: on CUDA epochs are short


class Data(NamedTuple):
    """Inputs and labels of both splits; `prepare` makes a batch of inputs ready for the network.

    Inputs may lie in memory, on a device, or on the disk: batches are read by index.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    prepare: Callable[[Tensor], Tensor]


def to_device(data: Data, device: torch.device) -> Data:
    """Moves a data set to the device where it fits twice; otherwise its batches travel."""
    size = sum(t.nbytes for t in data[:4])
    if device.type == "cpu" or 2 * size > memory.free_memory(device):
        return data
    return Data(*(t.to(device) for t in data[:4]), data.prepare)


class Features:
    """Rows of several sources, one after the other, as the features that are made of them when they
    are read: `features[index]` for a slice or a tensor of indices."""

    def __init__(self, parts: list[tuple[Tensor, Callable[[Tensor], Tensor]]]):
        self.parts = parts

    def __len__(self) -> int:
        return sum(len(rows) for rows, _ in self.parts)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        index = torch.arange(len(self))[index] if isinstance(index, slice) else index
        if len(self.parts) == 1:
            [(rows, compute)] = self.parts
            return compute(rows[index.to(rows.device)])
        (index, order), pieces, start = index.sort(), [], 0
        for rows, compute in self.parts:
            mine = index[(index >= start) & (index < start + len(rows))]
            pieces += [compute(rows[(mine - start).to(rows.device)])] if len(mine) else []
            start += len(rows)
        return torch.cat(pieces)[order.argsort().to(pieces[0].device)]


def features_of(layer: nn.Module, prepare: Callable[[Tensor], Tensor], dtype: torch.dtype,
                device: torch.device) -> Callable[[Tensor], Tensor]:
    """A frozen first layer as a function of its inputs before `prepare`, on any device: float32 out
    of the layer, then rounded to `dtype`, channels-last."""
    layer = layer.to(device).eval()

    @torch.no_grad()
    def features(inputs: Tensor) -> Tensor:
        inputs = prepare(inputs.to(device, non_blocking=True))
        return layer(inputs).to(dtype).contiguous(memory_format=torch.channels_last)
    return features


def logits_of(network: nn.Module, prepare: Callable[[Tensor], Tensor], dtype: torch.dtype,
              device: torch.device) -> Callable[[Tensor], Tensor]:
    """A network, which computes in `dtype`, as a function of inputs before `prepare`: float32."""
    def forward(inputs: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = network(prepare(inputs.to(device, non_blocking=True)))
        return logits.to(torch.float32, copy=True)       # the next CUDA graph would overwrite them
    return forward


def through_frozen_layers(layers: list[tuple[nn.Module, Data]], cache: str, dtype: torch.dtype,
                          device: torch.device) -> Data:
    """Inputs of frozen first layers (after each data.prepare) as inputs of one network behind them.

    Layers and images do not change, so the features are computed once, where they fit in the
    device's memory (`cache` auto) or in any case (on); otherwise batch by batch. They are the same
    either way.
    """
    layers = [(features_of(layer, data.prepare, dtype, device), to_device(data, device))
              for layer, data in layers]
    train = Features([(data.train, features) for features, data in layers])
    test = Features([(data.test, features) for features, data in layers])
    shape, count = train[:1].shape[1:], len(train) + len(test)
    needed, kept = count * shape.numel() * dtype.itemsize, [train, test]
    if cache == "off" or (cache == "auto" and 2 * needed > memory.free_memory(device)):
        say("the frozen first layer runs batch by batch")
    else:
        if device.type == "cpu":
            memory.require_memory("features", count * shape.numel(), dtype.itemsize,
                                  purpose="keeping the first layer's output",
                                  advice="choose --feature_cache off")
        for i, inputs in enumerate(kept):
            kept[i] = torch.empty((len(inputs), *shape), dtype=dtype, device=device,
                                  memory_format=torch.channels_last)
            for first in tqdm(range(0, len(inputs), EVALUATED), desc="first layer, once",
                              leave=False, disable=rank() > 0 or None):
                kept[i][first:first + EVALUATED] = inputs[first:first + EVALUATED]
        say(f"the frozen first layer runs once: its output takes {needed / 1e9:.2f} GB")
    labels = [torch.cat([data[i].to(device) for _, data in layers]) for i in (1, 3)]
    return Data(kept[0], labels[0], kept[1], labels[1], lambda x: x)


def new_network(p: Parameters, classes: int, shape: tuple[int, int, int]) -> tuple[nn.Module, dict]:
    """A network from the run's seed, or from --init, and the arguments of `build` that make it.

    `shape` (α, m, m): of its images. Raises UserError where there is no such network.
    """
    model = {"name": p.model, "classes": classes, "shape": tuple(shape), "dropout": p.dropout}
    seed_everything(p.seed)
    with user_errors(f"--model {p.model}"):
        network = build(**model)
    if p.init:
        content = read_tensors(Path(p.init), "name a file of weights")
        with user_errors(p.init):
            other = start_from(network, content.get("network", content))
        say(f"starting from {p.init}" + (f", but for {', '.join(other)}" if other else ""))
    return network, model


def seed_everything(*seeds: int):
    """The same random numbers for the same numbers, whatever was drawn before."""
    torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1))


def optimizer_and_schedule(network: nn.Module, p: Parameters, weight_decay: float, steps: int):
    """SGD and its learning rate, which changes after each of `steps` batches of an epoch."""
    weights = list(network.parameters())
    optimizer = torch.optim.SGD(weights, p.lr, p.momentum, weight_decay=weight_decay,
                                fused=weights[0].is_cuda)
    if p.schedule == "onecycle":
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(
            optimizer, p.lr, total_steps=p.epochs * steps + 1, cycle_momentum=False)
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, p.decay_epochs * steps, gamma=0.5)


def batches(order: Tensor, size: int) -> list[Tensor]:
    """An epoch's batches; a last one too small for batch statistics is left out."""
    split = list(order.split(size))
    if len(split) > 1 and len(split[-1]) < 2 * world():
        split.pop()
    return split


def train_epoch(forward: Callable, data: Data, p: Parameters, epoch: int, optimizer, scheduler,
                device: torch.device) -> float:
    """One pass over the training images; gives the mean loss.

    Batches and dropout are drawn from (seed, epoch) alone. Each process takes its share of every
    batch; the mean over the processes of their gradients is that of the batch.
    """
    seed_everything(p.seed, epoch)
    order = torch.randperm(len(data.train)).to(data.train_labels.device)
    seed_everything(p.seed, epoch, 1 + rank())           # dropout differs between processes
    total, parts = torch.zeros((), device=device), batches(order, p.batch_size)
    bar = tqdm(parts, desc=f"epoch {epoch}/{p.epochs}", mininterval=0.5,
               leave=False, disable=rank() > 0 or None)
    for step, batch in enumerate(bar):
        mine = batch[rank()::world()]
        labels = data.train_labels[mine].to(device, non_blocking=True)
        loss = F.cross_entropy(forward(data.train[mine]), labels, reduction="sum")
        optimizer.zero_grad(set_to_none=True)
        (loss * (world() / len(batch))).backward()       # the processes' gradients are averaged
        optimizer.step()
        scheduler.step()
        total += loss.detach()
        if device.type == "cpu" and step % 10 == 0:      # elsewhere it would wait for the device
            bar.set_postfix(loss=f"{loss.item() / len(mine):.3f}", refresh=False)
    return summed(total).item() / sum(map(len, parts))   # waits for the device


def train(network: nn.Module, data: Data, p: Parameters, run: Run, weight_decay: float,
          device: torch.device) -> list[dict]:
    """Trains a network on a device; gives a curve with one dictionary per epoch.

    A run that goes on from its checkpoint ends as if it had never stopped. Under torchrun batch
    size and learning rate mean what they mean in one process. Raises UserError where the loss is no
    longer finite; the last checkpoint is kept.
    """
    count, dtype = len(data.train), compute_dtype(p, device)
    if min(count, p.batch_size) < 2 * world():
        raise UserError(f"{count} training images in batches of {p.batch_size} are too few: a "
                        f"batch needs {2 * world()}")
    network.to(device, memory_format=torch.channels_last)
    optimizer, scheduler = optimizer_and_schedule(
        network, p, weight_decay, len(batches(torch.arange(count), p.batch_size)))
    curve = resume(run, network, optimizer, scheduler, p.restart)
    module = in_processes(network, p, device)
    forward = logits_of(module, data.prepare, dtype, device)
    saved = time.perf_counter()
    say(f"training on {count} images, testing on {len(data.test)}, {run.name}, {p.epochs} epochs, "
        f"{device} in {str(dtype).removeprefix('torch.')}"
        + (f", {world()} processes" if world() > 1 else ""))
    for epoch in range(len(curve) + 1, p.epochs + 1):
        started = time.perf_counter()
        module.train()
        loss = train_epoch(forward, data, p, epoch, optimizer, scheduler, device)
        trained = time.perf_counter() - started
        check_finite(loss, network, epoch)
        module.eval()
        accuracy = evaluate(forward, data.test, data.test_labels, device)
        curve.append({"epoch": epoch, "train_loss": loss, "test_accuracy": accuracy,
                      "seconds": time.perf_counter() - started, "train_seconds": trained})
        say(f"epoch {epoch:3d}: train loss {loss:.4f}, test accuracy {accuracy:.2%}, "
            f"{count / trained:.0f} images/s")
        if epoch == p.epochs or time.perf_counter() - saved >= BETWEEN[device.type]:
            save_checkpoint(run, network, optimizer, scheduler, curve)
            saved = time.perf_counter()
    return curve


def check_finite(loss: float, network: nn.Module, epoch: int):
    if not (np.isfinite(loss) and all(x.isfinite().all() for x in network.state_dict().values())):
        raise UserError(f"loss or weights are not finite in epoch {epoch}: the epoch before is "
                        "kept; try --restart with a lower --lr (morphed images of a uniform core "
                        "are large: without Aug-Conv they may need --standardise)")


@torch.inference_mode()
def evaluate(forward: Callable, inputs: Tensor | Features, labels: Tensor,
             device: torch.device) -> float:
    """The share of inputs whose largest logit is their label's; the processes share the blocks."""
    right = torch.zeros((), dtype=torch.int64, device=device)
    for first in range(0, len(inputs), EVALUATED)[rank()::world()]:
        block = slice(first, first + EVALUATED)
        right += (forward(inputs[block]).argmax(1) == labels[block].to(device)).sum()
    return summed(right).item() / len(inputs)
