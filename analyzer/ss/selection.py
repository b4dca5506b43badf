"""What ss shows for its options: tables, families and states, in the order they are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from recorder.schema import SockrecError
from recorder.ssfilter import STATES, Filter, parse

ALL = frozenset({"UNKNOWN", *STATES})
CONNECTED = ALL - {"LISTEN", "UNCONN", "TIME-WAIT", "SYN-RECV"}
"""What ss calls SS_CONN: what it shows where nothing is said of states."""

LISTENING = frozenset({"LISTEN", "UNCONN"})
_CLOSE = frozenset({"UNCONN"})
_ESTABLISHED = frozenset({"ESTAB"})
_TIPC = frozenset({"ESTAB", "LISTEN", "UNCONN"})

_INET = ("inet", "inet6")

# table -> (netids, families, states where only the table is named), in the order of ss's output
_TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]] = {
    "netlink": (("nl",), ("netlink",), _CLOSE),
    "packet_raw": (("p_raw",), ("packet",), _CLOSE),
    "packet_dgram": (("p_dgr",), ("packet",), _CLOSE),
    "unix_stream": (("u_str",), ("unix",), CONNECTED),
    "unix_dgram": (("u_dgr",), ("unix",), _CLOSE),
    "unix_seqpacket": (("u_seq",), ("unix",), CONNECTED),
    "raw": (("raw",), _INET, _ESTABLISHED),
    "udp": (("udp",), _INET, _ESTABLISHED),
    "tcp": (("tcp",), _INET, CONNECTED),
    "dccp": (("dccp",), _INET, CONNECTED),
    "sctp": (("sctp",), _INET, CONNECTED),
    "vsock_stream": (("v_str",), ("vsock",), CONNECTED),
    "vsock_dgram": (("v_dgr",), ("vsock",), CONNECTED),
    "tipc": (("ti_st", "ti_dg", "ti_rd", "ti_sq"), ("tipc",), _TIPC),
    "xdp": (("xdp",), ("xdp",), _CLOSE),
    "mptcp": (("mptcp",), _INET, CONNECTED),
}
_INTERNET = ("udp", "dccp", "tcp", "mptcp", "sctp", "raw")
_QUERIES: dict[str, tuple[str, ...]] = {
    "all": tuple(name for name in _TABLES if name != "tipc"),
    "inet": _INTERNET,
    "unix": ("unix_stream", "unix_dgram", "unix_seqpacket"),
    "packet": ("packet_raw", "packet_dgram"),
    "vsock": ("vsock_stream", "vsock_dgram"),
    **{name: (name,) for name in _TABLES},
    "u_str": ("unix_stream",),
    "u_dgr": ("unix_dgram",),
    "u_seq": ("unix_seqpacket",),
    "p_raw": ("packet_raw",),
    "p_dgr": ("packet_dgram",),
    "v_str": ("vsock_stream",),
    "v_dgr": ("vsock_dgram",),
}
_FAMILIES: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "inet": (_INTERNET, CONNECTED),
    "inet6": (_INTERNET, CONNECTED),
    "unix": (_QUERIES["unix"], CONNECTED),
    "packet": (_QUERIES["packet"], _CLOSE),
    "netlink": (("netlink",), _CLOSE),
    "vsock": (_QUERIES["vsock"], CONNECTED),
    "tipc": (("tipc",), _TIPC),
    "xdp": (("xdp",), _CLOSE),
}
FAMILY_NAMES: Mapping[str, str] = {
    **{name: name for name in _FAMILIES if name != "packet"},
    "link": "packet",
}
"""The families of -f by ss's names."""

NETIDS = (*(netid for netids, _, _ in _TABLES.values() for netid in netids), "v_seq")
"""Kinds of sockets that ss shows."""

INET = frozenset(_INTERNET)
"""The tables that have ports."""

_FILTER_NAMES = {"packet": "link"}


class SelectionError(SockrecError):
    """Options that choose nothing, or a name that ss does not know; ``option`` names it."""

    def __init__(self, text: str, option: str) -> None:
        super().__init__(text)
        self.option = option


@dataclass
class Selection:
    """What options choose; each method is one of them, called in their order."""

    tables: set[str] = field(default_factory=set)
    families: set[str] = field(default_factory=set)
    states: frozenset[str] = frozenset()
    preferred: str | None = None
    bound_only: bool = False
    _default: bool = True
    _wanted: frozenset[str] = frozenset()
    _queried: bool = False

    @property
    def is_default(self) -> bool:
        """Whether no table and no family was named."""
        return self._default

    def netids(self) -> list[str]:
        """Return the kinds of sockets in the tables chosen."""
        return [netid for name in self.tables for netid in _TABLES[name][0]]

    def table(self, name: str) -> None:
        """Take a table in, as -t does."""
        self.states |= _TABLES[name][2]
        self.tables.add(name)
        self._default = False

    def family(self, name: str) -> None:
        """Take a family in, as -4 does."""
        self.states |= _FAMILIES[name][1]
        self.families.add(name)
        self.preferred = name
        self._default = False

    def query(self, text: str) -> None:
        """Take in or leave out tables by name, as -A does."""
        if not self._queried:
            self._queried, self._default = True, False
            self.tables = set()
            self._wanted = self._wanted or CONNECTED
        for name in text.split(","):
            known = _QUERIES.get(name.removeprefix("!"))
            if known is None:
                raise SelectionError(
                    f"{name!r} is no table; there are {', '.join(_QUERIES)}", "--query"
                )
            self._default = False
            if name.startswith("!"):
                self.tables -= set(known)
                continue
            for one in known:
                self.table(one)

    def want(self, states: frozenset[str]) -> None:
        """Take only these states, as -a and -l do."""
        self._wanted = states

    def filtered(self, text: str) -> Filter:
        """Read the filter, and let it change what is chosen. Raises FilterError, SelectionError."""
        if self._default:
            self.tables = set(_QUERIES["all"])
            self._wanted = self._wanted or CONNECTED
        self._merge_defaults()
        preferred = _FILTER_NAMES.get(self.preferred or "", self.preferred)
        found = parse(text, family=preferred, tables=self.tables)
        self.states = found.states or self._wanted or self.states
        for what, chosen in (("tables", self.tables), ("states", self.states)):
            if not chosen:
                raise SelectionError(f"no socket {what} are left to show", "FILTER")
        if found.family is not None:
            self.preferred = FAMILY_NAMES[found.family]
            self.families = {self.preferred}
        return found

    def _merge_defaults(self) -> None:
        for name in list(_TABLES):
            families = set(_TABLES[name][1])
            if name in self.tables and not families & self.families:
                self.families |= families
        for name in list(self.families):
            tables = set(_FAMILIES[name][0])
            if not tables & self.tables:
                self.tables |= tables

    def shows(
        self, netid: str | None, family: str | None, state: str | None, told: bool, hangs: bool
    ) -> bool:
        """Tell whether a socket is chosen, but for the filter's conditions.

        ``told`` is one that /proc told of, ``hangs`` an association of SCTP.
        """
        return any(
            self._shows(name, str(netid), str(family), str(state), told, hangs)
            for name in self.tables
        )

    def _shows(
        self, name: str, netid: str, family: str, state: str, told: bool, hangs: bool
    ) -> bool:
        netids, families, _ = _TABLES[name]
        shown = {family for family in families if family in self.families}
        # Of IPv4 and IPv6 ss asks for the one that was named last, if one was.
        asked = shown & {self.preferred} if self.preferred in _INET and families == _INET else shown
        states = set(self.states)
        if self.bound_only:
            return name == "tcp" and netid in netids and family in asked and state == "UNCONN"
        match name.partition("_")[0]:
            case "tcp":  # ss 6.1 does not ask for what is bound and nothing more
                states -= {"UNCONN"}
            case "netlink" | "xdp":  # these have no states
                return netid in netids and family in asked and "UNCONN" in states
            case "packet":  # nor these, and ss tells raw from others only in /proc
                return netid in ("p_raw", "p_dgr") and family in asked and "UNCONN" in states
            case "vsock":
                netids = (*netids, "v_seq")
            case "raw" if netid in netids:  # the kernel takes no heed of states
                return family in shown and state in states if told else family in asked
            case "sctp":  # the kernel tells them apart by the states asked
                wanted = states - LISTENING if hangs else state in states & LISTENING
                return netid in netids and family in asked and bool(wanted)
        return netid in netids and family in asked and state in states
