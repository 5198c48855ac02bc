"""The benchmark of the tap measures through a tap. Nothing here is timed."""

from __future__ import annotations

import io
import json
import tempfile
import unittest
from contextlib import redirect_stdout
from pathlib import Path

from benchmarks import tap

from .serving import forked_companions


class TapBenchmarkTests(unittest.TestCase):
    def test_it_measures_through_the_tap(self) -> None:
        self.enterContext(forked_companions())
        out = io.StringIO()
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(out):
            record = Path(folder, "exchanges.jsonl")
            sizes = ["--rounds", "1", "--requests", "20", "--batches", "1"]
            self.assertEqual(tap.main([*sizes, "--record", str(record)]), 0)
            lines = [json.loads(line) for line in record.read_text(encoding="ascii").splitlines()]
        self.assertRegex(
            out.getvalue(), r"\Ap50 direct \S+ .s, tapped \S+ .s: \S+ .s more\n50 pipelining: .* of it\n\Z"
        )
        self.assertEqual(sum(line.get("q") == "?status" for line in lines), 20 + 50 * 100)


if __name__ == "__main__":
    unittest.main()
