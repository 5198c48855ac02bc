"""SendGuard: which lines may be sent, and when."""

from __future__ import annotations

import unittest

from discosbackend.commands import COMMANDS, Command, Field
from discosbackend.testing.send_guard import Scope, SendGuard, scope_of, scope_of_command


class _Clock:
    """A coarse clock that only moves in sleep(), by one tick less than requested."""

    def __init__(self, short: float = 0.0) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        self._short = short

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += max(seconds - self._short, self._short)


class ScopeTests(unittest.TestCase):
    def test_of_lines(self) -> None:
        for line, wanted in {
            b"?status\r\n": Scope.READS,
            b"?version": Scope.READS,
            b"?no-such-command,1\r\n": Scope.READS,
            b"\r\n": Scope.READS,
            b"": Scope.READS,
            b"!start,ok\r\n": Scope.READS,
            b" ?start\r\n": Scope.READS,
            b"?get-tpi,0,0\r\n": Scope.MEASURE,
            b"?get-rms\n": Scope.MEASURE,
            b"?start\r\n": Scope.FULL,
            b"?stop": Scope.FULL,
            b"?stop\r\0": Scope.FULL,
            b"?set-shift,x\r\n": Scope.FULL,
            # A wrong server may carry out a line that is not a valid message.
            b"?start,\\\r\n": Scope.FULL,
            b"?stop,,\r\n": Scope.FULL,
            b"?convert-data\r\n": Scope.FULL,
            b"?" + 999 * b"x": Scope.READS,
            b"?" + 1000 * b"x": Scope.FULL,
        }.items():
            with self.subTest(line):
                self.assertIs(scope_of(line), wanted)

    def test_of_commands(self) -> None:
        found = {scope: {row.name for row in COMMANDS.values() if scope_of_command(row) is scope} for scope in Scope}
        self.assertEqual(found[Scope.MEASURE], {"get-tpi", "get-tp0", "get-rms", "get-ddcoffset"})
        self.assertEqual(
            found[Scope.READS],
            {"status", "version", "time", "get-configuration", "get-integration", "get-filename"},
        )

    def test_of_commands_that_only_one_backend_has(self) -> None:
        rows = (Command("sweep", reply=(Field("tones", "integer"),)), Command("get-temperature", lane="reads"))
        commands = {**COMMANDS, **{row.name: row for row in rows}}
        # A command that only one backend has may change the state, even if it returns values.
        self.assertIs(scope_of(b"?sweep,1\r\n", commands), Scope.FULL)
        self.assertIs(scope_of(b"?get-temperature\r\n", commands), Scope.READS)
        self.assertIs(scope_of(b"?start\r\n", commands), Scope.FULL)
        for scope in (Scope.READS, Scope.MEASURE):
            with self.subTest(scope), self.assertRaisesRegex(RuntimeError, "must not be sent"):
                SendGuard(scope, commands=commands).before(b"?status\r\n?sweep,1\r\n")
        SendGuard(Scope.READS, commands=commands).before(b"?get-temperature\r\n")

    def test_what_may_not_be_sent(self) -> None:
        for scope, data in (
            (Scope.READS, b"?get-tpi\r\n"),
            (Scope.READS, b"?status\r\n?start\r\n"),
            (Scope.MEASURE, b"?get-tpi\n?set-shift,1\n"),
            (Scope.READS, 2000 * b"x"),
            # The guard splits lines in the same way as a server.
            (Scope.READS, b"?status\r\0?start\r\n"),
            (Scope.READS, b"\xff\xfb\x01?start\r\n"),
            (Scope.READS, b"?status\n?start"),
        ):
            with self.subTest(data), self.assertRaisesRegex(RuntimeError, "must not be sent"):
                SendGuard(scope).before(data)
        SendGuard(Scope.MEASURE).before(b"?status\r\n?get-tpi\r\n")
        SendGuard().before(b"?backend-park\r\n" + 2000 * b"x")


class RateTests(unittest.TestCase):
    def test_so_many_in_any_second(self) -> None:
        clock = _Clock()
        caution = SendGuard(rate=2, clock=clock, sleep=clock.sleep)
        for _ in range(2):
            caution.before(b"?status\r\n")
        self.assertEqual(clock.slept, [])
        clock.now += 0.25
        caution.before(b"?status\r\n")
        self.assertAlmostEqual(clock.slept[0], 0.85)
        # Each line of one piece counts, and the lines are sent together.
        caution.before(b"?status\r\n" * 2)
        self.assertAlmostEqual(sum(clock.slept), 0.85 + 1.1)
        caution.before(b"?version\r\0")
        self.assertAlmostEqual(sum(clock.slept), 0.85 + 2.2)
        with self.assertRaisesRegex(RuntimeError, "3 lines must not be sent at once: 2 a second"):
            caution.before(b"?status\r\n" * 3)

    def test_who_wakes_early_sleeps_on(self) -> None:
        clock = _Clock(short=0.1)
        caution = SendGuard(rate=1, clock=clock, sleep=clock.sleep)
        for _ in range(2):
            caution.before(b"\n")
        self.assertGreaterEqual(clock.now, 101.0)
        self.assertEqual(len(clock.slept), 2)

    def test_only_ends_of_lines_count(self) -> None:
        clock = _Clock()
        caution = SendGuard(rate=1, clock=clock, sleep=clock.sleep)
        for piece in (b"?sta", b"tus\r", b"\n"):
            caution.before(piece)
        self.assertEqual(clock.slept, [])

    def test_sparing(self) -> None:
        self.assertTrue(SendGuard(rate=10).sparing)
        self.assertFalse(SendGuard(Scope.READS).sparing)


if __name__ == "__main__":
    unittest.main()
