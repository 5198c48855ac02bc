"""FaultyCalls: makes commands fail, hang or run slowly, as Faults decides.

It wraps the methods that a handler calls. Calls of a backend to its own methods are not affected. protocol applies
faults to replies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

from twisted.internet.defer import Deferred

from discosbackend.coroutines import deferred_of
from discosbackend.errors import STOPPING, BackendError
from discosbackend.handlers import BackendCommand, Handler
from discosbackend.simulator.faults.script import Fault, Faults

__all__ = ["FaultyCalls"]


class FaultyCalls:
    """Wraps all commands of a handler, including the backend's own ones.

    A handler without commands is not changed.

    Parameters
    ----------
    handler
        The handler, whose commands are replaced.
    faults
        Decides which faults apply.
    reactor
        Returns the reactor; called when it is first needed.
    """

    def __init__(self, handler: Handler, faults: Faults, reactor: Callable[[], Any]) -> None:
        self._faults = faults
        self._reactor = reactor
        self._hanging: set[Deferred[Any]] = set()
        # Hanging and slow calls in threads wait for this event.
        self._released = threading.Event()
        self._given_up = False
        for command in getattr(handler, "commands", {}).values():
            if isinstance(command, BackendCommand):
                command.method = self._wrapped(command)

    def release(self) -> None:
        """Fail all hanging calls and all slow calls in threads now, because the server shuts down."""
        released, self._released = self._released, threading.Event()
        released.set()
        for hanging in list(self._hanging):
            hanging.errback(_released())

    @contextmanager
    def given_up(self) -> Iterator[None]:
        """Fail all hanging calls now. Within the context, fail each call that begins. Use it to cancel all commands."""
        self._given_up = True
        try:
            self.release()
            yield
        finally:
            self._given_up = False

    def _wrapped(self, command: BackendCommand) -> Callable[..., Any]:
        # Wrap the handler's command, not the method of the backend: status() may call time().
        name, method = command.name, command.method
        blocks = command.worker is not None

        @wraps(method)
        def call(*arguments: Any) -> Any:
            if self._given_up:
                raise _released()
            # Read it before a fault is chosen, so that a release in between is not missed.
            released = self._released
            applied = self._faults.on_call(name) if self._faults.on_calls else None
            if not applied:
                return method(*arguments)
            go_on = partial(_carried_out, applied, partial(method, *arguments))
            return _in_thread(applied, go_on, released) if blocks else self._in_place(applied, go_on)

        return call

    def _in_place(self, applied: list[Fault], go_on: Callable[[], Any]) -> Any:
        """Return the result of a method that does not block, or a Deferred that fires later or never."""
        seconds, hangs = _waits(applied)
        if not seconds and not hangs:
            return go_on()
        waiting: Deferred[Any]
        if hangs:
            waiting = Deferred()
            self._hanging.add(waiting)
            waiting.addBoth(self._forget_hanging, waiting)
        else:
            waiting = Deferred(lambda _: timer.cancel())
            timer = self._reactor().callLater(seconds, waiting.callback, None)
        return waiting.addCallback(lambda _: _result_of(go_on))

    def _forget_hanging(self, outcome: Any, hanging: Deferred[Any]) -> Any:
        self._hanging.discard(hanging)
        return outcome


def _in_thread(applied: list[Fault], go_on: Callable[[], Any], released: threading.Event) -> Any:
    """Delay and call a method marked @blocking, in its thread."""
    seconds, hangs = _waits(applied)
    if (hangs or seconds) and released.wait(None if hangs else seconds):
        raise _released()
    return go_on()


def _waits(applied: list[Fault]) -> tuple[float, bool]:
    """Return the delay of a call in seconds, and whether it hangs."""
    seconds = sum(fault.seconds or 0.0 for fault in applied if fault.kind == "slow")
    return seconds, any(fault.kind == "hang" for fault in applied)


def _carried_out(applied: list[Fault], call: Callable[[], Any]) -> Any:
    for fault in applied:
        if fault.kind == "fail":
            raise BackendError(fault.text)
    return call()


def _result_of(call: Callable[[], Any]) -> Any:
    result = call()
    return deferred_of(result) if hasattr(type(result), "__await__") else result


def _released() -> BackendError:
    return BackendError(STOPPING)
