"""Watchdog: detects that the reactor is blocked, and logs which method blocks it.

A thread repeatedly asks the reactor to call a function. If the reactor does not call it in time, judge() determines the
cause from the times and the stack of the reactor's thread, and Watchdog logs it.
"""

from __future__ import annotations

import inspect
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import twisted

__all__ = ["LIMIT", "Blockage", "Finding", "Place", "Watchdog", "codes_of", "commands_of", "judge", "stack_of"]

logger = logging.getLogger(__name__)

LIMIT = 0.5
"""The default limit: how long the reactor may be blocked before this is logged, in s."""

# How many times the reactor is asked within the limit.
_QUESTIONS = 5
# The same function is logged once in this many s, so that a client that polls five times a second cannot fill the log.
_QUIET = 60.0

_TWISTED = str(Path(twisted.__file__).parent)
_OURS = str(Path(__file__).parent)
# Not by sysconfig, whose table of build settings stays in memory.
_STANDARD = str(Path(inspect.__file__).parent)
_LIBRARY = (_OURS, _TWISTED, _STANDARD, "<frozen ")


class Place(NamedTuple):
    """One function of a stack, and the line that it is executing."""

    function: str
    file: str
    line: int
    code: CodeType


class Finding(NamedTuple):
    """The cause of a blocked reactor, and its text for the log."""

    seconds: float
    """For how long the reactor has been blocked, in s."""
    method: Place | None
    """The function that the author of the backend has to change. None if the whole process did not run."""
    command: str
    """The command that the method answers. "" if it answers none."""
    inside: Place | None
    """The innermost function of the stack. None if that is `method`, or if the whole process did not run."""

    def __str__(self) -> str:
        if self.method is None:
            return (
                f"this process did not run for {self.seconds:.1f} s: the machine was overloaded or suspended, or C "
                "code held the interpreter lock"
            )
        where = f"{self.method.function}() at line {self.method.line} of {self.method.file}"
        if self.inside is not None:
            where += f", which waits in {self.inside.function}() at line {self.inside.line} of {self.inside.file}"
        what = f"{self.command} is in " if self.command else ""
        return f"no request has been answered for {self.seconds:.1f} s: {what}{where}: {self._advice}"

    @property
    def _advice(self) -> str:
        assert self.method is not None
        name = self.method.function.rpartition(".")[2]
        if self.method.code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            return f"write @blocking above {name} and `def` instead of `async def`, or await the slow call"
        if self.command:
            return f"write @blocking above `def {name}`"
        return "run it in a thread, for example with twisted.internet.threads.deferToThread"


class Blockage(NamedTuple):
    """The last time that the reactor was blocked, for monitors."""

    time: float
    """When it was noticed, or when it ended, in Unix seconds."""
    seconds: float
    """How long it lasted, or has lasted until it was noticed, in s."""
    text: str
    """The text of the finding."""


def judge(
    limit: float,
    asked: float,
    due: float,
    now: float,
    stack: Sequence[Place] | None,
    commands: Mapping[CodeType, str],
) -> Finding | None:
    """Return the function that blocks the reactor, or None if the reactor is not blocked.

    Parameters
    ----------
    limit
        For how long the reactor may be blocked, in s.
    asked
        The time at which the reactor was asked to respond, in s. All times are of the same clock.
    due
        The latest time at which the watchdog should have run again, in s.
    now
        The time at which the watchdog ran again, in s.
    stack
        The stack of the reactor's thread, outermost function first. None if the reactor has responded.
    commands
        The command that each method answers, as {code object of the method: command}.

    Returns
    -------
    finding
        The cause. If the watchdog itself ran too late, the cause is that the whole process did not run.
    """
    if now - due > limit / 2:
        # The watchdog's thread did not run either, so the reactor's stack is not evidence.
        return Finding(now - due, None, "", None)
    if stack is None or now - asked < limit:
        return None
    # Skip the functions of the program that started the reactor.
    begins = next((number for number, place in enumerate(stack) if place.file.startswith(_TWISTED)), 0)
    called = stack[begins:]
    method = next((place for place in called if place.code in commands), None)
    if method is None:
        method = next((place for place in called if not place.file.startswith(_LIBRARY)), called[-1])
    inside = called[-1] if called[-1].code is not method.code else None
    return Finding(now - asked, method, commands.get(method.code, ""), inside)


def stack_of(frame: FrameType | None) -> list[Place]:
    """Return the functions of a thread's stack, outermost first."""
    found: list[Place] = []
    while frame is not None:
        code = frame.f_code
        found.append(Place(code.co_qualname, code.co_filename, frame.f_lineno, code))
        frame = frame.f_back
    found.reverse()
    return found


def codes_of(functions: Iterable[tuple[str, Any]]) -> dict[CodeType, str]:
    """Return the functions that answer commands, as {code object: name of the command}.

    Parameters
    ----------
    functions
        Pairs of a command's name and the function that answers it.
    """
    found: dict[CodeType, str] = {}
    for name, function in functions:
        seen = 0
        # The function that a decorator has returned, then the functions that it wraps.
        while function is not None and seen < 10:
            code = getattr(getattr(function, "__func__", function), "__code__", None)
            if isinstance(code, CodeType):
                found.setdefault(code, name)
            function = getattr(function, "__wrapped__", None) or getattr(function, "func", None)
            seen += 1
    return found


def commands_of(handler: object) -> dict[CodeType, str]:
    """Return the methods of a handler's backend, as codes_of() does. Empty if the handler has no commands."""
    commands = getattr(handler, "commands", None)
    if not isinstance(commands, dict):
        return {}
    return codes_of((name, getattr(function, "method", function)) for name, function in list(commands.items()))


class Watchdog:
    """Watches the reactor from begin() to end(). Call begin() in the reactor's thread.

    Parameters
    ----------
    reactor
        The reactor.
    limit
        How long the reactor may be blocked before this is logged, in s. 0: it is never logged.
    commands
        A function that returns the methods of the backend, as commands_of() does. It is called when the reactor is
        blocked.

    Raises
    ------
    ValueError
        If `limit` is not a number of seconds, 0 or more.
    """

    def __init__(self, reactor: Any, limit: float, commands: Callable[[], Mapping[CodeType, str]]) -> None:
        if not 0 <= limit < threading.TIMEOUT_MAX:
            raise ValueError(f"watchdog must be a number of seconds, 0 for none, not {limit!r}")
        self._reactor = reactor
        self._limit = limit
        self._commands = commands
        self._watched = 0
        self._turned = threading.Event()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        # The time at which each function was logged, and how often and for how long it has blocked since then.
        self._told: dict[CodeType | None, float] = {}
        self._untold: dict[CodeType | None, tuple[int, float]] = {}
        self._findings = 0
        self._blocked = 0.0
        self._last: Blockage | None = None

    @property
    def limit(self) -> float:
        """How long the reactor may be blocked before this is logged, in s. 0: it is not watched."""
        return self._limit

    @property
    def findings(self) -> int:
        """How many times the reactor was found blocked."""
        return self._findings

    @property
    def blocked(self) -> float:
        """For how long the reactor was blocked, in s, in total over all findings."""
        return self._blocked

    @property
    def last(self) -> Blockage | None:
        """The last finding. None before the first one."""
        return self._last

    def begin(self) -> None:
        """Start to watch the reactor. The calling thread is taken as the reactor's thread."""
        if self._limit > 0:
            self._watched = threading.get_ident()
            self._thread = threading.Thread(target=self._watch, name="discos-watchdog", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Stop watching."""
        self._over.set()
        self._turned.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        """Ask the reactor repeatedly. This is the function of the thread."""
        step = self._limit / _QUESTIONS
        while True:
            due = time.monotonic() + step
            if self._over.wait(step):
                return
            self._report(judge(self._limit, due, due, time.monotonic(), None, {}))
            self._turned.clear()
            asked = time.monotonic()
            self._reactor.callFromThread(self._turned.set)
            self._wait_for_a_turn(asked)

    def _wait_for_a_turn(self, asked: float) -> None:
        while not self._over.is_set():
            due = asked + self._limit
            turned = self._turned.wait(self._limit)
            now = time.monotonic()
            stack: list[Place] = []
            commands: Mapping[CodeType, str] = {}
            if not turned:
                stack, commands = stack_of(sys._current_frames().get(self._watched)), self._commands()  # noqa: SLF001
                # The reactor may have responded just now. Then the stack does not show what has blocked it.
                turned = self._turned.is_set()
            finding = judge(self._limit, asked, due, now, None if turned else stack, commands)
            told = self._report(finding)
            if turned:
                return
            if finding is not None and finding.method is not None:
                self._turned.wait()
                self._report_the_end(finding, time.monotonic() - asked, told=told)
                return
            asked = now

    def _report(self, finding: Finding | None) -> bool:
        """Log a finding, unless the same function was logged recently. Return whether it was logged now."""
        if finding is None:
            return False
        self._findings += 1
        self._last = Blockage(time.time(), finding.seconds, str(finding))
        if finding.method is None:
            # The time of any other finding is added when it has ended.
            self._blocked += finding.seconds
        key = None if finding.method is None else finding.method.code
        now = time.monotonic()
        if now < self._told.get(key, -_QUIET) + _QUIET:
            times, seconds = self._untold.get(key, (0, 0.0))
            self._untold[key] = (times + 1, seconds)
            return False
        self._told[key] = now
        times, seconds = self._untold.pop(key, (0, 0.0))
        before = f" (and {times} times since this was last logged, {seconds:.1f} s in total)" if times else ""
        logger.warning("%s%s", finding, before)
        return True

    def _report_the_end(self, finding: Finding, seconds: float, *, told: bool) -> None:
        self._blocked += seconds
        self._last = Blockage(time.time(), seconds, str(finding))
        if self._over.is_set():
            return
        assert finding.method is not None
        if told:
            logger.warning("the server answers again: %s() took %.1f s", finding.method.function, seconds)
        else:
            times, before = self._untold.get(finding.method.code, (0, 0.0))
            self._untold[finding.method.code] = (times, before + seconds)
