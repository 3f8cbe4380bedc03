"""Crops and flips behind Aug-Conv are crops and flips of the images."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn import functional as F

from mole.augmentation import flip_some, largest_shift, shift
from mole.first_layer import describe
from tests.layers import REAL, Case, random_cases, real_case, shuffle, through_aug_conv

CASES = pytest.mark.parametrize("name", REAL)


# Flips: F(flip(x)) = flip(F'(x)), everywhere.

def check_flips(case: Case):
    """The mirrored layer, and Aug-Conv of it, in float64 and float32."""
    layer, images = case.layer, case.images()
    expected = layer(images.flip(3))
    mirrored = describe(layer).mirrored(case.shape)
    torch.testing.assert_close(mirrored(images).flip(3), expected, rtol=1e-12, atol=1e-12)

    # As the provider composes it: for images that bring their padding along.
    own = describe(layer).with_less_padding(case.image_padding).mirrored(case.morphed_from)
    padded = Case(layer, case.morphed_from, case.tile, case.kappa)
    images_padded = F.pad(images, [case.image_padding] * 4)
    found = through_aug_conv(padded, images_padded, own).flip(3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    float32 = own._replace(weight=own.weight.float(),
                           bias=None if own.bias is None else own.bias.float())
    found = through_aug_conv(padded, images_padded.float(), float32).flip(3)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@CASES
@pytest.mark.parametrize("by_tiles", [True, False], ids=["by tiles", "without tiles"])
def test_flips_of_features_are_features_of_flips(name, by_tiles):
    check_flips(real_case(name, by_tiles))


@given(random_cases(by_tiles=True))
@settings(max_examples=80, deadline=None)
def test_flips_behind_any_first_layer_by_tiles(case):
    check_flips(case)


@given(random_cases(by_tiles=False))
@settings(max_examples=80, deadline=None)
def test_flips_behind_any_first_layer_without_tiles(case):
    check_flips(case)


@CASES
def test_mirroring_twice_gives_the_same_features(name):
    case = real_case(name)
    once = describe(case.layer).mirrored(case.shape)
    images = case.images()
    torch.testing.assert_close(once.mirrored(case.shape)(images), case.layer(images))


def test_the_padding_of_a_mirrored_layer():
    """(top, bottom, left, right): negative where its windows must begin inside the image."""
    def padding(name):
        layer, side, _ = REAL[name]
        return describe(layer).mirrored((layer.in_channels, side, side)).padding

    assert padding("VGG") == (1, 1, 1, 1)                 # its own
    assert padding("ConvNeXt at 30 pixels") == (0, 0, -2, 0)


# Crops: features of shifted images are shifted features, but for a rim.

def shifts_of(case: Case) -> list[tuple[int, int]]:
    """All shifts that are drawn for a layer, in entries of its features."""
    rows, columns = (largest_shift(stride) for stride in case.layer.stride)
    return list(itertools.product(range(-rows, rows + 1), range(-columns, columns + 1)))


def cut(images: Tensor, rows: int, columns: int) -> Tensor:
    """Images (B, α, m, m): pixel (i, j) becomes (i + rows, j + columns), zeros from outside."""
    side = images.shape[-1]
    far = abs(rows) + abs(columns)
    wide = F.pad(images, [far] * 4)
    return wide[:, :, far + rows:far + rows + side, far + columns:far + columns + side]


def rim_of(case: Case, rows: int, columns: int) -> Tensor:
    """Which entries (n, n) of shifted features differ from the features of the shifted image.

    1. Windows that reach beyond the shifted image, where the plain image had pixels that were cut
       off: they see zeros there.
    2. Entries that came in from outside the plain features, whose windows see pixels all the same.
    """
    described = describe(case.layer)
    ones = torch.ones_like(described.weight[:1, :1])
    counting = described._replace(weight=ones, bias=None, groups=1)
    side = case.shape[1]
    down, right = rows * described.stride[0], columns * described.stride[1]
    far = side + 16                                      # further than any window reaches
    whole = F.pad(torch.ones(1, 1, side, side, dtype=torch.float64), [far] * 4)
    whole = whole.roll((-down, -right), (2, 3))
    seen = F.pad(whole[:, :, far:far + side, far:far + side], [far] * 4)

    # The windows of the layer on these images, which have a margin of `far` more.
    at_the_edge = counting._replace(padding=tuple(p - far for p in described.padding))
    count, n = at_the_edge(seen)[0, 0], described.features_shape(case.shape)[1:]
    lost = at_the_edge(whole - seen)[0, 0] > 0
    assert lost.shape == n
    i, j = torch.meshgrid(torch.arange(n[0]) + rows, torch.arange(n[1]) + columns, indexing="ij")
    from_outside = (i < 0) | (i >= n[0]) | (j < 0) | (j >= n[1])
    return torch.where(from_outside, count > 0, lost)


# The share of the entries that are on the rim: the largest of all shifts.
LARGEST_RIMS = {"VGG": 0.121, "ResNet at 32 pixels": 0.4375, "MobileNet": 0.234, "ConvNeXt": 0.0,
                "ViT": 0.0, "no padding": 0.210, "dilation 2": 0.360}


@CASES
def test_crops_of_features_are_features_of_crops_but_for_the_rim(name):
    """Entry by entry: what is off the rim is equal, and what is on the rim is not."""
    case = real_case(name)
    images, order = case.images(1), shuffle(case.layer)
    features = through_aug_conv(case, images, order=order)
    bias = None if case.layer.bias is None else case.layer.bias[order]
    shares = []
    for rows, columns in shifts_of(case):
        shifted = shift(features, torch.tensor([[rows, columns]]), bias)
        stride = case.layer.stride
        expected = case.layer(cut(images, rows * stride[0], columns * stride[1]))[:, order]
        differs = ((shifted - expected).abs() > 1e-9).any(1)[0]
        rim = rim_of(case, rows, columns)
        assert torch.equal(differs, rim), (rows, columns)
        torch.testing.assert_close(shifted[0, :, ~rim], expected[0, :, ~rim], rtol=1e-12,
                                   atol=1e-12)
        shares.append(float(rim.double().mean()))
    if name in LARGEST_RIMS:
        assert max(shares) == pytest.approx(LARGEST_RIMS[name], abs=5e-4)


def test_shifts_are_up_to_four_pixels_or_one_stride():
    assert [largest_shift(stride) for stride in (1, 2, 3, 4, 16)] == [4, 2, 1, 1, 1]


# The functions themselves.

def test_each_image_is_shifted_by_its_own_rows_and_columns():
    maps = torch.arange(18.0).view(2, 1, 3, 3)
    shifted = shift(maps, torch.tensor([[1, 0], [0, -1]]), torch.tensor([-1.0]))
    assert shifted[0, 0].tolist() == [[3, 4, 5], [6, 7, 8], [-1, -1, -1]]
    assert shifted[1, 0].tolist() == [[-1, 9, 10], [-1, 12, 13], [-1, 15, 16]]


def test_what_comes_in_from_outside_is_zero_if_nothing_is_given():
    assert not shift(torch.ones(1, 2, 3, 3), torch.tensor([[3, 3]])).any()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_shifting_keeps_dtype_and_memory_layout(dtype, memory_format):
    maps = torch.randn(4, 3, 6, 6).to(dtype).contiguous(memory_format=memory_format)
    shifted = shift(maps, torch.randint(-2, 3, (4, 2)), torch.randn(3))
    assert shifted.dtype == dtype and shifted.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("offsets", [
    torch.zeros(3, 2, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), torch.zeros(4, 2)],
    ids=["too few", "not in pairs", "floating"])
def test_offsets_that_do_not_fit_the_maps_are_refused(offsets):
    with pytest.raises(ValueError, match="offsets must be 4 pairs of integers, not"):
        shift(torch.ones(4, 3, 6, 6), offsets)


def test_no_images_are_shifted_to_no_images():
    assert shift(torch.empty(0, 3, 6, 6), torch.empty(0, 2, dtype=torch.int64)).shape[0] == 0


def test_only_marked_images_are_flipped():
    maps = torch.randn(3, 2, 4, 4)
    flipped = flip_some(maps, torch.tensor([True, False, True]))
    assert torch.equal(flipped[1], maps[1])
    assert torch.equal(flipped[[0, 2]], maps[[0, 2]].flip(3))
