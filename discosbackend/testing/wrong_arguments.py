"""Generates wrong arguments for a command, and the expected reasons, from the row of the command.

Protocol section 3 defines the texts of each type. Protocol section 4.2 requires that the number and the types of the
arguments are checked before the backend is called.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from discosbackend.argument_limits import wire_value
from discosbackend.commands import WILDCARD, Argument, Command
from discosbackend.errors import HandlerException

__all__ = ["is_about_arguments", "wrong_numbers", "wrong_types"]

# A valid text of each type (protocol section 3). The time is in the year 2100, which every server refuses. So no
# acquisition begins even if a server ignores the wrong argument beside the time.
_RIGHT = {
    "integer": "1",
    "float": "1.5",
    "boolean": "1",
    "timestamp": "41024448000000000",
    "text": "x",
    "path": "x",
}

# Texts that are not valid for a type. Every text is valid for the types text and path.
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
    """Yield argument texts for every wrong number of arguments, up to two too many.

    Parameters
    ----------
    row
        The row of the command.

    Yields
    ------
    tuple
        The argument texts, and the reason with which the request must fail.

    Examples
    --------
    >>> from discosbackend.commands import COMMANDS
    >>> from discosbackend.testing.wrong_arguments import wrong_numbers
    >>> next(wrong_numbers(COMMANDS["set-shift"]))
    ([], 'set-shift needs 1 argument')
    """
    right = [*map(_right_text, row.arguments), "1", "1"]
    for number in range(len(right) + 1):
        if reason := _reason(row, right[:number]):
            yield right[:number], reason


def wrong_types(row: Command) -> Iterator[tuple[list[str], str]]:
    """Yield argument texts of which one has the wrong type.

    Parameters
    ----------
    row
        The row of the command.

    Yields
    ------
    tuple
        The argument texts, and the reason with which the request must fail.

    Raises
    ------
    RuntimeError
        If the row accepts one of these texts. This is a defect of the tables in this module.
    """
    right = [*map(_right_text, row.arguments)]
    for position, argument in enumerate(row.arguments):
        for text in _wrong_texts(argument):
            texts = [*right[:position], text, *right[position + 1 :]]
            reason = _reason(row, texts)
            if not reason:
                raise RuntimeError(f"the table accepts {text!r} as the {argument.name} of {row.name}")
            yield texts, reason


def _right_text(argument: Argument) -> str:
    for choice in argument.choices:
        return str(wire_value(choice))
    text = _RIGHT[argument.type]
    if argument.minimum is not None and float(text) < argument.minimum:
        return str(argument.minimum)
    if argument.maximum is not None and float(text) > argument.maximum:
        return str(argument.maximum)
    return text


def _wrong_texts(argument: Argument) -> Iterator[str]:
    yield from (text for text in _WRONG[argument.type] if text != WILDCARD or not argument.wildcard)
    if argument.minimum is not None:
        yield from _beyond(argument.minimum, -math.inf)
    if argument.maximum is not None:
        yield from _beyond(argument.maximum, math.inf)
    if argument.choices:
        values = [wire_value(choice) for choice in argument.choices]
        # A text that is longer than every choice is none of them.
        yield "x" * (max(map(len, values)) + 1) if argument.type == "text" else next(_beyond(max(values), math.inf))


def _beyond(limit: float, towards: float) -> Iterator[str]:
    """Yield a number outside of a limit. Yield nothing if the limit is the largest float."""
    number = limit + math.copysign(1, towards) if isinstance(limit, float) else limit + (1 if towards > 0 else -1)
    if number == limit:
        number = math.nextafter(limit, towards)
    if math.isfinite(number):
        yield str(number)


def _reason(row: Command, texts: list[str]) -> str:
    """Return the reason for which every backend's server refuses these arguments, "" if they are valid."""
    try:
        row.parse(texts)
    except HandlerException as problem:
        return str(problem)
    return ""


def is_about_arguments(row: Command, reason: str) -> bool:
    """Return whether this is a reason for wrong arguments of the command. Quoted texts in the reason are ignored."""
    known = {_QUOTED.sub("", wrong) for make in (wrong_numbers, wrong_types) for _, wrong in make(row)}
    return _QUOTED.sub("", reason) in known
