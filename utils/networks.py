"""The network of a run: built, started from weights, sampled, saved and read again."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.build import build, is_users_own, mode_of_softmax
from models.weights import find_weights, start_from
from parameter import Parameters
from utils.artifacts import read_tensors
from utils.devices import say, warn_once
from utils.errors import user_errors
from utils.records import Run


@dataclass(frozen=True)
class Model:
    """The arguments of models.build.build that make a network: they are saved with its weights."""

    name: str
    classes: int
    shape: tuple[int, int, int]         # (α, m, m) of its images
    dropout: float

    def to_dict(self) -> dict:
        return asdict(self)


def new_network(p: Parameters, model: Model, classes: Sequence[str] = ()) -> nn.Module:
    """A network from the run's seed, or from --init, with its outputs in the order of `classes`.
    Raises UserError if there is none."""
    seed_everything(p.seed)
    with user_errors(f"--model {p.model}"):
        network = build(**model.to_dict())
    softmax_in = mode_of_softmax(network, model.shape)
    if softmax_in == "training":
        warn_once(f"{p.model} ends in a softmax, but is trained as if it gave logits: leave the "
                  "softmax out")
    elif softmax_in == "evaluation":
        warn_once(f"{p.model} ends in a softmax in evaluation mode, which predict.py would apply "
                  "again: its probabilities would be wrong; leave the softmax out")
    if p.init:
        content = read_tensors(Path(p.init), "name a file of weights")
        with user_errors(p.init):
            found = find_weights(content, network)
            changes = start_from(network, found.weights, model.shape,
                                 texts_in(content, "classes"), classes)
        say(f"starting from {p.init}{found.where}", *changes, sep="\n")
    return network


def texts_in(content: dict, name: str) -> list[str]:
    """A list of texts that a file of ours has under a name; [] where it has none."""
    values = content.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return []
    return values


def warn_of_other_features(p: Parameters, deliveries: Sequence[str], layer: str | None,
                           shuffled: bool = False):
    """Warns where the layers of --init were trained on other features than those of this run.

    `deliveries`: the ids of this run's; `layer`: the fingerprint of its frozen first layer;
    `shuffled`: whether Aug-Conv's channels are in a secret order.
    """
    if not p.init:
        return
    content = read_tensors(Path(p.init), "name a file of weights")
    trained_on, its_layer = texts_in(content, "deliveries"), content.get("layer")
    if not isinstance(its_layer, str):                   # None in our files; a tensor in others'
        its_layer = None
    if deliveries and set(deliveries) <= set(trained_on):
        return                                           # the same channels in the same order
    if shuffled:
        advice = "gen_augconv.py --shuffle_channels no keeps them in order"
        if trained_on and its_layer is None:
            advice = "train on the delivery that it was trained on, or without --init"
        warn_once("--init gives layers trained on channels in another order, but Aug-Conv's are "
                  f"shuffled: {advice}")
    elif trained_on and its_layer is None:
        warn_once("--init gives layers trained on channels that were shuffled for another "
                  "delivery: begin with a network that was trained on channels in their order")
    elif None not in (its_layer, layer) and its_layer != layer:
        warn_once("--init gives layers trained behind another first layer than this one")


def sample_logits(network: nn.Module, model: Model) -> list[float]:
    """What a network gives for fixed images: whether two are the same code and weights.

    At most ten logits in evaluation mode; of a network of the user's own as many in training mode
    too, where dropout and the like show. The states of the network and of PyTorch's random
    generators are kept.
    """
    network = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)           # CUDA's generators are left alone
        logits = network.eval()(torch.randn(1, *model.shape))[0, :10].tolist()
        if is_users_own(model.name):
            logits += network.train()(torch.randn(2, *model.shape))[0, :10].tolist()
    return [round(value, 6) for value in logits]


def seed_everything(*seeds: int):
    """The same random numbers for the same seeds, whatever was drawn before."""
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) >> 1)


# As it is saved.

@dataclass(frozen=True)
class Trained:
    """A trained network as it is saved.

    state: weights by the network's own names; behind Aug-Conv without the first layer. deliveries
    and layer_fingerprint: whose features the layers behind the first one take (no fingerprint where
    the channels are shuffled).
    """

    state: dict[str, Tensor]
    model: Model
    deliveries: tuple[str, ...] = ()
    layer_fingerprint: str | None = None

    def to_dict(self, run: Run) -> dict:
        return {"network": self.state, "model": self.model.to_dict(),
                "classes": list(run.data["class_names"]), "deliveries": list(self.deliveries),
                "layer": self.layer_fingerprint, "code": run.network_code}


class SavedNetwork(NamedTuple):
    """What a file of `Trained` holds. `classes` and `code` (a digest of the network's own file) are
    those of the training."""

    weights: dict[str, Tensor]
    model: Model
    classes: tuple[str, ...]
    deliveries: tuple[str, ...]
    layer_fingerprint: str | None
    code: str


def saved_network_from(content: dict) -> SavedNetwork:
    """What Trained.to_dict wrote. Raises KeyError or TypeError where it is something else."""
    model = content["model"] | {"shape": tuple(content["model"]["shape"])}
    return SavedNetwork(content["network"], Model(**model), tuple(content["classes"]),
                        tuple(content["deliveries"]), content["layer"], content.get("code", ""))


def count_trained(network: nn.Module) -> int:
    """The number of weights that training changes."""
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
