"""The files that the steps hand to each other: written whole or not at all, checked when read.

A file is written under a temporary name and then renamed. A folder's `manifest.json` has the
SHA-256 of its files, what they are about, and an id of it all. A kill while files are renamed
leaves some that are not the manifest's: whoever reads them next says so, and names the command
that makes them again.
"""

import csv
import errno
import hashlib
import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError, is_out_of_memory, one_line, tolerated, warn

MANIFEST = "manifest.json"
TEMPORARY = ".partial"
FORMULA_STARTS = ("=", "+", "-", "@")                    # what a spreadsheet takes for a formula
Content = bytes | str | dict | Callable


def maker_of(path: Path) -> str:
    """The command that makes a file, or the files of a folder; for files of the steps' folders."""
    name, folder = path.name, path.parent.name
    if name.startswith(("pretrained_frozen.", "pretrained_frozen_")):
        return "pretrain.py --frozen_first_layer FILE"
    if name.startswith("pretrained.") or name == "first_layer.pt":
        return "pretrain.py"
    if name.startswith("with_ac."):
        return "train_with_ac.py"
    if name.startswith("no_ac."):
        return "train_no_ac.py"
    if name.startswith("no_ac_standardised."):
        return "train_no_ac.py --standardise"
    if name in ("provider", "morphing_matrix.pt", "inverse_matrix.pt", "current.json"):
        return "gen_morphing_matrix.py"
    if folder == "keys" or (path.parent.parent.name == "keys" and name == MANIFEST):
        return "gen_morphing_matrix.py"
    if folder == "queries" or path.parent.parent.name == "queries":
        return "morph_images.py"
    return "gen_augconv.py"


def crosses(path: Path) -> bool:
    """Whether a file, or a folder, goes from the provider to the developer: a delivery, a query."""
    is_of_a_key = path.parent.parent.name == "keys"
    return maker_of(path) in ("gen_augconv.py", "morph_images.py") and not is_of_a_key


def remedy(path: Path) -> str:
    """What the reader of a damaged file can do; only the provider can make what crosses."""
    command = maker_of(path)
    if crosses(path):
        return f"ask the provider for it again, or to run `python {command}` again"
    restart = "" if command.startswith("gen_") else " --restart"
    return f"run `python {command}{restart}` again"


def first_step(path: Path) -> str:
    """What the reader of a file that was never there can do."""
    command = maker_of(path)
    if not crosses(path):
        return f"run `python {command}` first"
    advice = f"ask the provider for it, or to run `python {command}` first"
    if command == "gen_augconv.py":
        return f"{advice}; --delivery names another folder"
    return f"{advice}; a query that came is put there"


def temporary(path: Path) -> Path:
    """The name under which a file is written before it is whole."""
    return path.with_name(path.name + TEMPORARY)


class _Writer:
    """A file for torch.save and NumPy that keeps the error of a write.

    The C++ writer of torch.save loses what write() raises, Ctrl-C too; NumPy would write into a
    real file past Python and lose the error's number.
    """

    def __init__(self, file):
        self.file = file
        self.error = None

    def write(self, data) -> int:
        try:
            if self.error is None:
                self.file.write(data)
        except BaseException as error:
            self.error = error
        return memoryview(data).nbytes

    def flush(self):
        pass


def write_temporary(path: Path, content: Content, mode: int = 0o666):
    """Writes what will be `path` under its temporary name, down to the disk.

    content: bytes, a text, a dictionary of tensors and plain values for torch.save, or a function
    that writes to what it is given, which has `write` and `flush` alone. Raises OSError, which
    names the file.
    """
    try:
        temporary(path).unlink(missing_ok=True)
        descriptor = os.open(temporary(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(descriptor, "wb") as file:
            writer = _Writer(file)
            if callable(content):
                content(writer)
            elif isinstance(content, dict):
                torch.save(content, writer)
            elif isinstance(content, str):
                writer.write(content.encode(errors="backslashreplace"))
            else:
                writer.write(content)
            if writer.error is not None:
                raise writer.error
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_alone(path: Path, content: Content, mode: int = 0o666):
    """Writes a file that is in no manifest, such as a result. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_temporary(path, content, mode)
        os.replace(temporary(path), path)
        _flush_names(path.parent)
    finally:
        temporary(path).unlink(missing_ok=True)


def write_array_header(file, shape: tuple, dtype: np.dtype):
    """The header of a .npy file, for rows that write_rows adds."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def write_rows(path: Path, first: int, rows: Tensor):
    """Writes rows of a .npy array, of which the header is written, from row `first` on.

    Not through a memory map, which a full disk would answer with a signal instead of an error.
    """
    rows = np.ascontiguousarray(rows.cpu().numpy())
    try:
        with open(temporary(path), "r+b") as file:       # buffered: a raw write may end early
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            file.seek(first * rows[:1].nbytes, os.SEEK_CUR)
            file.write(rows)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def to_csv(rows: list[list[str]]) -> str:
    """Rows of texts as CSV. A spreadsheet shows them as they are: formulas get an apostrophe, and
    what would begin another row or cannot be printed is escaped."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    for row in rows:
        table.writerow([_as_cell(value) for value in row])
    return text.getvalue()


def _as_cell(value: str) -> str:
    value = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value)
    return f"'{value}" if value.startswith(FORMULA_STARTS) else value


class Saving:
    """Saves files to one folder, together, its manifest last.

        with Saving(folder) as new:
            new.save("aug_conv.pt", {...})
            new.note(kappa=1)              # into the manifest

    An error in the block leaves the folder as it was. `secret`: only its owner may read it.
    `anew`: no file or value that was there before is valid any more; the files of the earlier
    manifest that are not saved again are deleted. Raises UserError if the manifest that is to be
    continued is damaged.

    Under torchrun only the first process enters the block. The others may use `folder`, to write
    their rows into a file that the first one is saving (write_rows).
    """

    def __init__(self, folder: Path, secret: bool = False, anew: bool = False):
        self.folder = Path(folder)
        self.secret = secret
        self.anew = anew
        self.mode = 0o600 if secret else 0o666
        self.names: list[str] = []
        self.values: dict = {}
        self.manifest: dict | None = None

    def __enter__(self):
        folder_mode = 0o700 if self.secret else 0o777
        self.folder.mkdir(mode=folder_mode, parents=True, exist_ok=True)
        if self.secret:
            keep_private(self.folder)
        self.old_files = self._find_old_files()
        self.before = {"files": {}} if self.anew else read_manifest(self.folder, missing_ok=True)
        self._remove_temporary_files()
        return self

    def _find_old_files(self) -> set[str] | None:
        """The names in the earlier manifest; None if it is damaged."""
        try:
            return set(read_manifest(self.folder, missing_ok=True)["files"])
        except UserError:
            return None

    def save(self, name: str, content: Content):
        """Writes a file, which takes its name when the block ends."""
        self._require_open()
        if name not in self.names:
            self.names.append(name)
        write_temporary(self.folder / name, content, self.mode)

    def note(self, **values):
        """Adds plain values to the manifest."""
        self._require_open()
        self.values |= values

    def _require_open(self):
        if self.manifest is not None:
            raise RuntimeError("the manifest is written: nothing can be added after prepare()")

    def prepare(self) -> dict:
        """Writes the manifest under its temporary name and returns it.

        After that, a full disk can stop nothing, and nothing can be added.
        """
        files = dict(self.before["files"])
        for name in self.names:
            files[name] = file_entry(temporary(self.folder / name), flush=True)
        manifest = self.before | self.values | {"files": files}
        manifest["id"] = _identify(manifest)
        write_temporary(self.folder / MANIFEST, json.dumps(manifest, indent=1), self.mode)
        self.manifest = manifest
        return manifest

    def __exit__(self, kind, error, traceback):
        try:
            if kind is None:
                if self.manifest is None:
                    self.prepare()
                for name in [*self.names, MANIFEST]:
                    os.replace(temporary(self.folder / name), self.folder / name)
                self._remove_old_files()
                _flush_names(self.folder)
        finally:
            self._remove_temporary_files()

    def _remove_temporary_files(self):
        for leftover in self.folder.glob(f"*{TEMPORARY}"):
            leftover.unlink()

    def _remove_old_files(self):
        """What an earlier manifest named and this one does not must not travel with the folder."""
        if not self.anew:
            return
        if self.old_files is None:
            self._warn_of_unknown_files()
            return
        for name in self.old_files - set(self.names):
            if Path(name).name == name:                  # in this folder, whatever a manifest says
                (self.folder / name).unlink(missing_ok=True)

    def _warn_of_unknown_files(self):
        """A damaged manifest does not say which files were its own: they are left, and named."""
        known = {*self.names, MANIFEST}
        others = [path.name for path in self.folder.iterdir() if path.name not in known]
        if others and not self.secret:
            warn(f"{self.folder} had a damaged {MANIFEST}, and also holds {', '.join(others)}: "
                 "delete what should not be handed over")


def keep_private(folder: Path):
    """Lets nobody but a folder's owner in; warns once if its file system cannot."""
    reason = "its file system keeps no modes"
    try:
        folder.chmod(0o700)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        reason = error.strerror
    if not is_private(folder):
        warn(f"{folder} can be read by others: {reason}")


def keep_out_of_git(folder: Path):
    """Lets git ignore all that is in a folder, wherever the folder is."""
    if not (folder / ".gitignore").exists():
        write_alone(folder / ".gitignore", "*\n", 0o600)


def is_private(folder: Path) -> bool:
    """Whether only its owner may read a folder."""
    return folder.stat().st_mode & 0o077 == 0


def _flush_names(folder: Path):
    """Makes renamed files last; Windows and some file systems have no such thing."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    with tolerated(f"{folder}: a power cut may undo the last files", errno.EINVAL):
        os.fsync(descriptor)
    os.close(descriptor)


def file_entry(path: Path, flush: bool = False) -> dict:
    """What a manifest has of a file: its SHA-256 and bytes. `flush`: it is to be on the disk."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        if flush:
            os.fsync(file.fileno())
        while block := file.read(1 << 20):
            sha256.update(block)
    return {"sha256": sha256.hexdigest(), "bytes": path.stat().st_size}


def _identify(manifest: dict) -> str:
    rest = {key: value for key, value in manifest.items() if key != "id"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path, missing_ok: bool = False) -> dict:
    """The manifest of a folder. Raises UserError if it is missing or damaged."""
    path = folder / MANIFEST
    is_developers = folder.name == "developer"           # whose files several steps write
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["id"] == _identify(manifest) and isinstance(manifest["files"], dict):
            return manifest
    except FileNotFoundError:
        if missing_ok:
            return {"files": {}}
        advice = "run `python pretrain.py` first" if is_developers else first_step(folder)
        raise UserError(f"{path} is missing: {advice}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    if is_developers:
        raise UserError(f"{path} is damaged: move {folder} away, and run the steps again that "
                        "write to it")
    raise UserError(f"{path} is damaged: {remedy(folder)}")


def verify(path: Path) -> Path:
    """The same path, of a file that is the one of its folder's manifest.

    Raises UserError if it is not, with the command that makes it.
    """
    known = read_manifest(path.parent, missing_ok=True)["files"].get(path.name)
    if not path.exists():
        if known is None:
            raise UserError(f"{path} is missing: {first_step(path)}")
        raise UserError(f"{path} is missing: {remedy(path)}")
    if known is None and not (path.parent / MANIFEST).exists():
        raise UserError(f"{path} came without its {MANIFEST}: {remedy(path)}")
    if known is None or not path.is_file() or known != file_entry(path):
        raise UserError(f"{path} is damaged, or not the file that belongs to "
                        f"{path.parent / MANIFEST}: {remedy(path)}")
    return path


def load(path: Path, build: Callable = dict):
    """What `build` makes of a file of tensors and plain values, checked against its manifest.

    Raises UserError if the file is missing, damaged, or nothing that `build` can use.
    """
    content = read_tensors(verify(path), remedy(path))
    return build_from(content, path, build, remedy(path))


def build_from(content: dict, path: Path, build: Callable, advice: str):
    """build(content); raises UserError, naming the file, where the content does not fit."""
    try:
        return build(content)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as wrong:
        reason = one_line(wrong)
        raise UserError(f"{path} is not as docs/artifacts.md describes it ({reason}): "
                        f"{advice}") from None


def load_array(path: Path, shape: tuple, dtype: str) -> Tensor:
    """A checked .npy file as a tensor that reads it from the disk: it need not fit in memory.

    Raises UserError if it is damaged, or not of this shape and dtype.
    """
    try:
        array = np.lib.format.open_memmap(verify(path), mode="r")       # nothing but .npy
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
    """A dictionary by torch.save, its checksums compared; code in it does not run.

    Weights from before PyTorch 1.6 have no checksums. Raises UserError if it is not a dictionary,
    or holds tensors that are not finite, or claim more entries than there are.
    """
    open(path, "rb").close()                             # or an OSError that tells why not
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:                           # whatever a hostile file leads to
        # An archive claims no more than it has; files of an earlier form may claim anything.
        if is_out_of_memory(error) and zipfile.is_zipfile(path):
            raise
        content = None
    if not isinstance(content, dict) or not _are_whole_and_finite(content):
        raise UserError(f"{path} is damaged, holds more than tensors and plain values, or is not "
                        f"finite: {advice}")
    return content


def _check_archive(path: Path):
    """Raises ValueError for an archive that claims more than it can hold, or whose sums differ."""
    with zipfile.ZipFile(path) as archive:
        claimed = sum(file.file_size for file in archive.infolist())
        if claimed > path.stat().st_size or archive.testzip() is not None:
            raise ValueError


def _are_whole_and_finite(content) -> bool:
    """Whether all tensors in nested values are finite, and have the entries that they claim."""
    if isinstance(content, Tensor):
        return _is_whole_and_finite(content)
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, (list, tuple)):
        return all(_are_whole_and_finite(value) for value in content)
    return True


def _is_whole_and_finite(tensor: Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes():
        return False                                     # such as one entry with a stride of 0
    if not tensor.is_floating_point():
        return True
    if tensor.ndim == 0:
        return bool(tensor.isfinite())
    return all(bool(rows.isfinite().all()) for rows in tensor.split(1024))
