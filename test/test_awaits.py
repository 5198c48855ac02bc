"""What a method may await, on both reactors, and the replies.

Each construct of test/awaited.py returns, raises, exceeds its limit, is cancelled, and is stopped with the server. One
server on each reactor serves all rows.
"""

from __future__ import annotations

import signal
import socket
import unittest
from functools import partial
from typing import NamedTuple

from . import awaited
from .serving import Server, ask, program, read_line
from .settings import PATIENCE, wait_until

FIXED = "fail,Request could not be handled correctly"
GIVEN_UP = "fail,cancelled: {} was given up"
STOPPED = "fail,server is stopping"
OVER = f"fail,timeout: {{}}-over took longer than {awaited.LIMIT:g} s"

CURE = "{} failed, and has to be changed: asyncio does not run in this server: start it with --reactor asyncio,"


class Outcomes(NamedTuple):
    """The replies of a row, without `!NAME,`."""

    returns: str
    raises: str
    over: str
    cancelled: str
    stopped: str


ROWS = {
    # What asyncio provides needs the asyncio reactor.
    ("asyncio", "asyncio"): Outcomes("ok,7", FIXED, OVER, GIVEN_UP, STOPPED),
    ("asyncio", "default"): Outcomes(FIXED, FIXED, FIXED, FIXED, FIXED),
    # A Deferred that somebody else cancels fails with Twisted's CancelledError, which the method does not handle.
    ("twisted", "default"): Outcomes("ok,7", FIXED, OVER, FIXED, STOPPED),
    ("twisted", "asyncio"): Outcomes("ok,7", FIXED, OVER, GIVEN_UP, STOPPED),
}

CONSTRUCTS = {"asyncio": awaited.ASYNCIO, "twisted": awaited.TWISTED}


class AwaitTests(unittest.TestCase):
    """One server for each reactor."""

    def connect(self, server: Server) -> socket.socket:
        connection = server.connect()
        connection.settimeout(PATIENCE)
        self.addCleanup(connection.close)
        return connection

    def serve(self, reactor: str) -> tuple[dict[str, Outcomes], str]:
        """Play all rows on a server. Return the replies, by the name of the construct, and the log."""
        options = ("--backend", "test.awaited:Awaiting", "--reactor", reactor, "--stop-timeout", "0.1")
        server = Server(program(*options))
        self.addCleanup(server.end)
        names = [*awaited.ASYNCIO, *awaited.TWISTED]
        control = self.connect(server)
        first, second, third = ({name: self.connect(server) for name in names} for _ in range(3))
        for name, connection in first.items():
            # `version` shows that each command before it has had exactly one reply.
            connection.sendall(f"?{name},returns\r\n?{name},raises\r\n?{name}-over\r\n?version\r\n".encode())
        replies = {name: [read_line(connection) for _ in range(3)] for name, connection in first.items()}
        for connection in first.values():
            self.assertEqual(read_line(connection), b"!version,ok,1.4\r\n")
        for name, connection in second.items():
            connection.sendall(f"?{name},waits\r\n?version\r\n".encode())
            if reactor == "asyncio" or name in awaited.TWISTED:
                wait_until(partial(self.cancelled, control, name), f"a call of {name} to cancel")
            replies[name].append(read_line(connection))
            self.assertEqual(read_line(connection), b"!version,ok,1.4\r\n")
        for name, connection in third.items():
            connection.sendall(f"?{name},waits\r\n".encode())
        # When the second has its reply, the server has read what was sent before the first.
        for _ in range(2):
            self.assertEqual(ask(control, b"?version"), [b"!version,ok,1.4\r\n"])
        self.assertEqual(server.stop(signal.SIGTERM), 0, server.log())
        for name, connection in third.items():
            replies[name].append(read_line(connection))
            self.assertEqual(connection.recv(1), b"", name)
        return {name: Outcomes(*(line.decode() for line in lines)) for name, lines in replies.items()}, server.log()

    def cancelled(self, control: socket.socket, name: str) -> bool:
        return ask(control, b"?cancel,%s" % name.encode()) == [b"!cancel,ok,1\r\n"]

    def check(self, reactor: str) -> str:
        """Compare all rows of a reactor. Return the log."""
        replies, log = self.serve(reactor)
        for family, constructs in CONSTRUCTS.items():
            for name in constructs:
                for outcome, wanted in ROWS[family, reactor]._asdict().items():
                    sent = f"{name}-over" if outcome == "over" else name
                    with self.subTest(name, reactor=reactor, outcome=outcome):
                        self.assertEqual(getattr(replies[name], outcome), f"!{sent},{wanted.format(name)}\r\n")
        return log

    def test_there_are_enough(self) -> None:
        self.assertGreaterEqual(len(awaited.ASYNCIO), 20)
        self.assertGreaterEqual(len(awaited.TWISTED), 10)

    def test_on_the_default_reactor(self) -> None:
        log = self.check("default")
        for name in awaited.ASYNCIO:
            for each in (name, f"{name}-over"):
                self.assertEqual(log.count(CURE.format(each)), 1, each)
        for name in awaited.TWISTED:
            self.assertNotIn(f"{name} failed, and has to be changed", log)

    def test_on_the_asyncio_reactor(self) -> None:
        log = self.check("asyncio")
        for text in ("has to be changed", "never awaited", "never retrieved", "was destroyed", "Unhandled", "late "):
            self.assertNotIn(text, log)


if __name__ == "__main__":
    unittest.main()
