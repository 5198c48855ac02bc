"""The lines of a flight recorder: one line of JSON for each exchange, and for each connection that opens or closes.

    {"t": "<Unix seconds>", "c": <connection>, "peer": "...", "q": "<request>", "a": "<reply>" or null, "s": <seconds>}
    {"t": "<Unix seconds>", "c": <connection>, "peer": "...", "event": "open" or "close"}

Unix seconds are texts with 7 decimals, and so exact. The seconds that a reply took have 7 decimals, too. The bytes of
requests and replies are decoded as latin-1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import repeat
from json.encoder import encode_basestring_ascii as quoted

import numpy as np
from numpy.typing import NDArray

from discosbackend.exchanges import ConnectionEvent, Exchange, Reads
from discosbackend.ticks import TICKS_PER_SECOND

__all__ = ["line_of", "lines_of"]

# The bytes that JSON contains as they are.
_PLAIN = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))

_TICKS = float(TICKS_PER_SECOND)

# The lines of fewer reads than this are made one by one. For them, the first calls of numpy after a pause take longer.
_MANY = 100

# A decimal point and 7 decimals are two of these pieces of 4 bytes. As numbers they are copied faster than as texts.
_FIRST_DECIMALS = np.array([f".{number:03}" for number in range(1000)], "S4").view(np.uint32)
_LAST_DECIMALS = np.array([f"{number:04}" for number in range(10000)], "S4").view(np.uint32)


def line_of(event: Exchange | ConnectionEvent) -> bytes:
    """Return the line of an exchange or of a connection, with its end."""
    return lines_of((event,))


def lines_of(events: Sequence[Exchange | ConnectionEvent]) -> bytes:
    """Return the lines of exchanges and of connections, with their ends."""
    if isinstance(events, Reads) and len(events) >= _MANY:
        return _lines_of_reads(events)
    lines = []
    middle = ""
    last_number, last_request = 0, b""
    for event in events:
        if not isinstance(event, Exchange):
            number, peer, time, what = event
            lines.append(
                f'{{"t": "{time.unix_text()}", "c": {number}, "peer": {quoted(peer)}, "event": {quoted(what)}}}\n'
            )
            continue
        number, peer, begin, request, _, reply, _, _, seconds = event
        if number != last_number or request != last_request or not middle:
            # Most clients repeat one request. This part of the line is then made once.
            last_number, last_request = number, request
            middle = f'"c": {number}, "peer": {quoted(peer)}, "q": {quoted(request.decode("latin-1"))}'
        answer = "null" if reply is None else quoted(reply.decode("latin-1"))
        whole, decimals = divmod(int(seconds * TICKS_PER_SECOND + 0.5), TICKS_PER_SECOND)
        lines.append(f'{{"t": "{begin.unix_text()}", {middle}, "a": {answer}, "s": {whole}.{decimals:07}}}\n')
    return "".join(lines).encode("ascii")


def _lines_of_reads(reads: Reads) -> bytes:
    """Return the lines of reads.

    Python needs 0.1 us to format a number, so numpy does it for all reads together.
    """
    count = len(reads)
    second = reads.begin(0) // TICKS_PER_SECOND
    # The first row has the times at which the reads began, since `second`. The second row has how long they took. They
    # are packed first, because numpy needs twice as long for a list.
    times = np.frombuffer(struct.pack(f"{2 * count}d", *reads.begun, *reads.seconds)).reshape(2, count)
    ticks = times * _TICKS
    ticks[1] += 0.5
    whole = ticks.astype(np.int64)
    whole[0] += reads.origin - second * TICKS_PER_SECOND
    middles = _middles(reads)
    replies = b"\n".join(reads.replies) + b"\n"
    plain = replies.translate(None, _PLAIN) == b"\n" * count
    if plain and isinstance(middles, bytes) and whole.min() >= 0 and whole.max() < TICKS_PER_SECOND:
        answers = _rows(replies, count)
        if answers is not None:
            # All lines have the same length.
            begun, taken = _decimals(whole)
            return _beside(b'{"t": "%d' % second, begun, middles, answers, b'", "s": 0', taken, b"}\n").tobytes()
    pieces = [b"}\n"] * (7 * count)
    pieces[0::7], pieces[1::7] = _seconds(b'{"t": "%d', whole[0], second)
    pieces[2::7] = repeat(middles, count) if isinstance(middles, bytes) else middles
    pieces[3::7] = reads.replies if plain else map(_escaped, reads.replies)
    pieces[4::7], pieces[5::7] = _seconds(b'", "s": %d', whole[1])
    return b"".join(pieces)


def _seconds(text: bytes, ticks: NDArray[np.int64], first: int = 0) -> tuple[Iterable[bytes], Iterable[bytes]]:
    """Return a text with the seconds of each of these times, which begin with the second `first`, and its decimals."""
    seconds = ticks // TICKS_PER_SECOND
    decimals = _decimals(ticks - seconds * TICKS_PER_SECOND)
    texts = [text % (first + each) for each in seconds.tolist()] if seconds.any() else repeat(text % first, len(ticks))
    return texts, decimals.view("S8").ravel().tolist()


def _decimals(ticks: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return 8 bytes for each of these parts of a second, in ticks: a decimal point and 7 decimals."""
    first = ticks // 10000
    pieces = np.empty((*ticks.shape, 2), np.uint32)
    pieces[..., 0] = _FIRST_DECIMALS[first]
    pieces[..., 1] = _LAST_DECIMALS[ticks - first * 10000]
    return pieces.view(np.uint8)


def _rows(lines: bytes, count: int) -> NDArray[np.uint8] | None:
    """Return so many lines as rows of bytes, without their ends; None if their lengths differ."""
    length = lines.index(b"\n") + 1
    if len(lines) != count * length or lines[length - 1 :: length] != b"\n" * count:
        return None
    return np.frombuffer(lines, np.uint8).reshape(count, length)[:, :-1]


def _beside(*parts: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return rows of bytes. Each row consists of the rows of the parts; a part that is no array is in every row."""
    row, places = b"", []
    for part in parts:
        if isinstance(part, bytes):
            row += part
        else:
            places.append((slice(len(row), len(row) + part.shape[1]), part))
            row += bytes(part.shape[1])
    rows = np.empty((len(places[0][1]), len(row)), np.uint8)
    rows[:] = np.frombuffer(row, np.uint8)
    for columns, part in places:
        rows[:, columns] = part
    return rows


def _escaped(text: bytes) -> bytes:
    """Return a text as JSON contains it, without its quotes."""
    return quoted(text.decode("latin-1"))[1:-1].encode("ascii")


def _middles(reads: Reads) -> bytes | list[bytes]:
    """Return what the line of each read has between its time and its reply, or one that they all have."""
    request = reads.requests[0]
    if reads.requests.count(request) < len(reads):
        keys = list(zip(reads.connections, reads.requests, reads.peers, strict=True))
        of_keys = {key: _middle(key) for key in set(keys)}
        return [of_keys[key] for key in keys]
    # Most clients repeat one request, so only their numbers differ.
    of_numbers = {number: _middle((number, request, reads.peers[index])) for number, index in reads.latest.items()}
    if len(of_numbers) == 1:
        return of_numbers[reads.connections[0]]
    return list(map(of_numbers.__getitem__, reads.connections))


@lru_cache(200)
def _middle(key: tuple[int, bytes, str]) -> bytes:
    """Return what the line of a read has between its time and its reply.

    Parameters
    ----------
    key
        The number of the connection, the request and the peer.
    """
    number, request, peer = key
    request_text = quoted(request.decode("latin-1"))
    return f'", "c": {number}, "peer": {quoted(peer)}, "q": {request_text}, "a": "'.encode("ascii")
