"""What ss -s prints: how many sockets there are, by the kernel's counters of one namespace.

The kernel counts allocated and orphaned TCP sockets of the whole host only. ss prints these in
every namespace; here they are told of a host of one namespace, and counted from the rows of others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analyzer.ss.layout import together
from analyzer.ss.rows import Mask, Rows
from recorder.schema import COUNTERS, SOCKETS

_COUNTED = (
    *("sockets.used", "TCP.inuse", "TCP.orphan", "TCP.tw", "TCP.alloc", "UDP.inuse", "RAW.inuse"),
    *("FRAG.inuse", "TCP6.inuse", "UDP6.inuse", "RAW6.inuse", "FRAG6.inuse", "Tcp.CurrEstab"),
)
_ORPHANED = ("FIN-WAIT-1", "FIN-WAIT-2", "LAST-ACK", "CLOSING")


@dataclass(frozen=True, slots=True)
class Counts:
    """The kernel's counters by name, and what of TCP was counted from rows, if it was."""

    values: dict[str, int]
    closed: int | None = None
    orphaned: int | None = None

    @classmethod
    def read(cls, rows: Rows, sample: int, netns: int, *, alone: bool) -> Counts | None:
        """Return the counts at a sample, None if there are none."""

        def chosen(batch: pa.RecordBatch) -> Mask:
            kinds, of = together(batch["name"], batch["netns"])
            return np.array([n in _COUNTED and of_ == netns for n, of_ in kinds], np.bool_)[of]

        names = ["sample", "phase", "name", "netns", "value"]
        found = rows.read(COUNTERS, names, chosen=chosen, early=True)
        found = found.filter(found["value"].is_valid())
        after = pc.equal(found["phase"], "after").fill_null(False).cast(pa.int64())
        when = np.asarray(pc.add(pc.multiply(found["sample"], 2), after))
        known = np.argsort(when, kind="stable")[: np.count_nonzero(when <= 2 * sample)]
        latest = found.select(["name", "value"]).take(pa.array(known))
        values = dict(zip(*(column.to_pylist() for column in latest.columns), strict=True))
        if not values or alone:
            return cls(values) if values else None
        sockets = rows.read(SOCKETS, ["netns", "netid", "state", "timer", "inode"], sample)
        kinds, of = together(*sockets.columns[:4], pc.equal(sockets["inode"], 0))
        closed = orphaned = 0
        for kind, count in zip(kinds, np.bincount(of).tolist(), strict=True):
            space, netid, state, timer, free = kind
            if (space, netid) == (netns, "tcp"):
                closed += count * (state == "UNCONN")
                orphaned += count * bool(free and timer != "timewait" and state in _ORPHANED)
        return cls(values, closed, orphaned)

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
