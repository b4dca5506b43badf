"""A query at work in a thread of its own, which Ctrl-C, a time limit or the caller can end."""

from __future__ import annotations

import json
import queue
import re
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import TypeVar

import duckdb
import pyarrow as pa

from analyzer.reading.memory import check_room_for_threads
from analyzer.sql.complaint import complaint
from analyzer.sql.views import Stream
from recorder.schema import SockrecError

_ROWS_AT_ONCE = 1 << 16
_WAITING_BATCHES = 4
_PATIENCE = 0.7
"""Seconds that a query is given to notice that it was interrupted; most need a hundredth."""

_LOOK_S = 1.0
"""So often is looked whether a thread that is waited for still lives."""

_USED = re.compile(r"/([\d.]+ \w+) used", re.ASCII)

# What Python, Arrow and DuckDB say when the process itself may have no more.
_NO_MEMORY = re.compile(
    r"Out of Memory Error|bad.?alloc|failed to allocate|malloc of size|realloc of size",
    re.IGNORECASE,
)

# That it costs a copy of rows that are few.
warnings.filterwarnings("ignore", "Arrow output on a DB-API result", UserWarning)

_T = TypeVar("_T")

STOPPED: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
"""Those of queries that were told to stop."""


class QueryError(SockrecError):
    """A query that is not one SELECT, or that failed."""


class Unparsed(QueryError):
    """A text that is no SQL, or only the beginning of it."""


class Work:
    """A query in a thread of its own: DuckDB in the main thread would not notice Ctrl-C.

    ``prepare`` lays what the query names, ``widen`` all that could be meant by a wrong name. Both
    give the query as it is to be run. One of ``few`` rows is planned once, and no rows come before
    the last one; else it is planned once more for its columns, and they come as they are found.
    """

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        prepare: Callable[[], str],
        widen: Callable[[], str],
        query: str,
        journals: Collection[Stream],
        timeout: float | None,
        refused: Collection[str],
        *,
        few: bool = False,
    ) -> None:
        self._cursor = cursor
        self._few = few
        self._closing = threading.Lock()
        self._prepare = prepare
        self._widen = widen
        self._query = query
        self._refused = refused
        self._journals = journals
        self._timeout = timeout
        self._deadline: float | None = None
        self._results: queue.Queue[pa.Schema | pa.RecordBatch | BaseException | None] = queue.Queue(
            _WAITING_BATCHES
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sockrec-query", daemon=True)

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def progress(self) -> float | None:
        with self._closing:
            if self.ended or self._stopped.is_set():
                return None
            percent: float = self._cursor.query_progress()
        return min(percent / 100, 1.0) if percent >= 0 else None

    def start(self) -> pa.Schema:
        self._deadline = None if self._timeout is None else time.monotonic() + self._timeout
        _start(self._thread)
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
        """End the query if it still runs, and wait for its thread, but not for ever."""
        self._stopped.set()
        if self._thread.ident is not None:
            STOPPED.add(self._thread)
            _stop(self._cursor, self._thread, self._empty)
        if self.ended:
            with self._closing:
                self._cursor.close()

    def _empty(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._results.get_nowait()

    def _next(self) -> pa.Schema | pa.RecordBatch | None:
        try:
            result = _awaited(self._results, self._thread, self._deadline)
        except queue.Empty:
            raise QueryError(f"the query took longer than {self._timeout:g} s") from None
        if isinstance(result, BaseException):
            raise query_error(result, self._query, self._refused) from result
        return result

    def _run(self) -> None:
        try:
            query = self._prepare()
            if any(journal.whole for journal in self._journals):
                wanted = columns_read(self._cursor, query)
                for journal in self._journals:
                    journal.columns &= journal.columns if wanted is None else wanted
            try:
                result = self._cursor.execute(query) if self._few else self._cursor.sql(query)
            except (duckdb.BinderException, duckdb.CatalogException):
                self._cursor.sql(self._widen())  # what is wrong is told as of all columns
                raise
            reader: pa.RecordBatchReader | None = result.to_arrow_reader(_ROWS_AT_ONCE)
            assert reader is not None  # nobody has read of it
            self._put(reader.schema)
            for batch in reader:
                if self._stopped.is_set():
                    return
                self._put(batch)
            self._put(None)
        except BaseException as error:  # handed to the thread that waits, which sees if it cannot
            with suppress(MemoryError):
                self._put(error)

    def _put(self, result: pa.Schema | pa.RecordBatch | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                self._results.put(result, timeout=0.1)
                return
            except queue.Full:
                continue


def interruptible(
    connection: duckdb.DuckDBPyConnection,
    work: Callable[[], None],
    timeout: float | None = None,
    enter: Callable[[], None] = lambda: None,
) -> None:
    """Do in a thread what Ctrl-C shall stop: in the main one 2.0 misses it, 1.5 raises another."""
    results: queue.Queue[BaseException | None] = queue.Queue()

    def run() -> None:
        try:
            enter()
            work()
            results.put(None)
        except BaseException as error:  # handed to the thread that waits, which sees if it cannot
            with suppress(MemoryError):
                results.put(error)

    thread = threading.Thread(target=run, name="sockrec-prepare", daemon=True)
    _start(thread)
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        error = _awaited(results, thread, deadline)
    except BaseException as stopped:
        STOPPED.add(thread)
        _stop(connection, thread)
        if isinstance(stopped, queue.Empty):
            raise QueryError(f"the query took longer than {timeout:g} s") from None
        raise
    if error is not None:
        raise error


def _awaited(results: queue.Queue[_T], thread: threading.Thread, deadline: float | None) -> _T:
    """Return what a thread hands over next. Raises queue.Empty at the deadline.

    Of one that ended without a word an error of memory: it had none left to say so.
    """
    while True:
        lives = thread.is_alive()  # before the look: what it hands over last is there then
        left = _LOOK_S if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return results.get(timeout=min(_LOOK_S, left) if lives else 0)
        except queue.Empty:
            if not lives:
                raise query_error(MemoryError()) from None
            if deadline is not None and time.monotonic() >= deadline:
                raise


def _start(thread: threading.Thread) -> None:
    try:
        check_room_for_threads()
    except MemoryError as error:
        raise query_error(error) from error
    thread.start()


def _stop(
    cursor: duckdb.DuckDBPyConnection,
    thread: threading.Thread,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Interrupt a query until its thread ends or patience does."""
    end = time.monotonic() + _PATIENCE
    while thread.is_alive() and time.monotonic() < end:
        cursor.interrupt()
        meanwhile()
        thread.join(0.02)


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


def query_error(
    error: BaseException, query: str = "", refused: Collection[str] = ()
) -> BaseException:
    """Make one line of what DuckDB says, with notes that show where in the query."""
    if isinstance(error, SockrecError | KeyboardInterrupt):
        return error
    text = re.split(r"\n\s*LINE \d+:", str(error), maxsplit=1)[0]
    if "Out of Memory Error" in text and (limit := _USED.search(text)):
        if "max_temp_directory_size" in text:
            return QueryError(
                f"out of memory: the query needs more than {limit[1]} of temporary files: "
                "narrow it by --from, --to or --where, or point TMPDIR to a larger place than "
                f"{tempfile.gettempdir()}"
            )
        return QueryError(
            f"out of memory: the query needs more than {limit[1]}: narrow it by --from, --to or "
            "--where, or raise --memory"
        )
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        return QueryError(
            "out of memory: the query needs more than --memory allows: narrow it by --from, --to "
            "or --where, or raise --memory"
        )
    if not isinstance(error, duckdb.Error):
        return QueryError(" ".join(text.split())[:1000] or type(error).__name__)
    told = complaint(str(error), query, refused)
    kind = Unparsed if isinstance(error, duckdb.ParserException) else QueryError
    made = kind(told.text or type(error).__name__)
    for line in told.place:
        made.add_note(line)
    return made
