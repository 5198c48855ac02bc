"""Logs what a server is doing when SIGUSR1 arrives: its state, and the stacks of all threads.

server.py imports this module when the first SIGUSR1 arrives. The state is made in the reactor's thread. If the reactor
is blocked, the stacks are logged by another thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from discosbackend import coroutines
from discosbackend.errors import in_one_line
from discosbackend.reactors import loop_of

if TYPE_CHECKING:
    from discosbackend.server import Server

__all__ = ["StateReport", "stacks", "state_of"]

logger = logging.getLogger(__name__)

_OUTERMOST = ("_bootstrap", "_bootstrap_inner", "run")
_THREAD = "discos-state-report"
# How long the thread waits for the reactor, in s.
_PATIENCE = 1.0
# How many lines a list of clients, commands, tasks or threads has at most, and how many functions a stack.
_MOST = 100


class StateReport:
    """Logs the state of a server when it is requested.

    Parameters
    ----------
    server
        The server.
    reactor
        The reactor.
    patience
        For how long the reactor may be blocked before the stacks are logged without the state, in s.
    """

    def __init__(self, server: Server, reactor: Any, patience: float = _PATIENCE) -> None:
        self._server = server
        self._reactor = reactor
        self._patience = patience
        self._lock = threading.Lock()
        # Whether the thread runs, and whether the reactor has been asked to log the state but has not done it yet.
        self._requested = False
        self._asked = False
        self._answered = threading.Event()

    def request(self) -> None:
        """Log the state soon. Can be called in any thread. A request during another one has no effect."""
        with self._lock:
            if self._requested:
                return
            self._requested = True
        # Its own thread, because it waits for the reactor, and because writing the log may take long.
        threading.Thread(target=self._report, name=_THREAD, daemon=True).start()

    def _report(self) -> None:
        """Have the reactor log the state. If it does not, log the stacks. This is the function of the thread."""
        try:
            if not self._asked:
                self._answered.clear()
                self._asked = True
                self._reactor.callFromThread(self._log_state)
            if not self._answered.wait(self._patience):
                text = "SIGUSR1: the reactor is blocked for %g s, the state follows when it answers; the threads:\n%s"
                logger.warning(text, self._patience, stacks())
        finally:
            with self._lock:
                self._requested = False

    def _log_state(self) -> None:
        """Log the state and the stacks. Called in the reactor's thread."""
        self._asked = False
        logger.warning("SIGUSR1: the state of the server:\n%s", state_of(self._server, self._reactor))
        logger.warning("SIGUSR1: the threads:\n%s", stacks())
        self._answered.set()


# -- the state ----------------------------------------------------------------------------------------


def state_of(server: Server, reactor: Any) -> str:
    """Return the state of a server, in several lines. Call it in the reactor's thread.

    Parameters
    ----------
    server
        The server.
    reactor
        The reactor.
    """
    parts: tuple[tuple[str, Callable[[], Iterable[str]]], ...] = (
        ("server", lambda: _server(server, reactor)),
        ("acquisition", lambda: _acquisition(server)),
        ("lanes, threads and locks", lambda: _lanes(server)),
        ("connections", lambda: _connections(server)),
        ("background tasks", lambda: _background_tasks(server)),
        ("tasks of asyncio", lambda: _asyncio_tasks(reactor)),
    )
    lines = []
    for title, part in parts:
        try:
            found = list(part())
        except Exception as problem:  # noqa: BLE001  # the other parts are still useful
            found = [f"cannot be shown: {in_one_line(problem)}"]
        lines.append(f"{title}: {'none' if not found else found[0] if len(found) == 1 else len(found)}")
        if len(found) > 1:
            lines += [f"  {line}" for line in _shortened(found)]
    return "\n".join(lines)


def _shortened(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _MOST else [*lines[:_MOST], f"and {len(lines) - _MOST} more"]


def _server(server: Server, reactor: Any) -> Iterator[str]:
    backend = getattr(server.factory.handler, "backend", server.factory.handler)
    state = "stopping" if server.factory.stopping else "running"
    calls = len(reactor.getDelayedCalls())
    yield f"{type(backend).__name__} in process {os.getpid()}, {state}, {type(reactor).__name__}, {calls} delayed calls"


def _acquisition(server: Server) -> Iterator[str]:
    if "discosbackend.acquisition" not in sys.modules:
        return
    from discosbackend.acquisition import acquisition_of

    acquisition = acquisition_of(getattr(server.factory.handler, "backend", None))
    if acquisition is not None:
        late = acquisition.last_lateness
        yield f"{acquisition}{'' if late is None else f', the last timed start or stop was {late:.6f} s late'}"


def _lanes(server: Server) -> Iterator[str]:
    """The lanes, threads and named locks that a command holds, with the commands that wait for them."""
    for lane in getattr(server.factory.handler, "lanes", ()):
        if lane.holder is not None:
            waiting = [name for name, _ in lane.waiting]
            more = f" and {lane.queued - len(waiting)} more" if lane.queued > len(waiting) else ""
            long = "" if lane.seconds is None else f" for {lane.seconds:.1f} s{', overdue' if lane.overdue else ''}"
            yield f"{lane.name}: held by {lane.holder}{long}; waiting: {', '.join(waiting) or 'none'}{more}"


def _connections(server: Server) -> Iterator[str]:
    for connection in list(server.factory.connections):
        yield connection.describe()


def _background_tasks(server: Server) -> Iterator[str]:
    tasks = getattr(getattr(server.factory.handler, "backend", None), "__dict__", {}).get("_background_tasks")
    if tasks is not None:
        yield from map(repr, tasks.shown)


def _asyncio_tasks(reactor: Any) -> Iterator[str]:
    loop = loop_of(reactor)
    if loop is not None:
        for task in asyncio.all_tasks(loop):
            frame = _waits_in(task.get_coro())
            yield f"{task.get_name()}{'' if frame is None else f', waits in {_place(frame)}'}"


def _waits_in(awaited: Any) -> FrameType | None:
    """Return the innermost function of a coroutine that waits. Task.get_stack() returns only the outermost one."""
    found = None
    while (frame := getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)) is not None:
        found = frame
        if frame.f_code.co_filename == coroutines.__file__ and "coroutine" in frame.f_locals:
            # The coroutine of the backend, which coroutines.py runs step by step.
            awaited = frame.f_locals["coroutine"]
        else:
            awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return found


# -- the stacks ---------------------------------------------------------------------------------------


def stacks() -> str:
    """Return the stacks of all threads, innermost function first, as faulthandler writes them.

    The functions and the thread of this module are left out.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = []
    main = threading.main_thread().ident
    # The main thread comes first. _current_frames() is documented, in spite of its name.
    frames = sorted(sys._current_frames().items(), key=lambda item: (item[0] != main, item[0]))  # noqa: SLF001
    for number, frame in frames:
        name = names.get(number, str(number))
        if name != _THREAD:
            found += [f"thread {name}:", *(f"  {place}" for place in _shortened(list(map(_place, _frames(frame)))))]
    return "\n".join(found)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """The functions of a stack, innermost first, without those that every thread has."""
    while frame is not None:
        code = frame.f_code
        if not (
            code.co_filename == __file__ or (code.co_filename == threading.__file__ and code.co_name in _OUTERMOST)
        ):
            yield frame
        frame = frame.f_back


def _place(frame: FrameType) -> str:
    # Without the source line, because reading a file may block.
    code = frame.f_code
    return f"{code.co_qualname}() at line {frame.f_lineno} of {code.co_filename}"
