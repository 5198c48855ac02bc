"""The name of a client of a Unix socket: the user and the process that the kernel reports (SO_PEERCRED)."""

from __future__ import annotations

import socket
import struct
from functools import lru_cache
from typing import Any

from discosbackend.log import printable

__all__ = ["peer_of"]

# struct ucred of Linux: the process, the user and the group.
_CREDENTIALS = struct.Struct("3i")
_USERS = "/etc/passwd"
# How many users are remembered.
_MOST_USERS = 256


def peer_of(handle: Any) -> tuple[str, str] | None:
    """Return the user of a client, and the user with the process, such as `user discos` and `user discos, pid 4711`.

    Parameters
    ----------
    handle
        The connected socket.

    Returns
    -------
    names
        The two texts. None if the system does not report the user.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None or not isinstance(handle, socket.socket):
        return None
    try:
        credentials = handle.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    except OSError:
        # The client has disconnected.
        return None
    if len(credentials) != _CREDENTIALS.size:
        return None
    process, number, _ = _CREDENTIALS.unpack(credentials)
    if number < 0:
        # No credentials, such as of a socket that was connected before.
        return None
    user = _user_text(number)
    # The process is 0 if it is in another PID namespace, such as that of a container.
    return user, f"{user}, pid {process}" if process > 0 else user


@lru_cache(maxsize=_MOST_USERS)
def _user_text(number: int) -> str:
    """Return `user NAME`, or `uid NUMBER` for a user that this host's own list does not contain.

    The list is read here, because pwd.getpwuid() may ask a server in the network and block until it answers.
    """
    try:
        with open(_USERS, encoding="utf-8", errors="backslashreplace") as users:
            for line in users:
                name, _, rest = line.partition(":")
                if rest.split(":")[1:2] == [str(number)]:
                    return printable(f"user {name}")
    except OSError:
        # The number is enough.
        pass
    return f"uid {number}"
