"""kill -9 at random moments of an acquisition: what was recorded until half a second before is there, and recovered."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL, pause

from astropy.io import fits

from discosbackend.simulator import SimulatedBackend
from discosbackend.simulator.recording.dump_files import RecordingReader, recordings_in

from .recordings import Child
from .serving import ROOT, ask, served
from .settings import LONG, PATIENCE, wait_until

KILLS = 20 if LONG else 4
AT_ONCE = 4
INTEGRATION = 10
LOST_AT_MOST = 0.5
SECOND = 10**7


class KillTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # by enterContext
        self.data = Path(self.enterContext(folder))
        self.draw = random.Random(20)

    def record_by_server(self, data: str, seed: int, stack: ExitStack) -> Callable[[], int]:
        """Have a server record; what kills it and returns its exit status."""
        server = stack.enter_context(served("--simulate", "sardara", "--data", data, "--seed", str(seed)))
        connection = stack.enter_context(server.connect())
        replies = ask(connection, b"?set-configuration,SK00", b"?set-integration,%d" % INTEGRATION, b"?start")
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
            backend.set_integration(INTEGRATION)
            backend.start()
            pause()

        child = Child(record)
        stack.callback(child.kill)
        return child.kill

    def kill_some(self, number: int) -> dict[str, float]:
        """Servers that record and are killed; their data folders, and when each was killed."""
        with ExitStack() as stack:
            recording = {}
            for each in range(number, number + AT_ONCE):
                data = str(self.data / str(each))
                record = self.record_by_server if LONG or each == KILLS - 1 else self.record_by_instrument
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
        count = 0
        for number in range(0, KILLS, AT_ONCE):
            for data, killed in self.kill_some(number).items():
                with self.subTest(data):
                    count = self.check_recording(data, killed)
        # The documented command, on the last of them.
        self.recover(str(self.data / str(KILLS - 1)), count)

    def check_recording(self, data: str, killed: float) -> int:
        """Every dump until half a second before the kill is there; how many there are."""
        (folder,) = recordings_in(data)
        with RecordingReader(folder) as recorded:
            numbers = [dump.number for dump in recorded.dumps]
            self.assertEqual(numbers, list(range(len(numbers))))
            recovered = recorded.begins / SECOND + len(numbers) * INTEGRATION / 1000
            self.assertGreater(recovered, killed - LOST_AT_MOST)
        return len(numbers)

    def recover(self, data: str, count: int) -> None:
        (folder,) = recordings_in(data)
        command = [sys.executable, str(ROOT / "scripts" / "discos-backend-recover"), data]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        with fits.open(Path(data) / f"{folder.name}.fits") as file:
            self.assertEqual(len(file["DATA TABLE"].data), count)
        self.assertEqual(recordings_in(data), [])


if __name__ == "__main__":
    unittest.main()
