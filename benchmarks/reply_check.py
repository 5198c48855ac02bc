"""Checks that the received replies are the expected ones, in order.

These are pure functions, without sockets and clocks. tagged_requests defines the expected reply to each line.
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
"""The end of the connection, in a list of replies."""

# Replies with parts that a client cannot predict: the time, whether it is acquiring, how late a start was, and the
# wording of a syntax error.
_VARIABLE = re.compile(
    rb"!time,ok,([0-9]{10}\.[0-9]{7})\r\n"
    rb"|!status,ok,([0-9]{10}\.[0-9]{7}),ok,[01]\r\n"
    rb"|!lateness,ok,-?[0-9]{1,18}\r\n"
    rb"|![A-Za-z][A-Za-z0-9-]{0,63},invalid,syntax error: [ \"-+\--~]+\r\n"
)
# Seconds. A timestamp is truncated to 100 ns, and a double has a resolution of 240 ns.
_TOLERANCE = 1e-6
_LONGEST_REPLY = 511


def form(line: bytes, since: float = 0.0, until: float = float("inf")) -> bytes:
    """Replace the variable part of a valid reply by `*`.

    The result is `!time,ok,*`, `!status,ok,*`, `!lateness,ok,*`, `!NAME,invalid,*` or `!start,*`. A reply that violates
    the protocol, whose timestamp is not between `since` and `until` (Unix seconds), or that has no variable part, is
    returned unchanged.
    """
    if line in (b"!start,ok\r\n", ELAPSED):
        # The client decides whether its time could have passed before the server processed the request.
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
    """The wrong replies of one exchange, each as a text that says what was expected and what was received."""

    lost: list[str] = field(default_factory=list)
    misordered: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)


def compare(due: Sequence[bytes], came: Sequence[bytes]) -> Discrepancies:
    """Compare the expected replies (`due`) with the received ones (`came`), all converted by form().

    The longest equal runs are taken as correct. Of the rest, a received reply and a missing one together count as
    misordered: it is the reply to another request, or a wrong one. Further missing replies are lost, further received
    ones are invented. END counts as lost if it was expected and is missing; an unexpected END is ignored.
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
    """The counts of the clients of one profile, and the longest latencies in seconds."""

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
        """Count discrepancies, and keep the first ones as examples."""
        self.lost += len(discrepancies.lost)
        self.misordered += len(discrepancies.misordered)
        self.invented += len(discrepancies.invented)
        for kind in ("lost", "misordered", "invented"):
            self.examples += [f"{kind}: {text}" for text in getattr(discrepancies, kind)]
        del self.examples[_EXAMPLES:]

    def time(self, first: float, last: float) -> None:
        """Update the longest latencies of the first and of the last reply of an exchange."""
        self.first, self.last = max(self.first, first), max(self.last, last)
