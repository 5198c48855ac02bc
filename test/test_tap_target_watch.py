"""Whether the target of a tap can be reached: by the connections of clients, and by attempts of the tap itself."""

from __future__ import annotations

import unittest

from twisted.internet.error import ConnectionLost

from discosbackend.tap.target_watch import TargetWatch

from .in_memory import quiet
from .tapped import Tapped

REFUSED = "the target server:10000 cannot be reached: ConnectError: An error occurred while connecting."


def setUpModule() -> None:
    quiet()


class TargetWatchTests(unittest.TestCase):
    def setUp(self) -> None:
        self.tapped = Tapped()
        self.target = self.tapped.target
        clock = self.tapped.clock
        self.watch = TargetWatch(self.target, "server:10000", clock, now=lambda: 1000 + clock.seconds())  # type: ignore[arg-type]
        self.tapped.factory.watch = self.watch

    def shown(self) -> tuple[bool | None, str, float | None]:
        part = self.watch.to_dict()
        self.assertEqual(part["name"], "server:10000")
        return part["reachable"], part["problem"], part["since"]

    def test_the_first_attempt_is_closed_at_once(self) -> None:
        self.assertEqual(self.shown(), (None, "", None))
        self.watch.begin()
        self.assertEqual(self.shown(), (True, "", 1000))
        (line,) = self.target.lines
        self.assertEqual((line.closed, line.read()), (True, b""))
        self.tapped.clock.pump([1] * 600)
        self.assertEqual((self.target.attempts, self.shown()), (1, (True, "", 1000)))

    def test_a_target_that_is_away_is_tried_until_it_can_be_reached(self) -> None:
        self.target.away = True
        with self.assertLogs("discosbackend.tap.target_watch") as logs:
            self.watch.begin()
            self.tapped.clock.pump([1] * 22)
            self.assertEqual((self.target.attempts, self.shown()), (5, (False, REFUSED, 1000)))
            self.target.away = False
            self.tapped.clock.pump([1] * 100)
        self.assertEqual((self.target.attempts, self.shown()), (6, (True, "", 1025)))
        wanted = [("WARNING", REFUSED), ("INFO", "the target server:10000 can be reached again")]
        self.assertEqual([(record.levelname, record.getMessage()) for record in logs.records], wanted)

    def test_clients_show_it_too(self) -> None:
        self.watch.begin()
        self.target.away = True
        self.tapped.connect()
        self.assertEqual(self.shown()[:2], (False, REFUSED))
        self.target.away = False
        self.tapped.connect()
        self.assertEqual(self.shown()[:2], (True, ""))
        # No more attempts are needed.
        self.assertEqual(self.target.attempts, 3)
        self.tapped.clock.pump([1] * 20)
        self.assertEqual(self.target.attempts, 3)

    def test_clients_that_wait_for_the_target_show_it(self) -> None:
        self.watch.begin()
        self.target.away = True
        self.tapped.factory.wait = 60.0
        client = self.tapped.connect()
        self.assertEqual((client.closed, self.shown()[:2]), (False, (False, REFUSED)))

    def test_a_target_that_has_closed_a_connection_is_tried(self) -> None:
        for lose in (False, True):
            with self.subTest(lose=lose):
                self.setUp()
                self.watch.begin()
                self.tapped.connect()
                self.target.away = True
                if lose:
                    self.tapped.server.lose(ConnectionLost())
                else:
                    self.tapped.server.end()
                self.assertEqual(self.shown()[:2], (None, ""))
                self.tapped.clock.advance(5)
                self.assertEqual(self.shown()[:2], (False, REFUSED))

    def test_the_end_of_a_client_shows_nothing(self) -> None:
        self.watch.begin()
        client = self.tapped.connect()
        client.end()
        self.tapped.server.read()
        self.tapped.server.end()
        self.tapped.clock.pump([1] * 20)
        self.assertEqual((self.target.attempts, self.shown()), (2, (True, "", 1000)))

    def test_the_end(self) -> None:
        self.target.away = True
        self.watch.begin()
        self.watch.end()
        self.tapped.connect()
        self.assertEqual(self.tapped.clock.getDelayedCalls(), [])
        self.target.away, self.target.slow = False, True
        self.watch.begin()
        self.watch.end()
        self.assertEqual(self.target.cancelled, 1)
        self.assertEqual(self.tapped.clock.getDelayedCalls(), [])


if __name__ == "__main__":
    unittest.main()
