"""The log as lines of JSON: its fields, and that it keeps the guarantees of the log as text."""

from __future__ import annotations

import json
import logging
import os
import sys
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st

from discosbackend.cli import server
from discosbackend.json_log import JsonFormatter
from discosbackend.log import LogWriter, printable

from .program_in_memory import served_in_memory
from .programs import run_program
from .settings import wait_until
from .test_log import CONTROLS, record_of


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError


def formatted(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a record, whose line is one line for every program, in ASCII and without control characters."""
    line = JsonFormatter().format(record)
    assert line.isascii() and line.isprintable(), line
    fields = json.loads(line)
    assert isinstance(fields, dict)
    for text in fields.values():
        assert all(part.isprintable() for part in text.split("\n")), text
    return fields


class JsonFormatterTests(unittest.TestCase):
    def test_fields(self) -> None:
        record = record_of("listening on %s", "127.0.0.1:8978", name="discosbackend.server", level=logging.WARNING)
        for created, time in (
            (1795419485.25, "2026-11-23T07:38:05.250Z"),
            (1795419485.9999, "2026-11-23T07:38:05.999Z"),
            (0.0, "1970-01-01T00:00:00.000Z"),
        ):
            record.created = created
            self.assertEqual(
                list(formatted(record).items()),
                [
                    ("time", time),
                    ("level", "WARNING"),
                    ("logger", "discosbackend.server"),
                    ("message", "listening on 127.0.0.1:8978"),
                ],
            )

    def test_a_traceback(self) -> None:
        try:
            raise ValueError(f"a\n{CONTROLS}\n{{}}")
        except ValueError:
            record = record_of("it failed", exc_info=sys.exc_info())
        record.stack_info = "Stack\nof\x1b two lines"
        fields = formatted(record)
        self.assertEqual(list(fields), ["time", "level", "logger", "message", "traceback", "stack"])
        first, *_, last = fields["traceback"].split("\n")
        self.assertEqual((first, last), ("Traceback (most recent call last):", "{}"))
        self.assertIn(f"{printable(CONTROLS[1:])}\n{{}}", fields["traceback"])
        self.assertEqual(fields["stack"], "Stack\nof\\x1b two lines")

    def test_a_traceback_that_another_handler_has_formatted(self) -> None:
        record = record_of("it failed")
        record.exc_text = "Traceback\n  x\x9b"
        self.assertEqual(formatted(record)["traceback"], "Traceback\n  x\\x9b")

    @given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
    @example(CONTROLS)
    @example('"}\n{"time": "x"}')
    def test_any_text(self, text: str) -> None:
        fields = formatted(record_of("%s", text, name=text))
        self.assertEqual(fields["message"], "\n".join(map(printable, text.split("\n"))))


class LogWriterTests(unittest.TestCase):
    """The handler is the same: what it adds is JSON too."""

    def lines(self, *records: logging.LogRecord, most: int = 2**20) -> list[dict[str, Any]]:
        """What it writes to a pipe that accepts nothing before the last record."""
        reading, writing = os.pipe()
        with open(reading, "rb") as pipe:
            handler = LogWriter(writing, most=most)
            handler.setFormatter(JsonFormatter())
            with mock.patch.object(handler._sink, "write", side_effect=BlockingIOError):
                for record in records:
                    handler.handle(record)
            wait_until(lambda: not handler._waiting)
            handler.handle(record_of("the last"))
            handler.flush()
            handler.close()
            os.close(writing)
            return [json.loads(line) for line in pipe]

    def test_a_record_that_cannot_be_formatted(self) -> None:
        first, last = self.lines(record_of("%s", Unprintable()))
        self.assertEqual((first["level"], first["message"]), ("ERROR", "a record of x cannot be formatted: '%s'"))
        self.assertEqual(last["message"], "the last")

    def test_the_number_of_dropped_lines(self) -> None:
        found = self.lines(*[record_of("x" * 100) for _ in range(50)], most=1000)
        self.assertRegex(found[-2]["message"], r"\A\d+ lines of this log were dropped: they could not be written\Z")
        self.assertEqual(found[-1]["message"], "the last")


class OptionTests(unittest.TestCase):
    def test_a_wrong_format(self) -> None:
        found = run_program(server.main, "--log-format", "xml")
        self.assertEqual(found.status, 2)
        self.assertIn("invalid choice: 'xml'", found.err)

    def test_the_program(self) -> None:
        """Every line, also the traceback of a backend."""
        with TemporaryDirectory() as folder:
            Path(folder, "mine.py").write_text(
                "from discosbackend import Backend\n\n\nclass Mine(Backend):\n"
                "    def status(self):\n        raise ZeroDivisionError('\\x1b[2J')\n"
            )
            options = ("--backend", "mine:Mine", "--log-format", "json")
            with served_in_memory(*options, cwd=folder) as program:
                program.ask(b"?status", b"?x\x1b")
            lines = [json.loads(line) for line in program.log().splitlines()]
        self.assertEqual({tuple(line)[:4] for line in lines}, {("time", "level", "logger", "message")})
        (failed,) = [line for line in lines if "traceback" in line]
        self.assertRegex(failed["message"], r"\Astatus from .* failed\Z")
        self.assertRegex(failed["traceback"], r"(?s)\ATraceback.*ZeroDivisionError: \\x1b\[2J\Z")
        self.assertTrue(any("sent an invalid line" in line["message"] for line in lines))


if __name__ == "__main__":
    unittest.main()
