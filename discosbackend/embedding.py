"""Serves a backend in a running asyncio program, such as one that asyncio.run() has started, or Jupyter."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from discosbackend.coroutines import future_of
from discosbackend.handlers import DBProtocolHandler, Handler
from discosbackend.log import address_text
from discosbackend.protocol import DBFactory
from discosbackend.reactors import check_can_run, install_reactor, loop_of
from discosbackend.server import DEFAULT_PORT, STOP_TIMEOUT, Server, access_rules, greeting_delay_of, tcp_endpoint

if TYPE_CHECKING:
    from discosbackend.access import AccessRules

__all__ = ["EmbeddedServer", "serve"]

# How many servers of this module run in the process.
_running = 0


class EmbeddedServer:
    """A server in a running asyncio program. serve() makes it; `async with`, or start() and stop(), run it.

    Parameters
    ----------
    handler
        The handler of the requests.
    port
        The TCP port. 0: a free one.
    interface
        The IPv4 or IPv6 address to listen on. "": all IPv4 interfaces.
    stop_timeout
        How long running commands may take to finish when the server is stopped, in s.
    access
        The addresses that may connect, and those that may only read. None: everybody may do everything.
    """

    def __init__(
        self, handler: Handler, port: int, interface: str, stop_timeout: float, access: AccessRules | None = None
    ) -> None:
        self.handler = handler
        """The handler of the requests."""
        self.port = port
        """The TCP port on which the server listens."""
        self.address = ""
        """The address on which the server listens, such as `127.0.0.1:8978`."""
        self._interface = interface
        self._stop_timeout = stop_timeout
        self._access = access
        self._server: Server | None = None

    @property
    def factory(self) -> DBFactory:
        """The factory of the connections, with the list `listeners`. It exists while the server runs."""
        return self._started.factory

    @property
    def _started(self) -> Server:
        if self._server is None:
            raise RuntimeError("the server does not run: write `async with serve(backend, port) as server:`")
        return self._server

    async def start(self) -> Self:
        """Start to listen, and return the server. `async with` does this at its beginning."""
        global _running  # noqa: PLW0603  # the reactor belongs to the process, too
        if self._server is not None:
            raise RuntimeError("this server runs already: call serve() for each server")
        reactor = _reactor_of_this_loop()
        delay = greeting_delay_of(self.handler)
        factory = DBFactory(self.handler, greeting_delay=delay, reactor=reactor, access=self._access)
        server = Server(tcp_endpoint(reactor, self.port, self._interface), factory, stop_timeout=self._stop_timeout)
        server.start()
        port = await future_of(server.listening)
        self._server = server
        _running += 1
        self.port, self.address = port.getHost().port, address_text(port.getHost())
        return self

    async def stop(self) -> None:
        """Stop the server, as a signal stops discos-backend-server. `async with` does this at its end."""
        global _running  # noqa: PLW0603  # the reactor belongs to the process, too
        server, self._server = self._started, None
        try:
            await future_of(server.stop())
        finally:
            _running -= 1
            if not _running:
                _end_threads(server.factory.reactor)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def serve(
    backend: Any,
    port: int = DEFAULT_PORT,
    interface: str = "",
    *,
    stop_timeout: float = STOP_TIMEOUT,
    allow: str | Iterable[str] = (),
    read_only: str | Iterable[str] = (),
) -> EmbeddedServer:
    """Serve a backend in a running asyncio program.

    Use the result in `async with`. The server listens inside of the block, and is stopped at its end. In Jupyter, you
    can `await server.start()` in one cell and `await server.stop()` in another. Several servers can run at the same
    time.

    A process has one reactor, and that belongs to one event loop. So all servers of a process run in the same event
    loop, for example within one `asyncio.run()`.

    Parameters
    ----------
    backend
        The backend, or a handler, such as `DBProtocolHandler(backend, command_timeout=10.0)`.
    port
        The TCP port. 0: a free one. The attribute `port` of the server is its number.
    interface
        The IPv4 or IPv6 address to listen on. Default: all IPv4 interfaces.
    stop_timeout
        How long running commands may take to finish when the server is stopped, in s.
    allow
        The addresses and networks that may connect, such as `["192.168.200.0/24"]`. Default: all.
    read_only
        The addresses and networks that may only send commands of the lane `reads`. AccessRules describes both.

    Returns
    -------
    server
        The server. `async with` raises CannotListenError if the port is in use, and RuntimeError if the reactor belongs
        to another event loop or is not the asyncio reactor.

    Raises
    ------
    TypeError
        If `backend` is a class instead of an instance.
    ValueError
        If `allow` or `read_only` is not valid.
    """
    handler = backend if isinstance(backend, Handler) else DBProtocolHandler(backend)
    return EmbeddedServer(handler, port, interface, stop_timeout, access_rules(allow, read_only))


def _reactor_of_this_loop() -> Any:
    """Return the reactor, started in the running event loop. Raise RuntimeError if it belongs to another one."""
    loop = asyncio.get_running_loop()
    install_reactor("asyncio")
    from twisted.internet import reactor as installed

    reactor: Any = installed
    if loop_of(reactor) is not loop:
        raise RuntimeError(
            "Twisted's reactor belongs to another event loop, such as that of an earlier asyncio.run(), and a process "
            "has only one reactor: serve within one asyncio.run(), or start another process"
        )
    if not reactor.running:
        check_can_run(reactor)
        # The event loop runs already. reactor.run() would start it a second time.
        reactor.startRunning(installSignalHandlers=False)
    return reactor


def _end_threads(reactor: Any) -> None:
    """End the threads of deferToThread(). The reactor is never stopped here, and they would keep the process alive."""
    pool, reactor.threadpool = reactor.threadpool, None
    if pool is None:
        return
    if reactor.threadpoolShutdownID is not None:
        reactor.removeSystemEventTrigger(reactor.threadpoolShutdownID)
        reactor.threadpoolShutdownID = None
    # In a thread, because it waits for the calls that are running.
    threading.Thread(target=pool.stop, name="discos-end-threads", daemon=True).start()
