"""Step 2, the developer: trains a network on plain public images.

Its first layer goes to the provider; its accuracy is what morphed training is compared with. With
--frozen_first_layer the network trains behind that layer: the fair partner of Aug-Conv.
Writes data/developer/.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))           # PYTHONSAFEPATH leaves it out
import utils.step
from images import datasets
from mole import first_layer
from utils.artifacts import read_tensors
from utils.devices import compute_dtype, processes, say
from utils.records import Run, comparison, finish, identity, is_finished
from utils.settings import user_errors
from utils.training import Data, new_network, through_frozen_layers, to_device, train


def main(p):
    folder, shape = Path(p.data_dir) / "developer", datasets.image_shape(p)
    with processes(p) as device:
        train_set, test_set = (datasets.load_images(p, split) for split in ("train", "test"))
        frozen = p.frozen_first_layer and read_layer(p.frozen_first_layer)
        mean, std = frozen[1:] if frozen else datasets.normalisation(p, train_set)
        about = datasets.about(p, train_set, test_set)
        run = Run(folder, "pretrained_frozen" if frozen else "pretrained", identity(
            p, "pretrain.py", pixels=about["pixels"], class_names=train_set.classes,
            labels=datasets.data_digest(train_set.labels, test_set.labels),
            normalisation=[mean, std],
            **({"frozen_first_layer": first_layer.fingerprint(frozen[0])} if frozen else {})))
        if not is_finished(run, p):
            network, model = new_network(p, len(train_set.classes), shape)
            name = first_layer.find(network, shape)
            data = Data(train_set.images, train_set.labels, test_set.images, test_set.labels,
                        partial(datasets.normalise, mean=mean, std=std))
            if frozen:
                data = through_frozen_layers([(frozen[0], data)], p.feature_cache,
                                             compute_dtype(p, device), device)
                behind = first_layer.BehindFirstLayer(network, shape)
                curve = train(behind, data, p, run, p.weight_decay, device)
                network.set_submodule(name, frozen[0])
            else:
                curve = train(network, to_device(data, device), p, run, p.weight_decay, device)
            layer = network.get_submodule(name)
            finish(run, network, model, curve, p, device, about,
                   {"deliveries": [], "layer": first_layer.fingerprint(layer)},
                   **({} if frozen else {"first_layer": first_layer.to_file(layer, mean, std)}))
        if not frozen:
            say(f"{folder}/pretrained.pt is the network, first_layer.pt what the provider gets")
        say(*comparison(run, "pretrained", run.name), sep="\n")


def read_layer(file: str):
    with user_errors(file):
        return first_layer.from_file(read_tensors(Path(file), "name a first_layer.pt"))


if __name__ == "__main__":
    utils.step.run_step(main, __doc__)
