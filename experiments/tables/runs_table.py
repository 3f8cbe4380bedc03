"""The kinds of training runs. It is to be `utils.records.RUNS`, and goes when that is there."""

from typing import NamedTuple


class RunKind(NamedTuple):
    """What a training run is, for people, and the command that makes it."""

    title: str
    step: str
    options: str = ""

    @property
    def command(self) -> str:
        return f"python {self.step} {self.options}".strip()


RUNS = {
    "pretrained": RunKind("plain network", "pretrain.py"),
    "pretrained_frozen": RunKind("plain, same frozen first layer", "pretrain.py",
                                 "--frozen_first_layer FILE"),
    "with_ac": RunKind("with Aug-Conv", "train_with_ac.py"),
    "no_ac": RunKind("without Aug-Conv", "train_no_ac.py"),
    "no_ac_standardised": RunKind("without, standardised", "train_no_ac.py", "--standardise"),
}
