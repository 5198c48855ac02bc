"""Tests of whole servers, with real sockets on port 0, real signals, and fresh interpreters."""

from __future__ import annotations

import http.client
import io
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import textwrap
import time
import unittest
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn, cast
from unittest import mock

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from discosbackend import Backend, acquisition
from discosbackend import server as server_module
from discosbackend.endpoints import endpoint_from
from discosbackend.handlers import AlwaysOkHandler, DBProtocolHandler
from discosbackend.protocol import DBFactory
from discosbackend.server import (
    BACKLOG,
    _stop_signals,
    _StopSignals,
    address_of,
    announcement,
    listen,
    run_server,
    run_until_stopped,
    tcp_endpoint,
)
from discosbackend.signals import kept

from .in_memory import Connection
from .program_in_memory import served_in_memory
from .programs import InMemory, Listening, Runs, process_as_before
from .serving import (
    SCRIPT,
    Server,
    ask,
    connected,
    fill,
    read_line,
    refusing,
    run_python,
    served,
    served_by,
)
from .settings import HAS_TLS, LONG, PATIENCE, wait_until


class ListenTests(unittest.TestCase):
    """Tests of listen() and the endpoints, with a reactor in memory."""

    def test_listen_uses_the_long_backlog_and_the_given_reactor(self) -> None:
        reactor = MemoryReactorClock()
        listen(AlwaysOkHandler(), 10001, "127.0.0.1", reactor=reactor)
        port, factory, backlog, interface = reactor.tcpServers[0]
        self.assertEqual((port, backlog, interface), (10001, BACKLOG, "127.0.0.1"))
        self.assertIs(cast(Any, factory).reactor, reactor)

    def test_listen_defaults(self) -> None:
        reactor = MemoryReactorClock()
        listen(AlwaysOkHandler(), reactor=reactor)
        self.assertEqual(reactor.tcpServers[0][0::3], (8978, ""))

    def test_backlog_is_4096(self) -> None:
        self.assertEqual(BACKLOG, 4096)

    def test_an_endpoint_for_either_family(self) -> None:
        """The reactor decides by the interface."""
        for interface in ("", "127.0.0.1", "::1", "::"):
            with self.subTest(interface):
                reactor, factory = MemoryReactorClock(), DBFactory(AlwaysOkHandler(), reactor=Clock())
                ports: list[Any] = []
                tcp_endpoint(reactor, 0, interface).listen(factory).addCallback(ports.append)
                self.assertEqual(reactor.tcpServers, [(0, factory, BACKLOG, interface)])
                self.assertTrue(IListeningPort.providedBy(ports[0]))

    def test_an_endpoint_that_cannot_listen(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            from twisted.internet import reactor

            endpoint = tcp_endpoint(reactor, taken.getsockname()[1], "127.0.0.1")
            failed = endpoint.listen(DBFactory(AlwaysOkHandler()))
            failures: list[Failure] = []
            failed.addErrback(failures.append)
            self.assertTrue(failures[0].check(CannotListenError))

    def test_endpoints(self) -> None:
        reactor = MemoryReactorClock()
        for description, backlog in (
            ("tcp:8978:interface=127.0.0.1", BACKLOG),
            ("tcp:8978:backlog=7", 7),
            ("tcp6:8978", BACKLOG),
            ("unix:/run/discos.sock", BACKLOG),
            ("haproxy:tcp:8978", None),
        ):
            with self.subTest(description):
                endpoint_from(reactor, description).listen(DBFactory(AlwaysOkHandler(), reactor=reactor))
                if backlog is not None:
                    self.assertEqual([*reactor.tcpServers, *reactor.unixServers][-1][2], backlog)
                reactor.tcpServers.clear()
                reactor.unixServers.clear()

    def test_endpoints_that_cannot_be_used(self) -> None:
        """Each error is one sentence that says what to write instead."""
        no_tls = r"pip install 'discosbackend\[tls\]'"
        for description, words in (
            ("stdio:", "a server needs a port or a socket of its own"),
            ("stdio", "a server needs a port or a socket of its own"),
            ("haproxy:stdio:", "a server needs a port or a socket of its own"),
            ("tcp", "tcp:8978"),
            ("tcp:", "tcp:8978"),
            ("tcp:abc", "tcp:8978"),
            ("tcp:99999", "tcp:8978"),
            ("tcp:-1", "tcp:8978"),
            ("tcp6:65536", "tcp6:8978"),
            ("tcp:8978:nonsense=1", "tcp:8978"),
            ("unix:/run/x:mode=999", "unix:/run/discos-backend.sock"),
            ("systemd:", "systemd:domain=INET:name=backend"),
            ("systemd:domain=INET:name=backend", "systemd has handed over no socket 'backend'"),
            ("systemd:domain=INET:index=0", "systemd has handed over no socket with this index: the first one has 0"),
            ("fd:3", "there is no kind 'fd'"),
            ("tpc:8978", "did you mean tcp?"),
            ("smoke:signals", "there is no kind 'smoke'"),
            ("", "there is no kind ''"),
            ("a=b", "there is no kind 'a=b': there are tcp, tcp6, unix"),
            ("ssl:0:privateKey=/nonexistent.pem", "cannot be read" if HAS_TLS else no_tls),
            ("ssl:0", "server.pem" if HAS_TLS else no_tls),
            ("fd:x=1", "there is no kind 'fd'"),
        ):
            with self.subTest(description), self.assertRaisesRegex(ValueError, words) as caught:
                endpoint_from(MemoryReactorClock(), description)
            self.assertTrue(str(caught.exception).isprintable())
            self.assertNotRegex(str(caught.exception), r"Error|_parse|argument")

    def test_sockets_from_systemd_that_cannot_be_used(self) -> None:
        """A datagram socket, or one that does not listen, would be served without any connection ever."""
        for kind, family, words in (
            (socket.SOCK_STREAM, socket.AF_INET, "does not listen for connections: use ListenStream"),
            (socket.SOCK_DGRAM, socket.AF_INET, "does not listen for connections: use ListenStream"),
            (None, socket.AF_UNIX, "its address is not a path: write domain=INET"),
        ):
            with socket.socket(type=kind) if kind else socket.create_server(("127.0.0.1", 0)) as given:
                adopted = AdoptedStreamServerEndpoint(MemoryReactorClock(), given.fileno(), family)
                with (
                    self.subTest(words, kind=kind),
                    mock.patch("discosbackend.endpoints.serverFromString", return_value=adopted),
                    self.assertRaisesRegex(ValueError, words),
                ):
                    endpoint_from(MemoryReactorClock(), "systemd:domain=x:name=backend")
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as given:
            given.bind(f"{folder}/socket")
            given.listen()
            for family, words in ((socket.AF_INET, "its address is a path: write domain=UNIX"), (socket.AF_UNIX, "")):
                adopted = AdoptedStreamServerEndpoint(MemoryReactorClock(), given.fileno(), family)
                with mock.patch("discosbackend.endpoints.serverFromString", return_value=adopted):
                    if words:
                        self.assertRaisesRegex(ValueError, words, endpoint_from, None, "systemd:domain=x:name=backend")
                    else:
                        self.assertIs(endpoint_from(None, "systemd:domain=x:name=backend"), adopted)

    def test_a_socket_from_systemd_that_is_none(self) -> None:
        with tempfile.TemporaryFile() as given:
            adopted = AdoptedStreamServerEndpoint(MemoryReactorClock(), given.fileno(), socket.AF_INET)
            with mock.patch("discosbackend.endpoints.serverFromString", return_value=adopted):
                words = "systemd has handed over no socket"
                self.assertRaisesRegex(ValueError, words, endpoint_from, None, "systemd:domain=INET:name=backend")

    def test_what_an_endpoint_listens_on_must_be_a_port(self) -> None:
        """An endpoint of a plugin may return an object that cannot be closed."""

        class Odd:
            def listen(self, factory: Any) -> Any:
                return succeed(object())

        endpoint: Any = Odd()
        server = server_module.Server(endpoint, DBFactory(AlwaysOkHandler(), reactor=MemoryReactorClock()))
        server.start()
        problems: list[Any] = []
        server.listening.addErrback(problems.append)
        self.assertIn("is not a port", problems[0].getErrorMessage())
        self.assertIsNone(server.stop().result)

    def served_later(self, what: Any) -> list[str]:
        """Run a server whose endpoint fires only while the reactor runs, and return the lines on standard output.

        It is stopped before, if it gets nothing to fire with.
        """
        listening: Deferred[Any] = Deferred()

        class Later:
            def listen(self, factory: Any) -> Any:
                return listening

        class Running(MemoryReactorClock):
            def run(self, installSignalHandlers: bool = True) -> None:  # noqa: N803  # as Twisted calls it
                self.running = True
                for function, arguments, options in self.whenRunningHooks:
                    function(*arguments, **options)
                if what is None:
                    server.stop()
                else:
                    listening.callback(what)
                self.running = False

            def callWhenRunning(self, function: Any, /, *arguments: Any, **options: Any) -> None:  # type: ignore[override]
                if self.running:
                    function(*arguments, **options)
                else:
                    super().callWhenRunning(function, *arguments, **options)

        endpoint: Any = Later()
        self.reactor = Running()
        # Twisted 24.7 begins with True.
        self.reactor.hasStopped = False
        server = server_module.Server(endpoint, DBFactory(AlwaysOkHandler(), reactor=self.reactor))
        output = io.StringIO()
        with redirect_stdout(output):
            run_until_stopped(server, self.reactor, watchdog=0)
        return output.getvalue().splitlines()

    def test_a_plugin_that_listens_later(self) -> None:
        port = MemoryReactorClock().listenTCP(8978, DBFactory(AlwaysOkHandler()), interface="127.0.0.1")
        (line,) = self.served_later(port)
        self.assertRegex(line, "^discosbackend: AlwaysOkHandler is served on .*8978, protocol version 1.4$")
        self.assertFalse(self.reactor.hasStopped)

    def test_a_plugin_that_fails_later(self) -> None:
        """The reactor is stopped, and run_until_stopped raises the exception."""
        with self.assertRaisesRegex(CannotListenError, "the plugin says why"):
            self.served_later(Failure(CannotListenError("127.0.0.1", 8978, OSError("the plugin says why"))))
        self.assertTrue(self.reactor.hasStopped)

    def test_a_plugin_that_is_stopped_before_it_listens(self) -> None:
        self.assertEqual(self.served_later(None), [])
        self.assertFalse(self.reactor.hasStopped)

    def test_a_real_port_of_its_own(self) -> None:
        from twisted.internet import reactor

        port = listen(AlwaysOkHandler(), 0, "127.0.0.1")
        number = cast(Any, port.getHost()).port
        self.assertGreater(number, 0)
        self.assertEqual(address_of(port), f"127.0.0.1:{number}")
        with self.assertRaises(CannotListenError):
            listen(AlwaysOkHandler(), number, "127.0.0.1")
        port.stopListening()
        reactor.iterate(0)  # the port is closed in the reactor's next turn


class Telltale(Backend):
    """A backend that records the calls of its methods."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.pending: Deferred[None] = Deferred()

    def server_started(self) -> None:
        self.told.append("started")

    def server_stopping(self) -> None:
        self.told.append("stopping")

    def stop(self, timestamp: Any = None) -> None:
        self.told.append("stop")

    def set_configuration(self, configuration: str) -> Any:
        self.told.append("configuring")
        return self.pending


class StartAndStopTests(unittest.TestCase):
    """Tests of the order of a shutdown, with Server and a reactor in memory."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.backend = Telltale()
        self.factory = DBFactory(DBProtocolHandler(self.backend, reactor=self.reactor), reactor=self.reactor)
        self.server = server_module.Server(tcp_endpoint(self.reactor, 8978), self.factory)

    def test_it_listens_and_tells_the_backend(self) -> None:
        listening: list[Any] = []
        self.server.start()
        self.server.listening.addCallback(listening.append)
        self.assertEqual(len(listening), 1)
        self.factory.doStart()  # what a real port does
        self.assertEqual(self.backend.told, ["started"])

    def test_going_down_ends_the_acquisition_then_tells_the_backend(self) -> None:
        self.server.start()
        done: list[Any] = []
        self.server.stop().addCallback(done.append)
        for _ in range(3):
            self.reactor.advance(0.1)
        self.assertEqual(self.backend.told, ["started", "stop", "stopping"])
        self.assertEqual(done, [None])

    def test_a_server_that_never_listened_stops(self) -> None:
        done: list[Any] = []
        self.server.stop().addCallback(done.append)
        self.assertEqual(done, [None])

    def test_a_negative_stop_timeout_is_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, "stop_timeout must be 0 s or more"):
            server_module.Server(tcp_endpoint(self.reactor, 8978), self.factory, stop_timeout=-1)

    def test_the_announcement_names_address_version_and_backend(self) -> None:
        port = mock.Mock()
        port.getHost.return_value = mock.Mock(host="127.0.0.1", port=8978)
        self.assertEqual(
            announcement(self.server, port),
            "discosbackend: Telltale is served on 127.0.0.1:8978, protocol version 1.4",
        )

    def test_addresses_in_words(self) -> None:
        port = mock.Mock()
        for host, text in [
            (mock.Mock(host="::1", port=1), "[::1]:1"),
            (mock.Mock(spec=["name"], name=None), None),
        ]:
            port.getHost.return_value = host
            if text is None:
                host.name = b"/run/discos.sock"
                text = "/run/discos.sock"
            with self.subTest(text):
                self.assertEqual(address_of(port), text)


BACKEND = """
    import threading, time
    from twisted.internet.defer import Deferred
    from discosbackend import Acquisition, Backend, DBProtocolHandler, Ticks, blocking, run_server

    class Mine(Backend):
        def __init__(self):
            self.acquisition = Acquisition(lambda ticks: print("begin", ticks, flush=True),
                                           lambda ticks: print("end", ticks, flush=True))
        def status(self):
            return Ticks.now(), "ok", self.acquisition.acquiring
        def start(self, timestamp=None):
            self.acquisition.start(timestamp)
        def stop(self, timestamp=None):
            self.acquisition.stop(timestamp)
        @blocking
        def get_rms(self):
            threading.Event().wait()
        async def get_tpi(self):
            await Deferred()
        def server_stopping(self):
            print("stopping", flush=True)

    run_server(0, DBProtocolHandler(Mine()), "127.0.0.1")
"""


class RunServerTests(unittest.TestCase):
    """Tests of run_server and of the program, in separate processes."""

    shared: Server
    """A server of BACKEND, shared by the tests that leave it idle; see leave_idle()."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.shared = Server([sys.executable, "-c", textwrap.dedent(BACKEND)])
        cls.addClassCleanup(cls.shared.end)

    def leave_idle(self) -> None:
        """Stop the acquisition of the shared server, if a failed test has left one."""
        with self.shared.connect() as connection:
            ask(connection, b"?stop")

    def folder_of_mine(self) -> str:
        """A folder in which BACKEND is mine:Mine, for the program, whose option `--stop-timeout` makes tests fast."""
        folder = self.enterContext(tempfile.TemporaryDirectory())
        code = textwrap.dedent(BACKEND).rpartition("run_server(0")[0]
        Path(folder, "mine.py").write_text(code, encoding="utf-8")
        return folder

    @contextmanager
    def served_mine(self) -> Iterator[Server]:
        """Start the program with BACKEND."""
        with served("--backend", "mine:Mine", "--stop-timeout", "0.2", cwd=self.folder_of_mine()) as server:
            yield server

    def test_one_line_says_where_and_sigterm_ends_it_in_order(self) -> None:
        with served_by(textwrap.dedent(BACKEND)) as server:
            self.assertRegex(
                server.announced, r"^discosbackend: Mine is served on 127\.0\.0\.1:\d+, protocol version 1\.4$"
            )
            with server.connect() as connection:
                self.assertEqual(ask(connection, b"?start"), [b"!start,ok\r\n"])
                self.assertEqual(server.stop(signal.SIGTERM), 0, server.log())
                self.assertEqual(connection.recv(100), b"")
            told = server.process.stdout.read().split() if server.process.stdout else []
            self.assertEqual(told[0::2], ["begin", "end", "stopping"])

    def test_it_ends_beside_a_blocking_call_that_never_returns(self) -> None:
        with self.served_mine() as server:
            with server.connect() as connection, server.connect() as other:
                connection.sendall(b"?get-rms\r\n")
                self.assertEqual(ask(other, b"?status")[0][:11], b"!status,ok,")
                other.sendall(b"?start\r\n")  # waits for the device
                server.process.send_signal(signal.SIGINT)
                self.assertEqual(read_line(connection), b"!get-rms,fail,server is stopping\r\n")
                self.assertEqual(read_line(other), b"!start,fail,server is stopping\r\n")
            self.assertEqual(server.stop(), 0, server.log())

    def test_it_ends_beside_a_coroutine_that_never_returns(self) -> None:
        options = ("--backend", "mine:Mine", "--stop-timeout", "0.2")
        with served_in_memory(*options, cwd=self.folder_of_mine()) as program:
            connection, other = program.connect(), program.connect()
            self.assertEqual(connection.ask(b"?get-tpi\r\n"), b"")
            self.assertEqual(other.ask(b"?status\r\n")[:11], b"!status,ok,")
            self.assertEqual(other.ask(b"?start\r\n"), b"")  # waits for the device
            program.stop()
            self.assertEqual(connection.received(), b"!get-tpi,fail,server is stopping\r\n")
            self.assertEqual(other.received(), b"!start,fail,server is stopping\r\n")

    def test_a_second_signal_does_no_harm(self) -> None:
        with self.served_mine() as server, server.connect() as connection:
            connection.sendall(b"?get-rms\r\n")
            server.process.send_signal(2)
            self.assertEqual(server.stop(2), 0, server.log())
            self.assertNotIn("Traceback", server.log())

    def test_a_signal_right_after_the_announcement_is_not_lost(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT) * (3 if LONG else 1):
            with self.subTest(number), served() as server:
                self.assertEqual(server.stop(number), 0, server.log())
                self.assertIn("stopped", server.log())

    def test_a_borrowed_thread_that_never_ends_is_left_behind(self) -> None:
        code = """
            import threading
            from twisted.internet.threads import deferToThread

            class Mine:
                def set_enable(self, feed1, feed2):
                    return deferToThread(threading.Event().wait)
        """
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "mine.py").write_text(textwrap.dedent(code), encoding="utf-8")
            with served("--backend", "mine:Mine", "--stop-timeout", "0.1", cwd=folder) as server:
                with server.connect() as connection:
                    connection.sendall(b"?set-enable,0,0\r\n")
                    server.process.send_signal(signal.SIGTERM)
                    self.assertEqual(read_line(connection), b"!set-enable,fail,server is stopping\r\n")
                self.assertEqual(server.stop(), 0, server.log())

    def test_a_standard_output_that_takes_nothing_is_no_reason_not_to_serve(self) -> None:
        reactor = InMemory()
        with process_as_before(reactor), open("/dev/full", "w", encoding="utf-8") as full:
            with redirect_stdout(full), self.assertLogs("discosbackend") as logs:
                self.assertRaises(Runs, run_server, 0, AlwaysOkHandler(), "127.0.0.1")
            # The buffer still contains the line, and closing the file tries to write it.
            self.assertRaises(OSError, full.close)
            connection = Connection(cast(Any, reactor.tcpServers[0][1]))
            self.assertEqual(connection.ask(b"?echo,1\r\n"), b"!version,ok,1.4\r\n!echo,ok,1\r\n")
        self.assertIn("cannot write 'discosbackend: AlwaysOkHandler is served on 127.0.0.1:", logs.output[-1])
        self.assertIn("No space left on device", logs.output[-1])

    def test_a_standard_output_that_is_full_stops_nobody(self) -> None:
        """The announcement is written when the reader continues."""
        reactor = InMemory()
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        with process_as_before(reactor), open(writing, "w", encoding="utf-8") as pipe:
            fill(writing)
            with redirect_stdout(pipe), self.assertLogs("discosbackend") as logs:
                self.assertRaises(Runs, run_server, 0, AlwaysOkHandler(), "127.0.0.1")
            connection = Connection(cast(Any, reactor.tcpServers[0][1]))
            self.assertEqual(connection.ask(b"?echo,1\r\n"), b"!version,ok,1.4\r\n!echo,ok,1\r\n")
            wait_until(lambda: b"is served on 127.0.0.1:" in os.read(reading, 2**20))
        self.assertIn("standard output takes no data: 'discosbackend: AlwaysOkHandler is", logs.output[-1])

    def timed_start(self, connection: socket.socket) -> int:
        """Request a timed start, as soon as this machine is fast enough for, and return its time in ticks."""
        for lead in (0.2, 1, 5, PATIENCE / 4):
            at = time.time_ns() // 100 + round(lead * 10**7)
            (reply,) = ask(connection, b"?start,%d" % at)
            if reply != b"!start,fail,cannot start at given time\r\n":
                self.assertEqual(reply, b"!start,ok\r\n")
                return at
        raise AssertionError(reply)

    def test_a_time_tagged_start_with_nothing_but_the_names_of_the_readme(self) -> None:
        self.addCleanup(self.leave_idle)
        with self.shared.connect() as connection:
            at = self.timed_start(connection)
            # Other tests may have printed earlier lines.
            while (line := self.shared.next_line()) != f"begin {at}":
                self.assertNotEqual(line, "", self.shared.log())
            self.assertGreaterEqual(time.time_ns() // 100, at)
            self.assertRegex(ask(connection, b"?status")[0], rb"^!status,ok,\d+\.\d{7},ok,1\r\n$")

    def test_a_plain_class_gets_an_astropy_time(self) -> None:
        code = """
            from discosbackend.handlers import DBProtocolHandler
            from discosbackend.server import run_server

            class Plain:
                def start(self, timestamp=None):
                    print(timestamp.format, timestamp.scale, timestamp.to_value("discos", "str"), flush=True)

            run_server(0, DBProtocolHandler(Plain()))
        """
        with served_by(textwrap.dedent(code)) as server, server.connect() as connection:
            at = time.time_ns() // 100 + 12345678
            self.assertEqual(ask(connection, b"?start,%d" % at), [b"!start,ok\r\n"])
            self.assertEqual(server.next_line(), f"discos utc {at}")

    def test_a_thread_that_computes_holds_the_interpreter_for_less_than_a_start_spins(self) -> None:
        """The switch interval is short while the server runs, and is restored afterwards."""

        class Telling(Backend):
            def get_configuration(self) -> str:
                return str(sys.getswitchinterval())

        class Asked(InMemory):
            reply = b""

            def run(self, installSignalHandlers: bool = True) -> NoReturn:  # noqa: N803  # as Twisted calls it
                self.reply = Connection(cast(Any, self.tcpServers[0][1])).ask(b"?get-configuration\r\n")
                super().run()

        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(0.004)
        with process_as_before(reactor := Asked()), redirect_stdout(io.StringIO()), self.assertRaises(Runs):
            run_server(0, DBProtocolHandler(Telling()), "127.0.0.1")
        greeting, reply = reactor.reply.split()
        self.assertEqual(greeting, b"!version,ok,1.4")
        self.assertLess(float(reply.removeprefix(b"!get-configuration,ok,")), acquisition._SPIN)
        self.assertAlmostEqual(sys.getswitchinterval(), 0.004)

    def test_a_client_that_closes_its_half_gets_every_reply(self) -> None:
        self.addCleanup(self.leave_idle)
        with self.shared.connect() as connection:
            connection.sendall(b"?start\r\n?stop\r\n?stop\r\nunfinished")
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as replies:
                self.assertEqual(replies.read(), b"!start,ok\r\n!stop,ok\r\n!stop,fail,not acquiring\r\n")

    def test_in_a_process_of_multiprocessing(self) -> None:
        """test_run_server has every start method; without --long here is the one that starts no interpreter."""
        for method in ("fork", "spawn") if LONG else ("fork",):
            with self.subTest(method):
                context: Any = multiprocessing.get_context(method)
                port = self.enterContext(refusing())
                process = context.Process(target=run_server, args=(port, AlwaysOkHandler(), "127.0.0.1"))
                process.start()
                try:
                    with connected(port, process) as connection:
                        self.assertEqual(ask(connection, b"?echo,a\\,b"), [b"!echo,ok,a\\,b\r\n"])
                    process.terminate()
                    process.join(PATIENCE)
                    self.assertEqual(process.exitcode, 0)
                finally:
                    process.kill()
                    process.join(PATIENCE)

    def test_a_taken_port_raises(self) -> None:
        printed = io.StringIO()
        with socket.create_server(("127.0.0.1", 0)) as taken, redirect_stdout(printed):
            with process_as_before(Listening()), self.assertRaises(CannotListenError):
                run_server(taken.getsockname()[1], DBProtocolHandler(Backend()), "127.0.0.1")
        self.assertEqual(printed.getvalue(), "")


class ImportTests(unittest.TestCase):
    """Tests of which modules are imported, and when. test_architecture has those of the package itself."""

    def run_code(self, code: str, fresh: bool = False) -> str:
        found = run_python("-c", textwrap.dedent(code), fresh=fresh)
        self.assertEqual((found.returncode, found.stderr), (0, ""))
        return found.stdout

    def test_every_public_name_is_there(self) -> None:
        self.run_code(
            """
            import discosbackend
            for name in discosbackend.__all__:
                assert getattr(discosbackend, name) is not None
                assert name in dir(discosbackend)
            try:
                discosbackend.nonesuch
            except AttributeError as problem:
                assert "nonesuch" in str(problem)
            else:
                raise AssertionError
            """
        )

    def test_a_server_answers_its_first_requests_without_astropy(self) -> None:
        found = self.run_code(
            """
            import sys
            from discosbackend.cli import server as program
            from discosbackend import DBProtocolHandler
            from discosbackend.protocol import DBFactory
            from discosbackend.simulator import SimulatedBackend
            from twisted.internet.testing import StringTransport
            factory = DBFactory(DBProtocolHandler(SimulatedBackend()))
            factory.doStart()
            protocol, transport = factory.buildProtocol(None), StringTransport()
            protocol.makeConnection(transport)
            def ask(*requests):
                for request in requests:
                    protocol.dataReceived(request + b"\\r\\n")
                print(sorted({name.partition(".")[0] for name in sys.modules} & {"astropy", "numpy"}))
            ask(b"?status", b"?time", b"?set-integration,20", b"?start", b"?stop")
            ask(b"?set-configuration,SK77", b"?get-tpi,0,0")
            assert transport.value().count(b",ok") == 9, transport.value()
            """,
            fresh=True,
        )
        # The simulator needs numpy for a measurement.
        self.assertEqual(found, "[]\n['numpy']\n")

    def test_a_synchronous_backend_needs_no_reactor(self) -> None:
        found = self.run_code(
            """
            import sys
            from discosbackend import Backend, DBProtocolHandler
            from discosbackend.grammar import parse_message
            class Mine(Backend):
                def get_tpi(self):
                    return 1.5, 2
            print(DBProtocolHandler(Mine()).handle(parse_message("?get-tpi,0,0")))
            print("twisted.internet.reactor" in sys.modules)
            """
        )
        self.assertEqual(found, "!get-tpi,ok,1.5,2\nFalse\n")


class StopSignalsTests(unittest.TestCase):
    """Tests of signals that arrive before the reactor runs, and while it runs."""

    def setUp(self) -> None:
        self.enterContext(kept())
        self.reactor = mock.Mock(running=False)
        self.signals = _StopSignals(self.reactor)
        self.signals.install()

    def test_one_before_the_reactor_runs_is_kept_for_it(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        self.reactor.callFromThread.assert_not_called()
        self.reactor.running = True
        self.signals.install()
        self.reactor.callFromThread.assert_called_once_with(self.reactor.stop)

    def test_the_first_one_stops_the_second_one_waits(self) -> None:
        self.reactor.running = True
        with self.assertLogs("discosbackend.server", "INFO") as logs:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        self.reactor.callFromThread.assert_called_once_with(self.reactor.stop)
        self.assertIn("SIGINT: stopping", logs.output[0])
        self.assertIn("SIGTERM: stopping already", logs.output[1])

    def test_the_end_is_not_forced_after_a_signal_that_the_program_handles(self) -> None:
        for handler, ending in (
            (signal.SIG_DFL, {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}),
            (lambda *_: None, {signal.SIGINT, signal.SIGTERM}),
        ):
            with self.subTest(handler), kept():
                signal.signal(signal.SIGHUP, handler)
                forced = mock.Mock()
                _StopSignals(self.reactor, forced).install()
                self.assertEqual(set(forced.hear.call_args.args[0]), ending)

    def test_the_end_is_forced_later_once_the_reactor_shuts_down(self) -> None:
        """The signal may have arrived while a method blocked the reactor, and Twisted waits for its threads too."""
        server = server_module.Server(mock.Mock(), mock.Mock(), stop_timeout=3.0)
        shutdown: list[tuple[object, ...]] = []
        self.reactor.addSystemEventTrigger = lambda phase, event, *call: shutdown.append((phase, event, *call))
        with mock.patch("discosbackend.server.ForcedExit") as forced, _stop_signals(server, self.reactor):
            self.assertEqual(forced.call_args.args, (7.0,))
            # 7 s for the server, 3 s for the threads.
            self.assertEqual(shutdown, [("before", "shutdown", forced.return_value.extend, 10.0)])


class HttpTests(unittest.TestCase):
    """Tests of HTTP requests, as a web page can make a browser send, with real sockets."""

    def test_a_page_cannot_command_the_instrument(self) -> None:
        with served() as server:
            for body in (b"?start\r\n", b"?start\r\n" * 100_000):
                with self.subTest(len(body)), socket.create_connection(server.address, PATIENCE) as connection:
                    head = b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n" % (b"x" * 20, len(body))
                    connection.sendall(head + body)
                    received = b""
                    while chunk := connection.recv(65536):
                        received += chunk
                self.assertRegex(received, rb"\A!version,ok,1.4\r\n!undefined,invalid,[^\r]*'P'[^\r]*\r\n\Z")
                with server.connect() as connection:
                    self.assertRegex(ask(connection, b"?status")[0], rb",ok,0\r\n\Z")

    def test_an_http_client_gets_an_answer(self) -> None:
        with served() as server:
            host, port = server.address
            connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
            connection.request("POST", "/", b"?start\r\n")
            with self.assertRaises(http.client.BadStatusLine):
                connection.getresponse()
            connection.close()


class UnixSocketTests(unittest.TestCase):
    """Tests of a server on a Unix socket."""

    def test_a_unix_endpoint(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "discos.sock")
            server = Server([sys.executable, str(SCRIPT), "--listen", f"unix:{path}"])
            try:
                self.assertIn(f"is served on {path}, ", server.announced)
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(PATIENCE)
                    connection.connect(path)
                    self.assertEqual(read_line(connection), b"!version,ok,1.4\r\n")
                    self.assertEqual(
                        ask(connection, b"?get-configuration"), [b"!get-configuration,ok,unconfigured\r\n"]
                    )
                self.assertEqual(server.stop(15), 0)
            finally:
                server.end()


if __name__ == "__main__":
    unittest.main()
