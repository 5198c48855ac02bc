"""The options for monitoring, --http and --http-host, and what starts the web server. The modules of monitor are
imported only if it is asked for.
"""

from __future__ import annotations

import argparse
import errno
import ipaddress
import logging
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

from discosbackend.cli.own_backend import CannotServe
from discosbackend.errors import reason_of
from discosbackend.log import address_text

if TYPE_CHECKING:
    from twisted.internet.interfaces import IListeningPort

    from discosbackend.monitor.clock_health import ClockHealth
    from discosbackend.monitor.live import Live
    from discosbackend.monitor.snapshot import Snapshot
    from discosbackend.monitor.state import About, ServerState

__all__ = ["WebServer", "add_http_options", "start_http"]

logger = logging.getLogger(__name__)


def add_http_options(parser: argparse.ArgumentParser) -> None:
    """Add --http and --http-host."""
    group = parser.add_argument_group("monitoring")
    group.add_argument(
        "--http",
        metavar="[HOST:]PORT",
        type=_place,
        help="a web server for monitoring: a page for the browser, /health, /status.json and /metrics. It listens on "
        "127.0.0.1 unless HOST is given, such as 0.0.0.0:8080 or [::]:8080 for all addresses; 0 is a free port, which "
        "the log names (default: no web server)",
    )
    group.add_argument(
        "--http-host",
        metavar="NAME",
        action="append",
        type=_host_name,
        help="a name by which browsers may ask the web server, beside IP addresses, localhost and the name of this "
        "host; repeatable",
    )


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) < 6 and int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is not PORT or HOST:PORT, such as 8080 or [::1]:8080")
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    bare = "127.0.0.1" if bare in ("", "localhost") else bare
    try:
        is_address = (ipaddress.ip_address(bare).version == 6) == host.startswith("[")
    except ValueError:
        is_address = False
    if not is_address:
        raise argparse.ArgumentTypeError(
            f"{host[:50]!r} is not an address of this host, such as 127.0.0.1, 0.0.0.0 or [::1]"
        )
    return bare, int(port)


def _host_name(text: str) -> str:
    name = text.lower().removesuffix(".")
    if not (name.isascii() and name.replace("-", "a").replace("_", "a").replace(".", "a").isalnum()):
        raise argparse.ArgumentTypeError(
            f"{text[:50]!r} is not a host name, such as backend.example.org (without a port)"
        )
    return name


class WebServer:
    """The web server of --http, while it listens."""

    def __init__(self, port: IListeningPort, snapshot: Snapshot, clock: ClockHealth, live: Live) -> None:
        self.port = port
        self.snapshot = snapshot
        self._clock = clock
        self._live = live

    def close(self) -> Any:
        """Stop to listen, and close the connections. Return a Deferred that fires when it is done, or None."""
        self._clock.end()
        self._live.stop()
        return self.port.stopListening()


def start_http(
    options: argparse.Namespace,
    reactor: Any,
    listeners: list[Callable[[Any], object]],
    about: Callable[[], About],
    *,
    names: Container[str],
    state: ServerState | None = None,
) -> WebServer:
    """Start the web server that --http asks for.

    Parameters
    ----------
    options
        The command line.
    reactor
        The reactor.
    listeners
        The list of listeners of what is watched. The counters are appended to it.
    about
        Returns what is watched.
    names
        The names of the commands.
    state
        The state of the server. None behind a tap.

    Returns
    -------
    web
        The web server. Call its close() at the end.

    Raises
    ------
    CannotServe
        If it cannot listen.
    """
    from twisted.internet.error import CannotListenError

    from discosbackend.monitor.clock_health import ClockHealth
    from discosbackend.monitor.counters import Counters
    from discosbackend.monitor.live import Live
    from discosbackend.monitor.page import page_resources
    from discosbackend.monitor.site import MonitorSite, host_names, resources_of
    from discosbackend.monitor.snapshot import Snapshot

    counters, clock = Counters(names), ClockHealth(reactor)
    snapshot = Snapshot(counters, clock, about, state)
    live = Live(snapshot, reactor, None if state is None else state.quick_look)
    resources = {**resources_of(snapshot, reactor), **page_resources(snapshot, live, reactor)}
    site = MonitorSite(resources, host_names(options.http_host or ()), reactor)
    host, number = options.http
    try:
        port = reactor.listenTCP(number, site, interface=host)
    except CannotListenError as problem:
        raise CannotServe(_why_not(host, number, problem.socketError)) from problem
    listeners += [counters, live]
    clock.begin()
    live.start()
    logger.info("monitoring on http://%s/", address_text(port.getHost()))
    return WebServer(port, snapshot, clock, live)


def _why_not(host: str, number: int, reason: OSError) -> str:
    advice = {
        errno.EADDRINUSE: ": choose another port with --http; 0 finds a free one",
        errno.EADDRNOTAVAIL: ": this host does not have this address",
        errno.EACCES: ": only root can use a port below 1024",
    }.get(reason.errno or 0, "")
    return f"the web server of --http cannot listen on {address_text((host, number))}: {reason_of(reason)}{advice}"
