"""From the words of a command line to a request: names, arguments, and times such as `+5s`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from discosbackend.commands import COMMANDS, Argument, Command
from discosbackend.errors import GrammarException
from discosbackend.grammar import REQUEST, SEPARATOR, Message, named_in, parse_message
from discosbackend.ticks import TICKS_PER_SECOND, Ticks
from discosbackend.toml import did_you_mean
from discosbackend.values import path_text

__all__ = ["SHELL_WORDS", "TIME_FORMS", "is_relative", "request_of", "usage_of"]

TIME_FORMS = "+5s (also ms, min, h) after the backend's clock, a date such as 2026-11-30T12:00:05Z, or Unix seconds"
"""How a time can be written, for help texts."""

SHELL_WORDS = ("help", "watch", "repeat", "quit", "exit")
"""The words that the shell executes itself. They are not sent."""

_RELATIVE = re.compile(r"\+(?P<number>[0-9]+(?:\.[0-9]*)?)(?P<unit>ms|s|min|h)", re.ASCII)
_TICKS_PER = {"ms": TICKS_PER_SECOND // 1000, "s": TICKS_PER_SECOND, "min": 60 * TICKS_PER_SECOND}
_TICKS_PER["h"] = 60 * _TICKS_PER["min"]
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ].*", re.ASCII | re.DOTALL)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def request_of(words: Sequence[str], now: Callable[[], Ticks], rows: Mapping[str, Command] = COMMANDS) -> Message:
    """Return the request that the words of a command line mean.

    Parameters
    ----------
    words
        The name of a command and its arguments, without escapes; or a complete request such as `?get-tpi,0,0`.
    now
        Returns the time of the backend's clock. It is called only for a time such as `+5s`.
    rows
        The commands that are known.

    Raises
    ------
    GrammarException
        If the words are no request. The text says why.
    """
    name, *arguments = words
    if not arguments and (name.startswith(REQUEST) or SEPARATOR in name):
        line = REQUEST + name.removeprefix(REQUEST)
        row = rows.get(named_in(line))
        if row is not None and any(argument.type == "path" for argument in row.arguments):
            line = path_text(line)
        try:
            return parse_message(line)
        except GrammarException as problem:
            raise GrammarException(f"{name!r} is not a request: {problem}") from None
    row = rows.get(name)
    if row is not None:
        arguments = [
            _time_text(text, now) if argument is not None and argument.type == "timestamp" else text
            for text, argument in zip(arguments, _padded(row, len(arguments)), strict=False)
        ]
        arguments = row.to_wire(arguments)
    request = Message(message_type=REQUEST, name=name, arguments=arguments)
    if not request.check_synthax():
        near = "" if name in rows else did_you_mean(name, rows)
        raise GrammarException(
            "not a valid request: a name has letters, digits and hyphens, and no argument is empty or has a line "
            f"break, NUL, ESC or a character outside latin-1{near}"
        )
    return request


def is_relative(words: Sequence[str], rows: Mapping[str, Command] = COMMANDS) -> bool:
    """Return whether the words contain a relative time such as `+5s`, which needs the time of the backend's clock."""
    row = rows.get(words[0])
    return row is not None and any(
        argument.type == "timestamp" and _RELATIVE.fullmatch(text) is not None
        for text, argument in zip(words[1:], row.arguments, strict=False)
    )


def usage_of(row: Command) -> str:
    """Return how a command is written in the shell, such as `start [timestamp]`."""
    words = [row.name]
    words += [f"[{argument.name}]" if argument.optional else argument.name for argument in row.arguments]
    return " ".join(words)


def _padded(row: Command, count: int) -> list[Argument | None]:
    return [*row.arguments, *[None] * max(count - len(row.arguments), 0)]


def _time_text(text: str, now: Callable[[], Ticks]) -> str:
    """Return a time as it is sent. A text in no known form stays as it is, and the server refuses it."""
    found = _RELATIVE.fullmatch(text)
    if found is not None:
        whole, _, fraction = found["number"].partition(".")
        per = _TICKS_PER[found["unit"]]
        later = int(whole) * per + int(fraction or 0) * per // 10 ** len(fraction)
        return str(int(now()) + later)
    if _DATE.fullmatch(text) is None:
        return text
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise GrammarException(f"{text!r} is not a time: write {TIME_FORMS}") from None
    if date.tzinfo is None:
        raise GrammarException(f"{text!r} has no time zone: write {text}Z for UTC")
    return str((date - _EPOCH) // timedelta(microseconds=1) * 10)
