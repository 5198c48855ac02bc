"""Check: what a case has in hand. It asks, judges replies, skips what cannot be tried, and cleans up.

Nothing here knows of unittest's runners: a case fails by AssertionError and is skipped by
unittest.SkipTest. What bytes must look like is judged in wire already.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, NoReturn, Self
from unittest import SkipTest

from discosbackend.commands import COMMANDS
from discosbackend.errors import NotSupportedError
from discosbackend.grammar import FAIL, LINEFEED, OK, REQUEST, Message, write_reply
from discosbackend.testing.profile import Profile
from discosbackend.testing.wire import Reply, Wire
from discosbackend.testing.wrong_arguments import is_about_arguments
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = ["Check", "Status", "request_line"]

__unittest = True
__tracebackhide__ = True

# Without these no client gets anywhere; everything else an instrument may lack.
_REQUIRED = ("status", "version")

_NOT_SUPPORTED = str(NotSupportedError())
_UNKNOWN = "invalid command"

# How each type of value is written (protocol section 3, "text form sent").
_WRITTEN = {
    "integer": (re.compile(r"-?[0-9]+"), "a decimal integer"),
    "float": (re.compile(r"-?[0-9]+(\.[0-9]+)?"), "a number in fixed point without exponent"),
    "boolean": (re.compile(r"[01]"), "0 or 1"),
    "timestamp": (re.compile(r"[0-9]+\.[0-9]{7}"), "Unix seconds with seven decimals"),
    "text": (re.compile(r".+", re.DOTALL), "text"),
}

# What can be asked for, and set back to what was found.
_RESTORABLE = (
    ("get-configuration", "set-configuration"),
    ("get-integration", "set-integration"),
    ("get-filename", "set-filename"),
)

# Seconds between two looks at status.
_PAUSE = 0.01
# Seconds after the time of a cancelled start for which its not coming is watched.
_AFTERWARDS = 0.1
# Each attempt to arm a timed transition on a busy host leaves twice the time of the one before.
_ATTEMPTS = 6


class Status(NamedTuple):
    """What status told."""

    timestamp: Ticks
    text: str
    acquiring: bool


def request_line(name: str, *arguments: object) -> bytes:
    """A request as it goes over the wire, escapes and CR LF included."""
    message = Message(message_type=REQUEST, name=name, arguments=[str(argument) for argument in arguments])
    return f"{message}{LINEFEED}".encode("latin-1")


class Check:
    """One run of one case against a server: a context manager that leaves the server as it found it.

    `own_server`: it was started for this, behind this package's protocol handler, so it knows every command
    and nobody else uses it.
    """

    def __init__(self, profile: Profile, address: tuple[str, int], *, own_server: bool) -> None:
        self.profile = profile
        self.conversation = ""
        self._address = address
        self._own_server = own_server
        self._wires: list[Wire] = []
        self._main: Wire | None = None
        self._undo: list[Callable[[], None]] = []
        self._fences = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        problems = []
        try:
            if kind is None and self._main is not None:
                # One reply too many would be read here in place of this one's.
                self.fence(self._main)
        finally:
            self.conversation = "\n-- another connection --\n".join(w.conversation() for w in self._wires)
            # What is put back is put back on a connection that the case cannot have broken.
            self._main = None
            while self._undo:
                try:
                    self._undo.pop()()
                except AssertionError as problem:
                    problems.append(str(problem))
            for wire in self._wires:
                wire.close()
        if problems and kind is None:
            raise AssertionError(f"the server could not be left as it was found: {'; '.join(problems)}")

    # -- connections ----------------------------------------------------------------------------------

    @property
    def wire(self) -> Wire:
        """The connection that is used where it does not matter which."""
        if self._main is None:
            self._main = self.connect()
        return self._main

    def open(self) -> Wire:
        """A new connection on which nothing has been read or sent."""
        wire = Wire(
            self._address, timeout=self.profile.reply_timeout, reply_limit=self.profile.reply_limit
        )
        self._wires.append(wire)
        return wire

    def connect(self) -> Wire:
        """A new connection whose greeting has been read, if it has one already or at all."""
        wire = self.open()
        name = self._send_fence(wire)
        first = wire.read()
        if first.message.name == "version":
            first = wire.read()
        self._judge_fence(first, name)
        return wire

    def fence(self, wire: Wire) -> None:
        """Every request so far has had exactly one reply: the next line is the reply to one more."""
        name = self._send_fence(wire)
        self._judge_fence(wire.read(), name)

    def _send_fence(self, wire: Wire) -> str:
        self._fences += 1
        name = f"fence-{self._fences}"
        wire.send(request_line(name))
        return name

    @staticmethod
    def _judge_fence(reply: Reply, name: str) -> None:
        if reply.message.name != name:
            raise AssertionError(f"one reply too many, or out of order: {reply.line!r} before that to {name}")

    @property
    def cut_off(self) -> bool:
        """Whether the server has closed a connection."""
        return any(wire.cut_off for wire in self._wires)

    # -- asking and judging ---------------------------------------------------------------------------

    def that(self, condition: object, otherwise: str) -> None:
        """AssertionError, with what is wrong then, unless the condition is true."""
        if not condition:
            raise AssertionError(otherwise)

    def answers(self, sent: bytes, wanted: bytes) -> None:
        """These bytes are answered by exactly these."""
        self.wire.send(sent)
        line = self.wire.read().line
        self.that(line == wanted, f"{sent!r} wants {wanted!r}, not {line!r}")

    def ask(self, name: str, *arguments: object) -> Reply:
        """The reply to a request, whatever its code."""
        line = request_line(name, *arguments)
        self.wire.send(line)
        reply = self.wire.read()
        self.that(reply.message.name == name, f"{reply.line!r} is no reply to {line!r}")
        return reply

    def ok(self, name: str, *arguments: object, told_by: str = "") -> list[str]:
        """The arguments of the reply, which must be `ok` and as the command's row says.

        Skipped when the backend does not support the command, and when it refuses something that nobody
        vouched for: `told_by` names the attribute of the profile that would.
        """
        if name in self.profile.leave_out:
            raise SkipTest(f"{name} is left out, as leave_out says")
        reply = self.ask(name, *arguments)
        if reply.message.code != OK:
            self._refused(reply, name, told_by)
        self._judge_arguments(reply)
        return reply.message.arguments

    def fails(
        self, reason: str, name: str, *arguments: object, before_backend: bool = False, told_by: str = ""
    ) -> None:
        """The reply must be `fail` with this reason; with any, if the reason is "".

        Skipped when the backend does not support the command, except `before_backend`: that the server
        itself finds, whatever the backend can do. Skipped too when it has another reason, which the
        attribute that `told_by` names would rule out.
        """
        reply = self.ask(name, *arguments)
        sent = request_line(name, *arguments)
        if reply.message.code != OK and not (before_backend and self._own_server):
            self._skip_unsupported(reply, name)
        wanted = f"{write_reply(name, FAIL, [reason])}{LINEFEED}".encode("latin-1") if reason else b""
        if wanted and self.profile.exact_reasons and reply.line != wanted:
            self._skip_unvouched(reply, name, told_by)
            raise AssertionError(f"{sent!r} wants {wanted!r}, not {reply.line!r}")
        self.that(reply.message.code == FAIL, f"{sent!r} must be answered with fail, not {reply.line!r}")
        self._judge_refusal(reply)

    def ok_or_refused(self, name: str, *arguments: object) -> list[str] | None:
        """The arguments of an `ok` reply, or None for a refusal; both must be as they should."""
        if name in self.profile.leave_out:
            raise SkipTest(f"{name} is left out, as leave_out says")
        reply = self.ask(name, *arguments)
        if reply.message.code == OK:
            self._judge_arguments(reply)
            return reply.message.arguments
        self._skip_unsupported(reply, name)
        self._judge_refusal(reply)
        return None

    def quietly(self, name: str, *arguments: object) -> list[str] | None:
        """The arguments of an `ok` reply, None for any other: for asking how the server was found."""
        message = self.ask(name, *arguments).message
        return message.arguments if message.code == OK else None

    def status(self) -> Status:
        """What status tells now."""
        timestamp, text, acquiring = self.ok("status")
        return Status(Ticks.parse(timestamp), text, acquiring == "1")

    def _refused(self, reply: Reply, name: str, told_by: str) -> NoReturn:
        self._skip_unsupported(reply, name)
        self._judge_refusal(reply)
        self._skip_unvouched(reply, name, told_by)
        raise AssertionError(f"{name} must be answered with ok, not {reply.line!r}")

    def _skip_unvouched(self, reply: Reply, name: str, told_by: str) -> None:
        """What the instrument refuses is its own business; but the arguments are as the table has them."""
        reason = ",".join(reply.message.arguments)
        if reason.startswith(_UNKNOWN) or is_about_arguments(COMMANDS[name], reason):
            return
        if reply.message.code == FAIL and told_by and not self.profile.told(told_by):
            raise SkipTest(f"{name} was refused ({reason}): say {told_by}")

    def _skip_unsupported(self, reply: Reply, name: str) -> None:
        reason = ",".join(reply.message.arguments)
        unknown = not self._own_server and reason.startswith(_UNKNOWN)
        if (reason == _NOT_SUPPORTED or unknown) and name not in _REQUIRED:
            raise SkipTest(f"{name} is not supported by this backend")

    @staticmethod
    def _judge_refusal(reply: Reply) -> None:
        """A refusal is the backend's decision and has its reason; all else is its author's mistake."""
        from discosbackend.protocol import UNEXPECTED  # brings Twisted, which a passing case does not need

        if reply.message.code != FAIL or len(reply.message.arguments) != 1:
            raise AssertionError(f"a refusal is a fail with one argument, its reason, unlike {reply.line!r}")
        if UNEXPECTED in reply.message.arguments:
            raise AssertionError(f"the backend failed, or returned what no reply can carry: {reply.line!r}")

    def _judge_arguments(self, reply: Reply) -> None:
        """An `ok` reply must have the fields of its command's row, each well-formed."""
        row = COMMANDS[reply.message.name]
        arguments, fields = list(reply.message.arguments), list(row.reply)
        if fields and fields[-1].repeated:
            fields += fields[-1:] * (len(arguments) - len(fields))
        if len(arguments) != len(fields):
            names = " and ".join(field.name for field in row.reply) or "none"
            raise AssertionError(f"the reply to {row.name} has as arguments {names}, unlike {reply.line!r}")
        for argument, field in zip(arguments, fields, strict=True):
            pattern, words = _WRITTEN[field.type]
            self.that(pattern.fullmatch(argument), f"{field.name} must be {words}, not {argument!r}")
            if field.type == "timestamp":
                self._judge_clock(argument)
            if field.unescaped:
                # The deployed clients split at every comma and know no escapes.
                self.that(b"\\" not in reply.line, f"the {field.name} of {row.name} is sent without escapes")

    def _judge_clock(self, timestamp: str) -> None:
        off = (Ticks.parse(timestamp) - Ticks.now()) / TICKS_PER_SECOND
        self.that(
            abs(off) <= self.profile.clock_tolerance,
            f"timestamp {timestamp} is {off:+.1f} s off this host's clock, of which clock_tolerance is "
            f"{self.profile.clock_tolerance:g} s",
        )

    # -- the server's state ---------------------------------------------------------------------------

    def finally_(self, undo: Callable[[], None]) -> None:
        """Have this done at the end, whatever the outcome; the last one comes first."""
        self._undo.append(undo)

    def keep(self) -> None:
        """Have configuration, integration and file name set back at the end to what they are now."""
        found = {ask: self.quietly(ask) for ask, _ in _RESTORABLE}
        self.finally_(lambda: self._restore(found))

    def _restore(self, found: dict[str, list[str] | None]) -> None:
        for ask, put in _RESTORABLE:
            value = found[ask]
            # `unconfigured` and an integration of 0 are states that cannot always be set.
            if value is not None and self.quietly(ask) != value:
                self.quietly(put, *value)

    def be_idle(self) -> None:
        """Nothing is touched while the server is acquiring: skipped then."""
        if self.status().acquiring:
            self.that(not self._own_server, "status says acquiring, and nothing was started")
            raise SkipTest("the server is acquiring, and that must not be disturbed")

    def prepare(self) -> None:
        """Idle, and with the configuration that the profile names, if it names one."""
        self.be_idle()
        wanted = self.profile.valid_configuration
        if wanted is None or "set-configuration" in self.profile.leave_out:
            return
        if self.quietly("get-configuration") != [wanted]:
            self.keep()
            self.ok("set-configuration", wanted)

    def prepare_acquisition(self) -> None:
        """As prepare(); what is started from here on is stopped at the end."""
        for name in ("start", "stop"):
            if name in self.profile.leave_out:
                raise SkipTest(f"{name} is left out, as leave_out says")
        self.prepare()
        self.finally_(self._stop)

    def stop_finally_what_was_not_running(self) -> None:
        """Have an acquisition stopped at the end that a request began which should have been refused."""
        if not self.status().acquiring:
            self.finally_(lambda: self._stop() if self.status().acquiring else None)

    def reload_finally(self) -> None:
        """Have the sections and feeds as the configuration defines them again, which nobody can ask for."""
        configuration = self.quietly("get-configuration")
        if configuration is not None and "set-configuration" not in self.profile.leave_out:
            # Whatever that resets is set back afterwards, so it is noted first.
            self.keep()
            self.finally_(lambda: self.ask("set-configuration", *configuration) and None)

    def _stop(self) -> None:
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
        lead = self.profile.lead
        for _ in range(_ATTEMPTS):
            half = round(lead / 2 * TICKS_PER_SECOND)
            instant = Ticks(self.status().timestamp + 2 * half)
            requests = [(name, write(instant)), *(() if then is None else then(instant, half))]
            self.wire.send(b"".join(request_line(*request) for request in requests))
            replies = [self.wire.read() for _ in requests]
            for request, reply in zip(requests, replies, strict=True):
                self.that(reply.message.name == request[0], f"{reply.line!r} is no reply to {request[0]}")
            refused = [reply for reply in replies if reply.message.code != OK]
            if not refused:
                for reply in replies:
                    self._judge_arguments(reply)
                return instant
            if self.status().timestamp < instant - half:
                self._refused(refused[0], refused[0].message.name, "valid_configuration")
            # A time had elapsed when it arrived: this host is busy.
            self.quietly("stop")
            lead *= 2
        raise SkipTest(f"the server is too slow for a time {lead / 2:g} s ahead: say lead")

    def wait(self) -> None:
        """A moment, in which the server must not send anything."""
        self.wire.stay_silent(_PAUSE)

    def wait_for(self, acquiring: bool, *, since: Ticks | None = None) -> Status:
        """The first status that says so; it must come soon after `since`, by default after now."""
        status = self.status()
        wanted_at = status.timestamp if since is None else since
        latest = wanted_at + self.profile.late_tolerance * TICKS_PER_SECOND
        while status.acquiring is not acquiring:
            state = "acquiring" if status.acquiring else "not acquiring"
            late = f"status still says {state}, {self.profile.late_tolerance:g} s after it should not"
            self.that(status.timestamp <= latest, late)
            self.wait()
            status = self.status()
        return status

    def stays_idle_until(self, instant: Ticks) -> None:
        """Status must not say acquiring until a while after this time."""
        while (status := self.status()).timestamp < instant + _AFTERWARDS * TICKS_PER_SECOND:
            self.that(not status.acquiring, "acquiring, though the start was cancelled or refused")
            self.wait()
