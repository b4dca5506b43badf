"""Rows of one moment → what ss prints of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from analyzer.ss import families, inet
from analyzer.ss.layout import HEADER, Field, distinct
from analyzer.ss.words import Names, Options, Row, interface, signed, whole

if TYPE_CHECKING:
    import pyarrow as pa

GROUPS = (
    *("netlink", "packet", "unix", "raw", "udp", "tcp", "dccp", "sctp", "vsock", "tipc", "xdp"),
    "mptcp",
)
"""What ss shows, one after the other."""

_NAMED = ("raw", "udp", "tcp")
"""Tables whose services are named from then on: those of others ss takes for these."""

OTHERS: dict[str, tuple[Callable[[Row, Names], families.Ends], Callable[[Row, Options], str]]] = {
    "netlink": (families.netlink_ends, families.netlink_words),
    "packet": (families.packet_ends, families.packet_words),
    "unix": (families.unix_ends, families.unix_words),
    "vsock": (families.vsock_ends, families.vsock_words),
    "tipc": (families.tipc_ends, families.tipc_words),
    "xdp": (families.xdp_ends, families.xdp_words),
}
"""Of sockets that have no internet address: their ends, and what stands behind these."""
_NETIDS = {"v_seq": "???"}

_HEAD = (
    *("family", "netid", "state", "recv_q", "send_q", "local_addr", "local_port", "peer_addr"),
    *("peer_port", "interface", "dev", "v6only", "netns", "cookie", "protocol"),
)
_UNIX = ("inode", "peer_inode")
_NUMBERS = ("local_id", "peer_id", "details")
_OWNER = ("pid", "comm", "fd", "holders", "owner_by", "inode")
_TIMER = ("timer", "expires_ms", "retrans")
_EXTENDED = (
    *("uid", "inode", "mark", "cgroup_id", "cgroup", "shutdown", "vfs_inode", "vfs_dev", "icons"),
    "details",
)
_MEMORY = (
    *("rmem_alloc", "rcvbuf", "wmem_alloc", "sndbuf", "fwd_alloc", "wmem_queued", "optmem"),
    *("backlog", "drops", "rmem", "wmem", "fmem", "tmem"),
)
_TOS = ("tos", "tclass", "class_id")


def columns(options: Options, groups: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the columns of sockets that the view needs, of those that are known."""
    wanted = {*_HEAD, "inode"}
    if "unix" in groups:
        wanted.update(_UNIX)
    if {"netlink", "vsock", "tipc", "xdp", "packet", "sctp", "mptcp"} & set(groups):
        wanted.update(_NUMBERS)
    for chosen, names in (
        (options.processes, _OWNER),
        (options.options, _TIMER),
        (options.extended, _EXTENDED),
        (options.memory, _MEMORY),
        (options.tos, _TOS),
        (options.cgroup, ("cgroup", "cgroup_id")),
        (options.sockopt, ("sockopt",)),
        (options.tipcinfo, ("drops",)),
    ):
        if chosen:
            wanted.update(names)
    if options.info:
        start = known.index("md5_keys")
        wanted.update(known[start:])
    return [name for name in known if name in wanted]


def fields(table: pa.Table, options: Options, names: Names) -> list[Field]:
    """Return the fields of rows that are ordered by group, as ``GROUPS`` has them."""
    netids, of = distinct(table["netid"])
    groups = [group_of(netid) for netid in netids]
    group = np.array([*map(groups.index, groups)], np.int64)[of]
    starts = [0, *np.flatnonzero(np.diff(group)) + 1, len(group)]
    made = []
    for start, end in pairwise(starts if len(group) else []):
        part, here = table.slice(start, end - start), groups[group[start]]
        if here in _NAMED:
            names.protocol = here
        show = _others if here in OTHERS else _inet
        made.append(show(part, here, options, names))
    return [Field.joined(parts[place] for parts in made) for place in range(len(HEADER))]


def group_of(netid: str) -> str:
    """Return the group in which ss prints a kind of socket."""
    if netid in GROUPS:
        return netid
    starts = {"u_": "unix", "p_": "packet", "nl": "netlink", "v_": "vsock", "ti": "tipc"}
    return starts.get(netid[:2], netid)


def _queues(part: pa.Table) -> Iterator[Field]:
    for name in ("recv_q", "send_q"):
        yield Field.of_column(part[name], lambda value: f"{signed(value or 0):<6d}")


def _others(part: pa.Table, group: str, options: Options, names: Names) -> list[Field]:
    ends_of, words_of = OTHERS[group]
    rows = _rows(part)
    ends = [ends_of(row, names) for row in rows]
    return [
        Field.of_column(part["netid"], lambda netid: _NETIDS.get(netid, netid)),
        Field.of_column(part["state"], _state),
        *_queues(part),
        *map(Field.each, zip(*ends, strict=True)),
        Field.each([words_of(row, options) for row in rows]),
    ]


def _inet(part: pa.Table, group: str, options: Options, names: Names) -> list[Field]:
    raw, bound = group == "raw", part["interface"].null_count < part.num_rows
    plain = options == Options(numeric=options.numeric, resolve=options.resolve)
    hung = group == "sctp"
    rows: list[Row] = [] if plain and not (raw or bound or hung) else _rows(part)
    netids = Field.of_column(part["netid"], str)
    states = Field.of_column(part["state"], _state)
    if raw:
        netids = Field.each([inet.netid(row) for row in rows])
    if hung:
        netids, states = _hang(rows)

    def ended(text: object, v6only: object) -> str:
        return f"{address(text, v6only, names)}:"

    def port(number: int | None, netns: int) -> str:
        return names.port(number or 0, netns)

    local = Field.of_pairs(part["local_addr"], part["v6only"], ended)
    peer = Field.of_pairs(part["peer_addr"], part["v6only"], ended)
    if bound:
        local = Field.each([_bound(row, names) for row in rows])
    local_port = Field.of_pairs(part["local_port"], part["netns"], port)
    peer_port = Field.of_pairs(part["peer_port"], part["netns"], port)
    told = [""] * part.num_rows if plain else [inet.words(row, options) for row in rows]
    queues = _queues(part)
    return [netids, states, *queues, local, local_port, peer, peer_port, Field.each(told)]


def _rows(part: pa.Table) -> list[Row]:
    """Return rows, without columns in which none of them has a value: most of TCP's are such."""
    names = [n for n in part.column_names if n in _HEAD or part[n].null_count < part.num_rows]
    rows: list[Row] = part.select(names).to_pylist()
    return rows


def _state(state: str | None) -> str:
    return state or "UNKNOWN"


def _bound(row: Row, names: Names) -> str:
    """Return the local address of a socket that may be bound to an interface."""
    shown = address(row["local_addr"], row["v6only"], names)
    return f"{shown}:" if row["interface"] is None else f"{shown}%{interface(row)}:"


def address(text: object, v6only: object, names: Names) -> str:
    """Return an address as ss prints it, one of IPv6 in brackets, any as a star."""
    if text == "::" and not v6only:
        return "*"
    shown = names.host(str(text or "*"))
    return f"[{shown}]" if ":" in shown else shown


def _hang(rows: Sequence[Row]) -> tuple[Field, Field]:
    """Return kinds and states; associations hang below the endpoint before, by whose inode."""
    netids, states, before = [], [], 0
    for row in rows:
        hangs = before and whole(row, "inode") == before
        state = str(row["state"] or "UNKNOWN")
        netids.append("" if hangs else str(row["netid"]))
        states.append(f"`- {state}" if hangs else state)
        before = whole(row, "inode")
    return Field.each(netids), Field.each(states)
