"""The inference stage, the developer: predicts the classes of morphed images.

Reads data/queries/<name>/, Aug-Conv in data/delivery/, and a network of data/developer/: with_ac,
or pretrained, which needs no retraining behind an Aug-Conv whose channels are not shuffled. Writes
data/developer/predictions/<name>/.
"""

import csv
import io
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import torch
from tqdm import tqdm

from models.first_layer import BehindFirstLayer, find, fingerprint
from models.networks import build
from utils.artifacts import load, write_alone
from utils.cli import UserError, run_step, user_errors
from utils.delivery import Delivery, Query, query_folder, read_deliveries, read_query, restored
from utils.distributed import compute_dtype, processes
from utils.pictures import confusion_png, draw, predictions_png


def main(p):
    [delivery, *more] = read_deliveries(p)
    if more:
        raise UserError("one --delivery predicts: the one of the queries' key")
    query = read_query(query_folder(p), delivery)
    with processes(p) as device:
        network = assembled(p, delivery).to(device).eval()
        dtype, began, logits = compute_dtype(p, device), time.perf_counter(), []
        with torch.inference_mode(), torch.autocast(device.type, dtype,
                                                    enabled=dtype != torch.float32):
            for x in tqdm(query.images.split(p.batch_size), desc="predicting", leave=False,
                          disable=None):
                logits.append(network(restored(x.to(device), query.scale)).float().cpu())
    ...


if __name__ == "__main__":
    run_step(main, __doc__)
