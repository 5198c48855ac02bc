"""Small client programs for test_client_grading: right ones, and ones with one mistake each.

Each is a function of the address of the server, which runs in a thread. As a program it runs in a process:
`python -m test.clients_under_test NAME HOST:PORT`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

from .settings import PATIENCE


class Program(Protocol):
    """A client."""

    __name__: str

    def __call__(self, address: str, /) -> object: ...


REQUESTS = (b"?status\r\n", b"?set-configuration,SK00\r\n", b"?start\r\n", b"?get-tpi\r\n", b"?stop\r\n", b"?time\r\n")
"""What most of them send."""


class Gone(Exception):
    """The server has closed the connection."""


class Wire:
    """A connection that is read up to LF."""

    def __init__(self, address: str, timeout: float = PATIENCE) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout)
        self._rest = b""

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError:
            raise Gone from None

    def receive(self, size: int = 4096) -> bytes:
        try:
            data = self.socket.recv(size)
        except TimeoutError:
            raise
        except OSError:
            raise Gone from None
        if not data:
            raise Gone
        return data

    def line(self, size: int = 4096) -> bytes:
        while b"\n" not in self._rest:
            self._rest += self.receive(size)
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def close(self) -> None:
        self.socket.close()


# -- right ones ---------------------------------------------------------------------------------------


def _in_order(
    address: str,
    requests: Iterable[bytes],
    ask: Callable[[Wire, bytes], object],
    *,
    greeted: bool = True,
    greeted_again: bool = True,
    timeout: float = PATIENCE,
) -> None:
    """Ask one request after another. Connect again if the connection is closed."""
    wire = None
    connections = 0
    try:
        for request in requests:
            for _ in range(3):
                if wire is None:
                    wire = Wire(address, timeout)
                    connections += 1
                    if greeted if connections == 1 else greeted_again:
                        wire.line()
                try:
                    ask(wire, request)
                    break
                except Gone:
                    wire.close()
                    wire = None
    finally:
        if wire is not None:
            wire.close()


def _ask(wire: Wire, request: bytes) -> bytes:
    wire.send(request)
    return wire.line()


def right(address: str) -> None:
    """As the protocol says."""
    _in_order(address, REQUESTS, _ask)


def byte_by_byte(address: str) -> None:
    """Right: reads single bytes, and sends single bytes."""

    def ask(wire: Wire, request: bytes) -> None:
        for byte in request:
            wire.send(bytes((byte,)))
        wire.line(1)

    _in_order(address, REQUESTS, ask)


def slow(address: str) -> None:
    """Right: takes its time for each reply."""

    def ask(wire: Wire, request: bytes) -> None:
        time.sleep(0.05)
        wire.send(request)
        time.sleep(0.05)
        wire.line()

    _in_order(address, REQUESTS, ask)


def half_closing(address: str) -> None:
    """Right: one connection a request, whose sending half it closes, as `nc -N` does."""
    for request in REQUESTS:
        with suppress(Gone):
            wire = Wire(address)
            wire.line()
            wire.send(request)
            wire.socket.shutdown(socket.SHUT_WR)
            while True:
                wire.receive()
        wire.close()


def pipelining(address: str) -> None:
    """Right: sends everything at once."""
    wire = Wire(address)
    wire.line()
    wire.send(b"".join(REQUESTS))
    with suppress(Gone):
        for _ in REQUESTS:
            wire.line()
    wire.close()


def connects_again_much_later(address: str) -> None:
    """Right: when the connection is closed, it closes its side and waits for a long time."""
    wire = Wire(address)
    wire.line()
    for request in REQUESTS:
        try:
            _ask(wire, request)
        except Gone:
            wire.close()
            _hears_nothing_more()
    wire.close()


def asks_before_the_greeting(address: str) -> None:
    """Right, but not what the protocol describes: it does not wait for the greeting, but knows it when it comes."""
    asked = set()

    def ask(wire: Wire, request: bytes) -> None:
        wire.send(request)
        if wire not in asked:
            asked.add(wire)
            wire.line()
        wire.line()

    _in_order(address, REQUESTS, ask, greeted=False, greeted_again=False)


def one_request(address: str) -> None:
    """Right: one request, and the end."""
    with suppress(Gone):
        wire = Wire(address)
        wire.line()
        _ask(wire, REQUESTS[0])
        wire.close()


# -- one mistake each ---------------------------------------------------------------------------------


def never_reads_the_greeting(address: str) -> None:
    _in_order(address, REQUESTS, _ask, greeted=False, greeted_again=False)


def forgets_the_greeting_after_a_reconnect(address: str) -> None:
    _in_order(address, REQUESTS, _ask, greeted_again=False)


def one_request_without_greeting(address: str) -> None:
    with suppress(Gone):
        wire = Wire(address)
        _ask(wire, REQUESTS[0])
        wire.close()


def gives_up_the_greeting_soon(address: str) -> None:
    """It reads the greeting, but only if it comes at once."""
    wire = Wire(address)
    wire.socket.settimeout(0.01)
    with suppress(TimeoutError):
        wire.line()
    wire.socket.settimeout(PATIENCE)
    with suppress(Gone):
        for request in REQUESTS:
            _ask(wire, request)
    wire.close()


def one_receive_is_one_reply(address: str) -> None:
    def ask(wire: Wire, request: bytes) -> None:
        wire.send(request)
        wire.receive()

    _in_order(address, REQUESTS, ask)


def reads_to_the_cr(address: str) -> None:
    def ask(wire: Wire, request: bytes) -> None:
        wire.send(request)
        while b"\r" not in wire.receive(1):
            pass

    _in_order(address, REQUESTS, ask)


def small_buffer(address: str) -> None:
    """It reads at most 256 bytes for a reply."""

    def ask(wire: Wire, request: bytes) -> None:
        wire.send(request)
        line = b""
        while b"\n" not in line and len(line) < 256:
            line += wire.receive(256 - len(line))

    _in_order(address, REQUESTS, ask)


def asks_again_on_the_same_connection(address: str) -> None:
    """Its time limit is short, and it repeats the request."""

    def ask(wire: Wire, request: bytes) -> None:
        wire.socket.settimeout(1.0)
        try:
            _ask(wire, request)
        except TimeoutError:
            wire.socket.settimeout(PATIENCE)
            _ask(wire, request)

    _in_order(address, REQUESTS, ask)


def waits_for_ok(address: str) -> None:
    """It skips lines that are not an `ok`, until one comes."""

    def ask(wire: Wire, request: bytes) -> None:
        wire.send(request)
        while b",ok" not in wire.line():
            pass

    _in_order(address, REQUESTS, ask)


def leaves_the_reason(address: str) -> None:
    """It reads a `fail` only to the first blank, as C++ streams do, and takes the rest for the next reply."""

    def ask(wire: Wire, request: bytes) -> None:
        wire.send(request)
        text = wire.receive(1)
        while not text.endswith((b"\n", b" ")):
            text += wire.receive(1)

    _in_order(address, REQUESTS, ask)


def waits_for_its_name_and_ok_or_fail(address: str) -> None:
    """It does not know `invalid`."""

    def ask(wire: Wire, request: bytes) -> None:
        wire.send(request)
        while not any(code in wire.line() for code in (b",ok", b",fail")):
            pass

    _in_order(address, REQUESTS, ask)


def _hears_nothing_more() -> None:
    time.sleep(PATIENCE)


def hangs_when_the_connection_is_closed(address: str) -> None:
    """It reads the end of the connection again and again."""
    wire = Wire(address)
    wire.line()
    for request in REQUESTS:
        try:
            _ask(wire, request)
        except Gone:
            _hears_nothing_more()
    wire.close()


def hangs_when_it_is_reset(address: str) -> None:
    hangs_when_the_connection_is_closed(address)


def takes_an_incomplete_line(address: str) -> None:
    """At the end of the connection, it takes what it has for the reply."""
    wire = Wire(address)
    wire.line()
    with suppress(Gone):
        for request in REQUESTS:
            wire.send(request)
            with suppress(Gone):
                wire.line()
    wire.close()


def does_not_notice_the_end(address: str) -> None:
    takes_an_incomplete_line(address)


def crashes_at_a_failure(address: str) -> None:
    """It kills itself with a signal, as a C++ program with a wild pointer. For a process only."""
    wire = Wire(address)
    wire.line()
    with suppress(Gone):
        for request in REQUESTS:
            if b",fail" in _ask(wire, request):
                signal.signal(signal.SIGSEGV, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGSEGV)
    wire.close()


def _sending(name: str, request: bytes) -> Program:
    def program(address: str) -> None:
        _in_order(address, (REQUESTS[0], request, *REQUESTS[1:]), _ask)

    program.__name__ = name
    return program


unknown_command = _sending("unknown_command", b"?get-status\r\n")
capital_letters = _sending("capital_letters", b"?STATUS\r\n")
no_question_mark = _sending("no_question_mark", b"status\r\n")
too_many_arguments = _sending("too_many_arguments", b"?status,1\r\n")
too_few_arguments = _sending("too_few_arguments", b"?set-section,0,*,*\r\n")
blank_in_a_number = _sending("blank_in_a_number", b"?set-integration, 40\r\n")
float_for_an_integer = _sending("float_for_an_integer", b"?set-integration,40.0\r\n")
date_for_a_time = _sending("date_for_a_time", b"?start,2026-01-01T00:00:00\r\n")
nan_for_a_float = _sending("nan_for_a_float", b"?get-tpi,nan,0\r\n")
empty_argument = _sending("empty_argument", b"?set-filename,\r\n")
speaks_http = _sending("speaks_http", b"GET / HTTP/1.1\r\n")


def ignores_the_end(address: str) -> int:
    """A script that sends on a closed connection. The system would kill it."""
    wire = Wire(address)
    wire.line()
    try:
        for request in REQUESTS:
            _ask(wire, request)
    except Gone:
        return -signal.SIGPIPE
    finally:
        wire.close()
    return 0


# -- clients that cannot be judged --------------------------------------------------------------------


def exits_at_once(address: str) -> None: ...


def never_connects(address: str) -> None:
    _hears_nothing_more()


def only_connects(address: str) -> None:
    wire = Wire(address)
    with suppress(Gone):
        wire.line()
        wire.receive()
    wire.close()


def raises(address: str) -> None:
    raise RuntimeError("no such option")


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2] if len(sys.argv) > 2 else os.environ["DISCOS_BACKEND"])
