"""A load in a process of its own: 50 clients, each pipelining 200 requests, until standard input has data or ends.

    python -m benchmarks.flood 127.0.0.1 PORT

It prints `flooding` once every client has received replies, and at the end how many requests were answered since then.
Every reply is checked; if one is lost, the process exits.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.load import STATUS, Address, batches, check, connected
from benchmarks.servers import LOAD, Companion, NotMeasured, Server

__all__ = ["flooded"]

_CLIENTS, _DEPTH = 50, 200
# More batches than can be answered before it is ended: a quarter of an hour at a million requests a second.
_MOST = 5_000_000


@contextmanager
def flooded(server: Server) -> Iterator[None]:
    """Flood a server within this context. Raise NotMeasured if a reply is lost or too few are received."""
    host, port = server.address
    with Companion("-m", "benchmarks.flood", host, str(port), cpu=LOAD) as flood:
        if flood.read_line() != "flooding\n":
            raise NotMeasured("the flood does not start")
        yield
        flood.write_line("enough")
        if (answered := int(flood.read_line())) < _CLIENTS * _DEPTH:
            raise NotMeasured(f"the flood was none: {answered} requests were answered while it lasted")


def main(address: Address) -> None:
    """Flood the server at this address."""
    enough = select.poll()
    enough.register(sys.stdin, select.POLLIN)
    answered = 0
    batch = STATUS.times(_DEPTH)
    with connected(address, _CLIENTS) as connections:
        # One batch of each client.
        for _, replies in batches(connections, batch, _DEPTH, _CLIENTS):
            check(replies, STATUS, _DEPTH)
        print("flooding", flush=True)
        for _, replies in batches(connections, batch, _DEPTH, _MOST):
            check(replies, STATUS, _DEPTH)
            answered += 1
            if enough.poll(0):
                break
    print(answered * _DEPTH, flush=True)


if __name__ == "__main__":
    try:
        main((sys.argv[1], int(sys.argv[2])))
    except NotMeasured as problem:
        sys.exit(str(problem))
