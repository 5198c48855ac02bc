"""Whether the replies that came are the ones that were due, each of them and in this order.

Pure: no sockets, no clocks. Which reply is due to which line is in tagged_requests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

__all__ = ["ELAPSED", "END", "GREETING", "Tally", "Discrepancies", "compare", "form"]

GREETING = b"!version,ok,1.4\r\n"
ELAPSED = b"!start,fail,starting time already elapsed\r\n"

END = b""
"""Stands among the replies for the end of the connection."""

# What no client can know beforehand: the moment, whether it is acquiring, how late a start was, and the
# wording of a syntax error.
_VARIABLE = re.compile(
    rb"!time,ok,([0-9]{10}\.[0-9]{7})\r\n"
    rb"|!status,ok,([0-9]{10}\.[0-9]{7}),ok,[01]\r\n"
    rb"|!lateness,ok,-?[0-9]{1,18}\r\n"
    rb"|![A-Za-z][A-Za-z0-9-]{0,63},invalid,syntax error: [ \"-+\--~]+\r\n"
)
# Seconds: a timestamp is cut off at 100 ns, and a double holds one to 240 ns.
_TOLERANCE = 1e-6
_LONGEST_REPLY = 511


def form(line: bytes, since: float = 0.0, until: float = float("inf")) -> bytes:
    """A reply with `*` for what varies in it.

    `!time,ok,*`, `!status,ok,*`, `!lateness,ok,*`, `!NAME,invalid,*`, `!start,*`, but only of one that is as
    the protocol demands, with a timestamp between `since` and `until` (Unix seconds). A line that is not so,
    or does not vary, is returned as it stands.
    """
    if line in (b"!start,ok\r\n", ELAPSED):
        # Whether a time a little ahead is still ahead when its turn comes is for the client to judge.
        return b"!start,*"
    found = _VARIABLE.fullmatch(line)
    if found is None or len(line) > _LONGEST_REPLY:
        return line
    moment = found[1] or found[2]
    if moment is not None and not since - _TOLERANCE <= float(moment) <= until + _TOLERANCE:
        return line
    name, code = line.split(b",", 2)[:2]
    return name + b"," + code + b",*"


@dataclass(slots=True)
class Discrepancies:
    """What is wrong with the replies of one exchange, each as a text that says what was due and what came."""

    lost: list[str] = field(default_factory=list)
    misordered: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)


def compare(due: Sequence[bytes], came: Sequence[bytes]) -> Discrepancies:
    """What of `due` is missing in `came`, what came too much or in another's place; all in their form().

    The longest runs that agree are taken to be right. What came beside them although something else is
    missing is misordered: another request's reply, or a wrong one. What is missing beyond that is lost, what
    came beyond that is invented. The END is lost if it was due and did not come; undue, it is no reply.
    """
    discrepancies = Discrepancies()
    if END in due and END not in came:
        discrepancies.lost.append("the end of the connection was due")
    due = [line for line in due if line != END]
    came = [line for line in came if line != END]
    missing: list[bytes] = []
    surplus: list[bytes] = []
    for kind, due_from, due_to, came_from, came_to in SequenceMatcher(None, due, came, False).get_opcodes():
        if kind != "equal":
            missing += due[due_from:due_to]
            surplus += came[came_from:came_to]
    wrong = min(len(missing), len(surplus))
    for expected, line in zip(missing[:wrong], surplus[:wrong], strict=True):
        came_instead = "it came elsewhere" if line == expected else f"{line!r} came in its place"
        discrepancies.misordered.append(f"{expected!r} was due, {came_instead}")
    discrepancies.lost += [f"{line!r} was due" for line in missing[wrong:]]
    discrepancies.invented += [f"{line!r} came unasked" for line in surplus[wrong:]]
    return discrepancies


_EXAMPLES = 10


@dataclass(slots=True)
class Tally:
    """What the clients of one profile have asked and been answered. Latencies in seconds."""

    connections: int = 0
    requests: int = 0
    replies: int = 0
    lost: int = 0
    misordered: int = 0
    invented: int = 0
    first: float = 0.0
    last: float = 0.0
    examples: list[str] = field(default_factory=list)

    def add(self, discrepancies: Discrepancies) -> None:
        """Count what is wrong, and keep the first of them as examples."""
        self.lost += len(discrepancies.lost)
        self.misordered += len(discrepancies.misordered)
        self.invented += len(discrepancies.invented)
        for kind in ("lost", "misordered", "invented"):
            self.examples += [f"{kind}: {text}" for text in getattr(discrepancies, kind)]
        del self.examples[_EXAMPLES:]

    def time(self, first: float, last: float) -> None:
        """Remember the longest waits, for the first and for the last reply of an exchange."""
        self.first, self.last = max(self.first, first), max(self.last, last)
