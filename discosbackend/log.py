"""The log of a program: what a line looks like, and how it is written without ever holding the program up.

Only programs configure logging, and they do it here: `log_to_stderr`. A line carries no control character, whoever
sent it, and a reader that has stopped loses lines instead of stopping the server. What is said, and how often, is
decided where it happens.
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
"""A line of a server's log; %-style, as logging takes it."""

# Bytes of lines that wait for a reader, about 10,000 lines.
_MOST_WAITING = 2**20
# Seconds that a program which exits waits for the reader of its log.
_LAST_PATIENCE = 1.0
# Seconds between two looks at a reader that has stopped.
_PAUSE = 0.01
# Bytes that a pipe or terminal which is ready takes without holding up the one who writes.
_ATOMIC = 512

_INDENT = "    "
_LONGEST_SHOWN = 80
_GAP = "%d lines of this log were dropped: they could not be written"


def printable(text: str) -> str:
    r"""The text with everything that a log or a terminal would not show as it is replaced by an escape: `\x9b`.

    That is every control character, also those that a terminal obeys (0x1B, 0x9B) or that some programs take for
    the end of a line (0x0B, 0x85, U+2028).
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode("ascii")
        for each in text
    )


def shown_arguments(request: bytes) -> str:
    """What stands behind the command's name in a request, for a log line: ": 'SK00'", "" if nothing does."""
    _, comma, rest = request.partition(b",")
    if not comma:
        return ""
    text = rest[:_LONGEST_SHOWN].decode("latin-1") + "..." * (len(rest) > _LONGEST_SHOWN)
    return f": {text!r}"


def address_text(address: Any) -> str:
    """An address of Twisted's, or a (host, port), in words: `10.0.0.7:4711`, `[::1]:5000`, or a socket's path.

    One host has one name: an IPv4 client that an IPv6 port has accepted is named as on an IPv4 port.
    """
    host, port = address if isinstance(address, tuple) else _host_and_port(address)
    if host is not None:
        host = str(host).removeprefix("::ffff:") if "." in str(host) else str(host)
        return printable(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    name = getattr(address, "name", address)
    if isinstance(name, bytes):
        # In Linux's abstract namespace a name begins with NUL.
        name = os.fsdecode(name)
    return printable(str(name)) if name else "a local socket"


def _host_and_port(address: Any) -> tuple[Any, Any]:
    return getattr(address, "host", None), getattr(address, "port", None)


class LineFormatter(logging.Formatter):
    """One line a record, times in UT; what needs more lines (tracebacks) is indented, so that no text can forge one."""

    converter = time.gmtime  # type: ignore[assignment]  # it is never called without a time
    default_msec_format = "%s.%03d"

    def __init__(self, layout: str = SERVER_LINE) -> None:
        super().__init__(layout)

    def format(self, record: logging.LogRecord) -> str:
        """Logging's hook."""
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
    """Writes lines to a file descriptor, and never waits for it.

    A line is written at once, in the thread that logs it, so that it is there whatever happens next. What a full
    pipe, socket or terminal does not take waits for it, up to `most` bytes, and a thread of its own writes it then;
    what does not fit there is dropped and counted, and the count is written in its place. At exit, and in
    `flush`, the reader has a second. `encoding` is what characters are written in.
    """

    def __init__(self, descriptor: int, *, encoding: str = "utf-8", most: int = _MOST_WAITING) -> None:
        super().__init__()
        self._encoding = encoding
        self._most = most
        self._sink = _Sink(descriptor)
        # Lines that wait, each with how many are lost if it is.
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._size = 0
        self._dropped = 0
        self._dropping = False
        self._writing = False
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        """Logging's hook."""
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
            line = self._line(_record(logging.WARNING, _GAP, gap)) + line
        self._waiting.append((line, gap + 1))
        self._size += len(line)
        if self._thread is None and not self._write():
            self._thread = threading.Thread(target=self._write_when_it_can_be, name="discos-log", daemon=True)
            self._thread.start()

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001  # whatever a foreign __str__ raises; logging would print its traceback
            text = self.format(_record(logging.ERROR, "what %s logs cannot be printed: %r", record.name, record.msg))
        return f"{text}\n".encode(self._encoding, "backslashreplace")

    def _begin_anew(self) -> None:
        """In a process that was forked: what waited is the parent's, and so is the thread."""
        self._waiting.clear()
        self._size = self._dropped = 0
        self._dropping = self._writing = False
        self._thread = None
        self._process = os.getpid()

    def _write(self) -> bool:
        """Write what waits; whether nothing does any more, or somebody else is at it."""
        if self._writing:
            # A signal handler that logs has interrupted this very function, which will write its line too.
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
                    # Nobody reads any more, or the disk is full: the next line may have more luck.
                    written = len(line)
                    self._dropped += lost
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
        """Write what waits, if its reader takes it within a second."""
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
        """Logging's hook: there will be no more lines."""
        super().close()
        self._sink.close()


def _record(level: int, text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(logger.name, level, __file__, 0, text, args, None)


class _Sink:
    """A file descriptor that is written to without waiting: BlockingIOError when it takes nothing now.

    Its flags are not touched: other processes share them, a shell for one.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._own: int | None = None
        self._socket: socket.socket | None = None
        self.write: Callable[[bytes], int] = self._write_if_ready
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            # systemd's journal.
            self._socket = socket.socket(fileno=os.dup(descriptor))
            self.write = partial(self._send, self._socket)
        elif stat.S_ISREG(mode):
            self.write = partial(os.write, descriptor)
        else:
            try:
                # The same pipe or terminal, opened once more, has flags of its own.
                self._own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError:
                # Another system than Linux, or a terminal of another user.
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
        """Wait until it may take something, or has failed; whether that is so."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        """Close what was opened for it."""
        if self._own is not None:
            os.close(self._own)
            self._own = None
        if self._socket is not None:
            self._socket.close()
        self.write = self._write_if_ready


def log_to_stderr(level: str | int, layout: str = SERVER_LINE) -> None:
    """Have what is logged in this process written to standard error; the first call counts."""
    handler = _handler_of(sys.stderr)
    handler.setFormatter(LineFormatter(layout))
    logging.basicConfig(level=level, handlers=[handler])


def _handler_of(stream: TextIO | None) -> logging.Handler:
    if stream is None:
        # The program was started without one.
        return logging.NullHandler()
    try:
        return LogWriter(stream.fileno(), encoding=stream.encoding or "utf-8")
    except (OSError, ValueError):
        # Not a file: a test has put something else in its place.
        return logging.StreamHandler(stream)


def log_what_python_prints() -> None:
    """Have warnings, and exceptions that nobody catches, logged instead of printed.

    Printing would wait for whoever reads standard error.
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
