"""Hypothesis strategies for sock_diag messages and dumps that a kernel could have sent.

Numbers come from blobs rather than one draw each, so that a message costs few draws.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from hypothesis import strategies as st

from tests.recorder.support.messages import (
    APP_LIMITED_LENGTH,
    BBR_COLUMNS,
    DCTCP_COLUMNS,
    FASTOPEN_LENGTH,
    MEMINFO_COLUMNS,
    MPTCP_FIELDS,
    NO_SSTHRESH,
    NO_VALUE,
    NONE_32,
    SKMEMINFO_CODE,
    SKMEMINFO_COLUMNS,
    STATES,
    TCP_INFO_FIELDS,
    TCP_INFO_LENGTHS,
    TIMERS,
    UNIX_TYPES,
    VEGAS_COLUMNS,
    InetMessage,
    Md5Key,
    UnixMessage,
    Value,
)

_SIGNED_64 = (1 << 63) - 1


def _numbers(draw: st.DrawFn, code: str) -> list[int]:
    blob = draw(
        st.binary(min_size=struct.calcsize("=" + code), max_size=struct.calcsize("=" + code))
    )
    return [int(value) for value in struct.unpack("=" + code, blob)]


@st.composite
def tcp_infos(draw: st.DrawFn, lengths: Sequence[int] = TCP_INFO_LENGTHS) -> bytes:
    """Draw the bytes of a tcp_info; 64-bit counters fit a signed column, "none" values occur."""
    length = draw(st.sampled_from(lengths))
    payload = bytearray(draw(st.binary(min_size=length, max_size=length)))
    nones = draw(st.sets(st.sampled_from(sorted(NO_VALUE))))
    defaults = draw(st.booleans())
    for offset, code, name in TCP_INFO_FIELDS:
        if offset + struct.calcsize(code) > length:
            continue
        if code == "Q":
            payload[offset + 7] &= 0x7F
        if name in nones:
            struct.pack_into("=" + code, payload, offset, NO_VALUE[name])
        elif defaults and name in _DEFAULTS:
            struct.pack_into("=I", payload, offset, _DEFAULTS[name])
    payload[7] &= 0b001 * (length >= APP_LIMITED_LENGTH) | 0b110 * (length >= FASTOPEN_LENGTH)
    return bytes(payload)


_DEFAULTS = {"rto_us": 3_000_000, "snd_ssthresh": NO_SSTHRESH, "reordering": 3}
"""Values that ss hides."""

_IPV4 = st.one_of(
    st.sampled_from(["0.0.0.0", "127.0.0.1", "255.255.255.255"]), st.ip_addresses(v=4).map(str)
)
_IPV6 = st.one_of(
    st.sampled_from(["::", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "fe80::1", "1:0:0:2::3"]),
    st.binary(min_size=16, max_size=16).map(lambda raw: socket.inet_ntop(socket.AF_INET6, raw)),
)
_NAMES = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="@"),
    min_size=1,
    max_size=60,
)


def _head(draw: st.DrawFn, netid: str, states: Sequence[str]) -> dict[str, Value]:
    family = draw(st.sampled_from(["inet", "inet6"]))
    addresses = _IPV4 if family == "inet" else _IPV6
    timer = draw(st.sampled_from(list(TIMERS)))
    recv_q, send_q, expires, uid, inode, cookie, local, peer, retrans = _numbers(draw, "IIIIIQHHB")
    return {
        "family": family,
        "netid": netid,
        "state": draw(st.sampled_from(states)),
        "recv_q": recv_q,
        "send_q": send_q,
        "local_addr": draw(addresses),
        "local_port": local,
        "peer_addr": draw(addresses),
        "peer_port": peer,
        "interface": draw(st.sampled_from([None, 1, 7])),
        "timer": timer,
        "expires_ms": None if timer is None else expires & 0x7FFFFFFF,
        "retrans": 0 if timer is None else retrans,
        "uid": uid,
        "inode": inode,
        "cookie": (cookie & _SIGNED_64) or 1,
    }


def _columns(
    draw: st.DrawFn, code: str, columns: Sequence[str], *, always: bool = False
) -> dict[str, Value]:
    if not always and not draw(st.booleans()):
        return {}
    return dict(zip(columns, _numbers(draw, code), strict=True))


def _socket_attributes(draw: st.DrawFn, family: Value) -> dict[str, Value]:
    row = _columns(draw, "iiii", MEMINFO_COLUMNS)
    words = draw(st.sampled_from([0, 7, 8, 9]))
    row |= _columns(draw, SKMEMINFO_CODE[:words], SKMEMINFO_COLUMNS[:words], always=True)
    row |= _columns(draw, "BIHI", ("tos", "class_id", "sockopt", "mark"))
    if draw(st.booleans()):
        row["cgroup_id"] = _numbers(draw, "Q")[0] & _SIGNED_64
    if draw(st.booleans()):
        row["shutdown"] = draw(st.integers(0, 3))
    if family == "inet6" and draw(st.booleans()):
        row["v6only"] = draw(st.booleans())
        row["tclass"] = draw(st.integers(0, 255))
    return row


def _congestion(draw: st.DrawFn) -> dict[str, Value]:
    cong = draw(
        st.sampled_from([None, "reno", "cubic", "bbr", "vegas", "dctcp", "a_name_of_15_ch"])
    )
    row: dict[str, Value] = {} if cong is None else {"cong": cong}
    if cong == "vegas":
        row |= _columns(draw, "IIII", VEGAS_COLUMNS)
    elif cong == "dctcp":
        row |= _columns(draw, "HHIII", DCTCP_COLUMNS)
    elif cong == "bbr" and draw(st.booleans()):
        row |= _columns(draw, "QIII", BBR_COLUMNS, always=True)
        row["bbr_bw"] = int(row["bbr_bw"] or 0) & _SIGNED_64
    return row


def _upper_layer_columns(draw: st.DrawFn) -> dict[str, Value]:
    ulp = draw(st.sampled_from([None, None, "tls", "mptcp", "espintcp"]))
    row: dict[str, Value] = {} if ulp is None else {"ulp": ulp}
    if ulp == "tls":
        row |= {
            "tls_version": draw(st.sampled_from([0x0303, 0x0304, 9])),
            "tls_cipher": draw(st.sampled_from([51, 52, 53])),
            "tls_txconf": draw(st.integers(1, 5)),
            "tls_rxconf": draw(st.integers(1, 5)),
            "tls_zc_ro_tx": draw(st.booleans()),
            "tls_rx_no_pad": draw(st.booleans()),
        }
        if draw(st.booleans()):
            row["tls_tx_max_payload_len"] = draw(st.integers(0, 0xFFFF))
    elif ulp == "mptcp":
        names = [name for _, _, name in MPTCP_FIELDS]
        if draw(st.booleans()):
            names = [name for name in names if name not in _PRIVILEGED]
        codes = {name: code for _, code, name in MPTCP_FIELDS}
        row |= _columns(draw, "".join(codes[name] for name in names), names, always=True)
        if "mptcp_map_seq" in row:
            # random from its first value on, so that half of all are negative in a signed column
            row["mptcp_map_seq"] = int(row["mptcp_map_seq"] or 0) - (1 << 63)
    return row


_PRIVILEGED = (
    "mptcp_relwrite_seq",
    "mptcp_map_seq",
    "mptcp_map_sfseq",
    "mptcp_ssn_offset",
    "mptcp_map_datalen",
)
"""MPTCP columns only CAP_NET_ADMIN is told."""


@st.composite
def md5_keys(draw: st.DrawFn) -> Md5Key:
    """Draw a TCP-MD5 key that no row may contain: it is marked SECRET."""
    address, prefix = draw(st.sampled_from([("192.0.2.7", 32), ("2001:db8::7", 128)]))
    return Md5Key(address, prefix, b"SECRET" + draw(st.binary(max_size=74)))


@st.composite
def tcp_messages(
    draw: st.DrawFn,
    *,
    states: Sequence[str] = tuple(STATES),
    lengths: Sequence[int] = TCP_INFO_LENGTHS,
    full: bool = False,
    strange: bool = False,
) -> InetMessage:
    """Draw a TCP socket of any state, minisockets included.

    ``full`` draws full sockets only, with tcp_info whatever the state. ``strange`` adds what ss
    cannot be asked about: unknown attributes, MD5 keys, any order, padding, the nested flag.
    """
    row = _head(draw, "tcp", states)
    mini = not full and row["state"] in ("TIME-WAIT", "SYN-RECV") and draw(st.booleans())
    info: bytes | None = None
    if mini:
        row |= {"uid": 0, "inode": 0, "recv_q": 0, "send_q": 0}
        row |= _columns(draw, "I", ("mark",))
    else:
        row |= _socket_attributes(draw, row["family"])
        row |= _congestion(draw)
        row |= _upper_layer_columns(draw)
        some = tcp_infos(lengths)
        info = draw(some if full else st.one_of(st.none(), some, some))
    if not strange:
        return InetMessage(row, info)
    return InetMessage(
        row,
        info,
        md5=tuple(draw(st.lists(md5_keys(), max_size=3))),
        unknown=tuple(draw(st.lists(_UNKNOWN, max_size=2))),
        order=draw(st.one_of(st.none(), st.integers(0, 1000))),
        pad=draw(st.booleans()),
        nested_flag=draw(st.booleans()),
    )


_UNKNOWN = st.tuples(st.integers(23, 0x3FFF), st.binary(max_size=40))


@st.composite
def udp_messages(draw: st.DrawFn) -> InetMessage:
    """Draw a UDP socket: connected or not, without tcp_info."""
    row = _head(draw, "udp", ("ESTAB", "UNCONN"))
    row |= {"timer": None, "expires_ms": None, "retrans": 0}
    return InetMessage(row | _socket_attributes(draw, row["family"]))


@st.composite
def unix_messages(draw: st.DrawFn) -> UnixMessage:
    """Draw a unix socket: by path, abstract or unnamed, listening with clients or connected."""
    (cookie,) = _numbers(draw, "Q")
    row: dict[str, Value] = {
        "family": "unix",
        "netid": draw(st.sampled_from(list(UNIX_TYPES))),
        "state": draw(st.sampled_from(["ESTAB", "UNCONN", "LISTEN"])),
        "inode": draw(st.integers(1, NONE_32)),
        "cookie": (cookie & _SIGNED_64) or 1,
    }
    name = draw(st.sampled_from(["none", "path", "abstract"]))
    if name == "path":
        row["local_addr"] = "/" + draw(_NAMES)
        row |= _columns(draw, "II", ("vfs_inode", "vfs_dev"))
    elif name == "abstract":
        row["local_addr"] = "@" + draw(_NAMES)
    row |= _columns(draw, "I", ("peer_inode",))
    row |= _columns(draw, "II", ("recv_q", "send_q"))
    row |= _columns(draw, SKMEMINFO_CODE, SKMEMINFO_COLUMNS)
    row |= _columns(draw, "I", ("uid",))
    if draw(st.booleans()):
        row["shutdown"] = draw(st.integers(0, 3))
    if row["state"] == "LISTEN":
        clients = draw(st.lists(st.integers(1, NONE_32), min_size=1, max_size=20))
        row["icons"] = ",".join(map(str, clients))
    order = draw(st.one_of(st.none(), st.integers(0, 1000)))
    return UnixMessage(row, order=order)


@st.composite
def tcp_dumps(draw: st.DrawFn, *, strange: bool = True) -> list[InetMessage]:
    """Draw the messages of a TCP dump: a few layouts, interleaved, each socket with its cookie."""
    lengths = (*TCP_INFO_LENGTHS, 288, 296) if strange else TCP_INFO_LENGTHS
    few = draw(st.lists(tcp_messages(strange=strange, lengths=lengths), min_size=1, max_size=6))
    turns = draw(st.lists(st.integers(0, len(few) - 1), max_size=60))
    return [
        InetMessage(
            {**one.row, "cookie": cookie + 1, "local_port": cookie},
            one.tcp_info,
            one.md5,
            one.unknown,
            one.order,
            one.pad,
            one.nested_flag,
        )
        for cookie, one in enumerate(few[turn] for turn in turns)
    ]
