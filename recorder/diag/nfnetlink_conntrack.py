"""Entries of the connection tracking table, counted by what they have in common.

Layouts: include/uapi/linux/netfilter/{nfnetlink,nfnetlink_conntrack,nf_conntrack_common,
nf_conntrack_tcp}.h.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.diag.sock_diag import absent_at
from recorder.wire.netlink import (
    Attributes,
    Dump,
    Framing,
    Words,
    attributes,
    gather,
    gather_number,
)

CTNETLINK_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
BODY = struct.pack("=BBH", 0, 0, 0)  # struct nfgenmsg, every family
_NFGENMSG = 4

_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO = 1, 2, 3, 4  # CTA_*
_LAST = 26
_TUPLE_IP, _TUPLE_PROTO = 1, 2  # CTA_TUPLE_*
_V4_SRC, _V4_DST, _V6_SRC, _V6_DST = 1, 2, 3, 4  # CTA_IP_*
_PROTO_NUM, _SRC_PORT, _DST_PORT = 1, 2, 3  # CTA_PROTO_*
_PROTOINFO_TCP, _TCP_STATE = 1, 1  # CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE
_SEEN_REPLY = 1 << 1  # IPS_SEEN_REPLY

TCP_STATES = (
    "NONE SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK TIME_WAIT CLOSE SYN_SENT2"
).split()
"""Names as conntrack prints them, by the kernel's number."""
NO_STATE = 255
"""What an entry of another protocol has for a state."""

GROUP = np.dtype(
    [
        ("source", "V16"),
        ("destination", "V16"),
        ("reply_source", "V16"),
        ("reply_destination", "V16"),
        ("port", "<u2"),
        ("reply_port", "<u2"),
        ("family", "u1"),
        ("protocol", "u1"),
        ("state", "u1"),
        ("unreplied", "u1"),
    ]
)
"""What entries have in common: the addresses as sent and as answered, IPv4 in the first 4 bytes,
the port that is sent to and the one that answers, 0 if there is none."""

_BYTES = pa.binary(GROUP.itemsize)
_COUNTED = pa.schema([("group", _BYTES), ("entries", pa.int64())])


class Entries:
    """Counts the entries of one dump."""

    def __init__(self) -> None:
        self._counted = [_COUNTED.empty_table()]

    def decode(self, words: Words, framing: Framing, dump: Dump) -> None:
        """Count the entries of a chunk. Short and broken messages are counted and left out."""
        starts, ends = framing.offsets, framing.ends
        absent = absent_at(words)
        begin = np.minimum(starts + _NFGENMSG, ends)
        found = attributes(words, begin, ends, _LAST, absent, ends - starts < _NFGENMSG)
        dump.bad += int(found.bad.sum())
        starts, found = starts[~found.bad], found.keep(~found.bad)
        groups = np.zeros(starts.size, GROUP)
        groups["family"] = gather_number(words, starts, _U1)
        for kind, prefix, port in (
            (_TUPLE_ORIG, "", _DST_PORT),
            (_TUPLE_REPLY, "reply_", _SRC_PORT),
        ):
            tuples = _inside(words, found, kind, absent)
            addresses = _inside(words, tuples, _TUPLE_IP, absent)
            groups[f"{prefix}source"] = _address(words, addresses, _V4_SRC, _V6_SRC)
            groups[f"{prefix}destination"] = _address(words, addresses, _V4_DST, _V6_DST)
            protocol = _inside(words, tuples, _TUPLE_PROTO, absent)
            groups[f"{prefix}port"] = gather_number(words, protocol.at[port], _U2).byteswap()
            if kind == _TUPLE_ORIG:
                groups["protocol"] = gather_number(words, protocol.at[_PROTO_NUM], _U1)
        info = _inside(words, found, _PROTOINFO, absent)
        tcp = _inside(words, info, _PROTOINFO_TCP, absent)
        state = gather_number(words, tcp.at[_TCP_STATE], _U1)
        groups["state"] = np.where(tcp.length[_TCP_STATE] > 0, state, NO_STATE)
        status = gather_number(words, found.at[_STATUS], _U4).byteswap()
        groups["unreplied"] = status & _SEEN_REPLY == 0
        buffers = [None, pa.py_buffer(groups.tobytes())]
        whole = pa.FixedSizeBinaryArray.from_buffers(_BYTES, len(groups), buffers)
        self._counted.append(pa.table(list(whole.value_counts().flatten()), schema=_COUNTED))

    def counted(self) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]:
        """Return what entries have in common, and how many have it, the most first."""
        summed = pa.concat_tables(self._counted).group_by("group").aggregate([("entries", "sum")])
        counts = summed["entries_sum"].to_numpy()
        whole = summed["group"].combine_chunks().buffers()[1]
        groups = np.frombuffer(whole or b"", GROUP, len(counts))
        order = np.argsort(-counts, kind="stable")
        return groups[order], counts[order]


_U1, _U2, _U4 = np.dtype("u1"), np.dtype("<u2"), np.dtype("<u4")
_V16 = np.dtype([("bytes", "V16")])
_LAST_INSIDE = 6
"""The greatest type of a nest that is looked for."""


def _inside(words: Words, found: Attributes, kind: int, absent: int) -> Attributes:
    """Return the attributes that are nested in those of one type."""
    at, length = found.at[kind], found.length[kind]
    return attributes(words, at, at + length, _LAST_INSIDE, absent, np.zeros(at.size, np.bool_))


def _address(words: Words, found: Attributes, v4: int, v6: int) -> npt.NDArray[np.void]:
    """Return addresses of 16 bytes, of IPv4 the first four."""
    addresses: npt.NDArray[np.void] = gather(words, found.at[v6], _V16)["bytes"].copy()
    raw = addresses.view(np.uint8).reshape(-1, 16)
    short = found.length[v4] >= 4
    raw[short] = 0
    raw[short, :4] = gather_number(words, found.at[v4][short], _U4).view(np.uint8).reshape(-1, 4)
    return addresses
