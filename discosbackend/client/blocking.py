"""Client: a blocking client with one method per command.

connection.py sends the requests, and checks that a reply belongs to its request. methods.py has the methods.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from discosbackend.client.connection import Connection
from discosbackend.client.methods import BlockingMethods, Call, R, Status, matcher, poll_wait, rows_of
from discosbackend.commands import Command
from discosbackend.errors import WaitTimeout
from discosbackend.line_socket import checked_wait
from discosbackend.pairing import LONGEST_REPLY

__all__ = ["Client"]


class Client(BlockingMethods, Connection):
    """A connection to a backend server, with one method per command. Use it as a context manager.

    The methods have the same names as those of Backend. call() sends a command of your own, with checked arguments, and
    request() any other command. Each method waits for its reply and returns the values in it. If the request does not
    succeed, it raises one of the exceptions below. After NoReply the connection is closed, so that a late reply cannot
    be taken for the reply to the next request.

    Parameters
    ----------
    host
        The host of the server.
    port
        The TCP port of the server. If neither is given, the address is that in the environment variable DISCOS_BACKEND,
        `HOST:PORT` with an IPv6 address in brackets, or else 127.0.0.1:8978.
    timeout
        How long to wait for each reply, in s. Default: 100 s, and 3640 s for `convert-data`, which takes longer.
        within() sets it for one call.
    greeting_wait
        How long to wait for the greeting, in s. A server may greet later, or never.
    longest_reply
        The length of the longest accepted line, in bytes, with CR, without LF.
    reconnect
        Whether the next request connects again after the connection was lost. A request is never sent twice, except
        for a command that changes nothing: it is sent once more if the connection was lost before its reply arrived.
    commands
        The rows of your own commands, for call(), or the class of your backend, which declares them.

    Raises
    ------
    RequestFailed
        If the reply is `fail`. Its text is the server's reason.
    RequestInvalid
        If the reply is `invalid`. Its text is the server's reason.
    ReplyMalformed
        If the reply is `ok`, but its values are not those of the command.
    NoReply
        If the server cannot be reached, the reply does not arrive in time, or a line is not the expected reply.
    ValueError
        If an argument cannot be sent. Also if `timeout` is not above 0, if `greeting_wait` is negative, if one of these
        is longer than a day, or if DISCOS_BACKEND is used, and is not an address.
    TypeError
        If an argument has a wrong type.

    Examples
    --------
    Start one second later, by the clock of the backend::

        with Client("127.0.0.1", 8978) as client:
            client.set_configuration("SK00")
            client.start(client.status().timestamp + 10**7)
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
        super().__init__(
            host,
            port,
            timeout=timeout,
            greeting_wait=greeting_wait,
            longest_reply=longest_reply,
            reconnect=reconnect,
        )

    def wait_until(
        self, *, acquiring: bool | None = None, text: str | None = None, timeout: float, interval: float = 0.2
    ) -> Status:
        """Poll the status until it is the wanted one.

        Parameters
        ----------
        acquiring
            Whether to wait until an acquisition is running, or until none is. Default: either.
        text
            The wanted text of the status, such as `ok`. Default: any text.
        timeout
            How long to wait, in s.
        interval
            The time from a reply to the next request, in s.

        Returns
        -------
        status
            The first wanted status.

        Raises
        ------
        WaitTimeout
            If the wanted status is not reached in time. Its text contains the last status.
        ValueError
            If neither `acquiring` nor `text` is given, or if one of the times is not valid.
        """
        is_wanted = matcher(acquiring, text)
        deadline = time.monotonic() + checked_wait(timeout)
        checked_wait(interval, "interval")
        while True:
            status = self.within(poll_wait(deadline - time.monotonic(), self.reply_wait("status"))).status()
            if is_wanted(status):
                return status
            left = deadline - time.monotonic()
            if left <= 0:
                raise WaitTimeout(timeout, status)
            time.sleep(min(interval, left))

    def _perform(self, call: Call[R]) -> R:
        return call.result(self.exchange(call.request))
