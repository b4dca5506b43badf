"""The relations that a query sees: raw tables once, scoped views of the same names per run."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa

from analyzer.reading.journal import Journal
from analyzer.reading.recording import Recording
from analyzer.reading.segment import Segment
from analyzer.sql.library import closure, names_in, pieces
from recorder.schema import CLOSES, KINDS, SOCKETS, TABLES, SockrecError, Table, public_schema

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_ROWS_AT_ONCE = 1 << 16
_BATCHES_AT_ONCE = 256

_TIME_COLUMN = {"closes": "time", "owners": "valid_from", "namespaces": "valid_from"}
"""What ``--from`` and ``--to`` compare, and what ``t_us`` is made of, where not ``sample_time``."""

_LASTING = frozenset({"owners", "settings", "namespaces", "cgroups"})
"""Tables of which a row holds until it is replaced: what was so before ``--from`` is in scope."""

_FURTHEST_US = 1e17
"""Some three thousand years."""

_RELATIVE = re.compile(r"([+-])(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}

Value = str | int | float | bool


class ScopeError(SockrecError):
    """A time that is not one, or a condition that does not hold for a socket."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a query is about: a half-open span of time, and which sockets.

    ``start`` and ``end`` are in microseconds UTC, None is unbounded; ``where`` is one SQL
    expression over the columns of sockets: a socket with a row in the time for which it is true is
    chosen whole.
    """

    start: int | None = None
    end: int | None = None
    where: str | None = None


WHOLE = Scope()


def parse_time(text: str, first: int | None, last: int | None, zone: tzinfo = UTC) -> int:
    """Return microseconds UTC of an ISO time, of ``+30s`` after first or of ``-5m`` before last.

    An ISO time without an offset is one of ``zone``.
    """
    relative = _RELATIVE.fullmatch(text)
    if relative:
        sign, number, unit = relative.groups()
        origin = first if sign == "+" else last
        if origin is None:
            raise ScopeError(f"{text}: the recording has no sample to count from")
        micros = float(sign + number) * _SECONDS[unit] * 1_000_000
        if abs(micros) > _FURTHEST_US:
            raise ScopeError(f"{text}: is too far away")
        return origin + round(micros)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ScopeError(
            f"{text!r} is no time: give 2026-11-22T15:04:05, +30s (after the first sample) or "
            "-5m (before the last)"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


class Stream:
    """The journals of one table, in the types of the view; DuckDB opens it anew for each scan.

    ``columns`` names those that the query reads: the others are handed over as NULL, unread.
    """

    def __init__(self, table: Table, journals: Sequence[Journal]) -> None:
        self.columns = frozenset(table.names)
        self._journals = tuple(journals)
        self._schema = public_schema(table)

    def __arrow_c_schema__(self) -> object:
        schema: object = self._schema.__arrow_c_schema__()
        return schema

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        reader = pa.RecordBatchReader.from_batches(self._schema, self._batches(self.columns))
        stream: object = reader.__arrow_c_stream__()
        return stream

    def _batches(self, columns: frozenset[str]) -> Iterator[pa.RecordBatch]:
        for journal in self._journals:
            waiting: list[pa.RecordBatch] = []
            rows = 0
            for batch in journal.batches(columns):
                if not batch.num_rows:
                    continue
                waiting.append(batch)
                rows += batch.num_rows
                if rows >= _ROWS_AT_ONCE or len(waiting) >= _BATCHES_AT_ONCE:
                    yield self._converted(waiting, rows, columns)
                    waiting, rows = [], 0
            if waiting:
                yield self._converted(waiting, rows, columns)

    def _converted(
        self, batches: Sequence[pa.RecordBatch], rows: int, columns: frozenset[str]
    ) -> pa.RecordBatch:
        given = pa.Table.from_batches(batches)
        nulls: dict[pa.DataType, pa.Array] = {}
        arrays: list[pa.Array] = []
        for field in self._schema:
            if field.name in given.column_names and field.name in columns:
                # The kernel's unsigned 64 bits wrap, as they do in a segment.
                chunks = given.column(field.name).cast(field.type, safe=False).chunks
                arrays.append(chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks))
            else:
                if field.type not in nulls:
                    nulls[field.type] = pa.nulls(rows, field.type)
                arrays.append(nulls[field.type])
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


def streams(recording: Recording) -> dict[str, Stream]:
    """Return one new stream for every table that has journals, by the name a view reads it by."""
    found = {}
    for table in TABLES.values():
        journals = [journal for journal in recording.journals if journal.table == table]
        if journals:
            found[_stream_name(table)] = Stream(table, journals)
    return found


def lay_raw(connection: DuckDBPyConnection, recording: Recording) -> None:
    """Create ``raw.TABLE`` for every table, or anew; the streams must be registered."""
    connection.execute("CREATE SCHEMA IF NOT EXISTS raw")
    for table in TABLES.values():
        branches = [
            _segments_select(table, names, list(group))
            for names, group in groupby(
                sorted(
                    (s for s in recording.segments if s.table == table),
                    key=lambda segment: segment.columns,
                ),
                key=lambda segment: segment.columns,
            )
        ]
        if any(journal.table == table for journal in recording.journals):
            branches.append(f"SELECT {', '.join(table.names)} FROM {_stream_name(table)}")
        if not branches:
            branches.append(f"SELECT {_selection(table, ())} WHERE false")
        rows = " UNION ALL ".join(branches)
        key = _key(table, recording)
        connection.execute(
            f"CREATE OR REPLACE VIEW raw.{table.name} AS SELECT *, {key} FROM ({rows})"
        )


def _key(table: Table, recording: Recording) -> str:
    """Return the columns that tell the rows of one host and boot from those of another.

    ``ns`` stands for host, boot and network namespace in one number, for joins and windows; of one
    boot that is the namespace's own.
    """
    facts = (recording.facts.get(name) for name in ("host", "boot_id"))
    host, boot = (str(fact) if fact is not None else None for fact in facts)
    columns = [f"CAST({_literal(host)} AS VARCHAR) AS host"]
    columns.append(f"CAST({_literal(boot)} AS VARCHAR) AS boot")
    if "netns" in table.names:
        columns.append("netns AS ns")
    return ", ".join(columns)


def lay_scope(
    connection: DuckDBPyConnection,
    scope: Scope = WHOLE,
    parameters: Mapping[str, tuple[str, Value | None]] | None = None,
    names: Collection[str] | None = None,
    given: Collection[str] = (),
) -> None:
    """Create the temporary views of one run; ``parameters`` gives type and value by name.

    Of functions, parts and derived views those that a query with ``names`` uses, if they are given,
    but for those that are there already. Raises ScopeError.
    """
    used = frozenset(pieces() if names is None else names)
    wanted = list(closure(used | _names_of_columns(connection, scope), given))
    for piece in wanted:
        if piece.layer == "functions":
            connection.execute(piece.statement)
    if scope.where is not None:
        _lay_chosen(connection, scope, scope.where)
    for table in TABLES.values():
        conditions = [_bounds(table, scope)]
        if scope.where is not None and table in (SOCKETS, CLOSES):
            conditions.append(_CHOSEN if table == SOCKETS else _closes_condition(connection, scope))
        connection.execute(
            f"CREATE TEMP VIEW {table.name} AS SELECT * FROM {_timed(table)} "
            f"WHERE {' AND '.join(conditions)}"
        )
    connection.execute(f"CREATE TEMP VIEW baseline AS {_baseline(scope)}")
    given = {"from_us": ("BIGINT", scope.start), "to_us": ("BIGINT", scope.end)}
    columns = (
        f'CAST({_literal(value)} AS {kind}) AS "{name}"'
        for name, (kind, value) in (given | dict(parameters or {})).items()
    )
    connection.execute(f"CREATE TEMP VIEW params AS SELECT {', '.join(columns)}")
    for piece in wanted:
        if piece.layer != "functions":
            connection.execute(piece.statement)


def _names_of_columns(connection: DuckDBPyConnection, scope: Scope) -> frozenset[str]:
    """Return the functions that the columns of the tables and the condition on sockets call."""
    made = frozenset({"endpoint", "who"})
    if scope.where is None:
        return made
    return made | names_in(connection, f"SELECT 1 WHERE (\n{scope.where}\n)")


def _timed(table: Table) -> str:
    """Return the whole table with what is made of it, under a name that a condition may use."""
    return (
        f"(SELECT *, {_made(table)} FROM raw.{table.name}) AS "
        f"{SOCKETS.name if table == CLOSES else table.name}"
    )


def _made(table: Table) -> str:
    """Return the columns that are made of others: the time as a number, and what people read."""
    columns = [f"epoch_us({_TIME_COLUMN.get(table.name, 'sample_time')}) AS t_us"]
    if table in (SOCKETS, CLOSES):
        columns += [
            "endpoint(local_addr, local_port) AS local",
            "endpoint(peer_addr, peer_port) AS peer",
            "who(comm, pid) AS who",
        ]
    return ", ".join(columns)


def _bounds(table: Table, scope: Scope) -> str:
    time = _TIME_COLUMN.get(table.name, "sample_time")
    bounds = ["true"]
    if scope.start is not None and table.name not in _LASTING:
        bounds.append(f"{time} >= make_timestamp({scope.start})")
    if scope.end is not None:
        bounds.append(f"{time} < make_timestamp({scope.end})")
    return " AND ".join(bounds)


_CHOSEN = "(ns, cookie) IN (SELECT ns, cookie FROM chosen)"


def _lay_chosen(connection: DuckDBPyConnection, scope: Scope, where: str) -> None:
    """Create the view of the sockets that have a row for which the condition is true."""
    import duckdb

    try:
        where.encode()
        duckdb.SQLExpression(where)  # refuses what is more than one expression
        connection.execute(
            f"CREATE TEMP VIEW chosen AS SELECT DISTINCT ns, cookie FROM {_timed(SOCKETS)} "
            f"WHERE {_bounds(SOCKETS, scope)} AND (\n{where}\n)"
        )
    except (duckdb.Error, ValueError) as error:
        raise _no_condition(where, error) from error


def _closes_condition(connection: DuckDBPyConnection, scope: Scope) -> str:
    """Return what chooses the closes: that of the chosen sockets, or the condition itself.

    A reset has cleared the peer in the announcement; and a connection that lived between two
    samples has nothing but that.
    """
    import duckdb

    try:
        connection.execute(f"SELECT 1 FROM {_timed(CLOSES)} WHERE (\n{scope.where}\n) LIMIT 0")
    except duckdb.Error:
        return _CHOSEN
    return f"({_CHOSEN} OR (\n{scope.where}\n))"


def _no_condition(text: str, error: Exception) -> ScopeError:
    said = " ".join(str(error).split("\n\nLINE")[0].split())
    return ScopeError(f"{text!r} is no condition on a row of sockets: {said}")


def _baseline(scope: Scope) -> str:
    """Return the last row before the scope of every socket that has a row in it."""
    if scope.start is None:
        return "SELECT * FROM sockets WHERE false"
    before = f"sample_time < make_timestamp({scope.start})"
    return (
        f"SELECT s.*, {_made(SOCKETS)} FROM raw.sockets AS s "
        "JOIN (SELECT b.ns, b.cookie, max(b.sample) AS sample FROM raw.sockets AS b "
        "JOIN (SELECT DISTINCT ns, cookie FROM sockets) AS k USING (ns, cookie) "
        f"WHERE b.{before} GROUP BY b.ns, b.cookie) AS l "
        f"ON s.ns = l.ns AND s.cookie = l.cookie AND s.sample = l.sample WHERE s.{before}"
    )


def _segments_select(table: Table, names: tuple[str, ...], segments: Sequence[Segment]) -> str:
    files = ", ".join(_literal(str(segment.path)) for segment in segments)
    # Never what the names of folders or files suggest: hive_partitioning would add columns.
    return (
        f"SELECT {_selection(table, names)} FROM read_parquet([{files}], "
        "hive_partitioning = false, union_by_name = false)"
    )


def _selection(table: Table, present: Sequence[str]) -> str:
    """Return every column of the table, NULL of its type where a file has none."""
    return ", ".join(
        column.name
        if column.name in present
        else f"CAST(NULL AS {KINDS[column.kind][2]}) AS {column.name}"
        for column in table.columns
    )


def _stream_name(table: Table) -> str:
    return f"journal_{table.name}"


def _literal(value: Value | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value) if not isinstance(value, bool) else str(value).lower()
