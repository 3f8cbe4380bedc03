"""What can happen to the files of a data folder, and how to see that nothing else did."""

import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from tests.steps import STEPS, TINY, Result, killed_before, run
from utils.artifacts import Saving
from utils.delivery import identifier

SEED = "918273645546372819"             # a seed that appears nowhere by chance
SETTINGS = (*TINY, "--schedule", "onecycle", "--morph_seed", SEED)
TRAINING = {"pretrain.py": "pretrained", "train_with_ac.py": "with_ac", "train_no_ac.py": "no_ac"}


def make_stages(folder: Path) -> dict[str, Path]:
    """The data folder as each step finds it, by the step's name, and as all leave it (`end`).

    `unfinished`: pretrain.py was killed in its second epoch. `results`: what the steps leave
    elsewhere, with all that they have printed.
    """
    data, results, stages = folder / "data", folder / "results", {}
    data.mkdir(parents=True)
    results.mkdir()
    for script in STEPS:
        stages[script] = shutil.copytree(data, folder / script.removesuffix(".py"))
        result = run(script, *SETTINGS, "--data_dir", data, "--results_dir", results)
        assert result.status == 0, result
        (results / f"{script}.log").write_text(result.out + result.err)
    unfinished = folder / "unfinished"
    killed = run("pretrain.py", *SETTINGS, "--data_dir", unfinished,
                 before=killed_before("replace", 3))
    assert killed.status == -signal.SIGKILL
    with Saving(unfinished / "developer"):               # cleans what the kill has left
        pass
    return stages | {"end": data, "unfinished": unfinished, "results": results}


def refused(result: Result, *words: str):
    """Whether a step ended with one line that holds the words, and nothing else."""
    assert result.status == 1, result
    assert len(result.message.splitlines()) == 1, result.err
    assert all(word in result.message for word in words), result.message
    return True


def same(data: Path, stages: dict, script: str) -> bool:
    """Whether a step has left what it leaves when nothing disturbs it."""
    after = [*STEPS, "end"][STEPS.index(script) + 1]
    assert contents(data) == contents(stages[after])
    return True


def snapshot(folder: Path) -> dict:
    """Size, time and mode of each file: equal where nothing was touched."""
    states = {file: file.lstat() for file in folder.rglob("*")
              if file.name != ".lock" and not file.is_dir()}
    return {str(file.relative_to(folder)): (s.st_size, s.st_mtime_ns, s.st_mode)
            for file, s in states.items()}


def contents(folder: Path) -> dict:
    """What the files of a data folder say but for times and commands.

    Fails where a file is not the one of its manifest, or something temporary is left.
    """
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        assert not name.endswith(".partial"), f"{name} is left"
        if file.suffix in (".pt", ".png"):
            found[name] = digest(file)
        elif file.name == "manifest.json":
            manifest = json.loads(file.read_text())
            for entry in file.parent.iterdir():
                # The order of an older delivery's channels, once there is another core.
                if entry != file and (entry.name in manifest["files"]
                                      or entry.name != "channel_order.pt"):
                    assert manifest["files"][entry.name]["sha256"] == digest(entry), entry
            found[name] = {k: v for k, v in manifest.items() if k not in ("files", "sha256")}
            found[name]["files"] = sorted(manifest["files"])
        elif file.suffix == ".json":
            result = json.loads(file.read_text())
            for epoch in result["curve"]:
                del epoch["seconds"], epoch["train_seconds"]
            found[name] = {k: v for k, v in result.items() if k not in ("seconds", "command")}
    return found


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Code:
    """Unpickled without care, it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w')",)


def truncate(path: Path, marker: Path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path, marker: Path):
    path.write_bytes(b"")


def flip(path: Path, marker: Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def text(path: Path, marker: Path):
    path.write_text("not what you expect\n")


def remove(path: Path, marker: Path):
    path.unlink()


def code(path: Path, marker: Path):
    torch.save({"network": Code(marker), "weight": Code(marker)}, path)


def bare_pickle(path: Path, marker: Path):
    path.write_bytes(pickle.dumps(Code(marker)))


def bomb(path: Path, marker: Path):
    """The same content and more, compressed to a fraction of what it unpacks to."""
    plain = io.BytesIO()
    torch.save(torch.load(path, weights_only=True) | {"more": torch.zeros(10**6)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


# By name: what is done to a file, and whether the manifest is then made to agree with it.
DAMAGE: dict[str, tuple[Callable, bool]] = {
    "truncated": (truncate, False), "empty": (empty, False), "one bit flipped": (flip, False),
    "text": (text, False), "removed": (remove, False), "code": (code, False),
    "truncated, vouched for": (truncate, True), "text, vouched for": (text, True),
    "code, vouched for": (code, True), "pickle, vouched for": (bare_pickle, True),
    "compressed, vouched for": (bomb, True)}


def vouch(path: Path):
    """Makes the manifest agree with a file, and the delivery with its manifest."""
    file = path.parent / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"][path.name] = {"sha256": digest(path), "bytes": path.stat().st_size}
    if "delivery" in manifest:
        manifest["delivery"] = identifier(manifest["files"])
    file.write_text(json.dumps(sealed(manifest)))


def sealed(manifest: dict) -> dict:
    """A manifest with the checksum of the rest of it."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True)
    return rest | {"sha256": hashlib.sha256(text.encode()).hexdigest()}


def change(path: Path, **values):
    """Other values in a file of tensors, or in a manifest, that vouches for itself."""
    if path.suffix == ".json":
        manifest = json.loads(path.read_text()) | values
        path.write_text(json.dumps(sealed(manifest)))
        return
    content = torch.load(path, weights_only=True)
    for key, value in values.items():
        content[key] = value(content[key]) if callable(value) else value
    torch.save(content, path)
    vouch(path)


def _narrower(network: dict) -> dict:
    name = next(iter(network))
    return network | {name: network[name][1:]}


def _momentum(optimizer: dict) -> dict:
    optimizer["state"][3]["momentum_buffer"] = torch.zeros(2)
    return optimizer


LAYER, CORE, INVERSE = ("developer/first_layer.pt", "provider/morphing_matrix.pt",
                        "provider/inverse_matrix.pt")
AUG_CONV, MORPHED, MANIFEST = ("delivery/aug_conv.pt", "delivery/morphed_train.pt",
                               "delivery/manifest.json")
# Files of another geometry or of other values, each with a manifest that vouches for them: what is
# changed, the step that reads it, and the file that it must name.
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
    (CORE, "gen_augconv.py", dict(core=torch.eye(96))),
    (CORE, "gen_augconv.py", dict(core=torch.ones(192, 100))),
    (CORE, "gen_augconv.py", dict(core=lambda core: core.T + 1)),
    (CORE, "gen_augconv.py", dict(kappa=2)),
    (CORE, "gen_augconv.py", dict(kappa=0)),
    (CORE, "gen_augconv.py", dict(kappa="1")),
    (INVERSE, "gen_augconv.py", dict(core=torch.eye(96))),
    (INVERSE, "gen_augconv.py", dict(core=torch.eye(192))),
    (INVERSE, "gen_augconv.py", dict(kappa=2)),
    (AUG_CONV, "train_with_ac.py", dict(weight=torch.zeros(192, 1024), out_shape=(64, 4, 4))),
    (AUG_CONV, "train_with_ac.py", dict(weight=torch.zeros(192, 1024))),
    (AUG_CONV, "train_with_ac.py", dict(weight=torch.zeros(100, 4096))),
    (AUG_CONV, "train_with_ac.py", dict(out_shape=(64, 8, "8"))),
    (AUG_CONV, "train_with_ac.py", dict(bias=torch.zeros(3))),
    (AUG_CONV, "train_with_ac.py", dict(bias=[])),
    (MORPHED, "train_no_ac.py", dict(images=torch.zeros(64, 100))),
    (MORPHED, "train_no_ac.py", dict(images=torch.zeros(10, 192))),
    (MORPHED, "train_no_ac.py", dict(images=torch.zeros(0, 192))),
    (MORPHED, "train_no_ac.py", dict(images=torch.full((64, 192), torch.nan))),
    (MORPHED, "train_no_ac.py", dict(labels=torch.zeros(3, dtype=torch.int64))),
    (MORPHED, "train_no_ac.py", dict(labels=torch.full((64,), 10))),
    (MORPHED, "train_with_ac.py", dict(labels=torch.full((64,), -1))),
    (MANIFEST, "train_no_ac.py", dict(shape=[3, 8])),
    (MANIFEST, "train_no_ac.py", dict(shape=[3, "8", 8])),
    (MANIFEST, "train_no_ac.py", dict(shape=[3, -8, -8])),
    (MANIFEST, "train_no_ac.py", dict(shape=[192, 1, 1])),
    (MANIFEST, "train_no_ac.py", dict(image_padding=-1)),
    (MANIFEST, "train_no_ac.py", dict(classes=10)),
    (MANIFEST, "train_no_ac.py", dict(classes=["one"])),
    (MANIFEST, "train_no_ac.py", dict(dataset="\\frac{$")),
    (MANIFEST, "train_no_ac.py", dict(kappa=5)),
    (MANIFEST, "train_no_ac.py", dict(delivery="0" * 64)),
    (MANIFEST, "train_no_ac.py", dict(files=[])),
    (MANIFEST, "train_with_ac.py", dict(files={"aug_conv.pt": 1})),
    (MANIFEST, "train_with_ac.py", dict(out_shape=[64, 8, 4])),
    (MANIFEST, "train_with_ac.py", dict(out_shape=None)),
    ("developer/pretrained.checkpoint.pt", "pretrain.py", dict(network=_narrower)),
    ("developer/pretrained.checkpoint.pt", "pretrain.py", dict(optimizer=_momentum)),
    ("developer/pretrained.checkpoint.pt", "pretrain.py", dict(optimizer={})),
    ("developer/pretrained.checkpoint.pt", "pretrain.py", dict(scheduler={"step": 1})),
    ("developer/pretrained.checkpoint.pt", "pretrain.py", dict(curve=[1])),
    ("developer/pretrained.checkpoint.pt", "pretrain.py", dict(
        identity=lambda old: old | {"lr": torch.zeros(2)})),
]]

# Each file, and a step that reads it in a data folder where all have run.
READERS = [("developer/first_layer.pt", "gen_augconv.py"),
           ("provider/morphing_matrix.pt", "gen_augconv.py"),
           ("provider/inverse_matrix.pt", "gen_augconv.py"),
           ("delivery/aug_conv.pt", "train_with_ac.py --restart"),
           ("delivery/morphed_train.pt", "train_with_ac.py --restart"),
           ("delivery/morphed_test.pt", "train_no_ac.py --restart"),
           ("delivery/manifest.json", "train_no_ac.py"),
           ("developer/manifest.json", "gen_augconv.py"),
           ("developer/pretrained.pt", "pretrain.py"),
           ("developer/pretrained.json", "pretrain.py"),
           ("developer/first_layer.pt", "pretrain.py"),
           ("developer/with_ac.pt", "train_with_ac.py"),
           ("developer/no_ac.json", "train_no_ac.py")]
