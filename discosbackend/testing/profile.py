"""Profile: the properties of a server and its instrument that the cases need and cannot find out.

They are plain class attributes, so that a TestCase can override single ones.
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
    """Return the rows of commands that only one backend has, by their name on the wire.

    Parameters
    ----------
    own_commands
        `Command` rows, or methods that are marked with `@command`.

    Raises
    ------
    TypeError
        For any other object.
    ValueError
        If the name of a command occurs in the protocol, or twice.

    Examples
    --------
    >>> from discosbackend.commands import Command
    >>> from discosbackend.testing.profile import rows_of
    >>> [*rows_of([Command("reset"), Command("cool-down")])]
    ['reset', 'cool-down']
    """
    rows: dict[str, Command] = {}
    for own in own_commands:
        row = own if isinstance(own, Command) else command_of(own)
        if row is None:
            raise TypeError(f"{own!r} in own_commands is neither a Command nor a method marked with @command")
        if row.name in COMMANDS:
            raise ValueError(f"{row.name!r} in own_commands is a command of the protocol, which is tested anyway")
        if row.name in rows:
            raise ValueError(f"{row.name!r} is in own_commands twice")
        rows[row.name] = row
    return rows


class Profile:
    """The values that an instrument accepts, and the expected behaviour of its server.

    Override the attributes that differ, in a subclass or on an instance. An attribute that is not overridden is a
    neutral guess: if the instrument refuses it, the case is skipped, and the reason names the attribute. A value that
    is overridden must be accepted, otherwise the case fails.

    Examples
    --------
    >>> from discosbackend.testing import Profile
    >>> class BenchProfile(Profile):
    ...     valid_configuration = "SK00"
    ...     deviations = {"stop/*": "a second stop is answered with ok"}
    >>> profile = BenchProfile()
    >>> profile.is_set("valid_configuration"), profile.is_set("valid_shift")
    (True, False)
    >>> profile.deviation("stop/twice")
    'a second stop is answered with ok'
    """

    # -- the instrument -------------------------------------------------------------------------------

    valid_configuration: str | None = None
    """A configuration that set-configuration accepts. The instrument must be able to start and measure with it."""

    invalid_configuration: str | None = "no-such-configuration"
    """A configuration that set-configuration refuses; None if it accepts any name."""

    valid_integration: int | None = None
    """An integration time in ms that set-integration accepts; None for the one that get-integration reports."""

    valid_section: Sequence[object] = (WILDCARD,) * len(COMMANDS["set-section"].arguments)
    """The seven arguments of a set-section request that is accepted."""

    valid_feeds: tuple[int, int] = (0, 0)
    """The two arguments of a set-enable request that is accepted."""

    valid_shift: int = 0
    """A bit shift that set-shift accepts."""

    valid_interleave: int = 0
    """A number of samples that cal-on accepts."""

    valid_filename: str = "/tmp/Conformance.fits"
    """A path that set-filename accepts."""

    inputs: int | None = None
    """How many values get-tpi, get-tp0 and get-rms return in `valid_configuration`; None for any number."""

    leave_out: Container[str] = ()
    """Names of commands that must not be carried out, such as `("backend-park", "convert-data")`."""

    own_commands: Sequence[object] = ()
    """Commands that only this backend has: `Command` rows, or methods that are marked with `@command`."""

    valid_arguments: Mapping[str, Sequence[object]] = MappingProxyType({})
    """Arguments that are accepted, by the name of a command of own_commands."""

    # -- times ----------------------------------------------------------------------------------------

    clock_tolerance: float = 5.0
    """How far the backend's clock may differ from this host's, in s. The default detects TAI, which is 37 s ahead."""

    lead: float = 0.2
    """How long before its time a timed start or stop is sent, in s."""

    early_tolerance: float = 0.005
    """How long before its time status may report a timed start or stop, in s."""

    late_tolerance: float = 1.0
    """How long after its time status must report a timed start or stop, in s."""

    horizon: float = 7 * 86400
    """How far ahead a time may be, in s. A time that is further ahead must be refused."""

    stop_when_idle: str = "fail"
    """The code of the reply to a stop when there is nothing to stop: "fail" or "ok", as in Acquisition."""

    # -- the server -----------------------------------------------------------------------------------

    reply_timeout: float = 65.0
    """How long to wait for a reply, in s: longer than the server's own time limit for a command."""

    reply_limit: int | None = 511
    """The length of the longest reply in bytes, CR LF included; None for no limit."""

    protocol_version: str = __protocol_version__
    """The version that `version` and the greeting must report."""

    deviations: Mapping[str, str] = MappingProxyType({})
    """Known deviations of this server: ids of cases, in which `*` matches any text, each with an explanation."""

    def deviation(self, case_id: str) -> str:
        """Return the explanation of the known deviation in a case, "" if there is none."""
        return next((text for wanted, text in self.deviations.items() if fnmatchcase(case_id, wanted)), "")

    @property
    def own_rows(self) -> Mapping[str, Command]:
        """The rows of own_commands, by their name on the wire."""
        return rows_of(self.own_commands)

    @property
    def commands(self) -> Mapping[str, Command]:
        """The rows of all commands that the server may have, by their name on the wire."""
        return {**COMMANDS, **self.own_rows} if self.own_commands else COMMANDS

    def is_set(self, name: str) -> bool:
        """Return whether a subclass or the instance overrides an attribute with a value other than None."""
        kinds = type(self).__mro__
        overridden = name in vars(self) or any(name in vars(kind) for kind in kinds[: kinds.index(Profile)])
        return overridden and getattr(self, name) is not None
