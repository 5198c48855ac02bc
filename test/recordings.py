"""Recordings made by hand for the tests of their files: small, and every value known."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from discosbackend.simulator.fits import convert
from discosbackend.simulator.instrument.model import Channel, Receiver, Response, Setup
from discosbackend.simulator.recording.dump_files import DIODE, RecordingWriter, give_name
from discosbackend.simulator.recording.dump_reader import RecordingReader
from discosbackend.simulator.signal.sky import Sky
from discosbackend.ticks import Ticks

__all__ = ["BEGINS", "CHANNELS", "STOKES", "TOTAL_POWER", "Child", "ForkedConversion"]
__all__ += ["heard_in_child", "in_child", "in_children", "opened", "record", "setup_with", "values_of"]

BEGINS = Ticks(17952891501234567)
"""2026-11-21T19:25:50.1234567, as no float has it."""

CHANNELS = (Channel(0, ("L",), 50.0, 1500.0, 16), Channel(0, ("R",), 50.0, 1500.0, 16))
STOKES = (Channel(0, ("L", "R"), 0.0, 1500.0, 8), Channel(3, ("L", "R"), 0.0, 1500.0, 8))
TOTAL_POWER = tuple(Channel(feed, (hand,), 0.0, 2000.0, 1) for feed in range(3) for hand in "LR")

_RECEIVER = Receiver(
    code="KKG",
    local_oscillator=21235.0,
    beam=0.85,
    offsets=((0.0, 0.0), (2.31, 0.0), (1.155, 2.0), (-1.155, 2.0)),
)


def setup_with(channels: Sequence[Channel] = CHANNELS, **others: Any) -> Setup:
    """A setup of these channels; of an input of number n, Tsys is 100 + n K and the mark 50 + n K."""
    values: dict[str, Any] = {
        "instrument": "sardara",
        "configuration": "SK00",
        "seed": 7,
        "acquisition": 3,
        "integration": 40,
        "attenuation": 7.0,
        "receiver": _RECEIVER,
        "response": Response(),
        "tsys": tuple(100.0 + number for number in range(64)),
        "marks": tuple(50.0 + number for number in range(64)),
    }
    return Setup(channels=tuple(channels), **{**values, **others})


def values_of(setup: Setup, number: int) -> Any:
    """What record() puts into a dump: every value another one, of four bytes that differ, some negative."""
    return (np.arange(setup.values, dtype=np.int64) * 0x01020304 + number - 0x40000000).astype("<i4")


def record(
    data: Path,
    setup: Setup | None = None,
    dumps: int = 5,
    *,
    sky: Sky = Sky(),
    name: Path | str | None = None,
    begins: Ticks = BEGINS,
    without: Sequence[int] = (),
) -> Path:
    """Record so many dumps, but for some; the diode is on in those that the sky says. The recording."""
    setup = setup or setup_with()
    recording = RecordingWriter.begin(data, setup, begins, sky)
    for number in range(dumps):
        if number not in without:
            values = values_of(setup, number)
            recording.write(number, DIODE * sky.diode_at(number), memoryview(values).cast("B"))
    recording.finish()
    if name is not None:
        give_name(recording.folder, str(name))
    return recording.folder


def opened(folder: Path) -> list[int]:
    """The numbers of the whole dumps in a recording."""
    with RecordingReader(folder) as recorded:
        return [dump.number for dump in recorded.dumps]


def in_child(work: Callable[[], object]) -> int:
    """Do that in a process of its own, with all that is loaded here; its exit status, or minus the signal."""
    return in_children([work])[0]


def in_children(works: Sequence[Callable[[], object]]) -> list[int]:
    """The same for some at once."""
    return [child.wait() for child in list(map(Child, works))]


def heard_in_child(work: Callable[[], object], told: str = "") -> tuple[int, str, str]:
    """Do that in a process of its own, with this as its standard input; its exit status, and what it wrote."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(3)]
        files[0].write(told)
        files[0].seek(0)

        def with_files() -> None:
            for number, file in enumerate(files):
                os.dup2(file.fileno(), number)
            sys.stdin, sys.stdout, sys.stderr = files
            try:
                work()
            finally:
                for file in files:
                    file.flush()

        status = in_child(with_files)
        for file in files:
            file.seek(0)
        return status, files[1].read(), files[2].read()


class Child:
    """A process that does some work and ends, with all that is loaded here."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._status: int | None = None
        # Several threads may wait for it, and only one of them gets its status from the system.
        self._waiting = threading.Lock()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python 3.12 warns of other threads. The child runs none of what they may be doing.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            status = 99
            try:
                work()
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:  # noqa: BLE001  # nothing may come back to the tests
                traceback.print_exc()
            finally:
                os._exit(status)

    def ended(self) -> bool:
        """Whether it has ended by now."""
        if self._waiting.acquire(blocking=False):
            try:
                if self._status is None:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                    self._status = os.waitstatus_to_exitcode(status) if pid else None
            finally:
                self._waiting.release()
        return self._status is not None

    def wait(self) -> int:
        """Wait for its end; its exit status, or minus the signal."""
        with self._waiting:
            if self._status is None:
                self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            return self._status

    def kill(self) -> int:
        """The same after SIGKILL, unless it has ended."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()


class ForkedConversion:
    """In place of the process that a Converter starts: the same program in a fork, which has astropy already.

    `with_program` is called in the fork before the program runs, and may change what that does.
    """

    def __init__(self, command: Sequence[str], *, with_program: Callable[[], object] = lambda: None, **_: Any) -> None:
        assert command[1:4] == ["-P", "-m", "discosbackend.simulator.fits.convert"], command
        pipes = [os.pipe() for _ in range(3)]
        theirs = (pipes[0][0], pipes[1][1], pipes[2][1])
        ours = (pipes[0][1], pipes[1][0], pipes[2][0])

        def work() -> None:
            for number, descriptor in enumerate(theirs):
                os.dup2(descriptor, number)
            for descriptor in (*theirs, *ours):
                os.close(descriptor)
            sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
            # Line by line, as standard error is.
            sys.stderr = os.fdopen(2, "w", 1, closefd=False)
            # Its log is not that of the tests.
            logging.getLogger().handlers.clear()
            logging.disable(logging.NOTSET)
            with_program()
            try:
                convert.main(command[4:])
            finally:
                sys.stdout.flush()

        self._child = Child(work)
        self.pid = self._child.pid
        self.returncode: int | None = None
        for descriptor in theirs:
            os.close(descriptor)
        self.stdin = os.fdopen(ours[0], "wb", buffering=0)
        self.stdout, self.stderr = (os.fdopen(descriptor, "rb", buffering=0) for descriptor in ours[1:])

    def poll(self) -> int | None:
        """Its exit status, or minus the signal, if it has ended."""
        if self._child.ended():
            self.returncode = self._child.wait()
        return self.returncode

    def wait(self) -> int:
        """The same once it has."""
        self.returncode = self._child.wait()
        return self.returncode

    def terminate(self) -> None:
        """Ask it to end."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal. Another thread may wait for it, and is not to be disturbed by poll()."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Leave it no choice."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Leave neither the process nor the pipes behind."""
        self.kill()
        self.wait()
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()
