"""Formats a reply for the shell: the fields by their names, with units, and times as dates; or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from discosbackend.client.methods import reply_values
from discosbackend.commands import Command, Field
from discosbackend.errors import ReplyMalformed
from discosbackend.grammar import OK, Message
from discosbackend.log import printable
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["Paint", "as_json", "date_of", "in_one_line", "laid_out", "painted", "plain"]

Paint = Callable[[str, str], str]
"""Returns a text in a colour: "red", "green" or "dim"."""

_CODES = {"red": "1;31", "green": "32", "dim": "2"}


def painted(text: str, colour: str) -> str:
    """Return a text in a colour, for a terminal."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def plain(text: str, colour: str) -> str:
    """Return the text as it is."""
    return text


def date_of(ticks: Ticks, separator: str = " ", zone: str = " UTC") -> str:
    """Return a time as a date with 7 decimals, such as `2026-11-30 12:00:05.0000000 UTC`."""
    seconds, rest = divmod(int(ticks), TICKS_PER_SECOND)
    try:
        date = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    except (OverflowError, ValueError):
        # Beyond the year 9999.
        return ticks.unix_text()
    return f"{date.isoformat(separator)}.{rest:07}{zone}"


def laid_out(reply: Message, row: Command | None, paint: Paint = plain) -> str:
    """Return a reply for a reader: a line for each field.

    Parameters
    ----------
    reply
        The reply.
    row
        The row of the command, None if it is not known.
    paint
        How a colour is shown.
    """
    if reply.code != OK:
        reason = printable(",".join(reply.arguments))
        return paint(reply.code, "red") + (f": {reason}" if reason else "")
    try:
        found = _fields(reply, row)
    except ReplyMalformed as problem:
        return f"{printable(str(reply))}\n{paint('wrong reply', 'red')}: {printable(str(problem))}"
    if not found:
        return paint(OK, "green")
    widest = max(len(name) for name, _, _ in found)
    return "\n".join(f"{name:{widest}}  {_shown(value, unit, paint)}" for name, value, unit in found)


def in_one_line(reply: Message, row: Command | None, paint: Paint = plain) -> str:
    """Return a reply in one line, for a list of replies to the same command."""
    return "  ".join(laid_out(reply, row, paint).splitlines())


def as_json(reply: Message, row: Command | None) -> str:
    """Return a reply as one line of JSON.

    It is an object with `command`, `code`, and either `values` or `reason`. The values are those of the fields, by
    their names; a repeated field is a list. A time is a date in UTC with 7 decimals, because a JSON number does not
    hold 100 ns. If the command is not known, `values` is the list of the texts.
    """
    head: dict[str, Any] = {"command": reply.name, "code": reply.code}
    if reply.code != OK:
        return json.dumps({**head, "reason": ",".join(reply.arguments)})
    if row is None:
        return json.dumps({**head, "values": reply.arguments})
    try:
        values = {name: _plain_value(value) for name, value, _ in _fields(reply, row)}
    except ReplyMalformed as problem:
        return json.dumps({**head, "values": row.from_wire(reply.arguments), "problem": str(problem)})
    return json.dumps({**head, "values": values})


def _fields(reply: Message, row: Command | None) -> list[tuple[str, Any, str]]:
    """Return the name, the value and the unit of each field."""
    if row is None:
        return [(str(number), text, "") for number, text in enumerate(reply.arguments, 1)]
    values = reply_values(row, row.from_wire(reply.arguments))
    found: list[tuple[str, Any, str]] = []
    for number, field in enumerate(row.reply):
        found.append((field.name, values[number:] if field.repeated else values[number], _unit(field)))
    return found


def _unit(field: Field) -> str:
    return "" if field.type == "timestamp" else field.unit


def _plain_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_value(each) for each in value]
    return date_of(value, "T", "Z") if isinstance(value, Ticks) else value


def _shown(value: Any, unit: str, paint: Paint) -> str:
    if isinstance(value, list):
        text = "  ".join(_shown(each, "", paint) for each in value)
    elif isinstance(value, Ticks):
        text = date_of(value)
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    else:
        text = printable(str(value))
    return f"{text} {paint(unit, 'dim')}" if unit else text
