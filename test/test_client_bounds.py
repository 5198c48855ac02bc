"""Tests of the client's limits: endless replies, close() in another thread, invalid timeouts, IPv6 addresses."""

from __future__ import annotations

import contextlib
import io
import select
import socket
import threading
import time
import unittest
from collections.abc import Callable
from functools import partial
from unittest import mock

from discosbackend.client import Client, command_line, host_and_port
from discosbackend.commands import COMMANDS
from discosbackend.errors import NoReply
from discosbackend.line_socket import LineSocket
from discosbackend.simulator.control.client import SimulatorControl
from discosbackend.simulator.errors import ControlError

from .settings import PATIENCE, wait_until
from .test_client import GREETING, SOON, STATUS, ClientTests, Peer

LONGEST = 65536


def endless(peer: Peer, *pieces: bytes) -> None:
    """Send the pieces, then repeat the last one until the client disconnects."""
    with contextlib.suppress(OSError):
        peer.send(*pieces)
        while True:
            peer.send(pieces[-1])


def readable(client: Client) -> bool:
    """Whether bytes have arrived that the client has not read."""
    return bool(select.select([client._lines._socket], [], [], 0)[0])


class LongReplyTests(ClientTests):
    """Tests that a line that is too long is refused, without much memory or processor time."""

    def test_an_endless_reply(self) -> None:
        def script(peer: Peer) -> None:
            peer.send(GREETING)
            peer.request()
            endless(peer, b"!get-tpi,ok", b",1.5" * 4096)

        client = self.connect(script)
        began = time.thread_time()
        with self.assertRaisesRegex(NoReply, f"a line of more than {LONGEST} bytes"):
            client.request("get-tpi")
        self.assertLess(time.thread_time() - began, 1.0)
        self.assert_closed(client)

    def test_an_endless_greeting(self) -> None:
        with self.assertRaisesRegex(NoReply, f"a line of more than {LONGEST} bytes"):
            self.connect(lambda peer: endless(peer, b"!version", b"x" * 4096))

    def test_lines_without_end(self) -> None:
        """No line is too long, but all of them arrive without a request: together with the reply, or later."""
        for reply in (STATUS * 2, STATUS):
            answered = threading.Event()

            def script(peer: Peer, reply: bytes = reply, answered: threading.Event = answered) -> None:
                peer.send(GREETING)
                peer.answer(reply)
                answered.wait(PATIENCE)
                endless(peer, STATUS)

            with self.subTest(reply):
                client = self.connect(script)
                self.assertEqual(client.request("status")[2], "0")
                answered.set()
                wait_until(partial(readable, client), "more lines")
                with self.assertRaisesRegex(NoReply, " arrived without a request$"):
                    client.request("status")
                self.assert_closed(client)

    def test_where_the_bound_is(self) -> None:
        for length, is_reply in ((LONGEST, True), (LONGEST + 1, False)):

            def script(peer: Peer, length: int = length) -> None:
                peer.send(GREETING)
                peer.answer((b"!x,ok," + b"y" * length)[: length - 1] + b"\r\n")
                peer.wait_for_its_end()

            with self.subTest(length), self.connect(script) as client:
                if is_reply:
                    # The CR counts for the length of the line, but is not part of the argument.
                    self.assertEqual(len(client.request("x")[0]), length - 1 - len("!x,ok,"))
                else:
                    self.assertRaises(NoReply, client.request, "x")

    def test_another_bound(self) -> None:
        def script(peer: Peer) -> None:
            peer.send(GREETING)
            peer.answer(b"!x,ok," + b"y" * 2 * LONGEST + b"\r\n")

        with self.connect(script, longest_reply=3 * LONGEST) as client:
            self.assertEqual(len(client.request("x")[0]), 2 * LONGEST)

    def test_an_error_shows_the_beginning_of_what_came(self) -> None:
        for line in (b"x" * 50000, b"!other,ok," + b"y" * 50000):

            def script(peer: Peer, line: bytes = line) -> None:
                peer.send(GREETING)
                peer.answer(line + b"\r\n")

            with self.subTest(line[:10]), self.assertRaises(NoReply) as caught:
                self.connect(script).request("status")
            self.assertLess(len(str(caught.exception)), 300)


class CloseTests(ClientTests):
    """Tests of close() in another thread at any time."""

    def close_while(self, script: Callable[[Peer], object], request: Callable[[Client], object]) -> str:
        """Close the connection in another thread during a request. Return the error of the request."""
        asked = threading.Event()

        def scripted(peer: Peer) -> None:
            peer.send(GREETING)
            asked.wait(PATIENCE)
            script(peer)

        client = self.connect(scripted)
        reasons: list[BaseException] = []

        def work() -> None:
            try:
                request(client)
            except BaseException as problem:  # noqa: BLE001  # shown below
                reasons.append(problem)

        thread = threading.Thread(target=work)
        thread.start()
        asked.set()
        self.assertTrue(self.heard.wait(PATIENCE))
        client.close()
        thread.join(PATIENCE)
        self.assertFalse(thread.is_alive())
        self.assertEqual([type(reason) for reason in reasons], [NoReply], reasons)
        self.assert_closed(client)
        return str(reasons[0])

    def setUp(self) -> None:
        super().setUp()
        self.heard = threading.Event()

    def hear(self, peer: Peer) -> None:
        peer.request()
        self.heard.set()
        peer.wait_for_its_end()

    def test_while_a_reply_is_waited_for(self) -> None:
        said = self.close_while(self.hear, lambda client: client.request("convert-data"))
        self.assertIn("closed before the reply to convert-data arrived", said)
        self.assertIn("the server continues to execute it", said)

    def test_while_a_request_is_being_sent(self) -> None:
        def script(peer: Peer) -> None:
            # More than the kernel buffers, so the client waits while it sends its request.
            peer.connection.recv(1)
            self.heard.set()
            self.assertTrue(self.done.wait(PATIENCE))

        self.done = threading.Event()
        try:
            self.close_while(script, lambda client: client.request("x", "y" * 20_000_000))
        finally:
            self.done.set()

    def test_others_wait_for_their_turn_meanwhile(self) -> None:
        ended: list[str] = []

        def request(client: Client) -> None:
            def second() -> None:
                try:
                    client.request("status")
                except NoReply as problem:
                    ended.append(str(problem))

            threads = [threading.Thread(target=second) for _ in range(3)]
            for thread in threads:
                thread.start()
            try:
                client.request("status")
            finally:
                for thread in threads:
                    thread.join(PATIENCE)

        self.close_while(self.hear, request)
        self.assertEqual(len(ended), 3)

    def test_the_descriptor_is_nobody_elses_before_the_waiting_thread_has_left_it(self) -> None:
        """Otherwise its number could be reused for another connection, whose data would be read as the reply."""
        at_close: list[bool] = []
        waiting = threading.Event()
        original = socket.socket.close

        def request(client: Client) -> None:
            def close(one: socket.socket) -> None:
                if one is client._lines._socket:
                    at_close.append(waiting.is_set())
                original(one)

            waiting.set()
            read = client._read_reply

            def read_reply(*arguments: object) -> object:
                try:
                    return read(*arguments)  # type: ignore[arg-type]
                finally:
                    waiting.clear()

            with mock.patch.object(client, "_read_reply", read_reply), mock.patch("socket.socket.close", close):
                client.request("status")

        self.close_while(self.hear, request)
        self.assertEqual(at_close, [False])


class LineSocketTests(unittest.TestCase):
    """Tests of the limit of LineSocket itself. Client has its own limit, in Pairing."""

    def received(self, data: bytes) -> bytes:
        """Return the first line of what a peer has sent, at most 10 bytes long."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(data)
            return LineSocket(ours, "the peer", NoReply, longest=10).read_line(time.monotonic())

    def test_the_limit(self) -> None:
        self.assertEqual(self.received(b"0123456789\n"), b"0123456789")
        for ending in (b"\n", b""):
            with (
                self.subTest(ending),
                self.assertRaisesRegex(NoReply, "^the peer sent a line of more than 10 bytes: b'0123456789x"),
            ):
                self.received(b"0123456789x" + ending)


class ControlTests(ClientTests):
    """Tests of the same limits in the client of the simulator's control channel, which uses LineSocket too."""

    def control(self, script: Callable[[Peer], object]) -> SimulatorControl:
        control = SimulatorControl(self.serve(script), timeout=PATIENCE)
        self.addCleanup(control.close)
        return control

    def test_an_endless_answer(self) -> None:
        def script(peer: Peer) -> None:
            peer.request()
            endless(peer, b'{"ok": "', b"x" * 65536)

        control = self.control(script)
        with self.assertRaisesRegex(ControlError, "sent a line of more than 16777216 bytes"):
            control.state()
        with self.assertRaisesRegex(ControlError, "the connection is closed"):
            control.state()

    def test_closed_by_another_thread(self) -> None:
        heard = threading.Event()

        def script(peer: Peer) -> None:
            peer.request()
            heard.set()
            peer.wait_for_its_end()

        control = self.control(script)
        thread = threading.Thread(target=lambda: (heard.wait(PATIENCE), control.close()))
        thread.start()
        with self.assertRaisesRegex(ControlError, "was closed before the answer came"):
            control.state()
        thread.join(PATIENCE)

    def test_times_that_cannot_be_waited_for(self) -> None:
        for timeout in (float("inf"), float("nan"), -1, 0, 1e20):
            with self.subTest(timeout), self.assertRaisesRegex(ValueError, "timeout must be"):
                SimulatorControl(1, timeout=timeout)


class TimeoutTests(ClientTests):
    """Tests of timeouts that are not valid, and of the timeout of each command."""

    WRONG = ("inf", "nan", "-1", "0", "1e20", "-inf", "86401")

    def test_the_class_refuses_them(self) -> None:
        for text in self.WRONG:
            with self.subTest(text), self.assertRaisesRegex(ValueError, "timeout must be .*, not "):
                Client(port=1, timeout=float(text))
            if text != "0":
                with self.subTest(text), self.assertRaisesRegex(ValueError, "greeting_wait must be .*, not "):
                    Client(port=1, greeting_wait=float(text))

    def test_so_does_the_program(self) -> None:
        for text in (*self.WRONG, "soon", ""):
            errors = io.StringIO()
            with self.subTest(text), contextlib.redirect_stderr(errors), self.assertRaises(SystemExit) as caught:
                command_line.main(["127.0.0.1:1", "status", f"--timeout={text}"])
            self.assertEqual(caught.exception.code, 2)
            self.assertIn("--timeout: ", errors.getvalue().splitlines()[-1])

    def test_a_day_is_not_too_long(self) -> None:
        with self.connect(lambda peer: (peer.send(GREETING), peer.answer(STATUS)), timeout=86400) as client:
            self.assertEqual(client.request("status")[2], "0")

    def test_a_command_with_a_limit_of_its_own_is_waited_for_as_long(self) -> None:
        with Client(port=self.serve(lambda peer: (peer.send(GREETING), peer.wait_for_its_end()))) as client:
            for name, row in COMMANDS.items():
                # 40 s longer than the server's limit, which is 60 s by default.
                self.assertEqual(client.reply_wait(name), 100.0 if row.timeout is None else row.timeout + 40.0, name)
            self.assertEqual(client.reply_wait("convert-data"), 3640.0)
            self.assertEqual(client.reply_wait("of-ones-own"), 100.0)

    def test_a_timeout_that_is_given_holds_for_all(self) -> None:
        client = self.connect(lambda peer: (peer.send(GREETING), peer.wait_for_its_end()), timeout=SOON)
        with self.assertRaisesRegex(NoReply, r"^no reply to convert-data within 0\.05 s: the server continues to"):
            client.convert_data()

    def test_the_program_says_how_long_it_waits(self) -> None:
        for arguments, said in (
            (["convert-data"], "waiting for the reply to convert-data, for up to 3640 s\n"),
            (["convert-data", "--timeout", "50"], ""),
            (["status"], ""),
        ):
            name = arguments[0].encode()

            def script(peer: Peer, reply: bytes = b"!" + name + b",ok\r\n") -> None:
                peer.send(GREETING)
                peer.answer(reply)

            port = self.serve(script)
            output, errors = io.StringIO(), io.StringIO()
            with (
                self.subTest(arguments),
                contextlib.redirect_stderr(errors),
                contextlib.redirect_stdout(output),
                self.assertRaises(SystemExit) as caught,
            ):
                command_line.main([f"127.0.0.1:{port}", *arguments])
            self.assertEqual((caught.exception.code, errors.getvalue()), (0, said))


class AddressTests(unittest.TestCase):
    def test_where_a_server_listens(self) -> None:
        for text, wanted in (
            ("127.0.0.1:8978", ("127.0.0.1", 8978)),
            ("localhost:0", ("localhost", 0)),
            ("[::1]:8978", ("::1", 8978)),
            ("[fe80::1%eth0]:65535", ("fe80::1%eth0", 65535)),
        ):
            with self.subTest(text):
                self.assertEqual(host_and_port(text), wanted)

    def test_an_address_with_colons_needs_its_brackets_and_a_port(self) -> None:
        for text in ("::1", "::1:8978", "fe80::1", "2001:db8::7:8978", "[::1]", "::", "[::1]:", "[::1]:x"):
            with (
                self.subTest(text),
                self.assertRaisesRegex(Exception, r"is not HOST:PORT.*write an IPv6 address in brackets: \[::1\]:8978"),
            ):
                host_and_port(text)

    def test_what_has_none(self) -> None:
        for text in ("", ":8978", "[]:8978", "host", "host:", "host:70000", "host:-1", "host:8978x"):
            with self.subTest(text), self.assertRaisesRegex(Exception, "is not HOST:PORT, such as 127.0.0.1:8978$"):
                host_and_port(text)

    def test_an_error_names_it_so(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        with self.assertRaisesRegex(NoReply, rf"no server at \[::1\]:{port}: "):
            Client("::1", port)
        with self.assertRaisesRegex(NoReply, r"^\[fe80::1%\.\.x\]:8978 is not a valid address: "):
            Client("fe80::1%..x", 8978)


if __name__ == "__main__":
    unittest.main()
