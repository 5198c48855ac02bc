"""The kinds of fault, which keys each takes, and what the values of the keys may be.

Data only, and the words of the error messages; when a fault applies is decided in script.
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
    """What there is to say about a kind of fault before it strikes.

    `applies_to` is what it strikes: a "reply", a "call", or a "moment", which is one by the clock or that of a
    reply. `required` are the keys that it cannot do without, `optional` those that have a default. `lasts`: it
    strikes once and then stays until it is removed, which undoes it.
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
"""Every kind of fault by its name; docs/faults.md tells what each does."""


def shown(value: Any) -> str:
    """A value as one line that is not too long, as a script has it."""
    if isinstance(value, dict):
        return "a table"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


# -- what each value may be ---------------------------------------------------------------------------

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value may be, and what would be right."""


def _is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def is_integer(value: Any, least: float = float("-inf"), most: float = float("inf")) -> bool:
    """Whether it is a whole number between these; true and false are none."""
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
"""What the value of each key may be; rule_of() knows where it depends on the kind."""


def rule_of(key: str, kind: str) -> Rule:
    """What the value of a key may be for this kind of fault."""
    return _OF_CLOCKS if key == "seconds" and kind.startswith("clock-") else RULES[key]
