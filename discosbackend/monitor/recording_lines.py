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
from json.encoder import encode_basestring_ascii as quoted

import numpy as np
from numpy.typing import NDArray

from discosbackend.exchanges import ConnectionEvent, Exchange, Reads
from discosbackend.ticks import TICKS_PER_SECOND

__all__ = ["line_of", "lines_of"]

# The bytes that JSON contains as they are.
_PLAIN = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))

# Reads that are not more than this are not divided further.
_FEW = 20

# A decimal point and 7 decimals are two of these pieces of 4 bytes. As numbers they are copied faster than as texts.
_FIRST_DECIMALS = np.array([f".{number:03}" for number in range(1000)], "S4").view(np.uint32)
_LAST_DECIMALS = np.array([f"{number:04}" for number in range(10000)], "S4").view(np.uint32)


def line_of(event: Exchange | ConnectionEvent) -> bytes:
    """Return the line of an exchange or of a connection, with its end."""
    return lines_of((event,))


def lines_of(events: Sequence[Exchange | ConnectionEvent]) -> bytes:
    """Return the lines of exchanges and of connections, with their ends."""
    if isinstance(events, Reads):
        if text := _lines_of_reads(events):
            return text
        if len(events) > _FEW:
            # Most of them began in the same second.
            half = len(events) // 2
            return lines_of(events[:half]) + lines_of(events[half:])
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
    """Return the lines of reads that began in the same second and took less than 1 s; b"" if there are others.

    Python needs 0.1 us to format a number, so numpy does it for all reads together.
    """
    count = len(reads)
    second = reads.begin(0) // TICKS_PER_SECOND
    # The first row has the times at which the reads began, the second row how long they took. They are packed first,
    # because numpy needs twice as long for a list.
    times = np.frombuffer(struct.pack(f"{2 * count}d", *reads.begun, *reads.seconds)).reshape(2, count)
    ticks = times * TICKS_PER_SECOND + [[reads.origin - second * TICKS_PER_SECOND], [0.5]]
    if ticks.min() < 0 or ticks.max() >= TICKS_PER_SECOND:
        return b""
    begun, taken = _decimals(ticks.astype(np.int64))
    head, tail = b'{"t": "%d' % second, b'", "s": 0'
    replies = b"\n".join(reads.replies) + b"\n"
    plain = replies.translate(None, _PLAIN) == b"\n" * count
    if plain and len(reads.latest) == 1 and reads.requests.count(reads.requests[0]) == count:
        answers = _rows(replies, count)
        if answers is not None:
            middle = _middle((reads.connections[0], reads.requests[0], reads.peers[0]))
            return _beside(head, begun, middle, answers, tail, taken, b"}\n").tobytes()
    # What is between the reply to a read and the middle of the next line. After the last read, it is cut off.
    between = _beside(tail, taken, b"}\n" + head, np.roll(begun, -1, 0))
    pieces = [head + begun[0].tobytes()] * (3 * count + 1)
    pieces[1::3] = _middles(reads)
    pieces[2::3] = reads.replies if plain else map(_escaped, reads.replies)
    pieces[3::3] = between.view(f"S{between.shape[1]}").ravel().tolist()
    return b"".join(pieces)[: -len(pieces[0])]


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


def _middles(reads: Reads) -> Iterable[bytes]:
    """Return what the line of each read has between its time and its reply."""
    request = reads.requests[0]
    if reads.requests.count(request) < len(reads):
        keys = list(zip(reads.connections, reads.requests, reads.peers, strict=True))
        of_keys = {key: _middle(key) for key in set(keys)}
        return map(of_keys.__getitem__, keys)
    # Most clients repeat one request, so only their numbers differ.
    of_numbers = {number: _middle((number, request, reads.peers[index])) for number, index in reads.latest.items()}
    return map(of_numbers.__getitem__, reads.connections)


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
