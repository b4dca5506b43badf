"""What ss prints of TCP, UDP, raw, SCTP, DCCP and MPTCP sockets behind their addresses."""

from __future__ import annotations

import json
from typing import Any

from analyzer.ss.tcp import internals
from analyzer.ss.words import (
    Options,
    Row,
    arrows,
    cgroup,
    identity,
    memory,
    signed,
    timer,
    users,
    whole,
)

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
    try:
        found = json.loads(str(row.get("details") or "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


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
    told = users(row) if options.processes else ""
    if from_proc(row):
        return told
    more = details(row) if row["netid"] in ("mptcp", "sctp") else {}
    if options.options and row.get("timer") is not None:
        name = row["timer"] if row["timer"] in _TIMERS or row["netid"] == "sctp" else "unknown"
        left = timer(whole(row, "expires_ms"))
        told += f" timer:({name},{left},{whole(row, 'retrans')})"
    if options.extended:
        cookie = more.get("cookie", row["cookie"])
        told += identity(row, cookie if isinstance(cookie, int) else whole(row, "cookie"))
        if row["family"] == "inet6" and row.get("v6only") is not None:
            told += f" v6only:{whole(row, 'v6only')}"
        told += arrows(row)
    if options.tos:
        for column in ("tos", "tclass", "class_id"):
            if row.get(column) is not None:
                value = whole(row, column)
                told += f" {column}:{value:#x}" if value else f" {column}:0"
    if options.cgroup and row.get("cgroup_id") is not None:
        told += cgroup(row)
    if options.sockopt and row.get("sockopt") is not None:
        bits = whole(row, "sockopt")
        names = (name for bit, name in enumerate(_SOCKOPT) if bits >> bit & 1)
        told += " " if options.oneline else "\n\t"
        told += f"inet-sockopt: ({''.join(f' {name}' for name in names)})"
    udp = row["netid"] == "udp" or (row["netid"] == "raw" and row.get("protocol") == 17)
    if options.memory or (options.info and not udp):
        told += "" if options.oneline else "\n\t"
        told += memory(row) if options.memory else ""
        if options.info:
            told += _info(row, more, options)
    return told


def _info(row: Row, more: dict[str, Any], options: Options) -> str:
    if row["netid"] == "mptcp":
        return _multipath(more)
    if row["netid"] == "sctp":
        return _sctp(row, more)
    return internals(row, options=options.options, numeric=options.numeric)


def _multipath(more: dict[str, Any]) -> str:
    told = [f"{name}:{_number(more, name)}" for name in _MULTIPATH if _number(more, name)]
    flags = _number(more, "flags")
    told += [word for bit, word in ((1, "fallback"), (2, "remote_key")) if flags & bit]
    told += [f"{name}:{_number(more, name):x}" for name in _SEQUENCES if _number(more, name)]
    return "".join(f" {word}" for word in told)


def _sctp(row: Row, more: dict[str, Any]) -> str:
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
