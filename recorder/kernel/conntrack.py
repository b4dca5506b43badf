"""Who fills the connection tracking table: its entries, folded, of each namespace."""

from __future__ import annotations

import errno
import math
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recorder.diag import nfnetlink_conntrack as header
from recorder.kernel.transport import TIMEOUT_S, DiagSocket, make_buffer
from recorder.wire.netlink import Outcome, Words

Row = dict[str, Any]

EVERY_S = 10.0
"""Seconds between two looks at a table, as entries stay for minutes."""

SHARE = 0.02
"""Share of the time that looks may take: a table of a million entries is looked at less often."""

MOST_GROUPS = 1000
"""What more entries have in common is told by protocol and state only."""

_NETLINK_NETFILTER = 12
_FOR_GOOD = (errno.EPERM, errno.EOPNOTSUPP)
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 58: "icmpv6", 132: "sctp"}
_FAMILIES: dict[int, str] = {socket.AF_INET: "inet", socket.AF_INET6: "inet6"}


@dataclass(frozen=True)
class Look:
    """What one look at a table gave; ``entries`` of all rows together."""

    rows: list[Row]
    entries: int
    outcome: Outcome
    bad: int = 0


class Conntrack:
    """Looks at the tables of namespaces, each known by its inode number."""

    def __init__(
        self, proc: Path = Path("/proc"), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._proc = proc
        self._clock = clock
        self._due: dict[int, float] = {}
        self._buffer: Words | None = None

    def forget(self, netns: int) -> None:
        """Forget a namespace that is gone."""
        self._due.pop(netns, None)

    def is_due(self, netns: int) -> bool:
        return self._clock() >= self._due.get(netns, 0.0)

    def look(self, netns: int) -> Look:
        """Look at the table of the namespace of this thread, whose number is given."""
        began = self._clock()
        self._due[netns] = began + EVERY_S
        try:
            if not int((self._proc / "sys/net/netfilter/nf_conntrack_count").read_text()):
                return Look([], 0, Outcome())
        except FileNotFoundError:
            return Look([], 0, Outcome("unavailable", errno.ENOENT, "no connections are tracked"))
        except (OSError, ValueError):
            pass  # the dump tells
        entries = header.Entries()
        if self._buffer is None:
            self._buffer = make_buffer()
        try:
            asked = DiagSocket(_connect, self._buffer)
        except OSError as error:
            number = error.errno or errno.EIO
            return Look([], 0, Outcome.of_errno(number, "opening a socket of netfilter"))
        try:
            dump = asked.dump(header.CTNETLINK_GET, header.BODY, entries.decode)
        finally:
            asked.close()
        if dump.outcome.errno in _FOR_GOOD:
            self._due[netns] = math.inf
            why = "needs CAP_NET_ADMIN" if dump.outcome.errno == errno.EPERM else "not known here"
            return Look([], 0, Outcome("unavailable", dump.outcome.errno, why))
        groups, counts = entries.counted()
        rows = [_row(group, int(n)) for group, n in zip(groups[:MOST_GROUPS], counts, strict=False)]
        rows += _rest(groups[MOST_GROUPS:], counts[MOST_GROUPS:])
        self._due[netns] = began + max(EVERY_S, (self._clock() - began) / SHARE)
        return Look(rows, int(counts.sum()), dump.outcome, dump.bad)


def _connect() -> tuple[socket.socket, int]:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    made = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
    try:
        made.bind((0, 0))
        made.settimeout(TIMEOUT_S)
    except OSError:
        made.close()
        raise
    return made, made.getsockname()[0]


def _row(group: npt.NDArray[np.void], entries: int) -> Row:
    """Return the row of a group. What NAT left alone is NULL."""
    family = int(group["family"])
    source, destination, answers, answered = (
        _text(family, group[name])
        for name in ("source", "destination", "reply_source", "reply_destination")
    )
    port, reply_port = int(group["port"]), int(group["reply_port"])
    moved = (answers, reply_port) != (destination, port)
    return _common(group, entries) | {
        "family": _FAMILIES.get(family),
        "source": source,
        "destination": destination,
        "port": port or None,
        "nat_destination": answers if moved else None,
        "nat_port": reply_port or None if moved else None,
        "nat_source": answered if answered != source else None,
    }


def _rest(groups: npt.NDArray[np.void], counts: npt.NDArray[np.int64]) -> list[Row]:
    """Return rows of protocol and state for all these groups."""
    kinds = groups[["protocol", "state", "unreplied"]]
    return [_common(kind, int(counts[kinds == kind].sum())) for kind in np.unique(kinds)]


def _common(group: npt.NDArray[np.void], entries: int) -> Row:
    protocol, state = int(group["protocol"]), int(group["state"])
    return {
        "protocol": _PROTOCOLS.get(protocol, str(protocol)),
        "state": header.TCP_STATES[state] if state < len(header.TCP_STATES) else None,
        "unreplied": int(group["unreplied"]),
        "entries": entries,
    }


def _text(family: int, address: npt.NDArray[np.void]) -> str | None:
    if family not in _FAMILIES:
        return None
    size = 4 if family == socket.AF_INET else 16
    return socket.inet_ntop(family, bytes(address)[:size])
