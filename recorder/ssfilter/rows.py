"""A filter of ss on rows of ``sockets`` or ``closes`` in memory: which of them it lets through.

It says what the analyzer's condition of SQL says of the same rows.
"""

from __future__ import annotations

import fnmatch
import json
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.ssfilter.protocols import protocol_of
from recorder.ssfilter.tree import (
    NO_RANGE,
    STATES,
    Address,
    And,
    Autobound,
    Cgroup,
    Device,
    Filter,
    FilterError,
    Host,
    Leaf,
    Mark,
    Name,
    Network,
    Node,
    Not,
    Or,
    Owner,
    Port,
    Side,
    leaves,
)

Mask = npt.NDArray[np.bool_]

_FAMILIES = {"link": "packet"}
_MAPPED = bytes(10) + b"\xff\xff"
_AUTOBOUND = re.compile(r"@[0-9a-f]{5}", re.ASCII)


LOOKED_AT = (
    *("family", "netns", "local_addr", "peer_addr", "local_port", "peer_port", "local_id"),
    *("peer_id", "inode", "peer_inode", "interface", "dev", "mark", "cgroup", "comm", "pid"),
    "details",
)
"""The columns of ``sockets`` that conditions may look at."""


def parsed(details: str | None) -> dict[str, Any]:
    """Return what the column ``details`` holds, nothing if it is no object; it may be anybody's."""
    try:
        found = json.loads(details or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Known:
    """What rows do not tell: the ports that the kernel takes where none is asked for, and the
    names of network namespaces, both by number."""

    ranges: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    names: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


def check(found: Filter) -> None:
    """Raise FilterError for what is known only when a recording is read."""
    for leaf in leaves(found.tree):
        if isinstance(leaf, Owner) and leaf.what in ("unit", "container"):
            what = (
                f"{leaf.what} is no condition to record by: record more, by 'process' say, and "
                f"give --filter '{leaf.what} {leaf.value}' to what reads it"
            )
            start = max(found.text.find(leaf.what), 0)
            raise FilterError(what, found.text, start, start + len(leaf.what))


def matching(found: Filter, batch: pa.RecordBatch, known: Known) -> Mask:
    """Return which rows of ``sockets`` or ``closes`` a filter lets through.

    What is closed has no state any more: with states asked for it is none.
    """
    rows = _Rows(batch, known)
    mask = np.ones(batch.num_rows, np.bool_)
    if found.states is not None and not found.states.issuperset(STATES):
        mask &= rows.text("state", lambda word: word in (found.states or ()))
    if found.family is not None:
        family = _FAMILIES.get(found.family, found.family)
        mask &= rows.text("family", lambda word: word == family)
    if found.tree is not None:
        mask &= rows.mask(found.tree)
    return mask


class _Rows:
    """The columns of a batch, as conditions look at them."""

    def __init__(self, batch: pa.RecordBatch, known: Known) -> None:
        self._batch = batch
        self._known = known
        self._names = frozenset(batch.schema.names)

    def mask(self, node: Node) -> Mask:
        if isinstance(node, And | Or):
            kind = type(node)
            join = np.logical_and if kind is And else np.logical_or
            left: Node = node
            parts: list[Node] = []
            while isinstance(left, kind):
                parts.append(left.right)
                left = left.left
            found = self.mask(left)
            for part in reversed(parts):
                found = join(found, self.mask(part))
            return found
        if isinstance(node, Not):
            return ~self.mask(node.node)
        return self._leaf(node)

    # Columns.

    def text(self, name: str, told: Callable[[str], bool], *, null: bool = False) -> Mask:
        """Return where a word is as told; where there is none it is ``null``."""
        if name not in self._names:
            return self._all(null)
        column = self._batch.column(name)
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        words = np.array([told(word) for word in column.dictionary.to_pylist()] or [False])
        found = words[np.asarray(column.indices.fill_null(0))]
        return np.where(np.asarray(column.is_valid()), found, null)

    def number(self, name: str, null: int) -> npt.NDArray[np.int64]:
        if name not in self._names:
            return np.full(self._batch.num_rows, null, np.int64)
        column = self._batch.column(name)
        return np.asarray(column.fill_null(0)).astype(np.int64) + np.where(
            np.asarray(column.is_valid()), 0, null
        )

    def _all(self, value: bool) -> Mask:
        return np.full(self._batch.num_rows, value, np.bool_)

    def _is(self, *families: str) -> Mask:
        return self.text("family", lambda word: word in families)

    def _place(self, side: Side) -> npt.NDArray[np.int64]:
        """Return what ss has in the place of a port."""
        found = self.number(f"{side}_port", 0)
        if "local_id" not in self._names:
            return found
        own = side == "local"
        others = {
            "unix": _signed(self.number("inode" if own else "peer_inode", 0)),
            "vsock": _signed(self.number("local_id" if own else "peer_id", -1)),
            "netlink": _signed(self.number("local_id", 0)) if own else np.int64(-1),
        }
        if own:
            others["packet"] = self.number("interface", 0)
            others["xdp"] = self._queue()
        for family, numbers in others.items():
            found = np.where(self._is(family), numbers, found)
        return found

    def _queue(self) -> npt.NDArray[np.int64]:
        found = np.zeros(self._batch.num_rows, np.int64)
        for row in np.flatnonzero(self._is("xdp")):
            details = parsed(self._batch.column("details")[row].as_py())
            queue = details.get("queue_id")
            found[row] = queue if isinstance(queue, int) and abs(queue) < 1 << 62 else 0
        return found

    # Conditions.

    def _leaf(self, leaf: Leaf) -> Mask:
        match leaf:
            case Host():
                return self._host(leaf)
            case Port(side, low, high):
                place = self._place(side)
                above = self._all(True) if low is None else place >= low
                return above if high is None else above & (place <= high)
            case Name(side, pattern):
                return self._is("unix") & self._named(side, pattern.lower())
            case Address():
                return self._address(leaf)
            case Device(name, index):
                named = self.text("dev", lambda word: word == name)
                return named if index is None else named | (self.number("interface", 0) == index)
            case Mark(mark, mask):
                marked: Mask = (self.number("mark", 0) & mask) == mark
                return marked
            case Cgroup(path):
                return self.text("cgroup", lambda word: word == path)
            case Autobound():
                return self._autobound()
            case Owner():
                return self._owner(leaf)

    def _host(self, host: Host) -> Mask:
        found = self._all(True)
        if host.port is not None:
            found &= self._place(host.side) == host.port
        if host.networks:
            inet = self._is("inet", "inet6")
            inside = self._all(False)
            for network in host.networks:
                inside |= self._inside(host.side, network)
            inside &= inet
            # What has no address has zeros as that of its peer.
            if host.side == "peer" and any(not _number(one) for one in host.networks):
                inside |= ~inet
            found &= inside
        return found

    def _inside(self, side: Side, network: Network) -> Mask:
        rest = 8 * len(network.address) - network.bits
        wanted = int.from_bytes(network.address, "big") >> rest

        def told(word: str) -> bool:
            packed = _packed(word)
            if len(network.address) == 4 and len(packed) == 16:
                packed = packed[12:] if packed[:12] == _MAPPED else b""
            same = len(packed) == len(network.address)
            return same and int.from_bytes(packed, "big") >> rest == wanted

        return self.text("local_addr" if side == "local" else "peer_addr", told)

    def _named(self, side: Side, pattern: str) -> Mask:
        told = re.compile(fnmatch.translate(pattern), re.DOTALL).match
        empty = told("") is not None
        if side == "peer":  # ss knows no name of a peer
            return self._all(empty)
        return self.text("local_addr", lambda word: told(word.lower()) is not None, null=empty)

    def _address(self, one: Address) -> Mask:
        found = self._is(_FAMILIES.get(one.family, one.family))
        if isinstance(one.number, str):
            name = one.number
            if one.side == "peer":
                return self._all(False)
            found &= self.text("dev", lambda word: word == name)
        elif one.number is not None:
            found &= self._place(one.side) == one.number
        if one.address is None:
            return found
        protocol = protocol_of(one)
        if one.side == "local" or one.family == "vsock":
            column = "local_addr" if one.side == "local" else "peer_addr"
            found &= self.text(column, lambda word: word == protocol)
        elif protocol not in ("rtnl", "[0]"):  # what has no peer has zeros
            return self._all(False)
        return found

    def _autobound(self) -> Mask:
        port, netns = self.number("local_port", 0), self.number("netns", 0)
        inside = (port >= NO_RANGE[0]) & (port <= NO_RANGE[1])
        for number, (low, high) in self._known.ranges.items():
            inside = np.where(netns == number, (port >= low) & (port <= high), inside)
        if "local_id" not in self._names:
            return inside
        local = _signed(self.number("local_id", 0))
        unnamed = self.text("local_addr", lambda w: bool(_AUTOBOUND.fullmatch(w)), null=True)
        every = self.text("local_addr", lambda word: word == "[0]")
        others = {
            "unix": unnamed,
            "packet": (self.number("interface", 0) == 0) & every,
            "netlink": local < 0,
            "vsock": local > 1023,
        }
        for family, mask in others.items():
            inside = np.where(self._is(family), mask, inside)
        return inside

    def _owner(self, owner: Owner) -> Mask:
        match owner.what:
            case "process":
                return self.text("comm", lambda word: word == owner.value)
            case "pid":
                held: Mask = self.number("pid", -1) == int(owner.value)
                return held
            case "netns":
                numbers = [n for n, names in self._known.names.items() if owner.value in names]
                numbers += [int(owner.value)] if owner.value.isdecimal() else []
                return np.isin(self.number("netns", 0), numbers)
        raise ValueError(owner.what)


def _signed(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return what ss keeps in an int."""
    return np.where(numbers >= 1 << 31, numbers - (1 << 32), numbers)


def _packed(word: str) -> bytes:
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in word else socket.AF_INET, word)
    except OSError:
        return b""


def _number(network: Network) -> int:
    """Return the leading bits of a network as a number."""
    rest = 8 * len(network.address) - network.bits
    return int.from_bytes(network.address, "big") >> rest
