"""Image folders: every case of tests.inputs, and what is told when many images are decoded."""

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, JpegImagePlugin

from images import decode as decoder
from images.cache import read_image_files
from images.decode import available_cores, decode, decode_all, hints
from images.folders import find_images, list_images, shown
from tests.image_files import PHOTO, RAMP16, WIDE, content, exif, saved
from tests.inputs import CASES, empty, plant, refused
from utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")        # Pillow's, about the damage that is tested


@pytest.mark.parametrize("name", CASES)
def test_right_pixels_or_a_line(name, tmp_path):
    CASES[name](name, tmp_path)


def test_plain_files_are_as_pillow_fits_them(tmp_path):
    for shape in ((40, 30, 3), (31, 47), (8, 64, 3)):
        picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "image.jpg")
        with Image.open(tmp_path / "image.jpg") as image:
            expected = np.array(ImageOps.fit(image.convert("RGB"), (16, 16)))
        found = decode(tmp_path / "image.jpg", 16)
        assert (found.pixels.permute(1, 2, 0).numpy() == expected).all()
        assert found.cropped == pytest.approx(1 - min(shape[:2]) / max(shape[:2]))
        assert 128 < found.brightest <= 255


def test_the_bits_of_a_bitmap_are_black_and_white_numbers_in_a_range(tmp_path):
    """A PBM file holds bits: after they are scaled, 0 and 255, as those of other kinds."""
    for kind, bits in (("P4", bytes([0x0F] * 8)), ("P1", b"0 0 0 0 1 1 1 1\n" * 8)):
        file = tmp_path / f"{kind}.pbm"
        file.write_bytes(f"{kind} 8 8\n".encode() + bits)
        row = decode(file, 8, pixel_range=(0, 510)).pixels[0, 0]
        assert row.tolist() == [128] * 4 + [0] * 4


# Photographs: reduced while they are decoded, where that is enough.

def photograph(size: tuple[int, int]) -> Image.Image:
    """Smooth areas, edges and some noise."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = small.resize(size, Image.Resampling.BICUBIC)
    image.paste((250, 240, 30), (size[0] // 3, size[1] // 3, size[0] // 2, size[1] // 2))
    noisy = np.asarray(image) + rng.normal(0, 5, (size[1], size[0], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture
def drafts(monkeypatch):
    """How many times smaller each decoded file was than its pixels on the disk."""
    factors, true = [], JpegImagePlugin.JpegImageFile.draft

    def draft(image, mode, size):
        before = image.size
        result = true(image, mode, size)
        factors.append(round(before[0] / image.size[0]))
        assert factors[-1] == 1 or (image.width >= size[0] and image.height >= size[1])
        return result

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", draft)
    return factors


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_large_photograph_is_nearly_as_a_full_decode_has_it(tmp_path, fit, drafts, monkeypatch):
    """Within 1 level on average and 16 at an edge."""
    photograph((801, 600)).save(tmp_path / "image.jpg", quality=92)
    reduced = decode(tmp_path / "image.jpg", 64, fit=fit).pixels
    assert drafts == [4]
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", lambda *_: None)
    full = decode(tmp_path / "image.jpg", 64, fit=fit).pixels
    difference = (reduced.int() - full.int()).abs()
    assert 0 < difference.float().mean() < 1 and difference.max() <= 16


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(100, 127), (64, 64), (40, 30), (2000, 70)])
def test_a_photograph_that_is_not_halved_is_decoded_in_full(tmp_path, fit, size, drafts,
                                                            monkeypatch):
    photograph(size).save(tmp_path / "image.jpg", quality=92)
    found = decode(tmp_path / "image.jpg", 64, fit=fit)
    if (fit, size) != ("pad", (2000, 70)):               # which is 64 × 2 in its square
        assert drafts == [1]
        monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", lambda *_: None)
        assert torch.equal(found.pixels, decode(tmp_path / "image.jpg", 64, fit=fit).pixels)
    assert found.cropped == (1 - min(size) / max(size) if fit == "crop" else 0)


def test_a_range_of_numbers_needs_all_pixels_of_a_photograph(tmp_path, drafts):
    photograph((801, 600)).save(tmp_path / "image.jpg")
    decode(tmp_path / "image.jpg", 64, pixel_range=(10, 200))
    assert drafts == []


def test_a_turned_photograph_is_reduced_too(tmp_path, drafts):
    image = photograph((801, 600))
    image.save(tmp_path / "turned.jpg", exif=exif(6), quality=92)
    image.save(tmp_path / "image.jpg", quality=92)
    turned, plain = (decode(tmp_path / name, 64).pixels for name in ("turned.jpg", "image.jpg"))
    assert drafts == [4, 4]
    assert torch.equal(turned, plain.rot90(-1, (1, 2)))


def test_threads_keep_the_order_of_files(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(60)]
    for i, file in enumerate(files):
        Image.new("L", (8, 8), i).save(file)
    images, facts = torch.zeros(60, 1, 8, 8, dtype=torch.uint8), empty(60)[1]
    decode_all(files, images, facts, tmp_path / "report.txt")
    assert images[:, 0, 0, 0].tolist() == list(range(60)) == facts[:, 1].tolist()
    assert 1 <= available_cores() <= os.cpu_count()


def test_stopped_by_hand_it_keeps_what_is_decoded_and_begins_no_more(tmp_path, monkeypatch):
    """Ctrl-C at the fifth file; those that are under way then are finished."""
    files = [tmp_path / f"{i}.png" for i in range(100)]
    for file in files:
        saved(PHOTO, "PNG")(file)
    stopped = threading.Event()

    def stopping(file, *settings):
        if file == files[4]:
            raise KeyboardInterrupt
        if file in files[5:]:
            assert stopped.wait(60)
        return decode(file, *settings)

    class Threads(ThreadPoolExecutor):
        def shutdown(self, **options):
            super().shutdown(wait=False, **options)
            stopped.set()
            super().shutdown()

    monkeypatch.setattr(decoder, "decode", stopping)
    monkeypatch.setattr(decoder, "ThreadPoolExecutor", Threads)
    images, facts = empty(100)
    with pytest.raises(KeyboardInterrupt):
        decode_all(files, images, facts, tmp_path / "report.txt")
    done = ~facts.isnan().any(1)
    assert done[:4].all() and not done[4]
    assert done[5:].sum() <= available_cores()
    assert (images[done].permute(0, 2, 3, 1).numpy() == PHOTO).all()


def test_noise_in_a_file_ends_in_a_line_or_pixels(tmp_path):
    dice = random.Random(0)
    for kind in ("BMP", "GIF", "JPEG", "PNG", "PPM", "WEBP"):
        whole = content(PHOTO, kind)
        for _ in range(40):
            noisy = bytearray(whole)
            for _ in range(dice.randint(1, 4)):
                noisy[dice.randrange(len(noisy))] = dice.randrange(256)
            (tmp_path / "image").write_bytes(noisy)
            try:
                assert decode(tmp_path / "image", 8).pixels.shape == (3, 8, 8)
            except UserError as mistake:
                assert str(mistake).isprintable()


def test_all_unreadable_files_are_told_and_the_others_kept(tmp_path):
    plant(tmp_path, "a/x\ny.png")
    for i in range(12):
        (tmp_path / "a" / f"bad{i:02}.png").write_bytes(b"junk")
    (tmp_path / "b" / "far.png").symlink_to("gone")
    files = find_images(tmp_path).files
    out, facts = empty(len(files))
    with pytest.raises(UserError) as caught:
        decode_all(files, out, facts, tmp_path / "report.txt")
    line, listed = str(caught.value), (tmp_path / "report.txt").read_text("utf-8").splitlines()
    assert line.startswith(f"13 of {len(files)} images cannot be read") and line.isprintable()
    assert "bad09.png" in line and "bad10.png" not in line and "report.txt" in line
    assert len(listed) == 13 and "far.png cannot be read: No such file" in listed[-1]
    done = ~facts.isnan().any(1)
    assert done.sum() == 3 and all((out[done].permute(0, 2, 3, 1).numpy() == PHOTO).all((1, 2, 3)))

    for i, file in enumerate(files):                     # mended; and what was kept stays as it is
        if not done[i]:
            file.unlink()
            saved(PHOTO, "PNG")(file)
    out[done] = 7
    decode_all(files, out, facts, tmp_path / "report.txt")
    assert not (tmp_path / "report.txt").exists()        # it has names of private files
    assert hints(facts, files) == []
    assert (out[done] == 7).all() and not (out[~done] == 7).all()


def test_crops_and_dark_images_are_told(tmp_path):
    saved(WIDE, "PNG")(tmp_path / "1.png")
    saved(RAMP16 >> 4, "PNG")(tmp_path / "2.png")        # 12 bits of 16
    files, skipped = list_images(tmp_path)
    assert skipped == 0
    both, wide, dark = files, files[:1], files[1:]
    assert told_of(both, tmp_path)[0].startswith("1 of 2 images lose over a third")
    assert len(told_of(dark, tmp_path)) == 1 and "--pixel_range" in told_of(dark, tmp_path)[0]
    assert told_of(dark, tmp_path, pixel_range=(0, 4095)) == []
    assert told_of(wide, tmp_path, fit="pad") == []


@pytest.mark.parametrize("pixel_range, dark", [(None, "more than 8 bits"), ((0, 4095), "8 bits")])
def test_dark_images_of_one_depth_among_others_are_told(tmp_path, pixel_range, dark):
    """12 bits in files of 16 beside files of 8 bits: no range is right for both."""
    for i in range(3):
        saved(PHOTO, "PNG")(tmp_path / f"8-{i}.png")
    saved(RAMP16 >> 4, "PNG")(tmp_path / "12.png")
    files, _ = list_images(tmp_path)
    [line] = told_of(files, tmp_path, pixel_range=pixel_range)
    count = 1 if pixel_range is None else 3
    names = "12.png" if pixel_range is None else "8-2.png"
    assert f"{names} have {dark} and no pixel above an eighth of the range" in line
    assert f"{4 - count} of 4 files have another depth: convert the files" in line


COLOURS = np.full((8, 8, 3), [0, 150, 255], np.uint8)
NUMBERS = np.arange(64, dtype=np.float32).reshape(8, 8)


@pytest.mark.parametrize("numbers, pixel_range, share", [
    ((1024 * NUMBERS).astype(np.uint16)[::-1], (0, 4095), "94%"),
    (COLOURS, (100, 200), "67%"), (COLOURS, (200, 100), "67%"),
    (NUMBERS, (-1000, 47.5), "25%"), (NUMBERS, (3, 63), None), (COLOURS, None, None)],
    ids=["16 bits read as 12", "a window of colours", "black is the higher number",
         "floating point", "few pixels", "no range"])
def test_a_range_that_clips_many_pixels_is_told(tmp_path, numbers, pixel_range, share):
    kind = "tif" if numbers.dtype == np.float32 else "png"
    Image.fromarray(np.ascontiguousarray(numbers)).save(tmp_path / f"1.{kind}")
    told = told_of(list_images(tmp_path)[0], tmp_path, pixel_range=pixel_range)
    if share is None:
        assert told == []
        return
    [line] = told
    low, high = pixel_range
    assert line.startswith(f"{share} of the pixels are outside pixel_range {low:g} to {high:g} ")
    assert "--pixel_range LOW HIGH" in line


def told_of(files, folder, pixel_range=None, **options) -> list[str]:
    """The hints about some files."""
    images, facts = empty(len(files))
    decode_all(files, images, facts, folder / "report.txt", pixel_range=pixel_range, **options)
    return hints(facts, files, pixel_range)


def test_one_channel(tmp_path):
    saved(PHOTO, "PNG")(tmp_path / "1.png")
    out = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    decode_all([tmp_path / "1.png"], out, empty(1)[1], tmp_path / "report.txt")
    assert (out[0, 0].numpy() == np.asarray(Image.fromarray(PHOTO).convert("L"))).all()


def test_what_may_not_be_read_is_no_longer_called_no_image(tmp_path):
    plant(tmp_path / "root")
    image = tmp_path / "root" / "a" / "1.png"
    user = os.geteuid()
    try:
        image.chmod(0)
        image.parent.chmod(0o755)
        if user == 0:                                    # who may read everything
            for folder in [*image.parents][:-2]:
                folder.chmod(0o755)
            os.seteuid(65534)
        refused(lambda: decode(image, 8), "cannot be read: Permission denied")
        os.seteuid(user)
        image.parent.chmod(0)
        os.seteuid(65534 if user == 0 else user)
        refused(lambda: find_images(tmp_path / "root"), "cannot be read (Permission denied")
    finally:
        os.seteuid(user)
        image.parent.chmod(0o755)


def test_names_are_shown_on_one_line():
    assert shown("a b/ü.png") == "a b/ü.png"
    assert shown(os.fsdecode(b"caf\xe9\n\x1b.png")) == r"caf\xe9\n\x1b.png"
    assert shown("x\u2028y\u202e") == r"x\u2028y\u202e"


def test_images_of_more_channels_than_files_have_are_refused_in_one_line(tmp_path):
    """And not file by file, as if these were damaged."""
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(UserError, match=r"5 channels are needed.*give an array \(.npy\)"):
        read_image_files([tmp_path / "0.png"], (5, 8, 8), "crop", None, tmp_path / "kept", "test")
