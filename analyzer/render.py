"""What is printed: rows as a table, CSV or JSON, of which no cell can harm who reads it."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from itertools import chain, islice
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import pyarrow as pa

MAX_TABLE_ROWS = 1_000
NOTHING = "-"
"""How a table shows NULL."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_GAP = 2
_NARROW = 12
"""How far a column of text may be folded."""


class Format(StrEnum):
    """How rows are printed."""

    table = "table"
    csv = "csv"
    json = "json"


def write(schema: pa.Schema, batches: Iterable[pa.RecordBatch], form: Format, out: TextIO) -> None:
    """Print rows as they come."""
    if form is Format.json:
        _write_json(schema, batches, out)
    elif form is Format.csv:
        _write_csv(schema, batches, out)
    else:
        _write_table(schema, batches, out)


def printable(text: str) -> str:
    """Return the text with every character that is not plainly visible written as an escape.

    Terminal sequences, line breaks and marks that turn the direction of writing are such.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[object, ...]]:
    for batch in batches:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _cell(value: object) -> str:
    """Return the plain text of a value that is not NULL."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return printable(value)
        case float():
            return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.1f}"
        case bytes():
            return value.hex()
        case datetime():
            return value.isoformat(sep=" ", timespec="milliseconds")
        case int() | Decimal() | date() | time() | timedelta():
            return str(value)
    return printable(json.dumps(_plain(value), ensure_ascii=False))


def _plain(value: object) -> object:
    """Return a value that JSON has a word for; times are ISO and UTC."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime():
            return value.isoformat() + ("" if value.tzinfo else "Z")
        case date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return value.hex()
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return str(value)


def _write_json(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: TextIO) -> None:
    out.write("[")
    separator = "\n"
    for row in _rows(batches):
        named = dict(zip(schema.names, map(_plain, row), strict=True))
        # ASCII only: what a terminal could take for a command is escaped, and nothing is lost.
        out.write(separator + json.dumps(named, allow_nan=False))
        separator = ",\n"
    out.write("\n]\n" if separator == ",\n" else "]\n")


def _write_csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: TextIO) -> None:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_csv_cell(name) for name in schema.names])
    for row in _rows(batches):
        writer.writerow([_csv_cell(value) for value in row])


def _csv_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, datetime):
        return str(_plain(value))
    text = _cell(value)
    if isinstance(value, int | Decimal) or not text.startswith(_FORMULA):
        return text
    return "'" + text  # a spreadsheet would run it as a formula


def _write_table(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: TextIO) -> None:
    import pyarrow as pa

    rows = _rows(batches)
    names = [printable(name) for name in schema.names]
    cells = [
        [NOTHING if value is None else _cell(value) for value in row]
        for row in islice(rows, MAX_TABLE_ROWS)
    ]
    right = [
        pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_decimal(t)
        for t in schema.types
    ]
    if out.isatty():
        _write_terminal(names, cells, right, out)
    else:
        _write_plain(names, cells, right, out)
    if next(rows, None) is not None:
        print(
            f"sockrec: only the first {MAX_TABLE_ROWS:,} rows are shown; "
            "--format csv or json gives all",
            file=sys.stderr,
        )


def _write_plain(
    names: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool], out: TextIO
) -> None:
    widths = _widths(names, cells)
    for row in chain([names], cells):
        padded = (
            text.rjust(width) if flush else text.ljust(width)
            for text, width, flush in zip(row, widths, right, strict=True)
        )
        out.write((" " * _GAP).join(padded).rstrip() + "\n")


def _widths(names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[i]) for row in chain([names], cells)) for i in range(len(names))]


def _write_terminal(
    names: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool], out: TextIO
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out, markup=False, highlight=False, emoji=False)
    for heads in (names, [name.replace("_", "_\n") for name in names]):
        if sum(_needed(heads, cells, right)) <= console.width:
            break
    else:
        _write_records(names, cells, out)
        return
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for head, flush in zip(heads, right, strict=True):
        table.add_column(
            Text(head), justify="right" if flush else "left", no_wrap=flush, overflow="fold"
        )
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def _needed(
    heads: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
) -> Iterator[int]:
    """Yield the least width of each column: text may be folded, numbers and names may not."""
    for index, (head, flush) in enumerate(zip(heads, right, strict=True)):
        cell = max((len(row[index]) for row in cells), default=0)
        name = max(map(len, head.split("\n")))
        yield _GAP + max(name, cell if flush else min(cell, _NARROW))


def _write_records(names: Sequence[str], cells: Sequence[Sequence[str]], out: TextIO) -> None:
    width = max(map(len, names))
    for number, row in enumerate(cells, 1):
        out.write(f"row {number}\n")
        for name, text in zip(names, row, strict=True):
            if text != NOTHING:
                out.write(f"  {name:<{width}}  {text}\n")
