"""Signals that end a program: one list for all of them, and how a program hears them.

What a server does then is server's business; how it is ended when it does not come to its end by itself is in
forced_exit.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from discosbackend.errors import Interrupted

__all__ = ["ENDING", "INTERRUPTED", "heard", "install", "interrupting", "kept"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a program: Ctrl-C, `kill` or a service manager, a terminal that is closed."""

INTERRUPTED = 130
"""The exit status of a program, other than the server, that one of them has ended."""

_installed: dict[int, Callable[..., object]] = {}


def install(number: int, handler: Callable[[int, FrameType | None], Any]) -> None:
    """Handle a signal in this process. A process forked from it gets the default action instead."""
    signal.signal(number, handler)
    _installed[number] = handler


def _restore_defaults() -> None:
    # A handler of Python's would not do: it runs late, or never when the signal comes just before a blocking call.
    for number, handler in _installed.items():
        if signal.getsignal(number) == handler:
            signal.signal(number, signal.SIG_DFL)
    _installed.clear()


os.register_at_fork(after_in_child=_restore_defaults)


def heard() -> list[signal.Signals]:
    """Those of ENDING that are not ignored.

    Whoever starts a program with one of them ignored (nohup, a script's `&`) wants it to live on.
    """
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def kept() -> Iterator[None]:
    """Put the handlers back afterwards, and the descriptor to which signals are written."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread can change them.
        yield
        return
    # Twisted takes SIGCHLD as well.
    before = {number: signal.getsignal(number) for number in (*ENDING, signal.SIGCHLD)}
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            # None is a handler that was not installed from Python, and cannot be from here.
            if handler is not None:
                signal.signal(number, handler)


@contextmanager
def interrupting() -> Iterator[None]:
    """Have each of them raise Interrupted in the main thread, as Ctrl-C raises KeyboardInterrupt."""
    with kept():
        if threading.current_thread() is threading.main_thread():
            for number in heard():
                signal.signal(number, _interrupt)
        yield


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    raise Interrupted(f"interrupted by {signal.Signals(number).name}")
