"""Measures what a tap costs: the latency of one client, and the rate of 50 pipelining clients, against direct.

    python -m benchmarks.tap [--rounds 5] [OPTION-OF-THE-TAP ...]

Direct connections and connections through the tap take turns, so both have the same disturbances. Server, tap and
clients share the processors as the system decides.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.load import STATUS, Address, alone, connected, together
from benchmarks.servers import Server, our_server, unpin
from benchmarks.table import median, rate_text, time_text

__all__ = ["main", "measure"]

_CLIENTS, _DEPTH = 50, 100


def measure(direct: Address, tapped: Address, rounds: int, requests: int, batches: int) -> dict[str, list[float]]:
    """Return the p50 of one client in s, and the rate of 50 pipelining clients per s, of each round, by their names."""
    found: dict[str, list[float]] = {name: [] for name in ("p50", "p50 tapped", "rate", "rate tapped")}
    for number in range(rounds):
        pair = [(direct, ""), (tapped, " tapped")]
        for address, suffix in pair[:: -1 if number % 2 else 1]:
            with connected(address, 1) as (connection,):
                found[f"p50{suffix}"].append(alone(connection, STATUS, requests).p50)
            with connected(address, _CLIENTS) as connections:
                found[f"rate{suffix}"].append(together(connections, STATUS, batches, _DEPTH).rate)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tap", description="Measure what a tap costs.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=2000, metavar="N", help="of one client (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=10, metavar="N", help="of each of 50 (default: %(default)s)")
    options, further = parser.parse_known_args(arguments)
    with our_server() as server:
        unpin(server.pid)
        # Not as HOST:PORT, which would be the first address in the line of the tap.
        target = "tcp:host={}:port={}".format(*server.address)
        with Server("-m", "discosbackend.cli.tap", "127.0.0.1:0", target, *further) as tap:
            found = measure(server.address, tap.address, options.rounds, options.requests, options.batches)
    values = {name: median(each) for name, each in found.items()}
    more = values["p50 tapped"] - values["p50"]
    print(f"p50 direct {time_text(values['p50'])}, tapped {time_text(values['p50 tapped'])}: {time_text(more)} more")
    share = values["rate tapped"] / values["rate"]
    print(f"50 pipelining: {rate_text(values['rate'])}, tapped {rate_text(values['rate tapped'])}: {share:.2f} of it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
