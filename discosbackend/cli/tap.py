"""`discos-backend-tap`: passes the connections of clients on to a server, and watches them.

This module has the options, and starts what they ask for. The package tap has the connections.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from discosbackend._version import __protocol_version__, __version__
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
from discosbackend.cli.argument_types import (
    REPORTS,
    add_config,
    add_report_options,
    add_version,
    errors_name_file,
    not_negative,
    parse,
)
from discosbackend.cli.monitor_options import (
    add_http_options,
    add_telemetry_options,
    batches_of,
    misplaced_telemetry,
    start_http,
    start_telemetry,
)
from discosbackend.cli.own_backend import CannotServe
from discosbackend.client.address import host_and_port
from discosbackend.commands import COMMANDS
from discosbackend.errors import in_one_line, reason_of
from discosbackend.log import printable
from discosbackend.server import Server, run_until_stopped, tcp_endpoint
from discosbackend.standard_output import escape_output
from discosbackend.tap.proxy import TapFactory

if TYPE_CHECKING:
    from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint

    from discosbackend.access import AccessRules
    from discosbackend.cli.monitor_options import WebServer
    from discosbackend.monitor.batches import Batches
    from discosbackend.monitor.recorder import Recorder
    from discosbackend.monitor.telemetry_publisher import TelemetryPublisher, TelemetrySource
    from discosbackend.rate_limited_logger import RateLimitedLogger
    from discosbackend.tap.judge import Judge

__all__ = ["main"]

logger = logging.getLogger(__name__)

# The kinds of endpoints of Twisted. What begins otherwise is HOST:PORT.
_KINDS = ("tcp", "tcp6", "unix", "ssl", "tls", "systemd", "haproxy", "host", "stdio", "fd")

# How many s an attempt to connect to the target may take.
_CONNECTING = 5.0

EXAMPLES = """\
examples:
  %(prog)s 0.0.0.0:10000 192.168.200.7:10000 --record exchanges.jsonl
                                              record every request with its reply
  %(prog)s 127.0.0.1:8979 127.0.0.1:8978 --http 8080
                                              with a web server for monitoring, on http://127.0.0.1:8080/
  %(prog)s 0.0.0.0:10000 192.168.200.7:10000 --allow 192.168.200.5 --read-only 192.168.200.0/24
                                              one host commands, its network may only read
  %(prog)s 127.0.0.1:8979 127.0.0.1:8978 --judge --html report.html
                                              compare the server and its clients with the protocol
  %(prog)s 127.0.0.1:8979 127.0.0.1:8978 --telemetry proxy.example.org --telemetry-name Sardara
                                              publish the state to the telemetry proxy of DISCOS
  %(prog)s unix:/run/tap.sock tcp:192.168.200.7:10000
                                              any Twisted endpoints: of a server, and of a client

exit status:
  0    it was stopped by a signal, and --judge has found no violation
  1    it cannot listen, or --judge has found a violation, or a report could not be written
  2    the command line is invalid
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Pass connections on until a signal arrives.

    For the exit status see EXAMPLES.

    Parameters
    ----------
    arguments
        The command line without the program's name. Default: that of the process.
    """
    parser = _parser()
    options = parse(parser, arguments)
    with errors_name_file(parser, options, arguments):
        access = _checked(parser, options)
    limited = configure_logging(options)
    status = 0
    try:
        if options.judge:
            status = _judge(options, limited, access)
        else:
            _serve(options, limited, access)
    except CannotServe as problem:
        parser.exit(1, f"{parser.prog}: {printable(str(problem))}\n")
    except KeyboardInterrupt:
        # From then on, the tap handles SIGINT.
        parser.exit(1, f"{parser.prog}: interrupted before it was listening\n")
    sys.exit(status)


def _checked(parser: argparse.ArgumentParser, options: argparse.Namespace) -> AccessRules | None:
    """Exit with an error if options contradict each other. Return the rules of --allow and --read-only."""
    if options.listen is None or options.target is None:
        parser.error("write LISTEN and TARGET before the options, such as 127.0.0.1:8979 127.0.0.1:8978")
    if options.http_host is not None and options.http is None:
        parser.error("--http-host is for the web server: add --http")
    if wrong := misplaced_telemetry(options):
        parser.error(wrong)
    if _has_telemetry(options) and options.telemetry_name is None:
        parser.error("telemetry needs the name of the backend, which a tap does not know: add --telemetry-name")
    access = access_of(parser, options)
    if access is not None and (why := without_addresses(options.listen)):
        parser.error(f"--allow and --read-only have no effect on {options.listen}: {why}")
    check_record_options(parser, options)
    for name in REPORTS:
        if getattr(options, name) is not None and not options.judge:
            parser.error(f"--{name} is a report of --judge: add --judge")
    return access


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="discos-backend-tap",
        usage="%(prog)s LISTEN TARGET [--help] [options]",
        description="Pass the connections of clients on to a server of the DISCOS backend protocol, unchanged, and "
        "watch them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Not required, because the file of --config is checked without them.
    parser.add_argument(
        "listen",
        metavar="LISTEN",
        nargs="?",
        help="where clients connect: ADDRESS:PORT, such as 0.0.0.0:10000, or a Twisted endpoint string of a server",
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        nargs="?",
        help="the server: HOST:PORT, or a Twisted endpoint string of a client",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_seconds,
        default=0.0,
        help="how long a client waits for a target that cannot be reached (default: %(default)g, the client is "
        "disconnected at once)",
    )
    add_log_options(how)
    judge = parser.add_argument_group("the judge")
    judge.add_argument(
        "--judge",
        action="store_true",
        help="compare the server and its clients with the protocol: log each violation once, and print a report at the "
        "end",
    )
    add_report_options(judge)
    add_http_options(parser)
    add_telemetry_options(parser, default_name="")
    add_access_options(parser)
    add_record_options(parser)
    add_config(parser)
    add_version(parser)
    return parser


def _has_telemetry(options: argparse.Namespace) -> bool:
    return options.telemetry is not None or options.telemetry_bind is not None


def _seconds(text: str) -> float:
    return not_negative(text, "a number of seconds, 0 or more")


def _judge(options: argparse.Namespace, limited: RateLimitedLogger, access: AccessRules | None) -> int:
    """Serve with a judge, and report its findings. Return the exit status."""
    from discosbackend.cli.check_run import REPORTS as WRITERS
    from discosbackend.cli.check_run import CannotCheck, ReportFile, say
    from discosbackend.tap.judge import Finding, Judge
    from discosbackend.tap.report import record_of
    from discosbackend.testing.report_text import report

    def log(finding: Finding) -> None:
        level = logging.INFO if finding.rule.is_note else logging.WARNING
        logger.log(level, "%s: %s", finding.rule.id, finding)

    escape_output()
    judge = Judge(log)
    began, clock = datetime.now(UTC), time.monotonic()
    with ExitStack() as stack:
        try:
            paths = {name: path for name in WRITERS if (path := getattr(options, name)) is not None}
            files = {name: stack.enter_context(ReportFile(path)) for name, path in paths.items()}
            if len({file.path for file in files.values()}) < len(files):
                raise CannotCheck("two reports cannot be written to the same file")
        except CannotCheck as problem:
            raise CannotServe(str(problem)) from None
        _serve(options, limited, access, judge)
        record = record_of(judge, options.target, began, time.monotonic() - clock)
        written = [file.write(WRITERS[name](record)) for name, file in files.items()]
        say(report(record), sys.stdout)
    return int(judge.violations > 0 or not all(written))


def _serve(
    options: argparse.Namespace, limited: RateLimitedLogger, access: AccessRules | None, judge: Judge | None = None
) -> None:
    from twisted.internet import reactor

    target = _target(reactor, options.target)
    factory = TapFactory(target, options.target, wait=options.wait, access=access, judge=judge)
    reactor.addSystemEventTrigger("during", "shutdown", limited.sum_up)
    if logger.isEnabledFor(logging.DEBUG):
        factory.listeners.append(log_exchange)
    server = Server(_endpoint(reactor, options.listen), factory)
    started = ExitStack()
    try:
        recorder = recorder_of(options, partial(str, factory.handler))
        if recorder is not None:
            started.callback(recorder.close)
        batches = batches_of(options, recorder, factory, factory.reactor)
        web = None
        if options.http is not None or _has_telemetry(options):
            _watch_target(options, factory)
        if batches is not None and options.http is not None:
            web = _start_http(options, factory, server, batches, recorder)
            started.callback(web.close)
        if batches is not None and _has_telemetry(options):
            telemetry = _start_telemetry(options, factory, batches)
            started.callback(telemetry.stop)
            if web is not None:
                web.snapshot.telemetry = telemetry.to_dict
        run_until_stopped(server, reactor)
    except Exception as problem:
        started.close()
        if isinstance(problem, CannotServe):
            raise
        reason = getattr(problem, "socketError", problem)
        why = reason_of(reason) if isinstance(reason, OSError) else in_one_line(problem)
        raise CannotServe(f"cannot listen on {options.listen}: {why}") from problem


def _watch_target(options: argparse.Namespace, factory: TapFactory) -> None:
    """Find out whether the target can be reached, until the shutdown."""
    from discosbackend.tap.target_watch import TargetWatch

    watch = factory.watch = TargetWatch(factory.target, options.target, factory.reactor)
    factory.reactor.callWhenRunning(watch.begin)
    factory.reactor.addSystemEventTrigger("before", "shutdown", watch.end)


def _start_telemetry(options: argparse.Namespace, factory: TapFactory, batches: Batches) -> TelemetryPublisher:
    """Start to publish telemetry. It ends with the shutdown."""
    watch = factory.watch
    assert watch is not None

    def source() -> TelemetrySource:
        from discosbackend.tap.telemetry_source import TapSource

        made = TapSource(factory.running, lambda: watch.problem)
        watch.on_failure = made.forget
        # Before the publisher, which reads what it has noted.
        factory.listeners.insert(0, made.on_exchange)
        return made

    return start_telemetry(options, options.telemetry_name, source, batches, factory.reactor)


def _start_http(
    options: argparse.Namespace, factory: TapFactory, server: Server, batches: Batches, recorder: Recorder | None
) -> WebServer:
    """Start the web server for monitoring. It is closed at the shutdown."""
    from discosbackend.monitor.state import About

    begin, name, reactor = time.time(), str(factory.handler), type(factory.reactor).__name__

    def about() -> About:
        return About(name, "tap", __version__, __protocol_version__, begin, server.address, reactor, os.getpid())

    web = start_http(options, factory.reactor, batches, about, names=COMMANDS)
    if recorder is not None:
        web.snapshot.recorder = recorder.to_dict
    assert factory.watch is not None
    web.snapshot.target = factory.watch.to_dict
    factory.reactor.addSystemEventTrigger("before", "shutdown", web.close)
    return web


def _is_endpoint(text: str) -> bool:
    return text.partition(":")[0] in _KINDS


def _endpoint(reactor: Any, text: str) -> IStreamServerEndpoint:
    """Return where to listen. Raise CannotServe if the text does not say it."""
    try:
        if _is_endpoint(text):
            from discosbackend.endpoints import endpoint_from

            return endpoint_from(reactor, text)
        host, port = host_and_port(text)
    except (ValueError, argparse.ArgumentTypeError) as problem:
        raise CannotServe(f"LISTEN {text!r}: {problem}") from problem
    return tcp_endpoint(reactor, port, "127.0.0.1" if host == "localhost" else host)


def _target(reactor: Any, text: str) -> IStreamClientEndpoint:
    """Return the endpoint of the target. Raise CannotServe if the text does not say it."""
    from twisted.internet.abstract import isIPAddress, isIPv6Address
    from twisted.internet.endpoints import (
        HostnameEndpoint,
        TCP4ClientEndpoint,
        TCP6ClientEndpoint,
        clientFromString,
    )

    try:
        if _is_endpoint(text):
            endpoint: IStreamClientEndpoint = clientFromString(reactor, text)
            return endpoint
        host, port = host_and_port(text)
    except argparse.ArgumentTypeError as problem:
        raise CannotServe(f"TARGET {text!r}: {problem}") from problem
    except Exception as problem:
        example = "tcp:192.168.200.7:10000 or unix:/run/discos.sock"
        raise CannotServe(f"TARGET {text!r} is not an endpoint of a client, such as {example}") from problem
    if isIPAddress(host):
        return TCP4ClientEndpoint(reactor, host, port, timeout=_CONNECTING)
    if isIPv6Address(host):
        return TCP6ClientEndpoint(reactor, host, port, timeout=_CONNECTING)
    return HostnameEndpoint(reactor, host.encode("idna"), port, timeout=_CONNECTING)


if __name__ == "__main__":
    main()
