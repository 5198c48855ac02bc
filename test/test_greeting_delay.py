"""A backend's own greeting delay, and what overrides it."""

from __future__ import annotations

import socket
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.testing import MemoryReactorClock

from discosbackend import Backend, DBProtocolHandler, run_server
from discosbackend.handlers import AlwaysOkHandler
from discosbackend.server import greeting_delay_of, listen

from .serving import SCRIPT, Server, ask, read_line, served_by
from .settings import PATIENCE

LATE = """
    from discosbackend import Backend, DBProtocolHandler, run_server

    class Late(Backend):
        greeting_delay = 600

        def get_configuration(self):
            return "TP"
"""


class Late(Backend):
    greeting_delay = 600.0


class DelayTests(unittest.TestCase):
    """What a backend says of itself."""

    def test_of_a_class_or_an_object(self) -> None:
        class Plain:
            greeting_delay = 5

        class Computed:
            @property
            def greeting_delay(self) -> float:
                return 2.5

        mine = Backend()
        mine.greeting_delay = 1.5
        for backend, wanted in ((Late(), 600.0), (Plain(), 5.0), (Computed(), 2.5), (mine, 1.5), (Backend(), 0.0)):
            with self.subTest(type(backend).__name__):
                self.assertEqual(greeting_delay_of(DBProtocolHandler(backend)), wanted)

    def test_one_that_says_nothing(self) -> None:
        class Proxy:
            """Has whatever the hardware has, and the hardware has everything."""

            def __getattr__(self, name: str) -> Any:
                return mock.Mock()

        self.assertEqual(greeting_delay_of(DBProtocolHandler(Proxy())), 0.0)
        self.assertEqual(greeting_delay_of(DBProtocolHandler(object())), 0.0)
        self.assertEqual(greeting_delay_of(AlwaysOkHandler()), 0.0)

    def test_one_that_is_none(self) -> None:
        for wrong in (-1, float("nan"), float("inf"), "5", None):

            class Wrong:
                greeting_delay = wrong

            with self.subTest(wrong):
                with self.assertRaisesRegex(ValueError, "Wrong.greeting_delay must be a number of seconds, 0 or more"):
                    run_server(0, DBProtocolHandler(Wrong()), "127.0.0.1")

    def test_listen(self) -> None:
        reactor = MemoryReactorClock()
        listen(DBProtocolHandler(Late(), reactor=reactor), reactor=reactor)
        factory: Any = reactor.tcpServers[0][1]
        self.assertEqual(factory.greeting_delay, 600.0)


class ServedTests(unittest.TestCase):
    """Real servers: who is not greeted gets its first line in reply to a request."""

    def first_line(self, server: Server) -> bytes:
        with socket.create_connection(server.address, PATIENCE) as connection:
            connection.sendall(b"?get-configuration\r\n")
            return read_line(connection)

    def test_run_server(self) -> None:
        code = f'{textwrap.dedent(LATE)}\nrun_server(0, DBProtocolHandler(Late()), "127.0.0.1")'
        with served_by(code) as server:
            self.assertEqual(self.first_line(server), b"!get-configuration,ok,TP\r\n")

    def test_the_program_and_its_option(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "late.py").write_text(textwrap.dedent(LATE), encoding="utf-8")
            for options, wanted in (
                ((), b"!get-configuration,ok,TP\r\n"),
                (("--greeting-delay", "0"), b"!version,ok,1.4\r\n"),
                (("--greeting-delay", "700"), b"!get-configuration,ok,TP\r\n"),
            ):
                command = [sys.executable, str(SCRIPT), "--port", "0", "--backend", "late:Late", *options]
                server = Server(command, folder)
                self.addCleanup(server.end)
                with self.subTest(options):
                    self.assertEqual(self.first_line(server), wanted)

    def test_the_simulated_instruments_greet_at_once(self) -> None:
        server = Server([sys.executable, str(SCRIPT), "--port", "0", "--no-data"])
        self.addCleanup(server.end)
        with server.connect() as connection:
            self.assertEqual(ask(connection, b"?get-configuration"), [b"!get-configuration,ok,unconfigured\r\n"])


if __name__ == "__main__":
    unittest.main()
