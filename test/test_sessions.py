"""The deployed clients' sessions, byte for byte, on the simulated instruments: in memory, on a fake clock.

CI plays them on servers, on both reactors.
"""

from __future__ import annotations

import unittest

from discosbackend.handlers import DBProtocolHandler
from discosbackend.protocol import DBFactory
from discosbackend.simulator import SimulatedBackend

from . import session_player
from .clients import FakeReactor
from .serving import served

_BEGAN = 1795464000.0


class SessionTests(unittest.TestCase):
    """Each session file against a fresh server."""

    def play(self, lines: list[str], instrument: str) -> int:
        clock = FakeReactor()
        clock.advance(_BEGAN)
        backend = SimulatedBackend(instrument, clock=clock, now_ticks=lambda: round(clock.seconds() * 10**7))
        factory = DBFactory(DBProtocolHandler(backend, reactor=clock), reactor=clock)
        factory.doStart()
        self.addCleanup(factory.doStop)
        return session_player.play(lines, session_player.MemoryWire(factory, clock))

    def test_every_session_passes(self) -> None:
        files = sorted(session_player.SESSIONS.glob("*.txt"))
        self.assertEqual(sorted(file.stem for file in files), sorted(session_player.INSTRUMENTS))
        for file in files:
            lines = file.read_text(encoding="latin-1").splitlines()
            wanted = sum(line.startswith("?") for line in lines)
            for instrument in session_player.INSTRUMENTS[file.stem]:
                with self.subTest(file.name, instrument=instrument):
                    self.assertEqual(self.play(lines, instrument), wanted)

    def test_the_player_sees_a_wrong_reply(self) -> None:
        for line in [
            "?start -> fail",
            "?version -> ok 1.5",
            "?version -> invalid",
            "?get-configuration -> ok SK77",
            "?set-configuration,nonesuch",
            "nonsense",
        ]:
            with self.subTest(line), self.assertRaises(session_player.SessionFailed):
                self.play(["@connect", line], "discos")

    def test_timed_starts_on_the_asyncio_reactor(self) -> None:
        lines = (session_player.SESSIONS / "timed.txt").read_text(encoding="latin-1").splitlines()
        with served("--simulate", "discos", "--reactor", "asyncio") as server:
            self.assertEqual(
                session_player.play(lines, session_player.SocketWire(*server.address)),
                sum(line.startswith("?") for line in lines),
            )


if __name__ == "__main__":
    unittest.main()
