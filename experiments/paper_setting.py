"""The five steps at the paper's settings, as far as a time allows: `make paper`.

    python -m experiments.paper_setting SECONDS OUT [--name value ...]

First says how long each step will still take, from a measured stretch of an epoch. Stops after
SECONDS and keeps the checkpoints; run the same command again to continue. On a CUDA device the
control trains beside the Aug-Conv run, elsewhere after it. Options are those of the steps; each
step gets those that it uses. OUT gets the record of each training run: three small files.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from experiments.program import run_command
from images.datasets import image_shape, load_images
from mole.first_layer import SplitNetwork
from parameter import Parameters
from utils.artifacts import MANIFEST, read_tensors
from utils.devices import joined_processes
from utils.errors import UserError
from utils.examples import PreparedImages, Source
from utils.names import duration
from utils.networks import Model, new_network
from utils.provenance import ROOT
from utils.records import read_record
from utils.settings import options_of, parse
from utils.training import make_forward, make_optimizer, train_epoch

MEASURED_BATCHES = 20
SECONDS_TO_STOP = 60                # that a step has after Ctrl-C
PROVIDER = ("gen_morphing_matrix.py", "gen_augconv.py")
TRAINED = {"pretrain.py": "pretrained", "train_with_ac.py": "with_ac", "train_no_ac.py": "no_ac"}


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__)
        return 2
    seconds, out, *options = sys.argv[1:]
    return run_steps(read_seconds(seconds), out, options)


def read_seconds(text: str) -> float:
    """Raises UserError for what is no number of seconds."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{text!r} is not a number of seconds: the first argument says when to "
                        "stop, such as 3600") from None


def run_steps(seconds: float, out: str, options: list[str]) -> int:
    """Runs the steps that are left for so many seconds; gives the status."""
    end = time.monotonic() + seconds
    p = parse(__doc__, options, step="paper")
    folder = Path(p.data_dir)
    control = prepare_control(folder)
    print(describe_plan(estimate_training(p, folder, control)), flush=True)
    for steps in list_stages(folder):
        running = []
        for step in steps:
            own = {"results_dir": out,
                   "data_dir": str(control if step == "train_no_ac.py" else folder)}
            words = [sys.executable, step, *select_options(step, options, own)]
            running.append(subprocess.Popen(words, cwd=ROOT))
        statuses = [wait_until(process, end) for process in running]
        failed = [step for step, status in zip(steps, statuses, strict=True)
                  if status not in (0, None)]
        if failed:
            print(f"{' and '.join(failed)} failed: correct what it says, then run the same "
                  "command again to continue")
            return 1
        if None in statuses:
            print("the time is over: run the same command again to continue")
            return 0
    print("all steps are done")
    return 0


def list_stages(folder: Path) -> list[list[str]]:
    """The steps that are to run one after the other, or beside each other."""
    stages = [["pretrain.py"]]
    if not (folder / "delivery" / MANIFEST).exists():
        stages += [[step] for step in PROVIDER]
    if torch.cuda.is_available():
        return [*stages, ["train_with_ac.py", "train_no_ac.py"]]
    return [*stages, ["train_with_ac.py"], ["train_no_ac.py"]]


def prepare_control(folder: Path) -> Path:
    """A folder for the control with the same delivery: a data folder has one step at a time."""
    control = folder / "control"
    (control / "developer").mkdir(parents=True, exist_ok=True)
    if not (control / "delivery").is_symlink():
        (control / "delivery").symlink_to("../delivery")
    return control


def describe_plan(seconds: dict[str, float]) -> str:
    """How long each training step still takes, and all of them."""
    each = ", ".join(f"{step.removesuffix('.py')} {duration(left)}"
                     for step, left in seconds.items())
    return f"about {each}; {duration(sum(seconds.values()))} one after the other"


def estimate_training(p: Parameters, folder: Path, control: Path) -> dict[str, float]:
    """Seconds that each training step still takes."""
    train = load_images(p, "train")
    epoch = len(train.labels) * measure_seconds_per_image(p, len(train.classes))
    found = {}
    for step, name in TRAINED.items():
        data = control if step == "train_no_ac.py" else folder
        found[step] = (p.epochs - count_epochs_done(data / "developer", name, p)) * epoch
    return found


def count_epochs_done(developer: Path, name: str, p: Parameters) -> int:
    """The epochs of a run that are in its checkpoint; all of them once it has left its record."""
    checkpoint = developer / f"{name}.checkpoint.pt"
    if checkpoint.exists():
        return len(read_tensors(checkpoint, "pass --restart to begin again")["curve"])
    return p.epochs if read_record(developer, name) is not None else 0


def measure_seconds_per_image(p: Parameters, classes: int) -> float:
    """Of training at these settings, from MEASURED_BATCHES of blank images."""
    count, shape = MEASURED_BATCHES * p.batch_size, image_shape(p)
    source = Source(torch.zeros(count, *shape), keep)
    with joined_processes(p) as context:
        examples = PreparedImages(source, torch.zeros(count, dtype=torch.int64), context)
        network = SplitNetwork(new_network(p, Model(p.model, classes, shape, p.dropout)), shape)
        network.to(context.device, memory_format=torch.channels_last)
        optimizer, scheduler = make_optimizer(network, p, p.weight_decay, MEASURED_BATCHES)
        forward = make_forward(network, context)
        for epoch in (1, 2):        # the first finds the fastest kernels
            began = time.perf_counter()
            train_epoch(forward, examples, p, epoch, optimizer, scheduler, context)
    return (time.perf_counter() - began) / count


def keep(images: torch.Tensor) -> torch.Tensor:
    """What is done to images before training here: nothing."""
    return images


def select_options(step: str, options: list[str], own: dict[str, str]) -> list[str]:
    """The options that a step uses, with those of `own` in place of what was given."""
    kept, is_replaced = [], False
    for word in options:
        if word.startswith("--"):
            is_replaced = word[2:].partition("=")[0] in own
        if not is_replaced:
            kept.append(word)
    for name, value in own.items():
        kept += [f"--{name}", value]
    return options_of(step, kept)


def wait_until(process: subprocess.Popen, end: float) -> int | None:
    """A step's exit status; None where it was stopped at `end`, with its checkpoint kept."""
    try:
        return process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return None


if __name__ == "__main__":
    run_command(main)
