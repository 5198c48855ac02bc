"""A backend with commands of its own: to set and read attenuators, and for a sweep that takes 20 s.

    python examples/own_commands.py [port]
    cd examples && discos-backend-server --backend own_commands:OwnCommandsBackend

The server checks their arguments, formats their replies and schedules them in lanes as for the built-in commands.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from twisted.internet.defer import Deferred

from discosbackend import Argument, Backend, BackendError, DBProtocolHandler, Ticks, command, run_server
from discosbackend.backend import Field


class OwnCommandsBackend(Backend):
    """Four inputs with an attenuator each."""

    def __init__(self, sweep_seconds: float = 20.0) -> None:
        self.sweep_seconds = sweep_seconds
        self.attenuation = [0.0] * 4
        self.sweeping = False

    def status(self) -> tuple[Ticks, str, bool]:
        return Ticks.now(), "sweep in progress" if self.sweeping else "ok", False

    def time(self) -> Ticks:
        return Ticks.now()

    @command(
        "set-attenuation",
        Argument("input", "integer", wildcard=True, minimum=0),
        Argument("attenuation", "float", "dB", minimum=0),
        help="Set the attenuation of an input, counted from 0, or with `*` of all.",
    )
    def set_attenuation(self, number: int | str, attenuation: float) -> None:
        if number != "*" and int(number) >= len(self.attenuation):
            raise BackendError(f"backend has {len(self.attenuation)} inputs")
        if attenuation > 31.5:
            raise BackendError("attenuation out of range: 0 to 31.5 dB")
        for index in range(len(self.attenuation)) if number == "*" else [int(number)]:
            self.attenuation[index] = attenuation

    @command(
        "get-attenuation",
        reply=[Field("attenuation", "float", "dB", repeated=True)],
        lane="reads",
        help="The attenuation of every input.",
    )
    def get_attenuation(self) -> list[float]:
        return self.attenuation

    @command(
        "tone-sweep",
        Argument("step", "float", "MHz", optional=True, default=1.0),
        reply=[Field("tones", "integer"), Field("frequency", "float", "MHz", repeated=True)],
        timeout=300.0,
        help="Look for tones across the band; it takes a while, and device commands wait for it.",
    )
    async def tone_sweep(self, step: float) -> Iterator[float]:
        if step <= 0:
            raise BackendError("step must be more than 0 MHz")
        self.sweeping = True
        try:
            await seconds(self.sweep_seconds)
        finally:
            self.sweeping = False
        found = [step * multiple for multiple in (3, 11, 40)]
        return iter([len(found), *found])


def seconds(duration: float) -> Deferred[None]:
    """Return a Deferred that fires after `duration` seconds. Cancelling it ends the wait."""
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    return deferLater(reactor, duration)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8978
    run_server(port, DBProtocolHandler(OwnCommandsBackend()), "127.0.0.1")
