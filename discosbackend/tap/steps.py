"""The steps of a replay: what a recorded client did, and the replies that are expected now.

recording_steps.py makes them from a recording, session_steps.py from a session file, and replay.py carries them out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from discosbackend.commands import Command
from discosbackend.errors import GrammarException
from discosbackend.grammar import parse_request
from discosbackend.pairing import GREETING_NAME
from discosbackend.testing.send_guard import Scope, scope_of_command
from discosbackend.ticks import Ticks

__all__ = ["NEVER", "Close", "Expectation", "LeftOut", "Open", "ReplayError", "Request", "Script", "Step", "select"]

NEVER = math.inf
"""The `end` of a request if the client did not wait for the reply."""

NO_REQUEST = "lines that are not valid requests"
"""How a line without a command is counted when it is left out."""


class ReplayError(Exception):
    """A file cannot be replayed. The text is one sentence."""


class Expectation(Protocol):
    """The reply that is expected."""

    @property
    def label(self) -> str:
        """What the reply is called in a report: `recorded` or `wanted`."""

    @property
    def text(self) -> str:
        """The reply, or its description."""

    def difference(self, line: str, *, crlf: bool, form_only: bool) -> str:
        """Return how a received line differs from what is expected, "" if it does not.

        Parameters
        ----------
        line
            The line without its end. Its bytes are decoded as latin-1.
        crlf
            Whether the line ended in CR LF.
        form_only
            Whether values that depend on the state of the backend may differ: only their form is compared.
        """


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a client."""

    where: str
    """Where the step is in the file, such as `line 7`."""
    connection: int
    """The number of the connection."""
    at: float
    """When the client did this, in s from the first step."""


@dataclass(frozen=True, slots=True)
class Open(Step):
    """The client connects."""

    greeting: str | None = None
    """The greeting that is required before the next step, without its end. None: any greeting, or none."""


@dataclass(frozen=True, slots=True)
class Close(Step):
    """The client, or the server, closes the connection."""

    by_client: bool = True
    """Whether it is known that the client closes it."""


@dataclass(frozen=True, slots=True)
class Request(Step):
    """The client sends a line."""

    text: str
    """The line without its end. Its bytes are decoded as latin-1."""
    end: float
    """When the reply came, in s from the first step; NEVER if the client did not wait for it."""
    expected: Expectation | None
    """The reply that is expected. None: the server sends no reply, or any."""
    write: Callable[[str, Ticks, float], str]
    """Makes the line that is sent, from the text, the current time and the speed. It shifts the times in the text."""
    answered: bool = True
    """Whether the server answers this line."""
    limit: float = 0.0
    """How long to wait for the reply at least, in s."""
    form_only: bool = False
    """Whether the reply is compared by its form only, because requests that change the state were left out."""


@dataclass
class Script:
    """The steps of a file, in the order in which they are carried out."""

    steps: Sequence[Step]
    notes: list[str] = field(default_factory=list)
    """What was ignored in the file, a sentence each."""


@dataclass
class LeftOut:
    """How many requests were left out, by their commands."""

    changing: Counter[str] = field(default_factory=Counter)
    """Requests that may change something, and lines that are not valid requests."""
    others: Counter[str] = field(default_factory=Counter)
    """Requests that `only` does not name."""


def select(
    steps: Sequence[Step], commands: Mapping[str, Command], *, full: bool, only: Collection[str] = ()
) -> tuple[list[Step], LeftOut]:
    """Return the steps that may be carried out, and what was left out.

    After a request was left out that may change something, the backend is in another state than it was. So the later
    replies are compared by their form only.

    Parameters
    ----------
    steps
        All steps.
    commands
        The rows of all commands that the server may have, by their name.
    full
        Whether everything may be sent. False: only valid requests of the lane `reads`. A command without a row may
        change something.
    only
        The names of the commands that are sent. Empty: all.
    """
    chosen: list[Step] = []
    left_out = LeftOut()
    form_only = False
    for step in steps:
        if not isinstance(step, Request):
            chosen.append(step)
            continue
        name = name_of(step.text)
        row = commands.get(name)
        reads = row is not None and scope_of_command(row) is Scope.READS
        if only and name not in only:
            left_out.others[name or NO_REQUEST] += 1
        elif not full and not reads:
            left_out.changing[name or NO_REQUEST] += 1
        else:
            chosen.append(replace(step, form_only=True) if form_only and name != GREETING_NAME else step)
            continue
        form_only = form_only or bool(name and (row is None or row.changes))
    return chosen, left_out


def name_of(text: str) -> str:
    """Return the name of the command in a valid request, "" for any other line."""
    try:
        return parse_request(text)[0]
    except GrammarException:
        return ""
