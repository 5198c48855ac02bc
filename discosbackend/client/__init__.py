"""A client: `Client` has one method per command and blocks until the reply has arrived.

It needs neither Twisted nor astropy. Its command line is `python -m discosbackend.client HOST:PORT status`.
"""

from __future__ import annotations

from discosbackend.client.blocking import Client, Instant, Status
from discosbackend.client.command_line import host_and_port
from discosbackend.client.connection import Connection
from discosbackend.errors import ClientError, NoReply, ReplyMalformed, RequestFailed, RequestInvalid

__all__ = [
    "Client",
    "ClientError",
    "Connection",
    "Instant",
    "NoReply",
    "ReplyMalformed",
    "RequestFailed",
    "RequestInvalid",
    "Status",
    "host_and_port",
]
