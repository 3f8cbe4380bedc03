"""A folder of images: which files are meant, and their pixels: 8 bits, upright, opaque, square."""

import os
import stat
import warnings
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from utils.settings import UserError

VERSION = 1                                              # of the decoder: raised when pixels change
# Pillow knows others too, and one of them runs a program (PostScript).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# What NAS boxes, archivers, viewers and scripts leave, beside names that start with a dot.
SIDE_FOLDERS = {"@eadir", "@recently-snapshot", "@recycle", "@tmp", "#recycle", "#snapshot",
                "$recycle.bin", "recycled", "recycler", "lost+found", "system volume information",
                "__macosx", "__pycache__"}
SIDE_FILES = {".aae", ".csv", ".db", ".htm", ".html", ".info", ".ini", ".ipynb", ".json", ".jsonl",
              ".lnk", ".log", ".mat", ".md", ".md5", ".npy", ".npz", ".pkl", ".pt", ".py", ".rst",
              ".sha256", ".toml", ".tsv", ".txt", ".url", ".xml", ".xmp", ".yaml", ".yml"}

Image.MAX_IMAGE_PIXELS = None                            # decode's max_pixels is the limit
_KINDS = TiffImagePlugin.OPEN_INFO                       # where Pillow leaves these grey ones out
_KINDS.setdefault((b"MM", 1, (1,), 1, (32,), ()), ("I", "I;32B"))
_KINDS.update({(order, 0, *kind): mode for (order, black_is_zero, *kind), mode in _KINDS.items()
               if black_is_zero == 1 and mode[0] in ("I;16", "I;16B", "I", "F")})


class Tree(NamedTuple):
    """The images of root/<class>/**, the class of each, the classes, how much was skipped."""

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
    broken = [file for file in beside if not os.path.exists(file)]       # may have been a class
    tree = Tree([], [], [], skipped + len(beside) - len(broken))
    for label, folder in enumerate(sorted(folders + broken)):
        files, others = list_images(folder)
        if not files:
            raise UserError(f"{shown(folder)} holds no images (skipped: {others}): remove the "
                            "folder, or fill it")
        tree = Tree(tree.files + files, tree.labels + [label] * len(files),
                    [*tree.classes, folder.name], tree.skipped + others)
    if len(tree.classes) < 2:
        raise UserError(f"{shown(root)} holds {len(tree.classes)} classes (folders of images), "
                        "but 2 are the least")
    return tree


def class_names(root: Path) -> list[str]:
    """The folders of images in a folder."""
    return sorted(folder.name for folder in _entries(root)[0])


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
        entries = [(Path(entry.path), entry.is_dir()) for entry in os.scandir(folder)]
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
    """An image file as (channels, side, side) uint8; the share of its area that was cut away; its
    brightest level. It lies over white where it is transparent; 16 bits are scaled by 1/257.

    fit: crop about the centre, pad with black, or stretch. channels: 1 (ITU-R 601) or 3.
    pixel_range: the file's numbers (of up to 8 bits: scaled to 8) that become 0 and 255.
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
        fitted = {"crop": ImageOps.fit, "pad": _padded, "stretch": Image.Image.resize}[fit](
            image if channels == 3 else image.convert("L"), (side, side))
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
    mistakes = []
    todo = facts.isnan().any(1).nonzero().flatten().tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                  # about metadata that is not needed
        for i in tqdm(todo, "decoding images", mininterval=1, disable=None):
            try:
                out[i], *rest = decode(files[i], out.shape[-1], out.shape[1], **how)
                facts[i] = torch.tensor(rest)
            except UserError as mistake:
                mistakes.append(str(mistake))
    if mistakes:
        report.write_text("\n".join([*mistakes, ""]), encoding="utf-8")
        raise UserError(f"{len(mistakes)} of {len(files)} images cannot be read, all listed in "
                        f"{shown(report)}: {'; '.join(mistakes[:10])}")
    told = []
    if cut := int((facts[:, 0] > 1 / 3).sum()):
        told.append(f"{cut} of {len(files)} images lose over a third of their area to the crop: "
                    "--image_fit pad or stretch, in all steps, keeps it")
    if files and facts[:, 1].max() < 256 / 8:
        told.append("the brightest pixel of all images is below an eighth of the range: "
                    "--pixel_range LOW HIGH says which numbers are black and white")
    return told


def _padded(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    inner = [max(1, round(edge / max(image.size) * size[0])) for edge in image.size]
    return ImageOps.pad(image.resize(inner), size)       # alone it loses very narrow images


def _plain(file: Path, image: Image.Image, pixel_range: tuple[float, float] | None) -> Image.Image:
    """An opened image of any kind as RGB with 8 bits, opaque and upright."""
    numbers, white = _numbers(file, image, pixel_range is not None)
    image.load()
    turn, clear = 1, image.info.get("transparency")
    with suppress(Exception):                            # a damaged EXIF block is no reason to fail
        turn = image.getexif().get(0x112, 1)
    inverted = image.format == "TIFF" and image.tag_v2.get(262) == 0
    if image.mode == "La":                               # from which there is no way to RGBA
        image = image.convert("LA")
    if numbers is None and pixel_range:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        numbers, white, clear = np.asarray(image), 255, None
        numbers = 255 - numbers if inverted else numbers         # back to the file's
    if numbers is not None:
        if (pixel_range or white) is None:
            raise UserError("it has signed, 32-bit or floating point numbers: --pixel_range LOW "
                            "HIGH says which are black and white")
        bands = numbers.shape[-1]
        colours = _levels(numbers[..., :1 if bands < 3 else 3], *(pixel_range or (0, white)))
        alpha = (_levels(numbers[..., -1], 0, white) if bands in (2, 4) else
                 (numbers != clear).any(-1) * np.uint8(255))
        colours = 255 - colours if inverted else colours
        image = Image.fromarray(np.broadcast_to(colours, (*alpha.shape, 3)).copy())
        image.putalpha(Image.fromarray(alpha))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    image.info, image.getexif()[0x112] = {}, turn
    return ImageOps.exif_transpose(image)


def _numbers(file: Path, image: Image.Image, ranged: bool) -> tuple[np.ndarray | None, int | None]:
    """The numbers (h, w, bands) of a file with over 8 bits, else None, and the one that is white.

    The last of 2 or 4 bands is alpha. Of 16-bit CMYK and premultiplied colours Pillow's 8 do.
    ranged: a range will map them, whatever is white.
    """
    if image.format not in ("PNG", "PPM", "TIFF"):
        return None, None
    tile, tags = image.tile[0], getattr(image, "tag_v2", {})
    raw, *more = [tile.args] if isinstance(tile.args, str) else tile.args
    bits, sign = max(tags.get(258, (16,))), max(tags.get(339, (1,)))
    if tags.get(284) == 2 and (bits > 8 or tags.get(262) == 0):      # which Pillow garbles
        raise UserError("its planes are stored apart: save it with them interleaved")
    if ranged and image.format == "PPM" and image.mode == "RGB" and more and more[0] > 255:
        raise UserError("--pixel_range needs 16-bit colours in PNG or TIFF: convert it")
    if image.mode in ("I;16", "I;16B", "I", "F") or sign > 1:
        if tile.codec_name == "libtiff":                 # gives the machine's order of bytes
            image.tile = [tile._replace(args=(raw.replace("B", ""), *more))]
        numbers = np.asarray(image)[..., None]
        if image.mode.startswith("I;16"):
            return numbers, 2 ** bits - 1
        if image.mode == "I" and image.format == "PPM":  # which Pillow scales to 65535
            white = more[0] if more else 65535
            return np.rint(numbers * (white / 65535)), white
        kind = {(8, 2): np.int8, (32, 1): np.uint32}     # that Pillow takes for the other sign
        return numbers.view(kind.get((bits, sign), numbers.dtype)), None
    if ";16" in raw and "a" not in raw and image.mode != "CMYK":
        # Pillow keeps the high bytes; read in the other order, it keeps the low ones.
        swapped = "RGBA" if raw == "LA;16B" else raw[:-1] + ("L" if raw[-1] == "B" else "B")
        with Image.open(file, formats=FORMATS) as other:
            other.tile = [t._replace(args=(swapped, *t.args[1:]) if more else swapped)
                          for t in other.tile]
            low = np.array(other)
        numbers = low.view(">u2") if raw == "LA;16B" else np.asarray(image) * np.uint16(256) + low
        return numbers, 65535
    if raw in ("L;2", "L;4") and "transparency" in image.info:     # Pillow scales all but this
        image.info["transparency"] *= 85 if raw == "L;2" else 17
    return None, None


def _levels(numbers: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers of any type to uint8: low to 0, high to 255, linear, rounded and clipped."""
    if not np.isfinite(numbers).all():
        raise UserError("it has pixels that are no finite numbers: replace them")
    scaled = (numbers.astype(float) - low) * 255 / (high - low)
    return np.rint(scaled).clip(0, 255).astype(np.uint8)
