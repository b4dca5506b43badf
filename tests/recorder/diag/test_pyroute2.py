"""What pyroute2 reads of sockets, namespaces and interfaces, against what the recorder reads.

pyroute2 asks the kernel and parses its answers with code of its own, one message at a time. It is
asked before and after the recorder, so that what stood still in between must agree.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest
from pyroute2 import DiagSocket, IPRoute
from pyroute2 import netns as pyroute2_netns

from recorder.diag.inet_diag import TCPDIAG_GETSOCK, InetDiag, request_tcp_both, request_v2
from recorder.diag.sock_diag import SOCK_DIAG_BY_FAMILY
from recorder.diag.unix_diag import UnixDiag, request_all
from recorder.host.namespaces import Namespace, Namespaces, interface_names
from recorder.schema import TCP_INFO
from tests.recorder.support.rows import Row, live, release
from tests.workloads.held import held
from tests.workloads.keeper import V4, V6, Keeper
from tests.workloads.netns import inode_of, ip, lacking, namespace

Key: TypeAlias = tuple[object, object]
Found: TypeAlias = dict[Key, Row]

ROUNDS = 20

needs_namespaces = pytest.mark.skipif(lacking() is not None, reason=lacking() or "")

# pyroute2 opens a socket in another namespace by a fork
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

STATES = {
    1: "ESTAB",
    2: "SYN-SENT",
    3: "SYN-RECV",
    4: "FIN-WAIT-1",
    5: "FIN-WAIT-2",
    6: "TIME-WAIT",
    7: "UNCONN",
    8: "CLOSE-WAIT",
    9: "LAST-ACK",
    10: "LISTEN",
    11: "CLOSING",
}
TIMERS = {0: None, 1: "on", 2: "keepalive", 3: "timewait", 4: "persist", 5: "delack"}
FAMILIES = {socket.AF_INET: "inet", socket.AF_INET6: "inet6"}
UNIX_TYPES = {
    socket.SOCK_STREAM: "u_str",
    socket.SOCK_DGRAM: "u_dgr",
    socket.SOCK_SEQPACKET: "u_seq",
}

SKMEM = "rmem_alloc rcvbuf wmem_alloc sndbuf fwd_alloc wmem_queued optmem backlog drops".split()

# Both window scales are left out: of the byte they share pyroute2 takes one half for both, as
# `x & 0xF0 >> 4` is `x & (0xF0 >> 4)`.
SCALES = {"snd_wscale", "rcv_wscale"}

INFO = {
    "tcpi_state": "tcpi_state",
    "tcpi_retrans": "tcpi_retrans",
    **{
        f"{name}_{unit}": f"tcpi_{name}"
        for unit, names in (
            ("us", "rto ato rtt rttvar rcv_rtt min_rtt busy_time rwnd_limited sndbuf_limited"),
            ("ms", "last_data_sent last_ack_sent last_data_recv last_ack_recv"),
        )
        for name in names.split()
    },
    **{
        name: f"tcpi_{name}"
        for name in (
            "ca_state retransmits probes backoff options delivery_rate_app_limited "
            "snd_mss rcv_mss unacked sacked lost fackets pmtu rcv_ssthresh snd_ssthresh snd_cwnd "
            "advmss reordering rcv_space total_retrans pacing_rate max_pacing_rate bytes_acked "
            "bytes_received segs_out segs_in notsent_bytes data_segs_in data_segs_out "
            "delivery_rate delivered delivered_ce bytes_sent bytes_retrans dsack_dups reord_seen "
            "rcv_ooopack snd_wnd"
        ).split()
    },
}
"""Columns of tcp_info and pyroute2's names for them."""

UNKNOWN_TO_PYROUTE2 = {
    *("fastopen_client_fail", "rcv_wnd", "rehash", "total_rto", "total_rto_recoveries"),
    *("total_rto_time_ms", "received_ce", "delivered_e1_bytes", "delivered_e0_bytes"),
    *("delivered_ce_bytes", "received_e1_bytes", "received_e0_bytes", "received_ce_bytes"),
    *("ecn_mode", "accecn_opt_seen", "accecn_fail_mode", "options2"),
}

NONE = {"pacing_rate": 2**64 - 1, "max_pacing_rate": 2**64 - 1, "min_rtt_us": 2**32 - 1}
"""Values that say there is none."""

STRUCTS = {
    "INET_DIAG_MEMINFO": {name: f"idiag_{name}" for name in ("rmem", "wmem", "fmem", "tmem")},
    "INET_DIAG_VEGASINFO": {
        "vegas_enabled": "tcpv_enabled",
        "vegas_rttcnt": "tcpv_rttcnt",
        "vegas_rtt_us": "tcpv_rtt",
        "vegas_minrtt_us": "tcpv_minrtt",
    },
    "INET_DIAG_DCTCPINFO": {
        f"dctcp_{name}": f"dctcp_{name}"
        for name in ("enabled", "ce_state", "alpha", "ab_ecn", "ab_tot")
    },
    "INET_DIAG_BBRINFO": {
        "bbr_min_rtt_us": "bbr_min_rtt",
        "bbr_pacing_gain": "bbr_pacing_gain",
        "bbr_cwnd_gain": "bbr_cwnd_gain",
    },
}

GROWING = {
    *("last_data_sent_ms", "last_ack_sent_ms", "last_data_recv_ms", "last_ack_recv_ms"),
    *("busy_time_us", "rwnd_limited_us", "sndbuf_limited_us"),
}
"""Columns that grow while nothing happens to a socket."""


def number(message: Any, attribute: str) -> int | None:
    """Return a number that pyroute2 leaves as text of hexadecimal bytes."""
    text = message.get_attr(attribute)
    return None if text is None else int.from_bytes(octets(text), sys.byteorder)


def octets(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def words(text: str | None) -> list[int]:
    """Return the signed numbers of 32 bits in a text of hexadecimal bytes."""
    return [] if text is None else memoryview(octets(text)).cast("i").tolist()


def skmem(text: str | None) -> Row:
    found: dict[str, int] = dict(zip(SKMEM, words(text), strict=False))
    return {name: found.get(name) for name in SKMEM}


def inet_row(netid: str, message: Any) -> Row:
    """Return the columns that a message of inet_diag gives, of a TCP socket also tcp_info."""
    timer = TIMERS[message["idiag_timer"]]
    row: Row = {
        "netid": netid,
        "family": FAMILIES[message["idiag_family"]],
        "state": STATES[message["idiag_state"]],
        "timer": timer,
        "expires_ms": None if timer is None else message["idiag_expires"],
        "retrans": message["idiag_retrans"],
        "local_addr": message["idiag_src"],
        "local_port": message["idiag_sport"],
        "peer_addr": message["idiag_dst"],
        "peer_port": message["idiag_dport"],
        "interface": message["idiag_if"] or None,
        "cookie": message["idiag_cookie"],
        "recv_q": message["idiag_rqueue"],
        "send_q": message["idiag_wqueue"],
        "uid": message["idiag_uid"],
        "inode": message["idiag_inode"],
        "tos": number(message, "INET_DIAG_TOS"),
        "tclass": number(message, "INET_DIAG_TCLASS"),
        "mark": number(message, "INET_DIAG_MARK"),
        "protocol": number(message, "INET_DIAG_PROTOCOL"),
        "shutdown": message.get_attr("INET_DIAG_SHUTDOWN"),
        "class_id": message.get_attr("INET_DIAG_CLASS_ID"),
        "cgroup_id": message.get_attr("INET_DIAG_CGROUP_ID"),
        "cong": message.get_attr("INET_DIAG_CONG"),
    }
    v6only = message.get_attr("INET_DIAG_SKV6ONLY")
    row["v6only"] = None if v6only is None else bool(v6only)
    row |= skmem(message.get_attr("INET_DIAG_SKMEMINFO"))
    for attribute, columns in STRUCTS.items():
        values = message.get_attr(attribute) or {}
        row |= {column: values.get(name) for column, name in columns.items()}
    bbr = message.get_attr("INET_DIAG_BBRINFO")
    row["bbr_bw"] = bbr and bbr["bbr_bw_hi"] << 32 | bbr["bbr_bw_lo"]
    return row | info_row(message.get_attr("INET_DIAG_INFO") or {})


def info_row(info: Any) -> Row:
    row: Row = {column: info.get(name) for column, name in INFO.items()}
    for column, none in NONE.items():
        if row[column] == none:
            row[column] = None
    limited = row["delivery_rate_app_limited"]
    return row | {"delivery_rate_app_limited": None if limited is None else bool(limited)}


def unix_row(message: Any) -> Row:
    """Return the columns that a message of unix_diag gives."""
    vfs = message.get_attr("UNIX_DIAG_VFS") or {}
    queues = message.get_attr("UNIX_DIAG_RQLEN") or {}
    icons = words(message.get_attr("UNIX_DIAG_ICONS"))
    return {
        "netid": UNIX_TYPES[message["udiag_type"]],
        "family": "unix",
        "state": STATES[message["udiag_state"]],
        "cookie": message["udiag_cookie"],
        "inode": message["udiag_ino"],
        "local_addr": message.get_attr("UNIX_DIAG_NAME"),
        "vfs_inode": vfs.get("udiag_vfs_ino"),
        "vfs_dev": vfs.get("udiag_vfs_dev"),
        "peer_inode": message.get_attr("UNIX_DIAG_PEER"),
        "icons": ",".join(map(str, icons)) or None,
        "recv_q": queues.get("udiag_rqueue"),
        "send_q": queues.get("udiag_wqueue"),
        "shutdown": message.get_attr("UNIX_DIAG_SHUTDOWN"),
        **skmem(message.get_attr("UNIX_DIAG_MEMINFO")),
    }


def asked() -> Found:
    """Return the sockets of the namespace this thread is in, as pyroute2 sees them."""
    everything = {"states": 0xFFFF_FFFF, "extensions": 0xFF, "show": 0x7F}
    rows = []
    with DiagSocket() as diag:
        diag.bind()
        for netid, protocol in (("tcp", socket.IPPROTO_TCP), ("udp", socket.IPPROTO_UDP)):
            for family in FAMILIES:
                messages = diag.get_sock_stats(family=family, protocol=protocol, **everything)
                rows += [inet_row(netid, message) for message in messages]
        messages = diag.get_sock_stats(family=socket.AF_UNIX, **everything)
        rows += [unix_row(message) for message in messages]
    return {key_of(row): row for row in rows}


def recorded() -> Found:
    """Return the sockets of the namespace this thread is in, as the recorder sees them."""
    udp = InetDiag("udp", release())
    rows, dump = live(InetDiag("tcp", release()), TCPDIAG_GETSOCK, request_tcp_both())
    dumps = [dump]
    for decoder, request in (
        (udp, request_v2(V4, socket.IPPROTO_UDP)),
        (udp, request_v2(V6, socket.IPPROTO_UDP)),
        (UnixDiag(), request_all()),
    ):
        more, dump = live(decoder, SOCK_DIAG_BY_FAMILY, request)
        rows += more
        dumps.append(dump)
    assert [dump.bad for dump in dumps] == [0] * len(dumps)
    for row in rows:
        if row["family"] == "unix" and row["local_addr"] is not None:
            # pyroute2 takes the leading NUL of an abstract name, our @, away
            row["local_addr"] = str(row["local_addr"]).removeprefix("@")
    return {key_of(row): row for row in rows}


def key_of(row: Row) -> Key:
    return row["netid"], row["cookie"]


@dataclass
class Comparison:
    """The sockets of a workload, by inode or else by port, and what came of comparing them."""

    inodes: set[int]
    ports: set[object]
    compared: Found = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Compare each socket until it agrees, as something may just happen to it."""
        before = asked()
        waiting: dict[Key, list[str]] = {
            key: [] for key, row in before.items() if self.is_mine(row)
        }
        for _ in range(ROUNDS):
            ours, after = recorded(), asked()
            self.unknown = [
                f"unknown to pyroute2: {row}"
                for key, row in ours.items()
                if self.is_mine(row) and key not in before and key not in after
            ]
            for key in list(waiting):
                if key not in after:
                    del waiting[key]
                elif wrong := disagreements(before[key], ours.get(key, {}), after[key]):
                    waiting[key] = wrong
                else:
                    self.compared[key] = before[key]
                    del waiting[key]
            if not waiting:
                break
            before = after
        self.wrong = [sentence for sentences in waiting.values() for sentence in sentences]

    def is_mine(self, row: Row) -> bool:
        return row["inode"] in self.inodes or (
            row["inode"] == 0 and row.get("local_port") in self.ports
        )

    @property
    def filled(self) -> set[str]:
        """The columns that were neither 0 nor NULL for every socket."""
        return {name for row in self.compared.values() for name, value in row.items() if value}


def disagreements(before: Row, ours: Row, after: Row) -> list[str]:
    """Return a sentence for each column that is not as pyroute2 saw it before and after."""
    which = [before[word] for word in ("netid", "family", "state", "cookie")]
    return [
        f"{name}: pyroute2 {low!r}, then {after[name]!r}, recorded {ours.get(name)!r}, of {which}"
        for name, low in before.items()
        if name not in ours or not between(name, low, ours[name], after[name])
    ]


def between(name: str, before: object, value: object, after: object) -> bool:
    if isinstance(before, int) and isinstance(value, int) and isinstance(after, int):
        if name in GROWING:
            return before <= value <= after
        if name == "expires_ms":
            return before >= value >= after
    return before == value == after


class Few(Keeper):
    """A few sockets to which nothing happens."""

    def fill(self) -> None:
        """Make sockets of every family and kind."""
        for family, address in ((V4, "127.0.0.1"), (V6, "::1")):
            listener = self.listen(family, address)
            self.tcp(listener, "LISTEN")
            client, server = self.connect(listener)
            client.sendall(b"x" * 100)
            self.tcp(client, "ESTAB")
            self.tcp(server, "ESTAB")
            receiver = self.keep(socket.socket(family, socket.SOCK_DGRAM))
            receiver.bind((address, 0))
            self.inet("udp", receiver, "UNCONN")
        for netid, kind in (("u_str", socket.SOCK_STREAM), ("u_dgr", socket.SOCK_DGRAM)):
            left, right = (self.keep(one) for one in socket.socketpair(type=kind))
            left.send(b"x")
            self.unix_socket(netid, left, None, right)
            self.unix_socket(netid, right, None, left)


def compared(keeper: Keeper) -> Comparison:
    """Compare all sockets of a workload in the namespace this thread is in."""
    comparison = Comparison(
        {int(truth["inode"] or 0) for truth in keeper.truths} - {0},
        {truth["local_port"] for truth in keeper.truths if not truth["inode"]},
    )
    comparison.run()
    return comparison


def check(comparison: Comparison) -> None:
    assert comparison.wrong == []
    assert comparison.unknown == []
    seen = {row["inode"] for row in comparison.compared.values()}
    assert comparison.inodes - seen == set()


@pytest.fixture
def followed() -> Iterator[Namespaces]:
    namespaces = Namespaces()
    yield namespaces
    namespaces.close()


def named(namespaces: Namespaces, name: str) -> Namespace:
    (found,) = (each for each in namespaces.current if name in each.names)
    return found


def test_sockets_of_this_namespace_are_as_pyroute2_sees_them() -> None:
    with contextlib.closing(Few()) as few:
        few.fill()
        check(compared(few))


@needs_namespaces
def test_sockets_of_every_state_in_a_namespace_are_as_pyroute2_sees_them(
    followed: Namespaces,
) -> None:
    with namespace() as name:
        followed.update()

        def action() -> Comparison:
            with held(40) as workload:
                return compared(workload)

        comparison = followed.run(named(followed, name), action)
    check(comparison)
    assert {row["state"] for row in comparison.compared.values()} >= set(STATES.values()) - {
        "CLOSING"
    }
    assert comparison.filled >= FILLED


FILLED = {
    *("timer", "expires_ms", "retrans", "interface", "recv_q", "send_q", "peer_port", "inode"),
    *("rmem", "fmem", "rmem_alloc", "rcvbuf", "sndbuf", "fwd_alloc", "wmem_queued"),
    *("tos", "tclass", "class_id", "shutdown", "v6only", "mark", "cgroup_id", "cong"),
    *("peer_inode", "vfs_inode", "vfs_dev", "icons", "local_addr", "peer_addr"),
    *("tcpi_state", "options", "rto_us", "ato_us", "snd_mss", "rcv_mss", "unacked", "sacked"),
    *("last_data_sent_ms", "last_data_recv_ms", "last_ack_recv_ms", "pmtu", "rcv_ssthresh"),
    *("rtt_us", "rttvar_us", "snd_ssthresh", "snd_cwnd", "advmss", "reordering", "rcv_space"),
    *("total_retrans", "backoff", "pacing_rate", "bytes_acked", "bytes_received", "segs_out"),
    *("segs_in", "notsent_bytes", "min_rtt_us", "data_segs_in", "data_segs_out", "snd_wnd"),
    *("delivery_rate", "busy_time_us", "rwnd_limited_us", "delivered", "bytes_sent"),
}
"""Columns the workload fills, so that one that shrank does not pass unnoticed."""


def test_all_of_tcp_info_is_compared_that_pyroute2_knows() -> None:
    left_out = {column.name for column in TCP_INFO} - INFO.keys()
    assert left_out == SCALES | UNKNOWN_TO_PYROUTE2


@needs_namespaces
def test_namespaces_have_the_names_and_numbers_that_pyroute2_tells(followed: Namespaces) -> None:
    with namespace() as first, namespace() as second:
        followed.update()
        with IPRoute() as route:
            inodes = {
                info.get_attr("NSINFO_PATH"): info["inode"]
                for info in route.get_netns_info(list_proc=False)
            }
        names = {name for each in followed.current for name in each.names}
        listed = set(pyroute2_netns.listnetns())
        for name in (first, second):
            assert name in listed & names
            told = inodes[f"{pyroute2_netns.NETNS_RUN_DIR}/{name}"]
            assert told == named(followed, name).inode == inode_of(name)


@needs_namespaces
def test_the_process_of_a_namespace_is_where_pyroute2_finds_it(followed: Namespaces) -> None:
    with namespace() as name, inhabited(name) as pid:
        followed.update()
        assert named(followed, name).pid == pid
        assert pyroute2_netns.pid_to_ns(pid) == name
        assert pyroute2_netns.pid_to_ns(os.getpid()) != name


@contextlib.contextmanager
def inhabited(name: str) -> Iterator[int]:
    """Keep a process in a namespace."""
    code = "print(flush=True); input()"
    command = ["ip", "netns", "exec", name, sys.executable, "-S", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        try:
            yield child.pid  # ip becomes the command
        finally:
            child.kill()


@needs_namespaces
@forks
def test_interfaces_of_a_namespace_are_those_that_pyroute2_lists(followed: Namespaces) -> None:
    with namespace() as near, namespace() as far:
        peer = ["type", "veth", "peer", "name", "other-end", "netns", far]
        ip("-n", near, "link", "add", "cable", "index", "4711", *peer)
        followed.update()
        both = {name: links(name) for name in (near, far)}
        assert both[near][4711] == "cable"
        assert "other-end" in both[far].values()
        for name, theirs in both.items():
            assert followed.run(named(followed, name), interface_names) == theirs


def links(name: str) -> dict[int, str]:
    """Return the interfaces of a named namespace by index, as pyroute2 sees them."""
    with IPRoute(netns=name) as route:
        return {link["index"]: link.get_attr("IFLA_IFNAME") for link in route.get_links()}
