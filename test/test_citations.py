"""Citations: the numbered sections of docs/protocol.md, and everything that cites one.

A citation is written `protocol section 5.2` or `protocol sections 3.1 to 3.6`; reports and a few other places write
`docs/protocol.md, section 5.2`.
"""

from __future__ import annotations

import re
import unittest
from itertools import pairwise
from pathlib import Path

import discosbackend
from discosbackend.testing.cases import Case
from discosbackend.testing.citations import SECTIONS, citation
from discosbackend.testing.conformance import CASES
from discosbackend.testing.send_guard import Scope

from .serving import ROOT

PAGE = ROOT / "docs" / "protocol.md"

# Here every "section" with a number is one of the protocol, whoever wrote it how.
CITING = (
    *sorted(Path(discosbackend.__file__).parent.rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    *sorted((ROOT / "examples").glob("*.py")),
    *sorted((ROOT / "docs").glob("*")),
    ROOT / "README.md",
)
# Here it may also be a section of an instrument, or text under test, unless it is called one of the protocol.
TESTS = sorted(path for path in (ROOT / "test").rglob("*.py") if path != Path(__file__))

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(##+) (?:(\d+(?:\.\d+)*) )?(.+)$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\([^)\s]*\)")
_COMMENT = re.compile(r"\n\s*#:?\s")
_NUMBER = r"\d+(?:\.\d+)*"
_CITATION = re.compile(
    rf"(?P<whose>\bprotocol(?:\.md,)?\s)?\bsections?\s(?P<numbers>{_NUMBER}(?:(?:,|,?\sand|\sto)\s{_NUMBER})*)",
    re.IGNORECASE,
)


def flat(text: str) -> str:
    """Text on one line: without the marks of comments and links."""
    return " ".join(_LINK.sub(r"\1", _COMMENT.sub(" ", text)).split())


def citations(text: str) -> list[tuple[str, bool]]:
    """Every number of a section that the text cites, and whether it says that it is one of the protocol."""
    return [
        (number, found["whose"] is not None)
        for found in _CITATION.finditer(flat(text))
        for number in re.findall(_NUMBER, found["numbers"])
    ]


def sections(page: str) -> dict[str, tuple[str, str]]:
    """The title and the text of each numbered section, the text of its subsections included."""
    page = _FENCE.sub("", page)
    found: dict[str, tuple[str, str]] = {}
    headings = list(_HEADING.finditer(page))
    for at, heading in enumerate(headings):
        if heading[2] is not None:
            assert heading[2] not in found, f"there are two sections {heading[2]}"
            after = (later.start() for later in headings[at + 1 :] if len(later[1]) <= len(heading[1]))
            found[heading[2]] = (heading[3], flat(page[heading.end() : next(after, len(page))]))
    return found


class PageTests(unittest.TestCase):
    def setUp(self) -> None:
        self.sections = sections(PAGE.read_text(encoding="utf-8"))

    def test_the_package_has_the_titles_of_the_page(self) -> None:
        titles = {number: title for number, (title, _) in self.sections.items()}
        self.assertEqual(list(titles.items()), list(SECTIONS.items()))

    def test_the_numbers_are_consecutive(self) -> None:
        numbers = [[int(part) for part in number.split(".")] for number in self.sections]
        self.assertEqual(numbers[0], [1])
        for before, number in pairwise(numbers):
            with self.subTest(number):
                *parents, last = number
                # The first subsection follows its section's heading, any other what is one before.
                wanted = parents if last == 1 else [*parents, last - 1]
                self.assertEqual(before[: len(wanted)], wanted)
                self.assertLessEqual(len(before), len(wanted) + (last > 1))

    def test_every_section_is_subdivided(self) -> None:
        top = [number for number in self.sections if "." not in number]
        self.assertEqual(len(top), 9)
        for number in top:
            self.assertIn(f"{number}.1", self.sections)

    def test_no_heading_is_without_a_number_but_those_of_commands(self) -> None:
        page = _FENCE.sub("", PAGE.read_text(encoding="utf-8"))
        self.assertEqual({marks for marks, number, _ in _HEADING.findall(page) if not number}, {"####"})


class RequirementTests(unittest.TestCase):
    def test_every_requirement_is_a_sentence_of_its_section(self) -> None:
        found = sections(PAGE.read_text(encoding="utf-8"))
        self.assertGreater(len(CASES), 100)
        for case in CASES.values():
            with self.subTest(case.id):
                self.assertIn(case.section, found)
                self.assertRegex(case.requirement, r"\A[A-Z`].*\.\Z")
                _, text = found[case.section]
                self.assertRegex(text, rf"(?:\A|[.] |- ){re.escape(case.requirement)}(?: |\Z)")

    def test_a_section_that_does_not_exist(self) -> None:
        for section in ("1.99", "10", "", "Transport"):
            with self.subTest(section), self.assertRaisesRegex(ValueError, "a/b.*section"):
                Case("a/b", section, "A sentence.", Scope.READS, lambda _: None)

    def test_how_a_report_names_a_section(self) -> None:
        self.assertEqual(citation("1.3"), "docs/protocol.md, section 1.3 Line ends")
        with self.assertRaises(KeyError):
            citation("1.99")


class CitationTests(unittest.TestCase):
    def test_every_citation_leads_to_a_section(self) -> None:
        checked = 0
        for path in (*CITING, *TESTS):
            if path.suffix not in (".py", ".md"):
                continue
            text = path.read_text(encoding="utf-8")
            if path in TESTS and "protocol" not in text.lower():
                continue
            for number, of_protocol in citations(text):
                if path in TESTS and not of_protocol:
                    continue
                checked += 1
                with self.subTest(str(path.relative_to(ROOT)), number=number):
                    self.assertIn(number, SECTIONS)
                    # Elsewhere than on the page itself a number alone does not say where to look.
                    self.assertTrue(of_protocol or path == PAGE, "write: protocol section ...")
        self.assertGreater(checked, 80)

    def test_links_show_the_number_to_which_they_lead(self) -> None:
        checked = 0
        for path in sorted((ROOT / "docs").glob("*.md")):
            text = path.read_text(encoding="utf-8")
            for shown, number in re.findall(r"\[(?:[Ss]ections? )?([\d.]+)\]\((?:protocol\.md)?#(\d+)-", text):
                checked += 1
                with self.subTest(path.name, number=shown):
                    self.assertEqual(shown.replace(".", ""), number)
        self.assertGreater(checked, 100)

    def test_what_is_found(self) -> None:
        for text, wanted in (
            ("(protocol section 3)", [("3", True)]),
            ("Protocol section 5.2: all", [("5.2", True)]),
            ("# as (protocol\n    # section 9.2 says)", [("9.2", True)]),
            ("protocol sections 1.3 to 1.7.", [("1.3", True), ("1.7", True)]),
            ("protocol sections 4, 5 and 9.5. A", [("4", True), ("5", True), ("9.5", True)]),
            ("docs/protocol.md, section 4.9: a", [("4.9", True)]),
            ("section 0, whose bins", [("0", False)]),
            (
                "[Section 8](#8-x) and sections [5.5](#55-x) and [5.6](#56-x)",
                [("8", False), ("5.5", False), ("5.6", False)],
            ),
            ("section {number}, set-section,0, intersection 3", []),
        ):
            with self.subTest(text):
                self.assertEqual(citations(text), wanted)

    def test_what_a_section_is(self) -> None:
        page = "# A\n## 1 One\nx [y](#z)\n```text\n## 9 No\n```\n### 1.1 Two\nb\nc\n#### set\nd\n"
        page += "### 1.2 Three\n## 2 Four\ne\n"
        wanted = {
            "1": ("One", "x y ### 1.1 Two b c #### set d ### 1.2 Three"),
            "1.1": ("Two", "b c #### set d"),
            "1.2": ("Three", ""),
            "2": ("Four", "e"),
        }
        self.assertEqual(sections(page), wanted)


if __name__ == "__main__":
    unittest.main()
