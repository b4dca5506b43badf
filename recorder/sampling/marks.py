"""Marks: what somebody, or a trigger, says of a moment while it is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from recorder.schema import MARKS
from recorder.store.journal import BatchMaker


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark; the columns of ``marks`` say what is in it, ``time_us`` is UTC."""

    time_us: int
    kind: str
    name: str
    detail: str | None = None


def batch_of(marks: Sequence[Mark], sample: int, maker: BatchMaker) -> pa.RecordBatch:
    """Return the rows of marks, for the sample of that number."""
    columns = {
        "sample": [sample] * len(marks),
        "time": [mark.time_us for mark in marks],
        "kind": [mark.kind for mark in marks],
        "name": [mark.name for mark in marks],
        "detail": [mark.detail for mark in marks],
    }
    schema = maker.schema
    return maker.make(
        len(marks),
        {name: pa.array(column, schema.field(name).type) for name, column in columns.items()},
    )


def maker() -> BatchMaker:
    """Return what makes batches of marks."""
    return BatchMaker(MARKS)
