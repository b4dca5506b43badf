"""Journals: the files being written, one Arrow IPC stream per table, and their commits.

The format, and what a reader may rely on, is in docs/recording.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.format.files import journal_name, number_of
from recorder.format.journal import COMMIT_KEY, CRC_KEY, JournalFile
from recorder.schema import JOURNAL_SUFFIX, SAMPLES, SOCKETS, TABLES, Table, journal_schema
from recorder.store.directory import Directory
from recorder.wire.columns import Values

_FILE_BUFFER = 1 << 20
_PIECES = 1 << 16
_SAMPLE_TIME = SAMPLES.names.index("sample_time")
_BOOTTIME = SAMPLES.names.index("boottime_us")


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


class Room(Protocol):
    """What makes room for what is to be written."""

    def grow(self, size: int) -> None:
        """Make room for so many bytes, which are written next. Raises SockrecError or OSError."""

    def full(self, error: OSError) -> bool:
        """Tell whether something that failed for want of room may be tried again."""


class _Unbounded:
    def grow(self, size: int) -> None:
        pass

    def full(self, error: OSError) -> bool:
        return False


class _Checked:
    """A file opened for appending that counts and checksums what is written to it."""

    def __init__(self, descriptor: int, room: Room) -> None:
        self._descriptor = descriptor
        self._room = room
        self._waiting: list[bytes] = []
        self._held = 0
        self.start = self.end = 0
        self._crc = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        if self.closed:  # the sink gives what no commit covers when it goes
            return memoryview(data).nbytes
        self._crc = zlib.crc32(data, self._crc)
        size = memoryview(data).nbytes
        self._waiting.append(data)
        self._held += size
        self.end += size
        if self._held >= _FILE_BUFFER:
            self.flush()
        return size

    def take_range(self) -> tuple[int, int, int]:
        """Return (start, end, CRC-32) of what was written since the last call.

        Raises ValueError if the file is closed: nothing can be committed there any more.
        """
        if self.closed:
            raise ValueError("the journal is closed")
        taken = (self.start, self.end, self._crc)
        self.start, self._crc = self.end, 0
        return taken

    def flush(self) -> None:
        if not self._held or self.closed:
            return
        data = memoryview(b"".join(self._waiting))
        self._waiting, self._held = [], 0
        self._room.grow(len(data))
        while data:  # of a disk that gets full the first part is written
            try:
                data = data[os.write(self._descriptor, data) :]
            except OSError as error:
                if not self._room.full(error):
                    raise

    def sync(self) -> None:
        """Make durable what was flushed."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file; what is not committed by now is of no worth."""
        if not self.closed:
            self.closed = True
            with contextlib.suppress(OSError):
                os.close(self._descriptor)


class _Stream:
    def __init__(
        self, directory: Directory, number: int, table: Table, room: Room, *, sync: bool
    ) -> None:
        self.rows = 0  # since the last commit
        with directory.folder(table.name, make=True) as folder:
            self.file = _Checked(folder.create(journal_name(number)), room)
            if sync:
                folder.sync()
        # a batch is some 300 pieces, each of which would be a call
        self._sink = pa.BufferedOutputStream(pa.PythonFile(self.file, mode="w"), _PIECES)
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        self.writer = pa.ipc.new_stream(self._sink, journal_schema(table), options=options)

    def take_range(self) -> tuple[int, int, int]:
        """Return (start, end, CRC-32) of what was written since the last call, as its file does."""
        self._sink.flush()
        return self.file.take_range()

    def close(self) -> None:
        # without closing the writer, which would add an end mark no commit covers
        self.file.close()


class Journals:
    """The open journals of one number; ``commit`` makes a sample part of the recording.

    With ``sync`` a commit returns once the sample is on the disk, else once the kernel has it.
    ``samples`` and ``socket_rows`` count what was committed; ``span`` are the times of the first
    and the last sample, in us UTC, ``boottime`` is CLOCK_BOOTTIME at the last, in us.
    """

    def __init__(
        self, directory: Directory, number: int, *, sync: bool = False, room: Room | None = None
    ) -> None:
        self.number = number
        self.rows = self.samples = self.socket_rows = 0
        self.span: tuple[int | None, int | None] = (None, None)
        self.boottime: int | None = None
        self._sync = sync
        with contextlib.ExitStack() as opened:
            self._streams: dict[str, _Stream] = {}
            for name, table in TABLES.items():
                opened.callback(_discard, directory, name, number)
                self._streams[name] = _Stream(
                    directory, number, table, room or _Unbounded(), sync=sync
                )
                opened.callback(self._streams[name].close)
            if sync:
                directory.sync()
            opened.pop_all()
        self._empty = BatchMaker(TABLES["samples"]).make(0, {})

    @property
    def size(self) -> int:
        """Bytes written to all journals of this number."""
        return sum(stream.file.end for stream in self._streams.values())

    def append(self, table: str, batch: pa.RecordBatch) -> None:
        """Write one batch; it counts once it is committed."""
        stream = self._streams[table]
        stream.writer.write_batch(batch)
        stream.rows += batch.num_rows
        self.rows += batch.num_rows
        if table == SAMPLES.name and batch.num_rows:
            time = batch.column(_SAMPLE_TIME)[0].value
            self.span = (time if self.span[0] is None else self.span[0], time)
            self.boottime = batch.column(_BOOTTIME)[0].as_py() or self.boottime

    def commit(self, sample: int) -> None:
        """Flush the sample's batches of all tables, then write and flush its commit."""
        samples = self._streams["samples"]
        rows = {name: stream.rows for name, stream in self._streams.items() if stream.rows}
        ranges = {name: stream.take_range() for name, stream in self._streams.items()}
        self.samples += bool(rows.get(SAMPLES.name))
        self.socket_rows += rows.get(SOCKETS.name, 0)
        for name, stream in self._streams.items():
            stream.file.flush()
            stream.rows = 0
            if self._sync and ranges[name][0] != ranges[name][1]:
                stream.file.sync()
        record = json.dumps(
            {"sample": sample, "tables": ranges, "rows": rows}, separators=(",", ":")
        )
        crc = str(zlib.crc32(record.encode()))
        samples.writer.write_batch(self._empty, custom_metadata={COMMIT_KEY: record, CRC_KEY: crc})
        samples.take_range()
        samples.file.flush()
        if self._sync:
            samples.file.sync()

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()


def _discard(directory: Directory, table: str, number: int) -> None:
    """Remove a journal that was made and will not be written."""
    with contextlib.suppress(OSError), directory.folder(table) as folder:
        folder.discard(journal_name(number))


@contextlib.contextmanager
def open_journals(directory: Directory, number: int) -> Iterator[dict[str, JournalFile]]:
    """Open the journals of a number to be read, by table; one that is not there is left out.

    Raises OSError for whatever else goes wrong.
    """
    with contextlib.ExitStack() as opened:
        found = {}
        for table in TABLES:
            try:
                with directory.folder(table) as folder:
                    path = folder.path / journal_name(number)
                    found[table] = JournalFile(path, directory=folder.descriptor)
            except FileNotFoundError:
                continue
            opened.callback(found[table].close)
        yield found


def numbers(directory: Directory) -> list[int]:
    """Return the numbers that have a journal of some table, in order."""
    found: set[int] = set()
    for table in TABLES:
        with contextlib.suppress(FileNotFoundError), directory.folder(table) as folder:
            found.update(
                number
                for name in folder.names()
                if (number := number_of(name, JOURNAL_SUFFIX)) is not None
            )
    return sorted(found)
