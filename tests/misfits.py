"""Files of another geometry or of other values than they must have, and who reads which file.

The most are of files that come from the other party: first_layer.pt, a delivery, a query.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from tests.damage import change

LAYER, CORE, INVERSE = "developer/first_layer.pt", "KEY/morphing_matrix.pt", "KEY/inverse_matrix.pt"
KEY = "KEY/manifest.json"               # KEY: the folder of the provider's current key
AUG_CONV, MORPHED, LABELS, DELIVERY = (
    "delivery/aug_conv.pt", "delivery/morphed_train.npy", "delivery/labels_train.npy",
    "delivery/manifest.json")
QUERY, QUERY_LABELS, QUERIES = (
    "queries/queries/morphed.npy", "queries/queries/labels.npy", "queries/queries/manifest.json")
CHECKPOINT, WITH_AC = "developer/pretrained.checkpoint.pt", "developer/with_ac.pt"


class Misfit(NamedTuple):
    """What is changed in a file, with a manifest that vouches for it, and the step that reads it.

    The step must refuse it, and name the file.
    """

    file: str
    spoil: Callable
    script: str


def _narrower(network: dict) -> dict:
    name = next(iter(network))
    return network | {name: network[name][1:]}


def _more(network: dict) -> dict:
    return network | {"more": torch.zeros(1)}


def _small_momentum(optimizer: dict) -> dict:
    optimizer["state"][3]["momentum_buffer"] = torch.zeros(2)
    return optimizer


def _huge_claim() -> torch.Tensor:
    """One number that claims to be 3·10^14."""
    return torch.zeros(1).expand(10**6, 3, 10**4, 10**4)


MISFITS: dict[str, Misfit] = {}


def _of(file: str, script: str, **cases: dict):
    """Adds cases: their names with _ for spaces, and the values that are changed."""
    for words, values in cases.items():
        name = f"{file.rpartition('/')[2]}: {words.replace('_', ' ')}"
        if file == QUERIES:
            name = "query's " + name
        if name in MISFITS:
            raise KeyError(name)
        MISFITS[name] = Misfit(file, partial(change, **values), script)


_of(LAYER, "gen_augconv.py",
    four_channels=dict(weight=torch.zeros(64, 4, 3, 3)),
    a_kernel_beyond_the_images=dict(weight=torch.zeros(64, 3, 30, 30)),
    float64=dict(weight=lambda w: w.double()),
    not_finite=dict(weight=lambda w: w / 0),
    huge_by_a_claim=dict(weight=_huge_claim()),
    sparse=dict(weight=torch.zeros(2, 3, 3, 3).to_sparse()),
    no_weight=dict(weight=None),
    stride_of_0=dict(stride=(0, 0)),
    stride_in_words=dict(stride=("1", "1")),
    padding_below_0=dict(padding=(-1, 1)),
    padding_beyond_memory=dict(padding=(10**15, 10**15)),
    padding_by_an_unknown_word=dict(padding="reflect"),
    three_dilations=dict(dilation=(1, 1, 1)),
    groups_that_do_not_divide=dict(groups=7),
    groups_of_0=dict(groups=0),
    bias_that_is_text=dict(bias="none"),
    bias_of_three=dict(bias=torch.zeros(3)),
    mean_of_one_channel=dict(mean=(0.5,)),
    mean_that_is_no_number=dict(mean=(float("nan"), 0.5, 0.5)),
    mean_that_is_a_tensor=dict(mean=torch.zeros(3)),
    std_of_0=dict(std=(0.2, 0.0, 0.2)),
    std_in_words=dict(std=("0.2",) * 3),
    images_of_another_size=dict(image_size=16),
    images_of_any_size=dict(image_size=10**12),
    image_size_in_words=dict(image_size="8"),
    image_fit_that_is_none=dict(image_fit="anyhow"),
    a_model_of_two_lines=dict(model="vgg16\nand more"),
    a_data_set_that_colours_the_terminal=dict(dataset="\x1b[31mred"),
    no_training_images=dict(train_images=0))
_of(CORE, "gen_augconv.py",
    of_half_the_size=dict(core=torch.eye(96)),
    of_another_key=dict(core=lambda core: core.T + 1))
_of(INVERSE, "gen_augconv.py",
    of_half_the_size=dict(core=torch.eye(96)))
_of(KEY, "gen_augconv.py",
    kappa_of_2=dict(kappa=2),
    kappa_in_words=dict(kappa="1"),
    images_of_one_number=dict(shape=[192]))
_of(AUG_CONV, "train_with_ac.py",
    smaller_features=dict(weight=torch.zeros(192, 1024), out_shape=(64, 4, 4)),
    fewer_columns=dict(weight=torch.zeros(192, 1024)),
    fewer_rows=dict(weight=torch.zeros(100, 4096)),
    float64=dict(weight=lambda w: w.double()),
    tiles_where_there_are_none=dict(weight=torch.zeros(192, 64, 8, 8), step=(1, 1)),
    a_side_in_words=dict(out_shape=(64, 8, "8")),
    no_step=dict(step=None),
    bias_of_three=dict(bias=torch.zeros(3)),
    bias_that_is_a_list=dict(bias=[]))
_of(MORPHED, "train_no_ac.py",
    fewer_entries=dict(array=np.zeros((64, 100), np.float32)),
    fewer_images=dict(array=np.zeros((10, 192), np.float32)),
    no_images=dict(array=np.zeros((0, 192), np.float32)),
    not_finite=dict(array=np.full((64, 192), np.nan, np.float32)))
_of(MORPHED, "train_with_ac.py",
    in_the_order_of_Fortran=dict(array=np.asfortranarray),
    bytes_in_the_other_order=dict(array=lambda a: a.astype(">f4")),
    float16=dict(array=lambda a: a.astype(np.float16)),
    float64=dict(array=lambda a: a.astype(np.float64)),
    records=dict(array=lambda a: a.view([("x", "<f4")])),
    texts=dict(array=lambda a: a.astype("S8")))
_of(LABELS, "train_no_ac.py",
    three=dict(array=np.zeros(3, np.int64)),
    of_an_eleventh_class=dict(array=np.full(64, 10)),
    below_0=dict(array=np.full(64, -1)),
    int32=dict(array=np.zeros(64, np.int32)),
    of_two_dimensions=dict(array=np.zeros((64, 1), np.int64)))
_of(DELIVERY, "train_no_ac.py",
    a_distribution_that_is_none=dict(morph_distribution="cauchy"),
    shape_of_two=dict(shape=[3, 8]),
    shape_in_words=dict(shape=[3, "8", 8]),
    shape_below_0=dict(shape=[3, -8, -8]),
    shape_that_is_not_square=dict(shape=[192, 2, 1]),
    shape_beyond_memory=dict(shape=[3, 10**9, 10**9]),
    padding_below_0=dict(image_padding=-1),
    nothing_but_padding=dict(image_padding=4),
    image_fit_that_is_none=dict(image_fit="anyhow"),
    number_of_classes=dict(classes=10),
    one_class=dict(classes=["one"]),
    a_class_that_is_a_number=dict(classes=["one", 2]),
    no_data_set=dict(dataset=None),
    a_data_set_of_two_lines=dict(dataset="shapes\nand more"),
    a_model_that_colours_the_terminal=dict(model="\x1b[31mred"),
    kappa_that_does_not_divide=dict(kappa=5),
    tile_below_0=dict(tile=-4),
    mean_of_one_channel=dict(mean=[0.5]),
    mean_that_is_a_number=dict(mean=0.5),
    mean_beyond_floats=dict(mean=[10**400] * 3),
    std_of_0=dict(std=[0.2, 0, 0.2]),
    scale_of_0=dict(scale=0),
    scale_in_words=dict(scale="1"),
    scale_beyond_floats=dict(scale=10**400),
    images_below_0=dict(train_images=-1),
    an_unknown_dtype=dict(delivery_dtype="object"),
    a_yes_in_words=dict(shuffle_channels="no"),
    files_that_are_a_list=dict(files=[]))
_of(DELIVERY, "train_with_ac.py",
    a_file_that_is_a_number=dict(files={"aug_conv.pt": 1}),
    no_out_shape=dict(out_shape=None))
_of(QUERY, "predict.py",
    half_the_images=dict(array=lambda a: a[:3]),
    in_the_order_of_Fortran=dict(array=np.asfortranarray),
    not_finite=dict(array=lambda a: a * np.nan),
    float16=dict(array=lambda a: a.astype(np.float16)))
_of(QUERY_LABELS, "predict.py",
    of_classes_beyond=dict(array=lambda a: a + 10),
    one_fewer=dict(array=lambda a: a[1:]))
_of(QUERIES, "predict.py",
    no_name=dict(names=[]),
    names_that_are_numbers=dict(names=[1, 2]),
    names_that_are_none=dict(names=None),
    scale_that_is_infinite=dict(scale=float("inf")),
    scale_beyond_floats=dict(scale=10**400),
    shape_of_0=dict(shape=[3, 0, 0]),
    files_that_are_none=dict(files=None),
    no_classes=dict(classes=None))
_of(WITH_AC, "predict.py",
    a_narrower_weight=dict(network=_narrower),
    one_weight_more=dict(network=_more),
    no_network=dict(network=None),
    no_model=dict(model=[]),
    another_model=dict(model=lambda model: model | {"name": "vgg13"}),
    images_of_another_size=dict(model=lambda model: model | {"shape": (3, 16, 16)}),
    other_deliveries=dict(deliveries=[]))
_of(CHECKPOINT, "pretrain.py",
    a_narrower_weight=dict(network=_narrower),
    momentum_of_another_shape=dict(optimizer=_small_momentum),
    no_optimizer=dict(optimizer={}),
    another_schedule=dict(scheduler={"step": 1}),
    a_curve_of_numbers=dict(curve=[1]),
    no_identity=dict(identity=None))


class Reader(NamedTuple):
    """A step that reads a file where all have run, and what its message tells to do."""

    file: str
    script: str
    advice: str


FROM_DEVELOPER = "the developer"
READERS = [
    Reader(LAYER, "gen_augconv.py", FROM_DEVELOPER),
    Reader(CORE, "gen_augconv.py", "gen_morphing_matrix.py"),
    Reader(INVERSE, "morph_images.py", "gen_morphing_matrix.py"),
    Reader(KEY, "gen_augconv.py", "gen_morphing_matrix.py"),
    Reader("provider/current.json", "morph_images.py", "gen_morphing_matrix.py"),
    Reader(AUG_CONV, "train_with_ac.py --restart", "gen_augconv.py"),
    Reader(MORPHED, "train_with_ac.py --restart", "gen_augconv.py"),
    Reader(LABELS, "train_no_ac.py --restart", "gen_augconv.py"),
    Reader("delivery/morphed_test.npy", "train_no_ac.py --restart", "gen_augconv.py"),
    Reader("delivery/labels_test.npy", "predict.py --name test", "gen_augconv.py"),
    Reader(DELIVERY, "train_no_ac.py", "gen_augconv.py"),
    Reader("developer/pretrained.pt", "pretrain.py", "pretrain.py --restart"),
    Reader(WITH_AC, "predict.py", "train_with_ac.py --restart"),
    Reader(QUERY, "predict.py", "morph_images.py"),
    Reader(QUERY_LABELS, "predict.py", "morph_images.py"),
    Reader(QUERIES, "predict.py", "morph_images.py")]
