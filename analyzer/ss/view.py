"""Rows of one moment → what ss prints of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from analyzer.ss import families, inet
from analyzer.ss.layout import HEADER, Field, together
from analyzer.ss.words import (
    MEMORY,
    OWNER,
    Declared,
    Names,
    Options,
    Row,
    interface,
    signed,
    whole,
)

if TYPE_CHECKING:
    import pyarrow as pa

GROUPS = (
    *("netlink", "packet", "unix", "raw", "udp", "tcp", "dccp", "sctp", "vsock", "tipc", "xdp"),
    "mptcp",
)
"""What ss shows, one after the other."""

_SEVERAL_KINDS = ("raw", "sctp", "mptcp")
"""Groups of which a word depends on what else a row is: few sockets, looked at one by one."""

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
_EXTENDED = (
    *("uid", "inode", "mark", "cgroup_id", "cgroup", "shutdown", "vfs_inode", "vfs_dev", "icons"),
    "details",
)


def columns(options: Options, groups: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the columns of sockets that the view needs, of those that are known."""
    wanted = {*_HEAD, "inode"}
    if "unix" in groups:
        wanted.update(_UNIX)
    if {"netlink", "vsock", "tipc", "xdp", "packet", "sctp", "mptcp"} & set(groups):
        wanted.update(_NUMBERS)
    for chosen, names in (
        (options.processes, (*OWNER, "holders")),
        (options.extended, _EXTENDED),
        (options.memory, MEMORY),
        (options.tipcinfo, ("drops",)),
    ):
        if chosen:
            wanted.update(names)
    for group in set(groups) - OTHERS.keys():
        wanted.update(*(names for _, names in inet.words_of(options, group)))
    return [name for name in known if name in wanted]


def fields(table: pa.Table, options: Options, names: Names) -> list[Field]:
    """Return the fields of rows that are ordered by group, as ``GROUPS`` has them."""
    netids, of = together(table["netid"])
    groups = [group_of(netid) for (netid,) in netids]
    group = np.array([*map(groups.index, groups)], np.int64)[of]
    starts = [0, *np.flatnonzero(np.diff(group)) + 1, len(group)]
    made = []
    for start, end in pairwise(starts if len(group) else []):
        part, here = table.slice(start, end - start), groups[group[start]]
        if here in _NAMED:
            names.protocol = here
        show = _others if here in OTHERS else _inet
        made.append(show(part, here, options, names))
    return [Field.joined([parts[place] for parts in made]) for place in range(len(HEADER))]


def group_of(netid: str) -> str:
    """Return the group in which ss prints a kind of socket."""
    if netid in GROUPS:
        return netid
    starts = {"u_": "unix", "p_": "packet", "nl": "netlink", "v_": "vsock", "ti": "tipc"}
    return starts.get(netid[:2], netid)


def _queues(part: pa.Table) -> Iterator[Field]:
    for name in ("recv_q", "send_q"):
        yield Field.of(lambda value: f"{signed(value or 0):<6d}", part[name])


def _others(part: pa.Table, group: str, options: Options, names: Names) -> list[Field]:
    ends_of, words_of = OTHERS[group]
    rows: list[Row] = part.to_pylist()
    ends = [ends_of(row, names) for row in rows]
    return [
        Field.of(lambda netid: str(_NETIDS.get(netid, netid)), part["netid"]),
        Field.of(_state, part["state"]),
        *_queues(part),
        *map(Field.each, zip(*ends, strict=True)),
        Field.each([words_of(row, options) for row in rows]),
    ]


def _inet(part: pa.Table, group: str, options: Options, names: Names) -> list[Field]:
    rows: list[Row] = part.to_pylist() if group in _SEVERAL_KINDS else []
    netids, states = Field.of(str, part["netid"]), Field.of(_state, part["state"])
    if group == "raw":
        netids = Field.each([inet.netid(row) for row in rows])
    if group == "sctp":
        netids, states = _hang(rows)

    def local(text: object, v6only: object, number: int | None, dev: str | None) -> str:
        shown = address(text, v6only, names)
        if number is None:
            return f"{shown}:"
        return f"{shown}%{interface({'interface': number, 'dev': dev})}:"

    def peer(text: object, v6only: object) -> str:
        return f"{address(text, v6only, names)}:"

    def port(number: int | None, netns: int) -> str:
        return names.port(number or 0, netns)

    return [
        netids,
        states,
        *_queues(part),
        Field.of(local, *(part[n] for n in ("local_addr", "v6only", "interface", "dev"))),
        Field.of(port, part["local_port"], part["netns"]),
        Field.of(peer, part["peer_addr"], part["v6only"]),
        Field.of(port, part["peer_port"], part["netns"]),
        Field.each([inet.words(row, options) for row in rows])
        if group in _SEVERAL_KINDS
        else _words(part, group, options),
    ]


def _words(part: pa.Table, group: str, options: Options) -> Field:
    """Return what stands behind the addresses, each word made once of the same values."""

    def field(told: Callable[[Row], str], names: Sequence[str]) -> Field:
        return Field.of(
            lambda *values: told(Declared(zip(names, values, strict=True))),
            *(part[name] for name in names),
        )

    words = inet.words_of(options, group)
    return Field.behind(
        [Field.of(lambda netid: "", part["netid"]), *(field(told, names) for told, names in words)]
    )


def _state(state: str | None) -> str:
    return state or "UNKNOWN"


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
