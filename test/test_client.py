"""Tests of discosbackend.client with servers that follow a script, on real sockets."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
import threading
import unittest
from collections.abc import Callable
from typing import Any
from unittest import mock

from discosbackend.client import Client
from discosbackend.client import command_line as program
from discosbackend.errors import ClientError, NoReply, RequestFailed, RequestInvalid

from .programs import Outcome, run_program
from .serving import refusing, run_python
from .settings import PATIENCE

GREETING = b"!version,ok,1.4\r\n"
STATUS = b"!status,ok,1795466385.7947171,ok,0\r\n"

# The timeout for replies that never arrive, in s.
SOON = 0.05


class Peer:
    """The server's end of a connection."""

    def __init__(self, connection: socket.socket, received: list[bytes]) -> None:
        self.connection = connection
        self.received = received
        self.file = connection.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        """Send these pieces, one after another."""
        for piece in pieces:
            self.connection.sendall(piece)

    def request(self) -> bytes:
        """Return the next line with its line end, b"" if the client has disconnected."""
        line = self.file.readline()
        self.received.append(line)
        return line

    def answer(self, *pieces: bytes) -> None:
        """Wait for a request, then send these pieces."""
        self.request()
        self.send(*pieces)

    def reset(self) -> None:
        """Close the connection in such a way that the client gets a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.file.close()
        self.connection.close()

    def wait_for_its_end(self) -> None:
        """Wait until the client has closed the connection, possibly with unread data."""
        try:
            while self.request():
                pass
        except ConnectionResetError:
            self.received.append(b"")


class Dribble(socket.socket):
    """A socket from which at most one byte is read at a time."""

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        return super().recv(min(bufsize, 1), flags)


class ClientTests(unittest.TestCase):
    """Base class: a client, and a server in a thread that follows a script."""

    def setUp(self) -> None:
        self.received: list[bytes] = []
        self.server_ended = threading.Event()

    def serve(self, *scripts: Callable[[Peer], object]) -> int:
        """Start a server that executes one script for each connection, in this order. Return its port."""
        self.received = []
        listening = socket.create_server(("127.0.0.1", 0))
        listening.settimeout(PATIENCE)

        def work() -> None:
            with listening:
                for script in scripts:
                    connection = listening.accept()[0]
                    connection.settimeout(PATIENCE)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    with connection:
                        script(Peer(connection, self.received))
            self.server_ended.set()

        thread = threading.Thread(target=work)
        thread.start()
        self.addCleanup(thread.join, PATIENCE)
        return int(listening.getsockname()[1])

    def connect(self, *scripts: Callable[[Peer], object], **options: Any) -> Client:
        """Return a client of a server that executes these scripts."""
        client = Client(port=self.serve(*scripts), **{"timeout": PATIENCE, "greeting_wait": PATIENCE, **options})
        self.addCleanup(client.close)
        return client

    def assert_closed(self, client: Client) -> None:
        """Check that the connection is closed."""
        with self.assertRaisesRegex(NoReply, "the connection is closed"):
            client.request("status")


class RequestTests(ClientTests):
    """Tests of the lines that are sent, and of the results of replies."""

    def exchange(self, reply: bytes, name: str, *arguments: str) -> list[str]:
        """Return the result of a request that gets this reply."""

        def script(peer: Peer) -> None:
            peer.send(GREETING)
            peer.answer(reply)

        with self.connect(script) as client:
            return client.request(name, *arguments)

    def test_ok(self) -> None:
        for reply, name, arguments in [
            (STATUS, "status", ["1795466385.7947171", "ok", "0"]),
            (b"!start,ok\r\n", "start", []),
            (b"!start,ok\n", "start", []),
            (b"!get-filename,ok,/a\\,b\\\\\\tc\r\n", "get-filename", ["/a,b\\\tc"]),
            (b"!get-configuration,ok,/\xe9\xff\r\n", "get-configuration", ["/\xe9\xff"]),
            (b"!get-filename,ok,/\xc3\xa9\xff\r\n", "get-filename", ["/\xe9\udcff"]),
            (b"!get-tpi,ok" + 1000 * b",1.5" + b"\r\n", "get-tpi", 1000 * ["1.5"]),
        ]:
            with self.subTest(reply[:60]):
                self.assertEqual(self.exchange(reply, name), arguments)

    def test_what_is_sent(self) -> None:
        for name in ("set-filename", "set-configuration", "my-own"):
            for arguments, sent in [
                ((), b""),
                (("a", "b"), b",a,b"),
                (("a,b",), b",a\\,b"),
                (("\\t\t",), b",\\\\t\\t"),
                (("\xe9 !?",), b",\xc3\xa9 !?" if name == "set-filename" else b",\xe9 !?"),
            ]:
                with self.subTest(sent, name=name):
                    self.exchange(b"!%b,ok\r\n" % name.encode(), name, *arguments)
                    self.assertEqual(self.received, [b"?%b%b\r\n" % (name.encode(), sent)])

    def test_fail_and_invalid(self) -> None:
        for reply, kind, reason in [
            (b"!start,fail,already acquiring\r\n", RequestFailed, "already acquiring"),
            (b"!start,fail,one,two\r\n", RequestFailed, "one,two"),
            (b"!start,fail\r\n", RequestFailed, ""),
            (b"!start,invalid,syntax error: x\r\n", RequestInvalid, "syntax error: x"),
        ]:
            with self.subTest(reply), self.assertRaises(ClientError) as caught:
                self.exchange(reply, "start")
            self.assertIs(type(caught.exception), kind)
            self.assertEqual(str(caught.exception), reason)

    def test_the_connection_lives_on_after_a_refusal(self) -> None:
        def script(peer: Peer) -> None:
            peer.send(GREETING)
            peer.answer(b"!start,fail,no\r\n")
            peer.answer(b"!start,invalid,no\r\n")
            peer.answer(STATUS)

        client = self.connect(script)
        self.assertRaises(RequestFailed, client.request, "start")
        self.assertRaises(RequestInvalid, client.request, "start")
        self.assertEqual(client.request("status")[2], "0")

    def test_threads_take_turns(self) -> None:
        def script(peer: Peer) -> None:
            peer.send(GREETING)
            while line := peer.request():
                peer.send(b"!x,ok," + line.strip().split(b",")[1] + b"\r\n")

        wrong: list[str] = []
        with self.connect(script) as client:

            def ask(who: int) -> None:
                for number in range(100):
                    if client.request("x", f"{who}-{number}") != [f"{who}-{number}"]:
                        wrong.append(f"{who}-{number}")

            threads = [threading.Thread(target=ask, args=(who,)) for who in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.assertEqual((wrong, len([line for line in self.received if line])), ([], 400))

    def test_what_the_grammar_cannot_carry_is_not_sent(self) -> None:
        def script(peer: Peer) -> None:
            peer.send(GREETING)
            peer.answer(STATUS)

        client = self.connect(script)
        for request in [
            ("",),
            ("get_tpi",),
            ("status,x",),
            ("status\r\n?stop",),
            ("x" * 65,),
            ("status", ""),
            ("status", "a\nb"),
            ("status", "a\rb"),
            ("status", "\0"),
            ("status", "\x1b"),
            ("status", "€"),
        ]:
            with self.subTest(request), self.assertRaises(ValueError):
                client.request(*request)
        client.request("status")
        self.assertEqual(self.received, [b"?status\r\n"])


class ReplyTests(ClientTests):
    """Tests of replies in pieces, of late and wrong replies, and of missing ones."""

    def test_in_pieces(self) -> None:
        def script(peer: Peer) -> None:
            peer.send(GREETING)
            for _ in range(2):
                peer.answer(STATUS)

        original = socket.create_connection

        def create(*arguments: Any) -> Dribble:
            connection = Dribble(fileno=original(*arguments).detach())
            self.addCleanup(connection.close)
            return connection

        with mock.patch("socket.create_connection", create):
            client = self.connect(script)
        self.assertEqual(str(client.greeting), "!version,ok,1.4")
        for _ in range(2):
            self.assertEqual(client.request("status"), ["1795466385.7947171", "ok", "0"])

    def test_another_name(self) -> None:
        def script(peer: Peer) -> None:
            peer.send(GREETING)
            peer.answer(b"!time,ok,1795466385.7947171\r\n")
            peer.wait_for_its_end()

        client = self.connect(script)
        with self.assertRaisesRegex(NoReply, "!time,ok,1795466385.7947171.* is not a reply to status"):
            client.request("status")
        self.assert_closed(client)

    def test_garbage(self) -> None:
        for line in [b"", b"hello", b"!status", b"!status,OK", b"!status,ok,", b"?status", b"!status,ok\r"]:

            def script(peer: Peer, line: bytes = line) -> None:
                peer.send(GREETING)
                peer.answer(line + b"\r\n")
                peer.wait_for_its_end()

            with self.subTest(line):
                client = self.connect(script)
                self.assertRaises(NoReply, client.request, "status")
                self.assert_closed(client)

    def test_the_server_closes(self) -> None:
        for sent in (b"", STATUS[:10], STATUS[:-1]):

            def script(peer: Peer, sent: bytes = sent) -> None:
                peer.send(GREETING)
                peer.answer(sent)

            with self.subTest(sent):
                client = self.connect(script)
                with self.assertRaisesRegex(NoReply, "the server closed the connection"):
                    client.request("status")
                self.assert_closed(client)

    def test_the_server_resets(self) -> None:
        def script(peer: Peer) -> None:
            peer.send(GREETING)
            peer.request()
            peer.reset()

        client = self.connect(script)
        with self.assertRaisesRegex(NoReply, "connection lost"):
            client.request("status")
        self.assert_closed(client)

    def test_no_reply_in_time(self) -> None:
        def script(peer: Peer) -> None:
            peer.send(GREETING)
            peer.wait_for_its_end()

        client = self.connect(script)
        client.timeout = SOON
        with self.assertRaisesRegex(NoReply, r"no reply to status within 0\.05 s"):
            client.request("status")
        self.assert_closed(client)
        # The request was not repeated, and nothing else was sent.
        self.assertTrue(self.server_ended.wait(PATIENCE))
        self.assertEqual(self.received, [b"?status\r\n", b""])

    def test_pieces_without_end_count_as_none_in_time(self) -> None:
        ended = threading.Event()
        self.addCleanup(ended.set)

        def script(peer: Peer) -> None:
            peer.send(GREETING)
            peer.request()
            try:
                while not ended.wait(0.001):
                    peer.send(b"x")
            except OSError:
                pass

        client = self.connect(script)
        client.timeout = SOON
        with self.assertRaisesRegex(NoReply, "no reply to status within"):
            client.request("status")

    def test_interrupted(self) -> None:
        """After Ctrl-C between a request and its reply, the next request must not get that reply."""

        def script(peer: Peer) -> None:
            peer.send(GREETING)
            peer.wait_for_its_end()

        client = self.connect(script)
        with mock.patch.object(client, "_read_reply", side_effect=KeyboardInterrupt):
            self.assertRaises(KeyboardInterrupt, client.request, "status")
        self.assert_closed(client)

    def test_a_line_that_nobody_asked_for(self) -> None:
        """The second of two replies to one request is not taken for the reply to the next request."""

        def script(peer: Peer) -> None:
            peer.send(GREETING)
            peer.answer(STATUS + b"!status,ok,2.0000000,ok,1\r\n")
            peer.wait_for_its_end()

        client = self.connect(script)
        self.assertEqual(client.request("status")[2], "0")
        with self.assertRaises(NoReply):
            client.request("status")
        self.assert_closed(client)


class GreetingTests(ClientTests):
    def test_none(self) -> None:
        def script(peer: Peer) -> None:
            for _ in range(2):
                peer.answer(STATUS)

        client = self.connect(script, greeting_wait=SOON)
        self.assertIsNone(client.greeting)
        for _ in range(2):
            self.assertEqual(client.request("status")[2], "0")

    def test_late(self) -> None:
        def script(peer: Peer) -> None:
            peer.answer(GREETING, STATUS)
            peer.answer(STATUS)

        client = self.connect(script, greeting_wait=SOON)
        for _ in range(2):
            self.assertEqual(client.request("status")[2], "0")
        self.assertEqual(str(client.greeting), "!version,ok,1.4")

    def test_late_when_the_version_is_asked_for(self) -> None:
        """The greeting and the reply are the same line, so their order does not matter."""

        def script(peer: Peer) -> None:
            peer.answer(GREETING, GREETING)
            peer.answer(STATUS)
            peer.answer(GREETING)

        client = self.connect(script, greeting_wait=SOON)
        self.assertEqual(client.request("version"), ["1.4"])
        self.assertEqual(client.request("status")[2], "0")
        self.assertEqual(client.request("version"), ["1.4"])

    def test_twice_before_anything_is_asked(self) -> None:
        def script(peer: Peer) -> None:
            peer.send(GREETING + GREETING)
            peer.wait_for_its_end()

        client = self.connect(script)
        with self.assertRaisesRegex(NoReply, "arrived without a request"):
            client.request("version")
        self.assert_closed(client)

    def test_twice(self) -> None:
        def script(peer: Peer) -> None:
            peer.send(GREETING)
            peer.answer(GREETING, STATUS)
            peer.wait_for_its_end()

        client = self.connect(script)
        with self.assertRaisesRegex(NoReply, "is not a reply to status"):
            client.request("status")

    def test_no_server_of_this_protocol(self) -> None:
        for sent in (b"SSH-2.0-OpenSSH_9.2\r\n", b"\r\n", b""):

            def script(peer: Peer, sent: bytes = sent) -> None:
                peer.send(sent)
                if sent:
                    peer.wait_for_its_end()

            with self.subTest(sent), self.assertWarnsNothing(), self.assertRaises(NoReply):
                self.connect(script)

    def test_reset(self) -> None:
        with self.assertRaises(NoReply):
            self.connect(Peer.reset)

    def assertWarnsNothing(self) -> mock._patch:
        """Check that every socket that was opened is closed again."""
        opened: list[socket.socket] = []
        original = socket.create_connection

        def create(*arguments: Any) -> socket.socket:
            opened.append(original(*arguments))
            return opened[-1]

        self.addCleanup(lambda: self.assertEqual([one.fileno() for one in opened], [-1] * len(opened)))
        return mock.patch("socket.create_connection", create)


class ConnectionTests(ClientTests):
    def test_nobody_listens(self) -> None:
        with refusing() as port, self.assertRaisesRegex(NoReply, f"no server at 127.0.0.1:{port}"):
            Client(port=port)
        with self.assertRaisesRegex(NoReply, rf"no server at \[::1\]:{port}"):
            Client("::1", port)

    def test_no_address(self) -> None:
        for host, port in [("127.0.0.1", 65536), ("127.0.0.1", -1), ("x" * 64, 8978)]:
            with self.subTest(host=host, port=port), self.assertRaises(NoReply):
                Client(host, port)

    def test_closed(self) -> None:
        client = self.connect(lambda peer: (peer.send(GREETING), peer.wait_for_its_end()))
        with client as entered:
            self.assertIs(entered, client)
        client.close()
        self.assert_closed(client)


class ProgramTests(ClientTests):
    """Tests of `python -m discosbackend.client`."""

    def run_program(self, *arguments: str) -> Outcome:
        """Run the program in this process."""
        return run_program(program.main, *arguments)

    def run_python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Start a new interpreter with these arguments."""
        return run_python(*arguments, fresh=True)

    def test_prints_the_reply(self) -> None:
        port = self.serve(
            lambda peer: (peer.send(GREETING), peer.answer(STATUS)),
            lambda peer: (peer.send(GREETING), peer.answer(b"!set-filename,fail,no\\, never\r\n")),
        )
        # In a separate process, as a user runs it.
        done = self.run_python("-m", "discosbackend.client", f"127.0.0.1:{port}", "status")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, STATUS.decode().strip() + "\n", ""))
        self.assertEqual(
            self.run_program(f"127.0.0.1:{port}", "set-filename", "a,b"),
            (1, "!set-filename,fail,no\\, never\n", ""),
        )
        self.assertEqual(self.received, [b"?status\r\n", b"?set-filename,a\\,b\r\n"])

    def test_a_reply_that_cannot_be_written_is_no_success(self) -> None:
        port = self.serve(lambda peer: (peer.send(GREETING), peer.answer(b"!set-shift,ok\r\n")))
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch.object(program, "write_result", side_effect=full):
            status, out, err = self.run_program(f"127.0.0.1:{port}", "set-shift", "1")
        self.assertEqual((status, out), (1, ""))
        self.assertIn("cannot write the reply to set-shift to standard output: No space left on device\n", err)

    def test_nothing_that_a_terminal_obeys(self) -> None:
        """A server's text must not control the terminal. C1 controls such as 0x9B do that, like ESC [."""
        port = self.serve(
            lambda peer: (peer.send(GREETING), peer.answer(b"!get-configuration,ok,a\x9b2J\x85\x0b\x7f\xfc\r\n")),
            lambda peer: (peer.send(GREETING), peer.answer(b"!get-filename,ok,/a\xc2\x9b2J\x85\x0b\xc3\xbc\r\n")),
            lambda peer: (peer.send(GREETING), peer.answer(b"!\x9b2J\r\n")),
        )
        self.assertEqual(
            self.run_program(f"127.0.0.1:{port}", "get-configuration"),
            (0, "!get-configuration,ok,a\\x9b2J\\x85\\x0b\\x7f\xfc\n", ""),
        )
        self.assertEqual(
            self.run_program(f"127.0.0.1:{port}", "get-filename"),
            (0, "!get-filename,ok,/a\\x9b2J\\udc85\\x0b\xfc\n", ""),
        )
        status, output, errors = self.run_program(f"127.0.0.1:{port}", "get-filename")
        self.assertEqual((status, output), (1, ""))
        self.assertTrue(errors.rstrip("\n").isprintable(), errors)

    def test_no_server(self) -> None:
        with refusing() as port:
            address = f"127.0.0.1:{port}"
            status, output, errors = self.run_program(address, "status")
        self.assertEqual((status, output), (1, ""))
        self.assertEqual(len(errors.splitlines()), 1, errors)
        self.assertIn(f"no server at {address}", errors)

    def test_wrong_command_line(self) -> None:
        address = "127.0.0.1:8978"
        for problem, *arguments in (
            ("HOST:PORT is missing: write it, or set the environment variable DISCOS_BACKEND",),
            ("HOST:PORT is missing before start: write it, such as 127.0.0.1:8978, or set the environment", "start"),
            ("HOST:PORT is missing before ?get-tpi,0,0: write it", "?get-tpi,0,0"),
            ("HOST:PORT is missing before -: write it", "-"),
            ("'backend' is not HOST:PORT", "backend", "status"),
            ("unrecognized arguments: --jsn", address, "status", "--jsn"),
            ("'2026-13-01T00:00:00Z' is not a time: write +5s", address, "start", "2026-13-01T00:00:00Z"),
            ("'2026-11-30 12:00' has no time zone", address, "start", "2026-11-30 12:00"),
            ("argument --print-completion: invalid choice: 'fish'", "--print-completion", "fish"),
            ("'127.0.0.1' is not HOST:PORT", "127.0.0.1", "status"),
            ("':8978' is not HOST:PORT", ":8978", "status"),
            ("'host:' is not HOST:PORT", "host:", "status"),
            ("'127.0.0.1:99999' is not HOST:PORT", "127.0.0.1:99999", "status"),
            ("a name has letters, digits and hyphens", address, "no such command"),
            (
                "no argument is empty or has a line break, NUL, ESC or a character outside latin-1\n",
                address,
                "set-filename",
                "",
            ),
            ("outside latin-1\n", address, "set-configuration", "\u044e"),
            ("outside latin-1: did you mean set-configuration?\n", address, "set configuration"),
            ("'?set-filename,' is not a request: argument 1 is empty", address, "?set-filename,"),
        ):
            with self.subTest(arguments):
                status, output, errors = self.run_program(*arguments)
                self.assertEqual((status, output), (2, ""))
                self.assertIn(problem, errors)
                self.assertNotIn("Traceback", errors)

    def test_a_request_as_it_stands_on_the_wire(self) -> None:
        port = self.serve(lambda peer: (peer.send(GREETING), peer.answer(b"!get-tpi,ok,1.5\r\n")))
        status, output, errors = self.run_program(f"127.0.0.1:{port}", "?get-tpi,0,0")
        self.assertEqual((status, output, errors), (0, "!get-tpi,ok,1.5\n", ""))
        self.assertEqual(self.received, [b"?get-tpi,0,0\r\n"])

    def test_a_path_is_sent_as_its_bytes(self) -> None:
        """As the file system has them, however the request is written; a byte that is no UTF-8 too."""
        for words in (("set-filename", "/M\xfc\udcff\u0141,.fits"), ("?set-filename,/M\xfc\udcff\u0141\\,.fits",)):
            with self.subTest(words):
                port = self.serve(lambda peer: (peer.send(GREETING), peer.answer(b"!set-filename,ok\r\n")))
                self.assertEqual(self.run_program(f"127.0.0.1:{port}", *words)[0], 0)
                self.assertEqual(self.received[-1:], [b"?set-filename,/M\xc3\xbc\xff\xc5\x81\\,.fits\r\n"])

    def test_starts_at_once(self) -> None:
        """It needs neither Twisted nor astropy, so it does not wait for them."""
        code = "import sys, discosbackend.client; print(sorted({n.partition('.')[0] for n in sys.modules}))"
        done = self.run_python("-c", code)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        # A namespace package such as zope may be imported when Python starts.
        for heavy in ("twisted", "astropy", "numpy", "attr"):
            self.assertNotIn(f"'{heavy}'", done.stdout)
        self.assertIn("'discosbackend'", done.stdout)


if __name__ == "__main__":
    unittest.main()
