"""Lines that clients send, each with the one reply that the protocol gives it: sensible ones and garbage.

A tag, new for every line, is in the line and in its reply wherever the protocol allows it, so that no reply
can be taken for another's. The replies are written down from the protocol, not made with the library's code.
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
    """A line with its end, and the form (see verdict) of its reply; None for a line that gets no reply."""

    line: bytes
    answer: bytes | None


def _unknown(tag: bytes, arguments: bytes = b"", end: bytes = b"\r\n") -> TaggedRequest:
    answer = b"!nope-%b,fail,invalid command 'nope-%b'\r\n" % (tag, tag)
    return TaggedRequest(b"?nope-%b%b%b" % (tag, arguments, end), answer)


def _ended(line: bytes, answer: bytes | None, rng: Random) -> TaggedRequest:
    return TaggedRequest(line + rng.choice(_ENDS), answer)


# -- sensible ones ------------------------------------------------------------------------------------

_PLAIN = (
    TaggedRequest(b"?time\r\n", b"!time,ok,*"),
    TaggedRequest(b"?status\r\n", b"!status,ok,*"),
    TaggedRequest(b"?version\r\n", b"!version,ok,1.4\r\n"),
    TaggedRequest(b"?get-integration\r\n", b"!get-integration,fail,not supported by this backend\r\n"),
    TaggedRequest(b"?time,1\r\n", b"!time,fail,time needs no arguments\r\n"),
    TaggedRequest(b"?set-section,1\r\n", b"!set-section,fail,set-section needs 7 arguments\r\n"),
)


# What stands behind a configuration's name, and how it comes back in the refusal.
_ECHOED = ((b"", b""), (rb"\,\\", rb"\,\\"), (rb"\t", rb"\t"), (b"\t", rb"\t"), (b"\xe9", b"\xe9"))


def reading(rng: Random, tag: bytes) -> TaggedRequest:
    """A line that waits for nobody's command: every second one is answered with its own tag."""
    return _unknown(tag) if rng.random() < 0.5 else rng.choice(_PLAIN)


def lengthy(rng: Random, tag: bytes) -> TaggedRequest:
    """What reading() gives, but most replies are three times as long."""
    if rng.random() < 0.2:
        return reading(rng, tag)
    return _unknown(tag.ljust(_LONGEST_NAME - len("nope-"), b"-"))


def device(rng: Random, tag: bytes) -> TaggedRequest:
    """A line that waits for its turn at the device, and for a dawdle there."""
    kind = rng.randrange(6)
    if kind == 0:
        return TaggedRequest(b"?dawdle,0.001\r\n", b"!dawdle,ok\r\n")
    if kind == 1:
        # A time before 1970 never is one that could be armed.
        text = b"-1" + tag.replace(b"-", b"")
        return TaggedRequest(b"?start,%b\r\n" % text, b"!start,fail,wrong timestamp '%b'\r\n" % text)
    sent, back = rng.choice(_ECHOED)
    return TaggedRequest(
        b"?set-configuration,%b%b\r\n" % (tag, sent),
        b"!set-configuration,fail,no configuration %b%b\r\n" % (tag, back),
    )


# -- garbage ------------------------------------------------------------------------------------------

# What may stand behind `?bad-TAG` so that the line does not parse, but names a command.
_BAD_ARGUMENTS = (b",", b",,", b",a,,b", b",a\\", b",\\x", b",a\0b", b",\x1b", b",a\rb", b",\xff\0\xff")
# Without a name that the reply could have.
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
    # An LF directly after the CR NUL of the line before would belong to that.
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
    """A line just short enough, a byte too long, or much too long; with telnet's bytes too, which count."""
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
    """A line of which nobody knows what it was meant for, or a good one that looks odd."""
    return rng.choice(_GARBAGE)(rng, tag)
