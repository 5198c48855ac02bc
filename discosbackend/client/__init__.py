"""The clients: one method per command. `Client` blocks until the reply has arrived, `AsyncClient` is for asyncio.

They need neither Twisted nor astropy. The program is `discos-backend-client HOST:PORT`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from discosbackend.client.address import host_and_port
from discosbackend.client.blocking import Client
from discosbackend.client.connection import Connection
from discosbackend.client.methods import Instant, Status
from discosbackend.errors import ClientError, NoReply, ReplyMalformed, RequestFailed, RequestInvalid, WaitTimeout

if TYPE_CHECKING:
    from discosbackend.client.aio import AsyncClient

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Connection",
    "Instant",
    "NoReply",
    "ReplyMalformed",
    "RequestFailed",
    "RequestInvalid",
    "Status",
    "WaitTimeout",
    "host_and_port",
]


def __getattr__(name: str) -> object:
    # asyncio is imported only if it is used: the blocking client starts in half the time without it.
    if name == "AsyncClient":
        from discosbackend.client.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
