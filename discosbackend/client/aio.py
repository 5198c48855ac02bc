"""AsyncClient: a client for asyncio with the methods of Client, each of which is a coroutine.

It does not use Twisted. pairing.py finds the reply to each request, and methods.py has the methods.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable
from typing import Self

from discosbackend.client.address import server_address
from discosbackend.client.connection import CLOSED, CONNECT_WAIT, gone, late, unasked, wrong_line
from discosbackend.client.methods import AsyncMethods, Call, R, Status, matcher, poll_wait, rows_of
from discosbackend.commands import Command
from discosbackend.errors import NoReply, WaitTimeout, reason_of
from discosbackend.grammar import LINEFEED, Message
from discosbackend.line_socket import checked_wait
from discosbackend.log import address_text
from discosbackend.pairing import LONGEST_REPLY, Answer, Greeting, Pairing

__all__ = ["AsyncClient"]


class AsyncClient(AsyncMethods):
    """A connection to a backend server for asyncio. Its methods are those of Client, and each has to be awaited.

    Use it as an asynchronous context manager, or call connect(). Several tasks may use one client: their requests are
    sent one after another, in the order in which they were made. A task may be cancelled at any time. With `reconnect`,
    the next request then uses a new connection. Without `reconnect`, it waits for the reply to the cancelled request,
    which is discarded. In both cases the server continues to execute a request that it has received.

    Parameters
    ----------
    host, port, timeout, greeting_wait, longest_reply, reconnect, commands
        As for Client.

    Raises
    ------
    RequestFailed, RequestInvalid, ReplyMalformed, NoReply, ValueError, TypeError
        As for Client.

    Examples
    --------
    Start one second later, by the clock of the backend::

        async with AsyncClient("127.0.0.1", 8978) as client:
            await client.set_configuration("SK00")
            await client.start((await client.status()).timestamp + 10**7)
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        timeout: float | None = None,
        greeting_wait: float = 1.0,
        longest_reply: int = LONGEST_REPLY,
        reconnect: bool = False,
        commands: Iterable[Command] | type = (),
    ) -> None:
        self._rows = rows_of(commands)
        self.host, self.port = server_address(host, port)
        self.timeout = None if timeout is None else checked_wait(timeout)
        self._greeting_wait = checked_wait(greeting_wait, "greeting_wait", least="0 or more")
        self._longest_reply = longest_reply
        self._reconnect = reconnect
        self._shared = _Shared()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def greeting(self) -> Message | None:
        """The greeting of the server as a Message, or None if none has arrived on this connection."""
        return None if self._shared.channel is None else self._shared.channel.pairing.greeting

    async def connect(self) -> None:
        """Connect to the server, and wait for its greeting. Do nothing if the client has been connected before."""
        async with self._shared.turn:
            if self._shared.channel is None:
                await self._connect(self.reply_wait(""))

    async def close(self) -> None:
        """Close the connection. The server still executes a request that it has received.

        A request that waits for its reply in another task raises NoReply there.
        """
        self._shared.closed = True
        if self._shared.channel is not None:
            await self._shared.channel.close()

    def within(self, seconds: float) -> Self:
        """Return this client with another time limit: `await client.within(2.0).status()`.

        Parameters
        ----------
        seconds
            How long to wait for each reply, in s.

        Returns
        -------
        client
            A client that uses the same connection.
        """
        other = copy.copy(self)
        other.timeout = checked_wait(seconds)
        return other

    async def wait_until(
        self,
        *,
        acquiring: bool | None = None,
        text: str | None = None,
        timeout: float,  # noqa: ASYNC109  # as Client.wait_until()
        interval: float = 0.2,
    ) -> Status:
        """Poll the status until it is the wanted one. The parameters are those of Client.wait_until()."""
        is_wanted = matcher(acquiring, text)
        clock = asyncio.get_running_loop().time
        deadline = clock() + checked_wait(timeout)
        checked_wait(interval, "interval")
        while True:
            status = await self.within(poll_wait(deadline - clock(), self.reply_wait("status"))).status()
            if is_wanted(status):
                return status
            left = deadline - clock()
            if left <= 0:
                raise WaitTimeout(timeout, status)
            await asyncio.sleep(min(interval, left))

    async def exchange(self, request: Message) -> Message:
        """Send a request and return its reply.

        Parameters
        ----------
        request
            The request.

        Returns
        -------
        reply
            The reply, with any code.

        Raises
        ------
        NoReply
            If the reply does not arrive, or is not a reply to this request. The connection is closed then.
        ValueError
            If the request is not a valid message. Nothing is sent then.
        """
        if not request.check_synthax():
            raise ValueError(f"no message of the protocol: {request!r}")
        async with self._shared.turn:
            deadline = asyncio.get_running_loop().time() + self.reply_wait(request.name)
            channel = await self._ready(deadline)
            try:
                return await self._exchange(channel, request, deadline)
            except NoReply:
                if not (self._reconnect and channel.lost and self._only_reads(request.name)) or self._shared.closed:
                    raise
            # The connection was lost, and the request changes nothing.
            return await self._exchange(await self._ready(deadline), request, deadline)

    async def _perform(self, call: Call[R]) -> R:
        return call.result(await self.exchange(call.request))

    async def _exchange(self, channel: _Channel, request: Message, deadline: float) -> Message:
        try:
            async with asyncio.timeout_at(deadline):
                return await channel.ask(request)
        except TimeoutError:
            channel.fail(NoReply(CLOSED))
            raise NoReply(late(request.name, self.reply_wait(request.name))) from None
        except asyncio.CancelledError:
            if self._reconnect:
                channel.fail(NoReply(CLOSED))
            raise

    async def _ready(self, deadline: float) -> _Channel:
        """Return a connection on which nothing has arrived without a request. Connect again if that is allowed."""
        shared = self._shared
        if shared.channel is not None and not shared.closed:
            try:
                await shared.channel.settled(deadline)
                await shared.channel.check_nothing_came()
                return shared.channel
            except NoReply:
                if not self._reconnect:
                    raise
        if shared.closed:
            raise NoReply(CLOSED)
        return await self._connect(max(deadline - asyncio.get_running_loop().time(), 0.001))

    async def _connect(self, patience: float) -> _Channel:
        """Connect, and wait for the greeting."""
        loop = asyncio.get_running_loop()
        where = address_text((self.host, self.port))
        try:
            async with asyncio.timeout(min(patience, CONNECT_WAIT)):
                _, channel = await loop.create_connection(lambda: _Channel(self._longest_reply), self.host, self.port)
        except TimeoutError:
            raise NoReply(f"no server at {where}: timed out") from None
        except OSError as problem:
            raise NoReply(f"no server at {where}: {reason_of(problem)}") from problem
        except (OverflowError, UnicodeError) as problem:
            # A port above 65535, or a name that is not valid in DNS.
            raise NoReply(f"{where} is not a valid address: {problem}") from problem
        try:
            await channel.greeted(min(self._greeting_wait, patience))
        except BaseException:
            channel.fail(NoReply(CLOSED))
            raise
        if self._shared.closed:
            await channel.close()
            raise NoReply(CLOSED)
        self._shared.channel = channel
        return channel


class _Shared:
    """What a client shares with the clients that within() returns."""

    def __init__(self) -> None:
        self.channel: _Channel | None = None
        self.closed = False
        # One request at a time, in the order in which the tasks come.
        self.turn = asyncio.Lock()


class _Channel(asyncio.Protocol):
    """One TCP connection, and the replies on it."""

    def __init__(self, longest: int) -> None:
        self.pairing: Pairing[asyncio.Future[Message]] = Pairing(longest)
        self.lost = False
        """Whether the connection was lost: not closed by this client, and not because of a wrong line."""
        loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._problem: NoReply | None = None
        self._first_line: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._name = ""
        # The name of the last request, and its reply, which may be awaited by nobody any more.
        self._last: tuple[str, asyncio.Future[Message]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for event in self.pairing.feed(data):
            if isinstance(event, Answer):
                event.request.set_result(event.message)
            elif isinstance(event, Greeting):
                self._set_first_line()
            else:
                # The name in the text is that of the request that is waiting now, if there is one.
                self.fail(NoReply(wrong_line(event, self._name)))
                return

    def eof_received(self) -> None:
        self._lose("the server closed the connection")

    def connection_lost(self, problem: Exception | None) -> None:
        reason = reason_of(problem) if isinstance(problem, OSError) else str(problem or "")
        self._lose(f"connection lost: {reason}" if reason else "the server closed the connection")
        if not self._ended.done():
            self._ended.set_result(None)

    async def ask(self, request: Message) -> Message:
        """Send a request, and wait for its reply. Raise NoReply if the connection fails before."""
        reply: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        assert self._transport is not None
        self._name = request.name
        self.pairing.expect(request.name, reply)
        self._transport.write(f"{request}{LINEFEED}".encode("latin-1"))
        self._last = (request.name, reply)
        try:
            # If this task is cancelled, the reply is still expected.
            return await asyncio.shield(reply)
        finally:
            self._name = ""

    async def settled(self, deadline: float) -> None:
        """Wait for the late reply to a cancelled request, and discard it.

        Otherwise a repetition of this reply could be taken for the reply to the next request.
        """
        if self._last is None or self._last[1].done():
            return
        name, reply = self._last
        left = max(deadline - asyncio.get_running_loop().time(), 0.0)
        await asyncio.wait([reply], timeout=left)
        if not reply.done():
            self.fail(NoReply(CLOSED))
            raise NoReply(late(name, left))

    async def greeted(self, seconds: float) -> None:
        """Wait for the greeting, at most for so long. Raise NoReply if something else arrives."""
        await asyncio.wait([self._first_line], timeout=seconds)
        if self._problem is not None:
            raise self._problem

    async def check_nothing_came(self) -> None:
        """Raise NoReply if something has arrived without a request, except for a late greeting."""
        # The event loop reads what has arrived in its next turn; this task continues in the turn after that.
        for _ in range(2):
            await asyncio.sleep(0)
        if self.pairing.unasked:
            self.fail(NoReply(unasked(self.pairing.rest)))
        if self._problem is not None:
            problem, self._problem = self._problem, NoReply(CLOSED)
            raise problem

    def fail(self, problem: NoReply) -> None:
        """Close the connection because of this problem, which the waiting request raises, or the next one."""
        if self._problem is not None:
            return
        self._problem = problem
        if self._last is not None and not (reply := self._last[1]).done():
            # Not the requests of the pairing: a wrong line counts as the reply to one of them.
            reply.set_exception(problem)
            # It is no error if nobody awaits it any more.
            reply.exception()
            self._problem = NoReply(CLOSED)
        self._set_first_line()
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Close the connection, and wait until it is closed."""
        self.fail(NoReply(gone(self._name) if self._name else CLOSED))
        await asyncio.wait([self._ended])

    def _lose(self, reason: str) -> None:
        self.lost = self.lost or self._problem is None
        self.fail(NoReply(reason))

    def _set_first_line(self) -> None:
        if not self._first_line.done():
            self._first_line.set_result(None)
