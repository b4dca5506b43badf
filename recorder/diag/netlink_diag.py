"""netlink_diag (include/uapi/linux/netlink_diag.h): the request, messages → columns."""

from __future__ import annotations

import socket
import struct

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.diag.sock_diag import SKMEM, STATES, UNCONN, FamilyDiag
from recorder.ssfilter.protocols import NETLINK
from recorder.wire import details
from recorder.wire.columns import Values, code_words
from recorder.wire.layout import Layout
from recorder.wire.lists import places

MEMINFO, GROUPS, RX_RING, TX_RING, FLAGS = range(5)
ALL_PROTOCOLS = 0xFF
SHOW = 0x01 | 0x02 | 0x08
"""Memory, groups and flags; rings are gone since Linux 4.6."""

CONNECTED = 1
"""NETLINK_CONNECTED (net/netlink/af_netlink.c); ss shows a peer in this state only."""

MESSAGE = np.dtype(
    {
        "names": "_type _protocol _state local_id peer_id _dst_group inode cookie".split(),
        "formats": "u1 u1 u1 <u4 <u4 <u4 <u4 <u8".split(),
        "offsets": [1, 2, 3, 4, 8, 12, 16, 20],
        "itemsize": 28,
    }
)

_RINGS = {
    kind: Layout(
        name,
        tuple(
            (f"{name}.{field}", 4 * n, "<u4")
            for n, field in enumerate("block_size block_nr frame_size frame_nr".split())
        ),
    )
    for kind, name in ((RX_RING, "rx_ring"), (TX_RING, "tx_ring"))
}


def request_all() -> bytes:
    """Return struct netlink_diag_req for the sockets of all protocols."""
    return struct.pack("=BBHIIII", socket.AF_NETLINK, ALL_PROTOCOLS, 0, 0, SHOW, 0, 0)


def protocol_names(protocols: npt.NDArray[np.uint8]) -> pa.DictionaryArray:
    """Return netlink protocols as ss prints them; an unknown one is its number."""
    distinct, codes = np.unique(protocols, return_inverse=True)
    names = [NETLINK.get(number, str(number)) for number in distinct.tolist()]
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32)), pa.array(names, pa.string())
    )


class NetlinkDiag(FamilyDiag):
    """Decodes the messages of one dump after another into the same columns.

    The kernel gives a socket with groups twice. It tells no user.
    """

    def __init__(self) -> None:
        super().__init__(
            MESSAGE, {MEMINFO: SKMEM, **_RINGS}, {FLAGS: ("flags", "<u4")}, {GROUPS: 4}
        )

    def rows(self) -> dict[str, Values | pa.Array]:
        """Return the columns of all rows decoded since the last ``clear``; absent ones are NULL."""
        columns = self.columns
        count = columns.rows
        skmem = SKMEM.values(columns)
        connected = columns["_state"] == CONNECTED
        result: dict[str, Values | pa.Array] = {
            "family": code_words(np.zeros(count, np.int8), ["netlink"]),
            "netid": code_words(np.zeros(count, np.int8), ["nl"]),
            "state": code_words(np.full(count, UNCONN, np.int8), STATES),
            "local_addr": protocol_names(columns["_protocol"]),
            "local_id": Values(columns["local_id"]),
            "peer_id": Values(columns["peer_id"], connected),
            "inode": Values(columns["inode"]),
            "cookie": Values(columns["cookie"]),
            **skmem,
        }
        for queue, memory in (("recv_q", "rmem_alloc"), ("send_q", "wmem_alloc")):
            if memory in skmem:
                result[queue] = skmem[memory]
        fields: dict[str, Values | pa.Array] = {
            "type": Values(columns["_type"]),
            "dst_group": Values(columns["_dst_group"], columns["_dst_group"] != 0),
            **self._scalar_values(),
        }
        for ring in _RINGS.values():
            fields |= ring.values(columns)
        if self._lists[GROUPS]:
            fields["groups"] = self._group_numbers()
        result["details"] = details.column(fields, count)
        return result

    def _group_numbers(self) -> pa.StringArray:
        """Return the numbers of the groups joined, the lowest bit of the first word being 1."""
        groups = self._lists[GROUPS]
        counts = groups.counts(self.columns.rows)
        bits = np.unpackbits(groups.elements(), axis=1, bitorder="little")
        word, bit = np.nonzero(bits)
        numbers = pa.array(places(counts)[word] * 32 + bit + 1).cast(pa.string())
        row = np.repeat(np.arange(counts.size), counts)
        return details.arrays(numbers, np.bincount(row[word], minlength=counts.size))
