"""ForcedExit: ends a process that does not stop after a signal.

A backend's method that never returns blocks the reactor, and Python's signal handlers cannot run either. Therefore a
separate thread receives the signals too. If C code holds the interpreter lock, this thread cannot run; then the timer
of faulthandler, which needs no interpreter, ends the process. server.py does the ordinary shutdown.
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
from collections.abc import Callable, Collection
from contextlib import suppress
from select import select
from typing import cast

from discosbackend.signals import ENDING, STATE

__all__ = ["ForcedExit", "standard_error"]

logger = logging.getLogger(__name__)

# The exit status of the process.
_STATUS = 1
# A second Ctrl-C counts only this many s after the first signal, because a key that is held down repeats.
_MEANT = 1.0
# How many s the thread has to write to the log before faulthandler ends the process.
_GRACE = 1.0
# The longest time in s that the timers accept.
_LONGEST = 1e6
_CLOSE = b"\0"

_in_this_process: set[ForcedExit] = set()


def _leave_to_the_parent() -> None:
    """Stop writing signals to the thread, after a fork: the thread belongs to the parent process."""
    if _in_this_process:
        signal.set_wakeup_fd(-1)
        _in_this_process.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)


class ForcedExit:
    """Ends the process with exit status 1 if it does not exit within a given time after a signal of ENDING.

    A second Ctrl-C ends the process immediately, if at least one second has passed since the first signal. In both
    cases the log names the function in which the main thread is.

    hear() starts the thread that receives the signals. It must be called again if the wake-up descriptor has been
    replaced. close() ends the thread. All methods must be called in the main thread.

    Parameters
    ----------
    within
        How long the process may run after the signal, in s.
    child_ended
        A function that is called in the thread for each SIGCHLD. Twisted otherwise gets SIGCHLD through the wake-up
        descriptor, which is replaced here.
    handler
        The function that handles the signals in the main thread. It and the functions that it calls are left out of
        the stack in the log.
    state_wanted
        A function that is called in the thread for each signal STATE, also if the main thread is blocked.
    wake
        A function that is called in the thread for each signal. It wakes the reactor: Python's handlers run in the main
        thread, and a signal that arrives just before the main thread begins to wait for events, or in another thread,
        does not end this wait. Reactors use the wake-up descriptor for this, which is replaced here.
    """

    def __init__(
        self,
        within: float,
        child_ended: Callable[[], object] = lambda: None,
        handler: Callable[..., object] | None = None,
        state_wanted: Callable[[], object] = lambda: None,
        wake: Callable[[], object] = lambda: None,
    ) -> None:
        self._within = within
        self._child_ended = child_ended
        self._state_wanted = state_wanted
        self._wake = wake
        self._handler = getattr(handler, "__code__", None)
        # The signals after which the process has to end.
        self._ending: Collection[int] = ENDING
        # The time of the first signal, and the time at which the process is ended. None before the first signal.
        self._first: float | None = None
        self._deadline: float | None = None
        self._lock = threading.RLock()
        self._read, self._written_to = socket.socketpair()
        self._written_to.setblocking(False)
        self._thread = threading.Thread(target=self._watch, name="discos-forced-exit", daemon=True)

    def hear(self, ending: Collection[int] = ENDING) -> None:
        """Make Python report each signal to the thread. Start the thread if it is not running.

        Parameters
        ----------
        ending
            The signals after which the process has to end. For the others the program has its own handlers.
        """
        _in_this_process.add(self)
        self._ending = ending
        signal.set_wakeup_fd(self._written_to.fileno(), warn_on_full_buffer=False)
        if not self._thread.is_alive():
            self._thread.start()

    def close(self) -> None:
        """Stop the thread and the timers."""
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
        """Start the timers. Called by the signal handler, and by the thread, in case the handler cannot run."""
        with self._lock:
            if self._first is None:
                self._first = time.monotonic()
                self._set(self._within)

    def extend(self, seconds: float) -> None:
        """If a signal has arrived, end the process `seconds` s from now, instead of at the previous time."""
        with self._lock:
            if self._first is not None:
                self._within = time.monotonic() + seconds - self._first
                self._set(seconds)

    def _set(self, seconds: float) -> None:
        seconds = min(seconds, _LONGEST)
        self._deadline = time.monotonic() + seconds
        faulthandler.dump_traceback_later(seconds + _GRACE, exit=True, file=standard_error())

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
            self._wake()
            for number in received:
                self._heard(number)

    def _heard(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._child_ended()
        elif number == STATE:
            try:
                self._state_wanted()
            except Exception:  # this thread must remain, for the signals that follow
                logger.exception("%s: the state cannot be logged", STATE.name)
        elif number in self._ending:
            with self._lock:
                again = self._first is not None and time.monotonic() >= self._first + _MEANT
                if again and number == signal.SIGINT:
                    self._end("second SIGINT")
                self.begin()

    def _end(self, why: str) -> None:
        # If writing to the log blocks, faulthandler ends the process.
        faulthandler.dump_traceback_later(_GRACE, exit=True, file=standard_error())
        frames = sys._current_frames()  # noqa: SLF001  # documented, in spite of its name
        stack = list(traceback.walk_stack(frames[cast(int, threading.main_thread().ident)]))
        # A signal may have interrupted the handler of an earlier one: the outermost handler counts.
        handlers = [number for number, (frame, _) in enumerate(stack) if frame.f_code is self._handler]
        if handlers:
            del stack[: handlers[-1] + 1]
        frame, line = stack[0]
        where = f"{frame.f_code.co_name}() in {frame.f_code.co_filename}, line {line}"
        logger.critical("%s: ending the process with status %d, the main thread is in %s", why, _STATUS, where)
        # Reading the source lines may take longer than there is time.
        for text in "".join(traceback.StackSummary.extract(reversed(stack)).format()).splitlines():
            logger.critical("%s", text)
        logging.shutdown()
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(_STATUS)


def standard_error() -> int:
    """Return the file descriptor of standard error, also if the program has replaced the stream."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return 2
