"""RecordingQueue: the recordings of a simulated instrument, the names that the telescope gives them, and their
conversion.

How a recording lies on disk is in dump_files, who makes its dumps in dump_thread, what a FITS file looks like in
fits.layout; conversion runs the process that converts. Only the caller of `convert` waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discosbackend.errors import BackendError
from discosbackend.simulator.errors import RecordingError
from discosbackend.simulator.instrument.model import Setup
from discosbackend.simulator.recording.conversion import Converter
from discosbackend.simulator.recording.dump_files import (
    RecordingWriter,
    checked_name,
    give_name,
    is_gone,
    recordings_in,
)
from discosbackend.simulator.recording.dump_thread import DumpThread
from discosbackend.simulator.signal.sky import Sky
from discosbackend.ticks import Ticks

__all__ = ["RecordingQueue"]

logger = logging.getLogger(__name__)

# Seconds for all last dumps to be made when the server goes down.
_LAST_DUMPS = 2.0


@dataclass(slots=True, eq=False)
class _Entry:
    """A recording that has not been converted: its name, whether its acquisition is over, why it was refused.

    `dump_thread` is None once all of it has been recorded.
    """

    folder: Path
    dump_thread: DumpThread | None
    name: str | None
    ended: bool = False
    refused: str = ""


class RecordingQueue:
    """What is recorded below the folder `data`, and merged into files. `root`: where absolute paths begin.

    `begin`, `end` and `name` belong to the reactor's thread and return at once; `convert` is for another one.
    """

    def __init__(self, data: Path, root: Path | None = None) -> None:
        self.data = data
        self._converter = Converter(root)
        self._lock = threading.Lock()
        # In the order in which they began.
        self._entries: list[_Entry] = []
        self._in_conversion: list[_Entry] = []
        self._latest: DumpThread | None = None
        # The one that a name is for; None where the next one is to come first.
        self._newest: _Entry | None = None
        self._next_name: str | None = None
        self._begin_problem = ""
        self._conversion_problem = ""
        if left := recordings_in(data):
            logger.warning(
                "%d recordings of an earlier run are in %s: discos-backend-recover makes files of them",
                len(left), data,
            )  # fmt: skip

    @property
    def problem(self) -> str:
        """What is wrong with recording or converting, "" if nothing is: a text for status."""
        recorded = self._latest.problem if self._latest is not None else ""
        return self._begin_problem or recorded or self._conversion_problem

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
        """Record an acquisition that began at `instant`, which was at `since` on the steady clock.

        `may_lag` as for DumpThread. BackendError, with the reason, when the data folder does not take it; a name that
        comes then is not for the recording before.
        """
        try:
            recording = RecordingWriter.begin(self.data, setup, instant, sky, self._next_name)
        except OSError as problem:
            self._newest = None
            self._begin_problem = f"data folder unwritable: {_reason(problem)}: {self.data}"
            raise BackendError(self._begin_problem) from None
        dump_thread = DumpThread(setup, recording, begins=since, steady=steady, sky=sky, may_lag=may_lag)
        entry = _Entry(recording.folder, dump_thread, self._next_name)
        self._begin_problem, self._next_name = "", None
        with self._lock:
            self._tidy()
            self._entries.append(entry)
            self._latest, self._newest = dump_thread, entry
        dump_thread.start()

    def change_sky(self, sky: Sky) -> None:
        """The acquisition that is being recorded, if any, sees another sky from now on."""
        if self._latest is not None:
            self._latest.change_sky(sky)

    def end(self, since: int) -> None:
        """The acquisition ended, at `since` on the steady clock."""
        for entry in self._entries:
            if not entry.ended and entry.dump_thread is not None:
                entry.dump_thread.end(since)
                entry.ended = True

    def _tidy(self) -> None:
        """Let go of the threads that are done.

        What somebody else has taken away is convert's to forget: that asks the disk for each, and may take its time.
        """
        for entry in self._entries:
            if entry.ended and entry.dump_thread is not None and not entry.dump_thread.running:
                entry.dump_thread = None

    # -- names ----------------------------------------------------------------------------------------

    def name(self, path: str) -> None:
        """Have the newest recording merged with the telescope's file at `path`; without one, the next.

        DISCOS sends this after stop (protocol section 9.3); another name replaces the one before. One that the disk
        does not take holds as long as this server runs. BackendError for a path without a file's name.
        """
        try:
            checked_name(path)
        except RecordingError as problem:
            raise BackendError(str(problem)) from None
        # Until it is noted no conversion may choose: it would take the recording with the name before.
        with self._lock:
            newest = self._newest
            if newest is None or newest in self._in_conversion or (newest.ended and is_gone(newest.folder)):
                self._next_name = path
                return
            newest.name, newest.refused = path, ""
            try:
                give_name(newest.folder, path)
            except OSError as problem:
                logger.warning("%s: its name is not noted on disk: %s: %r", newest.folder, _reason(problem), path)

    def forget_next_name(self) -> None:
        """A name that came before its recording is not wanted any more."""
        self._next_name = None

    # -- conversion -----------------------------------------------------------------------------------

    def convert(self) -> None:
        """Make files of all finished recordings that have a name; where none has, of those without.

        Those that were refused before are tried again, but are nobody's business who has others to convert. Blocks
        until that is done. BackendError, with the first reason, when one could not be made; its recording stays.
        """
        self._converter.ready()
        with self._lock:
            chosen = self._choose()
            self._in_conversion = chosen
        try:
            for entry in chosen:
                if entry.dump_thread is not None:
                    entry.dump_thread.wait()
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
            raise BackendError(reasons[0])

    def _choose(self) -> list[_Entry]:
        self._entries = [each for each in self._entries if not (each.ended and is_gone(each.folder))]
        over = [each for each in self._entries if each.ended]
        fresh = [each for each in over if not each.refused]
        wanted = {each for each in fresh if each.name is not None} or set(fresh)
        return [each for each in over if each.refused or each in wanted]

    def give_up_conversion(self) -> None:
        """End a conversion that is going on; its recordings stay."""
        if self._converter.give_up():
            logger.warning("a conversion is given up, its recordings stay")

    # -- the state, and the end -----------------------------------------------------------------------

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the dumps of ended acquisitions are recorded; whether they are, after so many seconds at most."""
        until = None if seconds is None else time.monotonic() + seconds
        for entry in list(self._entries):
            left = None if until is None else max(0.0, until - time.monotonic())
            if entry.ended and entry.dump_thread is not None and not entry.dump_thread.wait(left):
                return False
        return True

    def to_dict(self) -> dict[str, Any]:
        """All of it in JSON's terms."""
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
        """The server goes down: have the last dumps made, and end a conversion, whose recordings stay."""
        self.give_up_conversion()
        if not self.wait(_LAST_DUMPS):
            logger.warning("the host is slow: the last dumps of an acquisition have not been made, and will not be")
        left = [each for each in self._entries if not is_gone(each.folder)]
        if left:
            logger.info("%d recordings are left in %s: see discos-backend-recover", len(left), self.data)


def _reason(problem: OSError) -> str:
    return (problem.strerror or str(problem)).lower()
