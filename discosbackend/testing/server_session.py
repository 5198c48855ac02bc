"""ServerSession: sends the requests of a case to a server and judges the replies.

A case fails with AssertionError and is skipped with unittest.SkipTest; this module does not depend on a test runner.
The module wire has already checked the bytes of each reply. case_context changes and restores the server's state.
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
    "READABLE",
    "WRITTEN",
    "ServerSession",
    "Unsupported",
    "instant_of",
    "is_exact",
    "request_line",
]

__unittest = True
__tracebackhide__ = True

# Features that cases use and that are not commands: see ServerSession.using().
GREETING = "the greeting"
PROTOCOL_VERSION = "the protocol version"
CLOCK = "the clock"

# Every server must have these commands. All others are optional.
_REQUIRED = ("status", "version")

_NOT_SUPPORTED = str(NotSupportedError())
_UNKNOWN = "invalid command"

WRITTEN = {
    "integer": (re.compile(r"-?[0-9]+"), "a decimal integer"),
    "float": (re.compile(r"-?[0-9]+(\.[0-9]+)?"), "a number in fixed point without exponent"),
    "boolean": (re.compile(r"[01]"), "0 or 1"),
    "timestamp": (re.compile(r"[0-9]+\.[0-9]{7}"), "Unix seconds with seven decimals"),
    "text": (re.compile(r".+", re.DOTALL), "text"),
    "path": (re.compile(r".+", re.DOTALL), "a path"),
}
"""How each type of value is written (protocol sections 3.1 to 3.6): a regular expression, and the same in words."""

READABLE = {
    "integer": re.compile(r"\+?[0-9]+"),
    "float": re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"),
    "timestamp": re.compile(r"[0-9]{1,11}(\.[0-9]*)?"),
}
"""Other forms that the deployed clients can read, with C++ stream extraction."""

# A reason must not be the text of an internal exception.
_LEAK = re.compile(r"Traceback|[a-z]Error\b|[a-z]Exception\b|\berrno\b|\bline [0-9]+, in |0x[0-9a-f]{6,}")

# How long to wait for a greeting before the first request, and for a superfluous reply, in seconds.
_GREETING_WAIT = 1.0
_SETTLING = 0.02

_VERSION_REPLY = b"!version,ok,"


class Unsupported(SkipTest):
    """The server does not have the command, which is optional."""


def request_line(name: str, *arguments: object, row: Command | None = None) -> bytes:
    """Return the bytes of a request, with escapes and CR LF.

    Parameters
    ----------
    name
        The name of the command.
    arguments
        Its arguments. Paths are converted as os.fsencode() does.
    row
        The row of a command of the backend's own. Default: the row of the protocol's command of this name.

    Examples
    --------
    >>> from discosbackend.testing.server_session import request_line
    >>> request_line("set-filename", "/a,b.fits")
    b'?set-filename,/a\\\\,b.fits\\r\\n'
    """
    row = row or COMMANDS.get(name)
    texts = [str(argument) for argument in arguments]
    message = Message(message_type=REQUEST, name=name, arguments=texts if row is None else row.to_wire(texts))
    return f"{message}{LINEFEED}".encode("latin-1")


class ServerSession:
    """Connections to one server, with methods that send requests and judge the replies.

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
    deviations
        Descriptions of replies that work, but differ from the protocol document.
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
        """Features for which another case has already waited until its timeout. They are not requested again."""
        self._address = address
        self._own_server = own_server
        self._wires: list[Wire] = []
        self._main: Wire | None = None
        self._fences = 0

    @property
    def sparing(self) -> bool:
        """Whether the number of requests is limited. Cases with a table of requests then try only one of each kind."""
        return self.guard.sparing

    # -- connections ----------------------------------------------------------------------------------

    @property
    def wire(self) -> Wire:
        """The main connection. It is opened on first use."""
        if self._main is None:
            self._main = self.connect()
        return self._main

    def open(self) -> Wire:
        """Open a new connection. Nothing has been read or sent on it."""
        wire = Wire(
            self._address,
            timeout=self.profile.reply_timeout,
            reply_limit=self.profile.reply_limit,
            before_sending=self.guard.before,
        )
        self._wires.append(wire)
        return wire

    def connect(self) -> Wire:
        """Open a new connection and read its greeting, if there is one."""
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
        """Close the main connection. The next request opens a new one."""
        if self._main is not None:
            self._main.close()
            self._main = None

    def fence(self, wire: Wire) -> None:
        """Check that every request so far has had exactly one reply.

        A further request is sent, and the next line must be the reply to it. If the number of requests is limited,
        the server must send nothing for 20 ms instead.
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
        """Whether a reply was not received in time."""
        return any(wire.timed_out for wire in self._wires)

    # -- what a case uses -----------------------------------------------------------------------------

    @contextmanager
    def using(self, what: str) -> Iterator[None]:
        """Return a context manager that names a feature which the requests inside it use.

        If the case that tests this feature fails too, it is the cause of a failure inside the context.

        Parameters
        ----------
        what
            The name of a command, or a constant such as GREETING.

        Raises
        ------
        FailedIn
            In place of an AssertionError that is raised inside the context.
        """
        try:
            yield
        except AssertionError as problem:
            raise FailedIn(str(problem), (*used_in(problem), what)) from None

    def _do_not_wait_again(self, what: str) -> None:
        self.that(what not in self.given_up, f"{what} timed out before, so the case does not wait for it again")

    # -- requests and replies -------------------------------------------------------------------------

    def that(self, condition: object, otherwise: str) -> None:
        """Raise AssertionError with the text `otherwise`, unless the condition is true."""
        if not condition:
            raise AssertionError(otherwise)

    def ideally(self, condition: object, otherwise: str) -> None:
        """Unless the condition is true, make the verdict non-strict, with the text `otherwise` as a reason."""
        if not condition and otherwise not in self.deviations:
            self.deviations.append(otherwise)

    def begins(self, line: bytes, wanted: bytes, otherwise: str) -> None:
        """Check that a line begins with these bytes.

        If the version, or the reply to an unknown command, is wrong, the failure is attributed to the case that tests
        this feature.

        Parameters
        ----------
        line
            The line that was received.
        wanted
            How it must begin.
        otherwise
            The text of the failure.

        Raises
        ------
        AssertionError
            If the line does not begin with these bytes.
        """
        if line.startswith(wanted):
            return
        if line.startswith(_VERSION_REPLY) and wanted.startswith(_VERSION_REPLY):
            raise FailedIn(otherwise, (PROTOCOL_VERSION,))
        if is_about_unknown(wanted) or is_about_unknown(line):
            raise FailedIn(otherwise, (UNKNOWN_COMMAND,))
        raise AssertionError(otherwise)

    def answers(self, sent: bytes, wanted: bytes) -> None:
        """Send bytes that the server answers without the backend, and check that the reply begins with `wanted`."""
        self.wire.send(sent)
        with self.using(UNKNOWN_COMMAND) if is_about_unknown(wanted) else nullcontext():
            line = self.wire.read().line
        self.begins(line, wanted, f"the reply to {sent!r} must be {wanted!r}, not {line!r}")

    def ask(self, name: str, *arguments: object) -> Reply:
        """Send a request and return the reply, which may have any code.

        Raises
        ------
        AssertionError
            If no valid reply with the name of the request is received in time.
        """
        line = self._request_line(name, *arguments)
        with self.using(name):
            self._do_not_wait_again(name)
            self.wire.send(line)
            reply = self.wire.read(self.patience(name))
            self.that(reply.message.name == name, f"{reply.line!r} is not a reply to {line!r}")
        return reply

    def _request_line(self, name: str, *arguments: object) -> bytes:
        return request_line(name, *arguments, row=self.profile.commands.get(name))

    def _values(self, reply: Reply) -> list[str]:
        """The arguments of an `ok` reply; a path as it was given to ask()."""
        row = self.profile.commands.get(reply.message.name)
        return reply.message.arguments if row is None else row.from_wire(reply.message.arguments)

    def patience(self, name: str) -> float:
        """Return how long to wait for the reply to a command, in s.

        Commands of the lane `reads` do not wait for other commands (protocol section 6.1), so their time is short.
        """
        row = self.profile.commands.get(name)
        return PROMPT if row is None or row.lane == "reads" else self.profile.reply_timeout

    def ok(self, name: str, *arguments: object, profile_attribute: str = "", clock: bool = True) -> list[str]:
        """Send a request, check that it is answered with a valid `ok` reply, and return its arguments.

        Parameters
        ----------
        name, arguments
            The command and its arguments.
        profile_attribute
            The attribute of the profile that specifies a valid request. If the instrument refuses the request and this
            attribute is not set, the case is skipped.
        clock
            Whether a time in the reply must agree with this host's clock.

        Raises
        ------
        AssertionError
            If the reply is not `ok`, or if its arguments do not match the row of the command.
        Unsupported
            If the server does not have the command.
        unittest.SkipTest
            If the command is in leave_out, or if `profile_attribute` is not set.
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
        """Send a request and check that it is answered with `fail`.

        Parameters
        ----------
        reason
            The expected reason. Another reason makes the verdict non-strict. "" for any reason.
        name, arguments
            The command and its arguments.
        before_backend
            Whether the server itself refuses the request, without the backend. A server that this kit has started
            must then refuse it even if the backend does not have the command.
        profile_attribute
            An attribute of the profile. If it is set, the instrument must have no other reason to refuse. If it is not
            set, and the instrument gives another reason, the case is skipped.

        Raises
        ------
        AssertionError
            If the reply is not a valid `fail`.
        Unsupported
            If the server does not have the command.
        unittest.SkipTest
            If the reason differs and `profile_attribute` is not set.
        """
        reply = self.ask(name, *arguments)
        sent = self._request_line(name, *arguments)
        if reply.message.code != OK and not (before_backend and self._own_server):
            self._skip_unsupported(reply, name)
        accepted = f"{sent!r} must be answered with fail, not {reply.line!r}"
        if before_backend:
            self.that(reply.message.code == FAIL, accepted)
        with self.using(name):
            # If the command itself does not work, its own case is the cause.
            self.that(reply.message.code == FAIL, accepted)
            self._judge_refusal(reply)
        wanted = f"{write_reply(name, FAIL, [reason])}{LINEFEED}".encode("latin-1") if reason else b""
        if wanted and reply.line != wanted:
            self._skip_unvouched(reply, name, profile_attribute)
            self.ideally(False, f"the reply to {sent!r} must be {wanted!r}, not {reply.line!r}")

    def ok_or_refused(self, name: str, *arguments: object) -> list[str] | None:
        """Send a request that the backend may refuse. Return the arguments of an `ok` reply, None for a refusal.

        Raises
        ------
        AssertionError
            If the reply is not valid.
        Unsupported
            If the server does not have the command.
        unittest.SkipTest
            If the command is in leave_out.
        """
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
        """Send a request and return the arguments of an `ok` reply, None for any other reply."""
        reply = self.ask(name, *arguments)
        return self._values(reply) if reply.message.code == OK else None

    def skip_what_is_left_out(self, name: str) -> None:
        """Skip the case, with unittest.SkipTest, if this command is in the profile's leave_out."""
        if name in self.profile.leave_out:
            raise SkipTest(f"{name} is listed in leave_out")

    def skip_unsupported(self, name: str, *arguments: object) -> None:
        """Send a request, and skip the case if the server does not have the command.

        Raises
        ------
        Unsupported
            If the server does not have the command.
        unittest.SkipTest
            If the command is in leave_out.
        """
        self.skip_what_is_left_out(name)
        self._skip_unsupported(self.ask(name, *arguments), name)

    def refused(self, reply: Reply, name: str, profile_attribute: str) -> NoReturn:
        """Raise the exception for a reply that should be `ok` and is not.

        Raises
        ------
        AssertionError
            If the instrument should have accepted the request, or if the refusal is not valid.
        Unsupported
            If the server does not have the command.
        unittest.SkipTest
            If `profile_attribute` is not set.
        """
        self._skip_unsupported(reply, name)
        self._judge_refusal(reply)
        self._skip_unvouched(reply, name, profile_attribute)
        raise AssertionError(f"{name} must be answered with ok, not {reply.line!r}")

    def _skip_unvouched(self, reply: Reply, name: str, profile_attribute: str) -> None:
        """Skip the case if the instrument refuses a value, and the profile does not specify a valid value.

        If the refusal is about the number or the types of the arguments, the case is not skipped: they match the table.
        """
        reason = ",".join(reply.message.arguments)
        if reason.startswith((_UNKNOWN, _NOT_SUPPORTED)) or is_about_arguments(self._row(name), reason):
            return
        if reply.message.code == FAIL and profile_attribute and not self.profile.is_set(profile_attribute):
            raise SkipTest(f"{name} was refused ({reason}): set {profile_attribute}")

    def _skip_unsupported(self, reply: Reply, name: str) -> None:
        reason = ",".join(reply.message.arguments)
        unknown = not self._own_server and reason.startswith(_UNKNOWN)
        if (reason == _NOT_SUPPORTED or unknown) and name not in (*_REQUIRED, *self.profile.own_rows):
            raise Unsupported(f"{name} is not supported by this backend")

    @staticmethod
    def _judge_refusal(reply: Reply) -> None:
        """Check that a refusal is a `fail` with a reason, and not the result of a defect in the backend."""
        from discosbackend.protocol import UNEXPECTED  # imports Twisted, which is only needed here

        arguments = reply.message.arguments
        if reply.message.code != FAIL or len(arguments) != 1:
            raise AssertionError(f"a refusal must be a fail with one argument, the reason, unlike {reply.line!r}")
        if UNEXPECTED in arguments:
            raise AssertionError(f"the backend failed, or returned a value that no reply can carry: {reply.line!r}")
        if _LEAK.search(arguments[0]):
            raise AssertionError(f"a reason must not be the text of an internal exception, as in {reply.line!r}")

    def _row(self, name: str) -> Command:
        return self.profile.commands[name]

    def judge_arguments(self, reply: Reply, *, clock: bool = True) -> None:
        """Check that an `ok` reply has the fields of its command's row, and that each is well-formed.

        Parameters
        ----------
        reply
            The reply.
        clock
            Whether a time in the reply must agree with this host's clock.

        Raises
        ------
        AssertionError
            If a field is missing, superfluous or not readable.
        """
        row = self._row(reply.message.name)
        arguments = reply.message.arguments
        fields = row.reply_fields(len(arguments))
        if len(arguments) != len(fields):
            names = " and ".join(field.name for field in row.reply) or "none"
            raise AssertionError(f"the arguments of the reply to {row.name} must be {names}, unlike {reply.line!r}")
        for argument, field in zip(arguments, fields, strict=True):
            self._judge_value(argument, field)
            if field.type == "timestamp" and clock and (problem := self.wrong_clock(argument)):
                raise FailedIn(problem, (CLOCK,))
            if field.unescaped:
                # The deployed clients split at every comma and do not support escapes.
                self.that(b"\\" not in reply.line, f"the {field.name} of {row.name} must be sent without escapes")

    def _judge_value(self, argument: str, field: Field) -> None:
        pattern, words = WRITTEN[field.type]
        if pattern.fullmatch(argument) is None:
            otherwise = f"{field.name} must be {words}, not {argument!r}"
            if field.type == "timestamp" and (likely := likely_cause(argument, Ticks.now())):
                otherwise += f": it looks like {likely}"
            readable = READABLE.get(field.type, pattern)
            self.that(readable.fullmatch(argument), otherwise)
            self.ideally(False, otherwise)

    def wrong_clock(self, timestamp: str) -> str:
        """Return what is wrong with a time that the server reports as the current time, "" if nothing is."""
        now = Ticks.now()
        off = (instant_of(timestamp) - now) / TICKS_PER_SECOND
        if abs(off) <= self.profile.clock_tolerance:
            return ""
        likely = likely_cause(timestamp, now)
        return (
            f"timestamp {timestamp} differs from this host's clock by {off:+.1f} s (clock_tolerance: "
            f"{self.profile.clock_tolerance:g} s)" + (f": it looks like {likely}" if likely else "")
        )


def instant_of(timestamp: str) -> Ticks:
    """Return the instant of a time in a reply. A number without a decimal point is in Unix seconds, too.

    In a request, such a number would count 100 ns.
    """
    return Ticks.parse(timestamp if "." in timestamp else f"{timestamp}.")


def is_exact(timestamp: str) -> bool:
    """Return whether a time in a reply has seven decimals (protocol section 3.6)."""
    return WRITTEN["timestamp"][0].fullmatch(timestamp) is not None
