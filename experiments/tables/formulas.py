"""The paper's figures as formulas: what MoLe costs and sends, in multiply-adds and entries.

Symbols are the paper's (arXiv:1909.07632, section 3): images of α channels and side m, a first
convolution of β channels of side n with p×p kernels, a core of side q = αm²/κ, κ tiles if any.
"""

import math

from scipy.stats import ttest_1samp

from models.vgg import GROUPS


def vgg_macs(model: str, classes: int, channels: int = 3, side: int = 32) -> int:
    """Multiply-adds of models.vgg.VGG for one image, αβp²n² a convolution: 313.2 M for VGG-16."""
    total, inputs, n = 0, channels, side
    for group in GROUPS[model]:
        for outputs in group:
            total += 9 * inputs * outputs * n * n
            inputs = outputs
        n = math.ceil(n / 2)
    return total + inputs * n * n * classes


def morphing_macs(entries: int, kappa: int = 1) -> int:
    """αm²·q: multiply-adds to morph one image of αm² entries, κ products with the core (q, q)."""
    return entries * entries // kappa


def aug_conv_entries(alpha: int, m: int, beta: int, tile: int) -> int:
    """Entries of Aug-Conv for a 3×3 layer padded by 1, and its multiply-adds for one tile: q·βk²,
    q = αs², k = s + 2, whatever m is; for one tile, the paper's scheme, the dense αm²·βm²."""
    return alpha * min(tile, m) ** 2 * beta * (tile + 2 if tile < m else m) ** 2


def pairs_needed(q: int, kappa: int) -> int:
    """Plain and morphed images that determine the core: each gives κ of the q equations needed."""
    return math.ceil(q / kappa)


def equivalence(differences: list[float], margin: float) -> dict:
    """`low` and `high` of the 90% interval of the mean of paired differences, and `p_of_tost`, two
    one-sided t-tests against ±margin (Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987);
    `replicated`: it is below 5%, just where the interval lies within the margin."""
    low, high = ttest_1samp(differences, 0).confidence_interval(0.90)
    p = max(ttest_1samp(differences, -margin, alternative="greater").pvalue,
            ttest_1samp(differences, margin, alternative="less").pvalue)
    return {"low": float(low), "high": float(high), "p_of_tost": float(p),
            "replicated": bool(p < 0.05)}
