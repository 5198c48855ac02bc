"""The deployed clients' sessions, byte for byte, on the simulated instruments: in memory, on a fake clock.

CI plays them on servers, on both reactors.
"""

from __future__ import annotations

import unittest

from discosbackend.cli import replay
from discosbackend.tap.session_steps import session_steps

from .programs import run_program
from .serving import served
from .session_player import INSTRUMENTS, SESSIONS, Instrument, session_lines


class SessionTests(unittest.TestCase):
    """Each session file against a fresh server."""

    def test_every_session_passes(self) -> None:
        self.assertEqual(sorted(file.stem for file in SESSIONS.glob("*.txt")), sorted(INSTRUMENTS))
        for session, instruments in INSTRUMENTS.items():
            lines = session_lines(session)
            wanted = sum(line.startswith("?") for line in lines)
            for name in instruments:
                with self.subTest(session, instrument=name):
                    instrument = Instrument(name)
                    totals = instrument.play(session_steps(lines))
                    self.assertEqual(instrument.differences, [])
                    self.assertEqual((totals.compared, totals.form_only, totals.unanswered), (wanted, 0, 0))

    def test_the_player_sees_a_wrong_reply(self) -> None:
        for line in [
            "?start -> fail",
            "?version -> ok 1.5",
            "?version -> invalid",
            "?get-configuration -> ok SK77",
            "?set-configuration,nonesuch",
            "nonsense",
        ]:
            with self.subTest(line):
                instrument = Instrument("discos")
                instrument.play(session_steps(["@connect", line]))
                self.assertEqual([found.step.where for found in instrument.differences], ["line 2"])

    def test_timed_starts_on_the_asyncio_reactor(self) -> None:
        wanted = sum(line.startswith("?") for line in session_lines("timed"))
        with served("--simulate", "discos", "--reactor", "asyncio") as server:
            host, port = server.address
            outcome = run_program(replay.main, str(SESSIONS / "timed.txt"), f"{host}:{port}", "--full")
        self.assertEqual(outcome, (0, f"{wanted} replies compared, 0 differences\n", ""))


if __name__ == "__main__":
    unittest.main()
