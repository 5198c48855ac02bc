"""A state machine on the lanes: commands come, begin, end, are given up and reach their limits in any order.

What must hold (protocol section 6): each gets exactly one outcome, and that its own, at its limit at the
latest; a lane runs one at a time, in order of arrival, and is not idle while somebody waits for it.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred

from discosbackend import Argument, Backend, BackendError, blocking, command
from discosbackend.handlers import DBProtocolHandler

from .clients import FakeReactor, request
from .in_memory import quiet


def setUpModule() -> None:
    """What is logged here is expected."""
    quiet()


class HandWorker:
    """Stands for the thread of a lane: a test's hand lets the call that it was given return."""

    made: dict[str, HandWorker] = {}

    def __init__(self, name: str) -> None:
        self.jobs: list[tuple[Any, Callable[[Any], None]]] = []
        self.made[name] = self

    def do(self, call: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Begin at once; it returns when let_return() is called."""
        assert not self.jobs, "two calls at once for one thread"
        self.jobs.append((call(), done))

    def let_return(self) -> None:
        """The call returns."""
        outcome, done = self.jobs.pop()
        done(outcome)

    def end(self) -> None:
        """There is no thread to end."""


class Work:
    """What the model knows of a command."""

    def __init__(self, lane: str, style: str, arrived: float) -> None:
        self.lane = lane
        self.style = style
        self.arrived = arrived
        self.begun: float | None = None
        self.over = False
        self.gate: Deferred[Any] = Deferred()
        self.reply: Any = None
        self.outcomes: list[tuple[float, Any]] = []
        self.given_up = False

    @property
    def limit(self) -> float:
        return {"device": 60.0, "files": 200.0, "reads": 30.0}[self.lane]

    @property
    def answered(self) -> bool:
        return bool(self.outcomes)

    @property
    def running(self) -> bool:
        """Whether it has the lane; what can be cancelled loses it with its answer."""
        return self.begun is not None and not self.over and (self.style == "thread" or not self.answered)

    def overdue_at(self, now: float) -> bool:
        """Whether its thread had been running for longer than its limit by then."""
        return self.style == "thread" and self.begun is not None and now - self.begun >= self.limit

    @property
    def waiting(self) -> bool:
        return self.begun is None and not self.answered


class Workshop(Backend):
    """The backend of the state machine: what a command does is in its Work."""

    def __init__(self, machine: SchedulerMachine) -> None:
        self.machine = machine

    @command("device-work", Argument("number", "integer"), timeout=60.0)
    def device(self, number: int) -> Any:
        return self.machine.begins(number)

    @command("files-work", Argument("number", "integer"), lane="files", timeout=200.0)
    def files(self, number: int) -> Any:
        return self.machine.begins(number)

    @command("reads-work", Argument("number", "integer"), lane="reads", timeout=30.0)
    def reads(self, number: int) -> Any:
        return self.machine.begins(number)

    @command("device-thread", Argument("number", "integer"), timeout=60.0)
    @blocking
    def device_thread(self, number: int) -> Any:
        return self.machine.begins(number)

    @command("files-thread", Argument("number", "integer"), lane="files", timeout=200.0)
    @blocking
    def files_thread(self, number: int) -> Any:
        return self.machine.begins(number)


STYLES = ("plain", "refused", "coroutine", "Deferred", "stubborn", "raising canceller", "thread")
LONG = ("coroutine", "Deferred", "stubborn", "raising canceller")

works = st.tuples(st.sampled_from(("device", "files", "reads")), st.sampled_from(STYLES)).filter(
    lambda work: work != ("reads", "thread")
)


class SchedulerMachine(RuleBasedStateMachine):
    """Commands come, begin, end, are given up and reach their limits in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.reactor = FakeReactor()
        self.works: list[Work] = []
        self.complaints: list[str] = []
        with mock.patch("discosbackend.scheduler.Worker", HandWorker):
            HandWorker.made = {}
            self.handler = DBProtocolHandler(Workshop(self), reactor=self.reactor)
            self.threads = dict(HandWorker.made)

    # -- the backend's side ---------------------------------------------------------------------------

    def begins(self, number: int) -> Any:
        """A method is called. Nothing may be raised here, because the handler would take it for a refusal."""
        work = self.works[number]
        self.judge_begin(number, work)
        work.begun = self.reactor.seconds()
        if work.style in ("coroutine", "stubborn"):
            return self.coroutine(work, number)
        if work.style in ("Deferred", "raising canceller"):
            return work.gate
        work.over = work.style != "thread"
        if work.style == "refused":
            raise BackendError(f"refused {number}")
        return number

    def judge_begin(self, number: int, work: Work) -> None:
        if work.begun is not None:
            self.complaints.append(f"{number} began twice")
        if work.answered:
            self.complaints.append(f"{number} began after its answer")
        if work.lane == "reads":
            return
        for other_number, other in enumerate(self.works):
            if other is work or other.lane != work.lane:
                continue
            if other.running:
                self.complaints.append(f"{number} began while {other_number} was running")
            if other_number < number and other.waiting:
                self.complaints.append(f"{number} began before {other_number}")

    async def coroutine(self, work: Work, number: int) -> Any:
        try:
            await work.gate
        except CancelledError:
            if work.style == "coroutine":
                raise
            work.gate = Deferred()
            await work.gate
        return number

    # -- what happens ---------------------------------------------------------------------------------

    def submit(self, lane: str, style: str, more: list[tuple[str, str]]) -> None:
        number = len(self.works)
        work = Work(lane, style, self.reactor.seconds())
        if style == "raising canceller":
            work.gate = Deferred(mock.Mock(side_effect=RuntimeError("no way back")))
        self.works.append(work)
        name = f"{lane}-{'thread' if style == 'thread' else 'work'}"
        work.reply = maybeDeferred(self.handler.handle, request(name, str(number)))
        work.reply.addBoth(self.answered, work, more)
        if lane == "reads" and work.begun is None:
            self.complaints.append(f"{number} is a read and had to wait")

    def answered(self, outcome: Any, work: Work, more: list[tuple[str, str]]) -> None:
        work.outcomes.append((self.reactor.seconds(), outcome))
        for lane, style in more:
            self.submit(lane, style, [])

    @rule(work=works, more=st.lists(works, max_size=2))
    def comes(self, work: tuple[str, str], more: list[tuple[str, str]]) -> None:
        """A command, and what whoever asked for it asks for out of its answer."""
        self.submit(*work, more)

    def pick(self, data: Any, wanted: Callable[[Work], bool]) -> tuple[int, Work] | None:
        found = [(number, work) for number, work in enumerate(self.works) if wanted(work)]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data(), well=st.booleans())
    @precondition(lambda self: self.works)
    def ends(self, data: Any, well: bool) -> None:
        """Something that takes long ends, perhaps too late."""
        found = self.pick(data, lambda work: work.begun is not None and not work.over and work.style in LONG)
        if found is None or found[1].gate.called:
            return
        number, work = found
        work.over = True
        if well:
            work.gate.callback(number)
        else:
            work.gate.errback(BackendError(f"refused {number}"))

    @rule(lane=st.sampled_from(("device", "files")))
    def thread_returns(self, lane: str) -> None:
        """A thread returns, perhaps too late."""
        if not self.threads[lane].jobs:
            return
        in_threads = [work for work in self.works if work.lane == lane and work.style == "thread"]
        [work] = [work for work in in_threads if work.running]
        self.threads[lane].let_return()
        work.over = True
        self.reactor.drain()

    @rule(data=st.data())
    @precondition(lambda self: self.works)
    def gives_up(self, data: Any) -> None:
        """Whoever asked cancels the Deferred of the reply."""
        found = self.pick(data, lambda work: not work.answered)
        if found is not None:
            found[1].given_up = True
            found[1].reply.cancel()
            assert found[1].answered

    @rule(seconds=st.sampled_from((0.25, 1, 7, 20, 29.75, 30, 60)))
    def time_passes(self, seconds: float) -> None:
        """In small steps, so that each limit is reached on time."""
        self.reactor.pass_time(seconds)

    # -- what must hold -------------------------------------------------------------------------------

    @invariant()
    def nothing_is_wrong(self) -> None:
        """No complaint; nobody waits beyond the limit; no lane is idle while somebody waits for it."""
        assert not self.complaints, self.complaints
        now = self.reactor.seconds()
        for number, work in enumerate(self.works):
            assert len(work.outcomes) <= 1, f"{number} was answered {len(work.outcomes)} times"
            assert work.answered or now < work.arrived + work.limit, f"{number} is beyond its limit"
            if work.waiting:
                assert any(
                    other.lane == work.lane and other.running and not other.overdue_at(now) for other in self.works
                ), f"{number} waits for nobody who still may end in time"

    @invariant()
    def answers_are_right(self) -> None:
        """Its own result, its own refusal, its limit, given up, or busy."""
        for number, work in enumerate(self.works):
            if not work.answered:
                continue
            when, outcome = work.outcomes[0]
            if getattr(outcome, "code", None) == "ok":
                assert outcome.arguments == [str(number)], f"{number} got another one's result"
                continue
            reason = str(outcome.value)
            if reason.startswith("timeout"):
                assert when == work.arrived + work.limit, f"{number} timed out early: {reason}"
            elif reason.startswith("busy with"):
                assert work.begun is None, f"{number} had begun: {reason}"
                assert any(other.lane == work.lane and other.overdue_at(when) for other in self.works), (
                    f"{number} was told of nobody who had run so long: {reason}"
                )
            elif reason.startswith("cancelled"):
                assert work.given_up, f"{number} was not given up: {reason}"
            else:
                assert reason == f"refused {number}", f"{number}: {reason}"

    def teardown(self) -> None:
        """In the end everybody has been answered, and the lanes are free."""
        # The last of the files, and what is asked for out of its answer.
        self.reactor.pass_time(400)
        for lane, thread in self.threads.items():
            if thread.jobs:
                self.thread_returns(lane)
        for work in self.works:
            if work.style in LONG and work.begun is not None and not work.over and not work.gate.called:
                work.over = True
                work.gate.callback(None)
        for number, work in enumerate(self.works):
            assert len(work.outcomes) == 1, f"{number} has {len(work.outcomes)} answers"
        for lane in ("device", "files", "reads"):
            self.submit(lane, "plain", [])
            assert self.works[-1].answered, f"{lane} is not free"
        self.nothing_is_wrong()
        self.answers_are_right()


class SchedulerMachineTests(SchedulerMachine.TestCase):  # type: ignore[misc, valid-type]
    """The machine, run over random sequences."""

    settings = settings(max_examples=60, stateful_step_count=30)


if __name__ == "__main__":
    unittest.main()
