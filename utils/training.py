"""The one training loop: on plain images, on a frozen first layer's features, on morphed images."""

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.build import build, digest_of_code, is_users_own, mode_of_softmax
from models.weights import find_weights, start_from
from mole.augmentation import largest_shift, shift
from parameter import Parameters
from utils.artifacts import Saving, load, read_tensors, write_alone
from utils.devices import (
    Context,
    progress,
    rank,
    say,
    share_buffers,
    share_network,
    sum_over_processes,
    warn_once,
)
from utils.errors import UserError, is_out_of_memory, user_errors
from utils.examples import Data, Examples
from utils.memory import IMAGES_AT_ONCE
from utils.plots import curve_png, draw
from utils.records import (
    CHOSEN_DATA,
    CURVE,
    Run,
    choices_of,
    curve_csv,
    differences,
    in_words,
    make_record,
    option_of,
    read_record,
    record_name,
    to_json,
)
from utils.settings import Settings

SECONDS_BETWEEN_CHECKPOINTS = {"cpu": 0, "cuda": 10}     # on CUDA epochs are short
# Separate random numbers of an epoch: DROPOUT + rank stays below AUGMENTATION.
DROPOUT, AUGMENTATION = 1, 2**32


# A network.

@dataclass(frozen=True)
class Model:
    """The arguments of models.build.build that make a network: they are saved with its weights."""

    name: str
    classes: int
    shape: tuple[int, int, int]         # (α, m, m) of its images
    dropout: float

    def to_dict(self) -> dict:
        return asdict(self)


def new_network(p: Parameters, model: Model, classes: Sequence[str] = ()) -> nn.Module:
    """A network from the run's seed, or from --init, with its outputs in the order of `classes`.
    Raises UserError if there is none."""
    seed_everything(p.seed)
    with user_errors(f"--model {p.model}"):
        network = build(**model.to_dict())
    softmax_in = mode_of_softmax(network, model.shape)
    if softmax_in == "training":
        warn_once(f"{p.model} ends in a softmax, but is trained as if it gave logits: leave the "
                  "softmax out")
    elif softmax_in == "evaluation":
        warn_once(f"{p.model} ends in a softmax in evaluation mode, which predict.py would apply "
                  "again: its probabilities would be wrong; leave the softmax out")
    if p.init:
        content = read_tensors(Path(p.init), "name a file of weights")
        with user_errors(p.init):
            found = find_weights(content, network)
            changes = start_from(network, found.weights, model.shape,
                                 texts_in(content, "classes"), classes)
        say(f"starting from {p.init}{found.where}", *changes, sep="\n")
    return network


def texts_in(content: dict, name: str) -> list[str]:
    """A list of texts that a file of ours has under a name; [] where it has none."""
    values = content.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return []
    return values


def warn_of_other_features(p: Parameters, deliveries: Sequence[str], layer: str | None,
                           shuffled: bool = False):
    """Warns where the layers of --init were trained on other features than those of this run.

    `deliveries`: the ids of this run's; `layer`: the fingerprint of its frozen first layer;
    `shuffled`: whether Aug-Conv's channels are in a secret order.
    """
    if not p.init:
        return
    content = read_tensors(Path(p.init), "name a file of weights")
    trained_on, its_layer = texts_in(content, "deliveries"), content.get("layer")
    if deliveries and set(deliveries) <= set(trained_on):
        return                                           # the same channels in the same order
    if shuffled:
        warn_once("--init gives layers trained on channels in another order, but Aug-Conv's are "
                  "shuffled: gen_augconv.py --shuffle_channels no keeps them in order")
    elif trained_on and its_layer is None:
        warn_once("--init gives layers trained on channels that were shuffled for another "
                  "delivery: begin with a network that was trained on channels in their order")
    elif None not in (its_layer, layer) and its_layer != layer:
        warn_once("--init gives layers trained behind another first layer than this one")


def sample_logits(network: nn.Module, model: Model) -> list[float]:
    """What a network gives for fixed images: whether two are the same code and weights.

    At most ten logits in evaluation mode; of a network of the user's own as many in training mode
    too, where dropout and the like show. The states of the network and of PyTorch's random
    generators are kept.
    """
    network = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)           # CUDA's generators are left alone
        logits = network.eval()(torch.randn(1, *model.shape))[0, :10].tolist()
        if is_users_own(model.name):
            logits += network.train()(torch.randn(2, *model.shape))[0, :10].tolist()
    return [round(value, 6) for value in logits]


def seed_everything(*seeds: int):
    """The same random numbers for the same seeds, whatever was drawn before."""
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) >> 1)


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


def duration(seconds: float) -> str:
    """A span of time for people: 4 d 3 h, 5 h 20 min, 12 min, 40 s."""
    if seconds < 90:
        return f"{round(seconds)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


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


# Checkpoints and results.

def is_finished(run: Run, p: Settings) -> bool:
    """Whether this very run has left its result already, which is then said.

    An earlier result is replaced, with a line, if the user asks for another run: with other
    settings, or on other deliveries. If it differs in nothing that the user typed, but images,
    labels, the network's code or its first weights have changed on the disk, that may be a mistake,
    and hours of training would be lost: UserError, unless --restart. A precision that this
    processor chose by itself makes no other run. Raises UserError, too, if the result is damaged.
    """
    if p.restart:
        if rank() == 0:
            run.checkpoint.unlink(missing_ok=True)       # or it would come back if this run stops
        return False
    if run.checkpoint.exists():                          # then it is not over
        return False
    record = read_record(run.folder, run.name)
    if record is None:
        return False
    other = differences(run.identity, record)
    chosen = [name for name in other if is_chosen(name, run, p, record)]
    if not chosen and set(other) <= {"precision"}:
        load(run.folder / f"{run.name}.pt")              # raises if it is damaged
        precision = describe_precision(run, record)
        say(f"this run is finished already{precision}; --restart trains again")
        if p.results_dir and rank() == 0:                # which the finished run may not have had
            write_alone(Path(p.results_dir) / record_name(record), to_json(record))
        return True
    if not chosen:
        raise UserError(f"{run.folder / run.name}.json is the result of a run with other "
                        f"{in_words(other)}: pass --restart to train on what is there now")
    kept = ""
    if p.results_dir and (Path(p.results_dir) / record_name(record)).exists():
        kept = f" (its record is also in {p.results_dir})"
    say(f"the earlier {run.kind.title}, {record['accuracy']:.2%}, will be replaced: it had other "
        f"{in_words(other)}{kept}")
    return False


def describe_precision(run: Run, record: dict) -> str:
    """In words, a precision of an earlier run that is not what this processor would choose."""
    its, own = record["settings"]["precision"], run.settings["precision"]
    return "" if its == own else f", in {its} (--precision auto is {own} here)"


# The settings that decide what a record has under another name, or that may be auto.
SOURCE = ("dataset_dir", "pixel_range")
DECIDED_BY = {
    "precision": ("precision",), "init": ("init",), "frozen_layer": ("frozen_first_layer",),
    "train_images": ("train_limit", *SOURCE), "test_images": ("test_limit", *SOURCE),
    "train_digest": ("train_limit", *SOURCE), "test_digest": ("test_limit", *SOURCE),
    "class_names": SOURCE}
PATHS = ("init", "frozen_first_layer", "dataset_dir")


def is_chosen(name: str, run: Run, p: Settings, record: dict) -> bool:
    """Whether the user has chosen what differs from an earlier run's record under this name.

    What a setting decides is chosen if the setting has changed, as an option or in parameter.py.
    If it has not, the images, a file's content or the processor have.
    """
    if name not in DECIDED_BY:
        return name in run.settings or name in CHOSEN_DATA
    now, earlier = choices_of(p), record["choices"]
    return any(has_changed(setting, now[setting], earlier[setting]) for setting in DECIDED_BY[name])


def has_changed(setting: str, now, earlier) -> bool:
    """Whether a setting has another value, as JSON has it; a path may be written in another way."""
    if setting in PATHS and now and earlier:
        return Path(now).resolve() != Path(earlier).resolve()
    return now != earlier


def resume(run: Run, network: nn.Module, optimizer, scheduler, restart: bool) -> list[dict]:
    """Goes on from a run's checkpoint if there is one; gives the curve so far.

    Raises UserError if the checkpoint is damaged, or of other settings or data.
    """
    if restart or not run.checkpoint.exists():
        return []
    state = read_tensors(run.checkpoint, "pass --restart to begin again")
    try:
        _check_same_run(run, state["identity"])
        if state["scheduler"].keys() != scheduler.state_dict().keys():  # it would take any
            raise ValueError
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        _check_momentum(optimizer)
        if any(tuple(epoch) != CURVE for epoch in state["curve"]):
            raise ValueError
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as wrong:
        if is_out_of_memory(wrong):
            raise
        raise UserError(f"{run.checkpoint} is of another network: pass --restart to begin "
                        "again") from None
    say(f"going on after epoch {len(state['curve'])}")
    return state["curve"]


def _check_same_run(run: Run, old: dict):
    """Raises UserError if an unfinished run had other settings or data."""
    other = differences(run.identity, old)
    if not other:
        return
    name = other[0]
    if name in run.settings and name != "init":
        before = option_of(run, name, old["settings"][name])
        now = option_of(run, name, run.settings[name])
        what = f"{before}, not {now}"
    else:
        what = f"other {in_words([name])}"
    advice = "give the run up with --restart, which begins this one"
    if "deliveries" not in other:                        # an earlier delivery cannot be had back
        advice = f"set it back to continue that run, or {advice}"
    raise UserError(f"{run.checkpoint} is of an unfinished run with {what}: {advice}")


def _check_momentum(optimizer):
    """Raises ValueError if a momentum buffer does not fit its weight."""
    for weight, state in optimizer.state.items():
        buffer = state.get("momentum_buffer")
        if buffer is not None and buffer.shape != weight.shape:
            raise ValueError


def save_checkpoint(run: Run, network: nn.Module, optimizer, scheduler, curve: list[dict]):
    """One file, so that a kill leaves either the old or the new one; it checks itself when read."""
    if rank() > 0:
        return
    write_alone(run.checkpoint, {
        "network": network.state_dict(), "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(), "curve": curve, "identity": run.identity})


@dataclass(frozen=True)
class Trained:
    """A trained network as it is saved.

    state: weights by the network's own names; behind Aug-Conv without the first layer. deliveries
    and layer_fingerprint: whose features the layers behind the first one take (no fingerprint where
    the channels are shuffled).
    """

    state: dict[str, Tensor]
    model: Model
    deliveries: tuple[str, ...] = ()
    layer_fingerprint: str | None = None

    def to_dict(self, run: Run) -> dict:
        return {"network": self.state, "model": self.model.to_dict(),
                "classes": list(run.data["class_names"]), "deliveries": list(self.deliveries),
                "layer": self.layer_fingerprint, "code": digest_of_code(self.model.name)}


class SavedNetwork(NamedTuple):
    """What a file of `Trained` holds. `classes` and `code` (a digest of the network's own file) are
    those of the training."""

    weights: dict[str, Tensor]
    model: Model
    classes: tuple[str, ...]
    deliveries: tuple[str, ...]
    layer_fingerprint: str | None
    code: str


def saved_network_from(content: dict) -> SavedNetwork:
    """What Trained.to_dict wrote. Raises KeyError or TypeError where it is something else."""
    model = content["model"] | {"shape": tuple(content["model"]["shape"])}
    return SavedNetwork(content["network"], Model(**model), tuple(content["classes"]),
                        tuple(content["deliveries"]), content["layer"], content.get("code", ""))


def save_result(run: Run, p: Parameters, curve: list[dict], trained: Trained,
                trained_parameters: int, more: dict[str, dict] | None = None):
    """Saves a trained network, the record of its run, and its curve; `more`: other files by name.

    The picture comes after all that counts, and the checkpoint is deleted last: a kill in between
    then loses nothing.
    """
    if rank() > 0:
        return
    record = make_record(run, p, curve, trained_parameters)
    if p.results_dir:
        write_alone(Path(p.results_dir) / record_name(record), to_json(record))
    with Saving(run.folder) as new:
        new.save(f"{run.name}.pt", trained.to_dict(run))
        for name, content in (more or {}).items():
            new.save(name, content)
        new.save(f"{run.name}.csv", curve_csv(curve))
        new.save(f"{run.name}.json", to_json(record))
    draw(run.folder / f"{run.name}.png", curve_png, curve,
         f"{run.kind.title}, {run.data['dataset']}")
    run.checkpoint.unlink(missing_ok=True)


def count_trained(network: nn.Module) -> int:
    """The number of weights that training changes."""
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
