"""An encoder of sock_diag messages, written from the kernel's headers and not from the decoder.

A message is described in the words of the ``sockets`` table (state ``"ESTAB"``, timer ``"on"``,
``local_addr`` as text). ``encode()`` gives the bytes a kernel would send and ``expected()`` the row
a recorder must make of them, so that a test needs no second table of layouts.

Layouts: include/uapi/linux/{netlink,inet_diag,unix_diag,tcp,tls,mptcp}.h.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = int | str | bool | None
Row: TypeAlias = Mapping[str, Value]

TCPDIAG_GETSOCK = 18
SOCK_DIAG_BY_FAMILY = 20
NLM_F_MULTI = 2
NLMSG_ERROR = 2
NLMSG_DONE = 3

STATES = {
    "ESTAB": 1,
    "SYN-SENT": 2,
    "SYN-RECV": 3,
    "FIN-WAIT-1": 4,
    "FIN-WAIT-2": 5,
    "TIME-WAIT": 6,
    "UNCONN": 7,
    "CLOSE-WAIT": 8,
    "LAST-ACK": 9,
    "LISTEN": 10,
    "CLOSING": 11,
}
TIMERS = {None: 0, "on": 1, "keepalive": 2, "timewait": 3, "persist": 4, "delack": 5}
FAMILIES = {"unix": 1, "inet": 2, "inet6": 10}
UNIX_TYPES = {"u_str": 1, "u_dgr": 2, "u_seq": 5}

TCP_INFO_LENGTHS = (104, 120, 136, 144, 160, 168, 192, 200, 224, 232, 240, 248, 280)
"""Lengths of struct tcp_info that kernels have sent, from 3.14 to 7.1."""

APP_LIMITED_LENGTH = 168
FASTOPEN_LENGTH = 232
"""Lengths from which the bits of byte 7 mean something (4.9 and 5.5); before, it was padding."""

NONE_32 = 0xFFFFFFFF
NONE_64 = 0xFFFFFFFFFFFFFFFF
NO_SSTHRESH = 0x7FFFFFFF

# (offset, struct code, column) of struct tcp_info; bytes 6, 7 and 276 to 279 hold bit fields.
TCP_INFO_FIELDS = (
    (0, "B", "tcpi_state"),
    (1, "B", "ca_state"),
    (2, "B", "retransmits"),
    (3, "B", "probes"),
    (4, "B", "backoff"),
    (5, "B", "options"),
    (8, "I", "rto_us"),
    (12, "I", "ato_us"),
    (16, "I", "snd_mss"),
    (20, "I", "rcv_mss"),
    (24, "I", "unacked"),
    (28, "I", "sacked"),
    (32, "I", "lost"),
    (36, "I", "tcpi_retrans"),
    (40, "I", "fackets"),
    (44, "I", "last_data_sent_ms"),
    (48, "I", "last_ack_sent_ms"),
    (52, "I", "last_data_recv_ms"),
    (56, "I", "last_ack_recv_ms"),
    (60, "I", "pmtu"),
    (64, "I", "rcv_ssthresh"),
    (68, "I", "rtt_us"),
    (72, "I", "rttvar_us"),
    (76, "I", "snd_ssthresh"),
    (80, "I", "snd_cwnd"),
    (84, "I", "advmss"),
    (88, "I", "reordering"),
    (92, "I", "rcv_rtt_us"),
    (96, "I", "rcv_space"),
    (100, "I", "total_retrans"),
    (104, "Q", "pacing_rate"),
    (112, "Q", "max_pacing_rate"),
    (120, "Q", "bytes_acked"),
    (128, "Q", "bytes_received"),
    (136, "I", "segs_out"),
    (140, "I", "segs_in"),
    (144, "I", "notsent_bytes"),
    (148, "I", "min_rtt_us"),
    (152, "I", "data_segs_in"),
    (156, "I", "data_segs_out"),
    (160, "Q", "delivery_rate"),
    (168, "Q", "busy_time_us"),
    (176, "Q", "rwnd_limited_us"),
    (184, "Q", "sndbuf_limited_us"),
    (192, "I", "delivered"),
    (196, "I", "delivered_ce"),
    (200, "Q", "bytes_sent"),
    (208, "Q", "bytes_retrans"),
    (216, "I", "dsack_dups"),
    (220, "I", "reord_seen"),
    (224, "I", "rcv_ooopack"),
    (228, "I", "snd_wnd"),
    (232, "I", "rcv_wnd"),
    (236, "I", "rehash"),
    (240, "H", "total_rto"),
    (242, "H", "total_rto_recoveries"),
    (244, "I", "total_rto_time_ms"),
    (248, "I", "received_ce"),
    (252, "I", "delivered_e1_bytes"),
    (256, "I", "delivered_e0_bytes"),
    (260, "I", "delivered_ce_bytes"),
    (264, "I", "received_e1_bytes"),
    (268, "I", "received_e0_bytes"),
    (272, "I", "received_ce_bytes"),
)
_BIT_FIELDS = ("snd_wscale", "rcv_wscale", "delivery_rate_app_limited", "fastopen_client_fail")
_ECN_FIELDS = ("ecn_mode", "accecn_opt_seen", "accecn_fail_mode", "options2")
NO_VALUE = {"pacing_rate": NONE_64, "max_pacing_rate": NONE_64, "min_rtt_us": NONE_32}

TCP_INFO_COLUMNS = (*(name for _, _, name in TCP_INFO_FIELDS), *_BIT_FIELDS, *_ECN_FIELDS)

MEMINFO_COLUMNS = ("rmem", "wmem", "fmem", "tmem")
SKMEMINFO_COLUMNS = (
    "rmem_alloc",
    "rcvbuf",
    "wmem_alloc",
    "sndbuf",
    "fwd_alloc",
    "wmem_queued",
    "optmem",
    "backlog",
    "drops",
)
SKMEMINFO_CODE = "iiiiiiiiI"
"""Of its words the kernel has int but for drops, a counter that may begin again."""

VEGAS_COLUMNS = ("vegas_enabled", "vegas_rttcnt", "vegas_rtt_us", "vegas_minrtt_us")
DCTCP_COLUMNS = ("dctcp_enabled", "dctcp_ce_state", "dctcp_alpha", "dctcp_ab_ecn", "dctcp_ab_tot")
BBR_COLUMNS = ("bbr_bw", "bbr_min_rtt_us", "bbr_pacing_gain", "bbr_cwnd_gain")

# attribute -> (type within its nest, struct code, column)
TLS_FIELDS = (
    (1, "H", "tls_version"),
    (2, "H", "tls_cipher"),
    (3, "H", "tls_txconf"),
    (4, "H", "tls_rxconf"),
    (5, "", "tls_zc_ro_tx"),
    (6, "", "tls_rx_no_pad"),
    (7, "H", "tls_tx_max_payload_len"),
)
MPTCP_FIELDS = (
    (1, "I", "mptcp_token_rem"),
    (2, "I", "mptcp_token_loc"),
    (3, "I", "mptcp_relwrite_seq"),
    (4, "Q", "mptcp_map_seq"),
    (5, "I", "mptcp_map_sfseq"),
    (6, "I", "mptcp_ssn_offset"),
    (7, "H", "mptcp_map_datalen"),
    (8, "I", "mptcp_flags"),
    (9, "B", "mptcp_id_rem"),
    (10, "B", "mptcp_id_loc"),
)

KERNEL_ORDER = (8, 5, 6, 11, 10, 15, 17, 21, 22, 1, 7, 14, 2, 4, 18, 19, 3, 9, 16)
"""Attribute types in the order inet_diag fills them in."""

_HEAD_COLUMNS = (
    *("family", "netid", "state", "recv_q", "send_q"),
    *("local_addr", "local_port", "peer_addr", "peer_port", "interface"),
    *("timer", "expires_ms", "retrans", "uid", "inode", "cookie"),
)
_ONE_VALUE_COLUMNS = (
    *("tos", "tclass", "class_id", "shutdown", "v6only", "protocol", "mark", "cgroup_id"),
    *("sockopt", "md5_keys", "cong", "ulp", "peer_inode", "vfs_inode", "vfs_dev", "icons"),
)

COLUMNS = (
    *_HEAD_COLUMNS,
    *_ONE_VALUE_COLUMNS,
    *MEMINFO_COLUMNS,
    *SKMEMINFO_COLUMNS,
    *VEGAS_COLUMNS,
    *DCTCP_COLUMNS,
    *BBR_COLUMNS,
    *(name for _, _, name in TLS_FIELDS),
    *(name for _, _, name in MPTCP_FIELDS),
    *TCP_INFO_COLUMNS,
)
"""Every column of ``sockets`` that comes from the message itself."""


def attribute(kind: int, payload: bytes) -> bytes:
    """Encode one attribute, padded to four bytes."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def message(kind: int, body: bytes, *, seq: int, portid: int, flags: int = NLM_F_MULTI) -> bytes:
    """Encode one netlink message, padded to four bytes."""
    header = struct.pack("=IHHII", 16 + len(body), kind, flags, seq, portid)
    return header + body + bytes(-len(body) % 4)


def done(code: int = 0, *, seq: int = 1, portid: int = 0) -> bytes:
    """Encode NLMSG_DONE; ``code`` is 0 or a negative error number."""
    return message(NLMSG_DONE, struct.pack("=i", code), seq=seq, portid=portid)


def error(code: int, *, seq: int = 1, portid: int = 0) -> bytes:
    """Encode NLMSG_ERROR with the header of the request it answers."""
    request = struct.pack("=IHHII", 76, SOCK_DIAG_BY_FAMILY, 0x301, seq, portid)
    return message(NLMSG_ERROR, struct.pack("=i", code) + request, seq=seq, portid=portid, flags=0)


def tcp_info(values: Row, length: int = 280) -> bytes:
    """Encode struct tcp_info of that length; a column not given is 0, one given as None is "none".

    Bytes 276 to 279 take the layout of Linux 7.0 if ``ecn_mode`` is given, else that of 6.18.
    """
    buffer = bytearray(max(length, 280))
    for offset, code, name in TCP_INFO_FIELDS:
        value = values.get(name, 0)
        struct.pack_into("=" + code, buffer, offset, NO_VALUE[name] if value is None else value)
    buffer[6] = _whole(values, "snd_wscale") | _whole(values, "rcv_wscale") << 4
    buffer[7] = (
        _whole(values, "delivery_rate_app_limited") | _whole(values, "fastopen_client_fail") << 1
    )
    seen, failed = _whole(values, "accecn_opt_seen"), _whole(values, "accecn_fail_mode")
    if values.get("ecn_mode") is None:
        struct.pack_into("=HH", buffer, 276, failed, seen)
    else:
        bits = _whole(values, "ecn_mode") | seen << 2 | failed << 4
        struct.pack_into("=I", buffer, 276, bits | _whole(values, "options2") << 8)
    return bytes(buffer[:length])


def _whole(values: Row, name: str) -> int:
    return int(values.get(name) or 0)


def tcp_info_values(payload: bytes, *, linux_7: bool = False) -> dict[str, Value]:
    """Return the columns of a struct tcp_info; those past its end are None."""
    values: dict[str, Value] = dict.fromkeys(TCP_INFO_COLUMNS)
    for offset, code, name in TCP_INFO_FIELDS:
        if offset + struct.calcsize(code) <= len(payload):
            (value,) = struct.unpack_from("=" + code, payload, offset)
            values[name] = None if value == NO_VALUE.get(name) else value
    if len(payload) >= 8:
        values["snd_wscale"], values["rcv_wscale"] = payload[6] & 15, payload[6] >> 4
    if len(payload) >= APP_LIMITED_LENGTH:
        values["delivery_rate_app_limited"] = bool(payload[7] & 1)
    if len(payload) >= FASTOPEN_LENGTH:
        values["fastopen_client_fail"] = payload[7] >> 1 & 3
    if len(payload) >= 280 and linux_7:
        (bits,) = struct.unpack_from("=I", payload, 276)
        values["ecn_mode"], values["accecn_opt_seen"] = bits & 3, bits >> 2 & 3
        values["accecn_fail_mode"], values["options2"] = bits >> 4 & 15, bits >> 8
    elif len(payload) >= 280:
        values["accecn_fail_mode"], values["accecn_opt_seen"] = struct.unpack_from(
            "=HH", payload, 276
        )
    return values


@dataclass(frozen=True, slots=True)
class Md5Key:
    """A TCP-MD5 key as INET_DIAG_MD5SIG carries it; no test may find it in a row."""

    address: str
    prefix: int
    key: bytes

    def encode(self) -> bytes:
        """Return struct tcp_diag_md5sig."""
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        head = struct.pack("=BBH", family, self.prefix, len(self.key))
        return (
            head
            + socket.inet_pton(family, self.address).ljust(16, b"\0")
            + self.key.ljust(80, b"\0")
        )


@dataclass(frozen=True, slots=True)
class InetMessage:
    """A TCP or UDP socket as inet_diag describes it.

    ``row`` has the columns of the message and its attributes but for tcp_info, whose bytes are
    ``tcp_info``. An attribute is sent if its first column is neither missing nor None. ``unknown``
    are (type, payload) of attributes no recorder knows. ``order`` shuffles the attributes; None
    keeps the kernel's order. ``pad`` sends INET_DIAG_PAD so that tcp_info is aligned to 8 bytes,
    ``nested_flag`` sets NLA_F_NESTED as newer kernels do elsewhere.
    """

    row: Row
    tcp_info: bytes | None = None
    md5: tuple[Md5Key, ...] = ()
    unknown: tuple[tuple[int, bytes], ...] = ()
    order: int | None = None
    pad: bool = False
    nested_flag: bool = False

    def encode(self, *, kind: int = TCPDIAG_GETSOCK, seq: int = 1, portid: int = 0) -> bytes:
        """Return the netlink message."""
        return message(kind, self._head() + self._attributes(), seq=seq, portid=portid)

    def expected(self, *, linux_7: bool = False) -> dict[str, Value]:
        """Return what a recorder must make of it; columns it says nothing about are None."""
        row = dict.fromkeys(COLUMNS) | dict(self.row)
        if row["timer"] is None:
            row["expires_ms"] = None
        if row["interface"] == 0:
            row["interface"] = None
        if self.md5:
            row["md5_keys"] = len(self.md5)
        if self.tcp_info is not None:
            row |= tcp_info_values(self.tcp_info, linux_7=linux_7)
        return row

    def _head(self) -> bytes:
        row = self.row
        family = socket.AF_INET if row["family"] == "inet" else socket.AF_INET6
        cookie = int(row["cookie"] or 0)
        return struct.pack(
            "=BBBB2s2s16s16sIIIIIIII",
            FAMILIES[str(row["family"])],
            STATES[str(row["state"])],
            TIMERS[_text(row, "timer")],
            _whole(row, "retrans"),
            struct.pack(">H", row["local_port"]),
            struct.pack(">H", row["peer_port"]),
            socket.inet_pton(family, str(row["local_addr"])),
            socket.inet_pton(family, str(row["peer_addr"])),
            _whole(row, "interface"),
            cookie & NONE_32,
            cookie >> 32,
            _whole(row, "expires_ms"),
            _whole(row, "recv_q"),
            _whole(row, "send_q"),
            _whole(row, "uid"),
            _whole(row, "inode"),
        )

    def _attributes(self) -> bytes:
        payloads = self._payloads()
        kinds = [kind for kind in KERNEL_ORDER if kind in payloads]
        pieces = [(kind, payloads[kind]) for kind in kinds] + list(self.unknown)
        if self.order is not None:
            random.Random(self.order).shuffle(pieces)
        encoded = b""
        for kind, payload in pieces:
            if kind == 2 and self.pad and len(encoded) % 8 == 0:
                encoded += attribute(14, b"")
            encoded += attribute(kind, payload)
        return encoded

    def _payloads(self) -> dict[int, bytes]:
        row = self.row
        payloads: dict[int, bytes] = {}
        for kind, code, columns in (
            (1, "iiii", MEMINFO_COLUMNS),
            (3, "IIII", VEGAS_COLUMNS),
            (5, "B", ("tos",)),
            (6, "B", ("tclass",)),
            (8, "B", ("shutdown",)),
            (9, "HHIII", DCTCP_COLUMNS),
            (10, "B", ("protocol",)),
            (11, "B", ("v6only",)),
            (15, "I", ("mark",)),
            (17, "I", ("class_id",)),
            (21, "Q", ("cgroup_id",)),
            (22, "H", ("sockopt",)),
        ):
            if row.get(columns[0]) is not None:
                values = [_whole(row, column) for column in columns]
                payloads[kind] = struct.pack("=" + code, *values)
        memory = [row[column] for column in SKMEMINFO_COLUMNS if row.get(column) is not None]
        if memory:
            payloads[7] = struct.pack(f"={SKMEMINFO_CODE[: len(memory)]}", *memory)
        if row.get("bbr_bw") is not None:
            bandwidth = _whole(row, "bbr_bw")
            rest = [_whole(row, column) for column in BBR_COLUMNS[1:]]
            payloads[16] = struct.pack("=5I", bandwidth & NONE_32, bandwidth >> 32, *rest)
        if row.get("cong") is not None:
            payloads[4] = str(row["cong"]).encode() + b"\0"
        if row.get("ulp") is not None:
            payloads[19] = self._upper_layer()
        if self.tcp_info is not None:
            payloads[2] = self.tcp_info
        if self.md5:
            payloads[18] = b"".join(key.encode() for key in self.md5)
        return payloads

    def _upper_layer(self) -> bytes:
        nested = 0x8000 if self.nested_flag else 0
        encoded = attribute(1, str(self.row["ulp"]).encode() + b"\0")
        for kind, fields in ((2, TLS_FIELDS), (3, MPTCP_FIELDS)):
            nest = b"".join(
                attribute(number, _pack(code, self.row[name]))
                for number, code, name in fields
                if self.row.get(name) is not None and self.row[name] is not False
            )
            if nest:
                encoded += attribute(kind | nested, nest)
        return encoded


@dataclass(frozen=True, slots=True)
class UnixMessage:
    """A unix socket as unix_diag describes it.

    An abstract name begins with ``@`` in ``row["local_addr"]`` and with NUL in the message.
    """

    row: Row
    unknown: tuple[tuple[int, bytes], ...] = ()
    order: int | None = None

    def encode(self, *, kind: int = SOCK_DIAG_BY_FAMILY, seq: int = 1, portid: int = 0) -> bytes:
        """Return the netlink message."""
        row = self.row
        cookie = int(row["cookie"] or 0)
        head = struct.pack(
            "=BBBBIII",
            FAMILIES["unix"],
            UNIX_TYPES[str(row["netid"])],
            STATES[str(row["state"])],
            0,
            _whole(row, "inode"),
            cookie & NONE_32,
            cookie >> 32,
        )
        pieces = [*self._payloads().items(), *self.unknown]
        if self.order is not None:
            random.Random(self.order).shuffle(pieces)
        body = head + b"".join(attribute(number, payload) for number, payload in pieces)
        return message(kind, body, seq=seq, portid=portid)

    def expected(self) -> dict[str, Value]:
        """Return what a recorder must make of it; columns it says nothing about are None."""
        return dict.fromkeys(COLUMNS) | dict(self.row)

    def _payloads(self) -> dict[int, bytes]:
        row = self.row
        payloads: dict[int, bytes] = {}
        name = _text(row, "local_addr")
        if name is not None:
            abstract = name.startswith("@")
            raw = name.encode()
            payloads[0] = raw.replace(b"@", b"\0") if abstract else raw + b"\0"
        if row.get("vfs_inode") is not None:
            payloads[1] = struct.pack("=II", row["vfs_inode"], row["vfs_dev"])
        if row.get("peer_inode") is not None:
            payloads[2] = struct.pack("=I", row["peer_inode"])
        if row.get("icons") is not None:
            inodes = [int(inode) for inode in str(row["icons"]).split(",") if inode]
            payloads[3] = struct.pack(f"={len(inodes)}I", *inodes)
        if row.get("recv_q") is not None:
            payloads[4] = struct.pack("=II", row["recv_q"], row["send_q"])
        memory = [row[column] for column in SKMEMINFO_COLUMNS if row.get(column) is not None]
        if memory:
            payloads[5] = struct.pack(f"={SKMEMINFO_CODE[: len(memory)]}", *memory)
        if row.get("shutdown") is not None:
            payloads[6] = struct.pack("=B", row["shutdown"])
        if row.get("uid") is not None:
            payloads[7] = struct.pack("=I", row["uid"])
        return payloads


def _pack(code: str, value: Value) -> bytes:
    if not code:  # a flag: its presence says it all
        return b""
    return struct.pack("=" + code, int(value or 0) & NONE_64)  # public columns are signed


def _text(row: Row, name: str) -> str | None:
    value = row.get(name)
    return None if value is None else str(value)


Message: TypeAlias = InetMessage | UnixMessage


def datagrams(
    messages: Iterable[Message], *, seq: int = 1, portid: int = 0, limit: int = 32_364
) -> list[bytes]:
    """Pack messages into datagrams as the kernel does, the last one ending in NLMSG_DONE."""
    packed: list[bytes] = []
    current = b""
    encoded = [one.encode(seq=seq, portid=portid) for one in messages]
    for piece in [*encoded, done(seq=seq, portid=portid)]:
        if current and len(current) + len(piece) > limit:
            packed.append(current)
            current = b""
        current += piece
    return [*packed, current]


def dump(messages: Iterable[Message], *, seq: int = 1, portid: int = 0) -> bytes:
    """Encode one dump with its NLMSG_DONE: what TCPDIAG_FILE wants."""
    return b"".join(datagrams(messages, seq=seq, portid=portid))
