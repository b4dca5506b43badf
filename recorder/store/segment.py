"""Segments: sealed Parquet files, made from the journals of one number.

``sockets`` is sorted by (netns, cookie, sample), so that a socket's unchanging columns collapse.
A journal is read, and its rows brought into that order, a few columns at a time; until all are
ready to be written the sorted columns wait in memory as compressed as the journal was.

A journal is removed only when its segment was opened again, its rows counted and its checksums
compared, and the number stands in the list of segments. What cannot be sealed because a commit
before it is damaged is put aside.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recorder.format import checksums
from recorder.format.facts import read_facts
from recorder.format.files import (
    DAMAGED,
    LIST_FILE,
    TEMPORARY,
    journal_name,
    recording_file,
    segment_name,
)
from recorder.format.journal import Committed, JournalFile, as_known, read_commits
from recorder.format.segments import Aside, Sealed, SealedFile, read_list
from recorder.schema import (
    ATTRIBUTES,
    JOURNAL_SUFFIX,
    METADATA_PREFIX,
    SAMPLES,
    TABLES,
    TCP_INFO,
    VERSION,
    SockrecError,
    Table,
    journal_schema,
    public_schema,
)
from recorder.store.directory import Directory, append_line
from recorder.store.journal import open_journals
from recorder.wire.columns import AnyArray

ROW_GROUP_ROWS = 80_000
"""A multiple of 8, so that a row group begins at a byte of a bitmap."""
COLUMNS_AT_ONCE = 4
DICTIONARY_BYTES = 32 << 10
"""A column of more distinct values than this holds (in a row group) is written plain."""
COMPRESSION_LEVEL = 3

UNSELECTIVE = frozenset((*ATTRIBUTES, *TCP_INFO))
"""Columns without minimum and maximum in the file; they cost a tenth of the time of writing."""

# Samples last: its segment says that the others are complete.
_ORDER = sorted(TABLES.values(), key=lambda table: table == SAMPLES)


class SealError(SockrecError):
    """A number that could not be sealed; its journals are as they were."""


def is_sealed(directory: Directory, number: int) -> bool:
    """Whether a number's segments are complete."""
    try:
        with directory.folder(SAMPLES.name) as folder:
            return folder.exists(segment_name(number))
    except FileNotFoundError:
        return False


def seal(
    directory: Directory,
    listing: int,
    number: int,
    *,
    columns_at_once: int = COLUMNS_AT_ONCE,
    salvaged: int | None = None,
) -> Sealed:
    """Make the segments of a number from its committed samples, then remove its journals.

    ``listing`` is the list of segments, open to append and locked. A table without rows gets no
    segment, but for samples, whose segment says that all are complete. May be run again after it
    was interrupted at any point. Raises SockrecError or OSError; the journals are whole then.
    """
    sealed = _listed(directory, listing, number)
    if sealed is None:
        with open_journals(directory, number) as journals:
            committed = read_commits(journals)
            _check_complete(directory, number, journals, committed)
            sealed = Sealed(
                number,
                len(committed.commits),
                *_span(committed, journals.get(SAMPLES.name)),
                _write_tables(directory, number, journals, committed, columns_at_once),
                _aside(number, committed),
                salvaged,
                committed.samples,
            )
        append_line(listing, sealed.line())
    if sealed.aside is not None:
        _put_aside(directory, number)
    else:
        _remove(directory, number)
    return sealed


def _listed(directory: Directory, listing: int, number: int) -> Sealed | None:
    """Return what the list says of a number whose segments are all there, as they were sealed."""
    listed = read_list(directory.path / LIST_FILE, directory=directory.descriptor)
    sealed = next((one for one in listed.sealed if one.number == number), None)
    if sealed is None:
        return None
    for name, file in sealed.files.items():
        with directory.folder(name) as folder:
            if _read_back(folder, segment_name(number)) != file:
                raise SealError(f"{folder.path / segment_name(number)}: is not what was sealed")
    return sealed


def _check_complete(
    directory: Directory, number: int, journals: Mapping[str, JournalFile], committed: Committed
) -> None:
    """Raise SealError if journals are missing of which a commit speaks."""
    missing = [table for table in TABLES if table not in journals]
    if committed.stopped.endswith("is missing"):
        raise SealError(
            f"{directory.path}: {committed.stopped} ({', '.join(missing)}/{journal_name(number)}): "
            "nothing of this number is sealed or removed"
        )


def _aside(number: int, committed: Committed) -> Aside | None:
    if not committed.damaged:
        return None
    return Aside(committed.rest, committed.stopped, f"{DAMAGED}/{number:06d}")


def _write_tables(
    directory: Directory,
    number: int,
    journals: Mapping[str, JournalFile],
    committed: Committed,
    columns_at_once: int,
) -> dict[str, SealedFile]:
    metadata = _metadata(directory)
    name = segment_name(number)
    files = {}
    for table in _ORDER:
        ranges = committed.ranges(table.name)
        if not ranges and table != SAMPLES:
            continue
        batches = Batches(table, journals.get(table.name), ranges)
        order = _order(table, batches)
        counted = committed.rows(table.name)
        if counted is not None and counted != len(order):
            raise SealError(
                f"{directory.path / table.name / journal_name(number)}: holds {len(order):,} rows "
                f"and {counted:,} were committed"
            )
        if not len(order) and table != SAMPLES:
            continue
        with directory.folder(table.name, make=True) as folder:
            try:
                _write(table, batches, order, folder, name, metadata, columns_at_once)
                files[table.name] = _read_back(folder, name + TEMPORARY)
                if files[table.name].rows != len(order):
                    raise SealError(f"{folder.path / name}: was not written as a whole")
            except BaseException:
                folder.discard(name + TEMPORARY)  # what a full disk can do without
                raise
            folder.place(name)
    return files


def _read_back(folder: Directory, name: str) -> SealedFile:
    """Open a segment again, from the disk where the kernel lets go of it; check all its bytes."""
    path = folder.path / name
    file = folder.open_regular(name)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        metadata, known = checksums.read_footer(path, file)
        if known is None:
            raise SealError(f"{path}: has no checksums")
        if damaged := next(known.damaged(file), None):
            raise SealError(f"{path}: column {damaged.column} is not as it was written")
        return SealedFile(metadata.num_rows, os.fstat(file).st_size, f"{known.footer:08x}")
    finally:
        os.close(file)


def _span(committed: Committed, samples: JournalFile | None) -> tuple[int | None, int | None]:
    """Return the times of the first and the last sample."""
    place = SAMPLES.names.index("sample_time")
    first = last = None
    for batch in Batches(SAMPLES, samples, committed.ranges(SAMPLES.name)).read([place]):
        extremes = pc.min_max(batch.column(0).cast(pa.int64()))
        low, high = extremes["min"].as_py(), extremes["max"].as_py()
        if low is not None:
            first = low if first is None else min(first, low)
            last = high if last is None else max(last, high)
    return first, last


def _remove(directory: Directory, number: int) -> None:
    """Remove the journals of a number that is sealed."""
    for table in _ORDER:
        try:
            with directory.folder(table.name) as folder:
                folder.discard(journal_name(number))
        except FileNotFoundError:
            continue


def _put_aside(directory: Directory, number: int) -> None:
    """Move the journals of a number into the folder of damaged ones."""
    with (
        directory.folder(DAMAGED, make=True) as damaged,
        damaged.folder(f"{number:06d}", make=True) as aside,
    ):
        for table in _ORDER:
            try:
                with directory.folder(table.name) as folder:
                    os.rename(
                        journal_name(number),
                        f"{table.name}{JOURNAL_SUFFIX}",
                        src_dir_fd=folder.descriptor,
                        dst_dir_fd=aside.descriptor,
                    )
                    folder.sync()
            except FileNotFoundError:
                continue
        aside.sync()
        damaged.sync()
    directory.sync()


class Batches:
    """The committed batches of a journal, read again for each set of columns asked for."""

    def __init__(
        self, table: Table, journal: JournalFile | None, ranges: Sequence[tuple[int, int]]
    ) -> None:
        self._schema = journal_schema(table)
        self._journal = journal
        self._ranges = ranges

    def read(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Yield the batches that have rows, with some of the columns, given by place."""
        if self._journal is None or not self._ranges:
            return
        # mapped anew each time, so that only the pages of these columns count as our memory
        data = self._journal.mapped(self._ranges)
        options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=list(columns))
        with pa.ipc.open_stream(pa.BufferReader(data), options=options) as reader:
            for batch in reader:
                if batch.num_rows:
                    yield as_known(batch, self._schema)


def _metadata(directory: Directory) -> dict[str, str]:
    facts = read_facts(recording_file(directory.path), directory=directory.descriptor)
    return {METADATA_PREFIX + "version": str(VERSION), METADATA_PREFIX + "recording": facts}


def _write(
    table: Table,
    batches: Batches,
    order: npt.NDArray[np.int64],
    folder: Directory,
    name: str,
    metadata: dict[str, str],
    columns_at_once: int,
) -> None:
    documentation = {c.name: {"unit": c.unit, "doc": c.doc} for c in table.columns}
    # text stays a dictionary up to Parquet's own encoder; without the Arrow schema in the file
    # (store_schema below) every reader sees plain strings
    text = pa.dictionary(pa.int32(), pa.string())
    fields = [f.with_type(text) if f.type == pa.string() else f for f in public_schema(table)]
    key_values = metadata | {
        METADATA_PREFIX + "table": table.name,
        METADATA_PREFIX + "columns": json.dumps(documentation, separators=(",", ":")),
    }
    columns = _sorted_columns(table, batches, order, columns_at_once)
    schema = pa.schema(fields)
    with os.fdopen(folder.create_temporary(name), "w+b") as file:
        with _writer(file, table, schema, columns) as writer:
            row_groups = 0
            for row_group in _row_groups(schema, columns):
                writer.write_table(row_group, row_group_size=ROW_GROUP_ROWS)
                row_groups += 1
                del row_group  # before the next one is made
            # without the Arrow schema the writer leaves out what it says of the file
            key_values[checksums.KEY] = checksums.blank(row_groups, len(schema))
            writer.add_key_value_metadata(key_values)
        file.flush()
        checksums.fill_in(folder.path / name, file.fileno())
        os.fsync(file.fileno())


def _order(table: Table, batches: Batches) -> npt.NDArray[np.int64]:
    """Return the places of all rows of the journal in the order of the segment."""
    # a journal is in the order of its samples, and the sorts below keep the order of equal rows
    names = table.order[:-1] if table.order[-1] == "sample" else table.order
    keys: list[list[pa.Array]] = [[] for _ in names]
    for batch in batches.read([table.names.index(name) for name in names]):
        for key, name in zip(keys, names, strict=True):
            key.append(batch.column(name))
    if not keys[0]:
        return np.zeros(0, np.int64)
    columns = [_sortable(pa.chunked_array(key)) for key in keys]
    # constant ones need no sorting
    columns = [column for column in columns if (column != column[0]).any()]
    if not columns:
        return np.arange(sum(map(len, keys[0])))
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
    return np.asarray(column)


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


def _sorted_columns(
    table: Table, batches: Batches, order: npt.NDArray[np.int64], columns_at_once: int
) -> dict[str, _Column]:
    columns: dict[str, _Column] = {name: _Column(0) for name in table.names}
    bitmaps = _Bitmaps(order)
    for first in range(0, len(table.columns) if len(order) else 0, columns_at_once):
        places = range(first, min(first + columns_at_once, len(table.columns)))
        read = pa.Table.from_batches(batches.read(places))
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
    rows = len(column)
    if column.null_count == rows:
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
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
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


def _row_groups(schema: pa.Schema, columns: dict[str, _Column]) -> Iterator[pa.Table]:
    for arrays in zip(*(columns[f.name].pieces(f.type) for f in schema), strict=True):
        yield pa.Table.from_arrays(list(arrays), schema=schema)


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
    file: IO[bytes], table: Table, schema: pa.Schema, columns: dict[str, _Column]
) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        use_dictionary=[name for name, column in columns.items() if column.dictionary],
        dictionary_pagesize_limit=DICTIONARY_BYTES,
        write_page_checksum=True,
        # a page per column of a row group: pages of 20,000 rows, the default, took 18 % more bytes
        max_rows_per_page=ROW_GROUP_ROWS,
        # where the socket is, not how it fares: what queries select by
        write_statistics=[c.name for c in table.columns if c not in UNSELECTIVE],
        store_schema=False,
        sorting_columns=pq.SortingColumn.from_ordering(
            schema, [(name, "ascending") for name in table.order]
        ),
    )


def _few_values(numbers: AnyArray) -> bool:
    """Guess from a thousand rows whether a dictionary will stay small."""
    return len(np.unique(numbers[:: max(1, len(numbers) // 1009)])) <= 64
