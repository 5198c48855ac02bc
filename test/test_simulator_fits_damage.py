"""Damaged metadata files: refused with a reason in words, or harmless; memory in proportion to the file."""

from __future__ import annotations

import logging
import os
import random
import re
import resource
import tempfile
import unittest
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from astropy.io import fits

from discosbackend.simulator.errors import RecordingError
from discosbackend.simulator.fits.convert import convert
from discosbackend.simulator.fits.layout import mjd

from .metadata_damage import damaged_files
from .metadata_files import metadata_tables, write_metadata
from .recordings import BEGINS, record, setup_with, values_of
from .settings import long_only
from .test_simulator_fits_layout import setUpModule  # noqa: F401  # astropy's settings at hand

# Bytes that a conversion of a small file may need beyond what this process has.
_MEMORY = 512 * 2**20

_CLASS_NAME = re.compile(r"[A-Z]\w*(Error|Exception|Warning)\b|<class|Traceback")


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Have an allocation fail that a damaged file should not cause, instead of filling the memory of the machine."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (pages * os.sysconf("SC_PAGE_SIZE") + _MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _without_bytes(kind: str, form: str) -> bytes:
    """A table of 10^17 rows without any bytes: the size of the file does not bound their number."""
    column = (f"TTYPE1  = 'a'|TBCOL1  = 1|TFORM1  = '{form}'|" if form else "") + "EXTNAME = 'ZERO'"
    cards = f"XTENSION= '{kind}'|BITPIX  = 8|NAXIS   = 2|NAXIS1  = 0|NAXIS2  = {10**17}|PCOUNT  = 0|GCOUNT  = 1"
    cards += f"|TFIELDS = {len(form) and 1}|{column}|END"
    return b"".join(card.ljust(80).encode("ascii") for card in cards.split("|")).ljust(2880)


class DamageTests(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.name = self.folder / "tmp" / "run.fits"
        write_metadata(self.name, setup_with(), float(mjd(BEGINS)), 0.24)
        self.whole = self.name.read_bytes()
        self.recording = record(self.folder / "data", name=self.name)
        # Warnings are in what convert() returns.
        logging.disable(logging.WARNING)
        self.addCleanup(logging.disable, logging.NOTSET)
        self.enterContext(bounded_memory())

    def judge(self, files: Iterable[tuple[str, bytes]]) -> None:
        for number, (what, damaged) in enumerate(files):
            output = self.folder / f"{number}.fits"
            with self.subTest(what), warnings.catch_warnings(record=True) as lost:
                warnings.simplefilter("always")
                self.name.write_bytes(damaged)
                try:
                    done = convert(self.recording, output, keep=True)
                except RecordingError as problem:
                    self.check_reason(str(problem))
                    self.assertEqual(sorted(each.name for each in self.folder.iterdir()), ["data", "tmp"])
                else:
                    self.check_file(output, done.warnings)
                self.assertEqual([str(each.message) for each in lost], [])
            output.unlink(missing_ok=True)

    def check_reason(self, reason: str) -> None:
        self.assertRegex(reason, r"\Ametadata file [^,!]{5,200}: '")
        self.assertTrue(reason.endswith(f": {str(self.name)!a}") and reason.isprintable() and reason.isascii(), reason)
        self.assertNotRegex(reason, _CLASS_NAME)

    def check_file(self, written: Path, complaints: tuple[str, ...]) -> None:
        """Check that a reader gets all tables, our times and spectra, and no warning that was not passed on."""
        for complaint in complaints:
            self.assertTrue(complaint.isprintable(), complaint)
            self.assertNotRegex(complaint, _CLASS_NAME)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with fits.open(written, memmap=False, lazy_load_hdus=False) as hdus:
                rows = hdus["DATA TABLE"].data
                times, spectra = rows["time"], [rows["Ch0"], rows["Ch1"]]
                self.assertEqual((rows.columns["time"].format, rows.columns["time"].unit), ("D", "d"))
                tables = [hdu.data for hdu in hdus[1:]]
        self.assertGreaterEqual(len(tables), 2)
        seconds = (np.arange(5) + 0.5) * 0.04
        np.testing.assert_allclose(times, mjd(BEGINS) + seconds / 86400, atol=1e-11, rtol=0)
        for number, row in enumerate(np.concatenate(spectra, axis=1)):
            np.testing.assert_array_equal(row, values_of(setup_with(), number))
        if caught:
            self.assertTrue(complaints, [str(each.message) for each in caught])

    def test_sizes_are_compared_with_that_of_the_file(self) -> None:
        """Each of these would take more memory than there is, or a very long time."""
        card = b"TFIELDS =                   12"
        data = self.whole.index(card, self.whole.index(b"'DATA TABLE'") - 2880)
        huge = b"TFIELDS =            999999999".ljust(80)
        comments = b"COMMENT".ljust(80) * (5 * 2**20 // 80)
        image = b"".join(
            text.ljust(80) for text in (b"XTENSION= 'IMAGE   '", b"BITPIX  = 8", b"NAXIS   = 0", b"PCOUNT  = 0")
        )
        image = (image + b"GCOUNT  = 1".ljust(80) + b"END".ljust(80)).ljust(2880)
        longer = b"A       = 'x&'".ljust(80) + b"CONTINUE  'x&'".ljust(80) * 600
        for what, damaged, reason in (
            ("columns", self.with_card(data, huge), "is damaged: TFIELDS of DATA TABLE is 999999999"),
            ("twice", self.with_card(data + 80, huge), "is damaged: DATA TABLE has more than one TFIELDS"),
            ("axes", self.with_card(160, b"NAXIS   = 999999999"), "is damaged: NAXIS of PRIMARY is 999999999"),
            (
                "digits",
                self.with_card(160, b"NAXIS   = " + b"9" * 70),
                "is damaged: NAXIS of PRIMARY is 999999999999999999",
            ),
            ("values", self.with_card(data + 160, b"TFORM1  = '999999999D'"), "is damaged: rows of DATA TABLE have "),
            ("rows", self.with_card(data - 240, b"NAXIS2  = 999999999"), "is cut off in DATA TABLE"),
            ("cards", self.whole[:240] + comments + self.whole[240:], "has headers of more than 4 MB"),
            ("tables", self.whole + image * 2000, "has headers of more than 4 MB"),
            ("no bytes", self.whole + _without_bytes("BINTABLE", ""), "is damaged: rows of ZERO have no bytes"),
            ("0 values", self.whole + _without_bytes("BINTABLE", "0D"), "is damaged: rows of ZERO have no bytes"),
            ("0 letters", self.whole + _without_bytes("TABLE   ", "A1"), "is damaged: rows of ZERO have no bytes"),
            ("a text", self.whole[:800] + longer + self.whole[800:], "is damaged: a value has more than 500 cards"),
        ):
            with self.subTest(what):
                self.name.write_bytes(damaged)
                found = self.reason()
                self.assertTrue(found.startswith(f"metadata file {reason}"), found)

    def test_rows_that_are_too_long(self) -> None:
        hdus = metadata_tables(setup_with(), float(mjd(BEGINS)), 0.24)
        columns = hdus["DATA TABLE"].columns + fits.ColDefs(
            [fits.Column("more", "100000B", array=np.zeros((6, 100000)))]
        )
        hdus["DATA TABLE"] = fits.BinTableHDU.from_columns(columns, name="DATA TABLE")
        hdus.writeto(self.name, overwrite=True)
        reason = "metadata file has rows of 100095 bytes in DATA TABLE and may have 65536: "
        self.assertEqual(self.reason(), reason + repr(str(self.name)))

    def test_too_many_columns(self) -> None:
        """The standard permits 999, with our two."""
        with fits.open(BytesIO(self.whole)) as hdus:
            place = hdus["DATA TABLE"].fileinfo()
            times = hdus["DATA TABLE"].data["time"].astype(">f8")
        # astropy would take its time to make so many.
        header = f"XTENSION= 'BINTABLE'|BITPIX  = 8|NAXIS   = 2|NAXIS1  = {8 + 997}|NAXIS2  = {len(times)}|PCOUNT  = 0"
        header += "|GCOUNT  = 1|TFIELDS = 998|TTYPE1  = 'time'|TFORM1  = 'D'|TUNIT1  = 'd'|EXTNAME = 'DATA TABLE'"
        for number in range(2, 999):
            header += f"|TTYPE{number:<3}= 'c{number}'|TFORM{number:<3}= 'B'"
        table = b"".join(card.ljust(80).encode("ascii") for card in f"{header}|END".split("|"))
        rows = b"".join(time.tobytes() + bytes(997) for time in times)
        table = table + b" " * (-len(table) % 2880) + rows + bytes(-len(rows) % 2880)
        self.name.write_bytes(self.whole[: place["hdrLoc"]] + table + self.whole[place["datLoc"] + place["datSpan"] :])
        reason = "metadata file gives DATA TABLE 1000 columns with the spectra and 999 are allowed: "
        self.assertEqual(self.reason(), reason + repr(str(self.name)))

    def with_card(self, place: int, card: bytes) -> bytes:
        return self.whole[:place] + card.ljust(80) + self.whole[place + 80 :]

    def reason(self) -> str:
        with self.assertRaises(RecordingError) as caught:
            convert(self.recording, keep=True)
        return str(caught.exception)

    def test_some_of_the_damages(self) -> None:
        files = list(damaged_files(self.whole))
        self.judge(random.Random(5).sample(files, 50))

    @long_only
    def test_all_damages(self) -> None:
        self.judge(damaged_files(self.whole))


if __name__ == "__main__":
    unittest.main()
