"""Tests of the signals that end a program: the same for all programs, and each shuts a server down."""

from __future__ import annotations

import ast
import contextlib
import io
import multiprocessing
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import discosbackend
from discosbackend.cli import recover, simctl
from discosbackend.client import command_line
from discosbackend.errors import Interrupted
from discosbackend.signals import ENDING, heard, install, interrupting, kept

from .recordings import record
from .serving import ROOT, SCRIPT, Server, ask, read_line
from .settings import PATIENCE

PACKAGE = Path(discosbackend.__file__).parent

# The modules that treat one signal differently: a second Ctrl-C, and a SIGHUP that the program handles itself.
SINGLED_OUT = {
    "signals.py": {"SIGINT", "SIGTERM", "SIGHUP"},
    "forced_exit.py": {"SIGINT"},
    "server.py": {"SIGHUP"},
    # It ends the client program that is checked.
    "testing/client_process.py": {"SIGTERM"},
    # It sends one to itself.
    "simulator/fits/convert.py": {"SIGTERM"},
}

RECORDER = """
    from discosbackend import Acquisition, Backend

    class Recorder(Backend):
        def __init__(self):
            self.acquisition = Acquisition(lambda _: None, self.end)

        def start(self, timestamp=None):
            self.acquisition.start(timestamp)

        def stop(self, timestamp=None):
            self.acquisition.stop(timestamp)

        def end(self, instant):
            with open("ended", "w") as file:
                file.write("ended")
"""


# Sends itself a signal from another thread, when the main thread has waited for events for a while.
HIT = """
    import signal, sys, threading
    from discosbackend import Backend

    class Hit(Backend):
        def server_started(self):
            threading.Thread(target=self.hit, daemon=True).start()

        def hit(self):
            seen = 0
            while seen < 20:
                threading.Event().wait(0.01)
                frame = sys._current_frames()[threading.main_thread().ident]
                seen = seen + 1 if frame.f_code.co_name in ("doPoll", "select") else 0
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            threading.Event().wait()
"""


class ListTests(unittest.TestCase):
    """Tests that only one module lists the signals that end a program."""

    def test_no_other_module_names_them(self) -> None:
        names = {number.name for number in ENDING}
        self.assertEqual(names, {"SIGINT", "SIGTERM", "SIGHUP"})
        for path in PACKAGE.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            # Parse only what has one of the names at all.
            tree = ast.parse(text if any(name in text for name in names) else "")
            named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & names
            name = str(path.relative_to(PACKAGE))
            with self.subTest(name):
                self.assertEqual(named, SINGLED_OUT.get(name, set()))

    def test_an_ignored_one_stays_ignored(self) -> None:
        for number in ENDING:
            with self.subTest(number), ignored(number):
                self.assertEqual(heard(), [other for other in ENDING if other != number])
                with interrupting():
                    signal.raise_signal(number)
                    self.assertIs(signal.getsignal(number), signal.SIG_IGN)

    def test_each_interrupts_and_the_handlers_are_put_back(self) -> None:
        for number in ENDING:
            before = signal.getsignal(number)
            with self.subTest(number):
                with self.assertRaises(Interrupted) as caught, interrupting():
                    signal.raise_signal(number)
                self.assertEqual(str(caught.exception), f"interrupted by {number.name}")
                self.assertIs(signal.getsignal(number), before)

    def test_the_descriptor_of_wake_ups_is_put_back(self) -> None:
        ours, other = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(other.close)
        for end in (ours, other):
            end.setblocking(False)
        before = signal.set_wakeup_fd(ours.fileno())
        self.addCleanup(signal.set_wakeup_fd, before)
        with kept():
            signal.set_wakeup_fd(other.fileno())
        self.assertEqual(signal.set_wakeup_fd(before), ours.fileno())

    def test_in_another_thread_nothing_is_touched(self) -> None:
        before = {number: signal.getsignal(number) for number in ENDING}
        seen: list[object] = []

        def work() -> None:
            with kept(), interrupting():
                seen.append({number: signal.getsignal(number) for number in ENDING})

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(PATIENCE)
        self.assertEqual(seen, [before])


class ForkTests(unittest.TestCase):
    """Tests that a signal ends a process that a backend has forked immediately, even if it waits in C code."""

    def handlers_in_a_fork(self) -> list[object]:
        ours, theirs = multiprocessing.Pipe()
        self.addCleanup(ours.close)
        child = multiprocessing.get_context("fork").Process(
            target=lambda: theirs.send([signal.getsignal(number) for number in ENDING])
        )
        child.start()
        theirs.close()
        try:
            return list(ours.recv())
        finally:
            child.join()

    def test_what_was_installed_is_the_default_there(self) -> None:
        with kept():
            for number in ENDING:
                install(number, signal.default_int_handler)
            self.assertEqual(self.handlers_in_a_fork(), [signal.SIG_DFL] * len(ENDING))
            self.assertEqual([signal.getsignal(number) for number in ENDING], [signal.default_int_handler] * 3)

    def test_what_a_program_has_put_in_its_place_stays(self) -> None:
        with kept():
            for number in ENDING:
                install(number, lambda *_: None)
                signal.signal(number, signal.default_int_handler)
            self.assertEqual(self.handlers_in_a_fork(), [signal.default_int_handler] * len(ENDING))


class ProgramTests(unittest.TestCase):
    """Tests that each signal ends a program that waits with one line and exit status 130."""

    def interrupted(self, number: int, program: Callable[[], object]) -> str:
        """Run a program that gets this signal, and return what it has written to standard error."""
        errors = io.StringIO()
        before = signal.getsignal(number)
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            with self.assertRaises(SystemExit) as caught:
                program()
        self.assertEqual(caught.exception.code, 130)
        self.assertIs(signal.getsignal(number), before)
        self.assertEqual(len(errors.getvalue().splitlines()), 1, errors.getvalue())
        self.assertIn(f"interrupted by {signal.Signals(number).name}", errors.getvalue())
        return errors.getvalue()

    def test_recover(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            record(Path(folder))
            for number in ENDING:
                with self.subTest(number), mock.patch.object(recover, "convert", lambda *_, **__: raise_now(number)):
                    self.interrupted(number, lambda: recover.main([folder]))

    def test_simctl(self) -> None:
        for number in ENDING:
            with self.subTest(number), server_that_raises(number, b"") as port:
                self.interrupted(number, lambda: simctl.main([str(port), "state"]))

    def test_the_client(self) -> None:
        for number in ENDING:
            with self.subTest(number), server_that_raises(number, b"!version,ok,1.4\r\n") as port:
                said = self.interrupted(
                    number, lambda: command_line.main([f"127.0.0.1:{port}", "set-configuration", "SK00"])
                )
                self.assertIn("the server continues to execute set-configuration", said)

    def test_the_client_with_lines_of_standard_input(self) -> None:
        for number in ENDING:
            lines = io.StringIO("set-configuration SK00\nstatus\n")
            with (
                self.subTest(number),
                server_that_raises(number, b"!version,ok,1.4\r\n") as port,
                mock.patch("sys.stdin", lines),
            ):
                self.interrupted(number, lambda: command_line.main([f"127.0.0.1:{port}", "-"]))

    def test_the_shell_of_the_client(self) -> None:
        """Ctrl-C ends only the request, as test_client_shell tests. The other signals end the shell."""
        for number in set(ENDING) - {signal.SIGINT}:
            with (
                self.subTest(number),
                server_that_raises(number, b"!version,ok,1.4\r\n") as port,
                mock.patch("sys.stdin.isatty", return_value=True),
                mock.patch("discosbackend.client.prompt.history_file", return_value=None),
                mock.patch("discosbackend.client.prompt.line_reader", lambda *_: lambda: "set-configuration SK00"),
            ):
                self.interrupted(number, lambda: command_line.main([f"127.0.0.1:{port}"]))


@contextlib.contextmanager
def ignored(number: int) -> Iterator[None]:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def raise_now(number: int) -> None:
    signal.raise_signal(number)


@contextlib.contextmanager
def server_that_raises(number: int, greeting: bytes) -> Iterator[int]:
    """Start a server that sends a signal to this process instead of a reply. Return its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)

        def work() -> None:
            connection = listening.accept()[0]
            with connection:
                connection.settimeout(PATIENCE)
                connection.sendall(greeting)
                connection.recv(100)
                os.kill(os.getpid(), number)
                with contextlib.suppress(OSError):
                    # Wait until the client has disconnected.
                    connection.recv(100)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            thread.join(PATIENCE)


class ServerTests(unittest.TestCase):
    """Tests that a server shuts down cleanly after each of the signals."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "recorder.py").write_text(textwrap.dedent(RECORDER), encoding="utf-8")

    def command(self) -> list[str]:
        return [sys.executable, str(SCRIPT), "--port", "0", "--backend", "recorder:Recorder"]

    def serve(self, *before: str) -> Server:
        server = Server([*before, *self.command()], self.folder)
        self.addCleanup(server.end)
        with server.connect() as connection:
            self.assertEqual(ask(connection, b"?start"), [b"!start,ok\r\n"])
        return server

    def test_each_ends_the_acquisition(self) -> None:
        for number in ENDING:
            with self.subTest(number):
                server = self.serve()
                self.assertEqual(server.stop(number), 0, server.log())
                self.assertIn(f"{number.name}: stopping", server.log())
                self.assertTrue((self.folder / "ended").exists())
                (self.folder / "ended").unlink()

    def test_one_that_does_not_interrupt_the_waiting_reactor(self) -> None:
        """It arrives in another thread, which Python's handler does not run in."""
        (self.folder / "hit.py").write_text(textwrap.dedent(HIT), encoding="utf-8")
        command = [sys.executable, str(SCRIPT), "--port", "0", "--backend", "hit:Hit", "--watchdog", "0"]
        server = Server(command, self.folder)
        self.addCleanup(server.end)
        self.assertEqual(server.process.wait(PATIENCE), 0, server.log())
        self.assertIn("SIGTERM: stopping", server.log())

    def test_one_that_was_ignored_at_the_start_changes_nothing(self) -> None:
        for number in ENDING:
            name = number.name.removeprefix("SIG")
            with self.subTest(name):
                server = self.serve("sh", "-c", f"trap '' {name}; exec \"$@\"", "sh")
                server.process.send_signal(number)
                with server.connect() as connection:
                    self.assertEqual(ask(connection, b"?stop"), [b"!stop,ok\r\n"])
                other = signal.SIGINT if number == signal.SIGTERM else signal.SIGTERM
                self.assertEqual(server.stop(other), 0, server.log())
                self.assertNotIn(f"SIG{name}", server.log())

    def test_a_handler_of_the_programs_own_for_sighup_stays(self) -> None:
        """Many programs reload their settings on SIGHUP."""
        code = "import signal\nsignal.signal(signal.SIGHUP, lambda *_: print('anew', flush=True))\n"
        path = self.folder / "recorder.py"
        path.write_text(code + path.read_text(encoding="utf-8"), encoding="utf-8")
        server = self.serve()
        server.process.send_signal(signal.SIGHUP)
        assert server.process.stdout is not None
        self.assertEqual(server.process.stdout.readline(), "anew\n")
        self.assertEqual(server.stop(signal.SIGTERM), 0, server.log())

    def test_a_terminal_that_is_closed(self) -> None:
        ours, theirs = os.openpty()
        # The first terminal that the first process of a session opens becomes its controlling terminal, as for a shell.
        on_it = f'exec "$@" < {os.ttyname(theirs)} > {os.ttyname(theirs)} 2>&1'
        process = subprocess.Popen(
            ["sh", "-c", on_it, "sh", *self.command()],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        try:
            with open(ours, "rb", buffering=0) as terminal:
                written = b""
                while not (found := re.search(rb" is served on 127\.0\.0\.1:(\d+), ", written)):
                    # It cannot end, because this process has opened it as well.
                    self.assertTrue(select.select([terminal], [], [], PATIENCE)[0], written)
                    written += terminal.read(1000)
                # Only after the process has opened the terminal: otherwise it cannot be read.
                os.close(theirs)
                with socket.create_connection(("127.0.0.1", int(found[1])), PATIENCE) as connection:
                    self.assertEqual(ask(connection, b"?start")[0], b"!version,ok,1.4\r\n")
                    self.assertEqual(read_line(connection), b"!start,ok\r\n")
            self.assertEqual(process.wait(PATIENCE), 0)
        finally:
            process.kill()
            process.wait(PATIENCE)
        self.assertTrue((self.folder / "ended").exists())


if __name__ == "__main__":
    unittest.main()
