"""Makes lines that clients send, valid and invalid ones, each with the reply that the protocol requires.

Every line has a new tag, which its reply contains if the protocol permits it, so that replies cannot be confused. The
replies are taken from the protocol, not made with the code of the library.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

__all__ = ["TaggedRequest", "device", "garbage", "lengthy", "reading"]

_LONGEST_LINE = 16384
_LONGEST_NAME = 64
_ENDS = (b"\r\n", b"\n", b"\r\0", b"\r\0\n")
_ANY = bytes(range(256)).translate(None, b"\r\n")
_NO_TYPE = _ANY.translate(None, b"?!\xff")
_UNDEFINED = b"!undefined,invalid,*"


class TaggedRequest(NamedTuple):
    """A line with its end, and its reply as reply_check.form() returns it; None for a line without a reply."""

    line: bytes
    answer: bytes | None


def _unknown(tag: bytes, arguments: bytes = b"", end: bytes = b"\r\n") -> TaggedRequest:
    answer = b"!nope-%b,fail,invalid command 'nope-%b'\r\n" % (tag, tag)
    return TaggedRequest(b"?nope-%b%b%b" % (tag, arguments, end), answer)


def _ended(line: bytes, answer: bytes | None, rng: Random) -> TaggedRequest:
    return TaggedRequest(line + rng.choice(_ENDS), answer)


# -- valid lines --------------------------------------------------------------------------------------

_PLAIN = (
    TaggedRequest(b"?time\r\n", b"!time,ok,*"),
    TaggedRequest(b"?status\r\n", b"!status,ok,*"),
    TaggedRequest(b"?version\r\n", b"!version,ok,1.4\r\n"),
    TaggedRequest(b"?get-integration\r\n", b"!get-integration,fail,not supported by this backend\r\n"),
    TaggedRequest(b"?time,1\r\n", b"!time,fail,time needs no arguments\r\n"),
    TaggedRequest(b"?set-section,1\r\n", b"!set-section,fail,set-section needs 7 arguments\r\n"),
)


# Text appended to the name of a configuration, and how the reply contains it.
_ECHOED = ((b"", b""), (rb"\,\\", rb"\,\\"), (rb"\t", rb"\t"), (b"\t", rb"\t"), (b"\xe9", b"\xe9"))


def reading(rng: Random, tag: bytes) -> TaggedRequest:
    """Make a line that does not wait for other commands. Every second one has its tag in the reply."""
    return _unknown(tag) if rng.random() < 0.5 else rng.choice(_PLAIN)


def lengthy(rng: Random, tag: bytes) -> TaggedRequest:
    """Make a line as reading() does, but most replies are three times as long."""
    if rng.random() < 0.2:
        return reading(rng, tag)
    return _unknown(tag.ljust(_LONGEST_NAME - len("nope-"), b"-"))


def device(rng: Random, tag: bytes) -> TaggedRequest:
    """Make a line in the device lane, which waits for other device commands, or which takes 1 ms."""
    kind = rng.randrange(6)
    if kind == 0:
        return TaggedRequest(b"?dawdle,0.001\r\n", b"!dawdle,ok\r\n")
    if kind == 1:
        # A time before 1970 is always refused.
        text = b"-1" + tag.replace(b"-", b"")
        return TaggedRequest(b"?start,%b\r\n" % text, b"!start,fail,wrong timestamp '%b'\r\n" % text)
    sent, back = rng.choice(_ECHOED)
    return TaggedRequest(
        b"?set-configuration,%b%b\r\n" % (tag, sent),
        b"!set-configuration,fail,no configuration %b%b\r\n" % (tag, back),
    )


# -- invalid lines ------------------------------------------------------------------------------------

# Text after `?bad-TAG` with which the line is invalid but has the name of a command.
_BAD_ARGUMENTS = (b",", b",,", b",a,,b", b",a\\", b",\\x", b",a\0b", b",\x1b", b",a\rb", b",\xff\0\xff")
# Lines without a name that the reply could contain.
_NAMELESS = (
    *(b"", b"?", b"?,1", b"?9", b"? status", b"?bad_name", b"?sta\0tus", b"?status\r", b" ?status"),
    b"?" + (_LONGEST_NAME + 1) * b"n",
    b"\xff\xff?status",
    b"\xff\xfa\x18\x01\xff\xf0?status",
)
_TELNET = (b"\xff\xfb\x01", b"\xff\xfd\x03\xff\xfc\x22", b"\xff\xf1", b"\xff\xf4\xff\xfd\x06")


def _bad(rng: Random, tag: bytes) -> TaggedRequest:
    return _ended(b"?bad-%b%b" % (tag, rng.choice(_BAD_ARGUMENTS)), b"!bad-%b,invalid,*" % tag, rng)


def _nameless(rng: Random, tag: bytes) -> TaggedRequest:
    line = rng.choice((*_NAMELESS, b"bad-" + tag))
    # Always CR LF: an LF directly after the CR NUL of the previous line would belong to that line.
    return TaggedRequest(line + b"\r\n", _UNDEFINED)


def _noise(rng: Random, _: bytes) -> TaggedRequest:
    line = bytes([rng.choice(_NO_TYPE), *rng.choices(_ANY, k=rng.randrange(200))])
    return _ended(line, _UNDEFINED, rng)


def _reply(rng: Random, tag: bytes) -> TaggedRequest:
    line = rng.choice((b"!nope-%b,ok" % tag, b"!", b"!a,invalid,?status", b"!" + 20000 * b"x", b"\xff\xf1!a"))
    return _ended(line, None, rng)


def _telnet(rng: Random, tag: bytes) -> TaggedRequest:
    negotiation = rng.choice(_TELNET)
    if rng.random() < 0.5:
        return _ended(negotiation, None, rng)
    request = _unknown(tag)
    return request._replace(line=negotiation + request.line)


def _long(rng: Random, tag: bytes) -> TaggedRequest:
    """Make a line of the largest length, one byte longer, or much longer. Telnet's bytes count too."""
    start = rng.choice((b"", *_TELNET)) + b"?nope-" + tag + b","
    much = rng.randrange(_LONGEST_LINE + 1, 5 * _LONGEST_LINE)
    length = rng.choice((_LONGEST_LINE, _LONGEST_LINE + 1, much))
    line = start.ljust(length, rng.choice((b"x", b"?", b"\xe9")))
    if length > _LONGEST_LINE:
        return _ended(line, b"!nope-%b,invalid,*" % tag, rng)
    return _ended(line, _unknown(tag).answer, rng)


def _oddly_ended(rng: Random, tag: bytes) -> TaggedRequest:
    return _unknown(tag, rng.choice((b"", b",a", b",\xff\xfb\x01", b",a\tb,\\\\")), rng.choice(_ENDS))


_GARBAGE: tuple[Callable[[Random, bytes], TaggedRequest], ...] = (
    *3 * (_bad, _nameless, _noise, _reply, _telnet, _oddly_ended),
    _long,
)


def garbage(rng: Random, tag: bytes) -> TaggedRequest:
    """Make an invalid line, or a valid one in an unusual form."""
    return rng.choice(_GARBAGE)(rng, tag)
