"""Step 2, the developer: trains a network on plain public images.

Its first layer goes to the provider; its accuracy is what morphed training is compared with.
Writes data/developer/.
"""

from pathlib import Path

from models import first_layer
from models.vgg import VGG
from utils.datasets import images_of, load_images, normalise
from utils.program import run_step
from utils.runs import Run, comparison, finish, is_finished
from utils.training import Data, processes, rank, say, seed_everything, to_device, train


def main(p):
    folder = Path(p.data_dir) / "developer"
    run = Run(folder, "pretrained", p.experiment())
    with processes(p) as device:
        if not p.restart and is_finished(run):
            say("this run is finished already; --restart trains anew")
        else:
            train_images, test_images = load_images(p, "train"), load_images(p, "test")
            seed_everything(p.seed)
            network = VGG(p.model, len(train_images.classes), side=p.image_size,
                          dropout=p.dropout)
            data = to_device(Data(train_images.images, train_images.labels, test_images.images,
                                  test_images.labels, normalise), device)
            curve = train(network, data, p, run, p.weight_decay, device)
            about = {"dataset": images_of(p), "classes": len(train_images.classes),
                     "train_images": len(data.train), "test_images": len(data.test)}
            if rank() == 0:
                finish(run, network, curve, p, about,
                       first_layer=first_layer.to_file(network.first_layer))
        say(f"{folder}/pretrained.pt is the network, first_layer.pt what the provider gets")
        say(*comparison(folder)[:1])


if __name__ == "__main__":
    run_step(main, __doc__)
