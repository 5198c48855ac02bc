"""Profile: what the cases have to be told of a server and its instrument, because they must not guess it.

Plain class attributes, so that a TestCase overrides them one by one. What they are used for is said in the
cases.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType

from discosbackend._version import __protocol_version__
from discosbackend.backend import command_of
from discosbackend.commands import COMMANDS, WILDCARD, Command

__all__ = ["Profile", "rows_of"]


def rows_of(own_commands: Iterable[object]) -> dict[str, Command]:
    """The rows of commands of a backend's own, by wire name: given as such, or as methods with `@command`.

    TypeError for anything else, ValueError for a name that the protocol or another of them has.
    """
    rows: dict[str, Command] = {}
    for own in own_commands:
        row = own if isinstance(own, Command) else command_of(own)
        if row is None:
            raise TypeError(f"{own!r} in own_commands is neither a Command nor a method marked with @command")
        if row.name in COMMANDS:
            raise ValueError(f"{row.name!r} in own_commands is a command of the protocol, which is tried anyway")
        if row.name in rows:
            raise ValueError(f"{row.name!r} is twice in own_commands")
        rows[row.name] = row
    return rows


class Profile:
    """What is valid for the instrument, and what to expect of its server. Override what differs.

    A value that is not overridden is a neutral guess: where the instrument refuses it, the case is skipped
    and says what to override. A value that is overridden must be accepted.
    """

    # -- the instrument -------------------------------------------------------------------------------

    valid_configuration: str | None = None
    """A configuration that set-configuration accepts, and with which the instrument starts and measures."""

    invalid_configuration: str | None = "no-such-configuration"
    """One that it refuses; None if it takes any name."""

    valid_integration: int | None = None
    """Milliseconds that set-integration accepts; None: what get-integration tells, if it tells any."""

    valid_section: Sequence[object] = (WILDCARD,) * len(COMMANDS["set-section"].arguments)
    """The seven arguments of a set-section that is accepted."""

    valid_feeds: tuple[int, int] = (0, 0)
    """The two feeds of a set-enable that is accepted."""

    valid_shift: int = 0
    """A bit shift that set-shift accepts."""

    valid_interleave: int = 0
    """A number of samples that cal-on accepts."""

    valid_filename: str = "/tmp/Conformance.fits"
    """A path that set-filename accepts."""

    inputs: int | None = None
    """How many values get-tpi, get-tp0 and get-rms answer in `valid_configuration`; None: any number."""

    leave_out: Container[str] = ()
    """Wire names of commands that must not be carried out, `("backend-park", "convert-data")` for one."""

    own_commands: Sequence[object] = ()
    """Commands that only this backend has: `Command` rows, or its methods that are marked with `@command`."""

    valid_arguments: Mapping[str, Sequence[object]] = MappingProxyType({})
    """For commands of own_commands: arguments that are accepted."""

    # -- times ----------------------------------------------------------------------------------------

    clock_tolerance: float = 5.0
    """Seconds by which the backend's clock may differ from this host's: TAI, 37 s off, is noticed."""

    lead: float = 0.2
    """Seconds ahead of which a time-tagged start or stop is sent."""

    early_tolerance: float = 0.005
    """Seconds by which status may show a time-tagged start or stop before its time."""

    late_tolerance: float = 1.0
    """Seconds after its time by which status must show it."""

    horizon: float = 7 * 86400
    """Seconds ahead from which on a time is refused."""

    start_when_acquiring: str = "already acquiring"
    """The reason with which a start while acquiring is refused."""

    stop_when_idle: str = "fail"
    """What a stop gets that finds nothing to stop: "fail", or "ok", as Acquisition can be told."""

    # -- the server -----------------------------------------------------------------------------------

    reply_timeout: float = 65.0
    """Seconds to wait for a reply: longer than a server's own time limit, lest a slow command be cut off."""

    reply_limit: int | None = 511
    """Bytes of the longest reply, CR LF included; None for any."""

    protocol_version: str = __protocol_version__
    """What `version` and the greeting tell."""

    deviations: Mapping[str, str] = MappingProxyType({})
    """What this server is known to do otherwise: case ids, `*` allowed, and a sentence on it."""

    def deviation(self, case_id: str) -> str:
        """The sentence on what this server does otherwise in a case, "" where it is not known to."""
        return next((text for wanted, text in self.deviations.items() if fnmatchcase(case_id, wanted)), "")

    @property
    def own_rows(self) -> Mapping[str, Command]:
        """The rows of own_commands by wire name."""
        return rows_of(self.own_commands)

    @property
    def commands(self) -> Mapping[str, Command]:
        """The rows of all commands that the server may have, by wire name."""
        return {**COMMANDS, **self.own_rows} if self.own_commands else COMMANDS

    def is_set(self, name: str) -> bool:
        """Whether an attribute was overridden with a value, on the way to this class or on the instance."""
        kinds = type(self).__mro__
        overridden = name in vars(self) or any(name in vars(kind) for kind in kinds[: kinds.index(Profile)])
        return overridden and getattr(self, name) is not None
