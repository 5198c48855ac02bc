"""Tests of what the soak takes for a right reply, and as what it counts the others."""

from __future__ import annotations

import unittest
from collections.abc import Iterable

from benchmarks.reply_check import ELAPSED, END, GREETING, Discrepancies, Tally, compare, form

REPLIES = [b"!n-%d,fail,no\r\n" % n for n in range(6)]


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
        # A double holds these to 240 ns, a timestamp is cut off at 100 ns: a microsecond may be missing.
        moment = 1430922782.5
        for line, wanted in (
            (b"!time,ok,1430922782.5000000\r\n", b"!time,ok,*"),
            (b"!status,ok,1430922782.5000000,ok,0\r\n", b"!status,ok,*"),
        ):
            for since, until, within in (
                (moment - 0.1, moment + 0.1, True),
                (moment, moment, True),
                (moment + 0.5e-6, moment + 0.1, True),
                (moment + 2e-6, moment + 0.1, False),
                (moment - 0.1, moment - 0.5e-6, True),
                (moment - 0.1, moment - 2e-6, False),
            ):
                with self.subTest(line, since=since, until=until):
                    self.assertEqual(form(line, since, until), wanted if within else line)

    def test_the_longest_reply(self) -> None:
        start = b"!a,invalid,syntax error: "
        for length, wanted in ((511, b"!a,invalid,*"), (512, None)):
            line = start.ljust(length - 2, b"x") + b"\r\n"
            with self.subTest(length):
                self.assertEqual(form(line), line if wanted is None else wanted)


class CompareTests(unittest.TestCase):
    """Each kind of mistake is counted as what it is."""

    def counts(self, came: Iterable[bytes], due: Iterable[bytes] = REPLIES) -> tuple[int, int, int]:
        discrepancies = compare(list(due), list(came))
        return len(discrepancies.lost), len(discrepancies.misordered), len(discrepancies.invented)

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


class TallyTests(unittest.TestCase):
    """What is remembered of the exchanges."""

    def test_counts_and_examples(self) -> None:
        tally = Tally()
        tally.add(Discrepancies(lost=["a"], misordered=["b", "c"], invented=["d", "e", "f"]))
        tally.add(Discrepancies(lost=[str(number) for number in range(9)]))
        self.assertEqual((tally.lost, tally.misordered, tally.invented), (10, 2, 3))
        first = ["lost: a", "misordered: b", "misordered: c", "invented: d", "invented: e", "invented: f"]
        self.assertEqual(tally.examples, [*first, "lost: 0", "lost: 1", "lost: 2", "lost: 3"])

    def test_the_longest_waits(self) -> None:
        tally = Tally()
        for first, last in ((0.2, 0.5), (0.3, 0.4), (0.1, 0.6)):
            tally.time(first, last)
        self.assertEqual((tally.first, tally.last), (0.3, 0.6))


if __name__ == "__main__":
    unittest.main()
