"""The analyzer: recording -> answers.

import analyzer

with analyzer.open("incident") as recording:
    recording.summary().table()
    recording.report("states", interval=10).df()
    recording.sql("SELECT state, count(*) AS rows FROM sockets GROUP BY state").table()
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, tzinfo
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    import pandas as pd
    import pyarrow as pa

    from analyzer.reading.segment import Missing
    from analyzer.sql.catalog import Query
    from analyzer.sql.engine import Engine
    from analyzer.sql.summary import Summary
    from analyzer.sql.views import Scope

__all__ = ["Analysis", "Answer", "open"]


def open(
    *paths: str | os.PathLike[str],
    threads: int | None = None,
    memory_limit: str | None = None,
    timeout: float | None = None,
) -> Analysis:
    """Open recordings: directories (live, dead or sealed), zips, globs, or Parquet files.

    Of several, each report answers for each by itself, with a column ``host``; SQL has the rows of
    all. They are seen as they are now; open them again to see what live ones have gained.
    ``timeout`` is in seconds per query. ``memory_limit``, as DuckDB writes it, bounds what DuckDB
    counts; a command bounds its whole process, which an import does not do to yours. Raises
    SockrecError.
    """
    from analyzer.reading.recording import open_recordings
    from analyzer.sql.engine import Engine

    return Analysis(
        Engine(
            *open_recordings(*paths), threads=threads, memory_limit=memory_limit, timeout=timeout
        )
    )


class Analysis:
    """An open recording, to be asked by SQL or by the shipped reports."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def sql(
        self,
        query: str,
        *,
        start: str | None = None,
        end: str | None = None,
        where: str | None = None,
        zone: tzinfo = UTC,
    ) -> Answer:
        """Ask one SELECT over the tables of docs/schema.md and the views of docs/views.md.

        ``start`` and ``end`` bound the time as --from and --to do: ISO, in ``zone`` unless it has
        an offset, ``+30s`` or ``-5m``. ``where`` chooses sockets: one SQL expression over their
        columns.
        """
        self.engine.check(query)
        return Answer(self.engine, query, self.scope(start, end, where, zone), {})

    def report(
        self,
        name: str | Query,
        /,
        *,
        start: str | None = None,
        end: str | None = None,
        where: str | None = None,
        zone: tzinfo = UTC,
        **parameters: object,
    ) -> Answer:
        """Run a report of the catalogue, or of a file by its path, with its parameters by name."""
        from analyzer.sql.catalog import find_report

        report = find_report(name) if isinstance(name, str) else name
        values = report.values(parameters)
        return Answer(
            self.engine, report.sql, self.scope(start, end, where, zone), values, apart=True
        )

    def summary(
        self,
        *,
        start: str | None = None,
        end: str | None = None,
        where: str | None = None,
        zone: tzinfo = UTC,
        parameters: Mapping[str, object] | None = None,
    ) -> Summary:
        """Look for everything that queries/findings/ describes, worst first.

        ``parameters`` changes thresholds: ``{"close_wait.age_s": 30}``.
        """
        from analyzer.sql.hosts import summarize_each

        return summarize_each(self.engine, self.scope(start, end, where, zone), parameters or {})

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Return what of the recording is lost or damaged, as far as that is known by now.

        A damaged file is noticed when a query is to read it, and left out from then on.
        """
        return self.engine.missing

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> Analysis:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def scope(
        self, start: str | None, end: str | None, where: str | None = None, zone: tzinfo = UTC
    ) -> Scope:
        """Return what a query is to be about. Raises ScopeError.

        ``+30s`` and ``-5m`` count from each recording's own samples.
        """
        from analyzer.sql.views import Scope, parse_time, together

        if start is None and end is None:
            return Scope(where=where)
        scopes = []
        for one in self.engine.scopes():
            first, last = self.engine.span(one)
            scopes.append(
                Scope(
                    None if start is None else parse_time(start, first, last, zone),
                    None if end is None else parse_time(end, first, last, zone),
                    where,
                    one.part,
                )
            )
        return scopes[0] if len(scopes) == 1 else together(scopes)


class Answer:
    """The rows that a query gives; the query runs each time they are asked for.

    ``apart`` is over each of several recordings for itself.
    """

    def __init__(
        self,
        engine: Engine,
        query: str,
        scope: Scope,
        parameters: Mapping[str, tuple[str, str | int | float | bool]],
        apart: bool = False,
    ) -> None:
        self._engine = engine
        self._query = query
        self._scope = scope
        self._parameters = parameters
        self._apart = apart

    def table(self) -> pa.Table:
        """Return all rows."""
        import pyarrow as pa

        with self.batches() as (schema, batches):
            return pa.Table.from_batches(batches, schema=schema)

    def df(self) -> pd.DataFrame:
        """Return all rows with Arrow's types, which do not depend on the data."""
        import pandas as pd

        frame: pd.DataFrame = self.table().to_pandas(types_mapper=pd.ArrowDtype)
        return frame

    def progress(self) -> float | None:
        """Return the share done of the query that runs, for another thread; None if unknown."""
        return self._engine.progress()

    @contextmanager
    def batches(self) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        """Give the schema, and the rows as they come."""
        from analyzer.sql.engine import Engine
        from analyzer.sql.hosts import run_each

        run = run_each if self._apart else Engine.run
        with run(self._engine, self._query, self._scope, self._parameters) as result:
            yield result
