"""The options --http and --http-host of discos-backend-server."""

from __future__ import annotations

import json
import re
import socket
import tempfile
import unittest
from signal import SIGTERM
from typing import Any
from urllib.request import urlopen

from twisted.internet.address import IPv4Address

from discosbackend.cli import server
from discosbackend.monitor.batches import Batches

from .monitored import WebTransport
from .program_in_memory import served_in_memory
from .programs import Listening, run_program
from .serving import ask, served
from .settings import PATIENCE


class OptionTests(unittest.TestCase):
    def test_wrong_options(self) -> None:
        for options, text in (
            (["--http", "65536"], "'65536' is not PORT or HOST:PORT, such as 8080 or [::1]:8080"),
            (["--http", "http"], "'http' is not PORT"),
            (["--http", "127.0.0.1:"], "'127.0.0.1:' is not PORT"),
            (["--http", "::1:8080"], "'::1' is not an address of this host"),
            (["--http", "[127.0.0.1]:8080"], "'[127.0.0.1]' is not an address"),
            (
                ["--http", "backend:8080"],
                "'backend' is not an address of this host, such as 127.0.0.1, 0.0.0.0 or [::1]",
            ),
            (["--http", "0", "--http-host", "backend:8080"], "'backend:8080' is not a host name"),
            (["--http", "0", "--http-host", ""], "'' is not a host name"),
            (["--http-host", "backend"], "--http-host is for the web server: add --http"),
        ):
            with self.subTest(options):
                found = run_program(server.main, *options)
                self.assertEqual((found.status, found.out), (2, ""))
                self.assertIn(text, found.err.splitlines()[-1])

    def test_where_it_listens(self) -> None:
        for place, wanted in (
            ("8080", ("127.0.0.1", 8080)),
            ("localhost:8080", ("127.0.0.1", 8080)),
            ("0.0.0.0:8080", ("0.0.0.0", 8080)),
            ("[::1]:8080", ("::1", 8080)),
            ("10.0.0.7:0", ("10.0.0.7", 0)),
        ):
            with self.subTest(place), served_in_memory("--no-data", "--http", place) as running:
                port, site, _, interface = running.reactor.tcpServers[0]
                self.assertEqual((interface, port), wanted)
                self.assertEqual(type(site).__name__, "MonitorSite")

    def test_a_name_that_is_given(self) -> None:
        with served_in_memory("--no-data", "--http", "8080", "--http-host", "Proxy.Example.Org.") as running:
            site: Any = running.reactor.tcpServers[0][1]
            self.assertIn("proxy.example.org", site._names)

    def test_what_clients_do_is_counted(self) -> None:
        with served_in_memory("--no-data", "--http", "8080") as running:
            running.ask(b"?status", b"?nonesuch")
            site: Any = running.reactor.tcpServers[0][1]
            browser = site.buildProtocol(IPv4Address("TCP", "10.0.0.7", 4711))
            browser.makeConnection(WebTransport())
            # A request to the web server sees all that was answered before.
            browser.dataReceived(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            (batches,) = running.factory.listeners
            assert isinstance(batches, Batches)
            counters: Any = batches.listeners[0]
            self.assertEqual(
                {name: each.requests for name, each in counters.commands.items()}, {"status": 1, "(unknown)": 1}
            )

    def test_no_monitor_no_listener(self) -> None:
        with served_in_memory("--no-data") as running:
            self.assertEqual(running.factory.listeners, [])

    def test_ports_that_cannot_be_used(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, tempfile.TemporaryDirectory() as folder:
            port = taken.getsockname()[1]
            for place, text in (
                (f"{port}", f"127.0.0.1:{port}: Address already in use: choose another port with --http; 0 finds a"),
                ("192.0.2.1:0", "192.0.2.1:0: "),
            ):
                with self.subTest(place):
                    options = ["--port", "0", "--no-data", "--control", f"{folder}/control", "--http", place]
                    found = run_program(server.main, *options, reactor=Listening())
                    self.assertEqual((found.status, found.out), (1, ""))
                    wanted = f"discos-backend-server: the web server of --http cannot listen on {text}"
                    self.assertTrue(found.err.splitlines()[-1].startswith(wanted), found.err)
                    self.assertNotIn("Traceback", found.err)

    def test_the_port_of_the_server_is_taken(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            reactor = Listening()
            options = ["--port", str(taken.getsockname()[1]), "--no-data", "--http", "0"]
            found = run_program(server.main, *options, reactor=reactor)
            self.assertEqual(found.status, 1)
            self.assertEqual(reactor.getDelayedCalls(), [])


class ProcessTests(unittest.TestCase):
    def test_a_real_server(self) -> None:
        with served("--http", "0") as running:
            with running.connect() as connection:
                ask(connection, b"?set-configuration,SK00")
            found = re.search(r"monitoring on (http://127\.0\.0\.1:\d+/)\n", running.log())
            assert found is not None, running.log()
            with urlopen(f"{found[1]}status.json", timeout=PATIENCE) as reply:
                document = json.load(reply)
            host, port = running.address
            self.assertEqual(document["server"]["address"], f"{host}:{port}")
            self.assertEqual(document["server"]["name"], "simulated discos")
            self.assertEqual(document["server"]["pid"], running.process.pid)
            self.assertEqual(document["watchdog"]["limit"], 0.5)
            counted = {each["name"]: each["ok"] for each in document["commands"]}
            self.assertEqual(counted, {"set-configuration": 1})
            self.assertEqual(document["status"]["text"], "ok")
            with urlopen(f"{found[1]}health?status=1", timeout=PATIENCE) as reply:
                self.assertEqual(reply.read(), b"ok\n")
            self.assertRegex(running.log(), r" clock: (synchronised|not synchronised|it is not known)")
            self.assertEqual(running.stop(SIGTERM), 0)
            self.assertNotIn("Traceback", running.log())


if __name__ == "__main__":
    unittest.main()
