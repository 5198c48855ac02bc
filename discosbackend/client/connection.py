"""Connection: one request and its reply at a time, and never another's.

Sockets only, so that it starts fast and runs anywhere. What a reply means is decided in blocking.
"""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType
from typing import Self

from discosbackend.errors import GrammarException, NoReply
from discosbackend.grammar import LINEFEED, Message, parse_message
from discosbackend.log import address_text

__all__ = ["Connection"]

_GREETING = "version"

# Seconds for a connection: where nobody answers, waiting longer does not help.
_CONNECT = 10.0


class Connection:
    """A connection to a backend server, as a context manager.

    `timeout` is in seconds, for each reply; like the deployed clients it outlasts a server's own time limit.
    A server may greet late, or never: for the greeting it waits no longer than `greeting_wait` seconds. One that
    comes later than that is told from a reply by its name; only `version` has the same, and says the same.
    NoReply when the server cannot be reached.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8978,
        *,
        timeout: float = 100.0,
        greeting_wait: float = 1.0,
    ) -> None:
        self.host = host
        self.port = port
        self.timeout = timeout
        self.greeting: Message | None = None
        self._received = b""
        self._lock = threading.Lock()
        self._socket: socket.socket | None
        try:
            self._socket = socket.create_connection((host, port), min(timeout, _CONNECT))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, OverflowError, UnicodeError) as problem:
            # A port above 65535 and a name that no DNS could carry are no OSError.
            raise NoReply(f"no server at {address_text((host, port))}: {problem}") from problem
        try:
            self.greeting = self._read_message(time.monotonic() + min(greeting_wait, timeout))
        except TimeoutError:
            # It has none to give, or gives it later, to those who ask nothing.
            self.greeting = None
        except OSError as problem:
            self.close()
            raise NoReply(f"connection lost: {problem}") from problem
        except NoReply:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; what was asked for is carried out all the same."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def exchange(self, request: Message) -> Message:
        """Send a request and return its reply, whatever its code.

        NoReply when none comes, and the connection is closed then. ValueError for what the grammar cannot carry;
        nothing is sent then.
        """
        if not request.check_synthax():
            raise ValueError(f"no message of the protocol: {request!r}")
        # Threads that share a connection take turns.
        with self._lock:
            return self._exchange(request)

    def _exchange(self, request: Message) -> Message:
        if self._socket is None:
            raise NoReply("the connection is closed")
        try:
            self._check_nothing_came()
            self._socket.settimeout(self.timeout)
            self._socket.sendall(f"{request}{LINEFEED}".encode("latin-1"))
            return self._read_reply(request)
        except TimeoutError:
            self.close()
            raise NoReply(f"no reply to {request.name} within {self.timeout:g} s") from None
        except OSError as problem:
            self.close()
            raise NoReply(f"connection lost: {problem}") from problem
        except BaseException:
            # An interrupt too: the reply that was on its way would be the next request's.
            self.close()
            raise

    def _check_nothing_came(self) -> None:
        """Between two requests nothing comes but a late greeting; NoReply for a reply to nothing."""
        assert self._socket is not None
        self._socket.settimeout(0)
        try:
            chunk = self._socket.recv(65536)
        except BlockingIOError:
            # Nothing came, as it should be.
            pass
        else:
            if not chunk:
                raise NoReply("the server closed the connection")
            self._received += chunk
        while b"\n" in self._received:
            message = self._read_message(time.monotonic())
            if self.greeting is not None or message.name != _GREETING:
                raise NoReply(f"{str(message)!r} came though nothing was asked for")
            self.greeting = message

    def _read_reply(self, request: Message) -> Message:
        deadline = time.monotonic() + self.timeout
        reply = self._read_message(deadline)
        if self.greeting is None and reply.name == _GREETING and request.name != _GREETING:
            # It was on its way when we asked.
            self.greeting, reply = reply, self._read_message(deadline)
        if not reply.is_correct_reply(request):
            raise NoReply(f"{str(reply)!r} is no reply to {request.name}")
        return reply

    def _read_message(self, deadline: float) -> Message:
        """One whole line, as a message. TimeoutError when the deadline passes, NoReply for anything else."""
        assert self._socket is not None
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            chunk = self._socket.recv(65536)
            if not chunk:
                raise NoReply("the server closed the connection")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        text = line.decode("latin-1")
        try:
            return parse_message(text.removesuffix("\r"))
        except GrammarException as problem:
            raise NoReply(f"the server sent no message: {problem}: {text!r}") from problem
