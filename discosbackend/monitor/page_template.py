"""Fills the HTML of the page with the values of a document.

The attributes of the elements say which value is shown where; page.js describes them, and fills the same page in the
browser. A format has the same name and the same result in both. The HTML is read once; then only values are inserted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from html.parser import HTMLParser
from typing import Any, TypeAlias

__all__ = ["FORMATS", "PageTemplate", "text_of"]

Item: TypeAlias = Any
"""A value of the document: what JSON can contain."""

Step: TypeAlias = "str | Callable[[Item, float], str | Iterator[str]]"
"""A constant text, or a function that makes one from an item and the time of the document."""

# Elements without an end tag.
_VOID = frozenset(("meta", "link", "input", "br"))

_WORD = re.compile("[a-z]{1,16}")

# The first second of the year 10000, which datetime does not have.
_END_OF_TIME = 253402300800

# -- formats ------------------------------------------------------------------------------------------


def _moment(t: float) -> str:
    """Return a time as `2026-11-30T03:00:01`, or "" if it is no time."""
    if not 0 <= t < _END_OF_TIME:
        return ""
    return datetime.fromtimestamp(math.floor(t), UTC).isoformat()


def _date(t: float, _: float = 0.0) -> str:
    return _moment(t)[:10] or "–"


def _time(t: float, _: float = 0.0) -> str:
    return _moment(t)[11:19] or "–"


def _clock(t: float, now: float) -> str:
    return _time(t) if _date(t) == _date(now) else f"{_date(t)} {_time(t)}"


def _moment_of(t: float, now: float) -> str:
    """Return a time to the millisecond, without the rest."""
    if not _moment(t):
        return "–"
    return f"{_clock(t, now)}.{math.floor(t * 1000) % 1000:03}"


def _integer(number: float, _: float = 0.0) -> str:
    return f"{number:,.0f}".replace(",", "\u202f")


def _fixed(number: float, decimals: int) -> str:
    """Return a number with so many decimals. JavaScript rounds ties differently from Python, so both use this."""
    scale = 10**decimals
    return f"{math.floor(number * scale + 0.5) / scale:.{decimals}f}"


def _duration(seconds: float) -> str:
    whole = max(0, math.floor(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _seconds(seconds: float, _: float = 0.0) -> str:
    if seconds < 0:
        return "−" + _seconds(-seconds)
    if seconds < 1e-3:
        return f"{_fixed(seconds * 1e6, 0)} µs"
    if seconds < 1:
        return f"{_fixed(seconds * 1e3, 1 if seconds < 0.01 else 0)} ms"
    return f"{_fixed(seconds, 1)} s" if seconds < 60 else _duration(seconds)


def _until(t: float, now: float) -> str:
    return f"{_fixed(max(0.0, t - now), 1)} s" if t - now < 60 else _duration(t - now)


def _bytes(number: float, _: float = 0.0) -> str:
    if number < 1000:
        return f"{number} B"
    for unit in ("kB", "MB", "GB", "TB"):
        number /= 1000
        if number < 999.95:
            return f"{_fixed(number, 1)} {unit}"
    return f"{_fixed(number / 1000, 1)} PB"


def _value(value: Item, _: float = 0.0) -> str:
    """Return the value of a sensor: a number with at most five significant digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e7):
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    decimals = max(0, 4 - math.floor(math.log10(size))) if size >= 1 else 4
    text = _fixed(value, decimals)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text(value: Item, _: float = 0.0) -> str:
    """Return the text that JavaScript shows: `true`, not `True`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


FORMATS: Mapping[str, Callable[[Item, float], str]] = {
    "text": _text,
    "integer": _integer,
    "bytes": _bytes,
    "seconds": _seconds,
    "value": _value,
    "date": _date,
    "now": _time,
    "clock": _clock,
    "moment": _moment_of,
    "age": lambda t, now: _duration(now - t),
    "until": _until,
    "synchronised": lambda value, _: "synchronised" if value else "not synchronised",
    "lane": lambda overdue, _: "overdue" if overdue else "running",
    "count": lambda number, _: "some" if number else "none",
}
"""The formats. Each takes the value, which is not None, and the time of the document in Unix seconds."""

_WITHOUT = {"synchronised": "synchronisation unknown"}


def text_of(value: Item, form: str, now: float) -> str:
    """Return a value in a format; for None a dash."""
    return _WITHOUT.get(form, "–") if value is None else FORMATS[form](value, now)


def _word(value: Item, form: str, now: float) -> str:
    """Return the word of a state for the style sheet."""
    if value is None:
        return "unknown"
    text = FORMATS[form](value, now)
    return text if _WORD.fullmatch(text) else "other"


def _points(values: list[Item], base: str) -> str:
    """Return the points of a line, 100 wide and 20 high. None is left out."""
    known = [value for value in values if isinstance(value, int | float)]
    if not known:
        return ""
    low, high = min(known), max(known)
    if base == "zero":
        low = min(low, 0)
    size = max(abs(low), abs(high))
    step = 100 / max(1, len(values) - 1)
    flat = 19.0 if base == "zero" else 10.0
    found = []
    for i, value in enumerate(values):
        if isinstance(value, int | float):
            # Divided by the size first, because a difference of two large numbers need not be finite.
            y = 19 - 18 * ((value / size - low / size) / (high / size - low / size)) if high > low else flat
            found.append(f"{_fixed(i * step, 1)},{_fixed(y, 1)}")
    return " ".join(found)


def _at(item: Item, path: str) -> Item:
    """Return the value at a path such as `clock.last_step.time`, None if there is none. `.` is the item itself."""
    if path == ".":
        return item
    for key in path.split("."):
        item = item.get(key) if isinstance(item, dict) else None
    return item


# -- the HTML -----------------------------------------------------------------------------------------


class PageTemplate(HTMLParser):
    """The HTML of the page, with the places of its values.

    Parameters
    ----------
    html
        The HTML. An element with `data-text` is empty; one with `data-each` contains only a `<template>`.

    Examples
    --------
    >>> page = PageTemplate('<p data-show="name">Hello <b data-text="name"></b></p>')
    >>> "".join(page.fill({"name": "<you>"}, 0.0))
    '<p data-show="name">Hello <b data-text="name">&lt;you&gt;</b></p>'
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=False)
        self._steps: list[list[Step]] = [[]]
        # The paths of the lists that enclose the current place; "" for an element without data-each.
        self._lists: list[str] = []
        self.feed(html)
        self.close()

    def fill(self, document: Item, now: float) -> Iterator[str]:
        """Return the parts of the filled HTML. They can be made one after the other, with pauses between them.

        Parameters
        ----------
        document
            The values.
        now
            The time of the document in Unix seconds.
        """
        return _run(self._steps[0], document, now)

    # -- reading, by the hooks of HTMLParser ----------------------------------------------------------

    def handle_decl(self, decl: str) -> None:
        self._add(f"<!{decl}>\n")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._begin(tag, dict(attrs))
        if tag == "template":
            self._steps.append([])
        if tag not in _VOID:
            self._lists.append(dict(attrs).get("data-each") or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._begin(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        self._lists.pop()
        if tag == "template":
            row, path = self._steps.pop(), self._lists[-1]
            # The browser needs the template itself too: without values.
            self._add("".join(step for step in row if isinstance(step, str)))
            self._add(f"</{tag}>")
            self._add(_repeated(row, path))
        else:
            self._add(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self._add(data)

    def handle_entityref(self, name: str) -> None:
        self._add(f"&{name};")

    def _begin(self, tag: str, attributes: dict[str, str | None]) -> None:
        """Add a start tag, and the values that its attributes ask for."""
        raw = self.get_starttag_text() or ""
        end = "/>" if raw.endswith("/>") else ">"
        self._add(raw[: -len(end)])
        if show := attributes.get("data-show"):
            self._add(_hidden(show))
        if state := attributes.get("data-is"):
            path, _, form = state.partition("|")
            self._add(_state(path, form or "text"))
        if line := attributes.get("data-points"):
            path, _, base = line.partition("|")
            self._add(_line(path, base))
        self._add(end)
        if text := attributes.get("data-text"):
            path, _, form = text.partition("|")
            self._add(_inserted(path, form or "text"))

    def _add(self, step: Step) -> None:
        steps = self._steps[-1]
        if isinstance(step, str) and steps and isinstance(steps[-1], str):
            steps[-1] += step
        else:
            steps.append(step)


def _run(steps: list[Step], item: Item, now: float) -> Iterator[str]:
    for step in steps:
        made = step if isinstance(step, str) else step(item, now)
        if isinstance(made, str):
            yield made
        else:
            yield from made


def _hidden(show: str) -> Step:
    wanted, path = not show.startswith("!"), show.removeprefix("!")
    return lambda item, _: "" if bool(_at(item, path)) is wanted else " hidden"


def _state(path: str, form: str) -> Step:
    return lambda item, now: f' data-state="{_word(_at(item, path), form, now)}"'


def _line(path: str, base: str) -> Step:
    return lambda item, _: f' points="{_points(_at(item, path) or [], base)}"'


def _inserted(path: str, form: str) -> Step:
    return lambda item, now: escape(text_of(_at(item, path), form, now))


def _repeated(row: list[Step], path: str) -> Step:
    def rows(item: Item, now: float) -> Iterator[str]:
        for each in _at(item, path) or []:
            yield from _run(row, each, now)

    return rows
