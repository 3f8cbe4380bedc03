"""The paper's figures as PNG, drawn from records and from formulas."""

from textwrap import fill

from experiments.tables.formulas import morphing_macs
from experiments.tables.paper import ENTRIES, IMAGES, KAPPAS, NETWORK, TILES, computed, tile_costs
from experiments.tables.runs import NETWORKS, in_rows
from utils.plots import as_png, pyplot


def panels_png(*panels: tuple[dict, list, list[tuple]]) -> bytes:
    """Panels side by side: the settings of the axes, x, and lines of (label, y, style)."""
    figure, axes = pyplot().subplots(1, len(panels), squeeze=False, layout="constrained",
                                     figsize=(max(6, 4.2 * len(panels)), 3.9))
    for axis, (settings, x, lines) in zip(axes[0], panels, strict=True):
        for label, y, style in lines:
            axis.plot(x, y, style, ms=4, lw=1.2, label=label)
        axis.set(**settings)
        axis.title.set_fontsize(9)
        if len(x) < 10:
            axis.set_xticks(x, [str(value) for value in x])
            axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return as_png(figure)


def drawn(records: dict) -> dict[str, bytes]:
    """Every figure by its name; those whose records are not there are left out."""
    log, made, sides = {"xscale": "log", "yscale": "log", "ylabel": "%"}, computed(), (32, 64, 128)
    styles = dict(zip(NETWORKS, ("C0s-", "C4D-", "C1o-", "C2^-", "C3v-"), strict=True))
    overhead = [
        (log | {"title": "Overhead of MoLe, VGG-16 on CIFAR", "xlabel": "κ"}, KAPPAS, [
            ("provider: morphing", [100 * morphing_macs(ENTRIES, kappa) / NETWORK
                                    for kappa in KAPPAS], "C0o-"),
            ("developer: Aug-Conv", [100 * made["composed_overhead"] for _ in KAPPAS], "C1s-"),
            ("core over data set", [100 * ENTRIES / kappa / IMAGES for kappa in KAPPAS], "C2^-")]),
        (log | {"title": "With tiles (32: the paper's)", "xlabel": "side of a tile"}, TILES, [
            ("multiply-adds", [100 * tile["share_of_network"] for tile in made["tiles"]], "C1s-"),
            ("bytes", [100 * tile["share_of_data"] for tile in made["tiles"]], "C3v-"),
            ("published: 9%", [9 for _ in TILES], "k:")]),
        (log | {"title": "Aug-Conv in float32", "xlabel": "side of the image", "ylabel": "MB"},
         sides, [(f"tiles of side {tile}" if tile else "dense: m⁴", [
             tile_costs(tile or side, side)["bytes"] / 1e6 for side in sides], style)
             for tile, style in ((0, "C3v-"), (16, "C0o-"), (8, "C1s-"), (4, "C2^-"))])]
    accuracy = [
        ({"title": "\n".join(fill(words, 56) for words in row[:2]),
          "xlabel": "epoch", "ylabel": "test accuracy, %", "ylim": (0, 100)},
         range(1, 1 + max(len(run["curve"]) for runs in row.runs.values() for run in runs)), [
             (NETWORKS[name][0] if run is runs[0] else None, [
                 100 * epoch["test_accuracy"] for epoch in run["curve"]], styles[name])
             for name, runs in row.runs.items() for run in runs])
        for row in in_rows(records["accuracy"])[:3]]
    known = records.get("attacks", {}).get("known_pairs", [])
    pairs = [({"title": "Without Aug-Conv", "xlabel": "known pairs", "ylabel": "PSNR, dB"},
              [point["pairs"] for point in known],
              [("recovered images", [point["psnr"] for point in known], "C0o-")])][:len(known)]
    figures = {"overhead": overhead, "accuracy": accuracy, "known_pairs": pairs}
    return {name: panels_png(*panels) for name, panels in figures.items() if panels}
