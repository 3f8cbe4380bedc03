"""Starting from weights that were trained before, in the forms that people save them in."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from mole.first_layer import find_first_layer

# Keys under which training programs keep a state_dict among other things.
KEYS = ("network", "state_dict", "model", "model_state_dict", "net", "weights", "model_ema", "ema",
        "state_dict_ema", "params")


class FoundWeights(NamedTuple):
    """A state_dict, and where it was found, in words."""

    weights: dict[str, Tensor]
    where: str


def find_weights(content: dict, network: nn.Module) -> FoundWeights:
    """A network's state_dict in what a file holds: as it is, or under a key of KEYS.

    Names may have a prefix more than the network's own, as after DataParallel, torch.compile,
    Lightning or an average of weights; what has not that prefix is left out.

    Raises ValueError where there is none.
    """
    own = set(network.state_dict())
    key = ""
    if isinstance(content, dict) and not own.intersection(content):
        key = next((name for name in KEYS if _tensors_in(content.get(name))), "")
    weights = _tensors_in(content[key] if key else content)
    if not weights:
        raise ValueError("it holds no state_dict: a dictionary of tensors by the names of weights")
    prefix = _find_prefix(own, weights)
    where = ""
    if key:
        where += f", key {key!r}"
    if prefix:
        where += f", without the prefix {prefix!r}"
        weights = {name.removeprefix(prefix): weight for name, weight in weights.items()
                   if name.startswith(prefix)}
    return FoundWeights(weights, where)


def _tensors_in(content: object) -> dict[str, Tensor]:
    """The tensors that a dictionary has by name; none of anything else."""
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items()
            if isinstance(name, str) and isinstance(value, Tensor)}


def _find_prefix(own: set[str], weights: dict[str, Tensor]) -> str:
    """What stands before the most names of weights that are a network's own; of a tie, the first.
    """
    counts = Counter({"": len(own & set(weights))})
    for name in weights:
        parts = name.split(".")
        for i in range(1, len(parts)):
            if ".".join(parts[i:]) in own:
                counts[".".join(parts[:i]) + "."] += 1
    prefix, _ = counts.most_common(1)[0]                 # the first of several
    return prefix


def start_from(network: nn.Module, weights: dict[str, Tensor], shape: tuple[int, int, int],
               classes_there: Sequence[str] = (), classes: Sequence[str] = ()) -> list[str]:
    """Puts weights into a network for images `shape` (α, m, m), in place.

    `classes_there`: the names of the classes that the weights were trained on, if they are known;
    `classes`: those of the network. The same names in another order put the classifier's outputs in
    ours. A first layer that is missing or of another shape stays as it is, and so does such a
    classifier, or one of other classes. A first layer for colour images becomes one for grey ones
    by the sum of its filters over the colours. Gives a line for each such change. Raises ValueError
    where more than that differs, or where classes in another order meet a network whose last layer
    has not one output for each.
    """
    state = network.state_dict()
    first = find_first_layer(network, shape)
    classifier = list(state)[-1].rpartition(".")[0]
    weights = dict(weights)
    lines = []
    reasons = dict.fromkeys((first, classifier), "it is of another shape, or missing")
    if classes_there and classes and list(classes_there) != list(classes):
        of_classifier = [name for name in weights if name.startswith(f"{classifier}.")]
        has_outputs = all(weights[name].ndim > 0 and len(weights[name]) == len(classes_there)
                          for name in of_classifier)
        if not has_outputs and set(classes_there) == set(classes):
            raise ValueError(f"the classes are in another order there, and {classifier} has not "
                             "one output for each: give the classes the same order")
        if not has_outputs:
            lines.append(f"it was trained on other classes, and {classifier} has not one output "
                         "for each: the outputs are taken as they are")
        elif set(classes_there) == set(classes):
            places = [list(classes_there).index(name) for name in classes]
            for name in of_classifier:
                weights[name] = weights[name][places]
            lines.append(f"the classes are in another order there: the outputs of {classifier} "
                         "are put in ours")
        else:
            for name in of_classifier:
                del weights[name]
            reasons[classifier] = "it is for other classes"
    grey = f"{first}.weight"
    if _is_for_colour(weights.get(grey), state[grey]):
        weights[grey] = weights[grey].sum(1, keepdim=True)
        lines.append(f"{first} is for colour images: its filters are summed over the colours")
    fitting = {name: weight for name, weight in weights.items()
               if name in state and state[name].shape == weight.shape}
    for name, weight in fitting.items():
        if state[name].is_floating_point() and not weight.is_floating_point():
            raise ValueError(f"{name} is {weight.dtype}, not {state[name].dtype}: save weights of "
                             "floating point")
    for name in state:
        # Weights from before PyTorch 0.4.1 have no count of batches, which nothing depends on.
        if name in fitting or name.endswith("num_batches_tracked"):
            continue
        if name.rpartition(".")[0] not in (first, classifier):
            raise ValueError(_differs(name))
    for name in weights:
        is_auxiliary = name.lower().startswith("aux")    # classifiers of GoogLeNet and Inception
        if name not in state and not is_auxiliary:
            raise ValueError(_differs(name))
    for module in (first, classifier):
        if any(name.startswith(f"{module}.") and name not in fitting for name in state):
            lines.append(f"{module} is not taken from there: {reasons[module]}; it keeps its "
                         "random first weights")
            fitting = {name: weight for name, weight in fitting.items()
                       if not name.startswith(f"{module}.")}
    network.load_state_dict(fitting, strict=False)
    return lines


def _is_for_colour(weight: Tensor | None, own: Tensor) -> bool:
    if weight is None or not weight.is_floating_point():
        return False
    filters, _, rows, columns = own.shape
    return own.shape[1] == 1 and weight.shape == (filters, 3, rows, columns)


def _differs(name: str) -> str:
    return f"the weights are of another network: {name} is not in both, or of another shape"
