"""Segments, written: the rows of one table, brought into its order, as Parquet with checksums.

Rows are read, and brought into that order, a few columns at a time; until all are ready to be
written the sorted columns wait in memory, compressed. Whoever writes a segment writes it so: the
sealing child from journals, the analyzer from other recordings, one part after another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recorder.format import ages, checksums
from recorder.format.files import FileError
from recorder.format.segments import SealedFile
from recorder.schema import (
    ATTRIBUTES,
    METADATA_PREFIX,
    MOMENTS,
    TCP_INFO,
    VERSION,
    Table,
    public_schema,
    segment_columns,
    segment_schema,
)

ROW_GROUP_ROWS = 80_000
"""A multiple of 8, so that a row group begins at a byte of a bitmap."""
COLUMNS_AT_ONCE = 4
DICTIONARY_BYTES = 32 << 10
"""A column of more distinct values than this holds (in a row group) is written plain."""
COMPRESSION_LEVEL = 3

UNSELECTIVE = frozenset((*ATTRIBUTES, *TCP_INFO, *MOMENTS))
"""Columns without minimum and maximum in the file; they cost a tenth of the time of writing."""

_MANY_ROWS = 1_200_000
"""Of more rows than this what waits is packed tighter, for a little more time."""

_MOST_INT32 = np.iinfo(np.int32).max

AnyArray = npt.NDArray[Any]


class WriteError(FileError):
    """A segment that is not on the disk as it was written."""


class Rows(Protocol):
    """The rows of a table, read again for each set of columns asked for.

    A batch has integers of any width, texts as dictionaries, flags as bytes.
    """

    def read(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Yield batches that have rows, with some of the table's columns, given by place."""
        ...


def key_values(facts: str) -> dict[str, str]:
    """Return what a segment says of its recording; ``facts`` is the text of recording.json."""
    return {METADATA_PREFIX + "version": str(VERSION), METADATA_PREFIX + "recording": facts}


def write_segment(
    table: Table,
    parts: Iterable[tuple[Rows, npt.NDArray[np.int64]]],
    file: IO[bytes],
    path: Path,
    metadata: Mapping[str, str],
    columns_at_once: int = COLUMNS_AT_ONCE,
    level: int = COMPRESSION_LEVEL,
    ahead: Callable[[Iterator[SortedColumns]], Iterator[SortedColumns]] = iter,
) -> None:
    """Write rows of a table into a new file, opened to read and write, and sync it.

    ``parts`` follow each other in the order of the table: of each some rows, and the places among
    them of those to be written, one after another. There is one at least, and all but the last
    have a multiple of ROW_GROUP_ROWS. ``ahead`` may make the next while one is written; ``path``
    serves messages. Raises SockrecError or OSError.
    """
    documentation = {c.name: {"unit": c.unit, "doc": c.doc} for c in segment_columns(table)}
    schema = _encoded(segment_schema(table))
    told = dict(metadata) | {
        METADATA_PREFIX + "table": table.name,
        METADATA_PREFIX + "columns": json.dumps(documentation, separators=(",", ":")),
    }
    made = ahead(_sorted_columns(table, rows, order, columns_at_once) for rows, order in parts)
    columns: SortedColumns | None = next(made)
    assert columns is not None
    with _writer(file, table, schema, columns, level) as writer:
        row_groups = 0
        while columns is not None:
            for row_group in _row_groups(table, schema, columns):
                writer.write_table(row_group, row_group_size=ROW_GROUP_ROWS)
                row_groups += 1
                del row_group  # before the next one is made
            del columns
            columns = next(made, None)
        # without the Arrow schema the writer leaves out what it says of the file
        told[checksums.KEY] = checksums.blank(row_groups, len(schema))
        writer.add_key_value_metadata(told)
    file.flush()
    checksums.fill_in(path, file.fileno())
    os.fsync(file.fileno())


def read_back(path: Path, file: int) -> SealedFile:
    """Check all bytes of a segment, from the disk where the kernel lets go of it.

    ``file`` is a descriptor. Raises FileError or OSError.
    """
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    metadata, known = checksums.read_footer(path, file)
    if known is None:
        raise WriteError(f"{path}: has no checksums")
    if damaged := next(known.damaged(file), None):
        raise WriteError(f"{path}: column {damaged.column} is not as it was written")
    return SealedFile(metadata.num_rows, os.fstat(file).st_size, f"{known.footer:08x}")


def order_of(table: Table, rows: Rows, names: Sequence[str] | None = None) -> npt.NDArray[np.int64]:
    """Return the places of all rows in the order of a segment.

    Rows that are equal in ``names``, by default all that the table is ordered by, keep their order.
    """
    names = table.order if names is None else names
    columns: list[AnyArray] = []
    count = 0
    for name in names:
        keys = [batch.column(0) for batch in rows.read([table.names.index(name)])]
        count = sum(map(len, keys))
        if not count:
            return np.zeros(0, np.int64)
        column = _sortable(pa.chunked_array(keys))
        del keys
        if column.dtype == np.int64 and column.max() <= _MOST_INT32 and column.min() >= 0:
            column = column.astype(np.int32)
        # constant ones need no sorting
        if (column != column[0]).any():
            columns.append(column)
    if not columns:
        return np.arange(count)
    if len(columns) == 1:
        return np.argsort(columns[0], kind="stable")
    return np.lexsort(columns[::-1])  # its last key is the most significant


def _sortable(column: pa.ChunkedArray) -> AnyArray:
    if pa.types.is_dictionary(column.type):
        return np.asarray(pc.rank(column.cast(column.type.value_type)))
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    if column.null_count:
        column = column.fill_null(0)
    found = np.asarray(column)
    # as a segment has them, where a number of more than 63 bits is negative
    return found.view(np.int64) if found.dtype == np.uint64 else found


@dataclass(frozen=True)
class _Column:
    """A sorted column: an Arrow stream with a batch per row group, or one value for all rows.

    ``valid`` is the bitmap of the rows that have the one value, None if all have it.
    ``dictionary`` says whether the column is to be written with a dictionary.
    """

    rows: int
    packed: pa.Buffer | None = None
    constant: pa.Scalar | None = None
    valid: pa.Buffer | None = None
    dictionary: bool = True

    def pieces(self, kind: pa.DataType) -> Iterator[pa.Array]:
        """Yield the column's part of each row group, as ``kind``."""
        if self.constant is not None:
            repeated = _repeated(self.constant, kind, min(self.rows, ROW_GROUP_ROWS))
            for first in range(0, self.rows, ROW_GROUP_ROWS):
                size = min(ROW_GROUP_ROWS, self.rows - first)
                whole = repeated.slice(0, size)
                yield whole if self.valid is None else _masked(whole, self.valid, first)
        if self.packed is None:
            return
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with pa.ipc.open_stream(self.packed, options=options) as reader:
            for batch in reader:
                piece = batch.column(0)
                if pa.types.is_dictionary(kind):
                    yield _compacted(piece)
                else:
                    yield piece.cast(kind, safe=False)


SortedColumns = dict[str, _Column]
"""The columns of some rows, in the order of the table."""


def _sorted_columns(
    table: Table, rows: Rows, order: npt.NDArray[np.int64], columns_at_once: int
) -> SortedColumns:
    columns: SortedColumns = {name: _Column(0) for name in table.names}
    bitmaps = _Bitmaps(order)
    for first in range(0, len(table.columns) if len(order) else 0, columns_at_once):
        places = range(first, min(first + columns_at_once, len(table.columns)))
        read = pa.Table.from_batches(rows.read(places))
        for name in read.column_names:
            columns[name] = _sorted_column(read.column(name), order, bitmaps)
    return columns


class _Bitmaps:
    """Validity bitmaps in the order of the segment; columns of one attribute share theirs."""

    def __init__(self, order: npt.NDArray[np.int64]) -> None:
        self._order = order
        self._known: dict[tuple[bytes | int, ...], pa.Buffer] = {}

    def ordered(self, column: pa.ChunkedArray) -> pa.Buffer | None:
        if not column.null_count:
            return None
        buffers = [(chunk.buffers()[0], len(chunk)) for chunk in column.chunks]
        key = tuple(size if data is None else data.to_pybytes() for data, size in buffers)
        if key not in self._known:
            bits = [
                np.ones(size, np.uint8)
                if data is None
                else np.unpackbits(np.frombuffer(data, np.uint8), count=size, bitorder="little")
                for data, size in buffers
            ]
            taken = np.concatenate(bits)[self._order]
            self._known[key] = pa.py_buffer(np.packbits(taken, bitorder="little"))
        return self._known[key]


def _sorted_column(
    column: pa.ChunkedArray, order: npt.NDArray[np.int64], bitmaps: _Bitmaps
) -> _Column:
    rows = len(order)
    if column.null_count == len(column):
        return _Column(rows, constant=pa.scalar(None, column.type))
    if pa.types.is_dictionary(column.type):
        word = _only_word(column)
        if word is not None:
            return _Column(rows, constant=word, valid=bitmaps.ordered(column))
        ordered = column.unify_dictionaries().combine_chunks().take(pa.array(order))
        return _Column(rows, packed=_packed(ordered))
    extremes = pc.min_max(column)
    valid = bitmaps.ordered(column)
    if extremes["min"] == extremes["max"]:
        return _Column(rows, constant=extremes["min"], valid=valid)
    width = column.type.bit_width // 8
    numbers = np.concatenate(
        [np.frombuffer(chunk.buffers()[1], f"u{width}", len(chunk)) for chunk in column.chunks]
    )[order]
    ordered = pa.Array.from_buffers(column.type, rows, [valid, pa.py_buffer(numbers)])
    return _Column(rows, packed=_packed(ordered), dictionary=_few_values(numbers))


def _packed(column: pa.Array) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    compression = "zstd" if len(column) > _MANY_ROWS else "lz4"
    options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
    schema = pa.schema([("", column.type)])
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for first in range(0, len(column), ROW_GROUP_ROWS):
            piece = column.slice(first, ROW_GROUP_ROWS)
            writer.write_batch(pa.record_batch([piece], schema=schema))
    return sink.getvalue()


def _only_word(column: pa.ChunkedArray) -> pa.Scalar | None:
    """Return the word that every row has that is not NULL, None if they differ.

    A word may stand twice in a dictionary; rows that use both are taken to differ.
    """
    words = set()
    for chunk in column.chunks:
        extremes = pc.min_max(chunk.indices)
        first = extremes["min"]
        if first != extremes["max"]:
            return None
        if first.is_valid:
            words.add(chunk.dictionary[first.as_py()].as_py())
    return pa.scalar(words.pop(), pa.string()) if len(words) == 1 else None


def _encoded(schema: pa.Schema) -> pa.Schema:
    """Return a schema in which texts are dictionaries.

    They stay so up to Parquet's own encoder. Without the Arrow schema in the file (store_schema
    below) every reader sees plain strings.
    """
    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([f.with_type(text) if f.type == pa.string() else f for f in schema])


def _row_groups(table: Table, schema: pa.Schema, columns: SortedColumns) -> Iterator[pa.Table]:
    recorded = _encoded(public_schema(table))
    for arrays in zip(*(columns[f.name].pieces(f.type) for f in recorded), strict=True):
        rows = dict(zip(recorded.names, arrays, strict=True))
        yield pa.Table.from_arrays(ages.moments(table, rows), schema=schema)


def _repeated(value: pa.Scalar, kind: pa.DataType, rows: int) -> pa.Array:
    if not value.is_valid:
        return pa.nulls(rows, kind)
    if pa.types.is_dictionary(kind):
        zeros = pa.array(np.zeros(rows, np.int32))
        return pa.DictionaryArray.from_arrays(zeros, pa.array([value.as_py()], pa.string()))
    return pa.repeat(value.cast(kind, safe=False), rows)


def _masked(column: pa.Array, valid: pa.Buffer, first: int) -> pa.Array:
    """Return the column with NULLs where the bitmap, from row ``first`` on, has no bit."""
    if isinstance(column, pa.DictionaryArray):
        indices = _masked(column.indices, valid, first)
        return pa.DictionaryArray.from_arrays(indices, column.dictionary)
    bitmap = valid.slice(first // 8)
    return pa.Array.from_buffers(column.type, len(column), [bitmap, column.buffers()[1]])


def _compacted(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """Leave only those words in the dictionary that the rows use."""
    used = column.indices.cast(pa.int32()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(used.indices, column.dictionary.take(used.dictionary))


def _writer(
    file: IO[bytes], table: Table, schema: pa.Schema, columns: SortedColumns, level: int
) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=level,
        use_dictionary=_repeating(table, columns),
        dictionary_pagesize_limit=DICTIONARY_BYTES,
        write_page_checksum=True,
        # a page per column of a row group: pages of 20,000 rows, the default, took 18 % more bytes
        max_rows_per_page=ROW_GROUP_ROWS,
        # where the socket is, not how it fares: what queries select by
        write_statistics=[c.name for c in segment_columns(table) if c not in UNSELECTIVE],
        store_schema=False,
        sorting_columns=pq.SortingColumn.from_ordering(
            schema, [(name, "ascending") for name in table.order]
        ),
    )


def _repeating(table: Table, columns: SortedColumns) -> list[str]:
    """Return the columns of a segment that are to be written with a dictionary."""
    names = [column.name for column in segment_columns(table)]
    made = {column.name for column in MOMENTS} - {"read_ms"}
    return [
        name for name in names if name in made or (name in columns and columns[name].dictionary)
    ]


def _few_values(numbers: AnyArray) -> bool:
    """Guess from a thousand rows whether a dictionary will stay small."""
    return len(np.unique(numbers[:: max(1, len(numbers) // 1009)])) <= 64
