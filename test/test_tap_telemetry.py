"""The telemetry of a tap: what it says of the target, from nothing but the requests that pass and their replies."""

from __future__ import annotations

import unittest
from functools import partial
from typing import Any
from unittest import mock

from discosbackend.access import AccessRules
from discosbackend.monitor.batches import Batches
from discosbackend.monitor.telemetry_publisher import ServerSource, TelemetryPublisher
from discosbackend.tap.conversation import Conversation
from discosbackend.tap.target_watch import TargetWatch
from discosbackend.tap.telemetry_source import TapSource
from discosbackend.ticks import Ticks

from .in_memory import quiet
from .session_player import Instrument, TappedWire
from .tapped import Tapped
from .telemetry_schema import message_in
from .test_telemetry_publisher import state_of

BEGIN = 1628683207.0
FLAGS = ("sampling", "busy", "suspended", "commandLineError", "dataLineError")


def setUpModule() -> None:
    quiet()


class Kept:
    """An outlet that keeps the last message. Every one is checked."""

    state = "kept"
    problem = ""

    def __init__(self) -> None:
        self.count = 0
        self.last: dict[str, Any] = {}

    def send(self, payload: bytes) -> None:
        self.count += 1
        self.last = message_in(payload)["Mine"]

    def close(self) -> None: ...

    def flags(self) -> str:
        """The flags that are true."""
        return " ".join(name for name in FLAGS if self.last[name])


def published(tapped: Tapped) -> tuple[Kept, TelemetryPublisher]:
    """The telemetry of a tap in memory, as the program starts it."""
    clock = tapped.clock

    def now_ticks() -> Ticks:
        return Ticks.from_unix(clock.seconds())

    watch = tapped.factory.watch = TargetWatch(tapped.factory.target, "server:10000", clock)
    source = TapSource(tapped.factory.running, lambda: watch.problem, now_ticks=now_ticks)
    watch.on_failure = source.forget
    kept = Kept()
    batches = Batches(clock)
    publisher = TelemetryPublisher(
        "Mine", source, [kept], reactor=clock, now_ticks=now_ticks, before_message=batches.flush
    )
    batches.listeners.append(publisher)
    tapped.factory.listeners += [source.on_exchange, batches]
    publisher.start()
    return kept, publisher


class TapSourceTests(unittest.TestCase):
    def setUp(self) -> None:
        self.tapped = Tapped(access=AccessRules(read_only=["10.0.0.8"]))
        self.clock = self.tapped.clock
        self.clock.advance(BEGIN)
        self.enterContext(mock.patch.object(Ticks, "now", lambda: Ticks.from_unix(self.clock.seconds())))
        conversation = partial(Conversation, monotonic=self.clock.seconds)
        self.enterContext(mock.patch("discosbackend.tap.proxy.Conversation", conversation))
        self.outlet, publisher = published(self.tapped)
        self.addCleanup(publisher.stop)

    def connect(self) -> None:
        self.client = self.tapped.connect()
        self.tapped.server.send(b"!version,ok,1.4\r\n")

    def exchange(self, request: bytes, reply: bytes) -> None:
        """A request passes, and its reply; then time for the telemetry."""
        self.client.send(request + b"\r\n")
        self.assertEqual(self.tapped.server.read(), request + b"\r\n")
        self.tapped.server.send(reply + b"\r\n")
        self.client.read()
        self.run_for(0.125)

    def run_for(self, seconds: float) -> None:
        self.clock.pump([1 / 64] * round(seconds * 64))

    def test_nothing_has_passed(self) -> None:
        self.run_for(10)
        self.assertEqual(self.outlet.count, 11)
        last = self.outlet.last
        self.assertEqual((self.outlet.flags(), last["integration"], last["channels"]), ("", -1, []))
        self.assertTrue(last["timeSync"])
        # Nothing is asked, and not even a connection is made.
        self.assertEqual(self.tapped.target.attempts, 0)
        self.connect()
        self.run_for(10)
        self.assertEqual(self.tapped.server.read(), b"")

    def test_status(self) -> None:
        self.connect()
        self.exchange(b"?status", b"!status,ok,%d.5000000,hot, very,1" % (BEGIN + 2))
        # It is not valid: it has four values.
        self.assertEqual(self.outlet.flags(), "commandLineError")
        self.exchange(b"?status", b"!status,ok,%d.5000000,ok,0" % (BEGIN + 2))
        self.assertEqual(self.outlet.flags(), "")
        self.exchange(b"?status", b"!status,ok,%d.5000000,ADC 3 is hot,1" % (BEGIN + 2))
        for _ in range(3):
            # The clock of the backend goes on.
            last = self.outlet.last
            self.assertEqual(self.outlet.flags(), "sampling busy commandLineError")
            ahead = last["backendTime"]["unix_time"] - last["timestamp"]["unix_time"]
            self.assertAlmostEqual(ahead, 2.5 - 0.25, 5)
            self.run_for(5)
        self.exchange(b"?status", b"!status,fail,no power")
        self.assertEqual(self.outlet.flags(), "sampling busy commandLineError")
        self.exchange(b"?status", b"!status,ok,%d.0000000,ok,0" % BEGIN)
        self.assertEqual(self.outlet.flags(), "")

    def test_start_and_stop(self) -> None:
        self.connect()
        for request, reply, flags in (
            (b"?start", b"!start,fail,no", ""),
            (b"?start", b"!start,ok", "sampling busy"),
            (b"?start", b"!start,fail,acquiring already", "sampling busy"),
            (b"?stop", b"!stop,fail,no", "sampling busy"),
            (b"?stop", b"!stop,ok", ""),
            # A server that takes a time that the protocol has not: it is not known what it does.
            (b"?start", b"!start,ok", "sampling busy"),
            (b"?start,soon", b"!start,ok", ""),
        ):
            with self.subTest(request=request, reply=reply):
                self.exchange(request, reply)
                self.assertEqual(self.outlet.flags(), flags)

    def test_timed_start_and_stop(self) -> None:
        self.connect()
        for form in (b"%d0000000", b"%d.0"):
            now = int(self.clock.seconds())
            self.exchange(b"?start," + form % (now + 3), b"!start,ok")
            self.exchange(b"?stop," + form % (now + 5), b"!stop,ok")
            self.assertEqual(self.outlet.flags(), "suspended")
            self.run_for(2.625)
            self.assertEqual(self.outlet.flags(), "suspended")
            self.run_for(0.25)
            self.assertEqual(self.outlet.flags(), "sampling busy")
            # The reply of a status agrees.
            self.exchange(b"?status", b"!status,ok,%d.0000000,ok,1" % (now + 3))
            self.run_for(1.625)
            self.assertEqual(self.outlet.flags(), "sampling busy")
            # Up to a whole second.
            self.run_for(1.125)
            self.assertEqual(self.outlet.flags(), "")
        # A stop cancels a start that is pending.
        self.exchange(b"?start," + form % (self.clock.seconds() + 3), b"!start,ok")
        self.assertEqual(self.outlet.flags(), "suspended")
        self.exchange(b"?stop", b"!stop,ok")
        self.run_for(5)
        self.assertEqual(self.outlet.flags(), "")

    def test_integration(self) -> None:
        self.connect()
        for request, reply, integration in (
            (b"?get-integration", b"!get-integration,ok,40", 40),
            (b"?set-integration,20", b"!set-integration,ok", 20),
            (b"?set-integration,10", b"!set-integration,fail,no", 20),
            (b"?set-configuration,K2", b"!set-configuration,fail,no", 20),
            # Each configuration has its own, which nobody has asked for.
            (b"?set-configuration,K2", b"!set-configuration,ok", -1),
            (b"?get-integration", b"!get-integration,ok,5", 5),
            (b"?get-integration", b"!get-integration,ok,five", -1),
        ):
            with self.subTest(request=request, reply=reply):
                self.exchange(request, reply)
                self.assertEqual(self.outlet.last["integration"], integration)
                self.run_for(2)
                self.assertEqual(self.outlet.last["integration"], integration)

    def test_channels(self) -> None:
        self.connect()

        def channels(request: bytes, reply: bytes = b"!set-section,ok") -> list[tuple[Any, ...]]:
            self.exchange(request, reply)
            for each in self.outlet.last["channels"]:
                self.assertEqual((each["attenuation"], each["systemTemperature"]), (-1, -1))
            names = ("id", "polarization", "startFrequency", "bandWidth", "bins", "sampleRate")
            return [tuple(each[name] for name in names) for each in self.outlet.last["channels"]]

        first = (0, "LHCP", 100, 1500, 1024, 3000)
        self.assertEqual(channels(b"?set-section,0,100,1500,0,0,3000,1024"), [first])
        self.assertEqual(channels(b"?set-section,1,*,*,0,RCP,*,*"), [first, (1, "RHCP", -1, -1, -1, -1)])
        self.assertEqual(
            channels(b"?set-section,0,*,*,*,*,*,7", b"!set-section,fail,no"), [first, (1, "RHCP", *[-1] * 4)]
        )
        wanted = [(0, "LHCP", 100, 420, 1024, 3000), (1, "RHCP", -1, 420, -1, -1)]
        self.assertEqual(channels(b"?set-section,*,*,420,*,*,*,*"), wanted)
        # Their polarisation is not known.
        self.assertEqual(channels(b"?set-section,2,0,420,0,CP,840,64"), wanted)
        self.assertEqual(channels(b"?set-section,3,0,420,0,*,840,64"), wanted)
        # What a message cannot contain.
        self.assertEqual(channels(b"?set-section,-1,0,420,0,0,840,64"), wanted)
        self.assertEqual(channels(b"?set-section,4,0,420,0,0,840,0"), wanted)
        self.assertEqual(channels(b"?set-section,2,*,*,*,2,*,*"), [*wanted, (2, "FULL STOKES", 0, 420, 64, 840)])
        # What the protocol does not have: the sections are not known any more.
        self.assertEqual(channels(b"?set-section,all"), [])
        self.assertEqual(channels(b"?set-section,0,100,1500,0,0,3000,1024"), [first])
        self.assertEqual(channels(b"?set-configuration,K2", b"!set-configuration,ok"), [])

    def test_the_number_of_sections_is_limited(self) -> None:
        self.connect()
        for number in range(1100):
            self.client.send(b"?set-section,%d,0,420,0,0,840,64\r\n" % number)
            self.tapped.server.read()
            self.tapped.server.send(b"!set-section,ok\r\n")
            self.client.read()
        self.run_for(1)
        self.assertEqual(len(self.outlet.last["channels"]), 1000)

    def test_a_command_that_runs(self) -> None:
        self.connect()
        self.exchange(b"?get-tpi", b"!get-tpi,ok,1")
        for name, flags in ((b"get-filename", ""), (b"nonesuch", ""), (b"convert-data", "busy"), (b"get-tpi", "busy")):
            with self.subTest(name):
                self.client.send(b"?%s\r\n?status\r\n" % name)
                self.tapped.server.read()
                self.run_for(1.5)
                self.assertEqual(self.outlet.flags(), flags)
                self.tapped.server.send(b"!%s,fail,no\r\n!status,ok,1.0000000,ok,0\r\n" % name)
                self.client.read()
                self.run_for(1.5)
                self.assertEqual(self.outlet.flags(), "")

    def test_a_request_that_the_tap_refuses_changes_nothing(self) -> None:
        self.connect()
        other = self.tapped.connect(mock.Mock(spec=self.client.getPeer(), host="10.0.0.8", port=1, type="TCP"))
        self.tapped.server.send(b"!version,ok,1.4\r\n")
        other.send(b"?start\r\n")
        self.run_for(1)
        self.assertIn(b"!start,fail,not allowed", other.read())
        self.assertEqual(self.outlet.flags(), "")

    def test_a_target_that_ends(self) -> None:
        self.connect()
        self.exchange(b"?set-section,0,100,1500,0,0,3000,1024", b"!set-section,ok")
        self.exchange(b"?set-integration,20", b"!set-integration,ok")
        self.exchange(b"?start", b"!start,ok")
        self.tapped.target.away = True
        self.tapped.server.end()
        self.tapped.connect()
        self.run_for(1)
        last = self.outlet.last
        self.assertEqual((self.outlet.flags(), last["integration"], last["channels"]), ("commandLineError", -1, []))
        self.tapped.target.away = False
        self.connect()
        self.exchange(b"?status", b"!status,ok,%d.0000000,ok,0" % BEGIN)
        self.assertEqual(self.outlet.flags(), "")


class SameAsTheServerTests(unittest.TestCase):
    """A simulated instrument with telemetry, and a tap before it with its own: both say the same."""

    def test_the_same_messages(self) -> None:
        instrument = Instrument("discos")
        clock, factory = instrument.clock, instrument.factory
        wire = TappedWire(factory, clock)
        kept = Kept()
        batches = Batches(clock)
        server = TelemetryPublisher(
            "Mine",
            ServerSource(state_of(factory), factory.handler),
            [kept],
            reactor=clock,
            now_ticks=wire.now,
            before_message=batches.flush,
        )
        batches.listeners.append(server)
        factory.listeners.append(batches)
        with instrument.running():
            server.start()
            self.addCleanup(server.stop)
            through, publisher = published(wire.tapped)
            self.addCleanup(publisher.stop)
            wire.connect(1)
            begin = wire.clock()
            compared = set()
            for request, seconds in (
                ("?status", 0.2),
                ("?set-configuration,K2", 0.2),
                ("?get-integration", 0.2),
                ("?start", 1.2),
                ("?stop", 0.2),
                ("?set-integration,20", 0.2),
                (f"?start,{begin + 6:.7f}", 0.2),
                ("?start", 0.2),
                (f"?stop,{begin + 8:.7f}", 1),
                ("?status", 4),
                ("?stop", 0.2),
                ("?set-section,0,0,200,0,0,400,1024", 0.2),
            ):
                wire.send(1, request.encode() + b"\r\n")
                self.assertEqual(len(wire.receive(0)), 1, request)
                for _ in range(round(seconds / 0.1)):
                    clock.pump([0.02] * 5)
                    wire.receive(0)
                    names = [*FLAGS, *([] if through.last["integration"] == -1 else ["integration"])]
                    wanted = {name: kept.last[name] for name in names}
                    self.assertEqual({name: through.last[name] for name in names}, wanted, request)
                    compared.add(through.flags())
            self.assertEqual(compared, {"", "sampling busy", "suspended"})


if __name__ == "__main__":
    unittest.main()
