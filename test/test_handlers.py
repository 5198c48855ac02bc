"""Tests of handlers: which method answers a request, with which arguments, and the life of a server.

Seen from the wire wherever the wire shows it, so that the gate in protocol is in play. What becomes of
whatever a method returns is test_handlers_replies' subject, lanes and time limits are test_lanes', threads
test_blocking's.
"""

from __future__ import annotations

import importlib
import sys
import threading
import unittest
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast
from unittest import mock

from astropy.time import Time
from twisted.internet.defer import Deferred, fail, succeed

from discosbackend import Argument, Backend, BackendError, command, handlers
from discosbackend.backend import Field
from discosbackend.commands import COMMANDS
from discosbackend.handlers import (
    AlwaysFailHandler,
    AlwaysOkHandler,
    AlwaysRaiseHandler,
    BackendCommand,
    DBProtocolHandler,
    Handler,
    HandlerException,
)
from discosbackend.ticks import Ticks

from .clients import TICKS, Client, FakeReactor, asked, request
from .in_memory import GENERIC, quiet
from .serving import run_python


def setUpModule() -> None:
    """What is logged here is expected; a test that cares looks with assertLogs."""
    quiet()


def raising(problem: BaseException) -> Callable[..., Any]:
    """A behaviour that raises."""

    def behaviour() -> Any:
        raise problem

    return behaviour


class Recorder(Backend):
    """Writes down the arguments of its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def set_section(self, *arguments: Any) -> None:
        self.calls.append(arguments)

    def set_enable(self, feed1: int, feed2: int) -> None:
        self.calls.append((feed1, feed2))

    def set_configuration(self, configuration: str) -> None:
        self.calls.append((configuration,))

    def set_integration(self, integration: int) -> None:
        self.calls.append((integration,))

    def set_shift(self, shift: int) -> None:
        self.calls.append((shift,))

    def set_filename(self, path: str) -> None:
        self.calls.append((path,))

    def cal_on(self, *arguments: Any) -> None:
        self.calls.append(arguments)

    def start(self, *arguments: Any) -> None:
        self.calls.append(arguments)

    def stop(self, *arguments: Any) -> None:
        self.calls.append(arguments)


class Original:
    """As an instrument builder wrote it for the original package: no base class, positional arguments."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.stopped: list[Any] = []
        self.section: tuple[Any, ...] = ()
        self.configuration = "unconfigured"

    def status(self) -> Any:
        return (1430922782.96875, "ok", 0)

    def get_configuration(self) -> str:
        return self.configuration

    def set_configuration(self, conf_name: str) -> None:
        self.configuration = conf_name

    def get_tpi(self) -> Any:
        return [1.5, 2.5]

    def get_tp0(self) -> Iterator[float]:
        yield 0.25
        yield 0.75

    def start(self, timestamp: Any = None) -> None:
        self.started.append(timestamp)

    def stop(self, timestamp: Any = None) -> None:
        self.stopped.append(timestamp)

    def set_section(self, section: Any, start: Any, bw: Any, feed: Any, mode: Any, rate: Any, bins: Any) -> None:
        self.section = (section, start, bw, feed, mode, rate, bins)


def ticks_of(time: Time) -> Fraction:
    """The exact count of 100 ns since 1970 that an astropy Time in UTC holds."""
    days = Fraction(float(time.jd1)) + Fraction(float(time.jd2)) - Fraction(4881175, 2)
    return days * 86400 * 10**7


class DropInTests(unittest.TestCase):
    """A class as written for the original package runs unchanged (architecture: how they behave)."""

    def test_returns_of_every_kind(self) -> None:
        for line, reply in [
            (b"?status", b"!status,ok,1430922782.9687500,ok,0\r\n"),
            (b"?get-configuration", b"!get-configuration,ok,unconfigured\r\n"),
            (b"?set-configuration,SK77", b"!set-configuration,ok\r\n"),
            (b"?get-tpi", b"!get-tpi,ok,1.5,2.5\r\n"),
            (b"?get-tpi,0,0", b"!get-tpi,ok,1.5,2.5\r\n"),
            (b"?get-tp0", b"!get-tp0,ok,0.25,0.75\r\n"),
            (b"?version", b"!version,ok,1.4\r\n"),
            (b"?time", b"!time,fail,not supported by this backend\r\n"),
        ]:
            with self.subTest(line):
                self.assertEqual(asked(Original(), line), reply)

    def test_section_arguments_are_positional(self) -> None:
        backend = Original()
        self.assertEqual(asked(backend, b"?set-section,1,2.5,*,4,CP,5.5,6"), b"!set-section,ok\r\n")
        self.assertEqual(repr(backend.section), "(1, 2.5, '*', 4, 'CP', 5.5, 6)")

    def test_start_and_stop_receive_an_exact_time(self) -> None:
        for line in (b"?start,%d" % TICKS, b"?stop,%d" % TICKS, b"?start,1795419485.9619467"):
            with self.subTest(line):
                backend = Original()
                self.assertTrue(asked(backend, line).endswith(b",ok\r\n"))
                times = backend.started + backend.stopped
                self.assertEqual(len(times), 1)
                time = times[0]
                self.assertIsInstance(time, Time)
                self.assertEqual((time.format, time.scale), ("discos", "utc"))
                self.assertLess(abs(ticks_of(time) - TICKS), Fraction(1, 2))
                self.assertEqual(time.to_value("discos", subfmt="str"), str(TICKS))
                self.assertEqual(time, Time(str(TICKS), format="discos"))

    def test_start_without_a_time_is_called_without(self) -> None:
        backend = Original()
        for line in (b"?start", b"?stop"):
            asked(backend, line)
        self.assertEqual((backend.started, backend.stopped), ([None], [None]))

    def test_backend_and_commands(self) -> None:
        backend = Original()
        handler = DBProtocolHandler(backend)
        self.assertIs(handler.backend, backend)
        self.assertIs(type(handler.commands), dict)
        self.assertEqual(set(handler.commands), set(COMMANDS))
        self.assertIsInstance(handler, Handler)

    def test_commands_take_the_texts_and_return_what_the_backend_does(self) -> None:
        backend = Original()
        commands = DBProtocolHandler(backend).commands
        self.assertEqual(commands["get-tpi"]([]), [1.5, 2.5])
        self.assertEqual(commands["version"]([]), "1.4")
        commands["set-section"](["1", "2.5", "*", "4", "CP", "5.5", "6"])
        self.assertEqual(backend.section, (1, 2.5, "*", 4, "CP", 5.5, 6))
        with self.assertRaisesRegex(HandlerException, "^set-section needs 7 arguments$"):
            commands["set-section"](["1"])

    def test_each_handler_has_commands_of_its_own(self) -> None:
        one, other = DBProtocolHandler(Original()), DBProtocolHandler(Original())
        del one.commands["status"]
        self.assertIn("status", other.commands)

    def test_a_fresh_interpreter_needs_no_reactor(self) -> None:
        program = """
import sys
from discosbackend.grammar import REQUEST, Message
from discosbackend.handlers import DBProtocolHandler

class Original:
    times = []
    def get_tpi(self):
        return [1.5, 2.5]
    def start(self, timestamp=None):
        self.times.append(timestamp)

handler = DBProtocolHandler(Original())
handler.start()
for name, arguments, text in [
    ("get-tpi", [], "!get-tpi,ok,1.5,2.5"),
    ("version", [], "!version,ok,1.4"),
    ("start", [], "!start,ok"),
    ("start", ["17954194859619467"], "!start,ok"),
]:
    assert "astropy" not in sys.modules, f"astropy before {name}"
    reply = handler.handle(Message(message_type=REQUEST, name=name, arguments=arguments))
    assert type(reply) is Message, reply
    assert str(reply) == text, reply
assert Original.times[0] is None
assert Original.times[1].format == "discos"
assert Original.times[1].to_value("discos", subfmt="str") == "17954194859619467"
handler.stop()
assert "twisted.internet.reactor" not in sys.modules, "a reactor was installed"
print("no reactor")
"""
        done = run_python("-c", program, fresh=True)
        self.assertEqual((done.stdout, done.returncode), ("no reactor\n", 0), done.stderr)


class CommandsTests(unittest.TestCase):
    """`DBProtocolHandler.commands` is a plain dict that users change."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.handler = DBProtocolHandler(Original(), reactor=self.reactor)
        self.client = Client(self.handler, self.reactor)

    def test_added_replaced_deleted(self) -> None:
        self.assertEqual(self.client.ask(b"?warm-up,5"), b"!warm-up,fail,invalid command 'warm-up'\r\n")
        self.handler.commands["warm-up"] = lambda arguments: ["warm", *arguments]
        self.handler.commands["get-tpi"] = len
        del self.handler.commands["get-tp0"]
        for line, reply in [
            (b"?warm-up,5,6", b"!warm-up,ok,warm,5,6\r\n"),
            (b"?get-tpi,a,b,c", b"!get-tpi,ok,3\r\n"),
            (b"?get-tp0", b"!get-tp0,fail,invalid command 'get-tp0'\r\n"),
        ]:
            with self.subTest(line):
                self.assertEqual(self.client.ask(line), reply)

    def test_what_an_added_one_may_return(self) -> None:
        for value, arguments in [
            (None, b""),
            ((), b""),
            ("text", b",text"),
            ([1, 2.5, True], b",1,2.5,1"),
            (succeed("soon"), b",soon"),
            (Ticks(TICKS), b",1795419485.9619467"),
        ]:
            with self.subTest(repr(value)):
                self.handler.commands["odd"] = lambda _: value
                self.assertEqual(self.client.ask(b"?odd"), b"!odd,ok" + arguments + b"\r\n")

    def test_an_added_one_may_refuse(self) -> None:
        def refuse(arguments: list[str]) -> None:
            raise BackendError(f"no {arguments[0]}")

        self.handler.commands["odd"] = refuse
        self.assertEqual(self.client.ask(b"?odd,way"), b"!odd,fail,no way\r\n")

    def test_one_that_wraps_another(self) -> None:
        asked_for = []
        original = self.handler.commands["set-configuration"]

        def wrapper(arguments: list[str]) -> Any:
            asked_for.append(arguments)
            return original(arguments)

        self.handler.commands["set-configuration"] = wrapper
        self.assertEqual(self.client.ask(b"?set-configuration,SK77"), b"!set-configuration,ok\r\n")
        self.assertEqual(asked_for, [["SK77"]])
        self.assertEqual(self.handler.backend.configuration, "SK77")

    def test_a_second_name_for_a_command(self) -> None:
        self.handler.commands["configuration"] = self.handler.commands["get-configuration"]
        self.handler.commands["tpi"] = self.handler.commands["get-tpi"]
        for line, reply in [
            (b"?configuration", b"!configuration,ok,unconfigured\r\n"),
            (b"?get-configuration", b"!get-configuration,ok,unconfigured\r\n"),
            (b"?tpi,0,0", b"!tpi,ok,1.5,2.5\r\n"),
        ]:
            with self.subTest(line):
                self.assertEqual(self.client.ask(line), reply)

    def test_one_that_is_replaced_between_two_requests(self) -> None:
        commands = self.handler.commands
        for function, reply in [
            (lambda _: "one", b"!odd,ok,one\r\n"),
            (lambda _: "two", b"!odd,ok,two\r\n"),
            (commands["get-configuration"], b"!odd,ok,unconfigured\r\n"),
            (commands["version"], b"!odd,ok,1.4\r\n"),
            (lambda _: "three", b"!odd,ok,three\r\n"),
        ]:
            commands["odd"] = function
            with self.subTest(reply):
                self.assertEqual(self.client.ask(b"?odd"), reply)
        # The method of a command can be replaced too.
        commands["odd"] = version = cast(BackendCommand, commands["version"])
        self.assertEqual(self.client.ask(b"?odd"), b"!odd,ok,1.4\r\n")
        version.method = lambda: "1.5"
        self.assertEqual(self.client.ask(b"?odd"), b"!odd,ok,1.5\r\n")

    def test_a_handler_with_the_handle_of_another_one(self) -> None:
        outer: Any = Handler()
        outer.handle = self.handler.handle
        self.assertEqual(
            Client(outer, self.reactor).ask(b"?get-configuration"), b"!get-configuration,ok,unconfigured\r\n"
        )

    def test_an_added_one_runs_in_the_device_lane(self) -> None:
        slow: Deferred[None] = Deferred()
        self.handler.commands["slow"] = lambda _: slow
        self.handler.commands["next"] = lambda _: None
        other = Client(self.handler, self.reactor)
        self.assertEqual(self.client.ask(b"?slow"), b"")
        self.assertEqual(other.ask(b"?next"), b"")
        slow.callback(None)
        self.assertEqual((self.client.answer(), other.answer()), (b"!slow,ok\r\n", b"!next,ok\r\n"))

    def test_an_added_one_has_the_default_time_limit(self) -> None:
        self.handler.commands["slow"] = lambda _: Deferred()
        self.client.ask(b"?slow")
        self.reactor.pass_time(59.75)
        self.assertEqual(self.client.answer(), b"")
        self.reactor.pass_time(0.25)
        self.assertRegex(self.client.answer(), rb"^!slow,fail,timeout[^,]*\r\n$")

    def test_one_that_replaces_a_conversion_has_its_hour(self) -> None:
        self.handler.commands["convert-data"] = lambda _: Deferred()
        self.client.ask(b"?convert-data")
        self.reactor.pass_time(3599.75)
        self.assertEqual(self.client.answer(), b"")
        self.reactor.pass_time(0.25)
        self.assertRegex(self.client.answer(), rb"^!convert-data,fail,timeout[^,]*\r\n$")


class ArgumentTests(unittest.TestCase):
    """Arguments arrive converted, in place, and are judged before anything else (protocol section 4.2)."""

    def called(self, line: bytes) -> tuple[Any, ...]:
        """The arguments of the one call that a line leads to."""
        backend = Recorder()
        self.assertTrue(asked(backend, line).endswith(b",ok\r\n"), line)
        self.assertEqual(len(backend.calls), 1)
        return backend.calls[0]

    def test_positions_and_types(self) -> None:
        for line, arguments in [
            (b"?set-section,1,2.5,3,4,CP,5.5,6", "(1, 2.5, 3.0, 4, 'CP', 5.5, 6)"),
            (b"?set-section,0,100,2300,1,0,4600,2048", "(0, 100.0, 2300.0, 1, '0', 4600.0, 2048)"),
            (b"?set-section,*,*,*,*,*,*,*", "('*', '*', '*', '*', '*', '*', '*')"),
            (b"?set-enable,1,2", "(1, 2)"),
            (b"?set-enable,7,7", "(7, 7)"),
            (b"?set-configuration,SK77", "('SK77',)"),
            (b"?set-configuration,77", "('77',)"),
            (b"?set-integration,40", "(40,)"),
            (b"?set-shift,-3", "(-3,)"),
            (rb"?set-filename,/data/a\,b\\c", r"('/data/a,b\\c',)"),
            # UTF-8, and a byte that is none.
            (b"?set-filename,/data/M\xc3\xbc\xff", repr(("/data/M\xfc\udcff",))),
            (b"?set-configuration,M\xc3\xbc", repr(("M\xc3\xbc",))),
            (b"?cal-on,5", "(5,)"),
            (b"?cal-on,0", "(0,)"),
            (b"?cal-on", "(0,)"),
            (b"?start", "()"),
            (b"?stop", "()"),
        ]:
            with self.subTest(line):
                self.assertEqual(repr(self.called(line)), arguments)

    def test_a_wildcard_in_each_place_of_a_section(self) -> None:
        whole = [b"1", b"2.5", b"3.5", b"4", b"CP", b"5.5", b"6"]
        values = [1, 2.5, 3.5, 4, "CP", 5.5, 6]
        for place in range(7):
            with self.subTest(place):
                line = b",".join([b"?set-section", *whole[:place], b"*", *whole[place + 1 :]])
                self.assertEqual(self.called(line), (*values[:place], "*", *values[place + 1 :]))

    def test_times_are_ticks_for_a_backend(self) -> None:
        for line, ticks in [
            (b"?start,%d" % TICKS, TICKS),
            (b"?stop,%d" % TICKS, TICKS),
            (b"?start,1795419485.9619467", TICKS),
            (b"?start,1795419485.96194679", TICKS),
            (b"?start,1430922782.97088300", 14309227829708830),
            (b"?start,14309227829708830.0000000", 14309227829708830),
        ]:
            with self.subTest(line):
                [argument] = self.called(line)
                self.assertIs(type(argument), Ticks)
                self.assertEqual(argument, ticks)

    def test_judged_before_whether_the_backend_has_the_command(self) -> None:
        for backend in (Backend(), object()):
            for line, reply in [
                (b"?set-section,1", b"!set-section,fail,set-section needs 7 arguments\r\n"),
                (b"?set-section,x,1,1,1,CP,1,1", b"!set-section,fail,wrong parameter format\r\n"),
                (b"?set-enable,1", b"!set-enable,fail,set-enable needs 2 arguments\r\n"),
                (b"?cal-on,-1", b"!cal-on,fail,interleave samples must be a positive int\r\n"),
                (b"?get-tpi,1", b"!get-tpi,fail,get-tpi needs 0 or 2 arguments\r\n"),
                (b"?get-tpi,a,b", b"!get-tpi,fail,wrong parameter format\r\n"),
                (b"?start,soon", b"!start,fail,wrong timestamp 'soon'\r\n"),
                (b"?stop,0", b"!stop,fail,wrong timestamp '0'\r\n"),
                (b"?status,1", b"!status,fail,status needs no arguments\r\n"),
                (b"?version,1", b"!version,fail,version needs no arguments\r\n"),
            ]:
                with self.subTest(line, backend=type(backend).__name__):
                    self.assertEqual(asked(backend, line), reply)

    def test_judged_before_the_device_is_waited_for(self) -> None:
        reactor = FakeReactor()
        handler = DBProtocolHandler(Recorder(), reactor=reactor)
        handler.commands["slow"] = lambda _: Deferred()
        Client(handler, reactor).ask(b"?slow")
        self.assertEqual(
            Client(handler, reactor).ask(b"?set-integration,x"),
            b"!set-integration,fail,integration time must be an integer number\r\n",
        )


class BandTests(unittest.TestCase):
    """The two numbers of get-tpi reach only a method that takes them (protocol section 4.8)."""

    def backends(self) -> Iterator[tuple[str, Any, bool]]:
        class Selecting(Backend):
            def get_tpi(self, frequency: float = 0.0, bandwidth: float = 0.0) -> Any:
                return frequency, bandwidth

        class Starred(Backend):
            def get_tpi(self, *band: float) -> Any:
                return (len(band), *band)

        class Coroutine(Backend):
            async def get_tpi(self, frequency: float = 0.0, bandwidth: float = 0.0) -> Any:
                return frequency, bandwidth

        class Whole(Backend):
            def get_tpi(self) -> Any:  # it cannot select a band
                return 1.5, 2.5

        class One(Backend):
            def get_tpi(self, gain: float = 0.0) -> Any:  # nor this one
                return 1.5 + gain, 2.5

        yield "two parameters", Selecting(), True
        yield "any number", Starred(), True
        yield "a coroutine", Coroutine(), True
        yield "none", Whole(), False
        yield "another one", One(), False
        yield "the original's", Original(), False

    def test_whole_band(self) -> None:
        for kind, backend, selects in self.backends():
            with self.subTest(kind):
                reply = asked(backend, b"?get-tpi,0,0")
                if not selects:
                    self.assertEqual(reply, b"!get-tpi,ok,1.5,2.5\r\n")
                elif kind == "any number":
                    self.assertEqual(reply, b"!get-tpi,ok,2,0.0,0.0\r\n")
                else:
                    self.assertEqual(reply, b"!get-tpi,ok,0.0,0.0\r\n")

    def test_no_arguments(self) -> None:
        for kind, backend, selects in self.backends():
            with self.subTest(kind):
                reply = asked(backend, b"?get-tpi")
                if not selects:
                    self.assertEqual(reply, b"!get-tpi,ok,1.5,2.5\r\n")
                elif kind == "any number":
                    self.assertEqual(reply, b"!get-tpi,ok,0\r\n")
                else:
                    self.assertEqual(reply, b"!get-tpi,ok,0.0,0.0\r\n")

    def test_a_band(self) -> None:
        for kind, backend, selects in self.backends():
            for band in (b"100,50", b"100,0", b"0,50"):
                with self.subTest(kind, band=band):
                    reply = asked(backend, b"?get-tpi," + band)
                    if selects:
                        numbers = b",".join(number + b".0" for number in band.split(b","))
                        self.assertTrue(reply.endswith(b"," + numbers + b"\r\n"), reply)
                    else:
                        self.assertEqual(reply, b"!get-tpi,fail,band selection is not supported\r\n")

    def test_the_signature_is_read_once(self) -> None:
        class Selecting(Backend):
            def get_tpi(self, frequency: float = 0.0, bandwidth: float = 0.0) -> Any:
                return frequency, bandwidth

        client = Client(DBProtocolHandler(Selecting()))
        with mock.patch("inspect.signature", side_effect=AssertionError("read again")):
            for _ in range(2):
                self.assertEqual(client.ask(b"?get-tpi,100,50"), b"!get-tpi,ok,100.0,50.0\r\n")


class ReachableTests(unittest.TestCase):
    """Only rows of the table and declared methods: a name from the wire is never looked up on the backend."""

    def test_no_lookup(self) -> None:
        looked_up: list[str] = []

        class Tempting(Backend):
            secret = "secret"

            def handle(self, *_: Any) -> str:
                return self.secret

            reset = park = server_started = server_stopping = init = handle  # type: ignore[assignment]

            def __getattribute__(self, name: str) -> Any:
                looked_up.append(name)
                return super().__getattribute__(name)

            def __getattr__(self, name: str) -> Any:
                return self.handle

        client = Client(DBProtocolHandler(Tempting()))
        looked_up.clear()
        for name in (
            b"server-started",
            b"server-stopping",
            b"handle",
            b"init",
            b"secret",
            b"reset",
            b"park",
            b"anything",
            b"STATUS",
            b"Status",
            b"get-tpi-",
            b"dir",
        ):
            with self.subTest(name):
                self.assertEqual(client.ask(b"?" + name), b"!%s,fail,invalid command '%s'\r\n" % (name, name))
        self.assertEqual(looked_up, [])

    def test_names_that_are_none(self) -> None:
        client = Client(DBProtocolHandler(Recorder()))
        for name in (b"__init__", b"__class__", b"get_tpi", b"_bind", b"set_shift"):
            with self.subTest(name):
                self.assertRegex(client.ask(b"?" + name), rb"^!undefined,invalid,syntax error: [^,]*\r\n$")

    def test_the_one_historic_name(self) -> None:
        class Parking(Backend):
            def park(self) -> str:
                return "parked"

            def backend_park(self) -> str:
                return "the wrong one"

        self.assertEqual(asked(Parking(), b"?backend-park"), b"!backend-park,ok,parked\r\n")

    def test_not_supported(self) -> None:
        class Broken:
            status = "no method"

        valid = {
            "set-configuration": b",SK77",
            "set-integration": b",1",
            "set-section": b",1,2,3,4,CP,5,6",
            "set-filename": b",/f",
            "set-enable": b",1,2",
            "set-shift": b",1",
        }
        for backend in (Backend(), object(), Broken()):
            client = Client(DBProtocolHandler(backend))
            for name in COMMANDS:
                with self.subTest(name, backend=type(backend).__name__):
                    wanted = b"fail,not supported by this backend" if name != "version" else b"ok,1.4"
                    self.assertEqual(
                        client.ask(b"?" + name.encode() + valid.get(name, b"")),
                        b"!%s,%s\r\n" % (name.encode(), wanted),
                    )

    def test_version_is_the_servers(self) -> None:
        class Boasting(Backend):
            def version(self) -> str:
                return "9.9"

        self.assertEqual(asked(Boasting(), b"?version"), b"!version,ok,1.4\r\n")


class Sweeping(Backend):
    """A backend with commands of its own."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    @command(
        "vna-sweep",
        Argument("tone", "integer", wildcard=True),
        Argument("power", "float", "dBm", optional=True, wildcard=True),
        Argument("at", "timestamp", optional=True),
        reply=(
            Field("tones", "integer"),
            Field("found", "timestamp"),
            Field("power", "float", repeated=True),
        ),
        help="Find the tones.",
    )
    def sweep_it(self, *arguments: Any) -> Any:
        """The name of the method is the author's business."""
        self.calls.append(arguments)
        return 7, 1430922782.96875, -1.5, 2

    @command(
        "load",
        Argument("file", "path"),
        Argument("folder", Path),  # type: ignore[arg-type]
        reply=(Field("loaded", "path", repeated=True),),
    )
    def load(self, file: str, folder: Path) -> Any:
        self.calls.append((file, folder))
        return file, folder / file

    @command("short", reply=(Field("one", "integer"), Field("another", "text")))
    def short(self) -> Any:
        return (1,)


class OwnCommandTests(unittest.TestCase):
    """Commands declared by @command stand on the same footing as the table's rows."""

    def test_paths(self) -> None:
        backend = Sweeping()
        self.assertEqual(
            asked(backend, b"?load,M\xc3\xbc\xff,/a/\xe2\x84\xa6"),
            b"!load,ok,M\xc3\xbc\xff,/a/\xe2\x84\xa6/M\xc3\xbc\xff\r\n",
        )
        [(file, folder)] = backend.calls
        self.assertEqual((file, folder), ("M\xfc\udcff", Path("/a/\u2126")))
        self.assertIs(type(file), str)

    def test_arguments_and_reply(self) -> None:
        for line, arguments in [
            (b"?vna-sweep,3", "(3,)"),
            (b"?vna-sweep,*", "('*',)"),
            (b"?vna-sweep,*,*", "('*', '*')"),
            (b"?vna-sweep,3,-10", "(3, -10.0)"),
            (b"?vna-sweep,3,1e1,%d" % TICKS, f"(3, 10.0, {TICKS})"),
        ]:
            with self.subTest(line):
                backend = Sweeping()
                self.assertEqual(asked(backend, line), b"!vna-sweep,ok,7,1430922782.9687500,-1.5,2\r\n")
                self.assertEqual(repr(backend.calls), f"[{arguments}]")

    def test_its_times(self) -> None:
        backend = Sweeping()
        asked(backend, b"?vna-sweep,1,1,%d" % TICKS)
        self.assertIs(type(backend.calls[0][2]), Ticks)

    def test_a_plain_class_declares_too_and_gets_a_time(self) -> None:
        class Plain:
            times: list[Any] = []

            @command("aim", Argument("at", "timestamp"), reply=(Field("at", "timestamp"),))
            def aim(self, at: Any) -> Any:
                self.times.append(at)
                return at

        self.assertEqual(asked(Plain(), b"?aim,%d" % TICKS), b"!aim,ok,1795419485.9619467\r\n")
        self.assertIsInstance(Plain.times[0], Time)

    def test_wrong_arguments(self) -> None:
        for arguments in (b"", b",1,2,3,4", b",x", b",1,x", b",1,1,*"):
            with self.subTest(arguments):
                backend = Sweeping()
                self.assertRegex(asked(backend, b"?vna-sweep" + arguments), rb"^!vna-sweep,fail,[^,]+\r\n$")
                self.assertEqual(backend.calls, [])

    def test_the_name_of_the_method_is_not_reachable(self) -> None:
        self.assertEqual(asked(Sweeping(), b"?sweep-it"), b"!sweep-it,fail,invalid command 'sweep-it'\r\n")

    def test_too_few_reply_fields(self) -> None:
        with self.assertLogs("discosbackend", "ERROR") as logs:
            self.assertEqual(asked(Sweeping(), b"?short"), b"!short,fail," + GENERIC + b"\r\n")
        self.assertRegex(logs.output[0], "short.*'another'")
        self.assertNotIn("Traceback", logs.output[0])

    def test_overriding_keeps_the_declaration(self) -> None:
        class Longer(Sweeping):
            def short(self) -> Any:
                return 1, "two"

        self.assertEqual(asked(Longer(), b"?short"), b"!short,ok,1,two\r\n")

    def test_mistral(self) -> None:
        class Mistral(Backend):
            @command("setup")
            def setup(self) -> None:
                """Nothing to do."""

            @command("target-sweep", lane="files", timeout=600.0)
            async def target_sweep(self) -> None:
                """Nothing to do."""

        for line in (b"?setup", b"?target-sweep"):
            with self.subTest(line):
                self.assertEqual(asked(Mistral(), line), b"!" + line[1:] + b",ok\r\n")


class ConstructorTests(unittest.TestCase):
    """Errors that would otherwise show when the telescope asks."""

    def test_a_class_instead_of_an_instance(self) -> None:
        for backend in (Original, Backend):
            name = backend.__name__
            with self.subTest(name), self.assertRaisesRegex(TypeError, rf"{name}\(\)"):
                DBProtocolHandler(backend)

    def test_limits(self) -> None:
        for limit in (0, -1, 0.0, float("nan"), float("-inf")):
            with self.subTest(limit):
                with self.assertRaises(ValueError):
                    DBProtocolHandler(Original(), command_timeout=limit)
                with self.assertRaises(ValueError) as caught:
                    DBProtocolHandler(Original(), timeouts={"set-section": limit})
                self.assertIn("set-section", str(caught.exception))
        for good in (None, 0.5, 900, float("inf")):
            with self.subTest(good):
                DBProtocolHandler(Original(), command_timeout=good, timeouts={"set-section": good})

    def test_unknown_names_in_timeouts(self) -> None:
        with self.assertRaisesRegex(ValueError, "'nonsense', 'set_section'"):
            DBProtocolHandler(Original(), timeouts={"set_section": 5.0, "status": 1.0, "nonsense": 5.0})
        DBProtocolHandler(Sweeping(), timeouts={"vna-sweep": 5.0})

    def test_reply_limit(self) -> None:
        with self.assertRaises(ValueError):
            DBProtocolHandler(Original(), reply_limit=10)
        DBProtocolHandler(Original(), reply_limit=256)

    def test_two_methods_for_one_name(self) -> None:
        class Twice(Backend):
            @command("twice")
            def one(self) -> None:
                """One."""

            @command("twice")
            def other(self) -> None:
                """Another."""

        with self.assertRaisesRegex(ValueError, "'twice'"):
            DBProtocolHandler(Twice())


class HookTests(unittest.TestCase):
    """server_started and server_stopping, and the end of the acquisition."""

    def backend(self, behaviour: Callable[[], Any], base: type = Backend) -> Any:
        told: list[str] = []

        class Told(base):  # type: ignore[misc]
            def __init__(self) -> None:
                self.told = told

            def server_started(self) -> Any:
                told.append("started")
                return behaviour()

            def server_stopping(self) -> Any:
                told.append("stopping")
                return behaviour()

            def stop(self, timestamp: Any = None) -> None:
                told.append("stop" if timestamp is None else f"stop at {timestamp}")

        return Told()

    def test_plain_coroutine_deferred(self) -> None:
        gate: Deferred[None] = Deferred()

        async def coroutine() -> None:
            await gate

        for base in (Backend, object):
            for behaviour in (lambda: None, lambda: succeed(None), lambda: "ignored"):
                backend = self.backend(behaviour, base)
                handler = DBProtocolHandler(backend, reactor=FakeReactor())
                handler.start()
                self.assertEqual(backend.told, ["started"])
                done: list[Any] = []
                handler.stop().addBoth(done.append)
                self.assertEqual(backend.told, ["started", "stop", "stopping"])
                self.assertEqual(len(done), 1)
        for later in (coroutine, lambda: gate):
            gate = Deferred()
            backend = self.backend(later)
            handler = DBProtocolHandler(backend, reactor=FakeReactor())
            handler.start()
            done = []
            handler.stop().addBoth(done.append)
            self.assertEqual((backend.told, done), (["started", "stop", "stopping"], []))
            gate.callback(None)
            self.assertEqual(len(done), 1)

    def test_coroutines_are_run_to_their_end(self) -> None:
        gate: Deferred[None] = Deferred()
        ran: list[str] = []

        async def coroutine() -> None:
            await gate
            ran.append("to the end")

        handler = DBProtocolHandler(self.backend(coroutine), reactor=FakeReactor())
        handler.start()
        gate.callback(None)
        self.assertEqual(ran, ["to the end"])

    def test_absent(self) -> None:
        no_methods = mock.Mock(spec=[], server_started=None, server_stopping=5)
        for backend in (object(), Original(), Backend(), no_methods):
            with self.subTest(type(backend).__name__):
                handler = DBProtocolHandler(backend, reactor=FakeReactor())
                with self.assertNoLogs("discosbackend", "WARNING"):
                    handler.start()
                    done: list[Any] = []
                    handler.stop().addBoth(done.append)
                self.assertEqual(len(done), 1)

    def test_raising(self) -> None:
        async def coroutine() -> None:
            raise RuntimeError("internal")

        for behaviour in (
            raising(RuntimeError("internal")),
            raising(SystemExit("internal")),
            raising(BackendError("internal")),
            coroutine,
            lambda: fail(RuntimeError("internal")),
        ):
            with self.subTest(repr(behaviour)), self.assertLogs("discosbackend", "ERROR") as logs:
                backend = self.backend(behaviour)
                handler = DBProtocolHandler(backend, reactor=FakeReactor())
                handler.start()
                done: list[Any] = []
                handler.stop().addBoth(done.append)
                self.assertEqual(backend.told, ["started", "stop", "stopping"])
                self.assertEqual(len(done), 1)
                self.assertNotIsInstance(done[0], Exception)
            self.assertEqual(len(logs.output), 2)
            self.assertIn("server_started", logs.output[0])
            self.assertIn("server_stopping", logs.output[1])
            self.assertIn("internal", logs.output[0])

    def test_stop_ends_the_acquisition_before_the_backend_is_told(self) -> None:
        ended: Deferred[None] = Deferred()

        class Slow(Backend):
            def __init__(self) -> None:
                self.told: list[str] = []

            def stop(self, timestamp: Any = None) -> Any:
                self.told.append(f"stop {timestamp}")
                return ended

            def server_stopping(self) -> None:
                self.told.append("stopping")

        backend = Slow()
        DBProtocolHandler(backend, reactor=FakeReactor()).stop()
        self.assertEqual(backend.told, ["stop None"])
        ended.callback(None)
        self.assertEqual(backend.told, ["stop None", "stopping"])

    def test_the_backend_is_told_whatever_becomes_of_the_acquisition(self) -> None:
        for problem in (BackendError("not acquiring"), RuntimeError("internal"), SystemExit(1)):
            with self.subTest(repr(problem)):
                told: list[str] = []

                class Refusing(Backend):
                    stop = staticmethod(raising(problem))

                    def server_stopping(self) -> None:
                        told.append("stopping")

                level = "INFO" if isinstance(problem, BackendError) else "ERROR"
                with self.assertLogs("discosbackend", level) as logs:
                    DBProtocolHandler(Refusing(), reactor=FakeReactor()).stop()
                self.assertEqual(told, ["stopping"])
                # "not acquiring" is the usual case and no alarm.
                self.assertTrue(any(line.startswith(level) for line in logs.output), logs.output)

    def test_stop_can_be_given_up_and_the_backend_is_told_all_the_same(self) -> None:
        # As a server does whose patience is over: whatever hangs next must not keep it from going down.
        for ends in (True, False):
            with self.subTest(ends=ends):
                backend = self.backend(lambda: None if ends else Deferred())
                handler = DBProtocolHandler(backend, reactor=FakeReactor())
                handler.commands["stop"] = lambda _: Deferred()
                outcomes: list[Any] = []
                stopped = handler.stop().addBoth(outcomes.append)
                self.assertEqual((backend.told, outcomes), ([], []))
                stopped.cancel()
                self.assertEqual((backend.told, len(outcomes)), (["stopping"], 1))

    def test_stop_waits_for_a_device_that_never_answers_no_longer_than_its_limit(self) -> None:
        told: list[str] = []

        class Stuck(Backend):
            def stop(self, timestamp: Any = None) -> Any:
                return Deferred()

            def server_stopping(self) -> None:
                told.append("stopping")

        reactor = FakeReactor()
        DBProtocolHandler(Stuck(), reactor=reactor, timeouts={"stop": 5.0}).stop()
        reactor.pass_time(4.75)
        self.assertEqual(told, [])
        reactor.pass_time(0.25)
        self.assertEqual(told, ["stopping"])


class FakeThread:
    """Stands for threading.Thread: what it would do is done at once."""

    made: list[FakeThread] = []

    def __init__(self, *, target: Callable[[], None], name: str = "", daemon: bool = False) -> None:
        self.target, self.name, self.daemon = target, name, daemon
        self.made.append(self)

    def start(self) -> None:
        self.target()


class BackgroundImportTests(unittest.TestCase):
    """astropy is there before the first timed start of a plain class, but not before the server is idle."""

    def setUp(self) -> None:
        self.imported: list[str] = []
        self.enterContext(mock.patch.dict(sys.modules))
        for name in ("astropy.time", "discosbackend.timediscos"):
            sys.modules.pop(name, None)
        self.enterContext(mock.patch.object(importlib, "import_module", side_effect=self.imported.append))
        self.enterContext(mock.patch.object(threading, "Thread", FakeThread))
        self.enterContext(mock.patch.object(FakeThread, "made", []))
        self.reactor = FakeReactor()

    def test_once_idle_in_a_daemon_thread(self) -> None:
        handler = DBProtocolHandler(Original(), reactor=self.reactor)
        handler.start()
        self.assertEqual(self.imported, [])
        self.reactor.pass_time(2)
        self.assertEqual(self.imported, ["discosbackend.timediscos"])
        self.assertEqual([thread.daemon for thread in FakeThread.made], [True])

    def test_not_while_somebody_asks(self) -> None:
        handler = DBProtocolHandler(Original(), reactor=self.reactor)
        handler.start()
        for _ in range(200):
            handler.handle(request("status"))
            self.reactor.advance(0.02)
        self.assertEqual(self.imported, [])
        self.reactor.pass_time(2)
        self.assertEqual(self.imported, ["discosbackend.timediscos"])

    def test_never_for_a_backend(self) -> None:
        DBProtocolHandler(Recorder(), reactor=self.reactor).start()
        self.reactor.pass_time(60)
        self.assertEqual((self.imported, FakeThread.made), ([], []))

    def test_not_when_it_is_there(self) -> None:
        sys.modules["astropy.time"] = mock.Mock()
        DBProtocolHandler(Original(), reactor=self.reactor).start()
        self.reactor.pass_time(60)
        self.assertEqual((self.imported, FakeThread.made), ([], []))

    def test_not_when_a_start_brought_it_meanwhile(self) -> None:
        DBProtocolHandler(Original(), reactor=self.reactor).start()
        sys.modules["astropy.time"] = mock.Mock()
        self.reactor.pass_time(60)
        self.assertEqual((self.imported, FakeThread.made), ([], []))

    def test_an_import_that_fails_is_logged(self) -> None:
        handlers.importlib.import_module.side_effect = ImportError("no astropy")  # type: ignore[attr-defined]
        DBProtocolHandler(Original(), reactor=self.reactor).start()
        with self.assertLogs("discosbackend", "ERROR") as logs:
            self.reactor.pass_time(2)
        self.assertIn("no astropy", logs.output[0])


class AlwaysTests(unittest.TestCase):
    """The three handlers for trying things out, and the base class."""

    def test_on_the_wire(self) -> None:
        for handler, line, reply in [
            (AlwaysOkHandler(), b"?anything,a,b", b"!anything,ok,a,b\r\n"),
            (AlwaysOkHandler(), b"?anything", b"!anything,ok\r\n"),
            (AlwaysFailHandler(), b"?anything,a", b"!anything,fail," + GENERIC + b"\r\n"),
            (AlwaysRaiseHandler(), b"?anything,a", b"!anything,fail," + GENERIC + b"\r\n"),
            (Handler(), b"?anything", b"!anything,fail," + GENERIC + b"\r\n"),
        ]:
            with self.subTest(type(handler).__name__):
                self.assertEqual(Client(handler).ask(line), reply)

    def test_as_calls(self) -> None:
        message = request("anything", "a")
        echoed = AlwaysOkHandler().handle(message)
        self.assertTrue(echoed.is_correct_reply(message))
        self.assertEqual(echoed.arguments, ["a"])
        self.assertFalse(AlwaysFailHandler().handle(message).is_correct_reply(message))
        self.assertRaises(RuntimeError, AlwaysRaiseHandler().handle, message)
        self.assertRaises(NotImplementedError, Handler().handle, message)

    def test_they_start_and_stop(self) -> None:
        for kind in (Handler, AlwaysOkHandler, AlwaysFailHandler, AlwaysRaiseHandler):
            handler = kind()
            self.assertIsNone(handler.start())
            self.assertIsNone(handler.stop())


if __name__ == "__main__":
    unittest.main()
