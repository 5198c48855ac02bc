"""Table: a TOML table that is asked for its values one by one; each is checked when it is read.

Which keys there are, and what they mean, is in profiles. An error names the key with its full path, such as
configurations.SK77.bandwidth, and what would be right there.
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

# A key that TOML takes without quotes, and the longest value that a complaint quotes.
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN = 60

# Of a text that reaches clients or the header of a file: what is printable in ASCII, without comma and `!`.
_PLAIN = re.compile(r"[ \"-+\--~]+")

_LARGEST = sys.float_info.max


class Table:
    """One table of a file: `path` is where it stands, "" at the top; it has none but the `known` keys.

    A key that is not there is looked for in the table `behind`, and then is that one's. Every method that
    reads a value takes `default`, for a key that neither has; without it the key is needed. InstrumentError
    for whatever is wrong.
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
        """The key with its full path, in the table that has it."""
        if key not in self._values and self._behind is not None and key in self._behind:
            return self._behind.where(key)
        if not _BARE.fullmatch(key):
            key = repr(key)
        return f"{self.path}.{key}" if self.path else key

    def wrong(self, key: str, right: str) -> InstrumentError:
        """The complaint that a value should be what is right."""
        return InstrumentError(f"{self.where(key)} must be {right}, not {_shown(self.raw(key))}")

    def raw(self, key: str) -> Any:
        """A value as the file has it, None for a key that is not there."""
        if key not in self._values and self._behind is not None:
            return self._behind.raw(key)
        return self._values.get(key)

    def read(self, key: str, right: str, of: Callable[[Any], T | None], default: T | None = None) -> T:
        """What `of` makes of a value; where that is None, the complaint says what would be `right`."""
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
        """`true` or `false`."""
        return self.read(key, "true or false", _flag, default)

    def line(self, key: str, default: str | None = None, longest: int = 200) -> str:
        """One line of text for people."""
        right = f"one line of text of at most {longest} characters"
        return self.read(
            key, right, lambda value: value if _is_line(value) and len(value) <= longest else None, default
        )

    def word(self, key: str, default: str | None = None, longest: int = 64) -> str:
        """Text that reaches clients and files: one that is_word()."""
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
        """A finite number, as a float; within the limits, and above one of them if that is given."""
        right = _between("a number", above, least, most, unit)
        return self.read(key, right, lambda value: as_number(value, above, least, most), default)

    def whole(self, key: str, default: int | None = None, *, least: int, most: int, unit: str = "") -> int:
        """A whole number within the limits."""
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
        """A pair `[lowest, highest]` of numbers."""
        right = _between("a pair [lowest, highest] of numbers", above, least, most, unit)

        def of(pair: Any) -> tuple[float, float] | None:
            return _pair(pair, lambda number: as_number(number, above, least, most))

        return self.read(key, right, of, default)

    def wholes(
        self, key: str, default: tuple[int, int] | None = None, *, least: int, most: int, unit: str = ""
    ) -> tuple[int, int]:
        """A pair `[lowest, highest]` of whole numbers."""
        right = _between("a pair [lowest, highest] of whole numbers", None, least, most, unit)
        return self.read(key, right, lambda value: _pair(value, lambda n: as_whole(n, least, most)), default)

    def each(
        self, key: str, right: str, of: Callable[[Any], T | None], default: tuple[T, ...] | None = None
    ) -> tuple[T, ...]:
        """What `of` makes of each value of a list; `right` says what the list would be."""
        return self.read(key, right, lambda value: _each(value, of), default)

    # -- tables ---------------------------------------------------------------------------------------

    def table(self, key: str, known: Iterable[str]) -> Table:
        """A table in this one, empty if it is not there."""
        return Table(self._values.get(key, {}), self.where(key), known)

    def named(self, key: str, known: Iterable[str], behind: Table | None = None) -> Iterator[tuple[str, Table]]:
        """The tables `[key.NAME]`, each with its name; none if there are none."""
        values = self._values.get(key, {})
        names = Table(values, self.where(key), values if isinstance(values, dict) else ())
        for name in names:
            yield name, Table(names.raw(name), names.where(name), known, behind)

    def listed(self, key: str, known: Iterable[str]) -> Iterator[Table]:
        """The tables of a list, `[[key]]` or inline; none if there are none. Counted from 0 in complaints."""
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
    """Whether it is printable ASCII without a comma or `!`, and no blank at its ends."""
    return (
        isinstance(value, str)
        and len(value) <= longest
        and value.strip() == value
        and _PLAIN.fullmatch(value) is not None
    )


def as_number(value: Any, above: float | None = None, least: float = -math.inf, most: float = math.inf) -> float | None:
    """A finite number within the limits as a float, None for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= _LARGEST:
        return None
    return float(value) if least <= value <= most and (above is None or value > above) else None


def as_whole(value: Any, least: int, most: int) -> int | None:
    """A whole number within the limits, None for anything else."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and least <= value <= most else None


def _each(values: Any, of: Callable[[Any], T | None]) -> tuple[T, ...] | None:
    if not isinstance(values, list):
        return None
    found = [of(value) for value in values]
    # Asked twice for the sake of the type checker: neither form alone tells it that no None is left.
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
    """A value as one line that is not too long, as the file has it."""
    if isinstance(value, dict):
        return "a table"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
