"""Whether the bytes of segments that a query reads are those that were written.

Each file carries the checksum of each of its column chunks. Older ones do not: of these the pages
are decoded by pyarrow, which has checksums of its own in each.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

from analyzer.reading.memory import check_room_for_threads
from analyzer.reading.segment import Identity, Segment, identity
from recorder.format.ages import in_segment
from recorder.format.checksums import Chunk, read_footer
from recorder.format.files import FileError, open_regular

_TIMES = ("time", "sample_time", "valid_from")


class Checker:
    """Checks columns of segments, each of a file only once as long as the file stays the same."""

    def __init__(self, threads: int | None) -> None:
        self._threads = threads or os.cpu_count() or 1
        self._whole: dict[Identity, frozenset[str]] = {}

    def check(
        self, segments: Sequence[Segment], columns: Mapping[str, Collection[str]]
    ) -> list[tuple[Segment, str]]:
        """Return the segments that are damaged in columns of their table, and how.

        ``columns`` gives them by table. Raises OSError and MemoryError.
        """
        work = []
        for segment in segments:
            asked = columns.get(segment.table.name, ())
            wanted = frozenset(in_segment(segment.table, asked, segment.columns))
            if new := wanted - self._whole.get(segment.identity, frozenset()):
                work.append((segment, new))
        if not work:
            return []
        threads = min(self._threads, len(work))
        check_room_for_threads(threads)
        with ThreadPoolExecutor(threads) as pool:
            try:
                found = list(pool.map(lambda one: _damage(*one), work))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        for (segment, new), why in zip(work, found, strict=True):
            if not why:
                known = self._whole.get(segment.identity, frozenset())
                self._whole[segment.identity] = known | new
        return [(segment, why) for (segment, _), why in zip(work, found, strict=True) if why]


def _damage(segment: Segment, columns: frozenset[str]) -> str:
    """Return what is damaged of some columns of a segment, empty if nothing."""
    for column, why in damages(segment, columns):
        return f"column {column} is damaged: {why}" if column else why
    return ""


def damages(segment: Segment, columns: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield each damage found in a segment: the column, if it is one, and in words."""
    try:
        file = open_regular(segment.path, follow=True)
    except (FileError, FileNotFoundError) as error:
        yield "", str(error).removeprefix(f"{segment.path}: ")
        return
    try:
        if identity(os.fstat(file)) != segment.identity:
            yield "", "was changed while it was read"
            return
        checksums = segment.checksums
        if checksums is None:
            metadata, checksums = read_footer(segment.path, file)
            if checksums is None:
                yield from _undecodable(file, metadata, columns)
                return
        for chunk in checksums.damaged(file, columns):
            told = rows_of(chunk, checksums.metadata)
            yield chunk.column, f"{told} are not as they were written"
    except FileError as error:
        yield "", str(error).removeprefix(f"{segment.path}: ")
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        yield "", f"cannot be read: {error.strerror}"
    finally:
        os.close(file)


def span(segment: Segment) -> tuple[int | None, int | None]:
    """Return the first and last time in a segment, in microseconds UTC, as its footer has them.

    None where no checksum vouches for the footer: of damaged statistics pyarrow would abort.
    """
    times: list[int] = []
    with suppress(FileError, OSError, ValueError, pa.ArrowException):
        file = open_regular(segment.path, follow=True)
        try:
            metadata, checksums = read_footer(segment.path, file)
        finally:
            os.close(file)
        if checksums is None:
            return None, None
        names = metadata.schema.names
        index = min(names.index(name) for name in _TIMES if name in names)
        for group in range(metadata.num_row_groups):
            known = metadata.row_group(group).column(index).statistics
            if known is not None and known.has_min_max:
                times += [int(known.min_raw), int(known.max_raw)]
    return (min(times), max(times)) if times else (None, None)


def rows_of(chunk: Chunk, metadata: pq.FileMetaData) -> str:
    """Return which rows of a file a chunk is about, in words."""
    first = sum(metadata.row_group(group).num_rows for group in range(chunk.group))
    return f"rows {first:,} to {first + metadata.row_group(chunk.group).num_rows:,}"


def _undecodable(
    file: int, metadata: pq.FileMetaData, columns: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Yield the columns of which pages do not match their own checksums."""
    names = metadata.schema.names
    texts = [
        name
        for name in names
        if metadata.schema.column(names.index(name)).physical_type == "BYTE_ARRAY"
    ]
    with os.fdopen(os.dup(file), "rb") as opened:
        # A word that occurs a million times is kept once.
        # Reading ahead would be in threads, which find no memory where none is left.
        whole = pq.ParquetFile(
            opened, page_checksum_verification=True, read_dictionary=texts, pre_buffer=False
        )
        first = 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            for name in columns:
                try:
                    whole.read_row_group(group, [name], use_threads=False)
                except MemoryError:
                    raise
                except (pa.ArrowException, OSError, ValueError) as error:
                    what = " ".join(str(error).split())[:200]
                    yield name, f"rows {first:,} to {first + rows:,}: {what}"
            first += rows
