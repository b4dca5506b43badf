"""Runs the real command, and reads what it recorded, for tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recorder.format.ages import age
from recorder.schema import AGES, MOMENTS, SOCKETS, TABLES, Table, public_schema, segment_schema


def record(target: Path, *options: str, python: str = sys.executable) -> list[str]:
    """Return the command that records into a directory that does not exist yet."""
    return [python, "-m", "sockrec", "record", "-q", "-o", str(target), *options]


def read(directory: Path, name: str) -> pa.Table:
    """Read the sealed segments of a table; one without rows may have none."""
    table = TABLES[name]
    found = [sealed(file, table) for file in sorted((directory / name).glob("*.parquet"))]
    return pa.concat_tables([public_schema(table).empty_table(), *found])


def sealed(path: Path, table: Table) -> pa.Table:
    """Read a segment that was sealed, in the columns of the view."""
    rows = pq.read_table(path)
    assert rows.schema.remove_metadata().equals(segment_schema(table)), path
    return in_view(rows) if table == SOCKETS else rows


def in_view(rows: pa.Table) -> pa.Table:
    """Return rows of a segment of sockets in the columns of the view."""
    ages = {name: age(rows, name) for name in AGES}
    rows = rows.drop_columns([column.name for column in MOMENTS])
    for name, values in ages.items():
        rows = rows.append_column(name, values)
    return rows.select(SOCKETS.names)
