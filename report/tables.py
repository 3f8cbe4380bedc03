"""Tables as data, written as Markdown and as LaTeX, and put into a text between marks."""

import re
from typing import NamedTuple

SYMBOLS = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "{": r"\{",
           "}": r"\}", "$": r"\$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
           "κ": r"$\kappa$", "α": r"$\alpha$", "β": r"$\beta$", "·": r"$\cdot$",
           "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "±": r"$\pm$", "−": "$-$"}
SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


class Table(NamedTuple):
    """Cells are Markdown: plain text, or code between backquotes. `note` stands below, or alone.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        if not self.header:
            return self.note
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return table + (f"\n\n{self.note}" if self.note else "")

    def latex(self) -> str:
        """A table environment; it wants the packages booktabs and tabularx."""
        if not self.header:
            return "% " + self.note
        columns = "l" + "X" * (len(self.header) - 1)
        lines = [" & ".join(map(latex, row)) + r" \\" for row in [self.header, *self.rows]]
        return "\n".join([
            r"\begin{table}", rf"\caption{{{latex(self.title)}}}", r"\small",
            rf"\begin{{tabularx}}{{\textwidth}}{{{columns}}}", r"\toprule", lines[0], r"\midrule",
            *lines[1:], r"\bottomrule", r"\end{tabularx}",
            *([rf"\par\smallskip {latex(self.note)}"] if self.note else []), r"\end{table}"])


def latex(text: str) -> str:
    """Plain text with Markdown's code and bold, Greek letters and superscripts, as LaTeX."""
    def escaped(text: str) -> str:
        text = "".join(SYMBOLS.get(letter, letter) for letter in text)
        return re.sub("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda m: f"$^{{{m[0].translate(SUPERSCRIPTS)}}}$", text)

    parts = re.split(r"`([^`]*)`", text)
    return "".join(rf"\texttt{{{escaped(part)}}}" if i % 2 else
                   re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", escaped(part))
                   for i, part in enumerate(parts))


def filled(text: str, made: dict[str, str]) -> str:
    """A text with each table between its marks <!-- name --> and <!-- /name -->."""
    for name, table in made.items():
        text = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->",
                      lambda _, n=name, t=table: f"<!-- {n} -->\n{t}\n<!-- /{n} -->", text,
                      flags=re.DOTALL)
    return text
