"""`discos-backend-check --client -- COMMAND ...`: runs a client program in situations, and writes the reports.

check.py has the command line. testing/client_situations.py has the situations, testing/client_grading.py runs them.
"""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from discosbackend.cli.check_run import INTERRUPTED, REPORTS, CannotCheck, Progress, ReportFile, say
from discosbackend.errors import Interrupted, reason_of
from discosbackend.signals import handling
from discosbackend.testing.client_grading import grade
from discosbackend.testing.client_instrument import AcceptingBackend
from discosbackend.testing.client_process import ClientProcess
from discosbackend.testing.client_situations import SITUATIONS, Situation
from discosbackend.testing.report_text import progress, report
from discosbackend.testing.results import Record, Result, Verdict
from discosbackend.testing.send_guard import Scope
from discosbackend.ticks import Ticks

__all__ = ["SITUATIONS", "ClientCheck"]

# A task of an instrument such as MISTRAL takes minutes, which is longer than a situation.
_TIME_SCALE = 0.01


class ClientCheck:
    """One run of a client program in situations.

    Parameters
    ----------
    command
        The program and its arguments.
    situations
        The situations.
    limit
        How long the program may run in each, in s.
    strict
        Whether a result with the verdict `non-strict` counts as failed.
    instrument
        A simulated instrument, by its name or as the path of a TOML file. "" for one that accepts every valid request.

    Raises
    ------
    CannotCheck
        If there is no such instrument.
    """

    def __init__(
        self,
        command: Sequence[str],
        situations: Sequence[Situation],
        *,
        limit: float,
        strict: bool,
        instrument: str = "",
    ) -> None:
        self._command = command
        self._situations = situations
        self._limit = limit
        self._strict = strict
        self._instrument = instrument
        self._make_backend = _maker(instrument) if instrument else AcceptingBackend
        self._interrupted = ""

    def report_to(self, paths: Mapping[str, str]) -> int:
        """Run the client, report to standard output and to files, and return the exit status.

        Parameters
        ----------
        paths
            The paths of the reports, by their names in REPORTS.

        Raises
        ------
        CannotCheck
            If a file cannot be written, or the client cannot be started.
        """
        # The report has all findings, so the log of the simulated server is not needed.
        logging.getLogger("discosbackend").addHandler(logging.NullHandler())
        with ExitStack() as stack:
            files = {name: stack.enter_context(ReportFile(path)) for name, path in paths.items()}
            if len({file.path for file in files.values()}) < len(files):
                raise CannotCheck("two reports cannot be written to the same file")
            stack.enter_context(handling(self._interrupt))
            record = self._run()
            written = [file.write(REPORTS[name](record)) for name, file in files.items()]
            say(report(record), sys.stdout)
        if self._interrupted:
            return INTERRUPTED
        if record.count(Verdict.FAIL) or not all(written):
            return 1
        return 0 if record.tried else 2

    def _interrupt(self, number: int, _: FrameType | None) -> None:
        """Handle a signal. The first one ends the run and the client, and further ones must not disturb that."""
        if not self._interrupted:
            self._interrupted = signal.Signals(number).name
            raise Interrupted(self._interrupted)

    def _run(self) -> Record:
        began, clock = datetime.now(UTC), time.monotonic()
        results: list[Result] = []
        show = Progress(sys.stderr)
        try:
            with suppress(Interrupted):
                for result in grade(
                    self._launch,
                    self._situations,
                    limit=self._limit,
                    strict=self._strict,
                    make_backend=self._make_backend,
                ):
                    results.append(result)
                    show.line(progress(len(results), len(self._situations), result))
        finally:
            show.end()
        return Record(
            server=shlex.join(self._command),
            profile=self._instrument,
            scope=Scope.READS,
            strict=self._strict,
            began=began,
            seconds=time.monotonic() - clock,
            results=tuple(results),
            ended_early=f"interrupted by {self._interrupted}" if self._interrupted else "",
            subject="client",
        )

    def _launch(self, address: str) -> ClientProcess:
        try:
            return ClientProcess(self._command, address)
        except OSError as problem:
            raise CannotCheck(f"cannot start {self._command[0]}: {reason_of(problem)}") from None


def _maker(name: str) -> Callable[[Any], object]:
    """Return the function that makes the backend of a simulated instrument. Raise CannotCheck if there is none."""
    from discosbackend.simulator import SimulatedBackend
    from discosbackend.simulator.errors import InstrumentError
    from discosbackend.simulator.instrument.profiles import instrument_of

    class Unthreaded(SimulatedBackend):
        """Records nothing, so a conversion needs no thread."""

        def convert_data(self) -> None:
            """Do nothing."""

    try:
        instrument = instrument_of(name)
    except InstrumentError as problem:
        raise CannotCheck(f"--profile: {problem}") from None
    return lambda clock: Unthreaded(instrument, clock=clock, now_ticks=Ticks.now, time_scale=_TIME_SCALE)
