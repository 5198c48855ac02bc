"""The options for monitoring, which the server and the tap share: the web server of --http, and DISCOS telemetry.

The modules of monitor are imported only if an option asks for them.
"""

from __future__ import annotations

import argparse
import errno
import ipaddress
import logging
import os
from collections.abc import Callable, Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

from discosbackend.cli.own_backend import CannotServe
from discosbackend.errors import reason_of
from discosbackend.log import address_text

if TYPE_CHECKING:
    from twisted.internet.interfaces import IListeningPort

    from discosbackend.monitor.batches import Batches, Watched
    from discosbackend.monitor.clock_health import ClockHealth
    from discosbackend.monitor.live import Live
    from discosbackend.monitor.recorder import Recorder
    from discosbackend.monitor.snapshot import Snapshot
    from discosbackend.monitor.state import About, ServerState
    from discosbackend.monitor.telemetry_publisher import Outlet, TelemetryPublisher, TelemetrySource
    from discosbackend.monitor.telemetry_socket import Keys

__all__ = [
    "WebServer",
    "add_http_options",
    "add_telemetry_options",
    "batches_of",
    "misplaced_telemetry",
    "start_http",
    "start_telemetry",
]

logger = logging.getLogger(__name__)

# The port of the telemetry proxy for publishers.
_PROXY_PORT = 16001
# The port at which clients expect it.
_CLIENT_PORT = 16000

_KEYS = "~/.config/discos/telemetry/client"

_COMPRESSIONS = ("none", "zlib")

_Address = tuple[str, int]


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
        """Stop listening, and close the connections. Return a Deferred that fires when it is done, or None."""
        self._clock.end()
        self._live.stop()
        return self.port.stopListening()


def batches_of(
    options: argparse.Namespace, recorder: Recorder | None, watched: Watched, reactor: Any
) -> Batches | None:
    """Return what gathers the records for the recorder, the web server and telemetry. None if there are none of these.

    Parameters
    ----------
    options
        The options of the command line.
    recorder
        The recorder, which gets the records, and is closed at the shutdown.
    watched
        The factory of what is watched.
    reactor
        The reactor.
    """
    others = ("http", "telemetry", "telemetry_bind")
    if recorder is None and all(getattr(options, name, None) is None for name in others):
        return None
    from discosbackend.monitor.batches import Batches
    from discosbackend.timers import timers_of

    batches = Batches(timers_of(reactor))
    batches.listen_to(watched)
    # The threads of Twisted's pool end during the shutdown, and one may never end.
    reactor.addSystemEventTrigger("during", "shutdown", batches.flush)
    # After the connections are closed.
    reactor.addSystemEventTrigger("after", "shutdown", batches.close)
    if recorder is not None:
        batches.listeners.append(recorder)
        reactor.addSystemEventTrigger("after", "shutdown", recorder.close)
    return batches


def start_http(
    options: argparse.Namespace,
    reactor: Any,
    batches: Batches,
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
    batches
        The records of what is watched.
    about
        Returns what is watched.
    names
        The names of the commands.
    state
        The state of the server. None for a tap.

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

    timers = batches.timers
    counters, clock = Counters(names), ClockHealth(timers)
    snapshot = Snapshot(counters, clock, about, state)
    live = Live(snapshot, timers, None if state is None else state.quick_look)
    resources = {**resources_of(snapshot, timers), **page_resources(snapshot, live, timers)}
    site = MonitorSite(resources, host_names(options.http_host or ()), timers, before_request=batches.flush)
    host, number = options.http
    try:
        port = reactor.listenTCP(number, site, interface=host)
    except CannotListenError as problem:
        raise CannotServe(_why_not(host, number, problem.socketError)) from problem
    batches.listeners += [counters, live]
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


# -- DISCOS telemetry ---------------------------------------------------------------------------------


def add_telemetry_options(
    parser: argparse.ArgumentParser,
    default_name: str = "by instrument, such as Sardara, or the name of the backend's class",
) -> None:
    """Add the options of DISCOS telemetry. Without them their values are None.

    Parameters
    ----------
    parser
        The parser.
    default_name
        What the help says about the name of the backend if none is given. "": that it is needed.
    """
    named = f"(default: {default_name})" if default_name else "(needed, because a tap does not know it)"
    group = parser.add_argument_group("DISCOS telemetry (pip install 'discosbackend[telemetry]')")
    group.add_argument(
        "--telemetry",
        metavar="HOST[:PORT]",
        type=_proxy_address,
        help=f"publish the state of the backend to the telemetry proxy of DISCOS (default port: {_PROXY_PORT})",
    )
    group.add_argument(
        "--telemetry-name",
        metavar="NAME",
        type=_name,
        help=f"the name of the backend in telemetry: letters, digits and _ {named}",
    )
    group.add_argument(
        "--telemetry-compression",
        choices=_COMPRESSIONS,
        help="how messages are compressed (default: none; the deployed clients cannot read zlib)",
    )
    group.add_argument(
        "--telemetry-keys",
        metavar="FOLDER",
        help=f"the folder with identity.key_secret and server.key for the proxy (default: {_KEYS} if it has them, or "
        "else no keys)",
    )
    group.add_argument(
        "--telemetry-bind",
        metavar="[HOST:]PORT",
        type=_own_address,
        help="serve telemetry to clients without a proxy, which uses port 16000 (default host: 127.0.0.1; port 0: any "
        "free port)",
    )


def misplaced_telemetry(options: argparse.Namespace) -> str:
    """Return an error if a telemetry option is given without the option that it belongs to; else ""."""
    for name, needed in (("name", ""), ("compression", ""), ("keys", "--telemetry")):
        if getattr(options, f"telemetry_{name}") is None or options.telemetry is not None:
            continue
        if needed or options.telemetry_bind is None:
            return f"--telemetry-{name} has no effect without {needed or '--telemetry or --telemetry-bind'}"
    return ""


def start_telemetry(
    options: argparse.Namespace,
    default_name: str,
    make_source: Callable[[], TelemetrySource],
    batches: Batches,
    reactor: Any,
) -> TelemetryPublisher:
    """Start to publish telemetry when the reactor runs, and until it stops.

    Parameters
    ----------
    options
        The options of the command line.
    default_name
        The name of the instrument, or of the class of the backend.
    make_source
        Makes what the telemetry reads.
    batches
        The records of what is watched.
    reactor
        The reactor.

    Returns
    -------
    publisher
        The publisher. Call its stop() if the reactor never runs.

    Raises
    ------
    CannotServe
        If pyzmq is not installed, a key cannot be read or the port is not free.
    """
    try:
        import zmq  # noqa: F401  # for the error message: the next imports need it
    except ImportError as problem:
        raise CannotServe(
            f"telemetry needs the package pyzmq: pip install 'discosbackend[telemetry]' ({problem})"
        ) from None
    from discosbackend.monitor import telemetry, telemetry_publisher, telemetry_socket

    name = options.telemetry_name or telemetry.default_name(default_name)
    compression = options.telemetry_compression or "none"
    outlets: list[Outlet] = []
    try:
        if options.telemetry is not None:
            host, port = options.telemetry
            proxy = telemetry_socket.ProxyConnection(host, port, _keys(options), reactor=reactor)
            outlets.append(proxy)
            proxy.open()
        if options.telemetry_bind is not None:
            empty = telemetry.encode({}, compression)
            host, port = options.telemetry_bind
            server = telemetry_socket.TelemetryServer(host, port, empty, reactor=reactor)
            outlets.append(server)
            server.open()
    except telemetry_socket.TelemetryError as problem:
        for outlet in outlets:
            outlet.close()
        raise CannotServe(f"telemetry: {problem}") from None
    publisher = telemetry_publisher.TelemetryPublisher(
        name,
        make_source(),
        outlets,
        reactor=batches.timers,
        compression=compression,
        before_message=batches.flush,
    )
    batches.listeners.append(publisher)
    reactor.callWhenRunning(publisher.start)
    reactor.addSystemEventTrigger("after", "shutdown", publisher.stop)
    return publisher


def _keys(options: argparse.Namespace) -> Keys | None:
    """Return the keys for the proxy. Raise TelemetryError if they cannot be read.

    The default folder need not exist, because a proxy on a desk may use no keys.
    """
    from discosbackend.monitor.telemetry_socket import IDENTITY, SERVER_KEY, Keys

    if options.telemetry_keys is not None:
        return Keys.load(Path(options.telemetry_keys))
    folder = Path(os.path.expanduser(_KEYS))
    if not any(os.path.lexists(folder / name) for name in (IDENTITY, SERVER_KEY)):
        return None
    return Keys.load(folder)


def _name(text: str) -> str:
    if not (text.isascii() and text.replace("_", "a").isalnum()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of letters, digits and _")
    return text


def _proxy_address(text: str) -> _Address:
    host, port = _split(text, _PROXY_PORT)
    if not host or port == "":
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST or HOST:PORT")
    return host, _port(text, port, 1) if port is not None else _PROXY_PORT


def _own_address(text: str) -> _Address:
    host, port = _split(text, _CLIENT_PORT)
    if port is None:
        host, port = "127.0.0.1", host
    if not host:
        raise argparse.ArgumentTypeError(f"{text!r} is not PORT or HOST:PORT")
    return host, _port(text, port, 0)


def _split(text: str, such_as: int) -> tuple[str, str | None]:
    """Split an address into the host and the port, which is None if there is none. An IPv6 host is in brackets.

    Parameters
    ----------
    text
        The address.
    such_as
        The port of the example in an error.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or rest[:1] not in ("", ":"):
            raise argparse.ArgumentTypeError(f"{text!r} is not [HOST]:PORT, such as [::1]:{such_as}")
        return host, rest[1:] if rest else None
    host, colon, port = text.partition(":")
    if ":" in port:
        raise argparse.ArgumentTypeError(f"{text!r}: write an IPv6 address in brackets, such as [::1]:{such_as}")
    if not all(each.isalnum() or each in ".-_" for each in host):
        raise argparse.ArgumentTypeError(f"{text!r} is not a host and a port")
    return host, port if colon else None


def _port(text: str, port: str, least: int) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and least <= int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"the port of {text!r} is not a number from {least} to 65535")
    return int(port)
