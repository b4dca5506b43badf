"""A locked-down DuckDB: one SELECT at a time, over one recording's files and nothing else."""

from __future__ import annotations

import json
import queue
import re
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import duckdb
import pyarrow as pa

from analyzer.recording import Recording
from analyzer.views import WHOLE, Scope, Stream, Value, lay_raw, lay_scope, streams
from recorder.schema import SockrecError

_ROWS_AT_ONCE = 1 << 16
_WAITING_BATCHES = 4
_PATIENCE = 2.0  # seconds that a query is given to notice that it was interrupted


# Functions that a SELECT may call and that change the engine; the second runs any text it is given.
_REFUSED = re.compile(r"\b(?:enable|disable)_logging\b|\bquery\b[\"\s]*\(", re.IGNORECASE)


class QueryError(SockrecError):
    """A query that is not one SELECT, or that failed."""


class Engine:
    """Runs queries over a recording; close it, or leave its ``with`` block, to remove its files.

    ``timeout`` is in seconds per query, ``memory_limit`` as DuckDB writes it, half the memory of
    the machine by default.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        threads: int | None = None,
        memory_limit: str | None = None,
        timeout: float | None = None,
    ) -> None:
        self.recording = recording
        self._timeout = timeout
        self._spill = Path(tempfile.mkdtemp(prefix="sockrec-"))  # mode 0700
        self._remove_spill = weakref.finalize(self, shutil.rmtree, self._spill, ignore_errors=True)
        self._connection = duckdb.connect(
            config={
                "allow_community_extensions": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "memory_limit": memory_limit or _half_of_memory(),
                "python_enable_replacements": "false",
            }
        )
        if threads is not None:
            self._connection.execute(f"SET threads = {threads:d}")
        _interruptible(self._connection, self._lock_down)

    def _lock_down(self) -> None:
        """Lay the raw relations, then close every door; the order matters."""
        connection = self._connection
        files = [str(path) for path in self.recording.paths]
        connection.execute(f"SET allowed_paths = {_list_literal(files)}")
        # Before external access is off: from then on the folder is allowed, and no other is.
        connection.execute(f"SET temp_directory = {_list_literal([str(self._spill)])[1:-1]}")
        journals = streams(self.recording)
        try:
            for name, stream in journals.items():
                connection.register(name, stream)
            lay_raw(connection, self.recording)
        except duckdb.Error as error:
            raise _query_error(error) from error
        finally:
            for name in journals:
                connection.unregister(name)
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")

    def check(self, query: str) -> None:
        """Raise QueryError unless the text is exactly one SELECT.

        Whatever may be read may be overwritten by COPY, so nothing but SELECT gets through.
        """
        try:
            query.encode()
            statements = self._connection.extract_statements(query)
        except (duckdb.Error, ValueError) as error:
            raise _query_error(error) from error
        if len(statements) != 1:
            raise QueryError(f"one SELECT statement is wanted, not {len(statements)} statements")
        kind = statements[0].type
        if kind != duckdb.StatementType.SELECT:
            raise QueryError(f"one SELECT statement is wanted, this is {_kind_name(kind)}")
        if refused := _REFUSED.search(query):
            raise QueryError(f"{refused[0]!r} is not allowed here")

    @contextmanager
    def run(
        self,
        query: str,
        scope: Scope = WHOLE,
        parameters: Mapping[str, tuple[str, Value | None]] | None = None,
    ) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        """Run a query, giving its schema and its batches as they come.

        Ctrl-C, an error of the caller or leaving the block early interrupts it.
        """
        self.check(query)
        cursor = self._connection.cursor()
        journals = streams(self.recording)

        def prepare() -> None:
            for name, stream in journals.items():
                cursor.register(name, stream)
            lay_scope(cursor, scope, parameters)

        work = _Work(cursor, prepare, query, journals.values(), self._timeout)
        try:
            yield work.start(), work.batches()
        except duckdb.Error as error:
            raise _query_error(error) from error
        finally:
            work.stop()
            cursor.close()

    def table(
        self,
        query: str,
        scope: Scope = WHOLE,
        parameters: Mapping[str, tuple[str, Value | None]] | None = None,
    ) -> pa.Table:
        """Run a query and return all its rows."""
        with self.run(query, scope, parameters) as (schema, batches):
            return pa.Table.from_batches(batches, schema=schema)

    def span(self) -> tuple[int | None, int | None]:
        """Return the times of the first and the last sample in microseconds UTC."""
        # A file of sockets alone has no samples.
        for name in ("samples", "sockets"):
            row = self.table(
                f"SELECT min(t_us) AS first, max(t_us) AS last FROM {name}"
            ).to_pylist()
            if row[0]["first"] is not None:
                return row[0]["first"], row[0]["last"]
        return None, None

    def close(self) -> None:
        self._connection.close()
        self._remove_spill()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Work:
    """A query in a thread of its own: DuckDB in the main thread would not notice Ctrl-C."""

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        prepare: Callable[[], None],
        query: str,
        journals: Collection[Stream],
        timeout: float | None,
    ) -> None:
        self._cursor = cursor
        self._prepare = prepare
        self._query = query
        self._journals = journals
        self._timeout = timeout
        self._deadline: float | None = None
        self._results: queue.Queue[pa.Schema | pa.RecordBatch | BaseException | None] = queue.Queue(
            _WAITING_BATCHES
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sockrec-query", daemon=True)

    def start(self) -> pa.Schema:
        self._deadline = None if self._timeout is None else time.monotonic() + self._timeout
        self._thread.start()
        schema = self._next()
        assert isinstance(schema, pa.Schema)
        return schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        while True:
            batch = self._next()
            if batch is None:
                return
            assert isinstance(batch, pa.RecordBatch)
            yield batch

    def stop(self) -> None:
        """End the query if it still runs, and wait for its thread."""
        self._stopped.set()
        end = time.monotonic() + _PATIENCE
        while self._thread.is_alive() and time.monotonic() < end:
            self._cursor.interrupt()
            while not self._results.empty():
                self._results.get_nowait()
            self._thread.join(0.02)

    def _next(self) -> pa.Schema | pa.RecordBatch | None:
        patience = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        try:
            result = self._results.get(timeout=patience)
        except queue.Empty:
            raise QueryError(f"the query took longer than {self._timeout:g} s") from None
        if isinstance(result, BaseException):
            raise _query_error(result) from result
        return result

    def _run(self) -> None:
        try:
            self._prepare()
            wanted = columns_read(self._cursor, self._query) if self._journals else None
            if wanted is not None:
                for journal in self._journals:
                    journal.columns &= wanted
            reader = self._cursor.sql(self._query).to_arrow_reader(_ROWS_AT_ONCE)
            self._put(reader.schema)
            for batch in reader:
                if self._stopped.is_set():
                    return
                self._put(batch)
            self._put(None)
        except BaseException as error:  # handed to the thread that waits
            self._put(error)

    def _put(self, result: pa.Schema | pa.RecordBatch | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                self._results.put(result, timeout=0.1)
                return
            except queue.Full:
                continue


def _interruptible(connection: duckdb.DuckDBPyConnection, work: Callable[[], None]) -> None:
    """Do in a thread what Ctrl-C shall stop: in the main one 2.0 misses it, 1.5 raises another."""
    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(work).result()
        except KeyboardInterrupt:
            connection.interrupt()
            raise


def columns_read(cursor: duckdb.DuckDBPyConnection, query: str) -> frozenset[str] | None:
    """Return the names that the plan's scans of journals mention, None if it cannot be told.

    They include every column that is read; a journal has 160, of which a report needs ten.
    """
    try:
        plan = json.loads(cursor.execute(f"EXPLAIN (FORMAT JSON) {query}").fetchall()[0][1])
        names: set[str] = set()
        waiting = list(plan)
        while waiting:
            node = waiting.pop()
            waiting += node["children"]
            if node["name"].strip().endswith("ARROW_SCAN"):
                names.update(re.findall(r"\w+", json.dumps(node["extra_info"])))
        return frozenset(names)
    except duckdb.Error:
        return None  # what is wrong is said when the query itself is run
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def _query_error(error: BaseException) -> BaseException:
    """Make one line of what DuckDB says."""
    if isinstance(error, SockrecError | KeyboardInterrupt):
        return error
    text = re.split(r"\n\s*LINE \d+:", str(error), maxsplit=1)[0]
    return QueryError(" ".join(text.split())[:1000] or type(error).__name__)


def _kind_name(kind: duckdb.StatementType) -> str:
    return str(kind).rpartition(".")[2].replace("_", " ")


def _list_literal(values: list[str]) -> str:
    return "[" + ", ".join("'" + value.replace("'", "''") + "'" for value in values) + "]"


def _half_of_memory() -> str:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return f"{int(line.split()[1]) // 2}KiB"
    return "2GiB"
