"""Times the steps against the reference's algorithm, on the same machine and data: `make bench`.

Every measurement is a process of its own, so that its peak memory is its own, and the two sides
take turns, so that the machine's noise hits both. The figures are medians over the turns. Images
are random pixels: how long a step takes does not depend on what they show.
Writes bench.json and figures/growth.png to --output.
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
from experiments.speed_measures import CUDA, FULL, MEASURES, QUICK, Size
from utils.artifacts import write_alone
from utils.devices import processes
from utils.provenance import peak_memory, provenance
from utils.records import to_json


def measure(name: str, side: str, size: Size, device: str) -> dict:
    """One measurement, and the peak memory of the process that it has to itself."""
    p = size.parameters(device)
    with processes(p) as where, redirect_stdout(io.StringIO()):
        result = MEASURES[name][side](size, p, where)
        result["peak_mb"] = peak_memory() / 1e6
        if where.type == "cuda":
            result["device_peak_mb"] = torch.cuda.max_memory_allocated(where) / 1e6
    return {key: float(f"{value:.5g}") for key, value in result.items()}


def in_own_process(*task) -> dict:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *task).result()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small images and few of them: tries "
                        "the benchmark itself, its figures mean nothing")
    parser.add_argument("--only", choices=MEASURES, nargs="+", help="measure these anew; all else "
                        "stays as the record has it, which must be of this machine")
    parser.add_argument("--runs", type=int, default=3, help="turns of each side (default: 3)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--output", type=Path, default=Path("results"),
                        help="folder to write to (default: results)")
    arguments = parser.parse_args()
    p = FULL.parameters(arguments.device)
    with processes(p) as device:
        cuda = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    size = QUICK if arguments.quick else CUDA if cuda else FULL
    runs = {name: {side: [] for side in sides} for name, sides in MEASURES.items()
            if not arguments.only or name in arguments.only}
    started = time.perf_counter()
    for turn in range(1, arguments.runs + 1):
        for name, sides in runs.items():
            for side, results in sides.items():
                results.append(in_own_process(name, side, size, arguments.device))
                print(f"{turn}/{arguments.runs} {name}, {side}: " + ", ".join(
                    f"{key} {value:g}" for key, value in results[-1].items()), flush=True)
    suffix = "-" + re.sub(r"\W+", "-", cuda).lower() if cuda else ""
    target = arguments.output / f"bench{suffix}.json"
    about, seconds = provenance(p), time.perf_counter() - started
    if arguments.only:
        before = json.loads(target.read_text(encoding="utf-8"))
        if before["machine"] != about["machine"]:
            raise SystemExit(f"{target} is of another machine: measure all of it anew")
        runs, seconds = before["runs"] | runs, before["seconds"] + seconds
        about["measured_before"] = {key: before[key] for key in ("command", "code")}
    found = {name: {side: {key: median(result[key] for result in results) for key in results[0]}
                    for side, results in sides.items()} for name, sides in runs.items()}
    rows = report.table(found, size, targets=not (arguments.quick or cuda))
    lines = report.growth(found, size)
    record = about | {"size": asdict(size), "seconds": round(seconds), "table": rows,
                      "growth": lines, "medians": found, "runs": runs}
    picture = arguments.output / "figures" / f"growth{suffix}.png"
    write_alone(target, to_json(record))
    write_alone(picture, report.growth_png(lines, size.sides[-1]))
    print(report.as_text(rows), f"{target} and {picture} are written", sep="\n")


if __name__ == "__main__":
    main()
