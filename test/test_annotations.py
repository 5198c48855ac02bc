"""Arguments of a command that are read from the annotations and the defaults of its method."""

from __future__ import annotations
import __future__

import functools
import textwrap
import unittest
from enum import Enum, Flag, IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

from twisted.internet.task import Clock

from discosbackend import Argument, Backend, DBProtocolHandler, Ticks, blocking, command
from discosbackend.backend import command_of
from discosbackend.errors import HandlerException
from discosbackend.grammar import Message, parse_message
from discosbackend.testing.profile import rows_of
from discosbackend.testing.wrong_arguments import wrong_types

if TYPE_CHECKING:
    from decimal import Decimal


class Mode(Enum):
    """By text."""

    FAST = "fast"
    SLOW = "slow"


class Bits(IntEnum):
    """By number."""

    FEW = 8
    MANY = 16


class Window(StrEnum):
    """A text itself."""

    HANN = "hann"


class Mixed(Enum):
    """Of two types."""

    ONE = "one"
    TWO = 2


class Switches(Flag):
    """They can be combined."""

    LEFT = 1
    RIGHT = 2


NAMES = {
    "Annotated": Annotated,
    "Any": Any,
    "Argument": Argument,
    "Bits": Bits,
    "Empty": Enum("Empty", {}),
    "Literal": Literal,
    "Mixed": Mixed,
    "Mode": Mode,
    "Optional": Optional,
    "Path": Path,
    "Switches": Switches,
    "Ticks": Ticks,
    "Window": Window,
    "command": command,
}


def declare(parameters: str, as_text: bool, given: str = "") -> Any:
    """Return a class with one command, whose method has these parameters, with or without the future import."""
    source = textwrap.dedent(
        f"""\
        class Receiver:
            @command("sweep", {given})
            def sweep(self, {parameters}):
                return repr((power,))
        """
    )
    flags = __future__.annotations.compiler_flag if as_text else 0
    namespace = {**NAMES, "__name__": "receiver"}
    exec(compile(source, "receiver", "exec", flags, dont_inherit=True), namespace)
    return namespace["Receiver"]


def read(parameters: str, as_text: bool = False, given: str = "") -> tuple[Argument, ...]:
    row = command_of(declare(parameters, as_text, given).sweep)
    assert row is not None
    return row.arguments


def ask(backend: object, request: str) -> str:
    """Return the reply, or the reason of a refusal."""
    try:
        return str(DBProtocolHandler(backend, reactor=Clock()).handle(parse_message(request)))
    except HandlerException as reason:
        return str(reason)


class ReadTests(unittest.TestCase):
    def test_what_each_annotation_means(self) -> None:
        for parameters, *wanted in (
            ("a: int", Argument("a", "integer")),
            ("a: float", Argument("a", "float")),
            ("a: bool", Argument("a", "boolean")),
            ("a: str", Argument("a", "text")),
            ("a: Path", Argument("a", "path", as_path=True)),
            ("a: Ticks", Argument("a", "timestamp", as_ticks=True)),
            ("a: float = -10.0", Argument("a", "float", optional=True, default=-10.0)),
            ("a: float = None", Argument("a", "float", optional=True)),
            ("a: float | None = None", Argument("a", "float", optional=True)),
            ("a: Optional['Mode'] = None", Argument("a", "text", optional=True, choices=Mode)),
            ("a: None | float = 3.5", Argument("a", "float", optional=True, default=3.5)),
            ("a: Optional[Literal['b', None]] = None", Argument("a", "text", optional=True, choices=("b",))),
            ("a: Literal['fast', 'slow']", Argument("a", "text", choices=("fast", "slow"))),
            ("a: Literal['fast'] | Literal['slow']", Argument("a", "text", choices=("fast", "slow"))),
            ("a: Literal[1, 2] = 2", Argument("a", "integer", optional=True, default=2, choices=(1, 2))),
            ("a: Mode = Mode.SLOW", Argument("a", "text", optional=True, default=Mode.SLOW, choices=Mode)),
            ("a: Literal[Mode.SLOW]", Argument("a", "text", choices=(Mode.SLOW,))),
            ("a: Bits", Argument("a", "integer", choices=Bits)),
            ("a: Window = Window.HANN", Argument("a", "text", optional=True, default=Window.HANN, choices=Window)),
            ("a: int | Literal['*']", Argument("a", "integer", wildcard=True)),
            ("a: int | Literal['*'] = '*'", Argument("a", "integer", optional=True, wildcard=True, default="*")),
            (
                "a: Annotated[float, Argument(unit='dBm', minimum=-80, maximum=0)] = -10",
                Argument("a", "float", "dBm", optional=True, minimum=-80, maximum=0, default=-10.0),
            ),
            ("a: Annotated[int, 'other', Argument('n', int)]", Argument("n", "integer")),
            ("a: Annotated[float | None, Argument(unit='K')] = None", Argument("a", "float", "K", optional=True)),
            ("a: Annotated[float, Argument(unit='K')] | None = None", Argument("a", "float", "K", optional=True)),
            ("a: Annotated[str, Argument(type='path')]", Argument("a", "path")),
            (
                "a: Annotated[str, Argument(choices=['x'], complaint='no')]",
                Argument("a", "text", choices=["x"], complaint="no"),
            ),
            (
                "start_frequency: float, n: int = 3",
                Argument("start-frequency", "float"),
                Argument("n", "integer", optional=True, default=3),
            ),
            ("a: int, /", Argument("a", "integer")),
            ("a: int, *, log: bool = False", Argument("a", "integer")),
            ("",),
            ("a=3",),
            ("*values",),
        ):
            for as_text in (False, True):
                with self.subTest(parameters, as_text=as_text):
                    self.assertEqual(read(parameters, as_text), tuple(wanted))

    def test_a_default_has_the_type_of_the_argument(self) -> None:
        [argument] = read("a: float = -10")
        self.assertIs(type(argument.default), float)

    def test_arguments_that_are_listed_win(self) -> None:
        listed = "Argument('power', 'integer', optional=True)"
        for parameters in ("power: float = -10.0", "power: Decimal = 1", "*power: int", "*, power: int"):
            for as_text in (False, True):
                if as_text or "Decimal" not in parameters:
                    found = read(parameters, as_text, listed)
                    self.assertEqual(found, (Argument("power", "integer", optional=True),))

    def test_what_cannot_be_meant(self) -> None:
        listed = ", or list the arguments in @command"
        types = f" is no type of an argument: write int, float, bool, str, Path, Ticks, Literal or an Enum{listed}"
        for parameters, name, problem in (
            ("a: complex", "a", f": complex{types}"),
            ("a: list[int]", "a", f": list\\[int\\]{types}"),
            ("a: Any", "a", f": (typing\\.)?Any{types}"),
            ("a: [int]", "a", f": \\[(<class 'int'>|int)\\]{types}"),
            ("a: Empty", "a", f": Empty{types}"),
            ("a: int | float", "a", f": int \\| float is not one type of an argument{listed}"),
            ("a: int | Literal['fast']", "a", ": .*Literal\\['fast'\\]\\]? is not one type of an argument"),
            ("a: None = None", "a", ": None is not one type of an argument"),
            ("a: Mixed", "a", ": the choices 'one', 2 are neither all texts nor all numbers of one type"),
            ("a: Literal['a', 1]", "a", ": the choices 'a', 1 are neither all texts nor all numbers of one type"),
            ("a: Literal[True, False]", "a", ": the choices True, False are neither all texts nor all numbers"),
            ("a: Literal['a', '']", "a", ": choice '' of argument 'a' is no text that a request can carry"),
            ("a: Switches", "a", ": the members of Switches can be combined, so they are no choices"),
            ("a: float | None", "a", ": no request can carry None: give the default None"),
            ("a: float = '3'", "a", ": the default '3' is no float"),
            ("a: float = True", "a", ": the default True is no float"),
            ("a: int = 2.0", "a", ": the default 2.0 is no integer"),
            ("a: int = False", "a", ": the default False is no integer"),
            ("a: bool = 1", "a", ": the default 1 is no boolean"),
            ("a: Path = '/tmp'", "a", ": the default '/tmp' is no path"),
            ("a: Ticks = 3", "a", ": the default 3 is no timestamp"),
            ("a: Mode = 'fast'", "a", ": the default 'fast' is no Mode"),
            ("a: Window = 'hann'", "a", ": the default 'hann' is no Window"),
            ("a: Literal['x'] = 'y'", "a", ": default 'y' of argument 'a' is none of its choices"),
            ("a: float = float('nan')", "a", ": the default is nan, which is no number"),
            (
                "a: Annotated[float, Argument(minimum=0)] = -1",
                "a",
                ": default -1.0 of argument 'a' must be not below 0",
            ),
            ("a: Annotated[int, Argument(maximum=0)] = 1", "a", ": default 1 of argument 'a' must be not above 0"),
            ("a: Annotated[str, Argument(minimum=0)]", "a", ": only an integer or a float has a minimum"),
            ("a: Annotated[int, Argument(minimum=0.5)]", "a", ": minimum 0.5 of argument 'a' must be an integer"),
            (
                "a: Annotated[int, Argument(type='float')]",
                "a",
                ": the annotation is of type 'integer', but Argument of type 'float'",
            ),
            ("a: Annotated[Mode, Argument(choices=['x'])]", "a", ": the annotation has its own choices"),
            ("a: Annotated[int, Argument(optional=True)]", "a", ": write the default behind the parameter"),
            ("a: Annotated[int, Argument(), Argument()]", "a", ": there is more than one Argument"),
            ("*power: float", "\\*power", f" cannot be an argument of a command: write one parameter for each{listed}"),
            ("a: int, *power", "\\*power", " cannot be an argument of a command"),
            ("a: int, **power", "\\*\\*power", " cannot be an argument of a command"),
            (
                "a: int, *, power",
                "power",
                " is keyword-only, but a request has its arguments by position: give a default",
            ),
            ("*, power: float", "power", " is keyword-only"),
            ("a: int, b", "b", f" has no annotation, but others have: annotate it{listed}"),
            ("a: int, b=3", "b", " has no annotation, but others have"),
            ("a: int = 3, b: int = 4, c: complex = 1j", "c", ": complex is no type of an argument"),
        ):
            for as_text in (False, True):
                whole = rf"\Aparameter {name} of Receiver\.sweep\(\){problem}"
                with self.subTest(parameters, as_text=as_text), self.assertRaisesRegex(TypeError, whole):
                    read(parameters, as_text)

    def test_names_that_are_not_known(self) -> None:
        for annotation, problem in (
            ("Decimal", "name 'Decimal' is not defined"),
            ("'Receiver'", "name 'Receiver' is not defined"),
            ("Path.nothing", "no attribute 'nothing'"),
            ("'int float'", "invalid syntax"),
        ):
            whole = (
                rf"parameter a of Receiver\.sweep\(\): the annotation cannot be evaluated: .*{problem}.*TYPE_CHECKING"
            )
            with self.subTest(annotation), self.assertRaisesRegex(TypeError, whole):
                read(f"a: {annotation}", as_text=True)


class DefinedTests(unittest.TestCase):
    """Where a method is defined, and what it is."""

    def read(self, method: Any) -> list[tuple[str, str]]:
        row = command_of(method)
        assert row is not None
        return [(argument.name, argument.type) for argument in row.arguments]

    def test_names_of_the_class_and_of_the_function_around_it_are_known(self) -> None:
        class Around(Enum):
            """In the function."""

            LEFT = "left"

        class Outer:
            class Inner(Backend):
                class Speed(Enum):
                    """In the class."""

                    FAST = 1

                @command("sweep")
                def sweep(self, speed: Speed, side: Around | None = None) -> Decimal:  # the result is not looked at
                    raise NotImplementedError

        self.assertEqual(self.read(Outer.Inner.sweep), [("speed", "integer"), ("side", "text")])

    def test_what_is_no_parameter_of_the_request(self) -> None:
        class Receiver(Backend):
            @command("plain")
            def plain(this, a: int) -> None: ...  # noqa: N805

            @command("typed")
            def typed(self: Receiver, a: int) -> None: ...

            @staticmethod
            @command("inside")
            def inside(a: int) -> None: ...

            @command("outside")
            @staticmethod
            def outside(a: int) -> None: ...

            @command("of-the-class")
            @classmethod
            def of_the_class(cls, a: int) -> None: ...

            @blocking
            @command("blocks")
            def blocks(self, a: int) -> None: ...

            @command("waits")
            async def waits(self, a: int) -> None: ...

        receiver = Receiver()
        for name in ("plain", "typed", "inside", "outside", "of_the_class", "blocks", "waits"):
            with self.subTest(name):
                self.assertEqual(self.read(vars(Receiver)[name]), [("a", "integer")])
        with self.assertNoLogs("discosbackend", "WARNING"):
            DBProtocolHandler(receiver, reactor=Clock())

    def test_functions_of_own_commands(self) -> None:
        class Attenuators(Backend):
            def own_commands(self):
                @command("set-left")
                def set_left(attenuation: Annotated[float, Argument(unit="dB", maximum=31.5)]):
                    return attenuation

                @command("set-right")
                def set_right(self: int):
                    raise AssertionError

                return [set_left, command("reset")(functools.partial(set_left, 3.5))]

        self.assertEqual(ask(Attenuators(), "?set-left,3"), "!set-left,ok,3.0")
        self.assertEqual(ask(Attenuators(), "?reset"), "!reset,ok,3.5")
        reason = "wrong attenuation '32': must be a finite decimal number not above 31.5"
        self.assertEqual(ask(Attenuators(), "?set-left,32"), reason)

    def test_a_wrapper_has_the_annotations_of_its_method(self) -> None:
        def logged(method: Any) -> Any:
            @functools.wraps(method)
            def wrapper(*args: Any) -> Any:
                return method(*args)

            return wrapper

        class Receiver:
            @command("sweep")
            @logged
            def sweep(self, mode: Mode) -> str:
                return mode.name

        self.assertEqual(ask(Receiver(), "?sweep,slow"), "!sweep,ok,SLOW")

    def test_an_override_keeps_the_arguments(self) -> None:
        class Base(Backend):
            @command("sweep")
            def sweep(self, power: float = -10.0) -> object:
                return power

        class Sub(Base):
            def sweep(self, power: float = 3.0) -> object:
                return power

        self.assertEqual(ask(Sub(), "?sweep"), "!sweep,ok,-10.0")

    def test_a_method_without_self_is_reported_at_the_start(self) -> None:
        class Receiver(Backend):
            @command("sweep")
            def sweep(power: float) -> None: ...  # type: ignore[misc]  # noqa: N805

        with self.assertLogs("discosbackend.handlers", "WARNING") as logs:
            DBProtocolHandler(Receiver(), reactor=Clock())
        self.assertIn(
            "sweep() has no self, so that it cannot answer sweep: write `def sweep(self, power)`", logs.output[0]
        )


class ServedTests(unittest.TestCase):
    class Receiver(Backend):
        """One command."""

        @command("sweep")
        def sweep(
            self,
            power: Annotated[float, Argument(unit="dBm", minimum=-80, maximum=0)] = -10.0,
            speed: Literal["fast", "slow"] = "fast",
            mode: Mode = Mode.SLOW,
            averages: int | None = None,
        ) -> list[object]:
            return [power, speed, mode.name, "none" if averages is None else averages]

    def test_requests(self) -> None:
        for arguments, reply in (
            ("", "!sweep,ok,-10.0,fast,SLOW,none"),
            (",-80", "!sweep,ok,-80.0,fast,SLOW,none"),
            (",0,slow,fast,3", "!sweep,ok,0.0,slow,FAST,3"),
            (",1", "wrong power '1': must be a finite decimal number not below -80 and not above 0"),
            (",0,medium", "wrong speed 'medium': must be fast or slow"),
            (",0,fast,SLOW", "wrong mode 'SLOW': must be fast or slow"),
            (",0,fast,slow,x", "wrong averages 'x': must be an integer"),
            (",0,fast,slow,3,4", "sweep needs at most 4 arguments"),
        ):
            with self.subTest(arguments):
                self.assertEqual(ask(self.Receiver(), f"?sweep{arguments}"), reply)

    def test_the_conformance_kit_tries_what_is_refused(self) -> None:
        found = list(wrong_types(rows_of([self.Receiver.sweep])["sweep"]))
        for position, text in ((0, "-81"), (0, "1"), (1, "xxxxx"), (2, "xxxxx"), (3, "1.5")):
            self.assertTrue([texts for texts, _ in found if texts[position] == text], text)
        for texts, reason in found:
            self.assertEqual(
                ask(self.Receiver(), str(Message(message_type="?", name="sweep", arguments=texts))), reason
            )

    def test_a_timestamp_is_what_the_annotation_says_in_any_class(self) -> None:
        class Plain:
            @command("annotated")
            def annotated(self, at: Ticks = Ticks(3)) -> str:
                return type(at).__name__

            @command("listed", Argument("at", "timestamp"), Argument("end", "timestamp", as_ticks=True))
            def listed(self, at, end):
                return [type(at).__name__, type(end).__name__]

        class Derived(Plain, Backend):
            """A Backend."""

        for kind, reply in ((Plain, "Time,Ticks"), (Derived, "Ticks,Ticks")):
            self.assertEqual(ask(kind(), "?annotated,14309227829708830"), "!annotated,ok,Ticks")
            self.assertEqual(ask(kind(), "?annotated"), "!annotated,ok,Ticks")
            self.assertEqual(ask(kind(), "?listed,14309227829708830,14309227829708830"), f"!listed,ok,{reply}")


if __name__ == "__main__":
    unittest.main()
