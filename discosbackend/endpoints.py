"""Endpoint strings, such as `tcp:8978:interface=127.0.0.1`, and what is wrong with them.

It loads Twisted's module of endpoints, which takes 0.8 MiB. So a server that listens on a port does not import it.
"""

from __future__ import annotations

import os
import re
import socket
from typing import Any, cast

from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint

from discosbackend.errors import in_one_line, reason_of
from discosbackend.server import BACKLOG
from discosbackend.toml import did_you_mean

__all__ = ["endpoint_from"]

# An example for each kind of endpoint, for error messages.
_EXAMPLES = {
    "tcp": "tcp:8978:interface=192.168.200.5",
    "tcp6": "tcp6:8978",
    "unix": "unix:/run/discos-backend.sock:mode=660",
    "ssl": "ssl:8978:privateKey=server.pem:certKey=server.pem:interface=127.0.0.1",
    "systemd": "systemd:domain=INET:name=backend",
    "haproxy": "haproxy:tcp:8978",
}

# In an endpoint string, a backslash precedes a colon that is part of a value.
_CLIENT_CA = re.compile(r":clientCA=((?:[^:\\]|\\.)*)")
_QUOTED = re.compile(r"\\(.)")


def endpoint_from(reactor: Any, description: str) -> IStreamServerEndpoint:
    """Return the endpoint for a Twisted endpoint string.

    Parameters
    ----------
    reactor
        The reactor.
    description
        The endpoint string, such as `tcp:8978:interface=127.0.0.1`. Without `backlog=`, the listen backlog is BACKLOG.
        An `ssl:` endpoint can have `clientCA=FILE`: only clients with a certificate of this authority can connect.

    Returns
    -------
    endpoint
        The endpoint, for Server.

    Raises
    ------
    ValueError
        If no server can listen on it. The text says what to write instead.
    """
    kind, _, rest = description.partition(":")
    inner = rest.partition(":")[0] if kind == "haproxy" else kind
    if inner == "stdio":
        raise ValueError(f"a server needs a port or a socket of its own, such as {_EXAMPLES['tcp']}")
    client_ca = _CLIENT_CA.search(description) if kind == "ssl" else None
    if client_ca is not None:
        if ":sslmethod=" in description:
            raise ValueError("sslmethod cannot be combined with clientCA: leave it out")
        description = description.replace(client_ca[0], "")
    if kind in ("tcp", "tcp6", "ssl", "unix") and rest and ":backlog=" not in rest:
        description += f":backlog={BACKLOG}"
    try:
        endpoint = serverFromString(reactor, description)
    except Exception as problem:
        raise ValueError(_why_no_endpoint(kind, problem)) from problem
    number = getattr(endpoint, "_port", 0)
    if isinstance(number, int) and not 0 <= number <= 65535:
        raise ValueError(f"a port is a number from 0 to 65535, such as {_EXAMPLES.get(kind, _EXAMPLES['tcp'])}")
    if client_ca is not None:
        from discosbackend.client_certificates import require_client_certificates

        require_client_certificates(endpoint, _QUOTED.sub(r"\1", client_ca[1]))
    if isinstance(endpoint, AdoptedStreamServerEndpoint):
        _check_handed_over(endpoint)
    return cast(IStreamServerEndpoint, endpoint)


def _check_handed_over(endpoint: Any) -> None:
    """Raise ValueError if no server can accept connections on a socket from systemd. Twisted does not check this."""
    descriptor = os.dup(endpoint.fileno)
    try:
        given = socket.socket(fileno=descriptor)
    except OSError as problem:
        os.close(descriptor)
        raise ValueError(f"systemd has handed over no socket: {reason_of(problem)}") from problem
    with given:
        if not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError("the socket from systemd does not listen for connections: use ListenStream in its unit")
        is_path = given.family == socket.AF_UNIX
        if is_path != (endpoint.addressFamily == socket.AF_UNIX):
            text = "a path: write domain=UNIX" if is_path else "not a path: write domain=INET or domain=INET6"
            raise ValueError(f"the socket from systemd cannot be used, its address is {text}")


def _why_no_endpoint(kind: str, problem: Exception) -> str:
    if kind in ("ssl", "tls") and isinstance(problem, (ImportError, NameError)):
        return f"{kind} needs the package pyOpenSSL: pip install 'discosbackend[tls]'"
    if kind == "systemd" and isinstance(problem, KeyError):
        return (
            f"systemd has handed over no socket {problem.args[0]!r}: the name is FileDescriptorName in the .socket "
            "unit, and the server must be started by systemd"
        )
    if kind == "systemd" and isinstance(problem, IndexError):
        return (
            "systemd has handed over no socket with this index: the first one has 0, and the server must be started by "
            "systemd"
        )
    if kind not in _EXAMPLES:
        if not isinstance(problem, (ValueError, IndexError)):
            # A kind of endpoint from a plugin of Twisted.
            return in_one_line(problem)
        return f"there is no kind {kind!r}{did_you_mean(kind, _EXAMPLES) or ': there are ' + ', '.join(_EXAMPLES)}"
    if kind == "ssl" and not isinstance(problem, TypeError):
        return f"the key or the certificate cannot be read: write {_EXAMPLES[kind]}, with the path of a PEM file"
    return f"write it such as {_EXAMPLES[kind]}"
