"""Plots for people, as PNG bytes: curves of training runs, and what MoLe costs over κ."""

import io

from utils import analysis


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
    epochs = [e["epoch"] for e in curve]
    axis.plot(epochs, [100 * e["test_accuracy"] for e in curve], "o-", ms=3, color="tab:blue")
    axis.set(xlabel="epoch", ylabel="test accuracy, %", ylim=(0, 100), title=title)
    axis.yaxis.label.set_color("tab:blue")
    axis.xaxis.get_major_locator().set_params(integer=True)
    other = axis.twinx()
    other.plot(epochs, [e["train_loss"] for e in curve], "s--", ms=3, color="tab:orange")
    other.set_ylabel("train loss", color="tab:orange")
    other.set_ylim(bottom=0)
    return as_png(figure)


def accuracy_png(settings: dict[str, dict[str, list[list[dict]]]]) -> bytes:
    """A panel for each setting, {title: {name of a network: its curves, one a seed}}."""
    figure, axes = pyplot().subplots(1, len(settings), figsize=(max(5, 3.6 * len(settings)), 3.8),
                                     squeeze=False, sharey=True, layout="constrained")
    for axis, (title, networks) in zip(axes[0], settings.items(), strict=True):
        for i, (name, curves) in enumerate(networks.items()):
            for curve in curves:
                axis.plot([e["epoch"] for e in curve], [100 * e["test_accuracy"] for e in curve],
                          "so^v"[i % 4] + "-", ms=5 - i % 2, lw=1.2, color=f"C{i}",
                          label=name if curve is curves[0] else None)
        axis.axhline(10, color="grey", lw=1, ls=":", label="chance")
        axis.set(xlabel="epoch", ylim=(0, 100), title=title)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("test accuracy, %")
    fullest = max(range(len(settings)), key=lambda i: len(list(settings.values())[i]))
    axes[0, fullest].legend(fontsize=8, loc=(0.4, 0.2))
    return as_png(figure)


def overhead_png(kappas: list[int], entries: int, features: int, network: int, first_layer: int,
                 images: int) -> bytes:
    """What MoLe costs over κ: multiply-adds as shares of the network's, and the known pairs that
    give the core away."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(10, 4), layout="constrained")
    cores = [entries // kappa for kappa in kappas]
    composed = analysis.aug_conv_macs(entries, features) - first_layer
    lines = [("provider: morphing an image, αm²·q", "o-", "tab:blue",
              [analysis.morphing_macs(entries, kappa) / network for kappa in kappas]),
             ("developer: Aug-Conv in place of the first layer", "s-", "tab:orange",
              [composed / network] * len(kappas)),
             ("core over data set, q/N (paper's transmission)", "^-", "tab:green",
              [q / images for q in cores]),
             ("Aug-Conv over data set, in entries", "v-", "tab:red",
              [features / images] * len(kappas))]
    for name, style, colour, values in lines:
        left.plot(kappas, [100 * value for value in values], style, color=colour, label=name)
    left.axhline(9, color="grey", ls=":", lw=1, label="the paper's 9% and 5.12%")
    left.axhline(5.12, color="grey", ls=":", lw=1)
    left.set(title="Overhead of MoLe, VGG-16 on CIFAR", ylabel="%", ylim=(5e-3, 1e5))
    right.plot(kappas, [analysis.pairs_needed(q, kappa)
                        for q, kappa in zip(cores, kappas, strict=True)], "o-", color="tab:blue")
    right.set(title="Known pairs that determine the core, q/κ", ylabel="pairs", ylim=(0.5, 6000))
    for axis in (left, right):
        axis.set(xscale="log", yscale="log", xlabel="κ, copies of the core in M")
        axis.set_xticks(kappas, [str(kappa) for kappa in kappas])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    left.legend(fontsize=8, loc="upper center")
    return as_png(figure)


def pairs_png(points: list[dict]) -> bytes:
    """What comes back of the images without Aug-Conv, over the number of known pairs (attack 4)."""
    figure, axis = pyplot().subplots(figsize=(6, 3.5), layout="constrained")
    pairs = [point["pairs"] for point in points]
    axis.plot(pairs, [point["psnr"] for point in points], "o-", color="tab:blue")
    axis.axvline(points[0]["least"], color="grey", ls=":", lw=1,
                 label="as many pairs as the core has rows: q/κ")
    axis.set(xscale="log", xlabel="known pairs of a plain and a morphed image", ylabel="PSNR, dB",
             ylim=(0, None), title="Images recovered from known pairs, without Aug-Conv")
    axis.set_xticks(pairs[:3] + pairs[-1:], [str(n) for n in pairs[:3] + pairs[-1:]])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper left")
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
