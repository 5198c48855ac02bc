"""A browser without a window, controlled by its driver: Debian's packages chromium and chromium-driver.

The driver speaks the WebDriver protocol, JSON over HTTP, so that no library is needed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import tempfile
import unittest
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from .settings import PATIENCE, wait_until

__all__ = ["Browser", "needs_browser"]

_BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_DRIVER = shutil.which("chromedriver")

needs_browser = unittest.skipUnless(
    _BROWSER and _DRIVER, "needs a browser and its driver: apt-get install chromium chromium-driver"
)
"""Decorator of a test that looks at a page in a browser."""

# Tests may run as root, in a container with little shared memory.
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


def _started(folder: str) -> tuple[subprocess.Popen[str], str]:
    """The driver, and its port. `folder` is for temporary files."""
    assert _DRIVER is not None
    said = ""
    # With --port=0 it chooses a port for IPv6, and names none on a host that has only IPv4. It ends at once if somebody
    # has taken the port meanwhile.
    for _ in range(10):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        driver = subprocess.Popen(
            [_DRIVER, f"--port={port}"], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": folder}
        )
        assert driver.stdout is not None
        for line in driver.stdout:
            said += line
            if "started successfully on" in line:
                return driver, port
        driver.wait(PATIENCE)
        driver.stdout.close()
    raise AssertionError(f"chromedriver does not start: {said}")


class Browser:
    """A browser with one empty page. Call its end()."""

    def __init__(self) -> None:
        # The browser leaves files behind.
        self._folder = tempfile.mkdtemp()
        self._session = ""
        self._driver, port = _started(self._folder)
        try:
            self._base = f"http://127.0.0.1:{port}"
            options = {"binary": _BROWSER, "args": list(_FLAGS)}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            self._session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except BaseException:
            self.end()
            raise

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self._base}{path}", data, {"Content-Type": "application/json"}, method=method)
        try:
            with urlopen(request, timeout=PATIENCE) as reply:
                return json.load(reply)["value"]
        except HTTPError as problem:
            raise AssertionError(f"{path}: {problem.read().decode()}") from None

    def _of_session(self, path: str, body: Any) -> Any:
        return self._ask("POST", f"/session/{self._session}{path}", body)

    def open(self, url: str) -> None:
        """Open a page."""
        self._of_session("/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that a script in the page returns; `arguments` are its arguments."""
        return self._of_session("/execute/sync", {"script": script, "args": arguments})

    def devtools(self, command: str, **parameters: Any) -> Any:
        """The result of a command of the devtools protocol."""
        return self._of_session("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Show a page of this size in pixels; on a narrow one as a phone does."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def problems(self) -> list[str]:
        """The errors on the console since the last call: of scripts, and what the content policy has refused."""
        found = self._of_session("/se/log", {"type": "browser"})
        return [each["message"] for each in found if each["level"] == "SEVERE"]

    def screenshot(self) -> bytes:
        """The page as a PNG."""
        return base64.b64decode(self._ask("GET", f"/session/{self._session}/screenshot"))

    def end(self) -> None:
        """Close the browser."""
        try:
            if self._session:
                self._ask("DELETE", f"/session/{self._session}")
        finally:
            self._driver.terminate()
            self._driver.wait(PATIENCE)
            assert self._driver.stdout is not None
            self._driver.stdout.close()
            # Its processes may still write while they end.
            wait_until(self._removed, "the end of the browser")

    def _removed(self) -> bool:
        shutil.rmtree(self._folder, ignore_errors=True)
        return not Path(self._folder).exists()
