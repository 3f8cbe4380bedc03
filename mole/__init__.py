"""Morphed Learning (MoLe) on tensors: the scheme and nothing else.

A data provider multiplies each image D by a secret matrix M and hands over T = D·M. Together with T
goes the Augmented Convolution (Aug-Conv), C_ac = M⁻¹·C, where C is the first convolution of the
developer's network. T·C_ac = D·C: the rest of the network sees the features of the plain images.

    morphing     the core M' of M, its inverse, and T = D·M
    aug_conv     the layer, and how it is composed
    first_layer  a network's first layer: found, described, and replaced
    augmentation crops and flips of features

Nothing here opens a file or knows a setting. Symbols are those of the authors' README and scripts:
α channels and side m of the images; β channels and side n of the first layer's features.
"""

from mole import augmentation
from mole.aug_conv import AugConv
from mole.first_layer import BehindFirstLayer, Convolution, describe, find_first_layer
from mole.morphing import (
    condition_number,
    core_size,
    draw_core,
    draw_usable_core,
    invert_core,
    morph,
    secret_generator,
)

__all__ = [
    "AugConv",
    "BehindFirstLayer",
    "Convolution",
    "augmentation",
    "condition_number",
    "core_size",
    "describe",
    "draw_core",
    "draw_usable_core",
    "find_first_layer",
    "invert_core",
    "morph",
    "secret_generator",
]
