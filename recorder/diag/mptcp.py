"""struct mptcp_info (include/uapi/linux/mptcp.h) → columns and details, in every length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recorder.diag.sock_diag import LISTEN, derived_cookies, give_cookies, where_not_zero
from recorder.wire.columns import Columns, Values
from recorder.wire.layout import Layout

_U4 = "<u4"
_U8 = "<u8"

LAYOUT = Layout(
    "info",
    (
        *(
            (name, n, "u1")
            for n, name in enumerate(
                "subflows add_addr_signal add_addr_accepted subflows_max add_addr_signal_max "
                "add_addr_accepted_max".split()
            )
        ),
        ("flags", 8, _U4),
        ("token", 12, _U4),
        ("write_seq", 16, _U8),
        ("snd_una", 24, _U8),
        ("rcv_nxt", 32, _U8),
        ("local_addr_used", 40, "u1"),
        ("local_addr_max", 41, "u1"),
        ("csum_enabled", 42, "u1"),
        ("retransmits", 44, _U4),
        ("bytes_retrans", 48, _U8),
        ("bytes_sent", 56, _U8),
        ("bytes_received", 64, _U8),
        ("bytes_acked", 72, _U8),
        ("subflows_total", 80, "u1"),
        ("endp_laminar_max", 81, "u1"),
        ("endp_fullmesh_max", 82, "u1"),
        ("last_data_sent_ms", 84, _U4),
        ("last_data_recv_ms", 88, _U4),
        ("last_ack_recv_ms", 92, _U4),
    ),
)

AS_TCP = (
    *("bytes_retrans", "bytes_sent", "bytes_received", "bytes_acked"),
    *("last_data_sent_ms", "last_data_recv_ms", "last_ack_recv_ms"),
)
"""Fields that are columns of their own, as they mean what those of tcp_info do."""


def values(columns: Columns) -> tuple[dict[str, Values], dict[str, Values]]:
    """Return the columns of their own, and the fields of ``details``."""
    rare = LAYOUT.values(columns)
    own = {name: rare.pop(name) for name in AS_TCP if name in rare}
    for name in ("endp_laminar_max", "endp_fullmesh_max"):
        if name in rare:  # 0 was padding there before Linux 6.18 and 6.19, and is "no limit" since
            rare[name] = where_not_zero(rare[name])
    return own, rare


def connections(columns: Columns) -> npt.NDArray[np.bool_]:
    """Return which rows may have the cookie of the listener that accepted them.

    Which sockets were accepted is not told, so all but listeners count as such.
    """
    found: npt.NDArray[np.bool_] = columns["_state"] != LISTEN
    return found


def identify(columns: Columns, rows: slice) -> None:
    """Give connections a cookie of their own, told apart by their addresses and ports."""
    whole = columns.whole
    ports = whole("local_port")[rows].astype(np.uint64) << np.uint64(16)
    numbers = ports | whole("peer_port")[rows].astype(np.uint64)
    for name in ("_src", "_dst"):
        for half in np.ascontiguousarray(whole(name)[rows]).view("<u8").reshape(-1, 2).T:
            numbers = derived_cookies(numbers, half)
    give_cookies(columns, rows, connections(columns)[rows], numbers)
