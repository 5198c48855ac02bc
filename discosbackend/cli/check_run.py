"""A run of discos-backend-check: from the first connection to report and exit status, with signals and files.

What the cases are, what may be sent, and what a report says is the business of testing; options are check's.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple, Self, TextIO
from unittest import SkipTest

from discosbackend.log import address_text
from discosbackend.signals import INTERRUPTED, heard, kept
from discosbackend.testing.case_context import CaseContext, request_line
from discosbackend.testing.cases import Case
from discosbackend.testing.profile import Profile
from discosbackend.testing.report_files import json_text, junit
from discosbackend.testing.report_html import page
from discosbackend.testing.report_text import progress, report
from discosbackend.testing.runner import Record, Result, Verdict, in_order, run_cases
from discosbackend.testing.send_guard import LINES_A_SECOND, Scope, SendGuard
from discosbackend.testing.wire import PROMPT, Wire

__all__ = ["INTERRUPTED", "NO_PASS", "REPORTS", "CannotCheck", "Run", "say"]

NO_PASS = 3
"""The exit status of a full run that found nothing wrong, and could not judge all that it must."""

# Seconds for which a signal after the first is not heard, so that the server is left as it was found.
_GRACE = 10.0
# Seconds to wait for a connection before any case is tried.
_CONNECTING = 10.0


class Kind(NamedTuple):
    """How a report for a file is written, and what it is for."""

    write: Callable[[Record], str]
    help: str


REPORTS = {
    "junit": Kind(junit, "write a report for a build server, as JUnit's XML"),
    "json": Kind(json_text, "write a report for another program, with all that was said"),
    "html": Kind(page, "write a report for a colleague, as one page"),
}
"""The reports that go to files, by the names of their options."""


class CannotCheck(Exception):
    """Why nothing can be tried with this command line, in one line."""


def say(text: str, stream: TextIO) -> None:
    """Write and flush. Where nobody reads any more, the run goes on."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        # What is left in its buffer must not fail once more when the interpreter ends.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Run:
    """One run of cases on a server. `causes` are cases that are tried besides where they may explain a failure."""

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
        """Try the cases, report on standard output and to these files, and return the exit status.

        CannotCheck when a file cannot be written, which is seen before anything is tried, or nobody is there.
        """
        with ExitStack() as stack:
            files = {name: stack.enter_context(_ReportFile(path)) for name, path in paths.items()}
            if len({file.path for file in files.values()}) < len(files):
                raise CannotCheck("two reports cannot go into one file")
            self._find_server()
            stack.enter_context(self._signals.heard())
            record = self._try_cases()
            written = [file.write(REPORTS[name].write(record)) for name, file in files.items()]
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
        except ValueError as problem:
            raise CannotCheck(f"{self._server} cannot be an address: {problem}") from None

    def _answers(self) -> bool:
        """Whether a new connection is answered still."""
        # What is answered is for the cases to judge. A greeting alone is no answer, so there are two questions.
        with suppress(AssertionError), self._context() as check:
            wire = check.open()
            wire.send(2 * request_line("version"))
            if wire.has_lines(2, within=min(PROMPT, self._profile.reply_timeout)):
                return True
        self._gone = self._at()
        return False

    def _at(self) -> str:
        """The case at hand, "" after the last."""
        tried = {result.case.id for result in self._results}
        return next((case.id for case in self._cases if case.id not in tried), "")

    # -- the cases ------------------------------------------------------------------------------------

    def _try_cases(self) -> Record:
        began, clock = datetime.now(UTC), time.monotonic()
        show = _Progress(sys.stderr)
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
                besides = sum(result.case not in self._cases for result in self._results)
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
        """One line, before it is found as the reason of every case that is skipped for it."""
        acquiring = False
        # What is wrong with status is for the cases to find.
        with suppress(AssertionError, SkipTest):
            if self._scope > Scope.READS:
                with self._context() as check:
                    acquiring = check.status().acquiring
        if acquiring:
            say(f"{self._server} is acquiring: cases that would disturb that are skipped\n", sys.stderr)


# -- what surrounds a run -----------------------------------------------------------------------------


class _Interrupted(BaseException):
    """A signal has come, and nothing is being put back."""


class _Signals:
    """Ctrl-C, SIGTERM and SIGHUP: the first ends the run, once what was changed is put back.

    `name` is that of the first, "" if none came; `deaf`: there is no run any more to end.
    """

    def __init__(self) -> None:
        self.name = ""
        self.deaf = False
        self._since = 0.0

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear them for a while, those that were not ignored before."""
        with kept():
            for number in heard():
                signal.signal(number, self._hear)
            yield

    def _hear(self, number: int, frame: FrameType | None) -> None:
        first = not self.name
        if self.deaf or (not first and time.monotonic() < self._since + _GRACE):
            return
        if first:
            self.name, self._since = signal.Signals(number).name, time.monotonic()
            if _is_leaving(frame):
                return
        raise _Interrupted


def _is_leaving(frame: FrameType | None) -> bool:
    """Whether a check is putting back what its case has changed: no exception may fall into that."""
    while frame is not None:
        if frame.f_code is CaseContext.__exit__.__code__:
            return True
        frame = frame.f_back
    return False


class _Progress:
    """A line a case, or on a terminal one line that is written anew."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()

    def line(self, text: str) -> None:
        """Show it."""
        if not self._terminal:
            say(f"{text}\n", self._stream)
            return
        columns = 80
        with suppress(OSError, ValueError):
            columns = os.get_terminal_size(self._stream.fileno()).columns or columns
        say(f"\r{text[: columns - 1]}\x1b[K", self._stream)

    def end(self) -> None:
        """Leave nothing of it on a terminal."""
        if self._terminal:
            say("\r\x1b[K", self._stream)


class _ReportFile:
    """A file that a report will go to. CannotCheck if it cannot; it is there whole or not at all."""

    def __init__(self, path: str) -> None:
        self.path = Path(os.path.realpath(path))
        self._part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")

    def __enter__(self) -> Self:
        try:
            if self.path.exists() and not self.path.is_file():
                raise CannotCheck(f"{self.path} is no file that a report could be written to")
            self._part.touch()
            if self.path.exists():
                with self.path.open("ab"):
                    pass
        except OSError as problem:
            self._part.unlink(missing_ok=True)
            raise CannotCheck(f"cannot write {self.path}: {problem.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._part.unlink(missing_ok=True)

    def write(self, text: str) -> bool:
        """Put the report in its place; a line on standard error and False if that cannot be done after all."""
        try:
            self._part.write_text(text, encoding="utf-8", errors="backslashreplace")
            os.replace(self._part, self.path)
        except OSError as problem:
            say(f"cannot write {self.path}: {problem.strerror}\n", sys.stderr)
            return False
        return True
