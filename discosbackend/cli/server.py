"""`discos-backend-server`: serves a simulated instrument, or a backend of the user's own.

This module has the options, and configures the log. simulator_options.py has the options of a simulated instrument,
simulated.py makes it and is imported only for that, and own_backend.py finds a backend of the user's own.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

from discosbackend import ticks
from discosbackend.cli.access_options import (
    access_of,
    add_access_options,
    add_log_options,
    add_record_options,
    check_record_options,
    configure_logging,
    log_exchange,
    recorder_of,
    without_addresses,
)
from discosbackend.cli.argument_types import add_config, add_version, errors_name_file, not_negative, parse
from discosbackend.cli.monitor_options import (
    add_http_options,
    add_telemetry_options,
    batches_of,
    misplaced_telemetry,
    start_http,
    start_telemetry,
)
from discosbackend.cli.own_backend import CannotServe, load
from discosbackend.cli.simulator_options import add_options, misplaced
from discosbackend.commands import COMMANDS
from discosbackend.errors import in_one_line, reason_of
from discosbackend.handlers import REPLY_LIMIT, DBProtocolHandler
from discosbackend.log import address_text, printable
from discosbackend.protocol import DBFactory
from discosbackend.reactors import REACTORS, install_reactor, reactor_for
from discosbackend.server import (
    DEFAULT_PORT,
    STOP_TIMEOUT,
    Server,
    greeting_delay_of,
    longest_exit,
    name_of,
    run_until_stopped,
    tcp_endpoint,
)
from discosbackend.standard_output import announce, write_result
from discosbackend.watchdog import LIMIT

if TYPE_CHECKING:
    from twisted.internet.interfaces import IStreamServerEndpoint

    from discosbackend.access import AccessRules
    from discosbackend.cli.monitor_options import WebServer
    from discosbackend.cli.simulated import Simulation
    from discosbackend.monitor.batches import Batches
    from discosbackend.monitor.recorder import Recorder
    from discosbackend.monitor.telemetry_publisher import TelemetryPublisher, TelemetrySource
    from discosbackend.rate_limited_logger import RateLimitedLogger

__all__ = ["main"]

logger = logging.getLogger(__name__)

# How many s the threads of the backend have to end after the server has stopped.
_LAST_PATIENCE = 2.0

# The shortest WatchdogSec= that --print-unit writes, in s.
_SHORTEST_WATCHDOG = 60.0

CONTRADICTORY = (("listen", "port"), ("listen", "interface"), ("data", "no_data"))
"""Pairs of options that main() refuses together. One on the command line replaces the other one in a --config file."""

EXAMPLES = """\
examples:
  %(prog)s                                    serve the default simulated instrument on 127.0.0.1:8978
  %(prog)s --simulate skarab --port 10000     serve another instrument on another port
  %(prog)s --list                             list the instruments and their configurations
  %(prog)s --show sardara > mine.toml         copy a profile, to edit it and use it with --simulate mine.toml
  %(prog)s --sky maser.toml --control 0       with radio sources, and with control by discos-backend-simctl
  %(prog)s --backend mybackend:MyBackend --interface 0.0.0.0
                                              serve your own class, on all IPv4 interfaces
  %(prog)s --http 8080                        with a web server for monitoring, on http://127.0.0.1:8080/
  %(prog)s --interface 0.0.0.0 --allow 192.168.200.5 --read-only 192.168.200.0/24
                                              one host commands, its network may only read
  %(prog)s --record exchanges.jsonl           record every request with its reply
  %(prog)s --telemetry proxy.example.org      publish the state to the telemetry proxy of DISCOS
  %(prog)s --listen unix:/run/discos.sock     any Twisted endpoint: unix:, ssl:, systemd:, tcp6:
  %(prog)s --config server.toml --port 8979   options from a file; those on the command line have precedence
  %(prog)s --backend mybackend:MyBackend --print-unit > discos-backend.service
                                              write a systemd unit

Then, from another terminal:  printf '?status\\r\\n' | nc -N 127.0.0.1 8978
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Serve until a signal arrives.

    The exit status is 0 after a signal, 1 if the backend cannot be served, 2 for an invalid command line.

    Parameters
    ----------
    arguments
        The command line without the program's name. Default: that of the process.
    """
    parser = _parser()
    options = parse(parser, arguments, CONTRADICTORY)
    if options.list is not None or options.show is not None:
        from discosbackend.cli.simulated import listing

        _print(parser, listing(parser, options))
    with errors_name_file(parser, options, arguments):
        access = _checked(parser, options)
    if options.print_unit is not None:
        _print(parser, _unit(parser, options, sys.argv[1:] if arguments is None else arguments))
    limited = configure_logging(options)
    # Before the module of the backend is imported, which may import the reactor.
    if options.reactor is not None:
        try:
            install_reactor(options.reactor)
        except RuntimeError as problem:
            parser.exit(1, f"{parser.prog}: {printable(str(problem))}\n")
    # astropy would download leap seconds, and the server would be blocked meanwhile.
    ticks.astropy_may_download = False
    try:
        if options.backend is not None:
            backend = load(options.backend, lambda kind: _install_reactor(options, kind))
            _serve(options, limited, access, backend)
        else:
            from discosbackend.cli.simulated import simulation, unknown

            if wrong := unknown(options.simulate):
                with errors_name_file(parser, options, arguments):
                    parser.error(wrong)
            simulated = simulation(options)
            _serve(options, limited, access, simulated.backend, simulated)
    except CannotServe as problem:
        parser.exit(1, f"{parser.prog}: {printable(str(problem))}\n")
    except KeyboardInterrupt:
        # From then on, the server handles SIGINT.
        parser.exit(1, f"{parser.prog}: interrupted before it was listening\n")
    sys.exit(0)


def _checked(parser: argparse.ArgumentParser, options: argparse.Namespace) -> AccessRules | None:
    """Exit with an error if options contradict each other. Return the rules of --allow and --read-only."""
    if options.backend is not None and (wrong := misplaced(options)):
        parser.error(f"{wrong} is for simulated instruments only: leave it out with --backend")
    if options.data is not None and options.no_data:
        parser.error("--data and --no-data contradict each other: leave out one of them")
    if options.listen is not None and (options.port is not None or options.interface is not None):
        parser.error("--listen includes the port and the interface: leave out --port and --interface")
    if options.http_host is not None and options.http is None:
        parser.error("--http-host is for the web server: add --http")
    access = access_of(parser, options)
    if access is not None and (why := without_addresses(options.listen or "")):
        parser.error(f"--allow and --read-only have no effect with --listen {options.listen}: {why}")
    check_record_options(parser, options)
    if wrong := misplaced_telemetry(options):
        parser.error(wrong)
    return access


def _print(parser: argparse.ArgumentParser, text: str) -> NoReturn:
    """Write a text to standard output, and exit."""
    try:
        write_result(text)
    except OSError as problem:
        parser.exit(1, f"{parser.prog}: cannot write to standard output: {reason_of(problem)}\n")
    sys.exit(0)


def _unit(parser: argparse.ArgumentParser, options: argparse.Namespace, arguments: Sequence[str]) -> str:
    """Return the systemd unit of this command line. Exit with an error if there can be none."""
    from discosbackend.cli.unit import created_files, this_unit

    if options.print_unit == "template" and options.config is not None:
        parser.error("--print-unit template adds --config, with a file for each instance: leave out --config")
    # A method that blocks the server for longer than the time limit of a command is certainly stuck.
    watchdog = max(options.command_timeout or 0.0, _SHORTEST_WATCHDOG)
    try:
        unit = this_unit(
            arguments,
            options.print_unit,
            watchdog=watchdog,
            stop=longest_exit(options.stop_timeout),
            files=created_files(options),
        )
        return str(unit)
    except CannotServe as problem:
        parser.exit(1, f"{parser.prog}: {printable(str(problem))}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="discos-backend-server",
        # Short, because it precedes every error message. With all options it would have twelve lines.
        usage="%(prog)s [--simulate INSTRUMENT | --backend MODULE:NAME] [--help] [other options]",
        description="Serve a backend over the DISCOS backend protocol.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--simulate",
        metavar="INSTRUMENT",
        default="discos",
        help="serve a simulated instrument: a name from --list, the path of your own instrument profile (TOML), or "
        "MODULE:CLASS, your own class derived from SimulatedBackend (default: %(default)s)",
    )
    what.add_argument(
        "--backend",
        metavar="MODULE:NAME",
        help="serve your own backend: a class or function, which is called without arguments, or an instance; the "
        "current folder is searched too",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--list",
        metavar="INSTRUMENT",
        nargs="?",
        const="",
        help="print the simulated instruments with their configurations, or only this one, and exit",
    )
    instead.add_argument(
        "--show",
        metavar="INSTRUMENT",
        help="print the profile (a TOML file) of a simulated instrument, to copy and edit, and exit",
    )
    instead.add_argument(
        "--print-unit",
        nargs="?",
        const="service",
        choices=("service", "template"),
        help="print the systemd unit that starts the server with this command line, and exit; with template, the unit "
        "of several instruments, each with a file for --config",
    )
    where = parser.add_argument_group("where")
    where.add_argument(
        "--listen", metavar="ENDPOINT", help="a Twisted endpoint string, such as tcp:8978:interface=127.0.0.1"
    )
    where.add_argument(
        "--port",
        type=_port,
        help=f"TCP port, 0 for a free one (default: {DEFAULT_PORT})",
    )
    where.add_argument(
        "--interface", metavar="ADDRESS", help="address to listen on, 0.0.0.0 for all (default: 127.0.0.1)"
    )
    add_options(parser)
    _add_limits(parser)
    add_http_options(parser)
    add_access_options(parser)
    add_record_options(parser)
    add_telemetry_options(parser)
    parser.add_argument(
        "--reactor",
        choices=REACTORS,
        help="the event loop: with asyncio, methods can await asyncio code (default: what the backend's class says in "
        "its attribute reactor, or else default, the choice of Twisted)",
    )
    add_config(parser)
    add_version(parser)
    return parser


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the options for time limits, sizes and the log."""
    how = parser.add_argument_group("how")
    how.add_argument(
        "--command-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=60.0,
        help="the time limit of a command, 0 for none (default: %(default)g; the deployed clients wait 100 s)",
    )
    how.add_argument(
        "--greeting-delay",
        metavar="SECONDS",
        type=_seconds,
        help="greet a client only after it has sent nothing for this time (default: the backend's greeting_delay, or "
        "0; use 5 for clients that do not read the greeting when they reconnect, and 0 for MISTRAL)",
    )
    how.add_argument(
        "--reply-limit",
        metavar="BYTES",
        type=_reply_limit,
        default=REPLY_LIMIT,
        help="the length of the longest reply, with CR LF, 0 for no limit (default: %(default)s, the longest that the "
        "deployed clients can read)",
    )
    how.add_argument(
        "--stop-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=STOP_TIMEOUT,
        help="how long running commands may take to finish when the server is stopped (default: %(default)g)",
    )
    how.add_argument(
        "--watchdog",
        metavar="SECONDS",
        type=_seconds,
        default=LIMIT,
        help="log which method blocks the server for longer than this, 0 for never (default: %(default)g)",
    )
    add_log_options(how)


def _seconds(text: str) -> float:
    return not_negative(text, "a number of seconds, 0 or more")


def _whole(text: str, most: int, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a {what} from 0 to {most}")
    return int(text)


def _port(text: str) -> int:
    return _whole(text, 65535, "port")


def _reply_limit(text: str) -> int | None:
    limit = _whole(text, 2**20, "number of bytes")
    if 0 < limit < 128:
        raise argparse.ArgumentTypeError(f"{text!r} is too short for a reason: at least 128, or 0 for no limit")
    return limit or None


def _install_reactor(options: argparse.Namespace, backend: Any) -> None:
    """Install the reactor that the options choose, or else the class of the backend. `backend` can be the class."""
    try:
        install_reactor(reactor_for(backend, options.reactor))
    except (RuntimeError, ValueError) as problem:
        raise CannotServe(str(problem)) from problem


def _serve(
    options: argparse.Namespace,
    limited: RateLimitedLogger,
    access: AccessRules | None,
    backend: Any,
    simulation: Simulation | None = None,
) -> None:
    _install_reactor(options, backend)
    from twisted.internet import reactor

    try:
        handler = DBProtocolHandler(
            backend, command_timeout=options.command_timeout or None, reply_limit=options.reply_limit
        )
        delay = greeting_delay_of(handler) if options.greeting_delay is None else options.greeting_delay
    except Exception as problem:
        raise CannotServe(f"{type(backend).__name__} cannot be served: {in_one_line(problem)}") from problem
    reactor.addSystemEventTrigger("during", "shutdown", limited.sum_up)
    reactor.addSystemEventTrigger("during", "shutdown", _leave_soon)
    make = DBFactory if simulation is None else simulation.factory
    factory = make(handler, greeting_delay=delay, access=access)
    if logger.isEnabledFor(logging.DEBUG):
        factory.listeners.append(log_exchange)
    server = Server(_endpoint(options, factory), factory, stop_timeout=options.stop_timeout)
    started = ExitStack()
    try:
        recorder = recorder_of(options, partial(name_of, handler))
        if recorder is not None:
            started.callback(recorder.close)
        batches = batches_of(options, recorder, factory, factory.reactor)
        channel = None if simulation is None else simulation.control(factory)
        if channel is not None:
            started.callback(channel.close)
            # After the server's own line, which scripts wait for.
            reactor.callWhenRunning(reactor.callLater, 0, announce, channel.announcement())
            reactor.addSystemEventTrigger("before", "shutdown", channel.close)
        web = None
        if batches is not None and options.http is not None:
            web = _start_http(options, server, batches, recorder)
            started.callback(web.close)
        if batches is not None and (options.telemetry is not None or options.telemetry_bind is not None):
            name = type(backend).__name__ if simulation is None else simulation.backend.instrument.name
            telemetry = _start_telemetry(options, server, batches, name)
            started.callback(telemetry.stop)
            if web is not None:
                web.snapshot.telemetry = telemetry.to_dict
        run_until_stopped(server, reactor, watchdog=options.watchdog)
    except Exception as problem:
        started.close()
        if isinstance(problem, CannotServe):
            raise
        raise CannotServe(_why_not_listening(options, problem)) from problem


def _start_http(options: argparse.Namespace, server: Server, batches: Batches, recorder: Recorder | None) -> WebServer:
    """Start the web server for monitoring. It is closed at the shutdown."""
    from discosbackend.monitor.state import ServerState

    factory = server.factory
    state = ServerState(server)
    names = getattr(factory.handler, "commands", COMMANDS)
    web = start_http(options, factory.reactor, batches, lambda: state.about, names=names, state=state)
    if recorder is not None:
        web.snapshot.recorder = recorder.to_dict
    factory.reactor.addSystemEventTrigger("before", "shutdown", web.close)
    return web


def _start_telemetry(options: argparse.Namespace, server: Server, batches: Batches, name: str) -> TelemetryPublisher:
    """Start to publish telemetry. It ends with the shutdown. `name` is that of the instrument or of the class."""

    def source() -> TelemetrySource:
        from discosbackend.monitor.state import ServerState
        from discosbackend.monitor.telemetry_publisher import ServerSource

        return ServerSource(ServerState(server), server.factory.handler)

    return start_telemetry(options, name, source, batches, server.factory.reactor)


def _endpoint(options: argparse.Namespace, factory: DBFactory) -> IStreamServerEndpoint:
    """Return where to listen. If faults can refuse connections, it is a pausable endpoint."""
    from twisted.internet import reactor

    if options.listen is None:
        port = DEFAULT_PORT if options.port is None else options.port
        endpoint = tcp_endpoint(reactor, port, "127.0.0.1" if options.interface is None else options.interface)
    else:
        try:
            from discosbackend.endpoints import endpoint_from

            endpoint = endpoint_from(reactor, options.listen)
        except ValueError as problem:
            raise CannotServe(f"--listen {options.listen!r} is not a valid endpoint: {problem}") from problem
    pausable_endpoint = getattr(factory, "pausable_endpoint", None)
    return endpoint if pausable_endpoint is None else cast("IStreamServerEndpoint", pausable_endpoint(endpoint))


def _why_not_listening(options: argparse.Namespace, problem: Exception) -> str:
    """Return a sentence that says where, why not, and what to do."""
    reason = getattr(problem, "socketError", problem)
    number = getattr(reason, "errno", None)
    if number is None:
        return f"cannot listen: {in_one_line(problem)}"
    where = options.listen
    if where is None:
        where = address_text((options.interface or "127.0.0.1", DEFAULT_PORT if options.port is None else options.port))
    advice = _ADVICE.get(number, "")
    if number == errno.EADDRINUSE and options.listen is None:
        advice += " port with --port; 0 finds a free one"
    # The numbers of socket.gaierror are not those of errno.
    why = reason.strerror if isinstance(reason, socket.gaierror) else os.strerror(number)
    return f"cannot listen on {where}: {why}{advice and f': {advice}'}"


_ADVICE = {
    errno.EADDRINUSE: "stop the program that listens there, perhaps an earlier server, or choose another",
    errno.EADDRNOTAVAIL: "this host does not have this address; --interface 0.0.0.0 listens on all its addresses",
    errno.EACCES: "only root can use a port below 1024, and a socket needs a writable folder",
    errno.ENOENT: "create its folder first",
}


def _leave_soon() -> None:
    """Exit after a time limit, because Twisted waits for the threads of its pool, and one may never end."""

    def leave() -> None:
        logger.warning("a thread of the backend does not end: exiting without it")
        logging.shutdown()
        os._exit(0)

    timer = threading.Timer(_LAST_PATIENCE, leave)
    timer.daemon = True
    timer.start()
