"""Watches a server in a process of its own: ten open pages, and /metrics once a second, until standard input ends.

    python -m benchmarks.page_readers 127.0.0.1 PORT [metrics]

It prints `watching` when every page has got its first event, and at the end how many events they have got since then.
"""

from __future__ import annotations

import http.client
import select
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.load import Address
from benchmarks.servers import LOAD, Companion, NotMeasured

__all__ = ["watched"]

_PAGES = 10
_PERIOD = 1.0
_PATIENCE = 30.0


@contextmanager
def watched(web: Address, *, metrics: bool) -> Iterator[None]:
    """Watch a server by its web server within this context. Raise NotMeasured if its pages get no events."""
    further = ["metrics"] if metrics else []
    with Companion("-m", "benchmarks.page_readers", web[0], str(web[1]), *further, cpu=LOAD) as readers:
        if readers.read_line() != "watching\n":
            raise NotMeasured("the pages get no events")
        yield
        readers.write_line("enough")
        if not int(readers.read_line()):
            raise NotMeasured("the pages got no events while the server was measured")


def main(web: Address, *, metrics: bool) -> None:
    """Open the pages, read them, and ask for the metrics."""
    with ExitStack() as stack:
        pages = [stack.enter_context(_opened(web)) for _ in range(_PAGES)]
        print("watching", flush=True)
        events, scraped = 0, time.monotonic()
        while True:
            left = max(scraped + _PERIOD - time.monotonic(), 0)
            readable, _, _ = select.select([sys.stdin, *pages], [], [], left)
            if sys.stdin in readable:
                break
            for page in pages:
                if page not in readable:
                    continue
                data = page.recv(65536)
                if not data:
                    raise SystemExit("a page was closed")
                events += data.count(b"\nevent: ") + data.startswith(b"event: ")
            if time.monotonic() >= scraped + _PERIOD:
                scraped = time.monotonic()
                if metrics:
                    _scrape(web)
    print(events, flush=True)


@contextmanager
def _opened(web: Address) -> Iterator[socket.socket]:
    """Open the events of a page, and wait for the first one."""
    with socket.create_connection(web, _PATIENCE) as page:
        page.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n")
        received = b""
        while b"event: " not in received:
            data = page.recv(65536)
            if not data:
                raise SystemExit(f"no events: {received[:200]!r}")
            received += data
        yield page


def _scrape(web: Address) -> None:
    connection = http.client.HTTPConnection(*web, timeout=_PATIENCE)
    try:
        connection.request("GET", "/metrics")
        reply = connection.getresponse()
        if reply.status != 200 or b"discos_" not in reply.read():
            raise SystemExit(f"/metrics is answered with {reply.status}")
    finally:
        connection.close()


if __name__ == "__main__":
    main((sys.argv[1], int(sys.argv[2])), metrics="metrics" in sys.argv[3:])
