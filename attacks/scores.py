"""How close recovered images are to the private ones: PSNR, SSIM, exact values, re-identified."""

import math
from statistics import fmean
from typing import NamedTuple

import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from mole.morphing import size_in_words

WINDOW = 7                  # side of the windows of SSIM, in pixels; smaller in smaller images


class Score(NamedTuple):
    """Scores of a set of images."""

    psnr: float             # dB, over all values of all images
    ssim: float             # mean over images, -1 to 1
    exact: float            # share of 8-bit values that are recovered exactly


def score_images(recovered: Tensor, truth: Tensor) -> Score:
    """Compares images (N, α, m, m) with the private ones, both with pixels in [0, 1]."""
    recovered = recovered.clamp(0, 1).double()
    truth = truth.clamp(0, 1).double()
    same = (255 * recovered).round() == (255 * truth).round()
    return Score(psnr(recovered, truth), ssim(recovered, truth), float(same.double().mean()))


def psnr(images: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images with pixels in [0, 1]; inf for equal ones."""
    if torch.equal(images, truth):
        return math.inf
    return float(peak_signal_noise_ratio(truth.numpy(), images.numpy(), data_range=1))


def ssim(images: Tensor, truth: Tensor) -> float:
    """Mean structural similarity of images (N, α, h, w) with pixels in [0, 1].

    Raises ValueError for images of fewer than 3×3 pixels.
    """
    side = min(images.shape[2:])
    if side < 3:
        raise ValueError(f"images of {size_in_words(images.shape[2:])} pixels are too small "
                         "to score")
    window = min(WINDOW, side - 1 + side % 2)            # odd
    found = []
    for one, other in zip(images.numpy(), truth.numpy(), strict=True):
        found.append(float(structural_similarity(one, other, win_size=window, data_range=1,
                                                 channel_axis=0)))
    return fmean(found)


def share_reidentified(images: Tensor, truth: Tensor) -> float:
    """The share of images (N, ...) whose nearest of all of `truth` (N, ...) is their own."""
    images = images.flatten(1).float()
    truth = truth.flatten(1).float()
    lengths = truth.square().sum(1)
    nearest = torch.cat([(lengths - 2 * part @ truth.T).argmin(1) for part in images.split(2000)])
    return float((nearest == torch.arange(len(images))).float().mean())
