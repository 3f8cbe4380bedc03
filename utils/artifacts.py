"""The files that the steps hand to each other: saved whole or not at all, checked when loaded.

A file is a dictionary of tensors and plain values by torch.save. Beside the files of a folder lies
`manifest.json` with the SHA-256 of each; a folder's new files take the place of the old ones
together, once all are written.
"""

import hashlib
import io
import json
import os
import pickle
from pathlib import Path

import torch

from utils.program import UserError

# Which step makes a file, and what is in it: for a tensor its dtype and number of dimensions.
ARTIFACTS = {
    "pretrained.pt": ("pretrain.py", {"network": dict, "model": str, "classes": int}),
    "first_layer.pt": ("pretrain.py", {"weight": (torch.float32, 4), "stride": tuple,
                                       "padding": tuple, "dilation": tuple, "groups": int}),
    **{f"{run}.checkpoint.pt": (step, {"network": dict, "optimizer": dict, "scheduler": dict,
                                       "curve": list, "identity": dict})
       for run, step in {"pretrained": "pretrain.py --restart",
                         "with_ac": "train_with_ac.py --restart",
                         "no_ac": "train_no_ac.py --restart",
                         "no_ac_standardised": "train_no_ac.py --standardise --restart"}.items()},
    "morphing_matrix.pt": ("gen_morphing_matrix.py", {"core": (torch.float32, 2), "kappa": int}),
    "inverse_matrix.pt": ("gen_morphing_matrix.py", {"core": (torch.float32, 2), "kappa": int}),
    "channel_order.pt": ("gen_augconv.py", {"order": (torch.int64, 1)}),
    "aug_conv.pt": ("gen_augconv.py", {"weight": (torch.float32, 2), "out_shape": tuple}),
    "morphed_train.pt": ("gen_augconv.py", {"images": (torch.float32, 2),
                                            "labels": (torch.int64, 1)}),
    "morphed_test.pt": ("gen_augconv.py", {"images": (torch.float32, 2),
                                           "labels": (torch.int64, 1)}),
}
TEMPORARY = ".partial"


class _Tap:
    """A file for torch.save that hashes what passes through.

    An error of write() would be lost in torch's C++ writer, so it is kept and raised afterwards.
    """

    def __init__(self, file):
        self.file, self.sha256, self.size, self.error = file, hashlib.sha256(), 0, None

    def write(self, data) -> int:
        size = memoryview(data).nbytes
        if self.error is None:
            try:
                self.file.write(data)
                self.sha256.update(data)
                self.size += size
            except OSError as error:
                self.error = error
        return size

    def flush(self):
        pass


class Saving:
    """Saves to one folder, all or nothing.

        with Saving(folder) as new:
            new.save("aug_conv.pt", {...})
            new.about(kappa=1)          # into the manifest

    Each file is written beside its place and flushed to the disk. At the end of the block the
    files are renamed, the manifest last; an error before that leaves the folder as it was.
    `secret`: only its owner may read it.
    """

    def __init__(self, folder: Path, secret: bool = False):
        self.folder, self.secret, self.new, self.info = Path(folder), secret, {}, {}

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.secret:
            self.folder.chmod(0o700)
        for leftover in self.folder.glob(f"*{TEMPORARY}"):       # of a run that was killed
            leftover.unlink()
        return self

    def _write(self, name: str, fill) -> dict:
        path = self.folder / (name + TEMPORARY)
        mode = 0o600 if self.secret else 0o666
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            tap = _Tap(file)
            fill(tap)
            if tap.error is not None:
                raise tap.error
            file.flush()
            os.fsync(file.fileno())
        return {"sha256": tap.sha256.hexdigest(), "bytes": tap.size}

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

    def __exit__(self, kind, error, traceback):
        try:
            if kind is None:
                manifest = read_manifest(self.folder, missing_ok=True)
                manifest |= self.info
                manifest["files"] = manifest.get("files", {}) | self.new
                text = json.dumps(manifest, indent=1).encode()
                self._write("manifest.json", lambda tap: tap.write(text))
                for name in [*self.new, "manifest.json"]:
                    os.replace(self.folder / (name + TEMPORARY), self.folder / name)
                descriptor = os.open(self.folder, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
        finally:
            for leftover in self.folder.glob(f"*{TEMPORARY}"):
                leftover.unlink()


def read_manifest(folder: Path, missing_ok: bool = False) -> dict:
    """The manifest of a folder; raises UserError where it is missing or is not one."""
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        assert isinstance(manifest["files"], dict)
        return manifest
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise UserError(f"{path} is missing: {_remedy(Path(folder).name)}") from None
    except (ValueError, KeyError, TypeError, AssertionError):
        if missing_ok:                       # it is about to be written anew
            return {}
        raise UserError(f"{path} is damaged: {_remedy(Path(folder).name)}") from None


def _remedy(name: str) -> str:
    by_folder = {"delivery": "gen_augconv.py", "provider": "gen_morphing_matrix.py",
                 "developer": "pretrain.py"}
    return f"run `python {by_folder.get(name) or ARTIFACTS[name][0]}` first"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load(path: Path) -> dict:
    """Loads an artifact onto the CPU, checked against the folder's manifest and ARTIFACTS.

    Only tensors and plain values are read (weights_only=True): code in a file does not run.

    Raises UserError, in one line with the command that makes the file, where it is missing, not
    the one of the manifest, or not of the documented form (keys, dtypes, dimensions, finite).
    """
    path = Path(path)
    remedy = _remedy(path.name)
    if not path.is_file():
        raise UserError(f"{path} is missing: {remedy}")
    entry = read_manifest(path.parent)["files"].get(path.name)
    if not isinstance(entry, dict) or entry.get("sha256") != _sha256(path):
        raise UserError(f"{path} is damaged, or not the file that belongs to "
                        f"{path.parent / 'manifest.json'}: {remedy.replace('first', 'again')}")
    content = read_checkpoint(path)
    for key, form in ARTIFACTS[path.name][1].items():
        if not _has_form(content, key, form):
            raise UserError(f"{path} is not of the documented form ({key} is missing, of another "
                            f"type, or not finite): {remedy.replace('first', 'again')}")
    return content


def _has_form(content, key, form) -> bool:
    if not isinstance(content, dict) or key not in content:
        return False
    value = content[key]
    if isinstance(form, type):
        return isinstance(value, form)
    dtype, dimensions = form
    return (isinstance(value, torch.Tensor) and value.dtype == dtype and value.ndim == dimensions
            and value.numel() > 0 and (dtype == torch.int64 or is_finite(value)))


def is_finite(x: torch.Tensor) -> bool:
    """Whether all entries are finite, without a mask as large as x."""
    return all(bool(block.isfinite().all()) for block in x.split(1024))


def read_checkpoint(path: Path) -> dict:
    """A dictionary by torch.save, unchecked; raises UserError where it is not one."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError,
            AttributeError, io.UnsupportedOperation):
        raise UserError(f"{path} is damaged, or holds more than tensors and plain values: "
                        "remove it and run the step that makes it again") from None
