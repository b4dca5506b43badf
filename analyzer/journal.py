"""The journals of a recording: Arrow streams, of which only what was committed counts."""

from __future__ import annotations

import json
import mmap
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from recorder.schema import SAMPLES, SockrecError, Table, journal_schema

COMMIT_KEY = b"sockrec.commit"
CRC_KEY = b"sockrec.crc"

# What pyarrow raises for bytes that it cannot make sense of.
_DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


class JournalError(SockrecError):
    """A journal whose committed bytes are not what the format says."""


@dataclass(frozen=True, slots=True)
class Journal:
    """The committed bytes of one journal; they stay readable when its file is removed."""

    table: Table
    path: Path
    bytes: pa.Buffer

    def batches(self, columns: frozenset[str]) -> Iterator[pa.RecordBatch]:
        """Yield batches of the journal's own types with at least those columns, once per call.

        Only these columns are decompressed. Raises JournalError.
        """
        try:
            names = pa.ipc.open_stream(pa.BufferReader(self.bytes)).schema.names
            # An empty list would mean every column.
            fields = [i for i, name in enumerate(names) if name in columns] or [0]
            for batch in pa.ipc.open_stream(pa.BufferReader(self.bytes), options=_reading(fields)):
                batch.validate(full=True)  # the checksum does not vouch for who made it
                yield batch
        except _DAMAGE as error:
            what = " ".join(str(error).split())
            raise JournalError(f"{self.path}: damaged journal: {what}") from error

    def check(self) -> None:
        """Raise JournalError unless every column is one of the table's, in its journal type."""
        known = journal_schema(self.table)
        try:
            schema = pa.ipc.open_stream(pa.BufferReader(self.bytes)).schema
            names = list(schema.names)  # text that is no UTF-8 is an error only now
        except _DAMAGE as error:
            what = " ".join(str(error).split())
            raise JournalError(f"{self.path}: damaged journal: {what}") from error
        if len(set(names)) != len(names):
            raise JournalError(f"{self.path}: a column occurs twice")
        for field in schema:
            if field.name not in known.names:
                raise JournalError(f"{self.path}: unknown column {field.name[:60]!r}")
            if field.type != known.field(field.name).type:
                raise JournalError(
                    f"{self.path}: column {field.name!r} is {field.type}, "
                    f"not {known.field(field.name).type}"
                )


@dataclass(frozen=True, slots=True)
class Committed:
    """How far the journals of one number reach, in bytes per table.

    ``rows`` are the ranges of the samples journal between its commits. ``samples`` counts the
    commits accepted; ``stopped`` says why the next one was not, and is empty if there was none.
    """

    ends: Mapping[str, int]
    rows: tuple[tuple[int, int], ...]
    samples: int
    stopped: str

    def take(self, table: str, journal: pa.Buffer) -> pa.Buffer:
        """Return the bytes of a journal that checksums vouch for; commits themselves have none."""
        if table != SAMPLES.name:
            return journal.slice(0, self.ends[table])
        return pa.py_buffer(
            b"".join(memoryview(journal.slice(start, end - start)) for start, end in self.rows)
        )


def _reading(fields: list[int]) -> pa.ipc.IpcReadOptions:
    """Return options for some columns; threads cost small batches seven times what they save."""
    return pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)


def map_file(path: Path) -> pa.Buffer:
    """Map a regular file; symbolic links and devices are refused. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise JournalError(f"{path}: not a regular file")
        if status.st_size == 0:
            return pa.py_buffer(b"")
        return pa.py_buffer(mmap.mmap(file, status.st_size, prot=mmap.PROT_READ))
    finally:
        os.close(file)


def read_commits(journals: Mapping[str, pa.Buffer]) -> Committed:
    """Find the last sample that is whole in all journals of one number; never raises for damage."""
    ends = dict.fromkeys(journals, 0)
    ends[SAMPLES.name] = rows_end = 0
    rows: list[tuple[int, int]] = []
    last = -1
    source = pa.BufferReader(journals.get(SAMPLES.name, pa.py_buffer(b"")))
    if source.size() == 0:
        return Committed(ends, (), 0, "")
    try:
        reader = pa.ipc.open_stream(source, options=_reading([0]))
        while True:
            item = reader.read_next_batch_with_custom_metadata()
            metadata = dict(item.custom_metadata or {})
            if COMMIT_KEY not in metadata:
                rows_end = source.tell()
                continue
            sample, ranges = _parse_commit(metadata)
            if sample < last:
                raise JournalError(f"a commit of sample {sample} follows that of {last}")
            _check_ranges(sample, ranges, ends, rows_end, journals)
            rows.append(ranges[SAMPLES.name][:2])
            ends.update((name, end) for name, (_, end, _) in ranges.items())
            ends[SAMPLES.name] = rows_end = source.tell()
            last = sample
    except StopIteration:
        early = source.tell() < source.size()
        return Committed(ends, tuple(rows), len(rows), "an end mark in the middle" * early)
    except (SockrecError, *_DAMAGE) as error:
        return Committed(ends, tuple(rows), len(rows), " ".join(str(error).split()))


def _parse_commit(
    metadata: Mapping[bytes, bytes],
) -> tuple[int, dict[str, tuple[int, int, int]]]:
    text = metadata[COMMIT_KEY]
    if metadata.get(CRC_KEY) != str(zlib.crc32(text)).encode():
        raise JournalError("a commit does not match its own checksum")
    try:
        commit = json.loads(text)
        ranges = {
            str(name): (int(start), int(end), int(crc))
            for name, (start, end, crc) in commit["tables"].items()
        }
        return int(commit["sample"]), ranges
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise JournalError(f"a commit is malformed: {error!r}") from error


def _check_ranges(
    sample: int,
    ranges: Mapping[str, tuple[int, int, int]],
    ends: Mapping[str, int],
    rows_end: int,
    journals: Mapping[str, pa.Buffer],
) -> None:
    """Check that the ranges continue the journals and that the bytes are what was written."""
    if SAMPLES.name not in ranges or ranges[SAMPLES.name][1] != rows_end:
        raise JournalError(f"the commit of sample {sample} is not about the rows before it")
    for name, (start, end, crc) in ranges.items():
        journal = journals.get(name)
        if journal is None:
            if start == end == 0:
                continue
            raise JournalError(f"sample {sample}: the journal of {name} is missing")
        if start != ends[name] or end < start:
            raise JournalError(
                f"sample {sample}: bytes {start} to {end} of {name} do not follow {ends[name]}"
            )
        if end > journal.size:
            raise JournalError(f"sample {sample}: {name} ends at byte {journal.size}, not at {end}")
        if zlib.crc32(journal.slice(start, end - start)) != crc:
            raise JournalError(f"sample {sample}: bytes {start} to {end} of {name} are damaged")
