"""The program discos-backend-server: its options, its one line, its error messages."""

from __future__ import annotations

import errno
import os
import socket
import sys
import tempfile
import threading
import unittest
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM
from unittest import mock

from twisted.logger import Logger, LogLevel
from twisted.python import threadable

from discosbackend import __version__, ticks
from discosbackend.cli import server
from discosbackend.simulator import INSTRUMENTS

from .in_memory import Connection
from .program_in_memory import served_in_memory
from .programs import InMemory, Listening, Outcome, run_program
from .serving import SCRIPT, Server, ask, bare_environment, program, served
from .settings import PATIENCE, needs_ipv6, wait_until

NONESUCH = b"!nonesuch,fail,invalid command 'nonesuch'\r\n"


def run(*options: str, cwd: Path | str | None = None, reactor: InMemory | None = None) -> Outcome:
    """The program, for command lines with which it does not serve."""
    return run_program(server.main, *options, cwd=cwd, reactor=reactor)


def can_be_bound(address: str) -> bool:
    """Whether this host lets a socket have that address: some let one have any."""
    with socket.socket() as bound:
        try:
            bound.bind((address, 0))
        except OSError:
            return False
        return True


class Unfinished:
    """Its finalizer fails, which Python prints unless a program logs it."""

    def __del__(self) -> None:
        raise ZeroDivisionError


class Importing(threading.Thread):
    """Imports astropy, as a thread of a server in an earlier test does, and needs until somebody waits for it."""

    def __init__(self) -> None:
        super().__init__(name="discos-astropy", daemon=True)
        self.inside, self.waited_for = threading.Event(), threading.Event()

    def start(self) -> None:
        super().start()
        self.inside.wait(PATIENCE)

    def run(self) -> None:
        with warnings.catch_warnings():
            self.inside.set()
            self.waited_for.wait(PATIENCE)

    def join(self, timeout: float | None = None) -> None:
        self.waited_for.set()
        super().join(timeout)

    @contextmanager
    def joined(self) -> Iterator[None]:
        self.join(PATIENCE)
        yield


class CommandLineTests(unittest.TestCase):
    """Command lines that cannot be served: one clear line, a status that is not 0, no traceback."""

    def assert_refused(
        self, status: int, text: str, *options: str, cwd: Path | str | None = None, reactor: InMemory | None = None
    ) -> None:
        with self.subTest(options):
            found = run(*options, cwd=cwd, reactor=reactor)
            self.assertEqual(found.status, status, found.err)
            self.assertNotIn("Traceback", found.err)
            self.assertEqual(found.out, "")
            lines = found.err.splitlines()
            self.assertIn(text, lines[-1])
            if status == 1:
                self.assertEqual(len(lines), 1, lines)
                self.assertTrue(lines[0].startswith("discos-backend-server: "), lines)

    def test_wrong_options(self) -> None:
        for options, text in [
            (["--port", "65536"], "'65536' is not a port from 0 to 65535"),
            (["--port", "-1"], "'-1' is not a port"),
            (["--port", "http"], "'http' is not a port"),
            (["--port", "1" * 5000], "'11111111111111111111' is not a port"),
            (["--simulate", "nonesuch"], "no instrument is called 'nonesuch': discos, mistral, sardara"),
            (["--simulate", "discos", "--backend", "a:b"], "not allowed with argument"),
            (["--listen", "tcp:0", "--port", "3"], "leave out --port and --interface"),
            (["--listen", "tcp:0", "--interface", "::1"], "leave out --port and --interface"),
            (["--command-timeout", "soon"], "'soon' is not a number of seconds"),
            (["--greeting-delay", "-1"], "'-1' is not a number of seconds, 0 or more"),
            (["--stop-timeout", "nan"], "'nan' is not a number of seconds, 0 or more"),
            (["--reply-limit", "20"], "at least 128"),
            (["--log-level", "loud"], "invalid choice: 'loud'"),
            (["surplus"], "unrecognized arguments: surplus"),
        ]:
            self.assert_refused(2, text, *options)

    def test_wrong_backends(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, code in {
                "broken": "import nonesuch_module",
                "syntax": "def :",
                "leaves": "raise SystemExit(0)",
                "raises": "class Mine:\n    def status(self): pass\n    def __init__(self): raise OSError('no\\nlink')",
                "empty": "class Mine: pass",
                "mute": (
                    "class Mute(Exception):\n    def __str__(self): raise RuntimeError\n"
                    "class Mine:\n    def __init__(self): raise Mute\n"
                ),
                "property": "class Mine:\n    @property\n    def status(self): raise RuntimeError('not yet')",
                "twice": (
                    "from discosbackend import Backend, command\n"
                    "class Mine(Backend):\n"
                    "    @command('sweep')\n    def a(self): pass\n"
                    "    @command('sweep')\n    def b(self): pass\n"
                ),
            }.items():
                Path(folder, f"{name}.py").write_text(code, encoding="utf-8")
            for backend, text in [
                ("broken:Mine", "cannot import 'broken': ModuleNotFoundError: No module named 'nonesuch_module'"),
                ("syntax:Mine", "cannot import 'syntax': SyntaxError"),
                ("leaves:Mine", "cannot import 'leaves': SystemExit"),
                ("nonesuch:Mine", "cannot import 'nonesuch'"),
                ("empty:Nonesuch", "no 'Nonesuch' in 'empty'"),
                ("raises:Mine", "cannot create Mine: OSError: no link"),
                ("mute:Mine", "cannot create Mine: Mute"),
                ("property:Mine", "'property:Mine' cannot be served: RuntimeError: not yet"),
                ("empty.py:Mine", "is not MODULE:NAME, such as mybackend:MyBackend (without .py)"),
                ("empty:Mine", "has none of the protocol's methods"),
                ("twice:Mine", "'sweep' is declared by"),
                ("empty", "'empty' is not MODULE:NAME, such as mybackend:MyBackend"),
                (":Mine", "is not MODULE:NAME"),
            ]:
                self.assert_refused(1, text, "--backend", backend, cwd=folder)

    def test_a_list_that_cannot_be_written(self) -> None:
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch.object(server, "write_result", side_effect=full):
            self.assert_refused(1, "cannot write to standard output: No space left on device", "--list")

    def test_places_where_one_cannot_listen(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, tempfile.TemporaryDirectory() as folder:
            port = str(taken.getsockname()[1])
            for text, *options in (
                ("Address already in use", "--port", port),
                ("Address already in use", "--listen", f"tcp:{port}:interface=127.0.0.1"),
                ("'smoke:signals' is not a valid endpoint", "--listen", "smoke:signals"),
                ("is not a valid endpoint", "--listen", f"ssl:0:privateKey={folder}/nonexistent.pem"),
                ("cannot listen", "--listen", f"unix:{folder}/nonexistent/socket"),
                *(
                    (f"'{description}' is not a valid endpoint", "--listen", description)
                    for description in (
                        "stdio:",
                        "haproxy:stdio:",
                        "systemd:domain=INET:name=b",
                        "tcp:99999",
                        "tcp:8978:x=1",
                    )
                ),
            ):
                self.assert_refused(1, text, *options, reactor=Listening())

    @needs_ipv6
    def test_an_ipv6_port_that_is_in_use(self) -> None:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
            port = str(taken.getsockname()[1])
            text = f"cannot listen on [::1]:{port}: Address already in use"
            self.assert_refused(1, text, "--interface", "::1", "--port", port, reactor=Listening())

    def test_an_address_that_this_host_has_not(self) -> None:
        address = "192.0.2.1"
        if can_be_bound(address):
            self.skipTest(f"a socket can have the address {address} here")
        self.assert_refused(1, "cannot listen", "--interface", address, "--port", "0", reactor=Listening())

    def test_an_address_that_is_none(self) -> None:
        for options in (("--interface", "no host", "--port", "0"), ("--listen", "tcp:0:interface=no host")):
            self.assert_refused(1, "Name or service not known", *options, reactor=Listening())

    def test_interrupted_before_it_listens(self) -> None:
        """By Ctrl-C, while the module is imported or the backend is made."""
        for text in (
            "raise KeyboardInterrupt\n",
            "class Mine:\n    def __init__(self): raise KeyboardInterrupt\n",
            "class Mine:\n    status = None\n    def __getattr__(self, name): raise KeyboardInterrupt\n",
        ):
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "mine.py").write_text(text, encoding="utf-8")
                wanted = "discos-backend-server: interrupted before it was listening"
                self.assert_refused(1, wanted, "--backend", "mine:Mine", cwd=folder)

    def test_version(self) -> None:
        self.assertEqual(run("--version"), (0, f"discos-backend-server {__version__}, protocol version 1.4\n", ""))

    def test_help_has_examples(self) -> None:
        found = run("--help")
        self.assertEqual((found.status, found.err), (0, ""))
        self.assertIn("examples:", found.out)
        self.assertIn("--backend mybackend:MyBackend", found.out)


class ProgramTests(unittest.TestCase):
    """The program at work."""

    def test_every_instrument(self) -> None:
        for instrument in INSTRUMENTS:
            with self.subTest(instrument), served_in_memory("--no-data", "--simulate", instrument) as program:
                (announced,) = program.announced
                self.assertRegex(
                    announced,
                    rf"^discosbackend: .*{instrument}.* is served on 127\.0\.0\.1:8978, protocol version 1\.4$",
                )
                self.assertRegex(program.ask(b"?status")[0], rb"^!status,ok,\d+\.\d{7},[^,]+,0\r\n$")

    def test_the_default_is_discos_on_the_local_interface(self) -> None:
        with served() as server:
            self.assertRegex(
                server.announced,
                r"^discosbackend: simulated discos is served on 127\.0\.0\.1:\d+, protocol version 1\.4$",
            )
            with server.connect() as connection:
                self.assertRegex(ask(connection, b"?status")[0], rb"^!status,ok,\d+\.\d{7},ok,0\r\n$")
            self.assertEqual(server.stop(SIGTERM), 0, server.log())

    def test_where_it_listens(self) -> None:
        for options, wanted in (
            ((), (8978, "127.0.0.1")),
            (("--port", "10000", "--interface", "0.0.0.0"), (10000, "0.0.0.0")),
            (("--interface", "::1"), (8978, "::1")),
            (("--listen", "tcp:3:interface=127.0.0.2"), (3, "127.0.0.2")),
        ):
            with self.subTest(options), served_in_memory(*options) as program:
                self.assertEqual((program.port, program.interface), wanted)

    def test_a_backend_from_the_current_folder_from_any_folder(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "mine.py").write_text(
                "from twisted.internet.defer import fail\n"
                "class Mine:\n"
                "    def get_configuration(self): return 'TP'\n"
                "    def park(self): fail(RuntimeError('nobody handles this'))\n"
                "mine = Mine()\n",
                encoding="utf-8",
            )
            link = Path(folder, "link")
            link.symlink_to(SCRIPT)
            requests = b"?get-configuration", b"?status"
            wanted = [b"!get-configuration,ok,TP\r\n", b"!status,fail,not supported by this backend\r\n"]
            with served_in_memory("--backend", "mine:mine", cwd=folder) as program:
                self.assertEqual(program.ask(*requests), wanted)
            command = [sys.executable, str(link), "--port", "0", "--backend", "mine:Mine"]
            server = Server(command, folder, bare_environment())
            self.addCleanup(server.end)
            with server.connect() as connection:
                self.assertEqual(ask(connection, *requests), wanted)
                # What Twisted has to say is in the same log.
                self.assertEqual(ask(connection, b"?backend-park"), [b"!backend-park,ok\r\n"])
                self.assertRegex(
                    server.log(), r"CRITICAL twisted: Unhandled error in Deferred(?s:.*)nobody handles this"
                )

    def test_what_twisted_logs_is_limited_and_counted(self) -> None:
        """The count is there after a second, and when the server stops before that."""
        self.enterContext(mock.patch.object(threadable, "ioThread", threading.get_ident()))
        with served_in_memory("--no-data") as program:
            (observer,) = program.twisted_observers
            log = Logger("test", observer=observer)

            def odd_lines() -> list[str]:
                return [line for line in program.log().splitlines() if "odd" in line]

            for wait in (True, False):
                before = len(odd_lines())
                for number in range(100):
                    log.emit(LogLevel.warn, "odd: {number}", number=number)
                self.assertEqual(len(odd_lines()) - before, 5)
                if wait:
                    program.reactor.advance(1)
                else:
                    program.stop()
                self.assertEqual(len(odd_lines()) - before, 6)
                self.assertTrue(odd_lines()[-1].endswith(" 95 more lines of this kind left out: odd: {number}"))

    def test_what_python_prints_is_in_the_log(self) -> None:
        importing = Importing()
        importing.start()
        with served_in_memory("--no-data") as program, importing.joined(), warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("an odd warning", UserWarning, stacklevel=1)
            thread = threading.Thread(target=lambda: 1 / 0, name="odd")
            thread.start()
            thread.join(PATIENCE)
            Unfinished()
            log = program.log()
        self.assertIn(" WARNING py.warnings: UserWarning: an odd warning ", log)
        self.assertIn(" ERROR discosbackend.log: thread odd has failed\n", log)
        self.assertRegex(log, " ERROR discosbackend.log: .*<function Unfinished.__del__")

    def test_astropy_must_not_ask_the_network(self) -> None:
        with served_in_memory("--no-data"):
            self.assertFalse(ticks.astropy_may_download)

    def test_limits_reach_the_server(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "mine.py").write_text(
                "from twisted.internet.defer import Deferred\n"
                "class Mine:\n"
                "    def get_tpi(self): return Deferred()\n"
                "    def get_rms(self): return [1.5] * 300\n",
                encoding="utf-8",
            )
            options = ["--command-timeout", "0.1", "--reply-limit", "0", "--greeting-delay", "60"]
            with served_in_memory("--backend", "mine:Mine", *options, cwd=folder) as program:
                silent, asking = Connection(program.factory), Connection(program.factory)
                program.reactor.advance(59.9)
                self.assertEqual(silent.received(), b"")
                program.reactor.advance(0.1)
                self.assertEqual(silent.received(), b"!version,ok,1.4\r\n")
                asking.received()
                self.assertEqual(asking.ask(b"?get-tpi\r\n?get-rms\r\n"), b"")

                def both_replies() -> bytes:
                    # The reactor's timers are in memory, the time limit is judged by the clock of the host.
                    program.reactor.advance(0.1)
                    replies = asking.transport.value()
                    return replies if replies.count(b"\n") == 2 else b""

                timeout = b"!get-tpi,fail,timeout: get-tpi took longer than 0.1 s\r\n"
                self.assertEqual(wait_until(both_replies), timeout + b"!get-rms,ok" + b",1.5" * 300 + b"\r\n")

    def test_the_log_shows_exchanges_at_debug_and_cannot_be_forged(self) -> None:
        with served("--log-level", "debug") as server:
            with server.connect() as connection:
                ask(connection, b"?get-configuration", b"?nonesuch", b"?x,\x85\x1b[31m2026 CRITICAL forged")
            self.assertEqual(server.stop(SIGTERM), 0)
            log = server.log()
        self.assertIn("b'?get-configuration' -> b'!get-configuration,ok,unconfigured' in 0.", log)
        self.assertRegex(log, r"nonesuch from 127\.0\.0\.1:\d+ -> fail \"invalid command 'nonesuch'\" in 0\.\d{3} s")
        self.assertIn("2026 CRITICAL forged", log)
        for line in log.splitlines():
            self.assertRegex(line, r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} UT [A-Z]+ [\w.]+: [ -~]*$")

    def test_a_log_that_nobody_reads_does_not_stop_the_server(self) -> None:
        """A full pipe: lines are dropped and counted, every request is answered, and the server ends."""
        reader, writer = os.pipe()
        with open(reader, "rb") as log:
            with open(writer, "wb") as pipe:
                process = Server(program("--log-level", "debug"), stderr=pipe)
            self.addCleanup(process.end)
            with process.connect() as connection:
                for _ in range(10):
                    self.assertEqual(set(ask(connection, *[b"?nonesuch"] * 1000)), {NONESUCH})
            self.assertEqual(process.stop(SIGTERM), 0)
            lines = log.read().decode().splitlines()
        self.assertGreater(len(lines), 100)
        written = sum("b'?nonesuch' -> " in line for line in lines)
        self.assertLess(written, 10000)


if __name__ == "__main__":
    unittest.main()
