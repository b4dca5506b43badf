"""The rows of a table of recordings, read again for each set of columns asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analyzer.reading.journal import Journal
from analyzer.reading.recording import Recording
from analyzer.reading.segment import Segment
from recorder.format.files import open_regular
from recorder.schema import Table, public_schema

TEXT = pa.dictionary(pa.int32(), pa.string())

Rewrite = Callable[[str, pa.Array], pa.Array]
"""What is made of a column, given by name: an array of the same type and length."""


@dataclass(frozen=True, slots=True)
class Part:
    """A recording of which rows are read; ``first_sample`` is what its samples are counted from."""

    recording: Recording
    first_sample: int = 0


class TableRows:
    """All rows of a table: of each part the segments, then the journals, in their order.

    Integers are as wide as in a segment, texts are dictionaries, flags bytes.
    """

    def __init__(self, table: Table, parts: Sequence[Part], rewrite: Rewrite | None = None) -> None:
        self.table = table
        self._parts = parts
        self._rewrite = rewrite
        self._kinds = {field.name: _kind(field.type) for field in public_schema(table)}

    def read(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Yield batches that have rows, with some of the columns, given by place."""
        names = [self.table.names[place] for place in columns]
        schema = pa.schema([(name, self._kinds[name]) for name in names])
        for part in self._parts:
            for batch in self._batches(part.recording, names):
                if not batch.num_rows:
                    continue
                arrays = [self._array(batch, name, part.first_sample) for name in names]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _batches(self, recording: Recording, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for segment in recording.segments:
            if segment.table == self.table:
                yield from _of_segment(segment, [n for n in names if n in segment.columns])
        for journal in recording.journals:
            if journal.table == self.table:
                yield from _of_journal(journal, names)

    def _array(self, batch: pa.RecordBatch, name: str, first_sample: int) -> pa.Array:
        kind = self._kinds[name]
        if name not in batch.schema.names:
            return pa.nulls(batch.num_rows, kind)
        array = batch.column(name)
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


def _of_segment(segment: Segment, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    texts = [c.name for c in segment.table.columns if c.kind in ("word", "text")]
    descriptor = open_regular(segment.path, follow=True)
    dictionaries = [name for name in names if name in texts]
    # One column after another is read, and parsing the footer of a large file takes longest.
    known = segment.checksums.metadata if segment.checksums else None
    with (
        open(descriptor, "rb") as opened,
        pq.ParquetFile(opened, read_dictionary=dictionaries, metadata=known) as file,
    ):
        for group in range(file.num_row_groups):
            if names:
                rows = file.read_row_group(group, columns=list(names)).combine_chunks()
                yield from rows.to_batches()
            else:
                count = file.metadata.row_group(group).num_rows
                yield pa.RecordBatch.from_arrays([pa.nulls(count)], names=[""])


def _of_journal(journal: Journal, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for batch in journal.batches(frozenset(names)):
        there = [name for name in names if name in batch.schema.names]
        yield batch.select(there or batch.schema.names[:1])
