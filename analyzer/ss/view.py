"""Rows of one moment → what ss prints of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyzer.ss import families, inet
from analyzer.ss.layout import Lines
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


@dataclass(frozen=True, slots=True)
class Shown:
    """The fields of rows, and the namespace of each."""

    lines: Lines
    netns: Sequence[int]


def fields(table: pa.Table, options: Options, names: Names) -> Shown:
    """Return the fields of rows that are ordered by group, as ``GROUPS`` has them."""
    made: list[list[str]] = [[] for _ in range(9)]
    kinds = table["netid"].to_pylist()
    start = 0
    while start < len(kinds):
        group = group_of(kinds[start])
        end = start + 1
        while end < len(kinds) and (kinds[end] == kinds[start] or group_of(kinds[end]) == group):
            end += 1
        part = table.slice(start, end - start)
        if group in _NAMED:
            names.protocol = group
        new = (
            _others(part, group, options, names)
            if group in OTHERS
            else _inet(part, group, options, names)
        )
        for have, more in zip(made, new, strict=True):
            have += more
        start = end
    return Shown(Lines(made), table["netns"].to_pylist())


def group_of(netid: str) -> str:
    """Return the group in which ss prints a kind of socket."""
    if netid in GROUPS:
        return netid
    starts = {"u_": "unix", "p_": "packet", "nl": "netlink", "v_": "vsock", "ti": "tipc"}
    return starts.get(netid[:2], netid)


def _queues(part: pa.Table) -> Iterator[list[str]]:
    for name in ("recv_q", "send_q"):
        values = part[name].to_pylist()
        shown = {value: f"{signed(value or 0):<6d}" for value in set(values)}
        yield [shown[value] for value in values]


def _others(part: pa.Table, group: str, options: Options, names: Names) -> list[list[str]]:
    ends_of, words_of = OTHERS[group]
    rows = part.to_pylist()
    ends = [ends_of(row, names) for row in rows]
    netids = [_NETIDS.get(row["netid"], row["netid"]) for row in rows]
    return [
        netids,
        [row["state"] or "UNKNOWN" for row in rows],
        *_queues(part),
        *(list(end) for end in zip(*ends, strict=True)),
        [words_of(row, options) for row in rows],
    ]


def _inet(part: pa.Table, group: str, options: Options, names: Names) -> list[list[str]]:
    raw, bound = group == "raw", part["interface"].null_count < part.num_rows
    netns = part["netns"].to_pylist()
    v6only = part["v6only"].to_pylist()
    rows: list[Row] = part.to_pylist() if raw or bound or group == "sctp" else []
    states = [state or "UNKNOWN" for state in part["state"].to_pylist()]
    netids = [inet.netid(row) for row in rows] if raw else part["netid"].to_pylist()
    if group == "sctp":
        _hang(rows, netids, states)
    local = addresses(part["local_addr"].to_pylist(), v6only, names)
    peer = addresses(part["peer_addr"].to_pylist(), v6only, names)
    if bound:
        local = [
            addr if row["interface"] is None else f"{addr}%{interface(row)}"
            for addr, row in zip(local, rows, strict=True)
        ]
    told = [""] * part.num_rows
    if options != Options(numeric=options.numeric, resolve=options.resolve):
        told = [inet.words(row, options) for row in rows or part.to_pylist()]
    return [
        netids,
        states,
        *_queues(part),
        [f"{addr}:" for addr in local],
        ports(part["local_port"].to_pylist(), netns, names),
        [f"{addr}:" for addr in peer],
        ports(part["peer_port"].to_pylist(), netns, names),
        told,
    ]


def addresses(
    texts: Sequence[str | None], v6only: Sequence[bool | None], names: Names
) -> list[str]:
    """Return addresses as ss prints them, those of IPv6 in brackets, any as a star."""
    known: dict[tuple[str | None, bool | None], str] = {}
    for key in set(zip(texts, v6only, strict=True)):
        address = key[0] or "*"
        if address == "::" and not key[1]:
            known[key] = "*"
        else:
            shown = names.host(address)
            known[key] = f"[{shown}]" if ":" in shown else shown
    return [known[key] for key in zip(texts, v6only, strict=True)]


def ports(numbers: Sequence[int | None], netns: Sequence[int], names: Names) -> list[str]:
    """Return ports as ss prints them, each of the namespace at its place."""
    known: Mapping[tuple[int | None, int], str] = {
        key: names.port(key[0] or 0, key[1]) for key in set(zip(numbers, netns, strict=True))
    }
    return [known[key] for key in zip(numbers, netns, strict=True)]


def _hang(rows: Sequence[Row], netids: list[str], states: list[str]) -> None:
    """Hang associations below the endpoint before them, of which they have the inode."""
    before = 0
    for place, row in enumerate(rows):
        if before and whole(row, "inode") == before:
            netids[place], states[place] = "", f"`- {states[place]}"
        before = whole(row, "inode")
