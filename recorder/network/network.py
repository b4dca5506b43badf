"""What the network beneath the sockets is and counts, told when it changed.

A look at a namespace is a few dumps of rtnetlink. What is described, rather than counted, is only
decoded if the bytes differ from those of the look before. Looks end when the budget is spent;
namespaces that were left out come first the next time.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recorder.host.limits import lack
from recorder.network import rtnetlink
from recorder.network.rtnetlink import Rtnetlink

Row = dict[str, Any]
Rows = dict[str, list[Row]]
Dumped = dict[int, bytes | OSError]

SELDOM_EVERY = 5
"""Looks after which neighbours, whose bytes differ each time, and rules are dumped again."""

AT_ONCE = 16
"""Namespaces looked at before the budget is asked for again."""

_FOR_GOOD = (errno.EFBIG, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES)

_EVERY_LOOK = (
    rtnetlink.RTM_GETLINK,
    rtnetlink.RTM_GETSTATS,
    rtnetlink.RTM_GETQDISC,
    rtnetlink.RTM_GETADDR,
    rtnetlink.RTM_GETROUTE,
)
_WHAT = {
    rtnetlink.RTM_GETLINK: "interfaces",
    rtnetlink.RTM_GETSTATS: "counters of interfaces",
    rtnetlink.RTM_GETQDISC: "qdiscs",
    rtnetlink.RTM_GETADDR: "addresses",
    rtnetlink.RTM_GETROUTE: "routes",
    rtnetlink.RTM_GETNEIGH: "neighbours",
    rtnetlink.RTM_GETRULE: "rules",
}

_HEARD = frozenset({"REACHABLE", "STALE", "DELAY", "PROBE"})
"""States of a neighbour that follow each other all the time."""


@dataclass(frozen=True)
class NetworkStep:
    """What one look did; ``unseen`` says what is not seen, and why."""

    rows: Rows
    looked: int
    left_out: int
    unseen: list[tuple[str, str]]


@dataclass
class _Known:
    """What is known of one namespace."""

    look: int = 0
    us: int = 0
    dumped: dict[int, bytes] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    links: dict[int, Row] = field(default_factory=dict)
    interfaces: dict[int, Row] = field(default_factory=dict)
    qdiscs: dict[tuple[int, str, str], Row] = field(default_factory=dict)
    lasting: dict[str, dict[tuple[Any, ...], Row]] = field(default_factory=dict)
    """Of addresses, routes, rules and neighbours the rows told, without ``valid_to``."""


class Network:
    """Follows the network of namespaces, each known by its inode number."""

    def __init__(
        self,
        sys: Path = Path("/sys"),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sys = sys
        self._clock = clock
        self._known: dict[int, _Known] = {}
        self._look = 0
        self._again = False

    def forget(self, netns: int) -> None:
        """Forget a namespace that is gone."""
        self._known.pop(netns, None)

    def again(self) -> None:
        """Have the next look tell all, of those too that it leaves out."""
        self._again = True

    def look(
        self,
        namespaces: Sequence[int],
        each: Callable[[Sequence[int], Callable[[int], Dumped]], Sequence[Dumped | OSError]],
        now_us: int,
        *,
        budget: float,
        home: int | None = None,
    ) -> NetworkStep:
        """Look at namespaces; ``each`` runs a function of its number inside each of some.

        ``now_us`` is the time of the sample, ``budget`` in seconds. ``home`` is the namespace that
        /sys shows.
        """
        deadline = self._clock() + budget
        self._look += 1
        again, self._again = self._again, False
        rows: Rows = {}
        unseen: list[tuple[str, str]] = []
        if again:
            for netns, known in self._known.items():
                _tell_all(netns, known, rows)
        in_turn = sorted(namespaces, key=lambda netns: self._seen(netns).look)
        looked = 0
        while looked < len(in_turn) and (not looked or self._clock() < deadline):
            # the first alone: what it takes is not known yet
            some = in_turn[looked : looked + (AT_ONCE if looked else 1)]
            looked += len(some)
            for netns, dumped in zip(some, each(some, self._dump), strict=True):
                if isinstance(dumped, OSError):
                    continue  # it is gone, or was never entered, which is told elsewhere
                known = self._seen(netns)
                unseen += _refuse(known, dumped)
                for table, row in self._changes(known, dumped, now_us, netns == home):
                    rows.setdefault(table, []).append({"netns": netns} | row)
                known.look, known.us = self._look, now_us
        return NetworkStep(rows, looked, len(in_turn) - looked, unseen)

    def _dump(self, netns: int) -> Dumped:
        """Dump the tables of the namespace of this thread."""
        kinds = list(_EVERY_LOOK)
        if self._look % SELDOM_EVERY == 1:
            kinds += [rtnetlink.RTM_GETNEIGH, rtnetlink.RTM_GETRULE]
        return _dump([kind for kind in kinds if kind not in self._seen(netns).refused])

    def _seen(self, netns: int) -> _Known:
        return self._known.setdefault(netns, _Known())

    def _changes(
        self, known: _Known, dumped: Dumped, now_us: int, home: bool
    ) -> Iterator[tuple[str, Row]]:
        """Yield the rows, with their tables, of what differs from the look before."""
        fresh = {kind: found for kind, found in dumped.items() if isinstance(found, bytes)}
        differs = {kind for kind, found in fresh.items() if known.dumped.get(kind) != found}
        if rtnetlink.RTM_GETLINK in differs:
            known.links = rtnetlink.links(fresh[rtnetlink.RTM_GETLINK])
            for link in known.links.values():
                link["speed_mbit"] = self._speed(link["dev"]) if home else None
        since = {"since": known.us or None}
        if differs & {rtnetlink.RTM_GETLINK, rtnetlink.RTM_GETSTATS}:
            before = known.dumped.get(rtnetlink.RTM_GETSTATS, b"")
            counted = rtnetlink.statistics(fresh.get(rtnetlink.RTM_GETSTATS, before))
            now = {index: link | counted.get(index, {}) for index, link in known.links.items()}
            for index, row in _differences(known.interfaces, now):
                yield "interfaces", row | {"ifindex": index} | since
            known.interfaces = now
        if rtnetlink.RTM_GETQDISC in differs:
            queues = rtnetlink.qdiscs(fresh[rtnetlink.RTM_GETQDISC])
            for (index, handle, parent), row in _differences(known.qdiscs, queues):
                named = {"ifindex": index, "dev": self._dev(known, index), "handle": handle}
                yield "qdiscs", row | named | {"parent": parent} | since
            known.qdiscs = queues
        for kind, table, decode, name in _LASTING:
            if kind in differs:
                found = {
                    key: name(key, row, self._dev(known, _index(table, key)))
                    for key, row in decode(fresh[kind]).items()
                }
                for row in _lasting(known.lasting.setdefault(table, {}), found, now_us):
                    yield table, row
        known.dumped |= fresh

    def _dev(self, known: _Known, index: int | None) -> str | None:
        dev: str | None = known.links.get(index or 0, {}).get("dev")
        return dev

    def _speed(self, dev: str | None) -> int | None:
        """Return the speed of an interface in Mbit/s, None if it has none."""
        try:
            speed = int((self._sys / f"class/net/{dev}/speed").read_text())
        except (OSError, ValueError):
            return None
        return speed if speed > 0 else None


def _dump(kinds: Sequence[int]) -> Dumped:
    """Dump these; after one that failed the others, as what is heard next may be of that one."""
    found: Dumped = {}
    left = list(kinds)
    while left:
        with Rtnetlink() as route:
            try:
                while left:
                    found[left[0]] = route.dump(left[0])
                    del left[0]
            except OSError as error:
                found[left.pop(0)] = error
    return found


def _refuse(known: _Known, dumped: Dumped) -> Iterator[tuple[str, str]]:
    """Yield what could not be dumped and why; note what need not be asked for again."""
    for kind, error in dumped.items():
        if isinstance(error, OSError):
            if error.errno in _FOR_GOOD:
                known.refused.add(kind)
            why = lack(error) or error.strerror or str(error)
            if error.errno == errno.EFBIG:
                why = "there are too many"
            yield f"{_WHAT[kind]} of a network namespace", why


def _differences(before: dict[Any, Row], now: dict[Any, Row]) -> Iterator[tuple[Any, Row]]:
    """Yield what came, differs or went, the latter with nothing but its name."""
    for key, row in now.items():
        if before.get(key) != row:
            yield key, row
    for key in before.keys() - now.keys():
        yield key, {"dev": before[key].get("dev")}


def _lasting(
    told: dict[tuple[Any, ...], Row], now: dict[tuple[Any, ...], Row], now_us: int
) -> Iterator[Row]:
    """Yield rows for what ended, then for what began, and bring ``told`` up to date."""
    for key in [key for key, row in told.items() if not _same(row, now.get(key))]:
        yield told.pop(key) | {"valid_to": now_us}
    for key, row in now.items():
        if key not in told:
            told[key] = row | {"valid_from": now_us}
            yield told[key]


def _same(told: Row, now: Row | None) -> bool:
    if now is None:
        return False
    heard = told.get("state") in _HEARD and now.get("state") in _HEARD
    return all(told[name] == now[name] or (heard and name == "state") for name in now)


def _tell_all(netns: int, known: _Known, rows: Rows) -> None:
    """Add the rows of all that is known of a namespace."""
    at = {"netns": netns, "since": known.us or None}
    for index, row in known.interfaces.items():
        rows.setdefault("interfaces", []).append(row | at | {"ifindex": index})
    for (index, handle, parent), row in known.qdiscs.items():
        dev = known.links.get(index, {}).get("dev")
        named = {"ifindex": index, "dev": dev, "handle": handle, "parent": parent}
        rows.setdefault("qdiscs", []).append(row | at | named)
    for table, told in known.lasting.items():
        rows.setdefault(table, []).extend({"netns": netns} | row for row in told.values())


def _index(table: str, key: tuple[Any, ...]) -> int | None:
    index: int | None = None if table == "rules" else key[4] if table == "routes" else key[0]
    return index


def _address(key: tuple[Any, ...], row: Row, dev: str | None) -> Row:
    index, family, address, prefix_len = key
    named = {"ifindex": index, "dev": dev, "family": family, "address": address}
    return named | {"prefix_len": prefix_len} | row


def _route(key: tuple[Any, ...], row: Row, dev: str | None) -> Row:
    family, table, destination, priority, index, gateway = key
    network, _, prefix_len = destination.rpartition("/")
    named = {"family": family, "routing_table": table, "destination": network, "priority": priority}
    return (
        named
        | {"prefix_len": int(prefix_len), "ifindex": index, "dev": dev}
        | row
        | {"gateway": gateway}
    )


def _rule(key: tuple[Any, ...], row: Row, dev: str | None) -> Row:
    return row


def _neighbour(key: tuple[Any, ...], row: Row, dev: str | None) -> Row:
    index, family, address = key
    return {"ifindex": index, "dev": dev, "family": family, "address": address} | row


_LASTING = (
    (rtnetlink.RTM_GETADDR, "addresses", rtnetlink.addresses, _address),
    (rtnetlink.RTM_GETROUTE, "routes", rtnetlink.routes, _route),
    (rtnetlink.RTM_GETNEIGH, "neighbours", rtnetlink.neighbours, _neighbour),
    (rtnetlink.RTM_GETRULE, "rules", rtnetlink.rules, _rule),
)
