"""Tests of backend: the class held against the table, and the marks its methods can carry."""

from __future__ import annotations

import functools
import inspect
import unittest
from collections.abc import Callable, Iterable
from typing import Any

from discosbackend import backend as module
from discosbackend import errors
from discosbackend.backend import (
    Backend,
    BackendError,
    Blocking,
    blocking,
    blocking_of,
    command,
    commands_of,
    declared_commands,
)
from discosbackend.commands import COMMANDS, Argument, Command, Field
from discosbackend.grammar import parse_message
from discosbackend.handlers import DBProtocolHandler

HOOKS = ("server_started", "server_stopping", "quick_look")

# How a method's author reads an argument's type.
ANNOTATIONS = {"integer": "int", "float": "float", "text": "str", "path": "str", "timestamp": "Ticks"}


class Proxy:
    """Something remote, which is asked for every attribute that it has not itself."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError("not connected")


def methods_of(cls: type) -> dict[str, Any]:
    """The public methods of a class."""
    return {name: member for name, member in inspect.getmembers(cls, inspect.isfunction) if name[0] != "_"}


class BackendTests(unittest.TestCase):
    """One method a command."""

    rows = tuple(row for row in COMMANDS.values() if row.name != "version")

    def test_one_method_a_command_and_the_hooks(self) -> None:
        self.assertEqual(
            set(methods_of(Backend)),
            {row.method for row in self.rows} | {*HOOKS, "own_commands", "spawn", "telemetry_channels"},
        )

    def test_parameters_and_their_order(self) -> None:
        for row in self.rows:
            with self.subTest(row.name):
                parameters = list(inspect.signature(getattr(Backend, row.method)).parameters.values())
                self.assertEqual(parameters[0].name, "self")
                self.assertEqual(
                    [parameter.name for parameter in parameters[1:]],
                    [argument.name.replace("-", "_") for argument in row.arguments],
                )
                for parameter in parameters:
                    self.assertIs(parameter.kind, inspect.Parameter.POSITIONAL_OR_KEYWORD)

    def test_types(self) -> None:
        for row in self.rows:
            signature = inspect.signature(getattr(Backend, row.method))
            for argument in row.arguments:
                with self.subTest(row.name, argument=argument.name):
                    parameter = signature.parameters[argument.name.replace("-", "_")]
                    expected = {ANNOTATIONS[argument.type]}
                    if argument.wildcard:
                        expected.add("str")
                    if argument.optional and argument.type == "timestamp":
                        expected.add("None")
                    self.assertEqual(set(parameter.annotation.split(" | ")), expected)

    def test_what_is_not_passed_has_a_default(self) -> None:
        for row in self.rows:
            signature = inspect.signature(getattr(Backend, row.method))
            for argument in row.arguments:
                with self.subTest(row.name, argument=argument.name):
                    parameter = signature.parameters[argument.name.replace("-", "_")]
                    if not argument.optional:
                        self.assertIs(parameter.default, inspect.Parameter.empty)
                    elif argument.default is None:
                        self.assertIn(parameter.default, (None, 0.0))

    def test_every_method_can_be_called_as_the_table_says(self) -> None:
        for row in self.rows:
            signature = inspect.signature(getattr(Backend(), row.method))
            for count in range(row.needed, len(row.arguments) + 1):
                with self.subTest(row.name, count=count):
                    signature.bind(*row.parse(self.good_texts(row)[:count]) if not row.together else ())
            signature.bind(*row.parse(self.good_texts(row)))

    @staticmethod
    def good_texts(row: Command) -> list[str]:
        """Texts of the right types."""
        return ["5" if argument.type != "timestamp" else "5.0" for argument in row.arguments]

    def test_what_is_not_overridden_is_not_supported(self) -> None:
        for row in self.rows:
            with self.subTest(row.name), self.assertRaises(BackendError) as caught:
                getattr(Backend(), row.method)(*row.parse(self.good_texts(row)))
            self.assertEqual(str(caught.exception), "not supported by this backend")

    def test_hooks_do_nothing(self) -> None:
        for name in HOOKS:
            self.assertIsNone(getattr(Backend(), name)())
            self.assertEqual(list(inspect.signature(getattr(Backend, name)).parameters), ["self"])
        self.assertEqual(Backend().telemetry_channels(), ())

    def test_everything_is_documented_and_typed(self) -> None:
        for name, method in methods_of(Backend).items():
            with self.subTest(name):
                self.assertRegex(inspect.getdoc(method) or "", r"\A[A-Z`].*[.:]")
                signature = inspect.signature(method)
                self.assertIsNot(signature.return_annotation, inspect.Signature.empty)
                for parameter in list(signature.parameters.values())[1:]:
                    self.assertIsNot(parameter.annotation, inspect.Parameter.empty)

    def test_units_are_documented(self) -> None:
        for row in self.rows:
            for unit in {one.unit for one in row.arguments + row.reply} & {"ms", "MHz"}:
                with self.subTest(row.name, unit=unit):
                    self.assertIn(unit, inspect.getdoc(getattr(Backend, row.method)) or "")

    def test_nothing_is_marked(self) -> None:
        self.assertEqual(declared_commands(Backend()), {})
        for name in methods_of(Backend):
            self.assertIsNone(blocking_of(getattr(Backend(), name)))

    def test_a_subclass_needs_no_init(self) -> None:
        class Bare(Backend):
            """Its author forgot super().__init__()."""

            def __init__(self) -> None:
                self.own = 1

            def get_rms(self) -> list[float]:
                return [1.5]

        self.assertEqual(Bare().get_rms(), [1.5])
        with self.assertRaises(BackendError):
            Bare().status()

    def test_errors(self) -> None:
        self.assertIs(BackendError, errors.BackendError)
        self.assertTrue(issubclass(BackendError, errors.HandlerException))
        self.assertEqual(str(BackendError("unknown mode")), "unknown mode")

    def test_names_for_authors(self) -> None:
        self.assertLessEqual(
            {"Argument", "Backend", "BackendError", "Field", "Ticks", "blocking", "command"},
            set(module.__all__),
        )
        for name in module.__all__:
            self.assertTrue(hasattr(module, name), name)


class BlockingTests(unittest.TestCase):
    """@blocking and @blocking(lock=...)."""

    def test_bare(self) -> None:
        def method() -> int:
            return 5

        self.assertIs(blocking(method), method)
        self.assertEqual(blocking_of(method), Blocking())
        self.assertEqual(Blocking().lock, "")
        self.assertEqual(method(), 5)

    def test_with_a_lock(self) -> None:
        class Instrument(Backend):
            """Two methods on one serial link."""

            @blocking(lock="link")
            def get_rms(self) -> list[float]:
                return [1.5]

            @blocking()  # type: ignore[call-overload]
            def get_tp0(self) -> list[float]:
                return [2.5]

            def get_tpi(self, frequency: float = 0.0, bandwidth: float = 0.0) -> list[float]:
                return [frequency, bandwidth]

        instrument = Instrument()
        self.assertEqual(blocking_of(instrument.get_rms), Blocking("link"))
        self.assertEqual(blocking_of(instrument.get_tp0), Blocking(""))
        self.assertIsNone(blocking_of(instrument.get_tpi))
        self.assertEqual(instrument.get_rms(), [1.5])

    def test_a_subclass_decides_anew(self) -> None:
        class Instrument(Backend):
            """Blocks in two methods."""

            @blocking
            def get_rms(self) -> list[float]:
                return [1.5]

            @blocking
            def get_tp0(self) -> list[float]:
                return [2.5]

        class Quick(Instrument):
            """Overrides one of them."""

            def get_rms(self) -> list[float]:
                return [3.5]

        self.assertIsNone(blocking_of(Quick().get_rms))
        self.assertEqual(blocking_of(Quick().get_tp0), Blocking())
        self.assertEqual(blocking_of(Instrument().get_rms), Blocking())

    def test_what_cannot_block(self) -> None:
        async def coroutine() -> None:
            """Waits without blocking."""

        for method in (coroutine, 5, "link", None, property(lambda self: 5)):
            with self.subTest(repr(method)), self.assertRaises(TypeError):
                blocking(lock="link")(method)  # type: ignore[type-var]
            if method is not None:
                with self.subTest(repr(method)), self.assertRaises(TypeError):
                    blocking(method)  # type: ignore[type-var]

    def test_a_lock_must_be_named(self) -> None:
        with self.assertRaises(TypeError) as caught:
            blocking("link")  # type: ignore[call-overload]
        self.assertIn("lock='link'", str(caught.exception))

    def test_never_silently_ignored(self) -> None:
        """The mark of a static or class method has to reach its callable, or nobody would use a thread."""

        def method(*_: Any) -> int:
            return 5

        for kind in (staticmethod, classmethod):
            with self.subTest(kind.__name__):
                inside = type("Instrument", (), {"status": kind(blocking(functools.partial(method)))})
                self.assertEqual(blocking_of(inside().status), Blocking())
                try:
                    marked = blocking(kind(method))  # type: ignore[type-var]
                except TypeError:
                    continue
                outside = type("Instrument", (), {"status": marked})
                self.assertEqual(blocking_of(outside().status), Blocking())

    def test_wrapped(self) -> None:
        """A decorator that uses functools.wraps keeps the mark."""

        @blocking(lock="a")
        def method() -> int:
            return 5

        @functools.wraps(method)
        def wrapper() -> int:
            return method()

        self.assertEqual(blocking_of(wrapper), Blocking("a"))

    def test_somebody_elses_attribute_is_no_mark(self) -> None:
        def method() -> None:
            """Has an attribute of that name."""

        method.__discos_blocking__ = True  # type: ignore[attr-defined]
        self.assertIsNone(blocking_of(method))
        self.assertIsNone(blocking_of(None))
        self.assertIsNone(blocking_of(len))


class CommandTests(unittest.TestCase):
    """@command, and what a class has declared."""

    def test_signature(self) -> None:
        parameters = inspect.signature(command).parameters
        self.assertEqual(list(parameters), ["name", "arguments", "reply", "lane", "timeout", "help", "changes"])
        self.assertIs(parameters["arguments"].kind, inspect.Parameter.VAR_POSITIONAL)
        defaults = {name: parameters[name].default for name in ("reply", "lane", "timeout", "help")}
        self.assertEqual(defaults, {"reply": (), "lane": "device", "timeout": None, "help": ""})

    def test_declaration(self) -> None:
        power, tones = Argument("power", "float", "dBm", optional=True), Field("tones", "integer")

        class Mistral(Backend):
            """With two commands of its own."""

            @command("vna-sweep", power, reply=[tones], lane="files", timeout=5.0, help="Find the tones.")
            def vna_sweep(self, power: float = -10.0) -> int:
                """Find them."""
                return int(power)

            @command("reset")
            def begin_anew(self) -> None:
                """Under another name than the command's."""

        found = declared_commands(Mistral())
        self.assertEqual(
            found,
            {
                "vna-sweep": (
                    Command("vna-sweep", (power,), (tones,), "files", 5.0, "Find the tones."),
                    "vna_sweep",
                ),
                "reset": (Command("reset"), "begin_anew"),
            },
        )
        self.assertEqual(Mistral().vna_sweep(3.5), 3, "still an ordinary method")
        self.assertEqual(found["reset"][0].lane, "device")

    def test_on_a_class_that_does_not_inherit(self) -> None:
        class Plain:
            """As written for the original, with a command of its own."""

            @command("setup")
            def setup(self) -> None:
                """Set up."""

        self.assertEqual(list(declared_commands(Plain())), ["setup"])

    def test_with_blocking_in_either_order(self) -> None:
        class Mistral(Backend):
            """Sweeps take long."""

            @command("vna-sweep")
            @blocking(lock="link")
            def vna_sweep(self) -> None:
                """Sweep."""

            @blocking(lock="link")
            @command("target-sweep")
            def target_sweep(self) -> None:
                """Sweep."""

        self.assertEqual(set(declared_commands(Mistral())), {"vna-sweep", "target-sweep"})
        for method in (Mistral().vna_sweep, Mistral().target_sweep):
            self.assertEqual(blocking_of(method), Blocking("link"))

    def test_coroutines_and_static_methods(self) -> None:
        class Mistral(Backend):
            """In other styles."""

            @command("setup")
            async def setup(self) -> None:
                """Set up."""

            @staticmethod
            @command("inside")
            def inside() -> None:
                """The mark is on the function."""

            @command("outside")
            @staticmethod
            def outside() -> None:
                """The mark is on the static method."""

        self.assertEqual(set(declared_commands(Mistral())), {"setup", "inside", "outside"})

    def test_the_protocols_own_names_are_taken(self) -> None:
        for name in COMMANDS:
            with self.subTest(name), self.assertRaises(ValueError) as caught:
                command(name)
            self.assertIn(COMMANDS[name].method, str(caught.exception))

    def test_rows_that_no_server_could_serve(self) -> None:
        optional, needed = Argument("a", "text", optional=True), Argument("b", "text")
        many = Field("many", "float", repeated=True)
        for make in (
            lambda: command(""),
            lambda: command("vna_sweep"),
            lambda: command("1a"),
            lambda: command("n" * 65),
            lambda: command("a,b"),
            lambda: command("a", lane="slow"),
            lambda: command("a", timeout=0),
            lambda: command("a", optional, needed),
            lambda: command("a", reply=(many, many)),
        ):
            with self.assertRaises(ValueError):
                make()


class DeclaredCommandsTests(unittest.TestCase):
    """Inheritance."""

    class Base(Backend):
        """Declares one command."""

        @command("setup", help="base")
        def prepare(self) -> str:
            """Prepare."""
            return "base"

    def test_inherited(self) -> None:
        class Sub(self.Base):  # type: ignore[misc, name-defined]
            """Adds one."""

            @command("reset")
            def reset(self) -> None:
                """Reset."""

        self.assertEqual(set(declared_commands(Sub())), {"setup", "reset"})
        self.assertEqual(set(declared_commands(self.Base())), {"setup"}, "nothing leaks upwards")

    def test_an_override_keeps_the_declaration(self) -> None:
        class Sub(self.Base):  # type: ignore[misc, name-defined]
            """Overrides the method, undecorated."""

            def prepare(self) -> str:
                return "sub"

        row, attribute = declared_commands(Sub())["setup"]
        self.assertEqual((row.name, row.help), ("setup", "base"))
        self.assertEqual(getattr(Sub(), attribute)(), "sub")

    def test_an_override_may_declare_anew(self) -> None:
        class Sub(self.Base):  # type: ignore[misc, name-defined]
            """The same method, another row."""

            @command("setup", lane="files", help="sub")
            def prepare(self) -> str:
                return "sub"

        class Renamed(self.Base):  # type: ignore[misc, name-defined]
            """The same method, another name."""

            @command("make-ready")
            def prepare(self) -> str:
                return "renamed"

        row, attribute = declared_commands(Sub())["setup"]
        self.assertEqual((row.name, row.help, row.lane, attribute), ("setup", "sub", "files", "prepare"))
        self.assertEqual(list(declared_commands(Renamed())), ["make-ready"])

    def test_two_methods_of_one_name(self) -> None:
        class Twice(Backend):
            """In one class."""

            @command("setup")
            def one(self) -> None:
                """One."""

            @command("setup")
            def other(self) -> None:
                """The other."""

        class Sub(self.Base):  # type: ignore[misc, name-defined]
            """In a subclass, under another method."""

            @command("setup")
            def other(self) -> None:
                """The other."""

        for cls, names in ((Twice, ("one", "other")), (Sub, ("prepare", "other"))):
            with self.subTest(cls.__name__), self.assertRaises(ValueError) as caught:
                declared_commands(cls())
            for word in ("setup", *names):
                self.assertIn(word, str(caught.exception))

    def test_several_bases(self) -> None:
        class Mixin:
            """No Backend."""

            @command("reset")
            def reset(self) -> str:
                """Reset."""
                return "mixin"

        class Left(self.Base):  # type: ignore[misc, name-defined]
            """One side of a diamond."""

        class Right(self.Base):  # type: ignore[misc, name-defined]
            """The other."""

        class Both(Mixin, Left, Right):
            """All of them."""

        self.assertEqual(set(declared_commands(Both())), {"setup", "reset"})

    def test_class_attributes_are_not_looked_into(self) -> None:
        """Reading a property asks the hardware, which may not answer yet."""

        class Odd(self.Base):  # type: ignore[misc, name-defined]
            """With everything that raises when it is read."""

            @property
            def temperature(self) -> float:
                raise RuntimeError("not connected")

            @functools.cached_property
            def pressure(self) -> float:
                raise RuntimeError("not connected")

            def __getattr__(self, name: str) -> Any:
                raise RuntimeError(name)

            table = {"setup": Command("setup")}
            row = Command("reset")
            device = Proxy()

        self.assertEqual(list(declared_commands(Odd())), ["setup"])

    def test_somebody_elses_attribute_is_no_mark(self) -> None:
        class Odd(Backend):
            """Has an attribute of that name."""

            def own(self) -> None:
                """Not a command."""

            own.__discos_command__ = "setup"  # type: ignore[attr-defined]

        self.assertEqual(declared_commands(Odd()), {})


class OwnCommandsTests(unittest.TestCase):
    """Commands that depend on the instance: own_commands()."""

    class Valves(Backend):
        """As many commands as it is given names, and one that every instance has."""

        def __init__(self, *names: str) -> None:
            self.names = names
            self.opened: list[str] = []

        @command("count", reply=[Field("count", "integer")])
        def count(self) -> int:
            return len(self.opened)

        def own_commands(self) -> Iterable[Callable[..., Any]]:
            return map(self.opening, self.names)

        def opening(self, name: str) -> Callable[[int], str]:
            @command(f"open-{name}", Argument("degrees", "integer", minimum=1), lane="files", timeout=5.0, help="Open.")
            def opens(degrees: int) -> str:
                self.opened.append(f"{name} {degrees}")
                return name

            return opens

    def test_each_instance_has_its_own(self) -> None:
        left, right = self.Valves("a", "b"), self.Valves()
        self.assertEqual(set(commands_of(left)), {"count", "open-a", "open-b"})
        self.assertEqual(set(commands_of(right)), {"count"})
        row, opens = commands_of(left)["open-b"]
        self.assertEqual(
            row, Command("open-b", (Argument("degrees", "integer", minimum=1),), (), "files", 5.0, "Open.")
        )
        self.assertEqual(opens(3), "b")
        self.assertEqual((left.opened, right.opened), (["b 3"], []))
        self.assertEqual(commands_of(Backend()), {})

    def test_they_are_answered_as_any_other(self) -> None:
        backend = self.Valves("a")
        handler = DBProtocolHandler(backend, timeouts={"open-a": 7.0})
        for request, reply in (
            ("?open-a,90", "!open-a,ok,a"),
            ("?count", "!count,ok,1"),
            ("?open-b,1", "HandlerException: invalid command 'open-b'"),
            ("?open-a,0", "HandlerException: wrong degrees '0': must be an integer not below 1"),
            ("?open-a", "HandlerException: open-a needs 1 argument"),
        ):
            with self.subTest(request):
                try:
                    answer = str(handler.handle(parse_message(request)))
                except errors.HandlerException as problem:
                    answer = f"{type(problem).__name__}: {problem}"
                self.assertEqual(answer, reply)
        self.assertEqual(backend.opened, ["a 90"])

    def test_they_may_block(self) -> None:
        class Slow(Backend):
            """With one that blocks."""

            def own_commands(self) -> Iterable[Callable[..., Any]]:
                @command("wait")
                @blocking(lock="link")
                def wait() -> None:
                    """Wait."""

                return [wait]

        self.assertEqual(blocking_of(commands_of(Slow())["wait"][1]), Blocking("link"))

    def test_on_a_class_that_is_no_backend(self) -> None:
        plain = type("Plain", (), {"own_commands": lambda self: [command("reset")(lambda: "done")]})()
        self.assertEqual(str(DBProtocolHandler(plain).handle(parse_message("?reset"))), "!reset,ok,done")
        # A proxy is not asked.
        self.assertEqual(commands_of(Proxy()), {})

    def test_what_cannot_be(self) -> None:
        def unmarked() -> None:
            """Without @command."""

        for functions, problem, text in (
            ([unmarked], TypeError, r"own_commands\(\) returned <function .*unmarked.*>, which has no @command"),
            ([Command("reset")], TypeError, "which has no @command"),
            ([command("reset")(lambda: None)] * 2, ValueError, "'reset' is declared twice"),
            ([command("count")(lambda: 0)], ValueError, "'count' is declared twice"),
        ):
            kind = type("Odd", (self.Valves,), {"own_commands": lambda self, found=functions: found})
            for use in (commands_of, DBProtocolHandler):
                with self.subTest(text, use=use), self.assertRaisesRegex(problem, text):
                    use(kind())


if __name__ == "__main__":
    unittest.main()
