"""The relations that a query sees: raw tables once, scoped views of the same names per run."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, groupby
from types import MappingProxyType
from typing import TYPE_CHECKING

import pyarrow as pa

from analyzer.reading.journal import Journal
from analyzer.reading.recording import Recording
from analyzer.reading.segment import Segment
from analyzer.sql.complaint import complaint
from analyzer.sql.library import Piece, closure, named_again, names_in, pieces
from analyzer.sql.reads import MADE, Columns
from recorder.format.ages import NEEDS
from recorder.schema import (
    CLOSES,
    KINDS,
    SOCKETS,
    TABLES,
    Column,
    SockrecError,
    Table,
    public_schema,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_ROWS_AT_ONCE = 1 << 16
_BATCHES_AT_ONCE = 256

_TIME_COLUMN = {
    "closes": "time",
    "marks": "time",
    **dict.fromkeys(
        ("owners", "namespaces", "addresses", "routes", "rules", "neighbours"), "valid_from"
    ),
}
"""What ``--from`` and ``--to`` compare, and what ``t_us`` is made of, where not ``sample_time``."""

_DESCRIBED = {
    "cmdline": "o.cmdline",
    "exe": "o.exe",
    "unit": "coalesce(o.unit, g.unit)",
    "slice": "coalesce(o.slice, g.slice)",
    "runtime": "coalesce(o.runtime, g.runtime)",
    "container": "coalesce(o.container, g.container)",
    "pod": "coalesce(o.pod, g.pod)",
    "netns_name": "n.name",
}
"""What ``--where`` may name beside the columns of sockets: of the process, by its cgroup, of ns."""


def describing(condition: str) -> dict[str, frozenset[str]]:
    """Return what is read for what a condition names beside the columns of sockets, by table."""
    named = set(re.findall(r"\w+", condition.lower()))
    # user: sockets have it, closes only by their process
    return {} if named.isdisjoint({*_DESCRIBED, "user"}) else _DESCRIBE


_DESCRIBE = {
    **{name: frozenset(TABLES[name].names) for name in ("owners", "namespaces", "cgroups")},
    "sockets": frozenset({"pid", "start_us", "cgroup_id"}),
    "closes": frozenset({"pid", "start_us"}),
}

LASTING = frozenset("owners settings namespaces cgroups addresses routes rules neighbours".split())
"""Tables of which a row holds until it is replaced: what was so before ``--from`` is in scope."""

OWN = "own_sockets"
"""Beside the raw relations, the rows of sockets that a cut is about: all, but for its context."""

Value = str | int | float | bool

Narrowed = Mapping[str, str]
"""The SELECT of all rows of each table that is read."""


class ScopeError(SockrecError):
    """A condition that does not hold for a socket."""


@dataclass(frozen=True, slots=True)
class Filtered:
    """A filter of ss, and as conditions of SQL: on a row of sockets, and on one of closes."""

    text: str
    sockets: str
    closes: str


@dataclass(frozen=True, slots=True)
class Scope:
    """What a query is about: a half-open span of time, and which sockets.

    ``start`` and ``end`` are in microseconds UTC, None is unbounded; ``where`` is one SQL
    expression over the columns of sockets, or what describes its process, its cgroup and its
    namespace (cmdline, exe, unit, slice, runtime, container, pod, netns_name): a socket with a row
    in the time for which it is true is chosen whole; ``filter`` is another, which has to be true as
    well. ``part`` is the place of one among several recordings, None is all that are open, of which
    ``each`` may have its own.
    """

    start: int | None = None
    end: int | None = None
    where: str | None = None
    part: int | None = None
    each: tuple[Scope, ...] = ()
    filter: Filtered | None = None
    sample: int | None = None
    """Of sockets a query looks at no other sample, as its condition says: the rest is not read."""

    def condition(self, table: Table = SOCKETS) -> str | None:
        """Return what rows are chosen by, None if all are."""
        parts = [] if self.where is None else [f"(\n{self.where}\n)"]
        if self.filter is not None:
            parts.append(f"({self.filter.closes if table == CLOSES else self.filter.sockets})")
        return " AND ".join(parts) or None

    def within(self, start: int | None, end: int | None) -> Scope:
        """Return what of it lies within a span of time."""
        starts = [time for time in (self.start, start) if time is not None]
        ends = [time for time in (self.end, end) if time is not None]
        return replace(self, start=max(starts, default=None), end=min(ends, default=None))


WHOLE = Scope()


class Stream:
    """The journals of one table, in the types of the view; DuckDB opens it anew for each scan.

    ``columns`` names those that the query reads: the others are handed over as NULL, unread.
    """

    def __init__(self, table: Table, journals: Sequence[Journal]) -> None:
        self.table = table.name
        self.columns = frozenset(table.names)
        self._journals = tuple(journals)
        self._schema = public_schema(table)

    @property
    def whole(self) -> bool:
        """Tell whether all columns are handed over."""
        return len(self.columns) == len(self._schema)

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


def streams(recording: Recording, part: int | None = None) -> dict[str, Stream]:
    """Return one new stream for every table that has journals, by the name a view reads it by.

    ``part`` is its place among several recordings.
    """
    found = {}
    for table in TABLES.values():
        journals = [journal for journal in recording.journals if journal.table == table]
        if journals:
            found[_stream_name(table, part)] = Stream(table, journals)
    return found


def catalog(part: int) -> str:
    """Return the database that has the raw relations of one of several recordings."""
    return f"part_{part}"


def lay_raw(connection: DuckDBPyConnection, recordings: Sequence[Recording]) -> None:
    """Create ``raw.TABLE`` for every table, or anew; the streams must be registered.

    Of several recordings each has its own in its catalog, which must be attached, and those beside
    them have the rows of all.
    """
    connection.execute("CREATE SCHEMA IF NOT EXISTS raw")
    if len(recordings) == 1:
        _lay_raw(connection, recordings[0], "raw", None)
        return
    for part, recording in enumerate(recordings):
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {catalog(part)}.raw")
        _lay_raw(connection, recording, f"{catalog(part)}.raw", part)
    for name in TABLES:
        rows = " UNION ALL ".join(
            f"SELECT * FROM {catalog(part)}.raw.{name}" for part in range(len(recordings))
        )
        connection.execute(f"CREATE OR REPLACE VIEW raw.{name} AS {rows}")


def _lay_raw(
    connection: DuckDBPyConnection, recording: Recording, raw: str, part: int | None
) -> None:
    for table in TABLES.values():
        select = _recorded(table, recording, part, table.names)
        connection.execute(f"CREATE OR REPLACE VIEW {raw}.{table.name} AS {select}")
    own, select = recording.own, f"SELECT * FROM {raw}.{SOCKETS.name}"
    if own is not recording:
        select = _recorded(SOCKETS, own, part, SOCKETS.names)
    connection.execute(f"CREATE OR REPLACE VIEW {raw}.{OWN} AS {select}")


def _recorded(
    table: Table, recording: Recording, part: int | None, columns: Collection[str]
) -> str:
    """Return the SELECT of all rows of a table, of these columns and those that name them."""
    branches = [
        _segments_select(table, names, list(group), columns)
        for names, group in groupby(
            sorted(
                (s for s in recording.segments if s.table == table),
                key=lambda segment: segment.columns,
            ),
            key=lambda segment: segment.columns,
        )
    ]
    if any(journal.table == table for journal in recording.journals):
        selection = _selection(table, table.names, columns)
        branches.append(f"SELECT {selection} FROM {_stream_name(table, part)}")
    if not branches:
        branches.append(f"SELECT {_selection(table, (), columns)} WHERE false")
    return f"SELECT *, {_key(table, recording, part)} FROM ({' UNION ALL '.join(branches)})"


def narrowed(recording: Recording, columns: Columns, part: int | None = None) -> Narrowed:
    """Return the SELECT of all rows of each table of which columns are read, of no others.

    To bind all 164 of sockets, wherever they are named, takes longer than a small answer.
    """

    def select(table: Table, of: Recording) -> str:
        names = columns[table.name]
        return f"SELECT *, {_made(table, names)} FROM ({_recorded(table, of, part, names)})"

    found = {name: select(TABLES[name], recording) for name in columns}
    own = recording.own
    if own is not recording and SOCKETS.name in columns:
        found[OWN] = select(SOCKETS, own)
    return found


def _key(table: Table, recording: Recording, part: int | None) -> str:
    """Return the columns that tell the rows of one recording from those of another.

    ``ns`` stands for host, boot, run and network namespace in one number, for joins and windows; of
    one recording that is the namespace's own.
    """
    columns = _named(recording)
    if "netns" in table.names:
        columns.append("netns AS ns" if not part else f"netns + {part << 32} AS ns")
    return ", ".join(columns)


def _named(recording: Recording, but: Collection[str] = ()) -> list[str]:
    """Return the columns that name a recording, but for some."""
    return [
        f"CAST({_literal(value)} AS VARCHAR) AS {name}"
        for name, value in recording.identity._asdict().items()
        if name not in but
    ]


def lay_scope(
    connection: DuckDBPyConnection,
    scope: Scope = WHOLE,
    parameters: Mapping[str, tuple[str, Value | None]] | None = None,
    names: Collection[str] | None = None,
    kept: Mapping[str, str] = MappingProxyType({}),
    narrow: Narrowed | None = None,
    before: str | None = None,
    functions: set[str] | None = None,
) -> str:
    """Create the temporary views of one run, or anew; ``parameters`` gives type and value by name.

    Of functions, parts and derived views those that a query with ``names`` uses, if they are given,
    but a table for those that are ``kept``; of tables the ``narrow`` ones, if they are. Of several
    recordings the catalog of one is in use. To stand ``before`` a query they are returned as common
    table expressions, rather than created, as each view is bound when it is created and again
    wherever it is named; what is named more than once is computed once. ``functions`` are those
    that are there from other runs, and then also those of this one. Raises ScopeError.
    """
    pieces_of_run = _lay_functions(connection, scope, _used(names), functions, kept)
    again: Collection[str] = ()
    if before is not None:
        texts = [(piece.query.sql, piece.query.uses) for piece in pieces_of_run]
        again = named_again([(before, names or ()), *texts])
    ctes = []
    stored = ((name, f"SELECT * FROM {table}") for name, table in kept.items())
    for name, select in chain(
        stored, _relations(connection, scope, parameters, pieces_of_run, "raw", narrow)
    ):
        if before is None:
            connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {select}")
        else:
            how = "MATERIALIZED" if name in again else "NOT MATERIALIZED"
            ctes.append(f"{name} AS {how} (\n{select}\n)")
    return ", ".join(ctes)


_BEGIN = re.compile(r"\s*(?:(WITH)\b(?!\s+RECURSIVE\b)|SELECT\b)", re.IGNORECASE)


def takes_inline(query: str, ctes: Collection[str]) -> bool:
    """Tell whether common table expressions may stand before a query that has some itself."""
    own = {*TABLES, "baseline", "params", "chosen", *map(_narrow_name, (*TABLES, OWN)), *pieces()}
    return bool(_BEGIN.match(query)) and own.isdisjoint(ctes)


def with_inline(query: str, ctes: str) -> str:
    """Put common table expressions before a query that takes them."""
    begin = _BEGIN.match(query)
    if not ctes or not begin:
        return query
    return f"WITH {ctes},\n{query[begin.end() :]}" if begin[1] else f"WITH {ctes}\n{query}"


def lay_stored(connection: DuckDBPyConnection, scope: Scope) -> None:
    """Create functions and views that stay in a database, which has the raw tables, of one scope.

    A table OWN among them is what sockets are of a cut.
    """
    connection.execute(f"CREATE VIEW IF NOT EXISTS raw.{OWN} AS SELECT * FROM raw.{SOCKETS.name}")
    everything = list(closure(frozenset(pieces())))
    for piece in everything:
        if piece.layer == "functions":
            connection.execute(piece.statement)
    wanted = [piece for piece in everything if piece.layer != "functions"]
    for name, select in _relations(connection, scope, None, wanted, "raw", None):
        connection.execute(f"CREATE VIEW {name} AS {select}")


def lay_together(
    connection: DuckDBPyConnection,
    recordings: Sequence[Recording],
    scopes: Sequence[Scope],
    parameters: Mapping[str, tuple[str, Value | None]] | None = None,
    names: Collection[str] | None = None,
    narrow: Sequence[Narrowed] | None = None,
    functions: set[str] | None = None,
) -> None:
    """Create the temporary views of one run over several recordings, each in its own scope.

    Each view has the rows that it has of each recording alone, with ``host``, ``boot`` and ``run``.
    Raises ScopeError.
    """
    used = _used(names)
    wanted = _lay_functions(connection, scopes[0], used, functions)
    laid = {
        part: dict(
            _relations(
                connection,
                scope,
                parameters,
                wanted,
                f"{catalog(part)}.raw",
                narrow[part] if narrow else None,
            )
        )
        for scope in scopes
        if (part := scope.part) is not None
    }
    named = [piece.query.name for piece in wanted if piece.query.name in used]
    tables = [name for name in (*TABLES, "baseline") if all(name in one for one in laid.values())]
    whole = [_narrow_name(name) for name in (*TABLES, OWN)]
    for name in (*tables, *named):
        own = {"chosen", name, *whole}
        if name not in TABLES:
            own |= {*TABLES, "baseline", "params", *(p.query.name for p in closure({name}))}
        branches = []
        for part, relations in laid.items():
            # Not materialized: what a query asks for reaches the files.
            ctes = ", ".join(
                f"{other} AS NOT MATERIALIZED ({select}\n)"
                for other, select in relations.items()
                if other in own
            )
            none = f"WITH {ctes} SELECT * FROM {name} LIMIT 0"
            there = {column[0] for column in connection.execute(none).description or ()}
            columns = ", ".join([*_named(recordings[part], there), "*"])
            branches.append(f"(WITH {ctes} SELECT {columns} FROM {name})")
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {' UNION ALL '.join(branches)}")
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW params AS {_params(together(scopes), parameters)}"
    )


def together(scopes: Sequence[Scope]) -> Scope:
    """Return the scope of all recordings of which each has its own."""
    starts = [scope.start for scope in scopes if scope.start is not None]
    ends = [scope.end for scope in scopes if scope.end is not None]
    return Scope(
        min(starts) if len(starts) == len(scopes) else None,
        max(ends) if len(ends) == len(scopes) else None,
        scopes[0].where,
        each=tuple(scopes),
        filter=scopes[0].filter,
    )


def _used(names: Collection[str] | None) -> frozenset[str]:
    return frozenset(pieces() if names is None else names)


def _lay_functions(
    connection: DuckDBPyConnection,
    scope: Scope,
    used: frozenset[str],
    there: set[str] | None,
    given: Collection[str] = (),
) -> list[Piece]:
    """Create the functions of a run that are not there; return what else of queries/ it uses."""
    wanted = list(closure(used | _names_of_columns(connection, scope), given))
    for piece in wanted:
        if piece.layer == "functions" and piece.query.name not in (there or ()):
            connection.execute(piece.statement)
            if there is not None:
                there.add(piece.query.name)
    return [piece for piece in wanted if piece.layer != "functions"]


def _relations(
    connection: DuckDBPyConnection,
    scope: Scope,
    parameters: Mapping[str, tuple[str, Value | None]] | None,
    wanted: Sequence[Piece],
    raw: str,
    narrow: Narrowed | None,
) -> Iterator[tuple[str, str]]:
    """Yield what a query sees of one recording: name and SELECT, each after what it uses itself."""
    chosen = scope.condition()
    if chosen is not None:
        yield "chosen", _chosen(connection, scope, chosen, raw)
    own = None if narrow is None else _narrow_name(OWN if OWN in narrow else SOCKETS.name)
    for table in TABLES.values():
        only = None
        if narrow is not None:
            if table.name not in narrow:
                continue
            yield _narrow_name(table.name), narrow[table.name]
            if table == SOCKETS and OWN in narrow:
                yield _narrow_name(OWN), narrow[OWN]
            only = own if table == SOCKETS else _narrow_name(table.name)
        conditions = [_bounds(table, scope)]
        if chosen is not None and table in (SOCKETS, CLOSES):
            closes = table == CLOSES
            conditions.append(_closes_condition(connection, scope, raw) if closes else _CHOSEN)
        rows = _timed(table, raw, only)
        yield table.name, f"SELECT * FROM {rows} WHERE {' AND '.join(conditions)}"
    if narrow is None or SOCKETS.name in narrow:
        yield "baseline", _baseline(scope, raw, own)
    yield "params", _params(scope, parameters)
    for piece in wanted:
        read = rf"{raw}.\1" if narrow is None else _narrow_name(r"\1")
        yield piece.query.name, re.sub(r"\braw\.(\w+)", read, piece.query.sql)


def _narrow_name(table: str) -> str:
    """Return by which name a run knows all rows of a table, of the columns that it reads."""
    return f"raw_{table}"


def _params(scope: Scope, parameters: Mapping[str, tuple[str, Value | None]] | None) -> str:
    given = {"from_us": ("BIGINT", scope.start), "to_us": ("BIGINT", scope.end)}
    columns = (
        f'CAST({_literal(value)} AS {kind}) AS "{name}"'
        for name, (kind, value) in (given | dict(parameters or {})).items()
    )
    return f"SELECT {', '.join(columns)}"


def _names_of_columns(connection: DuckDBPyConnection, scope: Scope) -> frozenset[str]:
    """Return the functions that the columns of the tables and the condition on sockets call."""
    made = frozenset({"endpoint", "who"})
    conditions = {scope.condition(SOCKETS), scope.condition(CLOSES)} - {None}
    return made.union(*(names_in(connection, f"SELECT 1 WHERE {one}") for one in conditions))


def _timed(table: Table, raw: str, narrow: str | None = None) -> str:
    """Return the whole table with what is made of it, under a name that a condition may use."""
    name = SOCKETS.name if table == CLOSES else table.name
    if narrow:
        return f"{narrow} AS {name}"
    rows = OWN if table == SOCKETS else table.name
    return f"(SELECT *, {_made(table)} FROM {raw}.{rows}) AS {name}"


def _described(table: Table, raw: str) -> str:
    """Return the same with what describes process, cgroup and namespace at the time of each row.

    What is first known of one holds for what was before: a close may come before the next look.
    """
    columns = ", ".join(f"{of} AS {name}" for name, of in _DESCRIBED.items())
    columns += ", o.user AS user" if table == CLOSES else ""
    cgroup = "sockets.cgroup_id" if table == SOCKETS else "CAST(NULL AS BIGINT)"
    since = (
        "CASE WHEN valid_from = min(valid_from) OVER (PARTITION BY {}) THEN {} "
        "ELSE epoch_us(valid_from) END AS since_us"
    )
    process = since.format("pid, start_us", -(1 << 62))
    namespace = since.format("netns", -(1 << 62))
    return (
        f"(SELECT sockets.*, {columns} FROM {_timed(table, raw)} "
        f"ASOF LEFT JOIN (SELECT *, {process} FROM {raw}.owners) AS o "
        "ON o.pid = sockets.pid AND o.start_us = sockets.start_us AND o.since_us <= sockets.t_us "
        f"ASOF LEFT JOIN (SELECT *, {namespace} FROM {raw}.namespaces) AS n "
        "ON n.netns = sockets.netns AND n.since_us <= sockets.t_us "
        f"LEFT JOIN {raw}.cgroups AS g ON g.cgroup_id = {cgroup}) AS sockets"
    )


def added(table: Table) -> dict[str, str]:
    """Return the columns that a query sees of a table beside those recorded, and their meaning."""
    columns = {
        "host": "Host that was recorded.",
        "boot": "Boot of that host.",
        "run": "When the recorder was started.",
    }
    if "netns" in table.names:
        columns["ns"] = "Network namespace of one boot of one host, the key together with cookie."
    columns["t_us"] = "Time of the row in microseconds UTC."
    if table in (SOCKETS, CLOSES):
        columns |= {
            "local": "Local address and port as one text.",
            "peer": "The other end, likewise.",
            "who": "The process by name and number.",
        }
    return columns


def _made(table: Table, there: Collection[str] | None = None) -> str:
    """Return the columns that are made of others: the time as a number, and what people read.

    Those made of columns that are ``there``, if these are given.
    """
    made = [f"epoch_us({time_column(table)}) AS t_us"]
    if table in (SOCKETS, CLOSES):
        made += [
            f"{function}({', '.join(columns)}) AS {name}"
            for name, (function, *columns) in MADE.items()
            if there is None or set(columns) <= set(there)
        ]
    return ", ".join(made)


def time_column(table: Table) -> str:
    """Return the column that tells when a row of the table was so."""
    return _TIME_COLUMN.get(table.name, "sample_time")


def _bounds(table: Table, scope: Scope) -> str:
    time = time_column(table)
    bounds = ["true"]
    if scope.start is not None and table.name not in LASTING:
        bounds.append(f"{time} >= make_timestamp({scope.start})")
    if scope.end is not None:
        bounds.append(f"{time} < make_timestamp({scope.end})")
    return " AND ".join(bounds)


_CHOSEN = "(ns, cookie) IN (SELECT ns, cookie FROM chosen)"


def _chosen(connection: DuckDBPyConnection, scope: Scope, condition: str, raw: str) -> str:
    """Return the sockets that have a row for which the condition is true, which is checked."""
    import duckdb

    def select(relation: str) -> str:
        return (
            f"SELECT DISTINCT ns, cookie FROM {relation} "
            f"WHERE {_bounds(SOCKETS, scope)} AND {condition}"
        )

    where = "true" if scope.where is None else scope.where
    try:
        where.encode()
        duckdb.SQLExpression(where)  # refuses what is more than one expression
        return _first_bound(connection, *_relations_of(SOCKETS, raw, select))
    except (duckdb.Error, ValueError) as error:
        raise _no_condition(where, error) from error


def _relations_of(table: Table, raw: str, select: Callable[[str], str]) -> tuple[str, str]:
    """Return a query of a table, and the same with what describes its rows, which takes longer."""
    return select(_timed(table, raw)), select(_described(table, raw))


def _first_bound(connection: DuckDBPyConnection, *queries: str) -> str:
    """Return the first of the queries whose names are all known. Raises what the last one does."""
    import duckdb

    for query in queries[:-1]:
        with suppress(duckdb.BinderException):
            connection.execute(f"SELECT * FROM ({query}\n) LIMIT 0")
            return query
    connection.execute(f"SELECT * FROM ({queries[-1]}\n) LIMIT 0")
    return queries[-1]


def _closes_condition(connection: DuckDBPyConnection, scope: Scope, raw: str) -> str:
    """Return what chooses the closes: that of the chosen sockets, or the condition itself.

    A reset has cleared the peer in the announcement; and a connection that lived between two
    samples has nothing but that.
    """
    import duckdb

    condition = scope.condition(CLOSES)

    def select(relation: str) -> str:
        return f"SELECT ns, cookie FROM {relation} WHERE {condition}"

    plain, described = _relations_of(CLOSES, raw, select)
    try:
        query = _first_bound(connection, plain, described)
    except duckdb.Error:
        return _CHOSEN
    own = condition if query is plain else f"(ns, cookie) IN ({query})"
    return f"({_CHOSEN} OR ({own}))"


def _no_condition(text: str, error: Exception) -> ScopeError:
    said = complaint(str(error), text)
    refused = ScopeError(f"{text!r} is no condition on a row of sockets: {said.text}")
    for line in said.place:
        refused.add_note(line)
    return refused


def _baseline(scope: Scope, raw: str, narrow: str | None) -> str:
    """Return the last row before the scope of every socket that has a row in it."""
    if scope.start is None:
        return "SELECT * FROM sockets WHERE false"
    before = f"sample_time < make_timestamp({scope.start})"
    rows = narrow or f"{raw}.{OWN}"
    made = "" if narrow else f", {_made(SOCKETS)}"
    return (
        f"SELECT s.*{made} FROM {rows} AS s "
        f"JOIN (SELECT b.ns, b.cookie, max(b.sample) AS sample FROM {rows} AS b "
        "JOIN (SELECT DISTINCT ns, cookie FROM sockets) AS k USING (ns, cookie) "
        f"WHERE b.{before} GROUP BY b.ns, b.cookie) AS l "
        f"ON s.ns = l.ns AND s.cookie = l.cookie AND s.sample = l.sample WHERE s.{before}"
    )


def _segments_select(
    table: Table, names: tuple[str, ...], segments: Sequence[Segment], columns: Collection[str]
) -> str:
    files = ", ".join(_literal(str(segment.path)) for segment in segments)
    # Never what the names of folders or files suggest: hive_partitioning would add columns.
    return (
        f"SELECT {_selection(table, names, columns)} FROM read_parquet([{files}], "
        "hive_partitioning = false, union_by_name = false)"
    )


# Of what columns of a segment it is made, see recorder.format.ages.
_NOW = "coalesce(epoch_us(sample_time) // 1000, 0) + read_ms"
_ACKED = f"{_NOW} - ack_recv_at_ms"
_AGES = {
    "last_ack_recv_ms": _ACKED,
    "last_data_sent_ms": f"data_sent_to_ack_ms + coalesce({_ACKED}, 0)",
    "last_data_recv_ms": f"data_recv_to_ack_ms + coalesce({_ACKED}, 0)",
    "expires_ms": f"expires_at_ms - ({_NOW})",
}


def _selection(table: Table, present: Sequence[str], columns: Collection[str]) -> str:
    """Return these columns of the table in its order, NULL of their type where a file has none."""
    return ", ".join(
        column.name if column.name in present else f"{_made_of(column, present)} AS {column.name}"
        for column in table.columns
        if column.name in columns
    )


def _made_of(column: Column, present: Sequence[str]) -> str:
    if column.name in NEEDS and set(NEEDS[column.name]) <= set(present):
        return _AGES[column.name]
    return f"CAST(NULL AS {KINDS[column.kind][2]})"


def _stream_name(table: Table, part: int | None) -> str:
    return f"journal_{table.name}" if part is None else f"journal_{part}_{table.name}"


def _literal(value: Value | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        text = value.encode(errors="replace").decode()  # half a surrogate pair is no character
        # A text ends at the character of number zero for DuckDB 1.5's parser.
        quoted = ("'" + part.replace("'", "''") + "'" for part in text.split("\0"))
        return " || chr(0) || ".join(quoted)
    return repr(value) if not isinstance(value, bool) else str(value).lower()
