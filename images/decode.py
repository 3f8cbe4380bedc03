"""An image file to pixels: 8 bits, opaque, upright, square. What is not read rightly is refused.

Pillow reads the files. Where it would lose or mistake numbers (16-bit colours, some kinds of TIFF),
the file is refused in one line that says how to convert it.
"""

import os
import re
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from images.folders import shown
from utils.artifacts import write_alone
from utils.errors import UserError, one_line
from utils.names import first_names

VERSION = 3                                              # of the decoder: raised when pixels change
# Pillow knows others too, and one of them runs a program (PostScript).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I", "F")        # one channel of more than 8 bits
CROPPED, BRIGHTEST, CLIPPED, DEEP = 0, 1, 2, 3           # columns of the facts about images
FACTS = 4                                                # of each image
MANY_CROPPED = 1 / 3                                     # of an image's area
MANY_CLIPPED = 1 / 10                                    # of the pixels of all images
DARK = 256 / 8                                           # the brightest level of dark images
LISTED = 10                                              # files in a line, at most


class Decoded(NamedTuple):
    """pixels (channels, side, side) uint8; cropped: the share of the image's area that was cut
    away; brightest: its highest level, 0 to 255; clipped: the share of its numbers that lie outside
    pixel_range; is_deep: whether its file has more than 8 bits."""

    pixels: Tensor
    cropped: float
    brightest: int
    clipped: float
    is_deep: bool


def decode(file: Path, side: int, channels: int = 3, fit: str = "crop",
           pixel_range: tuple[float, float] | None = None) -> Decoded:
    """Reads an image file.

    fit: how it becomes square: crop about the centre, pad with black, or stretch.
    channels: 1 (grey by ITU-R 601) or 3. pixel_range: the file's numbers that become 0 and 255 (of
    files with fewer than 8 bits: after they are scaled to 8 bits).
    Transparent areas become white. 16-bit grey is scaled by 1/257. A photograph (JPEG) is
    decoded at a reduced size if that is at least twice the size that is needed.
    Raises UserError for a file that cannot be read, or not rightly, with what to do.
    """
    try:
        return _decode(file, side, channels, fit, pixel_range)
    except UserError as mistake:
        reason = str(mistake)
    except UnidentifiedImageError:
        reason = unidentified(file)
    except Image.DecompressionBombError:
        reason = too_large("more than twice as many pixels as are read")
    except Exception as error:                           # whatever a hostile file leads to
        system_error = getattr(error, "strerror", None)
        words = system_error or one_line(error, 100) or type(error).__name__
        reason = f"{words}: repair or replace it"
    raise UserError(f"{shown(file)} cannot be read: {reason}")


def _decode(file: Path, side: int, channels: int, fit: str,
            pixel_range: tuple[float, float] | None) -> Decoded:
    """As decode, but with any error that Pillow raises."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise UserError("it is a device, pipe, socket or folder: remove it")
    with Image.open(file, formats=FORMATS) as image:
        refuse_misread(file, image, pixel_range)
        draft = None
        if pixel_range is None:                          # which needs the file's own numbers
            draft = image.draft(None, draft_size(image.size, side, fit))
        image.load()
        box = (0, 0, *image.size) if draft is None else draft[1]
        orientation = orientation_of(image)
        is_deep = image.mode in DEEP_MODES
        mapped = in_8_bits(file, image, pixel_range)
    picture = opaque(mapped.picture)
    brightest = max(high for _, high in picture.getextrema())
    cropped = 1 - min(box[2:]) / max(box[2:]) if fit == "crop" else 0.0
    if channels == 1:
        picture = picture.convert("L")
    square = upright(fitted(picture, box, side, fit), orientation)
    array = np.array(square).reshape(side, side, channels)
    return Decoded(torch.from_numpy(array).permute(2, 0, 1), cropped, brightest, mapped.clipped,
                   is_deep)


def decode_all(files: list[Path], images: Tensor, facts: Tensor, report: Path, fit: str = "crop",
               pixel_range: tuple[float, float] | None = None):
    """Decodes file i into images[i], in as many threads as there are cores.

    images (N, channels, side, side) uint8. facts (N, FACTS) float32: `cropped`, `brightest`,
    `clipped` and `is_deep` of each image; only rows with NaN are decoded. Raises one UserError for
    all files that cannot be read, with the first ten of them; the file `report` lists all. What was
    decoded stays in `images` and `facts`, after Ctrl-C too.
    """
    report.unlink(missing_ok=True)                       # an earlier one has names of private files
    to_do = facts.isnan().any(1).nonzero()[:, 0].tolist()
    decode_one = partial(_decode_row, files, images, facts, fit, pixel_range)
    threads = ThreadPoolExecutor(available_cores())      # Pillow decodes outside Python's lock
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                  # about metadata that is not needed
        try:
            results = tqdm(threads.map(decode_one, to_do), "decoding", len(to_do), unit=" images",
                           mininterval=1, disable=None)
            mistakes = [mistake for mistake in results if mistake is not None]
        finally:
            threads.shutdown(cancel_futures=True)
    if mistakes:
        write_alone(report, "\n".join([*mistakes, ""]), 0o600)
        raise UserError(f"{len(mistakes)} of {len(files)} images cannot be read, all listed in "
                        f"{shown(report)}: {'; '.join(mistakes[:LISTED])}")


def _decode_row(files: list[Path], images: Tensor, facts: Tensor, fit: str,
                pixel_range: tuple[float, float] | None, i: int) -> str | None:
    """Decodes one file into its rows; returns the message of a mistake."""
    try:
        decoded = decode(files[i], images.shape[3], images.shape[1], fit, pixel_range)
    except UserError as mistake:
        return str(mistake)
    images[i] = decoded.pixels
    facts[i] = torch.tensor([decoded.cropped, decoded.brightest, decoded.clipped,
                             decoded.is_deep])
    return None


OF_THE_KEY = "the range is that of the delivery and stays with its key: convert these images to it"


def hints(facts: Tensor, files: list[Path], pixel_range: tuple[float, float] | None = None,
          is_of_key: bool = False) -> list[str]:
    """Lines about the images (facts (N, FACTS)) of N files that lose much to the crop or to
    pixel_range, or of which all of one depth are dark. `is_of_key`: the range is that of a delivery
    and cannot be chosen."""
    lines = []
    if not len(facts):
        return lines
    cropped = int((facts[:, CROPPED] > MANY_CROPPED).sum())
    if cropped:
        lines.append(f"{cropped} of {len(facts)} images lose over a third of their area to the "
                     "crop: pretrain.py --image_fit pad or stretch keeps it, and first_layer.pt "
                     "takes it to the other steps")
    clipped = float(facts[:, CLIPPED].mean())
    if clipped > MANY_CLIPPED:
        low, high = pixel_range
        advice = "unless that is meant, give the --pixel_range LOW HIGH of these images"
        lines.append(f"{clipped:.0%} of the pixels are outside pixel_range {low:g} to {high:g} and "
                     f"become black or white: {OF_THE_KEY if is_of_key else advice}")
    is_deep = facts[:, DEEP] > 0
    if is_deep.any() and not is_deep.all():
        if is_dark(facts[is_deep]):
            lines.append(hint_of_dark_kind(files, is_deep, "more than 8 bits"))
        if is_dark(facts[~is_deep]):
            lines.append(hint_of_dark_kind(files, ~is_deep, "8 bits"))
    elif is_dark(facts):
        advice = "--pixel_range LOW HIGH says which numbers are black and white"
        if is_of_key:
            advice = OF_THE_KEY
        elif pixel_range is not None:
            low, high = pixel_range
            advice = (f"--pixel_range is {low:g} to {high:g}; give that of these images, or "
                      "`--pixel_range none` where they have 8 bits")
        lines.append(f"the brightest pixel of all images is below an eighth of the range: {advice}")
    return lines


def hint_of_dark_kind(files: list[Path], chosen: Tensor, depth: str) -> str:
    """On files of one depth, `chosen` (N) bool of all, that are dark beside others."""
    names = [shown(files[i]) for i in chosen.nonzero()[:, 0].tolist()]
    some = first_names(names, LISTED, "more files")
    return (f"{some} have {depth} and no pixel above an eighth of the range, and "
            f"{len(files) - len(names)} of {len(files)} files have another depth: convert the "
            "files of one kind to the other")


def is_dark(facts: Tensor) -> bool:
    """Whether no pixel of images of these facts is brighter than an eighth of the range."""
    return bool(facts[:, BRIGHTEST].max() < DARK)


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):                 # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# What is refused.

def refuse_misread(file: Path, image: Image.Image, pixel_range: tuple[float, float] | None):
    """Raises UserError for an opened image that is too large, that has several pages, or whose
    numbers Pillow would reduce or mistake."""
    if image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise UserError(too_large(f"{image.width * image.height} pixels"))
    # A camera's JPEG may hold a preview or a second view (MPO): the first is the picture.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise UserError("it has several pages or frames: save the ones you mean one a file")
    deep_colours = "it has 16 bits in each colour, of which Pillow would drop 8"
    advice = "convert it to 8 bits in each, or use --dataset arrays"
    if image.format == "PNG":
        header = png_header(file)
        if header.bits == 16 and not header.is_grey:
            raise UserError(f"{deep_colours}: {advice}")
    elif image.format == "PPM":
        if pixel_range is not None and image.mode not in DEEP_MODES and ppm_white(file) > 255:
            raise UserError(f"{deep_colours}, but --pixel_range needs all: {advice}")
    elif image.format == "TIFF":
        tags = tiff_tags(image)
        if tags.has_planes and (tags.bits > 8 or tags.white_is_zero):
            raise UserError("its planes are stored apart: save it with them interleaved")
        if tags.bits > 8 and image.mode not in DEEP_MODES:
            raise UserError(f"{deep_colours}: {advice}")
        if image.mode in ("I", "F") and tags.is_compressed and tags.is_big_endian:
            raise UserError("Pillow mistakes the order of its bytes: save it without compression, "
                            "or as little-endian")


def too_large(size: str) -> str:
    return (f"it has {size}: at most {Image.MAX_IMAGE_PIXELS} are read (Pillow's limit against "
            "decompression bombs): shrink it")


def unidentified(file: Path) -> str:
    """Why Pillow did not open a file."""
    if first_bytes(file, 4) in (b"II*\0", b"MM\0*"):
        return ("it is a TIFF of a kind that Pillow does not read: save it as 8-bit colours, or "
                "as 16-bit grey where black is zero")
    return (f"it is not an image of a kind that is read ({', '.join(FORMATS)}; up to 16 bits): "
            "convert it, or remove it (arrays are read from .npy)")


# What the headers say, where Pillow's images do not.

class PngHeader(NamedTuple):
    bits: int                                            # of each channel
    is_grey: bool                                        # without an alpha channel


def png_header(file: Path) -> PngHeader:
    """The first chunk of a PNG file, IHDR. Raises UserError if another comes first."""
    head = first_bytes(file, 26)
    if head[12:16] != b"IHDR":
        raise UserError("its header is damaged: replace it")
    return PngHeader(bits=head[24], is_grey=head[25] == 0)


def ppm_white(file: Path) -> int:
    """The number that is white in a PGM or PPM file, from its header; 1 in a PBM file, which holds
    bits and does not say it. Raises UserError if the header is longer than any program writes."""
    head = first_bytes(file, 1 << 16)
    if head.startswith((b"P1", b"P4")):
        return 1
    without_comments = re.sub(rb"#[^\r\n]*[\r\n]", b"", head)
    header = re.match(rb"P[2356]\s+\d+\s+\d+\s+(\d+)\s", without_comments)
    if header is None:
        raise UserError("its header is not understood: save it again")
    return int(header[1])


class TiffTags(NamedTuple):
    bits: int                                            # of each channel, the largest
    is_signed: bool                                      # whole numbers with a sign
    white_is_zero: bool
    has_planes: bool                                     # each channel stored on its own
    is_compressed: bool
    is_big_endian: bool


def tiff_tags(image: TiffImagePlugin.TiffImageFile) -> TiffTags:
    tags = image.tag_v2
    return TiffTags(bits=max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))),
                    is_signed=max(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))) == 2,
                    white_is_zero=tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0,
                    has_planes=tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2,
                    is_compressed=tags.get(TiffImagePlugin.COMPRESSION, 1) != 1,
                    is_big_endian=tags.prefix == b"MM")


def first_bytes(file: Path, count: int) -> bytes:
    with file.open("rb") as content:
        return content.read(count)


# From any kind of image to 8 bits of grey or colour, with or without an alpha channel.

class Mapped(NamedTuple):
    """An image in one of Pillow's modes of 8 bits, and the share of its numbers that were outside
    pixel_range."""

    picture: Image.Image
    clipped: float = 0.0


def in_8_bits(file: Path, image: Image.Image, pixel_range: tuple[float, float] | None) -> Mapped:
    """A loaded image with its numbers mapped by pixel_range."""
    white_is_zero, is_signed = False, False
    if image.format == "TIFF":
        tags = tiff_tags(image)
        white_is_zero, is_signed = tags.white_is_zero, tags.is_signed
    if image.mode in DEEP_MODES or is_signed:
        return deep_grey_in_8_bits(file, image, pixel_range, white_is_zero)
    if image.mode == "La":                               # which Pillow only converts to LA
        image = image.convert("LA")
    if image.format == "PNG":
        scale_clear_number(file, image)
    if pixel_range is None:
        return Mapped(image)
    has_alpha = image.has_transparency_data
    image = image.convert("RGBA" if has_alpha else "RGB")
    numbers = np.asarray(image.convert("RGB"))
    if white_is_zero:
        numbers = 255 - numbers                          # back to the file's
    levels = to_levels(numbers, *pixel_range)
    if white_is_zero:
        levels = 255 - levels
    picture = Image.fromarray(levels)
    if has_alpha:
        picture.putalpha(image.getchannel("A"))
    return Mapped(picture, share_outside(numbers, pixel_range))


def deep_grey_in_8_bits(file: Path, image: Image.Image, pixel_range: tuple[float, float] | None,
                        white_is_zero: bool) -> Mapped:
    """One channel of more than 8 bits, or with a sign, as L, or LA where one number is clear.

    Raises UserError if only a pixel_range says which number is white.
    """
    numbers, white = np.asarray(image), None
    if image.format == "PNG":
        white = 65535
    elif image.format == "PPM" and image.mode == "I":
        white = ppm_white(file)
        numbers = np.rint(numbers * (white / 65535))     # to which Pillow has scaled them
    elif image.format == "TIFF":
        tags = tiff_tags(image)
        if image.mode.startswith("I;16"):
            white = 2 ** tags.bits - 1
        elif image.mode == "L":
            numbers = numbers.view(np.int8)
        elif image.mode == "I" and tags.bits == 32 and not tags.is_signed:
            numbers = numbers.view(np.uint32)
    if pixel_range is None and white is None:
        raise UserError("it has signed, 32-bit or floating point numbers: --pixel_range LOW HIGH "
                        "says which are black and white")
    numbers_range = pixel_range or (0, white)
    levels = to_levels(numbers, *numbers_range)
    if white_is_zero:
        levels = 255 - levels
    picture = Image.fromarray(levels)
    clear = image.info.get("transparency")
    if clear is not None:
        picture.putalpha(Image.fromarray(np.where(numbers == clear, 0, 255).astype(np.uint8)))
    return Mapped(picture, share_outside(numbers, numbers_range))


def to_levels(numbers: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers of any type to uint8: low to 0, high to 255, linear, rounded and clipped.

    Raises UserError if some are not finite.
    """
    if not np.isfinite(numbers).all():
        raise UserError("it has pixels that are not finite numbers: replace them")
    scaled = (numbers.astype(float) - low) * 255 / (high - low)
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def share_outside(numbers: np.ndarray, numbers_range: tuple[float, float]) -> float:
    """The share of numbers below or above a range (low, high), whichever of the two is larger."""
    low, high = sorted(numbers_range)
    return float(((numbers < low) | (numbers > high)).mean())


def scale_clear_number(file: Path, image: Image.Image):
    """Scales the number that means transparent in grey PNG files of 2 and 4 bits, as Pillow does
    with the pixels, but not with it."""
    header = png_header(file)
    if header.is_grey and header.bits in (2, 4) and "transparency" in image.info:
        image.info["transparency"] *= 255 // (2 ** header.bits - 1)


# From 8 bits to a square picture.

def opaque(image: Image.Image) -> Image.Image:
    """Any image of 8 bits as RGB; transparent areas become white."""
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def orientation_of(image: Image.Image) -> int:
    """How a loaded image is to be turned, by EXIF's number; 1 is upright."""
    with suppress(Exception):                            # a damaged EXIF block is no reason to fail
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    return 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image turned as EXIF's orientation says."""
    bare = Image.fromarray(np.asarray(image))            # without metadata that may be damaged
    bare.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(bare)


def draft_size(size: tuple[int, int], side: int, fit: str) -> tuple[int, int]:
    """Twice the size that is needed of an image of this size: what decoding must give at least."""
    if fit == "pad":
        return tuple(2 * edge for edge in padded_inner_size(size, side))
    return 2 * side, 2 * side


def fitted(image: Image.Image, box: tuple[float, float, float, float], side: int, fit: str
           ) -> Image.Image:
    """The box (0, 0, width, height) of an image as a square; fit is crop, pad or stretch.

    Of an image that was reduced while it was decoded, the last row and column may be a part of a
    pixel: its width and height are then no whole numbers.
    """
    width, height = box[2:]
    if fit == "crop":
        edge = min(width, height)
        left, top = (width - edge) / 2, (height - edge) / 2
        return image.resize((side, side), box=(left, top, left + edge, top + edge))
    if fit == "stretch":
        return image.resize((side, side), box=box)
    inner = image.resize(padded_inner_size((width, height), side), box=box)
    return ImageOps.pad(inner, (side, side))             # which alone loses very narrow images


def padded_inner_size(size: tuple[float, float], side: int) -> tuple[int, int]:
    """The size of an image that was reduced to fit into a square, in its own proportions."""
    longer = max(size)
    return tuple(max(1, round(edge / longer * side)) for edge in size)
