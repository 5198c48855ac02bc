"""Cache: the results of a function for the keys that were used last.

Clients repeat the same few requests, and backends the same few texts. A look-up takes much less time than the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import TypeVar

__all__ = ["Cache"]

Key = TypeVar("Key", bound=Sized)
Result = TypeVar("Result")

# A client could fill the memory with long keys, or with many.
_LONGEST = 64
_MOST = 256


class Cache(dict[Key, Result]):
    """A dict in which `cache[key]` returns what the function returns for this key.

    The results for the last keys with a length of at most 64 are kept, up to 256 of them. An exception of the function
    is raised.

    Parameters
    ----------
    function
        A function of the key whose result is always the same.
    """

    def __init__(self, function: Callable[[Key], Result]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, key: Key) -> Result:
        result = self._function(key)
        if len(key) <= _LONGEST:
            if len(self) >= _MOST:
                self.clear()
            self[key] = result
        return result
