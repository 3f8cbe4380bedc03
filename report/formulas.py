"""The paper's figures as formulas: what MoLe costs, sends and leaves to guess. Nothing is measured.

Symbols are the paper's (arXiv:1909.07632, section 3): images of α channels and side m, a first
convolution of β channels of side n with p×p kernels, a core of side q = αm²/κ. A multiply-add
counts as one operation, as in the paper; torch counts it as two.
"""

import math

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.vgg import GROUPS


def network_macs(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-adds of a network for one image of `shape`, counted by torch as it runs."""
    network.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2


def vgg_macs(model: str, classes: int, channels: int = 3, side: int = 32) -> int:
    """The same for models.vgg.VGG in closed form: cin·cout·9·n² a convolution, and the classifier.

    VGG-16 on CIFAR: 313.2 million, of which the first layer is 1.8.
    """
    total, inputs, n = 0, channels, side
    for group in GROUPS[model]:
        for outputs in group:
            total += convolution_macs(inputs, outputs, 3, n)
            inputs = outputs
        n = math.ceil(n / 2)
    return total + inputs * n * n * classes


def convolution_macs(alpha: int, beta: int, p: int, n: int) -> int:
    """αβp²n²: multiply-adds of a convolution for one image."""
    return alpha * beta * p * p * n * n


def morphing_macs(entries: int, kappa: int = 1) -> int:
    """αm²·q: multiply-adds to morph one image of αm² entries, κ products with the core (q, q)."""
    return entries * entries // kappa


def aug_conv_macs(entries: int, features: int) -> int:
    """αm²·βn²: multiply-adds of Aug-Conv for one image, a product with the dense matrix."""
    return entries * features


def likely_published_macs(alpha: int, m: int, p: int, n: int) -> int:
    """αp²m²n², the only simple count that gives the paper's 9% of VGG-16 (our guess; the paper
    does not derive it). For α = p = 3 and n = m it equals 3(αm²)²."""
    return alpha * p * p * m * m * n * n


def transmission_by_paper(q: int, entries: int, images: int) -> float:
    """q·αm² over the data set's entries, images·αm²: 3072 / 60 000 = 5.12% (paper, section 4).

    It counts a matrix as large as M; what is sent is Aug-Conv.
    """
    return q * entries / (images * entries)


def transmission_by_entries(entries: int, features: int, images: int) -> float:
    """Entries of the Aug-Conv matrix, αm²·βn², over those of the data set."""
    return features / images


def transmission_by_bytes(entries: int, features: int, images: int) -> dict[str, int]:
    """Bytes of the plain images (uint8), of the morphed ones and of Aug-Conv (float32)."""
    return {"plain images": images * entries, "morphed images": 4 * images * entries,
            "Aug-Conv": 4 * entries * features}


def log10_order_guess(beta: int) -> float:
    """log₁₀ of 1/β!, the chance to guess the order of β channels: 7.9·10⁻⁹⁰ for 64."""
    return -math.lgamma(beta + 1) / math.log(10)


def log10_core_guess(q: int, tolerance: float) -> float:
    """log₁₀ of the chance that a uniform guess has each of q² uniform entries within a tolerance.

    An entry x on [0, 1) is met by a guess g with |g - x| ≤ εx, 0 < ε ≤ 1. For x < a = 1/(1+ε) that
    interval is 2εx long, above it ends at 1; integrated over x: εa² + (1-a) - (1-ε)(1-a²)/2.

    Raises ValueError for another ε.
    """
    if not 0 < tolerance <= 1:
        raise ValueError(f"the tolerance is {tolerance}, but must be above 0 and at most 1")
    a = 1 / (1 + tolerance)
    entry = tolerance * a * a + (1 - a) - (1 - tolerance) * (1 - a * a) / 2
    return q * q * math.log10(entry)


def pairs_needed(q: int, kappa: int) -> int:
    """Plain and morphed images that determine the core: each gives κ of the q equations needed."""
    return math.ceil(q / kappa)


def power_of_ten(log10: float, digits: int = 1) -> str:
    """10 to this power, for exponents that floats do not reach: -89.10 is 7.9e-90."""
    exponent = math.floor(log10)
    mantissa = round(10 ** (log10 - exponent), digits)
    if mantissa >= 10:
        mantissa, exponent = mantissa / 10, exponent + 1
    return f"{mantissa:.{digits}f}e{exponent:+03d}"
