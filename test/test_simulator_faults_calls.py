"""Commands that fail, hang or take their time on purpose, in every style that a backend's method may have."""

from __future__ import annotations

import threading
import unittest
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from discosbackend.backend import Backend, Field, blocking, command
from discosbackend.handlers import AlwaysOkHandler, DBProtocolHandler
from discosbackend.simulator.faults.protocol import FaultyFactory
from discosbackend.simulator.faults.script import Fault, Faults

from .in_memory import GREETING, Connection, greeted, quiet
from .settings import PATIENCE, wait_until


def setUpModule() -> None:
    quiet()


class Instrument(Backend):
    """Commands in every style; it remembers what it carried out, and when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.done: list[tuple[str, float]] = []
        self.in_thread = threading.Event()

    def _did(self, name: str) -> None:
        self.done.append((name, self.clock.seconds()))

    def status(self) -> tuple[Any, str, bool]:
        return self.time(), "ok", False

    def time(self) -> float:
        return 1.5

    def start(self, timestamp: Any = None) -> None:
        self._did("start")

    # A backend's method may be of any style.
    async def set_configuration(  # see above
        self, configuration: str
    ) -> None:
        self._did(configuration)

    def set_integration(self, integration: int) -> Deferred[None]:
        deferred: Deferred[None] = Deferred()
        self.clock.callLater(1, deferred.callback, None)
        return deferred

    @blocking
    def set_shift(self, shift: int) -> None:
        self._did("set-shift")
        self.in_thread.set()

    @command("tune", reply=[Field("tuned", "integer")])
    def tune(self) -> int:
        self._did("tune")
        return 7


class CallTests(unittest.TestCase):
    def serve(self, *faults: Fault, command_timeout: float = 60.0) -> tuple[Connection, Instrument]:
        clock = Clock()
        backend = Instrument(clock)
        handler = DBProtocolHandler(backend, reactor=clock, command_timeout=command_timeout)
        factory = FaultyFactory(handler, Faults(0, faults), reactor=clock)
        factory.doStart()
        return greeted(factory), backend

    def test_fail(self) -> None:
        connection, backend = self.serve(
            Fault(kind="fail", command="start", nth=1),
            Fault(kind="fail", command="tune", nth=2, text="no lock, sorry"),
        )
        self.assertEqual(
            connection.ask(b"?start\n?tune\n?tune\n"),
            b"!start,fail,failed on purpose\r\n!tune,ok,7\r\n!tune,fail,no lock\\, sorry\r\n",
        )
        self.assertEqual([name for name, _ in backend.done], ["tune"])
        self.assertEqual(connection.ask(b"?start\n"), b"!start,ok\r\n")

    def test_a_call_is_one_that_a_client_asked_for(self) -> None:
        connection, _ = self.serve(Fault(kind="fail", command="time", rate=1))
        self.assertEqual(connection.ask(b"?status\n"), b"!status,ok,1.5000000,ok,0\r\n")
        self.assertEqual(connection.ask(b"?time\n"), b"!time,fail,failed on purpose\r\n")

    def test_version_too_but_not_the_greeting(self) -> None:
        connection, _ = self.serve(Fault(kind="fail", command="version", nth=1))
        failed = b"!version,fail,failed on purpose\r\n"
        self.assertEqual(connection.ask(b"?version\n?version\n"), failed + GREETING)

    def test_arguments_are_judged_before(self) -> None:
        connection, _ = self.serve(Fault(kind="fail", command="set-shift", nth=1))
        self.assertEqual(connection.ask(b"?set-shift\n"), b"!set-shift,fail,set-shift needs 1 argument\r\n")

    def test_slow(self) -> None:
        for request, reply in [
            (b"?start\n", b"!start,ok\r\n"),
            (b"?set-configuration,x\n", b"!set-configuration,ok\r\n"),
            (b"?tune\n", b"!tune,ok,7\r\n"),
            (b"?status\n", b"!status,ok,1.5000000,ok,0\r\n"),
        ]:
            with self.subTest(request):
                connection, backend = self.serve(Fault(kind="slow", seconds=2, nth=1))
                self.assertEqual(connection.ask(request), b"")
                connection.clock.advance(1.9)
                self.assertEqual((connection.received(), backend.done), (b"", []))
                connection.clock.advance(0.2)
                self.assertEqual(connection.received(), reply)
                self.assertEqual(connection.ask(request), reply)

    def test_slow_comes_on_top_of_what_a_command_takes(self) -> None:
        connection, _ = self.serve(Fault(kind="slow", seconds=2, nth=1))
        connection.send(b"?set-integration,10\n")
        connection.clock.pump([1.0, 1.0, 0.9])
        self.assertEqual(connection.received(), b"")
        connection.clock.advance(0.2)
        self.assertEqual(connection.received(), b"!set-integration,ok\r\n")

    def test_slow_and_then_fail(self) -> None:
        connection, backend = self.serve(Fault(kind="slow", seconds=2, nth=1), Fault(kind="fail", nth=1))
        connection.send(b"?start\n")
        connection.clock.advance(2)
        self.assertEqual(connection.received(), b"!start,fail,failed on purpose\r\n")
        self.assertEqual(backend.done, [])

    def test_too_slow_is_never_carried_out(self) -> None:
        slow = Fault(kind="slow", seconds=9, command="start", nth=1)
        connection, backend = self.serve(slow, command_timeout=5)
        connection.send(b"?start\n")
        connection.clock.pump([1.0] * 6)
        self.assertEqual(connection.received(), b"!start,fail,timeout: start took longer than 5 s\r\n")
        # Nor is it waited for.
        self.assertEqual(connection.clock.getDelayedCalls(), [])
        connection.clock.advance(20)
        self.assertEqual(backend.done, [])

    def test_hang_until_the_time_limit(self) -> None:
        connection, backend = self.serve(Fault(kind="hang", command="start", nth=1), command_timeout=5)
        other = greeted(connection.factory)
        connection.send(b"?start\n")
        other.send(b"?tune\n")
        self.assertEqual(other.ask(b""), b"")
        connection.clock.pump([1.0] * 4)
        self.assertEqual(connection.received(), b"")
        connection.clock.advance(1.5)
        self.assertEqual(connection.received(), b"!start,fail,timeout: start took longer than 5 s\r\n")
        self.assertEqual(connection.ask(b"?start\n"), b"!start,ok\r\n")
        self.assertIn("start", [name for name, _ in backend.done])

    def test_what_hangs_fails_when_the_server_goes_down(self) -> None:
        connection, _ = self.serve(Fault(kind="hang", command="start", nth=1))
        connection.send(b"?start\n")
        done: list[Any] = []
        connection.factory.finish(3).addCallback(done.append)
        self.assertEqual(connection.received(), b"!start,fail,server is stopping\r\n")
        self.assertEqual(done, [None])
        connection.factory.doStop()
        self.assertTrue(connection.factory.stopped.called)

    def test_what_waits_for_its_turn_at_a_restart_is_never_carried_out(self) -> None:
        connection, backend = self.serve(Fault(kind="hang", command="start", nth=1))
        others = [greeted(connection.factory) for _ in range(4)]
        connection.send(b"?start\n")
        for other in others:
            other.send(b"?tune\n")
        assert isinstance(connection.factory, FaultyFactory)
        connection.factory.restart(1)
        connection.clock.advance(0)
        self.assertEqual(backend.done, [])
        self.assertEqual(greeted(connection.factory).ask(b"?tune\n"), b"!tune,ok,7\r\n")

    def test_marks_signatures_and_other_handlers_stay(self) -> None:
        FaultyFactory(AlwaysOkHandler())
        handler = DBProtocolHandler(Instrument(Clock()))
        FaultyFactory(handler)
        tune: Any = handler.commands["tune"]
        self.assertEqual((tune([]), tune.method.__name__), (7, "tune"))


class InThreadTests(unittest.TestCase):
    """Methods marked @blocking: the call itself, as the handler's thread makes it."""

    def call(self, fault: Fault) -> tuple[FaultyFactory, Instrument, list[object], threading.Thread]:
        backend = Instrument(Clock())
        handler = DBProtocolHandler(backend, reactor=backend.clock)
        factory = FaultyFactory(handler, Faults(0, [fault]), reactor=backend.clock)
        outcome: list[object] = []

        def work() -> None:
            try:
                outcome.append(handler.commands["set-shift"](["3"]))
            except Exception as problem:  # noqa: BLE001  # it is looked at
                outcome.append(str(problem))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        # Not before it has been struck may the server go down.
        wait_until(lambda: factory.faults.armed[0].applied, "the fault")
        return factory, backend, outcome, thread

    def test_hang_until_the_server_goes_down(self) -> None:
        factory, backend, outcome, thread = self.call(Fault(kind="hang", rate=1))
        self.assertFalse(backend.in_thread.wait(0.05))
        factory.finish(3)
        thread.join(PATIENCE)
        self.assertEqual((outcome, backend.done), (["server is stopping"], []))

    def test_slow(self) -> None:
        _, backend, outcome, thread = self.call(Fault(kind="slow", seconds=0.02, rate=1))
        thread.join(PATIENCE)
        self.assertEqual((outcome, len(backend.done)), ([None], 1))

    def test_slow_is_given_up_when_the_server_goes_down(self) -> None:
        factory, backend, outcome, thread = self.call(Fault(kind="slow", seconds=600, rate=1))
        factory.restart(1)
        thread.join(PATIENCE)
        self.assertEqual((outcome, backend.done), (["server is stopping"], []))

    def test_fail(self) -> None:
        _, _, outcome, thread = self.call(Fault(kind="fail", rate=1))
        thread.join(PATIENCE)
        self.assertEqual(outcome, ["failed on purpose"])


if __name__ == "__main__":
    unittest.main()
