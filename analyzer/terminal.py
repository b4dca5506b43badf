"""How a terminal shows rows: units people read, folded to its width, the chart beneath."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TextIO
from zoneinfo import ZoneInfo

from analyzer.cells import NOTHING, printable, text
from analyzer.sparkline import Line, Sparklines
from analyzer.units import common_day, number_text, time_text
from analyzer.zones import UTC_NAME

GAP = 2
"""Blanks between the columns of a table."""

_NARROW = 12
"""How far a column of text may be folded."""

_LEAST_BLOCKS = 10
_MAX_NAME = 40

Rows = Sequence[Sequence[object]]


@dataclass(frozen=True, slots=True)
class Look:
    """How rows are shown: times in a zone, and on a terminal a title and a chart.

    ``series`` is how many series of the chart are drawn, 0 for all. ``begin`` is called before
    anything is written.
    """

    zone: str = UTC_NAME
    title: str = ""
    chart: Mapping[str, object] = field(default_factory=dict)
    series: int = 0
    begin: Callable[[], None] = lambda: None


PLAIN = Look()


class Terminal:
    """A terminal to print on, of whatever width it has now."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console

        self._out = out
        self._console = Console(file=out, markup=False, highlight=False, emoji=False)

    def table(self, names: Sequence[str], rows: Rows, right: Sequence[bool], look: Look) -> None:
        """Print rows as a table, or each over several lines if they do not fit."""
        self._note(look.title)
        if not rows:
            return  # that there are none is said beside the output
        names, columns, right = _told(names, list(zip(*rows, strict=True)), right, look)
        day = common_day(columns)
        if day is not None and sum(isinstance(v, datetime) for c in columns for v in c) > 1:
            self._note(f"times of {day}" + (" UTC" if look.zone == UTC_NAME else ""))
        else:
            day = None
        cells = _cells(names, columns, day)
        for heads in (names, [name.replace("_", "_\n") for name in names]):
            if sum(_needed(heads, cells, right)) <= self._console.width:
                self._table(heads, cells, right)
                return
        self._records(names, cells)

    def chart(self, chart: Sparklines, look: Look) -> None:
        """Print one line for each series of a chart."""
        lines, left_out = chart.lines(self._blocks(chart, look), look.series)
        if not any(len(line.blocks) > 1 for line in lines):
            return
        self._out.write("\n")
        self._note(f"{printable(chart.value)} over time, {_span(chart, look.zone)}")
        wide = min(_MAX_NAME, max(_wide(line.name) for line in lines))
        blocks = max(len(line.blocks) for line in lines)
        for line in lines:
            self._line(line, wide, blocks)
        if left_out:
            self._note(f"and {left_out:,} more")

    def _blocks(self, chart: Sparklines, look: Look) -> int:
        """Return how many blocks fit beside names and values."""
        lines, _ = chart.lines(1, look.series)
        name = min(_MAX_NAME, max((_wide(line.name) for line in lines), default=0))
        values = max((len(_values(line)) for line in lines), default=0)
        return max(_LEAST_BLOCKS, self._console.width - name - values - 2 * GAP)

    def _line(self, line: Line, wide: int, blocks: int) -> None:
        from rich.cells import set_cell_size
        from rich.text import Text

        name = line.name
        if _wide(name) > wide:
            name = set_cell_size(name, wide - 1).rstrip() + "…"
        text = f"{set_cell_size(name, wide)}  {line.blocks:<{blocks}}  {_values(line)}"
        self._console.print(Text(text), no_wrap=True, overflow="crop", crop=True)

    def _note(self, text: str) -> None:
        from rich.text import Text

        if text:
            self._console.print(Text(printable(text), style="dim"), soft_wrap=False)

    def _table(
        self, heads: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
    ) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        for head, flush in zip(heads, right, strict=True):
            table.add_column(
                Text(head), justify="right" if flush else "left", no_wrap=flush, overflow="fold"
            )
        for row in cells:
            table.add_row(*map(Text, row))
        self._console.print(table)

    def _records(self, names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
        width = max(map(len, names))
        for number, row in enumerate(cells, 1):
            self._out.write(f"row {number}\n")
            for name, cell in zip(names, row, strict=True):
                if cell != NOTHING:
                    self._out.write(f"  {name:<{width}}  {cell}\n")


def _told(
    names: Sequence[str], columns: Sequence[Sequence[object]], right: Sequence[bool], look: Look
) -> tuple[Sequence[str], Sequence[Sequence[object]], Sequence[bool]]:
    """Leave out the columns of a report in which nothing stands: its parameters chose others."""
    kept = [i for i, c in enumerate(columns) if any(v is not None for v in c)]
    if not look.title or not kept:
        return names, columns, right
    return [names[i] for i in kept], [columns[i] for i in kept], [right[i] for i in kept]


def _cells(
    names: Sequence[str], columns: Sequence[Sequence[object]], day: date | None
) -> list[list[str]]:
    """Return the rows of the columns as text, their units and times as people read them."""
    written = [_column(name, column, day) for name, column in zip(names, columns, strict=True)]
    return [list(row) for row in zip(*written, strict=True)]


def _column(name: str, column: Sequence[object], day: date | None) -> list[str]:
    number, time = number_text(name, column), time_text(column, day)

    def cell(value: object) -> str:
        match value:
            case None:
                return NOTHING
            case bool():
                return text(value)
            case int() | float() | Decimal():
                return number(value)
            case datetime():
                return time(value)
        return text(value)

    return [cell(value) for value in column]


def _needed(
    heads: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
) -> Iterator[int]:
    """Yield the least width of each column: text may be folded, numbers and names may not."""
    for index, (head, flush) in enumerate(zip(heads, right, strict=True)):
        cell = max((_wide(row[index]) for row in cells), default=0)
        name = max(map(len, head.split("\n")))
        yield GAP + max(name, cell if flush else min(cell, _NARROW))


def _values(line: Line) -> str:
    return line.most if line.least == line.most else f"{line.least}…{line.most}"


def _span(chart: Sparklines, zone: str) -> str:
    """Return the first and the last time of a chart, the second without what they share."""
    span = chart.span() or (0.0, 0.0)
    info = UTC if zone == UTC_NAME else ZoneInfo(zone)
    moments = [datetime.fromtimestamp(int(moment), info) for moment in span]
    if zone == UTC_NAME:
        moments = [moment.replace(tzinfo=None) for moment in moments]
    first, last = (moment.isoformat(sep=" ") for moment in moments)
    return f"{first} … {last.removeprefix(first[: len('2026-11-22 ')])}"


def _wide(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
