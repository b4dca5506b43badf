"""The kernel's own sockets: they have an inode, and no process can ever hold them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recorder.diag.sock_diag import LISTEN
from recorder.kernel.tables import NO_INODES, Gathered
from recorder.procnet.lines import hashed_words
from recorder.wire.columns import AnyArray, Columns

TIPC_TOP_SRV = 1
"""The type of TIPC's topology server (include/uapi/linux/tipc.h); no user may bind to it."""

Inodes = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class KernelSockets:
    """Inodes of one namespace that are the kernel's, or are if no process holds them."""

    carriers: Inodes
    """TCP sockets that SMC made for connections of its own."""
    subscriptions: Inodes
    """Both ends of connections to TIPC's topology server, of which the kernel has one."""
    listeners: Inodes
    """Listeners of TIPC, one of which is the topology server's."""

    def of(self, unheld: Callable[[Inodes], Inodes]) -> int:
        """Count those among what is sought, given which of some no process holds."""
        if not (self.subscriptions.size or self.listeners.size):
            return 0
        listeners = unheld(self.listeners).size
        return int(unheld(self.subscriptions).size) + min(listeners, 1)

    def certain(self, unheld: Callable[[Inodes], Inodes]) -> Inodes:
        """Return those that are the kernel's beyond doubt, if no process holds them.

        While some process was not looked at, an end or a listener may be of that.
        """
        ends, listeners = unheld(self.subscriptions), unheld(self.listeners)
        half = 2 * ends.size == np.unique(self.subscriptions).size
        return np.concatenate(
            [
                self.carriers,
                ends if half else NO_INODES,
                listeners if listeners.size == 1 else NO_INODES,
            ]
        )


NONE = KernelSockets(NO_INODES, NO_INODES, NO_INODES)


def find(gathered: Mapping[str, Gathered], netns: int) -> KernelSockets:
    """Return those of a namespace."""
    if not any(key in gathered and gathered[key].rows for key in ("smc", "tipc")):
        return NONE
    mine = {
        key: _Rows(gathered[key].decoder.columns, np.flatnonzero(gathered[key].netns() == netns))
        for key in ("smc", "tipc", "tcp", "/proc/net/tcp")
        if key in gathered
    }
    return KernelSockets(_carriers(mine), *_tipc(mine))


@dataclass(frozen=True)
class _Rows:
    """Some rows of a table."""

    columns: Columns
    places: npt.NDArray[np.int64]


def _carriers(tables: Mapping[str, _Rows]) -> Inodes:
    if "smc" not in tables:
        return NO_INODES
    smc = _ends(tables["smc"])
    found = [NO_INODES]
    for key in ("tcp", "/proc/net/tcp"):
        if key in tables:
            mine = np.isin(_ends(tables[key]), smc)
            found.append(_column(tables[key], "inode")[mine].astype(np.uint32))
    return np.concatenate(found)


def _tipc(tables: Mapping[str, _Rows]) -> tuple[Inodes, Inodes]:
    if "tipc" not in tables:
        return NO_INODES, NO_INODES
    table = tables["tipc"]
    inodes = _column(table, "inode").astype(np.uint32)
    sequenced = _column(table, "_type") == socket.SOCK_SEQPACKET
    served = _column(table, "_has_con.type") & (_column(table, "con.type") == TIPC_TOP_SRV)
    listens = (_column(table, "_state") == LISTEN) & (_column(table, "has_publ") != 0)
    return inodes[sequenced & served], inodes[sequenced & listens]


def _column(table: _Rows, name: str) -> AnyArray:
    found: AnyArray = table.columns[name][table.places]
    return found


def _ends(table: _Rows) -> npt.NDArray[np.uint64]:
    """Return one number for the addresses and ports of each row."""
    words = [_column(table, name) for name in ("local_port", "peer_port")]
    for name in ("_src", "_dst"):
        words += list(np.ascontiguousarray(_column(table, name)).view(np.uint64).reshape(-1, 2).T)
    return hashed_words(words)
