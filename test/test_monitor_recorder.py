"""The flight recorder: its lines, its file after a crash, its rotation, and a disk that is full, slow or absent."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from discosbackend.cli import access_options, server
from discosbackend.exchanges import ConnectionEvent, Exchange, Reads, ReadValues
from discosbackend.monitor import recorder as recorder_module
from discosbackend.monitor import recording_lines
from discosbackend.monitor.batches import Batches
from discosbackend.monitor.live import Live
from discosbackend.monitor.recorder import Recorder, RecordingError
from discosbackend.monitor.recording_lines import line_of, lines_of
from discosbackend.ticks import Ticks

from .in_memory import Scripted, greeted, ok
from .program_in_memory import served_in_memory
from .programs import run_program
from .serving import ROOT, Server, ask, program, served
from .settings import LONG, PATIENCE, wait_until

WHOLE = b'{"discos-recording": 1, "server": "x", "begin": "1.0000000"}\n'


def exchange(
    number: int = 1, request: bytes = b"?status", reply: bytes | None = b"!status,ok,0", **more: Any
) -> Exchange:
    fields = {"connection": number, "peer": "10.0.0.7:4711", "begin": Ticks(17959999995000000), "name": "status"}
    fields |= {"code": "ok", "changes": False, "seconds": 0.0001234}
    return Exchange(request=request, reply=reply, **{**fields, **more})


def objects(path: Path | str) -> list[dict[str, Any]]:
    """All lines of a file, each of which has to be a JSON object with its end."""
    text = Path(path).read_bytes()
    assert text.endswith(b"\n") or not text, text[-80:]
    return [json.loads(line) for line in text.splitlines()]


def exchanges(path: Path | str) -> list[dict[str, Any]]:
    return [line for line in objects(path) if "q" in line]


class FormatTests(unittest.TestCase):
    """The lines, byte by byte."""

    def test_lines(self) -> None:
        for event, line in (
            (
                exchange(reply=b"!status,ok", peer="p"),
                b'{"t": "1795999999.5000000", "c": 1, "peer": "p", "q": "?status", "a": "!status,ok", "s": 0.0001234}',
            ),
            (
                exchange(2, b'\xff"\\', None, peer="\udcff", begin=Ticks(1), seconds=3),
                b'{"t": "0.0000001", "c": 2, "peer": "\\udcff", "q": "\\u00ff\\"\\\\", "a": null, "s": 3.0000000}',
            ),
            (
                ConnectionEvent(3, "[::1]:5", Ticks(17959999995000001), "open"),
                b'{"t": "1795999999.5000001", "c": 3, "peer": "[::1]:5", "event": "open"}',
            ),
        ):
            with self.subTest(line):
                self.assertEqual(line_of(event), line + b"\n")

    @given(st.binary(), st.none() | st.binary(), st.text(), st.integers(0, 10**18), st.floats(0, 10**6))
    def test_nothing_is_lost(self, request: bytes, reply: bytes | None, peer: str, begin: int, seconds: float) -> None:
        line = line_of(exchange(1, request, reply, peer=peer, begin=Ticks(begin), seconds=seconds))
        self.assertEqual((line.count(b"\n"), line[-1:], line.isascii()), (1, b"\n", True))
        found = json.loads(line)
        self.assertEqual(list(found), ["t", "c", "peer", "q", "a", "s"])
        self.assertEqual(found["q"].encode("latin-1"), request)
        self.assertEqual(None if found["a"] is None else found["a"].encode("latin-1"), reply)
        self.assertEqual(found["peer"], peer)
        self.assertEqual(Ticks.parse(found["t"]), begin)
        self.assertAlmostEqual(found["s"], seconds, delta=1e-7)


SECOND = 10**7
READS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.just(""),
        st.floats(0, 0.4) | st.floats(0, 3),
        st.binary(max_size=9) | st.sampled_from((b"?status", b"?x,%d")),
        st.just("status"),
        st.binary(max_size=9) | st.sampled_from((b"!status,ok,1628683207.1234567,ok,0", b"a\nb")),
        st.floats(0, 10**6),
    ),
    min_size=1,
)


class ReadsTests(unittest.TestCase):
    """Reads that come together have the lines that each of them would have."""

    def setUp(self) -> None:
        self.enterContext(mock.patch.object(recording_lines, "_MANY", 1))

    def check(self, reads: Reads) -> None:
        wanted = lines_of(list(reads))
        self.assertEqual(wanted.count(b"\n"), len(reads))
        self.assertEqual(lines_of(reads), wanted)

    @given(READS, st.sampled_from((0, 5_999_999, 6_000_000, SECOND - 1)))
    def test_lines(self, values: list[ReadValues], fraction: int) -> None:
        peers = ("", "10.0.0.7:4711", 'user "50%s", pid 1', "\u2028")
        numbers, _, *columns = zip(*values, strict=True)
        self.check(Reads((numbers, tuple(peers[each] for each in numbers), *columns), 1795999999 * SECOND + fraction))

    @given(
        st.lists(st.sampled_from((b"ab", b"a\n", b"abc", b"a", b"", b'a"', b"\xff", b"\0", b"\0a")), min_size=1),
        st.sampled_from((0.25, 0.7, 3.5)),
        st.booleans(),
    )
    def test_lines_of_one_client(self, replies: list[bytes], step: float, same: bool) -> None:
        """It repeats its request, and the lengths of the replies may differ."""
        values = [
            (7, "p", each * step, b"?x" if same else b"?x,%d" % each, "x", reply, step)
            for each, reply in enumerate(replies)
        ]
        self.check(Reads(tuple(zip(*values, strict=True)), 1795999999 * SECOND))

    def test_lengths_that_differ_with_the_same_sum(self) -> None:
        values = [(7, "p", 0.5, b"?x", "x", reply, 0.5) for reply in (b"ab", b"abc", b"a")]
        self.check(Reads(tuple(zip(*values, strict=True)), 1795999999 * SECOND))

    def test_a_read_that_began_in_an_earlier_second(self) -> None:
        """It was answered later than the others."""
        values = [(7, "p", begun, b"?x", "x", b"!x", 0.1) for begun in (1.1, 0.9, 1.2)]
        self.check(Reads(tuple(zip(*values, strict=True)), 1795999999 * SECOND))

    def test_the_lines_are_made_together(self) -> None:
        """Also if the reads began in several seconds, or took several seconds."""
        for seconds, request, reply in ((0.5, b"?x", b"!x"), (2.0, b"?x", b"!x"), (0.5, b"?x,%d", b'"\xff')):
            with self.subTest(seconds=seconds, request=request):
                values = [
                    (1, "p", 0.5 * each, request.replace(b"%d", b"%d" % each), "", reply, seconds) for each in range(3)
                ]
                reads = Reads(tuple(zip(*values, strict=True)), 1795999999 * SECOND)
                wanted = lines_of(list(reads))
                with mock.patch.object(Reads, "__iter__", side_effect=AssertionError):
                    self.assertEqual(lines_of(reads), wanted)
                with mock.patch.object(recording_lines, "_MANY", 4), mock.patch.object(recording_lines, "np", None):
                    self.assertEqual(lines_of(reads), wanted)


class RecorderTestCase(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.path = self.folder / "exchanges.jsonl"

    def recorder(self, **options: Any) -> Recorder:
        made = Recorder(self.path, server="SARDARA", **options)
        self.addCleanup(made.close)
        return made

    def refused(self, path: Path | None = None) -> str:
        with self.assertRaises(RecordingError) as caught:
            Recorder(path or self.path)
        return str(caught.exception)


class RecordTests(RecorderTestCase):
    def test_a_session(self) -> None:
        recorder = self.recorder()
        client = greeted(Scripted(ok))
        client.factory.listeners.append(recorder)
        client.ask(b"?start\r\n?x\r\n!ignored\r\nbad\r\n")
        client.lose()
        recorder.close()
        header, *lines = objects(self.path)
        self.assertEqual((header["discos-recording"], header["server"]), (1, "SARDARA"))
        self.assertRegex(header["begin"], r"\A\d{10}\.\d{7}\Z")
        self.assertEqual(
            [(line["c"], line["q"], line["a"]) for line in lines[:-1]],
            [
                (1, "?start", "!start,ok"),
                (1, "?x", "!x,ok"),
                (1, "!ignored", None),
                (1, "bad", "!undefined,invalid,syntax error: line begins with 'b' where ? is needed"),
            ],
        )
        self.assertEqual((lines[-1]["c"], lines[-1]["event"]), (1, "close"))
        self.assertEqual((recorder.lost, recorder.problem, recorder.path), (0, "", str(self.path.resolve())))

    def test_a_line_is_written_at_once(self) -> None:
        recorder = self.recorder()
        for number in range(1, 4):
            recorder(exchange(number))
            wait_until(lambda: len(exchanges(self.path)) == number)

    def test_the_reply_to_a_change_waits_for_its_line(self) -> None:
        with mock.patch.object(recorder_module, "_CHANGE_PATIENCE", PATIENCE):
            recorder = self.recorder()
            for number in range(1, 50):
                recorder(exchange(number, changes=True))
                self.assertEqual(len(exchanges(self.path)), number)

    def test_a_change_behind_many_reads(self) -> None:
        """What waits is written at once, however much it is."""
        with (
            mock.patch.object(recorder_module, "_CHANGE_PATIENCE", PATIENCE),
            mock.patch.object(recorder_module, "_PERIOD", 10 * PATIENCE),
        ):
            recorder = self.recorder()
            for number in range(100):
                recorder.add_records([exchange(number)] * 30)
            recorder(exchange(100, changes=True))
            self.assertEqual(
                [line["c"] for line in exchanges(self.path)], [n for n in range(100) for _ in range(30)] + [100]
            )

    def test_after_close(self) -> None:
        recorder = self.recorder()
        recorder(exchange(1))
        recorder.close()
        recorder.close()
        recorder(exchange(2))
        self.assertEqual(([line["c"] for line in exchanges(self.path)], recorder.lost), ([1], 1))

    def test_close_without_an_exchange(self) -> None:
        self.recorder().close()
        self.assertEqual(len(objects(self.path)), 1)

    def test_no_thread_is_left(self) -> None:
        """The first exchanges are kept until there is a thread, and close() writes what is left."""
        recorder = self.recorder()
        with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError):
            recorder(exchange(1))
            recorder.add_records([exchange(2)] * 3000)
        recorder.close()
        self.assertEqual([line["c"] for line in exchanges(self.path)], [1] + [2] * 3000)

    def test_a_symbolic_link(self) -> None:
        link = self.folder / "link"
        link.symlink_to(self.path)
        recorder = Recorder(link)
        recorder.close()
        self.assertTrue(link.is_symlink())
        self.assertEqual(len(objects(self.path)), 1)


class ContinueTests(RecorderTestCase):
    """A file that exists."""

    def test_it_is_continued(self) -> None:
        for number in range(3):
            recorder = self.recorder()
            recorder(exchange(number))
            recorder.close()
        lines = objects(self.path)
        self.assertEqual([next(iter(line)) for line in lines], ["discos-recording", "t"] * 3)
        self.assertEqual([line["c"] for line in lines[1::2]], [0, 1, 2])
        self.assertEqual(len({line["begin"] for line in lines[::2]}), 3, "each run has its own begin")

    def test_an_incomplete_last_line(self) -> None:
        """What a crash, or a loss of power, leaves: every prefix of a recording, and one that ends with NUL.

        By default each seventh prefix, and those at the ends of the lines.
        """
        lines = [WHOLE, line_of(exchange(1)), line_of(exchange(2, b"?" + b"x" * 70000))]
        whole = b"".join(lines)
        ends = [len(WHOLE), len(WHOLE) + len(lines[1]), len(whole)]
        near = {end + step for end in (0, *ends) for step in range(-2, 3)}
        cuts = [cut for cut in range(len(whole)) if LONG or cut in near or (cut < ends[1] and cut % 7 == 0)]
        for cut in cuts:
            for tail in (b"", b"\0" * 70000 if cut in ends else b"\0"):
                self.path.write_bytes(whole[:cut] + tail)
                with self.subTest(cut, tail=len(tail)), mock.patch.object(recorder_module.logger, "warning") as warned:
                    recorder = Recorder(self.path)
                    recorder.close()
                    # An exchange may lack its end, but not the header.
                    complete = sum(cut >= end - (not tail and end > len(WHOLE)) for end in ends)
                    self.assertEqual(len(objects(self.path)), complete + 1)
                    removed = len(whole[:cut] + tail) - sum(map(len, lines[:complete]))
                    told = [call.args[2] for call in warned.call_args_list]
                    self.assertEqual(told, [removed] if removed > 0 else [])

    def test_an_empty_file(self) -> None:
        self.path.touch()
        self.recorder().close()
        self.assertEqual(len(objects(self.path)), 1)

    def test_what_is_no_recording_is_left_alone(self) -> None:
        for content, reason in (
            (b"SIMPLE  =                    T", "is not a recording: give the path of another file"),
            (b"[instrument]\nname = 'mine'\n", "is not a recording"),
            (b"{}\n", "is not a recording"),
            (b"[1]\n", "is not a recording"),
            (b"\n", "is not a recording"),
            (b"{" * 70000 + b"\n", "is not a recording"),
            (WHOLE[:30] + b"x" * 70000, "is not a recording"),
            (WHOLE.replace(b": 1", b": 2", 1), "is a recording of another version"),
        ):
            self.path.write_bytes(content)
            with self.subTest(content[:20]):
                self.assertIn(reason, self.refused())
                self.assertEqual(self.path.read_bytes(), content)

    def test_what_is_no_regular_file(self) -> None:
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        bound = self.enterContext(socket.socket(socket.AF_UNIX))
        bound.bind(str(self.folder / "socket"))
        for path, words in (
            (self.folder, "a folder"),
            (fifo, "a FIFO"),
            (Path("/dev/full"), "a device"),
            (Path("/dev/null"), "a device"),
            (self.folder / "socket", "a socket"),
        ):
            with self.subTest(path):
                self.assertEqual(self.refused(path), f"{path.resolve()} is {words}: a recording needs a regular file")

    def test_what_cannot_be_opened(self) -> None:
        folder = self.folder.resolve() / "none"
        wanted = f"cannot record to {folder}/x: the folder {folder} does not exist: create it"
        self.assertEqual(self.refused(folder / "x"), wanted)
        with mock.patch.object(os, "access", return_value=False):
            self.assertRegex(self.refused(), r"could not be rotated: its folder cannot be written\Z")

    def test_a_file_that_another_process_records_to(self) -> None:
        with served("--record", str(self.path)):
            self.assertRegex(self.refused(), r"exchanges\.jsonl is used by another process\Z")
        self.recorder().close()


class RotationTests(RecorderTestCase):
    def test_two_files_are_kept(self) -> None:
        recorder = self.recorder(limit=2000)
        size = len(line_of(exchange(100)))
        for number in range(100, 160):
            recorder(exchange(number))
            wait_until(lambda: recorder._taken == recorder._added)
            self.assertLessEqual(self.path.stat().st_size, 2000)
        recorder.close()
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["exchanges.jsonl", "exchanges.jsonl.1"])
        older, newer = objects(f"{self.path}.1"), objects(self.path)
        self.assertEqual(older[0], newer[0], "the header of the same run")
        numbers = [line["c"] for line in older[1:] + newer[1:]]
        self.assertEqual(numbers, list(range(numbers[0], 160)))
        self.assertGreater(len(older) * size, 1500)

    def test_long_lines_that_come_together(self) -> None:
        recorder = self.recorder(limit=200_000)
        recorder.add_records([exchange(number, b"?" + b"\xff" * 10_000) for number in range(20)])
        recorder.close()
        for path in (self.path, Path(f"{self.path}.1")):
            self.assertLessEqual(path.stat().st_size, 200_000)
        numbers = [line["c"] for path in (f"{self.path}.1", self.path) for line in exchanges(path)]
        self.assertEqual(numbers, list(range(numbers[0], 20)))

    def test_a_file_that_is_full_already(self) -> None:
        self.path.write_bytes(WHOLE * 40)
        self.recorder(limit=2000).close()
        self.assertEqual((len(objects(f"{self.path}.1")), len(objects(self.path))), (40, 1))

    def test_what_a_crash_during_a_rotation_leaves(self) -> None:
        for name in ("exchanges.jsonl.new", "exchanges.jsonl.1"):
            (self.folder / name).write_bytes(b"left")
        self.path.write_bytes(WHOLE * 40)
        self.recorder(limit=2000).close()
        self.assertEqual(len(objects(f"{self.path}.1")), 40)
        self.assertFalse((self.folder / "exchanges.jsonl.new").exists())

    def test_a_rotation_that_fails(self) -> None:
        """The file grows, so that nothing is lost. This is logged once."""
        recorder = self.recorder(limit=1000)
        (self.folder / "exchanges.jsonl.1").mkdir()
        with self.assertLogs("discosbackend.monitor", "ERROR") as logs:
            for number in range(20):
                recorder(exchange(number))
                wait_until(lambda: not recorder._waiting)
            wait_until(lambda: recorder.problem)
            self.assertRegex(recorder.problem, r"exchanges\.jsonl cannot be rotated and grows: Is a directory")
            (self.folder / "exchanges.jsonl.1").rmdir()
            recorder(exchange(20))
            recorder.close()
        self.assertEqual((len(logs.output), recorder.lost, recorder.problem), (1, 0, ""))
        older, newer = exchanges(f"{self.path}.1"), exchanges(self.path)
        self.assertEqual([line["c"] for line in older + newer], list(range(21)))

    def test_a_file_that_is_moved_removed_or_emptied(self) -> None:
        recorder = self.recorder()

        def record(number: int) -> None:
            recorder(exchange(number))
            wait_until(lambda: not recorder._waiting and recorder._added == recorder._taken)

        record(1)
        self.path.rename(self.folder / "moved")
        record(2)
        self.path.unlink()
        record(3)
        record(4)
        os.truncate(self.path, 0)
        record(5)
        self.assertEqual([line.get("c") for line in objects(self.path)], [None, 5])
        another = self.folder / "another"
        another.write_bytes(WHOLE)
        another.replace(self.path)
        record(6)
        recorder.close()
        self.assertEqual([line["c"] for line in exchanges(self.folder / "moved")], [1])
        self.assertEqual([line.get("c") for line in objects(self.path)], [None, None, 6])
        self.assertEqual(recorder.lost, 0)

    def test_a_folder_that_is_removed(self) -> None:
        recorder = self.recorder()
        moved = self.folder.with_name(f"{self.folder.name}-moved")
        self.folder.rename(moved)
        self.addCleanup(lambda: moved.exists() and moved.rename(self.folder))
        with self.assertLogs("discosbackend.monitor", "ERROR") as logs:
            recorder(exchange(1))
            wait_until(lambda: recorder.problem)
        self.assertEqual(recorder.problem, f"cannot record to {self.path}: No such file or directory")
        self.assertEqual(logs.records[0].getMessage(), f"{recorder.problem}: lines are lost")
        moved.rename(self.folder)
        recorder(exchange(2))
        recorder.close()
        self.assertEqual([line["c"] for line in exchanges(self.path)], [2])


class Disk:
    """Takes the place of os.write for the file of a recording, and has only so much space left."""

    def __init__(self, path: Path) -> None:
        self.path, self.left = path, 10**9
        self._write = os.write

    def __call__(self, descriptor: int, data: bytes) -> int:
        if not os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
            return self._write(descriptor, data)
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(descriptor, data[: self.left])
        self.left -= written
        return written


class Counted(threading.Event):
    """Counts how many were made."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        Counted.made += 1


class DiskTests(RecorderTestCase):
    def test_a_full_disk_is_said_once(self) -> None:
        """Whatever space may be left; the file consists of whole lines, and the count is right.

        By default each seventh amount, and those at the ends of the lines; with --long every amount.
        """
        size = len(line_of(exchange(1)))
        amounts = [left for left in range(2 * size + 2) if LONG or left % 7 == 0 or min(left % size, -left % size) < 3]
        for left, together in itertools.product(amounts, (False, True)):
            self.path.unlink(missing_ok=True)
            recorder, disk = self.recorder(), Disk(self.path)
            recorder._start = lambda: False  # type: ignore[method-assign]  # close() writes
            with mock.patch.object(os, "write", disk), self.assertLogs("discosbackend.monitor") as logs:
                disk.left = left
                for number in range(3):
                    recorder(exchange(number))
                    if not together or number == 2:
                        recorder._write_some()
                lost = 3 - left // size
                with self.subTest(left, together=together):
                    self.assertEqual(recorder.problem, f"cannot record to {recorder.path}: No space left on device")
                    self.assertEqual(recorder.lost, lost)
                    self.assertEqual(len(exchanges(self.path)), 3 - lost)
                    disk.left = 10**9
                    recorder(exchange(3))
                    recorder.close()
                    self.assertEqual([line["c"] for line in exchanges(self.path)], [*range(3 - lost), 3])
                    self.assertEqual((recorder.problem, recorder.lost), ("", lost))
                    self.assertEqual(
                        [record.getMessage() for record in logs.records],
                        [
                            f"cannot record to {recorder.path}: No space left on device: lines are lost",
                            f"{recorder.path}: recording again, {lost} lines were lost",
                        ],
                    )

    def test_an_incomplete_line_that_cannot_be_removed_at_once(self) -> None:
        recorder, disk = self.recorder(), Disk(self.path)
        recorder._start = lambda: False  # type: ignore[method-assign]  # close() writes
        with self.assertLogs("discosbackend.monitor"):
            with (
                mock.patch.object(os, "write", disk),
                mock.patch.object(os, "ftruncate", side_effect=OSError(errno.EIO, "Input/output error")),
            ):
                disk.left = 20
                for number in range(3):
                    recorder(exchange(number))
                    recorder._write_some()
                disk.left = 10**9
                recorder(exchange(3))
                recorder._write_some()
            recorder(exchange(4))
            recorder.close()
        self.assertEqual([line["c"] for line in exchanges(self.path)], [4])
        self.assertEqual(recorder.lost, 4)

    def test_a_disk_that_is_full_at_the_start(self) -> None:
        """The server starts, and the header is written later, for a new file and for one that is continued."""
        for content in (b"", WHOLE):
            self.path.write_bytes(content)
            disk = Disk(self.path)
            disk.left = 0
            with mock.patch.object(os, "write", disk), self.assertLogs("discosbackend.monitor") as logs:
                recorder = self.recorder()
                self.assertIn("No space left on device", recorder.problem)
                disk.left = 10**9
                recorder(exchange(1))
                recorder.close()
            new = objects(self.path)[content.count(b"\n") :]
            self.assertEqual([next(iter(line)) for line in new], ["discos-recording", "t"])
            self.assertEqual((recorder.lost, len(logs.output)), (0, 2))

    def test_a_real_limit(self) -> None:
        """The system lets the files of the process not grow further, and then does."""
        self.path.write_bytes(WHOLE * 10000)
        with served("--record", str(self.path), "--log-format", "json") as process:
            unlimited = resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE)
            with process.connect() as client:
                wait_until(lambda: self.path.stat().st_size > len(WHOLE) * 10000)
                before = self.path.stat().st_size
                resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (before + 500, unlimited[1]))
                for _ in range(100):
                    self.assertEqual(ask(client, b"?nonesuch"), [b"!nonesuch,fail,invalid command 'nonesuch'\r\n"])
                wait_until(lambda: "File too large: lines are lost" in process.log())
                resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, unlimited)
                ask(client, b"?version")
                wait_until(lambda: "recording again, " in process.log())
            self.assertEqual(process.stop(15), 0)
            log = process.log()
        kept = [line["q"] for line in exchanges(self.path)]
        lost = 101 - len(kept)
        self.assertEqual(log.count("lines are lost"), 1)
        self.assertIn(f"recording again, {lost} lines were lost", log)
        self.assertEqual(kept, ["?nonesuch"] * (100 - lost) + ["?version"])

    def test_a_slow_disk_blocks_nobody(self) -> None:
        """What does not fit into the queue is counted, and the log says so at the beginning and at the end."""
        recorder = self.recorder(most=10000)
        release = threading.Event()
        self.addCleanup(release.set)
        write = recorder._file.write

        def slow(lines: bytes) -> None:
            release.wait(PATIENCE)
            write(lines)

        with mock.patch.object(recorder._file, "write", slow), self.assertLogs("discosbackend.monitor") as logs:
            recorder(exchange(0))
            with mock.patch.object(threading, "Event", Counted):
                for number in range(1, 1000):
                    recorder(exchange(number, changes=True))
            self.assertEqual(Counted.made, 1, "after the first wait there is no other one")
            self.assertGreater(recorder.lost, 900)
            self.assertRegex(recorder.problem, "is written too slowly: lines are lost")
            lost = recorder.lost
            release.set()
            wait_until(lambda: not recorder._waiting and recorder._added == recorder._taken)
            self.assertEqual(recorder.problem, "")
            recorder(exchange(1000))
            wait_until(lambda: recorder._prompt)
            recorder.close()
        self.assertEqual([line["c"] for line in exchanges(self.path)], [*range(1000 - lost), 1000])
        messages = [record.getMessage() for record in logs.records]
        self.assertEqual(
            messages,
            [
                f"{recorder.path} is written too slowly: lines are lost until the disk is faster",
                f"{recorder.path}: recording again, {lost} lines were lost",
            ],
        )
        self.assertEqual(recorder.lost, lost)

    def test_records_that_do_not_fit_together(self) -> None:
        """As many are recorded as there is space for."""
        recorder = self.recorder(most=10_000)
        recorder._start = lambda: False  # type: ignore[method-assign]  # close() writes
        with self.assertLogs("discosbackend.monitor") as logs:
            recorder.add_records([exchange(number) for number in range(1000)])
        self.assertEqual(len(logs.records), 1)
        recorder.close()
        size = len(line_of(exchange(500)))
        found = [line["c"] for line in exchanges(self.path)]
        self.assertEqual(found, list(range(len(found))))
        self.assertLess(abs(len(found) - 10_000 // size), 3)
        self.assertEqual(recorder.lost, 1000 - len(found))

    def test_the_end_does_not_wait_for_a_disk_that_hangs(self) -> None:
        recorder = self.recorder()
        release, begun = threading.Event(), threading.Event()

        def hang(lines: bytes) -> None:
            begun.set()
            release.wait(PATIENCE)

        with (
            mock.patch.object(recorder._file, "write", hang),
            mock.patch.object(recorder_module, "_LAST_PATIENCE", 0.01),
            self.assertLogs("discosbackend.monitor") as logs,
        ):
            recorder(exchange(1))
            begun.wait(PATIENCE)
            recorder.close()
            self.assertIn("the last lines are lost", logs.output[0])
            release.set()
            assert recorder._thread is not None
            recorder._thread.join(PATIENCE)


class KillTests(RecorderTestCase):
    """The program is killed at some moment, again and again, with the same file."""

    MOMENTS = 20 if LONG else 3

    def test_kill(self) -> None:
        total, before = 0, 0
        for moment in range(self.MOMENTS):
            server_process = Server(program("--record", str(self.path)))
            try:
                with server_process.connect() as client:
                    # Several requests at once, so that the moment is anywhere.
                    sent = [b"?n%d" % number for number in range(before, before + 5 + 40 * moment)]
                    ask(client, *sent)
                    client.sendall(b"?version\r\n" * (moment % 3 * 50))
                    wait_until(lambda: sent[-1] in self.path.read_bytes())
                    server_process.process.kill()
                    server_process.process.wait(PATIENCE)
            finally:
                server_process.end()
            before += len(sent)
            total += len(sent)
            # The last line may be incomplete, and no other one.
            *lines, _ = self.path.read_bytes().split(b"\n")
            requests = [json.loads(line).get("q") for line in lines]
            with self.subTest(moment):
                self.assertEqual(
                    [request for request in requests if request not in (None, "?version")],
                    [f"?n{number}" for number in range(total)],
                )
        self.recorder().close()
        self.assertEqual(sum("discos-recording" in line for line in objects(self.path)), self.MOMENTS + 1)


class OptionTests(RecorderTestCase):
    def test_wrong_options(self) -> None:
        for options, status, text in (
            (
                ["--record", str(self.folder)],
                1,
                f"{self.folder.resolve()} is a folder: a recording needs a regular file",
            ),
            (["--record", "/dev/full"], 1, "--record '/dev/full': /dev/full is a device"),
            (
                ["--record", str(self.folder / "a" / "b")],
                1,
                f"/a/b: the folder {self.folder.resolve()}/a does not exist: create it",
            ),
            (["--record-size", "5"], 2, "--record-size needs --record"),
            (["--record", "x", "--record-size", "0"], 2, "'0' is not a number of MB from 1 to 1000000"),
            (["--record", "x", "--record-size", "1e3"], 2, "'1e3' is not a number of MB"),
            (["--record", "x", "--record-size", "1000001"], 2, "'1000001' is not a number of MB"),
        ):
            with self.subTest(options):
                found = run_program(server.main, *options)
                self.assertEqual((found.status, found.out), (status, ""), found.err)
                self.assertIn(text, found.err.splitlines()[-1])
                if status == 1:
                    self.assertEqual(len(found.err.splitlines()), 1, found.err)

    def test_the_default_size(self) -> None:
        """The program does not import the recorder for its help, so the number is written twice."""
        self.assertEqual(recorder_module.SIZE, access_options._SIZE)

    def test_the_web_server_shows_the_absolute_path(self) -> None:
        options = ("--no-data", "--record", self.path.name, "--http", "8080")
        with served_in_memory(*options, cwd=self.path.parent) as running:
            (batches,) = running.factory.listeners
            assert isinstance(batches, Batches)
            (live,) = [each for each in batches.listeners if isinstance(each, Live)]
            shown = live._snapshot.document()["recorder"]
            self.assertEqual(shown, {"file": str(self.path.resolve()), "problem": "", "lost": 0})

    @unittest.skipUnless(shutil.which("jq"), "needs jq")
    def test_the_command_of_the_documentation(self) -> None:
        """It shows who sent stop, without a rotated file and with one."""
        page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
        (shown,) = re.findall(r"```sh\n(.*\bjq\b.*)\n```", page)
        recorder = self.recorder()
        recorder(exchange(1, b"?stop,1", b"!stop,ok"))
        recorder(exchange(1, b"?status"))
        recorder.close()
        wanted = "2026-11-30T00:53:19Z 10.0.0.7:4711 ?stop,1 !stop,ok\n"
        for lines in (1, 2):
            done = subprocess.run(
                shown, shell=True, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            self.assertEqual((done.stdout, done.stderr), (wanted * lines, ""))
            shutil.copy(self.path, f"{self.path}.1")

    def test_they_do_something(self) -> None:
        with served_in_memory("--no-data", "--record", str(self.path), "--record-size", "1") as program_in_memory:
            program_in_memory.ask(b"?nonesuch", b"?version")
            (batches,) = program_in_memory.factory.listeners
            assert isinstance(batches, Batches)
            (recorder,) = batches.listeners
            assert isinstance(recorder, Recorder)
            self.assertEqual(recorder._file.limit, 10**6)
        header, *lines = objects(self.path)
        self.assertIn(header["server"], program_in_memory.announced[0])
        self.assertEqual([line.get("q") or line["event"] for line in lines], ["open", "?nonesuch", "?version", "close"])


if __name__ == "__main__":
    unittest.main()
