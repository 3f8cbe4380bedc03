"""Networks by name, checked: what stands behind the first layer must be the rest of the network."""

import contextlib
import copy
import hashlib
import io
import os
import pkgutil
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.vgg import GROUPS, VGG
from mole.first_layer import BehindFirstLayer, check_features, describe, find_first_layer
from mole.morphing import size_in_words


def resnet18_cifar(classes: int) -> nn.Module:
    """ResNet-18 for small images: no stride and no pool at its start."""
    import torchvision  # here, since it takes a second
    network = torchvision.models.resnet18(num_classes=classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


# Networks of your own by the name that --model takes: each is called with the number of classes,
# and takes images of 3 channels.
OWN = {"resnet18_cifar": resnet18_cifar}


def build(name: str, classes: int, shape: tuple[int, int, int], dropout: float = 0.5) -> nn.Module:
    """A network for images of `shape` (α, m, m), in training mode.

    `name`: vgg_small, vgg11 to vgg19, one of OWN, a classification network of torchvision, or
    `package.module:callable` of the user's own, found from the current folder too, and called with
    `num_classes`. `dropout` is VGG's.

    Raises ValueError where there is no such network, it does not take such images, or Aug-Conv
    cannot stand for its first layer (`check_network`).
    """
    if not (name in GROUPS or name in OWN or is_users_own(name) or _is_torchvisions(name)):
        raise ValueError(f"there is no network {name}: choose {', '.join([*GROUPS, *OWN])}, a "
                         "classification network of torchvision (such as resnet18), or "
                         "package.module:callable")
    try:
        network = _build_unchecked(name, classes, shape, dropout)
        check_network(network, classes, shape)
    except SystemExit:
        reason = "it ends the program (sys.exit)"
    except Exception as wrong:                           # whatever a user's own code leads to
        reason = " ".join(str(wrong).split())[:250] or type(wrong).__name__
    else:
        return network.train()
    raise ValueError(f"{name} cannot be used for images {size_in_words(shape)}: {reason}")


def is_users_own(name: str) -> bool:
    """Whether a network's name is `package.module:callable` of the user's own."""
    return ":" in name


def _is_torchvisions(name: str) -> bool:
    """Whether torchvision has a classification network of this name."""
    import torchvision
    return name in torchvision.models.list_models(module=torchvision.models)


def _build_unchecked(name: str, classes: int, shape: tuple[int, int, int],
                     dropout: float) -> nn.Module:
    channels, side, _ = shape
    if name in GROUPS:
        return VGG(name, classes, channels, side, dropout)
    if is_users_own(name):
        return _call_own(name, classes)
    if name in OWN:
        network = OWN[name](classes)
    else:
        options = {}
        if name.startswith("vit_"):
            options = {"image_size": side}
        elif name.startswith("maxvit"):
            options = {"input_size": (side, side)}
        elif name in ("googlenet", "inception_v3"):
            options = {"aux_logits": False, "init_weights": True}
        import torchvision
        network = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    if channels != 3:
        _replace_channels(network, channels, side)
    return network


def _call_own(name: str, classes: int) -> nn.Module:
    """The network that `package.module:callable` gives."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with _silent_if_it_ends():
            function = pkgutil.resolve_name(name)
    except Exception as wrong:
        module, _, rest = name.partition(".py:")
        hint = f": write {module}:{rest}, without .py" if rest else _shadowed(name)
        raise ValueError(f"it cannot be imported ({wrong}){hint}") from None
    except SystemExit:
        raise ValueError("its module ends the program when it is imported: put what runs there "
                         "under `if __name__ == \"__main__\":`") from None
    _refuse_another_file(name)
    with _silent_if_it_ends():
        network = function(num_classes=classes)
    if not isinstance(network, nn.Module):
        raise ValueError(f"it returns a {type(network).__name__}, not a torch.nn.Module")
    return network


def digest_of_code(name: str) -> str:
    """SHA-256 of the file that a network of the user's own comes from; "" for other networks."""
    if not is_users_own(name):
        return ""
    path = _file_of(name.partition(":")[0])
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""


def _file_of(module: str) -> str | None:
    """The file that a module was imported from; None where it was not, or has none."""
    return getattr(sys.modules.get(module), "__file__", None)


@contextlib.contextmanager
def _silent_if_it_ends():
    """Keeps back what code of the user's says on stderr; if it ends the program, for good.

    A module that reads our command line as its own (argparse) says that it is wrong.
    """
    said = io.StringIO()
    is_over = False
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit:
        is_over = True
        raise
    finally:
        if not is_over:
            sys.stderr.write(said.getvalue())


def _refuse_another_file(name: str):
    """Raises ValueError where the current folder has the module too, but another was imported."""
    package = name.partition(":")[0].partition(".")[0]
    imported = _file_of(package)
    for place in (f"{package}.py", os.path.join(package, "__init__.py")):
        own = os.path.join(os.getcwd(), place)
        if imported and os.path.exists(own) and not os.path.samefile(own, imported):
            raise ValueError(f"{imported} was found first, but {own} is there too: rename one")


def _shadowed(name: str) -> str:
    """What to say where a package of the user's has the name of one of this program's."""
    package = name.partition(":")[0].partition(".")[0]
    found = _file_of(package)
    own = os.path.join(os.getcwd(), package)
    if found is None or not os.path.isdir(own) or os.path.dirname(found) == own:
        return ""
    return (f": this program has a package {package} too, so rename yours in {own}")


def _replace_channels(network: nn.Module, channels: int, side: int):
    """Puts a first layer for another number of channels in the place of one for 3."""
    place = find_first_layer(network, (3, side, side))
    old = network.get_submodule(place)
    if old.groups > 1:
        raise ValueError(f"its first layer has {old.groups} groups of channels: write a network "
                         f"for {channels} channels (package.module:callable)")
    network.set_submodule(place, nn.Conv2d(
        channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation,
        bias=old.bias is not None))


def check_network(network: nn.Module, classes: int, shape: tuple[int, int, int]):
    """Raises ValueError where the network behind its first layer is not the network itself.

    Random images must lead to the same logits through the whole network, and through its first
    layer as Aug-Conv represents it and the rest, in training mode and in evaluation mode. That
    fails where the first layer's class computes something else than a convolution, or has a hook;
    where the layer is used twice; and where the network looks at the image a second time. A step of
    backpropagation must be possible too. A copy of the network is tried, and the state of PyTorch's
    random generator is kept.
    """
    _check_state(network)
    compared = _compare_logits(network, classes, shape, torch.float32, rounding=1e-6)
    if compared.differ_in or compared.faint:
        # The logits of many networks hardly depend on the image before they are trained. In
        # float64 even a small difference shows. Some networks cannot compute in it.
        with contextlib.suppress(RuntimeError):
            compared = _compare_logits(network, classes, shape, torch.float64, rounding=1e-13)
    if compared.differ_in:
        raise ValueError(
            f"its logits differ where its first layer is replaced by the layer's features "
            f"({compared.differ_in} mode): the network uses the image a second time")
    if compared.blind:
        raise ValueError("its logits are the same for two different images, so nothing can be "
                         "learned from images")
    _check_one_image(network, classes, shape)


@torch.no_grad()
def _check_one_image(network: nn.Module, classes: int, shape: tuple[int, int, int]):
    """Raises ValueError where a network does not take one image alone in evaluation mode: a last
    batch may have no more."""
    with torch.random.fork_rng(devices=[]):
        network = copy.deepcopy(network).eval()
        try:
            found = tuple(network(torch.randn(1, *shape)).shape)
        except Exception as wrong:                       # whatever a user's own code leads to
            reason = " ".join(str(wrong).split())[:100] or type(wrong).__name__
            raise ValueError(f"it takes two images, but not one alone ({reason}): does it drop the "
                             "dimension of the batch? squeeze() does, flatten(1) does "
                             "not") from None
    if found != (1, classes):
        raise ValueError(f"for one image it returns a tensor {found}, not {(1, classes)} logits: "
                         "squeeze() drops the dimension of the batch too, flatten(1) does not")


class _Comparison(NamedTuple):
    """Of a network's logits for two images with those of the same network behind its first layer.

    differ_in: the mode in which they differ, or "". faint: the two images' logits are so alike, in
    some mode, that rounding could hide a difference. blind: they are the same in both modes.
    """

    differ_in: str
    faint: bool
    blind: bool


def _compare_logits(network: nn.Module, classes: int, shape: tuple[int, int, int],
                    dtype: torch.dtype, rounding: float) -> _Comparison:
    """Compares in a dtype; `rounding` is its rounding error relative to the logits."""
    differ_in, faint, blind = "", False, True
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)           # CUDA's generators are left alone
        images = torch.randn(2, *shape, dtype=dtype)
        whole = copy.deepcopy(network).to(dtype)
        _enlarge_small_weights(whole)
        # The copy shares the weights, which may be large, but has buffers of its own, which a
        # forward pass in training mode changes.
        same_weights = {id(weight): weight for weight in whole.parameters()}
        rest = BehindFirstLayer(copy.deepcopy(whole, same_weights), shape)
        layer = whole.get_submodule(rest.name)
        convolution = describe(layer)
        for mode, training in (("training", True), ("evaluation", False)):
            whole.train(training)
            rest.train(training)
            features, expected = _run_whole(whole, layer, images, training)
            if features is None:
                raise ValueError(f"it does not use its first layer {rest.name} in {mode} mode")
            check_features(layer, features, convolution(images))
            found = _run_rest(rest, features, training)
            for logits in (expected, found):
                _check_logits(logits, classes, mode)
            # What the images add to the logits counts, not biases and the like.
            between_images = float((expected[0] - expected[1]).abs().max())
            error = rounding * float(expected.abs().max())
            difference = float((found - expected).abs().max())
            if difference > max(1e-5 * between_images, error):
                differ_in = mode
            if 1e-3 * between_images < error:
                faint = True
            if between_images > 0:
                blind = False
    return _Comparison(differ_in, faint, blind)


def _run_whole(network: nn.Module, layer: nn.Module, images: Tensor,
               training: bool) -> tuple[object, object]:
    """What a layer gives inside a network (None if it is not used), and what the network gives."""
    given = []

    def keep(layer, inputs, output):
        given.append(_without_gradients(output))

    hook = layer.register_forward_hook(keep)
    torch.default_generator.manual_seed(1)               # the same dropout as in _run_rest
    with torch.set_grad_enabled(training):
        output = network(images.clone())
    hook.remove()
    return given[0] if given else None, _without_gradients(output)


def _run_rest(rest: BehindFirstLayer, features: Tensor, training: bool) -> object:
    """What the rest of a network gives for features; in training, gradients are computed too, where
    they are not switched off."""
    weights = [weight for weight in rest.parameters() if weight.requires_grad]
    features.requires_grad_(training)
    torch.default_generator.manual_seed(1)
    with torch.set_grad_enabled(training):
        try:
            output = rest(features.clone())              # as computed: may be changed in place
        except AttributeError as wrong:
            raise ValueError(f"it reads an attribute of its first layer {rest.name}, not only its "
                             f"output ({wrong})") from None
        # In inference mode nothing has gradients, and nobody wants to train.
        trains = training and not torch.is_inference_mode_enabled()
        if trains and isinstance(output, Tensor) and output.is_floating_point():
            if not output.requires_grad:
                raise ValueError("its logits have no gradients in training mode, such as after "
                                 "detach() or under no_grad: nothing can be trained")
            torch.autograd.grad(output.sum(), [features, *weights], allow_unused=True)
    return _without_gradients(output)


def _without_gradients(output: object) -> object:
    """A copy of a tensor, laid out in memory as it is; anything else as it is."""
    return output.detach().clone() if isinstance(output, Tensor) else output


def _check_state(network: nn.Module):
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{name or 'it'} is compiled by torch.jit: give the module as it was "
                             "before")
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:      # it cannot be copied
                raise ValueError(f"{attribute} of {name or 'the network'} is computed from others "
                                 "(weight_norm?): remove that, or use "
                                 "torch.nn.utils.parametrizations")
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if nn.parameter.is_lazy(value):
            raise ValueError(f"its {name} has no shape yet: run the network once on an image where "
                             "you build it")
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(f"its state has {name}, which is no tensor (get_extra_state?)")
        if value.layout != torch.strided:
            raise ValueError(f"its {name} is a sparse tensor, which cannot be saved: make it dense")
        if (value.is_floating_point() or value.is_complex()) and value.dtype != torch.float32:
            dtype = str(value.dtype).removeprefix("torch.")
            raise ValueError(f"its {name} is {dtype}: build it in float32 (--precision chooses "
                             "what it computes in)")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            advice = "initialise it with finite values"
            if name in dict(network.named_buffers()):
                advice = "register it with persistent=False"
            raise ValueError(f"its {name} has values that are not finite: {advice}")


@torch.no_grad()
def _enlarge_small_weights(network: nn.Module):
    """Random numbers in the place of weights that are all (nearly) zero.

    Many networks begin with branches that are switched off so. They would hide differences.
    """
    for weight in network.parameters():
        if weight.numel() and float(weight.abs().max()) < 0.01:
            weight.normal_(std=0.1)


def _check_logits(output: object, classes: int, mode: str):
    if not isinstance(output, Tensor):
        raise ValueError(f"in {mode} mode it returns a {type(output).__name__}, not one tensor of "
                         "logits")
    if output.shape != (2, classes):
        raise ValueError(f"for two images it returns a tensor {tuple(output.shape)}, not "
                         f"{(2, classes)} logits")
    if not bool(output.isfinite().all()):
        raise ValueError(f"in {mode} mode its logits for random images are not finite")


def mode_of_softmax(network: nn.Module, shape: tuple[int, int, int]) -> str:
    """Whether a network ends in a softmax, so that its outputs are positive and sum to 1.

    "training" if it does in training mode, whatever it does in evaluation; "evaluation" if in that
    mode alone; "" if in neither.
    """
    for mode, training in (("training", True), ("evaluation", False)):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(0)
            outputs = copy.deepcopy(network).train(training)(torch.randn(2, *shape))
        sums = outputs.sum(1)
        if bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
            return mode
    return ""
