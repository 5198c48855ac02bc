"""The server program in this process, on a reactor in memory: everything but sockets, signals and waiting is real."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import twisted.logger
from twisted.internet.defer import maybeDeferred

from discosbackend.cli import server
from discosbackend.protocol import DBFactory

from .in_memory import Connection, greeted
from .programs import InMemory, Runs, as_from_a_shell, process_as_before

__all__ = ["Program", "served_in_memory"]


class Program:
    """The server program with a reactor in memory; `announced` has the lines that it printed."""

    def __init__(self, reactor: InMemory, out: StringIO, err: StringIO) -> None:
        self.reactor = reactor
        self._err = err
        self.announced = out.getvalue().splitlines()
        self.port, self._factory, _, self.interface = reactor.tcpServers[-1]
        # process_as_before() has put a mock there.
        beginner: Any = twisted.logger.globalLogBeginner
        self.twisted_observers: list[Any] = beginner.beginLoggingTo.call_args.args[0]

    @property
    def factory(self) -> DBFactory:
        """The factory of its connections."""
        assert isinstance(self._factory, DBFactory)
        return self._factory

    def connect(self) -> Connection:
        """A connection whose greeting has been read."""
        return greeted(self.factory)

    def ask(self, *requests: bytes) -> list[bytes]:
        """Send requests on a new connection, one after another, and return the reply lines."""
        connection = self.connect()
        replies = b"".join(connection.ask(request + b"\r\n") for request in requests).splitlines(keepends=True)
        connection.lose()
        return replies

    def log(self) -> str:
        """What it has written to standard error."""
        return self._err.getvalue()

    def stop(self) -> None:
        """Shut down as after SIGTERM. AssertionError if that does not end."""
        for phase in ("before", "during", "after"):
            ended: list[object] = []
            triggers = self.reactor.triggers.get(phase, {}).pop("shutdown", [])
            for function, arguments, options in triggers:
                maybeDeferred(function, *arguments, **options).addBoth(ended.append)
            for _ in range(100):
                if len(ended) < len(triggers):
                    self.reactor.advance(0.1)
            assert ended == [None] * len(triggers), ended


@contextmanager
def served_in_memory(*options: str, cwd: Path | str | None = None) -> Iterator[Program]:
    """The server program with these options, in an empty folder unless `cwd` is given; it is stopped at the end."""
    reactor, out, err = InMemory(), StringIO(), StringIO()
    # A program exits some time after its shutdown; this process must not.
    with process_as_before(reactor, cwd), mock.patch.object(server, "_leave_soon", return_value=None):
        try:
            with redirect_stdout(out), redirect_stderr(err):
                server.main(as_from_a_shell(options))
        except Runs:
            program = Program(reactor, out, err)
        except SystemExit as end:
            raise AssertionError(f"it ended with {end.code}: {err.getvalue()}") from None
        try:
            yield program
        finally:
            program.stop()
