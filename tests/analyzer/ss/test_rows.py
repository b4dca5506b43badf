"""Rows read without a query: those that SQL gives, of the same types, and in the same order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.reading.recording import open_recording
from analyzer.reading.sources import Sources
from analyzer.sql.engine import Engine
from analyzer.ss.layout import together
from analyzer.ss.rows import Rows, RowsError, _public, in_order
from analyzer.ss.selection import NETIDS
from analyzer.ss.view import GROUPS, group_of
from analyzer.ss.words import Declared
from recorder.schema import (
    CLOSES,
    COUNTERS,
    NAMESPACES,
    OWNERS,
    SAMPLES,
    SOCKETS,
    public_schema,
)
from tests.analyzer.support.recordings import Writer, counter, micros, tcp, time_of, unix

HEALTHY = Path(__file__).resolve().parents[3] / "samples" / "healthy" / "recording"


def written(directory: Path, **facts: Any) -> Path:
    """Write six samples in three segments and a journal."""
    writer = Writer(directory, **facts)
    for number in range(7):
        rows = [tcp(n, recv_q=number, pid=None if n % 2 else n) for n in range(1, 5)]
        writer.sample([*rows, unix(9)], counters=[counter("TCP.inuse", number)])
        if number % 2:
            writer.seal()
    return directory


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Rows]]:
    """A recording with a journal, one that was cut, and a sealed one."""
    folder = tmp_path_factory.mktemp("rows")
    span = {"from_us": micros(time_of(2)), "to_us": micros(time_of(5))}
    paths = [written(folder / "r"), written(folder / "cut", cut=span), HEALTHY]
    opened = [Rows(Sources([open_recording(path)])) for path in paths]
    yield opened
    for rows in opened:
        rows.close()


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("table", [SOCKETS, SAMPLES, COUNTERS, NAMESPACES, OWNERS, CLOSES])
def test_they_are_those_of_sql(both: list[Rows], table: object, place: int) -> None:
    assert table in (SOCKETS, SAMPLES, COUNTERS, NAMESPACES, OWNERS, CLOSES)
    rows, names = both[place], list(table.names)
    for sample in [None, 3, 61] if "sample" in names else [None]:
        where = "true" if sample is None else f"sample = {sample}"
        query = f"SELECT {', '.join(names)} FROM {table.name} WHERE {where}"
        wanted = rows.engine.table(query)
        found = rows.read(table, names, sample)
        assert found.schema.types == wanted.schema.types
        assert sorted(map(repr, found.to_pylist())) == sorted(map(repr, wanted.to_pylist()))


def test_there_are_some_of_each(both: list[Rows]) -> None:
    assert [rows.read(SOCKETS, ["cookie"]).num_rows for rows in both[:2]] == [35, 15]
    assert both[2].read(SOCKETS, ["cookie"], 61).num_rows > 100


WORDS = st.none() | st.sampled_from(
    ["", "::", "0.0.0.0", "10.0.0.9", "10.0.0.10", "é", "\U0001f600"]
)
NUMBERS = st.none() | st.sampled_from([0, 1, 80, 65_535]) | st.integers(-(1 << 63), (1 << 63) - 1)
PORTS = st.none() | st.integers(0, 3) | st.just(65_535)
ROWS = st.fixed_dictionaries(
    {
        "netns": st.sampled_from([4026531840, 4026531841, 7]),
        "netid": st.sampled_from([*NETIDS, "sctp", "tcp", "tcp"]),
        "family": st.sampled_from(["inet", "inet6", "unix"]),
        "local_port": PORTS,
        "local_addr": WORDS,
        "peer_addr": WORDS,
        "peer_port": PORTS,
        "inode": NUMBERS,
        "cookie": NUMBERS,
        "details": st.sampled_from([None, "{}", json.dumps({"peers": ["10.0.0.1"]})]),
    }
)
_RANK = " ".join(
    f"WHEN netid IN ({', '.join(repr(n) for n in NETIDS if group_of(n) == group)}) THEN {rank}"
    for rank, group in enumerate(GROUPS)
)
ORDER = (
    f"netns, CASE {_RANK} END, family, CASE WHEN netid = 'sctp' THEN inode END, "
    "CASE WHEN netid = 'sctp' THEN details ->> '$.peers' IS NOT NULL END, "
    "local_port, local_addr, peer_addr, peer_port, inode, cookie"
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=40))
def test_the_order_is_that_of_sql(rows: list[dict[str, object]]) -> None:
    schema = public_schema(SOCKETS)
    table = pa.Table.from_pylist(rows, schema=pa.schema([schema.field(name) for name in rows[0]]))
    with duckdb.connect() as connection:
        connection.register("rows_given", table)
        query = f"SELECT * EXCLUDE (details) FROM rows_given ORDER BY {ORDER}"
        wanted = connection.sql(query).fetchall()
    found = in_order(table).drop_columns(["details"])
    assert [tuple(row.values()) for row in found.to_pylist()] == wanted


COLUMNS = st.lists(
    st.tuples(
        st.sampled_from([None, 0, 1, 2]), st.sampled_from([None, "", "a", "b"]), st.booleans()
    )
)


@given(COLUMNS, st.booleans())
def test_columns_together_have_each_combination_once(
    rows: list[tuple[int | None, str | None, bool]], encoded: bool
) -> None:
    kinds = (pa.int64(), pa.string(), pa.bool_())
    columns = [pa.array([row[k] for row in rows], kind) for k, kind in enumerate(kinds)]
    if encoded:
        columns[1] = columns[1].dictionary_encode()
    values, of = together(*columns)
    assert [values[place] for place in of] == rows
    assert sorted(map(repr, values)) == sorted({repr(row) for row in rows})


def test_a_damaged_segment_is_left_out_and_told(tmp_path: Path) -> None:
    path = written(tmp_path / "r")
    (first, *_) = sorted((path / "sockets").glob("*.parquet"))
    damaged = bytearray(first.read_bytes())
    damaged[len(damaged) // 3] ^= 4
    first.write_bytes(damaged)
    with Rows(Sources([open_recording(path)])) as rows:
        count = rows.read(SOCKETS, SOCKETS.names).num_rows
        asked = rows.engine.table("SELECT count(*) AS n FROM sockets")["n"][0].as_py()
        assert count == asked == 25
        assert [lost.table for lost in rows.sources.news()].count("sockets") == 1
        assert rows.sources.news() == ()


def test_reading_has_a_limit_of_time(tmp_path: Path) -> None:
    with (
        Rows(Sources([open_recording(written(tmp_path / "r"))]), timeout=0) as rows,
        pytest.raises(RowsError, match="took longer than 0 s"),
    ):
        rows.read(SOCKETS, ["cookie"])


def test_text_that_is_no_text_is_an_error_of_the_file() -> None:
    buffers = [None, pa.py_buffer(bytes([0, 0, 0, 0, 2, 0, 0, 0])), pa.py_buffer(b"\xff\xfe")]
    words = pa.Array.from_buffers(pa.string(), 1, buffers).dictionary_encode()
    with pytest.raises(pa.ArrowInvalid):
        _public(pa.RecordBatch.from_arrays([words], ["comm"]), SOCKETS)


def test_a_word_may_ask_for_no_column_that_it_does_not_name() -> None:
    row = Declared(pid=7)
    assert row.get("pid") == 7
    with pytest.raises(KeyError):
        row.get("comm")


def test_an_engine_over_the_same_sources_leaves_out_what_was_found_damaged(tmp_path: Path) -> None:
    sources = Sources([open_recording(written(tmp_path / "r"))])
    with Engine(sources=sources) as engine:
        assert engine.recordings is sources.recordings
