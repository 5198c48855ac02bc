"""Tests of the soak: that it counts rightly what servers do wrong, and that a short one finds nothing."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import socket
import subprocess
import sys
import unittest
from collections.abc import Iterable
from unittest import mock

from benchmarks import conversation, soak
from benchmarks.conversation import Conversation, Wrong
from benchmarks.manners import MANNERS, Soak, clients
from benchmarks.questions import Question, device, garbage, lengthy, reading
from benchmarks.soak import Health, Report
from benchmarks.verdict import ELAPSED, END, GREETING, Tally, compare, form
from discosbackend.framing import LineSplitter, LongLine, without_telnet
from .serving import PATIENCE, ROOT

QUESTIONS = [Question(b"?n-%d\r\n" % n, b"!n-%d,fail,no\r\n" % n) for n in range(6)]
REPLIES = [question.answer or b"" for question in QUESTIONS]


def tallied(tally: Tally) -> tuple[int, int, int]:
    return tally.lost, tally.misordered, tally.invented


class FormTests(unittest.TestCase):
    """What may vary in a reply, and what may not."""

    def test_what_varies(self) -> None:
        for line, wanted in (
            (b"!time,ok,1430922782.9708830\r\n", b"!time,ok,*"),
            (b"!status,ok,1430922782.9708830,ok,1\r\n", b"!status,ok,*"),
            (b"!lateness,ok,-1\r\n", b"!lateness,ok,*"),
            (b"!undefined,invalid,syntax error: empty line\r\n", b"!undefined,invalid,*"),
            (b"!start,ok\r\n", b"!start,*"),
            (ELAPSED, b"!start,*"),
        ):
            with self.subTest(line):
                self.assertEqual(form(line), wanted)

    def test_what_stands(self) -> None:
        for line in (
            GREETING,
            END,
            b"!time,ok,1430922782.970883\r\n",
            b"!time,ok,1430922782.9708830\n",
            b"!time,ok,1430922782.9708830,1\r\n",
            b"!status,ok,1430922782.9708830,ok,2\r\n",
            b"!a,invalid,syntax error: one, two\r\n",
            b"!a,invalid,syntax error: !\r\n",
            b"!a,invalid,syntax error: \r\n",
            b"!a,invalid,syntax error: %b\r\n" % (500 * b"x"),
            b"!start,fail,wrong timestamp '-1'\r\n",
        ):
            with self.subTest(line):
                self.assertEqual(form(line), line)

    def test_a_timestamp_from_before_or_after(self) -> None:
        line = b"!time,ok,1430922782.5000000\r\n"
        self.assertEqual(form(line, 1430922782.4, 1430922782.6), b"!time,ok,*")
        self.assertEqual(form(line, 1430922782.6, 1430922783.0), line)
        self.assertEqual(form(line, 1430922782.0, 1430922782.4), line)


class CompareTests(unittest.TestCase):
    """Each kind of mistake is counted as what it is."""

    def counts(self, came: Iterable[bytes], due: Iterable[bytes] = REPLIES) -> tuple[int, int, int]:
        verdict = compare(list(due), list(came))
        return len(verdict.lost), len(verdict.misordered), len(verdict.invented)

    def test_mistakes(self) -> None:
        a, b, c, d, e, f = REPLIES
        for what, came, wanted in (
            ("right", [a, b, c, d, e, f], (0, 0, 0)),
            ("lost at the start", [b, c, d, e, f], (1, 0, 0)),
            ("lost at the end", [a, b, c, d, e], (1, 0, 0)),
            ("all lost", [], (6, 0, 0)),
            ("doubled", [a, b, b, c, d, e, f], (0, 0, 1)),
            ("swapped", [a, c, b, d, e, f], (0, 1, 0)),
            ("late", [a, c, d, e, b, f], (0, 1, 0)),
            ("another's", [a, b, GREETING, d, e, f], (0, 1, 0)),
            ("cut off", [a, b, c[:-4], d, e, f], (0, 1, 0)),
            ("invented", [a, b, c, GREETING, d, e, f], (0, 0, 1)),
            ("lost and doubled", [a, b, c, c, d, f], (0, 1, 0)),
            ("two lost", [a, c, d, f], (2, 0, 0)),
            ("closed in the middle", [a, b, END], (4, 0, 0)),
        ):
            with self.subTest(what):
                self.assertEqual(self.counts(came), wanted)

    def test_equal_replies(self) -> None:
        due = [REPLIES[0], b"!time,ok,*", REPLIES[1], b"!time,ok,*", REPLIES[2]]
        self.assertEqual(self.counts([*due[:1], *due[2:]], due), (1, 0, 0))
        self.assertEqual(self.counts([*due[:2], due[1], *due[2:]], due), (0, 0, 1))

    def test_the_end(self) -> None:
        due = [*REPLIES, END]
        self.assertEqual(self.counts(due, due), (0, 0, 0))
        self.assertEqual(self.counts(REPLIES, due), (1, 0, 0))
        self.assertEqual(self.counts([*REPLIES[:-1], END], due), (1, 0, 0))


class ConversationTests(unittest.IsolatedAsyncioTestCase):
    """The same, on a socket whose other end says what the test lets it say."""

    def setUp(self) -> None:
        for name in ("_PATIENCE", "_SILENCE"):
            patch = mock.patch.object(conversation, name, 0.1)
            patch.start()
            self.addCleanup(patch.stop)
        ours, self.server = socket.socketpair()
        ours.setblocking(False)
        self.server.setblocking(False)
        self.tally = Tally()
        self.conversation = Conversation(ours, self.tally)
        self.addCleanup(ours.close)
        self.addCleanup(self.server.close)

    async def say(self, *pieces: bytes, close: bool = False) -> None:
        for piece in pieces:
            await asyncio.get_running_loop().sock_sendall(self.server, piece)
            await asyncio.sleep(0)
        if close:
            self.server.shutdown(socket.SHUT_WR)

    async def wrong(self) -> tuple[int, int, int]:
        """Ask; something is wrong with the answers, and this is what."""
        with self.assertRaises(Wrong):
            await self.conversation.ask(*QUESTIONS)
        return tallied(self.tally)

    async def test_right_answers_in_whatever_pieces(self) -> None:
        stream = b"".join(REPLIES)
        for size in (1, 2, 7, len(stream)):
            with self.subTest(size):
                talk = self.say(*[stream[start : start + size] for start in range(0, len(stream), size)])
                _, replies = await asyncio.gather(talk, self.conversation.ask(*QUESTIONS, pieces=3))
                self.assertEqual(replies, REPLIES)
                sent = await asyncio.get_running_loop().sock_recv(self.server, 65536)
                self.assertEqual(sent, b"".join(question.line for question in QUESTIONS))
        self.assertEqual(tallied(self.tally), (0, 0, 0))
        self.assertEqual((self.tally.requests, self.tally.replies), (24, 24))

    async def test_lost(self) -> None:
        await self.say(*REPLIES[:2], *REPLIES[3:])
        self.assertEqual(await self.wrong(), (1, 0, 0))
        self.assertEqual(self.tally.examples, [f"lost: {REPLIES[2]!r} was due"])

    async def test_doubled(self) -> None:
        # As many lines as are due have come before the last one.
        await self.say(*REPLIES[:2], *REPLIES[1:])
        self.assertEqual(await self.wrong(), (0, 0, 1))

    async def test_swapped(self) -> None:
        await self.say(REPLIES[1], REPLIES[0], *REPLIES[2:])
        self.assertEqual(await self.wrong(), (0, 1, 0))

    async def test_without_carriage_return(self) -> None:
        await self.say(*REPLIES[:3], REPLIES[3].replace(b"\r", b""), *REPLIES[4:])
        self.assertEqual(await self.wrong(), (0, 1, 0))

    async def test_invented_before(self) -> None:
        await self.say(GREETING, *REPLIES)
        self.assertEqual(await self.wrong(), (0, 0, 1))

    async def test_invented_without_an_end(self) -> None:
        await self.say(*REPLIES, b"!")
        self.assertEqual(await self.wrong(), (0, 0, 1))

    async def test_closed_by_the_server(self) -> None:
        await self.say(*REPLIES[:4], REPLIES[4][:5], close=True)
        # The torn one came in the place of a whole one.
        self.assertEqual(await self.wrong(), (1, 1, 0))

    async def test_greeting(self) -> None:
        await self.say(GREETING)
        await self.conversation.greeted()
        self.assertEqual((self.tally.requests, self.tally.replies), (0, 0))
        await self.say(b"!version,ok,1.5\r\n")
        with self.assertRaises(Wrong):
            await self.conversation.greeted()

    async def test_what_gets_no_reply(self) -> None:
        reply = Question(b"!a,ok\r\n", None)
        await self.say(*REPLIES)
        await self.conversation.ask(reply, *QUESTIONS, reply)
        self.assertEqual(self.tally.requests, 6)
        await self.say(b"!a,invalid,syntax error: no\r\n")
        with self.assertRaises(Wrong):
            await self.conversation.finish(reply)
        self.assertEqual(tallied(self.tally), (1, 0, 1))

    async def test_half_close(self) -> None:
        await self.say(*REPLIES, close=True)
        await self.conversation.finish(*QUESTIONS, unfinished=b"?half")
        loop = asyncio.get_running_loop()
        received = await loop.sock_recv(self.server, 65536)
        self.assertEqual(received, b"".join(question.line for question in QUESTIONS) + b"?half")
        self.assertEqual(await loop.sock_recv(self.server, 1), b"")
        self.assertEqual(tallied(self.tally), (0, 0, 0))

    async def test_half_close_without_an_end(self) -> None:
        await self.say(*REPLIES)
        with self.assertRaises(Wrong):
            await self.conversation.finish(*QUESTIONS)
        self.assertEqual(tallied(self.tally), (1, 0, 0))

    async def test_reading_slowly(self) -> None:
        self.conversation.bite, self.conversation.pause = 5, 0.0001
        await self.say(*REPLIES)
        self.assertEqual(await self.conversation.ask(*QUESTIONS), REPLIES)


class QuestionTests(unittest.TestCase):
    """The lines are what the soak takes them for: one each, with its own tag."""

    def test_one_line_each(self) -> None:
        rng = random.Random(1)
        for kind in (reading, lengthy, device, garbage):
            for number in range(1000):
                question = kind(rng, b"%d" % number)
                with self.subTest(question.line[:100]):
                    (line,) = LineSplitter().feed(question.line)
                    bare = without_telnet(line)
                    silent = bare[:1] == b"!" or not bare and bare != line
                    self.assertEqual(question.answer is None, silent)
                    if isinstance(line, LongLine) and not silent:
                        self.assertIn(b",invalid,", question.answer or b"")
                    if question.answer is not None and b"-%d" % number in question.answer:
                        self.assertIn(b"%d" % number, question.line)

    def test_every_manner_has_a_client(self) -> None:
        for count in (len(MANNERS), 30):
            with self.subTest(count):
                found = Soak(0)
                self.assertEqual(len(clients(found, count, 1)), count)
                self.assertEqual(set(found.tallies), set(MANNERS))

    def test_the_seed_decides(self) -> None:
        def asked(seed: int) -> list[Question]:
            return [client.questions(1, 1, garbage)[0] for client in clients(Soak(0), 30, seed)]

        self.assertEqual(asked(1), asked(1))
        self.assertNotEqual(asked(1), asked(2))


class ReportTests(unittest.TestCase):
    """What is wrong with a run."""

    def report(self, seconds: float = 600) -> Report:
        run = Soak(0, tallies={"polite": Tally(requests=5, replies=5)}, lateness=[1000])
        return Report(run, Health(10, 10, memory=[40_000_000] * 400), seconds)

    def test_nothing(self) -> None:
        report = self.report()
        self.assertEqual(report.wrong(), [])
        self.assertIn(("growth of memory", "none"), list(report.figures()))

    def test_everything(self) -> None:
        report = self.report()
        report.soak.tallies["garbage"] = Tally(lost=1, misordered=2, invented=3)
        report.soak.early = 4
        report.health.after = 12
        report.health.memory[300:] = [41_000_000] * 100
        report.health.log = ["CRITICAL: a failure"]
        self.assertEqual(
            report.wrong(),
            [
                "1 lost",
                "2 misordered",
                "3 invented",
                "4 timed starts early",
                "2 descriptors left open",
                "1000000 bytes of memory grown",
                "1 log lines above WARNING",
            ],
        )

    def test_growth(self) -> None:
        for grown, wanted in ((0, 0), (-1_000_000, 0), (400_000, 0), (400_001, 400_001)):
            with self.subTest(grown):
                memory = [10_000_000] * 100 + [40_000_000] * 200 + [40_000_000 + grown] * 100
                self.assertEqual(Health(10, memory=memory).growth(600), wanted)

    def test_a_short_run_may_settle(self) -> None:
        report = self.report(seconds=60)
        report.health.memory[300:] = [44_000_000] * 100
        self.assertEqual(report.wrong(), [])
        report.health.memory[300:] = [45_000_000] * 100
        self.assertEqual(report.wrong(), ["5000000 bytes of memory grown"])

    def test_a_server_that_died(self) -> None:
        report = self.report()
        report.health.memory[-1] = 0
        self.assertEqual(report.wrong(), ["1 server died"])


class SoakTests(unittest.TestCase):
    """The program."""

    def test_bad_command_lines(self) -> None:
        for arguments in (["--minutes", "0"], ["--minutes", "nan"], ["--clients", "3"]):
            with self.subTest(arguments), contextlib.redirect_stderr(io.StringIO()) as said:
                with self.assertRaises(SystemExit):
                    soak.main(arguments)
                self.assertIn(arguments[0], said.getvalue())

    def test_a_short_one(self) -> None:
        for options in ((), ("--markdown",)):
            with self.subTest(options):
                result = subprocess.run(
                    [sys.executable, "-m", "benchmarks.soak", "--minutes", "0.03", "--seed", "1", *options],
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE,
                    check=False,
                )
                self.assertEqual((result.returncode, result.stderr), (0, ""), result.stdout)
                self.assertIn("nothing is wrong", result.stdout)
                for manner in MANNERS:
                    self.assertIn(manner, result.stdout)


if __name__ == "__main__":
    unittest.main()
