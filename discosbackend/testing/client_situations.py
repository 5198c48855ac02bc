"""The situations in which a client is tested: what the simulated instrument sends in each, and when.

A situation is a case of the kit with a function, its `play`. The function gets each line that the instrument would
send, the greeting or a reply, and returns what is sent instead, in steps. The module client_run runs the client, and
client_grading decides what it did wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, NoReturn, TypeAlias

from discosbackend.commands import COMMANDS
from discosbackend.grammar import FAIL, INVALID, OK
from discosbackend.handlers import REPLY_LIMIT
from discosbackend.testing.case_context import CaseContext
from discosbackend.testing.cases import Case
from discosbackend.testing.send_guard import Scope

__all__ = [
    "FIRST_GREETING",
    "RECONNECT",
    "SITUATIONS",
    "VALID_REQUESTS",
    "After",
    "Moment",
    "Play",
    "Situation",
    "Step",
]

# So many replies of a connection are changed or delayed. A client with a mistake makes it with the first ones.
_FEW = 3

_REASON = "simulated reason, with a comma"


class After(Enum):
    """What happens to the connection after the bytes of a step."""

    NOTHING = "nothing"
    END = "end"
    """The instrument sends nothing more, but still receives."""
    CLOSE = "close"
    RESET = "reset"


class Moment(NamedTuple):
    """A line that the instrument would send."""

    connection: int
    """The number of the connection. The first one has the number 1."""
    number: int
    """The number of the line on the connection. 0 is the greeting, 1 the reply to the first request."""
    line: bytes
    """The line, with CR LF."""
    pause: float
    """How long to wait to see whether the client makes a mistake meanwhile, in s."""
    slow: float
    """How long a slow reply takes, in s."""

    @property
    def name(self) -> str:
        """The name in the line."""
        return self.line[1:].split(b",")[0].decode("latin-1")

    @property
    def code(self) -> str:
        """The code of the reply."""
        return self.line.rstrip().split(b",", 2)[1].decode("latin-1")


class Step(NamedTuple):
    """A part of what is sent for a line."""

    after: float
    """The time since the previous step, in s."""
    data: bytes = b""
    then: After = After.NOTHING
    decisive: bool = False
    """Whether the situation has occurred with this step."""


Play: TypeAlias = Callable[[Moment], list[Step]]
"""Returns the steps for a line."""


@dataclass(frozen=True, slots=True)
class Situation:
    """A situation in which a client is tested.

    Parameters
    ----------
    case
        Its id, and the requirement on the client, with the section of docs/protocol.md.
    play
        What is sent for each line.
    missing
        The reason for no verdict if the client has sent requests, but the situation has not occurred.
    """

    case: Case
    play: Play
    missing: str = "the client sent no request that could be answered in this way"


def _not_run(context: CaseContext) -> NoReturn:
    raise RuntimeError("a situation for clients is not a case that can be run on a server")


def _plainly(moment: Moment) -> list[Step]:
    """Send a line as it is. The first ones come late, so that it can be seen what else is taken for a reply."""
    late = 1 <= moment.number <= _FEW + 1
    return [Step(moment.pause if late else 0.0, moment.line)]


def _ordinary(moment: Moment) -> list[Step]:
    return [step._replace(decisive=moment.number > 0) for step in _plainly(moment)]


def _greeting_late(moment: Moment) -> list[Step]:
    if moment.number:
        return _plainly(moment)
    return [Step(moment.pause, moment.line, decisive=True)]


def _greeting_late_after_reconnect(moment: Moment) -> list[Step]:
    if moment.connection > 1:
        return _greeting_late(moment)
    steps = _plainly(moment)
    return [*steps, Step(0.0, then=After.CLOSE)] if moment.number == 1 else steps


def _slowly(moment: Moment) -> list[Step]:
    if moment.number == 1 and moment.connection <= _FEW:
        return [Step(moment.slow, moment.line, decisive=True)]
    return _plainly(moment)


def _refused(moment: Moment, code: str) -> list[Step]:
    if moment.number in (1, _FEW):
        reason = _REASON.replace(",", "\\,")
        return [Step(moment.pause, f"!{moment.name},{code},{reason}\r\n".encode("latin-1"), decisive=True)]
    return _plainly(moment)


def _fail(moment: Moment) -> list[Step]:
    return _refused(moment, FAIL)


def _invalid(moment: Moment) -> list[Step]:
    return _refused(moment, INVALID)


def _in_pieces(moment: Moment) -> list[Step]:
    if not 1 <= moment.number <= _FEW:
        return _plainly(moment)
    line = moment.line
    pieces = [line[:1], line[1:-2], line[-2:-1], line[-1:]]
    return [Step(moment.pause, piece, decisive=number == 1) for number, piece in enumerate(pieces)]


def _long(moment: Moment) -> list[Step]:
    if 1 <= moment.number <= _FEW:
        return [Step(moment.pause, _longest(moment), decisive=True)]
    return _plainly(moment)


def _longest(moment: Moment) -> bytes:
    """Return the longest reply that a server sends: with a long text, if the reply has one, or a long reason."""
    row = COMMANDS.get(moment.name)
    texts = [at for at, field in enumerate(row.reply) if field.type in ("text", "path")] if row is not None else []
    parts = moment.line.rstrip().split(b",")
    if moment.code == OK and texts and len(parts) > texts[0] + 2:
        at = texts[0] + 2
        parts[at] += b" " + b"long " * 3
    else:
        at = 2
        parts = [parts[0], FAIL.encode("ascii"), b"simulated reason that is long "]
    free = REPLY_LIMIT - len(b",".join(parts)) - 2
    parts[at] += (b"0123456789" * (free // 10 + 1))[: max(free, 0)]
    return b",".join(parts) + b"\r\n"


def _closing(moment: Moment, *steps: Step) -> list[Step]:
    return list(steps) if (moment.connection, moment.number) == (1, 1) else _plainly(moment)


def _closed(moment: Moment) -> list[Step]:
    return _closing(moment, Step(moment.pause, then=After.CLOSE, decisive=True))


def _cut(moment: Moment) -> list[Step]:
    half = moment.line[: len(moment.line) // 2]
    return _closing(moment, Step(moment.pause, half, After.END, decisive=True))


def _reset(moment: Moment) -> list[Step]:
    return _closing(moment, Step(moment.pause, then=After.RESET, decisive=True))


_ASKS_NOTHING = "the client sent no request"
_GOES_ON = "A client takes `fail` and `invalid` for the reply to its request, and continues."
_NOTICES = "A client notices that the connection is closed, even while it waits for a reply."


def _situation(case_id: str, requirement: str, play: Play, missing: str = _ASKS_NOTHING) -> Situation:
    return Situation(Case(case_id, "1.11", requirement, Scope.READS, _not_run), play, missing)


FIRST_GREETING = "greeting/first-connection"
"""The situation that shows whether a client waits for replies at all. It is run first."""
VALID_REQUESTS = "requests/valid"
"""The situation without any fault. It shows how much a client does if nothing goes wrong."""
RECONNECT = "greeting/after-reconnect"

SITUATIONS = {
    situation.case.id: situation
    for situation in (
        _situation(
            FIRST_GREETING,
            "A client reads the greeting of every new connection, even if it is late, and does not take it for a "
            "reply.",
            _greeting_late,
        ),
        _situation(
            VALID_REQUESTS,
            "A client sends only requests of this protocol, each with the arguments that its command has.",
            _ordinary,
        ),
        _situation(
            RECONNECT,
            "A client reads the greeting after a reconnect too.",
            _greeting_late_after_reconnect,
            "the client sent no request on another connection after its connection was closed",
        ),
        _situation(
            "replies/slow",
            "A client that gives up waiting for a reply closes the connection: otherwise it takes the late reply for "
            "the reply to its next request.",
            _slowly,
        ),
        _situation("replies/fail", _GOES_ON, _fail),
        _situation("replies/invalid", _GOES_ON, _invalid),
        _situation(
            "replies/in-pieces",
            "A client reads a reply up to its LF, even if the reply arrives in many pieces.",
            _in_pieces,
        ),
        _situation("replies/long", "A client reads replies of up to 511 bytes.", _long),
        _situation("connection/closed", _NOTICES, _closed),
        _situation("connection/reset", _NOTICES, _reset),
        _situation("connection/cut", "A client does not take an incomplete line for a reply.", _cut),
    )
}
"""The situations by their ids, in the order in which they are run."""
