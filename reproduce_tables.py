"""Puts the results in results/ into tables, in results/tables.md and in the README.

Reads the JSON files that the training scripts (--results_dir results/accuracy), `make bench`,
`make attack` and `make stress` left. A table whose results are missing names the command.
"""

import json
import re
from math import factorial
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parent
NAMES = {"cifar10-jpeg": "CIFAR-10 (JPEG)", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
COLUMNS = {"pretrained": "plain", "with_ac": "with Aug-Conv", "no_ac": "without Aug-Conv",
           "no_ac_standardised": "without, standardised"}


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracy_table(results: list[dict]) -> str:
    """Test accuracy for each setting, mean over its seeds, then each run's command and minutes."""
    def setting(result):
        p, name = result["parameters"], result["data"]["dataset"]
        if name == "folder":                             # what its images are, the folder tells
            name = re.search(r"--dataset_dir[ =](\S+)", result["command"])[1].rsplit("/")[-1]
        return (NAMES.get(name, name), p["model"], result["data"]["train_images"], p["epochs"])

    rows = []
    for key in sorted({setting(r) for r in results}):
        cells = []
        for name in COLUMNS:
            values = [100 * r["accuracy"] for r in results
                      if setting(r) == key and r["run"] == name]
            cells.append("" if not values else f"{mean(values):.2f}%" + (
                f" ({min(values):.2f} to {max(values):.2f}, {len(values)} seeds)"
                if len(values) > 1 else ""))
        rows.append([f"{key[0]}, {key[1].upper().replace('VGG', 'VGG-')}, {key[2]} images, "
                     f"{key[3]} epochs", *cells])
    table = markdown(["test accuracy", *COLUMNS.values()], rows)
    order = {name: i for i, name in enumerate(COLUMNS)}
    runs = [[COLUMNS[r["run"]], f"{r['accuracy']:.2%}", str(r["seed"]), f"{r['seconds'] / 60:.1f}",
             f"`{r['command']}`"] for r in sorted(results, key=lambda r: (order[r["run"]],
                                                                         r["seed"]))]
    versions, machine = results[0]["versions"], results[0]["machine"]
    return (table + "\n\n" + markdown(["run", "accuracy", "seed", "minutes", "command"], runs)
            + f"\n\nMeasured with torch {versions['torch']}, torchvision "
            f"{versions['torchvision']} and Python {versions['python']} on "
            + on(machine) + ".")


def on(machine: dict) -> str:
    devices = machine.get("cuda") or []
    return ", ".join(devices) if devices else f"{machine['cores']} cores of {machine['processor']}"


def bench_table(bench: dict) -> str:
    """The benchmark's rows: the reference's algorithm and this program, in one run."""
    rows = [[row["figure"], f"{row['reference']:.4g} {row['unit']}",
             f"{row['here']:.4g} {row['unit']}", f"{row['ratio']:.3g}",
             "" if "target" not in row else
             f"{row['target']}: {'reached' if row['reached'] else 'missed'}"]
            for row in bench["table"]]
    return markdown(["figure", "reference's algorithm", "here", "ratio", "target"], rows) + (
        f"\n\n`{bench['command']}` on {on(bench['machine'])}.")


def attack_table(attack: dict) -> str:
    """What came back in one attack on the project's own delivery."""
    def scored(report):
        if "psnr" not in report:
            return "nothing", ""
        return (f"{report['psnr']:.0f} dB, SSIM {report['ssim']:.3f}",
                f"{report['exact']:.0%} of the values exact")

    known, blind, alone = (attack[k] for k in ("known first layer", "blind", "data only"))
    rows = [["the paper's count: guess the order of 64 channels", f"chance {1 / factorial(64):.1e}",
             "", ""],
            ["first layer known (the developer trained it)", *scored(known),
             f"{known['seconds']:.1f} s, {known['channels right']} of {known['channels']} "
             "channels"],
            ["blind: first layer unknown", *scored(blind), f"{blind['seconds']:.1f} s"]]
    for point in attack["known pairs"]:
        rows.append([f"{point['pairs']} known pairs, no Aug-Conv ({point['least']} determine the "
                     "core)", *scored(point), f"{point['seconds']:.1f} s"])
    rows.append(["morphed images alone, no Aug-Conv", *scored(alone), f"{alone['seconds']:.1f} s"])
    search = attack["seed search"]
    return markdown(["attack", "images", "", ""], rows) + (
        f"\n\n`{attack['command']}`, {attack['images']} test images, "
        f"{attack['data']['morph_distribution']} core, on {on(attack['machine'])}. A core drawn "
        f"from a {search['bits']}-bit seed at q = {search['q']} was "
        f"{'found' if search['found'] else 'not found'} by trying all seeds; 2³² seeds at q = "
        f"{search['full q']} would take one process {search['years for 2^32']:.1f} years. Cores "
        f"here are drawn from {search['bits of entropy here']} bits.")


def repairs_table(attack: dict) -> str:
    """Changes of Aug-Conv that were hoped to resist, and what came back all the same."""
    def images(report):
        return f"{report['psnr']:.0f} dB" if "psnr" in report else "failed"

    rows = []
    for repair in attack["repairs"]:
        known = repair.get("known first layer, denoised", repair["known first layer"])
        name = repair["repair"].replace("_", " ")
        name += f" {repair['strength']:g}" if repair["strength"] else ""
        rows.append([name, f"{repair.get('error of the features', 0):.2g}", images(known),
                     images(repair["blind"].get("up to colour", repair["blind"]))])
    header = ["repair of Aug-Conv", "error of the features", "first layer known",
              "blind, up to colours"]
    return markdown(header, rows) + (
        f"\n\n`{attack['command']}`, {attack['data']['morph_distribution']} core. Noise is "
        "relative to Aug-Conv's entries, channels are those kept of 64.")


def matrix_table(attacks: list[dict]) -> str:
    """The two attacks through Aug-Conv over cores, geometries and first layers."""
    rows = [[a["first layer"], a["data"]["morph_distribution"], str(a["data"]["kappa"]),
             str(a["data"]["image_padding"]),
             f"{a['known first layer']['channels right']} of {a['known first layer']['channels']}",
             f"{a['known first layer']['psnr']:.0f} dB", f"{a['blind']['psnr']:.0f} dB"]
            for a in attacks]
    return markdown(["first layer", "core", "κ", "padding", "channels right", "known layer",
                     "blind"], sorted(rows))


def stress_table(stress: dict) -> str:
    """Cases of each stress test, and how many ended as they must."""
    rows = [[test, str(counts.get("cases", "skipped")),
             ", ".join(f"{n} {what}" for what, n in counts.items() if what != "cases")]
            for test, counts in stress["counts"].items()]
    return markdown(["what was done to the steps", "cases", "outcome"], rows) + (
        f"\n\n`make stress`, {stress['seconds'] / 60:.0f} minutes on {on(stress['machine'])}.")


def tables() -> dict[str, str]:
    """Each table by its name, from the JSON files in results/."""
    results = ROOT / "results"
    runs = [json.loads(f.read_text()) for f in sorted((results / "accuracy").glob("*seed*.json"))]
    made = {"accuracy": accuracy_table(runs) if runs else
            "No runs yet: give the training scripts `--results_dir results/accuracy`."}
    for name, file, make, command in (
            ("bench", "bench", bench_table, "make bench"),
            ("attack", "attacks", attack_table, "make attack"),
            ("repairs", "repairs", repairs_table, "python attack.py --score --repairs"),
            ("matrix", "attack_matrix", matrix_table, "attack.py --score on other deliveries"),
            ("stress", "stress", stress_table, "make stress")):
        path = results / f"{file}.json"
        made[name] = (make(json.loads(path.read_text())) if path.exists()
                      else f"Not measured yet: `{command}`.")
    return made


def filled(text: str, made: dict[str, str]) -> str:
    """A text with each table between its marks <!-- name --> and <!-- /name -->."""
    for name, table in made.items():
        text = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->",
                      lambda _, n=name, t=table: f"<!-- {n} -->\n{t}\n<!-- /{n} -->", text,
                      flags=re.DOTALL)
    return text


def main():
    made = tables()
    text = "\n\n".join(f"## {name}\n\n{table}" for name, table in made.items())
    (ROOT / "results" / "tables.md").write_text(text + "\n")
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(), made))
    print(text)


if __name__ == "__main__":
    main()
