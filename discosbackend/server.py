"""Servers: listening on a port, start and shutdown.

Use run_server in a program that only serves a backend, and listen or Server in a program that runs a reactor itself.
service.py has the server for a Twisted application. protocol.py handles the connections.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from discosbackend._version import __protocol_version__
from discosbackend.forced_exit import ForcedExit
from discosbackend.handlers import Handler
from discosbackend.log import address_text
from discosbackend.protocol import DBFactory
from discosbackend.reactors import (
    check_can_run,
    install_reactor,
    loop_of,
    own_after_fork,
    reactor_for,
    running_loop,
    use_steady_clock,
)
from discosbackend.signals import ENDING, STATE, heard, install, kept
from discosbackend.standard_output import announce
from discosbackend.watchdog import LIMIT, Watchdog, commands_of

if TYPE_CHECKING:
    from discosbackend.access import AccessRules
    from discosbackend.state_report import StateReport
    from discosbackend.systemd import SystemdNotifier

__all__ = [
    "BACKLOG",
    "DEFAULT_PORT",
    "Server",
    "access_rules",
    "greeting_delay_of",
    "listen",
    "name_of",
    "longest_exit",
    "longest_stop",
    "run_server",
    "run_until_stopped",
    "tcp_endpoint",
]

logger = logging.getLogger(__name__)

DEFAULT_PORT = 8978

BACKLOG = 4096
"""How many connections may wait to be accepted.

With Twisted's default of 50, 64 clients that connect at the same time stall for seconds."""

STOP_TIMEOUT = 3.0

# The interpreter's switch interval in s. A thread that computes in Python delays a timed start by about half of it, as
# measured; with Python's default of 5 ms the delay was 4 ms at p90. Threads that compete for the interpreter get 5 %
# slower.
_SWITCH_INTERVAL = 2e-4

# How many s a client has to read its last replies before its connection is closed.
_LINGER = 1.0
# After that, how many s Twisted's own threads have to end before the process is terminated.
_THREADS = 3.0
# After the shutdown of the server, how many s the process may still take until it ends.
_AFTER_SHUTDOWN = _THREADS + 2.0


class Server:
    """A server that starts and stops. run_server and `discos-backend-server` use it.

    Starting the server listens on the endpoint. Stopping it does the following, in this order: it closes the port,
    waits until the running commands have finished, stops the acquisition, calls server_stopping() of the backend, and
    closes the connections. A command that has not finished after `stop_timeout` is answered with `fail`.

    start() sets the attribute `listening` to a Deferred that fires with the port, or fails if the server cannot listen.

    Parameters
    ----------
    endpoint
        The endpoint to listen on, for example from tcp_endpoint() or endpoint_from().
    factory
        The factory of the connections.
    stop_timeout
        How long the server waits for running commands when it is stopped, in s. 0 or more.

    Raises
    ------
    ValueError
        If `stop_timeout` is negative or not a number.
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
        self.stopping = False
        """Whether stop() has been called since the last start()."""
        self.watchdog: Watchdog | None = None
        """The watchdog of the reactor. None unless run_until_stopped() runs the server."""
        self._port: IListeningPort | None = None

    @property
    def address(self) -> str:
        """The address on which it listens, `127.0.0.1:8978`, or the path of a Unix socket. "" if it does not listen."""
        return "" if self._port is None else address_of(self._port)

    @property
    def longest_stop(self) -> float:
        """The longest time that stopping the server can take, in s. It is valid if nothing blocks the reactor."""
        return longest_stop(self.stop_timeout)

    def start(self) -> None:
        """Start to listen."""
        self.stopping = False
        self.listening = self.endpoint.listen(self.factory)
        self.listening.addCallback(self._listens)

    def _listens(self, port: IListeningPort) -> IListeningPort:
        if not IListeningPort.providedBy(port):
            raise TypeError(f"{type(port).__name__} is not a port: a server needs one that it can close")
        self._port = port
        # An extra doStart(), so that stopFactory() runs only after the commands have finished.
        self.factory.doStart()  # type: ignore[no-untyped-call]
        logger.info("listening on %s", address_of(port))
        return port

    def stop(self) -> Deferred[None]:
        """Shut the server down. The returned Deferred fires when it is done, after at most `longest_stop`."""
        self.stopping = True
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
        # A limit, because the backend's stop() may never finish, for example if its device is stuck.
        patience = _backend_patience(self.stop_timeout)
        try:
            await self.factory.stopped.addTimeout(patience, reactor)
        except Exception:  # the shutdown continues after any failure
            logger.exception("the backend did not stop within %g s", patience)
        self.factory.close()
        linger: Deferred[None] = Deferred()
        reactor.callLater(0, self._wait_for_clients, reactor.seconds() + _LINGER, linger)
        await linger
        logger.info("stopped")

    def _wait_for_clients(self, deadline: float, done: Deferred[None]) -> None:
        """Wait until the clients have read their last replies; at the deadline, abort the connections that are left."""
        reactor = self.factory.reactor
        if self.factory.connections and reactor.seconds() < deadline:
            reactor.callLater(0.01, self._wait_for_clients, deadline, done)
        else:
            self.factory.abort()
            done.callback(None)


def _backend_patience(stop_timeout: float) -> float:
    """Return how many s stopping the acquisition and server_stopping() may take together."""
    return max(stop_timeout, _LINGER)


def longest_stop(stop_timeout: float) -> float:
    """Return the longest time that stopping a server can take, in s. It is valid if nothing blocks the reactor."""
    return stop_timeout + _backend_patience(stop_timeout) + _LINGER


def longest_exit(stop_timeout: float) -> float:
    """Return the longest time from a signal to the end of the process, in s.

    It allows for a method that blocks the reactor when the signal arrives, for at most `longest_stop`.
    """
    return 2 * longest_stop(stop_timeout) + _AFTER_SHUTDOWN


@implementer(IStreamServerEndpoint)
class _TcpEndpoint:
    """A TCP endpoint. Those of twisted.internet.endpoints need 0.8 MiB, for the many kinds of endpoints there."""

    def __init__(self, reactor: Any, port: int, interface: str) -> None:
        self._reactor = reactor
        self._port = port
        self._interface = interface

    def listen(self, protocolFactory: Any) -> Deferred[IListeningPort]:  # noqa: N803  # Twisted's name
        """Listen. The Deferred fires with the port, or with CannotListenError."""
        return execute(self._reactor.listenTCP, self._port, protocolFactory, BACKLOG, self._interface)


def tcp_endpoint(reactor: Any, port: int, interface: str = "") -> IStreamServerEndpoint:
    """Return a TCP endpoint with a listen backlog large enough for many clients that connect at the same time.

    Parameters
    ----------
    reactor
        The reactor.
    port
        The port. 0: a free one.
    interface
        The IPv4 or IPv6 address to listen on. Default: all IPv4 interfaces.

    Returns
    -------
    endpoint
        The endpoint, for Server.
    """
    return cast(IStreamServerEndpoint, _TcpEndpoint(reactor, port, interface))


_MISSING = object()


def greeting_delay_of(handler: Handler) -> float:
    """Return the greeting delay that the backend of a handler defines.

    Parameters
    ----------
    handler
        The handler, with or without an attribute `backend`.

    Returns
    -------
    delay
        The attribute `greeting_delay` of the backend, in s. 0 if it has none.

    Raises
    ------
    ValueError
        If the attribute is not a number of seconds, 0 or more.
    """
    backend = getattr(handler, "backend", None)
    # Static lookup, because a backend with __getattr__ may ask its hardware for any attribute that it does not have.
    if inspect.getattr_static(backend, "greeting_delay", _MISSING) is _MISSING:
        return 0.0
    delay = cast(Any, backend).greeting_delay
    try:
        if 0 <= delay < math.inf:
            return float(delay)
    except TypeError:
        # Not a number: raised below.
        pass
    raise ValueError(f"{type(backend).__name__}.greeting_delay must be a number of seconds, 0 or more, not {delay!r}")


def access_rules(allow: str | Iterable[str], read_only: str | Iterable[str]) -> AccessRules | None:
    """Return the rules for DBFactory; None if there are none, so that they cost nothing.

    The parameters and the exception are those of AccessRules.
    """
    if not allow and not read_only:
        return None
    from discosbackend.access import AccessRules

    return AccessRules(allow, read_only)


def listen(
    handler: Handler,
    port: int = DEFAULT_PORT,
    interface: str = "",
    *,
    reactor: Any = None,
    allow: str | Iterable[str] = (),
    read_only: str | Iterable[str] = (),
) -> IListeningPort:
    """Listen with a reactor that the caller runs. Several servers can share one reactor.

    Parameters
    ----------
    handler
        The handler of the requests, such as `DBProtocolHandler(backend)`.
    port
        The TCP port. 0: a free one. `getHost().port` of the result is its number.
    interface
        The IPv4 or IPv6 address to listen on. Default: all IPv4 interfaces.
    reactor
        The reactor. Default: Twisted's.
    allow
        The addresses and networks that may connect, such as `["192.168.200.0/24"]`. Default: all.
    read_only
        The addresses and networks that may only send commands of the lane `reads`. AccessRules describes both.

    Returns
    -------
    port
        The listening port. Its stopListening() stops the server.

    Raises
    ------
    twisted.internet.error.CannotListenError
        If the port is in use.
    ValueError
        If `greeting_delay` of the backend, `allow` or `read_only` is not valid.
    """
    delay, access = greeting_delay_of(handler), access_rules(allow, read_only)
    factory = DBFactory(handler, greeting_delay=delay, reactor=reactor, access=access)
    return cast(IListeningPort, factory.reactor.listenTCP(port, factory, backlog=BACKLOG, interface=interface))


def run_server(
    port: int,
    handler: Handler,
    interface: str = "",
    *,
    watchdog: float = LIMIT,
    reactor: str | None = None,
    allow: str | Iterable[str] = (),
    read_only: str | Iterable[str] = (),
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP arrives, and return after the shutdown.

    When the server listens, it prints one line with its address, the backend and the protocol version. Before the
    function returns, it restores the previous signal handlers.

    The function handles signals only in the main thread. In another thread, end it with
    `reactor.callFromThread(reactor.stop)`.

    A process can run Twisted's reactor only once. To run several servers, start each in its own process, with
    `multiprocessing.Process(target=run_server, args=...)` and any start method, or use listen() for each of them.

    Parameters
    ----------
    port
        The TCP port. 0: a free one.
    handler
        The handler of the requests, such as `DBProtocolHandler(backend)`.
    interface
        The IPv4 or IPv6 address to listen on. Default: all IPv4 interfaces.
    watchdog
        How long a method may block the reactor before the log names it, in s. 0: the log never names it.
    reactor
        `"asyncio"`: methods can await what asyncio provides. `"default"`: the reactor that Twisted chooses. Default:
        the attribute `reactor` of the backend's class, or else `"default"`.
    allow
        The addresses and networks that may connect, such as `["192.168.200.0/24"]`. Default: all.
    read_only
        The addresses and networks that may only send commands of the lane `reads`. AccessRules describes both.

    Raises
    ------
    twisted.internet.error.CannotListenError
        If the port is in use.
    RuntimeError
        If the reactor is running, or has run, in this process. Also if the asyncio reactor is needed, but another one
        is installed, or an event loop of asyncio is running.
    ValueError
        If `watchdog`, `reactor`, `allow`, `read_only`, or `greeting_delay` of the backend, is not valid.
    """
    chosen = reactor_for(getattr(handler, "backend", None), reactor)
    if chosen == "asyncio" and running_loop() is not None:
        raise RuntimeError(
            "an event loop of asyncio is running here, and run_server() would block it: write "
            "`async with discosbackend.serve(backend, port):` instead"
        )
    install_reactor(chosen)
    from twisted.internet import reactor as installed

    check_can_run(installed)
    delay, access = greeting_delay_of(handler), access_rules(allow, read_only)
    factory = DBFactory(handler, greeting_delay=delay, access=access)
    server = Server(tcp_endpoint(installed, port, interface), factory)
    run_until_stopped(server, installed, watchdog=watchdog)


def run_until_stopped(server: Server, reactor: Any, *, watchdog: float = LIMIT) -> None:
    """Start a server, print its announcement, and run the reactor until a signal arrives.

    Parameters
    ----------
    server
        The server.
    reactor
        The reactor.
    watchdog
        How long a method may block the reactor before the log names it, in s. 0: the log never names it.

    Raises
    ------
    twisted.internet.error.CannotListenError
        If the server cannot listen. Any other exception of its endpoint is raised too.
    RuntimeError
        If the reactor is running, or has run, in this process.
    ValueError
        If `watchdog` is not valid.
    """
    check_can_run(reactor)
    own_after_fork(reactor)
    use_steady_clock(reactor)
    server.watchdog = dog = Watchdog(reactor, watchdog, lambda: commands_of(server.factory.handler))
    notifier = _systemd_notifier(server, reactor)
    problems: list[Failure] = []

    def fail(problem: Failure) -> None:
        # A server that is stopped cancels listening, which is no problem.
        if not server.stopping:
            problems.append(problem)
            if reactor.running:
                reactor.stop()

    def announce_when_running(port: IListeningPort | None) -> None:
        if port is not None:
            reactor.callWhenRunning(lambda: announce(announcement(server, port)))
            if notifier is not None:
                reactor.callWhenRunning(notifier.begin)

    with kept(), _stop_signals(server, reactor) as signals, ExitStack() as after:
        if notifier is not None:
            after.callback(notifier.close)
        server.start()
        server.listening.addErrback(fail)
        if problems:
            problems[0].raiseException()
        reactor.addSystemEventTrigger("before", "shutdown", server.stop)
        if notifier is not None:
            reactor.addSystemEventTrigger("before", "shutdown", notifier.stop, server.longest_stop + _AFTER_SHUTDOWN)
        reactor.callWhenRunning(signals.install)
        reactor.callWhenRunning(dog.begin)
        # After the signal handlers are installed: a program that reads the line may send a signal immediately. The
        # endpoint of a plugin may listen, or fail, only while the reactor runs.
        server.listening.addCallback(announce_when_running)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(min(interval, _SWITCH_INTERVAL))
        try:
            reactor.run(installSignalHandlers=_in_main_thread())
            if (loop := loop_of(reactor)) is not None:
                _end_tasks(loop)
        finally:
            dog.end()
            sys.setswitchinterval(interval)
        if problems:
            problems[0].raiseException()


def _systemd_notifier(server: Server, reactor: Any) -> SystemdNotifier | None:
    """Return what notifies systemd. None if systemd has not started this process, or not with `Type=notify`."""
    if "NOTIFY_SOCKET" not in os.environ:
        return None
    from discosbackend.systemd import notifier_from, status_of

    return notifier_from(os.environ, reactor, lambda: status_of(server))


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the tasks that are left in the event loop, such as those of asyncio.create_task(), as asyncio.run() does.

    The log names those that do not end.
    """
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        _, left = loop.run_until_complete(asyncio.wait(tasks, timeout=_LINGER))
        for task in left:
            logger.warning("the task %s ignores its cancellation: the server ends without it", task.get_name())
    loop.run_until_complete(loop.shutdown_asyncgens())


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _stop_signals(server: Server, reactor: Any) -> Iterator[_StopSignals]:
    """Install the handlers of signals that stop a server or log its state, and a ForcedExit."""
    if not _in_main_thread():
        yield _StopSignals(reactor)
        return
    from twisted.internet.process import reapAllProcesses

    reports: list[StateReport] = []

    def state_wanted() -> None:
        if signal.getsignal(STATE) is not _do_nothing:
            # It is a signal for the program's own handler.
            return
        from discosbackend.state_report import StateReport

        if not reports:
            reports.append(StateReport(server, reactor))
        reports[0].request()

    forced = ForcedExit(
        server.longest_stop,
        child_ended=lambda: reactor.callFromThread(reapAllProcesses),
        handler=_StopSignals._stop,  # noqa: SLF001  # of this module
        state_wanted=state_wanted,
        wake=lambda: reactor.callFromThread(lambda: None),
    )
    signals = _StopSignals(reactor, forced)
    signals.install()
    reactor.addSystemEventTrigger("before", "shutdown", forced.extend, server.longest_stop + _THREADS)
    try:
        yield signals
    finally:
        forced.close()


def _do_nothing(number: int, _: Any) -> None:
    """Handle a signal that the thread of ForcedExit acts on."""


class _StopSignals:
    """Stops the reactor on the first signal of ENDING. Later signals are only logged. STATE logs the state.

    Signals that are ignored stay ignored. If the program has its own handler for SIGHUP, that is kept too, because
    many programs reload their settings on SIGHUP. For the same reason its own handler for STATE is kept.
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
        """Install the handlers. Called before the reactor starts, and again then, because the reactor replaces them."""
        if _in_main_thread():
            # In another thread, the program itself handles the signals.
            for number in self._ours:
                install(number, self._stop)
            for number in self._ignored:
                signal.signal(number, signal.SIG_IGN)
            if self._forced is not None:
                # Python reports the signal to the thread of ForcedExit only if it has a handler.
                if signal.getsignal(STATE) is signal.SIG_DFL:
                    install(STATE, _do_nothing)
                self._forced.hear(self._ours)
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


def announcement(server: Server, port: IListeningPort) -> str:
    """Return the line that names the address, the protocol version and the backend of a server.

    Parameters
    ----------
    server
        The server.
    port
        The port on which it listens.

    Returns
    -------
    line
        The line, without its end. The backend is named by its `__str__`, or else by its class.
    """
    name = name_of(server.factory.handler)
    return f"discosbackend: {name} is served on {address_of(port)}, protocol version {__protocol_version__}"


def name_of(handler: Handler) -> str:
    """Return the name of the backend of a handler: its `__str__` in one line, or else its class."""
    backend = getattr(handler, "backend", handler)
    name = type(backend).__name__
    if type(backend).__str__ is not object.__str__:
        try:
            name = " ".join(str(backend).split()) or name
        except Exception:  # the __str__ of a backend may raise anything
            logger.exception("str() of the backend failed, its class %s is announced instead", name)
    return name


def address_of(port: IListeningPort) -> str:
    """Return the address of a port as a text: `127.0.0.1:8978`, or the path of a Unix socket."""
    return address_text(port.getHost())
