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

from analyzer.ss import inet
from analyzer.ss.view import OTHERS, address, group_of
from analyzer.ss.words import Names, Options, signed
from tests.recorder.support.ss_words import (
    UNPARSED,
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

_ADDRESSES = ("local_addr", "peer_addr")
SHOWN = Options(
    numeric=True,
    timers=True,
    extended=True,
    memory=True,
    info=True,
    tos=True,
    sockopt=True,
    oneline=True,
)


def oldest(pids: Iterable[int]) -> int:
    """Return the process that was started first; of two in one clock tick the smaller number."""

    def started(pid: int) -> tuple[int, int]:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[19]), pid

    return min(pids, key=started)


def _whole(row: Recorded, column: str) -> int:
    value = row.get(column)
    assert value is None or isinstance(value, int), (column, value)
    return int(value or 0)


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
        """Return what ss prints for a recorded row, ``users`` left out: what our view prints."""
        line = self.line(row)
        try:
            (printed,) = parse(line)
        except OracleError:
            return {UNPARSED: line}
        printed["family"] = str(row["family"])
        if row["family"] == "packet":  # which ss is asked for by name
            printed["local_addr"] = str(row["local_addr"])
        if row.get("md5_keys"):
            printed["md5_keys"] = str(row["md5_keys"])
        return printed | self._since(row, printed)

    def line(self, row: Recorded, options: Options = SHOWN) -> str:
        """Return the line of our view, without its layout."""
        known = dict(row)
        if row.get("cgroup_id"):
            known["cgroup"] = self.cgroups.get(_whole(row, "cgroup_id"))
        if row.get("interface") is not None:
            known["dev"] = _interface(row)
        return _line(known, options)

    def _since(self, row: Recorded, printed: SsRow) -> SsRow:
        """Return what a later ss prints otherwise than 6.1, which our view imitates."""
        later: SsRow = {}
        for name in ("rcv_wnd", "rehash"):
            if row.get(name):
                later[name] = str(row[name])
        if _whole(row, "options") & 64 and row.get("rto_us") is not None:
            later["usec_ts"] = ""
        if row.get("tls_rx_no_pad"):
            later["tls_rx_no_pad"] = ""
        if row["netid"] == "mptcp":
            later |= self._multipath_since(_details(row))
        if self.release >= (6, 6):
            for name in ("map_seq", "map_sfseq", "ssn_offset", "map_datalen"):
                if f"mptcp_{name}" in printed:
                    later[f"mptcp_{name}"] = str(int(printed[f"mptcp_{name}"], 16))
        if self.release >= (6, 11) and "expires_ms" in printed:
            later["expires_ms"] = re.sub(r"(\d\.\d+)ms$", r"\1sec", printed["expires_ms"])
        if self.release >= (7, 1) and row.get("timer") == "delack":
            later["timer"] = "delack"
        return later

    def _multipath_since(self, details: dict[str, Any]) -> SsRow:
        later: SsRow = {}
        for name in ("local_addr_used", "local_addr_max", "csum_enabled"):
            if details.get(name):
                later[f"mptcpi_{name}"] = str(details[name])
        if self.release >= (6, 6):
            for name in ("write_seq", "snd_una", "rcv_nxt"):
                if details.get(name):
                    later[f"mptcpi_{name}"] = str(details[name] % 2**64)
        return later

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


def _line(row: Recorded, options: Options) -> str:
    names = Names(options)
    group = group_of(str(row["netid"]))
    if group in OTHERS:
        ends_of, words_of = OTHERS[group]
        local, local_port, peer, peer_port = ends_of(row, names)
        netid, words = str(row["netid"]), words_of(row, options)
    else:
        v6only = bool(row.get("v6only"))
        local, peer = (f"{address(row.get(name), v6only, names)}:" for name in _ADDRESSES)
        if row.get("interface") is not None:
            local = f"{local[:-1]}%{row['dev']}:"
        local_port, peer_port = (
            names.port(_whole(row, name), 0) for name in ("local_port", "peer_port")
        )
        netid, words = inet.netid(row), inet.words(row, options)
    queues = " ".join(str(signed(_whole(row, name))) for name in ("recv_q", "send_q"))
    return f"{netid} {row['state']} {queues} {local}{local_port} {peer}{peer_port}{words}"


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
    for root in (words[1] for words in mounts if words[2] == "cgroup2"):
        for directory, _, _ in os.walk(root):
            names[os.stat(directory).st_ino] = directory.removeprefix(root) or "/"
    return names
