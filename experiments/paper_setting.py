"""The five steps at the paper's settings, as far as a time allows: `make paper`.

    python -m experiments.paper_setting SECONDS OUT [--name value ...]

Says first how long it will take, from a measured stretch of an epoch. Stops after SECONDS, with
checkpoints kept; the same command goes on. The control trains beside the Aug-Conv run on a CUDA
device, and after it elsewhere. Options are those of the steps, each given to the steps that use it.
OUT gets the result of each run: three small files.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from images.datasets import image_shape
from parameter import Parameters
from utils.devices import compute_dtype, processes
from utils.provenance import ROOT
from utils.settings import options_of, parse
from utils.training import (
    Data,
    logits_of,
    new_network,
    optimizer_and_schedule,
    to_device,
    train_epoch,
)

MEASURED, WAIT = 20, 60             # steps that are timed; seconds that a step has to stop


def main(seconds: str, out: str, *options: str):
    end = time.monotonic() + float(seconds)
    p = parse(__doc__, list(options), step="paper")
    folder = Path(p.data_dir)
    print(f"about {estimate(p) / 3600:.2g} hours in all on this machine: {p.epochs} epochs of "
          f"{p.model}, three times", flush=True)
    control = folder / "control"    # a folder of its own: a data folder has one step at a time
    (control / "developer").mkdir(parents=True, exist_ok=True)
    if not (control / "delivery").is_symlink():
        (control / "delivery").symlink_to("../delivery")
    delivered = (folder / "delivery" / "manifest.json").exists()
    stages = [["pretrain.py"], *([] if delivered else [["gen_morphing_matrix.py"],
                                                       ["gen_augconv.py"]])]
    last = ["train_with_ac.py", "train_no_ac.py"]
    stages += [last] if torch.cuda.is_available() else [[step] for step in last]
    for stage in stages:
        running = [subprocess.Popen([sys.executable, step, *own(step, options, {
            "results_dir": out, "data_dir": str(control if step == "train_no_ac.py" else folder)})],
            cwd=ROOT) for step in stage]
        done = [finished(process, end) for process in running]
        if any(status != 0 for status in done):
            print("stopped: the same command goes on")
            return int(any(done))       # None, one that was stopped, is no failure
    print("all steps are done")
    return 0


def estimate(p: Parameters) -> float:
    """Seconds for three networks at these settings, from MEASURED steps on blank images."""
    count, shape = MEASURED * p.batch_size, image_shape(p)
    data = Data(torch.zeros(count, *shape), torch.zeros(count, dtype=torch.int64),
                torch.zeros(0), torch.zeros(0), lambda x: x)
    with processes(p) as device:
        network, _ = new_network(p, 10, shape)
        network.to(device, memory_format=torch.channels_last)
        optimizer, scheduler = optimizer_and_schedule(network, p, 0, MEASURED)
        data = to_device(data, device)
        forward = logits_of(network, data.prepare, compute_dtype(p, device), device)
        for _ in range(2):          # the first finds the fastest kernels
            began = time.perf_counter()
            train_epoch(forward, data, p, 1, optimizer, scheduler, device)
        images = p.train_limit or 50_000
        return 3 * p.epochs * images / count * (time.perf_counter() - began)


def own(step: str, options: tuple[str, ...], also: dict[str, str]) -> list[str]:
    """The options that a step uses, those of `also` in the place of its own."""
    rest, dropped = [], False
    for word in options:
        dropped = word[2:].partition("=")[0] in also if word.startswith("--") else dropped
        rest += [] if dropped else [word]
    return options_of(step, [*rest, *(word for name, value in also.items()
                                      for word in (f"--{name}", value))])


def finished(process: subprocess.Popen, end: float) -> int | None:
    """A step's exit status, or None where it was stopped at `end`, with its checkpoint kept."""
    try:
        return process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
