"""SimulatorControl, the Python class: where it connects, what it sends, what it makes of the answers."""

from __future__ import annotations

import inspect
import json
import math
import socket
import subprocess
import sys
import threading
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np

from discosbackend.simulator.control.client import SimulatorControl, address_text, control_address
from discosbackend.simulator.errors import ControlError

from .serving import ROOT
from .settings import PATIENCE


class AddressTests(unittest.TestCase):
    def test_addresses(self) -> None:
        for text, where, told in (
            ("4321", ("127.0.0.1", 4321), "127.0.0.1:4321"),
            (4321, ("127.0.0.1", 4321), "127.0.0.1:4321"),
            ("0", ("127.0.0.1", 0), "127.0.0.1:0"),
            ("127.0.0.1:65535", ("127.0.0.1", 65535), "127.0.0.1:65535"),
            ("127.1.2.3:5", ("127.1.2.3", 5), "127.1.2.3:5"),
            ("localhost:5", ("127.0.0.1", 5), "127.0.0.1:5"),
            ("[::1]:5", ("::1", 5), "[::1]:5"),
            ("/run/x.sock", "/run/x.sock", "/run/x.sock"),
            ("./4321", "./4321", "./4321"),
            ("/run/a:5", "/run/a:5", "/run/a:5"),
        ):
            with self.subTest(text):
                self.assertEqual(control_address(text), where)
                self.assertEqual(address_text(where), told)
                self.assertEqual(control_address(told), where)

    def test_what_others_could_reach_is_refused(self) -> None:
        hosts = ("0.0.0.0", "192.0.2.7", "[::]", "[2001:db8::1]", "example.org", "*", "128.0.0.1")
        for text in (f"{host}:5" for host in hosts):
            with self.subTest(text), self.assertRaises(ControlError) as caught:
                control_address(text)
            self.assertIn("is not this host's own: control has no password", str(caught.exception))
            self.assertIn("say a port such as 4321, or the path of", str(caught.exception))

    def test_what_is_no_address(self) -> None:
        no_ports = ("", "x", "65536", "-1", ":5", "1.5", "127.0.0.1", "127.0.0.1:", "\u0663", "9" * 5000)
        for text in (*no_ports, "/run/", "/a\0b"):
            with self.subTest(text[:20]), self.assertRaises(ControlError) as caught:
                control_address(text)
            self.assertIn("say a port such as 4321, or the path of", str(caught.exception))
            self.assertLess(len(str(caught.exception)), 300)


@contextmanager
def answering(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server for one connection, which is handed to `serve` in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)

        def accept() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(PATIENCE)
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join(PATIENCE)


def until_closed(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


class SimulatorControlTests(unittest.TestCase):
    """What the Python class does with what it is answered."""

    def test_what_each_method_sends(self) -> None:
        for method, arguments, sent in (
            ("state", (), {"do": "state"}),
            ("diode", (True,), {"do": "diode", "on": True}),
            ("tsys", (80, range(2)), {"do": "tsys", "kelvin": 80.0, "inputs": [0, 1]}),
            ("tsys", (80,), {"do": "tsys", "kelvin": 80.0}),
            ("mark", (np.float32(5), 3), {"do": "mark", "kelvin": 5.0, "inputs": [3]}),
            ("source", ("a", 1.5, (0, 3)), {"do": "source", "name": "a", "level": 1.5, "feeds": [0, 3]}),
            ("source", ("a", None, None, 3, 4), {"transit": 3.0, "crossing": 4.0}),
            ("source", ("a", None, None, None, None, 0.5, 30), {"linear": 0.5, "angle": 30.0}),
            ("line", ("a", "HI", 2, 3), {"do": "line", "name": "a", "rest": "HI", "width": 2.0, "peak": 3.0}),
            ("line", ("a", 1420, 2, 3, -4), {"rest": 1420.0, "velocity": -4.0}),
            ("remove", ("a",), {"do": "remove", "name": "a"}),
            ("clear_sky", (), {"do": "clear-sky"}),
            ("clock_jump", (-3,), {"do": "clock-jump", "seconds": -3.0}),
            ("clock_drift", (3,), {"do": "clock-drift", "ppm": 3.0}),
            ("clock_offset", (3,), {"do": "clock-offset", "seconds": 3.0}),
            ("fault", ("warm",), {"do": "fault", "text": "warm"}),
            ("fault_clear", (), {"do": "fault-clear"}),
            ("pause", (), {"do": "pause"}),
            ("resume", (), {"do": "resume"}),
            ("reset", (), {"do": "reset"}),
            ("faults_add", ("hang",), {"do": "faults-add", "kind": "hang"}),
            ("faults_list", (), {"do": "faults-list"}),
            ("faults_remove", (3,), {"do": "faults-remove", "number": 3}),
            ("faults_clear", (), {"do": "faults-clear"}),
            ("faults_clear", (3,), {"do": "faults-clear", "seed": 3}),
        ):
            with self.subTest(method, arguments=arguments):
                control = SimulatorControl.__new__(SimulatorControl)
                with mock.patch.object(control, "_exchange", return_value={"ok": [1]}) as exchange:
                    returned = getattr(control, method)(*arguments)
                ((line,), _) = exchange.call_args
                self.assertEqual(json.loads(line) | sent, json.loads(line))
                self.assertTrue(line.endswith(b"}\n"))
                annotation = inspect.signature(getattr(control, method)).return_annotation
                self.assertEqual(returned is None, annotation == "None")

    def test_what_cannot_be_meant_is_not_sent(self) -> None:
        sent: list[bytes] = []
        with answering(lambda connection: sent.append(connection.recv(1))) as port:
            with SimulatorControl(port) as control:
                for call, told in (
                    (lambda: control.tsys(math.nan), "kelvin must be a finite number in K, not nan"),
                    (lambda: control.diode(1), "on must be on or off"),  # type: ignore[arg-type]
                    (lambda: control.source("a\nb"), "name must be one line"),
                    (lambda: control.faults_add("late", seconds=math.inf), "cannot be sent"),
                    (lambda: control.faults_add("late", seconds=object()), "cannot be sent"),
                ):
                    with self.subTest(told), self.assertRaises(ControlError) as caught:
                        call()
                    self.assertIn(told, str(caught.exception))
        self.assertEqual(sent, [b""])

    def test_answers(self) -> None:
        """In pieces, too; a refusal leaves the connection as it is."""

        def serve(connection: socket.socket) -> None:
            connection.recv(100)
            for byte in b'{"error": "no: yes"}\n':
                connection.send(bytes([byte]))
            connection.recv(100)
            connection.sendall(b'{"ok": {"a": "\xc3\xa9"}}\n')
            until_closed(connection)

        with answering(serve) as port, SimulatorControl(f"127.0.0.1:{port}") as control:
            with self.assertRaises(ControlError) as caught:
                control.pause()
            self.assertEqual(str(caught.exception), "no: yes")
            self.assertEqual(control.state(), {"a": "\xe9"})

    def test_what_is_no_answer(self) -> None:
        for answer, told in (
            (b"!version,ok,1.4\r\n", "speaks the DISCOS protocol: give the address of"),
            (b"HTTP/1.1 400\n", "is no control: give the address"),
            (b"\xff\n", "is no control"),
            (b"[]\n", "is no control"),
            (b"{}\n", "is no control"),
            (b"[" * 100000 + b"\n", "is no control"),
            (b"", "closed the connection"),
            (b'{"ok":', "closed the connection"),
        ):

            def serve(connection: socket.socket, answer: bytes = answer) -> None:
                connection.recv(100)
                connection.sendall(answer)

            with self.subTest(answer), answering(serve) as port, SimulatorControl(port) as control:
                with self.assertRaises(ControlError) as caught:
                    control.state()
                self.assertIn(told, str(caught.exception))
                self.assertIn(f"127.0.0.1:{port}", str(caught.exception))
                with self.assertRaisesRegex(ControlError, "the connection is closed"):
                    control.state()

    def test_who_is_cut_off_while_it_sends_reads_why(self) -> None:
        with answering(until_closed) as port, SimulatorControl(port) as control:
            with mock.patch.object(control._lines, "_socket") as cut:
                cut.sendall.side_effect = BrokenPipeError
                cut.recv.side_effect = [b'{"error": "a line is too long"}\n']
                with self.assertRaisesRegex(ControlError, "a line is too long"):
                    control.state()

    def test_no_answer(self) -> None:
        with answering(until_closed) as port, SimulatorControl(port, timeout=0.05) as control:
            with self.assertRaisesRegex(ControlError, r"no answer from 127\.0\.0\.1:\d+ within 0\.05 s"):
                control.state()
            # What comes late must not be taken for the next answer.
            with self.assertRaisesRegex(ControlError, "the connection is closed"):
                control.state()

    def test_nobody_there(self) -> None:
        # It belongs to a socket that does not listen: nobody else gets it meanwhile.
        taken = self.enterContext(socket.socket())
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for address in (port, "/nonesuch/control.sock", "/" + "x" * 200):
            with self.subTest(address), self.assertRaises(ControlError) as caught:
                SimulatorControl(address)
            where = address_text(control_address(address))
            self.assertIn(f"nothing is controlled at {where}: ", str(caught.exception))
            self.assertIn("was the server started with --control?", str(caught.exception))

    def test_it_loads_neither_twisted_nor_numpy(self) -> None:
        for module in ("simulator.control.client", "cli.simctl"):
            code = f"import discosbackend.{module}, sys; print(*sys.modules)"
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True)
            self.assertEqual(set(done.stdout.split()) & {"twisted", "numpy", "astropy"}, set())


if __name__ == "__main__":
    unittest.main()
