"""Keeps a server busy with one slow command after another, on a connection of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.load import connect, receive
from benchmarks.servers import NotMeasured, Server

__all__ = ["kept_busy"]

_SECONDS = 0.25


@contextmanager
def kept_busy(server: Server, command: str) -> Iterator[None]:
    """Keep `command`, whose argument is its duration in seconds, running within this context.

    Two requests of a quarter of a second each are always pending; the connection runs one after the other. A thread
    sends the next one when a reply arrives.
    """
    request = f"?{command},{_SECONDS}\r\n".encode()
    expected = f"!{command},ok\r\n".encode()
    over = threading.Event()
    problems: list[str] = []

    def keep_on() -> None:
        wanted = 2
        try:
            while wanted:
                reply = receive(connection, 1)
                if reply != expected:
                    raise NotMeasured(f"{request!r} was answered {reply!r}")
                if over.is_set():
                    wanted -= 1
                else:
                    connection.sendall(request)
        except (NotMeasured, OSError) as problem:
            problems.append(str(problem))

    with connect(server.address) as connection:
        connection.sendall(request * 2)
        keeper = threading.Thread(target=keep_on, daemon=True)
        keeper.start()
        try:
            yield
        finally:
            over.set()
            keeper.join()
    if problems:
        raise NotMeasured(problems[0])
