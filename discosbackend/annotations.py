"""Reads the arguments of a command from the annotations and the defaults of its method.

`@command` imports this module only if it is given no arguments and the method has annotations.
"""

from __future__ import annotations

import inspect
import types
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, Flag
from pathlib import Path
from typing import Annotated, Any, ForwardRef, Literal, Union, get_args, get_origin

from discosbackend.argument_limits import wire_value
from discosbackend.commands import ANNOTATION, WILDCARD, Argument
from discosbackend.ticks import Ticks

__all__ = ["arguments_of"]

_TYPE_OF = {int: "integer", float: "float", bool: "boolean", str: "text", Path: "path", Ticks: "timestamp"}

# The classes of a default, for each type. A bool fits "boolean" only, though it is an int.
_DEFAULTS: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "float": (int, float),
    "boolean": (bool,),
    "text": (str,),
    "path": (Path,),
    "timestamp": (Ticks,),
}

# Pairs (type of the annotation, type that Argument may give instead). The method gets a str or Ticks.
_ALSO = {("text", "path"), ("integer", "timestamp")}

_INSTEAD = "or list the arguments in @command"


def arguments_of(method: Any, frame: types.FrameType | None = None) -> tuple[Argument, ...]:
    """Return the arguments that the parameters of a method describe.

    Parameters
    ----------
    method
        The method, or a function, static method or class method.
    frame
        The frame in which the method is defined. Annotations that are texts can use the names in it. With
        `from __future__ import annotations`, all annotations are texts.

    Returns
    -------
    arguments
        An argument for each positional parameter, except `self`. Empty if no parameter is annotated.

    Raises
    ------
    TypeError
        If a parameter cannot be an argument. The text names the method and the parameter.

    Examples
    --------
    >>> from typing import Annotated, Literal
    >>> from discosbackend import Argument
    >>> from discosbackend.annotations import arguments_of
    >>> def sweep(self, power: Annotated[float, Argument(unit="dBm", maximum=0)], speed: Literal["fast", "slow"]): ...
    >>> [(argument.name, argument.type, argument.choices) for argument in arguments_of(sweep)]
    [('power', 'float', ()), ('speed', 'text', ('fast', 'slow'))]
    """
    function = getattr(method, "__func__", method)
    parameters = _parameters(function, isinstance(method, staticmethod))
    if all(parameter.annotation is parameter.empty for parameter in parameters):
        return ()
    return tuple(_arguments(function, parameters, _Names(function, frame)))


def _parameters(function: Callable[..., Any], is_static: bool) -> list[inspect.Parameter]:
    """Return the parameters of a function, without `self`."""
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and not is_static:
        first = parameters[0]
        # A method that becomes static by a decorator above @command has an annotated first parameter.
        in_class = getattr(function, "__qualname__", "").rpartition(".")[0].rpartition(".")[2] not in ("", "<locals>")
        if first.name in ("self", "cls") or (in_class and first.annotation is first.empty):
            return parameters[1:]
    return parameters


def _arguments(function: Callable[..., Any], parameters: list[inspect.Parameter], names: _Names) -> Iterator[Argument]:
    for parameter in parameters:
        shown = str(parameter.replace(annotation=parameter.empty, default=parameter.empty))
        where = f"parameter {shown} of {getattr(function, '__qualname__', function)}()"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{where} cannot be an argument of a command: write one parameter for each, {_INSTEAD}")
        if parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.default is parameter.empty:
                raise TypeError(f"{where} is keyword-only, but a request has its arguments by position: give a default")
            continue
        if parameter.annotation is parameter.empty:
            raise TypeError(f"{where} has no annotation, but others have: annotate it, {_INSTEAD}")
        try:
            yield _argument(parameter, _Meaning.of(parameter.annotation, names))
        except (TypeError, ValueError) as problem:
            raise TypeError(f"{where}: {problem}") from problem


def _argument(parameter: inspect.Parameter, meaning: _Meaning) -> Argument:
    """Return the argument of one parameter. TypeError or ValueError if there is none."""
    given = meaning.argument
    if given.optional or given.default is not None:
        raise TypeError("write the default behind the parameter, not inside of Argument")
    if given.choices and meaning.choices:
        raise TypeError("the annotation has its own choices: leave them out inside of Argument")
    has_default = parameter.default is not parameter.empty
    if meaning.or_none and not has_default:
        raise TypeError("no request can carry None: give the default None")
    kind = given.type if (meaning.kind, given.type) in _ALSO else meaning.kind
    if given.type not in (ANNOTATION, kind):
        raise TypeError(f"the annotation is of type {meaning.kind!r}, but Argument of type {given.type!r}")
    argument = replace(
        given,
        name=given.name or parameter.name.replace("_", "-"),
        type=kind,
        optional=has_default,
        wildcard=given.wildcard or meaning.wildcard,
        choices=meaning.choices or given.choices,
        as_path=meaning.kind == "path",
        as_ticks=kind == "timestamp",
    )
    if not has_default or parameter.default is None:
        return argument
    return replace(argument, default=_default(parameter.default, argument, meaning))


def _default(default: Any, argument: Argument, meaning: _Meaning) -> Any:
    """Return a default as the value that the method gets. TypeError if it does not fit to the annotation."""
    if argument.wildcard and default == WILDCARD:
        return default
    fits = (meaning.members,) if meaning.members is not None else _DEFAULTS[meaning.kind]
    value = wire_value(default) if meaning.members is None else default
    if not isinstance(value, fits) or (isinstance(value, bool) and meaning.kind != "boolean"):
        kind = meaning.kind if meaning.members is None else meaning.members.__name__
        raise TypeError(f"the default {default!r} is no {kind}")
    if value != value:  # noqa: PLR0124
        raise TypeError("the default is nan, which is no number")
    return float(default) if meaning.kind == "float" and not argument.choices else default


@dataclass
class _Meaning:
    """What an annotation says about an argument."""

    kind: str = ""
    choices: tuple[Any, ...] = ()
    members: type[Enum] | None = None
    wildcard: bool = False
    or_none: bool = False
    argument: Argument = field(default_factory=Argument)

    @classmethod
    def of(cls, annotation: Any, names: _Names) -> _Meaning:
        """Return the meaning of an annotation. TypeError if it has none."""
        kinds: list[Any] = []
        literals: list[Any] = []
        given: list[Argument] = []
        _take_apart(annotation, names, kinds, literals, given)
        if len(given) > 1:
            raise TypeError("there is more than one Argument in the annotation")
        found = cls(argument=given[0] if given else Argument(), or_none=type(None) in kinds or None in literals)
        kinds = [kind for kind in kinds if kind is not type(None)]
        literals = [value for value in literals if value is not None]
        if kinds and literals == [WILDCARD]:
            found.wildcard, literals = True, []
        if len(kinds) + bool(literals) != 1:
            raise TypeError(f"{_shown(annotation)} is not one type of an argument, {_INSTEAD}")
        if literals:
            found.choices = tuple(literals)
        elif not isinstance(kinds[0], type):
            found.kind = ""
        elif issubclass(kinds[0], Enum):
            if issubclass(kinds[0], Flag):
                raise TypeError(f"the members of {kinds[0].__name__} can be combined, so they are no choices")
            found.members, found.choices = kinds[0], tuple(kinds[0])
        else:
            found.kind = _TYPE_OF.get(kinds[0], "")
        if found.choices:
            found.kind = _type_of_choices(found.choices)
        if not found.kind:
            shown = _shown(annotation)
            raise TypeError(
                f"{shown} is no type of an argument: write int, float, bool, str, Path, Ticks, Literal or an Enum, "
                + _INSTEAD
            )
        return found


def _take_apart(annotation: Any, names: _Names, kinds: list[Any], literals: list[Any], given: list[Argument]) -> None:
    """Add the types, the values of Literal, and the Arguments in an annotation to the lists."""
    annotation = names.resolved(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *marks = get_args(annotation)
        given += [mark for mark in marks if isinstance(mark, Argument)]
        _take_apart(inner, names, kinds, literals, given)
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            _take_apart(part, names, kinds, literals, given)
    elif origin is Literal:
        literals += get_args(annotation)
    else:
        kinds.append(type(None) if annotation is None else annotation)


def _type_of_choices(choices: tuple[Any, ...]) -> str:
    """Return the type of all choices. TypeError if a request cannot carry them, or if they differ in their types."""
    kinds = {_TYPE_OF.get(_plain_type(wire_value(choice)), "") for choice in choices}
    if len(kinds) > 1 or not kinds <= {"text", "integer", "float"}:
        shown = ", ".join(repr(wire_value(choice)) for choice in choices)
        raise TypeError(f"the choices {shown} are neither all texts nor all numbers of one type")
    return kinds.pop()


def _plain_type(value: Any) -> Any:
    # The value of a member of an Enum can be of a subclass of str, int or float.
    return next((kind for kind in (bool, str, int, float) if isinstance(value, kind)), None)


def _shown(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


class _Names:
    """The names that annotations of a function can use: those where it is defined, and those of its module."""

    def __init__(self, function: Callable[..., Any], frame: types.FrameType | None) -> None:
        self._globals: dict[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})
        self._frame = frame

    def resolved(self, annotation: Any) -> Any:
        """Evaluate an annotation that is a text."""
        if isinstance(annotation, ForwardRef):
            annotation = annotation.__forward_arg__
        if not isinstance(annotation, str):
            return annotation
        try:
            found = eval(annotation, self._globals, self._locals())
        except Exception as problem:
            raise TypeError(
                f"the annotation cannot be evaluated: {problem}: import or define its names above, not only under "
                f"TYPE_CHECKING, {_INSTEAD}"
            ) from problem
        return self.resolved(found)

    def _locals(self) -> Mapping[str, Any]:
        """Return the names of the class, of the classes around it, and of the function around them."""
        scopes: list[Any] = []
        frame = self._frame
        while frame is not None:
            scopes.append(frame.f_locals)
            if "__qualname__" not in frame.f_locals:
                break
            frame = frame.f_back
        return ChainMap(*scopes)
