"""Runs every case of image files and folders: python -m tests.inputs; makes results/inputs.json.

CASES: each name gives a function that does the case in an empty folder. It returns whether the
pixels (True) or the one-line refusal (False) were right, and fails on anything else.
"""

import os
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

from images.decode import FACTS, decode, decode_all
from images.folders import find_images
from parameter import Parameters
from tests.image_files import (
    BYTE_ORDER,
    DEEP_COLOURS,
    FILES,
    FLOATS,
    NOISE16,
    PHOTO,
    RAMP8,
    RAMP16,
    TURNED,
    UNREAD_TIFF,
    exif,
    rounded,
    saved,
    tiff,
)
from utils.artifacts import write_alone
from utils.errors import UserError
from utils.provenance import provenance, seconds_so_far
from utils.records import to_json


def add_orientations(files: dict):
    """Each of EXIF's eight orientations, in each kind of file that can have it."""
    exact = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "TIFF": {},
             "WEBP": {"lossless": True}}
    for kind, options in exact.items():
        for orientation, pixels in TURNED.items():
            files[f"{kind}, orientation {orientation}"] = (
                saved(PHOTO, kind, exif=exif(orientation), **options), pixels, {})


ORDERS = {"<": "little-endian", ">": "big-endian"}
COMPRESSIONS = {None: "raw", "zlib": "compressed"}
SHADES = {"minisblack": "black is zero", "miniswhite": "white is zero"}
# Kinds of grey TIFF: the numbers, and those that are black and white.
NUMBERS = {
    "8 bits": (RAMP8, 0, 255),
    "16 bits": (RAMP16, 0, 65535),
    "signed 16 bits": ((RAMP16 >> 1).astype(np.int16) - 9000, -9000, 23767),
    "32 bits": (RAMP16.astype(np.uint32) * 65537, 0, 2 ** 32 - 1),
    "signed 32 bits": (RAMP16.astype(np.int32) - 9000, -9000, 56535),
    "floats": (FLOATS, 0, 1)}


def add_grey_tiffs(files: dict):
    """Every kind of grey TIFF, with a pixel_range and without."""
    for order, order_name in ORDERS.items():
        for compression, compression_name in COMPRESSIONS.items():
            for photometric, shade in SHADES.items():
                for name, (numbers, low, high) in NUMBERS.items():
                    make = tiff(numbers, byteorder=order, compression=compression,
                                photometric=photometric)
                    levels = rounded(numbers.astype(np.float64), low, high)
                    if photometric == "miniswhite":
                        levels = 255 - levels
                    unread = why_unread(order, compression, photometric, name)
                    without_range = "--pixel_range" if name not in ("8 bits", "16 bits") else levels
                    case = f"TIFF, {order_name}, {compression_name}, {shade}, {name}"
                    files[case] = (make, unread or without_range, {})
                    files[f"{case}, range"] = (make, unread or levels, {"pixel_range": (low, high)})


def why_unread(order: str, compression: str | None, photometric: str, name: str) -> str | None:
    """Words of the refusal of a grey TIFF that Pillow does not read, or mistakes."""
    if photometric == "miniswhite" and name in ("signed 16 bits", "32 bits", "signed 32 bits"):
        return UNREAD_TIFF
    if order == ">" and name == "32 bits":
        return UNREAD_TIFF
    if order == ">" and photometric == "miniswhite" and name == "16 bits":
        return UNREAD_TIFF
    if order == ">" and compression and name in ("signed 16 bits", "signed 32 bits", "floats"):
        return BYTE_ORDER
    return None


def add_other_tiffs(files: dict):
    for order, order_name in ORDERS.items():
        files[f"TIFF, {order_name}, RGB of 16 bits"] = (
            tiff(NOISE16[..., :3], byteorder=order), DEEP_COLOURS, {})
        signed = (RAMP8.astype(int) - 128).astype(np.int8)
        files[f"TIFF, {order_name}, signed 8 bits"] = (
            tiff(signed, byteorder=order), "--pixel_range", {})
        files[f"TIFF, {order_name}, signed 8 bits, range"] = (
            tiff(signed, byteorder=order), RAMP8, {"pixel_range": (-128, 127)})


add_orientations(FILES)
add_grey_tiffs(FILES)
add_other_tiffs(FILES)


def check_file(name: str, folder: Path) -> bool:
    make, expected, options = FILES[name]
    make(folder / "image")
    if isinstance(expected, str):
        refused(lambda: decode(folder / "image", 8, **options), expected)
        return False
    pixels = decode(folder / "image", 8, **options).pixels.permute(1, 2, 0).numpy()
    expected = np.asarray(expected).round().astype(np.uint8)
    if options.get("channels") == 1 and expected.ndim == 3:
        expected = np.asarray(Image.fromarray(expected).convert("L"))
    expected = expected if expected.ndim == 3 else expected[..., None]
    error = np.abs(pixels.astype(int) - expected).max()
    assert error <= allowed_error(name), error
    return True


def allowed_error(name: str) -> int:
    """In levels: of a kind of file that stores, or is converted, with a loss."""
    if name.startswith("JPEG, orientation"):             # noise, which JPEG keeps badly
        return 12
    return 1 if name.startswith(("JPEG", "TIFF, LAB")) else 0


def refused(act, words: str):
    try:
        act()
    except UserError as mistake:
        line = str(mistake)
        assert words in line and line.isprintable() and len(line) < 4000, line
        return
    raise AssertionError(f"not refused with: {words}")


def plant(root: Path, *names: str | bytes):
    """Makes these files beside root/a/1.png and root/b/2.png: images, and links (name -> aim)."""
    for name in ("a/1.png", "b/2.png", *names):
        path, _, aim = os.fsdecode(name).partition(" -> ")
        path = root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        if aim:
            path.symlink_to(aim)
        else:
            saved(PHOTO, "PNG")(path)


# name: (what is planted; the images that are found, by class, and how many are skipped; or words)
PLAIN = {"a": ["1.png"], "b": ["2.png"]}
TREES = {
    "a plain tree": ((), PLAIN, 0),
    "images at any depth": (("a/x/y/3.png",), {"a": ["1.png", "x/y/3.png"], "b": ["2.png"]}, 0),
    "other endings": (("a/3.scan", "a/4"), {"a": ["1.png", "3.scan", "4"], "b": ["2.png"]}, 0),
    "endings in capitals": (("a/3.PNG",), {"a": ["1.png", "3.PNG"], "b": ["2.png"]}, 0),
    "hidden files": (("a/.3.png", "a/._1.png"), PLAIN, 2),
    "a hidden folder": (("a/.ipynb_checkpoints/3.png", "a/x/.Trash-1000/4.png"),
                        {"a": ["1.png"], "b": ["2.png"]}, 2),
    "a hidden class": ((".ipynb_checkpoints/3.png", ".Trash-1000/files/4.png"), PLAIN, 2),
    **{f"{name} {where or 'beside the classes'}": ((f"{where}{name}/3.png",), PLAIN, 1)
       for name in ("@eaDir", "__MACOSX", "#recycle", "lost+found", "$RECYCLE.BIN",
                    "System Volume Information", "@Recycle") for where in ("", "a/")},
    "side files": (("a/Thumbs.db", "a/desktop.ini", "b/labels.csv", "b/x/note.TXT", "b/meta.json",
                    "a/a.xml", "a/README.md", "a/1.npy"), PLAIN, 8),
    "files beside the classes": (("labels.csv", "cover.png", "README"), PLAIN, 3),
    "a link to a file": (("b/3.png -> ../a/1.png",), {"a": ["1.png"], "b": ["2.png", "3.png"]}, 0),
    "a link to a folder": (("b/all -> ../a",), {"a": ["1.png"], "b": ["2.png", "all/1.png"]}, 0),
    "a link to a class": (("c -> a",), {**PLAIN, "c": ["1.png"]}, 0),
    "a link to a folder that is skipped": (("b/all -> ../.x", ".x/3.png"),
                                           {"a": ["1.png"], "b": ["2.png", "all/3.png"]}, 1),
    "names of any bytes": ((b"a/caf\xe9.png", b"caf\xe9/3.png", "b/new\nline.png"),
                           {"a": ["1.png", os.fsdecode(b"caf\xe9.png")],
                            "b": ["2.png", "new\nline.png"],
                            os.fsdecode(b"caf\xe9"): ["3.png"]}, 0),
    "a loop": (("a/up -> ../a",), "leads back", 0),
    "a longer loop": (("a/x/up -> ../..",), "leads back", 0),
    "a loop over two links": (("a/x -> ../b", "b/y -> ../a"), "leads back", 0),
    "a class that is a broken link": (("c -> gone",), "cannot be read (No such file", 0),
    "a class that is a link to itself": (("c -> c",), "cannot be read", 0),
    "a class without images": (("c/.hidden",), "holds no images", 0),
    "a class of side files": (("c/labels.csv",), "c holds no images (skipped: 1)", 0),
    "a class without images, its name a newline": (("c\n/x.txt",), r"c\n holds no images", 0),
}


def check_tree(name: str, root: Path) -> bool:
    names, expected, skipped = TREES[name]
    plant(root, *names)
    if isinstance(expected, str):
        refused(lambda: find_images(root), expected)
        return False
    tree = find_images(root)
    found = {kind: [] for kind in tree.classes}
    for file, label in zip(tree.files, tree.labels, strict=True):
        found[tree.classes[label]].append(str(file.relative_to(root / tree.classes[label])))
    left_out = tree.skipped + tree.loose
    assert (found, left_out) == (expected, skipped), (found, left_out)
    assert tree.classes == sorted(tree.classes)
    out, facts = empty(len(tree.files))
    decode_all(tree.files, out, facts, root / "report.txt")
    assert all((image.permute(1, 2, 0).numpy() == PHOTO).all() for image in out)
    return True


def empty(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Room for n images of 8 x 8, as decode_all takes it."""
    return torch.zeros(n, 3, 8, 8, dtype=torch.uint8), torch.full((n, FACTS), float("nan"))


CASES = {**{name: check_file for name in FILES}, **{name: check_tree for name in TREES}}


def main():
    about = provenance(Parameters())
    warnings.simplefilter("ignore")
    right = []
    for name, check in CASES.items():
        folder = Path(tempfile.mkdtemp())
        try:
            right.append(check(name, folder))
        finally:
            shutil.rmtree(folder)
    record = about | {"cases": len(CASES), "right_pixels": sum(right),
                      "refused_in_one_line": len(right) - sum(right), "seconds": seconds_so_far()}
    record["versions"]["pillow"] = PIL.__version__
    write_alone(Path("results/inputs.json"), to_json(record))


if __name__ == "__main__":
    main()
