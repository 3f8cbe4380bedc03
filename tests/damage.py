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
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from images import shapes
from tests.steps import INFERENCE, STEPS, TINY, Result, call, killed_before, run

SEED = "918273645546372819"             # a seed that appears nowhere by chance
SETTINGS = (*TINY, "--schedule", "onecycle", "--morph_seed", SEED)
TRAINING = {"pretrain.py": "pretrained", "train_with_ac.py": "with_ac", "train_no_ac.py": "no_ac"}
ALL = (*STEPS, *INFERENCE)
CACHE = "decoded"                       # decoded images: made again wherever it does not fit
COMPARED = (".pt", ".npy", ".png")      # files that are equal byte for byte
OF_THE_MOMENT = ("seconds", "command", "peak_mb", "code", "load")      # of a record


def step(script: str, data: Path, *arguments, settings: tuple = (),
         before: Callable[[], object] | None = None) -> Result:
    """Runs a step on a data folder of make_stages, with SETTINGS and those that it uses of more.

    In a process of its own where something is done to it before.
    """
    command = (script, "--data_dir", data, *arguments)
    settings = with_settings(data, settings)
    if before is None:
        return call(*command, settings=settings)
    return run(*command, settings=settings, before=before)


def with_settings(data: Path, more: tuple = ()) -> tuple:
    return (*SETTINGS, "--images", data / "images", *more)


def make_stages(folder: Path) -> dict[str, Path]:
    """The data folder as each step finds it, by the step's name, and as all leave it (`end`).

    `unfinished`: pretrain.py was killed in its second epoch. `results`: what the steps leave
    elsewhere, with all that they have printed. data/images are the queries'.
    """
    data, results, stages = folder / "data", folder / "results", {}
    results.mkdir(parents=True)
    for i, (image, label) in enumerate(zip(*shapes.draw(6, 9, seed=3), strict=True)):
        place = data / "images" / shapes.CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i}.png")
    unfinished = shutil.copytree(data, folder / "unfinished")
    for script in ALL:
        stages[script] = shutil.copytree(data, folder / script.removesuffix(".py"))
        result = step(script, data, settings=("--results_dir", results))
        assert result.status == 0, result
        (results / f"{script}.log").write_text(result.out + result.err)
    killed = step("pretrain.py", unfinished, before=killed_before(
        "rename", "pretrained.checkpoint.pt", nth=2))
    assert killed.status == -signal.SIGKILL
    return stages | {"end": data, "unfinished": unfinished, "results": results}


def refused(result: Result, *words: str):
    """Whether a step ended with one line that holds the words, and nothing else."""
    return ended_in_one_line(result, 1, *words)


def stopped(result: Result, *words: str):
    """Whether Ctrl-C ended a step, by its signal, with one line that holds the words."""
    return ended_in_one_line(result, -signal.SIGINT, "stopped", *words)


def ended_in_one_line(result: Result, status: int, *words: str):
    assert result.status == status, result
    assert len(result.message.splitlines()) == 1, result.err
    assert all(word in result.message for word in words), result.message
    return True


def same(data: Path, stages: dict, script: str, but: str | None = None) -> bool:
    """Whether a step has left what it leaves when nothing disturbs it, but for one file."""
    expected = contents(stages[[*ALL, "end"][ALL.index(script) + 1]])
    expected.pop(but, None)
    found = contents(data)
    different = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
    assert not different, different
    return True


def snapshot(folder: Path) -> dict:
    """Size, time and mode of each file but the cache's: equal where nothing was touched."""
    states = {file: file.lstat() for file in folder.rglob("*") if not file.is_dir()
              and file.name != ".lock" and CACHE not in file.relative_to(folder).parts}
    return {str(file.relative_to(folder)): (s.st_size, s.st_mtime_ns, s.st_mode)
            for file, s in states.items()}


def contents(folder: Path) -> dict:
    """What the files of a data folder say but for times, commands and the cache.

    Fails where a file is not the one of its manifest, or something temporary is left.
    """
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        assert not name.endswith(".partial"), f"{name} is left"
        if name.startswith(CACHE):
            continue
        if file.suffix in COMPARED or file.name.startswith(("predictions.", "names-")):
            found[name] = digest(file)
        elif file.name == "manifest.json":
            manifest = json.loads(file.read_text())
            assert manifest == sealed(manifest), name
            for entry, known in manifest["files"].items():
                assert known == entry_of(file.parent / entry), entry
            found[name] = {k: v for k, v in manifest.items() if k not in ("files", "id")}
            found[name]["files"] = sorted(manifest["files"])
        elif file.name == "current.json":
            found[name] = json.loads(file.read_text())
        elif file.suffix == ".json":
            record = json.loads(file.read_text())
            for epoch in record["curve"]:
                del epoch["seconds"], epoch["train_seconds"]
            found[name] = {k: v for k, v in record.items() if k not in OF_THE_MOMENT}
    return found


def key_folder(data: Path) -> Path:
    """The folder of the provider's current key."""
    provider = data / "provider"
    return provider / "keys" / json.loads((provider / "current.json").read_text())["key"]


def place(data: Path, file: str) -> Path:
    """A file of a data folder; KEY/ stands for the folder of the current key."""
    if file.startswith("KEY/"):
        return key_folder(data) / file.removeprefix("KEY/")
    return data / file


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def entry_of(file: Path) -> dict:
    """What a manifest says of a file."""
    return {"sha256": digest(file), "bytes": file.stat().st_size}


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
    """In a file of tensors, or in a .npy file of objects."""
    if path.suffix == ".npy":
        np.save(path, np.array([Code(marker)], dtype=object), allow_pickle=True)
    else:
        torch.save({"network": Code(marker), "weight": Code(marker)}, path)


def archive(path: Path, marker: Path):
    """An archive of arrays with code, which np.load would open under any name."""
    with open(path, "wb") as file:
        np.savez(file, images=np.array([Code(marker)], dtype=object))


def bare_pickle(path: Path, marker: Path):
    path.write_bytes(pickle.dumps(Code(marker)))


def bomb(path: Path, marker: Path):
    """A file of tensors, compressed to a fraction of what it unpacks to."""
    plain = io.BytesIO()
    torch.save({"weight": torch.zeros(10**6)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


# By name: what is done to a file, and whether the manifest is then made to agree with it.
DAMAGE: dict[str, tuple[Callable, bool]] = {
    "truncated": (truncate, False), "empty": (empty, False), "one bit flipped": (flip, False),
    "text": (text, False), "removed": (remove, False), "code": (code, False),
    "truncated, vouched for": (truncate, True), "text, vouched for": (text, True),
    "empty, vouched for": (empty, True), "code, vouched for": (code, True),
    "pickle, vouched for": (bare_pickle, True), "archive, vouched for": (archive, True),
    "compressed, vouched for": (bomb, True)}


def vouch(path: Path):
    """Makes the manifest of its folder agree with a file, where it is in one."""
    file = path.parent / "manifest.json"
    if not file.exists() or path.suffix == ".json":
        return
    manifest = json.loads(file.read_text())
    if path.name in manifest["files"]:
        manifest["files"][path.name] = entry_of(path)
        file.write_text(json.dumps(sealed(manifest)))


def sealed(manifest: dict) -> dict:
    """A manifest with the id of the rest of it."""
    rest = {key: value for key, value in manifest.items() if key != "id"}
    text = json.dumps(rest, sort_keys=True)
    return rest | {"id": hashlib.sha256(text.encode()).hexdigest()}


def change(path: Path, **values):
    """Puts other values into a file of tensors, an array (`array`), or a manifest.

    A function is given the old value. The manifest vouches for the new ones.
    """
    if path.suffix == ".json":
        content = json.loads(path.read_text())
    elif path.suffix == ".npy":
        content = {"array": np.load(path)}
    else:
        content = torch.load(path, weights_only=True)
    for name, value in values.items():
        content[name] = value(content[name]) if callable(value) else value
    if path.suffix == ".json":
        path.write_text(json.dumps(sealed(content)))
    elif path.suffix == ".npy":
        np.save(path, content["array"])
    else:
        torch.save(content, path)
    vouch(path)
