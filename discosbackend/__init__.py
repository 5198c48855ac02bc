"""The server side of the DISCOS backend protocol.

The package exports the two version numbers and the names that you need to write a backend. Importing it imports
neither Twisted nor astropy: the module of a public name is imported when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from discosbackend._version import __protocol_version__, __version__

if TYPE_CHECKING:
    from discosbackend.acquisition import Acquisition
    from discosbackend.backend import Backend, blocking, command
    from discosbackend.commands import Argument, Field
    from discosbackend.embedding import serve
    from discosbackend.errors import BackendError
    from discosbackend.handlers import DBProtocolHandler
    from discosbackend.monitor.quick_look import QuickLook
    from discosbackend.monitor.telemetry import TelemetryChannel
    from discosbackend.sensors import Sensor, status_text
    from discosbackend.server import run_server
    from discosbackend.ticks import Ticks

__all__ = [
    "Acquisition",
    "Argument",
    "Backend",
    "BackendError",
    "DBProtocolHandler",
    "Field",
    "QuickLook",
    "Sensor",
    "TelemetryChannel",
    "Ticks",
    "__protocol_version__",
    "__version__",
    "blocking",
    "command",
    "run_server",
    "serve",
    "status_text",
]

_MODULE_OF = {
    "Acquisition": "acquisition",
    "Argument": "commands",
    "Backend": "backend",
    "BackendError": "errors",
    "DBProtocolHandler": "handlers",
    "Field": "commands",
    "QuickLook": "monitor.quick_look",
    "Sensor": "sensors",
    "TelemetryChannel": "monitor.telemetry",
    "Ticks": "ticks",
    "blocking": "backend",
    "command": "backend",
    "run_server": "server",
    "serve": "embedding",
    "status_text": "sensors",
}


def __getattr__(name: str) -> object:
    """Import the module of a public name when the name is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Include the public names that are not imported yet, so that completion shows them."""
    return sorted({*globals(), *__all__})
