"""Tests of cache: it returns what the function returns, and its memory is bounded."""

from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from discosbackend.cache import Cache


class CacheTests(unittest.TestCase):
    def setUp(self) -> None:
        self.asked: list[str] = []

    def upper(self, key: str) -> str:
        self.asked.append(key)
        if key == "bad":
            raise ValueError(key)
        return key.upper()

    @given(st.lists(st.text("ab", max_size=3) | st.text(max_size=80), max_size=30))
    def test_it_returns_what_the_function_returns(self, keys: list[str]) -> None:
        cache = Cache(str.upper)
        self.assertEqual([cache[key] for key in keys], [key.upper() for key in keys])

    def test_a_short_key_is_computed_once(self) -> None:
        cache = Cache(self.upper)
        for key in ("a" * 64, "b" * 65):
            self.assertEqual([cache[key], cache[key]], [key.upper()] * 2)
        self.assertEqual(self.asked, ["a" * 64, "b" * 65, "b" * 65])

    def test_many_keys_do_not_fill_the_memory(self) -> None:
        cache = Cache(str.upper)
        for number in range(1000):
            self.assertEqual(cache[f"x{number}"], f"X{number}")
            self.assertLessEqual(len(cache), 256)

    def test_an_exception_is_raised_each_time(self) -> None:
        cache = Cache(self.upper)
        self.assertRaises(ValueError, cache.__getitem__, "bad")
        self.assertRaises(ValueError, cache.__getitem__, "bad")
        self.assertNotIn("bad", cache)
