"""CaseContext: the object with which a case tests a server. It changes the server's state and restores it.

It adds configurations, acquisitions and times to ServerSession, which sends requests and judges replies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self
from unittest import SkipTest

from discosbackend.client.methods import Status
from discosbackend.grammar import OK
from discosbackend.testing.profile import Profile
from discosbackend.testing.send_guard import Scope, SendGuard
from discosbackend.testing.server_session import CLOCK, ServerSession, Unsupported, instant_of, is_exact, request_line
from discosbackend.testing.wire import FailedIn, used_in
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["AT_REST", "RESTORABLE", "TIMED", "CaseContext", "InUse", "Unsupported", "request_line"]

__unittest = True
__tracebackhide__ = True

RESTORABLE = {
    "get-configuration": "set-configuration",
    "get-integration": "set-integration",
    "get-filename": "set-filename",
}
"""The commands that report a part of the state, and the commands that restore it."""

AT_REST = "a server at rest"
"""A feature that cases use and no case tests: the server is not acquiring when a case begins.

If it is acquiring, the cause is an earlier case that could not stop its acquisition.
"""

TIMED = {"start": "start at a given time", "stop": "stop at a given time"}
"""The features of start and stop with a time. A case that needs the right time uses them as well as the command."""

# How many lines of each connection the conversation and the transcript contain.
_LAST_LINES, _MANY_LINES = 12, 400

_DAY = 86400

# Seconds between two requests for status.
_PAUSE = 0.01
# The number of seconds after a time during which a case checks that nothing happens.
_AFTERWARDS = 0.1
# Each attempt to arm a timed transition on a busy host uses twice the lead of the previous one.
_ATTEMPTS = 6


class InUse(SkipTest):
    """The server is acquiring. Its user must not be disturbed, so the case is skipped."""


class CaseContext(ServerSession):
    """One run of one case on a server: a context manager that restores the state of the server at its end.

    Parameters
    ----------
    profile
        The properties of the server and its instrument.
    address
        Host and port of the server.
    own_server
        Whether this kit has started the server. Then it knows every command, and has no other clients.
    guard
        Limits which lines may be sent, and their rate. Default: no limit.

    Attributes
    ----------
    conversation, transcript
        Available at the end: the last lines that were sent and received, and up to 400 lines of each connection.
    aftermath
        Available at the end: the problems that occurred while the state was restored.
    used_after
        For each problem in `aftermath`, the features that were in use when it occurred. See wire.FailedIn.
    left_acquiring
        Whether an acquisition could not be stopped at the end.
    doubtful
        The features that were found to be wrong, and were used nevertheless.
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
                # If there was one reply too many, it is received here, and the case fails.
                self.fence(self._main)
        finally:
            self.conversation, self.transcript = map(self._said, (_LAST_LINES, _MANY_LINES))
            # The state is restored over a new connection, because the case may have broken the old one.
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
        """Ask for status and return the reply.

        The clock may be wrong by hours. As long as it runs, and the server uses it for start and stop, all other
        requirements can be judged.

        Raises
        ------
        AssertionError
            If the reply is not valid, or if the clock cannot be used to judge times.
        """
        noted = list(self.deviations)
        timestamp, text, acquiring = self.ok("status", clock=False)
        # Deviations in the reply to status are reported by the case that tests status.
        self.deviations[:] = noted
        instant = instant_of(timestamp)
        if problem := self.wrong_clock(timestamp):
            self._bear_with(problem, instant)
        if problem or not is_exact(timestamp):
            self.doubtful = (CLOCK,)
        return Status(instant, text, acquiring == "1")

    def _bear_with(self, problem: str, instant: Ticks) -> None:
        """Raise AssertionError for a clock with a wrong unit or epoch, or a clock that stands still or jumps."""
        off = (instant - Ticks.now()) / TICKS_PER_SECOND
        if self._clock_off is None:
            self._clock_off = off
        if abs(off) > _DAY or abs(off - self._clock_off) > self.profile.clock_tolerance:
            raise FailedIn(problem, (CLOCK, "status"))

    # -- the server's state ---------------------------------------------------------------------------

    def finally_(self, undo: Callable[[], None]) -> None:
        """Call a function at the end of the case, whatever its outcome. The last function is called first."""
        self._undo.append(undo)

    def keep(self) -> None:
        """Restore the configuration, the integration time and the file name at the end of the case."""
        found = {ask: self._query(ask) for ask in RESTORABLE}
        # The last function is called first: it restores the configuration, which changes the other values.
        for ask in reversed(RESTORABLE):
            self.finally_(partial(self._restore, ask, found[ask]))

    def _query(self, name: str) -> list[str] | None:
        """Return the values that a command reports; None if it reports none, or if its reply is wrong.

        A wrong reply is reported by the cases for this command.
        """
        try:
            return self.quietly(name)
        except AssertionError:
            self.hang_up()
            return None

    def _restore(self, ask: str, value: list[str] | None) -> None:
        # Not every reported value can be set, for example not `unconfigured` and an integration time of 0.
        if value is not None and self._query(ask) != value:
            try:
                self.quietly(RESTORABLE[ask], *value)
            except AssertionError:
                self.hang_up()
                raise

    def be_idle(self) -> None:
        """Check that the server is not acquiring.

        Raises
        ------
        InUse
            If it is acquiring, and may have other clients.
        AssertionError
            If it is acquiring, and this kit has started it.
        """
        if self.status().acquiring:
            if self._own_server:
                raise FailedIn("status reports an acquisition that no request started", (AT_REST,))
            raise InUse("the server is acquiring and must not be disturbed")

    def inputs(self) -> int | None:
        """Return how many inputs the current configuration has according to the profile; None if it is not known."""
        if self.guard.scope < Scope.FULL and self.profile.inputs is not None:
            if self.quietly("get-configuration") != [self.profile.valid_configuration]:
                return None
        return self.profile.inputs

    def prepare(self) -> None:
        """Check that the server is idle, and set the valid configuration of the profile, if it has one.

        The configuration is not set if the scope or the profile's leave_out does not allow it.
        """
        self.be_idle()
        wanted = self.profile.valid_configuration
        if self.guard.scope < Scope.FULL or wanted is None or "set-configuration" in self.profile.leave_out:
            return
        if self.quietly("get-configuration") != [wanted]:
            self.keep()
            self.ok("set-configuration", wanted)

    def prepare_acquisition(self) -> None:
        """Do the same as prepare(), and stop the acquisition at the end of the case.

        Raises
        ------
        unittest.SkipTest
            If start or stop is in the profile's leave_out, or if the server is in use.
        """
        for name in ("start", "stop"):
            self.skip_what_is_left_out(name)
        self.prepare()
        self.finally_(self._stop)

    def stop_finally_what_was_not_running(self) -> None:
        """If a request that should be refused starts an acquisition, stop it at the end of the case."""
        if not self.status().acquiring:
            self.finally_(self._end_what_began)

    def _end_what_began(self) -> None:
        if self.status().acquiring:
            self._add_to_aftermath("a request that should be refused began an acquisition")
            self._stop()
        elif "stop" not in self.profile.leave_out:
            self.ask("stop")

    def reload_finally(self) -> None:
        """Load the current configuration again at the end of the case.

        This resets the sections and feeds, which no command reports.
        """
        configuration = self.quietly("get-configuration")
        if configuration is not None and "set-configuration" not in self.profile.leave_out:
            # Loading a configuration also resets other values, and keep() restores them afterwards.
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
        """Send a start or stop with a time shortly after that of `status`, and return this time.

        All requests must be answered with `ok`. If the time has elapsed because this host is busy, they are sent again
        with a larger lead. Several requests are sent again even if only half of the lead has passed: the server may
        have carried out the first one before the next one arrived, and still have answered `ok`.

        Parameters
        ----------
        name
            "start" or "stop".
        write
            Returns the text of the time in the request.
        then
            Returns further requests, as tuples of a name and arguments, which are sent together with the first. It gets
            the time, and half of the lead in ticks of 100 ns. The requests must be carried out before this half
            has passed.

        Raises
        ------
        AssertionError
            If a request is refused.
        unittest.SkipTest
            If the server is too slow even for a large lead.
        """
        lead, acquiring = self.profile.lead, self.status().acquiring
        for _ in range(_ATTEMPTS):
            half = round(lead / 2 * TICKS_PER_SECOND)
            instant = Ticks(self.status().timestamp + 2 * half)
            requests = [(name, write(instant)), *(() if then is None else then(instant, half))]
            self.wire.send(b"".join(request_line(*request) for request in requests))
            replies = [self.wire.read(self.patience(request[0])) for request in requests]
            for request, reply in zip(requests, replies, strict=True):
                self.that(reply.message.name == request[0], f"{reply.line!r} is not a reply to {request[0]}")
            refused = [both for both in zip(requests, replies, strict=True) if both[1].message.code != OK]
            in_time = (now := self.status().timestamp) < instant - half
            if not refused and (then is None or in_time):
                for reply in replies:
                    self.judge_arguments(reply)
                return instant
            if refused and in_time:
                (refused_name, *times), reply = refused[0]
                with self.using(TIMED[refused_name] if times else refused_name), self.using(refused_name):
                    self.that(
                        "elapsed" not in ",".join(reply.message.arguments),
                        f"{reply.line!r}, although the time is {(instant - now) / 1e7:.1f} s ahead of status: "
                        "status and start use different clocks",
                    )
                    self.refused(reply, refused_name, "valid_configuration")
            # This host is busy, and the time may have elapsed when the requests arrived. Restore the state, try again.
            self._stop()
            if acquiring:
                self.ok("start")
                self.wait_for(acquiring=True)
            lead *= 2
        raise SkipTest(f"the server is too slow for a time {lead / 2:g} s ahead: set a larger lead")

    def wait(self) -> None:
        """Wait for 10 ms. The server must not send anything during this time."""
        self.wire.stay_silent(_PAUSE)

    def wait_for(self, acquiring: bool, *, since: Ticks | None = None, until: Ticks | None = None) -> Status:
        """Ask for status until it reports the given state, and return it.

        Parameters
        ----------
        acquiring
            The state to wait for.
        since
            The time at which the state must change; the profile's late_tolerance is added. Default: now.
        until
            From this time on, status may report another state.

        Raises
        ------
        AssertionError
            If status does not report the state in time.
        unittest.SkipTest
            If this host was too busy to ask before `until`.
        """
        status = self.status()
        wanted_at = status.timestamp if since is None else since
        latest = wanted_at + self.profile.late_tolerance * TICKS_PER_SECOND
        while status.acquiring is not acquiring:
            if until is not None and status.timestamp >= until:
                raise SkipTest("this host is too busy to ask for status in time")
            self.that(
                status.timestamp <= latest,
                f"status still says {_in_words(status)} {self.profile.late_tolerance:g} s after it should have changed",
            )
            self.wait()
            status = self.status()
        return status

    def wait_until_after(self, instant: Ticks) -> None:
        """Wait until 0.1 s after this time, by the clock of status."""
        while self.status().timestamp < instant + _AFTERWARDS * TICKS_PER_SECOND:
            self.wait()

    def stays(self, acquiring: bool, *, until: Ticks | None = None) -> None:
        """Check that status keeps reporting this state until 0.1 s after `until`, or after now if that is None."""
        status = self.status()
        end = (status.timestamp if until is None else until) + _AFTERWARDS * TICKS_PER_SECOND
        while status.acquiring is acquiring and status.timestamp < end:
            self.wait()
            status = self.status()
        self.that(
            status.acquiring is acquiring,
            f"status says {_in_words(status)}, although nothing should have changed it",
        )


def _in_words(status: Status) -> str:
    return "acquiring" if status.acquiring else "not acquiring"
