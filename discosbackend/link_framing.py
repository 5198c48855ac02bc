"""Splits the bytes that a device sends into messages. link.py decides which message answers which question.

This module uses no Twisted and no sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

__all__ = ["Framing", "MessageSplitter", "MessageTooLong", "by_terminator", "framing_of"]

Framing: TypeAlias = "Callable[[bytes], tuple[bytes, bytes] | None]"
"""A function that finds the first message in the received bytes.

It returns the message and the bytes after it, or None if the message is not complete yet. Each time bytes arrive, it is
called with all bytes since the previous message. It gets the same bytes more than once, so it must not keep a state."""

# Each message copies the bytes after it. Splitting this many bytes at a time limits the copies, if a device sends a
# large number of short messages at once.
_SLICE = 4096


def by_terminator(terminator: bytes) -> Framing:
    """Return the Framing of messages that end with `terminator`, which is not a part of the message."""

    def split(data: bytes) -> tuple[bytes, bytes] | None:
        message, end, rest = data.partition(terminator)
        return (message, rest) if end else None

    return split


def by_prompt(prompt: bytes, terminator: bytes) -> Framing:
    """Return the Framing of messages that end with a prompt. A `terminator` right before it is removed."""

    def split(data: bytes) -> tuple[bytes, bytes] | None:
        message, end, rest = data.partition(prompt)
        return (message.removesuffix(terminator), rest) if end else None

    return split


def by_length(length: int) -> Framing:
    """Return the Framing of messages that have `length` bytes each."""

    def split(data: bytes) -> tuple[bytes, bytes] | None:
        return (data[:length], data[length:]) if len(data) >= length else None

    return split


def framing_of(
    terminator: bytes | None, prompt: bytes | None, length: int | None, framing: Framing | None
) -> tuple[bytes, Framing]:
    """Return the questions' terminator and the Framing of messages, from the arguments of a Link.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid, or if the arguments contradict each other.
    """
    for name, value in (("terminator", terminator), ("prompt", prompt)):
        if value is not None and not isinstance(value, bytes):
            raise TypeError(f"{name} must be bytes, not {value!r}")
    if sum(given is not None for given in (prompt, length, framing)) > 1:
        raise ValueError("only one of prompt, length and framing can be given")
    if framing is not None:
        if not callable(framing):
            raise TypeError(f"framing must be a function, not {framing!r}")
        return terminator or b"", framing
    if length is not None:
        if not length >= 1:
            raise ValueError(f"length must be a number of bytes above 0, not {length!r}")
        return terminator or b"", by_length(length)
    end = b"\n" if terminator is None else terminator
    if prompt is not None:
        if not prompt:
            raise ValueError("prompt must not be empty")
        return end, by_prompt(prompt, end)
    if not end:
        raise ValueError("terminator must not be empty, unless prompt, length or framing is given")
    return end, by_terminator(end)


class MessageTooLong(Exception):
    """A message is longer than the limit."""


class MessageSplitter:
    """Splits received bytes into messages, and keeps the bytes of an incomplete message.

    Parameters
    ----------
    framing
        The function that finds a message.
    limit
        The maximum length of a message in bytes, with its terminator or prompt.
    """

    def __init__(self, framing: Framing, limit: int) -> None:
        self._framing = framing
        self._limit = limit
        self.pending = b""
        """The bytes of the incomplete message."""

    def split(self, data: bytes) -> Iterator[bytes]:
        """Add `data`; yield the messages that are complete by now.

        Raises
        ------
        MessageTooLong
            If a message is longer than the limit.
        TypeError
            If the framing function returned anything but a message with the bytes after it, or None.
        """
        for begin in range(0, len(data), _SLICE):
            self.pending += data[begin : begin + _SLICE]
            while self.pending and (found := self._framing(self.pending)) is not None:
                message, rest = self._checked(found)
                length = len(self.pending) - len(rest)
                self.pending = rest
                if length > self._limit:
                    raise MessageTooLong
                yield message
            if len(self.pending) > self._limit:
                raise MessageTooLong

    def _checked(self, found: object) -> tuple[bytes, bytes]:
        if isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, bytes) for part in found):
            # A function that returns all bytes as the rest would be called forever.
            if len(found[1]) < len(self.pending):
                return found
        raise TypeError(f"framing must return (message, bytes after it) or None, not {found!r:.200}")

    def clear(self) -> None:
        """Discard the bytes of the incomplete message."""
        self.pending = b""
