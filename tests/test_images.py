"""Image folders: every case of tests.inputs, and what is told when many images are decoded."""

import os
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from images.decode import decode, decode_all
from images.folders import find_images, list_images, shown
from tests.image_files import PHOTO, RAMP16, WIDE, content, saved
from tests.inputs import CASES, empty, plant, refused
from utils.settings import UserError

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
        pixels, cut, peak = decode(tmp_path / "image.jpg", 16)
        assert (pixels.permute(1, 2, 0).numpy() == expected).all()
        assert cut == pytest.approx(1 - min(shape[:2]) / max(shape[:2]))
        assert 128 < peak <= 255


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
    assert decode_all(files, out, facts, tmp_path / "report.txt") == []
    assert (out[done] == 7).all() and not (out[~done] == 7).all()


def test_crops_and_dark_images_are_told(tmp_path):
    saved(WIDE, "PNG")(tmp_path / "1.png")
    saved(RAMP16 >> 4, "PNG")(tmp_path / "2.png")        # 12 bits of 16
    files, skipped = list_images(tmp_path)
    assert skipped == 0
    told = decode_all(files, *empty(2), tmp_path / "report.txt")
    assert len(told) == 1 and told[0].startswith("1 of 2 images lose over a third")
    told = decode_all(files[1:], *empty(1), tmp_path / "report.txt")
    assert len(told) == 1 and "--pixel_range" in told[0]
    assert decode_all(files[1:], *empty(1), tmp_path / "report.txt", pixel_range=(0, 4095)) == []
    assert decode_all(files[:1], *empty(1), tmp_path / "report.txt", fit="pad") == []


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
