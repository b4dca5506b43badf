"""Which rows are one socket, where a log does not say: a cookie for each run of presence.

ss -e prints the kernel's cookie. Without it a socket is the same as in the sample before that
shows its table if its kind, its ends and its inode are, and it did not begin anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from recorder.imports.rows import Row

_FROM_THE_START = frozenset({"SYN-SENT", "SYN-RECV", "ESTAB"})
_LATE = frozenset({"FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSE-WAIT", "LAST-ACK", "CLOSING"})
_MADE = 1 << 63
"""No cookie of the kernel has this bit."""
_ONLY_GROW = ("bytes_acked", "bytes_received", "segs_in", "segs_out")

Key = tuple[object, ...]


class Identities:
    """Gives cookies, sample after sample."""

    def __init__(self) -> None:
        self._before: dict[str, dict[Key, tuple[int, Row]]] = {}
        self._known: dict[str, set[int]] = {}

    def give(self, step: str, rows: Iterable[Row], sample: int) -> int:
        """Give each row of a table its ``cookie``; tell how many TCP connections are new."""
        before = self._before.get(step)
        known = self._known.get(step, set())
        now: dict[Key, tuple[int, Row]] = {}
        seen: set[int] = set()
        opened = 0
        for row in rows:
            cookie = row.get("cookie")
            if not isinstance(cookie, int):
                cookie = self._made(row, before or {}, now, sample)
                row["cookie"] = cookie
            seen.add(cookie)
            is_connection = row.get("state") not in ("LISTEN", "UNCONN", "TIME-WAIT")
            opened += before is not None and is_connection and cookie not in known
        self._before[step] = now
        self._known[step] = seen
        return opened

    @staticmethod
    def _made(
        row: Row, before: dict[Key, tuple[int, Row]], now: dict[Key, tuple[int, Row]], sample: int
    ) -> int:
        ends = _key(row)
        place = 0
        while (*ends, place) in now:  # several listen on one port, say
            place += 1
        key = (*ends, place)
        former = before.get(key)
        if former is not None and not _is_another(former[1], row):
            cookie = former[0]
        else:
            text = repr((key, sample)).encode("utf-8", "backslashreplace")
            cookie = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) | _MADE
        now[key] = (cookie, row)
        return cookie


def _key(row: Row) -> Key:
    if row.get("family") == "unix":
        return (row.get("netid"), row.get("inode"))
    names = ("netid", "local_addr", "local_port", "local_id", "peer_addr", "peer_port", "peer_id")
    return (*(row.get(name) for name in names), row.get("dev"))


def _is_another(former: Row, row: Row) -> bool:
    """Whether a socket began anew with the same ends."""
    if former.get("state") in _LATE and row.get("state") in _FROM_THE_START:
        return True
    inodes = former.get("inode"), row.get("inode")
    if all(inodes) and inodes[0] != inodes[1]:
        return True
    for name in _ONLY_GROW:
        was, is_ = former.get(name), row.get(name)
        if isinstance(was, int) and isinstance(is_, int) and is_ < was:
            return True
    return False
