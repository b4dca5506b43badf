"""The installed ss as an oracle: what it prints, compared with what a recorded row says.

``Oracle.prints`` makes of a recorded row what ss_words makes of ss's own output, hiding what ss
hides. So comparing the two also proves that every word ss left out stands for its default.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tests.recorder.support.ss_words import (
    ARROWS,
    MULTIPATH_NUMBERS,
    OPTION_WORDS,
    PLAIN_UNSIGNED,
    SEND,
    USERS,
    OracleError,
    SsRow,
    parse,
    timer_range,
    users,
)

Value: TypeAlias = object
Recorded: TypeAlias = Mapping[str, Value]

CLOCKS = frozenset({"last_data_sent_ms", "last_data_recv_ms", "last_ack_recv_ms"})
"""Columns that count the time since something happened."""

_STIRRED = ("segs_out", "segs_in")
"""Columns that tell whether anything happened."""

ALWAYS = ("-H", "-O", "--tos", "--inet-sockopt")
"""Options every run gets: one line a socket without a header, and words -e and -i leave out."""

SINCE = {
    "rcv_wnd": (6, 6),
    "rehash": (6, 6),
    "usec_ts": (6, 8),
    "tls_rx_no_pad": (6, 8),
    "tls_zc_ro_tx": (6, 2),
}
"""Releases from which ss surely prints a word; before, it is compared if it is there."""

_SOCKOPT = (
    *("recverr", "is_icsk", "freebind", "hdrincl", "mc_loop", "transparent", "mc_all"),
    *("nodefrag", "bind_addr_no_port", "recverr_rfc4884", "defer_connect"),
)
_TLS_VERSIONS = {0x0303: "1.2", 0x0304: "1.3"}
_TLS_CIPHERS = {51: "aes-gcm-128", 52: "aes-gcm-256"}
_TLS_CONF = {1: "none", 2: "sw", 3: "hw", 4: "hw-record"}
_MPTCP_FLAGS = "MmJjBbecv"
_SEQUENCES = ("write_seq", "snd_una", "rcv_nxt")
_RING_WORDS = {
    "blk_size": "block_size",
    "blk_nr": "block_nr",
    "frm_size": "frame_size",
    "frm_nr": "frame_nr",
    "tmo": "retire_tmo",
}
_FANOUTS = ("hash", "lb", "cpu", "roll", "random", "qm")
_PACKET_FLAGS = ("running", "auxdata", "origdev", "vnethdr", "loss")


def oldest(pids: Iterable[int]) -> int:
    """Return the process that was started first; of two in one clock tick the smaller number."""

    def started(pid: int) -> tuple[int, int]:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[19]), pid

    return min(pids, key=started)


def _timer_text(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    text = ""
    if minutes:
        rest = 0
        text = f"{minutes}min"
        seconds = 0 if minutes > 9 else seconds
    if seconds:
        rest = 0 if seconds > 9 else rest
        text += f"{seconds}." if rest else f"{seconds}sec"
    return text + (f"{rest:03}ms" if rest else "")


def _signed(value: int) -> str:
    """Print as ss does what the kernel gives unsigned and ss keeps in an int."""
    return str((value + 0x80000000) % 0x100000000 - 0x80000000)


def _whole(row: Recorded, column: str) -> int:
    value = row.get(column)
    assert value is None or isinstance(value, int), (column, value)
    return int(value or 0)


def _thousandth(value: int) -> str:
    return f"{value / 1000:g}"


def _bits(rate: float) -> str:
    return f"{rate * 8.0:.0f}"


@dataclass(frozen=True)
class Oracle:
    """The ss of this machine: its release, and the cgroups it can name."""

    command: str
    release: tuple[int, int]
    cgroups: Mapping[int, str]

    @classmethod
    def installed(cls) -> Oracle | None:
        """Return the ss of this machine, None if there is none."""
        command = shutil.which("ss")
        if command is None:
            return None
        text = subprocess.run([command, "-V"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"iproute2-(\d+)\.(\d+)", text)
        if found is None:
            raise OracleError(f"unknown release of ss: {text!r}")
        return cls(command, (int(found[1]), int(found[2])), _cgroups())

    def run(self, *options: str, dump: Path | None = None) -> list[SsRow]:
        """Run ss with these options and those of ALWAYS, on the kernel or a dump (TCPDIAG_FILE)."""
        return parse(self.text(*options, dump=dump))

    def text(self, *options: str, dump: Path | None = None) -> str:
        """Return what ss prints."""
        environment = {key: text for key, text in os.environ.items() if key != "COLUMNS"}
        if dump is not None:
            environment["TCPDIAG_FILE"] = str(dump)
        done = subprocess.run(
            [self.command, *ALWAYS, *options],
            capture_output=True,
            env=environment,
            text=True,
            errors="backslashreplace",
        )
        if done.returncode:
            raise OracleError(f"ss {' '.join(options)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def prints(self, row: Recorded) -> SsRow:
        """Return what ss prints for a recorded row, ``users`` left out."""
        match row["family"]:
            case "unix":
                return self._prints_unix(row)
            case "packet":
                return self._prints_packet(row)
            case "netlink":
                return self._prints_netlink(row)
        if row["netid"] == "raw" and _whole(row, "cookie") < 0:
            return self._prints_head(row)  # ss read it from /proc as well, and shows no more
        if row["netid"] == "mptcp":
            return self._prints_multipath(row)
        printed = self._prints_head(row) | self._prints_details(row) | self._prints_options(row)
        printed |= self._prints_memory(row)
        if row.get("rto_us") is not None:
            printed |= self._prints_internals(row)
        if row.get("md5_keys"):
            printed["md5_keys"] = str(row["md5_keys"])
        return printed | self._prints_upper_layer(row)

    def disagreements(self, ss: SsRow, recorded: Recorded) -> list[str]:
        """Say in which columns a recorded row is not what ss printed at that very moment."""
        return self.disagreements_between(ss, ss, recorded, elapsed_ms=0)

    def disagreements_between(
        self, before: SsRow, after: SsRow, recorded: Recorded, *, elapsed_ms: float
    ) -> list[str]:
        """Say in which columns a recorded row is not what ss printed before, after, or between.

        A number may lie between the two, the clocks among them. ``elapsed_ms`` is the time from
        before to after: if the socket sent or received something in it, its clocks were set back,
        may have run as long since, and a timer that was set anew is not compared.
        """
        expected = self.prints(recorded)
        found = [
            f"{key}: recorded {recorded.get(key)!r}, which ss would print as "
            f"{expected.get(key)!r}, but it printed {_both(before, after, key)}"
            for key in sorted((expected.keys() | before.keys() | after.keys()) - {USERS})
            if not self._agrees(key, before, after, expected, recorded, elapsed_ms)
        ]
        return found + self._users_disagree(before, after, recorded)

    def _agrees(
        self,
        key: str,
        before: SsRow,
        after: SsRow,
        expected: SsRow,
        recorded: Recorded,
        elapsed_ms: float,
    ) -> bool:
        text = expected.get(key)
        if text in (before.get(key), after.get(key)):
            return True
        if key in SINCE and self.release < SINCE[key] and key not in before.keys() | after.keys():
            return True
        if key == "expires_ms":  # set anew meanwhile, it may have come to the same value
            return self._timer_agrees(before, after, recorded)
        if before.get(key) == after.get(key) and key not in CLOCKS:
            return False
        low, high = _number(before.get(key)), _number(after.get(key))
        number = _number(text)
        if low is None or high is None or number is None:
            return False
        if key in CLOCKS and any(before.get(one) != after.get(one) for one in _STIRRED):
            return 0 <= number <= low + elapsed_ms
        return min(low, high) <= number <= max(low, high)

    def _timer_agrees(self, before: SsRow, after: SsRow, recorded: Recorded) -> bool:
        if not {"timer", "expires_ms"} <= before.keys() & after.keys():
            return before.get("timer") != after.get("timer")
        first, last = timer_range(before["expires_ms"]), timer_range(after["expires_ms"])
        rearmed = any(before.get(key) != after.get(key) for key in ("timer", "retrans", "segs_out"))
        if rearmed or last[0] > first[1]:
            return recorded.get("timer") is not None
        return last[0] <= _whole(recorded, "expires_ms") <= first[1]

    def _users_disagree(self, before: SsRow, after: SsRow, recorded: Recorded) -> list[str]:
        if "pid" not in recorded:  # owners were not recorded
            return []
        if recorded.get("family") == "netlink":  # ss names no holders of these
            return []
        pid, fd, comm = recorded["pid"], recorded.get("fd"), recorded.get("comm")
        problems: list[str] = []
        for ss in (before, after):
            seen = users(ss)
            pids = {user for _, user, _ in seen}
            problems = []
            if not seen:
                if pid is not None and recorded.get("owner_by") in (None, "fd"):
                    problems.append(f"users: recorded {comm!r} {pid}, ss printed none")
            elif (comm, pid, fd) not in seen:
                problems.append(f"users: recorded {(comm, pid, fd)}, ss printed {seen}")
            else:
                if fd != min(number for _, user, number in seen if user == pid):
                    problems.append(f"fd: recorded {fd}, not the lowest of {seen}")
                if pid != oldest(pids):
                    problems.append(f"pid: recorded {pid}, the oldest of {pids} is {oldest(pids)}")
                if recorded.get("holders") != len(pids):
                    problems.append(f"holders: recorded {recorded.get('holders')}, are {len(pids)}")
            if not problems:
                return []
        return problems

    def _prints_unix(self, row: Recorded) -> SsRow:
        printed = {
            "family": "unix",
            "netid": str(row["netid"]),
            "state": str(row["state"]),
            "recv_q": _signed(_whole(row, "recv_q")),
            "send_q": _signed(_whole(row, "send_q")),
            "local_addr": "*" if row.get("local_addr") is None else str(row["local_addr"]),
            "inode": _signed(_whole(row, "inode")),
            "peer_inode": _signed(_whole(row, "peer_inode")),
        }
        if row.get("shutdown") is not None:
            printed["shutdown"] = ARROWS[_whole(row, "shutdown") & 3]
        if row.get("vfs_inode") is not None:
            device = _whole(row, "vfs_dev")
            printed["vfs_inode"] = str(row["vfs_inode"])
            # ss takes the kernel's number of the device for glibc's
            printed["vfs_dev"] = f"{os.major(device)}/{os.minor(device)}"
        if row["state"] == "LISTEN":
            printed["icons"] = str(row.get("icons") or "")
        return printed | self._prints_memory(row)

    def _prints_packet(self, row: Recorded) -> SsRow:
        printed = {name: str(row[name]) for name in ("family", "netid", "state", "local_addr")}
        printed |= {name: str(_whole(row, name)) for name in ("recv_q", "send_q", "inode")}
        printed["cookie"] = f"{_whole(row, 'cookie'):x}"
        if row.get("uid"):
            printed["uid"] = str(row["uid"])
        if row.get("interface") is not None:
            printed["interface"] = _interface(row)
        details = _details(row)
        printed["packet_version"] = str(details["version"])
        printed["packet_copy_thresh"] = str(details["copy_thresh"])
        names = [name for bit, name in enumerate(_PACKET_FLAGS) if details["flags"] >> bit & 1]
        printed["packet_flags"] = f" {'|'.join(names) or '0'} "
        for way in ("rx", "tx"):
            if ring := details.get(f"{way}_ring"):
                numbers = [f"{word}:{ring[name]}" for word, name in _RING_WORDS.items()]
                numbers.append(f"features:{ring['features']:#x}")
                printed[f"packet_ring_{way}"] = ",".join(numbers)
        if "fanout" in details:
            number, kind = details["fanout"] & 0xFFFF, details["fanout"] >> 16
            printed["packet_fanout"] = f"id:{number},type:{_FANOUTS[kind]}"
        return printed | self._prints_memory(row)

    def _prints_netlink(self, row: Recorded) -> SsRow:
        printed = {name: str(row[name]) for name in ("family", "netid", "state", "local_addr")}
        printed |= {name: str(_whole(row, name)) for name in ("recv_q", "send_q", "local_id")}
        groups = sum(1 << group - 1 for group in _details(row).get("groups", []))
        printed["netlink_groups"] = f"0x{groups & 0xFFFFFFFF:08x}"
        return printed | self._prints_memory(row)

    def _prints_multipath(self, row: Recorded) -> SsRow:
        printed = self._prints_head(row) | self._prints_details(row) | self._prints_options(row)
        details = _details(row)
        flags = details.get("flags", 0)
        for bit, name in ((1, "mptcpi_fallback"), (2, "mptcpi_remote_key")):
            if flags & bit:
                printed[name] = ""
        for name in MULTIPATH_NUMBERS:
            value = details.get(name)
            if value:
                in_hex = name == "token" or (name in _SEQUENCES and self.release < (6, 6))
                printed[f"mptcpi_{name}"] = f"{value % 2**64:x}" if in_hex else str(value)
        return printed | self._prints_memory(row)

    def _prints_head(self, row: Recorded) -> SsRow:
        printed = {name: str(row[name]) for name in ("family", "netid", "state")}
        printed |= {name: _signed(_whole(row, name)) for name in ("recv_q", "send_q")}
        for side in ("local", "peer"):
            address = str(row[f"{side}_addr"])
            any6 = address == "::" and not row.get("v6only")
            printed[f"{side}_addr"] = "*" if any6 else address
            printed[f"{side}_port"] = str(row[f"{side}_port"] or "*")
        if row.get("interface") is not None:
            printed["interface"] = _interface(row)
        timer = row.get("timer")
        if timer is not None:
            later = timer == "delack" and self.release < (7, 1)
            printed["timer"] = "unknown" if later else str(timer)
            text = _timer_text(_whole(row, "expires_ms"))
            if self.release >= (6, 11):
                text = re.sub(r"(\d\.\d+)ms$", r"\1sec", text)
            printed["expires_ms"] = text
            printed["retrans"] = str(row["retrans"])
        return printed

    def _prints_details(self, row: Recorded) -> SsRow:
        printed = {"inode": str(row["inode"]), "cookie": f"{kernel_cookie(row):x}"}
        if row.get("uid"):
            printed["uid"] = str(row["uid"])
        if row.get("mark"):
            printed["mark"] = f"{_whole(row, 'mark'):x}"
        if row.get("cgroup_id"):
            number = _whole(row, "cgroup_id")
            printed["cgroup_id"] = self.cgroups.get(number, f"unreachable:{number:x}")
        if row["family"] == "inet6" and row.get("v6only") is not None:
            printed["v6only"] = str(_whole(row, "v6only"))
        if row.get("shutdown") is not None:
            printed["shutdown"] = ARROWS[_whole(row, "shutdown") & 3]
        return printed

    def _prints_options(self, row: Recorded) -> SsRow:
        printed: SsRow = {}
        for column in ("tos", "tclass", "class_id"):
            if row.get(column) is not None:
                value = _whole(row, column)
                printed[column] = f"{value:#x}" if value else "0"
        if row.get("sockopt") is not None:
            bits = _whole(row, "sockopt")
            names = [name for bit, name in enumerate(_SOCKOPT) if bits >> bit & 1]
            printed["sockopt"] = "".join(f" {name}" for name in names)
        return printed

    def _prints_memory(self, row: Recorded) -> SsRow:
        skmem = (
            *("rmem_alloc", "rcvbuf", "wmem_alloc", "sndbuf", "fwd_alloc", "wmem_queued"),
            *("optmem", "backlog", "drops"),
        )
        mem = ("rmem", "wmem", "fmem", "tmem")
        columns: tuple[str, ...] = skmem if row.get("rmem_alloc") is not None else mem
        return {
            name: str(_whole(row, name) % 0x100000000)  # ss prints the kernel's int unsigned
            for name in columns
            if row.get(name) is not None
        }

    def _prints_internals(self, row: Recorded) -> SsRow:
        options = _whole(row, "options")
        printed = {word: "" for bit, word in OPTION_WORDS.items() if options & bit}
        if row.get("cong"):
            printed["cong"] = str(row["cong"])[:15]
        if options & 4:
            printed |= {name: str(_whole(row, name)) for name in ("snd_wscale", "rcv_wscale")}
        if row["rto_us"] and row["rto_us"] != 3_000_000:
            printed["rto_us"] = _thousandth(_whole(row, "rto_us"))
        if row.get("rtt_us"):
            printed["rtt_us"] = _thousandth(_whole(row, "rtt_us"))
            printed["rttvar_us"] = _thousandth(_whole(row, "rttvar_us"))
        for column in ("ato_us", "rcv_rtt_us", "min_rtt_us"):
            if row.get(column):
                printed[column] = _thousandth(_whole(row, column))
        for column in ("snd_mss", "rcv_mss", "advmss", "rcv_space", "reord_seen"):
            if row.get(column):
                printed[column] = _signed(_whole(row, column))
        plain = ("backoff", "pmtu", "snd_cwnd", "notsent_bytes")
        clocks = ("last_data_sent_ms", "last_data_recv_ms", "last_ack_recv_ms")
        for column in (*plain, *clocks, *PLAIN_UNSIGNED):
            if row.get(column):
                printed[column] = str(row[column])
        if row["state"] == "LISTEN":
            printed.pop("sacked", None)
        if 0 < _whole(row, "snd_ssthresh") < 0xFFFF:
            printed["snd_ssthresh"] = str(row["snd_ssthresh"])
        if row["reordering"] != 3:
            printed["reordering"] = _signed(_whole(row, "reordering"))
        if row.get("tcpi_retrans") or row.get("total_retrans"):
            printed |= {name: str(row[name]) for name in ("tcpi_retrans", "total_retrans")}
        if row.get("delivery_rate_app_limited"):
            printed["delivery_rate_app_limited"] = ""
        return printed | self._prints_rates(row) | self._prints_congestion(row)

    def _prints_rates(self, row: Recorded) -> SsRow:
        printed: SsRow = {}
        rtt = float(_whole(row, "rtt_us"))
        if row.get("vegas_enabled") and _whole(row, "vegas_rtt_us") not in (0, 0x7FFFFFFF):
            rtt = float(_whole(row, "vegas_rtt_us"))
        if rtt and row["snd_mss"] and row["snd_cwnd"]:
            speed = float(_whole(row, "snd_cwnd")) * float(_whole(row, "snd_mss"))
            printed[SEND] = f"{speed * 8000000.0 / rtt:.0f}"
        if row.get("pacing_rate"):
            printed["pacing_rate"] = _bits(_whole(row, "pacing_rate"))
            if row.get("max_pacing_rate"):
                printed["max_pacing_rate"] = _bits(_whole(row, "max_pacing_rate"))
        if row.get("delivery_rate"):
            printed["delivery_rate"] = _bits(_whole(row, "delivery_rate"))
        busy = _whole(row, "busy_time_us")
        if busy:
            printed["busy_time_us"] = str(busy // 1000)
            for column in ("rwnd_limited_us", "sndbuf_limited_us"):
                limited = _whole(row, column)
                if limited:
                    printed[column] = f"{limited // 1000}ms({100.0 * limited / busy:.1f}%)"
        return printed

    def _prints_congestion(self, row: Recorded) -> SsRow:
        printed: SsRow = {}
        if row.get("dctcp_enabled"):
            columns = ("dctcp_ce_state", "dctcp_alpha", "dctcp_ab_ecn", "dctcp_ab_tot")
            printed |= {name: str(row[name]) for name in columns}
        elif row.get("dctcp_enabled") is not None:
            printed["dctcp_enabled"] = "fallback_mode"
        if row.get("bbr_bw") is not None:
            printed["bbr_bw"] = _bits(_whole(row, "bbr_bw"))
            printed["bbr_min_rtt_us"] = _thousandth(_whole(row, "bbr_min_rtt_us"))
            for column in ("bbr_pacing_gain", "bbr_cwnd_gain"):
                if row.get(column):
                    printed[column] = f"{_whole(row, column) / 256:g}"
        return printed

    def _prints_upper_layer(self, row: Recorded) -> SsRow:
        printed: SsRow = {}
        if row.get("ulp") is not None:
            printed["ulp"] = str(row["ulp"])
        if row.get("tls_version") is not None:
            version = _whole(row, "tls_version")
            printed["tls_version"] = _TLS_VERSIONS.get(version, f"unknown({version})")
        if row.get("tls_cipher") in _TLS_CIPHERS:
            printed["tls_cipher"] = _TLS_CIPHERS[_whole(row, "tls_cipher")]
        for column in ("tls_rxconf", "tls_txconf"):
            if row.get(column) is not None:
                conf = _whole(row, column)
                printed[column] = _TLS_CONF.get(conf, f"unknown({conf})")
        for column in ("tls_zc_ro_tx", "tls_rx_no_pad"):
            if row.get(column):
                printed[column] = ""
        if row.get("mptcp_flags"):
            flags = _whole(row, "mptcp_flags")
            letters = [letter for bit, letter in enumerate(_MPTCP_FLAGS) if flags >> bit & 1]
            printed["mptcp_flags"] = "".join(letters)
        pairs = ("mptcp_token_rem", "mptcp_token_loc", "mptcp_id_rem", "mptcp_id_loc")
        if all(row.get(column) is not None for column in pairs):
            printed |= {column: f"{_whole(row, column):04x}" for column in pairs[:2]}
            printed |= {column: str(row[column]) for column in pairs[2:]}
        decimal = self.release >= (6, 6)
        for column in ("map_seq", "map_sfseq", "ssn_offset", "map_datalen"):
            value = row.get(f"mptcp_{column}")
            if isinstance(value, int):
                value &= 0xFFFFFFFFFFFFFFFF
                printed[f"mptcp_{column}"] = str(value) if decimal else f"{value:x}"
        return printed


def _both(before: SsRow, after: SsRow, key: str) -> str:
    if before.get(key) == after.get(key):
        return repr(before.get(key))
    return f"{before.get(key)!r}, then {after.get(key)!r}"


def _number(text: str | None) -> float | None:
    """Read a number of ss; a word that ss left out counts as 0."""
    if text is None:
        return 0.0
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?:ms)?(?:\(.*%\))?", text)
    return float(found[1]) if found else None


def _interface(row: Recorded) -> str:
    if row.get("dev") is not None:
        return str(row["dev"])
    index = _whole(row, "interface")
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"if{index}"


def kernel_cookie(row: Recorded) -> int:
    """Return the cookie as the kernel gave it: a connection may have that of its listener."""
    details = row.get("details")
    known = details if isinstance(details, dict) else _details(row) if details else {}
    return int(known["cookie"]) if "cookie" in known else _whole(row, "cookie")


def _details(row: Recorded) -> dict[str, Any]:
    """Return what the column ``details`` holds."""
    found: dict[str, Any] = json.loads(str(row.get("details") or "{}"))
    return found


def _cgroups() -> dict[int, str]:
    """Map the identity of every cgroup v2 to its path, as ss names it."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    names: dict[int, str] = {}
    for root in (fields[1] for fields in mounts if fields[2] == "cgroup2"):
        for directory, _, _ in os.walk(root):
            names[os.stat(directory).st_ino] = directory.removeprefix(root) or "/"
    return names
