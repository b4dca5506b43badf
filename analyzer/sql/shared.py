"""What several queries are made of, computed once as the first of them asks for it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress

from analyzer.sql.engine import Engine
from analyzer.sql.header import Query
from analyzer.sql.library import closure, named_again, pieces
from analyzer.sql.views import Scope
from analyzer.sql.work import QueryError

MOST_ROWS = 500_000
"""So many rows a relation may have that is kept; a larger one each query computes for itself."""


class Shared:
    """Parts and views that several queries of one scope are made of, kept until it is closed.

    They lie in DuckDB's own memory, of which it moves to disk what does not fit; of their columns
    those that somebody asks for. None of them may look at a parameter of a query.
    """

    def __init__(self, engine: Engine, scope: Scope, queries: Collection[Query]) -> None:
        self._engine = engine
        self._scope = scope
        below = [piece.query for piece in closure({name for one in queries for name in one.uses})]
        self._users = named_again((query.sql, query.uses) for query in (*queries, *below))
        self._there: dict[str, bool] = {}
        self._missing = engine.missing

    def of(self, query: Query) -> Collection[str]:
        """Return the names of those that a query is made of."""
        names = [name for name in self._below(query) if self._is_there(name)]
        if self._engine.missing == self._missing:
            return names
        self.close()  # a file turned out to be damaged: from what there is now
        self._missing = self._engine.missing
        return ()

    def _below(self, query: Query) -> Iterator[str]:
        """Yield what of them a query names, itself or by what is not among them."""
        for name in query.uses:
            if name in self._users:
                yield name
            elif name in pieces():
                yield from self._below(pieces()[name].query)

    def _is_there(self, name: str) -> bool:
        if name not in self._there:
            self._there[name] = False  # where it cannot be had, who asks for it will say why
            given = self.of(pieces()[name].query)
            with suppress(QueryError):
                self._there[name] = self._engine.keep(
                    name, self._users[name], self._scope, given, MOST_ROWS
                )
        return self._there.get(name, False)  # not if a file turned out to be damaged

    def close(self) -> None:
        """Give back their memory; what is asked for afterwards is computed anew."""
        self._engine.drop_kept()
        self._there = {}
