"""A filter of ss as a condition of SQL on the rows of ``sockets`` or ``closes``.

ss knows no NULL: every condition is true or false.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from analyzer.sql.views import Filtered
from recorder.schema import CLOSES, SOCKETS, Table
from recorder.ssfilter import (
    NO_RANGE,
    STATES,
    Address,
    And,
    Autobound,
    Cgroup,
    Device,
    Filter,
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
    parse,
    protocol_of,
)

if TYPE_CHECKING:
    from analyzer.sql.engine import Engine

Ranges = Mapping[int, tuple[int, int]]
"""By namespace (``ns``), the ports that the kernel takes where none is asked for."""

_INET = "family IN ('inet', 'inet6')"
_MAPPED = bytes(10) + b"\xff\xff"
_FAMILIES = {"link": "packet"}
"""Families in ss's filters by another name than in the column."""


def filtered(engine: Engine, text: str) -> Filtered:
    """Return a filter as what a scope is narrowed by. Raises FilterError."""
    found = parse(text)
    ranges = {}
    if any(isinstance(leaf, Autobound) for leaf in leaves(found.tree)):
        known = engine.table("SELECT ns, low, high FROM port_ranges").to_pylist()
        ranges = {row["ns"]: (row["low"], row["high"]) for row in known}
    return Filtered(text, *(condition(found, table, ranges) for table in (SOCKETS, CLOSES)))


def condition(found: Filter, table: Table = SOCKETS, ranges: Ranges | None = None) -> str:
    """Return a filter as one expression over the columns of a table.

    What is closed has no state any more: one of closes is true by conditions alone.
    """
    parts = []
    if found.states is not None and not found.states.issuperset(STATES):
        if table != SOCKETS:
            return "false"
        parts.append(f"state IN ({_list(found.states)})")
    if found.family is not None:
        parts.append(f"family = '{_FAMILIES.get(found.family, found.family)}'")
    if found.tree is not None:
        parts.append(tree_condition(found.tree, table, ranges))
    return " AND ".join(f"({part})" for part in parts) or "true"


def tree_condition(node: Node, table: Table = SOCKETS, ranges: Ranges | None = None) -> str:
    """Return a tree of conditions as one expression."""
    return _Writer(frozenset(table.names), ranges or {}).write(node)


class _Writer:
    def __init__(self, columns: Collection[str], ranges: Ranges) -> None:
        self._columns = columns
        self._ranges = ranges

    def write(self, node: Node) -> str:
        if isinstance(node, And | Or):
            return self._list(node)
        if isinstance(node, Not):
            return f"NOT {self.write(node.node)}"
        return f"coalesce({self._leaf(node)}, false)"

    def _list(self, node: And | Or) -> str:
        """Write a list of one operator flat: brackets in brackets are soon too many."""
        kind, word = (And, " AND ") if isinstance(node, And) else (Or, " OR ")
        parts: list[Node] = []
        left: Node = node
        while isinstance(left, kind):
            parts.append(left.right)
            left = left.left
        return f"({word.join(self.write(part) for part in (left, *reversed(parts)))})"

    def _leaf(self, leaf: Leaf) -> str:
        match leaf:
            case Host():
                return self._host(leaf)
            case Port(side, low, high):
                number = self._number(side)
                return f"{number} >= {low}" if high is None else f"{number} <= {high}"
            case Name(side, pattern):
                name = "local_addr" if side == "local" else "NULL"
                pattern = _literal(pattern.lower())
                return f"family = 'unix' AND lower(coalesce({name}, '')) GLOB {pattern}"
            case Address():
                return self._address(leaf)
            case Device(name, index):
                by_index = "" if index is None else f" OR coalesce(interface, 0) = {index}"
                return f"dev = {_literal(name)}{by_index}"
            case Mark(mark, mask):
                found = "coalesce(mark, 0)" if "mark" in self._columns else "0"
                return f"({found} & {mask}) = {mark}"
            case Cgroup(path):
                return f"cgroup = {_literal(path)}" if "cgroup" in self._columns else "false"
            case Autobound():
                return self._autobound()
            case Owner():
                return self._owner(leaf)

    def _host(self, host: Host) -> str:
        parts = [] if host.port is None else [f"{self._number(host.side)} = {host.port}"]
        if host.networks:
            addr = "local_addr" if host.side == "local" else "peer_addr"
            inside = " OR ".join(_in_network(addr, network) for network in host.networks)
            found = f"{_INET} AND ({inside})"
            # What has no address has zeros as that of its peer.
            if host.side == "peer" and any(not any(_first(one)) for one in host.networks):
                found = f"({found} OR NOT {_INET})"
            parts.append(found)
        return " AND ".join(parts) or "true"

    def _number(self, side: Side) -> str:
        """Return what ss has in the place of a port."""
        port = f"coalesce({side}_port, 0)"
        if side == "local":
            others = {
                "unix": ("inode", _signed("inode")),
                "netlink": ("local_id", _signed("local_id")),
                "packet": ("interface", "coalesce(interface, 0)"),
                "vsock": ("local_id", f"coalesce({_signed('local_id')}, -1)"),
                "xdp": ("details", "coalesce(CAST(details ->> '$.queue_id' AS BIGINT), 0)"),
            }
        else:
            others = {
                "unix": ("peer_inode", f"coalesce({_signed('peer_inode')}, 0)"),
                "netlink": ("peer_id", "-1"),
                "vsock": ("peer_id", f"coalesce({_signed('peer_id')}, -1)"),
            }
        if not all(column in self._columns for column, _ in others.values()):
            return port
        cases = " ".join(f"WHEN '{family}' THEN {told}" for family, (_, told) in others.items())
        return f"(CASE family {cases} ELSE {port} END)"

    def _address(self, one: Address) -> str:
        family = _FAMILIES.get(one.family, one.family)
        parts = [f"family = '{family}'"]
        if isinstance(one.number, str):
            parts.append(f"dev = {_literal(one.number)}" if one.side == "local" else "false")
        elif one.number is not None:
            parts.append(f"{self._number(one.side)} = {one.number}")
        if one.address is None:
            return " AND ".join(parts)
        if one.side == "local" or one.family == "vsock":
            column = "local_addr" if one.side == "local" else "peer_addr"
            parts.append(f"{column} = {_literal(protocol_of(one))}")
        elif protocol_of(one) not in ("rtnl", "[0]"):  # what has no peer has zeros
            parts.append("false")
        return " AND ".join(parts)

    def _autobound(self) -> str:
        low, high = NO_RANGE
        cases = [
            f"WHEN ns = {ns} THEN local_port BETWEEN {first} AND {last}"
            for ns, (first, last) in self._ranges.items()
        ]
        asked = f"CASE {' '.join(cases)} ELSE local_port BETWEEN {low} AND {high} END"
        inet = f"local_port BETWEEN {low} AND {high}" if not cases else asked
        if "local_id" not in self._columns:
            return inet
        return (
            "CASE family "
            "WHEN 'unix' THEN local_addr IS NULL OR regexp_full_match(local_addr, '@[0-9a-f]{5}') "
            "WHEN 'packet' THEN interface IS NULL AND local_addr = '[0]' "
            f"WHEN 'netlink' THEN {_signed('local_id')} < 0 "
            f"WHEN 'vsock' THEN {_signed('local_id')} > 1023 "
            f"ELSE {inet} END"
        )

    def _owner(self, owner: Owner) -> str:
        value = _literal(owner.value)
        match owner.what:
            case "process":
                return f"comm = {value}"
            case "pid":
                return f"pid = {owner.value}"
            # What describes the process, the cgroup and the namespace: see DESCRIBED of views.
            case "netns":
                named = f"list_contains(string_split(netns_name, ','), {value})"
                return f"netns = {owner.value} OR {named}" if owner.value.isdecimal() else named
            case "unit":
                return f"unit = {value}"
        return f"starts_with(container, {value})"


def is_described(found: Filter) -> bool:
    """Tell whether a filter is about what describes a row, which only a scope knows."""
    return any(
        isinstance(leaf, Owner) and leaf.what in ("unit", "container", "netns")
        for leaf in leaves(found.tree)
    )


def _in_network(column: str, network: Network) -> str:
    address = network.address
    plain = [address] if network.family == "inet6" else [address, _MAPPED + address]
    if network.bits == 8 * len(address):
        return f"{column} IN ({_list(map(_text, plain))})"
    rest = len(address) * 8 - network.bits
    low = int.from_bytes(address, "big") >> rest << rest
    ends = (low, low | (1 << rest) - 1)
    ranges = []
    for one in plain:
        first, last = (one[: -len(address)].hex() + f"{n:0{2 * len(address)}x}" for n in ends)
        ranges.append(f"address_bits({column}) BETWEEN '{first}' AND '{last}'")
    family = f"family = '{network.family}' AND " if network.family == "inet6" else ""
    if network.family == "inet":
        ranges[0] = f"family = 'inet' AND {ranges[0]}"
        ranges[1] = f"family = 'inet6' AND {ranges[1]}"
    return f"({family}({' OR '.join(ranges)}))"


def _first(network: Network) -> bytes:
    """Return the leading bits of a network, the others being 0."""
    rest = len(network.address) * 8 - network.bits
    number = int.from_bytes(network.address, "big") >> rest << rest
    return number.to_bytes(len(network.address), "big")


def _text(address: bytes) -> str:
    kind = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return socket.inet_ntop(kind, address)


def _signed(column: str) -> str:
    """Return what ss keeps in an int."""
    return f"CASE WHEN {column} >= 2147483648 THEN {column} - 4294967296 ELSE {column} END"


def _list(words: Collection[str] | map[str] | frozenset[str]) -> str:
    return ", ".join(sorted({_literal(word) for word in words}))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
