"""A line of netstat (net-tools) that is a socket."""

from __future__ import annotations

import re

from recorder.imports.endpoints import endpoint
from recorder.imports.rows import Told
from recorder.imports.ss_words import own

_STATES = {
    "ESTABLISHED": "ESTAB",
    "SYN_SENT": "SYN-SENT",
    "SYN_RECV": "SYN-RECV",
    "FIN_WAIT1": "FIN-WAIT-1",
    "FIN_WAIT2": "FIN-WAIT-2",
    "TIME_WAIT": "TIME-WAIT",
    "CLOSE": "UNCONN",
    "CLOSED": "UNCONN",
    "CLOSE_WAIT": "CLOSE-WAIT",
    "LAST_ACK": "LAST-ACK",
    "LISTEN": "LISTEN",
    "CLOSING": "CLOSING",
    "UNKNOWN": "UNKNOWN",
}
_TIMERS = {
    "off": None,
    "on": "on",
    "on2": "on",
    "keepalive": "keepalive",
    "timewait": "timewait",
    "probe": "persist",
}
_NETIDS = {"tcp": "tcp", "udp": "udp", "udpl": "udplite", "raw": "raw", "sctp": "sctp"}
_TIMER = (
    r"(?P<timer>off|on2?|keepalive|timewait|probe|unkn-\d+) "
    r"\((?P<expires>\d+(?:\.\d+)?)/(?P<retrans>\d+)/\d+\)"
)
_INET = re.compile(
    r"(?P<proto>tcp|udp|udpl|raw|sctp)6?\s+(?P<recv_q>\d+)\s+(?P<send_q>\d+)\s+(?P<local>\S+)\s+"
    rf"(?P<peer>\S+)(?:\s+(?P<state>{'|'.join(_STATES)}|7))?"
    r"(?:\s+(?P<user>[^\s/]+)\s+(?P<inode>\d+)(?=\s|$))?"
    r"(?:\s+(?:-|(?P<pid>\d+)/(?P<comm>.*?)))?"
    rf"(?:\s+{_TIMER})?\s*",
    re.ASCII | re.DOTALL,
)
_UNIX = re.compile(
    r"unix\s+\d+\s+\[(?P<flags>[^]]*)\]\s+(?P<type>STREAM|DGRAM|SEQPACKET)\s+"
    r"(?:(?P<state>LISTENING|CONNECTED|CONNECTING|DISCONNECTING|FREE)\s+)?(?P<inode>\d+)"
    r"(?:\s+(?:-|(?P<pid>\d+)/(?P<comm>\S*)))?(?:\s+(?P<path>\S.*?))?\s*",
    re.ASCII | re.DOTALL,
)
_LONGEST = 1024
"""Characters; netstat prints less."""
_UNIX_NETIDS = {"STREAM": "u_str", "DGRAM": "u_dgr", "SEQPACKET": "u_seq"}
_UNIX_STATES = {"LISTENING": "LISTEN", "CONNECTED": "ESTAB", "CONNECTING": "SYN-SENT"}
_HEADER = re.compile(
    r"Active (?:Internet|UNIX|Bluetooth|IPX|AX\.25|X\.25)\b.*|Proto\s+(?:Recv-Q|RefCnt)\b.*",
    re.ASCII,
)
_COMMAND = re.compile(r"(?:^|[#$>;&|]\s*|\bsudo\s+)netstat\b.*", re.ASCII)
_BEGINS = re.compile(r"(?:tcp6?|udp6?|raw6?|sctp|udpl6?)\s+\d+\s+\d+\s|unix\s+\d+\s+\[", re.ASCII)


def header(text: str) -> bool:
    """Whether a line is a header of netstat."""
    return _HEADER.fullmatch(text) is not None


def command(text: str) -> bool:
    """Whether a line repeats the command."""
    return _COMMAND.search(text) is not None


def begins(text: str) -> bool:
    """Whether a line looks like a socket, readable or not."""
    return _BEGINS.match(text) is not None


def read(text: str) -> Told | None:
    """Return the socket of a line, None if it is none."""
    if len(text) > _LONGEST or not begins(text):
        return None
    if found := _UNIX.fullmatch(text):
        return _read_unix(found)
    found = _INET.fullmatch(text)
    if found is None or (found["proto"] == "tcp" and found["state"] is None):
        return None
    netid = _NETIDS[found["proto"]]
    local, peer = (endpoint(found[side], netid, "inet") for side in ("local", "peer"))
    recv_q, send_q = int(found["recv_q"]), int(found["send_q"])
    if local is None or peer is None or max(recv_q, send_q) >= 1 << 32:
        return None
    state = _STATES.get(found["state"] or "", "UNCONN")
    told = Told(
        {
            "netid": netid,
            "family": local.family or peer.family,
            "state": state,
            "recv_q": recv_q,
            # of a listener /proc, and so netstat, has no backlog
            "send_q": None if state == "LISTEN" else send_q,
            "local_addr": local.address,
            "local_port": local.port,
            "peer_addr": peer.address,
            "peer_port": peer.port,
        }
    )
    row = told.row
    if found["user"] is not None:
        row["uid" if found["user"].isdigit() else "user"] = (
            int(found["user"]) if found["user"].isdigit() else found["user"]
        )
        row["inode"] = int(found["inode"])
    if found["pid"] is not None:
        own(row, [(int(found["pid"]), None, found["comm"].strip())])
        row["holders"] = None  # netstat shows one of them
    if found["timer"] is not None:
        row["timer"] = _TIMERS.get(found["timer"], "unknown")
        if row["timer"] is not None:
            row["expires_ms"] = round(float(found["expires"]) * 1000)
            row["retrans"] = int(found["retrans"]) & 0xFF
    return told


def _read_unix(found: re.Match[str]) -> Told:
    told = Told(
        {
            "netid": _UNIX_NETIDS[found["type"]],
            "family": "unix",
            "state": _UNIX_STATES.get(found["state"] or "", "UNCONN"),
            "inode": int(found["inode"]),
            "local_addr": found["path"],
        }
    )
    if found["pid"] is not None:
        own(told.row, [(int(found["pid"]), None, found["comm"])])
        told.row["holders"] = None
    return told
