"""inet_diag (include/uapi/linux/inet_diag.h): requests for TCP and UDP, messages → columns."""

from __future__ import annotations

import socket
import struct

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder import tcp_info, text
from recorder.columns import Bits, Columns, Values, code_words, word_codes
from recorder.layout import Layout
from recorder.netlink import (
    PAD,
    Attributes,
    Dump,
    Framing,
    Words,
    attributes,
    gather,
    gather_number,
    gather_text,
)
from recorder.sock_diag import SKMEM, STATES

TCPDIAG_GETSOCK = 18

ALL_EXTENSIONS = 0xFF
ALL_STATES = 0x3FFE
"""TCP states 1 to 13: NEW_SYN_RECV (12) and BOUND_INACTIVE (13, Linux 6.8) among them."""

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
ULP_INFO = 19
CGROUP_ID = 21
SOCKOPT = 22
LAST = SOCKOPT
PAD_ATTRIBUTE = 14

ULP_NAME, ULP_TLS, ULP_MPTCP = 1, 2, 3
ULP_MPTCP_PAD = 11
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
        "meminfo", (("rmem", 0, "<u4"), ("wmem", 4, "<u4"), ("fmem", 8, "<u4"), ("tmem", 12, "<u4"))
    ),
    INFO: tcp_info.LAYOUT,
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

_KNOWN = frozenset((*STRUCTS, *SCALARS, CONG, MD5SIG, ULP_INFO, PAD_ATTRIBUTE))

TLS_SCALARS = {
    1: ("tls_version", "<u2"),
    2: ("tls_cipher", "<u2"),
    3: ("tls_txconf", "<u2"),
    4: ("tls_rxconf", "<u2"),
    5: ("tls_zc_ro_tx", "flag"),
    6: ("tls_rx_no_pad", "flag"),
    7: ("tls_tx_max_payload_len", "<u2"),
}
MPTCP_SCALARS = {
    1: ("mptcp_token_rem", "<u4"),
    2: ("mptcp_token_loc", "<u4"),
    3: ("mptcp_relwrite_seq", "<u4"),
    4: ("mptcp_map_seq", "<u8"),
    5: ("mptcp_map_sfseq", "<u4"),
    6: ("mptcp_ssn_offset", "<u4"),
    7: ("mptcp_map_datalen", "<u2"),
    8: ("mptcp_flags", "<u4"),
    9: ("mptcp_id_rem", "u1"),
    10: ("mptcp_id_loc", "u1"),
}
_ULP_SCALARS = {**TLS_SCALARS, **{16 + kind: value for kind, value in MPTCP_SCALARS.items()}}
"""Bit of the internal column ``_ulp_present`` → column, type."""


def _sockid() -> bytes:
    return bytes(48)


def request_v2(family: int, protocol: int) -> bytes:
    """Return struct inet_diag_req_v2 for all sockets of a family, with every extension."""
    return struct.pack("=BBBxI", family, protocol, ALL_EXTENSIONS, ALL_STATES) + _sockid()


def request_tcp_both() -> bytes:
    """Return the legacy struct inet_diag_req, which dumps TCP of IPv4 and IPv6 in one walk."""
    return (
        struct.pack("=BBBB", socket.AF_INET, 0, 0, ALL_EXTENSIONS)
        + _sockid()
        + struct.pack("=II", ALL_STATES, 0)
    )


def _plain(kind: str) -> str:
    return "u1" if kind == "flag" else kind


class InetDiag:
    """Decodes the messages of one dump after another into the same columns."""

    def __init__(self, netid: str, release: tuple[int, int]) -> None:
        self._netid = netid
        self._release = release
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
            "_ulp_present": "u4",
            "_cong": "V16",
            "_ulp": "V16",
            "md5_keys": "u2",
        }
        for layout in STRUCTS.values():
            kinds |= layout.column_types()
        for name, kind in (*SCALARS.values(), *_ULP_SCALARS.values()):
            kinds[name] = _plain(kind)
        self.columns = Columns(kinds)

    def decode(self, words: Words, framing: Framing, dump: Dump) -> None:
        """Append the rows of a chunk. Short and broken messages are counted and left out."""
        starts, ends = framing.offsets, framing.ends
        short = ends - starts < MESSAGE.itemsize
        if short.any():
            dump.bad += int(short.sum())
            starts, ends = starts[~short], ends[~short]
        absent = words.nbytes - PAD
        found = attributes(
            words, starts + MESSAGE.itemsize, ends, LAST, absent, np.zeros(starts.size, np.bool_)
        )
        if found.bad.any():
            good = ~found.bad
            dump.bad += int(found.bad.sum())
            starts = starts[good]
            found = found.keep(good)
        dump.count_unknown(found.others(_KNOWN))
        rows = self.columns.extend(starts.size)
        self._decode_message(words, starts, rows)
        for kind, layout in STRUCTS.items():
            layout.decode(words, found.at[kind], found.length[kind], self.columns, rows)
        present = found.present.copy()
        for kind, (name, type_) in SCALARS.items():
            self._scalar(words, found, kind, name, type_, present, kind, rows)
        whole = self.columns.whole
        whole("md5_keys")[rows] = found.length[MD5SIG] // MD5SIG_SIZE
        whole("_cong")[rows] = gather_text(words, found.at[CONG], found.length[CONG], 16)
        whole("_present")[rows] = present
        self._decode_ulp(words, found, rows, dump)

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
        bit: int,
        rows: slice,
    ) -> None:
        dtype = np.dtype(_plain(type_))
        length = found.length[kind]
        if type_ == "flag":
            self.columns.whole(name)[rows] = found.present >> np.uint32(kind) & 1
            return
        if not length.any():
            self.columns.whole(name)[rows] = 0
            present &= ~np.uint32(1 << bit)
            return
        if int(length.min()) < dtype.itemsize:
            present[length < dtype.itemsize] &= ~np.uint32(1 << bit)
        self.columns.whole(name)[rows] = gather_number(words, found.at[kind], dtype)

    def _decode_ulp(self, words: Words, found: Attributes, rows: slice, dump: Dump) -> None:
        whole = self.columns.whole
        for column in ("_ulp_present", "_ulp", *(scalar for scalar, _ in _ULP_SCALARS.values())):
            whole(column)[rows] = np.zeros((), whole(column).dtype)
        with_ulp = np.flatnonzero(found.length[ULP_INFO])
        if not with_ulp.size:
            return
        absent = words.nbytes - PAD
        start = found.at[ULP_INFO][with_ulp]
        stop = start + found.length[ULP_INFO][with_ulp]
        outer = attributes(words, start, stop, 3, absent, np.zeros(start.size, np.bool_))
        dump.count_unknown(outer.others((ULP_NAME, ULP_TLS, ULP_MPTCP)), f"{ULP_INFO}/")
        name = np.zeros(rows.stop - rows.start, "V16")
        name[with_ulp] = gather_text(words, outer.at[ULP_NAME], outer.length[ULP_NAME], 16)
        whole("_ulp")[rows] = name
        bits = np.zeros(start.size, np.uint32)
        for nest, scalars, shift in ((ULP_TLS, TLS_SCALARS, 0), (ULP_MPTCP, MPTCP_SCALARS, 16)):
            begin = outer.at[nest]
            inner = attributes(
                words,
                begin,
                begin + outer.length[nest],
                max(scalars),
                absent,
                np.zeros(start.size, np.bool_),
            )
            known = (*scalars, ULP_MPTCP_PAD) if nest == ULP_MPTCP else scalars
            dump.count_unknown(inner.others(known), f"{ULP_INFO}/{nest}/")
            has_nest = outer.length[nest] > 0
            for kind, (column, type_) in scalars.items():
                target = whole(column)[rows]
                if type_ == "flag":
                    target[with_ulp] = inner.present >> np.uint32(kind) & 1
                    bits[has_nest] |= np.uint32(1 << kind + shift)
                    continue
                dtype = np.dtype(type_)
                full = inner.length[kind] >= dtype.itemsize
                target[with_ulp] = gather_number(words, inner.at[kind], dtype)
                bits[full] |= np.uint32(1 << kind + shift)
        whole("_ulp_present")[rows.start + with_ulp] = bits

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Keep only these of the rows decoded."""
        self.columns.keep(rows)

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
            "local_addr": text.addresses(family, _raw(columns["_src"]), socket.AF_INET),
            "peer_addr": text.addresses(family, _raw(columns["_dst"]), socket.AF_INET),
        }
        for name in "retrans local_port peer_port cookie recv_q send_q uid inode".split():
            result[name] = Values(columns[name])
        for kind, layout in STRUCTS.items():
            if kind == INFO:
                result |= tcp_info.values(columns, self._release)
            else:
                result |= layout.values(columns)
        masks = Bits(present)
        for kind, (name, _) in SCALARS.items():
            if masks.any(kind):
                result[name] = Values(columns[name], masks.mask(kind))
        if masks.any(MD5SIG):
            result["md5_keys"] = Values(columns["md5_keys"], masks.mask(MD5SIG))
        if masks.any(CONG):
            result["cong"] = text.names(_raw(columns["_cong"]), masks.mask(CONG))
        ulp = Bits(columns["_ulp_present"].astype(np.uint32, copy=False))
        if masks.any(ULP_INFO):
            result["ulp"] = text.names(_raw(columns["_ulp"]), masks.mask(ULP_INFO))
            for bit, (name, _) in _ULP_SCALARS.items():
                if ulp.any(bit):
                    result[name] = Values(columns[name], ulp.mask(bit))
        return result


def _raw(array: npt.NDArray[np.generic]) -> npt.NDArray[np.void]:
    return array.view("V16")
