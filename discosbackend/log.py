"""The log of a program: the format of its lines, and a handler that writes them without waiting.

Only programs configure logging, with log_to_stderr(). A line contains no control characters, even if a peer has sent
some. If the reader of the log has stopped, lines are dropped, and the server continues.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import stat
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TextIO

__all__ = ["LineFormatter", "LogWriter", "address_text", "log_to_stderr", "log_what_python_prints", "printable"]
__all__ += ["shown_arguments"]

logger = logging.getLogger(__name__)

SERVER_LINE = "%(asctime)s UT %(levelname)s %(name)s: %(message)s"
"""The format of a line of a server's log, in the %-style of logging."""

# How many bytes of lines may wait to be written: about 10,000 lines.
_MOST_WAITING = 2**20
# How many s a program waits for the reader of its log when it exits.
_LAST_PATIENCE = 1.0
# How many s pass between two attempts to write to a reader that has stopped.
_PAUSE = 0.01
# How many bytes can be written to a pipe or terminal that is ready, without blocking.
_ATOMIC = 512

_INDENT = "    "
_LONGEST_SHOWN = 80
_GAP = "%d lines of this log were dropped: they could not be written"


def printable(text: str) -> str:
    r"""Return the text with every character that is not printable replaced by an escape, such as `\x9b`.

    These include characters that control a terminal (0x1B, 0x9B), and characters that some programs treat as the end
    of a line (0x0B, 0x85, U+2028).
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode("ascii")
        for each in text
    )


def shown_arguments(request: bytes) -> str:
    """Return the arguments of a request for a log line, shortened, such as ": 'SK00'". "" if there are none."""
    _, comma, rest = request.partition(b",")
    if not comma:
        return ""
    text = rest[:_LONGEST_SHOWN].decode("latin-1") + "..." * (len(rest) > _LONGEST_SHOWN)
    return f": {text!r}"


def address_text(address: Any) -> str:
    """Return an address as a text: `10.0.0.7:4711`, `[::1]:5000`, or the path of a Unix socket.

    Parameters
    ----------
    address
        An address of Twisted, or a tuple (host, port).

    Returns
    -------
    text
        The text, printable. An IPv4 client of an IPv6 port has the same text as on an IPv4 port.
    """
    host, port = address if isinstance(address, tuple) else _host_and_port(address)
    if host is not None:
        host = str(host).removeprefix("::ffff:") if "." in str(host) else str(host)
        return printable(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    name = getattr(address, "name", address)
    if isinstance(name, bytes):
        # A name in Linux's abstract namespace begins with NUL, which printable() escapes.
        name = os.fsdecode(name)
    return printable(str(name)) if name else "a local socket"


def _host_and_port(address: Any) -> tuple[Any, Any]:
    return getattr(address, "host", None), getattr(address, "port", None)


class LineFormatter(logging.Formatter):
    """Formats a record as one line, with the time in UT.

    If a record has several lines, such as a traceback, all but the first are indented. So no text from a peer can look
    like a log line of its own.
    """

    converter = time.gmtime  # type: ignore[assignment]  # always called with a time
    default_msec_format = "%s.%03d"

    def __init__(self, layout: str = SERVER_LINE) -> None:
        super().__init__(layout)

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record. Called by logging."""
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        parts = [self.formatMessage(record)]
        if record.exc_info:
            parts.append(self.formatException(record.exc_info))
        elif record.exc_text:
            parts.append(record.exc_text)
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return f"\n{_INDENT}".join(printable(line) for part in parts for line in part.split("\n"))


class LogWriter(logging.Handler):
    """A logging handler that writes lines to a file descriptor without waiting.

    A line is written at once, in the thread that logs it, so that it is not lost if the process crashes. If a pipe,
    socket or terminal is full, the line is stored, and another thread writes it later. If the stored lines exceed
    `most` bytes, further lines are dropped, and their number is logged afterwards. At exit and in flush(), the handler
    waits at most a second until the reader takes the stored lines.

    Parameters
    ----------
    descriptor
        The file descriptor. Its flags are not changed.
    encoding
        The encoding of the lines.
    most
        The maximum size of the stored lines, in bytes.
    """

    def __init__(self, descriptor: int, *, encoding: str = "utf-8", most: int = _MOST_WAITING) -> None:
        super().__init__()
        self._encoding = encoding
        self._most = most
        self._sink = _Sink(descriptor)
        # The stored lines, each with the number of lines that are lost if it cannot be written.
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._size = 0
        self._dropped = 0
        # The dropped lines whose number was logged.
        self._logged_gaps = 0
        self._dropping = False
        self._writing = False
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    @property
    def dropped(self) -> int:
        """How many lines were dropped so far."""
        return self._logged_gaps + self._dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, store it, or drop it. Called by logging."""
        line = self._line(record)
        if self._process != os.getpid():
            self._begin_anew()
        if self._dropping and self._size < self._most // 2:
            self._dropping = False
        if self._dropping or self._size + len(line) > self._most:
            self._dropping = True
            self._dropped += 1
            return
        gap, self._dropped = self._dropped, 0
        if gap:
            self._logged_gaps += gap
            line = self._line(_record(logging.WARNING, _GAP, gap)) + line
        self._waiting.append((line, gap + 1))
        self._size += len(line)
        if self._thread is None and not self._write():
            self._thread = threading.Thread(target=self._write_when_it_can_be, name="discos-log", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                # The system has no thread left. The next line writes the stored lines.
                self._thread = None

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001  # a __str__ may raise anything; logging would print the traceback
            text = self.format(
                _record(logging.ERROR, "a record of %s cannot be formatted: %r", record.name, record.msg)
            )
        return f"{text}\n".encode(self._encoding, "backslashreplace")

    def _begin_anew(self) -> None:
        """Reset the state after a fork: the stored lines and the thread belong to the parent process."""
        self._waiting.clear()
        self._size = self._dropped = self._logged_gaps = 0
        self._dropping = self._writing = False
        self._thread = None
        self._process = os.getpid()

    def _write(self) -> bool:
        """Write the stored lines. Return False if lines are left because the descriptor is full."""
        if self._writing:
            # A signal handler that logs has interrupted this function, which will write the new line too.
            return True
        self._writing = True
        try:
            while self._waiting:
                line, lost = self._waiting[0]
                try:
                    written = self._sink.write(line)
                except BlockingIOError:
                    return False
                except OSError:
                    # The pipe is closed, or the disk is full. The next line is tried again.
                    written = len(line)
                    self._dropped += lost
                    # All but the line itself are counted there already.
                    self._logged_gaps -= lost - 1
                self._size -= written
                if written < len(line):
                    self._waiting[0] = (line[written:], lost)
                else:
                    self._waiting.popleft()
            return True
        finally:
            self._writing = False

    def _write_when_it_can_be(self) -> None:
        done = False
        while not done:
            self._sink.wait(_LAST_PATIENCE)
            time.sleep(_PAUSE)
            self.acquire()
            try:
                done = self._write()
                if done:
                    self._thread = None
            finally:
                self.release()

    def flush(self) -> None:
        """Write the stored lines. Lines that the reader does not take within a second remain stored."""
        deadline = time.monotonic() + _LAST_PATIENCE
        self.acquire()
        try:
            if self._process != os.getpid():
                self._begin_anew()
            while not self._write() and (left := deadline - time.monotonic()) > 0:
                self._sink.wait(left)
        finally:
            self.release()

    def close(self) -> None:
        """Drop the lines that wait. The file descriptor stays open. Called by logging after flush()."""
        super().close()
        self.acquire()
        try:
            # The thread must not write them later: the caller may close the descriptor, and its number is used again.
            self._waiting.clear()
            self._size = 0
            self._sink.close()
        finally:
            self.release()


def _record(level: int, text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(logger.name, level, __file__, 0, text, args, None)


class _Sink:
    """Writes to a file descriptor without waiting. Raises BlockingIOError if nothing can be written now.

    The flags of the descriptor are not changed, because other processes, such as the shell, share them.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._own: int | None = None
        self._socket: socket.socket | None = None
        self.write: Callable[[bytes], int] = self._write_if_ready
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            # The journal of systemd.
            self._socket = socket.socket(fileno=os.dup(descriptor))
            self.write = partial(self._send, self._socket)
        elif stat.S_ISREG(mode):
            self.write = partial(os.write, descriptor)
        else:
            try:
                # The same pipe or terminal, opened again, has its own flags.
                self._own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError:
                # The system is not Linux, or the terminal belongs to another user.
                return
            self.write = partial(os.write, self._own)

    @staticmethod
    def _send(connection: socket.socket, data: bytes) -> int:
        return connection.send(data, socket.MSG_DONTWAIT)

    def _write_if_ready(self, data: bytes) -> int:
        if not self.wait(0):
            raise BlockingIOError
        return os.write(self._descriptor, data[:_ATOMIC])

    def wait(self, seconds: float) -> bool:
        """Wait until the descriptor is writable or has failed. Return False if neither happens in time."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        """Close the descriptors that were opened in addition."""
        if self._own is not None:
            os.close(self._own)
            self._own = None
        if self._socket is not None:
            self._socket.close()
        self.write = self._write_if_ready


def log_to_stderr(level: str | int, layout: str = SERVER_LINE) -> None:
    """Configure logging to write to standard error. A second call in the same process has no effect.

    Parameters
    ----------
    level
        The lowest level that is logged, as for `logging.basicConfig`.
    layout
        The format of a line, in the %-style of logging.
    """
    handler = _handler_of(sys.stderr)
    handler.setFormatter(LineFormatter(layout))
    logging.basicConfig(level=level, handlers=[handler])


def _handler_of(stream: TextIO | None) -> logging.Handler:
    if stream is None:
        # The program was started without standard error.
        return logging.NullHandler()
    try:
        return LogWriter(stream.fileno(), encoding=stream.encoding or "utf-8")
    except (OSError, ValueError):
        # Not a file: a test has replaced the stream.
        return logging.StreamHandler(stream)


def log_what_python_prints() -> None:
    """Log warnings and uncaught exceptions, which Python prints otherwise.

    Printing would block the server while the reader of standard error has stopped.
    """
    warnings.showwarning = _log_warning
    threading.excepthook = _log_thread
    sys.unraisablehook = _log_unraisable


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    logging.getLogger("py.warnings").warning("%s: %s (%s:%d)", category.__name__, message, filename, lineno)


def _log_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:
        return
    name = "a thread" if args.thread is None else f"thread {args.thread.name}"
    logger.error("%s has failed", name, exc_info=(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback))


def _log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    value = unraisable.exc_value or unraisable.exc_type()
    text = unraisable.err_msg or "exception ignored in"
    logger.error("%s %r", text, unraisable.object, exc_info=(unraisable.exc_type, value, unraisable.exc_traceback))
