"""Encoders of the messages of rare families, written from the kernel's headers.

Each returns the body of a netlink message: the struct of the family and its attributes. Fields are
named as in the header, without its prefix.

Layouts: include/uapi/linux/{packet_diag,netlink_diag,vm_sockets_diag,xdp_diag,tipc_netlink,
smc_diag,mptcp,sctp}.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence

from tests.recorder.support.messages import SOCK_DIAG_BY_FAMILY, attribute, message

SKMEM = dict(
    zip(
        "rmem_alloc rcvbuf wmem_alloc sndbuf fwd_alloc wmem_queued optmem backlog drops".split(),
        (11, 12, 13, 14, -932, 16, 17, 18, 19),
        strict=True,
    )
)
"""Distinct values of the SK_MEMINFO words, by column; SCTP's fwd_alloc was seen below zero."""


def chunk(*bodies: bytes) -> bytes:
    """Return one datagram of these messages."""
    return b"".join(message(SOCK_DIAG_BY_FAMILY, body, seq=1, portid=0) for body in bodies)


def skmem(kind: int) -> bytes:
    """Return the attribute that holds SKMEM."""
    return attribute(kind, struct.pack("=8iI", *SKMEM.values()))


def u32(kind: int, value: int) -> bytes:
    """Return an attribute that holds a number of 32 bits."""
    return attribute(kind, struct.pack("=I", value))


def packet(type_: int, num: int, inode: int, cookie: int, *attributes: bytes) -> bytes:
    """Return struct packet_diag_msg."""
    head = struct.pack("=BBHIQ", socket.AF_PACKET, type_, num, inode, cookie)
    return head + b"".join(attributes)


def packet_info(index: int, flags: int) -> bytes:
    """Return PACKET_DIAG_INFO with version 2, reserve 3, copy_thresh -1 and tstamp 5."""
    return attribute(0, struct.pack("=3Ii2I", index, 2, 3, -1, 5, flags))


def membership(index: int, count: int, type_: int, address: bytes) -> bytes:
    """Return struct packet_diag_mclist."""
    return struct.pack("=IIHH32s", index, count, type_, len(address), address)


def netlink(
    protocol: int,
    portid: int,
    inode: int,
    cookie: int,
    *attributes: bytes,
    connected_to: int | None = None,
    dst_group: int = 0,
) -> bytes:
    """Return struct netlink_diag_msg of a raw socket."""
    state, peer = (0, 0) if connected_to is None else (1, connected_to)
    head = struct.pack("=BBBBIIIIQ", 16, 3, protocol, state, portid, peer, dst_group, inode, cookie)
    return head + b"".join(attributes)


def vsock(
    type_: int,
    state: int,
    shutdown: int,
    src: tuple[int, int],
    dst: tuple[int, int],
    inode: int,
    cookie: int,
) -> bytes:
    """Return struct vsock_diag_msg; ``src`` and ``dst`` are CID and port."""
    return struct.pack("=BBBBIIIIIQ", 40, type_, state, shutdown, *src, *dst, inode, cookie)


def xdp(inode: int, cookie: int, *attributes: bytes) -> bytes:
    """Return struct xdp_diag_msg."""
    return struct.pack("=BBHIQ", 44, socket.SOCK_RAW, 0, inode, cookie) + b"".join(attributes)


def tipc(*attributes: bytes) -> bytes:
    """Return TIPC_NLA_SOCK, which is all that a message holds."""
    return attribute(2, b"".join(attributes))


def smc(
    state: int,
    mode: int,
    ports: tuple[int, int],
    addresses: tuple[str, str],
    uid: int,
    inode: int,
    cookie: int,
    *attributes: bytes,
    interface: int = 0,
) -> bytes:
    """Return struct smc_diag_msg, whose family is always AF_SMC."""
    six = ":" in addresses[0]
    packed = [socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, a) for a in addresses]
    head = struct.pack("=BBBB", 43, state, mode, 0) + struct.pack(">HH", *ports)
    head += struct.pack("=16s16sIQIQ", *packed, interface, cookie, uid, inode)
    return head + b"".join(attributes)


def mptcp_info(values: Mapping[str, int], length: int = 96) -> bytes:
    """Return the first bytes of struct mptcp_info."""
    return _fill(_MPTCP_INFO, values, 96)[:length]


def sctp_info(values: Mapping[str, int], primary: str, length: int = 368) -> bytes:
    """Return the first bytes of struct sctp_info; ``primary`` is its address."""
    whole = bytearray(_fill(_SCTP_INFO, values, 368))
    whole[168:296] = storage(primary)
    return bytes(whole[:length])


def storage(address: str, port: int = 7) -> bytes:
    """Return struct sockaddr_storage."""
    if ":" in address:
        head = struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", port, 0)
        return (head + socket.inet_pton(socket.AF_INET6, address)).ljust(128, b"\0")
    head = struct.pack("=H", socket.AF_INET) + struct.pack(">H", port)
    return (head + socket.inet_aton(address)).ljust(128, b"\0")


def conninfo(values: Mapping[str, int]) -> bytes:
    """Return struct smc_diag_conninfo."""
    return _fill(_CONNINFO, values, 76)


def _fill(fields: Sequence[tuple[int, str, str]], values: Mapping[str, int], size: int) -> bytes:
    buffer = bytearray(size)
    known = {name for _, _, name in fields}
    assert values.keys() <= known, values.keys() - known
    for offset, code, name in fields:
        struct.pack_into("=" + code, buffer, offset, values.get(name, 0))
    return bytes(buffer)


def _run(offset: int, code: str, names: str) -> list[tuple[int, str, str]]:
    size = struct.calcsize("=" + code)
    return [(offset + n * size, code, name) for n, name in enumerate(names.split())]


_MPTCP_INFO = [
    *_run(0, "B", "subflows add_addr_signal add_addr_accepted subflows_max add_addr_signal_max"),
    *_run(5, "B", "add_addr_accepted_max"),
    *_run(8, "I", "flags token"),
    *_run(16, "Q", "write_seq snd_una rcv_nxt"),
    *_run(40, "B", "local_addr_used local_addr_max csum_enabled"),
    *_run(44, "I", "retransmits"),
    *_run(48, "Q", "bytes_retrans bytes_sent bytes_received bytes_acked"),
    *_run(80, "B", "subflows_total endp_laminar_max endp_fullmesh_max"),
    *_run(84, "I", "last_data_sent last_data_recv last_ack_recv"),
]
MPTCP_NAMES = [name for _, _, name in _MPTCP_INFO]

_SCTP_INFO = [
    *_run(0, "I", "tag state rwnd"),
    *_run(12, "H", "unackdata penddata instrms outstrms"),
    *_run(20, "I", "fragmentation_point inqueue outqueue overall_error max_burst maxseg"),
    *_run(44, "I", "peer_rwnd peer_tag"),
    *_run(52, "B", "peer_capable peer_sack"),
    *_run(56, "Q", "isacks osacks opackets ipackets rtxchunks outofseqtsns idupchunks gapcnt"),
    *_run(120, "Q", "ouodchunks iuodchunks oodchunks iodchunks octrlchunks ictrlchunks"),
    *_run(296, "i", "p_state"),
    *_run(300, "I", "p_cwnd p_srtt p_rto p_hbinterval p_pathmaxrxt p_sackdelay p_sackfreq"),
    *_run(328, "I", "p_ssthresh p_partial_bytes_acked p_flight_size"),
    *_run(340, "H", "p_error"),
    *_run(344, "I", "s_autoclose s_adaptation_ind s_pd_point"),
    *_run(356, "B", "s_nodelay s_disable_fragments s_v4mapped s_frag_interleave"),
    *_run(360, "I", "s_type"),
]
SCTP_NAMES = [name for _, _, name in _SCTP_INFO]

_CONNINFO = [
    *_run(0, "I", "token sndbuf_size rmbe_size peer_rmbe_size"),
    *(
        field
        for offset, name in (
            *((16, "rx_prod"), (24, "rx_cons"), (32, "tx_prod"), (40, "tx_cons")),
            *((52, "tx_prep"), (60, "tx_sent"), (68, "tx_fin")),
        )
        for field in ((offset + 2, "H", f"{name}_wrap"), (offset + 4, "I", f"{name}_count"))
    ),
    *_run(48, "B", "rx_prod_flags rx_conn_state_flags tx_prod_flags tx_conn_state_flags"),
]
CONNINFO_NAMES = [name for _, _, name in _CONNINFO]
