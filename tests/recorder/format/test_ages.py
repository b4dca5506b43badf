"""Ages are in a segment as the moments that they count from, and come back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import analyzer
from analyzer.reading.rows import Part, TableRows
from recorder.format import ages, writing
from recorder.format.ages import moments
from recorder.schema import AGES, SOCKETS, public_schema, segment_schema
from tests.analyzer.support.recordings import FACTS, Writer, tcp, write_segment
from tests.recorder.support.journals import seal
from tests.recorder.support.recorded import in_view

U32 = st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 3), st.integers(2**32 - 3, 2**32 - 1))
TIMES = st.one_of(st.integers(-(10**7), 10**7), st.integers(1_790_000_000_000_000, 1 << 52))
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "netns": st.sampled_from([None, 1, 2]),
            "cookie": st.sampled_from([None, 1, 2, -(1 << 63)]),
            "sample_time": st.none() | TIMES,
        }
        | {name: st.none() | U32 for name in AGES}
    ),
    max_size=12,
)


def in_view_types(rows: list[dict[str, int | None]]) -> dict[str, pa.Array]:
    return {
        field.name: pa.array([row.get(field.name) for row in rows]).cast(field.type)
        for field in public_schema(SOCKETS)
    }


@given(rows=ROWS)
def test_whatever_the_ages_are_they_come_back(rows: list[dict[str, int | None]]) -> None:
    recorded = pa.table(in_view_types(rows))
    schema = segment_schema(SOCKETS)
    stored = pa.Table.from_arrays(moments(SOCKETS, in_view_types(rows)), schema=schema)
    assert in_view(stored).equals(recorded)


def idle(sample: int, cookie: int, jitter: int) -> dict[str, int | None]:
    """Return a socket that nothing happens to, read so long after its sample was begun."""
    now = 1000 * sample + jitter
    return tcp(
        cookie,
        last_ack_recv_ms=5000 + now,
        last_data_sent_ms=5004 + now,
        last_data_recv_ms=900_000 + now,
        expires_ms=7_200_000 - now,
    )


def test_of_a_socket_that_is_idle_only_when_it_was_read_changes(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    jitters = [40, 3, 17, 250]
    for sample, jitter in enumerate(jitters):
        writer.sample([idle(sample, cookie, jitter + cookie) for cookie in (1, 2)])
    seal(tmp_path / "r", 1)
    stored = pq.read_table(tmp_path / "r/sockets/000001.parquet")
    assert stored["read_ms"].to_pylist() == 2 * [jitter - jitters[0] for jitter in jitters]
    for name in ("ack_recv_at_ms", "data_sent_to_ack_ms", "data_recv_to_ack_ms", "expires_at_ms"):
        first, second = stored[name].to_pylist()[:4], stored[name].to_pylist()[4:]
        assert len(set(first)) == len(set(second)) == 1


def rows_of(kind: int, sample: int) -> dict[str, int | None]:
    """Return a socket that has some ages and not others, as old kernels and logs of ss tell."""
    told: dict[str, Any] = {
        name: (sample + 1) * 977 * 10**n if kind >> n & 1 else None for n, name in enumerate(AGES)
    }
    return tcp(kind, **told)


@pytest.mark.parametrize("group_rows", [8, 80_000])
def test_a_journal_and_its_segment_are_the_same_in_every_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_rows: int
) -> None:
    """By SQL, and as rows that are handed over; a number that an older sockrec sealed beside."""
    monkeypatch.setattr(ages, "_BITS", 4)
    monkeypatch.setattr(writing, "ROW_GROUP_ROWS", group_rows)
    writer = Writer(tmp_path / "r")
    for sample in range(5):
        writer.sample([rows_of(kind, sample) for kind in range(1, 16)])
    names = ", ".join(SOCKETS.names)
    query = f"SELECT {names} FROM sockets ORDER BY cookie, sample"

    def asked(place: Path) -> tuple[pa.Table, list[pa.Table]]:
        with analyzer.open(place) as opened:
            rows = TableRows(SOCKETS, (Part(opened.engine.recordings[0]),))
            each = [
                pa.Table.from_batches(rows.read([place])) for place in range(len(SOCKETS.names))
            ]
            return opened.sql(query).table(), each

    journal, _ = asked(tmp_path / "r")
    seal(tmp_path / "r", 1)
    path = tmp_path / "r/sockets/000001.parquet"
    assert pq.read_schema(path).names == segment_schema(SOCKETS).names
    sealed, handed = asked(tmp_path / "r")
    assert sealed.equals(journal)
    for name, column in zip(SOCKETS.names, handed, strict=True):
        assert column.column(0).to_pylist() == journal[name].to_pylist(), name
    write_segment(path, "sockets", journal.to_pylist(), FACTS)  # with ages
    old = pq.read_table(path)
    assert set(AGES) < set(old.column_names)
    assert asked(path)[0].equals(journal)


def test_an_age_without_what_it_is_made_of_is_null(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    row = idle(0, 1, 0) | {"sample": 0, "netns": 1, "sample_time": None}
    write_segment(path, "sockets", [row], FACTS, moments=True)
    stored = pq.read_table(path)
    with analyzer.open(path) as opened:
        query = "SELECT last_data_sent_ms AS sent, expires_ms AS left FROM sockets"
        assert opened.sql(query).table().to_pylist() == [{"sent": 5004, "left": 7_200_000}]
    pq.write_table(stored.drop_columns(["data_sent_to_ack_ms"]), path)
    with analyzer.open(path) as opened:
        assert opened.sql(query).table().to_pylist() == [{"sent": None, "left": 7_200_000}]


def test_the_columns_of_a_row_are_as_wide_as_what_is_in_them() -> None:
    """An age may be of a socket of three weeks, and differ by as much from row to row."""
    rows: list[dict[str, int | None]] = [
        {"cookie": 1, "sample_time": 0, "last_ack_recv_ms": age} for age in (0, 2**32 - 1, 5)
    ]
    names = segment_schema(SOCKETS).names
    stored = moments(SOCKETS, in_view_types(rows))[names.index("read_ms")]
    assert np.abs(np.asarray(stored)).max() < 2**30
