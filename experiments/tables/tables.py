"""Tables as data, written as Markdown and as LaTeX, and put into a text between marks."""

import re
from typing import NamedTuple

FORMATS = {"accuracy": "{:.2%}", "share": "{:.2%}", "exact": "{:.0%}",
           "reidentified": "{:.1%}", "psnr": "{:.1f} dB", "ssim": "{:.3f}", "mean": "{:+.2f}",
           "low": "{:+.2f}", "high": "{:+.2f}", "command": "`{}`", int: "{:,}", float: "{:.4g}"}
WORDS = {"kappa": "κ", "psnr": "PSNR", "ssim": "SSIM", "ac": "Aug-Conv", "mb": "MB", "tost": "TOST",
         "pretrained": "plain", "data": "", "versions": "", "morph": ""}


class Table(NamedTuple):
    """Cells of plain text, or code between backquotes; a note; and the README's form if shorter."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    short: "Table | None" = None

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows] if self.header else []
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join(part for part in (table, self.note) if part)

    def latex(self) -> str:
        """A table environment for LuaLaTeX or XeLaTeX, with the packages booktabs and tabularx."""
        if not self.header:
            return "% " + self.note
        head, *body = (" & ".join(map(latex, row)) + r" \\" for row in [self.header, *self.rows])
        return "\n".join([
            rf"\begin{{table}}\caption{{{latex(self.title)}}}\small",
            rf"\begin{{tabularx}}{{\textwidth}}{{l{'X' * (len(self.header) - 1)}}}", r"\toprule",
            head, r"\midrule", *body, r"\bottomrule", r"\end{tabularx}",
            *([rf"\par {latex(self.note)}"] if self.note else []), r"\end{table}"])


def formatted(form: str, record: dict) -> str:
    """A text with values of a record put in, {on} its machine, or — where it lacks one of them;
    {n:,} is 10 000."""
    machine = {"cuda": [], "cores": "?", "processor": "?"} | record.get("machine", {})
    on = ", ".join(machine["cuda"]) or "{cores} cores of {processor}".format(**machine)
    try:
        return re.sub(r"(?<=\d),(?=\d{3})", " ", form.format_map({"on": on} | record))
    except (KeyError, TypeError):
        return "—"


def table(title: str, records: list[dict], keys: str, note: str = "") -> Table:
    """A row for each record, of its values under `keys`, whose words are the header; `blind.psnr`
    is a value of a dictionary in the record, and — stands for what is not there."""
    def cell(record: dict | None, key: str) -> str:
        for name in key.split("."):
            record = (record or {}).get(name)
        if record is None or isinstance(record, bool):
            return {True: "yes", False: "no", None: "—"}[record]
        if isinstance(record, dict):
            return ", ".join(f"{value} {word.replace('_', ' ')}" for word, value in record.items())
        form = FORMATS.get(name, FORMATS.get(type(record), "{}"))
        return formatted(form.replace("{", "{value"), {"value": record})

    header = [" ".join(WORDS.get(word, word) for word in re.findall("[^_.]+", key)).strip()
              for key in keys.split()]
    return Table(title, header, [[cell(one, key) for key in keys.split()] for one in records], note)


def latex(text: str) -> str:
    """Plain text with Markdown's code, as LaTeX; Greek letters and the like stay Unicode."""
    return re.sub("`([^`]*)`", r"\\texttt{\1}", re.sub(r"([&%#_{}$])", r"\\\1", text))


def filled(text: str, tables: dict[str, Table]) -> str:
    """A text with each table, or its short form, between marks <!-- name --> and <!-- /name -->."""
    return re.sub(rf"(<!-- ({'|'.join(tables)}) -->\n).*?(\n<!-- /\2 -->)", lambda mark: mark[1] + (
        tables[mark[2]].short or tables[mark[2]]).markdown() + mark[3], text, flags=re.DOTALL)
