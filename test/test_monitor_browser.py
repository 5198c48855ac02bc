"""The page in a browser, with a real server."""

from __future__ import annotations

import os
import re
import tempfile
import unittest
from contextlib import ExitStack
from itertools import zip_longest
from typing import Any, ClassVar

from discosbackend.monitor.page_template import FORMATS, _points, _word, text_of

from .browser import Browser, needs_browser
from .serving import Server, ask, served
from .settings import PATIENCE, wait_until
from .test_monitor_page_template import NOW

# On a busy machine a server may not run for some seconds. The page would show this as a problem for a minute.
_PATIENT = ("--watchdog", "60")

HOSTILE = b"?set-configuration,<script>document.title='owned'</script><img src=x onerror=alert(1)>"

# Records at which time each text was first shown in the table of exchanges, in Unix seconds.
WATCH = """
window.shownAt = {};
new MutationObserver(() => {
  for (const code of document.querySelectorAll(".exchanges [data-text=q]")) {
    shownAt[code.textContent] ??= Date.now() / 1000;
  }
}).observe(document.querySelector(".exchanges"), {childList: true, subtree: true, characterData: true});
"""

ROWS = "return [...document.querySelectorAll('.exchanges tbody tr')].map(row => row.innerText.replace(/\\s+/g, ' '))"


_browsers: list[Browser] = []


def shared_browser() -> Browser:
    """Return the browser of this module, which ends with the module's tests. It takes seconds to start."""

    def end() -> None:
        _browsers.pop().end()

    if not _browsers:
        _browsers.append(Browser())
        unittest.addModuleCleanup(end)
    return _browsers[0]


@needs_browser
class BrowserTests(unittest.TestCase):
    browser: ClassVar[Browser]
    running: ClassVar[Server]
    url: ClassVar[str]
    _stack: ClassVar[ExitStack]

    @classmethod
    def setUpClass(cls) -> None:
        cls._stack = ExitStack()
        cls.addClassCleanup(cls._stack.close)
        cls.browser = shared_browser()
        folder = cls._stack.enter_context(tempfile.TemporaryDirectory())
        cls.running = cls._stack.enter_context(
            served("--simulate", "sardara", "--data", folder, "--http", "0", *_PATIENT)
        )
        found = re.search(r"monitoring on (http://127\.0\.0\.1:\d+/)\n", cls.running.log())
        assert found is not None, cls.running.log()
        cls.url = found[1]

    def setUp(self) -> None:
        self.browser.problems()
        self.browser.resize(1280, 900)
        self.browser.open(self.url)
        # Until the first events.
        wait_until(
            lambda: self.browser.run("return typeof latest !== 'undefined' && latest !== null"), "the first status"
        )
        self.connection = self.running.connect()
        self.addCleanup(self.connection.close)

    def tearDown(self) -> None:
        self.assertEqual(self.browser.problems(), [])

    def run_script(self, script: str, *arguments: Any) -> Any:
        return self.browser.run(script, *arguments)

    def rows(self) -> list[str]:
        found: list[str] = self.run_script(ROWS)
        return found

    def wait_for_row(self, text: str) -> str:
        return wait_until(lambda: next((row for row in self.rows() if text in row), ""), f"a row with {text}")

    def test_a_command_of_another_client_within_a_second(self) -> None:
        self.run_script(WATCH)
        delays = []
        # The smallest of a few, because this host may be busy.
        for number in range(5):
            request = f"?set-filename,/tmp/{number}-{os.getpid()}.fits"
            begin = self.run_script("return Date.now() / 1000")
            ask(self.connection, request.encode())
            self.wait_for_row(request)
            delays.append(self.run_script("return shownAt[arguments[0]]", request) - begin)
        self.assertLess(min(delays), 1.0)
        self.assertGreater(min(delays), 0.0)

    def test_bytes_of_a_peer_are_text(self) -> None:
        ask(self.connection, HOSTILE)
        row = self.wait_for_row("<script>document.title='owned'</script>")
        self.assertIn("!set-configuration,fail,invalid configuration", row)
        self.browser.open(self.url)  # as the server has filled it
        wait_until(lambda: any("<script>" in row for row in self.rows()), "the row of a new page")
        self.assertIn("simulated sardara", self.run_script("return document.title"))
        self.assertEqual(self.run_script("return document.querySelectorAll('img, script').length"), 1)

    def test_reads_are_hidden_and_can_be_filtered(self) -> None:
        ask(self.connection, b"?set-filename,/tmp/shown.fits", b"?get-integration", b"?get-configuration")
        self.wait_for_row("/tmp/shown.fits")
        self.assertFalse([row for row in self.rows() if "?get-" in row])
        self.run_script("document.getElementById('reads').click()")
        self.wait_for_row("?get-integration")
        self.run_script(
            "const box = document.getElementById('filter'); box.value = 'GET-INTEGRATION';"
            "box.dispatchEvent(new Event('input'))"
        )
        wait_until(lambda: all("?get-integration" in row for row in self.rows()), "the filter")
        self.assertTrue(self.rows())
        self.run_script("document.getElementById('hold').click()")
        held = self.rows()
        ask(self.connection, b"?get-integration")
        sent = "return exchanges.reads.filter(each => each.name === 'get-integration').length"
        wait_until(lambda: self.run_script(sent) > len(held), "the next exchange")
        self.assertEqual(self.rows(), held)
        self.run_script("document.getElementById('hold').click()")
        wait_until(lambda: len(self.rows()) > len(held), "the end of the hold")

    def test_refused_requests_do_not_displace_a_change(self) -> None:
        ask(self.connection, b"?set-filename,/tmp/kept.fits")
        self.wait_for_row("/tmp/kept.fits")
        self.run_script(
            "for (let i = 0; i < 600; i++) EVENTS.exchange({t: 1e10 + i, peer: 'p', q: '?get-tpi', a: '!get-tpi,fail',"
            " s: 0, code: 'fail', changes: false, at: null})"
        )
        self.wait_for_row("?get-tpi")
        self.assertTrue([row for row in self.rows() if "/tmp/kept.fits" in row])

    def test_a_timed_stop_and_a_filter_without_a_match(self) -> None:
        ask(self.connection, b"?stop,4102444800.1290000")
        self.assertIn("at 2100-01-01 00:00:00.129", self.wait_for_row("?stop,4102444800"))
        self.run_script(
            "const box = document.getElementById('filter'); box.value = 'no such text';"
            "box.dispatchEvent(new Event('input'))"
        )
        wait_until(lambda: not self.rows(), "the filter")
        shown = "return document.querySelector('.scroll > div').innerText.trim()"
        self.assertEqual(self.run_script(shown), "No request contains this text.")

    def test_the_acquisition_and_the_picture(self) -> None:
        ask(self.connection, b"?set-configuration,SK00", b"?start")
        shown = "return [...document.querySelectorAll('.big')].filter(e => e.offsetParent).map(e => e.innerText.trim())"
        wait_until(lambda: "acquiring" in self.run_script(shown), "the acquisition")
        wait_until(lambda: not self.run_script("return document.getElementById('picture').hidden"), "the picture")
        names = self.run_script("return [...document.getElementById('input').options].map(option => option.text)")
        self.assertEqual(names, ["feed 0 L", "feed 0 R"])
        for canvas in ("spectrum", "waterfall"):
            pixels = (
                "const canvas = document.getElementById(arguments[0]), context = canvas.getContext('2d');"
                "return new Set(new Uint32Array(context.getImageData(0, 0, canvas.width, 40).data.buffer)).size"
            )
            self.assertGreater(self.run_script(pixels, canvas), 3, canvas)
        ask(self.connection, b"?stop")
        wait_until(lambda: "idle" in self.run_script(shown), "the end of the acquisition")

    def test_panels_and_tables(self) -> None:
        ask(self.connection, b"?status", b"?nonesuch")
        wait_until(lambda: "(unknown)" in self.run_script("return document.body.innerText"), "the counts")
        hidden = self.run_script(
            "return [...document.querySelectorAll('section[hidden]')].map(each => each.getAttribute('aria-labelledby'))"
        )
        self.assertIn("h-sensors", hidden)
        self.assertNotIn("h-lanes", hidden)
        self.assertRegex(self.run_script("return document.title"), r"\A✓ simulated sardara\Z")

    def test_nothing_is_wider_than_the_screen(self) -> None:
        ask(self.connection, HOSTILE, b"?set-filename,/" + b"long" * 60)
        self.wait_for_row("longlong")
        for width in (390, 800, 1280, 1920):
            with self.subTest(width):
                self.browser.resize(width, 800)
                self.assertEqual(self.run_script("return document.documentElement.scrollWidth"), width)
                wide = (
                    "return [...document.querySelectorAll('section:not([hidden])')]"
                    ".filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText.slice(0, 20))"
                )
                self.assertEqual(self.run_script(wide), [])

    def test_a_format_has_the_same_result_in_both_languages(self) -> None:
        numbers = (
            0, 1, 59.99, 60, 61, 3599, 3600, 7500.5, 86399, 86400, 93784, 1e6, 999.94, 999_940, 999_960, 1234567,
            8.1e11, 1e18, 3.4e-5, 0.0003385, 0.00325, 0.2625, 2.25, 42.25, 62.50625, -0.00625, 1250, 1_250_000,
            0.00099, 0.0032, 0.00996, 0.25, 0.9996, 4.26, 59.94, -1.26, -71.26, 63.2, 100, 9.9996,
            9999999, 1e7, 1.23456e-5, -2.5e9, 0.001, NOW, NOW - 60, NOW - 86400, NOW + 12.34, NOW + 75.5, NOW - 1e9,
        )  # fmt: skip
        values = [*numbers, True, False, None, "text", "FFT 16384"]
        table = [
            (value, form)
            for form in FORMATS
            for value in values
            if type(value) in (int, float, type(None)) or form in ("text", "value")
        ]
        found = self.run_script(
            "const before = now; now = arguments[1];"
            "const found = arguments[0].map(([value, form]) => ["
            "  textOf(value, form), wordOf(value, form)]);"
            "now = before; return found;",
            table,
            NOW,
        )
        for (value, form), (text, word) in zip(table, found, strict=True):
            is_count = value is None or (isinstance(value, int) and value >= 0)
            if form in ("text", "integer", "bytes") and not is_count and not isinstance(value, bool | str):
                continue  # what these formats show is never a fraction or negative
            with self.subTest(form, value=value):
                self.assertEqual(text, text_of(value, form, NOW))
                self.assertEqual(word, _word(value, form, NOW))

    def test_a_line_is_the_same_in_both_languages(self) -> None:
        for values in ([], [None], [0, 0], [3], [5, None, 10], [0.1, 0.25, -3.7], list(range(60)), list(range(17))):
            for base in ("", "zero"):
                with self.subTest(base, values=values):
                    found = self.run_script("return points(arguments[0], arguments[1])", values, base)
                    self.assertEqual(found, _points(values, base))

    def test_the_script_shows_the_same_as_the_server(self) -> None:
        """The page as the server fills it, and as the script fills it from the same document."""
        script = """
          const text = await (await fetch("/")).text();
          const parsed = new DOMParser().parseFromString(text, "text/html");
          // Reasons and the watchdog tell of this host, which may be busy.
          const changing = /\\|(age|now|until)$|bytes|lag|watchdog|^\\.$|^health/;
          const shown = root => [...root.querySelectorAll("body [data-text]")]
            .filter(e => !e.closest("[hidden]") && !changing.test(e.dataset.text))
            .map(e => `${e.dataset.text}: ${e.textContent}`);
          return [shown(parsed), shown(document)];
        """
        ask(self.connection, b"?set-configuration,SK77", b"?get-tpi", b"?set-filename,/tmp/x.fits")
        self.wait_for_row("/tmp/x.fits")

        def differences() -> list[tuple[str, str]]:
            by_server, by_script = self.run_script(script)
            self.assertGreater(len(by_server), 40)
            return [pair for pair in zip_longest(by_server, by_script) if pair[0] != pair[1]]

        # The documents of the two are of different moments, so wait until nothing changes.
        last: list[tuple[str, str]] = []

        def is_same() -> bool:
            last[:] = differences()
            return not last

        try:
            wait_until(is_same, "the same page from both")
        except AssertionError as problem:
            raise AssertionError(f"{problem}: {last[:5]}") from None


@needs_browser
class EndTests(unittest.TestCase):
    def test_a_server_that_has_ended(self) -> None:
        browser = shared_browser()
        with served("--http", "0", *_PATIENT) as running:
            found = re.search(r"monitoring on (\S+)\n", running.log())
            assert found is not None
            browser.open(found[1])
            wait_until(
                lambda: browser.run("return typeof latest !== 'undefined' && latest !== null"), "the first status"
            )
            self.assertTrue(browser.run("return document.getElementById('lost').hidden"))
            self.assertRegex(browser.run("return document.title"), r"\A✓ ")
            running.process.kill()
            running.process.wait(PATIENCE)
            wait_until(lambda: not browser.run("return document.getElementById('lost').hidden"), "the warning")
            text = browser.run("return document.getElementById('lost').innerText")
            self.assertRegex(text, r"\ANothing heard from the server for \d+ s: ")
            self.assertIn("stale", browser.run("return document.body.className"))
            self.assertRegex(browser.run("return document.title"), r"\A\? \w")
            # What is drawn later, by a filter for example, does not bring the ✓ back.
            browser.run("showExchanges()")
            self.assertRegex(browser.run("return document.title"), r"\A\? \w")


if __name__ == "__main__":
    unittest.main()
