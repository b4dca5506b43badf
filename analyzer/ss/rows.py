"""Rows of a recording as they are stored, without a query: those of one moment, in ss's order.

To load a query engine and ask it takes longer than to read what one moment has.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analyzer.reading.memory import check_room_for_threads
from analyzer.reading.rows import Part, TableRows
from analyzer.reading.sources import Sources
from analyzer.ss.inet import details
from analyzer.ss.layout import together
from analyzer.ss.selection import NETIDS
from analyzer.ss.view import GROUPS, group_of
from recorder.schema import SockrecError, Table, public_schema

if TYPE_CHECKING:
    from analyzer.sql.engine import Engine

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

_MOST = 1 << 62
"""Keys of an order are put together in one number as long as it is below this."""


class RowsError(SockrecError):
    """Rows that cannot be read, or not in the time that is given."""


class Rows:
    """Reads one recording; close it, or leave its ``with`` block, to let go of its files.

    ``timeout`` is in seconds for each reading. An engine that is given stays its owner's.
    """

    def __init__(
        self, sources: Sources, timeout: float | None = None, engine: Engine | None = None
    ) -> None:
        self.sources = sources
        self._timeout = timeout
        self._engine = engine
        self._is_own = engine is None

    @property
    def engine(self) -> Engine:
        """What answers SQL over the same files, made when it is first needed."""
        if self._engine is None:
            from analyzer.sql.engine import Engine

            self._engine = Engine(sources=self.sources, timeout=self._timeout)
        return self._engine

    def read(
        self,
        table: Table,
        names: Sequence[str],
        sample: int | None = None,
        chosen: Callable[[pa.RecordBatch], Mask] | None = None,
        *,
        early: bool = False,
    ) -> pa.Table:
        """Return rows of a table with some of its columns, in the types that SQL has.

        ``chosen`` tells which rows of a batch, whose texts are dictionaries. With ``early`` there
        are those that a cut has from before its begin, too: what counters were then they are in it
        until they change. Raises SockrecError, OSError and MemoryError.
        """
        try:
            return self._read(table, names, sample, chosen, early)
        except MemoryError:
            raise
        except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
            recording = self.sources.recordings[0]
            recording.check_kept()
            if isinstance(error, OSError) and error.errno:
                raise
            what = " ".join(str(error).split())
            raise RowsError(f"{recording.path}: {table.name} cannot be read: {what}") from error

    def _read(
        self,
        table: Table,
        names: Sequence[str],
        sample: int | None,
        chosen: Callable[[pa.RecordBatch], Mask] | None,
        early: bool,
    ) -> pa.Table:
        also = [*self._bounds(table), *["sample"] * (sample is not None)]
        asked = list(dict.fromkeys([*names, *also]))
        self.sources.leave_out_damaged({table.name: asked}, [0], sample)
        recording = self.sources.recordings[0].own.of_sample(sample)
        places = [table.names.index(name) for name in asked]
        deadline = None if self._timeout is None else time.monotonic() + self._timeout

        def rows_of(part: TableRows) -> list[pa.RecordBatch]:
            found = []
            for batch in part.read(places):
                if deadline is not None and time.monotonic() > deadline:
                    raise RowsError(f"reading took longer than {self._timeout:g} s")
                batch = _filtered(batch, self._within(table, batch, early))
                if sample is not None:
                    batch = _filtered(batch, pc.equal(batch["sample"], sample).fill_null(False))
                if chosen is not None:
                    batch = _filtered(batch, pa.array(chosen(batch)))
                found.append(_public(batch.select(list(names)), table))
            return found

        schema = pa.schema([public_schema(table).field(name) for name in names])
        parts = list(TableRows(table, [Part(recording)]).apart())
        return pa.Table.from_batches([b for part in _mapped(rows_of, parts) for b in part], schema)

    @cached_property
    def _cut(self) -> tuple[int | None, int | None]:
        return self.sources.recordings[0].cut[:2]

    def _bounds(self, table: Table) -> list[str]:
        """Return the column by which rows outside of a cut are left out, if this is one."""
        if self._cut == (None, None):
            return []
        from analyzer.sql.views import time_column

        return [time_column(table)]

    def _within(self, table: Table, batch: pa.RecordBatch, early: bool) -> pa.Array | None:
        """Return which rows are within a cut: of what lasts, those that began before its end."""
        inside = None
        for column in self._bounds(table):
            from analyzer.sql.views import LASTING

            start, end = self._cut
            us = batch[column].cast(pa.int64())
            inside = pc.is_valid(us)
            if start is not None and table.name not in LASTING and not early:
                inside = pc.and_(inside, pc.greater_equal(us, start).fill_null(False))
            if end is not None:
                inside = pc.and_(inside, pc.less(us, end).fill_null(False))
        return inside

    def close(self) -> None:
        """Let go of files."""
        if self._is_own:
            (self._engine or self.sources).close()

    def __enter__(self) -> Rows:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _mapped(
    told: Callable[[TableRows], list[pa.RecordBatch]], parts: Sequence[TableRows]
) -> Iterator[list[pa.RecordBatch]]:
    """Yield what is told of each part, in threads if there are several of both."""
    threads = min(len(parts), os.cpu_count() or 1)
    if threads < 2:
        yield from map(told, parts)
        return
    check_room_for_threads(threads)
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(told, parts)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _filtered(batch: pa.RecordBatch, mask: pa.Array | None) -> pa.RecordBatch:
    return batch if mask is None else batch.filter(mask)


def _public(batch: pa.RecordBatch, table: Table) -> pa.RecordBatch:
    """Return a batch in the types that SQL has; what is no UTF-8 raises ArrowInvalid."""
    schema = public_schema(table)
    arrays = []
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
            array.validate(full=True)
        arrays.append(array.cast(schema.field(name).type))
    return pa.RecordBatch.from_arrays(arrays, batch.schema.names)


def associations(table: pa.Table | pa.RecordBatch) -> Mask:
    """Return which rows of sockets are associations of SCTP: endpoints have no peers."""
    found = np.zeros(table.num_rows, np.bool_)
    for row in np.flatnonzero(_is_sctp(table)):
        known = details({"details": table["details"][int(row)].as_py()})
        found[row] = known.get("peers") is not None
    return found


def _is_sctp(table: pa.Table | pa.RecordBatch) -> Mask:
    values, of = together(table["netid"])
    return np.array([value == ("sctp",) for value in values], np.bool_)[of]


def in_order(table: pa.Table) -> pa.Table:
    """Return rows of sockets in ours, which is stable.

    By namespace, table and family as ss has them, then by port and address; nothing comes last.
    """
    sctp = _is_sctp(table)
    keys = [
        _numbers(table["netns"]),
        _ranks(table["netid"], _RANKS),
        _ranks(table["family"]),
        *([_numbers(table["inode"], sctp), associations(table) + 2 * ~sctp] if sctp.any() else ()),
        _numbers(table["local_port"]),
        _ranks(table["local_addr"]),
        _ranks(table["peer_addr"]),
        _numbers(table["peer_port"]),
        _numbers(table["inode"]),
        _numbers(table["cookie"]),
    ]
    joined: list[Numbers] = []
    room = _MOST
    for key in keys:
        size = int(key.max(initial=0)) + 1 if key.min(initial=0) >= 0 else _MOST
        if room * size < _MOST:
            joined[-1] = joined[-1] * size + key
            room *= size
        else:
            joined.append(key)
            room = size
    return table.take(pa.array(np.lexsort(joined[::-1])))


_RANKS = {netid: GROUPS.index(group_of(netid)) for netid in NETIDS}


def _ranks(column: pa.ChunkedArray, known: dict[str, int] | None = None) -> Numbers:
    """Return the places of words in their order, of which none is the last."""
    values, of = together(column)
    words = [word for (word,) in values]
    if known is None:
        known = {word: place for place, word in enumerate(sorted(set(words) - {None}))}
    ranks = [known.get(word, len(known)) for word in words]
    return np.array(ranks, np.int64)[of]


def _numbers(column: pa.ChunkedArray, mask: Mask | None = None) -> Numbers:
    """Return numbers of that order, from 0 if they are not too large; none is the last."""
    there = np.asarray(column.is_valid())
    if mask is not None:
        there &= mask
    numbers = np.asarray(column.fill_null(0)).astype(np.int64)
    some = numbers[there]
    low, high = int(some.min(initial=0)), int(some.max(initial=0))
    if high - low < _MOST:
        return np.where(there, numbers - low, high - low + 1)
    if there.all():
        return numbers
    _, places = np.unique(numbers, return_inverse=True)
    return np.where(there, places, len(places))
