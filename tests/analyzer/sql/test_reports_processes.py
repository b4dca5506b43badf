"""The reports of processes, kinds of sockets and counters: numbers worked out by hand, goldens."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from syrupy.assertion import SnapshotAssertion

import analyzer
from analyzer.screen.render import Format, write
from tests.analyzer.support.recordings import (
    NETNS,
    Row,
    Writer,
    carried,
    counter,
    step,
    tcp,
    time_of,
    unix,
    unowned,
)

TABLES = ("tcp", "udp", "udp6", "unix", "owners")
COUNTED = [step(name) for name in ("counters", *TABLES, "counters_after")]
NAMES = (
    "process_sockets",
    "memory",
    "udp_drops",
    "unix_sockets",
    "orphans",
    "counters",
    "states",
)


def report(path: Path, name: str, *columns: str, **options: Any) -> list[tuple[Any, ...]]:
    with analyzer.open(path) as opened:
        rows: list[dict[str, Any]] = opened.report(name, **options).table().to_pylist()
    return [tuple(row[column] for column in columns) for row in rows]


def without(*broken: str, outcome: str = "unavailable") -> list[Row]:
    """Return the steps of a sample in which some could not see their table."""
    steps = [step(name) for name in TABLES]
    return [row | ({"outcome": outcome} if row["step"] in broken else {}) for row in steps]


def golden(path: Path, name: str, **options: Any) -> str:
    out = io.StringIO()
    with (
        analyzer.open(path) as opened,
        opened.report(name, **options).batches() as (schema, batches),
    ):
        write(schema, batches, Format.table, out)
    return out.getvalue()


TOLD = {
    "sockets": {"process_sockets", "udp_drops", "unix_sockets", "orphans", "states"},
    "samples": {"orphans"},
    "counters": {"udp_drops", "counters"},
    "owners": set[str](),
    "settings": set[str](),
}
"""Which reports have something to say of the file of one table."""


@pytest.mark.parametrize("only", TOLD)
def test_reports_run_on_the_file_of_one_table(only: str, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for value in range(3):
        writer.sample(
            [tcp(1), tcp(2, "LISTEN"), udp(3, drops=value), unix(4), unowned(5, "FIN-WAIT-1")],
            steps=COUNTED,
            owners=[{"pid": 100, "start_us": 5_000_000, "fd_limit": 64, "valid_from": time_of(0)}],
            counters=[counter("Udp.RcvbufErrors", value)],
            settings=[{"netns": 0, "name": "net.ipv4.tcp_max_orphans", "value": "10"}],
        )
    writer.seal()
    with analyzer.open(tmp_path / f"r/{only}/000001.parquet") as opened:
        told = {name for name in NAMES if opened.report(name).table().num_rows}
    assert told == TOLD[only]


def test_reports_run_on_a_recording_of_version_1(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r", version=1)
    for _ in range(2):
        writer.sample([tcp(1), unowned(2, "LAST-ACK"), unix(3), udp(4)], owners=[{"pid": 100}])
    with analyzer.open(tmp_path / "r") as opened:
        found = {name: opened.report(name).table().to_pylist() for name in NAMES}
    assert [row["fd_limit"] for row in found["process_sockets"]] == [None] * 4
    assert [row["kernel_peak"] for row in found["orphans"]] == [None] * 2
    assert found["counters"] == found["memory"] == []


def udp(cookie: int, **columns: Any) -> Row:
    """Return a UDP socket that reads all it gets."""
    own = {"netid": "udp", "local_port": 53, "rcvbuf": 1000, "drops": 0}
    return tcp(cookie, "UNCONN") | own | columns


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
    assert report(processes, "process_sockets", *columns) == [
        ("redis", "process", "tcp", "ESTAB", 0, 9, 0, 0, time_of(1)),
        ("redis", "process", "u_str", "ESTAB", 1, 1, 0, -1, time_of(0)),
        ("nginx", "process", "tcp", "ESTAB", 2, 4, 4, 2, time_of(2)),
        ("nginx", "process", "tcp", "LISTEN", 1, 1, 1, 0, time_of(0)),
        (None, "none", "tcp", "TIME-WAIT", 0, 2, 2, 2, time_of(2)),
        (None, "unknown", "tcp", "ESTAB", 1, 1, 1, 0, time_of(0)),
    ]


def test_process_sockets_adds_up_memory_and_share(processes: Path) -> None:
    columns = ("pid", "comm", "state", "memory_peak_bytes", "memory_last_bytes", "share_percent")
    found = report(processes, "process_sockets", *columns)
    # A socket of nginx holds 100 + 10 + 1 + 1000 + the larger of 0 and 5; 8 sockets at the end.
    assert found[2] == (100, "nginx", "ESTAB", 4 * 1116, 4 * 1116, 50.0)
    assert found[4] == (None, None, "TIME-WAIT", None, None, 25.0)
    assert sum(row[-1] for row in found) == 100.0


def test_process_sockets_says_how_an_owner_is_known(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample(
        [
            tcp(1, owner_by="fd"),
            tcp(2),  # as in version 1, which knew owners by their descriptors only
            carried(3, "TIME-WAIT"),
            carried(4, "ESTAB", "listener"),
            carried(5, "ESTAB", "listener"),
            unowned(6, "TIME-WAIT"),
            unowned(7, "ESTAB", inode=7),
        ]
    )
    columns = ("pid", "owner", "state", "last", "share_percent")
    assert report(tmp_path / "r", "process_sockets", *columns) == [
        (100, "listener", "ESTAB", 2, 28.6),
        (100, "process", "ESTAB", 2, 28.6),
        (100, "carried", "TIME-WAIT", 1, 14.3),
        (None, "unknown", "ESTAB", 1, 14.3),
        (None, "none", "TIME-WAIT", 1, 14.3),
    ]


def test_process_sockets_lists_the_top_ones(processes: Path) -> None:
    assert {row[0] for row in report(processes, "process_sockets", "comm", top=1)} == {"redis"}
    assert len(report(processes, "process_sockets", "comm", top=0)) == 6


def test_process_sockets_tells_processes_of_one_number_apart(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1), tcp(2)])
    writer.sample([tcp(3, start_us=9_000_000, comm="bash")])
    assert report(tmp_path / "r", "process_sockets", "pid", "comm", "first", "last") == [
        (100, "nginx", 2, 0),
        (100, "bash", 0, 1),
    ]


def test_process_sockets_takes_the_ends_from_samples_that_saw_the_table(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([], steps=without("tcp"))
    writer.sample([tcp(1), tcp(2)])
    writer.sample([tcp(1), tcp(2), tcp(3)])
    writer.sample([tcp(1)], steps=without("tcp", outcome="corrupt"))
    assert report(tmp_path / "r", "process_sockets", "first", "peak", "last") == [(2, 3, 3)]
    blind = Writer(tmp_path / "blind")
    blind.sample([tcp(1)], steps=without("tcp", outcome="busy"))
    columns = ("first", "peak", "last", "growth", "share_percent")
    assert report(tmp_path / "blind", "process_sockets", *columns) == [(None, 1, None, None, None)]


LEAK: Row = {"pid": 300, "start_us": 8_000_000, "comm": "leaky"}


def owner(limit: int | None, **columns: Any) -> Row:
    return {"start_us": 5_000_000, "fd_limit": limit, "valid_from": time_of(0)} | columns


@pytest.fixture
def leak(tmp_path: Path) -> Path:
    """Return four samples: leaky holds 20, 40, 60 and 80 of its 100, nginx 200 of many."""
    writer = Writer(tmp_path / "r")
    for sample in range(4):
        writer.sample(
            [
                *(tcp(n) for n in range(200)),
                *(udp(1000 + n, **LEAK) for n in range(20 * (sample + 1) - 1)),
                tcp(2000, "LISTEN", **LEAK),
                # Neither takes a descriptor of it.
                carried(2001, "TIME-WAIT", **LEAK),
                carried(2002, "ESTAB", "listener", **LEAK),
            ],
            owners=[owner(100, **LEAK), owner(1_000_000, pid=100)] if sample == 0 else [],
        )
    return tmp_path / "r"


def test_process_sockets_puts_who_comes_near_its_limit_first(leak: Path) -> None:
    columns = ("comm", "netid", "state", "last", "fd_limit", "limit_percent", "limit_in_s")
    # 60 more in 3 s, and 20 are left.
    assert report(leak, "process_sockets", *columns) == [
        ("leaky", "udp", "UNCONN", 79, 100, 80.0, 1.0),
        ("leaky", "tcp", "ESTAB", 1, 100, 80.0, 1.0),
        ("leaky", "tcp", "LISTEN", 1, 100, 80.0, 1.0),
        ("leaky", "tcp", "TIME-WAIT", 1, 100, 80.0, 1.0),
        ("nginx", "tcp", "ESTAB", 200, 1_000_000, 0.0, None),
    ]
    assert report(leak, "process_sockets", "comm", top=1) == [("leaky",)] * 4


def test_process_sockets_by_process(leak: Path) -> None:
    columns = ("comm", "owner", "netid", "first", "peak", "last", "growth", "limit_percent")
    assert report(leak, "process_sockets", *columns, by="process") == [
        ("leaky", "process", None, 22, 82, 82, 60, 80.0),
        ("nginx", "process", None, 200, 200, 200, 0, 0.0),
    ]


def test_process_sockets_by_process_has_the_peak_of_all_together(processes: Path) -> None:
    columns = ("comm", "owner", "first", "peak", "last", "peak_time", "share_percent")
    assert report(processes, "process_sockets", *columns, by="process") == [
        ("redis", "process", 1, 10, 0, time_of(1), 0.0),
        ("nginx", "process", 3, 5, 5, time_of(2), 62.5),
        (None, "none", 0, 2, 2, time_of(2), 25.0),
        (None, "unknown", 1, 1, 1, time_of(0), 12.5),
    ]


def test_process_sockets_over_time(leak: Path) -> None:
    columns = ("time", "comm", "state", "first", "peak", "last", "growth", "limit_percent")
    found = report(leak, "process_sockets", *columns, by="time", interval=2, top=1)
    assert found[:4] == [
        (time_of(0), "leaky", "UNCONN", 19, 39, 39, 20, 40.0),
        (time_of(2), "leaky", "UNCONN", 59, 79, 79, 20, 80.0),
        (time_of(0), "leaky", "ESTAB", 1, 1, 1, 0, 40.0),
        (time_of(2), "leaky", "ESTAB", 1, 1, 1, 0, 80.0),
    ]
    assert len(found) == 8
    assert {row[0] for row in report(leak, "process_sockets", "time")} == {None}


def test_process_sockets_over_time_tells_none_from_unknown(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1), tcp(2)])
    writer.sample([tcp(3, comm="late", pid=7)])
    writer.sample([], steps=without("tcp"))
    columns = ("comm", "first", "peak", "last")
    assert report(tmp_path / "r", "process_sockets", *columns, by="time", interval=1) == [
        ("nginx", 2, 2, 2),
        ("nginx", 0, 0, 0),
        ("nginx", None, None, None),
        ("late", 0, 0, 0),
        ("late", 1, 1, 1),
        ("late", None, None, None),
    ]


def test_process_sockets_forecasts_nothing_for_who_has_ended_or_has_no_limit(
    tmp_path: Path,
) -> None:
    writer = Writer(tmp_path / "r")
    ended: Row = {"pid": 5, "comm": "ended"}
    other: Row = {"pid": 6, "comm": "other"}
    owners = [owner(10, **ended), owner(None, **other)]
    writer.sample([tcp(1, **ended), tcp(2, **other)], owners=owners)
    writer.sample([tcp(1, **ended), tcp(3, **ended), tcp(2, **other), tcp(4, **other)])
    writer.sample([tcp(2, **other), tcp(4, **other), tcp(5, **other)])
    columns = ("comm", "growth", "fd_limit", "limit_percent", "limit_in_s")
    assert report(tmp_path / "r", "process_sockets", *columns) == [
        ("other", 2, None, None, None),
        ("ended", -1, 10, 20.0, None),
    ]


@pytest.mark.parametrize(
    ("levels", "forecast"),
    [
        ((10, 20, 30, 40, 50), 5.0),
        ((10, 30, 50, 50, 50), None),
        # It fell by as much as it rose.
        ((50, 40, 30, 30, 40, 50), None),
        # A rise that has stopped.
        ((*range(10, 70, 5), 68, 69, 69, 70), None),
    ],
)
@pytest.mark.parametrize("by", ["kind", "process"])
def test_process_sockets_forecasts_only_growth_that_goes_on(
    levels: tuple[int, ...], forecast: float | None, by: str, tmp_path: Path
) -> None:
    writer = Writer(tmp_path / "r")
    for level in levels:
        writer.sample([tcp(n, **LEAK) for n in range(level)], owners=[owner(100, **LEAK)])
    assert report(tmp_path / "r", "process_sockets", "limit_in_s", by=by) == [(forecast,)]


def test_process_sockets_tells_the_kernels_own_sockets_apart(tmp_path: Path) -> None:
    none = dict.fromkeys(("pid", "start_us", "comm"))
    kernel = {"family": "netlink", "netid": "nl", "local_id": 0, "inode": 8} | none
    writer = Writer(tmp_path / "r")
    netlink = [tcp(n, "UNCONN", **kernel) for n in range(9)]
    carrier = tcp(21, owner_by="kernel", inode=9) | none  # of SMC
    writer.sample([tcp(20), carrier, *netlink], steps=[step("tcp"), step("netlink")])
    assert report(tmp_path / "r", "process_sockets", "owner", "netid", "last") == [
        ("process", "tcp", 1),
        ("kernel", "nl", 9),
        ("kernel", "tcp", 1),
    ]


def test_process_sockets_does_not_count_what_was_before_the_scope(leak: Path) -> None:
    columns = ("comm", "first", "last", "growth", "limit_in_s")
    found = report(leak, "process_sockets", *columns, start="+2s", by="process")
    # the pace is judged by the later half of the time, in which there is one sample only
    assert found == [("leaky", 62, 82, 20, None), ("nginx", 200, 200, 0, None)]


def skmem(received: int = 0, unsent: int = 0, reserved: int = 0, **columns: Any) -> Row:
    """Return buffer memory; half of what is unsent is with the lower layers too, counted once."""
    return {
        "rmem_alloc": received,
        "backlog": 0,
        "wmem_queued": unsent,
        "wmem_alloc": unsent // 2,
        "fwd_alloc": reserved,
        "optmem": 0,
    } | columns


PRESSED = [
    counter("TcpExt.TCPMemoryPressures", 0, source="netstat"),
    counter("TcpExt.PruneCalled", 5, source="netstat"),
    counter("TcpExt.RcvPruned", 0, source="netstat"),
]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Return three samples in which nginx has 100, 5000 and 700 bytes, redis 300 and then none."""
    redis: Row = {"pid": 200, "comm": "redis"}
    writer = Writer(tmp_path / "r")
    writer.sample(
        [tcp(1, **skmem(100)), tcp(2, **skmem(300), **redis), unowned(3, "TIME-WAIT")],
        steps=COUNTED,
        counters=[*PRESSED, counter("TCP.mem", 1, source="sockstat")],
        settings=[{"netns": 0, "name": "net.ipv4.tcp_mem", "value": "1 3 8"}],
    )
    writer.sample(
        [tcp(1, **skmem(1000, 3000, 500)), tcp(4, **skmem(0, 400, 100)), unix(5, **skmem(0, 50))],
        steps=COUNTED,
        counters=[
            counter("TCP.mem", 4, source="sockstat"),
            counter("TcpExt.TCPMemoryPressures", 2, source="netstat"),
            counter("TcpExt.PruneCalled", 12, source="netstat"),
        ],
    )
    writer.sample(
        [tcp(1, **skmem(700)), carried(2, "TIME-WAIT", **redis)],
        steps=COUNTED,
        counters=[counter("TCP.mem", 2, source="sockstat")],
    )
    return tmp_path / "r"


def test_memory_adds_up_what_each_socket_is_charged_for(filled: Path) -> None:
    columns = ("comm", "kind", "sockets", "first_bytes", "peak_bytes", "last_bytes", "growth_bytes")
    assert report(filled, "memory", *columns) == [
        ("host", "tcp", 2, 400, 5000, 700, 300),
        ("nginx", "tcp", 2, 100, 5000, 700, 600),
        ("nginx", "unix", 1, 0, 50, 0, 0),
        ("redis", "tcp", 1, 300, 300, 0, -300),
    ]
    parts = ("received_bytes", "unsent_bytes", "reserved_bytes", "share_percent", "peak_time")
    assert report(filled, "memory", *parts)[:2] == [
        (1000, 3400, 600, None, time_of(1)),
        (1000, 3400, 600, 100.0, time_of(1)),
    ]
    assert report(filled, "memory", "comm", top=1) == [("host",), ("nginx",), ("nginx",)]


def test_memory_is_compared_with_the_limits_of_the_kernel(filled: Path) -> None:
    columns = ("kernel_bytes", "pressure_bytes", "limit_bytes", "limit_percent", "says")
    said = "above the mark of pressure; 2 times under pressure; 7 receive queues squeezed"
    page = 4096
    found = report(filled, "memory", *columns)
    assert found[0] == (4 * page, 3 * page, 8 * page, 50.0, said)
    assert found[1] == (None, None, None, 15.3, None)


def test_memory_counts_what_the_kernel_did_since_the_sample_before_the_scope(filled: Path) -> None:
    columns = ("peak_bytes", "kernel_bytes", "says")
    assert report(filled, "memory", *columns, start="+2s")[0] == (700, 8192, "nothing")
    assert report(filled, "memory", *columns, start="+1s")[0] == (
        5000,
        16384,
        "above the mark of pressure; 2 times under pressure; 7 receive queues squeezed",
    )


def test_memory_that_the_kernel_does_not_tell_is_nothing(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1), unix(2, **skmem(5, 0, 0)), tcp(3, **skmem(7, optmem=None))])
    assert report(tmp_path / "r", "memory", "comm", "kind", "peak_bytes", "limit_bytes") == [
        ("nginx", "unix", 5, None),
    ]
    broken = Writer(tmp_path / "broken")
    settings = [{"netns": 0, "name": "net.ipv4.tcp_mem", "value": "many"}]
    broken.sample([tcp(1, **skmem(7))], settings=settings)
    columns = ("comm", "peak_bytes", "kernel_bytes", "limit_bytes", "limit_percent", "says")
    assert report(tmp_path / "broken", "memory", *columns)[0] == ("host", 7, *[None] * 4)


def test_memory_takes_the_ends_from_samples_that_saw_the_table(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([], steps=without("tcp"))
    writer.sample([tcp(1, **skmem(5))])
    writer.sample([tcp(1, **skmem(9))], steps=without("tcp", outcome="truncated"))
    columns = ("first_bytes", "peak_bytes", "last_bytes")
    assert report(tmp_path / "r", "memory", *columns)[1] == (5, 9, 5)


def udp_counters(dropped: int, received: int, **columns: Any) -> list[Row]:
    return [
        counter("Udp.RcvbufErrors", dropped, **columns),
        counter("Udp.InErrors", dropped + 1, **columns),
        counter("Udp.MemErrors", 0, **columns),
        counter("Udp.SndbufErrors", 3, **columns),
        counter("Udp.InDatagrams", received, **columns),
    ]


@pytest.fixture
def dropping(tmp_path: Path) -> Path:
    """Return four samples of a slow reader, a bursty socket, a new one, a quiet one, an old kernel.

    Their drops from first to last: 10 → 110, 0 → 5, born → 7, 4 → 4, not told.
    """
    slow = {"comm": "slow", "pid": 1, "local_port": 1}
    writer = Writer(tmp_path / "r")
    for sample in range(4):
        writer.sample(
            [
                udp(1, drops=(10, 10, 90, 110)[sample], recv_q=(0, 950, 990, 0)[sample], **slow),
                udp(2, comm="bursty", drops=(0, 0, 0, 5)[sample], recv_q=100),
                *([udp(3, comm="new", drops=7, recv_q=1000)] if sample >= 2 else []),
                udp(4, comm="quiet", drops=4, recv_q=200),
                udp(5, comm="old", drops=None, rcvbuf=None),
            ],
            steps=COUNTED,
            counters=[
                *udp_counters((10, 10, 97, 122)[sample], 1000 * sample),
                *([counter("Udp6RcvbufErrors", sample, source="snmp6")] if sample < 2 else []),
            ],
        )
    return tmp_path / "r"


def test_udp_drops_names_who_lost_how_much_and_why(dropping: Path) -> None:
    columns = ("comm", "drops", "verdict", "since", "until", "full_samples", "drops_before")
    assert report(dropping, "udp_drops", *columns) == [
        ("slow", 100, "reads too slowly", time_of(2), time_of(3), 2, 10),
        ("new", 7, "reads too slowly", time_of(2), time_of(2), 2, 0),
        ("bursty", 5, "overrun by bursts", time_of(3), time_of(3), 0, 0),
        ("quiet", 0, "no drops", None, None, 0, 4),
        ("old", None, "unknown", None, None, None, None),
    ]
    more = ("peak_per_s", "peak_time", "recv_q_peak_bytes", "rcvbuf_bytes", "samples")
    assert report(dropping, "udp_drops", *more, top=3) == [
        (80.0, time_of(2), 990, 1000, 4),
        (0.0, None, 1000, 1000, 2),
        (5.0, time_of(3), 100, 1000, 4),
    ]


def test_udp_drops_stand_beside_the_counters_of_both_protocols(dropping: Path) -> None:
    counted = ("rcvbuf_errors", "in_errors", "mem_errors", "sndbuf_errors", "loss_percent")
    columns = tuple(f"namespace_{name}" for name in counted)
    # 112 over IPv4 and 1 over IPv6; 112 of 3112 datagrams.
    assert report(dropping, "udp_drops", *columns, top=1) == [(113, 112, 0, 0, 3.6)]


def test_udp_drops_count_from_the_sample_before_the_scope(dropping: Path) -> None:
    columns = ("comm", "drops", "drops_before", "namespace_rcvbuf_errors")
    assert report(dropping, "udp_drops", *columns, start="+3s", top=2) == [
        ("slow", 20, 90, 25),
        ("bursty", 5, 0, 25),
    ]


def test_udp_drops_of_sockets_that_no_sample_shows_have_a_line(tmp_path: Path) -> None:
    box = NETNS + 1
    writer = Writer(tmp_path / "r")
    for value in (0, 30):
        counters = [*udp_counters(value, 0), *udp_counters(value, 0, netns=box)]
        steps = [*COUNTED, *(row | {"netns": box} for row in COUNTED)]
        writer.sample([udp(1, drops=value), udp(2, netns=box)], steps=steps, counters=counters)
    columns = ("netns", "local_port", "drops", "verdict")
    unseen = "drops of sockets no sample shows"
    assert report(tmp_path / "r", "udp_drops", *columns) == [
        (NETNS, 53, 30, "overrun by bursts"),
        (box, None, 30, unseen),
        (box, 53, 0, "no drops"),
    ]
    # Of those that were not asked for nothing is said.
    found = report(tmp_path / "r", "udp_drops", *columns, where="cookie = 2")
    assert found == [(box, 53, 0, "no drops")]


def test_udp_drops_without_counters_are_those_of_the_sockets(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for drops in (1, 3):
        writer.sample([udp(1, drops=drops)])
    columns = ("drops", "namespace_rcvbuf_errors", "namespace_in_errors", "namespace_loss_percent")
    assert report(tmp_path / "r", "udp_drops", *columns) == [(2, None, None, None)]


SERVER: Row = {"pid": 1, "comm": "server", "local_addr": "/run/s"}
CLIENT: Row = {"pid": 2, "comm": "client", "local_addr": None}


def pair(number: int, *, client: Row = CLIENT, unread: int = 0, netid: str = "u_str") -> list[Row]:
    """Return both ends of a connection; the server has not read ``unread`` bytes."""
    ends = {"netid": netid, "state": "ESTAB"}
    served = {"inode": number, "peer_inode": number + 1, "recv_q": unread}
    asking = {"inode": number + 1, "peer_inode": number, "send_q": 2 * unread}
    return [unix(number, **ends, **served, **SERVER), unix(number + 1, **ends, **asking, **client)]


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Return eight samples of unix sockets: served, full, unread, in pairs, by datagram, alone."""
    full = {"comm": "full", "pid": 3, "local_addr": "@full"}
    log = {"comm": "logd", "pid": 4, "local_addr": "/dev/log", "netid": "u_dgr", "state": "ESTAB"}
    nobody = dict.fromkeys(("pid", "start_us", "comm"))
    writer = Writer(tmp_path / "r")
    for sample in range(8):
        writer.sample(
            [
                unix(1, state="LISTEN", send_q=16, recv_q=sample % 2, inode=1, **SERVER),
                unix(2, state="LISTEN", send_q=2, recv_q=3 if sample > 5 else 2, inode=2, **full),
                *(row for n in range(sample + 1) for row in pair(100 + 2 * n)),
                *pair(200, client=CLIENT | {"comm": "idle"}, unread=min(sample, 3)),
                *pair(300, client=CLIENT | {"comm": "busy"}, unread=(9, 8)[sample % 2]),
                unix(400, inode=400, peer_inode=401, local_addr=None, comm="twin", pid=5),
                unix(401, inode=401, peer_inode=400, local_addr=None, comm="twin", pid=5),
                unix(500, inode=500, peer_inode=None, **log),
                unix(501, inode=501, peer_inode=500, netid="u_dgr", **CLIENT),
                unix(502, inode=502, peer_inode=500, netid="u_dgr", **CLIENT),
                unix(600, inode=600, peer_inode=0, **CLIENT),
                unix(700, inode=700, peer_inode=9999, **(CLIENT | nobody)),
            ]
        )
    return tmp_path / "r"


def test_unix_sockets_counts_each_connection_once(local: Path) -> None:
    columns = ("netid", "state", "path", "comm", "peer_comm", "first", "peak", "last", "growth")
    assert report(local, "unix_sockets", *columns) == [
        ("u_str", "LISTEN", "@full", "full", None, 1, 1, 1, 0),
        ("u_str", "ESTAB", "/run/s", "server", "idle", 1, 1, 1, 0),
        ("u_str", "ESTAB", "/run/s", "server", "client", 1, 8, 8, 7),
        ("u_dgr", "ESTAB", "/dev/log", "logd", "client", 2, 2, 2, 0),
        ("u_dgr", "UNCONN", "/dev/log", "logd", None, 1, 1, 1, 0),
        ("u_str", "ESTAB", "/run/s", "server", "busy", 1, 1, 1, 0),
        ("u_str", "ESTAB", None, "twin", "twin", 1, 1, 1, 0),
        ("u_str", "ESTAB", None, None, "client", 1, 1, 1, 0),
        ("u_str", "ESTAB", None, None, None, 1, 1, 1, 0),
        ("u_str", "LISTEN", "/run/s", "server", None, 1, 1, 1, 0),
    ]
    assert len(report(local, "unix_sockets", "path", top=2)) == 2
    assert report(local, "unix_sockets", "path", top=0) == report(local, "unix_sockets", "path")


def test_unix_sockets_says_who_does_not_accept_and_who_does_not_read(local: Path) -> None:
    columns = ("verdict", "waiting_peak", "backlog", "full_samples", "unread_s", "reader")
    found = report(local, "unix_sockets", *columns)
    assert found[0] == ("does not accept", 3, 2, 2, None, None)
    # From the second sample on it never got shorter.
    assert found[1] == ("does not read", None, None, None, 6.0, "server")
    # The one that is busy reads every other second.
    assert found[5] == (None, None, None, None, 1.0, "server")
    assert found[9] == (None, 1, 16, 0, None, None)
    queues = report(local, "unix_sockets", "unread_peak_bytes", "unsent_peak_bytes")
    assert (queues[0], queues[1]) == ((None, None), (3, 6))
    patient = report(local, "unix_sockets", "verdict", stuck_s=7)
    assert [row[0] for row in patient[:2]] == ["does not accept", None]


@pytest.mark.parametrize(("stuck_s", "verdict"), [(7, "does not accept"), (8, None)])
def test_unix_sockets_says_how_long_a_queue_stood(
    stuck_s: float, verdict: str | None, tmp_path: Path
) -> None:
    """It need not be full."""
    writer = Writer(tmp_path / "r")
    for _ in range(8):
        writer.sample([unix(1, state="LISTEN", send_q=16, recv_q=1, inode=1, **SERVER)])
    columns = ("verdict", "waiting_peak", "full_samples", "stood_s")
    found = report(tmp_path / "r", "unix_sockets", *columns, stuck_s=stuck_s)
    assert found == [(verdict, 1, 0, 7.0)]


def test_unix_sockets_of_an_inode_used_again_are_not_mixed_up(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample(pair(100))
    writer.sample([])
    writer.sample([row | {"cookie": row["cookie"] + 50} for row in pair(100)])
    columns = ("comm", "peer_comm", "first", "peak", "last")
    assert report(tmp_path / "r", "unix_sockets", *columns) == [("server", "client", 1, 1, 1)]


def test_unix_sockets_takes_the_ends_from_samples_that_saw_the_table(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([], steps=without("unix"))
    writer.sample([*pair(100), *pair(200)])
    writer.sample(pair(100), steps=without("unix", outcome="truncated"))
    assert report(tmp_path / "r", "unix_sockets", "first", "peak", "last") == [(2, 2, 2)]
    blind = Writer(tmp_path / "blind")
    blind.sample(pair(100), steps=without("unix", outcome="busy"))
    columns = ("first", "peak", "last", "growth")
    assert report(tmp_path / "blind", "unix_sockets", *columns) == [(None, 1, None, None)]


@pytest.fixture
def orphaned(tmp_path: Path) -> Path:
    """Return four samples with 1, 3, 4 and 2 orphans, beside sockets that are none."""
    curl: Row = {"pid": 7, "comm": "curl", "peer_addr": "10.9.9.9"}
    none = [
        carried(1, "TIME-WAIT"),
        carried(2, "ESTAB", "listener"),
        carried(3, "CLOSE-WAIT", "listener"),
        unowned(4, "SYN-RECV"),
        carried(5, "FIN-WAIT-2", timer="timewait"),
        tcp(6, "FIN-WAIT-1"),
    ]
    orphans = [
        carried(11, "FIN-WAIT-1", send_q=100),
        carried(12, "FIN-WAIT-1", send_q=10),
        carried(13, "LAST-ACK", send_q=1, **curl),
        unowned(14, "CLOSING"),
    ]
    shown = ([0], [0, 1, 2], [0, 1, 2, 3], [0, 2])
    aborts = ("TcpExt.TCPAbortOnMemory", "TcpExt.TCPAbortOnTimeout")
    writer = Writer(tmp_path / "r")
    for sample in range(4):
        writer.sample(
            [*none, *(orphans[n] for n in shown[sample])],
            steps=COUNTED,
            counters=[
                counter("TCP.orphan", (1, 3, 6, 2)[sample], source="sockstat"),
                counter(aborts[0], (8, 8, 10, 10)[sample], source="netstat"),
                counter(aborts[1], (0, 1, 2, 3)[sample], source="netstat"),
            ],
            settings=[{"netns": 0, "name": "net.ipv4.tcp_max_orphans", "value": "12"}]
            if sample == 0
            else [],
        )
    return tmp_path / "r"


MEMORY = "reset for lack of memory or too many orphans"


def test_orphans_of_the_host_and_of_who_held_them_last(orphaned: Path) -> None:
    columns = ("comm", "state", "first", "peak", "last", "peak_time", "oldest_s")
    assert report(orphaned, "orphans", *columns) == [
        ("host", None, 1, 4, 2, time_of(2), 3.0),
        ("nginx", "FIN-WAIT-1", 1, 2, 1, time_of(1), 3.0),
        ("curl", "LAST-ACK", 0, 1, 1, time_of(1), 2.0),
        (None, "CLOSING", 0, 1, 0, time_of(2), 0.0),
    ]
    assert report(orphaned, "orphans", "comm", top=1) == [("host",), ("nginx",)]
    assert len(report(orphaned, "orphans", "comm", top=0)) == 4


def test_orphans_stand_beside_the_limit_and_what_the_kernel_did(orphaned: Path) -> None:
    columns = ("unsent_peak_bytes", "kernel_peak", "max_orphans", "limit_percent", "says")
    said = f"2 {MEMORY}; 3 given up without an answer"
    assert report(orphaned, "orphans", *columns)[:2] == [
        (111, 6, 12, 50.0, said),
        (110, None, None, None, None),
    ]


def test_orphans_by_peer_and_over_time(orphaned: Path) -> None:
    columns = ("peer_addr", "state", "peak")
    assert report(orphaned, "orphans", *columns, by="peer") == [
        (None, None, 4),
        ("127.0.0.1", "FIN-WAIT-1", 2),
        ("10.9.9.9", "LAST-ACK", 1),
        ("127.0.0.1", "CLOSING", 1),
    ]
    over = ("time", "comm", "state", "first", "peak", "last", "kernel_peak", "says")
    found = report(orphaned, "orphans", *over, by="time", interval=2, top=1)
    assert found[:4] == [
        (time_of(0), "host", None, 1, 3, 3, 3, "1 given up without an answer"),
        (time_of(2), "host", None, 4, 4, 2, 6, f"2 {MEMORY}; 2 given up without an answer"),
        (time_of(0), None, "FIN-WAIT-1", 1, 2, 2, None, None),
        (time_of(2), None, "FIN-WAIT-1", 2, 2, 1, None, None),
    ]
    assert len(found) == 8


def test_orphans_that_were_not_to_be_seen_are_not_none(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([], steps=without("tcp"))
    assert report(tmp_path / "r", "orphans", "peak") == []
    writer.sample([])
    columns = ("peak", "kernel_peak", "max_orphans", "limit_percent", "says")
    assert report(tmp_path / "r", "orphans", *columns) == [(0, None, None, None, None)]


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    """Return four samples of counters: of trouble, of traffic, a level, one that was made anew."""
    rows = {
        ("netstat", "TcpExt.ListenDrops"): (5, 5, 9, None),
        ("netstat", "TcpExt.TCPAbortOnMemory"): (7, None, None, None),
        ("snmp", "Tcp.InSegs"): (100, 400, None, 1000),
        ("snmp", "Tcp.CurrEstab"): (3, 8, 2, None),
        ("sockstat", "TCP.mem"): (6, None, 4, None),
        ("snmp", "Udp.InErrors"): (50, 2, 3, None),
        ("softnet_stat", "cpu0.dropped"): (0, 0, 0, 2),
        ("nf_conntrack", "drop"): (0, 1, None, None),
    }
    writer = Writer(tmp_path / "r")
    for sample in range(4):
        changed = [
            counter(name, values[sample], source=source)
            for (source, name), values in rows.items()
            if values[sample] is not None
        ]
        writer.sample([], steps=COUNTED, counters=changed)
    return tmp_path / "r"


def test_counters_that_mean_trouble_come_first(counted: Path) -> None:
    columns = ("name", "kind", "growth", "growth_per_s", "peak_per_s", "peak_time", "report")
    assert report(counted, "counters", *columns) == [
        ("TcpExt.ListenDrops", "counter", 4, 1.33, 4.0, time_of(2), "listen_queues"),
        ("cpu0.dropped", "counter", 2, 0.67, 2.0, time_of(3), "counters"),
        ("Udp.InErrors", "counter", 1, 0.33, 1.0, time_of(2), "udp_drops"),
        ("drop", "counter", 1, 0.33, 1.0, time_of(1), "counters"),
        ("Tcp.InSegs", "counter", 900, 300.0, 600.0, time_of(3), None),
        ("Tcp.CurrEstab", "gauge", -1, None, None, time_of(1), None),
        ("TCP.mem", "gauge", -2, None, None, time_of(0), None),
    ]
    told = dict(report(counted, "counters", "name", "meaning"))
    assert "dropped at a listener" in told["TcpExt.ListenDrops"]
    assert told["Tcp.InSegs"] is None


def test_counters_have_the_values_at_the_first_and_the_last_reading(counted: Path) -> None:
    columns = ("name", "first", "peak", "last")
    values = {row[0]: row[1:] for row in report(counted, "counters", *columns)}
    assert values["TcpExt.ListenDrops"] == (5, 9, 9)
    assert values["Tcp.CurrEstab"] == (3, 8, 2)
    assert values["Udp.InErrors"] == (50, 50, 3)
    scoped = {row[0]: row[1:] for row in report(counted, "counters", *columns, start="+2s")}
    assert scoped == {
        # The first reading of the scope is where counting starts.
        "cpu0.dropped": (0, 2, 2),
        "Tcp.InSegs": (400, 1000, 1000),
    }
    assert report(counted, "counters", "growth_per_s", start="+2s", pattern="tcp.insegs") == [
        (600.0,)
    ]


def test_counters_are_chosen_by_name_and_all_are_listed_on_demand(counted: Path) -> None:
    def names(**options: Any) -> list[str]:
        return [name for (name,) in report(counted, "counters", "name", **options)]

    assert names(pattern="TCPEXT.%") == ["TcpExt.ListenDrops"]
    assert names(pattern="TcpExt.%", all=True) == ["TcpExt.ListenDrops", "TcpExt.TCPAbortOnMemory"]
    assert names(top=2) == ["TcpExt.ListenDrops", "cpu0.dropped"]
    assert len(names(top=0, all=True)) == 8
    assert names(pattern="%'--") == []


def test_counters_of_namespaces_stand_apart(tmp_path: Path) -> None:
    box = NETNS + 1
    writer = Writer(tmp_path / "r")
    for value in (0, 6):
        steps = [*COUNTED, step("counters", netns=box)]
        counters = [counter("Tcp.OutRsts", value), counter("Tcp.OutRsts", 2 * value, netns=box)]
        writer.sample([], steps=steps, counters=counters)
    assert report(tmp_path / "r", "counters", "netns", "growth") == [(box, 12), (NETNS, 6)]


@pytest.mark.parametrize(
    ("name", "recording", "options"),
    [
        ("process_sockets", "processes", {}),
        ("process_sockets", "leak", {"by": "process"}),
        ("memory", "filled", {}),
        ("udp_drops", "dropping", {}),
        ("unix_sockets", "local", {}),
        ("orphans", "orphaned", {}),
        ("counters", "counted", {}),
    ],
)
def test_as_a_table(
    name: str,
    recording: str,
    options: dict[str, Any],
    request: pytest.FixtureRequest,
    snapshot: SnapshotAssertion,
) -> None:
    assert golden(request.getfixturevalue(recording), name, **options) == snapshot


SAMPLES = Path(__file__).parents[3] / "samples"


def truth(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SAMPLES / name / "truth.json").read_text())
    return found


def test_the_leak_of_descriptors_is_the_first_line() -> None:
    true = truth("descriptor_leak")
    columns = ("comm", "pid", "netid", "growth", "fd_limit", "limit_percent")
    name, pid, netid, growth, limit, share = report(
        SAMPLES / "descriptor_leak/recording", "process_sockets", *columns
    )[0]
    numbers = true["numbers"]
    assert (name, pid, netid) == (true["comm"], true["pid"], "udp")
    assert (growth, limit) == (numbers["leaked"], numbers["limit"])
    # Its files and its own connection take the rest.
    assert 90 < share <= numbers["limit_percent"]


def test_the_drops_are_those_that_the_sender_and_the_reader_count() -> None:
    true = truth("udp_drops")
    columns = (
        "comm",
        "pid",
        "local_addr",
        "local_port",
        "drops",
        "namespace_rcvbuf_errors",
        "verdict",
    )
    name, pid, addr, port, *drops, verdict = report(
        SAMPLES / "udp_drops/recording", "udp_drops", *columns
    )[0]
    assert (name, pid, f"{addr}:{port}") == (true["comm"], true["pid"], true["subject"])
    assert drops == [true["numbers"]["dropped"]] * 2
    assert verdict == "reads too slowly"


def test_the_counter_of_refused_connections_comes_first() -> None:
    path = SAMPLES / "accept_overflow/recording"
    name, growth = report(path, "counters", "name", "growth")[0]
    assert name == "TcpExt.ListenOverflows"
    assert growth == pytest.approx(
        truth("accept_overflow")["numbers"]["listen_overflows"], rel=0.02
    )


def test_the_memory_of_a_slow_reader_is_with_both_ends() -> None:
    true = truth("slow_reader")
    columns = ("comm", "pid", "received_bytes", "unsent_bytes")
    lines = report(SAMPLES / "slow_reader/recording", "memory", *columns)
    sender, reader, *_ = [line for line in lines if line[1] is not None]
    assert (sender[0], sender[2]) == ("report-db", 0)
    assert sender[3] > 1_000_000
    assert reader[:2] == (true["comm"], true["pid"])
    assert reader[2] >= true["numbers"]["recv_q_at_end"]


def test_a_healthy_host_has_nothing_to_show() -> None:
    path = SAMPLES / "healthy/recording"
    assert set(report(path, "udp_drops", "drops", "verdict")) == {(0, "no drops")}
    assert set(report(path, "unix_sockets", "verdict")) == {(None,)}
    assert report(path, "memory", "says")[0] == ("nothing",)
    assert set(report(path, "orphans", "says")) <= {("nothing",), (None,)}
    assert max(row[0] for row in report(path, "process_sockets", "limit_percent") if row[0]) < 5


@pytest.mark.parametrize("name", ["descriptor_leak", "time_wait_storm", "slow_reader"])
def test_process_sockets_and_memory_agree_with_pandas(name: str) -> None:
    """The same numbers from the bare rows, by other means."""
    key = ["pid", "comm", "netid", "state"]
    with analyzer.open(SAMPLES / name / "recording") as opened:
        columns = ["first", "peak", "last", "memory_peak_bytes"]
        found = opened.report("process_sockets", top=0).df()
        found = found[found.owner == "process"].set_index(key)[columns].add_prefix("told_")
        rows = opened.sql(
            "SELECT *, rmem_alloc + fwd_alloc + optmem + raw.sockets.backlog "
            "+ greatest(wmem_alloc, wmem_queued) AS memory FROM raw.sockets"
        ).df()
        held = opened.report("memory", top=0).df()
    samples = rows["sample"].unique()
    owned = rows[rows.pid.notna() & (rows.owner_by == "fd")]
    per_sample = owned.groupby([*key, "sample"]).agg(
        sockets=("cookie", "size"), memory=("memory", "sum")
    )
    sockets = per_sample.sockets.unstack("sample", fill_value=0)
    expected = pd.DataFrame(
        {
            "first": sockets[min(samples)],
            "peak": sockets.max(axis=1),
            "last": sockets[max(samples)],
            "memory_peak_bytes": per_sample.memory.groupby(level=key).max(),
        }
    )
    both = expected.join(found, how="outer")
    assert len(both) == len(found) == len(expected)
    for column in columns:
        assert both[column].tolist() == both[f"told_{column}"].tolist()
    tcp_memory = rows[(rows.netid == "tcp") & rows.pid.notna()]
    peaks = tcp_memory.groupby(["pid", "sample"]).memory.sum().groupby(level="pid").max()
    told = held[(held.kind == "tcp") & held.pid.notna()].set_index("pid").peak_bytes
    assert told.to_dict() == {pid: peak for pid, peak in peaks.items() if peak > 0}
