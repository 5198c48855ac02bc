"""Wrong arguments of a command, and the reason that each gets: derived from its row of the table.

Protocol section 3 says what a text of each type may look like, protocol section 4.2 that the number and the types
are checked before the backend is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from discosbackend.commands import WILDCARD, Argument, Command
from discosbackend.errors import HandlerException

__all__ = ["is_about_arguments", "wrong_numbers", "wrong_types"]

# A text of each type that means something (protocol section 3). A time in 2100: nobody accepts it, so nothing
# begins when a server swallows what it should refuse.
_RIGHT = {
    "integer": "1",
    "float": "1.5",
    "boolean": "1",
    "timestamp": "41024448000000000",
    "text": "x",
    "path": "x",
}

# Texts of each type that mean nothing; any text is a text, and a path.
_WRONG: dict[str, tuple[str, ...]] = {
    "integer": (
        *("x", "1.5", "1.", "1e3", "0x10", "1_0", " 1", "1 ", "--1", "+", "²", 20 * "1", "1,5"),
        WILDCARD,
    ),
    "float": (
        *("x", "nan", "inf", "-inf", "infinity", "1e999", "0x1p3", "1_0", " 1", "1 ", "1e", "e3", ".", "1,5"),
        WILDCARD,
    ),
    "boolean": ("2", "-1", "true", "01"),
    "timestamp": (
        *("soon", "now!", "0", "0.0", "-1", "-14309227829708830", "nan", "1e15", "0x10", "1_0", " 1"),
        *("1.5.5", "a,b", WILDCARD),
    ),
    "text": (),
    "path": (),
}

_QUOTED = re.compile("'.*'")


def wrong_numbers(row: Command) -> Iterator[tuple[list[str], str]]:
    """Argument texts in every wrong number, up to two too many, each with the reason of its `fail`."""
    right = [*map(_right_text, row.arguments), "1", "1"]
    for number in range(len(right) + 1):
        if reason := _reason(row, right[:number]):
            yield right[:number], reason


def wrong_types(row: Command) -> Iterator[tuple[list[str], str]]:
    """Argument texts one of which is wrong, each with the reason of its `fail`."""
    right = [*map(_right_text, row.arguments)]
    for position, argument in enumerate(row.arguments):
        for text in _wrong_texts(argument):
            texts = [*right[:position], text, *right[position + 1 :]]
            reason = _reason(row, texts)
            if not reason:
                raise RuntimeError(f"the table accepts {text!r} as the {argument.name} of {row.name}")
            yield texts, reason


def _right_text(argument: Argument) -> str:
    text = _RIGHT[argument.type]
    return text if argument.minimum is None or float(text) >= argument.minimum else str(argument.minimum)


def _wrong_texts(argument: Argument) -> Iterator[str]:
    yield from (text for text in _WRONG[argument.type] if text != WILDCARD or not argument.wildcard)
    if argument.minimum is not None:
        yield str(argument.minimum - 1)


def _reason(row: Command, texts: list[str]) -> str:
    """Why a request is refused whatever the backend is, "" if it is not."""
    try:
        row.parse(texts)
    except HandlerException as problem:
        return str(problem)
    return ""


def is_about_arguments(row: Command, reason: str) -> bool:
    """Whether this is a reason that the table gives for wrong arguments, whatever is quoted in it."""
    known = {_QUOTED.sub("", wrong) for make in (wrong_numbers, wrong_types) for _, wrong in make(row)}
    return _QUOTED.sub("", reason) in known
