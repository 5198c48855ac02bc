"""Tests of the watchdog: with given times and stacks, and with a reactor that is really blocked."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import textwrap
import threading
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any
from unittest import mock

from twisted.internet import base as twisted_base

from discosbackend import Backend, DBProtocolHandler, blocking, run_server, watchdog
from discosbackend.watchdog import Finding, Place, Watchdog, codes_of, judge, stack_of

from .serving import SCRIPT, Server, ask, served_by
from .settings import wait_until


def code_of(text: str, name: str) -> CodeType:
    """Return the code object of the function that a source text defines."""
    names: dict[str, Any] = {}
    exec(text, names)
    return names[name].__code__


METHOD = code_of("def get_tpi(self): pass", "get_tpi")
COROUTINE = code_of("async def get_tp0(self): pass", "get_tp0")
OTHER = code_of("def poll(self): pass", "poll")
COMMANDS = {METHOD: "get-tpi", COROUTINE: "get-tp0"}

TWISTED = twisted_base.__file__
STDLIB = threading.__file__

MAIN = Place("<module>", "/home/me/mybackend.py", 90, OTHER)
LOOP = Place("ReactorBase.mainLoop", TWISTED, 697, OTHER)
IN_METHOD = Place("Mine.get_tpi", "/home/me/mybackend.py", 17, METHOD)
IN_DRIVER = Place("Serial.read", "/usr/lib/serial/serialposix.py", 596, OTHER)


class JudgeTests(unittest.TestCase):
    """Tests of judge(), which is a pure function, so nothing here waits."""

    def judged(self, *stack: Place, asked: float = 100.0, due: float = 100.5, now: float = 100.5) -> Finding | None:
        return judge(0.5, asked, due, now, stack, COMMANDS)

    def test_a_method_of_a_command(self) -> None:
        for stack, inside in (
            ([LOOP, IN_METHOD], None),
            ([MAIN, LOOP, IN_METHOD], None),
            ([MAIN, LOOP, IN_METHOD, IN_DRIVER], IN_DRIVER),
            ([MAIN, LOOP, IN_DRIVER, IN_METHOD, Place("Event.wait", STDLIB, 600, OTHER)], "Event.wait"),
        ):
            with self.subTest(stack=[place.function for place in stack]):
                found = self.judged(*stack)
                assert found is not None
                self.assertEqual(found[:3], (0.5, IN_METHOD, "get-tpi"))
                self.assertIn(inside, (found.inside, found.inside and found.inside.function))

    def test_what_it_says_of_a_method(self) -> None:
        self.assertEqual(
            str(self.judged(LOOP, IN_METHOD, now=100.72)),
            "no request has been answered for 0.7 s: get-tpi is in Mine.get_tpi() at line 17 of /home/me/mybackend.py: "
            "write @blocking above `def get_tpi`",
        )
        self.assertEqual(
            str(self.judged(LOOP, IN_METHOD, IN_DRIVER)),
            "no request has been answered for 0.5 s: get-tpi is in Mine.get_tpi() at line 17 of /home/me/mybackend.py, "
            "which waits in Serial.read() at line 596 of /usr/lib/serial/serialposix.py: "
            "write @blocking above `def get_tpi`",
        )

    def test_a_coroutine_cannot_be_marked(self) -> None:
        said = str(self.judged(LOOP, Place("Mine.get_tp0", "/home/me/mybackend.py", 30, COROUTINE), IN_DRIVER))
        self.assertIn("get-tp0 is in Mine.get_tp0() at line 30", said)
        self.assertIn("write @blocking above get_tp0 and `def` instead of `async def`, or await the slow call", said)

    def test_a_function_that_answers_no_command(self) -> None:
        """Such as a hook, a callback of a timer, or a method that starts an acquisition."""
        poll = Place("Mine.poll", "/home/me/mybackend.py", 60, OTHER)
        found = self.judged(MAIN, LOOP, Place("LoopingCall.__call__", TWISTED, 5, OTHER), poll)
        assert found is not None
        self.assertEqual((found.method, found.command), (poll, ""))
        self.assertEqual(
            str(found),
            "no request has been answered for 0.5 s: Mine.poll() at line 60 of /home/me/mybackend.py: "
            "run it in a thread, for example with twisted.internet.threads.deferToThread",
        )

    def test_nothing_but_libraries(self) -> None:
        found = self.judged(LOOP, Place("getaddrinfo", STDLIB, 5, OTHER))
        assert found is not None and found.method is not None
        self.assertEqual(found.method.function, "getaddrinfo")

    def test_not_long_enough(self) -> None:
        self.assertIsNone(self.judged(LOOP, IN_METHOD, due=100.4, now=100.4))

    def test_it_has_turned(self) -> None:
        self.assertIsNone(judge(0.5, 100.0, 100.5, 100.5, None, COMMANDS))

    def test_a_watchdog_that_woke_late_itself_reports_the_machine(self) -> None:
        for stack in ([LOOP, IN_METHOD], None):
            for late in (0.26, 3.0, 1000.0):
                found = judge(0.5, 100.0, 100.5, 100.5 + late, stack, COMMANDS)
                assert found is not None
                self.assertIsNone(found.method)
                self.assertAlmostEqual(found.seconds, late)
                self.assertIn(f"this process did not run for {late:.1f} s", str(found))
                self.assertNotIn("get_tpi", str(found))
        # A little late is nothing to speak of, and no excuse.
        self.assertIsNone(judge(0.5, 100.0, 100.5, 100.7, None, COMMANDS))
        found = self.judged(LOOP, IN_METHOD, now=100.7)
        assert found is not None
        self.assertEqual(found.method, IN_METHOD)


class CodesTests(unittest.TestCase):
    """Tests of the functions that find out which method answers which command."""

    def test_methods_decorated_ones_and_callables(self) -> None:
        def noisy(function: Any) -> Any:
            @functools.wraps(function)
            def wrapper(*arguments: Any) -> Any:
                return function(*arguments)

            return wrapper

        class Mine(Backend):
            def get_tpi(self) -> None: ...

            @noisy
            def get_tp0(self) -> None: ...

            async def get_rms(self) -> None: ...

            @blocking
            def status(self) -> None: ...

            @staticmethod
            def time() -> None: ...

        handler = DBProtocolHandler(Mine())
        handler.commands["sum"] = functools.partial(sum, [])
        handler.commands["own"] = own = lambda texts: texts
        codes = watchdog.commands_of(handler)
        for function, name in (
            (Mine.get_tpi, "get-tpi"),
            (Mine.get_tp0, "get-tp0"),
            (Mine.get_tp0.__wrapped__, "get-tp0"),
            (Mine.get_rms, "get-rms"),
            (Mine.status, "status"),
            (Mine.time, "time"),
            (own, "own"),
        ):
            self.assertEqual(codes[function.__code__], name)

    def test_a_handler_that_has_no_commands(self) -> None:
        self.assertEqual(watchdog.commands_of(object()), {})

    def test_functions_around_one_another(self) -> None:
        def endless() -> None: ...

        endless.__wrapped__ = endless  # type: ignore[attr-defined]
        self.assertEqual(codes_of([("x", endless)]), {endless.__code__: "x"})

    def test_the_stack_of_a_thread(self) -> None:
        stack = stack_of(sys._getframe())
        self.assertEqual(stack[-1].function, "CodesTests.test_the_stack_of_a_thread")
        self.assertEqual((stack[-1].file, stack[-1].code.co_name), (__file__, "test_the_stack_of_a_thread"))
        self.assertEqual(stack_of(None), [])


def said(logs: Any) -> list[str]:
    """Return the lines that were logged about a method. On a busy machine there may be other lines too."""
    return [line for line in logs.output if "did not run" not in line]


class Turning:
    """A reactor that calls what it was asked to call only when a test says so."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def callFromThread(self, function: Any) -> None:
        self.asked.append(function)


class WatchdogTests(unittest.TestCase):
    """Tests of the watchdog's thread, with a fake reactor. It watches the thread of the test."""

    def setUp(self) -> None:
        self.reactor = Turning()
        method = type(self).turn_later
        self.dog = Watchdog(self.reactor, 0.05, lambda: {method.__code__: "get-tpi"})
        self.addCleanup(self.dog.end)

    def turn_later(self, logs: Any, lines: int) -> None:
        """Block until the log has this many lines, then let the reactor respond."""
        wait_until(lambda: len(said(logs)) >= lines, "the log")
        self.turn()

    def turn(self) -> None:
        wait_until(lambda: self.reactor.asked, "a question")
        self.reactor.asked.pop()()

    def test_it_says_so_once_and_again_when_it_is_over(self) -> None:
        with self.assertLogs("discosbackend.watchdog", "WARNING") as logs:
            self.dog.begin()
            self.turn_later(logs, 1)
            wait_until(lambda: len(said(logs)) == 2, "the end")
        self.assertRegex(said(logs)[0], r"no request has been answered for \d\.\d s: get-tpi is in \S*turn_later\(\)")
        self.assertRegex(said(logs)[1], r"the server answers again: \S*turn_later\(\) took \d+\.\d s")

    def test_the_same_function_is_counted_for_a_minute(self) -> None:
        clock = FakeClock()
        with self.assertLogs("discosbackend.watchdog", "WARNING") as logs, mock.patch.object(watchdog, "time", clock):
            place = Place("Mine.get_tpi", "/home/me/mybackend.py", 17, METHOD)
            for now in (0.0, 10.0, 59.0, 61.0):
                clock.now = 1000.0 + now
                finding = Finding(0.5, place, "get-tpi", None)
                told = self.dog._report(finding)
                self.dog._report_the_end(finding, 2.0, told=told)
            self.dog._report(Finding(3.0, None, "", None))
        self.assertEqual(len(logs.output), 5)
        self.assertIn("write @blocking", logs.output[0])
        self.assertIn("answers again", logs.output[1])
        self.assertIn("(and 2 times since this was last logged, 4.0 s in total)", logs.output[2])
        self.assertIn("answers again", logs.output[3])
        self.assertIn("did not run", logs.output[4])

    def test_without_a_limit_there_is_no_thread(self) -> None:
        before = threading.active_count()
        dog = Watchdog(self.reactor, 0, dict)
        dog.begin()
        self.assertEqual(threading.active_count(), before)
        dog.end()

    def test_limits_that_are_none(self) -> None:
        for limit in (-1, float("nan"), float("inf"), 1e20):
            with self.subTest(limit), self.assertRaisesRegex(ValueError, "watchdog must be"):
                Watchdog(self.reactor, limit, dict)

    def test_it_ends_while_it_waits_for_a_turn(self) -> None:
        with self.assertLogs("discosbackend.watchdog", "WARNING") as logs:
            self.dog.begin()
            wait_until(lambda: said(logs), "the log")
            self.dog.end()
        self.assertEqual(len(said(logs)), 1)
        self.assertNotIn("discos-watchdog", [thread.name for thread in threading.enumerate()])


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1.8e9 + self.now


BLOCKING = """
    import asyncio, threading

    from twisted.internet import reactor
    from twisted.internet.defer import succeed

    from discosbackend import Acquisition, Backend, DBProtocolHandler, blocking, run_server


    def read_the_pipe():
        with open("pipe") as pipe:
            return pipe.read()


    class Mine(Backend):
        def get_filename(self):
            return read_the_pipe()

        async def get_configuration(self):
            await succeed(None)
            return read_the_pipe()

        @blocking
        def get_integration(self):
            return len(read_the_pipe())

        def set_shift(self, shift):
            reactor.callLater(0, self.poll)

        def poll(self):
            read_the_pipe()

        def get_rms(self):
            return [thread.name == "discos-watchdog" for thread in threading.enumerate()]
"""


class BlockedReactorTests(unittest.TestCase):
    """Tests of a server whose reactor is really blocked, until the test writes to a pipe."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "mine.py").write_text(textwrap.dedent(BLOCKING), encoding="utf-8")
        os.mkfifo(self.folder / "pipe")

    def serve(self, *options: str) -> Server:
        command = [sys.executable, str(SCRIPT), "--port", "0", "--backend", "mine:Mine", *options]
        server = Server(command, self.folder)
        self.addCleanup(server.end)
        return server

    @contextmanager
    def blocked(self, server: Server, request: bytes, reply: bytes) -> Iterator[None]:
        """Use it while the server executes a request."""
        with server.connect() as connection:
            connection.sendall(request + b"\r\n")
            yield
            with open(self.folder / "pipe", "w", encoding="ascii") as pipe:
                pipe.write("done")
            self.assertEqual(connection.recv(100), reply)

    def line_of(self, begin: str) -> int:
        return 1 + next(n for n, line in enumerate(textwrap.dedent(BLOCKING).splitlines()) if line.strip() == begin)

    def test_a_plain_method(self) -> None:
        server = self.serve("--watchdog", "0.2")
        with self.blocked(server, b"?get-filename", b"!get-filename,ok,done\r\n"):
            wait_until(lambda: "no request has been answered" in server.log(), "the watchdog")
            self.assertNotIn("answers again", server.log())
        wait_until(lambda: "answers again" in server.log(), "the end")
        line = next(line for line in server.log().splitlines() if "no request has been answered" in line)
        self.assertRegex(
            line,
            r"WARNING discosbackend.watchdog: no request has been answered for \d+\.\d s: get-filename is in "
            rf"Mine\.get_filename\(\) at line {self.line_of('def get_filename(self):') + 1} of {self.folder}/mine\.py, "
            rf"which waits in read_the_pipe\(\) at line \d+ of {self.folder}/mine\.py: "
            r"write @blocking above `def get_filename`$",
        )
        self.assertRegex(server.log(), r"the server answers again: Mine\.get_filename\(\) took \d+\.\d s\n")
        self.assertEqual(server.stop(15), 0, server.log())

    def test_a_coroutine_and_a_callback(self) -> None:
        server = self.serve("--watchdog", "0.2")
        with self.blocked(server, b"?get-configuration", b"!get-configuration,ok,done\r\n"):
            wait_until(lambda: "get-configuration is in Mine.get_configuration()" in server.log(), "the watchdog")
        self.assertIn("`def` instead of `async def`", server.log())
        with self.blocked(server, b"?set-shift,1", b"!set-shift,ok\r\n"):
            wait_until(lambda: "s: Mine.poll() at line" in server.log(), "the watchdog")
        self.assertIn("deferToThread", server.log())

    def test_not_a_blocking_method_and_not_without_a_watchdog(self) -> None:
        for options, request, reply, watching in (
            # A shorter time can pass on a busy machine before the reactor responds.
            (("--watchdog", "0.3"), b"?get-integration", b"!get-integration,ok,4\r\n", True),
            (("--watchdog", "0"), b"?get-filename", b"!get-filename,ok,done\r\n", False),
        ):
            with self.subTest(options):
                server = self.serve(*options)
                with server.connect() as connection:
                    there = ask(connection, b"?get-rms")[0]
                self.assertEqual(b"1" in there, watching)
                waiting = threading.Event()
                with self.blocked(server, request, reply):
                    # Twice as long as it would take.
                    waiting.wait(0.6)
                self.assertEqual(server.stop(15), 0, server.log())
                self.assertNotIn("no request has been answered", server.log())

    def test_run_server(self) -> None:
        code = textwrap.dedent(BLOCKING) + textwrap.dedent(
            """
            import sys, logging
            logging.basicConfig(stream=sys.stderr)
            run_server(0, DBProtocolHandler(Mine()), "127.0.0.1"{})
            print([thread.name for thread in threading.enumerate()])
            """
        )
        for argument, watching in (("", True), (", watchdog=0.2", True), (", watchdog=0", False)):
            with self.subTest(argument), served_by(code.format(argument), self.folder) as server:
                with server.connect() as connection:
                    self.assertEqual(b"1" in ask(connection, b"?get-rms")[0], watching)
                if watching:
                    with self.blocked(server, b"?get-filename", b"!get-filename,ok,done\r\n"):
                        wait_until(lambda: "no request has been answered" in server.log(), "the watchdog")
                self.assertEqual(server.stop(15), 0, server.log())
                assert server.process.stdout is not None
                self.assertEqual(server.process.stdout.read(), "['MainThread']\n")

    def test_limits_that_are_none(self) -> None:
        for limit in (-1.0, float("nan"), float("inf")):
            with self.subTest(limit), self.assertRaisesRegex(ValueError, "watchdog must be a number of seconds"):
                run_server(0, DBProtocolHandler(Backend()), "127.0.0.1", watchdog=limit)


if __name__ == "__main__":
    unittest.main()
