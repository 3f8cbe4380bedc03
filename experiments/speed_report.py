"""What experiments.speed found, for people: a table against the targets, and the growth plot.

`found` is {measurement: {side: {key: median}}} of experiments.speed, `size` its Size.
"""

import math

from utils.plots import as_png, pyplot

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def table(found: dict, size, targets: bool = True) -> list[dict]:
    """Rows with the reference's value, the one here, their ratio, and the target, if any.

    A ratio says how many times faster or smaller this program is; that of two epochs, how many
    times longer the second takes. `name` is what a row is found by.
    """
    def row(figure, unit, before, here, ratio, target=None):
        line = {"figure": figure, "unit": unit, "reference": before, "here": here, "ratio": ratio}
        if targets and target:
            of, relation, bound = target
            reached = line[of] >= bound if relation == "≥" else line[of] <= bound
            line |= {"target": f"{of} {relation} {bound:g}", "reached": reached}
        return line

    def compared(figure, unit, name, key, target, side="here"):
        before, here = found[name]["reference"][key], found[name][side][key]
        return row(figure, unit, before, here,
                   here / before if unit == "images/s" else before / here, target)

    def epochs(figure, side, target):
        plain, with_ac = (size.train_images / found[name][which]["images_per_second"]
                          for name, which in (("plain", "here"), ("with_ac", side)))
        return row(f"epoch {figure} (reference: plain, here)", "s", plain, with_ac,
                   with_ac / plain, target)

    def over_plain(figure, key, way, unit):
        plain, here = found["predicting"]["plain"][key], found["predicting"][way][key]
        return row(f"{figure} (reference: plain, here)", unit, plain, here,
                   here / plain if unit == "s" else plain / here)

    m, training = size.sides[-1], f"training {size.model}"
    tiles, sent = f"tiles of {size.tile}", found["tiles"]["delivered"]
    rate, reference = found["morphing"]["here"]["images_per_second_tiles"], (
        found["morphing"]["reference"]["images_per_second"])
    plain, tiled = (size.train_images / found[name][which]["images_per_second"]
                    for name, which in (("plain", "here"), ("tiles", "with_ac")))
    memory = "device_peak_mb" if "device_peak_mb" in found["composing"]["here"] else "peak_mb"
    rows = {
        "composing": compared(f"composing Aug-Conv {3 * m * m}x{64 * m * m}", "s", "composing",
                              f"seconds_at_m_{m}", ("ratio", "≥", 20)),
        "composing_memory": compared("composing Aug-Conv, peak memory", "MB", "composing", memory,
                                     ("here", "≤", 2200)),
        "matrix": compared(f"morphing matrix and inverse, kappa {size.matrix_kappa}", "s", "matrix",
                           "seconds", ("ratio", "≥", 20)),
        "morphing": compared("morphing, kappa 1", "images/s", "morphing", "images_per_second",
                             ("ratio", "≥", 15)),
        "morphing_tiles": row(f"morphing, {tiles}", "images/s", reference, rate, rate / reference,
                              ("ratio", "≥", 25)),
        "plain": compared(f"{training}, plain", "images/s", "plain", "images_per_second",
                          ("ratio", "≥", 1.9)),
        "with_ac": compared(f"{training} with Aug-Conv", "images/s", "with_ac",
                            "images_per_second", ("ratio", "≥", 3)),
        "with_ac_not_kept": compared(f"{training} with Aug-Conv, features not kept", "images/s",
                                     "with_ac", "images_per_second", None, "not_kept"),
        "epoch": epochs("with Aug-Conv", "here", ("ratio", "≤", 1.09)),
        "epoch_not_kept": epochs("with Aug-Conv, features not kept", "not_kept", None),
        "epoch_tiles": row(f"epoch with Aug-Conv, {tiles}, int8, features not kept (reference: "
                           "plain, here)", "s", plain, tiled, tiled / plain, ("ratio", "≤", 1.09)),
        "delivered": row(f"all that is delivered, {tiles}, int8 (reference: the pixels)", "MB",
                         sent["pixel_bytes"] / 1e6, sent["bytes"] / 1e6,
                         sent["bytes"] / sent["pixel_bytes"], ("ratio", "≤", 1.0512)),
        "latency": over_plain("predicting one image, kappa 1", "seconds_for_one", "kappa_1", "s"),
        "latency_tiles": over_plain(f"predicting one image, {tiles}", "seconds_for_one", "tiles",
                                    "s"),
        "throughput": over_plain("predicting 64 at once, kappa 1", "images_per_second", "kappa_1",
                                 "images/s"),
        "throughput_tiles": over_plain(f"predicting 64 at once, {tiles}", "images_per_second",
                                       "tiles", "images/s"),
    }
    return [{"name": name} | values for name, values in rows.items()]


def as_text(rows: list[dict]) -> str:
    width = max(len(row["figure"]) for row in rows)
    lines = [f"{'':{width}}  {'reference':>10} {'here':>10} {'unit':8} {'ratio':>7}  target"]
    for row in rows:
        line = (f"{row['figure']:{width}}  {row['reference']:10.4g} {row['here']:10.4g} "
                f"{row['unit']:8} {row['ratio']:7.3g}")
        if "target" in row:
            line += f"  {row['target']}: {'reached' if row['reached'] else 'MISSED'}"
        lines.append(line)
    return "\n".join(lines)


def growth(found: dict, size) -> dict:
    """Lines of the growth plot: milliseconds to compose Aug-Conv over m, to morph an image over κ.

    Each with the power that is expected, and the one measured: the slope between the last two
    points, the largest problems, on logarithmic axes.
    """
    def line(x, milliseconds, power):
        slope = (math.log(milliseconds[-1] / milliseconds[-2]) / math.log(x[-1] / x[-2]))
        return {"x": list(x), "milliseconds": milliseconds, "expected_power": power,
                "measured_power": round(slope, 2)}

    composing, morphing, tiles = found["composing"], found["morphing"], found["tiles"]["here"]
    return {
        "tiles": {what: line(size.tiled_sides, [1000 * tiles[f"{what}_seconds_at_m_{m}"]
                                                for m in size.tiled_sides], power)
                  for what, power in (("composing", 0), ("morphing", 2), ("aug_conv", 2))},
        "aug_conv_mb": {"x": list(size.tiled_sides), "tiles": [
            tiles[f"aug_conv_mb_at_m_{m}"] for m in size.tiled_sides],
            "dense_computed": [4 * 3 * 64 * m ** 4 / 1e6 for m in size.tiled_sides]},
        "composing": {side: line(size.sides, [1000 * composing[side][f"seconds_at_m_{m}"]
                                              for m in size.sides], power)
                      for side, power in (("reference", 6), ("here", 4))},
        "morphing": line(size.kappas, [1000 / morphing["here"][
            f"images_per_second_kappa_{kappa}"] for kappa in size.kappas], -1),
        "morphing_reference_milliseconds": 1000 / morphing["reference"]["images_per_second"],
    }


def growth_png(lines: dict, side: int) -> bytes:
    """The lines of growth(), measured beside the expected power laws, as a picture."""
    def draw(axis, line, letter, name, style, colour):
        x, y, power = line["x"], line["milliseconds"], line["expected_power"]
        axis.plot(x, y, style, color=colour, label=f"{name}, measured")
        axis.plot(x, [y[-1] * (value / x[-1]) ** power for value in x], "--", color=colour, lw=1,
                  label=f"expected growth, {letter}{str(power).translate(SUPERSCRIPT)}")
        axis.set(xscale="log", yscale="log", xlabel=letter)
        axis.set_xticks(x, [str(value) for value in x])
        axis.minorticks_off()
        axis.grid(alpha=0.3)

    figure, ((left, right), (times, memory)) = pyplot().subplots(2, 2, figsize=(10, 8),
                                                                 layout="constrained")
    for (what, line), colour in zip(lines["tiles"].items(), ("tab:blue", "tab:green", "tab:red"),
                                    strict=True):
        draw(times, line, "m", {"composing": "composing", "morphing": "morphing an image",
                                "aug_conv": "Aug-Conv of an image"}[what], "o-", colour)
    times.set(title="By tiles", xlabel="side m of the image, pixels", ylabel="milliseconds")
    sides = lines["aug_conv_mb"]["x"]
    for name, style in (("tiles", "o-"), ("dense_computed", "s--")):
        memory.plot(sides, lines["aug_conv_mb"][name], style, label=name.replace("_", ", "))
    memory.set(title="Memory of Aug-Conv, 3 to 64 channels", xscale="log", yscale="log",
               xlabel="side m of the image, pixels", ylabel="MB")
    memory.set_xticks(sides, [str(m) for m in sides])
    memory.minorticks_off()
    memory.grid(alpha=0.3)
    times.legend(fontsize=8)
    memory.legend(fontsize=8)
    draw(left, lines["composing"]["reference"], "m", "reference", "s-", "tab:orange")
    draw(left, lines["composing"]["here"], "m", "here", "o-", "tab:blue")
    left.set(title="Composing Aug-Conv (κ = 1)", xlabel="side m of the image, pixels",
             ylabel="milliseconds")
    draw(right, lines["morphing"], "κ", "here", "o-", "tab:blue")
    right.axhline(lines["morphing_reference_milliseconds"], color="tab:orange",
                  label="reference at κ = 1 (the full M\nis as large for every κ)")
    right.set(title=f"Morphing an image of side {side}", ylabel="milliseconds per image",
              xlabel="κ, copies of the core in M")
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    return as_png(figure)
