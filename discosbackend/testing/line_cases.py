"""Cases for the lines: framing, grammar, escapes, errors, and the order of replies.

They test protocol sections 1, 2 and 5, and protocol section 9.7 for MISTRAL's client. They do not depend on the
backend: `status` is the only command that they carry out. Hostile lines are in hostile_cases.
"""

from __future__ import annotations

from discosbackend.commands import COMMANDS
from discosbackend.grammar import FAIL, LINEFEED, OK, quoted, write_reply
from discosbackend.testing.case_context import CaseContext, request_line
from discosbackend.testing.cases import Cases, Level
from discosbackend.testing.send_guard import Scope
from discosbackend.testing.server_session import GREETING, PROTOCOL_VERSION
from discosbackend.testing.wire import LINE_END, UNKNOWN_COMMAND

__all__ = ["LINE_CASES"]

__unittest = True
__tracebackhide__ = True

LINE_CASES = Cases()

# Lines that are not messages, and the name that the reply must have. If the number of requests is limited, only the
# first ones are sent.
_NO_MESSAGES = (
    (b"", b"undefined"),
    (b"status", b"undefined"),
    (b"?status ", b"undefined"),
    (b"?status,", b"status"),
    (b"?get-filename,a\\", b"get-filename"),
    (b"?no-such-command,a\x1bb", b"no-such-command"),
    (b" ", b"undefined"),
    (b"quit", b"undefined"),
    (b"?", b"undefined"),
    (b"?,", b"undefined"),
    (b"? status", b"undefined"),
    (b"?1status", b"undefined"),
    (b"?get_tpi", b"undefined"),
    (b"?st\xe4tus", b"undefined"),
    (b"?" + 65 * b"x", b"undefined"),
    (b"?status,,", b"status"),
    (b"?get-filename,a,", b"get-filename"),
    (b"?get-filename,,a", b"get-filename"),
    (b"?get-filename,\\a", b"get-filename"),
    (b"?get-filename,a\0b", b"get-filename"),
    (b"?get-filename,a\x1bb", b"get-filename"),
    (b"?get-filename,a\rb", b"get-filename"),
    (b"?no-such-command,", b"no-such-command"),
)
_FEW_NO_MESSAGES = 4

# Every byte that may occur in an argument without an escape. This includes 0x80 to 0xFF.
_PLAIN = bytes(byte for byte in range(1, 256) if byte not in b"\n\r\x1b,\\")

_REPLIES = (b"!", b"!status", b"!status,ok", b"!version,ok,1.4", b"!,,\\x")

_ROUNDS = 50

# Telnet negotiation as a client sends it at its start: WILL, DONT, and a command without an option.
_NEGOTIATION = b"\xff\xfb\x01\xff\xfe\x03\xff\xf1"

# A pause in seconds, so that the server receives a piece of a line separately.
_BETWEEN = 0.02


def _version(context: CaseContext) -> bytes:
    return f"{write_reply('version', OK, [context.profile.protocol_version])}{LINEFEED}".encode("latin-1")


def _unknown(name: str) -> bytes:
    return f"{write_reply(name, FAIL, [f'invalid command {quoted(name)}'])}{LINEFEED}".encode("latin-1")


# -- protocol section 1: the line -----------------------------------------------------------------------


@LINE_CASES.case(
    "greeting/is-the-version",
    "1.2",
    "On every new connection the server at once sends a greeting, which is the reply to `version`: `!version,ok,1.4`.",
    Scope.READS,
    shows=(GREETING, PROTOCOL_VERSION),
)
def _greeting(context: CaseContext) -> None:
    wire = context.open()
    with context.using(GREETING):
        line = wire.read().line
        context.begins(line, _version(context), f"the greeting must be {_version(context)!r}, not {line!r}")
    wire.send(request_line("version"))
    line = wire.read().line
    context.begins(line, _version(context), f"the reply to version must be {_version(context)!r}, not {line!r}")


@LINE_CASES.case(
    "framing/replies-end-in-cr-lf",
    "1.3",
    "The server ends every line that it sends with CR LF.",
    Scope.READS,
    shows=(LINE_END,),
)
def _replies_end_in_cr_lf(context: CaseContext) -> None:
    for line in (b"?version\r\n", b"nonsense\r\n"):
        context.wire.send(line)
        context.wire.read()
    with context.using(UNKNOWN_COMMAND):
        context.wire.send(b"?no-such-command\r\n")
        context.wire.read()


@LINE_CASES.case("framing/request-in-pieces", "1.4", "A line may arrive in any number of pieces.", Scope.READS)
def _request_in_pieces(context: CaseContext) -> None:
    for piece in (b"?", b"vers", b"ion\r", b"\n"):
        context.wire.send(piece)
        if piece != b"\n":
            context.wire.stay_silent(_BETWEEN)
    line = context.wire.read().line
    context.begins(line, _version(context), f"the reply to version must be {_version(context)!r}, not {line!r}")


@LINE_CASES.case("framing/many-in-one-piece", "1.4", "One piece may contain any number of lines.", Scope.READS)
def _many_in_one_piece(context: CaseContext) -> None:
    context.wire.send(b"?version\r\n?no-such-command\n?version\r\n?ver")
    for wanted in (_version(context), _unknown("no-such-command"), _version(context)):
        with context.using(UNKNOWN_COMMAND):
            line = context.wire.read().line
        context.begins(line, wanted, f"the reply must be {wanted!r}, not {line!r}")
    context.answers(b"sion\r\n", _version(context))


@LINE_CASES.case(
    "framing/line-feed-alone", "1.3", "The server accepts LF and CR NUL as the end of a line.", Scope.READS
)
def _line_feed_alone(context: CaseContext) -> None:
    context.answers(b"?version\n", _version(context))
    context.answers(b"?version\r\0", _version(context))


@LINE_CASES.case("framing/telnet", "1.6", "The server removes telnet negotiation at the start of a line.", Scope.READS)
def _telnet(context: CaseContext) -> None:
    context.answers(_NEGOTIATION + b"?version\r\n", _version(context))
    # A line with nothing but telnet negotiation gets no reply.
    context.wire.send(_NEGOTIATION + b"\r\n")
    context.fence(context.wire)


@LINE_CASES.case(
    "framing/half-close",
    "1.9",
    "A client may close its sending half after its requests: it still gets every reply, and then the server closes "
    "the connection.",
    Scope.READS,
)
def _half_close(context: CaseContext) -> None:
    wire = context.connect()
    wire.send(request_line("version") + b"?status\r\n?vers")
    wire.send_end()
    for name in ("version", "status"):
        reply = wire.read()
        context.that(reply.message.name == name, f"expected the reply to {name}, not {reply.line!r}")
    wire.read_end()


# -- protocol section 2: the grammar --------------------------------------------------------------------


@LINE_CASES.case(
    "grammar/syntax-errors",
    "5.2",
    "A line that is not a message is answered with `invalid`, and the connection stays open.",
    Scope.READS,
)
def _syntax_errors(context: CaseContext) -> None:
    for line, name in _NO_MESSAGES[: _FEW_NO_MESSAGES if context.sparing else None]:
        context.wire.send(line + b"\r\n")
        reply = context.wire.read()
        wanted = b"!" + name + b",invalid,"
        context.that(
            reply.line.startswith(wanted), f"the reply to {line!r} must begin with {wanted!r}, unlike {reply.line!r}"
        )
        context.that(len(reply.message.arguments) == 1, f"the reason must be one argument, unlike {reply.line!r}")
        known = "syntax error: "
        context.ideally(
            reply.message.arguments[0].startswith(known),
            f"the reason should begin with {known!r}, unlike {reply.line!r}",
        )


@LINE_CASES.case(
    "grammar/escaped-comma",
    "2.4",
    r"Inside an argument, `\\` is a backslash, `\t` is a tab and `\,` is a comma.",
    Scope.FULL,
)
def _escaped_comma(context: CaseContext) -> None:
    context.stop_finally_what_was_not_running()
    # A server that splits the argument at the escaped comma finds a wrong number of arguments.
    for text in ("a,b", ",", "a\\", "\\,", "\t"):
        context.fails(f"wrong timestamp {quoted(text)}", "start", text, before_backend=True)


@LINE_CASES.case(
    "grammar/every-byte-is-a-character",
    "1.5",
    "Every byte is one latin-1 character, so no sequence of bytes is an encoding error.",
    Scope.READS,
)
def _every_byte(context: CaseContext) -> None:
    for data in (_PLAIN, b"\\t\\,\\\\", b"\xff\xfe\xff", b"\xc3")[: 2 if context.sparing else None]:
        context.answers(b"?no-such-command," + data + b"\r\n", _unknown("no-such-command"))


@LINE_CASES.case(
    "grammar/replies-are-no-requests",
    "5.2",
    "A line that begins with `!` is not a request and gets no reply.",
    Scope.READS,
)
def _replies_are_no_requests(context: CaseContext) -> None:
    for line in _REPLIES[: 2 if context.sparing else None]:
        context.wire.send(line + b"\r\n")
        context.fence(context.wire)


# -- protocol section 5: errors, and the order of replies -----------------------------------------------


@LINE_CASES.case(
    "errors/unknown-command",
    "5.3",
    "An unknown command is answered with `!<name>,fail,invalid command '<name>'`.",
    Scope.READS,
    shows=(UNKNOWN_COMMAND,),
)
def _unknown_command(context: CaseContext) -> None:
    for name in (64 * "x", "STATUS", "no-such-command")[: 1 if context.sparing else None]:
        context.that(name not in COMMANDS, f"{name} is a command")
        context.answers(request_line(name), _unknown(name))
    context.answers(request_line("no-such-command", "1", "2"), _unknown("no-such-command"))


@LINE_CASES.case(
    "errors/long-reason", "5.8", "A reason that would make its reply too long is shortened to fit.", Scope.FULL
)
def _long_reason(context: CaseContext) -> None:
    context.stop_finally_what_was_not_running()
    # The module wire checks the length of the reply.
    context.fails("", "start", 600 * "x", before_backend=True)


@LINE_CASES.case(
    "errors/names-are-not-looked-up",
    "4.1",
    "The server looks up a received name only in its table of commands, never among the attributes of the backend.",
    Scope.FULL,
)
def _names_are_not_looked_up(context: CaseContext) -> None:
    names = ("server-stopping", "server-started", "Status", "backend", "acquisition", "park")
    for name in (name for name in names if name not in context.profile.commands):
        context.answers(request_line(name), _unknown(name))
        context.answers(request_line(name, "1", "2"), _unknown(name))


@LINE_CASES.case(
    "order/pipelining",
    "1.8",
    "Each request gets exactly one reply, and on one connection the replies come in the order of the requests.",
    Scope.READS,
)
def _pipelining(context: CaseContext) -> None:
    sent, wanted = [], []
    for number in range(1 if context.sparing else _ROUNDS):
        unknown = f"no-such-command-{number}"
        sent += [
            request_line("version"),
            request_line(unknown),
            b"?\r\n",
            b"!version,ok,1.4\r\n",
            b"?status\r\n",
        ]
        wanted += [_version(context), _unknown(unknown), b"!undefined,invalid,", b"!status,"]
    context.wire.send(b"".join(sent))
    for number, beginning in enumerate(wanted):
        line = context.wire.read().line
        context.begins(line, beginning, f"reply {number + 1} must begin with {beginning!r}: {line!r}")


@LINE_CASES.case(
    "order/two-clients",
    "1.1",
    "Each client gets the replies to its own requests, whatever other clients send.",
    Scope.READS,
)
def _two_clients(context: CaseContext) -> None:
    first, second = context.connect(), context.connect()
    # The incomplete line of the first client must not delay or change the replies to the second one.
    first.send(b"?no-such")
    with context.using(UNKNOWN_COMMAND):
        for name in ("no-such-command", "version"):
            second.send(request_line(name))
            reply = second.read()
            context.that(reply.message.name == name, f"expected the reply to {name}, not {reply.line!r}")
        first.send(b"-thing\r\n")
        line = first.read().line
        context.that(
            line == _unknown("no-such-thing"), f"the reply must be {_unknown('no-such-thing')!r}, not {line!r}"
        )
    context.fence(second)


# -- protocol section 9: what deployed clients depend on ------------------------------------------------


@LINE_CASES.case(
    "clients/status-has-five-fields",
    "9.7",
    "The reply to `status` must have exactly five comma-separated fields and no `!` inside.",
    Scope.READS,
    Level.QUIRK,
)
def _five_fields(context: CaseContext) -> None:
    context.wire.send(b"?status\r\n")
    line = context.wire.read().line
    with context.using("status"):
        context.that(line.count(b",") == 4, f"the reply must have five fields, unlike {line!r}")
    context.that(line.count(b"!") == 1, f"a `!` inside a reply breaks the client's parser: {line!r}")
    context.that(line.isascii(), f"a byte above 0x7F breaks the client's decoder: {line!r}")


@LINE_CASES.case(
    "clients/greeting-and-status-are-short",
    "9.7",
    "The greeting and the reply to `status` together must have at most 256 bytes.",
    Scope.READS,
    Level.QUIRK,
)
def _short(context: CaseContext) -> None:
    wire = context.open()
    wire.send(b"?status\r\n")
    # A server may omit the greeting if the client sends a request immediately.
    with context.using(GREETING):
        first = wire.read()
    lines = first.line if first.message.name == "status" else first.line + wire.read().line
    context.that(len(lines) <= 256, f"greeting and status have {len(lines)} bytes: {lines!r}")
