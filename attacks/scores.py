"""How close recovered images are to the private ones: PSNR, SSIM, exact values, re-identified."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SSIM_WINDOW = 7             # side of the window that SSIM compares, in pixels


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
    return float(-10 * (images - truth).square().mean().log10())


def ssim(images: Tensor, truth: Tensor) -> float:
    """Mean structural similarity of images (N, α, m, m) float64 with pixels in [0, 1].

    With the constants of Wang et al., IEEE Trans. Image Processing 13 (2004), uniform windows of
    7×7 pixels inside the image (smaller ones where the image is smaller), sample variances, the
    mean over colours: the same figures as scikit-image's `structural_similarity` by default.
    """
    side = min(truth.shape[-2:])
    window = min(SSIM_WINDOW, (side - 1) // 2 * 2 + 1)

    def window_means(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, stride=1)

    to_sample_variance = window ** 2 / max(window ** 2 - 1, 1)
    mean_a = window_means(images)
    mean_b = window_means(truth)
    variance_a = to_sample_variance * (window_means(images * images) - mean_a * mean_a)
    variance_b = to_sample_variance * (window_means(truth * truth) - mean_b * mean_b)
    covariance = to_sample_variance * (window_means(images * truth) - mean_a * mean_b)
    c1 = 0.01 ** 2
    c2 = 0.03 ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a ** 2 + mean_b ** 2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return float((luminance * structure).mean())


def share_reidentified(images: Tensor, truth: Tensor) -> float:
    """The share of images (N, ...) whose nearest of all of `truth` (N, ...) is their own."""
    images = images.flatten(1).float()
    truth = truth.flatten(1).float()
    lengths = truth.square().sum(1)
    nearest = torch.cat([(lengths - 2 * part @ truth.T).argmin(1) for part in images.split(2000)])
    return float((nearest == torch.arange(len(images))).float().mean())
