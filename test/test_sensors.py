"""Sensors: their values and states, what set() refuses, whose they are, and what is reported of them."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import pickle
import threading
import unittest
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar
from unittest import mock

import numpy
from twisted.internet.task import Clock

from discosbackend import Backend, DBProtocolHandler, Sensor, Ticks, command, sensors, status_text
from discosbackend.backend import declared_commands
from discosbackend.grammar import parse_message
from discosbackend.sensors import STATES, BoundSensor, Reading, sensors_of
from discosbackend.timediscos import time_from_ticks

from .settings import PATIENCE

LOGGER = "discosbackend.sensors"

# The clock of the sensors below: the tests advance it.
clock = Clock()


class Spectrometer(Backend):
    """Sensors of each type."""

    temperature = Sensor("adc0.temperature", "degC", "FPGA temperature", warn=70.0, error=85.0)
    voltage = Sensor("psu.voltage", "V", warn=(11.5, 12.5), error=(11, 13), clock=clock.seconds)
    fan = Sensor("fan0.speed", "rpm", type=int, warn=(1000, None))
    locked = Sensor("pll.locked", type=bool)
    mode = Sensor("mode", type=str, timeout=5.0, clock=clock.seconds)


class Plain:
    """Not derived from Backend."""

    temperature = Sensor("t", "K", warn=4.0)


class Slotted:
    """Without a __dict__, but with the slot."""

    __slots__ = ("__discos_sensors__",)
    temperature = Sensor("t", "K", warn=4.0)


class SlottedBackend(Backend):
    """With slots; Backend has a __dict__."""

    __slots__ = ("level",)
    temperature = Sensor("t", "K", warn=4.0)


@dataclass(frozen=True)
class Frozen(Backend):
    """A dataclass that cannot be assigned to."""

    level: int = 3
    temperature = Sensor("t", "K", warn=4.0)


@dataclass(slots=True)
class SlottedRecord(Backend):
    """A dataclass that is made anew, with slots, and cannot be hashed."""

    levels: list[int] = field(default_factory=list)
    temperature = Sensor("t", "K", warn=4.0)
    pressure: ClassVar[Sensor] = Sensor("p", "mbar")


KINDS: tuple[Any, ...] = (Plain, Slotted, SlottedBackend, Frozen, SlottedRecord)


class ReadingTests(unittest.TestCase):
    def setUp(self) -> None:
        self.backend = Spectrometer()

    def test_before_it_is_set(self) -> None:
        self.assertEqual(self.backend.temperature.reading, (None, "unknown", None))
        self.assertEqual(Reading._fields, ("value", "state", "time"))

    def test_limits(self) -> None:
        for sensor, values in (
            (self.backend.temperature, {-300.0: "nominal", 70.0: "nominal", 70.1: "warn", 85: "warn", 85.1: "error"}),
            (
                self.backend.voltage,
                {10.9: "error", 11: "warn", 11.4: "warn", 11.5: "nominal", 12.6: "warn", 13.1: "error"},
            ),
            (self.backend.fan, {999: "warn", 1000: "nominal", 10**9: "nominal"}),
            (self.backend.locked, {False: "nominal", True: "nominal"}),
            (self.backend.mode, {"": "nominal", "fast": "nominal"}),
        ):
            for value, state in values.items():
                with self.subTest(sensor.name, value=value):
                    sensor.set(value)
                    self.assertEqual(sensor.reading[:2], (value, state))

    def test_the_time_stamp(self) -> None:
        before = Ticks.now()
        self.backend.temperature.set(3)
        time = self.backend.temperature.reading.time
        assert time is not None
        self.assertTrue(before <= time <= Ticks.now())
        self.assertIs(type(time), Ticks)
        for given in (Ticks(14309227829708830), time_from_ticks(14309227829708830), 14309227829708830):
            self.backend.temperature.set(3, time=given)
            self.assertEqual(self.backend.temperature.reading.time, 14309227829708830)

    def test_what_a_sensor_says_of_itself(self) -> None:
        sensor = self.backend.temperature
        self.assertEqual(
            (sensor.name, sensor.unit, sensor.description), ("adc0.temperature", "degC", "FPGA temperature")
        )
        self.assertIs(sensor.declaration, Spectrometer.temperature)
        self.assertIsInstance(Spectrometer.temperature, Sensor)
        self.assertEqual((Spectrometer.temperature.warn, Spectrometer.temperature.error), ((None, 70.0), (None, 85.0)))
        self.assertEqual((Spectrometer.fan.type, Spectrometer.fan.warn), ("integer", (1000, None)))
        self.assertIn("adc0.temperature", repr(sensor))


class SetTests(unittest.TestCase):
    """What set() does with every value."""

    def setUp(self) -> None:
        self.backend = Spectrometer()

    def test_numbers_of_any_kind(self) -> None:
        for sensor, value, wanted in (
            (self.backend.temperature, 3, 3.0),
            (self.backend.temperature, numpy.float32(2.5), 2.5),
            (self.backend.temperature, numpy.array(2.5), 2.5),
            (self.backend.temperature, Decimal("2.5"), 2.5),
            (self.backend.temperature, Fraction(5, 2), 2.5),
            (self.backend.fan, numpy.int16(7), 7),
            (self.backend.fan, 40.0, 40),
            (self.backend.locked, numpy.bool_(True), True),
            (self.backend.mode, numpy.str_("fast"), "fast"),
        ):
            with self.subTest(repr(value)):
                sensor.set(value)
                found = sensor.reading.value
                self.assertEqual((found, type(found)), (wanted, type(wanted)))

    def test_nan_and_infinities_are_a_failure(self) -> None:
        for value in (math.nan, math.inf, -math.inf, numpy.float64("nan"), Decimal("nan"), 10**400):
            self.backend.temperature.set(3)
            self.backend.temperature.set(value)
            self.assertEqual(self.backend.temperature.reading[:2], (None, "failure"), value)
        self.backend.fan.set(math.nan)
        self.assertEqual(self.backend.fan.reading[:2], (None, "failure"))
        self.backend.fan.set(math.nan, state="unreachable")
        self.assertEqual(self.backend.fan.reading[:2], (None, "unreachable"))

    def test_none_is_unknown(self) -> None:
        for sensor in self.backend.sensors.values():
            sensor.set({"float": 3, "integer": 3, "boolean": True, "text": "x"}[sensor.declaration.type])
            sensor.set(None)
            self.assertEqual(sensor.reading[:2], (None, "unknown"))
            self.assertIsNotNone(sensor.reading.time)
            sensor.set(None, state="inactive")
            self.assertEqual(sensor.reading[:2], (None, "inactive"))

    def test_an_explicit_state_wins_over_the_limits(self) -> None:
        for state in STATES:
            with self.subTest(state):
                self.backend.temperature.set(91.0, state=state)
                self.assertEqual(self.backend.temperature.reading[:2], (91.0, state))
        self.backend.temperature.set(91.0)
        self.assertEqual(self.backend.temperature.reading.state, "error")

    def test_what_is_refused_changes_nothing(self) -> None:
        self.backend.temperature.set(63.2)
        for name, value in (
            ("temperature", "63.2"),
            ("temperature", b"63.2"),
            ("temperature", True),
            ("temperature", 1j),
            ("temperature", [63.2]),
            ("temperature", numpy.array([1.0, 2.0])),
            ("temperature", numpy.datetime64("2021-08-11")),
            ("temperature", object()),
            ("fan", 40.5),
            ("fan", True),
            ("fan", "40"),
            ("locked", 1),
            ("locked", "yes"),
            ("locked", 1.0),
            ("mode", 3),
            ("mode", b"fast"),
        ):
            sensor = getattr(self.backend, name)
            before = sensor.reading
            for state in (None, "failure"):
                with (
                    self.subTest(name, value=value),
                    self.assertRaisesRegex(TypeError, f"sensor {sensor.name}: .* is no "),
                ):
                    sensor.set(value, state=state)
                self.assertEqual(sensor.reading, before)
        states = "unknown, nominal, warn, error, failure, inactive, unreachable"
        unknown: Any
        for unknown, problem in (
            ("broken", f"sensor adc0.temperature: state 'broken' is none of {states}"),
            ("Error", "state 'Error' is none of"),
            ("", "state '' is none of"),
        ):
            with self.assertRaisesRegex(ValueError, problem):
                self.backend.temperature.set(3, state=unknown)
        for measured in STATES[1:4]:
            for value in (None, math.nan):
                with self.assertRaisesRegex(ValueError, f"sensor adc0.temperature: state '{measured}' needs a value"):
                    self.backend.temperature.set(value, state=measured)
        with self.assertRaises(TypeError):
            self.backend.temperature.set(3, time="now")
        self.assertEqual(self.backend.temperature.reading[:2], (63.2, "nominal"))

    def test_assigning_is_refused(self) -> None:
        backend: Any = self.backend
        with self.assertRaisesRegex(AttributeError, r"temperature is a sensor: write \.temperature\.set\(63\.2\)"):
            backend.temperature = 63.2
        with self.assertRaises(AttributeError):
            del backend.temperature


class TimeoutTests(unittest.TestCase):
    def test_a_sensor_that_is_not_set_becomes_unknown(self) -> None:
        sensor = Spectrometer().mode
        sensor.set("fast", time=Ticks(3))
        for seconds, state in ((4.75, "nominal"), (0.25, "unknown"), (100.0, "unknown")):
            clock.advance(seconds)
            self.assertEqual(sensor.reading, ("fast", state, 3))
        sensor.set("slow", state="error")
        clock.advance(4.0)
        sensor.set("slow", state="error")
        clock.advance(4.0)
        self.assertEqual(sensor.reading.state, "error")
        clock.advance(1.0)
        self.assertEqual(sensor.reading.state, "unknown")

    def test_an_inactive_one_stays_so(self) -> None:
        sensor = Spectrometer().mode
        sensor.set(None, state="inactive")
        clock.advance(100.0)
        self.assertEqual(sensor.reading.state, "inactive")

    def test_without_a_timeout_it_stays(self) -> None:
        sensor = Spectrometer().voltage
        sensor.set(12)
        clock.advance(10**9)
        self.assertEqual(sensor.reading.state, "nominal")


class DeclarationTests(unittest.TestCase):
    def test_what_cannot_be(self) -> None:
        name = "no name of a sensor: a letter, then letters, digits, _, . and -, 64 at most"
        for problem, text, declare in (
            (ValueError, name, lambda: Sensor("")),
            (ValueError, name, lambda: Sensor("a b")),
            (ValueError, name, lambda: Sensor("a,b")),
            (ValueError, name, lambda: Sensor("0a")),
            (ValueError, name, lambda: Sensor("a" * 65)),
            (ValueError, name, lambda: Sensor("temperatur-Ä")),
            (TypeError, "a sensor needs its name", lambda: Sensor(70.0)),  # type: ignore[arg-type]
            (ValueError, "unit '°C' of sensor t must be printable ASCII without a comma", lambda: Sensor("t", "°C")),
            (ValueError, "unit 'a,b' of sensor t", lambda: Sensor("t", "a,b")),
            (ValueError, r"unit 'a\\nb' of sensor t", lambda: Sensor("t", "a\nb")),
            (
                ValueError,
                "type 'double' of sensor t is none of float, integer, boolean, text",
                lambda: Sensor("t", type="double"),
            ),
            (ValueError, "timeout 0 of sensor t must be more than 0 s", lambda: Sensor("t", timeout=0)),
            (ValueError, "timeout nan of sensor t must be more than 0 s", lambda: Sensor("t", timeout=math.nan)),
            (
                ValueError,
                "only an integer or a float has limits, sensor t is a text",
                lambda: Sensor("t", type=str, warn=3),
            ),
            (
                ValueError,
                "warn 'hot' of sensor t must be a number or a pair of numbers",
                lambda: Sensor("t", warn="hot"),  # type: ignore[arg-type]
            ),
            (ValueError, "warn nan of sensor t must be", lambda: Sensor("t", warn=math.nan)),
            (ValueError, "error True of sensor t must be", lambda: Sensor("t", error=True)),
            (ValueError, r"warn \(1, 2, 3\) of sensor t must be", lambda: Sensor("t", warn=(1, 2, 3))),  # type: ignore[arg-type]
            (ValueError, r"warn \(2, 1\) of sensor t must be", lambda: Sensor("t", warn=(2, 1))),
            (ValueError, "error 60 of sensor t is within its warn 70", lambda: Sensor("t", warn=70, error=60)),
            (
                ValueError,
                r"error \(0, 9\) of sensor t is within its warn \(-1, 3\)",
                lambda: Sensor("t", warn=(-1, 3), error=(0, 9)),
            ),
        ):
            with self.subTest(text), self.assertRaisesRegex(problem, text):
                declare()

    def test_the_same_limits_mean_an_error_at_once(self) -> None:
        class Receiver(Backend):
            """No warn."""

            lna = Sensor("lna", warn=70, error=70)

        receiver = Receiver()
        receiver.lna.set(71)
        self.assertEqual(receiver.lna.reading.state, "error")

    def test_a_subclass_has_the_sensors_of_its_bases(self) -> None:
        class Mixin:
            """No backend."""

            pressure = Sensor("pressure", "mbar")

        class Sub(Mixin, Spectrometer):
            """It replaces one, removes one, and has one more."""

            temperature = Sensor("adc0.temperature", "degC", warn=20.0)
            fan = None  # type: ignore[assignment]
            humidity = Sensor("humidity", "%")

        sub, base = Sub(), Spectrometer()
        self.assertEqual([*base.sensors], ["adc0.temperature", "psu.voltage", "fan0.speed", "pll.locked", "mode"])
        self.assertEqual(
            [*sub.sensors], ["adc0.temperature", "psu.voltage", "pll.locked", "mode", "pressure", "humidity"]
        )
        for backend, state in ((sub, "warn"), (base, "nominal")):
            backend.temperature.set(30)
            self.assertEqual(backend.sensors["adc0.temperature"].reading.state, state)

    def test_a_name_that_is_there_twice_is_refused_at_the_start(self) -> None:
        class Base(Backend):
            """One."""

            one = Sensor("t")

        class Twice(Base):
            """Another one with the same name."""

            other = Sensor("t")

        class Shared:
            """One sensor under two names."""

            one = other = Sensor("t")

        for kind in (Twice, Shared):
            text = f"sensor 't' of {kind.__name__} is declared as one and as other"
            for use in (
                DBProtocolHandler,
                sensors_of,
                status_text,
                lambda backend: backend.one,
                lambda backend: backend.other,
            ):
                with self.subTest(kind), self.assertRaisesRegex(ValueError, text):
                    use(kind())

    def test_an_annotated_one_in_a_dataclass_is_refused(self) -> None:
        text = r"temperature of Record is a field of a dataclass: write the sensor without an annotation"

        @dataclass
        class Record(Backend):
            """A field for every instance."""

            temperature: Sensor = Sensor("t")  # noqa: RUF009

        with self.assertRaisesRegex(TypeError, text):
            Record()

        @dataclass(slots=True)
        class SlottedRecord(Backend):
            """The sensor is no attribute of the class any more."""

            temperature: Sensor = Sensor("t")  # noqa: RUF009

        for use in (DBProtocolHandler, sensors_of):
            with self.assertRaisesRegex(TypeError, text.replace("Record", "SlottedRecord")):
                use(SlottedRecord())

    def test_slots_without_a_place_are_refused_at_the_start(self) -> None:
        class Cramped:
            """Nowhere to keep the values."""

            __slots__ = ("level",)
            temperature = Sensor("t")

        text = "Cramped has __slots__: add '__discos_sensors__' to them, or derive it from Backend"
        for use in (DBProtocolHandler, sensors_of, lambda backend: backend.temperature):
            with self.assertRaisesRegex(TypeError, text):
                use(Cramped())

    def test_a_sensor_that_was_added_to_the_class_afterwards(self) -> None:
        class Late(Backend):
            """It gets a sensor after its instance has been used."""

            temperature = Sensor("t")

        backend: Any = Late()
        backend.temperature.set(3)
        Late.pressure = Sensor("p")  # type: ignore[attr-defined]
        backend.pressure.set(4)
        self.assertEqual({name: each.reading.value for name, each in backend.sensors.items()}, {"t": 3.0, "p": 4.0})

    def test_a_sensor_is_no_command(self) -> None:
        class Odd(Backend):
            """With a sensor in the place of a method."""

            status = Sensor("status")  # type: ignore[assignment]

            @command("reset")
            def reset(self) -> None: ...

        with self.assertLogs("discosbackend.handlers", "WARNING") as logs:
            DBProtocolHandler(Odd(), reactor=Clock())
        self.assertIn("status of the backend is not a method", logs.output[0])
        self.assertEqual([*declared_commands(Odd())], ["reset"])


class InstanceTests(unittest.TestCase):
    """Each instance has its own value, whatever its class is."""

    def test_every_kind_of_class(self) -> None:
        for kind in KINDS:
            with self.subTest(kind.__name__):
                one, other = kind(), kind()
                one.temperature.set(5)
                other.temperature.set(3)
                self.assertEqual(one.temperature.reading[:2], (5.0, "warn"))
                self.assertEqual(other.temperature.reading[:2], (3.0, "nominal"))
                self.assertIs(one.temperature, one.temperature)
                self.assertIs(sensors_of(one)["t"], one.temperature)

    def test_the_mapping_is_read_only(self) -> None:
        backend: Any = Spectrometer()
        self.assertIsInstance(backend.sensors, Mapping)
        with self.assertRaises(TypeError):
            backend.sensors["adc0.temperature"] = None
        self.assertEqual((dict(Backend().sensors), dict(sensors_of(object()))), ({}, {}))

    def test_an_attribute_of_that_name_of_somebody_elses_stays(self) -> None:
        class Older(Backend):
            """Written before Backend had sensors."""

            def __init__(self) -> None:
                self.sensors = ["a"]  # type: ignore[assignment]

        self.assertEqual(Older().sensors, ["a"])

    def test_pickled_before_serving(self) -> None:
        for kind in (Spectrometer, *KINDS):
            with self.subTest(kind.__name__):
                backend = kind()
                backend.temperature.set(75, time=Ticks(3))
                found = pickle.loads(pickle.dumps(DBProtocolHandler(backend))).backend
                self.assertEqual(found.temperature.reading, (75.0, "warn", 3))
                found.temperature.set(2)
                self.assertEqual(sensors_of(found)[found.temperature.name].reading.value, 2.0)
                self.assertEqual(backend.temperature.reading.value, 75.0)
                self.assertIs(found.temperature.declaration, kind.temperature)

    def test_what_is_pickled_along_is_still_the_backends(self) -> None:
        backend = Spectrometer()
        backend.poller = [backend.temperature]  # type: ignore[attr-defined]
        found = pickle.loads(pickle.dumps(backend))
        found.poller[0].set(91)
        self.assertEqual(found.temperature.reading.state, "error")

    def test_the_age_is_pickled(self) -> None:
        backend = Spectrometer()
        backend.mode.set("fast")
        clock.advance(4.0)
        data = pickle.dumps(backend)
        clock.advance(50.0)
        found = pickle.loads(data)
        # From here on the clock is that of the class, no longer the one that was pickled.
        self.assertEqual(found.mode.reading.value, "fast")
        clock.advance(0.5)
        self.assertEqual(found.mode.reading.state, "nominal")
        clock.advance(0.5)
        self.assertEqual(found.mode.reading.state, "unknown")

    def test_a_copy_has_its_own(self) -> None:
        for kind in KINDS:
            for copied in (copy.copy, copy.deepcopy):
                with self.subTest(kind.__name__, copied=copied.__name__):
                    backend = kind()
                    backend.temperature.set(5)
                    found = copied(backend)
                    self.assertEqual(found.temperature.reading[:2], (5.0, "warn"))
                    found.temperature.set(2)
                    self.assertEqual((backend.temperature.reading.value, found.temperature.reading.value), (5.0, 2.0))


class ThreadTests(unittest.TestCase):
    def test_many_threads(self) -> None:
        """The value, the state and the time of a reading belong together, whichever thread was first."""
        values = {20.0: "nominal", 75.0: "warn", 91.0: "error"}
        for _ in range(20):
            backend = Spectrometer()
            begin, found = threading.Barrier(len(values) + 1), set()

            def work(value: float) -> None:
                begin.wait(PATIENCE)
                sensor = backend.temperature
                found.add(id(sensor))
                for number in range(50):
                    sensor.set(value, time=Ticks(round(value) * 1000 + number))

            threads = [threading.Thread(target=work, args=(value,)) for value in values]
            for thread in threads:
                thread.start()
            begin.wait(PATIENCE)
            while any(thread.is_alive() for thread in threads):
                value, state, time = backend.temperature.reading
                if time is not None:
                    self.assertEqual((state, time // 1000), (values[value], value))  # type: ignore[index]
            self.assertEqual(found, {id(backend.temperature)})

    def test_threads_that_come_first_at_the_same_time(self) -> None:
        """Each would make sensors of its own, and the values of one of them would be lost."""
        both = threading.Barrier(2)

        def bound(backend: object) -> sensors._Bound:
            # The second thread comes here as well if nothing keeps it away.
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.05)
            return made(backend)

        backend, found, made = Plain(), [], sensors._Bound
        with mock.patch.object(sensors, "_Bound", bound):
            threads = [threading.Thread(target=lambda: found.append(backend.temperature)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
        self.assertIs(found[0], found[1])

    def test_it_may_be_set_while_it_is_logged(self) -> None:
        backend = Spectrometer()

        def sets_it_again(record: logging.LogRecord) -> bool:
            if backend.temperature.reading.value == 91.0:
                backend.temperature.set(3)
            return True

        logger = logging.getLogger(LOGGER)
        # Not a handler: it has a lock of its own, for which the end of the program would wait if this test fails.
        logger.addFilter(sets_it_again)
        self.addCleanup(logger.removeFilter, sets_it_again)
        with self.assertLogs(LOGGER) as logs:
            thread = threading.Thread(target=backend.temperature.set, args=(91,), daemon=True)
            thread.start()
            thread.join(PATIENCE)
            self.assertFalse(thread.is_alive(), "the sensor waits for itself")
        self.assertEqual(backend.temperature.reading.value, 3.0)
        self.assertEqual(len(logs.output), 2)


class LogTests(unittest.TestCase):
    def lines(self, sensor: BoundSensor, *sets: Any, advance: float = 0.0) -> list[str]:
        """Return the lines of the log when the sensor is set: values, or pairs of a value and a state."""
        with self.assertLogs(LOGGER, "INFO") as logs:
            logging.getLogger(LOGGER).info("begin")
            for value in sets:
                sensor.set(*value[:1], state=value[1]) if isinstance(value, tuple) else sensor.set(value)
                clock.advance(advance)
        return [f"{record.levelname} {record.getMessage()}" for record in logs.records[1:]]

    def test_a_change_of_state_is_one_line(self) -> None:
        backend = Spectrometer()
        self.assertEqual(
            self.lines(backend.temperature, 63.2, 64, 91.25, 92, (None, "unreachable"), math.nan),
            [
                "INFO sensor adc0.temperature: unknown -> nominal at 63.2 degC",
                "WARNING sensor adc0.temperature: nominal -> error at 91.25 degC",
                "WARNING sensor adc0.temperature: error -> unreachable",
                "WARNING sensor adc0.temperature: unreachable -> failure",
            ],
        )
        self.assertEqual(
            self.lines(backend.mode, "fast", ("a\nb", "warn"), ("x", "inactive")),
            [
                "INFO sensor mode: unknown -> nominal at fast",
                "WARNING sensor mode: nominal -> warn at a?b",
                "INFO sensor mode: warn -> inactive at x",
            ],
        )

    def test_a_timeout_is_one_line_when_it_is_read(self) -> None:
        sensor = Spectrometer().mode
        self.lines(sensor, "fast", advance=5.0)
        with self.assertLogs(LOGGER, "WARNING") as logs:
            for _ in range(3):
                self.assertEqual(sensor.reading.state, "unknown")
        self.assertEqual(
            [record.getMessage() for record in logs.records], ["sensor mode: nominal -> unknown, not set for 5 s"]
        )
        self.lines(sensor, (None, "failure"), advance=5.0)
        with self.assertLogs(LOGGER, "WARNING") as logs:
            self.assertEqual(sensor.reading[:2], (None, "unknown"))
        self.assertEqual(
            [record.getMessage() for record in logs.records], ["sensor mode: failure -> unknown, not set for 5 s"]
        )
        # The state was noticed as unknown, so that the return is a change.
        self.assertEqual(self.lines(sensor, "fast"), ["INFO sensor mode: unknown -> nominal at fast"])

    def test_a_timeout_that_nobody_read_is_no_line(self) -> None:
        sensor = Spectrometer().mode
        self.assertEqual(len(self.lines(sensor, "fast", "fast", advance=5.0)), 1)

    def test_a_sensor_that_flaps_is_limited_alone(self) -> None:
        backend = Spectrometer()
        flapping = self.lines(backend.voltage, *[12, 14] * 5)
        self.assertEqual(len(flapping), 5)
        self.assertEqual(self.lines(backend.mode, "fast"), ["INFO sensor mode: unknown -> nominal at fast"])
        self.assertEqual(len(self.lines(Spectrometer().voltage, 12)), 1, "another instance")
        clock.advance(59.0)
        self.assertEqual(self.lines(backend.voltage, 14), [])
        clock.advance(1.0)
        # Whoever uses the sensor next finds out how many lines were left out.
        left_out = "INFO 5 more lines of this kind left out: state of psu.voltage"
        change = "INFO sensor psu.voltage: error -> nominal at 12 V"
        self.assertEqual(self.lines(backend.voltage, 14, 12), [left_out, change])
        self.lines(backend.voltage, *[12, 14] * 5)
        clock.advance(61.0)
        with self.assertLogs(LOGGER, "INFO") as logs:
            self.assertEqual(backend.voltage.reading.state, "error")
        self.assertIn("more lines of this kind left out", logs.output[0])


class StatusTextTests(unittest.TestCase):
    class Rack(Backend):
        """One sensor of each bad state, in no order."""

        a = Sensor("a", "K", warn=1, error=9)
        b = Sensor("b", "K", warn=1, error=9)
        c = Sensor("c", "K")
        d = Sensor("d", "K")
        e = Sensor("e", "K", warn=1, error=9)
        f = Sensor("f", type=str)

    def rack(self) -> Any:
        rack = self.Rack()
        for sensor in rack.sensors.values():
            sensor.set(0 if sensor.declaration.type == "float" else "x")
        return rack

    def test_nothing_to_report(self) -> None:
        rack = self.rack()
        self.assertEqual((status_text(rack), status_text(Backend()), status_text(object())), ("ok", "ok", "ok"))
        rack.a.set(100, state="inactive")
        self.assertEqual(status_text(rack), "ok")

    def test_texts(self) -> None:
        rack = self.rack()
        for value, text in (("", "f warn"), ("fan 2, slow", "f warn fan 2? slow")):
            rack.f.set(value, state="warn")
            self.assertEqual(status_text(rack), text)

    def test_worst_first(self) -> None:
        rack = self.rack()
        rack.a.set(1.5)
        rack.b.set(None)
        rack.c.set(None, state="unreachable")
        rack.d.set(3, state="failure")
        rack.e.set(1234567.125)
        self.assertEqual(status_text(rack), "e error 1.23457e+06 K; d failure; c unreachable; a warn 1.5 K; b unknown")
        rack.a.set(10)
        self.assertTrue(status_text(rack).startswith("a error 10 K; e error "), "as they are declared")

    def test_short(self) -> None:
        backend = type("Many", (Backend,), {f"s{n}": Sensor(f"rack.board{n}.temperature", "degC") for n in range(30)})()
        for sensor in backend.sensors.values():
            sensor.set(30.5, state="error")
        text = status_text(backend)
        self.assertEqual(text, "rack.board0.temperature error 30.5 degC and 29 more")
        self.assertEqual(
            status_text(backend, longest=100),
            "rack.board0.temperature error 30.5 degC; rack.board1.temperature error 30.5 degC and 28 more",
        )
        # The worst one is never left out.
        self.assertEqual(status_text(backend, longest=1), text)
        for longest in range(1, 1300):
            found = status_text(backend, longest=longest)
            self.assertLessEqual(len(found), max(longest, len(text)))
        self.assertEqual(found.count("error"), 30)

    def test_a_text_of_the_device_breaks_no_reply(self) -> None:
        rack = self.rack()
        rack.f.set("a,b\\c\nd!Ω" + 100 * "x", state="warn")
        text = status_text(rack)
        self.assertEqual(text, f"f warn a?b\\c?d??{23 * 'x'}...")

        class Served(self.Rack):  # type: ignore[misc, name-defined]
            def status(self) -> tuple[Ticks, str, bool]:
                return Ticks(3), status_text(self), False

        served = Served()
        reply = str(DBProtocolHandler(served, reactor=Clock()).handle(parse_message("?status")))
        self.assertEqual(
            reply, "!status,ok,0.0000003,a unknown; b unknown; c unknown; d unknown; e unknown; f unknown,0"
        )

    def test_a_timeout_is_seen(self) -> None:
        backend = Spectrometer()
        for name, value in (("temperature", 3), ("voltage", 12), ("fan", 2000), ("locked", True), ("mode", "fast")):
            getattr(backend, name).set(value)
        self.assertEqual(status_text(backend), "ok")
        clock.advance(6.0)
        self.assertEqual(status_text(backend), "mode unknown")


if __name__ == "__main__":
    unittest.main()
