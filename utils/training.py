"""The one training loop, for plain images, for Aug-Conv's features and for morphed images."""

import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from models.aug_conv import AugConv
from models.batch_norm import shared_batch_norm
from parameter import Parameters
from utils.artifacts import Saving, load, read_manifest, same_form
from utils.program import UserError, free_memory, require_memory
from utils.runs import Run


class Data(NamedTuple):
    """Inputs and labels of both splits; `prepare` makes a batch of inputs ready for the network."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    prepare: Callable[[Tensor], Tensor]


EPOCH = {"epoch": 0, "train_loss": 0.0, "test_accuracy": 0.0, "seconds": 0.0, "train_seconds": 0.0}


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def say(*words, sep: str = " "):
    """Prints, once for all processes."""
    if rank() == 0:
        print(*words, sep=sep, flush=True)


@contextmanager
def processes(p: Parameters):
    """Joins the other processes under torchrun; gives the device of this one.

    Raises UserError where the device cannot be had.
    """
    name = p.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"device {p.device} cannot be had here: choose --device auto or cpu")
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
        dist.barrier()
    finally:
        dist.destroy_process_group()


def compute_dtype(p: Parameters, device: torch.device) -> torch.dtype:
    """What the network computes in: `auto` is bfloat16 where the processor multiplies in it."""
    if p.precision != "auto":
        return torch.bfloat16 if p.precision == "bf16" else torch.float32
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def to_device(data: Data, device: torch.device) -> Data:
    """Moves a data set to the device where it fits twice; otherwise its batches travel."""
    size = sum(t.nbytes for t in data[:4])
    if device.type == "cpu" or 2 * size > free_memory(device):
        return data
    return Data(*(t.to(device) for t in data[:4]), data.prepare)


def through_aug_conv(layer: AugConv, data: Data, cache: str, dtype: torch.dtype,
                     device: torch.device) -> Data:
    """Morphed images (N, αm²) as inputs of the network behind Aug-Conv.

    The layer is frozen and the images do not change, so their features are computed once, where
    they fit in the device's memory (`cache` auto) or in any case (on); otherwise batch by batch.
    The features are the same either way: float32 out of Aug-Conv, then rounded to `dtype`.
    """
    def features(morphed: Tensor) -> Tensor:
        return layer(morphed).to(dtype, memory_format=torch.channels_last)

    beta, n, columns = layer.out_shape
    count = len(data.train) + len(data.test)
    size = count * beta * n * columns * dtype.itemsize
    if device.type == "cpu":
        size *= world()                                  # the processes share the memory
    if cache == "off" or (cache == "auto" and 1.25 * size + 1e9 > free_memory(device)):
        say(f"Aug-Conv runs batch by batch: its output for all images would take "
            f"{size / 1e9:.1f} GB")
        return to_device(data._replace(prepare=features), device)

    if device.type == "cpu":
        require_memory(size, "Aug-Conv's output for all images", "choose --feature_cache off")
    say(f"Aug-Conv runs once, its output takes {size / 1e9:.1f} GB of memory")

    @torch.inference_mode()
    def all_features(morphed: Tensor) -> Tensor:
        # Kept with the channels last, as the convolutions want it.
        out = torch.empty(len(morphed), n, columns, beta, dtype=dtype, device=device)
        blocks = list(zip(morphed.split(250), out.split(250), strict=True))
        for source, target in tqdm(blocks, desc="Aug-Conv", leave=False,
                                   disable=rank() > 0 or None):
            target.copy_(layer(source.to(device)).permute(0, 2, 3, 1))
        return out

    return Data(all_features(data.train), data.train_labels.to(device),
                all_features(data.test), data.test_labels.to(device),
                lambda x: x.permute(0, 3, 1, 2))


def seed_everything(*seeds: int):
    """The same random numbers for the same numbers, whatever was drawn before."""
    torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1))


def resume(run: Run, network: nn.Module, optimizer, scheduler, restart: bool) -> list[dict]:
    """Goes on from a run's checkpoint if there is one; gives the curve so far.

    Raises UserError where the checkpoint is of a run with other parameters.
    """
    manifest = read_manifest(run.folder, missing_ok=True)
    if restart or run.checkpoint.name not in manifest["files"]:
        return []
    state = load(run.checkpoint)
    curve, old, new = state["curve"], state["identity"], run.identity
    for key in new | old:
        if type(old.get(key)) is not type(new.get(key)) or old.get(key) != new.get(key):
            raise UserError(f"{run.checkpoint} is of an unfinished run with {key} = "
                            f"{old.get(key)!r}, not {new.get(key)!r}: set it back to go on, or "
                            "pass --restart to begin anew")
    weights = list(network.parameters())
    momentum = {i: {"momentum_buffer": w} for i, w in enumerate(weights)}
    form = {"network": network.state_dict(), "scheduler": scheduler.state_dict(), "identity": new,
            "optimizer": optimizer.state_dict() | {
                "state": momentum if optimizer.defaults["momentum"] else {}},
            "curve": [EPOCH] * len(curve)}
    if not same_form(form, state):
        raise UserError(f"{run.checkpoint} is not of this network: pass --restart to begin anew")
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    say(f"going on after epoch {len(curve)}")
    return curve


def train(network: nn.Module, data: Data, p: Parameters, run: Run, weight_decay: float,
          device: torch.device) -> list[dict]:
    """Trains a network on a device; gives a curve with one dictionary per epoch.

    Every epoch draws its batches and its dropout from (seed, epoch) alone, so a run that goes on
    from its checkpoint ends as if it had never stopped. Under torchrun each process takes its share
    of every batch, and batch size and learning rate mean what they mean on one.

    Raises UserError where the loss is no longer finite; the last checkpoint is kept.
    """
    dtype = compute_dtype(p, device)
    network.to(device, memory_format=torch.channels_last)
    module = shared_batch_norm(network, device) if world() > 1 else network
    optimizer = torch.optim.SGD(network.parameters(), lr=p.lr, momentum=p.momentum,
                                weight_decay=weight_decay)
    count = len(data.train)
    if min(count, p.batch_size) < 2 * world():
        raise UserError(f"{count} training images in batches of {p.batch_size} are too few: a "
                        f"batch needs {2 * world()}")
    steps = len(batches(torch.arange(count), p.batch_size))
    if p.schedule == "onecycle":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, p.lr, total_steps=p.epochs * steps + 1, cycle_momentum=False)
    else:
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, p.decay_epochs * steps, gamma=0.5)
    curve = resume(run, network, optimizer, scheduler, p.restart)
    if world() > 1:
        # Batch statistics are shared already; broadcasting them would make processes with fewer
        # test batches wait for ever.
        module = DistributedDataParallel(
            module, device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False)
    if p.compile:
        module = torch.compile(module)

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return module(data.prepare(x.to(device, non_blocking=True))).float()

    say(f"training on {count} images, testing on {len(data.test)}, {run.name}, {p.epochs} epochs, "
        f"{device} in {str(dtype).removeprefix('torch.')}"
        + (f", {world()} processes" if world() > 1 else ""))
    for epoch in range(len(curve) + 1, p.epochs + 1):
        started = time.perf_counter()
        seed_everything(p.seed, epoch)
        order = torch.randperm(count).to(data.train.device)
        seed_everything(p.seed, epoch, 1 + rank())       # dropout differs between processes
        module.train()
        total = torch.zeros((), device=device)
        bar = tqdm(batches(order, p.batch_size), desc=f"epoch {epoch}/{p.epochs}", mininterval=0.5,
                   leave=False, disable=rank() > 0 or None)
        for step, batch in enumerate(bar):
            mine = batch[rank()::world()]
            labels = data.train_labels[mine].to(device, non_blocking=True)
            loss = F.cross_entropy(forward(data.train[mine]), labels, reduction="sum")
            optimizer.zero_grad(set_to_none=True)
            (loss * (world() / len(batch))).backward()   # the processes' gradients are averaged
            optimizer.step()
            scheduler.step()
            total += loss.detach()
            if device.type == "cpu" and step % 10 == 0:  # elsewhere it would wait for the device
                bar.set_postfix(loss=f"{loss.item() / len(mine):.3f}", refresh=False)
        if world() > 1:
            dist.all_reduce(total)
        trained = time.perf_counter() - started
        train_loss = total.item() / count
        if not (np.isfinite(train_loss)
                and all(x.isfinite().all() for x in network.state_dict().values())):
            raise UserError(
                f"loss or weights are not finite in epoch {epoch}: the epoch before is kept; try "
                "--restart with a lower --lr (morphed images of a uniform core are large: without "
                "Aug-Conv they may need --standardise)")
        accuracy = evaluate(module, forward, data, device)
        curve.append({"epoch": epoch, "train_loss": train_loss, "test_accuracy": accuracy,
                      "seconds": time.perf_counter() - started, "train_seconds": trained})
        say(f"epoch {epoch:3d}: train loss {train_loss:.4f}, test accuracy {accuracy:.2%}, "
            f"{count / trained:.0f} images/s")
        if rank() == 0:
            with Saving(run.folder) as new:
                new.save(run.checkpoint.name, {
                    "network": network.state_dict(), "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(), "curve": curve,
                    "identity": run.identity})
    return curve


def batches(order: Tensor, size: int) -> list[Tensor]:
    """An epoch's batches; a last one too small for batch statistics is left out."""
    split = list(order.split(size))
    if len(split) > 1 and len(split[-1]) < 2 * world():
        split.pop()
    return split


@torch.inference_mode()
def evaluate(module: nn.Module, forward: Callable, data: Data, device: torch.device) -> float:
    """Accuracy on the test images, each process counting its share."""
    module.eval()
    right = torch.zeros((), device=device)
    for x, y in zip(data.test.split(250)[rank()::world()],
                    data.test_labels.split(250)[rank()::world()], strict=True):
        right += (forward(x).argmax(1) == y.to(device)).sum()
    if world() > 1:
        dist.all_reduce(right)
    return right.item() / len(data.test)
