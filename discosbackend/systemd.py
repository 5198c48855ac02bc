"""Reports the state of a server to systemd, for units with `Type=notify` and `WatchdogSec=`.

systemd passes the address of a socket in the environment variable NOTIFY_SOCKET. server.py imports this module only if
that is set. The messages are those of sd_notify(3): READY=1, STATUS=, WATCHDOG=1, EXTEND_TIMEOUT_USEC= and STOPPING=1.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from discosbackend.errors import in_one_line, reason_of
from discosbackend.forced_exit import standard_error
from discosbackend.timers import timers_of

if TYPE_CHECKING:
    from discosbackend.server import Server

__all__ = ["NotifySocket", "SystemdNotifier", "notifier_from", "status_of"]

logger = logging.getLogger(__name__)

# How often the status is compared with the one that was sent last, in s.
_STATUS_PERIOD = 1.0


class NotifySocket:
    """Sends messages to the notify socket of systemd. Never waits, and logs only the first failure.

    Parameters
    ----------
    address
        The value of NOTIFY_SOCKET: an absolute path, or a name in the abstract namespace, which begins with `@`.

    Raises
    ------
    ValueError
        If the address has neither form.
    """

    def __init__(self, address: str) -> None:
        if len(address) < 2 or address[0] not in "/@":
            raise ValueError(f"NOTIFY_SOCKET={address!r} is neither a path nor an abstract socket")
        # As bytes, because a path need not be valid UTF-8.
        name = os.fsencode(address)
        self._address = b"\0" + name[1:] if address[0] == "@" else name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._failed = False

    def send(self, *assignments: str) -> bool:
        """Send assignments, such as `READY=1`, in one message. Return False if that is not possible now."""
        message = "\n".join(assignments).encode(errors="backslashreplace")
        try:
            self._socket.sendto(message, self._address)
        except OSError as problem:
            if not self._failed:
                self._failed = True
                logger.warning(
                    "systemd cannot be notified, which is not logged again: %s: %r", reason_of(problem), assignments
                )
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class SystemdNotifier:
    """Notifies systemd from begin() to close(). All methods must be called in the reactor's thread.

    Parameters
    ----------
    notify_socket
        The notify socket.
    reactor
        The reactor.
    status
        A function that returns the text of STATUS=. It is called once a second, and the text is sent if it has changed.
    watchdog
        The limit of systemd's watchdog, in s. None: there is no watchdog.
    over
        The event that ends the watchdog's thread. A test can pass one with a clock of its own.

    Notes
    -----
    WATCHDOG=1 is sent by the reactor, so that systemd restarts a server whose reactor is blocked. A thread asks the
    reactor to send it, twice within the limit. A delayed call of the reactor is not used: after a step of the host's
    clock it may be late, and systemd would then end a healthy server.
    """

    def __init__(
        self,
        notify_socket: NotifySocket,
        reactor: Any,
        status: Callable[[], str],
        watchdog: float | None = None,
        over: threading.Event | None = None,
    ) -> None:
        self._socket = notify_socket
        self._reactor = reactor
        self._timers = timers_of(reactor)
        self._status = status
        self._watchdog = watchdog
        self._over = threading.Event() if over is None else over
        self._thread: threading.Thread | None = None
        # Whether the reactor has been asked to send WATCHDOG=1, and has not done it yet.
        self._asked = False
        # What has to be sent, but has not been sent yet.
        self._due: list[str] = []
        self._sent_status = ""
        self._timer: Any = None
        self._enabled_faulthandler = False

    def begin(self) -> None:
        """Report that the server listens, and begin to report its status."""
        self._send("READY=1")
        if self._watchdog is not None:
            # systemd's watchdog sends SIGABRT. Then faulthandler writes the stacks of all threads to standard error,
            # even if C code holds the interpreter lock.
            if not faulthandler.is_enabled():
                faulthandler.enable(standard_error())
                self._enabled_faulthandler = True
            self._thread = threading.Thread(
                target=self._pace, args=(self._watchdog / 2,), name="discos-systemd", daemon=True
            )
            self._thread.start()

    def stop(self, within: float) -> None:
        """Report that the server is stopping, and that this takes at most `within` s."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(within * 1e6)}")

    def close(self) -> None:
        """Send nothing more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._enabled_faulthandler:
            faulthandler.disable()
            self._enabled_faulthandler = False
        self._socket.close()

    def _send(self, *assignments: str) -> None:
        """Send these assignments as soon as the socket accepts them."""
        self._due += assignments
        if self._timer is not None:
            self._timer.cancel()
        self._update()

    def _update(self) -> None:
        """Send what is due, and the status if it has changed. Called once a second."""
        self._timer = self._timers.callLater(_STATUS_PERIOD, self._update)
        try:
            status = " ".join(self._status().split())
        except Exception as problem:  # noqa: BLE001  # a subclass of the factory may raise anything
            status = f"unknown: {in_one_line(problem)}"
        changed = [f"STATUS={status}"] if status != self._sent_status else []
        if (self._due or changed) and self._socket.send(*self._due, *changed):
            self._due.clear()
            self._sent_status = status

    def _pace(self, period: float) -> None:
        """Ask the reactor regularly to send WATCHDOG=1. This is the function of the thread."""
        while not self._over.wait(period):
            # At most one call at a time, so that no calls accumulate while the reactor is blocked.
            if not self._asked:
                self._asked = True
                self._reactor.callFromThread(self._ping)

    def _ping(self) -> None:
        self._asked = False
        if not self._over.is_set():
            self._socket.send("WATCHDOG=1")


def notifier_from(environ: MutableMapping[str, str], reactor: Any, status: Callable[[], str]) -> SystemdNotifier | None:
    """Return the notifier that the environment describes, or None. A variable that is not valid is logged.

    Parameters
    ----------
    environ
        The environment. The variables are removed, so that child processes do not inherit them.
    reactor
        The reactor.
    status
        A function that returns the text of STATUS=.
    """
    address = environ.pop("NOTIFY_SOCKET", "")
    limit, process = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not address:
        return None
    try:
        notify_socket = NotifySocket(address)
    except (OSError, ValueError) as problem:
        logger.warning("systemd cannot be notified: %s", problem)
        return None
    return SystemdNotifier(notify_socket, reactor, status, _watchdog_limit(limit, process))


def _watchdog_limit(limit: str, process: str) -> float | None:
    """Return the limit of systemd's watchdog in s, None if this process has none."""
    # Without WATCHDOG_PID, the watchdog is that of whichever process has the variable.
    if not limit or process not in ("", str(os.getpid())):
        return None
    if not (limit.isascii() and limit.isdigit() and 0 < int(limit) / 1e6 < threading.TIMEOUT_MAX):
        logger.warning("WATCHDOG_USEC=%.40r is not a number of microseconds: systemd's watchdog gets no answer", limit)
        return None
    return int(limit) / 1e6


def status_of(server: Server) -> str:
    """Return the status of a server in one line, such as `acquiring, 3 clients`."""
    factory = server.factory
    parts = ["stopping"] if factory.stopping else []
    # A backend that has an Acquisition has imported the module.
    if "discosbackend.acquisition" in sys.modules:
        from discosbackend.acquisition import acquisition_of

        acquisition = acquisition_of(getattr(factory.handler, "backend", None))
        if acquisition is not None:
            parts.append(str(acquisition))
    count = len(factory.connections)
    parts.append(f"{count or 'no'} client{'' if count == 1 else 's'}")
    return ", ".join(parts)
