"""inet_diag (include/uapi/linux/inet_diag.h): requests for a protocol, messages → columns."""

from __future__ import annotations

import socket
import struct

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.diag import mptcp, sctp, tcp_info, ulp
from recorder.diag.sock_diag import KERNEL_COOKIE, SKMEM, STATES, absent_at
from recorder.wire import details, text
from recorder.wire.columns import Bits, Columns, Values, code_words, word_codes
from recorder.wire.layout import Layout
from recorder.wire.netlink import (
    Attributes,
    Dump,
    Framing,
    Words,
    attributes,
    gather,
    gather_number,
    gather_text,
)

TCPDIAG_GETSOCK = 18

REQUEST_PROTOCOL = 3
"""INET_DIAG_REQ_PROTOCOL."""

ALL_EXTENSIONS = 0xFF
ALL_STATES = 0xFFFE
"""TCP has 1 to 13, NEW_SYN_RECV (12) and BOUND_INACTIVE (13, Linux 6.8) among them; DCCP more."""

DCCP_STATES = ("PARTOPEN", "PASSIVE_CLOSEREQ")
"""enum dccp_state (include/linux/dccp.h): those behind all of TCP's; ss has no names for them."""

_BOUND_INACTIVE_SINCE = (6, 8)

MEMINFO = 1
INFO = 2
VEGASINFO = 3
CONG = 4
TOS = 5
TCLASS = 6
SKMEMINFO = 7
SHUTDOWN = 8
DCTCPINFO = 9
PROTOCOL = 10
SKV6ONLY = 11
MARK = 15
BBRINFO = 16
CLASS_ID = 17
MD5SIG = 18
CGROUP_ID = 21
SOCKOPT = 22
LAST = SOCKOPT
PAD_ATTRIBUTE = 14

MD5SIG_SIZE = 100

TIMERS = ["off", "on", "keepalive", "timewait", "persist", "delack", "unknown"]
OTHER_TIMER = len(TIMERS) - 1

MESSAGE = np.dtype(
    {
        "names": "family state timer retrans sport dport src dst interface cookie expires_ms "
        "recv_q send_q uid inode".split(),
        "formats": "u1 u1 u1 u1 >u2 >u2 V16 V16 <u4 <u8 <u4 <u4 <u4 <u4 <u4".split(),
        "offsets": [0, 1, 2, 3, 4, 6, 8, 24, 40, 44, 52, 56, 60, 64, 68],
        "itemsize": 72,
    }
)

STRUCTS: dict[int, Layout] = {
    MEMINFO: Layout(
        # each an int of the kernel, as of SKMEM
        "meminfo",
        (("rmem", 0, "<i4"), ("wmem", 4, "<i4"), ("fmem", 8, "<i4"), ("tmem", 12, "<i4")),
    ),
    VEGASINFO: Layout(
        "vegas",
        (
            ("vegas_enabled", 0, "<u4"),
            ("vegas_rttcnt", 4, "<u4"),
            ("vegas_rtt_us", 8, "<u4"),
            ("vegas_minrtt_us", 12, "<u4"),
        ),
    ),
    SKMEMINFO: SKMEM,
    DCTCPINFO: Layout(
        "dctcp",
        (
            ("dctcp_enabled", 0, "<u2"),
            ("dctcp_ce_state", 2, "<u2"),
            ("dctcp_alpha", 4, "<u4"),
            ("dctcp_ab_ecn", 8, "<u4"),
            ("dctcp_ab_tot", 12, "<u4"),
        ),
    ),
    BBRINFO: Layout(
        "bbr",
        (
            ("bbr_bw", 0, "<u8"),
            ("bbr_min_rtt_us", 8, "<u4"),
            ("bbr_pacing_gain", 12, "<u4"),
            ("bbr_cwnd_gain", 16, "<u4"),
        ),
    ),
}

SCALARS: dict[int, tuple[str, str]] = {
    TOS: ("tos", "u1"),
    TCLASS: ("tclass", "u1"),
    SHUTDOWN: ("shutdown", "u1"),
    PROTOCOL: ("protocol", "u1"),
    SKV6ONLY: ("v6only", "u1"),
    MARK: ("mark", "<u4"),
    CLASS_ID: ("class_id", "<u4"),
    CGROUP_ID: ("cgroup_id", "<u8"),
    SOCKOPT: ("sockopt", "<u2"),
}

INFOS: dict[str, Layout] = {
    "tcp": tcp_info.LAYOUT,
    "dccp": tcp_info.LAYOUT,
    "mptcp": mptcp.LAYOUT,
    "sctp": sctp.LAYOUT,
}
"""What INET_DIAG_INFO holds; the other protocols have none."""

_KNOWN = (*STRUCTS, *SCALARS, CONG, MD5SIG, ulp.INFO, PAD_ATTRIBUTE)


def _sockid() -> bytes:
    return bytes(48)


def request_v2(family: int, protocol: int, states: int = ALL_STATES, more: bytes = b"") -> bytes:
    """Return struct inet_diag_req_v2 for the sockets of a family, with every extension.

    ``states`` is a mask of those wanted; ``more`` are attributes.

    A protocol that needs more than its byte goes into an attribute (Linux 5.9); the byte then says
    255, so that an older kernel refuses or answers for raw sockets, and never lists TCP's instead.
    """
    head = struct.pack("=BBBxI", family, min(protocol, 255), ALL_EXTENSIONS, states)
    if protocol <= 255:
        return head + _sockid() + more
    return head + _sockid() + struct.pack("=HHI", 8, REQUEST_PROTOCOL, protocol) + more


def request_tcp_both(states: int = ALL_STATES, more: bytes = b"") -> bytes:
    """Return the legacy struct inet_diag_req, which dumps TCP of IPv4 and IPv6 in one walk."""
    return (
        struct.pack("=BBBB", socket.AF_INET, 0, 0, ALL_EXTENSIONS)
        + _sockid()
        + struct.pack("=II", states, 0)
        + more
    )


class InetDiag:
    """Decodes the messages of one dump after another into the same columns."""

    def __init__(self, netid: str, release: tuple[int, int]) -> None:
        """``netid`` is what was asked for: tcp, udp, udplite, raw, mptcp, sctp or dccp.

        The kernel's ``release`` decides on the last field of tcp_info.
        """
        self._netid = netid
        self._release = release
        self._structs = dict(STRUCTS)
        if netid in INFOS:
            self._structs[INFO] = INFOS[netid]
        self._addresses = sctp.Addresses() if netid == "sctp" else None
        addresses = (sctp.LOCALS, sctp.PEERS) if netid == "sctp" else ()
        self._known = frozenset((*_KNOWN, *self._structs, *addresses))
        kinds: dict[str, npt.DTypeLike] = {
            "_family": "u1",
            "_state": "u1",
            "_timer": "u1",
            "retrans": "u1",
            "local_port": "u2",
            "peer_port": "u2",
            "_src": "V16",
            "_dst": "V16",
            "interface": "u4",
            "cookie": "u8",
            "expires_ms": "u4",
            "recv_q": "u4",
            "send_q": "u4",
            "uid": "u4",
            "inode": "u4",
            "_present": "u4",
            "_cong": "V16",
            "md5_keys": "u2",
        }
        for layout in self._structs.values():
            kinds |= layout.column_types()
        kinds |= dict(SCALARS.values())
        kinds |= ulp.COLUMN_TYPES
        if netid in ("sctp", "mptcp"):
            kinds[KERNEL_COOKIE] = "u8"
        self.columns = Columns(kinds)

    def decode(self, words: Words, framing: Framing, dump: Dump) -> None:
        """Append the rows of a chunk. Short and broken messages are counted and left out."""
        starts, ends = framing.offsets, framing.ends
        short = ends - starts < MESSAGE.itemsize
        if short.any():
            dump.bad += int(short.sum())
            starts, ends = starts[~short], ends[~short]
        absent = absent_at(words)
        found = attributes(
            words, starts + MESSAGE.itemsize, ends, LAST, absent, np.zeros(starts.size, np.bool_)
        )
        if found.bad.any():
            good = ~found.bad
            dump.bad += int(found.bad.sum())
            starts = starts[good]
            found = found.keep(good)
        dump.count_unknown(found.others(self._known))
        if self._addresses is not None and not self.columns.rows:
            self._addresses.clear()
        rows = self.columns.extend(starts.size)
        self._decode_message(words, starts, rows)
        for kind, layout in self._structs.items():
            layout.decode(words, found.at[kind], found.length[kind], self.columns, rows)
        present = found.present.copy()
        for kind, (name, type_) in SCALARS.items():
            self._scalar(words, found, kind, name, type_, present, rows)
        whole = self.columns.whole
        whole("md5_keys")[rows] = found.length[MD5SIG] // MD5SIG_SIZE
        whole("_cong")[rows] = gather_text(words, found.at[CONG], found.length[CONG], 16)
        whole("_present")[rows] = present
        ulp.decode(words, found.at[ulp.INFO], found.length[ulp.INFO], self.columns, rows, dump)
        if self._addresses is not None:
            self._addresses.decode(words, found, rows)
            sctp.identify(self.columns, rows)
        elif self._netid == "mptcp":
            mptcp.identify(self.columns, rows)

    def _decode_message(self, words: Words, starts: npt.NDArray[np.int64], rows: slice) -> None:
        message = gather(words, starts, MESSAGE)
        for name, column in (
            ("family", "_family"),
            ("state", "_state"),
            ("timer", "_timer"),
            ("sport", "local_port"),
            ("dport", "peer_port"),
            ("src", "_src"),
            ("dst", "_dst"),
            *((n, n) for n in ("retrans", "interface", "cookie", "expires_ms")),
            *((n, n) for n in ("recv_q", "send_q", "uid", "inode")),
        ):
            self.columns.whole(column)[rows] = message[name]

    def _scalar(
        self,
        words: Words,
        found: Attributes,
        kind: int,
        name: str,
        type_: str,
        present: npt.NDArray[np.uint32],
        rows: slice,
    ) -> None:
        dtype = np.dtype(type_)
        length = found.length[kind]
        if not length.any():
            self.columns.whole(name)[rows] = 0
            present &= ~np.uint32(1 << kind)
            return
        if int(length.min()) < dtype.itemsize:
            present[length < dtype.itemsize] &= ~np.uint32(1 << kind)
        self.columns.whole(name)[rows] = gather_number(words, found.at[kind], dtype)

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Keep only these of the rows decoded, in ascending order."""
        self.columns.keep(rows)
        if self._addresses is not None:
            self._addresses.keep(rows)

    def rows(self) -> dict[str, Values | pa.Array]:
        """Return the columns of all rows decoded since the last ``clear``; absent ones are NULL."""
        columns = self.columns
        timer = columns["_timer"].astype(np.uint8)
        running = timer != 0
        expires = columns["expires_ms"].astype(np.uint32, copy=False)
        # before 5.5 a timer that had already expired showed a huge number
        np.putmask(expires, expires > 1 << 31, 0)
        interface = columns["interface"]
        family = columns["_family"].astype(np.uint8, copy=False)
        v6 = np.where(family == socket.AF_INET6, 1, 0).astype(np.int8)
        present = columns["_present"].astype(np.uint32, copy=False)
        result: dict[str, Values | pa.Array] = {
            "family": code_words(v6, ["inet", "inet6"]),
            "netid": code_words(np.zeros(columns.rows, np.int8), [self._netid]),
            "state": code_words(word_codes(columns["_state"], len(STATES), 0), STATES),
            "timer": code_words(word_codes(timer, OTHER_TIMER, OTHER_TIMER), TIMERS, running),
            "expires_ms": Values(expires, running),
            "interface": Values(interface, interface != 0),
            "local_addr": text.addresses(family, columns["_src"], socket.AF_INET),
            "peer_addr": text.addresses(family, columns["_dst"], socket.AF_INET),
        }
        for name in "retrans local_port peer_port cookie recv_q send_q uid inode".split():
            result[name] = Values(columns[name])
        if self._netid == "raw":
            del result["peer_port"]
        for layout in STRUCTS.values():
            result |= layout.values(columns)
        masks = Bits(present)
        for kind, (name, _) in SCALARS.items():
            if masks.any(kind):
                result[name] = Values(columns[name], masks.mask(kind))
        if masks.any(MD5SIG):
            result["md5_keys"] = Values(columns["md5_keys"], masks.mask(MD5SIG))
        if masks.any(CONG):
            result["cong"] = text.names(columns["_cong"], masks.mask(CONG))
        if masks.any(ulp.INFO):
            result |= ulp.values(columns, masks.mask(ulp.INFO))
        return result | self._own_columns(present)

    def _own_columns(self, present: npt.NDArray[np.uint32]) -> dict[str, Values | pa.Array]:
        """Return what this protocol has and others have not."""
        columns = self.columns
        if self._netid == "tcp":
            told = (present & np.uint32(1 << INFO | 1 << ulp.INFO)) != 0  # not of a minisocket
            subflow = Values(ulp.subflows(columns), None if told.all() else told)
            return {**tcp_info.values(columns, self._release), "subflow": subflow}
        if self._netid == "dccp":
            last = None if self._release >= _BOUND_INACTIVE_SINCE else -1
            words = [*STATES[:last], *DCCP_STATES]
            state = code_words(word_codes(columns["_state"], len(words), 0), words)
            return {"state": state, **tcp_info.values(columns, self._release)}
        if self._netid == "mptcp":
            own, rare = mptcp.values(columns)
            shown = {"cookie": Values(columns[KERNEL_COOKIE], mptcp.connections(columns)), **rare}
            return {**own, "details": details.column(shown, columns.rows)}
        if self._addresses is None:
            return {}
        is_association = sctp.associations(columns)
        fields = {
            **sctp.values(columns, is_association),
            **self._addresses.fragments(columns.rows),
            "cookie": Values(columns[KERNEL_COOKIE], is_association),
        }
        running = columns["_timer"] != 0
        return {
            "state": sctp.states(columns["_state"], is_association),
            "timer": code_words(running.astype(np.int8), ["off", sctp.TIMER], running),
            "details": details.column(fields, columns.rows),
        }
