"""A line of ss that begins a socket, of any kind and with whatever columns ss was asked for."""

from __future__ import annotations

import re

from recorder.imports.endpoints import endpoint
from recorder.imports.rows import INET, STEPS, Row, Told
from recorder.imports.ss_words import read_words

STATES = (
    "ESTAB SYN-SENT SYN-RECV FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT UNCONN CLOSE-WAIT LAST-ACK LISTEN "
    "CLOSING UNKNOWN"
).split()
_TCP_ONLY = frozenset(STATES) - {"ESTAB", "UNCONN", "UNKNOWN"}

_NETIDS = "|".join((*STEPS, "icmp6"))
_STATE = "|".join(STATES)
_HEAD = re.compile(
    rf"(?:(?P<netid>{_NETIDS})\s*)?(?:(?P<state>{_STATE})\s*)?"
    r"(?P<recv_q>-?\d+)\s+(?P<send_q>-?\d+)\s+(?P<rest>\S.*)",
    re.ASCII | re.DOTALL,
)
_BEGINS = re.compile(rf"(?:(?:{_NETIDS})\s+)?(?:{_STATE})(?:\s|\d|$)", re.ASCII)
_PAIR = re.compile(r"(?P<local>\S+?)\s+(?P<peer>\S+?)(?=users:\(|skmem:\(|timer:\(|\s|$)", re.ASCII)
_ONE = re.compile(r"\S+\s*$")
_UNIX = re.compile(
    r"(?P<local>.*?)\s+(?P<inode>\d+)\s+(?P<peer>.*?)\s+(?P<peer_inode>\d+)"
    r"(?=users:\(|skmem:\(|\s|$)",
    re.ASCII | re.DOTALL,
)
_UNIX_SIZE = 4096
"""Characters within which the names of a unix socket and its peer end, padded as they may be."""
_LINK = re.compile(r"(?P<local>\S+):(?P<dev>\S+)\s+\*(?=\s|$)", re.ASCII)
_NETLINK = re.compile(r"(?P<local>[^\s:]+):(?P<id>\S.*?)\s+\*(?=\s|$)", re.ASCII)
_HEADER = re.compile(r"(?:(?P<netid>Netid)\s*)?(?:(?P<state>State)\s*)?Recv-Q\s*Send-Q\b", re.ASCII)
_COMMAND = re.compile(r"(?:^|[#$>;&|]\s*|\bsudo\s+)ss\s+(?P<words>-.*)", re.ASCII)
_KINDS = {"t": "tcp", "u": "udp", "w": "raw", "x": "u_str", "S": "sctp", "d": "dccp", "M": "mptcp"}
_SELECT = re.compile(r"\b(?:s|d)(?:port|st|rc)\b|[()]|\bstate\s+(?!all\b)\S|\bexclude\b", re.ASCII)


class SsHeader:
    """The columns of a table of ss, as its header names them."""

    def __init__(self, found: re.Match[str] | None = None) -> None:
        self.has_netid = found is not None and found["netid"] is not None
        self.has_state = found is None or found["state"] is not None


def header(text: str) -> SsHeader | None:
    """Return what a header of ss says."""
    found = _HEADER.match(text)
    return SsHeader(found) if found else None


class SsCommand:
    """The command of ss as a log repeats it: the kind of socket and state it asked for, if one."""

    def __init__(self, words: str) -> None:
        options = "".join(re.findall(r"(?:^|\s)-([A-Za-z0-9]+)(?=\s|$)", words))
        kinds = {kind for letter, kind in _KINDS.items() if letter in options}
        self.kind = kinds.pop() if len(kinds) == 1 else None
        self.selects = _SELECT.search(words) is not None
        states = re.findall(r"\bstate\s+([a-z0-9-]+)", words)
        self.state = _named_state(states[0]) if len(states) == 1 else None


def command(text: str) -> SsCommand | None:
    """Return what a repeated command line of ss says."""
    found = _COMMAND.search(text)
    return SsCommand(found["words"]) if found else None


def _named_state(word: str) -> str | None:
    known = {state.lower(): state for state in STATES} | {
        "established": "ESTAB",
        "closed": "UNCONN",
        "listening": "LISTEN",
    }
    return known.get(word)


def begins(text: str) -> bool:
    """Whether a line looks like the beginning of a socket, readable or not."""
    return _BEGINS.match(text) is not None


def is_half(text: str) -> bool:
    """Whether a line is the beginning of a socket that was broken before its peer."""
    found = _HEAD.match(text)
    if found is None:
        return (
            _BEGINS.match(text) is not None and re.fullmatch(r"[A-Za-z0-9_\s-]+", text) is not None
        )
    return found["state"] is not None and _ONE.fullmatch(found["rest"]) is not None


def tells_tcp(row: Row) -> bool:
    """Whether a socket without a netid is TCP beyond doubt."""
    return row.get("state") in _TCP_ONLY or "snd_cwnd" in row or "rto_us" in row


def read(text: str, columns: SsHeader, any_family: str) -> Told | None:
    """Return the socket that a line begins, None if it begins none."""
    found = _HEAD.match(text)
    if found is None or (found["state"] is None and columns.has_state):
        return None
    told = Told({"recv_q": int(found["recv_q"]), "send_q": int(found["send_q"])})
    netid = found["netid"]
    if netid is not None:
        told.row["netid"] = "raw" if netid == "icmp6" else netid
    if found["state"] is not None:
        told.row["state"] = found["state"]
    rest = found["rest"]
    end = _read_ends(netid or "", rest, told, any_family)
    if end < 0 or not _fits(told.row):
        return None
    read_words(rest[end:], told)
    return told


def _fits(row: Row) -> bool:
    """Whether the queues are numbers that a kernel may have."""
    for name in ("recv_q", "send_q"):
        value = row[name]
        assert isinstance(value, int)
        if not -(1 << 31) <= value < 1 << 32:
            return False
        row[name] = value & 0xFFFFFFFF
    return True


def _read_ends(netid: str, rest: str, told: Told, any_family: str) -> int:
    """Read both addresses; return where they end, -1 if they cannot be read."""
    row = told.row
    step = STEPS.get(netid, "")
    if step == "unix" and (found := _UNIX.match(rest, 0, _UNIX_SIZE)):
        for side in ("local", "peer"):
            row[f"{side}_addr"] = None if found[side] == "*" else found[side]
        row |= {"family": "unix", "inode": _u32(found["inode"])}
        peer = _u32(found["peer_inode"])
        # ss prints 0 where the kernel names none, too
        row["peer_inode"] = None if not peer and row.get("state") != "ESTAB" else peer
        return found.end()
    if step == "packet" and (found := _LINK.match(rest)):
        row |= {"family": "packet", "local_addr": found["local"]}
        if found["dev"] != "*":
            row["dev"] = found["dev"]
        return found.end()
    if step == "netlink" and (found := _NETLINK.match(rest)):
        row |= {
            "family": "netlink",
            "local_addr": found["local"],
            "local_id": _port_id(found["id"]),
        }
        return found.end()
    if step == "vsock" and (found := _PAIR.match(rest)):
        return found.end() if _read_vsock(found, row) else -1
    if (not netid or netid in (*INET, "icmp6")) and (found := _PAIR.match(rest)):
        return found.end() if _read_inet(found, netid or "tcp", row, any_family) else -1
    return -1


def _read_inet(found: re.Match[str], netid: str, row: Row, any_family: str) -> bool:
    local = endpoint(found["local"], netid, any_family)
    peer = endpoint(found["peer"], netid, any_family)
    if local is None or peer is None:
        return False
    row |= {
        "family": local.family or peer.family,
        "local_addr": local.address,
        "local_port": local.port,
        "peer_addr": peer.address,
        "peer_port": peer.port,
    }
    if local.dev is not None:
        row["dev"] = local.dev
    return True


def _read_vsock(found: re.Match[str], row: Row) -> bool:
    row["family"] = "vsock"
    for side in ("local", "peer"):
        cid, colon, port = found[side].rpartition(":")
        if not colon or not (port == "*" or (port.isascii() and port.isdigit())):
            return False
        row[f"{side}_addr"] = None if cid == "*" else cid
        row[f"{side}_id"] = None if port == "*" else _u32(port)
    return True


def _u32(text: str) -> int | None:
    number = int(text)
    return number if number < 1 << 32 else None


def _port_id(text: str) -> int | None:
    """Return a netlink port id of ``kernel``, ``PID`` or ``COMM/PID``."""
    number = text.rpartition("/")[2]
    if number == "kernel":
        return 0
    return int(number) % 2**32 if re.fullmatch(r"-?\d{1,10}", number, re.ASCII) else None
