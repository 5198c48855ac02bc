"""The limits and the choices of an argument: whether they are valid, and how a reason describes them.

commands.py imports this module only for an argument that has choices, or limits other than the minimum 0. The commands
of the protocol have no such argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from discosbackend.grammar import plain

if TYPE_CHECKING:
    from discosbackend.commands import Argument

__all__ = ["check_limits", "checked_choices", "choice_of", "choices_text", "wire_value"]

# The Python types of the limits and of the choices, by argument type. "annotation": the type is not known yet, because
# the Argument is inside of `Annotated`.
_NUMBERS: dict[str, Any] = {"integer": int, "float": (int, float), "annotation": (int, float)}
_CHOICES: dict[str, Any] = {**_NUMBERS, "text": str, "annotation": object}

# A reply has at most 511 bytes.
_MOST_SHOWN = 10


def wire_value(choice: Any) -> Any:
    """Return the value that a client sends for a choice: the choice itself, or the value of an Enum member."""
    return choice.value if isinstance(choice, Enum) else choice


def choice_of(choices: Iterable[Any], value: Any) -> Any:
    """Return the choice for which a client sends this value. Raise LookupError if there is none."""
    for choice in choices:
        if wire_value(choice) == value:
            return choice
    raise LookupError(value)


def choices_text(choices: Iterable[Any]) -> str:
    """Return the choices in words, for a reason. Of many choices: the first 10, and "N others"."""
    texts = [plain(str(wire_value(choice))) for choice in choices]
    if len(texts) > _MOST_SHOWN:
        texts[_MOST_SHOWN:] = [f"{len(texts) - _MOST_SHOWN} others"]
    return " or ".join(texts)


def check_limits(argument: Argument) -> None:
    """Raise ValueError if the limits of an argument are not valid, or if its default is not within them."""
    whose = f"of argument {argument.name!r}"
    minimum, maximum, default = argument.minimum, argument.maximum, argument.default
    for word, limit in (("minimum", minimum), ("maximum", maximum)):
        if limit is None:
            continue
        if argument.type not in _NUMBERS:
            raise ValueError(
                f"only an integer or a float has a {word}: argument {argument.name!r} is a {argument.type}"
            )
        if not isinstance(limit, _NUMBERS[argument.type]) or isinstance(limit, bool) or not math.isfinite(limit):
            kind = "an integer" if argument.type == "integer" else "a finite number"
            raise ValueError(f"{word} {limit!r} {whose} must be {kind}")
        if argument.choices:
            raise ValueError(f"choices {whose} leave nothing to a {word}")
    if minimum is not None and maximum is not None and minimum > maximum:
        raise ValueError(f"minimum {minimum} {whose} is above its maximum {maximum}")
    if isinstance(default, (int, float)) and argument.is_outside(default):
        raise ValueError(f"default {default} {whose} must be {argument.limits_text()}")
    if default is not None and argument.choices and default not in argument.choices:
        raise ValueError(f"default {default!r} {whose} is none of its choices")


def checked_choices(argument: Argument) -> Sequence[Any]:
    """Return the choices of an argument as a tuple. Raise ValueError if they are not valid."""
    whose = f"of argument {argument.name!r}"
    if argument.choices == ():
        return ()
    if isinstance(argument.choices, str) or not isinstance(argument.choices, Iterable):
        raise ValueError(f"choices {whose} must be a list of values or an Enum, not {argument.choices!r}")
    found = tuple(argument.choices)
    if not found:
        raise ValueError(f"choices {whose} are empty")
    if argument.type not in _CHOICES:
        raise ValueError(
            f"only an integer, a float or a text has choices: argument {argument.name!r} is a {argument.type}"
        )
    values = [wire_value(choice) for choice in found]
    for value in values:
        if not isinstance(value, _CHOICES[argument.type]) or isinstance(value, bool) or not _is_sendable(value):
            raise ValueError(f"choice {value!r} {whose} is no {argument.type} that a request can carry")
    if len(set(values)) < len(values):
        raise ValueError(f"choices {whose}: a value is there twice")
    return found


def _is_sendable(value: Any) -> bool:
    if isinstance(value, str):
        return value.isprintable() and value != "" and max(value) <= "\xff"
    return not isinstance(value, float) or math.isfinite(value)
