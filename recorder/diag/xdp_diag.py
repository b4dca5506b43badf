"""xdp_diag (include/uapi/linux/xdp_diag.h): the request, messages → columns."""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa

from recorder.diag.sock_diag import SKMEM, STATES, UNCONN, FamilyDiag, where_not_zero
from recorder.wire import details
from recorder.wire.columns import Values, code_words
from recorder.wire.layout import Layout

AF_XDP = 44

INFO, UID, RX_RING, TX_RING, UMEM, FILL_RING, COMPLETION_RING, MEMINFO, STATS = range(1, 10)
SHOW_ALL = 0x1F

MESSAGE = np.dtype(
    {"names": ["inode", "cookie"], "formats": ["<u4", "<u8"], "offsets": [4, 8], "itemsize": 16}
)

_INFO = Layout("info", (("interface", 0, "<u4"), ("queue_id", 4, "<u4")))
_UMEM_WORDS = "id num_pages chunk_size headroom ifindex queue_id flags refs"
_UMEM = Layout(
    "umem",
    (
        ("umem.size", 0, "<u8"),
        *((f"umem.{name}", 8 + 4 * n, "<u4") for n, name in enumerate(_UMEM_WORDS.split())),
    ),
)
_STATS = "rx_dropped rx_invalid rx_full fill_ring_empty tx_invalid tx_ring_empty"
_STATISTICS = Layout(
    "stats", tuple((f"stats.n_{name}", 8 * n, "<u8") for n, name in enumerate(_STATS.split()))
)


def request_all() -> bytes:
    """Return struct xdp_diag_req for every socket and everything the kernel can show."""
    return struct.pack("=BBHIIII", AF_XDP, 0, 0, 0, SHOW_ALL, 0, 0)


class XdpDiag(FamilyDiag):
    """Decodes the messages of one dump after another into the same columns."""

    def __init__(self) -> None:
        super().__init__(
            MESSAGE,
            {INFO: _INFO, UMEM: _UMEM, MEMINFO: SKMEM, STATS: _STATISTICS},
            {
                UID: ("uid", "<u4"),
                RX_RING: ("rx_ring", "<u4"),
                TX_RING: ("tx_ring", "<u4"),
                FILL_RING: ("umem_fill_ring", "<u4"),
                COMPLETION_RING: ("umem_completion_ring", "<u4"),
            },
            other=(0,),
        )

    def rows(self) -> dict[str, Values | pa.Array]:
        """Return the columns of all rows decoded since the last ``clear``; absent ones are NULL."""
        columns = self.columns
        count = columns.rows
        skmem = SKMEM.values(columns)
        info = _INFO.values(columns)
        scalars = self._scalar_values()
        result: dict[str, Values | pa.Array] = {
            "family": code_words(np.zeros(count, np.int8), ["xdp"]),
            "netid": code_words(np.zeros(count, np.int8), ["xdp"]),
            "state": code_words(np.full(count, UNCONN, np.int8), STATES),
            "inode": Values(columns["inode"]),
            "cookie": Values(columns["cookie"]),
            "uid": scalars.pop("uid"),
            "send_q": Values(np.zeros(count, np.uint32)),
            **skmem,
        }
        if "rmem_alloc" in skmem:
            result["recv_q"] = skmem["rmem_alloc"]
        fields: dict[str, Values | pa.Array] = {}
        if "queue_id" in info:
            bound = where_not_zero(info["interface"])
            result["interface"] = bound
            fields["queue_id"] = Values(columns["queue_id"], bound.valid)
        fields |= {**scalars, **_UMEM.values(columns), **_STATISTICS.values(columns)}
        result["details"] = details.column(fields, count)
        return result
