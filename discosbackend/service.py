"""DBService: a server as a service of a Twisted application. The other ways to serve need no such application."""

from __future__ import annotations

import logging

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from discosbackend.server import Server

__all__ = ["DBService"]

logger = logging.getLogger(__name__)


class DBService(Server, Service):
    """A Server that a Twisted application, or another service, starts and stops.

    The parameters, the attributes and the exception are those of Server. If the service has a parent and cannot listen,
    this is logged.
    """

    def startService(self) -> None:
        """Start to listen."""
        super().startService()  # type: ignore[no-untyped-call]
        self.start()
        if self.parent is not None:
            # An application does not check whether its services have started, so the failure has to be logged.
            self.listening.addErrback(_log_not_listening)

    def stopService(self) -> Deferred[None]:
        """Shut the server down. The returned Deferred fires when it is done, after at most `longest_stop`."""
        super().stopService()  # type: ignore[no-untyped-call]
        return self.stop()


def _log_not_listening(failure: Failure) -> Failure:
    logger.critical("cannot listen: %s", failure.getErrorMessage())
    return failure
