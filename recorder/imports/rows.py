"""What one line of a log says of a socket, whoever printed it."""

from __future__ import annotations

from dataclasses import dataclass, field

Row = dict[str, object]
"""Columns of ``sockets`` by name; what the line does not say is not in it."""

STEPS = {
    "tcp": "tcp",
    "udp": "udp",
    "raw": "raw",
    "mptcp": "mptcp",
    "sctp": "sctp",
    "dccp": "dccp",
    "udplite": "udplite",
    "u_str": "unix",
    "u_seq": "unix",
    "u_dgr": "unix",
    "p_raw": "packet",
    "p_dgr": "packet",
    "nl": "netlink",
    "v_str": "vsock",
    "v_dgr": "vsock",
    "v_seq": "vsock",
    "xdp": "xdp",
    "ti_st": "tipc",
    "ti_dg": "tipc",
    "ti_rd": "tipc",
    "ti_sq": "tipc",
}
"""The table of the kernel that has a kind of socket, by netid."""

INET = ("tcp", "udp", "raw", "mptcp", "sctp", "dccp", "udplite")


@dataclass(slots=True)
class Told:
    """A socket of a log: its columns, and words that no column is known for."""

    row: Row
    unknown: list[str] = field(default_factory=list)
