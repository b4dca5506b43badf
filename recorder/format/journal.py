"""Journals, read: which samples of them are whole, and the batches of those.

docs/recording.md has the rules. Files are read, not mapped: one that shrinks meanwhile is an error
like any other. An end is proven, by a checksum or by the end of the file; whatever else goes wrong
(the disk, memory, descriptors) is an error that is raised, since behind it may be more.
"""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import os
import struct
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from recorder.format.files import named, open_regular, read_range, status
from recorder.format.messages import custom_metadata
from recorder.schema import SAMPLES, SockrecError

COMMIT_KEY = "sockrec.commit"
CRC_KEY = "sockrec.crc"

_PIECE = 1 << 20
_MOST_COMMIT = 1 << 16
_COMMIT_START = b'{"sample":'
_NEAR = 256
"""Bytes within which the checksum of a commit stands beside its text."""

Range = tuple[int, int, int]
"""Start, end and CRC-32 of bytes of a journal."""


class JournalError(SockrecError):
    """Bytes of a journal that are not what its format says, which is damage."""


class JournalFile:
    """An open journal; what it holds beyond its size when it was opened does not count."""

    def __init__(self, path: Path, *, directory: int | None = None) -> None:
        self.path = path
        self._file = open_regular(path, directory=directory)
        self.close = weakref.finalize(self, os.close, self._file)
        self.size = status(self._file, path).st_size

    def read(self, start: int, size: int) -> bytes:
        """Return bytes, fewer where the journal ends."""
        return read_range(self._file, start, max(0, min(size, self.size - start)), self.path)

    def crc(self, start: int, end: int) -> int | None:
        """Return the CRC-32 of a range, None if the journal ends within."""
        crc = 0
        while start < end:
            piece = self.read(start, min(_PIECE, end - start))
            if not piece:
                return None
            crc = zlib.crc32(piece, crc)
            start += len(piece)
        return crc

    def stream(self, ranges: Sequence[tuple[int, int]]) -> _Ranges:
        """Return ranges of bytes, one after another, as a file."""
        return _Ranges(self, ranges)

    def mapped(self, ranges: Sequence[tuple[int, int]]) -> pa.Buffer:
        """Return ranges of bytes in memory; one that begins the file is mapped, not read.

        For a file that nobody else changes: where a mapped one shrinks, the process is killed.
        Raises JournalError if it is shorter than that by now, or OSError.
        """
        if len(ranges) == 1 and ranges[0][0] == 0:
            try:
                return pa.py_buffer(mmap.mmap(self._file, ranges[0][1], prot=mmap.PROT_READ))
            except OSError as error:
                raise named(error, self.path) from error
            except ValueError as error:
                raise JournalError(f"{self.path}: was cut short meanwhile") from error
        return pa.py_buffer(b"".join(self.read(start, end - start) for start, end in ranges))


class _Ranges(io.RawIOBase):
    """Ranges of bytes of a journal, as pyarrow reads a file."""

    def __init__(self, journal: JournalFile, ranges: Sequence[tuple[int, int]]) -> None:
        self._journal = journal
        self._ranges = list(ranges)
        self._place = 0
        self.short = False
        """Whether more was asked for than there is."""

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1, /) -> bytes:
        pieces: list[bytes] = []
        while self._ranges and size:
            start, end = self._ranges[0]
            piece = self._journal.read(start, end - start if size < 0 else min(size, end - start))
            pieces.append(piece)
            start += len(piece)
            size -= len(piece) if size > 0 else 0
            if start < end and piece:
                self._ranges[0] = (start, end)
            else:
                self._ranges = self._ranges[1:] if piece or start >= end else []
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._place += len(data)
        self.short |= size > 0
        return data


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit of a sample: the range of each journal that is the sample's.

    ``rows`` are those appended to each table, None in recordings that did not count them.
    """

    sample: int
    ranges: Mapping[str, Range]
    rows: Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class Committed:
    """How far the journals of one number reach.

    ``commits`` are those accepted. ``end`` is where the samples journal goes on behind the last.
    ``rest`` are the bytes behind it in all journals. ``stopped`` says why no more was accepted,
    empty if there is nothing to accept; ``damaged`` tells damage from a sample that was in flight.
    """

    commits: tuple[Commit, ...]
    end: int
    rest: int
    stopped: str
    damaged: bool

    def ranges(self, table: str) -> list[tuple[int, int]]:
        """Return the bytes of a journal that checksums vouch for; commits themselves have none."""
        if table == SAMPLES.name:
            ranges = [commit.ranges[table][:2] for commit in self.commits]
            if ranges and ranges[0][0] == ranges[0][1]:  # what it lacks is the schema
                return [(0, self.end)]
            return [(start, end) for start, end in ranges if start < end]
        end = self.commits[-1].ranges.get(table, (0, 0, 0))[1] if self.commits else 0
        return [(0, end)] if end else []

    def rows(self, table: str) -> int | None:
        """Return how many rows were committed, None if that was not counted."""
        total = 0
        for commit in self.commits:
            if commit.rows is None:
                return None
            total += commit.rows.get(table, 0)
        return total

    @property
    def samples(self) -> int | None:
        """How many samples they are, as others commit closes only; None if that was not counted."""
        if self.rows(SAMPLES.name) is None:
            return None
        return sum(1 for commit in self.commits if (commit.rows or {}).get(SAMPLES.name))


def read_commits(journals: Mapping[str, JournalFile]) -> Committed:
    """Find the last sample that is whole in all journals of one number.

    Raises OSError and MemoryError, never anything for damage, which ends what is accepted.
    """
    commits: list[Commit] = []
    ends = dict.fromkeys(journals, 0)
    end, stopped, short = 0, "", False
    if (samples := journals.get(SAMPLES.name)) is not None and samples.size:
        source = samples.stream([(0, samples.size)])
        try:
            for commit, start, end_of_commit in _commits(source):
                _check(commit, start, ends, journals)
                if commits and commit.sample < commits[-1].sample:
                    raise JournalError(f"sample {commit.sample} follows {commits[-1].sample}")
                commits.append(commit)
                ends |= {name: range_[1] for name, range_ in commit.ranges.items()}
                end = ends[SAMPLES.name] = end_of_commit
            if source.tell() < samples.size:
                raise JournalError("an end mark stands in the middle")
        except JournalError as error:
            stopped, short = " ".join(str(error).split()), source.short
    elif samples is None and any(journal.size for journal in journals.values()):
        stopped = "the journal of samples is missing"
    rest = sum(journal.size - ends[name] for name, journal in journals.items())
    behind = any(True for _ in find_commits(journals, end))
    if behind and not stopped:
        stopped = "a commit is not where it should be"
    damaged = behind or (bool(stopped) and not short)
    return Committed(tuple(commits), end, rest, stopped, damaged)


def _commits(source: _Ranges) -> Iterator[tuple[Commit, int, int]]:
    """Yield each commit, and where its message begins and ends."""
    try:
        messages = pa.ipc.MessageReader.open_stream(pa.PythonFile(source, mode="r"))
        start = 0
        while True:
            message = messages.read_next_message()
            if message.type != "record batch":
                continue  # belongs to the batch to come
            metadata = custom_metadata(message)
            text = metadata.get(COMMIT_KEY.encode())
            if text is not None:
                if metadata.get(CRC_KEY.encode()) != str(zlib.crc32(text)).encode():
                    raise JournalError("a commit does not match its own checksum")
                yield _parsed(text), start, source.tell()
            start = source.tell()
    except StopIteration:
        return
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, struct.error, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # not pyarrow's own
            raise
        raise JournalError(str(error)) from error


def _parsed(text: bytes) -> Commit:
    try:
        commit = json.loads(text)
        ranges = {
            str(name): (int(start), int(end), int(crc))
            for name, (start, end, crc) in commit["tables"].items()
        }
        rows = commit.get("rows")
        counted = None if rows is None else {str(name): int(n) for name, n in rows.items()}
        return Commit(int(commit["sample"]), ranges, counted)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise JournalError(f"a commit is malformed: {error!r}") from error


def _check(
    commit: Commit, start: int, ends: Mapping[str, int], journals: Mapping[str, JournalFile]
) -> None:
    """Check that the ranges continue the journals and that the bytes are what was written."""
    if SAMPLES.name not in commit.ranges or commit.ranges[SAMPLES.name][1] != start:
        raise JournalError(f"the commit of sample {commit.sample} is not about the rows before it")
    for name, (first, end, _) in commit.ranges.items():
        if name not in journals:
            if first == end == 0:
                continue
            raise JournalError(f"sample {commit.sample}: the journal of {name} is missing")
        if first != ends[name] or end < first:
            raise JournalError(
                f"sample {commit.sample}: bytes {first} to {end} of {name} do not follow "
                f"{ends[name]}"
            )
        check_range(commit, name, journals[name])


def check_range(commit: Commit, name: str, journal: JournalFile) -> None:
    """Raise JournalError unless a table's bytes are those that a commit is about."""
    start, end, crc = commit.ranges[name]
    if end > journal.size:
        raise JournalError(
            f"sample {commit.sample}: {name} ends at byte {journal.size}, not at {end}"
        )
    if journal.crc(start, end) != crc:
        raise JournalError(f"sample {commit.sample}: bytes {start} to {end} of {name} are damaged")


def same_width(kind: pa.DataType, known: pa.DataType) -> bool:
    """Tell whether a journal's column may be read as the type that it has by now.

    An integer that an earlier sockrec took for unsigned, and the kernel does not, has the same
    bits.
    """
    if kind == known:
        return True
    whole = pa.types.is_integer(kind) and pa.types.is_integer(known)
    return whole and bool(kind.bit_width == known.bit_width)


def as_known(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch with its columns in the types of a journal's schema, without copying."""
    kinds = [schema.field(field.name).type for field in batch.schema]
    if kinds == batch.schema.types:
        return batch
    columns = [column.view(kind) for column, kind in zip(batch.columns, kinds, strict=True)]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def find_commits(journals: Mapping[str, JournalFile], start: int) -> Iterator[Commit]:
    """Yield the commits that lie anywhere in the samples journal from ``start`` on.

    Each stands there word for word with its own checksum; whether the bytes that it is about are
    whole, ``check_range`` tells. Used where the stream itself can no longer be followed.
    """
    samples = journals.get(SAMPLES.name)
    if samples is None:
        return
    data = samples.read(start, samples.size - start)
    place = data.find(_COMMIT_START)
    while place >= 0:
        size = int.from_bytes(data[max(0, place - 4) : place], "little")
        text = data[place : place + min(size, _MOST_COMMIT)]
        around = data[max(0, place - _NEAR) : place + len(text) + _NEAR]
        if str(zlib.crc32(text)).encode() in around:
            with contextlib.suppress(JournalError):  # a text that happens to look like one
                yield _parsed(text)
        place = data.find(_COMMIT_START, place + 1)
