"""A state machine on a Link: whatever the device does, each question gets its own answer or its own failure, in order.

The device answers late, twice, in halves or never, hangs up, refuses connections for minutes, sends unsolicited lines
and answers that are too long. With on_connect, the questions that set it up come first on each connection, and the
device refuses or ignores some of them. Time is virtual.
"""

from __future__ import annotations

import re
import unittest
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from discosbackend.errors import BackendError
from discosbackend.link import Link, LinkDown, LinkTimeout
from discosbackend.testing import HangUp, LinkSimulator, Part

from .in_memory import fewer, quiet

TIMEOUT = 2.0
QUIET = 0.25
MOST = 20
STEP = 0.05

# What a question may take from the moment it is the first one: the wait for a connection, and then for the answer.
LONGEST = 2 * TIMEOUT + QUIET
# With on_connect, two runs of it may come first, each with two questions. After the second one fails, all fail.
LONGEST_WITH_SETUP = LONGEST + 4 * (TIMEOUT + QUIET)
REASONS = re.compile(
    r"link to simulated device (gave no answer within 2 s|is down since \d+ s|gives no answer since \d+ s|"
    r"sent more than 20 bytes|is closed)"
)


def setUpModule() -> None:
    quiet()


class Device(LinkSimulator):
    """The device, whose hand is the machine."""

    def __init__(self, machine: LinkMachine, clock: Clock) -> None:
        super().__init__(machine.device_gets, reactor=clock)
        self.machine = machine

    def closed(self, device: Any) -> None:
        super().closed(device)
        self.machine.is_set_up = False
        self.machine.device_forgets()


class Asked:
    """What the model knows of a question."""

    def __init__(self, number: int, deferred: Any, latest: float) -> None:
        self.number = number
        self.deferred = deferred
        self.latest = latest
        self.outcome: Any = None
        self.cancelled = False

    @property
    def open(self) -> bool:
        return self.outcome is None


class LinkMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.device = Device(self, self.clock)
        self.asked: list[Asked] = []
        self.ended: list[int] = []
        # The questions that the device has received on this connection and not answered.
        self.pending: list[int] = []
        # The rest of a line of which the device has sent the first half.
        self.rest = b""
        self.honest = False
        self.complaints: list[str] = []
        self.unsolicited: list[bytes] = []
        # Whether on_connect has all its answers on this connection.
        self.is_set_up = False
        self.setup_behaviors: list[Any] = []
        # What finish() waits for, and whether it has fired.
        self.finishing: list[tuple[list[Asked], Any]] = []

    @initialize(serial=st.booleans(), started=st.booleans(), setup=st.booleans())
    def begin(self, serial: bool, started: bool, setup: bool) -> None:
        self.serial = serial
        self.has_setup = setup
        self.longest = LONGEST_WITH_SETUP if setup else LONGEST
        self.link = Link(
            self.device,
            timeout=TIMEOUT,
            max_answer=MOST,
            unsolicited=self.is_unsolicited,
            quiet=QUIET if serial else None,
            on_connect=self.set_up if setup else None,
            reactor=self.clock,
        )
        self.link._serial = serial
        if started:
            self.link.start()

    def is_unsolicited(self, line: bytes) -> bool:
        if line.startswith(b"#"):
            self.unsolicited.append(line)
            return True
        return False

    async def set_up(self, link: Link) -> None:
        for question in (b"s0", b"s1"):
            if await link.ask(question) != b"ok":
                raise BackendError("refused")

    # -- the device's side ----------------------------------------------------------------------------

    def device_gets(self, question: bytes) -> Any:
        if question.startswith(b"s"):
            if self.is_set_up:
                self.complaints.append(f"{question!r} twice on a connection")
            behavior = self.setup_behaviors.pop() if self.setup_behaviors and not self.honest else b"ok"
            self.is_set_up = question == b"s1" and behavior == b"ok"
            return behavior
        if self.has_setup and not self.is_set_up:
            self.complaints.append(f"{question!r} was sent before the device was set up")
        number = int(question[1:])
        if earlier := [each.number for each in self.asked[:number] if each.open and not each.cancelled]:
            self.complaints.append(f"{number} was sent before {earlier} ended")
        if self.honest:
            return b"a%d" % number
        if self.asked[number].open or self.asked[number].cancelled:
            # Otherwise the connection is closed already.
            self.pending.append(number)
        return None

    def device_forgets(self) -> None:
        self.pending.clear()
        self.rest = b""

    def say(self, data: bytes) -> None:
        data, self.rest = self.rest + data, b""
        self.device.say(Part(data))

    def drop_what_is_too_late(self) -> bool:
        """On a serial line, never send an answer, or the rest of a line, after the line was quiet again."""
        if self.serial and self.link._discarding is None and self.device.connections:
            # What was said before arrives first.
            self.clock.advance(0)
            if self.rest and self.rest_is_late():
                self.rest = b""
            current = self.link._asked
            self.pending = [n for n in self.pending if current is not None and current.text == b"q%d" % n]
        return bool(self.pending)

    @rule()
    def answers(self) -> None:
        if self.drop_what_is_too_late():
            self.say(b"a%d\n" % self.pending.pop(0))

    @rule(half=st.integers(0, 2))
    def answers_twice(self, half: int) -> None:
        """The second time perhaps without its end. A whole line after the next question could not be recognised."""
        if self.drop_what_is_too_late():
            line = b"a%d\n" % self.pending.pop(0)
            self.say(line + line[: len(line) - half])
            self.rest = line[len(line) - half :] if half else b""

    @rule(at=st.integers(1, 2))
    def answers_a_half(self, at: int) -> None:
        if self.drop_what_is_too_late() and not self.rest:
            line = b"a%d\n" % self.pending.pop(0)
            self.say(line[:at])
            self.rest = line[at:]

    @rule(half=st.booleans())
    def says_something_unasked(self, half: bool) -> None:
        if not self.rest and self.device.connections:
            self.say(b"#hot")
            self.rest = b"\n"
            if not half:
                self.say(b"")

    @rule()
    def says_the_rest(self) -> None:
        if self.rest and not (self.serial and self.link._discarding is None and self.rest_is_late()):
            self.say(b"")

    def rest_is_late(self) -> bool:
        return self.link._splitter.pending == b""

    @precondition(lambda self: self.serial and self.rest and self.link._discarding is None and self.rest_is_late())
    @rule()
    def forgets_a_rest_that_is_too_late(self) -> None:
        # What was said before arrives first.
        self.clock.advance(0)
        if self.rest_is_late():
            self.rest = b""

    @rule(count=st.sampled_from((MOST + 1, 3 * MOST, 10_000)), ended=st.booleans())
    def answers_too_much(self, count: int, ended: bool) -> None:
        self.rest = b""
        self.device.say(Part(b"x" * count + (b"\n" if ended else b"")))

    @rule()
    def hangs_up(self) -> None:
        self.device.hang_up()

    @rule(refusing=st.sampled_from((False, False, False, True)))
    def refuses(self, refusing: bool) -> None:
        self.device.refusing = refusing

    @precondition(lambda self: self.has_setup)
    @rule(behaviors=st.lists(st.sampled_from((b"ok", b"no", None, Part(b"o"), HangUp())), max_size=4))
    def is_difficult_to_set_up(self, behaviors: list[Any]) -> None:
        self.setup_behaviors = behaviors
        self.device.hang_up()

    @precondition(lambda self: not self.device.refusing)
    @rule(late=st.booleans(), half=st.integers(0, 2))
    def converses(self, late: bool, half: int) -> None:
        """What is rare by chance: two questions, and an answer to the first that is late, or comes twice."""
        self.time_passes(8)
        self.ask()
        self.ask()
        self.time_passes(1)
        if late:
            self.time_passes(42)
            self.answers()
        else:
            self.answers_twice(half)
        self.time_passes(1)
        self.says_the_rest()
        self.time_passes(8)
        self.answers()
        self.time_passes(1)

    # -- the backend's side ---------------------------------------------------------------------------

    @rule()
    def ask(self) -> None:
        number = len(self.asked)
        # Each question before may take its time, and so may one whose Deferred was cancelled.
        ahead = sum(each.open for each in self.asked) + 2
        deferred = self.link.ask(b"q%d" % number)
        asked = Asked(number, deferred, self.clock.seconds() + ahead * (self.longest + 2 * STEP))
        self.asked.append(asked)
        deferred.addBoth(self.ends, asked)

    def ends(self, outcome: Any, asked: Asked) -> None:
        asked.outcome = outcome
        if not asked.cancelled:
            self.ended.append(asked.number)

    @rule(which=st.integers(0, 5))
    def cancel(self, which: int) -> None:
        waiting = [each for each in self.asked if each.open]
        if which < len(waiting):
            waiting[which].cancelled = True
            waiting[which].deferred.cancel()
            assert isinstance(waiting[which].outcome, Failure)
            assert waiting[which].outcome.check(CancelledError)

    @rule()
    def finish(self) -> None:
        self.finishing.append(([each for each in self.asked if each.open], self.link.finish()))

    @rule(steps=st.sampled_from((1, 2, 6, 21, 41)))
    def time_passes(self, steps: int) -> None:
        for _ in range(steps):
            self.clock.advance(STEP)
            self.check_times()

    @rule()
    def minutes_pass(self) -> None:
        for _ in range(300):
            self.clock.advance(0.5)

    @rule()
    def restart(self) -> None:
        self.link.close()
        assert not any(each.open for each in self.asked), "questions are open after close()"
        self.clock.advance(STEP)
        self.link.start()

    def check_times(self) -> None:
        late = [each.number for each in self.asked if each.open and self.clock.seconds() > each.latest]
        assert not late, f"no outcome in time: {late}"

    # -- what must hold -------------------------------------------------------------------------------

    @invariant()
    def each_has_its_own_outcome(self) -> None:
        assert not self.complaints, self.complaints
        for each in self.asked:
            if isinstance(each.outcome, Failure):
                assert each.cancelled or each.outcome.check(LinkDown, LinkTimeout), each.outcome
                assert each.cancelled or REASONS.fullmatch(str(each.outcome.value)), each.outcome.value
            elif each.outcome is not None:
                assert each.outcome == b"a%d" % each.number, f"{each.number} got {each.outcome!r}"

    @invariant()
    def in_order(self) -> None:
        assert self.ended == sorted(self.ended), self.ended
        assert len(self.ended) == len(set(self.ended))

    @invariant()
    def finished_when_they_have_ended(self) -> None:
        for waited, finished in self.finishing:
            # It may fire later than that, because it also waits for a cancelled question, and for on_connect.
            assert not (finished.called and any(each.open for each in waited))

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "link"):
            assert len(self.link._splitter.pending) <= MOST
            waiting = sum(each.open for each in self.asked)
            assert len(self.link._waiting) <= waiting
            assert self.device.connections <= 2
            # The timers of the link, of its logger and of the simulator.
            assert len(self.clock.getDelayedCalls()) <= 12, self.clock.getDelayedCalls()

    @invariant()
    def the_problem_is_a_sentence(self) -> None:
        if hasattr(self, "link") and self.link.problem:
            assert REASONS.fullmatch(self.link.problem), self.link.problem

    def teardown(self) -> None:
        """With a device that answers again, the link works again."""
        if not hasattr(self, "link"):
            return
        self.honest, self.device.refusing = True, False
        self.device_forgets()
        for _ in range(300):
            self.clock.advance(0.2)
        assert not any(each.open for each in self.asked)
        assert all(finished.called for _, finished in self.finishing)
        self.each_has_its_own_outcome()
        for _ in range(2):
            # The first answer may end an incomplete line.
            self.ask()
            for _ in range(20):
                self.clock.advance(0.2)
        assert self.asked[-1].outcome == b"a%d" % self.asked[-1].number, self.asked[-1].outcome
        assert self.link.problem == ""
        self.link.close()
        self.clock.advance(STEP)
        assert not self.device.connections
        assert not self.clock.getDelayedCalls(), self.clock.getDelayedCalls()


class LinkPropertiesTests(LinkMachine.TestCase):  # type: ignore[valid-type, misc]
    settings = fewer(60)


if __name__ == "__main__":
    unittest.main()
