"""What ss prints of unix, packet, netlink, vsock, XDP and TIPC sockets."""

from __future__ import annotations

import os
from typing import Any, TypeAlias

from analyzer.ss.inet import details
from analyzer.ss.words import (
    Names,
    Options,
    Row,
    arrows,
    identity,
    interface,
    memory,
    signed,
    text,
    users,
    whole,
)
from recorder.ssfilter import ETHERNET

Ends: TypeAlias = tuple[str, str, str, str]
"""Local address and port, peer address and port, as fields with their delimiters."""

NOBODY = ("*", "")
"""The peer of what has none."""

_ETHERNET = {name: number for number, name in ETHERNET.items() if name != "*"}
_PACKET_FLAGS = ("running", " auxdata", " origdev", " vnethdr", " loss")
_FANOUT = ("hash", "lb", "cpu", "roll", "random", "qm")
_RINGS = ("rx_ring", "tx_ring")
_RING = (
    *(("blk_size", "block_size"), ("blk_nr", "block_nr"), ("frm_size", "frame_size")),
    *(("frm_nr", "frame_nr"), ("tmo", "retire_tmo")),
)
_XDP_RINGS = (
    *(("rx", "rx_ring"), ("tx", "tx_ring")),
    *(("fr", "umem_fill_ring"), ("cr", "umem_completion_ring")),
)
_UMEM = (
    *(("id", "id"), ("size", "size"), ("num_pages", "num_pages"), ("chunk_size", "chunk_size")),
    *(("headroom", "headroom"), ("ifindex", "ifindex"), ("qid", "queue_id")),
)
_XDP_STATS = (
    *(("rx dropped", "rx_dropped"), ("rx invalid", "rx_invalid"), ("rx queue full", "rx_full")),
    *(("rx fill ring empty", "fill_ring_empty"), ("tx invalid", "tx_invalid")),
    ("tx ring empty", "tx_ring_empty"),
)
_TIPC_TYPES = {"ti_st": "STREAM", "ti_dg": "DGRAM", "ti_rd": "RDM", "ti_sq": "SEQPACKET"}


def unix_ends(row: Row, names: Names) -> Ends:
    local = "*" if row.get("local_addr") is None else text(row, "local_addr")
    inode, peer = signed(whole(row, "inode")), signed(whole(row, "peer_inode"))
    return f"{local} ", str(inode), "* ", str(peer)


def unix_words(row: Row, options: Options) -> str:
    told = users(row) if options.processes else ""
    told += memory(row) if options.memory else ""
    if options.extended:
        told += arrows(row)
        if row.get("vfs_inode") is not None:
            device = whole(row, "vfs_dev")  # which ss takes for one of the C library
            told += f" ino:{row['vfs_inode']} dev:{os.major(device)}/{os.minor(device)}"
        if row["state"] == "LISTEN":
            clients = str(row.get("icons") or "").split(",")
            told += f" peers:{''.join(f' {inode}' for inode in clients if inode)}"
    return told


def packet_ends(row: Row, names: Names) -> Ends:
    port = "*" if row.get("interface") is None else interface(row)
    protocol = text(row, "local_addr")
    if names.options.numeric and protocol in _ETHERNET:
        protocol = f"[{_ETHERNET[protocol]}]"
    return f"{protocol}:", port, *NOBODY


def packet_words(row: Row, options: Options) -> str:
    told = users(row) if options.processes else ""
    more = details(row)
    if options.extended:
        told += identity({**row, "mark": None, "cgroup_id": None}, whole(row, "cookie"))
        told += "".join(_indented(options, part) for part in _packet_parts(more))
    if options.bpf and isinstance(more.get("filter"), str):
        told += _indented(options, _program(more["filter"]))
    return told + (memory(row) if options.memory else "")


def _packet_parts(more: dict[str, Any]) -> list[str]:
    parts = []
    if "version" in more:
        flags = _number(more, "flags")
        names = "".join(
            name for bit, name in zip((1, 2, 4, 8, 16), _PACKET_FLAGS, strict=True) if flags & bit
        )
        parts.append(
            f"ver:{more['version']} cpy_thresh:{signed(_number(more, 'copy_thresh'))} "
            f"flags( {names or ('' if flags else '0')} )"
        )
    for ring, name in zip(_RINGS, ("ring_rx", "ring_tx"), strict=True):
        if isinstance(known := more.get(ring), dict):
            told = ",".join(f"{word}:{_number(known, field)}" for word, field in _RING)
            parts.append(f"{name}({told},features:0x{_number(known, 'features'):x})")
    if "fanout" in more:
        fanout = _number(more, "fanout")
        kind = fanout >> 16 & 0xFFFF
        word = _FANOUT[kind] if kind < len(_FANOUT) else f"0x{kind:x}"
        parts.append(f"fanout(id:{fanout & 0xFFFF},type:{word})")
    return parts


def _program(lines: str) -> str:
    instructions = [line.split() for line in lines.split(",") if line]
    told = "".join(f" 0x{int(code):02x} {jt} {jf} {k}," for code, jt, jf, k in instructions)
    return f"bpf filter ({len(instructions)}): {told}"


def netlink_ends(row: Row, names: Names) -> Ends:
    number = signed(whole(row, "local_id"))
    port = str(number)
    if number == -1:
        port = "*"
    elif not names.options.numeric:
        if number == 0:
            port = "kernel"
        elif number in names.processes:
            port = f"{names.processes[number]}/{number}"
    local = (f"{text(row, 'local_addr')}:", port)
    if row.get("peer_id") is None:
        return *local, *NOBODY
    group = _number(details(row), "dst_group")
    return *local, f"{signed(group)}:", str(signed(whole(row, "peer_id")))


def netlink_words(row: Row, options: Options) -> str:
    told = ""
    if options.extended:
        groups = details(row).get("groups")
        numbers = groups if isinstance(groups, list) else []
        bits = sum(1 << n - 1 for n in numbers if isinstance(n, int) and 0 < n <= 32)
        told += f" sk=0 cb=0 groups=0x{bits:08x}"
    return told + (f"\t{memory(row)}" if options.memory else "")


def vsock_ends(row: Row, names: Names) -> Ends:
    cids = (
        "*" if row.get(name) is None else text(row, name) for name in ("local_addr", "peer_addr")
    )
    ports = ("*" if row.get(name) is None else str(row[name]) for name in ("local_id", "peer_id"))
    (local, peer), (local_port, peer_port) = cids, ports
    return f"{local}:", local_port, f"{peer}:", peer_port


def vsock_words(row: Row, options: Options) -> str:
    return users(row) if options.processes else ""


def xdp_ends(row: Row, names: Names) -> Ends:
    if row.get("interface") is None:
        return *NOBODY, *NOBODY
    queue = _number(details(row), "queue_id")
    return f"{interface(row)}:", f"q{queue}", *NOBODY


def xdp_words(row: Row, options: Options) -> str:
    told = users(row) if options.processes else ""
    if options.extended:
        told += identity({**row, "mark": None, "cgroup_id": None}, whole(row, "cookie"))
        told += "".join(_indented(options, part) for part in _xdp_parts(details(row)))
    return told + (memory(row) if options.memory else "")


def _xdp_parts(more: dict[str, Any]) -> list[str]:
    parts = [f"{w}(entries:{more[n]})" for w, n in _XDP_RINGS[:2] if n in more]
    if isinstance(umem := more.get("umem"), dict):
        told = ",".join(f"{word}:{_number(umem, name)}" for word, name in _UMEM)
        zero_copy = _number(umem, "flags") & 1
        parts.append(f"umem({told},zc:{zero_copy},refs:{_number(umem, 'refs')})")
        parts += [f"{w}(entries:{more[n]})" for w, n in _XDP_RINGS[2:] if n in more]
    if isinstance(stats := more.get("stats"), dict):
        told = ",".join(f"{word}:{_number(stats, f'n_{name}')}" for word, name in _XDP_STATS)
        parts.append(f"stats({told})")
    return parts


def tipc_ends(row: Row, names: Names) -> Ends:
    local = f"{row.get('local_addr') or 0}:", str(whole(row, "local_id"))
    if row.get("peer_addr") is None:
        return *local, "-", ""
    return *local, f"{text(row, 'peer_addr')}:", str(whole(row, "peer_id"))


def tipc_words(row: Row, options: Options) -> str:
    told = identity(row, whole(row, "cookie")) if options.extended else ""
    told += users(row) if options.processes else ""
    if options.tipcinfo:
        more = details(row)
        told += " " if options.oneline else "\n "
        told += f"type:{_TIPC_TYPES.get(str(row['netid']), 'UNKNOWN')}"
        cong = "link" if more.get("link_cong") else "conn" if more.get("conn_cong") else "none"
        told += f" cong:{cong}  drop:{signed(whole(row, 'drops'))} "
        told += " publ" if more.get("has_publ") else ""
        if isinstance(con := more.get("con"), dict) and con.get("flag"):
            told += f" via {{{_number(con, 'type')},{_number(con, 'inst')}}} "
    return told


def _indented(options: Options, told: str) -> str:
    return (" " if options.oneline else "\n\t") + told


def _number(more: dict[str, Any], name: str) -> int:
    value = more.get(name)
    return value if isinstance(value, int) else 0
