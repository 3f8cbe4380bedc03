"""Pictures that the steps leave for people, as PNG bytes."""

import io


def pyplot():
    """Matplotlib's, without a screen; imported where it is needed, since it takes a second."""
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


def curve_png(curve: list[dict], title: str) -> bytes:
    """Training loss and test accuracy over the epochs of one run."""
    figure, axis = pyplot().subplots(figsize=(6, 3.5), layout="constrained")
    other, epochs = axis.twinx(), [e["epoch"] for e in curve]
    axis.plot(epochs, [100 * e["test_accuracy"] for e in curve], "o-", ms=3, color="tab:blue")
    axis.set(xlabel="epoch", ylabel="test accuracy, % (blue)", ylim=(0, 100), title=title)
    axis.xaxis.get_major_locator().set_params(integer=True)
    other.plot(epochs, [e["train_loss"] for e in curve], "s--", ms=3, color="tab:orange")
    other.set(ylabel="train loss (orange)", ylim=(0, None))
    return as_png(figure)


def rows_png(rows: list, zoom: int = 2) -> bytes:
    """Rows of images under their titles: (title, tensor (N, 3 or 1, m, m), values in [0, 1])."""
    from torchvision.utils import make_grid
    side = zoom * max(images.shape[-1] for _, images in rows) / 100
    size = (len(rows[0][1]) * side, len(rows) * (side + 0.26))
    figure, axes = pyplot().subplots(len(rows), squeeze=False, layout="constrained", figsize=size)
    for axis, (title, images) in zip(axes[:, 0], rows, strict=True):
        grid = make_grid(images.detach().cpu().float().clamp(0, 1), len(images), padding=1)
        axis.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=9, loc="left")
        axis.axis("off")
    return as_png(figure, dpi=100)
