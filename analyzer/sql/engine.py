"""A locked-down DuckDB: one SELECT at a time, over the files of recordings and nothing else."""

from __future__ import annotations

import glob
import inspect
import os
import re
import shutil
import site
import sys
import sysconfig
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import TracebackType

import duckdb
import pyarrow as pa

from analyzer.reading.recording import Recording
from analyzer.reading.segment import Missing
from analyzer.reading.sources import Sources
from analyzer.reading.spill import Folder
from analyzer.sql import landlock
from analyzer.sql.library import ctes_of, names_of, pieces
from analyzer.sql.memory import SizeError, default_size, parse_size
from analyzer.sql.reads import EVERY, Columns, columns_asked, named_columns
from analyzer.sql.views import (
    WHOLE,
    Narrowed,
    Scope,
    ScopeError,
    Stream,
    Value,
    catalog,
    describing,
    lay_raw,
    lay_scope,
    lay_together,
    narrowed,
    streams,
    takes_inline,
    with_inline,
)
from analyzer.sql.work import STOPPED, QueryError, Work, interruptible, query_error
from recorder.schema import TABLES, SockrecError

MAX_QUERY = 1 << 20
"""Bytes of a query; DuckDB's parser takes seconds for more."""

_TABLE_FUNCTIONS = frozenset(
    "duckdb_columns duckdb_constraints duckdb_databases duckdb_functions duckdb_indexes "
    "duckdb_keywords duckdb_memory duckdb_schemas duckdb_tables duckdb_types duckdb_views "
    "generate_series histogram histogram_values icu_calendar_names json_each json_tree "
    "pg_timezone_names pragma_show pragma_table_info query_table range repeat repeat_row summary "
    "unnest".split()
)
"""What may stand in FROM as a function: whatever else this or a later DuckDB has, may not.

The others read files, change the engine, or run any text that they are given.
"""

_REFUSED = frozenset({"getenv", "json_serialize_plan", "setval", "write_log"})
"""Scalar functions that may not be called."""

# A SELECT may hold a COPY or an INSERT since DuckDB 2.0: WITH x AS (COPY … TO 'file') SELECT 1.
_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})

# Quotes inside of a JSON string are escaped, so that no literal of a query can pass for these.
_NODE = re.compile(r'"type"\s*:\s*"(\w+_NODE)"', re.ASCII)
_CALL = re.compile(r'"function_name"\s*:\s*"((?:[^"\\]|\\.)*)"')

# The relations of this schema, by name.
_RAW = re.compile(r'"raw"', re.IGNORECASE)

# Of what follows no more is asked than of any other query: that it is one SELECT. With options, as
# ANALYZE, it is none.
_EXPLAIN = re.compile(r"\s*(?:--[^\n]*\n\s*)*EXPLAIN\b", re.IGNORECASE)

# DuckDB 2.0 takes 160 MB to see that there is no end to a thousand brackets, and 2.6 GB for 5,000.
_DEEP = re.compile(r"(?:[-+~!(]\s*){1000}")

_PROGRESS = {
    "enable_progress_bar": "true",
    "enable_progress_bar_print": "false",
    "progress_bar_time": "0",
}

_READABLE = (
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/self/cgroup",
    "/proc/self/mountinfo",
    "/proc/stat",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/dev/null",
    "/dev/urandom",
)
"""What libraries and DuckDB read of the machine."""

_OPEN: weakref.WeakSet[Engine] = weakref.WeakSet()

_TREES: dict[str, str] = {}
_TREES_LOCK = threading.Lock()
"""Of the texts that were parsed last: what is shipped is asked again and again, by every engine."""

_MOST_TREES, _LONGEST_KNOWN = 256, 1 << 15

_KEPT = "memory.kept"
"""Where the tables are that several runs read; the database has that name if it lies in memory."""


class Engine:
    """Runs queries over recordings; close it, or leave its ``with`` block, to remove its files.

    A run is about one of several, or about all of them together, as its scope says.
    ``timeout`` is in seconds per query, ``memory_limit`` as DuckDB writes it, by default half the
    memory of the machine, 8 GiB at most; ``sources`` are recordings that others read as well.
    DuckDB runs in threads that may open nothing but the recording, where the kernel has Landlock.
    """

    def __init__(
        self,
        *recordings: Recording,
        threads: int | None = None,
        memory_limit: str | None = None,
        timeout: float | None = None,
        sources: Sources | None = None,
    ) -> None:
        self.sources = sources or Sources(recordings, threads)
        self.recordings = self.sources.recordings
        self._timeout = timeout
        self._work: Work | None = None
        self._links: dict[Path, Path] = {}
        self.closed = False
        self._laid: int | None = None
        self._functions: dict[str, set[str]] = {}  # what is there of queries/, by catalog
        self.turn = (0, 1)
        """How many runs are done, of how many that are one to who waits."""
        self._folder = Folder()
        self._spill = self._folder.path
        _OPEN.add(self)
        try:
            self._ruleset = landlock.Ruleset(_allowed(self.recordings, self._spill))
            self._refused = _refused_functions()
            # What DuckDB starts at once is bound by what this thread is.
            with ThreadPoolExecutor(1, initializer=self._ruleset.enter) as bound:
                self._connection = bound.submit(_connect, threads, memory_limit).result()
        except BaseException:
            self.remove_files()
            raise
        try:
            interruptible(self._connection, self._lock_down, enter=self._ruleset.enter)
        except BaseException as error:
            self.close()
            if isinstance(error, duckdb.Error):
                raise query_error(error) from error
            raise

    def _lock_down(self) -> None:
        """Close every door; the order matters."""
        connection = self._connection
        self._make_links()
        files = [str(self._links.get(path, path)) for path in self.paths]
        connection.execute(f"SET allowed_paths = {_list_literal(files)}")
        # Until external access is off: from then on the folder is allowed, and no other is.
        connection.execute(f"SET temp_directory = {_list_literal([str(self._spill)])[1:-1]}")
        free = shutil.disk_usage(self._spill).free
        connection.execute(f"SET max_temp_directory_size = '{free // 2 >> 10}KiB'")
        for part in range(len(self.recordings)) if self.several else ():
            connection.execute(f"ATTACH ':memory:' AS {catalog(part)}")
        if self.several:
            self._lay_raw()
        connection.execute(f"CREATE SCHEMA {_KEPT}")
        connection.execute("SET enable_external_access = false")
        # What tells how far a query is belongs to each cursor.
        connection.execute(f"SET allowed_configs = {_list_literal(list(_PROGRESS))}")
        connection.execute("SET lock_configuration = true")

    @property
    def several(self) -> bool:
        return self.sources.several

    @property
    def paths(self) -> list[Path]:
        """Return the files that queries read by path."""
        return self.sources.paths

    def _streams(self, parts: Iterable[int]) -> dict[str, Stream]:
        found: dict[str, Stream] = {}
        for part in parts:
            found |= streams(self.recordings[part], part if self.several else None)
        return found

    def _linked(self) -> list[Recording]:
        """Return the recordings, their segments by paths that DuckDB takes as they are."""
        if not self._links:
            return self.recordings
        return [
            replace(
                recording,
                segments=tuple(
                    replace(segment, path=self._links.get(segment.path, segment.path))
                    for segment in recording.segments
                ),
            )
            for recording in self.recordings
        ]

    def _lay_raw(self) -> None:
        """Lay the raw relations, unless they are there: to bind all their columns takes time."""
        if self._laid == self.sources.changes:
            return
        journals = self._streams(range(len(self.recordings)))
        try:
            for name, stream in journals.items():
                self._connection.register(name, stream)
            lay_raw(self._connection, self._linked())
        finally:
            for name in journals:
                self._connection.unregister(name)
        self._laid = self.sources.changes

    def _make_links(self) -> None:
        """Make links in place of names that DuckDB takes for patterns."""
        if not any(glob.has_magic(str(path)) for path in self.paths):
            return
        folder = self._spill / "links"
        folder.mkdir(mode=0o700)
        for number, path in enumerate(self.paths):
            self._links[path] = folder / f"{number}.parquet"
            self._links[path].symlink_to(path)

    def _view_tree(self, name: str) -> str:
        """Return a function, part or view as the tree that DuckDB makes of it."""
        piece = pieces()[name]
        sql = piece.query.sql
        return self._tree_of(
            f"SELECT (\n{sql}\n)" if piece.layer == "functions" else sql, shipped=True
        )

    def _tree_of(self, sql: str, *, shipped: bool = False) -> str:
        """Return a SELECT as the tree that DuckDB makes of it. Raises QueryError if it is none.

        What is ``shipped`` is one: it is not parsed twice, which takes DuckDB 1 us for each byte.
        """
        if (known := _TREES.get(sql)) is not None:
            return known
        trees: list[str] = []
        with closing(self._connection.cursor()) as cursor:
            interruptible(
                cursor,
                lambda: trees.append((_tree if shipped else _parse)(cursor, sql)),
                self._timeout,
                self._ruleset.enter,
            )
        if len(sql) <= _LONGEST_KNOWN:
            with _TREES_LOCK:
                while len(_TREES) >= _MOST_TREES:
                    _TREES.pop(next(iter(_TREES)))
                _TREES[sql] = trees[0]
        return trees[0]

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Return what is missing of all recordings, as far as that is known by now."""
        return self.sources.missing

    def news(self) -> tuple[Missing, ...]:
        """Return what is missing, as far as that was not returned before."""
        return self.sources.news()

    def _leave_out_damaged(
        self, columns: Columns, parts: Iterable[int], sample: int | None = None
    ) -> None:
        """Check what a query is to read; what is damaged is missing from then on."""
        try:
            self.sources.leave_out_damaged(columns, parts, sample)
        except MemoryError as error:
            raise query_error(error) from error

    @property
    def sandbox(self) -> str:
        """What keeps the threads of DuckDB from all other files, in words."""
        if self._ruleset.holds:
            return f"Landlock {landlock.version()}: SQL can open no file but the recording's"
        return (
            "none: this kernel has no Landlock; only checks of each query keep it from other files"
        )

    def check(self, query: str) -> None:
        """Raise QueryError unless the text is exactly one SELECT that only reads what it is given.

        Whatever may be read may be overwritten by COPY, so nothing but SELECT gets through, and
        EXPLAIN before one.
        """
        self._checked(query)

    def _checked(self, query: str) -> str:
        """Check a query, and return the tree that DuckDB makes of it."""
        if self.closed:
            raise QueryError("the recording is closed: open it again")
        try:
            size = len(query.encode())
        except ValueError as error:
            raise query_error(error) from error
        if size > MAX_QUERY:
            raise QueryError(f"a query of more than {MAX_QUERY:,} bytes is too long")
        if "\0" in query:
            raise QueryError("a query may not hold the character of number zero")
        if _DEEP.search(query):
            raise QueryError("the query is nested too deeply")
        explained = _EXPLAIN.match(query)
        tree = self._tree_of(query[explained.end() :] if explained else query)
        self._check_tree(tree)
        return tree

    def _check_tree(self, tree: str) -> None:
        """Check a parsed statement as DuckDB writes it; one that it cannot write has no nodes."""
        nodes = set(_NODE.findall(tree))
        if not nodes:
            raise QueryError("one SELECT statement is wanted, this cannot be checked for being one")
        for node in sorted(nodes - _NODES):
            what = node.removesuffix("_NODE").removesuffix("_QUERY")
            raise QueryError(f"one SELECT statement is wanted, this one holds {what}")
        for name in _CALL.findall(tree):
            if name.lower() in self._refused:
                raise QueryError(f"the function {name} is not allowed here")

    def _checked_scope(self, scope: Scope) -> list[str]:
        """Check the condition on sockets as a query is; that it is only one, views see to."""
        filtered = [] if scope.filter is None else [scope.filter.sockets, scope.filter.closes]
        trees = [
            self._checked(f"SELECT 1 FROM {table} WHERE {condition}")
            for table, condition in zip(("sockets", "closes"), filtered, strict=False)
        ]
        if scope.where is None:
            return trees
        try:
            tree = self._checked(f"SELECT 1 FROM sockets WHERE (\n{scope.where}\n)")
        except QueryError as error:
            text = f"{scope.where!r} is no condition on a row of sockets: {error}"
            refused = ScopeError(text)
            for line in getattr(error, "__notes__", ()):
                refused.add_note(line)
            raise refused from error
        return [*trees, tree]

    @contextmanager
    def run(
        self,
        query: str,
        scope: Scope = WHOLE,
        parameters: Mapping[str, tuple[str, Value | None]] | None = None,
        kept: Collection[str] = (),
        *,
        few: bool = False,
        into: str | None = None,
    ) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        """Run a query, giving its schema and its batches as they come.

        What is ``kept`` of parts and views stands in place of what it would be computed from.
        ``few`` rows are handed over at once, which takes less time than it takes memory; ``into``
        names a table that is made of them. Ctrl-C, an error of the caller or leaving the block
        early interrupts it.
        """
        scopes = self.scopes(scope)
        parts = [one.part or 0 for one in scopes]
        trees = [self._checked(query), *self._checked_scope(scopes[0])]
        columns = dict(named_columns(trees, self._view_tree, kept))
        raw = self.several or len(trees) > 1 or columns == EVERY or bool(_RAW.search(trees[0]))
        for name, more in describing(scopes[0].condition() or "").items():
            if name in columns or name not in ("sockets", "closes"):
                columns[name] = columns.get(name, frozenset()) | more
        self._leave_out_damaged(columns, parts, scopes[0].sample)
        cursor = self._connection.cursor()
        journals = self._streams(parts)
        for stream in journals.values():
            stream.columns &= columns.get(stream.table, frozenset())

        place = catalog(parts[0]) if self.several and len(scopes) == 1 else ""
        functions = self._functions.setdefault(place, set())

        def prepare() -> str:
            self._ruleset.enter()
            for name, value in _PROGRESS.items():
                cursor.execute(f"SET {name} = {value}")
            for name, stream in journals.items():
                cursor.register(name, stream)
            if place:
                cursor.execute(f"USE {place}")
            if raw:
                self._lay_raw()
            narrow = [
                narrowed(
                    recording.of_sample(scopes[0].sample), columns, part if self.several else None
                )
                for part, recording in enumerate(self._linked())
            ]
            select = lay(narrow)
            return f"CREATE TABLE {_KEPT}.{into} AS {select}" if into else select

        def lay(narrow: Sequence[Narrowed] | None = None) -> str:
            if narrow is None:
                self._lay_raw()
            names = names_of(trees[0])
            if len(scopes) > 1:
                lay_together(cursor, self.recordings, scopes, parameters, names, narrow, functions)
                return query
            only = narrow[parts[0]] if narrow else None
            inline = narrow is not None and takes_inline(query, ctes_of(trees[0]))
            there = {name: f"{_KEPT}.{name}" for name in kept}
            before = query if inline else None
            ctes = lay_scope(cursor, scopes[0], parameters, names, there, only, before, functions)
            return with_inline(query, ctes)

        work = Work(
            cursor,
            prepare,
            lay,
            query,
            journals.values(),
            self._timeout,
            self._refused,
            few=few or into is not None,
        )
        self._work = work
        try:
            yield work.start(), work.batches()
        except duckdb.Error as error:
            for part in parts:
                self.recordings[part].check_kept()
            raise query_error(error, query, self._refused) from error
        finally:
            work.stop()

    def table(
        self,
        query: str,
        scope: Scope = WHOLE,
        parameters: Mapping[str, tuple[str, Value | None]] | None = None,
        kept: Collection[str] = (),
        *,
        few: bool = False,
    ) -> pa.Table:
        """Run a query and return all its rows, as ``run`` does."""
        with self.run(query, scope, parameters, kept, few=few) as (schema, batches):
            return pa.Table.from_batches(batches, schema=schema)

    def keep(
        self, name: str, users: Iterable[str], scope: Scope, kept: Collection[str], most: int
    ) -> bool:
        """Compute a part or view once, of the columns that ``users`` name, for runs that say so.

        Returns whether it is kept: not if it has more than ``most`` rows.
        """
        asked = columns_asked(name, (self._tree_of(user, shipped=True) for user in users))
        columns = (
            "*" if asked is None else f"COLUMNS(lambda c: c IN {_list_literal(sorted(asked))})"
        )
        query = f"SELECT {columns} FROM {name} LIMIT {most + 1}"
        with self.run(query, scope, kept=kept, into=name) as (_, batches):
            (rows,) = (row for batch in batches for row in batch.column(0).to_pylist())
        if rows > most:
            self._execute(f"DROP TABLE {_KEPT}.{name}")
        return bool(rows <= most)

    def drop_kept(self) -> None:
        """Drop all that is kept."""
        self._execute(f"DROP SCHEMA {_KEPT} CASCADE", f"CREATE SCHEMA {_KEPT}")

    def _execute(self, *statements: str) -> None:
        def execute() -> None:
            for statement in statements:
                self._connection.execute(statement)

        interruptible(self._connection, execute, enter=self._ruleset.enter)

    def scopes(self, scope: Scope = WHOLE) -> tuple[Scope, ...]:
        """Return the scope of each recording that it is about; of a cut no more than that is."""
        if scope.each:
            found = scope.each
        elif scope.part is not None or not self.several:
            found = (scope,)
        else:
            found = tuple(replace(scope, part=part) for part in range(len(self.recordings)))
        cuts = (self.recordings[one.part or 0].cut for one in found)
        return tuple(one.within(cut.start, cut.end) for one, cut in zip(found, cuts, strict=True))

    def checked(self) -> list[Recording]:
        """Return the recordings without what is damaged, as no query has looked yet."""
        everything = {name: frozenset(table.names) for name, table in TABLES.items()}
        self._leave_out_damaged(everything, range(len(self.recordings)))
        return self.recordings

    def span(self, scope: Scope = WHOLE) -> tuple[int | None, int | None]:
        """Return the times of the first and the last sample in microseconds UTC."""
        # A file of sockets alone has no samples.
        for name in ("samples", "sockets"):
            query = f"SELECT min(t_us) AS first, max(t_us) AS last FROM {name}"
            row = self.table(query, scope, few=True).to_pylist()
            if row[0]["first"] is not None:
                return row[0]["first"], row[0]["last"]
        return None, None

    def progress(self) -> float | None:
        """Return how much of the query that runs is done, 0 to 1, None if that is not known.

        Meant for another thread while ``run`` or ``table`` waits.
        """
        work = self._work
        share = None if work is None else work.progress()
        done, of = self.turn
        return None if share is None else (done + share) / of

    def close(self) -> None:
        """Remove all files; a query that did not stop keeps the connection until it does."""
        self.closed = True
        work, self._work = self._work, None
        if work is None or work.ended:
            self._connection.close()
        self.remove_files()

    def remove_files(self) -> None:
        """Remove what the engine and its recordings keep on disk, come what may."""
        self._folder.remove()
        self.sources.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def leave(status: int | str | None) -> None:
    """End the process at once if a query did not stop; what is on disk is removed before.

    Some functions, ``repeat`` to a thousand million characters, cannot be interrupted, and the
    interpreter ends badly beside a thread that runs. A command calls this last, with what it would
    give to ``sys.exit``.
    """
    if not any(thread.is_alive() for thread in STOPPED):
        return
    for engine in list(_OPEN):
        engine.remove_files()
    with suppress(OSError, ValueError, AttributeError):
        if isinstance(status, str):
            print(status, file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(status if isinstance(status, int) else 1 if status else 0)


def _connect(threads: int | None, memory_limit: str | None) -> duckdb.DuckDBPyConnection:
    try:
        memory = default_size() if memory_limit is None else parse_size(memory_limit)
    except SizeError as error:
        raise QueryError(str(error)) from error
    config: dict[str, str | bool | int | float | list[str]] = {
        "allow_community_extensions": "false",
        "allow_persistent_secrets": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": f"{memory >> 10}KiB",
        "python_enable_replacements": "false",
    }
    if threads is not None:
        config["threads"] = str(threads)
    try:
        return duckdb.connect(config=config)
    except (duckdb.Error, RuntimeError, MemoryError) as error:
        raise query_error(error) from error


def _allowed(recordings: Sequence[Recording], spill: Path) -> Iterator[tuple[Path, int]]:
    """Yield what the threads of DuckDB may open: the recording, libraries, what it asks the kernel.

    It gives up where it may not read of control groups.
    """
    yield spill, landlock.CHANGE
    own = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    own |= {*site.getsitepackages(), site.getusersitepackages()}
    analyzer = Path(__file__).parents[1]
    own |= {str(analyzer), os.path.dirname(inspect.getfile(SockrecError))}
    own.add(str(analyzer / "queries"))  # a link where this is developed
    places = (place for recording in recordings for place in recording.places)
    for path in (*places, *map(Path, (*own, *_READABLE))):
        yield path, landlock.READ


@cache
def _refused_functions() -> frozenset[str]:
    """Return the functions that no query may call, of the DuckDB that is installed."""
    found: list[tuple[str]] = []
    query = (
        "SELECT DISTINCT lower(function_name) FROM duckdb_functions() "
        "WHERE function_type IN ('table', 'table_macro', 'pragma')"
    )
    with duckdb.connect() as connection:
        interruptible(connection, lambda: found.extend(connection.execute(query).fetchall()))
    return frozenset(name for (name,) in found) - _TABLE_FUNCTIONS | _REFUSED


def _parse(cursor: duckdb.DuckDBPyConnection, query: str) -> str:
    """Return a statement as the tree that DuckDB makes of it. Raises QueryError unless SELECT."""
    try:
        statements = cursor.extract_statements(query)
        if len(statements) != 1:
            raise QueryError(f"one SELECT statement is wanted, not {len(statements)} statements")
        kind = statements[0].type
        if kind != duckdb.StatementType.SELECT:
            raise QueryError(f"one SELECT statement is wanted, this is {_kind_name(kind)}")
        return _tree(cursor, query)
    except duckdb.Error as error:
        raise query_error(error, query, _refused_functions()) from error


def _tree(cursor: duckdb.DuckDBPyConnection, query: str) -> str:
    tree: str
    ((tree,),) = cursor.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    return tree


def _kind_name(kind: duckdb.StatementType) -> str:
    return str(kind).rpartition(".")[2].replace("_", " ")


def _list_literal(values: list[str]) -> str:
    return "[" + ", ".join("'" + value.replace("'", "''") + "'" for value in values) + "]"
