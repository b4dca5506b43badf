"""What findings, and the reports beside them, must tell apart: namespaces, scopes, limits of 0."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import analyzer
from analyzer.sql.catalog import read_findings
from analyzer.sql.views import Scope
from tests.analyzer.support import recordings
from tests.analyzer.support.recordings import (
    NETNS,
    Row,
    carried,
    counter,
    micros,
    step,
    tcp,
    time_of,
)

OTHER = NETNS + 7
THIRD = NETNS + 8
STEPS = [
    step(name, netns=netns)
    for name in ("tcp", "udp", "unix", "owners", "counters")
    for netns in (NETNS, OTHER, THIRD)
]


def play(path: Path, samples: Sequence[dict[str, Any]]) -> Path:
    return recordings.play(path, samples, STEPS)


def ask(path: Path, name: str, scope: Scope | None = None) -> list[dict[str, Any]]:
    finding = read_findings()[name]
    with analyzer.open(path) as opened:
        rows: list[dict[str, Any]] = opened.engine.table(
            finding.sql, scope or Scope(), finding.values({}), few=True
        ).to_pylist()
    return rows


def report(path: Path, name: str, **given: Any) -> list[dict[str, Any]]:
    with analyzer.open(path) as opened:
        rows: list[dict[str, Any]] = opened.report(name, **given).table().to_pylist()
    return rows


def since(sample: int) -> Scope:
    return Scope(start=micros(time_of(sample)))


def app(cookie: int, state: str = "ESTAB", *, host: str = "127.0.0.1", **columns: Any) -> Row:
    """Return a connection of app to port 8080 of this address, from the same one."""
    ends = {"local_addr": host, "local_port": 40_001, "peer_addr": host, "peer_port": 8080}
    own = {"pid": 7, "comm": "app", "start_us": 1, "netns": NETNS}
    return tcp(cookie, state, **ends | own | columns)


def server(cookie: int, *, host: str = "127.0.0.1", **columns: Any) -> Row:
    """Return the other end, of slow, which does not read."""
    ends: Row = {"local_addr": host, "local_port": 8080, "peer_addr": host, "peer_port": 40_001}
    own: Row = {"pid": 8, "comm": "slow", "start_us": 2, "netns": NETNS}
    queue: Row = {"recv_q": 60_000, "rcv_wnd": 0, "rcv_mss": 1448, "rmem_alloc": 90, "rcvbuf": 100}
    return tcp(cookie, **ends | own | queue | columns)


def door(cookie: int = 1, **columns: Any) -> Row:
    own: Row = {"local_addr": "127.0.0.1", "local_port": 8080, "comm": "hung", "pid": 3}
    ends: Row = {"send_q": 128, "peer_addr": "0.0.0.0", "peer_port": 0, "netns": NETNS}
    return tcp(cookie, "LISTEN", **own | ends | columns)


PERSIST: Row = {"send_q": 9000, "timer": "persist", "snd_wnd": 0}


@pytest.mark.parametrize(
    ("host", "reader", "netns", "found"),
    [
        ("127.0.0.1", "127.0.0.1", NETNS, False),
        ("127.0.0.1", "127.0.0.1", OTHER, True),
        ("127.0.0.1", "::ffff:127.0.0.1", NETNS, False),
        ("127.0.0.1", "::ffff:127.0.0.1", OTHER, True),
        ("::1", "::1", OTHER, True),
        ("10.0.0.1", "::ffff:10.0.0.1", OTHER, False),
        ("10.127.0.1", "10.127.0.1", OTHER, False),
    ],
)
def test_the_reader_is_the_other_end_of_that_connection(
    host: str, reader: str, netns: int, found: bool, tmp_path: Path
) -> None:
    """Every namespace has a loopback of its own; a mapped address is the address."""
    rows = [app(10, host=host, **PERSIST), server(11, host=reader, netns=netns)]
    path = play(tmp_path / "r", [{"sockets": rows} for _ in range(8)])
    assert [row["comm"] for row in ask(path, "peer_stalled")] == (["app"] if found else [])
    (stalled,) = ask(path, "reader_stalled")
    assert stalled["comm"] == "slow"
    assert (" of app (pid 7) sends" in stalled["sentence"]) != found


def test_of_two_readers_in_namespaces_that_are_alike_none_is_named(tmp_path: Path) -> None:
    """Containers of one image have the same addresses, and ports that the kernel chose alike."""
    sender = app(10, host="10.0.0.1", bytes_acked=9, bytes_sent=9, **PERSIST)
    reader = server(11, host="10.0.0.1", netns=OTHER)
    idle = server(12, host="10.0.0.1", netns=THIRD, recv_q=0, comm="idle", pid=9)
    rows = [sender, reader, idle]
    path = play(tmp_path / "r", [{"sockets": rows} for _ in range(8)])
    assert [row["comm"] for row in ask(path, "peer_stalled")] == ["app"]
    (stalled,) = ask(path, "reader_stalled")
    assert " of app (pid 7) sends" in stalled["sentence"]
    for name in ("queue_growth", "stalls"):
        culprits = {row["culprit"] for row in report(path, name) if row["queue"] == "Send-Q"}
        assert culprits == {"peer 10.0.0.1"}


def test_churn_tells_namespaces_apart(tmp_path: Path) -> None:
    rows = [
        row
        for n, netns in enumerate((NETNS, OTHER))
        for row in (
            door(1 + n, netns=netns, pid=30 + n),
            *(server(100 * n + k, netns=netns, peer_port=50_000 + k, pid=30 + n) for k in range(4)),
        )
    ]
    doors = [row for row in rows if row["state"] == "LISTEN"]
    path = play(tmp_path / "r", [{"sockets": doors}, {"sockets": rows}])
    totals = [row for row in report(path, "churn", by="listener") if row["time"] is None]
    assert [(row["who"], row["opened"], row["netns"]) for row in totals] == [
        ("all", 8, None),
        ("127.0.0.1:8080", 4, NETNS),
        ("127.0.0.1:8080", 4, OTHER),
    ]


TRIES: Row = {"backoff": 3, "retransmits": 3, "timer": "on", "send_q": 4096, "bytes_acked": 100}
LOST: Row = {"total_retrans": 150, "bytes_sent": 1000, "bytes_retrans": 900}
SILENT = [
    ("network_stall", app(10, **TRIES)),
    ("unanswered", app(10, "SYN-SENT", send_q=1)),
    ("retransmits", app(10, **LOST)),
]


@pytest.mark.parametrize(("name", "row"), SILENT, ids=[name for name, _ in SILENT])
@pytest.mark.parametrize(
    ("host", "netns", "found"),
    [
        ("127.0.0.1", NETNS, False),
        ("127.0.0.1", OTHER, True),
        ("10.0.0.2", OTHER, False),
    ],
)
def test_a_full_listener_of_another_loopback_explains_nothing(
    name: str, row: Row, host: str, netns: int, found: bool, tmp_path: Path
) -> None:
    full = door(local_addr=host, recv_q=129, netns=netns)
    own = row | {"peer_addr": host}
    idle = app(9, local_port=40_000, peer_addr="10.0.0.9", peer_port=9)
    samples = [{"sockets": [full, idle]}] + [{"sockets": [full, idle, own]} for _ in range(8)]
    path = play(tmp_path / "r", samples)
    assert len(ask(path, name)) == found
    # Whichever sockets are asked for: the listener is there.
    assert len(ask(path, name, Scope(where="comm = 'app'"))) == found


@pytest.mark.parametrize(("name", "row"), SILENT, ids=[name for name, _ in SILENT])
@pytest.mark.parametrize(("client", "found"), [("10.0.0.1", False), ("10.0.0.7", True)])
def test_a_full_listener_elsewhere_explains_what_its_own_clients_see(
    name: str, row: Row, client: str, found: bool, tmp_path: Path
) -> None:
    """Another namespace may have the address and port of a host that is none of ours."""
    full = door(local_addr="10.0.0.2", recv_q=129, netns=OTHER)
    ends = {"local_addr": "10.0.0.2", "peer_addr": client, "peer_port": 40_900, "netns": OTHER}
    waits = server(12, recv_q=0) | ends
    own = row | {"local_addr": "10.0.0.1", "peer_addr": "10.0.0.2"}
    idle = app(9, local_port=40_000, peer_addr="10.0.0.9", peer_port=9)
    samples = [{"sockets": [full, waits, idle, *([own] if n else [])]} for n in range(9)]
    assert len(ask(play(tmp_path / "r", samples), name)) == found


def netstat(*values: int, name: str = "TcpExt.ListenOverflows") -> list[list[Row]]:
    return [[counter(name, value, source="netstat")] for value in values]


def test_a_listener_that_comes_has_dropped_since_then(tmp_path: Path) -> None:
    """Between its first sample and the one before it is as good as between two."""
    counters = netstat(0, 50, 50)
    rows = [[], [door(drops=50)], [door(drops=50)]]
    path = play(
        tmp_path / "r",
        [{"sockets": r, "counters": c} for r, c in zip(rows, counters, strict=True)],
    )
    (found,) = ask(path, "accept_queue")
    assert (found["comm"], found["measured"], found["since"]) == ("hung", 50, time_of(1))
    (line,) = report(path, "listen_queues")
    assert (line["verdict"], line["drops"]) == ("drops", 50)
    # From its second sample on it drops nothing.
    assert ask(path, "accept_queue", since(2)) == []
    (line,) = report(path, "listen_queues", start="+2s")
    assert (line["verdict"], line["drops"]) == ("ok", 0)


def test_what_a_listener_dropped_before_the_recording_is_not_counted(tmp_path: Path) -> None:
    samples = [{"sockets": [door(drops=50)]}, {"sockets": [door(drops=50)]}]
    path = play(tmp_path / "r", samples)
    assert ask(path, "accept_queue") == []
    (line,) = report(path, "listen_queues")
    assert line["drops"] == 0
    # Nor where no sample before says that it was not there: the table could not be read.
    failed = [step("tcp", outcome="failed")]
    late = play(tmp_path / "late", [{"steps": failed}, *samples])
    assert ask(late, "accept_queue") == []


@pytest.mark.parametrize(
    ("where", "found"), [(None, 1), ("state = 'LISTEN'", 1), ("local_port = 81", 0)]
)
def test_no_unknown_listener_is_accused_where_sockets_are_chosen(
    where: str | None, found: int, tmp_path: Path
) -> None:
    counters = netstat(0, 50)
    rows = [door(1, drops=0), door(2, local_port=81, drops=0)]
    path = play(tmp_path / "r", [{"sockets": rows, "counters": c} for c in counters])
    told = ask(path, "accept_queue", Scope(where=where))
    assert [row["comm"] for row in told] == [None] * found


def test_the_first_step_of_a_counter_in_the_scope_counts(tmp_path: Path) -> None:
    """The value before --from is what it grew from."""
    gone = play(tmp_path / "gone", [{"counters": c} for c in netstat(0, 7, 57)])
    (found,) = ask(gone, "accept_queue", since(2))
    assert found["measured"] == 50
    (found,) = ask(gone, "accept_queue", Scope(end=micros(time_of(2))))
    assert found["measured"] == 7
    errors = netstat(0, 7, 57, name="Udp.RcvbufErrors")
    lost = play(tmp_path / "lost", [{"counters": c} for c in errors])
    (found,) = ask(lost, "udp_drops", since(2))
    assert (found["measured"], found["since"]) == (50, time_of(2))


def named(drops: int, cookie: int = 5, **columns: Any) -> Row:
    own = {"netid": "udp", "local_port": 53, "recv_q": 900, "rcvbuf": 1000, "comm": "named"}
    return tcp(cookie, "UNCONN", **own | {"drops": drops} | columns)


def test_a_udp_socket_that_comes_has_dropped_since_then(tmp_path: Path) -> None:
    errors = netstat(0, 50, 50, name="Udp.RcvbufErrors")
    rows = [[], [named(50)], [named(50)]]
    samples = [{"sockets": r, "counters": c} for r, c in zip(rows, errors, strict=True)]
    path = play(tmp_path / "r", samples)
    (found,) = ask(path, "udp_drops")
    assert (found["comm"], found["measured"]) == ("named", 50)
    assert ask(path, "udp_drops", since(2)) == []
    (line,) = report(path, "udp_drops")
    assert (line["comm"], line["drops"]) == ("named", 50)


@pytest.mark.parametrize(("where", "found"), [(None, 1), ("comm = 'other'", 0)])
def test_no_unknown_reader_is_accused_where_sockets_are_chosen(
    where: str | None, found: int, tmp_path: Path
) -> None:
    errors = netstat(0, 50, name="Udp.RcvbufErrors")
    rows = [named(0), named(0, 6, comm="other")]
    path = play(tmp_path / "r", [{"sockets": rows, "counters": c} for c in errors])
    told = ask(path, "udp_drops", Scope(where=where))
    assert [row["comm"] for row in told] == [None] * found


def churned(path: Path, **settings: str) -> Path:
    """Write thirty closes of connections to a server elsewhere, in ten seconds."""
    ends = {"local_addr": "10.0.0.1", "peer_addr": "10.0.0.2", "peer_port": 8080}
    flags = {"netid": "tcp", "connection": True, "sampled": False}
    given = {"ip_local_port_range": "40000 40119"} | settings
    rows = [{"name": f"net.ipv4.{name}", "value": value} for name, value in given.items()]
    return play(
        path,
        [
            {
                "settings": rows if n == 0 else [],
                "closes": [
                    {"cookie": 100 + 3 * n + k, "local_port": 40_000 + 3 * n + k} | ends | flags
                    for k in range(3)
                ],
            }
            for n in range(10)
        ],
    )


def test_a_limit_of_nothing_is_none(tmp_path: Path) -> None:
    (found,) = ask(churned(tmp_path / "some", tcp_max_tw_buckets="100"), "short_connections")
    assert found["sentence"].endswith("of the 100 TIME-WAIT sockets allowed")
    assert ask(churned(tmp_path / "none", tcp_max_tw_buckets="0"), "short_connections") == []
    reserved = churned(tmp_path / "all", ip_local_reserved_ports="40000-40119")
    assert ask(reserved, "short_connections") == []


def test_a_tracking_table_without_a_limit_is_never_full(tmp_path: Path) -> None:
    def tracked(**values: int) -> list[Row]:
        return [counter(name, value, source="nf_conntrack") for name, value in values.items()]

    path = play(tmp_path / "r", [{"counters": tracked(count=80, max=0, drop=5)}])
    assert ask(path, "conntrack") == []
    drops = [{"counters": tracked(count=80, max=0, drop=5)}, {"counters": tracked(drop=9)}]
    (found,) = ask(play(tmp_path / "drops", drops), "conntrack")
    assert (found["severity"], found["score"], found["measured"]) == ("critical", 1, 4)


@pytest.mark.parametrize("subflow", [True, False, None])
def test_a_subflow_is_neither_accepted_nor_an_orphan(subflow: bool | None, tmp_path: Path) -> None:
    kept: Row = {"subflow": subflow, "recv_q": 100, "bytes_received": 100}
    rows = [
        carried(10, "ESTAB", **kept),
        carried(11, "FIN-WAIT-1", subflow=subflow),
    ]
    settings = [{"name": "net.ipv4.tcp_max_orphans", "value": "100"}]
    path = play(
        tmp_path / "r",
        [{"sockets": rows, "settings": settings if n == 0 else []} for n in range(8)],
    )
    stalls = [row["verdict"] for row in report(path, "stalls")]
    assert stalls == ([] if subflow else ["not accepted"])
    assert report(path, "orphans")[0]["peak"] == (0 if subflow else 1)


def test_a_stall_outlasts_its_owner(tmp_path: Path) -> None:
    """The last look shows it closed, without a process."""
    nobody = dict.fromkeys(("pid", "comm", "start_us"))
    rows = [app(10, **TRIES)] * 7 + [app(10, **TRIES) | {"inode": 0} | nobody]
    (found,) = ask(play(tmp_path / "r", [{"sockets": [row]} for row in rows]), "network_stall")
    assert (found["comm"], found["measured"], found["severity"]) == ("app", 7, "critical")


def test_a_server_is_one_whichever_sockets_are_chosen(tmp_path: Path) -> None:
    """Its listener tells which end it is, chosen or not."""
    ends = {"local_addr": "10.0.0.1", "local_port": 80, "peer_addr": "10.0.0.9"}
    flags = {"netid": "tcp", "connection": True, "sampled": False}
    ports = [{"name": "net.ipv4.ip_local_port_range", "value": "40000 40119"}]
    path = play(
        tmp_path / "r",
        [
            {
                "settings": ports if n == 0 else [],
                "sockets": [door(local_addr="0.0.0.0", local_port=80, comm="web", pid=9)],
                "closes": [{"cookie": 100 + n, "peer_port": 40_000 + n} | ends | flags],
            }
            for n in range(10)
        ],
    )
    (found,) = ask(path, "short_connections", Scope(where="local_port > 0 AND peer_port > 0"))
    assert found["subject"] == "10.0.0.1:80"
    assert " of web (pid 9)" in found["sentence"]


def test_sockets_that_come_and_go_unbound_are_no_leak(tmp_path: Path) -> None:
    """unexplained tells when one was found first, and not when it went."""
    owner = {"pid": 100, "start_us": 5_000_000, "comm": "nginx", "fd_limit": 64}
    path = play(
        tmp_path / "r",
        [
            {
                "sockets": [tcp(1, owner_by="fd")],
                "owners": [owner | {"valid_from": time_of(0)}] if sample == 0 else [],
                "unexplained": [{"inode": 5000 + sample, "pid": 100, "start_us": 5_000_000}],
            }
            for sample in range(90)
        ],
    )
    assert ask(path, "descriptor_leak") == []
