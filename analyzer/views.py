"""The relations that a query sees: raw tables once, scoped views of the same names per run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa

from analyzer.journal import Journal
from analyzer.recording import Recording
from analyzer.segment import Segment
from recorder.schema import KINDS, TABLES, SockrecError, Table, public_schema

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_ROWS_AT_ONCE = 1 << 16
_BATCHES_AT_ONCE = 256

_TIME_COLUMN = {"closes": "time", "owners": "valid_from", "namespaces": "valid_from"}
"""What ``--from`` and ``--to`` compare, and what ``t_us`` is made of, where not ``sample_time``."""

_LASTING = frozenset({"owners", "settings", "namespaces", "cgroups"})
"""Tables of which a row holds until it is replaced: what was so before ``--from`` is in scope."""

_COUNTER_VALUES = """
SELECT sample, sample_time, netns, phase, source, name, value, t_us
FROM (
  SELECT *, max(given) OVER (PARTITION BY netns, source, name, changes) AS value
  FROM (
    SELECT
      *,
      sum(change) OVER (
        PARTITION BY netns, source, name ORDER BY place, change DESC
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
      ) AS changes
    FROM (
      SELECT
        NULL AS sample, NULL AS sample_time, NULL AS phase, NULL AS t_us,
        netns, source, name, value AS given, 1 AS change,
        2 * sample + CASE WHEN phase = 'after' THEN 1 ELSE 0 END AS place
      FROM raw.counters
      UNION ALL
      SELECT
        r.sample, r.sample_time, r.phase, r.t_us,
        n.netns, n.source, n.name, NULL AS given, 0 AS change,
        2 * r.sample + CASE WHEN r.phase = 'after' THEN 1 ELSE 0 END AS place
      FROM (SELECT DISTINCT netns, source, name FROM raw.counters) AS n
      JOIN (
        SELECT DISTINCT
          sample, sample_time, netns, t_us,
          CASE WHEN step = 'counters' THEN 'before' ELSE 'after' END AS phase
        FROM samples
        WHERE step IN ('counters', 'counters_after') AND outcome IN ('ok', 'partial')
      ) AS r
        ON r.netns = n.netns
    ) AS marked
  ) AS numbered
) AS filled
WHERE change = 0 AND value IS NOT NULL
"""
"""Every value at every reading in scope, of counters of which only changes are kept.

A reading belongs to the latest change at or before it. A counter that is gone has no row. Windows
instead of a range join, which would be quadratic; meant for ``WHERE name = …``, which reaches both
branches, as the whole is readings times names.
"""

_RELATIVE = re.compile(r"([+-])(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}

Value = str | int | float | bool


class ScopeError(SockrecError):
    """A time that is not one."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The half-open span of time that a query is about, in microseconds UTC; None is unbounded."""

    start: int | None = None
    end: int | None = None


WHOLE = Scope()


def parse_time(text: str, first: int | None, last: int | None) -> int:
    """Return microseconds UTC of an ISO time, of ``+30s`` after first or of ``-5m`` before last."""
    relative = _RELATIVE.fullmatch(text)
    if relative:
        sign, number, unit = relative.groups()
        origin = first if sign == "+" else last
        if origin is None:
            raise ScopeError(f"{text}: the recording has no sample to count from")
        return origin + round(float(sign + number) * _SECONDS[unit] * 1_000_000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ScopeError(
            f"{text!r} is no time: give 2026-11-22T15:04:05, +30s (after the first sample) or "
            "-5m (before the last)"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
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
    """Create ``raw.TABLE`` for every table of the contract; the streams must be registered."""
    connection.execute("CREATE SCHEMA raw")
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
        connection.execute(f"CREATE VIEW raw.{table.name} AS {' UNION ALL '.join(branches)}")


def lay_scope(
    connection: DuckDBPyConnection,
    scope: Scope = WHOLE,
    parameters: Mapping[str, tuple[str, Value | None]] | None = None,
) -> None:
    """Create the temporary views of one run; ``parameters`` gives type and value by name."""
    for table in TABLES.values():
        time = _TIME_COLUMN.get(table.name, "sample_time")
        bounds = []
        if scope.start is not None and table.name not in _LASTING:
            bounds.append(f"{time} >= make_timestamp({scope.start})")
        if scope.end is not None:
            bounds.append(f"{time} < make_timestamp({scope.end})")
        connection.execute(
            f"CREATE TEMP VIEW {table.name} AS SELECT *, epoch_us({time}) AS t_us "
            f"FROM raw.{table.name} WHERE {' AND '.join(bounds) or 'true'}"
        )
    connection.execute(f"CREATE TEMP VIEW baseline AS {_baseline(scope)}")
    connection.execute(f"CREATE TEMP VIEW counter_values AS {_COUNTER_VALUES}")
    given = {"from_us": ("BIGINT", scope.start), "to_us": ("BIGINT", scope.end)}
    columns = (
        f'CAST({_literal(value)} AS {kind}) AS "{name}"'
        for name, (kind, value) in (given | dict(parameters or {})).items()
    )
    connection.execute(f"CREATE TEMP VIEW params AS SELECT {', '.join(columns)}")


def _baseline(scope: Scope) -> str:
    """Return the last row before the scope of every socket that has a row in it."""
    if scope.start is None:
        return "SELECT * FROM sockets WHERE false"
    before = f"sample_time < make_timestamp({scope.start})"
    return (
        "SELECT s.*, epoch_us(s.sample_time) AS t_us FROM raw.sockets AS s "
        "JOIN (SELECT b.netns, b.cookie, max(b.sample) AS sample FROM raw.sockets AS b "
        "JOIN (SELECT DISTINCT netns, cookie FROM sockets) AS k "
        f"ON b.netns = k.netns AND b.cookie = k.cookie WHERE b.{before} "
        "GROUP BY b.netns, b.cookie) AS l "
        f"ON s.netns = l.netns AND s.cookie = l.cookie AND s.sample = l.sample WHERE s.{before}"
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
