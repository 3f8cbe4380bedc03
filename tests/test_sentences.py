"""The pages are in short sentences, and the README is short."""

import re

import pytest

from experiments.tables import accuracy, claims, equality
from experiments.tables.reading import Results, as_run
from tests.records import sweep_records, training_run
from tests.steps import ROOT

MOST_WORDS = 30
MOST_LINES = 220                    # of README.md
PATTERNS = ("README.md", "docs/*.md", "attacks/*.md", "experiments/*.md", "results/*.md",
            "experiments/tables/*.md")
PAGES = sorted(path.relative_to(ROOT) for pattern in PATTERNS for path in ROOT.glob(pattern))

# What is no prose: code, pictures, marks of numbers, rows of tables, headings.
FENCED = re.compile(r"^```.*?^```$|^<pre>.*?^</pre>$", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"<!--.*?-->", re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
CODE = re.compile(r"`[^`]*`")
NO_PROSE = re.compile(r"^ *(\||#)")
NEW_BLOCK = re.compile(r"^ *(> *)?(-|\d+\.) +")
# A sentence ends with a full stop, and the next one begins with a capital, a number or emphasis.
END = re.compile(r"[.?!]\)?[*_]{0,2} +(?=[\"“(]*[A-ZΑ-Ωα-ω\d*_±])|[.?!:]$")


def paragraphs(page: str) -> list[str]:
    """The prose of a page, a paragraph or item of a list in one line, each code as one word."""
    text = MARK.sub("", FENCED.sub("\n", page))
    text = CODE.sub("CODE", LINK.sub(r"\1", PICTURE.sub("", text)))
    found = [""]
    for line in text.splitlines():
        if not line.strip(" >") or NO_PROSE.match(line):
            found.append("")
        elif NEW_BLOCK.match(line):
            found.append(NEW_BLOCK.sub("", line))
        else:
            found[-1] = f"{found[-1]} {line.strip(' >')}"
    return [paragraph.strip() for paragraph in found if paragraph.strip()]


def sentences(page: str) -> list[str]:
    found = []
    for paragraph in paragraphs(page):
        found += [sentence for sentence in END.split(paragraph) if sentence.strip()]
    return found


def count_words(sentence: str) -> int:
    """Words with a letter or a digit in them: dashes and formulas' signs do not count."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def long_sentences(text: str) -> list[str]:
    return [sentence for sentence in sentences(text) if count_words(sentence) > MOST_WORDS]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_no_sentence_is_long(page):
    assert not long_sentences((ROOT / page).read_text(encoding="utf-8"))


def test_no_sentence_is_long_that_training_runs_will_bring():
    """The committed records may lack them: tables' notes, and a report on one's own records."""
    runs = [as_run(record) for record in sweep_records()]
    runs.append(training_run("pretrained_frozen", 0.7, 9, code="def5678"))
    results = Results(runs=runs, validation=runs)
    tables = [accuracy.make_accuracy(results), equality.make_equality(results),
              accuracy.make_each_run(results), accuracy.make_validation(results)]
    texts = [claims.write_report(results), claims.write_short_report(results)]
    for text in [*(table.note for table in tables), *texts]:
        assert not long_sentences(text)


def test_sentences_are_told_apart():
    page = ("# A heading\n\nOne of `five words here` now. *Two*: three (four). 5 words follow\nin "
            "a [new line](x.md), e.g. here.\n\n- An item\n  goes on.\n- Next: `code`.\n\n"
            "| a | table |\n\n```sh\ncode. Code.\n```\nThe end<!-- value x -->9<!-- /value -->.\n")
    assert sentences(page) == [
        "One of CODE now", "*Two*: three (four)", "5 words follow in a new line, e.g. here",
        "An item goes on", "Next: CODE", "The end9"]


def test_the_pictures_that_the_pages_show_are_there():
    for page in PAGES:
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / page).read_text("utf-8")):
            assert (ROOT / page.parent / link).is_file(), f"{page}: {link}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES
