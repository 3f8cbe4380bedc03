"""Step 5, the developer: trains a network behind Aug-Conv on morphed images.

Reads data/delivery/ and nothing else of the provider's. Writes data/developer/with_ac.*
"""

from pathlib import Path

from models.aug_conv import AugConv
from models.vgg import VGG
from utils.delivery import read_delivery
from utils.program import UserError, explained, run_step
from utils.runs import Run, comparison, finish, is_finished
from utils.training import (
    compute_dtype,
    processes,
    rank,
    say,
    seed_everything,
    through_aug_conv,
    train,
)


def main(p):
    folder = Path(p.data_dir) / "developer"
    delivery = read_delivery(Path(p.data_dir) / "delivery")
    run = Run(folder, "with_ac", delivery.identity(p))
    with processes(p) as device:
        if not p.restart and is_finished(run):
            say("this run is finished already; --restart trains anew")
        else:
            with explained(delivery.folder / "aug_conv.pt"):
                aug_conv = AugConv(*delivery.aug_conv()).to(device)
            beta, n, _ = aug_conv.out_shape
            seed_everything(p.seed)
            network = VGG(p.model, len(delivery.classes), side=n, dropout=p.dropout)
            if beta != network.first_layer.out_channels:
                raise UserError(f"Aug-Conv has {beta} channels, but {p.model} wants "
                                f"{network.first_layer.out_channels}: it was composed with the "
                                "first layer of another network")
            network.first_layer = aug_conv
            data = through_aug_conv(aug_conv, delivery.data(), p.feature_cache,
                                    compute_dtype(p, device), device)
            curve = train(network.behind, data, p, run, p.morphed_weight_decay, device)
            if rank() == 0:
                finish(run, network, curve, p, delivery.about())
        say(*comparison(folder)[:2], sep="\n")


if __name__ == "__main__":
    run_step(main, __doc__)
