"""PausableListener: a listening port that can refuse new connections for a time.

The port is closed meanwhile, so that the operating system refuses connections. Existing connections are not affected.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from discosbackend.server import address_of

__all__ = ["PausableListener", "PausableEndpoint"]

logger = logging.getLogger(__name__)

# Seconds between attempts to listen again while another process uses the address.
_RETRY = 0.2


@implementer(IListeningPort)
class PausableListener:
    """Wraps a listening port. The port can also be stopped during a pause.

    A pause does not call stopFactory() of the factory, although the port is closed.

    Parameters
    ----------
    port
        The port of the factory.
    factory
        The factory of the connections.
    clock
        A reactor.
    """

    def __init__(self, port: IListeningPort, factory: Factory, clock: Any) -> None:
        self._port = port
        self._factory = factory
        self._clock = clock
        # A closed port no longer knows its address.
        self._address = port.getHost()
        self._until = 0.0
        self._timer: Any = None
        self._paused = False
        # Deferreds that wait until the port is closed; None unless it is being closed.
        self._closing: list[Deferred[None]] | None = None
        self._stopped: Deferred[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether new connections are accepted."""
        return not self._paused

    def pause(self, seconds: float) -> Deferred[None]:
        """Refuse new connections for a time. A pause that lasts longer is not shortened.

        A socket that was opened by another process cannot be paused; that is logged.

        Parameters
        ----------
        seconds
            The duration in seconds.

        Returns
        -------
        Deferred
            It fires once connections are refused.
        """
        if self._stopped is not None:
            return succeed(None)
        self._until = max(self._until, self._clock.seconds() + seconds)
        if self._paused:
            return self._when_closed()
        number = getattr(self._address, "port", None)
        if number is not None:
            if getattr(self._port, "port", number) is None:
                logger.error("cannot refuse connections: %s was opened by another process", address_of(self))
                return succeed(None)
            # If any port was requested (0), the same port must be used again.
            cast(Any, self._port).port = number
        logger.info("%s refuses connections for %g s", address_of(self), seconds)
        self._paused = True
        self._closing = []
        closed = self._when_closed()
        self._factory.doStart()
        maybeDeferred(self._port.stopListening).addBoth(self._on_closed)
        return closed

    def _when_closed(self) -> Deferred[None]:
        if self._closing is None:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._closing.append(closed)
        return closed

    def _on_closed(self, outcome: object) -> None:
        waiting, self._closing = self._closing or [], None
        if isinstance(outcome, Failure):
            logger.error("closing %s failed: %s", address_of(self), outcome.getErrorMessage())
        if self._stopped is None:
            self._resume_when_due()
        for closed in waiting:
            closed.callback(None)

    def _resume_when_due(self) -> None:
        left = self._until - self._clock.seconds()
        if left > 0:
            self._timer = self._clock.callLater(left, self._resume_when_due)
            return
        self._timer = None
        uses = self._factory.numPorts
        try:
            self._port.startListening()
        except (CannotListenError, OSError) as problem:
            # listen() raises OSError if another process listens on the address after our bind().
            if self._factory.numPorts > uses:
                # The port of a Unix socket calls doStart() before it listens.
                self._factory.doStop()
            logger.warning("cannot listen again on %s, will retry: %s", address_of(self), problem)
            self._timer = self._clock.callLater(_RETRY, self._resume_when_due)
            return
        self._paused = False
        self._factory.doStop()
        logger.info("%s accepts connections again", address_of(self))

    # -- IListeningPort -------------------------------------------------------------------------------

    def startListening(self) -> None:
        """Listen. Raise CannotListenError if the address is in use."""
        self._port.startListening()

    def stopListening(self) -> Deferred[None]:
        """Stop listening, also during a pause. The Deferred fires when the port is closed."""
        if self._stopped is not None:
            return self._stopped
        if not self._paused:
            self._stopped = self._port.stopListening() or succeed(None)
            return self._stopped
        self._stopped = self._when_closed()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._factory.doStop()
        return self._stopped

    def getHost(self) -> IAddress:
        """Return the address of the port, also during a pause."""
        return self._address


@implementer(IStreamServerEndpoint)
class PausableEndpoint:
    """An endpoint that listens with a PausableListener.

    Parameters
    ----------
    endpoint
        The endpoint to wrap.
    made
        Called with the PausableListener.
    clock
        Returns the reactor.
    """

    def __init__(
        self, endpoint: IStreamServerEndpoint, made: Callable[[PausableListener], object], clock: Callable[[], Any]
    ) -> None:
        self._endpoint = endpoint
        self._made = made
        self._clock = clock

    def listen(self, protocolFactory: Any) -> Deferred[IListeningPort]:  # noqa: N803  # Twisted's name
        """Listen. The Deferred fires with the PausableListener, or fails with the reason."""
        listening: Deferred[Any] = self._endpoint.listen(protocolFactory)
        return listening.addCallback(self._made_pausable, protocolFactory)

    def _made_pausable(self, port: IListeningPort, factory: Factory) -> PausableListener:
        listener = PausableListener(port, factory, self._clock())
        self._made(listener)
        return listener
