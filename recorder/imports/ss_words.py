"""The words that ss prints after the addresses of a socket: text → columns.

Formats follow misc/ss.c of iproute2 3.0 to 7.1. A number keeps what was printed of it: ss rounds
rates that it gives a unit, and times to a microsecond or coarser.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping

from recorder.imports.rows import Row, Told

_FLAGS = {"ts": 1, "sack": 2, "ecn": 8, "ecnseen": 16, "fastopen": 32, "usec_ts": 64}
_WSCALE = 4
_ARROWS = {"<->": 0, "-->": 1, "<--": 2, "---": 3, "->": 1, "<-": 2}
_SOCKOPT = {
    "recverr": 1,
    "is_icsk": 2,
    "freebind": 4,
    "hdrincl": 8,
    "mc_loop": 16,
    "transparent": 32,
    "mc_all": 64,
    "nodefrag": 128,
    "bind_addr_no_port": 256,
    "recverr_rfc4884": 512,
    "defer_connect": 1024,
}
_TIMERS = {"on", "keepalive", "timewait", "persist", "delack", "T3_RTX"}
_BITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

ZERO_WHEN_LEFT_OUT = frozenset(
    "unacked tcpi_retrans total_retrans lost sacked fackets dsack_dups reord_seen rcv_ooopack "
    "bytes_sent bytes_retrans bytes_acked bytes_received segs_out segs_in data_segs_out "
    "data_segs_in delivered delivered_ce notsent_bytes backoff snd_wnd rcv_wnd rehash ato_us "
    "rcv_rtt_us busy_time_us rwnd_limited_us sndbuf_limited_us last_data_sent_ms "
    "last_data_recv_ms last_ack_recv_ms rcv_space rcv_ssthresh".split()
)
"""Columns of tcp_info whose word ss leaves out where they are 0."""

TCP_INFO_MARK = "snd_cwnd"
"""Every socket whose tcp_info ss prints has this."""

_PLAIN = {
    **{
        name: name
        for name in "bytes_sent bytes_retrans bytes_acked bytes_received segs_out segs_in "
        "data_segs_out data_segs_in delivered delivered_ce unacked lost sacked dsack_dups fackets "
        "rcv_ssthresh rcv_ooopack snd_wnd rcv_wnd rehash reord_seen rcv_space reordering pmtu "
        "advmss backoff".split()
    },
    "uid": "uid",
    "ino": "inode",
    "mss": "snd_mss",
    "rcvmss": "rcv_mss",
    "cwnd": "snd_cwnd",
    "ssthresh": "snd_ssthresh",
    "lastsnd": "last_data_sent_ms",
    "lastrcv": "last_data_recv_ms",
    "lastack": "last_ack_recv_ms",
    "notsent": "notsent_bytes",
}

_MS = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_RATE = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?[KMGT]?bps"


def _us(text: str) -> int:
    return round(float(text) * 1000)


def _rate(text: str) -> int:
    """Return the bytes per second of a rate in bits."""
    number = text.removesuffix("bps")
    unit = number[-1] if number[-1] in _BITS and number[-1] else ""
    return round(float(number.removesuffix(unit)) * _BITS[unit] / 8)


def _hex(text: str) -> int:
    return int(text, 16)


def _any_base(text: str) -> int:
    return int(text, 0)


def _gain(text: str) -> int:
    return round(float(text) * 256)


def _count_keys(text: str) -> int:
    return len(re.findall(r"/\d+=", text)) or 1


def milliseconds(text: str) -> int | None:
    """Return what a timer of ss says at least: 1min54sec, 10sec, 9.604ms, 204ms."""
    found = re.fullmatch(r"(?:(\d+)min)?(?:(\d+)sec|(?:(\d+)\.)?(\d+)(?:ms|sec))?", text, re.ASCII)
    if found is None or not text:
        return None
    minutes, seconds, whole, fraction = (int(part) if part else 0 for part in found.groups())
    return minutes * 60_000 + (seconds + whole) * 1000 + fraction


_Reader = Callable[[str], int]
# word, what follows it, how each named group becomes its column
_SHAPES: tuple[tuple[str, str, Mapping[str, _Reader]], ...] = (
    ("sk", r":(?P<cookie>[0-9a-f]{1,16})", {"cookie": _hex}),
    ("fwmark", r":(?P<mark>0x[0-9a-f]{1,8})", {"mark": _any_base}),
    ("v6only", r":(?P<v6only>[01])", {}),
    ("tos", r":(?P<tos>0x[0-9a-f]{1,2}|\d{1,3})", {"tos": _any_base}),
    ("tclass", r":(?P<tclass>0x[0-9a-f]{1,2}|\d{1,3})", {"tclass": _any_base}),
    ("class_id", r":(?P<class_id>0x[0-9a-f]{1,8}|\d{1,10})", {"class_id": _any_base}),
    (
        "skmem",
        r":\(r(?P<rmem_alloc>-?\d+),rb(?P<rcvbuf>-?\d+),t(?P<wmem_alloc>-?\d+),tb(?P<sndbuf>-?\d+)"
        r",f(?P<fwd_alloc>-?\d+),w(?P<wmem_queued>-?\d+)(?:,o(?P<optmem>-?\d+))?"
        r"(?:,bl(?P<backlog>-?\d+))?(?:,d(?P<drops>\d+))?\)",
        {},
    ),
    ("mem", r":\(r(?P<rmem>-?\d+),w(?P<wmem>-?\d+),f(?P<fmem>-?\d+),t(?P<tmem>-?\d+)\)", {}),
    ("wscale", r":(?P<snd_wscale>\d+),(?P<rcv_wscale>\d+)", {}),
    ("rto", rf":(?P<rto_us>{_MS})", {"rto_us": _us}),
    (
        "rtt",
        rf":(?P<rtt_us>{_MS})/(?P<rttvar_us>{_MS})(?:ms)?",
        {"rtt_us": _us, "rttvar_us": _us},
    ),
    ("ato", rf":(?P<ato_us>{_MS})", {"ato_us": _us}),
    ("minrtt", rf":(?P<min_rtt_us>{_MS})", {"min_rtt_us": _us}),
    ("rcv_rtt", rf":(?P<rcv_rtt_us>{_MS})", {"rcv_rtt_us": _us}),
    ("send", rf" {_RATE}", {}),
    (
        "pacing_rate",
        rf" (?P<pacing_rate>{_RATE})(?:/(?P<max_pacing_rate>{_RATE}))?",
        {"pacing_rate": _rate, "max_pacing_rate": _rate},
    ),
    ("delivery_rate", rf" (?P<delivery_rate>{_RATE})", {"delivery_rate": _rate}),
    ("busy", r":(?P<busy_time_us>\d+)ms", {"busy_time_us": _us}),
    ("rwnd_limited", r":(?P<rwnd_limited_us>\d+)ms(?:\([\d.]+%\))?", {"rwnd_limited_us": _us}),
    (
        "sndbuf_limited",
        r":(?P<sndbuf_limited_us>\d+)ms(?:\([\d.]+%\))?",
        {"sndbuf_limited_us": _us},
    ),
    ("retrans", r":(?P<tcpi_retrans>\d+)/(?P<total_retrans>\d+)", {}),
    ("md5keys", r":(?P<md5_keys>\S+)", {"md5_keys": _count_keys}),
    (
        "dctcp",
        r":\(ce_state:(?P<dctcp_ce_state>\d+),alpha:(?P<dctcp_alpha>\d+),"
        r"ab_ecn:(?P<dctcp_ab_ecn>\d+),ab_tot:(?P<dctcp_ab_tot>\d+)\)",
        {},
    ),
    ("dctcp", r":(?P<dctcp_enabled>fallback_mode)", {"dctcp_enabled": lambda text: 0}),
    (
        "bbr",
        rf":\(bw:(?P<bbr_bw>{_RATE}),mrtt:(?P<bbr_min_rtt_us>{_MS})"
        rf"(?:,pacing_gain:(?P<bbr_pacing_gain>{_MS}))?(?:,cwnd_gain:(?P<bbr_cwnd_gain>{_MS}))?\)",
        {
            "bbr_bw": _rate,
            "bbr_min_rtt_us": _us,
            "bbr_pacing_gain": _gain,
            "bbr_cwnd_gain": _gain,
        },
    ),
    *((word, rf":(?P<{column}>-?\d+)", {}) for word, column in _PLAIN.items()),
)
_BY_WORD: dict[str, list[tuple[re.Pattern[str], Mapping[str, _Reader]]]] = {}
for _word, _rest, _readers in _SHAPES:
    _BY_WORD.setdefault(_word, []).append(
        (re.compile(rf"{re.escape(_word)}{_rest}(?=[\s,)]|$)", re.ASCII), _readers)
    )
_TEXTS = {
    "cgroup": re.compile(r"cgroup:(?P<cgroup>\S+)"),
    "dev": re.compile(r"dev:(?P<vfs_device>\d+/\d+)"),
    "peers": re.compile(r"peers:(?P<icons>(?: \d+)*)"),
    "inet-sockopt": re.compile(r"inet-sockopt: \((?P<sockopt>[^)]*)\)"),
}
_TIMER = re.compile(r"timer:\((?P<timer>\w+),(?P<expires>[^,)]*),(?P<retrans>-?\d+)\)")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_USER = re.compile(r'\("(?P<comm>.*?)",(?:pid=)?(?P<pid>\d+),(?:tid=\d+,)?(?:fd=)?(?P<fd>\d+)\),?')
_CONG = re.compile(r"[a-z][a-z0-9_-]{1,15}")


def read_words(text: str, told: Told) -> bool:
    """Add what the words say to a socket; tell whether there was any that only ss writes."""
    row = told.row
    is_unix = str(row.get("netid", "")).startswith("u_")
    known = False
    at, size = 0, len(text)
    while at < size:
        if text[at].isspace():
            at += 1
            continue
        if text.startswith("users:(", at):
            at, known = _read_users(text, at, row), True
            continue
        end = _read_shape(text, at, row, is_unix)
        if end > at:
            at, known = end, True
            continue
        word = text[at:].split(maxsplit=1)[0]
        at += len(word)
        if _read_bare(word, row):
            known = True
        elif _CONG.fullmatch(word) and "cong" not in row:
            row["cong"] = word  # any word may be one, so it makes no line known
        else:
            told.unknown.append(word)
    return known


def _read_shape(text: str, at: int, row: Row, is_unix: bool) -> int:
    """Read a word with a value; return where it ends, ``at`` if it is none that is known."""
    name = _NAME.match(text, at)
    if name is None:
        return at
    word = name[0]
    if word == "timer" and (found := _TIMER.match(text, at)):
        _read_timer(found, row)
        return found.end()
    if pattern := _TEXTS.get(word):
        if found := pattern.match(text, at):
            _read_text(found, row)
            return found.end()
        return at
    for pattern, readers in _BY_WORD.get(word, ()):
        if found := pattern.match(text, at):
            for column, value in found.groupdict().items():
                if value is not None:
                    number = readers.get(column, int)(value)
                    row["vfs_inode" if is_unix and column == "inode" else column] = number
            if word == "wscale":
                _add_option(row, _WSCALE)
            return found.end()
    return at


def _read_bare(word: str, row: Row) -> bool:
    if word in _ARROWS:
        row["shutdown"] = _ARROWS[word]
    elif word in _FLAGS:
        _add_option(row, _FLAGS[word])
    elif word == "app_limited":
        row["delivery_rate_app_limited"] = 1
    elif word.startswith("tcp-ulp-"):
        row["ulp"] = word.removeprefix("tcp-ulp-")
    else:
        return False
    return True


def _add_option(row: Row, bit: int) -> None:
    options = row.get("options", 0)
    row["options"] = (options if isinstance(options, int) else 0) | bit


def _read_timer(found: re.Match[str], row: Row) -> None:
    row["timer"] = found["timer"] if found["timer"] in _TIMERS else "unknown"
    row["expires_ms"] = milliseconds(found["expires"])
    row["retrans"] = max(int(found["retrans"]), 0) & 0xFF


def _read_text(found: re.Match[str], row: Row) -> None:
    for column, value in found.groupdict().items():
        if column == "sockopt":
            row[column] = sum(_SOCKOPT.get(word.strip(), 0) for word in value.split(","))
        elif column == "icons":
            row[column] = ",".join(value.split()) or None
        elif column == "vfs_device":
            major, minor = (int(part) for part in value.split("/"))
            row["vfs_dev"] = os.makedev(major, minor)  # ss takes the kernel's number for glibc's
        else:
            row[column] = value


def _read_users(text: str, at: int, row: Row) -> int:
    at += len("users:(")
    found: list[tuple[int, int, str]] = []
    while (user := _USER.match(text, at)) is not None:
        found.append((int(user["pid"]), int(user["fd"]), user["comm"]))
        at = user.end()
    own(row, found)
    return at + (text[at : at + 1] == ")")


def own(row: Row, holders: Iterable[tuple[int, int | None, str | None]]) -> None:
    """Put in who holds the socket: (pid, descriptor, name) each; the lowest number is shown."""
    every = sorted(holders, key=lambda one: (one[0], one[1] or 0))
    if not every:
        return
    pid, descriptor, comm = every[0]
    row |= {"pid": pid, "fd": descriptor, "comm": comm, "owner_by": "fd"}
    row["holders"] = len({one[0] for one in every})
