"""The shipped reports on tiny recordings: numbers worked out by hand, and goldens."""

import io
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

import analyzer
from analyzer.catalog import read_catalog
from analyzer.render import Format, write
from tests.analyzer.recordings import Writer, small, step, tcp, time_of, unix, unowned

OK = [step(name) for name in ("tcp", "udp", "udp6", "unix", "owners")]


def without(*broken: str, outcome: str = "unavailable") -> list[dict[str, Any]]:
    """Return the steps of a sample in which some could not see their table."""
    return [row | ({"outcome": outcome} if row["step"] in broken else {}) for row in OK]


def report(path: Path, name: str, **options: Any) -> list[dict[str, Any]]:
    with analyzer.open(path) as opened:
        rows: list[dict[str, Any]] = opened.report(name, **options).table().to_pylist()
    return rows


def states(path: Path, *columns: str, **options: Any) -> list[tuple[Any, ...]]:
    return [tuple(row[c] for c in columns) for row in report(path, "states", **options)]


def test_states_counts_per_sample_and_a_state_that_is_absent_is_zero(tmp_path: Path) -> None:
    small(tmp_path / "r")  # ESTAB 1, 2, 3, 4; LISTEN 1 throughout; TIME-WAIT 0, 0, 0, 1
    found = states(
        tmp_path / "r", "time", "state", "min", "avg", "max", "last", "samples", interval=2
    )
    assert found == [
        (time_of(0), "ESTAB", 1, 1.5, 2, 2, 2),
        (time_of(2), "ESTAB", 3, 3.5, 4, 4, 2),
        (time_of(0), "LISTEN", 1, 1.0, 1, 1, 2),
        (time_of(2), "LISTEN", 1, 1.0, 1, 1, 2),
        (time_of(0), "TIME-WAIT", 0, 0.0, 0, 0, 2),
        (time_of(2), "TIME-WAIT", 0, 0.5, 1, 1, 2),
    ]


def test_states_makes_ten_slices_of_the_whole_time(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for _ in range(40):
        writer.sample([tcp(1)])
    found = states(tmp_path / "r", "time", "samples")
    assert [count for _, count in found] == [4] * 10
    assert [time for time, _ in found] == [time_of(n) for n in range(0, 40, 4)]


def test_states_of_one_sample(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1), unix(2)])
    assert states(tmp_path / "r", "netid", "state", "last") == [
        ("tcp", "ESTAB", 1),
        ("u_str", "ESTAB", 1),
    ]


def test_states_shows_what_could_not_be_seen_as_unknown_not_as_zero(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1), tcp(2), unix(9)])
    writer.sample([unix(9)], steps=without("tcp"))
    writer.sample([tcp(1), unix(9)], steps=without("tcp", outcome="truncated"))
    writer.sample([tcp(1), tcp(2), tcp(3), unix(9)])
    columns = ("netid", "min", "max", "last", "samples", "unknown")
    assert states(tmp_path / "r", *columns, interval=10) == [
        ("tcp", 2, 3, 3, 2, 2),
        ("u_str", 1, 1, 1, 4, 0),
    ]
    assert states(tmp_path / "r", "netid", "min", "last", "samples", "unknown", interval=1)[:4] == [
        ("tcp", 2, 2, 1, 0),
        ("tcp", None, None, 0, 1),
        ("tcp", None, None, 0, 1),
        ("tcp", 3, 3, 1, 0),
    ]


def test_states_names_a_kind_that_was_never_seen(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for _ in range(2):
        writer.sample([tcp(1)], steps=without("unix", "udp6"))
    columns = ("netid", "state", "max", "samples", "unknown")
    assert states(tmp_path / "r", *columns, interval=10) == [
        ("tcp", "ESTAB", 1, 2, 0),
        ("udp", None, None, 0, 2),
        ("unix", None, None, 0, 2),
    ]


def test_states_counts_no_baseline_rows(tmp_path: Path) -> None:
    small(tmp_path / "r")
    columns = ("time", "state", "min", "max", "samples")
    assert states(tmp_path / "r", *columns, start="+2s", end="+3s") == [
        (time_of(2), "ESTAB", 3, 3, 1),
        (time_of(2), "LISTEN", 1, 1, 1),
    ]


def test_states_of_a_file_of_sockets_alone(tmp_path: Path) -> None:
    small(tmp_path / "r").seal()
    whole = report(tmp_path / "r", "states", interval=2)
    assert report(tmp_path / "r/sockets/000001.parquet", "states", interval=2) == whole


def holders(path: Path, *columns: str, **options: Any) -> list[tuple[Any, ...]]:
    return [tuple(row[c] for c in columns) for row in report(path, "process_sockets", **options)]


@pytest.fixture
def processes(tmp_path: Path) -> Path:
    """Return a recording of three samples: nginx grows, redis comes and goes, some have nobody."""
    writer = Writer(tmp_path / "r")
    nginx: dict[str, Any] = {"rmem_alloc": 100, "fwd_alloc": 10, "optmem": 1, "backlog": 1000}
    nginx |= {"wmem_alloc": 0, "wmem_queued": 5}
    redis: dict[str, Any] = {"pid": 200, "start_us": 7_000_000, "comm": "redis"}
    for sample in range(3):
        writer.sample(
            [
                tcp(1, "LISTEN"),
                *(tcp(10 + n, **nginx) for n in range(2 + sample)),
                *([tcp(30 + n, **redis) for n in range(9)] if sample == 1 else []),
                *([unix(40, **redis)] if sample < 2 else []),
                *(unowned(50 + n, "TIME-WAIT") for n in range(sample)),
                unowned(60, "ESTAB", inode=777),
            ]
        )
    return tmp_path / "r"


def test_process_sockets_counts_first_peak_and_last(processes: Path) -> None:
    columns = ("comm", "owner", "netid", "state", "first", "peak", "last", "growth", "peak_time")
    assert holders(processes, *columns) == [
        ("redis", "process", "tcp", "ESTAB", 0, 9, 0, 0, time_of(1)),
        ("redis", "process", "u_str", "ESTAB", 1, 1, 0, -1, time_of(0)),
        ("nginx", "process", "tcp", "ESTAB", 2, 4, 4, 2, time_of(2)),
        ("nginx", "process", "tcp", "LISTEN", 1, 1, 1, 0, time_of(0)),
        (None, "none", "tcp", "TIME-WAIT", 0, 2, 2, 2, time_of(2)),
        (None, "unknown", "tcp", "ESTAB", 1, 1, 1, 0, time_of(0)),
    ]


def test_process_sockets_adds_up_memory_and_share(processes: Path) -> None:
    columns = ("pid", "comm", "state", "memory_peak", "memory_last", "share_percent")
    found = holders(processes, *columns)
    # A socket of nginx holds 100 + 10 + 1 + 1000 + the larger of 0 and 5; 8 sockets at the end.
    assert found[2] == (100, "nginx", "ESTAB", 4 * 1116, 4 * 1116, 50.0)
    assert found[4] == (None, None, "TIME-WAIT", None, None, 25.0)
    assert sum(row[-1] for row in found) == 100.0


def test_process_sockets_lists_the_top_ones(processes: Path) -> None:
    assert {row[0] for row in holders(processes, "comm", top=1)} == {"redis"}
    assert len(holders(processes, "comm", top=0)) == 6


def test_process_sockets_tells_processes_of_one_number_apart(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1), tcp(2)])
    writer.sample([tcp(3, start_us=9_000_000, comm="bash")])
    assert holders(tmp_path / "r", "pid", "comm", "first", "last") == [
        (100, "nginx", 2, 0),
        (100, "bash", 0, 1),
    ]


def test_process_sockets_takes_the_ends_from_samples_that_saw_the_table(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([], steps=without("tcp"))
    writer.sample([tcp(1), tcp(2)])
    writer.sample([tcp(1), tcp(2), tcp(3)])
    writer.sample([tcp(1)], steps=without("tcp", outcome="corrupt"))
    assert holders(tmp_path / "r", "first", "peak", "last") == [(2, 3, 3)]
    blind = Writer(tmp_path / "blind")
    blind.sample([tcp(1)], steps=without("tcp", outcome="busy"))
    columns = ("first", "peak", "last", "growth", "share_percent")
    assert holders(tmp_path / "blind", *columns) == [(None, 1, None, None, None)]


@pytest.mark.parametrize("name", read_catalog())
def test_golden(name: str, processes: Path, snapshot: SnapshotAssertion) -> None:
    out = io.StringIO()
    with (
        analyzer.open(processes) as opened,
        opened.report(name).batches() as (schema, batches),
    ):
        write(schema, batches, Format.table, out)
    assert out.getvalue() == snapshot
