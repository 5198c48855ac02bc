"""The HTML of the page, filled on the server."""

from __future__ import annotations

import itertools
import re
import unittest
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

from discosbackend.monitor.page_template import FORMATS, PageTemplate, text_of

STATIC = files("discosbackend.monitor").joinpath("static")
NOW = 1795999999.5


def fill(html: str, document: Any, now: float = NOW) -> str:
    return "".join(PageTemplate(html).fill(document, now))


class BindingTests(unittest.TestCase):
    def test_a_text(self) -> None:
        html = '<p><b data-text="a.b"></b> and <i data-text="a.c|integer"></i></p>'
        found = fill(html, {"a": {"b": "<script>alert('&')</script>", "c": 12345}})
        expected = (
            '<p><b data-text="a.b">&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;</b> and '
            '<i data-text="a.c|integer">12\u202f345</i></p>'
        )
        self.assertEqual(found, expected)

    def test_a_missing_value_is_a_dash(self) -> None:
        html = '<b data-text="a.b"></b>'
        documents: list[Any] = [{}, {"a": None}, {"a": {}}, {"a": {"b": None}}, {"a": 3}]
        for document in documents:
            self.assertEqual(fill(html, document), '<b data-text="a.b">–</b>')

    def test_what_is_shown(self) -> None:
        value: Any
        for value in (None, False, 0, "", []):
            self.assertEqual(fill('<p data-show="a">x</p>', {"a": value}), '<p data-show="a" hidden>x</p>')
            self.assertEqual(fill('<p data-show="!a">x</p>', {"a": value}), '<p data-show="!a">x</p>')
        for value in (True, 1, "x", [0], {"b": 1}):
            self.assertEqual(fill('<p data-show="a">x</p>', {"a": value}), '<p data-show="a">x</p>')
            self.assertEqual(fill('<p data-show="!a">x</p>', {"a": value}), '<p data-show="!a" hidden>x</p>')

    def test_a_state(self) -> None:
        for value, word in (
            ("nominal", "nominal"), (None, "unknown"), (True, "true"), ("ADC 3", "other"), ('" x="', "other"),
        ):  # fmt: skip
            found = fill('<b data-is="a"></b>', {"a": value})
            self.assertEqual(found, f'<b data-is="a" data-state="{word}"></b>')

    def test_a_list_keeps_its_template_for_the_browser(self) -> None:
        html = '<ul data-each="a"><template><li data-text="."></li></template></ul><p data-text="b"></p>'
        template = '<ul data-each="a"><template><li data-text="."></li></template>'
        rows = '<li data-text=".">1</li><li data-text=".">&lt;2</li>'
        self.assertEqual(fill(html, {"a": [1, "<2"], "b": 3}), f'{template}{rows}</ul><p data-text="b">3</p>')
        self.assertEqual(fill(html, {"a": None, "b": 3}), f'{template}</ul><p data-text="b">3</p>')

    def test_a_list_in_a_list(self) -> None:
        inner = '<ol data-each="b"><template><li data-text="c"></li></template></ol>'
        html = f'<ul data-each="a"><template><li data-show="b">{inner}</li></template></ul>'
        found = fill(html, {"a": [{"b": [{"c": 1}, {"c": 2}]}, {"b": []}]})
        self.assertTrue(found.startswith(html.removesuffix("</ul>")))
        rows = found.removeprefix(html.removesuffix("</ul>"))
        filled = inner.replace("</ol>", '<li data-text="c">1</li><li data-text="c">2</li></ol>')
        self.assertEqual(rows, f'<li data-show="b">{filled}</li><li data-show="b" hidden>{inner}</li></ul>')

    def test_a_line(self) -> None:
        html = '<polyline data-points="a|zero"/>'
        for values, points in (
            ([0, 5, 10], "0.0,19.0 50.0,10.0 100.0,1.0"),
            ([5, None, 10], "0.0,10.0 100.0,1.0"),
            ([0, 0], "0.0,19.0 100.0,19.0"),
            # As a device may report that it has no value.
            ([0, 1.7e308], "0.0,19.0 100.0,1.0"),
            ([-1.7e308, 0, 1.7e308], "0.0,19.0 50.0,10.0 100.0,1.0"),
            ([0, 5e-324], "0.0,19.0 100.0,1.0"),
            ([None], ""),
            ([], ""),
            (None, ""),
        ):
            self.assertEqual(fill(html, {"a": values}), f'<polyline data-points="a|zero" points="{points}"/>')
        self.assertIn('points="0.0,19.0 100.0,1.0"', fill('<polyline data-points="a"/>', {"a": [60, 61]}))
        self.assertIn('points="0.0,10.0 100.0,10.0"', fill('<polyline data-points="a"/>', {"a": [60, 60]}))

    def test_pieces_of_a_long_list_are_short(self) -> None:
        html = '<ul data-each="a"><template><li data-text="."></li></template></ul>'
        pieces = list(PageTemplate(html).fill({"a": list(range(1000))}, NOW))
        self.assertGreater(len(pieces), 1000)
        self.assertLess(max(map(len, pieces)), 200)


class FormatTests(unittest.TestCase):
    def test_formats(self) -> None:
        for form, value, text in (
            ("text", "x", "x"), ("text", True, "true"), ("text", 3, "3"),
            ("integer", 0, "0"), ("integer", 1234567, "1\u202f234\u202f567"),
            ("bytes", 999, "999 B"), ("bytes", 1000, "1.0 kB"), ("bytes", 999_949, "999.9 kB"),
            ("bytes", 999_950, "1.0 MB"), ("bytes", 812345678901, "812.3 GB"), ("bytes", 10**18, "1000.0 PB"),
            ("seconds", 0, "0 µs"), ("seconds", 0.000034, "34 µs"), ("seconds", 0.0032, "3.2 ms"),
            ("seconds", 0.25, "250 ms"), ("seconds", 4.25, "4.3 s"),
            ("seconds", 0.0003385, "339 µs"), ("seconds", 75, "1 min 15 s"),
            ("seconds", -1.2, "−1.2 s"),
            ("value", True, "yes"), ("value", False, "no"), ("value", "FFT", "FFT"), ("value", 63.2, "63.2"),
            ("value", 100, "100"), ("value", 0, "0"), ("value", 123456.7, "123457"), ("value", 0.25, "0.25"),
            ("value", 1.23456e-5, "1.235e-5"), ("value", -2.5e9, "-2.500e9"), ("value", -71.25, "-71.25"),
            ("date", 0, "1970-01-01"), ("now", NOW, "00:53:19"),
            ("clock", NOW - 60, "00:52:19"), ("clock", NOW - 86400, "2026-11-29 00:53:19"),
            ("moment", NOW, "00:53:19.500"), ("moment", NOW - 86400.4951, "2026-11-29 00:53:19.004"),
            ("moment", -1, "–"), ("moment", 1e300, "–"),
            ("clock", -1, "– –"), ("clock", 1e300, "– –"),
            ("age", NOW, "0 s"), ("age", NOW - 59.9, "59 s"), ("age", NOW - 253, "4 min 13 s"),
            ("age", NOW - 7500, "2 h 5 min"), ("age", NOW - 93784, "1 d 2 h"), ("age", NOW + 5, "0 s"),
            ("until", NOW + 12.25, "12.3 s"), ("until", NOW - 1, "0.0 s"), ("until", NOW + 75.5, "1 min 15 s"),
            ("synchronised", True, "synchronised"), ("synchronised", False, "not synchronised"),
            ("synchronised", None, "synchronisation unknown"), ("age", None, "–"),
            ("lane", True, "overdue"), ("lane", False, "running"), ("count", 0, "none"), ("count", 3, "some"),
        ):  # fmt: skip
            with self.subTest(form, value=value):
                self.assertEqual(text_of(value, form, NOW), text)


class _Attributes(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name, value or "") for name, value in attrs]


class FileTests(unittest.TestCase):
    """The files of the page themselves."""

    html = STATIC.joinpath("page.html").read_text(encoding="utf-8")
    script = STATIC.joinpath("page.js").read_text(encoding="utf-8")
    style = STATIC.joinpath("page.css").read_text(encoding="utf-8")

    def setUp(self) -> None:
        parser = _Attributes()
        parser.feed(self.html)
        self.attributes = parser.found

    def test_every_format_exists_in_python_and_in_javascript(self) -> None:
        used = {
            value.partition("|")[2] or "text" for _, name, value in self.attributes if name in ("data-text", "data-is")
        }
        self.assertEqual(used - set(FORMATS), set())
        block = self.script[self.script.index("const FORMATS") :].partition("};")[0]
        defined = set(re.findall(r"(?:^|[{,])\s*(\w+)(?=[:,])", block, re.MULTILINE))
        self.assertEqual(defined, set(FORMATS))

    def test_nothing_is_inline_and_nothing_foreign(self) -> None:
        for tag, name, value in self.attributes:
            self.assertFalse(name == "style" or name.startswith("on"), (tag, name))
            if name in ("src", "href"):
                self.assertRegex(value, r"\A/[a-z]", tag)
        self.assertNotRegex(self.html, r"<style|<script(?! src=\"/static/page\.js\" defer></script>)")
        for text in (self.html, self.script, self.style):
            self.assertNotRegex(text, "https?://|@import|url\\(")

    def test_the_script_inserts_no_html(self) -> None:
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
            self.assertNotIn(word, self.script)

    def test_every_element_that_the_script_looks_up_exists(self) -> None:
        ids = [value for _, name, value in self.attributes if name == "id"]
        self.assertEqual(len(ids), len(set(ids)))
        wanted = set(re.findall(r'\$\("(\w+)"\)', self.script))
        self.assertGreater(len(wanted), 8)
        self.assertLessEqual(wanted, set(ids))

    def test_every_label_of_a_panel_exists(self) -> None:
        ids = {value for _, name, value in self.attributes if name == "id"}
        self.assertLessEqual({value for _, name, value in self.attributes if name == "aria-labelledby"}, ids)

    def contrast(self, one: str, other: str) -> float:
        """The contrast of two colours by WCAG."""

        def luminance(colour: str) -> float:
            parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
            linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    def test_the_contrast_in_light_and_dark(self) -> None:
        blocks = re.findall(r":root \{(.*?)\}", self.style, re.DOTALL)
        self.assertEqual(len(blocks), 2)
        for block in blocks:
            colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
            texts = ("text", "quiet", "good", "attention", "bad")
            for text, ground in itertools.product(texts, ("ground", "panel")):
                self.assertGreaterEqual(self.contrast(colours[text], colours[ground]), 4.5, (text, ground))
            self.assertGreaterEqual(self.contrast(colours["bad"], colours["bad-ground"]), 4.5)


if __name__ == "__main__":
    unittest.main()
