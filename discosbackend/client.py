"""Client: talk to a backend server, one request and its reply at a time.

Sockets only, so that it starts at once and runs anywhere; as a program, `python -m discosbackend.client
127.0.0.1:8978 status` prints the reply. What the commands mean is said in commands.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn

from discosbackend.errors import GrammarException, NoReply, RequestFailed, RequestInvalid
from discosbackend.grammar import FAIL, LINEFEED, OK, REQUEST, SEPARATOR, Message, parse_message

__all__ = ["Client", "main"]

_GREETING = "version"

# Seconds for a connection: where nobody answers, waiting longer does not help.
_CONNECT = 10.0


class Client:
    """A connection to a backend server, as a context manager.

        with Client("127.0.0.1", 8978) as client:
            timestamp, text, acquiring = client.request("status")

    `timeout` is in seconds, for each reply; like the deployed clients it outlasts a server's own time limit.
    A server may greet late, or never: for the greeting it waits no longer than `greeting_wait` seconds.
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
        self._socket: socket.socket | None
        try:
            self._socket = socket.create_connection((host, port), min(timeout, _CONNECT))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, OverflowError, UnicodeError) as problem:
            # A port above 65535 and a name that no DNS could carry are no OSError.
            raise NoReply(f"no server at {host}:{port}: {problem}") from problem
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

    def __enter__(self) -> Client:
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

    def request(self, name: str, *arguments: str) -> list[str]:
        """Send one request and return the arguments of its `ok` reply.

        RequestFailed or RequestInvalid, with the server's reason, for another code. NoReply when no reply to
        this request comes: the connection is closed then, lest a late reply be taken for the next one's.
        ValueError for what the grammar cannot carry; nothing is sent then.
        """
        reply = self.exchange(Message(message_type=REQUEST, name=name, arguments=arguments))
        reason = ",".join(reply.arguments)
        if reply.code == OK:
            return reply.arguments
        raise RequestFailed(reason) if reply.code == FAIL else RequestInvalid(reason)

    def exchange(self, request: Message) -> Message:
        """Send a request and return its reply, whatever its code. Raises what request() says."""
        if not request.check_synthax():
            raise ValueError(f"no message of the protocol: {request!r}")
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


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Print the reply to one request. Exit status 0 if it is `ok`, 1 if not or if none comes, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m discosbackend.client",
        description="Send one request to a DISCOS backend server and print the reply.",
        epilog="examples:  127.0.0.1:8978 status   127.0.0.1:8978 set-enable 0 3   127.0.0.1:8978 '?get-tpi,0,0'",
    )
    parser.add_argument("address", metavar="HOST:PORT", type=_address, help="where the server listens")
    parser.add_argument("name", help="the command, or a whole request as it stands on the wire")
    parser.add_argument("arguments", nargs="*", help="its arguments, as they are: escapes are added")
    parser.add_argument(
        "--timeout", type=float, default=100.0, metavar="SECONDS", help="for the reply (default: %(default)g)"
    )
    options = parser.parse_args(arguments)
    request = Message(message_type=REQUEST, name=options.name, arguments=options.arguments)
    if not options.arguments and (options.name.startswith(REQUEST) or SEPARATOR in options.name):
        try:
            request = parse_message(REQUEST + options.name.removeprefix(REQUEST))
        except GrammarException as problem:
            parser.error(f"{options.name!r} is no request: {problem}")
    if not request.check_synthax():
        parser.error("no message can carry that: a name has letters, digits and hyphens, no argument is empty")
    host, port = options.address
    try:
        with Client(host, port, timeout=options.timeout) as client:
            reply = client.exchange(request)
    except NoReply as problem:
        print(problem, file=sys.stderr)
        sys.exit(1)
    print(reply)
    sys.exit(0 if reply.code == OK else 1)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8978")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    main()
