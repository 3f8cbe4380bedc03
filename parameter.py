"""Every setting of the steps: edit a default here to sweep it, or pass `--name value` to a step.

The defaults are the paper's (arXiv:1909.07632) and those of its authors' scripts. The command line
wins over an edit here, and an edit here over a preset: a preset replaces a default only as long as
it is the paper's. A group's first line names the steps that use it; `--help` prints the comments.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Parameters:
    # -- Images: pretrain.py gen_morphing_matrix.py gen_augconv.py attack.py
    dataset: str = "cifar10"        # cifar10, cifar100, mnist, fashion_mnist, kmnist, svhn, stl10,
                                    # shapes (embedded), or folder (your own, see dataset_dir)
    image_size: int = 0             # side in pixels; 0: the data set's own, 32 for folder, shapes
    channels: Literal[0, 1, 3] = 0  # grey or colour, converted; 0: the data set's own
    # -- Image files: pretrain.py gen_augconv.py attack.py
    dataset_dir: str = "data/datasets"      # where data sets are kept, or the tree of images that
                                            # folder reads: train/<class>/* and test/<class>/*
    train_limit: int = 0            # use so many training images, of all classes; 0: all
    test_limit: int = 0             # use so many test images; 0: all
    image_fit: Literal["crop", "pad", "stretch"] = "crop"   # how an image of folder becomes square
    # -- Pixels: pretrain.py gen_augconv.py morph_images.py attack.py
    pixel_range: tuple[float, float] | None = None  # LOW HIGH: values of image files for 0 and 255
    max_pixels: int = 89_478_485    # an image file with more pixels is refused
    # -- Network: pretrain.py train_*.py
    model: str = "vgg16"            # vgg11, vgg13, vgg16, vgg19, resnet18_cifar, a classification
                                    # network of torchvision, or package.module:callable
    init: str = ""                  # start from the weights in this file
    # -- Training: pretrain.py train_*.py
    epochs: int = 300               # passes over the training images
    batch_size: int = 64            # images in a step of the optimizer, over all processes
    lr: float = 0.001               # learning rate of SGD (its peak with onecycle)
    schedule: Literal["halve", "onecycle"] = "halve"    # halve lr every decay_epochs, or raise and
                                                        # lower it once
    decay_epochs: int = 60          # epochs between two halvings of the learning rate
    momentum: float = 0.9           # momentum of SGD
    dropout: float = 0.5            # probability that VGG drops a channel
    seed: int = 0                   # weights, batches and dropout
    restart: bool = False           # train from scratch, even where a run could go on
    # -- Plain network: pretrain.py
    weight_decay: float = 5e-6      # weight decay on plain images
    frozen_first_layer: str = ""    # put the layer in this file first and do not train it: the
                                    # fair partner of Aug-Conv, whose first layer comes trained
    # -- Morphed training: train_*.py
    morphed_weight_decay: float = 5e-7      # weight decay on morphed images
    # -- Control: train_no_ac.py
    standardise: bool = False       # bring each entry of the morphed images to mean 0, deviation 1
    # -- Padding: gen_morphing_matrix.py gen_augconv.py
    image_padding: int = 0          # zeros put around an image before it is morphed
    # -- Core: gen_morphing_matrix.py
    kappa: int = 1                  # copies of the morphing core on the diagonal of M
    tile: int = 0                   # side of square tiles that share the core; 0: the paper's kappa
    morph_distribution: Literal["uniform", "normal", "orthogonal"] = "uniform"  # of the core
    # -- Delivery: gen_augconv.py
    shuffle_channels: bool = True   # Aug-Conv's channels in secret order; no: for trained networks
    delivery_dtype: Literal["float32", "float16", "int8"] = "float32"   # of the morphed images
    # -- Secret: gen_morphing_matrix.py gen_augconv.py
    morph_seed: int | None = None   # SECRET seed of core and channel order, for tests; none: 256
                                    # bits from the operating system
    # -- Queries: morph_images.py predict.py
    name: str = "queries"           # of the folder in data_dir/queries
    # -- New images: morph_images.py
    images: tuple[str, ...] = ()    # folders or files to morph
    hide_names: bool = False        # hand over numbers instead of the files' names
    # -- Prediction: predict.py
    network: Literal["with_ac", "pretrained"] = "with_ac"   # that predicts; pretrained behind an
                                                            # unshuffled Aug-Conv
    predict_batch: int = 250        # images that are predicted at once; training evaluates 250
    # -- Provider: train_with_ac.py predict.py
    delivery: tuple[str, ...] = ()  # folders of deliveries, several to train on several providers'
                                    # images; none: the one in data_dir
    # -- Aug-Conv's output: pretrain.py train_with_ac.py
    feature_cache: Literal["auto", "on", "off"] = "auto"    # keep a frozen first layer's output for
                                                            # all images: auto if it fits in memory
    # -- Adversary: attack.py
    score: bool = False             # open data_dir/provider and plain test images, to measure
    # -- Device: pretrain.py gen_augconv.py train_*.py predict.py morph_images.py
    device: str = "auto"            # auto, cpu, cuda or cuda:N
    # -- Computing: pretrain.py train_*.py predict.py
    precision: Literal["auto", "fp32", "bf16"] = "auto"     # of the network; auto: bfloat16 where
                                                            # the processor has it
    compile: bool = False           # run the network through torch.compile
    # -- Results: pretrain.py train_*.py attack.py reproduce_tables.py
    results_dir: str = ""           # also write the result here, under a name with its settings
    # -- Folder: every step
    data_dir: str = "data"          # where the steps keep what they make


# What a preset puts in place of a default, as (the paper's value, the preset's).
PRESETS = {
    "paper": {},
    "demo": {"dataset": ("cifar10", "shapes"), "train_limit": (0, 5000), "test_limit": (0, 1000),
             "data_dir": ("data", "data/demo"), "model": ("vgg16", "vgg11"), "epochs": (300, 5),
             "batch_size": (64, 32), "schedule": ("halve", "onecycle"), "lr": (0.001, 0.003),
             "dropout": (0.5, 0.1)},
}
