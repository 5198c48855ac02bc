"""Grading of clients: which mistakes of client programs are found, and that right ones have none."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import threading
import traceback
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from unittest import mock

from discosbackend.client import AsyncClient, Client, ClientError, host_and_port
from discosbackend.commands import COMMANDS
from discosbackend.grammar import parse_message
from discosbackend.testing import client_process
from discosbackend.testing.client_grading import grade
from discosbackend.testing.client_instrument import ClientInstrument
from discosbackend.testing.client_process import ClientProcess, Launch
from discosbackend.testing.client_situations import FIRST_GREETING, RECONNECT, SITUATIONS, VALID_REQUESTS, After, Moment
from discosbackend.testing.results import Result, Verdict

from . import clients_under_test as clients
from .serving import ROOT
from .settings import LONG, PATIENCE, wait_until
from .test_citations import PAGE, sections

# The time for a situation, and the delay of a reply.
LIMIT = 3.0
DELAY = 0.15


class _Thread:
    """A client that runs in a thread of this process."""

    def __init__(self, program: clients.Program, address: str) -> None:
        self._status: int | None = None
        self._output = ""
        self._thread = threading.Thread(target=self._run, args=(program, address), daemon=True)
        self._thread.start()

    def _run(self, program: clients.Program, address: str) -> None:
        try:
            status = program(address)
            self._status = status if isinstance(status, int) else 0
        except Exception:  # noqa: BLE001  # it is the end of a program
            self._output = traceback.format_exc()
            self._status = 1

    def poll(self) -> int | None:
        return self._status

    def stop(self) -> None:
        """A thread ends when its connection is closed."""

    def output(self) -> str:
        return self._output


def in_thread(program: clients.Program) -> Launch:
    return lambda address: _Thread(program, address)


def in_process(*command: str) -> Launch:
    return lambda address: ClientProcess(command, address, folder=str(ROOT))


def graded(
    launch: Launch, *only: str, limit: float = LIMIT, delay: float = DELAY, strict: bool = False
) -> dict[str, Result]:
    """The results by the ids of the situations."""
    situations = [SITUATIONS[each] for each in only or SITUATIONS]
    return {result.case.id: result for result in grade(launch, situations, limit=limit, delay=delay, strict=strict)}


Graded = dict[str, Result]


EARLY = "before its reply was sent, the client "
IDLE = r"the client did nothing more, and was still running after"

# Where each of them is found, and the text.
MISTAKES: dict[clients.Program, tuple[str, str]] = {
    clients.never_reads_the_greeting: (
        FIRST_GREETING,
        EARLY + r"sent b'\?set-config.*taken the greeting for the reply",
    ),
    clients.forgets_the_greeting_after_a_reconnect: (
        RECONNECT,
        EARLY + "sent .*taken the greeting for",
    ),
    clients.one_receive_is_one_reply: (
        "replies/in-pieces",
        r"taken b'!', which is only a part of the line, for the reply",
    ),
    clients.small_buffer: ("replies/long", EARLY + "sent"),
    clients.asks_again_on_the_same_connection: ("replies/slow", EARLY + r"sent b'\?status' on the same connection"),
    clients.leaves_the_reason: ("replies/fail", EARLY + "sent"),
    clients.takes_an_incomplete_line: ("connection/cut", "taken the incomplete line for the reply"),
    clients.does_not_notice_the_end: (
        "connection/closed",
        r"waited for a reply, and then sent b'\?set-configuration,SK00' on the same connection, although the server",
    ),
    clients.no_question_mark: (VALID_REQUESTS, r"b'status': line begins with 's' where \? is needed"),
    clients.too_many_arguments: (VALID_REQUESTS, r"b'\?status,1': status needs no arguments"),
}

# As MISTAKES. They need more time, or are found in the same way as one of those.
MORE_MISTAKES: dict[clients.Program, tuple[str, str]] = {
    clients.one_request_without_greeting: (FIRST_GREETING, EARLY + "exited with status 0: it has taken the greeting"),
    clients.gives_up_the_greeting_soon: (FIRST_GREETING, EARLY + "sent .*taken the greeting for the reply"),
    clients.reads_to_the_cr: ("replies/in-pieces", r"taken b'\\r', which is only a part of the line, for the reply"),
    clients.waits_for_ok: ("replies/fail", IDLE),
    clients.waits_for_its_name_and_ok_or_fail: ("replies/invalid", IDLE),
    clients.hangs_when_the_connection_is_closed: ("connection/closed", IDLE),
    clients.hangs_when_it_is_reset: ("connection/reset", IDLE),
    clients.unknown_command: (VALID_REQUESTS, r"b'\?get-status' is no command of the protocol"),
    clients.capital_letters: (VALID_REQUESTS, r"b'\?STATUS' is no command of the protocol"),
    clients.too_few_arguments: (VALID_REQUESTS, r"b'\?set-section,0,\*,\*': set-section needs 7 arguments"),
    clients.blank_in_a_number: (VALID_REQUESTS, r"b'\?set-integration, 40': "),
    clients.float_for_an_integer: (VALID_REQUESTS, r"b'\?set-integration,40.0': "),
    clients.date_for_a_time: (VALID_REQUESTS, r"b'\?start,2026-01-01T00:00:00': wrong timestamp"),
    clients.nan_for_a_float: (VALID_REQUESTS, r"b'\?get-tpi,nan,0': "),
    clients.empty_argument: (VALID_REQUESTS, r"b'\?set-filename,': argument 1 is empty"),
    clients.speaks_http: (VALID_REQUESTS, r"b'GET / HTTP/1.1': an HTTP request"),
}

# Where the right clients are tested without --long.
FEW = (FIRST_GREETING, VALID_REQUESTS, RECONNECT, "replies/in-pieces", "connection/cut")


def blocking_client(address: str) -> None:
    """Our Client, which reconnects."""
    with Client(*host_and_port(address), reconnect=True) as client:
        for function in (client.status, client.time, client.get_configuration, client.get_tpi, client.status):
            for _ in range(2):
                with suppress(ClientError):
                    function()
                    break


def asyncio_client(address: str) -> None:
    """Our AsyncClient, with tasks that use it at the same time."""

    async def ask(client: AsyncClient) -> None:
        for _ in range(3):
            with suppress(ClientError):
                await client.status()

    async def main() -> None:
        async with AsyncClient(*host_and_port(address), reconnect=True) as client:
            await asyncio.gather(ask(client), ask(client))

    asyncio.run(main())


RIGHT: tuple[clients.Program, ...] = (
    clients.right,
    clients.byte_by_byte,
    clients.slow,
    clients.half_closing,
    blocking_client,
    asyncio_client,
)


@cache
def all_graded() -> dict[str, Graded]:
    """The results of all clients that run in threads. They run at once, because they mostly wait."""
    mistakes = {**MISTAKES, **(MORE_MISTAKES if LONG else {})}
    wanted = {program.__name__: partial(graded, in_thread(program), where) for program, (where, _) in mistakes.items()}
    for program in RIGHT:
        wanted[program.__name__] = partial(graded, in_thread(program), *(() if LONG else FEW), strict=True)
    wanted["one request"] = partial(graded, in_thread(clients.one_request), *(() if LONG else FEW))
    for name, program in (
        ("shifted", clients.never_reads_the_greeting),
        ("reconnect", clients.forgets_the_greeting_after_a_reconnect),
        ("invalid", clients.no_question_mark),
        ("pipelining", clients.pipelining),
        ("greeting", clients.asks_before_the_greeting),
    ):
        wanted[name] = partial(graded, in_thread(program), *FEW)
    wanted["strict"] = partial(graded, in_thread(clients.asks_before_the_greeting), FIRST_GREETING, strict=True)
    wanted["broken pipe"] = partial(graded, in_thread(clients.ignores_the_end), *FEW[:3], "connection/closed")
    wanted["patient"] = partial(graded, in_thread(clients.connects_again_much_later), "connection/closed", limit=1.5)
    with ThreadPoolExecutor(16) as pool:
        running = {name: pool.submit(function) for name, function in wanted.items()}
        return {name: future.result() for name, future in running.items()}


def verdicts(name: str) -> list[str]:
    return [result.verdict.value for result in all_graded()[name].values()]


class MistakeTests(unittest.TestCase):
    def test_each_mistake_is_found(self) -> None:
        self.assertGreater(len(MISTAKES) + len(MORE_MISTAKES), 20)
        for program, (where, why) in {**MISTAKES, **(MORE_MISTAKES if LONG else {})}.items():
            with self.subTest(program.__name__, where=where):
                result = all_graded()[program.__name__][where]
                for _ in range(4):
                    if result.verdict is Verdict.FAIL:
                        break
                    # On a busy machine the client may need longer delays to make its mistake in time, or it makes its
                    # mistake earlier, in the situation before.
                    result = graded(in_thread(program), where, limit=10 * LIMIT, delay=5 * DELAY)[where]
                self.assertEqual(result.verdict, Verdict.FAIL, f"{result.explanation}\n{result.transcript}")
                self.assertRegex(result.explanation, why)
                self.assertIn("connection 1  client  connect", result.transcript)

    def test_a_mistake_is_reported_once(self) -> None:
        """The other situations are blocked by the one that reports it, or do not show it."""
        for name, wanted in (
            ("shifted", ["fail", "blocked", "blocked", "blocked", "blocked"]),
            ("reconnect", ["pass", "pass", "fail", "pass", "blocked"]),
            ("invalid", ["pass", "fail", "pass", "pass", "pass"]),
        ):
            with self.subTest(name):
                self.assertEqual(verdicts(name), wanted)
        self.assertEqual(all_graded()["shifted"]["replies/in-pieces"].blocked_by, FIRST_GREETING)
        self.assertEqual(all_graded()["reconnect"]["connection/cut"].blocked_by, RECONNECT)

    def test_the_conversation_shows_the_mistake(self) -> None:
        result = all_graded()["reconnect"][RECONNECT]
        times = r"(?m)^ +[0-9.]+ s  connection "
        self.assertEqual(
            re.sub(times, "", result.conversation).splitlines(),
            [
                "1  client  connect",
                "1  server  b'!version,ok,1.4\\r\\n'",
                "1  client  b'?status'",
                re.sub(times, "", result.transcript).splitlines()[3],
                "1  server  close",
                "2  client  connect",
                "2  client  b'?set-configuration,SK00'",
                "2  server  b'!version,ok,1.4\\r\\n'",
                "2  client  b'?start'",
                "2  server  b'!set-configuration,ok\\r\\n'",
                "2  client  b'?get-tpi'",
                "2  server  b'!start,ok\\r\\n'",
            ],
        )


class RightTests(unittest.TestCase):
    def test_right_clients_have_no_findings(self) -> None:
        for program in RIGHT:
            for name, result in all_graded()[program.__name__].items():
                with self.subTest(program.__name__, situation=name):
                    self.assertEqual((result.verdict, result.explanation), (Verdict.PASS, ""), result.transcript)

    def test_a_client_that_connects_again_much_later(self) -> None:
        """It has noticed the end of the connection, because it closes its side."""
        result = all_graded()["patient"]["connection/closed"]
        self.assertEqual((result.verdict, result.explanation), (Verdict.PASS, ""))
        self.assertIn("connection 1  client  end", result.transcript)
        self.assertIn("the client: it was still running", result.transcript)

    def test_a_client_with_one_request(self) -> None:
        for name, result in all_graded()["one request"].items():
            with self.subTest(name):
                if name == RECONNECT:
                    self.assertEqual(result.verdict, Verdict.SKIPPED)
                    self.assertRegex(result.explanation, "no request on another connection.*exited with status 0")
                else:
                    self.assertEqual((result.verdict, result.explanation), (Verdict.PASS, ""))

    def test_what_is_permitted_is_a_note(self) -> None:
        self.assertEqual(verdicts("pipelining"), ["pass", "non-strict", "skipped", "skipped", "skipped"])
        why = all_graded()["pipelining"]["replies/in-pieces"].explanation
        self.assertEqual(why, "the client does not wait for replies, so it cannot be seen what it takes for one")
        self.assertEqual(verdicts("greeting"), ["non-strict", "pass", "non-strict", "pass", "pass"])
        self.assertIn("was sent before the greeting", all_graded()["greeting"][FIRST_GREETING].explanation)
        self.assertEqual(verdicts("strict"), ["fail"])

    def test_a_script_that_is_killed_by_sigpipe(self) -> None:
        self.assertEqual(verdicts("broken pipe"), ["pass", "pass", "skipped", "non-strict"])
        results = all_graded()["broken pipe"]
        self.assertIn("closed: it was killed by SIGPIPE", results[RECONNECT].explanation)
        self.assertIn("sent on a closed connection", results["connection/closed"].explanation)


class NotJudgedTests(unittest.TestCase):
    def test_clients_that_do_nothing(self) -> None:
        ends = {
            clients.exits_at_once: "the client did not connect: it exited with status 0",
            clients.raises: "the client did not connect: it exited with status 1; "
            "it printed 'RuntimeError: no such option'",
            clients.never_connects: "the client did not connect: it was still running after 0.5 s",
            clients.only_connects: "the client connected, but sent no request: it was still running after 0.5 s",
        }
        for program, why in ends.items():
            with self.subTest(program.__name__):
                results = graded(in_thread(program), limit=0.5)
                self.assertEqual(list(results), list(SITUATIONS))
                for result in results.values():
                    self.assertEqual((result.verdict, result.explanation), (Verdict.SKIPPED, why))


class ProcessTests(unittest.TestCase):
    def test_a_program_that_is_killed_by_a_signal(self) -> None:
        command = (sys.executable, "-m", "test.clients_under_test", "crashes_at_a_failure")
        name = "replies/fail"
        # The limit includes the start of the interpreter.
        result = graded(lambda address: ClientProcess(command, address, folder=str(ROOT)), name, limit=PATIENCE)[name]
        self.assertEqual(result.verdict, Verdict.FAIL, f"{result.explanation}\n{result.transcript}")
        self.assertIn("the client: it was killed by SIGSEGV", result.explanation)

    def test_our_shell_program(self) -> None:
        command = (sys.executable, "-m", "discosbackend.client", "{address}", "status")
        results = graded(in_process(*command), *(() if LONG else ("connection/cut",)), limit=PATIENCE)
        failed = {name: result.transcript for name, result in results.items() if result.verdict is Verdict.FAIL}
        self.assertEqual(failed, {})
        self.assertEqual(results["connection/cut"].verdict, Verdict.PASS)

    def test_the_command_line_and_the_environment(self) -> None:
        client = ClientProcess(
            ("sh", "-c", "echo $0 $1 $2 $DISCOS_BACKEND; exec sleep 60", "{address}", "h={host}", "p={port}"),
            "10.0.0.7:4711",
        )
        try:
            wanted = "10.0.0.7:4711 h=10.0.0.7 p=4711 10.0.0.7:4711\n"
            wait_until(lambda: client.output() == wanted, "the output")
            self.assertIsNone(client.poll())
        finally:
            client.stop()
        self.assertEqual(client.poll(), -signal.SIGTERM)

    def test_a_program_that_ignores_sigterm_is_killed(self) -> None:
        client = ClientProcess(("sh", "-c", "trap '' TERM; echo ready; sleep 60; sleep 60"), "10.0.0.7:4711")
        try:
            wait_until(lambda: client.output() == "ready\n", "the output")
        finally:
            with mock.patch.object(client_process, "GRACE", 0.1):
                client.stop()
        self.assertEqual(client.poll(), -signal.SIGKILL)


class SituationTests(unittest.TestCase):
    def test_every_requirement_is_a_sentence_of_its_section(self) -> None:
        found = sections(PAGE.read_text(encoding="utf-8"))
        for situation in SITUATIONS.values():
            with self.subTest(situation.case.id):
                _, text = found[situation.case.section]
                self.assertRegex(text, rf"(?:\A|[.] |- ){re.escape(situation.case.requirement)}(?: |\Z)")

    def test_the_page_lists_the_situations(self) -> None:
        text = (ROOT / "docs" / "testing-a-client.md").read_text(encoding="utf-8")
        self.assertEqual(re.findall(r"^\| `([a-z]+/[a-z-]+)` \|", text, re.MULTILINE), list(SITUATIONS))

    def test_what_is_sent_is_a_line_or_a_part_of_it(self) -> None:
        lines = (b"!status,ok,1.0000000,ok,0\r\n", b"!start,ok\r\n", b"!get-filename,ok,/a\r\n", b"!a,fail,b\r\n")
        for situation in SITUATIONS.values():
            for line in lines:
                for connection in (1, 2):
                    for number in range(1, 6):
                        with self.subTest(situation.case.id, line=line, connection=connection, number=number):
                            steps = situation.play(Moment(connection, number, line, 0.1, 1.0))
                            sent = b"".join(step.data for step in steps)
                            if steps[-1].then is not After.NOTHING and number == connection == 1:
                                self.assertTrue(line.startswith(sent))
                                continue
                            self.assertTrue(sent.endswith(b"\r\n"))
                            self.assertLessEqual(len(sent), 511)
                            self.assertEqual(
                                parse_message(sent[:-2].decode("latin-1")).name, Moment(1, 1, line, 0, 0).name
                            )

    def test_the_long_reply_is_as_long_as_a_reply_can_be(self) -> None:
        instrument = ClientInstrument().connect(("127.0.0.1", 4711))
        for request, begin in (
            (b"?status\r\n", b"!status,ok,"),
            (b"?start\r\n", b"!start,fail,"),
            (b"?get-tpi\r\n", b"!get-tpi,fail,"),
        ):
            with self.subTest(request):
                (reply,) = instrument.receive(request)
                (step,) = SITUATIONS["replies/long"].play(Moment(1, 1, reply, 0.1, 1.0))
                self.assertEqual(len(step.data), 511)
                self.assertEqual(step.data[: len(begin)], begin)

    def test_the_instrument_answers_every_command(self) -> None:
        instrument = ClientInstrument().connect(("127.0.0.1", 4711))
        words = [
            "set-configuration,SK00",
            "get-configuration",
            "set-integration,40",
            "get-integration",
            "set-filename,/a",
            "get-filename",
            "set-section,0,*,*,*,*,*,*",
            "set-enable,0,1",
            "set-shift,3",
            "cal-on",
            "get-tpi",
            "get-tpi,0,0",
            "get-tpi,100,10",
            "get-tp0",
            "get-rms",
            "get-ddcoffset",
            "status",
            "time",
            "version",
            "start",
            "stop",
            "convert-data",
            "end-schedule",
            "backend-park",
            "setup",
            "vna-sweep",
            "target-sweep",
            "reset",
        ]
        names = [word.split(",")[0] for word in words]
        self.assertLessEqual(set(COMMANDS), set(names))
        replies = instrument.receive("".join(f"?{word}\r\n" for word in words).encode())
        for name, reply in zip(names, replies, strict=True):
            with self.subTest(name):
                self.assertTrue(reply.startswith(f"!{name},ok".encode()), reply)


if __name__ == "__main__":
    unittest.main()
