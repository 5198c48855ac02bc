"""Watchdog: notices that the reactor does not turn, and logs which method keeps it from turning.

A thread asks the reactor for a turn again and again. `judge` decides, from times and a stack alone, what it means
when none comes; `Watchdog` asks, looks and logs.
"""

from __future__ import annotations

import inspect
import logging
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import twisted

__all__ = ["LIMIT", "Finding", "Place", "Watchdog", "codes_of", "commands_of", "judge", "stack_of"]

logger = logging.getLogger(__name__)

LIMIT = 0.5
"""Seconds without a turn of the reactor after which the log says so, unless it was told otherwise."""

# The reactor is asked so many times in that time.
_QUESTIONS = 5
# Seconds in which the same function is complained of once: a poll five times a second must not fill the log.
_QUIET = 60.0

_TWISTED = str(Path(twisted.__file__).parent)
_OURS = str(Path(__file__).parent)
_LIBRARY = (_OURS, _TWISTED, sysconfig.get_path("stdlib"), "<frozen ")


class Place(NamedTuple):
    """One function of a stack, and the line at which it is."""

    function: str
    file: str
    line: int
    code: CodeType


class Finding(NamedTuple):
    """What keeps the reactor from turning.

    `method` is the function that the author of the backend has to change, None where only the machine is to blame;
    `command` the request that it answers, "" if it is none; `inside` where it is, if that is in another function.
    """

    seconds: float
    method: Place | None
    command: str
    inside: Place | None

    def __str__(self) -> str:
        if self.method is None:
            return (
                f"this process stood still for {self.seconds:.1f} s, its watchdog too: the machine was overloaded or "
                "suspended, or C code held the interpreter"
            )
        where = f"{self.method.function}() at line {self.method.line} of {self.method.file}"
        if self.inside is not None:
            where += f", which waits in {self.inside.function}() at line {self.inside.line} of {self.inside.file}"
        what = f"{self.command} is in " if self.command else ""
        return f"nobody has been answered for {self.seconds:.1f} s: {what}{where}: {self._advice}"

    @property
    def _advice(self) -> str:
        assert self.method is not None
        name = self.method.function.rpartition(".")[2]
        if self.method.code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            return f"write @blocking above {name} and `def` for its `async def`, or await what takes so long"
        if self.command:
            return f"write @blocking above `def {name}`"
        return "have it done in a thread, by twisted.internet.threads.deferToThread for one"


def judge(
    limit: float,
    asked: float,
    due: float,
    now: float,
    stack: Sequence[Place] | None,
    commands: Mapping[CodeType, str],
) -> Finding | None:
    """What keeps the reactor from turning, None if nothing does.

    At `asked` it was asked for a turn, at `due` the watchdog meant to look, at the latest, and at `now` it did; all in
    seconds of one clock. `stack` is that of the reactor's thread, outermost function first, or None if it has turned.
    `commands` says which function answers which command.
    """
    if now - due > limit / 2:
        # It was kept from running itself, and cannot vouch for what happened meanwhile.
        return Finding(now - due, None, "", None)
    if stack is None or now - asked < limit:
        return None
    # Above the reactor are the program's own functions, which only called it.
    begins = next((number for number, place in enumerate(stack) if place.file.startswith(_TWISTED)), 0)
    called = stack[begins:]
    method = next((place for place in called if place.code in commands), None)
    if method is None:
        method = next((place for place in called if not place.file.startswith(_LIBRARY)), called[-1])
    inside = called[-1] if called[-1].code is not method.code else None
    return Finding(now - asked, method, commands.get(method.code, ""), inside)


def stack_of(frame: FrameType | None) -> list[Place]:
    """The functions that are running in a thread, outermost first."""
    found: list[Place] = []
    while frame is not None:
        code = frame.f_code
        found.append(Place(code.co_qualname, code.co_filename, frame.f_lineno, code))
        frame = frame.f_back
    found.reverse()
    return found


def codes_of(functions: Iterable[tuple[str, Any]]) -> dict[CodeType, str]:
    """Which code is run for which command, of pairs of a command's name and the function that answers it."""
    found: dict[CodeType, str] = {}
    for name, function in functions:
        seen = 0
        # A decorator's function, and what it is around.
        while function is not None and seen < 10:
            code = getattr(getattr(function, "__func__", function), "__code__", None)
            if isinstance(code, CodeType):
                found.setdefault(code, name)
            function = getattr(function, "__wrapped__", None) or getattr(function, "func", None)
            seen += 1
    return found


def commands_of(handler: object) -> dict[CodeType, str]:
    """Which code of a handler's backend is run for which command; nothing, for a handler that has no commands."""
    commands = getattr(handler, "commands", None)
    if not isinstance(commands, dict):
        return {}
    return codes_of((name, getattr(function, "method", function)) for name, function in list(commands.items()))


class Watchdog:
    """Watches the reactor from the call of `begin`, in the reactor's thread, until that of `end`.

    `limit` is in seconds, 0 for no watching at all. `commands` is called when something was found. ValueError for a
    limit that is none.
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
        # When each function was complained of, and how often and long it has blocked since.
        self._told: dict[CodeType | None, float] = {}
        self._untold: dict[CodeType | None, tuple[int, float]] = {}

    def begin(self) -> None:
        """Watch the thread that calls this."""
        if self._limit > 0:
            self._watched = threading.get_ident()
            self._thread = threading.Thread(target=self._watch, name="discos-watchdog", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Watch no longer."""
        self._over.set()
        self._turned.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        """What the thread does."""
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
                # It may have turned just now: then the stack is not that of what kept it from turning.
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
        """Log it, unless the same was logged a moment ago; whether it was."""
        if finding is None:
            return False
        key = None if finding.method is None else finding.method.code
        now = time.monotonic()
        if now < self._told.get(key, -_QUIET) + _QUIET:
            times, seconds = self._untold.get(key, (0, 0.0))
            self._untold[key] = (times + 1, seconds)
            return False
        self._told[key] = now
        times, seconds = self._untold.pop(key, (0, 0.0))
        before = f" (since this was last logged also {times} times, {seconds:.1f} s in all)" if times else ""
        logger.warning("%s%s", finding, before)
        return True

    def _report_the_end(self, finding: Finding, seconds: float, *, told: bool) -> None:
        if self._over.is_set():
            return
        assert finding.method is not None
        if told:
            logger.warning("the server answers again: %s() took %.1f s", finding.method.function, seconds)
        else:
            times, before = self._untold.get(finding.method.code, (0, 0.0))
            self._untold[finding.method.code] = (times, before + seconds)
