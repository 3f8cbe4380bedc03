"""The files that the steps hand to each other: written whole or not at all, checked when read.

A folder's `manifest.json` has the SHA-256 of its files, what they are about, and an id of it all.
A kill while files take their places leaves some that are not the manifest's: who reads them next
says so, and names the command that makes them again.
"""

import errno
import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.settings import UserError, tolerated, warn

RUNS = {"pretrained": "pretrain.py", "pretrained_frozen": "pretrain.py --frozen_first_layer FILE",
        "with_ac": "train_with_ac.py", "no_ac": "train_no_ac.py",
        "no_ac_standardised": "train_no_ac.py --standardise"}
# Which step makes a file, or the files of a folder; all others are gen_augconv.py's.
MAKERS = {f"{run}{suffix}": step for run, step in RUNS.items()
          for suffix in (".pt", ".checkpoint.pt", ".json")} | {
    "first_layer.pt": "pretrain.py", "morphing_matrix.pt": "gen_morphing_matrix.py",
    "inverse_matrix.pt": "gen_morphing_matrix.py", "provider": "gen_morphing_matrix.py",
    "queries": "morph_images.py", "morphed.npy": "morph_images.py", "labels.npy": "morph_images.py"}
MANIFEST, TEMPORARY = "manifest.json", ".partial"


def maker(path: Path) -> str:
    return MAKERS.get(path.name) or MAKERS.get(path.parent.name, "gen_augconv.py")


def remedy(path: Path) -> str:
    again = "" if maker(path).startswith(("gen_", "morph_")) else " --restart"
    return f"run `python {maker(path)}{again}` again"


def temporary(path: Path) -> Path:
    return path.with_name(path.name + TEMPORARY)


class _Writer:
    """A file for torch.save, whose C++ writer loses what write() raises, Ctrl-C too, and for NumPy,
    which would write into a real file past Python and lose the error's number."""

    def __init__(self, file):
        self.file, self.error = file, None

    def write(self, data) -> int:
        try:
            if self.error is None:
                self.file.write(data)
        except BaseException as error:
            self.error = error
        return memoryview(data).nbytes

    def flush(self):
        pass


def write_temporary(path: Path, content: bytes | str | dict | Callable, mode: int = 0o666):
    """Writes what will be `path` under its temporary name, down to the disk: bytes, a text, tensors
    and plain values by torch.save, or what a function writes. An OSError names the file."""
    try:
        temporary(path).unlink(missing_ok=True)
        descriptor = os.open(temporary(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(descriptor, "wb") as file:
            writer = _Writer(file)
            if callable(content):
                content(writer)
            elif isinstance(content, dict):
                torch.save(content, writer)
            else:
                writer.write(content.encode() if isinstance(content, str) else content)
            if writer.error is not None:
                raise writer.error
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_alone(path: Path, content: bytes | str | dict | Callable, mode: int = 0o666):
    """A file that is in no manifest, such as a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_temporary(path, content, mode)
        os.replace(temporary(path), path)
        _flush_names(path.parent)
    finally:
        temporary(path).unlink(missing_ok=True)


def write_rows(path: Path, first: int, rows: Tensor):
    """Rows of a .npy array of which the header is written, from `first` on; not through a memory
    map, which a full disk would answer with a signal instead of an error."""
    rows = np.ascontiguousarray(rows.cpu().numpy())
    try:
        with open(temporary(path), "r+b") as file:       # buffered: a raw write may end early
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            file.seek(first * rows[:1].nbytes, os.SEEK_CUR)
            file.write(rows)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


class Saving:
    """Saves files to one folder, together, its manifest last.

        with Saving(folder) as new:
            new.save("aug_conv.pt", {...})
            new.about(kappa=1)          # into the manifest

    An error in the block leaves the folder as it was. `secret`: only its owner may read it.
    `anew`: no file or value that was there before is valid any more. Raises UserError where the
    manifest that is to be continued is damaged.
    """

    def __init__(self, folder: Path, secret: bool = False, anew: bool = False):
        self.folder, self.anew, self.secret = Path(folder), anew, secret
        self.mode, self.names, self.info, self.manifest = 0o600 if secret else 0o666, {}, {}, None

    def __enter__(self):
        self.folder.mkdir(mode=0o700 if self.secret else 0o777, parents=True, exist_ok=True)
        if self.secret:
            keep_private(self.folder)
        self.old = {"files": {}} if self.anew else manifest_of(self.folder, missing_ok=True)
        self._clean()
        return self

    def save(self, name: str, content: bytes | str | dict | Callable):
        self.names[name] = None
        write_temporary(self.folder / name, content, self.mode)

    def about(self, **info):
        """Adds plain values to the manifest."""
        self.info |= info

    def prepare(self) -> dict:
        """Writes the manifest beside its place and gives it; a full disk can then stop nothing."""
        files = self.old["files"] | {name: digest(temporary(self.folder / name), flush=True)
                                     for name in self.names}
        self.manifest = self.old | self.info | {"files": files}
        self.manifest["id"] = _id(self.manifest)
        write_temporary(self.folder / MANIFEST, json.dumps(self.manifest, indent=1), self.mode)
        return self.manifest

    def __exit__(self, kind, error, traceback):
        try:
            if kind is None:
                if self.manifest is None:
                    self.prepare()
                for name in [*self.names, MANIFEST]:
                    os.replace(temporary(self.folder / name), self.folder / name)
                _flush_names(self.folder)
        finally:
            self._clean()

    def _clean(self):
        for leftover in self.folder.glob(f"*{TEMPORARY}"):
            leftover.unlink()


def keep_private(folder: Path):
    """Lets nobody but a folder's owner in; says so where its file system cannot."""
    with tolerated(f"{folder} can be read by others", errno.EPERM):
        folder.chmod(0o700)
    if not is_private(folder):
        warn(f"{folder} can be read by others: its file system keeps no modes")


def is_private(folder: Path) -> bool:
    return folder.stat().st_mode & 0o077 == 0


def _flush_names(folder: Path):
    descriptor = os.open(folder, os.O_RDONLY)
    with tolerated(f"{folder}: a power cut may undo the last files", errno.EINVAL):
        os.fsync(descriptor)
    os.close(descriptor)


def digest(path: Path, flush: bool = False) -> dict:
    """What a manifest has of a file: its SHA-256 and bytes. `flush`: it is to be on the disk."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        if flush:
            os.fsync(file.fileno())
        while block := file.read(1 << 20):
            sha256.update(block)
    return {"sha256": sha256.hexdigest(), "bytes": path.stat().st_size}


def _id(manifest: dict) -> str:
    rest = {key: value for key, value in manifest.items() if key != "id"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def manifest_of(folder: Path, missing_ok: bool = False) -> dict:
    """The manifest of a folder; raises UserError where it is missing or is not one."""
    path = folder / MANIFEST
    step = None if folder.name == "developer" else maker(folder)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["id"] == _id(manifest) and isinstance(manifest["files"], dict):
            return manifest
    except FileNotFoundError:
        if missing_ok:
            return {"files": {}}
        raise UserError(f"{path} is missing: run `python {step}` first") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(f"{path} is damaged: " + (
        f"run `python {step}` again" if step else
        f"move {folder} away, and run the steps again that write to it"))


def verified(path: Path) -> Path:
    """The same path, of a file that is the one of its folder's manifest; otherwise raises UserError
    in one line with the command that makes it."""
    known = manifest_of(path.parent, missing_ok=True)["files"].get(path.name)
    if known is None and not path.exists():
        raise UserError(f"{path} is missing: run `python {maker(path)}` first")
    if known is None or not path.is_file() or known != digest(path):
        wrong = ("is missing" if not path.exists() else
                 f"is damaged, or not the file that belongs to {path.parent / MANIFEST}"
                 if (path.parent / MANIFEST).exists() else f"came without its {MANIFEST}")
        raise UserError(f"{path} {wrong}: {remedy(path)}")
    return path


def load(path: Path, build: Callable = dict):
    """What `build` makes of a file of tensors and plain values, checked against its manifest.

    Raises UserError where the file is missing, damaged, or nothing that `build` can use.
    """
    content = read_tensors(verified(path), remedy(path))
    try:
        return build(content)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as wrong:
        raise UserError(f"{path} is not of the documented form ("
                        f"{' '.join(str(wrong).split())[:100]}): {remedy(path)}") from None


def load_array(path: Path, shape: tuple, dtype: str) -> Tensor:
    """A checked .npy file as a tensor that reads it where it lies: it need not fit in memory.
    Raises UserError where it is damaged, or not of this shape and dtype."""
    try:
        array = np.lib.format.open_memmap(verified(path), mode="r")     # nothing but .npy
    except (OSError, UserError):
        raise
    except Exception:                                    # whatever a hostile header leads to
        array = np.empty(0)
    if array.shape != tuple(shape) or array.dtype != dtype or not array.flags.c_contiguous:
        raise UserError(f"{path} is not an array {tuple(shape)} of {dtype}: {remedy(path)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                  # nothing is written to it
        return torch.from_numpy(array)


def read_tensors(path: Path, advice: str) -> dict:
    """A dictionary by torch.save, its checksums compared (weights from before PyTorch 1.6 have
    none); code in it does not run (weights_only). Raises UserError where it is not one, or holds
    tensors that are not finite, or claim more numbers than there are."""
    open(path, "rb").close()                             # or an OSError that tells why not
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:       # more than it can hold: a bomb
                if (sum(file.file_size for file in archive.infolist()) > path.stat().st_size
                        or archive.testzip() is not None):
                    raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:                                    # whatever a hostile file leads to
        content = None
    if not isinstance(content, dict) or not _is_plain(content):
        raise UserError(f"{path} is damaged, holds more than tensors and plain values, or is not "
                        f"finite: {advice}")
    return content


def _is_plain(content) -> bool:
    """Whether the tensors in nested values are finite, and as large as they claim (stride 0)."""
    if isinstance(content, Tensor):
        return (content.layout == torch.strided
                and content.nbytes <= content.untyped_storage().nbytes()
                and (not content.is_floating_point() or content.ndim == 0 or all(
                    bool(rows.isfinite().all()) for rows in content.split(1024))))
    values = content.values() if isinstance(content, dict) else content
    return not isinstance(content, (dict, list, tuple)) or all(map(_is_plain, values))
