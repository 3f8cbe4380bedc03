"""Numbers, tables and figures in a page, between marks that `make tables` fills.

A table:    <!-- table accuracy -->          … <!-- /table -->     all rows
            <!-- table accuracy 6 -->        … <!-- /table -->     six rows; it says how many more
A figure:   <!-- figure across attack_matrix What it shows --> … <!-- /figure -->
            results/figures/across.png, or which command makes the record that it comes with
A number:   takes <!-- value he seconds_over_mole .0f -->10<!-- /value -->
Lines:      <!-- lines demo/X demo runs seed=0 ends_with --> … <!-- /lines -->    texts, as code

A value's words are a path from a record (its file's name, without .json) to a number, and a format
as Python has it; `,` groups digits by spaces. Where the path meets a list, it goes on in all of its
items; `key=value` keeps those that have it. All items that are left must agree, or a word before
the format says which is meant: least, most, or total.

    for <!-- value agreement table delivery_dtype=float32 equal least , -->10 000<!-- /value -->
"""

import posixpath
import re
from collections.abc import Collection, Mapping

from experiments.tables.reading import BENCH, DEMO, EXPERIMENTS
from experiments.tables.table import Table, write_number

VALUE = re.compile(r"(?P<start><!-- value (?P<words>[^>]+?) -->).*?(?P<end><!-- /value -->)",
                   re.DOTALL)
TABLE = re.compile(r"(?P<start><!-- table (?P<name>\w+)(?: (?P<rows>\d+))? -->\n).*?"
                   r"(?P<end><!-- /table -->)", re.DOTALL)
FIGURE = re.compile(r"(?P<start><!-- figure (?P<name>\w+) (?P<record>\S+) (?P<words>[^>]+?) -->\n)"
                    r".*?(?P<end><!-- /figure -->)", re.DOTALL)
LINES = re.compile(r"(?P<start><!-- lines (?P<words>[^>]+?) -->\n).*?(?P<end><!-- /lines -->)",
                   re.DOTALL)
CHOICES = {"least": min, "most": max, "total": sum}
ALL_ROWS = "results/tables.md"      # has every row of every table
FIGURES = "results/figures"


def fill_page(page: str, tables: Mapping[str, Table], records: Mapping[str, dict],
              folder: str = "", figures: Collection[str] = ()) -> str:
    """The page with what its marks ask for; `folder`: where it is in the project, for links;
    `figures`: the names of those that are drawn.

    Raises ValueError with a mark that means nothing.
    """
    if re.search("^ *<!-- value", page, re.MULTILINE):
        raise ValueError("a line begins with <!-- value, which ends a paragraph in Markdown: "
                         "begin it with a word")

    def put_table(mark: re.Match) -> str:
        if mark["name"] not in tables:
            raise ValueError(f"there is no table {mark['name']}: {', '.join(tables)}")
        table = tables[mark["name"]]
        if mark["rows"]:
            link = posixpath.relpath(ALL_ROWS, folder or ".")
            table = table.first(int(mark["rows"]), f"[{ALL_ROWS}]({link})")
        return f"{mark['start']}{table.markdown()}\n{mark['end']}"

    def put_figure(mark: re.Match) -> str:
        if mark["name"] in figures:
            link = posixpath.relpath(f"{FIGURES}/{mark['name']}.png", folder or ".")
            return f"{mark['start']}![{mark['words']}]({link})\n{mark['end']}"
        command = find_command(mark["record"])
        return f"{mark['start']}Not drawn yet: `{command}`.\n{mark['end']}"

    def put_value(mark: re.Match) -> str:
        return mark["start"] + find_value(mark["words"], records) + mark["end"]

    def put_lines(mark: re.Match) -> str:
        name, *path = mark["words"].split()
        lines = [f"not measured yet: {find_command(name)}"]
        if name in records:
            lines = find_items(mark["words"], path, records[name])
        return "\n".join([f"{mark['start']}```", *lines, "```", mark["end"]])

    page = TABLE.sub(put_table, page)
    page = FIGURE.sub(put_figure, page)
    page = LINES.sub(put_lines, page)
    return VALUE.sub(put_value, page)


def find_value(mark: str, records: Mapping[str, dict]) -> str:
    """The number that a mark asks for, written in its format."""
    name, *path, form = mark.split()
    if name not in records:
        return f"(not measured yet: {find_command(name)})"
    choices = [word for word in path if word in CHOICES]
    items = find_items(mark, [word for word in path if word not in CHOICES], records[name])
    if choices:
        items = [CHOICES[choices[-1]](items)]
    if any(item != items[0] for item in items):
        raise ValueError(f"the mark fits several values, say least, most or total: {mark}")
    return write_number(f"{{:{'' if form == 'text' else form}}}", items[0])


def find_items(mark: str, path: list[str], record: dict) -> list:
    """All that a path leads to in a record; raises ValueError, naming the mark, for nothing."""
    items = [record]
    for word in path:
        if "=" in word:
            key, _, wanted = word.partition("=")
            items = [item for item in items if str(item.get(key)) == wanted]
        else:
            items = step_into(items, word)
    if not items:
        raise ValueError(f"no record has the value of the mark: {mark}")
    return items


def step_into(items: list, key: str) -> list:
    """What all items that have a key have there; the items of a list one by one."""
    found = []
    for item in items:
        if isinstance(item, dict) and item.get(key) is not None:
            value = item[key]
            found += value if isinstance(value, list) else [value]
    return found


def find_command(name: str) -> str:
    """What makes a record, for a mark whose record is not there."""
    if name.startswith("bench/"):
        return BENCH
    if name.startswith("demo/"):
        return DEMO
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    if name in ("accuracy", "augmented"):
        return "the training scripts"
    raise ValueError(f"there is no record {name}")
