"""ForcedExit: ends a process that does not come to its end after a signal, from outside its main thread.

A backend's method that never returns keeps the reactor from turning, and a signal's handler from doing anything.
So a thread of its own hears the signals too. Where even that cannot run, since C code holds the interpreter, the
timer of faulthandler, which needs no interpreter, ends the process. How a server goes down by itself is server's
business.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from select import select
from typing import cast

from discosbackend.signals import ENDING

__all__ = ["ForcedExit"]

logger = logging.getLogger(__name__)

# The exit status of a process that had to be ended.
_STATUS = 1
# Seconds after which a second Ctrl-C is meant as one: a key that is held down sends many.
_MEANT = 1.0
# Seconds that the thread has for its lines in the log before faulthandler ends the process.
_GRACE = 1.0
# Longer than anybody waits, and short enough for every timer.
_LONGEST = 1e6
_CLOSE = b"\0"

_in_this_process: set[ForcedExit] = set()


def _leave_to_the_parent() -> None:
    """In a process that was forked: a signal to this one must not be written to the thread of the parent."""
    if _in_this_process:
        signal.set_wakeup_fd(-1)
        _in_this_process.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)


class ForcedExit:
    """Ends the process with status 1 when it has not ended `within` seconds after a signal of ENDING.

    So does a second Ctrl-C, a second or more after the first signal. The log then says where the main thread is.
    `hear()` begins, and is repeated after somebody else has taken the wake-up descriptor; `close()` ends it.
    `child_ended` is called, in the thread, for each SIGCHLD: whoever had the wake-up descriptor before, Twisted,
    needs it for that. `handler` is the function that handles the signals in the main thread: where that was before
    is what counts. All but the thread is for the main thread.
    """

    def __init__(
        self,
        within: float,
        child_ended: Callable[[], object] = lambda: None,
        handler: Callable[..., object] | None = None,
    ) -> None:
        self._within = within
        self._child_ended = child_ended
        self._handler = getattr(handler, "__code__", None)
        # When the process is ended, None as long as no signal has come.
        self._first: float | None = None
        self._deadline: float | None = None
        self._lock = threading.RLock()
        self._read, self._written_to = socket.socketpair()
        self._written_to.setblocking(False)
        self._thread = threading.Thread(target=self._watch, name="discos-forced-exit", daemon=True)

    def hear(self) -> None:
        """Have the signals written to the thread, which is started when it is not running yet."""
        _in_this_process.add(self)
        signal.set_wakeup_fd(self._written_to.fileno(), warn_on_full_buffer=False)
        if not self._thread.is_alive():
            self._thread.start()

    def close(self) -> None:
        """There is nothing left to end."""
        signal.set_wakeup_fd(-1)
        _in_this_process.discard(self)
        with self._lock:
            self._deadline = None
            if self._first is not None:
                faulthandler.cancel_dump_traceback_later()
        if self._thread.is_alive():
            self._written_to.send(_CLOSE)
            self._thread.join()
        self._read.close()
        self._written_to.close()

    def begin(self) -> None:
        """A signal has come. Called by its handler, and by the thread in case that one does not run."""
        with self._lock:
            if self._first is None:
                self._first = time.monotonic()
                self._set(self._within)

    def extend(self, seconds: float) -> None:
        """If a signal has come: the process has so many seconds from now on."""
        with self._lock:
            if self._first is not None:
                self._within = time.monotonic() + seconds - self._first
                self._set(seconds)

    def _set(self, seconds: float) -> None:
        seconds = min(seconds, _LONGEST)
        self._deadline = time.monotonic() + seconds
        faulthandler.dump_traceback_later(seconds + _GRACE, exit=True, file=_standard_error())

    def _watch(self) -> None:
        while True:
            with self._lock:
                left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            if not select([self._read], [], [], left)[0]:
                with self._lock:
                    if self._deadline is not None and time.monotonic() >= self._deadline:
                        self._end(f"not stopped {self._within:.0f} s after the signal")
                continue
            received = self._read.recv(4096)
            if _CLOSE in received:
                return
            for number in received:
                self._heard(number)

    def _heard(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._child_ended()
        elif number in ENDING:
            with self._lock:
                again = self._first is not None and time.monotonic() >= self._first + _MEANT
                if again and number == signal.SIGINT:
                    self._end("SIGINT once more")
                self.begin()

    def _end(self, why: str) -> None:
        # Whatever holds the log up must not hold up the end.
        faulthandler.dump_traceback_later(_GRACE, exit=True, file=_standard_error())
        frames = sys._current_frames()  # noqa: SLF001  # its documented name
        stack = list(traceback.walk_stack(frames[cast(int, threading.main_thread().ident)]))
        for number, (frame, _) in enumerate(stack):
            if frame.f_code is self._handler:
                del stack[: number + 1]
                break
        summary = traceback.StackSummary.extract(reversed(stack))
        where = f"{summary[-1].name}() in {summary[-1].filename}, line {summary[-1].lineno}"
        logger.critical("%s: the process is ended with status %d, its main thread being in %s", why, _STATUS, where)
        for text in "".join(summary.format()).splitlines():
            logger.critical("%s", text)
        logging.shutdown()
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(_STATUS)


def _standard_error() -> int:
    """The descriptor of standard error, whatever a program has made of the stream."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return 2
