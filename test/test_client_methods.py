"""Tests of the client's methods: the requests that they send, and the values that they return."""

from __future__ import annotations

import inspect
import unittest
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from discosbackend.backend import Backend
from discosbackend.client import Client, Status
from discosbackend.commands import COMMANDS
from discosbackend.errors import ReplyMalformed, RequestFailed, RequestInvalid
from discosbackend.grammar import Message, parse_message
from discosbackend.ticks import Ticks
from discosbackend.timediscos import time_from_ticks

NOW = Ticks(17954663857947171)
CET = timezone(timedelta(hours=1))


class Answered(Client):
    """A client without a connection. It records every request, and each gets the same reply."""

    def __init__(self, reply: str) -> None:  # there is no server
        self.reply = reply
        self.sent: list[str] = []

    def exchange(self, request: Message) -> Message:
        if not request.check_synthax():
            raise ValueError
        self.sent.append(str(request))
        return parse_message(f"!{request.name},{self.reply}")


class MethodTests(unittest.TestCase):
    def test_every_command_has_its_method(self) -> None:
        """It is named as in Backend, and its parameters are the arguments in the table, in their order."""
        for row in COMMANDS.values():
            with self.subTest(row.name):
                parameters = list(inspect.signature(getattr(Client, row.method)).parameters)
                self.assertEqual(parameters[1:], [a.name.replace("-", "_") for a in row.arguments])
                self.assertTrue(getattr(Client, row.method).__doc__)
                if hasattr(Backend, row.method):
                    theirs = list(inspect.signature(getattr(Backend, row.method)).parameters)
                    self.assertEqual(parameters, theirs)

    def test_what_is_sent_and_returned(self) -> None:
        tested = set()
        for method, arguments, request, reply, result in (
            ("status", (), "?status", "ok,1795466385.7947171,ok,1", Status(NOW, "ok", True)),
            ("status", (), "?status", r"ok,1.0000000,a\,b,0", Status(Ticks(10**7), "a,b", False)),
            ("version", (), "?version", "ok,1.4", "1.4"),
            ("time", (), "?time", "ok,1795466385.7947171", NOW),
            ("get_configuration", (), "?get-configuration", "ok,SK77", "SK77"),
            ("set_configuration", ("a,b",), r"?set-configuration,a\,b", "ok", None),
            ("get_integration", (), "?get-integration", "ok,40", 40),
            ("set_integration", (40,), "?set-integration,40", "ok", None),
            ("set_integration", (np.int64(40),), "?set-integration,40", "ok", None),
            ("get_tpi", (), "?get-tpi,0.0,0.0", "ok,1.5,2", [1.5, 2.0]),
            ("get_tpi", (100.5, 1e-5), "?get-tpi,100.5,0.00001", "ok,1e3", [1000.0]),
            ("get_tp0", (), "?get-tp0", "ok,1,2,3", [1.0, 2.0, 3.0]),
            ("get_rms", (), "?get-rms", "ok,1", [1.0]),
            ("get_ddcoffset", (), "?get-ddcoffset", "ok,-0.5", -0.5),
            ("get_filename", (), "?get-filename", r"ok,/a\\b", "/a\\b"),
            ("get_filename", (), "?get-filename", "ok,/M\xc3\xbc\xff.fits", "/M\xfc\udcff.fits"),
            ("set_filename", ("/a.fits",), "?set-filename,/a.fits", "ok", None),
            ("set_filename", ("/M\xfc\udcff\u0141",), "?set-filename,/M\xc3\xbc\xff\xc5\x81", "ok", None),
            ("set_filename", (Path("/M\xfc"),), "?set-filename,/M\xc3\xbc", "ok", None),
            ("set_section", (), "?set-section,*,*,*,*,*,*,*", "ok", None),
            (
                "set_section",
                (0, "*", np.float32(1500), 0, "FullStokes", 3e3, 1024),
                "?set-section,0,*,1500.0,0,FullStokes,3000.0,1024",
                "ok",
                None,
            ),
            ("set_enable", (0, 3), "?set-enable,0,3", "ok", None),
            ("set_shift", (-1,), "?set-shift,-1", "ok", None),
            ("cal_on", (), "?cal-on,0", "ok", None),
            ("cal_on", (10,), "?cal-on,10", "ok", None),
            ("start", (), "?start", "ok", None),
            ("stop", (NOW,), "?stop,17954663857947171", "ok", None),
            ("convert_data", (), "?convert-data", "ok", None),
            ("end_schedule", (), "?end-schedule", "ok", None),
            ("park", (), "?backend-park", "ok", None),
        ):
            with self.subTest(request, reply=reply):
                client = Answered(reply)
                returned = getattr(client, method)(*arguments)
                self.assertEqual(client.sent, [request])
                self.assertEqual((returned, type(returned)), (result, type(result)))
            tested.add(method)
        self.assertEqual(tested, {row.method for row in COMMANDS.values()}, "a command has no line above")

    def test_when(self) -> None:
        """The text is exact to 100 ns, if the instant is."""
        for instant, text in (
            (NOW, "17954663857947171"),
            (time_from_ticks(NOW), "17954663857947171"),
            (1795466385, "17954663850000000"),
            (1795466385.5, "17954663855000000"),
            (17954663857947171, "17954663857947171"),
            (datetime(2026, 11, 23, 20, 39, 45, 794717, UTC), "17954663857947170"),
            (datetime(2026, 11, 23, 21, 39, 45, 794717, CET), "17954663857947170"),
        ):
            with self.subTest(instant):
                client = Answered("ok")
                client.start(instant)
                client.stop(instant)
                self.assertEqual(client.sent, [f"?start,{text}", f"?stop,{text}"])

    def test_what_cannot_be_sent_is_not_sent(self) -> None:
        attempts: list[tuple[type[Exception], str, tuple[Any, ...]]] = [
            (ValueError, "start", (datetime(2026, 11, 23),)),
            (ValueError, "start", (float("nan"),)),
            (TypeError, "start", ("soon",)),
            (TypeError, "start", (True,)),
            (TypeError, "start", (timedelta(1),)),
            (ValueError, "get_tpi", (float("inf"), 1.0)),
            (TypeError, "get_tpi", (None, None)),
            (TypeError, "set_integration", ([40],)),
            (ValueError, "set_configuration", ("",)),
            (ValueError, "set_filename", ("a\nb",)),
            (ValueError, "set_filename", ("\ud800",)),
            (TypeError, "set_filename", (5,)),
            (TypeError, "set_configuration", (Path("SK00"),)),
        ]
        for kind, method, arguments in attempts:
            with self.subTest(method, arguments=arguments):
                client = Answered("ok")
                with self.assertRaises(kind):
                    getattr(client, method)(*arguments)
                self.assertEqual(client.sent, [])

    def test_an_ok_without_what_belongs_there(self) -> None:
        for method, reply, problem in (
            ("status", "ok", "the reply to status has the values [] instead of timestamp and status and acquiring"),
            ("status", "ok,1.0,ok", "['1.0', 'ok'] instead of timestamp"),
            ("status", "ok,now,ok,1", "the timestamp 'now', not a count of 100 ns"),
            ("status", "ok,1.0,ok,true", "the acquiring 'true', not 0 or 1"),
            ("get_integration", "ok,4.5", "the integration '4.5', not an integer"),
            ("get_tpi", "ok", "the reply to get-tpi has the values [] instead of tpi"),
            ("get_tpi", "ok,1,nan", "the tpi 'nan', not a finite decimal number"),
            ("stop", "ok,1", "the reply to stop has the values ['1'] instead of nothing"),
        ):
            with self.subTest(method, reply=reply), self.assertRaises(ReplyMalformed) as caught:
                getattr(Answered(reply), method)()
            self.assertIn(problem, str(caught.exception))

    def test_refusals(self) -> None:
        for reply, kind in (("fail,not acquiring", RequestFailed), ("invalid,syntax error", RequestInvalid)):
            with self.subTest(reply), self.assertRaises(kind) as caught:
                Answered(reply).stop()
            self.assertEqual(str(caught.exception), reply.partition(",")[2])

    def test_no_method_goes_past_the_exchange(self) -> None:
        """exchange() keeps the replies in order, so every method has to use it."""
        with mock.patch.object(Client, "exchange", side_effect=ZeroDivisionError) as exchange:
            client = Client.__new__(Client)
            for row in COMMANDS.values():
                texts = [1 if argument.type not in ("text", "path") else "x" for argument in row.arguments]
                with self.assertRaises(ZeroDivisionError):
                    getattr(client, row.method)(*texts)
        self.assertEqual(exchange.call_count, len(COMMANDS))
