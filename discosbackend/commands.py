"""The table of commands (protocol section 4.9): one row per command, and the classes that a row consists of.

This is the only place where a command is described. The handler's checks and their reasons, the reference in the docs,
the client and the conformance cases derive from this table. A row also names the backend method that answers the
command; the handler calls it. A profile of the conformance kit can describe further commands. Its keys are the
attributes of these classes that are not marked NO_KEY.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from discosbackend.errors import HandlerException
from discosbackend.grammar import name_pattern, quoted
from discosbackend.schema import NEEDED, NO_KEY, Allowed
from discosbackend.values import TYPES, PlainTexts, parse_path, path_text, plain_texts

__all__ = [
    "ANNOTATION",
    "COMMANDS",
    "CONVERSION_TIMEOUT",
    "LANES",
    "WILDCARD",
    "Argument",
    "Command",
    "Field",
]

WILDCARD = "*"

LANES = ("reads", "device", "files")
"""The lanes (protocol section 6.1).

The commands of "device" run one at a time, and so do the commands of "files". The commands of "reads" do not wait for
other commands."""

# Up to this number every integer is exact as a float.
_EXACT = 2**53

CONVERSION_TIMEOUT = 3600.0
"""The time limit of convert-data, in s. A conversion takes minutes (protocol section 6.1)."""

ANNOTATION = "annotation"
"""The `type` of an Argument inside of `Annotated`, until it is replaced by the type of the annotation."""

_TYPE_OF = {int: "integer", float: "float", bool: "boolean", str: "text", Path: "path"}


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a request.

    Parameters
    ----------
    name
        The name, used in the docs and in reasons. Default, for an Argument inside of `Annotated`: the name of the
        parameter.
    type
        "integer", "float", "boolean", "timestamp", "text" or "path", or one of Python's int, float, bool, str and
        pathlib.Path. The method of the backend gets an int, float, bool, Ticks or str, and a pathlib.Path if the type
        is given as that. Default, for an Argument inside of `Annotated`: the type of the annotation.
    unit
        The unit, such as "ms" or "MHz", used in the docs only.
    optional
        Whether a request may omit the argument.
    wildcard
        Whether the argument may be `*`. The method then gets the text "*".
    minimum, maximum
        The smallest and the largest value that are accepted, for the types "integer" and "float". None: no limit.
    choices
        The values that are accepted, for the types "integer", "float" and "text": an iterable of values, or an Enum.
        A client sends the value of an Enum's member, and the method gets the member. Default: every value.
    default
        The value that the method gets if the request omits the argument. None: the method is called without it.
    complaint
        The reason of the `fail` reply to a wrong value. Default: a reason with the name, the value and the type.
    as_path
        Whether the method gets a pathlib.Path, for the type "path". Default: a str, unless the type is given as
        pathlib.Path.
    as_ticks
        Whether the method always gets Ticks, for the type "timestamp". Default: a method gets an astropy Time if its
        class does not derive from Backend.

    Raises
    ------
    ValueError
        If the type is unknown, if there is a default but the argument is not optional, if `as_path` is given for
        another type than "path", or if the limits, the choices or the default contradict each other or the type.
    """

    name: Annotated[str, NEEDED] = ""
    type: Annotated[str, NEEDED] = ANNOTATION
    unit: str = ""
    optional: bool = False
    wildcard: bool = False
    _: KW_ONLY
    minimum: float | None = None
    maximum: float | None = None
    choices: Annotated[Iterable[Any], Allowed(valid=len, expected="a list that is not empty")] = ()
    default: Annotated[object, NO_KEY] = None
    complaint: str = ""
    as_path: Annotated[bool, NO_KEY] = False
    as_ticks: Annotated[bool, NO_KEY] = False

    def __post_init__(self) -> None:
        if self.type == Path:  # type: ignore[comparison-overlap]  # it may be given as the class
            object.__setattr__(self, "as_path", True)
        if self.type != ANNOTATION:
            object.__setattr__(self, "type", _known_type(self.type, f"argument {self.name!r}"))
        for limit in ("minimum", "maximum"):
            # So that 0.0, or a limit from a conformance profile, causes the same reason as 0.
            value = getattr(self, limit)
            if isinstance(value, float) and value.is_integer() and (self.type == "integer" or abs(value) < _EXACT):
                object.__setattr__(self, limit, int(value))
        # The commands of the protocol have no other limit than 0, so that their table does not import the module.
        if self.choices != () or self.maximum is not None or (self.minimum is not None and not self._is_from_zero()):
            from discosbackend.argument_limits import check_limits, checked_choices

            object.__setattr__(self, "choices", checked_choices(self))
            check_limits(self)
        if self.default is not None and not self.optional:
            raise ValueError(f"argument {self.name!r} has a default, so it must be optional=True")
        if self.as_path and self.type != "path":
            raise ValueError(f"argument {self.name!r} is as_path, so its type must be 'path', not {self.type!r}")

    def parse(self, text: str) -> Any:
        """Convert the text of an argument to a value.

        Raises
        ------
        HandlerException
            If the text is not valid. The exception's text is the reason of the `fail` reply.
        """
        if self.wildcard and text == WILDCARD:
            return WILDCARD
        read, wanted = TYPES[self.type]
        try:
            value = read(text)
        except ValueError:
            raise HandlerException(self._complaint(text, wanted)) from None
        if self.choices:
            return self._choice(value, text)
        if (self.minimum is not None or self.maximum is not None) and self.is_outside(value):
            raise HandlerException(self._complaint(text, f"{wanted} {self.limits_text()}"))
        return Path(value) if self.as_path else value

    def is_outside(self, value: Any) -> bool:
        """Return whether a value is below the minimum or above the maximum."""
        return (self.minimum is not None and value < self.minimum) or (
            self.maximum is not None and value > self.maximum
        )

    def limits_text(self) -> str:
        """Return the limits in words, "" if there are none."""
        limits = (("below", self.minimum), ("above", self.maximum))
        return " and ".join(f"not {word} {limit}" for word, limit in limits if limit is not None)

    def _is_from_zero(self) -> bool:
        """Return whether the only limit is the minimum 0 of a number."""
        return self.minimum == 0 and not self.default and self.type in ("integer", "float")

    def _choice(self, value: Any, text: str) -> Any:
        """Return the choice that is sent as this value."""
        from discosbackend.argument_limits import choice_of

        try:
            return choice_of(self.choices, value)
        except LookupError:
            raise HandlerException(self._complaint(text, self._choices_text())) from None

    def _choices_text(self) -> str:
        if not self.choices:
            return ""
        from discosbackend.argument_limits import choices_text

        return choices_text(self.choices)

    def _complaint(self, text: str, wanted: str) -> str:
        if self.type == "timestamp":
            return f"wrong timestamp {quoted(text)}"
        return self.complaint or f"wrong {self.name} {quoted(text)}: must be {self._choices_text() or wanted}"


@dataclass(frozen=True, slots=True)
class Field:
    """One argument of an `ok` reply.

    Parameters
    ----------
    name
        The name, used in the docs and in the log.
    type
        The type, one of those of `Argument`.
    unit
        The unit, such as "ms" or "MHz", used in the docs only.
    repeated
        Whether the reply has one or more values of this field, one per input. Only the last field can be repeated.
    unescaped
        Whether a comma is sent as `;` and a backslash as `/`. Set it if the clients that read this field split at every
        comma and do not know escapes.
    measured
        Whether the value is measured, so that it differs from reply to reply. By default, discos-backend-replay then
        compares only its form, not the number.

    Raises
    ------
    ValueError
        If the type is unknown.
    """

    name: str
    type: str
    unit: str = ""
    repeated: bool = False
    unescaped: bool = False
    measured: bool = False
    plain: Annotated[PlainTexts, NO_KEY] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", _known_type(self.type, f"reply field {self.name!r}"))
        object.__setattr__(self, "plain", plain_texts(self.type))


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the table: a command.

    Parameters
    ----------
    name
        The name in requests: a letter, then letters, digits and hyphens, at most 64 characters.
    arguments
        The arguments of the request, in order. Optional arguments are last.
    reply
        The fields of the `ok` reply, in order.
    lane
        "reads", "device" or "files" (protocol section 6.1).
    timeout
        The time limit in s. Default: the limit of the handler.
    help
        One sentence for the docs.
    changes
        Whether the command changes the state of the backend. The log names the client that sent such a command.
        Default: True, unless the lane is "reads".
    since
        The protocol version that introduced the command, or the clients that use it.
    method
        The name of the backend's method. Default: `name` with underscores instead of hyphens.
    together
        Whether a request must have either all optional arguments or none of them.
    missing
        The reason of the `fail` reply if a required argument is missing. Default: a reason with the required number of
        arguments.

    Raises
    ------
    ValueError
        If the name, the lane or the time limit is not valid, if a required argument follows an optional one, or if a
        field other than the last is repeated.
    TypeError
        If an argument is not an `Argument` or has no name or type, if a field is not a `Field`, or if `changes` is not
        a bool.
    """

    name: Annotated[str, NO_KEY]
    arguments: tuple[Argument, ...] = ()
    reply: tuple[Field, ...] = ()
    lane: str = "device"
    timeout: Annotated[float | None, NO_KEY] = None
    help: str = ""
    _: KW_ONLY
    since: Annotated[str, NO_KEY] = ""
    method: Annotated[str, NO_KEY] = ""
    together: bool = False
    missing: str = ""
    changes: Annotated[bool | None, NO_KEY] = None
    needed: Annotated[int, NO_KEY] = field(init=False, repr=False, compare=False)
    """The number of required arguments."""

    def __post_init__(self) -> None:
        if not name_pattern.fullmatch(self.name):
            raise ValueError(
                f"{self.name!r} is no command name: a letter, then letters, digits and hyphens, 64 at most"
            )
        if self.lane not in LANES:
            raise ValueError(f"lane {self.lane!r} of {self.name} is none of {', '.join(LANES)}")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout {self.timeout!r} of {self.name} must be more than 0 s")
        for kind, parts in ((Argument, self.arguments), (Field, self.reply)):
            for part in parts:
                if not isinstance(part, kind):
                    raise TypeError(f"{self.name}: {part!r} is no {kind.__name__}(name, type)")
        for argument in self.arguments:
            if not argument.name or argument.type == ANNOTATION:
                raise TypeError(f"{self.name}: {argument!r} needs a name and a type, except inside of Annotated")
        optional = [argument.optional for argument in self.arguments]
        if optional != sorted(optional):
            raise ValueError(f"{self.name} has an optional argument before one that is needed")
        if any(field.repeated for field in self.reply[:-1]):
            raise ValueError(f"{self.name}: only the last reply field can be repeated")
        object.__setattr__(self, "needed", optional.count(False))
        if self.changes is None:
            object.__setattr__(self, "changes", self.lane != "reads")
        elif not isinstance(self.changes, bool):
            raise TypeError(f"changes of {self.name} must be True or False, not {self.changes!r}")
        if not self.method:
            object.__setattr__(self, "method", self.name.replace("-", "_"))

    def parse(self, texts: Sequence[str]) -> list[Any]:
        """Convert the argument texts of a request to values.

        Returns
        -------
        values
            The values in order, with the defaults of omitted arguments. They end before the first omitted argument that
            has no default.

        Raises
        ------
        HandlerException
            If the number of arguments or one of the texts is wrong. The exception's text is the reason of the `fail`
            reply.
        """
        if not texts and not self.arguments:
            return []
        if not self.needed <= len(texts) <= len(self.arguments) or (
            self.together and len(texts) not in (self.needed, len(self.arguments))
        ):
            raise HandlerException(self._wrong_count(len(texts)))
        # Not a comprehension, which is a function: an exception would pass through one frame more.
        values = []
        for argument, text in zip(self.arguments, texts, strict=False):
            values.append(argument.parse(text))
        for argument in self.arguments[len(texts) :]:
            if argument.default is None:
                break
            values.append(argument.default)
        return values

    def to_wire(self, texts: Sequence[str]) -> list[str]:
        """Convert the argument texts of a Python program to the texts in the Message of a request.

        Paths are converted to the latin-1 characters of their bytes; every other text stays as it is. Raise ValueError
        if the file system cannot have such a path.
        """
        paths = {number for number, argument in enumerate(self.arguments) if argument.type == "path"}
        return [path_text(text) if number in paths else text for number, text in enumerate(texts)]

    def from_wire(self, texts: Sequence[str]) -> list[str]:
        """Convert the argument texts of the Message of an `ok` reply: the inverse of to_wire()."""
        paths = {number for number, field in enumerate(self.reply_fields(len(texts))) if field.type == "path"}
        return [parse_path(text) if number in paths else text for number, text in enumerate(texts)]

    def reply_fields(self, count: int) -> list[Field]:
        """Return the fields of an `ok` reply with `count` values: those of the row, the last one as often as needed.

        If no reply of the command can have `count` values, the length of the result differs from `count`.
        """
        repeated = self.reply[-1:] if any(field.repeated for field in self.reply) else ()
        return [*self.reply, *repeated * (count - len(self.reply))]

    def _wrong_count(self, given: int) -> str:
        needed, most = self.needed, len(self.arguments)
        if not most:
            return f"{self.name} needs no arguments"
        if self.together:
            return f"{self.name} needs {needed} or {most} arguments"
        if given < needed and self.missing:
            return self.missing
        if needed == most and not self.missing:
            return f"{self.name} needs {most} argument{'s' if most > 1 else ''}"
        if given < needed:
            return f"{self.name} needs at least {needed} argument{'s' if needed > 1 else ''}"
        return f"{self.name} needs at most {most} arguments"


def _known_type(wanted: object, whose: str) -> str:
    name = _TYPE_OF.get(wanted, wanted)  # type: ignore[call-overload]
    if name not in TYPES:
        raise ValueError(f"type {wanted!r} of {whose} is none of {', '.join(TYPES)}")
    return str(name)


_FORMAT = "wrong parameter format"
_AT = Argument("timestamp", "timestamp", "100 ns since 1970 or Unix seconds", optional=True)
_NOW = Field("timestamp", "timestamp", "Unix seconds")
_SKARAB = "1.4, SKARAB"
_CLIENTS = "SARDARA and SKARAB clients"

_ROWS = (
    Command(
        "status",
        reply=(_NOW, Field("status", "text", unescaped=True), Field("acquiring", "boolean")),
        lane="reads",
        since="1.0",
        help="The backend's clock, `ok` or a description of the fault, and whether the backend is acquiring.",
    ),
    Command(
        "version",
        reply=(Field("version", "text"),),
        lane="reads",
        since="1.0",
        help="The protocol version; the server answers it by itself.",
    ),
    Command(
        "get-configuration",
        reply=(Field("configuration", "text"),),
        lane="reads",
        since="1.0",
        help="The name of the configuration, `unconfigured` until one is set.",
    ),
    Command(
        "set-configuration",
        (Argument("configuration", "text"),),
        since="1.0",
        missing="missing argument: configuration",
        help="Load a named configuration, such as `SK77`.",
    ),
    Command(
        "get-integration",
        reply=(Field("integration", "integer", "ms"),),
        lane="reads",
        since="1.0",
        help="The integration time. It is 0 until a configuration is loaded; each configuration sets its own default.",
    ),
    Command(
        "set-integration",
        (
            Argument(
                "integration",
                "integer",
                "ms",
                minimum=0,
                complaint="integration time must be an integer number",
            ),
        ),
        since="1.0",
        missing="missing argument: integration time",
        help="Set the integration time of one dump.",
    ),
    Command(
        "get-tpi",
        (
            Argument("frequency", "float", "MHz", optional=True, complaint=_FORMAT),
            Argument("bandwidth", "float", "MHz", optional=True, complaint=_FORMAT),
        ),
        reply=(Field("tpi", "float", "counts", repeated=True, measured=True),),
        since="1.0",
        together=True,
        changes=False,
        help="Total power of each input, over a band; with `0,0` or without arguments, over the whole band.",
    ),
    Command(
        "get-tp0",
        reply=(Field("tp0", "float", "counts", repeated=True, measured=True),),
        since="1.0",
        changes=False,
        help="Total power of each input when it is terminated: the zero level.",
    ),
    Command("time", reply=(_NOW,), lane="reads", since="1.0", help="The backend's clock."),
    Command("start", (_AT,), since="1.0", help="Start acquiring now, or at the given time."),
    Command("stop", (_AT,), since="1.0", help="Stop acquiring now, or at the given time."),
    Command(
        "set-section",
        (
            Argument("section", "integer", wildcard=True, complaint=_FORMAT),
            Argument("start-frequency", "float", "MHz", wildcard=True, complaint=_FORMAT),
            Argument("bandwidth", "float", "MHz", wildcard=True, complaint=_FORMAT),
            Argument("feed", "integer", wildcard=True, complaint=_FORMAT),
            Argument("mode", "text", wildcard=True, complaint=_FORMAT),
            Argument("sample-rate", "float", "MHz", wildcard=True, complaint=_FORMAT),
            Argument("bins", "integer", wildcard=True, complaint=_FORMAT),
        ),
        since="1.0",
        help="Configure a section; `*` leaves a value as it is, section `*` means every section.",
    ),
    Command(
        "cal-on",
        (
            Argument(
                "interleave",
                "integer",
                "samples",
                optional=True,
                minimum=0,
                default=0,
                complaint="interleave samples must be a positive int",
            ),
        ),
        since="1.0",
        help="Toggle the noise diode every `interleave` samples; 0, or no argument, switches it off.",
    ),
    Command(
        "set-filename",
        (Argument("path", "path"),),
        since="1.0",
        missing="command needs <filename> as argument",
        help="Store the path of the telescope's file, whose metadata are merged with the data.",
    ),
    Command(
        "convert-data",
        lane="files",
        timeout=CONVERSION_TIMEOUT,
        since="1.2",
        help="The telescope's file is complete: merge it with the data.",
    ),
    Command(
        "set-enable",
        (
            Argument("feed1", "integer", complaint=_FORMAT),
            Argument("feed2", "integer", complaint=_FORMAT),
        ),
        since="1.3",
        help="Select the two feeds used for nodding; on SKARAB, `7,7` selects all feeds.",
    ),
    Command("end-schedule", since=_SKARAB, help="The schedule is over."),
    Command("backend-park", since=_SKARAB, method="park", help="Park the backend."),
    Command(
        "set-shift",
        (Argument("shift", "integer", "bits", complaint=_FORMAT),),
        since=_SKARAB,
        help="Set the bit shift of the FFT stages.",
    ),
    Command(
        "get-rms",
        reply=(Field("rms", "float", "counts", repeated=True, measured=True),),
        since=_CLIENTS,
        changes=False,
        help="The rms of each input's sampler.",
    ),
    Command(
        "get-ddcoffset",
        reply=(Field("offset", "float", "MHz"),),
        since="DISCOS's client library; no deployed component calls it",
        changes=False,
        help="The offset of the digital down-converter.",
    ),
    Command(
        "get-filename",
        reply=(Field("path", "path"),),
        lane="reads",
        since="MISTRAL, public simulators",
        help="The path that `set-filename` stored.",
    ),
)

COMMANDS: dict[str, Command] = {row.name: row for row in _ROWS}
"""All commands of the protocol by their names on the wire, in the order of protocol section 4.9."""
