"""The analyzer: recording -> answers. Its door is ``import sockrec``."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from analyzer.screen.cells import printable

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

_SHOWN = 20
"""Rows that an answer shows of itself."""

_AND_MORE = "and more: .table() or .df() gives all"


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
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        where: str | None = None,
        filter: str | None = None,
        zone: tzinfo = UTC,
    ) -> Answer:
        """Ask one SELECT over the tables of docs/schema.md and the views of docs/views.md.

        ``start`` and ``end`` bound the time as --from and --to do: a datetime, or text: ISO,
        ``22:31`` on a day of the recording, ``+30s`` after its first sample, ``-5m`` before its
        last or ``mark:NAME``. They are in ``zone`` unless they have an offset. ``where`` chooses
        sockets: one SQL expression over their columns; ``filter`` does in the language of ss.
        Raises QueryError, TimeError, ScopeError or FilterError.
        """
        self.engine.check(query)
        return Answer(self.engine, query, self.scope(start, end, where, zone, filter), {})

    def report(
        self,
        name: str | Query,
        /,
        *,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        where: str | None = None,
        filter: str | None = None,
        zone: tzinfo = UTC,
        **parameters: object,
    ) -> Answer:
        """Run a report of the catalogue, or of a file by its path, with its parameters by name."""
        from analyzer.sql.catalog import find_report

        report = find_report(name) if isinstance(name, str) else name
        values = report.values(parameters)
        return Answer(
            self.engine, report.sql, self.scope(start, end, where, zone, filter), values, apart=True
        )

    def summary(
        self,
        *,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        where: str | None = None,
        filter: str | None = None,
        zone: tzinfo = UTC,
        parameters: Mapping[str, object] | None = None,
        only: Collection[str] | None = None,
    ) -> Summary:
        """Look for everything that queries/findings/ describes, or ``only`` for these, worst first.

        ``parameters`` changes thresholds: ``{"close_wait.age_s": 30}``. Raises CatalogError.
        """
        from analyzer.sql.hosts import summarize_each

        return summarize_each(
            self.engine, self.scope(start, end, where, zone, filter), parameters or {}, only=only
        )

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
        self,
        start: str | datetime | None,
        end: str | datetime | None,
        where: str | None = None,
        zone: tzinfo = UTC,
        filter: str | None = None,
    ) -> Scope:
        """Return what a query is to be about. Raises TimeError or FilterError.

        ``+30s`` and ``-5m`` count from each recording's own samples.
        """
        from analyzer.sql.marks import named
        from analyzer.sql.views import Scope, together
        from recorder.format.times import Times

        filtered = None
        if filter is not None:
            from analyzer.sql.filters import filtered as made

            filtered = made(self.engine, filter)
        if start is None and end is None:
            return Scope(where=where, filter=filtered)
        scopes = [
            Scope(
                *Times(*self.engine.span(one), zone, partial(named, self.engine, one)).bounds(
                    start, end
                ),
                where,
                one.part,
                filter=filtered,
            )
            for one in self.engine.scopes()
        ]
        return scopes[0] if len(scopes) == 1 else together(scopes)

    def __repr__(self) -> str:
        closed = ", closed" * self.engine.closed
        told = []
        for recording in self.engine.recordings:
            host = recording.facts.get("host")
            of = f" of {printable(host)}" if isinstance(host, str) else ""
            told.append(f"recording{of} in {printable(str(recording.path))}")
        return f"<{', '.join(told)}{closed}>"


class Answer:
    """The rows that a query gives: to be iterated as dictionaries, shown, or taken as a table.

    The query runs when they are asked for; ``table``, and all that needs every row, keep them.
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
        self._table: pa.Table | None = None

    def table(self) -> pa.Table:
        """Return all rows."""
        if self._table is None:
            import pyarrow as pa

            with self.batches() as (schema, batches):
                self._table = pa.Table.from_batches(batches, schema=schema)
        return self._table

    def df(self) -> pd.DataFrame:
        """Return all rows with Arrow's types: integers stay integers, also where some are missing.

        No type depends on the data.
        """
        import pandas as pd

        frame: pd.DataFrame = self.table().to_pandas(types_mapper=pd.ArrowDtype)
        return frame

    def __len__(self) -> int:
        length: int = self.table().num_rows
        return length

    def __iter__(self) -> Iterator[dict[str, object]]:
        from analyzer.screen.cells import distinct, rows

        table = self.table()
        names = distinct(table.column_names)
        return (dict(zip(names, row, strict=True)) for row in rows(table.to_batches()))

    def __repr__(self) -> str:
        if self._unread:
            return "<answer of a recording that is closed>"
        from analyzer.screen.render import write_plain

        schema, shown, more = self._first()
        return write_plain(schema, shown) + _AND_MORE * more

    def _repr_html_(self) -> str:
        from analyzer.screen.cells import html_table

        if self._unread:
            return f"<pre>{repr(self).replace('<', '&lt;')}</pre>"
        schema, shown, more = self._first()
        return html_table(schema.names, shown) + f"<p>{_AND_MORE}</p>" * more

    @property
    def _unread(self) -> bool:
        return self._table is None and self._engine.closed

    def _first(self) -> tuple[pa.Schema, list[tuple[object, ...]], bool]:
        """Return the schema, the first rows, and whether there are more."""
        from analyzer.screen.cells import rows

        if self._table is not None:
            schema, found = self._table.schema, rows(self._table.to_batches())
            shown = list(islice(found, _SHOWN + 1))
        else:
            with self.batches() as (schema, batches):
                shown = list(islice(rows(batches), _SHOWN + 1))
        return schema, shown[:_SHOWN], len(shown) > _SHOWN

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
