"""Tests of the log messages about methods that cannot work: what was meant, and what to write instead."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import unittest
from asyncio import sleep
from collections.abc import Callable
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from discosbackend import Argument, Backend, DBProtocolHandler, blocking, command
from discosbackend.advice import (
    _is_one_slip,
    asyncio_methods,
    misspelt_methods,
    signature_problems,
)
from discosbackend.commands import COMMANDS
from discosbackend.coroutines import asyncio_cure, deferred_of, future_of
from discosbackend.simulator import INSTRUMENTS, SimulatedBackend

from .backend_simulator import BackendSimulator
from .in_memory import greeted
from .serving import ROOT


def warnings_of(backend: Any) -> list[str]:
    """Return the warnings that are logged when a handler gets this backend."""
    with mock.patch("logging.Logger.warning") as warning:
        DBProtocolHandler(backend, reactor=Clock())
    return [call.args[0] % call.args[1:] for call in warning.mock_calls]


def with_method(name: str, base: type = Backend) -> Any:
    """Return a backend with one method of this name."""

    def method(self: Any, *arguments: Any) -> None: ...

    return type("Mine", (base,), {name: method})()


class MisspeltTests(unittest.TestCase):
    """Tests of methods whose names look like a misspelt command."""

    MISSPELT = {
        "set_configration": "set_configuration",
        "set_confguration": "set_configuration",
        "set_configuraton": "set_configuration",
        "set_config": "set_configuration",
        "setConfiguration": "set_configuration",
        "get_tpI": "get_tpi",
        "get_tp1": "get_tpi",
        "get_TP0": "get_tp0",
        "gettpi": "get_tpi",
        "setIntegration": "set_integration",
        "set_intergration": "set_integration",
        "set_sections": "set_section",
        "setFilename": "set_filename",
        "set_file_name": "set_filename",
        "convert": "convert_data",
        "convertdata": "convert_data",
        "end_shedule": "end_schedule",
        "backend_park": "park",
        "stauts": "status",
        "Status": "status",
        "strat": "start",
        "tsop": "stop",
        "set_shfit": "set_shift",
        "cal_One": "cal_on",
        "calon": "cal_on",
        "get_dcoffset": "get_ddcoffset",
        "server_start": "server_started",
        "server_stoping": "server_stopping",
        "telemetry_channel": "telemetry_channels",
    }

    def test_what_was_meant(self) -> None:
        for base in (Backend, object):
            for name, meant in self.MISSPELT.items():
                with self.subTest(name, base=base.__name__):
                    (said,) = warnings_of(with_method(name, base))
                    self.assertIn(f"no command calls {name}() of Mine: did you mean {meant}(), which ", said)

    def test_which_command_that_is(self) -> None:
        for name, said in (
            ("set_configration", "set_configuration(), which answers set-configuration?"),
            ("backend_park", "park(), which answers backend-park?"),
            ("server_start", "server_started(), which is called when the server listens?"),
            ("telemetryChannels", "telemetry_channels(), which is called for each message of DISCOS telemetry?"),
        ):
            self.assertTrue(warnings_of(with_method(name))[0].endswith(said))

    def test_every_command_with_any_letter_missing_doubled_or_capital(self) -> None:
        methods = {row.method for row in COMMANDS.values()}
        for row in COMMANDS.values():
            if row.name == "version":
                continue
            for at in range(len(row.method)):
                head, letter, tail = row.method[:at], row.method[at], row.method[at + 1 :]
                for name in (head + tail, head + letter * 2 + tail, head + letter.upper() + tail):
                    if name.startswith("_") or name in methods:
                        continue
                    with self.subTest(name):
                        (said,) = misspelt_methods(with_method(name))
                        # get_tp and et_filename are similar to two methods each.
                        self.assertIn(row.method[1:6], said)

    def test_helpers_of_ones_own(self) -> None:
        for name in (
            "_set_configration",
            "measure",
            "get_temperature",
            "set_bandwidth",
            "get_section",
            "get_shift",
            "set_tpi",
            "restart",
            "connect",
            "reset",
            "poll",
            "read_status_word",
            "park_antenna",
            "calibrate",
            "begin",
            "end",
            "version_of_firmware",
        ):
            with self.subTest(name):
                self.assertEqual(warnings_of(with_method(name)), [])

    def test_near_to_a_command_that_is_there(self) -> None:
        class Mine(Backend):
            def set_section(self, *values: Any) -> None: ...

            def set_sections(self, *values: Any) -> None: ...

            def get_tpi(self) -> list[float]:
                return []

            def get_tp0(self) -> list[float]:
                return []

            def get_tp(self) -> list[float]:
                return []

        self.assertEqual(warnings_of(Mine()), [])

    def test_one_that_answers_a_command_of_its_own(self) -> None:
        class Mine(Backend):
            @command("set-configration")
            def set_configration(self) -> None: ...

        self.assertEqual(warnings_of(Mine()), [])

    def test_static_inherited_and_dynamic_ones(self) -> None:
        class Base(Backend):
            @staticmethod
            def get_tpI() -> None: ...

        class Mine(Base):
            @classmethod
            def setShift(cls, shift: int) -> None: ...

        class Proxy:
            def __getattr__(self, name: str) -> Any:
                raise OSError("no link")

            def set_shfit(self, shift: int) -> None: ...

        self.assertEqual(len(misspelt_methods(Mine())), 2)
        self.assertEqual(len(misspelt_methods(Proxy())), 1)

    def test_slips(self) -> None:
        for one, other, wanted in (
            ("status", "stauts", True),
            ("stop", "stp", True),
            ("stop", "stopp", True),
            ("stop", "stip", True),
            ("stop", "stops", True),
            ("stop", "pots", False),
            ("stop", "sp", False),
            ("start", "stop", False),
            ("time", "mite", False),
        ):
            with self.subTest(one, other=other):
                self.assertEqual(_is_one_slip(one, other), wanted)
                self.assertEqual(_is_one_slip(other, one), wanted)

    def test_nothing_is_said_of_right_ones(self) -> None:
        backends: list[Any] = [Backend(), BackendSimulator()]
        backends += [SimulatedBackend(name) for name in INSTRUMENTS]
        for path in sorted((ROOT / "examples").glob("*.py")):
            text = path.read_text(encoding="utf-8")
            if "class" in text and "(Backend)" in text:
                spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
                assert spec is not None and spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                try:
                    spec.loader.exec_module(module)
                except ModuleNotFoundError as problem:
                    # An example may need another library.
                    self.assertNotIn("discosbackend", str(problem))
                    continue
                backends += [
                    found.__new__(found)
                    for found in vars(module).values()
                    if isinstance(found, type) and issubclass(found, Backend) and found is not Backend
                ]
        self.assertGreater(len(backends), len(INSTRUMENTS) + 4)
        for backend in backends:
            with self.subTest(type(backend).__name__):
                self.assertEqual(warnings_of(backend), [])


class SignatureTests(unittest.TestCase):
    """Tests of methods whose parameters do not fit the arguments of the command."""

    def said(self, definition: str, base: type = Backend) -> list[str]:
        names: dict[str, Any] = {"Base": base, "blocking": blocking, "command": command, "Argument": Argument}
        exec(f"class Mine(Base):\n{definition}", names)
        return warnings_of(names["Mine"]())

    def test_a_missing_self(self) -> None:
        for definition, instead in (
            ("    def status(): pass", "def status(self)"),
            ("    def set_configuration(configuration): pass", "def set_configuration(self, configuration)"),
            ("    def start(timestamp=None): pass", "def start(self, timestamp=None)"),
            (
                "    def get_tpi(frequency=0.0, bandwidth=0.0): pass",
                "def get_tpi(self, frequency=0.0, bandwidth=0.0)",
            ),
            ("    async def get_rms(): pass", "async def get_rms(self)"),
            ("    def cal_on(interleave): pass", "def cal_on(self, interleave)"),
            ("    @blocking\n    def set_shift(shift): pass", "def set_shift(self, shift)"),
            (
                "    @command('sweep', Argument('power', 'float', optional=True))\n    def sweep(power=None): pass",
                "def sweep(self, power=None)",
            ),
        ):
            for base in (Backend, object):
                with self.subTest(definition, base=base.__name__):
                    (said,) = self.said(definition, base)
                    self.assertRegex(said, r"^\w+\(\) has no self, so that it cannot answer [a-z-]+: write `")
                    self.assertTrue(said.endswith(f"write `{instead}`"), said)

    def test_what_to_write(self) -> None:
        for definition, why, instead in (
            ("    def set_shift(self): pass", "too many positional arguments", "def set_shift(self, shift)"),
            ("    def set_shift(self, a, b): pass", "missing a required argument: 'b'", "def set_shift(self, shift)"),
            ("    def set_shift(self, *, shift): pass", "", "def set_shift(self, shift)"),
            ("    async def set_enable(self, feeds): pass", "", "async def set_enable(self, feed1, feed2)"),
            ("    @staticmethod\n    def set_shift(): pass", "", "def set_shift(shift)"),
            ("    def stop(self): pass", "", "def stop(self, timestamp=None)"),
            (
                "    @command('x', Argument('p', int), Argument('a-b', int, optional=True))\n    def sweep(self): pass",
                "",
                "def sweep(self, p, a_b=None)",
            ),
        ):
            with self.subTest(definition):
                said = self.said(definition)[0]
                self.assertIn("() cannot answer ", said)
                self.assertIn(why, said)
                self.assertTrue(said.endswith(f"write `{instead}`"), said)

    def test_an_attribute_that_is_no_method(self) -> None:
        (said,) = self.said("    status = 'ok'")
        self.assertEqual(
            said, "status of the backend is not a method, so status is not supported: write `def status(self)`"
        )

    def test_a_generator_that_awaits(self) -> None:
        (said,) = self.said("    async def get_tp0(self):\n        yield 1.0")
        self.assertIn("get_tp0() is an async generator", said)

    def test_right_ones(self) -> None:
        for definition in (
            "    def get_tpi(self): pass",
            "    def get_tpi(self, *band): pass",
            "    def set_section(this, *values): pass",
            "    def start(me, timestamp=None): pass",
            "    @staticmethod\n    def set_shift(shift): pass",
            "    @classmethod\n    def set_shift(cls, shift): pass",
            "    def status(*arguments): pass",
            "    def get_rms(self):\n        yield 1.0",
            "    set_shift = print",
        ):
            with self.subTest(definition):
                self.assertEqual(self.said(definition), [])

    def test_functions_of_an_object(self) -> None:
        mine = Backend()
        mine.set_shift = lambda shift: None  # type: ignore[method-assign]
        self.assertEqual(warnings_of(mine), [])

    def test_every_row(self) -> None:
        """The proposed definition causes no warning."""
        for row in COMMANDS.values():
            if row.arguments:
                wrong = self.said(f"    def {row.method}(self, *, _wrong): pass")
                instead = wrong[0].rpartition("write `")[2].rstrip("`")
                with self.subTest(instead):
                    self.assertEqual(self.said(f"    {instead}: pass"), [])

    def test_a_class_or_a_function_in_place_of_a_backend(self) -> None:
        def make() -> Backend:
            return Backend()

        for wrong, instead in ((Backend, r"Backend\(\) instead of Backend"), (make, r"make\(\) instead of make")):
            with self.subTest(instead), self.assertRaisesRegex(TypeError, f"a backend is an instance: {instead}"):
                DBProtocolHandler(wrong)

    def test_nothing_of_the_packages_own(self) -> None:
        self.assertEqual(signature_problems(COMMANDS["set-shift"], Backend.set_shift), [])


def raised_by(run: Callable[[], Any]) -> BaseException:
    try:
        run()
    except RuntimeError as problem:
        return problem
    raise AssertionError("nothing was raised")


def driven(coroutine: Any) -> Any:
    """Run a coroutine with Twisted, and raise its exception."""
    outcome: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(outcome.append)
    outcome[0].raiseException()


class AsyncioTests(unittest.TestCase):
    """Tests of exceptions that mean that asyncio is not running."""

    def test_real_ones(self) -> None:
        async def times_out() -> None:
            async with asyncio.timeout(1):
                await asyncio.sleep(0)

        async def awaits_a_future() -> None:
            loop = asyncio.new_event_loop()
            try:
                await loop.create_future()
            finally:
                loop.close()

        for run in (
            lambda: driven(asyncio.sleep(1)),
            lambda: driven(times_out()),
            lambda: driven(awaits_a_future()),
            lambda: driven(asyncio.to_thread(print)),
            asyncio.get_running_loop,
        ):
            problem = raised_by(run)
            with self.subTest(str(problem)):
                cure = asyncio_cure(problem)
                self.assertEqual(
                    cure,
                    "asyncio does not run in this server: start it with --reactor asyncio, or run_server(..., "
                    'reactor="asyncio"), or write `reactor = "asyncio"` in the class of the backend',
                )

    def test_real_ones_where_asyncio_runs(self) -> None:
        async def deferred_in_a_task() -> None:
            await asyncio.gather(waits(Deferred()))

        async def waits(deferred: Deferred[None]) -> None:
            await deferred

        async def run_in_the_loop() -> None:
            coroutine = asyncio.sleep(0)
            try:
                asyncio.run(coroutine)
            finally:
                coroutine.close()

        async def loop_of_a_thread() -> None:
            await asyncio.to_thread(asyncio.get_running_loop)

        async def driven_by_twisted() -> None:
            await Deferred.fromCoroutine(asyncio.sleep(1))

        for method, expected in (
            (deferred_in_a_task, "start the task with self.spawn(...)"),
            (run_in_the_loop, "write `async def`, and await the coroutine"),
            (loop_of_a_thread, "leave out @blocking"),
            (driven_by_twisted, "await the coroutine itself instead of a Deferred of it"),
        ):

            async def cured(method: Any = method) -> str:
                try:
                    await future_of(deferred_of(method()))
                except RuntimeError as problem:
                    return asyncio_cure(problem)
                raise AssertionError("it did not fail")

            with self.subTest(method.__name__):
                self.assertIn(expected, asyncio.run(cured()))

    def test_coroutines_that_use_asyncio(self) -> None:
        class Mine(Backend):
            async def get_tp0(self) -> None:
                await asyncio.sleep(1)

            async def get_tpi(self) -> None:
                async def inner() -> None:
                    await sleep(1)

                await inner()

            async def get_rms(self) -> None:
                with contextlib.suppress(asyncio.CancelledError):
                    await self.park()

            @blocking
            def get_ddcoffset(self) -> None:
                asyncio.run(self.measure())

            async def measure(self) -> None:
                await asyncio.sleep(1)
                await self.measure()

            async def server_started(self) -> None:
                await self.measure()

            @command("sweep")
            async def sweep(self) -> None:
                await asyncio.wait_for(self.park(), 1)

            async def park(self) -> None:
                await Deferred()

        rest = "() of Mine uses asyncio, but asyncio does not run in this server: "
        found = [problem.partition(rest)[0] for problem in asyncio_methods(Mine(), ["sweep"])]
        self.assertEqual(found, ["get_tp0", "get_tpi", "server_started", "sweep"])
        with self.assertLogs("discosbackend.handlers", "WARNING") as logs:
            DBProtocolHandler(Mine(), reactor=Clock()).start()
        self.assertEqual(len([line for line in logs.output if "WARNING" in line and "--reactor asyncio" in line]), 4)

    def test_nothing_is_told_where_asyncio_runs(self) -> None:
        class Mine(Backend):
            async def get_tp0(self) -> None:
                await asyncio.sleep(1)

        async def started() -> None:
            DBProtocolHandler(Mine(), reactor=Clock()).start()

        with self.assertNoLogs("discosbackend.handlers"):
            asyncio.run(started())

    def test_any_other(self) -> None:
        for problem in (RuntimeError("no link"), ValueError("no running event loop"), KeyError(1)):
            self.assertEqual(asyncio_cure(problem), "")

    def logged(self, *names: str, backend: Any) -> list[str]:
        """Send each of these commands twice, and return what was logged."""
        connection = greeted(DBProtocolHandler(backend, reactor=Clock()))
        with self.assertLogs("discosbackend", logging.ERROR) as logs:
            for name in names * 2:
                self.assertIn(b",fail,", connection.ask(b"?%s\r\n" % name.encode()))
        return [line for line in logs.output if "has to be changed" in line]

    def test_the_log_names_the_cure_once_a_command(self) -> None:
        class Mine(Backend):
            async def get_tp0(self) -> list[float]:
                await asyncio.sleep(0.01)
                return [1.0]

            async def status(self) -> Any:
                await asyncio.sleep(0.01)

            def get_rms(self) -> Any:
                return asyncio.get_running_loop().time()

            def get_integration(self) -> Any:
                return asyncio.get_running_loop().time()

        names = ("get-tp0", "status", "get-rms", "get-integration")
        logged = self.logged(*names, backend=Mine())
        self.assertEqual(len(logged), len(names), logged)
        for name, line in zip(names, logged, strict=True):
            self.assertIn(f"{name} failed, and has to be changed: asyncio does not run in this server", line)

    def test_a_hook(self) -> None:
        class Mine(Backend):
            async def server_started(self) -> None:
                await asyncio.sleep(0.01)

        handler = DBProtocolHandler(Mine(), reactor=Clock())
        with self.assertLogs("discosbackend.handlers", logging.ERROR) as logs:
            handler.start()
        self.assertTrue(any("asyncio does not run in this server" in line for line in logs.output), logs.output)


if __name__ == "__main__":
    unittest.main()
