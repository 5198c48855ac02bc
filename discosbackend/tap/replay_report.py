"""The texts of a replay: each difference, and what was done."""

from __future__ import annotations

import os
from collections import Counter
from typing import TextIO

from discosbackend.log import printable
from discosbackend.tap.replay import Difference, Totals
from discosbackend.tap.steps import LeftOut

__all__ = ["difference_text", "has_colours", "summary"]

_BOLD, _GREEN, _RED, _PLAIN = "\x1b[1m", "\x1b[32m", "\x1b[31m", "\x1b[0m"


def has_colours(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that shows colours. NO_COLOR in the environment switches them off."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def difference_text(found: Difference, *, colours: bool = False) -> str:
    """Return a difference in a few lines: where it is, the expected line, the received one, and what differs."""
    bold, green, red, plain = (_BOLD, _GREEN, _RED, _PLAIN) if colours else ("", "", "", "")
    lines = [f"{bold}{found.step.where}: {printable(found.request) or _connection(found)}{plain}"]
    if found.label:
        lines.append(f"  {found.label:9} {green}{printable(found.expected)}{plain}")
    if found.received is not None:
        lines.append(f"  received  {red}{printable(found.received)}{plain}")
    lines.append(f"  {printable(found.reason)}")
    return "\n".join(lines) + "\n"


def _connection(found: Difference) -> str:
    return f"connection {found.step.connection}"


def summary(totals: Totals, left_out: LeftOut) -> str:
    """Return what was done, in a few lines: what was compared, and what was left out."""
    lines = [f"{_counted(totals.compared, 'reply', 'replies')} compared, {_counted(totals.differences, 'difference')}"]
    if totals.unanswered:
        lines.append(
            f"{_counted(totals.unanswered, 'further request')} without a reply, because their connections were lost"
        )
    if left_out.changing:
        lines.append(f"left out, because it may change something (--full sends it): {_listed(left_out.changing)}")
    if totals.form_only:
        lines.append(
            f"{totals.form_only} of the replies compared by their form only, because requests before them were left out"
        )
    if left_out.others:
        lines.append(f"left out by --only: {_listed(left_out.others)}")
    return "\n".join(lines) + "\n"


def _counted(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
