"""What ss -s prints: how many sockets there are, by the kernel's counters of one namespace.

The kernel counts allocated and orphaned TCP sockets of the whole host only. ss prints these in
every namespace; here they are told of a host of one namespace, and counted from the rows of others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from analyzer.sql.engine import Engine

_COUNTED = (
    *("sockets.used", "TCP.inuse", "TCP.orphan", "TCP.tw", "TCP.alloc", "UDP.inuse", "RAW.inuse"),
    *("FRAG.inuse", "TCP6.inuse", "UDP6.inuse", "RAW6.inuse", "FRAG6.inuse", "Tcp.CurrEstab"),
)
_ORPHANED = "('FIN-WAIT-1', 'FIN-WAIT-2', 'LAST-ACK', 'CLOSING')"


@dataclass(frozen=True, slots=True)
class Counts:
    """The kernel's counters by name, and what of TCP was counted from rows, if it was."""

    values: dict[str, int]
    closed: int | None = None
    orphaned: int | None = None

    @classmethod
    def read(cls, engine: Engine, sample: int, netns: int, *, alone: bool) -> Counts | None:
        """Return the counts at a sample, None if there are none."""
        names = ", ".join(f"'{name}'" for name in _COUNTED)
        found = engine.table(
            "SELECT name, arg_max(value, 2 * sample + CAST(phase = 'after' AS INTEGER)) AS value "
            f"FROM counters WHERE name IN ({names}) AND netns = {netns} "
            f"AND (sample < {sample} OR (sample = {sample} AND phase = 'before')) GROUP BY name"
        ).to_pylist()
        values = {row["name"]: row["value"] or 0 for row in found}
        if not values:
            return None
        if alone:
            return cls(values)
        (rows,) = engine.table(
            "SELECT count(*) FILTER (WHERE state = 'UNCONN') AS closed, "
            f"count(*) FILTER (WHERE inode = 0 AND timer IS DISTINCT FROM 'timewait' "
            f"AND state IN {_ORPHANED}) AS orphaned "
            f"FROM sockets WHERE sample = {sample} AND netns = {netns} AND netid = 'tcp'"
        ).to_pylist()
        return cls(values, rows["closed"], rows["orphaned"])

    def lines(self) -> Iterator[str]:
        """Yield what ss -s prints."""
        value = {name: self.values.get(name, 0) for name in _COUNTED}
        tcp4, tcp6, waiting = value["TCP.inuse"], value["TCP6.inuse"], value["TCP.tw"]
        if self.closed is None:
            total = value["TCP.alloc"] + waiting
            closed, orphaned = value["TCP.alloc"] - (tcp4 + tcp6 - waiting), value["TCP.orphan"]
        else:
            closed, orphaned = self.closed, self.orphaned or 0
            total = tcp4 + tcp6 + waiting + closed
        yield f"Total: {value['sockets.used']}\n"
        yield (
            f"TCP:   {total} (estab {value['Tcp.CurrEstab']}, closed {closed}, "
            f"orphaned {orphaned}, timewait {waiting})\n"
        )
        yield "\n"
        yield "Transport Total     IP        IPv6\n"
        rows = {
            "RAW": (value["RAW.inuse"], value["RAW6.inuse"]),
            "UDP": (value["UDP.inuse"], value["UDP6.inuse"]),
            "TCP": (tcp4, tcp6),
        }
        rows["INET"] = (sum(v4 for v4, _ in rows.values()), sum(v6 for _, v6 in rows.values()))
        rows["FRAG"] = (value["FRAG.inuse"], value["FRAG6.inuse"])
        for name, (v4, v6) in rows.items():
            yield f"{name}\t  {v4 + v6:<9d} {v4:<9d} {v6:<9d}\n"
        yield "\n"
