"""What processes did, on recordings of known rows: numbers worked out by hand, and what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import analyzer
import sockrec
from analyzer.sql.catalog import read_findings
from analyzer.sql.views import Scope
from tests.analyzer.support.recordings import Row, Writer, micros, step, tcp, time_of, unix

STEPS = [step(name) for name in ("tcp", "udp", "unix", "owners", "processes")]
APP: Row = {"pid": 7, "start_us": 1, "comm": "app"}


def look(sample: int, **columns: Any) -> Row:
    """Return a row of processes, of app unless columns say otherwise."""
    facts: Row = {"since": time_of(sample - 1) if sample else None, "state": "S", "threads": 1}
    facts |= {"utime_us": 0, "stime_us": 0, "rss_bytes": 1 << 20, "fds": 10, "fd_limit": 100}
    return APP | facts | columns


def play(path: Path, looks: dict[int, dict[int, Row]], sockets: list[Row] | None = None) -> Path:
    """Write a sample a second, with what processes, by number, were found to do in some of them."""
    writer = Writer(path)
    holders = [APP | {"pid": pid} for pid in looks]
    rows = [tcp(holder["pid"], **holder) for holder in holders] if sockets is None else sockets
    for sample in range(11):
        told = [look(sample, pid=pid, **of[sample]) for pid, of in looks.items() if sample in of]
        owners = [one | {"fd_limit": 100, "valid_from": time_of(0)} for one in holders]
        writer.sample(rows, steps=STEPS, processes=told, owners=owners if sample == 0 else [])
    writer.seal()
    return path


def doing(path: Path, *spans: tuple[int, int]) -> list[dict[int, str | None]]:
    """Return what each process is said to have been doing between samples."""
    found = []
    with analyzer.open(path) as opened:
        for since, until in spans:
            begin, end = micros(time_of(since)), micros(time_of(until))
            rows = opened.sql(
                f"SELECT pid, doing(l, {begin}, {end}) AS did FROM process_looks AS l "
                f"WHERE at_us <= {end} AND until_us >= {begin} GROUP BY pid"
            )
            found.append({row["pid"]: row["did"] for row in rows.table().to_pylist()})
    return found


DID: dict[str, tuple[dict[int, Row], str | None]] = {
    "stopped": (
        {0: {}, 2: {"state": "T"}},
        "it was stopped by a signal, as SIGSTOP, for 8 s of that time",
    ),
    "stopped but for less than half": ({0: {}, 7: {"state": "T"}}, "it was idle"),
    "traced": (
        {0: {"state": "t"}},
        "it was stopped by a tracer, as a debugger, for 10 s of that time",
    ),
    "stuck": (
        {0: {"state": "D", "wchan": "nfs_wait_bit_killable"}},
        "it was in uninterruptible sleep in nfs_wait_bit_killable() for 10 s of that time",
    ),
    "stuck somewhere": (
        {0: {"state": "D"}},
        "it was in uninterruptible sleep for 10 s of that time",
    ),
    "busy": (
        {n: {"utime_us": 700_000 * n, "stime_us": 250_000 * n} for n in range(11)},
        "it used 95 % of a core",
    ),
    "busy in one thread": (
        {
            n: {
                "utime_us": 1_050_000 * n,
                "threads": 8,
                **({"busiest": 9, "busiest_comm": "io", "busiest_us": 980_000} if n > 1 else {}),
            }
            for n in range(11)
        },
        "one of its 8 threads (io) used 98 % of a core",
    ),
    "busy in one thread after the other": (
        {
            n: {"utime_us": 990_000 * n, "threads": 8, "busiest": n, "busiest_us": 980_000}
            for n in range(11)
        },
        "it used 99 % of a core with 8 threads",
    ),
    "busy in several": (
        {n: {"utime_us": 3_000_000 * n, "threads": 8} for n in range(11)},
        "it used 300 % of a core with 8 threads",
    ),
    "idle in a call": ({0: {"syscall": "futex", "syscall_threads": 1}}, "it was idle in futex()"),
    "a deadlock": (
        {0: {}, 1: {"threads": 13, "syscall": "futex", "syscall_threads": 12}},
        "it was idle: 12 of its 13 threads waited in futex()",
    ),
    "idle here and there": (
        {0: {"syscall": "futex"}, 1: {"syscall": "read"}},
        "it was idle",
    ),
    "threads that are stuck": (
        {
            n: {"utime_us": 100_000 * n, "threads": 4, "blocked": 3, "wchan": "folio_wait_bit"}
            for n in range(11)
        },
        "3 of its 4 threads were in uninterruptible sleep in folio_wait_bit(); "
        "it used 10 % of a core with 4 threads",
    ),
    "throttled": (
        {
            n: {
                "utime_us": 200_000 * n,
                "cpu_limit_us": 200_000,
                "nr_periods": 50 + 10 * n,
                "nr_throttled": 20 + 4 * n,
            }
            for n in range(11)
        },
        "its cgroup, which may use 0.20 of a core, was throttled in 40 % of its periods; "
        "it used 20 % of a core",
    ),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, str | None]]:
    path = tmp_path_factory.mktemp("done") / "r"
    play(path, {pid: looks for pid, (looks, _) in enumerate(DID.values(), 7)})
    return doing(path, (0, 10), (5, 5))


@pytest.mark.parametrize(("pid", "what"), list(enumerate(DID, 7)))
def test_what_a_process_was_doing(pid: int, what: str, done: list[dict[int, str | None]]) -> None:
    within, at_once = done
    assert within[pid] == DID[what][1]
    assert at_once[pid] is None, "a moment is no time"


def test_cpu_time_counts_as_far_as_it_lies_within(tmp_path: Path) -> None:
    """It was idle until the look before the one that says so, however long ago its row is."""
    path = play(tmp_path / "r", {7: {0: {}, 6: {"utime_us": 900_000}, 7: {"utime_us": 1_400_000}}})
    assert doing(path, (5, 6), (5, 7), (0, 5)) == [
        {7: "it used 90 % of a core"},
        {7: "it used 70 % of a core"},
        {7: "it was idle"},
    ]


def test_a_report_of_a_process(tmp_path: Path) -> None:
    looks: dict[int, Row] = {
        0: {"nr_periods": 5, "nr_throttled": 1, "cpu_limit_us": 500_000, "threads": 2},
        1: {"utime_us": 400_000, "fds": 100, "nr_periods": 15, "nr_throttled": 6, "threads": 2},
        2: {"utime_us": 400_000, "state": "T", "memory_limit_bytes": 9, "memory_limit_hits": 3},
        6: {"utime_us": 500_000, "memory_limit_bytes": 9, "memory_limit_hits": 5, "oom_kills": 1},
    }
    with analyzer.open(play(tmp_path / "r", {7: looks})) as opened:
        (row,) = opened.report("processes").table().to_pylist()
    expected = {
        "pid": 7,
        "comm": "app",
        "cores": 0.05,
        "cores_peak": 0.4,
        "stopped_s": 3.0,  # until the sample before it was found going on
        "blocked_s": 0.0,
        "threads": 1,
        "sockets_peak": 1,
        "fds_peak": 100,
        "fd_limit": 100,
        "full_s": 0.0,
        "throttled_percent": 50.0,
        "memory_limit_hits": 2,
        "since": time_of(0),
        "until": time_of(10),
    }
    assert {name: row[name] for name in expected} == expected


def test_a_recording_that_does_not_tell_says_so(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for _ in range(3):
        writer.sample([tcp(1, **APP)])
    with analyzer.open(tmp_path / "r") as opened:
        found = opened.report("processes")
        assert found.table().to_pylist() == []
        assert opened.sql("SELECT * FROM process_looks").table().num_rows == 0


@pytest.mark.parametrize("end", [None, 8])
def test_a_scope_bounds_what_is_told(end: int | None, tmp_path: Path) -> None:
    path = play(tmp_path / "r", {7: {0: {}, 2: {"fds": 50}, 9: {"fds": 60}}})
    with analyzer.open(path) as opened:
        scope = Scope(micros(time_of(4)), None if end is None else micros(time_of(end)))
        rows = opened.engine.table(
            "SELECT fds, at_us, until_us FROM process_looks ORDER BY at_us", scope
        ).to_pylist()
    told = [(row["fds"], row["at_us"], row["until_us"]) for row in rows]
    at = [micros(time_of(n)) for n in range(11)]
    both = [(50, at[2], at[8]), (60, at[9], at[10])]
    assert told == (both if end is None else [(50, at[2], at[7])])


def test_a_cut_keeps_the_look_that_holds_when_it_begins(tmp_path: Path) -> None:
    path = play(tmp_path / "r", {7: {0: {}, 2: {"fds": 50}, 5: {"fds": 60}}, 8: {0: {}, 9: {}}})
    words = ["cut", str(path), "-o", str(tmp_path / "cut"), "--from", "+4s", "--to", "+8s"]
    done = CliRunner().invoke(sockrec.app, words, prog_name="sockrec")
    assert done.exit_code == 0, done.output
    query = "SELECT pid, fds, at_us, until_us, cpu_us FROM process_looks ORDER BY pid, at_us"
    scope = Scope(micros(time_of(4)), micros(time_of(8)))
    with analyzer.open(path) as whole, analyzer.open(tmp_path / "cut") as cut:
        rows = whole.engine.table(query, scope).to_pylist()
        assert cut.engine.table(query).to_pylist() == rows
        assert [(row["pid"], row["fds"]) for row in rows] == [(7, 50), (7, 60), (8, 10)]
        assert cut.engine.table("SELECT count(*) AS n FROM raw.processes").to_pylist() == [{"n": 3}]


def ask(path: Path, name: str) -> list[Row]:
    finding = read_findings()[name]
    with analyzer.open(path) as opened:
        rows = opened.engine.table(finding.sql, Scope(), finding.values({}), few=True)
        return list(rows.to_pylist())


def test_what_was_before_the_first_look_is_held_against_nothing(tmp_path: Path) -> None:
    """As of a queue whose first had waited for a minute when the recording began."""
    looks: dict[int, dict[int, Row]] = {
        7: {0: {"state": "T"}},
        8: {0: {"utime_us": 0}, 8: {"utime_us": 8_000_000}},
        9: {4: {"state": "D", "wchan": "nfs_wait"}},
    }
    (did,) = doing(play(tmp_path / "r", looks), (-60, 8))
    assert did == {
        7: "it was stopped by a signal, as SIGSTOP, for 8 s of that time",
        8: "it used 100 % of a core",
        9: "it was in uninterruptible sleep in nfs_wait() for 4 s of that time",
    }


def test_a_full_queue_says_what_its_process_did(tmp_path: Path) -> None:
    doors = [
        door
        for pid in (7, 8, 9)
        for door in (
            tcp(pid, "LISTEN", local_port=pid, send_q=16, recv_q=17, **APP | {"pid": pid}),
            unix(10 + pid, state="LISTEN", send_q=16, recv_q=17, **APP | {"pid": pid}),
        )
    ]
    # of the last one a socket of the last number was there, but others were free
    doors.append(tcp(20, **APP | {"pid": 9, "fd": 99}))
    looks: dict[int, dict[int, Row]] = {
        7: {0: {"state": "T"}},
        8: {0: {"fds": 99}, 1: {"fds": 100}},
        9: {0: {"fds": 50}},
    }
    path = play(tmp_path / "r", looks, doors)
    for finding in ("accept_queue", "unix_backlog"):
        said = {row["pid"]: row["sentence"] for row in ask(path, finding)}
        assert said[7].endswith("; it was stopped by a signal, as SIGSTOP, for 10 s of that time")
        none = "app (pid 8) has no descriptor left (100 of 100), so that accept() fails"
        assert said[8].startswith(none)
        assert said[8].endswith("; it was idle")
        assert "no descriptor left" not in said[9]


def test_a_leak_counts_files_and_pipes(tmp_path: Path) -> None:
    most = {7: 79, 8: 80, 9: 95}
    rows = [
        tcp(100 * pid + n, owner_by="fd", **APP | {"pid": pid}) for pid in most for n in range(30)
    ]
    looks: dict[int, dict[int, Row]] = {
        pid: {0: {"fds": 40}, 5: {"fds": fds}} for pid, fds in most.items()
    }
    looks[9] = {1: looks[9][0], 5: looks[9][5]}  # left out at first
    path = play(tmp_path / "r", looks, rows)
    found = {row["pid"]: row for row in ask(path, "descriptor_leak")}
    assert {pid: row["severity"] for pid, row in found.items()} == {8: "warning", 9: "critical"}
    assert found[9]["measured"] == 95
    assert found[9]["sentence"].startswith(
        "app (pid 9) holds 95 descriptors of the 100 it may have (95 %), 40 at the beginning; "
        "30 of them are sockets, all of them tcp on 127.0.0.1:80"
    )
    with analyzer.open(path) as opened:
        lines = opened.report("process_sockets").table().to_pylist()
    assert {line["pid"]: line["limit_percent"] for line in lines} == most


@pytest.mark.parametrize(
    ("first", "said"),
    [
        # of six samples of eleven it is known: not of the first ones
        (
            5,
            "95 descriptors of the 100 it may have (95 %); 30 of them are sockets",
        ),
        (6, None),
    ],
)
def test_sockets_and_descriptors_are_no_series(
    first: int, said: str | None, tmp_path: Path
) -> None:
    """Of five samples of eleven only the sockets count, in all of them."""
    rows = [tcp(n, owner_by="fd", **APP) for n in range(30)]
    looks: dict[int, dict[int, Row]] = {7: {0: {"fds": None}, first: {"fds": 95}}}
    path = play(tmp_path / "r", looks, rows)
    told = [row["sentence"].partition(", ")[0] for row in ask(path, "descriptor_leak")]
    assert told == ([f"app (pid 7) holds {said}"] if said else [])
