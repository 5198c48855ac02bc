"""Tests of discosbackend.twisted_log: a peer cannot fill the log through Twisted's own messages."""

from __future__ import annotations

import logging
import threading
import unittest
from unittest import mock

from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, LogLevel, LogPublisher
from twisted.python import log
from twisted.python.failure import Failure
from twisted.python.log import theLogPublisher

from discosbackend import twisted_log
from discosbackend.rate_limited_logger import RateLimitedLogger
from discosbackend.twisted_log import LimitedObserver


class LimitedObserverTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.events: list[LogEvent] = []
        limited = RateLimitedLogger(logging.getLogger("twisted"), self.clock.callLater, self.clock.seconds)
        self.log = Logger("test", observer=LogPublisher(LimitedObserver(self.events.append, limited)))
        self.enterContext(mock.patch.object(twisted_log, "isInIOThread", return_value=True))

    def fail(self, kind: type[Exception]) -> None:  # type: ignore[override]
        self.log.failure("Unhandled Error", Failure(kind("text of a peer")))

    def test_failures(self) -> None:
        """Five of each kind in a second, then their number."""
        for _ in range(100):
            self.fail(ValueError)
            self.fail(KeyError)
        self.assertEqual(len(self.events), 10)
        with self.assertLogs("twisted", "CRITICAL") as logs:
            self.clock.advance(1)
        self.assertEqual(
            [record.getMessage() for record in logs.records],
            [f"95 more lines of this kind left out: {kind} logged by Twisted" for kind in ("ValueError", "KeyError")],
        )
        self.fail(ValueError)
        self.assertEqual(len(self.events), 11)

    def test_the_older_function(self) -> None:
        """Twisted's reactor logs an exception of a connection so."""
        with mock.patch.object(theLogPublisher, "_publishPublisher", self.log.observer):
            for _ in range(100):
                log.err(Failure(ValueError("text of a peer")), "Unhandled Error")
        self.assertEqual(len(self.events), 5)
        with self.assertLogs("twisted", "CRITICAL") as logs:
            self.clock.advance(1)
        self.assertIn("95 more lines of this kind left out: ValueError logged by Twisted", logs.output[0])

    def test_warnings(self) -> None:
        """The text before the values of a peer are inserted is the kind."""
        for number in range(100):
            self.log.emit(LogLevel.warn, "odd: {number}", number=number)
        self.assertEqual([event["number"] for event in self.events], [0, 1, 2, 3, 4])
        with self.assertLogs("twisted", "WARNING") as logs:
            self.clock.advance(1)
        self.assertEqual(logs.records[0].getMessage(), "95 more lines of this kind left out: odd: {number}")

    def test_lower_levels(self) -> None:
        """They are written only at level debug, which has no limit."""
        for _ in range(100):
            self.log.info("connected")
            self.log.debug("connected")
        self.assertEqual(len(self.events), 200)
        self.assertEqual(self.events[0]["log_level"], LogLevel.info)

    def test_an_event_without_a_level(self) -> None:
        """Twisted's own observers accept one."""
        self.log.observer({"log_format": "connected"})
        self.assertEqual(self.events[0]["log_format"], "connected")

    def test_another_thread(self) -> None:
        twisted_log.isInIOThread.return_value = False  # type: ignore[attr-defined]
        thread = threading.Thread(target=lambda: [self.fail(ValueError) for _ in range(100)])
        thread.start()
        thread.join()
        self.assertEqual(len(self.events), 100)
        self.assertEqual(self.clock.getDelayedCalls(), [])
