"""Instruments with tasks: MISTRAL's life on a fake clock, and that of one which a user's file describes."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.task import Clock

from discosbackend.backend import commands_of, declared_commands
from discosbackend.errors import NotSupportedError
from discosbackend.simulator import INSTRUMENTS, SimulatedBackend, profile_text
from discosbackend.ticks import TICKS_PER_SECOND

from .test_simulator import NOON, answer, simulated

NEEDS_SETUP = "system not initialized (setup required)"


class MistralTests(unittest.TestCase):
    """From setup over sweeps to acquisition and reset."""

    def setUp(self):
        self.backend = simulated("mistral")
        self.clock = self.backend.fake

    def tell(self, line: str) -> str:
        """What stands behind the name of the reply's command."""
        return answer(self.backend, line).partition(",")[2]

    def assert_status(self, text: str, acquiring: bool = False) -> None:
        """The status text, and that status has the five fields that the client wants."""
        _, *fields = answer(self.backend, "?status").split(",")
        self.assertEqual(["ok", text, str(int(acquiring))], [fields[0], *fields[2:]])

    def test_life(self):
        begin = ("?setup", "?vna-sweep", "?target-sweep", "?set-configuration,setup")
        for refused in ("?start", "?vna-sweep", "?target-sweep", "?set-configuration,vnaSweep"):
            self.assertEqual(f"fail,{NEEDS_SETUP}", self.tell(refused))
        self.assert_status(NEEDS_SETUP)
        for line, name, seconds in (
            ("?setup", "setup", 60),
            ("?vna-sweep", "vna-sweep", 300),
            ("?target-sweep", "target-sweep", 300),
            ("?set-configuration,setup", "setup", 60),
            ("?set-configuration,vnaSweep", "vna-sweep", 300),
            ("?set-configuration,targetSweep", "target-sweep", 300),
        ):
            with self.subTest(line):
                self.assertEqual("ok", self.tell(line))
                for refused in (*begin, "?start"):
                    self.assertEqual(f"fail,{name} in progress", self.tell(refused))
                self.clock.advance(seconds - 0.01)
                self.assert_status(f"{name} in progress")
                self.clock.advance(0.01)
                self.assert_status("ready to run a task")
        self.assertEqual("ok", self.tell("?start"))
        self.assert_status("acquisition in progress", acquiring=True)
        for refused in begin:
            self.assertEqual("fail,acquisition in progress", self.tell(refused))
        self.assertEqual("fail,acquisition in progress", self.tell("?start"))
        self.assertEqual("ok", self.tell("?stop"))
        self.assertEqual("fail,not acquiring", self.tell("?stop"))
        self.assert_status("ready to run a task")

    def test_failure(self):
        """Nothing begins, and the reason is what status reports."""
        begin = (
            "?setup", "?vna-sweep", "?target-sweep", "?start", f"?start,{NOON + 900 * TICKS_PER_SECOND}",
            "?set-configuration,setup", "?set-configuration,vnaSweep", "?set-configuration,targetSweep",
        )  # fmt: skip

        def assert_nothing_begins(*, acquiring: bool = False) -> None:
            # As status sends it: the clients split at a comma.
            self.backend.fault = "cryostat warm, 4.2 K"
            self.assert_status("cryostat warm; 4.2 K", acquiring)
            for line in begin:
                self.assertEqual("fail,cryostat warm; 4.2 K", self.tell(line))
            self.backend.fault = ""

        assert_nothing_begins()
        self.assert_status(NEEDS_SETUP)
        self.assertEqual("ok", self.tell("?setup"))
        assert_nothing_begins()
        self.assert_status("setup in progress")
        self.clock.advance(60)
        assert_nothing_begins()
        self.assert_status("ready to run a task")
        self.assertEqual("ok", self.tell("?start"))
        assert_nothing_begins(acquiring=True)
        self.assert_status("acquisition in progress", acquiring=True)
        # What ends something is not refused.
        self.backend.fault = "cryostat warm"
        self.assertEqual("ok", self.tell("?stop"))
        self.assertEqual("ok", self.tell("?set-filename,/a/b.fits"))
        self.assertEqual("ok,/a/b.fits", self.tell("?get-filename"))
        self.assertEqual("ok", self.tell("?reset"))
        self.assert_status("cryostat warm")

    def test_a_timed_start_that_meets_a_failure_acquires_nothing(self):
        self.tell("?setup")
        self.clock.advance(60)
        self.assertEqual("ok", self.tell(f"?start,{NOON + 70 * TICKS_PER_SECOND}"))
        self.backend.fault = "cryostat warm"
        with self.assertLogs("discosbackend.acquisition", "WARNING"):
            self.clock.pump([0.5] * 22)
        self.assert_status("cryostat warm")
        self.backend.fault = ""
        self.assert_status("ready to run a task")

    def test_a_failure_that_the_reply_cannot_carry(self):
        for fault, said in (("a\\b,", "a/b;"), ("x" * 400, "x" * 400)):
            self.backend.fault = fault
            self.assert_status(said)
            self.assertEqual(f"fail,{said}", self.tell("?setup"))

    def test_a_spectrometer_in_failure_acquires(self):
        for name in INSTRUMENTS.keys() - {"mistral"}:
            self.backend = simulated(name)
            self.backend.fault = "receiver warm"
            self.assertEqual("ok", self.tell("?start"))
            self.assertEqual("fail,already acquiring", self.tell("?start"))

    def test_configuration(self):
        self.assertEqual("ok,unconfigured", self.tell("?get-configuration"))
        self.assertEqual("fail,invalid configuration", self.tell("?set-configuration,SK77"))
        self.assertEqual("fail,invalid configuration", self.tell("?set-configuration,vna-sweep"))
        self.tell("?set-configuration,targetSweep")
        self.assertEqual("ok,unconfigured", self.tell("?get-configuration"))
        self.tell("?setup")
        self.assertEqual("ok,setup", self.tell("?get-configuration"))
        self.clock.advance(60)
        self.tell("?set-configuration,targetSweep")
        self.assertEqual("ok,targetSweep", self.tell("?get-configuration"))

    def test_reset_at_any_time(self):
        def ready(*lines: str) -> None:
            for line in ("?setup", "?set-filename,/a/b.fits", *lines):
                self.assertEqual("ok", self.tell(line))
                if line == "?setup":
                    self.clock.advance(60)

        for name, before in (
            ("at first", lambda: None),
            ("in a setup", lambda: self.tell("?setup")),
            ("when ready", ready),
            ("in a sweep", lambda: ready("?vna-sweep")),
            ("acquiring", lambda: ready("?start")),
            ("armed", lambda: ready(f"?start,{self.backend.time() + 90 * TICKS_PER_SECOND}")),
            ("armed to stop", lambda: ready(f"?stop,{self.backend.time() + 90 * TICKS_PER_SECOND}")),
        ):
            with self.subTest(name):
                before()
                self.assertEqual("ok", self.tell("?reset"))
                self.assert_status(NEEDS_SETUP)
                self.assertIsNone(self.backend.acquisition.pending_stop)
                self.assertEqual("ok,unconfigured", self.tell("?get-configuration"))
                self.assertTrue(self.tell("?get-filename").startswith("fail,"))
                # What was cancelled does not come back.
                self.clock.advance(400)
                self.assert_status(NEEDS_SETUP)

    def test_timed_start(self):
        at = f"?start,{NOON + 100 * TICKS_PER_SECOND}"
        self.assertEqual(f"fail,{NEEDS_SETUP}", self.tell(at))
        self.tell("?setup")
        self.assertEqual("fail,setup in progress", self.tell(at))
        self.clock.advance(60)
        self.assertEqual("ok", self.tell(at))
        self.clock.pump([0.5] * 79)
        self.assert_status("ready to run a task")
        self.clock.pump([0.5] * 2)
        self.assert_status("acquisition in progress", acquiring=True)
        # While acquiring, the next start can be armed already.
        self.assertEqual("ok", self.tell(f"?start,{NOON + 200 * TICKS_PER_SECOND}"))

    def test_a_timed_start_that_meets_a_task_acquires_nothing(self):
        self.tell("?setup")
        self.clock.advance(60)
        self.assertEqual("ok", self.tell(f"?start,{NOON + 70 * TICKS_PER_SECOND}"))
        self.assertEqual("ok", self.tell("?vna-sweep"))
        with self.assertLogs("discosbackend.acquisition", "WARNING"):
            self.clock.pump([0.5] * 22)
        self.assert_status("vna-sweep in progress")

    def test_time_scale(self):
        self.backend = simulated("mistral", time_scale=0.01)
        self.tell("?setup")
        self.backend.fake.advance(0.59)
        self.assert_status("setup in progress")
        self.backend.fake.advance(0.011)
        self.assert_status("ready to run a task")

    def test_without_a_clock_the_reactor_is_used(self):
        reactor = Clock()
        with mock.patch("twisted.internet.reactor", reactor, create=True):
            self.backend = SimulatedBackend("mistral")
            self.tell("?setup")
        reactor.advance(60)
        self.assert_status("ready to run a task")

    def test_its_commands_are_its_own(self):
        for name in INSTRUMENTS.keys() - {"mistral"}:
            for command in ("setup", "vna-sweep", "target-sweep", "reset"):
                with self.subTest(name, command=command):
                    self.assertEqual(
                        f"!{command},fail,invalid command '{command}'", answer(simulated(name), f"?{command}")
                    )


# What a user might add to a copy of mistral.toml.
FURTHER = """
[[tasks]]
command = "warm-up"
duration = 10.5
"""

# A spectrometer that must be tuned, with one configuration and no task that initialises.
TUNED = """
name = "tuned"
description = "a spectrometer that takes its time"
lacks = ["start", "set-shift"]

[receivers.C]
code = "CCB"
local_oscillator = 5900.0
tsys = [30.0, 38.0]
mark = [3.1, 3.9]
beam = 2.8
offsets = [[0.0, 0.0]]

[configurations]
C1 = {receiver = "C", feeds = [0], bandwidth = 500.0, bins = 1024, attenuation = 9.0, integration = 40}

[[tasks]]
command = "tune"
configuration = "tuning"
duration = 5

[phrases]
running = "busy: {command} {command}"
ready = "at your service"
"""


class FileTests(unittest.TestCase):
    """Instruments that a user's file describes."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()  # by addCleanup
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "mine.toml"
        self.clock = Clock()

    def made(self, text: str, kind: type[SimulatedBackend] = SimulatedBackend) -> Any:
        """The instrument of a file with this text, on the fake clock `self.clock`."""
        self.path.write_text(text, encoding="utf-8")
        return kind(str(self.path), clock=self.clock)

    def test_a_copy_with_another_name_and_a_further_task(self):
        renamed = profile_text("mistral").replace('name = "mistral"', 'name = "scirocco"')
        backend = self.made(renamed + FURTHER)
        self.assertEqual("simulated scirocco", str(backend))
        self.assertEqual("!warm-up,fail,system not initialized (setup required)", answer(backend, "?warm-up"))
        self.assertEqual("!setup,ok", answer(backend, "?setup"))
        self.clock.advance(60)
        self.assertEqual("!warm-up,ok", answer(backend, "?warm-up"))
        self.assertEqual("!start,fail,warm-up in progress", answer(backend, "?start"))
        # It has no name for set-configuration.
        self.assertEqual("setup", backend.get_configuration())
        self.clock.advance(10.4)
        self.assertEqual("warm-up in progress", backend.status_text)
        self.clock.advance(0.1)
        self.assertEqual("ready to run a task", backend.status_text)
        self.assertEqual("!reset,ok", answer(backend, "?reset"))
        self.assertEqual("system not initialized (setup required)", backend.status_text)
        # And MISTRAL is what it was.
        self.assertEqual("!warm-up,fail,invalid command 'warm-up'", answer(SimulatedBackend("mistral"), "?warm-up"))

    def test_the_help_of_its_commands(self):
        backend = self.made(profile_text("mistral") + FURTHER)
        self.assertEqual({}, declared_commands(backend))
        commands = commands_of(backend)
        self.assertEqual({"setup", "vna-sweep", "target-sweep", "warm-up", "reset"}, set(commands))
        for name, (row, _) in commands.items():
            with self.subTest(name):
                self.assertEqual(name == "warm-up", row.help == "")
                self.assertEqual((name, "device", (), ()), (row.name, row.lane, row.arguments, row.reply))
        for name in INSTRUMENTS.keys() - {"mistral"}:
            self.assertEqual({}, commands_of(SimulatedBackend(name)), name)

    def test_tasks_and_configurations(self):
        backend = self.made(TUNED)
        # No task initialises, so it is so from the beginning.
        self.assertEqual("at your service", backend.status_text)
        backend.set_configuration("C1")
        self.assertEqual(("C1", 2), (backend.get_configuration(), len(backend.sections)))
        backend.set_configuration("tuning")
        self.assertEqual(("tuning", 2), (backend.get_configuration(), len(backend.sections)))
        self.assertEqual("busy: tune tune", backend.status_text)
        for refused in ("C1", "tuning"):
            self.assertEqual(
                "!set-configuration,fail,busy: tune tune", answer(backend, f"?set-configuration,{refused}")
            )
        self.assertEqual("!set-configuration,fail,invalid configuration", answer(backend, "?set-configuration,C2"))
        self.clock.advance(5)
        backend.set_configuration("C1")
        self.assertEqual("C1", backend.get_configuration())
        backend.power_cycle()
        self.assertEqual(("unconfigured", 0), (backend.get_configuration(), len(backend.sections)))

    def test_what_it_lacks_it_lacks_with_tasks_too(self):
        backend = self.made(TUNED)
        for command in ("?start", "?set-shift,1"):
            self.assertIn("not supported by this backend", answer(backend, command))

    def test_a_task_may_be_called_as_something_else_is(self):
        names = ("park", "clock", "instrument", "status-text", "run", "task", "convert", "Setup", "setup-")
        text = "".join(f"\n[[tasks]]\ncommand = {name!r}\nduration = 0\n" for name in names)
        backend = self.made('name = "odd"\ndescription = "odd"\n' + text)
        for name in names:
            with self.subTest(name):
                self.assertEqual(f"!{name},ok", answer(backend, f"?{name}"))
                self.assertEqual(f"{name} in progress", backend.status_text)
                self.clock.advance(0)
                self.assertEqual("ready", backend.status_text)
        self.assertEqual("!backend-park,ok", answer(backend, "?backend-park"))
        # None of them hides an attribute, and none is hidden by one.
        self.assertEqual(set(names) | {"reset"}, set(commands_of(backend)))
        self.assertEqual(set(vars(SimulatedBackend())), set(vars(backend)))

    def test_a_class_of_ones_own(self):
        class Mine(SimulatedBackend, instrument="mistral"):
            """With more to do in a setup, and another reset."""

            setups = resets = 0

            def run_task(self, name: str) -> None:
                self.setups += name == "setup"
                super().run_task(name)

            def power_cycle(self) -> None:
                self.resets += 1
                super().power_cycle()

            def set_shift(self, shift: int) -> None:
                self.setups = shift

        for backend in (Mine(clock=Clock()), Mine("mistral", clock=Clock()), self.made(TUNED, Mine)):
            self.assertIs(Mine, type(backend))
            self.assertEqual("!set-shift,ok", answer(backend, "?set-shift,0"))
        self.assertRaises(NotSupportedError, backend.start)
        backend = Mine(clock=Clock())
        for expected in ("!setup,ok", "!setup,fail,setup in progress"):
            self.assertEqual(expected, answer(backend, "?setup"))
        self.assertEqual(2, backend.setups)
        self.assertEqual("!vna-sweep,fail,setup in progress", answer(backend, "?vna-sweep"))
        self.assertEqual("!set-configuration,fail,setup in progress", answer(backend, "?set-configuration,setup"))
        self.assertEqual(("!reset,ok", 1), (answer(backend, "?reset"), backend.resets))
        self.assertEqual("!set-configuration,ok", answer(backend, "?set-configuration,setup"))
        self.assertEqual(4, backend.setups)

    def test_a_class_that_chooses_its_instrument_itself(self):
        class Mine(SimulatedBackend):
            """Its caller does not know which instrument it is."""

            def __init__(self) -> None:
                super().__init__("mistral")

        self.assertEqual("!vna-sweep,fail,system not initialized (setup required)", answer(Mine(), "?vna-sweep"))

    def test_a_failure_refuses_what_begins(self):
        backend = self.made(TUNED.replace('lacks = ["start", "set-shift"]', ""))
        backend.fault = "cryostat warm"
        for line in ("?tune", "?start", "?set-configuration,C1", "?set-configuration,tuning"):
            self.assertTrue(answer(backend, line).endswith(",fail,cryostat warm"), line)
        backend.fault = ""
        self.assertEqual("!set-configuration,ok", answer(backend, "?set-configuration,C1"))
        self.assertEqual("!start,ok", answer(backend, "?start"))
        # The phrases that it does not have are the usual ones.
        self.assertEqual("!start,fail,acquisition in progress", answer(backend, "?start"))

    def test_a_fault_goes_before_the_phrases(self):
        backend = self.made(profile_text("mistral"))
        backend.fault = "cryostat warm"
        self.assertEqual("cryostat warm", backend.status_text)
        backend.fault = ""
        self.assertEqual("system not initialized (setup required)", backend.status_text)

    def test_a_power_cycle_forgets_tasks(self):
        backend = self.made(profile_text("mistral"))
        answer(backend, "?setup")
        backend.power_cycle()
        self.clock.advance(60)
        self.assertEqual("system not initialized (setup required)", backend.status_text)
        self.assertEqual([], self.clock.getDelayedCalls())


if __name__ == "__main__":
    unittest.main()
