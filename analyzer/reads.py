"""Which columns of which tables a query may read, told from its parse tree; never too few."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from recorder.schema import TABLES

Columns = Mapping[str, frozenset[str]]

_PLAIN_FUNCTIONS = frozenset("generate_series json_each json_tree range repeat unnest".split())
_STAR_IN_TEXT = re.compile(r"(?:\bselect|\bdistinct|,|\.)\s*\*", re.IGNORECASE)
_EVERY = {name: frozenset(table.names) for name, table in TABLES.items()}

# What is implied wherever rows of these are chosen: by time, or as those of the same socket.
_IMPLIED = frozenset("cookie netns sample sample_time time valid_from".split())


def named_columns(trees: Iterable[str], views: Mapping[str, str]) -> Columns:
    """Return the columns, by table, that statements name, as DuckDB writes their trees.

    ``views`` gives the SQL of the views that they may name. Where a tree leaves it open, all are.
    """
    try:
        parsed = [json.loads(tree) for tree in trees]
        words, stars = set[str](), set[str]()
        for tree in parsed:
            for node in _nodes(tree):
                words.update(v.lower() for v in node.values() if isinstance(v, str))
                for value in node.values():
                    if isinstance(value, list):
                        words.update(v.lower() for v in value if isinstance(v, str))
                if _leaves_open(node):
                    return _EVERY
                stars |= _starred(node)
        if _names_a_row(parsed):
            return _EVERY
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return _EVERY
    named = _with_views(words, stars, views)
    return {
        name: columns if name in stars else columns & (named | _IMPLIED)
        for name, columns in _EVERY.items()
        if name in named
    }


def _with_views(words: set[str], stars: set[str], views: Mapping[str, str]) -> set[str]:
    """Return the words, and those of the views among them; add to the stars what views star."""
    named, waiting = set(words), [name for name in views if name in words]
    seen = set(waiting)
    while waiting:
        view = waiting.pop()
        inner = set(re.findall(r"\w+", views[view].lower()))
        named |= inner
        if view in stars or _STAR_IN_TEXT.search(views[view]):
            stars |= inner & _EVERY.keys()
        more = {name for name in views if name in inner} - seen
        seen |= more
        waiting += more
    if "baseline" in named:
        named.add("sockets")
        if "baseline" in stars:
            stars.add("sockets")
    return named


def _nodes(tree: object) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _leaves_open(node: Mapping[str, Any]) -> bool:
    """Tell whether what a node reads is not written in it."""
    kind = node.get("type")
    if kind in ("SHOW_REF", "PIVOT", "POSITIONAL_REFERENCE") or node.get("ref_type") == "NATURAL":
        return True
    if kind == "TABLE_FUNCTION":
        return str(node["function"]["function_name"]).lower() not in _PLAIN_FUNCTIONS
    if kind == "BASE_TABLE":  # a file by its name, or columns under other names
        return not re.fullmatch(r"\w+", str(node["table_name"])) or bool(node["column_name_alias"])
    return False


def _starred(node: Mapping[str, Any]) -> set[str]:
    """Return the tables of which a SELECT takes whatever columns they have."""
    if "select_list" not in node or not any(
        inner.get("class") == "STAR" for inner in _own(list(node.values()))
    ):
        return set()
    tables = (inner for inner in _own(node.get("from_table")) if inner.get("type") == "BASE_TABLE")
    return {str(table["table_name"]).lower() for table in tables}


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


def _names_a_row(trees: Iterable[object]) -> bool:
    """Tell whether a table is named where a column could be: that is a row of all its columns."""
    tables, columns = set[str](), set[str]()
    for tree in trees:
        for node in _nodes(tree):
            if node.get("type") == "BASE_TABLE":
                tables |= {str(node["table_name"]).lower(), str(node["alias"]).lower()}
            elif node.get("class") == "COLUMN_REF":
                columns.add(str(node["column_names"][-1]).lower())
    known = {name for names in _EVERY.values() for name in names}
    return bool(tables & columns - known)
