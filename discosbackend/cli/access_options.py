"""The options of the programs that serve clients: who may connect, the flight recorder, and the log.

Each part of a program has a function that adds its options, and a function that uses their values. A module that an
option needs is imported only if the option is given.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from discosbackend.cli.own_backend import CannotServe
from discosbackend.exchanges import ConnectionEvent, Exchange
from discosbackend.log import log_to_stderr, log_what_python_prints
from discosbackend.rate_limited_logger import RateLimitedLogger
from discosbackend.reactors import reactor_or_default
from discosbackend.twisted_log import LimitedObserver

if TYPE_CHECKING:
    from discosbackend.access import AccessRules
    from discosbackend.monitor.recorder import Recorder

__all__ = [
    "access_of",
    "add_access_options",
    "add_log_options",
    "add_record_options",
    "check_record_options",
    "configure_logging",
    "log_exchange",
    "recorder_of",
    "without_addresses",
]

logger = logging.getLogger(__name__)

_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")

# In MB.
_SIZE = 100
_LARGEST = 10**6


def add_access_options(parser: argparse.ArgumentParser) -> None:
    """Add --allow and --read-only. access_of() makes the rules."""
    group = parser.add_argument_group(
        "access",
        "NET is an address, such as 192.168.200.5 or 2001:db8::7, or a network, such as\n192.168.200.0/24. The longest "
        "prefix decides, so that a host can be an exception to\nits network.",
    )
    group.add_argument(
        "--allow",
        metavar="NET",
        action="append",
        type=_network,
        help="let only the clients of NET connect, and those of --read-only; can be repeated (default: everybody)",
    )
    group.add_argument(
        "--read-only",
        metavar="NET",
        action="append",
        type=_network,
        help="refuse the clients of NET every command that uses the device or files; can be repeated. Without --allow, "
        "all other clients may do everything",
    )


def access_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> AccessRules | None:
    """Return the rules of --allow and --read-only; None if there are none. Exit if they contradict each other."""
    if not options.allow and not options.read_only:
        return None
    from discosbackend.access import AccessRules

    try:
        return AccessRules(options.allow or (), options.read_only or ())
    except ValueError as problem:
        parser.error(f"--allow and --read-only: {problem}")


def without_addresses(endpoint: str) -> str:
    """Return why the clients of this endpoint string have no IP address of their own; "" if they have one."""
    kind, _, rest = endpoint.partition(":")
    if kind == "haproxy":
        return "every client has the address of the proxy, so set the rules in the proxy"
    if kind == "unix" or (kind == "systemd" and "domain=UNIX" in rest.split(":")):
        return "the permissions of the socket decide who may connect, see mode="
    return ""


def _network(text: str) -> str:
    from discosbackend.access import network_of

    try:
        network_of(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
    return text


def add_record_options(parser: argparse.ArgumentParser) -> None:
    """Add --record and --record-size. recorder_of() makes the recorder."""
    group = parser.add_argument_group("the flight recorder")
    group.add_argument(
        "--record",
        metavar="FILE",
        help="record every request with its reply, as lines of JSON; a recording that exists is continued (default: "
        "no recording)",
    )
    group.add_argument(
        "--record-size",
        metavar="MB",
        type=_megabytes,
        help=f"rename FILE to FILE.1 and begin a new one when it has this size (default: {_SIZE})",
    )


def check_record_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit if the options contradict each other."""
    if options.record_size is not None and options.record is None:
        parser.error("--record-size needs --record")


def recorder_of(options: argparse.Namespace, name: Callable[[], str]) -> Recorder | None:
    """Return the recorder of --record; None without this option. Raise CannotServe if its file cannot be used.

    Parameters
    ----------
    options
        The options.
    name
        Returns the name of the server.
    """
    if options.record is None:
        return None
    from discosbackend.monitor.recorder import Recorder, RecordingError

    try:
        return Recorder(options.record, server=name(), limit=(options.record_size or _SIZE) * 10**6)
    except RecordingError as problem:
        raise CannotServe(f"--record {options.record!r}: {problem}") from None


def _megabytes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= _LARGEST):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a number of MB from 1 to {_LARGEST}")
    return int(text)


def add_log_options(group: argparse._ArgumentGroup) -> None:
    """Add --log-level and --log-format. configure_logging() uses them."""
    group.add_argument(
        "--log-level",
        choices=_LOG_LEVELS,
        default="info",
        help="the lowest level that is logged to standard error; debug logs every request (default: %(default)s)",
    )
    group.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="json writes each message of the log as one line of JSON (default: %(default)s)",
    )


def configure_logging(options: argparse.Namespace) -> RateLimitedLogger:
    """Configure the log by --log-level and --log-format. Return the logger that limits the messages of Twisted."""
    from twisted.logger import STDLibLogObserver, globalLogBeginner

    formatter = None
    if options.log_format == "json":
        from discosbackend.json_log import JsonFormatter

        formatter = JsonFormatter()
    log_to_stderr(options.log_level.upper(), formatter=formatter)
    log_what_python_prints()
    # At level info, Twisted logs every port that opens or closes.
    logging.getLogger("twisted").setLevel(logging.DEBUG if options.log_level == "debug" else logging.WARNING)
    # Unhandled failures of Deferreds are then written to the same log.
    limited = RateLimitedLogger(logging.getLogger("twisted"), lambda *call: reactor_or_default().callLater(*call))
    observer = LimitedObserver(STDLibLogObserver(), limited)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    return limited


def log_exchange(exchange: Exchange | ConnectionEvent) -> None:
    """Log an exchange, at level debug: a listener of a DBFactory."""
    if isinstance(exchange, ConnectionEvent):
        # The connections themselves are logged already.
        return
    logger.debug("%s %r -> %r in %.6f s", exchange.peer, exchange.request, exchange.reply, exchange.seconds)
