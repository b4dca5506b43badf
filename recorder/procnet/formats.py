"""How the lines of the socket tables in /proc/net look, and what columns they make.

The formats are those of the seq_show functions in net/ipv4/tcp_ipv4.c, udp.c, raw.c, ping.c, their
IPv6 twins, net/unix/af_unix.c, net/packet/af_packet.c, net/netlink/af_netlink.c, net/sctp/proc.c.

The kernel writes the name of a unix socket as it is: whoever puts line feeds into one can forge
rows of this namespace's unix table.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.diag import netlink_diag, packet_diag
from recorder.diag.inet_diag import OTHER_TIMER, TIMERS
from recorder.diag.sock_diag import STATES
from recorder.diag.unix_diag import NETIDS as UNIX_NETIDS
from recorder.procnet.lines import (
    KEY,
    POINTER,
    TICKS_PER_SECOND,
    Fields,
    Format,
    Lines,
    cut,
    decimal,
    hashed_words,
    hexadecimal,
    numbered,
    pointer_keys,
    pointers,
)
from recorder.procnet.sctp import SctpFormat
from recorder.wire import text
from recorder.wire.columns import AnyArray, Columns, Values, code_words, word_codes


def _inet_pattern(digits: int, *, tcp: bool) -> re.Pattern[bytes]:
    """Return the pattern of a line; of TCP its last numbers are missing for minisockets."""
    own = (
        rb"(?: (\d{1,12}) (\d{1,12}) \d+ (\d{1,10}) (-?\d{1,10}))?"
        if tcp
        else rb"(?: (-?\d{1,12}))?"
    )
    address = rb"([0-9A-F]{%d}):([0-9A-F]{4}) " % digits
    return re.compile(
        rb"^ *\d+: " + address + address + rb"([0-9A-F]{2}) ([0-9A-F]{8,16}):([0-9A-F]{8,16}) "
        rb"([0-9A-F]{2}):([0-9A-F]{8,16}) ([0-9A-F]{8}) +(-?\d{1,10}) +(\d{1,10}) (\d{1,10}) \d+ "
        + POINTER
        + own
        + rb" *$",
        re.MULTILINE,
    )


_MINISOCKETS = [STATES.index("SYN-RECV"), STATES.index("TIME-WAIT")]


def _addresses(texts: list[bytes]) -> tuple[npt.NDArray[np.void], npt.NDArray[np.uint64]]:
    """Return addresses as they lie in memory, padded to 16 bytes, and as two words each.

    The kernel prints them as numbers of 32 bits in its own byte order.
    """
    raw = np.zeros((len(texts), 4), np.uint32)
    if texts:
        numbers = np.frombuffer(bytes.fromhex(b"".join(texts).decode()), ">u4")
        raw[:, : len(texts[0]) // 8] = numbers.reshape(len(texts), -1)
    return raw.view("V16").reshape(-1), raw.view(np.uint64).reshape(-1, 2)


class InetFormat:
    """TCP, UDP, UDP-Lite, raw and ping sockets.

    /proc tells neither the backlog of a listener (send_q is NULL) nor the interface.
    """

    def __init__(self, netid: str, *files: str) -> None:
        self._netid = netid
        self._is_tcp = netid == "tcp"
        self._patterns = [_inet_pattern(digits, tcp=self._is_tcp) for digits in (8, 32)]
        self.files = files
        self.types: dict[str, npt.DTypeLike] = {
            **KEY,
            **dict.fromkeys(("_family", "_state", "_timer", "retrans"), "u1"),
            **dict.fromkeys(("local_port", "peer_port"), "u2"),
            **dict.fromkeys(("_src", "_dst"), "V16"),
            **dict.fromkeys(("expires_ms", "recv_q", "send_q"), "u4"),
        }
        if self._is_tcp:
            self.types |= {"_full": "u1", "retransmits": "u1", "probes": "u1"}
            self.types |= dict.fromkeys(("rto_us", "ato_us", "snd_cwnd", "snd_ssthresh"), "u4")
        else:
            self.types["drops"] = "u4"

    def pattern(self, file: str) -> re.Pattern[bytes]:
        return self._patterns[file.endswith("6")]

    def read(self, file: str, fields: Fields, rests: list[bytes]) -> Lines:
        local, local_port, peer, peer_port, state, tx, rx, timer, when, retrans = fields[:10]
        uid, probes, inode, pointer, *own = fields[10:]
        v6 = file.endswith("6")
        src, src_words = _addresses(local)
        dst, dst_words = _addresses(peer)
        timers, timeouts = hexadecimal(timer, 2), hexadecimal(retrans, 8)
        probe_counts = decimal(probes)
        # of a timer that is late old kernels print a number below zero
        late = np.array([item[0] in b"89ABCDEF" for item in when], np.bool_)
        ticks = np.where(late, 0, np.minimum(hexadecimal(when, 8), 1 << 32))
        values: dict[str, AnyArray] = {
            "_family": np.full(len(uid), socket.AF_INET6 if v6 else socket.AF_INET, np.uint8),
            "_src": src,
            "_dst": dst,
            "local_port": hexadecimal(local_port, 4),
            "peer_port": hexadecimal(peer_port, 4),
            "_state": hexadecimal(state, 2),
            "_timer": timers,
            "expires_ms": ticks * 1000 // TICKS_PER_SECOND,
            # as idiag_retrans: what the running timer has sent
            "retrans": np.where(timers == 1, timeouts, probe_counts.astype(np.uint64)),
            "recv_q": hexadecimal(rx, 8),
            "send_q": hexadecimal(tx, 8),
            "uid": decimal(uid) & 0xFFFFFFFF,  # before Linux 3.5 printed signed
            "inode": decimal(inode),
        }
        words = [*src_words.T, *dst_words.T, values["local_port"], values["peer_port"]]
        if not self._is_tcp:
            # before Linux 5.9 a number past 2^31 is printed signed
            values["drops"] = decimal([item or b"0" for item in own[0]]) & 0xFFFFFFFF
            return Lines(values, numbered(hashed_words([*words, pointers(pointer)])), None, v6)
        rto, ato, cwnd, ssthresh = own
        full = np.array([item is not None for item in ato], np.bool_)
        broken = ~full & ~np.isin(values["_state"], _MINISOCKETS)
        values |= {
            "_state": np.where(broken, -1, values["_state"].astype(np.int64)),
            "_full": full.astype(np.uint8),
            "retransmits": timeouts,
            "probes": probe_counts,
            "rto_us": decimal([item or b"0" for item in rto]) * (1000000 // TICKS_PER_SECOND),
            "ato_us": decimal([item or b"0" for item in ato]) * (1000000 // TICKS_PER_SECOND),
            "snd_cwnd": decimal([item or b"0" for item in cwnd]),
            # -1 stands for TCP_INFINITE_SSTHRESH
            "snd_ssthresh": decimal([item or b"0" for item in ssthresh]) & 0x7FFFFFFF,
        }
        # subflows of one MPTCP connection share its inode
        _, inverse, counts = np.unique(values["inode"], return_inverse=True, return_counts=True)
        return Lines(values, hashed_words(words), counts[inverse] > 1, v6)

    def rows(self, columns: Columns) -> dict[str, Values | pa.Array]:
        family = columns["_family"].astype(np.uint8)
        v6 = (family == socket.AF_INET6).astype(np.int8)
        timer = columns["_timer"].astype(np.uint8)
        result: dict[str, Values | pa.Array] = {
            "family": code_words(v6, ["inet", "inet6"]),
            "netid": code_words(np.zeros(columns.rows, np.int8), [self._netid]),
            "state": _states(columns["_state"]),
            "timer": code_words(word_codes(timer, OTHER_TIMER, OTHER_TIMER), TIMERS, timer != 0),
            "expires_ms": Values(columns["expires_ms"], timer != 0),
            "local_addr": text.addresses(family, columns["_src"], socket.AF_INET),
            "peer_addr": text.addresses(family, columns["_dst"], socket.AF_INET),
        }
        for name in "retrans local_port peer_port cookie recv_q send_q uid inode".split():
            result[name] = Values(columns[name])
        if self._netid == "raw":
            del result["peer_port"]
            result["protocol"] = Values(columns["local_port"].astype(np.uint8))
        if not self._is_tcp:
            return result | {"drops": Values(columns["drops"])}
        listens = columns["_state"] == STATES.index("LISTEN")
        result["send_q"] = Values(columns["send_q"], ~listens)
        full = (columns["_full"] != 0) & ~listens
        for name in "retransmits probes rto_us ato_us snd_cwnd snd_ssthresh".split():
            result[name] = Values(columns[name], full)
        return result


def _states(numbers: AnyArray) -> pa.Array:
    return code_words(word_codes(numbers, len(STATES), 0), STATES)


def _unconnected(rows: int) -> pa.Array:
    return code_words(np.zeros(rows, np.int8), ["UNCONN"])


_UNIX_NETID = np.array([{1: 0, 5: 1}.get(kind, 2) for kind in range(256)], np.int8)


class UnixFormat:
    """Unix sockets. Those that wait to be accepted are there too, without an inode."""

    files = ("unix",)
    types: Mapping[str, npt.DTypeLike] = {**KEY, "_type": "u1", "_state": "u1", "_name": "O"}
    STATES = ("UNKNOWN", "UNCONN", "SYN-SENT", "ESTAB", "CLOSING", "LISTEN")
    """enum socket_state of include/uapi/linux/net.h in the words of ss; LISTEN is a flag."""
    LISTENING = 1 << 16  # __SO_ACCEPTCON
    LONGEST_NAME = 108
    PATTERN = re.compile(
        rb"^" + POINTER + rb": [0-9A-F]{8} [0-9A-F]{8} ([0-9A-F]{8}) ([0-9A-F]{4}) ([0-9A-F]{2}) +"
        rb"(\d{1,10})(?=\s|\Z)",
        re.MULTILINE,
    )

    def pattern(self, file: str) -> re.Pattern[bytes]:
        return self.PATTERN

    def read(self, file: str, fields: Fields, rests: list[bytes]) -> Lines:
        pointer, flags, kind, state, inode = fields
        names = np.empty(len(rests), object)
        for place, rest in enumerate(rests):
            names[place], rests[place] = self._name(rest)
        known = word_codes(hexadecimal(state, 2), len(self.STATES) - 1, 0)
        listens = (hexadecimal(flags, 8) & np.uint64(self.LISTENING)) != 0
        values: dict[str, AnyArray] = {
            "_type": np.minimum(hexadecimal(kind, 4), 255),
            "_state": np.where(listens, len(self.STATES) - 1, known),
            "inode": decimal(inode),
            "uid": np.zeros(len(inode), np.uint32),
            "_name": names,
        }
        return Lines(values, pointer_keys(pointer))

    def _name(self, rest: bytes) -> tuple[bytes | None, bytes]:
        """Return the name, which follows one blank and may have line feeds in it, and the rest."""
        if rest[:1] != b" ":
            return None, rest
        name, junk = rest[1:].removesuffix(b"\n"), b""
        if len(name) > self.LONGEST_NAME:
            name, _, junk = name.partition(b"\n")
        return (name, junk) if 0 < len(name) <= self.LONGEST_NAME else (None, rest)

    def rows(self, columns: Columns) -> dict[str, Values | pa.Array]:
        names = [name if name is None else text.decode([name])[0] for name in columns["_name"]]
        return {
            "family": code_words(np.zeros(columns.rows, np.int8), ["unix"]),
            "netid": code_words(_UNIX_NETID[columns["_type"]], UNIX_NETIDS),
            "state": code_words(columns["_state"].astype(np.int8), list(self.STATES)),
            "local_addr": pa.array(names, pa.string()).dictionary_encode(),
            "inode": Values(columns["inode"]),
            "cookie": Values(columns["cookie"]),
        }


class PacketFormat:
    """Packet sockets."""

    files = ("packet",)
    types: Mapping[str, npt.DTypeLike] = {
        **KEY,
        "_type": "u1",
        "_protocol": "u2",
        "interface": "u4",
        "recv_q": "u4",
    }
    PATTERN = re.compile(
        rb"^" + POINTER + rb" +\d+ +(\d{1,3}) +([0-9a-f]{4}) +(-?\d{1,10}) +\d+ (\d{1,10}) +"
        rb"(\d{1,10}) +(\d{1,10}) *$",
        re.MULTILINE,
    )

    def pattern(self, file: str) -> re.Pattern[bytes]:
        return self.PATTERN

    def read(self, file: str, fields: Fields, rests: list[bytes]) -> Lines:
        pointer, kind, protocol, interface, rmem, uid, inode = fields
        values: dict[str, AnyArray] = {
            "_type": decimal(kind),
            "_protocol": hexadecimal(protocol, 4),
            "interface": decimal(interface) & 0xFFFFFFFF,  # -1: it is gone
            "recv_q": decimal(rmem),
            "uid": decimal(uid),
            "inode": decimal(inode),
        }
        return Lines(values, pointer_keys(pointer))

    def rows(self, columns: Columns) -> dict[str, Values | pa.Array]:
        interface = columns["interface"]
        kind = (columns["_type"] != socket.SOCK_RAW).astype(np.int8)
        return {
            "family": code_words(np.zeros(columns.rows, np.int8), ["packet"]),
            "netid": code_words(kind, packet_diag.NETIDS),
            "state": _unconnected(columns.rows),
            "local_addr": packet_diag.protocol_names(columns["_protocol"]),
            "interface": Values(interface, interface != 0),
            "send_q": Values(np.zeros(columns.rows, np.uint32)),
            "rmem_alloc": Values(columns["recv_q"]),
            **{name: Values(columns[name]) for name in ("recv_q", "uid", "inode", "cookie")},
        }


class NetlinkFormat:
    """Netlink sockets; /proc tells no user, and of old kernels neither drops nor inodes.

    Drops are told since Linux 2.6.30, inodes since 2.6.33.
    """

    files = ("netlink",)
    types: Mapping[str, npt.DTypeLike] = {
        **KEY,
        **dict.fromkeys(("_protocol", "_told", "_counted"), "u1"),
        **dict.fromkeys(("local_id", "recv_q", "send_q", "drops"), "u4"),
    }
    PATTERN = re.compile(
        rb"^" + POINTER + rb" +(\d{1,3}) +(-?\d{1,10}) +[0-9a-f]{8} +(\d{1,10}) +(\d{1,10}) +\S+ +"
        rb"\d+(?: +(-?\d{1,10})(?: +(\d{1,10}))?)? *$",
        re.MULTILINE,
    )

    def pattern(self, file: str) -> re.Pattern[bytes]:
        return self.PATTERN

    def read(self, file: str, fields: Fields, rests: list[bytes]) -> Lines:
        pointer, protocol, portid, rmem, wmem, drops, inode = fields
        told, counted = (np.array([i is not None for i in o], np.bool_) for o in (inode, drops))
        values: dict[str, AnyArray] = {
            "_protocol": np.where(cut(told) | cut(counted), -1, decimal(protocol)),
            # older kernels print these signed
            "local_id": decimal(portid) & 0xFFFFFFFF,
            "drops": decimal([item or b"0" for item in drops]) & 0xFFFFFFFF,
            "recv_q": decimal(rmem),
            "send_q": decimal(wmem),
            "inode": decimal([item or b"0" for item in inode]),
            "_told": told.astype(np.uint8),
            "_counted": counted.astype(np.uint8),
            "uid": np.zeros(len(inode), np.uint32),
        }
        return Lines(values, pointer_keys(pointer))

    def rows(self, columns: Columns) -> dict[str, Values | pa.Array]:
        return {
            "family": code_words(np.zeros(columns.rows, np.int8), ["netlink"]),
            "inode": Values(columns["inode"], columns["_told"] != 0),
            "netid": code_words(np.zeros(columns.rows, np.int8), ["nl"]),
            "state": _unconnected(columns.rows),
            "local_addr": netlink_diag.protocol_names(columns["_protocol"]),
            "rmem_alloc": Values(columns["recv_q"]),
            "wmem_alloc": Values(columns["send_q"]),
            "drops": Values(columns["drops"], columns["_counted"] != 0),
            **{name: Values(columns[name]) for name in ("local_id", "recv_q", "send_q", "cookie")},
        }


FORMATS: Mapping[str, Callable[[], Format]] = {
    "tcp": lambda: InetFormat("tcp", "tcp", "tcp6"),
    "udp": lambda: InetFormat("udp", "udp"),
    "udp6": lambda: InetFormat("udp", "udp6"),
    "udplite": lambda: InetFormat("udplite", "udplite"),
    "udplite6": lambda: InetFormat("udplite", "udplite6"),
    "raw": lambda: InetFormat("raw", "raw"),
    "raw6": lambda: InetFormat("raw", "raw6"),
    # icmp6 lists IPv4 sockets of the same identifier again, and icmp those of IPv6: the same inode
    # is the same socket, of which the first is kept
    "ping": lambda: InetFormat("ping", "icmp", "icmp6"),
    "sctp": lambda: SctpFormat(v6=False),
    "sctp6": lambda: SctpFormat(v6=True),
    "unix": UnixFormat,
    "packet": PacketFormat,
    "netlink": NetlinkFormat,
}
"""The steps there are files for."""
