"""The address of a server: as `HOST:PORT` on a command line, or in the environment variable DISCOS_BACKEND."""

from __future__ import annotations

import argparse
import os

__all__ = ["VARIABLE", "address_in_environment", "host_and_port", "server_address"]

VARIABLE = "DISCOS_BACKEND"
"""The environment variable with the address of the server, for clients that are given none."""

_DEFAULT = ("127.0.0.1", 8978)


def host_and_port(text: str) -> tuple[str, int]:
    """Convert an argument of a command line to a host and a port.

    Parameters
    ----------
    text
        The address as `HOST:PORT`, with an IPv6 address in brackets.

    Returns
    -------
    host
        The host, without brackets.
    port
        The port.

    Raises
    ------
    argparse.ArgumentTypeError
        If the text is not `HOST:PORT`.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    if not name or not (bracketed or ":" not in host) or not (port.isascii() and port.isdigit() and int(port) < 65536):
        such_as = ", such as 127.0.0.1:8978"
        if text.count(":") > 1:
            such_as = "; write an IPv6 address in brackets: [::1]:8978"
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT{such_as}")
    return name, int(port)


def address_in_environment() -> tuple[str, int] | None:
    """Return the host and the port in DISCOS_BACKEND, None if it is not set or empty. Raise ValueError if invalid."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    try:
        return host_and_port(text)
    except argparse.ArgumentTypeError as problem:
        raise ValueError(f"the environment variable {VARIABLE}: {problem}") from None


def server_address(host: str | None, port: int | None) -> tuple[str, int]:
    """Return the address to which a client connects.

    Parameters
    ----------
    host, port
        The arguments of the client. If both are None, the address in DISCOS_BACKEND is used. If this is not set either,
        or if only one is given, the missing part is that of 127.0.0.1:8978.

    Raises
    ------
    ValueError
        If DISCOS_BACKEND is used and is not `HOST:PORT`.
    """
    found = address_in_environment() if host is None and port is None else None
    default_host, default_port = found or _DEFAULT
    return default_host if host is None else host, default_port if port is None else port
