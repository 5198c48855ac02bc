"""Cases for wrong behaviour of clients: long lines, random bytes, floods, broken connections.

They test protocol section 1, and protocol section 5.2 for the empty line. After each case, the server must still
answer a new client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from discosbackend.framing import LONGEST_LINE
from discosbackend.grammar import FAIL, INVALID, OK
from discosbackend.testing.case_context import CaseContext, request_line
from discosbackend.testing.cases import CaseFunction, Cases
from discosbackend.testing.send_guard import Scope
from discosbackend.testing.wire import Wire

__all__ = ["HOSTILE_CASES"]

__unittest = True
__tracebackhide__ = True

HOSTILE_CASES = Cases()

# The seed of the random bytes, which are the same in every run.
_SEED = 4

# How many lines, clients and requests the cases use, and how many if the number of lines is limited.
_NOISY_LINES, _EMPTY_LINES, _CLIENTS = 300, 1000, 50
_UNREAD, _LOOKS = 30000, 100
_FEW = 10

# The reply to this request is so long that _UNREAD replies fill all buffers between the server and the client.
_UNKNOWN = 64 * "x"


def _case(case_id: str, section: str, requirement: str) -> Callable[[CaseFunction], CaseFunction]:
    """Do the same as Cases.case, and then check that the server answers a new client."""

    def register(run: CaseFunction) -> CaseFunction:
        def survive(context: CaseContext) -> None:
            run(context)
            wire = context.connect()
            wire.send(request_line("version"))
            _wants(context, wire, "version", OK)

        return HOSTILE_CASES.case(case_id, section, requirement, Scope.FULL)(survive)

    return register


def _wants(context: CaseContext, wire: Wire, name: str, code: str) -> None:
    """Check the name and the code of the next reply."""
    reply = wire.read()
    wanted = f"!{name},{code}"
    context.that(
        (reply.message.name, reply.message.code) == (name, code),
        f"the reply must begin with {wanted}, unlike {reply.line!r}",
    )


def _number(context: CaseContext, many: int) -> int:
    return _FEW if context.sparing else many


# -- long lines -----------------------------------------------------------------------------------------


@_case(
    "hostile/longest-line",
    "1.7",
    "A line may have up to 16384 bytes; telnet negotiation counts, the line end does not.",
)
def _longest_line(context: CaseContext) -> None:
    context.wire.send(b"?no-such-command,".ljust(LONGEST_LINE, b"x") + b"\r\n")
    _wants(context, context.wire, "no-such-command", FAIL)


@_case(
    "hostile/line-too-long",
    "1.7",
    "A line of more than 16384 bytes gets one `invalid` reply and is skipped to its end, and the connection stays "
    "open.",
)
def _too_long(context: CaseContext) -> None:
    for beginning, name in ((b"?no-such-command,", "no-such-command"), (b"?", "undefined")):
        for length in (LONGEST_LINE + 1, 10 * LONGEST_LINE):
            context.wire.send(beginning.ljust(length, b"x") + b"\r\n")
            reply = context.wire.read()
            context.that(
                reply.message.code == INVALID, f"the reply must have the code `invalid`, unlike {reply.line!r}"
            )
            # A server that discards the line may have discarded its name, too.
            context.ideally(
                reply.message.name == name, f"the reply should begin with !{name},invalid, unlike {reply.line!r}"
            )
            context.fence(context.wire)


@_case("hostile/reply-too-long", "1.7", "A line of more than 16384 bytes that begins with `!` gets no reply.")
def _too_long_reply(context: CaseContext) -> None:
    context.wire.send(b"!status,ok,".ljust(2 * LONGEST_LINE, b"x") + b"\r\n")
    context.fence(context.wire)


# -- noise ----------------------------------------------------------------------------------------------


def _noise(lines: int) -> Iterator[bytes]:
    """Yield lines of random bytes without line ends. Every second line begins like a request."""
    random = Random(_SEED)
    for number in range(lines):
        # The server would remove telnet negotiation at the beginning of a line.
        noise = random.randbytes(random.randrange(60)).translate(None, b"\r\n").lstrip(b"\xff")
        yield number % 2 * b"?" + noise


@_case(
    "hostile/random-bytes",
    "1.8",
    "Every line gets exactly one reply, except a line that begins with `!` and a line that contains nothing but "
    "telnet negotiation.",
)
def _random_bytes(context: CaseContext) -> None:
    lines = list(_noise(_number(context, _NOISY_LINES)))
    context.wire.send(b"".join(line + b"\r\n" for line in lines))
    for line in lines:
        if line[:1] != b"!":
            reply = context.wire.read()
            context.that(reply.message.code != OK, f"{line!r} was answered with {reply.line!r}")
    context.fence(context.wire)


@_case(
    "hostile/empty-lines",
    "5.2",
    "Any other line that is not a message, the empty line included, is answered with `!undefined,invalid,syntax "
    "error: <reason>`.",
)
def _empty_lines(context: CaseContext) -> None:
    number = _number(context, _EMPTY_LINES)
    context.wire.send(number * b"\r\n")
    for _ in range(number):
        _wants(context, context.wire, "undefined", INVALID)


# -- connections ----------------------------------------------------------------------------------------


@_case("hostile/half-a-line-and-gone", "1.9", "Bytes after the last line end are not a request.")
def _half_a_line_and_gone(context: CaseContext) -> None:
    for hang_up in (Wire.close, Wire.reset):
        for said in (b"?vers", b"?status\r\n?vers"):
            wire = context.connect()
            wire.send(said)
            hang_up(wire)


@_case("hostile/many-connections", "1.1", "A server accepts any number of connections at once.")
def _many_connections(context: CaseContext) -> None:
    wires = [context.connect() for _ in range(_number(context, _CLIENTS))]
    for wire in wires:
        wire.send(request_line("version"))
    for wire in reversed(wires):
        _wants(context, wire, "version", OK)


@_case("hostile/client-that-does-not-read", "1.1", "A client that does not read its replies delays no other client.")
def _does_not_read(context: CaseContext) -> None:
    lazy = context.connect()
    lazy.send_what_fits(_number(context, _UNREAD) * request_line(_UNKNOWN))
    # The server needs some time to fill the buffers.
    for _ in range(_number(context, _LOOKS)):
        context.status()
        context.wait()
    for _ in range(_FEW):
        _wants(context, lazy, _UNKNOWN, FAIL)
