"""Figures and their presentation: quantiles, rows with a verdict, and the table as text and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

__all__ = ["Goal", "Row", "Show", "Table", "against", "at_least", "at_most", "bytes_text", "markdown"]
__all__ += [
    "columns",
    "markdown_columns",
    "median",
    "number_text",
    "quantile",
    "rate_text",
    "ratio",
    "text",
    "time_text",
]

_HEADINGS = ("figure", "ours", "limit", "compared", "goal", "verdict")

Show = Callable[[float], str]
"""A function that formats a figure with its unit."""


def number_text(value: float) -> str:
    """Format a number with three digits."""
    return f"{float(f'{value:.3g}'):g}"


def rate_text(per_second: float) -> str:
    """Format a rate with three digits."""
    return f"{float(f'{per_second:.3g}'):,.0f}/s"


def time_text(seconds: float) -> str:
    """Format a time in ns, µs, ms or s, with three digits."""
    for unit, size in (("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3)):
        if abs(seconds) < 999.5 * size:
            return f"{number_text(seconds / size)} {unit}"
    return f"{number_text(seconds)} s"


def bytes_text(count: float) -> str:
    """Format a size in B, KiB or MiB, with three digits."""
    for unit, size in (("B", 1), ("KiB", 1024)):
        if abs(count) < 999.5 * size:
            return f"{number_text(count / size)} {unit}"
    return f"{number_text(count / 1024**2)} MiB"


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal for a figure: its `text`, and `holds`, which returns whether a value meets it."""

    text: str
    holds: Callable[[float], bool]


def at_least(bound: float, show: Show = number_text) -> Goal:
    """Return the goal that a figure is not smaller than `bound`."""
    return Goal(f"≥ {show(bound)}", lambda value: value >= bound)


def at_most(bound: float, show: Show = number_text) -> Goal:
    """Return the goal that a figure is not larger than `bound`."""
    return Goal(f"≤ {show(bound)}", lambda value: value <= bound)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table. `met` is None for a figure without a goal."""

    figure: str
    ours: str
    limit: str = ""
    compared: str = ""
    goal: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or nothing."""
        return {None: "", True: "met", False: "missed"}[self.met]

    def judged(self, value: float, goal: Goal, unit: str = "") -> Row:
        """Return this row with a goal and whether `value` meets it; `unit` is appended to the goal."""
        return replace(self, goal=goal.text + unit, met=goal.holds(value))


def against(figure: str, ours: Sequence[float], limit: Sequence[float], show: Show, goal: Goal | None = None) -> Row:
    """Return a row with the medians over all rounds and their ratio, to which the goal applies."""
    compared = ratio(ours, limit)
    row = Row(figure, show(median(ours)), show(median(limit)), f"{compared:.2f} ×")
    return row if goal is None else row.judged(compared, goal, " ×")


def ratio(ours: Sequence[float], limit: Sequence[float]) -> float:
    """Return the median of the ratios of each round, so that figures measured at the same time are compared."""
    return median([one / other for one, other in zip(ours, limit, strict=True)])


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of the values do not exceed: 0.5 is the lower median, 1 the largest."""
    # Rounded, because 0.07 * 100 is slightly more than 7.
    rank = math.ceil(round(len(values) * share, 9))
    return sorted(values)[max(rank, 1) - 1]


Table = Mapping[str, Sequence[Row]]
"""The rows of each measurement, by its name."""


def _cells(row: Row) -> tuple[str, ...]:
    return row.figure, row.ours, row.limit, row.compared, row.goal, row.verdict


def text(table: Table) -> str:
    """Format the table for a terminal: the name of each measurement, followed by its rows."""
    everything = [_HEADINGS, *(_cells(row) for rows in table.values() for row in rows)]
    laid_out = iter(columns(everything, "l" * len(_HEADINGS)))
    lines = [f"  {next(laid_out)}"]
    for what, rows in table.items():
        lines += ["", what, *(f"  {next(laid_out)}" for _ in rows)]
    return "\n".join(lines) + "\n"


def markdown(table: Table) -> str:
    """Format the table in Markdown: the name of a measurement is in the first of its rows."""
    lines: list[tuple[str, ...]] = [("what", *_HEADINGS)]
    for what, rows in table.items():
        lines += [(what if number == 0 else "", *_cells(row)) for number, row in enumerate(rows)]
    return "".join(f"{line}\n" for line in markdown_columns(lines, "l" * (len(_HEADINGS) + 1)))


def columns(rows: Sequence[Sequence[str]], sides: str) -> Iterator[str]:
    """Yield rows of cells as lines in which each column has one width.

    `sides` has a letter for each column: "l" for cells at the left side of the column, "r" for the right side.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = [
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        ]
        yield "  ".join(padded).rstrip()


def markdown_columns(rows: Sequence[Sequence[str]], sides: str) -> Iterator[str]:
    """Yield rows of cells as the lines of a Markdown table. The first row is its head. `sides` is as for columns()."""
    for row in (rows[0], ["---:" if side == "r" else "---" for side in sides], *rows[1:]):
        yield f"| {' | '.join(row)} |"
