"""The options --client and --time of discos-backend-check: exit statuses, reports, refused command lines."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

from discosbackend.cli import check, check_client
from discosbackend.commands import COMMANDS
from discosbackend.signals import INTERRUPTED
from discosbackend.simulator import INSTRUMENTS
from discosbackend.testing.client_instrument import ClientInstrument
from discosbackend.testing.client_situations import FIRST_GREETING, SITUATIONS, VALID_REQUESTS
from discosbackend.testing.results import Result, Verdict

from . import clients_under_test as clients
from .programs import Outcome, run_program
from .test_client_grading import _Thread

COMMAND = ("--", "client", "{address}")


def run(*arguments: str) -> Outcome:
    """Run the program in this process."""
    return run_program(check.main, *arguments)


def run_with(program: clients.Program, *arguments: str) -> Outcome:
    """Run it with a client that is a function."""
    with mock.patch.object(check_client, "ClientProcess", lambda _, address: _Thread(program, address)):
        return run("--client", *arguments, *COMMAND)


class OptionTests(unittest.TestCase):
    def test_what_is_refused(self) -> None:
        program = ("--", sys.executable)
        for arguments, why in (
            (("--client",), "no client is given: write -- and its command line after the options"),
            (("--client", "--"), "no client is given"),
            (("127.0.0.1:1", "--client", *program), "HOST:PORT is for servers, not for --client"),
            (("--client", "--full", *program), "--measure or --full is for servers"),
            (("--client", "--profile", "skrab", *program), "--profile: unknown instrument 'skrab': known are discos, "),
            (("--client", "--profile", "no.toml", *program), "--profile: instrument no.toml: "),
            (("--client", "--timeout", "3", *program), "--timeout is for servers"),
            (("--client", "--dry-run", *program), "--dry-run is for servers"),
            (("--client", "--profiles", *program), "--profiles is for servers"),
            (("--client", "--time", "0", *program), "argument --time"),
            (("--client", "--only", "replies/slwo", *program), "no case matches --only 'replies/slwo'"),
            (("--client", "--", "/nonexistent/client"), "cannot start /nonexistent/client: No such file or directory"),
            (("127.0.0.1:1", "--time", "3"), "--time is for --client"),
            (("--client", "--html", "a", "--json", "a", *program), "two reports cannot be written to the same file"),
            (("--client", "--html", "/", *program), "is not a file"),
        ):
            with self.subTest(arguments):
                found = run(*arguments)
                self.assertEqual(found.status, 2, found)
                self.assertIn(why, found.err)

    def test_the_list(self) -> None:
        found = run("--client", "--list")
        self.assertEqual((found.status, [line.split()[0] for line in found.out.splitlines()]), (0, list(SITUATIONS)))
        found = run("--client", "--list", "--only", "greeting")
        self.assertEqual(
            [line.split()[0] for line in found.out.splitlines()], [FIRST_GREETING, "greeting/after-reconnect"]
        )

    def test_time(self) -> None:
        found = run_with(clients.only_connects, "--time", "0.2", "--only", FIRST_GREETING)
        self.assertIn("sent no request: it was still running after 0.2 s", found.out.replace("\n      ", " "))


class StatusTests(unittest.TestCase):
    def test_a_mistake_is_in_all_reports(self) -> None:
        why = "it has taken the greeting for the reply"
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: Path(folder, name) for name in ("html", "junit", "json")}
            options = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
            found = run_with(clients.never_reads_the_greeting, "--time", "2", "--only", FIRST_GREETING, *options)
            self.assertEqual(found.status, 1)
            self.assertIn(why, found.out.replace("\n      ", " "))
            self.assertIn("client      client '{address}'", found.out)
            self.assertRegex(found.err, f"1/1  FAIL +{FIRST_GREETING}: ")
            self.assertIn(why, paths["html"].read_text(encoding="utf-8"))
            failure = ElementTree.parse(paths["junit"]).find(".//failure")
            assert failure is not None
            self.assertIn(why, failure.attrib["message"])
            record = json.loads(paths["json"].read_text(encoding="utf-8"))
            self.assertEqual((record["subject"], record["server"]), ("client", "client '{address}'"))
            (result,) = record["results"]
            self.assertEqual((result["id"], result["verdict"]), (FIRST_GREETING, "fail"))
            self.assertIn("server  b'!version,ok,1.4\\r\\n'", result["transcript"])

    def test_a_right_client(self) -> None:
        found = run_with(clients.right, "--time", "2", "--only", "greeting")
        self.assertEqual(found.status, 0, found)
        self.assertIn("As required: of 2 cases, none failed.", found.out)

    def test_an_instrument(self) -> None:
        """Each refuses the configurations of the other; this is no mistake of the client."""
        for name, code in (("sardara", "ok"), ("skarab", "fail")):
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "report.json")
                options = ("--profile", name, "--time", "2", "--json", str(path), "--only", VALID_REQUESTS)
                found = run_with(clients.right, *options)
                self.assertEqual(found.status, 0, found)
                self.assertRegex(found.out, rf"\n *instrument +{name}\n")
                record = json.loads(path.read_text(encoding="utf-8"))
                self.assertEqual(record["profile"], name)
                (result,) = record["results"]
                self.assertIn(f"server  b'!set-configuration,{code}", result["transcript"])

    def test_a_mistake_on_an_instrument(self) -> None:
        options = ("--profile", "skarab", "--time", "2", "--only", FIRST_GREETING)
        self.assertEqual(run_with(clients.never_reads_the_greeting, *options).status, 1)

    def test_every_instrument_answers_every_command_at_once(self) -> None:
        """Also convert-data, which takes a thread in a server."""
        requests = dict.fromkeys((*COMMANDS, "setup", "vna-sweep", "target-sweep", "reset"), b"")
        requests |= {"set-filename": b",/a.fits", "set-section": b",0,*,*,*,*,*,*", "set-enable": b",0,1"}
        requests |= {"set-configuration": b",SK00", "set-integration": b",40", "set-shift": b",3"}
        sent = b"".join(b"?%s%s\r\n" % (name.encode(), rest) for name, rest in requests.items())
        for instrument in INSTRUMENTS:
            with self.subTest(instrument):
                connection = ClientInstrument(check_client._maker(instrument)).connect(("127.0.0.1", 4711))
                replies = connection.receive(sent)
                self.assertEqual([reply[1:].split(b",")[0].decode() for reply in replies], list(requests))
                # What each instrument has.
                for name in ("status", "time", "version", "convert-data", "start"):
                    reply = replies[list(requests).index(name)]
                    self.assertTrue(reply.startswith(f"!{name},ok".encode()) or instrument == "mistral", reply)

    def test_tasks_are_short(self) -> None:
        instrument = ClientInstrument(check_client._maker("mistral"))
        connection = instrument.connect(("127.0.0.1", 4711))
        self.assertEqual(connection.receive(b"?setup\r\n"), [b"!setup,ok\r\n"])
        self.assertIn(b"setup in progress", connection.receive(b"?status\r\n")[0])
        for _ in range(100):
            instrument.advance(0.1)
        self.assertNotIn(b"in progress", connection.receive(b"?status\r\n")[0])

    def test_strict(self) -> None:
        for options, status in (((), 0), (("--strict",), 1)):
            with self.subTest(options):
                found = run_with(clients.asks_before_the_greeting, "--time", "2", "--only", FIRST_GREETING, *options)
                self.assertEqual(found.status, status, found)

    def test_nothing_was_judged(self) -> None:
        found = run("--client", "--", "sh", "-c", "echo usage: client HOST; exit 3")
        self.assertEqual(found.status, 2)
        self.assertIn("Nothing was tried, so nothing is known about the client.", found.out)
        text = " ".join(found.out.split())
        self.assertIn("did not connect: it exited with status 3; it printed 'usage: client HOST'", text)

    def test_a_signal_ends_the_client_and_the_run(self) -> None:
        def grade(launch: Any, situations: Any, **_: Any) -> Iterator[Result]:
            client = launch("127.0.0.1:1")
            try:
                yield Result(SITUATIONS[FIRST_GREETING].case, Verdict.PASS)
                signal.raise_signal(signal.SIGTERM)
            finally:
                # It is ignored while the client ends.
                signal.raise_signal(signal.SIGINT)
                client.stop()
                ended.append(client.poll())

        ended: list[int | None] = []
        with mock.patch.object(check_client, "grade", grade):
            found = run("--client", "--", "sleep", "60")
        self.assertEqual((found.status, ended), (INTERRUPTED, [-signal.SIGTERM]))
        self.assertIn("ENDED EARLY: interrupted by SIGTERM", found.out)
        self.assertIn("Not finished: of 1 case before it ended, none failed.", found.out)


if __name__ == "__main__":
    unittest.main()
