"""The kinds of fault. Each is a class: its annotations are the keys that it has besides those of Kind.

script reads faults and decides when a fault applies; schema checks the values of the keys. docs/faults.md has a table
that is generated from the annotations and docstrings of the classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from discosbackend.grammar import name_pattern
from discosbackend.schema import YEAR, Allowed, OneLine, keys

__all__ = ["KEYS", "KINDS", "Kind", "keys_of"]

CommandName = Annotated[str, Allowed(valid=name_pattern.fullmatch, expected='the name of a command, such as "status"')]
Count = Annotated[int, Allowed(above=0)]
Moment = Annotated[float, Allowed("seconds", least=0, most=YEAR)]
Duration = Annotated[float, Allowed("seconds", above=0, most=YEAR)]
Offset = Annotated[
    float,
    Allowed(
        valid=lambda seconds: 0 < abs(seconds) <= YEAR,
        expected="a number of seconds, not 0, at most a year, negative if the clock is to be slow",
    ),
]
Drift = Annotated[
    float,
    Allowed(
        valid=lambda ppm: 0 < abs(ppm) <= 500_000,
        expected="a number of millionths, not 0, from -500000 to 500000",
    ),
]


class Kind:
    """The keys of every kind of fault; script.Fault describes them.

    `applies_to` is "reply", "call" (of a command) or "moment". A "moment" fault applies at its time `at`. If it has
    `rate`, `nth` or `command`, it applies when a reply is about to be sent. A fault that `lasts` is applied once and
    stays in effect until it is removed.
    """

    # Without annotations, because they are no keys.
    applies_to = "reply"
    lasts = False

    kind: str
    command: CommandName | None = None
    rate: Annotated[float, Allowed(above=0, most=1)] | None = None
    at: Moment | None = None
    nth: Count | None = None
    count: Count | None = None


class Late(Kind):
    """The reply is sent this much later. The replies after it wait, so that the order is kept."""

    seconds: Duration


class Bytes(Kind):
    """Each byte of the reply is sent separately, one millisecond after the previous one."""


class Cut(Kind):
    """Only the first half of the reply is sent, without a line end.

    The connection stays open, and the next reply follows directly.
    """


class Duplicate(Kind):
    """The reply is sent twice."""


class Swap(Kind):
    """The reply is sent after the next reply on its connection, or after one second if there is no other."""


class Long(Kind):
    """An additional argument makes the reply this many bytes long, including CR LF.

    Deployed clients read at most 512 bytes.
    """

    bytes: Annotated[int, Allowed("bytes", least=512, most=1_000_000)] = 600


class Lf(Kind):
    """The reply ends in LF only. Deployed clients discard the byte before the LF without checking it."""


class DropBefore(Kind):
    """The connection is closed instead of sending the reply."""


class DropInside(Kind):
    """Half of the reply is sent, then the connection is closed."""


class DropAfter(Kind):
    """The reply is sent, then the connection is closed."""


class Refuse(Kind):
    """New connections are refused for this time; existing connections stay open."""

    applies_to = "moment"
    seconds: Duration


class Restart(Kind):
    """Every connection is closed, running commands are abandoned, and connections are refused for this time.

    The instrument is power-cycled: its settings are lost, but the sky, the fault text and the clock are kept. If the
    fault applies together with a reply, this reply is not sent.
    """

    applies_to = "moment"
    seconds: Duration


class Fail(Kind):
    """The command is not carried out; the reply is `fail` with this text."""

    applies_to = "call"
    text: OneLine = "failed on purpose"


class Hang(Kind):
    """The command never finishes.

    The server answers it at the time limit, and meanwhile other commands of its lane wait.
    """

    applies_to = "call"


class Slow(Kind):
    """The command is carried out this much later."""

    applies_to = "call"
    seconds: Duration


class ClockOff(Kind):
    """The instrument's clock is ahead by this much, or behind if negative, until the fault is removed."""

    applies_to = "moment"
    lasts = True
    seconds: Offset


class ClockDrift(Kind):
    """The clock is fast by this many parts per million, until the fault is removed; the accumulated error stays."""

    applies_to = "moment"
    lasts = True
    ppm: Drift


class ClockStep(Kind):
    """The clock jumps by this much, permanently."""

    applies_to = "moment"
    seconds: Offset


KINDS: Mapping[str, type[Kind]] = {
    re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower(): kind for kind in Kind.__subclasses__()
}
"""All kinds of fault by name: `drop-before` is the class DropBefore."""


def keys_of(kinds: Mapping[str, type[Kind]]) -> Mapping[str, Any]:
    """Return all keys of these kinds with their types.

    A text of a command line is converted to the type of its key before the kind is known. Therefore, all kinds that
    have a key must agree on its type, and a text must be convertible to it.

    Raises
    ------
    TypeError
        If kinds do not agree, or if a type is not bool, int, float or str.
    """
    found: dict[str, tuple[str, Any]] = {}
    for name, kind in kinds.items():
        for key, hint in keys(kind, ranges=False).items():
            first, declared = found.setdefault(key, (name, hint))
            if hint != declared:
                raise TypeError(f"{key} is {declared} for {first}, but {hint} for {name}: give it one type")
            types = set(get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)) - {NoneType}
            if len(types) != 1 or not types <= {bool, int, float, str}:
                raise TypeError(f"{key} of the kind {name} must be a bool, int, float or str, not {hint}")
    return {key: hint for key, (_, hint) in found.items()}


KEYS: Mapping[str, Any] = keys_of(KINDS)
"""All keys with their types."""
