"""Tests of log: the format of its lines, and that a reader that has stopped blocks nobody."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tty
import unittest
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from discosbackend.log import LineFormatter, LogWriter, address_text, log_what_python_prints, printable

from .serving import ROOT
from .settings import PATIENCE, wait_for_imports, wait_until

# Characters that control a terminal, and characters that some programs treat as the end of a line.
CONTROLS = "\n\r\x0b\x0c\x1b\x1c\x1d\x1e\x7f\x85\x9b\u2028\u2029\u202e\udcff\x00\t"


def record_of(text: str, *args: object, exc_info: Any = None, name: str = "x", level: int = logging.INFO) -> Any:
    return logging.LogRecord(name, level, __file__, 1, text, args, exc_info)


class PrintableTests(unittest.TestCase):
    def test_examples(self) -> None:
        for text, shown in (
            ("", ""),
            ("M\xfcller \\ ,!", "M\xfcller \\ ,!"),
            ("a\nb\r", r"a\nb\r"),
            ("\x9b2J\x1b[2J\x0b\x85", r"\x9b2J\x1b[2J\x0b\x85"),
            ("\u2028\udcff\U0001f600", "\\u2028\\udcff\U0001f600"),
        ):
            with self.subTest(text):
                self.assertEqual(printable(text), shown)

    @given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
    @example(CONTROLS)
    def test_any_text(self, text: str) -> None:
        shown = printable(text)
        self.assertTrue(shown.isprintable())
        self.assertEqual(len(shown.splitlines()), min(len(shown), 1))
        self.assertEqual(printable(shown), shown)
        self.assertEqual(shown == text, text.isprintable())


class AddressTests(unittest.TestCase):
    def test_addresses(self) -> None:
        for address, words in (
            (IPv4Address("TCP", "10.0.0.7", 4711), "10.0.0.7:4711"),
            (IPv6Address("TCP", "::1", 5000), "[::1]:5000"),
            (IPv6Address("TCP", "fe80::1%eth0", 5000), "[fe80::1%eth0]:5000"),
            # An IPv4 client of a port that listens on `::`.
            (IPv6Address("TCP", "::ffff:10.0.0.7", 4711), "10.0.0.7:4711"),
            (("::1", 8978), "[::1]:8978"),
            (("localhost", 8978), "localhost:8978"),
            (UNIXAddress(b"/run/backend.sock"), "/run/backend.sock"),
            (UNIXAddress(b"\0abstract"), r"\x00abstract"),
            (UNIXAddress(None), "a local socket"),
            ("nowhere", "nowhere"),
        ):
            with self.subTest(address):
                self.assertEqual(address_text(address), words)


class LineFormatterTests(unittest.TestCase):
    def lines(self, record: Any, **options: Any) -> list[str]:
        """Return the lines, split at every character that any program treats as the end of a line."""
        return LineFormatter(**options).format(record).splitlines()

    def test_times_are_ut_and_say_so(self) -> None:
        record = record_of("listening on %s", "127.0.0.1:8978", name="discosbackend.server")
        record.created, record.msecs = 1795419485.25, 250.0
        with mock.patch.dict(os.environ, {"TZ": "Asia/Tokyo"}):
            time.tzset()
            self.addCleanup(time.tzset)
            (line,) = self.lines(record)
        self.assertEqual(line, "2026-11-23 07:38:05.250 UT INFO discosbackend.server: listening on 127.0.0.1:8978")

    def test_no_control_character_is_written_raw(self) -> None:
        for record in (
            record_of(f"a{CONTROLS}b"),
            record_of("%s", f"a{CONTROLS}b"),
            record_of("%s: %s", "a", ValueError(CONTROLS)),
            record_of("a", name=f"a{CONTROLS}b"),
        ):
            self.assertTrue(all(line.isprintable() for line in self.lines(record)))

    def test_no_line_can_be_forged(self) -> None:
        forged = "2026-11-23 07:38:05.250 UT ERROR discosbackend.server: all is lost"
        try:
            raise ValueError(f"a\n{forged}\x0b{forged}\x85{forged}")
        except ValueError:
            record = record_of(f"%s\n{forged}\r{forged}", f"x\u2028{forged}", exc_info=sys.exc_info())
        record.stack_info = f"Stack\n{forged}"
        first, *rest = self.lines(record)
        self.assertRegex(first, r"^\d{4}-.*UT INFO x: x\\u2028")
        self.assertGreater(len(rest), 5)
        for line in rest:
            self.assertRegex(line, "^    ")
            self.assertTrue(line.isprintable(), line)

    def test_traceback(self) -> None:
        for _ in range(2):
            # Another formatter sets record.exc_text, which must not be used.
            try:
                raise ZeroDivisionError("a secret")
            except ZeroDivisionError:
                record = record_of("failed", exc_info=sys.exc_info())
            logging.Formatter().format(record)
            lines = self.lines(record)
            self.assertIn("    Traceback (most recent call last):", lines)
            self.assertEqual(lines[-1], "    ZeroDivisionError: a secret")

    def test_another_layout(self) -> None:
        self.assertEqual(self.lines(record_of("a\x9bb"), layout="prog: %(message)s"), [r"prog: a\x9bb"])


class Reader:
    """The reader of a log, on a pipe, socket, terminal or file. It reads only in read()."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        if kind == "socket":
            ours, theirs = socket.socketpair()
            self.ours, self.theirs = ours.detach(), theirs.detach()
        elif kind == "terminal":
            self.ours, self.theirs = pty.openpty()
            tty.setraw(self.theirs)
        elif kind == "file":
            self.theirs, path = tempfile.mkstemp()
            self.ours = os.open(path, os.O_RDONLY)
            os.unlink(path)
        else:
            self.ours, self.theirs = os.pipe()
        self.data = b""

    def read(self) -> None:
        """Read the data that are available now."""
        while select.select([self.ours], [], [], 0)[0]:
            try:
                chunk = os.read(self.ours, 65536)
            except OSError:
                chunk = b""
            if not chunk:
                return
            self.data += chunk

    def lines(self) -> list[str]:
        self.read()
        return self.data.decode().splitlines()

    def close(self) -> None:
        for descriptor in (self.ours, self.theirs):
            with contextlib.suppress(OSError):
                os.close(descriptor)


KINDS = ("pipe", "another system's pipe", "socket", "terminal", "file")
STOPPING_KINDS = KINDS[:-1]


class LogWriterTests(unittest.TestCase):
    """Tests that a reader that has stopped does not block the program."""

    @contextlib.contextmanager
    def log_to(self, kind: str, **options: Any) -> Iterator[tuple[Reader, logging.Logger, LogWriter]]:
        """Make a logger that writes to a new reader."""
        reader = Reader(kind)
        open_here = os.open

        def no_proc(path: Any, *args: Any) -> int:
            if kind.startswith("another") and str(path).startswith("/proc"):
                raise FileNotFoundError(path)
            return open_here(path, *args)

        with mock.patch("os.open", no_proc):
            writer = LogWriter(reader.theirs, **options)
        writer.setFormatter(LineFormatter("%(levelname)s %(message)s"))
        found = logging.getLogger("test.log")
        found.propagate = False
        found.setLevel(logging.INFO)
        found.addHandler(writer)
        try:
            yield reader, found, writer
        finally:
            found.removeHandler(writer)
            reader.read()
            writer.flush()
            writer.close()
            reader.close()

    def in_time(self, function: Callable[[], object]) -> None:
        """Call a function, and fail if it does not return."""
        thread = threading.Thread(target=function, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        self.assertFalse(thread.is_alive(), "it hangs")

    def test_a_line_is_there_at_once(self) -> None:
        for kind in KINDS:
            with self.subTest(kind), self.log_to(kind) as (reader, logger, _):
                logger.info("one %s", "\u2028two")
                logger.info("three")
                self.assertEqual(reader.lines(), [r"INFO one \u2028two", "INFO three"])

    def test_a_reader_that_has_stopped_stops_nobody(self) -> None:
        """Lines that do not fit are dropped and counted. All other lines are complete and in order."""
        for kind in STOPPING_KINDS:
            with self.subTest(kind), self.log_to(kind, most=20000) as (reader, logger, writer):
                count = 6000

                def flood(logger: logging.Logger = logger, count: int = count) -> None:
                    for number in range(count):
                        logger.info("line %d %s", number, "x" * 80)

                self.in_time(flood)
                self.assertLess(len(writer._waiting), 300, "what waits is bounded")

                def caught_up(writer: LogWriter = writer, reader: Reader = reader) -> bool:
                    reader.read()
                    return not writer._waiting

                wait_until(caught_up)
                logger.info("the last line")
                lines = reader.lines()
                self.assertEqual(lines[-1], "INFO the last line")
                numbers = [int(found[1]) for line in lines if (found := re.fullmatch(r"INFO line (\d+) x{80}", line))]
                dropped = [int(found[1]) for line in lines if (found := re.match(r"WARNING (\d+) lines", line))]
                self.assertEqual(len(numbers) + len(dropped) + 1, len(lines), "no line is torn")
                self.assertEqual(numbers, sorted(set(numbers)))
                self.assertEqual(len(numbers) + sum(dropped), count, "each is written or counted")
                self.assertGreater(sum(dropped), count // 2)

    def test_no_thread_can_be_started(self) -> None:
        """Who logs gets no exception, and the next line takes along those that wait."""
        with self.log_to("pipe") as (reader, logger, writer):
            with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
                while not writer._waiting:
                    logger.info("x" * 80)
                logger.info("another")
            reader.read()
            logger.info("the last line")
            wait_until(lambda: reader.lines()[-1] == "INFO the last line")
            self.assertEqual(reader.lines()[-2], "INFO another")

    def test_the_count_stands_where_the_lines_are_missing(self) -> None:
        with self.log_to("pipe", most=3000) as (reader, logger, writer):
            for number in range(5000):
                logger.info("line %d %s", number, "x" * 80)
            wait_until(lambda: (reader.read(), not writer._waiting)[1])
            for number in range(5000, 5003):
                logger.info("line %d %s", number, "x" * 80)
            wait_until(lambda: any(line.startswith("INFO line 5002 ") for line in reader.lines()))
            lines = reader.lines()
            (at,) = [index for index, line in enumerate(lines) if line.startswith("WARNING")]
            around = [re.fullmatch(r"INFO line (\d+) x{80}", lines[at + step]) for step in (-1, 1)]
            self.assertNotIn(None, around, lines[at - 2 : at + 3])
            before, after = (int(found[1]) for found in around if found)
            self.assertEqual(after - before - 1, int(lines[at].split()[1]))

    def test_a_long_traceback_is_not_torn(self) -> None:
        """A record that is larger than the pipe is completed by the writing thread."""
        with self.log_to("pipe") as (reader, logger, writer):
            text = "\n".join(f"row {number} {'x' * 70}" for number in range(3000))
            self.in_time(lambda: logger.info("%s", text))
            self.in_time(lambda: logger.info("behind it"))
            wait_until(lambda: (reader.read(), not writer._waiting)[1])
            lines = reader.lines()
            self.assertEqual(len(lines), 3001)
            self.assertEqual(lines[-1], "INFO behind it")

    def test_a_reader_that_is_gone(self) -> None:
        for kind in ("pipe", "another system's pipe", "socket"):
            with self.subTest(kind), self.log_to(kind) as (reader, logger, writer):
                os.close(reader.ours)
                self.in_time(lambda logger=logger: [logger.info("line") for _ in range(100)])  # type: ignore[misc]
                self.assertEqual(len(writer._waiting), 0)
                reader.ours = os.open(os.devnull, os.O_RDONLY)

    def test_a_full_disk(self) -> None:
        with self.log_to("file") as (reader, logger, writer):
            logger.info("before")
            with mock.patch.object(writer._sink, "write", side_effect=OSError(28, "No space left on device")):
                for _ in range(7):
                    logger.info("lost")
            logger.info("after")
            dropped = "WARNING 7 lines of this log were dropped: they could not be written"
            self.assertEqual(reader.lines(), ["INFO before", dropped, "INFO after"])

    def test_flush_waits_for_a_second_at_most(self) -> None:
        with self.log_to("pipe") as (_, logger, writer):
            for _ in range(2000):
                logger.info("%s", "x" * 80)
            self.assertGreater(len(writer._waiting), 0)
            self.in_time(writer.flush)
            self.assertGreater(len(writer._waiting), 0)

    def test_what_cannot_be_printed(self) -> None:
        class Odd:
            def __repr__(self) -> str:
                raise RuntimeError("no")

        with self.log_to("pipe") as (reader, logger, _), mock.patch("sys.stderr") as stderr:
            logger.info("a %r", Odd())
            logger.info("two %s")
            logger.info("%d", "three")
            logger.info("and on")
            lines = reader.lines()
            self.assertEqual([line.split()[0] for line in lines], ["ERROR", "INFO", "ERROR", "INFO"])
            self.assertIn("'a %r'", lines[0])
            stderr.write.assert_not_called()

    def test_a_signal_handler_that_logs_while_a_line_is_written(self) -> None:
        with self.log_to("pipe") as (reader, logger, writer):
            write = writer._sink.write

            def interrupted(data: bytes) -> int:
                if b"outer" in data:
                    logger.info("inner")
                return write(data)

            with mock.patch.object(writer._sink, "write", interrupted):
                logger.info("outer")
            self.assertEqual(reader.lines(), ["INFO outer", "INFO inner"])

    def test_what_waits_is_not_written_after_close(self) -> None:
        """The number of the descriptor may belong to another file by then."""
        with self.log_to("pipe") as (reader, logger, writer):
            for _ in range(2000):
                logger.info("%s", "x" * 80)
            thread = writer._thread
            assert thread is not None
            writer.close()
            reader.read()
            written = reader.data
            thread.join(PATIENCE)
            self.assertFalse(thread.is_alive())
            reader.read()
            self.assertEqual(reader.data, written)

    def test_in_a_forked_process(self) -> None:
        with self.log_to("pipe") as (_, logger, writer):
            for _ in range(2000):
                logger.info("%s", "x" * 80)
            self.assertGreater(len(writer._waiting), 0)
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                writer.flush()
                os.write(write, b"%d" % len(writer._waiting))
                os._exit(0)
            os.close(write)
            self.assertTrue(select.select([read], [], [], PATIENCE)[0])
            self.assertEqual(os.read(read, 10), b"0", "what waited is written by its own process")
            os.close(read)
            self.assertEqual(os.waitpid(child, 0)[1], 0)

    def test_the_flags_of_the_descriptor_are_left_alone(self) -> None:
        """Other processes share them, such as the shell, whose next program would not expect a change."""
        for kind in KINDS:
            reader = Reader(kind)
            self.addCleanup(reader.close)
            before = os.get_blocking(reader.theirs)
            writer = LogWriter(reader.theirs)
            self.assertEqual((before, os.get_blocking(reader.theirs)), (True, True), kind)
            writer.close()


class PythonTests(unittest.TestCase):
    """Tests that warnings and uncaught exceptions are logged instead of printed."""

    def setUp(self) -> None:
        wait_for_imports()
        for where, name in ((warnings, "showwarning"), (threading, "excepthook"), (sys, "unraisablehook")):
            self.enterContext(mock.patch.object(where, name, getattr(where, name)))
        log_what_python_prints()

    def test_warnings(self) -> None:
        with self.assertLogs("py.warnings", "WARNING") as logs:
            warnings.showwarning("odd", UserWarning, "/x/y.py", 7)
        self.assertEqual(logs.records[0].getMessage(), "UserWarning: odd (/x/y.py:7)")

    def test_threads(self) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        with self.assertLogs("discosbackend.log", "ERROR") as logs:
            thread = threading.Thread(target=fail, name="of a backend")
            thread.start()
            thread.join(PATIENCE)
        self.assertIn("of a backend", logs.records[0].getMessage())
        self.assertIn("ZeroDivisionError", logs.output[0])
        with self.assertNoLogs("discosbackend.log"):
            thread = threading.Thread(target=sys.exit)
            thread.start()
            thread.join(PATIENCE)

    def test_unraisable(self) -> None:
        problem = ZeroDivisionError()
        for message in (None, "ignored while tidying up"):
            with self.assertLogs("discosbackend.log", "ERROR") as logs:
                sys.unraisablehook(
                    SimpleNamespace(
                        exc_type=ZeroDivisionError, exc_value=problem, exc_traceback=None, err_msg=message, object=len
                    )
                )
            self.assertIn("built-in function len", logs.records[0].getMessage())


PROGRAM = """
import logging, sys
from discosbackend.log import log_to_stderr, log_what_python_prints
log_to_stderr("INFO")
log_what_python_prints()
for number in range(int(sys.argv[1])):
    logging.info("line %d %s", number, "x" * 80)
"""


class ProgramTests(unittest.TestCase):
    """Tests of a whole process, with different kinds of standard error."""

    def start(self, count: int, **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(count)], cwd=ROOT, **options)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_exits_beside_a_reader_that_has_stopped(self) -> None:
        read, write = os.pipe()
        process = self.start(20_000, stderr=write)
        os.close(write)
        self.assertEqual(process.wait(PATIENCE), 0)
        with open(read, "rb") as file:
            data = file.read()
        self.assertGreater(len(data), 10_000)
        self.assertRegex(data[:60], rb"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} UT INFO root: line 0 x")

    def test_all_lines_are_there_at_the_end(self) -> None:
        process = self.start(20_000, stderr=subprocess.PIPE)
        _, error = process.communicate(timeout=PATIENCE)
        lines = error.decode().splitlines()
        written = sum(" INFO " in line for line in lines)
        dropped = sum(int(line.split()[5]) for line in lines if "dropped" in line)
        self.assertEqual(written + dropped, 20_000)

    def test_without_a_standard_error(self) -> None:
        process = self.start(10, preexec_fn=lambda: os.close(2))
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_something_else_in_its_place(self) -> None:
        code = PROGRAM.replace("import logging", "import io, logging", 1).replace(
            'log_to_stderr("INFO")', 'sys.stderr = io.StringIO(); log_to_stderr("INFO")', 1
        )
        code += "assert 'line 1 ' in sys.stderr.getvalue()\n"
        done = subprocess.run([sys.executable, "-c", code, "3"], cwd=ROOT, timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode, 0)

    def test_the_exit_status_of_a_signal(self) -> None:
        process = self.start(10**9, stderr=subprocess.DEVNULL)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), -signal.SIGTERM)


if __name__ == "__main__":
    unittest.main()
