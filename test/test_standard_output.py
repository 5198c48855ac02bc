"""Tests of discosbackend.standard_output: an announcement never waits, and a failed write is no traceback."""

from __future__ import annotations

import logging
import os
import unittest
from contextlib import redirect_stdout
from io import StringIO

from discosbackend.standard_output import announce, write_result

from .serving import fill
from .settings import wait_until


class AnnounceTests(unittest.TestCase):
    def setUp(self) -> None:
        self.reading, writing = os.pipe()
        self.addCleanup(os.close, self.reading)
        self.pipe = open(writing, "w", encoding="utf-8")  # noqa: SIM115  # closed by the cleanup
        self.addCleanup(self.pipe.close)
        self.received = b""

    def receive_until(self, end: bytes) -> None:
        def has_come() -> bool:
            self.received += os.read(self.reading, 2**20)
            return self.received.endswith(end)

        wait_until(has_come)

    def test_a_line_is_there_at_once(self) -> None:
        with redirect_stdout(self.pipe), self.assertNoLogs("discosbackend"):
            announce("a line")
        self.assertEqual(os.read(self.reading, 100), b"a line\n")

    def test_a_full_pipe(self) -> None:
        """Nobody waits; the lines follow in their order when the reader continues."""
        fill(self.pipe.fileno())
        with redirect_stdout(self.pipe), self.assertLogs("discosbackend") as logs:
            for number in range(3):
                announce(f"line {number}")
        self.assertEqual([record.levelno for record in logs.records], [logging.WARNING])
        self.assertIn("standard output takes no data: 'line 0'", logs.output[0])
        self.receive_until(b"xline 0\nline 1\nline 2\n")
        # And then as before.
        with redirect_stdout(self.pipe), self.assertNoLogs("discosbackend"):
            announce("a line")
        self.receive_until(b"line 2\na line\n")

    def test_in_a_forked_process(self) -> None:
        """The lines that wait are the parent's; the child's are written nevertheless."""
        fill(self.pipe.fileno())
        reading, writing = os.pipe()
        with redirect_stdout(self.pipe), self.assertLogs("discosbackend"):
            announce("the parent's")
        with open(writing, "w", encoding="utf-8") as others:
            if (child := os.fork()) == 0:
                try:
                    with redirect_stdout(others):
                        announce("the child's")
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
        with open(reading, encoding="utf-8") as output:
            self.assertEqual(output.read(), "the child's\n")
        self.receive_until(b"xthe parent's\n")

    def test_a_reader_that_is_gone_while_a_line_waits(self) -> None:
        reading, writing = os.pipe()
        with open(writing, "w", encoding="utf-8") as pipe:
            fill(writing)
            with redirect_stdout(pipe), self.assertLogs("discosbackend") as logs:
                announce("a line")
                os.close(reading)
                wait_until(lambda: len(logs.output) > 1)
            self.assertRaises(BrokenPipeError, pipe.close)
        self.assertIn("cannot write 'a line' to standard output: BrokenPipeError", logs.output[-1])

    def test_what_cannot_be_printed(self) -> None:
        with redirect_stdout(StringIO()) as out:
            announce("a \x9b\x1b \u202e b")
        self.assertEqual(out.getvalue(), "a \\x9b\\x1b \\u202e b\n")

    def test_a_closed_stream(self) -> None:
        (closed := StringIO()).close()
        with redirect_stdout(closed), self.assertLogs("discosbackend") as logs:
            announce("a line")
        self.assertIn("cannot write 'a line' to standard output: ValueError", logs.output[-1])

    def test_no_stream(self) -> None:
        with redirect_stdout(None), self.assertNoLogs("discosbackend"):
            announce("a line")


class WriteResultTests(unittest.TestCase):
    def test_a_full_disk(self) -> None:
        """It is raised once: what is left in the buffer fails neither later nor when the stream is closed."""
        with open("/dev/full", "w", encoding="utf-8") as full, redirect_stdout(full):
            self.assertRaisesRegex(OSError, "No space left", write_result, "a line\n")
            write_result("another\n")

    def test_a_closed_pipe(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "w", encoding="utf-8") as pipe, redirect_stdout(pipe):
            write_result("a line\n")
            write_result("another\n")

    def test_a_text(self) -> None:
        with redirect_stdout(StringIO()) as out:
            write_result("two\nlines\n")
        self.assertEqual(out.getvalue(), "two\nlines\n")
