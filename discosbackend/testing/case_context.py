"""CaseContext: what a case works with. It adds the server's state to ServerSession, and restores it.

Configuration, acquisition and times are here; how replies are judged is in server_session.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self
from unittest import SkipTest

from discosbackend.grammar import OK
from discosbackend.testing.profile import Profile
from discosbackend.testing.send_guard import Scope, SendGuard
from discosbackend.testing.server_session import CLOCK, ServerSession, Unsupported, instant_of, is_exact, request_line
from discosbackend.testing.wire import FailedIn, used_in
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["AT_REST", "RESTORABLE", "TIMED", "CaseContext", "InUse", "Status", "Unsupported", "request_line"]

__unittest = True
__tracebackhide__ = True

RESTORABLE = {
    "get-configuration": "set-configuration",
    "get-integration": "set-integration",
    "get-filename": "set-filename",
}
"""What can be asked for, and by which command it is set back to what was found."""

AT_REST = "a server at rest"
"""What is used that no case shows: one that could not be left as it was found takes it away."""

TIMED = {"start": "start at a given time", "stop": "stop at a given time"}
"""What is used, besides the command itself, where a transition must come at its time."""

# Of each connection.
_LAST_LINES, _MANY_LINES = 12, 400

_DAY = 86400

# Seconds between two looks at status.
_PAUSE = 0.01
# Seconds after a time for which it is watched that nothing comes.
_AFTERWARDS = 0.1
# Each attempt to arm a timed transition on a busy host leaves twice the time of the one before.
_ATTEMPTS = 6


class InUse(SkipTest):
    """The server is acquiring, and whoever uses it must not be disturbed."""


class Status(NamedTuple):
    """What status told."""

    timestamp: Ticks
    text: str
    acquiring: bool


class CaseContext(ServerSession):
    """One run of one case against a server: a context manager that leaves the server as it found it.

    Once it has ended, `conversation` is what was said last, `transcript` nearly all of it, and `aftermath` what
    was wrong with the state that it left. `used_after` has, for each of these, what was in use when it went
    wrong (see wire.FailedIn), and `left_acquiring` says that an acquisition could not be ended. `doubtful` is what
    was seen to be wrong, and used nevertheless.
    """

    def __init__(
        self,
        profile: Profile,
        address: tuple[str, int],
        *,
        own_server: bool = False,
        guard: SendGuard | None = None,
    ) -> None:
        super().__init__(profile, address, own_server=own_server, guard=guard)
        self.conversation = self.transcript = ""
        self.aftermath: list[str] = []
        self.used_after: list[tuple[str, ...]] = []
        self.left_acquiring = False
        self.doubtful: tuple[str, ...] = ()
        self._clock_off: float | None = None
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._main is not None:
                # One reply too many would be read here in place of this one's.
                self.fence(self._main)
        finally:
            self.conversation, self.transcript = map(self._said, (_LAST_LINES, _MANY_LINES))
            # What is put back is put back on a connection that the case cannot have broken.
            self._main = None
            while self._undo:
                try:
                    self._undo.pop()()
                except (AssertionError, SkipTest) as problem:
                    used = used_in(problem)
                    self._add_to_aftermath(f"the server could not be left as it was found: {problem}", used)
                    self.left_acquiring |= "stop" in used
            for wire in self._wires:
                wire.close()

    def _add_to_aftermath(self, problem: str, used: tuple[str, ...] = ()) -> None:
        self.aftermath.append(problem)
        self.used_after.append(used)

    def _said(self, lines: int) -> str:
        return "\n-- another connection --\n".join(wire.conversation(lines) for wire in self._wires)

    def status(self) -> Status:
        """What status tells now.

        Its clock may be off by hours: as long as it goes, and the server acts by it, all else can be judged.
        """
        noted = list(self.deviations)
        timestamp, text, acquiring = self.ok("status", clock=False)
        # What is unusual about it is noted where the case is about it.
        self.deviations[:] = noted
        instant = instant_of(timestamp)
        if problem := self.wrong_clock(timestamp):
            self._bear_with(problem, instant)
        if problem or not is_exact(timestamp):
            self.doubtful = (CLOCK,)
        return Status(instant, text, acquiring == "1")

    def _bear_with(self, problem: str, instant: Ticks) -> None:
        """AssertionError for a clock by which nobody can wait: one that counts something else, or does not go."""
        off = (instant - Ticks.now()) / TICKS_PER_SECOND
        if self._clock_off is None:
            self._clock_off = off
        if abs(off) > _DAY or abs(off - self._clock_off) > self.profile.clock_tolerance:
            raise FailedIn(problem, (CLOCK, "status"))

    # -- the server's state ---------------------------------------------------------------------------

    def finally_(self, undo: Callable[[], None]) -> None:
        """Have this done at the end, whatever the outcome; the last one comes first."""
        self._undo.append(undo)

    def keep(self) -> None:
        """Have configuration, integration and file name set back at the end to what they are now."""
        found = {ask: self._query(ask) for ask in RESTORABLE}
        # What is put here last is put back first: the configuration, because it changes the others.
        for ask in reversed(RESTORABLE):
            self.finally_(partial(self._restore, ask, found[ask]))

    def _query(self, name: str) -> list[str] | None:
        """What a command tells, None where it tells nothing or its reply is wrong: that is for its own cases."""
        try:
            return self.quietly(name)
        except AssertionError:
            self.hang_up()
            return None

    def _restore(self, ask: str, value: list[str] | None) -> None:
        # `unconfigured` and an integration of 0 are states that cannot always be set.
        if value is not None and self._query(ask) != value:
            try:
                self.quietly(RESTORABLE[ask], *value)
            except AssertionError:
                self.hang_up()
                raise

    def be_idle(self) -> None:
        """Nothing is touched while the server is acquiring: InUse then."""
        if self.status().acquiring:
            if self._own_server:
                raise FailedIn("status says acquiring, and nothing was started", (AT_REST,))
            raise InUse("the server is acquiring, and that must not be disturbed")

    def inputs(self) -> int | None:
        """How many inputs the profile says that its configuration has; None while another is in force."""
        if self.guard.scope < Scope.FULL and self.profile.inputs is not None:
            if self.quietly("get-configuration") != [self.profile.valid_configuration]:
                return None
        return self.profile.inputs

    def prepare(self) -> None:
        """Idle, and with the configuration that the profile names, if it names one and may be set."""
        self.be_idle()
        wanted = self.profile.valid_configuration
        if self.guard.scope < Scope.FULL or wanted is None or "set-configuration" in self.profile.leave_out:
            return
        if self.quietly("get-configuration") != [wanted]:
            self.keep()
            self.ok("set-configuration", wanted)

    def prepare_acquisition(self) -> None:
        """As prepare(); what is started from here on is stopped at the end."""
        for name in ("start", "stop"):
            self.skip_what_is_left_out(name)
        self.prepare()
        self.finally_(self._stop)

    def stop_finally_what_was_not_running(self) -> None:
        """Have an acquisition ended that a request began, or has pending, which should have been refused."""
        if not self.status().acquiring:
            self.finally_(self._end_what_began)

    def _end_what_began(self) -> None:
        if self.status().acquiring:
            self._add_to_aftermath("a request that should be refused began an acquisition")
            self._stop()
        elif "stop" not in self.profile.leave_out:
            self.ask("stop")

    def reload_finally(self) -> None:
        """Have the sections and feeds as the configuration defines them again, which nobody can ask for."""
        configuration = self.quietly("get-configuration")
        if configuration is not None and "set-configuration" not in self.profile.leave_out:
            # Whatever that resets is set back afterwards, so it is noted first.
            self.keep()
            self.finally_(lambda: self.ask("set-configuration", *configuration) and None)

    def _stop(self) -> None:
        with self.using("stop"):
            self.ask("stop")
            self.wait_for(acquiring=False)

    # -- times ----------------------------------------------------------------------------------------

    def arm(
        self,
        name: str,
        write: Callable[[Ticks], str] = str,
        *,
        then: Callable[[Ticks, int], list[tuple[str, ...]]] | None = None,
    ) -> Ticks:
        """Send a start or stop with a time shortly ahead, and return the time.

        `then` gives, for that time and half of what is left to it, the requests that must be carried out in
        the other half, as name and arguments: they are sent in one go with the first. All must be answered
        with `ok`. The clock is the one that status tells.
        """
        lead, acquiring = self.profile.lead, self.status().acquiring
        for _ in range(_ATTEMPTS):
            half = round(lead / 2 * TICKS_PER_SECOND)
            instant = Ticks(self.status().timestamp + 2 * half)
            requests = [(name, write(instant)), *(() if then is None else then(instant, half))]
            self.wire.send(b"".join(request_line(*request) for request in requests))
            replies = [self.wire.read(self.patience(request[0])) for request in requests]
            for request, reply in zip(requests, replies, strict=True):
                self.that(reply.message.name == request[0], f"{reply.line!r} is no reply to {request[0]}")
            refused = [both for both in zip(requests, replies, strict=True) if both[1].message.code != OK]
            if not refused:
                for reply in replies:
                    self.judge_arguments(reply)
                return instant
            if (now := self.status().timestamp) < instant - half:
                (refused_name, *times), reply = refused[0]
                with self.using(TIMED[refused_name] if times else refused_name), self.using(refused_name):
                    self.that(
                        "elapsed" not in ",".join(reply.message.arguments),
                        f"{reply.line!r}, though by status the time is {(instant - now) / 1e7:.1f} s ahead: "
                        "status and start go by different clocks",
                    )
                    self.refused(reply, refused_name, "valid_configuration")
            # A time had elapsed when it arrived: this host is busy. So once more, from where it began.
            self._stop()
            if acquiring:
                self.ok("start")
                self.wait_for(acquiring=True)
            lead *= 2
        raise SkipTest(f"the server is too slow for a time {lead / 2:g} s ahead: say lead")

    def wait(self) -> None:
        """A moment, in which the server must not send anything."""
        self.wire.stay_silent(_PAUSE)

    def wait_for(self, acquiring: bool, *, since: Ticks | None = None, until: Ticks | None = None) -> Status:
        """The first status that says so; it must come soon after `since`, by default after now.

        Skipped when it was not looked at before `until`, from when on it need not say so any more.
        """
        status = self.status()
        wanted_at = status.timestamp if since is None else since
        latest = wanted_at + self.profile.late_tolerance * TICKS_PER_SECOND
        while status.acquiring is not acquiring:
            if until is not None and status.timestamp >= until:
                raise SkipTest("this host is too busy to look at status in time")
            self.that(
                status.timestamp <= latest,
                f"status still says {_in_words(status)}, {self.profile.late_tolerance:g} s after it should not",
            )
            self.wait()
            status = self.status()
        return status

    def wait_until_after(self, instant: Ticks) -> None:
        """Until a while after this time, when what comes then is over."""
        while self.status().timestamp < instant + _AFTERWARDS * TICKS_PER_SECOND:
            self.wait()

    def stays(self, acquiring: bool, *, until: Ticks | None = None) -> None:
        """Status must go on saying so until a while after this time, by default after now."""
        status = self.status()
        end = (status.timestamp if until is None else until) + _AFTERWARDS * TICKS_PER_SECOND
        while status.acquiring is acquiring and status.timestamp < end:
            self.wait()
            status = self.status()
        self.that(
            status.acquiring is acquiring,
            f"status says {_in_words(status)}, which nothing should have changed",
        )


def _in_words(status: Status) -> str:
    return "acquiring" if status.acquiring else "not acquiring"
