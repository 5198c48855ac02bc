"""Tests of framing: where a line ends, whatever the chunks were (protocol sections 1.3 to 1.7)."""

from __future__ import annotations

import pickle
import time
import unittest
from collections.abc import Iterable, Iterator, Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from discosbackend import framing
from discosbackend.errors import GrammarException
from discosbackend.framing import (
    LONGEST_LINE,
    Kind,
    Line,
    LineSplitter,
    LongLine,
    is_http,
    is_tls,
    read_line,
    without_telnet,
)
from discosbackend.grammar import parse_message

from .settings import LONG

LONGEST = 16384
ENDS = (b"\n", b"\r\n", b"\r\0", b"\r\0\n")

# A stream and the lines in it; what stands behind the last end is no line.
STREAMS: tuple[tuple[bytes, list[bytes]], ...] = (
    (b"", []),
    (b"?status\r\n", [b"?status"]),
    (b"?status\n", [b"?status"]),
    (b"?status\r\0", [b"?status"]),
    (b"?status\r\0\n", [b"?status"]),
    (b"?status", []),
    (b"?status\r", []),
    (b"?status\0", []),
    (b"\n", [b""]),
    (b"\r\n", [b""]),
    (b"\r\0", [b""]),
    (b"\r\0\n", [b""]),
    (b"\n\n", [b"", b""]),
    (b"\r\n\r\n", [b"", b""]),
    (b"\r\0\r\0", [b"", b""]),
    (b"\r\0\n\n", [b"", b""]),
    (b"\r\0\r\n", [b"", b""]),
    (b"\r\0\n\r\0\n", [b"", b""]),
    # One CR before the LF is removed, the others stay.
    (b"a\r\r\n", [b"a\r"]),
    (b"a\r\r\0", [b"a\r"]),
    (b"a\r\r\0\n", [b"a\r"]),
    (b"\r\r\r\n", [b"\r\r"]),
    (b"a\rb\n", [b"a\rb"]),
    (b"a\r", []),
    (b"a\n\r", [b"a"]),
    (b"a\n\rb\n", [b"a", b"\rb"]),
    # A NUL is an end only behind a CR.
    (b"a\0b\n", [b"a\0b"]),
    (b"a\0\n", [b"a\0"]),
    (b"a\0\r\n", [b"a\0"]),
    (b"\0\n", [b"\0"]),
    (b"a\r\0\0\n", [b"a", b"\0"]),
    (b"a\r\r\0\0\r\0b\n", [b"a\r", b"\0", b"b"]),
    # Only an LF directly behind CR NUL belongs to it.
    (b"a\r\0b\n", [b"a", b"b"]),
    (b"a\r\0 \n", [b"a", b" "]),
    (b"a\r\0\nb\r\0\nc\n", [b"a", b"b", b"c"]),
    (b"?convert-data\r\n\r\nquit\r\n", [b"?convert-data", b"", b"quit"]),
    # Every other byte is a character.
    (b"\xff\x80\xe9\x1b\t\n", [b"\xff\x80\xe9\x1b\t"]),
    (bytes(range(14, 256)) + b"\n", [bytes(range(14, 256))]),
    (b"\x0b\x0c\x1c\x1d\x1e\x85\n", [b"\x0b\x0c\x1c\x1d\x1e\x85"]),
)

TELNET: tuple[tuple[bytes, bytes], ...] = (
    (b"", b""),
    (b"?status", b"?status"),
    (b"\xff\xfb\x01", b""),
    (b"\xff\xfb\x01?a", b"?a"),
    (b"\xff\xfc\x00?a", b"?a"),
    (b"\xff\xfd\xff?a", b"?a"),
    (b"\xff\xfe\xfe?a", b"?a"),
    (b"\xff\xfd\x03\xff\xfb\x18\xff\xfc\x1f?a", b"?a"),
    (b"\xff\xfd?\xff\xfb!?a", b"?a"),
    (b"\xff\xf0?a", b"?a"),
    (b"\xff\xf1\xff\xf2\xff\xf3\xff\xf4\xff\xf5\xff\xf6\xff\xf7\xff\xf8\xff\xf9?a", b"?a"),
    (b"\xff\xf4\xff\xfd\x06", b""),
    (b"\xff\xfb\x01!a,ok", b"!a,ok"),
    # Only at the start of the line.
    (b"?a\xff\xfb\x01", b"?a\xff\xfb\x01"),
    (b"\xff\xfb\x01?\xff\xf1", b"?\xff\xf1"),
    # Other telnet forms stay, and are a syntax error.
    (b"\xff", b"\xff"),
    (b"\xff\xfb", b"\xff\xfb"),
    (b"\xff\xff?a", b"\xff\xff?a"),
    (b"\xff\xfa\x18\x01\xff\xf0?a", b"\xff\xfa\x18\x01\xff\xf0?a"),
    (b"\xff\xef?a", b"\xff\xef?a"),
    (b"\xff\xf1\xff\xfa", b"\xff\xfa"),
    (b"\xff\xf1\xff", b"\xff"),
    (b"\xff\xfb\x01\xff\xfd", b"\xff\xfd"),
    (b"\xff?a", b"\xff?a"),
    (b" \xff\xf1", b" \xff\xf1"),
)

# Dense in line ends and their halves.
streams = st.lists(
    st.sampled_from([b"\r", b"\n", b"\0", b"\r\n", b"\r\0", b"\r\0\n", b"a", b"?b,c", b"\xff", b"xyzxyz"]),
    max_size=30,
).map(b"".join)
cuts = st.lists(st.integers(0, 60), max_size=12)


def lines_of(stream: bytes, longest: int = LONGEST) -> list[bytes]:
    """The lines, byte by byte; of one that is too long its beginning and its last bytes, as a LongLine."""
    lines: list[bytes] = []
    line = bytearray()
    lately_nul = False
    for byte in stream:
        belongs, lately_nul = lately_nul and byte == 0x0A, False
        if belongs:
            continue
        if byte == 0x0A:
            if line[-1:] == b"\r":
                del line[-1]
        elif byte == 0x00 and line[-1:] == b"\r":
            del line[-1]
            lately_nul = True
        else:
            line.append(byte)
            continue
        lines.append(bytes(line) if len(line) <= longest else LongLine.of(bytes(line[:longest]), bytes(line)))
        line.clear()
    return lines


def without_telnet_slowly(line: bytes) -> bytes:
    """Two or three bytes at a time."""
    while len(line) >= 2 and line[0] == 255:
        if 240 <= line[1] <= 249:
            line = line[2:]
        elif 251 <= line[1] <= 254 and len(line) >= 3:
            line = line[3:]
        else:
            break
    return line


def pieces(stream: bytes, at: Iterable[int]) -> Iterator[bytes]:
    """The stream cut at these places; a piece may be empty."""
    places = [0, *sorted(min(place, len(stream)) for place in at), len(stream)]
    for begin, end in zip(places, places[1:], strict=False):
        yield stream[begin:end]


def fed(chunks: Iterable[bytes], longest: int = LONGEST) -> list[bytes]:
    """What a new splitter makes of these chunks."""
    splitter = LineSplitter(longest)
    return [line for chunk in chunks for line in splitter.feed(chunk)]


def kinds(lines: list[bytes]) -> list[tuple[bytes | None, bytes]]:
    """Lines for comparison, each with the last bytes of a LongLine, which is not equal to a line of the same bytes."""
    return [(line.tail if isinstance(line, LongLine) else None, bytes(line)) for line in lines]


class LineSplitterTests(unittest.TestCase):
    """Lines of ordinary length."""

    def test_streams(self) -> None:
        """Each whole, byte by byte, in every two pieces, and with the next line behind it."""
        for stream, lines in STREAMS:
            with self.subTest(stream):
                self.assertEqual(lines_of(stream), lines, "the oracle itself")
                self.assertEqual(fed([stream]), lines)
                self.assertEqual(fed(pieces(stream, range(len(stream)))), lines)
                for at in range(len(stream) + 1):
                    self.assertEqual(fed(pieces(stream, [at])), lines, at)
                    self.assertEqual(fed(pieces(stream, [at, at, at])), lines, at)
                for end in ENDS:
                    behind = stream + b"?x" + end
                    self.assertEqual(fed([behind]), lines_of(behind))
                    self.assertEqual(fed([stream, b"?x" + end]), lines_of(behind))

    def test_a_line_comes_as_soon_as_it_has_ended(self) -> None:
        """A client waits for its reply: CR NUL must not wait for the LF that may follow."""
        for end in (b"\n", b"\r\n", b"\r\0"):
            with self.subTest(end):
                splitter = LineSplitter()
                self.assertEqual(splitter.feed(b"?sta"), [])
                self.assertEqual(splitter.feed(b"tus" + end), [b"?status"])
                self.assertEqual(splitter.feed(b""), [])

    def test_lines_are_bytes(self) -> None:
        for line in fed([b"a\r\nb\r\0c\n", b"d\n"]):
            self.assertIs(type(line), bytes)

    def test_lf_of_cr_nul_in_another_chunk(self) -> None:
        for between in ([], [b""], [b"", b""]):
            with self.subTest(between):
                self.assertEqual(fed([b"a\r", b"\0", *between, b"\nb\n"]), [b"a", b"b"])
                self.assertEqual(fed([b"a\r\0", *between, b"\n", b"\n"]), [b"a", b""])
                self.assertEqual(fed([b"a\r\0", *between, b"b", b"\n"]), [b"a", b"b"])

    @given(streams, cuts)
    @example(b"a\r\0\n\n", [2, 3])
    @example(b"\r\0\r\0\n", [2, 3])
    def test_any_stream_in_any_chunks(self, stream: bytes, at: list[int]) -> None:
        self.assertEqual(kinds(fed(pieces(stream, at))), kinds(lines_of(stream)))
        self.assertEqual(kinds(fed([stream])), kinds(lines_of(stream)))
        self.assertEqual(kinds(fed(pieces(stream, range(len(stream))))), kinds(lines_of(stream)))

    @given(st.binary(), cuts)
    def test_any_bytes_in_any_chunks(self, stream: bytes, at: list[int]) -> None:
        self.assertEqual(kinds(fed(pieces(stream, at))), kinds(lines_of(stream)))


class BareReturnTests(unittest.TestCase):
    """A CR that neither LF nor NUL follows, in a line that has not ended (protocol section 1.3)."""

    def check(self, stream: bytes, bare: bool, open_return: bool) -> None:
        """However it is cut. What comes long before the limit comes at once, but with --long."""
        begin = 0 if LONG or len(stream) < LONGEST else LONGEST - 100
        for at in ([], range(begin, len(stream)), [len(stream) // 2], [len(stream) - 1]):
            splitter = LineSplitter()
            for chunk in pieces(stream, at):
                splitter.feed(chunk)
            with self.subTest(stream[:20], at=list(at)[:5]):
                if not at:
                    self.assertEqual(splitter.bare_cr, bare)
                else:
                    # Cut, it may have been seen before the line ended.
                    self.assertGreaterEqual(splitter.bare_cr, bare)
                self.assertEqual(splitter.rest.endswith(b"\r"), open_return)

    def test_streams(self) -> None:
        for stream, bare, open_return in (
            (b"", False, False),
            (b"?status\r\n", False, False),
            (b"?status\r\0", False, False),
            (b"?status\r\n?sta", False, False),
            (b"?status\r", False, True),
            (b"?time\n?status\r", False, True),
            (b"?status\r?time\r", True, True),
            (b"?status\rx", True, False),
            (b"\r\r", True, True),
            # It ended after all, and its reply says what was wrong.
            (b"?status\rx\r\n", False, False),
            (b"?status\r?time\r" * 1200, True, True),
            (b"x" * LONGEST + b"yy\r", False, True),
            (b"x" * LONGEST + b"yy\rz", True, False),
        ):
            self.check(stream, bare, open_return)

    def test_cut_at_the_return(self) -> None:
        for end in (b"\n", b"\0"):
            splitter = LineSplitter()
            self.assertEqual(splitter.feed(b"?status\r"), [])
            self.assertEqual(splitter.feed(end), [b"?status"])
            self.assertFalse(splitter.bare_cr)


class LongLineTests(unittest.TestCase):
    """At most 16384 bytes, the line's end not counted."""

    def test_longest(self) -> None:
        self.assertEqual(LONGEST_LINE, LONGEST)
        self.assertTrue(issubclass(LongLine, bytes))

    def test_at_the_limit(self) -> None:
        for length in (LONGEST - 1, LONGEST, LONGEST + 1, 3 * LONGEST):
            for fill in (b"x", b"\r", b"\0", b"\xff"):
                for end in ENDS:
                    line = b"?" + fill * (length - 2) + b"x"
                    stream = b"?a\n" + line + end + b"?b\n"
                    near = [len(stream) - back for back in range(2, 9)]
                    limit = range(LONGEST + 2, LONGEST + 6)
                    ways: dict[str, list[bytes]] = {
                        "whole": [stream],
                        "halves": list(pieces(stream, [len(stream) // 2])),
                        "cut around the end": list(pieces(stream, near)),
                        "cut at the limit": list(pieces(stream, limit)),
                        "kilobytes": list(pieces(stream, range(1000, len(stream), 1000))),
                    }
                    expected = [b"?a", line if length <= LONGEST else LongLine.of(line[:LONGEST], line), b"?b"]
                    for name, chunks in ways.items():
                        with self.subTest(name, length=length, fill=fill, end=end):
                            # Compared as bool: nobody wants to see the difference of 16 KiB.
                            self.assertTrue(kinds(fed(chunks)) == kinds(expected))

    def test_at_the_limit_byte_by_byte(self) -> None:
        for length in (LONGEST, LONGEST + 1):
            for end in (b"\n", b"\r\n", b"\r\0"):
                with self.subTest(length, end=end):
                    splitter = LineSplitter()
                    # What comes long before the limit comes at once, but with --long.
                    first = 0 if LONG else length - 1000
                    early = splitter.feed(b"x" * first)
                    early += [line for _ in range(length - first) for line in splitter.feed(b"x")]
                    self.assertEqual(early, [])
                    lines = [line for byte in end for line in splitter.feed(bytes([byte]))]
                    self.assertEqual(
                        [(type(line), len(line)) for line in lines],
                        [(LongLine if length > LONGEST else bytes, LONGEST)],
                    )
                    self.assertEqual(splitter.feed(b"?a\n"), [b"?a"])

    def test_one_long_line_after_another(self) -> None:
        stream = b"".join(bytes([97 + n]) * (LONGEST + n) + ENDS[n % 4] for n in range(5))
        for chunks in ([stream], list(pieces(stream, range(0, len(stream), 4096)))):
            lines = fed(chunks)
            self.assertEqual([type(line) for line in lines], [bytes] + [LongLine] * 4)
            self.assertEqual([bytes(line[:1]) for line in lines], [b"a", b"b", b"c", b"d", b"e"])

    def test_only_a_line_that_ends_is_reported(self) -> None:
        """One reply a line: not one as soon as the line is too long and one more at its end."""
        splitter = LineSplitter()
        for _ in range(5):
            self.assertEqual(splitter.feed(b"x" * LONGEST), [])
        lines = splitter.feed(b"x\r\n?a\n")
        self.assertEqual(kinds(lines), [(b"x" * 64, b"x" * LONGEST), (None, b"?a")])

    def test_memory_is_bounded(self) -> None:
        many = 65536
        for chunk in (b"x" * many, b"x" * many + b"\r", b"\0" * many, b"\r" * many, b"x" * many + b"\n?"):
            with self.subTest(chunk[-2:]):
                splitter = LineSplitter()
                for _ in range(20):
                    splitter.feed(chunk)
                    self.assertLess(len(pickle.dumps(splitter, protocol=5)), 2 * LONGEST + 1000)

    @given(streams, cuts, st.integers(1, 8))
    @example(b"xyzxyz\r\0\nxyzxyz\r\n", [6, 7, 8, 9], 6)
    @example(b"xyzxyz\r\r\n", [6, 7, 8], 6)
    @example(b"xyzxyz\r\ra\n", [7, 8], 6)
    def test_any_stream_with_a_small_limit(self, stream: bytes, at: list[int], longest: int) -> None:
        """The rules do not depend on the number, and a small one is met more often."""
        expected = kinds(lines_of(stream, longest))
        for chunks in (pieces(stream, at), [stream], pieces(stream, range(len(stream)))):
            self.assertEqual(kinds(fed(chunks, longest)), expected)


class ReadLineTests(unittest.TestCase):
    """What a line is."""

    @given(st.binary(max_size=80) | st.text("?!a1-,\\t \n", max_size=12).map(lambda text: text.encode()))
    @example(b"?status\r\n")
    @example(b"!status,ok")
    @example(b"")
    def test_a_request_is_what_the_grammar_takes_for_one(self, line: bytes) -> None:
        read = read_line(line)
        text = line.decode("latin-1")
        try:
            message = None if text.endswith("\r\n") else parse_message(text)
        except GrammarException:
            message = None
        if message is not None and message.is_request():
            success = b"!%s,ok" % message.name.encode()
            self.assertEqual(read, Line(Kind.REQUEST, message.name, tuple(message.arguments), success=success))
        else:
            self.assertIs(read.kind, Kind.NOT_A_REQUEST if line[:1] == b"!" else Kind.INVALID)
            self.assertTrue(read.problem)

    def test_others(self) -> None:
        for line, kind, name, problem, language in (
            (b"?status,", Kind.INVALID, "status", "argument 1 is empty", ""),
            (b"GET / HTTP/1.1", Kind.INVALID, "", "line begins with 'G' where ? is needed", "an HTTP request"),
            (b"\x16\x03\x01\x02\x00\x01", Kind.INVALID, "", "line begins with byte 0x16", "a TLS handshake"),
            (LongLine(b"?status,1"), Kind.INVALID, "status", "line longer than 16384 bytes", ""),
            (LongLine.of(b"GET /", b" HTTP/1.1"), Kind.INVALID, "", "line longer than", "an HTTP request"),
            (LongLine(b"!status,ok"), Kind.NOT_A_REQUEST, "", "", ""),
        ):
            with self.subTest(line):
                read = read_line(line)
                self.assertEqual((read.kind, read.name, read.language), (kind, name, language))
                self.assertIn(problem, read.problem)

    def test_short_lines_are_remembered_and_long_ones_are_not(self) -> None:
        """What a peer can make as long and as many as it likes must not stay in memory."""
        for line in (b"?status", b"?x," + b"1" * 61, b"?x," + b"1" * 62, b"?" + b"x" * 16000):
            with self.subTest(len(line)):
                self.assertEqual(read_line(line) is read_line(bytes(bytearray(line))), len(line) <= 64)
        for number in range(2000):
            read_line(b"?x,%d" % number)
        self.assertLessEqual(len(framing._lines), 256)
        # A LongLine equals a line with the same bytes, but is another thing.
        self.assertIs(read_line(b"?a").kind, Kind.REQUEST)
        self.assertIs(read_line(LongLine(b"?a")).kind, Kind.INVALID)


class TlsTests(unittest.TestCase):
    """Protocol section 1.10: a TLS ClientHello, whose session ticket a web server can choose."""

    def test_lines(self) -> None:
        hello = b"\x16\x03\x01\x02\x00\x01"
        # Its length may contain the byte of a line end.
        versions = [b"\x16\x03" + bytes([minor]) + hello[3:] for minor in range(5)]
        for line in (*versions, *(hello[:count] for count in (3, 4, 5)), LongLine(hello + b"a" * LONGEST)):
            with self.subTest(line[:10]):
                self.assertTrue(is_tls(line))
        for line in (
            *(b"", b"\x16", b"\x16\x03", b"\x16\x02\x01", b"\x15\x03\x01", b"\x16\x03\x05", b"?" + hello, b"?status"),
            hello[:-1] + b"\x02",
        ):
            with self.subTest(line):
                self.assertFalse(is_tls(line))


class HttpTests(unittest.TestCase):
    """Protocol section 1.10: a line that a browser sends first."""

    REQUESTS = (
        b"POST / HTTP/1.1",
        b"GET /?start HTTP/1.0",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT 127.0.0.1:8978 HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"get http://127.0.0.1:8978/ HTTP/3",
        b"GET /a b HTTP/1.1",
        b"GET /\xe9 HTTP/1.1 and more",
    )
    OTHERS = (
        b"M-SEARCH * HTTP/1.1",
        b"",
        b"GET",
        b"GET /",
        b"GET / HTTP/",
        b"GET / HTTP/x",
        b"GET / http/1.1",
        b"GET HTTP/1.1",
        b"GET  HTTP/1.1",
        b"?set-filename,GET / HTTP/1.1",
        b"!x,ok,GET / HTTP/1.1",
        b" GET / HTTP/1.1",
        b"/ HTTP/1.1",
        b"HTTP/1.1 200 OK",
        b"Host: 127.0.0.1",
        b"quit",
    )

    def test_lines(self) -> None:
        for line in self.REQUESTS:
            with self.subTest(line):
                self.assertTrue(is_http(line))
        for line in self.OTHERS:
            with self.subTest(line):
                self.assertFalse(is_http(line))

    def test_long_ones(self) -> None:
        """A page chooses the target, and so the length."""
        for target in (b"/" + b"a" * LONGEST, b"/" + b"a" * 3 * LONGEST, b"/" + b"a b" * 3 * LONGEST):
            for end in (b" HTTP/1.1", b" HTTP/1.1 "):
                starts = ((b"POST ", True), (b"?a,", False), (b"POST", False), (b"\xff\xfb\x01POST ", True))
                for start, wanted in starts:
                    stream = start + target + end + b"\r\n?b\r\n"
                    places: tuple[Sequence[int], ...] = (
                        (),
                        range(0, len(stream), 1000),
                        range(len(stream) - 20, len(stream)),
                    )
                    for at in places:
                        with self.subTest(start, end=end, length=len(stream), at=str(at)):
                            line, rest = fed(pieces(stream, at))
                            self.assertIsInstance(line, LongLine)
                            self.assertEqual(is_http(without_telnet(line)), wanted)
                            self.assertFalse(is_http(rest))

    def test_long_ones_of_others(self) -> None:
        for line in (b"POST " + b"a" * LONGEST, b"POST /" + b" HTTP/1.1" + b"a" * LONGEST + b"HTTP/1", b"a" * 20000):
            (found,) = fed([line + b"\n"])
            self.assertFalse(is_http(found) and b" HTTP/1" not in line[-64:], line[-20:])
        # One long line leaves nothing behind for the next one.
        first, second = fed([b"x" * LONGEST + b" HTTP/1.1\nPOST " + b"y" * LONGEST + b"\n"])
        self.assertEqual((is_http(first), is_http(second)), (False, False))
        splitter = LineSplitter()
        splitter.feed(b"x" * 20000 + b" HTTP/1.1")
        splitter.feed(b"\nPOST " + b"y" * 20000)
        (second,) = splitter.feed(b"\n")
        self.assertFalse(is_http(second))

    def test_no_line_takes_long_to_judge(self) -> None:
        began = time.process_time()
        for line in (b"a" * LONGEST, b"a " + b" HTTP/" * (LONGEST // 6), b"a b" + b" " * (LONGEST - 3)):
            self.assertFalse(is_http(line[:LONGEST]))
        self.assertLess(time.process_time() - began, 0.5)


class TelnetTests(unittest.TestCase):
    """Negotiation at the start of a line."""

    def test_without_telnet(self) -> None:
        for line, rest in TELNET:
            with self.subTest(line):
                self.assertEqual(without_telnet_slowly(line), rest, "the oracle itself")
                self.assertEqual(without_telnet(line), rest)
                self.assertIs(type(without_telnet(line)), bytes)

    def test_a_long_line_stays_one(self) -> None:
        for line, rest in TELNET:
            with self.subTest(line):
                self.assertEqual(without_telnet(LongLine(line)), rest)
                self.assertIs(type(without_telnet(LongLine(line))), LongLine)

    def test_negotiation_counts(self) -> None:
        """Protocol section 1.7: "up to 16384 bytes, not counting its line end but counting telnet negotiation"."""
        (line,) = fed([b"\xff\xfb\x01" + b"x" * (LONGEST - 3) + b"\n"])
        self.assertIs(type(line), bytes)
        (line,) = fed([b"\xff\xfb\x01" + b"x" * (LONGEST - 2) + b"\n"])
        self.assertIs(type(line), LongLine)

    def test_the_line_ends_first(self) -> None:
        """A negotiation that contains an LF or CR NUL is cut there, and is no whole one then."""
        self.assertEqual(list(map(without_telnet, fed([b"\xff\xfb\n?a\n"]))), [b"\xff\xfb", b"?a"])
        self.assertEqual(list(map(without_telnet, fed([b"\xff\xfb\r\0?a\n"]))), [b"\xff\xfb", b"?a"])
        self.assertEqual(list(map(without_telnet, fed([b"\xff\xfb\0?a\n"]))), [b"?a"])

    @given(st.lists(st.sampled_from([255, 255, 239, 240, 249, 250, 251, 254, 0, 1, 63, 97])).map(bytes))
    def test_any_line(self, line: bytes) -> None:
        self.assertEqual(without_telnet(line), without_telnet_slowly(line))


class InLineTests(unittest.TestCase):
    def test_whether_a_line_has_begun(self) -> None:
        splitter = LineSplitter(10)
        for data, wanted in (
            (b"", False),
            (b"?", True),
            (b"time\r", True),
            (b"\n", False),
            (b"x" * 11, True),
            (b"x", True),
            (b"\r\n", False),
            (b"?\0", True),
            (b"\r\0", False),
            (b"\n", False),
        ):
            splitter.feed(data)
            self.assertEqual(splitter.in_line, wanted, data)


if __name__ == "__main__":
    unittest.main()
