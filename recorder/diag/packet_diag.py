"""packet_diag (include/uapi/linux/packet_diag.h): the request, messages → columns."""

from __future__ import annotations

import socket
import struct

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recorder.diag.sock_diag import SKMEM, STATES, UNCONN, FamilyDiag, where_not_zero
from recorder.ssfilter.protocols import ETHERNET
from recorder.wire import details, text
from recorder.wire.columns import Values, code_words
from recorder.wire.layout import Layout

INFO, MCLIST, RX_RING, TX_RING, FANOUT, UID, MEMINFO, FILTER = range(8)
SHOW_ALL = 0x3F

NETIDS = ["p_raw", "p_dgr"]

MESSAGE = np.dtype(
    {
        "names": ["_type", "_protocol", "inode", "cookie"],
        "formats": ["u1", "<u2", "<u4", "<u8"],
        "offsets": [1, 2, 4, 8],
        "itemsize": 16,
    }
)

_INFO = Layout(
    "info",
    tuple(
        (name, 4 * n, "<i4" if name == "copy_thresh" else "<u4")  # that may be set to any int
        for n, name in enumerate("interface version reserve copy_thresh tstamp flags".split())
    ),
)
_RING = "block_size block_nr frame_size frame_nr retire_tmo sizeof_priv features"
_RINGS = {
    kind: Layout(
        name, tuple((f"{name}.{field}", 4 * n, "<u4") for n, field in enumerate(_RING.split()))
    )
    for kind, name in ((RX_RING, "rx_ring"), (TX_RING, "tx_ring"))
}

_MEMBERSHIP = np.dtype(
    [("index", "<u4"), ("count", "<u4"), ("type", "<u2"), ("alen", "<u2"), ("addr", "u1", (32,))]
)
_INSTRUCTION = np.dtype([("code", "<u2"), ("jt", "u1"), ("jf", "u1"), ("k", "<u4")])


def request_all() -> bytes:
    """Return struct packet_diag_req for every socket and everything the kernel can show."""
    return struct.pack("=BBHIIII", socket.AF_PACKET, 0, 0, 0, SHOW_ALL, 0, 0)


def protocol_names(protocols: npt.NDArray[np.uint16]) -> pa.DictionaryArray:
    """Return Ethernet protocols as ss prints them: arp, * for all, [2048] for an unknown one."""
    distinct, codes = np.unique(protocols, return_inverse=True)
    names = [ETHERNET.get(number, f"[{number}]") for number in distinct.tolist()]
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32)), pa.array(names, pa.string())
    )


class PacketDiag(FamilyDiag):
    """Decodes the messages of one dump after another into the same columns."""

    def __init__(self) -> None:
        super().__init__(
            MESSAGE,
            {INFO: _INFO, MEMINFO: SKMEM, **_RINGS},
            {FANOUT: ("fanout", "<u4"), UID: ("uid", "<u4")},
            {MCLIST: _MEMBERSHIP.itemsize, FILTER: _INSTRUCTION.itemsize},
        )

    def rows(self) -> dict[str, Values | pa.Array]:
        """Return the columns of all rows decoded since the last ``clear``; absent ones are NULL."""
        columns = self.columns
        count = columns.rows
        skmem = SKMEM.values(columns)
        info = _INFO.values(columns)
        interface = info.pop("interface", None)
        result: dict[str, Values | pa.Array] = {
            "family": code_words(np.zeros(count, np.int8), ["packet"]),
            "netid": code_words((columns["_type"] != socket.SOCK_RAW).astype(np.int8), NETIDS),
            "state": code_words(np.full(count, UNCONN, np.int8), STATES),
            "local_addr": protocol_names(columns["_protocol"]),
            "inode": Values(columns["inode"]),
            "cookie": Values(columns["cookie"]),
            "uid": Values(columns["uid"], self._has(UID)),
            "send_q": Values(np.zeros(count, np.uint32)),
            **skmem,
        }
        if "rmem_alloc" in skmem:
            result["recv_q"] = skmem["rmem_alloc"]
        if interface is not None:
            result["interface"] = where_not_zero(interface)
        result["details"] = details.column({**info, **self._rare_fields()}, count)
        return result

    def _rare_fields(self) -> dict[str, Values | pa.Array]:
        columns = self.columns
        fields: dict[str, Values | pa.Array] = {}
        for ring in _RINGS.values():
            fields |= ring.values(columns)
        if self._has(FANOUT).any():
            fields["fanout"] = Values(columns["fanout"], self._has(FANOUT))
        if self._lists[MCLIST]:
            fields["mclist"] = self._memberships()
        if self._has(FILTER).any():
            fields["filter"] = self._filters()
        return fields

    def _memberships(self) -> pa.StringArray:
        entries = self._lists[MCLIST].elements().view(_MEMBERSHIP).reshape(-1)
        length = np.minimum(entries["alen"], entries["addr"].shape[1]).astype(np.int64)
        fields = {name: Values(entries[name]) for name in ("index", "count", "type")}
        address = details.strings(text.hexadecimal(entries["addr"], length))
        elements = details.objects({**fields, "addr": address}, entries.size)
        return details.arrays(elements, self._lists[MCLIST].counts(self.columns.rows))

    def _filters(self) -> pa.StringArray:
        """Return the programs as ``tcpdump -ddd`` writes them, lines joined by commas.

        JSON null is what the kernel did not tell: without CAP_NET_ADMIN it sends nothing inside.
        """
        program = self._lists[FILTER].elements().view(_INSTRUCTION).reshape(-1)
        lines = pc.binary_join_element_wise(
            *(pa.array(program[name]).cast(pa.string()) for name in ("code", "jt", "jf", "k")), " "
        )
        joined = details.joined_lists(lines, self._lists[FILTER].counts(self.columns.rows))
        withheld = pa.array(self._has(FILTER))
        null = pa.scalar(None, pa.string())
        return pc.coalesce(details.strings(joined), pc.if_else(withheld, "null", null))
