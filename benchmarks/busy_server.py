"""A server that is kept busy: one slow command after the other, on a connection of its own."""

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
    """Keep `command`, which takes seconds as its argument, running as long as this lasts.

    Two of a quarter of a second are asked for all the time, and the connection runs one after the other. A
    thread sees to that, four times a second.
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
