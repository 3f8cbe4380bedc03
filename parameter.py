"""Every setting of the five steps: edit a default here to sweep it, or pass `--name value`.

The defaults are those of the reference scripts of the paper (arXiv:1909.07632).
"""

import argparse
import math
import sys
import typing
from dataclasses import asdict, dataclass, field, fields, replace


def setting(default, help, *, choices=None, least=None, below=None, runtime=False):
    """A field of Parameters. `runtime`: how to run, not what is computed (paths, device)."""
    return field(default=default, metadata=dict(
        help=help, choices=choices, least=least, below=below, runtime=runtime))


@dataclass(frozen=True)
class Parameters:
    # data
    dataset: str = setting("cifar10", "images to train on",
                           choices=("cifar10", "cifar100", "folder", "shapes"))
    dataset_dir: str = setting("data/datasets", "where CIFAR is kept, or the tree of images that "
                               "`folder` reads: train/<class>/* and test/<class>/*", runtime=True)
    image_size: int = setting(32, "side of the images of `folder` and `shapes`, in pixels", least=4,
                              below=10_000)
    train_limit: int = setting(0, "use so many training images, 0 for all", least=0)
    test_limit: int = setting(0, "use so many test images, 0 for all", least=0)
    data_dir: str = setting("data", "where the steps keep what they make", runtime=True)
    results_dir: str = setting("", "also write the result of a training run to this folder, "
                               "under a name that tells its settings", runtime=True)
    # network and training
    model: str = setting("vgg16", "network", choices=("vgg11", "vgg13", "vgg16", "vgg19"))
    epochs: int = setting(300, "passes over the training images", least=1)
    batch_size: int = setting(64, "images in a step of the optimizer, over all processes", least=2)
    lr: float = setting(0.001, "learning rate of SGD (its peak, with `onecycle`)", least=0)
    schedule: str = setting("halve", "learning rate: `halve` it every decay_epochs, or raise and "
                            "lower it once (`onecycle`)", choices=("halve", "onecycle"))
    decay_epochs: int = setting(60, "epochs between two halvings of the learning rate", least=1)
    momentum: float = setting(0.9, "momentum of SGD", least=0, below=1)
    weight_decay: float = setting(5e-6, "weight decay of the plain network", least=0)
    morphed_weight_decay: float = setting(5e-7, "weight decay on morphed images", least=0)
    dropout: float = setting(0.5, "probability to drop a channel", least=0, below=1)
    seed: int = setting(0, "weights, batches and dropout", least=0, below=2**63)
    standardise: bool = setting(False, "train_no_ac.py: standardise each entry of the morphed "
                                "images first; a fairer control than the reference's")
    # morphing: gen_morphing_matrix.py draws, the steps after it read what was drawn
    kappa: int = setting(1, "copies of the morphing core on the diagonal of M", least=1)
    morph_distribution: str = setting("uniform", "how the core is drawn",
                                      choices=("uniform", "normal", "orthogonal"))
    image_padding: int = setting(0, "zeros put around an image before it is morphed", least=0,
                                 below=1000)
    morph_seed: int | None = setting(None, "SECRET seed of core and channel order, for tests; "
                                     "none: 256 bits from the operating system", least=0)
    # how to run
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", runtime=True)
    precision: str = setting("auto", "what the network computes in: bfloat16 where the processor "
                             "has it (auto), or always the same", choices=("auto", "fp32", "bf16"))
    feature_cache: str = setting("auto", "keep Aug-Conv's output for all images: `auto` if it fits "
                                 "in memory", choices=("auto", "on", "off"), runtime=True)
    compile: bool = setting(False, "run the network through torch.compile", runtime=True)
    restart: bool = setting(False, "train anew, even where a run could go on", runtime=True)

    def __post_init__(self):
        """Raises ValueError with one line that names the field."""
        for f in fields(self):
            value, rule = getattr(self, f.name), f.metadata
            kinds = typing.get_args(f.type) or (f.type,)
            kinds += (int,) if float in kinds else ()
            if type(value) not in kinds:
                names = " or ".join(k.__name__.replace("NoneType", "none") for k in kinds)
                raise ValueError(f"{f.name} is {value!r}, but must be {names}")
            if rule["choices"] and value not in rule["choices"]:
                raise ValueError(f"{f.name} is {value!r}, but must be one of "
                                 f"{', '.join(rule['choices'])}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{f.name} is {value}, but must be finite")
            if value is not None and rule["least"] is not None and value < rule["least"]:
                raise ValueError(f"{f.name} is {value}, but must be at least {rule['least']}")
            below = rule["below"] or (2**31 if f.type is int else None)
            if below is not None and value >= below:
                raise ValueError(f"{f.name} is {value}, but must be below {below}")
        if self.dataset.startswith("cifar") and self.image_size != 32:
            raise ValueError(f"image_size is {self.image_size}, but CIFAR's images have side 32")

    def public(self) -> dict:
        """All settings but the secret one and the paths, for records that others will read."""
        hidden = ("morph_seed", "dataset_dir", "data_dir", "results_dir", "restart")
        return {k: v for k, v in asdict(self).items() if k not in hidden}

    def experiment(self) -> dict:
        """The settings that decide what a training run computes."""
        provider = ("kappa", "morph_distribution", "image_padding", "morph_seed")
        folder = {"dataset_dir": self.dataset_dir} if self.dataset == "folder" else {}
        return folder | {f.name: getattr(self, f.name) for f in fields(self)
                         if not f.metadata["runtime"] and f.name not in provider}


PRESETS = {
    "paper": {},
    "demo": dict(dataset="shapes", train_limit=5000, test_limit=1000, data_dir="data/demo",
                 model="vgg11", epochs=5, batch_size=32, schedule="onecycle", lr=0.003,
                 dropout=0.1),
}


class OneLineParser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; --help lists every setting\n")


def _converter(kind):
    if kind == int | None:
        def convert(text):
            return None if text.lower() == "none" else int(text)
        convert.__name__ = "int"            # argparse names the type by this in its message
        return convert
    return kind


def parse(description: str, arguments: list[str] | None = None, extra=()) -> Parameters:
    """The command line of a step, as Parameters; a mistake ends with one line and status 2.

    `extra` are flags of one step alone, as (name, help); with them, returns (Parameters, set of
    the flags given).
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = OneLineParser(description=description, allow_abbrev=False,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="paper",
                        help="defaults to start from (default: paper)")
    for f in fields(Parameters):
        help = f.metadata["help"].replace("%", "%%") + " (default: %(default)s)"
        if f.type is bool:
            parser.add_argument(f"--{f.name}", action=argparse.BooleanOptionalAction,
                                default=f.default, help=help)
        else:
            parser.add_argument(f"--{f.name}", type=_converter(f.type), default=f.default,
                                choices=f.metadata["choices"], help=help,
                                metavar=None if f.metadata["choices"] else f.name.upper())
    for name, help in extra:
        parser.add_argument(f"--{name}", action="store_true", help=help)

    finder = OneLineParser(prog=parser.prog, add_help=False, allow_abbrev=False)
    finder.add_argument("--preset", choices=PRESETS, default="paper")
    preset = PRESETS[finder.parse_known_args(arguments)[0].preset]
    parser.set_defaults(**preset)
    given = vars(parser.parse_args(arguments))
    given.pop("preset")
    flags = {name for name, _ in extra if given.pop(name)}
    try:
        p = replace(Parameters(), **given)
    except ValueError as mistake:
        parser.error(str(mistake))
    return (p, flags) if extra else p
