"""Starting from weights that were trained before, in the forms that people save them in."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mole.first_layer import find_first_layer

# Keys under which training programs keep a state_dict among other things.
KEYS = ("network", "state_dict", "model", "model_state_dict", "net", "weights", "model_ema", "ema",
        "state_dict_ema", "params")
# Prefixes that wrappers put before names: DataParallel, torch.compile, Lightning, EMA.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "ema_model.")


class Found(NamedTuple):
    """A state_dict, and where it was found, in words."""

    weights: dict[str, Tensor]
    where: str


def find_weights(content: dict, network: nn.Module) -> Found:
    """The state_dict in what a file holds: as it is, under a key of KEYS, or behind PREFIXES.

    Raises ValueError where there is none.
    """
    names = set(network.state_dict())
    key = ""
    for name in KEYS:
        inner = content.get(name)
        if isinstance(inner, dict) and not names & set(content):
            content, key = inner, f", key {name!r}"
            break
    if not content or not all(isinstance(name, str) for name in content):
        raise ValueError("it holds no state_dict: its keys must be the names of weights")
    weights = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise ValueError("it holds no state_dict: none of its values is a tensor")
    removed = ""
    while not names & set(weights):
        prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in weights)), None)
        if prefix is None:
            break
        weights = {name.removeprefix(prefix): value for name, value in weights.items()
                   if name.startswith(prefix)}
        removed += prefix
    where = key + (f", without the prefix {removed!r}" if removed else "")
    return Found(weights, where)


def start_from(network: nn.Module, weights: dict[str, Tensor],
               shape: tuple[int, int, int]) -> list[str]:
    """Puts weights into a network for images `shape` (α, m, m), in place.

    A classifier for other classes, and a first layer that is not there, stay as they are; a first
    layer for colour images becomes one for grey ones by the sum of its filters over the colours.
    Gives a line for each such change. Raises ValueError where more than that differs.
    """
    state = network.state_dict()
    first = find_first_layer(network, shape)
    classifier = list(state)[-1].rpartition(".")[0]
    weights = dict(weights)
    lines = []
    grey = f"{first}.weight"
    if _is_for_colour(weights.get(grey), state[grey]):
        weights[grey] = weights[grey].sum(1, keepdim=True)
        lines.append(f"{first} is for colour images: its filters are summed over the colours")
    fitting = {name: weight for name, weight in weights.items()
               if name in state and state[name].shape == weight.shape}
    for name in state:
        if name not in fitting and name.rpartition(".")[0] not in (first, classifier):
            raise ValueError(_differs(name))
    for name in weights:
        if name not in state and not name.lower().startswith("aux"):
            raise ValueError(_differs(name))
    for module in (first, classifier):
        if any(name.startswith(f"{module}.") and name not in fitting for name in state):
            lines.append(f"{module} is not taken from there: it is of another shape, or missing; "
                         "it starts from the seed")
    network.load_state_dict(fitting, strict=False)
    return lines


def _is_for_colour(weight: Tensor | None, own: Tensor) -> bool:
    if weight is None or weight.ndim != 4 or own.shape[1] != 1 or weight.shape[1] != 3:
        return False
    return weight.shape[::2] == own.shape[::2] and weight.shape[3] == own.shape[3] and (
        torch.is_floating_point(weight))


def _differs(name: str) -> str:
    return (f"the weights are of another network: {name} is not in both, or of another shape")
