"""Step 5, the control: trains the same network on morphed images without Aug-Conv.

Reads data/delivery/ and nothing else of the provider's. Writes data/developer/no_ac.*, or
no_ac_standardised.* with --standardise.
"""

from pathlib import Path

from models.vgg import VGG
from utils.delivery import read_delivery, standardised
from utils.program import run_step
from utils.runs import Run, comparison, finish, is_finished
from utils.training import processes, rank, say, seed_everything, to_device, train


def main(p):
    folder = Path(p.data_dir) / "developer"
    delivery = read_delivery(Path(p.data_dir) / "delivery")
    name = "no_ac_standardised" if p.standardise else "no_ac"
    run = Run(folder, name, delivery.identity(p))
    with processes(p) as device:
        if not p.restart and is_finished(run):
            say("this run is finished already; --restart trains anew")
        else:
            channels, side, _ = delivery.shape
            data = delivery.data()
            if p.standardise:
                data = standardised(data)
            data = to_device(data._replace(prepare=lambda x: x.view(-1, channels, side, side)),
                             device)
            seed_everything(p.seed)
            network = VGG(p.model, len(delivery.classes), channels, side, p.dropout,
                          first_padding=max(0, 1 - delivery.image_padding))
            curve = train(network, data, p, run, p.morphed_weight_decay, device)
            if rank() == 0:
                finish(run, network, curve, p, delivery.about())
        say(*comparison(folder), sep="\n")


if __name__ == "__main__":
    run_step(main, __doc__)
