"""The rules of queries/: every fact in one place, and each header says what its SQL is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from itertools import combinations
from pathlib import Path

import duckdb
import pytest

import analyzer
from analyzer import difference
from analyzer.sql.catalog import read_catalog, read_findings
from analyzer.sql.engine import Engine
from analyzer.sql.header import CatalogError, Query, parse_query
from analyzer.sql.library import LAYERS, Piece, closure, ctes_of, named_again, names_in, pieces
from analyzer.sql.reads import named_columns
from analyzer.sql.views import lay_scope, takes_inline
from recorder.schema import TABLES
from tests.analyzer.support.recordings import small

RUN = 6
"""So many lines that are the same in two files are one fact in two places."""

REPORTS = {f"reports/{name}": query for name, query in read_catalog().items()}
FINDINGS = {f"findings/{name}": query for name, query in read_findings().items()}
PIECES = {f"{piece.layer}/{name}": piece.query for name, piece in pieces().items()}
DIFFS = {f"diff/{name}": query for name, query in difference.queries().items()}
ALL = PIECES | REPORTS | FINDINGS | DIFFS


def select_of(place: str) -> str:
    """Return the SQL of a file as something that DuckDB parses."""
    sql = ALL[place].sql
    return f"SELECT {sql}" if place.startswith("functions/") else sql


@pytest.mark.parametrize("place", ALL)
def test_a_header_says_what_its_sql_uses_and_nothing_else(place: str) -> None:
    query = ALL[place]
    with duckdb.connect() as connection:
        named = names_in(connection, select_of(place)) & pieces().keys()
    assert named == set(query.uses)
    assert list(query.uses) == sorted(query.uses)


@pytest.mark.parametrize("place", REPORTS | FINDINGS | DIFFS)
def test_what_a_query_is_made_of_may_stand_before_it(place: str) -> None:
    """A name of its own that is theirs too would make views of them, bound again and again."""
    with duckdb.connect() as connection:
        ((tree,),) = connection.execute("SELECT json_serialize_sql(?)", [ALL[place].sql]).fetchall()
    assert takes_inline(ALL[place].sql, ctes_of(tree))


def test_what_is_named_again_is_computed_once() -> None:
    texts = [
        (
            "SELECT * FROM listeners AS a JOIN doors AS d USING (ns) JOIN deltas AS x USING (ns)",
            ["listeners", "doors", "deltas"],
        ),
        ("SELECT * FROM doors, deltas", ["doors", "deltas", "who"]),
        ("SELECT * FROM pace JOIN pace AS other ON true", ["pace"]),
    ]
    again = named_again(texts)
    assert again == {"doors": [texts[0][0], texts[1][0]], "pace": [texts[2][0]]}


@pytest.mark.parametrize("place", PIECES)
def test_a_piece_uses_what_stands_in_its_layer_or_below(place: str) -> None:
    layer = place.partition("/")[0]
    for used in PIECES[place].uses:
        assert LAYERS.index(pieces()[used].layer) <= LAYERS.index(layer)


@pytest.mark.parametrize("place", PIECES)
def test_a_piece_is_used_or_a_view_for_users(place: str) -> None:
    layer, _, name = place.partition("/")
    if layer != "views":
        called = {"who", "address_bits"}  # by the analyzer: in columns that it adds, and filters
        assert [other for other, query in ALL.items() if name in query.uses] or name in called


def test_names_are_of_one_piece_and_of_no_table() -> None:
    names = [place.partition("/")[2] for place in PIECES]
    assert len(names) == len(set(names))
    ctes = {
        name
        for place in ALL
        for name in re.findall(r"^(?:WITH )?(\w+) AS (?:MATERIALIZED )?\($", select_of(place), re.M)
    }
    assert ctes.isdisjoint(names)


def lines_of(query: Query) -> list[str]:
    """Return the lines of SQL that say something: neither comments nor layout."""
    lines = (re.sub(r"\s+", " ", line).strip() for line in query.sql.split("\n"))
    return [line for line in lines if line and not line.startswith("--")]


def runs(query: Query) -> Iterator[tuple[str, ...]]:
    lines = lines_of(query)
    for start in range(len(lines) - RUN + 1):
        yield tuple(lines[start : start + RUN])


def test_no_two_files_share_a_run_of_lines() -> None:
    found = {place: set(runs(query)) for place, query in ALL.items()}
    shared = [
        f"{one} and {other}: {min(found[one] & found[other])}"
        for one, other in combinations(found, 2)
        if found[one] & found[other]
    ]
    assert shared == []


def test_a_run_is_seen() -> None:
    """The rule above is one that can be broken."""
    lines = "\n".join(f"SELECT {n} AS n" for n in range(RUN))
    one, other = (
        parse_query("x", f'-- title = "a"\n-- description = "b"\n{sql}', columns=())
        for sql in (lines, f"SELECT 9\n-- other\n{lines}")
    )
    assert set(runs(one)) < set(runs(other))


OF_ITS_OWN = {
    "conntrack": "the report lists whatever counters moved",
    "hung_server": "queue_growth shows each queue, this that none of a process moves",
    "missed_messages": "memory counts what lies in buffers, this what found no room there",
    "peer_stalled": "queue_growth judges queues that are not empty, this those that are full",
    "reader_stalled": "the same",
    "udp_waiting": "process_sockets counts sockets, this those that are open for long",
    "unanswered": "churn counts attempts, this names who does not answer",
}
"""Findings that judge what no report shows yet, and what theirs shows instead."""


@pytest.mark.parametrize("place", FINDINGS)
def test_a_finding_judges_what_its_report_shows(place: str) -> None:
    """It uses the same relation, rather than to compute it again."""
    finding = FINDINGS[place]
    (report,) = set(re.findall(r"'(\w+)' AS report\b", finding.sql))
    shown = {piece.query.name for piece in closure(REPORTS[f"reports/{report}"].uses)}
    judged = {piece.query.name for piece in closure(finding.uses)}
    relations = {name for name, piece in pieces().items() if piece.layer != "functions"}
    assert bool(shown & judged & relations) == (finding.name not in OF_ITS_OWN)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("library") / "r"
    small(path).seal()
    with analyzer.open(path) as opened:
        opened.engine.table("SELECT count(*) FROM raw.samples")  # lays the raw relations
        yield opened.engine


def test_exactly_what_a_query_uses_is_laid(engine: Engine) -> None:
    query = "SELECT * FROM port_use"
    cursor = engine._connection.cursor()
    lay_scope(cursor, names=names_in(cursor, query))
    asked = "SELECT view_name FROM duckdb_views() WHERE temporary AND NOT internal"
    laid = {name for (name,) in cursor.execute(asked).fetchall()} & pieces().keys()
    assert laid == {"doors", "port_ranges", "port_use", "sysctls", "tw_reuse"}
    assert cursor.execute(query).fetchall() == []


@pytest.mark.parametrize("place", REPORTS | FINDINGS)
def test_no_query_takes_all_columns_of_sockets(place: str, engine: Engine) -> None:
    """Every column that is named is checked and bound, wherever sockets are."""
    query = (REPORTS | FINDINGS)[place]
    columns = named_columns([engine._checked(query.sql)], engine._view_tree)
    assert len(columns.get("sockets", ())) < len(TABLES["sockets"].names) / 2


@pytest.mark.parametrize("name", [n for n, piece in pieces().items() if piece.layer != "functions"])
def test_a_relation_gives_the_same_where_only_its_columns_are_laid(
    name: str, engine: Engine
) -> None:
    query = f"SELECT * FROM {name} ORDER BY ALL"
    narrow = engine.table(query, few=True)
    with closing(engine._connection.cursor()) as cursor:
        lay_scope(cursor, names=names_in(cursor, query))
        whole = cursor.sql(query).to_arrow_table()
    assert narrow.schema.names == whole.schema.names
    assert narrow.to_pylist() == whole.to_pylist()


def test_what_is_used_comes_before_what_uses_it() -> None:
    done: set[str] = set()
    for piece in closure(pieces()):
        assert set(piece.query.uses) <= done
        done.add(piece.query.name)
    assert done == set(pieces())


def test_a_circle_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    header = '-- title = "t"\n-- description = "d"\n-- uses = ["{}"]\n-- [columns]\n-- n = "n"\n'
    made = {
        name: Piece("parts", parse_query(name, header.format(used) + "SELECT 1 AS n"))
        for name, used in (("one", "other"), ("other", "one"))
    }
    monkeypatch.setattr("analyzer.sql.library.pieces", lambda: made)
    with pytest.raises(CatalogError, match="one uses other uses one"):
        list(closure(["one"]))


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("SELECT * FROM Connections AS c JOIN raw.sockets USING (ns)", {"connections"}),
        ("SELECT count(*) FROM samples WHERE endpoint(a, b) = 'x'", {"endpoint", "samples"}),
        ("SELECT 1 WHERE EXISTS (SELECT 1 FROM (SELECT * FROM listeners) AS l)", {"listeners"}),
        ("SELECT 'connections' AS deltas", set()),
    ],
)
def test_names_are_those_that_the_parser_sees(query: str, names: set[str]) -> None:
    with duckdb.connect() as connection:
        assert names_in(connection, query) - {"count_star", "="} == names


def test_a_relation_that_is_asked_for_by_a_text_is_there(tmp_path: Path) -> None:
    small(tmp_path / "r")
    with analyzer.open(tmp_path / "r") as opened:
        rows = opened.sql("SELECT count(*) AS n FROM query_table('listeners')").table()
    assert rows.to_pylist() == [{"n": 1}]
