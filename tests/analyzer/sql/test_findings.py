"""Each finding on recordings of known rows: found at its threshold, not found just below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

import analyzer
from analyzer.sql.catalog import FINDING_COLUMNS, read_catalog, read_findings
from analyzer.sql.views import Scope
from tests.analyzer.support import recordings
from tests.analyzer.support.recordings import (
    FACTS,
    NETNS,
    Row,
    Writer,
    carried,
    counter,
    every_table,
    micros,
    small,
    step,
    tcp,
    time_of,
    unix,
    unowned,
    write_segment,
)

Sample = Mapping[str, Any]
Samples = Sequence[Sample]
Build = Callable[[bool], Samples]

HOSTILE = "\x1b[31m%s %d\n`|<b>'\";--\u202e{0}"
OK = [step(name) for name in ("tcp", "udp", "unix", "owners", "counters", "closes")]

TYPES = {
    "VARCHAR": "string",
    "DOUBLE": "double",
    "BIGINT": "int64",
    "INTEGER": "int32",
    "TIMESTAMP": "timestamp[us]",
}

# The kernel's clocks know when it began, if that was before the first sample.
CLOCKED = {"accept_queue"}

CASES: list[tuple[str, str, Build]] = []


def case(build: Build) -> Build:
    """Take samples that cross a threshold, or stay below; named FINDING__WHAT."""
    name = build.__name__
    CASES.append((name.partition("__")[0], name, build))
    return build


def play(path: Path, samples: Samples) -> Path:
    """Write a recording of these samples."""
    return recordings.play(path, samples, OK)


def ask(path: Path, name: str, scope: Scope | None = None, **given: Any) -> list[dict[str, Any]]:
    finding = read_findings()[name]
    with analyzer.open(path) as opened:
        rows: list[dict[str, Any]] = opened.engine.table(
            finding.sql, scope or Scope(), finding.values(given), few=True
        ).to_pylist()
    return rows


def grown(name: str, by: int, source: str = "netstat") -> tuple[list[Row], list[Row]]:
    """Return the counters of a sample and of a later one."""
    return [counter(name, 100, source=source)], [counter(name, 100 + by, source=source)]


def sysctl(name: str, value: str) -> Row:
    return {"name": f"net.ipv4.{name}", "value": value}


def client(number: int, state: str = "ESTAB", **columns: Any) -> Row:
    """Return a connection of app from a local port of its own to a server elsewhere."""
    ends = {"local_addr": "10.0.0.1", "peer_addr": "10.0.0.2", "peer_port": 8080}
    own = {"local_port": 40_000 + number, "pid": 7, "comm": "app", "start_us": 1}
    return tcp(1000 + number, state, **(ends | own | columns))


def listener(**columns: Any) -> Row:
    return tcp(1, "LISTEN", **{"send_q": 128, "peer_addr": "0.0.0.0", "peer_port": 0} | columns)


def owner(limit: int | None) -> Row:
    return {
        "pid": 7,
        "start_us": 1,
        "comm": "app",
        "fd_limit": limit,
        "valid_from": time_of(0),
    }


# Accept and SYN queues.


@case
def accept_queue__full_in_two_samples(above: bool) -> Samples:
    return [{"sockets": [listener(recv_q=q)]} for q in (0, 129, 129 if above else 128, 0)]


@case
def accept_queue__drops_between_samples(above: bool) -> Samples:
    before, after = grown("TcpExt.ListenOverflows", 1)
    return [
        {"sockets": [listener(drops=5)], "counters": before},
        {"sockets": [listener(drops=6 if above else 5)], "counters": after if above else []},
    ]


@case
def accept_queue__a_listener_that_is_gone(above: bool) -> Samples:
    before, after = grown("TcpExt.ListenOverflows", 1)
    return [{"counters": before}, {"counters": after if above else before}]


def unaccepted(cookie: int, waited_ms: int, state: str = "ESTAB", **columns: Any) -> Row:
    """Return a connection in the accept queue of a listener on port 80."""
    return unowned(cookie, state) | {"last_data_sent_ms": waited_ms} | columns


@case
def accept_queue__of_which_the_first_waits_for_five_seconds(above: bool) -> Samples:
    """By the kernel's clock: in two samples, and though it is not full."""
    first = 5000 if above else 4999
    queue = [unaccepted(20, first, "CLOSE-WAIT"), unaccepted(21, 900)]
    return [{"sockets": [listener(recv_q=2), *queue]}]


@case
def accept_queue__from_which_nothing_is_accepted(above: bool) -> Samples:
    """Not where another one is the first in it every time."""
    return [
        {"sockets": [listener(recv_q=1), unaccepted(20 if above else 20 + n, 1000 * n)]}
        for n in (range(1, 8) if above else [1] * 7)
    ]


@case
def unix_backlog__that_never_gets_shorter(above: bool) -> Samples:
    door: Row = {"state": "LISTEN", "send_q": 16, "comm": "dbus", "pid": 5}
    waiting = [0, 1, 1, 2, 2, 2, 3, 3] if above else [0, 1, 1, 2, 1, 2, 3, 3]
    return [{"sockets": [unix(1, recv_q=q, **door)]} for q in waiting]


@case
def unix_backlog__full_in_two_samples(above: bool) -> Samples:
    door: Row = {"state": "LISTEN", "send_q": 16, "comm": "dbus", "pid": 5}
    return [{"sockets": [unix(1, recv_q=q, **door)]} for q in (17, 17 if above else 16, 0)]


@case
def syn_backlog__a_syn_dropped(above: bool) -> Samples:
    before, after = grown("TcpExt.TCPReqQFullDrop", 1)
    half = [unowned(20 + n, "SYN-RECV") for n in range(3)]
    return [
        {"sockets": [listener()], "counters": before},
        {"sockets": [listener(), *half], "counters": after if above else []},
    ]


@case
def syn_backlog__cookies_unless_always(above: bool) -> Samples:
    before, after = grown("TcpExt.TCPReqQFullDoCookies", 40)
    always = [sysctl("tcp_syncookies", "1" if above else "2")]
    return [{"counters": before, "settings": always}, {"counters": after}]


# Ports and TIME-WAIT.


@case
def port_exhaustion__of_ten_ports(above: bool) -> Samples:
    ports = [sysctl("ip_local_port_range", "40000 40009")]
    used = [client(n) for n in range(8 if above else 7)]
    return [{"settings": ports}, {"sockets": used}, {"sockets": used[:2]}]


@case
def port_exhaustion__reserved_ports_are_not_there(above: bool) -> Samples:
    ports = [
        sysctl("ip_local_port_range", "40000 40009"),
        sysctl("ip_local_reserved_ports", "80,39990-40001,40003,40009-40020"),
    ]
    used = [client(n) for n in ((2, 4, 5, 6, 7) if above else (2, 4, 5, 6))]  # of 6
    return [{"settings": ports, "sockets": used}]


@case
def port_exhaustion__time_wait_over_loopback_is_used_again(above: bool) -> Samples:
    ports = [
        sysctl("ip_local_port_range", "40000 40009"),
        sysctl("tcp_tw_reuse", "0" if above else "2"),
    ]
    ends: Row = {"local_addr": "127.0.0.1", "peer_addr": "127.0.0.1"}
    used = [client(n, "TIME-WAIT" if n else "ESTAB", **ends) for n in range(10)]
    return [{"settings": ports, "sockets": used}]


@case
def time_wait__of_ten_ports(above: bool) -> Samples:
    ports = [sysctl("ip_local_port_range", "40000 40009")]
    nobody = dict.fromkeys(("pid", "comm", "start_us"))
    waits = [client(n, "TIME-WAIT", inode=0, **nobody) for n in range(6 if above else 5)]
    return [{"settings": ports, "sockets": [client(9)]}, {"sockets": waits}]


@case
def time_wait__over_loopback_is_used_again(above: bool) -> Samples:
    ports = [
        sysctl("ip_local_port_range", "40000 40009"),
        sysctl("tcp_tw_reuse", "2"),
        sysctl("tcp_timestamps", "0" if above else "1"),
    ]
    ends: Row = {"local_addr": "127.0.0.1", "peer_addr": "127.0.0.1"}
    return [{"settings": ports, "sockets": [client(n, "TIME-WAIT", **ends) for n in range(9)]}]


@case
def time_wait__of_ten_buckets(above: bool) -> Samples:
    most = [
        sysctl("ip_local_port_range", "32768 60999"),
        sysctl("tcp_max_tw_buckets", "10"),
    ]
    waits = [carried(20 + n, "TIME-WAIT", by="listener") for n in range(8 if above else 7)]
    return [{"settings": most, "sockets": [listener(), *waits]}]


@case
def time_wait__overflow(above: bool) -> Samples:
    before, after = grown("TcpExt.TCPTimeWaitOverflow", 3)
    most = [sysctl("tcp_max_tw_buckets", "100")]
    waits = [carried(20 + n, "TIME-WAIT", by="listener") for n in range(4)]
    return [
        {"settings": most, "sockets": [listener()], "counters": before},
        {"sockets": [listener(), *waits], "counters": after if above else []},
    ]


def churned(closes: int, kept: int) -> Samples:
    """Return one close a second of 120 ports, and connections that are kept."""
    ends = {"local_addr": "10.0.0.1", "peer_addr": "10.0.0.2", "peer_port": 8080}
    flags = {"netid": "tcp", "connection": True, "sampled": False}
    ports = [sysctl("ip_local_port_range", "40000 40119")]
    held = [client(n) for n in range(kept)]
    return [{"settings": ports, "sockets": held}] + [
        {
            "sockets": held,
            "closes": [{"cookie": 10 + n, "local_port": 40_100 + n} | ends | flags]
            if n < closes
            else [],
        }
        for n in range(10)
    ]


@case
def short_connections__a_minute_of_them_is_half_the_ports(above: bool) -> Samples:
    return churned(10 if above else 9, kept=1)


@case
def short_connections__most_are_short(above: bool) -> Samples:
    return churned(10, kept=2 if above else 3)


@case
def short_connections__to_a_server_here(above: bool) -> Samples:
    """Both ends are announced: counted once."""
    ends = {"local_port": 80, "local_addr": "10.0.0.1", "peer_addr": "10.0.0.9"}
    flags = {"netid": "tcp", "connection": True, "sampled": False}
    twice = {"peer_addr": "10.0.0.1", "peer_port": 80, "local_addr": "10.0.0.9"}
    ports = [sysctl("ip_local_port_range", "40000 40119")]
    return [
        {
            "settings": ports if n == 0 else [],
            "sockets": [listener(local_addr="0.0.0.0", comm="web", pid=9)],
            "closes": [
                {"cookie": 10 + n, "peer_port": 40_000 + n} | ends | flags,
                {"cookie": 30 + n, "local_port": 40_000 + n} | twice | flags,
            ]
            if n or above
            else [],
        }
        for n in range(10)
    ]


# Queues.


def later(*numbers: int) -> list[dict[str, Any]]:
    return [{"number": number} for number in numbers]


@case
def close_wait__for_a_minute(above: bool) -> Samples:
    waits = [client(n, "CLOSE-WAIT", recv_q=1) for n in range(2)]
    first, second, last = later(0, 1 if above else 2, 61)
    return [
        first | {"sockets": [client(9)], "owners": [owner(100)]},
        second | {"sockets": [client(9), *waits]},
        last | {"sockets": [client(9), *waits]},
    ]


@case
def close_wait__two_of_them(above: bool) -> Samples:
    waits = [client(n, "CLOSE-WAIT", recv_q=1) for n in range(2 if above else 1)]
    first, second, last = later(0, 1, 90)
    return [
        first | {"sockets": [client(9)]},
        second | {"sockets": waits},
        last | {"sockets": waits},
    ]


@case
def close_wait__growing(above: bool) -> Samples:
    old = [client(20 + n, "CLOSE-WAIT") for n in range(2)]
    new = [client(n, "CLOSE-WAIT") for n in range(2)]
    first, second, last = later(0, 1, 90)
    return [
        first | {"sockets": old},
        second | {"sockets": [*old, *new]},
        last | {"sockets": [*old, *new] if above else new},
    ]


@case
def close_wait__that_no_one_has_accepted_is_not_the_process_s(above: bool) -> Samples:
    waits = [client(n, "CLOSE-WAIT", inode=5 + n if above else 0) for n in range(2)]
    first, second, last = later(0, 1, 61)
    return [
        first | {"sockets": [client(9)]},
        second | {"sockets": waits},
        last | {"sockets": waits},
    ]


@case
def close_wait__older_than_the_recording(above: bool) -> Samples:
    """None came while it was recorded, in one sample: the kernel's clock tells."""
    young = 0 if above else 1
    old = [client(n, "CLOSE-WAIT", last_ack_recv_ms=60_000 - (n < young)) for n in range(10)]
    return [{"sockets": old}]


@case
def close_wait__many_that_none_closes(above: bool) -> Samples:
    return [
        {
            "sockets": [
                client(99),
                *(
                    client(n, "CLOSE-WAIT", recv_q=1)
                    for n in range(min(20 if above else 19, 2 * t))
                ),
            ]
        }
        for t in range(25)
    ]


@case
def close_wait__but_not_of_a_process_that_closes_some(above: bool) -> Samples:
    """The first of them is closed after a while."""
    return [
        {
            "sockets": [
                client(99),
                *(
                    client(n, "CLOSE-WAIT")
                    for n in range(0 if above or t < 12 else 1, min(30, 2 * t))
                ),
            ]
        }
        for t in range(26)
    ]


def waiting_for_the_end(number: int, second: int, came: int) -> Row:
    """Return a connection that was half closed then, and has received nothing since."""
    ms = 1000 * (second - came)
    return client(number, "FIN-WAIT-2", last_ack_recv_ms=ms, last_data_recv_ms=ms)


@case
def fin_wait__more_and_more(above: bool) -> Samples:
    return [
        {"sockets": [client(99), *(waiting_for_the_end(n, t, n) for n in range(t + 1))]}
        for t in range(16 if above else 15)
    ]


@case
def fin_wait__but_not_what_is_closed_in_the_end(above: bool) -> Samples:
    held = 99 if above else 11
    return [
        {"sockets": [waiting_for_the_end(n, t, n) for n in range(max(0, t - held), t + 1)]}
        for t in range(30)
    ]


@case
def fin_wait__but_not_a_request_whose_answer_still_comes(above: bool) -> Samples:
    quiet: Row = {} if above else {"last_data_recv_ms": 100}
    return [
        {"sockets": [waiting_for_the_end(n, t, n) | quiet for n in range(t + 1)]} for t in range(20)
    ]


@case
def fin_wait__older_than_the_recording(above: bool) -> Samples:
    old = [waiting_for_the_end(n, 60 if above else 59, 0) for n in range(10)]
    return [{"sockets": old}]


@case
def fin_wait__in_three_seconds(above: bool) -> Samples:
    """Ten that wait for ten seconds by the kernel's clock, while others come and none is closed."""
    old = [waiting_for_the_end(n, 11, 1) for n in range(10)]
    came = [waiting_for_the_end(20 + n, 1, 1) for n in range(3)]
    return [{"sockets": [*old, *(came[:n] if above else [])]} for n in range(4)]


def cut(number: int, lost: Row) -> Row:
    ends: Row = {"local_addr": "10.0.0.1", "peer_addr": "10.0.0.2", "peer_port": 8080}
    flags: Row = {"netid": "tcp", "connection": True, "sampled": False, "retransmits": 0}
    times: Row = {"last_data_sent_ms": 0, "last_data_recv_ms": 2300, "last_ack_recv_ms": 300}
    own: Row = {"local_port": 40_000 + number, "cookie": 100 + number, "pid": 7, "comm": "app"}
    return ends | flags | times | own | {"recv_q": 0, "send_q": 0, "start_us": 1} | lost


@case
def resets__five_requests_sent_on_connections_that_were_closed(above: bool) -> Samples:
    lost: Row = {"send_q": 27}
    closes = [cut(n, lost if n < (5 if above else 4) else {}) for n in range(20)]
    return [{"sockets": [client(900)]}, {"sockets": [client(900)], "closes": closes}]


@case
def resets__of_twenty(above: bool) -> Samples:
    closes = [cut(n, {"send_q": 27} if n < 5 else {}) for n in range(100 if above else 101)]
    return [{"sockets": [client(900)]}, {"sockets": [client(900)], "closes": closes}]


@case
def resets__but_not_what_timed_out(above: bool) -> Samples:
    closes = [cut(n, {"send_q": 27, "retransmits": 0 if above else 1}) for n in range(5)]
    return [{"sockets": [client(900)]}, {"sockets": [client(900)], "closes": closes}]


@case
def resets__closed_with_requests_unread(above: bool) -> Samples:
    """A FIN that was not read counts as one, and is nothing lost."""
    lost: Row = {"recv_q": 2 if above else 1, "local_port": 80, "comm": "web", "pid": 9}
    closes = [cut(n, lost) for n in range(5)]
    door = listener(local_addr="0.0.0.0", comm="web", pid=9)
    return [{"sockets": [door]}, {"sockets": [door], "closes": closes}]


def heard(number: int, quiet_s: float, **columns: Any) -> Row:
    """Return a connection of a server on port 80, without keepalive."""
    ms = int(1000 * quiet_s)
    ends: Row = {"local_addr": "10.0.0.1", "peer_addr": "10.0.0.9", "send_q": 0}
    return tcp(100 + number, last_data_recv_ms=ms, last_ack_recv_ms=ms, **ends | columns)


DOOR = listener(local_addr="10.0.0.1")


@case
def silent_peers__more_and_more(above: bool) -> Samples:
    """One comes a second, says hello, and is never heard again; one speaks."""
    return [
        {"sockets": [DOOR, heard(0, 0.1), *(heard(n, t - n) for n in range(1, t + 1))]}
        for t in range(22 if above else 21)
    ]


@case
def silent_peers__but_not_those_that_speak_now_and_then(above: bool) -> Samples:
    pause = 99 if above else 12
    return [
        {"sockets": [DOOR, *(heard(n, (t - n) % pause) for n in range(t + 1))]} for t in range(30)
    ]


@case
def silent_peers__but_not_a_crowd_that_came_at_once(above: bool) -> Samples:
    came = [n // 2 if above else 1 for n in range(30)]
    return [
        {"sockets": [DOOR, *(heard(n, t - c) for n, c in enumerate(came) if c <= t)]}
        for t in range(28)
    ]


@case
def silent_peers__older_than_the_recording(above: bool) -> Samples:
    old = [heard(n, (60 if above else 40) + n) for n in range(20)]
    return [{"sockets": [DOOR, *old]}]


@case
def silent_peers__but_not_a_pool_on_this_host(above: bool) -> Samples:
    """Its other end would be gone, if its process were."""
    old = [heard(n, 60 + n) for n in range(20)]
    ends = [
        {"local_addr": row["peer_addr"], "local_port": row["peer_port"]}
        | {"peer_addr": row["local_addr"], "peer_port": row["local_port"]}
        for row in old
    ]
    others = [tcp(500 + n, comm="app", pid=7, **end) for n, end in enumerate(ends)]
    return [{"sockets": [DOOR, *old, *([] if above else others)]}]


@case
def silent_peers__whose_other_end_is_closed_here(above: bool) -> Samples:
    """Three are closed in this recording too; an older use of a port does not count."""
    quiet = [heard(n, 20 + n) for n in range(3)]
    closes = [
        {"netid": "tcp", "connection": True, "sampled": False, "cookie": 700 + n}
        | {"local_addr": row["peer_addr"], "local_port": row["peer_port"]}
        | {"peer_addr": row["local_addr"], "peer_port": row["local_port"]}
        for n, row in enumerate(quiet)
    ]
    late = 0 if above else 40
    return [
        {"sockets": [DOOR], "closes": closes},
        {
            "sockets": [DOOR, *quiet],
            "number": 1 + late,
        },
    ]


@case
def silent_peers__whose_keepalive_is_not_answered(above: bool) -> Samples:
    gone = [heard(n, 30, timer="keepalive", retrans=2 if above else 1) for n in range(3)]
    return [{"sockets": [DOOR, *gone]}]


def pooled(number: int, age: float, idle: float, **columns: Any) -> Row:
    """Return a connection of app to a server elsewhere, with the answer to what it sent last."""
    clocks = {"last_data_sent_ms": int(1000 * idle) + 2, "last_data_recv_ms": int(1000 * idle)}
    return client(number, send_q=0, **clocks | columns)


@case
def idle_connections__that_get_more(above: bool) -> Samples:
    """One a second, used once: ten of them for ten seconds."""
    return [
        {"sockets": [pooled(n, t - n, t - n) for n in range(t + 1)]}
        for t in range(21 if above else 20)
    ]


@case
def idle_connections__but_not_a_pool_that_is_full(above: bool) -> Samples:
    came = [n if above else min(n, 8) for n in range(40)]
    return [
        {"sockets": [pooled(n, t - c, t - c) for n, c in enumerate(came[:20]) if c <= t]}
        for t in range(30)
    ]


@case
def idle_connections__but_not_those_of_a_server_that_started_anew(above: bool) -> Samples:
    """All come back at once, and more than before."""
    ends = 99 if above else 8
    return [
        {"sockets": [pooled(n, t - n, t - n) for n in range(0 if t < ends else ends, t + 1)]}
        for t in range(30)
    ]


@case
def idle_connections__but_not_a_pool_at_work(above: bool) -> Samples:
    """Each is used again after twelve seconds."""
    pause = 99 if above else 12
    return [
        {"sockets": [pooled(n, t - n, (t - n) % pause) for n in range(t + 1)]} for t in range(31)
    ]


@case
def idle_connections__but_not_those_that_wait_for_an_answer(above: bool) -> Samples:
    later: Row = {} if above else {"last_data_recv_ms": 90_000}
    return [
        {"sockets": [pooled(n, t - n, t - n, **later) for n in range(t + 1)]} for t in range(24)
    ]


@case
def idle_connections__of_one_client_of_a_server_here(above: bool) -> Samples:
    """Ten times as many as any other has."""

    def of(number: int, addr: str, idle: float) -> Row:
        ms = int(1000 * idle)
        ends: Row = {"local_addr": "10.0.0.1", "peer_addr": addr, "peer_port": 50_000 + number}
        return tcp(100 + number, last_data_sent_ms=ms, last_data_recv_ms=ms, **ends)

    others = 2 if above else 3
    return [
        {
            "sockets": [
                DOOR,
                of(90, "10.0.0.8", 0),
                *(of(91 + n, "10.0.0.9", 0) for n in range(others)),
                *(of(n, "10.0.0.7", t - n) for n in range(t + 1)),
            ]
        }
        for t in range(25)
    ]


def full(**columns: Any) -> Row:
    queue = {"recv_q": 60_000, "rcv_wnd": 0, "rcv_mss": 1448, "rmem_alloc": 90, "rcvbuf": 100}
    return client(1, **queue | columns)


def run_of(stuck: Row, free: Row, samples: int) -> Samples:
    """Return a sample, so many with a stuck socket, and one more without."""
    rows = [free, *[stuck] * samples, free]
    return [{"sockets": [row]} for row in rows]


@case
def reader_stalled__for_five_seconds(above: bool) -> Samples:
    return run_of(full(bytes_received=60_000), client(1), 6 if above else 5)


@case
def reader_stalled__with_a_closed_window(above: bool) -> Samples:
    return run_of(full(rcv_wnd=1447 if above else 1448), client(1), 6)


@case
def reader_stalled__with_a_full_buffer_where_the_window_is_not_told(above: bool) -> Samples:
    return run_of(full(rcv_wnd=None, rmem_alloc=80 if above else 79), client(1), 6)


@case
def reader_stalled__on_end(above: bool) -> Samples:
    rows = [full()] * 4 + [full() if above else client(1)] + [full()] * 4
    return [{"sockets": [row]} for row in rows]


def asked(number: int, *, read: int = 0, waits: bool = True, **columns: Any) -> Row:
    """Return a connection of a client of port 80 whose last request is read or lies unread."""
    queue: Row = {"recv_q": 9 * waits, "bytes_received": read + 9 * waits, "bytes_sent": read}
    ends: Row = {"local_addr": "10.0.0.1", "peer_addr": "10.0.0.7", "peer_port": 50_000 + number}
    return tcp(200 + number, **queue | ends | columns)


def answered_again(samples: int, rows: Sequence[Row], door: Row = DOOR) -> Samples:
    """Return two samples at work, so many in which these lie unread, and one at work again."""
    work = [
        {"sockets": [door, *(asked(n, read=read, waits=False) for n in range(4))]}
        for read in (5, 9, 20)
    ]
    return [*work[:2], *[{"sockets": [door, *rows]}] * samples, work[2]]


@case
def hung_server__for_five_seconds(above: bool) -> Samples:
    return answered_again(6 if above else 5, [asked(n, read=9) for n in range(3)])


@case
def hung_server__with_three_that_wait(above: bool) -> Samples:
    return answered_again(6, [asked(n, read=9) for n in range(3 if above else 2)])


@case
def hung_server__but_not_one_that_reads_another(above: bool) -> Samples:
    return [
        {"sockets": [DOOR, *(asked(n) for n in range(3)), asked(9, read=0 if above else t)]}
        for t in range(7)
    ]


@case
def hung_server__but_not_one_that_sends(above: bool) -> Samples:
    sent = [0 if above else t for t in range(7)]
    return [{"sockets": [DOOR, *(asked(n, bytes_sent=b) for n in range(3))]} for b in sent]


@case
def hung_server__but_not_a_client_that_reads_when_it_asks_again(above: bool) -> Samples:
    """What a server says on idle connections of a pool, a ticket of TLS say, is read later."""
    port = 80 if above else 81
    return [{"sockets": [DOOR, *(asked(n, local_port=port) for n in range(3))]}] * 7


@case
def hung_server__but_not_of_peers_that_only_closed(above: bool) -> Samples:
    """The end that a peer sent takes a byte of the queue."""
    unread = 2 if above else 1
    rows = [asked(n, state="CLOSE-WAIT", recv_q=unread, bytes_received=unread) for n in range(3)]
    return [{"sockets": [DOOR, *rows]}] * 7


@case
def hung_server__of_what_came_since_it_last_sent(above: bool) -> Samples:
    """Else it worked on, and left these alone."""
    rows = [asked(n, last_data_recv_ms=3000) for n in range(3)]
    rows.append(asked(9, read=9, waits=False, last_data_sent_ms=4000 if above else 2000))
    return [{"sockets": [DOOR, *rows]}] * 7


@case
def hung_server__but_not_where_it_is_not_told_what_was_sent(above: bool) -> Samples:
    sent: Row = {"bytes_sent": 0 if above else None}
    return [{"sockets": [DOOR, *(asked(n, **sent) for n in range(3))]}] * 7


def told_by_netlink(drops: int, **columns: Any) -> Row:
    queue: Row = {
        "local_addr": "rtnl",
        "local_id": 7,
        "recv_q": 6912,
        "rcvbuf": 8192,
        "drops": drops,
    }
    kind: Row = {"family": "netlink", "netid": "nl", "pid": 7, "start_us": 1, "comm": "bird"}
    ends = dict.fromkeys(("local_port", "peer_addr", "peer_port"))
    return tcp(500, "UNCONN", **kind | ends | queue | columns)


@case
def missed_messages__ten(above: bool) -> Samples:
    """What was dropped before the recording does not count."""
    return [{"sockets": [told_by_netlink(n)]} for n in (30, 34, 34, 40 if above else 39)]


@case
def missed_messages__of_a_capture(above: bool) -> Samples:
    packets: Row = {"family": "packet", "netid": "p_raw", "local_addr": None, "local_id": None}
    return [{"sockets": [told_by_netlink(n, **packets)]} for n in (0, 10 if above else 9)]


def persist(**columns: Any) -> Row:
    queue: Row = {"send_q": 9000, "timer": "persist", "snd_wnd": 0}
    return client(1, **queue | columns)


@case
def peer_stalled__for_five_seconds(above: bool) -> Samples:
    return run_of(persist(), client(1), 6 if above else 5)


@case
def peer_stalled__unless_its_reader_is_here(above: bool) -> Samples:
    reader: Row = {"local_addr": "10.0.0.2", "local_port": 8080, "peer_addr": "10.0.0.1"}
    inner = full(**reader, peer_port=40_001, comm="slow", pid=8) | {"cookie": 77}
    return [{"sockets": [persist(), *([] if above else [inner])]} for _ in range(6)]


@case
def peer_stalled__but_not_a_fin_that_this_host_drops(above: bool) -> Samples:
    """What does not leave this host runs the same timer, with the window open and no data."""
    own: Row = {} if above else {"state": "FIN-WAIT-1", "send_q": 1, "snd_mss": 1448}
    return run_of(persist() | own, client(1), 6)


@case
def peer_stalled__but_not_while_the_window_is_open(above: bool) -> Samples:
    return run_of(persist() | {"snd_wnd": 1447 if above else 64_000, "snd_mss": 1448}, client(1), 6)


def unsent(**columns: Any) -> Row:
    """Return a connection whose data is retransmitted in vain."""
    tries: Row = {"backoff": 3, "retransmits": 3, "timer": "on", "send_q": 4096, "bytes_acked": 100}
    return client(1, **tries | columns)


@case
def network_stall__for_five_seconds(above: bool) -> Samples:
    return run_of(unsent(), client(1, bytes_acked=5000), 6 if above else 5)


@case
def network_stall__without_any_acknowledgement(above: bool) -> Samples:
    return [{"sockets": [unsent(bytes_acked=100 if above else 100 + n)]} for n in range(8)]


@case
def network_stall__is_not_a_closed_window(above: bool) -> Samples:
    return run_of(unsent(timer="on" if above else "persist"), client(1), 8)


@case
def network_stall__of_data_not_of_a_fin(above: bool) -> Samples:
    return run_of(unsent(state="FIN-WAIT-1", send_q=2 if above else 1), client(1), 8)


@case
def retransmits__three_percent(above: bool) -> Samples:
    sent: Row = {"bytes_sent": 1_000_000, "bytes_retrans": 30_000 if above else 29_999}
    return [{"sockets": [client(9)]}, {"sockets": [client(1, total_retrans=100, **sent)]}]


@case
def retransmits__a_hundred_segments(above: bool) -> Samples:
    sent: Row = {"bytes_sent": 1_000_000, "bytes_retrans": 100_000}
    again = 100 if above else 99
    return [{"sockets": [client(9)]}, {"sockets": [client(1, total_retrans=again, **sent)]}]


@case
def retransmits__while_recorded(above: bool) -> Samples:
    """What a connection had lost before is not of this recording."""
    before: Row = {"total_retrans": 900, "bytes_sent": 9_000_000, "bytes_retrans": 900_000}
    after: Row = {"total_retrans": 1000, "bytes_sent": 10_000_000, "bytes_retrans": 1_000_000}
    return [{"sockets": [client(1, **row)]} for row in ((before, after) if above else [after] * 2)]


@case
def retransmits__but_not_what_had_arrived(above: bool) -> Samples:
    """Each of the peer's reports of a duplicate (D-SACK) tells of one that was not lost."""
    sent: Row = {"bytes_sent": 1_000_000, "bytes_retrans": 100_000, "total_retrans": 150}
    row = client(1, **sent, dsack_dups=50 if above else 51)
    return [{"sockets": [client(9)]}, {"sockets": [row]}]


@case
def retransmits__that_were_in_vain(above: bool) -> Samples:
    sent: Row = {"bytes_sent": 1_000_000, "bytes_retrans": 61_000, "total_retrans": 122}
    row = client(1, **sent, dsack_dups=122 if above else 99, reord_seen=40)
    return [{"sockets": [client(9)]}, {"sockets": [row]}]


@case
def unanswered__for_three_seconds(above: bool) -> Samples:
    syn = client(1, "SYN-SENT", send_q=1)
    return [{"sockets": [syn]} for _ in range(4 if above else 3)]


@case
def unanswered__two_retransmissions(above: bool) -> Samples:
    return [{"sockets": [client(n, "SYN-SENT", retrans=2 if above else 1) for n in range(3)]}]


# Limits of a process and of the host.


@case
def descriptor_leak__four_fifths_of_the_limit(above: bool) -> Samples:
    held = [client(n, owner_by="fd") for n in range(80 if above else 79)]
    return [{"sockets": held, "owners": [owner(100)]}, {"sockets": held[:60]}]


@case
def descriptor_leak__that_climbs_all_the_time(above: bool) -> Samples:
    counts = range(1, 22, 2) if above else [*range(1, 20, 2), 20]  # 20 more of 100, or 19
    return [
        {
            "sockets": [client(n, owner_by="fd") for n in range(count)],
            "owners": [owner(100)] if place == 0 else [],
        }
        for place, count in enumerate(counts)
    ]


@case
def descriptor_leak__but_not_one_that_comes_and_goes(above: bool) -> Samples:
    counts = [10, 20, 30, 40, 50, 60] if above else [10, 60, 10, 60, 10, 60]
    return [
        {
            "sockets": [client(n, owner_by="fd") for n in range(count)],
            "owners": [owner(100)] if place == 0 else [],
        }
        for place, count in enumerate(counts)
    ]


@case
def descriptor_leak__that_goes_on(above: bool) -> Samples:
    counts = [5 * n for n in range(1, 13)] if above else [10, 20, 30, 40, 50, 60, *[60] * 6]
    return [
        {
            "sockets": [client(n, owner_by="fd") for n in range(count)],
            "owners": [owner(100)] if place == 0 else [],
        }
        for place, count in enumerate(counts)
    ]


# What limits a transfer, what waits on the way, what nobody reads.


def bulk(n: int, **columns: Any) -> Row:
    """Return a connection that has been sending for so many seconds, at 100 ms round trip."""
    own = {"busy_time_us": 1_000_000 * n, "rwnd_limited_us": 0, "sndbuf_limited_us": 0}
    pace = {"bytes_acked": 800_000 * n, "rtt_us": 100_000, "min_rtt_us": 100_000}
    return client(1, **own | pace | {"snd_wnd": 80_000, "sndbuf": 65_536} | columns)


@case
def send_limit__the_receivers_window(above: bool) -> Samples:
    held = 250_000 if above else 249_000
    return [{"sockets": [bulk(n, rwnd_limited_us=held * n)]} for n in range(1, 9)]


@case
def send_limit__the_own_send_buffer(above: bool) -> Samples:
    held = 250_000 if above else 249_000
    return [{"sockets": [bulk(n, sndbuf_limited_us=held * n)]} for n in range(1, 9)]


@case
def send_limit__of_a_long_way_only(above: bool) -> Samples:
    rtt = 5_000 if above else 4_999
    looks = [bulk(n, sndbuf_limited_us=600_000 * n, rtt_us=rtt) for n in range(1, 9)]
    return [{"sockets": [look]} for look in looks]


@case
def send_limit__of_a_transfer_that_lasts(above: bool) -> Samples:
    looks = [bulk(n, rwnd_limited_us=600_000 * n) for n in range(1, 7 if above else 6)]
    return [{"sockets": [look]} for look in looks]


@case
def send_limit__not_of_a_window_that_is_shut_all_the_time(above: bool) -> Samples:
    window = 1 if above else 0
    looks = [bulk(n, rwnd_limited_us=600_000 * n, snd_wnd=window) for n in range(1, 9)]
    return [{"sockets": [look]} for look in looks]


@case
def send_limit__not_of_a_reader_that_is_slow(above: bool) -> Samples:
    windows = [80_000 if above or n == 1 else 4_000 * (n % 2) for n in range(1, 9)]
    looks = [
        bulk(n, rwnd_limited_us=600_000 * n, snd_wnd=window) for n, window in enumerate(windows, 1)
    ]
    return [{"sockets": [look]} for look in looks]


@case
def bufferbloat__by_a_transfer(above: bool) -> Samples:
    base = 51_000 if above else 50_900
    rtts = [1_000, *(base + n for n in range(12))]
    looks = [
        client(1, rtt_us=rtt, min_rtt_us=1_000, bytes_acked=500_000 * n)
        for n, rtt in enumerate(rtts)
    ]
    return [{"sockets": [look]} for look in looks]


@case
def bufferbloat__filled_by_others(above: bool) -> Samples:
    """Six values, or five and an idle second."""
    rtts = [1_000, *(60_000 + n for n in range(5)), 60_005 if above else 60_004]
    looks = [client(1, rtt_us=rtt, min_rtt_us=1_000, bytes_acked=n) for n, rtt in enumerate(rtts)]
    return [{"sockets": [look]} for look in looks]


@case
def bufferbloat__not_after_one_late_answer(above: bool) -> Samples:
    """A second in which no answer came fades by an eighth with each one; or it comes again."""
    rtts, smoothed = [10_000], 10_000
    for n in range(30):
        late = n == 5 or (above and n in (9, 13))
        smoothed += ((1_000_000 if late else 10_000) - smoothed) // 8
        rtts.append(smoothed)
    looks = [client(1, rtt_us=rtt, min_rtt_us=10_000, bytes_acked=n) for n, rtt in enumerate(rtts)]
    return [{"sockets": [look]} for look in looks]


def log(recv_q: int, **columns: Any) -> Row:
    """Return the socket of a syslog daemon."""
    own = {"netid": "u_dgr", "local_addr": "/dev/log", "inode": 50, "comm": "rsyslogd", "pid": 7}
    return unix(1, recv_q=recv_q, **own | columns)


def logging(number: int, send_q: int, **columns: Any) -> Row:
    """Return a socket that writes to it."""
    own = {"netid": "u_dgr", "local_addr": None, "peer_addr": "/dev/log", "peer_inode": 50}
    name = {"comm": f"writer{number}", "pid": 10 + number, "sndbuf": 200_000}
    return unix(10 + number, send_q=send_q, **own | name | columns)


@case
def unix_unread__datagrams(above: bool) -> Samples:
    """Six looks at the same datagram, or at two that are not as long."""
    setting = [{"name": "net.unix.max_dgram_qlen", "value": "10"}]
    writers = [logging(1, 7_680), logging(2, 1_536)]
    return [
        {"sockets": [log(41 if above or n < 3 else 40), *writers], "settings": setting}
        for n in range(6)
    ]


@case
def unix_unread__a_connection(above: bool) -> Samples:
    ends = {"netid": "u_str"}
    writer = logging(1, 100_000 if above else 99_999, **ends)
    return [{"sockets": [log(90_000, **ends), writer]} for _ in range(6)]


@case
def unix_unread__for_five_seconds(above: bool) -> Samples:
    looks = [log(41), logging(1, 768)]
    return [{"sockets": looks} for _ in range(6 if above else 5)]


@case
def udp_waiting__twenty_at_once(above: bool) -> Samples:
    asked = [
        client(n, "UNCONN", netid="udp", peer_port=53, recv_q=0) for n in range(20 if above else 19)
    ]
    return [{"sockets": [listener()]}, *({"sockets": asked} for _ in range(6))]


@case
def udp_waiting__for_five_seconds(above: bool) -> Samples:
    asked = [client(n, "UNCONN", netid="udp", peer_port=53, recv_q=0) for n in range(30)]
    return [{"sockets": [listener()]}, *({"sockets": asked} for _ in range(6 if above else 5))]


@case
def port_exhaustion__of_sockets_bound_before_they_connect(above: bool) -> Samples:
    """Each port once, to four destinations; or twice, as the kernel chose them."""
    ports = [sysctl("ip_local_port_range", "40000 40009")]
    used = [
        client(n, local_port=40_000 + (n if above else n // 2), peer_addr=f"10.0.1.{n % 4}")
        for n in range(8)
    ]
    return [{"sockets": used, "settings": ports}]


@case
def port_exhaustion__of_udp(above: bool) -> Samples:
    ports = [sysctl("ip_local_port_range", "40000 40009")]
    used = [client(n, "UNCONN", netid="udp", peer_port=53) for n in range(8 if above else 7)]
    return [{"sockets": used, "settings": ports}]


def datagrams(drops: int, **columns: Any) -> Row:
    own = {"netid": "udp", "local_port": 53, "recv_q": 900, "rcvbuf": 1000, "comm": "named"}
    return tcp(5, "UNCONN", **own | {"drops": drops} | columns)


@case
def udp_drops__ten(above: bool) -> Samples:
    before, after = grown("Udp.RcvbufErrors", 10, "snmp")
    received, more = grown("Udp.InDatagrams", 990, "snmp")
    return [
        {"sockets": [datagrams(7)], "counters": before + received},
        {"sockets": [datagrams(17 if above else 16)], "counters": after + more},
    ]


@case
def udp_drops__at_a_full_buffer_only(above: bool) -> Samples:
    """A socket's own filter drops too."""
    before, after = grown("Udp.RcvbufErrors", 1 if above else 0, "snmp")
    return [
        {"sockets": [datagrams(0)], "counters": before},
        {"sockets": [datagrams(500)], "counters": after},
    ]


@case
def udp_drops__of_a_socket_that_is_gone(above: bool) -> Samples:
    before, after = grown("Udp.RcvbufErrors", 10 if above else 9, "snmp")
    received, more = grown("Udp.InDatagrams", 5, "snmp")
    return [{"counters": before + received}, {"counters": after + more}]


@case
def failed_attempts__a_quarter(above: bool) -> Samples:
    failed, more_failed = grown("Tcp.AttemptFails", 50, "snmp")
    opened, more_opened = grown("Tcp.ActiveOpens", 200 if above else 201, "snmp")
    return [{"counters": failed + opened}, {"counters": more_failed + more_opened}]


@case
def failed_attempts__twenty(above: bool) -> Samples:
    failed, more_failed = grown("Tcp.AttemptFails", 20 if above else 19, "snmp")
    opened, more_opened = grown("Tcp.ActiveOpens", 24, "snmp")
    return [{"counters": failed + opened}, {"counters": more_failed + more_opened}]


@case
def failed_attempts__but_not_the_probes_of_others(above: bool) -> Samples:
    failed, more_failed = grown("Tcp.AttemptFails", 80, "snmp")
    opened, more_opened = grown("Tcp.ActiveOpens", 80 if above else 79, "snmp")
    return [{"counters": failed + opened}, {"counters": more_failed + more_opened}]


@case
def orphans__half_of_the_limit(above: bool) -> Samples:
    most = [sysctl("tcp_max_orphans", "100")]
    values = (10, 50 if above else 49)
    return [
        {
            "counters": [counter("TCP.orphan", n, source="sockstat")],
            "settings": most if n == 10 else [],
        }
        for n in values
    ]


@case
def orphans__aborts(above: bool) -> Samples:
    before, after = grown("TcpExt.TCPAbortOnMemory", 1 if above else 0)
    return [{"counters": before}, {"counters": after}]


@case
def tcp_memory__from_where_the_kernel_saves(above: bool) -> Samples:
    held: Row = {
        "rmem_alloc": 800_000,
        "fwd_alloc": 1,
        "optmem": 0,
        "wmem_alloc": 0,
        "wmem_queued": 5,
    }
    pages = counter("TCP.mem", 200 if above else 199, source="sockstat")
    return [
        {
            "sockets": [client(1, **held)],
            "counters": [pages],
            "settings": [sysctl("tcp_mem", "100 200 300")],
        }
    ]


@case
def tcp_memory__pressure(above: bool) -> Samples:
    before, after = grown("TcpExt.TCPMemoryPressures", 1 if above else 0)
    pages = counter("TCP.mem", 20, source="sockstat")
    settings = [sysctl("tcp_mem", "100 200 300")]
    return [{"counters": [*before, pages], "settings": settings}, {"counters": after}]


def tracked(**values: int) -> list[Row]:
    return [counter(name, value, source="nf_conntrack") for name, value in values.items()]


@case
def conntrack__four_fifths(above: bool) -> Samples:
    return [{"counters": tracked(count=80 if above else 79, max=100)}]


@case
def conntrack__of_a_table_that_was_enlarged_then(above: bool) -> Samples:
    return [
        {"counters": tracked(count=80 if above else 79, max=100)},
        {"counters": tracked(count=90, max=1000)},
    ]


@case
def conntrack__drops(above: bool) -> Samples:
    return [
        {"counters": tracked(count=10, max=100, drop=5, early_drop=0)},
        {"counters": tracked(drop=6) if above else []},
    ]


# The network beneath.

BENEATH = [*OK, step("network")]


def interface(sample: int, **columns: Any) -> Row:
    """Return a row of eth0, which carried 100,000 packets and was up until now."""
    counted = {"rx_packets": 100_000, "tx_packets": 0, "rx_bytes": 0, "tx_bytes": 0}
    counted |= dict.fromkeys(("rx_errors", "tx_errors", "rx_missed_errors", "tx_dropped"), 0)
    since = time_of(sample - 1) if sample else None
    named = {"ifindex": 2, "dev": "eth0", "state": "UP", "mtu": 1500, "since": since}
    return named | counted | columns


@case
def interface_faults__errors(above: bool) -> Samples:
    bad = 100 if above else 99
    after = interface(2, rx_packets=200_000 - bad, rx_errors=bad - 40, rx_missed_errors=40)
    looks: list[list[Row]] = [[interface(0)], [], [after]]
    return [{"steps": BENEATH, "interfaces": rows} for rows in looks]


@case
def interface_faults__a_few_errors_on_a_quiet_link(above: bool) -> Samples:
    after = interface(1, tx_packets=90, tx_dropped=10 if above else 9)
    return [{"steps": BENEATH, "interfaces": [row]} for row in (interface(0), after)]


@case
def interface_faults__went_down(above: bool) -> Samples:
    after = interface(1, state="DOWN" if above else "UP", up=True, mtu=1400)
    return [{"steps": BENEATH, "interfaces": [row]} for row in (interface(0), after)]


@case
def interface_faults__a_container_that_ends(above: bool) -> Samples:
    looks = [interface(0), interface(1, state="DOWN", up=False)]
    gone: Row = {"ifindex": 2, "dev": "eth0", "since": time_of(1)}
    looks += [interface(2, state="DOWN", up=False, mtu=1400) if above else gone]
    return [{"steps": BENEATH, "interfaces": [row]} for row in looks]


@case
def duplicate_address__by_the_kernel(above: bool) -> Samples:
    row: Row = {"ifindex": 2, "dev": "eth0", "family": "inet6", "address": "fd00::1"}
    row |= {"prefix_len": 64, "duplicate": above, "valid_from": time_of(0)}
    return [{"steps": BENEATH, "addresses": [row]}, {"steps": BENEATH}]


def queue(sample: int, **columns: Any) -> Row:
    """Return a row of the queue of eth0, in which 25 kB wait, with 1 Mbit/s."""
    counted = {"bytes": 125_000 * sample, "packets": 125 * sample, "drops": 0, "overlimits": 0}
    named = {"ifindex": 2, "dev": "eth0", "handle": "1:", "parent": "root", "kind": "tbf"}
    since = time_of(sample - 1) if sample else None
    return (
        named | counted | {"backlog": 25_000, "qlen": 25, "requeues": 0, "since": since} | columns
    )


@case
def interface_queue__stands(above: bool) -> Samples:
    looks = [
        queue(n, **({"backlog": 0, "qlen": 0} if n in ((6,) if above else (5,)) else {}))
        for n in range(7)
    ]
    return [{"steps": BENEATH, "sockets": [tcp(1)], "qdiscs": [look]} for look in looks]


@case
def interface_queue__drops(above: bool) -> Samples:
    none: Row = {"backlog": 0, "qlen": 0}
    after = queue(8, drops=11 if above else 10, packets=1000, **none)
    looks = {0: queue(0, **none), 8: after}
    return [
        {"steps": BENEATH, "sockets": [tcp(1)], "qdiscs": [looks[n]] if n in looks else []}
        for n in range(9)
    ]


def route(destination: str, prefix_len: int, gateway: str | None, **columns: Any) -> Row:
    named = {"family": "inet", "routing_table": 254, "destination": destination}
    named |= {"prefix_len": prefix_len, "ifindex": 2, "dev": "eth0", "gateway": gateway}
    return named | {"kind": "unicast", "valid_from": time_of(0)} | columns


def beneath(*routes: Row, **tables: list[Row]) -> Samples:
    """Return three samples of a connection to 10.0.0.2 that gets no answer."""
    held = {"interfaces": [interface(0)], "routes": list(routes)} | tables
    waiting = {"steps": BENEATH, "sockets": [client(1, retransmits=2, send_q=9)]}
    return [waiting | held, waiting, waiting]


@case
def next_hop__a_gateway_that_does_not_answer(above: bool) -> Samples:
    hop: Row = {"ifindex": 2, "dev": "eth0", "family": "inet", "address": "10.9.0.9"}
    hop |= {"state": "FAILED" if above else "STALE", "valid_from": time_of(0)}
    wide, narrow = route("0.0.0.0", 0, "10.9.0.8"), route("10.0.0.0", 30, "10.9.0.9")
    return beneath(wide, narrow, neighbours=[hop])


@case
def next_hop__no_route(above: bool) -> Samples:
    return beneath(route("10.0.0.4" if above else "10.0.0.0", 30, None))


@case
def next_hop__an_own_address_needs_none(above: bool) -> Samples:
    own: Row = {"ifindex": 2, "dev": "eth0", "family": "inet", "valid_from": time_of(0)}
    own |= {"address": "10.0.0.3" if above else "10.0.0.2", "prefix_len": 32}
    return beneath(addresses=[own])


@case
def next_hop__other_tables_may_know(above: bool) -> Samples:
    return beneath(route("10.0.0.0", 8, None, routing_table=255 if above else 7, kind="unicast"))


def rule(priority: int, table: int, **columns: Any) -> Row:
    row: Row = {"family": "inet", "priority": priority, "routing_table": table, "action": "lookup"}
    row |= dict.fromkeys(("inverted", "l3mdev"), False) | {"source_len": 0, "destination_len": 0}
    return row | {"valid_from": time_of(0)} | columns


MAIN = rule(32766, 254)


@case
def next_hop__a_table_that_no_rule_asks_is_none(above: bool) -> Samples:
    rules = [MAIN] if above else [MAIN, rule(100, 7)]
    return beneath(route("10.0.0.0", 8, None, routing_table=7), rules=rules)


@case
def next_hop__a_mark_may_lead_elsewhere(above: bool) -> Samples:
    """What asks for a mark is not known of a socket; that of an earlier rule is."""
    rules = [rule(100, 7, fwmark=1), rule(50 if above else 150, 254), MAIN]
    ways = [route("10.0.0.0", 8, None, routing_table=7), route("10.0.0.0", 8, "10.9.0.9")]
    hop: Row = {"ifindex": 2, "dev": "eth0", "family": "inet", "address": "10.9.0.9"}
    hop |= {"state": "FAILED", "valid_from": time_of(0)}
    return beneath(*ways, rules=rules, neighbours=[hop])


@case
def next_hop__a_rule_of_addresses_that_says_no(above: bool) -> Samples:
    no = rule(50, 0, action="prohibit", destination="10.0.0.0", destination_len=30 if above else 31)
    return beneath(route("0.0.0.0", 0, "10.9.0.9"), rules=[no, MAIN])


@case
def next_hop__a_rule_of_another_source(above: bool) -> Samples:
    own = rule(50, 7, source="10.0.0.0" if above else "10.0.1.0", source_len=24)
    blackhole = route("10.0.0.0", 8, None, routing_table=7, kind="blackhole")
    return beneath(blackhole, route("0.0.0.0", 0, "10.9.0.9"), rules=[own, MAIN])


@case
def next_hop__short_prefixes_are_suppressed(above: bool) -> Samples:
    """As wg-quick has it: the default route of the main table gives way to another table."""
    rules = [rule(50, 254, suppress_prefix_len=0), rule(60, 7), MAIN]
    last = route("0.0.0.0", 0, None, routing_table=7, kind="unreachable" if above else "unicast")
    return beneath(route("0.0.0.0", 0, "10.9.0.9"), last, rules=rules)


# The recording itself.


@case
def coverage__late_samples(above: bool) -> Samples:
    late = [step("tcp", late_us=100_001)]
    return [{"steps": late if n < (3 if above else 2) else OK} for n in range(30)]


@case
def coverage__samples_left_out(above: bool) -> Samples:
    left_out = [step("tcp", skipped=3 if above else 2)]
    return [{"steps": left_out if n == 5 else OK} for n in range(18)]


@case
def coverage__lost_announcements(above: bool) -> Samples:
    return [{"steps": [step("tcp"), step("closes", rows=999 if above else 1000, lost=1)]}]


@case
def coverage__a_time_without_a_sample(above: bool) -> Samples:
    seconds = [0, 1, 2, 12 if above else 11, 13]
    return [
        {"number": second, "steps": [step("tcp", boottime_us=1 + second * 1_000_000)]}
        for second in seconds
    ]


@case
def coverage__a_wall_clock_that_was_set(above: bool) -> Samples:
    """It moves by a second a sample, CLOCK_BOOTTIME by as much less or more."""
    us = 2_000_000 if above else 1_999_999
    return [{"steps": [step("tcp", boottime_us=1 + n * us)]} for n in range(2)]


@case
def coverage__a_table_cut_short(above: bool) -> Samples:
    outcome = "truncated" if above else "unavailable"
    return [{"steps": [step("tcp"), step("udp", outcome=outcome)]}]


@case
def coverage__processes_that_may_not_be_read(above: bool) -> Samples:
    return [{"steps": [step("tcp"), step("owners", rows=9, denied=1 if above else 0)]}]


@case
def coverage__a_namespace_that_could_not_be_entered(above: bool) -> Samples:
    other = {"netns": NETNS + 1, "entered": not above, "valid_from": time_of(0)}
    return [{"steps": OK, "namespaces": [other]}]


IDS = [name for _, name, _ in CASES]


def test_every_finding_has_cases() -> None:
    assert {finding for finding, _, _ in CASES} == set(read_findings())


@pytest.mark.parametrize(("finding", "name", "build"), CASES, ids=IDS)
def test_a_threshold(
    finding: str, name: str, build: Build, tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    assert ask(play(tmp_path / "below", build(False)), finding) == []
    found = ask(play(tmp_path / "above", build(True)), finding)
    assert len(found) == 1
    row = found[0]
    assert row["severity"] in ("critical", "warning", "note")
    assert 0 <= row["score"] <= 1
    assert time_of(-60 if finding in CLOCKED else 0) <= row["since"] <= row["until"]
    assert None not in (row["subject"], row["measured"], row["threshold"])
    assert row["report"] in read_catalog()
    shown = {key: row[key] for key in FINDING_COLUMNS if key not in ("since", "until")}
    assert shown | {"s": (row["until"] - row["since"]).total_seconds()} == snapshot


@pytest.mark.parametrize("name", read_findings())
def test_the_columns_of_a_finding_and_the_report_it_names(name: str, tmp_path: Path) -> None:
    small(tmp_path / "r")
    finding = read_findings()[name]
    with analyzer.open(tmp_path / "r") as opened:
        schema = opened.engine.table(finding.sql, Scope(), finding.values({})).schema
    assert schema.names == list(FINDING_COLUMNS)
    assert [str(kind) for kind in schema.types] == [TYPES[k] for k in FINDING_COLUMNS.values()]
    for parameter in finding.params:
        assert len(parameter.doc) > 60, f"{parameter.name}: why this threshold?"


@pytest.mark.parametrize("kind", ["sockets", "old", "empty", "every"])
def test_findings_run_on_whatever_there_is(kind: str, tmp_path: Path) -> None:
    """A file of sockets alone, a recording of version 1, one without rows, one of every table."""
    path = tmp_path / "r"
    if kind == "sockets":
        rows = [{"sample": 0, "sample_time": time_of(0), "netns": NETNS} | tcp(1)]
        path = tmp_path / "sockets.parquet"
        write_segment(path, "sockets", rows, FACTS)
    elif kind == "old":
        small(path, version=1)
    elif kind == "empty":
        Writer(path)
    else:
        every_table(path)
    with analyzer.open(path) as opened:
        for finding in read_findings().values():
            table = opened.engine.table(finding.sql, Scope(), finding.values({}))
            assert table.to_pylist() == [], finding.name


FIRST = {finding: (finding, name, build) for finding, name, build in reversed(CASES)}


@pytest.mark.parametrize(("finding", "name", "build"), FIRST.values(), ids=FIRST)
def test_a_finding_bears_a_hostile_name(
    finding: str, name: str, build: Build, tmp_path: Path
) -> None:
    """The text of a process's name is neither SQL nor a format."""
    samples = [
        dict(sample)
        | {
            table: [row | {"comm": HOSTILE} if row.get("comm") else row for row in sample[table]]
            for table in ("sockets", "closes", "owners", "unexplained")
            if table in sample
        }
        for sample in build(True)
    ]
    (row,) = ask(play(tmp_path / "r", samples), finding)
    assert row["comm"] in (HOSTILE, None)
    assert (HOSTILE in row["sentence"]) == (row["comm"] is not None)


def test_an_unknown_process_is_called_so(tmp_path: Path) -> None:
    nobody = dict.fromkeys(("pid", "comm", "start_us"))
    path = play(tmp_path / "r", run_of(full(**nobody), client(1), 8))
    (row,) = ask(path, "reader_stalled")
    assert row["sentence"].startswith("an unknown process does not read fast enough")
    assert (row["pid"], row["comm"]) == (None, None)


@pytest.mark.parametrize(("clients", "severity"), [(2, "warning"), (3, "critical")])
@pytest.mark.parametrize("finding", ["accept_queue", "unix_backlog"])
def test_one_or_two_who_wait_for_nobody_are_no_more_than_a_warning(
    finding: str, clients: int, severity: str, tmp_path: Path
) -> None:
    door = listener() if finding == "accept_queue" else unix(1, state="LISTEN", send_q=16)
    samples: Samples = [
        {"sockets": [door | {"recv_q": clients}, *(unaccepted(20 + k, 1000 * n) for k in range(2))]}
        for n in range(1, 8)
    ]
    (row,) = ask(play(tmp_path / "r", samples), finding)
    assert row["severity"] == severity


def test_a_listener_that_drops_for_another_reason_is_not_full(tmp_path: Path) -> None:
    still = [counter("TcpExt.ListenOverflows", 4, source="netstat")]
    rows = [listener(drops=0), listener(drops=900)]
    samples = [{"sockets": [row], "counters": still} for row in rows]
    assert ask(play(tmp_path / "r", samples), "accept_queue") == []
    without = [{"sockets": [row]} for row in rows]
    (found,) = ask(play(tmp_path / "unknown", without), "accept_queue")
    assert found["sentence"].endswith("900 connection attempts dropped")


def test_a_listener_has_dropped_no_more_than_the_kernel_counts(tmp_path: Path) -> None:
    """Its own count has packets that it threw away for other reasons."""
    names = ("TcpExt.ListenOverflows", "TcpExt.ListenDrops")
    samples = [
        {
            "sockets": [listener(drops=drops)],
            "counters": [counter(name, value, source="netstat") for name in names],
        }
        for drops, value in ((0, 0), (103, 97))
    ]
    (found,) = ask(play(tmp_path / "r", samples), "accept_queue")
    assert found["sentence"].endswith(" 97 connection attempts dropped")


@pytest.mark.parametrize("wildcard", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_what_a_full_accept_queue_here_swallows_is_told_once(
    wildcard: bool, full: bool, tmp_path: Path
) -> None:
    """Its clients see silence, data that is not acknowledged, and retransmissions."""
    place = {"local_addr": "0.0.0.0" if wildcard else "10.0.0.2", "local_port": 8080}
    door = listener(**place, recv_q=129 if full else 128, comm="hung", pid=3)
    half = unowned(5, "SYN-RECV") | {"local_addr": "10.0.0.2", "local_port": 8080}
    lost: Row = {"total_retrans": 150, "bytes_sent": 1000, "bytes_retrans": 900}
    clients = [client(1, "SYN-SENT"), unsent(), client(2, **lost)]
    clients[1]["cookie"] = 2001
    samples = [{"sockets": [door]}] + [{"sockets": [door, half, *clients]} for _ in range(8)]
    path = play(tmp_path / "r", samples)
    others = ("network_stall", "unanswered", "retransmits")
    assert [len(ask(path, name)) for name in ("accept_queue", *others)] == (
        [1, 0, 0, 0] if full else [0, 1, 1, 1]
    )


LEVELS = [
    # A rise from the beginning's level, from none, with a false start, and none at all.
    ((2, 2, 2, 4, 6, 8, 8), 3),
    ((0, 0, 3, 6, 8, 8, 8), 2),
    ((2, 5, 2, 2, 6, 8, 8), 4),
    ((2, 3, 5, 8, 2, 2, 2), 1),
    ((8, 8, 8, 8, 8, 8, 8), 0),
    # It was near its limit before it rose on.
    ((8, 8, 8, 9, 9, 9, 9), 0),
]


@pytest.mark.parametrize(("levels", "since"), LEVELS)
@pytest.mark.parametrize("limit", ["ports", "waiting", "buckets", "descriptors"])
def test_a_finding_begins_with_the_rise_to_the_limit(
    limit: str, levels: tuple[int, ...], since: int, tmp_path: Path
) -> None:
    """Not when the threshold was passed."""
    settings = [sysctl("ip_local_port_range", "40000 40009")]
    if limit == "buckets":
        settings = [sysctl("tcp_max_tw_buckets", "10")]
    state = "ESTAB" if limit in ("ports", "descriptors") else "TIME-WAIT"
    samples: Samples = [
        {
            "sockets": [listener(owner_by=None, pid=1), *(client(n, state) for n in range(level))],
            "settings": settings,
            "owners": [owner(10)],
        }
        for level in levels
    ]
    name = {"ports": "port_exhaustion", "descriptors": "descriptor_leak"}.get(limit, "time_wait")
    (row,) = ask(play(tmp_path / "r", samples), name)
    assert row["since"] == time_of(since)
    assert row["until"] >= row["since"]


def test_drops_before_the_scope_do_not_count(tmp_path: Path) -> None:
    """The sample before --from is the baseline, and only that."""
    samples = [{"sockets": [datagrams(drops)]} for drops in (0, 500, 530)]
    path = play(tmp_path / "r", samples)
    (found,) = ask(path, "udp_drops", Scope(start=micros(time_of(2))))
    assert found["measured"] == 30


@pytest.mark.parametrize("of_memory", [0, 4, 30])
def test_datagrams_dropped_for_want_of_memory_of_the_host_are_told_as_that(
    tmp_path: Path, of_memory: int
) -> None:
    memory, more_memory = grown("Udp.MemErrors", of_memory, "snmp")
    buffer, more_buffer = grown("Udp.RcvbufErrors", 30 - of_memory, "snmp")
    settings = [sysctl("udp_mem", "100 200 300")]
    samples: Samples = [
        {"sockets": [datagrams(0)], "counters": memory + buffer, "settings": settings},
        {"sockets": [datagrams(30)], "counters": more_memory + more_buffer},
    ]
    (found,) = ask(play(tmp_path / "r", samples), "udp_drops")
    assert found["measured"] == 30
    of_the_host = (
        "left nothing of the 1.2 MB that they may have together (udp_mem) for what came to"
    )
    assert (of_the_host in found["sentence"]) == (of_memory == 30)
    assert ("does not read its UDP socket" in found["sentence"]) == (of_memory < 30)
    assert ("of 30 dropped" in found["sentence"]) == (of_memory == 4)


def test_several_processes_of_one_name_are_told_as_that(tmp_path: Path) -> None:
    ports = [sysctl("ip_local_port_range", "40000 40009")]
    used = [client(n, pid=70 + n % 3, comm="php-fpm") for n in range(10)]
    (row,) = ask(play(tmp_path / "r", [{"settings": ports, "sockets": used}]), "port_exhaustion")
    assert (row["pid"], row["comm"], row["severity"]) == (None, "php-fpm", "critical")
    assert row["sentence"].startswith("php-fpm (pids 70, 71, 72) uses up the local ports")


@pytest.mark.parametrize("finding", ["time_wait", "port_exhaustion"])
@pytest.mark.parametrize("carried_over", [0, 3])
def test_who_is_not_guessed_of_two(finding: str, carried_over: int, tmp_path: Path) -> None:
    """A few rows whose owner was carried over do not tell who made the others."""
    ports = [sysctl("ip_local_port_range", "40000 40009")]
    nobody = dict.fromkeys(("pid", "comm", "start_us"))
    waits = [client(n, "TIME-WAIT") | (nobody if n >= carried_over else {}) for n in range(8)]
    others = [client(8), client(9, comm="other", pid=8)]
    (row,) = ask(play(tmp_path / "r", [{"settings": ports, "sockets": others + waits}]), finding)
    assert row["sentence"].startswith("an unknown process ")
    assert row["pid"] is None
    (row,) = ask(
        play(
            tmp_path / "one",
            [{"settings": ports, "sockets": waits + others[:1]}],
        ),
        finding,
    )
    assert row["sentence"].startswith("app (pid 7), the only one seen connected there, ")


def test_a_threshold_is_a_parameter(tmp_path: Path) -> None:
    path = play(tmp_path / "r", reader_stalled__for_five_seconds(False))
    assert ask(path, "reader_stalled", seconds=4.0, intervals=1.0)
    assert not ask(path, "reader_stalled", seconds=4.0, intervals=5.0)


def test_a_socket_that_a_rotation_left_out_stalls_on(tmp_path: Path) -> None:
    """A namespace whose turn comes in every third sample only: its looks follow on each other."""
    samples = [{"sockets": [full()], "number": 3 * n} for n in range(4)]
    (row,) = ask(play(tmp_path / "r", samples), "reader_stalled")
    assert row["measured"] == 9


# Who it was, and what it was.


def test_a_queue_is_of_whoever_listened_when_it_overflowed(tmp_path: Path) -> None:
    """A counter is of the namespace: who listens there now was born later."""
    values = (0, 40, 40, 40, 40, 40)
    halves = [unowned(20 + n, "SYN-RECV") for n in range(9)]
    samples = [
        {
            "sockets": [
                listener(pid=3 if n < 3 else 4, comm="web") | {"cookie": 1 if n < 3 else 2},
                *(halves[:4] if n == 1 else halves if n == 5 else []),
            ],
            "counters": [counter("TcpExt.TCPReqQFullDoCookies", value, source="netstat")],
        }
        for n, value in enumerate(values)
    ]
    (row,) = ask(play(tmp_path / "r", samples), "syn_backlog")
    assert (row["pid"], row["subject"]) == (3, "127.0.0.1:80")
    assert "web (pid 3) on 127.0.0.1:80 overflowed: 4 connections half open" in row["sentence"]


@pytest.mark.parametrize(("came_back", "said"), [(49, "a flood"), (50, "they were clients")])
def test_cookies_that_come_back_tell_clients_from_a_flood(
    came_back: int, said: str, tmp_path: Path
) -> None:
    grew = {"TCPReqQFullDoCookies": 100, "SyncookiesSent": 100, "SyncookiesRecv": came_back}
    samples = [
        {"counters": [counter(f"TcpExt.{n}", v * t, source="netstat") for n, v in grew.items()]}
        for t in range(2)
    ]
    (row,) = ask(play(tmp_path / "r", samples), "syn_backlog")
    assert f"of 100 cookies {came_back} came back" in row["sentence"]
    assert said in row["sentence"]


def test_one_server_after_another_is_one_finding(tmp_path: Path) -> None:
    rows = [listener(pid=3, recv_q=129), listener(pid=4, recv_q=129) | {"cookie": 2}]
    samples = [{"sockets": [row]} for row in rows for _ in range(3)]
    (row,) = ask(play(tmp_path / "r", samples), "accept_queue")
    assert row["sentence"].startswith("nginx (pids 3, 4) ")
    assert " in 6 of 6 samples" in row["sentence"]


@pytest.mark.parametrize("last", [98, 99])
@pytest.mark.parametrize("finding", ["accept_queue", "unix_backlog"])
def test_a_process_without_a_descriptor_cannot_accept(
    finding: str, last: int, tmp_path: Path
) -> None:
    """The kernel gives the lowest number that is free: all below the last one are taken."""
    own: Row = {"pid": 7, "comm": "app", "start_us": 1}
    door = listener(recv_q=129, **own)
    if finding == "unix_backlog":
        door = unix(1, state="LISTEN", send_q=16, recv_q=17, **own)
    rows = [door, client(5, fd=last)]
    samples = [{"sockets": rows, "owners": [owner(100)] if n == 0 else []} for n in range(3)]
    (row,) = ask(play(tmp_path / "r", samples), finding)
    said = "app (pid 7) has no descriptor left (100 of 100), so that accept() fails"
    assert row["sentence"].startswith(said) == (last == 99)


def test_idle_clients_that_come_one_after_another_are_no_more_than_a_note(tmp_path: Path) -> None:
    """They look like vanished ones: only what is known to be gone is a fault."""
    path = play(tmp_path / "idle", silent_peers__more_and_more(True))
    (row,) = ask(path, "silent_peers")
    assert row["severity"] == "note"
    assert "may be idle or gone" in row["sentence"]
    path = play(tmp_path / "gone", silent_peers__whose_other_end_is_closed_here(True))
    (row,) = ask(path, "silent_peers")
    assert (row["severity"], row["measured"]) == ("warning", 3)
    with analyzer.open(path) as opened:
        (line,) = opened.report("silent_peers").table().to_pylist()
    assert (line["gone"], line["silent"]) == (3, 3)


def test_a_process_without_a_descriptor_at_another_time_is_not_the_cause(tmp_path: Path) -> None:
    own: Row = {"pid": 7, "comm": "app", "start_us": 1}
    door, last = listener(recv_q=129, **own), client(5, fd=99)
    empty = listener(recv_q=0, **own)
    looks = [[empty, last], [empty], [empty], [door], [door], [door]]
    samples = [{"sockets": rows, "owners": [owner(100)]} for rows in looks]
    (row,) = ask(play(tmp_path / "r", samples), "accept_queue")
    assert "no descriptor left" not in row["sentence"]


def test_of_several_listeners_of_a_port_the_one_is_told_that_accepts_nothing(
    tmp_path: Path,
) -> None:
    """The queue of the other was empty since the first one came that waits."""
    doors = [listener(pid=3, start_us=1), listener(pid=4, start_us=1) | {"cookie": 2}]
    samples = [
        {
            "sockets": [
                doors[0] | {"recv_q": 1},
                doors[1] | {"recv_q": t % 2},
                unaccepted(20, 1000 * t),
                *([unaccepted(30 + t, 5)] if t % 2 else []),
            ]
        }
        for t in range(1, 9)
    ]
    (row,) = ask(play(tmp_path / "r", samples), "accept_queue")
    assert row["sentence"].startswith("nginx (pid 3) accepted nothing for ")


def test_clients_that_get_no_answer_are_told_as_that(tmp_path: Path) -> None:
    for answered in (0, 9):
        samples = [dict(sample) for sample in churned(10, kept=1)]
        for sample in samples:
            sample["closes"] = [
                row | {"bytes_received": answered} for row in sample.get("closes", [])
            ]
        (row,) = ask(play(tmp_path / str(answered), samples), "short_connections")
        assert ("10 of those that ended got not a byte of answer" in row["sentence"]) == (
            answered == 0
        )


@pytest.mark.parametrize("what", ["hole", "large ones pass", "nothing passes", "small waits"])
def test_small_segments_that_pass_tell_a_black_hole(what: str, tmp_path: Path) -> None:
    """Its last, smaller segment comes through, or another connection to the same address works."""
    sizes: Row = {"snd_mss": 1448, "delivered": 11, "sacked": 0 if what == "nothing passes" else 1}
    stuck = unsent(bytes_acked=81, **sizes) | ({"send_q": 900} if what == "small waits" else {})
    step_bytes = 1448 if what == "large ones pass" else 40
    samples = [
        {
            "sockets": [stuck]
            + (
                [client(2, bytes_acked=step_bytes * t, delivered=t, snd_mss=1448)]
                if what != "nothing passes"
                else []
            )
        }
        for t in range(8)
    ]
    (row,) = ask(play(tmp_path / "r", samples), "network_stall")
    said = "small segments pass and full ones (1,448 bytes) never do"
    assert (said in row["sentence"]) == (what == "hole")
    with analyzer.open(tmp_path / "r") as opened:
        (line,) = opened.report("stalls").table().to_pylist()
    assert line["never_pass_bytes"] == (1448 if what == "hole" else None)


def test_two_who_fill_a_queue_together_are_both_named(tmp_path: Path) -> None:
    rtts = [1_000, *(200_000 + n for n in range(12))]
    samples = [
        {
            "sockets": [
                client(
                    k, rtt_us=rtt + k, min_rtt_us=1_000, bytes_acked=(k < 2) * 250_000 * n, pid=k
                )
                for k in range(3)
            ]
        }
        for n, rtt in enumerate(rtts)
    ]
    (row,) = ask(play(tmp_path / "r", samples), "bufferbloat")
    assert row["sentence"].startswith(
        "app (pid 0), app (pid 1) keep a queue on the way to 10.0.0.2"
    )
    assert " full with 500 kB/s together: " in row["sentence"]
    assert "; who waits too: app (pid 2) to 10.0.0.2" in row["sentence"]


def test_peers_are_overdue_that_are_silent_for_longer_than_others_pause(tmp_path: Path) -> None:
    """One comes a second, and is heard no more; two speak every two seconds."""
    samples = [
        {
            "sockets": [
                DOOR,
                *(heard(90 + n, (t + n) % 2) for n in range(2)),
                *(heard(n, t - n) for n in range(1, t + 1)),
            ]
        }
        for t in range(25)
    ]
    path = play(tmp_path / "r", samples)
    (row,) = ask(path, "silent_peers")
    assert "nothing of 21 of its 26 connections on 10.0.0.1:80 for longer than" in row["sentence"]
    assert "had paused (2.0 s), of 14 of them for ten seconds" in row["sentence"]
    with analyzer.open(path) as opened:
        (line,) = opened.report("silent_peers").table().to_pylist()
    assert (line["overdue"], line["pause_s"], line["silent"]) == (21, 2.0, 14)


def test_what_was_lost_in_two_ways_is_told_as_two(tmp_path: Path) -> None:
    sent = [cut(n, {"send_q": 27}) for n in range(6)]
    unread = [cut(20 + n, {"recv_q": 900}) for n in range(7)]
    other = [listener(local_port=9)]
    path = play(tmp_path / "r", [{"sockets": other}, {"sockets": other, "closes": sent + unread}])
    told = [(row["measured"], row["sentence"]) for row in ask(path, "resets")]
    assert sorted(number for number, _ in told) == [6, 7]
    assert all(f"{number:.0f} of 13 that were closed" in sentence for number, sentence in told)
    with analyzer.open(path) as opened:
        rows = opened.report("resets").table().to_pylist()
        (total, *_) = opened.report("churn").table().to_pylist()
    ways = [("local", 7, 13, 6300), ("peer", 6, 13, 162)]
    assert [
        (row["lost_by"], row["resets"], row["closed"], row["lost_bytes"]) for row in rows
    ] == ways
    assert (total["resets"], total["peer_resets"]) == (13, 6)


def test_all_who_write_to_sockets_that_one_does_not_read_are_named(tmp_path: Path) -> None:
    looks = []
    for n in range(3):
        ends: Row = {"netid": "u_str", "inode": 50 + n}
        looks.append(log(90_000, **ends) | {"cookie": 500 + n})
        writer = logging(1 + n, 100_000, netid="u_str")
        looks.append(writer | {"peer_inode": 50 + n})
    (row,) = ask(play(tmp_path / "r", [{"sockets": looks} for _ in range(6)]), "unix_unread")
    assert "300.0 kB lie there of writer1 (pid 11), writer2 (pid 12), writer3" in row["sentence"]
    assert row["sentence"].endswith("; that is on 3 of its sockets there")


def test_a_queue_of_which_a_late_dump_tells_stands_still(tmp_path: Path) -> None:
    """The clocks are read up to half a second after the sample was begun."""
    lag = [0, 400, 0, 300, 0, 400, 0]
    samples = [
        {"sockets": [listener(recv_q=1), unaccepted(20, 1000 * n + lag[n], "CLOSE-WAIT")]}
        for n in range(7)
    ]
    empty = {"sockets": [listener(recv_q=0)]}
    (row,) = ask(play(tmp_path / "r", [empty, *samples]), "accept_queue")
    assert "accepted nothing for 6 s" in row["sentence"]


def test_in_a_short_recording_nothing_is_accepted_in_all_of_it(tmp_path: Path) -> None:
    samples = [
        {
            "sockets": [
                listener(recv_q=3),
                *(unaccepted(20 + k, 17_000 + 1000 * n) for k in range(3)),
            ]
        }
        for n in range(4)
    ]
    (row,) = ask(play(tmp_path / "r", samples), "accept_queue")
    assert row["severity"] == "critical"
    assert "accepted nothing for 3 s" in row["sentence"]
    assert "the first in it waited for 20 s" in row["sentence"]


ENDS = ["close_wait", "fin_wait", "idle_connections", "silent_peers"]


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("dies", [True, False])
def test_a_process_that_dies_in_the_last_sample_has_given_nothing_back(
    name: str, dies: bool, tmp_path: Path
) -> None:
    """One that lives and has closed them all has."""
    times = range(75 if name == "close_wait" else 24)
    looks: dict[str, Callable[[int, int], Row]] = {
        "close_wait": lambda n, t: client(n, "CLOSE-WAIT", last_ack_recv_ms=1000 * (t - n)),
        "fin_wait": lambda n, t: waiting_for_the_end(n, t, n),
        "idle_connections": lambda n, t: pooled(n, t - n, t - n),
        "silent_peers": lambda n, t: heard(n, t - n, pid=7, start_us=1),
    }
    samples = [
        {"sockets": [DOOR, *(looks[name](n, t) for n in range(1, t + 1))], "owners": []}
        for t in times
    ]
    appeared = {"owners": [owner(None) | {"comm": "app"}]}
    ended = owner(None) | {"valid_to": time_of(len(samples)), "sample": len(samples)}
    last = {"sockets": [DOOR], "owners": [ended] if dies else []}
    path = play(tmp_path / "r", [samples[0] | appeared, *samples[1:], last])
    assert [row["pid"] for row in ask(path, name)] == ([7] if dies else [])


def test_workers_that_hold_one_listener_are_told_as_several(tmp_path: Path) -> None:
    samples = [{"sockets": [listener(recv_q=129, holders=4)]} for _ in range(2)]
    (row,) = ask(play(tmp_path / "r", samples), "accept_queue")
    assert row["sentence"].startswith("nginx (pid 100) and 3 more who hold that socket accept")


def test_listeners_of_two_lives_dropped_no_more_than_the_kernel_counted(tmp_path: Path) -> None:
    before, after = grown("TcpExt.ListenOverflows", 12)
    drops, dropped = grown("TcpExt.ListenDrops", 12)
    lives = [listener(drops=0, pid=5), listener(drops=9, pid=5)]
    later = [listener(drops=n, pid=6) | {"cookie": 2} for n in (0, 7)]
    samples = [
        {"sockets": [lives[0]], "counters": before + drops},
        {"sockets": [lives[1]]},
        {"sockets": [later[0]]},
        {"sockets": [later[1]], "counters": after + dropped},
    ]
    (row,) = ask(play(tmp_path / "r", samples), "accept_queue")
    assert "12 connection attempts dropped" in row["sentence"]
    assert "(pids 5, 6)" in row["sentence"]


def test_a_race_of_keep_alive_names_both_ends_and_the_idle_time(tmp_path: Path) -> None:
    ends: Row = {"local_addr": "127.0.0.1", "peer_addr": "127.0.0.1"}
    lost = [cut(n, ends | {"send_q": 27}) for n in range(6)]
    served = [
        cut(50 + n, ends | {"local_port": 8080, "peer_port": 40_000 + n, "comm": "web", "pid": 9})
        for n in range(6)
    ]
    door = listener(local_port=8080, comm="web", pid=9)
    samples = [{"sockets": [door]}, {"sockets": [door], "closes": lost + served}]
    (row,) = ask(play(tmp_path / "r", samples), "resets")
    assert (row["pid"], row["subject"], row["measured"]) == (7, "127.0.0.1:8080", 6)
    assert row["sentence"] == (
        "app (pid 7) sends on connections to 127.0.0.1:8080 that web (pid 9) has closed or "
        "reset already: 6 of 6 that were closed, with 162 bytes lost; it had heard nothing for "
        "2.3 s when it sent, and web (pid 9) had closed after 2.0 s"
    )
    with analyzer.open(tmp_path / "r") as opened:
        (line,) = opened.report("resets").table().to_pylist()
        assert (line["resets"], line["idle_s"], line["peer_idle_s"]) == (6, 2.3, 2.0)
        (to, _) = opened.report("peers", order="resets").table().to_pylist()
        assert (to["way"], to["resets"]) == ("to", 6)
        churned = opened.report("churn").table().to_pylist()
        assert max(line["resets"] for line in churned if line["who"] == "all") == 6


def test_a_leak_is_found_from_whatever_end_and_though_others_come_and_go(tmp_path: Path) -> None:
    """Every other second one stays for good, beside up to eight; the process dies at last."""
    looks = [
        [*range(n // 2), *(1_000 + 10 * n + k for k in range(8 * (n % 2)))] for n in range(1, 62)
    ]
    samples: Samples = [
        {
            "sockets": [client(n, owner_by="fd") for n in look],
            "owners": [owner(100)] if place == 0 else [],
        }
        for place, look in enumerate(looks)
    ]
    dying = [{"sockets": [client(1, owner_by="fd")]}]
    path = play(tmp_path / "r", [*samples, *dying])
    for end in (45, 50, 55, 56, 57, 60, 61, 62):
        (row,) = ask(path, "descriptor_leak", Scope(end=micros(time_of(end))))
        assert "at 0.5 more a second" in row["sentence"], row["sentence"]
        assert "never falls" not in row["sentence"]


def test_a_load_that_rises_is_no_leak_while_its_sockets_are_given_back(tmp_path: Path) -> None:
    looks = [[1_000 * n + k for k in range(2 * n)] for n in range(1, 21)]
    samples: Samples = [
        {"sockets": [client(n, owner_by="fd") for n in look], "owners": [owner(100)]}
        for look in looks
    ]
    assert ask(play(tmp_path / "r", samples), "descriptor_leak") == []


def test_who_fills_a_queue_and_who_waits_in_it(tmp_path: Path) -> None:
    def look(n: int) -> list[Row]:
        rtt: Row = {"rtt_us": 1_000 if n == 0 else 200_000 + n, "min_rtt_us": 1_000}
        ssh: Row = {"comm": "ssh", "pid": 9, "peer_port": 22}
        return [client(1, **ssh, **rtt, bytes_acked=n), client(2, **rtt, bytes_acked=500_000 * n)]

    path = play(tmp_path / "r", [{"sockets": look(n)} for n in range(13)])
    (row,) = ask(path, "bufferbloat")
    assert row["sentence"] == (
        "app (pid 7) keeps a queue on the way to 10.0.0.2 full with 500 kB/s: round trips take "
        "200 ms there (nineteen of twenty take less), the least was 1.00 ms; who waits too: "
        "ssh (pid 9) to 10.0.0.2, 200 ms"
    )


def test_refused_attempts_tell_where_they_went_and_what_answers_there(tmp_path: Path) -> None:
    """A socket that did not wait for the answer keeps its peer."""

    def end(number: int, addr: str, port: int, **columns: Any) -> Row:
        ends = {"local_addr": addr, "peer_addr": addr, "local_port": port, "peer_port": 2375}
        return {
            "family": "inet6" if ":" in addr else "inet",
            "netid": "tcp",
            "cookie": number,
            "connection": True,
            "sampled": False,
            "recv_q": 0,
            "bytes_acked": 0,
            "bytes_received": 0,
        } | (ends | columns)

    refused = [end(n, "::1", 40_000 + n) for n in range(60)]
    served = [
        end(100 + n, "127.0.0.1", 50_000 + n, bytes_acked=6, bytes_received=3) for n in range(60)
    ]
    names = ("Tcp.ActiveOpens", "Tcp.AttemptFails")
    samples: Samples = [
        {"sockets": [listener(local_port=2375)], "counters": [counter(name, 0) for name in names]},
        {
            "sockets": [listener(local_port=2375)],
            "closes": refused + served,
            "counters": [
                counter(name, grown) for name, grown in zip(names, (120, 60), strict=True)
            ],
        },
    ]
    (row,) = ask(play(tmp_path / "r", samples), "failed_attempts")
    assert row["subject"] == "[::1]:2375"
    assert row["sentence"].startswith("an unknown process ")
    assert row["sentence"].endswith(
        "60 of 120 attempts to open a connection failed (50 %), refused or given up, "
        "all of them to [::1]:2375; 127.0.0.1:2375 answers"
    )
    # Of the last ones a close tells, and no reading of the counters yet.
    late = [counter(name, grown) for name, grown in zip(names, (118, 58), strict=True)]
    ahead = [samples[0], dict(samples[1]) | {"counters": late}]
    (row,) = ask(play(tmp_path / "ahead", ahead), "failed_attempts")
    assert "58 of 118 attempts" in row["sentence"]
    assert "all of them to [::1]:2375" in row["sentence"]
    without = [
        dict(sample) | {"closes": refused} if "closes" in sample else sample for sample in samples
    ]
    (row,) = ask(play(tmp_path / "none", without), "failed_attempts")
    assert row["sentence"].endswith("all of them to [::1]:2375")
    # One sample caught a connection of it to the other address.
    caught = tcp(400, local_port=50_000, peer_port=2375, comm="check", pid=5, start_us=1)
    seen = [dict(sample) | {"sockets": [*sample["sockets"], caught]} for sample in samples]
    (row,) = ask(play(tmp_path / "seen", seen), "failed_attempts")
    assert row["sentence"].startswith("probably check (pid 5) ")
    assert (row["pid"], row["comm"]) == (5, "check")
    rarely = [
        dict(sample) | {"closes": refused + served[:20]} if "closes" in sample else sample
        for sample in seen
    ]
    (row,) = ask(play(tmp_path / "rarely", rarely), "failed_attempts")
    assert row["sentence"].startswith("an unknown process ")


@pytest.mark.parametrize("refused", [20, 19])
def test_a_place_that_refuses_is_not_hidden_by_what_else_is_opened(
    refused: int, tmp_path: Path
) -> None:
    """Of a service that dies and returns a third is refused; the host opens a hundred others."""
    names = ("Tcp.ActiveOpens", "Tcp.AttemptFails")
    ends = {"local_addr": "10.0.0.1", "peer_addr": "10.0.0.2", "peer_port": 9100}
    refusals = [
        {"netid": "tcp", "family": "inet", "cookie": n, "connection": True, "sampled": False}
        | {"local_port": 40_000 + n, "recv_q": 0, "bytes_acked": 0, "bytes_received": 0}
        | ends
        for n in range(refused)
    ]
    served = [client(n, peer_port=9100, comm="probe", pid=5) for n in range(40)]
    samples: Samples = [
        {"counters": [counter(name, 0) for name in names]},
        {
            "sockets": served,
            "closes": refusals,
            "counters": [counter(names[0], 160), counter(names[1], refused)],
        },
    ]
    found = ask(play(tmp_path / "r", samples), "failed_attempts")
    if refused < 20:
        assert found == []
        return
    (row,) = found
    assert (row["pid"], row["comm"], row["subject"]) == (5, "probe", "10.0.0.2:9100")
    assert row["sentence"].startswith("probably probe (pid 5) ")
    assert row["sentence"].endswith(
        "20 of 160 attempts to open a connection failed (12 %), refused or given up, all of them "
        "to 10.0.0.2:9100, which are 33 % of those there"
    )
    assert row["measured"] == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("users", "processes", "who"),
    [
        ((33, 33), 1, "nginx (pid 24), the only one seen of user www-data,"),
        ((33, 33), 2, "a process of user www-data"),
        ((33, 34), 1, "an unknown process"),
        # As older kernels show every socket that no process holds.
        ((0, 0), 1, "an unknown process"),
    ],
)
@pytest.mark.parametrize("finding", ["time_wait", "port_exhaustion"])
def test_connections_without_a_process_are_their_users(
    finding: str, users: tuple[int, int], processes: int, who: str, tmp_path: Path
) -> None:
    """TIME-WAIT has lost its user too; another connection to the same place has not."""
    ports = [sysctl("ip_local_port_range", "40000 40009"), sysctl("tcp_tw_reuse", "0")]
    nobody = dict.fromkeys(("pid", "comm", "start_us", "fd", "holders")) | {"inode": 0}
    names = {0: "root", 33: "www-data", 34: "backup"}
    waits = [client(n, "TIME-WAIT", uid=0, user="root") | nobody for n in range(8)]
    ending = [
        client(8 + n, "FIN-WAIT-1", uid=uid, user=names[uid]) | nobody
        for n, uid in enumerate(users)
    ]
    known = [
        owner(10) | {"pid": 24 + n, "comm": "nginx", "uid": users[0], "user": names[users[0]]}
        for n in range(processes)
    ]
    samples = [{"settings": ports, "sockets": waits + ending, "owners": known}]
    (row,) = ask(play(tmp_path / "r", samples), finding)
    assert row["sentence"].startswith(f"{who} ")
    assert row["pid"] == (24 if "only" in who else None)


SAME = {
    "bufferbloat": ("rtt", "p95_us", 1_000.0),
    "descriptor_leak": ("process_sockets", "peak", 1.0),
    "idle_connections": ("idle_connections", "unused", 1.0),
    "port_exhaustion": ("port_exhaustion", "peak", 1.0),
    "send_limit": ("limits", "held_percent", 1.0),
    "unix_unread": ("unix_sockets", "unread_s", 1.0),
}
"""The report that shows what a finding measured, its column, and of how many it is one."""


@pytest.mark.parametrize(
    ("finding", "name", "build"),
    [one for one in CASES if one[0] in SAME],
    ids=[name for finding, name, _ in CASES if finding in SAME],
)
def test_a_report_and_its_finding_give_the_same_number(
    finding: str, name: str, build: Build, tmp_path: Path
) -> None:
    path = play(tmp_path / "r", build(True))
    (row,) = ask(path, finding)
    report, column, unit = SAME[finding]
    by: Row = {"by": "process"} if report == "process_sockets" else {}
    with analyzer.open(path) as opened:
        shown = opened.report(report, top=0, **by).table().column(column).to_pylist()
    assert row["report"] == report
    assert any(value is not None and abs(value - unit * row["measured"]) < 0.51 for value in shown)
