"""Which columns of which tables a query may read, told from its parse tree; never too few."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from analyzer.sql.library import pieces, remembered
from recorder.schema import TABLES

MADE = {
    "local": ("endpoint", "local_addr", "local_port"),
    "peer": ("endpoint", "peer_addr", "peer_port"),
    "who": ("who", "comm", "pid"),
}
"""Columns that sockets and closes have beside the recorded ones: a function, and of what."""

Columns = Mapping[str, frozenset[str]]

_PLAIN_FUNCTIONS = frozenset("generate_series json_each json_tree range repeat unnest".split())
_SCHEMAS = ("raw", "temp", "main")
EVERY = {name: frozenset(table.names) for name, table in TABLES.items()}

_KNOWN = frozenset(name for names in EVERY.values() for name in names)

# What is implied wherever rows of these are chosen: by time, or as those of the same socket.
_IMPLIED = frozenset("cookie netns sample sample_time time valid_from".split())


# A string, and what shows that it is a key. What is escaped within is no name of a column.
_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"(\s*:)?')


def named_columns(
    trees: Iterable[str], tree_of: Callable[[str], str], kept: Collection[str] = ()
) -> Columns:
    """Return the columns, by table, that statements name, as DuckDB writes their trees.

    Of functions, parts and views that they name ``tree_of`` gives the tree, but for what is
    ``kept``. Where a tree leaves it open, all columns are named. A ``*`` within a view stands for
    what anybody names; in what it gives, for all if who asks it takes all.
    """
    words, named, stars = set[str](), set[str](), set[str]()
    handed: dict[str, frozenset[str]] = {}
    views, seen = pieces().keys() - kept, set[str]()
    try:
        waiting = [("", _reads(tree)) for tree in trees]
        while waiting:
            view, reads = waiting.pop()
            if reads is None:
                return EVERY
            words |= reads.words
            named |= reads.named
            stars |= reads.rows if view else reads.rows | reads.stars
            handed[view] = reads.stars if reads.gives_all else frozenset()
            waiting += [(name, _reads(tree_of(name))) for name in (reads.named & views) - seen]
            seen |= reads.named & views
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return EVERY
    while more := {star for name in stars & handed.keys() for star in handed[name]} - stars:
        stars |= more
    if "baseline" in named:
        named.add("sockets")
        stars |= {"sockets"} if "baseline" in stars else set()
    words.update(column for made in words & MADE.keys() for column in MADE[made][1:])
    return {
        name: columns if name in stars else columns & (words | _IMPLIED)
        for name, columns in EVERY.items()
        if name in named
    }


def columns_asked(name: str, trees: Iterable[str]) -> frozenset[str] | None:
    """Return the words, columns of a part or view among them, of statements that name it.

    None stands for all columns: a statement takes whatever it has, or leaves open what it reads.
    """
    words = set[str]()
    for tree in trees:
        reads = _reads(tree)
        if reads is None or name in reads.stars | reads.rows:
            return None
        words |= reads.words
    return frozenset(words)


class _Reads(NamedTuple):
    """What a tree reads: its words, what it names, of what it takes ``*``, of what whole rows.

    ``gives_all`` tells whether a ``*`` may be in what it gives.
    """

    words: frozenset[str]
    named: frozenset[str]
    stars: frozenset[str]
    rows: frozenset[str]
    gives_all: bool


@remembered
def _reads(text: str) -> _Reads | None:
    """Return what a tree reads, None if it leaves that open."""
    nodes: list[dict[str, Any]] = []

    def note(node: dict[str, Any]) -> dict[str, Any]:
        nodes.append(node)
        return node

    tree = json.loads(text, object_hook=note)
    named, columns, called = set[str](), set[str](), set[str]()
    for node in nodes:
        if _leaves_open(node):
            return None
        if node.get("type") == "BASE_TABLE":
            name = str(node["table_name"]).lower()
            named.add(name)
            called |= {name, str(node["alias"]).lower()}
        if "function_name" in node:
            named.add(str(node["function_name"]).lower())
        if node.get("class") == "COLUMN_REF":
            columns.add(str(node["column_names"][-1]).lower())
    selects = [node for node in nodes if "select_list" in node]
    starred = [node for node in selects if '"STAR"' in text and _star_in(node)]
    rows = [_rows_named(node) for node in selects] if called & columns - _KNOWN else []
    return _Reads(
        frozenset(word for word, key in _STRING.findall(text.lower()) if not key),
        frozenset(named),
        frozenset(table for node in starred for table in _tables(node)),
        frozenset[str]().union(*rows),
        bool(starred) and any(_star_in(node) for node in _given(tree)),
    )


def _leaves_open(node: Mapping[str, Any]) -> bool:
    """Tell whether what a node reads is not written in it."""
    kind = node.get("type")
    if kind in ("SHOW_REF", "PIVOT", "POSITIONAL_REFERENCE") or node.get("ref_type") == "NATURAL":
        return True
    if kind == "TABLE_FUNCTION":
        return str(node["function"]["function_name"]).lower() not in _PLAIN_FUNCTIONS
    if kind == "BASE_TABLE":  # a file by its name, columns under other names, or what there is
        named = re.fullmatch(r"\w+", str(node["table_name"]))
        own = node.get("schema_name") in (None, "", *_SCHEMAS)
        return not named or not own or bool(node["column_name_alias"])
    return False


def _tables(select: Mapping[str, Any]) -> Iterator[str]:
    """Yield the relations that a SELECT reads itself."""
    for node in _own(select.get("from_table")):
        if node.get("type") == "BASE_TABLE":
            yield str(node["table_name"]).lower()


def _star_in(select: Mapping[str, Any]) -> bool:
    parts = [part for name, part in select.items() if name not in ("from_table", "cte_map")]
    return any(inner.get("class") == "STAR" for inner in _own(parts))


def _given(tree: object) -> Iterator[dict[str, Any]]:
    """Yield the SELECTs of which the rows are those that a tree gives: one, or several united."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            if "select_list" in node:
                yield node
            else:
                waiting += (value for name, value in node.items() if name != "cte_map")


def _own(tree: object) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a part of a SELECT, but for those of a SELECT within."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "select_list" not in node:
                yield node
                waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _nodes(tree: object) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _rows_named(node: Mapping[str, Any]) -> set[str]:
    """Return the tables of a SELECT named where a column could be: a row of all their columns."""
    relations = frozenset({*EVERY, *pieces(), "baseline"})
    tables: dict[str, str] = {}
    for inner in _own(node.get("from_table")):
        if inner.get("type") == "BASE_TABLE" and str(inner["table_name"]).lower() in relations:
            name = str(inner["table_name"]).lower()
            tables |= {name: name, str(inner["alias"]).lower() or name: name}
    if not tables:
        return set()
    columns = {
        str(inner["column_names"][-1]).lower()
        for inner in _nodes(node)
        if inner.get("class") == "COLUMN_REF"
    }
    return {tables[name] for name in tables.keys() & columns - _KNOWN}
