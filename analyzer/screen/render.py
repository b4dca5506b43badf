"""What is printed of rows: a table, text of several forms, or Arrow's and Parquet's bytes."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import chain, islice
from typing import TYPE_CHECKING, TextIO

from analyzer.screen.cells import (
    NOTHING,
    csv_text,
    distinct,
    markdown_text,
    plain,
    printable,
    rows,
    text,
)
from analyzer.screen.sparkline import read_chart
from analyzer.screen.terminal import GAP, NAMESPACE, PLAIN, Look, Terminal
from analyzer.screen.zones import UTC_NAME, zoned, zoned_schema
from recorder.schema import SockrecError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "BINARY",
    "MAX_SERIES_ROWS",
    "MAX_TABLE_ROWS",
    "MAX_TERMINAL_ROWS",
    "Format",
    "Look",
    "RenderError",
    "printable",
    "write",
    "write_plain",
]

MAX_TABLE_ROWS = 1_000
MAX_TERMINAL_ROWS = 100
"""Of a query's rows, on a terminal."""

MAX_SERIES_ROWS = 40
"""Of the rows that a chart over time has drawn, beneath it."""


class RenderError(SockrecError):
    """Rows that a format has no room for."""


class Format(StrEnum):
    """How rows are printed."""

    table = "table"
    csv = "csv"
    json = "json"
    ndjson = "ndjson"
    markdown = "markdown"
    parquet = "parquet"
    arrow = "arrow"


_EXPLAINED = ["explain_key", "explain_value"]
"""The columns of what EXPLAIN gives."""

BINARY = frozenset({Format.parquet, Format.arrow})
"""What no terminal is to be given."""


def write(
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    form: Format,
    out: TextIO,
    look: Look = PLAIN,
) -> int:
    """Write rows as they come and return how many there were.

    BINARY formats are written to ``out.buffer``. Raises RenderError.
    """
    # Where UTC is meant, text says so by a Z or by nothing at all.
    zoned_as = zoned_schema(schema, look.zone, naive=form in BINARY or look.zone != UTC_NAME)
    counted = _Counted(zoned(batches, zoned_as))
    if form is Format.table:
        _write_table(zoned_as, counted, out, look)
        return counted.rows
    waiting = iter(counted)
    first = list(islice(waiting, 1))  # a query that fails has written nothing
    look.begin()
    _WRITERS[form](zoned_as, chain(first, waiting), out)
    return counted.rows


class _Counted:
    """Batches on their way, and how many rows have passed."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self.rows = 0
        self._batches = batches

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            self.rows += batch.num_rows
            yield batch


def _write_json(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: TextIO) -> None:
    out.write("[")
    separator = "\n"
    for line in _json_lines(schema, batches):
        out.write(separator + line)
        separator = ",\n"
    out.write("\n]\n" if separator == ",\n" else "]\n")


def _write_ndjson(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: TextIO) -> None:
    for line in _json_lines(schema, batches):
        out.write(line + "\n")


def _json_lines(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[str]:
    names = distinct(schema.names)
    for row in rows(batches):
        named = dict(zip(names, map(plain, row), strict=True))
        # ASCII only: what a terminal could take for a command is escaped, and nothing is lost.
        yield json.dumps(named, allow_nan=False)


def _write_csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: TextIO) -> None:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([csv_text(name) for name in schema.names])
    for row in rows(batches):
        writer.writerow([csv_text(value) for value in row])


def _write_markdown(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: TextIO) -> None:
    rules = ["---:" if flush else "---" for flush in _flush(schema)]
    for cells in chain(
        [[markdown_text(name) for name in schema.names], rules],
        ([markdown_text(value) for value in row] for row in rows(batches)),
    ):
        out.write(f"| {' | '.join(cells)} |\n")


def _write_parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: TextIO) -> None:
    from pyarrow.parquet import ParquetWriter

    named = _renamed(schema)
    with _refusing(Format.parquet):
        writer = ParquetWriter(
            out.buffer, named, compression="zstd", use_dictionary=True, write_page_checksum=True
        )
    with writer:
        for batch in batches:
            writer.write_batch(batch.rename_columns(named.names))


def _write_arrow(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: TextIO) -> None:
    import pyarrow as pa

    named = _renamed(schema)
    with _refusing(Format.arrow):
        writer = pa.ipc.new_stream(out.buffer, named)
    with writer:
        for batch in batches:
            writer.write_batch(batch.rename_columns(named.names))


def _renamed(schema: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    names = distinct(schema.names)
    return pa.schema([f.with_name(name) for f, name in zip(schema, names, strict=True)])


@contextmanager
def _refusing(form: Format) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise RenderError(f"{form}: {error}: CAST that column to VARCHAR") from error


def _write_table(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: TextIO, look: Look
) -> None:
    on_terminal = out.isatty()
    chart = read_chart(look.chart, schema.names) if on_terminal else None
    passing = rows(batches if chart is None else chart.gather(batches))
    most = MAX_TERMINAL_ROWS if on_terminal and not look.title else MAX_TABLE_ROWS
    shown: Sequence[Sequence[object]] = list(islice(passing, most))
    more = sum(1 for _ in (passing if chart is not None else islice(passing, 1)))
    look.begin()
    if schema.names == _EXPLAINED:
        _write_explained(shown, out)
        return
    if look.called:
        schema, shown = _called(schema, shown, look.called)
    if look.names.known:
        put = look.names.put
        shown = [[put(cell) if isinstance(cell, str) else cell for cell in row] for row in shown]
    names = [printable(name) for name in schema.names]
    if on_terminal:
        terminal = Terminal(out)
        terminal.note(look.title)
        if chart is not None and terminal.chart(chart, look) and len(shown) > MAX_SERIES_ROWS:
            more += len(shown) - MAX_SERIES_ROWS
            terminal.table(names, shown[:MAX_SERIES_ROWS], _flush(schema), look)
            terminal.note(f"and {more:,} more rows; --format csv gives all")
            return
        terminal.table(names, shown, _flush(schema), look)
    else:
        out.write(write_plain(schema, shown))
    if more:
        print(
            f"sockrec: only the first {most:,} rows are shown; --format csv or json gives all",
            file=sys.stderr,
        )


def _called(
    schema: pa.Schema, shown: Sequence[Sequence[object]], names: Mapping[int, str]
) -> tuple[pa.Schema, list[list[object]]]:
    """Return the rows with network namespaces as they are called."""
    import pyarrow as pa

    places = [n for n, name in enumerate(schema.names) if name.endswith(NAMESPACE)]
    for place in places:
        schema = schema.set(place, schema.field(place).with_type(pa.string()))
    return schema, [
        [
            names.get(cell, str(cell)) if n in places and isinstance(cell, int) else cell
            for n, cell in enumerate(row)
        ]
        for row in shown
    ]


def _flush(schema: pa.Schema) -> list[bool]:
    """Return which columns stand right."""
    import pyarrow as pa

    return [
        pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_decimal(t)
        for t in schema.types
    ]


def write_plain(schema: pa.Schema, shown: Sequence[Sequence[object]]) -> str:
    """Return rows as a table of plain text, as wide as it needs."""
    names = [printable(name) for name in schema.names]
    cells = [[NOTHING if value is None else text(value) for value in row] for row in shown]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = []
    for row in chain([names], cells):
        padded = (
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, _flush(schema), strict=True)
        )
        lines.append((" " * GAP).join(padded).rstrip() + "\n")
    return "".join(lines)


def _write_explained(shown: Sequence[Sequence[object]], out: TextIO) -> None:
    """Print a plan as it is drawn, of which a table would make one line."""
    for _, plan in shown:
        for line in str(plan).splitlines():
            out.write(printable(line) + "\n")


_WRITERS = {
    Format.csv: _write_csv,
    Format.json: _write_json,
    Format.ndjson: _write_ndjson,
    Format.markdown: _write_markdown,
    Format.parquet: _write_parquet,
    Format.arrow: _write_arrow,
}
