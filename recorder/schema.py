"""The contract between recorder and analyzer: tables, columns, types, units, one sentence each.

A column has two Arrow types. In a *journal* it keeps the kernel's width (``u32``), which halves
what a sample costs to write; in a sealed *segment*, and in every view, integers are signed
(``int64``), because differences of unsigned counters fail in DuckDB and turn into decimals in
Spark. ``public_schema`` and ``journal_schema`` give the two forms. A segment has moments in place
of ages, which ``segment_schema`` gives.

A column never changes its type or meaning: a new name is added and VERSION raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 2
"""Version of the recording format: directory, journals, segments and every table below."""

RECORDING_FILE = "recording.json"
JOURNAL_SUFFIX = ".arrows"
SEGMENT_SUFFIX = ".parquet"
METADATA_PREFIX = "sockrec."
"""Keys of the key-value metadata of every segment start with this."""


class SockrecError(Exception):
    """A failure that one line explains: what failed, where, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column; ``kind`` is a key of KINDS, ``unit`` is empty where none fits.

    ``share`` is a key of SHARES: what is handed over of it unless its owner says otherwise.
    """

    name: str
    kind: str
    share: str
    doc: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the recording; ``order`` names the columns a segment is sorted by."""

    name: str
    doc: str
    order: tuple[str, ...]
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column:
        """Return the column of that name; KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


SHARES: dict[str, str] = {
    "keep": "as it is: numbers, and words of the kernel or of the recorder",
    "address": "addresses by their class, names of unix sockets as paths",
    "name": "names by their class; well-known ones stay",
    "path": "numbered; well-known ones stay",
    "text": "free text and JSON: what is known to tell nothing stays, the rest goes",
    "drop": "nothing: NULL",
}
"""How a column is redacted before it is handed over. It has no default: a new column must say."""

# kind -> (type in a journal, type in a segment or view, type as DuckDB and Spark name it)
KINDS: dict[str, tuple[str, str, str]] = {
    "u8": ("uint8", "int16", "SMALLINT"),
    "u16": ("uint16", "int32", "INTEGER"),
    "u32": ("uint32", "int64", "BIGINT"),
    "u64": ("uint64", "int64", "BIGINT"),
    "s32": ("int32", "int64", "BIGINT"),  # what the kernel has as int and its header as __u32
    "i32": ("int32", "int32", "INTEGER"),
    "i64": ("int64", "int64", "BIGINT"),
    "flag": ("uint8", "bool", "BOOLEAN"),
    "time": ("timestamp[us]", "timestamp[us]", "TIMESTAMP"),
    "word": ("dictionary<int8>", "string", "VARCHAR"),
    "text": ("dictionary<int32>", "string", "VARCHAR"),
}


def _columns(
    *rows: tuple[str, str, str, str] | tuple[str, str, str, str, str],
) -> tuple[Column, ...]:
    """Return columns of name, kind, share, unit where one fits, and sentence."""
    return tuple(
        Column(name, kind, share, rest[-1], rest[0] if len(rest) == 2 else "")
        for name, kind, share, *rest in rows
    )


_SAMPLE = _columns(
    ("sample", "u32", "keep", "Number of the sample in this recording, from 0."),
    (
        "sample_time",
        "time",
        "keep",
        "UTC",
        "When the sample was begun; one value for all its rows.",
    ),
    ("netns", "u64", "keep", "Inode number of the network namespace."),
)

_SOCKET = _columns(
    (
        "family",
        "word",
        "keep",
        "Address family: inet, inet6, unix, packet, netlink, vsock, xdp, tipc or smc.",
    ),
    (
        "netid",
        "word",
        "keep",
        "Kind of socket as ss prints it: tcp, udp, mptcp, raw, sctp, dccp, u_str, u_seq, u_dgr, "
        "p_raw, p_dgr, nl, v_str, v_dgr, v_seq, xdp, ti_st, ti_dg, ti_rd, ti_sq; and ping, "
        "udplite and smc, which ss does not show.",
    ),
    (
        "state",
        "word",
        "keep",
        "State as ss prints it: ESTAB, LISTEN, TIME-WAIT, UNCONN and so on; SCTP associations, "
        "DCCP and SMC have words of their own.",
    ),
    (
        "recv_q",
        "u32",
        "keep",
        "bytes",
        "Recv-Q as ss shows it; for a listener the connections waiting to be accepted.",
    ),
    ("send_q", "u32", "keep", "bytes", "Send-Q as ss shows it; for a listener the backlog."),
    (
        "local_addr",
        "text",
        "address",
        "Local address; of a unix socket its name, with @ for each NUL, of a packet socket its "
        "protocol, of a netlink socket its protocol, of a vsock its CID.",
    ),
    (
        "local_port",
        "u16",
        "keep",
        "Local port; of a raw socket the IP protocol, of a ping socket its identifier.",
    ),
    ("peer_addr", "text", "address", "Peer address; of a unix socket the name of its peer."),
    ("peer_port", "u16", "keep", "Peer port; NULL where there are no ports."),
    (
        "local_id",
        "u32",
        "keep",
        "Local number of more than 16 bits: netlink port id, vsock or TIPC port.",
    ),
    ("peer_id", "u32", "keep", "Number of the peer of more than 16 bits, like local_id."),
    (
        "interface",
        "u32",
        "keep",
        "Index of the interface the socket is bound to; NULL if to none. Of a packet socket whose "
        "interface is gone the kernel says -1, which is 4294967295 here.",
    ),
    ("dev", "text", "name", "Name of that interface in the socket's namespace."),
    (
        "timer",
        "word",
        "keep",
        "Running timer as ss names it: on, keepalive, timewait, persist, delack, T3_RTX.",
    ),
    ("expires_ms", "u32", "keep", "ms", "Time until the timer fires; NULL if none runs."),
    (
        "retrans",
        "u8",
        "keep",
        "Retransmissions or probes the running timer has sent (idiag_retrans).",
    ),
    ("uid", "u32", "keep", "Owner of the socket as the recorder's user namespace sees it."),
    ("user", "text", "name", "Name of that user on the recorder's host."),
    (
        "inode",
        "u32",
        "keep",
        "Inode; 0 for TIME-WAIT, SYN-RECV, orphans and unaccepted connections.",
    ),
    (
        "cookie",
        "u64",
        "keep",
        "Identity of the socket on this boot, the key together with netns. Negative where the "
        "kernel tells none of its own: in /proc it is made of the inode, its lower half; an SCTP "
        "association and an MPTCP connection may share that of their listener, so theirs is made "
        "of it and of their ends, and the kernel's is in details.",
    ),
)

_OWNER = _columns(
    (
        "pid",
        "i32",
        "keep",
        "Process that holds the socket, the oldest of several; NULL if unknown.",
    ),
    (
        "start_us",
        "i64",
        "keep",
        "us",
        "Start of that process after boot; pid and start are its identity.",
    ),
    ("comm", "text", "name", "Name of that process."),
    ("fd", "i32", "keep", "Lowest descriptor by which that process holds the socket."),
    ("holders", "i32", "keep", "How many processes hold the socket; NULL if unknown."),
    ("owner_time", "time", "keep", "UTC", "When the descriptors of that process were last read."),
    (
        "owner_by",
        "word",
        "keep",
        "How the owner is known: fd (a descriptor of it), carried (it held the socket when it "
        "was last seen with an inode), listener (it listens on the local port), kernel (the kernel "
        "made it for itself: no process can hold it); NULL if unknown.",
    ),
)

ATTRIBUTES = _columns(
    ("rmem", "s32", "keep", "bytes", "INET_DIAG_MEMINFO: receive memory allocated."),
    ("wmem", "s32", "keep", "bytes", "INET_DIAG_MEMINFO: send memory queued."),
    ("fmem", "s32", "keep", "bytes", "INET_DIAG_MEMINFO: memory allocated ahead, as fwd_alloc."),
    ("tmem", "s32", "keep", "bytes", "INET_DIAG_MEMINFO: send memory allocated."),
    ("rmem_alloc", "s32", "keep", "bytes", "skmem r: memory of queued incoming data."),
    ("rcvbuf", "s32", "keep", "bytes", "skmem rb: limit of rmem_alloc."),
    ("wmem_alloc", "s32", "keep", "bytes", "skmem t: memory of data handed to the lower layers."),
    ("sndbuf", "s32", "keep", "bytes", "skmem tb: limit of the send memory."),
    (
        "fwd_alloc",
        "s32",
        "keep",
        "bytes",
        "skmem f: memory reserved and not yet used; below zero where more is used, as of SCTP.",
    ),
    ("wmem_queued", "s32", "keep", "bytes", "skmem w: memory of queued outgoing data."),
    ("optmem", "s32", "keep", "bytes", "skmem o: memory of socket options such as filters."),
    ("backlog", "s32", "keep", "bytes", "skmem bl: memory of packets not yet processed."),
    (
        "drops",
        "u32",
        "keep",
        "packets",
        "skmem d: packets dropped at this socket; for a listener its own ListenDrops.",
    ),
    ("tos", "u8", "keep", "IPv4 type of service (INET_DIAG_TOS)."),
    ("tclass", "u8", "keep", "IPv6 traffic class (INET_DIAG_TCLASS)."),
    ("class_id", "u32", "keep", "net_cls class, or the socket's priority (INET_DIAG_CLASS_ID)."),
    ("shutdown", "u8", "keep", "Bits of shut directions: 1 receive, 2 send."),
    ("v6only", "flag", "keep", "IPv6 socket that takes no IPv4 (INET_DIAG_SKV6ONLY)."),
    (
        "protocol",
        "u8",
        "keep",
        "IP protocol of a raw socket or a close event (INET_DIAG_PROTOCOL).",
    ),
    ("mark", "u32", "keep", "Firewall mark; NULL without CAP_NET_ADMIN (INET_DIAG_MARK)."),
    ("cgroup_id", "u64", "keep", "Identity of the cgroup v2 (INET_DIAG_CGROUP_ID)."),
    (
        "sockopt",
        "u16",
        "keep",
        "Bits: 1 recverr, 2 is_icsk, 4 freebind, 8 hdrincl, 16 mc_loop, 32 transparent, "
        "64 mc_all, 128 nodefrag, 256 bind_address_no_port, 512 recverr_rfc4884, "
        "1024 defer_connect (INET_DIAG_SOCKOPT).",
    ),
    (
        "md5_keys",
        "u16",
        "keep",
        "keys",
        "Number of TCP-MD5 keys; the keys themselves are never recorded.",
    ),
    ("cong", "text", "keep", "Congestion control algorithm."),
    ("vegas_enabled", "u32", "keep", "Whether Vegas is in use."),
    ("vegas_rttcnt", "u32", "keep", "Vegas: round trips measured in this window."),
    ("vegas_rtt_us", "u32", "keep", "us", "Vegas: round-trip time."),
    ("vegas_minrtt_us", "u32", "keep", "us", "Vegas: smallest round-trip time."),
    ("dctcp_enabled", "u16", "keep", "Whether DCTCP is in use."),
    ("dctcp_ce_state", "u16", "keep", "DCTCP: whether the last packet was marked."),
    ("dctcp_alpha", "u32", "keep", "DCTCP: estimate of the marked share, 1024 = all."),
    ("dctcp_ab_ecn", "u32", "keep", "bytes", "DCTCP: bytes acknowledged with the mark."),
    ("dctcp_ab_tot", "u32", "keep", "bytes", "DCTCP: bytes acknowledged."),
    ("bbr_bw", "u64", "keep", "bytes/s", "BBR: estimate of the bottleneck bandwidth."),
    ("bbr_min_rtt_us", "u32", "keep", "us", "BBR: smallest round-trip time."),
    ("bbr_pacing_gain", "u32", "keep", "1/256", "BBR: pacing gain."),
    ("bbr_cwnd_gain", "u32", "keep", "1/256", "BBR: congestion window gain."),
    ("ulp", "text", "keep", "Upper layer protocol: tls, mptcp, espintcp, smc."),
    ("tls_version", "u16", "keep", "TLS version: 771 is 1.2, 772 is 1.3."),
    ("tls_cipher", "u16", "keep", "TLS cipher as in linux/tls.h."),
    ("tls_txconf", "u16", "keep", "TLS sender: 1 base, 2 software, 3 device, 4 device record."),
    ("tls_rxconf", "u16", "keep", "TLS receiver: 1 base, 2 software, 3 device, 4 device record."),
    ("tls_zc_ro_tx", "flag", "keep", "TLS: zero-copy sendfile of read-only data."),
    ("tls_rx_no_pad", "flag", "keep", "TLS: receiver expects no padding."),
    ("tls_tx_max_payload_len", "u16", "keep", "bytes", "TLS: largest payload of a record sent."),
    ("mptcp_token_rem", "u32", "drop", "MPTCP subflow: token of the peer."),
    ("mptcp_token_loc", "u32", "drop", "MPTCP subflow: own token."),
    ("mptcp_relwrite_seq", "u32", "keep", "MPTCP subflow: relative write sequence."),
    ("mptcp_map_seq", "u64", "keep", "MPTCP subflow: sequence of the current mapping."),
    ("mptcp_map_sfseq", "u32", "keep", "MPTCP subflow: subflow sequence of the current mapping."),
    ("mptcp_ssn_offset", "u32", "keep", "MPTCP subflow: offset of the subflow sequence."),
    ("mptcp_map_datalen", "u16", "keep", "bytes", "MPTCP subflow: length of the current mapping."),
    ("mptcp_flags", "u32", "keep", "MPTCP subflow: MPTCP_SUBFLOW_FLAG bits."),
    ("mptcp_id_rem", "u8", "keep", "MPTCP subflow: address identifier of the peer."),
    ("mptcp_id_loc", "u8", "keep", "MPTCP subflow: own address identifier."),
    (
        "peer_inode",
        "u32",
        "keep",
        "unix: inode of the connected peer, 0 if it is not yet accepted.",
    ),
    ("vfs_inode", "u32", "keep", "unix: inode of the bound path in its file system."),
    (
        "vfs_dev",
        "u32",
        "keep",
        "unix: device of the bound path; major is dev >> 20, minor dev & 1048575.",
    ),
    ("icons", "text", "keep", "unix listener: inodes of the clients waiting, comma separated."),
    ("cgroup", "text", "path", "Path of the cgroup v2 that cgroup_id names; NULL if it is gone."),
    (
        "subflow",
        "flag",
        "keep",
        "TCP socket of an MPTCP connection, which has a row of its own: do not count it twice. "
        "NULL where the kernel does not tell, as in TIME-WAIT.",
    ),
    (
        "details",
        "text",
        "text",
        "JSON object of what only this kind of socket has, in the names of its kernel header: "
        "mptcp_info, sctp_info, packet rings, netlink groups, xdp and TIPC statistics.",
    ),
)

TCP_INFO = _columns(
    ("tcpi_state", "u8", "keep", "State of the kernel's socket as a number (tcpi_state)."),
    ("ca_state", "u8", "keep", "0 Open, 1 Disorder, 2 CWR, 3 Recovery, 4 Loss."),
    ("retransmits", "u8", "keep", "count", "Timeouts of the segment now retransmitted."),
    ("probes", "u8", "keep", "count", "Window or keepalive probes unanswered."),
    ("backoff", "u8", "keep", "count", "Exponent by which the timeout was raised."),
    (
        "options",
        "u8",
        "keep",
        "Bits: 1 timestamps, 2 SACK, 4 window scale, 8 ECN, 16 ECN seen, 32 SYN data, "
        "64 usec timestamps, 128 TFO child.",
    ),
    ("snd_wscale", "u8", "keep", "Window scale of the peer; meaningful if options has bit 4."),
    ("rcv_wscale", "u8", "keep", "Own window scale; meaningful if options has bit 4."),
    ("delivery_rate_app_limited", "flag", "keep", "delivery_rate was limited by the application."),
    (
        "fastopen_client_fail",
        "u8",
        "keep",
        "Why TCP Fast Open failed: 0 not, 1 no cookie, 2 or 3 loss.",
    ),
    ("rto_us", "u32", "keep", "us", "Retransmission timeout."),
    ("ato_us", "u32", "keep", "us", "Delayed acknowledgement timeout."),
    ("snd_mss", "u32", "keep", "bytes", "Segment size to send."),
    ("rcv_mss", "u32", "keep", "bytes", "Segment size received."),
    (
        "unacked",
        "u32",
        "keep",
        "packets",
        "Sent, not acknowledged; for a listener the accept queue.",
    ),
    ("sacked", "u32", "keep", "packets", "Selectively acknowledged; for a listener the backlog."),
    ("lost", "u32", "keep", "packets", "Thought lost."),
    ("tcpi_retrans", "u32", "keep", "packets", "Retransmitted and in flight (tcpi_retrans)."),
    ("fackets", "u32", "keep", "packets", "Forward acknowledged; 0 since Linux 4.15."),
    ("last_data_sent_ms", "u32", "keep", "ms", "Time since data was last sent."),
    ("last_ack_sent_ms", "u32", "keep", "ms", "Always 0."),
    ("last_data_recv_ms", "u32", "keep", "ms", "Time since data was last received."),
    ("last_ack_recv_ms", "u32", "keep", "ms", "Time since an acknowledgement was last received."),
    ("pmtu", "u32", "keep", "bytes", "Path MTU."),
    ("rcv_ssthresh", "u32", "keep", "bytes", "Current window clamp of the receiver."),
    ("rtt_us", "u32", "keep", "us", "Smoothed round-trip time."),
    ("rttvar_us", "u32", "keep", "us", "Mean deviation of the round-trip time."),
    ("snd_ssthresh", "u32", "keep", "packets", "Slow start threshold; 2147483647 is none."),
    ("snd_cwnd", "u32", "keep", "packets", "Congestion window."),
    ("advmss", "u32", "keep", "bytes", "Segment size advertised."),
    ("reordering", "u32", "keep", "packets", "Reordering expected."),
    ("rcv_rtt_us", "u32", "keep", "us", "Round-trip time as the receiver estimates it."),
    ("rcv_space", "u32", "keep", "bytes", "Receive buffer space for automatic tuning."),
    ("total_retrans", "u32", "keep", "packets", "Retransmitted over the whole life."),
    ("pacing_rate", "u64", "keep", "bytes/s", "Pacing rate; NULL if unlimited."),
    ("max_pacing_rate", "u64", "keep", "bytes/s", "Limit of the pacing rate; NULL if unlimited."),
    (
        "bytes_acked",
        "u64",
        "keep",
        "bytes",
        "Acknowledged by the peer; SYN and FIN count one each.",
    ),
    ("bytes_received", "u64", "keep", "bytes", "Received in order."),
    ("segs_out", "u32", "keep", "segments", "Sent."),
    ("segs_in", "u32", "keep", "segments", "Received."),
    ("notsent_bytes", "u32", "keep", "bytes", "In the send queue and never sent."),
    ("min_rtt_us", "u32", "keep", "us", "Smallest round-trip time of late; NULL if not measured."),
    ("data_segs_in", "u32", "keep", "segments", "Received with data."),
    ("data_segs_out", "u32", "keep", "segments", "Sent with data."),
    ("delivery_rate", "u64", "keep", "bytes/s", "Rate of the latest delivery."),
    ("busy_time_us", "u64", "keep", "us", "Time with data in flight or queued."),
    ("rwnd_limited_us", "u64", "keep", "us", "Time held up by the peer's receive window."),
    ("sndbuf_limited_us", "u64", "keep", "us", "Time held up by the own send buffer."),
    ("delivered", "u32", "keep", "packets", "Delivered, retransmissions included."),
    ("delivered_ce", "u32", "keep", "packets", "Delivered with a congestion mark."),
    ("bytes_sent", "u64", "keep", "bytes", "Sent, retransmissions included."),
    ("bytes_retrans", "u64", "keep", "bytes", "Retransmitted."),
    ("dsack_dups", "u32", "keep", "count", "Duplicate reports received."),
    ("reord_seen", "u32", "keep", "count", "Reordering events."),
    ("rcv_ooopack", "u32", "keep", "packets", "Received out of order."),
    ("snd_wnd", "u32", "keep", "bytes", "Window the peer advertises."),
    ("rcv_wnd", "u32", "keep", "bytes", "Window advertised to the peer."),
    ("rehash", "u32", "keep", "count", "PLB or timeout triggered changes of the flow hash."),
    ("total_rto", "u16", "keep", "count", "Retransmission timeouts, SYN included."),
    ("total_rto_recoveries", "u16", "keep", "count", "Timeout recoveries, unfinished included."),
    (
        "total_rto_time_ms",
        "u32",
        "keep",
        "ms",
        "Time spent in timeout recoveries, unfinished included.",
    ),
    ("received_ce", "u32", "keep", "packets", "Received with a congestion mark."),
    ("delivered_e1_bytes", "u32", "keep", "bytes", "AccECN: delivered with ECT(1)."),
    ("delivered_e0_bytes", "u32", "keep", "bytes", "AccECN: delivered with ECT(0)."),
    ("delivered_ce_bytes", "u32", "keep", "bytes", "AccECN: delivered with CE."),
    ("received_e1_bytes", "u32", "keep", "bytes", "AccECN: received with ECT(1)."),
    ("received_e0_bytes", "u32", "keep", "bytes", "AccECN: received with ECT(0)."),
    ("received_ce_bytes", "u32", "keep", "bytes", "AccECN: received with CE."),
    ("ecn_mode", "u8", "keep", "ECN mode negotiated; NULL before Linux 7.0."),
    ("accecn_opt_seen", "u16", "keep", "AccECN: state of the option as received."),
    ("accecn_fail_mode", "u16", "keep", "AccECN: bits of what failed."),
    ("options2", "u32", "keep", "Further option bits; NULL before Linux 7.0."),
)

SOCKETS = Table(
    "sockets",
    "One row per socket per sample, in ss's words, with every field the kernel gave.",
    ("netns", "cookie", "sample"),
    _SAMPLE + _SOCKET + _OWNER + ATTRIBUTES + TCP_INFO,
)

AGES = ("expires_ms", "last_data_sent_ms", "last_data_recv_ms", "last_ack_recv_ms")
"""Columns of sockets that a segment does not have: views make them of MOMENTS."""

MOMENTS = _columns(
    (
        "read_ms",
        "i32",
        "keep",
        "ms",
        "How long after sample_time, in whole ms, the socket was read, counted from where the "
        "columns below are as they are now; NULL if it has neither last_ack_recv_ms nor a timer. "
        "'Now' is sample_time and this, from 1970 on.",
    ),
    (
        "ack_recv_at_ms",
        "i64",
        "keep",
        "ms",
        "When an acknowledgement was last received: last_ack_recv_ms is now less this.",
    ),
    (
        "data_sent_to_ack_ms",
        "i64",
        "keep",
        "ms",
        "last_data_sent_ms less last_ack_recv_ms, which is taken for 0 if it is NULL.",
    ),
    (
        "data_recv_to_ack_ms",
        "i64",
        "keep",
        "ms",
        "last_data_recv_ms less last_ack_recv_ms, likewise.",
    ),
    ("expires_at_ms", "i64", "keep", "ms", "When the timer fires: expires_ms is this less now."),
)
"""Columns of sockets that only a segment has: they change when something happens."""

SAMPLES = Table(
    "samples",
    "One row per sample, namespace and step (a kernel table, or the owners): what was done, "
    "how long it took and what went wrong.",
    ("sample", "netns", "t0"),
    _SAMPLE[:2]
    + _columns(
        (
            "netns",
            "u64",
            "keep",
            "Inode number of the network namespace; 0 for a step about the host.",
        ),
        (
            "step",
            "word",
            "keep",
            "What was read: a kernel table (tcp, udp, udp6, mptcp, unix, packet, netlink …), "
            "owners, processes, counters, closes, namespaces, network, conntrack; all: every table "
            "of a namespace without sockets.",
        ),
        (
            "source",
            "word",
            "keep",
            "How: diag (sock_diag) or proc (/proc); log (what ss or netstat printed) or dump (what "
            "ss -D wrote) if it was imported; NULL if not at all.",
        ),
        ("boottime_us", "i64", "keep", "us", "CLOCK_BOOTTIME when the sample was begun."),
        ("t0", "time", "keep", "UTC", "When the step was begun."),
        ("t1", "time", "keep", "UTC", "When the step was done."),
        ("cpu_us", "i64", "keep", "us", "CPU time the recorder spent on the step."),
        (
            "rows",
            "i64",
            "keep",
            "rows",
            "Sockets recorded; owners: processes known; processes: those looked at; closes: "
            "events; counters: values that changed; namespaces: those on the host; network: "
            "namespaces looked at.",
        ),
        ("bytes", "i64", "keep", "bytes", "Received from the kernel."),
        (
            "outcome",
            "word",
            "keep",
            "ok, or why rows may be missing: unavailable (no handler), busy, truncated, corrupt, "
            "error, partial (owners: unresolved or denied; processes: left out; closes: lost), "
            "skipped_empty (the "
            "kernel counts no socket of this kind in the namespace), rotated (its turn comes in "
            "a later sample, as all namespaces together cost too much).",
        ),
        ("errno", "i32", "keep", "Error number of the kernel; NULL if it gave none."),
        ("detail", "text", "text", "What went wrong, in one sentence; NULL if nothing."),
        (
            "repeated",
            "i64",
            "keep",
            "rows",
            "Sockets the kernel gave twice in this dump, recorded once.",
        ),
        (
            "unresolved",
            "i64",
            "keep",
            "inodes",
            "owners: inodes no process was found for, but for the kernel's own.",
        ),
        (
            "denied",
            "i64",
            "keep",
            "processes",
            "owners: processes whose descriptors may not be read.",
        ),
        (
            "left_out",
            "i64",
            "keep",
            "processes",
            "processes, network (namespaces): those not looked at, for want of time; their turn "
            "comes next.",
        ),
        (
            "tables_read",
            "i64",
            "keep",
            "processes",
            "owners: processes whose descriptors were read.",
        ),
        (
            "opened",
            "i64",
            "keep",
            "connections",
            "TCP connections first seen: tcp, open ones in this dump; closes, ones that no dump "
            "had shown. No connection is counted twice.",
        ),
        (
            "lost",
            "i64",
            "keep",
            "events",
            "closes: events the kernel dropped as the buffer was full.",
        ),
        ("late_us", "i64", "keep", "us", "How long after its due time the sample was begun."),
        ("skipped", "i64", "keep", "samples", "Due samples left out before this one."),
    ),
)

OWNERS = Table(
    "owners",
    "One row when a socket-holding process appears or changes its description, and one more, "
    "with valid_to set, when that ends.",
    ("pid", "start_us", "valid_from"),
    _columns(
        ("sample", "u32", "keep", "Number of the sample that wrote the row."),
        ("sample_time", "time", "keep", "UTC", "Time of the sample that wrote the row."),
        ("pid", "i32", "keep", "Process number in the recorder's namespace."),
        ("start_us", "i64", "keep", "us", "Start of the process after boot."),
        ("comm", "text", "name", "Name of the process."),
        ("cmdline", "text", "drop", "Command line, blanks between the arguments, 4 KiB at most."),
        ("exe", "text", "path", "Path of the executable; NULL if not readable."),
        ("uid", "u32", "keep", "User of the process; NULL if not readable."),
        ("user", "text", "name", "Name of that user."),
        (
            "fd_limit",
            "i64",
            "keep",
            "descriptors",
            "Soft limit of its open descriptors (RLIMIT_NOFILE) when it was described; NULL if not "
            "readable.",
        ),
        (
            "cgroup",
            "text",
            "path",
            "Cgroup of the process: of v2, or where v1 is used of the hierarchy that names its "
            "container, else of systemd's own.",
        ),
        ("unit", "text", "name", "systemd unit, by the cgroup."),
        ("slice", "text", "name", "systemd slice, by the cgroup."),
        ("runtime", "text", "keep", "Container runtime, by the cgroup."),
        ("container", "text", "name", "Identity of the container, by the cgroup."),
        ("pod", "text", "name", "Identity of the Kubernetes pod, by the cgroup."),
        ("valid_from", "time", "keep", "UTC", "Sample from which the description holds."),
        (
            "valid_to",
            "time",
            "keep",
            "UTC",
            "Sample at which it no longer held; NULL while it holds.",
        ),
    ),
)

PROCESSES = Table(
    "processes",
    "What processes that hold sockets were doing: one row each when it is first looked at, and one "
    "more whenever something differs from its row before. CPU time of less than 50 ms and memory "
    "of less than a tenth are no difference. What a row says holds until the next of the process.",
    ("pid", "start_us", "sample"),
    _SAMPLE[:2]
    + _columns(
        ("pid", "i32", "keep", "Process number in the recorder's namespace."),
        ("start_us", "i64", "keep", "us", "Start of the process after boot."),
        ("comm", "text", "name", "Name of the process."),
        (
            "since",
            "time",
            "keep",
            "UTC",
            "Sample that looked at it before this one: so long its row before held. NULL if this "
            "is the first look at it.",
        ),
        (
            "state",
            "word",
            "keep",
            "State of its first thread: R running or ready, S asleep, D asleep and not to be woken "
            "by a signal, T stopped by a signal, t stopped by a tracer, Z ended.",
        ),
        ("threads", "i32", "keep", "threads", "Its threads."),
        ("utime_us", "i64", "keep", "us", "CPU time of all its threads in user mode so far."),
        ("stime_us", "i64", "keep", "us", "CPU time of all its threads in the kernel so far."),
        ("rss_bytes", "i64", "keep", "bytes", "Its resident memory."),
        (
            "fds",
            "i64",
            "keep",
            "descriptors",
            "All its open descriptors, files and pipes too; NULL if they may not be counted.",
        ),
        (
            "fd_limit",
            "i64",
            "keep",
            "descriptors",
            "Soft limit of its open descriptors (RLIMIT_NOFILE); NULL if not readable.",
        ),
        (
            "busiest",
            "i32",
            "keep",
            "Thread that used most CPU time since the look before, of several; NULL if all "
            "together used less than seven tenths of a core, or the look before did not tell.",
        ),
        ("busiest_comm", "text", "name", "Name of that thread."),
        ("busiest_us", "i64", "keep", "us", "CPU time of that thread since the look before."),
        (
            "running",
            "i32",
            "keep",
            "threads",
            "Its threads that ran or were ready to; NULL unless something waited at a socket of it "
            "to be read or accepted, as of all that follow up to wchan.",
        ),
        ("blocked", "i32", "keep", "threads", "Its threads in state D."),
        (
            "syscall",
            "text",
            "keep",
            "System call that most of its threads waited in, its number if it is none that usually "
            "waits; NULL if it may not be read.",
        ),
        ("syscall_threads", "i32", "keep", "threads", "How many of its threads waited in that."),
        (
            "wchan",
            "text",
            "keep",
            "Function of the kernel in which one of these waited, or a thread in state D if there "
            "was any.",
        ),
        (
            "cpu_limit_us",
            "i64",
            "keep",
            "us",
            "CPU time that its cgroup may use in a second: of the nearest one above it with a "
            "limit; NULL if none has one.",
        ),
        ("nr_periods", "i64", "keep", "periods", "Periods in which that cgroup ran (cpu.stat)."),
        ("nr_throttled", "i64", "keep", "periods", "Those of them in which it was throttled."),
        (
            "throttled_us",
            "i64",
            "keep",
            "us",
            "For how long it was throttled, summed over the CPUs.",
        ),
        (
            "memory_limit_bytes",
            "i64",
            "keep",
            "bytes",
            "Memory that its cgroup may use: of the nearest one above it with a limit; NULL if "
            "none has one.",
        ),
        (
            "memory_limit_hits",
            "i64",
            "keep",
            "count",
            "How often that cgroup met its limit (max of memory.events, memory.failcnt of v1).",
        ),
        ("oom_kills", "i64", "keep", "processes", "Processes killed in it for want of memory."),
    ),
)

_OWNER_OF_CLOSE = tuple(column for column in _OWNER if column.name != "holders")

CLOSES = Table(
    "closes",
    "One row per TCP or UDP socket that was closed, as the kernel announced it when it freed the "
    "socket, with its final tcp_info. A connection that this end closed first is announced when "
    "it enters TIME-WAIT. The kernel announces neither the user nor the inode.",
    ("netns", "cookie", "time"),
    _columns(
        ("sample", "u32", "keep", "Number of the sample that wrote the row."),
        ("time", "time", "keep", "UTC", "When the event was received."),
        ("netns", "u64", "keep", "Inode number of the network namespace."),
        ("family", "word", "keep", "Address family: inet or inet6."),
        ("netid", "word", "keep", "Kind of socket: tcp or udp."),
        (
            "local_addr",
            "text",
            "address",
            "Local address; 0.0.0.0 of a socket that reset its connection, if it was not bound.",
        ),
        ("local_port", "u16", "keep", "Local port."),
        ("peer_addr", "text", "address", "Peer address."),
        (
            "peer_port",
            "u16",
            "keep",
            "Peer port; 0 of a socket that reset its connection or failed to connect: the kernel "
            "has cleared it then, and all of tcp_info.",
        ),
        (
            "interface",
            "u32",
            "keep",
            "Index of the interface the socket was bound to; NULL if to none.",
        ),
        ("dev", "text", "name", "Name of that interface in the socket's namespace."),
        ("recv_q", "u32", "keep", "bytes", "Received and never read; counts a FIN as one."),
        (
            "send_q",
            "u32",
            "keep",
            "bytes",
            "Never sent or never acknowledged; NULL for UDP, meaningless where peer_port is 0.",
        ),
        (
            "cookie",
            "u64",
            "keep",
            "Identity of the socket on this boot, the key together with netns.",
        ),
        ("sampled", "flag", "keep", "A sample had shown the socket: it has rows in sockets."),
        ("connection", "flag", "keep", "The socket was a TCP connection, or tried to become one."),
    )
    + _OWNER_OF_CLOSE
    + TCP_INFO,
)

COUNTERS = Table(
    "counters",
    "The kernel's counters by name, of every namespace and of the host. Only values that differ "
    "from the reading before are stored: a value holds until the next row of the same netns, "
    "source and name, for as long as samples has a row with step counters.",
    ("netns", "source", "name", "sample"),
    _SAMPLE[:2]
    + _columns(
        ("netns", "u64", "keep", "Inode number of the network namespace; 0 for the whole host."),
        ("phase", "word", "keep", "Read before or after the sockets of the sample."),
        (
            "source",
            "word",
            "keep",
            "File: snmp, snmp6, netstat, sockstat, sockstat6, softnet_stat, nf_conntrack, file-nr.",
        ),
        ("name", "text", "keep", "Name as the file has it, the group before: Tcp.ActiveOpens."),
        ("value", "i64", "keep", "The value; NULL if the counter is gone."),
    ),
)

SETTINGS = Table(
    "settings",
    "The sysctls that bear on sockets: one row each when a namespace is first seen, and one more "
    "for each change found.",
    ("netns", "name", "sample"),
    _SAMPLE[:2]
    + _columns(
        ("netns", "u64", "keep", "Inode number of the network namespace; 0 for the whole host."),
        ("name", "text", "keep", "Name of the sysctl: net.ipv4.ip_local_port_range."),
        (
            "value",
            "text",
            "keep",
            "Its value, blanks between the numbers; NULL if it is gone. Of tcp_ehash_entries a "
            "negative one says that the table is shared with the namespace above.",
        ),
    ),
)

NAMESPACES = Table(
    "namespaces",
    "One row when a network namespace appears or changes its names or example process, and one "
    "more, with valid_to set, when that ends.",
    ("netns", "valid_from"),
    _SAMPLE
    + _columns(
        (
            "name",
            "text",
            "name",
            "Names it is mounted by in /run/netns or elsewhere, comma separated.",
        ),
        ("pid", "i32", "keep", "A process in it, the oldest; NULL if there is none."),
        ("start_us", "i64", "keep", "us", "Start of that process after boot."),
        ("comm", "text", "name", "Name of that process."),
        ("home", "flag", "keep", "The namespace the recorder was started in."),
        ("entered", "flag", "keep", "Its sockets are recorded; False if it could not be entered."),
        ("valid_from", "time", "keep", "UTC", "Sample from which this holds."),
        (
            "valid_to",
            "time",
            "keep",
            "UTC",
            "Sample at which it no longer held; NULL while it holds.",
        ),
    ),
)

CGROUPS = Table(
    "cgroups",
    "One row for each cgroup v2 in which a recorded socket was made, when it is first met.",
    ("cgroup_id", "sample"),
    _SAMPLE[:2]
    + _columns(
        ("cgroup_id", "u64", "keep", "Identity of the cgroup, as in sockets."),
        ("path", "text", "path", "Path below the mount of cgroup v2; NULL if it was gone already."),
        ("unit", "text", "name", "systemd unit: nginx.service, session-3.scope."),
        ("slice", "text", "name", "systemd slice: system.slice, user-1000.slice."),
        (
            "runtime",
            "text",
            "keep",
            "docker, podman, containerd, cri-o, kata, lxc, systemd-nspawn, rkt, garden, mesos or "
            "titus; NULL if not known.",
        ),
        ("container", "text", "name", "Identity of the container as the runtime gave it."),
        ("pod", "text", "name", "Identity of the Kubernetes pod."),
    ),
)

UNEXPLAINED = Table(
    "unexplained",
    "Sockets that a process holds and no table of the kernel showed in two samples: one row each. "
    "A TCP or UDP socket that was never bound nor connected is in no table.",
    ("inode", "sample"),
    _SAMPLE[:2]
    + _columns(
        ("inode", "u32", "keep", "Inode of the socket."),
        (
            "protocol",
            "text",
            "keep",
            "Protocol as the kernel names it (xattr system.sockprotoname).",
        ),
        ("pid", "i32", "keep", "Process that holds it."),
        ("start_us", "i64", "keep", "us", "Start of that process after boot."),
        ("comm", "text", "name", "Name of that process."),
        ("fd", "i32", "keep", "Lowest descriptor by which it holds it."),
    ),
)

MARKS = Table(
    "marks",
    "One row for each mark: what somebody, or a trigger, said of a moment while it was recorded.",
    ("time",),
    _columns(
        ("sample", "u32", "keep", "Number of the sample that was to come, or being taken."),
        ("time", "time", "keep", "UTC", "When the mark was made."),
        (
            "kind",
            "word",
            "keep",
            "How: mark (sockrec mark), signal (SIGUSR1) or trigger (record --on).",
        ),
        (
            "name",
            "text",
            "text",
            "What it says; --from mark:NAME begins there. Of a trigger its condition.",
        ),
        ("detail", "text", "text", "Of a trigger what was measured; NULL of others."),
    ),
)

_STATISTICS = _columns(
    ("rx_packets", "u64", "keep", "packets", "Received."),
    ("tx_packets", "u64", "keep", "packets", "Sent."),
    ("rx_bytes", "u64", "keep", "bytes", "Received."),
    ("tx_bytes", "u64", "keep", "bytes", "Sent."),
    ("rx_errors", "u64", "keep", "packets", "Bad packets received, of every kind."),
    ("tx_errors", "u64", "keep", "packets", "Not sent for errors, of every kind."),
    (
        "rx_dropped",
        "u64",
        "keep",
        "packets",
        "Received and not processed, for lack of room or use.",
    ),
    ("tx_dropped", "u64", "keep", "packets", "Dropped on their way to be sent."),
    ("multicast", "u64", "keep", "packets", "Received multicast."),
    ("collisions", "u64", "keep", "count", "Collisions while sending."),
    ("rx_length_errors", "u64", "keep", "packets", "Received with a length that is invalid."),
    ("rx_over_errors", "u64", "keep", "packets", "Received into a ring without room."),
    ("rx_crc_errors", "u64", "keep", "packets", "Received with a wrong checksum of the frame."),
    ("rx_frame_errors", "u64", "keep", "packets", "Received with a wrong alignment."),
    ("rx_fifo_errors", "u64", "keep", "packets", "Lost in the receiver's queue."),
    ("rx_missed_errors", "u64", "keep", "packets", "Missed by the host, which had no buffers."),
    ("tx_aborted_errors", "u64", "keep", "packets", "Aborted while sending."),
    ("tx_carrier_errors", "u64", "keep", "packets", "Not sent as the carrier was lost."),
    ("tx_fifo_errors", "u64", "keep", "packets", "Lost in the sender's queue."),
    ("tx_heartbeat_errors", "u64", "keep", "packets", "Heartbeats of old Ethernet missed."),
    ("tx_window_errors", "u64", "keep", "packets", "Late collisions."),
)

_INTERFACE = _columns(
    ("ifindex", "u32", "keep", "Index of the interface in its namespace."),
    ("dev", "text", "name", "Its name."),
)

_SINCE = _columns(
    (
        "since",
        "time",
        "keep",
        "UTC",
        "Sample that looked at it before this one: so long its row before held. NULL at first.",
    ),
)

_VALID = _columns(
    ("valid_from", "time", "keep", "UTC", "Sample from which this holds."),
    ("valid_to", "time", "keep", "UTC", "Sample at which it no longer held; NULL while it holds."),
)

INTERFACES = Table(
    "interfaces",
    "Network interfaces of every namespace that is recorded: one row each at first, and one more "
    "whenever something of it is different.",
    ("netns", "ifindex", "sample"),
    _SAMPLE
    + _INTERFACE
    + _SINCE
    + _columns(
        ("kind", "text", "keep", "Kind of a virtual one: veth, bridge, vlan, bond; else NULL."),
        (
            "state",
            "word",
            "keep",
            "UP, DOWN, UNKNOWN, LOWERLAYERDOWN, DORMANT, NOTPRESENT or TESTING; NULL: it is gone.",
        ),
        ("up", "flag", "keep", "Whether it is to be up."),
        ("carrier", "flag", "keep", "Whether something is at the other end."),
        ("carrier_changes", "u32", "keep", "count", "How often that changed."),
        ("mtu", "u32", "keep", "bytes", "Largest packet that it takes."),
        ("txqlen", "u32", "keep", "packets", "Length of its queue."),
        ("master", "u32", "keep", "Index of the bridge or bond that it is part of."),
        ("link", "u32", "keep", "Index of the interface below it, or at the other end of a veth."),
        ("link_nsid", "i32", "keep", "Number of the namespace of that one, if it is another."),
        (
            "speed_mbit",
            "i64",
            "keep",
            "Mbit/s",
            "Its speed; NULL if it has none, or is not of the recorder's own namespace.",
        ),
    )
    + _STATISTICS,
)

QDISCS = Table(
    "qdiscs",
    "Queues of interfaces: one row each at first, and one more whenever it counted something. "
    "Interfaces without a queue have none.",
    ("netns", "ifindex", "handle", "parent", "sample"),
    _SAMPLE
    + _INTERFACE
    + _columns(
        ("handle", "text", "keep", "Its handle as tc writes it: 8001:."),
        ("parent", "text", "keep", "Where it is attached: root, ingress or a class as 1:10."),
    )
    + _SINCE
    + _columns(
        ("kind", "text", "keep", "fq_codel, pfifo_fast, tbf, htb, mq …; NULL: it is gone."),
        ("bytes", "u64", "keep", "bytes", "Sent."),
        ("packets", "u64", "keep", "packets", "Sent."),
        ("backlog", "u32", "keep", "bytes", "That wait now."),
        ("qlen", "u32", "keep", "packets", "That wait now."),
        ("drops", "u32", "keep", "packets", "Dropped."),
        ("requeues", "u32", "keep", "count", "Put back as the interface did not take them."),
        ("overlimits", "u32", "keep", "count", "Held back by a limit of rate."),
    ),
)

ADDRESSES = Table(
    "addresses",
    "Addresses of interfaces: one row when one appears or changes, and one more, with valid_to "
    "set, when that ends.",
    ("netns", "ifindex", "address", "valid_from"),
    _SAMPLE
    + _INTERFACE
    + _columns(
        ("family", "word", "keep", "inet or inet6."),
        ("address", "text", "address", "The address."),
        ("prefix_len", "u8", "keep", "bits", "Length of its network."),
        ("duplicate", "flag", "keep", "Another host has it too (IPv6, found by the kernel)."),
        ("tentative", "flag", "keep", "It is not yet known that no other host has it."),
    )
    + _VALID,
)

ROUTES = Table(
    "routes",
    "Routes but those to own addresses: one row when one appears or changes, and one more, with "
    "valid_to set, when that ends; one for each next hop.",
    ("netns", "destination", "valid_from"),
    _SAMPLE
    + _columns(
        ("family", "word", "keep", "inet or inet6."),
        ("routing_table", "u32", "keep", "Number of the routing table; 254 is main."),
        ("destination", "text", "drop", "Network; other names for addresses keep none."),
        ("prefix_len", "u8", "keep", "bits", "Length of it; 0 of the default route."),
        ("priority", "u32", "keep", "Metric: of alike routes the lowest is used."),
    )
    + _INTERFACE
    + _columns(
        ("gateway", "text", "address", "Next hop; NULL if the network is on the link."),
        ("kind", "word", "keep", "unicast, blackhole, unreachable, prohibit or throw."),
        ("source", "text", "address", "Own address that is preferred."),
        ("mtu", "u32", "keep", "bytes", "Largest packet, if the route says so."),
    )
    + _VALID,
)

RULES = Table(
    "rules",
    "Rules that say which routing table is asked: one row when one appears, and one more, with "
    "valid_to set, when it is gone. What a rule does not compare is NULL.",
    ("netns", "priority", "valid_from"),
    _SAMPLE
    + _columns(
        ("family", "word", "keep", "inet or inet6."),
        ("priority", "u32", "keep", "Place in the order in which they are asked, lowest first."),
        ("inverted", "flag", "keep", "It holds for what it does not match (not)."),
        ("source", "text", "drop", "Network that the source address is in."),
        ("source_len", "u8", "keep", "bits", "Length of it; 0 of all."),
        ("destination", "text", "drop", "Network that the destination is in."),
        ("destination_len", "u8", "keep", "bits", "Length of it; 0 of all."),
        ("tos", "u8", "keep", "Type of service."),
        ("iif", "text", "name", "Interface that it came in by; lo of what is sent by this host."),
        ("oif", "text", "name", "Interface that the socket is bound to."),
        ("fwmark", "u32", "keep", "Mark of the packet, under the mask."),
        ("fwmask", "u32", "keep", "That mask."),
        ("l3mdev", "flag", "keep", "It asks the table of the VRF of the interface."),
        ("uid_from", "u32", "keep", "First user."),
        ("uid_to", "u32", "keep", "Last user."),
        ("ip_proto", "u8", "keep", "Number of the protocol: 6 is TCP, 17 UDP."),
        ("sports", "text", "keep", "Source ports: 80 or 80-90."),
        ("dports", "text", "keep", "Destination ports, likewise."),
        (
            "action",
            "word",
            "keep",
            "lookup (of the table), goto, nop, blackhole, unreachable or prohibit.",
        ),
        ("routing_table", "u32", "keep", "Number of the routing table; 254 is main, 255 local."),
        ("goto", "u32", "keep", "Priority of the rule that is asked next."),
        (
            "suppress_prefix_len",
            "u32",
            "keep",
            "bits",
            "A route found whose prefix is no longer than this is not used.",
        ),
    )
    + _VALID,
)

NEIGHBOURS = Table(
    "neighbours",
    "Hosts on the link: one row when one appears, or can or cannot be reached any more, and one "
    "more, with valid_to set, when that ends.",
    ("netns", "ifindex", "address", "valid_from"),
    _SAMPLE
    + _INTERFACE
    + _columns(
        ("family", "word", "keep", "inet or inet6."),
        ("address", "text", "address", "Its address."),
        (
            "state",
            "word",
            "keep",
            "FAILED (it does not answer), INCOMPLETE (asked for and not yet answered); REACHABLE, "
            "STALE, DELAY or PROBE, which are not told apart later; PERMANENT.",
        ),
        ("lladdr", "text", "drop", "Its address on the link."),
    )
    + _VALID,
)

CONNTRACK = Table(
    "conntrack",
    "Entries of the connection tracking table (record --conntrack), counted by what they have in "
    "common, some ten seconds apart. What is common to few, if there is more than a thousand of "
    "it, is counted by protocol and state only.",
    ("netns", "sample", "protocol"),
    _SAMPLE
    + _columns(
        ("family", "word", "keep", "inet or inet6; NULL of what is counted together."),
        ("protocol", "word", "keep", "tcp, udp, icmp …, or its number."),
        ("source", "text", "address", "Who began it; NULL likewise."),
        ("destination", "text", "address", "The address that was asked for."),
        ("port", "u16", "keep", "The port that was asked for; NULL if there is none."),
        (
            "nat_source",
            "text",
            "address",
            "The address that the destination sees in place of source; NULL if it is that.",
        ),
        (
            "nat_destination",
            "text",
            "address",
            "The address that answers in place of destination; NULL if neither it nor the port "
            "is another.",
        ),
        ("nat_port", "u16", "keep", "The port that answers, likewise."),
        (
            "state",
            "word",
            "keep",
            "State of TCP as the table has it: SYN_SENT, ESTABLISHED, TIME_WAIT …; else NULL.",
        ),
        ("unreplied", "flag", "keep", "Whether nothing was ever answered."),
        ("entries", "u32", "keep", "count", "Entries that have all this in common."),
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        SOCKETS,
        CLOSES,
        SAMPLES,
        COUNTERS,
        OWNERS,
        PROCESSES,
        SETTINGS,
        NAMESPACES,
        CGROUPS,
        UNEXPLAINED,
        MARKS,
        INTERFACES,
        QDISCS,
        ADDRESSES,
        ROUTES,
        RULES,
        NEIGHBOURS,
        CONNTRACK,
    )
}


def _arrow_type(name: str) -> pa.DataType:
    import pyarrow as pa

    if name.startswith("dictionary"):
        return pa.dictionary(pa.type_for_alias(name[11:-1]), pa.string())
    return pa.type_for_alias(name)


def journal_schema(table: Table) -> pa.Schema:
    """Return the Arrow schema of the table's journals."""
    import pyarrow as pa

    return pa.schema([(c.name, _arrow_type(KINDS[c.kind][0])) for c in table.columns])


def public_schema(table: Table) -> pa.Schema:
    """Return the Arrow schema of the table's views."""
    return _schema(table.columns)


def segment_columns(table: Table) -> tuple[Column, ...]:
    """Return the columns of the table's segments; older ones have those of the view."""
    if table != SOCKETS:
        return table.columns
    return tuple(column for column in table.columns if column.name not in AGES) + MOMENTS


def segment_schema(table: Table) -> pa.Schema:
    """Return the Arrow schema of the table's segments, in the types of views."""
    return _schema(segment_columns(table))


def _schema(columns: tuple[Column, ...]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(c.name, _arrow_type(KINDS[c.kind][1])) for c in columns])
