"""A table as data, written as Markdown and as LaTeX."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

# Put before the tables in tables.tex.
LATEX_PREAMBLE = r"""% Tables of a reproduction of Morphed Learning, for LuaLaTeX or XeLaTeX.
% The document needs, before \begin{document}:
%   \usepackage{booktabs, tabularx, fontspec}
%   \setmainfont{DejaVu Serif}     % any fonts with Greek letters and superscripts
%   \setmonofont{DejaVu Sans Mono}
"""


LATEX = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
LATEX |= {character: f"\\{character}" for character in "&%#_{}$"}


class Column(NamedTuple):
    """A column of a table of records: its header, where its value is, and how it is written.

    `path`: keys of nested dictionaries, with dots, such as "blind.psnr". `form`: as in
    str.format. `meaning` stands under the table. `absent`: what a row says that has no such value;
    without it a missing value is an error.
    """

    header: str
    path: str = ""
    form: str = "{}"
    meaning: str = ""
    absent: str | None = None


@dataclass(frozen=True)
class Table:
    """Cells of plain text, with code between backquotes."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        """The table and its note, without its title."""
        lines = []
        if self.header:
            for cells in [self.header, ["---"] * len(self.header), *self.rows]:
                escaped = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
                lines.append("| " + " | ".join(escaped) + " |")
        parts = ["\n".join(lines), self.note]
        return "\n\n".join(part for part in parts if part)

    def latex(self) -> str:
        """A table environment, as LATEX_PREAMBLE needs it; a comment where there is no table."""
        if not self.header:
            return f"% {self.title}: {self.note}"
        size = r"\small" if len(self.header) <= 8 else r"\tiny"
        columns = "l" + "X" * (len(self.header) - 1)
        lines = [rf"\begin{{table}}\caption{{{as_latex(self.title)}}}{size}",
                 rf"\begin{{tabularx}}{{\textwidth}}{{{columns}}}", r"\toprule",
                 latex_row(self.header), r"\midrule", *map(latex_row, self.rows),
                 r"\bottomrule", r"\end{tabularx}"]
        if self.note:
            lines.append(rf"\par {as_latex(self.note)}")
        return "\n".join([*lines, r"\end{table}"])

    def first(self, count: int, where: str) -> "Table":
        """The first rows; a note says how many more there are, and where."""
        more = len(self.rows) - count
        if more <= 0:
            return self
        words = "1 more row is" if more == 1 else f"{more} more rows are"
        return replace(self, rows=self.rows[:count], note=f"{words} in {where}. {self.note}")


def table_of_records(title: str, columns: list[Column], records: list[dict],
                     note: str = "") -> Table:
    """A row for each record. Raises ValueError for a missing value that no column allows for."""
    rows = []
    for record in records:
        rows.append([write_cell(record, column) for column in columns])
    meanings = [f"*{column.header}*: {column.meaning}." for column in columns if column.meaning]
    return Table(title, [column.header for column in columns], rows,
                 " ".join([*meanings, note]).strip())


def write_cell(record: dict, column: Column) -> str:
    value = record
    for key in column.path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if value is None:
        if column.absent is None:
            raise ValueError(f"a record has no value {column.path}: run its command again")
        return column.absent
    if isinstance(value, bool):
        return "yes" if value else "no"
    return write_number(column.form, value)


def write_number(form: str, value) -> str:
    """As str.format, but a comma that groups digits becomes a space: 10 000."""
    return re.sub(r"(?<=\d),(?=\d{3})", " ", form.format(value))


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def write_power(value: float) -> str:
    """To two digits, such as 7.9·10⁻⁹⁰."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}·10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def write_range(values: Sequence[float], form: Callable[[float], str]) -> str:
    """Such as "21 to 22", from the least of some numbers to the most; one of them if they read the
    same."""
    least, most = form(min(values)), form(max(values))
    return least if least == most else f"{least} to {most}"


def as_latex(text: str) -> str:
    """Plain text with Markdown's code and emphasis; Greek letters and the like stay Unicode."""
    text = re.sub(r"[&%#_{}$\\^~]", lambda found: LATEX[found[0]], text)
    text = re.sub(r"`([^`]*)`", r"\\texttt{\1}", text)
    return re.sub(r"\*([^*]+)\*", r"\\emph{\1}", text)


def latex_row(cells: list[str]) -> str:
    return " & ".join(map(as_latex, cells)) + r" \\"
