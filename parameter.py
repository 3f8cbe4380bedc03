"""The settings of all steps. Edit a value here, or pass `--name value` to a step.

The defaults are the paper's (arXiv:1909.07632) and those of its authors' scripts. They also stand
in the preset "paper" at the end, so `--preset paper` is the paper whatever you have edited here.

An entry is `name: type = setting(default, help, used_by, limits)`. Any Python value works, and so
does `name: type = value` alone: utils/known_settings.py has the limits and the steps that use it. A
setting of your own names its steps, or is of the group of the entry above. A setting in the wrong
form ends a step with a line that names it.
`python pretrain.py --help` lists the settings of that step.
"""

import math
from typing import Literal

from utils.declaration import setting, settings
from utils.known_settings import (
    ATTACK,
    COMPUTING,
    CONTROL,
    CORE,
    DELIVERY,
    DEVICE,
    FEATURES,
    FIRST_LAYER,
    FOLDER,
    FOLDER_NAME,
    FOLDER_NAME_OR_NONE,
    IMAGE_FILES,
    IMAGES,
    MORPHED,
    NETWORK,
    NEW_IMAGES,
    PADDING,
    PIXELS,
    PLAIN,
    PREDICTION,
    PROVIDERS,
    QUERIES,
    RESULTS,
    SECRET,
    TRAINING,
)


@settings
class Parameters:
    # Images
    dataset: str = setting(
        "cifar10", "Use cifar10, cifar100, mnist, fashion_mnist, kmnist, svhn, stl10, shapes "
        "(drawn from a seed), or your own images: folder or arrays, see dataset_dir", IMAGES)
    image_size: int = setting(
        0, "Images have this side in pixels; 0: the data set's own, 32 for folder and shapes",
        IMAGES, least=4, below=10_000, also=0)
    channels: int = setting(
        0, "Images have this many channels: 1 converts them to grey, 3 to colour, arrays may have "
        "any number; 0: the data set's own", IMAGES,
        least=0, below=1001)
    dataset_dir: str = setting(
        "data/datasets", "Data sets are kept here; or your own images are, for folder as "
        "train/<class>/* and test/<class>/*", IMAGE_FILES)
    train_limit: int = setting(
        0, "Use this many training images, of all classes; 0: all", IMAGE_FILES)
    test_limit: int = setting(
        0, "Use this many test images; 0: all", IMAGE_FILES)
    image_fit: Literal["crop", "pad", "stretch"] = setting(
        "crop", "Crop image files to squares, pad them, or stretch them", IMAGE_FILES)
    pixel_range: tuple[float, float] | None = setting(
        None, "These values of image files, LOW HIGH, become 0 and 255", PIXELS)

    # Network
    model: str = setting(
        "vgg16", "Train vgg11, vgg13, vgg16, vgg19, vgg_small, resnet18_cifar, a classification "
        "network of torchvision, or your own: package.module:callable", NETWORK)
    init: str = setting(
        "", "Start from the weights in this file", NETWORK)

    # Training
    epochs: int = setting(
        300, "Train for this many passes over the training images", TRAINING, least=1)
    batch_size: int = setting(
        64, "Each step of the optimizer takes this many images, over all processes", TRAINING,
        least=2)
    lr: float = setting(
        0.001, "SGD has this learning rate (its peak with onecycle)", TRAINING)
    schedule: Literal["halve", "onecycle"] = setting(
        "halve", "Halve lr every decay_epochs, or raise and lower it once", TRAINING)
    decay_epochs: int = setting(
        60, "Halve the learning rate after this many epochs, again and again", TRAINING, least=1)
    momentum: float = setting(
        0.9, "SGD has this momentum", TRAINING, below=1)
    dropout: float = setting(
        0.5, "VGG drops a channel with this probability", TRAINING, below=1)
    augment: Literal["none", "crop", "crop_flip"] = setting(
        "none", "Shift training images by up to 4 pixels, or by one stride of the first layer if "
        "that is more (crop), and also mirror them (crop_flip)", TRAINING)
    seed: int = setting(
        0, "Weights, batches, dropout and augmentation are drawn from this seed", TRAINING,
        below=2**63)
    restart: bool = setting(
        False, "Train from scratch, even if a run could continue or is finished", TRAINING)
    weight_decay: float = setting(
        5e-6, "SGD has this weight decay on plain images", PLAIN)
    frozen_first_layer: str = setting(
        "", "Take the first layer from this file and do not train it: with morphed_weight_decay as "
        "weight_decay, the fair partner of Aug-Conv, whose first layer is trained already", PLAIN)
    morphed_weight_decay: float = setting(
        5e-7, "SGD has this weight decay on morphed images", MORPHED)
    standardise: bool = setting(
        False, "Scale each entry of the morphed images to mean 0 and standard deviation 1",
        CONTROL)

    # Morphing, the provider
    first_layer: str = setting(
        "", "Use this first_layer.pt of the developer's; none: the one in data_dir/developer",
        FIRST_LAYER)
    image_padding: int = setting(
        0, "Put this many zeros on each side of an image before it is morphed", PADDING, below=1000)
    kappa: int = setting(
        1, "This many copies of the morphing core stand on the diagonal of M", CORE, least=1)
    tile: int = setting(
        0, "Square tiles of this side share the core; 0: no tiles, kappa holds", CORE,
        below=10_000)
    morph_distribution: Literal["uniform", "normal", "orthogonal"] = setting(
        "uniform", "Draw the core like this: with uniform or normal entries, or as a random "
        "orthogonal matrix", CORE)
    shuffle_channels: bool = setting(
        True, "Put Aug-Conv's channels in a secret order; no: for trained networks", DELIVERY)
    mirrored: bool = setting(
        False, "Also compose the Aug-Conv of the mirrored first layer, for --augment crop_flip",
        DELIVERY)
    delivery_dtype: Literal["float32", "float16", "int8"] = setting(
        "float32", "Deliver the morphed images in this type of numbers", DELIVERY)
    morph_seed: int | None = setting(
        None, "Draw core and channel order from this SECRET seed, for tests; none: from 256 bits "
        "of the operating system", SECRET, below=math.inf)

    # Inference
    name: str = setting(
        "queries", "The queries' folder in data_dir/queries has this name", QUERIES,
        pattern=FOLDER_NAME)
    images: tuple[str, ...] = setting(
        (), "Morph the images in these folders or files", NEW_IMAGES)
    show_names: bool = setting(
        False, "Hand over the files' names; no: numbers", NEW_IMAGES)
    key: str = setting(
        "", "Morph with the earlier key of this id; none: the current one; list: only list the "
        "keys", NEW_IMAGES,
        pattern=FOLDER_NAME_OR_NONE)
    network: Literal["with_ac", "pretrained"] = setting(
        "with_ac", "Predict with this network; pretrained needs an Aug-Conv that is not shuffled",
        PREDICTION)
    predict_batch: int = setting(
        250, "Predict this many images at once; training evaluates 250", PREDICTION, least=1)
    delivery: tuple[str, ...] = setting(
        (), "Use the delivery in this folder; none: the one in data_dir. train_with_ac.py takes "
        "several, to train on several providers' images", PROVIDERS)

    # Attack
    score: bool = setting(
        False, "Open data_dir/provider and the plain test images, to measure success", ATTACK)
    public: str = setting(
        "", "Use the images of this folder, or of a data set by name, as public images; none: the "
        "training images", ATTACK)

    # The computer
    feature_cache: Literal["auto", "on", "off"] = setting(
        "auto", "Keep a frozen first layer's output for all images; auto: if it fits in memory",
        FEATURES)
    device: str = setting(
        "auto", "Compute on cpu, cuda or cuda:N; auto: cuda if it is available", DEVICE)
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "The network computes in this precision; auto: bfloat16 if the processor has it",
        COMPUTING)
    compile: bool = setting(
        False, "Run the network through torch.compile", TRAINING)
    results_dir: str = setting(
        "", "Also write the record here: of a training under a name that tells its settings, of "
        "attack.py as attacks.json", RESULTS)
    data_dir: str = setting(
        "data", "The steps keep what they make in this folder", FOLDER)


# Values for `--preset NAME`. "paper" has all of the paper's; any other preset is the paper's with
# its own in their place, whatever you have edited above. Your own: "mine": {"tile": 8},
PRESETS = {
    "paper": {
        "dataset": "cifar10", "image_size": 0, "channels": 0, "dataset_dir": "data/datasets",
        "train_limit": 0, "test_limit": 0, "image_fit": "crop", "pixel_range": None,
        "model": "vgg16", "init": "",
        "epochs": 300, "batch_size": 64, "lr": 0.001, "schedule": "halve", "decay_epochs": 60,
        "momentum": 0.9, "dropout": 0.5, "augment": "none", "seed": 0, "restart": False,
        "weight_decay": 5e-6, "frozen_first_layer": "",
        "morphed_weight_decay": 5e-7, "standardise": False,
        "first_layer": "", "image_padding": 0, "kappa": 1, "tile": 0,
        "morph_distribution": "uniform",
        "shuffle_channels": True, "mirrored": False, "delivery_dtype": "float32",
        "morph_seed": None,
        "name": "queries", "images": (), "show_names": False, "key": "",
        "network": "with_ac", "predict_batch": 250, "delivery": (),
        "score": False, "public": "",
        "feature_cache": "auto", "device": "auto", "precision": "auto", "compile": False,
        "results_dir": "", "data_dir": "data",
    },
    "demo": {
        "dataset": "shapes", "image_size": 28, "train_limit": 5000, "test_limit": 1000,
        "data_dir": "data/demo", "model": "vgg_small",
        "epochs": 5, "batch_size": 32, "schedule": "onecycle", "lr": 0.01, "dropout": 0.1,
    },
}
