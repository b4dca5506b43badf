"""How a terminal shows rows: the chart, then a table in units people read, of its width."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TextIO
from zoneinfo import ZoneInfo

from analyzer.screen.cells import NOTHING, printable, text
from analyzer.screen.names import Names
from analyzer.screen.sparkline import Line, Sparklines
from analyzer.screen.units import common_day, number_text, short_names, time_text
from analyzer.screen.zones import UTC_NAME

GAP = 2
"""Blanks between the columns of a table."""

_NARROW = 12
"""How far a column of text may be folded, at its blanks."""

_LONG_WORD = 40
"""A word longer than this may be folded as well, to half of it: addresses are shorter."""

_LEAST_COLUMNS = 3
_LEAST_ROWS = 3
"""A report of fewer columns, or a table of fewer rows, is not made narrower by leaving out."""

_LINES = 4
"""Lines over which a text is folded at most, if it is not wider than the terminal."""

NAMESPACE = "netns"
"""Tells rows apart as soon as there are several: then a column of that name is kept.

Its 0 is the whole host.
"""

_LEAST_BLOCKS = 10
_MAX_NAME = 40

Rows = Sequence[Sequence[object]]


@dataclass(frozen=True, slots=True)
class Look:
    """How rows are shown: times in a zone, and on a terminal a title and a chart.

    ``ranks`` names the columns that a narrow terminal keeps, the first one longest. ``series`` is
    how many series of the chart are drawn, 0 for all. ``begin`` is called before anything is
    written. ``called`` has names of network namespaces, which stand for their numbers; ``marks``
    are the moments, in seconds since 1970, that the chart points at; ``names`` has names of
    addresses.
    """

    zone: str = UTC_NAME
    title: str = ""
    chart: Mapping[str, object] = field(default_factory=dict)
    ranks: Sequence[str] = ()
    series: int = 0
    begin: Callable[[], None] = lambda: None
    called: Mapping[int, str] = field(default_factory=dict)
    marks: Sequence[float] = ()
    names: Names = Names()  # noqa: RUF009 - it is frozen


PLAIN = Look()


class Terminal:
    """A terminal to print on, of whatever width it has now."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console

        self._out = out
        self._console = Console(file=out, markup=False, highlight=False, emoji=False)

    def table(self, names: Sequence[str], rows: Rows, right: Sequence[bool], look: Look) -> None:
        """Print rows as a table of the columns of a report that fit.

        Those of a query that do not fit, and a few, are printed each over several lines.
        """
        if not rows:
            return  # that there are none is said beside the output
        names, columns, right = _told(names, list(zip(*rows, strict=True)), right, look)
        day = common_day(columns)
        if day is not None and sum(isinstance(v, datetime) for c in columns for v in c) > 1:
            self.note(f"times of {day}" + (" UTC" if look.zone == UTC_NAME else ""))
        else:
            day = None
        cells = _cells(names, columns, day)
        # Who asks a query goes on with the names of its columns.
        told = short_names(names, columns) if look.title else names
        kept = list(range(len(names)))
        narrowed = bool(look.title) and len(cells) >= _LEAST_ROWS
        least = _LEAST_COLUMNS if narrowed else len(names)
        folded = list(_needed(_folded(told), cells, right))
        for index in _least_first(names, columns, look.ranks):
            if sum(folded[i] for i in kept) <= self._console.width or len(kept) <= least:
                break
            kept.remove(index)
        if not narrowed and sum(folded) > self._console.width:
            self._records(told, cells)
            return
        self._table(*_only(kept, told, cells, right))
        if left_out := [name for i, name in enumerate(names) if i not in kept]:
            self.note(
                f"not shown: {', '.join(left_out)}; a wider terminal or --format csv shows all"
            )

    def chart(self, chart: Sparklines, look: Look) -> bool:
        """Print one line for each series of a chart; return whether there is any."""
        width = self._blocks(chart, look)
        lines, left_out = chart.lines(width, look.series)
        if not any(len(line.blocks) > 1 for line in lines):
            return False
        self.note(f"{printable(chart.value)} over time, {_span(chart, look.zone)}")
        wide = min(_MAX_NAME, max(_wide(line.name) for line in lines))
        blocks = max(len(line.blocks) for line in lines)
        for line in lines:
            self._line(line, wide, blocks)
        if marked := chart.marked(look.marks, width):
            self._console.print(f"{'marks'[:wide]:<{wide}}  {marked}", style="dim", no_wrap=True)
        if left_out:
            self.note(f"and {left_out:,} more")
        self._out.write("\n")
        return True

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

    def note(self, text: str) -> None:
        """Print a line that stands back."""
        from rich.text import Text

        if text:
            self._console.print(Text(printable(text), style="dim"), soft_wrap=False)

    def _table(
        self, names: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
    ) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        heads = names
        if sum(_needed(names, cells, right)) > self._console.width:
            heads = _folded(names)
        widths = self._widths(heads, cells, right)
        for head, flush, width in zip(heads, right, widths, strict=True):
            table.add_column(
                Text(head),
                justify="right" if flush else "left",
                no_wrap=flush,
                overflow="fold",
                width=width,
            )
        for row in cells:
            table.add_row(*map(Text, row))
        self._console.print(table)

    def _widths(
        self, heads: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
    ) -> list[int | None]:
        """Return the widths of columns, what is free given to those that are folded most."""
        widths = [needed - GAP for needed in _needed(heads, cells, right)]
        free = self._console.width - sum(widths) - GAP * len(widths)
        if free < 0:
            return [None] * len(widths)
        whole = [
            max(w, *map(_wide, c)) for w, c in zip(widths, zip(*cells, strict=True), strict=True)
        ]
        while free and widths != whole:
            most = max(range(len(widths)), key=lambda i: whole[i] / widths[i])
            widths[most] += 1
            free -= 1
        return list(widths)

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


def _least_first(
    names: Sequence[str], columns: Sequence[Sequence[object]], ranks: Sequence[str]
) -> list[int]:
    """Return the places of columns in the order in which they give way.

    What is not ranked goes first, from the right.
    """

    def worth(index: int) -> tuple[int, int]:
        name = names[index]
        if name.endswith(NAMESPACE) and len(set(filter(None, columns[index]))) > 1:
            return 3, 0
        if name in ranks:
            return 2, -ranks.index(name)
        return int(name not in (NAMESPACE, "cookie")), -index

    return sorted(range(len(names)), key=worth)


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
    """Yield the least width of each column: text is folded at blanks, numbers and names are not."""
    for index, (head, flush) in enumerate(zip(heads, right, strict=True)):
        column = {row[index] for row in cells}
        cell = max(map(_wide, column), default=0)
        name = max(map(_wide, head.split("\n")))
        least = max(_NARROW, _longest_word(column), min(cell // _LINES, _LONG_WORD))
        yield GAP + max(1, name, cell if flush else min(cell, least))


def _longest_word(column: Iterable[str]) -> int:
    """Return the width that the words of a column need."""
    words = {_wide(word) for cell in column for word in cell.split()}
    return max((w if w <= _LONG_WORD else _LONG_WORD // 2 for w in words), default=0)


def _folded(names: Sequence[str]) -> list[str]:
    return [name.replace("_", "_\n") for name in names]


def _only(
    kept: Sequence[int],
    names: Sequence[str],
    cells: Sequence[Sequence[str]],
    right: Sequence[bool],
) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return the columns of those places."""
    return (
        [names[i] for i in kept],
        [[row[i] for i in kept] for row in cells],
        [right[i] for i in kept],
    )


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
