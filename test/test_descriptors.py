"""Tests of descriptors: a server that is out of file descriptors says so, and what to raise."""

from __future__ import annotations

import logging
import os
import resource
import socket
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.task import Clock
from twisted.logger import Logger, globalLogPublisher

from discosbackend.descriptors import DescriptorWatch
from discosbackend.handlers import AlwaysOkHandler
from discosbackend.protocol import DBFactory
from discosbackend.rate_limited_logger import RateLimitedLogger

from .serving import Server, ask, read_line, served
from .settings import PATIENCE, wait_until

LOGGER = "discosbackend.protocol"


class DescriptorsTests(unittest.TestCase):
    """What Twisted says at a level that nobody reads is one warning a minute."""

    def setUp(self) -> None:
        # A factory that another test has started and not stopped would warn too.
        self.enterContext(mock.patch.object(globalLogPublisher, "_observers", []))
        self.clock = Clock()
        self.factory = DBFactory(AlwaysOkHandler(), reactor=self.clock)
        self.factory.doStart()
        self.twisted = Logger(namespace="twisted.internet.tcp.Port")
        self.addCleanup(self.stop)

    def stop(self) -> None:
        while self.factory.numPorts:
            self.factory.doStop()

    def close_a_client(self) -> None:
        """What Twisted says then."""
        self.twisted.info("EMFILE encountered; releasing reserved file descriptor.")
        self.twisted.info("EMFILE recovery: Closed socket from {address}", address=("10.0.0.7", 4711))
        self.twisted.info("Re-reserving EMFILE recovery file descriptor.")

    def test_clients_are_closed(self) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        with self.assertLogs(LOGGER, "INFO") as logs:
            for _ in range(100):
                self.close_a_client()
            self.clock.advance(60)
        first, second = (record.getMessage() for record in logs.records)
        for words in ("out of file descriptors", "10.0.0.7:4711", str(limit), "LimitNOFILE", "ulimit -n"):
            self.assertIn(words, first)
        self.assertEqual(second, "99 more lines of this kind left out: out of file descriptors")
        self.assertEqual([record.levelname for record in logs.records], ["WARNING"] * 2)

    def test_one_warning_a_minute(self) -> None:
        limited = RateLimitedLogger(logging.getLogger(LOGGER), self.clock.callLater, self.clock.seconds)
        watch = DescriptorWatch(limited)
        with self.assertLogs(LOGGER, "WARNING") as logs:
            for second in range(60):
                watch({"log_format": "EMFILE recovery: Closed socket from {address}", "address": ("10.0.0.7", second)})
                self.assertEqual(len(logs.records), 1)
                self.clock.advance(1)
        self.assertEqual(len(logs.records), 2)
        self.assertRegex(logs.records[1].getMessage(), "^59 more lines ")

    def test_clients_of_a_unix_socket(self) -> None:
        """Their address is not a host and a port, and mostly empty."""
        for address, words in (
            (b"", "a local socket"),
            ("", "a local socket"),
            (b"/tmp/x\x1b", "/tmp/x\\x1b"),
            (("::1", 4711, 0, 0), "[::1]:4711"),
        ):
            watch = DescriptorWatch(RateLimitedLogger(logging.getLogger(LOGGER), self.clock.callLater))
            with self.subTest(address), self.assertLogs(LOGGER, "WARNING") as logs:
                watch({"log_format": "EMFILE recovery: Closed socket from {address}", "address": address})
            self.assertIn(f"the first one was from {words}; this process", logs.records[0].getMessage())

    def test_clients_are_not_even_accepted(self) -> None:
        """Twisted tries again in each turn of the reactor, and they wait without an answer."""
        for code, words in (
            ("EMFILE", "LimitNOFILE"),
            ("ENFILE", "fs.file-max"),
            ("ENOBUFS", "memory"),
            ("ENOMEM", "memory"),
        ):
            with self.subTest(code), self.assertLogs(LOGGER, "INFO") as logs:
                for _ in range(1000):
                    self.twisted.info("Could not accept new connection ({acceptError})", acceptError=code)
                self.clock.advance(60)
                self.assertEqual(len(logs.records), 2)
                self.assertIn(words, logs.records[0].getMessage())
                self.assertIn("wait", logs.records[0].getMessage())

    def test_what_else_twisted_says(self) -> None:
        with self.assertNoLogs(LOGGER, "INFO"):
            self.twisted.info("Could not accept new connection ({acceptError})", acceptError="ECONNABORTED")
            self.twisted.info("EMFILE encountered; releasing reserved file descriptor.")
            self.twisted.info("{odd}", odd=object())
            globalLogPublisher({"log_format": None})
            globalLogPublisher({})

    def test_no_longer_than_the_server(self) -> None:
        self.factory.doStart()
        self.factory.doStop()
        with self.assertLogs(LOGGER, "WARNING"):
            self.close_a_client()
        self.factory.doStop()
        with self.assertNoLogs(LOGGER, "INFO"):
            self.close_a_client()


class ServerTests(unittest.TestCase):
    """The real thing, with a limit that is soon reached."""

    def crowd(self, server: Server, count: int) -> list[socket.socket]:
        found = []
        for _ in range(count):
            connection = socket.create_connection(server.address, PATIENCE)
            self.addCleanup(connection.close)
            found.append(connection)
        return found

    def open_files(self, server: Server) -> dict[int, str]:
        folder = Path(f"/proc/{server.process.pid}/fd")
        return {int(path.name): os.readlink(path) for path in folder.iterdir()}

    def limit(self, server: Server, limit: int) -> None:
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, hard))

    def warnings(self, server: Server) -> list[str]:
        return [line for line in server.log().splitlines() if "out of file descriptors" in line]

    def test_one_warning(self) -> None:
        with served() as server:
            first = server.connect()
            self.addCleanup(first.close)
            self.limit(server, max(self.open_files(server)) + 1 + 5)
            connections = self.crowd(server, 30)
            greeted = [read_line(connection) for connection in connections]
            self.assertEqual(greeted.count(b"!version,ok,1.4\r\n"), 5)
            self.assertEqual(ask(first, b"?get-configuration"), [b"!get-configuration,ok,unconfigured\r\n"])
            (warning,) = self.warnings(server)
            self.assertIn(" WARNING ", warning)
            self.assertIn("LimitNOFILE", warning)
            for connection in connections:
                connection.close()
            wait_until(lambda: self.greets(server), "a connection")
            self.assertEqual(server.stop(15), 0)
            self.assertEqual(len(self.warnings(server)), 2, "and the count of the others")

    def greets(self, server: Server) -> bool:
        with socket.create_connection(server.address, PATIENCE) as connection:
            return read_line(connection) == b"!version,ok,1.4\r\n"

    def test_clients_that_wait_in_silence_are_noticed(self) -> None:
        """Where Twisted cannot even close them: its reserve is above the limit."""
        with served() as server:
            first = server.connect()
            self.addCleanup(first.close)
            reserve = [number for number, path in self.open_files(server).items() if path == os.devnull and number > 2]
            self.limit(server, min(reserve))
            self.crowd(server, 3)

            def warned() -> Any:
                return self.warnings(server)

            (warning,) = wait_until(warned)
            self.assertIn("wait", warning)
            self.assertEqual(ask(first, b"?get-configuration"), [b"!get-configuration,ok,unconfigured\r\n"])


if __name__ == "__main__":
    unittest.main()
