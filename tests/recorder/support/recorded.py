"""Runs the real command, and reads what it recorded, for tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recorder.schema import TABLES, public_schema


def record(target: Path, *options: str, python: str = sys.executable) -> list[str]:
    """Return the command that records into a directory that does not exist yet."""
    return [python, "-m", "sockrec", "record", "-q", "-o", str(target), *options]


def read(directory: Path, name: str) -> pa.Table:
    """Read the sealed segments of a table; one without rows may have none."""
    schema = public_schema(TABLES[name])
    tables = [pq.read_table(file) for file in sorted((directory / name).glob("*.parquet"))]
    assert all(table.schema.equals(schema) for table in tables), name
    return pa.concat_tables([schema.empty_table(), *tables])
