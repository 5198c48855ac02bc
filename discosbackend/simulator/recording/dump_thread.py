"""DumpThread: a thread that computes and records the dumps of one acquisition, each after its integration time.

The backend decides when an acquisition begins and ends. spectra computes a dump, dump_files writes it. The reactor's
thread only announces changes of the sky and the end of the acquisition.
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

# Seconds. A recording is looked for at least as often, so that status reports soon that it was removed or moved.
_LONGEST_WAIT = 1.0

# Seconds. If a dump is recorded later than this, the host is too slow, which is logged.
_LATE = 1.0


class DumpThread:
    """Computes and records the dumps of one acquisition in a thread of its own.

    Dump k covers the k-th integration time and shows the sky at its end. If the thread is late, the dumps are the same,
    and none is omitted. A dump is lost only if it cannot be written or computed. All instants are on the steady clock,
    in 100 ns.

    Parameters
    ----------
    setup
        The settings of the acquisition.
    recording
        The recording.
    begins
        When the acquisition began.
    steady
        Returns the steady clock.
    sky
        The sky at the begin.
    may_lag
        Do not log late dumps. For a fake clock, which moves in large steps and makes every dump late.

    Attributes
    ----------
    made
        The number of computed dumps, including lost ones.
    lost
        The number of lost dumps.
    lag
        The largest delay so far, in seconds from the end of a dump until it was on disk.
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
        self.made = 0
        self.lost = 0
        self.lag = 0.0
        self._may_lag = may_lag
        self._problem = ""
        self._gone = False
        self._thread = threading.Thread(target=self._run, name=f"dumps {recording.folder.name}", daemon=True)

    @property
    def folder(self) -> str:
        """The folder of the recording."""
        return str(self._recording.folder)

    @property
    def size(self) -> int:
        """The size of the dumps that are on disk, in bytes."""
        return self._recording.size

    @property
    def problem(self) -> str:
        """The text for status if the recording fails, else ""."""
        return f"recording: removed or moved: {self.folder}" if self._gone else self._problem

    @property
    def running(self) -> bool:
        """Whether the thread is still running."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def change_sky(self, sky: Sky) -> None:
        """Change the sky for the dumps that end from now on."""
        with self._changed:
            self._skies.append((self._steady(), sky))

    def end(self, instant: int) -> None:
        """End the acquisition: record the dumps that end at or before this instant. It returns at once."""
        with self._changed:
            self._count = max(0, (instant - self._begins) // self._period)
            self._changed.notify()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait at most `seconds` until all dumps are recorded; return whether they are."""
        self._thread.join(seconds)
        return not self.running

    def _run(self) -> None:
        try:
            # Here, because it imports numpy, which must not block the reactor's thread.
            from discosbackend.simulator.signal.spectra import Spectra

            self._record(Spectra(self._setup))
        except BaseException:  # an exception in a thread would reach no caller
            logger.exception("%s: the recording failed after %d dumps", self._recording.folder, self.made)
            self._problem = f"recording failed after {self.made} dumps"
        finally:
            self._finish()

    def _record(self, spectra: Spectra) -> None:
        values = spectra.buffers()
        raw = values.data.cast("B")
        while (sky := self._wait_for(self.made)) is not None:
            try:
                spectra.fill(self.made, sky, values)
                self._recording.write(self.made, DIODE * sky.diode_at(self.made), raw)
            except Exception as problem:  # noqa: BLE001  # only this dump is lost
                self._lose(problem)
            self.made += 1
            self._look_for_recording()
            self._note_lag((self._steady() - self._begins - self.made * self._period) / TICKS_PER_SECOND)

    def _wait_for(self, number: int) -> Sky | None:
        """Wait until the end of a dump; return its sky, or None if the acquisition has ended before."""
        over = self._begins + (number + 1) * self._period
        while self._wait_a_while(over):
            self._look_for_recording()
        with self._changed:
            if self._count is not None and number >= self._count:
                return None
            while len(self._skies) > 1 and self._skies[1][0] <= over:
                del self._skies[0]
            return self._skies[0][1]

    def _wait_a_while(self, until: int) -> bool:
        """Wait until an instant or the end of the acquisition, but not long; return whether both are still to come."""
        with self._changed:
            if self._count is None and (left := until - self._steady()) > 0:
                self._changed.wait(min(left / TICKS_PER_SECOND, _LONGEST_WAIT))
            return self._count is None and self._steady() < until

    def _look_for_recording(self) -> None:
        """Note whether the recording was removed or moved. Dumps are still written: if it was moved, none is lost."""
        gone = not self._recording.in_place
        if gone and not self._gone:
            logger.error("%s: removed or moved while it is recorded", self._recording.folder)
        elif self._gone and not gone:
            logger.warning("%s: it is in its place again", self._recording.folder)
        self._gone = gone

    def _lose(self, problem: Exception) -> None:
        """Note a dump that could not be computed or written. The recording remains valid; the next dump is tried."""
        self.lost += 1
        self._problem = f"recording: {_reason(problem)}: {self.lost} dumps lost"
        if self.lost == 1:
            # A full disk needs no traceback.
            exc_info = None if isinstance(problem, OSError) else problem
            logger.error("%s: dump %d is lost: %s", self._recording.folder, self.made, problem, exc_info=exc_info)

    def _note_lag(self, lag: float) -> None:
        if lag > _LATE >= self.lag and not self._may_lag:
            logger.warning("%s: dumps are recorded %.1f s late: the host is slow", self._recording.folder, lag)
        self.lag = max(self.lag, lag)

    def _finish(self) -> None:
        self._look_for_recording()
        try:
            self._recording.finish()
        except OSError as problem:
            if not self._gone:
                logger.error("%s: the recording cannot be finished: %s", self._recording.folder, problem)
                self._problem = self._problem or f"recording: {_reason(problem)}"
        logger.info("%s: %d dumps recorded", self._recording.folder, self.made - self.lost)


def _reason(problem: Exception) -> str:
    return str(getattr(problem, "strerror", None) or "the dump cannot be computed").lower()
