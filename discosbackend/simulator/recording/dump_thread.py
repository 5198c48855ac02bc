"""DumpThread: makes the dumps of one acquisition when they are over, and records them.

The backend decides when an acquisition begins and ends; spectra says what a dump shows, dump_files how it
lies on disk. The reactor's thread only reports that the sky has changed, and when the end is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from discosbackend.simulator.instrument.model import Setup
from discosbackend.simulator.recording.dump_files import DIODE, RecordingWriter
from discosbackend.simulator.signal.sky import Sky
from discosbackend.ticks import TICKS_PER_SECOND

if TYPE_CHECKING:
    from discosbackend.simulator.signal.spectra import Spectra

__all__ = ["DumpThread"]

logger = logging.getLogger(__name__)

# Seconds; a wait of more than some centuries is refused, and `discos` takes any integration at first.
_LONGEST_WAIT = 3600.0

# A dump that is made later than this, in seconds, is worth a line in the log: the host is too slow.
_LATE = 1.0


class DumpThread:
    """The dumps of one acquisition, from `begins` on; all instants here are of the steady clock, in ticks.

    Dump k covers the k-th integration time and shows the sky as it was when it ended, whenever it is made; so
    the thread may lag, and what it records does not depend on that. None is left out, except by the disk.
    `may_lag`: a clock that moves in leaps makes every dump late, of which there is nothing to be said.
    """

    def __init__(
        self,
        setup: Setup,
        recording: RecordingWriter,
        *,
        begins: int,
        steady: Callable[[], int],
        sky: Sky,
        may_lag: bool = False,
    ) -> None:
        self._setup = setup
        self._recording = recording
        self._begins = begins
        self._steady = steady
        self._period = setup.dump_length
        self._changed = threading.Condition()
        self._skies = [(begins, sky)]
        self._count: int | None = None
        self._made = 0
        self._lost = 0
        self._lag = 0.0
        self._may_lag = may_lag
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name=f"dumps {recording.folder.name}", daemon=True)

    @property
    def folder(self) -> str:
        """The recording's folder."""
        return str(self._recording.folder)

    @property
    def made(self) -> int:
        """How many dumps have been made, those that the disk did not take included."""
        return self._made

    @property
    def lost(self) -> int:
        """How many of them the disk did not take."""
        return self._lost

    @property
    def lag(self) -> float:
        """After how many seconds the latest dump was on disk, counted from its end; the largest so far."""
        return self._lag

    @property
    def problem(self) -> str:
        """What is wrong with the recording, "" if nothing is: a text for status."""
        return self._problem

    @property
    def running(self) -> bool:
        """Whether there are dumps still to be made."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def change_sky(self, sky: Sky) -> None:
        """Dumps that end from now on show this sky."""
        with self._changed:
            self._skies.append((self._steady(), sky))

    def end(self, instant: int) -> None:
        """Make the dumps that are over at that instant, and no further one; returns at once."""
        with self._changed:
            self._count = max(0, (instant - self._begins) // self._period)
            self._changed.notify()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all is recorded; whether it is, after so many seconds at most."""
        self._thread.join(seconds)
        return not self.running

    def _run(self) -> None:
        try:
            # Loads numpy, which nobody else should have to wait for.
            from discosbackend.simulator.signal.spectra import Spectra

            self._record(Spectra(self._setup))
        except BaseException:  # a thread has nobody to raise to
            logger.exception("%s: the recording failed after %d dumps", self._recording.folder, self._made)
            self._problem = f"recording failed after {self._made} dumps"
        finally:
            self._finish()

    def _record(self, spectra: Spectra) -> None:
        values = spectra.buffers()
        raw = values.data.cast("B")
        while (sky := self._wait_for(self._made)) is not None:
            try:
                spectra.fill(self._made, sky, values)
                self._recording.write(self._made, DIODE * sky.diode_at(self._made), raw)
            except Exception as problem:  # noqa: BLE001  # it costs this dump only
                self._lose(problem)
            self._made += 1
            self._note_lag((self._steady() - self._begins - self._made * self._period) / TICKS_PER_SECOND)

    def _wait_for(self, number: int) -> Sky | None:
        """Wait until a dump is over; the sky that it shows, or None if it is not to be made any more."""
        over = self._begins + (number + 1) * self._period
        with self._changed:
            while self._count is None and (left := over - self._steady()) > 0:
                self._changed.wait(min(left / TICKS_PER_SECOND, _LONGEST_WAIT))
            if self._count is not None and number >= self._count:
                return None
            while len(self._skies) > 1 and self._skies[1][0] <= over:
                del self._skies[0]
            return self._skies[0][1]

    def _lose(self, problem: Exception) -> None:
        """A dump did not fit, or cannot be: the recording is as it was before it, and the next one is tried."""
        self._lost += 1
        self._problem = f"recording: {_reason(problem)}: {self._lost} dumps lost"
        if self._lost == 1:
            # A disk that is full needs no traceback.
            exc_info = None if isinstance(problem, OSError) else problem
            logger.error("%s: dump %d is lost: %s", self._recording.folder, self._made, problem, exc_info=exc_info)

    def _note_lag(self, lag: float) -> None:
        if lag > _LATE >= self._lag and not self._may_lag:
            logger.warning("%s: dumps are recorded %.1f s late: the host is slow", self._recording.folder, lag)
        self._lag = max(self._lag, lag)

    def _finish(self) -> None:
        try:
            self._recording.finish()
        except OSError as problem:
            logger.error("%s: the recording cannot be finished: %s", self._recording.folder, problem)
            self._problem = self._problem or f"recording: {_reason(problem)}"
        logger.info("%s: %d dumps recorded", self._recording.folder, self._made - self._lost)


def _reason(problem: Exception) -> str:
    return str(getattr(problem, "strerror", None) or type(problem).__name__).lower()
