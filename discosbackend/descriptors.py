"""Detects that the process, or the system, has run out of file descriptors.

Twisted then closes new connections at once, or does not accept them, and logs this at a low level. DescriptorWatch logs
a warning that says which limit to raise.
"""

from __future__ import annotations

import logging
from typing import Any

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from discosbackend.log import address_text
from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger

try:
    import resource
except ImportError:  # not a Unix
    resource = None  # type: ignore[assignment]

__all__ = ["DescriptorWatch"]

_KIND = "out of file descriptors"
_CLOSED = "EMFILE recovery"


@implementer(ILogObserver)
class DescriptorWatch:
    """Observes Twisted's log between begin() and end(), and logs at most one warning per minute."""

    def __init__(self, limited: RateLimitedLogger) -> None:
        self._limited = limited

    def begin(self) -> None:
        """Start observing, when a server starts to listen."""
        globalLogPublisher.addObserver(self)

    def end(self) -> None:
        """Stop observing."""
        globalLogPublisher.removeObserver(self)

    def __call__(self, event: LogEvent) -> None:
        """Handle an event of Twisted's log. Called by Twisted."""
        if "acceptError" in event:
            self._not_accepted(str(event["acceptError"]))
        elif "address" in event and str(event.get("log_format")).startswith(_CLOSED):
            self._warn(
                "out of file descriptors: new connections are closed at once, the first one was from %s; %s",
                _text(event["address"]),
                _what_to_raise(),
            )

    def _not_accepted(self, code: str) -> None:
        if code == "EMFILE":
            cure = _what_to_raise()
        elif code == "ENFILE":
            cure = "the whole system has too many open files: raise fs.file-max"
        elif code in ("ENOBUFS", "ENOMEM"):
            cure = f"the system has no memory for connections ({code})"
        else:
            # The client has disconnected before the connection was accepted.
            return
        self._warn("out of file descriptors: new connections wait and are not accepted; %s", cure)

    def _warn(self, text: str, *args: object) -> None:
        self._limited.log(logging.WARNING, _KIND, text, *args, window=MINUTE, at_most=1)


def _text(address: Any) -> str:
    """Return the text of an address as accept() returns it: a tuple, or the path of a Unix socket, mostly empty."""
    return address_text(address[:2] if isinstance(address, tuple) else address)


def _what_to_raise() -> str:
    limit = "" if resource is None else f" {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"
    return f"this process may have{limit} open files: raise LimitNOFILE= of its systemd unit, or ulimit -n"
