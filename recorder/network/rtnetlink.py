"""Dumps of rtnetlink, of the network namespace of the calling thread, as plain rows.

pyroute2 decodes them. It is imported by this module only, which is imported when the network is
recorded: its parsers alone cost 0.1 s and 18 MB. Attributes in include/uapi/linux/if_link.h,
rtnetlink.h, fib_rules.h, neighbour.h, and gen_stats.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from recorder.wire.netlink import HEADER, NLMSG_DONE, NLMSG_ERROR, request

Row = dict[str, Any]

RTM_GETLINK = 18
RTM_GETADDR = 22
RTM_GETROUTE = 26
RTM_GETNEIGH = 30
RTM_GETRULE = 34
RTM_GETQDISC = 38
RTM_GETSTATS = 94

_NETLINK_ROUTE = 0
_TIMEOUT_S = 5.0
_DATAGRAM = 1 << 16
_SEQUENCE = 1

MOST_BYTES = 2 << 20
"""A dump of more is given up: the routes of the whole Internet are no concern of a sample."""

_IFF_UP = 1
_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: what is counted is asked for by itself
_EXT_MASK = struct.pack("=HHI", 8, 29, _SKIP_STATS)  # IFLA_EXT_MASK
_LINK_64 = 1  # IFLA_STATS_LINK_64 of RTM_GETSTATS

_BODIES = {
    RTM_GETLINK: bytes(16) + _EXT_MASK,
    RTM_GETADDR: bytes(8),
    RTM_GETROUTE: bytes(12),
    RTM_GETNEIGH: bytes(12),
    RTM_GETRULE: bytes(12),
    RTM_GETQDISC: bytes(20),
    RTM_GETSTATS: struct.pack("=BxHiI", 0, 0, 0, _LINK_64),
}

_OPERSTATES = (
    "UNKNOWN",
    "NOTPRESENT",
    "DOWN",
    "LOWERLAYERDOWN",
    "TESTING",
    "DORMANT",
    "UP",
)
STATISTICS = (
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "multicast",
    "collisions",
    "rx_length_errors",
    "rx_over_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_fifo_errors",
    "rx_missed_errors",
    "tx_aborted_errors",
    "tx_carrier_errors",
    "tx_fifo_errors",
    "tx_heartbeat_errors",
    "tx_window_errors",
)
"""What struct rtnl_link_stats64 counts of every kind of interface."""

_QUEUE = ("backlog", "qlen", "drops", "requeues", "overlimits")

_UNCOUNTED_QDISC = "noqueue"

_WITHOUT_HANDLE = {0xFFFFFFFF: "root", 0xFFFFFFF1: "ingress"}  # TC_H_ROOT, TC_H_INGRESS

_NEIGHBOUR_STATES = {
    0x01: "INCOMPLETE",
    0x02: "REACHABLE",
    0x04: "STALE",
    0x08: "DELAY",
    0x10: "PROBE",
    0x20: "FAILED",
    0x40: "NOARP",
    0x80: "PERMANENT",
}
_ROUTE_TYPES = {
    1: "unicast",
    2: "local",
    3: "broadcast",
    4: "anycast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
    9: "throw",
    10: "nat",
}
_RULE_ACTIONS = {
    1: "lookup",
    2: "goto",
    3: "nop",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
}
_FAMILIES = {socket.AF_INET: "inet", socket.AF_INET6: "inet6"}
_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}

_IFA_F_DADFAILED = 0x08
_IFA_F_TENTATIVE = 0x40
_RTM_F_CLONED = 0x200
_FIB_RULE_INVERT = 0x2

_PARSER = MarshalRtnl()


class Rtnetlink:
    """A socket of rtnetlink in the namespace of the thread that makes it, for a few dumps."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE)
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(_TIMEOUT_S)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def dump(self, kind: int) -> bytes:
        """Return the messages of a dump, the same bytes if all is the same. Raises OSError."""
        self._socket.send(request(kind, _BODIES[kind], _SEQUENCE))
        messages: list[bytes] = []
        size = 0
        while True:
            datagram = self._socket.recv(_DATAGRAM)
            size += len(datagram)
            if size > MOST_BYTES:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            for message, of in _split(datagram):
                if of in (NLMSG_ERROR, NLMSG_DONE):
                    number = -struct.unpack_from("=i", message, HEADER)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return b"".join(messages)
                messages.append(message)


def _split(datagram: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield each message with its type, without what names the socket that asked."""
    at = 0
    while at + HEADER <= len(datagram):
        length, kind, flags = struct.unpack_from("=IHH", datagram, at)
        if length < HEADER:
            return
        end = at + ((length + 3) & ~3)
        head = struct.pack("=IHHII", length, kind, flags, _SEQUENCE, 0)
        yield head + datagram[at + HEADER : end], kind
        at = end


def _messages(dumped: bytes) -> Iterator[Any]:
    return iter(_PARSER.parse(dumped))


def links(dumped: bytes) -> dict[int, Row]:
    """Return what each interface is, by its index."""
    found = {}
    for message in _messages(dumped):
        get = message.get_attr
        info = get("IFLA_LINKINFO")
        flags = message["flags"]
        found[int(message["index"])] = {
            "dev": get("IFLA_IFNAME"),
            "kind": info.get_attr("IFLA_INFO_KIND") if info else None,
            "state": get("IFLA_OPERSTATE"),
            "up": int(bool(flags & _IFF_UP)),
            "carrier": get("IFLA_CARRIER"),
            "carrier_changes": get("IFLA_CARRIER_CHANGES"),
            "mtu": get("IFLA_MTU"),
            "txqlen": get("IFLA_TXQLEN"),
            "master": get("IFLA_MASTER"),
            "link": get("IFLA_LINK"),
            "link_nsid": get("IFLA_LINK_NETNSID"),
        }
    return found


def statistics(dumped: bytes) -> dict[int, Row]:
    """Return what each interface has counted, by its index."""
    found = {}
    for message in _messages(dumped):
        counted = message.get_attr("IFLA_STATS_LINK_64")
        if counted:
            found[int(message["ifindex"])] = {name: counted[name] for name in STATISTICS}
    return found


def qdiscs(dumped: bytes) -> dict[tuple[int, str, str], Row]:
    """Return what each qdisc has counted, by the index of its interface, handle and parent.

    Without those of interfaces that have no queue.
    """
    found = {}
    for message in _messages(dumped):
        get = message.get_attr
        kind, counted = get("TCA_KIND"), get("TCA_STATS2")
        if kind == _UNCOUNTED_QDISC or not counted:
            continue
        basic, queue = counted.get_attr("TCA_STATS_BASIC"), counted.get_attr("TCA_STATS_QUEUE")
        row: Row = {"kind": kind}
        row |= {name: basic[name] for name in ("bytes", "packets")} if basic else {}
        row |= {name: queue[name] for name in _QUEUE} if queue else {}
        key = int(message["index"]), _handle(message["handle"]), _handle(message["parent"])
        found[key] = row
    return found


def addresses(dumped: bytes) -> dict[tuple[Any, ...], Row]:
    """Return the addresses of interfaces, by index, family, address and length of the prefix."""
    found: dict[tuple[Any, ...], Row] = {}
    for message in _messages(dumped):
        get = message.get_attr
        # of a point-to-point link IFA_ADDRESS is the other end
        address = get("IFA_LOCAL") or get("IFA_ADDRESS")
        flags = get("IFA_FLAGS") or message["flags"]
        if message["family"] not in _FAMILIES or address is None:
            continue
        row = {
            "duplicate": int(bool(flags & _IFA_F_DADFAILED)),
            "tentative": int(bool(flags & _IFA_F_TENTATIVE)),
        }
        key = int(message["index"]), _FAMILIES[message["family"]], address, message["prefixlen"]
        found[key] = row
    return found


def routes(dumped: bytes) -> dict[tuple[Any, ...], Row]:
    """Return the routes but those to own addresses and what the kernel only remembers."""
    found: dict[tuple[Any, ...], Row] = {}
    for message in _messages(dumped):
        get = message.get_attr
        family, kind = message["family"], _ROUTE_TYPES.get(message["type"])
        if family not in _FAMILIES or message["flags"] & _RTM_F_CLONED:
            continue
        if kind in ("local", "broadcast", "anycast", "multicast"):
            continue
        metrics = get("RTA_METRICS")
        hops = get("RTA_MULTIPATH") or [None]
        for hop in hops:
            gateway = (hop.get_attr("RTA_GATEWAY") if hop else None) or get("RTA_GATEWAY")
            via = get("RTA_VIA")
            index = (hop["oif"] if hop else None) or get("RTA_OIF")
            key = (
                _FAMILIES[family],
                get("RTA_TABLE") or message["table"],
                f"{get('RTA_DST') or _ANY[family]}/{message['dst_len']}",
                get("RTA_PRIORITY"),
                index,
                gateway or (via.get("addr") if via else None),
            )
            found[key] = {
                "kind": kind,
                "source": get("RTA_PREFSRC"),
                "mtu": metrics.get_attr("RTAX_MTU") if metrics else None,
            }
    return found


def neighbours(dumped: bytes) -> dict[tuple[Any, ...], Row]:
    """Return the neighbours but those that need none, by index, family and address."""
    found: dict[tuple[Any, ...], Row] = {}
    for message in _messages(dumped):
        state = _NEIGHBOUR_STATES.get(message["state"])
        address = message.get_attr("NDA_DST")
        if message["family"] not in _FAMILIES or state in (None, "NOARP") or address is None:
            continue
        key = int(message["ifindex"]), _FAMILIES[message["family"]], address
        found[key] = {"state": state, "lladdr": message.get_attr("NDA_LLADDR")}
    return found


def rules(dumped: bytes) -> dict[tuple[Any, ...], Row]:
    """Return the rules that say which routing table is asked, by all that they compare and do."""
    found: dict[tuple[Any, ...], Row] = {}
    for message in _messages(dumped):
        get = message.get_attr
        family, action = message["family"], _RULE_ACTIONS.get(message["action"])
        if family not in _FAMILIES or action is None:
            continue
        first_user, _, last_user = (get("FRA_UID_RANGE") or "").partition(":")
        row = {
            "family": _FAMILIES[family],
            "priority": get("FRA_PRIORITY") or 0,  # that of the first rule is left out
            "inverted": int(bool(message["flags"] & _FIB_RULE_INVERT)),
            "source": get("FRA_SRC"),
            "source_len": message["src_len"],
            "destination": get("FRA_DST"),
            "destination_len": message["dst_len"],
            "tos": message["tos"] or None,
            "iif": get("FRA_IIFNAME"),
            "oif": get("FRA_OIFNAME"),
            "fwmark": get("FRA_FWMARK"),
            "fwmask": get("FRA_FWMASK"),
            "l3mdev": int(bool(get("FRA_L3MDEV"))),
            "uid_from": int(first_user) if first_user else None,
            "uid_to": int(last_user) if last_user else None,
            "ip_proto": get("FRA_IP_PROTO"),
            "sports": _ports(get("FRA_SPORT_RANGE")),
            "dports": _ports(get("FRA_DPORT_RANGE")),
            "action": action,
            "routing_table": get("FRA_TABLE") or message["table"] or None,
            "goto": get("FRA_GOTO"),
            "suppress_prefix_len": get("FRA_SUPPRESS_PREFIXLEN"),
        }
        if row["suppress_prefix_len"] == 0xFFFFFFFF:
            row["suppress_prefix_len"] = None
        found[tuple(row.values())] = row
    return found


def _ports(between: str | None) -> str | None:
    """Return a range of ports, which pyroute2 writes 80:90, as ip does."""
    if not between:
        return None
    first, _, last = between.partition(":")
    return first if first == last else f"{first}-{last}"


def _handle(number: int) -> str:
    """Return a handle or parent as tc writes it."""
    if number in _WITHOUT_HANDLE:
        return _WITHOUT_HANDLE[number]
    major, minor = number >> 16, number & 0xFFFF
    return f"{major:x}:{minor:x}" if minor else f"{major:x}:"
