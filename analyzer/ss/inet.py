"""What ss prints of TCP, UDP, raw, SCTP, DCCP and MPTCP sockets behind their addresses."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

from analyzer.ss.tcp import internals
from analyzer.ss.words import (
    MEMORY,
    OWNER,
    Options,
    Row,
    Word,
    arrows,
    cgroup,
    inode,
    mark,
    member,
    memory,
    signed,
    timer,
    user,
    users,
    whole,
)
from recorder.ssfilter.rows import parsed

PROTOCOLS = {0: "raw", 6: "tcp", 17: "udp", 33: "dccp", 58: "icmp6", 132: "sctp"}
_TIMERS = frozenset({"on", "keepalive", "timewait", "persist"})
_SOCKOPT = (
    *("recverr", "is_icsk", "freebind", "hdrincl", "mc_loop", "transparent", "mc_all"),
    *("nodefrag", "bind_addr_no_port", "recverr_rfc4884", "defer_connect"),
)
_MULTIPATH = (
    *("subflows", "add_addr_signal", "add_addr_accepted", "subflows_max", "add_addr_signal_max"),
    "add_addr_accepted_max",
)
_SEQUENCES = ("token", "write_seq", "snd_una", "rcv_nxt")

# (field of details, word, how)
_ASSOCIATION = (
    *(("tag", "tag", "x"), ("state", "state", "s"), ("rwnd", "rwnd", "d")),
    *(("unackdata", "unackdata", "d"), ("penddata", "penddata", "d")),
    *(("instrms", "instrms", "d"), ("outstrms", "outstrms", "d"), ("inqueue", "inqueue", "d")),
    *(("outqueue", "outqueue", "d"), ("overall_error", "overerr", "d")),
    *(("max_burst", "maxburst", "d"), ("maxseg", "maxseg", "d"), ("peer_rwnd", "prwnd", "d")),
    *(("peer_tag", "ptag", "x"), ("peer_capable", "pcapable", "d"), ("peer_sack", "psack", "d")),
    *(("s_autoclose", "autoclose", "d"), ("s_adaptation_ind", "adapind", "d")),
    *(("s_pd_point", "pdpoint", "d"), ("s_nodelay", "nodelay", "d")),
    *(("s_disable_fragments", "nofrag", "d"), ("s_v4mapped", "v4mapped", "d")),
    ("s_frag_interleave", "fraginl", "d"),
)


def details(row: Row) -> dict[str, Any]:
    """Return what the column ``details`` holds, nothing if it is no object."""
    return parsed(str(row.get("details") or ""))


def from_proc(row: Row) -> bool:
    """Tell whether a raw socket was read from /proc, of which ss shows no more than addresses."""
    return row["netid"] == "raw" and whole(row, "cookie") < 0


def netid(row: Row) -> str:
    """Return the kind of socket, which of a raw one is its protocol."""
    if row["netid"] != "raw" or from_proc(row):
        return str(row["netid"])
    return PROTOCOLS.get(whole(row, "protocol"), "???")


def words(row: Row, options: Options) -> str:
    """Return what stands behind the addresses."""
    if from_proc(row):
        return users(row) if options.processes else ""
    kind = "udp" if row["netid"] == "raw" and row.get("protocol") == 17 else str(row["netid"])
    return "".join(told(row) for told, _ in words_of(options, kind))


@lru_cache(256)
def words_of(options: Options, kind: str) -> tuple[Word, ...]:
    """Return the words behind the addresses of sockets of a kind, in their order."""
    told: list[Word] = []
    if options.processes:
        told.append((users, OWNER))
    if options.options:
        told.append((_timer, ("timer", "expires_ms", "retrans", "netid")))
    if options.extended:
        cookie = ("cookie", "details") if kind in ("mptcp", "sctp") else ("cookie",)
        told += [
            (user, ("uid",)),
            (inode, ("inode",)),
            (_multipath_cookie if kind in ("mptcp", "sctp") else _cookie, cookie),
            (mark, ("mark",)),
            (member, ("cgroup_id", "cgroup")),
            (_v6only, ("family", "v6only")),
            (arrows, ("shutdown",)),
        ]
    if options.tos:
        told += [(partial(_tos, column), (column,)) for column in ("tos", "tclass", "class_id")]
    if options.cgroup:
        told.append((_cgroup, ("cgroup_id", "cgroup")))
    if options.sockopt:
        told.append((partial(_sockopt, " " if options.oneline else "\n\t"), ("sockopt",)))
    if options.memory or (options.info and kind != "udp"):
        if not options.oneline:
            told.append((lambda row: "\n\t", ("netid",)))
        if options.memory:
            told.append((memory, MEMORY))
        if options.info:
            told += _info(options, kind)
    return tuple(told)


def _timer(row: Row) -> str:
    if row.get("timer") is None:
        return ""
    name = row["timer"] if row["timer"] in _TIMERS or row["netid"] == "sctp" else "unknown"
    return f" timer:({name},{timer(whole(row, 'expires_ms'))},{whole(row, 'retrans')})"


def _cookie(row: Row) -> str:
    return f" sk:{whole(row, 'cookie') % 2**64:x}"


def _multipath_cookie(row: Row) -> str:
    cookie = details(row).get("cookie")
    return f" sk:{cookie % 2**64:x}" if isinstance(cookie, int) else _cookie(row)


def _v6only(row: Row) -> str:
    known = row["family"] == "inet6" and row.get("v6only") is not None
    return f" v6only:{whole(row, 'v6only')}" if known else ""


def _tos(column: str, row: Row) -> str:
    if row.get(column) is None:
        return ""
    value = whole(row, column)
    return f" {column}:{value:#x}" if value else f" {column}:0"


def _cgroup(row: Row) -> str:
    return "" if row.get("cgroup_id") is None else cgroup(row)


def _sockopt(before: str, row: Row) -> str:
    if row.get("sockopt") is None:
        return ""
    bits = whole(row, "sockopt")
    names = (f" {name}" for bit, name in enumerate(_SOCKOPT) if bits >> bit & 1)
    return f"{before}inet-sockopt: ({''.join(names)})"


def _info(options: Options, kind: str) -> list[Word]:
    if kind == "mptcp":
        return [(_multipath, ("details",))]
    if kind == "sctp":
        return [(_sctp, ("details", "state"))]
    return internals(options=options.options, numeric=options.numeric)


def _multipath(row: Row) -> str:
    more = details(row)
    told = [f"{name}:{_number(more, name)}" for name in _MULTIPATH if _number(more, name)]
    flags = _number(more, "flags")
    told += [word for bit, word in ((1, "fallback"), (2, "remote_key")) if flags & bit]
    told += [f"{name}:{_number(more, name):x}" for name in _SEQUENCES if _number(more, name)]
    return "".join(f" {word}" for word in told)


def _sctp(row: Row) -> str:
    more = details(row)
    told = [
        f"{name}:{','.join(str(address) for address in more[name])}"
        for name in ("locals", "peers")
        if isinstance(more.get(name), list)
    ]
    for field, word, how in _ASSOCIATION:
        if how == "s":
            if "peers" in more and row["state"] != "CLOSED":
                told.append(f"{word}:{row['state']}")
        elif value := _number(more, field):
            told.append(f"{word}:{value:x}" if how == "x" else f"{word}:{signed(value)}")
    return "".join(f" {word}" for word in told)


def _number(more: dict[str, Any], name: str) -> int:
    value = more.get(name)
    return value % 2**64 if isinstance(value, int) else 0
