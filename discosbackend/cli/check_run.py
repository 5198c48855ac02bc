"""A run of discos-backend-check: connects to the server, runs the cases, handles signals, and writes the reports.

check.py has the command line. The package testing has the cases, the limits of what is sent, and the reports' texts.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Self, TextIO
from unittest import SkipTest

from discosbackend.errors import reason_of
from discosbackend.log import address_text
from discosbackend.signals import INTERRUPTED, handling
from discosbackend.standard_output import discard_output
from discosbackend.testing.case_context import CaseContext, request_line
from discosbackend.testing.cases import Case
from discosbackend.testing.profile import Profile
from discosbackend.testing.report_files import json_text, junit
from discosbackend.testing.report_html import page
from discosbackend.testing.report_text import progress, report
from discosbackend.testing.runner import Record, Result, Verdict, in_order, run_cases
from discosbackend.testing.send_guard import LINES_A_SECOND, Scope, SendGuard
from discosbackend.testing.wire import PROMPT, Wire

__all__ = ["INTERRUPTED", "NO_PASS", "REPORTS", "CannotCheck", "Progress", "ReportFile", "Run", "say"]

NO_PASS = 3
"""The exit status of a full run in which no case failed, but some required case could not be evaluated."""

# For how many s after the first signal further signals are ignored, so that the server's state can be restored.
_GRACE = 10.0
# How many s to wait for the first connection, before any case is run.
_CONNECTING = 10.0


REPORTS: dict[str, Callable[[Record], str]] = {"junit": junit, "json": json_text, "html": page}
"""The functions that make the reports for files, by the names of their options."""


class CannotCheck(Exception):
    """The reason why no case can be run with this command line, in one line."""


def say(text: str, stream: TextIO) -> None:
    """Write a text to a stream and flush it. If writing fails, the run continues."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        discard_output(stream)


class Run:
    """One run of cases on a server.

    Parameters
    ----------
    address
        The host and the port of the server.
    cases
        The cases to run, in any order.
    profile
        The values that are valid for the instrument.
    profile_name
        The name of the profile, for the reports.
    scope
        What may be sent to the server.
    strict
        Whether a case with the verdict `non-strict` counts as failed.
    causes
        Cases that are run in addition if they may explain a failure.
    """

    def __init__(
        self,
        address: tuple[str, int],
        cases: Sequence[Case],
        profile: Profile,
        *,
        profile_name: str,
        scope: Scope,
        strict: bool,
        causes: Sequence[Case] = (),
    ) -> None:
        self._address = address
        self._cases = in_order(cases)
        self._causes = causes
        self._profile = profile
        self._profile_name = profile_name
        self._scope = scope
        self._strict = strict
        self._server = address_text(address)
        rate = None if scope is Scope.FULL else LINES_A_SECOND
        self._guard = SendGuard(scope, rate, commands=profile.commands)
        self._results: list[Result] = []
        self._signals = _Signals()
        self._gone = ""
        self._last: CaseContext | None = None

    def report_to(self, paths: Mapping[str, str]) -> int:
        """Run the cases, and report to standard output and to files.

        Parameters
        ----------
        paths
            The paths of the reports, by their names in REPORTS.

        Returns
        -------
        status
            The exit status.

        Raises
        ------
        CannotCheck
            If a file cannot be written, or the server cannot be reached. Both are checked before any case is run.
        """
        with ExitStack() as stack:
            files = {name: stack.enter_context(ReportFile(path)) for name, path in paths.items()}
            if len({file.path for file in files.values()}) < len(files):
                raise CannotCheck("two reports cannot be written to the same file")
            self._find_server()
            stack.enter_context(handling(self._signals.hear))
            record = self._try_cases()
            written = [file.write(REPORTS[name](record)) for name, file in files.items()]
            say(report(record), sys.stdout)
        return self._status(record) or int(not all(written))

    def _status(self, record: Record) -> int:
        if self._signals.name:
            return INTERRUPTED
        if record.count(Verdict.FAIL) or self._gone:
            return 1
        if not record.tried:
            return 2
        return NO_PASS if record.missing else 0

    # -- the server -----------------------------------------------------------------------------------

    def _open(self, timeout: float) -> Wire:
        return Wire(self._address, timeout=timeout, reply_limit=None, before_sending=self._guard.before)

    def _context(self) -> CaseContext:
        self._last = CaseContext(self._profile, self._address, guard=self._guard)
        return self._last

    def _find_server(self) -> None:
        try:
            self._open(min(_CONNECTING, self._profile.reply_timeout)).close()
        except AssertionError as problem:
            raise CannotCheck(str(problem)) from None

    def _answers(self) -> bool:
        """Return whether the server still answers on a new connection."""
        # The cases check what it answers. Two requests are sent, because one of the two lines may be the greeting.
        with suppress(AssertionError), self._context() as check:
            wire = check.open()
            wire.send(2 * request_line("version"))
            if wire.has_lines(2, within=min(PROMPT, self._profile.reply_timeout)):
                return True
        self._gone = self._at()
        return False

    def _at(self) -> str:
        """Return the id of the current case, "" after the last one."""
        tried = {result.case.id for result in self._results}
        return next((case.id for case in self._cases if case.id not in tried), "")

    # -- the cases ------------------------------------------------------------------------------------

    def _try_cases(self) -> Record:
        began, clock = datetime.now(UTC), time.monotonic()
        show = Progress(sys.stderr)
        known = {case.id for case in self._cases}
        with suppress(_Interrupted):
            self._say_if_acquiring()
            for result in run_cases(
                self._cases,
                self._context,
                causes=self._causes,
                scope=self._scope,
                strict=self._strict,
                answers=self._answers,
            ):
                self._results.append(result)
                besides = sum(result.case.id not in known for result in self._results)
                show.line(progress(len(self._results), len(self._cases) + besides, result))
                if self._signals.name:
                    break
        self._signals.deaf = True
        show.end()
        return Record(
            server=self._server,
            profile=self._profile_name,
            scope=self._scope,
            strict=self._strict,
            began=began,
            seconds=time.monotonic() - clock,
            results=tuple(self._results),
            ended_early=self._ended_early(),
        )

    def _ended_early(self) -> str:
        if not self._signals.name:
            return f"the server has not answered since {self._gone}" if self._gone else ""
        before = f" before the end of {at}" if (at := self._at()) else ""
        left = [] if self._last is None else self._last.aftermath
        return "; ".join([f"interrupted by {self._signals.name}{before}", *left])

    def _say_if_acquiring(self) -> None:
        """Print a line if the server is acquiring, because many cases will be skipped for this reason."""
        acquiring = False
        # Defects of `status` are found by the cases.
        with suppress(AssertionError, SkipTest):
            if self._scope > Scope.READS:
                with self._context() as check:
                    acquiring = check.status().acquiring
        if acquiring:
            say(f"{self._server} is acquiring: cases that would disturb that are skipped\n", sys.stderr)


# -- what surrounds a run -----------------------------------------------------------------------------


class _Interrupted(BaseException):
    """Raised by a signal, unless the server's state is being restored."""


class _Signals:
    """Handles Ctrl-C, SIGTERM and SIGHUP: the first signal ends the run, after the server's state has been restored.

    `name` is the name of the first signal, "" before it. `deaf` is set when the run has ended, to ignore later signals.
    """

    def __init__(self) -> None:
        self.name = ""
        self.deaf = False
        self._since = 0.0

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        first = not self.name
        if self.deaf or (not first and time.monotonic() < self._since + _GRACE):
            return
        if first:
            self.name, self._since = signal.Signals(number).name, time.monotonic()
            if _is_leaving(frame):
                return
        raise _Interrupted


def _is_leaving(frame: FrameType | None) -> bool:
    """Return whether a case is restoring the server's state, which an exception must not interrupt."""
    while frame is not None:
        if frame.f_code is CaseContext.__exit__.__code__:
            return True
        frame = frame.f_back
    return False


class Progress:
    """Shows one line per case, or on a terminal one line that is overwritten."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()

    def line(self, text: str) -> None:
        """Show a line."""
        if not self._terminal:
            say(f"{text}\n", self._stream)
            return
        columns = 80
        with suppress(OSError, ValueError):
            columns = os.get_terminal_size(self._stream.fileno()).columns or columns
        say(f"\r{text[: columns - 1]}\x1b[K", self._stream)

    def end(self) -> None:
        """Erase the line on a terminal."""
        if self._terminal:
            say("\r\x1b[K", self._stream)


class ReportFile:
    """A file for a report. Raises CannotCheck if it cannot be written. No incomplete report is left in its place."""

    def __init__(self, path: str) -> None:
        self.path = Path(os.path.realpath(path))
        self._part = self.path.parent / f"{self.path.name}.{os.getpid()}.part"

    def __enter__(self) -> Self:
        try:
            if self.path.exists() and not self.path.is_file():
                raise CannotCheck(f"{self.path} is not a file, so no report can be written to it")
            self._part.touch()
            if self.path.exists():
                with self.path.open("ab"):
                    pass
        except OSError as problem:
            self._part.unlink(missing_ok=True)
            raise CannotCheck(f"cannot write {self.path}: {reason_of(problem)}") from None
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._part.unlink(missing_ok=True)

    def write(self, text: str) -> bool:
        """Write the report. If that fails, print a line to standard error and return False."""
        try:
            self._part.write_text(text, encoding="utf-8", errors="backslashreplace")
            os.replace(self._part, self.path)
        except OSError as problem:
            say(f"cannot write {self.path}: {reason_of(problem)}\n", sys.stderr)
            return False
        return True
