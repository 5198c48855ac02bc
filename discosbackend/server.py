"""Servers: where one listens, and how it comes up and goes down.

run_server for a program that is nothing but a server, listen for those who have a reactor, DBService for
those who have an application. What happens on a connection is protocol's business.
"""

from __future__ import annotations

import inspect
import logging
import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.python.failure import Failure

from discosbackend._version import __protocol_version__
from discosbackend.forced_exit import ForcedExit
from discosbackend.handlers import Handler
from discosbackend.log import address_text
from discosbackend.protocol import DBFactory
from discosbackend.reactors import check_can_run, own_after_fork
from discosbackend.signals import ENDING, heard, install, kept
from discosbackend.toml import did_you_mean
from discosbackend.watchdog import LIMIT, Watchdog, commands_of

__all__ = [
    "BACKLOG",
    "DEFAULT_PORT",
    "DBService",
    "endpoint_from",
    "greeting_delay_of",
    "listen",
    "run_server",
    "tcp_endpoint",
]

logger = logging.getLogger(__name__)

DEFAULT_PORT = 8978

BACKLOG = 4096
"""Connections that may wait to be accepted: with Twisted's 50, 64 simultaneous clients stall for seconds."""

STOP_TIMEOUT = 3.0

# A thread that computes in Python holds the interpreter for so many seconds at a time, and makes a timed start late by
# half of it, as measured; with Python's own 5 ms by 4 ms at p90. Computing threads that wait for one another pay 5 %.
_SWITCH_INTERVAL = 2e-4

# Seconds for a client to read its last replies before its connection is cut.
_LINGER = 1.0
# Seconds, after that, for Twisted's own threads to end, before the process is ended.
_THREADS = 3.0


class DBService(Service):
    """A server of the protocol as a Twisted service, on which run_server and the program are built.

    Starting it listens on `endpoint`; `listening` then fires with the port, or fails with why not. Stopping it
    stops listening, lets running commands finish within `stop_timeout` seconds (what has not finished gets
    its `fail`), ends the acquisition, tells the backend, and closes the connections, in this order.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        factory: DBFactory,
        *,
        stop_timeout: float = STOP_TIMEOUT,
    ) -> None:
        if not stop_timeout >= 0:
            raise ValueError(f"stop_timeout must be 0 s or more, not {stop_timeout!r}")
        self.endpoint = endpoint
        self.factory = factory
        self.stop_timeout = stop_timeout
        self.listening: Deferred[IListeningPort] = Deferred()
        self._port: IListeningPort | None = None

    @property
    def longest_stop(self) -> float:
        """Within how many seconds it goes down, if nothing keeps the reactor from turning."""
        return self.stop_timeout + self._backend_patience + _LINGER

    @property
    def _backend_patience(self) -> float:
        """Seconds for the end of the acquisition and for `server_stopping`."""
        return max(self.stop_timeout, _LINGER)

    def startService(self) -> None:
        """Listen."""
        super().startService()  # type: ignore[no-untyped-call]
        self.listening = self.endpoint.listen(self.factory)
        self.listening.addCallback(self._listens)
        if self.parent is not None:
            # An application starts its services and looks no further: a taken port would go unnoticed.
            self.listening.addErrback(_log_not_listening)

    def _listens(self, port: IListeningPort) -> IListeningPort:
        if not IListeningPort.providedBy(port):  # zope's own
            raise TypeError(f"{type(port).__name__} is no port: a server needs one that it can close")
        self._port = port
        # One use of the factory beside the port's, so that its handler is told of the end last.
        self.factory.doStart()  # type: ignore[no-untyped-call]
        logger.info("listening on %s", address_of(port))
        return port

    def stopService(self) -> Deferred[None]:
        """Go down in good order; the Deferred fires when nothing is left, in a bounded time."""
        super().stopService()  # type: ignore[no-untyped-call]
        port, self._port = self._port, None
        if port is None:
            self.listening.addErrback(lambda _: None)
            self.listening.cancel()
            return succeed(None)
        return Deferred.fromCoroutine(self._shut_down(port))

    async def _shut_down(self, port: IListeningPort) -> None:
        reactor = self.factory.reactor
        closed = port.stopListening()
        if closed is not None:
            await closed
        await self.factory.finish(self.stop_timeout)
        self.factory.doStop()  # type: ignore[no-untyped-call]
        # Also when the backend's stop never ends, because its device is stuck.
        patience = self._backend_patience
        try:
            await self.factory.stopped.addTimeout(patience, reactor)
        except Exception:  # the server goes down whatever this was
            logger.exception("the backend did not stop within %g s", patience)
        self.factory.close()
        linger: Deferred[None] = Deferred()
        reactor.callLater(0, self._wait_for_clients, reactor.seconds() + _LINGER, linger)
        await linger
        logger.info("stopped")

    def _wait_for_clients(self, deadline: float, done: Deferred[None]) -> None:
        """Wait until the last replies have been sent; who does not read them is cut off."""
        reactor = self.factory.reactor
        if self.factory.connections and reactor.seconds() < deadline:
            reactor.callLater(0.01, self._wait_for_clients, deadline, done)
        else:
            self.factory.abort()
            done.callback(None)


def _log_not_listening(failure: Failure) -> Failure:
    logger.critical("cannot listen: %s", failure.getErrorMessage())
    return failure


def tcp_endpoint(reactor: Any, port: int, interface: str = "") -> IStreamServerEndpoint:
    """A TCP endpoint with a listen backlog that a control room's start-up fits into.

    `interface` is an IPv4 or IPv6 address, "" for every IPv4 one; `port` 0 picks a free one.
    """
    kind = TCP6ServerEndpoint if ":" in interface else TCP4ServerEndpoint
    return cast(IStreamServerEndpoint, kind(reactor, port, backlog=BACKLOG, interface=interface))


# How each kind of endpoint is written.
_EXAMPLES = {
    "tcp": "tcp:8978:interface=192.168.200.5",
    "tcp6": "tcp6:8978",
    "unix": "unix:/run/discos-backend.sock:mode=660",
    "ssl": "ssl:8978:privateKey=server.pem:certKey=server.pem",
    "systemd": "systemd:domain=INET:name=backend",
    "haproxy": "haproxy:tcp:8978",
}


def endpoint_from(reactor: Any, description: str) -> IStreamServerEndpoint:
    """The endpoint that a Twisted endpoint string describes, with our listen backlog unless it names one.

    ValueError, with a sentence that says what to write, for one on which no server can listen.
    """
    kind, _, rest = description.partition(":")
    inner = rest.partition(":")[0] if kind == "haproxy" else kind
    if inner == "stdio":
        raise ValueError(f"a server needs a port or a socket of its own, such as {_EXAMPLES['tcp']}")
    if kind in ("tcp", "tcp6", "ssl", "unix") and rest and ":backlog=" not in rest:
        description += f":backlog={BACKLOG}"
    try:
        endpoint = serverFromString(reactor, description)
    except Exception as problem:
        raise ValueError(_why_no_endpoint(kind, problem)) from problem
    number = getattr(endpoint, "_port", 0)
    if isinstance(number, int) and not 0 <= number <= 65535:
        raise ValueError(f"a port is a number from 0 to 65535, such as {_EXAMPLES.get(kind, _EXAMPLES['tcp'])}")
    return cast(IStreamServerEndpoint, endpoint)


def _why_no_endpoint(kind: str, problem: Exception) -> str:
    if kind in ("ssl", "tls") and isinstance(problem, (ImportError, NameError)):
        return f"{kind} needs the package pyOpenSSL: pip install 'discosbackend[tls]'"
    if kind == "systemd" and isinstance(problem, KeyError):
        return (
            f"systemd has handed over no socket {problem.args[0]!r}: the name is FileDescriptorName in the .socket "
            "unit, and the server must be started by systemd"
        )
    if kind == "systemd" and isinstance(problem, IndexError):
        return "systemd has handed over no socket number 0, or not so many: the server must be started by systemd"
    if kind not in _EXAMPLES:
        if not isinstance(problem, (ValueError, IndexError)):
            # A kind that some package has added to Twisted's.
            return " ".join(f"{type(problem).__name__}: {problem}".split())
        return f"there is no kind {kind!r}{did_you_mean(kind, _EXAMPLES) or ': there are ' + ', '.join(_EXAMPLES)}"
    if kind == "ssl" and not isinstance(problem, TypeError):
        return f"the key or the certificate cannot be read: write {_EXAMPLES[kind]}, with the path of a PEM file"
    return f"write it such as {_EXAMPLES[kind]}"


_MISSING = object()


def greeting_delay_of(handler: Handler) -> float:
    """The `greeting_delay` of a handler's backend, 0 where it has none. ValueError for one that is none."""
    backend = getattr(handler, "backend", None)
    # Statically, because an attribute may be a proxy that asks the hardware for whatever it has not.
    if inspect.getattr_static(backend, "greeting_delay", _MISSING) is _MISSING:
        return 0.0
    delay = cast(Any, backend).greeting_delay
    try:
        if 0 <= delay < math.inf:
            return float(delay)
    except TypeError:
        # Said below.
        pass
    raise ValueError(f"{type(backend).__name__}.greeting_delay must be a number of seconds, 0 or more, not {delay!r}")


def listen(handler: Handler, port: int = DEFAULT_PORT, interface: str = "", *, reactor: Any = None) -> IListeningPort:
    """Listen in a reactor that is yours; its `getHost().port` says where if `port` is 0.

    Stop with `stopListening()`. CannotListenError when the port is taken.
    """
    factory = DBFactory(handler, greeting_delay=greeting_delay_of(handler), reactor=reactor)
    return cast(IListeningPort, factory.reactor.listenTCP(port, factory, backlog=BACKLOG, interface=interface))


def run_server(port: int, handler: Handler, interface: str = "", *, watchdog: float = LIMIT) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; blocks. `port` 0 picks a free one.

    Prints one line that says where, with which protocol version and backend. CannotListenError when the port
    is taken. RuntimeError when a reactor has run in this process: it runs once. So give each server a process of its
    own, `multiprocessing.Process(target=run_server, args=...)` with any start method, or have several on one reactor
    with `listen`. Afterwards the handlers of signals are those of before. In a thread that is not the main one it
    hears no signals: `reactor.callFromThread(reactor.stop)` ends it there.

    A method that keeps everybody waiting for `watchdog` seconds is named in the log; 0 for no such watch.
    """
    from twisted.internet import reactor

    check_can_run(reactor)
    factory = DBFactory(handler, greeting_delay=greeting_delay_of(handler))
    service = DBService(tcp_endpoint(reactor, port, interface), factory)
    run_service(service, reactor, watchdog=watchdog)


def run_service(service: DBService, reactor: Any, *, watchdog: float = LIMIT) -> None:
    """Start a service, announce it, and run the reactor until a signal; raises why it cannot listen."""
    check_can_run(reactor)
    own_after_fork(reactor)
    dog = Watchdog(reactor, watchdog, lambda: commands_of(service.factory.handler))
    ports: list[IListeningPort] = []
    problems: list[Failure] = []
    with kept(), _stop_signals(service, reactor) as signals:
        service.startService()
        service.listening.addCallbacks(ports.append, problems.append)
        if problems:
            problems[0].raiseException()
        reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
        reactor.callWhenRunning(signals.install)
        reactor.callWhenRunning(dog.begin)
        for port in ports:
            # Not before the signals are ours: who reads this may send one at once.
            reactor.callWhenRunning(_announce, service, port)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(min(interval, _SWITCH_INTERVAL))
        try:
            reactor.run(installSignalHandlers=_in_main_thread())
        finally:
            dog.end()
            sys.setswitchinterval(interval)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _stop_signals(service: DBService, reactor: Any) -> Iterator[_StopSignals]:
    """The handlers of the signals that stop a service, and what ends the process where they cannot."""
    if not _in_main_thread():
        yield _StopSignals(reactor)
        return
    from twisted.internet.process import reapAllProcesses

    forced = ForcedExit(
        service.longest_stop,
        child_ended=lambda: reactor.callFromThread(reapAllProcesses),
        handler=_StopSignals._stop,  # noqa: SLF001  # of this module
    )
    signals = _StopSignals(reactor, forced)
    signals.install()
    reactor.addSystemEventTrigger("before", "shutdown", forced.extend, service.longest_stop + _THREADS)
    try:
        yield signals
    finally:
        forced.close()


class _StopSignals:
    """Goes down on the first signal of ENDING, from the very start; later ones find that under way already.

    One that is ignored stays so, and so does a handler of the program's own for SIGHUP, at which many a program
    reads its settings anew.
    """

    def __init__(self, reactor: Any, forced: ForcedExit | None = None) -> None:
        self._reactor = reactor
        self._forced = forced
        self._stopping = False
        self._ours = heard()
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL and signal.SIGHUP in self._ours:
            self._ours.remove(signal.SIGHUP)
        self._ignored = set(ENDING) - set(heard())

    def install(self) -> None:
        """Handle the signals from now on: before the reactor runs, and again then, since it takes them too."""
        if _in_main_thread():
            # Whoever runs a reactor in another thread has the signals as well.
            for number in self._ours:
                install(number, self._stop)
            for number in self._ignored:
                signal.signal(number, signal.SIG_IGN)
            if self._forced is not None:
                self._forced.hear()
        if self._stopping and self._reactor.running:
            self._reactor.callFromThread(self._reactor.stop)

    def _stop(self, number: int, _: Any) -> None:
        name = signal.Signals(number).name
        first, self._stopping = not self._stopping, True
        if first and self._forced is not None:
            self._forced.begin()
        logger.info("%s: %s", name, "stopping" if first else "stopping already")
        if first and self._reactor.running:
            self._reactor.callFromThread(self._reactor.stop)


def _announce(service: DBService, port: IListeningPort) -> None:
    try:
        print(announcement(service, port), flush=True)
    except (OSError, ValueError) as problem:
        # Nobody reads it, or it cannot be written there: no reason not to serve.
        logger.warning("standard output does not take the announcement of %s: %r", address_of(port), problem)


def announcement(service: DBService, port: IListeningPort) -> str:
    """One line that names the address, the protocol version and the backend of a server."""
    handler = service.factory.handler
    backend = getattr(handler, "backend", handler)
    name = type(backend).__name__
    if type(backend).__str__ is not object.__str__:
        # A backend that says what it is may know more than the name of its class.
        try:
            name = " ".join(str(backend).split()) or name
        except Exception:  # whatever a foreign __str__ raises
            logger.exception("%s cannot say what it is", name)
    return f"discosbackend: {name} is served on {address_of(port)}, protocol version {__protocol_version__}"


def address_of(port: IListeningPort) -> str:
    """Where a port listens, in words: 127.0.0.1:8978, or a socket's path."""
    return address_text(port.getHost())
