"""The page at `/`, and the files that it loads.

The server fills the page with the current values, so the page shows them even without JavaScript. With JavaScript,
page.js updates them by the events of live.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from twisted.web.resource import Resource

from discosbackend.monitor.live import Events, Live
from discosbackend.monitor.page_template import PageTemplate
from discosbackend.monitor.site import Page, Text, send
from discosbackend.monitor.slices import SlicedText
from discosbackend.monitor.snapshot import Snapshot

__all__ = ["page_pieces", "page_resources"]

_HTML = b"text/html; charset=utf-8"

_FILES = {
    "page.css": b"text/css; charset=utf-8",
    "page.js": b"text/javascript; charset=utf-8",
    "icon.svg": b"image/svg+xml",
}
"""The files that the page loads, and their types."""


def page_resources(snapshot: Snapshot, live: Live, reactor: Any) -> dict[bytes, Resource]:
    """Return the resources of the page by their paths: `/`, `/events`, and the files that it loads.

    Parameters
    ----------
    snapshot
        The document that the page shows.
    live
        The open pages.
    reactor
        Timers, or the reactor.
    """
    template = PageTemplate(_content("page.html").decode())
    text = SlicedText(reactor, lambda: page_pieces(template, snapshot, live))
    found: dict[bytes, Resource] = {
        b"/": Text(text, _HTML, snapshot.refresh_status, reactor=reactor),
        b"/events": Events(live),
    }
    for name, content_type in _FILES.items():
        found[f"/static/{name}".encode()] = _File(_content(name), content_type)
    return found


def page_pieces(template: PageTemplate, snapshot: Snapshot, live: Live) -> Iterator[str]:
    """Return the page of this moment in pieces. Each is made when it is asked for, in much less than 1 ms."""
    parts = []
    for part in snapshot.pieces():
        parts.append(part)
        yield ""
    document: dict[str, Any] = json.loads("".join(parts))
    yield ""
    document["clients"].sort(key=lambda client: client["connection"])
    document["exchanges"] = live.last_exchanges()
    for sensor in document["sensors"]:
        sensor["history"] = live.sensor_history.of(sensor["name"])
        yield ""
    yield from template.fill(document, document["time"])


class _File(Page):
    """A file, which is read once."""

    def __init__(self, content: bytes, content_type: bytes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._content = content
        self._content_type = content_type

    def render_GET(self, request: Any) -> int:
        return send(request, self._content, self._content_type)


def _content(name: str) -> bytes:
    return files("discosbackend.monitor").joinpath("static", name).read_bytes()
