"""The reports of queues, losses and round trips: numbers worked out by hand, and goldens."""

import io
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

import analyzer
from analyzer.screen.render import Format, write
from tests.analyzer.support.recordings import (
    NETNS,
    Row,
    Writer,
    counter,
    play,
    step,
    tcp,
    time_of,
    unix,
)

NAMES = (
    "queue_growth",
    "listen_queues",
    "syn_backlog",
    "stalls",
    "retransmits",
    "rtt",
    "close_wait",
)
HERE = "10.0.0.1"
THERE = "10.0.0.2"
READER: Row = {"pid": 200, "start_us": 7_000_000, "comm": "reader"}


def report(path: Path, name: str, *columns: str, **options: Any) -> list[tuple[Any, ...]]:
    with analyzer.open(path) as opened:
        rows: list[dict[str, Any]] = opened.report(name, **options).table().to_pylist()
    return [tuple(row[column] for column in columns) for row in rows]


def golden(path: Path, name: str, **options: Any) -> str:
    out = io.StringIO()
    with (
        analyzer.open(path) as opened,
        opened.report(name, **options).batches() as (schema, batches),
    ):
        write(schema, batches, Format.table, out)
    return out.getvalue()


def link(cookie: int, **columns: Any) -> Row:
    """Return a connection of nginx to another host, with counters that stand still."""
    return tcp(
        cookie,
        local_addr=HERE,
        peer_addr=THERE,
        peer_port=5432,
        local_port=40000 + cookie,
        **{
            "bytes_acked": 1,
            "bytes_received": 0,
            "bytes_sent": 0,
            "snd_mss": 1000,
            "rcv_mss": 500,
            "snd_wnd": 64000,
            "rcv_wnd": 64000,
            "unacked": 0,
            "retransmits": 0,
            "backoff": 0,
            "probes": 0,
            "total_retrans": 0,
            "rwnd_limited_us": 0,
            "sndbuf_limited_us": 0,
        }
        | columns,
    )


def end_of(row: Row, **columns: Any) -> Row:
    """Return the other end of a connection."""
    turned = {
        "local_addr": row["peer_addr"],
        "local_port": row["peer_port"],
        "peer_addr": row["local_addr"],
        "peer_port": row["local_port"],
        "cookie": row["cookie"] + 1000,
        "inode": row["inode"] + 1000,
    }
    return link(row["cookie"]) | turned | columns


def record(path: Path, *samples: list[Row], **facts: Any) -> Path:
    return play(path, [{"sockets": rows} for rows in samples], **facts)


def still(row: Row, samples: int) -> list[list[Row]]:
    return [[row]] * samples


def test_reports_run_on_the_file_of_one_table(tmp_path: Path) -> None:
    """The sockets alone give the same rows, but for what only other tables know."""
    looks = [
        {
            "sockets": [
                tcp(1, "LISTEN", recv_q=9, send_q=8, drops=0),
                tcp(2, "SYN-RECV", retrans=1, inode=0),
                tcp(3, "CLOSE-WAIT"),
                link(4, send_q=100, total_retrans=n, bytes_sent=100 * n, rtt_us=80),
            ],
            "counters": [counter("TcpExt.ListenDrops", n)],
            "settings": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}],
            "closes": [{"cookie": 50 + n, "netid": "tcp", "connection": True, "peer_port": 0}],
        }
        for n in range(8)
    ]
    path = play(tmp_path / "r", looks)
    with analyzer.open(path) as opened:
        wholes = {name: opened.report(name).table() for name in NAMES}
    for table in ("sockets", "samples", "closes", "counters", "settings"):
        with analyzer.open(path / table / "000001.parquet") as opened:
            alone = {name: opened.report(name).table() for name in NAMES}
        for name, whole in wholes.items():
            assert whole.num_rows, name
            assert alone[name].schema == whole.schema, (name, table)
            left_out = {"listen_queues": ["namespace_overflows", "namespace_drops"]}.get(name, [])
            expected = whole if table == "sockets" else whole.slice(0, 0)
            found = alone[name].drop_columns(left_out)
            assert found == expected.drop_columns(left_out), (name, table)


def test_reports_run_on_a_recording_of_version_1(tmp_path: Path) -> None:
    looks = [
        [
            tcp(1, "LISTEN"),
            link(4, send_q=100, total_retrans=n, rtt_us=80),
            tcp(3, "CLOSE-WAIT"),
        ]
        for n in range(8)
    ]
    with analyzer.open(record(tmp_path / "r", *looks, version=1)) as opened:
        rows = {name: opened.report(name).table().num_rows for name in NAMES}
    assert rows == {name: 0 if name == "syn_backlog" else 1 for name in NAMES}


def test_reports_of_a_quiet_host_are_empty_or_ok(tmp_path: Path) -> None:
    rows = [tcp(1, "LISTEN", send_q=8), link(4, rtt_us=80), tcp(3, "TIME-WAIT", inode=0)]
    verdicts = {"listen_queues": ["ok"], "rtt": ["ok"]}
    with analyzer.open(record(tmp_path / "r", *[rows] * 8)) as opened:
        for name in NAMES:
            found = opened.report(name).table()
            if name == "retransmits":
                assert found.num_rows == 0
            else:
                assert found["verdict"].to_pylist() == verdicts.get(name, []), name


# stalls


def test_a_reader_is_stalled_that_reads_not_one_byte_for_long(tmp_path: Path) -> None:
    path = record(tmp_path / "r", [link(1)], *still(link(1, bytes_received=900, recv_q=700), 6))
    columns = ("queue", "verdict", "culprit", "waiting_bytes", "stuck_s", "since", "until")
    expected = ("Recv-Q", "reader stalled", "nginx (100)", 700, 5.0, time_of(1), time_of(6))
    assert report(path, "stalls", *columns) == [expected]
    assert report(path, "stalls", "local", "peer") == [(f"{HERE}:40001", f"{THERE}:5432")]
    assert report(path, "stalls", "queue", seconds=5.1) == []


@pytest.mark.parametrize(("samples", "found"), [(5, 0), (6, 1)])
def test_a_stall_lasts_five_seconds(samples: int, found: int, tmp_path: Path) -> None:
    path = record(tmp_path / "r", *still(link(1, bytes_received=9, recv_q=9), samples))
    assert len(report(path, "stalls", "queue")) == found


def test_a_stall_lasts_three_intervals(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for number in (0, 10, 20):
        writer.sample([link(1, bytes_received=9, recv_q=9)], number=number)
    assert report(tmp_path / "r", "stalls", "stuck_s") == []
    writer.sample([link(1, bytes_received=9, recv_q=9)], number=30)
    assert report(tmp_path / "r", "stalls", "stuck_s") == [(30.0,)]


def test_a_byte_that_moves_ends_a_stall(tmp_path: Path) -> None:
    def reading(read: int) -> Row:
        # As much comes as is read, so the queue looks the same.
        return link(1, bytes_received=500 + read, recv_q=500)

    path = record(tmp_path / "r", *still(reading(0), 7), *still(reading(1), 6), [reading(2)])
    assert report(path, "stalls", "since", "stuck_s") == [(time_of(0), 6.0), (time_of(7), 5.0)]
    assert report(path, "stalls", "since", top=1) == [(time_of(0),)]


@pytest.mark.parametrize(
    ("state", "queues"),
    [
        ("CLOSE-WAIT", {"recv_q": 1}),
        ("FIN-WAIT-1", {"send_q": 1}),
        ("LAST-ACK", {"send_q": 1, "recv_q": 1}),
        ("SYN-SENT", {"send_q": 1}),
    ],
)
def test_a_syn_or_fin_alone_is_no_data(state: str, queues: Row, tmp_path: Path) -> None:
    path = record(tmp_path / "r", *still(link(1, state=state, **queues), 9))
    assert report(path, "stalls", "queue") == []
    assert report(path, "queue_growth", "queue") == []
    both = {name: value + 4 for name, value in queues.items()}
    data = record(tmp_path / "data", *still(link(1, state=state, **both), 9))
    found = report(data, "queue_growth", "peak_bytes")
    assert found == [(4,)] * len(both)
    if state != "SYN-SENT":
        assert report(data, "stalls", "waiting_bytes") == found


def test_what_was_not_accepted_cannot_be_read(tmp_path: Path) -> None:
    waiting = link(1, inode=0, owner_by="listener", bytes_received=9, recv_q=9)
    path = record(tmp_path / "r", *still(waiting, 6))
    for name in ("stalls", "queue_growth"):
        assert report(path, name, "verdict", "culprit") == [("not accepted", "nginx (100)")]


CLOSED: Row = {"send_q": 800, "snd_wnd": 0, "timer": "persist", "probes": 1, "backoff": 3}


@pytest.mark.parametrize("name", ["stalls", "queue_growth"])
def test_a_closed_window_is_the_fault_of_the_peers_process(name: str, tmp_path: Path) -> None:
    sender = link(1, **CLOSED)
    far = record(tmp_path / "far", *still(sender, 6))
    assert report(far, name, "verdict", "culprit") == [("peer stalled", f"peer {THERE}")]
    reader = end_of(sender, recv_q=300, bytes_received=300, rcv_wnd=0, **READER)
    near = record(tmp_path / "near", *[[sender, reader]] * 6)
    assert set(report(near, name, "queue", "verdict", "comm", "culprit")) == {
        ("Send-Q", "peer stalled", "nginx", "reader (200)"),
        ("Recv-Q", "reader stalled", "reader", "reader (200)"),
    }


@pytest.mark.parametrize("name", ["stalls", "queue_growth"])
@pytest.mark.parametrize(
    ("address", "netns", "found"),
    [
        (THERE, NETNS + 1, "reader (200)"),
        (f"::ffff:{THERE}", NETNS, "reader (200)"),
        ("127.0.0.2", NETNS, "reader (200)"),
        ("127.0.0.2", NETNS + 1, "peer 127.0.0.2"),
    ],
)
def test_the_other_end_is_found_by_its_addresses(
    name: str, address: str, netns: int, found: str, tmp_path: Path
) -> None:
    """Loopback of another namespace is another loopback; a mapped address is the same one."""
    plain = address.removeprefix("::ffff:")
    local = "127.0.0.1" if plain.startswith("127.") else HERE
    sender = link(1, **CLOSED) | {"local_addr": local, "peer_addr": plain}
    turned = {"local_addr": address, "peer_addr": address.replace(plain, local)}
    reader = end_of(sender, netns=netns, **READER) | turned
    path = record(tmp_path / "r", *[[sender, reader]] * 6)
    assert report(path, name, "culprit") == [(found,)]


LOST: Row = {"send_q": 800, "timer": "on", "retransmits": 2, "backoff": 2, "unacked": 1}


@pytest.mark.parametrize("name", ["stalls", "queue_growth"])
@pytest.mark.parametrize(
    ("columns", "verdict"),
    [
        (LOST, "network"),
        (CLOSED | {"probes": 3}, "network"),
        ({"send_q": 800, "unacked": 1}, "network"),
        ({"send_q": 800, "snd_wnd": 999}, "peer stalled"),
        ({"send_q": 800, "unacked": None, "snd_wnd": None}, None),
    ],
)
def test_why_a_sender_is_stuck(
    name: str, columns: Row, verdict: str | None, tmp_path: Path
) -> None:
    path = record(tmp_path / "r", *still(link(1, **columns), 6))
    assert report(path, name, "queue", "verdict") == [("Send-Q", verdict)]


def test_a_stall_of_an_unknown_process(tmp_path: Path) -> None:
    nobody = dict.fromkeys(("pid", "start_us", "comm"))
    row = link(1, bytes_received=9, recv_q=9, inode=77) | nobody
    path = record(tmp_path / "r", *still(row, 6))
    for name in ("stalls", "queue_growth"):
        assert report(path, name, "culprit", "pid") == [("unknown process", None)]


def test_without_counters_of_bytes_nothing_is_known_to_stand_still(tmp_path: Path) -> None:
    row = link(1, recv_q=9, send_q=9, bytes_received=None, bytes_acked=None)
    path = record(tmp_path / "r", *still(row, 9), *still(unix(2, recv_q=5), 9))
    assert report(path, "stalls", "queue") == []


def test_a_stall_counts_from_the_baseline(tmp_path: Path) -> None:
    path = record(tmp_path / "r", *still(link(1, bytes_received=9, recv_q=9), 9))
    assert report(path, "stalls", "since", "stuck_s", start="+4s") == [(time_of(3), 5.0)]
    assert report(path, "stalls", "stuck_s", start="+5s") == []
    assert report(path, "stalls", "stuck_s", start="+4s", end="+8s") == []


# queue_growth


def test_a_queue_grows_at_a_rate_and_moves_at_another(tmp_path: Path) -> None:
    """300 bytes a second come in for three seconds, 100 are read, then 100 come and are read."""
    queue = (0, 200, 400, 600, 600, 0)
    received = (0, 300, 600, 900, 1000, 1000)
    rows = [link(1, recv_q=q, bytes_received=r) for q, r in zip(queue, received, strict=True)]
    path = record(tmp_path / "r", *([row] for row in rows))
    columns = ("verdict", "culprit", "peak_bytes", "last_bytes")
    assert report(path, "queue_growth", *columns) == [("moves", None, 600, 600)]
    rates = ("growth_bytes_per_s", "moved_bytes_per_s", "stuck_s", "duration_s")
    assert report(path, "queue_growth", *rates) == [(200.0, 100.0, 0.0, 3.0)]
    assert report(path, "queue_growth", "since", "until") == [(time_of(1), time_of(4))]


def test_a_reader_is_too_slow_whose_buffer_is_full(tmp_path: Path) -> None:
    def full(n: int, **columns: Any) -> Row:
        return link(1, recv_q=600, bytes_received=600 + 10 * n, **columns)

    for columns in ({"rcv_wnd": 499}, {"rmem_alloc": 90, "rcvbuf": 100}):
        path = record(tmp_path / f"{len(columns)}", *([full(n, **columns)] for n in range(3)))
        found = report(path, "queue_growth", "verdict", "moved_bytes_per_s", "stuck_s")
        assert found == [("reader stalled", 10.0, 0.0)]


@pytest.mark.parametrize(
    ("limit", "verdict"), [("rwnd_limited_us", "peer stalled"), ("sndbuf_limited_us", "sndbuf")]
)
def test_what_limits_a_sender_that_moves(limit: str, verdict: str, tmp_path: Path) -> None:
    def sending(n: int, share: int) -> list[Row]:
        return [link(1, send_q=50, bytes_acked=1 + n) | {limit: n * share}]

    path = record(tmp_path / "r", *(sending(n, 500_000) for n in range(4)))
    assert report(path, "queue_growth", "verdict", "stuck_s") == [(verdict, 0.0)]
    free = record(tmp_path / "free", *(sending(n, 499_999) for n in range(4)))
    assert report(free, "queue_growth", "verdict", "culprit") == [("moves", None)]


def test_the_worst_spell_of_a_queue_is_told(tmp_path: Path) -> None:
    """The longer spell moves, the shorter one does not."""
    moving = [link(1, send_q=900, bytes_acked=10 + n) for n in range(6)]
    rest = [link(1, send_q=0, bytes_acked=16)]
    stuck = [link(1, send_q=50, bytes_acked=16, unacked=1)] * 3
    path = record(tmp_path / "r", *([row] for row in (*moving, *rest, *stuck)))
    columns = ("verdict", "since", "duration_s", "stuck_s", "growth_bytes_per_s")
    # It began with the empty queue of the sample before.
    assert report(path, "queue_growth", *columns) == [("network", time_of(7), 2.0, 2.0, 50.0)]


def test_what_waits_in_one_sample_only_is_no_growth(tmp_path: Path) -> None:
    path = record(tmp_path / "r", [link(1)], [link(1, send_q=9, unacked=1)], [link(1)])
    assert report(path, "queue_growth", "queue") == []


def test_queues_without_counters_are_stuck_while_their_length_is_the_same(tmp_path: Path) -> None:
    def rows(n: int) -> list[Row]:
        return [
            unix(1, recv_q=(5, 5, 9, 9)[n], peer_inode=0),
            unix(2, send_q=7, peer_inode=555, local_addr="@a", **READER),
            unix(3, inode=555, local_addr="@b", comm="writer", pid=300),
            unix(4, netid="u_dgr", recv_q=64),
            tcp(5, "UNCONN", netid="udp", recv_q=70, drops=n, peer_addr=None, peer_port=None),
        ]

    path = record(tmp_path / "r", *(rows(n) for n in range(4)))
    columns = ("netid", "queue", "verdict", "culprit", "stuck_s")
    assert set(report(path, "queue_growth", *columns)) == {
        ("u_str", "Recv-Q", "reader stalled", "nginx (100)", 2.0),
        ("u_str", "Send-Q", "peer stalled", "writer (300)", 3.0),
        ("u_dgr", "Recv-Q", "reader stalled", "nginx (100)", 3.0),
        ("udp", "Recv-Q", "reader stalled", "nginx (100)", 3.0),
    }


def test_queues_that_hold_no_bytes_of_a_process_are_left_out(tmp_path: Path) -> None:
    rows = [
        tcp(1, "LISTEN", recv_q=5, send_q=4),
        tcp(2, "UNCONN", netid="nl", recv_q=5),
        tcp(3, "ESTAB", netid="ti_st", recv_q=5, send_q=5),
        tcp(4, "ESTAB", netid="mptcp", send_q=5),
        link(5, subflow=True, recv_q=5, bytes_received=5),
    ]
    assert report(record(tmp_path / "r", *[rows] * 3), "queue_growth", "netid") == []
    turned = [tcp(4, netid="mptcp", recv_q=5), link(5, subflow=True, send_q=5)]
    found = report(record(tmp_path / "t", *[turned] * 3), "queue_growth", "netid", "queue")
    assert set(found) == {("mptcp", "Recv-Q"), ("tcp", "Send-Q")}


def test_queues_in_which_most_bytes_wait_longest_come_first(tmp_path: Path) -> None:
    def rows(n: int) -> list[Row]:
        return [
            link(1, send_q=100, unacked=1),
            link(2, send_q=90 if n > 1 else 0, unacked=1),
            link(3, send_q=9000, bytes_acked=1 + n),
        ]

    path = record(tmp_path / "r", *(rows(n) for n in range(5)))
    found = report(path, "queue_growth", "cookie", "verdict")
    assert found == [(1, "network"), (2, "network"), (3, "moves")]
    assert report(path, "queue_growth", "cookie", top=2) == [(1,), (2,)]
    assert report(path, "queue_growth", "cookie", top=0) == [(1,), (2,), (3,)]


def test_a_queue_grows_from_the_baseline(tmp_path: Path) -> None:
    path = record(tmp_path / "r", *([link(1, send_q=100 * n, unacked=1)] for n in range(6)))
    columns = ("since", "peak_bytes", "growth_bytes_per_s", "stuck_s")
    expected = [(time_of(3), 500, 100.0, 2.0)]
    assert report(path, "queue_growth", *columns, start="+4s") == expected


# listen_queues


def listener(cookie: int, queue: int, backlog: int = 8, **columns: Any) -> Row:
    return tcp(cookie, "LISTEN", recv_q=queue, send_q=backlog, local_addr="0.0.0.0", **columns)


def overflows(value: int, dropped: int | None = None, **columns: Any) -> list[Row]:
    drops = value if dropped is None else dropped
    return [
        counter("TcpExt.ListenOverflows", value, source="netstat", **columns),
        counter("TcpExt.ListenDrops", drops, source="netstat", **columns),
    ]


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """Return six samples: the queue of web is full in samples 2, 3 and 5, with drops."""
    writer = Writer(tmp_path / "r")
    for n, (queue, drops) in enumerate(
        [(0, 100), (8, 100), (9, 103), (9, 110), (4, 110), (9, 111)]
    ):
        writer.sample(
            [
                listener(1, queue, drops=drops, local_port=80, comm="web"),
                listener(2, 5, drops=n // 5, local_port=81, comm="bursts"),
                listener(3, 5, drops=0, local_port=82, comm="half"),
                listener(4, 4, drops=0, local_port=83, comm="idle"),
                listener(5, 1, 0, drops=None, local_port=84, comm="none"),
                tcp(6, "SYN-RECV", local_addr=HERE, local_port=80, inode=0),
                *([tcp(7, "SYN-RECV", local_addr=THERE, local_port=80)] if n == 3 else []),
            ],
            counters=overflows(500 + drops, 600 + drops),
        )
    return tmp_path / "r"


def test_listeners_by_what_they_dropped(crowded: Path) -> None:
    columns = ("comm", "verdict", "backlog", "queue_peak", "fill_percent", "full_percent", "drops")
    assert report(crowded, "listen_queues", *columns) == [
        ("web", "overflows", 8, 9, 112.5, 50.0, 11),
        ("bursts", "drops", 8, 5, 62.5, 0.0, 1),
        ("none", "full", 0, 1, None, 100.0, None),
        ("half", "fills", 8, 5, 62.5, 0.0, 0),
        ("idle", "ok", 8, 4, 50.0, 0.0, 0),
    ]
    assert report(crowded, "listen_queues", "comm", top=1) == [("web",)]
    assert len(report(crowded, "listen_queues", "comm", top=0)) == 5


def test_how_long_an_accept_queue_was_full(crowded: Path) -> None:
    columns = ("queue_avg", "full_s", "since", "until", "syn_recv_peak", "local")
    found = report(crowded, "listen_queues", *columns, top=1)
    assert found == [(6.5, 1.0, time_of(2), time_of(5), 2, "0.0.0.0:80")]


def test_drops_of_a_listener_beside_those_of_its_namespace(crowded: Path) -> None:
    columns = ("drops", "namespace_overflows", "namespace_drops")
    assert report(crowded, "listen_queues", *columns, top=1) == [(11, 11, 11)]
    # From the last value before the scope to the last one in it.
    assert report(crowded, "listen_queues", *columns, top=1, start="+3s") == [(8, 8, 8)]
    assert report(crowded, "listen_queues", *columns, top=1, end="+3s") == [(3, 3, 3)]
    web = report(crowded, "listen_queues", "comm", *columns, start="+4s", end="+5s")
    assert ("web", 0, 0, 0) in web


def test_counters_of_another_namespace_are_not_this_ones(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for n in range(3):
        rows = [listener(1, 0), unix(2, state="LISTEN", send_q=5)]
        writer.sample(rows, counters=overflows(n, netns=NETNS + 1))
    columns = ("netid", "local", "namespace_overflows", "syn_recv_peak")
    assert report(tmp_path / "r", "listen_queues", *columns) == [
        ("tcp", "0.0.0.0:80", None, 0),
        ("u_str", "@/tmp/.X11-unix/X0", None, None),
    ]


def test_a_listener_of_which_the_kernel_told_no_queue(tmp_path: Path) -> None:
    path = record(tmp_path / "r", *still(tcp(1, "LISTEN", recv_q=None, send_q=None), 3))
    columns = ("verdict", "queue_peak", "fill_percent", "full_percent", "drops")
    assert report(path, "listen_queues", *columns) == [(None,) * 5]


def test_an_mptcp_listener_is_listed_once(tmp_path: Path) -> None:
    rows = [listener(1, 3, subflow=True), listener(2, 3, netid="mptcp")]
    assert report(record(tmp_path / "r", rows), "listen_queues", "netid") == [("tcp",)]


# syn_backlog

FLOOD = ("TcpExt.TCPReqQFullDrop", "TcpExt.SyncookiesSent", "TcpExt.SyncookiesRecv")


def knocking(count: int, *, repeated: int = 0, port: int = 80, address: str = HERE) -> list[Row]:
    """Return handshakes that wait for their last packet."""
    columns: Row = {"local_addr": address, "local_port": port, "inode": 0}
    return [
        tcp(100 * port + n, "SYN-RECV", retrans=int(n < repeated), **columns) for n in range(count)
    ]


def syns(path: Path, *columns: str, **options: Any) -> list[tuple[Any, ...]]:
    return report(path, "syn_backlog", *columns, **{"interval": 2, **options})


def test_handshakes_per_listener_over_time(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for count, repeated in ((0, 0), (1, 0), (8, 3), (4, 3)):
        rows = knocking(count, repeated=repeated) + knocking(1, port=81)
        writer.sample([listener(1, 0), listener(2, 0, local_port=81), *rows])
    columns = ("time", "local", "syn_recv_max", "syn_recv_avg", "backlog", "fill_percent")
    assert syns(tmp_path / "r", *columns) == [
        (time_of(0), "0.0.0.0:80", 1, 0.5, 8, 12.5),
        (time_of(2), "0.0.0.0:80", 8, 6.0, 8, 100.0),
        (time_of(0), "0.0.0.0:81", 1, 1.0, 8, 12.5),
        (time_of(2), "0.0.0.0:81", 1, 1.0, 8, 12.5),
    ]
    judged = ("verdict", "comm", "pid", "repeated_percent", "samples")
    assert syns(tmp_path / "r", *judged, top=1) == [
        ("ok", "nginx", 100, 0.0, 2),
        ("full", "nginx", 100, 50.0, 2),
    ]
    assert len(syns(tmp_path / "r", "time", interval=0, top=1)) == 4


@pytest.mark.parametrize(
    ("queue", "repeated", "verdict"),
    [(0, 1, "ok"), (0, 2, "unanswered"), (9, 2, "accept queue")],
)
def test_why_handshakes_do_not_end(queue: int, repeated: int, verdict: str, tmp_path: Path) -> None:
    rows = [listener(1, queue), *knocking(4, repeated=repeated)]
    path = record(tmp_path / "r", rows, rows)
    found = syns(path, "verdict", "accept_full", "repeated_percent")
    assert found == [(verdict, 2 if queue else 0, 25.0 * repeated)]


@pytest.mark.parametrize(("cookies", "fill"), [("1", 50.0), ("0", 66.7), (None, 50.0)])
def test_without_cookies_the_last_quarter_is_kept(
    cookies: str | None, fill: float, tmp_path: Path
) -> None:
    writer = Writer(tmp_path / "r")
    settings: list[Row] = [
        {"name": "net.ipv4.tcp_syncookies", "value": cookies},
        {"name": "net.ipv4.tcp_max_syn_backlog", "value": "8"},
    ]
    writer.sample([listener(1, 0), *knocking(4)], settings=settings)
    assert syns(tmp_path / "r", "fill_percent", "verdict") == [(fill, "ok")]


def test_cookies_and_drops_of_the_namespace(tmp_path: Path) -> None:
    """The counters grow in sample 1 by 10, in sample 3 by 5; nothing is seen unfinished."""
    writer = Writer(tmp_path / "r")
    steps = [step(name) for name in ("counters", "tcp", "counters_after")]
    for value in (70, 80, 80, 85):
        counters = [counter(name, value, source="netstat") for name in FLOOD]
        writer.sample([listener(1, 0)], steps=steps, counters=counters)
    columns = ("verdict", "syn_recv_max", "dropped", "cookies_sent", "cookies_answered")
    expected = [("drops", 0, 10, 10, 10), ("drops", 0, 5, 5, 5)]
    assert syns(tmp_path / "r", *columns) == expected


def test_counters_of_cookies_alone(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    steps = [step(name) for name in ("counters", "tcp", "counters_after")]
    for value in (0, 3):
        counters = [counter("TcpExt.SyncookiesSent", value, source="netstat")]
        writer.sample([listener(1, 0)], steps=steps, counters=counters)
    columns = ("verdict", "dropped", "cookies_sent", "cookies_answered")
    assert syns(tmp_path / "r", *columns) == [("cookies", None, 3, None)]


def test_handshakes_go_to_the_listener_of_their_address_first(tmp_path: Path) -> None:
    rows = [
        listener(1, 0, 4),
        listener(2, 0, 16) | {"local_addr": HERE},
        listener(3, 0, 4, family="inet6") | {"local_addr": "::", "local_port": 81},
        *knocking(3),
        *knocking(2, address=THERE, port=80)[1:],
        *knocking(1, port=81),
        *knocking(1, port=82),
    ]
    rows[4] |= {"cookie": 1}
    columns = ("local", "syn_recv_max", "backlog", "comm")
    assert syns(record(tmp_path / "r", rows), *columns) == [
        (f"{HERE}:80", 3, 16, "nginx"),
        ("0.0.0.0:80", 1, 4, "nginx"),
        ("[::]:81", 1, 4, "nginx"),
        (f"{HERE}:82", 1, None, None),
    ]


def test_several_sockets_that_listen_on_one_port_add_up(tmp_path: Path) -> None:
    rows = [listener(1, 0), listener(2, 0, pid=99, comm="first"), *knocking(8)]
    columns = ("comm", "pid", "backlog", "fill_percent", "verdict")
    found = syns(record(tmp_path / "r", rows), *columns)
    assert found == [("first", 99, 16, 50.0, "ok")]


def test_a_slice_that_was_not_seen_whole_is_left_out(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for outcome in ("ok", "ok", "truncated", "rotated", "ok", "truncated"):
        writer.sample([listener(1, 0), *knocking(1)], steps=[step("tcp", outcome=outcome)])
    assert syns(tmp_path / "r", "time", "samples") == [(time_of(0), 2), (time_of(4), 1)]


# retransmits


def sent(cookie: int, retransmitted: int, of: int = 0, **columns: Any) -> Row:
    """Return a connection that sent so many segments of 10 bytes again."""
    counters = {
        "total_retrans": retransmitted,
        "bytes_retrans": 10 * retransmitted,
        "bytes_sent": of,
        "total_rto": retransmitted // 2,
        "total_rto_time_ms": 250 * retransmitted,
        "dsack_dups": retransmitted // 4,
    }
    return link(cookie, **counters | columns)


LOSS = ("timeouts", "timeout_s", "retransmitted", "retrans_bytes", "sent_bytes", "retrans_percent")


def test_what_was_sent_again_within_the_recording(tmp_path: Path) -> None:
    """A connection that was there counts from its first sample, one that came as a whole."""
    path = record(
        tmp_path / "r",
        [sent(1, 4, 1000)],
        [sent(1, 8, 2000), sent(2, 2, 400)],
        [sent(1, 12, 3000), sent(2, 2, 500)],
    )
    assert report(path, "retransmits", "cookie", *LOSS, "spurious") == [
        (1, 4, 2.0, 8, 80, 2000, 4.0, 2),
        (2, 1, 0.5, 2, 20, 500, 4.0, 0),
    ]
    assert report(path, "retransmits", "cookie", top=1) == [(1,)]


def test_what_was_sent_again_since_the_baseline(tmp_path: Path) -> None:
    path = record(tmp_path / "r", *([sent(1, 4 * n, 100 * n)] for n in range(5)))
    assert report(path, "retransmits", *LOSS, start="+3s") == [(4, 2.0, 8, 80, 200, 40.0)]
    assert report(path, "retransmits", *LOSS, end="+2s") == [(2, 1.0, 4, 40, 100, 40.0)]


def close(row: Row, **columns: Any) -> Row:
    """Return the announcement of the end of a connection."""
    return {
        name: value
        for name, value in row.items()
        if name not in ("state", "inode", "uid", "holders", "send_q", "recv_q")
    } | {"connection": True, "sampled": True, **columns}


def test_an_announced_end_has_the_last_word(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([sent(1, 1, 100), sent(2, 1, 100), sent(4, 1, 100)])
    reset = dict.fromkeys(("total_retrans", "bytes_retrans", "bytes_sent", "total_rto"), 0)
    writer.sample(
        [sent(1, 2, 200), sent(2, 2, 200)],
        closes=[
            close(sent(1, 6, 600)),
            close(sent(2, 0) | reset | {"peer_port": 0}),
            close(sent(3, 3, 300), sampled=False),
            close(sent(5, 9, 900)),
        ],
    )
    columns = ("cookie", "retransmitted", "sent_bytes")
    # Of the last one no row tells what it had when the scope began.
    assert report(tmp_path / "r", "retransmits", *columns) == [
        (1, 5, 500),
        (3, 3, 300),
        (2, 1, 100),
    ]


def test_repeated_handshakes_count_too(tmp_path: Path) -> None:
    calling: Row = {"state": "SYN-SENT", "bytes_sent": 0, "bytes_retrans": 0}
    path = record(
        tmp_path / "r",
        [],
        [sent(1, 0, retrans=0, **calling), *knocking(2, repeated=1)],
        [sent(1, 3, retrans=3, **calling), *knocking(2, repeated=1)],
    )
    columns = ("cookie", "retransmitted", "syn_repeats", "retrans_percent")
    assert report(path, "retransmits", *columns) == [(1, 3, 3, None), (8000, 1, 1, None)]


@pytest.fixture
def losses(tmp_path: Path) -> Path:
    others = {"peer_addr": "10.0.0.3", **READER}
    rows = [sent(1, 4, 200), sent(2, 0, 200), sent(3, 2, 50) | others, sent(4, 1, 50) | READER]
    return record(tmp_path / "r", [], rows)


def test_losses_by_process_and_by_peer(losses: Path) -> None:
    columns = ("comm", "pid", "local", "peer", "connections", "affected", "retransmitted")
    assert report(losses, "retransmits", *columns, "retrans_percent", by="process") == [
        ("nginx", 100, None, None, 2, 1, 4, 10.0),
        ("reader", 200, None, None, 2, 2, 3, 30.0),
    ]
    assert report(losses, "retransmits", *columns, "retrans_percent", by="peer") == [
        (None, None, None, THERE, 3, 2, 5, 11.11),
        (None, None, None, "10.0.0.3", 1, 1, 2, 40.0),
    ]
    by_socket = report(losses, "retransmits", *columns)
    assert by_socket[0] == ("nginx", 100, f"{HERE}:40001", f"{THERE}:5432", 1, 1, 4)
    assert len(by_socket) == 3


def test_counters_that_the_kernel_lacks_are_unknown(tmp_path: Path) -> None:
    """Before Linux 4.19 it told no bytes, before 6.7 no timeouts."""
    lacking = dict.fromkeys(("bytes_sent", "bytes_retrans", "total_rto", "total_rto_time_ms"))
    path = record(tmp_path / "r", [], [sent(1, 3) | lacking])
    assert report(path, "retransmits", *LOSS) == [(None, None, 3, None, None, None)]


def test_a_first_sample_that_saw_nothing_begins_no_count(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([], steps=[step("tcp", outcome="rotated")])
    writer.sample([sent(1, 5)])
    writer.sample([sent(1, 7), sent(2, 1)])
    assert report(tmp_path / "r", "retransmits", "cookie", "retransmitted") == [(1, 2), (2, 1)]


# rtt


def trip(cookie: int, rtt_ms: float, **columns: Any) -> Row:
    times = {"rtt_us": int(1000 * rtt_ms), "min_rtt_us": 10_000, "rttvar_us": 500}
    return link(cookie, **times | columns)


TIMES = ("connections", "measured", "min_rtt_us", "p50_us", "p95_us", "max_us", "rise_us")


def test_every_value_counts_once_however_long_it_stood(tmp_path: Path) -> None:
    """The connection is idle at 12 ms for nine samples, after 20 and 28."""
    rows = [trip(1, 20), trip(1, 28), *[trip(1, 12)] * 9]
    path = record(tmp_path / "r", *([row] for row in rows))
    found = report(path, "rtt", *TIMES)
    assert found == [(1, 3, 10_000, 20_000, 27_200, 28_000, 17_200)]
    assert report(path, "rtt", "verdict", "peak_time", "jitter_p50_us") == [("ok", time_of(1), 500)]


@pytest.mark.parametrize(
    ("rtts", "least", "verdict"),
    [
        ([60.0] * 20, 10_000, "bloated"),
        ([59.9] * 20, 10_000, "ok"),
        ([100.0] * 20, 50_000, "far"),
        ([149.0] * 20, 49_000, "bloated"),
        ([10.0] * 40 + [60.0], 10_000, "jitter"),
        ([5.0] * 20, 10, "ok"),
    ],
)
def test_a_rise_is_judged_above_a_floor(
    rtts: list[float], least: int, verdict: str, tmp_path: Path
) -> None:
    rows = [trip(n, rtt, min_rtt_us=least) for n, rtt in enumerate(rtts)]
    assert report(record(tmp_path / "r", rows), "rtt", "verdict") == [(verdict,)]


def test_the_floor_is_a_parameter(tmp_path: Path) -> None:
    path = record(tmp_path / "r", [trip(1, 31)])
    assert report(path, "rtt", "verdict", floor_ms=21) == [("bloated",)]
    assert report(path, "rtt", "verdict", floor_ms=22) == [("ok",)]


def test_round_trips_of_connections_that_no_sample_showed(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    rows = [close(trip(2, 14), sampled=False), close(trip(1, 50)), close(trip(3, 0), sampled=False)]
    writer.sample([trip(1, 12), trip(4, 0), listener(9, 0, rtt_us=99)], closes=rows)
    assert report(tmp_path / "r", "rtt", "connections", "max_us") == [(2, 14_000)]
    assert report(tmp_path / "r", "rtt", "peak_time", where="cookie = 77") == []


def test_round_trips_by_peer_process_and_socket(tmp_path: Path) -> None:
    other: Row = {"peer_addr": "2001:db8::1"}
    path = record(tmp_path / "r", [trip(1, 20), trip(2, 30), trip(3, 40) | other])
    columns = ("comm", "peer", "connections", "max_us", "cookie")
    assert report(path, "rtt", *columns) == [
        ("nginx", "2001:db8::1", 1, 40_000, None),
        ("nginx", THERE, 2, 30_000, None),
    ]
    assert report(path, "rtt", *columns, by="process") == [("nginx", None, 3, 40_000, None)]
    assert report(path, "rtt", *columns, by="socket", top=2) == [
        ("nginx", "[2001:db8::1]:5432", 1, 40_000, 3),
        ("nginx", f"{THERE}:5432", 1, 30_000, 2),
    ]


# close_wait


def left(cookie: int, **columns: Any) -> Row:
    return link(cookie, state="CLOSE-WAIT", **columns) | {"local_port": 9000, "peer_port": cookie}


@pytest.fixture
def leak(tmp_path: Path) -> Path:
    """Return eleven samples: nginx forgets one every two seconds, reader closes after two."""
    writer = Writer(tmp_path / "r")
    for n in range(11):
        slow = left(50, recv_q=31, **READER)
        writer.sample([left(1 + k) for k in range(n // 2)] + ([slow] if n in (4, 5, 6) else []))
    return tmp_path / "r"


def test_who_does_not_close_and_how_it_grows(leak: Path) -> None:
    columns = ("comm", "verdict", "sockets", "first", "peak", "growth", "oldest_s", "at_least")
    assert report(leak, "close_wait", *columns) == [
        ("nginx", "not closed", 5, 0, 5, 5, 8.0, False),
        ("reader", "not read", 0, 0, 1, 0, 2.0, False),
    ]
    ends = ("pid", "local", "peer", "since", "unread_bytes", "cookie")
    assert report(leak, "close_wait", *ends) == [
        (100, f"{HERE}:9000", THERE, time_of(2), 0, None),
        (200, f"{HERE}:9000", f"{THERE}:50", time_of(4), 0, None),
    ]
    assert report(leak, "close_wait", "comm", top=1) == [("nginx",)]


def test_the_oldest_connection_comes_first(leak: Path) -> None:
    columns = ("cookie", "oldest_s", "sockets", "peer")
    assert report(leak, "close_wait", *columns, by="socket", top=3) == [
        (1, 8.0, 1, f"{THERE}:1"),
        (2, 6.0, 1, f"{THERE}:2"),
        (3, 4.0, 1, f"{THERE}:3"),
    ]
    found = report(leak, "close_wait", "cookie", "sockets", by="socket", top=0)
    assert found[3:] == [(4, 1), (50, 0), (5, 1)]


def test_growth_over_time(leak: Path) -> None:
    columns = ("comm", "since", "first", "sockets", "growth", "oldest_s", "unread_bytes")
    assert report(leak, "close_wait", *columns, by="time", interval=4) == [
        ("nginx", time_of(0), 0, 1, 1, 1.0, 0),
        ("nginx", time_of(4), 2, 3, 2, 5.0, 0),
        ("nginx", time_of(8), 4, 5, 2, 8.0, 0),
        ("reader", time_of(0), 0, 0, 0, None, 0),
        ("reader", time_of(4), 1, 0, 0, 2.0, 0),
        ("reader", time_of(8), 0, 0, 0, None, 0),
    ]
    assert len(report(leak, "close_wait", "since", by="time", top=1)) == 10


def test_what_was_there_when_the_scope_began_may_be_older(leak: Path) -> None:
    columns = ("comm", "first", "oldest_s", "at_least", "since")
    # The baseline is the last row before the scope.
    found = report(leak, "close_wait", *columns, start="+7s")
    assert found == [("nginx", 3, 4.0, True, time_of(6))]
    by_socket = report(leak, "close_wait", "cookie", "at_least", by="socket", start="+7s")
    assert by_socket == [(1, True), (2, True), (3, True), (4, False), (5, False)]


@pytest.mark.parametrize(
    ("columns", "verdict"),
    [
        ({"recv_q": 0}, "not closed"),
        ({"recv_q": 1}, "not read"),
        ({"recv_q": 1, "inode": 0}, "not accepted"),
        ({"recv_q": None, "inode": None}, None),
    ],
)
def test_why_a_connection_is_not_closed(columns: Row, verdict: str | None, tmp_path: Path) -> None:
    path = record(tmp_path / "r", [left(1, **columns)], [left(1, **columns)])
    assert report(path, "close_wait", "verdict", "sockets") == [(verdict, 1)]


def test_bytes_that_nobody_read_are_those_before_the_fin(tmp_path: Path) -> None:
    rows = [left(1, recv_q=1), left(2, recv_q=101), left(3)]
    assert report(record(tmp_path / "r", rows), "close_wait", "unread_bytes") == [(100,)]


def test_who_only_passes_through_is_left_out(tmp_path: Path) -> None:
    """Each in one sample and gone from the next; who has one that stays keeps them all."""
    reader = [left(50, **READER)]
    path = record(
        tmp_path / "r", [left(1)], [left(2), *reader], [left(3), *reader, left(51, **READER)], []
    )
    columns = ("comm", "peak")
    assert report(path, "close_wait", *columns) == [("reader", 2)]
    assert report(path, "close_wait", "cookie", by="socket") == [(50,)]
    assert {row[0] for row in report(path, "close_wait", "comm", by="time")} == {"reader"}
    # One that the last sample shows may stay.
    path = record(tmp_path / "last", [left(1)], [left(2)])
    assert report(path, "close_wait", *columns) == [("nginx", 1)]
    assert report(path, "close_wait", "cookie", by="socket") == [(2,)]


def test_connections_of_unknown_processes_stand_together(tmp_path: Path) -> None:
    nobody = dict.fromkeys(("pid", "start_us", "comm"))
    rows = [left(1) | nobody, left(2) | nobody, left(3)]
    found = report(record(tmp_path / "r", rows, rows), "close_wait", "comm", "pid", "sockets")
    assert found == [(None, None, 2), ("nginx", 100, 1)]


def test_samples_that_did_not_see_all_count_nothing(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for outcome, count in (("truncated", 1), ("ok", 2), ("ok", 3), ("truncated", 1)):
        rows = [left(k) for k in range(count)]
        writer.sample(rows, steps=[step("tcp", outcome=outcome)])
    columns = ("first", "sockets", "peak", "oldest_s", "at_least")
    assert report(tmp_path / "r", "close_wait", *columns) == [(2, 3, 3, 2.0, True)]
    blind = Writer(tmp_path / "blind")
    for _ in range(3):
        blind.sample([left(1)], steps=[step("tcp", outcome="truncated")])
    found = report(tmp_path / "blind", "close_wait", "comm", *columns)
    assert found == [("nginx", None, None, None, 2.0, None)]


# goldens


@pytest.fixture
def incident(tmp_path: Path) -> Path:
    """Return a recording in which every report of this file has something to say."""
    writer = Writer(tmp_path / "r")
    hostile = "\x1b[31m=cmd|'|"
    for n in range(8):
        sender = link(1, bytes_sent=9000, **CLOSED | {"send_q": 1000 * (n + 1)})
        reader = end_of(sender, recv_q=400, bytes_received=500, rcv_wnd=0, **READER)
        writer.sample(
            [
                sender,
                reader,
                sent(2, n, 10_000 + 700 * n, rtt_us=1000 * (20 + n), min_rtt_us=9000, **LOST),
                listener(3, 9, drops=3 * n, comm=hostile),
                *knocking(n, repeated=n // 2),
                *(left(30 + k, comm=hostile) for k in range(n)),
            ],
            steps=[step(name) for name in ("counters", "tcp", "counters_after")],
            counters=[*overflows(3 * n), counter("TcpExt.SyncookiesSent", n, source="netstat")],
            settings=[{"name": "net.ipv4.tcp_syncookies", "value": "1"}] if n == 0 else [],
        )
    return tmp_path / "r"


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str, incident: Path, snapshot: SnapshotAssertion) -> None:
    assert golden(incident, name) == snapshot


@pytest.mark.parametrize(
    ("name", "by"),
    [("close_wait", "socket"), ("close_wait", "time"), ("retransmits", "peer"), ("rtt", "process")],
)
def test_golden_of_another_kind_of_row(
    name: str, by: str, incident: Path, snapshot: SnapshotAssertion
) -> None:
    assert golden(incident, name, by=by) == snapshot
