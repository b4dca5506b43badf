"""The reports of connections, peers and ports: numbers worked out by hand, and goldens."""

import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

import analyzer
from analyzer.screen.render import Format, write
from analyzer.sql.catalog import find_report
from tests.analyzer.support.recordings import NETNS, Row, Writer, counter, step, tcp, time_of, unix

NAMES = (
    "churn",
    "time_wait",
    "connections",
    "short_lived",
    "peers",
    "port_exhaustion",
    "dependencies",
)
HERE = "10.0.0.1"
THERE = "10.0.0.2"
CURL: Row = {"pid": 300, "start_us": 9_000_000, "comm": "curl"}
REDIS: Row = {"pid": 200, "start_us": 7_000_000, "comm": "redis"}
NOBODY: Row = dict.fromkeys(("pid", "start_us", "comm", "fd", "holders"))
OPENS = ("Tcp.ActiveOpens", "Tcp.PassiveOpens", "Tcp.AttemptFails", "Tcp.EstabResets")


def report(path: Path, name: str, *columns: str, **options: Any) -> list[tuple[Any, ...]]:
    with analyzer.open(path) as opened:
        rows: list[Row] = opened.report(name, **options).table().to_pylist()
    return [tuple(row[column] for column in columns) for row in rows]


def golden(path: Path, name: str, **options: Any) -> str:
    out = io.StringIO()
    with (
        analyzer.open(path) as opened,
        opened.report(name, **options).batches() as (schema, batches),
    ):
        write(schema, batches, Format.table, out)
    return out.getvalue()


def client(cookie: int, state: str = "ESTAB", **columns: Any) -> Row:
    """Return a connection of curl to port 80 of another host, from port 40000 + cookie."""
    ends = {"local_addr": HERE, "local_port": 40000 + cookie, "peer_addr": THERE, "peer_port": 80}
    return tcp(cookie, state, **CURL) | ends | columns


def left(cookie: int, state: str = "TIME-WAIT", **columns: Any) -> Row:
    """Return what is left of a client's connection: no process holds it."""
    return client(cookie, state, inode=0, timer="timewait", **NOBODY) | columns


def close(cookie: int, **columns: Any) -> Row:
    """Return the announcement of a client's end that no sample had shown, and that closed first."""
    row = client(cookie, recv_q=1, connection=True, sampled=False, **NOBODY) | columns
    return {name: value for name, value in row.items() if name not in ("state", "inode")}


def reset(cookie: int, **columns: Any) -> Row:
    """Return the announcement of an end that reset its connection: the kernel has cleared it."""
    cleared = {"local_addr": "0.0.0.0", "peer_addr": "0.0.0.0", "peer_port": 0, "recv_q": 0}
    return close(cookie) | cleared | columns


def door(cookie: int = 1, **columns: Any) -> Row:
    return tcp(cookie, "LISTEN", local_addr="0.0.0.0", peer_addr="0.0.0.0", peer_port=0) | columns


def steps(opened: int = 0, announced: int = 0, **outcomes: str) -> list[Row]:
    """Return the steps of a sample in which so many connections were first seen."""
    rows = [step("counters"), step("tcp", opened=opened), step("unix")]
    rows += [step("closes", opened=announced, lost=0)]
    return [row | {"outcome": outcomes.get(row["step"], row["outcome"])} for row in rows]


def counts(*values: int | None) -> list[Row]:
    """Return what changed of the four counters of opens; None has not."""
    pairs = zip(OPENS, values, strict=True)
    return [counter(name, value) for name, value in pairs if value is not None]


def setting(name: str, value: str | None, **columns: Any) -> Row:
    return {"name": f"net.ipv4.{name}", "value": value} | columns


@pytest.fixture
def churned(tmp_path: Path) -> Path:
    """Return four samples: one connection stays, one comes and goes, two are never sampled.

    Of these one is reset; one attempt fails.
    """
    writer = Writer(tmp_path / "r")
    stays = client(10)
    writer.sample([door(), stays], steps=steps(1), counters=counts(5, 7, 0, 0))
    writer.sample(
        [door(), stays, client(11)],
        steps=steps(1, 2),
        counters=counts(8, None, None, 1),
        closes=[close(20), reset(21)],
    )
    writer.sample(
        [door(), stays, client(12, "SYN-SENT", bytes_acked=0)],
        steps=steps(0, 0),
        counters=counts(9, None, None, None),
        closes=[close(11, sampled=True, recv_q=0, **CURL)],
    )
    writer.sample([door(), stays], steps=steps(), counters=counts(None, None, 1, None))
    return tmp_path / "r"


def churn(path: Path, *columns: str, **options: Any) -> list[tuple[Any, ...]]:
    """Return the series of the report, its totals left out."""
    found = report(path, "churn", "time", *columns, **options)
    return [row[1:] for row in found if row[0] is not None]


def test_churn_counts_what_was_opened_closed_reset_and_failed(churned: Path) -> None:
    columns = ("time", "who", "opened", "closed", "resets", "failed", "opened_per_s")
    assert report(churned, "churn", *columns, interval=2) == [
        # The totals come first, per second of the three from the first sample to the last.
        (None, "all", 3, 3, 1, 1, 1.0),
        (None, "curl (300)", 2, 2, 0, 1, 0.7),
        (None, "unknown", 1, 1, 1, 0, 0.3),
        (time_of(0), "all", 3, 2, 1, 0, 1.5),
        (time_of(2), "all", 0, 1, 0, 1, 0.0),
        # The one that was never sampled went where curl goes.
        (time_of(0), "curl (300)", 2, 1, 0, 0, 1.0),
        (time_of(2), "curl (300)", 0, 1, 0, 1, 0.0),
        (time_of(0), "unknown", 1, 1, 1, 0, 0.5),
        (time_of(2), "unknown", 0, 0, 0, 0, 0.0),
    ]


def test_churn_stands_beside_the_kernels_counters(churned: Path) -> None:
    columns = ("kernel_failed", "kernel_resets", "coverage_percent")
    totals = [row[1:] for row in report(churned, "churn", "time", "who", *columns, interval=2)][:1]
    assert totals == [("all", 1, 1, None)]
    found = churn(churned, "who", *columns, interval=2)
    # Active opens 5, 8, 9, 9: too few to say a share.
    assert found[:2] == [("all", 0, 1, None), ("all", 1, 0, None)]
    assert {row[1:] for row in found[2:]} == {(None, None, None)}


def test_churn_says_what_share_of_enough_opens_was_seen(tmp_path: Path) -> None:
    """Of ten or nineteen one that fell into the next slice is too much to call it missed."""
    writer = Writer(tmp_path / "r")
    for opens, seen in [(0, 0), (20, 15), (39, 0), (59, 0), (80, 21)]:
        writer.sample([door()], steps=steps(seen), counters=counts(opens, 0, 0, 0))
    # In all 36 of 80.
    assert report(tmp_path / "r", "churn", "coverage_percent", interval=1)[0] == (45.0,)
    found = churn(tmp_path / "r", "coverage_percent", interval=1)
    assert found == [(None,), (75.0,), (None,), (0.0,), (100.0,)]


def test_churn_without_announcements_counts_a_close_when_it_was_seen(tmp_path: Path) -> None:
    """TIME-WAIT stays for a minute: the close is where it was shown first."""
    writer = Writer(tmp_path / "r")
    looks = [row for row in steps() if row["step"] != "closes"]
    here = [
        [client(10), client(12)],
        [client(10), left(20), client(12)],
        [left(20), client(12)],
        [left(20), client(12)],
    ]
    for sockets in here:
        writer.sample([door(), *sockets], steps=looks)
    columns = ("opened", "closed", "short_percent", "p50_least_us", "p50_most_us")
    found = churn(tmp_path / "r", *columns, interval=1, top=1)
    # 10, open at first, was last seen in the second sample, as TIME-WAIT was first.
    assert found[:4] == [
        (0, 0, None, None, None),
        (1, 2, None, None, None),
        (0, 0, None, None, None),
        (0, 0, None, None, None),
    ]


def test_churn_bounds_lifetimes(churned: Path) -> None:
    """A lifetime lies between what was seen of it and the samples around that."""
    columns = ("p50_least_us", "p50_most_us", "p95_least_us", "p95_most_us", "short_percent")
    found = churn(churned, *columns, interval=2, seconds=1.5, top=1)
    assert found[:2] == [
        (0, 1_000_000, 0, 1_000_000, 100.0),
        (1_000_000, 2_000_000, 1_000_000, 2_000_000, 0.0),
    ]
    # What may have lived a whole second is not shorter than that for certain.
    assert churn(churned, "short_percent", interval=2)[0] == (0.0,)


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("peer", ["all", "from 10.0.0.9", "from 10.0.0.8", "to 10.0.0.2:80", "unknown"]),
        ("listener", ["all", "outgoing", "*:80", "[fd00::1]:81"]),
        ("process", ["all", "nginx (100)", "curl (300)", "redis (200)", "unknown"]),
    ],
)
def test_churn_by_process_listener_or_peer(by: str, names: list[str], tmp_path: Path) -> None:
    served = tcp(30, local_addr="10.0.0.3", peer_addr="10.0.0.9", peer_port=5000)
    writer = Writer(tmp_path / "r")
    doors = [door(), door(2, local_port=81, **REDIS)]
    writer.sample(doors)
    writer.sample(
        [
            *doors,
            *(served | {"cookie": n, "local_addr": f"::ffff:10.0.0.{n}"} for n in (31, 32)),
            client(11),
            tcp(40, local_addr="fd00::1", local_port=81, peer_addr="10.0.0.8", **REDIS),
        ],
        closes=[reset(50)],
    )
    found = churn(tmp_path / "r", "who", by=by, interval=10)
    assert sorted(name for (name,) in found) == sorted(names)
    assert found[:2] == [("all",), (names[1],)]


def test_churn_lists_the_busiest_beside_all(churned: Path) -> None:
    found = report(churned, "churn", "who", interval=10, top=1)
    assert found == 2 * [("all",), ("curl (300)",)]
    assert len(report(churned, "churn", "who", interval=10, top=0)) == 2 * 3


def test_churn_has_no_numbers_where_nobody_looked(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for blind in (False, False, True, True, False, False):
        outcome = "unavailable" if blind else "ok"
        writer.sample([] if blind else [client(10)], steps=steps(tcp=outcome))
    columns = ("who", "opened", "closed", "opened_per_s")
    found = churn(tmp_path / "r", *columns, interval=2)
    assert found == [("all", 0, 0, 0.0), ("all", None, None, None), ("all", 0, 0, 0.0)]


def test_churn_from_a_later_moment_takes_what_was_there_as_open(churned: Path) -> None:
    columns = ("time", "who", "opened", "closed", "failed")
    found = churn(churned, *columns, interval=10, start="+2s", top=0)
    # 11 was shown before; the kernel's counters have no reading to compare the first one with.
    assert found[0] == (time_of(2), "all", 0, 1, 1)


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """Return three samples: curl leaves 0, 20 and 40 in TIME-WAIT, nginx 0, 2 and 2."""
    writer = Writer(tmp_path / "r")
    settings = [
        setting("ip_local_port_range", "40000 40099"),
        setting("ip_local_reserved_ports", "9000,40000-40009,40050,40098-50000"),
        setting("tcp_max_tw_buckets", "100"),
        setting("tcp_tw_reuse", "0"),
    ]
    served = [
        left(80 + n, local_addr=f"10.0.0.{n}", local_port=80, peer_addr="10.0.0.9", peer_port=n)
        for n in (1, 2)
    ]
    for sample in range(3):
        writer.sample(
            [
                door(),
                client(10),
                *(left(11 + n) for n in range(20 * sample - 1)),
                *([left(70, "FIN-WAIT-2")] if sample else []),
                *(served if sample else []),
            ],
            steps=[*steps(), step("counters_after")],
            settings=settings if not sample else [],
            counters=[
                counter("TCP.tw", 21 * sample, source="sockstat"),
                counter("TcpExt.TCPTimeWaitOverflow", 7 * sample, source="netstat"),
            ],
        )
    return tmp_path / "r"


def test_time_wait_says_who_closed_first_and_how_near_the_limits_are(waiting: Path) -> None:
    columns = ("time", "who", "side", "local", "peer", "sockets", "ports_percent")
    assert report(waiting, "time_wait", *columns, interval=1) == [
        (time_of(0), "all", None, None, None, 0, None),
        (time_of(1), "all", None, None, None, 22, None),
        (time_of(2), "all", None, None, None, 42, None),
        # Of 100 ports 13 are reserved.
        (time_of(0), "curl (300)", "client", HERE, f"{THERE}:80", 0, 0.0),
        (time_of(1), "curl (300)", "client", HERE, f"{THERE}:80", 20, 23.0),
        (time_of(2), "curl (300)", "client", HERE, f"{THERE}:80", 40, 46.0),
        (time_of(0), "nginx (100)", "server", "*:80", "10.0.0.9", 0, None),
        (time_of(1), "nginx (100)", "server", "*:80", "10.0.0.9", 2, None),
        (time_of(2), "nginx (100)", "server", "*:80", "10.0.0.9", 2, None),
    ]


def test_time_wait_stands_beside_the_kernels_count(waiting: Path) -> None:
    columns = ("kernel", "buckets_percent", "overflows")
    found = report(waiting, "time_wait", *columns, interval=1, top=1)
    assert found == [(0, 0.0, None), (21, 22.0, 7), (42, 42.0, 7)]
    # A slice has the growth of all its samples.
    assert report(waiting, "time_wait", *columns, interval=10, top=1) == [(42, 42.0, 14)]


def test_time_wait_without_settings_and_counters_knows_the_sockets_only(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([left(10), left(11)])
    columns = ("who", "sockets", "ports_percent", "kernel", "buckets_percent", "overflows")
    assert report(tmp_path / "r", "time_wait", *columns) == [
        ("all", 2, None, None, None, None),
        ("unknown", 2, None, None, None, None),
    ]


def test_time_wait_of_a_table_that_was_not_read_is_unknown_not_zero(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([left(10)])
    writer.sample([], steps=steps(tcp="busy"))
    writer.sample([])
    found = report(tmp_path / "r", "time_wait", "sockets", interval=1, top=1)
    assert found == [(1,), (None,), (0,)]


def test_time_wait_of_several_possible_processes_names_none(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([left(10), client(11), client(12, pid=301)])
    writer.sample([left(10), client(11), client(12, pid=301, comm="wget")])
    found = report(tmp_path / "r", "time_wait", "who", interval=10)
    assert found == [("all",), ("unknown",)]


def test_time_wait_of_several_processes_of_one_name_is_of_that_name(tmp_path: Path) -> None:
    Writer(tmp_path / "r").sample([left(10), client(11), client(12, pid=301)])
    assert report(tmp_path / "r", "time_wait", "who") == [("all",), ("curl",)]


def test_connections_tells_the_way_of_each(churned: Path) -> None:
    columns = ("comm", "local", "peer", "duration_us", "life")
    here = f"{HERE}:400"
    assert report(churned, "connections", *columns) == [
        ("curl", f"{here}10", f"{THERE}:80", 3_000_000, "open before, ESTAB, still open"),
        ("curl", f"{here}11", f"{THERE}:80", 1_000_000, "ESTAB, closed first by the peer"),
        (None, f"{here}20", f"{THERE}:80", 0, "between two samples, closed first by this end"),
        (None, "0.0.0.0:40021", None, 0, "between two samples, reset by this end or refused"),
        ("curl", f"{here}12", f"{THERE}:80", 0, "SYN-SENT, never got open"),
    ]


def test_connections_tells_when_a_state_was_first_seen(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([])
    for state in ("SYN-SENT", "ESTAB", "ESTAB", "CLOSE-WAIT", "LAST-ACK"):
        writer.sample([client(10, state, bytes_acked=1, local_addr="fd00::1")])
    writer.sample([])
    assert report(tmp_path / "r", "connections", "local", "life") == [
        (
            "[fd00::1]:40010",
            "SYN-SENT, ESTAB +1.0 s, CLOSE-WAIT +3.0 s, LAST-ACK +4.0 s, closed first by the peer",
        )
    ]


@pytest.mark.parametrize(
    ("order", "cookies"),
    [
        ("duration", [10, 11, 12, 13]),
        ("bytes", [12, 11, 10, 13]),
        ("sent", [12, 10, 11, 13]),
        ("received", [11, 12, 10, 13]),
        ("retrans", [11, 12, 10, 13]),
        ("rtt", [10, 11, 12, 13]),
        ("queue", [12, 10, 11, 13]),
        ("recent", [13, 12, 11, 10]),
    ],
)
def test_connections_come_in_the_order_asked_for(
    order: str, cookies: list[int], tmp_path: Path
) -> None:
    known: Row = {"segs_out": 100, "total_retrans": 0}
    rows = [
        client(10, bytes_sent=50, bytes_received=10, rtt_us=900, send_q=5, **known),
        client(11, bytes_sent=20, bytes_received=90, rtt_us=50, **known | {"total_retrans": 8}),
        client(12, bytes_sent=80, bytes_received=70, recv_q=9, **known | {"total_retrans": 2}),
        client(13, recv_q=None, send_q=None),
    ]
    writer = Writer(tmp_path / "r")
    for sample in range(4):
        writer.sample(rows[: sample + 1])
    writer.sample(rows)
    assert report(tmp_path / "r", "connections", "cookie", order=order) == [(n,) for n in cookies]
    found = report(tmp_path / "r", "connections", "cookie", "retrans_percent", order=order, top=1)
    assert found == [(cookies[0], {10: 0.0, 11: 8.0, 12: 2.0, 13: None}[cookies[0]])]


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """Return ten seconds: curl makes short ones, and some that cannot be told, redis hangs up."""
    writer = Writer(tmp_path / "r")
    doors = [door(), door(2, local_port=6379, **REDIS)]
    half = timedelta(seconds=0.5)
    for sample in range(11):
        times = {"time": time_of(sample) - half}
        writer.sample(
            [*doors, client(10), *([client(60)] if sample in (3, 4, 5, 6) else [])],
            closes=[
                # Sample before to announcement: half a second.
                *(
                    [close(20 + sample, bytes_sent=100, bytes_received=41, **times)]
                    if sample
                    else []
                ),
                # Sampled once, or twice before: 0.5 to 1.5 s, and 3.5 to 4.5 s.
                *([close(60, sampled=True, **times)] if sample == 7 else []),
                *(
                    [
                        close(
                            70 + n,
                            local_addr=f"10.0.0.{n}",
                            local_port=6379,
                            peer_addr="10.0.0.9",
                            peer_port=n,
                            owner_by="listener",
                            **times,
                        )
                        | REDIS
                        for n in range(4)
                    ]
                    if sample == 2
                    else []
                ),
                *([reset(90, **times)] if sample == 9 else []),
            ],
        )
    return tmp_path / "r"


def test_short_lived_says_who_and_what_to_do(short: Path) -> None:
    columns = ("comm", "pid", "role", "service", "short", "closed", "short_percent", "short_per_s")
    assert report(short, "short_lived", *columns) == [
        ("curl", 300, "client", f"{THERE}:80", 10, 11, 90.9, 1.0),
        ("redis", 200, "server", "*:6379", 4, 4, 100.0, 0.4),
        (None, None, "client", None, 1, 1, 100.0, 0.1),
    ]
    advice = ("sent_bytes", "received_bytes", "closed_first", "known_percent", "what")
    assert report(short, "short_lived", *advice) == [
        (100, 41, "local", 0.0, "pool connections or use keep-alive in this process"),
        (
            None,
            None,
            "local",
            100.0,
            "turn on keep-alive in this process, it hangs up on its clients",
        ),
        (
            None,
            None,
            "reset",
            0.0,
            "refused, or reset by this end: see whether the service is up, then for SO_LINGER 0",
        ),
    ]


@pytest.mark.parametrize(
    ("role", "what"),
    [
        ("server", "turn on keep-alive in this process, it hangs up on its clients"),
        ("client", "the service hangs up: turn on keep-alive there, then pool connections"),
    ],
)
def test_short_lived_does_not_advise_keep_alive_to_who_turns_clients_away(
    role: str, what: str, tmp_path: Path
) -> None:
    """Not a byte came back: the server has closed, or reset, what came."""
    for sent in (0, 40):
        writer = Writer(tmp_path / str(sent))
        own = {"local_port": 6379} | REDIS if role == "server" else {}
        moved = {"bytes_sent": sent, "bytes_received": 20, "recv_q": 1}
        if role == "client":
            moved = {"bytes_sent": 20, "bytes_received": sent + 1, "recv_q": 0}
        for sample in range(4):
            ends = close(20 + sample, time=time_of(sample) - timedelta(seconds=0.5), **moved)
            ports = {"peer_port": 50 + sample} if role == "server" else {}
            writer.sample(
                [door(), door(2, local_port=6379, **REDIS)],
                closes=[ends | own | ports] if sample else [],
            )
        ((said,),) = report(tmp_path / str(sent), "short_lived", "what")
        if sent:
            assert said.startswith(what), said
        else:
            assert "without a byte of answer" in said, said
            assert "keep-alive" not in said


@pytest.mark.parametrize(
    ("seconds", "short_ones", "maybe"),
    # The sampled one lived from 3.5 to 4.5 s, the others up to 0.5 s.
    [(0.5, 0, 10), (1.0, 10, 0), (4.0, 10, 1), (4.6, 11, 0)],
)
def test_short_lived_tells_certain_from_possible(
    seconds: float, short_ones: int, maybe: int, short: Path
) -> None:
    found = report(short, "short_lived", "short", "maybe_short", seconds=seconds, top=1)
    assert found == [(short_ones, maybe)]


def test_short_lived_leaves_out_failed_attempts_and_what_was_open_before(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([client(10)])
    writer.sample([client(11, "SYN-SENT", bytes_acked=0)])
    writer.sample([])
    assert report(tmp_path / "r", "short_lived", "short") == []


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """Return three samples: an old connection grows, a new one of both families, one reset."""
    writer = Writer(tmp_path / "r")
    for sample in range(3):
        old: Row = {"bytes_sent": 1000 + 10 * sample, "bytes_received": 5000 + 100 * sample}
        old |= {"segs_out": 500 + 50 * sample, "total_retrans": 10 + sample}
        new: Row = {"bytes_sent": 7, "bytes_received": 70, "segs_out": 4, "total_retrans": 0}
        mapped = {"local_addr": f"::ffff:{HERE}", "peer_addr": f"::ffff:{THERE}"}
        writer.sample(
            [
                door(),
                client(10, rtt_us=300, **old),
                *([client(11, family="inet6", rtt_us=500, **mapped, **new)] if sample else []),
                *([client(12, "SYN-SENT", bytes_acked=0, rtt_us=0)] if sample == 1 else []),
                tcp(20, local_addr=HERE, peer_addr="10.0.0.9", bytes_sent=3, bytes_received=1),
            ],
            closes=[reset(30)] if sample == 2 else [],
        )
    return tmp_path / "r"


def test_peers_moved_what_was_added_in_this_time(talk: Path) -> None:
    columns = ("way", "peer_addr", "port", "comm", "connections", "open")
    assert report(talk, "peers", *columns) == [
        ("to", THERE, 80, "curl", 2, 2),
        ("from", "10.0.0.9", 80, "nginx", 1, 1),
        ("to", None, None, None, 1, 0),
    ]
    columns = ("sent_bytes", "received_bytes", "retrans_percent", "rtt_us", "rtt_max_us", "resets")
    assert report(talk, "peers", *columns, "failed") == [
        # 20 and 7 bytes; 2 of 104 segments; the attempt had no round trip.
        (27, 270, 1.92, 400, 500, 0, 1),
        (0, 0, None, None, None, 0, 0),
        (None, None, None, None, None, 1, 0),
    ]


def test_peers_from_a_later_moment_take_the_sample_before_as_baseline(talk: Path) -> None:
    columns = ("peer_addr", "sent_bytes", "received_bytes")
    found = report(talk, "peers", *columns, start="+2s", top=2)
    # 10 bytes of the old one, nothing of the new one, which the sample before had shown.
    assert found == [(THERE, 10, 100), ("10.0.0.9", 0, 0)]


@pytest.mark.parametrize(
    ("order", "first"),
    [
        ("bytes", THERE),
        ("connections", THERE),
        ("retrans", THERE),
        ("rtt", THERE),
        ("resets", None),
        ("failed", THERE),
    ],
)
def test_peers_come_in_the_order_asked_for(order: str, first: str | None, talk: Path) -> None:
    assert report(talk, "peers", "peer_addr", order=order, top=1) == [(first,)]


def exhausting(
    path: Path, *, reuse: str | None = "0", there: str = THERE, samples: int = 4
) -> Path:
    """Write samples with 2 more of 10 ports in use each second, one of them in TIME-WAIT."""
    writer = Writer(path)
    settings = [
        setting("ip_local_port_range", "40000 40011"),
        setting("ip_local_reserved_ports", "40000,40001"),
        *([setting("tcp_tw_reuse", reuse)] if reuse else []),
    ]
    for sample in range(samples):
        writer.sample(
            [
                door(),
                # A listener's connections and ports outside the range use none of it.
                tcp(5, local_addr=HERE, peer_addr=there, peer_port=40003),
                client(6, peer_addr=there, local_port=50000),
                *(client(10 + n, peer_addr=there, local_port=40002 + n) for n in range(sample)),
                *(left(20 + n, peer_addr=there, local_port=40007 + n) for n in range(sample)),
            ],
            settings=settings if not sample else [],
        )
    return path


def test_port_exhaustion_tells_the_room_and_when_it_ends(tmp_path: Path) -> None:
    exhausting(tmp_path / "r")
    columns = ("comm", "pid", "local_addr", "service", "ports", "peak", "peak_percent")
    found = report(tmp_path / "r", "port_exhaustion", *columns)
    assert found == [("curl", 300, HERE, f"{THERE}:80", 10, 6, 60.0)]
    trend = ("peak_time", "time_wait_percent", "last", "reusable", "room", "growth_per_s")
    found = report(tmp_path / "r", "port_exhaustion", *trend, "exhausted_in_s")
    assert found == [(time_of(3), 50.0, 6, 0, 4, 2.0, 2.0)]


@pytest.mark.parametrize(
    ("reuse", "there", "reusable", "room", "growth"),
    [
        ("0", "127.0.0.1", 0, 4, 2.0),
        ("1", THERE, 3, 7, 1.0),
        ("2", THERE, 0, 4, 2.0),
        ("2", "127.0.0.1", 3, 7, 1.0),
        (None, THERE, None, 4, 2.0),
    ],
)
def test_port_exhaustion_counts_ports_that_the_kernel_gives_again_as_room(
    reuse: str | None, there: str, reusable: int | None, room: int, growth: float, tmp_path: Path
) -> None:
    exhausting(tmp_path / "r", reuse=reuse, there=there)
    found = report(tmp_path / "r", "port_exhaustion", "reusable", "room", "growth_per_s")
    assert found == [(reusable, room, growth)]


def test_port_exhaustion_of_a_full_range_is_now(tmp_path: Path) -> None:
    exhausting(tmp_path / "r", samples=6)
    columns = ("peak_percent", "room", "exhausted_in_s")
    assert report(tmp_path / "r", "port_exhaustion", *columns) == [(100.0, 0, 0.0)]


def test_port_exhaustion_of_a_number_that_does_not_grow_has_no_forecast(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for _ in range(4):
        writer.sample([client(10)], settings=[setting("ip_local_port_range", "40000 40011")])
    columns = ("ports", "last", "growth_per_s", "exhausted_in_s")
    assert report(tmp_path / "r", "port_exhaustion", *columns) == [(12, 1, 0.0, None)]


@pytest.mark.parametrize(
    ("levels", "growth", "forecast"),
    [
        ((0, 2, 4, 6, 8), 2.0, 2.0),
        ((0, 3, 5, 6, 6, 6), 0.0, None),
        ((0, 2, 4, 6, 7, 7, 7), 0.0, None),
        ((6, 4, 4, 4, 5, 6), 1.0, 6.0),
    ],
)
def test_port_exhaustion_forecasts_only_growth_that_goes_on(
    levels: tuple[int, ...], growth: float, forecast: float | None, tmp_path: Path
) -> None:
    writer = Writer(tmp_path / "r")
    for level in levels:
        sockets = [client(10 + n, local_port=40000 + n) for n in range(level)]
        writer.sample(sockets, settings=[setting("ip_local_port_range", "40000 40011")])
    columns = ("growth_per_s", "exhausted_in_s")
    assert report(tmp_path / "r", "port_exhaustion", *columns) == [(growth, forecast)]


def test_port_exhaustion_forecasts_nothing_from_the_end_of_a_rise(tmp_path: Path) -> None:
    """A tenth of forty samples: one more port in it is not the pace of the ten before."""
    writer = Writer(tmp_path / "r")
    for sample in range(41):
        level = 10 * min(sample, 36) + (sample > 38)
        sockets = [client(10 + n, local_port=40000 + n) for n in range(level)]
        writer.sample(sockets, settings=[setting("ip_local_port_range", "40000 40999")])
    ((growth, forecast),) = report(
        tmp_path / "r", "port_exhaustion", "growth_per_s", "exhausted_in_s"
    )
    assert 0 < growth < 1
    assert forecast is None


def test_port_exhaustion_by_time_wait_alone_levels_off_after_a_minute(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for sample in range(4):
        wide = [setting("ip_local_port_range", "32768 60999"), setting("tcp_tw_reuse", "0")]
        writer.sample([left(10 + n) for n in range(sample)], settings=wide)
    columns = ("comm", "room", "growth_per_s", "exhausted_in_s")
    assert report(tmp_path / "r", "port_exhaustion", *columns) == [(None, 28229, 1.0, None)]


def test_port_exhaustion_without_settings_knows_no_room(tmp_path: Path) -> None:
    Writer(tmp_path / "r").sample([client(10), client(11, comm="wget", pid=301)])
    columns = ("comm", "pid", "ports", "peak", "peak_percent", "reusable", "room", "exhausted_in_s")
    found = report(tmp_path / "r", "port_exhaustion", *columns)
    assert found == [("*", None, None, 2, None, None, None, None)]


def test_port_exhaustion_adds_ipv4_of_both_kinds_of_socket(tmp_path: Path) -> None:
    mapped = {"local_addr": f"::ffff:{HERE}", "peer_addr": f"::ffff:{THERE}", "family": "inet6"}
    Writer(tmp_path / "r").sample([client(10), client(11, **mapped)])
    columns = ("local_addr", "service", "peak")
    assert report(tmp_path / "r", "port_exhaustion", *columns) == [(HERE, f"{THERE}:80", 2)]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "many",
        "40000",
        "40000 x",
        "40000 99999999999999999999",
        "40000 9000000000000000000",
        "40011 40000",
    ],
)
def test_a_setting_that_is_none_leaves_the_range_unknown(value: str, tmp_path: Path) -> None:
    settings = [setting("ip_local_port_range", value), setting("tcp_max_tw_buckets", value)]
    settings.append(setting("ip_local_reserved_ports", "a-b,-,7-,,"))
    Writer(tmp_path / "r").sample([left(10)], settings=settings)
    assert report(tmp_path / "r", "port_exhaustion", "ports") == [(None,)]
    assert report(tmp_path / "r", "time_wait", "ports_percent") == [(None,), (None,)]


def pair(cookie: int, *, grown: int = 0, **columns: Any) -> list[Row]:
    """Return both ends of curl's connection to nginx, the server's in a socket of both families."""
    ends = {"local_addr": HERE, "peer_addr": HERE, "local_port": 41000 + cookie, "peer_port": 80}
    moved = {"bytes_sent": 10 + grown, "bytes_received": 500 + grown}
    turned = {
        "local_addr": f"::ffff:{HERE}",
        "peer_addr": f"::ffff:{HERE}",
        "local_port": 80,
        "peer_port": 41000 + cookie,
        "family": "inet6",
    }
    back = {"bytes_sent": 500 + grown, "bytes_received": 10 + grown}
    return [
        client(cookie) | ends | moved | columns,
        tcp(cookie + 1) | turned | back | columns,
    ]


MAP = ("client", "server", "service", "ends", "connections", "open")


def test_dependencies_join_both_ends_of_a_host(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([door(), *pair(10)])
    writer.sample([door(), *pair(10, grown=5), *pair(20)])
    columns = (*MAP, "to_server_bytes", "to_client_bytes")
    assert report(tmp_path / "r", "dependencies", *columns) == [
        # 5 more each way of the first, 10 and 500 of the second.
        ("curl (300)", "nginx (100)", f"{HERE}:80", "both", 2, 2, 15, 505),
    ]


def test_dependencies_keep_what_is_on_another_host_as_its_address(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    come = tcp(30, local_addr="fd00::1", peer_addr="fd00::9")
    writer.sample([door(), client(10), come], closes=[])
    writer.sample([door(), client(10), come], closes=[reset(40)])
    assert report(tmp_path / "r", "dependencies", *MAP) == [
        ("curl (300)", THERE, f"{THERE}:80", "client", 1, 1),
        ("fd00::9", "nginx (100)", "[fd00::1]:80", "server", 1, 1),
        (None, None, None, "client", 1, 0),
    ]


def test_dependencies_put_what_was_never_sampled_with_the_only_process(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([door(), client(10)])
    writer.sample([door(), client(10)], closes=[close(20), close(21)])
    assert report(tmp_path / "r", "dependencies", *MAP) == [
        ("curl (300)", THERE, f"{THERE}:80", "client", 3, 1)
    ]


@pytest.mark.parametrize(
    ("others", "joined"), [(1, True), (2, False)], ids=["one other", "two others"]
)
def test_dependencies_join_two_namespaces_if_there_is_no_other(
    others: int, joined: bool, tmp_path: Path
) -> None:
    ours, theirs = pair(10)
    elsewhere = [theirs | {"netns": NETNS + n, "cookie": 100 + n} for n in range(1, others + 1)]
    doors = [door(50 + n, netns=NETNS + n) for n in range(1, others + 1)]
    all_steps = [step("tcp", netns=NETNS + n) for n in range(others + 1)]
    Writer(tmp_path / "r").sample([ours, *elsewhere, *doors], steps=all_steps)
    columns = ("client", "server", "ends", "client_netns", "server_netns")
    found = report(tmp_path / "r", "dependencies", *columns)
    if joined:
        assert found == [("curl (300)", "nginx (100)", "both", NETNS, NETNS + 1)]
    else:
        assert sorted(row[2] for row in found) == ["client", "server", "server"]


def test_dependencies_never_join_the_loopback_of_two_namespaces(tmp_path: Path) -> None:
    loop: Row = {"local_addr": "127.0.0.1", "peer_addr": "127.0.0.1"}
    ours, theirs = pair(10, **loop)
    Writer(tmp_path / "r").sample(
        [ours, theirs | {"netns": NETNS + 1}, door(netns=NETNS + 1)],
        steps=[step("tcp"), step("tcp", netns=NETNS + 1)],
    )
    assert {row[0] for row in report(tmp_path / "r", "dependencies", "ends")} == {
        "client",
        "server",
    }


def test_dependencies_name_the_server_of_unix_sockets_by_its_name(tmp_path: Path) -> None:
    named = {"local_addr": "/run/app.sock"}
    unnamed = {"local_addr": None}
    ends = [
        unix(1, inode=11, peer_inode=12, **named, **REDIS),
        unix(2, inode=12, peer_inode=11, **unnamed, **CURL),
        # A pair without names, and a datagram socket that many send to.
        unix(3, inode=13, peer_inode=14, **unnamed),
        unix(4, inode=14, peer_inode=13, **unnamed),
        unix(5, inode=15, peer_inode=0, netid="u_dgr", local_addr="/dev/log", **REDIS),
        unix(6, inode=16, peer_inode=15, netid="u_dgr", **unnamed, **CURL),
        unix(7, state="LISTEN", inode=17, peer_inode=0, **named, **REDIS),
    ]
    writer = Writer(tmp_path / "r")
    writer.sample(ends)
    writer.sample(ends[2:])
    columns = (*MAP, "netid", "to_server_bytes")
    assert report(tmp_path / "r", "dependencies", *columns) == [
        ("curl (300)", "redis (200)", "/dev/log", "both", 1, 1, "u_dgr", None),
        ("curl (300)", "redis (200)", "/run/app.sock", "both", 1, 0, "u_str", None),
        ("nginx (100)", "nginx (100)", None, "both", 1, 1, "u_str", None),
    ]


def test_a_recording_of_nothing_gives_the_columns_and_no_numbers(tmp_path: Path) -> None:
    Writer(tmp_path / "r").sample([])
    with analyzer.open(tmp_path / "r") as opened:
        for name in NAMES:
            table = opened.report(name).table()
            assert table.column_names == list(find_report(name).columns)
            # the total, and the only slice
            assert table.num_rows == (2 if name == "churn" else 0)


@pytest.mark.parametrize("table", ["sockets", "closes", "counters", "samples"])
def test_a_file_of_one_table_alone_is_enough_to_run(table: str, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([door(), client(10), left(11)], counters=counts(1, 1, 0, 0))
    writer.sample([door(), client(10)], closes=[close(20)], counters=counts(2, 1, 0, 0))
    writer.seal()
    with analyzer.open(tmp_path / "r" / table / "000001.parquet") as opened:
        for name in NAMES:
            found = opened.report(name).table()
            assert found.column_names == list(find_report(name).columns)


def test_sockets_alone_tell_neither_short_connections_nor_coverage(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([client(10)])
    writer.sample([client(10), client(11)], closes=[close(20)], counters=counts(2, 1, 0, 0))
    writer.sample([client(10)])
    writer.seal()
    alone = tmp_path / "r/sockets/000001.parquet"
    columns = ("who", "opened", "closed", "kernel_failed", "coverage_percent")
    # the totals, and the only slice
    assert report(alone, "churn", *columns, interval=10, top=0) == 2 * [
        ("all", 1, 1, None, None),
        ("curl (300)", 1, 1, None, None),
    ]
    # One sample showed it: it lived up to two seconds.
    assert report(alone, "short_lived", "short", "maybe_short") == [(0, 1)]


def test_closes_alone_tell_what_was_closed(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([client(10)])
    writer.sample([client(10)], closes=[close(20), close(21, peer_port=443)])
    writer.seal()
    alone = tmp_path / "r/closes/000001.parquet"
    assert report(alone, "churn", "opened", "closed", interval=10, top=1)[0] == (2, 2)
    # Who listens is not known: the lower port serves.
    assert sorted(report(alone, "dependencies", "client", "server", "service")) == [
        (HERE, THERE, f"{THERE}:443"),
        (HERE, THERE, f"{THERE}:80"),
    ]


def test_where_chooses_sockets(churned: Path) -> None:
    condition = {"where": "local_port = 40010"}
    assert report(churned, "connections", "cookie", **condition) == [(10,)]
    assert report(churned, "peers", "connections", **condition) == [(1,)]
    assert report(churned, "port_exhaustion", "peak", **condition) == [(1,)]
    assert report(churned, "dependencies", "connections", **condition) == [(1,)]
    assert report(churned, "time_wait", "who", **condition) == []
    assert report(churned, "churn", "opened", interval=10, **condition) == [(0,), (0,)]


@pytest.mark.parametrize("name", NAMES)
def test_golden(
    name: str, request: pytest.FixtureRequest, snapshot: SnapshotAssertion, tmp_path: Path
) -> None:
    if name == "port_exhaustion":
        path = exhausting(tmp_path / "r")
    else:
        fixtures = {"time_wait": "waiting", "short_lived": "short", "peers": "talk"}
        path = request.getfixturevalue(fixtures.get(name, "churned"))
    options = {"interval": 2} if name in ("churn", "time_wait") else {}
    assert golden(path, name, **options) == snapshot
