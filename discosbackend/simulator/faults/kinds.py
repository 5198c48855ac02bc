"""The kinds of fault, the keys of each kind, and the rules for the values of the keys.

script decides when a fault applies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from discosbackend.grammar import name_pattern

__all__ = ["KINDS", "RULES", "Kind", "Rule", "is_integer", "rule_of", "shown"]

_YEAR = 366 * 86400.0

_LONGEST_REPLY = 1_000_000


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    `applies_to` is "reply", "call" or "moment". A fault of the kind "moment" applies to the server at a time, or when
    a reply is sent. `required` and `optional` are its keys; the optional ones have a default. A fault that `lasts` is
    applied once and stays in effect until it is removed.
    """

    applies_to: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    lasts: bool = False


KINDS: dict[str, Kind] = {
    "late": Kind("reply", required=("seconds",)),
    "bytes": Kind("reply"),
    "cut": Kind("reply"),
    "duplicate": Kind("reply"),
    "swap": Kind("reply"),
    "long": Kind("reply", optional=("bytes",)),
    "lf": Kind("reply"),
    "drop-before": Kind("reply"),
    "drop-inside": Kind("reply"),
    "drop-after": Kind("reply"),
    "refuse": Kind("moment", required=("seconds",)),
    "restart": Kind("moment", required=("seconds",)),
    "fail": Kind("call", optional=("text",)),
    "hang": Kind("call"),
    "slow": Kind("call", required=("seconds",)),
    "clock-off": Kind("moment", required=("seconds",), lasts=True),
    "clock-drift": Kind("moment", required=("ppm",), lasts=True),
    "clock-step": Kind("moment", required=("seconds",)),
}
"""All kinds of fault by name; docs/faults.md describes them."""


def shown(value: Any) -> str:
    """Format a value for an error message: one line of limited length, in the syntax of a script."""
    if isinstance(value, dict):
        return "a table"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


# -- the values of the keys ---------------------------------------------------------------------------

Rule = tuple[Callable[[Any], bool], str]
"""A function that returns whether a value is valid, and a description of valid values."""


def _is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def is_integer(value: Any, least: float = float("-inf"), most: float = float("inf")) -> bool:
    """Return whether the value is an integer within the limits; true and false are not integers."""
    return isinstance(value, int) and _is_number(value, least, most)


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != "" and value.isprintable()


_OF_CLOCKS: Rule = (
    lambda value: _is_number(value, -_YEAR, _YEAR) and value != 0,
    "a number of seconds, not 0, at most a year, negative if the clock is to be slow",
)

RULES: dict[str, Rule] = {
    "kind": (lambda value: isinstance(value, str), f"one of {', '.join(KINDS)}"),
    "command": (
        lambda value: isinstance(value, str) and name_pattern.fullmatch(value) is not None,
        'the name of a command, such as "status"',
    ),
    "rate": (lambda value: _is_number(value, 0, 1) and value > 0, "a number above 0, at most 1"),
    "at": (lambda value: _is_number(value, 0, _YEAR), "a number of seconds, 0 or more, at most a year"),
    "nth": (lambda value: is_integer(value, 1), "a whole number above 0"),
    "count": (lambda value: is_integer(value, 1), "a whole number above 0"),
    "seconds": (
        lambda value: _is_number(value, 0, _YEAR) and value > 0,
        "a number of seconds above 0, at most a year",
    ),
    "bytes": (
        lambda value: is_integer(value, 512, _LONGEST_REPLY),
        f"a whole number of bytes from 512 to {_LONGEST_REPLY}",
    ),
    "text": (_is_line, "one line of text"),
    "ppm": (
        lambda value: _is_number(value, -500_000, 500_000) and value != 0,
        "a number of millionths, not 0, from -500000 to 500000",
    ),
}
"""The rule for the value of each key; for rules that depend on the kind use rule_of()."""


def rule_of(key: str, kind: str) -> Rule:
    """Return the rule for the value of a key of this kind of fault."""
    return _OF_CLOCKS if key == "seconds" and kind.startswith("clock-") else RULES[key]
