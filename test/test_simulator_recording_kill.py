"""kill -9 at random moments of an acquisition: what was recorded until half a second before is there, and recovered."""

from __future__ import annotations

import random
import tempfile
import time
import unittest
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL, pause

from astropy.io import fits

from discosbackend.simulator import SimulatedBackend
from discosbackend.simulator.recording.dump_files import recordings_in
from discosbackend.simulator.recording.dump_reader import RecordingReader

from .recordings import Child
from .serving import ROOT, ask, run_python, served
from .settings import LONG, PATIENCE, wait_until

KILLS = 20 if LONG else 4
AT_ONCE = 4
LOST_AT_MOST = 0.5
SECOND = 10**7


class KillTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # by enterContext
        self.data = Path(self.enterContext(folder))
        self.draw = random.Random(20)
        # In ms; longer on a host that cannot keep up.
        self.integration = 10

    def record_by_server(self, data: str, seed: int, stack: ExitStack) -> Callable[[], int]:
        """Have a server record; what kills it and returns its exit status."""
        server = stack.enter_context(served("--simulate", "sardara", "--data", data, "--seed", str(seed)))
        connection = stack.enter_context(server.connect())
        replies = ask(connection, b"?set-configuration,SK00", b"?set-integration,%d" % self.integration, b"?start")
        self.assertTrue(all(reply.endswith(b",ok\r\n") for reply in replies), replies)

        def kill() -> int:
            server.process.send_signal(SIGKILL)
            return server.process.wait(PATIENCE)

        return kill

    def record_by_instrument(self, data: str, seed: int, stack: ExitStack) -> Callable[[], int]:
        """The same by the instrument alone, in a fork of this process."""

        def record() -> None:
            backend = SimulatedBackend("sardara", data=data, seed=seed)
            backend.set_configuration("SK00")
            backend.set_integration(self.integration)
            backend.start()
            pause()

        child = Child(record)
        stack.callback(child.kill)
        return child.kill

    def kill_some(self, first: int, count: int) -> dict[str, float]:
        """Servers that record and are killed; their data folders, and when each was killed."""
        with ExitStack() as stack:
            recording = {}
            *others, last = range(first, first + count)
            for each in (*others, last):
                data = str(self.data / str(each))
                record = self.record_by_server if LONG or each == last else self.record_by_instrument
                recording[data] = record(data, each, stack)
            killed = {}
            for data, kill in recording.items():
                # A busy host may take a while to import numpy: then there is nothing to lose yet.
                wait_until(lambda: self.size_of(data), "the first dump")
                moment = time.time() + self.draw.uniform(0.0, 0.7)
                wait_until(lambda: time.time() >= moment)
                status, killed[data] = kill(), time.time()
                self.assertEqual(status, -SIGKILL)
        return killed

    @staticmethod
    def size_of(data: str) -> int:
        return sum((folder / "dumps").stat().st_size for folder in recordings_in(data))

    def test_everything_up_to_the_last_half_second_is_recovered(self) -> None:
        wanted, tried = KILLS, 0

        def all_in_time() -> bool:
            nonlocal wanted, tried
            kills = self.kill_some(tried, min(wanted, AT_ONCE))
            tried += len(kills)
            # A busy host may make dumps late, which is no fault of the recording: then others follow, with fewer dumps.
            in_time = sum(self.check_recording(data, killed) for data, killed in kills.items())
            self.integration *= 1 if in_time else 2
            wanted -= in_time
            return not wanted

        wait_until(all_in_time, "recordings that were not late when they were killed")
        # The documented command, on the last of them.
        self.recover(str(self.data / str(tried - 1)))

    def check_recording(self, data: str, killed: float) -> bool:
        """Check that no dump before the last one is missing; return whether the last one is late enough."""
        (folder,) = recordings_in(data)
        with RecordingReader(folder) as recorded:
            numbers = [dump.number for dump in recorded.dumps]
            self.assertEqual(numbers, list(range(len(numbers))), data)
            recovered = recorded.begins / SECOND + len(numbers) * recorded.setup.integration / 1000
        return recovered > killed - LOST_AT_MOST

    def recover(self, data: str) -> None:
        (folder,) = recordings_in(data)
        with RecordingReader(folder) as recorded:
            count = len(recorded.dumps)
        done = run_python(ROOT / "scripts" / "discos-backend-recover", data)
        self.assertEqual(done.returncode, 0, done.stderr)
        with fits.open(Path(data) / f"{folder.name}.fits") as file:
            self.assertEqual(len(file["DATA TABLE"].data), count)
        self.assertEqual(recordings_in(data), [])


if __name__ == "__main__":
    unittest.main()
