"""What queries are made of: functions, parts and views, and which of them a query uses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, wraps
from typing import TYPE_CHECKING, TypeVar

from analyzer.sql.header import CatalogError, Query, parse_query, read_folder

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LAYERS = ("functions", "parts", "views")
"""Folders of queries/, lowest first: each uses what stands below it, or beside it.

A function is one expression, a part a relation whose name and columns may change, a view one that
users may ask.
"""


_T = TypeVar("_T")

_REMEMBERED, _LONGEST = 256, 1 << 20


def remembered(function: Callable[[str], _T]) -> Callable[[str], _T]:
    """Remember what a function makes of the texts that it was given last, but for long ones.

    What is shipped is asked again and again; what a user writes may be of any length.
    """
    known = lru_cache(_REMEMBERED)(function)

    @wraps(function)
    def remembering(text: str) -> _T:
        return known(text) if len(text) <= _LONGEST else function(text)

    return remembering


@dataclass(frozen=True, slots=True)
class Piece:
    """A function, part or view."""

    layer: str
    query: Query

    @property
    def statement(self) -> str:
        """The statement that creates it: a function for all runs of a catalog, else for one run."""
        name, sql = self.query.name, self.query.sql
        if self.layer == "functions":
            arguments = ", ".join(self.query.arguments)
            return f"CREATE OR REPLACE MACRO {name}({arguments}) AS (\n{sql}\n)"
        return f"CREATE TEMP VIEW {name} AS {sql}"


@cache
def pieces() -> Mapping[str, Piece]:
    """Return everything that queries may use by its name."""
    return {
        name: Piece(layer, parse_query(name, text))
        for layer in LAYERS
        for name, text in read_folder(layer).items()
    }


def named_again(texts: Iterable[tuple[str, Collection[str]]]) -> dict[str, list[str]]:
    """Return the parts and views that SQL texts, given with what they use, name more than once.

    With the texts that do. What is inline is not among them.
    """
    users: dict[str, list[str]] = {}
    for sql, uses in texts:
        for name in uses:
            piece = pieces().get(name)
            if piece and piece.layer != "functions" and not piece.query.inline:
                users.setdefault(name, []).append(sql)
    return {
        name: by
        for name, by in users.items()
        if len(by) > 1 or len(re.findall(rf"\b(?:FROM|JOIN) {name}\b", by[0], re.IGNORECASE)) > 1
    }


def closure(names: Iterable[str], given: Collection[str] = ()) -> Iterator[Piece]:
    """Yield what the names use, directly and through others, each after what it uses itself.

    What is ``given`` is there already, and needs nothing.
    """
    known, done = pieces(), set[str](given)

    def visit(name: str, path: tuple[str, ...]) -> Iterator[Piece]:
        if name in path:
            raise CatalogError(f"queries/: {' uses '.join((*path, name))}")
        if name in done or name not in known:
            return
        for used in known[name].query.uses:
            yield from visit(used, (*path, name))
        done.add(name)
        yield known[name]

    for name in sorted(names):
        yield from visit(name, ())


def names_in(connection: DuckDBPyConnection, query: str) -> frozenset[str]:
    """Return the relations and functions that a SELECT names, by DuckDB's own parser."""
    ((tree,),) = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    return names_of(tree)


@remembered
def ctes_of(text: str) -> frozenset[str]:
    """Return the names of the common table expressions in the tree of a SELECT."""
    found: set[str] = set()
    waiting: list[object] = [json.loads(text)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            waiting += node.values()
            if isinstance(ctes := node.get("cte_map"), dict):
                found.update(str(cte["key"]).lower() for cte in ctes["map"])
    return frozenset(found)


@remembered
def names_of(text: str) -> frozenset[str]:
    """Return the relations and functions that the tree of a SELECT names.

    Of one that could not be parsed, or that asks for a relation by a text, everything there is.
    """
    tree = json.loads(text)
    found: set[str] = set()
    waiting: list[object] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            waiting += node.values()
            for key in ("function_name", "table_name"):
                name = node.get(key)
                # raw.sockets and pg_catalog.sum are none of ours.
                if isinstance(name, str) and not (node.get("schema") or node.get("schema_name")):
                    found.add(name.lower())
    return frozenset(pieces()) if tree["error"] or "query_table" in found else frozenset(found)
