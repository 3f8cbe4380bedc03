"""Times the steps against the reference's algorithm, on the same machine and data: `make bench`.

Every measurement is a process of its own, so that its peak memory is its own, and the two sides
take turns, so that the machine's noise hits both. The figures are medians over the turns. Writes
bench/PROCESSOR.json and figures/growth-PROCESSOR.png to --output: a record for each processor.
"""

import argparse
import io
import json
import multiprocessing
import re
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch

from experiments import speed_report as report
from experiments.program import run_command
from experiments.speed_measures import CUDA, FULL, MEASURES, QUICK, Size
from utils.artifacts import write_alone
from utils.devices import joined_processes
from utils.errors import UserError
from utils.provenance import peak_memory, provenance
from utils.records import to_json


def main():
    arguments = parse_arguments()
    with joined_processes(FULL.parameters(arguments.device)) as context:
        is_cuda = context.device.type == "cuda"
    size = choose_size(arguments.quick, is_cuda)
    about = provenance(size.parameters(arguments.device))
    folder = arguments.output
    if folder is None and not arguments.quick:
        folder = Path("results")
    name = record_name(about["machine"])
    before = None
    if arguments.only:
        before = read_before((folder or Path("results")) / "bench" / f"{name}.json",
                             about["machine"], size)

    started = time.perf_counter()
    runs = measure_in_turns(arguments.only or list(MEASURES), arguments.runs, size,
                            arguments.device)
    seconds = time.perf_counter() - started
    if before is not None:
        about = join_provenance(before, about, arguments.only)
        runs, seconds = before["runs"] | runs, before["seconds"] + seconds
    found = find_medians(runs)
    rows = report.make_table(found, size, targets=not (arguments.quick or is_cuda))
    lines = report.measure_growth(found, size)
    print(report.as_text(rows))
    if folder is None:
        print("nothing is written, since --quick measures nothing; --output names a folder")
        return
    record = about | {"size": asdict(size), "seconds": round(seconds), "table": rows,
                      "growth": lines, "medians": found, "runs": runs}
    target = folder / "bench" / f"{name}.json"
    picture = folder / "figures" / f"growth-{name}.png"
    write_alone(target, to_json(record))
    write_alone(picture, report.draw_growth(lines, size.sides[-1]))
    print(f"{target} and {picture} are written")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small images and few of them: tries "
                        "the benchmark itself, its figures mean nothing")
    parser.add_argument("--only", choices=MEASURES, nargs="+", help="measure these again; all else "
                        "stays as the record of this machine has it")
    parser.add_argument("--runs", type=int, default=3, help="turns of each side (default: 3)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--output", type=Path,
                        help="folder to write to (default: results; with --quick: none)")
    return parser.parse_args()


def choose_size(is_quick: bool, is_cuda: bool) -> Size:
    if is_quick:
        return QUICK
    return CUDA if is_cuda else FULL


def record_name(machine: dict) -> str:
    """A file name for a machine, such as amd-epyc-avx512-2-cores, or that of its CUDA device."""
    words = f"{machine['processor']} {machine['capability']} {machine['cores']} cores"
    if machine["cuda"]:
        words = machine["cuda"][0]
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def read_before(path: Path, machine: dict, size: Size) -> dict:
    """The record that --only adds to.

    Raises UserError where it is missing, of another machine, or of another size.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: measure everything first, without --only")
    before = json.loads(path.read_text(encoding="utf-8"))
    if before["machine"] != machine:
        raise UserError(f"{path} is of another machine: measure everything, without --only")
    if before["size"] != json.loads(json.dumps(asdict(size))):
        raise UserError(f"{path} is of another size (--quick is one): measure everything, without "
                        "--only")
    return before


def join_provenance(before: dict, about: dict, names: list[str]) -> dict:
    """The record stays that of its whole run, and names what was measured again, with which code.
    """
    again = {"command": about["command"], "code": about["code"], "measurements": names}
    found = {key: before.get(key) for key in about}
    return found | {"measured_again": [*before.get("measured_again", []), again]}


def measure_in_turns(names: list[str], turns: int, size: Size, device: str) -> dict:
    """Results of each turn, by measurement and side."""
    runs = {name: {side: [] for side in MEASURES[name]} for name in names}
    for turn in range(1, turns + 1):
        for name, sides in runs.items():
            for side, results in sides.items():
                result = measure_in_own_process(name, side, size, device)
                results.append(result)
                numbers = ", ".join(f"{key} {value:g}" for key, value in result.items())
                print(f"{turn}/{turns} {name}, {side}: {numbers}", flush=True)
    return runs


def measure_in_own_process(*task) -> dict:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *task).result()


def measure(name: str, side: str, size: Size, device: str) -> dict:
    """One measurement, and the peak memory of the process that it has to itself."""
    p = size.parameters(device)
    with joined_processes(p) as context, redirect_stdout(io.StringIO()):
        result = MEASURES[name][side](size, p, context)
        result["peak_mb"] = peak_memory() / 1e6
        if context.device.type == "cuda":
            result["device_peak_mb"] = torch.cuda.max_memory_allocated(context.device) / 1e6
    return {key: float(f"{value:.5g}") for key, value in result.items()}


def find_medians(runs: dict) -> dict:
    """The medians over the turns, by measurement, side and key."""
    found = {}
    for name, sides in runs.items():
        found[name] = {}
        for side, results in sides.items():
            found[name][side] = {key: median(result[key] for result in results)
                                 for key in results[0]}
    return found


if __name__ == "__main__":
    run_command(main)
