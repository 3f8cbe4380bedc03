"""The files that the steps hand to each other: saved whole or not at all, checked when loaded.

A file is a dictionary of tensors and plain values by torch.save. Beside the files of a folder lies
`manifest.json` with the SHA-256 of each. A folder's new files are written under temporary names;
the renaming of the manifest makes them valid, all at once, and then they take their places.
"""

import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from utils.program import UserError

RUNS = {"pretrained": "pretrain.py", "with_ac": "train_with_ac.py", "no_ac": "train_no_ac.py",
        "no_ac_standardised": "train_no_ac.py --standardise"}
# Which step makes a file, and what is in it: for a tensor its dtype and number of dimensions.
# A key with a question mark may be absent.
ARTIFACTS = {
    **{f"{run}.pt": (step, {"network": dict, "model": str, "classes": int})
       for run, step in RUNS.items()},
    **{f"{run}.checkpoint.pt": (step, {"network": dict, "optimizer": dict, "scheduler": dict,
                                       "curve": list, "identity": dict})
       for run, step in RUNS.items()},
    **{f"{run}.json": (step, {}) for run, step in RUNS.items()},
    "first_layer.pt": ("pretrain.py", {"weight": (torch.float32, 4), "bias?": (torch.float32, 1),
                                       "stride": tuple, "padding": tuple, "dilation": tuple,
                                       "groups": int}),
    "morphing_matrix.pt": ("gen_morphing_matrix.py", {"core": (torch.float32, 2), "kappa": int}),
    "inverse_matrix.pt": ("gen_morphing_matrix.py", {"core": (torch.float32, 2), "kappa": int}),
    "channel_order.pt": ("gen_augconv.py", {"order": (torch.int64, 1)}),
    "aug_conv.pt": ("gen_augconv.py", {"weight": (torch.float32, 2), "bias?": (torch.float32, 1),
                                       "out_shape": tuple}),
    "morphed_train.pt": ("gen_augconv.py", {"images": (torch.float32, 2),
                                            "labels": (torch.int64, 1)}),
    "morphed_test.pt": ("gen_augconv.py", {"images": (torch.float32, 2),
                                           "labels": (torch.int64, 1)}),
}
MANIFEST, TEMPORARY = "manifest.json", ".partial"


class _Tap:
    """A file for torch.save that hashes what passes through.

    torch's C++ writer loses what write() raises, Ctrl-C too, so it is kept and raised afterwards.
    """

    def __init__(self, file):
        self.file, self.sha256, self.size, self.error = file, hashlib.sha256(), 0, None

    def write(self, data) -> int:
        size = memoryview(data).nbytes
        try:
            if self.error is None:
                self.file.write(data)
                self.sha256.update(data)
                self.size += size
        except BaseException as error:
            self.error = error
        return size

    def flush(self):
        pass


def _write(path: Path, fill: Callable, mode: int = 0o666) -> dict:
    """Has `fill` write what will be `path` under its temporary name, down to the disk; gives the
    manifest's entry. An OSError names the file."""
    try:
        descriptor = os.open(temporary(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(descriptor, "wb") as file:
            tap = _Tap(file)
            fill(tap)
            if tap.error is not None:
                raise tap.error
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    return {"sha256": tap.sha256.hexdigest(), "bytes": tap.size}


def temporary(path: Path) -> Path:
    return path.with_name(path.name + TEMPORARY)


def write_alone(path: Path, content: bytes | str | Callable):
    """A file that is in no manifest, such as a result; a function as `content` writes to it."""
    if isinstance(content, str):
        content = content.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(path, content if callable(content) else lambda file: file.write(content))
        os.replace(temporary(path), path)
    finally:
        temporary(path).unlink(missing_ok=True)


class Saving:
    """Saves to one folder, all or nothing.

        with Saving(folder) as new:
            new.save("aug_conv.pt", {...})
            new.about(kappa=1)          # into the manifest

    An error in the block leaves the folder as it was; a kill leaves either all of the old files or
    all of the new ones, some perhaps under their temporary names, where `load` finds them.
    `secret`: only its owner may read it. `anew`: no file or value that was there before is valid
    any more. Raises UserError where the manifest that is to be continued is damaged.
    """

    def __init__(self, folder: Path, secret: bool = False, anew: bool = False):
        self.folder, self.secret, self.anew = Path(folder), secret, anew
        self.new, self.info, self.dropped, self.prepared = {}, {}, [], False

    def __enter__(self):
        self.folder.mkdir(mode=0o700 if self.secret else 0o777, parents=True, exist_ok=True)
        if self.secret:
            self.folder.chmod(0o700)
        self.old = {"files": {}} if self.anew else read_manifest(self.folder, missing_ok=True)
        settle(self.folder)
        return self

    def _write(self, name: str, fill: Callable) -> dict:
        return _write(self.folder / name, fill, 0o600 if self.secret else 0o666)

    def save(self, name: str, content: dict):
        """Writes a dictionary of tensors and plain values."""
        self.new[name] = self._write(name, lambda tap: torch.save(content, tap))

    def write(self, name: str, content: bytes | str):
        """Writes a picture or a text."""
        data = content.encode() if isinstance(content, str) else content
        self.new[name] = self._write(name, lambda tap: tap.write(data))

    def about(self, **info):
        """Adds plain values to the manifest."""
        self.info |= info

    def drop(self, name: str):
        """Removes a file once the new ones are valid."""
        self.dropped.append(name)

    def prepare(self):
        """Writes the manifest; nothing is left to do then that a full disk could stop."""
        files = self.old["files"] | self.new
        manifest = self.old | self.info | {
            "files": {name: files[name] for name in files if name not in self.dropped}}
        text = json.dumps(manifest | {"sha256": _seal(manifest)}, indent=1).encode()
        self._write(MANIFEST, lambda tap: tap.write(text))
        self.prepared = True

    def __exit__(self, kind, error, traceback):
        try:
            if kind is None:
                if not self.prepared:
                    self.prepare()
                _sync(self.folder)
                for name in [MANIFEST, *self.new]:
                    os.replace(temporary(self.folder / name), self.folder / name)
                for name in self.dropped:
                    (self.folder / name).unlink(missing_ok=True)
                _sync(self.folder)
        finally:
            settle(self.folder)


def _sync(folder: Path):
    """The names of a folder, down to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def settle(folder: Path):
    """Ends what was interrupted: a temporary file takes its place if it is the one that the
    manifest tells of, and goes otherwise."""
    if int(os.environ.get("RANK", 0)) > 0:               # under torchrun the first process saves
        return
    for leftover in folder.glob(f"*{TEMPORARY}"):
        path, entry = leftover.with_suffix(""), None
        with suppress(UserError):
            entry = read_manifest(folder, missing_ok=True)["files"].get(path.name)
        if _is_entry(entry, leftover) and not _is_entry(entry, path):
            os.replace(leftover, path)
        else:
            leftover.unlink()


def read_manifest(folder: Path, missing_ok: bool = False) -> dict:
    """The manifest of a folder; raises UserError where it is missing or is not one.

    `missing_ok`: as long as nothing is there that it should tell of, it may be missing.
    """
    folder = Path(folder)
    path, wrong = folder / MANIFEST, "damaged"
    step = {"provider": "gen_morphing_matrix.py", "delivery": "gen_augconv.py"}.get(folder.name)
    try:
        manifest = json.loads(path.read_text())
        if manifest.pop("sha256") == _seal(manifest) and isinstance(manifest["files"], dict):
            return manifest
    except FileNotFoundError:
        if not any((folder / name).exists() for name in ARTIFACTS):
            if missing_ok:
                return {"files": {}}
            raise UserError(f"{path} is missing: run `python {step}` first") from None
        wrong = "missing"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(f"{path} is {wrong}: " + (
        f"run `python {step}` again" if step else
        f"move {folder} away, and run the steps again that write to it"))


def _seal(manifest: dict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _is_entry(entry, path: Path) -> bool:
    """Whether a file is the one of a manifest's entry."""
    if not isinstance(entry, dict) or not path.is_file():
        return False
    if entry.get("bytes") != path.stat().st_size:
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == entry.get("sha256")


def verified(path: Path) -> Path:
    """Where the file lies that a manifest has as `path`.

    Raises UserError, in one line with the command that makes it, where that file is missing or
    another one lies there.
    """
    path = Path(path)
    entry = read_manifest(path.parent, missing_ok=True)["files"].get(path.name)
    for place in (path, temporary(path)):                # the latter where a step was killed
        if _is_entry(entry, place):
            return place
    step = ARTIFACTS[path.name][0]
    if not path.exists() and entry is None:
        raise UserError(f"{path} is missing: run `python {step}` first")
    wrong = (f"is damaged, or not the file that belongs to {path.parent / MANIFEST}"
             if path.exists() else "is missing")
    raise UserError(f"{path} {wrong}: {_again(path)}")


def _again(path: Path) -> str:
    step = ARTIFACTS[path.name][0]
    return f"run `python {step}{'' if step.startswith('gen_') else ' --restart'}` again"


def load(path: Path) -> dict:
    """Loads an artifact onto the CPU, checked against the folder's manifest and ARTIFACTS.

    Only tensors and plain values are read (weights_only=True): code in a file does not run.

    Raises UserError, in one line with the command that makes the file, where it is missing, not
    the one of the manifest, or not of the documented form (keys, dtypes, dimensions, finite).
    """
    path = Path(path)
    content = read_checkpoint(verified(path), _again(path))
    for key, form in ARTIFACTS[path.name][1].items():
        if not _has_form(content, key, form):
            raise UserError(f"{path} is not of the documented form ({key} is missing, of another "
                            f"type, or not finite): {_again(path)}")
    return content


def _has_form(content, key, form) -> bool:
    if not isinstance(content, dict):
        return False
    if key.rstrip("?") not in content:
        return key.endswith("?")
    value = content[key.rstrip("?")]
    if isinstance(form, type):
        return isinstance(value, form)
    dtype, dimensions = form
    # With stride 0 few numbers could claim any shape: there must be as many in the file.
    return (isinstance(value, torch.Tensor) and value.layout == torch.strided
            and value.dtype == dtype and value.ndim == dimensions
            and 0 < value.nbytes <= value.untyped_storage().nbytes()
            and (dtype == torch.int64 or is_finite(value)))


def is_finite(x: torch.Tensor) -> bool:
    """Whether all entries are finite, without a mask as large as x."""
    return all(bool(block.isfinite().all()) for block in x.split(1024))


def same_form(a, b) -> bool:
    """Whether two nested values agree in types, keys, lengths, shapes and dtypes."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.shape == b.shape and a.dtype == b.dtype
    if isinstance(a, dict):
        return (isinstance(b, dict) and a.keys() == b.keys()
                and all(same_form(a[key], b[key]) for key in a))
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same_form, a, b))
    return type(a) is type(b)


def read_checkpoint(path: Path, remedy: str = "remove it") -> dict:
    """A dictionary by torch.save, unchecked; raises UserError where it is not one."""
    try:
        with zipfile.ZipFile(path) as archive:           # more than it can hold: a bomb
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:                                    # whatever a hostile file leads to
        raise UserError(f"{path} is damaged, or holds more than tensors and plain values: "
                        f"{remedy}") from None
