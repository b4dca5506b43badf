"""The families beside TCP, UDP and unix: what their messages say, and what live sockets are."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.diag import (
    netlink_diag,
    packet_diag,
    smc_diag,
    tipc_diag,
    unix_diag,
    vsock_diag,
    xdp_diag,
)
from recorder.diag.inet_diag import InetDiag, request_v2
from recorder.diag.sock_diag import NO_UID, SOCK_DIAG_BY_FAMILY
from tests.recorder.support import family_messages as made
from tests.recorder.support.messages import InetMessage, attribute, tcp_info
from tests.recorder.support.rows import Row, decode, decoded, feed, live, release
from tests.recorder.support.ss_oracle import kernel_cookie

MPTCP = 262
SO_COOKIE = 57
UNKNOWN = attribute(29, b"strange")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: packet sockets")

DECODERS: dict[str, Callable[[], Any]] = {
    "packet": packet_diag.PacketDiag,
    "netlink": netlink_diag.NetlinkDiag,
    "vsock": vsock_diag.VsockDiag,
    "xdp": xdp_diag.XdpDiag,
    "tipc": tipc_diag.TipcDiag,
    "smc": smc_diag.SmcDiag,
    **{
        netid: partial(InetDiag, netid, (6, 18))
        for netid in ("mptcp", "sctp", "dccp", "raw", "udplite")
    },
}


def told(row: Row) -> Row:
    """Return what a row has, its details parsed."""
    known = {name: value for name, value in row.items() if value is not None}
    if "details" in known:
        known["details"] = json.loads(str(known["details"]))
    return known


def rows_of(decoder: Any, *bodies: bytes) -> list[Row]:
    """Decode messages that are whole and hold nothing unknown."""
    rows, _, dump = decode([made.chunk(*bodies)], decoder)
    assert (dump.bad, dump.unknown) == (0, {})
    return [told(row) for row in rows]


# packet


def test_a_packet_socket_has_its_protocol_interface_memory_and_rings() -> None:
    ring = struct.pack("=7I", *range(21, 28))
    fields = "block_size block_nr frame_size frame_nr retire_tmo sizeof_priv features".split()
    program = struct.pack("=HBBI", 40, 0, 0, 12) + struct.pack("=HBBI", 6, 1, 2, NO_UID)
    groups = made.membership(2, 1, 0, bytes.fromhex("01005e0000fb")) + made.membership(2, 3, 1, b"")
    body = made.packet(
        *(3, 0x86DD, 77, 1 << 40, made.packet_info(2, 0x11), attribute(1, groups)),
        *(attribute(2, ring), attribute(3, ring[:20]), made.u32(4, 5 | 1 << 16), made.u32(5, 1000)),
        *(made.skmem(6), attribute(7, program)),
    )
    (row,) = rows_of(packet_diag.PacketDiag(), body)
    assert row == {
        "family": "packet",
        "netid": "p_raw",
        "state": "UNCONN",
        "local_addr": "ipv6",
        "interface": 2,
        "inode": 77,
        "cookie": 1 << 40,
        "uid": 1000,
        "recv_q": made.SKMEM["rmem_alloc"],
        "send_q": 0,
        **made.SKMEM,
        "details": {
            "version": 2,
            "reserve": 3,
            "copy_thresh": -1,
            "tstamp": 5,
            "flags": 0x11,
            "rx_ring": dict(zip(fields, range(21, 28), strict=True)),
            "tx_ring": dict(zip(fields[:5], range(21, 26), strict=True)),
            "fanout": 5 | 1 << 16,
            "mclist": [
                {"index": 2, "count": 1, "type": 0, "addr": "01:00:5e:00:00:fb"},
                {"index": 2, "count": 3, "type": 1},
            ],
            "filter": "40 0 0 12,6 1 2 4294967295",
        },
    }


def test_a_packet_socket_of_which_little_is_told_has_nulls_and_not_zeros() -> None:
    bare, withheld = rows_of(
        packet_diag.PacketDiag(),
        made.packet(2, 3, 0, 1),
        made.packet(10, 0x1234, 5, 2, made.packet_info(0, 0), attribute(7, b"")),
    )
    assert bare == {
        "family": "packet",
        "netid": "p_dgr",
        "state": "UNCONN",
        "local_addr": "*",
        "inode": 0,
        "cookie": 1,
        "send_q": 0,
    }
    assert "interface" not in withheld
    assert withheld["local_addr"] == "[4660]"
    assert withheld["details"]["filter"] is None  # type: ignore[index]  # an object, not a Row's


# netlink


def test_a_netlink_socket_has_its_protocol_port_peer_and_groups() -> None:
    bitmap = (1 << 0 | 1 << 4 | 1 << 63 | 1 << 64 | 1 << 127).to_bytes(16, "little")
    kernel, connected, other = rows_of(
        netlink_diag.NetlinkDiag(),
        made.netlink(0, 0, 4, 9, made.skmem(0)),
        made.netlink(
            *(15, 4_000_000_000, 12, 10, attribute(1, bitmap), made.u32(4, 6)),
            connected_to=0,
            dst_group=3,
        ),
        made.netlink(17, 1, 13, 11, attribute(1, bytes(8))),
    )
    words = {"family": "netlink", "netid": "nl", "state": "UNCONN"}
    assert kernel == {
        **words,
        "local_addr": "rtnl",
        "local_id": 0,
        "inode": 4,
        "cookie": 9,
        "recv_q": 11,
        "send_q": 13,
        "details": {"type": 3},
        **made.SKMEM,
    }
    assert connected == {
        **words,
        "local_addr": "uevent",
        "local_id": 4_000_000_000,
        "peer_id": 0,
        "inode": 12,
        "cookie": 10,
        "details": {"type": 3, "dst_group": 3, "flags": 6, "groups": [1, 5, 64, 65, 128]},
    }
    assert (other["local_addr"], other["details"]) == ("17", {"type": 3})


# vsock, xdp, tipc, smc


def test_a_vsock_has_its_cids_and_ports() -> None:
    listener, connected, seq = rows_of(
        vsock_diag.VsockDiag(),
        made.vsock(1, 10, 0, (NO_UID, 1024), (NO_UID, NO_UID), 5, 6),
        made.vsock(2, 1, 3, (3, 4_000_000_000), (2, 22), 7, 8),
        made.vsock(5, 7, 0, (3, NO_UID), (NO_UID, NO_UID), 9, 10),
    )
    assert listener == {
        "family": "vsock",
        "netid": "v_str",
        "state": "LISTEN",
        "local_addr": "*",
        "local_id": 1024,
        "shutdown": 0,
        "inode": 5,
        "cookie": 6,
    }
    assert connected == {
        "family": "vsock",
        "netid": "v_dgr",
        "state": "ESTAB",
        "local_addr": "3",
        "local_id": 4_000_000_000,
        "peer_addr": "2",
        "peer_id": 22,
        "shutdown": 3,
        "inode": 7,
        "cookie": 8,
    }
    assert (seq["netid"], seq["state"], seq["local_addr"]) == ("v_seq", "UNCONN", "3")
    assert "local_id" not in seq


def test_an_xdp_socket_has_its_queue_rings_and_statistics() -> None:
    umem = struct.pack("=Q8I", 1 << 33, *range(31, 39))
    numbers = range(1 << 33, (1 << 33) + 6)
    full, bare = rows_of(
        xdp_diag.XdpDiag(),
        made.xdp(
            *(5, 6, attribute(1, struct.pack("=II", 4, 1)), made.u32(2, 33), made.u32(3, 2048)),
            *(made.u32(4, 1024), attribute(5, umem), made.u32(6, 512), made.u32(7, 256)),
            *(made.skmem(8), attribute(9, struct.pack("=6Q", *numbers))),
        ),
        made.xdp(7, 8, attribute(1, struct.pack("=II", 0, 0)), attribute(9, bytes(16))),
    )
    fields = "id num_pages chunk_size headroom ifindex queue_id flags refs".split()
    statistics = "rx_dropped rx_invalid rx_full fill_ring_empty tx_invalid tx_ring_empty".split()
    assert full == {
        "family": "xdp",
        "netid": "xdp",
        "state": "UNCONN",
        "interface": 4,
        "uid": 33,
        "inode": 5,
        "cookie": 6,
        "recv_q": 11,
        "send_q": 0,
        **made.SKMEM,
        "details": {
            "queue_id": 1,
            "rx_ring": 2048,
            "tx_ring": 1024,
            "umem_fill_ring": 512,
            "umem_completion_ring": 256,
            "umem": {"size": 1 << 33, **dict(zip(fields, range(31, 39), strict=True))},
            "stats": {f"n_{name}": n for name, n in zip(statistics, numbers, strict=True)},
        },
    }
    assert bare == {
        "family": "xdp",
        "netid": "xdp",
        "state": "UNCONN",
        "inode": 7,
        "cookie": 8,
        "send_q": 0,
        "details": {"stats": {"n_rx_dropped": 0, "n_rx_invalid": 0}},
    }


def test_a_tipc_socket_has_its_node_port_peer_and_queues() -> None:
    connection = attribute(1, b"") + made.u32(2, 17) + made.u32(3, 3_000_000_000)
    connection += made.u32(4, 18888) + made.u32(5, 17)
    counters = made.u32(0, 2) + made.u32(1, 3) + attribute(2, b"") + made.u32(4, 9)
    group = made.u32(0, 4711) + attribute(1, b"") + made.u32(4, 5) + made.u32(5, 6)
    full, bare = rows_of(
        tipc_diag.TipcDiag(),
        made.tipc(
            *(made.u32(1, 16), made.u32(2, 4_000_000_000), attribute(3, connection)),
            *(attribute(4, b""), made.u32(6, 5), made.u32(9, 1), made.u32(7, 55)),
            *(made.u32(8, 1000), attribute(11, b""), attribute(10, struct.pack("=Q", 1 << 40))),
            *(attribute(5, counters), attribute(12, group)),
        ),
        made.tipc(made.u32(6, 4), made.u32(9, 7), attribute(10, struct.pack("=Q", 3))),
    )
    assert full == {
        "family": "tipc",
        "netid": "ti_sq",
        "state": "ESTAB",
        "local_addr": "16",
        "local_id": 4_000_000_000,
        "peer_addr": "17",
        "peer_id": 3_000_000_000,
        "recv_q": 2,
        "send_q": 3,
        "drops": 9,
        "uid": 1000,
        "inode": 55,
        "cookie": 1 << 40,
        "details": {
            "has_publ": True,
            "con": {"flag": True, "type": 18888, "inst": 17},
            "link_cong": True,
            "group": {"id": 4711, "open": True, "instance": 5, "bc_send_next": 6},
        },
    }
    assert bare == {"family": "tipc", "netid": "ti_rd", "state": "UNCONN", "cookie": 3}


def test_a_tipc_message_without_a_socket_is_counted() -> None:
    whole = made.tipc(made.u32(2, 5))
    broken = made.tipc(struct.pack("=HHI", 40, 2, 5))
    rows, _, dump = decode([made.chunk(b"", attribute(3, b""), broken, whole)], DECODERS["tipc"]())
    assert [row["local_id"] for row in rows] == [5]
    assert (dump.bad, dump.unknown) == (3, {"3": 1})


def test_an_smc_socket_has_its_addresses_mode_and_link() -> None:
    values = {name: n + 1 for n, name in enumerate(made.CONNINFO_NAMES)}
    link = struct.pack(
        "=B64sB40s40sB", 1, b'mlx5_"0', 2, b"fe80::1".ljust(40, b"\0"), b"fe80::2", 1
    )
    buffer = struct.pack("=IxxxxQQQQ", 8, 1 << 62, 2, 3, 4)
    four, six, lost = rows_of(
        smc_diag.SmcDiag(),
        made.smc(
            *(1, 0, (80, 40000), ("192.0.2.1", "192.0.2.2"), 33, 5, 6),
            *(attribute(3, b"\2"), attribute(5, struct.pack("=II", 0x03010000, 0))),
            *(attribute(1, made.conninfo(values)), attribute(2, link)),
            interface=3,
        ),
        made.smc(21, 2, (80, 1), ("2001:db8::1", "2001:db8::2"), 0, 7, 8, attribute(4, buffer)),
        made.smc(2, 9, (0, 0), ("0.0.0.0", "0.0.0.0"), 0, 0, 9, attribute(2, link[:100])),
    )
    assert four == {
        "family": "smc",
        "netid": "smc",
        "state": "ESTAB",
        "shutdown": 2,
        "local_addr": "192.0.2.1",
        "local_port": 80,
        "interface": 3,
        "peer_addr": "192.0.2.2",
        "peer_port": 40000,
        "uid": 33,
        "inode": 5,
        "cookie": 6,
        "details": {
            "mode": "SMCR",
            "conninfo": values,
            "fallback": {"reason": 0x03010000, "peer_diagnosis": 0},
            "lgrinfo": {
                "link_id": 1,
                "ibname": 'mlx5_"0',
                "ibport": 2,
                "gid": "fe80::1",
                "peer_gid": "fe80::2",
                "role": 1,
            },
        },
    }
    assert (six["local_addr"], six["peer_addr"]) == ("2001:db8::1", "2001:db8::2")
    assert six["state"] == "PEERCLOSEWAIT2"
    expected = {"linkid": 8, "peer_gid": 1 << 62, "my_gid": 2, "token": 3, "peer_token": 4}
    assert six["details"] == {"mode": "SMCD", "dmbinfo": expected}
    assert (lost["state"], lost["details"]) == ("INIT", {"mode": "UNKNOWN"})


# what inet_diag carries beside TCP


def inet(netid: str, state: int, cookie: int, *attributes: bytes, timer: int = 0) -> bytes:
    """Return struct inet_diag_msg of a socket on 127.0.0.1, port 9."""
    here = socket.inet_aton("127.0.0.1")
    head = struct.pack("=BBBB", socket.AF_INET, state, timer, 1) + struct.pack(">HH", 9, 10)
    head += struct.pack("=16s16sIQIIIII", here, here, 0, cookie, 50, 1, 2, 1000, 44)
    return head + b"".join(attributes)


@pytest.mark.parametrize("length", [12, 40, 44, 48, 80, 84, 96, 112])
def test_mptcp_info_of_every_length_gives_what_it_holds(length: int) -> None:
    values = {name: n + 1 for n, name in enumerate(made.MPTCP_NAMES)}
    info = made.mptcp_info(values).ljust(112, b"\xaa")[:length]
    (row,) = rows_of(DECODERS["mptcp"](), inet("mptcp", 1, 5, attribute(2, info)))
    own = {
        **{name: name for name in ("bytes_retrans bytes_sent bytes_received bytes_acked".split())},
        **{f"last_{name}_ms": f"last_{name}" for name in ("data_sent", "data_recv", "ack_recv")},
    }
    assert (row["netid"], row["state"], row["recv_q"]) == ("mptcp", "ESTAB", 1)
    ends = {"flags": 12, "snd_una": 32, "csum_enabled": 43, "endp_laminar_max": 82}
    ends |= {"endp_fullmesh_max": 83, "retransmits": 48, "bytes_acked": 80, "last_ack_recv": 96}
    found = {**row["details"], **{own[n]: v for n, v in row.items() if n in own}}  # type: ignore[dict-item]
    for name, end in ends.items():
        assert found.get(name) == (values[name] if length >= end else None), name
    if length >= 96:
        assert found == values | {"cookie": 5}


def test_what_was_padding_of_mptcp_info_before_is_left_out_where_it_is_0() -> None:
    (row,) = rows_of(
        DECODERS["mptcp"](), inet("mptcp", 1, 5, attribute(2, made.mptcp_info({"subflows": 1})))
    )
    details = row["details"]
    assert isinstance(details, dict)
    assert "endp_laminar_max" not in details
    assert details["subflows"] == 1


def test_an_sctp_endpoint_and_its_associations_are_rows_of_their_own() -> None:
    association = {name: n + 1 for n, name in enumerate(made.SCTP_NAMES) if name[:2] != "s_"}
    association |= {"p_state": -1, "isacks": 1 << 40}
    endpoint = {name: n + 1 for n, name in enumerate(made.SCTP_NAMES) if name[:2] == "s_"}
    here, six = made.storage("127.0.0.1"), made.storage("::1")
    peers = made.storage("192.0.2.9") + made.storage("2001:db8::9")
    first = inet(
        *("sctp", 3, 600, attribute(2, made.sctp_info(association, "2001:db8::9"))),
        *(attribute(12, here + six), attribute(13, peers)),
        timer=4,
    )
    second = inet(
        *("sctp", 7, 600, attribute(2, made.sctp_info({**association, "tag": 77}, "192.0.2.9"))),
        attribute(13, peers[:128]),
    )
    listener = attribute(2, made.sctp_info(endpoint, "0.0.0.0"))
    rows = rows_of(
        DECODERS["sctp"](), inet("sctp", 10, 600, listener, attribute(12, here)), first, second
    )
    assert [row["state"] for row in rows] == ["LISTEN", "ESTAB", "ACK_SENT"]
    assert [row.get("timer") for row in rows] == [None, "T3_RTX", None]
    assert rows[0]["details"] == {**endpoint, "locals": ["127.0.0.1"]}
    state = association.pop("state")
    assert state
    assert rows[1]["details"] == {
        **association,
        "p_address": "2001:db8::9",
        "locals": ["127.0.0.1", "::1"],
        "peers": ["192.0.2.9", "2001:db8::9"],
        "cookie": 600,
    }
    assert {row["inode"] for row in rows} == {44}
    cookies = [row["cookie"] for row in rows]
    assert cookies[0] == 600
    assert all(isinstance(cookie, int) and cookie < 0 for cookie in cookies[1:])
    assert len(set(cookies)) == 3


@pytest.mark.parametrize("length", [8, 56, 168, 191, 296, 344, 361])
def test_sctp_info_of_every_length_gives_what_it_holds(length: int) -> None:
    values = {name: n + 1 for n, name in enumerate(made.SCTP_NAMES)}
    info = made.sctp_info(values, "192.0.2.9", length)
    (row,) = rows_of(
        DECODERS["sctp"](), inet("sctp", 3, 5, attribute(2, info), attribute(13, bytes(128)))
    )
    details = row["details"]
    assert isinstance(details, dict)
    ends = {"tag": 4, "peer_sack": 54, "ictrlchunks": 168, "p_address": 192, "p_error": 342}
    assert {name for name in ends if name in details} == {
        name for name, end in ends.items() if length >= end
    }


def test_dccp_has_tcp_info_and_raw_its_protocol_for_a_port() -> None:
    (dccp,) = rows_of(DECODERS["dccp"](), inet("dccp", 1, 5, attribute(2, bytes(104))))
    assert (dccp["netid"], dccp["rtt_us"]) == ("dccp", 0)
    assert "subflow" not in dccp
    (raw,) = rows_of(DECODERS["raw"](), inet("raw", 7, 6, attribute(10, b"\1")))
    assert (raw["netid"], raw["local_port"], raw["protocol"]) == ("raw", 9, 1)
    assert "peer_port" not in raw


@pytest.mark.parametrize(
    ("release", "states"),
    [
        ((6, 7), {12: "SYN-RECV", 13: "PARTOPEN", 14: "PASSIVE_CLOSEREQ"}),
        ((6, 8), {12: "SYN-RECV", 13: "UNCONN", 14: "PARTOPEN", 15: "PASSIVE_CLOSEREQ"}),
    ],
)
def test_dccp_has_two_states_behind_those_of_tcp(
    release: tuple[int, int], states: dict[int, str]
) -> None:
    (asked,) = struct.unpack_from("=I", request_v2(socket.AF_INET, 33), 4)
    rows = rows_of(InetDiag("dccp", release), *(inet("dccp", state, state) for state in states))
    assert [row["state"] for row in rows] == [*states.values()]
    assert [state for state in states if not asked >> state & 1] == []


@pytest.mark.parametrize("netid", ["raw", "udplite"])
def test_an_info_of_a_protocol_that_has_none_is_unknown(netid: str) -> None:
    rows, _, dump = decode(
        [made.chunk(inet(netid, 7, 6, attribute(2, bytes(104)), attribute(13, bytes(128))))],
        DECODERS[netid](),
    )
    assert len(rows) == 1
    assert dump.unknown == {"2": 1, "13": 1}


def test_a_subflow_is_a_tcp_socket_whose_upper_layer_is_mptcp() -> None:
    head = {
        "family": "inet",
        "netid": "tcp",
        "state": "ESTAB",
        "timer": None,
        "interface": 0,
        "local_addr": "127.0.0.1",
        "local_port": 1,
        "peer_addr": "127.0.0.1",
        "peer_port": 2,
    }
    ulps = [None, "mptcp", "tls", "mptcpx", "mptcp"]
    bodies = [
        InetMessage({**head, "cookie": n, "ulp": ulp}, tcp_info=tcp_info({}))
        for n, ulp in enumerate(ulps, 1)
    ]
    minisocket = InetMessage({**head, "cookie": 9, "state": "TIME-WAIT", "ulp": None})
    rows, _, _ = decode([one.encode() for one in (*bodies, minisocket)], InetDiag("tcp", (6, 18)))
    assert [row["subflow"] for row in rows] == [False, True, False, False, True, None]
    rows, _, _ = decode([bodies[0].encode()], InetDiag("tcp", (6, 18)))
    assert [row["subflow"] for row in rows] == [False]


def test_a_protocol_past_255_is_asked_for_by_attribute_and_never_as_tcp() -> None:
    body = request_v2(socket.AF_INET6, MPTCP)
    assert (body[0], body[1], len(body)) == (socket.AF_INET6, 255, 56 + 8)
    assert struct.unpack("=HHI", body[56:]) == (8, 3, 262)
    assert request_v2(socket.AF_INET, 255)[1] == 255
    assert len(request_v2(socket.AF_INET, socket.IPPROTO_TCP)) == 56


# every family


WHOLE = {
    "packet": made.packet(
        *(3, 3, 1, 1, made.packet_info(1, 1), attribute(1, made.membership(1, 1, 0, bytes(6)))),
        *(attribute(2, bytes(28)), made.u32(5, 0), made.skmem(6), attribute(7, bytes(16))),
    ),
    "netlink": made.netlink(0, 1, 1, 1, made.skmem(0), attribute(1, b"\xff" * 8), made.u32(4, 1)),
    "vsock": made.vsock(1, 1, 0, (1, 1), (2, 2), 1, 1),
    "xdp": made.xdp(1, 1, attribute(1, bytes(8)), attribute(5, bytes(40)), made.skmem(8)),
    "tipc": made.tipc(made.u32(2, 5), attribute(3, made.u32(2, 1)), attribute(5, made.u32(0, 1))),
    "smc": made.smc(
        1, 0, (1, 2), ("::1", "::1"), 0, 1, 1, attribute(1, bytes(76)), attribute(2, bytes(147))
    ),
    "mptcp": inet("mptcp", 1, 1, attribute(2, bytes(96))),
    "sctp": inet("sctp", 1, 1, attribute(2, bytes(368)), attribute(13, made.storage("::1"))),
    "dccp": inet("dccp", 1, 1, attribute(2, bytes(104))),
    "raw": inet("raw", 7, 1),
    "udplite": inet("udplite", 7, 1),
}


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_a_message_cut_anywhere_is_a_row_or_counted(name: str) -> None:
    body = WHOLE[name]
    cuts = [body[:end] for end in range(len(body) + 1)]
    rows, framing, dump = decode([made.chunk(*cuts)], DECODERS[name]())
    assert framing.corrupt == 0
    assert len(rows) + dump.bad == len(cuts)
    assert dump.bad > 0
    assert len(rows) > 0


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_an_unknown_attribute_is_counted_and_harms_nothing(name: str) -> None:
    plain = rows_of(DECODERS[name](), WHOLE[name])
    rows, _, dump = decode([made.chunk(WHOLE[name] + UNKNOWN)], DECODERS[name]())
    assert [told(row) for row in rows] == plain
    assert dump.unknown == {"29": 1}


@given(st.sampled_from(sorted(DECODERS)), st.binary(max_size=700), st.integers(0, 80))
def test_arbitrary_bytes_give_a_row_with_sound_details_or_a_counted_fault(
    name: str, tail: bytes, head: int
) -> None:
    body = bytes(head) + tail
    rows, framing, dump = decode([made.chunk(body)], DECODERS[name]())
    assert framing.corrupt == 0
    assert len(rows) + dump.bad == 1
    for row in rows:
        told(row)


@given(st.sampled_from(sorted(DECODERS)), st.data())
def test_arbitrary_attributes_give_a_row_with_sound_details(name: str, data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.tuples(st.integers(0, 31), st.binary(max_size=300)), max_size=6))
    attributes = b"".join(attribute(kind, payload) for kind, payload in pieces)
    body = made.tipc(attributes) if name == "tipc" else _HEADS[name] + attributes
    rows, _, dump = decode([made.chunk(body, body)], DECODERS[name]())
    assert len(rows) + dump.bad == 2
    for row in rows:
        told(row)


_HEADS = {
    "packet": made.packet(3, 3, 1, 1),
    "netlink": made.netlink(0, 1, 1, 1),
    "vsock": WHOLE["vsock"],
    "xdp": made.xdp(1, 1),
    "smc": made.smc(1, 0, (1, 2), ("::1", "::1"), 0, 1, 1),
    **{netid: inet(netid, 1, 1) for netid in ("mptcp", "sctp", "dccp", "raw", "udplite")},
}


@pytest.mark.parametrize("name", ["packet", "netlink", "sctp"])
def test_lists_stay_with_their_rows_over_dumps_and_when_rows_are_dropped(name: str) -> None:
    def one(number: int) -> bytes:
        many = number % 3
        if name == "packet":
            entries = b"".join(made.membership(number, n, 0, b"") for n in range(many))
            return made.packet(3, 3, 1, number, attribute(1, entries))
        if name == "netlink":
            bits = sum(1 << number + n for n in range(many))
            return made.netlink(0, 1, 1, number, attribute(1, bits.to_bytes(16, "little")))
        entries = b"".join(made.storage(f"10.0.{number}.{n}") for n in range(many))
        return inet(name, 10, number, attribute(12, entries))

    decoder = DECODERS[name]()
    alone = {number: rows_of(decoder, one(number))[0] for number in range(1, 13)}
    decoder.columns.clear()
    for first in range(1, 13, 4):
        feed([made.chunk(*(one(number) for number in range(first, first + 4)))], decoder)
    assert [told(row) for row in decoded(decoder)] == list(alone.values())
    kept = np.array([0, 1, 4, 7, 10])
    decoder.keep(kept)
    assert [told(row) for row in decoded(decoder)] == [alone[n + 1] for n in kept.tolist()]
    assert rows_of(decoder, one(5)) == [alone[5]]


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_the_arrays_a_sampler_reads_are_there(name: str) -> None:
    decoder = DECODERS[name]()
    feed([made.chunk(WHOLE[name])], decoder)
    types = {
        key: decoder.columns[key].dtype.newbyteorder("=") for key in ("cookie", "inode", "uid")
    }
    assert types == {"cookie": np.uint64, "inode": np.uint32, "uid": np.uint32}
    if name in ("netlink", "vsock", "tipc", "xdp"):  # what tells no user must not seem root's
        assert decoder.columns["uid"].tolist() == [NO_UID]


# unix peers


def test_the_name_of_a_unix_peer_is_found_in_whatever_dump_it_was() -> None:
    def unix(inode: int, name: bytes | None, peer: int | None) -> bytes:
        head = struct.pack("=BBBBIQ", 1, 1, 1, 0, inode, inode)
        named = b"" if name is None else attribute(0, name)
        return head + named + (b"" if peer is None else made.u32(2, peer))

    decoder = unix_diag.UnixDiag()
    decoder.columns.clear()
    feed([made.chunk(unix(50, None, 40), unix(30, b"/a\0", 20), unix(7, b"\0b", 0))], decoder)
    feed(
        [made.chunk(unix(40, b"\0x\0y", 50), unix(20, None, 999), unix(0, b"/z\0", None))], decoder
    )
    rows = decoded(decoder)
    assert [row["local_addr"] for row in rows] == [None, "/a", "@b", "@x@y", None, "/z"]
    assert [row["peer_addr"] for row in rows] == ["@x@y", None, None, None, None, None]


def test_live_unix_sockets_know_their_peers_by_name() -> None:
    name = f"\0sockrec-{os.getpid()}-peer"
    with contextlib.ExitStack() as stack:
        listener, client = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        listener.bind(name)
        listener.listen()
        client.connect(name)
        accepted, _ = listener.accept()
        stack.enter_context(accepted)
        rows, dump = live(unix_diag.UnixDiag(), SOCK_DIAG_BY_FAMILY, unix_diag.request_all())
        found = {row["inode"]: row for row in rows}
        assert dump.outcome.name == "ok"
        assert found[os.fstat(client.fileno()).st_ino]["peer_addr"] == "@" + name[1:]
        assert found[os.fstat(accepted.fileno()).st_ino]["peer_addr"] is None
        assert found[os.fstat(listener.fileno()).st_ino]["local_addr"] == "@" + name[1:]


# live sockets of the other families


def cookie_of(one: socket.socket) -> int:
    """Return the identity of a socket as the kernel tells its owner."""
    return struct.unpack("=Q", one.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]  # type: ignore[no-any-return]


def rows_live(decoder: Any, request: bytes) -> list[Row]:
    """Return the rows of a live table."""
    rows, dump = live(decoder, SOCK_DIAG_BY_FAMILY, request)
    if dump.outcome.name == "unavailable":
        pytest.skip(f"needs a kernel that lists them ({dump.outcome.detail})")
    assert (dump.outcome.name, dump.unknown, dump.bad) == ("ok", {}, 0)
    return [told(row) for row in rows]


def found_live(decoder: Any, request: bytes) -> dict[object, Row]:
    """Return the rows of a live table by cookie."""
    return {row["cookie"]: row for row in rows_live(decoder, request)}


@needs_root
def test_live_packet_sockets_are_as_their_owner_made_them() -> None:
    loopback = socket.if_nametoindex("lo")
    accept_all = struct.pack("=HBBI", 6, 0, 0, 0xFFFF)
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw,
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as plain,
    ):
        raw.bind(("lo", 0x0806))
        raw.setsockopt(
            263, 1, struct.pack("=iHH8s", loopback, 0, 6, bytes.fromhex("01005e0000fb0000"))
        )
        buffer = np.frombuffer(bytearray(accept_all), np.uint8)
        program = struct.pack("=HxxxxxxQ", 1, buffer.ctypes.data)
        raw.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER
        rows = found_live(packet_diag.PacketDiag(), packet_diag.request_all())
        row, other = rows[cookie_of(raw)], rows[cookie_of(plain)]
        assert row["inode"] == os.fstat(raw.fileno()).st_ino
        assert (row["netid"], row["local_addr"], row["interface"]) == ("p_raw", "arp", loopback)
        assert row["rcvbuf"] == raw.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        details = row["details"]
        assert isinstance(details, dict)
        assert details["filter"] == "6 0 0 65535"
        assert [entry["addr"] for entry in details["mclist"]] == ["01:00:5e:00:00:fb"]
        assert (other["netid"], other["local_addr"]) == ("p_dgr", "[0]")
        assert "interface" not in other
        assert "filter" not in other["details"]  # type: ignore[operator]  # an object


def test_live_netlink_sockets_are_as_their_owner_made_them() -> None:
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as routes,
        socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15) as events,
    ):
        routes.bind((0, 1 << 0 | 1 << 4))
        routes.setsockopt(270, 1, 33)  # NETLINK_ADD_MEMBERSHIP: a group of the second word
        events.connect((0, 0))
        rows = rows_live(netlink_diag.NetlinkDiag(), netlink_diag.request_all())
        mine = [row for row in rows if row["cookie"] == cookie_of(routes)]
        (other,) = (row for row in rows if row["cookie"] == cookie_of(events))
        for row in mine:  # twice, as it has groups
            assert (row["local_addr"], row["local_id"]) == ("rtnl", routes.getsockname()[0])
            assert row["inode"] == os.fstat(routes.fileno()).st_ino
            assert row["details"]["groups"] == [1, 5, 33]  # type: ignore[index]  # an object
            assert "peer_id" not in row
        assert len(mine) == 2
        assert (other["local_addr"], other["peer_id"]) == ("uevent", 0)
        assert (other["local_id"], other["details"]["type"]) == (  # type: ignore[index]
            events.getsockname()[0],
            socket.SOCK_DGRAM,
        )


@contextlib.contextmanager
def mptcp_pair() -> Iterator[tuple[socket.socket, socket.socket, socket.socket]]:
    """Connect two MPTCP sockets over loopback; yield the listener, the client and its peer."""
    with contextlib.ExitStack() as stack:
        try:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
        except OSError as error:
            pytest.skip(f"needs MPTCP ({error})")
        stack.enter_context(listener)
        client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP))
        listener.bind(("127.0.0.1", 0))
        listener.listen(7)
        client.connect(listener.getsockname())
        accepted = stack.enter_context(listener.accept()[0])
        client.sendall(b"x" * 5000)
        left = 5000
        while left:
            left -= len(accepted.recv(left))
        yield listener, client, accepted


def test_live_mptcp_connections_have_their_counters_and_their_subflows() -> None:
    with mptcp_pair() as (listener, client, accepted):
        listed = rows_live(InetDiag("mptcp", release()), request_v2(socket.AF_INET, MPTCP))
        rows = {row["inode"]: row for row in listed}
        ours = (listener, client, accepted)
        waiting, mine, theirs = (rows[os.fstat(one.fileno()).st_ino] for one in ours)
        assert waiting["cookie"] == cookie_of(listener)
        assert [kernel_cookie(row) for row in (mine, theirs)] == [
            *(cookie_of(client), cookie_of(accepted)),
        ]
        assert len({row["cookie"] for row in (waiting, mine, theirs)}) == 3
        assert (waiting["netid"], waiting["state"], waiting["send_q"]) == ("mptcp", "LISTEN", 7)
        assert (mine["local_addr"], mine["local_port"]) == client.getsockname()
        assert (mine["peer_addr"], mine["peer_port"]) == client.getpeername()
        info = client.getsockopt(284, 1, 96)  # SOL_MPTCP, MPTCP_INFO
        details = mine["details"]
        assert isinstance(details, dict)
        (token,) = struct.unpack_from("=I", info, 12)
        assert details["token"] == token
        if len(info) >= 80:
            assert (mine["bytes_sent"], theirs["bytes_received"]) == (5000, 5000)
        fallback = details["flags"] & 1
        tcp, _ = live(
            InetDiag("tcp", release()),
            SOCK_DIAG_BY_FAMILY,
            request_v2(socket.AF_INET, socket.IPPROTO_TCP),
        )
        ends = {client.getsockname()[1], listener.getsockname()[1]}
        subflows = [row for row in tcp if {row["local_port"], row["peer_port"]} == ends]
        if os.geteuid() == 0 and not fallback:
            assert [row["subflow"] for row in subflows] == [True, True]
        with socket.create_server(("127.0.0.1", 0)) as plain:
            again, _ = live(
                InetDiag("tcp", release()),
                SOCK_DIAG_BY_FAMILY,
                request_v2(socket.AF_INET, socket.IPPROTO_TCP),
            )
            assert {row["cookie"]: row["subflow"] for row in again}[cookie_of(plain)] is False


# the names ss gives to protocols


def printed_by_ss(*options: str) -> list[list[str]]:
    """Return the words of each line of the installed ss."""
    if shutil.which("ss") is None:
        pytest.skip("needs ss (iproute2)")
    command = ["ss", "-a", "-e", "-H", "-O", *options]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return [line.split() for line in run.stdout.splitlines()]


@needs_root
def test_packet_protocols_have_the_names_ss_prints() -> None:
    numbers = [*range(1, 0x1A), 0x60, *range(0x200, 0x202), *range(0x800, 0x810), 0x8FF]
    numbers += [0xA00, 0xA01, *range(0x6000, 0x6008), 0x8035, 0x809B, 0x80F3, 0x8100, 0x8137]
    numbers += [0x86DD, 0x8863, 0x8864, 0x884C, 0x8884, 0x88CA, 0x88A2, 0xFFFF]
    with contextlib.ExitStack() as stack:
        inodes = {}
        for number in numbers:
            one = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(number))
            stack.enter_context(one)
            inodes[os.fstat(one.fileno()).st_ino] = number
        rows = found_live(packet_diag.PacketDiag(), packet_diag.request_all()).values()
        mine = {row["inode"]: row["local_addr"] for row in rows if row["inode"] in inodes}
        shown = {}
        for words in printed_by_ss("-0"):
            inode = next((int(w[4:]) for w in words if w.startswith("ino:")), None)
            name = next(word for word in words if ":" in word).rpartition(":")[0]
            if inode in inodes:
                shown[inode] = name
    assert len(shown) == len(numbers)
    assert mine == shown


def test_netlink_protocols_have_the_names_ss_prints() -> None:
    with contextlib.ExitStack() as stack:
        ports = {}
        for number in range(32):
            try:
                one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, number)
            except OSError:
                continue  # this kernel has no such protocol
            stack.enter_context(one)
            one.bind((0x70000000 + os.getpid() * 32 % 0xFFFFFF + number, 0))
            ports[one.getsockname()[0]] = number
        rows = rows_live(netlink_diag.NetlinkDiag(), netlink_diag.request_all())
        mine = {row["local_id"]: row["local_addr"] for row in rows if row["local_id"] in ports}
        shown = {}
        for words in printed_by_ss("-f", "netlink"):
            name, _, port = next(word for word in words if ":" in word).partition(":")
            if port.isdigit() and int(port) in ports:
                shown[int(port)] = name
    assert len(ports) > 4
    assert mine == shown
