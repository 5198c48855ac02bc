"""The structure of a FITS file: its headers, and where the data of each header are.

A metadata file may be damaged, or made by an attacker. This module compares every size in its headers with the size of
the file, before any other code allocates memory for what the headers describe. The names of the regular expressions are
those of the FITS standard, version 4.0, chapter 4 and table 18.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from discosbackend.simulator.errors import MetadataError

__all__ = ["BLOCK", "MOST_COLUMNS", "Card", "Column", "Hdu", "Header", "columns_of", "read_structure", "shown"]

BLOCK = 2880
"""The size of a block of a FITS file in bytes."""

_CARD = 80

# Bytes of all headers together. Those of DISCOS have some 30 kB.
_LONGEST_HEADERS = 4 * 2**20

# Bytes of the cards of one value.
_LONGEST_VALUE = 500 * _CARD

# The largest values that the standard permits.
_MOST_AXES = 999
_MOST_DIGITS = 18

MOST_COLUMNS = 999
"""The largest number of columns of a table that the standard permits."""

_STRING = re.compile(r" *'((?:[^']|'')*)' *(/.*)?")
_INTEGER = re.compile(r" *([+-]?[0-9]+) *(/.*)?")
_REAL = re.compile(r" *([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[ED][+-]?[0-9]+)?) *(/.*)?")
_HIERARCH = re.compile(r"HIERARCH +([^=]*[^= ]) *=(.*)", re.DOTALL)
_TFORM = re.compile(r" *([0-9]{0,9})([LXBIJKAEDCMPQ])")

# The keywords that describe the sizes in a file, and the names of its tables.
_STRUCTURE = re.compile(r"SIMPLE|XTENSION|BITPIX|NAXIS[0-9]*|[PG]COUNT|GROUPS|TFIELDS|TFORM[0-9]+|THEAP|EXTNAME|ZIMAGE")

# The bytes of a value by format letter. Eight bits (X) are a byte.
_WIDTHS = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}

_BITPIX = {8, 16, 32, 64, -32, -64}
_BINARY_TABLES = {"BINTABLE", "A3DTABLE"}


@dataclass(frozen=True, slots=True)
class Card:
    """A card of a header: its keyword in capital letters, and its bytes with those of CONTINUE cards behind it."""

    keyword: str
    image: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """A header: its cards in their order, without END, and a name for messages."""

    cards: list[Card]
    name: str = "a header"
    _first: dict[str, Card] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for card in self.cards:
            self._first.setdefault(card.keyword, card)

    def __contains__(self, keyword: object) -> bool:
        return str(keyword).upper() in self._first

    def integer(self, keyword: str, default: int | None = None, *, least: int = 0, most: int | None = None) -> int:
        """Return an integer. Raise MetadataError if it is missing and has no default, or if it is out of its range."""
        if keyword not in self and default is not None:
            return default
        found = _INTEGER.fullmatch(self._value(keyword))
        if found is None:
            raise MetadataError(f"is damaged: {keyword} of {self.name} is no integer")
        digits = found[1].lstrip("+-0")
        value = int(found[1]) if len(digits) <= _MOST_DIGITS else math.inf
        if not least <= value <= (value if most is None else most) < math.inf:
            raise MetadataError(f"is damaged: {keyword} of {self.name} is {found[1][:_MOST_DIGITS]}")
        return int(value)

    def number(self, keyword: str, default: float) -> float:
        """Return a finite number."""
        if keyword not in self:
            return default
        found = _REAL.fullmatch(self._value(keyword))
        if found is None or not math.isfinite(value := float(found[1].replace("D", "E"))):
            raise MetadataError(f"is damaged: {keyword} of {self.name} is no number")
        return value

    def text(self, keyword: str, default: str | None = None) -> str:
        """Return a string without the blanks at its end, which have no meaning."""
        if keyword not in self and default is not None:
            return default
        found = _STRING.fullmatch(self._value(keyword))
        if found is None:
            raise MetadataError(f"is damaged: {keyword} of {self.name} is no text")
        return found[1].replace("''", "'").rstrip()

    def _value(self, keyword: str) -> str:
        """Return the value of a card with its comment; strings continued by CONTINUE cards are joined."""
        card = self._first.get(keyword.upper())
        if card is None:
            raise MetadataError(f"is damaged: {self.name} has no {keyword}")
        first, *more = (
            card.image[place : place + _CARD].decode("latin-1") for place in range(0, len(card.image), _CARD)
        )
        hierarch = _HIERARCH.fullmatch(first)
        value = hierarch[2] if hierarch else first[10:] if first[8:9] == "=" else ""
        for line in more:
            joined, next_part = _STRING.match(value), _STRING.match(line[8:])
            if joined is None or next_part is None:
                break
            value = f"'{joined[1].rstrip().removesuffix('&')}{next_part[1]}'"
        return value


@dataclass(frozen=True, slots=True)
class Hdu:
    """A header and its data: where the header begins, and where the data and their last block end."""

    header: Header
    begin: int
    data: int
    end: int

    @property
    def name(self) -> str:
        """The name in capital letters."""
        return self.header.name

    @property
    def is_table(self) -> bool:
        """Whether this is a binary table."""
        return "XTENSION" in self.header and self.header.text("XTENSION") in _BINARY_TABLES


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a binary table: number from 1, name, values per row, format letter, and offset in a row in bytes."""

    number: int
    name: str
    repeat: int
    letter: str
    offset: int

    @property
    def width(self) -> int:
        """Bytes in a row."""
        return -(-self.repeat // 8) if self.letter == "X" else self.repeat * _WIDTHS[self.letter]


def read_structure(raw: bytes) -> list[Hdu]:
    """Find all headers and data of a file, and check that every size fits into the file.

    Raises
    ------
    MetadataError
        If the file is cut off or damaged.
    """
    hdus: list[Hdu] = []
    place = lengths = 0
    while raw[place : place + 8] == b"XTENSION" if hdus else True:
        cards, data = _read_cards(raw, place, _LONGEST_HEADERS - lengths)
        lengths += data - place
        header = Header(cards, _name(Header(cards), len(hdus)))
        _check_keywords(header)
        size = _data_size(header, extension=bool(hdus))
        end = data + size + -size % BLOCK
        if end > len(raw):
            raise MetadataError(f"is cut off in {header.name}")
        hdu = Hdu(header, place, data, end)
        if "TFIELDS" in header and size == 0 and header.integer("NAXIS2", 0) > 0:
            # The size of the file bounds the number of rows only if rows have bytes.
            raise MetadataError(f"is damaged: rows of {header.name} have no bytes")
        if hdu.is_table:
            columns_of(hdu)
        elif "TFIELDS" in header:
            # A table of text.
            header.integer("TFIELDS", most=MOST_COLUMNS)
        hdus.append(hdu)
        place = end
    if raw[place:].strip(b"\0 "):
        raise MetadataError(f"is damaged: no header begins behind {hdus[-1].name}")
    return hdus


def _read_cards(raw: bytes, begin: int, longest: int) -> tuple[list[Card], int]:
    """Return the cards of the header at `begin`, and where its data begin."""
    cards: list[Card] = []
    for place in range(begin, min(len(raw), begin + longest), _CARD):
        image = raw[place : place + _CARD]
        keyword = _keyword(image.decode("latin-1"))
        if keyword == "END" and not image[8:].strip():
            end = place + _CARD
            return cards, end + (begin - end) % BLOCK
        if keyword == "CONTINUE" and cards:
            if len(cards[-1].image) >= _LONGEST_VALUE:
                # Joining them takes a time that grows with the square of their number.
                raise MetadataError(f"is damaged: a value has more than {_LONGEST_VALUE // _CARD} cards")
            cards[-1] = Card(cards[-1].keyword, cards[-1].image + image)
        else:
            cards.append(Card(keyword, image))
    if len(raw) > begin + longest:
        raise MetadataError(f"has headers of more than {_LONGEST_HEADERS // 2**20} MB")
    raise MetadataError("is cut off in a header")


def _keyword(text: str) -> str:
    """Return the keyword of a card in capital letters, even if the card does not follow the standard."""
    if hierarch := _HIERARCH.match(text):
        return hierarch[1].strip().upper()
    # Some readers accept a keyword that is not padded with blanks to eight characters.
    place = text.find("= ") if text[8:10] != "= " else 8
    return text[: place if 0 <= place < 8 else 8].strip().upper()


def _check_keywords(header: Header) -> None:
    """Check that no keyword of the structure is used twice: some readers use the first card, others the last."""
    seen = set()
    for keyword in (card.keyword for card in header.cards if _STRUCTURE.fullmatch(card.keyword)):
        if keyword in seen:
            raise MetadataError(f"is damaged: {header.name} has more than one {keyword}")
        seen.add(keyword)


def _name(header: Header, number: int) -> str:
    if number == 0:
        return "PRIMARY"
    return shown(header.text("EXTNAME", "").upper().strip()) or f"table {number}"


def _data_size(header: Header, *, extension: bool) -> int:
    """Return the size in bytes of the data that follow a header, without the padding of the last block."""
    if (bits := header.integer("BITPIX", least=-64)) not in _BITPIX:
        raise MetadataError(f"is damaged: BITPIX of {header.name} is {bits}")
    axes = [header.integer(f"NAXIS{axis + 1}") for axis in range(header.integer("NAXIS", most=_MOST_AXES))]
    if not axes:
        return 0
    if axes[0] == 0 and "GROUPS" in header:
        axes = axes[1:]
    # Only extensions must have these two.
    parameters, groups = (
        header.integer(key, None if extension else value) for key, value in (("PCOUNT", 0), ("GCOUNT", 1))
    )
    return abs(bits) // 8 * groups * (parameters + math.prod(axes))


def columns_of(hdu: Hdu) -> list[Column]:
    """Return the columns of a binary table.

    Raises
    ------
    MetadataError
        If they do not agree with the length of its rows.
    """
    header = hdu.header
    for keyword, wanted in (("BITPIX", 8), ("NAXIS", 2), ("GCOUNT", 1)):
        header.integer(keyword, wanted, least=wanted, most=wanted)
    columns = list(_columns(header, header.integer("TFIELDS", most=MOST_COLUMNS)))
    width, described = header.integer("NAXIS1"), sum(column.width for column in columns)
    if width != described:
        raise MetadataError(f"is damaged: rows of {hdu.name} have {width} bytes and their columns {described}")
    return columns


def _columns(header: Header, count: int) -> Iterator[Column]:
    offset = 0
    for number in range(1, count + 1):
        found = _TFORM.match(header.text(f"TFORM{number}"))
        if found is None:
            raise MetadataError(f"is damaged: TFORM{number} of {header.name} is no format")
        name = header.text(f"TTYPE{number}").strip()
        column = Column(number, name, int(found[1] or 1), found[2], offset)
        offset += column.width
        yield column


def shown(text: str, longest: int = 40) -> str:
    """Return a text of a file for messages and the log: printable, shortened, with `,`, `!` and `'` replaced."""
    printable = "".join(letter if " " <= letter <= "~" else "?" for letter in text)[:longest]
    return printable.translate({ord(","): ";", ord("!"): ".", ord("'"): '"'})
