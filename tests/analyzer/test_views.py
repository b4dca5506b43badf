"""The scope: what --from and --to leave, what stays as baseline, and the parameters' view."""

from pathlib import Path

import pyarrow as pa
import pytest

import analyzer
from analyzer.views import ScopeError, parse_time
from recorder.schema import TABLES, public_schema
from tests.analyzer.recordings import (
    FACTS,
    Writer,
    micros,
    small,
    tcp,
    time_of,
    write_segment,
)

FIRST, LAST = micros(time_of(0)), micros(time_of(3))


@pytest.mark.parametrize(
    ("text", "sample"),
    [
        ("2026-11-22T15:04:06", 1),
        ("2026-11-22 15:04:06", 1),
        ("2026-11-22T15:04:06Z", 1),
        ("2026-11-22T16:04:06+01:00", 1),
        ("+2s", 2),
        ("+2000ms", 2),
        ("-1s", 2),
        ("-0s", 3),
    ],
)
def test_a_time_is_iso_or_counted_from_an_end(text: str, sample: int) -> None:
    assert parse_time(text, FIRST, LAST) == micros(time_of(sample))


def test_units_are_what_record_takes() -> None:
    assert parse_time("+1.5m", 0, 0) == 90_000_000
    assert parse_time("+1h", 0, 0) == 3_600_000_000
    assert parse_time("+1d", 0, 0) == 86_400_000_000


@pytest.mark.parametrize("text", ["", "soon", "5s", "+5", "+5 s", "+-5s", "15:04", "+٣s", "1e9"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ScopeError, match="is no time"):
        parse_time(text, FIRST, LAST)


def test_an_empty_recording_has_nothing_to_count_from() -> None:
    with pytest.raises(ScopeError, match="no sample"):
        parse_time("+5s", None, None)


def test_the_scope_is_half_open(tmp_path: Path) -> None:
    small(tmp_path / "r")
    with analyzer.open(tmp_path / "r") as opened:
        for start, end, samples in [
            (None, None, [0, 1, 2, 3]),
            ("+1s", None, [1, 2, 3]),
            (None, "+1s", [0]),
            ("+1s", "+3s", [1, 2]),
            ("-1s", None, [2, 3]),
            ("+9s", None, []),
            ("+2s", "+1s", []),
        ]:
            for table in ("sockets", "samples"):
                found = opened.sql(
                    f"SELECT DISTINCT sample FROM {table} ORDER BY sample", start=start, end=end
                )
                assert [row["sample"] for row in found.table().to_pylist()] == samples


def test_the_baseline_is_the_last_row_before_of_each_socket_in_scope(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1, recv_q=10), tcp(2, recv_q=20), tcp(3, recv_q=30)])
    writer.sample([tcp(1, recv_q=11), tcp(2, recv_q=21)])
    writer.seal()
    writer.sample([tcp(1, recv_q=12), tcp(3, recv_q=32)])
    writer.sample([tcp(1, recv_q=13), tcp(4, recv_q=43)])
    with analyzer.open(tmp_path / "r") as opened:
        before = opened.sql(
            "SELECT cookie, sample, recv_q, t_us FROM baseline ORDER BY cookie", start="+2s"
        )
        assert before.table().to_pylist() == [
            {"cookie": 1, "sample": 1, "recv_q": 11, "t_us": micros(time_of(1))},
            {"cookie": 3, "sample": 0, "recv_q": 30, "t_us": micros(time_of(0))},
        ]
        assert opened.sql("SELECT * FROM baseline").table().num_rows == 0
        assert opened.sql("SELECT * FROM baseline", end="+2s").table().num_rows == 0
        grown = opened.sql(
            "SELECT cookie, CAST(sum(grown) AS BIGINT) AS grown FROM ("
            "  SELECT cookie, recv_q - lag(recv_q) OVER (PARTITION BY cookie ORDER BY sample) AS"
            "    grown FROM (SELECT * FROM sockets UNION ALL SELECT * FROM baseline)"
            ") GROUP BY cookie ORDER BY cookie",
            start="+2s",
        )
        assert grown.table().to_pylist() == [
            {"cookie": 1, "grown": 2},
            {"cookie": 3, "grown": 2},
            {"cookie": 4, "grown": None},
        ]


def test_the_views_have_the_columns_of_the_contract(tmp_path: Path) -> None:
    small(tmp_path / "r")
    with analyzer.open(tmp_path / "r") as opened:
        for table in TABLES.values():
            wanted = public_schema(table).append(pa.field("t_us", pa.int64()))
            assert opened.sql(f"SELECT * FROM {table.name}").table().schema.equals(wanted)
            assert (
                opened.sql(f"SELECT * FROM raw.{table.name}")
                .table()
                .schema.equals(public_schema(table))
            )


def test_the_scope_stands_in_params(tmp_path: Path) -> None:
    small(tmp_path / "r")
    with analyzer.open(tmp_path / "r") as opened:
        query = "SELECT from_us, to_us FROM params"
        assert opened.sql(query).table().to_pylist() == [{"from_us": None, "to_us": None}]
        assert opened.sql(query, start="+1s", end="-1s").table().to_pylist() == [
            {"from_us": micros(time_of(1)), "to_us": micros(time_of(2))}
        ]


def test_columns_and_tables_that_a_file_lacks_are_null_and_empty(tmp_path: Path) -> None:
    """As a file of an earlier version would be, beside one that has them."""
    paths = [tmp_path / "old.parquet", tmp_path / "new.parquet"]
    row = tcp(1, rcv_wnd=7) | {"sample": 0, "sample_time": time_of(0), "netns": 1}
    write_segment(paths[1], "sockets", [row | {"sample": 1}], FACTS)
    write_segment(paths[0], "sockets", [row], FACTS)
    old = pa.parquet.read_table(paths[0]).drop_columns(["rcv_wnd", "comm"])
    pa.parquet.write_table(old, paths[0])
    with analyzer.open(*paths) as opened:
        found = opened.sql("SELECT sample, comm, rcv_wnd FROM sockets ORDER BY sample").table()
        assert found.to_pylist() == [
            {"sample": 0, "comm": None, "rcv_wnd": None},
            {"sample": 1, "comm": "nginx", "rcv_wnd": 7},
        ]
        assert opened.sql("SELECT * FROM owners").table().num_rows == 0


def test_an_answer_is_a_frame_of_types_that_do_not_depend_on_the_data(tmp_path: Path) -> None:
    small(tmp_path / "r")
    with analyzer.open(tmp_path / "r") as opened:
        some = opened.sql("SELECT pid, comm, sample_time FROM sockets").df()
        none = opened.sql("SELECT pid, comm, sample_time FROM sockets WHERE false").df()
    assert list(some.dtypes) == list(none.dtypes)
    assert [str(kind) for kind in some.dtypes] == [
        "int32[pyarrow]",
        "string[pyarrow]",
        "timestamp[us][pyarrow]",
    ]
