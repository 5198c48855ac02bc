"""Tests that signals end a server whose backend never returns, and that the log names the function."""

from __future__ import annotations

import re
import signal
import sys
import tempfile
import textwrap
import time
import unittest
from pathlib import Path
from unittest import mock

from discosbackend import server as server_module
from discosbackend.forced_exit import ForcedExit

from .serving import SCRIPT, Server, ask
from .settings import long_only, wait_until

STUCK = """
    import ctypes, multiprocessing, time

    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    from discosbackend import Backend, DBProtocolHandler, blocking, run_server


    def run_for_ever():
        # It computes from shortly before the end is due, which takes less processor time than computing all the time.
        idle_until = time.monotonic() + 1.0
        while True:
            if time.monotonic() < idle_until:
                time.sleep(0.01)


    def wait_for_ever():
        # Other threads can run Python code meanwhile, but no signal handler can run.
        mutex = ctypes.create_string_buffer(64)
        ctypes.CDLL(None).pthread_mutex_lock(mutex)
        ctypes.CDLL(None).pthread_mutex_lock(mutex)


    def hold_the_interpreter():
        # Functions of a PyDLL do not release the interpreter.
        mutex = ctypes.create_string_buffer(64)
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)


    def live_on(connection):
        connection.send("here")
        connection.recv()


    class Stuck(Backend):
        hold = False

        def get_rms(self):
            self.hold = True
            return [1.0]

        def get_tpi(self):
            print("stuck", flush=True)
            run_for_ever()

        def get_tp0(self):
            print("stuck", flush=True)
            wait_for_ever()

        def server_stopping(self):
            if self.hold:
                hold_the_interpreter()

        @blocking
        def get_filename(self):
            ours, theirs = multiprocessing.Pipe()
            child = multiprocessing.get_context("fork").Process(target=live_on, args=(theirs,))
            child.start()
            ours.recv()
            child.terminate()
            child.join()
            return child.exitcode

        def set_shift(self, milliseconds):
            return deferLater(reactor, milliseconds / 1000)


    if __name__ == "__main__":
        run_server(0, DBProtocolHandler(Stuck()), "127.0.0.1")
"""


class RealProcessTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "stuck.py").write_text(textwrap.dedent(STUCK), encoding="utf-8")

    def serve(self, stop_timeout: float) -> Server:
        options = ("--port", "0", "--backend", "stuck:Stuck", "--stop-timeout", str(stop_timeout))
        return self.started([sys.executable, str(SCRIPT), *options])

    def started(self, command: list[str]) -> Server:
        server = Server(command, self.folder)
        self.addCleanup(server.end)
        return server

    def block(self, server: Server, request: bytes) -> None:
        """Send a request that never ends, and wait until the server is blocked."""
        with server.connect() as connection:
            connection.sendall(request + b"\r\n")
            self.assertEqual(server.next_line(), "stuck")

    def test_the_end_of_the_promised_time(self) -> None:
        for request, function, number in (
            (b"?get-tpi", "run_for_ever", signal.SIGTERM),
            (b"?get-tp0", "wait_for_ever", signal.SIGHUP),
        ):
            with self.subTest(request, number=number):
                server = self.serve(0.01)
                self.block(server, request)
                began = time.monotonic()
                self.assertEqual(server.stop(number), 1, server.log())
                # 0.01 s for the commands, 1 s for the backend, and 1 s for the clients.
                self.assertGreater(time.monotonic() - began, 2.0)
                self.assert_told(server.log(), "not stopped 2 s after the signal", function)

    def assert_told(self, log: str, why: str, function: str) -> None:
        """Check that a log line gives the reason, the function and its line, and that the callers follow."""
        text = textwrap.dedent(STUCK).splitlines()
        told = re.search(
            rf"CRITICAL discosbackend.forced_exit: {why}: .* status 1, .* in (\w+)\(\) in (.*), line (\d+)", log
        )
        self.assertIsNotNone(told, log)
        assert told is not None
        self.assertEqual((told[1], told[2]), (function, str(self.folder / "stuck.py")))
        begins = text.index(f"def {function}():")
        self.assertIn(int(told[3]) - 1, range(begins, begins + 6))
        # If the log is not written in time, on a slow machine, faulthandler writes the same stack in its own format.
        self.assertRegex(log[told.end() :], r"stuck.py\", line \d+,? in get_tp")
        self.assertNotIn("Fatal Python error", log)

    def test_a_second_ctrl_c(self) -> None:
        for request, function in ((b"?get-tpi", "run_for_ever"), (b"?get-tp0", "wait_for_ever")):
            with self.subTest(request):
                server = self.serve(1000)
                self.block(server, request)
                began = time.monotonic()
                server.process.send_signal(signal.SIGINT)

                def ended(server: Server = server) -> bool:
                    server.process.send_signal(signal.SIGINT)
                    return server.process.poll() is not None

                wait_until(ended, "the end")
                # Within the first second, repeated signals count as one Ctrl-C.
                self.assertGreater(time.monotonic() - began, 1.0)
                self.assertEqual(server.process.returncode, 1, server.log())
                self.assert_told(server.log(), "second SIGINT", function)

    def test_a_second_ctrl_c_while_a_server_goes_down_that_is_not_stuck(self) -> None:
        server = self.serve(1000)
        with server.connect() as connection:
            connection.sendall(b"?set-shift,600000\r\n")
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "SIGTERM: stopping" in server.log(), "the first signal")

            def ended() -> bool:
                server.process.send_signal(signal.SIGINT)
                return server.process.poll() is not None

            wait_until(ended, "the end")
        self.assertEqual(server.process.returncode, 1, server.log())
        self.assertIn("second SIGINT", server.log())

    def test_c_code_that_holds_the_interpreter(self) -> None:
        """No Python thread can run then, so faulthandler ends the process."""
        server = self.serve(0.01)
        with server.connect() as connection:
            self.assertEqual(ask(connection, b"?get-rms"), [b"!get-rms,ok,1.0\r\n"])
        self.assertEqual(server.stop(signal.SIGTERM), 1, server.log())
        self.assertIn("Timeout (0:00:0", server.log())
        self.assertRegex(server.log(), r'File ".*stuck.py", line \d+ in hold_the_interpreter')

    @long_only
    def test_run_server_with_its_seven_seconds(self) -> None:
        server = self.started([sys.executable, "stuck.py"])
        self.block(server, b"?get-tpi")
        began = time.monotonic()
        self.assertEqual(server.stop(signal.SIGTERM), 1, server.log())
        self.assertGreater(time.monotonic() - began, 7.0)

    def test_the_end_of_a_process_that_the_backend_has_forked_is_not_the_servers(self) -> None:
        server = self.serve(0.01)
        with server.connect() as connection:
            self.assertEqual(ask(connection, b"?get-filename"), [b"!get-filename,ok,-15\r\n"])
            # Longer than the time after which the server would have been ended.
            self.assertEqual(ask(connection, b"?set-shift,3500"), [b"!set-shift,ok\r\n"])
        self.assertEqual(server.stop(signal.SIGTERM), 0, server.log())
        self.assertNotIn("CRITICAL", server.log())


class ForcedExitTests(unittest.TestCase):
    """Tests of the timers that are started, and when."""

    def setUp(self) -> None:
        before = signal.set_wakeup_fd(-1)
        self.addCleanup(signal.set_wakeup_fd, before)
        patched = mock.patch("discosbackend.forced_exit.faulthandler")
        self.timer = patched.start()
        self.addCleanup(patched.stop)

    def armed(self) -> list[float]:
        return [call.args[0] for call in self.timer.dump_traceback_later.mock_calls]

    def test_nothing_without_a_signal(self) -> None:
        forced = ForcedExit(7.0)
        forced.hear()
        forced.extend(10.0)
        forced.close()
        self.assertEqual(self.timer.mock_calls, [])

    def test_nothing_after_a_signal_that_the_program_handles_itself(self) -> None:
        forced = ForcedExit(7.0)
        self.addCleanup(forced.close)
        forced.hear([signal.SIGTERM])
        forced._heard(signal.SIGHUP)
        self.assertEqual(self.timer.mock_calls, [])
        forced._heard(signal.SIGTERM)
        self.assertEqual(self.armed(), [8.0])

    def test_faulthandler_leaves_the_thread_a_second_for_the_log_and_is_disarmed_at_the_end(self) -> None:
        forced = ForcedExit(7.0)
        forced.begin()
        forced.begin()
        self.assertEqual(self.armed(), [8.0])
        self.assertTrue(self.timer.dump_traceback_later.mock_calls[0].kwargs["exit"])
        forced.extend(10.0)
        self.assertEqual(self.armed(), [8.0, 11.0])
        self.timer.cancel_dump_traceback_later.assert_not_called()
        forced.close()
        self.timer.cancel_dump_traceback_later.assert_called_once_with()

    def test_it_says_where_the_main_thread_was_before_its_signals(self) -> None:
        """A second signal may come while the handler of the first runs."""

        def handler(again: int) -> None:
            def within() -> None:
                handler(again - 1)

            if again:
                within()
            else:
                forced._end("told")

        forced = ForcedExit(7.0, handler=handler)
        for again in (0, 1, 2):
            with (
                self.subTest(again),
                mock.patch("os._exit"),
                mock.patch("logging.shutdown"),
                self.assertLogs("discosbackend.forced_exit") as caught,
            ):
                handler(again)
            self.assertIn(f"in {self._testMethodName}() in ", caught.output[0])

    def test_longer_than_any_timer(self) -> None:
        forced = ForcedExit(1e20)
        forced.begin()
        forced.close()
        self.assertEqual(self.armed(), [1e6 + 1])

    def test_the_promise(self) -> None:
        """As in docs/operating.md: twice the stop timeout plus 1 s, or the stop timeout plus 2 s if it is below 1 s."""
        for stop_timeout, wanted in ((3.0, 7.0), (1.0, 3.0), (0.2, 2.2), (0.0, 2.0)):
            server = server_module.Server(mock.Mock(), mock.Mock(), stop_timeout=stop_timeout)
            self.assertEqual(server.longest_stop, wanted)

    def test_the_end_of_a_child_is_passed_on(self) -> None:
        told: list[bool] = []
        forced = ForcedExit(7.0, lambda: told.append(True))
        self.addCleanup(signal.signal, signal.SIGCHLD, signal.signal(signal.SIGCHLD, lambda *_: None))
        forced.hear()
        signal.raise_signal(signal.SIGCHLD)
        wait_until(lambda: told)
        forced.close()
        self.assertEqual(self.timer.mock_calls, [])


if __name__ == "__main__":
    unittest.main()
