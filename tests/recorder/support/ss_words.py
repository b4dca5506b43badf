"""What ss -H -O prints, read into rows: column names of ``sockets`` → the text ss printed for them.

Formats follow misc/ss.c of iproute2 6.1 to 7.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

SsRow: TypeAlias = dict[str, str]

SEND = "send"
USERS = "users"
UNPARSED = "unparsed"
"""Keys of a row of ss that are no columns: ``send`` is derived, ``users`` compares by its own rule,
``unparsed`` keeps words this module does not know, so that none goes unseen."""

_NETIDS = r"tcp|udp|raw|mptcp|sctp|dccp|icmp6|\?\?\?"
_STATES = (
    "ESTAB|SYN-SENT|SYN-RECV|FIN-WAIT-1|FIN-WAIT-2|TIME-WAIT|UNCONN|CLOSE-WAIT|LAST-ACK|LISTEN"
    "|CLOSING|UNKNOWN"
)
_INET = re.compile(
    rf"(?:(?P<netid>{_NETIDS})\s+)?(?P<state>{_STATES})\s+(?P<recv_q>-?\d+)\s+(?P<send_q>-?\d+)\s+"
    r"(?P<local>\S+)\s+(?P<peer>\S+)\s*"
)
_UNIX = re.compile(
    rf"(?P<netid>u_str|u_seq|u_dgr)\s+(?P<state>{_STATES})\s+(?P<recv_q>-?\d+)\s+"
    r"(?P<send_q>-?\d+)\s+(?P<local_addr>.*?)\s+(?P<inode>-?\d+)\s+\*\s+(?P<peer_inode>-?\d+)\s*"
)
_PACKET = re.compile(
    r"(?P<netid>p_raw|p_dgr)\s+(?P<state>UNCONN)\s+(?P<recv_q>-?\d+)\s+(?P<send_q>-?\d+)\s+"
    r"(?P<local_addr>\S+):(?P<interface>\S+)\s+\*\s*"
)
_NETLINK = re.compile(
    r"(?P<netid>nl)\s+(?P<state>UNCONN)\s+(?P<recv_q>-?\d+)\s+(?P<send_q>-?\d+)\s+"
    r"(?P<local_addr>[^\s:]+):(?P<local_id>kernel|-?\d+|.*?/\d+)\s+\*\s*"
)
_ADDRESS = re.compile(r"(?P<addr>\*|\[[^\]]*\]|[\d.]+)(?:%(?P<interface>\S+))?:(?P<port>\d+|\*)$")
_USER = re.compile(r'\("(?P<comm>.*?)",pid=(?P<pid>\d+),(?:tid=\d+,)?fd=(?P<fd>\d+)\)')

ARROWS = ("<->", "-->", "<--", "---")
"""Shutdown bits 0 to 3 as ss -e draws them."""

OPTION_WORDS = {1: "ts", 2: "sack", 8: "ecn", 16: "ecnseen", 32: "fastopen", 64: "usec_ts"}
# word -> the rest of it; names of groups are columns
_WORDS = {
    "timer": r"\((?P<timer>\w+),(?P<expires_ms>[^,]*),(?P<retrans>-?\d+)\)",
    "uid": r"(?P<uid>\d+)",
    "ino": r"(?P<inode>\d+)",
    "sk": r"(?P<cookie>[0-9a-f]+)",
    "fwmark": r"0x(?P<mark>[0-9a-f]+)",
    "cgroup": r"(?P<cgroup_id>\S+)",
    "v6only": r"(?P<v6only>\d)",
    "tos": r"(?P<tos>\S+)",
    "tclass": r"(?P<tclass>\S+)",
    "class_id": r"(?P<class_id>\S+)",
    "inet-sockopt": r" \((?P<sockopt>[^)]*)\)",
    "skmem": r"\(r(?P<rmem_alloc>\d+),rb(?P<rcvbuf>\d+),t(?P<wmem_alloc>\d+),tb(?P<sndbuf>\d+),"
    r"f(?P<fwd_alloc>\d+),w(?P<wmem_queued>\d+),o(?P<optmem>\d+)(?:,bl(?P<backlog>\d+))?"
    r"(?:,d(?P<drops>\d+))?\)",
    "mem": r"\(r(?P<rmem>\d+),w(?P<wmem>\d+),f(?P<fmem>\d+),t(?P<tmem>\d+)\)",
    "wscale": r"(?P<snd_wscale>\d+),(?P<rcv_wscale>\d+)",
    "rto": r"(?P<rto_us>\S+)",
    "backoff": r"(?P<backoff>\d+)",
    "rtt": r"(?P<rtt_us>[^/\s]+)/(?P<rttvar_us>\S+)",
    "ato": r"(?P<ato_us>\S+)",
    "mss": r"(?P<snd_mss>-?\d+)",
    "pmtu": r"(?P<pmtu>\d+)",
    "rcvmss": r"(?P<rcv_mss>-?\d+)",
    "advmss": r"(?P<advmss>-?\d+)",
    "cwnd": r"(?P<snd_cwnd>\d+)",
    "ssthresh": r"(?P<snd_ssthresh>-?\d+)",
    "dctcp": r"(?:\(ce_state:(?P<dctcp_ce_state>\d+),alpha:(?P<dctcp_alpha>\d+),"
    r"ab_ecn:(?P<dctcp_ab_ecn>\d+),ab_tot:(?P<dctcp_ab_tot>\d+)\)|(?P<dctcp_enabled>fallback_mode))",
    "bbr": r"\(bw:(?P<bbr_bw>\d+)bps,mrtt:(?P<bbr_min_rtt_us>[^,)]+)"
    r"(?:,pacing_gain:(?P<bbr_pacing_gain>[^,)]+))?(?:,cwnd_gain:(?P<bbr_cwnd_gain>[^,)]+))?\)",
    "lastsnd": r"(?P<last_data_sent_ms>\d+)",
    "lastrcv": r"(?P<last_data_recv_ms>\d+)",
    "lastack": r"(?P<last_ack_recv_ms>\d+)",
    "send": r" (?P<send>\d+)bps",
    "pacing_rate": r" (?P<pacing_rate>\d+)bps(?:/(?P<max_pacing_rate>\d+)bps)?",
    "delivery_rate": r" (?P<delivery_rate>\d+)bps",
    "busy": r"(?P<busy_time_us>\d+)ms",
    "rwnd_limited": r"(?P<rwnd_limited_us>\S+)",
    "sndbuf_limited": r"(?P<sndbuf_limited_us>\S+)",
    "retrans": r"(?P<tcpi_retrans>\d+)/(?P<total_retrans>\d+)",
    "rcv_rtt": r"(?P<rcv_rtt_us>\S+)",
    "notsent": r"(?P<notsent_bytes>\d+)",
    "minrtt": r"(?P<min_rtt_us>\S+)",
    "md5keys": r"(?P<md5_keys>\S+)",
    "version": r" (?P<tls_version>\S+)",
    "cipher": r" (?P<tls_cipher>\S+)",
    "rxconf": r" (?P<tls_rxconf>\S+)",
    "txconf": r" (?P<tls_txconf>\S+)",
    "flags": r"(?P<mptcp_flags>\w*)",
    "token": r"(?P<mptcp_token_rem>\w+)\(id:(?P<mptcp_id_rem>\d+)\)"
    r"/(?P<mptcp_token_loc>\w+)\(id:(?P<mptcp_id_loc>\d+)\)",
    "seq": r"(?P<mptcp_map_seq>\w+)",
    "sfseq": r"(?P<mptcp_map_sfseq>\w+)",
    "ssnoff": r"(?P<mptcp_ssn_offset>\w+)",
    "maplen": r"(?P<mptcp_map_datalen>\w+)",
}
PLAIN_UNSIGNED = (
    *("bytes_sent", "bytes_retrans", "bytes_acked", "bytes_received", "segs_out", "segs_in"),
    *("data_segs_out", "data_segs_in", "delivered", "delivered_ce", "unacked", "lost", "sacked"),
    *("dsack_dups", "fackets", "rcv_ssthresh", "rcv_ooopack", "snd_wnd", "rcv_wnd", "rehash"),
)
_PLAIN_SIGNED = ("reord_seen", "rcv_space", "reordering")
_PACKET_WORDS = {
    "ver": r"(?P<packet_version>\d+)",
    "cpy_thresh": r"(?P<packet_copy_thresh>-?\d+)",
    "flags": r"\((?P<packet_flags>[^)]*)\)",
    **{f"ring_{way}": rf"\((?P<packet_ring_{way}>[^)]*)\)" for way in ("rx", "tx")},
    "fanout": r"\((?P<packet_fanout>[^)]*)\)",
}
_NETLINK_WORDS = {"sk": r"=\w+", "cb": r"=\w+", "groups": r"=(?P<netlink_groups>0x\w+)"}
MULTIPATH_NUMBERS = (
    *("subflows", "add_addr_signal", "add_addr_accepted", "subflows_max", "add_addr_signal_max"),
    *("add_addr_accepted_max", "token", "write_seq", "snd_una", "rcv_nxt", "local_addr_used"),
    *("local_addr_max", "csum_enabled"),
)
_MULTIPATH_WORDS = {word: rf"(?P<mptcpi_{word}>\w+)" for word in MULTIPATH_NUMBERS}
_UNIX_WORDS = {
    "ino": r"(?P<vfs_inode>\d+)",
    "dev": r"(?P<vfs_dev>\d+/\d+)",
    "peers": r"(?P<icons>(?: \d+)*)",
}
_FLAGS = {
    **{name: name for name in OPTION_WORDS.values()},
    "app_limited": "delivery_rate_app_limited",
    "zc_ro_tx": "tls_zc_ro_tx",
    "no_pad_rx": "tls_rx_no_pad",
}
_MULTIPATH_FLAGS = {"fallback": "mptcpi_fallback", "remote_key": "mptcpi_remote_key"}

_INET_PATTERNS = {
    word: re.compile(f"{re.escape(word)}:?{rest}(?=\\s|$)") for word, rest in _WORDS.items()
} | {
    word: re.compile(f"{word}:(?P<{word}>-?\\d+)(?=\\s|$)")
    for word in (*PLAIN_UNSIGNED, *_PLAIN_SIGNED)
}
_UNIX_PATTERNS = {
    "skmem": _INET_PATTERNS["skmem"],
    **{word: re.compile(f"{word}:{rest}(?=\\s|$)") for word, rest in _UNIX_WORDS.items()},
}
_NETLINK_PATTERNS = {
    "skmem": _INET_PATTERNS["skmem"],
    **{word: re.compile(f"{word}{rest}(?=\\s|$)") for word, rest in _NETLINK_WORDS.items()},
}
_PACKET_PATTERNS = {
    **{word: _INET_PATTERNS[word] for word in ("skmem", "uid", "ino", "sk")},
    **{word: re.compile(f"{word}:?{rest}(?=\\s|$)") for word, rest in _PACKET_WORDS.items()},
}
_MULTIPATH_PATTERNS = _INET_PATTERNS | {
    word: re.compile(f"{word}:{rest}(?=\\s|$)") for word, rest in _MULTIPATH_WORDS.items()
}
_WORD = re.compile(r"[A-Za-z0-9_-]+")


class OracleError(Exception):
    """ss failed, or printed what this module cannot read; says the command or the line."""


def parse(output: str) -> list[SsRow]:
    """Read what ss printed without a header and with one line per socket (-H -O)."""
    return [_parse_line(line) for line in output.splitlines() if line.strip()]


def _parse_line(line: str) -> SsRow:
    head = _UNIX.match(line)
    if head is not None:
        row = {name: text for name, text in head.groupdict().items() if text is not None}
        row["family"] = "unix"
        return row | _parse_words(line[head.end() :], _UNIX_PATTERNS)
    head = _PACKET.match(line)
    if head is not None:
        row = {"family": "packet", **head.groupdict()}
        if row["interface"] == "*":
            del row["interface"]
        return row | _parse_words(line[head.end() :], _PACKET_PATTERNS)
    head = _NETLINK.match(line)
    if head is not None:
        row = {"family": "netlink", **head.groupdict()}
        port = row["local_id"].rpartition("/")[2]
        row["local_id"] = "0" if port == "kernel" else str(int(port) % 2**32)
        return row | _parse_words(line[head.end() :], _NETLINK_PATTERNS)
    head = _INET.match(line)
    if head is None:
        raise OracleError(f"not a row of ss: {line!r}")
    row = {"netid": head["netid"] or "tcp"}
    row |= {name: head[name] for name in ("state", "recv_q", "send_q")}
    for side in ("local", "peer"):
        address = _ADDRESS.match(head[side])
        if address is None:
            raise OracleError(f"not an address of ss: {head[side]!r} in {line!r}")
        row[f"{side}_addr"] = address["addr"].strip("[]")
        row[f"{side}_port"] = address["port"]
        if address["interface"]:
            row["interface"] = address["interface"]
        row["family"] = "inet" if address["addr"][0].isdigit() else "inet6"
    patterns = _MULTIPATH_PATTERNS if row["netid"] == "mptcp" else _INET_PATTERNS
    return row | _parse_words(line[head.end() :], patterns)


def _parse_words(text: str, patterns: Mapping[str, re.Pattern[str]]) -> SsRow:
    row: SsRow = {}
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        if text.startswith("users:(", at):
            at = _parse_users(text, at, row)
            continue
        word = text[at:].split(maxsplit=1)[0]
        if word in ARROWS:
            row["shutdown"] = word
            at += 3
            continue
        name = _WORD.match(text, at)
        found = patterns[name[0]].match(text, at) if name and name[0] in patterns else None
        if found is not None:
            row |= {key: value for key, value in found.groupdict().items() if value is not None}
            at = found.end()
            continue
        at += len(word)
        if word in _FLAGS:
            row[_FLAGS[word]] = ""
        elif word in _MULTIPATH_FLAGS and patterns is _MULTIPATH_PATTERNS:
            row[_MULTIPATH_FLAGS[word]] = ""
        elif word.startswith("tcp-ulp-"):
            row["ulp"] = word.removeprefix("tcp-ulp-")
        elif name is not None and name[0] == word and "cong" not in row:
            row["cong"] = word
        else:
            row[UNPARSED] = f"{row.get(UNPARSED, '')} {word}".strip()
    if "md5_keys" in row:
        row["md5_keys"] = str(len(re.findall(r"/\d+=", row["md5_keys"])))
    if "icons" in row:
        row["icons"] = ",".join(row["icons"].split())
    return row


def _parse_users(text: str, at: int, row: SsRow) -> int:
    start = at = at + len("users:(")
    while (user := _USER.match(text, at)) is not None:
        at = user.end() + (text[user.end() : user.end() + 1] == ",")
    row[USERS] = text[start:at]
    return at + 1


def users(row: SsRow) -> list[tuple[str, int, int]]:
    """Return (comm, pid, fd) of every descriptor ss found for the socket."""
    return [
        (user["comm"], int(user["pid"]), int(user["fd"]))
        for user in _USER.finditer(row.get(USERS, ""))
    ]


def timer_range(text: str) -> tuple[int, int]:
    """Return the milliseconds, first and last, that ss prints as ``text`` (print_ms_timer)."""
    found = re.fullmatch(r"(?:(\d+)min)?(?:(\d+)sec|(?:(\d+)\.)?(\d+)(?:ms|sec))?", text)
    if found is None:
        raise OracleError(f"not a timer of ss: {text!r}")
    minutes, seconds, whole, fraction = (int(part) if part else 0 for part in found.groups())
    low = minutes * 60_000 + (seconds + whole) * 1000 + fraction
    if minutes > 9:
        return low, low + 59_999
    coarse = minutes or seconds > 9
    return low, low + (999 if coarse else 0)


COLUMNS = frozenset(
    name
    for pattern in (*_INET_PATTERNS.values(), *_UNIX_PATTERNS.values())
    for name in pattern.groupindex
) | frozenset({"cong", "ulp", "shutdown", *_FLAGS.values()})
"""Every key a row of TCP, UDP or unix can have besides those of its head."""
