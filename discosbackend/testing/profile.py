"""Profile: the properties of a server and its instrument that the cases need and cannot find out.

They are plain class attributes, so that a TestCase can override single ones.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Annotated

from discosbackend._version import __protocol_version__
from discosbackend.backend import command_of
from discosbackend.commands import COMMANDS, WILDCARD, Command
from discosbackend.errors import HandlerException
from discosbackend.grammar import REQUEST, Message
from discosbackend.schema import DAY, YEAR, Allowed, OneLine
from discosbackend.values import path_text

__all__ = ["Profile", "is_text", "rows_of"]


# -- the types of the attributes ----------------------------------------------------------------------


def is_text(text: object) -> bool:
    """Return whether an object is a text that can be an argument of a request."""
    return isinstance(text, str) and Message(message_type=REQUEST, name="x", arguments=[text]).check_synthax()


def _is_section(values: Sequence[object]) -> bool:
    texts = [str(value) for value in values]
    try:
        COMMANDS["set-section"].parse(texts)
    except HandlerException:
        return False
    return _has_no_bool(values) and all(map(is_text, texts))


def _has_no_bool(values: Sequence[object]) -> bool:
    return not any(isinstance(value, bool) for value in values)


RequestText = Annotated[str, Allowed(valid=is_text, expected="text that a request can carry")]
Path = Annotated[str, Allowed(valid=lambda text: is_text(path_text(text)), expected="a path that a request can carry")]
Section = Annotated[
    Sequence[object], Allowed(valid=_is_section, expected='the seven arguments of set-section, each may be "*"')
]
Arguments = Annotated[Sequence[object], Allowed(valid=_has_no_bool)]
Seconds = Annotated[float, Allowed("seconds", least=0, most=YEAR)]


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

    valid_configuration: RequestText | None = None
    """A configuration that set-configuration accepts. The instrument must be able to start and measure with it."""

    invalid_configuration: Annotated[
        RequestText | None, Allowed(valid=is_text, expected='text that a request can carry, "" if any name is accepted')
    ] = "no-such-configuration"
    """A configuration that set-configuration refuses; None if it accepts any name."""

    valid_integration: Annotated[int, Allowed("milliseconds", least=0)] | None = None
    """An integration time in ms that set-integration accepts; None for the one that get-integration reports."""

    valid_section: Section = (WILDCARD,) * len(COMMANDS["set-section"].arguments)
    """The seven arguments of a set-section request that is accepted. If possible, choose them so that the instrument
    would refuse them if two of them were exchanged."""

    valid_feeds: Annotated[tuple[int, int], Allowed(expected="two feeds, such as [0, 1]")] = (0, 0)
    """The two arguments of a set-enable request that is accepted."""

    valid_shift: int = 0
    """A bit shift that set-shift accepts."""

    valid_interleave: Annotated[int, Allowed(least=0)] = 0
    """A number of samples that cal-on accepts."""

    valid_filename: Path = "/tmp/Conformance.fits"
    """A path that set-filename accepts."""

    inputs: Annotated[int, Allowed(above=0)] | None = None
    """How many values get-tpi, get-tp0 and get-rms return in `valid_configuration`; None for any number."""

    leave_out: Annotated[
        Container[str],
        Allowed(expected='a list of commands of the protocol or of own_commands, such as ["backend-park"]'),
    ] = ()
    """Names of commands that must not be carried out, such as `("backend-park", "convert-data")`."""

    own_commands: Annotated[
        Sequence[object], Allowed(expected="a table of commands, such as [own_commands.reset]")
    ] = ()
    """Commands that only this backend has: `Command` rows, or methods that are marked with `@command`; in a file,
    tables with the attributes of a `Command`."""

    valid_arguments: Annotated[
        Mapping[str, Arguments], Allowed(expected="a table of own_commands, each with a list of arguments")
    ] = MappingProxyType({})
    """Arguments that are accepted, by the name of a command of own_commands."""

    # -- times ----------------------------------------------------------------------------------------

    clock_tolerance: Seconds = 5.0
    """How far the backend's clock may differ from this host's, in s. The default detects TAI, which is 37 s ahead."""

    lead: Seconds = 0.2
    """How long in advance a timed start or stop is sent, in s."""

    early_tolerance: Seconds = 0.005
    """How early the reply to `status` may report a timed start or stop, in s."""

    late_tolerance: Seconds = 1.0
    """How late the reply to `status` may report a timed start or stop, in s."""

    horizon: Seconds = 7 * 86400
    """How far ahead a time may be, in s. A time that is further ahead must be refused."""

    start_when_acquiring: RequestText = "already acquiring"
    """The reason with which a start without a timestamp is refused while the server is acquiring."""

    stop_when_idle: Annotated[str, Allowed(valid=("fail", "ok").__contains__, expected='"fail" or "ok"')] = "fail"
    """The code of the reply to a stop when there is nothing to stop. Acquisition has the same option."""

    # -- the server -----------------------------------------------------------------------------------

    reply_timeout: Annotated[float, Allowed("seconds", above=0, most=DAY)] = 65.0
    """How long to wait for a reply, in s: longer than the server's own time limit for a command."""

    reply_limit: Annotated[int | None, Allowed(above=0, expected="a number of bytes, 0 for any")] = 511
    """The length of the longest reply in bytes, CR LF included; None for no limit."""

    protocol_version: RequestText = __protocol_version__
    """The version that `version` and the greeting must report."""

    deviations: Annotated[Mapping[str, OneLine], Allowed(expected="a table of case ids, each with a sentence")] = (
        MappingProxyType({})
    )
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
