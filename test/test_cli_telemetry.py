"""The options --telemetry and --telemetry-*: what they refuse, and what they do."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import unittest
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from discosbackend.cli import server
from discosbackend.cli.monitor_options import WebServer, start_http

from .program_in_memory import served_in_memory
from .programs import Outcome, run_program
from .serving import ask, served
from .settings import needs_pyzmq, wait_until
from .telemetry_schema import message_in

# Each test that needs them is skipped without pyzmq.
with suppress(ImportError):
    from .telemetry_peers import Client, FakeProxy, make_keys


def run(*options: str, cwd: Path | None = None) -> Outcome:
    """The program, for command lines with which it does not serve."""
    return run_program(server.main, *options, cwd=cwd)


class RefusalTests(unittest.TestCase):
    def test_wrong_values(self) -> None:
        for options, text in (
            (["--telemetry", ""], "'' is not HOST or HOST:PORT"),
            (["--telemetry", ":16001"], "':16001' is not HOST or HOST:PORT"),
            (["--telemetry", "proxy:"], "'proxy:' is not HOST or HOST:PORT"),
            (["--telemetry", "proxy:0"], "the port of 'proxy:0' is not a number from 1 to 65535"),
            (["--telemetry", "proxy:65536"], "is not a number from 1 to 65535"),
            (["--telemetry", "proxy:http"], "is not a number from 1 to 65535"),
            (["--telemetry", "tcp://proxy"], "the port of 'tcp://proxy' is not a number"),
            (["--telemetry", "a/b"], "is not a host and a port"),
            (["--telemetry", "a b"], "is not a host and a port"),
            (["--telemetry", "::1"], "write an IPv6 address in brackets, such as [::1]:16001"),
            (["--telemetry-bind", "::1"], "write an IPv6 address in brackets, such as [::1]:16000"),
            (["--telemetry", "[::1"], "is not [HOST]:PORT, such as [::1]:16001"),
            (["--telemetry-bind", "[::1"], "is not [HOST]:PORT, such as [::1]:16000"),
            (["--telemetry", "[::1]16"], "is not [HOST]:PORT"),
            (["--telemetry", "[host]:16"], "is not [HOST]:PORT"),
            (["--telemetry-bind", "http"], "the port of 'http' is not a number from 0 to 65535"),
            (["--telemetry-bind", ":16000"], "':16000' is not PORT or HOST:PORT"),
            (["--telemetry-bind", "16000:"], "the port of '16000:' is not a number"),
            (["--telemetry-compression", "gzip"], "invalid choice: 'gzip'"),
            (["--telemetry-name", ""], "'' is not a name of letters, digits and _"),
            (["--telemetry-name", "My Backend"], "'My Backend' is not a name of letters, digits and _"),
            (["--telemetry-name", "è"], "is not a name of letters, digits and _"),
            (["--telemetry-name", "Mine"], "--telemetry-name has no effect without --telemetry or --telemetry-bind"),
            (["--telemetry-compression", "none"], "--telemetry-compression has no effect without --telemetry or"),
            (["--telemetry-keys", "."], "--telemetry-keys has no effect without --telemetry"),
            (["--telemetry-keys", ".", "--telemetry-bind", "0"], "--telemetry-keys has no effect without --telemetry"),
        ):
            with self.subTest(options):
                found = run("--no-data", *options)
                self.assertEqual(found.status, 2, found.err)
                self.assertIn(text, found.err.splitlines()[-1])

    def test_without_pyzmq(self) -> None:
        for options in (["--telemetry", "proxy"], ["--telemetry-bind", "0"]):
            with mock.patch.dict(sys.modules, {"zmq": None}):
                found = run("--no-data", *options)
            self.assertEqual(found.status, 1)
            (line,) = found.err.splitlines()
            self.assertIn("telemetry needs the package pyzmq: pip install 'discosbackend[telemetry]'", line)

    @needs_pyzmq
    def test_what_cannot_be_used(self) -> None:
        with (
            tempfile.TemporaryDirectory() as folder,
            socket.create_server(("127.0.0.1", 0)) as used,
            mock.patch.dict(os.environ, HOME=folder),
        ):
            port = used.getsockname()[1]
            client = Path(folder, ".config/discos/telemetry/client")
            client.mkdir(parents=True)
            Path(client, "identity.key_secret").write_text("damaged")
            for options, text in (
                (["--telemetry", "proxy"], "client/identity.key_secret is not a key file of ZeroMQ"),
                (["--telemetry", "proxy", "--telemetry-keys", folder], f"cannot read the key file {folder}/identity"),
                (["--telemetry-bind", str(port)], f"cannot listen on 127.0.0.1:{port}: Address already in use"),
            ):
                with self.subTest(options):
                    found = run("--no-data", *options)
                    self.assertEqual(found.status, 1, found.err)
                    self.assertIn(text, found.err.splitlines()[-1])
                    self.assertNotIn("Traceback", found.err)


@needs_pyzmq
class NameTests(unittest.TestCase):
    """What the program makes of its options, with its reactor in memory."""

    def snapshot_of(self, *options: str, read: bool = False) -> dict[str, object]:
        sent: list[bytes] = []
        with (
            mock.patch(
                "discosbackend.monitor.telemetry_socket.TelemetryServer.send", lambda _, payload: sent.append(payload)
            ),
            served_in_memory("--telemetry-bind", "0", *options) as program,
        ):
            program.reactor.advance(1)
        return message_in(zlib.decompress(sent[-1]) if read else sent[-1])

    def test_names(self) -> None:
        for options, name in (
            (["--simulate", "sardara"], "Sardara"),
            (["--simulate", "mistral"], "Mistral"),
            (["--simulate", "totalpower"], "TotalPower"),
            (["--simulate", "sardara", "--telemetry-name", "Mine_2"], "Mine_2"),
        ):
            self.assertEqual(self.snapshot_of("--no-data", *options).keys(), {name})

    def test_the_name_of_a_class(self) -> None:
        self.assertEqual(self.snapshot_of("--backend", "test.monitored:Plain").keys(), {"Plain"})

    def test_compression(self) -> None:
        found = self.snapshot_of("--no-data", "--telemetry-compression", "zlib", read=True)
        self.assertEqual(found.keys(), {"Discos"})

    def test_status_json(self) -> None:
        for options, found in (
            (["--telemetry-bind", "0"], "serving"),
            (["--telemetry-bind", "0", "--telemetry", "[::1]:9"], "(connecting|away|refused), serving"),
        ):
            started: list[WebServer] = []

            def start(*arguments: Any, started: list[WebServer] = started, **options: Any) -> WebServer:
                started.append(start_http(*arguments, **options))
                return started[0]

            with (
                mock.patch.object(server, "start_http", start),
                served_in_memory("--no-data", "--http", "0", *options),
            ):
                telemetry = started[0].snapshot.telemetry
                assert telemetry is not None
                part = telemetry()
                assert part is not None
                self.assertEqual(part.keys(), {"state", "problem"})
                self.assertRegex(part["state"], f"^{found}$")

    def test_it_ends_with_the_program(self) -> None:
        with served_in_memory("--no-data", "--telemetry-bind", "0") as program:
            self.assertEqual(len(program.reactor.readers), 1)
        self.assertEqual(len(program.reactor.readers), 0)


@needs_pyzmq
class ProgramTests(unittest.TestCase):
    """The program in a process of its own."""

    def test_it_publishes_to_the_proxy_and_to_its_clients(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_keys(folder)
            proxy = FakeProxy(folder)
            self.addCleanup(proxy.close)
            where = f"127.0.0.1:{proxy.port}"
            options = ("--simulate", "sardara", "--telemetry", where, "--telemetry-keys", name)
            with served(*options, "--telemetry-bind", "0") as program:
                wait_until(proxy.turn, "a message")
                first = proxy.contents()[-1]["Sardara"]
                self.assertEqual((first["channels"], first["sampling"]), ([], False))
                line = wait_until(lambda: next((x for x in program.log().splitlines() if "is served on" in x), ""))
                client = Client(int(line.rpartition(":")[2]))
                self.addCleanup(client.close)
                wait_until(client.turn, "a message for the client")
                assert client.snapshot is not None
                self.assertEqual(client.snapshot.keys(), {"Sardara"})
                with program.connect() as connection:
                    ask(connection, b"?set-configuration,SK00", b"?start")
                for peer in (proxy, client):

                    def sees(peer: FakeProxy | Client = peer) -> bool:
                        peer.turn()
                        found = [json.loads(each[1]) if isinstance(each, list) else each for each in peer.messages]
                        return any(each["Sardara"]["sampling"] and each["Sardara"]["channels"] for each in found)

                    wait_until(sees, "an acquisition")
                self.assertIn(f"telemetry is published to the proxy at {where}", program.log())
