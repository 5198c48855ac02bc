"""Each session recorded, by a server and by a tap, and replayed: on the same instrument, and on one with a defect."""

from __future__ import annotations

import json
import tempfile
import unittest
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from discosbackend.commands import COMMANDS
from discosbackend.connection import DBProtocol
from discosbackend.tap.compare import Comparison
from discosbackend.tap.replay_file import read_script
from discosbackend.tap.session_steps import session_steps
from discosbackend.tap.steps import Request, Script, select

from . import defective_backends, defective_protocols
from .backend_simulator import BackendSimulator
from .in_memory import quiet
from .session_player import INSTRUMENTS, Instrument, session_lines
from .settings import LONG


def setUpModule() -> None:
    quiet()


class RecordedSessionTests(unittest.TestCase):
    """Each session recorded, and replayed on the same instrument, and on one with a defect."""

    def setUp(self) -> None:
        self.path = Path(self.enterContext(tempfile.TemporaryDirectory())) / "exchanges.jsonl"

    def recorded(self, session: Sequence[str], instrument: Instrument) -> Script:
        """Record a session on an instrument, and return the steps of the recording."""
        self.path.unlink(missing_ok=True)
        instrument.record(session_steps(session), self.path)
        return read_script(str(self.path), Comparison())

    def test_no_difference_on_the_same_instrument(self) -> None:
        for session, instruments in INSTRUMENTS.items():
            lines = session_lines(session)
            wanted = sum(line.startswith("?") for line in lines)
            for name in instruments:
                script = self.recorded(lines, Instrument(name))
                for speed in (1.0, 3.0):
                    with self.subTest(session, instrument=name, speed=speed):
                        instrument = Instrument(name)
                        totals = instrument.play(script, speed=speed)
                        self.assertEqual(instrument.differences, [])
                        self.assertGreaterEqual(totals.compared, wanted)
                        self.assertEqual((totals.unanswered, totals.form_only), (0, 0))

    def test_a_planted_difference_is_found_in_each_reply(self) -> None:
        """Each reply of each session is spoilt; by default in one way each, the ways in turn."""
        turn = 0
        for session, instruments in INSTRUMENTS.items():
            for name in instruments if LONG else instruments[-1:]:
                script = self.recorded(session_lines(session), Instrument(name))
                requests = [step for step in script.steps if isinstance(step, Request) and step.expected is not None]
                for number, request in enumerate(requests):
                    turn += 1
                    for way, spoilt in enumerate(SPOILT):
                        if not LONG and way != turn % len(SPOILT):
                            continue
                        with self.subTest(session, instrument=name, request=request.text, spoilt=spoilt.__name__):
                            instrument = Instrument(name, protocol=spoiling(spoilt, number))
                            instrument.play(script)
                            self.assertIn(request.where, [found.step.where for found in instrument.differences])

    def test_defective_protocols(self) -> None:
        for session, name, protocol, reason in (
            ("sardara", "sardara", defective_protocols.NamesTheWrongCommand, "the reply has another name"),
            (
                "sardara",
                "sardara",
                defective_protocols.StatusAFieldShort,
                "3 values are recorded, 2 values are received",
            ),
            ("timed", "discos", defective_protocols.StatusWithRawComma, "3 values are recorded, 4 values are received"),
            ("timed", "discos", defective_protocols.GivesNoReason, "the reason is missing"),
            ("skarab", "skarab", defective_protocols.RepliesTwiceToAShift, "the server sent a line without a request"),
        ):
            with self.subTest(protocol.__name__):
                script = self.recorded(session_lines(session), Instrument(name))
                instrument = Instrument(name, protocol=protocol)
                instrument.play(script)
                self.assertIn(reason, [found.reason for found in instrument.differences])

    def test_defective_backends(self) -> None:
        session = [
            "@connect",
            *("?set-configuration,K2", "?get-configuration", "?set-integration,20", "?get-integration", "?get-tp0"),
            *("?get-rms", "?get-ddcoffset", "?time", "?status", "?start", "?status", "?stop", "?stop -> fail"),
            *("?set-configuration,no-such -> fail", "?set-filename,/Data/A.fits", "?get-filename"),
        ]
        for backend, reason in (
            (BackendSimulator, ""),
            (defective_backends.LowersTheFilename, "path: /Data/A.fits is recorded, /data/a.fits was received"),
            (defective_backends.StatusStuck, "acquiring: 1 is recorded, 0 was received"),
            (defective_backends.AcquiringInWords, "acquiring must be 0 or 1, not 'False'"),
            (
                defective_backends.TimeInTicks,
                "timestamp must be Unix seconds with seven decimals, not '17954640000000000'",
            ),
            (defective_backends.CannotConfigure, "ok is recorded, fail was received"),
            (defective_backends.StopsAgain, "fail is recorded, ok was received"),
            (defective_backends.TakesAnyConfiguration, "fail is recorded, ok was received"),
            (
                defective_backends.ForgetsTheConfiguration,
                "configuration: K2 is recorded, unconfigured was received",
            ),
            (defective_backends.SaysTooMuch, "0 values are recorded, 1 value is received"),
            (defective_backends.ForgetsIntegration, "integration: 20 is recorded, 40 was received"),
            (
                defective_backends.WritesExponents,
                "; ".join(
                    f"value {number} must be a number in fixed point without exponent, not '1.5e+06'"
                    for number in (1, 2)
                ),
            ),
            (defective_backends.LosesAnInput, "2 values are recorded, 1 value is received"),
            (defective_backends.DividesByZero, "ok is recorded, fail was received"),
            (defective_backends.StatusInExcitement, "status: ok is recorded, ok! was received"),
        ):
            with self.subTest(backend.__name__):
                script = self.recorded(session, Instrument(backend=BackendSimulator()))
                instrument = Instrument(backend=backend())
                instrument.play(script)
                reasons = [found.reason for found in instrument.differences]
                self.assertIn(reason, reasons or [""])

    def test_reads_only(self) -> None:
        """What may change something is left out, and what depends on it is compared by its form only."""
        script = self.recorded(session_lines("sardara"), Instrument("sardara"))
        steps, left_out = select(script.steps, COMMANDS, full=False)
        instrument = Instrument("sardara")
        totals = instrument.play(Script(steps))
        self.assertEqual(instrument.differences, [])
        sent = [step.text for step in steps if isinstance(step, Request)]
        self.assertEqual(sent[:3], ["?version", "?status", "?time"])
        self.assertEqual(
            {text.partition(",")[0] for text in sent},
            {
                *("?version", "?status", "?time", "?get-configuration", "?get-integration"),
            },
        )
        self.assertEqual((totals.compared, totals.form_only), (len(sent), len(sent) - 5))
        self.assertEqual((left_out.changing["start"], left_out.changing["set-section"]), (3, 3))


def _fails(reply: bytes) -> bytes | None:
    name, code, *_ = reply.split(b",")
    return name + (b",ok" if code == b"fail" else b",fail,no")


def _is_lost(reply: bytes) -> bytes | None:
    return None


def _is_of_another(reply: bytes) -> bytes | None:
    return b"!other" + reply[reply.index(b",") :]


def _has_more(reply: bytes) -> bytes | None:
    return reply + b",1" if b",ok" in reply else reply.replace(b",fail", b",invalid")


def _is_no_reply(reply: bytes) -> bytes | None:
    return b"?" + reply[1:]


SPOILT: tuple[Callable[[bytes], bytes | None], ...] = (_fails, _is_lost, _is_of_another, _has_more, _is_no_reply)


def spoiling(spoilt: Callable[[bytes], bytes | None], number: int) -> Callable[[], DBProtocol]:
    """A protocol that spoils the reply with this number, over all connections."""
    sent = iter(range(10**6))

    class Spoiling(DBProtocol):
        greeted = False

        def sendLine(self, line: bytes) -> None:
            if not self.greeted:
                self.greeted = True
            elif next(sent) == number:
                changed = spoilt(line)
                if changed is None:
                    return
                line = changed
            super().sendLine(line)

    return Spoiling


# The sessions that are recorded through a tap by default, with the instrument: one of each kind of instrument, one with
# timed starts, and one in which a client leaves while its replies are missing.
FEW = {"mistral": ("mistral",), "sardara": ("sardara",), "skarab": ("skarab",), "timed": ("discos",)}


class TappedSessionTests(unittest.TestCase):
    """Each session recorded by a tap, and replayed on the instrument itself, and on one with a defect."""

    def recordings(self) -> Iterator[tuple[str, str, Script]]:
        """The sessions, the instruments on which they were recorded, and the steps of the recordings."""
        path = Path(self.enterContext(tempfile.TemporaryDirectory())) / "exchanges.jsonl"
        for session, instruments in (INSTRUMENTS if LONG else FEW).items():
            for name in instruments:
                path.unlink(missing_ok=True)
                instrument = Instrument(name)
                instrument.record(session_steps(session_lines(session)), path, through_tap=True)
                self.assertEqual(instrument.differences, [], session)
                header = json.loads(path.read_text(encoding="ascii").partition("\n")[0])
                self.assertEqual(header["server"], "a tap of server:10000")
                yield session, name, read_script(str(path), Comparison())

    def test_no_difference_on_the_same_instrument(self) -> None:
        for session, name, script in self.recordings():
            wanted = sum(line.startswith("?") for line in session_lines(session))
            for through_tap in (False, True):
                with self.subTest(session, instrument=name, through_tap=through_tap):
                    instrument = Instrument(name)
                    totals = instrument.play(script, through_tap=through_tap)
                    self.assertEqual([(found.step.where, found.reason) for found in instrument.differences], [])
                    self.assertGreaterEqual(totals.compared, wanted)
                    self.assertEqual((totals.unanswered, totals.form_only), (0, 0))

    def test_a_planted_difference_is_found(self) -> None:
        """By default in each fifth reply, in one way each; with --long in each reply and in each way."""
        for session, name, script in self.recordings():
            requests = [step for step in script.steps if isinstance(step, Request) and step.expected is not None]
            for number, request in enumerate(requests):
                for way, spoilt in enumerate(SPOILT):
                    if not LONG and number % (5 * len(SPOILT)) != 5 * way:
                        continue
                    with self.subTest(session, instrument=name, request=request.text, spoilt=spoilt.__name__):
                        instrument = Instrument(name, protocol=spoiling(spoilt, number))
                        instrument.play(script)
                        self.assertIn(request.where, [found.step.where for found in instrument.differences])


if __name__ == "__main__":
    unittest.main()
