"""Cases of the line: framing, grammar, escapes, errors, order. Any server must pass, whatever its backend.

Protocol sections 1, 2 and 5. No case here reaches a backend but `status`.
"""

from __future__ import annotations

from discosbackend.commands import COMMANDS
from discosbackend.grammar import FAIL, LINEFEED, OK, quoted, write_reply
from discosbackend.testing.cases import Cases
from discosbackend.testing.check import Check, request_line

__all__ = ["LINE_CASES"]

__unittest = True
__tracebackhide__ = True

LINE_CASES = Cases()

# A line that does not parse, and the name that its reply must have.
_NO_MESSAGES = (
    (b"", b"undefined"),
    (b" ", b"undefined"),
    (b"status", b"undefined"),
    (b"quit", b"undefined"),
    (b"?", b"undefined"),
    (b"?,", b"undefined"),
    (b"? status", b"undefined"),
    (b"?status ", b"undefined"),
    (b"?1status", b"undefined"),
    (b"?get_tpi", b"undefined"),
    (b"?st\xe4tus", b"undefined"),
    (b"?" + 65 * b"x", b"undefined"),
    (b"?status,", b"status"),
    (b"?status,,", b"status"),
    (b"?set-filename,a,", b"set-filename"),
    (b"?set-filename,,a", b"set-filename"),
    (b"?set-filename,a\\", b"set-filename"),
    (b"?set-filename,\\a", b"set-filename"),
    (b"?set-filename,a\0b", b"set-filename"),
    (b"?set-filename,a\x1bb", b"set-filename"),
    (b"?set-filename,a\rb", b"set-filename"),
    (b"?no-such-command,", b"no-such-command"),
)

# Every byte that may stand in an argument as it is; 0x80 to 0xFF are characters like any other.
_PLAIN = bytes(byte for byte in range(1, 256) if byte not in b"\n\r\x1b,\\")

_ROUNDS = 50


def _version(check: Check) -> bytes:
    return f"{write_reply('version', OK, [check.profile.protocol_version])}{LINEFEED}".encode("latin-1")


def _unknown(name: str) -> bytes:
    return f"{write_reply(name, FAIL, [f'invalid command {quoted(name)}'])}{LINEFEED}".encode("latin-1")


@LINE_CASES.case("greeting/is-the-version", "On every new connection the server at once sends a greeting.")
def _greeting(check: Check) -> None:
    wire = check.open()
    line = wire.read().line
    check.that(line == _version(check), f"the greeting must be {_version(check)!r}, not {line!r}")
    wire.send(request_line("version"))
    line = wire.read().line
    check.that(line == _version(check), f"version wants {_version(check)!r}, not {line!r}")


@LINE_CASES.case("framing/replies-end-in-cr-lf", "The server sends CR LF always.")
def _replies_end_in_cr_lf(check: Check) -> None:
    for line in (b"?version\n", b"?no-such-command\n", b"nonsense\n", b"?status\r\n"):
        check.wire.send(line)
        check.wire.read()


@LINE_CASES.case("framing/request-in-pieces", "A line may arrive in any number of pieces.")
def _request_in_pieces(check: Check) -> None:
    other = check.connect()
    for piece in (b"?", b"vers", b"ion\r", b"\n"):
        check.wire.send(piece)
        # A piece of its own: once another connection was answered, and again, this one has been read.
        check.fence(other)
        check.fence(other)
    line = check.wire.read().line
    check.that(line == _version(check), f"version wants {_version(check)!r}, not {line!r}")


@LINE_CASES.case("framing/line-feed-alone", "A line ends at LF, or at CR NUL.")
def _line_feed_alone(check: Check) -> None:
    check.answers(b"?version\n", _version(check))
    check.answers(b"?version\r\0", _version(check))


@LINE_CASES.case("framing/half-close", "A client may close its sending half: it still gets every reply.")
def _half_close(check: Check) -> None:
    wire = check.connect()
    wire.send(request_line("version") + b"?status\r\n?vers")
    wire.send_end()
    for name in ("version", "status"):
        reply = wire.read()
        check.that(reply.message.name == name, f"the reply to {name} is wanted, not {reply.line!r}")
    wire.read_end()


@LINE_CASES.case("grammar/syntax-errors", "`invalid` is a line that is no message; the connection lives on.")
def _syntax_errors(check: Check) -> None:
    for line, name in _NO_MESSAGES:
        check.wire.send(line + b"\r\n")
        reply = check.wire.read()
        wanted = b"!" + name + b",invalid,syntax error: "
        check.that(reply.line.startswith(wanted), f"{line!r} wants {wanted!r} and more, not {reply.line!r}")
        check.that(len(reply.message.arguments) == 1, f"the reason is one argument, unlike {reply.line!r}")


@LINE_CASES.case("grammar/escaped-comma", "`\\,` is a comma inside an argument.")
def _escaped_comma(check: Check) -> None:
    # Split at that comma it would be a wrong number of arguments.
    for text in ("a,b", ",", "a\\", "\\,", "\t"):
        check.fails(f"wrong timestamp {quoted(text)}", "start", text, before_backend=True)


@LINE_CASES.case("grammar/every-byte-is-a-character", "No byte sequence is ever an encoding error.")
def _every_byte(check: Check) -> None:
    for data in (_PLAIN, b"\xff\xfe\xff", b"\xc3", b"\\t\\,\\\\"):
        check.answers(b"?no-such-command," + data + b"\r\n", _unknown("no-such-command"))


@LINE_CASES.case("grammar/replies-are-no-requests", "Any line that begins with `!` gets nothing.")
def _replies_are_no_requests(check: Check) -> None:
    for line in (b"!", b"!status", b"!status,ok", b"!version,ok,1.4", b"!,,\\x"):
        check.wire.send(line + b"\r\n")
        check.fence(check.wire)


@LINE_CASES.case("errors/unknown-command", "Unknown command: `!<name>,fail,invalid command '<name>'`.")
def _unknown_command(check: Check) -> None:
    # A name from the wire is never looked up on the backend, so neither are its hooks.
    for name in ("no-such-command", "STATUS", "Status", "server-stopping", 64 * "x"):
        check.that(name not in COMMANDS, f"{name} is a command")
        check.answers(request_line(name), _unknown(name))
        check.answers(request_line(name, "1", "2"), _unknown(name))


@LINE_CASES.case("order/pipelining", "Each request gets exactly one reply, in the order of the requests.")
def _pipelining(check: Check) -> None:
    sent, wanted = [], []
    for number in range(_ROUNDS):
        unknown = f"no-such-command-{number}"
        sent += [request_line("version"), request_line(unknown), b"?\r\n", b"!ignored\r\n", b"?status\r\n"]
        wanted += [_version(check), _unknown(unknown), b"!undefined,invalid,", b"!status,"]
    check.wire.send(b"".join(sent))
    for number, beginning in enumerate(wanted):
        line = check.wire.read().line
        check.that(line.startswith(beginning), f"reply {number + 1} must begin with {beginning!r}: {line!r}")


@LINE_CASES.case("order/two-clients", "Any number of clients; each gets its own replies.")
def _two_clients(check: Check) -> None:
    first, second = check.connect(), check.connect()
    # What the first has begun to say keeps nobody waiting, and goes nowhere else.
    first.send(b"?no-such")
    for name in ("no-such-command", "version"):
        second.send(request_line(name))
        reply = second.read()
        check.that(reply.message.name == name, f"the reply to {name} is wanted, not {reply.line!r}")
    first.send(b"-thing\r\n")
    line = first.read().line
    check.that(line == _unknown("no-such-thing"), f"{_unknown('no-such-thing')!r} is wanted, not {line!r}")
    check.fence(second)
