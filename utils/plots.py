"""Pictures for people, as PNG bytes; one that cannot be made costs nothing else."""

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from textwrap import fill

import torch
from torch import Tensor
from torch.nn import functional

from utils.artifacts import write_alone
from utils.errors import one_line, warn
from utils.names import readable_names

MOST_NAMED = 20                     # classes up to which a confusion matrix has names and numbers
MOST_INCHES = 14                    # sides of a picture
LEAST_INCHES, LEAST_SIDE = 4, 30    # of a row of images, in inches and pixels: titles need room
LETTERS_TO_INCH = 15                # of its title


def pyplot():
    """Matplotlib's pyplot without a screen; imported here, since it takes a second."""
    os.environ.pop("MPLBACKEND", None)                   # a notebook's does not work here
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    return pyplot


def as_png(figure, dpi: int = 120) -> bytes:
    """A figure as PNG; it is closed."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")      # letters that no font here has
        figure.savefig(data, dpi=dpi)
    pyplot().close(figure)
    return data.getvalue()


def draw(path: Path, picture: Callable[..., bytes], *arguments, mode: int = 0o666) -> bool:
    """Writes picture(*arguments) to a file; where that is impossible, warns and gives False."""
    try:
        write_alone(path, picture(*arguments), mode)
        return True
    except Exception as error:                           # of Matplotlib, its caches or settings
        reason = one_line(error)
        warn(f"{path} could not be drawn ({reason}); everything else is there")
        return False


def visible(images: Tensor) -> Tensor:
    """Images (N, α, m, m) of any number of channels as (N, 3 or 1, m, m): the first three, or one.
    """
    count = images.shape[1]
    if count in (1, 3):
        return images
    return images[:, :3] if count > 3 else images[:, :1]


def channels_shown(images: Tensor) -> str:
    """Which channels a picture shows, in words; nothing where it shows them all."""
    count = images.shape[1]
    if count in (1, 3):
        return ""
    return f"channels 1 to 3 of {count}" if count > 3 else f"channel 1 of {count}"


def stretch(images: Tensor) -> Tensor:
    """Images (N, α, m, m), each stretched to [0, 1] to be looked at."""
    images = images.float()
    low = images.amin((1, 2, 3), keepdim=True)
    high = images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(1e-12)


def curve_png(curve: list[dict], title: str) -> bytes:
    """Training loss and test accuracy over the epochs of one run."""
    figure, axis = pyplot().subplots(figsize=(6, 3.5), layout="constrained")
    accuracy = [100 * epoch["test_accuracy"] for epoch in curve]
    axis.set_title(title, parse_math=False)
    if len(curve) == 1:                                  # one epoch is two numbers, not a curve
        axis.text(0.5, 0.5, f"one epoch: test accuracy {accuracy[0]:.2f}%, train loss "
                  f"{curve[0]['train_loss']:.4f}", ha="center", transform=axis.transAxes)
        axis.axis("off")
        return as_png(figure)
    epochs = [epoch["epoch"] for epoch in curve]
    axis.plot(epochs, accuracy, "o-", ms=3, color="tab:blue")
    axis.set(xlabel="epoch", ylabel="test accuracy, %", ylim=(0, 100))
    axis.yaxis.label.set_color("tab:blue")
    axis.xaxis.get_major_locator().set_params(integer=True)
    other = axis.twinx()
    other.plot(epochs, [epoch["train_loss"] for epoch in curve], "s--", ms=3, color="tab:orange")
    other.set_ylabel("train loss", color="tab:orange")
    other.set_ylim(bottom=0)
    return as_png(figure)


def rows_png(rows: list[tuple[str, Tensor]], zoom: int = 2) -> bytes:
    """Rows of images under their titles: (title, tensor (N, 3 or 1, m, m), values in [0, 1])."""
    count = len(rows[0][1])
    side = max(LEAST_SIDE, zoom * max(images.shape[-1] for _, images in rows))
    width = max(LEAST_INCHES, count * side / 100)
    titles = [fill(title, int(width * LETTERS_TO_INCH)) for title, _ in rows]
    extra_lines = sum(title.count("\n") for title in titles)
    size = width, (len(rows) * (side + 26) + extra_lines * 14) / 100
    figure, axes = pyplot().subplots(len(rows), 1, squeeze=False, layout="constrained",
                                     figsize=size)
    for axis, title, (_, images) in zip(axes[:, 0], titles, rows, strict=True):
        pictures = visible(images.detach().cpu().float().clamp(0, 1)).expand(-1, 3, -1, -1)
        framed = functional.pad(pictures, (1, 1, 1, 1))
        row = torch.cat(list(framed), 2)
        axis.imshow(row.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=9, loc="left")
        axis.axis("off")
    return as_png(figure, dpi=100)


def predictions_png(images: Tensor, probabilities: Tensor, classes: list[str], names: list[str],
                    labels: Tensor | None) -> bytes:
    """Images (N, α, m, m), whatever their values, with what the network predicts.

    Under each its file name, the likeliest class and its probability; with labels, a green frame
    where that is right, and a red one, with the true class, where it is wrong.
    """
    columns = min(10, len(images))
    rows = -(-len(images) // columns)
    figure, axes = pyplot().subplots(rows, columns, squeeze=False, layout="constrained",
                                     figsize=(1.3 * columns, 1.9 * rows))
    for axis in axes.flat[len(images):]:
        axis.axis("off")
    best = probabilities.max(1)
    names = readable_names(names[:len(images)], 18)
    classes = readable_names(classes, 14)
    pictures = stretch(visible(images))
    for i, (axis, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        predicted = int(best.indices[i])
        axis.imshow(picture.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray",
                    interpolation="nearest")
        title = f"{names[i]}\n{classes[predicted]} {best.values[i]:.0%}"
        colour = "black"
        if labels is not None:
            right = predicted == int(labels[i])
            colour = "tab:green" if right else "tab:red"
            title += "" if right else f"\nis {classes[int(labels[i])]}"
        axis.set_title(title, fontsize=7, parse_math=False)
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(color=colour, linewidth=1 if labels is None else 3)
    words = ["morphed images, and what the network predicts"]
    if labels is not None:
        words.append("green: right, red: wrong")
    if channels_shown(images):
        words.append(channels_shown(images))
    figure.suptitle("; ".join(words), fontsize=8)
    return as_png(figure)


def confusion_png(labels: Tensor, predicted: Tensor, classes: list[str]) -> bytes:
    """How many images of each class (row) were predicted as which (column)."""
    count = len(classes)
    cells = (labels * count + predicted).bincount(minlength=count ** 2).view(count, count)
    side = min(MOST_INCHES, max(4, 0.45 * count + 1.5))
    figure, axis = pyplot().subplots(figsize=(side, side), layout="constrained")
    shares = cells / cells.sum(1, keepdim=True).clamp_min(1)
    axis.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="class")
    if count <= MOST_NAMED:
        _name_cells(axis, cells, readable_names(classes))
    return as_png(figure)


def _name_cells(axis, cells: Tensor, names: list[str]):
    for row, counts in enumerate(cells.tolist()):
        for column, images in enumerate(counts):
            is_dark = 2 * images > sum(counts)
            axis.text(column, row, str(images), ha="center", va="center", fontsize=8,
                      color="white" if is_dark else "black")
    axis.set_xticks(range(len(names)), names, parse_math=False, rotation=90)
    axis.set_yticks(range(len(names)), names, parse_math=False)
