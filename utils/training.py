"""The one training loop: on plain images, on a frozen first layer's features, on morphed images."""

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mole.augmentation import largest_shift, shift
from parameter import Parameters
from utils.devices import (
    Context,
    progress,
    say,
    share_buffers,
    share_network,
    sum_over_processes,
)
from utils.errors import UserError
from utils.examples import Data, Examples
from utils.memory import IMAGES_AT_ONCE
from utils.names import duration
from utils.networks import seed_everything
from utils.records import Run
from utils.runs import resume, save_checkpoint

SECONDS_BETWEEN_CHECKPOINTS = {"cpu": 0, "cuda": 10}     # on CUDA epochs are short
# Separate random numbers of an epoch: DROPOUT + rank stays below AUGMENTATION.
DROPOUT, AUGMENTATION = 1, 2**32


# One epoch.

@dataclass(frozen=True)
class Augmentation:
    """What is done to each training image, or to its features, in every epoch.

    Shifts are multiples of `step` pixels of an image, or entries of a feature map, up to most_steps
    of them in each direction: both are for rows and columns. flip: half of the images, drawn at
    random, are mirrored. fill (C): what comes in from outside, zeros if none.
    """

    most_steps: tuple[int, int]
    step: tuple[int, int] = (1, 1)
    flip: bool = False
    fill: Tensor | None = None

    def draw(self, count: int, seed: int, epoch: int) -> tuple[Tensor, Tensor | None]:
        """Shifts (count, 2) int64, up and to the left, and flips (count) bool of an epoch. They
        depend on seed and epoch alone."""
        state = np.random.SeedSequence((seed, epoch, AUGMENTATION)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]) >> 1)
        rows, columns = self.most_steps
        if rows == columns:
            steps = torch.randint(-rows, rows + 1, (count, 2), generator=generator)
        else:
            # Equal ones are drawn at once all the same, so that earlier runs can be repeated.
            up = torch.randint(-rows, rows + 1, (count,), generator=generator)
            left = torch.randint(-columns, columns + 1, (count,), generator=generator)
            steps = torch.stack([up, left], 1)
        flips = torch.rand(count, generator=generator) < 0.5
        return torch.tensor(self.step) * steps, flips if self.flip else None


def augment_images(p: Parameters, stride: tuple[int, int]) -> Augmentation | None:
    """What --augment means for images: the same shifts as behind a first layer of this stride, for
    rows and columns."""
    if p.augment == "none":
        return None
    return Augmentation(_most_steps(stride), stride, p.augment == "crop_flip")


def augment_features(p: Parameters, stride: tuple[int, int],
                     fill: Tensor | None) -> Augmentation | None:
    """What --augment means for the features of a first layer with this stride, for rows and
    columns, and bias."""
    if p.augment == "none":
        return None
    return Augmentation(_most_steps(stride), (1, 1), p.augment == "crop_flip", fill)


def _most_steps(stride: tuple[int, int]) -> tuple[int, int]:
    return largest_shift(stride[0]), largest_shift(stride[1])


def split_into_batches(order: Tensor, size: int, world: int) -> list[Tensor]:
    """An epoch's batches; a last one too small for batch statistics is left out."""
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) < 2 * world:
        batches.pop()
    return batches


def make_forward(network: nn.Module, context: Context) -> Callable[[Tensor], Tensor]:
    """A network as a function of its prepared inputs: logits in float32."""
    autocast = context.dtype != torch.float32

    def forward(inputs: Tensor) -> Tensor:
        with torch.autocast(context.device.type, context.dtype, enabled=autocast):
            logits = network(inputs)
        return logits.to(torch.float32, copy=True)       # the next CUDA graph would overwrite them
    return forward


def train_epoch(forward: Callable, examples: Examples, p: Parameters, epoch: int, optimizer,
                scheduler, context: Context, augmentation: Augmentation | None = None) -> float:
    """One pass over the training images; gives the mean loss.

    Batches, dropout and augmentation are drawn from (seed, epoch) alone. Each process takes its
    share of every batch; the mean over the processes of their gradients is that of the batch.
    """
    device, world = context.device, context.world
    seed_everything(p.seed, epoch)
    order = torch.randperm(len(examples)).to(examples.labels.device)
    shifts = flips = None
    if augmentation is not None:
        shifts, flips = augmentation.draw(len(examples), p.seed, epoch)
    seed_everything(p.seed, epoch, DROPOUT + context.rank)   # differs between processes
    batches = split_into_batches(order, p.batch_size, world)
    total = torch.zeros((), device=device)
    bar = progress(batches, f"epoch {epoch}/{p.epochs}")
    for step, batch in enumerate(bar):
        mine = batch[context.rank::world]
        labels = examples.labels[mine].to(device, non_blocking=True)
        if augmentation is None:
            inputs = examples.take(mine)
        else:
            here = mine.cpu()
            inputs = examples.take(mine, None if flips is None else flips[here])
            inputs = shift(inputs, shifts[here], augmentation.fill)
        loss = F.cross_entropy(forward(inputs), labels, reduction="sum")
        optimizer.zero_grad(set_to_none=True)
        (loss * (world / len(batch))).backward()         # the processes' gradients are averaged
        optimizer.step()
        scheduler.step()
        total += loss.detach()
        if device.type == "cpu" and step % 10 == 0:      # elsewhere it would wait for the device
            bar.set_postfix(loss=f"{loss.item() / len(mine):.3f}", refresh=False)
    seen = sum(len(batch) for batch in batches)
    return sum_over_processes(total).item() / seen       # waits for the device


@torch.inference_mode()
def count_right(forward: Callable, examples: Examples, start: int, stop: int,
                context: Context) -> int:
    """How many of the images from `start` to before `stop` have their label's logit as the largest.

    The processes share the blocks: all of them must call this, and all get the count.
    """
    right = torch.zeros((), dtype=torch.int64, device=context.device)
    for first in range(start, stop, IMAGES_AT_ONCE)[context.rank::context.world]:
        block = slice(first, min(first + IMAGES_AT_ONCE, stop))
        labels = examples.labels[block].to(context.device)
        right += (forward(examples.take(block)).argmax(1) == labels).sum()
    return int(sum_over_processes(right))


def evaluate(forward: Callable, examples: Examples, context: Context) -> float:
    """The share of images whose largest logit is their label's."""
    return count_right(forward, examples, 0, len(examples), context) / len(examples)


def say_accuracies(network: nn.Module, examples: Examples, parts: list[tuple[str, int]],
                   context: Context):
    """Says the accuracy on each part of the examples: names and numbers of images, in order."""
    network.eval()
    forward = make_forward(network, context)
    start = 0
    for name, count in parts:
        right = count_right(forward, examples, start, start + count, context)
        say(f"test accuracy on {name}: {right / count:.2%} of {count} images")
        start += count


# A run.

def make_optimizer(network: nn.Module, p: Parameters, weight_decay: float, steps: int):
    """SGD and its learning rate, which changes after each of `steps` batches of an epoch."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    if not weights:
        raise UserError(f"{p.model} has no weight behind its first layer that is trained")
    optimizer = torch.optim.SGD(weights, p.lr, p.momentum, weight_decay=weight_decay,
                                fused=weights[0].is_cuda)
    if p.schedule == "onecycle":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, p.lr, total_steps=p.epochs * steps + 1, cycle_momentum=False)
    else:
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, p.decay_epochs * steps, gamma=0.5)
    return optimizer, scheduler


def train(network: nn.Module, data: Data, p: Parameters, run: Run, context: Context,
          augmentation: Augmentation | None = None) -> list[dict]:
    """Trains a network; gives a curve with one dictionary per epoch (records.CURVE).

    A run that goes on from its checkpoint ends as if it had never stopped. Under torchrun batch
    size and learning rate mean what they mean in one process. Raises UserError if the loss is no
    longer finite; the last checkpoint is kept.
    """
    count = len(data.train)
    check_batches(count, p.batch_size, context.world)
    network.to(context.device, memory_format=torch.channels_last)
    batches = split_into_batches(torch.arange(count), p.batch_size, context.world)
    optimizer, scheduler = make_optimizer(network, p, run.settings["weight_decay"], len(batches))
    curve = resume(run, network, optimizer, scheduler, p.restart)
    module = share_network(network, context, p.compile)
    forward = make_forward(module, context)
    processes = f", {context.world} processes" if context.world > 1 else ""
    duration_of_run = "1 epoch" if p.epochs == 1 else f"{p.epochs} epochs"
    say(f"training on {count} images, testing on {len(data.test)}: {run.kind.title}, "
        f"{duration_of_run}, {context.device} in {context.precision}{processes}")
    saved = began = time.perf_counter()
    epochs = range(len(curve) + 1, p.epochs + 1)
    for epoch in epochs:
        started = time.perf_counter()
        module.train()
        with _unused_parts_explained():
            loss = train_epoch(forward, data.train, p, epoch, optimizer, scheduler, context,
                               augmentation)
        trained = time.perf_counter() - started
        check_finite(loss, network, run, epoch)
        share_buffers(network)
        module.eval()
        accuracy = evaluate(forward, data.test, context)
        now = time.perf_counter()
        curve.append({"epoch": epoch, "train_loss": loss, "test_accuracy": accuracy,
                      "seconds": now - started, "train_seconds": trained})
        left = (now - began) / (epoch - epochs.start + 1) * (p.epochs - epoch)
        say(f"epoch {epoch:3d}: train loss {loss:.4f}, test accuracy {accuracy:.2%}, "
            f"{count / trained:.0f} images/s" + (f", {duration(left)} left" if left else ""))
        between = SECONDS_BETWEEN_CHECKPOINTS[context.device.type]
        if epoch == p.epochs or time.perf_counter() - saved >= between:
            save_checkpoint(run, network, optimizer, scheduler, curve)
            saved = time.perf_counter()
    return curve


@contextmanager
def _unused_parts_explained():
    """Says in a line what PyTorch says at length where processes cannot share a network."""
    try:
        yield
    except RuntimeError as error:
        if "finished reduction in the prior iteration" in str(error):
            raise UserError("a part of the network is not used in training, which several "
                            "processes cannot share: train in one process") from None
        raise


def check_batches(count: int, batch_size: int, world: int):
    """Raises UserError if each of the processes cannot have two images of every batch, which batch
    statistics need."""
    needed = 2 * world
    fewer = " or start fewer processes" if world > 1 else ""
    if count < needed:
        raise UserError(f"{count} training images are too few: at least {needed} are needed; use "
                        f"more images{fewer}")
    if batch_size < needed:
        raise UserError(f"batches of {batch_size} images are too small for {world} processes: "
                        f"choose --batch_size {needed} or more{fewer}")


def check_finite(loss: float, network: nn.Module, run: Run, epoch: int):
    """Raises UserError if the loss or a weight is not finite."""
    values = network.state_dict().values()
    if np.isfinite(loss) and all(bool(value.isfinite().all()) for value in values):
        return
    advice = "try --restart with a lower --lr"
    if run.name == "no_ac":
        advice += ", or --standardise: morphed images of a uniform core are large"
    raise UserError(f"loss or weights are not finite in epoch {epoch}: the last checkpoint, if "
                    f"any, is kept; {advice}")
