"""Link, on virtual time and with a simulated device; test_link_properties has whatever a device may do."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from discosbackend import Acquisition, Backend, BackendError, Ticks, blocking
from discosbackend.handlers import DBProtocolHandler
from discosbackend.link import Link, LinkDown, LinkTimeout, links_of
from discosbackend.link_endpoints import address_from
from discosbackend.protocol import DBFactory
from discosbackend.testing import HangUp, LinkSimulator, Part, Wait

from .in_memory import greeted, quiet
from .settings import PATIENCE

LOGGER = "discosbackend.link"


def setUpModule() -> None:
    quiet()


def module_level_framing(data: bytes) -> tuple[bytes, bytes] | None:
    """A byte with the length, then the answer."""
    return (data[1 : 1 + data[0]], data[1 + data[0] :]) if len(data) > data[0] else None


def echo(question: bytes) -> bytes:
    return b"re " + question


class LinkTestCase(unittest.TestCase):
    """A link to a device that answers each question with `re` and the question."""

    def setUp(self) -> None:
        self.clock = Clock()

    def device(self, answers: Any = echo, **settings: Any) -> LinkSimulator:
        return LinkSimulator(answers, reactor=self.clock, **settings)

    def link(self, device: LinkSimulator, **settings: Any) -> Link:
        link = Link(device, reactor=self.clock, **settings)

        def end() -> None:
            link.close()
            self.clock.advance(0)
            self.assertEqual(device.connections, 0)

        self.addCleanup(end)
        return link

    def serial_link(self, device: LinkSimulator, **settings: Any) -> Link:
        link = self.link(device, quiet=settings.pop("quiet", 0.25), **settings)
        link._serial = True
        return link

    def passes(self, seconds: float, step: float = 0.05) -> None:
        """So many seconds pass, in short steps, as on a reactor."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)

    def outcome(self, link: Link, question: bytes, seconds: float = 0.2) -> Any:
        """The outcome of a question after this time: an answer, an exception, or None."""
        return self.outcomes([link.ask(question)], seconds)[0]

    def outcomes(self, deferreds: list[Deferred[bytes]], seconds: float) -> list[Any]:
        found: list[Any] = [None] * len(deferreds)
        for number, deferred in enumerate(deferreds):
            deferred.addBoth(partial(found.__setitem__, number))
        self.passes(seconds)
        return [each.value if isinstance(each, Failure) else each for each in found]

    def assert_fails(self, outcome: Any, kind: type[Exception], text: str) -> None:
        self.assertIs(type(outcome), kind, outcome)
        self.assertEqual(str(outcome), text)


class AddressTests(unittest.TestCase):
    GOOD = {
        "tcp://192.168.1.20:7147": ("192.168.1.20:7147", "TCP4ClientEndpoint"),
        "tcp://adc0.local:1": ("adc0.local:1", "HostnameEndpoint"),
        "tcp://[::1]:65535": ("[::1]:65535", "TCP6ClientEndpoint"),
        "unix:///run/x.sock": ("/run/x.sock", "UNIXClientEndpoint"),
        "unix:///run/a%20b": ("/run/a b", "UNIXClientEndpoint"),
        "serial:///dev/ttyUSB0": ("/dev/ttyUSB0", "SerialEndpoint"),
        "serial:///dev/ttyS0?baudrate=115200&bytesize=7&parity=E&stopbits=1.5&xonxoff=1&rtscts=0": (
            "/dev/ttyS0",
            "SerialEndpoint",
        ),
    }
    BAD = {
        "192.168.1.20:7147": "'192.168.1.20:7147' is not the address of a device: write it such as "
        "tcp://192.168.1.20:7147 or serial:///dev/ttyUSB0?baudrate=115200 or unix:///run/device.sock",
        "": "'' is not the address of a device: write it such as tcp://192.168.1.20:7147 or "
        "serial:///dev/ttyUSB0?baudrate=115200 or unix:///run/device.sock",
        "seriel:///dev/ttyUSB0": "'seriel:///dev/ttyUSB0' is not the address of a device: did you mean serial?",
        "tcp://[::1:7147": "'tcp://[::1:7147' is not the address of a device: Invalid IPv6 URL",
        "tcp://host": "'tcp://host' names no port: write it such as tcp://192.168.1.20:7147",
        "tcp://:7147": "'tcp://:7147' names no host: write it such as tcp://192.168.1.20:7147",
        "tcp://host:0": "'tcp://host:0' names no port: write it such as tcp://192.168.1.20:7147",
        "tcp://host:70000": "'tcp://host:70000' has no valid port: a port is a number from 1 to 65535: write it such "
        "as tcp://192.168.1.20:7147",
        "tcp://host:x": "'tcp://host:x' has no valid port: a port is a number from 1 to 65535: write it such as "
        "tcp://192.168.1.20:7147",
        "tcp://host:1/path": "'tcp://host:1/path' has more than a host and a port: write it such as "
        "tcp://192.168.1.20:7147",
        "tcp://me@host:1": "'tcp://me@host:1' has more than a host and a port: write it such as "
        "tcp://192.168.1.20:7147",
        "unix://run/x.sock": "'unix://run/x.sock' needs three slashes before the path, because 'run' is not a part of "
        "it: write it such as unix:///run/device.sock",
        "unix:///": "'unix:///' names no absolute path: write it such as unix:///run/device.sock",
        "unix:x.sock": "'unix:x.sock' names no absolute path: write it such as unix:///run/device.sock",
        "unix:///x?mode=1": "'unix:///x?mode=1' has more than a path: write it such as unix:///run/device.sock",
        "serial://dev/ttyUSB0": "'serial://dev/ttyUSB0' needs three slashes before the path, because 'dev' is not a "
        "part of it: write it such as serial:///dev/ttyUSB0?baudrate=115200",
        "serial:///dev/x?baud=1": "'serial:///dev/x?baud=1' has an unknown parameter 'baud': did you mean baudrate?",
        "serial:///dev/x?q=1": "'serial:///dev/x?q=1' has an unknown parameter 'q': known are baudrate, bytesize, "
        "parity, stopbits, xonxoff, rtscts",
        "serial:///dev/x?baudrate=": "'serial:///dev/x?baudrate=': baudrate is a whole number, such as 115200, not ''",
        "serial:///dev/x?baudrate=0": "'serial:///dev/x?baudrate=0': baudrate is a whole number, such as 115200, "
        "not '0'",
        "serial:///dev/x?parity=even": "'serial:///dev/x?parity=even': parity is N, E, O, M or S, not 'even'",
        "serial:///dev/x?stopbits=3": "'serial:///dev/x?stopbits=3': stopbits is 1, 1.5 or 2, not '3'",
        "serial:///dev/x?rtscts=on": "'serial:///dev/x?rtscts=on': rtscts is 0 or 1, not 'on'",
        "serial:///dev/x?rtscts=1&rtscts=1": "'serial:///dev/x?rtscts=1&rtscts=1' has the parameter 'rtscts' twice",
    }

    def test_good_ones(self) -> None:
        with mock.patch("discosbackend.link_endpoints.find_spec"):
            for url, (name, kind) in self.GOOD.items():
                with self.subTest(url):
                    address = address_from(url)
                    self.assertEqual((address.name, address.is_serial), (name, url.startswith("serial")))
                    self.assertEqual(type(address.endpoint(Clock())).__name__, kind)
                    self.assertEqual(Link(url).name, name)

    def test_bad_ones_get_one_sentence(self) -> None:
        for url, text in self.BAD.items():
            with self.subTest(url), self.assertRaises(ValueError) as caught:
                Link(url)
            self.assertEqual(str(caught.exception), text)

    def test_serial_without_pyserial(self) -> None:
        with mock.patch("discosbackend.link_endpoints.find_spec", return_value=None):
            with self.assertRaises(ImportError) as caught:
                Link("serial:///dev/ttyUSB0")
        text = "a serial link needs the package pyserial: pip install 'discosbackend[serial]'"
        self.assertEqual(str(caught.exception), text)


class ArgumentTests(LinkTestCase):
    def test_wrong_arguments(self) -> None:
        for settings, kind, text in (
            ({"timeout": 0}, ValueError, "timeout must be a number of seconds above 0, not 0"),
            ({"timeout": float("nan")}, ValueError, "timeout must be a number of seconds above 0, not nan"),
            ({"timeout": float("inf")}, ValueError, "timeout must be a number of seconds above 0, not inf"),
            ({"quiet": -1}, ValueError, "quiet must be a number of seconds, 0 or more, not -1"),
            ({"max_pause": 0}, ValueError, "max_pause must be a number of seconds above 0, not 0"),
            ({"max_pause": float("inf")}, ValueError, "max_pause must be a number of seconds above 0, not inf"),
            ({"on_connect": "x"}, TypeError, "on_connect must be a function that takes the link, not 'x'"),
            ({"max_answer": 0}, ValueError, "max_answer must be a number of bytes above 0, not 0"),
            ({"terminator": "\n"}, TypeError, "terminator must be bytes, not '\\n'"),
            (
                {"terminator": b""},
                ValueError,
                "terminator must not be empty, unless prompt, length or framing is given",
            ),
            ({"prompt": "> "}, TypeError, "prompt must be bytes, not '> '"),
            ({"prompt": b""}, ValueError, "prompt must not be empty"),
            ({"length": 0}, ValueError, "length must be a number of bytes above 0, not 0"),
            ({"framing": 8}, TypeError, "framing must be a function, not 8"),
            ({"length": 8, "prompt": b">"}, ValueError, "only one of prompt, length and framing can be given"),
        ):
            with self.subTest(settings), self.assertRaises(kind) as caught:
                Link("tcp://a:1", **settings)
            self.assertEqual(str(caught.exception), text)

    def test_wrong_questions(self) -> None:
        link = self.link(self.device())
        wrong: tuple[tuple[Any, type[Exception], str], ...] = (
            ("ver?", TypeError, "a question is bytes, such as b'ver?', not 'ver?'"),
            (b"a\nb", ValueError, "a question does not contain the terminator b'\\n', which the link appends"),
        )
        for question, kind, text in wrong:
            for ask in (link.ask, link.ask_blocking):
                with self.subTest(question, ask=ask), self.assertRaises(kind) as caught:
                    ask(question)
                self.assertEqual(str(caught.exception), text)

    def test_a_copy_connects_by_itself(self) -> None:
        link = Link("tcp://192.168.1.20:7147", timeout=3.0, framing=module_level_framing)
        for made in (copy.copy(link), copy.deepcopy(link), pickle.loads(pickle.dumps(link))):
            self.assertEqual((made.name, made._timeout), ("192.168.1.20:7147", 3.0))
            self.assertIs(made._arguments["framing"], module_level_framing)
            self.assertEqual(repr(made), "<Link to 192.168.1.20:7147>")

    def test_the_name_of_an_endpoint(self) -> None:
        class Endpoint:
            pass

        self.assertEqual(Link(Endpoint()).name, "Endpoint")  # type: ignore[arg-type]
        self.assertEqual(Link(self.device()).name, "simulated device")


class FramingTests(LinkTestCase):
    # What the link is made with, what the device sends after a question, and what the link makes of it.
    CASES: tuple[tuple[dict[str, Any], bytes, bytes, bytes], ...] = (
        ({}, b"q\n", b"1.2\n", b"1.2"),
        ({}, b"q\n", b"\n", b""),
        ({}, b"q\n", b"1.2\r\n", b"1.2\r"),
        ({"terminator": b"\r\n"}, b"q\r\n", b"a\nb\r\n", b"a\nb"),
        ({"terminator": b"\r\n"}, b"q\r\n", b"\r\r\n", b"\r"),
        ({"prompt": b"> "}, b"q\n", b"one\ntwo\n> ", b"one\ntwo"),
        ({"prompt": b">", "terminator": b"\r"}, b"q\r", b"one>", b"one"),
        ({"length": 4}, b"q", b"\n\x00\r\n", b"\n\x00\r\n"),
        ({"length": 2, "terminator": b"\r"}, b"q\r", b"ab", b"ab"),
        ({"framing": module_level_framing}, b"q", b"\x03a\nc", b"a\nc"),
        ({"framing": module_level_framing}, b"q", b"\x00", b""),
        ({"max_answer": 4}, b"q\n", b"abc\n", b"abc"),
    )

    def test_whole_and_byte_by_byte(self) -> None:
        for settings, sent, said, answer in self.CASES:
            for pieces in ([Part(said)], [step for byte in said for step in (Part(bytes([byte])), Wait(0.01))]):
                with self.subTest(settings, said=said, pieces=len(pieces)):
                    received: list[bytes] = []
                    device = self.device(
                        lambda question, pieces=pieces: pieces,
                        framing=lambda data: (received.append(data), (data, b""))[1],
                    )
                    link = self.link(device, **settings)
                    self.assertEqual(self.outcome(link, b"q", 0.5), answer)
                    self.assertEqual(self.outcome(link, b"q", 0.5), answer)
                    self.assertEqual(received, [sent, sent])

    def test_blanks_behind_a_prompt_are_no_message(self) -> None:
        link = self.link(self.device(lambda question: Part(question + b"\r\n> ")), prompt=b">", terminator=b"\r\n")
        link_device = self.device(lambda question: Part(question + b"\n\r"))
        other = self.link(link_device)
        for question in (b"one", b"two"):
            self.assertIn(question, self.outcome(other, question))
        del link

    def test_answers_that_are_too_long(self) -> None:
        text = "link to simulated device sent more than 8 bytes"
        for said in (b"x" * 9, b"12345678\n", b"x" * 100_000 + b"\n"):
            for kind in (self.link, self.serial_link):
                with self.subTest(said[:10], kind=kind.__name__):
                    device = self.device({b"one": [b"1", b"2"], b"two": b"7654321"})
                    device.next(Part(said))
                    link = kind(device, max_answer=8)
                    first, second = self.outcomes([link.ask(b"one"), link.ask(b"two")], 2.0)
                    self.assert_fails(first, LinkDown, text)
                    self.assertEqual(second, b"7654321")

    def test_a_flood_of_short_messages_is_split_soon(self) -> None:
        device = self.device()
        device.next([Part(b"\n" * 2**16), Wait(0.1), b"late"])
        lengths: list[int] = []

        def framing(data: bytes) -> tuple[bytes, bytes]:
            lengths.append(len(data))
            return data[:1], data[1:]

        # Each of the first messages would copy 64 KiB.
        self.outcome(self.link(device, framing=framing, terminator=b"\n"), b"one")
        self.assertGreaterEqual(len(lengths), 2**16)
        self.assertLessEqual(max(lengths), 4096)

    def test_a_framing_that_fails_or_returns_nonsense(self) -> None:
        for framing, kind, text in (
            (lambda data: 1 / 0, ZeroDivisionError, "division by zero"),
            (lambda data: (data, data), TypeError, "framing must return (message, bytes after it) or None, not "),
            (lambda data: data, TypeError, "framing must return (message, bytes after it) or None, not "),
            (lambda data: ("a", b""), TypeError, "framing must return (message, bytes after it) or None, not "),
        ):
            with self.subTest(text):
                link = self.link(self.device(), framing=framing, terminator=b"\n")
                outcome = self.outcome(link, b"q")
                self.assertIs(type(outcome), kind)
                self.assertIn(text, str(outcome))
                self.assertIs(type(self.outcome(link, b"q", 1.0)), kind)


class QuestionTests(LinkTestCase):
    def test_one_at_a_time_in_order(self) -> None:
        device = self.device(lambda question: [Wait(0.5), b"re " + question])
        link = self.link(device)
        asked = [link.ask(b"%d" % number) for number in range(3)]
        self.passes(0.7)
        self.assertEqual(device.questions, [b"0", b"1"])
        self.assertEqual(self.outcomes(asked, 1.5), [b"re 0", b"re 1", b"re 2"])

    def test_a_question_in_the_callback_of_another(self) -> None:
        device = self.device()
        device.next([b"first", b"twice"])
        link = self.link(device)
        found = link.ask(b"one").addCallback(lambda answer: link.ask(b"two").addCallback(lambda more: (answer, more)))
        self.assertEqual(self.outcomes([found], 0.3), [(b"first", b"re two")])

    def test_a_late_answer_is_not_taken_for_the_next_ones(self) -> None:
        device = self.device()
        device.next([Wait(2.1), b"late"])
        link = self.link(device)
        first, second = self.outcomes([link.ask(b"one"), link.ask(b"two")], 3.0)
        self.assert_fails(first, LinkTimeout, "link to simulated device gave no answer within 2 s")
        self.assertEqual(second, b"re two")

    def test_a_serial_link_discards_until_it_is_quiet(self) -> None:
        device = self.device()
        # Five late lines, 0.2 s apart, from about 0.1 s after the time limit on.
        device.next([Wait(2.1), *[each for _ in range(5) for each in (b"late", Wait(0.2))], b"last"])
        link = self.serial_link(device)
        found: list[Any] = []
        link.ask(b"one").addErrback(lambda failure: found.append(failure.type))
        link.ask(b"two").addCallback(found.append)
        self.passes(3.0)
        self.assertEqual((found, device.questions), ([LinkTimeout], [b"one"]))
        self.passes(1.0)
        self.assertEqual(found, [LinkTimeout, b"re two"])
        self.assertEqual(device.connections, 1, "the port stays open")

    def test_a_serial_line_that_is_never_quiet(self) -> None:
        device = self.device(greeting=[each for _ in range(200) for each in (b"noise", Wait(0.1))])
        link = self.serial_link(device)
        first, second = self.outcomes([link.ask(b"one"), link.ask(b"two")], 5.0)
        text = "link to simulated device gave no answer within 2 s"
        self.assert_fails(first, LinkTimeout, text)
        self.assert_fails(second, LinkTimeout, text)
        self.assertEqual(link.problem, "link to simulated device gives no answer since 5 s")
        self.passes(16)
        self.assertEqual(self.outcome(link, b"three", 1.0), b"re three")

    def test_a_greeting_is_discarded(self) -> None:
        for link in (self.link, self.serial_link):
            device = self.device(greeting=[Wait(0.1), b"Welcome", Wait(0.1), Part(b"> ")])
            self.assertEqual(self.outcome(link(device, quiet=0.3), b"one", 1.0), b"re one")

    def test_a_serial_device_that_accepts_nothing_has_its_port_opened_again(self) -> None:
        device = self.device(lambda question: None)
        link = self.serial_link(device)
        self.outcome(link, b"one", 1.0)
        connection = link._connection
        assert connection is not None
        connection.pauseProducing()
        self.passes(2.0)
        self.assertIsNot(link._connection, connection)
        connection.resumeProducing()
        self.assertFalse(connection.full)

    def test_a_cancelled_question(self) -> None:
        device = self.device(lambda question: [Wait(0.5), b"re " + question])
        link = self.link(device)
        asked = [link.ask(b"%d" % number) for number in range(3)]
        self.passes(0.1)
        for number in (0, 1):
            asked[number].cancel()
        first, second, third = self.outcomes(asked, 1.5)
        self.assertIs(type(first), CancelledError)
        self.assertIs(type(second), CancelledError)
        self.assertEqual(third, b"re 2")
        self.assertEqual(device.questions, [b"0", b"2"])
        self.assertEqual(link.problem, "")

    def test_a_cancelled_question_that_is_never_answered(self) -> None:
        device = self.device()
        device.next(None)
        link = self.link(device)
        first = link.ask(b"one").addErrback(lambda _: None)
        self.passes(0.1)
        first.cancel()
        self.assertEqual(self.outcome(link, b"two", 2.5), b"re two")

    def test_the_first_waiting_one_is_cancelled_while_the_link_connects(self) -> None:
        link = self.link(self.device(), quiet=1.0)
        first, second = link.ask(b"one"), link.ask(b"two")
        first.addErrback(lambda _: None).cancel()
        self.assertEqual(self.outcomes([second], 1.5), [b"re two"])

    def test_each_has_its_own_time_while_the_link_connects(self) -> None:
        device = self.device()
        device.connect = lambda factory: Deferred()  # type: ignore[method-assign, assignment]
        link = self.link(device)
        first, second = link.ask(b"one"), link.ask(b"two")
        self.passes(1.5)
        first.addErrback(lambda _: None).cancel()
        self.assertEqual(self.outcomes([second], 1.9), [None])
        self.assert_fails(
            self.outcomes([link.ask(b"x"), second], 2.2)[0], LinkDown, "link to simulated device is down since 6 s"
        )

    def test_what_arrives_on_an_old_connection(self) -> None:
        device = self.device(lambda question: None)
        link = self.link(device)
        first: Deferred[Any] = link.ask(b"one").addErrback(lambda _: None)
        self.passes(0.1)
        old = link._connection
        assert old is not None
        self.passes(2.2)
        second = link.ask(b"two")
        self.passes(0.1)
        old.dataReceived(b"re one\n")
        device.say(b"re two")
        self.assertEqual(self.outcomes([first, second], 0.1), [None, b"re two"])

    def test_closed_and_started_in_one_turn(self) -> None:
        device = self.device()
        link = self.link(device)
        self.outcome(link, b"one")
        link.close()
        link.start()
        self.assertEqual(self.outcome(link, b"two"), b"re two")
        self.assertEqual(device.connections, 1)

    def test_half_a_message_before_a_question_is_not_its_answer(self) -> None:
        device = self.device()
        device.next([b"one", Part(b"on")])
        link = self.link(device)
        self.assertEqual(self.outcome(link, b"1"), b"one")
        device.next([Part(b"e\n"), b"two"])
        self.assertEqual(self.outcome(link, b"2"), b"two")


class UnsolicitedTests(LinkTestCase):
    def test_every_message_is_shown(self) -> None:
        shown: list[bytes] = []

        def unsolicited(message: bytes) -> bool:
            shown.append(message)
            return message.startswith(b"#")

        device = self.device(greeting=b"#hello")
        link = self.link(device, unsolicited=unsolicited)
        device.next([b"#hot", b"re 1", b"#cold"])
        self.assertEqual(self.outcome(link, b"1"), b"re 1")
        device.say(b"#idle", b"stray")
        self.passes(0.1)
        self.assertEqual(shown, [b"#hello", b"#hot", b"re 1", b"#cold", b"#idle", b"stray"])

    def test_what_answers_no_question_is_logged(self) -> None:
        device = self.device()
        link = self.link(device)
        self.outcome(link, b"1")
        with self.assertLogs(LOGGER, "INFO") as logged:
            device.say(b"stray")
            self.passes(0.1)
        wanted = f"INFO:{LOGGER}:link to simulated device sent b'stray', which answers no question"
        self.assertEqual(logged.output, [wanted])
        self.assertEqual(self.outcome(link, b"2"), b"re 2")

    def test_repeated_lines_of_the_log_are_counted(self) -> None:
        device = self.device()
        link = self.link(device)
        self.outcome(link, b"1")
        with self.assertLogs(LOGGER, "INFO") as logged:
            device.say(*10 * [b"stray"])
            self.passes(0.1)
            self.assertEqual(len(logged.output), 5)
            link.close()
        self.assertEqual(logged.output[5:], [f"INFO:{LOGGER}:5 more lines of this kind left out: no question"])
        self.passes(0.1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_simulator_keeps_the_latest_questions(self) -> None:
        device = self.device()
        link = self.link(device, terminator=b"\n")
        for number in range(2001):
            link.ask(b"%d" % number)
        self.passes(0.1)
        self.assertEqual(device.questions, [b"%d" % number for number in range(1000, 2001)])

    def test_a_callback_that_fails(self) -> None:
        device = self.device()
        link = self.link(device, unsolicited=lambda message: 1 / (message != b"#"))
        device.next([b"#", b"1"])
        with self.assertLogs(LOGGER, "ERROR") as logged:
            # It returns 1.0 for the answer, so that there is none.
            self.outcome(link, b"1")
        self.assertIn("unsolicited() of <Link to simulated device> failed", logged.output[0])
        self.assertIn("ZeroDivisionError", logged.output[0])

    def test_a_callback_that_closes_the_link(self) -> None:
        device = self.device()
        link: Link = self.link(device, unsolicited=lambda message: link.close())
        device.next([b"a", b"b", b"c"])
        self.assert_fails(self.outcome(link, b"1"), LinkDown, "link to simulated device is closed")

    def test_a_callback_that_asks(self) -> None:
        device, answers = self.device(), list[Any]()

        def unsolicited(message: bytes) -> bool:
            if message == b"#":
                link.ask(b"why").addCallback(answers.append)
            return message == b"#"

        link = self.link(device, unsolicited=unsolicited)
        device.next([b"#", b"mine"])
        self.assertEqual(self.outcome(link, b"1"), b"mine")
        self.assertEqual(answers, [b"re why"])

    def test_a_callback_that_asks_gets_nothing_that_was_already_sent(self) -> None:
        device, answers = self.device(), list[Any]()

        def unsolicited(message: bytes) -> bool:
            if message.startswith(b"#"):
                link.ask(b"why").addCallback(answers.append)
            return message.startswith(b"#")

        # The second length ends where the link splits what it has received into slices.
        for length in (2, 4096):
            answers.clear()
            link = self.link(device, unsolicited=unsolicited)
            link.start()
            device.say(b"#".ljust(length - 1, b"x"), b"stray")
            self.passes(0.2)
            self.assertEqual(answers, [b"re why"])
            link.close()
            self.passes(0.1)


class OutageTests(LinkTestCase):
    def test_refused_for_minutes(self) -> None:
        device = self.device()
        attempts: list[float] = []
        connect = device.connect
        device.connect = lambda factory: (attempts.append(self.clock.seconds()), connect(factory))[1]  # type: ignore[method-assign, assignment]
        device.refusing = True
        with self.assertLogs(LOGGER, "INFO") as logged:
            link = self.link(device)
            link.start()
            self.passes(12.0)
            self.assertEqual(link.problem, "link to simulated device is down since 12 s")
            self.assert_fails(self.outcome(link, b"1", 0.05), LinkDown, link.problem)
            self.passes(600.0)
            device.refusing = False
            self.passes(40.0)
        self.assertEqual(link.problem, "")
        self.assertEqual(self.outcome(link, b"1"), b"re 1")
        with self.assertLogs(LOGGER, "INFO") as later:
            device.hang_up()
            self.passes(10.0)
        self.assertEqual(len(later.output), 1, later.output)
        attempts.pop()
        pauses = [after - before for before, after in zip(attempts, attempts[1:], strict=False)]
        for number, pause in enumerate(pauses):
            longest = min(0.2 * 2**number, 30.0)
            self.assertLessEqual(pause, longest + 0.1)
            self.assertGreaterEqual(pause, longest / 2 - 0.1)
        self.assertGreater(len({round(pause) for pause in pauses[-20:]}), 3, "they are all alike")
        down, up = logged.output
        text = f"WARNING:{LOGGER}:link to simulated device is down, and connects again when it can: "
        self.assertTrue(down.startswith(text), down)
        self.assertIn("refused", down)
        self.assertRegex(up, rf"INFO:{LOGGER}:link to simulated device is up again after 6\d\d s")

    def test_the_longest_pause(self) -> None:
        for longest in (0.1, 2.0):
            with self.subTest(longest):
                device = self.device()
                link = self.link(device, max_pause=longest)
                device.refusing = True
                link.start()
                self.passes(20.0)
                device.refusing = False
                self.passes(longest + 0.05)
                self.assertEqual(device.connections, 1)

    def test_a_device_that_hangs_up(self) -> None:
        device = self.device()
        link = self.link(device)
        behaviors: tuple[Any, ...] = (HangUp(), [Part(b"re"), HangUp()], [Wait(0.05), HangUp()])
        for behavior in behaviors:
            with self.subTest(behavior):
                self.assertEqual(self.outcome(link, b"0"), b"re 0")
                device.next(behavior)
                first, second = self.outcomes([link.ask(b"1"), link.ask(b"2")], 1.0)
                self.assert_fails(first, LinkDown, "link to simulated device is down since 0 s")
                self.assertEqual(second, b"re 2")

    def test_a_device_that_hangs_up_after_it_was_silent(self) -> None:
        device = self.device()
        device.next(None, HangUp())
        link = self.link(device)
        first, second = self.outcomes([link.ask(b"1"), link.ask(b"2")], 3.0)
        self.assertIs(type(first), LinkTimeout)
        self.assert_fails(second, LinkDown, "link to simulated device is down since 0 s")

    def test_a_silent_device_that_is_switched_off_and_on(self) -> None:
        device = self.device(lambda question: None)
        link = self.link(device)
        self.outcome(link, b"1", 2.5)
        self.assertEqual(link.problem, "link to simulated device gives no answer since 2 s")
        device.refusing = True
        device.hang_up()
        self.passes(5.0)
        self.assertRegex(link.problem, r"\Alink to simulated device is down since \d s\Z")
        device.refusing = False
        self.passes(20.0)
        self.assertRegex(link.problem, r"\Alink to simulated device gives no answer since 2\d s\Z")

    def test_a_failure_without_a_text(self) -> None:
        device = self.device()
        device.connect = mock.Mock(side_effect=KeyError)  # type: ignore[method-assign]
        with self.assertLogs(LOGGER, "WARNING") as logged:
            self.link(device).start()
        self.assertIn("KeyError", logged.output[0])

    def test_a_device_that_hangs_up_each_time(self) -> None:
        device = self.device(lambda question: HangUp())
        link = self.link(device)
        outcomes = self.outcomes([link.ask(b"%d" % number) for number in range(10)], 1.0)
        self.assertEqual({type(each) for each in outcomes}, {LinkDown})
        self.passes(30)
        self.assertLess(len(device.questions), 4, "questions fail at once while it is down")

    def test_a_device_that_hangs_up_as_soon_as_it_is_connected(self) -> None:
        device = self.device(greeting=HangUp())
        with self.assertLogs(LOGGER, "WARNING") as logged:
            link = self.link(device)
            link.start()
            self.passes(30.0)
        self.assertEqual(link.problem, "link to simulated device is down since 30 s")
        self.assertEqual(len(logged.output), 1, logged.output)

    def test_hanging_up_now_and_then_is_logged_without_a_warning(self) -> None:
        device = self.device()
        link = self.link(device)
        self.outcome(link, b"1")
        with self.assertLogs(LOGGER, "INFO") as logged:
            device.hang_up()
            self.passes(10.0)
        text = f"INFO:{LOGGER}:link to simulated device was lost: Connection was closed cleanly."
        self.assertEqual(logged.output, [text])

    def test_a_device_that_gives_no_answer(self) -> None:
        device = self.device(lambda question: None)
        with self.assertLogs(LOGGER, "WARNING") as logged:
            link = self.link(device)
            for _ in range(5):
                self.outcome(link, b"1", 2.5)
        wanted = (
            "gave no answer within 2 s: b'1'",
            "is down, and connects again when it can: it does not answer",
        )
        self.assertEqual(logged.output, [f"WARNING:{LOGGER}:link to simulated device {text}" for text in wanted])
        self.passes(0.2)
        self.assertEqual(link.problem, "link to simulated device gives no answer since 13 s")
        self.passes(10)
        device._answers = echo
        with self.assertLogs(LOGGER, "INFO") as logged:
            self.assertEqual(self.outcome(link, b"1", 1.0), b"re 1")
        self.assertIn("answers again after 23 s", logged.output[-1])
        self.assertEqual(link.problem, "")

    def test_coroutines_that_ask_again_and_again_do_not_block(self) -> None:
        device = self.device()
        device.refusing = True
        link = self.link(device)
        tries: list[int] = []

        async def ask() -> bytes:
            while True:
                tries.append(1)
                assert len(tries) < 10_000, "the reactor is blocked"
                try:
                    return await link.ask(b"1")
                except LinkDown:
                    pass

        found = [Deferred.fromCoroutine(ask()) for _ in range(4)]
        self.passes(1.0)
        self.assertGreater(len(tries), 8)
        self.assertLess(len(tries), 100, "each fails after its own time")
        self.assertLess(len(self.clock.getDelayedCalls()), 5)
        device.refusing = False
        self.assertEqual(self.outcomes(found, 10.0), 4 * [b"re 1"])

    def test_the_problem_of_a_link_that_was_never_used(self) -> None:
        self.assertEqual(self.link(self.device()).problem, "")

    def test_debug_shows_questions_and_answers(self) -> None:
        with self.assertLogs(LOGGER, "DEBUG") as logged:
            self.outcome(self.link(self.device()), b"ver?")
        self.assertIn(f"DEBUG:{LOGGER}:link to simulated device: b'ver?' -> b're ver?' in 0.050 s", logged.output)


class ServedBackend(Backend):
    """A backend with a link."""

    def __init__(self, link: Any) -> None:
        self.link = link

    def status(self) -> Any:
        return Ticks(0), self.link.problem or "ok", False

    async def get_tpi(self) -> list[float]:
        return [float(text) for text in (await self.link.ask(b"pow?")).split()]

    @blocking
    def get_tp0(self) -> float:
        return float(self.link.ask_blocking(b"zero?"))

    def get_rms(self) -> float:
        return float(self.link.ask_blocking(b"rms?"))


class ServerTests(LinkTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.simulator = self.device({b"pow?": b"1.5 2.5", b"zero?": b"7", b"rms?": b"3"})

    def serve(self, backend: Any) -> DBFactory:
        factory = DBFactory(DBProtocolHandler(backend, reactor=self.clock), reactor=self.clock)
        factory.doStart()
        return factory

    def test_it_connects_when_the_server_starts_and_is_closed_when_it_stops(self) -> None:
        link = self.link(self.simulator)
        factory = self.serve(ServedBackend(link))
        self.assertEqual(self.simulator.connections, 1)
        client = greeted(factory)
        self.assertEqual(client.ask(b"?get-tpi\r\n"), b"!get-tpi,ok,1.5,2.5\r\n")
        self.simulator.next(None)
        asked, waiting = link.ask(b"pow?"), link.ask(b"pow?")
        factory.doStop()
        self.passes(1.9)
        self.assertFalse(asked.called or waiting.called)
        # The stop timeout.
        factory.stopped.cancel()
        for outcome in self.outcomes([asked, waiting], 0.1):
            self.assert_fails(outcome, LinkDown, "link to simulated device is closed")
        self.assertEqual(self.simulator.connections, 0)
        self.assertTrue(factory.stopped.called)
        self.assert_fails(self.outcome(link, b"pow?"), LinkDown, "link to simulated device is closed")
        factory.doStart()
        self.assertEqual(self.simulator.connections, 1)
        self.assertEqual(self.outcome(link, b"pow?"), b"1.5 2.5")

    def test_the_reply_while_the_link_is_down(self) -> None:
        self.simulator.refusing = True
        factory = self.serve(ServedBackend(self.link(self.simulator)))
        client = greeted(factory)
        self.passes(12.0)
        with self.assertNoLogs("discosbackend", "WARNING"):
            client.ask(b"?get-tpi\r\n")
            self.passes(0.05)
        self.assertEqual(client.received(), b"!get-tpi,fail,link to simulated device is down since 12 s\r\n")
        self.assertEqual(
            client.ask(b"?status\r\n"), b"!status,ok,0.0000000,link to simulated device is down since 12 s,0\r\n"
        )

    def test_the_reply_if_there_is_no_answer(self) -> None:
        self.simulator.next(None)
        client = greeted(self.serve(ServedBackend(self.link(self.simulator))))
        with self.assertNoLogs("discosbackend", "ERROR"):
            client.ask(b"?get-tpi\r\n")
            self.passes(2.1)
        self.assertEqual(client.received(), b"!get-tpi,fail,link to simulated device gave no answer within 2 s\r\n")

    def test_links_are_found_in_attributes(self) -> None:
        class Many(Backend):
            def __init__(self, links: list[Any]) -> None:
                self.one, *self.several = links[:3]
                self.named = {"x": links[3]}
                self.pair = (links[4], links[0])
                self.other = "text"

        links = [Link(f"tcp://a:{port}") for port in range(1, 6)]
        self.assertCountEqual(links_of(Many(links)), links)
        self.assertEqual(links_of(object()), [])

    def test_a_backend_without_a_link_does_not_load_the_module(self) -> None:
        with mock.patch.dict(sys.modules):
            del sys.modules["discosbackend.link"]
            self.serve(Backend()).doStop()
            self.assertNotIn("discosbackend.link", sys.modules)

    def test_the_stop_hook_of_the_backend_can_still_ask(self) -> None:
        answers: list[bytes] = []

        class Parking(ServedBackend):
            async def server_stopping(self) -> None:
                answers.append(await self.link.ask(b"pow?"))

        factory = self.serve(Parking(self.link(self.simulator)))
        factory.doStop()
        self.passes(0.2)
        self.assertEqual(answers, [b"1.5 2.5"])
        self.assertEqual(self.simulator.connections, 0)


class Gated(Backend):
    """A backend that opens and closes the gate of its device, and polls its temperature."""

    def __init__(self, link: Any, close: Callable[[Any], Any]) -> None:
        self.link = link
        self.acquisition = Acquisition(self.begin, lambda _: close(self))

    def server_started(self) -> None:
        self.spawn(self.poll())

    async def poll(self) -> None:
        while True:
            await self.link.ask(b"temp?")

    def begin(self, _: Ticks) -> None:
        self.link.ask(b"gate 1")

    async def close_gate(self) -> None:
        await self.link.ask(b"gate 0")

    def start(self, timestamp: Any = None) -> None:
        self.acquisition.start(timestamp)

    def stop(self, timestamp: Any = None) -> None:
        self.acquisition.stop(timestamp)


class ShutdownTests(LinkTestCase):
    """The questions that were asked before the server stopped, or when it ended the acquisition."""

    WAYS: dict[str, Callable[[Any], Any]] = {
        "a Deferred": lambda backend: backend.link.ask(b"gate 0").addErrback(lambda _: None) and None,
        "a task": lambda backend: backend.spawn(backend.close_gate()) and None,
    }

    def setUp(self) -> None:
        super().setUp()
        self.simulator = self.device(lambda question: [Wait(0.5), b"ok"])

    def serve(self, close: Callable[[Any], Any]) -> DBFactory:
        """A server that acquires, and has a question outstanding."""
        self.backend = Gated(self.link(self.simulator), close)
        factory = DBFactory(DBProtocolHandler(self.backend, reactor=self.clock), reactor=self.clock)
        factory.doStart()
        self.backend.start()
        self.passes(1.2)
        self.assertIsNotNone(self.backend.link._asked)
        return factory

    def test_the_order_that_ends_the_acquisition_is_sent(self) -> None:
        for name, close in self.WAYS.items():
            with self.subTest(name), self.assertNoLogs(LOGGER, "WARNING"):
                self.simulator.questions.clear()
                factory = self.serve(close)
                factory.doStop()
                self.passes(2.0)
                self.assertIn(b"gate 0", self.simulator.questions)
                self.assertEqual(self.simulator.connections, 0)
                self.assertTrue(factory.stopped.called)
                self.assertEqual(self.backend.background_tasks, ())

    def test_one_that_the_stop_hook_orders_without_waiting(self) -> None:
        factory = self.serve(lambda backend: None)
        self.backend.server_stopping = lambda: self.backend.link.ask(b"park") and None  # type: ignore[method-assign]
        factory.doStop()
        self.passes(2.0)
        self.assertIn(b"park", self.simulator.questions)
        self.assertEqual(self.simulator.connections, 0)

    def test_the_log_reports_what_was_not_sent(self) -> None:
        text = f"WARNING:{LOGGER}:link to simulated device was stopped before it sent b'gate 0'"
        for name, close in self.WAYS.items():
            with self.subTest(name, until="the stop timeout"):
                factory = self.serve(close)
                self.simulator.next(*[None] * 9)
                self.passes(0.5)
                with self.assertLogs(LOGGER, "WARNING") as logged:
                    factory.doStop()
                    self.passes(0.1)
                    factory.stopped.cancel()
                    self.passes(0.1)
                self.assertEqual(logged.output, [text])
                self.assertEqual(self.simulator.connections, 0)
                self.simulator._script.clear()
            with self.subTest(name, until="it is down"):
                factory = self.serve(close)
                self.simulator.refusing = True
                self.simulator.hang_up()
                self.passes(1.0)
                with self.assertLogs(LOGGER, "WARNING") as logged:
                    factory.doStop()
                    self.passes(0.1)
                self.assertEqual(logged.output, [text])
                self.assertTrue(factory.stopped.called)
                self.simulator.refusing = False

    def test_a_stop_hook_that_never_ends_leaves_no_time(self) -> None:
        factory = self.serve(self.WAYS["a Deferred"])
        self.backend.server_stopping = Deferred  # type: ignore[method-assign]
        factory.doStop()
        with self.assertLogs(LOGGER, "WARNING") as logged:
            factory.stopped.cancel()
            self.passes(0.1)
        self.assertIn("before it sent b'gate 0'", logged.output[0])
        self.assertEqual(self.simulator.connections, 0)

    def test_a_long_question_and_many_of_them(self) -> None:
        link = self.link(self.simulator)
        for number in range(9):
            link.ask(b"%d\x00" % number + 500 * b"x").addErrback(lambda _: None)
        with self.assertLogs(LOGGER, "WARNING") as logged:
            link.close()
        first = logged.records[0].getMessage()
        self.assertRegex(first, r"\Alink to simulated device was stopped before it sent b'1\\x00x+\Z")
        self.assertLess(len(first), 160)
        self.assertEqual(len(logged.output), 6, "five, and how many were left out")

    def test_a_cancelled_question_is_not_waited_for(self) -> None:
        link = self.link(self.simulator)
        asked, waiting = link.ask(b"1"), link.ask(b"2")
        for each in (asked, waiting):
            each.addErrback(lambda _: None)
        finished = link.finish()
        waiting.cancel()
        self.passes(0.4)
        self.assertFalse(finished.called)
        self.passes(0.2)
        self.assertTrue(finished.called)
        self.assertTrue(link.finish().called)


class OnConnectTests(LinkTestCase):
    """The function on_connect; test_link_properties has whatever a device may do meanwhile."""

    def setUp(self) -> None:
        super().setUp()
        self.simulator = self.device()

    async def configure(self, link: Link) -> None:
        await link.ask(b"set a")
        await self.set_b(link)

    async def set_b(self, link: Link) -> None:
        await link.ask(b"set b")

    def test_its_questions_come_first_each_time(self) -> None:
        link = self.link(self.simulator, on_connect=self.configure)
        waiting = [link.ask(b"1"), link.ask(b"2")]
        self.assertEqual(link.problem, "link to simulated device is down since 0 s")
        self.assertEqual(self.outcomes(waiting, 1.0), [b"re 1", b"re 2"])
        self.assertEqual(link.problem, "")
        self.simulator.next([Wait(0.1), HangUp()])
        self.outcomes([link.ask(b"3"), link.ask(b"4")], 2.0)
        wanted = [b"set a", b"set b", b"1", b"2", b"3", b"set a", b"set b", b"4"]
        self.assertEqual(self.simulator.questions, wanted)

    def test_ordinary_functions(self) -> None:
        def asks(link: Link) -> None:
            for question in (b"set a", b"set b"):
                link.ask(question)

        functions: dict[str, Callable[[Link], Any]] = {
            "does not wait": asks,
            "returns a Deferred": lambda link: link.ask(b"set a").addCallback(lambda _: link.ask(b"set b")),
        }
        for name, function in functions.items():
            with self.subTest(name):
                self.simulator.questions.clear()
                link = self.link(self.simulator, on_connect=function)
                self.assertEqual(self.outcome(link, b"1", 1.0), b"re 1")
                self.assertEqual(self.simulator.questions, [b"set a", b"set b", b"1"])
                link.close()

    def test_it_fails(self) -> None:
        async def refuse(link: Link) -> None:
            if await link.ask(b"set a") != b"ok":
                raise BackendError("the device refused `set a`")

        link = self.link(self.simulator, on_connect=refuse)
        with self.assertLogs(LOGGER, "INFO") as logged:
            self.assert_fails(self.outcome(link, b"1", 12.0), LinkDown, "link to simulated device is down since 0 s")
        text = f"WARNING:{LOGGER}:link to simulated device"
        failed = f"{text}: on_connect failed: the device refused `set a`"
        down = f"{text} is down, and connects again when it can: on_connect failed: the device refused `set a`"
        self.assertEqual(logged.output[:3], [failed, failed, down])
        self.assertLess(self.simulator.questions.count(b"set a"), 9, "the pauses grow")
        self.assert_fails(self.outcome(link, b"2"), LinkDown, "link to simulated device is down since 12 s")
        self.simulator._answers = lambda question: b"ok"
        self.passes(20.0)
        self.assertEqual(link.problem, "")
        self.assertEqual(self.outcome(link, b"3"), b"ok")
        self.assertEqual([each for each in self.simulator.questions if each != b"set a"], [b"3"])

    def test_it_has_a_mistake(self) -> None:
        link = self.link(self.simulator, on_connect=lambda link: {"a": 1}["no key"])
        with self.assertLogs(LOGGER, "INFO") as logged:
            self.passes(0.1)
            link.start()
            self.passes(0.1)
        self.assertIn(f"ERROR:{LOGGER}:link to simulated device: on_connect failed\nTraceback", logged.output[0])
        self.assertIn("KeyError: 'no key'", logged.output[0])
        self.assertEqual(link.problem, "link to simulated device is down since 0 s")

    def test_the_connection_is_lost_meanwhile(self) -> None:
        ended: list[type[BaseException]] = []

        def note(failure: Failure) -> None:
            ended.append(cast(Any, failure.type))

        async def wait(link: Link) -> None:
            others = [link.ask(b"set b"), link.ask(b"set c")]
            try:
                await link.ask(b"set a")
                await Deferred()
            except BaseException as problem:
                ended.append(type(problem))
                raise
            finally:
                for other in others:
                    other.addErrback(note)

        link = self.link(self.simulator, on_connect=wait)
        link.start()
        for behavior in (HangUp(), b"ok", None):
            with self.subTest(behavior), self.assertNoLogs(LOGGER, "ERROR"):
                ended.clear()
                self.simulator.next(behavior)
                self.simulator.hang_up()
                self.passes(2.5)
                self.simulator.hang_up()
                self.passes(0.1)
                self.assertTrue(ended)
                self.assertLessEqual(set(ended), {CancelledError, LinkDown, LinkTimeout})
        link.close()
        self.assertEqual(self.simulator.connections, 0)

    def test_the_connection_is_lost_while_it_waits_for_quiet(self) -> None:
        link = self.link(self.simulator, quiet=0.25, on_connect=self.configure)
        link.start()
        self.passes(0.1)
        self.simulator.hang_up()
        with mock.patch.object(self.simulator, "connect", return_value=Deferred()):
            # An attempt that takes longer than `timeout`.
            self.passes(5.0)
        self.assertEqual(self.simulator.questions, [])
        self.assert_fails(self.outcome(link, b"1", 2.1), LinkDown, "link to simulated device is down since 7 s")

    def test_another_question_fails_meanwhile(self) -> None:
        """Its failure does not end the time limit of the questions of on_connect."""
        link = self.link(self.simulator, on_connect=self.configure)
        self.simulator.refusing = True
        link.start()
        self.passes(1.0)
        self.simulator.refusing = False
        self.simulator.next(None)
        while not self.simulator.questions:
            self.passes(0.05)
        self.assertIs(type(self.outcome(link, b"1", 0.1)), LinkDown)
        self.passes(10.0)
        self.assertEqual(self.outcome(link, b"2"), b"re 2")
        self.assertEqual(self.simulator.questions, [b"set a", b"set a", b"set b", b"2"])

    def test_a_later_task_of_it_asks_like_others(self) -> None:
        async def poll(link: Link) -> None:
            for _ in range(3):
                await link.ask(b"poll")

        def start_polling(link: Link) -> None:
            Deferred.fromCoroutine(poll(link))

        link = self.link(self.simulator, on_connect=start_polling)
        waiting = [link.ask(b"1"), link.ask(b"2")]
        self.outcomes(waiting, 1.0)
        self.assertEqual(self.simulator.questions, [b"poll", b"1", b"2", b"poll", b"poll"])


class ThreadedClock(Clock):
    """A Clock that takes calls from other threads; the test makes them."""

    running = True

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[Callable[[], Any]] = []
        self.called = threading.Event()

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.passed.append(lambda: function(*arguments))
        self.called.set()

    def pass_on(self) -> None:
        """Wait for a thread to call, and make its calls."""
        assert self.called.wait(PATIENCE)
        self.called.clear()
        calls, self.passed = self.passed, []
        for call in calls:
            call()


class BlockingTests(LinkTestCase):
    def setUp(self) -> None:
        self.clock: ThreadedClock = ThreadedClock()
        self.simulator = self.device()

    @contextmanager
    def asking(self, link: Link, question: bytes = b"1") -> Iterator[list[Any]]:
        """A thread asks; its outcome when the block has ended."""
        found: list[Any] = []

        def ask() -> None:
            try:
                found.append(link.ask_blocking(question))
            except Exception as problem:  # noqa: BLE001  # it is looked at
                found.append(problem)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        yield found
        thread.join(PATIENCE)
        self.assertFalse(thread.is_alive())

    def test_the_answer(self) -> None:
        with self.asking(self.link(self.simulator)) as found:
            self.clock.pass_on()
            self.passes(0.2)
        self.assertEqual(found, [b"re 1"])

    def test_failures(self) -> None:
        self.simulator.next(None)
        link = self.link(self.simulator)
        with self.asking(link) as found:
            self.clock.pass_on()
            self.passes(2.1)
        self.assert_fails(found[0], LinkTimeout, "link to simulated device gave no answer within 2 s")
        self.simulator.next(None)
        with self.asking(link) as found:
            self.clock.pass_on()
            self.passes(0.1)
            link.close()
        self.assert_fails(found[0], LinkDown, "link to simulated device is closed")

    def test_in_the_reactors_thread(self) -> None:
        link = self.link(self.simulator)
        link.start()
        with self.assertRaisesRegex(RuntimeError, r"would block the server: write `await link\.ask\(\.\.\.\)`"):
            link.ask_blocking(b"1")
        self.assertEqual(self.clock.passed, [])

    def test_a_method_that_is_not_blocking(self) -> None:
        client = greeted(
            DBFactory(
                DBProtocolHandler(ServedBackend(self.link(self.simulator)), reactor=self.clock), reactor=self.clock
            )
        )
        client.factory.doStart()
        with self.assertLogs("discosbackend", "ERROR") as logged:
            self.assertEqual(client.ask(b"?get-rms\r\n"), b"!get-rms,fail,Request could not be handled correctly\r\n")
        self.assertIn("mark the method @blocking", logged.output[0])

    def test_a_reactor_that_does_not_run(self) -> None:
        link = self.link(self.simulator)
        self.clock.running = False
        with self.assertRaisesRegex(RuntimeError, "needs a server: the reactor is not running"):
            link.ask_blocking(b"1")

    def test_a_reactor_that_stops_meanwhile(self) -> None:
        link = self.link(self.simulator)
        with mock.patch("discosbackend.link._THREAD_CHECK", 0.01), self.asking(link) as found:
            assert self.clock.called.wait(PATIENCE)
            self.clock.running = False
        self.assert_fails(found[0], LinkDown, "link to simulated device is closed")


class Triggers(Clock):
    """A Clock that has the shutdown triggers of a reactor."""

    def __init__(self) -> None:
        super().__init__()
        self.triggers: list[Any] = []

    def addSystemEventTrigger(self, *trigger: Any) -> Any:
        self.triggers.append(trigger)
        return trigger

    def removeSystemEventTrigger(self, trigger: Any) -> None:
        self.triggers.remove(trigger)


class ConnectorTests(LinkTestCase):
    def test_the_trigger_of_the_reactors_shutdown(self) -> None:
        self.clock = reactor = Triggers()
        link = self.link(self.device())
        for _ in range(2):
            link.start()
            link.start()
            self.assertEqual([trigger[:2] for trigger in reactor.triggers], [("during", "shutdown")])
            link.close()
            self.assertEqual(reactor.triggers, [])
        link.start()
        reactor.triggers.pop()[2]()
        self.assertEqual(link.problem, "link to simulated device is closed")

    def test_nothing_is_logged_by_the_client_service(self) -> None:
        from twisted.logger import globalLogPublisher

        events: list[Any] = []
        observer: Any = events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        device = self.device()
        device.refusing = True
        self.link(device).start()
        self.passes(60.0)
        self.assertEqual(events, [])

    def test_a_connection_that_is_made_after_close(self) -> None:
        """An endpoint of the user's own may not be able to cancel an attempt."""
        link = self.link(self.device())
        link.start()
        link.close()
        late = mock.Mock()
        link._made(late)
        late.abort.assert_called_once_with()
        self.assertIsNone(link._connection)


if __name__ == "__main__":
    unittest.main()
