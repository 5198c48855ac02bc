"""RecordingQueue: the recordings of a simulated instrument, their names from set-filename, and their conversion.

dump_files defines the files of a recording, dump_thread computes the dumps, conversion runs the converting process, and
fits.layout defines the FITS files. Only the caller of `convert` waits for a conversion.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from discosbackend.errors import BackendError, reason_of
from discosbackend.grammar import plain
from discosbackend.simulator.errors import RecordingError, lower_reason
from discosbackend.simulator.instrument.model import Setup
from discosbackend.simulator.recording.conversion import Converter
from discosbackend.simulator.recording.dump_files import (
    RecordingWriter,
    give_name,
    is_gone,
    recordings_in,
)
from discosbackend.simulator.recording.dump_thread import DumpThread
from discosbackend.simulator.recording.output_paths import checked_name
from discosbackend.simulator.signal.sky import Sky
from discosbackend.ticks import Ticks

__all__ = ["Recorded", "RecordingQueue"]

logger = logging.getLogger(__name__)

# Seconds that the shutdown of the server waits for the last dumps.
_LAST_DUMPS = 2.0

# The escapes in a path that was quoted by ascii(). The group matches a quote or a backslash, which are printable.
_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[nrt]|([\\'\"]))")


@dataclass(slots=True, eq=False)
class _Entry:
    """A recording that has not been converted.

    `dump_thread` is None once all dumps are on disk. `ended` says whether the acquisition has ended, `refused` why the
    last conversion failed.
    """

    folder: Path
    dump_thread: DumpThread | None
    name: str | None
    ended: bool = False
    refused: str = ""

    def wait(self, seconds: float | None = None) -> bool:
        """Wait at most `seconds` until all dumps are on disk; return whether they are."""
        # Read once: begin() in another thread may set it to None meanwhile.
        dump_thread = self.dump_thread
        return dump_thread is None or dump_thread.wait(seconds)


class Recorded(NamedTuple):
    """How much a server has recorded since its start, for monitors."""

    dumps: int
    """How many dumps were made, the lost ones included."""
    lost: int
    """How many of them could not be computed or written."""
    size: int
    """The size of the others, in bytes."""

    def plus(self, dump_thread: DumpThread) -> Recorded:
        """Return the sum of these and of the dumps of a recording."""
        return Recorded(self.dumps + dump_thread.made, self.lost + dump_thread.lost, self.size + dump_thread.size)


class RecordingQueue:
    """Records acquisitions and converts the recordings to FITS files.

    Call `begin`, `end` and `name` in the reactor's thread; they return at once. Call `convert` in another thread, as it
    blocks.

    Parameters
    ----------
    data
        The folder of the recordings.
    root
        The folder that stands for `/` in the paths of set-filename. Default: paths are used as they are.
    """

    def __init__(self, data: Path, root: Path | None = None) -> None:
        self.data = data
        self._converter = Converter(root)
        self._lock = threading.Lock()
        # In the order of their begin.
        self._entries: list[_Entry] = []
        self._in_conversion: list[_Entry] = []
        self._latest: DumpThread | None = None
        # What the recordings contain whose thread has ended, and the threads whose dumps this does not count.
        self._recorded = Recorded(0, 0, 0)
        self._uncounted: list[DumpThread] = []
        # The recording that the next name applies to; None if it applies to a future recording.
        self._newest: _Entry | None = None
        self._next_name: str | None = None
        self._begin_problem = ""
        self._conversion_problem = ""
        try:
            left = recordings_in(data)
        except OSError as problem:
            logger.warning(
                "recordings of an earlier run cannot be looked for: %s cannot be listed: %s", data, reason_of(problem)
            )
            left = []
        if left:
            logger.warning(
                "%d recordings of an earlier run are in %s: discos-backend-recover converts them to files",
                len(left), data,
            )  # fmt: skip

    @property
    def problem(self) -> str:
        """The text for status if recording or converting fails, else ""."""
        recorded = self._latest.problem if self._latest is not None else ""
        problem = self._begin_problem or recorded or self._conversion_problem
        return problem and _for_client(problem)

    # -- recording ------------------------------------------------------------------------------------

    def begin(
        self,
        setup: Setup,
        instant: Ticks,
        steady: Callable[[], int],
        since: int,
        sky: Sky,
        *,
        may_lag: bool = False,
    ) -> None:
        """Start recording an acquisition.

        Parameters
        ----------
        setup
            The settings of the acquisition.
        instant
            When it began, on the instrument's clock.
        steady
            Returns the steady clock in 100 ns.
        since
            When it began, on the steady clock.
        sky
            The sky at the begin.
        may_lag
            As for DumpThread.

        Raises
        ------
        BackendError
            If the recording cannot be created in the data folder, or its thread cannot be started. In that case the
            next call of name() sets the path of the next recording, not of the previous one.
        """
        try:
            recording = RecordingWriter.begin(self.data, setup, instant, sky, self._next_name)
        except OSError as problem:
            raise self._not_begun(f"data folder unwritable: {lower_reason(problem)}: {self.data}") from None
        dump_thread = DumpThread(setup, recording, begins=since, steady=steady, sky=sky, may_lag=may_lag)
        try:
            dump_thread.start()
        except RuntimeError as problem:
            # The system has no thread left.
            recording.discard()
            raise self._not_begun(f"recording cannot begin: {problem}") from None
        entry = _Entry(recording.folder, dump_thread, self._next_name)
        self._begin_problem, self._next_name = "", None
        with self._lock:
            self._tidy()
            self._entries.append(entry)
            self._latest, self._newest = dump_thread, entry
            self._uncounted.append(dump_thread)

    def _not_begun(self, problem: str) -> BackendError:
        self._newest = None
        self._begin_problem = problem
        return BackendError(_for_client(problem))

    def change_sky(self, sky: Sky) -> None:
        """Change the sky of the current acquisition, if there is one, from now on."""
        if self._latest is not None:
            self._latest.change_sky(sky)

    def end(self, since: int) -> None:
        """End the acquisition, at `since` on the steady clock."""
        for entry in self._entries:
            if not entry.ended and entry.dump_thread is not None:
                entry.dump_thread.end(since)
                entry.ended = True

    def _tidy(self) -> None:
        """Drop the references to finished threads.

        Recordings that another program has removed are dropped in convert() and not here: finding them may take long.
        """
        for entry in self._entries:
            if entry.ended and entry.dump_thread is not None and not entry.dump_thread.running:
                entry.dump_thread = None
        for dump_thread in [each for each in self._uncounted if not each.running]:
            self._recorded = self._recorded.plus(dump_thread)
            self._uncounted.remove(dump_thread)

    # -- names ----------------------------------------------------------------------------------------

    def name(self, path: str) -> None:
        """Set the path of the newest recording, or of the next one if there is none.

        DISCOS sends it after stop (protocol section 9.3). A further name replaces the previous one. If the name cannot
        be written to disk, it is kept in memory.

        Raises
        ------
        BackendError
            If the path has no file name, or that of a file of a recording or of a temporary file.
        """
        try:
            checked_name(path)
        except RecordingError as problem:
            raise BackendError(_for_client(str(problem))) from None
        # A conversion must not choose its recordings before the name is stored: it would use the previous name.
        with self._lock:
            newest = self._newest
            if newest is None or newest in self._in_conversion or (newest.ended and is_gone(newest.folder)):
                self._next_name = path
                return
            newest.name, newest.refused = path, ""
            try:
                give_name(newest.folder, path)
            except OSError as problem:
                logger.warning(
                    "%s: its name cannot be written to disk: %s: %r", newest.folder, lower_reason(problem), path
                )

    def forget_next_name(self) -> None:
        """Discard a name that was set for the next recording."""
        self._next_name = None

    # -- conversion -----------------------------------------------------------------------------------

    def convert(self) -> None:
        """Convert all finished recordings that have a name; if none has, convert those without a name.

        It blocks until they are converted. Recordings whose conversion failed before are tried again. If they fail
        again, this is reported only if there was nothing else to convert.

        Raises
        ------
        BackendError
            If a recording could not be converted, with the first reason. The recording is kept.
        """
        self._converter.ready()
        with self._lock:
            chosen = self._choose()
            self._in_conversion = chosen
        try:
            for entry in chosen:
                entry.wait()
            refusals = self._converter.run({each.folder: each.name for each in chosen}) if chosen else {}
        finally:
            with self._lock:
                self._in_conversion = []
        reasons = [refusals[each.folder] for each in chosen if each.folder in refusals and not each.refused]
        if all(each.refused for each in chosen):
            reasons = list(refusals.values())
        for entry in chosen:
            reason = refusals.get(entry.folder, "")
            if reason and reason != entry.refused:
                logger.error("%s is not converted: %s", entry.folder, reason)
            entry.refused = reason
        with self._lock:
            converted = {each for each in chosen if not each.refused}
            self._entries = [each for each in self._entries if each not in converted]
            if self._newest in converted:
                self._newest = None
        self._conversion_problem = f"not converted: {reasons[0]}" if reasons else ""
        if reasons:
            raise BackendError(_for_client(reasons[0]))

    def _choose(self) -> list[_Entry]:
        gone = [each for each in self._entries if each.ended and is_gone(each.folder)]
        for entry in gone:
            logger.warning(
                "%s: this server recorded it and no longer finds it: "
                "it was removed, moved, or converted by discos-backend-recover",
                entry.folder,
            )
        self._entries = [each for each in self._entries if each not in gone]
        over = [each for each in self._entries if each.ended]
        fresh = [each for each in over if not each.refused]
        wanted = {each for each in fresh if each.name is not None} or set(fresh)
        return [each for each in over if each.refused or each in wanted]

    def give_up_conversion(self) -> None:
        """Terminate a running conversion; its recordings are kept."""
        if self._converter.give_up():
            logger.warning("a conversion is terminated, its recordings are kept")

    # -- state and shutdown ---------------------------------------------------------------------------

    @property
    def recorded(self) -> Recorded:
        """How much was recorded since the start of the server."""
        total = self._recorded
        for dump_thread in self._uncounted:
            total = total.plus(dump_thread)
        return total

    @property
    def latest(self) -> DumpThread | None:
        """The thread that records, or that has recorded the latest acquisition."""
        return self._latest

    def wait(self, seconds: float | None = None) -> bool:
        """Wait at most `seconds` until all dumps of ended acquisitions are on disk; return whether they are."""
        until = None if seconds is None else time.monotonic() + seconds
        for entry in list(self._entries):
            left = None if until is None else max(0.0, until - time.monotonic())
            if entry.ended and not entry.wait(left):
                return False
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        latest = self._latest
        return {
            "data": str(self.data),
            "problem": self.problem,
            "waiting": [
                {"folder": str(each.folder), "name": each.name, "refused": each.refused} for each in self._entries
            ],
            "next_name": self._next_name,
            "newest": None
            if latest is None
            else {
                "folder": latest.folder,
                "dumps": latest.made,
                "lost": latest.lost,
                "lag": latest.lag,
                "running": latest.running,
            },
        }

    def close(self) -> None:
        """Shut down: wait for the last dumps, and terminate a running conversion, whose recordings are kept."""
        self.give_up_conversion()
        self._converter.close()
        if not self.wait(_LAST_DUMPS):
            logger.warning("the host is too slow: the last dumps of an acquisition are lost")
        left = [each for each in self._entries if not is_gone(each.folder)]
        if left:
            logger.info("%d recordings are left in %s: see discos-backend-recover", len(left), self.data)


def _for_client(text: str) -> str:
    """Return a text for a reply. In a path, each character that is not printable ASCII is replaced by `?`."""
    return plain(_ESCAPE.sub(lambda found: found[1] or "?", text))
