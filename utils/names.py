"""Words for people: names of classes and files, those that look alike told apart; and times."""

import unicodedata
from collections import Counter
from collections.abc import Iterable


def told_apart(names: Iterable[str]) -> list[str]:
    """The names; those that are one text in other bytes, such as é in one letter and in two, with
    the numbers of their letters."""
    return [literal[1:-1] if is_alike else name for name, literal, is_alike in _described(names)]


def quoted_apart(names: Iterable[str]) -> list[str]:
    """The same in quotes, on one printable line, as Python writes them."""
    return [literal if is_alike else repr(name) for name, literal, is_alike in _described(names)]


def _described(names: Iterable[str]) -> list[tuple[str, str, bool]]:
    """Each name, the same in ASCII with quotes, and whether it looks like another one."""
    names = list(names)
    texts = [unicodedata.normalize("NFC", name) for name in names]
    times = Counter(texts)
    return [(name, ascii(name), times[text] > 1) for name, text in zip(names, texts, strict=True)]


def first_names(names: list[str], most: int, more: str = "more") -> str:
    """At most so many names, and how many `more` there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} {more}" if len(names) > most else shown


def readable(name: str, most: int = 24) -> str:
    """A name for a picture: one line, of limited length."""
    name = unicodedata.normalize("NFC", " ".join(name.split()))
    return name if len(name) <= most else f"{name[:most - 8]}…{name[-7:]}"


def readable_names(names: list[str], most: int = 24) -> list[str]:
    """Names for a picture; those that would be the same get the number of their place, from 1."""
    short = [readable(name, most) for name in names]
    times = Counter(short)
    distinct = []
    for place, name in enumerate(short, 1):
        distinct.append(name if times[name] == 1 else f"{name} ({place})")
    return distinct


def duration(seconds: float) -> str:
    """A span of time for people: 4 d 3 h, 5 h 20 min, 12 min, 40 s."""
    if seconds < 90:
        return f"{round(seconds)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
