"""Times `make demo` after its installation, once for each seed: `python -m experiments.demo`.

Runs the commands of `make demo` in a folder of their own. --precision fp32 with the environment
variables of docs/speed.md is a processor without bfloat16. Writes demo/PROCESSOR.json to --output.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from experiments.program import make_parser, run_command
from experiments.speed import record_name
from parameter import Parameters
from utils.artifacts import write_alone
from utils.errors import UserError
from utils.provenance import ROOT, provenance
from utils.records import to_json

# With these a newer processor plays one that has AVX2 only.
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
SHOWN = ("plain network:", "with Aug-Conv:", "without Aug-Conv:", "accuracy ")
TRAINING = ("pretrain.py", "train_with_ac.py", "train_no_ac.py")


def main():
    arguments = parse_arguments()
    about = provenance(Parameters())
    commands = list_commands()
    runs = []
    for seed in arguments.seeds:
        run = time_demo(commands, seed, arguments.precision)
        runs.append(run)
        print(json.dumps(run), flush=True)
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]
    record = about | {"demo": {"seconds": median(run["seconds"] for run in runs),
                               "precision": runs[0]["precision"], "instructions": limits,
                               "runs": runs}}
    target = arguments.output / "demo" / f"{record_name(about['machine'])}.json"
    write_alone(target, to_json(record))
    print(f"{target} is written")


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--precision", default="auto", help="of training (default: auto)")
    return parser.parse_args()


def list_commands() -> list[list[str]]:
    """The words of each Python command that `make demo` runs, without the installation."""
    result = subprocess.run(["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True,
                            text=True, check=True)
    commands = []
    for line in result.stdout.splitlines():
        words = shlex.split(line)
        if words and words[0].endswith("python") and "pip" not in words and "venv" not in words:
            commands.append(words[1:])
    return commands


def time_demo(commands: list[list[str]], seed: int, precision: str) -> dict:
    """Seconds of all commands, and the accuracies that the three training steps record.

    Raises UserError where a command fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/demo"
        ends = []
        began = time.perf_counter()
        for command in commands:
            words = [word.replace("data/demo", data) for word in command]
            if "--preset" in words:
                words += ["--data_dir", data]
            if words[0] in TRAINING:
                words += ["--seed", str(seed), "--precision", precision]
            result = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True,
                                    text=True)
            if result.returncode:
                raise UserError(f"{shlex.join(words)} failed: {result.stderr.strip()}")
            ends += [line for line in result.stdout.splitlines() if line.startswith(SHOWN)]
        seconds = time.perf_counter() - began
        records = [json.loads(Path(data, "developer", f"{run}.json").read_text(encoding="utf-8"))
                   for run in ("pretrained", "with_ac", "no_ac")]
    accuracies = {record["run"]: record["accuracy"] for record in records}
    return {"seed": seed, "seconds": round(seconds, 1),
            "precision": records[0]["settings"]["precision"], **accuracies, "ends_with": ends[-4:]}


if __name__ == "__main__":
    run_command(main)
