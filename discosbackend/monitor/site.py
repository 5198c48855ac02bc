"""MonitorSite: the web server of --http, with /health, /status.json and /metrics.

It answers only GET and HEAD, only for the host names that it knows, and closes every connection after one response. A
path is looked up in a table of resources as it is; there are no folders. To add a page, add a Resource to the table
that resources_of() returns. A response that does not end calls `request.channel.without_deadline()`.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from discosbackend.monitor import metrics
from discosbackend.monitor.slices import SlicedText, encoded_text
from discosbackend.monitor.snapshot import Snapshot
from discosbackend.rate_limited_logger import MINUTE, RateLimitedLogger

__all__ = ["HEADERS", "Health", "MonitorSite", "Page", "Text", "host_names", "is_allowed", "resources_of", "send"]
__all__ += ["send_later"]

logger = logging.getLogger(__name__)

HEADERS = {
    b"Content-Security-Policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"X-Content-Type-Options": b"nosniff",
    b"X-Frame-Options": b"DENY",
    b"Referrer-Policy": b"no-referrer",
    b"Cross-Origin-Opener-Policy": b"same-origin",
    b"Cross-Origin-Resource-Policy": b"same-origin",
    b"Cache-Control": b"no-store",
    b"Server": b"discosbackend",
}
"""The headers of every response."""

MOST_CONNECTIONS = 100
"""How many connections may be open. Further ones are closed at once."""

# How many s a client has for its request and for reading the response.
_PATIENCE = 20.0
# How long /health waits for the status of the instrument, in s.
_STATUS_PATIENCE = 3.0
# How long /status.json waits for it, in s: it also has a status that is older.
_SHORT_PATIENCE = 0.5
_LONGEST_PATH = 256
_TEXT = b"text/plain; charset=utf-8"

_METHODS = (b"GET", b"HEAD")


# -- the host ---------------------------------------------------------------------------------------------


def host_names(given: Iterable[str] = ()) -> frozenset[str]:
    """Return the names by which a browser may ask this server: localhost, the name of this host, and the given ones."""
    own = socket.gethostname()
    return frozenset(name.lower().rstrip(".") for name in ("localhost", own, own.partition(".")[0], *given) if name)


def is_allowed(host: str, names: frozenset[str]) -> bool:
    """Return whether a `Host` header is an IP address or one of these names, with or without a port.

    An attacker's site can make its own name resolve to the address of this host (DNS rebinding). The `Host` header then
    has the name of that site.
    """
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
    if not (port.isascii() and (port.isdigit() or not port)):
        return False
    if name.startswith("[") and name.endswith("]"):
        return _is_address(name[1:-1], 6)
    return name.lower().removesuffix(".") in names or _is_address(name, 4)


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


# -- connections ------------------------------------------------------------------------------------------


class _Channel(HTTPChannel):
    """One connection, for one request. It is aborted if that takes too long."""

    maxHeaders = 50  # noqa: N815  # Twisted's name
    totalHeadersSize = 8192  # noqa: N815  # Twisted's name

    _deadline: Any = None
    transport: Any
    site: MonitorSite

    def connectionMade(self) -> None:
        super().connectionMade()  # type: ignore[no-untyped-call]
        self.site.opened(self)
        self._deadline = self.site.reactor.callLater(_PATIENCE, self._abort)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.site.closed(self)
        self.without_deadline()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def without_deadline(self) -> None:
        """Let this connection stay open: for a response that does not end, such as a stream of events."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _abort(self) -> None:
        self._deadline = None
        self.transport.abortConnection()

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        """Twisted's hook: close the connection after the response, so that nobody can queue requests."""
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def allHeadersReceived(self) -> None:
        """Twisted's hook: do not receive a body, which Twisted would keep in memory or in a file."""
        if self.length != 0:
            self.length = 0
            self.requests[-1].has_body = True
        super().allHeadersReceived()  # type: ignore[no-untyped-call]


class _Request(Request):
    """A request, with what Twisted's class does not say about it."""

    has_body = False
    is_too_long = False

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Twisted's hook: parse the request. A long query would take long to parse."""
        if len(path) > _LONGEST_PATH:
            self.is_too_long, path = True, b"/"
        elif path == b"*":
            # Twisted itself would answer this path, whatever the host and the method.
            path = b"/*"
        super().requestReceived(command, path, version)  # type: ignore[no-untyped-call]


class MonitorSite(Site):
    """The web server.

    Parameters
    ----------
    resources
        The resources by their paths, such as `b"/health"`. A path is compared as the client has sent it.
    names
        The host names by which a browser may ask, as host_names() returns them.
    reactor
        Timers, or the reactor.
    before_request
        Called before a request is answered, such as Batches.flush.
    """

    protocol = _Channel  # type: ignore[assignment]
    displayTracebacks = False  # noqa: N815  # Twisted's name
    noisy = False

    def __init__(
        self,
        resources: Mapping[bytes, Resource],
        names: frozenset[str],
        reactor: Any,
        *,
        before_request: Callable[[], object] = lambda: None,
    ) -> None:
        # Twisted's time limit counts from the last byte, so a client that sends one now and then would never reach it.
        super().__init__(Resource(), requestFactory=_Request, reactor=reactor, timeout=None)  # type: ignore[no-untyped-call]
        self.resources = resources
        self._names = names
        self._before_request = before_request
        self._limited = RateLimitedLogger(logger, reactor.callLater)
        self._channels: set[_Channel] = set()

    def startFactory(self) -> None:
        """Twisted's hook: do nothing. Twisted's Site would start a log file of requests here."""

    def stopFactory(self) -> None:
        """Twisted's hook: the port is closed. Close the connections too."""
        for channel in list(self._channels):
            channel.transport.abortConnection()
        self._limited.sum_up()

    def log(self, request: Any) -> None:
        """Twisted's hook: log a request that was answered."""
        logger.debug("%s %r -> %d", request.getClientAddress(), request.uri, request.code)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Twisted's hook: a client has connected. None: close the connection."""
        if len(self._channels) >= MOST_CONNECTIONS:
            text = "the web server has %d connections: further ones are closed"
            self._limited.log(logging.WARNING, "connections", text, MOST_CONNECTIONS, window=MINUTE, at_most=1)
            return None
        return super().buildProtocol(addr)  # type: ignore[no-untyped-call]

    def opened(self, channel: _Channel) -> None:
        """Count a connection."""
        self._channels.add(channel)

    def closed(self, channel: _Channel) -> None:
        """Count a connection no more."""
        self._channels.discard(channel)

    def getResourceFor(self, request: Any) -> IResource:
        """Twisted's hook: return what answers a request."""
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        if request.method not in _METHODS:
            request.setHeader(b"Allow", b"GET, HEAD")
            return _Refusal(405, "only GET and HEAD: nothing can be changed here")
        if request.has_body:
            return _Refusal(413, "a request has no body here")
        if request.is_too_long:
            return _Refusal(414, "the path is too long")
        hosts = request.requestHeaders.getRawHeaders(b"Host", [])
        # HTTP/1.0 has no Host, and programs that check the health of a server use it. Every browser sends one.
        if len(hosts) != 1 and (hosts or request.clientproto != b"HTTP/1.0"):
            return _Refusal(400, "one Host header is needed")
        if hosts and not is_allowed(hosts[0].decode("latin-1"), self._names):
            text = "a request for the host %.100r was refused: if that is this server, start it with --http-host"
            self._limited.log(logging.WARNING, "host", text, hosts[0], window=MINUTE)
            return _Refusal(421, "this host name is not known here: see --http-host")
        found = self.resources.get(request.path)
        if found is None:
            known = ", ".join(sorted(path.decode("ascii") for path in self.resources))
            return _Refusal(404, f"there is no such page; there are {known}")
        self._before_request()
        return found


# -- resources --------------------------------------------------------------------------------------------


def send(request: Any, body: bytes, content_type: bytes = _TEXT, code: int = 200) -> int:
    """Send a whole response. Return what a render method has to return. Twisted leaves out the body of HEAD."""
    # Twisted does not know the text of 421.
    request.setResponseCode(code, b"Misdirected Request" if code == 421 else None)
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    request.write(body)
    request.finish()
    return NOT_DONE_YET


def send_later(request: Any, source: Deferred[Any], respond: Callable[[Any], object]) -> int:
    """Call `respond` with the result of a Deferred. Cancel the Deferred if the client disconnects before."""
    gone: Deferred[None] = request.notifyFinish()
    gone.addErrback(lambda _: source.cancel())

    def failed(problem: Failure) -> None:
        if problem.check(CancelledError) is None:
            request.processingFailed(problem)

    source.addCallback(respond).addErrback(failed)
    return NOT_DONE_YET


class Page(Resource):
    """A resource without children. A subclass has render_GET()."""

    isLeaf = True  # noqa: N815  # Twisted's name


class _Refusal(Page):
    def __init__(self, code: int, text: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._code = code
        self._text = text

    def render(self, request: Any) -> int:
        return send(request, f"{self._text}\n".encode(), code=self._code)


class Text(Page):
    """A text that is made in slices.

    Parameters
    ----------
    text
        The text.
    content_type
        Its type.
    prepare
        Called before the text is made. It may return a Deferred, for which the client waits a while.
    """

    def __init__(
        self,
        text: SlicedText,
        content_type: bytes,
        prepare: Callable[[], Deferred[None] | None] = lambda: None,
        *,
        reactor: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._text = text
        self._content_type = content_type
        self._prepare = prepare
        self._reactor = reactor

    def render_GET(self, request: Any) -> int:
        ready = self._prepare()
        if ready is None:
            source = self._text.get()
        else:
            source = waited(ready, _SHORT_PATIENCE, self._reactor).addCallback(lambda _: self._text.get())
        return send_later(request, source, lambda text: send(request, text, self._content_type))


class Health(Page):
    """/health: 200 and `ok`, or 503 and the reasons, one a line."""

    def __init__(self, snapshot: Snapshot, reactor: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._snapshot = snapshot
        self._reactor = reactor

    def render_GET(self, request: Any) -> int:
        with_status = request.args.get(b"status", [b"0"])[-1] not in (b"0", b"")
        answered = self._snapshot.refresh_status() if with_status else None
        if answered is None:
            return self._send(request, with_status)
        source = waited(answered, _STATUS_PATIENCE, self._reactor)
        return send_later(request, source, lambda _: self._send(request, with_status))

    def _send(self, request: Any, with_status: bool) -> int:
        reasons = self._snapshot.health(with_status=with_status)
        return send(request, encoded_text("\n".join(reasons or ["ok"]) + "\n"), code=503 if reasons else 200)


def waited(answered: Deferred[None], seconds: float, reactor: Any) -> Deferred[None]:
    """Wait for a Deferred, but not longer than this, in s."""
    return answered.addTimeout(seconds, reactor).addErrback(_passed)


def _passed(problem: Failure) -> None:
    problem.trap(TimedOut)


def resources_of(snapshot: Snapshot, reactor: Any) -> dict[bytes, Resource]:
    """Return the table of resources. Add further ones to it."""
    document = SlicedText(reactor, snapshot.pieces)
    json_type = b"application/json"
    return {
        b"/health": Health(snapshot, reactor),
        b"/status.json": Text(document, json_type, snapshot.refresh_status, reactor=reactor),
        b"/metrics": _metrics(snapshot, reactor),
    }


def _metrics(snapshot: Snapshot, reactor: Any) -> Resource:
    try:
        # Here, because the first import takes too long while the reactor runs.
        kind = metrics.content_type()
    except ImportError:
        return _Refusal(501, "metrics need the package prometheus-client: pip install 'discosbackend[metrics]'")
    text = SlicedText(reactor, lambda: metrics.pieces(snapshot))
    return Text(text, kind.encode(), snapshot.refresh_status, reactor=reactor)
