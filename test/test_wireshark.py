"""The dissector for Wireshark, on captures that are written here, by tshark."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path
from typing import Any

from discosbackend.commands import COMMANDS

from .serving import ROOT
from .settings import PATIENCE

DISSECTOR = ROOT / "examples" / "deploy" / "discos-backend.lua"
TSHARK = shutil.which("tshark")

CLIENT, SERVER = 50000, 8978


def capture(*segments: tuple[int, bytes], port: int = SERVER) -> bytes:
    """A capture in the format pcap: segments of one connection, 1 ms apart, with the port of their sender."""
    # Its link layer is 101: each packet is one of IPv4.
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    sequence = {CLIENT: 1000, SERVER: 5000}
    for number, (sender, content) in enumerate(segments):
        other = SERVER if sender == CLIENT else CLIENT
        ports = [port if each == SERVER else each for each in (sender, other)]
        tcp = struct.pack(">HHIIBBHHH", *ports, sequence[sender], sequence[other], 0x50, 0x18, 8192, 0, 0)
        sequence[sender] += len(content)
        hosts = [bytes([10, 0, 0, 1 if each == CLIENT else 2]) for each in (sender, other)]
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40 + len(content), number, 0, 64, 6, 0, *hosts)
        packet = ip + tcp + content
        data += struct.pack("<IIII", 1795464000, number * 1000, len(packet), len(packet)) + packet
    return data


@unittest.skipUnless(TSHARK, "needs tshark: apt-get install tshark")
class DissectorTests(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def tshark(self, data: bytes, *options: str) -> str:
        """Run tshark on a capture, and return what it prints."""
        path = self.folder / "capture.pcap"
        path.write_bytes(data)
        done = subprocess.run(
            [str(TSHARK), "-X", f"lua_script:{DISSECTOR}", "-r", str(path), "-o", "tcp.check_checksum:false", *options],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
            # Without the settings and plugins of a user.
            env={**os.environ, "HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder)},
        )
        self.assertNotIn("Lua", done.stderr)
        self.assertNotIn("discos", done.stderr.replace(str(DISSECTOR), ""))
        return done.stdout

    def messages(self, data: bytes, *options: str) -> list[dict[str, Any]]:
        """The fields of each message, by their names; a list for a field that occurs several times."""
        # In two passes, as in Wireshark: replies are known when requests are shown. Without -R, the first pass does not
        # reassemble.
        text = self.tshark(data, "-2", "-R", "tcp", "-T", "json", "--no-duplicate-keys", "-J", "discos", *options)
        found: list[dict[str, Any]] = []
        for frame in json.loads(text):
            layers = frame["_source"]["layers"].get("discos", [])
            found += layers if isinstance(layers, list) else [layers]
        return found

    def test_a_session(self) -> None:
        greeting, status, reply, section, fail = self.messages(
            capture(
                (SERVER, b"!version,ok,1.4\r\n"),
                (CLIENT, b"?status\r\n"),
                (SERVER, b"!status,ok,1795464000.1234567,ok,1\r\n"),
                (CLIENT, b"?set-section,1,0.5,*,-3,CP,3000,1024\r\n"),
                (SERVER, b"!set-section,fail,backend supports 2 sections\r\n"),
            )
        )
        self.assertEqual((greeting["discos.code"], greeting["discos.version.version"]), ("ok", "1.4"))
        self.assertEqual((status["discos.name"], status["discos.help"]), ("status", COMMANDS["status"].help))
        self.assertEqual((status["discos.reply_in"], reply["discos.reply_to"]), ("3", "2"))
        self.assertAlmostEqual(float(reply["discos.time"]), 0.001, delta=1e-6)
        self.assertEqual((reply["discos.status.status"], reply["discos.status.acquiring"]), ("ok", "1"))
        self.assertIn("20:00:00.123456700", reply["discos.status.timestamp"])
        self.assertEqual(
            [section[f"discos.set_section.{name}"] for name in ("section", "start_frequency", "feed", "mode", "bins")],
            ["1", "0.5", "-3", "CP", "1024"],
        )
        # A wildcard is no number.
        self.assertEqual(section["discos.argument"], "*")
        self.assertEqual(fail["discos.reason"], "backend supports 2 sections")
        self.assertNotIn("discos.reply_to", greeting)

    def test_lines_and_segments_need_not_coincide(self) -> None:
        """Two messages in a segment, and one in two segments; requests in advance get their own replies."""
        found = self.messages(
            capture(
                (CLIENT, b"?time\r\n?get-t"),
                (CLIENT, b"p0\r\n"),
                (SERVER, b"!time,ok,1.0000000\r\n!get-tp0,ok,1.5,2.5\r"),
                (SERVER, b"\n"),
            )
        )
        self.assertEqual([each["discos.name"] for each in found], ["time", "get-tp0", "time", "get-tp0"])
        self.assertEqual([each.get("discos.reply_in") for each in found], ["3", "4", None, None])
        self.assertEqual([each.get("discos.reply_to") for each in found], [None, None, "1", "2"])
        self.assertEqual(found[3]["discos.get_tp0.tp0"], ["1.5", "2.5"])

    def test_times(self) -> None:
        """Counts of 100 ns and Unix seconds, as in protocol section 3.5."""
        times = ("17954640001234567", "1795464000.1234567", "1795464000.12345678", "17954640001234567.0", "soon")
        found = self.messages(capture(*((CLIENT, f"?start,{time}\r\n".encode()) for time in times)))
        for each, shown in zip(found, ("123456700", "123456700", "123456780", "123456700"), strict=False):
            self.assertIn(f"20:00:00.{shown}", each["discos.start.timestamp"])
        self.assertEqual(found[4]["discos.argument"], "soon")

    def test_escapes(self) -> None:
        (found,) = self.messages(capture((CLIENT, b"?set-filename,/a\\,b\\\\c\\td\r\n")))
        self.assertEqual(found["discos.set_filename.path"], "/a,b\\c\td")

    def test_what_is_wrong_is_marked(self) -> None:
        """For the expert information of Wireshark, and for its filters."""
        lines = (
            (SERVER, b"!start,fail,x\r\n", "fail"),
            (SERVER, b"!start,invalid,x\r\n", "invalid"),
            (SERVER, b"!start,okay\r\n", "no_message"),
            (CLIENT, b"quit\r\n", "no_message"),
            (CLIENT, b"?own\r\n", "unknown"),
            (CLIENT, b"?set-enable,1\r\n", "count"),
            (CLIENT, b"?status,1\r\n", "count"),
            (SERVER, b"!get-tpi,ok\r\n", "count"),
            (CLIENT, b"?set-integration,soon\r\n", "value"),
            (SERVER, b"!status,ok,1.0000000,ok,2\r\n", "value"),
            (SERVER, b"!start,ok\n", "line_end"),
            # The rest is as it should be.
            (CLIENT, b"?get-tpi\r\n", ""),
            (CLIENT, b"?get-tpi,1,2\r\n", ""),
            (CLIENT, b"?start\n", ""),
            (CLIENT, b"?cal-on,0\r\n", ""),
            (SERVER, b"!get-tpi,ok,1,2,3,4\r\n", ""),
        )
        marks = ("fail", "invalid", "no_message", "unknown", "count", "value", "line_end")
        options = [option for mark in marks for option in ("-e", f"discos.{mark}")]
        data = capture(*((sender, line) for sender, line, _ in lines))
        shown = self.tshark(data, "-T", "fields", "-E", "separator=|", *options).splitlines()
        for (_, line, mark), cells in zip(lines, shown, strict=True):
            with self.subTest(line):
                found = [name for name, cell in zip(marks, cells.split("|"), strict=True) if cell]
                self.assertEqual(found, [mark] if mark else [])

    def test_the_column_and_another_port(self) -> None:
        data = capture((CLIENT, b"?time\r\n?status\r\n"), port=9000)
        columns = ("-T", "fields", "-e", "_ws.col.Protocol", "-e", "_ws.col.Info")
        self.assertNotIn("DISCOS", self.tshark(data, *columns))
        shown = self.tshark(data, *columns, "-o", "discos.ports:8978,9000-9001")
        self.assertEqual(shown, "DISCOS\t?time  ?status\n")

    def test_every_command_is_known(self) -> None:
        lines = [f"?{name}\r\n".encode() for name in COMMANDS]
        found = self.messages(capture(*((CLIENT, line) for line in lines)))
        self.assertEqual(
            [(each["discos.name"], each["discos.help"]) for each in found],
            [(name, row.help) for name, row in COMMANDS.items()],
        )


if __name__ == "__main__":
    unittest.main()
