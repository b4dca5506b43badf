"""The derived views: lifetimes, listeners and changes of recordings of known rows."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import analyzer
from analyzer.sql.header import parse_query, read_folder
from analyzer.sql.views import ScopeError
from tests.analyzer.support.recordings import (
    FACTS,
    NETNS,
    Row,
    Writer,
    carried,
    micros,
    small,
    step,
    tcp,
    time_of,
    unix,
    unowned,
    write_segment,
)

OK = [step("tcp"), step("owners")]


def rows(path: Path, query: str, **scope: Any) -> list[dict[str, Any]]:
    with analyzer.open(path) as opened:
        found: list[dict[str, Any]] = opened.sql(query, **scope).table().to_pylist()
    return found


def life(path: Path, cookie: int, *columns: str, **scope: Any) -> tuple[Any, ...]:
    """Return columns of the only row of that connection."""
    (row,) = rows(
        path, f"SELECT {', '.join(columns)} FROM connections WHERE cookie = {cookie}", **scope
    )
    return tuple(row.values())


def close(cookie: int, **columns: Any) -> Row:
    """Return the announcement of a connection that lived between two samples."""
    return (
        tcp(cookie, sampled=False, connection=True)
        | dict.fromkeys(("pid", "start_us", "comm", "fd"))
        | {"bytes_acked": 1, "bytes_received": 1, "segs_in": 5}
        | columns
    )


@pytest.mark.parametrize("name", read_folder("views"))
def test_a_view_gives_the_columns_that_its_header_describes(name: str, tmp_path: Path) -> None:
    small(tmp_path / "r")
    described = parse_query(name, read_folder("views")[name]).columns
    with analyzer.open(tmp_path / "r") as opened:
        assert opened.sql(f"SELECT * FROM {name}").table().column_names == list(described)


def test_a_connection_is_followed_through_its_states(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(9, "LISTEN")], steps=OK)
    writer.sample([tcp(9, "LISTEN"), tcp(1, "SYN-RECV", inode=0)], steps=OK)
    writer.sample([tcp(9, "LISTEN"), tcp(1, bytes_sent=10, rtt_us=70, recv_q=5)], steps=OK)
    writer.sample([tcp(9, "LISTEN"), tcp(1, bytes_sent=30, rtt_us=50)], steps=OK)
    writer.sample([tcp(9, "LISTEN"), carried(1, "FIN-WAIT-2", bytes_sent=31)], steps=OK)
    writer.sample([tcp(9, "LISTEN"), carried(1, "TIME-WAIT")], steps=OK)
    writer.sample([tcp(9, "LISTEN")], steps=OK)
    told = "role opened closed closed_first samples last_state comm bytes_sent rtt_us rtt_max_us"
    assert life(tmp_path / "r", 1, *told.split()) == (
        "server",
        "during",
        "seen",
        "local",
        5,
        "TIME-WAIT",
        "nginx",
        31,
        50,
        70,
    )
    times = "first_us syn_recv_us estab_us fin_wait_us time_wait_us last_us closed_us".split()
    assert life(tmp_path / "r", 1, *times) == tuple(
        micros(time_of(sample)) for sample in (1, 1, 2, 4, 5, 4, 4)
    )
    # Between the samples before and after: it may have come after 0 and gone before 5.
    assert life(tmp_path / "r", 1, "duration_us", "duration_max_us") == (3_000_000, 5_000_000)
    assert life(tmp_path / "r", 1, "recv_q_peak", "close_wait_us", "attempt") == (5, None, None)


def test_neither_listeners_nor_others_are_connections(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    others = [tcp(1, "LISTEN"), tcp(2, "UNCONN"), unix(3), tcp(4, netid="udp")]
    writer.sample([*others, tcp(5), tcp(6, subflow=True), tcp(7, netid="mptcp", subflow=None)])
    found = rows(tmp_path / "r", "SELECT cookie FROM connections ORDER BY cookie")
    assert [row["cookie"] for row in found] == [5, 7]


@pytest.mark.parametrize(
    ("states", "first"),
    [
        (["ESTAB", "FIN-WAIT-1"], "local"),
        (["ESTAB", "CLOSE-WAIT", "LAST-ACK"], "peer"),
        (["ESTAB", "FIN-WAIT-1", "CLOSING"], "both"),
        (["ESTAB"], None),
    ],
)
def test_the_states_tell_who_closed_first(
    states: list[str], first: str | None, tmp_path: Path
) -> None:
    writer = Writer(tmp_path / "r")
    for state in states:
        writer.sample([tcp(1, state)], steps=OK)
    writer.sample([], steps=OK)
    assert life(tmp_path / "r", 1, "closed", "closed_first") == ("inferred", first)


def test_a_connection_is_open_unless_a_later_whole_sample_lacks_it(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1)], steps=OK)
    writer.sample([], steps=[step("tcp", outcome="truncated"), step("owners")])
    writer.sample([], steps=[step("all", outcome="rotated"), step("owners")])
    assert life(tmp_path / "r", 1, "closed", "closed_us") == (None, None)
    writer.sample([], steps=[step("all", outcome="skipped_empty")])
    assert life(tmp_path / "r", 1, "closed", "closed_us") == ("inferred", micros(time_of(0)))


def test_who_was_seen_in_its_handshake_and_has_an_end_was_connected(tmp_path: Path) -> None:
    """A peer that resets at once may leave nothing acknowledged, nor received."""
    writer = Writer(tmp_path / "r")
    requests = [tcp(cookie, "SYN-RECV", inode=0) for cookie in (1, 2, 3)]
    writer.sample([tcp(9, "LISTEN")], steps=OK)
    writer.sample([tcp(9, "LISTEN"), *requests], steps=OK)
    nothing = {"sampled": True, "recv_q": 0, "bytes_acked": 0}
    ends = [close(1, bytes_received=75, **nothing), close(2, bytes_received=0, **nothing)]
    writer.sample([tcp(9, "LISTEN")], steps=OK, closes=ends)
    assert life(tmp_path / "r", 1, "role", "attempt", "closed_first") == ("server", None, "peer")
    assert life(tmp_path / "r", 2, "role", "attempt", "closed_first") == ("server", None, "peer")
    assert life(tmp_path / "r", 3, "role", "attempt", "closed_first") == ("server", "failed", None)


def test_what_lived_between_two_samples_is_known_by_its_announcement(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(9, "LISTEN")], steps=OK)
    ends = [
        close(1, recv_q=1, bytes_sent=500, peer_port=50001),
        close(2, recv_q=0, peer_port=50002, owner_by="listener", pid=100, comm="nginx"),
        close(3, recv_q=0, send_q=77, peer_port=0, bytes_acked=0, local_port=50003),
        close(4, recv_q=0, bytes_acked=0, bytes_received=0, local_port=50004, segs_in=1),
        close(5, recv_q=0, connection=False, peer_port=50005),
    ]
    # The first closed first: its TIME-WAIT socket has another cookie.
    waiting = unowned(1001, "TIME-WAIT") | {"peer_port": 50001}
    writer.sample([tcp(9, "LISTEN"), waiting], steps=OK, closes=ends)
    told = "samples role closed_first attempt bytes_sent time_wait_cookie comm".split()
    assert life(tmp_path / "r", 1, *told) == (0, "server", "local", None, 500, 1001, None)
    assert life(tmp_path / "r", 2, *told) == (
        0,
        "server",
        "peer",
        None,
        None,
        None,
        "nginx",
    )
    assert life(tmp_path / "r", 3, *told) == (0, "client", "reset", None, None, None, None)
    assert life(tmp_path / "r", 3, "peer_addr", "peer_port", "bytes_acked") == (None, None, None)
    assert life(tmp_path / "r", 4, *told) == (0, "client", None, "failed", None, None, None)
    assert life(tmp_path / "r", 1, "time_wait_us", "duration_us", "duration_max_us") == (
        micros(time_of(1)),
        0,
        1_000_000,
    )
    cookies = rows(tmp_path / "r", "SELECT cookie FROM connections ORDER BY cookie")
    assert [row["cookie"] for row in cookies] == [1, 2, 3, 4]


def test_what_is_known_by_time_wait_alone_closed_when_that_was_first_shown(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    waiting = unowned(1001, "TIME-WAIT") | {"peer_port": 50001}
    orphan = unowned(1002, "FIN-WAIT-2") | {"timer": "timewait", "peer_port": 50002}
    for rows_here in ([], [waiting, orphan], [waiting, orphan], [waiting], []):
        writer.sample(rows_here, steps=OK)
    told = ("opened", "closed", "closed_us", "last_us", "duration_us")
    at = micros(time_of(1))
    assert life(tmp_path / "r", 1001, *told) == ("during", "seen", at, at, None)
    assert life(tmp_path / "r", 1002, *told) == ("during", "inferred", at, at, None)


def test_a_time_wait_of_long_ago_is_not_that_of_a_later_connection(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    waiting = unowned(1001, "TIME-WAIT") | {"peer_port": 50001}
    writer.sample([waiting], steps=OK)
    writer.sample([], steps=OK)
    writer.sample([], steps=OK, closes=[close(1, recv_q=0, peer_port=50001)])
    assert life(tmp_path / "r", 1, "time_wait_cookie", "closed_first") == (None, "peer")
    assert life(tmp_path / "r", 1001, "opened", "closed", "closed_first", "duration_us") == (
        "before",
        "before",
        "local",
        None,
    )


def test_totals_are_the_final_ones(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1, bytes_sent=100, rtt_us=9, min_rtt_us=5)], steps=OK)
    writer.sample(
        [],
        steps=OK,
        closes=[close(1, sampled=True, bytes_sent=180, rtt_us=30, min_rtt_us=4, recv_q=0)],
    )
    told = ("bytes_sent", "rtt_us", "rtt_max_us", "min_rtt_us", "comm", "opened", "closed_us")
    assert life(tmp_path / "r", 1, *told) == (180, 30, 30, 4, "nginx", "before", micros(time_of(1)))


def test_what_was_open_before_the_scope_is_said_to_be(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1), tcp(2)], steps=OK)
    writer.sample([tcp(1), tcp(2)], steps=OK)
    # It came before the scope, skipped the first sample in it, and is in the second.
    writer.sample([tcp(3)], steps=OK, closes=[close(2, sampled=True, recv_q=0)])
    writer.sample([tcp(1), tcp(3)], steps=OK)
    scope = {"start": "+2s"}
    assert life(tmp_path / "r", 1, "opened", "duration_us", **scope) == ("before", None)
    assert life(tmp_path / "r", 2, "opened", "samples", **scope) == ("before", 0)
    assert life(tmp_path / "r", 3, "opened", **scope) == ("before",)


def test_a_file_of_sockets_alone_tells_of_connections(tmp_path: Path) -> None:
    path = tmp_path / "alone.parquet"
    common = [{"sample": n, "sample_time": time_of(n), "netns": NETNS} for n in range(3)]
    table = [tcp(1) | common[0], tcp(2) | common[1], tcp(2) | common[2]]
    write_segment(path, "sockets", table, FACTS)
    told = ("opened", "closed", "role")
    assert life(path, 1, *told) == ("before", "inferred", "client")
    assert life(path, 2, *told) == ("during", None, "client")


def test_listeners_tell_how_full_they_were(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for queue, drops in [(0, 7), (3, 7), (2, 9), (3, 12)]:
        writer.sample([tcp(1, "LISTEN", recv_q=queue, send_q=2, drops=drops), unix(2)])
    (row,) = rows(tmp_path / "r", "SELECT * FROM listeners")
    assert (row["backlog"], row["queue_peak"], row["queue_avg"]) == (2, 3, 2.0)
    # Two of two is not full yet: the kernel lets one more in.
    assert (row["full_samples"], row["samples"], row["drops"]) == (2, 4, 5)
    assert (row["full_first_us"], row["full_last_us"]) == (
        micros(time_of(1)),
        micros(time_of(3)),
    )


def test_changes_are_those_since_the_sample_before_and_survive_a_reset(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for sent, queue in [(100, 0), (350, 4), (20, 1), (20, None)]:
        writer.sample([tcp(1, bytes_sent=sent, recv_q=queue)])
    query = "SELECT dt_us, d_bytes_sent, sent_bytes_per_s, d_recv_q FROM deltas ORDER BY sample"
    assert [tuple(row.values()) for row in rows(tmp_path / "r", query)] == [
        (1_000_000, 250, 250.0, 4),
        (1_000_000, None, None, -3),
        (1_000_000, 0, 0.0, None),
    ]
    # The sample before the scope counts as the one before.
    assert [tuple(row.values())[1] for row in rows(tmp_path / "r", query, start="+1s")] == [
        250,
        None,
        0,
    ]


def where(path: Path, text: str, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in rows(path, query, where=text)]


def test_where_chooses_sockets_and_their_closes(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    ends = [close(n, sampled=n == 1, comm="nginx" if n < 3 else "redis") for n in (1, 2, 3)]
    writer.sample([tcp(1), tcp(4, comm="redis", recv_q=9)], steps=OK, closes=ends)
    path = tmp_path / "r"
    query = "SELECT 's' AS kind, cookie FROM sockets UNION ALL SELECT 'c', cookie FROM closes"
    query = f"SELECT * FROM ({query}) ORDER BY kind, cookie"
    assert where(path, "comm = 'nginx'", query) == [("c", 1), ("c", 2), ("s", 1)]
    assert where(path, "comm = 'redis' OR comm = 'x' -- or so", query) == [("c", 3), ("s", 4)]
    # What closes do not have chooses those of the sockets it chose.
    assert where(path, "state = 'ESTAB' AND pid = 100 AND recv_q = 0", query) == [
        ("c", 1),
        ("s", 1),
    ]
    assert where(path, "recv_q > 5", "SELECT count(*) FROM samples") == [(2,)]


def test_where_chooses_a_socket_with_its_whole_life(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for queue, ends in [(0, []), (7, []), (0, [close(1, sampled=True, peer_port=0)])]:
        sockets = [tcp(9, "LISTEN"), tcp(1, recv_q=queue), tcp(2)][: 3 if not ends else 1]
        writer.sample(sockets, steps=OK, closes=ends)
    for text in ("recv_q > 0", "sockets.recv_q > 0", f"recv_q > 0 AND t_us = {micros(time_of(1))}"):
        query = "SELECT samples, role, closed, closed_first, recv_q_peak FROM connections"
        # What reset itself has lost its peer, and the listener was not chosen.
        assert where(tmp_path / "r", text, query) == [(2, "server", "seen", "reset", 7)]
    query = "SELECT closed FROM connections"
    assert where(tmp_path / "r", "peer_port = 40001", query) == [("seen",)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nosuch = 1",
        "pid = 1) OR (1 = 1",
        "pid = 1; DROP VIEW sockets",
        "pid, comm",
        "pid = 1 /*",
        "count(*) > 0",
        "pid = 1 UNION SELECT 1",
        "pid = 1 LIMIT 1",
        "\ud800",
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    small(tmp_path / "r")
    with (
        analyzer.open(tmp_path / "r") as opened,
        pytest.raises(ScopeError, match="is no condition") as caught,
    ):
        opened.sql("SELECT * FROM sockets", where=text).table()
    assert "\n" not in str(caught.value)


def test_a_port_taken_again_within_a_second_makes_no_connection_more(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    listener = tcp(9, "LISTEN")
    writer.sample([listener], steps=OK)
    for cookie, milliseconds in ((1, 900), (2, 1500)):
        waiting = unowned(1000 + cookie, "TIME-WAIT") | {"peer_port": 40000}
        time = time_of(0) + timedelta(milliseconds=milliseconds)
        end = close(cookie, recv_q=1, peer_port=40000, time=time)
        writer.sample([listener, waiting], steps=OK, closes=[end])
    found = rows(tmp_path / "r", "SELECT cookie FROM connections ORDER BY cookie")
    assert [row["cookie"] for row in found] == [1, 2]


def test_a_connection_that_smc_made_for_one_of_its_own_has_the_owner_of_that(
    tmp_path: Path,
) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample(
        [
            unowned(1, "ESTAB", inode=3),
            unowned(2, "ESTAB", inode=4) | {"local_addr": "10.9.9.9"},
            tcp(1, netid="smc", family="smc", owner_by="fd") | {"cookie": 7},
            tcp(8, "LISTEN", netid="smc", family="smc", peer_port=0, owner_by="fd"),
        ],
        steps=OK,
    )
    owner = ("pid", "start_us", "comm", "owner_by")
    assert life(tmp_path / "r", 1, *owner) == (100, 5_000_000, "nginx", "fd")
    assert life(tmp_path / "r", 2, *owner) == (None, None, None, None)
