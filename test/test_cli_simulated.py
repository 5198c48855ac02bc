"""The program's options for simulated instruments: what is listed, recorded, seen, controlled, and goes wrong."""

from __future__ import annotations

import json
import re
import socket
import tempfile
import time
import unittest
from contextlib import chdir
from pathlib import Path

from discosbackend.cli import server as server_program
from discosbackend.cli import simctl
from discosbackend.simulator import INSTRUMENTS, instrument_of
from discosbackend.simulator.control.client import SimulatorControl
from discosbackend.simulator.recording.dump_files import recordings_in
from discosbackend.simulator.recording.dump_reader import RecordingReader

from .program_in_memory import served_in_memory
from .programs import InMemory, Listening, run_program
from .serving import Server, ask, program, read_line, served
from .settings import PATIENCE, wait_until


class FolderMixin(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # by enterContext
        self.folder = Path(self.enterContext(folder))

    def write(self, name: str, text: str) -> str:
        """A file in a folder of its own; its path."""
        (self.folder / name).write_text(text, encoding="utf-8")
        return str(self.folder / name)

    def run_program(self, *options: str, status: int = 0, reactor: InMemory | None = None) -> tuple[str, str]:
        """What it prints to standard output and error, where it does not serve."""
        done = run_program(server_program.main, *options, cwd=self.folder, reactor=reactor)
        self.assertEqual(done.status, status, done.err)
        self.assertNotIn("Traceback", done.err)
        return done.out, done.err


class ListingTests(FolderMixin):
    def test_every_instrument_and_configuration_is_listed(self) -> None:
        listed, _ = self.run_program("--list")
        for name, instrument in INSTRUMENTS.items():
            self.assertRegex(listed, rf"(?m)^{name}: ")
            for each in [*instrument.configurations, *(task.command for task in instrument.tasks)]:
                self.assertRegex(listed, rf"(?m)^ +{re.escape(each)} ")
        for line in (
            (
                "    SKARAB_3S    KKG, 22141.2 to 22328.8 MHz, feeds 0 1 2 3 4 5 6, 14 inputs, 65536 bins of "
                "full Stokes, 40 ms, 7 dB\n"
            ),
            "    SL00         LLP, 1000 to 2500 MHz, feed 0, 2 inputs, 1024 bins, 40 ms, 10 dB\n",
            "    vna-sweep    300 s\n",
        ):
            self.assertIn(line, listed)

    def test_one_instrument_is_listed(self) -> None:
        text, _ = self.run_program("--show", "totalpower")
        listed, _ = self.run_program("--list", self.write("mine.toml", text))
        self.assertEqual(listed, self.run_program("--list", "totalpower")[0])
        self.assertEqual(len(listed.splitlines()), 3)
        # Whatever is to be served besides.
        self.assertEqual(listed, self.run_program("--simulate", "sardara", "--list", "totalpower")[0])
        _, told = self.run_program("--list", self.write("wrong.toml", text.replace("bins = 1", "bins = 0")), status=2)
        self.assertIn("bins must be", told)

    def test_a_profile_can_be_copied(self) -> None:
        for name in INSTRUMENTS:
            text, _ = self.run_program("--show", name)
            self.assertEqual(instrument_of(self.write("mine.toml", text)), INSTRUMENTS[name])

    def test_a_profile_that_there_is_not(self) -> None:
        _, told = self.run_program("--show", "sardra", status=2)
        self.assertIn("unknown instrument 'sardra': did you mean sardara?", told)


class RefusalTests(FolderMixin):
    """One line, and nothing served."""

    def test_wrong_command_lines(self) -> None:
        for options, told in (
            (("--simulate", "nonesuch"), "no instrument is called 'nonesuch'"),
            (("--simulate", "n" * 300), "no instrument is called 'nnn"),
            (("--backend", "a:b", "--seed", "3"), "--seed is for simulated instruments only: leave it out with"),
            (("--backend", "a:b", "--no-data"), "--no-data is for simulated instruments only"),
            (("--data", "x", "--no-data"), "leave out one of them"),
            (("--time-scale", "-1"), "'-1' is not a factor: 0 or more, such as 0.01"),
            (("--time-scale", "nan"), "'nan' is not a factor"),
            (("--seed", "x"), "invalid int value: 'x'"),
            (("--list", "--show", "discos"), "not allowed with argument"),
        ):
            with self.subTest(options):
                self.assertIn(told, self.run_program(*options, status=2)[1])

    def test_files_that_cannot_be_used(self) -> None:
        wrong = self.write("wrong.toml", "colour = 3\n")
        broken = self.write("broken.toml", "[")
        for options, told in (
            (("--simulate", wrong), f"instrument {wrong}: colour is not known"),
            (("--simulate", broken), f"instrument {broken} is no TOML file: "),
            (("--simulate", "."), "instrument .: Is a directory"),
            (("--sky", wrong), f"sky {wrong}: colour is not known: known are sources, diode"),
            (("--sky", "nowhere.toml"), "sky nowhere.toml: No such file or directory"),
            (("--faults", wrong), f"faults {wrong}: colour is not known"),
            (("--faults", "nowhere.toml"), "faults nowhere.toml: No such file or directory"),
            (("--control", "192.0.2.1:80"), "192.0.2.1:80"),
            (("--control", "nonsense"), "nonsense"),
        ):
            with self.subTest(options):
                _, stderr = self.run_program("--port", "0", "--log-level", "critical", *options, status=1)
                self.assertEqual(len(stderr.splitlines()), 1, stderr)
                self.assertTrue(stderr.startswith("discos-backend-server: "), stderr)
                self.assertIn(told, stderr)

    def test_a_fault_may_name_a_command_of_the_instrument_only(self) -> None:
        script = self.write("faults.toml", '[[fault]]\nkind = "fail"\ncommand = "vna-sweep"\nnth = 1\n')
        _, told = self.run_program("--faults", script, status=1)
        self.assertIn("command 'vna-sweep' is none of this instrument's", told)
        with served_in_memory("--no-data", "--faults", script, "--simulate", "mistral") as server:
            (reply,) = server.ask(b"?vna-sweep")
            self.assertTrue(reply.startswith(b"!vna-sweep,fail,"))


class ServingTests(FolderMixin):
    """Simulations at work."""

    def test_recorded_below_the_current_folder_and_only_then(self) -> None:
        for number, (options, wanted) in enumerate(
            (((), "discos-data"), (("--no-data",), ""), (("--data", "mine"), "mine"), (("--data", "a/b"), "a"))
        ):
            cwd = self.folder / str(number)
            cwd.mkdir()
            with self.subTest(options), served_in_memory(*options, cwd=cwd) as server:
                self.assertEqual(list(cwd.iterdir()), [])
                # Wherever the process is by then.
                with chdir(self.folder):
                    self.assertEqual(server.ask(b"?start", b"?stop"), [b"!start,ok\r\n", b"!stop,ok\r\n"])
                self.assertEqual("".join(path.name for path in cwd.iterdir()), wanted)
                self.assertEqual(len(list(cwd.rglob("header.json"))), bool(wanted))

    def test_the_seed_decides(self) -> None:
        def measured(seed: str) -> bytes:
            with served_in_memory("--no-data", "--seed", seed, "--simulate", "sardara") as server:
                return server.ask(b"?set-configuration,SK00", b"?get-tpi,0,0")[1]

        first = measured("1")
        self.assertEqual(measured("1"), first)
        self.assertNotEqual(measured("2"), first)

    def test_a_sky_is_seen_and_recorded(self) -> None:
        sky = self.write("sky.toml", "[sources.bright]\nlevel = 1000.0\n")
        data = self.folder / "data"
        powers = []
        for options in (("--sky", sky, "--data", str(data)), ("--no-data",)):
            with served_in_memory(*options) as server:
                replies = server.ask(b"?set-configuration,SK00", b"?get-tpi,0,0", b"?start", b"?stop")
                self.assertEqual(replies[2:], [b"!start,ok\r\n", b"!stop,ok\r\n"])
                powers.append(float(replies[1].split(b",")[2]))
        self.assertTrue(7 < powers[0] / powers[1] < 15, powers)
        (folder,) = recordings_in(data)
        self.assertEqual(RecordingReader(folder).sky["sources"]["bright"]["level"], 1000.0)

    def test_control(self) -> None:
        with served("--control", "0", "--simulate", "mistral", "--time-scale", "0") as server:
            line = server.next_line()
            found = re.fullmatch(r"discosbackend: controlled at (127\.0\.0\.1:\d+)", line)
            assert found is not None, line
            with server.connect() as connection, SimulatorControl(found[1], timeout=PATIENCE) as control:
                control.fault("receiver warm")
                (reply,) = ask(connection, b"?status")
                self.assertRegex(reply, rb"^!status,ok,\d+\.\d{7},receiver warm,0\r\n$")
                control.pause()
                connection.sendall(b"?version\r\n?time\r\n")
                self.assertTrue(control.state()["paused"])
                self.assertEqual(len(control.state()["connections"]), 1)
                connection.settimeout(0.1)
                with self.assertRaises(TimeoutError):
                    connection.recv(1)
                connection.settimeout(PATIENCE)
                control.resume()
                self.assertEqual(read_line(connection), b"!version,ok,1.4\r\n")
                self.assertTrue(read_line(connection).startswith(b"!time,ok,"))
                control.reset()
                # At the scale of 0 a setup takes no time.
                replies = ask(connection, b"?setup", b"?status")
                self.assertEqual(replies[0], b"!setup,ok\r\n")
                self.assertNotIn(b"receiver warm", replies[1])

    def test_control_by_a_socket_that_goes_with_the_server(self) -> None:
        path = self.folder / "control"
        with served("--control", str(path)) as server:
            self.assertEqual(server.next_line(), f"discosbackend: controlled at {path}")
            with SimulatorControl(str(path), timeout=PATIENCE) as control:
                self.assertEqual(control.state()["instrument"], "discos")
            self.assertEqual(server.stop(15), 0)
        self.assertFalse(path.exists())

    def test_a_standard_output_that_takes_nothing_is_no_reason_not_to_be_controlled(self) -> None:
        path = str(self.folder / "control")
        with open("/dev/full", "wb") as full:
            server = Server(program("--control", path), stdout=full)
        self.addCleanup(server.end)

        def cannot_say() -> bool:
            self.assertIsNone(server.process.poll(), server.log())
            return "cannot write 'discosbackend: controlled at" in server.log()

        wait_until(cannot_say)
        self.assertIn("cannot write 'discosbackend: simulated discos is served", server.log())
        self.assertNotIn("Traceback", server.log())
        with SimulatorControl(path, timeout=PATIENCE) as control:
            control.diode(True)

    def test_a_taken_port_leaves_no_control_behind(self) -> None:
        path = self.folder / "control"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            options = ("--port", str(taken.getsockname()[1]), "--control", str(path), "--log-level", "critical")
            reactor = Listening()
            _, told = self.run_program(*options, status=1, reactor=reactor)
            self.assertIn("cannot listen", told)
        # It was there before.
        self.assertEqual(reactor.listened, [str(path)])
        self.assertFalse(path.exists())

    def test_faults_of_a_script_come_back_the_same(self) -> None:
        script = self.write(
            "faults.toml", 'seed = 5\n[[fault]]\nkind = "fail"\ncommand = "time"\nrate = 0.5\ntext = "bad luck"\n'
        )

        def outcomes() -> str:
            with served_in_memory("--no-data", "--faults", script) as server:
                replies = server.ask(*[b"?time"] * 40)
            self.assertTrue(all(re.match(rb"!time,(ok,\d|fail,bad luck\r\n)", reply) for reply in replies), replies)
            return "".join("-+"[b"ok" in reply] for reply in replies)

        first = outcomes()
        self.assertTrue(10 < first.count("+") < 30, first)
        self.assertEqual(outcomes(), first)

    def test_a_clock_that_is_off(self) -> None:
        script = self.write("faults.toml", '[[fault]]\nkind = "clock-off"\nseconds = 3600\nat = 0\n')
        for options, offset in (((), 0), (("--faults", script), 3600)):
            with served_in_memory("--no-data", *options) as server:
                earliest = time.time()
                told = float(server.ask(b"?time")[0].split(b",")[2])
                # The host's clock may be stepped meanwhile, by less than that.
                self.assertGreater(told - offset, earliest - 60)
                self.assertLess(told - offset, time.time() + 60)

    def test_a_profile_of_ones_own(self) -> None:
        text, _ = self.run_program("--show", "sardara")
        mine = text.replace('name = "sardara"', 'name = "mine"').replace("SK00 ", "MINE ", 1)
        with served_in_memory("--no-data", "--simulate", self.write("mine.toml", mine)) as server:
            self.assertIn("simulated mine is served on", server.announced[0])
            self.assertEqual(server.ask(b"?set-configuration,MINE"), [b"!set-configuration,ok\r\n"])

    def test_a_class_of_ones_own(self) -> None:
        self.write(
            "mine.py",
            "from discosbackend import command\n"
            "from discosbackend.simulator import SimulatedBackend\n"
            "class Mine(SimulatedBackend, instrument='sardara'):\n"
            "    @command('wobble')\n"
            "    def wobble(self): pass\n"
            "class Broken(SimulatedBackend):\n"
            "    def __init__(self, **_): raise RuntimeError('no luck')\n",
        )
        script = self.write("faults.toml", '[[fault]]\nkind = "fail"\ncommand = "wobble"\nnth = 2\n')
        options = ("--simulate", "mine:Mine", "--faults", script, "--data", "data")
        with served_in_memory(*options, cwd=self.folder) as server:
            self.assertIn("simulated sardara is served on", server.announced[0])
            replies = server.ask(b"?wobble", b"?wobble", b"?start", b"?stop")
            self.assertEqual(replies[0], b"!wobble,ok\r\n")
            self.assertTrue(replies[1].startswith(b"!wobble,fail,"))
            self.assertEqual(len(recordings_in(self.folder / "data")), 1)
        for name, told in (
            ("mine:Broken", "cannot create Broken: RuntimeError: no luck"),
            ("mine:Other", "no 'Other' in 'mine'"),
            ("mine:command", "--simulate 'mine:command' is not derived from SimulatedBackend"),
            ("nowhere:Mine", "cannot import 'nowhere'"),
            ("mine.py:Mine", "--simulate 'mine.py:Mine' is not MODULE:NAME"),
        ):
            with self.subTest(name):
                self.assertIn(told, self.run_program("--simulate", name, "--port", "0", status=1)[1])

    def test_a_script_without_a_seed_takes_that_of_the_command_line(self) -> None:
        script = self.write("faults.toml", '[[fault]]\nkind = "fail"\ncommand = "time"\nrate = 0.5\n')

        def outcomes(seed: str) -> list[bool]:
            with served_in_memory("--no-data", "--faults", script, "--seed", seed) as server:
                replies = server.ask(*[b"?time"] * 40)
                struck = [number for number, reply in enumerate(replies, 1) if b",fail," in reply]
                logged = re.findall(r"fault 1, fail, applies to match (\d+): the call of time", server.log())
                self.assertEqual(list(map(int, logged)), struck)
                return [b",ok," in reply for reply in replies]

        first = outcomes("8")
        self.assertEqual(outcomes("8"), first)
        self.assertNotEqual(outcomes("9"), first)

    def test_a_script_that_arms_nothing(self) -> None:
        with served_in_memory("--no-data", "--faults", self.write("faults.toml", "seed = 3\n")) as server:
            self.assertIn("it has no [[fault]], so no fault is armed", server.log())

    def test_the_state_over_the_command(self) -> None:
        path = self.folder / "control"
        with served("--control", str(path)) as server:
            server.next_line()
            done = run_program(simctl.main, "--timeout", f"{PATIENCE:g}", str(path))
        self.assertEqual((done.status, done.err), (0, ""))
        self.assertEqual(json.loads(done.out)["configuration"], "unconfigured")


if __name__ == "__main__":
    unittest.main()
