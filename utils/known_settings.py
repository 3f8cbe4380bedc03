"""What is known of this program's settings by name: which steps use them, and their limits.

parameter.py says the same beside each default, and is what counts. An edit such as
`batch_size: int = 1` leaves it out there; then it is taken from here.
"""

import math
import typing
from dataclasses import replace
from typing import Literal

from utils.declaration import EVERY_STEP, About, Group, Pattern, alternatives

# The groups of --help, and the steps that use the settings of each.
IMAGES = Group("Images", "pretrain.py gen_morphing_matrix.py gen_augconv.py attack.py")
IMAGE_FILES = Group("Image files", "pretrain.py gen_augconv.py attack.py")
PIXELS = Group("Pixels", "pretrain.py gen_augconv.py morph_images.py attack.py")
NETWORK = Group("Network", "pretrain.py train_with_ac.py train_no_ac.py")
TRAINING = Group("Training", "pretrain.py train_with_ac.py train_no_ac.py")
PLAIN = Group("Plain network", "pretrain.py")
MORPHED = Group("Morphed training", "train_with_ac.py train_no_ac.py")
CONTROL = Group("Training without Aug-Conv", "train_no_ac.py")
PADDING = Group("Padding", "gen_morphing_matrix.py gen_augconv.py")
FIRST_LAYER = Group("First layer", "gen_morphing_matrix.py gen_augconv.py attack.py")
CORE = Group("Morphing core", "gen_morphing_matrix.py")
DELIVERY = Group("Delivery", "gen_augconv.py")
SECRET = Group("Secret", "gen_morphing_matrix.py gen_augconv.py")
QUERIES = Group("Queries", "morph_images.py predict.py")
NEW_IMAGES = Group("New images", "morph_images.py")
PREDICTION = Group("Prediction", "predict.py")
PROVIDERS = Group("Providers", "train_with_ac.py train_no_ac.py predict.py attack.py")
FEATURES = Group("Features of a frozen first layer", "pretrain.py train_with_ac.py")
ATTACK = Group("Attack", "attack.py")
DEVICE = Group("Device", "pretrain.py gen_augconv.py train_with_ac.py train_no_ac.py predict.py "
                         "morph_images.py")
COMPUTING = Group("Computing", "pretrain.py train_with_ac.py train_no_ac.py predict.py")
RESULTS = Group("Results", "pretrain.py train_with_ac.py train_no_ac.py attack.py")
FOLDER = Group("Folder", EVERY_STEP)

FOLDER_NAME = Pattern(r"[\w-][\w.-]*", "of letters, digits, ., _ and -")
FOLDER_NAME_OR_NONE = Pattern(r"([\w-][\w.-]*)?", FOLDER_NAME.words)

# kind: None where a plain type says all.
KNOWN = {
    "dataset": About(group=IMAGES),
    "image_size": About(group=IMAGES, least=4, below=10_000, also=0),
    "channels": About(group=IMAGES, least=0, below=1001),
    "dataset_dir": About(group=IMAGE_FILES),
    "train_limit": About(group=IMAGE_FILES),
    "test_limit": About(group=IMAGE_FILES),
    "image_fit": About(Literal["crop", "pad", "stretch"], group=IMAGE_FILES),
    "pixel_range": About(tuple[float, float] | None, group=PIXELS),
    "model": About(group=NETWORK),
    "init": About(group=NETWORK),
    "epochs": About(group=TRAINING, least=1),
    "batch_size": About(group=TRAINING, least=2),
    "lr": About(group=TRAINING),
    "schedule": About(Literal["halve", "onecycle"], group=TRAINING),
    "decay_epochs": About(group=TRAINING, least=1),
    "momentum": About(group=TRAINING, below=1),
    "dropout": About(group=TRAINING, below=1),
    "augment": About(Literal["none", "crop", "crop_flip"], group=TRAINING),
    "seed": About(group=TRAINING, below=2**63),
    "restart": About(group=TRAINING),
    "weight_decay": About(group=PLAIN),
    "frozen_first_layer": About(group=PLAIN),
    "morphed_weight_decay": About(group=MORPHED),
    "standardise": About(group=CONTROL),
    "first_layer": About(group=FIRST_LAYER),
    "image_padding": About(group=PADDING, below=1000),
    "kappa": About(group=CORE, least=1),
    "tile": About(group=CORE, below=10_000),
    "morph_distribution": About(Literal["uniform", "normal", "orthogonal"], group=CORE),
    "shuffle_channels": About(group=DELIVERY),
    "mirrored": About(group=DELIVERY),
    "delivery_dtype": About(Literal["float32", "float16", "int8"], group=DELIVERY),
    "morph_seed": About(int | None, group=SECRET, below=math.inf),
    "name": About(group=QUERIES, pattern=FOLDER_NAME),
    "images": About(tuple[str, ...], group=NEW_IMAGES),
    "show_names": About(group=NEW_IMAGES),
    "key": About(group=NEW_IMAGES, pattern=FOLDER_NAME_OR_NONE),
    "network": About(Literal["with_ac", "pretrained"], group=PREDICTION),
    "predict_batch": About(group=PREDICTION, least=1),
    "delivery": About(tuple[str, ...], group=PROVIDERS),
    "score": About(group=ATTACK),
    "public": About(group=ATTACK),
    "feature_cache": About(Literal["auto", "on", "off"], group=FEATURES),
    "device": About(group=DEVICE),
    "precision": About(Literal["auto", "fp32", "bf16"], group=COMPUTING),
    "compile": About(group=TRAINING),
    "results_dir": About(group=RESULTS),
    "data_dir": About(group=FOLDER),
}


def completed(name: str, about: About) -> About:
    """What is known of a setting, completed where its entry in parameter.py says less than here.

    Limits of its own stand, and so do choices of its own (Literal).
    """
    known = KNOWN.get(name)
    if known is None:
        return about
    if about.group is None:
        about = replace(about, group=known.group)
    if known.kind is not None and not _has_choices(about.kind):
        about = replace(about, kind=known.kind)
    own_limits = about.least, about.below, about.also, about.pattern
    if own_limits == (None, None, None, None):
        about = replace(about, least=known.least, below=known.below, also=known.also,
                        pattern=known.pattern)
    return about


def _has_choices(kind) -> bool:
    return any(typing.get_origin(one) is Literal for one in alternatives(kind))
