"""The segments of a recording: Parquet files, checked by pyarrow before DuckDB sees them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recorder.format.checksums import Checksums, read_footer
from recorder.format.facts import check_version
from recorder.format.files import FileError, number_of, open_regular
from recorder.schema import (
    KINDS,
    METADATA_PREFIX,
    SAMPLES,
    SOCKETS,
    TABLES,
    SockrecError,
    Table,
    segment_columns,
)

MAX_COLUMNS = 1_000
MAX_ROW_GROUP_ROWS = 1 << 20
MAX_ROW_GROUP_BYTES = 1 << 30

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


Identity = tuple[int, int, int, int]
"""Device, inode, size and time of change: the same bytes, as far as can be told without reading."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One checked Parquet file; ``facts`` is the text of recording.json that it carries.

    ``columns`` are those of the file: where it has moments, ages are made of them.
    ``footer`` is the checksum of its footer, which is right, or empty if it carries none.
    ``checksums`` are kept of a large file, whose footer takes longer to parse than to keep.
    """

    table: Table
    path: Path
    columns: tuple[str, ...]
    rows: int
    bytes: int
    facts: str
    footer: str
    identity: Identity
    checksums: Checksums | None = field(default=None, compare=False, repr=False)
    samples: tuple[int, int] | None = None
    """The first and last sample of sockets in it, None if its footer does not tell."""

    @property
    def number(self) -> int | None:
        return number_of(self.path.name)


TOGETHER = frozenset({SOCKETS.name, SAMPLES.name})
TOGETHER_WHY = "is left out with its other half, as sockets and samples tell nothing alone"
"""Of one number: no row of a sample that did not take place, no sample whose sockets are lost."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What a recording had and what no answer can rest on, and why.

    ``rows``, and ``first`` and ``last`` in microseconds UTC, are None if they are not known; so is
    ``table`` of what is of no table alone.
    """

    what: str
    why: str
    rows: int | None = None
    first: int | None = None
    last: int | None = None
    table: str | None = None

    def __str__(self) -> str:
        known = []
        if self.rows is not None:
            known.append(f"{self.rows:,} rows")
        if self.first is not None and self.last is not None:
            known.append(f"{_moment(self.first)} to {_moment(self.last)} UTC")
        about = f" ({', '.join(known)})" if known else ""
        return f"{self.what}{about}: {self.why}"


def _moment(microseconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(microseconds / 1e6, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"{microseconds} us"


def read_segment(path: Path, *, follow: bool) -> Segment:
    """Check a file; ``follow`` allows a symbolic link. Raises SegmentError or OSError."""
    try:
        return _read(path, follow=follow)
    except FileError as error:
        raise SegmentError(str(error)) from error


def _read(path: Path, *, follow: bool) -> Segment:
    file = open_regular(path, follow=follow)
    try:
        status = os.fstat(file)
        metadata, checksums = read_footer(path, file)
        try:
            table, facts = _identity(path, metadata.metadata or {})
            _check_row_groups(path, metadata)
            columns = _check_columns(path, metadata.schema, table)
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            what = " ".join(str(error).split())
            raise SegmentError(f"{path}: damaged Parquet file: {what}") from error
    finally:
        os.close(file)
    return Segment(
        table,
        path,
        columns,
        metadata.num_rows,
        status.st_size,
        facts,
        f"{checksums.footer:08x}" if checksums else "",
        identity(status),
        checksums if metadata.num_row_groups > 1 else None,
        # of damaged statistics, which no checksum vouches for, pyarrow would abort
        _samples(metadata) if table == SOCKETS and checksums else None,
    )


def _samples(metadata: pq.FileMetaData) -> tuple[int, int] | None:
    """Return the first and last sample in a segment, as the statistics of all its groups tell."""
    names = metadata.schema.names
    if "sample" not in names or not metadata.num_row_groups:
        return None
    place = names.index("sample")
    known = [
        metadata.row_group(group).column(place).statistics
        for group in range(metadata.num_row_groups)
    ]
    if not all(one is not None and one.has_min_max for one in known):
        return None
    return min(int(one.min_raw) for one in known), max(int(one.max_raw) for one in known)


def identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


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
    if not len(schema):
        raise SegmentError(f"{path}: no columns")
    known = (*table.columns, *segment_columns(table))  # an older one has those of the view
    kinds = {column.name: column.kind for column in known}
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
