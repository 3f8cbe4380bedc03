"""Trainings in passing: like those of the steps, but of a measurement, which keeps no files."""

import tempfile
from pathlib import Path

from torch import nn

from parameter import Parameters
from utils.devices import Context
from utils.examples import Data
from utils.records import Run
from utils.training import train


def train_in_passing(network: nn.Module, data: Data, p: Parameters, name: str,
                     weight_decay: float, context: Context) -> list[dict]:
    """The curve of a training like that of a step, which leaves no file. `name`: a key of RUNS."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), name, {"weight_decay": weight_decay}, {}, [])
        return train(network, data, p, run, context)
