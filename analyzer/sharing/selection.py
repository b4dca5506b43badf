"""Which rows of a recording a selection has, so that every report on it stays right.

Beside what was asked for these are the rows that reports look at whatever the scope: the last row
of each socket before it (its baseline), who listened where, which listeners and UDP sockets came
while it was recorded, the last value of each counter and the last look at each process. Such rows
of sockets are its context, and stand under a number of their own: they are no part of what was
asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analyzer.reading.recording import Recording
from analyzer.reading.rows import Part, TableRows
from analyzer.sql.engine import Engine
from analyzer.sql.views import LASTING, Scope, time_column
from recorder.format.writing import order_of
from recorder.schema import (
    CLOSES,
    COUNTERS,
    INTERFACES,
    PROCESSES,
    QDISCS,
    SAMPLES,
    SOCKETS,
    TABLES,
    SockrecError,
    Table,
)

Places = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int64]

_NULL = np.iinfo(np.int64).min
_LISTEN = ("tcp", "mptcp", "sctp", "dccp")
_UDP = ("udp", "udplite")


class SelectionError(SockrecError):
    """A recording of which nothing can be chosen."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is chosen: of each table the places of its rows, in the order of a segment.

    ``context`` has those of sockets that are no part of what was asked for; ``scope`` says what
    was, None if all was, and ``had`` which tables had rows.
    """

    parts: tuple[Part, ...]
    places: Mapping[str, Places]
    context: Places = field(default_factory=lambda: np.zeros(0, np.int64))
    scope: Scope | None = None
    had: tuple[str, ...] = ()

    def rows(self, table: Table) -> TableRows:
        return TableRows(table, self.parts)

    @property
    def count(self) -> int:
        return sum(map(len, self.places.values())) + len(self.context)


def select(
    engine: Engine,
    scope: Scope,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> Selection:
    """Choose rows of the one recording that is open. Raises SockrecError or OSError.

    What is damaged is left out, as it is of queries.
    """
    check_one(engine)
    (recording,) = engine.checked()
    check_whole(recording)
    (scope,) = engine.scopes(scope)
    whole = (scope.start, scope.end, scope.condition()) == (None, None, None)
    part = Part(recording)
    keys = None if whole else _Keys(engine, scope)
    places: dict[str, Places] = {}
    context = np.zeros(0, np.int64)
    had = []
    earlier = _in_context(recording)
    for number, table in enumerate(TABLES.values()):
        rows = TableRows(table, (part,))
        if table == SOCKETS:
            places[table.name], context = _sockets(rows, scope, keys, earlier)
        else:
            order = order_of(table, rows)
            places[table.name] = order if keys is None else _others(rows, order, scope, keys)
        some = next(rows.read([0]), None) is not None
        if some or table.name in recording.cut.had:
            had.append(table.name)
        pa.default_memory_pool().release_unused()
        report(number + 1, len(TABLES))
    asked = None if whole else replace(scope, part=None)
    return Selection((part,), places, context, asked, tuple(had))


def check_one(engine: Engine) -> None:
    """Raise SelectionError where several recordings are open, or one of several boots."""
    paths = [str(recording.path) for recording in engine.recordings]
    if len(paths) > 1 and len(set(paths)) == 1:
        raise SelectionError(
            f"{paths[0]}: was recorded in {len(paths)} boots or intervals: 'sockrec save "
            f"{paths[0]} --from TIME --to TIME' makes a recording of one"
        )
    if len(paths) > 1:
        raise SelectionError(
            f"{paths[0]} and {paths[1]} are several recordings: name one, or merge"
        )


def check_whole(recording: Recording) -> None:
    """Raise SelectionError for files that were named alone: rows without samples say little."""
    if not recording.whole:
        raise SelectionError(f"{recording.path}: is a file of one table: name the whole recording")


def everything(parts: Sequence[Part]) -> Selection:
    """Choose all rows of recordings, none of which is a cut."""
    places = {name: order_of(table, TableRows(table, parts)) for name, table in TABLES.items()}
    return Selection(tuple(parts), places)


class _Keys:
    """The sockets and closes that a condition chooses, as the engine tells; None chooses all."""

    def __init__(self, engine: Engine, scope: Scope) -> None:
        self.sockets: pa.Table | None = None
        self.closes: pa.Table | None = None
        if scope.condition() is not None:
            self.sockets = engine.table("SELECT DISTINCT netns, cookie FROM sockets", scope)
            self.closes = engine.table(
                "SELECT DISTINCT netns, cookie, t_us AS time FROM closes", scope
            )


def _in_context(recording: Recording) -> npt.NDArray[np.bool_]:
    """Tell which rows of sockets in segments were context already."""
    numbers = recording.cut.context
    return np.concatenate(
        [
            np.zeros(0, bool),
            *(
                np.full(segment.rows, segment.number in numbers)
                for segment in recording.segments
                if segment.table == SOCKETS
            ),
        ]
    )


def _numbers(rows: TableRows, *names: str) -> list[Numbers]:
    """Return columns as numbers: texts as codes, NULL as the least number."""
    found = []
    for name in names:
        batches = list(rows.read([rows.table.names.index(name)]))
        column = pa.Table.from_batches(batches).column(0) if batches else pa.array([], pa.int64())
        found.append(_as_numbers(column))
    return found


def _as_numbers(column: pa.ChunkedArray | pa.Array) -> Numbers:
    if pa.types.is_dictionary(column.type):
        array = column.unify_dictionaries().combine_chunks()
        column = (array.chunk(0) if isinstance(array, pa.ChunkedArray) else array).indices
    column = column.cast(pa.int64())
    return np.asarray(column.fill_null(_NULL) if column.null_count else column)


def _words(rows: TableRows, name: str, words: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Tell which rows have one of some words in a column."""
    wanted = pa.array(words, pa.string())
    found = [
        np.asarray(pc.is_in(batch.column(0).dictionary, wanted))[
            np.asarray(batch.column(0).indices.fill_null(0))
        ]
        & np.asarray(batch.column(0).is_valid())
        if len(batch.column(0).dictionary)
        else np.zeros(batch.num_rows, bool)
        for batch in rows.read([rows.table.names.index(name)])
    ]
    return np.concatenate(found) if found else np.zeros(0, bool)


def _codes(*columns: Numbers) -> Numbers:
    """Return one number for each row, equal where all the columns are."""
    codes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        _, code = np.unique(column, return_inverse=True)
        _, codes = np.unique(codes * (int(code.max(initial=0)) + 1) + code, return_inverse=True)
    return codes


def _first(codes: Numbers, by: Numbers, among: Places) -> Places:
    """Return, of some places, one of each code: that of the least ``by``."""
    order = among[np.lexsort((by[among], codes[among]))]
    sorted_codes = codes[order]
    return order[np.concatenate(([True], sorted_codes[1:] != sorted_codes[:-1]))[: len(order)]]


def _member(columns: Sequence[Numbers], known: pa.Table) -> npt.NDArray[np.bool_]:
    """Tell which rows have keys that are in a table of the same columns."""
    there = [np.asarray(known.column(i).cast(pa.int64())) for i in range(known.num_columns)]
    count = len(columns[0])
    codes = _codes(*(np.concatenate(pair) for pair in zip(columns, there, strict=True)))
    return np.isin(codes[:count], codes[count:])


def _within(times: Numbers, scope: Scope) -> npt.NDArray[np.bool_]:
    inside = np.ones(len(times), bool)
    if scope.start is not None:
        inside &= times >= scope.start
    if scope.end is not None:
        inside &= times < scope.end
    return inside


def _sockets(
    rows: TableRows, scope: Scope, keys: _Keys | None, earlier: npt.NDArray[np.bool_]
) -> tuple[Places, Places]:
    """Return the rows of sockets that are chosen with their baselines, and the context."""
    order = order_of(rows.table, rows)
    aside = np.zeros(len(order), bool)
    aside[: len(earlier)] = earlier
    if keys is None:
        kept = aside[order]
        return (order[~kept], order[kept]) if kept.any() else (order, order[:0])
    inside = _inside(rows, scope)
    chosen = ~aside
    if keys.sockets is not None:
        chosen &= _member(_numbers(rows, "netns", "cookie"), keys.sockets)
    own = chosen & inside
    if scope.start is not None:
        earlier_rows = chosen & _inside(rows, replace(scope, start=None, end=scope.start))
        own |= _baseline(rows, order, own, earlier_rows)
    context = _context(rows, inside) & ~own
    return order[own[order]], order[context[order]]


def _inside(rows: TableRows, scope: Scope) -> npt.NDArray[np.bool_]:
    """Tell which rows are of the time of a scope."""
    place = rows.table.names.index(time_column(rows.table))
    found = [
        _within(np.asarray(batch.column(0).cast(pa.int64())), scope) for batch in rows.read([place])
    ]
    return np.concatenate(found) if found else np.zeros(0, bool)


def _baseline(
    rows: TableRows,
    order: Places,
    own: npt.NDArray[np.bool_],
    before: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """Tell which row is the last before the scope of a socket that has a row in it."""
    found = np.zeros(len(order), bool)
    if not len(order):
        return found
    # In their order the rows of a socket are neighbours, the earlier first.
    begins = np.zeros(len(order), bool)
    for name in ("netns", "cookie"):  # one at a time, as each takes eight bytes a row
        (column,) = _numbers(rows, name)
        column = column[order]
        begins[1:] |= column[1:] != column[:-1]
        del column
    socket = np.cumsum(begins, dtype=np.int32)
    has = np.zeros(int(socket[-1]) + 1, bool)
    has[socket[own[order]]] = True
    places = np.flatnonzero(before[order] & has[socket])
    last = np.full(len(has), -1, np.int64)
    last[socket[places]] = places  # the last assignment counts
    found[order[last[last >= 0]]] = True
    return found


def _context(rows: TableRows, inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Tell which rows reports look at whatever the scope.

    Of listeners and UDP sockets each row within the time, as what they dropped must not be called
    unseen, and else the first of each that differs in its process; of TCP sockets at a port that is
    listened on the first of each address; and the first of each process in each namespace.
    """
    listens = _words(rows, "state", ("LISTEN",)) & _words(rows, "netid", _LISTEN)
    udp = _words(rows, "netid", _UDP) & ~listens
    found = (listens | udp) & inside
    for kind in (listens, udp):
        names = ("netns", "cookie", "local_port", "pid", "comm")
        found[_first_of_each(rows, names, kind & ~inside)] = True
    at_door = _words(rows, "netid", ("tcp",)) & _at(rows, _doors(rows, listens))
    found[_first_of_each(rows, ("netns", "local_port", "local_addr"), at_door)] = True
    (pid,) = _numbers(rows, "pid")
    found[_first_of_each(rows, ("netns", "pid"), pid != _NULL)] = True
    return found


def _places(rows: TableRows) -> Iterator[Numbers]:
    """Yield, for each batch of rows, one number for namespace and local port."""
    names = [rows.table.names.index(name) for name in ("netns", "local_port")]
    for batch in rows.read(names):
        netns, port = (
            np.asarray(column.cast(pa.int64()).fill_null(-1)) for column in batch.columns
        )
        yield (netns << 17) + port


def _doors(rows: TableRows, listens: npt.NDArray[np.bool_]) -> Numbers:
    """Return the ports that are listened on, each with its namespace."""
    found: list[Numbers] = [np.zeros(0, np.int64)]
    first = 0
    for places in _places(rows):
        found.append(np.unique(places[listens[first : first + len(places)]]))
        first += len(places)
    return np.unique(np.concatenate(found))


def _at(rows: TableRows, doors: Numbers) -> npt.NDArray[np.bool_]:
    """Tell which rows are at some ports of some namespaces."""
    found = [np.isin(places, doors) for places in _places(rows)]
    return np.concatenate(found) if found else np.zeros(0, bool)


def _first_of_each(rows: TableRows, names: Sequence[str], among: npt.NDArray[np.bool_]) -> Places:
    """Return, of some rows, the place of the one of each key that has the least sample.

    A batch at a time, so that memory holds no more than what differs.
    """
    columns = sorted(rows.table.names.index(name) for name in (*names, "sample"))
    kept: list[pa.RecordBatch] = []
    places: list[Places] = [np.zeros(0, np.int64)]
    first = 0
    for batch in rows.read(columns):
        there = np.flatnonzero(among[first : first + len(batch)])
        if len(there):
            some = pa.Table.from_batches([batch.take(pa.array(there))])
            one = _first(*_keys(some, names), np.arange(len(there)))
            kept.append(batch.take(pa.array(there[one])))
            places.append(there[one] + first)
        first += len(batch)
    if not kept:
        return places[0]
    found = np.concatenate(places)
    return found[_first(*_keys(pa.Table.from_batches(kept), names), np.arange(len(found)))]


def _keys(rows: pa.Table, names: Sequence[str]) -> tuple[Numbers, Numbers]:
    """Return one number for each row, equal where all the columns are, and its sample."""
    return _codes(*(_as_numbers(rows.column(name)) for name in names)), _as_numbers(
        rows.column("sample")
    )


def _others(rows: TableRows, order: Places, scope: Scope, keys: _Keys) -> Places:
    """Return the rows of a table that is not sockets."""
    table = rows.table
    if table in (SAMPLES, INTERFACES, QDISCS) or table.name in LASTING:
        return order  # what was done and what held: reports ask of the whole recording
    (times,) = _numbers(rows, time_column(table))
    inside = _within(times, scope)
    if table == CLOSES and keys.closes is not None:
        inside &= _member(_numbers(rows, "netns", "cookie", "time"), keys.closes)
    elif table == COUNTERS and scope.start is not None:
        inside |= _last_values(rows, times < scope.start)
    elif table == PROCESSES and scope.start is not None:
        inside |= _last_looks(rows, times < scope.start)
    return order[inside[order]]


def _last_looks(rows: TableRows, before: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Tell which rows of processes hold when the scope begins."""
    pid, start_us, sample = _numbers(rows, "pid", "start_us", "sample")
    return _last(_codes(pid, start_us), before, sample)


def _last_values(rows: TableRows, before: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Tell which rows of counters hold when the scope begins."""
    netns, source, name, sample, value = _numbers(
        rows, "netns", "source", "name", "sample", "value"
    )
    after = _words(rows, "phase", ("after",))
    return _last(_codes(netns, source, name), before, value, after, sample)


def _last(
    codes: Numbers, before: npt.NDArray[np.bool_], *order: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Tell of each code the last of the rows before, by keys of which the last counts first."""
    among = np.flatnonzero(before)
    found = np.zeros(len(before), bool)
    latest = among[np.lexsort((*(key[among] for key in order), codes[among]))]
    if len(latest):
        ends = np.concatenate((codes[latest][1:] != codes[latest][:-1], [True]))
        found[latest[ends]] = True
    return found
