"""A folder of images: which files are meant, and their pixels: 8 bits, upright, opaque, square."""

import os
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from PIL.Image import Transpose
from torch import Tensor
from tqdm import tqdm

from utils.cli import UserError

# Pillow knows others too, and one of them runs a program (PostScript).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# What NAS boxes, archivers, viewers and scripts leave, beside names that start with a dot.
SIDE_FOLDERS = {"@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "__macosx", "__pycache__",
                "$recycle.bin", "recycler", "lost+found", "system volume information"}
SIDE_FILES = {f".{end}" for end in ["aae", "csv", "db", "html", "ini", "json", "jsonl", "lnk", "log", "mat", "md", "md5", "npy", "npz", "pkl", "pt", "py", "rst", "sha256", "toml", "tsv", "txt", "url", "xml", "xmp", "yaml", "yml"]}
TURNS = dict(zip(range(2, 9), (                          # by EXIF's number
    Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE,
    Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90), strict=True))

Image.MAX_IMAGE_PIXELS = None                            # decode's max_pixels is the limit
# Pillow's own TIFF reader garbles 16-bit planes stored apart. libtiff does not, but gives numbers
# in the machine's order of bytes, where Pillow's table of kinds expects the file's.
TiffImagePlugin.READ_LIBTIFF = True
for (_order, _, *_kind), _mode in list(TiffImagePlugin.OPEN_INFO.items()):
    if _order == b"II" and _mode[0] in ("I;16", "I", "F"):
        TiffImagePlugin.OPEN_INFO.update({(order, white_is_zero, *_kind): _mode
                                          for order in (b"II", b"MM") for white_is_zero in (0, 1)})


class Tree(NamedTuple):
    """The images of root/<class>/**, the class of each, the classes' names, how much was skipped"""

    files: list[Path]
    labels: list[int]
    classes: list[str]
    skipped: int


def shown(path: str | os.PathLike) -> str:
    """A path or name of any bytes on one printable line; what is no text is escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def find_images(root: Path) -> Tree:
    """The images of root/<class>/**, sorted; files that lie in root itself are skipped.

    Raises UserError for under 2 classes, a class without images, and as list_images does.
    """
    folders, beside, skipped = _entries(root)
    for file in beside:
        if not os.path.exists(file):
            raise UserError(f"{shown(file)} cannot be read (a broken link?): mend or remove it")
    if len(folders) < 2:
        raise UserError(f"{shown(root)} holds {len(folders)} classes (folders of images), but 2 "
                        "are the least")
    files, labels, skipped = [], [], skipped + len(beside)
    for label, folder in enumerate(sorted(folders)):
        found, others = list_images(folder)
        if not found:
            raise UserError(f"{shown(folder)} holds no images ({others} side files and folders "
                            "were skipped): remove the folder, or fill it")
        files, labels, skipped = files + found, labels + [label] * len(found), skipped + others
    return Tree(files, labels, sorted(folder.name for folder in folders), skipped)


def list_images(folder: Path) -> tuple[list[Path], int]:
    """The images of a folder at any depth, sorted, and how many side files and folders it skipped.

    Links are followed. Raises UserError for a folder that cannot be read or leads back to itself.
    """
    files, skipped, todo = [], 0, [(folder, ())]
    while todo:
        here, above = todo.pop()
        folders, beside, others = _entries(here)
        identity = os.stat(here)[1:3]                    # inode and device
        if identity in above:
            raise UserError(f"{shown(here)} leads back to a folder that holds it: remove the link")
        files, skipped = files + beside, skipped + others
        todo += [(inner, (*above, identity)) for inner in folders]
    return sorted(files), skipped


def _entries(folder: Path) -> tuple[list[Path], list[Path], int]:
    """The folders and the files in a folder, and how many of both are left out."""
    try:
        with os.scandir(folder) as found:
            entries = [(Path(entry.path), entry.is_dir()) for entry in found]
    except OSError as error:
        raise UserError(f"{shown(folder)} cannot be read ({error.strerror}): mend it, or set its "
                        "permissions") from None
    kept = [(path, is_dir) for path, is_dir in entries if not path.name.startswith(".") and (
        path.name.lower() not in SIDE_FOLDERS if is_dir else path.suffix.lower() not in SIDE_FILES)]
    return ([path for path, is_dir in kept if is_dir],
            [path for path, is_dir in kept if not is_dir], len(entries) - len(kept))


def decode(file: Path, side: int, channels: int = 3, fit: str = "crop",
           pixel_range: tuple[float, float] | None = None, max_pixels: int = 89_478_485
           ) -> tuple[Tensor, float, int]:
    """An image file's pixels, (channels, side, side) uint8; the share of its area that is cut
    away; its brightest level. Transparent parts lie over white; 16 bits are scaled by 1/257.

    pixel_range: the file's numbers that become 0 and 255 (of files of up to 8 bits, on 0..255).
    fit: crop about the centre, pad with black, or stretch. channels: 1 (ITU-R 601) or 3.
    Raises UserError where that cannot be had, with what to do.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise UserError("it is a device, pipe, socket or folder: remove it")
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise UserError(f"it has {image.width * image.height} pixels: shrink it, or raise "
                                f"--max_pixels ({max_pixels}) where you trust it")
            # A camera's JPEG may hold a preview or a second view (MPO): the first is the picture.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise UserError("it has several pages or frames: save the ones you mean one a file")
            image = _plain(file, image, pixel_range)
        peak = max(high for _, high in image.getextrema())
        fitted = _fitted(image if channels == 3 else image.convert("L"), side, fit)
        pixels = torch.from_numpy(np.array(fitted)).view(side, side, channels).permute(2, 0, 1)
        return pixels, 1 - min(image.size) / max(image.size) if fit == "crop" else 0.0, peak
    except UserError as mistake:
        reason = str(mistake)
    except UnidentifiedImageError:
        reason = (f"it is no image of a kind that is read ({', '.join(FORMATS)}; up to 16 bits): "
                  "convert it, or remove it")
    except Exception as error:                           # whatever a hostile file leads to
        reason = (getattr(error, "strerror", None) or " ".join(str(error).split())[:100]
                  or type(error).__name__) + ": mend or replace it"
    raise UserError(f"{shown(file)} cannot be read: {reason}")


def decode_all(files: list[Path], out: Tensor, facts: Tensor, report: Path, **how) -> list[str]:
    """Decodes file i to out[i] (N, channels, side, side) uint8; gives lines to tell the user.

    facts (N, 2) float32 gets what else decode gives; rows without NaN are done and left alone.
    how: decode's fit, pixel_range and max_pixels. Raises one UserError for all files that cannot
    be read, with the first ten; `report` lists them. What was decoded stays in out and facts.
    """
    mistakes = {}

    def one(i: int):
        try:
            out[i], *rest = decode(files[i], out.shape[-1], out.shape[1], **how)
            facts[i] = torch.tensor(rest)
        except UserError as mistake:
            mistakes[i] = str(mistake)

    todo = facts.isnan().any(1).nonzero().flatten().tolist()
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")                  # about metadata that is not needed
        for _ in tqdm(pool.map(one, todo), "decoding images", len(todo), mininterval=1,
                      disable=None):
            pass
    if mistakes:
        lines = [mistakes[i] for i in sorted(mistakes)]
        report.write_text("\n".join([*lines, ""]), encoding="utf-8")
        raise UserError(f"{len(lines)} of {len(files)} images cannot be read, all listed in "
                        f"{shown(report)}: {'; '.join(lines[:10])}")
    told, cut = [], int((facts[:, 0] > 1 / 3).sum())
    if cut:
        told.append(f"{cut} of {len(files)} images lose more than a third of their area to the "
                    "crop: --image_fit pad or stretch keeps it")
    if files and facts[:, 1].max() < 256 / 8:
        told.append("the brightest pixel of all images is below an eighth of the range: "
                    "--pixel_range LOW HIGH says which numbers are black and white")
    return told


def _fitted(image: Image.Image, side: int, fit: str) -> Image.Image:
    if fit == "crop":
        return ImageOps.fit(image, (side, side))
    if fit == "stretch":
        return image.resize((side, side))
    inner = image.resize([max(1, round(edge / max(image.size) * side)) for edge in image.size])
    padded = Image.new(image.mode, (side, side))
    padded.paste(inner, tuple(round((side - edge) / 2) for edge in inner.size))
    return padded


def _plain(file: Path, image: Image.Image, pixel_range: tuple[float, float] | None) -> Image.Image:
    """An opened image of any kind as RGB with 8 bits, opaque and upright."""
    numbers, white, clear = _numbers(file, image, ranged=pixel_range is not None)
    turn = None
    with suppress(Exception):                            # a damaged EXIF block is no reason to fail
        turn = TURNS.get(image.getexif().get(0x112))
    if image.mode == "La":                               # RGBA cannot be had from it directly
        image = image.convert("LA")
    if numbers is None and pixel_range:
        numbers = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
        white, clear = 255, None
    if numbers is not None:
        hidden = clear is not None and (numbers == clear).all(-1)
        ...
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)
