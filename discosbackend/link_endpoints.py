"""The addresses of devices: URLs, and the Twisted endpoints that connect to them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from discosbackend.toml import did_you_mean

__all__ = ["DeviceAddress", "SerialEndpoint", "address_from"]

CONNECT_TIMEOUT = 5.0
"""How long an attempt to connect may take, in s."""

_EXAMPLES = {
    "tcp": "tcp://192.168.1.20:7147",
    "serial": "serial:///dev/ttyUSB0?baudrate=115200",
    "unix": "unix:///run/device.sock",
}


def _yes_or_no(text: str) -> bool:
    return {"0": False, "1": True}[text]


def _one_of(*choices: Any) -> Callable[[str], Any]:
    return {str(choice): choice for choice in choices}.__getitem__


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ValueError
    return int(text)


# The parameters of a serial address: their conversion, and their values for error messages.
_SERIAL: dict[str, tuple[Callable[[str], Any], str]] = {
    "baudrate": (_positive, "a whole number, such as 115200"),
    "bytesize": (_one_of(5, 6, 7, 8), "5, 6, 7 or 8"),
    "parity": (_one_of("N", "E", "O", "M", "S"), "N, E, O, M or S"),
    "stopbits": (_one_of(1, 1.5, 2), "1, 1.5 or 2"),
    "xonxoff": (_yes_or_no, "0 or 1"),
    "rtscts": (_yes_or_no, "0 or 1"),
}


@dataclass(frozen=True, slots=True)
class DeviceAddress:
    """Where a device is connected."""

    name: str
    """The name of the device in messages: host and port, or the path."""
    is_serial: bool
    endpoint: Callable[[Any], Any]
    """Returns the endpoint that connects to the device, for a reactor."""


def address_from(url: str) -> DeviceAddress:
    """Return the address of a device.

    Parameters
    ----------
    url
        `tcp://host:port`, `serial:///path?baudrate=...` or `unix:///path`.

    Raises
    ------
    ValueError
        If the URL is not valid. The text says what is wrong.
    ImportError
        If pyserial is needed and not installed.
    """
    try:
        parts = urlsplit(url)
    except ValueError as problem:
        raise ValueError(f"{url!r} is not the address of a device: {problem}") from None
    example = _EXAMPLES.get(parts.scheme)
    if example is None:
        choices = did_you_mean(parts.scheme, _EXAMPLES) or f": write it such as {' or '.join(_EXAMPLES.values())}"
        raise ValueError(f"{url!r} is not the address of a device{choices}")
    if mistake := _tcp_mistake(parts) if parts.scheme == "tcp" else _path_mistake(parts):
        raise ValueError(f"{url!r} {mistake}: write it such as {example}")
    if parts.scheme == "tcp":
        return _tcp_address(cast(str, parts.hostname), cast(int, parts.port))
    path = unquote(parts.path)
    if parts.scheme == "unix":
        return DeviceAddress(path, False, lambda reactor: UNIXClientEndpoint(reactor, path, timeout=CONNECT_TIMEOUT))
    settings = _serial_settings(url, parts.query)
    _check_pyserial()
    return DeviceAddress(path, True, lambda reactor: SerialEndpoint(reactor, path, settings))


def _tcp_mistake(parts: SplitResult) -> str:
    try:
        port = parts.port
    except ValueError:
        return "has no valid port: a port is a number from 1 to 65535"
    if not parts.hostname:
        return "names no host"
    if not port:
        return "names no port"
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return "has more than a host and a port"
    return ""


def _path_mistake(parts: SplitResult) -> str:
    if parts.netloc:
        return f"needs three slashes before the path, because {parts.netloc!r} is not a part of it"
    if not parts.path.startswith("/") or parts.path == "/":
        return "names no absolute path"
    if parts.fragment or (parts.query and parts.scheme == "unix"):
        return "has more than a path"
    return ""


def _tcp_address(host: str, port: int) -> DeviceAddress:
    try:
        kind: Any = TCP4ClientEndpoint if ipaddress.ip_address(host).version == 4 else TCP6ClientEndpoint
    except ValueError:
        kind = HostnameEndpoint
    name = f"[{host}]:{port}" if kind is TCP6ClientEndpoint else f"{host}:{port}"
    return DeviceAddress(name, False, lambda reactor: kind(reactor, host, port, timeout=CONNECT_TIMEOUT))


def _serial_settings(url: str, query: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in _SERIAL:
            known = did_you_mean(name, _SERIAL, listed=True)
            raise ValueError(f"{url!r} has an unknown parameter {name!r}{known}")
        if name in settings:
            raise ValueError(f"{url!r} has the parameter {name!r} twice")
        convert, values = _SERIAL[name]
        try:
            settings[name] = convert(text)
        except (KeyError, ValueError):
            raise ValueError(f"{url!r}: {name} is {values}, not {text!r}") from None
    return settings


def _check_pyserial() -> None:
    if find_spec("serial") is None:
        raise ImportError("a serial link needs the package pyserial: pip install 'discosbackend[serial]'")


@implementer(IStreamClientEndpoint)
class SerialEndpoint:
    """An endpoint that opens a serial port.

    Parameters
    ----------
    reactor
        The reactor.
    path
        The path of the port.
    settings
        The arguments of Twisted's SerialPort, such as `baudrate`.
    """

    def __init__(self, reactor: Any, path: str, settings: dict[str, Any]) -> None:
        self._reactor = reactor
        self._path = path
        self._settings = settings

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803  # the interface's name
        """Open the port. The Deferred has fired when the method returns."""
        from twisted.internet.serialport import SerialPort

        class Port(cast(Any, SerialPort)):  # type: ignore[misc]  # it has no types
            """A serial port that can be closed at once, also if the device does not accept what was written."""

            def abortConnection(self) -> None:
                """Close the port in the next reactor iteration, as a TCP connection does."""
                self.stopReading()
                self.stopWriting()
                self.reactor.callLater(0, self.connectionLost, Failure(ConnectionAborted()))

            def loseConnection(self, reason: Failure = connectionDone) -> None:
                self.abortConnection()

            def connectionLost(self, reason: Failure) -> None:
                if self.connected:
                    super().connectionLost(reason)

        protocol = protocolFactory.buildProtocol(None)  # type: ignore[arg-type]
        if protocol is None:
            return fail(ConnectionAborted())
        try:
            Port(protocol, self._path, self._reactor, **self._settings)
        except Exception as problem:  # noqa: BLE001  # pyserial raises several kinds
            return fail(problem)
        return succeed(protocol)
