"""Which reactor a backend is served on: what the class says, what the user chooses, and what was installed before."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
import types
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import twisted.internet
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import ReactorBase
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.testing import MemoryReactorClock

from discosbackend import Backend, DBProtocolHandler, run_server
from discosbackend.cli import server
from discosbackend.reactors import (
    install_reactor,
    loop_of,
    reactor_for,
    reactor_wanted_by,
    runs_on_asyncio,
    use_steady_clock,
)

from .programs import InMemory, run_program
from .settings import PATIENCE


class Asyncio(Backend):
    """A backend that needs asyncio."""

    reactor = "asyncio"


class ChoiceTests(unittest.TestCase):
    """reactor_wanted_by() and reactor_for()."""

    def test_what_the_class_says(self) -> None:
        class Keeps(Backend):
            """A backend that keeps a reactor of its own under this name."""

            reactor = MemoryReactorClock()

        class Computes(Backend):
            @property
            def reactor(self) -> Any:
                raise AssertionError("it was asked")

        class Strange:
            reactor = "asyncio"

            def __getattr__(self, name: str) -> Any:
                raise AssertionError(f"it was asked for {name}")

        kept = Backend()
        kept.reactor = "asyncio"  # the instance's own
        for backend, wanted in (
            (Backend(), "default"),
            (Asyncio(), "asyncio"),
            (Asyncio, "asyncio"),
            (Keeps(), "default"),
            (Computes(), "default"),
            (Strange(), "asyncio"),
            (kept, "default"),
            (None, "default"),
        ):
            with self.subTest(backend):
                self.assertEqual(reactor_wanted_by(backend), wanted)

    def test_what_the_user_chooses(self) -> None:
        for backend, chosen, expected in (
            (Backend(), None, "default"),
            (Backend(), "default", "default"),
            (Backend(), "asyncio", "asyncio"),
            (Asyncio(), None, "asyncio"),
            (Asyncio(), "asyncio", "asyncio"),
        ):
            with self.subTest(backend=type(backend).__name__, chosen=chosen):
                self.assertEqual(reactor_for(backend, chosen), expected)

    def test_wrong_ones(self) -> None:
        class Misspelt(Backend):
            reactor = "asnycio"

        for backend, chosen, text in (
            (Misspelt(), None, 'Misspelt.reactor must be "default" or "asyncio", not \'asnycio\''),
            (Backend(), "uvloop", 'reactor must be "default" or "asyncio", not \'uvloop\''),
            (Asyncio(), "default", 'Asyncio has reactor = "asyncio", so it needs --reactor asyncio instead of default'),
        ):
            with self.subTest(text), self.assertRaises(ValueError) as caught:
                reactor_for(backend, chosen)
            self.assertEqual(str(caught.exception), text)


class InstallTests(unittest.TestCase):
    """install_reactor(), where a reactor is installed already."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.enterContext(mock.patch.object(twisted.internet, "reactor", self.reactor, create=True))

    def refusal(self) -> str:
        with self.assertRaises(RuntimeError) as caught:
            install_reactor("asyncio")
        return str(caught.exception)

    def test_the_default_needs_nothing(self) -> None:
        install_reactor("default")

    def test_it_names_the_module_that_has_imported_another(self) -> None:
        module = types.ModuleType("spectrometer.driver")
        module.loop = self.reactor  # type: ignore[attr-defined]
        with mock.patch.dict(sys.modules, {"twisted.words.odd": module, "spectrometer.driver": module}):
            self.assertEqual(
                self.refusal(),
                "the asyncio reactor cannot be installed: the module spectrometer.driver has imported "
                "twisted.internet.reactor before, which installed MemoryReactorClock; import it inside the functions "
                "that use it, or start the server with --reactor asyncio, which installs the reactor before it imports "
                "your module",
            )

    def test_where_no_module_can_be_named(self) -> None:
        self.assertIn("cannot be installed: something has imported twisted.internet.reactor before", self.refusal())

    def test_the_asyncio_reactor_itself(self) -> None:
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        reactor = AsyncioSelectorReactor(loop)
        self.addCleanup(reactor.disconnectAll)
        with mock.patch.object(twisted.internet, "reactor", reactor):
            install_reactor("asyncio")
            self.assertTrue(runs_on_asyncio())
        self.assertFalse(runs_on_asyncio())
        self.assertIs(loop_of(reactor), loop)
        self.assertIsNone(loop_of(self.reactor))

    def test_run_server(self) -> None:
        with self.assertRaisesRegex(RuntimeError, "the asyncio reactor cannot be installed"):
            run_server(0, DBProtocolHandler(Backend()), "127.0.0.1", reactor="asyncio")
        with self.assertRaisesRegex(RuntimeError, "the asyncio reactor cannot be installed"):
            run_server(0, DBProtocolHandler(Asyncio()), "127.0.0.1")
        with self.assertRaisesRegex(ValueError, "needs --reactor asyncio"):
            run_server(0, DBProtocolHandler(Asyncio()), "127.0.0.1", reactor="default")

    def test_run_server_where_a_loop_runs(self) -> None:
        async def serve() -> None:
            run_server(0, DBProtocolHandler(Asyncio()), "127.0.0.1")

        with self.assertRaisesRegex(RuntimeError, r"`async with discosbackend.serve\(backend, port\):` instead"):
            asyncio.run(serve())


class StartTests(unittest.TestCase):
    """server_started() on an asyncio reactor."""

    def test_it_waits_for_the_event_loop(self) -> None:
        class Started(Backend):
            loop: Any = None

            def server_started(self) -> None:
                self.loop = asyncio.get_running_loop()

        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        reactor = AsyncioSelectorReactor(loop)
        self.addCleanup(reactor.disconnectAll)
        backend = Started()
        DBProtocolHandler(backend, reactor=reactor).start()
        self.assertIsNone(backend.loop)
        loop.run_until_complete(asyncio.sleep(0))
        self.assertIs(backend.loop, loop)


MINE = """
{}
from discosbackend import Backend

class Mine(Backend):
    reactor = {!r}

    def __init__(self):
        print("made")
"""


class CommandLineTests(unittest.TestCase):
    """discos-backend-server, in this process, where another reactor is installed."""

    def refusal(self, reactor: str, *options: str, line: str = "") -> str:
        with mock.patch.dict(sys.modules):
            sys.modules.pop("mine", None)
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "mine.py").write_text(MINE.format(line, reactor), encoding="utf-8")
                outcome = run_program(server.main, "--backend", "mine:Mine", *options, cwd=folder, reactor=InMemory())
        self.assertEqual((outcome.status, outcome.out), (1, ""))
        (text,) = outcome.err.splitlines()
        return text

    def test_refusals(self) -> None:
        imported = "from twisted.internet import reactor"
        cannot = "discos-backend-server: the asyncio reactor cannot be installed: "
        for text, expected in (
            (self.refusal("asyncio", line=imported), f"{cannot}the module mine has imported twisted.internet.reactor"),
            (self.refusal("default", "--reactor", "asyncio"), f"{cannot}something has imported"),
            (
                self.refusal("asyncio", "--reactor", "default"),
                'discos-backend-server: Mine has reactor = "asyncio", so it needs --reactor asyncio instead of default',
            ),
            (self.refusal("asnycio"), 'discos-backend-server: Mine.reactor must be "default" or "asyncio", not'),
        ):
            with self.subTest(expected):
                self.assertEqual(text[: len(expected)], expected)


class SteadyClockTests(unittest.TestCase):
    """use_steady_clock()."""

    def reactors(self) -> Iterator[ReactorBase]:
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        for reactor in (SelectReactor(), AsyncioSelectorReactor(loop)):
            self.addCleanup(reactor.disconnectAll)
            yield reactor

    def test_timers_do_not_follow_a_step_of_the_clock_of_the_host(self) -> None:
        for reactor in self.reactors():
            with self.subTest(type(reactor)):
                called: list[str] = []
                for delay, name in ((100_000.0, "late"), (0.0, "at once")):
                    reactor.callLater(delay, called.append, name)
                # One that is in the queue of the reactor, and a new one.
                reactor.runUntilCurrent()
                self.assertEqual(called, ["at once"])
                moved = reactor.callLater(200_000, called.append, "moved")
                now = time.monotonic()
                use_steady_clock(reactor)
                # Again, after a server that could not listen.
                use_steady_clock(reactor)
                self.assertIs(reactor.seconds, time.monotonic)
                first, second = sorted(call.getTime() - now for call in reactor.getDelayedCalls())
                self.assertAlmostEqual(first, 100_000, delta=PATIENCE)
                self.assertAlmostEqual(second, 200_000, delta=PATIENCE)
                moved.reset(300_000)
                self.assertAlmostEqual(moved.getTime() - now, 300_000, delta=PATIENCE)
                moved.reset(0)
                reactor.runUntilCurrent()
                self.assertEqual(called, ["at once", "moved"])

    def test_a_reactor_with_a_clock_of_its_own(self) -> None:
        reactor = MemoryReactorClock()
        use_steady_clock(reactor)
        reactor.advance(7)
        self.assertEqual(reactor.seconds(), 7)


if __name__ == "__main__":
    unittest.main()
