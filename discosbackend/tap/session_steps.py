"""Reads session files: the requests of a client, one a line, and the replies that it needs.

A line `?NAME,ARGUMENTS` is a request. ` -> CODE`, ` -> any` or ` -> ok PATTERN` may follow: the required code of the
reply, and a regular expression for what follows `ok,`. If none of them follows, the code must be `ok`. The other lines:

    @connect            connect, and read the greeting
    @close, @hangup     close the connection
    @wait SECONDS       let time pass; the server must not send anything
    @send LINE          send a line, and do not wait for the reply
    # ...               a comment

`{now+SECONDS}` in a request stands for a time, as a count of 100 ns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from discosbackend._version import __protocol_version__
from discosbackend.grammar import CODES, OK
from discosbackend.tap.steps import NEVER, Close, Open, ReplayError, Request, Script, Step
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["session_steps"]

_GREETING = f"!version,ok,{__protocol_version__}"
_NOW = re.compile(r"\{now([+-][0-9.]+)\}")
_ANY = "any"


def session_steps(lines: Iterable[str]) -> Script:
    """Return the steps of a session file.

    Parameters
    ----------
    lines
        Its lines. Their bytes are decoded as latin-1.

    Raises
    ------
    ReplayError
        If a line is not valid. The text names it.
    """
    steps: list[Step] = []
    at = 0.0
    connection = 0
    is_open = False
    for number, text in enumerate(lines, 1):
        line = text.rstrip("\r\n")
        if not line or line.startswith("#"):
            continue
        where = f"line {number}"
        directive, _, rest = line.partition(" ")
        if directive == "@wait":
            at += _seconds(rest, where)
        elif line == "@connect":
            if is_open:
                raise ReplayError(f"{where}: @connect on an open connection, which needs @close first")
            connection, is_open = connection + 1, True
            steps.append(Open(where, connection, at, _GREETING))
        elif line.startswith("@") and not (directive == "@send" or line in ("@close", "@hangup")):
            raise ReplayError(f"{where}: unknown directive {line!r}")
        elif not is_open:
            raise ReplayError(f"{where} is no @connect, and there is none before it: {line!r}")
        elif directive == "@send":
            steps.append(Request(where, connection, at, rest, NEVER, None, _with_times))
        elif line.startswith("@"):
            is_open = False
            steps.append(Close(where, connection, at))
        else:
            request, _, wanted = line.partition(" -> ")
            steps.append(Request(where, connection, at, request, at, _wanted(wanted, where), _with_times))
    if is_open:
        # After a pause at the end of the file.
        steps.append(Close("the end of the file", connection, at))
    return Script(steps)


def _seconds(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ReplayError(f"{where}: {text!r} is no number of seconds")
    return seconds


def _wanted(text: str, where: str) -> _Wanted:
    code, _, pattern = (text or OK).partition(" ")
    if code not in (*CODES, _ANY) or (pattern and code != OK):
        raise ReplayError(f"{where}: {text!r} is not CODE, any, or ok PATTERN")
    try:
        return _Wanted(text or OK, code, re.compile(pattern, re.DOTALL) if pattern else None)
    except re.error as problem:
        raise ReplayError(f"{where}: the pattern is not a regular expression: {problem}") from None


def _with_times(text: str, now: Ticks, speed: float) -> str:
    def instant(found: re.Match[str]) -> str:
        ahead = float(found[1]) * TICKS_PER_SECOND
        return str(now + round(ahead / speed if math.isfinite(speed) else ahead))

    return _NOW.sub(instant, text)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The reply that a session file wants."""

    text: str
    code: str
    pattern: re.Pattern[str] | None
    label: str = "wanted"

    def difference(self, line: str, *, crlf: bool, form_only: bool) -> str:
        if not crlf:
            return "the reply does not end in CR LF"
        if self.code == _ANY:
            return ""
        # `!name,code,rest`. It is the reply to this request, so the name is right.
        _, _, reply = line.partition(",")
        code, _, rest = reply.partition(",")
        if code != self.code and not (form_only and {code, self.code} == {"ok", "fail"}):
            return f"{self.code} is wanted, {code} was received"
        if form_only or self.pattern is None or self.pattern.fullmatch(rest) is not None:
            return ""
        return f"{self.pattern.pattern} is wanted, {rest} was received"
