"""What a simulated instrument records between start and stop: which channels, which dumps, under which name."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.task import Clock

from discosbackend.backend import commands_of
from discosbackend.errors import BackendError
from discosbackend.simulator import INSTRUMENTS, SimulatedBackend, instrument_of
from discosbackend.simulator.recording.dump_files import RecordingWriter, name_of, recordings_in
from discosbackend.simulator.recording.dump_reader import RecordingReader
from discosbackend.simulator.signal.sky import Sky, Source
from discosbackend.ticks import TICKS_PER_SECOND, Ticks

from .settings import PATIENCE, wait_until

NOON = 17_642_304_000_000_000
SECOND = TICKS_PER_SECOND


class InstrumentMixin(unittest.TestCase):
    """An instrument on a fake clock that records into a folder of its own."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # by enterContext
        self.data = Path(self.enterContext(folder)) / "data"
        self.fake = Clock()
        self.backend = self.make()

    def make(self, instrument: str = "discos", **settings: Any) -> SimulatedBackend:
        """Another one, on the same clock and folder."""
        settings = {"data": self.data, **settings}
        backend = SimulatedBackend(
            instrument,
            clock=self.fake,
            now_ticks=lambda: NOON + round(self.fake.seconds() * SECOND),
            **settings,
        )
        self.addCleanup(self.close, backend)
        return backend

    def close(self, backend: SimulatedBackend) -> None:
        """Leave no thread behind."""
        if backend.acquisition.acquiring:
            backend.stop()
        backend.server_stopping()

    def pass_time(self, seconds: float) -> None:
        """In steps, as a reactor would."""
        for _ in range(round(seconds * 100)):
            self.fake.advance(0.01)

    def acquire(self, seconds: float = 0.2) -> Path:
        """Start, wait, stop; the folder of the recording, all dumps of which have been made."""
        before = set(recordings_in(self.data))
        self.backend.start()
        self.pass_time(seconds)
        self.backend.stop()
        self.backend.server_stopping()
        (folder,) = set(recordings_in(self.data)) - before
        return folder


class ChannelTests(InstrumentMixin):
    """Which sections become which channels."""

    def channels(self, configuration: str, *calls: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Feed, polarisations, start, bandwidth and bins of each channel."""
        backend = self.backend
        if configuration:
            backend.set_configuration(configuration)
        for name, *arguments in calls:
            getattr(backend, name)(*arguments)
        folder = self.acquire(0.05)
        return [
            (c.feed, "".join(c.polarisations), c.start_frequency, c.bandwidth, c.bins)
            for c in RecordingReader(folder).setup.channels
        ]

    def test_the_sections_of_a_configuration(self) -> None:
        self.assertEqual(
            self.channels("SK03"),
            [(feed, each, 0.0, 1500.0, 1024) for feed in (0, 3) for each in "LR"],
        )

    def test_full_stokes(self) -> None:
        self.assertEqual(self.channels("SK03S"), [(0, "LR", 0.0, 1500.0, 1024), (3, "LR", 0.0, 1500.0, 1024)])

    def test_total_power(self) -> None:
        self.backend = self.make("totalpower")
        name = next(name for name, each in self.backend.instrument.configurations.items() if each.inputs == 2)
        self.assertEqual([bins for *_, bins in self.channels(name)], [1, 1])

    def test_before_a_configuration(self) -> None:
        self.assertEqual(self.channels(""), [(0, each, 0.0, 1500.0, 1024) for each in "LR"])

    def recorded_instrument(self, configuration: str) -> str:
        """The instrument of an acquisition in this configuration, from which the files take `Backend Name`."""
        self.backend.power_cycle()
        if configuration:
            self.backend.set_configuration(configuration)
        return RecordingReader(self.acquire(0.05)).setup.instrument

    def test_the_instrument_is_that_of_the_configuration(self) -> None:
        for instrument, configuration, wanted in (
            ("discos", "", "discos"),
            ("discos", "SK00", "sardara"),
            ("discos", "SC00S", "sardara"),
            ("discos", "SKARAB_12", "skarab"),
            ("sardara", "", "sardara"),
            ("sardara", "SK00", "sardara"),
            ("skarab", "SKARAB_1", "skarab"),
            ("skarab2", "SKARAB_1", "skarab2"),
        ):
            with self.subTest(instrument, configuration=configuration):
                self.backend = self.make(instrument)
                self.assertEqual(wanted, self.recorded_instrument(configuration))

    def test_the_instrument_of_a_file_that_includes_others(self) -> None:
        own = "[receivers.Q]\ncode = 'Q'\nlocal_oscillator = 1.0\ntsys = [1, 2]\nmark = [1, 2]\nbeam = 1.0\n"
        own += "offsets = [[0, 0]]\n[configurations]\n"
        own += "SK00 = {receiver = 'Q', feeds = [0], bandwidth = 500, bins = 16, attenuation = 0, integration = 40}\n"
        mine = self.data.parent / "mine.toml"
        # It gets SKARAB's configurations by way of discos.
        mine.write_text("name = 'mine'\ndescription = 'mine'\nincludes = ['discos']\n" + own, encoding="utf-8")
        self.backend = self.make(str(mine))
        for configuration, wanted in (("", "mine"), ("SK00", "mine"), ("SK77", "sardara"), ("SKARAB_11", "skarab")):
            with self.subTest(configuration):
                self.assertEqual(wanted, self.recorded_instrument(configuration))

    def test_the_instrument_of_a_renamed_one(self) -> None:
        known = instrument_of("sardara")
        self.backend = SimulatedBackend(replace(known, name="mine"), data=self.data, clock=self.fake)
        self.addCleanup(self.close, self.backend)
        self.assertEqual("mine", self.recorded_instrument("SK00"))

    def test_set_section_decides(self) -> None:
        # The feed of set-section does not: the deployed clients send 0 for every section.
        found = self.channels(
            "SK03",
            ("set_section", 1, 0.0, 420.0, 0, "1", 840.0, 16384),
            ("set_section", 2, 10.0, 500.0, 0, "2", 1000.0, 1024),
        )
        wanted = [
            (0, "L", 0.0, 1500.0, 1024),
            (0, "R", 0.0, 420.0, 16384),
            (3, "LR", 10.0, 500.0, 1024),
            (3, "R", 0.0, 1500.0, 1024),
        ]
        self.assertEqual(found, wanted)

    def test_a_section_of_full_stokes_in_another_mode(self) -> None:
        for mode, wanted in (
            ("LCP", ["0L", "3LR"]),
            ("RCP", ["0R", "3LR"]),
            ("CP", ["0L", "0R", "3LR"]),
            ("FullStokes", ["0LR", "3LR"]),
        ):
            with self.subTest(mode):
                self.backend = self.make()
                found = self.channels("SK03S", ("set_section", 0, "*", "*", "*", mode, "*", "*"))
                self.assertEqual([f"{feed}{each}" for feed, each, *_ in found], wanted)

    def test_set_enable_decides(self) -> None:
        for instrument, configuration, feeds, wanted in (
            ("sardara", "SK77", (0, 3), ["0L", "0R", "3L", "3R"]),
            ("sardara", "SK77", (2, 2), ["2L", "2R", "2L", "2R"]),
            ("sardara", "SK00", (0, 6), ["0L", "0R", "6L", "6R"]),
            ("sardara", "SK77S", (5, 0), ["5LR", "0LR"]),
            ("sardara", "SK77S", (5, 5), ["5LR", "5LR"]),
            ("sardara", "SK06S", (5, 6), ["5LR", "6LR"]),
            ("skarab", "SKARAB_1", (2, 2), ["2L", "2R"]),
            ("skarab", "SKARAB_1S", (7, 7), [f"{feed}LR" for feed in range(7)]),
        ):
            with self.subTest(instrument, configuration=configuration, feeds=feeds):
                self.backend = self.make(instrument)
                found = self.channels(configuration, ("set_enable", *feeds))
                self.assertEqual([f"{feed}{each}" for feed, each, *_ in found], wanted)


class RecordingTests(InstrumentMixin):
    """Instants, dumps, and what changes meanwhile."""

    def setUp(self) -> None:
        super().setUp()
        self.backend.set_configuration("SK00")

    def numbers(self, folder: Path) -> list[int]:
        with RecordingReader(folder) as recorded:
            return [dump.number for dump in recorded.dumps]

    def test_now(self) -> None:
        self.pass_time(0.5)
        folder = self.acquire(0.5)
        self.assertEqual(RecordingReader(folder).begins, NOON + SECOND // 2)
        self.assertEqual(self.numbers(folder), list(range(12)))
        self.assertEqual(self.backend.state()["files"]["newest"]["dumps"], 12)

    def test_timed(self) -> None:
        begins, ends = NOON + 12_345_678, NOON + 12_345_678 + 3 * SECOND + 1
        self.backend.start(Ticks(begins))
        self.backend.stop(Ticks(ends))
        self.pass_time(6)
        self.backend.server_stopping()
        (folder,) = recordings_in(self.data)
        with RecordingReader(folder) as recorded:
            self.assertEqual(recorded.begins, begins)
            self.assertEqual(recorded.middle(recorded.dumps[0].number), begins + 200_000)
            self.assertEqual(len(recorded.dumps), 75)

    def test_a_stop_at_the_very_end_of_a_dump(self) -> None:
        # The two clocks of a host are read one after the other: the steady one may seem to have lost a little.
        for lost in (0, 30, -30, 5000):
            with self.subTest(lost):
                self.backend.start(Ticks(self.backend.time() + SECOND))
                self.backend.stop(Ticks(self.backend.time() + 2 * SECOND))
                self.pass_time(1.5)
                found = self.backend.clock.steady
                with mock.patch.object(self.backend.clock, "steady", lambda f=found, late=lost: f() - late):
                    self.pass_time(1)
                self.backend.server_stopping()
                self.assertEqual(self.numbers(recordings_in(self.data)[-1]), list(range(25)))

    def test_who_is_suspended_between_two_clocks_reads_them_again(self) -> None:
        steady = self.backend.clock.steady
        moments: list[float] = []

        def read() -> int:
            found = steady()
            if moments:
                self.fake.rightNow += moments.pop()
            return found

        with mock.patch.object(self.backend.clock, "steady", read):
            for suspended in ([0.1], [0.1, 0.3]):
                with self.subTest(suspended):
                    self.backend.start()
                    self.pass_time(1)
                    moments = list(suspended)
                    self.backend.stop()
                    self.assertEqual(moments, [])
                    self.backend.server_stopping()
                    self.assertEqual(self.numbers(recordings_in(self.data)[-1]), list(range(25)))

    def test_a_jump_of_the_clock_neither_adds_nor_takes_dumps(self) -> None:
        for jump in (3600, -3600):
            with self.subTest(jump):
                self.backend.start()
                begins = self.backend.time()
                self.pass_time(0.5)
                self.backend.clock.jump(jump)
                self.pass_time(0.5)
                self.backend.stop()
                self.backend.server_stopping()
                folder = recordings_in(self.data)[-1] if jump > 0 else recordings_in(self.data)[0]
                found = [each for each in recordings_in(self.data) if RecordingReader(each).begins == begins]
                self.assertEqual(len(found), 1, folder)
                self.assertEqual(self.numbers(found[0]), list(range(25)))

    def test_a_jump_over_a_pending_transition_invents_no_dumps(self) -> None:
        # The start comes due a day late: what lies between was not acquired.
        self.backend.start(Ticks(self.backend.time() + 3600 * SECOND))
        self.backend.clock.jump(86400)
        self.pass_time(1)
        self.assertTrue(self.backend.acquisition.acquiring)
        begun = self.backend.time()
        self.pass_time(1)
        # And its stop as well.
        self.backend.stop(Ticks(self.backend.time() + 3600 * SECOND))
        self.backend.clock.jump(86400)
        self.pass_time(1)
        self.assertFalse(self.backend.acquisition.acquiring)
        self.backend.server_stopping()
        (folder,) = recordings_in(self.data)
        self.assertTrue(40 <= len(self.numbers(folder)) <= 75, len(self.numbers(folder)))
        self.assertTrue(-SECOND <= RecordingReader(folder).begins - begun <= 0)

    def test_the_instruments_clock_is_what_counts(self) -> None:
        self.backend.clock.jump(-100)
        folder = self.acquire()
        self.assertEqual(RecordingReader(folder).begins, NOON - 100 * SECOND)
        self.assertEqual(len(self.numbers(folder)), 5)

    def test_the_same_seed_and_commands_give_the_same_bytes(self) -> None:
        def dumps(**settings: Any) -> bytes:
            self.backend = self.make("sardara", **settings)
            self.backend.set_configuration("SK03S")
            self.backend.sky = Sky().with_source("a", Source(level=5, transit=0.1, crossing=0.1))
            self.acquire(0.1)
            self.pass_time(2)
            return (self.acquire(0.5) / "dumps").read_bytes()

        first = dumps(seed=1)
        self.assertEqual(len(first), 12 * (24 + 4 * 4 * 2 * 1024))
        self.assertEqual(dumps(seed=1), first)
        self.assertNotEqual(dumps(seed=2), first)

    def test_acquisitions_differ(self) -> None:
        first, second = self.acquire(), self.acquire()
        self.assertNotEqual((first / "dumps").read_bytes()[24:400], (second / "dumps").read_bytes()[24:400])

    def test_what_is_set_meanwhile_holds_from_the_next_one_on(self) -> None:
        self.backend.start()
        self.pass_time(0.2)
        self.backend.set_integration(100)
        self.backend.set_section("*", "*", "*", "*", "*", "*", 16384)
        self.pass_time(0.2)
        self.backend.stop()
        self.backend.server_stopping()
        (first,) = recordings_in(self.data)
        self.assertEqual(self.numbers(first), list(range(10)))
        second = RecordingReader(self.acquire(0.5)).setup
        self.assertEqual((second.integration, second.channels[0].bins), (100, 16384))

    def test_the_diode_and_the_interleave_are_seen_at_once(self) -> None:
        self.backend.cal_on(1)
        self.backend.start()
        self.pass_time(0.16)
        self.backend.cal_on(0)
        self.backend.sky = replace(self.backend.sky, diode=True)
        self.pass_time(0.08)
        self.backend.sky = replace(self.backend.sky, diode=False)
        self.pass_time(0.08)
        self.backend.stop()
        self.backend.server_stopping()
        with RecordingReader(recordings_in(self.data)[0]) as recorded:
            self.assertEqual([dump.flags for dump in recorded.dumps], [1, 0, 1, 1, 1, 0, 0, 0])

    def test_mistral_records_nothing(self) -> None:
        self.backend = self.make("mistral")
        self.backend.run_task("setup")
        self.fake.advance(60)
        self.backend.start()
        self.backend.stop()
        self.assertIsNone(self.backend.state()["files"])
        self.assertFalse(self.data.exists())
        self.backend.convert_data()

    def test_without_a_folder_nothing_is_recorded(self) -> None:
        self.backend = self.make(data=None)
        self.backend.start()
        self.backend.stop()
        self.backend.set_filename("/a/b.fits")
        self.backend.convert_data()
        self.assertFalse(self.data.exists())


class TroubleTests(InstrumentMixin):
    """Disks and folders that do not take the data: start says so, status says so, stop succeeds."""

    def test_an_unwritable_folder_refuses_a_start(self) -> None:
        self.data.write_text("a file")
        with self.assertRaises(BackendError) as caught:
            self.backend.start()
        reason = f"data folder unwritable: file exists: {self.data}"
        self.assertEqual(str(caught.exception), reason)
        self.assertEqual(self.backend.status()[1:], (reason, False))
        self.data.unlink()
        self.backend.start()
        self.assertEqual(self.backend.status()[1:], ("ok", True))

    def test_a_timed_start_that_could_not_be_is_told_by_status(self) -> None:
        self.backend.start(Ticks(NOON + SECOND))
        with (
            mock.patch.object(RecordingWriter, "begin", side_effect=OSError(errno.ENOSPC, "No space left on device")),
            self.assertLogs("discosbackend.acquisition", "WARNING"),
        ):
            self.pass_time(2)
        self.assertEqual(
            self.backend.status()[1:], (f"data folder unwritable: no space left on device: {self.data}", False)
        )

    def test_a_full_disk_shows_in_status_until_the_next_start(self) -> None:
        with (
            mock.patch.object(RecordingWriter, "write", side_effect=OSError(errno.ENOSPC, "No space left on device")),
            self.assertLogs("discosbackend.simulator.recording.dump_thread", "ERROR"),
        ):
            self.acquire(0.2)
        self.assertEqual(self.backend.status()[1], "recording: no space left on device: 5 dumps lost")
        self.backend.start()
        self.assertEqual(self.backend.status()[1], "ok")

    def test_a_data_folder_that_is_removed_shows_in_status_until_the_next_start(self) -> None:
        self.backend.start()
        self.pass_time(0.1)
        (folder,) = recordings_in(self.data)
        with self.assertLogs("discosbackend.simulator.recording.dump_thread", "ERROR"):
            shutil.rmtree(self.data)
            self.pass_time(0.1)
            wait_until(lambda: self.backend.status()[1] != "ok")
            self.assertEqual(self.backend.status()[1:], (f"recording: removed or moved: {folder}", True))
            self.backend.stop()
            self.backend.set_filename("/archive/1.fits")
            self.assertTrue(self.backend.wait_for_dumps(PATIENCE))
        with self.assertLogs("discosbackend.simulator.recording.queue", "WARNING") as logs:
            self.backend.convert_data()
        self.assertIn(f"{folder}: this server recorded it and no longer finds it: it was removed", logs.output[0])
        self.assertEqual(self.backend.status()[1:], (f"recording: removed or moved: {folder}", False))
        self.assertEqual(len(logs.output), 1)
        self.backend.start()
        self.assertEqual(self.backend.status()[1], "ok")

    def test_the_data_folder_is_plain_in_status_and_reasons(self) -> None:
        """A reply cannot carry every character that the name of a folder may have."""
        self.data.mkdir()
        self.data = self.data / "M\xfc,\udcff!\u2126"
        self.data.write_text("a file")
        self.backend = self.make()
        with self.assertRaises(BackendError) as caught:
            self.backend.start()
        reason = f"data folder unwritable: file exists: {self.data.parent}/M?????"
        self.assertEqual((str(caught.exception), self.backend.status()[1]), (reason, reason))

    def test_a_fault_comes_first(self) -> None:
        self.backend.fault = "receiver warm"
        self.data.write_text("a file")
        self.assertRaises(BackendError, self.backend.start)
        self.assertEqual(self.backend.status()[1], "receiver warm")

    def test_what_an_earlier_run_has_left_is_told(self) -> None:
        self.acquire()
        with self.assertLogs("discosbackend.simulator.recording.queue", "WARNING") as logs:
            self.make()
        self.assertIn(f"1 recordings of an earlier run are in {self.data}: discos-backend-recover", logs.output[0])

    def test_where_an_earlier_run_cannot_be_looked_for(self) -> None:
        self.data.write_text("a file")
        with self.assertLogs("discosbackend.simulator.recording.queue", "WARNING") as logs:
            self.make()
        self.assertIn(f"cannot be looked for: {self.data} cannot be listed: Not a directory", logs.output[0])


class NameTests(InstrumentMixin):
    """Which recording set-filename names. DISCOS sends it after stop."""

    def test_the_newest(self) -> None:
        first = self.acquire()
        self.backend.set_filename("/a/tmp/1.fits")
        second = self.acquire()
        self.backend.set_filename("/a/tmp/2.fits")
        self.assertEqual([name_of(first), name_of(second)], ["/a/tmp/1.fits", "/a/tmp/2.fits"])
        self.backend.set_filename("/a/tmp/3.fits")
        self.assertEqual([name_of(first), name_of(second)], ["/a/tmp/1.fits", "/a/tmp/3.fits"])
        self.assertEqual(self.backend.get_filename(), "/a/tmp/3.fits")

    def test_one_that_is_still_running(self) -> None:
        self.backend.start()
        self.backend.set_filename("/a/tmp/1.fits")
        self.assertEqual(name_of(recordings_in(self.data)[0]), "/a/tmp/1.fits")

    def test_the_next_where_there_is_none(self) -> None:
        self.backend.set_filename("/a/tmp/0.fits")
        self.backend.set_filename("/a/tmp/1.fits")
        self.assertEqual(name_of(self.acquire()), "/a/tmp/1.fits")
        self.assertIsNone(name_of(self.acquire()))


class StateTests(InstrumentMixin):
    """The whole state, and the power switch."""

    def test_it_is_json_at_any_time(self) -> None:
        for instrument in INSTRUMENTS:
            backend = self.make(instrument)
            told = json.loads(json.dumps(backend.state()))
            self.assertEqual((told["instrument"], told["acquiring"]), (instrument, False))
        self.backend.set_configuration("SK77S")
        self.backend.sky = Sky().with_tsys(50, (3,)).with_mark(9, (2,))
        inputs = self.backend.state()["inputs"]
        found = [(each["input"], each["feed"], each["polarisation"]) for each in inputs[2:4]]
        self.assertEqual(found, [(2, 1, "L"), (3, 1, "R")])
        self.assertEqual((inputs[3]["tsys"], inputs[2]["mark"]), (50, 9))
        self.assertTrue(all(87 <= each["tsys"] <= 116 for each in inputs if each["input"] != 3))
        self.assertTrue(all(28 <= each["mark"] <= 77 for each in inputs if each["input"] != 2))
        self.backend.start(Ticks(NOON + SECOND))
        self.backend.clock.set_drift(3)
        told = json.loads(json.dumps(self.backend.state()))
        self.assertEqual(told["pending"], {"start": (NOON + SECOND) / SECOND, "stop": None})
        self.assertEqual((told["clock"]["drift"], len(told["sections"])), (3.0, 7))
        self.pass_time(2)
        told = json.loads(json.dumps(self.backend.state()))
        self.assertTrue(told["acquiring"] and told["files"]["newest"]["running"])

    def test_what_was_for_the_next_acquisition_is_forgotten_without_power(self) -> None:
        self.backend.set_filename("/a.fits")
        self.backend.sky = Sky(diode=True)
        self.backend.cal_on(3)
        self.backend.power_cycle()
        self.assertEqual(self.backend.sky, Sky(diode=True))
        self.assertIsNone(name_of(self.acquire()))

    def test_after_a_reset_it_measures_as_at_first(self) -> None:
        def session() -> tuple[list[float], int]:
            self.backend.set_configuration("SK00")
            first = self.backend.get_tpi()
            dumps = self.acquire() / "dumps"
            self.pass_time(1)
            return first, hash(dumps.read_bytes())

        before = session()
        self.assertNotEqual(session(), before)
        self.backend.start_over()
        self.assertEqual(session(), before)

    def test_power_cycle(self) -> None:
        seen = Sky(diode=True)
        self.backend = self.make("skarab", sky=seen)
        self.backend.set_configuration("SKARAB_1")
        self.backend.set_filename("/a.fits")
        self.backend.sky = Sky()
        self.backend.fault = "broken"
        self.backend.clock.jump(5)
        self.backend.clock.set_drift(5)
        self.backend.start()
        self.backend.start(Ticks(NOON + 100 * SECOND))
        self.pass_time(0.2)
        self.backend.power_cycle()
        self.assertEqual(self.backend.status()[1:], ("broken", False))
        self.assertEqual(self.backend.get_configuration(), "unconfigured")
        # The sky, the clock and the fault are not the instrument's.
        self.assertEqual((self.backend.sky, self.backend.clock.drift), (Sky(), 5.0))
        self.backend.start_over()
        self.assertEqual(self.backend.status(), (NOON + SECOND // 5, "ok", False))
        self.assertIs(self.backend.sky, seen)
        self.assertIsNone(self.backend.acquisition.pending_start)
        self.assertRaises(BackendError, self.backend.get_filename)
        self.backend.server_stopping()
        # What was recorded is still there.
        with RecordingReader(recordings_in(self.data)[0]) as recorded:
            self.assertEqual(len(recorded.dumps), 5)

    def test_a_reset_of_mistral_is_no_power_cycle(self) -> None:
        self.backend = self.make("mistral")
        self.backend.fault = "broken"
        self.backend.clock.jump(5)
        _, reset = commands_of(self.backend)["reset"]
        reset()
        self.assertEqual(self.backend.status()[:2], (NOON + 5 * SECOND, "broken"))


if __name__ == "__main__":
    unittest.main()
