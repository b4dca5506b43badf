"""The kernel's counters: parsed, and stored as changes from which every reading can be made."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.host.counters import Changes, Counters, Files, parse, read_host, read_namespace
from recorder.schema import COUNTERS
from recorder.store.journal import BatchMaker

Key: TypeAlias = tuple[int, str, str]

SNMP = (
    b"Tcp: RtoMin MaxConn ActiveOpens PassiveOpens\nTcp: 200 -1 7 5\nIcmpMsg: InType3\nIcmpMsg: 2\n"
)
FILES = {
    "snmp": SNMP,
    "netstat": b"TcpExt: ListenOverflows ListenDrops\nTcpExt: 1 18446744073709551615\n",
    "snmp6": b"Ip6InReceives                   \t5246620\nIcmp6InType136\t3\n",
    "sockstat": b"sockets: used 15\nTCP: inuse 1 orphan 0 tw 4 alloc 1 mem 324\nFRAG: inuse 0\n",
    "sockstat6": b"TCP6: inuse 9\n",
    "softnet_stat": (
        b"010e1434 00000001 0000000d 0 0 0 0 0 0 00000002 00000003 00000004 00000000 5 6\n"
        b"00e1acc9 00000000 00000005 0 0 0 0 0 0 00000000 00000000 00000000 00000003 0 0\n"
    ),
    "nf_conntrack": (
        b"count 12\nmax 262144\n"
        b"entries  clashres found new\n0000000c 00000001 0000000a 00000000\n"
        b"0000000c 00000002 ffffffff 00000000\n"
    ),
    "file-nr": b"600\t0\t9223372036854775807\n",
}


def values_of(source: str, text: bytes) -> dict[str, int]:
    reading = parse(source, text)
    assert len(set(reading.names)) == len(reading.names) == reading.values.size
    return dict(zip(reading.names, reading.values.tolist(), strict=True))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "snmp",
            {
                "Tcp.RtoMin": 200,
                "Tcp.MaxConn": -1,
                "Tcp.ActiveOpens": 7,
                "Tcp.PassiveOpens": 5,
                "IcmpMsg.InType3": 2,
            },
        ),
        ("netstat", {"TcpExt.ListenOverflows": 1, "TcpExt.ListenDrops": -1}),
        ("snmp6", {"Ip6InReceives": 5246620, "Icmp6InType136": 3}),
        (
            "sockstat",
            {
                "sockets.used": 15,
                "TCP.inuse": 1,
                "TCP.orphan": 0,
                "TCP.tw": 4,
                "TCP.alloc": 1,
                "TCP.mem": 324,
                "FRAG.inuse": 0,
            },
        ),
        ("sockstat6", {"TCP6.inuse": 9}),
        (
            "softnet_stat",
            {
                "cpu0.processed": 0x10E1434,
                "cpu0.dropped": 1,
                "cpu0.squeezed": 13,
                "cpu0.received_rps": 2,
                "cpu0.flow_limit": 3,
                "cpu0.backlog": 4,
                "cpu0.input_queue": 5,
                "cpu0.process_queue": 6,
                "cpu3.processed": 0xE1ACC9,
                "cpu3.dropped": 0,
                "cpu3.squeezed": 5,
                "cpu3.received_rps": 0,
                "cpu3.flow_limit": 0,
                "cpu3.backlog": 0,
                "cpu3.input_queue": 0,
                "cpu3.process_queue": 0,
            },
        ),
        (
            "nf_conntrack",
            {
                "count": 12,
                "max": 262144,
                "entries": 12,
                "clashres": 3,
                "found": 0x100000009,
                "new": 0,
            },
        ),
        ("file-nr", {"allocated": 600, "free": 0, "max": 9223372036854775807}),
    ],
)
def test_every_value_has_its_name(source: str, expected: dict[str, int]) -> None:
    assert values_of(source, FILES[source]) == expected
    assert parse(source, FILES[source]).broken == 0


def test_names_are_made_once_for_the_same_headings() -> None:
    for source, text in FILES.items():
        assert parse(source, text).names is parse(source, text + b"").names


def test_before_linux_5_10_cpus_are_counted() -> None:
    old = b"00000001 00000002 00000003 0 0 0 0 0 0 4 5\n" * 2
    assert values_of("softnet_stat", old)["cpu1.flow_limit"] == 5
    assert "cpu1.backlog" not in values_of("softnet_stat", old)


@pytest.mark.parametrize(
    ("source", "text", "expected", "broken"),
    [
        ("snmp", b"Tcp: A B\nTcp: 1\nUdp: C\nUdp: 2\n", {"Udp.C": 2}, 1),
        ("snmp", b"Tcp: A\nUdp: 1\n", {}, 1),
        ("snmp", b"Tcp: A\nTcp: 1\nUdp: B\n", {"Tcp.A": 1}, 1),
        ("snmp", b"Tcp: A A B\nTcp: 1 2 3\n", {"Tcp.A": 1, "Tcp.B": 3}, 1),
        ("snmp", b"Tcp: A B\nTcp: x 99999999999999999999\n", {}, 2),
        ("snmp6", b"A 1\nB\nC 3\n", {"A": 1, "C": 3}, 1),
        ("sockstat", b"TCP: inuse 1 orphan\nUDP: inuse 2\n", {"UDP.inuse": 2}, 1),
        ("softnet_stat", b"0 0 0 0 0 0 0 0 0 0 0 0 zz 0 0\n", {}, 1),
        ("nf_conntrack", b"count x\nentries found\n1 2\n1\n", {"entries": 1, "found": 2}, 2),
        ("file-nr", b"1 2\n", {}, 1),
    ],
)
def test_what_is_broken_is_counted_and_left_out(
    source: str, text: bytes, expected: dict[str, int], broken: int
) -> None:
    assert values_of(source, text) == expected
    assert parse(source, text).broken == broken


def test_the_kernel_of_this_machine_is_understood() -> None:
    files = read_namespace() | read_host()
    assert files.keys() >= {"snmp", "netstat", "sockstat", "softnet_stat", "file-nr", "protocols"}
    found = {
        source: values_of(source, text) for source, text in files.items() if source != "protocols"
    }
    assert {"Tcp.ActiveOpens", "Tcp.CurrEstab", "Udp.InDatagrams"} <= found["snmp"].keys()
    assert {"TcpExt.ListenOverflows", "IpExt.InOctets"} <= found["netstat"].keys()
    assert "TCP.inuse" in found["sockstat"]
    assert sum(name.endswith(".processed") for name in found["softnet_stat"]) >= 1
    assert found["file-nr"]["allocated"] > 0
    assert all(parse(source, files[source]).broken == 0 for source in found)


def test_missing_files_are_left_out(tmp_path: Path) -> None:
    net = tmp_path / "thread-self/net"
    net.mkdir(parents=True)
    assert read_namespace(tmp_path) == read_host(tmp_path) == {}
    (net / "snmp").write_bytes(SNMP)
    assert read_namespace(tmp_path) == {"snmp": SNMP}
    limits = tmp_path / "sys/net/netfilter"
    limits.mkdir(parents=True)
    (limits / "nf_conntrack_count").write_bytes(b"3\n")
    files = read_namespace(tmp_path)
    assert values_of("nf_conntrack", files["nf_conntrack"]) == {"count": 3}


def test_files_held_open_tell_what_is_there_now(tmp_path: Path) -> None:
    net = tmp_path / "thread-self/net"
    net.mkdir(parents=True)
    (net / "snmp").write_bytes(SNMP)
    files = Files(tmp_path)
    try:
        assert files.read() == {"snmp": SNMP}
        later = SNMP.replace(b"7 5", b"70 51")
        (net / "snmp").write_bytes(later)
        assert files.read() == {"snmp": later} == read_namespace(tmp_path)
    finally:
        files.close()
    assert files.highest == -1


def rows_of(counters: Counters, changes: list[Changes], phase: str) -> list[dict[str, object]]:
    rows = sum(each.rows for each in changes)
    batch = BatchMaker(COUNTERS).make(rows, counters.columns(changes, phase))
    batch.validate(full=True)
    listed: list[dict[str, object]] = batch.to_pylist()
    assert len(listed) == rows
    return listed


def key_of(row: dict[str, object]) -> Key:
    assert isinstance(row["netns"], int)
    return row["netns"], str(row["source"]), str(row["name"])


def replay(held: dict[Key, int], rows: list[dict[str, object]]) -> None:
    """Apply stored rows to the values that hold; each key at most once."""
    keys = [key_of(row) for row in rows]
    assert len(set(keys)) == len(keys)
    for key, row in zip(keys, rows, strict=True):
        value = row["value"]
        if value is None:
            del held[key]
        else:
            assert isinstance(value, int)
            held[key] = value


def whole(netns: int, files: dict[str, bytes]) -> dict[Key, int]:
    return {
        (netns, source, name): value
        for source, text in files.items()
        for name, value in values_of(source, text).items()
    }


def test_only_what_changed_is_given() -> None:
    counters = Counters()
    first = rows_of(counters, [counters.changed(5, FILES)], "before")
    assert len(first) == len(whole(5, FILES))
    assert {row["phase"] for row in first} == {"before"}
    assert counters.changed(5, dict(FILES)).rows == 0
    later = FILES | {"snmp": SNMP.replace(b"7 5", b"8 5")}
    (row,) = rows_of(counters, [counters.changed(5, later)], "after")
    expected = {"netns": 5, "phase": "after", "source": "snmp", "name": "Tcp.ActiveOpens"}
    assert {name: row[name] for name in expected} == expected
    assert row["value"] == 8
    assert counters.changed(6, later).rows == len(first)


def test_a_name_or_file_that_vanished_gives_null() -> None:
    counters = Counters()
    counters.changed(5, FILES)
    less = FILES | {"snmp": SNMP.partition(b"IcmpMsg")[0]}
    del less["sockstat6"]
    rows = rows_of(counters, [counters.changed(5, less)], "before")
    gone = sorted((row["source"], row["name"], row["value"]) for row in rows)
    assert gone == [("snmp", "IcmpMsg.InType3", None), ("sockstat6", "TCP6.inuse", None)]


def test_protocols_are_no_counters() -> None:
    assert Counters().changed(1, {"protocols": b"protocol size sockets\nTCP 1 2 3\n"}).rows == 0


def test_nothing_makes_no_rows() -> None:
    assert rows_of(Counters(), [], "before") == []


@st.composite
def readings(draw: st.DrawFn) -> dict[str, bytes]:
    """Files whose names come and go, and whose values mostly stay."""
    value = st.sampled_from([0, 0, 0, 1, 2**40, 2**64 - 1])
    names = st.lists(st.sampled_from("ABCDEF"), unique=True)
    files: dict[str, bytes] = {}
    for source in draw(st.sets(st.sampled_from(["snmp", "netstat", "snmp6", "sockstat"]))):
        pairs = [(name, draw(value)) for name in draw(names)]
        if source == "snmp6":
            files[source] = "".join(f"{name}\t{number}\n" for name, number in pairs).encode()
        elif source == "sockstat":
            files[source] = ("T: " + " ".join(f"{n} {v}" for n, v in pairs) + "\n").encode()
        else:
            heading = " ".join(["T:", *(name for name, _ in pairs)])
            line = " ".join(["T:", *(str(number) for _, number in pairs)])
            files[source] = f"{heading}\n{line}\n".encode()
    return files


STEP = st.one_of(
    st.tuples(st.sampled_from([0, 7, 8]), readings()),
    st.just("restart"),
    st.just("batch"),
)


@given(st.lists(STEP, max_size=25))
def test_the_stored_changes_give_back_every_reading(
    steps: list[str | tuple[int, dict[str, bytes]]],
) -> None:
    counters = Counters()
    held: dict[Key, int] = {}
    since_restart: dict[Key, int] = {}
    expected: dict[int, dict[Key, int]] = {}
    known: set[int] = set()
    pending: dict[int, Changes] = {}

    def store() -> None:
        rows = rows_of(counters, list(pending.values()), "before")
        pending.clear()
        replay(held, rows)
        # what was gone at a restart is NULL once more after it
        replay(
            since_restart, [r for r in rows if r["value"] is not None or key_of(r) in since_restart]
        )
        for netns, values in expected.items():
            assert {k: v for k, v in held.items() if k[0] == netns} == values
            if netns in known:  # the journals since the restart suffice
                assert {k: v for k, v in since_restart.items() if k[0] == netns} == values

    for step in steps:
        if step == "restart":
            store()
            counters.restart()
            since_restart.clear()
            known.clear()
        elif not isinstance(step, str):
            netns, files = step
            if netns in pending:
                store()
            pending[netns] = counters.changed(netns, files)
            expected[netns] = whole(netns, files)
            known.add(netns)
    store()


def test_a_namespace_that_was_forgotten_is_new() -> None:
    counters = Counters()
    counters.changed(5, FILES)
    gone = rows_of(counters, [counters.forget(5)], "before")
    assert len(gone) == len(whole(5, FILES))
    assert {row["value"] for row in gone} == {None}
    assert counters.changed(5, FILES).rows == len(whole(5, FILES))


@given(st.sampled_from(sorted(FILES)), st.data())
def test_no_text_makes_it_raise(source: str, data: st.DataObject) -> None:
    text = FILES[source]
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        stop = start + data.draw(st.integers(0, 9))
        insert = data.draw(st.one_of(st.binary(max_size=5), st.sampled_from([b"\n", 30 * b"9"])))
        text = text[:start] + insert + text[stop:]
    values_of(source, text)
    counters = Counters()
    changes = counters.changed(1, {source: FILES[source]})
    rows_of(counters, [changes, counters.changed(2, {source: text})], "before")
    assert counters.changed(2, {source: text}).broken == 0  # counted once


def test_many_namespaces_make_one_batch() -> None:
    counters = Counters()
    changes = [counters.changed(netns, FILES) for netns in range(1, 51)]
    columns = counters.columns(changes, "before")
    batch = BatchMaker(COUNTERS).make(sum(each.rows for each in changes), columns)
    assert np.unique(batch["netns"].to_numpy()).size == 50
    assert len(batch["name"].dictionary) == len({name for _, _, name in whole(1, FILES)})
