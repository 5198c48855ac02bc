"""ServerSession: the requests of a case to a server. It asks, judges replies, and skips what cannot be tried.

Nothing here knows of unittest's runners: a case fails by AssertionError and is skipped by unittest.SkipTest.
Bytes are judged in wire already; what a case changes and restores is in case_context.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import NoReturn
from unittest import SkipTest

from discosbackend.commands import COMMANDS, Command, Field
from discosbackend.errors import NotSupportedError
from discosbackend.grammar import FAIL, LINEFEED, OK, REQUEST, Message, write_reply
from discosbackend.testing.profile import Profile
from discosbackend.testing.send_guard import SendGuard
from discosbackend.testing.wire import PROMPT, UNKNOWN_COMMAND, FailedIn, Reply, Wire, is_about_unknown, used_in
from discosbackend.testing.wrong_arguments import is_about_arguments
from discosbackend.testing.wrong_clocks import likely_cause
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

__all__ = [
    "CLOCK",
    "GREETING",
    "PROTOCOL_VERSION",
    "ServerSession",
    "Unsupported",
    "instant_of",
    "is_exact",
    "request_line",
]

__unittest = True
__tracebackhide__ = True

# What cases use that have no command's name: see Asking.using().
GREETING = "the greeting"
PROTOCOL_VERSION = "the protocol version"
CLOCK = "the clock"

# Without these no client gets anywhere; everything else an instrument may lack.
_REQUIRED = ("status", "version")

_NOT_SUPPORTED = str(NotSupportedError())
_UNKNOWN = "invalid command"

# How each type of value is written (protocol sections 3.1 to 3.6).
_WRITTEN = {
    "integer": (re.compile(r"-?[0-9]+"), "a decimal integer"),
    "float": (re.compile(r"-?[0-9]+(\.[0-9]+)?"), "a number in fixed point without exponent"),
    "boolean": (re.compile(r"[01]"), "0 or 1"),
    "timestamp": (re.compile(r"[0-9]+\.[0-9]{7}"), "Unix seconds with seven decimals"),
    "text": (re.compile(r".+", re.DOTALL), "text"),
    "path": (re.compile(r".+", re.DOTALL), "a path"),
}
# What the clients read all the same, by C++ stream extraction.
_READABLE = {
    "integer": re.compile(r"\+?[0-9]+"),
    "float": re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"),
    "timestamp": re.compile(r"[0-9]{1,11}(\.[0-9]*)?"),
}

# What a reason must not be: the words of a program about itself.
_LEAK = re.compile(r"Traceback|[a-z]Error\b|[a-z]Exception\b|\berrno\b|\bline [0-9]+, in |0x[0-9a-f]{6,}")

# Seconds to wait for a greeting before asking, and in which a reply too many comes.
_GREETING_WAIT = 1.0
_SETTLING = 0.02

_VERSION_REPLY = b"!version,ok,"


class Unsupported(SkipTest):
    """The server has no such command, which is optional."""


def request_line(name: str, *arguments: object, row: Command | None = None) -> bytes:
    """A request as it goes over the wire, escapes and CR LF included; `row` for a command of the backend's own."""
    row = row or COMMANDS.get(name)
    texts = [str(argument) for argument in arguments]
    message = Message(message_type=REQUEST, name=name, arguments=texts if row is None else row.to_wire(texts))
    return f"{message}{LINEFEED}".encode("latin-1")


class ServerSession:
    """Connections to one server, and what is judged of its replies.

    `own_server`: it was started for this, behind this package's protocol handler, so it knows every command
    and nobody else uses it. `guard` is what may be sent, and how fast. `deviations` are what works, but is
    not as the document says.
    """

    def __init__(
        self,
        profile: Profile,
        address: tuple[str, int],
        *,
        own_server: bool = False,
        guard: SendGuard | None = None,
    ) -> None:
        self.profile = profile
        self.guard = SendGuard() if guard is None else guard
        self.deviations: list[str] = []
        self.given_up: Collection[str] = ()
        """What is not asked for any more, because it was waited for in vain."""
        self._address = address
        self._own_server = own_server
        self._wires: list[Wire] = []
        self._main: Wire | None = None
        self._fences = 0

    @property
    def sparing(self) -> bool:
        """Whether one of each kind will do, because the server must not be asked much."""
        return self.guard.sparing

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
            self._address,
            timeout=self.profile.reply_timeout,
            reply_limit=self.profile.reply_limit,
            before_sending=self.guard.before,
        )
        self._wires.append(wire)
        return wire

    def connect(self) -> Wire:
        """A new connection whose greeting has been read, if it has one already or at all."""
        wire = self.open()
        if self.sparing and wire.has_lines(1, within=_GREETING_WAIT):
            with self.using(GREETING):
                self.that((greeting := wire.read()).message.name == "version", f"{greeting.line!r} is no greeting")
            return wire
        with self.using(UNKNOWN_COMMAND):
            name = self._send_fence(wire)
            with self.using(GREETING):
                first = wire.read()
            if first.message.name == "version":
                first = wire.read()
            self._judge_fence(wire, first, name)
        return wire

    def hang_up(self) -> None:
        """Close the connection in use; what comes next goes over a new one."""
        if self._main is not None:
            self._main.close()
            self._main = None

    def fence(self, wire: Wire) -> None:
        """Every request so far has had exactly one reply: the next line is the reply to one more.

        Where requests are scarce, nothing comes for a moment instead.
        """
        if self.sparing:
            wire.stay_silent(_SETTLING)
            return
        with self.using(UNKNOWN_COMMAND):
            name = self._send_fence(wire)
            self._judge_fence(wire, wire.read(), name)

    def _send_fence(self, wire: Wire) -> str:
        self._fences += 1
        name = f"fence-{self._fences}"
        self._do_not_wait_again(UNKNOWN_COMMAND)
        wire.send(request_line(name))
        return name

    @staticmethod
    def _judge_fence(wire: Wire, reply: Reply, name: str) -> None:
        if reply.message.name != name:
            raise AssertionError(f"one reply too many, or out of order: {reply.line!r} came before the reply to {name}")
        wire.answered.add(name)

    @property
    def cut_off(self) -> bool:
        """Whether the server has closed a connection."""
        return any(wire.cut_off for wire in self._wires)

    @property
    def timed_out(self) -> bool:
        """Whether a reply did not come in time."""
        return any(wire.timed_out for wire in self._wires)

    # -- what a case uses -----------------------------------------------------------------------------

    @contextmanager
    def using(self, what: str) -> Iterator[None]:
        """A failure in here is caused by `what`, if the case that shows `what` to work fails too.

        `what` is the name of a command that is sent as it should be, or one of the constants for such names.
        """
        try:
            yield
        except AssertionError as problem:
            raise FailedIn(str(problem), (*used_in(problem), what)) from None

    def _do_not_wait_again(self, what: str) -> None:
        self.that(what not in self.given_up, f"{what} is not waited for again, after it did not come in time")

    # -- asking and judging ---------------------------------------------------------------------------

    def that(self, condition: object, otherwise: str) -> None:
        """AssertionError, with what is wrong then, unless the condition is true."""
        if not condition:
            raise AssertionError(otherwise)

    def ideally(self, condition: object, otherwise: str) -> None:
        """Note what is not as the document says, but works: the verdict is non-strict then."""
        if not condition and otherwise not in self.deviations:
            self.deviations.append(otherwise)

    def begins(self, line: bytes, wanted: bytes, otherwise: str) -> None:
        """The line must begin with these bytes.

        What the version is, and that an unknown command has one reply, and which, have cases of their own.
        """
        if line.startswith(wanted):
            return
        if line.startswith(_VERSION_REPLY) and wanted.startswith(_VERSION_REPLY):
            raise FailedIn(otherwise, (PROTOCOL_VERSION,))
        if is_about_unknown(wanted) or is_about_unknown(line):
            raise FailedIn(otherwise, (UNKNOWN_COMMAND,))
        raise AssertionError(otherwise)

    def answers(self, sent: bytes, wanted: bytes) -> None:
        """These bytes, which reach no backend, are answered by exactly this line."""
        self.wire.send(sent)
        with self.using(UNKNOWN_COMMAND) if is_about_unknown(wanted) else nullcontext():
            line = self.wire.read().line
        self.begins(line, wanted, f"{sent!r} wants {wanted!r}, not {line!r}")

    def ask(self, name: str, *arguments: object) -> Reply:
        """The reply to a request, whatever its code."""
        line = self._request_line(name, *arguments)
        with self.using(name):
            self._do_not_wait_again(name)
            self.wire.send(line)
            reply = self.wire.read(self.patience(name))
            self.that(reply.message.name == name, f"{reply.line!r} is no reply to {line!r}")
        return reply

    def _request_line(self, name: str, *arguments: object) -> bytes:
        return request_line(name, *arguments, row=self.profile.commands.get(name))

    def _values(self, reply: Reply) -> list[str]:
        """The arguments of an `ok` reply; a path as it was given to ask()."""
        row = self.profile.commands.get(reply.message.name)
        return reply.message.arguments if row is None else row.from_wire(reply.message.arguments)

    def patience(self, name: str) -> float:
        """Seconds to wait for the reply to a command: what reads waits for nobody (protocol section 6.1)."""
        row = self.profile.commands.get(name)
        return PROMPT if row is None or row.lane == "reads" else self.profile.reply_timeout

    def ok(self, name: str, *arguments: object, profile_attribute: str = "", clock: bool = True) -> list[str]:
        """The arguments of the reply, which must be `ok` and as the command's row says.

        Unsupported when the backend has no such command, skipped when it refuses something that nobody
        vouched for: `profile_attribute` names the attribute of the profile that would. `clock`: a time in the reply
        must be that of this host.
        """
        self.skip_what_is_left_out(name)
        reply = self.ask(name, *arguments)
        with self.using(name):
            if reply.message.code != OK:
                self.refused(reply, name, profile_attribute)
            self.judge_arguments(reply, clock=clock)
        return self._values(reply)

    def fails(
        self, reason: str, name: str, *arguments: object, before_backend: bool = False, profile_attribute: str = ""
    ) -> None:
        """The reply must be `fail`, ideally with this reason; with any, if the reason is "".

        Unsupported when the backend has no such command, except `before_backend`: that the server itself
        finds, whatever the backend can do. Skipped when it has another reason, which the attribute that
        `profile_attribute` names would rule out.
        """
        reply = self.ask(name, *arguments)
        sent = self._request_line(name, *arguments)
        if reply.message.code != OK and not (before_backend and self._own_server):
            self._skip_unsupported(reply, name)
        accepted = f"{sent!r} must be answered with fail, not {reply.line!r}"
        if before_backend:
            self.that(reply.message.code == FAIL, accepted)
        with self.using(name):
            # A backend whose command does nothing at all refuses nothing either.
            self.that(reply.message.code == FAIL, accepted)
            self._judge_refusal(reply)
        wanted = f"{write_reply(name, FAIL, [reason])}{LINEFEED}".encode("latin-1") if reason else b""
        if wanted and reply.line != wanted:
            self._skip_unvouched(reply, name, profile_attribute)
            self.ideally(False, f"{sent!r} wants {wanted!r}, not {reply.line!r}")

    def ok_or_refused(self, name: str, *arguments: object) -> list[str] | None:
        """The arguments of an `ok` reply, or None for a refusal; both must be as they should."""
        self.skip_what_is_left_out(name)
        reply = self.ask(name, *arguments)
        with self.using(name):
            if reply.message.code == OK:
                self.judge_arguments(reply)
                return self._values(reply)
            self._skip_unsupported(reply, name)
            self._judge_refusal(reply)
        return None

    def quietly(self, name: str, *arguments: object) -> list[str] | None:
        """The arguments of an `ok` reply, None for any other: for asking how the server was found."""
        reply = self.ask(name, *arguments)
        return self._values(reply) if reply.message.code == OK else None

    def skip_what_is_left_out(self, name: str) -> None:
        """Skipped when the profile says that this command must not be carried out."""
        if name in self.profile.leave_out:
            raise SkipTest(f"{name} is left out, as leave_out says")

    def refused(self, reply: Reply, name: str, profile_attribute: str) -> NoReturn:
        """What should have been `ok` is not."""
        self._skip_unsupported(reply, name)
        self._judge_refusal(reply)
        self._skip_unvouched(reply, name, profile_attribute)
        raise AssertionError(f"{name} must be answered with ok, not {reply.line!r}")

    def _skip_unvouched(self, reply: Reply, name: str, profile_attribute: str) -> None:
        """What the instrument refuses is its own business; but the arguments are as the table has them."""
        reason = ",".join(reply.message.arguments)
        if reason.startswith((_UNKNOWN, _NOT_SUPPORTED)) or is_about_arguments(self._row(name), reason):
            return
        if reply.message.code == FAIL and profile_attribute and not self.profile.is_set(profile_attribute):
            raise SkipTest(f"{name} was refused ({reason}): say {profile_attribute}")

    def _skip_unsupported(self, reply: Reply, name: str) -> None:
        reason = ",".join(reply.message.arguments)
        unknown = not self._own_server and reason.startswith(_UNKNOWN)
        if (reason == _NOT_SUPPORTED or unknown) and name not in (*_REQUIRED, *self.profile.own_rows):
            raise Unsupported(f"{name} is not supported by this backend")

    @staticmethod
    def _judge_refusal(reply: Reply) -> None:
        """A refusal is the backend's decision and has its reason; all else is its author's mistake."""
        from discosbackend.protocol import UNEXPECTED  # brings Twisted, which a passing case does not need

        arguments = reply.message.arguments
        if reply.message.code != FAIL or len(arguments) != 1:
            raise AssertionError(f"a refusal is a fail with one argument, its reason, unlike {reply.line!r}")
        if UNEXPECTED in arguments:
            raise AssertionError(f"the backend failed, or returned what no reply can carry: {reply.line!r}")
        if _LEAK.search(arguments[0]):
            raise AssertionError(f"a reason is never an internal exception's text, unlike {reply.line!r}")

    def _row(self, name: str) -> Command:
        return self.profile.commands[name]

    def judge_arguments(self, reply: Reply, *, clock: bool = True) -> None:
        """An `ok` reply must have the fields of its command's row, each well-formed."""
        row = self._row(reply.message.name)
        arguments, fields = list(reply.message.arguments), list(row.reply)
        if fields and fields[-1].repeated:
            fields += fields[-1:] * (len(arguments) - len(fields))
        if len(arguments) != len(fields):
            names = " and ".join(field.name for field in row.reply) or "none"
            raise AssertionError(f"the reply to {row.name} has as arguments {names}, unlike {reply.line!r}")
        for argument, field in zip(arguments, fields, strict=True):
            self._judge_value(argument, field)
            if field.type == "timestamp" and clock and (problem := self.wrong_clock(argument)):
                raise FailedIn(problem, (CLOCK,))
            if field.unescaped:
                # The deployed clients split at every comma and know no escapes.
                self.that(b"\\" not in reply.line, f"the {field.name} of {row.name} is sent without escapes")

    def _judge_value(self, argument: str, field: Field) -> None:
        pattern, words = _WRITTEN[field.type]
        if pattern.fullmatch(argument) is None:
            otherwise = f"{field.name} must be {words}, not {argument!r}"
            if field.type == "timestamp" and (likely := likely_cause(argument, Ticks.now())):
                otherwise += f": it looks like {likely}"
            readable = _READABLE.get(field.type, pattern)
            self.that(readable.fullmatch(argument), otherwise)
            self.ideally(False, otherwise)

    def wrong_clock(self, timestamp: str) -> str:
        """What is wrong with a time that the server reports as now, "" if nothing is."""
        now = Ticks.now()
        off = (instant_of(timestamp) - now) / TICKS_PER_SECOND
        if abs(off) <= self.profile.clock_tolerance:
            return ""
        likely = likely_cause(timestamp, now)
        return (
            f"timestamp {timestamp} is {off:+.1f} s off this host's clock, of which clock_tolerance is "
            f"{self.profile.clock_tolerance:g} s" + (f": it looks like {likely}" if likely else "")
        )


def instant_of(timestamp: str) -> Ticks:
    """The instant that a time in a reply means: Unix seconds, also without a point, as in no request."""
    return Ticks.parse(timestamp if "." in timestamp else f"{timestamp}.")


def is_exact(timestamp: str) -> bool:
    """Whether a time in a reply is written with all its decimals (protocol section 3.6)."""
    return _WRITTEN["timestamp"][0].fullmatch(timestamp) is not None
