"""A program in a pseudo-terminal, and the screen that its user sees."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

from .serving import environment
from .settings import PATIENCE

__all__ = ["Terminal"]

_CONTROL = re.compile(
    rb"\x1b\[(?P<parameters>[?>=]?[0-9;]*)(?P<end>[@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][A-Z0-9]|\x1b[=>78]"
)
_INCOMPLETE = re.compile(rb"\x1b(?:\[[?>=]?[0-9;]*|\][^\x07\x1b]*|[()])?\Z")

# The terminal of the process becomes its controlling terminal, so that Ctrl-C reaches it.
_BEGIN = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "


class Terminal:
    """A Python program whose terminal has 100 columns and 40 rows."""

    def __init__(self, code: str, *arguments: str, home: Path, **variables: str) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (40, 100))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN + code, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**environment(), "TERM": "xterm", "XDG_STATE_HOME": str(home), **variables},
        )
        os.close(slave)
        self.raw = b""
        """All that the program has written."""
        self._rest = b""
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0

    @property
    def screen(self) -> str:
        """What the user sees, without blanks at the ends of lines."""
        return "\n".join("".join(row).rstrip() for row in self._rows).rstrip()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, condition: str | Callable[[str], bool]) -> str:
        """Wait until the screen ends in this text, or until it fulfils the condition. Return the screen."""
        fulfilled = (lambda screen: screen.endswith(condition)) if isinstance(condition, str) else condition
        end = time.monotonic() + PATIENCE
        while not fulfilled(self.screen):
            if not self._read(end - time.monotonic()):
                raise AssertionError(f"no {condition!r}: the screen is\n{self.screen}")
        return self.screen

    def end(self) -> int:
        """Wait for the end of the program. Return its exit status."""
        while self._read(PATIENCE):
            pass
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        os.close(self._master)

    def _read(self, seconds: float) -> bool:
        """Show what the program writes next. Return False if it has ended, or writes nothing in time."""
        if not select.select([self._master], [], [], max(seconds, 0))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            # The program has ended.
            return False
        self.raw += data
        self._show(self._rest + data)
        return bool(data)

    def _show(self, data: bytes) -> None:
        cut = _INCOMPLETE.search(data)
        self._rest = data[cut.start() :] if cut else b""
        data = data[: cut.start()] if cut else data
        position = 0
        for found in _CONTROL.finditer(data):
            self._write(data[position : found.start()])
            position = found.end()
            if found["end"]:
                self._obey(found["end"].decode(), found["parameters"].decode())
        self._write(data[position:])

    def _write(self, data: bytes) -> None:
        for character in data.decode(errors="replace"):
            if character == "\r":
                self._column = 0
            elif character == "\n":
                self._row += 1
            elif character == "\b":
                self._column = max(self._column - 1, 0)
            elif character.isprintable():
                self._put(character)

    def _put(self, character: str) -> None:
        while len(self._rows) <= self._row:
            self._rows.append([])
        row = self._rows[self._row]
        row += " " * (self._column + 1 - len(row))
        row[self._column] = character
        self._column += 1

    def _obey(self, end: str, parameters: str) -> None:
        numbers = [int(number or 0) for number in parameters.lstrip("?>=").split(";")]
        count = max(numbers[0], 1)
        match end:
            case "A":
                self._row = max(self._row - count, 0)
            case "B":
                self._row += count
            case "C":
                self._column += count
            case "D":
                self._column = max(self._column - count, 0)
            case "G":
                self._column = count - 1
            case "K":
                if self._row < len(self._rows):
                    del self._rows[self._row][self._column :]
            case "J":
                if self._row < len(self._rows):
                    del self._rows[self._row][self._column :]
                    del self._rows[self._row + 1 :]
            case "n" if numbers[0] == 6:
                os.write(self._master, f"\x1b[{self._row % 40 + 1};{self._column + 1}R".encode())
