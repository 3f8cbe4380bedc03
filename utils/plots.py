"""Pictures for people, as PNG bytes; one that cannot be made costs nothing else."""

import io
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path

from torch import Tensor

from utils.artifacts import write_alone
from utils.settings import warn


def pyplot():
    """Matplotlib's, without a screen; imported where it is needed, since it takes a second."""
    os.environ.pop("MPLBACKEND", None)                   # a notebook's is not to be had here
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    return pyplot


def as_png(figure, dpi: int = 120) -> bytes:
    """A figure as PNG; it is closed."""
    data = io.BytesIO()
    figure.savefig(data, dpi=dpi)
    pyplot().close(figure)
    return data.getvalue()


def draw(path: Path, picture: Callable[..., bytes], *arguments, mode: int = 0o666) -> bool:
    """Writes picture(*arguments) to a file; where that cannot be, says so and gives False."""
    try:
        write_alone(path, picture(*arguments), mode)
        return True
    except Exception as error:                           # of Matplotlib, its caches or settings
        warn(f"{path} could not be drawn ({' '.join(str(error).split())[:150]}); all else is there")
        return False


def curve_png(curve: list[dict], title: str) -> bytes:
    """Training loss and test accuracy over the epochs of one run."""
    figure, axis = pyplot().subplots(figsize=(6, 3.5), layout="constrained")
    epochs = [e["epoch"] for e in curve]
    axis.plot(epochs, [100 * e["test_accuracy"] for e in curve], "o-", ms=3, color="tab:blue")
    axis.set(xlabel="epoch", ylabel="test accuracy, %", ylim=(0, 100))
    axis.set_title(title, parse_math=False)
    axis.yaxis.label.set_color("tab:blue")
    axis.xaxis.get_major_locator().set_params(integer=True)
    other = axis.twinx()
    other.plot(epochs, [e["train_loss"] for e in curve], "s--", ms=3, color="tab:orange")
    other.set_ylabel("train loss", color="tab:orange")
    other.set_ylim(bottom=0)
    return as_png(figure)


def rows_png(rows: list, zoom: int = 2) -> bytes:
    """Rows of images under their titles: (title, tensor (N, 3 or 1, m, m), values in [0, 1])."""
    from torchvision.utils import make_grid
    count, side = len(rows[0][1]), max(images.shape[-1] for _, images in rows)
    figure, axes = pyplot().subplots(len(rows), 1, squeeze=False, layout="constrained",
                                     figsize=(count * side * zoom / 100,
                                              len(rows) * (side * zoom + 26) / 100))
    for axis, (title, images) in zip(axes[:, 0], rows, strict=True):
        grid = make_grid(images.detach().cpu().float().clamp(0, 1), nrow=count, padding=1)
        axis.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=9, loc="left")
        axis.axis("off")
    return as_png(figure, dpi=100)


def stretched(images: Tensor) -> Tensor:
    """Images (N, α, m, m), each stretched to [0, 1] to be looked at."""
    images = images.float()
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(1e-12)


def predictions_png(images: Tensor, probabilities: Tensor, classes: list[str]) -> bytes:
    """Images (N, α, m, m), whatever their values, under the likeliest class of each."""
    columns, best = min(10, len(images)), probabilities.max(1)
    rows = -(-len(images) // columns)
    figure, axes = pyplot().subplots(rows, columns, squeeze=False, layout="constrained",
                                     figsize=(1.1 * columns, 1.6 * rows))
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, p, i in zip(axes.flat, stretched(images),
                                 *map(Tensor.tolist, best), strict=False):
        axis.imshow(image.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray",
                    interpolation="nearest")
        axis.set_title(f"{classes[i]}\n{p:.0%}", fontsize=8, parse_math=False)
    return as_png(figure)


def confusion_png(labels: Tensor, said: Tensor, classes: list[str]) -> bytes:
    """How many images of each class (row) were taken for which (column)."""
    count, side = len(classes), max(4, 0.45 * len(classes) + 1.5)
    cells = (labels * count + said).bincount(minlength=count ** 2).view(count, count)
    figure, axis = pyplot().subplots(figsize=(side, side), layout="constrained")
    axis.imshow(cells / cells.sum(1, keepdim=True).clamp_min(1), cmap="Blues", vmin=0, vmax=1)
    if count <= 20:
        for row, column in product(range(count), repeat=2):
            n = int(cells[row, column])
            axis.text(column, row, str(n), ha="center", va="center", fontsize=8,
                      color="white" if 2 * n > cells[row].sum() else "black")
        for set_ticks in (axis.set_xticks, axis.set_yticks):
            set_ticks(range(count), classes, parse_math=False)
        axis.tick_params("x", rotation=90)
    axis.set(xlabel="predicted", ylabel="class")
    return as_png(figure)
