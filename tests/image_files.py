"""Image files of every kind, each with its right pixels or with words of its refusal: FILES."""

import io
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import tifffile
from PIL import Image

RAMP16 = np.tile(np.arange(8) * 65535 // 7, (8, 1)).astype(np.uint16)
RAMP8 = np.tile([0, 36, 73, 109, 146, 182, 219, 255], (8, 1)).astype(np.uint8)
RNG = np.random.default_rng(0)
NOISE16 = RNG.integers(0, 65536, (8, 8, 4), dtype=np.uint16)
NOISE8 = RNG.integers(0, 256, (8, 8, 4), dtype=np.uint8)
PHOTO = NOISE8[..., :3].copy()
TURNED = {1: PHOTO, 2: PHOTO[:, ::-1], 3: PHOTO[::-1, ::-1], 4: PHOTO[::-1],
          5: PHOTO.swapaxes(0, 1), 6: np.rot90(PHOTO, -1), 7: np.rot90(PHOTO, 2).swapaxes(0, 1),
          8: np.rot90(PHOTO)}                            # as shown, for each number of EXIF's
HALF = np.dstack([PHOTO, np.full((8, 8), 255, np.uint8)])
HALF[:, :4, 3] = 0                                       # colours that somebody has erased
ERASED = PHOTO.copy()
ERASED[:, :4] = 255


def rounded(numbers, low=0, high=65535):
    """What numbers of more than 8 bits become."""
    shares = (numbers.astype(np.float64) - low) / (high - low)
    return np.clip(np.round(255 * shares), 0, 255).astype(np.uint8)


def saved(image, kind, **options):
    """Writes an array or image with Pillow."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    return lambda path: image.save(path, kind, **options)


def since_pillow_13(pixels):
    """The pixels of a rare TIFF, which earlier versions do not read: then it is refused."""
    return pixels if int(PIL.__version__.split(".")[0]) >= 13 else "cannot be read"


def as_is(content: bytes):
    return lambda path: path.write_bytes(content)


def content(image, kind, **options) -> bytes:
    buffer = io.BytesIO()
    saved(image, kind, **options)(buffer)
    return buffer.getvalue()


def png(bits, colour, rows, *chunks, first=None, width=8) -> bytes:
    """A PNG file of rows of bytes, for the kinds that Pillow does not write; `first` comes before
    its header."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(
            ">I", zlib.crc32(name + data))
    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + (chunk(*first) if first else b"") + chunk(b"IHDR", head)
            + b"".join(chunk(*c) for c in chunks)
            + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
            + chunk(b"IEND", b""))


def rows16(numbers):
    return [row.astype(">u2").tobytes() for row in numbers]


def tiff(numbers, **options):
    options = {"photometric": "minisblack" if numbers.ndim == 2 else "rgb", **options}
    return lambda path: tifffile.imwrite(path, numbers, **options)


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x112] = orientation
    return block


def lost_exif(path):
    """A TIFF file, turned, whose EXIF block would lie far behind its end."""
    tiff(PHOTO, extratags=[(274, "H", 1, 6, True), (65000, "I", 1, 99999999, True)])(path)
    path.write_bytes(path.read_bytes().replace(struct.pack("<H", 65000), struct.pack("<H", 34665)))


def pnm(head: str, numbers) -> bytes:
    return head.encode() + numbers.astype(">u2" if numbers.dtype == np.uint16 else "u1").tobytes()


def palette(alpha=None, **options):
    image = Image.fromarray(NOISE8[..., 0] % 4).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120] + [0] * 756)
    return lambda path: image.save(path, options.get("kind", "PNG"), transparency=alpha)


COLOURS = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]])
MAPPED = COLOURS[NOISE8[..., 0] % 4]
FIRST_CLEAR = np.where((NOISE8[..., :1] % 4) == 0, 255, MAPPED)


def bmp_header(width: int, height: int) -> bytes:
    """The beginning of a BMP file, which is all that must be read to refuse it."""
    return b"BM" + struct.pack("<IIIIiiHHIIIIII", 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0,
                               0)


def frames(kind):
    return saved(Image.fromarray(PHOTO), kind, save_all=True,
                 append_images=[Image.fromarray(255 - PHOTO)])


def bound(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


WIDE = np.repeat(np.arange(16, dtype=np.uint8)[None] * 17, 8, 0)         # 8 rows of 16
FLOATS = (RAMP16 / 65535).astype(np.float32)
# Words of refusals.
DEEP_COLOURS = "16 bits in each colour"
UNREAD_TIFF = "a TIFF of a kind that Pillow does not read"
BYTE_ORDER = "the order of its bytes"

# name: (how to write the file; the pixels, or words of the refusal; decode's options). 8 x 8.
FILES = {
    # 16 bits and more, grey
    "PNG, 16 bits": (saved(RAMP16, "PNG"), RAMP8, {}),
    "PNG, 16 bits, any numbers": (saved(NOISE16[..., 0].copy(), "PNG"),
                                  rounded(NOISE16[..., 0]), {}),
    "PGM, 16 bits": (as_is(pnm("P5 8 8 65535\n", RAMP16)), RAMP8, {}),
    "PGM, 12 bits": (as_is(pnm("P5 8 8 4095\n", RAMP16 >> 4)), rounded(RAMP16 >> 4, 0, 4095), {}),
    "PGM, 12 bits, range": (as_is(pnm("P5 8 8 4095\n", RAMP16 >> 4)),
                            rounded(RAMP16 >> 4, 1000, 3000), {"pixel_range": (1000, 3000)}),
    "PGM, 16 bits, range": (as_is(pnm("P5 8 8 65535\n", RAMP16 >> 4)),
                            rounded(RAMP16 >> 4, 0, 4095), {"pixel_range": (0, 4095)}),
    "PGM, 4 bits": (as_is(pnm("P5 8 8 15\n", NOISE8[..., 0] >> 4)), (NOISE8[..., 0] >> 4) * 17, {}),
    "PGM, 8 bits": (as_is(pnm("P5 8 8 255\n", NOISE8[..., 0])), NOISE8[..., 0], {}),
    "PGM in words": (as_is(b"P2 8 8 65535\n" + " ".join(map(str, RAMP16.flat)).encode()),
                     RAMP8, {}),
    "PBM": (as_is(b"P4 8 8\n" + bytes([0x0F] * 8)), np.tile([255] * 4 + [0] * 4, (8, 1)), {}),
    "PFM": (as_is(b"Pf 8 8 -1.0\n" + FLOATS[::-1].tobytes()), "pixel_range", {}),
    "PFM, range": (as_is(b"Pf 8 8 -1.0\n" + FLOATS[::-1].tobytes()), RAMP8,
                   {"pixel_range": (0, 1)}),
    "PFM, not finite": (as_is(b"Pf 8 8 -1.0\n" + np.full((8, 8), np.nan, "<f4").tobytes()),
                        "finite", {"pixel_range": (0, 1)}),
    "PNG, 16 bits, range": (saved(RAMP16 >> 4, "PNG"), rounded(RAMP16 >> 4, 0, 4095),
                            {"pixel_range": (0, 4095)}),
    "PNG, 8 bits, range": (saved(NOISE8[..., 0].copy(), "PNG"), rounded(NOISE8[..., 0], 50, 150),
                           {"pixel_range": (50, 150)}),
    "PNG, RGB, range": (saved(PHOTO, "PNG"), rounded(PHOTO, 50, 150), {"pixel_range": (50, 150)}),
    "PNG, RGBA, range": (saved(HALF, "PNG"), np.where(HALF[..., 3:] == 0, 255, rounded(
        PHOTO, 50, 150)), {"pixel_range": (50, 150)}),
    "PNG, palette, range": (palette(), rounded(MAPPED, 50, 150), {"pixel_range": (50, 150)}),
    "PNG, 16 bits, clear number": (as_is(png(16, 0, rows16(RAMP16), (b"tRNS", RAMP16[0, 2].tobytes(
    )[::-1]))), np.where(RAMP8 == 73, 255, RAMP8), {}),
    # 16 bits, colour: of which Pillow keeps 8
    "PNG, RGB of 16 bits": (as_is(png(16, 2, rows16(NOISE16[..., :3]))), DEEP_COLOURS, {}),
    "PNG, RGB of 16 bits, range": (as_is(png(16, 2, rows16(NOISE16[..., :3] >> 4))), DEEP_COLOURS,
                                   {"pixel_range": (0, 4095)}),
    "PNG, RGB of 16 bits, clear colour": (
        as_is(png(16, 2, rows16(NOISE16[..., :3]), (b"tRNS", rows16(NOISE16[:1, :1, :3])[0]))),
        DEEP_COLOURS, {}),
    "PNG, RGBA of 16 bits": (as_is(png(16, 6, rows16(NOISE16))), DEEP_COLOURS, {}),
    "PNG, grey and alpha of 16 bits": (as_is(png(16, 4, rows16(NOISE16[..., 2:]))), DEEP_COLOURS,
                                       {}),
    "PNG, RGB of 16 bits, its header second": (
        as_is(png(16, 2, rows16(NOISE16[..., :3]), first=(b"tEXt", b"Title\0none"))),
        "header is damaged", {}),
    "TIFF, RGBA of 16 bits": (tiff(NOISE16, extrasamples=["unassalpha"]), DEEP_COLOURS, {}),
    "TIFF, premultiplied RGBA of 16 bits": (tiff(NOISE16, extrasamples=["assocalpha"]),
                                            DEEP_COLOURS, {}),
    "TIFF, RGB of 16 bits and one unknown": (tiff(NOISE16, extrasamples=["unspecified"]),
                                             DEEP_COLOURS, {}),
    "TIFF, CMYK of 16 bits": (tiff(NOISE16, photometric="separated"), DEEP_COLOURS, {}),
    "TIFF, planes of 16 bits": (tiff(NOISE16[..., :3].transpose(2, 0, 1),
                                     planarconfig="separate"), "planes", {}),
    "PPM, 16 bits": (as_is(pnm("P6 8 8 65535\n", NOISE16[..., :3])), rounded(NOISE16[..., :3]), {}),
    "PPM, 16 bits, range": (as_is(pnm("P6 8 8 65535\n", NOISE16[..., :3])), DEEP_COLOURS,
                            {"pixel_range": (0, 4095)}),
    "PPM, 8 bits, range": (as_is(pnm("P6 8 8 255\n", PHOTO)), rounded(PHOTO, 50, 150),
                           {"pixel_range": (50, 150)}),
    "PGM, 12 bits, comments, range": (
        as_is(pnm("P5 # 9 9 9\n8 #\n8\n# 65535\n4095\n", RAMP16 >> 4)),
        rounded(RAMP16 >> 4, 1000, 3000), {"pixel_range": (1000, 3000)}),
    "PGM, 12 bits, a header that never ends": (
        as_is(pnm("P5 #" + 70_000 * "x" + "\n8 8 4095\n", RAMP16 >> 4)), "header is not understood",
        {}),
    "TIFF, 64-bit floats": (tiff(FLOATS.astype(np.float64)), UNREAD_TIFF, {}),
    # 1, 2 and 4 bits
    "PNG, 1 bit": (as_is(png(1, 0, [b"\x0f"] * 8)), np.tile([0] * 4 + [255] * 4, (8, 1)), {}),
    "PNG, 2 bits": (as_is(png(2, 0, [b"\x1b\xe4"] * 8)), np.tile(
        [0, 85, 170, 255, 255, 170, 85, 0], (8, 1)), {}),
    "PNG, 4 bits": (as_is(png(4, 0, [b"\x01\x23\x45\xff"] * 8)), np.tile(
        [0, 17, 34, 51, 68, 85, 255, 255], (8, 1)), {}),
    "PNG, 1 bit, clear": (as_is(png(1, 0, [b"\x0f"] * 8, (b"tRNS", b"\0\0"))),
                          np.full((8, 8), 255), {}),
    "PNG, 2 bits, clear": (as_is(png(2, 0, [b"\x1b\xe4"] * 8, (b"tRNS", b"\0\1"))), np.tile(
        [0, 255, 170, 255, 255, 170, 255, 0], (8, 1)), {}),
    "PNG, 4 bits, clear": (as_is(png(4, 0, [b"\x01\x23\x45\xff"] * 8, (b"tRNS", b"\0\5"))), np.tile(
        [0, 17, 34, 51, 68, 255, 255, 255], (8, 1)), {}),
    "TIFF, 1 bit": (saved(Image.fromarray(RAMP8).convert("1", dither=0), "TIFF",
                          compression="group4"), np.where(RAMP8 > 127, 255, 0), {}),
    # transparency
    "PNG, RGBA": (saved(HALF, "PNG"), ERASED, {}),
    "PNG, RGBA, half clear": (saved(np.full((8, 8, 4), [200, 100, 0, 128], np.uint8), "PNG"),
                              np.full((8, 8, 3), [227, 177, 127]), {}),
    "PNG, LA": (saved(Image.fromarray(np.dstack([HALF[..., 0], HALF[..., 3]])), "PNG"),
                ERASED[..., 0], {}),
    "PNG, RGB, clear colour": (saved(PHOTO, "PNG", transparency=tuple(map(int, PHOTO[0, 0]))),
                               np.where((PHOTO[0, 0] == PHOTO).all(-1, keepdims=True), 255, PHOTO),
                               {}),
    "PNG, L, clear number": (saved(RAMP8, "PNG", transparency=36),
                             np.where(RAMP8 == 36, 255, RAMP8), {}),
    "PNG, palette": (palette(), MAPPED, {}),
    "PNG, palette, one clear entry": (palette(0), FIRST_CLEAR, {}),
    "PNG, palette, alpha for each entry": (palette(b"\0\0\xff\xff"), np.where(
        NOISE8[..., :1] % 4 < 2, 255, MAPPED), {}),
    "PNG, palette, clear, grey": (palette(0), FIRST_CLEAR, {"channels": 1}),
    "GIF": (palette(kind="GIF"), MAPPED, {}),
    "GIF, one clear entry": (palette(0, kind="GIF"), FIRST_CLEAR, {}),
    "WebP, RGBA": (saved(HALF, "WEBP", lossless=True, exact=True), ERASED, {}),
    "WebP, RGB": (saved(PHOTO, "WEBP", lossless=True), PHOTO, {}),
    "TIFF, RGBA": (saved(HALF, "TIFF"), ERASED, {}),
    "TIFF, RGBA, deflated": (saved(HALF, "TIFF", compression="tiff_deflate"), ERASED, {}),
    "TIFF, premultiplied": (tiff(HALF * (HALF[..., 3:] // 255), extrasamples=["assocalpha"]),
                            ERASED, {}),
    "TIFF, LA": (tiff(HALF[..., [0, 3]], photometric="minisblack", planarconfig="contig",
                      extrasamples=["unassalpha"]), ERASED[..., 0], {}),
    "TIFF, premultiplied grey": (tiff(HALF[..., [0, 3]] * (HALF[..., 3:] // 255),
                                      photometric="minisblack", planarconfig="contig",
                                      extrasamples=["assocalpha"]),
                                 since_pillow_13(ERASED[..., 0]), {}),
    "TIFF, premultiplied grey, range": (
        tiff(HALF[..., [0, 3]] * (HALF[..., 3:] // 255), photometric="minisblack",
             planarconfig="contig", extrasamples=["assocalpha"]),
        since_pillow_13(np.where(HALF[..., 3] == 0, 255, rounded(PHOTO[..., 0], 50, 150))),
        {"pixel_range": (50, 150)}),
    # other colours
    "BMP": (saved(PHOTO, "BMP"), PHOTO, {}),
    "BMP, 32 bits": (saved(HALF, "BMP"), PHOTO, {}),
    "BMP, palette": (palette(kind="BMP"), MAPPED, {}),
    "PPM": (saved(PHOTO, "PPM"), PHOTO, {}),
    "TIFF, CMYK": (saved(Image.fromarray(PHOTO).convert("CMYK"), "TIFF"), PHOTO, {}),
    "TIFF, planes": (tiff(PHOTO.transpose(2, 0, 1), planarconfig="separate"), PHOTO, {}),
    "TIFF, YCbCr": (saved(Image.fromarray(PHOTO).convert("YCbCr"), "TIFF"), since_pillow_13(
        np.asarray(Image.fromarray(PHOTO).convert("YCbCr").convert("RGB"))), {}),
    "TIFF, LAB": (saved(Image.fromarray(RAMP8).convert("RGB").convert("LAB"), "TIFF"), RAMP8, {}),
    "JPEG, CMYK": (saved(Image.new("CMYK", (8, 8), (0, 0, 0, 155)), "JPEG"),
                   np.full((8, 8), 100), {}),
    "JPEG, grey": (saved(np.full((8, 8), 100, np.uint8), "JPEG"), np.full((8, 8), 100), {}),
    "colour as grey": (saved(PHOTO, "PNG"), np.asarray(Image.fromarray(PHOTO).convert("L")),
                       {"channels": 1}),
    "grey as grey": (saved(RAMP8, "PNG"), RAMP8, {"channels": 1}),
    "16 bits as grey": (saved(RAMP16, "PNG"), RAMP8, {"channels": 1}),
    # EXIF
    "PNG, damaged EXIF": (saved(PHOTO, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"), PHOTO, {}),
    "JPEG, damaged EXIF": (saved(np.full((8, 8), 100, np.uint8), "JPEG", exif=b"Exif\0\0junk"),
                           np.full((8, 8), 100), {}),
    "WebP, damaged EXIF": (saved(PHOTO, "WEBP", lossless=True, exif=b"\xff" * 20), PHOTO, {}),
    "PNG, EXIF cut short": (saved(PHOTO, "PNG", exif=exif(6).tobytes()[:-9]), PHOTO, {}),
    "PNG, EXIF cut short after its orientation": (
        saved(PHOTO, "PNG", exif=exif(6).tobytes()[:-4]), TURNED[6], {}),
    "TIFF, damaged EXIF": (lost_exif, TURNED[6], {}),
    "PNG, an orientation of 99": (saved(PHOTO, "PNG", exif=exif(99)), PHOTO, {}),
    "PNG, 16 bits, turned": (saved(RAMP16, "PNG", exif=exif(6)), np.rot90(RAMP8, -1), {}),
    "TIFF, 16 bits, turned": (tiff(RAMP16, extratags=[(274, "H", 1, 6, True)]),
                              np.rot90(RAMP8, -1), {}),
    "PNG, RGBA, turned": (saved(HALF, "PNG", exif=exif(6)), np.rot90(ERASED, -1), {}),
    # several pages and frames
    **{f"{kind}, two frames": (frames(kind), "several pages or frames", {})
       for kind in ("TIFF", "GIF", "WEBP", "PNG")},
    "TIFF, a pyramid": (lambda path: [tifffile.imwrite(path, PHOTO[::s, ::s].copy(), append=s > 1,
                                                       photometric="rgb") for s in (1, 2, 4)],
                        "several pages or frames", {}),
    "JPEG of a stereo camera (MPO)": (
        saved(Image.new("L", (8, 8), 100), "MPO", save_all=True,
              append_images=[Image.new("L", (8, 8), 200)]), np.full((8, 8), 100), {}),
    # shape
    "wide, cropped": (saved(WIDE, "PNG"), WIDE[:, 4:12], {}),
    "wide, padded": (saved(WIDE, "PNG"), np.pad(np.asarray(Image.fromarray(WIDE).resize((8, 4))),
                                                ((2, 2), (0, 0))), {"fit": "pad"}),
    "wide, stretched": (saved(WIDE, "PNG"), np.asarray(Image.fromarray(WIDE).resize((8, 8))),
                        {"fit": "stretch"}),
    "very wide, padded": (saved(np.full((1, 900), 7, np.uint8), "PNG"),
                          np.pad(np.full((1, 8), 7), ((4, 3), (0, 0))), {"fit": "pad"}),
    "very wide, cropped": (saved(np.full((1, 900), 7, np.uint8), "PNG"), np.full((8, 8), 7), {}),
    "a photograph of 108 megapixels": (as_is(bmp_header(12_000, 9_000)), "108000000 pixels", {}),
    "a photograph of 180 megapixels": (as_is(bmp_header(20_000, 9_000)), "decompression bombs", {}),
    # damaged, hostile, no image
    **{f"{kind}, cut short": (as_is(content(np.tile(PHOTO, (8, 8, 1)), kind)[:-900]),
                              "cannot be read", {})
       for kind in ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")},
    "PNG with a wrong checksum": (as_is(content(PHOTO, "PNG").replace(b"IEND", b"IENE")[:-60]),
                                  "cannot be read", {}),
    "PostScript": (as_is(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nquit\n"),
                   "BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP", {}),
    "text": (as_is(b"no image"), "not an image of a kind that is read", {}),
    "nothing": (as_is(b""), "not an image of a kind that is read", {}),
    "a file in an unreadable place": (lambda path: path.symlink_to("/dev/fd/999/x"),
                                      "cannot be read", {}),
    "a broken link": (lambda path: path.symlink_to("gone"), "No such file", {}),
    "a link to itself": (lambda path: path.symlink_to(path.name), "symbolic links", {}),
    "a link to an image": (lambda path: (saved(PHOTO, "PNG")(path.with_name("other")),
                                         path.symlink_to("other")), PHOTO, {}),
    "a pipe": (os.mkfifo, "device, pipe", {}),
    "a socket": (bound, "device, pipe", {}),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "device, pipe", {}),
    "a folder": (Path.mkdir, "device, pipe", {}),
}
