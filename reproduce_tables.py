"""Puts the results in results/ into tables, in results/tables.md and in the README.

Reads the JSON files that the training scripts (--results_dir results/accuracy), `make bench`,
`make attack` and `make stress` left. A table whose results are missing names the command.
"""

import json
import re
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parent
COLUMNS = {"pretrained": "plain", "with_ac": "with Aug-Conv", "no_ac": "without Aug-Conv",
           "no_ac_standardised": "without, standardised"}


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracy_table(results: list[dict]) -> str:
    """Test accuracy for each setting, mean over its seeds, then each run's command and minutes."""
    def setting(result):
        p = result["parameters"]
        return (result["data"]["dataset"], p["model"], result["data"]["train_images"], p["epochs"])

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
            for row in bench["rows"]]
    return markdown(["figure", "reference's algorithm", "here", "ratio", "target"], rows) + (
        f"\n\n`{bench['command']}` on {on(bench['machine'])}.")


def tables() -> dict[str, str]:
    """Each table by its name, from the JSON files in results/."""
    results = ROOT / "results"
    runs = [json.loads(f.read_text()) for f in sorted((results / "accuracy").glob("*seed*.json"))]
    made = {"accuracy": accuracy_table(runs) if runs else
            "No runs yet: give the training scripts `--results_dir results/accuracy`."}
    for name, make, command in (("bench", bench_table, "make bench"),):
        file = results / f"{name}.json"
        made[name] = (make(json.loads(file.read_text())) if file.exists()
                      else f"Not measured yet: run `{command}`.")
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
