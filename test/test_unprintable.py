"""Exceptions and backends that cannot even be printed: still exactly one reply, still one server."""

from __future__ import annotations

import unittest
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from discosbackend import Backend, BackendError, blocking
from discosbackend.handlers import AlwaysOkHandler, DBProtocolHandler
from discosbackend.protocol import DBFactory
from discosbackend.server import Server, announcement, tcp_endpoint

from .clients import FakeReactor

GENERIC = b"fail,Request could not be handled correctly\r\n"


class Mute(BackendError):
    """Raises something that is no Exception when it is asked for its text."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class Odd:
    """A value whose repr ends the program."""

    def __repr__(self) -> str:
        raise KeyboardInterrupt


class Speechless(Backend):
    """Refuses, and cannot say why, in every style."""

    def status(self) -> Any:
        raise Mute

    async def set_shift(self, shift: int) -> Any:
        raise Mute

    @blocking
    def get_rms(self) -> Any:
        raise Mute

    def get_tp0(self) -> Any:
        return Odd()

    def __str__(self) -> str:
        raise RuntimeError("no name")


class UnprintableTests(unittest.TestCase):
    """Protocol section 5.3: any other exception in the backend is the fixed `fail`, and one reply each."""

    def test_one_reply_in_every_style(self) -> None:
        reactor = FakeReactor()
        factory = DBFactory(DBProtocolHandler(Speechless(), reactor=reactor), reactor=reactor)
        protocol, transport = factory.buildProtocol(None), StringTransport()
        protocol.makeConnection(transport)
        transport.clear()
        for request in (b"status", b"set-shift,1", b"get-tp0"):
            with self.subTest(request):
                protocol.dataReceived(b"?" + request + b"\r\n?version\r\n")
                reactor.advance(0)
                name = request.partition(b",")[0]
                self.assertEqual(transport.value(), b"!" + name + b"," + GENERIC + b"!version,ok,1.4\r\n")
                transport.clear()

    def test_a_handler_whose_result_cannot_be_printed(self) -> None:
        class Handler(AlwaysOkHandler):
            """Returns no reply at all."""

            def handle(self, message: Any) -> Any:
                return Odd()

        factory = DBFactory(Handler(), reactor=Clock())
        protocol, transport = factory.buildProtocol(None), StringTransport()
        protocol.makeConnection(transport)
        transport.clear()
        protocol.dataReceived(b"?x\r\n")
        self.assertEqual(transport.value(), b"!x," + GENERIC)

    def test_the_announcement_falls_back_on_the_name_of_the_class(self) -> None:
        class Port:
            """Listens nowhere."""

            def getHost(self) -> Any:
                return "nowhere"

        server = Server(tcp_endpoint(Clock(), 0), DBFactory(DBProtocolHandler(Speechless()), reactor=Clock()))
        port: Any = Port()
        with self.assertLogs("discosbackend.server", "ERROR"):
            self.assertIn("Speechless is served on nowhere", announcement(server, port))


if __name__ == "__main__":
    unittest.main()
