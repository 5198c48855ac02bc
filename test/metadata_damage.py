"""Ways to damage a metadata file: about 1800 for a small one, the same ones in every run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from io import BytesIO

from astropy.io import fits

__all__ = ["damaged_files"]

BLOCK, CARD = 2880, 80

# In place of the value of a card. The keywords of the structure get all of them, other cards some.
_VALUES = (
    "999999999",
    "-1",
    "0",
    "1",
    "7",
    "'text'",
    "1.5",
    "T",
    "",
    "9" * 60,
    "'1D'",
    "'999999999D'",
    "'PD(9)'",
    "1E999",
)
_STRUCTURE = ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "PCOUNT", "GCOUNT", "TFIELDS", "EXTNAME", "TFORM", "END")
# In place of a whole card.
_CARDS = (
    *("TSCAL1  = 0", "TZERO1  = 1E300", "TNULL1  = 'a'", "TDIM1   = '(9,9)'", "TDIM10  = '(999999999,999999999)'"),
    *(
        "TFORM1  = 'QQ'",
        "TFORM1  = '0D'",
        "TFIELDS = 12",
        "TFIELDS = 14",
        "NAXIS   = 999999999",
        "NAXIS3  = 1",
        "PCOUNT  = 8",
    ),
    *("THEAP   = -1", "ZIMAGE  = T", "GROUPS  = T", "CONTINUE  'more'", "INHERIT = T", "END", "END     x", "\xff" * 80),
    *(
        "HIERARCH",
        "HIERARCH = 1",
        "HIERARCH Integration = 'forty'",
        "lower   = 1",
        "\0" * 80,
        "= = =",
        "TTYPE1  = time",
    ),
    *("NAXIS=   999999999", " TFIELDS= 999999999", "HIERARCH TFIELDS = 999999999", "naxis   = 999999999"),
    *("TFORM1  = 'D", "TDISP1  = 'Q9'", "TUNIT1  = 'furlong'", "TTYPE2  = 'time'", "BLANK   = 1", "EXTVER  = 'a'"),
)


def damaged_files(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield damaged copies of a FITS file, each with a description of its damage."""
    dice = random.Random(14)
    headers = _headers(whole)
    cards = [place for first, end in headers for place in range(first, end, CARD) if whole[place : place + 8].strip()]
    for place in cards:
        keyword = whole[place : place + 8].decode("ascii").strip()
        for value in dice.sample(_VALUES, 7 if keyword.startswith(_STRUCTURE) else 1):
            yield f"{keyword} at {place}: value {value}", _card(whole, place, f"{keyword:8}= {value}")
        yield f"{keyword} at {place}: left out", _card(whole, place, "")
        for card in dice.sample(_CARDS, 1):
            yield f"{keyword} at {place}: {card!r}", _card(whole, place, card)
        offset, byte = dice.randrange(30), dice.randrange(256)
        yield f"{keyword} at {place}: byte {offset} is {byte}", _with(whole, place + offset, bytes([byte]))
    for first, _ in headers:
        for card in _CARDS:
            # Behind the mandatory cards, one that the file lacked.
            more = whole[: first + 8 * CARD] + card.ljust(CARD)[:CARD].encode("latin-1") + whole[first + 8 * CARD :]
            end = first + BLOCK * -(-(more.index(b"END     ", first) + CARD - first) // BLOCK)
            yield f"header at {first}: {card!r} added", more[:end] + more[end + CARD :]
    for place in range(0, len(whole), BLOCK):
        yield f"block at {place}: left out", whole[:place] + whole[place + BLOCK :]
        yield f"block at {place}: twice", whole[:place] + whole[place : place + BLOCK] + whole[place:]
        for filling in (b"\0", b" ", b"\xff"):
            yield f"block at {place}: filled with {filling!r}", _with(whole, place, filling * BLOCK)
        yield f"cut off at {place}", whole[:place]
    for _ in range(60):
        length = dice.randrange(len(whole))
        yield f"cut off at {length}", whole[:length]
    for _ in range(100):
        place = dice.randrange(len(whole))
        yield (
            f"random bytes at {place}",
            _with(whole, place, dice.randbytes(min(dice.randrange(1, 9), len(whole) - place))),
        )
    yield "with text behind", whole + b"text"
    yield "with a block of text behind", whole + b"text" * (BLOCK // 4)
    yield "with a block of zeros behind", whole + bytes(BLOCK)


def _headers(whole: bytes) -> list[tuple[int, int]]:
    """Begin and end of each header."""
    with fits.open(BytesIO(whole), memmap=False) as hdus:
        return [(info["hdrLoc"], info["datLoc"]) for info in (hdu.fileinfo() for hdu in hdus)]


def _card(whole: bytes, place: int, text: str) -> bytes:
    return _with(whole, place, text.ljust(CARD)[:CARD].encode("latin-1"))


def _with(whole: bytes, place: int, new: bytes) -> bytes:
    return whole[:place] + new + whole[place + len(new) :]
