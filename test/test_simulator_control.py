"""Control of a simulated instrument from outside: the table, what the operations do, and the channel."""

from __future__ import annotations

import inspect
import json
import logging
import math
import os
import re
import socket
import stat
import sys
import tempfile
import time
import unittest
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any, cast
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from discosbackend.errors import BackendError
from discosbackend.log import address_text
from discosbackend.rate_limited_logger import RateLimitedLogger
from discosbackend.simulator import SimulatedBackend
from discosbackend.simulator.clock import SimulatedClock
from discosbackend.simulator.control.client import SimulatorControl, control_address
from discosbackend.simulator.control.executor import OperationExecutor
from discosbackend.simulator.control.operation import TYPES, Operation, StatusText
from discosbackend.simulator.control.operations import LONGEST_LINE, OPERATIONS, Operations, find_operation, requested
from discosbackend.simulator.control.server import ControlChannel, ControlProtocol, _ControlFactory
from discosbackend.simulator.errors import ControlError
from discosbackend.simulator.faults.script import Faults
from discosbackend.simulator.instrument.model import Configuration, Instrument, Limits
from discosbackend.simulator.signal.sky import REST_FREQUENCIES, Line, Sky, Source

from .in_memory import fewer, quiet
from .serving import ROOT, Server
from .settings import LONG, PATIENCE

PAGE = ROOT / "docs" / "control.md"
LOGGER = "discosbackend.simulator.control.server"

# A simulated instrument that is controlled, and serves no protocol.
SERVER = """
import sys
from twisted.internet import reactor
from discosbackend.simulator import SimulatedBackend
from discosbackend.simulator.control.server import ControlChannel
from discosbackend.simulator.control.executor import OperationExecutor
from discosbackend.simulator.faults.script import Faults

channel = ControlChannel(OperationExecutor(SimulatedBackend("skarab"), faults=Faults()), sys.argv[1])
channel.open()
reactor.addSystemEventTrigger("before", "shutdown", channel.close)
reactor.callWhenRunning(print, channel.announcement(), flush=True)
reactor.run()
"""


def setUpModule() -> None:
    quiet()


@contextmanager
def controlled(address: str = "0") -> Iterator[tuple[Server, str]]:
    """A process with a simulated instrument that is controlled there, and the address that it announced."""
    server = Server([sys.executable, "-c", SERVER, address])
    try:
        found = re.fullmatch(r"discosbackend: controlled at (\S+)", server.announced)
        if found is None:
            server.process.wait(PATIENCE)
            raise AssertionError(server.log())
        yield server, found[1]
    finally:
        server.end()


class Fake:
    """What OperationExecutor need of an instrument, on a clock that stands still."""

    def __init__(self) -> None:
        limits = Limits(start_frequency=(0.0, 150.0), bins=(1024,), feeds=3)
        self.instrument = Instrument(
            "fake",
            Configuration("unconfigured", None),
            {"A": Configuration("A", limits, (0,)), "B": Configuration("B", None, (0, 4))},
        )
        self.sky = Sky()
        self.clock = SimulatedClock(lambda: 0)
        self.fault = ""
        self.resets = 0

    def start_over(self) -> None:
        self.resets += 1

    def state(self) -> dict[str, Any]:
        return {"sky": self.sky.to_dict(), "fault": self.fault}


class FakeServer:
    """What OperationExecutor need of a server."""

    def __init__(self) -> None:
        self.paused = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


class OperationsTests(unittest.TestCase):
    """What is declared, and what is derived from it or held against it."""

    def test_every_operation_has_its_methods(self) -> None:
        for row in OPERATIONS.values():
            for kind in (OperationExecutor, SimulatorControl):
                with self.subTest(row.name, kind=kind.__name__):
                    method = getattr(kind, row.method)
                    self.assertTrue(method.__doc__)
                    parameters = list(inspect.signature(method).parameters.values())[1:]
                    open_ended = [p for p in parameters if p.kind is p.VAR_KEYWORD]
                    named = [p for p in parameters if p not in open_ended]
                    if kind is SimulatorControl or not open_ended:
                        self.assertEqual([p.name for p in named], [p.name for p in row.parameters])
                    if kind is SimulatorControl:
                        self.assertEqual(bool(open_ended), row.takes_fault)
                    for there, wanted in zip(named, row.parameters, strict=False):
                        self.assertEqual(there.default is None, wanted.optional, there)

    def test_no_method_but_those_of_the_table(self) -> None:
        for kind, others in (
            (Operations, {"ask"}),
            (OperationExecutor, {"execute"}),
            (SimulatorControl, {"ask", "close"}),
        ):
            public = {name for name in dir(kind) if not name.startswith("_")}
            self.assertEqual(public - others, {row.method for row in OPERATIONS.values()})

    def test_every_operation_is_explained(self) -> None:
        for row in OPERATIONS.values():
            with self.subTest(row.name):
                self.assertEqual(row.words.replace(" ", "_").replace("-", "_"), row.method)
                self.assertRegex(row.help, r"^[A-Z].*\.$")
                for parameter in row.parameters:
                    # The line of the operation explains the only parameter.
                    self.assertTrue(parameter.help or len(row.parameters) == 1, parameter.name)

    def test_client_command_line_and_server_take_the_same_values(self) -> None:
        examples: dict[Any, tuple[str, Any]] = {
            float: ("2.5", 2.5),
            int: ("3", 3),
            int | Iterable[int]: ("0,3", [0, 3]),
            bool: ("on", True),
            str: ("W3", "W3"),
            StatusText: ("too warm", "too warm"),
            float | str: ("HI", "HI"),
        }
        self.assertEqual(examples.keys(), TYPES.keys())
        by_type = {TYPES[annotation]: example for annotation, example in examples.items()}
        fault = {"kind": ("late", "late"), "seconds": ("2", 2), "rate": ("0.5", 0.5)}
        control = SimulatorControl.__new__(SimulatorControl)
        for row in OPERATIONS.values():
            given = fault if row.takes_fault else {p.name: by_type[p.type] for p in row.parameters}
            values = {key: value for key, (_, value) in given.items()}
            with self.subTest(row.name):
                with mock.patch.object(control, "_exchange", return_value={"ok": 1}) as exchange:
                    getattr(control, row.method)(**values)
                ((line,), _) = exchange.call_args
                self.assertEqual(json.loads(line), {"do": row.name, **values})
                words = [*row.words.split(), *(f"{key}={text}" for key, (text, _) in given.items())]
                found, rest = find_operation(words)
                self.assertEqual((found, found.read(rest)), (row, values))
                self.assertEqual(requested(json.loads(line)), (row, values))
                inspect.signature(getattr(OperationExecutor, row.method)).bind(None, **values)

    def test_the_page_has_the_table(self) -> None:
        page = PAGE.read_text(encoding="utf-8")
        usages = [row.usage.replace("|", r"\|") for row in OPERATIONS.values()]
        rows = [f"| `{usage}` | {row.help} |" for usage, row in zip(usages, OPERATIONS.values(), strict=True)]
        told = re.findall(r"^\| `.*$", page, re.MULTILINE)
        self.assertEqual([row for row in told if "simctl" not in row], rows)

    def test_what_the_page_sends_is_answered_so(self) -> None:
        (session,) = re.findall(r"```text\n(\{.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        lines = session.splitlines()
        rate = {"rate": 1}
        for request, answer in zip(lines[::2], lines[1::2], strict=True):
            asked = json.loads(request)
            if asked["do"] == "faults-add":
                asked |= rate
            with self.subTest(request):
                self.assertEqual(json.loads(talk(json.dumps(asked).encode() + b"\n")[0]), json.loads(answer))

    def test_command_lines(self) -> None:
        for line, name, values in (
            ("state", "state", {}),
            ("diode on", "diode", {"on": True}),
            ("diode off", "diode", {"on": False}),
            ("diode on=off", "diode", {"on": False}),
            ("tsys 80", "tsys", {"kelvin": 80.0}),
            ("tsys 80 3", "tsys", {"kelvin": 80.0, "inputs": [3]}),
            ("tsys 80 0 1,2", "tsys", {"kelvin": 80.0, "inputs": [0, 1, 2]}),
            ("tsys inputs=0,1 kelvin=80", "tsys", {"kelvin": 80.0, "inputs": [0, 1]}),
            ("tsys inputs=0,1 80", "tsys", {"kelvin": 80.0, "inputs": [0, 1]}),
            ("source W3", "source", {"name": "W3"}),
            ("source W3 level=-2e3 feeds=3", "source", {"name": "W3", "level": -2000.0, "feeds": [3]}),
            (
                "line W3 rest=HI width=20 peak=5",
                "line",
                {"name": "W3", "rest": "HI", "width": 20.0, "peak": 5.0},
            ),
            ("line W3 1420 20 5", "line", {"name": "W3", "rest": 1420.0, "width": 20.0, "peak": 5.0}),
            ("remove Cygnus A", "remove", {"name": "Cygnus A"}),
            ("clear-sky", "clear-sky", {}),
            ("clock jump -2.5", "clock-jump", {"seconds": -2.5}),
            ("clock-jump -1e1", "clock-jump", {"seconds": -10.0}),
            ("fault receiver too warm, x=3", "fault", {"text": "receiver too warm, x=3"}),
            ("fault text=clear", "fault", {"text": "clear"}),
            ("fault clear", "fault-clear", {}),
            (
                "faults add kind=late seconds=2 rate=0.5",
                "faults-add",
                {"kind": "late", "seconds": 2, "rate": 0.5},
            ),
            ("faults add late seconds=2 nth=3", "faults-add", {"kind": "late", "seconds": 2, "nth": 3}),
            ("faults remove 3", "faults-remove", {"number": 3}),
            ("faults clear", "faults-clear", {}),
            ("faults clear seed=3", "faults-clear", {"seed": 3}),
        ):
            with self.subTest(line):
                operation, rest = find_operation(line.split(" "))
                self.assertEqual((operation.name, operation.read(rest)), (name, values))

    def test_wrong_command_lines(self) -> None:
        for line, told in (
            ("stat", "no operation is called 'stat': did you mean state?"),
            ("xyzzy", "no operation is called 'xyzzy': there are state, diode, tsys,"),
            ("", "no operation is called ''"),
            ("clock", "clock needs one of jump, drift, offset"),
            ("clock jmp 3", "clock needs one of jump, drift, offset, not 'jmp'"),
            ("faults", "faults needs one of add, list, remove, clear"),
            ("state now", "'now' is one too many: state"),
            ("diode", "diode needs on: on or off (true or false)"),
            ("diode 1", "on must be on or off (true or false), not '1'"),
            ("diode on off", "'off' is one too many: diode on|off"),
            ("tsys", "tsys needs kelvin: a finite number in K"),
            ("tsys hot", "kelvin must be a finite number in K, not 'hot'"),
            ("tsys nan", "kelvin must be a finite number in K, not nan"),
            ("tsys -inf", "not -inf"),
            ("tsys 80 -1", "inputs must be whole numbers, 0 or more, such as 0,3, not [-1]"),
            ("tsys 80 L", "inputs must be whole numbers, 0 or more, such as 0,3, not 'L'"),
            ("tsys 80 input=0", "'input' is not known: did you mean inputs?"),
            ("tsys 80 kelvin=90", "kelvin is there twice"),
            ("source", "source needs name: one line of at most 64 characters"),
            ("source W3 transt=3", "'transt' is not known: did you mean transit?"),
            ("source W3 colour=3", "'colour' is not known: source takes name, level, feeds, transit,"),
            ("source W3 3", "'3' is one too many: source NAME [level=K]"),
            ("line W3 rest=hi width=3 peak=3", "a finite number in MHz or one of HI, methanol, water"),
            ("line W3 rest=HI width=3", "line needs peak: a finite number in K"),
            ("fault", "fault needs text: one line of at most 400 latin-1 characters"),
            ("fault clear sky", "'sky' is one too many: fault clear: to set this text, write text=\"clear sky\""),
            ("fault clear the \\ sky", 'write text="clear the \\ sky"'),
            ("fault \u2603", "text must be one line of at most 400 latin-1 characters"),
            ("clear-sky x=3", "'x' is not known: clear-sky takes nothing"),
            ("faults add seconds=3", "kind is needed: one of late,"),
            ("faults add kind=lte seconds=3 rate=1", "kind 'lte' is not known: did you mean late?"),
            ("faults add kind=late second=3 rate=1", "second is not known: did you mean seconds?"),
            ("faults add kind=late seconds=3", "late needs one of rate, at and nth, not none of them"),
            ("faults remove first", "number must be a whole number from 0 to 999999999, not 'first'"),
        ):
            with self.subTest(line), self.assertRaises(ControlError) as caught:
                operation, rest = find_operation(line.split(" "))
                operation.read(rest)
            self.assertIn(told, str(caught.exception))

    def test_wrong_declarations(self) -> None:
        def reserved(self: object, do: str) -> None:
            """Do it."""

        def odd(self: object, size: bytes) -> None:
            """Do it."""

        def no_type(self: object, size) -> None:
            """Do it."""

        def default(self: object, size: int = 3) -> None:
            """Do it."""

        for method, told in (
            (reserved, "reserved: no parameter may be called do"),
            (odd, "odd: the annotation of size must be one of TYPES"),
            (no_type, "no_type: the annotation of size must be one of TYPES"),
            (default, "default: the default of size must be None"),
        ):
            with self.subTest(told), self.assertRaisesRegex(TypeError, re.escape(told)):
                Operation(method, "test", changes=True)

    def test_a_parameter_may_be_called_operation(self) -> None:
        control = SimulatorControl.__new__(SimulatorControl)
        with mock.patch.object(control, "_exchange", return_value={"ok": 1}) as exchange:
            control.faults_add("late", operation=3)
        ((line,), _) = exchange.call_args
        self.assertEqual(json.loads(line), {"do": "faults-add", "kind": "late", "operation": 3})

    def test_a_key_of_a_fault_sends_no_other_operation(self) -> None:
        control = SimulatorControl.__new__(SimulatorControl)
        told = "'do' is not known: faults add takes kind and the other keys of the fault"
        with mock.patch.object(control, "_exchange") as exchange, self.assertRaisesRegex(ControlError, told):
            control.faults_add("late", do="reset")
        exchange.assert_not_called()

    def test_values_of_numpy(self) -> None:
        row = OPERATIONS["tsys"]
        values = row.checked({"kelvin": np.float32(80), "inputs": np.arange(2)})
        self.assertEqual(json.dumps(values), '{"kelvin": 80.0, "inputs": [0, 1]}')
        self.assertEqual(row.checked({"kelvin": np.int64(80), "inputs": np.int32(3)})["inputs"], [3])

    def test_wrong_requests(self) -> None:
        for request, told in (
            ({}, "do is missing"),
            ({"do": None}, "no operation is called None: there are state,"),
            ({"do": ["state"]}, "no operation is called ['state']"),
            ({"do": "clock jump"}, "did you mean clock-jump?"),
            ({"do": "state", "of": 1}, "'of' is not known: state takes nothing"),
            ({"do": "diode", "on": 1}, "on must be on or off (true or false), not 1"),
            ({"do": "diode", "on": "on"}, "not 'on'"),
            ({"do": "tsys", "kelvin": True}, "kelvin must be a finite number in K, not true"),
            ({"do": "tsys", "kelvin": "80"}, "not '80'"),
            ({"do": "tsys", "kelvin": 10**400}, "kelvin must be a finite number in K"),
            ({"do": "tsys", "kelvin": 10**4999}, "kelvin must be a finite number in K, not that number"),
            ({"do": "tsys", "kelvin": math.inf}, "not inf"),
            ({"do": "tsys", "kelvin": 8, "inputs": []}, "not []"),
            ({"do": "tsys", "kelvin": 8, "inputs": [0.0]}, "not [0.0]"),
            ({"do": "tsys", "kelvin": 8, "inputs": [True]}, "not [True]"),
            ({"do": "tsys", "kelvin": 8, "inputs": None}, "not None"),
            ({"do": "tsys", "kelvin": 8, "inputs": {"0": 1}}, "not a table"),
            ({"do": "source", "name": ""}, "name must be one line"),
            ({"do": "source", "name": " W3"}, "name must be one line"),
            ({"do": "source", "name": "a\nb"}, "name must be one line"),
            ({"do": "source", "name": "\ud800"}, "name must be one line"),
            ({"do": "source", "name": "W" * 65}, "name must be one line of at most 64 characters"),
            ({"do": "fault", "text": "x" * 401}, "text must be one line of at most 400"),
        ):
            with self.subTest(repr(request)[:60] if "kelvin" not in request else told):
                with self.assertRaises(ControlError) as caught:
                    requested(request)
                self.assertIn(told, str(caught.exception))
                self.assertLess(len(str(caught.exception)), 400)


class OperationExecutorTests(unittest.TestCase):
    """What the operations do to an instrument."""

    def setUp(self) -> None:
        self.backend = Fake()
        self.faults = Faults(7)
        self.server = FakeServer()
        self.executor = OperationExecutor(
            self.backend, faults=self.faults, server=self.server, extra_state=lambda: {"clients": 3}
        )

    def do(self, operation: str, **values: Any) -> Any:
        return self.executor.execute({"do": operation, **values})

    def refused(self, operation: str, **values: Any) -> str:
        before = (self.backend.sky, self.backend.clock.offset, self.backend.clock.drift, self.faults.armed)
        with self.assertRaises(ControlError) as caught:
            self.do(operation, **values)
        after = (self.backend.sky, self.backend.clock.offset, self.backend.clock.drift, self.faults.armed)
        self.assertEqual(before, after)
        return str(caught.exception)

    def test_diode(self) -> None:
        self.do("diode", on=True)
        self.assertTrue(self.backend.sky.diode)
        self.do("tsys", kelvin=3)
        self.do("diode", on=False)
        self.assertFalse(self.backend.sky.diode)
        self.assertTrue(self.backend.sky.tsys)

    def test_tsys_and_mark(self) -> None:
        # Feeds 0 to 4: three by set-enable, and one that a configuration has besides.
        for name in ("tsys", "mark"):
            with self.subTest(name):
                self.do(name, kelvin=80)
                self.assertEqual(getattr(self.backend.sky, name), dict.fromkeys(range(10), 80.0))
                self.do(name, kelvin=90.5, inputs=[0, 9])
                wanted = dict.fromkeys(range(10), 80.0) | {0: 90.5, 9: 90.5}
                self.assertEqual(getattr(self.backend.sky, name), wanted)
                told = self.refused(name, kelvin=1, inputs=[0, 10])
                self.assertIn("10 is none of this instrument: it has 0 to 9", told)
                self.assertIn("above 0", self.refused(name, kelvin=0))

    def test_which_inputs_there_are(self) -> None:
        limits = Limits(start_frequency=(0.0, 150.0), bins=(1024,), feeds=7)
        fed = {"A": Configuration("A", None, (3,))}
        for instrument, last in (
            (Instrument("bare", Configuration("unconfigured", None)), 1),
            (Instrument("limited", Configuration("unconfigured", limits)), 13),
            (Instrument("fed", Configuration("unconfigured", None), fed), 7),
        ):
            with self.subTest(instrument.name):
                self.backend.instrument, self.backend.sky = instrument, Sky()
                self.do("tsys", kelvin=70)
                self.assertEqual(list(self.backend.sky.tsys), list(range(last + 1)))

    def test_source(self) -> None:
        self.do("source", name="W3", level=2.5, feeds=[0, 3], transit=10, crossing=4)
        wanted = Source(2.5, (), (0, 3), 10.0, 4.0)
        self.assertEqual(self.backend.sky.sources, {"W3": wanted})
        self.do("line", name="W3", rest="HI", width=20, peak=5)
        self.do("source", name="W3", level=3, linear=0.5, angle=30)
        line = Line(1420.4058, 20.0, 5.0)
        self.assertEqual(self.backend.sky.sources["W3"], Source(3.0, (line,), (0, 3), 10.0, 4.0, 0.5, 30.0))
        self.do("source", name="bare")
        self.assertEqual(self.backend.sky.sources["bare"], Source())

    def test_wrong_sources(self) -> None:
        for values, told in (
            ({"transit": 3}, "transit and crossing go together"),
            ({"transit": 3, "crossing": 0}, "crossing must be a number of s above 0"),
            ({"linear": 2}, "linear must be a number from 0 to 1"),
        ):
            with self.subTest(values):
                self.assertIn(told, self.refused("source", name="W3", **values))

    def test_line(self) -> None:
        self.do("line", name="W3", rest=6668.5, width=1, peak=-2, velocity=-30)
        self.do("line", name="W3", rest="water", width=2, peak=4)
        lines = (Line(6668.5, 1.0, -2.0, -30.0), Line(22235.08, 2.0, 4.0))
        self.assertEqual(self.backend.sky.sources["W3"], Source(lines=lines))
        told = self.refused("line", name="W3", rest=1, width=0, peak=1)
        self.assertIn("width must be a number of km/s above 0", told)
        self.assertIn("light", self.refused("line", name="X", rest=1, width=1, peak=1, velocity=3e5))

    def test_remove_and_clear_sky(self) -> None:
        self.do("source", name="a")
        self.do("source", name="b")
        self.do("diode", on=True)
        self.assertIn("no source is called 'c': there is a, b", self.refused("remove", name="c"))
        self.do("remove", name="a")
        self.assertEqual(set(self.backend.sky.sources), {"b"})
        self.do("clear-sky")
        self.assertEqual((dict(self.backend.sky.sources), self.backend.sky.diode), ({}, True))

    def test_clock(self) -> None:
        self.do("clock-jump", seconds=2)
        self.do("clock-jump", seconds=0.5)
        self.assertEqual(self.backend.clock.offset, 2.5)
        self.do("clock-offset", seconds=-1)
        self.assertEqual(self.backend.clock.offset, -1.0)
        self.do("clock-drift", ppm=-30)
        self.assertEqual(self.backend.clock.drift, -30.0)
        self.assertIn("within a century", self.refused("clock-jump", seconds=1e12))
        self.assertIn("within a century", self.refused("clock-offset", seconds=-1e12))
        self.assertIn("drift must be", self.refused("clock-drift", ppm=1e300))

    def test_fault(self) -> None:
        self.do("fault", text="receiver \xfcber 300 K")
        self.assertEqual(self.backend.fault, "receiver \xfcber 300 K")
        self.do("fault-clear")
        self.assertEqual(self.backend.fault, "")

    def test_pause_and_resume(self) -> None:
        for operation, paused in (("resume", False), ("pause", True), ("pause", True), ("resume", False)):
            self.do(operation)
            self.assertEqual((self.server.paused, self.do("state")["paused"]), (paused, paused))

    def test_a_pause_that_a_restart_has_ended(self) -> None:
        self.do("pause")
        self.server.resume()
        self.assertFalse(self.do("state")["paused"])
        self.do("pause")
        self.assertTrue(self.server.paused)

    def test_reset(self) -> None:
        self.do("faults-add", kind="hang", rate=1)
        self.do("reset")
        self.assertEqual((self.backend.resets, self.server.paused), (1, False))
        self.do("pause")
        self.do("reset")
        self.assertEqual((self.backend.resets, self.server.paused), (2, False))
        self.assertEqual(len(self.faults.armed), 1)
        with mock.patch.object(self.backend, "start_over", side_effect=BackendError("busy with setup")):
            self.assertEqual(self.refused("reset"), "busy with setup")

    def test_faults(self) -> None:
        self.assertEqual(self.do("faults-add", kind="late", seconds=2, rate=0.5), 1)
        self.assertEqual(self.do("faults-add", kind="cut", nth=3), 2)
        self.assertIn("did you mean", self.refused("faults-add", kind="late", second=2, rate=0.5))
        self.assertIn("not none", self.refused("faults-add", kind="late", seconds=2))
        self.assertIn("rate must be", self.refused("faults-add", kind="cut", rate=[1]))
        wanted = {"number": 1, "kind": "late", "seconds": 2, "rate": 0.5, "matched": 0, "applied": 0}
        self.assertEqual(self.do("faults-list")[0], wanted)
        self.assertEqual(self.do("state")["faults"], {"seed": 7, "armed": self.do("faults-list")})
        self.assertIn("the number 3: there is 1, 2", self.refused("faults-remove", number=3))
        self.do("faults-remove", number=1)
        self.assertEqual([armed["number"] for armed in self.do("faults-list")], [2])
        self.do("faults-clear", seed=9)
        self.assertEqual((self.do("faults-list"), self.faults.seed), ([], 9))
        self.do("faults-clear")
        self.assertEqual(self.faults.seed, 9)
        self.assertIn("there is none", self.refused("faults-remove", number=1))

    def test_state(self) -> None:
        self.do("fault", text="x")
        state = self.do("state")
        self.assertEqual((state["fault"], state["clients"], state["sky"]["diode"]), ("x", 3, False))
        json.dumps(state, allow_nan=False)

    def test_what_the_instrument_refuses(self) -> None:
        backend = SimulatedBackend("skarab")
        executor = OperationExecutor(backend)
        for request, told in (
            ({"do": "line", "name": "a", "rest": "HI", "width": 2, "peak": 3}, "skarab cannot see"),
            ({"do": "source", "name": "a", "feeds": [7]}, "skarab has 0 to 6"),
        ):
            with self.subTest(request), self.assertRaisesRegex(ControlError, told):
                executor.execute(request)
        self.assertEqual(backend.sky, Sky())

    def test_what_a_server_has_not(self) -> None:
        bare = OperationExecutor(Fake())
        self.assertIsNone(bare.state()["faults"])
        for request in (
            {"do": "pause"},
            {"do": "resume"},
            {"do": "faults-list"},
            {"do": "faults-add", "kind": "hang", "rate": 1},
            {"do": "faults-remove", "number": 1},
            {"do": "faults-clear"},
        ):
            with self.subTest(request), self.assertRaisesRegex(ControlError, "not possible: this server"):
                bare.execute(request)
        bare.execute({"do": "reset"})


# -- the channel --------------------------------------------------------------------------------------


class Wire(StringTransport):
    """A transport that can close one half, and whose buffer is full when the client does not read."""

    room = 2**16

    def __init__(self) -> None:
        super().__init__()
        self.ended = self.aborted = False
        self.unread = 0

    def write(self, data: bytes) -> None:
        assert not self.ended, f"{data!r} after the end"
        super().write(data)
        self.unread += len(data)
        if self.unread > self.room and self.producer is not None and self.producerState == "producing":
            self.producer.pauseProducing()

    def loseWriteConnection(self) -> None:
        self.ended = True

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()


class Channel:
    """A client's end of a channel that exists only in memory."""

    def __init__(self, backend: Fake | None = None, wire: Wire | None = None) -> None:
        self.backend = Fake() if backend is None else backend
        self.clock = Clock()
        self.wire = Wire() if wire is None else wire
        self.connections: set[ControlProtocol] = set()
        executor = OperationExecutor(self.backend, faults=Faults())
        limited = RateLimitedLogger(logging.getLogger(LOGGER), self.clock.callLater, self.clock.seconds)
        self.protocol = ControlProtocol(executor, self.clock, self.connections, limited)
        self.protocol.makeConnection(self.wire)

    def send(self, data: bytes, piece: int = 0) -> list[bytes]:
        """Let it read `data`, in pieces of that size if one is given; the lines that it has answered."""
        for at in range(0, len(data), piece or max(1, len(data))):
            self.protocol.dataReceived(data[at : at + piece] if piece else data)
        return self.answers()

    def answers(self) -> list[bytes]:
        told = self.wire.value()
        self.wire.clear()
        assert told.endswith(b"\n") or not told, told
        return told.splitlines()

    def lose(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))


def talk(data: bytes, piece: int = 0) -> list[bytes]:
    """What a fresh connection answers."""
    return Channel().send(data, piece)


def errors(lines: list[bytes]) -> list[str]:
    return [json.loads(line)["error"] for line in lines]


def asking_for(operation: str) -> bytes:
    return json.dumps({"do": operation}).encode() + b"\n"


KEYS = [parameter.name for row in OPERATIONS.values() for parameter in row.parameters]


class ChannelTests(unittest.TestCase):
    def test_requests_are_answered_in_order(self) -> None:
        lines = [
            b'{"do": "diode", "on": true}\n',
            b'{"do": "nonsense"}\r\n',
            b' {"do":"fault","text":"hei\xc3\x9f"} \n',
            b'{"do": "fault", "text": "\\u00e9"}\n',
            b'{"do": "faults-list"}\n',
        ]
        for piece in (0, *range(1, 10)):
            with self.subTest(piece=piece):
                channel = Channel()
                answers = [json.loads(line) for line in channel.send(b"".join(lines), piece)]
                self.assertEqual([*answers[0], *answers[1], *answers[4]], ["ok", "error", "ok"])
                self.assertEqual(answers[2:], [{"ok": None}, {"ok": None}, {"ok": []}])
                self.assertEqual((channel.backend.sky.diode, channel.backend.fault), (True, "\xe9"))
                self.assertFalse(channel.wire.ended or channel.wire.disconnecting)

    def test_answers_are_ascii(self) -> None:
        (answer,) = talk('{"do": "remove", "name": "\u03c1 Oph"}\n'.encode())
        self.assertTrue(answer.isascii())
        self.assertIn("no source is called '\u03c1 Oph'", json.loads(answer)["error"])

    def test_a_line_that_is_no_request_is_the_last_one(self) -> None:
        good = b'{"do": "diode", "on": true}\n'
        for line in (
            b"POST / HTTP/1.1\r",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
            b"?status\r",
            b"",
            b"[]",
            b"null",
            b'"state"',
            b'{"do": "state"',
            b"{'do': 'state'}",
            b'{"do": "tsys", "kelvin": NaN}',
            b'{"do": "tsys", "kelvin": -Infinity}',
            b'{"do": "diode", "on": true, "on": false}',
            b'{"do": "fault", "text": "\xe9"}',
            b'\xef\xbb\xbf{"do": "state"}',
            '{"do": "state"}'.encode("utf-16"),
            b"[" * 60000,
            b'{"do": ' * 9000,
            b'{"a": ' + b"1" * 5000 + b"}",
        ):
            for piece in (0, 7) if len(line) < 100 else (0,):
                with self.subTest(line[:40], piece=piece):
                    channel = Channel()
                    (told,) = errors(channel.send(line + b"\n" + good + good, piece))
                    self.assertTrue(told.startswith("no request: each line is a JSON object such as "), told)
                    self.assertTrue(channel.wire.ended)
                    self.assertEqual(channel.send(good), [])
                    self.assertFalse(channel.backend.sky.diode)

    def test_what_came_before_it_is_done(self) -> None:
        channel = Channel()
        answers = channel.send(b'{"do": "diode", "on": true}\nno\n{"do": "diode", "on": false}\n')
        self.assertEqual(answers[0], b'{"ok": null}')
        self.assertEqual(len(answers), 2)
        self.assertTrue(channel.backend.sky.diode)

    def test_numbers_beyond_all_bounds(self) -> None:
        for number in ("1e400", "-1e400", "9" * 400, "1" * 4000):
            with self.subTest(number[:10]):
                channel = Channel()
                (told,) = errors(channel.send(b'{"do": "tsys", "kelvin": %s}\n' % number.encode()))
                self.assertIn("kelvin must be a finite number in K", told)
                self.assertFalse(channel.wire.ended)

    def logged(self, channel: Channel, *requests: dict[str, Any]) -> list[str]:
        """What is logged at info of these requests, without the time that they took."""
        with self.assertLogs("discosbackend", "INFO") as logs:
            logging.getLogger("discosbackend").info("lest there be nothing")
            for request in requests:
                channel.send(json.dumps(request).encode() + b"\n")
        messages = [record.getMessage() for record in logs.records[1:]]
        self.assertTrue(all(message.isprintable() for message in messages))
        return [re.sub(r" in \d\.\d{3} s$", "", message) for message in messages]

    def test_what_was_done_is_logged(self) -> None:
        """With who did it, as for the protocol; not what only asks."""
        for request, told in (
            ({"do": "state"}, []),
            ({"do": "faults-list"}, []),
            ({"do": "clock-jump", "seconds": 2}, ["control clock jump from 192.168.1.1:54321: {'seconds': 2} -> ok"]),
            ({"do": "clear-sky"}, ["control clear-sky from 192.168.1.1:54321 -> ok"]),
            (
                {"do": "faults-add", "kind": "hang", "rate": 1},
                ["control faults add from 192.168.1.1:54321: {'kind': 'hang', 'rate': 1} -> ok"],
            ),
        ):
            with self.subTest(request):
                self.assertEqual(self.logged(Channel(), request), told)

    def test_a_refusal_is_logged_as_a_refusal(self) -> None:
        for request, told in (
            (
                {"do": "remove", "name": "W\u00fc"},
                "control remove from 192.168.1.1:54321: {'name': 'W\xfc'} -> refused \"no source is called 'W\xfc'",
            ),
            (
                {"do": "tsys", "kelvin": "hot"},
                "control tsys from 192.168.1.1:54321: {'kelvin': 'hot'} -> refused \"kelvin must be a finite number",
            ),
            (
                {"do": "nonsense\n\x9b"},
                "control from 192.168.1.1:54321: {'do': 'nonsense\\n\\x9b'} -> refused \"no operation is called 'non",
            ),
            ({"do": "pause"}, "control pause from 192.168.1.1:54321 -> refused 'pause is not possible: this server"),
        ):
            with self.subTest(request):
                (line,) = self.logged(Channel(), request)
                self.assertTrue(line.startswith(told), line)

    def test_refusals_are_limited(self) -> None:
        """Five a minute a peer and operation, then counted; what succeeded is always logged."""
        channel = Channel()
        requests: list[dict[str, Any]] = [
            {"do": "pause"},
            {"do": "diode", "on": True},
            {"do": "remove", "name": "x"},
        ] * 50
        requests += [{"do": f"made-up-{number}"} for number in range(50)]
        lines = self.logged(channel, *requests)
        self.assertEqual(sum("control pause" in line for line in lines), 5)
        self.assertEqual(sum("control remove" in line for line in lines), 5)
        self.assertEqual(sum("control diode" in line for line in lines), 50)
        self.assertEqual(len(lines), 65)
        with self.assertLogs("discosbackend", "INFO") as logs:
            channel.clock.advance(60)
        self.assertEqual(len(logs.records), 3)
        found = [text for text in logs.output if "control pause refused for 192.168.1.1" in text]
        self.assertRegex("".join(found), "45 more lines .* control pause")

    def test_refusals_are_limited_for_a_minute(self) -> None:
        channel = Channel()
        with self.assertLogs(LOGGER, "INFO") as logs:
            for _ in range(60):
                channel.send(asking_for("pause"))
                channel.clock.advance(1)
                if channel.clock.seconds() < 60:
                    self.assertLessEqual(len(logs.records), 5)
        self.assertEqual(len(logs.records), 6)
        self.assertRegex(logs.records[5].getMessage(), "^55 more lines .*: control pause refused for 192.168.1.1$")

    def test_failures_without_end(self) -> None:
        for operation, method, fake in (
            ("reset", "start_over", {"side_effect": ZeroDivisionError("secret")}),
            ("state", "state", {"return_value": {"a": math.nan}}),
        ):
            channel = Channel()
            with self.subTest(operation), mock.patch.object(channel.backend, method, **fake):
                with self.assertLogs(LOGGER, "ERROR") as logs:
                    self.assertEqual(len(errors(channel.send(asking_for(operation) * 100))), 100)
                    self.assertEqual(len(logs.records), 5)
                    channel.clock.advance(1)
                self.assertRegex(logs.records[5].getMessage(), "^95 more lines ")

    def test_long_values_are_cut(self) -> None:
        (line,) = self.logged(Channel(), {"do": "fault", "text": "x" * 5000})
        self.assertLess(len(line), 500)

    def test_refused_connections_without_end(self) -> None:
        """A web page can cause one after the other."""
        factory = _ControlFactory(OperationExecutor(Fake()), Clock())
        with self.assertLogs("discosbackend.simulator.control.server", "WARNING") as logs:
            for _ in range(100):
                protocol = factory.buildProtocol(None)
                protocol.makeConnection(Wire())
                protocol.dataReceived(b"POST / HTTP/1.1\r\n\r\n")
        self.assertEqual(len(logs.records), 5)
        peer = address_text(Wire().getPeer())
        self.assertTrue(logs.records[0].getMessage().startswith(f"control: {peer} is disconnected: no request: "))

    def test_long_lines(self) -> None:
        longest = b'{"do": "state"}' + b" " * (LONGEST_LINE - 15)
        self.assertEqual(len(longest), LONGEST_LINE)
        self.assertIn(b'"ok"', talk(longest + b"\n")[0])
        for line in (longest + b" \n", longest + b" " * 100000, b"x" * 200000 + b"\n", longest + b"  "):
            for piece in (0, 1000):
                with self.subTest(len(line), piece=piece):
                    channel = Channel()
                    (told,) = errors(channel.send(line, piece))
                    self.assertEqual(told, "a line is longer than 65536 bytes")
                    self.assertTrue(channel.wire.ended)

    def test_a_client_that_sends_on_is_cut_off(self) -> None:
        channel = Channel()
        channel.send(b"GET /\n")
        channel.clock.advance(0.9)
        channel.send(b"x" * 100000)
        self.assertFalse(channel.wire.aborted)
        channel.clock.advance(0.2)
        self.assertTrue(channel.wire.aborted)

    def test_a_client_that_leaves_is_not(self) -> None:
        channel = Channel()
        channel.send(b"GET /\n")
        channel.protocol.readConnectionLost()
        self.assertTrue(channel.wire.disconnecting)
        channel.lose()
        self.assertEqual((channel.clock.getDelayedCalls(), channel.connections), ([], set()))

    def test_a_client_that_closes_its_half_gets_its_answers(self) -> None:
        channel = Channel()
        self.assertEqual(channel.connections, {channel.protocol})
        answers = channel.send(b'{"do": "diode", "on": true}\n{"do": "faults-list"}\n')
        self.assertEqual(answers, [b'{"ok": null}', b'{"ok": []}'])
        channel.protocol.readConnectionLost()
        self.assertTrue(channel.wire.disconnecting)
        self.assertEqual(channel.answers(), [])
        channel.lose()
        self.assertEqual(channel.connections, set())

    def test_a_line_without_its_end_is_not_carried_out(self) -> None:
        channel = Channel()
        self.assertEqual(channel.send(b'{"do": "diode", "on": true}'), [])
        channel.protocol.readConnectionLost()
        self.assertEqual(errors(channel.answers()), ["a line without its end: nothing was done for it"])
        self.assertTrue(channel.wire.disconnecting)
        self.assertFalse(channel.backend.sky.diode)

    def test_who_does_not_read_is_not_answered_on(self) -> None:
        """Many more answers than fit, asked for in one go: they wait as requests, and come in the end."""
        channel = Channel()
        count = 4000
        request = b'{"do":"state"}\n'
        channel.protocol.dataReceived(request * count)
        size = len(channel.wire.value())
        self.assertLess(size, 2 * Wire.room)
        self.assertEqual(channel.wire.producerState, "paused")
        received = channel.answers()
        while channel.wire.producerState == "paused":
            channel.wire.unread = 0
            channel.protocol.resumeProducing()
            received += channel.answers()
        self.assertEqual(len(received), count)
        self.assertEqual(set(received), {received[0]})

    def test_an_instrument_that_raises(self) -> None:
        channel = Channel()
        with mock.patch.object(channel.backend, "start_over", side_effect=ZeroDivisionError("secret")):
            with self.assertLogs("discosbackend.simulator.control.server", "ERROR") as logged:
                answers = channel.send(b'{"do": "reset"}\n{"do": "faults-list"}\n')
        self.assertIn("the server's log has it", errors(answers[:1])[0])
        self.assertNotIn("secret", errors(answers[:1])[0])
        self.assertEqual(answers[1], b'{"ok": []}')
        self.assertIn("secret", logged.output[0])

    def test_a_state_that_json_cannot_carry(self) -> None:
        for state in ({"a": math.nan}, {"a": object()}, {"a": 10**5000}):
            with self.subTest(type(state["a"])):
                channel = Channel()
                with mock.patch.object(channel.backend, "state", return_value=state):
                    answers = channel.send(b'{"do": "state"}\n{"do": "faults-list"}\n')
                self.assertIn("cannot be told", errors(answers[:1])[0])
                self.assertEqual(answers[1], b'{"ok": []}')

    @fewer(40)
    @given(st.lists(st.binary(max_size=40) | st.sampled_from(list(OPERATIONS)).map(asking_for)))
    def test_any_bytes(self, pieces: list[bytes]) -> None:
        """Only whole answers come out, one a line at most, and none after a line that is no request."""
        channel = Channel()
        answers = [json.loads(line) for piece in pieces for line in channel.send(piece)]
        lines = b"".join(pieces).split(b"\n")[:-1]
        self.assertLessEqual(len(answers), len(lines))
        for answer in answers:
            self.assertEqual(len(answer.keys() & {"ok", "error"}), 1)
        self.assertEqual(channel.wire.ended, len(answers) < len(lines) or _is_refusal(answers))

    @settings(max_examples=200 if LONG else 50)
    @given(
        st.sampled_from(list(OPERATIONS)),
        st.dictionaries(
            st.sampled_from(KEYS) | st.text(max_size=5),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers()
                | st.floats(allow_nan=False, allow_infinity=False)
                | st.text(max_size=10)
                | st.just("late"),
                lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=3), some),
                max_leaves=4,
            ),
            max_size=4,
        ),
    )
    def test_any_values(self, operation: str, values: dict[str, Any]) -> None:
        """Carried out or refused with a sentence, never a failure for the log, and the state stays one."""
        channel = Channel()
        with self.assertNoLogs("discosbackend.simulator.control.server", "ERROR"):
            line = json.dumps({**values, "do": operation}).encode() + b"\n"
            answer, state = channel.send(line + b'{"do": "state"}\n')
        self.assertIn(list(json.loads(answer)), (["ok"], ["error"]))
        self.assertEqual(list(json.loads(state)), ["ok"])


def _is_refusal(answers: list[dict[str, Any]]) -> bool:
    return bool(answers) and str(answers[-1].get("error", "")).startswith("no request: ")


class ListeningTests(unittest.TestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        folder = tempfile.TemporaryDirectory()  # by addCleanup
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "control.sock")

    def channel(self, address: str | int) -> ControlChannel:
        return ControlChannel(OperationExecutor(Fake()), address, reactor=self.reactor)

    def test_a_port_is_of_this_host_only(self) -> None:
        for address, interface in ((0, "127.0.0.1"), ("5", "127.0.0.1"), ("[::1]:5", "::1")):
            with self.subTest(address):
                self.reactor.tcpServers.clear()
                self.channel(address).open()
                self.assertEqual([server[3] for server in self.reactor.tcpServers], [interface])
        with self.assertRaises(ControlError):
            self.channel("0.0.0.0:5")

    def test_a_socket_is_for_its_owner_only(self) -> None:
        channel = self.channel(str(self.path))
        channel.open()
        self.assertEqual(len(self.reactor.unixServers), 1)
        path, _, _, mode, _ = self.reactor.unixServers[0]
        self.assertEqual((path, mode), (str(self.path), 0o600))
        self.assertEqual(channel.announcement(), f"discosbackend: controlled at {self.path}")

    def test_a_socket_that_a_dead_server_left_is_replaced(self) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(self.path))
        self.assertTrue(self.path.is_socket())
        self.channel(str(self.path)).open()
        self.assertFalse(self.path.exists())
        self.assertEqual(len(self.reactor.unixServers), 1)

    def test_one_that_is_in_use_is_not(self) -> None:
        with socket.socket(socket.AF_UNIX) as alive:
            alive.bind(str(self.path))
            alive.listen()
            with self.assertRaisesRegex(ControlError, "another server is controlled there"):
                self.channel(str(self.path)).open()
            self.assertTrue(self.path.is_socket())

    def test_one_whose_server_is_too_busy_is_not(self) -> None:
        with (
            socket.socket(socket.AF_UNIX) as alive,
            socket.socket(socket.AF_UNIX) as waiting,
        ):
            alive.bind(str(self.path))
            alive.listen(0)
            waiting.connect(str(self.path))
            with self.assertRaisesRegex(ControlError, "another server is controlled there"):
                self.channel(str(self.path)).open()
            self.assertTrue(self.path.is_socket())

    def test_what_is_no_socket_is_left_alone(self) -> None:
        self.path.write_text("thesis", encoding="utf-8")
        link = self.path.with_name("link.sock")
        link.symlink_to(self.path)
        folder = self.path.with_name("folder")
        folder.mkdir()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(self.path.with_name("dead.sock")))
        elsewhere = self.path.with_name("elsewhere.sock")
        elsewhere.symlink_to(self.path.with_name("dead.sock"))
        for path in (self.path, link, elsewhere, folder):
            with self.subTest(path.name), self.assertRaisesRegex(ControlError, "that is no socket is there"):
                self.channel(str(path)).open()
        self.assertEqual(self.path.read_text(encoding="utf-8"), "thesis")
        self.assertEqual(self.reactor.unixServers, [])

    def test_where_nobody_can_listen(self) -> None:
        taken = CannotListenError("127.0.0.1", 5, OSError(98, "Address already in use"))
        channel = self.channel(5)
        with mock.patch.object(self.reactor, "listenTCP", side_effect=taken):
            with self.assertRaises(ControlError) as caught:
                channel.open()
        told = "control cannot listen on 127.0.0.1:5: Address already in use"
        self.assertEqual(str(caught.exception), told)
        self.assertIsNone(self.successful(channel.close()))

    def test_close(self) -> None:
        channel = self.channel(0)
        channel.open()
        factory: Any = self.reactor.tcpServers[0][1]
        protocol, wire = factory.buildProtocol(None), Wire()
        protocol.makeConnection(wire)
        channel.close()
        self.assertTrue(wire.disconnecting)
        self.assertIsNone(self.successful(channel.close()))

    def successful(self, deferred: Any) -> Any:
        results: list[Any] = []
        deferred.addCallback(results.append)
        self.assertEqual(len(results), 1)
        return results[0]


class PortTests(unittest.TestCase):
    """A real instrument in a process, controlled over a port; one for all of them."""

    server: Server
    address: str

    @classmethod
    def setUpClass(cls) -> None:
        cls.server, cls.address = cls.enterClassContext(controlled())

    @classmethod
    def tearDownClass(cls) -> None:
        status = cls.server.stop(SIGTERM)
        assert status == 0, (status, cls.server.log())

    def test_over_a_port(self) -> None:
        with SimulatorControl(self.address) as control:
            began = time.time()
            before = control.state()
            control.source("W3", level=2.5, feeds=3)
            control.line("W3", "water", width=1, peak=2)
            control.tsys(80)
            control.mark(50, [0, 1])
            control.diode(True)
            control.clock_offset(-100)
            control.fault("receiver warm")
            control.faults_add("cut", nth=2)
            with SimulatorControl(self.address) as other:
                state = other.state()
            sky = state["sky"]
            line = asdict(Line(REST_FREQUENCIES["water"], 1.0, 2.0))
            self.assertEqual((sky["sources"]["W3"]["lines"], sky["sources"]["W3"]["feeds"]), ([line], [3]))
            self.assertEqual((len(sky["tsys"]), sky["diode"]), (14, True))
            self.assertEqual(sky["mark"], {"0": 50.0, "1": 50.0})
            self.assertEqual((state["clock"]["offset"], state["status"]), (-100.0, "receiver warm"))
            self.assertTrue(began <= state["time"] + 100 <= time.time(), state["time"])
            with self.assertRaisesRegex(ControlError, "input 14 is none of this instrument: it has 0 to 13"):
                control.tsys(80, [14])
            control.reset()
            control.faults_clear()
            self.assertEqual(control.state() | {"time": 0}, before | {"time": 0})

    def test_what_is_sent_in_one_go_and_hung_up(self) -> None:
        host, port = cast(tuple[str, int], control_address(self.address))
        with socket.create_connection((host, int(port)), PATIENCE) as connection:
            connection.sendall(b'{"do": "state"}\n' * 500)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as lines:
                states = [json.loads(line)["ok"]["instrument"] for line in lines]
        self.assertEqual(states, ["skarab"] * 500)

    def test_a_browser_reads_why_it_is_refused(self) -> None:
        """Also when it sends more than is read."""
        body = b'{"do": "diode", "on": true}\n' * 20000
        with SimulatorControl(self.address) as control:
            host, port = cast(tuple[str, int], control_address(self.address))
            with socket.create_connection((host, int(port)), PATIENCE) as connection:
                connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n" + body)
                with connection.makefile("rb") as lines:
                    answers = list(lines)
            self.assertEqual(len(answers), 1)
            self.assertIn("no request", json.loads(answers[0])["error"])
            self.assertFalse(control.state()["sky"]["diode"])


class ProcessTests(unittest.TestCase):
    """The same over a socket, which comes and goes with its server."""

    def test_over_a_socket(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "control.sock")
            with controlled(str(path)) as (server, address), SimulatorControl(address) as control:
                self.assertEqual(address, str(path))
                self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
                with self.assertRaisesRegex(AssertionError, "another server is controlled there"):
                    with controlled(str(path)):
                        self.fail("two servers on one socket")
                self.assertEqual(control.state()["instrument"], "skarab")
                server.stop(SIGKILL)
            self.assertTrue(path.is_socket())
            with controlled(str(path)) as (server, address):
                with SimulatorControl(path.as_posix()) as control:
                    control.diode(True)
                self.assertEqual(server.stop(SIGTERM), 0, server.log())
            self.assertFalse(path.exists())

    def test_a_socket_that_somebody_removed(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "control.sock")
            with controlled(str(path)) as (server, _):
                os.unlink(path)
                self.assertEqual(server.stop(SIGTERM), 0, server.log())
                self.assertEqual(server.log(), "")


if __name__ == "__main__":
    unittest.main()
