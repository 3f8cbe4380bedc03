"""The five steps at the paper's settings, as far as a time allows: `make paper`.

    python -m experiments.paper_setting SECONDS OUT [--name value ...]

First says how long each step will take, from a measured stretch of an epoch. Stops after SECONDS
and keeps the checkpoints; run the same command again to continue. On a CUDA device the control
trains beside the Aug-Conv run, elsewhere after it. Options are those of the steps; each step gets
those that it uses. OUT gets the result of each training run: three small files.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from experiments.program import run_command
from images.datasets import image_shape
from mole.first_layer import SplitNetwork
from parameter import Parameters
from utils.devices import joined_processes
from utils.examples import Images, Source
from utils.provenance import ROOT
from utils.settings import options_of, parse
from utils.training import Model, duration, make_forward, make_optimizer, new_network, train_epoch

MEASURED_BATCHES = 20
SECONDS_TO_STOP = 60                # that a step has after Ctrl-C
CIFAR_IMAGES = 50_000
PROVIDER = ("gen_morphing_matrix.py", "gen_augconv.py")
TRAINED = ("pretrain.py", "train_with_ac.py", "train_no_ac.py")


def main(seconds: str, out: str, *options: str) -> int:
    end = time.monotonic() + float(seconds)
    p = parse(__doc__, list(options), step="paper")
    folder = Path(p.data_dir)
    control = prepare_control(folder)
    print(describe_plan(estimate_training(p)), flush=True)
    for steps in list_stages(folder):
        running = []
        for step in steps:
            own = {"results_dir": out,
                   "data_dir": str(control if step == "train_no_ac.py" else folder)}
            words = [sys.executable, step, *select_options(step, options, own)]
            running.append(subprocess.Popen(words, cwd=ROOT))
        statuses = [wait_until(process, end) for process in running]
        if any(status != 0 for status in statuses):
            print("stopped: run the same command again to continue")
            has_failed = any(statuses)                   # None, one that was stopped, has not
            return int(has_failed)
    print("all steps are done")
    return 0


def list_stages(folder: Path) -> list[list[str]]:
    """The steps that are to run one after the other, or beside each other."""
    stages = [["pretrain.py"]]
    if not (folder / "delivery" / "manifest.json").exists():
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


def describe_plan(seconds: float) -> str:
    """How long each training step takes, and all of them."""
    each = ", ".join(f"{step.removesuffix('.py')} {duration(seconds)}"
                     for step in TRAINED)
    return f"about {each}; {duration(len(TRAINED) * seconds)} one after the other"


def estimate_training(p: Parameters) -> float:
    """Seconds to train one network at these settings, from MEASURED_BATCHES of blank images."""
    count, shape = MEASURED_BATCHES * p.batch_size, image_shape(p)
    source = Source(torch.zeros(count, *shape), lambda x: x)
    with joined_processes(p) as context:
        examples = Images(source, torch.zeros(count, dtype=torch.int64), context)
        network = SplitNetwork(new_network(p, Model(p.model, 10, shape, p.dropout)), shape)
        network.to(context.device, memory_format=torch.channels_last)
        optimizer, scheduler = make_optimizer(network, p, p.weight_decay, MEASURED_BATCHES)
        forward = make_forward(network, context)
        for epoch in (1, 2):        # the first finds the fastest kernels
            began = time.perf_counter()
            train_epoch(forward, examples, p, epoch, optimizer, scheduler, context)
        seconds_per_image = (time.perf_counter() - began) / count
    return p.epochs * (p.train_limit or CIFAR_IMAGES) * seconds_per_image


def select_options(step: str, options: tuple[str, ...], own: dict[str, str]) -> list[str]:
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
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    run_command(lambda: main(*sys.argv[1:]))
