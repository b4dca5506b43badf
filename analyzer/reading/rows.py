"""The rows of a table of recordings, read again for each set of columns asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analyzer.reading.journal import Journal
from analyzer.reading.recording import Recording
from analyzer.reading.segment import Segment
from recorder.format.ages import NEEDS, age, in_segment
from recorder.format.files import open_regular
from recorder.format.writing import ROW_GROUP_ROWS
from recorder.schema import Table, public_schema

Places = npt.NDArray[np.int64]

TEXT = pa.dictionary(pa.int32(), pa.string())

Rewrite = Callable[[str, pa.Array], pa.Array]
"""What is made of a column, given by name: an array of the same type and length."""


@dataclass(frozen=True, slots=True)
class Part:
    """A recording of which rows are read; ``first_sample`` is what its samples are counted from."""

    recording: Recording
    first_sample: int = 0


PART_ROWS = 10 * ROW_GROUP_ROWS
"""So many rows are brought into their order at once, unless that means to read all too often."""

_MOST_READ = 2
"""Times that a row may be read, on average: parts overlap in row groups."""


@dataclass(frozen=True, slots=True)
class _Block:
    """A row group of a segment, or a journal: what is read as a whole or not at all."""

    source: Segment | Journal
    first_sample: int
    row_group: int = 0

    def rows(self) -> int:
        if isinstance(self.source, Segment):
            return int(_footer(self.source).row_group(self.row_group).num_rows)
        return sum(batch.num_rows for batch in self.source.batches(frozenset()))


class TableRows:
    """All rows of a table: of each part the segments, then the journals, in their order.

    Integers are as wide as in a segment, texts are dictionaries, flags bytes.
    """

    def __init__(self, table: Table, parts: Sequence[Part], rewrite: Rewrite | None = None) -> None:
        self.table = table
        self._rewrite = rewrite
        self._kinds = {field.name: _kind(field.type) for field in public_schema(table)}
        self._blocks = [block for part in parts for block in _blocks(part, table)]

    def read(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Yield batches that have rows, with some of the columns, given by place."""
        names = [self.table.names[place] for place in columns]
        schema = pa.schema([(name, self._kinds[name]) for name in names])
        for _, group in groupby(self._blocks, lambda block: id(block.source)):
            blocks = list(group)
            for batch in _batches(blocks, names):
                if not batch.num_rows:
                    continue
                arrays = [self._array(batch, name, blocks[0].first_sample) for name in names]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def apart(self) -> Iterator[TableRows]:
        """Yield the rows of each row group or journal alone, in their order."""
        for block in self._blocks:
            part = copy(self)
            part._blocks = [block]
            yield part

    def in_parts(self, order: Places, size: int = PART_ROWS) -> Iterator[tuple[TableRows, Places]]:
        """Yield rows at some places, so many of them at once, or more.

        Of each part there are the rows to be read, which are few where segments are in that order
        themselves, and the places among them. There is one part at least.
        """
        counts = np.array([block.rows() for block in self._blocks] if len(order) > size else [])
        starts = np.cumsum(counts) - counts
        while len(order) > size:
            needed = [_among(starts, order[i : i + size]) for i in range(0, len(order), size)]
            if sum(counts[blocks].sum() for blocks in needed) <= _MOST_READ * counts.sum():
                break
            size *= 2
        if len(order) <= size:
            yield self, order
            return
        for number, blocks in enumerate(needed):
            places = order[number * size : (number + 1) * size]
            moved = starts[blocks] - np.cumsum(counts[blocks]) + counts[blocks]
            part = copy(self)
            part._blocks = [self._blocks[block] for block in blocks]
            within = np.searchsorted(starts[blocks], places, "right") - 1
            yield part, places - moved[within]

    def _array(self, batch: pa.RecordBatch, name: str, first_sample: int) -> pa.Array:
        kind = self._kinds[name]
        if name in batch.schema.names:
            array = batch.column(name)
        elif set(NEEDS.get(name, [name])) <= set(batch.schema.names):
            array = age(batch, name)
        else:
            return pa.nulls(batch.num_rows, kind)
        if array.type != kind:
            array = array.cast(kind, safe=False)  # the kernel's unsigned 64 bits wrap
        if name == "sample" and first_sample:
            array = pc.add(array, first_sample)
        if self._rewrite is not None:
            array = self._rewrite(name, array)
        return pa.concat_arrays([array, array.slice(0, 0)]) if array.offset else array


def _kind(kind: pa.DataType) -> pa.DataType:
    if kind == pa.string():
        return TEXT
    return pa.uint8() if kind == pa.bool_() else kind


def _among(starts: Places, places: Places) -> Places:
    """Return in which blocks, by where they start, some places are."""
    return np.unique(np.searchsorted(starts, places, "right") - 1)


def _blocks(part: Part, table: Table) -> Iterator[_Block]:
    for segment in part.recording.segments:
        if segment.table == table:
            for number in range(_footer(segment).num_row_groups):
                yield _Block(segment, part.first_sample, number)
    for journal in part.recording.journals:
        if journal.table == table:
            yield _Block(journal, part.first_sample)


def _footer(segment: Segment) -> pq.FileMetaData:
    """Return the footer of a segment; parsing that of a large file takes longest."""
    if segment.checksums is not None:
        return segment.checksums.metadata
    with _opened(segment) as file:
        return file.metadata


@contextmanager
def _opened(segment: Segment, **how: Any) -> Iterator[pq.ParquetFile]:
    descriptor = open_regular(segment.path, follow=True)
    with open(descriptor, "rb") as opened, pq.ParquetFile(opened, **how) as file:
        yield file


def _batches(blocks: Sequence[_Block], names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield what is read of blocks of one file."""
    source = blocks[0].source
    if isinstance(source, Journal):
        yield from _of_journal(source, names)
    else:
        groups = [block.row_group for block in blocks]
        yield from _of_segment(source, groups, in_segment(source.table, names, source.columns))


def _of_segment(
    segment: Segment, groups: Sequence[int], names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    metadata = _footer(segment)
    if not names:
        for group in groups:
            count = metadata.row_group(group).num_rows
            yield pa.RecordBatch.from_arrays([pa.nulls(count)], names=[""])
        return
    texts = [c.name for c in segment.table.columns if c.kind in ("word", "text")]
    dictionaries = [name for name in names if name in texts]
    with _opened(segment, read_dictionary=dictionaries, metadata=metadata) as file:
        for group in groups:
            # threads take a fifth more time for one column than they save
            rows = file.read_row_group(group, columns=list(names), use_threads=False)
            yield from rows.combine_chunks().to_batches()


def _of_journal(journal: Journal, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for batch in journal.batches(frozenset(names)):
        there = [name for name in names if name in batch.schema.names]
        yield batch.select(there or batch.schema.names[:1])
