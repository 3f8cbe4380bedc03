"""Files of another geometry or of other values than they must have, and who reads which file."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from tests.damage import change


def _narrower(network: dict) -> dict:
    name = next(iter(network))
    return network | {name: network[name][1:]}


def _momentum(optimizer: dict) -> dict:
    optimizer["state"][3]["momentum_buffer"] = torch.zeros(2)
    return optimizer


LAYER, CORE, INVERSE = ("developer/first_layer.pt", "provider/morphing_matrix.pt",
                        "provider/inverse_matrix.pt")
AUG_CONV, MORPHED, LABELS, MANIFEST = (
    "delivery/aug_conv.pt", "delivery/morphed_train.npy", "delivery/labels_train.npy",
    "delivery/manifest.json")
QUERY, QUERIES = "queries/queries/morphed.npy", "queries/queries/manifest.json"
CHECKPOINT, WITH_AC = "developer/pretrained.checkpoint.pt", "developer/with_ac.pt"

# What is changed in a file, with a manifest that vouches for it; the step that reads it must refuse
# it, and name the file.
MISFITS: list[tuple[str, Callable, str]] = [(file, partial(change, **values), script) for (
    file, script, values) in [
    (LAYER, "gen_augconv.py", dict(weight=torch.zeros(64, 4, 3, 3))),
    (LAYER, "gen_augconv.py", dict(weight=torch.zeros(64, 3, 30, 30))),
    (LAYER, "gen_augconv.py", dict(weight=lambda w: w.double())),
    (LAYER, "gen_augconv.py", dict(weight=lambda w: w / 0)),
    (LAYER, "gen_augconv.py", dict(weight=torch.zeros(1).expand(10**6, 3, 10**4, 10**4))),
    (LAYER, "gen_augconv.py", dict(weight=torch.zeros(2, 3, 3, 3).to_sparse())),
    (LAYER, "gen_augconv.py", dict(stride=(0, 0))),
    (LAYER, "gen_augconv.py", dict(stride=("1", "1"))),
    (LAYER, "gen_augconv.py", dict(padding=(-1, 1))),
    (LAYER, "gen_augconv.py", dict(padding=(10**15, 10**15))),
    (LAYER, "gen_augconv.py", dict(dilation=(1, 1, 1))),
    (LAYER, "gen_augconv.py", dict(groups=7)),
    (LAYER, "gen_augconv.py", dict(groups=0)),
    (LAYER, "gen_augconv.py", dict(bias="none")),
    (LAYER, "gen_augconv.py", dict(bias=torch.zeros(3))),
    (LAYER, "gen_augconv.py", dict(mean=(0.5,))),
    (LAYER, "gen_augconv.py", dict(std=(0.2, 0.0, 0.2))),
    (LAYER, "gen_augconv.py", dict(mean=(float("nan"), 0.5, 0.5))),
    (CORE, "gen_augconv.py", dict(core=torch.eye(96))),
    (CORE, "gen_augconv.py", dict(core=torch.ones(192, 100))),
    (CORE, "gen_augconv.py", dict(kappa=2)),
    (CORE, "gen_augconv.py", dict(kappa=0)),
    (CORE, "gen_augconv.py", dict(kappa="1")),
    (CORE, "gen_augconv.py", dict(tile=4)),
    (CORE, "gen_augconv.py", dict(tile=-8)),
    (INVERSE, "gen_augconv.py", dict(core=torch.eye(96))),
    (INVERSE, "gen_augconv.py", dict(core=torch.eye(192))),
    (INVERSE, "gen_augconv.py", dict(kappa=2)),
    (AUG_CONV, "train_with_ac.py", dict(weight=torch.zeros(192, 1024), out_shape=(64, 4, 4))),
    (AUG_CONV, "train_with_ac.py", dict(weight=torch.zeros(192, 1024))),
    (AUG_CONV, "train_with_ac.py", dict(weight=torch.zeros(100, 4096))),
    (AUG_CONV, "train_with_ac.py", dict(weight=lambda w: w.double())),
    (AUG_CONV, "train_with_ac.py", dict(weight=torch.zeros(192, 64, 8, 8), step=(1, 1))),
    (AUG_CONV, "train_with_ac.py", dict(out_shape=(64, 8, "8"))),
    (AUG_CONV, "train_with_ac.py", dict(step=None)),
    (AUG_CONV, "train_with_ac.py", dict(bias=torch.zeros(3))),
    (AUG_CONV, "train_with_ac.py", dict(bias=[])),
    (MORPHED, "train_no_ac.py", dict(array=np.zeros((64, 100), np.float32))),
    (MORPHED, "train_no_ac.py", dict(array=np.zeros((10, 192), np.float32))),
    (MORPHED, "train_no_ac.py", dict(array=np.zeros((0, 192), np.float32))),
    (MORPHED, "train_no_ac.py", dict(array=np.full((64, 192), np.nan, np.float32))),
    (MORPHED, "train_with_ac.py", dict(array=np.asfortranarray)),
    (MORPHED, "train_with_ac.py", dict(array=lambda a: a.astype(">f4"))),
    (MORPHED, "train_with_ac.py", dict(array=lambda a: a.astype(np.float16))),
    (MORPHED, "train_with_ac.py", dict(array=lambda a: a.astype(np.float64))),
    (MORPHED, "train_with_ac.py", dict(array=lambda a: a.view([("x", "<f4")]))),
    (MORPHED, "train_with_ac.py", dict(array=lambda a: a.astype("S8"))),
    (LABELS, "train_no_ac.py", dict(array=np.zeros(3, np.int64))),
    (LABELS, "train_no_ac.py", dict(array=np.full(64, 10))),
    (LABELS, "train_with_ac.py", dict(array=np.full(64, -1))),
    (LABELS, "train_with_ac.py", dict(array=np.zeros(64, np.int32))),
    (LABELS, "train_with_ac.py", dict(array=np.zeros((64, 1), np.int64))),
    (MANIFEST, "train_no_ac.py", dict(shape=[3, 8])),
    (MANIFEST, "train_no_ac.py", dict(shape=[3, "8", 8])),
    (MANIFEST, "train_no_ac.py", dict(shape=[3, -8, -8])),
    (MANIFEST, "train_no_ac.py", dict(shape=[192, 1, 1])),
    (MANIFEST, "train_no_ac.py", dict(shape=[3, 10**9, 10**9])),
    (MANIFEST, "train_no_ac.py", dict(image_padding=-1)),
    (MANIFEST, "train_no_ac.py", dict(image_padding=4)),
    (MANIFEST, "train_no_ac.py", dict(classes=10)),
    (MANIFEST, "train_no_ac.py", dict(classes=["one"])),
    (MANIFEST, "train_no_ac.py", dict(classes=["one", 2])),
    (MANIFEST, "train_no_ac.py", dict(dataset=None)),
    (MANIFEST, "train_no_ac.py", dict(kappa=5)),
    (MANIFEST, "train_no_ac.py", dict(tile=-4)),
    (MANIFEST, "train_no_ac.py", dict(mean=[0.5])),
    (MANIFEST, "train_no_ac.py", dict(mean=0.5)),
    (MANIFEST, "train_no_ac.py", dict(mean=[10**400] * 3)),
    (MANIFEST, "train_no_ac.py", dict(std=[0.2, 0, 0.2])),
    (MANIFEST, "train_no_ac.py", dict(scale=0)),
    (MANIFEST, "train_no_ac.py", dict(scale="1")),
    (MANIFEST, "train_no_ac.py", dict(scale=10**400)),
    (MANIFEST, "train_no_ac.py", dict(train_images=-1)),
    (MANIFEST, "train_no_ac.py", dict(delivery_dtype="object")),
    (MANIFEST, "train_no_ac.py", dict(shuffle_channels="no")),
    (MANIFEST, "train_no_ac.py", dict(files=[])),
    (MANIFEST, "train_with_ac.py", dict(files={"aug_conv.pt": 1})),
    (MANIFEST, "train_with_ac.py", dict(out_shape=None)),
    (QUERY, "predict.py", dict(array=lambda a: a[:3])),
    (QUERY, "predict.py", dict(array=np.asfortranarray)),
    (QUERY, "predict.py", dict(array=lambda a: a * np.nan)),
    (QUERY, "predict.py", dict(array=lambda a: a.astype(np.float16))),
    ("queries/queries/labels.npy", "predict.py", dict(array=lambda a: a + 10)),
    ("queries/queries/labels.npy", "predict.py", dict(array=lambda a: a[1:])),
    (QUERIES, "predict.py", dict(names=[])),
    (QUERIES, "predict.py", dict(names=[1, 2])),
    (QUERIES, "predict.py", dict(names=None)),
    (QUERIES, "predict.py", dict(scale=float("inf"))),
    (QUERIES, "predict.py", dict(scale=10**400)),
    (QUERIES, "predict.py", dict(shape=[3, 0, 0])),
    (QUERIES, "predict.py", dict(files=None)),
    (WITH_AC, "predict.py", dict(network=_narrower)),
    (WITH_AC, "predict.py", dict(network=None)),
    (WITH_AC, "predict.py", dict(network=lambda state: state | {"more": torch.zeros(1)})),
    (WITH_AC, "predict.py", dict(model={})),
    (WITH_AC, "predict.py", dict(model=[])),
    (WITH_AC, "predict.py", dict(model=lambda m: m | {"name": "vgg13"})),
    (WITH_AC, "predict.py", dict(model=lambda m: m | {"name": 5})),
    (WITH_AC, "predict.py", dict(model=lambda m: m | {"shape": (3, 16, 16)})),
    (WITH_AC, "predict.py", dict(model=lambda m: m | {"shape": None})),
    (WITH_AC, "predict.py", dict(model=lambda m: m | {"classes": 3})),
    (WITH_AC, "predict.py", dict(behind={"deliveries": []})),
    (WITH_AC, "predict.py", dict(behind=None)),
    (CHECKPOINT, "pretrain.py", dict(network=_narrower)),
    (CHECKPOINT, "pretrain.py", dict(optimizer=_momentum)),
    (CHECKPOINT, "pretrain.py", dict(optimizer={})),
    (CHECKPOINT, "pretrain.py", dict(scheduler={"step": 1})),
    (CHECKPOINT, "pretrain.py", dict(scheduler=lambda state: state | {"step": 1})),
    (CHECKPOINT, "pretrain.py", dict(curve=[1])),
    (CHECKPOINT, "pretrain.py", dict(curve=None)),
    (CHECKPOINT, "pretrain.py", dict(identity=None)),
    (CHECKPOINT, "pretrain.py", dict(identity=lambda old: old | {"lr": torch.zeros(2)})),
]]

# Each file, and a step that reads it in a data folder where all have run.
READERS = [(LAYER, "gen_augconv.py"), (CORE, "gen_augconv.py"), (INVERSE, "gen_augconv.py"),
           (CORE, "morph_images.py"),
           (AUG_CONV, "train_with_ac.py --restart"), (MORPHED, "train_with_ac.py --restart"),
           (LABELS, "train_no_ac.py --restart"),
           ("delivery/morphed_test.npy", "train_no_ac.py --restart"),
           ("delivery/labels_test.npy", "predict.py --name test"),
           (MANIFEST, "train_no_ac.py"), (MANIFEST, "morph_images.py"),
           ("developer/manifest.json", "gen_augconv.py"),
           ("developer/pretrained.pt", "pretrain.py"), ("developer/pretrained.json", "pretrain.py"),
           (LAYER, "pretrain.py"), (WITH_AC, "train_with_ac.py"),
           ("developer/no_ac.json", "train_no_ac.py"), (WITH_AC, "predict.py"),
           (QUERY, "predict.py"), ("queries/queries/labels.npy", "predict.py"),
           (QUERIES, "predict.py"), (AUG_CONV, "predict.py")]
