"""INET_DIAG_ULP_INFO, what TLS or MPTCP above a TCP socket tells, → columns.

Layouts: include/uapi/linux/{inet_diag,tls,mptcp}.h.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recorder.diag.sock_diag import absent_at
from recorder.wire import text
from recorder.wire.columns import Arrays, Bits, Columns, Values
from recorder.wire.netlink import Dump, Offsets, Words, attributes, gather_number, gather_text

NAME, TLS, MPTCP = 1, 2, 3
MPTCP_PAD = 11
INFO = 19
_MPTCP_NAME = int.from_bytes(b"mptcp", "little")

TLS_SCALARS = {
    1: ("tls_version", "<u2"),
    2: ("tls_cipher", "<u2"),
    3: ("tls_txconf", "<u2"),
    4: ("tls_rxconf", "<u2"),
    5: ("tls_zc_ro_tx", "flag"),
    6: ("tls_rx_no_pad", "flag"),
    7: ("tls_tx_max_payload_len", "<u2"),
}
MPTCP_SCALARS = {
    1: ("mptcp_token_rem", "<u4"),
    2: ("mptcp_token_loc", "<u4"),
    3: ("mptcp_relwrite_seq", "<u4"),
    4: ("mptcp_map_seq", "<u8"),
    5: ("mptcp_map_sfseq", "<u4"),
    6: ("mptcp_ssn_offset", "<u4"),
    7: ("mptcp_map_datalen", "<u2"),
    8: ("mptcp_flags", "<u4"),
    9: ("mptcp_id_rem", "u1"),
    10: ("mptcp_id_loc", "u1"),
}
_NESTS = ((TLS, TLS_SCALARS, 0), (MPTCP, MPTCP_SCALARS, 16))
_SCALARS = {shift + kind: value for _, nest, shift in _NESTS for kind, value in nest.items()}
"""Bit of the internal column ``_ulp_present`` → column, type."""

COLUMN_TYPES: dict[str, npt.DTypeLike] = {
    "_ulp_present": "u4",
    "_ulp": "V16",
    **{name: "u1" if kind == "flag" else kind for name, kind in _SCALARS.values()},
}
"""What ``decode`` needs in Columns."""


def decode(
    words: Words,
    at: Offsets,
    length: npt.NDArray[np.int32],
    columns: Columns,
    rows: slice,
    dump: Dump,
) -> None:
    """Copy the attribute of every row to the columns; ``length`` 0 says that it has none."""
    whole = columns.whole
    for column in COLUMN_TYPES:
        whole(column)[rows] = np.zeros((), whole(column).dtype)
    having = np.flatnonzero(length)
    if not having.size:
        return
    absent = absent_at(words)
    start = at[having]
    stop = start + length[having]
    outer = attributes(words, start, stop, MPTCP, absent, np.zeros(start.size, np.bool_))
    dump.count_unknown(outer.others((NAME, TLS, MPTCP)), f"{INFO}/")
    name = np.zeros(rows.stop - rows.start, "V16")
    name[having] = gather_text(words, outer.at[NAME], outer.length[NAME], 16)
    whole("_ulp")[rows] = name
    bits = np.zeros(start.size, np.uint32)
    for nest, scalars, shift in _NESTS:
        begin, size = outer.at[nest], outer.length[nest]
        end = begin + size
        inner = attributes(words, begin, end, max(scalars), absent, np.zeros(start.size, np.bool_))
        known = (*scalars, MPTCP_PAD) if nest == MPTCP else scalars
        dump.count_unknown(inner.others(known), f"{INFO}/{nest}/")
        for kind, (column, type_) in scalars.items():
            target = whole(column)[rows]
            if type_ == "flag":
                target[having] = inner.present >> np.uint32(kind) & 1
                bits[size > 0] |= np.uint32(1 << kind + shift)
                continue
            dtype = np.dtype(type_)
            full = inner.length[kind] >= dtype.itemsize
            target[having] = gather_number(words, inner.at[kind], dtype)
            bits[full] |= np.uint32(1 << kind + shift)
    whole("_ulp_present")[rows.start + having] = bits


def values(columns: Columns, having: npt.NDArray[np.bool_] | None) -> Arrays:
    """Return the columns; ``having`` are the rows with the attribute, None: all."""
    result: Arrays = {"ulp": text.names(columns["_ulp"], having)}
    present = Bits(columns["_ulp_present"].astype(np.uint32, copy=False))
    for bit, (name, _) in _SCALARS.items():
        if present.any(bit):
            result[name] = Values(columns[name], present.mask(bit))
    return result


def subflows(columns: Columns) -> npt.NDArray[np.uint8]:
    """Return 1 for the rows that are subflows of MPTCP, 0 for others."""
    first_eight = columns["_ulp"].view("<u8")[::2]
    found: npt.NDArray[np.uint8] = (first_eight == _MPTCP_NAME).astype(np.uint8)
    return found
