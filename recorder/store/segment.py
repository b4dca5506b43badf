"""Segments: sealed Parquet files, made from the journals of one number.

``sockets`` is sorted by (netns, cookie, sample), so that a socket's unchanging columns collapse.

A journal is removed only when its segment was opened again, its rows counted and its checksums
compared, and the number stands in the list of segments. What cannot be sealed because a commit
before it is damaged is put aside.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

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
from recorder.format.writing import (
    COLUMNS_AT_ONCE,
    key_values,
    order_of,
    read_back,
    write_segment,
)
from recorder.schema import (
    JOURNAL_SUFFIX,
    SAMPLES,
    TABLES,
    SockrecError,
    Table,
    journal_schema,
)
from recorder.store.directory import Directory, append_line
from recorder.store.journal import open_journals

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
            first, last, boottime = span_of(committed, journals.get(SAMPLES.name))
            sealed = Sealed(
                number,
                len(committed.commits),
                first,
                last,
                _write_tables(directory, number, journals, committed, columns_at_once),
                _aside(number, committed),
                salvaged,
                committed.samples,
                boottime,
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
    place, parent = recording_file(directory.path), directory.descriptor
    metadata = key_values(read_facts(place, directory=parent))
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
                with os.fdopen(folder.create_temporary(name), "w+b") as file:
                    path, parts = folder.path / name, [(batches, order)]
                    write_segment(table, parts, file, path, metadata, columns_at_once)
                files[table.name] = _read_back(folder, name + TEMPORARY)
                if files[table.name].rows != len(order):
                    raise SealError(f"{folder.path / name}: was not written as a whole")
            except BaseException:
                folder.discard(name + TEMPORARY)  # what a full disk can do without
                raise
            folder.place(name)
    return files


def _read_back(folder: Directory, name: str) -> SealedFile:
    """Open a segment again and check all its bytes."""
    file = folder.open_regular(name)
    try:
        return read_back(folder.path / name, file)
    finally:
        os.close(file)


def span_of(
    committed: Committed, samples: JournalFile | None
) -> tuple[int | None, int | None, int | None]:
    """Return the times of the first and the last sample, and the latest CLOCK_BOOTTIME."""
    places = sorted(map(SAMPLES.names.index, ("sample_time", "boottime_us")))
    first = last = boottime = None
    for batch in Batches(SAMPLES, samples, committed.ranges(SAMPLES.name)).read(places):
        times = pc.min_max(batch.column("sample_time").cast(pa.int64()))
        low, high = times["min"].as_py(), times["max"].as_py()
        if low is not None:
            first = low if first is None else min(first, low)
            last = high if last is None else max(last, high)
        if "boottime_us" in batch.schema.names:
            latest = pc.max(batch.column("boottime_us")).as_py()
            boottime = max((t for t in (boottime, latest) if t is not None), default=None)
    return first, last, boottime


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


def _order(table: Table, batches: Batches) -> npt.NDArray[np.int64]:
    """Return the places of all rows of the journal in the order of the segment."""
    # a journal is in the order of its samples
    names = table.order[:-1] if table.order[-1] == "sample" else table.order
    return order_of(table, batches, names)
