"""Replay: the steps of recordings and session files, when they are carried out, and what is said about differences."""

from __future__ import annotations

import json
import math
import tempfile
import unittest
from collections.abc import Callable, Iterable
from typing import Any

from discosbackend.commands import COMMANDS, Command, Field
from discosbackend.tap.compare import Comparison
from discosbackend.tap.recording_steps import recording_steps
from discosbackend.tap.replay import LostConnection, Replay
from discosbackend.tap.replay_file import read_script
from discosbackend.tap.session_steps import session_steps
from discosbackend.tap.steps import NEVER, Close, LeftOut, Open, ReplayError, Request, Script, Step, select
from discosbackend.ticks import Ticks

from .in_memory import quiet

HEADER = b'{"discos-recording": 1, "server": "x", "begin": "1000.0000000"}\n'


def setUpModule() -> None:
    quiet()


def line(time: float, connection: int, request: str = "", reply: str | None = None, **more: Any) -> bytes:
    """A line of a recording: an exchange, or with `event` the opening or closing of a connection."""
    fields: dict[str, Any] = {"t": f"{time:.7f}", "c": connection, "peer": "10.0.0.7:4711"}
    fields |= more if "event" in more else {"q": request, "a": reply, "s": 0.0, **more}
    return json.dumps(fields).encode("ascii") + b"\n"


def recorded(*lines: bytes, header: bytes = HEADER) -> Script:
    return recording_steps([header, *lines], Comparison())


def shown(steps: Iterable[Step]) -> list[tuple[Any, ...]]:
    """Steps as short tuples: the connection, the time, and the line that is sent."""
    kinds: dict[type[Step], str] = {Open: "open", Close: "close"}
    return [(step.connection, step.at, step.text if isinstance(step, Request) else kinds[type(step)]) for step in steps]


class FileTests(unittest.TestCase):
    """The steps of recordings, and the files that are none."""

    def refused(self, *lines: bytes, comparison: Comparison | None = None) -> str:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"".join(lines))
            file.flush()
            with self.assertRaises(ReplayError) as caught:
                read_script(file.name, comparison or Comparison())
            return str(caught.exception).replace(file.name, "FILE")

    def test_the_order_is_that_of_the_requests(self) -> None:
        """A line of a recording is written when its reply is sent."""
        script = recorded(
            line(10, 1, event="open"),
            line(11, 2, event="open"),
            line(13, 2, "?status", "!status,ok,1.0000000,ok,0"),
            line(12, 1, "?get-tpi", "!get-tpi,ok,1", s=2.5),
            line(15, 1, event="close"),
            line(16, 2, event="close"),
        )
        self.assertEqual(
            shown(script.steps),
            [
                *[(1, 0, "open"), (2, 1, "open"), (1, 2, "?get-tpi"), (2, 3, "?status")],
                *[(1, 5, "close"), (2, 6, "close")],
            ],
        )
        self.assertEqual([step.end for step in script.steps if isinstance(step, Request)], [4.5, 3])

    def test_runs_are_played_one_after_another(self) -> None:
        """Numbers of connections begin again; a repeated header, after a rotation, is the same run."""
        other = HEADER.replace(b"1000.", b"9000.")
        script = recorded(
            line(1001, 1, event="open"),
            line(1002, 1, "?time", "!time,ok,1.0000000"),
            HEADER,
            line(1004, 1, "?status", "!status,ok,1.0000000,ok,0"),
            other,
            line(9001, 1, event="open"),
            line(9002, 1, "?time", "!time,ok,1.0000000"),
        )
        self.assertEqual(
            shown(script.steps),
            [
                *[(1, 0, "open"), (1, 1, "?time"), (1, 3, "?status"), (1, 3, "close")],
                *[(2, 3, "open"), (2, 4, "?time"), (2, 4, "close")],
            ],
        )

    def test_a_connection_that_was_open_already(self) -> None:
        """As in a file that was begun by the rotation."""
        script = recorded(line(5, 7, "?time", "!time,ok,1.0000000"), line(6, 8, event="close"))
        self.assertEqual(shown(script.steps)[:4], [(1, 0, "open"), (1, 0, "?time"), (1, 1, "close"), (2, 1, "open")])

    def test_requests_after_the_end_of_their_connection(self) -> None:
        """The server carries them out, and nobody reads the replies."""
        script = recorded(
            line(1, 1, event="open"),
            line(2, 1, event="close"),
            line(2, 1, "?start", "!start,ok"),
            line(3, 1, "?convert-data", "!convert-data,ok", s=60),
        )
        self.assertEqual(
            shown(script.steps),
            [(1, 0, "open"), (1, 1, "?start"), (1, 1, "?convert-data"), (1, 1, "close")],
        )
        ends = [step.end for step in script.steps if isinstance(step, Request)]
        self.assertEqual(ends, [1, NEVER])

    def test_an_incomplete_last_line_is_ignored(self) -> None:
        whole = line(1, 1, "?time", "!time,ok,1.0000000")
        for rest in (whole[:20], b'{"t', whole[:-2], b"\0\0\0"):
            with self.subTest(rest):
                script = recorded(whole, rest)
                self.assertEqual(len(script.steps), 3)
                self.assertEqual(
                    script.notes, [] if rest == b"\0\0\0" else ["line 3, the last one, is incomplete and was ignored"]
                )
        self.assertEqual(len(recorded(whole, whole.rstrip()).steps), 4)

    def test_damaged_lines(self) -> None:
        whole = line(1, 1, "?time", "!time,ok,1.0000000")
        for damaged, problem in (
            (b"{\n", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
            (b"[]\n", "it is no JSON object"),
            (b"{}\n", "its t is not a time"),
            (whole.replace(b'"1.0000000", "c"', b'"x.y", "c"'), "not a timestamp: 'x.y'"),
            (whole.replace(b'"c": 1', b'"c": true'), "its c is not a number of a connection"),
            (whole.replace(b'"?time"', b"7"), "its q is not a line"),
            # It would be two requests, of which only the first one is checked.
            (whole.replace(b'"?time"', b'"?time\\n?start"'), "its q is not a line"),
            (whole.replace(b'"?time"', b'"?time\\u0100"'), "its q is not a line"),
            (whole.replace(b'"a"', b'"b"'), "its a is neither a line nor null"),
            (whole.replace(b"0.0}", b"-1}"), "its s is not a number of seconds"),
        ):
            with self.subTest(damaged):
                self.assertEqual(self.refused(HEADER, damaged, whole), f"FILE: line 2 is damaged: {problem}")

    def test_other_files(self) -> None:
        for text, problem in (
            (b"", "FILE is empty"),
            (b"\n\n", "FILE is empty"),
            (b"\x7fELF\x02", "FILE is neither a recording nor a session file: it begins with b'\\x7fELF\\x02'"),
            (b'{"a": 1}\n', "FILE: it is not a recording: its first line is not a header"),
            (b"{a\n", "FILE: it is not a recording: its first line is not a header"),
            (
                b'{"discos-recording": 2, "begin": "1.0000000"}\n',
                "FILE: it is a recording of version 2, and only version 1 can be replayed",
            ),
            (b"# A page\n\nText\n", "FILE: line 3 is no @connect, and there is none before it: 'Text'"),
            (b"@connect\n@connect\n", "FILE: line 2: @connect on an open connection, which needs @close first"),
            (b"@connect\n@reset\n", "FILE: line 2: unknown directive '@reset'"),
            (b"@wait soon\n", "FILE: line 1: 'soon' is no number of seconds"),
            (b"@connect\n?start -> no\n", "FILE: line 2: 'no' is not CODE, any, or ok PATTERN"),
            (
                b"@connect\n?time -> ok *\n",
                "FILE: line 2: the pattern is not a regular expression: nothing to repeat at position 0",
            ),
        ):
            with self.subTest(text):
                self.assertEqual(self.refused(text), problem)
        with self.assertRaisesRegex(ReplayError, r"/nonesuch cannot be read: No such file or directory"):
            read_script("/nonesuch", Comparison())

    def test_session_files(self) -> None:
        script = session_steps(["# c", "@connect", "?a,b -> fail", "@wait 1.5", "@send x", "@hangup", "@connect"])
        self.assertEqual(
            shown(script.steps),
            [
                *[(1, 0, "open"), (1, 0, "?a,b"), (1, 1.5, "x"), (1, 1.5, "close")],
                *[(2, 1.5, "open"), (2, 1.5, "close")],
            ],
        )


class ComparisonTests(unittest.TestCase):
    def test_by_the_table(self) -> None:
        own = {"look": Command("look", reply=(Field("offset", "float"), Field("power", "float", measured=True)))}
        for before, now, difference in (
            ("!status,ok,1.0000000,ok,0", "!status,ok,99.5000000,ok,0", ""),
            (
                "!status,ok,1.0000000,ok,0",
                "!status,ok,2,ok,1",
                "timestamp must be Unix seconds with seven decimals, not '2'; acquiring: 0 is recorded, 1 was received",
            ),
            # The recorded server does not write seven decimals either.
            ("!status,ok,1.5,ok,0", "!status,ok,2.5,ok,0", ""),
            (
                "!status,ok,1.5,ok,0",
                "!status,ok,soon,ok,0",
                "timestamp must be Unix seconds with seven decimals, not 'soon'",
            ),
            ("!get-ddcoffset,ok,0.1", "!get-ddcoffset,ok,0.10000000149", ""),
            ("!get-ddcoffset,ok,0.1", "!get-ddcoffset,ok,0.1001", "offset: 0.1 is recorded, 0.1001 was received"),
            ("!get-ddcoffset,ok,0.0", "!get-ddcoffset,ok,0", ""),
            ("!get-tpi,ok,1,2", "!get-tpi,ok,500.5,-1", ""),
            ("!get-tpi,ok,1,2", "!get-tpi,ok,1,2,3", "2 values are recorded, 3 values are received"),
            (
                "!get-tpi,ok,1,2",
                "!get-tpi,ok,1,nan",
                "value 2 must be a number in fixed point without exponent, not 'nan'",
            ),
            ("!stop,fail,not acquiring", "!stop,fail,nothing to stop", ""),
            ("!stop,fail,not acquiring", "!stop,fail", "the reason is missing"),
            ("!stop,fail,a", "!stop,invalid,a", "fail is recorded, invalid was received"),
            ("!look,ok,0.5,1", "!look,ok,0.5,2", ""),
            ("!look,ok,0.5,1", "!look,ok,0.6,2", "offset: 0.5 is recorded, 0.6 was received"),
            ("!own,ok,1", "!own,ok,1.0", "value 1: 1 is recorded, 1.0 was received"),
            ("!own,ok,a", "!own,ok,a", ""),
            ("nonsense", "!own,ok,a", "the recorded reply is not valid, and another one was received"),
            ("!own,ok,a", "own,ok", "the reply is not valid: line begins with 'o' where ? is needed"),
            ("!a,ok", "!b,ok", "the reply has another name"),
        ):
            with self.subTest(before, now=now):
                self.assertEqual(Comparison({**COMMANDS, **own}).difference(before, now), difference)

    def test_options(self) -> None:
        for options, before, now, is_same in (
            ({"tolerance": 0.1}, "!get-tpi,ok,100", "!get-tpi,ok,109.9", True),
            ({"tolerance": 0.1}, "!get-tpi,ok,100", "!get-tpi,ok,111", False),
            ({"tolerance": 0.1}, "!get-tpi,ok,-100", "!get-tpi,ok,-91", True),
            ({"tolerance": 0.0}, "!get-tpi,ok,100", "!get-tpi,ok,100.0", True),
            ({"tolerance": 0.1}, "!get-ddcoffset,ok,1", "!get-ddcoffset,ok,1.05", False),
            ({"reasons": True}, "!stop,fail,not acquiring", "!stop,fail,nothing", False),
            ({"reasons": True}, "!stop,fail,wrong timestamp '17'", "!stop,fail,wrong timestamp '1796'", True),
        ):
            with self.subTest(options, before=before, now=now):
                self.assertEqual(Comparison(**options).difference(before, now) == "", is_same)

    def test_form_only(self) -> None:
        for before, now, difference in (
            ("!get-integration,ok,40", "!get-integration,ok,10", ""),
            ("!get-integration,ok,40", "!get-integration,ok,ten", "integration must be a decimal integer, not 'ten'"),
            ("!get-filename,ok,/a", "!get-filename,fail,no file name was set", ""),
            ("!get-filename,fail,no file name was set", "!get-filename,ok,/a", ""),
            ("!get-filename,ok,/a", "!get-filename,invalid,x", "ok is recorded, invalid was received"),
            ("!get-tpi,ok,1,2", "!get-tpi,ok,1", ""),
            ("!status,ok,1.0000000,ok,0", "!status,ok,1.0000000,ok", "3 values are recorded, 2 values are received"),
        ):
            with self.subTest(before, now=now):
                self.assertEqual(Comparison().difference(before, now, form_only=True), difference)


class Server:
    """A Wire with a server that answers each line by a function, on a clock of its own."""

    def __init__(self, answer: Callable[[bytes], Any], greeting: bytes | None = b"!version,ok,1.4\r\n") -> None:
        self.time = 500.0
        self.answer = answer
        self.greeting = greeting
        self.sent: list[tuple[float, int, bytes]] = []
        self._coming: list[tuple[float, int, bytes]] = []

    def clock(self) -> float:
        return self.time

    def now(self) -> Ticks:
        return Ticks.from_unix(self.time)

    def connect(self, connection: int) -> None:
        if self.greeting:
            self._coming.append((self.time, connection, self.greeting))

    def send(self, connection: int, data: bytes) -> None:
        self.sent.append((self.time, connection, data))
        found = self.answer(data)
        delay, reply = found if isinstance(found, tuple) else (0.0, found)
        if reply is not None:
            self._coming.append((self.time + delay, connection, reply))

    def receive(self, seconds: float) -> list[tuple[int, bytes]]:
        end = self.time + seconds
        first = min((when for when, *_ in self._coming), default=math.inf)
        self.time = max(self.time, min(first, end))
        ready = [each for each in self._coming if each[0] <= self.time]
        self._coming = [each for each in self._coming if each[0] > self.time]
        return [(connection, data) for _, connection, data in ready]

    def close(self, connection: int) -> None:
        self._coming = [each for each in self._coming if each[1] != connection]


def ok(data: bytes) -> bytes:
    return b"!" + data[1:].partition(b",")[0].strip() + b",ok\r\n"


class ReplayTests(unittest.TestCase):
    """Times, orders, and servers that do not answer as they should."""

    def play(self, script: Script, server: Server, **options: Any) -> tuple[list[str], Any]:
        reasons: list[str] = []
        replay = Replay(server, report=lambda found: reasons.append(f"{found.step.where}: {found.reason}"), **options)
        return reasons, replay.play(script.steps)

    def times(self, server: Server) -> list[tuple[float, str]]:
        return [(round(time - 500, 6), data.decode("latin-1").strip()) for time, _, data in server.sent]

    def test_pauses(self) -> None:
        script = recorded(line(10, 1, "?a", "!a,ok"), line(13, 1, "?b", "!b,ok"), line(20, 1, "?c", "!c,ok"))
        for speed, times in ((1.0, [0, 3, 10]), (2.0, [0, 1.5, 5]), (math.inf, [0, 0, 0])):
            with self.subTest(speed=speed):
                server = Server(ok)
                self.assertEqual(self.play(script, server, speed=speed)[0], [])
                self.assertEqual(self.times(server), list(zip(times, ("?a", "?b", "?c"), strict=True)))

    def test_a_slower_server_gets_the_same_pauses(self) -> None:
        script = recorded(line(10, 1, "?a", "!a,ok", s=0.5), line(13, 1, "?b", "!b,ok"))
        server = Server(lambda data: (4.0, ok(data)))
        self.play(script, server)
        # The pause after the reply was 2.5 s.
        self.assertEqual(self.times(server), [(0, "?a"), (6.5, "?b")])

    def test_what_came_after_a_reply_comes_after_it_again(self) -> None:
        """On another connection, without pauses; and what came before it does not wait for it."""
        script = recorded(
            line(10, 1, "?slow", "!slow,ok", s=5),
            line(11, 2, "?during", "!during,ok"),
            line(16, 2, "?after", "!after,ok"),
        )
        server = Server(lambda data: (7.0 if b"slow" in data else 0.0, ok(data)))
        self.assertEqual(self.play(script, server, speed=math.inf)[0], [])
        self.assertEqual(self.times(server), [(0, "?slow"), (0, "?during"), (7, "?after")])

    def test_times_are_shifted(self) -> None:
        """A time that was 5 s ahead is 5 s ahead again; with --speed it is sooner, unless the recording ends before."""
        lines = [
            line(1000, 1, f"?start,{1005 * 10**7}", "!start,ok"),
            line(1001, 1, "?stop,1009.2500000", "!stop,ok"),
            line(1002, 1, "?start,9000.5", "!start,ok"),
            line(1003, 1, "?start,soon", "!start,fail,x"),
            line(1004, 1, "?start,0", "!start,fail,x"),
            line(1010, 1, "?start", "!start,ok"),
        ]
        for speed, times in (
            (1.0, ["5050000000", "509.2500000", "8500.5000000"]),
            (2.0, ["5025000000", "504.6250000", "8499.5000000"]),
            (math.inf, ["5050000000", "508.2500000", "8498.5000000"]),
        ):
            with self.subTest(speed=speed):
                server = Server(ok)
                self.play(recorded(*lines), server, speed=speed)
                self.assertEqual(
                    [text for _, text in self.times(server)],
                    [
                        f"?start,{times[0]}",
                        f"?stop,{times[1]}",
                        f"?start,{times[2]}",
                        *("?start,soon", "?start,0", "?start"),
                    ],
                )

    def test_a_line_that_was_too_long_is_too_long_again(self) -> None:
        """Only its beginning is recorded."""
        reason = "!x,invalid,line longer than 16384 bytes"
        server = Server(lambda data: reason.encode() + b"\r\n")
        self.play(recorded(line(1, 1, "?x," + 16381 * "a", reason)), server)
        self.assertEqual(len(server.sent[0][2]), 16385 + 2)

    def test_a_line_without_a_reply(self) -> None:
        script = recorded(line(1, 1, "!x,ok", None), line(2, 1, "?a", "!a,ok"))
        reasons, totals = self.play(script, Server(lambda data: None if data[:1] == b"!" else ok(data)))
        self.assertEqual((reasons, totals.compared, totals.sent), ([], 1, 2))
        reasons, _ = self.play(script, Server(lambda data: b"!x,ok\r\n" if data[:1] == b"!" else ok(data)))
        self.assertEqual(reasons, ["line 2: the server sent a line without a request"])

    def test_no_reply(self) -> None:
        """Its connection is given up, the others are not."""
        script = recorded(
            line(1, 1, "?a", "!a,ok", s=3),
            line(5, 1, "?b", "!b,ok"),
            line(6, 1, "?c", "!c,ok"),
            line(7, 2, "?d", "!d,ok"),
        )
        server = Server(lambda data: None if b"?a" in data else ok(data))
        reasons, totals = self.play(script, server)
        # 65 s, and the 3 s that it took in the recording.
        self.assertEqual(reasons, ["line 2: no reply within 68 s"])
        self.assertEqual((totals.compared, totals.differences, totals.unanswered, totals.sent), (1, 1, 2, 2))
        reasons, _ = self.play(script, Server(lambda data: None), timeout=2)
        self.assertEqual(reasons, ["line 2: no reply within 2 s", "line 5: no reply within 2 s"])

    def test_the_server_closes_the_connection(self) -> None:
        script = recorded(line(1, 1, "?a", "!a,ok"), line(2, 1, "?b", "!b,ok"), line(3, 1, "?c", "!c,ok"))
        # While a reply is missing, and after it.
        for closing, where, compared, unanswered in ((b"?b", 3, 1, 1), (b"?a", 3, 1, 1)):
            with self.subTest(closing):
                server = Server(ok)

                def answer(data: bytes, server: Server = server, closing: bytes = closing) -> Any:
                    if closing in data:
                        server._coming.append((server.time + 0.1, 1, b""))
                        return None if closing == b"?b" else ok(data)
                    return ok(data)

                server.answer = answer
                reasons, totals = self.play(script, server)
                self.assertEqual(reasons, [f"line {where}: the server closed the connection"])
                self.assertEqual((totals.compared, totals.unanswered), (compared, unanswered))

    def test_a_recorded_close_may_be_the_servers(self) -> None:
        """As after a line of HTTP. In a session file, @close is the client's."""

        def closing(server: Server) -> Callable[[bytes], Any]:
            def answer(data: bytes) -> Any:
                server._coming.append((server.time + 0.1, 1, b""))
                return ok(data)

            return answer

        for script, wanted in (
            (recorded(line(1, 1, "?a", "!a,ok"), line(3, 1, event="close")), []),
            (session_steps(["@connect", "?a", "@wait 1", "@close"]), ["line 4: the server closed the connection"]),
        ):
            server = Server(ok)
            server.answer = closing(server)
            self.assertEqual(self.play(script, server)[0], wanted)

    def test_greetings(self) -> None:
        """A recording needs none; a session does, byte for byte."""
        script = recorded(line(1, 1, "?version", "!version,ok,1.4"), line(2, 2, "?a", "!a,ok"))
        version = b"!version,ok,1.4\r\n"
        server = Server(lambda data: version if b"version" in data else ok(data), greeting=None)
        self.assertEqual(self.play(script, server)[0], [])
        # It was waited for once.
        self.assertEqual(self.times(server), [(1, "?version"), (2, "?a")])
        for greeting, wanted in (
            (version, []),
            (b"!version,ok,1.4\n", ["line 1: the greeting does not end in CR LF"]),
            (b"!version,ok,1.3\r\n", ["line 1: the greeting is another one"]),
            (None, ["line 1: the greeting is missing"]),
        ):
            with self.subTest(greeting):
                reasons, _ = self.play(session_steps(["@connect", "?a", "@close"]), Server(ok, greeting), timeout=3)
                self.assertEqual(reasons, wanted)

    def test_what_a_session_sees(self) -> None:
        for lines, answer, wanted in (
            (["?a"], lambda data: b"!a,ok\n", ["line 2: the reply does not end in CR LF"]),
            (["?a -> any"], lambda data: b"!a,invalid,x\r\n", []),
            (["?a"], lambda data: b"!b,ok\r\n", ["line 2: the reply has another name"]),
            (
                ["?a"],
                lambda data: b"!a,oks\r\n",
                ["line 2: the reply is not valid: code 'oks' is none of ok fail invalid"],
            ),
            (["?a -> ok 1|2"], lambda data: b"!a,ok,2\r\n", []),
            (["?a -> ok 1|2"], lambda data: b"!a,ok,3\r\n", ["line 2: 1|2 is wanted, 3 was received"]),
            (["?a -> ok 1"], lambda data: b"!a,fail,1\r\n", ["line 2: ok is wanted, fail was received"]),
            (
                ["?a", "@wait 1"],
                lambda data: b"!a,ok\r\n!b,ok\r\n",
                ["line 1: the server sent a line without a request"],
            ),
            (["@send ?a", "@hangup"], lambda data: b"!a,fail,x\r\n", []),
        ):
            with self.subTest(lines, wanted=wanted):
                self.assertEqual(self.play(session_steps(["@connect", *lines]), Server(answer))[0], wanted)

    def test_what_the_recorded_server_did_wrong_is_no_difference(self) -> None:
        for reply in ("!b,ok", "nonsense", "!a,what,1"):
            with self.subTest(reply):
                script = recorded(line(1, 1, "?a", reply))
                reasons, totals = self.play(script, Server(lambda data: reply.encode() + b"\n"))
                self.assertEqual((reasons, totals.compared), ([], 1))

    def test_no_connection(self) -> None:
        """The first one ends the replay; a later one is a difference."""
        server = Server(ok)
        script = recorded(line(1, 1, "?a", "!a,ok"), line(2, 2, "?b", "!b,ok"), line(3, 2, "?c", "!c,ok"))

        def refuse(connection: int) -> None:
            raise LostConnection("no server there")

        server.connect = refuse  # type: ignore[method-assign]
        with self.assertRaises(LostConnection):
            self.play(script, server)
        server = Server(ok)
        connect = server.connect
        server.connect = lambda number: (refuse if number == 2 else connect)(number)  # type: ignore[method-assign,assignment]
        reasons, totals = self.play(script, server)
        self.assertEqual(reasons, ["line 3: no server there"])
        self.assertEqual((totals.compared, totals.unanswered), (1, 1))


class SelectTests(unittest.TestCase):
    """What is sent by default, and with options."""

    def selected(self, *requests: str, **options: Any) -> tuple[list[str], LeftOut, list[str]]:
        script = recorded(*(line(number, 1, request, "!x,ok") for number, request in enumerate(requests, 1)))
        steps, left_out = select(script.steps, options.pop("commands", COMMANDS), **{"full": False, **options})
        sent = [step for step in steps if isinstance(step, Request)]
        return [step.text for step in sent], left_out, [step.text for step in sent if step.form_only]

    def test_only_reads_by_default(self) -> None:
        """Not even a command that is unknown, which may be one of the backend's own, or a line with a stray CR."""
        reads = [f"?{row.name}" for row in COMMANDS.values() if row.lane == "reads"]
        others = [f"?{row.name}" for row in COMMANDS.values() if row.lane != "reads"]
        odd = ["?own", "?status\r?stop", "nonsense", "", "?stop,,"]
        sent, left_out, _ = self.selected(*reads, *others, *odd)
        self.assertEqual(sent, reads)
        self.assertEqual(left_out.changing.total(), len(others) + len(odd))
        self.assertEqual(self.selected(*reads, *others, *odd, full=True)[0], [*reads, *others, *odd])

    def test_own_commands(self) -> None:
        own = {"look": Command("look", lane="reads"), "turn": Command("turn")}
        sent, _, _ = self.selected("?look", "?turn", commands={**COMMANDS, **own})
        self.assertEqual(sent, ["?look"])

    def test_form_only_after_a_change_that_was_left_out(self) -> None:
        requests = ["?get-integration", "?get-tpi", "?get-integration", "?set-integration,5", "?version", "?status"]
        _, _, form_only = self.selected(*requests)
        self.assertEqual(form_only, ["?status"])
        self.assertEqual(self.selected(*requests, full=True)[2], [])

    def test_only(self) -> None:
        sent, left_out, form_only = self.selected("?time", "?start", "?status", "?start", full=True, only=["status"])
        self.assertEqual((sent, form_only), (["?status"], ["?status"]))
        self.assertEqual((left_out.others, left_out.changing.total()), ({"time": 1, "start": 2}, 0))
        # It is no way around --full.
        self.assertEqual(self.selected("?start", only=["start"])[0], [])


if __name__ == "__main__":
    unittest.main()
