"""Journals: the files being written, one Arrow IPC stream per table, and their commits.

The format, and what a reader may rely on, is in docs/recording.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.columns import Values
from recorder.schema import JOURNAL_SUFFIX, TABLES, Table, journal_schema

COMMIT_KEY = "sockrec.commit"
CRC_KEY = "sockrec.crc"
_FILE_BUFFER = 1 << 20


class BatchMaker:
    """Makes the record batches of one table, NULL in every column that is not given.

    NULL columns share one buffer of zeros, so that a dump without some attribute costs no memory.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.schema = journal_schema(table)
        self._zeros = pa.py_buffer(bytes(8 * 4096))
        self._zero_rows = 4096
        self._no_words = pa.array([], pa.string())

    def make(self, rows: int, columns: Mapping[str, Values | pa.Array]) -> pa.RecordBatch:
        """Return a batch of ``rows`` rows; it shares the memory of the values given."""
        if rows > self._zero_rows:
            self._zero_rows = 2 * rows
            self._zeros = pa.py_buffer(bytes(8 * self._zero_rows))
        bitmaps: dict[int, pa.Buffer] = {}
        arrays = [
            self._array(field.type, rows, columns.get(field.name), bitmaps) for field in self.schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _array(
        self,
        kind: pa.DataType,
        rows: int,
        values: Values | pa.Array | None,
        bitmaps: dict[int, pa.Buffer],
    ) -> pa.Array:
        if values is None:
            if pa.types.is_dictionary(kind):
                indices = self._nulls(kind.index_type, rows)
                return pa.DictionaryArray.from_arrays(indices, self._no_words)
            return self._nulls(kind, rows)
        if isinstance(values, pa.Array):
            return values if values.type == kind else values.cast(kind)
        data = values.data
        if data.dtype.byteorder == ">":
            data = data.byteswap().view(data.dtype.newbyteorder())
        return pa.Array.from_buffers(
            kind, rows, [_bitmap(values.valid, bitmaps), pa.py_buffer(np.ascontiguousarray(data))]
        )

    def _nulls(self, kind: pa.DataType, rows: int) -> pa.Array:
        return pa.Array.from_buffers(kind, rows, [self._zeros, self._zeros], null_count=rows)


def _bitmap(valid: npt.NDArray[np.bool_] | None, bitmaps: dict[int, pa.Buffer]) -> pa.Buffer | None:
    if valid is None:
        return None
    known = bitmaps.get(id(valid))
    if known is None:
        known = bitmaps[id(valid)] = pa.py_buffer(np.packbits(valid, bitorder="little"))
    return known


class _Checked:
    """A file opened for appending that counts and checksums what is written to it."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file: IO[bytes] = os.fdopen(descriptor, "wb", buffering=_FILE_BUFFER)
        self.start = self.end = 0
        self._crc = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        self._crc = zlib.crc32(data, self._crc)
        self._file.write(data)
        size = memoryview(data).nbytes
        self.end += size
        return size

    def take_range(self) -> tuple[int, int, int]:
        """Return (start, end, CRC-32) of what was written since the last call."""
        taken = (self.start, self.end, self._crc)
        self.start, self._crc = self.end, 0
        return taken

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            with contextlib.suppress(OSError):  # what is not committed by now is of no worth
                self._file.close()


class _Stream:
    def __init__(self, path: Path, table: Table) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self.file = _Checked(path)
        self._sink = pa.PythonFile(self.file, mode="w")
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self.writer = pa.ipc.new_stream(self._sink, journal_schema(table), options=options)

    def close(self) -> None:
        # without closing the writer, which would add an end mark no commit covers
        self.file.close()


class Journals:
    """The open journals of one number; ``commit`` makes a sample part of the recording."""

    def __init__(self, directory: Path, number: int) -> None:
        self.number = number
        self.rows = 0
        self._streams = {
            name: _Stream(journal_path(directory, name, number), table)
            for name, table in TABLES.items()
        }
        self._empty = BatchMaker(TABLES["samples"]).make(0, {})

    @property
    def size(self) -> int:
        """Bytes written to all journals of this number."""
        return sum(stream.file.end for stream in self._streams.values())

    def append(self, table: str, batch: pa.RecordBatch) -> None:
        """Write one batch; it counts once it is committed."""
        self._streams[table].writer.write_batch(batch)
        self.rows += batch.num_rows

    def commit(self, sample: int) -> None:
        """Flush the sample's batches of all tables, then write and flush its commit."""
        samples = self._streams["samples"]
        ranges = {name: stream.file.take_range() for name, stream in self._streams.items()}
        for stream in self._streams.values():
            stream.file.flush()
        record = json.dumps({"sample": sample, "tables": ranges}, separators=(",", ":"))
        crc = str(zlib.crc32(record.encode()))
        samples.writer.write_batch(self._empty, custom_metadata={COMMIT_KEY: record, CRC_KEY: crc})
        samples.file.take_range()
        samples.file.flush()

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()


def journal_path(directory: Path, table: str, number: int) -> Path:
    """Return where the journal of a table and number is."""
    return directory / table / f"{number:06d}{JOURNAL_SUFFIX}"


def committed(directory: Path, number: int) -> list[dict[str, tuple[int, int, int]]]:
    """Return the ranges of every committed sample of a number, in order, each verified by its CRC.

    Ends before the first commit that is damaged or names bytes that are damaged or missing.
    """
    result: list[dict[str, tuple[int, int, int]]] = []
    with contextlib.ExitStack() as stack:
        try:
            files = {
                table: stack.enter_context(open(journal_path(directory, table, number), "rb"))
                for table in TABLES
            }
            stream = stack.enter_context(open(files["samples"].name, "rb"))
            reader = stack.enter_context(pa.ipc.open_stream(stream))
            while True:
                _, metadata = reader.read_next_batch_with_custom_metadata()
                ranges = _parse_commit(metadata)
                if ranges is None:
                    continue
                if not all(_intact(files[table], *ranges[table]) for table in TABLES):
                    break
                result.append(ranges)
        except (StopIteration, pa.ArrowException, OSError, ValueError, KeyError, TypeError):
            pass  # the end of what is whole
    return result


def _parse_commit(
    metadata: Mapping[bytes, bytes] | None,
) -> dict[str, tuple[int, int, int]] | None:
    if not metadata or COMMIT_KEY.encode() not in metadata:
        return None
    record = metadata[COMMIT_KEY.encode()]
    if str(zlib.crc32(record)).encode() != metadata[CRC_KEY.encode()]:
        raise ValueError("the commit is damaged")
    tables = json.loads(record)["tables"]
    return {table: (tables[table][0], tables[table][1], tables[table][2]) for table in TABLES}


def _intact(file: IO[bytes], start: int, end: int, crc: int) -> bool:
    file.seek(start)
    data = file.read(end - start)
    return len(data) == end - start and zlib.crc32(data) == crc


def numbers(directory: Path) -> list[int]:
    """Return the numbers that have journals, in order."""
    paths = (directory / "samples").glob("*" + JOURNAL_SUFFIX)
    return sorted(int(path.stem) for path in paths if path.stem.isdigit())


def remove(directory: Path, number: int) -> None:
    """Remove the journals of a sealed number; samples last, as its file says that they exist."""
    for table in sorted(TABLES, key=lambda name: name == "samples"):
        journal_path(directory, table, number).unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
