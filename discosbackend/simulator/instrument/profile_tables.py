"""Table: a TOML table whose values are checked when they are read.

profiles defines the keys. An error message has the full path of the key, such as configurations.SK77.bandwidth, and
what is accepted.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from discosbackend.simulator.errors import InstrumentError
from discosbackend.toml import did_you_mean

__all__ = ["Table", "as_number", "as_whole", "is_word"]

T = TypeVar("T")

# A key that needs no quotes in TOML; and the characters of a value that an error message shows.
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN = 60

# Texts that are sent to clients or written to a file's header: printable ASCII without comma and `!`.
_PLAIN = re.compile(r"[ \"-+\--~]+")

_LARGEST = sys.float_info.max


class Table:
    """A table of a profile.

    A method that reads a value raises InstrumentError if the value is invalid, or if the key is missing and there is no
    `default`.

    Parameters
    ----------
    values
        The table as tomllib reads it.
    path
        The path of the table in the file, "" for the whole file.
    known
        The keys that the table may have.
    behind
        A table with values for keys that this one does not have.

    Raises
    ------
    InstrumentError
        If `values` is no table or has another key.
    """

    def __init__(self, values: Any, path: str, known: Iterable[str], behind: Table | None = None) -> None:
        self.path = path
        self._behind = behind
        if not isinstance(values, dict):
            raise InstrumentError(f"{path} must be a table, not {_shown(values)}")
        self._values: Mapping[str, Any] = values
        known = tuple(known)
        for key in values:
            if key not in known:
                raise InstrumentError(f"{self.where(key)} is not known{did_you_mean(key, known, listed=True)}")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def where(self, key: str) -> str:
        """Return the full path of a key, in the table that has it."""
        if key not in self._values and self._behind is not None and key in self._behind:
            return self._behind.where(key)
        if not _BARE.fullmatch(key):
            key = repr(key)
        return f"{self.path}.{key}" if self.path else key

    def wrong(self, key: str, right: str) -> InstrumentError:
        """Return the error that a value must be `right`."""
        return InstrumentError(f"{self.where(key)} must be {right}, not {_shown(self.raw(key))}")

    def raw(self, key: str) -> Any:
        """Return a value as it is in the file, None if the key is missing."""
        if key not in self._values and self._behind is not None:
            return self._behind.raw(key)
        return self._values.get(key)

    def read(self, key: str, right: str, of: Callable[[Any], T | None], default: T | None = None) -> T:
        """Convert a value with `of`. If that returns None, raise an error that says what is accepted: `right`."""
        if self.raw(key) is None:
            if default is not None:
                return default
            behind = f", there or in [{self._behind.path}]" if self._behind is not None else ""
            raise InstrumentError(f"{self.where(key)} is needed{behind}: {right}")
        found = of(self.raw(key))
        if found is None:
            raise self.wrong(key, right)
        return found

    # -- single values --------------------------------------------------------------------------------

    def flag(self, key: str, default: bool) -> bool:
        """Read `true` or `false`."""
        return self.read(key, "true or false", _flag, default)

    def line(self, key: str, default: str | None = None, longest: int = 200) -> str:
        """Read one line of text for people."""
        right = f"one line of text of at most {longest} characters"
        return self.read(
            key, right, lambda value: value if _is_line(value) and len(value) <= longest else None, default
        )

    def word(self, key: str, default: str | None = None, longest: int = 64) -> str:
        """Read a text that is sent to clients or written to files: is_word() holds for it."""
        right = f"one line of ASCII without , and ! of at most {longest} characters"
        return self.read(key, right, lambda value: value if is_word(value, longest) else None, default)

    def number(
        self,
        key: str,
        default: float | None = None,
        *,
        above: float | None = None,
        least: float = -math.inf,
        most: float = math.inf,
        unit: str = "",
    ) -> float:
        """Read a finite number from `least` to `most`, and, if `above` is given, above that."""
        right = _between("a number", above, least, most, unit)
        return self.read(key, right, lambda value: as_number(value, above, least, most), default)

    def whole(self, key: str, default: int | None = None, *, least: int, most: int, unit: str = "") -> int:
        """Read an integer from `least` to `most`."""
        right = _between("a whole number", None, least, most, unit)
        return self.read(key, right, lambda value: as_whole(value, least, most), default)

    # -- several values -------------------------------------------------------------------------------

    def numbers(
        self,
        key: str,
        default: tuple[float, float] | None = None,
        *,
        above: float | None = None,
        least: float = -math.inf,
        most: float = math.inf,
        unit: str = "",
    ) -> tuple[float, float]:
        """Read a pair `[lowest, highest]` of numbers."""
        right = _between("a pair [lowest, highest] of numbers", above, least, most, unit)

        def of(pair: Any) -> tuple[float, float] | None:
            return _pair(pair, lambda number: as_number(number, above, least, most))

        return self.read(key, right, of, default)

    def wholes(
        self, key: str, default: tuple[int, int] | None = None, *, least: int, most: int, unit: str = ""
    ) -> tuple[int, int]:
        """Read a pair `[lowest, highest]` of integers."""
        right = _between("a pair [lowest, highest] of whole numbers", None, least, most, unit)
        return self.read(key, right, lambda value: _pair(value, lambda n: as_whole(n, least, most)), default)

    def each(
        self, key: str, right: str, of: Callable[[Any], T | None], default: tuple[T, ...] | None = None
    ) -> tuple[T, ...]:
        """Read a list and convert each value with `of`; `right` describes a valid list."""
        return self.read(key, right, lambda value: _each(value, of), default)

    # -- tables ---------------------------------------------------------------------------------------

    def table(self, key: str, known: Iterable[str]) -> Table:
        """Return a subtable; an empty one if it is missing."""
        return Table(self._values.get(key, {}), self.where(key), known)

    def named(self, key: str, known: Iterable[str], behind: Table | None = None) -> Iterator[tuple[str, Table]]:
        """Yield the tables `[key.NAME]` with their names."""
        values = self._values.get(key, {})
        names = Table(values, self.where(key), values if isinstance(values, dict) else ())
        for name in names:
            yield name, Table(names.raw(name), names.where(name), known, behind)

    def listed(self, key: str, known: Iterable[str]) -> Iterator[Table]:
        """Yield the tables of a list, `[[key]]` or inline. Error messages count them from 0."""
        values = self._values.get(key, [])
        if not isinstance(values, list):
            raise self.wrong(key, f"a list of tables: write [[{self.where(key)}]] above each")
        for number, value in enumerate(values):
            yield Table(value, f"{self.where(key)}[{number}]", known)


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != "" and value.isprintable()


def is_word(value: Any, longest: int = 64) -> bool:
    """Return whether the value is printable ASCII without a comma or `!`, and without blanks at its ends."""
    return (
        isinstance(value, str)
        and len(value) <= longest
        and value.strip() == value
        and _PLAIN.fullmatch(value) is not None
    )


def as_number(value: Any, above: float | None = None, least: float = -math.inf, most: float = math.inf) -> float | None:
    """Return a finite number within the limits as a float, None for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= _LARGEST:
        return None
    return float(value) if least <= value <= most and (above is None or value > above) else None


def as_whole(value: Any, least: int, most: int) -> int | None:
    """Return an integer within the limits, None for anything else."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and least <= value <= most else None


def _each(values: Any, of: Callable[[Any], T | None]) -> tuple[T, ...] | None:
    if not isinstance(values, list):
        return None
    found = [of(value) for value in values]
    # The second test is only for the type checker, which does not conclude from the first that no None is left.
    return None if None in found else tuple(value for value in found if value is not None)


def _pair(values: Any, of: Callable[[Any], Any]) -> tuple[Any, Any] | None:
    found: tuple[Any, ...] | None = _each(values, of)
    return (found[0], found[1]) if found and len(found) == 2 and found[0] <= found[1] else None


def _between(what: str, above: float | None, least: float, most: float, unit: str) -> str:
    unit = f" {unit}" if unit else ""
    if above is not None:
        what += f" above {above:g}"
        return f"{what} to {most:.10g}{unit}" if math.isfinite(most) else f"{what}{unit}"
    if math.isfinite(most):
        return f"{what} from {least:.10g} to {most:.10g}{unit}"
    return f"{what} from {least:.10g}{unit} on" if math.isfinite(least) else what


def _shown(value: Any) -> str:
    """Format a value for an error message: one line of limited length, in the syntax of the file."""
    if isinstance(value, dict):
        return "a table"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
