"""What all families of sock_diag share (include/uapi/linux/sock_diag.h, net/tcp_states.h)."""

from __future__ import annotations

from recorder.layout import Layout

SOCK_DIAG_BY_FAMILY = 20

STATES = (
    "UNKNOWN ESTAB SYN-SENT SYN-RECV FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT UNCONN CLOSE-WAIT LAST-ACK "
    "LISTEN CLOSING SYN-RECV UNCONN"
).split()
"""Names as ss prints them, by the kernel's number; NEW_SYN_RECV and BOUND_INACTIVE are last."""

_SK_MEMINFO = "rmem_alloc rcvbuf wmem_alloc sndbuf fwd_alloc wmem_queued optmem backlog drops"

SKMEM = Layout("skmem", tuple((name, 4 * n, "<u4") for n, name in enumerate(_SK_MEMINFO.split())))
"""The SK_MEMINFO_* words; backlog came with 3.6 and drops with 4.7."""
