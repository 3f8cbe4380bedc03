"""A folder of images: which of its files are meant, and what their classes are."""

import os
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError

# What NAS boxes, archivers, viewers and scripts leave, beside names that start with a dot.
SIDE_FOLDERS = {"@eadir", "@recently-snapshot", "@recycle", "@tmp", "#recycle", "#snapshot",
                "$recycle.bin", "recycled", "recycler", "lost+found", "system volume information",
                "__macosx", "__pycache__"}
SIDE_FILES = {".aae", ".csv", ".db", ".htm", ".html", ".info", ".ini", ".ipynb", ".json", ".jsonl",
              ".lnk", ".log", ".mat", ".md", ".md5", ".npy", ".npz", ".pkl", ".pt", ".py", ".rst",
              ".sha256", ".toml", ".tsv", ".txt", ".url", ".xml", ".xmp", ".yaml", ".yml"}


class Tree(NamedTuple):
    """The images of root/<class>/**.

    files: in order of class, then path. labels: the class of each file, a place in `classes`.
    skipped: how many side files and side folders were left out. loose: how many other files lie in
    root itself, in no class.
    """

    files: list[Path]
    labels: list[int]
    classes: list[str]
    skipped: int
    loose: int


class Entries(NamedTuple):
    """What lies directly in a folder, and how many side files and side folders were left out."""

    folders: list[Path]
    files: list[Path]
    skipped: int


def shown(path: str | os.PathLike) -> str:
    """A path or name of any bytes on one printable line; bytes that are no text are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def find_images(root: Path) -> Tree:
    """The images of root/<class>/**, sorted; files that lie in root itself are skipped.

    Raises UserError if there are fewer than 2 classes, if a class has no images, and for folders
    that list_images refuses.
    """
    top = list_entries(root)
    broken_links = [file for file in top.files if not file.exists()]     # each may be a class
    files, labels, classes = [], [], []
    skipped = top.skipped
    for folder in sorted(top.folders + broken_links):
        images, left_out = list_images(folder)
        if not images:
            raise UserError(f"{shown(folder)} holds no images (skipped: {left_out}): remove the "
                            "folder, or put images into it")
        files += images
        labels += [len(classes)] * len(images)
        classes.append(folder.name)
        skipped += left_out
    if len(classes) < 2:
        raise UserError(f"{shown(root)} holds {len(classes)} classes (folders of images), but at "
                        "least 2 are needed")
    return Tree(files, labels, classes, skipped, len(top.files) - len(broken_links))


def class_names(root: Path) -> list[str]:
    """The names of the folders in root, sorted. Raises UserError if root cannot be read."""
    return sorted(folder.name for folder in list_entries(root).folders)


def list_images(folder: Path) -> tuple[list[Path], int]:
    """The images of a folder at any depth, sorted, and how many side files and folders it skipped.

    Links are followed. Raises UserError for a folder that cannot be read or leads back to itself.
    """
    images, skipped = [], 0
    to_visit = [(folder, set())]
    while to_visit:
        here, above = to_visit.pop()
        entries = list_entries(here)
        state = here.stat()
        identity = (state.st_dev, state.st_ino)
        if identity in above:
            raise UserError(f"{shown(here)} leads back to a folder that holds it: remove the link")
        images.extend(entries.files)
        skipped += entries.skipped
        for inner in entries.folders:
            to_visit.append((inner, above | {identity}))
    return sorted(images), skipped


def list_entries(folder: Path) -> Entries:
    """What lies directly in a folder, without side files and side folders.

    Raises UserError if the folder cannot be read.
    """
    folders, files, skipped = [], [], 0
    try:
        for entry in os.scandir(folder):
            path = Path(entry.path)
            if _is_side_entry(entry):
                skipped += 1
            elif entry.is_dir():
                folders.append(path)
            else:
                files.append(path)
    except OSError as error:
        raise UserError(f"{shown(folder)} cannot be read ({error.strerror}): repair it, or change "
                        "its permissions") from None
    return Entries(folders, files, skipped)


def _is_side_entry(entry: os.DirEntry) -> bool:
    if entry.name.startswith("."):
        return True
    if entry.is_dir():
        return entry.name.lower() in SIDE_FOLDERS
    return Path(entry.name).suffix.lower() in SIDE_FILES
