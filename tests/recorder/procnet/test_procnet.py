"""The tables of /proc/net: real sockets in a namespace of their own, and broken text."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.diag import netlink_diag, packet_diag, unix_diag
from recorder.diag.inet_diag import InetDiag, request_v2
from recorder.diag.sock_diag import SOCK_DIAG_BY_FAMILY, STATES
from recorder.kernel.transport import DiagSocket
from recorder.procnet.lines import NO_COOKIE, cookies
from recorder.procnet.tables import ProcNet, in_use
from recorder.schema import SOCKETS
from recorder.store.journal import BatchMaker
from recorder.wire.columns import Columns, Values
from recorder.wire.netlink import Dump
from tests.recorder.support.rows import Row, public, release
from tests.workloads import netns

T = TypeVar("T")
DATA = Path(__file__).parent / "data"
NAME = "\0sockrec \xff\nname"
PING = 77
LOOPBACK = {"4": "127.0.0.1", "6": "::1"}
CLONE_NEWNET = 0x40000000
NETLINK_SOCK_DIAG = 4
IPPROTO_UDPLITE = 136


def within(name: str, action: Callable[[], T]) -> T:
    """Run something in a thread that has entered a namespace."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with open(netns.MOUNTS / name) as file:
                if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            results.append(action())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    if errors:
        raise errors[0]
    return results[0]


@dataclass
class World:
    """Sockets of one namespace, what it showed of them, and what they were."""

    files: dict[str, bytes] = field(default_factory=dict)
    diag: dict[str, list[Row]] = field(default_factory=dict)
    held: dict[str, socket.socket] = field(default_factory=dict)

    def inode(self, name: str) -> int:
        return os.fstat(self.held[name].fileno()).st_ino

    def rows(self, step: str) -> list[Row]:
        return read(step, self.files)[0]

    def row(self, step: str, name: str) -> Row:
        found, *again = (row for row in self.rows(step) if row["inode"] == self.inode(name))
        assert step == "ping" or not again  # the sampler keeps the first of those listed twice
        return found


class Decoder(Protocol):
    """What tests here need of a decoder."""

    columns: Columns

    def rows(self) -> dict[str, Values | pa.Array]: ...


def decoded(decoder: Decoder) -> list[Row]:
    """Return the rows of a decoder with public types."""
    batch = BatchMaker(SOCKETS).make(decoder.columns.rows, decoder.rows())
    batch.validate(full=True)
    rows: list[Row] = public(batch).to_pylist()
    return rows


def read(step: str, files: dict[str, bytes]) -> tuple[list[Row], Dump]:
    table, dump = ProcNet(step), Dump()
    for file in table.files:
        if file in files:
            table.parse(file, files[file], dump)
    return decoded(table), dump


def _open(held: dict[str, socket.socket]) -> None:
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 100000")

    def make(name: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        held[name] = socket.socket(family, kind, protocol)
        return held[name]

    for version, family, host in (
        ("4", socket.AF_INET, "127.0.0.1"),
        ("6", socket.AF_INET6, "::1"),
    ):
        listener = make(f"listener{version}", family, socket.SOCK_STREAM)
        listener.bind((host, 0))
        listener.listen(7)
        for name in ("idle", "closing", "unaccepted"):
            client = make(f"{name}{version}", family, socket.SOCK_STREAM)
            client.connect(listener.getsockname())
            if name != "unaccepted":
                held[f"{name}-server{version}"], _ = listener.accept()
        held[f"idle-server{version}"].send(b"12345")
        held.pop(f"closing{version}").close()
        held.pop(f"closing-server{version}").close()
        for name, kind, protocol in (
            ("udp", socket.SOCK_DGRAM, 0),
            ("udplite", socket.SOCK_DGRAM, IPPROTO_UDPLITE),
            ("raw", socket.SOCK_RAW, 89),
        ):
            bound = make(f"{name}{version}", family, kind, protocol)
            bound.bind((host, 0))
        held[f"udp{version}"].sendto(b"x" * 100, held[f"udp{version}"].getsockname())
        icmp = socket.IPPROTO_ICMP if version == "4" else socket.IPPROTO_ICMPV6
        make(f"ping{version}", family, socket.SOCK_DGRAM, icmp).bind((host, PING))

    for name, kind in (
        ("u_str", socket.SOCK_STREAM),
        ("u_seq", socket.SOCK_SEQPACKET),
        ("u_dgr", socket.SOCK_DGRAM),
    ):
        make(name, socket.AF_UNIX, kind).bind(NAME.encode("latin-1") + name.encode())
    held["u_str"].listen(3)
    make("u_client", socket.AF_UNIX, socket.SOCK_STREAM).connect(NAME.encode("latin-1") + b"u_str")
    held["pair"], held["pair-peer"] = socket.socketpair()

    make("p_raw", socket.AF_PACKET, socket.SOCK_RAW).bind(("lo", 0x0003))
    make("p_dgr", socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0806))
    make("p_odd", socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x1234))
    netns.ip("link", "add", "gone", "type", "veth", "peer", "name", "gone-peer")
    netns.ip("link", "set", "gone", "up")
    make("p_gone", socket.AF_PACKET, socket.SOCK_RAW).bind(("gone", 0x0003))
    netns.ip("link", "delete", "gone")
    make("nl", socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG).bind((0, 0))
    make("nl-group", socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE).bind((0, 1))


def _fill(world: World) -> None:
    _open(world.held)
    for step in ProcNet.names:
        for file in ProcNet(step).files:
            path = Path("/proc/thread-self/net") / file
            if path.exists():
                world.files[file] = path.read_bytes()
    for file in ("protocols", "sockstat", "sockstat6"):
        world.files[file] = Path("/proc/thread-self/net", file).read_bytes()
    diag = DiagSocket()
    try:
        for step, decoder, requests in (
            ("tcp", InetDiag("tcp", release()), _both(socket.IPPROTO_TCP)),
            ("udp", InetDiag("udp", release()), _both(socket.IPPROTO_UDP)),
            ("udplite", InetDiag("udplite", release()), _both(IPPROTO_UDPLITE)),
            ("unix", unix_diag.UnixDiag(), [unix_diag.request_all()]),
            ("packet", packet_diag.PacketDiag(), [packet_diag.request_all()]),
            ("netlink", netlink_diag.NetlinkDiag(), [netlink_diag.request_all()]),
        ):
            for request in requests:
                diag.dump(SOCK_DIAG_BY_FAMILY, request, decoder.decode)
            world.diag[step] = decoded(decoder)
    finally:
        diag.close()


def _both(protocol: int) -> list[bytes]:
    return [request_v2(family, protocol) for family in (socket.AF_INET, socket.AF_INET6)]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    lacking = netns.lacking()
    if lacking:
        pytest.skip(lacking)
    made = World()
    with netns.namespace() as name:
        try:
            within(name, lambda: _fill(made))
            yield made
        finally:
            for held in made.held.values():
                held.close()


SHARED = {
    "tcp": "family netid state recv_q send_q local_addr local_port peer_addr peer_port timer "
    "retrans uid retransmits probes snd_cwnd snd_ssthresh",
    "udp": "family netid state recv_q send_q local_addr local_port peer_addr peer_port timer "
    "retrans uid drops",
    "unix": "family netid state local_addr",
    "packet": "family netid state local_addr interface recv_q send_q uid rmem_alloc",
    "netlink": "family netid state local_addr local_id recv_q send_q drops rmem_alloc wmem_alloc",
}


@pytest.mark.parametrize(
    ("steps", "table"),
    [
        (("tcp",), "tcp"),
        (("udp", "udp6"), "udp"),
        (("udplite", "udplite6"), "udplite"),
        (("unix",), "unix"),
        (("packet",), "packet"),
        (("netlink",), "netlink"),
    ],
)
def test_says_what_sock_diag_says(world: World, steps: tuple[str, ...], table: str) -> None:
    mine = {row["inode"]: row for step in steps for row in world.rows(step) if row["inode"]}
    kernel = {row["inode"]: row for row in world.diag[table] if row["inode"]}
    if table == "netlink":  # the kernel's own are busy with the dump, and what asks came later
        mine = {inode: row for inode, row in mine.items() if row["local_id"]}
    assert mine.keys() <= kernel.keys()
    assert kernel.keys() == mine.keys() or table == "netlink"
    common = mine.keys()
    assert len(common) >= 2
    columns = SHARED["udp" if table == "udplite" else table].split()
    for inode in common:
        expected = {name: kernel[inode][name] for name in columns}
        if mine[inode]["state"] == "LISTEN" and table == "tcp":
            not_told = "send_q retransmits probes snd_cwnd snd_ssthresh".split()
            expected |= dict.fromkeys(not_told)
        assert {name: mine[inode][name] for name in columns} == expected
        if table == "tcp" and mine[inode]["state"] != "LISTEN":
            # /proc rounds down to its clock ticks of 10 ms
            assert 0 <= number(kernel[inode], "rto_us") - number(mine[inode], "rto_us") < 10_000


def number(row: Row, name: str) -> int:
    value = row[name]
    assert isinstance(value, int)
    return value


def test_tells_of_minisockets_and_unaccepted_connections_what_sock_diag_says(world: World) -> None:
    def without_inode(rows: list[Row]) -> list[tuple[object, ...]]:
        names = "family state local_addr local_port peer_addr peer_port timer".split()
        return sorted(tuple(row[n] or "" for n in names) for row in rows if not row["inode"])

    found = without_inode(world.rows("tcp"))
    assert {row[1] for row in found} >= {"TIME-WAIT", "ESTAB"}
    assert found == without_inode(world.diag["tcp"])
    for row in world.rows("tcp"):
        if row["state"] == "TIME-WAIT":
            assert isinstance(row["expires_ms"], int)
            assert 0 < row["expires_ms"] <= 60_000


@pytest.mark.parametrize("version", ["4", "6"])
def test_raw_sockets_have_their_protocol(world: World, version: str) -> None:
    row = world.row("raw" if version == "4" else "raw6", f"raw{version}")
    assert (row["netid"], row["state"]) == ("raw", "UNCONN")
    assert (row["protocol"], row["local_port"]) == (89, 89)
    assert row["local_addr"] == (LOOPBACK[version])


@pytest.mark.parametrize("version", ["4", "6"])
def test_ping_sockets_have_their_identifier(world: World, version: str) -> None:
    row = world.row("ping", f"ping{version}")
    assert (row["netid"], row["family"]) == ("ping", "inet" if version == "4" else "inet6")
    assert (row["local_port"], row["local_addr"]) == (
        PING,
        LOOPBACK[version],
    )
    assert (row["drops"], row["uid"]) == (0, 0)


def test_an_interface_that_is_gone_is_the_kernels_minus_one(world: World) -> None:
    assert world.row("packet", "p_gone")["interface"] == 2**32 - 1
    assert read("packet", world.files)[1].bad == 0


def test_names_may_have_any_bytes_in_them(world: World) -> None:
    assert world.row("unix", "u_str")["local_addr"] == "@sockrec \\xff\nnameu_str"
    assert read("unix", world.files)[1].bad == 0


def test_unaccepted_unix_connections_are_rows_of_their_own(world: World) -> None:
    rows = [row for row in world.rows("unix") if row["state"] == "SYN-SENT"]
    assert [row["inode"] for row in rows] == [0]
    assert rows[0]["local_addr"] == world.row("unix", "u_str")["local_addr"]


@pytest.mark.parametrize("step", ProcNet.names)
def test_every_cookie_is_made_of_the_inode(world: World, step: str) -> None:
    table, dump = ProcNet(step), Dump()
    for file in table.files:
        table.parse(file, world.files.get(file, b""), dump)
    made, inodes = table.columns["cookie"], table.columns["inode"]
    # of ping sockets the two files may list the same one
    assert np.unique(made).size == (np.unique(inodes).size if step == "ping" else made.size)
    assert ((made & np.uint64(0xFFFFFFFF)) == inodes).all()
    assert ((made >> np.uint64(63)) == 1).all()
    assert (made[inodes != 0] == (inodes[inodes != 0] | np.uint64(NO_COOKIE))).all()
    assert dump.bad == 0


def test_a_second_reading_gives_the_same_cookies(world: World) -> None:
    assert [row["cookie"] for row in world.rows("tcp")] == [
        row["cookie"] for row in world.rows("tcp")
    ]


def test_two_namespaces_are_appended_and_rows_can_be_left_out(world: World) -> None:
    table, dump = ProcNet("unix"), Dump()
    table.parse("unix", world.files["unix"], dump)
    once = table.columns.rows
    table.parse("unix", world.files["unix"], dump)
    assert table.columns.rows == 2 * once
    table.keep(np.arange(once, 2 * once))
    assert decoded(table) == world.rows("unix")


@pytest.mark.parametrize(
    ("option", "variable", "file", "step"),
    [
        ("-w4", "RAW", "raw", "raw"),
        ("-u4", "UDP", "udp", "udp"),
        ("-t4", "TCP", "tcp", "tcp"),
        ("-x", "UNIX", "unix", "unix"),
        ("-0", "PACKET", "packet", "packet"),
        ("-fnetlink", "NETLINK", "netlink", "netlink"),
    ],
)
def test_ss_prints_the_same_of_the_same_file(
    world: World, tmp_path: Path, oracle: object, option: str, variable: str, file: str, step: str
) -> None:
    text = world.files[file].replace(b"\nname", b"name")  # ss reads line by line
    (tmp_path / file).write_bytes(text)
    printed = subprocess.run(
        ["ss", "-Ha" if step in ("packet", "netlink") else "-Han", option],
        env={**os.environ, f"PROC_NET_{variable}": str(tmp_path / file), "COLUMNS": ""},
        capture_output=True,
        check=True,
    ).stdout.splitlines()
    words = [line.decode().split() for line in printed]
    rows = read(step, {file: text})[0]
    if step == "unix":
        # ss takes the address of a datagram socket for its peer's, and so prints ESTAB
        theirs = sorted([w[0], w[1] if w[0] != "u_dgr" else "UNCONN", w[5]] for w in words)
        mine = sorted([str(r[n]) for n in ("netid", "state", "inode")] for r in rows)
    else:
        # ss prints the kind of a socket in some of these tables only
        theirs = sorted(w[0 if w[0] in STATES else 1 :][:4] for w in words)
        queues = ("recv_q", "send_q")  # ss prints 0 for the backlog that it does not know
        mine = sorted([str(r["state"]), *(str(r[n] or 0) for n in queues), end(r)] for r in rows)
    if step == "netlink":  # ss may print a process instead of the number of a port
        theirs = sorted([*w[:3], re.sub(r":(?!kernel).*", ":", w[3])] for w in theirs)
    assert theirs == mine
    assert mine


def end(row: Row) -> str:
    """Return the local end as ss prints it."""
    if row["family"] == "packet":
        index = number(row, "interface") if row["interface"] else 0
        device = f"if{index}" if index == 2**32 - 1 else index and socket.if_indextoname(index)
        return f"{row['local_addr']}:{device or '*'}"
    if row["netid"] == "nl":
        return f"{row['local_addr']}:{'kernel' if row['local_id'] == 0 else ''}"
    return f"{row['local_addr']}:{row['local_port']}"


def test_the_kernel_counts_what_the_docstring_says() -> None:
    lacking = netns.lacking()
    if lacking:
        pytest.skip(lacking)

    def counts() -> Mapping[str, int]:
        files = [Path("/proc/thread-self/net", name).read_bytes() for name in _COUNTED]
        return in_use(*files)

    def count() -> list[tuple[str, int]]:
        steps: list[tuple[str, int]] = []
        v4, stream, dgram = socket.AF_INET, socket.SOCK_STREAM, socket.SOCK_DGRAM
        held = [socket.socket(v4, stream)]
        listener = held[0]
        listener.bind(("127.0.0.1", 0))
        steps.append(("TCP bound", counts()["TCP"]))
        listener.listen()
        steps.append(("TCP listens", counts()["TCP"]))
        client = socket.create_connection(listener.getsockname())
        steps.append(("TCP unaccepted", counts()["TCP"]))
        server, _ = listener.accept()
        # more than the server has room for: an orphan without that is soon in TIME-WAIT
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while client.send(bytes(1 << 16)):
                pass
        client.close()
        steps.append(("TCP orphan", counts()["TCP"]))
        while server.recv(1 << 20):
            pass
        server.close()
        steps += [("TCP time-wait", counts()["TCP"]), ("tw", counts()["tw"])]
        held.append(socket.socket(v4, dgram))
        steps.append(("UDP made", counts()["UDP"]))
        held[-1].bind(("127.0.0.1", 0))
        steps.append(("UDP bound", counts()["UDP"]))
        for name, kind in (("seq", socket.SOCK_SEQPACKET), ("dgram", dgram), ("stream", stream)):
            held.append(socket.socket(socket.AF_UNIX, kind))
            steps.append((f"UNIX {name}", counts()["UNIX"]))
        steps.append(("UNIX-STREAM", counts()["UNIX-STREAM"]))
        held.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
        steps.append(("NETLINK", counts()["NETLINK"]))
        for each in held:
            each.close()
        return steps

    with netns.namespace() as name:
        assert within(name, count) == [
            *[("TCP bound", 0), ("TCP listens", 1), ("TCP unaccepted", 3)],
            *[("TCP orphan", 3), ("TCP time-wait", 1), ("tw", 1)],
            *[("UDP made", 0), ("UDP bound", 1)],
            *[("UNIX seq", 1), ("UNIX dgram", 2), ("UNIX stream", 2), ("UNIX-STREAM", 1)],
            ("NETLINK", 1),
        ]


_COUNTED = ("protocols", "sockstat", "sockstat6")


def test_without_protocols_sockstat_tells_what_it_can(world: World) -> None:
    files = [world.files[name] for name in _COUNTED]
    whole = in_use(*files)
    partial = in_use(b"", *files[1:])
    assert partial.keys() >= {"TCP", "TCPv6", "UDP", "UDPv6", "RAW", "RAWv6", "tw", "used"}
    assert partial.items() <= whole.items()
    assert in_use(b"", b"", b"") == {}


TIME_WAIT = (
    b"   0: 0100007F:%04X 0100007F:A7C7 06 00000000:00000000 03:00001770 00000000     0        0 0 "
    b"3 0000000000000000                                      \n"
)
PACKET = b"0000000066599994 2      3    0003   0     0 0      0      13040300\n"
UNIX = b"0000000000000000: 00000002 00000000 00010000 0001 01 %5d%s\n"


@pytest.mark.parametrize(
    ("timer", "word", "retrans"),
    [(0, None, 3), (1, "on", 5), (2, "keepalive", 3), (4, "persist", 3), (9, "unknown", 3)],
)
def test_timers_are_those_of_sock_diag(timer: int, word: str | None, retrans: int) -> None:
    text = b"sl\n" + (TIME_WAIT % 80).replace(b" 03:", b" %02d:" % timer)
    text = text.replace(b" 00000000     0        0 ", b" 00000005     0        3 ")
    (row,), dump = read("tcp", {"tcp": text})
    assert dump.bad == 0
    assert (row["timer"], row["retrans"]) == (word, retrans)
    ticks = 0x1770
    expected = ticks * 1000 // os.sysconf("SC_CLK_TCK")
    assert row["expires_ms"] == (expected if word else None)


def test_connections_without_inode_have_different_cookies_and_keep_them() -> None:
    heading = b"  sl  local_address\n"
    lines = [TIME_WAIT % port for port in range(65536)]
    all_rows = ProcNet("tcp")
    all_rows.parse("tcp", heading + b"".join(lines), Dump())
    assert np.unique(all_rows.columns["cookie"]).size == len(lines)
    few = ProcNet("tcp")
    few.parse("tcp", heading + b"".join(lines[:100]), Dump())
    assert np.isin(few.columns["cookie"], all_rows.columns["cookie"]).all()
    twice = ProcNet("tcp")
    twice.parse("tcp", heading + 2 * lines[0], Dump())
    assert np.unique(twice.columns["cookie"]).size == 1


def test_sockets_of_one_name_without_inode_and_pointer_are_different_ones() -> None:
    table = ProcNet("unix")
    table.parse("unix", b"Num\n" + 3 * (UNIX % (0, b" @same")), Dump())
    assert np.unique(table.columns["cookie"]).size == 3


def test_equal_short_keys_are_told_apart() -> None:
    inodes = np.zeros(4, np.uint32)
    keys = np.array([1, 2, 3, 3], np.uint64)  # all alike in the bits a cookie has room for
    made = cookies(inodes, keys, np.ones(4, np.bool_))
    assert np.unique(made).size == 3
    assert made[2] == made[3]


def test_subflows_that_share_an_inode_are_told_apart() -> None:
    line = (TIME_WAIT % 80).replace(b"0 0 3 ", b"0 4711 3 ")
    other = (TIME_WAIT % 81).replace(b"0 0 3 ", b"0 4711 3 ")
    rows, dump = read("tcp", {"tcp": b"sl\n" + line + other})
    assert dump.bad == 0
    assert [row["inode"] for row in rows] == [4711, 4711]
    assert rows[0]["cookie"] != rows[1]["cookie"]


SCTP = {
    "sctp/eps": b" ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n"
    b"00000000aaaa0001 00000000bbbb0001 2   10  45   36412  1000 5001 10.0.0.1 10.0.0.2 \n",
    "sctp/assocs": b" ASSOC     SOCK   STY SST ST HBKT ASSOC-ID TX_QUEUE RX_QUEUE UID INODE LPORT "
    b"RPORT LADDRS <-> RADDRS HBINT INS OUTS MAXRT T1X T2X RTXC wmema wmemq sndbuf rcvbuf\n"
    b"00000000aaaa0002 00000000bbbb0001 2   1   3  0       7      100      200    1000  5001 36412 "
    b"49152  *2001:0db8:0000:0000:0000:0000:0000:0001 10.0.0.2 <-> *10.0.0.9 10.0.0.8 \t   30000 "
    b"   10     5   10    0    0        0        1        2   212992   212991\n",
}


def test_sctp_endpoints_and_associations() -> None:
    line = SCTP["sctp/eps"].splitlines(keepends=True)[1]
    more = line.replace(b"5001", b"5002").replace(b"10.0.0.1 10.0.0.2", b"0.0.0.0")
    files = SCTP | {"sctp/eps": SCTP["sctp/eps"] + more + more.replace(b"5002", b"5003")}
    (endpoint, *others), dump = read("sctp", files)
    (association,), dump6 = read("sctp6", files)
    assert (dump.bad, dump6.bad) == (0, 0)
    assert [row["local_addr"] for row in others] == ["0.0.0.0", "0.0.0.0"]
    assert (endpoint["state"], endpoint["local_port"], endpoint["uid"]) == ("LISTEN", 36412, 1000)
    assert (endpoint["local_addr"], endpoint["recv_q"]) == ("10.0.0.1", None)
    assert endpoint["details"] == '{"locals":["10.0.0.1","10.0.0.2"]}'
    expected = {
        "family": "inet6",
        "netid": "sctp",
        "state": "ESTAB",
        "local_addr": "2001:db8::1",
        "peer_addr": "10.0.0.9",
        "local_port": 36412,
        "peer_port": 49152,
        "inode": 5001,
        "send_q": 100,
        "recv_q": 200,
        "sndbuf": 212992,
        "rcvbuf": 212991,
        "wmem_alloc": 0,  # the kernel prints its reference count, which is one more
    }
    assert {name: association[name] for name in expected} == expected
    assert association["cookie"] != endpoint["cookie"]


def test_each_sctp_step_has_its_family_of_the_one_table() -> None:
    """Without sctp_diag both families come from the same files, and no row comes twice."""
    both = {step: read(step, SCTP) for step in ("sctp", "sctp6")}
    assert [row["family"] for row in both["sctp"][0]] == ["inet"]
    assert [row["family"] for row in both["sctp6"][0]] == ["inet6"]
    assert [dump.bad for _, dump in both.values()] == [0, 0]


def test_an_association_between_families_is_one_of_ipv6() -> None:
    """As a socket of IPv6 has it that is bound to all addresses, with 127.0.0.1 as the first."""
    own = b"*2001:0db8:0000:0000:0000:0000:0000:0001 10.0.0.2"
    text = SCTP["sctp/assocs"].replace(own, b"10.0.0.2").replace(b"*10.0.0.9", b"*fe80::9")
    assert read("sctp", {"sctp/assocs": text})[0] == []
    (row,), _ = read("sctp6", {"sctp/assocs": text})
    assert (row["family"], row["local_addr"], row["peer_addr"]) == ("inet6", "10.0.0.2", "fe80::9")


def test_sctp_associations_before_the_columns_of_memory() -> None:
    """Linux 2.6 begins to count the states of associations with an empty one: 4 is ESTABLISHED."""
    (row,), dump = read("sctp", {"sctp/assocs": (DATA / "sctp-assocs-rhel6").read_bytes()})
    assert dump.bad == 0
    expected = {
        "state": "ESTAB",
        "local_addr": "10.0.200.114",
        "local_port": 37379,
        "peer_addr": "10.0.100.94",
        "peer_port": 3868,
        "uid": 500,
        "inode": 90293,
        "send_q": 0,
        "recv_q": 0,
        **dict.fromkeys(("wmem_alloc", "wmem_queued", "sndbuf", "rcvbuf")),
        "details": '{"locals":["10.0.200.114","10.0.201.114"],'
        '"peers":["10.0.100.94","10.0.101.94"],"instrms":5,"outstrms":5}',
    }
    assert {name: row[name] for name in expected} == expected


def test_the_peer_of_an_sctp_association_is_its_primary_address() -> None:
    text = (DATA / "sctp-assocs-star-second").read_bytes()
    (row,), dump = read("sctp", {"sctp/assocs": text})
    assert dump.bad == 0
    assert row["peer_addr"] == "60.30.171.143"
    assert '"peers":["40.40.0.58","60.30.171.143"]' in str(row["details"])
    assert (row["wmem_alloc"], row["sndbuf"]) == (0, 4194304)


ASSOCIATION = (
    b"ffff88045ac7e000 ffff88062077aa00 2   1   %d  1205  963        0        0     200 273361167 "
    b"11567 11166  10.0.0.102 10.0.0.70 <-> *10.0.0.109 10.0.0.77"
)
OLD_TIMES = b" 1000     2     3   10    0    0        0"
ADDRESSES = '"locals":["10.0.0.102","10.0.0.70"],"peers":["10.0.0.109","10.0.0.77"]'


@pytest.mark.parametrize(
    ("state", "rest", "expected"),
    [
        (4, b"     " + OLD_TIMES, ',"instrms":2,"outstrms":3'),  # with no tab, as a terminal has it
        (4, b" \t" + OLD_TIMES, ',"instrms":2,"outstrms":3'),
        (4, b" ", ""),  # before 2.6.23
        (4, b"", ""),
        (
            3,
            b" \t" + OLD_TIMES + b"        1       -7   212992   212992",
            ',"instrms":2,"outstrms":3',
        ),
    ],
)
def test_sctp_associations_of_every_age(state: int, rest: bytes, expected: str) -> None:
    line = ASSOCIATION % state + rest + b"\n"
    rows, dump = read("sctp", {"sctp/assocs": b" ASSOC\n" + line + line.replace(b"273", b"274")})
    assert dump.bad == 0
    assert [row["inode"] for row in rows] == [273361167, 274361167]
    for row in rows:
        assert (row["state"], row["peer_addr"], row["peer_port"]) == ("ESTAB", "10.0.0.109", 11166)
        assert row["details"] == "{" + ADDRESSES + expected + "}"


@pytest.mark.parametrize("rest", [b"", b" \t" + OLD_TIMES])
def test_a_cut_line_of_sctp_is_broken_where_others_are_longer(rest: bytes) -> None:
    whole = ASSOCIATION % 3 + b" \t" + OLD_TIMES + b"        1       -7   212992   212992\n"
    text = b" ASSOC\n" + whole + (ASSOCIATION % 3).replace(b"273", b"274") + rest + b"\n"
    (row,), dump = read("sctp", {"sctp/assocs": text})
    assert dump.bad == 1
    assert (row["state"], row["inode"]) == ("ESTAB", 273361167)


def test_sctp_associations_whose_sockets_the_kernel_hides() -> None:
    """Its addresses in memory are zeros, and what nobody has accepted has no inode."""
    line = SCTP["sctp/assocs"].splitlines(keepends=True)[1].replace(b"5001", b"0")
    line = line.replace(b"00000000aaaa0002 00000000bbbb0001", b"       0        0")
    text = b" ASSOC\n" + line + line.replace(b"49152", b"49153")
    rows, dump = read("sctp6", {"sctp/assocs": text})
    assert dump.bad == 0
    assert [(row["inode"], row["peer_port"]) for row in rows] == [(0, 49152), (0, 49153)]
    assert rows[0]["cookie"] != rows[1]["cookie"]


def test_sctp_memory_may_be_below_zero() -> None:
    text = SCTP["sctp/assocs"].replace(b"        2   212992", b"     -932   212992")
    (row,), dump = read("sctp6", {"sctp/assocs": text})
    assert dump.bad == 0
    assert row["wmem_queued"] == -932


def test_netlink_before_the_column_of_inodes() -> None:
    rows, dump = read("netlink", {"netlink": (DATA / "proc-net-netlink-2.6.32").read_bytes()})
    assert dump.bad == 0
    assert len(rows) == 17
    assert len({row["cookie"] for row in rows}) == 17
    assert {row["inode"] for row in rows} == {None}
    ids = [row["local_id"] for row in rows]
    assert ids[:5] == [43687, 0, 43888, 0, 43425]
    assert 2**32 - 6895 in ids  # what netlink_diag says of the same port
    assert {row["local_addr"] for row in rows} >= {"rtnl", "xfrm", "genl"}


def test_netlink_before_the_column_of_drops() -> None:
    text = (
        b"sk       Eth Pid    Groups   Rmem     Wmem     Dump     Locks\n"
        b"ddf0c800 0   0      00000000 0        0        00000000 2\n"
        b"dcc2ba00 15  2687   00000001 768      0        00000000 2\n"
    )
    rows, dump = read("netlink", {"netlink": text})
    assert dump.bad == 0
    names = ("local_addr", "local_id", "recv_q", "drops", "inode")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("rtnl", 0, 0, None, None),
        ("uevent", 2687, 768, None, None),
    ]


@pytest.mark.parametrize("words", [8, 9])
def test_a_cut_line_of_netlink_is_broken_where_others_are_longer(words: int) -> None:
    whole = b"0000000075e14f1a 4   14705      00000000 0 0 0000000000000000 2 0       13040297"
    text = b"sk\n" + whole + b"\n" + b" ".join(whole.split()[:words]) + b"\n"
    (row,), dump = read("netlink", {"netlink": text})
    assert dump.bad == 1
    assert (row["inode"], row["drops"]) == (13040297, 0)


TCP_LINE = (
    b"   %d: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 "
    b"4711 2 0000000000000000 20 4 30 10 -1\n"
)


@pytest.mark.parametrize("lost", range(1, 6))
def test_a_cut_line_of_tcp_is_broken_and_shifts_nothing(lost: int) -> None:
    cut = b" ".join((TCP_LINE % 1).split(b" ")[:-lost]) + b"\n"
    (row,), dump = read("tcp", {"tcp": b"sl\n" + TCP_LINE % 0 + cut})
    assert dump.bad == 1
    assert (row["rto_us"], row["ato_us"], row["snd_cwnd"]) == (200_000, 40_000, 10)


@pytest.mark.parametrize("when", [b"FFFFFFFFFFFFFFFE", b"FFFFFFFE", b"00000000"])
def test_a_timer_that_is_late_is_due_now(when: bytes) -> None:
    """Before Linux 3.10 its time is printed below zero, in as many bits as the machine has."""
    line = (TCP_LINE % 0).replace(b" 00:00000000 ", b" 02:" + when + b" ")
    (row,), dump = read("tcp", {"tcp": b"sl\n" + line})
    assert dump.bad == 0
    assert (row["timer"], row["expires_ms"]) == ("keepalive", 0)


@pytest.mark.parametrize("printed", [b"  -2", b"4294967294"])
def test_users_that_older_kernels_print_signed(printed: bytes) -> None:
    line = (TCP_LINE % 0).replace(b"  1000 ", b" " + printed + b" ")
    (row,), dump = read("tcp", {"tcp": b"sl\n" + line})
    assert dump.bad == 0
    assert row["uid"] == 2**32 - 2


@pytest.mark.parametrize("pointer", [b"0", b"c1a2b3c4", b"ffff88007cab32c0", b"(____ptrval____)"])
def test_rows_of_every_width(pointer: bytes) -> None:
    """Pointers of 32 bits, hidden and hashed ones; numbers past their columns; no padding."""
    inet = (
        b"%5d: 00000000:%04X 00000000:0000 07 00000000:00000000 00:00000000 00000000 %5d        0 "
    )
    tails = {"udp": b"15376 2 %s", "raw": b"15376 2 %s 0      "}
    for step, tail in tails.items():
        line = (inet % (12345, 68, 4294967294) + tail % pointer).rstrip() + b"\n"
        (row,), dump = read(step, {step: b"sl\n" + line})
        assert dump.bad == 0
        assert (row["local_port"], row["inode"], row["drops"]) == (68, 15376, 0)
    packet = b"%s 3      10   88cc   1200000 1 213000 4294967294      4294967295" % pointer
    (row,), dump = read("packet", {"packet": b"sk\n" + packet + b"\n"})
    assert dump.bad == 0
    assert (row["netid"], row["interface"], row["inode"]) == ("p_dgr", 1200000, 2**32 - 1)
    unix = b"%s: 00000003 00000000 00000000 0001 03   378\n" % pointer
    rows, dump = read("unix", {"unix": b"Num\n" + unix + unix.replace(b"  378", b"29692 /a  b ")})
    assert dump.bad == 0
    assert [(row["inode"], row["local_addr"]) for row in rows] == [(378, None), (29692, "/a  b ")]


def test_drops_that_older_kernels_print_signed() -> None:
    line = (TCP_LINE % 0).replace(b" 20 4 30 10 -1", b" -3")
    (row,), dump = read("udp", {"udp": b"sl\n" + line})
    assert dump.bad == 0
    assert row["drops"] == 2**32 - 3


def test_drops_of_netlink_that_older_kernels_print_signed() -> None:
    line = b"0000000075e14f1a 4   14705      00000000 0 0 0000000000000000 2 -3       13040297\n"
    (row,), dump = read("netlink", {"netlink": b"sk\n" + line})
    assert dump.bad == 0
    assert row["drops"] == 2**32 - 3


@pytest.mark.parametrize(
    ("step", "file", "line"),
    [
        ("tcp", "tcp", (TIME_WAIT % 80).replace(b" 0 3 ", b" 9999999999 3 ")),
        ("tcp", "tcp", (TIME_WAIT % 80)[:60] + b"\n"),
        ("tcp", "tcp", TIME_WAIT.replace(b"%04X", b"XXXX")),
        ("unix", "unix", UNIX[:30] + b"\n"),
        ("unix", "unix", UNIX % (1, b" /" + 200 * b"n")),
        (
            "packet",
            "packet",
            PACKET.replace(b"0003", b"000g"),
        ),
        ("netlink", "netlink", b"0000000075e14f1a 4   14705      00000000 0 0\n"),
        ("sctp", "sctp/eps", b"00000000aaaa0001 00000000bbbb0001 2   10\n"),
    ],
)
def test_broken_lines_are_counted_and_others_kept(step: str, file: str, line: bytes) -> None:
    good = {
        "tcp": TIME_WAIT % 22,
        "unix": UNIX % (2, b""),
        "packet": PACKET,
        "netlink": b"0000000075e14f1a 4   14705      00000000 0        0        0     2        0 "
        b"       13040297\n",
        "sctp": SCTP["sctp/eps"].splitlines(keepends=True)[1],
    }[step]
    rows, dump = read(step, {file: b"heading\n" + good + line + good.replace(b"3", b"4")})
    kept = [row for row in rows if row["local_addr"] is not None or step == "unix"]
    assert dump.bad == 1
    assert len(kept) in (2, 3)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, str, bytes]:
    step, file, text = draw(
        st.sampled_from(
            [
                ("tcp", "tcp", b"sl\n" + TIME_WAIT % 1 + TIME_WAIT % 2),
                ("raw", "raw", b"sl\n" + TIME_WAIT % 1 + TIME_WAIT % 2),
                ("unix", "unix", b"Num\n" + UNIX % (1, b" /a b") + UNIX % (0, b"")),
                ("netlink", "netlink", b"sk\n0000000075e1 4 14705 00000000 0 0 0 2 0 13040297\n"),
                ("packet", "packet", b"sk\n0000000066599994 2 3 0003 0 0 0 0 13040300\n"),
                ("sctp", "sctp/eps", SCTP["sctp/eps"]),
                ("sctp", "sctp/assocs", SCTP["sctp/assocs"]),
            ]
        )
    )
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(text.index(b"\n") + 1, len(text)))
        stop = min(len(text), start + draw(st.integers(0, 12)))
        inserted = draw(
            st.one_of(
                st.binary(max_size=6), st.sampled_from([b"99999999999999999999", b"-1", b"\n"])
            )
        )
        text = text[:start] + inserted + text[stop:]
    return step, file, text


@given(mutated())
def test_no_text_makes_it_raise(case: tuple[str, str, bytes]) -> None:
    step, file, text = case
    table, dump = ProcNet(step), Dump()
    table.parse(file, text, dump)
    decoded(table)
    rows = table.columns.rows
    if step == "sctp":  # the other family of the same file
        rows += len(read("sctp6", {file: text})[0])
    lines = text.split(b"\n")[1:]
    assert rows + dump.bad <= len(lines) + 1
    if step not in ("unix",):  # whose names may have line feeds
        assert rows + dump.bad == sum(bool(line.strip()) for line in lines)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_text_makes_counting_raise(first: bytes, second: bytes) -> None:
    in_use(first, second, first)
    in_use(b"protocol\n" + first, b"TCP: inuse " + second, b"sockets: used " + first)
