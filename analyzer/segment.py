"""The segments of a recording: Parquet files, checked by pyarrow before DuckDB sees them."""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recorder.format.facts import check_version
from recorder.schema import KINDS, METADATA_PREFIX, TABLES, SockrecError, Table

MAX_FOOTER = 16 << 20
MAX_COLUMNS = 1_000
MAX_ROW_GROUP_ROWS = 1 << 20
MAX_ROW_GROUP_BYTES = 1 << 30
_MAX_THRIFT_STRING = MAX_FOOTER
_MAX_THRIFT_ITEMS = 1_000_000

# Type in a segment -> (physical type, logical type) as pyarrow spells them. The Arrow schema that
# a file may carry beside is not looked at: DuckDB does not read it either.
_PARQUET_TYPES = {
    "int16": ("INT32", "Int(bitWidth=16, isSigned=true)"),
    "int32": ("INT32", "None"),
    "int64": ("INT64", "None"),
    "bool": ("BOOLEAN", "None"),
    "timestamp[us]": (
        "INT64",
        "Timestamp(isAdjustedToUTC=false, timeUnit=microseconds, is_from_converted_type=false, "
        "force_set_converted_type=false)",
    ),
    "string": ("BYTE_ARRAY", "String"),
}


class SegmentError(SockrecError):
    """A Parquet file that is not a segment, or one that had better not be opened."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One checked Parquet file; ``facts`` is the text of recording.json that it carries."""

    table: Table
    path: Path
    columns: tuple[str, ...]
    rows: int
    bytes: int
    facts: str


def read_segment(path: Path, *, follow: bool) -> Segment:
    """Check a file; ``follow`` allows a symbolic link. Raises SegmentError or OSError."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SegmentError(f"{path}: not a regular file")
        _check_footer(path, file.fileno(), status.st_size)
        try:
            metadata = pq.ParquetFile(
                file,
                thrift_string_size_limit=_MAX_THRIFT_STRING,
                thrift_container_size_limit=_MAX_THRIFT_ITEMS,
            ).metadata
            table, facts = _identity(path, metadata.metadata or {})
            _check_row_groups(path, metadata)
            columns = _check_columns(path, metadata.schema, table)
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            what = " ".join(str(error).split())
            raise SegmentError(f"{path}: damaged Parquet file: {what}") from error
    return Segment(table, path, columns, metadata.num_rows, status.st_size, facts)


def _check_footer(path: Path, file: int, size: int) -> None:
    if size < 12 or os.pread(file, 4, 0) != b"PAR1":
        raise SegmentError(f"{path}: not a Parquet file")
    length, magic = struct.unpack("<I4s", os.pread(file, 8, size - 8))
    if magic != b"PAR1":
        raise SegmentError(f"{path}: the Parquet file is cut short or encrypted")
    if length > min(MAX_FOOTER, size - 12):
        raise SegmentError(f"{path}: its Parquet footer claims {length:,} bytes")


def _identity(path: Path, metadata: dict[bytes, bytes]) -> tuple[Table, str]:
    def value(key: str) -> str:
        return metadata.get((METADATA_PREFIX + key).encode(), b"").decode(errors="replace")

    version, name = value("version"), value("table")
    if not version:
        raise SegmentError(f"{path}: a Parquet file, but not one of a sockrec recording")
    check_version(path, int(version) if version.isdecimal() and len(version) < 10 else None)
    if name not in TABLES:
        raise SegmentError(f"{path}: of a table that this sockrec does not know: {name[:40]!r}")
    return TABLES[name], value("recording")


def _check_row_groups(path: Path, metadata: pq.FileMetaData) -> None:
    total = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if not 0 <= group.num_rows <= MAX_ROW_GROUP_ROWS:
            raise SegmentError(f"{path}: row group {index} has {group.num_rows:,} rows")
        if not 0 <= group.total_byte_size <= MAX_ROW_GROUP_BYTES:
            raise SegmentError(f"{path}: row group {index} has {group.total_byte_size:,} bytes")
        total += group.num_rows
    if total != metadata.num_rows:
        raise SegmentError(f"{path}: damaged Parquet file: its row counts do not add up")


def _check_columns(path: Path, schema: pq.ParquetSchema, table: Table) -> tuple[str, ...]:
    if len(schema) > MAX_COLUMNS:
        raise SegmentError(f"{path}: {len(schema):,} columns")
    kinds = {column.name: column.kind for column in table.columns}
    names: list[str] = []
    for index in range(len(schema)):
        column = schema.column(index)
        name = column.path
        if column.max_repetition_level or column.max_definition_level > 1 or name not in kinds:
            raise SegmentError(f"{path}: {table.name} has no column {name[:60]!r}")
        if name in names:
            raise SegmentError(f"{path}: column {name!r} occurs twice")
        names.append(name)
        wanted = _PARQUET_TYPES[KINDS[kinds[name]][1]]
        if (column.physical_type, str(column.logical_type)) != wanted:
            raise SegmentError(
                f"{path}: column {name!r} is {column.physical_type} {column.logical_type}, "
                f"not {KINDS[kinds[name]][1]}"
            )
    return tuple(names)
