"""The reports states and coverage on tiny recordings: numbers worked out by hand, and goldens."""

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
    small,
    step,
    tcp,
    time_of,
    unix,
)

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


def mptcp(path: Path, *, recorded: bool) -> Path:
    """Write one MPTCP connection of two subflows, and one of plain TCP."""
    sockets = [tcp(1, subflow=False), tcp(2, subflow=True), tcp(3, subflow=True)]
    if recorded:
        sockets.append(tcp(4, netid="mptcp"))
    steps = [*OK, *([step("mptcp")] if recorded else [])]
    Writer(path).sample(sockets, steps=steps)
    return path


@pytest.mark.parametrize(
    ("recorded", "counts"), [(True, [("mptcp", 1), ("tcp", 1)]), (False, [("tcp", 3)])]
)
def test_a_subflow_is_not_counted_beside_its_connection(
    recorded: bool, counts: list[tuple[str, int]], tmp_path: Path
) -> None:
    path = mptcp(tmp_path / "r", recorded=recorded)
    assert states(path, "netid", "max") == counts
    assert holders(path, "netid", "peak") == counts


def test_kinds_of_one_table_and_of_two_families_belong_together(tmp_path: Path) -> None:
    """A table that could not be read is unknown for every kind of socket in it."""
    kinds = {"p_raw": "packet", "nl": "netlink", "v_dgr": "vsock", "ti_rd": "tipc", "raw": "raw6"}
    writer = Writer(tmp_path / "r")
    sockets = [tcp(n, "UNCONN", netid=netid) for n, netid in enumerate(kinds)]
    writer.sample(sockets, steps=[step(name) for name in kinds.values()])
    writer.sample([], steps=[step(name, outcome="busy") for name in kinds.values()] + [step("raw")])
    found = states(tmp_path / "r", "netid", "max", "samples", "unknown", interval=10)
    assert found == [(netid, 1, 1, 1) for netid in sorted(kinds)]
    assert set(holders(tmp_path / "r", "first", "last")) == {(1, 1)}


def test_a_namespace_whose_turn_it_is_not_leaves_the_sample_unknown(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for outcome in ("ok", "skipped_empty", "rotated"):
        writer.sample([tcp(1)], steps=[*OK, step("all", netns=NETNS + 1, outcome=outcome)])
    columns = ("netid", "state", "max", "samples", "unknown")
    assert states(tmp_path / "r", *columns, interval=10) == [("tcp", "ESTAB", 1, 2, 1)]
    assert holders(tmp_path / "r", "first", "peak", "last") == [(1, 1, 1)]


def test_states_gives_one_row_to_what_was_never_seen(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for _ in range(20):
        writer.sample([tcp(1)], steps=[step("tcp"), step("sctp", outcome="unavailable")])
    found = states(tmp_path / "r", "time", "netid", "state", "samples", "unknown")
    # What there is comes first.
    assert found[-1] == (time_of(0), "sctp", None, 0, 20)
    assert [netid for _, netid, *_ in found] == [*["tcp"] * 10, "sctp"]


def holders(path: Path, *columns: str, **options: Any) -> list[tuple[Any, ...]]:
    return [tuple(row[c] for c in columns) for row in report(path, "process_sockets", **options)]


def test_states_lists_the_largest_and_what_was_never_seen(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1), tcp(2), unix(9)], steps=without("udp"))
    writer.sample([*(tcp(10 + n, "TIME-WAIT") for n in range(5)), unix(9)], steps=without("udp"))
    columns = ("netid", "state", "max")
    assert set(states(tmp_path / "r", *columns, top=1)) == {
        ("tcp", "TIME-WAIT", 0),
        ("tcp", "TIME-WAIT", 5),
        ("udp", None, None),
    }
    assert {row[:2] for row in states(tmp_path / "r", *columns, top=2)} == {
        ("tcp", "ESTAB"),
        ("tcp", "TIME-WAIT"),
        ("udp", None),
    }
    assert states(tmp_path / "r", *columns, top=0) == states(tmp_path / "r", *columns)


OPENS = ("Tcp.ActiveOpens", "Tcp.PassiveOpens")


def opens(value: int, *, phase: str = "before", netns: int = NETNS) -> list[Row]:
    """Return half of the connections as opened actively, half passively."""
    return [counter(name, value // 2, phase=phase, netns=netns) for name in OPENS]


def look(tcp: int, closes: int, netns: int = NETNS, **columns: Any) -> list[Row]:
    """Return the steps of a namespace in a sample, and the connections they saw first."""
    return [
        step("counters", netns=netns),
        step("tcp", opened=tcp, netns=netns),
        step("closes", opened=closes, netns=netns, **{"rows": closes, "lost": 0} | columns),
        step("counters_after", netns=netns),
    ]


@pytest.fixture
def covered(tmp_path: Path) -> Path:
    """Return three samples of two namespaces, a third that could not be entered, and the host.

    Of the 1004 connections between the first sample and the last, home saw 974; box all its 20.
    """
    box = NETNS + 1
    host = [step("counters", netns=0), step("owners", netns=0, unresolved=3, outcome="partial")]
    writer = Writer(tmp_path / "r")
    writer.sample(
        [tcp(1)],
        steps=[*host, *look(500, 77), *look(8, 0, box)],
        counters=[*opens(9000), *opens(9006, phase="after"), *opens(8, netns=box)],
        namespaces=[
            {"home": True, "entered": True, "valid_from": time_of(0)},
            {"netns": box, "comm": "box", "entered": True, "valid_from": time_of(0)},
            {"netns": box + 1, "name": "shut", "entered": False, "valid_from": time_of(0)},
        ],
    )
    writer.sample(
        [tcp(1)],
        steps=[*host, *look(10, 484, lost=12, outcome="partial"), step("all", netns=box)],
        counters=opens(9500),
    )
    writer.seal()
    writer.sample(
        [tcp(1)],
        steps=[
            *(row | {"late_us": 400_000, "skipped": 1} for row in host),
            *look(80, 400),
            *look(5, 15, box),
            step("raw", outcome="skipped_empty", netns=box),
            step("udp", outcome="rotated", netns=box),
            step("sctp", outcome="unavailable", netns=box),
            step("unix", outcome="truncated", netns=box),
        ],
        counters=[*opens(10000), *opens(10010, phase="after"), *opens(28, netns=box)],
        namespaces=[{"netns": box, "name": "box1", "entered": True, "valid_from": time_of(2)}],
        number=3,
    )
    return tmp_path / "r"


def coverage(path: Path, *columns: str, **options: Any) -> list[tuple[Any, ...]]:
    return [tuple(row[c] for c in columns) for row in report(path, "coverage", **options)]


def test_coverage_compares_with_the_kernels_count(covered: Path) -> None:
    columns = ("netns", "name", "says", "seen", "kernel", "margin", "share_percent")
    lost = "12 announcements lost"
    assert coverage(covered, *columns) == [
        (None, "all", f"saw 97.07 % of connections, {lost}", 994, 1024, 10, 97.07),
        (NETNS, "home", f"saw 97.01 % of connections, {lost}", 974, 1004, 10, 97.01),
        (NETNS + 1, "box1", "saw 100.0 % of connections", 20, 20, 0, 100.0),
        (NETNS + 2, "shut", "could not be entered", None, None, None, None),
    ]
    assert len(coverage(covered, "netns", top=1)) == 2
    assert len(coverage(covered, "netns", top=0)) == 4


def test_coverage_tells_what_was_not_read(covered: Path) -> None:
    columns = ("name", "closes", "lost", "samples", "late", "skipped", "unresolved")
    assert coverage(covered, *columns) == [
        ("all", 976, 12, 3, 1, 1, 3),
        ("home", 961, 12, 3, 0, 0, None),
        ("box1", 15, 0, 3, 0, 0, None),
        ("shut", None, None, 0, None, None, None),
    ]
    outcomes = ("name", "empty", "rotated", "unavailable", "incomplete", "example")
    assert coverage(covered, *outcomes) == [
        ("all", 1, 1, 1, 5, "unix truncated"),
        ("home", 0, 0, 0, 1, "closes partial"),
        ("box1", 1, 1, 1, 1, "unix truncated"),
        ("shut", *[None] * 5),
    ]


def test_coverage_of_a_scope_knows_the_counters_before_it(covered: Path) -> None:
    """The first sample of the scope is where counting starts; box was not read in it."""
    columns = ("name", "seen", "kernel")
    assert coverage(covered, *columns, start="+1s") == [
        ("all", 480, 510),
        ("home", 480, 510),
        ("box1", None, None),
        ("shut", None, None),
    ]
    assert coverage(covered, *columns, end="+2s")[:2] == [("all", 494, 494), ("home", 494, 494)]
    says = "saw 100.0 % of connections, 12 announcements lost"
    assert coverage(covered, "says", end="+2s")[0] == (says,)
    # One sample has nothing to count from.
    assert coverage(covered, *columns, "says", start="+3s")[0] == ("all", None, None, None)


def test_coverage_without_the_kernels_count_is_unknown(tmp_path: Path) -> None:
    columns = ("says", "seen", "kernel", "margin", "share_percent", "closes", "lost")
    writer = Writer(tmp_path / "no-counters")
    for _ in range(2):
        writer.sample([tcp(1)], steps=look(1, 2)[1:3])
    assert coverage(tmp_path / "no-counters", *columns) == [(None, 3, None, None, None, 4, 0)] * 2
    small(tmp_path / "one", version=1)
    assert coverage(tmp_path / "one", *columns) == [(None,) * 7] * 2
    half = Writer(tmp_path / "half")
    for value in (0, 10):
        half.sample([], steps=[*look(5, 5), *look(1, 1, NETNS + 1)[1:]], counters=opens(value))
    # A share of all would leave out connections of which the kernel's count is not known.
    assert coverage(tmp_path / "half", *columns[:3]) == [
        (None, 12, None),
        ("saw 100.0 % of connections", 10, 10),
        (None, 2, None),
    ]


def test_coverage_of_a_namespace_without_sockets_saw_all_of_nothing(tmp_path: Path) -> None:
    box = NETNS + 1
    empty = [step("counters", netns=box), step("all", netns=box, outcome="skipped_empty")]
    for name, others in (("tcp", look(5, 5)), ("udp", [step("udp"), step("counters")])):
        writer = Writer(tmp_path / name)
        for value in (0, 10):
            here = [] if value else opens(7, netns=box)
            writer.sample([], steps=[*others, *empty], counters=[*opens(value), *here])
    columns = ("netns", "says", "seen", "kernel")
    assert coverage(tmp_path / "tcp", *columns) == [
        (None, "saw 100.0 % of connections", 10, 10),
        (NETNS, "saw 100.0 % of connections", 10, 10),
        (box, "no connections", 0, 0),
    ]
    # Without the table of TCP nothing is known of its connections.
    assert {row[1:3] for row in coverage(tmp_path / "udp", *columns)} == {(None, None)}


def test_coverage_of_a_quiet_host_has_no_share(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for sample in range(2):
        writer.sample([], steps=look(0, 0), counters=opens(40) if sample == 0 else ())
    columns = ("says", "seen", "kernel", "share_percent")
    assert coverage(tmp_path / "r", *columns) == [("no connections", 0, 0, None)] * 2


def during(before: int, after: int) -> list[Row]:
    """Return the counters of a sample, read before and after its sockets."""
    return [*opens(before), *opens(after, phase="after")]


def test_coverage_counts_from_after_the_first_sample_to_after_the_last(tmp_path: Path) -> None:
    """The closes of a sample are taken just before the counters are read again."""
    writer = Writer(tmp_path / "r")
    writer.sample([], steps=look(20, 180), counters=during(1000, 1200))
    writer.sample([], steps=look(50, 950), counters=during(2000, 2200))
    writer.sample([], steps=look(30, 1000), counters=during(3040, 3230))
    columns = ("says", "seen", "kernel", "margin")
    assert coverage(tmp_path / "r", *columns)[0] == ("saw 100.0 % of connections", 2030, 2030, 200)


@pytest.mark.parametrize(
    ("seen", "margin", "says", "share"),
    [
        # A connection that the kernel had counted before was announced late.
        (1100, 100, "saw 100.0 % of connections", 100.0),
        (990, 10, "saw 100.0 % of connections", 100.0),
        (989, 10, "saw 98.9 % of connections", 98.9),
    ],
)
@pytest.mark.parametrize("lost", [0, 5])
def test_coverage_does_not_call_lost_what_came_meanwhile(
    seen: int, margin: int, says: str, share: float, lost: int, tmp_path: Path
) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([], steps=look(0, 0), counters=during(1000, 1002))
    writer.sample([], steps=look(0, seen, lost=lost), counters=during(1992, 2002))
    columns = ("says", "seen", "kernel", "margin", "share_percent")
    said = f"{says}, 5 announcements lost" if lost else says
    assert coverage(tmp_path / "r", *columns)[0] == (said, seen, 1000, margin, share)


def test_coverage_learns_from_a_sample_how_many_announcements_may_be_under_way(
    tmp_path: Path,
) -> None:
    writer = Writer(tmp_path / "r")
    for sample, seen in enumerate([0, 60, 140, 65]):
        writer.sample([], steps=look(0, seen), counters=opens(100 * sample))
    columns = ("says", "seen", "kernel", "margin")
    found = [coverage(tmp_path / "r", *columns, end=f"+{end}s")[0] for end in (2, 3, 4)]
    assert found == [
        ("saw 60.0 % of connections", 60, 100, 0),
        ("saw 100.0 % of connections", 200, 200, 40),
        ("saw 100.0 % of connections", 265, 300, 40),
    ]


def test_the_margin_of_one_namespace_does_not_hide_the_loss_of_another(tmp_path: Path) -> None:
    box = NETNS + 1
    writer = Writer(tmp_path / "r")
    for value in (0, 1000):
        counters = during(value, value + 100)
        counters += [*opens(value, netns=box), *opens(value, netns=box, phase="after")]
        writer.sample([], steps=[*look(0, 1050), *look(0, 950, box)], counters=counters)
    assert coverage(tmp_path / "r", "name", "says", "seen", "kernel", "margin") == [
        ("all", "saw 97.5 % of connections", 2000, 2000, 100),
        (None, "saw 95.0 % of connections", 950, 1000, 0),
        (None, "saw 100.0 % of connections", 1050, 1000, 100),
    ]


def test_a_margin_of_all_that_there_was_says_nothing(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([], steps=look(0, 0), counters=opens(0))
    writer.sample([], steps=look(0, 0), counters=during(0, 2))
    columns = ("says", "seen", "kernel", "margin", "share_percent")
    said = ("too few connections to tell", 0, 2, 2, None)
    assert coverage(tmp_path / "r", *columns) == [said] * 2


def idle(netns: int) -> list[Row]:
    """Return the steps of a namespace without sockets: its counters are read only once."""
    return [step("counters", netns=netns), step("all", netns=netns, outcome="skipped_empty")]


def test_coverage_has_a_margin_beside_an_idle_namespace(tmp_path: Path) -> None:
    box = NETNS + 1
    writer = Writer(tmp_path / "r")
    for value in (0, 1000):
        counters = [*during(value, value + 10), *(opens(7, netns=box) if not value else [])]
        writer.sample([], steps=[*look(0, 1000), *idle(box)], counters=counters)
    assert coverage(tmp_path / "r", "says", "margin", "kernel") == [
        ("saw 100.0 % of connections", 10, 1000),
        ("saw 100.0 % of connections", 10, 1000),
        ("no connections", 0, 0),
    ]


def test_what_a_namespace_without_sockets_announced_may_be_in_neither_count(
    tmp_path: Path,
) -> None:
    """Its first sample took three closes after the only reading, which the kernel counts later."""
    box = NETNS + 1
    closes = step("closes", opened=3, rows=3, lost=0, netns=box)
    writer = Writer(tmp_path / "r")
    writer.sample([], steps=[*idle(box), closes, step("tcp")], counters=opens(0, netns=box))
    writer.sample([], steps=[*look(0, 97, box), step("tcp")], counters=opens(100, netns=box))
    columns = ("says", "seen", "kernel", "margin")
    assert coverage(tmp_path / "r", *columns)[0] == ("saw 100.0 % of connections", 97, 100, 3)


@pytest.mark.parametrize("host", [0, NETNS])
def test_coverage_leaves_out_a_home_that_is_not_recorded(host: int, tmp_path: Path) -> None:
    """Version 2 was first written with home's number for what is about the whole host."""
    box = NETNS + 1
    whole = [
        step("namespaces", netns=host),
        step("counters", netns=0),
        step("owners", netns=host, unresolved=2, outcome="partial"),
    ]
    closes = [step("closes", opened=0, rows=0, lost=0)] if host else []
    writer = Writer(tmp_path / "r")
    for value in (0, 10):
        writer.sample(
            [],
            steps=[*whole, *closes, *look(0, 10, box)],
            counters=opens(value, netns=box),
            namespaces=[
                {"home": True, "entered": True, "valid_from": time_of(0)},
                {"netns": box, "comm": "box", "entered": True, "valid_from": time_of(0)},
            ],
        )
    assert coverage(tmp_path / "r", "netns", "name", "says", "incomplete", "unresolved") == [
        (None, "all", "saw 100.0 % of connections", 2, 2),
        (box, "box", "saw 100.0 % of connections", 0, None),
    ]


def test_coverage_of_nothing_but_a_namespace_without_sockets(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for value in (0, 1):
        counters = opens(7) if not value else []
        writer.sample([], steps=[step("owners", netns=0), *idle(NETNS)], counters=counters)
    assert coverage(tmp_path / "r", "says", "kernel") == [("no connections", 0)] * 2


@pytest.mark.parametrize("outcome", ["rotated", "truncated"])
def test_coverage_counts_between_samples_that_read_the_namespace(
    outcome: str, tmp_path: Path
) -> None:
    """What is open where nobody looked is neither seen nor missed."""
    unread = "all" if outcome == "rotated" else "tcp"
    blind = [step("counters"), step(unread, outcome=outcome), step("closes", opened=5, lost=0)]
    writer = Writer(tmp_path / "r")
    writer.sample([], steps=blind, counters=opens(0))
    writer.sample([], steps=look(0, 10), counters=opens(100))
    writer.sample([], steps=blind, counters=opens(120))
    writer.sample([], steps=look(7, 8), counters=opens(120))
    writer.sample([], steps=blind, counters=opens(500))
    assert coverage(tmp_path / "r", "seen", "kernel", "margin")[0] == (20, 20, 0)


@pytest.mark.parametrize("gone", ["between", "at once", "unnoticed"])
def test_coverage_of_a_namespace_made_anew_under_its_number(gone: str, tmp_path: Path) -> None:
    """Each is counted from its own first sample, whose sockets may have been open before."""
    vanished = [counter(name, None) for name in OPENS]
    writer = Writer(tmp_path / "r")
    writer.sample([], steps=look(0, 0), counters=opens(1000))
    writer.sample([], steps=look(0, 10), counters=opens(1010))
    if gone == "between":
        writer.sample([], steps=[step("closes", opened=2, lost=0)], counters=vanished)
    again = vanished if gone == "at once" else []
    value = 4 if gone == "unnoticed" else 2000
    writer.sample([], steps=look(0, 3), counters=[*again, *opens(value)])
    writer.sample([], steps=look(4, 0), counters=opens(value + 4))
    columns = ("says", "seen", "kernel", "margin")
    assert coverage(tmp_path / "r", *columns)[0] == ("saw 100.0 % of connections", 14, 14, 0)


def test_a_namespace_made_anew_while_a_sample_is_taken_is_counted_from_the_next(
    tmp_path: Path,
) -> None:
    writer = Writer(tmp_path / "r")
    for value in (1000, 1010):
        writer.sample([], steps=look(0, 10), counters=opens(value))
    writer.sample([], steps=look(0, 60), counters=during(1050, 6))
    for value in (10, 20):
        writer.sample([], steps=look(0, 10), counters=opens(value))
    assert coverage(tmp_path / "r", "seen", "kernel")[0] == (20, 20)


def test_coverage_never_rounds_up(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for value in (0, 2_000_000):
        writer.sample([], steps=look(0, 1_999_999), counters=opens(value))
    assert coverage(tmp_path / "r", "says")[0] == ("saw 99.99 % of connections",)


def golden(path: Path, name: str) -> str:
    out = io.StringIO()
    with (
        analyzer.open(path) as opened,
        opened.report(name).batches() as (schema, batches),
    ):
        write(schema, batches, Format.table, out)
    return out.getvalue()


def test_states_as_a_table(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    small(tmp_path / "r")
    assert golden(tmp_path / "r", "states") == snapshot


def test_coverage_as_a_table(covered: Path, snapshot: SnapshotAssertion) -> None:
    assert golden(covered, "coverage") == snapshot
