"""The signals that end a program, and functions that install and restore their handlers.

server.py shuts a server down after a signal. forced_exit.py ends the process if the shutdown takes too long.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any, NoReturn

from discosbackend.errors import Interrupted

__all__ = ["ENDING", "INTERRUPTED", "STATE", "handling", "heard", "install", "interrupting", "kept"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a program: from Ctrl-C, from `kill` or a service manager, and from a terminal that is closed."""

INTERRUPTED = 130
"""The exit status of a program, other than the server, after one of these signals."""

STATE = signal.SIGUSR1
"""The signal at which a server logs its state."""

_installed: dict[int, Callable[..., object]] = {}


def install(number: int, handler: Callable[[int, FrameType | None], Any]) -> None:
    """Handle a signal in this process. A process forked from it gets the default action instead."""
    signal.signal(number, handler)
    _installed[number] = handler


def _restore_defaults() -> None:
    # A Python handler is not sufficient: it runs late, or never if the signal arrives just before a blocking call.
    for number, handler in _installed.items():
        if signal.getsignal(number) == handler:
            signal.signal(number, signal.SIG_DFL)
    _installed.clear()


os.register_at_fork(after_in_child=_restore_defaults)


def heard() -> list[signal.Signals]:
    """Return the signals of ENDING that are not ignored.

    A signal that is ignored when the program starts (by nohup, or by `&` in a script) must not end the program.
    """
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def kept() -> Iterator[None]:
    """Restore the signal handlers and the wake-up descriptor at the end of the context."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread can change them.
        yield
        return
    # Twisted installs a handler for SIGCHLD as well.
    before = {number: signal.getsignal(number) for number in (*ENDING, STATE, signal.SIGCHLD)}
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            # None means that the handler was not installed from Python. Such a handler cannot be restored.
            if handler is not None:
                signal.signal(number, handler)


@contextmanager
def handling(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Handle the signals of heard() with `handler` in the context. Only the main thread can do this."""
    with kept():
        if threading.current_thread() is threading.main_thread():
            for number in heard():
                signal.signal(number, handler)
        yield


def interrupting() -> AbstractContextManager[None]:
    """Make each signal of ENDING raise Interrupted in the main thread, as Ctrl-C raises KeyboardInterrupt."""
    return handling(_interrupt)


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    raise Interrupted(f"interrupted by {signal.Signals(number).name}")
